/* test_roots.c: the rendezvous by a unique id whose maker holds any rank: alone, with several ranks
 * of its process, and across forks; and what each side says when it fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/seats.h"
#include "tests/stage.h"
#include "tests/still.h"
#include "tests/suite.h"
#include "tutti/tutti.h"

#define LIMIT_MS 20000 /* what ends before ended for another reason than the time */

/* This process makes the id and holds the ranks of mask; each other rank that comes is a process,
 * that was there before the id. */
static void perform(struct stage *stage, uint32_t count, unsigned mask)
{
    pid_t children[RANKS_MAX];
    for (uint32_t r = 0; r < count; r++) {
        if (!(mask >> r & 1))
            children[r] = fork_ranks(stage, 1u << r);
    }
    make_id(stage);
    play_ranks(stage, mask);
    for (uint32_t r = 0; r < count; r++) {
        if (!(mask >> r & 1))
            waitpid(children[r], NULL, 0);
    }
}

/* ---- who may be the root ----------------------------------------------------------------------
 */

static void test_roots_of_every_rank(void)
{
    int before = open_descriptors();
    for (uint32_t size = 2; size <= 5; size++) {
        for (uint32_t root = 0; root < size; root++) {
            struct stage *stage = stage_new(size, LIMIT_MS);
            stage->players[root].delay_ms = root % 2 ? 50 : 0;
            perform(stage, size, 1u << root);
            expect_all_well(stage->players, size);
            stage_end(stage);
        }
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* Several ranks of the maker's process: one of them serves, whichever. */
static void test_roots_among_threads(void)
{
    int before = open_descriptors();
    uint64_t state = suite_seed();
    for (int i = 0; i < 60; i++) {
        uint32_t size = 2 + (uint32_t)(suite_random(&state) % 4);
        unsigned all = (1u << size) - 1;
        unsigned mask = i % 3 ? all : 1u + (unsigned)(suite_random(&state) % all);
        struct stage *stage = stage_new(size, LIMIT_MS);
        for (uint32_t r = 0; r < size; r++)
            stage->players[r].delay_ms = (uint32_t)(suite_random(&state) % 4);
        perform(stage, size, mask);
        expect_all_well(stage->players, size);
        stage_end(stage);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* The maker forks after the id is made: rank 0, wherever it is, or a rank of the maker serves. */
static void test_roots_across_forks(void)
{
    int before = open_descriptors();
    for (unsigned i = 0; i < 40; i++) {
        uint32_t size = 2 + i % 4, own = i / 4 % (size + 1); /* own == size: takes no part */
        pid_t children[RANKS_MAX];
        struct stage *stage = stage_new(size, LIMIT_MS);
        make_id(stage);
        for (uint32_t r = 0; r < size; r++) {
            stage->players[r].delay_ms = (i * 7 + r * 3) % 5;
            if (r != own)
                children[r] = fork_ranks(stage, 1u << r);
        }
        if (own < size)
            play(&stage->players[own]);
        for (uint32_t r = 0; r < size; r++) {
            if (r != own)
                waitpid(children[r], NULL, 0);
        }
        expect_all_well(stage->players, size);
        if (own == size) { /* the sockets are still here, and the id is used up */
            stage->players[0].size = 1;
            play(&stage->players[0]);
            expect_sentence(&stage->players[0], TUTTI_ERR_ARG, "an id makes one communicator");
        }
        stage_end(stage);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* An id whose rank 0 is here leaves nothing to a child, which may live longer than its root. */
static void test_roots_leave_nothing_to_children(void)
{
    struct settings settings = quick(5000);
    struct bootstrap *bootstrap = NULL;
    tutti_unique_id id, other;
    int before = open_descriptors(), status = -1;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    pid_t child = fork();
    if (child == 0) {
        int left = open_descriptors() - before;
        if (left != 0 || bootstrap_from_id(&settings, &id, 0, 2, NULL, &bootstrap) != TUTTI_ERR_ARG)
            _exit(1 + left);
        /* There is as much room for ids of its own as ever. */
        for (int i = 0; i < 256; i++)
            left += bootstrap_root_id(&settings, &other) != TUTTI_OK;
        _exit(left);
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_TRUE(WIFEXITED(status));
    CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_OK);
    bootstrap_free(bootstrap);
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

static void test_roots_of_one_rank(void)
{
    struct stage *stage = stage_new(1, 5000);
    int before = open_descriptors();
    make_id(stage);
    play(&stage->players[0]);
    expect_all_well(stage->players, 1);
    CU_ASSERT_EQUAL(open_descriptors(), before);
    play(&stage->players[0]);
    expect_sentence(&stage->players[0], TUTTI_ERR_ARG, "this unique id is used up: rank 0 of 1");
    stage_end(stage);
}

/* ---- use, and use again -----------------------------------------------------------------------
 */

static void test_roots_know_an_id_that_is_used_up(void)
{
    for (uint32_t root = 0; root < 3; root++) {
        char says[64];
        struct stage *stage = stage_new(3, LIMIT_MS);
        perform(stage, 3, 1u << root);
        expect_all_well(stage->players, 3);
        snprintf(says, sizeof says, "this unique id is used up: rank %u of 3, in this", root);
        for (uint32_t r = 0; r < 3; r++) {
            play(&stage->players[r]);
            expect_sentence(&stage->players[r], TUTTI_ERR_ARG, says);
        }
        stage_end(stage);
    }
}

/* One that failed is as used as any other. The ids made since then do not make it unknown at once,
 * and as many as ever can wait. */
static void test_roots_know_an_id_that_failed(void)
{
    struct settings settings = quick(1000);
    struct stage *stage = stage_new(2, 300);
    int before = open_descriptors(), made = 0;
    static tutti_unique_id ids[300];
    make_id(stage);
    play(&stage->players[1]);
    expect_sentence(&stage->players[1], TUTTI_ERR_CONNECT, "1 of 2 ranks did not come");
    while (made < 200 && bootstrap_unique_id(&settings, &ids[made]) == TUTTI_OK)
        made++;
    play(&stage->players[0]);
    expect_sentence(&stage->players[0], TUTTI_ERR_CONNECT,
                    "rank 0 of 2 comes too late: the rendezvous of this unique id has failed at "
                    "rank 1 of 2, in this process");
    while (made < 300 && bootstrap_unique_id(&settings, &ids[made]) == TUTTI_OK)
        made++;
    CU_ASSERT_EQUAL(made, 256);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "256 unique ids are waiting"));
    while (made > 0) {
        struct bootstrap *alone = NULL;
        CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &ids[--made], 0, 1, NULL, &alone), TUTTI_OK);
        bootstrap_free(alone);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
    stage_end(stage);
}

/* ---- failures ---------------------------------------------------------------------------------
 */

static void test_roots_name_a_size_that_differs(void)
{
    for (uint32_t root = 0; root < 4; root++) {
        char says[64];
        struct stage *stage = stage_new(4, LIMIT_MS);
        uint32_t wrong = (root + 1) % 4;
        stage->players[wrong].size = 8;
        stage->players[root].still = STILL_FOR_GOOD; /* who comes late is told, too */
        perform(stage, 4, 1u << root);
        snprintf(says, sizeof says, "communicator has 8 ranks, rank %u (host ", root);
        for (uint32_t r = 0; r < 4; r++)
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, says);
        stage_end(stage);
    }
}

static void test_roots_name_a_rank_claimed_twice(void)
{
    for (uint32_t twice = 0; twice < 4; twice++) { /* the root's own, rank 2, too */
        char says[64];
        struct stage *stage = stage_new(4, LIMIT_MS);
        uint32_t other = (twice + 1) % 4 == 2 ? (twice + 2) % 4 : (twice + 1) % 4;
        stage->players[other].rank = twice;
        stage->players[2].still = STILL_FOR_GOOD;
        perform(stage, 4, 1u << 2);
        snprintf(says, sizeof says, "two processes say they are rank %u: rank %u (host ", twice,
                 twice);
        for (uint32_t r = 0; r < 4; r++)
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, says);
        stage_end(stage);
    }
}

static void test_roots_refuse_a_wrong_secret(void)
{
    struct stage *stage = stage_new(3, LIMIT_MS);
    stage->players[1].after = &stage->players[0].ended;
    stage->players[2].settings.meet_timeout_ms = 300;
    stage->players[2].still = seats_taken() + 1;
    for (uint32_t r = 0; r < 3; r++)
        snprintf(stage->players[r].settings.secret, SETTING_TEXT_MAX, r == 0 ? "guess" : "right");
    perform(stage, 3, 1u << 2);
    expect_sentence(&stage->players[0], TUTTI_ERR_AUTH, "rank 2 at ");
    expect_sentence(&stage->players[0], TUTTI_ERR_AUTH,
                    " refuses rank 0: its job secret is another than rank 2's; ");
    for (uint32_t r = 1; r < 3; r++) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "within 300 ms: 0; 1 connection");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "can reach rank 2, or raise");
    }
    stage_end(stage);
}

