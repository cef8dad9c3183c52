/* test_nccl_life.c: how communicators of the NCCL face come to be, fail and end: split, shrink,
 * revoke, groups, non-blocking ones, exits that leave them alive, ids. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/nccl_world.h"

/* ---- split, shrink, revoke, groups ------------------------------------------------------------
 */

static int splitting(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm, child = (ncclComm_t)&config, other;
    int wrong = nccl_world_init(native, rank, size, &comm), last = size - 1;
    (void)context;
    /* Reversed, without the last rank. */
    config.splitShare = 1;
    wrong += OK(ncclCommSplit(comm, rank == last ? NCCL_SPLIT_NOCOLOR : 7, -rank, &child, &config));
    if (rank == last)
        wrong += world_check(rank, child == NULL, "a communicator without a color");
    else
        wrong += nccl_world_works(child, rank, last - 1 - rank, last) + OK(ncclCommDestroy(child));
    /* Two splits of one parent in one group run in order. */
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommSplit(comm, rank % 2, rank, &child, NULL));
    wrong += OK(ncclCommSplit(comm, 0, -rank, &other, NULL));
    wrong += OK(ncclGroupEnd());
    wrong += nccl_world_works(child, rank, rank / 2, (size + 1 - rank % 2) / 2) +
             OK(ncclCommDestroy(child));
    wrong += nccl_world_works(other, rank, last - rank, size) + OK(ncclCommDestroy(other));
    wrong += TAKEN(ncclCommSplit(comm, -5, 0, &child, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "color -5");
    wrong += TAKEN(ncclCommSplit(comm, 0, 0, NULL, NULL), ncclInvalidArgument);
    wrong += nccl_world_works(comm, rank, rank, size);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_life_split(void)
{
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_shm, splitting, NULL);
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_tcp, splitting, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, splitting, NULL);
}

/* Rank 1 leaves, at first in good order, then with the others' receives outstanding. */
static int shrinking(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, child;
    int excluded[] = {1}, value, wrong = nccl_world_init(native, rank, size, &comm);
    int new_rank = rank > 1 ? rank - 1 : rank;
    (void)context;
    if (rank != 1) {
        wrong += OK(ncclCommShrink(comm, excluded, 1, &child, NULL, NCCL_SHRINK_DEFAULT));
        wrong += nccl_world_works(child, rank, new_rank, size - 1) + OK(ncclCommDestroy(child));
    }
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += TAKEN(ncclCommShrink(comm, &rank, 1, &child, NULL, 0), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "excludes itself");
    wrong += TAKEN(ncclCommShrink(comm, excluded, 1, &child, NULL, 8), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "flags 0x8: expected");
    wrong += TAKEN(ncclCommShrink(comm, NULL, 1, &child, NULL, 0), ncclInvalidArgument);
    wrong += TAKEN(ncclCommShrink(comm, excluded, -1, &child, NULL, 0), ncclInvalidArgument);
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += tutti_barrier(native) != TUTTI_OK; /* until all have their results */
    if (rank == 1)
        return wrong + OK(ncclCommAbort(comm));
    if (rank == 0) { /* the others wait for it, the abort is theirs */
        usleep(50000);
    } else {
        wrong += world_check(rank, ncclRecv(&value, 1, ncclInt32, 0, comm, NULL) != ncclSuccess,
                             "received from a rank that sends nothing");
    }
    wrong += OK(ncclCommShrink(comm, excluded, 1, &child, NULL, NCCL_SHRINK_ABORT));
    wrong += nccl_world_works(child, rank, new_rank, size - 1);
    wrong += OK(ncclCommDestroy(comm));
    wrong += nccl_world_works(child, rank, new_rank, size - 1);
    return wrong + OK(ncclCommDestroy(child));
}

static void test_nccl_life_shrink(void)
{
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, shrinking, NULL);
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_tcp, shrinking, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, shrinking, NULL);
}

