/* test_cancel.c: communicators that are given up while they are made of others: by the word of the
 * cancellable calls, or since their parent is aborted. The rank that gives up leaves at once, and
 * the others are told who it was. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/suite.h"
#include "tests/world.h"

#define AFTER_S  0.1 /* when the word is set, or the parent aborted */
#define PROMPT_S 1.0 /* 0.1, and what a busy machine adds */
#define MEET_S   3.0 /* the same for a rank that had no link to the one that gave up */
#define LATE_S   0.4 /* when the rank that is waited for comes */

enum means { BY_WORD, BY_WORD_BEFORE, BY_PARENT, MEANS };

/* Who gives up, whom all wait for, and whether the parent has been used (so that it has links). */
struct scene {
    enum means means;
    int quitter, late;
    bool used;
};

struct quitter {
    tutti_comm *parent; /* aborted; NULL: the word is set */
    int cancel;
    double at;
    pthread_t thread;
};

static void *quit(void *argument)
{
    struct quitter *quitter = argument;
    usleep((unsigned)(AFTER_S * 1e6));
    quitter->at = world_seconds();
    if (quitter->parent)
        tutti_comm_abort(quitter->parent);
    else
        __atomic_store_n(&quitter->cancel, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* A thread that will do it; with BY_WORD_BEFORE it is done already. */
static void quit_soon(struct quitter *quitter, enum means means, tutti_comm *parent)
{
    *quitter = (struct quitter){.parent = means == BY_PARENT ? parent : NULL,
                                .cancel = means == BY_WORD_BEFORE,
                                .at = world_seconds()};
    if (means != BY_WORD_BEFORE && pthread_create(&quitter->thread, NULL, quit, quitter) != 0)
        abort();
}

static int quit_ended(struct quitter *quitter, enum means means, int rank)
{
    double now = world_seconds();
    if (means != BY_WORD_BEFORE)
        pthread_join(quitter->thread, NULL);
    return world_check(rank, now - quitter->at < PROMPT_S, "took %.2f s", now - quitter->at);
}

static int names(int rank, int quitter)
{
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", quitter);
    return world_says(rank, name);
}

static void scenes(int size, world_fn *function, bool by_parent)
{
    static const char *const shm[] = {"TUTTI_TRANSPORTS=shm", NULL};
    static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};
    static const char *const *const settings[] = {NULL, shm, tcp};
    for (int i = 0; i < 3 * MEANS * 2; i++) {
        enum means means = (enum means)(i / 3 % MEANS);
        /* Each rank in turn; the one that is waited for is another. */
        int quitter = i % size, late = (quitter + 1 + i / size % (size - 1)) % size;
        struct scene scene = {means, quitter, late, i >= 3 * MEANS};
        struct world world = {.kind = i % 3 == 0 ? WORLD_THREADS : WORLD_PROCESSES,
                              .size = size,
                              .settings = settings[i % 3],
                              .limit_s = 20};
        if (means == BY_PARENT && !by_parent)
            continue;
        CU_ASSERT_EQUAL(world_run(&world, function, &scene), 0);
    }
}

/* ---- split ------------------------------------------------------------------------------------
 */

#define OF_SPLIT "aborted the communicator that a split of this one was making"

/* What both the split and, from then on, the parent say. A rank that never met the quitter finds it
 * gone, and the late one perhaps another, which met it and is gone by now. */
static int split_says(const struct scene *scene, int rank)
{
    if (!scene->used && rank == scene->late)
        return world_says(rank, "rank ");
    if (!scene->used && rank != scene->quitter)
        return names(rank, scene->quitter);
    return names(rank, scene->quitter) +
           world_says(rank, scene->means == BY_PARENT ? "aborted the communicator" : OF_SPLIT);
}

static int splitting(tutti_comm *comm, int rank, int size, void *context)
{
    const struct scene *scene = context;
    struct quitter quitter;
    tutti_comm *child = NULL, *again = NULL;
    int wrong = 0, values[8] = {0}, blocks[8];
    tutti_status want = rank == scene->quitter ? TUTTI_ERR_ABORTED : TUTTI_ERR_PEER;
    if (scene->used)
        wrong += WORLD_OK(tutti_alltoall(values, blocks, 1, TUTTI_INT32, comm));
    if (rank == scene->late)
        usleep((unsigned)(LATE_S * 1e6));
    double start = world_seconds();
    if (rank == scene->quitter) {
        quit_soon(&quitter, scene->means, comm);
        wrong += WORLD_TAKEN(tutti_comm_split_cancellable(comm, 0, 0, &quitter.cancel, &child),
                             TUTTI_ERR_ABORTED);
        wrong += split_says(scene, rank);
        wrong += quit_ended(&quitter, scene->means, rank);
    } else {
        wrong += WORLD_TAKEN(tutti_comm_split(comm, rank % 2 ? TUTTI_NO_COLOR : 0, 0, &child),
                             TUTTI_ERR_PEER);
        wrong += split_says(scene, rank);
        double limit = scene->used ? AFTER_S + PROMPT_S : MEET_S;
        wrong += world_check(rank, world_seconds() - start < limit, "took %.2f s",
                             world_seconds() - start);
    }
    wrong += world_check(rank, child == NULL, "a communicator");
    wrong += WORLD_TAKEN(tutti_comm_status(comm), want) + split_says(scene, rank);
    wrong += WORLD_TAKEN(tutti_barrier(comm), want) + split_says(scene, rank);
    wrong += WORLD_TAKEN(tutti_comm_split(comm, 0, 0, &again), want);
    (void)size;
    return wrong;
}

static void test_cancel_split(void)
{
    scenes(2, splitting, true);
    scenes(3, splitting, true);
    if (!getenv("TUTTI_TEST_FAST"))
        scenes(5, splitting, true);
}

/* A word that nobody sets is in nobody's way, nor one that is set when all is done. */
static int splitting_well(tutti_comm *comm, int rank, int size, void *context)
{
    int cancel = 0, sum = 0, wrong = 0;
    tutti_comm *child = NULL;
    (void)context;
    wrong += WORLD_OK(tutti_comm_split_cancellable(comm, 0, -rank, &cancel, &child));
    cancel = 1;
    wrong += WORLD_OK(tutti_allreduce(&rank, &sum, 1, TUTTI_INT32, TUTTI_SUM, child));
    wrong += WORLD_OK(tutti_allreduce(&sum, &sum, 1, TUTTI_INT32, TUTTI_MAX, comm));
    wrong += world_check(rank, sum == size * (size - 1) / 2, "sum %d", sum);
    wrong += WORLD_OK(tutti_comm_destroy(child));
    wrong +=
        WORLD_TAKEN(tutti_comm_split_cancellable(NULL, 0, 0, &cancel, &child), TUTTI_ERR_STATE);
    wrong += WORLD_TAKEN(tutti_comm_split_cancellable(comm, 0, 0, &cancel, NULL), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_comm_split_cancellable(comm, -7, 0, &cancel, &child), TUTTI_ERR_ARG);
    return wrong + WORLD_OK(tutti_barrier(comm));
}

static void test_cancel_not(void)
{
    struct world world = {.kind = WORLD_THREADS, .size = 3};
    CU_ASSERT_EQUAL(world_run(&world, splitting_well, NULL), 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"split", test_cancel_split},
        {"not", test_cancel_not},
    };
    return suite_run("cancel", tests, sizeof tests / sizeof *tests, argc, argv);
}