static void test_roots_name_missing_ranks(void)
{
    struct stage *stage = stage_new(7, LIMIT_MS);
    stage->players[0].delay_ms = 500; /* longer than the root's time, which begins then */
    stage->players[3].settings.meet_timeout_ms = 300;
    stage->players[3].still = seats_taken() + 3;
    perform(stage, 4, 1u << 3);
    for (uint32_t r = 0; r < 4; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, "within 300 ms: 4-6; ");
    stage_end(stage);
}

/* The root has descriptors for 3 of 7 others: all are told, those who come later, too. */
static void test_roots_name_a_lack_of_descriptors(void)
{
    enum { SIZE = 8, ROOT = SIZE - 1, ROOM = 3 };
    struct stage *stage = stage_new(SIZE, LIMIT_MS);
    pid_t children[SIZE];
    struct rlimit before, few;
    stage->players[ROOT].still = STILL_FOR_GOOD;
    for (uint32_t r = 0; r < ROOT; r++)
        children[r] = fork_ranks(stage, 1u << r);
    make_id(stage);
    int next = dup(0);
    close(next);
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = (rlim_t)(next + 1 + ROOM); /* the root has an epoll, too */
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &few), 0);
    play_ranks(stage, 1u << ROOT);
    setrlimit(RLIMIT_NOFILE, &before);
    for (uint32_t r = 0; r < ROOT; r++)
        waitpid(children[r], NULL, 0);
    char says[200];
    snprintf(says, sizeof says,
             "rank 7 has no descriptors for the rendezvous, which needs one for each of 8 ranks: "
             "raise their limit (ulimit -n), now %d: accept a connection: Too many open files",
             next + 1 + ROOM);
    for (uint32_t r = 0; r < SIZE; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_NOMEM, says);
    stage_end(stage);
}

