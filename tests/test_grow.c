/* test_grow.c: communicators that take newcomers in. The world's communicator carries ids; that of
 * its first ranks, split off it, grows by others of the world. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/seats.h"
#include "tests/testcase.h"
#include "tests/world_suite.h"

#define PROMPT_S 1.0 /* 0.2, and what a busy machine adds */

static const char *const hurried[] = {"TUTTI_MEET_TIMEOUT_MS=1500", NULL};

/* ---- pieces -----------------------------------------------------------------------------------
 */

/* The first `count` ranks; NULL at the others. */
static tutti_comm *first_ranks(tutti_comm *world, int rank, int count)
{
    tutti_comm *comm = NULL;
    if (tutti_comm_split(world, rank < count ? 0 : TUTTI_NO_COLOR, rank, &comm) != TUTTI_OK)
        world_check(rank, 0, "split: %s", tutti_last_error());
    return comm;
}

/* An id of rank `giver`, at every rank of the world. */
static int share_id(tutti_comm *world, int rank, int giver, tutti_unique_id *id)
{
    int wrong = rank == giver ? WORLD_OK(tutti_unique_id_create(id)) : 0;
    return wrong + WORLD_OK(tutti_broadcast(id, id, sizeof *id, TUTTI_UINT8, giver, world));
}

static int is_place(tutti_comm *comm, int rank, int want_size)
{
    int new_rank = -1, size = -1, wrong = 0;
    wrong += WORLD_OK(tutti_comm_rank(comm, &new_rank)) + WORLD_OK(tutti_comm_size(comm, &size));
    return wrong + world_check(rank, new_rank == rank && size == want_size,
                               "rank %d of %d, expected %d of %d", new_rank, size, rank, want_size);
}

/* Random collectives with known results. */
static int works(tutti_comm *comm, int rank, int size)
{
    static struct testcase cases[TESTCASE_RANKS_MAX];
    struct testcase *c = &cases[rank];
    uint64_t state = 77;
    int wrong = is_place(comm, rank, size);
    for (int i = 0; i < 30 && wrong == 0; i++) {
        testcase_generate(c, &state, size, 300);
        wrong += testcase_run(c, i % 2, rank, size, comm, i) > 0;
    }
    return wrong;
}

/* `from` ranks with a communicator become `to`; *grown is NULL at the others. */
static int grow(tutti_comm *world, tutti_comm *comm, int rank, int from, int to, int giver,
                tutti_comm **grown)
{
    tutti_unique_id id;
    int wrong = share_id(world, rank, giver, &id);
    *grown = NULL;
    if (rank < from)
        return wrong + WORLD_OK(tutti_comm_grow(comm, to, rank == giver ? &id : NULL, grown));
    return wrong + (rank < to ? WORLD_OK(tutti_comm_create(to, &id, rank, grown)) : 0);
}

/* ---- what works -------------------------------------------------------------------------------
 */

struct shape {
    int from, to, giver;
};