/* Rank 2 is killed under a collective. */
static int mourning(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, child;
    ncclResult_t result = ncclSuccess;
    int excluded[] = {2}, sum, wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += nccl_world_works(comm, rank, rank, size);
    world_tell();
    if (rank == 2) {
        wrong += world_await(rank, size); /* until the others have their results too */
        raise(SIGKILL);
    }
    double start = nccl_world_seconds();
    while (result == ncclSuccess && nccl_world_seconds() < start + 10)
        result = ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL);
    wrong += world_check(rank, result == ncclRemoteError, "result %d", (int)result);
    wrong += nccl_world_says(rank, "rank 2 (host ");
    wrong += nccl_world_is(comm, rank, ncclRemoteError);
    wrong += OK(ncclCommShrink(comm, excluded, 1, &child, NULL, NCCL_SHRINK_ABORT));
    wrong += nccl_world_works(child, rank, rank - (rank > 2), size - 1);
    wrong += world_check(rank, nccl_world_seconds() - start < 6, "took %.1f s",
                         nccl_world_seconds() - start);
    wrong += OK(ncclCommAbort(comm));
    return wrong + OK(ncclCommDestroy(child));
}

static void test_nccl_life_survives_a_death(void)
{
    const char *const *const kinds[] = {nccl_world_shm, nccl_world_tcp};
    for (int k = 0; k < 2; k++) {
        struct world world = {
            .kind = WORLD_PROCESSES, .size = 4, .settings = kinds[k], .limit_s = 60, .doomed = 3};
        CU_ASSERT_EQUAL(world_run(&world, mourning, NULL), 0);
    }
}

/* The same, of communicators that do nothing but ask, and of one whose rank leaves in order. */
static int mourning_idle(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, other;
    ncclResult_t state = ncclSuccess;
    int wrong = nccl_world_init(native, rank, size, &comm);
    wrong += nccl_world_init(native, rank, size, &other);
    (void)context;
    wrong += nccl_world_works(comm, rank, rank, size) + nccl_world_works(other, rank, rank, size);
    world_tell();
    wrong += world_await(rank, size); /* until the others have their results too */
    if (rank == 2) {
        wrong += OK(ncclCommDestroy(other));
        usleep(300000);
        raise(SIGKILL);
    }
    double start = nccl_world_seconds();
    while (state == ncclSuccess && nccl_world_seconds() < start + 10) {
        wrong += OK(ncclCommGetAsyncError(comm, &state));
        wrong += nccl_world_is(other, rank, ncclSuccess);
        usleep(1000);
    }
    wrong += world_check(rank, state == ncclRemoteError, "state %d", (int)state);
    wrong += nccl_world_says(rank, "rank 2 (host ");
    wrong += world_check(rank, nccl_world_seconds() - start < 5, "took %.1f s",
                         nccl_world_seconds() - start);
    wrong += nccl_world_is(other, rank, ncclSuccess);
    return wrong + OK(ncclCommAbort(comm)) + OK(ncclCommDestroy(other));
}

static void test_nccl_life_asks_for_a_death(void)
{
    const char *const *const kinds[] = {nccl_world_shm, nccl_world_tcp};
    for (int k = 0; k < 2; k++) {
        struct world world = {
            .kind = WORLD_PROCESSES, .size = 4, .settings = kinds[k], .limit_s = 60, .doomed = 3};
        CU_ASSERT_EQUAL(world_run(&world, mourning_idle, NULL), 0);
    }
}

static int revoking(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, child;
    int sum, wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += TAKEN(ncclCommRevoke(comm, 3), ncclInvalidArgument);
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += tutti_barrier(native) != TUTTI_OK; /* until all have their results */
    wrong += OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    wrong += nccl_world_is(comm, rank, ncclSuccess);
    wrong += TAKEN(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "was revoked before");
    wrong += TAKEN(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "was revoked: it can be split, shrunk, destroyed");
    wrong += TAKEN(ncclCommFinalize(comm), ncclInvalidUsage);
    wrong += OK(ncclCommSplit(comm, rank == 0 ? NCCL_SPLIT_NOCOLOR : 1, rank, &child, NULL));
    if (rank > 0)
        wrong += nccl_world_works(child, rank, rank - 1, size - 1) + OK(ncclCommDestroy(child));
    wrong += OK(ncclCommShrink(comm, NULL, 0, &child, NULL, NCCL_SHRINK_DEFAULT));
    wrong += nccl_world_works(child, rank, rank, size) + OK(ncclCommDestroy(child));
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_life_revoke(void)
{
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, revoking, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, revoking, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, revoking, NULL);
}

