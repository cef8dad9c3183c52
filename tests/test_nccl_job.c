/* test_nccl_job.c: calls of the NCCL face that wait for other ranks: threads that cannot be made.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/nccl_world.h"

/* ---- threads that cannot be made --------------------------------------------------------------
 */

/* The library's calls come here too. Counts down to the one of this thread that fails; 0: none. */
static _Thread_local int until_failure;

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread,
                                                          const pthread_attr_t *attributes,
                                                          void *(*function)(void *), void *argument)
{
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    void *found = dlsym(RTLD_NEXT, "pthread_create");
    memcpy(&create, &found, sizeof create);
    if (until_failure > 0 && --until_failure == 0)
        return EAGAIN;
    return create(thread, attributes, function, argument);
}

/* Whichever of the ranks gets no thread, those that have one do not wait for it. */
static int lacking(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comms[4];
    int wrong = 0;
    (void)native;
    (void)size;
    (void)context;
    for (int failing = 1; failing <= 3; failing++) {
        until_failure = failing;
        wrong += TAKEN(ncclCommInitAll(comms, 4, NULL), ncclSystemError);
        wrong += nccl_world_says(rank, "no thread for a call that waits for other ranks");
        for (int i = 0; i < 4; i++)
            wrong += world_check(rank, comms[i] == NULL, "a handle of what was not made");
    }
    wrong += world_check(rank, until_failure == 0, "no thread was refused");
    wrong += OK(ncclCommInitAll(comms, 4, NULL));
    for (int i = 0; i < 4; i++)
        wrong += OK(ncclCommDestroy(comms[i]));
    return wrong;
}

/* The same where the caller does not wait for the ranks: for none of them, or not for the first
 * two. One that is left waiting would wait much longer than it is asked about. */
static int lacking_unwaited(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comms[4];
    ncclUniqueId id;
    int wrong = 0;
    (void)native;
    (void)size;
    (void)context;
    for (int failing = 1; failing <= 6; failing++) {
        bool mixed = failing > 4; /* in turn the first four threads, and the first two */
        int first_failing = mixed ? failing - 4 : failing;
        wrong += OK(ncclGetUniqueId(&id)) + OK(ncclGroupStart());
        for (int i = 0; i < 4; i++) {
            config.blocking = mixed && i >= 2;
            wrong += OK(ncclCommInitRankConfig(&comms[i], 4, id, i, &config));
        }
        until_failure = first_failing;
        ncclResult_t result = ncclGroupEnd();
        wrong += world_check(rank, until_failure == 0, "no thread was refused");
        wrong += world_check(rank, mixed ? result != ncclSuccess : result == ncclInProgress, "%s",
                             ncclGetErrorString(result));
        for (int i = 0; i < (mixed ? 2 : 4); i++) {
            ncclResult_t state = nccl_world_settle(comms[i]);
            wrong +=
                world_check(rank, state != ncclInProgress && state != ncclSuccess,
                            "rank %d of 4, thread %d: %s", i, failing, ncclGetErrorString(state));
            wrong += OK(ncclCommAbort(comms[i]));
        }
    }
    return wrong;
}

