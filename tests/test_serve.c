/* test_serve.c: the rendezvous by a unique id that its maker serves without a rank of its own, or
 * before it has one: what the ranks get, what they are told when it fails, and who serves when
 * forks, ranks of the maker and the server come at once. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/seats.h"
#include "tests/stage.h"
#include "tests/suite.h"
#include "tutti/tutti.h"

#define GRACE_MS 100 /* as the library waits for a rank of the maker's own */

struct server {
    const tutti_unique_id *id;
    const int *cancel;
    pthread_t thread;
    tutti_status status;
    char sentence[SENTENCE_MAX];
    uint64_t took_ms;
};

static void *serve(void *argument)
{
    struct server *server = argument;
    uint64_t start = clock_ms();
    server->status = tutti_unique_id_serve(server->id, server->cancel);
    snprintf(server->sentence, sizeof server->sentence, "%s", tutti_last_error());
    server->took_ms = clock_ms() - start;
    return NULL;
}

static void server_start(struct server *server, const tutti_unique_id *id)
{
    server->id = id;
    pthread_create(&server->thread, NULL, serve, server);
}

static void server_expect(struct server *server, tutti_status status, const char *part)
{
    pthread_join(server->thread, NULL);
    bool right = server->status == status && strstr(server->sentence, part);
    CU_ASSERT_TRUE(right);
    if (!right)
        printf("    server: status %d, \"%s\" lacks \"%s\"\n", server->status, server->sentence,
               part);
}

static void wait_for(const pid_t *children, uint32_t count)
{
    for (uint32_t r = 0; r < count; r++)
        waitpid(children[r], NULL, 0);
}

/* This process makes and serves the id of count ranks, each a process that was there before. */
static void perform(struct stage *stage, uint32_t count, struct server *server)
{
    pid_t children[RANKS_MAX];
    for (uint32_t r = 0; r < count; r++)
        children[r] = fork_ranks(stage, 1u << r);
    make_id(stage);
    server_start(server, &stage->id);
    wait_for(children, count);
}

static void set(int *word)
{
    __atomic_store_n(word, 1, __ATOMIC_RELEASE);
}

/* Who serves an id waits for its first rank here. */
static atomic_uint polls;

int poll(struct pollfd *fds, nfds_t count, int ms)
{
    atomic_fetch_add(&polls, 1);
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    return (int)syscall(SYS_ppoll, fds, count, ms < 0 ? NULL : &time, NULL, (size_t)0);
}

static void await_poll(unsigned before)
{
    for (int i = 0; i < 20000 && atomic_load(&polls) == before; i++)
        clock_sleep_us(1000);
}

/* ---- service ----------------------------------------------------------------------------------
 */