/* A group that uses communicators, and makes others of them or ends them: its calls run in between.
 */
static int ending_in_a_group(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, other, child = NULL;
    int sums[3] = {-1, -1, -1}, want = size * (size - 1) / 2;
    int wrong = nccl_world_init(native, rank, size, &comm);
    wrong += nccl_world_init(native, rank, size, &other);
    (void)context;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sums[0], 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclCommSplit(comm, 0, rank, &child, NULL));
    wrong += OK(ncclAllReduce(&rank, &sums[1], 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclCommFinalize(comm));
    wrong += TAKEN(ncclCommSplit(comm, 0, rank, &child, NULL), ncclInvalidUsage);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage); /* spoilt: not finalized either */
    wrong += world_check(rank, !child && sums[0] == -1, "a spoilt group ran");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sums[0], 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclCommSplit(comm, 0, rank, &child, NULL));
    wrong += OK(ncclAllReduce(&rank, &sums[1], 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclAllReduce(&rank, &sums[2], 1, ncclInt32, ncclSum, other, NULL));
    wrong += OK(ncclCommFinalize(comm));
    wrong += OK(ncclCommDestroy(comm));
    wrong += OK(ncclCommDestroy(other));
    wrong += OK(ncclGroupEnd());
    for (int i = 0; i < 3; i++)
        wrong += world_check(rank, sums[i] == want, "sum %d is %d", i, sums[i]);
    wrong += nccl_world_works(child, rank, rank, size);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommDestroy(child));
    wrong +=
        TAKEN(ncclAllReduce(&rank, &rank, 1, ncclInt32, ncclSum, child, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    return wrong + nccl_world_works(child, rank, rank, size) + OK(ncclCommDestroy(child));
}

static void test_nccl_life_ends_in_a_group(void)
{
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, ending_in_a_group, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, ending_in_a_group, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, ending_in_a_group, NULL);
}

/* ---- non-blocking -----------------------------------------------------------------------------
 */