/* A rank without any does not search for the root until its time is up. */
static void test_roots_are_not_looked_for_without_descriptors(void)
{
    struct settings settings = quick(LIMIT_MS);
    struct bootstrap *bootstrap = NULL;
    struct rlimit before, none;
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = 3;
    uint64_t began = clock_ms();
    CU_ASSERT_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 1, 2, NULL, &bootstrap), TUTTI_ERR_NOMEM);
    setrlimit(RLIMIT_NOFILE, &before);
    CU_ASSERT_TRUE(clock_ms() - began < LIMIT_MS / 2);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "rank 1 of 2 has nothing to look for rank 0"));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "(the limit is ulimit -n): Too many open"));
    CU_ASSERT_EQUAL(bootstrap_give_back(&id), TUTTI_OK);
}

/* Rank 0 waits for the maker as any other rank does. */
static void test_roots_that_never_come(void)
{
    struct stage *stage = stage_new(3, 600);
    perform(stage, 2, 0);
    for (uint32_t r = 0; r < 2; r++) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        " of 3 did not find the unique id's maker within 600 ms: ");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "no answer (the unique id's maker is not ready");
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "see that the process that made the id runs, takes part or serves it,");
    }
    stage->players[0].size = 1; /* gives the sockets back */
    play(&stage->players[0]);
    CU_ASSERT_EQUAL(stage->players[0].status, TUTTI_OK);
    stage_end(stage);
}

static void test_roots_that_leave(void)
{
    struct stage *stage = stage_new(4, LIMIT_MS);
    unsigned seated = seats_taken();
    stage->players[1].leaves = true;
    perform(stage, 4, 1u << 1);
    CU_ASSERT_EQUAL(seats_taken(), seated + 3); /* at once, though the root waits no more */
    for (uint32_t r = 0; r < 4; r++) {
        if (r != 1)
            expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT, " lost rank 1 at ");
    }
    stage_end(stage);
}

static void test_roots_name_blocks_that_differ(void)
{
    struct stage *stage = stage_new(3, LIMIT_MS);
    stage->players[0].len = 100;
    perform(stage, 3, 1u << 1);
    for (uint32_t r = 0; r < 3; r++)
        expect_sentence(&stage->players[r], TUTTI_ERR_PROTOCOL,
                        "gave 100 bytes to allgather 0 of the rendezvous, rank 1 gives 200");
    stage_end(stage);
}