static void test_serve_ranks_elsewhere(void)
{
    static const uint32_t sizes[] = {1, 2, 5, 8};
    int before = open_descriptors();
    for (int i = 0; i < 4; i++) {
        struct server server = {0};
        struct stage *stage = stage_new(sizes[i], 20000);
        for (uint32_t r = 0; r < sizes[i]; r++)
            stage->players[r].len = (size_t)i * 100; /* of nothing, too */
        perform(stage, sizes[i], &server);
        expect_all_well(stage->players, sizes[i]);
        server_expect(&server, TUTTI_OK, "");
        stage_end(stage);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* The first rank may be as late as it likes; those after it may not. */
static void test_serve_a_first_rank_that_is_late(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(2, 700);
    for (uint32_t r = 0; r < 2; r++)
        stage->players[r].delay_ms = 1000;
    perform(stage, 2, &server);
    expect_all_well(stage->players, 2);
    server_expect(&server, TUTTI_OK, "");
    stage_end(stage);
}

/* Several meetings at once, and many after each other, whose ids do not fill the table. */
static void test_serve_many_ids(void)
{
    int before = open_descriptors();
    for (int round = 0; round < 12; round++) {
        struct server servers[32] = {0};
        struct stage *stages[32];
        pid_t children[64];
        for (int i = 0; i < 32; i++) {
            stages[i] = stage_new(2, 20000);
            children[2 * i] = fork_ranks(stages[i], 1);
            children[2 * i + 1] = fork_ranks(stages[i], 2);
        }
        for (int i = 0; i < 32; i++) {
            make_id(stages[i]);
            server_start(&servers[i], &stages[i]->id);
        }
        wait_for(children, 64);
        for (int i = 0; i < 32; i++) {
            expect_all_well(stages[i]->players, 2);
            server_expect(&servers[i], TUTTI_OK, "");
            stage_end(stages[i]);
        }
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* A connection to the first address in an id; -1 if that has no IPv4 address. */
static int connect_to(const tutti_unique_id *id)
{
    uint16_t port;
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = id->bytes[32] == 4 ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    memcpy(&port, id->bytes + 34, sizeof port);
    memcpy(&address.sin_addr, id->bytes + 36, sizeof address.sin_addr);
    address.sin_port = htons(port);
    CU_ASSERT(fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void test_serve_beside_strangers(void)
{
    struct server server = {0};
    int silent[3];
    struct stage *stage = stage_new(2, 20000);
    for (uint32_t r = 0; r < 2; r++)
        stage->players[r].delay_ms = 500;
    pid_t children[2] = {fork_ranks(stage, 1), fork_ranks(stage, 2)};
    make_id(stage);
    server_start(&server, &stage->id);
    for (int i = 0; i < 3; i++) {
        silent[i] = connect_to(&stage->id);
        if (i > 0)
            (void)!write(silent[i], "GET / HTTP/1.1\r\n\r\n....................", 36);
    }
    close(silent[2]);
    wait_for(children, 2);
    expect_all_well(stage->players, 2);
    server_expect(&server, TUTTI_OK, "");
    close(silent[0]);
    close(silent[1]);
    stage_end(stage);
}

/* ---- ranks of the maker's process -------------------------------------------------------------
 */

/* Before the server has taken the id, and after. */
static void test_serve_with_a_rank_of_its_own(void)
{
    int before = open_descriptors();
    for (uint32_t own = 0; own < 3; own++) {
        for (int late = 0; late < 3; late++) {
            struct server server = {0};
            pid_t children[2];
            struct stage *stage = stage_new(3, 20000);
            for (uint32_t r = 0; r < 3; r++)
                stage->players[r].delay_ms = r == own ? (uint32_t)late * GRACE_MS : 0;
            children[0] = fork_ranks(stage, 1u << (own + 1) % 3);
            children[1] = fork_ranks(stage, 1u << (own + 2) % 3);
            make_id(stage);
            server_start(&server, &stage->id);
            if (late == 0)
                clock_sleep_us(20000);
            play_ranks(stage, 1u << own);
            wait_for(children, 2);
            expect_all_well(stage->players, 3);
            server_expect(&server, TUTTI_OK, "");
            stage_end(stage);
        }
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* A rank that takes the id ends the service at once, also where nobody connects. */
static void test_serve_ends_for_a_rank(void)
{
    for (int i = 0; i < 50; i++) {
        struct server server = {0};
        struct stage *stage = stage_new(1, 20000);
        make_id(stage);
        server_start(&server, &stage->id);
        clock_sleep_us((uint32_t)i % 5 * 200);
        play_ranks(stage, 1);
        expect_all_well(stage->players, 1);
        server_expect(&server, TUTTI_OK, "");
        CU_ASSERT_TRUE(server.took_ms < 1000);
        CU_ASSERT_EQUAL(tutti_unique_id_serve(&stage->id, NULL), TUTTI_OK); /* it is over */
        stage_end(stage);
    }
}

/* All ranks are threads of the server's process. */
static void test_serve_threads(void)
{
    uint64_t state = suite_seed();
    for (int i = 0; i < 20; i++) {
        struct server server = {0};
        struct stage *stage = stage_new(4, 20000);
        for (uint32_t r = 0; r < 4; r++)
            stage->players[r].delay_ms = (uint32_t)(suite_random(&state) % 3);
        make_id(stage);
        server_start(&server, &stage->id);
        play_ranks(stage, 15);
        expect_all_well(stage->players, 4);
        server_expect(&server, TUTTI_OK, "");
        stage_end(stage);
    }
}

/* ---- forks ------------------------------------------------------------------------------------
 */

/* The server's process forks the ranks: the forked rank 0 serves, or the server does; sooner or
 * later than its grace. Ends the service in both cases. */
static void test_serve_forked_ranks(void)
{
    int before = open_descriptors();
    for (uint32_t i = 0; i < 24; i++) {
        struct server server = {0};
        uint32_t size = 1 + i % 4;
        pid_t children[RANKS_MAX];
        struct stage *stage = stage_new(size, 20000);
        make_id(stage);
        server_start(&server, &stage->id);
        for (uint32_t r = 0; r < size; r++) {
            stage->players[r].delay_ms = (r == 0 ? i * GRACE_MS / 12 : r * 3);
            children[r] = fork_ranks(stage, 1u << r);
        }
        wait_for(children, size);
        expect_all_well(stage->players, size);
        server_expect(&server, TUTTI_OK, "");
        stage_end(stage);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* A stranger makes the server take the id: a lone rank, forked or not, is then served like any. */
static void test_serve_a_lone_rank_after_a_stranger(void)
{
    for (int forked = 0; forked < 2; forked++) {
        struct server server = {0};
        struct stage *stage = stage_new(1, 5000);
        make_id(stage);
        server_start(&server, &stage->id);
        int stranger = connect_to(&stage->id);
        clock_sleep_us(3 * GRACE_MS * 1000);
        if (forked) {
            pid_t child = fork_ranks(stage, 1);
            wait_for(&child, 1);
        } else {
            play_ranks(stage, 1);
        }
        expect_all_well(stage->players, 1);
        server_expect(&server, TUTTI_OK, "");
        close(stranger);
        stage_end(stage);
    }
}

/* The same, where the child was there before the server took the id. */
static void test_serve_a_lone_forked_rank_after_a_stranger(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(1, 5000);
    make_id(stage);
    stage->players[0].delay_ms = 4 * GRACE_MS;
    pid_t child = fork_ranks(stage, 1);
    server_start(&server, &stage->id);
    int stranger = connect_to(&stage->id);
    wait_for(&child, 1);
    expect_all_well(stage->players, 1);
    server_expect(&server, TUTTI_OK, "");
    close(stranger);
    stage_end(stage);
}

/* A process that is gone serves nothing: the forked rank 0 does. */
static void test_serve_forked_ranks_without_their_parent(void)
{
    struct stage *stage = stage_new(3, 20000);
    fflush(stdout);
    pid_t parent = fork();
    if (parent == 0) {
        static struct server server; /* its thread is in the way of nothing */
        CU_ASSERT_EQUAL_FATAL(bootstrap_unique_id(&stage->maker, &stage->id), TUTTI_OK);
        server_start(&server, &stage->id);
        for (uint32_t r = 0; r < 3; r++)
            fork_ranks(stage, 1u << r);
        _exit(0);
    }
    waitpid(parent, NULL, 0);
    atomic_store(&stage->ready, 1);
    for (uint32_t r = 0; r < 3; r++) {
        for (int i = 0; i < 30000 && !atomic_load(&stage->players[r].ended); i++)
            clock_sleep_us(1000);
    }
    expect_all_well(stage->players, 3);
    stage_end(stage);
}

static void test_serve_is_for_the_maker(void)
{
    tutti_unique_id foreign = {{0}};
    struct stage *stage = stage_new(1, 5000);
    make_id(stage);
    pid_t child = fork();
    if (child == 0) {
        bool right = tutti_unique_id_serve(&stage->id, NULL) == TUTTI_ERR_ARG &&
                     strstr(tutti_last_error(), "this process did not make the unique id");
        _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_EQUAL(tutti_unique_id_serve(&foreign, NULL), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(tutti_unique_id_serve(NULL, NULL), TUTTI_ERR_ARG);
    play_ranks(stage, 1);
    expect_all_well(stage->players, 1);
    stage_end(stage);
}

/* ---- ends -------------------------------------------------------------------------------------
 */

/* While nobody has come; the id is then as if nobody had served it. */
static void test_serve_that_is_cancelled(void)
{
    struct server server = {0}, second = {0};
    struct stage *stage = stage_new(1, 5000);
    unsigned before = atomic_load(&polls);
    server.cancel = &stage->cancel;
    make_id(stage);
    server_start(&server, &stage->id);
    await_poll(before);
    CU_ASSERT_EQUAL(tutti_unique_id_serve(&stage->id, NULL), TUTTI_ERR_STATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "another thread serves"));
    await_poll(atomic_load(&polls)); /* it looks whether it is wanted */
    set(&stage->cancel);
    server_expect(&server, TUTTI_ERR_ABORTED, "the service of the unique id was cancelled");
    server_start(&second, &stage->id);
    clock_sleep_us(20000);
    play_ranks(stage, 1);
    expect_all_well(stage->players, 1);
    server_expect(&second, TUTTI_OK, "");
    stage_end(stage);
}

/* While ranks are there: they are told. */
static void test_serve_that_is_cancelled_in_a_meeting(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(3, 20000);
    unsigned seated = seats_taken();
    server.cancel = &stage->cancel;
    pid_t children[2] = {fork_ranks(stage, 1), fork_ranks(stage, 4)};
    make_id(stage);
    server_start(&server, &stage->id);
    seats_await(seated + 2);
    set(&stage->cancel);
    wait_for(children, 2);
    server_expect(&server, TUTTI_ERR_ABORTED, "the service of the unique id was cancelled");
    for (uint32_t r = 0; r < 3; r += 2) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "the service of the unique id was cancelled, in the process that made it");
    }
    play_ranks(stage, 2); /* of the maker's process: it knows */
    expect_sentence(&stage->players[1], TUTTI_ERR_CONNECT,
                    "rank 1 of 3 comes too late: the rendezvous of this unique id has failed at "
                    "ranks that this process served");
    stage_end(stage);
}

static void test_serve_names_missing_ranks(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(7, 1000);
    stage->maker = quick(700);
    perform(stage, 4, &server);
    for (uint32_t r = 0; r < 4; r++) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "3 of 7 ranks did not come to the rendezvous within 700 ms: 4-6; ");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "can reach the unique id's maker, or raise");
    }
    server_expect(&server, TUTTI_ERR_CONNECT, "3 of 7 ranks did not come");
    stage_end(stage);
}

static void test_serve_names_a_size_that_differs(void)
{
    static const uint32_t wrong[] = {8, 1, 70000};
    for (int i = 0; i < 3; i++) {
        char says[80];
        struct server server = {0};
        struct stage *stage = stage_new(4, 5000);
        stage->players[0].size = wrong[i];
        stage->players[0].seated = seats_taken() + 3;
        perform(stage, 4, &server);
        snprintf(says, sizeof says, "says the communicator has %u ranks, rank ", wrong[i]);
        for (uint32_t r = 0; r < 4; r++) {
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "rank 0 (host ");
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, says);
            CU_ASSERT_TRUE(stage->players[r].took_ms < 4000);
        }
        server_expect(&server, TUTTI_ERR_CONNECT, says);
        stage_end(stage);
    }
}

/* No memory follows from the word of one that comes first. */
static void test_serve_names_a_size_that_is_none(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(2, 5000);
    stage->players[0].size = 70000;
    stage->players[1].delay_ms = 300;
    perform(stage, 2, &server);
    for (uint32_t r = 0; r < 2; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "says it is rank 0 of 70000");
    server_expect(&server, TUTTI_ERR_CONNECT, "says it is rank 0 of 70000");
    stage_end(stage);
}

static void test_serve_names_a_rank_claimed_twice(void)
{
    for (uint32_t twice = 0; twice < 3; twice++) {
        char says[64];
        struct server server = {0};
        struct stage *stage = stage_new(3, 5000);
        stage->players[(twice + 1) % 3].rank = twice;
        perform(stage, 3, &server);
        snprintf(says, sizeof says, "two processes say they are rank %u: rank %u (host ", twice,
                 twice);
        for (uint32_t r = 0; r < 3; r++)
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, says);
        server_expect(&server, TUTTI_ERR_CONNECT, says);
        stage_end(stage);
    }
}

static void test_serve_refuses_a_wrong_secret(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(3, 1500);
    snprintf(stage->maker.secret, SETTING_TEXT_MAX, "right");
    for (uint32_t r = 0; r < 3; r++)
        snprintf(stage->players[r].settings.secret, SETTING_TEXT_MAX, r == 0 ? "guess" : "right");
    perform(stage, 3, &server);
    expect_sentence(&stage->players[0], TUTTI_ERR_AUTH, "the unique id's maker at ");
    expect_sentence(&stage->players[0], TUTTI_ERR_AUTH,
                    " refuses rank 0: its job secret is another than the unique id's maker's; ");
    for (uint32_t r = 1; r < 3; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "within 1500 ms: 0; 1 connection");
    server_expect(&server, TUTTI_ERR_CONNECT, "");
    stage_end(stage);
}

/* Between the join and the first allgather. */
static void test_serve_names_a_rank_that_leaves(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(4, 5000);
    stage->players[0].leaves = true;
    perform(stage, 4, &server);
    for (uint32_t r = 1; r < 4; r++) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "rank 0 (host ");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "left during the rendezvous");
    }
    server_expect(&server, TUTTI_ERR_CONNECT, "rank 0 (host ");
    stage_end(stage);
}

