/* test_bootstrap.c: the rendezvous, with ranks as threads and as processes, with strangers at the
 * door, with ranks that are missing, double or wrong, and under simulated launchers. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/owned.h"
#include "base/sock.h"
#include "src/bootstrap.h"
#include "src/bootstrap_meet.h"
#include "tests/players.h"
#include "tests/seats.h"
#include "tests/suite.h"

static void test_bootstrap_joins_threads(void)
{
    static const uint32_t sizes[] = {1, 2, 3, 7, 64};
    int before = open_descriptors();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct settings settings = quick(10000);
        tutti_unique_id id;
        CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
        struct player *players = cast(sizes[i], &id, 10000);
        play_all(players, sizes[i]);
        expect_all_well(players, sizes[i]);
        free(players);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

static void test_bootstrap_names_a_size_that_differs(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(4, &id, 5000);
    players[3].size = 8;
    play_all(players, 4);
    for (uint32_t r = 0; r < 4; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "rank 3 (host ");
        expect_sentence(&players[r], TUTTI_ERR_CONNECT,
                        "says the communicator has 8 ranks, rank 0");
        CU_ASSERT_TRUE(players[r].took_ms < 3000);
    }
    free(players);
}

static void test_bootstrap_names_a_rank_claimed_twice(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(4, &id, 5000);
    players[3].rank = 2;
    play_all(players, 4);
    for (uint32_t r = 0; r < 4; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "two processes say they are rank 2: ");
        CU_ASSERT_TRUE(players[r].took_ms < 3000);
    }
    free(players);
}

/* The least of a few times: what is late by itself is so each time, a busy machine is not. */
#define TRIES 5

static bool is_soon(uint64_t (*play_once)(void), uint64_t limit_ms)
{
    for (int i = 0; i < TRIES; i++) {
        if (play_once() < limit_ms)
            return true;
    }
    return false;
}

static uint64_t slowest(const struct player *players, uint32_t count)
{
    uint64_t most = 0;
    for (uint32_t r = 0; r < count; r++)
        most = players[r].took_ms > most ? players[r].took_ms : most;
    return most;
}

static uint64_t miss_ranks(void)
{
    struct settings settings = quick(700);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(9, &id, 700);
    play_all(players, 5); /* 5 to 8 never come */
    for (uint32_t r = 0; r < 5; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT,
                        "4 of 9 ranks did not come to the rendezvous within 700 ms: 5-8; ");
    }
    uint64_t took_ms = slowest(players, 5);
    free(players);
    return took_ms;
}

static void test_bootstrap_names_missing_ranks(void)
{
    CU_ASSERT_TRUE(is_soon(miss_ranks, 1500));
}

/* Those who came before the root give up before it does; nobody else can say who is missing. */
static void test_bootstrap_names_missing_ranks_to_all(void)
{
    struct settings settings = quick(1500);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(4, &id, 1500);
    players[0].delay_ms = 1000;
    play_all(players, 3);
    expect_sentence(&players[0], TUTTI_ERR_CONNECT,
                    " left the rendezvous while 1 other rank was still missing (3): ");
    free(players);
}

static void test_bootstrap_names_a_rank_that_leaves(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(5, &id, 5000);
    players[2].leaves = true; /* after joining, before the allgather */
    play_all(players, 5);
    for (uint32_t r = 0; r < 5; r++) {
        if (r != 2)
            expect_sentence(&players[r], TUTTI_ERR_CONNECT, "rank 2 (host ");
        CU_ASSERT_TRUE(players[r].took_ms < 3000);
    }
    free(players);
}

static void test_bootstrap_names_a_root_that_leaves(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(4, &id, 5000);
    players[0].leaves = true;
    play_all(players, 4);
    for (uint32_t r = 1; r < 4; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "lost rank 0 at ");
        CU_ASSERT_TRUE(players[r].took_ms < 3000);
    }
    free(players);
}

static uint64_t miss_the_root(void)
{
    struct settings settings = quick(600);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(3, &id, 600);
    play_all(players + 1, 2);
    for (uint32_t r = 1; r < 3; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "did not find rank 0 within 600 ms: ");
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "connected, but no answer");
    }
    uint64_t took_ms = slowest(players + 1, 2);
    players[0].size = 1; /* gives the socket back */
    play_all(players, 1);
    expect_all_well(players, 1);
    free(players);
    return took_ms;
}

