/* auth.h: mutual proof of a shared job secret: each side sends 32 random bytes, each answers with
 * HMAC-SHA256(secret, role || job id || both challenges), compared in constant time. Without a
 * secret the same messages flow with an empty key, so that a stray client is still told apart by
 * the job id. The state machine is pure: the caller moves the bytes. (OpenSSL for the hash.) */
#ifndef BASE_AUTH_H
#define BASE_AUTH_H

#include "base/status.h"

#define AUTH_HELLO_LEN 64 /* magic 8, version 4, role 4, job id 16, challenge 32 */
#define AUTH_PROOF_LEN 32

struct auth {
    uint8_t key[32];
    uint8_t job[16];
    uint8_t mine[32], theirs[32];
    bool server, said_hello, took_hello;
};

/* key from the settings' secret (empty secret: a fixed key); job names the rendezvous. Whatever
 * computes a hash fails with TUTTI_ERR_SYSTEM once libcrypto is gone (crypto.h). */
tutti_status auth_start(struct auth *auth, const char *secret, const uint8_t job[16], bool server);
tutti_status auth_hello(struct auth *auth, uint8_t out[AUTH_HELLO_LEN]);
/* Reads the other side's hello: TUTTI_ERR_PROTOCOL (not Tutti, other version), TUTTI_ERR_AUTH
 * (other job). */
tutti_status auth_take_hello(struct auth *auth, const uint8_t in[AUTH_HELLO_LEN]);
/* Once both hellos were exchanged; TUTTI_ERR_NOMEM. */
tutti_status auth_proof(const struct auth *auth, uint8_t out[AUTH_PROOF_LEN]);
/* TUTTI_ERR_AUTH when the other side does not know the secret. */
tutti_status auth_check_proof(const struct auth *auth, const uint8_t in[AUTH_PROOF_LEN]);
/* The job id of a rendezvous that has a name: the start of the name's SHA-256. */
tutti_status auth_job_id(const char *name, uint8_t job[16]);
/* Wipes the key; to be called once the proof was checked, or instead of it. */
void auth_end(struct auth *auth);
/* Random bytes from the kernel. */
tutti_status auth_random(void *out, size_t len);

#endif