static void test_serve_names_a_rank_that_is_killed(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(4, 20000);
    pid_t children[3];
    unsigned seated = seats_taken();
    for (uint32_t r = 0; r < 3; r++)
        children[r] = fork_ranks(stage, 1u << r);
    make_id(stage);
    server_start(&server, &stage->id);
    seats_await(seated + 3);
    kill(children[1], SIGKILL);
    wait_for(children, 3);
    for (uint32_t r = 0; r < 3; r += 2) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "rank 1 (host ");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "left the rendezvous while 1 other rank was still missing");
    }
    server_expect(&server, TUTTI_ERR_CONNECT, "rank 1 (host ");
    stage_end(stage);
}

/* As a rank that is given up, of another process and of this one. */
static void test_serve_ranks_that_are_cancelled(void)
{
    for (uint32_t quitter = 0; quitter < 3; quitter++) {
        struct server server = {0};
        pid_t children[3];
        struct stage *stage = stage_new(4, 20000);
        unsigned seated = seats_taken();
        stage->players[quitter].cancel = &stage->cancel;
        for (uint32_t r = 0; r < 3; r++)
            children[r] = fork_ranks(stage, 1u << r);
        make_id(stage);
        server_start(&server, &stage->id);
        seats_await(seated + 3);
        set(&stage->cancel);
        wait_for(children, 3);
        for (uint32_t r = 0; r < 3; r++) {
            char says[64];
            snprintf(says, sizeof says,
                     r == quitter ? "rank %u of 4 aborted the communicator" : "rank %u (host ",
                     quitter);
            expect_sentence(&stage->players[r],
                            r == quitter ? TUTTI_ERR_ABORTED : TUTTI_ERR_CONNECT, says);
        }
        server_expect(&server, TUTTI_ERR_CONNECT, "rank ");
        stage_end(stage);
    }
}

