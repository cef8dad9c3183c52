/* seal.h: what two ranks that share a secret tell each other where strangers may listen.
 *
 *     sealed message   | nonce 12 | ciphertext, as long as the text | tag 16 |    AES-256-GCM
 *     mask             16 bytes that only holders of the secret can compute, one per counter;
 *                      exclusive-or with it hides a short value at the cost of one block cipher
 *
 * Keys are HMACs of the secret under a label, so one secret may serve several uses. (OpenSSL.) */
#ifndef BASE_SEAL_H
#define BASE_SEAL_H

#include "base/status.h"

#define SEAL_OVERHEAD 28 /* bytes by which a sealed message is longer than its text */
#define SEAL_MASK_LEN 16

struct seal; /* one thread at a time */

/* Keys from the secret and the label. Errors TUTTI_ERR_NOMEM, _SYSTEM (crypto.h). */
tutti_status seal_new(const uint8_t *secret, size_t secret_len, const char *label,
                      struct seal **seal);
/* Wipes the keys; NULL allowed. */
void seal_free(struct seal *seal);
/* Seals len bytes of text into out, len + SEAL_OVERHEAD bytes; out must not overlap the text. */
tutti_status seal_close(struct seal *seal, const void *text, size_t len, uint8_t *out);
/* Opens a sealed message of sealed_len bytes into text, sealed_len - SEAL_OVERHEAD bytes.
 * TUTTI_ERR_AUTH when it was changed or made with another secret. */
tutti_status seal_open(struct seal *seal, const uint8_t *sealed, size_t sealed_len, void *text);
/* The mask for (from, to, counter). Using one twice reveals the difference of what it hid. */
tutti_status seal_mask(struct seal *seal, uint32_t from, uint32_t to, uint64_t counter,
                       uint8_t mask[SEAL_MASK_LEN]);

#endif
