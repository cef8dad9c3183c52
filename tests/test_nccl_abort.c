/* test_nccl_abort.c: communicators of the NCCL face that another thread aborts while this one waits
 * inside. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/nccl_world.h"

/* ---- threads that wait inside -----------------------------------------------------------------
 */

#define PAUSES 20 /* of a thread that makes no other call: it waits */

/* Who waits in the library pauses in one of these ways, again and again; it calls ours. */
#define FOR_LIBRARIES __attribute__((visibility("default")))
static _Thread_local atomic_int *pauses;

static void count_pause(void)
{
    if (pauses)
        atomic_fetch_add(pauses, 1);
}

FOR_LIBRARIES int sched_yield(void)
{
    count_pause();
    return (int)syscall(SYS_sched_yield);
}

FOR_LIBRARIES int nanosleep(const struct timespec *time, struct timespec *left)
{
    count_pause();
    return (int)syscall(SYS_nanosleep, time, left);
}

FOR_LIBRARIES int poll(struct pollfd *fds, nfds_t count, int ms)
{
    count_pause();
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    return (int)syscall(SYS_ppoll, fds, count, ms < 0 ? NULL : &time, NULL, (size_t)0);
}

/* ---- abort ------------------------------------------------------------------------------------
 */

struct watchdog {
    ncclComm_t comm;
    bool aborts;
    atomic_bool stop;
    atomic_int looks, *pauses; /* its own; of who waits */
    int wrong, rank;
    pthread_t thread;
};

/* Asks for the state all the time, as frameworks do; then aborts, once the other thread waits. */
static void *watch(void *argument)
{
    struct watchdog *dog = argument;
    int rank = dog->rank;
    double end = nccl_world_seconds() + 20;
    do {
        ncclResult_t state;
        dog->wrong += OK(ncclCommGetAsyncError(dog->comm, &state));
        atomic_fetch_add(&dog->looks, 1);
        usleep(500);
    } while (dog->aborts ? atomic_load(dog->pauses) < PAUSES && nccl_world_seconds() < end
                         : !atomic_load(&dog->stop));
    if (!dog->aborts)
        return NULL;
    dog->wrong += world_check(rank, atomic_load(dog->pauses) >= PAUSES, "nobody waits");
    dog->wrong += OK(ncclCommAbort(dog->comm));
    return NULL;
}

/* Rank 1's watchdog aborts while its main thread waits inside, plain or in a group. */
static int aborting(tutti_comm *native, int rank, int size, void *context)
{
    atomic_int mine = 0;
    struct watchdog dog = {.aborts = rank == 1, .rank = rank, .pauses = &mine};
    bool grouped = *(int *)context;
    ncclResult_t result;
    int value, wrong = nccl_world_init(native, rank, size, &dog.comm);
    wrong += nccl_world_works(dog.comm, rank, rank, size);
    wrong += tutti_barrier(native) != TUTTI_OK; /* until all have their results */
    if (pthread_create(&dog.thread, NULL, watch, &dog) != 0)
        return wrong + 1;
    while (atomic_load(&dog.looks) == 0) /* it is there before the call is */
        usleep(100);
    pauses = &mine;
    if (grouped)
        wrong += OK(ncclGroupStart());
    if (rank == 0) /* waits for something else than the others, who wait for it */
        result = ncclRecv(&value, 1, ncclInt32, 1, dog.comm, NULL);
    else
        result = ncclAllReduce(&rank, &value, 1, ncclInt32, ncclSum, dog.comm, NULL);
    if (grouped) {
        wrong += world_check(rank, result == ncclSuccess, "result %d", (int)result);
        result = ncclGroupEnd();
    }
    pauses = NULL;
    wrong += world_check(rank, result == (rank == 1 ? ncclInvalidUsage : ncclRemoteError),
                         "result %d: %s", (int)result, ncclGetLastError(NULL));
    wrong += nccl_world_says(rank, "rank 1 (host ");
    wrong += nccl_world_says(rank, "aborted");
    atomic_store(&dog.stop, true);
    pthread_join(dog.thread, NULL);
    wrong += dog.wrong;
    if (rank == 1) {
        wrong += TAKEN(ncclAllReduce(&rank, &value, 1, ncclInt32, ncclSum, dog.comm, NULL),
                       ncclInvalidArgument);
        wrong += nccl_world_says(rank, "was destroyed or aborted before");
        return wrong;
    }
    wrong += nccl_world_is(dog.comm, rank, ncclRemoteError);
    return wrong + OK(ncclCommAbort(dog.comm));
}