static void test_nccl_job_lacks_a_thread(void)
{
    static const char *const settings[] = {"TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    static const char *const patient[] = {"TUTTI_MEET_TIMEOUT_MS=600000", NULL};
    nccl_world_run(WORLD_PROCESSES, 1, settings, lacking, NULL);
    nccl_world_run(WORLD_PROCESSES, 1, patient, lacking_unwaited, NULL);
}

/* ---- groups of which one call fails -----------------------------------------------------------
 */

/* The others do not wait for the ranks that it would have made, and its error is the group's. */
static int failing_alone(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comms[4], shrunk[2];
    ncclUniqueId id, none = {{0}};
    int wrong = 0, itself = 0;
    (void)native;
    (void)size;
    (void)context;
    double start = nccl_world_seconds();
    for (int failing = 0; failing < 4; failing++) {
        wrong += OK(ncclGetUniqueId(&id)) + OK(ncclGroupStart());
        for (int i = 0; i < 4; i++)
            wrong += OK(ncclCommInitRank(&comms[i], 4, i == failing ? none : id, i));
        wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
        wrong += nccl_world_says(rank, "these 128 bytes are no unique id of this library");
        for (int i = 0; i < 4; i++)
            wrong += world_check(rank, comms[i] == NULL, "a handle of what was not made");
    }
    wrong += OK(ncclCommInitAll(comms, 2, NULL)) + OK(ncclGroupStart());
    for (int i = 0; i < 2; i++)
        wrong += OK(ncclCommShrink(comms[i], &itself, 1 - i, &shrunk[i], NULL, 0));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "rank 0 excludes itself");
    wrong += world_check(rank, nccl_world_seconds() - start < 60, "took %.2f s",
                         nccl_world_seconds() - start);
    return wrong + OK(ncclCommDestroy(comms[0])) + OK(ncclCommDestroy(comms[1]));
}

/* The same where the caller does not wait, for none of them or not for the failing one: all have
 * its cause. */
static int failing_unwaited(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comms[4];
    ncclUniqueId id, none = {{0}};
    const char *cause = "these 128 bytes are no unique id of this library";
    int wrong = 0;
    (void)native, (void)size, (void)context;
    for (int failing = 0; failing < 4; failing++) {
        for (int mixed = 0; mixed < 2; mixed++) {
            wrong += OK(ncclGetUniqueId(&id)) + OK(ncclGroupStart());
            for (int i = 0; i < 4; i++) {
                config.blocking = mixed && i != failing;
                wrong +=
                    OK(ncclCommInitRankConfig(&comms[i], 4, i == failing ? none : id, i, &config));
            }
            wrong += TAKEN(ncclGroupEnd(), mixed ? ncclInvalidArgument : ncclInProgress);
            if (mixed)
                wrong += nccl_world_says(rank, cause);
            for (int i = 0; i < 4; i++) {
                if (mixed && i != failing) {
                    wrong += world_check(rank, comms[i] == NULL, "a handle of what was not made");
                    continue;
                }
                ncclResult_t state = nccl_world_settle(comms[i]);
                wrong += world_check(rank, state == ncclInvalidArgument, "rank %d of 4: %s", i,
                                     ncclGetErrorString(state));
                wrong += nccl_world_says(rank, cause) + OK(ncclCommAbort(comms[i]));
            }
        }
    }
    return wrong;
}

static void test_nccl_job_fails_alone(void)
{
    static const char *const patient[] = {"TUTTI_MEET_TIMEOUT_MS=600000", NULL};
    nccl_world_run(WORLD_PROCESSES, 1, patient, failing_alone, NULL);
    nccl_world_run(WORLD_PROCESSES, 1, patient, failing_unwaited, NULL);
}

/* ---- handles that are ended twice -------------------------------------------------------------
 */

/* The group is spoilt, and the communicator works on, whichever of the calls is grouped. */
static int ending_twice(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommDestroy(comm));
    wrong += TAKEN(ncclCommDestroy(comm), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "another call destroys this communicator");
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += OK(ncclCommFinalize(comm)) + TAKEN(ncclCommFinalize(comm), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "was finalized before");
    return wrong + OK(ncclCommDestroy(comm));
}

struct destroyer {
    ncclComm_t comm;
    ncclResult_t result;
};

static void *destroy(void *argument)
{
    struct destroyer *destroyer = argument;
    destroyer->result = ncclCommDestroy(destroyer->comm);
    return NULL;
}