static int nonblocking(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm = NULL, child = NULL, whole = NULL;
    int sum, wrong = nccl_world_id(native, rank, &id);
    (void)context;
    config.blocking = 0;
    if (rank == 0) { /* the others must see it in progress */
        wrong += tutti_barrier(native) != TUTTI_OK;
        wrong += TAKEN(ncclCommInitRankConfig(&comm, size, id, rank, &config), ncclInProgress);
    } else {
        wrong += TAKEN(ncclCommInitRankConfig(&comm, size, id, rank, &config), ncclInProgress);
        wrong += world_check(rank, comm != NULL, "no handle");
        wrong += nccl_world_is(comm, rank, ncclInProgress);
        wrong += TAKEN(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL),
                       ncclInvalidArgument);
        wrong += nccl_world_says(rank, "is not ready: an earlier call on this communicator");
        wrong += TAKEN(ncclCommCount(comm, &sum), ncclInvalidArgument);
        wrong += TAKEN(ncclCommSplit(comm, 0, 0, &child, NULL), ncclInvalidArgument);
        wrong += tutti_barrier(native) != TUTTI_OK;
    }
    wrong += world_check(rank, nccl_world_settle(comm) == ncclSuccess, "init: %s",
                         ncclGetLastError(comm));
    wrong += nccl_world_works(comm, rank, rank, size);
    /* The child inherits; in a group the end says that it is in progress. */
    wrong += OK(ncclCommSplit(comm, 1, rank, &child, NULL));
    wrong += world_check(rank, nccl_world_settle(comm) == ncclSuccess, "the parent of a split");
    wrong += world_check(rank, nccl_world_settle(child) == ncclSuccess, "the child of a split");
    wrong += nccl_world_works(child, rank, rank, size);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommShrink(child, NULL, 0, &whole, NULL, NCCL_SHRINK_DEFAULT));
    wrong += TAKEN(ncclGroupEnd(), ncclInProgress);
    wrong += world_check(rank, nccl_world_settle(whole) == ncclSuccess, "shrink");
    wrong += nccl_world_works(whole, rank, rank, size);
    wrong += OK(ncclCommDestroy(whole));
    /* A group that uses its parent too. */
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, child, NULL));
    wrong += OK(ncclCommSplit(child, 0, rank, &whole, NULL));
    wrong += OK(ncclGroupEnd());
    wrong += world_check(rank, sum == size * (size - 1) / 2, "sum %d", sum);
    wrong += nccl_world_works(whole, rank, rank, size);
    ncclResult_t result = ncclCommFinalize(comm);
    wrong += world_check(rank, result == ncclInProgress || result == ncclSuccess, "finalize %d",
                         (int)result);
    wrong += world_check(rank, nccl_world_settle(comm) == ncclSuccess, "finalize");
    wrong += TAKEN(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "was finalized");
    wrong += OK(ncclCommDestroy(comm));
    wrong += OK(ncclCommDestroy(whole));
    return wrong + OK(ncclCommDestroy(child));
}

static int init_as(tutti_comm *native, int rank, int size, int blocking, ncclComm_t *comm)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    int wrong = nccl_world_id(native, rank, &id);
    config.blocking = blocking;
    *comm = NULL;
    wrong += TAKEN(ncclCommInitRankConfig(comm, size, id, rank, &config),
                   blocking ? ncclSuccess : ncclInProgress);
    return wrong + world_check(rank, nccl_world_settle(*comm) == ncclSuccess, "init: %s",
                               ncclGetLastError(*comm));
}

struct birth {
    bool waits, shrinks;
    int size, told; /* by all, until now */
};

/* Rank 0 is late where nobody waits. */
static int bear(struct birth *birth, ncclComm_t parent, int rank, ncclConfig_t *config,
                ncclComm_t *child)
{
    int wrong = 0;
    if (!birth->waits && rank == 0)
        wrong += world_await(rank, birth->told + birth->size - 1);
    wrong += OK(birth->shrinks ? ncclCommShrink(parent, NULL, 0, child, config, 0)
                               : ncclCommSplit(parent, 0, rank, child, config));
    if (birth->waits || rank > 0) {
        ncclResult_t state = birth->waits ? ncclSuccess : ncclInProgress;
        wrong += nccl_world_is(parent, rank, state) + nccl_world_is(*child, rank, state);
    }
    world_tell();
    birth->told += birth->size;
    wrong += world_check(rank, nccl_world_settle(parent) == ncclSuccess, "the parent");
    return wrong + nccl_world_is(*child, rank, ncclSuccess);
}

/* Whether a split or shrink is waited for, the parent decides; its configuration is of what it
 * makes. The call is a success in either case. */
static int deciding(tutti_comm *native, int rank, int size, void *context)
{
    struct birth birth = {.size = size};
    int wrong = 0;
    (void)context;
    for (int i = 0; i < 4; i++) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclComm_t comm, child = NULL, grandchild = NULL;
        int waits = i & 1;
        wrong += init_as(native, rank, size, waits, &comm);
        config.blocking = !waits;
        birth.waits = waits;
        birth.shrinks = i & 2;
        wrong += bear(&birth, comm, rank, &config, &child);
        wrong += nccl_world_works(child, rank, rank, size);
        birth.waits = !waits;
        wrong += bear(&birth, child, rank, NULL, &grandchild);
        wrong += nccl_world_works(grandchild, rank, rank, size);
        wrong += OK(ncclCommDestroy(comm)) + OK(ncclCommDestroy(child));
        wrong += OK(ncclCommDestroy(grandchild));
    }
    return wrong;
}

