/* test_auth.c: the handshake with the right secret, and everything that must be refused: another
 * secret, another job, another version, garbage, one's own messages sent back, old conversations.
 * And what comes of it while the program exits. */
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/auth.h"
#include "base/clock.h"
#include "base/seal.h"
#include "tests/suite.h"

static const uint8_t job[16] = "a job of sixteen";
static const uint8_t other_job[16] = "another job, too";

struct pair {
    struct auth server, client;
    uint8_t server_hello[AUTH_HELLO_LEN], client_hello[AUTH_HELLO_LEN];
};

static void start(struct pair *pair, const char *server_secret, const char *client_secret)
{
    CU_ASSERT_EQUAL_FATAL(auth_start(&pair->server, server_secret, job, true), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(auth_start(&pair->client, client_secret, job, false), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_hello(&pair->server, pair->server_hello), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_hello(&pair->client, pair->client_hello), TUTTI_OK);
}

static void exchange(struct pair *pair)
{
    CU_ASSERT_EQUAL(auth_take_hello(&pair->server, pair->client_hello), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_take_hello(&pair->client, pair->server_hello), TUTTI_OK);
}

static tutti_status prove(const struct auth *from, const struct auth *to)
{
    uint8_t proof[AUTH_PROOF_LEN];
    CU_ASSERT_EQUAL(auth_proof(from, proof), TUTTI_OK);
    return auth_check_proof(to, proof);
}

static void test_auth_same_secret_is_accepted(void)
{
    static const char *const secrets[] = {"", "s", "a long secret \xff with bytes of every kind"};
    for (size_t i = 0; i < 3; i++) {
        struct pair pair;
        start(&pair, secrets[i], secrets[i]);
        exchange(&pair);
        CU_ASSERT_EQUAL(prove(&pair.client, &pair.server), TUTTI_OK);
        CU_ASSERT_EQUAL(prove(&pair.server, &pair.client), TUTTI_OK);
        auth_end(&pair.server);
        struct auth zero = {0};
        CU_ASSERT_EQUAL(memcmp(pair.server.key, zero.key, sizeof zero.key), 0);
        auth_end(&pair.client);
    }
}

static void test_auth_other_secret_is_refused(void)
{
    static const char *const pairs[][2] = {{"a", "b"}, {"", "b"}, {"a", ""}, {"a", "a "}};
    for (size_t i = 0; i < 4; i++) {
        struct pair pair;
        start(&pair, pairs[i][0], pairs[i][1]);
        exchange(&pair);
        CU_ASSERT_EQUAL(prove(&pair.client, &pair.server), TUTTI_ERR_AUTH);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "does not know this job's secret"));
        CU_ASSERT_EQUAL(prove(&pair.server, &pair.client), TUTTI_ERR_AUTH);
    }
}

static void test_auth_other_job_is_refused(void)
{
    struct pair pair;
    start(&pair, "", "");
    CU_ASSERT_EQUAL_FATAL(auth_start(&pair.client, "", other_job, false), TUTTI_OK);
    auth_hello(&pair.client, pair.client_hello);
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, pair.client_hello), TUTTI_ERR_AUTH);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "the peer belongs to another job");
    CU_ASSERT_EQUAL(auth_take_hello(&pair.client, pair.server_hello), TUTTI_ERR_AUTH);
}

static void test_auth_other_version_and_garbage_are_refused(void)
{
    struct pair pair;
    uint8_t hello[AUTH_HELLO_LEN];
    start(&pair, "a", "a");
    memcpy(hello, pair.client_hello, sizeof hello);
    hello[8] = 2;
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, hello), TUTTI_ERR_PROTOCOL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "version 2"));
    memset(hello, 0, sizeof hello);
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, hello), TUTTI_ERR_PROTOCOL);
    memcpy(hello, "GET / HTTP/1.1\r\n", 16);
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, hello), TUTTI_ERR_PROTOCOL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "does not speak Tutti"));
    uint64_t random = suite_seed();
    for (int i = 0; i < 1000; i++) {
        for (size_t at = 0; at < sizeof hello; at++)
            hello[at] = (uint8_t)suite_random(&random);
        CU_ASSERT_EQUAL(auth_take_hello(&pair.server, hello), TUTTI_ERR_PROTOCOL);
    }
}

static void test_auth_reflected_messages_are_refused(void)
{
    struct pair pair;
    uint8_t proof[AUTH_PROOF_LEN], hello[AUTH_HELLO_LEN];
    start(&pair, "a", "a");
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, pair.server_hello), TUTTI_ERR_AUTH);
    CU_ASSERT_EQUAL(auth_take_hello(&pair.client, pair.client_hello), TUTTI_ERR_AUTH);
    /* The server's own challenge under the other role: still refused. */
    memcpy(hello, pair.client_hello, sizeof hello);
    memcpy(hello + 32, pair.server_hello + 32, 32);
    CU_ASSERT_EQUAL(auth_take_hello(&pair.server, hello), TUTTI_ERR_AUTH);
    exchange(&pair);
    CU_ASSERT_EQUAL(auth_proof(&pair.server, proof), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_check_proof(&pair.server, proof), TUTTI_ERR_AUTH);
    CU_ASSERT_EQUAL(auth_proof(&pair.client, proof), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_check_proof(&pair.client, proof), TUTTI_ERR_AUTH);
}

static void test_auth_old_conversation_is_refused(void)
{
    struct pair pair;
    uint8_t proof[AUTH_PROOF_LEN];
    start(&pair, "a", "a");
    exchange(&pair);
    CU_ASSERT_EQUAL(auth_proof(&pair.client, proof), TUTTI_OK);
    struct auth again;
    uint8_t hello[AUTH_HELLO_LEN];
    CU_ASSERT_EQUAL_FATAL(auth_start(&again, "a", job, true), TUTTI_OK);
    auth_hello(&again, hello);
    CU_ASSERT_NOT_EQUAL(memcmp(hello + 32, pair.server_hello + 32, 32), 0);
    CU_ASSERT_EQUAL(auth_take_hello(&again, pair.client_hello), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_check_proof(&again, proof), TUTTI_ERR_AUTH);
}

