/* test_stream_ends.c: streams when things end or go wrong: aborts, ranks that die, communicators
 * destroyed and processes ended with operations queued, and the sentences of bad input. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN_LIMIT_S 60
#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000

static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};
static const char *const without[] = {"TUTTI_CUDA=0", NULL};

static void run_doomed(int size, const char *const *settings, world_fn *function, int doomed)
{
    struct world world = {.kind = WORLD_PROCESSES,
                          .size = size,
                          .settings = settings,
                          .limit_s = RUN_LIMIT_S,
                          .doomed = doomed};
    run_world(&world, function, NULL);
}

/* ---- ends ------------------------------------------------------------------------------------
 */

static void *abort_later(void *comm)
{
    usleep(50000);
    return tutti_comm_abort(comm) == TUTTI_OK ? NULL : comm;
}

/* One rank waits in a stream for peers that never come, until another thread aborts. */
static int abort_releases(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *other;
    pthread_t thread;
    void *failed = NULL, *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)context;
    if (rank == 0) {
        for (int i = 0; i < 3; i++)
            wrong += WORLD_OK(
                tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream));
        pthread_create(&thread, NULL, abort_later, other);
        wrong += rig_await(rank, stream, 10);
        pthread_join(thread, &failed);
        wrong += world_check(rank, failed == NULL, "abort failed");
        wrong += WORLD_TAKEN(tutti_comm_status(other), TUTTI_ERR_ABORTED);
        wrong += WORLD_TAKEN(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream),
            TUTTI_ERR_ABORTED);
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    wrong += WORLD_OK(tutti_comm_destroy(other));
    wrong += WORLD_OK(tutti_barrier(comm));
    rig_stream_give(stream, false);
    rig_give(memory);
    (void)size;
    return wrong;
}

static void test_stream_ends_abort_releases_streams(void)
{
    run(WORLD_THREADS, 2, direct, abort_releases, NULL);
    run(WORLD_PROCESSES, 3, direct, abort_releases, NULL);
    run(WORLD_PROCESSES, 2, staged, abort_releases, NULL);
}

/* Streams of the program hold every channel, so that the library's copies cannot begin: an abort
 * does not wait until that is given up. */
static int abort_past_channels(tutti_comm *comm, int rank, int size, void *context)
{
    enum { STREAMS = 64 };
    void *failed = NULL, *memory = rig_take(COUNT * 4);
    cuda_stream streams[STREAMS];
    tutti_comm *other;
    pthread_t thread;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)size;
    (void)context;
    for (int i = 0; i < STREAMS; i++)
        rig_gate_put(0, streams[i] = rig_stream_take(false));
    double start = world_seconds();
    pthread_create(&thread, NULL, abort_later, other);
    wrong += WORLD_TAKEN(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other),
                         TUTTI_ERR_ABORTED);
    pthread_join(thread, &failed);
    wrong += world_check(rank, failed == NULL, "abort failed");
    wrong += world_check(rank, world_seconds() - start < 5, "took %g s", world_seconds() - start);
    rig_gate_open(0);
    for (int i = 0; i < STREAMS; i++) {
        wrong += rig_await(rank, streams[i], AWAIT_S);
        rig_stream_give(streams[i], false);
    }
    rig_give(memory);
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

static void test_stream_ends_abort_past_channels_that_are_held(void)
{
    run(WORLD_PROCESSES, 1, staged, abort_past_channels, NULL);
    if (rig_is_standin())
        setenv("TUTTI_TEST_STANDIN_KERNELS", "0", 1);
    run(WORLD_PROCESSES, 1, staged, abort_past_channels, NULL);
    unsetenv("TUTTI_TEST_STANDIN_KERNELS");
}

struct canceller {
    int size, word;
    double at;
};

static void *cancel_later(void *argument)
{
    struct canceller *canceller = argument;
    (void)world_await(0, canceller->size); /* until all have made their calls */
    usleep(100000);
    canceller->at = world_seconds();
    __atomic_store_n(&canceller->word, 1, __ATOMIC_RELEASE);
    return NULL;
}

enum making { SHRINKS, SPLITS, GROWS };