static int growing(tutti_comm *world, int rank, int size, void *context)
{
    const struct shape *shape = context;
    tutti_comm *comm = first_ranks(world, rank, shape->from), *grown;
    int wrong = 0;
    for (int round = 0; round < 2; round++) { /* one parent grows twice */
        wrong += grow(world, comm, rank, shape->from, shape->to, shape->giver, &grown);
        if (grown)
            wrong += works(grown, rank, shape->to);
        if (comm)
            wrong += works(comm, rank, shape->from);
        wrong += WORLD_OK(tutti_comm_destroy(grown));
    }
    (void)size;
    return wrong + (comm ? works(comm, rank, shape->from) : 0) + WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_makes_room_for_newcomers(void)
{
    static struct shape shapes[] = {{1, 2, 0}, {2, 5, 0}, {2, 5, 1}, {3, 4, 2}, {4, 7, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        run(WORLD_THREADS, shapes[i].to, NULL, growing, &shapes[i]);
        for (int k = 0; k < 3; k++) {
            struct world world = world_over(k, shapes[i].to);
            CU_ASSERT_EQUAL(world_run(&world, growing, &shapes[i]), 0);
        }
    }
}

/* Both ranks of the parent have an id to spare, or would have: one gives it, the other none. */
static int sparing(tutti_comm *world, int rank, int size, void *context)
{
    tutti_comm *comm = first_ranks(world, rank, 2), *grown = NULL;
    tutti_unique_id id;
    int spare = 1, wrong = share_id(world, rank, 0, &id);
    if (rank < 2) {
        wrong += WORLD_OK(
            tutti_comm_grow_cancellable(comm, size, rank == 0 ? &id : NULL, &spare, NULL, &grown));
        wrong += world_check(rank, spare == rank, "spare is %d", spare);
    } else {
        wrong += WORLD_OK(tutti_comm_create(size, &id, rank, &grown));
    }
    if (grown)
        wrong += works(grown, rank, size);
    (void)context;
    return wrong + WORLD_OK(tutti_comm_destroy(grown)) + WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_uses_an_id_to_spare(void)
{
    run(WORLD_PROCESSES, 3, NULL, sparing, NULL);
}

/* 1, 2, 5, 6: each a parent of the next, and gone before the one after that. */
static int growing_in_a_row(tutti_comm *world, int rank, int size, void *context)
{
    static const int sizes[] = {1, 2, 5, 6};
    tutti_comm *comm = first_ranks(world, rank, 1), *grown;
    int wrong = 0;
    for (int i = 1; i < 4; i++) {
        wrong += grow(world, comm, rank, sizes[i - 1], sizes[i], (i * 3) % sizes[i - 1], &grown);
        wrong += WORLD_OK(tutti_comm_destroy(comm));
        comm = grown;
    }
    wrong += works(comm, rank, size);
    (void)context;
    return wrong + WORLD_OK(tutti_comm_destroy(comm));
}

/* Rank 2 of 3 leaves, another takes its place; then the last of what has grown goes. */
static int growing_and_shrinking(tutti_comm *world, int rank, int size, void *context)
{
    tutti_comm *comm = first_ranks(world, rank, 3), *shrunk = NULL, *grown, *again = NULL;
    int wrong = 0, leaver = 2, last = 3;
    if (rank < 2)
        wrong += WORLD_OK(tutti_comm_shrink(comm, &leaver, 1, &shrunk));
    wrong += grow(world, shrunk, rank, 2, 4, 1, &grown);
    wrong += works(grown, rank, 4);
    if (rank < 3) {
        wrong += WORLD_OK(tutti_comm_shrink(grown, &last, 1, &again));
        wrong += works(again, rank, 3);
    }
    wrong += WORLD_OK(tutti_barrier(world));
    tutti_comm *all[] = {comm, shrunk, grown, again};
    for (int i = 0; i < 4; i++)
        wrong += WORLD_OK(tutti_comm_destroy(all[i]));
    (void)size, (void)context;
    return wrong;
}

static void test_grow_in_a_row_and_with_shrinks(void)
{
    run(WORLD_THREADS, 6, NULL, growing_in_a_row, NULL);
    run(WORLD_THREADS, 4, NULL, growing_and_shrinking, NULL);
    for (int k = 0; k < 3; k++) {
        struct world six = world_over(k, 6), four = world_over(k, 4);
        CU_ASSERT_EQUAL(world_run(&six, growing_in_a_row, NULL), 0);
        CU_ASSERT_EQUAL(world_run(&four, growing_and_shrinking, NULL), 0);
    }
}

/* ---- what is refused --------------------------------------------------------------------------
 */

static int refusing(tutti_comm *world, int rank, int size, void *context)
{
    tutti_comm *comm = first_ranks(world, rank, 3), *grown = NULL;
    tutti_unique_id id;
    int wrong = share_id(world, rank, 2, &id);
    if (rank < 3) {
        const tutti_unique_id *given = rank == 2 ? &id : NULL;
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, rank == 1 ? 5 : 4, given, &grown),
                             TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "grow: rank 0 (host ");
        wrong += world_says(rank, "grows the communicator to 4 ranks, rank 1 (host ");
        wrong += world_says(rank, ") to 5: every rank");
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, 3, given, &grown), TUTTI_ERR_ARG);
        wrong += world_says(rank, "grow: to 3 ranks: expected more than the 3 of the communicator");
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, -4, given, &grown), TUTTI_ERR_ARG);
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, 1 << 20, given, &grown), TUTTI_ERR_ARG);
        wrong += world_says(rank, "at most 65536");
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, 4, NULL, &grown), TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "none of the 3 ranks gives a unique id: one of them");
        wrong +=
            WORLD_TAKEN(tutti_comm_grow(comm, 4, rank ? &id : NULL, &grown), TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "grow: rank 1 (host ") + world_says(rank, ") and rank 2 (host ");
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, 4, &id, NULL), TUTTI_ERR_ARG);
        wrong += WORLD_TAKEN(tutti_comm_grow(NULL, 4, &id, &grown), TUTTI_ERR_STATE);
        wrong += world_check(rank, grown == NULL, "a communicator");
        wrong += works(comm, rank, 3);
        /* The id has not been used. */
        wrong += WORLD_OK(tutti_comm_grow(comm, 4, given, &grown));
    } else {
        wrong += WORLD_OK(tutti_comm_create(4, &id, rank, &grown));
    }
    wrong += works(grown, rank, 4) + WORLD_OK(tutti_comm_destroy(grown));
    grown = NULL;
    if (rank < 3) { /* now it has: its process knows at once, and tells the others */
        double start = world_seconds();
        wrong += WORLD_OK(tutti_barrier(comm));
        tutti_status status = tutti_comm_grow(comm, 4, rank == 2 ? &id : NULL, &grown);
        wrong += world_check(rank, status == TUTTI_ERR_ARG, "status %d", (int)status);
        wrong += world_says(rank, "this unique id is used up: rank ");
        wrong += world_check(rank, world_seconds() - start < PROMPT_S * WORLD_SLOW, "took %.2f s",
                             world_seconds() - start);
        wrong += works(comm, rank, 3);
    }
    wrong += WORLD_OK(tutti_barrier(world)); /* no rank is in comm */
    if (rank < 3) {
        wrong += WORLD_OK(tutti_comm_revoke(comm));
        wrong += WORLD_TAKEN(tutti_comm_grow(comm, 4, NULL, &grown), TUTTI_ERR_ABORTED);
        wrong += world_says(rank, "grow: a communicator that works is expected; shrink this one "
                                  "first: rank ");
    }
    (void)size, (void)context;
    return wrong + WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_refuses_what_ranks_disagree_about(void)
{
    run(WORLD_THREADS, 4, NULL, refusing, NULL);
    run(WORLD_PROCESSES, 4, shm, refusing, NULL);
    run(WORLD_PROCESSES, 4, tcp, refusing, NULL);
}