static void test_serve_names_blocks_that_differ(void)
{
    struct server server = {0};
    struct stage *stage = stage_new(3, 5000);
    stage->players[0].len = 100;
    perform(stage, 3, &server);
    for (uint32_t r = 0; r < 3; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_PROTOCOL, "to allgather 0 of the rendezvous");
    server_expect(&server, TUTTI_ERR_PROTOCOL, "00 bytes to allgather 0");
    stage_end(stage);
}

/* The maker is killed while ranks wait for others, or between the allgathers. */
static void test_serve_whose_maker_dies(void)
{
    for (uint32_t count = 2; count <= 3; count++) {
        struct stage *stage = stage_new(3, 20000);
        unsigned seated = seats_taken();
        pid_t children[3];
        for (uint32_t r = 0; r < count; r++) {
            stage->players[r].pauses = &stage->gone;
            children[r] = fork_ranks(stage, 1u << r);
        }
        pid_t maker = fork();
        if (maker == 0) {
            make_id(stage);
            tutti_unique_id_serve(&stage->id, NULL);
            _exit(0);
        }
        seats_await(seated + count);
        for (uint32_t r = 0; r < count && count == 3; r++) {
            for (int i = 0; i < 20000 && !atomic_load(&stage->players[r].joined); i++)
                clock_sleep_us(1000);
        }
        kill(maker, SIGKILL);
        waitpid(maker, NULL, 0);
        atomic_store(&stage->gone, true);
        wait_for(children, count);
        for (uint32_t r = 0; r < count; r++) {
            char says[80];
            snprintf(says, sizeof says,
                     count == 3 ? "rank %u lost the unique id's maker at "
                                : "went away while rank %u waited for the other ranks",
                     r);
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, says);
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "the unique id's maker at ");
        }
        stage_end(stage);
    }
}