static void test_nccl_abort_from_another_thread(void)
{
    for (int grouped = 0; grouped < 2; grouped++) {
        nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, aborting, &grouped);
        nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, aborting, &grouped);
        nccl_world_run(WORLD_THREADS, 4, NULL, aborting, &grouped);
    }
}

/* A thread that waits in a group over two communicators: aborting one returns, and so does the
 * other's, although neither group could end by itself. */
static int aborting_two(tutti_comm *native, int rank, int size, void *context)
{
    atomic_int mine = 0;
    struct watchdog dogs[2] = {{.rank = rank, .pauses = &mine}, {.rank = rank, .pauses = &mine}};
    int value, wrong = 0;
    (void)context;
    for (int i = 0; i < 2; i++)
        wrong += nccl_world_init(native, rank, size, &dogs[i].comm);
    if (rank == 0) {
        wrong += world_await(rank, 1);
    } else {
        for (int i = 0; i < 2; i++) {
            dogs[i].aborts = true;
            if (pthread_create(&dogs[i].thread, NULL, watch, &dogs[i]) != 0)
                return wrong + 1;
        }
        wrong += OK(ncclGroupStart());
        for (int i = 0; i < 2; i++)
            wrong += OK(ncclRecv(&value, 1, ncclInt32, 0, dogs[i].comm, NULL));
        pauses = &mine;
        wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
        pauses = NULL;
        world_tell();
        for (int i = 0; i < 2; i++) {
            pthread_join(dogs[i].thread, NULL);
            wrong += dogs[i].wrong;
        }
        return wrong;
    }
    return wrong + OK(ncclCommAbort(dogs[0].comm)) + OK(ncclCommAbort(dogs[1].comm));
}

static void test_nccl_abort_under_a_group(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, aborting_two, NULL);
    nccl_world_run(WORLD_THREADS, 2, NULL, aborting_two, NULL);
}

/* ---- memory that is registered ----------------------------------------------------------------
 */

#define BYTES (1 << 20)

struct registered {
    struct watchdog dog;
    void *buffer, *first, *second;
    ncclWindow_t window, other;
};

/* As a framework's watchdog does: it gives back what is registered, though an operation waits in
 * that memory, then aborts; what it has forgotten went with the communicator. */
static void *give_back_and_abort(void *argument)
{
    struct registered *all = argument;
    struct watchdog *dog = &all->dog;
    int rank = dog->rank;
    double end = nccl_world_seconds() + 20;
    while (atomic_load(dog->pauses) < PAUSES && nccl_world_seconds() < end)
        usleep(500);
    dog->wrong += world_check(rank, atomic_load(dog->pauses) >= PAUSES, "nobody waits");
    dog->wrong += OK(ncclCommDeregister(dog->comm, all->first));
    dog->wrong += OK(ncclCommWindowDeregister(dog->comm, all->window));
    dog->wrong += OK(ncclCommAbort(dog->comm));
    dog->wrong += TAKEN(ncclCommDeregister(dog->comm, all->second), ncclInvalidArgument);
    dog->wrong += nccl_world_says(rank, "ncclCommDeregister: the communicator was destroyed or "
                                        "aborted before");
    dog->wrong += TAKEN(ncclCommWindowDeregister(dog->comm, all->other), ncclInvalidArgument);
    dog->wrong +=
        TAKEN(ncclCommRegister(dog->comm, all->buffer, BYTES, &all->first), ncclInvalidArgument);
    return NULL;
}