static void test_auth_every_flipped_bit_is_noticed(void)
{
    struct pair pair;
    uint8_t proof[AUTH_PROOF_LEN];
    start(&pair, "a", "a");
    exchange(&pair);
    CU_ASSERT_EQUAL(auth_proof(&pair.client, proof), TUTTI_OK);
    for (unsigned bit = 0; bit < 8 * AUTH_PROOF_LEN; bit++) {
        proof[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CU_ASSERT_EQUAL(auth_check_proof(&pair.server, proof), TUTTI_ERR_AUTH);
        proof[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CU_ASSERT_EQUAL(auth_check_proof(&pair.server, proof), TUTTI_OK);
    /* A challenge changed on its way makes both proofs worthless. */
    for (unsigned bit = 0; bit < 8 * 32; bit += 37) {
        struct pair changed;
        start(&changed, "a", "a");
        changed.client_hello[32 + bit / 8] ^= (uint8_t)(1u << bit % 8);
        exchange(&changed);
        CU_ASSERT_EQUAL(prove(&changed.client, &changed.server), TUTTI_ERR_AUTH);
        CU_ASSERT_EQUAL(prove(&changed.server, &changed.client), TUTTI_ERR_AUTH);
    }
}

static void test_auth_random_bytes_differ(void)
{
    uint8_t a[300] = {0}, b[300] = {0};
    CU_ASSERT_EQUAL(auth_random(a, sizeof a), TUTTI_OK);
    CU_ASSERT_EQUAL(auth_random(b, sizeof b), TUTTI_OK);
    CU_ASSERT_NOT_EQUAL(memcmp(a, b, sizeof a), 0);
    CU_ASSERT_EQUAL(auth_random(a, 0), TUTTI_OK);
}

/* Runs last of all that is done at exit, where it is called for. */
static bool prove_last;

static void prove_at_exit(void)
{
    struct auth auth;
    if (prove_last)
        _exit(auth_start(&auth, "s", job, false) == TUTTI_OK ? 0 : 1);
}

static void exits(void)
{
    prove_last = true;
    exit(2);
}

static atomic_bool cleaned;

/* Proves until it cannot, and ends when libcrypto, which the end of a thread asks as well, is done.
 */
static void *prove_on(void *last)
{
    struct auth auth;
    tutti_status status;
    while ((status = auth_start(&auth, "s", job, false)) == TUTTI_OK)
        ;
    /* While libcrypto cleans up it refuses with a reason of its own. */
    uint64_t deadline = clock_ms() + 10000;
    while (status != TUTTI_ERR_SYSTEM && clock_ms() < deadline)
        status = auth_start(&auth, "s", job, false);
    while (!atomic_load(&cleaned))
        clock_sleep_us(100);
    *(tutti_status *)last = status;
    return NULL;
}

/* A program that was first to use libcrypto has it clean up at its exit, beside its threads. */
static void cleans_up(void)
{
    static const uint8_t secret[32] = {1};
    pthread_t threads[2];
    tutti_status last[2], status;
    struct seal *seal, *other;
    uint8_t sealed[4 + SEAL_OVERHEAD], name[16];
    if (seal_new(secret, sizeof secret, "x", &seal) != TUTTI_OK)
        _exit(3);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, prove_on, &last[i]);
    clock_sleep_us(1000);
    OPENSSL_cleanup();
    atomic_store(&cleaned, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        if (last[i] != TUTTI_ERR_SYSTEM)
            _exit(4);
    }
    status = seal_new(secret, sizeof secret, "x", &other);
    if (status != TUTTI_ERR_SYSTEM || !strstr(status_sentence(), "the program exits") ||
        auth_job_id("name", name) != TUTTI_ERR_SYSTEM)
        _exit(5);
    status = seal_close(seal, "text", 4, sealed); /* what was made before stays good */
    seal_free(seal);
    _exit(status == TUTTI_OK ? 0 : 6);
}

static int status_of_child(void (*run)(void))
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        run();
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    return status;
}

static void test_exit_proves_to_the_end_of_the_program(void)
{
    CU_ASSERT_EQUAL(status_of_child(exits), 0);
}

static void test_exit_refuses_when_libcrypto_is_gone(void)
{
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(status_of_child(cleans_up), 0);
}

static const struct suite_test tests[] = {
    {"auth_same_secret_is_accepted", test_auth_same_secret_is_accepted},
    {"auth_other_secret_is_refused", test_auth_other_secret_is_refused},
    {"auth_other_job_is_refused", test_auth_other_job_is_refused},
    {"auth_other_version_and_garbage_are_refused", test_auth_other_version_and_garbage_are_refused},
    {"auth_reflected_messages_are_refused", test_auth_reflected_messages_are_refused},
    {"auth_old_conversation_is_refused", test_auth_old_conversation_is_refused},
    {"auth_every_flipped_bit_is_noticed", test_auth_every_flipped_bit_is_noticed},
    {"auth_random_bytes_differ", test_auth_random_bytes_differ},
    {"exit_proves_to_the_end_of_the_program", test_exit_proves_to_the_end_of_the_program},
    {"exit_refuses_when_libcrypto_is_gone", test_exit_refuses_when_libcrypto_is_gone},
};

int main(int argc, char **argv)
{
    atexit(prove_at_exit);
    return suite_run("auth", tests, sizeof tests / sizeof *tests, argc, argv);
}
