/* auth.c: two sides prove to each other that they know the job secret, without sending it.
 * Challenge and response over a keyed hash (HMAC-SHA256, RFC 2104), both directions:
 *
 *     hello   magic 8 | version 4 | role 4 | job 16 | challenge 32      each way, any order
 *     proof   HMAC(key, "tutti proof" | version | role | job |
 *                       client's challenge | server's challenge)        each way, any order
 *
 * Each proof covers its sender's role, so a message sent back to where it came from proves nothing
 * (reflection), and both fresh challenges, so an old conversation proves nothing (replay). The job
 * id keeps a client that strayed in from another job apart even when both have no secret. The key
 * is itself an HMAC of the secret under a fixed label, so its length is fixed and a secret used
 * elsewhere as an HMAC key does not produce proofs here. This proves who connected; it does not
 * encrypt what follows.
 * Invariant: no proof is made or believed before both hellos were exchanged. */
#include "base/auth.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/crypto.h"

#define AUTH_VERSION 1u

static const uint8_t magic[8] = {'T', 'U', 'T', 'T', 'I', '\r', '\n', 0};
static const char key_label[] = "tutti job secret";
static const char proof_label[] = "tutti proof";

enum role { ROLE_CLIENT = 1, ROLE_SERVER = 2 };

static void put_u32(uint8_t out[4], uint32_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t in[4])
{
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

static tutti_status keyed_hash(const void *key, size_t key_len, const void *data, size_t len,
                               uint8_t out[AUTH_PROOF_LEN])
{
    unsigned out_len = AUTH_PROOF_LEN;
    tutti_status status = crypto_enter();
    if (status != TUTTI_OK)
        return status;
    bool good = HMAC(EVP_sha256(), key, (int)key_len, data, len, out, &out_len) != NULL;
    crypto_leave();
    if (!good)
        return fail(TUTTI_ERR_NOMEM, "libcrypto cannot compute an HMAC-SHA256");
    must(out_len == AUTH_PROOF_LEN);
    return TUTTI_OK;
}

tutti_status auth_random(void *out, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t got = getrandom((char *)out + done, len - done, 0);
        if (got < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "random bytes from the kernel");
        if (got > 0)
            done += (size_t)got;
    }
    return TUTTI_OK;
}

tutti_status auth_job_id(const char *name, uint8_t job[16])
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    tutti_status status = crypto_enter();
    if (status != TUTTI_OK)
        return status;
    bool good = EVP_Digest(name, strlen(name), digest, &len, EVP_sha256(), NULL) == 1;
    crypto_leave();
    if (!good)
        return fail(TUTTI_ERR_NOMEM, "libcrypto cannot compute a SHA-256");
    must(len >= 16);
    memcpy(job, digest, 16);
    return TUTTI_OK;
}

tutti_status auth_start(struct auth *auth, const char *secret, const uint8_t job[16], bool server)
{
    *auth = (struct auth){.server = server};
    memcpy(auth->job, job, sizeof auth->job);
    tutti_status status = auth_random(auth->mine, sizeof auth->mine);
    if (status != TUTTI_OK)
        return status;
    return keyed_hash(key_label, sizeof key_label, secret, strlen(secret), auth->key);
}

void auth_end(struct auth *auth)
{
    OPENSSL_cleanse(auth, sizeof *auth);
}

tutti_status auth_hello(struct auth *auth, uint8_t out[AUTH_HELLO_LEN])
{
    memcpy(out, magic, sizeof magic);
    put_u32(out + 8, AUTH_VERSION);
    put_u32(out + 12, auth->server ? ROLE_SERVER : ROLE_CLIENT);
    memcpy(out + 16, auth->job, sizeof auth->job);
    memcpy(out + 32, auth->mine, sizeof auth->mine);
    auth->said_hello = true;
    return TUTTI_OK;
}

tutti_status auth_take_hello(struct auth *auth, const uint8_t in[AUTH_HELLO_LEN])
{
    if (memcmp(in, magic, sizeof magic) != 0)
        return fail(TUTTI_ERR_PROTOCOL, "the peer does not speak Tutti's protocol");
    if (get_u32(in + 8) != AUTH_VERSION)
        return fail(TUTTI_ERR_PROTOCOL,
                    "the peer speaks version %u of Tutti's protocol, this side speaks %u: use one "
                    "version on all hosts",
                    get_u32(in + 8), AUTH_VERSION);
    uint32_t expected = auth->server ? ROLE_CLIENT : ROLE_SERVER;
    if (get_u32(in + 12) != expected || CRYPTO_memcmp(in + 32, auth->mine, 32) == 0)
        return fail(TUTTI_ERR_AUTH, "the peer sent this side's own hello back");
    if (CRYPTO_memcmp(in + 16, auth->job, sizeof auth->job) != 0)
        return fail(TUTTI_ERR_AUTH, "the peer belongs to another job");
    memcpy(auth->theirs, in + 32, sizeof auth->theirs);
    auth->took_hello = true;
    return TUTTI_OK;
}

/* The proof that a side in the given role sends. */
static tutti_status compute_proof(const struct auth *auth, enum role role,
                                  uint8_t out[AUTH_PROOF_LEN])
{
    must(auth->said_hello && auth->took_hello);
    uint8_t text[sizeof proof_label + 4 + 4 + 16 + 32 + 32], *at = text;
    memcpy(at, proof_label, sizeof proof_label);
    at += sizeof proof_label;
    put_u32(at, AUTH_VERSION);
    put_u32(at + 4, role);
    memcpy(at + 8, auth->job, 16);
    memcpy(at + 24, auth->server ? auth->theirs : auth->mine, 32);
    memcpy(at + 56, auth->server ? auth->mine : auth->theirs, 32);
    return keyed_hash(auth->key, sizeof auth->key, text, sizeof text, out);
}

tutti_status auth_proof(const struct auth *auth, uint8_t out[AUTH_PROOF_LEN])
{
    return compute_proof(auth, auth->server ? ROLE_SERVER : ROLE_CLIENT, out);
}

tutti_status auth_check_proof(const struct auth *auth, const uint8_t in[AUTH_PROOF_LEN])
{
    uint8_t expected[AUTH_PROOF_LEN];
    tutti_status status = compute_proof(auth, auth->server ? ROLE_CLIENT : ROLE_SERVER, expected);
    if (status != TUTTI_OK)
        return status;
    bool same = CRYPTO_memcmp(expected, in, sizeof expected) == 0;
    OPENSSL_cleanse(expected, sizeof expected);
    if (!same)
        return fail(TUTTI_ERR_AUTH, "the peer does not know this job's secret: TUTTI_SECRET or "
                                    "TUTTI_SECRET_FILE must be the same on every rank");
    return TUTTI_OK;
}