/* A configuration that does not say whether it blocks: what it makes does, whatever the parent. */
static int leaving_out(tutti_comm *native, int rank, int size, void *context)
{
    struct birth birth = {.size = size};
    int wrong = 0;
    (void)context;
    for (int shrinks = 0; shrinks < 2; shrinks++) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclComm_t comm, child = NULL, grandchild = NULL;
        wrong += init_as(native, rank, size, 0, &comm);
        config.splitShare = 1;
        birth.shrinks = shrinks;
        birth.waits = false;
        wrong += bear(&birth, comm, rank, &config, &child);
        birth.waits = true;
        wrong += bear(&birth, child, rank, NULL, &grandchild);
        wrong += OK(ncclCommFinalize(child));
        wrong += OK(ncclCommDestroy(comm)) + OK(ncclCommDestroy(child));
        wrong += OK(ncclCommDestroy(grandchild));
    }
    return wrong;
}

static void test_nccl_life_the_parent_decides_who_waits(void)
{
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, leaving_out, NULL);
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, deciding, NULL);
    nccl_world_run(WORLD_THREADS, 2, NULL, deciding, NULL);
}

static int entries(const char *path)
{
    int count = 0;
    DIR *dir = opendir(path);
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* Until those of the library that an abort has ended are gone: long before the limit of a meeting,
 * which would end them anyhow. */
static int await_end(int rank, int threads, int descriptors)
{
    double end = nccl_world_seconds() + 20;
    while (nccl_world_seconds() < end &&
           (entries("/proc/self/task") > threads || entries("/proc/self/fd") > descriptors))
        usleep(1000);
    return world_check(
        rank, entries("/proc/self/task") <= threads && entries("/proc/self/fd") <= descriptors,
        "%d threads of %d, %d descriptors of %d", entries("/proc/self/task"), threads,
        entries("/proc/self/fd"), descriptors);
}

/* A peer never comes: after an abort the thread and the sockets are gone. */
static int abandoning(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t state = ncclInProgress;
    ncclUniqueId id = {{0}};
    ncclComm_t comm = NULL;
    int wrong = 0;
    (void)context;
    /* The links of the native one, first. */
    wrong += tutti_broadcast(&id, &id, sizeof id, TUTTI_UINT8, 0, native) != TUTTI_OK;
    wrong += tutti_barrier(native) != TUTTI_OK;
    int threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    config.blocking = 0;
    wrong += nccl_world_id(native, rank, &id);
    wrong += TAKEN(ncclCommInitRankConfig(&comm, size + 1, id, rank, &config), ncclInProgress);
    usleep(100000); /* until those who come have met */
    wrong += nccl_world_is(comm, rank, ncclInProgress);
    wrong += tutti_barrier(native) != TUTTI_OK;
    wrong += OK(ncclCommAbort(comm));
    wrong += TAKEN(ncclCommGetAsyncError(comm, &state), ncclInvalidArgument);
    wrong += world_check(rank, state == ncclInvalidArgument, "state %d", (int)state);
    return wrong + await_end(rank, threads, descriptors);
}

/* How the last rank leaves what is being made of a communicator for which rank 0 is late. */
struct leaving {
    bool shrinks, blocking, by_parent;
};

struct maker {
    const struct leaving *how;
    ncclComm_t comm, child;
    ncclResult_t result;
};

static ncclResult_t make_child(struct maker *maker)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (maker->how->shrinks)
        return ncclCommShrink(maker->comm, NULL, 0, &maker->child, &config, NCCL_SHRINK_DEFAULT);
    return ncclCommSplit(maker->comm, 0, 0, &maker->child, &config);
}

static void *make_in_a_thread(void *argument)
{
    struct maker *maker = argument;
    maker->result = make_child(maker);
    return NULL;
}