static const struct suite_test tests[] = {
    TEST(serve_ranks_elsewhere),
    TEST(serve_a_first_rank_that_is_late),
    TEST(serve_many_ids),
    TEST(serve_beside_strangers),
    TEST(serve_with_a_rank_of_its_own),
    TEST(serve_ends_for_a_rank),
    TEST(serve_threads),
    TEST(serve_forked_ranks),
    TEST(serve_a_lone_rank_after_a_stranger),
    TEST(serve_a_lone_forked_rank_after_a_stranger),
    TEST(serve_forked_ranks_without_their_parent),
    TEST(serve_is_for_the_maker),
    TEST(serve_that_is_cancelled),
    TEST(serve_that_is_cancelled_in_a_meeting),
    TEST(serve_names_missing_ranks),
    TEST(serve_names_a_size_that_differs),
    TEST(serve_names_a_size_that_is_none),
    TEST(serve_names_a_rank_claimed_twice),
    TEST(serve_refuses_a_wrong_secret),
    TEST(serve_names_a_rank_that_leaves),
    TEST(serve_names_a_rank_that_is_killed),
    TEST(serve_ranks_that_are_cancelled),
    TEST(serve_names_blocks_that_differ),
    TEST(serve_whose_maker_dies),
};

int main(int argc, char **argv)
{
    return suite_run("serve", tests, sizeof tests / sizeof *tests, argc, argv);
}