static void test_bootstrap_names_a_root_that_never_serves(void)
{
    CU_ASSERT_TRUE(is_soon(miss_the_root, 1200));
}

static void test_bootstrap_names_blocks_that_differ(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(3, &id, 5000);
    players[1].len = 100;
    play_all(players, 3);
    for (uint32_t r = 0; r < 3; r++)
        expect_sentence(&players[r], TUTTI_ERR_PROTOCOL, "gave 100 bytes to allgather 0 of the");
    free(players);
}

static void test_bootstrap_refuses_a_wrong_secret(void)
{
    struct settings settings = quick(1500);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(3, &id, 1500);
    for (uint32_t r = 0; r < 3; r++)
        snprintf(players[r].settings.secret, SETTING_TEXT_MAX, r == 2 ? "guess" : "right");
    play_all(players, 3);
    expect_sentence(&players[2], TUTTI_ERR_AUTH, "its job secret is another than rank 0's");
    CU_ASSERT_TRUE(players[2].took_ms < 1000);
    expect_sentence(&players[0], TUTTI_ERR_CONNECT, "within 1500 ms: 2; 1 connection was turned");
    expect_sentence(&players[0], TUTTI_ERR_CONNECT, "its job secret is another than rank 0's");
    for (uint32_t r = 0; r < 3; r++)
        CU_ASSERT_PTR_NULL(strstr(players[r].sentence, "guess"));
    free(players);
}

static void test_bootstrap_refuses_damaged_ids(void)
{
    struct settings settings = quick(500);
    struct bootstrap *bootstrap = NULL;
    tutti_unique_id id, damaged;
    uint64_t state = suite_seed();
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    memset(&damaged, 0, sizeof damaged);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &damaged, 1, 2, NULL, &bootstrap), TUTTI_ERR_ARG);
    for (int i = 0; i < 16; i++) { /* magic, version, count */
        damaged = id;
        damaged.bytes[i] ^= (unsigned char)(0x80 | suite_random(&state));
        CU_ASSERT_NOT_EQUAL(bootstrap_from_id(&settings, &damaged, 1, 2, NULL, &bootstrap),
                            TUTTI_OK);
    }
    damaged = id;
    damaged.bytes[20] ^= 1; /* another job: no socket here, nobody there */
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &damaged, 0, 2, NULL, &bootstrap), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 2, 2, NULL, &bootstrap), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_OK);
    bootstrap_free(bootstrap);
    /* an id makes one communicator */
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_ERR_ARG);
}

static void test_bootstrap_joins_256_threads(void)
{
    struct settings settings = quick(30000);
    tutti_unique_id id;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < 1024) {
        suite_skip("fewer than 1,024 descriptors are allowed (ulimit -n)");
        return;
    }
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(PLAYERS_MAX, &id, 30000);
    uint64_t start = clock_ms();
    play_all(players, PLAYERS_MAX);
    printf("    256 ranks, 3 allgathers: %llu ms\n", (unsigned long long)(clock_ms() - start));
    CU_ASSERT_TRUE(clock_ms() - start < 15000);
    expect_all_well(players, PLAYERS_MAX);
    free(players);
}

/* ---- strangers ------------------------------------------------------------------------------- */

/* The first place an id names. */
static struct sock_address place_of(const tutti_unique_id *id)
{
    struct settings settings = quick(1000);
    struct sock_addresses addresses = {.count = 0};
    char text[SOCK_TEXT_MAX];
    uint16_t port;
    memcpy(&port, id->bytes + 34, 2);
    snprintf(text, sizeof text, "%u.%u.%u.%u:%u", id->bytes[36], id->bytes[37], id->bytes[38],
             id->bytes[39], port);
    CU_ASSERT_EQUAL_FATAL(sock_parse(&settings, text, &addresses), TUTTI_OK);
    return addresses.list[0];
}

static int connect_to(const struct sock_address *address)
{
    int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)&address->storage, address->len) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

struct strangers {
    struct sock_address address;
    int silent[64];
    uint32_t garbage;
    uint64_t state;
};

/* Garbage of every kind: noise, nothing and a close, a hello's beginning, a whole hello of noise
 * that starts right. */