static tutti_status make_child(tutti_comm *comm, int size, enum making making, const int *cancel,
                               tutti_comm **child)
{
    int last = size - 1;
    if (making == SPLITS)
        return tutti_comm_split_cancellable(comm, 0, 0, cancel, child);
    if (making == GROWS)
        return tutti_comm_grow_cancellable(comm, size + 1, NULL, NULL, cancel, child);
    return tutti_comm_shrink_cancellable(comm, &last, 1, cancel, child);
}

/* What is made of a communicator waits for what a stream holds of it, and is given up meanwhile. */
static int give_up_behind_a_gate(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    tutti_comm *child = NULL;
    enum making making = *(enum making *)context;
    struct canceller canceller = {.size = size};
    int wrong = 0;
    pthread_t thread;
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank == 0)
        rig_gate_put(0, stream);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    world_tell();
    if (rank == 0) {
        pthread_create(&thread, NULL, cancel_later, &canceller);
        wrong +=
            WORLD_TAKEN(make_child(comm, size, making, &canceller.word, &child), TUTTI_ERR_ABORTED);
        double end = world_seconds();
        wrong += world_says(rank, making == SHRINKS
                                      ? "aborted the communicator that a shrink"
                                      : "aborted the communicator that was being made of this one");
        pthread_join(thread, NULL);
        wrong += world_check(rank, end - canceller.at < 2, "took %g s", end - canceller.at);
        rig_gate_open(0);
    } else if (making != SHRINKS) {
        wrong += WORLD_TAKEN(make_child(comm, size, making, NULL, &child), TUTTI_ERR_PEER);
        wrong += world_says(rank, "rank 0 (host ");
    }
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_TAKEN(tutti_barrier(comm), making == SHRINKS ? TUTTI_OK
                                              : rank == 0       ? TUTTI_ERR_ABORTED
                                                                : TUTTI_ERR_PEER);
    rig_stream_give(stream, false);
    rig_give(memory);
    return wrong;
}

static void test_stream_ends_making_is_given_up_behind_a_gate(void)
{
    for (enum making making = SHRINKS; making <= GROWS; making++) {
        run(WORLD_THREADS, 2, direct, give_up_behind_a_gate, &making);
        run(WORLD_PROCESSES, 3, direct, give_up_behind_a_gate, &making);
        run(WORLD_PROCESSES, 2, staged, give_up_behind_a_gate, &making);
    }
}

/* Rank 1 dies with everyone's operations queued. */
static int death(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    int wrong = 0;
    (void)context;
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_barrier(comm));
    world_tell();
    if (rank == 1) {
        wrong += world_await(rank, size); /* until all have left the barrier */
        raise(SIGKILL);
    }
    double start = world_seconds();
    for (int i = 0; i < 3; i++)
        wrong +=
            world_check(rank,
                        tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm,
                                           stream) == TUTTI_OK ||
                            i > 0,
                        "the call tells what only the communicator can: %s", tutti_last_error());
    wrong += rig_await(rank, stream, 15);
    wrong += world_check(rank, world_seconds() - start < 10, "the stream was held for %g s",
                         world_seconds() - start);
    wrong += WORLD_TAKEN(tutti_comm_status(comm), TUTTI_ERR_PEER);
    wrong += WORLD_TAKEN(tutti_barrier(comm), TUTTI_ERR_PEER);
    return wrong + world_says(rank, "rank 1");
}

static void test_stream_ends_death_of_a_rank(void)
{
    run_doomed(3, direct, death, 2);
    run_doomed(3, staged, death, 2);
    run_doomed(2, tcp, death, 2);
}

enum { LET_GO_BY_ABORT, LET_GO_BY_DESTROY, LET_GO_BY_TIME };
struct held_how {
    int end;
    bool in_graph;
    const char *const *settings;
};

/* Rank 1 dies; the streams of the others are held, and what lies behind in them does not run, until
 * the communicator is aborted, or destroyed, or the time is up. */