/* After the abort the thread that made it is gone, with all that it held. */
static int quitting(struct maker *maker, int rank)
{
    pthread_t thread;
    int wrong = 0, threads = entries("/proc/self/task"), descriptors = entries("/proc/self/fd");
    if (!maker->how->blocking)
        wrong += OK(make_child(maker));
    else if (pthread_create(&thread, NULL, make_in_a_thread, maker) != 0)
        return 1;
    usleep(100000);
    ncclComm_t child = NULL;
    for (double end = nccl_world_seconds() + 5; nccl_world_seconds() < end; usleep(1000)) {
        child = __atomic_load_n(&maker->child, __ATOMIC_ACQUIRE);
        if (child)
            break;
    }
    wrong += nccl_world_is(child, rank, ncclInProgress);
    wrong += OK(ncclCommAbort(maker->how->by_parent ? maker->comm : child));
    if (maker->how->blocking) {
        pthread_join(thread, NULL);
        wrong += world_check(rank, maker->result == ncclInvalidUsage && maker->child == NULL,
                             "result %d", (int)maker->result);
    } else if (maker->how->by_parent) {
        wrong += world_check(rank, nccl_world_settle(child) == ncclInvalidUsage, "state");
        wrong += nccl_world_says(rank, "aborted the communicator");
        wrong += OK(ncclCommAbort(child));
    }
    wrong += await_end(rank, threads, descriptors);
    world_tell(); /* it will not be met half way */
    return wrong + world_check(rank, child != NULL, "no handle");
}

static int leaving_a_child(tutti_comm *native, int rank, int size, void *context)
{
    struct maker maker = {.how = context};
    int wrong = init_as(native, rank, size, maker.how->blocking, &maker.comm);
    int quitter = size - 1, sums[2] = {0};
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", quitter);
    wrong += nccl_world_works(maker.comm, rank, rank, size);
    /* Every link. */
    int *blocks = calloc((size_t)size, sizeof *blocks);
    wrong += OK(ncclAlltoAll(blocks, blocks, 1, ncclInt32, maker.comm, NULL));
    free(blocks);
    wrong += tutti_barrier(native) != TUTTI_OK;
    if (rank == quitter) {
        wrong += quitting(&maker, rank);
    } else {
        if (rank == 0)
            wrong += world_await(rank, 1);
        ncclResult_t result = make_child(&maker);
        if (result == ncclSuccess)
            result = nccl_world_settle(maker.child);
        wrong += world_check(rank, result == ncclRemoteError, "result %d", (int)result);
        wrong += nccl_world_says(rank, name) + nccl_world_says(rank, "aborted the communicator");
        if (!maker.how->blocking)
            wrong += OK(ncclCommAbort(maker.child));
    }
    wrong += tutti_barrier(native) != TUTTI_OK;
    if (maker.how->by_parent)
        return wrong + (rank == quitter ? 0 : OK(ncclCommAbort(maker.comm)));
    if (!maker.how->shrinks) { /* the parent says why it has ended as well, and what to do */
        wrong +=
            nccl_world_is(maker.comm, rank, rank == quitter ? ncclInvalidUsage : ncclRemoteError);
        wrong += nccl_world_says(rank, name);
        wrong += nccl_world_says(rank, "that was being made of this one: this one ended with");
        wrong += nccl_world_says(rank, "destroy it, or shrink it to the other ranks");
        return wrong + OK(ncclCommAbort(maker.comm));
    }
    wrong += OK(ncclAllReduce(&rank, sums, 1, ncclInt32, ncclSum, maker.comm, NULL));
    wrong += world_check(rank, sums[0] == size * (size - 1) / 2, "sum %d", sums[0]);
    return wrong + OK(ncclCommDestroy(maker.comm));
}

static void test_nccl_life_leaves_a_child_that_is_made(void)
{
    for (int i = 0; i < 8; i++) {
        struct leaving how = {.shrinks = i & 1, .blocking = i & 2, .by_parent = i & 4};
        nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, leaving_a_child, &how);
        nccl_world_run(WORLD_PROCESSES, i % 2 ? 2 : 5, nccl_world_tcp, leaving_a_child, &how);
    }
}

