/* test_cancel.c: communicators that are given up while they are made of others: by the word of the
 * cancellable calls, or since their parent is aborted. The rank that gives up leaves at once, and
 * the others are told who it was. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/world_suite.h"

#define AFTER_S  0.1 /* when the word is set, or the parent aborted */
#define PROMPT_S 1.0 /* 0.2, and what a busy machine adds */
#define MEET_S   3.0 /* the same for a rank that had no link to the one that gave up */
#define LATE_S   0.3 /* how much later the rank that is waited for comes */
#define TRIES    5   /* of what was slow: the machine may be busy */

enum means { BY_WORD, BY_WORD_BEFORE, BY_PARENT, MEANS };

/* Who gives up, whom all wait for, and whether the parent has been used (so that it has links). */
struct scene {
    enum means means;
    int quitter, late;
    bool used;
    atomic_int *slow; /* how many were, in memory that processes share */
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

static void judge_time(const struct scene *scene, double took, double limit)
{
    if (took >= limit)
        atomic_fetch_add(scene->slow, 1);
}

/* Its call has ended: now who is late may come, but not before, since all would be well if it did.
 */
static void quit_ended(struct quitter *quitter, const struct scene *scene)
{
    double now = world_seconds();
    world_tell();
    if (scene->means != BY_WORD_BEFORE)
        pthread_join(quitter->thread, NULL);
    judge_time(scene, now - quitter->at, PROMPT_S);
}

/* The rank that is waited for, when so many have told. */
static int come_late(int rank, int told)
{
    int wrong = world_await(rank, told);
    usleep((unsigned)(LATE_S * 1e6));
    return wrong;
}

static int names(int rank, int quitter)
{
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", quitter);
    return world_says(rank, name);
}

/* A used parent has a link between any two: alltoall made them, which bruck does not. */
#define HURRY "TUTTI_MEET_TIMEOUT_MS=15000", "TUTTI_ALGO=alltoall:direct"

/* Each rank of `members` gives up in turn, while another is waited for, in a world of `size`. */
static void scenes(int members, int size, bool used, world_fn *function)
{
    static const char *const hurry[] = {HURRY, NULL};
    static const char *const over_shm[] = {"TUTTI_TRANSPORTS=shm", HURRY, NULL};
    static const char *const over_tcp[] = {"TUTTI_TRANSPORTS=tcp", HURRY, NULL};
    static const char *const *const settings[] = {hurry, over_shm, over_tcp};
    atomic_int *slow =
        mmap(NULL, sizeof *slow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(slow != MAP_FAILED);
    for (int i = 0; i < 3 * MEANS; i++) {
        int quitter = (i + used) % members;
        int late = (quitter + 1 + i / members % (members - 1)) % members;
        struct scene scene = {(enum means)(i / 3), quitter, late, used, slow};
        struct world world = {.kind = i % 3 == 0 ? WORLD_THREADS : WORLD_PROCESSES,
                              .size = size,
                              .settings = settings[i % 3],
                              .limit_s = 60};
        int wrong, tries = 0;
        do {
            atomic_store(slow, 0);
            wrong = world_run(&world, function, &scene);
        } while (!wrong && atomic_load(slow) > 0 && ++tries < TRIES);
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT(tries < TRIES);
        if (wrong || tries == TRIES)
            printf("    rank %d gave up by means %d, rank %d was late, parent used %d, %s\n",
                   quitter, scene.means, late, used, settings[i % 3][0]);
    }
    munmap(slow, sizeof *slow);
}

/* ---- split ------------------------------------------------------------------------------------
 */

#define OF_SPLIT "aborted the communicator that was being made of this one"

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
    if (scene->used) {
        wrong += WORLD_OK(tutti_alltoall(values, blocks, 1, TUTTI_INT32, comm));
        world_tell();
        wrong += world_await(rank, size); /* until all have left it */
    }
    if (rank == scene->late) /* who had a link to the quitter has left as well */
        wrong += come_late(rank, scene->used ? size + size - 1 : 1);
    double start = world_seconds();
    if (rank == scene->quitter) {
        quit_soon(&quitter, scene->means, comm);
        wrong += WORLD_TAKEN(tutti_comm_split_cancellable(comm, 0, 0, &quitter.cancel, &child),
                             TUTTI_ERR_ABORTED);
        quit_ended(&quitter, scene);
    } else {
        wrong += WORLD_TAKEN(tutti_comm_split(comm, rank % 2 ? TUTTI_NO_COLOR : 0, 0, &child),
                             TUTTI_ERR_PEER);
        judge_time(scene, world_seconds() - start, scene->used ? AFTER_S + PROMPT_S : MEET_S);
        world_tell();
    }
    wrong += split_says(scene, rank);
    wrong += world_check(rank, child == NULL, "a communicator");
    wrong += WORLD_TAKEN(tutti_comm_status(comm), want) + split_says(scene, rank);
    wrong += WORLD_TAKEN(tutti_barrier(comm), want) + split_says(scene, rank);
    return wrong + WORLD_TAKEN(tutti_comm_split(comm, 0, 0, &again), want);
}

static void test_cancel_split(void)
{
    for (int used = 0; used < 2; used++) {
        scenes(2, 2, used, splitting);
        scenes(3, 3, used, splitting);
        if (!getenv("TUTTI_TEST_FAST"))
            scenes(5, 5, used, splitting);
    }
}

/* ---- shrink -----------------------------------------------------------------------------------
 */

#define OF_SHRINK "aborted the communicator that a shrink was making"

/* The last rank is left out. Every rank has a link to every other; the parent works on, or has been
 * revoked. */
static int shrinking(tutti_comm *comm, int rank, int size, void *context)
{
    const struct scene *scene = context;
    struct quitter quitter;
    tutti_comm *child = NULL;
    int wrong = 0, values[8] = {0}, blocks[8], last = size - 1;
    bool revoked = scene->means == BY_WORD;
    wrong += WORLD_OK(tutti_alltoall(values, blocks, 1, TUTTI_INT32, comm));
    wrong += WORLD_OK(tutti_barrier(comm));
    world_tell();
    wrong += world_await(rank, size); /* until all have left the barrier */
    if (revoked)
        wrong += WORLD_OK(tutti_comm_revoke(comm));
    if (rank == last)
        return wrong;
    if (rank == scene->late) /* all others have left as well, but for those whom rank 0 tells */
        wrong += come_late(rank, rank == 0 ? size + 1 : size + size - 2);
    double start = world_seconds();
    if (rank == scene->quitter) {
        quit_soon(&quitter, scene->means, comm);
        wrong += WORLD_TAKEN(tutti_comm_shrink_cancellable(comm, &last, 1, &quitter.cancel, &child),
                             TUTTI_ERR_ABORTED);
        quit_ended(&quitter, scene);
        wrong += names(rank, rank) + world_says(rank, "aborted the communicator");
    } else {
        wrong += WORLD_TAKEN(tutti_comm_shrink(comm, &last, 1, &child), TUTTI_ERR_PEER);
        judge_time(scene, world_seconds() - start, AFTER_S + LATE_S + PROMPT_S);
        if (rank != scene->late)
            world_tell();
        wrong += names(rank, scene->quitter);
        if (scene->means != BY_PARENT)
            wrong += world_says(rank, OF_SHRINK);
    }
    wrong += world_check(rank, child == NULL, "a communicator");
    /* Together again, now that all know. */
    world_tell();
    wrong += world_await(rank, size + size - 2 + size - 1);
    if (scene->means == BY_PARENT && rank == scene->quitter)
        return wrong + WORLD_TAKEN(tutti_comm_shrink(comm, &last, 1, &child), TUTTI_ERR_ABORTED) +
               world_says(rank, "has left this communicator for good");
    if (scene->means == BY_PARENT)
        return wrong;
    wrong += WORLD_OK(tutti_comm_shrink(comm, &last, 1, &child));
    values[0] = 1;
    wrong += WORLD_OK(tutti_allreduce(values, blocks, 1, TUTTI_INT32, TUTTI_SUM, child));
    wrong += world_check(rank, blocks[0] == size - 1, "sum %d", blocks[0]);
    wrong += world_check(rank, (tutti_comm_status(comm) != TUTTI_OK) == revoked, "the parent: %s",
                         tutti_last_error());
    return wrong + WORLD_OK(tutti_comm_destroy(child));
}

static void test_cancel_shrink(void)
{
    scenes(2, 3, true, shrinking);
    scenes(3, 4, true, shrinking);
    if (!getenv("TUTTI_TEST_FAST"))
        scenes(5, 6, true, shrinking);
}

/* Nobody has a link, and one gives up: it does so at once. Who comes only then and has to call it
 * waits to its limit, and tells those that wait longer. */
static int shrinking_unmet(tutti_comm *comm, int rank, int size, void *context)
{
    const struct scene *scene = context;
    struct quitter quitter;
    tutti_comm *child = NULL;
    int wrong = 0;
    if (scene->means != BY_WORD)
        return 0; /* the same, and it takes long */
    if (rank == 0)
        comm->settings.meet_timeout_ms = 4000;
    if (rank == scene->late)
        wrong += come_late(rank, 1);
    double start = world_seconds();
    if (rank == scene->quitter) {
        quit_soon(&quitter, scene->means, comm);
        wrong += WORLD_TAKEN(tutti_comm_shrink_cancellable(comm, NULL, 0, &quitter.cancel, &child),
                             TUTTI_ERR_ABORTED);
        quit_ended(&quitter, scene);
        return wrong + world_await(rank, size);
    }
    wrong += world_check(rank, tutti_comm_shrink(comm, NULL, 0, &child) != TUTTI_OK, "shrunk");
    /* The late one may find that others have gone. */
    wrong += rank == scene->late ? world_says(rank, "rank ") : names(rank, scene->quitter);
    judge_time(scene, world_seconds() - start, 6);
    world_tell();
    return wrong;
}

static void test_cancel_shrink_without_links(void)
{
    scenes(3, 3, false, shrinking_unmet);
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

/* The others are not there yet, so that links are only half made: the promise is kept all the same.
 */
static int leave_in_time(tutti_comm *comm, int rank, int size, void *context)
{
    int quitting = size - 1, wrong = 0, prompt = 0;
    (void)context;
    for (int i = 0; i < 4 * TRIES && !prompt; i++) {
        tutti_comm *parent = NULL, *child = NULL;
        wrong += WORLD_OK(tutti_comm_dup(comm, &parent));
        if (rank == quitting) {
            struct quitter quitter;
            quit_soon(&quitter, BY_WORD, parent);
            wrong +=
                WORLD_TAKEN(tutti_comm_split_cancellable(parent, 0, 0, &quitter.cancel, &child),
                            TUTTI_ERR_ABORTED);
            double now = world_seconds();
            pthread_join(quitter.thread, NULL);
            prompt = now - quitter.at < 0.15;
        }
        wrong += WORLD_OK(tutti_broadcast(&prompt, &prompt, 1, TUTTI_INT32, quitting, comm));
        wrong += WORLD_OK(tutti_comm_destroy(parent));
    }
    return wrong + world_check(rank, prompt, "never within 0.15 s");
}

static void test_cancel_of_a_split_is_prompt_when_nobody_has_come(void)
{
    for (int i = 0; i < 3; i++) {
        struct world world = world_over(i, i == 2 ? 4 : 2);
        CU_ASSERT_EQUAL(world_run(&world, leave_in_time, NULL), 0);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"split", test_cancel_split},
        {"shrink", test_cancel_shrink},
        {"shrink_without_links", test_cancel_shrink_without_links},
        {"not", test_cancel_not},
        {"of_a_split_is_prompt_when_nobody_has_come",
         test_cancel_of_a_split_is_prompt_when_nobody_has_come},
    };
    return suite_run("cancel", tests, sizeof tests / sizeof *tests, argc, argv);
}