static int held(tutti_comm *comm, int rank, int size, void *context)
{
    const struct held_how *how = context;
    void *graph = NULL;
    int32_t *memory = rig_take(COUNT * 4), *behind = rig_take(4);
    cuda_stream stream = rig_stream_take(false);
    tutti_comm *other;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    wrong += WORLD_OK(tutti_comm_hold_streams(other, 1));
    rig_set_ints(behind, 1, 5);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank == 1) {
        wrong += world_await(rank, size - 1); /* later calls would be told of it */
        raise(SIGKILL);
    }
    if (how->in_graph)
        rig_capture_begin(stream);
    for (int i = 0; i < 2; i++)
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream));
    if (how->in_graph) {
        graph = rig_capture_end(stream);
        rig_graph_launch(graph, stream);
    }
    rig_put_fill(stream, behind, 0, 4);
    world_tell();
    double end = world_seconds() + 10;
    while (tutti_comm_status(other) == TUTTI_OK && world_seconds() < end)
        usleep(1000);
    wrong += WORLD_TAKEN(tutti_comm_status(other), TUTTI_ERR_PEER);
    usleep(300000);
    if (how->end != LET_GO_BY_TIME) {
        wrong += world_check(rank, !rig_is_done(stream), "the stream went on");
        wrong += rig_wrong_ints(rank, behind, 1, 5, 0, "what lies behind");
    }
    if (how->end == LET_GO_BY_ABORT)
        wrong += WORLD_OK(tutti_comm_abort(other));
    if (how->end == LET_GO_BY_DESTROY)
        wrong += WORLD_OK(tutti_comm_destroy(other));
    wrong += rig_await(rank, stream, 5);
    if (graph)
        rig_graph_destroy(graph);
    return wrong + rig_wrong_ints(rank, behind, 1, 0, 0, "what lies behind, at the end");
}

static void test_stream_ends_streams_are_held(void)
{
    static const char *const soon[] = {"TUTTI_CUDA_DIRECT_MIN=1", "TUTTI_HOLD_MS=1000", NULL};
    struct held_how ways[] = {{LET_GO_BY_ABORT, false, direct},  {LET_GO_BY_ABORT, true, direct},
                              {LET_GO_BY_ABORT, false, tcp},     {LET_GO_BY_DESTROY, false, staged},
                              {LET_GO_BY_DESTROY, true, staged}, {LET_GO_BY_TIME, false, soon}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 3,
                              .settings = ways[i].settings,
                              .limit_s = 60,
                              .doomed = 2};
        run_world(&world, held, &ways[i]);
    }
}

/* Rank 1 dies while everyone's operations wait behind a gate: who asks learns it, and the streams
 * go on. */
static int death_behind_a_gate(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    tutti_status status = TUTTI_OK;
    int wrong = 0;
    (void)context;
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_barrier(comm));
    rig_gate_put((unsigned)rank, stream);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    world_tell();
    if (rank == 1) {
        wrong += world_await(rank, size); /* until all have made their calls */
        raise(SIGKILL);
    }
    for (double end = world_seconds() + 10; status == TUTTI_OK && world_seconds() < end;)
        status = tutti_comm_status(comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "rank 1");
    rig_gate_open((unsigned)rank);
    return wrong + rig_await(rank, stream, 15);
}

static void test_stream_ends_death_behind_a_gate(void)
{
    run_doomed(3, direct, death_behind_a_gate, 2);
    run_doomed(2, tcp, death_behind_a_gate, 2);
}

/* The communicator goes while its operations wait behind a gate. */
static int destroyed_while_queued(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *other;
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    int wrong = 0;
    (void)size;
    (void)context;
    for (int held = 0; held < 2; held++) {
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        if (held)
            rig_gate_put((unsigned)rank, stream);
        for (int i = 0; i < 5; i++)
            wrong += WORLD_OK(
                tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream));
        wrong +=
            WORLD_OK(tutti_barrier(comm)); /* a peer's end would refuse the calls of the others */
        double start = world_seconds();
        wrong += WORLD_OK(tutti_comm_destroy(other));
        wrong += world_check(rank, world_seconds() - start < 10, "destroy took %g s",
                             world_seconds() - start);
        if (held)
            rig_gate_open((unsigned)rank);
        wrong += rig_await(rank, stream, AWAIT_S);
    }
    rig_stream_give(stream, false);
    rig_give(memory);
    return wrong + WORLD_OK(tutti_barrier(comm));
}