/* Nobody comes, and nobody aborts: it fails at its limit. */
static int waiting_in_vain(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm = NULL, blocking = (ncclComm_t)&config;
    int wrong = OK(ncclGetUniqueId(&id));
    (void)native;
    (void)context;
    wrong += TAKEN(ncclCommInitRank(&blocking, size + 1, id, 0), ncclRemoteError);
    wrong += nccl_world_says(rank, "1");
    wrong += world_check(rank, blocking == NULL, "a handle of a communicator that was not made");
    config.blocking = 0;
    wrong += OK(ncclGetUniqueId(&id));
    wrong += TAKEN(ncclCommInitRankConfig(&comm, size + 1, id, 0, &config), ncclInProgress);
    wrong += world_check(rank, nccl_world_settle(comm) == ncclRemoteError, "state");
    wrong +=
        TAKEN(ncclAllReduce(&rank, &wrong, 1, ncclInt32, ncclSum, comm, NULL), ncclRemoteError);
    return wrong + OK(ncclCommAbort(comm));
}

/* A job's thread is under way: a signal that the program has blocked stays until it asks for it. */
static int signalled(tutti_comm *native, int rank, int size, void *context)
{
    const struct timespec limit = {.tv_sec = 30};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    sigset_t ours;
    int wrong = OK(ncclGetUniqueId(&id));
    (void)native;
    (void)context;
    config.blocking = 0;
    wrong += TAKEN(ncclCommInitRankConfig(&comm, size + 1, id, 0, &config), ncclInProgress);
    sigemptyset(&ours);
    sigaddset(&ours, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ours, NULL);
    for (int i = 0; i < 20; i++) { /* a thread takes none before it has begun */
        kill(getpid(), SIGUSR1);
        wrong +=
            world_check(rank, sigtimedwait(&ours, NULL, &limit) == SIGUSR1, "the signal is gone");
        usleep(1000);
    }
    return wrong + OK(ncclCommAbort(comm));
}

static void test_nccl_life_signals_stay(void)
{
    nccl_world_run(WORLD_PROCESSES, 1, nccl_world_shm, signalled, NULL);
}

static void test_nccl_life_nonblocking(void)
{
    static const char *const hurry[] = {"TUTTI_MEET_TIMEOUT_MS=1000", NULL};
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, nonblocking, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, nonblocking, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, nonblocking, NULL);
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, abandoning, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, abandoning, NULL);
    nccl_world_run(WORLD_PROCESSES, 1, NULL, abandoning, NULL);
    nccl_world_run(WORLD_PROCESSES, 1, hurry, waiting_in_vain, NULL);
}

/* ---- exits ------------------------------------------------------------------------------------
 */