static void *be_strange(void *argument)
{
    struct strangers *strangers = argument;
    for (uint32_t i = 0; i < strangers->garbage; i++) {
        uint8_t noise[2048];
        int fd = connect_to(&strangers->address);
        if (fd < 0)
            continue;
        for (size_t b = 0; b < sizeof noise; b++)
            noise[b] = (uint8_t)suite_random(&strangers->state);
        struct auth auth;
        if (i % 4 == 3 && auth_start(&auth, "", noise, false) == TUTTI_OK &&
            auth_hello(&auth, noise) == TUTTI_OK)
            (void)!send(fd, noise, AUTH_HELLO_LEN, MSG_NOSIGNAL);
        else
            (void)!send(fd, noise, suite_random(&strangers->state) % sizeof noise, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static uint64_t meet_amid_strangers(void)
{
    struct settings settings = quick(20000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    if (id.bytes[32] != 4) {
        struct bootstrap *alone;
        suite_skip("the best interface has no IPv4 address");
        if (bootstrap_from_id(&settings, &id, 0, 1, NULL, &alone) == TUTTI_OK)
            bootstrap_free(alone);
        return 0;
    }
    struct strangers strangers = {.address = place_of(&id), .garbage = 300, .state = suite_seed()};
    for (int i = 0; i < 64; i++)
        strangers.silent[i] = connect_to(&strangers.address);
    pthread_t thread;
    pthread_create(&thread, NULL, be_strange, &strangers);
    struct player *players = cast(16, &id, 20000);
    for (uint32_t r = 1; r < 16; r++)
        players[r].delay_ms = r * 5; /* amid the noise */
    uint64_t start = clock_ms();
    play_all(players, 16);
    uint64_t took = clock_ms() - start;
    printf("    64 silent and 300 garbage connections: %llu ms\n", (unsigned long long)took);
    expect_all_well(players, 16);
    pthread_join(thread, NULL);
    for (int i = 0; i < 64; i++)
        close(strangers.silent[i]);
    free(players);
    return took;
}

static void test_bootstrap_is_not_delayed_by_strangers(void)
{
    CU_ASSERT_TRUE(is_soon(meet_amid_strangers, 1500));
}

/* The second look at whether to go on says no. */
static tutti_status look_twice(void *context)
{
    int *looks = context;
    return ++*looks < 2 ? TUTTI_OK : fail(TUTTI_ERR_ABORTED, "looked twice");
}

/* More strangers have come and gone than the root hears between two looks. */
static void test_bootstrap_looks_up_amid_strangers(void)
{
    enum { CALLERS = BOOTSTRAP_UNAUTH_MAX + 30 };
    struct settings settings = quick(20000);
    struct bootstrap *bootstrap;
    tutti_unique_id id;
    int fds[CALLERS], looks = 0, unheard = 0;
    struct cancel cancel = {look_twice, &looks};
    CU_ASSERT_EQUAL(settings_set(&settings, "INTERFACE", "127.0.0.1"), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    struct sock_address address = place_of(&id);
    for (int i = 0; i < CALLERS; i++) {
        fds[i] = connect_to(&address);
        CU_ASSERT_TRUE(fds[i] >= 0 && shutdown(fds[i], SHUT_WR) == 0);
    }
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 2, &cancel, &bootstrap),
                    TUTTI_ERR_ABORTED);
    for (int i = 0; i < CALLERS; i++) {
        char byte;
        unheard += recv(fds[i], &byte, 1, 0) < 0 && errno == ECONNRESET; /* still in the queue */
        close(fds[i]);
    }
    CU_ASSERT_EQUAL(unheard, CALLERS - BOOTSTRAP_UNAUTH_MAX);
}

/* ---- processes ------------------------------------------------------------------------------- */

/* Forks a process per player; true if all ended well. settle is called in each child. */
static bool play_processes(struct player *players, uint32_t count,
                           void (*settle)(struct player *player))
{
    pid_t children[PLAYERS_MAX];
    bool well = true;
    fflush(stdout);
    for (uint32_t r = 0; r < count; r++) {
        children[r] = fork();
        if (children[r] == 0) {
            if (settle)
                settle(&players[r]);
            play(&players[r]);
            if (players[r].status != TUTTI_OK)
                fprintf(stderr, "    rank %u: %s\n", r, players[r].sentence);
            _exit(players[r].status != TUTTI_OK || players[r].wrong);
        }
    }
    for (uint32_t r = 0; r < count; r++) {
        int code = 0;
        waitpid(children[r], &code, 0);
        well = well && WIFEXITED(code) && WEXITSTATUS(code) == 0;
    }
    return well;
}

static void test_bootstrap_joins_64_processes(void)
{
    struct settings settings = quick(30000);
    struct bootstrap *alone = NULL;
    tutti_unique_id id;
    int before = open_descriptors();
    CU_ASSERT_EQUAL_FATAL(bootstrap_unique_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(64, &id, 30000);
    uint64_t start = clock_ms();
    CU_ASSERT_TRUE(play_processes(players, 64, NULL));
    printf("    64 processes, 3 allgathers: %llu ms\n", (unsigned long long)(clock_ms() - start));
    /* this process still held the sockets */
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &alone), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(open_descriptors(), before);
    free(players);
}

/* Rank 0 is killed while it waits: everyone who had found it ends, soon, with its name. */
static void test_bootstrap_survives_the_death_of_the_root(void)
{
    struct settings settings = quick(4000);
    tutti_unique_id id;
    int pipes[2];
    struct player *players = cast(5, &id, 4000);
    unsigned seated = seats_taken();
    CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
    fflush(stdout);
    pid_t root = fork();
    if (root == 0) {
        struct bootstrap *bootstrap;
        if (bootstrap_root_id(&settings, &id) == TUTTI_OK)
            (void)!write(pipes[1], &id, sizeof id);
        bootstrap_from_id(&settings, &id, 0, 5, NULL, &bootstrap);
        _exit(1);
    }
    CU_ASSERT_EQUAL_FATAL(read(pipes[0], &id, sizeof id), sizeof id);
    pthread_t threads[5];
    for (uint32_t r = 1; r < 4; r++)
        pthread_create(&threads[r], NULL, play, &players[r]);
    seats_await(seated + 3);
    kill(root, SIGKILL);
    waitpid(root, NULL, 0);
    for (uint32_t r = 1; r < 4; r++) {
        pthread_join(threads[r], NULL);
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "rank 0 at ");
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, " went away while rank ");
    }
    close(pipes[0]);
    close(pipes[1]);
    free(players);
}

/* Rank 0 ended before it served: its sockets were there before the id, so that is soon clear. */
static void test_bootstrap_names_a_root_that_has_ended(void)
{
    struct settings settings = quick(20000);
    tutti_unique_id id;
    int pipes[2];
    struct player *players = cast(2, &id, 20000);
    CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
    fflush(stdout);
    pid_t root = fork();
    if (root == 0) {
        if (bootstrap_root_id(&settings, &id) == TUTTI_OK)
            (void)!write(pipes[1], &id, sizeof id);
        _exit(1);
    }
    CU_ASSERT_EQUAL_FATAL(read(pipes[0], &id, sizeof id), sizeof id);
    waitpid(root, NULL, 0);
    play_all(players + 1, 1);
    expect_sentence(&players[1], TUTTI_ERR_CONNECT,
                    "rank 1 of 2 finds nobody where rank 0 has listened: it or its rendezvous has");
    CU_ASSERT_TRUE(players[1].took_ms < 15000);
    close(pipes[0]);
    close(pipes[1]);
    free(players);
}

/* ---- the environment ------------------------------------------------------------------------- */

static void be_torchrun(struct player *player)
{
    char text[16];
    snprintf(text, sizeof text, "%u", player->rank);
    setenv("RANK", text, 1);
    snprintf(text, sizeof text, "%u", player->size);
    setenv("WORLD_SIZE", text, 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("MASTER_PORT", "21999", 1);
    setenv("TORCHELASTIC_RUN_ID", "a run", 1);
}

/* Strangers sit at the job's first ports: one silent, one that talks; MASTER_PORT is one of the
 * range and must be left alone. */
static void test_bootstrap_joins_under_torchrun_beside_strangers(void)
{
    struct player *players = cast(4, NULL, 10000);
    struct settings settings = quick(1000);
    struct sock_addresses addresses;
    int taken[6], count = 0;
    for (unsigned port = 21990; port < 21999; port += 2) { /* every second port of the range */
        char text[32];
        snprintf(text, sizeof text, "127.0.0.1:%u", port);
        sock_parse(&settings, text, &addresses);
        if (sock_listen(&settings, &addresses.list[0], 16, &taken[count], NULL) == TUTTI_OK)
            count++;
    }
    for (uint32_t r = 0; r < 4; r++)
        snprintf(players[r].settings.ports, SETTING_TEXT_MAX, "21990-21999");
    CU_ASSERT_TRUE(play_processes(players, 4, be_torchrun));
    while (count > 0)
        owned_close(taken[--count]);
    free(players);
}

static void be_slurm(struct player *player)
{
    char text[16];
    snprintf(text, sizeof text, "%u", player->rank);
    setenv("SLURM_PROCID", text, 1);
    snprintf(text, sizeof text, "%u", player->size);
    setenv("SLURM_NTASKS", text, 1);
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_STEP_NODELIST", "127.0.0.[1,7-9],elsewhere", 1);
}

/* A step of an allocation of more tasks, whose variables it keeps. */
static void be_slurm_step(struct player *player)
{
    char text[16];
    be_slurm(player);
    snprintf(text, sizeof text, "%u", player->size);
    setenv("SLURM_STEP_NUM_TASKS", text, 1);
    setenv("SLURM_NTASKS", "5", 1);
}

static void test_bootstrap_joins_under_slurm(void)
{
    struct player *players = cast(3, NULL, 10000);
    CU_ASSERT_TRUE(play_processes(players, 3, be_slurm));
    CU_ASSERT_TRUE(play_processes(players, 3, be_slurm_step));
    free(players);
}

static void be_wrong_torchrun(struct player *player)
{
    be_torchrun(player);
    setenv("RANK", "7", 1);
    play(player);
    bool right = player->status == TUTTI_ERR_SETTING &&
                 strstr(player->sentence, "set RANK to \"7\": expected 0 to 1");
    _exit(right ? 0 : 1);
}

static void test_bootstrap_checks_the_launchers_numbers(void)
{
    struct player *players = cast(2, NULL, 1000);
    CU_ASSERT_TRUE(play_processes(players, 1, be_wrong_torchrun));
    free(players);
}

/* What a process finds in its environment, and the sentence; NULL: it is alone, and well. */
static const char *const partly[][4] = {
    {"TUTTI_RANK=2", "TUTTI_SIZE=4", "", "TUTTI_RANK is set but TUTTI_RENDEZVOUS is not: "},
    {"TUTTI_RENDEZVOUS=localhost:5999", "TUTTI_RANK=0", "",
     "TUTTI_RENDEZVOUS is set but TUTTI_SIZE is not: "},
    {"TUTTI_RENDEZVOUS=localhost:5999", "TUTTI_SIZE=2", "",
     "TUTTI_RENDEZVOUS is set but TUTTI_RANK is not: "},
    {"TUTTI_RENDEZVOUS=localhost:5999", "", "", "TUTTI_RENDEZVOUS is set but TUTTI_RANK is not: "},
    {"RANK=0", "WORLD_SIZE=2", "", "WORLD_SIZE is 2 but MASTER_ADDR is not set: "},
    {"MASTER_ADDR=localhost", "WORLD_SIZE=2", "", "WORLD_SIZE is 2 but RANK is not set: "},
    {"PMI_RANK=1", "PMI_SIZE=2", "", "PMI_SIZE is 2 but PMI_FD is not set: PMI_RANK, PMI_SIZE and"},
    {"PMI_SIZE=2", "PMI_FD=9", "", "PMI_SIZE is 2 but PMI_RANK is not set: PMI_RANK, PMI_SIZE and"},
    {"PMI_RANK=0", "PMI_SIZE=1", "", NULL},
    {"TUTTI_SIZE=1", "", "", NULL},
    {"TUTTI_SIZE=1", "TUTTI_RANK=0", "", NULL},
    {"RANK=0", "WORLD_SIZE=1", "", NULL},
    {"RANK=3", "", "", NULL},
};

static void be_partly_told(struct player *player)
{
    const char *const *row = partly[player->len];
    for (int i = 0; i < 3; i++)
        putenv((char *)(row[i][0] ? row[i] : "TUTTI_TEST_NOTHING="));
    player->len = 8;
    player->rank = 0;
    player->size = 1;
    if (settings_load(&player->settings) != TUTTI_OK)
        _exit(2);
    play(player);
    bool right = row[3] ? player->status == TUTTI_ERR_SETTING && strstr(player->sentence, row[3])
                        : player->status == TUTTI_OK && !player->wrong;
    if (!right)
        fprintf(stderr, "    %s %s: %s\n", row[0], row[1], player->sentence);
    _exit(right ? 0 : 1);
}

static void test_bootstrap_refuses_half_an_environment(void)
{
    enum { ROWS = sizeof partly / sizeof *partly };
    struct player *players = cast(ROWS, NULL, 1000);
    for (size_t i = 0; i < ROWS; i++)
        players[i].len = i;
    CU_ASSERT_TRUE(play_processes(players, ROWS, be_partly_told));
    free(players);
}

static void test_bootstrap_is_alone_without_a_launcher(void)
{
    struct player *players = cast(1, NULL, 1000);
    play_all(players, 1);
    expect_all_well(players, 1);
    free(players);
}

/* This program again, as one rank under a real launcher: two communicators, one after the other. */
static int be_launched(uint32_t size)
{
    for (int round = 0; round < 2; round++) {
        struct settings settings = quick(20000);
        struct bootstrap *bootstrap = NULL;
        uint32_t mine, all[64] = {0};
        if (bootstrap_from_env(&settings, &bootstrap) != TUTTI_OK ||
            bootstrap_size(bootstrap) != size) {
            fprintf(stderr, "launched rank: %s\n", status_sentence());
            return 1;
        }
        mine = bootstrap_rank(bootstrap) * 3 + 1;
        tutti_status status = bootstrap_allgather(bootstrap, &mine, all, sizeof mine);
        for (uint32_t r = 0; status == TUTTI_OK && r < size; r++)
            status = all[r] == r * 3 + 1 ? TUTTI_OK : TUTTI_ERR_INTERNAL;
        bootstrap_free(bootstrap);
        if (status != TUTTI_OK)
            return 1;
    }
    return 0;
}

/* The launcher's own libraries leak: the leak check is left to the other tests. */
static void launch(const char *launcher)
{
    char self[512], command[1024], found[256];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    CU_ASSERT_FATAL(len > 0);
    self[len] = 0;
    snprintf(found, sizeof found, "command -v %.*s >/dev/null", (int)strcspn(launcher, " "),
             launcher);
    if (system(found) != 0) {
        suite_skip("this launcher is not on the machine");
        return;
    }
    snprintf(command, sizeof command,
             "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
             "ASAN_OPTIONS=detect_leaks=0 timeout 60 %s -np 4 %s --launched 4",
             launcher, self);
    CU_ASSERT_EQUAL(system(command), 0);
}

static void test_bootstrap_joins_under_open_mpi(void)
{
    launch("mpirun.openmpi --oversubscribe");
}

static void test_bootstrap_joins_under_mpich(void)
{
    launch("mpirun.mpich");
}

/* A launcher that is gone: rank 0 keeps nothing of the id that it could not give to anybody. */
static void test_bootstrap_gives_back_what_no_launcher_carries(void)
{
    struct settings settings = quick(1000);
    struct bootstrap *bootstrap = NULL;
    int ends[2];
    char text[16];
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    close(ends[1]);
    snprintf(text, sizeof text, "%d", ends[0]);
    setenv("PMI_RANK", "0", 1);
    setenv("PMI_SIZE", "2", 1);
    setenv("PMI_FD", text, 1);
    int before = open_descriptors();
    CU_ASSERT_EQUAL(bootstrap_from_env(&settings, &bootstrap), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "write to the launcher (PMI_FD)"));
    CU_ASSERT_EQUAL(open_descriptors(), before);
    close(ends[0]);
    unsetenv("PMI_RANK");
    unsetenv("PMI_SIZE");
    unsetenv("PMI_FD");
}

/* ---- the rest -------------------------------------------------------------------------------- */

static int ring_allgather(const void *in, void *out, size_t len, void *context)
{
    int *calls = context;
    memcpy(out, in, len);
    memcpy((char *)out + len, in, len);
    return (*calls)++ == 1 ? 42 : 0;
}

static void test_bootstrap_uses_the_callers_allgather(void)
{
    struct bootstrap *bootstrap = NULL;
    int calls = 0;
    char in[4] = "abc", out[8];
    CU_ASSERT_EQUAL(bootstrap_from_callback(NULL, NULL, 0, 2, &bootstrap), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(bootstrap_from_callback(ring_allgather, &calls, 2, 2, &bootstrap),
                    TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL_FATAL(bootstrap_from_callback(ring_allgather, &calls, 1, 2, &bootstrap),
                          TUTTI_OK);
    CU_ASSERT_EQUAL(bootstrap_allgather(bootstrap, in, out, 4), TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(out, "abc\0abc", 8), 0);
    CU_ASSERT_EQUAL(bootstrap_allgather(bootstrap, in, out, 4), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "allgather returned 42"));
    /* and stays broken, without calling again */
    CU_ASSERT_EQUAL(bootstrap_allgather(bootstrap, in, out, 4), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(calls, 2);
    bootstrap_free(bootstrap);
    bootstrap_free(NULL);
}

/* Every allocation of two ranks' meeting fails once: an error with a sentence, no leak, no hang. */
static void test_bootstrap_survives_failing_allocations(void)
{
    uint64_t failed = 0;
    bool reached = true;
    for (uint64_t k = 1; k < 100 && reached; k++) {
        struct settings settings = quick(400);
        tutti_unique_id id;
        struct player *players = cast(2, &id, 400);
        suite_fail_allocation(k);
        tutti_status status = bootstrap_root_id(&settings, &id);
        if (status == TUTTI_OK)
            play_all(players, 2);
        reached = suite_allocation_failed();
        suite_fail_allocation(0);
        for (int r = 0; status == TUTTI_OK && r < 2; r++)
            CU_ASSERT_TRUE(players[r].status == TUTTI_OK || players[r].sentence[0]);
        failed += reached;
        free(players);
    }
    CU_ASSERT_FALSE(reached);
    printf("    %llu allocations failed in turn\n", (unsigned long long)failed);
}

static const struct suite_test tests[] = {
    {"bootstrap_joins_threads", test_bootstrap_joins_threads},
    {"bootstrap_joins_256_threads", test_bootstrap_joins_256_threads},
    {"bootstrap_joins_64_processes", test_bootstrap_joins_64_processes},
    {"bootstrap_names_a_size_that_differs", test_bootstrap_names_a_size_that_differs},
    {"bootstrap_names_a_rank_claimed_twice", test_bootstrap_names_a_rank_claimed_twice},
    {"bootstrap_names_missing_ranks", test_bootstrap_names_missing_ranks},
    {"bootstrap_names_missing_ranks_to_all", test_bootstrap_names_missing_ranks_to_all},
    {"bootstrap_names_a_rank_that_leaves", test_bootstrap_names_a_rank_that_leaves},
    {"bootstrap_names_a_root_that_leaves", test_bootstrap_names_a_root_that_leaves},
    {"bootstrap_names_a_root_that_never_serves", test_bootstrap_names_a_root_that_never_serves},
    {"bootstrap_names_blocks_that_differ", test_bootstrap_names_blocks_that_differ},
    {"bootstrap_refuses_a_wrong_secret", test_bootstrap_refuses_a_wrong_secret},
    {"bootstrap_refuses_damaged_ids", test_bootstrap_refuses_damaged_ids},
    {"bootstrap_is_not_delayed_by_strangers", test_bootstrap_is_not_delayed_by_strangers},
    {"bootstrap_looks_up_amid_strangers", test_bootstrap_looks_up_amid_strangers},
    {"bootstrap_survives_the_death_of_the_root", test_bootstrap_survives_the_death_of_the_root},
    {"bootstrap_names_a_root_that_has_ended", test_bootstrap_names_a_root_that_has_ended},
    {"bootstrap_joins_under_torchrun_beside_strangers",
     test_bootstrap_joins_under_torchrun_beside_strangers},
    {"bootstrap_joins_under_slurm", test_bootstrap_joins_under_slurm},
    {"bootstrap_checks_the_launchers_numbers", test_bootstrap_checks_the_launchers_numbers},
    {"bootstrap_refuses_half_an_environment", test_bootstrap_refuses_half_an_environment},
    {"bootstrap_is_alone_without_a_launcher", test_bootstrap_is_alone_without_a_launcher},
    {"bootstrap_joins_under_open_mpi", test_bootstrap_joins_under_open_mpi},
    {"bootstrap_joins_under_mpich", test_bootstrap_joins_under_mpich},
    {"bootstrap_gives_back_what_no_launcher_carries",
     test_bootstrap_gives_back_what_no_launcher_carries},
    {"bootstrap_uses_the_callers_allgather", test_bootstrap_uses_the_callers_allgather},
    {"bootstrap_survives_failing_allocations", test_bootstrap_survives_failing_allocations},
};

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--launched") == 0)
        return be_launched((uint32_t)atoi(argv[2]));
    return suite_run("bootstrap", tests, sizeof tests / sizeof *tests, argc, argv);
}