/* ---- newcomers --------------------------------------------------------------------------------
 */

enum newcomers { ONE_NEVER_COMES, TWO_OF_ONE_RANK, ONE_OF_A_LOW_RANK, NEWCOMERS };

/* Ranks 0 to 2 grow to 5; rank 4 does not do what it should. */
static int meeting_strangers(tutti_comm *world, int rank, int size, void *context)
{
    enum newcomers newcomers = *(enum newcomers *)context;
    tutti_comm *comm = first_ranks(world, rank, 3), *grown = NULL;
    tutti_unique_id id;
    unsigned seated = seats_taken();
    int wrong = WORLD_OK(tutti_barrier(world)) + share_id(world, rank, 1, &id);
    tutti_status status = TUTTI_ERR_CONNECT;
    if (rank == 4 && newcomers == ONE_OF_A_LOW_RANK)
        seats_await(seated + 3); /* it ends the meeting: who comes later finds nobody */
    double start = world_seconds();
    if (rank < 3)
        status = tutti_comm_grow(comm, 5, rank == 1 ? &id : NULL, &grown);
    else if (rank == 3 || newcomers != ONE_NEVER_COMES)
        status = tutti_comm_create(5, &id,
                                   rank == 3                      ? 3
                                   : newcomers == TWO_OF_ONE_RANK ? 3
                                                                  : 2,
                                   &grown);
    double took = world_seconds() - start;
    wrong += world_check(rank, status == TUTTI_ERR_CONNECT && !grown, "status %d", (int)status);
    if (rank < 4 && newcomers == ONE_NEVER_COMES)
        wrong += world_says(rank, "1 of 5 ranks did not come to the rendezvous within 1500 ms: 4;");
    else if (newcomers == TWO_OF_ONE_RANK)
        wrong += world_says(rank, "two processes say they are rank 3: rank 3 (host ");
    else if (rank < 4)
        wrong += world_says(rank, "two processes say they are rank 2: rank 2 (host ");
    wrong += world_check(rank, took < 1.5 + PROMPT_S * WORLD_SLOW, "took %.2f s", took);
    if (comm)
        wrong += works(comm, rank, 3);
    /* And all the better the next time. */
    wrong += grow(world, comm, rank, 3, size, 0, &grown);
    wrong += works(grown, rank, size) + WORLD_OK(tutti_comm_destroy(grown));
    return wrong + WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_names_newcomers_that_are_wrong(void)
{
    (void)seats_taken(); /* before any fork */
    for (enum newcomers n = 0; n < NEWCOMERS; n++) {
        run(WORLD_THREADS, 5, hurried, meeting_strangers, &n);
        run(WORLD_PROCESSES, 5, hurried, meeting_strangers, &n);
    }
}

/* ---- ends -------------------------------------------------------------------------------------
 */

enum end { BY_WORD, BY_WORD_BEFORE, BY_PARENT, ENDS };

struct scene {
    enum end end;
    int quitter, giver;
    bool killed; /* instead */
};

struct quitter {
    tutti_comm *parent;
    enum end end;
    int rank;
    unsigned seats;
    int cancel;
    double at;
};

static void *quit(void *argument)
{
    struct quitter *quitter = argument;
    (void)world_await(quitter->rank, 3); /* who waits for ever shows */
    seats_await(quitter->seats);         /* they have agreed by then */
    quitter->at = world_seconds();
    if (quitter->end == BY_PARENT)
        tutti_comm_abort(quitter->parent);
    else
        __atomic_store_n(&quitter->cancel, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Rank 3 never comes, rank 4 waits as well; one of ranks 0 to 2 gives up. */
static int giving_up(tutti_comm *world, int rank, int size, void *context)
{
    const struct scene *scene = context;
    tutti_comm *comm = first_ranks(world, rank, 3), *grown = NULL;
    struct quitter quitter = {
        .parent = comm, .end = scene->end, .rank = rank, .at = world_seconds()};
    bool quits = rank == scene->quitter, ends_parent = scene->end != BY_WORD;
    tutti_unique_id id, *given = rank == scene->giver ? &id : NULL;
    pthread_t thread;
    char name[32];
    quitter.seats = seats_taken() + 3; /* of the first ranks but the giver, and of rank 4 */
    int wrong = WORLD_OK(tutti_barrier(world)) + share_id(world, rank, scene->giver, &id);
    snprintf(name, sizeof name, "rank %d ", scene->quitter);
    if (quits && scene->end == BY_WORD_BEFORE)
        quitter.cancel = 1;
    else if (quits && pthread_create(&thread, NULL, quit, &quitter) != 0)
        abort();
    if (rank < 3)
        world_tell();
    double start = world_seconds();
    tutti_status status = TUTTI_ERR_CONNECT;
    if (quits)
        status = tutti_comm_grow_cancellable(comm, size, given, NULL, &quitter.cancel, &grown);
    else if (rank < 3)
        status = tutti_comm_grow(comm, size, given, &grown);
    else if (rank == 4 && scene->end != BY_WORD_BEFORE)
        status = tutti_comm_create(size, &id, rank, &grown);
    double took = world_seconds();
    if (quits && scene->end != BY_WORD_BEFORE)
        pthread_join(thread, NULL);
    took -= quits ? quitter.at : start;
    wrong += world_check(rank,
                         status == TUTTI_ERR_ABORTED
                             ? quits
                             : !quits && (status == TUTTI_ERR_PEER || status == TUTTI_ERR_CONNECT),
                         "status %d: %s", (int)status, tutti_last_error());
    if (rank < 3)
        wrong += world_says(rank, name);
    wrong += world_check(rank, took < (quits ? PROMPT_S : 0.3 + 2 * PROMPT_S) * WORLD_SLOW,
                         "took %.2f s: %s", took, tutti_last_error());
    if (comm && !ends_parent)
        wrong += works(comm, rank, 3);
    else if (comm)
        wrong += WORLD_TAKEN(tutti_barrier(comm), quits ? TUTTI_ERR_ABORTED : TUTTI_ERR_PEER);
    wrong += WORLD_OK(tutti_barrier(world));
    return wrong + WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_is_given_up(void)
{
    (void)seats_taken(); /* before any fork */
    for (int i = 0; i < ENDS * 9; i++) {
        struct scene scene = {.end = (enum end)(i / 9), .quitter = i % 3, .giver = i / 3 % 3};
        struct world world = world_over(i, 5);
        if (i % 2) {
            world.kind = WORLD_THREADS;
            world.settings = NULL;
            world.prepare = NULL;
        }
        int wrong = world_run(&world, giving_up, &scene);
        CU_ASSERT_EQUAL(wrong, 0);
        if (wrong)
            printf("    end %d, quitter %d, giver %d, kind %d\n", scene.end, scene.quitter,
                   scene.giver, world.kind);
    }
}

/* A rank of the parent is killed while all wait for a newcomer, or before it has come itself. */
static int dying(tutti_comm *world, int rank, int size, void *context)
{
    const struct scene *scene = context;
    tutti_comm *comm = first_ranks(world, rank, 3), *grown = NULL;
    tutti_unique_id id, *given = rank == scene->giver ? &id : NULL;
    char name[32];
    int wrong = share_id(world, rank, scene->giver, &id);
    snprintf(name, sizeof name, "rank %d", scene->quitter);
    if (comm)
        wrong += works(comm, rank, 3);
    world_tell();
    if (rank == scene->quitter) {
        wrong += world_await(rank, size); /* until no rank is in comm */
        alarm(1);                         /* SIGALRM ends the process */
        tutti_comm_grow(comm, size, given, &grown);
        raise(SIGKILL);
    }
    double start = world_seconds();
    tutti_status status = TUTTI_ERR_CONNECT;
    if (rank < 3)
        status = tutti_comm_grow(comm, size, given, &grown);
    double took = world_seconds() - start;
    wrong += world_check(rank, status == TUTTI_ERR_PEER || status == TUTTI_ERR_CONNECT,
                         "status %d: %s", (int)status, tutti_last_error());
    if (rank < 3)
        wrong += world_says(rank, name);
    return wrong + world_check(rank, took < 1 + 3 * PROMPT_S * WORLD_SLOW, "took %.2f s", took) +
           WORLD_OK(tutti_comm_destroy(comm));
}

static void test_grow_names_ranks_that_die(void)
{
    for (int i = 0; i < 9; i++) {
        struct scene scene = {.quitter = i % 3, .giver = i / 3};
        struct world world = world_over(i, 4);
        world.doomed = 1 + scene.quitter;
        CU_ASSERT_EQUAL(world_run(&world, dying, &scene), 0);
    }
}

static const struct suite_test tests[] = {
    TEST(grow_makes_room_for_newcomers),       TEST(grow_uses_an_id_to_spare),
    TEST(grow_in_a_row_and_with_shrinks),      TEST(grow_refuses_what_ranks_disagree_about),
    TEST(grow_names_newcomers_that_are_wrong), TEST(grow_is_given_up),
    TEST(grow_names_ranks_that_die),
};

int main(int argc, char **argv)
{
    return suite_run("grow", tests, sizeof tests / sizeof *tests, argc, argv);
}