/* A child leaves main with a live communicator, one that is being made, and an open group. */
static void test_nccl_life_exit_with_live_communicators(void)
{
    fflush(NULL);
    double start = nccl_world_seconds();
    pid_t child = fork();
    if (child == 0) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclComm_t comms[3], late;
        ncclUniqueId id;
        int value = 1;
        config.blocking = 0;
        bool fine =
            ncclCommInitAll(comms, 3, NULL) == ncclSuccess && ncclGetUniqueId(&id) == ncclSuccess &&
            ncclCommInitRankConfig(&late, 2, id, 0, &config) == ncclInProgress &&
            ncclGroupStart() == ncclSuccess &&
            ncclAllReduce(&value, &value, 1, ncclInt32, ncclSum, comms[0], NULL) == ncclSuccess;
        exit(fine ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CU_ASSERT(WIFEXITED(status) && (WEXITSTATUS(status) == 0));
    CU_ASSERT(nccl_world_seconds() - start < 5);
}

/* ---- ids --------------------------------------------------------------------------------------
 */

/* Every rank asks for the id itself; two communicators after each other, in processes and threads.
 */
static int by_address(tutti_comm *native, int rank, int size, void *context)
{
    ncclUniqueId id;
    ncclComm_t comm, all;
    int wrong = 0;
    (void)native;
    (void)context;
    for (int i = 0; i < 2; i++) {
        wrong += OK(ncclGetUniqueId(&id));
        wrong += OK(ncclCommInitRank(&comm, size, id, rank));
        wrong += nccl_world_works(comm, rank, rank, size) + OK(ncclCommDestroy(comm));
    }
    wrong += OK(ncclCommInitAll(&all, 1, NULL)); /* has no need of it */
    return wrong + nccl_world_works(all, rank, 0, 1) + OK(ncclCommDestroy(all));
}

static int by_bad_address(tutti_comm *native, int rank, int size, void *context)
{
    ncclUniqueId id;
    (void)native;
    (void)size;
    (void)context;
    int wrong = TAKEN(ncclGetUniqueId(&id), ncclInvalidUsage);
    return wrong +
           nccl_world_says(rank, "NCCL_COMM_ID: \"here\" is no address: expected host:port");
}

static void test_nccl_life_comm_id_by_address(void)
{
    static const char *const bad[] = {"NCCL_COMM_ID=here", NULL};
    static const char *const hosts[] = {"127.0.0.1", "[::1]", "localhost"};
    static const char *const transports[] = {"shm", "tcp", "auto"};
    for (int i = 0; i < 3; i++) {
        char address[64], transport[64];
        snprintf(address, sizeof address, "NCCL_COMM_ID=%s:%d", hosts[i],
                 10000 + (int)(suite_seed() % 9000) + i);
        snprintf(transport, sizeof transport, "TUTTI_TRANSPORTS=%s", transports[i]);
        const char *const settings[] = {address, transport, NULL};
        nccl_world_run(i == 2 ? WORLD_THREADS : WORLD_PROCESSES, 3, settings, by_address, NULL);
    }
    nccl_world_run(WORLD_PROCESSES, 1, bad, by_bad_address, NULL);
}

/* Several ids, as large jobs pass them. */
static int scalable(tutti_comm *native, int rank, int size, void *context)
{
    ncclUniqueId ids[2];
    ncclComm_t comm;
    int wrong = nccl_world_id(native, rank, &ids[0]);
    (void)context;
    if (rank == 1)
        wrong += OK(ncclGetUniqueId(&ids[1]));
    wrong += tutti_broadcast(&ids[1], &ids[1], sizeof ids[1], TUTTI_UINT8, 1, native) != TUTTI_OK;
    wrong += OK(ncclCommInitRankScalable(&comm, size, rank, 2, ids, NULL));
    wrong += nccl_world_works(comm, rank, rank, size);
    if (rank == 1) { /* no thread waits for it any more */
        ncclComm_t other;
        wrong += TAKEN(ncclCommInitRank(&other, 1, ids[1], 0), ncclInvalidArgument);
        wrong += nccl_world_says(rank, "this unique id was given back");
    }
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_life_scalable(void)
{
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, scalable, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"split", test_nccl_life_split},
        {"shrink", test_nccl_life_shrink},
        {"survives_a_death", test_nccl_life_survives_a_death},
        {"asks_for_a_death", test_nccl_life_asks_for_a_death},
        {"revoke", test_nccl_life_revoke},
        {"ends_in_a_group", test_nccl_life_ends_in_a_group},
        {"signals_stay", test_nccl_life_signals_stay},
        {"nonblocking", test_nccl_life_nonblocking},
        {"the_parent_decides_who_waits", test_nccl_life_the_parent_decides_who_waits},
        {"leaves_a_child_that_is_made", test_nccl_life_leaves_a_child_that_is_made},
        {"exit_with_live_communicators", test_nccl_life_exit_with_live_communicators},
        {"comm_id_by_address", test_nccl_life_comm_id_by_address},
        {"scalable", test_nccl_life_scalable},
    };
    return suite_run("nccl_life", tests, sizeof tests / sizeof *tests, argc, argv);
}