/* From a process of its own, when so many have been seated. */
static pid_t cancel_then(struct stage *stage, unsigned seated)
{
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return child;
    seats_await(seated);
    __atomic_store_n(&stage->cancel, 1, __ATOMIC_RELEASE);
    _exit(0);
}

/* The root, or another, is cancelled while rank 3 is missing. */
static void test_roots_that_are_cancelled(void)
{
    for (uint32_t quitter = 0; quitter < 3; quitter++) {
        struct stage *stage = stage_new(4, LIMIT_MS);
        stage->players[quitter].cancel = &stage->cancel;
        pid_t canceller = cancel_then(stage, seats_taken() + 2);
        perform(stage, 3, 1u << 2);
        waitpid(canceller, NULL, 0);
        for (uint32_t r = 0; r < 3; r++) {
            char says[64];
            snprintf(says, sizeof says,
                     r == quitter || quitter == 2 ? "rank %u of 4 aborted the communicator"
                                                  : "rank %u (host ",
                     quitter);
            expect_sentence(&stage->players[r],
                            r == quitter ? TUTTI_ERR_ABORTED : TUTTI_ERR_CONNECT, says);
            CU_ASSERT_TRUE(stage->players[r].took_ms < LIMIT_MS);
        }
        stage_end(stage);
    }
}

static void test_roots_give_ids_back(void)
{
    int before = open_descriptors();
    tutti_unique_id ids[300];
    for (int i = 0; i < 300; i++) { /* more than may wait at a time */
        CU_ASSERT_EQUAL_FATAL(tutti_unique_id_create(&ids[i]), TUTTI_OK);
        CU_ASSERT_EQUAL(tutti_unique_id_release(&ids[i]), TUTTI_OK);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
    CU_ASSERT_EQUAL(tutti_unique_id_release(&ids[299]), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_unique_id_release(&ids[0]), TUTTI_ERR_ARG); /* long forgotten */
    CU_ASSERT_EQUAL(tutti_unique_id_release(NULL), TUTTI_ERR_ARG);
    tutti_comm *comm;
    CU_ASSERT_EQUAL(tutti_comm_create(2, &ids[299], 0, &comm), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "this unique id was given back"));
    memset(&ids[0], 'x', sizeof ids[0]);
    CU_ASSERT_EQUAL(tutti_unique_id_release(&ids[0]), TUTTI_ERR_ARG);
}

/* The maker has ended before anyone came: its sockets refuse. */
static void test_roots_that_have_ended(void)
{
    struct stage *stage = stage_new(2, LIMIT_MS);
    fflush(stdout);
    pid_t maker = fork();
    if (maker == 0) {
        make_id(stage);
        _exit(0);
    }
    waitpid(maker, NULL, 0);
    play_ranks(stage, 3);
    for (uint32_t r = 0; r < 2; r++) {
        expect_sentence(&stage->players[r], TUTTI_ERR_CONNECT,
                        "finds nobody behind the unique id: the process that made it has ended");
        CU_ASSERT_TRUE(stage->players[r].took_ms < 15000);
    }
    stage_end(stage);
}

static const struct suite_test tests[] = {
    TEST(roots_of_every_rank),
    TEST(roots_among_threads),
    TEST(roots_across_forks),
    TEST(roots_leave_nothing_to_children),
    TEST(roots_of_one_rank),
    TEST(roots_know_an_id_that_is_used_up),
    TEST(roots_know_an_id_that_failed),
    TEST(roots_name_a_size_that_differs),
    TEST(roots_name_a_rank_claimed_twice),
    TEST(roots_refuse_a_wrong_secret),
    TEST(roots_name_missing_ranks),
    TEST(roots_name_a_lack_of_descriptors),
    TEST(roots_are_not_looked_for_without_descriptors),
    TEST(roots_that_never_come),
    TEST(roots_that_leave),
    TEST(roots_name_blocks_that_differ),
    TEST(roots_that_are_cancelled),
    TEST(roots_that_have_ended),
    TEST(roots_give_ids_back),
};

int main(int argc, char **argv)
{
    return suite_run("roots", tests, sizeof tests / sizeof *tests, argc, argv);
}