static int registered(tutti_comm *native, int rank, int size, void *context)
{
    atomic_int mine = 0;
    struct registered all = {.dog = {.rank = rank, .pauses = &mine}};
    struct watchdog *dog = &all.dog;
    int peer = (rank + 1) % size, wrong = nccl_world_init(native, rank, size, &dog->comm);
    (void)context;
    all.buffer = calloc(1, BYTES);
    wrong += OK(ncclCommRegister(dog->comm, all.buffer, BYTES, &all.first));
    wrong += OK(ncclCommRegister(dog->comm, all.buffer, BYTES, &all.second));
    wrong += OK(ncclCommWindowRegister(dog->comm, all.buffer, BYTES, &all.window, 0));
    wrong += OK(ncclCommWindowRegister(dog->comm, all.buffer, BYTES, &all.other, 0));
    wrong += OK(ncclAllReduce(all.buffer, all.buffer, BYTES, ncclUint8, ncclSum, dog->comm, NULL));
    wrong += tutti_barrier(native) != TUTTI_OK; /* until all have their results */
    if (pthread_create(&dog->thread, NULL, give_back_and_abort, &all) != 0)
        return wrong + 1;
    pauses = &mine;
    ncclResult_t result = ncclRecv(all.buffer, BYTES, ncclUint8, peer, dog->comm, NULL);
    pauses = NULL;
    /* Its own abort or, if a peer's was first, that one's. */
    wrong += world_check(rank, result == ncclInvalidUsage || result == ncclRemoteError,
                         "result %d: %s", (int)result, ncclGetLastError(NULL));
    atomic_store(&mine, PAUSES); /* a peer's abort may have ended the wait early */
    pthread_join(dog->thread, NULL);
    free(all.buffer);
    return wrong + dog->wrong;
}

static void test_nccl_abort_of_registered_memory(void)
{
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, registered, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, registered, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, registered, NULL);
}

/* A rank whose peer was killed gives back what is registered, and then aborts or destroys. */
static int surviving(tutti_comm *native, int rank, int size, void *context)
{
    struct registered all = {.dog = {.rank = rank}};
    ncclComm_t comm;
    ncclResult_t result = ncclSuccess;
    int wrong = nccl_world_init(native, rank, size, &comm);
    all.buffer = calloc(2, BYTES);
    wrong += OK(ncclCommRegister(comm, all.buffer, BYTES, &all.first));
    wrong += OK(ncclCommWindowRegister(comm, (char *)all.buffer + BYTES, BYTES, &all.window, 0));
    wrong += OK(ncclAllReduce(all.buffer, (char *)all.buffer + BYTES, BYTES, ncclUint8, ncclSum,
                              comm, NULL));
    world_tell();
    if (rank == 1) {
        wrong += world_await(rank, size); /* until the others have their results too */
        raise(SIGKILL);
    }
    for (double end = nccl_world_seconds() + 20;
         result == ncclSuccess && nccl_world_seconds() < end;)
        result = ncclAllReduce(all.buffer, (char *)all.buffer + BYTES, BYTES, ncclUint8, ncclSum,
                               comm, NULL);
    wrong += world_check(rank, result == ncclRemoteError, "result %d", (int)result);
    wrong += OK(ncclCommDeregister(comm, all.first));
    wrong += OK(ncclCommWindowDeregister(comm, all.window));
    wrong += OK(*(int *)context ? ncclCommAbort(comm) : ncclCommDestroy(comm));
    free(all.buffer);
    return wrong;
}

static void test_nccl_abort_gives_back_after_a_death(void)
{
    for (int aborts = 0; aborts < 2; aborts++) {
        const struct world world = {.kind = WORLD_PROCESSES,
                                    .size = 3,
                                    .settings = aborts ? nccl_world_shm : nccl_world_tcp,
                                    .doomed = 2};
        CU_ASSERT_EQUAL(world_run(&world, surviving, &aborts), 0);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"from_another_thread", test_nccl_abort_from_another_thread},
        {"under_a_group", test_nccl_abort_under_a_group},
        {"of_registered_memory", test_nccl_abort_of_registered_memory},
        {"gives_back_after_a_death", test_nccl_abort_gives_back_after_a_death},
    };
    return suite_run("nccl_abort", tests, sizeof tests / sizeof *tests, argc, argv);
}