/* Two threads at once: one of them does it. */
static int ending_in_two_threads(tutti_comm *native, int rank, int size, void *context)
{
    int wrong = 0;
    (void)context;
    for (int round = 0; round < 50; round++) {
        struct destroyer other = {0};
        pthread_t thread;
        wrong += nccl_world_init(native, rank, size, &other.comm);
        ncclComm_t comm = other.comm;
        if (pthread_create(&thread, NULL, destroy, &other) != 0)
            return wrong + 1;
        ncclResult_t result = ncclCommDestroy(comm);
        pthread_join(thread, NULL);
        wrong += world_check(rank, (result == ncclSuccess) != (other.result == ncclSuccess),
                             "results %d and %d", (int)result, (int)other.result);
    }
    return wrong;
}

static void test_nccl_job_ends_a_handle_twice(void)
{
    struct world world = {.kind = WORLD_PROCESSES, .size = 2};
    CU_ASSERT_EQUAL(world_run(&world, ending_twice, NULL), 0);
    CU_ASSERT_EQUAL(world_run(&world, ending_in_two_threads, NULL), 0);
}

/* ---- questions meanwhile ----------------------------------------------------------------------
 */

struct maker {
    ncclComm_t comm, child;
    int rank, wrong;
};

static void *split(void *argument)
{
    struct maker *maker = argument;
    int rank = maker->rank;
    maker->wrong = OK(ncclCommSplit(maker->comm, 0, rank, &maker->child, NULL));
    return NULL;
}

/* The parent answers as it does otherwise; its child is not made yet. */
static int answers(const struct maker *maker, ncclComm_t child, int rank, int size)
{
    int count = -1, own = -1, wrong = nccl_world_is(maker->comm, rank, ncclSuccess);
    wrong += OK(ncclCommCount(maker->comm, &count)) + OK(ncclCommUserRank(maker->comm, &own));
    wrong += world_check(rank, count == size && own == rank, "rank %d of %d", own, count);
    wrong += nccl_world_is(child, rank, ncclInProgress);
    return wrong + TAKEN(ncclCommCount(child, &count), ncclInvalidArgument);
}

/* Rank 0 is late in a split for which a thread waits, or that stands in a group. */
static int asking(tutti_comm *native, int rank, int size, void *context)
{
    struct maker maker = {.rank = rank};
    pthread_t thread;
    int wrong = nccl_world_init(native, rank, size, &maker.comm);
    (void)context;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommSplit(maker.comm, 0, rank, &maker.child, NULL));
    wrong += answers(&maker, maker.child, rank, size);
    wrong += OK(ncclGroupEnd()) + OK(ncclCommDestroy(maker.child));
    maker.child = NULL;
    if (rank == 0)
        wrong += world_await(rank, size - 1);
    if (pthread_create(&thread, NULL, split, &maker) != 0)
        return wrong + 1;
    if (rank > 0) {
        ncclResult_t state = ncclSuccess;
        double end = nccl_world_seconds() + 20;
        while (state != ncclInProgress && nccl_world_seconds() < end) {
            ncclComm_t child = __atomic_load_n(&maker.child, __ATOMIC_ACQUIRE);
            if (child)
                wrong += OK(ncclCommGetAsyncError(child, &state));
        }
        wrong += answers(&maker, __atomic_load_n(&maker.child, __ATOMIC_ACQUIRE), rank, size);
        world_tell();
    }
    pthread_join(thread, NULL);
    return wrong + maker.wrong + OK(ncclCommDestroy(maker.child)) + OK(ncclCommDestroy(maker.comm));
}

static void test_nccl_job_is_asked_about(void)
{
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, asking, NULL);
    nccl_world_run(WORLD_THREADS, 2, NULL, asking, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"lacks_a_thread", test_nccl_job_lacks_a_thread},
        {"fails_alone", test_nccl_job_fails_alone},
        {"ends_a_handle_twice", test_nccl_job_ends_a_handle_twice},
        {"is_asked_about", test_nccl_job_is_asked_about},
    };
    return suite_run("nccl_job", tests, sizeof tests / sizeof *tests, argc, argv);
}
