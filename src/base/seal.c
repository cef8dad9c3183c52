/* seal.c: authenticated encryption of short messages, and masks.
 * The idea: messages get a random nonce each (96 bits; a communicator sends a few per link, far
 * from the 2^32 at which random nonces begin to collide). Masks are single blocks of AES over
 * (from, to, counter), all distinct while the counter of a pair never repeats.
 * Source: NIST SP 800-38D (GCM), SP 800-38A (the block cipher as a keystream).
 * Invariant: no key leaves this file. */
#include "base/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/auth.h"
#include "base/crypto.h"

#define KEY_LEN   32
#define NONCE_LEN 12
#define TAG_LEN   16
_Static_assert(SEAL_OVERHEAD == NONCE_LEN + TAG_LEN, "what the header promises");

struct seal {
    EVP_CIPHER_CTX *close, *open, *mask;
};

static tutti_status out_of_order(const char *what)
{
    return fail(TUTTI_ERR_NOMEM, "libcrypto cannot %s", what);
}

/* HMAC-SHA256(secret, label, which). */
static bool derive(const uint8_t *secret, size_t secret_len, const char *label, const char *which,
                   uint8_t key[KEY_LEN])
{
    char text[128];
    unsigned len = KEY_LEN;
    int n = snprintf(text, sizeof text, "%s, %s", label, which);
    return n > 0 && (size_t)n < sizeof text &&
           HMAC(EVP_sha256(), secret, (int)secret_len, (const uint8_t *)text, (size_t)n, key,
                &len) != NULL;
}

static bool make_keys(struct seal *seal, const uint8_t *secret, size_t secret_len,
                      const char *label)
{
    uint8_t message[KEY_LEN], mask[KEY_LEN];
    bool good = seal->close && seal->open && seal->mask &&
                derive(secret, secret_len, label, "messages", message) &&
                derive(secret, secret_len, label, "masks", mask) &&
                EVP_EncryptInit_ex(seal->close, EVP_aes_256_gcm(), NULL, message, NULL) == 1 &&
                EVP_DecryptInit_ex(seal->open, EVP_aes_256_gcm(), NULL, message, NULL) == 1 &&
                EVP_EncryptInit_ex(seal->mask, EVP_aes_256_ecb(), NULL, mask, NULL) == 1 &&
                EVP_CIPHER_CTX_set_padding(seal->mask, 0) == 1;
    OPENSSL_cleanse(message, sizeof message);
    OPENSSL_cleanse(mask, sizeof mask);
    return good;
}

tutti_status seal_new(const uint8_t *secret, size_t secret_len, const char *label,
                      struct seal **seal)
{
    struct seal *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "no memory for the keys of %s", label);
    tutti_status status = crypto_enter();
    if (status != TUTTI_OK) {
        free(made);
        return status;
    }
    made->close = EVP_CIPHER_CTX_new();
    made->open = EVP_CIPHER_CTX_new();
    made->mask = EVP_CIPHER_CTX_new();
    bool good = make_keys(made, secret, secret_len, label);
    crypto_leave();
    if (!good) {
        seal_free(made);
        return out_of_order("derive keys with HMAC-SHA256 and AES-256");
    }
    *seal = made;
    return TUTTI_OK;
}

void seal_free(struct seal *seal)
{
    if (!seal)
        return;
    EVP_CIPHER_CTX_free(seal->close); /* wipes the key schedule */
    EVP_CIPHER_CTX_free(seal->open);
    EVP_CIPHER_CTX_free(seal->mask);
    free(seal);
}

tutti_status seal_close(struct seal *seal, const void *text, size_t len, uint8_t *out)
{
    int done = 0, rest = 0;
    tutti_status status = auth_random(out, NONCE_LEN);
    if (status != TUTTI_OK)
        return status;
    if (EVP_EncryptInit_ex(seal->close, NULL, NULL, NULL, out) != 1 ||
        EVP_EncryptUpdate(seal->close, out + NONCE_LEN, &done, text, (int)len) != 1 ||
        EVP_EncryptFinal_ex(seal->close, out + NONCE_LEN + done, &rest) != 1 ||
        EVP_CIPHER_CTX_ctrl(seal->close, EVP_CTRL_GCM_GET_TAG, TAG_LEN, out + NONCE_LEN + len) != 1)
        return out_of_order("encrypt with AES-256-GCM");
    return TUTTI_OK;
}

tutti_status seal_open(struct seal *seal, const uint8_t *sealed, size_t sealed_len, void *text)
{
    int done = 0, rest = 0;
    if (sealed_len < SEAL_OVERHEAD)
        return fail(TUTTI_ERR_AUTH, "a sealed message of %zu bytes is too short", sealed_len);
    size_t len = sealed_len - SEAL_OVERHEAD;
    uint8_t tag[TAG_LEN];
    memcpy(tag, sealed + NONCE_LEN + len, TAG_LEN);
    if (EVP_DecryptInit_ex(seal->open, NULL, NULL, NULL, sealed) != 1 ||
        EVP_CIPHER_CTX_ctrl(seal->open, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag) != 1 ||
        EVP_DecryptUpdate(seal->open, text, &done, sealed + NONCE_LEN, (int)len) != 1)
        return out_of_order("decrypt with AES-256-GCM");
    if (EVP_DecryptFinal_ex(seal->open, (uint8_t *)text + done, &rest) != 1) {
        OPENSSL_cleanse(text, len);
        return fail(TUTTI_ERR_AUTH, "a sealed message was changed on its way, or was sealed with "
                                    "another secret: TUTTI_SECRET must be the same on every rank");
    }
    return TUTTI_OK;
}

tutti_status seal_mask(struct seal *seal, uint32_t from, uint32_t to, uint64_t counter,
                       uint8_t mask[SEAL_MASK_LEN])
{
    uint8_t block[SEAL_MASK_LEN];
    int done = 0;
    memcpy(block, &from, sizeof from);
    memcpy(block + 4, &to, sizeof to);
    memcpy(block + 8, &counter, sizeof counter);
    if (EVP_EncryptUpdate(seal->mask, mask, &done, block, sizeof block) != 1 ||
        done != SEAL_MASK_LEN)
        return out_of_order("encrypt with AES-256");
    return TUTTI_OK;
}