static void test_stream_ends_destroyed_while_queued(void)
{
    run(WORLD_THREADS, 2, direct, destroyed_while_queued, NULL);
    run(WORLD_PROCESSES, 2, direct, destroyed_while_queued, NULL);
    run(WORLD_PROCESSES, 3, staged, destroyed_while_queued, NULL);
}

/* ---- bad input -------------------------------------------------------------------------------
 */

/* Memory that is neither a GPU's (any more) nor the program's own: in each form of a call. */
static int no_memory(tutti_comm *comm, int rank, int size, void *context)
{
    int in[2] = {rank, rank}, out[2] = {0, 0}, word;
    cuda_stream stream = rig_stream_take(false);
    cuda_address freed = 0;
    int wrong = world_check(rank,
                            rig_gpu()->alloc(&freed, COUNT) == CUDA_DRIVER_OK &&
                                rig_gpu()->free(freed) == CUDA_DRIVER_OK,
                            "no memory that was freed");
    void *gone[] = {(void *)(uintptr_t)freed, (void *)64};
    (void)context;
    wrong += WORLD_OK(tutti_barrier(comm)); /* a free waits for every stream, of other ranks too */
    for (int i = 0; i < 2; i++) {
        wrong += WORLD_TAKEN(tutti_allreduce(gone[i], out, 1, TUTTI_INT32, TUTTI_SUM, comm),
                             TUTTI_ERR_ARG);
        wrong += world_says(rank, "is memory of no GPU, and this process cannot read it");
        wrong +=
            WORLD_TAKEN(tutti_allreduce_on(in, gone[i], 1, TUTTI_INT32, TUTTI_SUM, comm, stream),
                        TUTTI_ERR_ARG);
        wrong += WORLD_TAKEN(tutti_allreduce_on(in, gone[i], 1, TUTTI_INT32, TUTTI_SUM, comm, NULL),
                             TUTTI_ERR_ARG);
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_broadcast(out, out, 1, TUTTI_INT32, rank, comm));
        wrong += WORLD_OK(tutti_broadcast(gone[i], gone[i], 1, TUTTI_INT32, 0, comm));
        wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
        wrong += WORLD_TAKEN(tutti_mem_copy(&word, gone[i], sizeof word), TUTTI_ERR_ARG);
    }
    /* Nothing moved: the communicator works. */
    wrong += WORLD_OK(tutti_allreduce_on(in, out, 2, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    return wrong + world_check(rank, out[1] == size * (size - 1) / 2, "sum %d", out[1]);
}

static void test_stream_ends_what_is_no_memory_is_refused(void)
{
    run(WORLD_PROCESSES, 2, direct, no_memory, NULL);
    run(WORLD_THREADS, 2, NULL, no_memory, NULL);
}

static int no_stream(tutti_comm *comm, int rank, int size, void *context)
{
    float in = 1, out = 0;
    int wrong = 0, thing = 0;
    (void)context;
    wrong += WORLD_TAKEN(tutti_allreduce_on(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, &thing),
                         TUTTI_ERR_ARG);
    wrong += world_says(rank, "is no stream");
    wrong += WORLD_OK(tutti_allreduce_on(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, NULL));
    return wrong + world_check(rank, (int)out == size, "NULL and host memory: %g", (double)out);
}

static void test_stream_ends_what_is_no_stream_is_refused(void)
{
    if (skips_real("a real driver may crash on a handle that is none"))
        return;
    run(WORLD_THREADS, 2, NULL, no_stream, NULL);
}

/* Without a driver: host memory and no stream is an ordinary call, a stream is refused. */
static int no_driver(tutti_comm *comm, int rank, int size, void *context)
{
    float in = 1, out = 0;
    int wrong = 0, thing = 0;
    (void)context;
    wrong += WORLD_OK(tutti_allreduce_on(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, NULL));
    wrong += world_check(rank, (int)out == size, "NULL and host memory: %g", (double)out);
    wrong += WORLD_TAKEN(tutti_allreduce_on(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, &thing),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += world_says(rank, "TUTTI_CUDA");
    void *memory = NULL;
    wrong += WORLD_TAKEN(tutti_mem_alloc_in(TUTTI_MEMORY_CUDA, 64, &memory), TUTTI_ERR_UNSUPPORTED);
    return wrong + world_says(rank, "no GPU memory");
}

static void test_stream_ends_without_a_driver(void)
{
    struct world world = {.kind = WORLD_PROCESSES, .size = 2, .settings = without};
    CU_ASSERT_EQUAL(world_run(&world, no_driver, NULL), 0);
}

/* A driver that the program has and the library may not use: its memory is refused in every form of
 * a call, before anything moves, and what is host memory goes on as ever. */
static int unused_driver(tutti_comm *comm, int rank, int size, void *context)
{
    char says[128];
    int32_t in = rank, out = -1, *memory = rig_take(64);
    size_t counts[8] = {0};
    tutti_request *request = NULL;
    int wrong = 0;
    (void)context;
    counts[0] = 1;
    snprintf(says, sizeof says,
             "allreduce: out is GPU memory (%p) at rank %d, expected host memory (", (void *)memory,
             rank);
    wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += WORLD_TAKEN(tutti_allreduce(&in, memory, 1, TUTTI_INT32, TUTTI_SUM, comm),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += world_says(rank, says) + world_says(rank, "TUTTI_CUDA=0): copy it there first");
    wrong += WORLD_TAKEN(tutti_allreduce_on(memory, memory, 1, TUTTI_INT32, TUTTI_SUM, comm, NULL),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += world_says(rank, "allreduce: in is GPU memory");
    wrong += WORLD_TAKEN(tutti_allgather_start(memory, &out, 1, TUTTI_INT32, comm, &request),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += WORLD_TAKEN(tutti_reduce_scatterv(memory, &out, counts, TUTTI_INT32, TUTTI_SUM, comm),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_TAKEN(tutti_send(memory, 1, TUTTI_INT32, (rank + 1) % size, comm),
                         TUTTI_ERR_UNSUPPORTED);
    wrong += WORLD_OK(tutti_group_cancel());
    wrong += WORLD_TAKEN(tutti_mem_copy(&out, memory, 4), TUTTI_ERR_UNSUPPORTED);
    wrong += world_check(rank, tutti_comm_status(comm) == TUTTI_OK && !request, "it failed");
    /* What has no bytes, or is not read here, may be anywhere. */
    wrong += WORLD_OK(tutti_allreduce(memory, memory, 0, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += WORLD_OK(tutti_broadcast(rank ? (void *)memory : &in, &out, 1, TUTTI_INT32, 0, comm));
    for (int i = 0; i < 3; i++)
        wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, comm));
    rig_give(memory);
    return wrong + world_check(rank, out == size * (size - 1) / 2, "sum %d", out);
}

static void test_stream_ends_memory_of_a_driver_that_is_not_used_is_refused(void)
{
    static const char *const shm_without[] = {"TUTTI_TRANSPORTS=shm", "TUTTI_CUDA=0", NULL};
    static const char *const tcp_without[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_CUDA=0", NULL};
    run(WORLD_PROCESSES, 3, shm_without, unused_driver, NULL);
    run(WORLD_PROCESSES, 2, tcp_without, unused_driver, NULL);
    run(WORLD_THREADS, 2, without, unused_driver, NULL);
}

/* The program's first use of a driver may come after its last communicator was made. */
static int loads_it_late(tutti_comm *comm, int rank, int size, void *context)
{
    int32_t in = rank, out = -1;
    world_fn *then = *(world_fn *const *)context;
    int wrong = 0;
    for (int i = 0; i < 3; i++)
        wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, comm));
    rig_enter(0);
    if (then)
        return wrong + then(comm, rank, size, NULL);
    int32_t *memory = rig_take(COUNT * sizeof *memory);
    rig_set_ints(memory, COUNT, rank);
    wrong += WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += rig_wrong_ints(rank, memory, COUNT, size * (size - 1) / 2, size, "a late sum");
    rig_give(memory);
    return wrong;
}

static void test_stream_ends_a_driver_that_is_loaded_late(void)
{
    world_fn *used = NULL, *unused = unused_driver;
    struct world world = {.kind = WORLD_PROCESSES, .size = 3};
    if (!rig_is_there()) {
        suite_skip("no GPU");
        return;
    }
    CU_ASSERT_EQUAL(world_run(&world, loads_it_late, &used), 0);
    world.settings = without;
    CU_ASSERT_EQUAL(world_run(&world, loads_it_late, &unused), 0);
}

/* A thread that has no context does nothing with the GPU: for its calls of no bytes in the default
 * stream no context is made, which would take a second and hundreds of MB there. */
static int no_bytes_without_a_context(tutti_comm *comm, int rank, int size, void *context)
{
    const struct gpu *gpu = rig_gpu();
    int device, active = -1, x = 1, y, wrong = 0;
    unsigned flags;
    (void)size;
    (void)context;
    wrong += world_check(rank, gpu->device_get(&device, 0) == CUDA_DRIVER_OK, "no GPU");
    (void)gpu->context_set(NULL);
    (void)gpu->primary_release(device);
    wrong += WORLD_OK(tutti_allreduce_on(&x, &y, 1, TUTTI_INT32, TUTTI_SUM, comm, NULL));
    wrong += WORLD_OK(tutti_allreduce_on(NULL, NULL, 0, TUTTI_INT32, TUTTI_SUM, comm, NULL));
    (void)gpu->primary_state(device, &flags, &active);
    return wrong + world_check(rank, active == 0, "the GPU's context is active: %d", active);
}

static void test_stream_ends_no_bytes_without_a_context(void)
{
    struct world world = {.kind = WORLD_PROCESSES, .size = 2};
    if (!rig_is_there()) {
        suite_skip("no GPU");
        return;
    }
    CU_ASSERT_EQUAL(world_run(&world, no_bytes_without_a_context, NULL), 0);
}

/* One rank of a process leaves at the very moment when another hands over its next operation, and
 * the thread that serves them both sleeps: it wakes for that all the same. */
static int leaves_at_once(tutti_comm *comm, int rank, int size, void *context)
{
    atomic_int *arrived = context;
    uint64_t state = suite_seed() + (uint64_t)rank;
    cuda_stream stream = rig_stream_take(true);
    int32_t *value = rig_take(sizeof *value), wrong = 0;
    for (int i = 0; i < 600 && !wrong; i++) {
        tutti_comm *pair = NULL;
        wrong += WORLD_OK(tutti_comm_dup(comm, &pair));
        if (rank == 0) {
            wrong += WORLD_OK(tutti_broadcast_on(value, value, 1, TUTTI_INT32, 0, pair, stream));
            wrong += rig_await(rank, stream, AWAIT_S);
            usleep(1000); /* nothing is left to do for that thread */
        }
        atomic_fetch_add(arrived, 1);
        while (atomic_load(arrived) < size * (i + 1)) {
        }
        for (uint64_t spin = rank ? 0 : suite_random(&state) % 300000; spin > 0; spin--)
            atomic_load(arrived);
        if (rank > 0) {
            wrong += WORLD_OK(tutti_broadcast_on(value, value, 1, TUTTI_INT32, 0, pair, stream));
            wrong += rig_await(rank, stream, 5);
        }
        wrong += WORLD_OK(tutti_comm_destroy(pair));
    }
    rig_give(value);
    return wrong + WORLD_OK(tutti_comm_status(comm));
}

static void test_stream_ends_a_rank_leaves_at_once(void)
{
    atomic_int arrived = 0;
    run(WORLD_THREADS, 2, staged, leaves_at_once, &arrived);
}

/* Nobody waits for a rank between two calls, nor while bytes come and go by queue: how long that
 * took is not held against the next call. */
static int calls_far_apart(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BYTES = 8 << 20, PAUSE_US = 400000 };
    void *memory = rig_take(BYTES);
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < 3; i++) {
        if (i > 0)
            usleep(PAUSE_US);
        wrong += WORLD_OK(tutti_allreduce(memory, memory, BYTES / 4, TUTTI_INT32, TUTTI_MAX, comm));
    }
    rig_give(memory);
    return wrong;
}

static void test_stream_ends_calls_far_apart_end_well(void)
{
    static const char *const soon[] = {"TUTTI_CUDA_DIRECT=0", "TUTTI_CUDA_PART=0",
                                       "TUTTI_TIMEOUT_MS=200", NULL};
    run(WORLD_PROCESSES, 1, soon, calls_far_apart, NULL);
}

/* Rank 0 aborts when its part is done, while what it sent goes from host memory to rank 1's GPU:
 * the call there tells of the abort, or all has come; and nothing comes any more afterwards. */
struct way {
    int block, times;
    unsigned after_us; /* more than a block takes */
};

static int ended_on_the_way(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TAIL = 256 };
    const struct way *way = context;
    int block = way->block, wrong = 0;
    int32_t *memory = rig_take(2 * (size_t)block * sizeof *memory);
    (void)size;
    for (int i = 0; i < way->times && !wrong; i++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        rig_set_ints(memory, 2 * (size_t)block, rank == 0 ? i : -2 * block);
        tutti_status status =
            i % 2 == 0 ? tutti_reduce(memory, memory, block, TUTTI_INT32, TUTTI_MAX, 1, other)
                       : tutti_gather(memory + rank * block, memory, block, TUTTI_INT32, 1, other);
        if (rank == 0)
            wrong += WORLD_OK(tutti_comm_abort(other));
        if (rank == 0 || status != TUTTI_OK)
            wrong += WORLD_TAKEN(status, rank == 0 ? TUTTI_OK : TUTTI_ERR_PEER);
        else
            wrong += rig_wrong_ints(rank, memory, block, i, 1, "a call that went well");
        rig_set_ints(memory + block - TAIL, TAIL, -TAIL);
        usleep(way->after_us);
        wrong += rig_wrong_ints(rank, memory + block - TAIL, TAIL, -TAIL, 1, "after the call");
        wrong += WORLD_OK(tutti_barrier(comm)) + WORLD_OK(tutti_comm_destroy(other));
    }
    rig_give(memory);
    return wrong;
}

/* Short blocks, and one that takes longer than a second: as copies, and as kernels. */
static void test_stream_ends_on_the_way(void)
{
    static const char *const apart[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_CUDA_DIRECT=0",
                                        "TUTTI_CUDA_PART=0", NULL};
    struct way few = {1 << 16, 4, 50000}, many = {1 << 23, 1, 1700000};
    for (int kernels = 0; kernels < 2; kernels++) {
        setenv("TUTTI_TEST_STANDIN_KERNELS", kernels ? "1" : "0", 1);
        setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "10", 1);
        run(WORLD_PROCESSES, 2, apart, ended_on_the_way, &few);
        setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "20", 1);
        run(WORLD_PROCESSES, 2, apart, ended_on_the_way, &many);
    }
    unsetenv("TUTTI_TEST_STANDIN_KERNELS");
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"abort_releases_streams", test_stream_ends_abort_releases_streams},
        {"making_is_given_up_behind_a_gate", test_stream_ends_making_is_given_up_behind_a_gate},
        {"abort_past_channels_that_are_held", test_stream_ends_abort_past_channels_that_are_held},
        {"death_of_a_rank", test_stream_ends_death_of_a_rank},
        {"streams_are_held", test_stream_ends_streams_are_held},
        {"death_behind_a_gate", test_stream_ends_death_behind_a_gate},
        {"destroyed_while_queued", test_stream_ends_destroyed_while_queued},
        {"on_the_way", test_stream_ends_on_the_way},
        {"calls_far_apart_end_well", test_stream_ends_calls_far_apart_end_well},
        {"a_rank_leaves_at_once", test_stream_ends_a_rank_leaves_at_once},
        {"what_is_no_memory_is_refused", test_stream_ends_what_is_no_memory_is_refused},
        {"what_is_no_stream_is_refused", test_stream_ends_what_is_no_stream_is_refused},
        {"without_a_driver", test_stream_ends_without_a_driver},
        {"memory_of_a_driver_that_is_not_used_is_refused",
         test_stream_ends_memory_of_a_driver_that_is_not_used_is_refused},
        {"a_driver_that_is_loaded_late", test_stream_ends_a_driver_that_is_loaded_late},
        {"no_bytes_without_a_context", test_stream_ends_no_bytes_without_a_context},
    };
    return suite_run("stream_ends", tests, sizeof tests / sizeof *tests, argc, argv);
}
