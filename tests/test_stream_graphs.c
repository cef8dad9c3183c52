/* test_stream_graphs.c: operations that are captured into graphs: replays, graphs and communicators
 * destroyed, captures that are refused, ranks that do not all capture. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define RUN_LIMIT_S 60
#include "mem/device.h"
#include "mem/mem_cuda_queue.h"
#include "src/comm.h"
#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000

static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

struct graph_rank {
    tutti_comm *comm;
    int rank, size;
    cuda_stream stream;
    void *source, *in, *sum, *mean, *gathered, *from_last;
    void *executable;
};

/* What the graph does: three operations and a ring of transfers, after the input was copied in. */
static int record(struct graph_rank *g)
{
    int rank = g->rank, next = (g->rank + 1) % g->size, last = (g->rank + g->size - 1) % g->size;
    int wrong = 0;
    rig_put_copy(g->stream, g->in, g->source, COUNT * 4);
    wrong += WORLD_OK(
        tutti_allreduce_on(g->in, g->sum, COUNT, TUTTI_INT32, TUTTI_SUM, g->comm, g->stream));
    wrong += WORLD_OK(tutti_barrier_on(g->comm, g->stream));
    wrong += WORLD_OK(
        tutti_allreduce_on(g->sum, g->mean, COUNT, TUTTI_INT32, TUTTI_AVG, g->comm, g->stream));
    wrong +=
        WORLD_OK(tutti_allgather_on(g->sum, g->gathered, COUNT, TUTTI_INT32, g->comm, g->stream));
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_send_on(g->in, COUNT, TUTTI_INT32, next, g->comm, g->stream));
    wrong += WORLD_OK(tutti_recv_on(g->from_last, COUNT, TUTTI_INT32, last, g->comm, g->stream));
    wrong += WORLD_OK(tutti_group_end());
    return wrong;
}

static int replayed(struct graph_rank *g, int round)
{
    int size = g->size, wrong = rig_await(g->rank, g->stream, AWAIT_S);
    int base = 100 * round * size + size * (size - 1) / 2;
    wrong += rig_wrong_ints(g->rank, g->sum, COUNT, base, size, "sum");
    wrong += rig_wrong_ints(g->rank, g->mean, COUNT, base, size, "average of equal sums");
    for (int r = 0; r < size; r++)
        wrong += rig_wrong_ints(g->rank, (char *)g->gathered + (size_t)r * COUNT * 4, COUNT, base,
                                size, "gathered");
    wrong += rig_wrong_ints(g->rank, g->from_last, COUNT, 100 * round + (g->rank + size - 1) % size,
                            1, "from the last");
    return wrong;
}

static void graph_open(struct graph_rank *g, tutti_comm *comm, int rank, int size)
{
    *g = (struct graph_rank){.comm = comm, .rank = rank, .size = size};
    g->stream = rig_stream_take(false);
    g->source = rig_take(COUNT * 4);
    g->in = rig_take(COUNT * 4);
    g->sum = rig_take(COUNT * 4);
    g->mean = rig_take(COUNT * 4);
    g->gathered = rig_take((size_t)size * COUNT * 4);
    g->from_last = rig_take(COUNT * 4);
}

static void graph_close(struct graph_rank *g)
{
    rig_give(g->source);
    rig_give(g->in);
    rig_give(g->sum);
    rig_give(g->mean);
    rig_give(g->gathered);
    rig_give(g->from_last);
    rig_stream_give(g->stream, false);
}

static int capture(struct graph_rank *g)
{
    rig_capture_begin(g->stream);
    int wrong = record(g);
    g->executable = rig_capture_end(g->stream);
    return wrong + world_check(g->rank, g->executable != NULL, "the capture was invalidated");
}

static int graphs(tutti_comm *comm, int rank, int size, void *context)
{
    struct graph_rank g;
    (void)context;
    graph_open(&g, comm, rank, size);
    int wrong = 0;
    for (int generation = 0; generation < 2 && !wrong; generation++) {
        wrong += capture(&g);
        rig_fill(g.sum, 0x11, COUNT * 4); /* nothing ran while it was captured */
        for (int round = 0; round < 5 && !wrong; round++) {
            rig_set_ints(g.source, COUNT, 100 * round + rank);
            if (round % 2 == rank % 2)
                rig_put_delay(g.stream, 500);
            rig_graph_launch(g.executable, g.stream);
            if (round == 3) /* a second replay behind the first, and a call behind both */
                rig_graph_launch(g.executable, g.stream);
            if (round >= 3)
                wrong += WORLD_OK(tutti_allreduce_on(g.sum, g.sum, COUNT, TUTTI_INT32, TUTTI_MAX,
                                                     comm, g.stream));
            wrong += replayed(&g, round);
        }
        if (g.executable)
            rig_graph_destroy(g.executable);
        float one = 1, sum = 0;
        wrong += WORLD_OK(tutti_allreduce(&one, &sum, 1, TUTTI_FLOAT32, TUTTI_SUM, comm));
        wrong += world_check(rank, (int)sum == size, "after the graph: %g", (double)sum);
    }
    wrong += WORLD_OK(tutti_comm_status(comm));
    graph_close(&g);
    return wrong;
}

static void test_stream_graphs_are_replayed(void)
{
    run(WORLD_THREADS, 2, direct, graphs, NULL);
    run(WORLD_THREADS, 3, staged, graphs, NULL);
    run(WORLD_PROCESSES, 2, by_kernels, graphs, NULL);
    run(WORLD_PROCESSES, 2, direct, graphs, NULL);
    run(WORLD_PROCESSES, 3, tcp, graphs, NULL);
}

/* Programs for inference capture ten thousand operations and more: each costs no descriptor. */
static int many_captured(tutti_comm *comm, int rank, int size, void *context)
{
    enum { GRAPHS = 200, CALLS = 100 };
    struct rlimit few;
    void *memory = rig_take(COUNT * 4), *executables[GRAPHS] = {NULL};
    cuda_stream stream = rig_stream_take(false);
    int wrong = world_check(rank, getrlimit(RLIMIT_NOFILE, &few) == 0, "getrlimit");
    (void)size;
    (void)context;
    if (rig_gpu()->standin) /* another driver may have descriptors of its own for a graph */
        few.rlim_cur = 200;
    wrong += world_check(rank, setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
    for (int g = 0; g < GRAPHS && !wrong; g++) {
        rig_capture_begin(stream);
        for (int i = 0; i < CALLS && !wrong; i++)
            wrong += WORLD_OK(
                tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_MAX, comm, stream));
        executables[g] = rig_capture_end(stream);
    }
    rig_set_ints(memory, COUNT, rank);
    for (int g = 0; g < GRAPHS && !wrong; g += GRAPHS - 1) {
        rig_graph_launch(executables[g], stream);
        wrong += rig_await(rank, stream, AWAIT_S);
    }
    wrong += rig_wrong_ints(rank, memory, COUNT, size - 1, 1, "largest");
    for (int g = 0; g < GRAPHS; g++) {
        if (executables[g])
            rig_graph_destroy(executables[g]);
    }
    return wrong + WORLD_OK(tutti_comm_status(comm));
}

static void test_stream_graphs_by_the_thousand(void)
{
    run(WORLD_PROCESSES, 2, direct, many_captured, NULL);
}

/* The communicator goes before its graph: replays go on at once, and nothing is touched. */
static int graph_outlives(tutti_comm *comm, int rank, int size, void *context)
{
    struct graph_rank g;
    tutti_comm *other;
    (void)context;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    graph_open(&g, other, rank, size);
    rig_set_ints(g.source, COUNT, rank);
    wrong += capture(&g);
    rig_graph_launch(g.executable, g.stream);
    wrong += replayed(&g, 0);
    wrong += WORLD_OK(tutti_comm_destroy(other));
    for (int round = 0; round < 3; round++) {
        rig_graph_launch(g.executable, g.stream);
        wrong += rig_await(rank, g.stream, AWAIT_S);
    }
    rig_graph_destroy(g.executable);
    graph_close(&g);
    return wrong + WORLD_OK(tutti_barrier(comm));
}

static void test_stream_graphs_outlive_their_communicator(void)
{
    run(WORLD_THREADS, 2, direct, graph_outlives, NULL);
    run(WORLD_PROCESSES, 2, staged, graph_outlives, NULL);
}

static void *shrink(void *comm)
{
    tutti_comm *child = NULL;
    tutti_status status = tutti_comm_shrink(comm, NULL, 0, &child);
    return status == TUTTI_OK && tutti_comm_destroy(child) == TUTTI_OK ? NULL : comm;
}

/* A graph of a revoked communicator is launched while a shrink of that waits for the other rank:
 * the streams of other communicators go on. */
static int launched_beside_a_shrink(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 50 };
    cuda_stream captured = rig_stream_take(false), stream = rig_stream_take(false);
    void *memory = rig_take(COUNT * 4), *failed = NULL, *executable;
    tutti_comm *revoked;
    pthread_t thread;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &revoked));
    (void)context;
    (void)size;
    rig_capture_begin(captured);
    wrong += WORLD_OK(
        tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_MAX, revoked, captured));
    executable = rig_capture_end(captured);
    wrong += WORLD_OK(tutti_comm_revoke(revoked));
    if (rank == 0) {
        pthread_create(&thread, NULL, shrink, revoked);
        while (atomic_load(&revoked->busy) != 1)
            sched_yield();
        rig_graph_launch(executable, captured);
    }
    for (int i = 0; i < ROUNDS && !wrong; i++) {
        wrong +=
            WORLD_OK(tutti_allreduce_on(memory, memory, 1, TUTTI_INT32, TUTTI_MAX, comm, stream));
        wrong += rig_await(rank, stream, 10);
    }
    if (rank == 0)
        pthread_join(thread, &failed);
    else
        failed = shrink(revoked);
    wrong += world_check(rank, failed == NULL, "shrink: %s", tutti_last_error());
    wrong += rig_await(rank, captured, AWAIT_S);
    rig_graph_destroy(executable);
    return wrong + WORLD_OK(tutti_comm_destroy(revoked));
}

static void test_stream_graphs_beside_a_shrink(void)
{
    run(WORLD_PROCESSES, 2, direct, launched_beside_a_shrink, NULL);
}

/* Two executables of one graph run side by side, which the library does not serve: at the latest
 * the abort lets both streams go on. The proxy sees both at once, since the test is inside of the
 * communicator until they have come. */
static int side_by_side(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 10 };
    const struct gpu *gpu = rig_gpu();
    cuda_stream streams[] = {rig_stream_take(false), rig_stream_take(false)};
    void *memory = rig_take(COUNT * 4), *executables[2] = {NULL};
    int wrong = 0;
    (void)context;
    (void)size;
    for (int round = 0; round < ROUNDS && !wrong; round++) {
        tutti_comm *other;
        cuda_graph graph = NULL;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        wrong += world_check(
            rank, gpu->capture_begin(streams[0], CUDA_CAPTURE_MODE_RELAXED) == CUDA_DRIVER_OK,
            "begin");
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_MAX, other, streams[0]));
        wrong += world_check(rank, gpu->capture_end(streams[0], &graph) == CUDA_DRIVER_OK, "end");
        for (int i = 0; i < 2; i++)
            wrong += world_check(
                rank, gpu->graph_instantiate(&executables[i], graph, 0) == CUDA_DRIVER_OK, "make");
        wrong += world_check(rank, gpu->graph_destroy(graph) == CUDA_DRIVER_OK, "destroy");
        while (!comm_try_seize(other))
            sched_yield();
        for (int i = 0; i < 2 && !wrong; i++)
            rig_graph_launch(executables[i], streams[i]);
        usleep(10000);
        comm_leave(other);
        for (double end = world_seconds() + AWAIT_S;
             !rig_is_done(streams[0]) && !rig_is_done(streams[1]) && world_seconds() < end;)
            sched_yield();
        wrong += WORLD_OK(tutti_comm_abort(other));
        wrong += rig_await(rank, streams[0], 10) + rig_await(rank, streams[1], 10);
        for (int i = 0; i < 2; i++)
            rig_graph_destroy(executables[i]);
        wrong += WORLD_OK(tutti_comm_destroy(other));
    }
    rig_give(memory);
    return wrong;
}

static void test_stream_graphs_side_by_side(void)
{
    run(WORLD_PROCESSES, 1, direct, side_by_side, NULL);
}

static void test_stream_graphs_side_by_side_staged(void)
{
#ifdef __SANITIZE_THREAD__
    suite_skip("both executables copy to the same memory, which is what the program asked for");
#else
    run(WORLD_PROCESSES, 1, staged, side_by_side, NULL);
#endif
}

/* A group of which one stream is captured and the other is not. */
static int half_captured(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream a = rig_stream_take(false), b = rig_stream_take(false);
    void *x = rig_take(COUNT * 4), *y = rig_take(COUNT * 4);
    int wrong = 0;
    (void)context;
    rig_capture_begin(a);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(x, x, COUNT, TUTTI_INT32, TUTTI_SUM, comm, a));
    wrong += WORLD_OK(tutti_allreduce_on(y, y, COUNT, TUTTI_INT32, TUTTI_SUM, comm, b));
    wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
    wrong += world_says(rank, "some streams of the group are being captured and others are not");
    for (int captured_first = 0; captured_first < 2; captured_first++) {
        wrong += WORLD_OK(tutti_group_start());
        if (captured_first)
            wrong += WORLD_OK(tutti_allreduce_on(x, x, COUNT, TUTTI_INT32, TUTTI_SUM, comm, a));
        wrong += WORLD_OK(tutti_allreduce(y, y, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
        if (!captured_first)
            wrong += WORLD_OK(tutti_allreduce_on(x, x, COUNT, TUTTI_INT32, TUTTI_SUM, comm, a));
        wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
        wrong += world_says(rank, "a group that is being captured holds a call without a stream");
    }
    void *executable = rig_capture_end(a);
    wrong += world_check(rank, executable != NULL, "the refusals broke the capture");
    rig_graph_destroy(executable);
    rig_set_ints(x, COUNT, rank);
    wrong += WORLD_OK(tutti_allreduce_on(x, x, COUNT, TUTTI_INT32, TUTTI_SUM, comm, a));
    wrong += rig_await(rank, a, AWAIT_S);
    wrong += rig_wrong_ints(rank, x, COUNT, size * (size - 1) / 2, size, "after the refusals");
    rig_give(x);
    rig_give(y);
    rig_stream_give(a, false);
    rig_stream_give(b, false);
    return wrong;
}

/* A group of one communicator whose streams are captured into two graphs: one launched without the
 * other would wait for ever. */
static int captured_apart(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream streams[2];
    void *memory[2], *executables[2];
    int wrong = 0;
    (void)context;
    for (int i = 0; i < 2; i++) {
        streams[i] = rig_stream_take(false);
        memory[i] = rig_take(COUNT * 4);
        rig_capture_begin(streams[i]);
    }
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < 2; i++)
        wrong += WORLD_OK(tutti_allreduce_on(memory[i], memory[i], COUNT, TUTTI_INT32, TUTTI_SUM,
                                             comm, streams[i]));
    wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
    wrong += world_says(rank, "are being captured into different graphs");
    for (int i = 0; i < 2; i++)
        wrong += WORLD_OK(tutti_allreduce_on(memory[i], memory[i], COUNT, TUTTI_INT32, TUTTI_SUM,
                                             comm, streams[i]));
    for (int i = 0; i < 2; i++) {
        executables[i] = rig_capture_end(streams[i]);
        wrong += world_check(rank, executables[i] != NULL, "the refusal broke a capture");
    }
    for (int i = 0; i < 2 && !wrong; i++) {
        rig_set_ints(memory[i], COUNT, rank);
        rig_graph_launch(executables[i], streams[i]);
        wrong += rig_await(rank, streams[i], AWAIT_S);
        wrong += rig_wrong_ints(rank, memory[i], COUNT, size * (size - 1) / 2, size, "each alone");
    }
    return wrong;
}

static void test_stream_graphs_groups_captured_apart_are_refused(void)
{
    run(WORLD_PROCESSES, 2, direct, captured_apart, NULL);
    run(WORLD_PROCESSES, 2, staged, captured_apart, NULL);
}

static void test_stream_graphs_half_captured_groups_are_refused(void)
{
    run(WORLD_THREADS, 2, direct, half_captured, NULL);
    run(WORLD_PROCESSES, 2, staged, half_captured, NULL);
}

/* One rank captures what the others call. All stay until the last knows: one that has no link yet
 * to a rank that goes learns only that it went. */
static int captured_by_one(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    void *memory = rig_take(COUNT * 4), *executable = NULL;
    tutti_comm *other;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)context;
    (void)size;
    if (rank == 0)
        rig_capture_begin(stream);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream));
    if (rank == 0) {
        executable = rig_capture_end(stream);
        rig_graph_launch(executable, stream);
    }
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_TAKEN(tutti_comm_status(other), TUTTI_ERR_MISMATCH);
    wrong += world_says(rank, " as operation 0 from a graph");
    wrong += world_says(rank, "and capture a collective in a graph on every rank or on none");
    if (executable)
        rig_graph_destroy(executable);
    wrong += WORLD_OK(tutti_barrier(comm));
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

static void test_stream_graphs_on_every_rank_or_on_none(void)
{
    run(WORLD_THREADS, 2, direct, captured_by_one, NULL);
    run(WORLD_PROCESSES, 3, staged, captured_by_one, NULL);
    run(WORLD_PROCESSES, 2, tcp, captured_by_one, NULL);
}

/* The driver refuses a part of what an operation is in a graph: the call says so, and whatever the
 * program does with that graph, its streams go on. */
static int half_recorded(tutti_comm *comm, int rank, int size, void *context)
{
    enum { PIECES_MOST = 40 };
    cuda_stream stream = rig_stream_take(false);
    void *memory = rig_take(COUNT * 4);
    int wrong = 0;
    bool whole = false;
    (void)context;
    for (unsigned piece = 1; !whole && piece <= PIECES_MOST && !wrong; piece++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        rig_gpu()->refuse_captured(piece);
        rig_capture_begin(stream);
        tutti_status status =
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other, stream);
        whole = status == TUTTI_OK;
        wrong += world_check(rank, whole || tutti_comm_status(other) == status,
                             "piece %u: %s, but the communicator's is another", piece,
                             tutti_status_string(status));
        void *executable = rig_capture_end(stream);
        rig_set_ints(memory, COUNT, rank);
        for (int i = 0; i < 2 && executable && (i == 0 || !whole); i++)
            rig_graph_launch(executable, stream);
        wrong += world_check(rank, executable != NULL, "the capture was invalidated");
        wrong += rig_await(rank, stream, AWAIT_S);
        if (whole)
            wrong += rig_wrong_ints(rank, memory, COUNT, size * (size - 1) / 2, size, "the whole");
        rig_graph_destroy(executable);
        wrong += WORLD_OK(tutti_comm_destroy(other));
    }
    return wrong + world_check(rank, whole, "not whole with %d pieces", PIECES_MOST);
}

/* The same while an operation of the communicator is under way: its peers are told the cause. */
static int refused_beside_another(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false), other = rig_stream_take(false);
    int wrong = WORLD_OK(tutti_barrier(comm));
    (void)context;
    world_tell();
    wrong += world_await(rank, size); /* until all have left the barrier */
    if (rank == 0) {                  /* what the others do not call */
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
        usleep(100000);
        rig_gpu()->refuse_captured(1);
        rig_capture_begin(other);
        tutti_status status =
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, other);
        wrong += world_check(rank, status != TUTTI_OK && status != TUTTI_ERR_ABORTED, "%s",
                             tutti_status_string(status));
        rig_graph_destroy(rig_capture_end(other));
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += WORLD_TAKEN(tutti_comm_status(comm), status);
    } else {
        double end = world_seconds() + 10;
        while (tutti_comm_status(comm) == TUTTI_OK && world_seconds() < end)
            usleep(1000);
        wrong += world_check(rank, tutti_comm_status(comm) != TUTTI_OK, "nobody said anything");
    }
    return wrong + world_says(rank, "in stream") + world_says(rank, "stand-in for tests");
}

static void test_stream_graphs_that_hold_half_an_operation(void)
{
    if (!rig_is_standin()) {
        suite_skip("a driver that refuses at will is the stand-in");
        return;
    }
    run(WORLD_PROCESSES, 2, direct, refused_beside_another, NULL);
    run(WORLD_PROCESSES, 2, staged, refused_beside_another, NULL);
    run(WORLD_PROCESSES, 2, direct, half_recorded, NULL);
    run(WORLD_PROCESSES, 2, staged, half_recorded, NULL);
}

/* A group in two streams that are captured into one graph: it needs both, and the graph may be run
 * one stream after the other unless the driver knows better. */
static int in_two_streams(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 3 };
    cuda_stream first = rig_stream_take(false), second = rig_stream_take(false);
    void *source = rig_take(COUNT * 4), *sum = rig_take(COUNT * 4), *most = rig_take(COUNT * 4);
    int wrong = 0, total = size * (size - 1) / 2;
    (void)context;
    rig_set_ints(source, COUNT, rank);
    rig_capture_begin(first);
    rig_put_order(first, second);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(source, sum, COUNT, TUTTI_INT32, TUTTI_SUM, comm, first));
    wrong +=
        WORLD_OK(tutti_allreduce_on(source, most, COUNT, TUTTI_INT32, TUTTI_MAX, comm, second));
    wrong += WORLD_OK(tutti_group_end());
    rig_put_order(second, first);
    void *executable = rig_capture_end(first);
    wrong += world_check(rank, executable != NULL, "the capture was invalidated");
    for (int i = 0; i < ROUNDS && wrong == 0; i++) {
        rig_fill(sum, 0, COUNT * 4);
        rig_fill(most, 0, COUNT * 4);
        rig_graph_launch(executable, first);
        wrong += rig_await(rank, first, AWAIT_S);
        wrong += rig_wrong_ints(rank, sum, COUNT, total, size, "sum");
        wrong += rig_wrong_ints(rank, most, COUNT, size - 1, 1, "most");
    }
    return wrong;
}

static void test_stream_graphs_of_several_streams(void)
{
    run(WORLD_PROCESSES, 2, direct, in_two_streams, NULL);
    run(WORLD_PROCESSES, 2, staged, in_two_streams, NULL);
}

/* An operation that was made for a graph is given back with it. */
static int operations_in_graphs(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 1100 }; /* a communicator has 1024 at a time */
    cuda_stream stream = rig_stream_take(false);
    float two = 2;
    void *memory = rig_take(64);
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < ROUNDS && !wrong; i++) {
        tutti_op op;
        wrong += WORLD_OK(tutti_op_create_premulsum(comm, &two, TUTTI_FLOAT32, &op));
        if (wrong)
            break;
        rig_capture_begin(stream);
        wrong += WORLD_OK(tutti_allreduce_on(memory, memory, 16, TUTTI_FLOAT32, op, comm, stream));
        void *executable = rig_capture_end(stream);
        if (i % 2)
            rig_graph_destroy(executable);
        wrong += WORLD_OK(tutti_op_destroy(comm, op));
        if (i % 2 == 0)
            rig_graph_destroy(executable);
    }
    rig_give(memory);
    rig_stream_give(stream, false);
    return wrong;
}

static void test_stream_graphs_give_operations_back(void)
{
    run(WORLD_PROCESSES, 1, staged, operations_in_graphs, NULL);
}

static void *capture_sum(tutti_comm *comm, int rank, float *data, tutti_op op, cuda_stream stream,
                         int *wrong)
{
    rig_capture_begin(stream);
    *wrong += WORLD_OK(tutti_allreduce_on(data, data, 1, TUTTI_FLOAT32, op, comm, stream));
    return rig_capture_end(stream);
}

static int sum_is(int rank, const float *data, float expected, const char *what)
{
    float got;
    int wrong = WORLD_OK(tutti_mem_copy(&got, data, sizeof got));
    return wrong + world_check(rank, got == expected, "%s: %g, expected %g", what, (double)got,
                               (double)expected);
}

/* Graphs keep what operations they were captured with beyond the turn of the table, and which
 * graphs a rank keeps is its own affair: all get the same numbers for what is made then. */
static int operations_kept_by_graphs(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TABLE = 1024 };
    cuda_stream stream = rig_stream_take(false);
    float two = 2, three = 3, five = 5, one = 1, ranks = (float)size;
    float *data = rig_take(sizeof *data);
    tutti_op ops[2];
    int wrong = 0;
    (void)context;
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &three, TUTTI_FLOAT32, &ops[0]));
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &two, TUTTI_FLOAT32, &ops[1]));
    void *own = capture_sum(comm, rank, data, ops[0], stream, &wrong);
    void *kept = capture_sum(comm, rank, data, ops[1], stream, &wrong);
    if (rank == 1)
        rig_graph_destroy(own);
    rig_graph_launch(kept, stream);
    wrong += rig_await(rank, stream, AWAIT_S);
    for (int i = 0; i < 2; i++)
        wrong += WORLD_OK(tutti_op_destroy(comm, ops[i]));
    for (int i = 2; i < TABLE && !wrong; i++) {
        wrong += WORLD_OK(tutti_op_create_premulsum(comm, &three, TUTTI_FLOAT32, &ops[0]));
        wrong += WORLD_OK(tutti_op_destroy(comm, ops[0]));
    }
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &three, TUTTI_FLOAT32, &ops[0]));
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &five, TUTTI_FLOAT32, &ops[1]));
    wrong += WORLD_OK(tutti_mem_copy(data, &one, sizeof one));
    wrong += WORLD_OK(tutti_allreduce(data, data, 1, TUTTI_FLOAT32, ops[0], comm));
    wrong += sum_is(rank, data, 3 * ranks, "the first made anew");
    rig_graph_launch(kept, stream);
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += sum_is(rank, data, 6 * ranks * ranks, "the graph's");
    wrong += WORLD_OK(tutti_allreduce(data, data, 1, TUTTI_FLOAT32, ops[1], comm));
    wrong += sum_is(rank, data, 30 * ranks * ranks * ranks, "the second made anew");
    rig_graph_destroy(kept);
    if (rank != 1)
        rig_graph_destroy(own);
    rig_give(data);
    rig_stream_give(stream, false);
    return wrong;
}

static void test_stream_graphs_keep_their_operations(void)
{
    run(WORLD_PROCESSES, 2, staged, operations_kept_by_graphs, NULL);
    run(WORLD_PROCESSES, 2, direct, operations_kept_by_graphs, NULL);
}

/* The proxy comes and goes, since it finds one communicator of a group taken: who enters the other
 * waits for it, and is not taken for a second thread of the program. */
static int entered_beside_the_proxy(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    int *memory = rig_take(64);
    tutti_comm *first, *second;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &first)) + WORLD_OK(tutti_comm_dup(comm, &second));
    (void)size;
    (void)context;
    rig_capture_begin(stream);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(memory, memory, 1, TUTTI_INT32, TUTTI_MAX, first, stream));
    wrong += WORLD_OK(
        tutti_allreduce_on(memory + 8, memory + 8, 1, TUTTI_INT32, TUTTI_MAX, second, stream));
    wrong += WORLD_OK(tutti_group_end());
    void *executable = rig_capture_end(stream);
    wrong += world_check(rank, comm_seize(second), "somebody is inside");
    rig_graph_launch(executable, stream);
    usleep(20000);
    for (double end = world_seconds() + 0.5; !wrong && world_seconds() < end;)
        wrong += WORLD_OK(tutti_comm_flush(first));
    comm_leave(second);
    wrong += rig_await(rank, stream, AWAIT_S);
    rig_graph_destroy(executable);
    rig_give(memory);
    return wrong + WORLD_OK(tutti_comm_destroy(first)) + WORLD_OK(tutti_comm_destroy(second));
}

static void test_stream_graphs_beside_calls_that_enter(void)
{
    run(WORLD_PROCESSES, 1, direct, entered_beside_the_proxy, NULL);
}

/* Queues of slots that nobody uses. */
static size_t spare_slot_queues(void)
{
    struct mem_device *device;
    size_t count = 0;
    if (mem_device_open(&device) != TUTTI_OK)
        return 0;
    pthread_mutex_lock(&device->lock);
    for (const struct mem_queue *queue = device->slot_queues; queue; queue = queue->next)
        count++;
    pthread_mutex_unlock(&device->lock);
    return count;
}

/* A graph that is launched once more after its communicator was aborted gives back its slots. */
static int slots_after_an_abort(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 3 };
    cuda_stream stream = rig_stream_take(false);
    void *memory = rig_take(COUNT * 4);
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < ROUNDS && !wrong; i++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        rig_capture_begin(stream);
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_MAX, other, stream));
        void *executable = rig_capture_end(stream);
        rig_graph_launch(executable, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += WORLD_OK(tutti_barrier(comm)) + WORLD_OK(tutti_comm_abort(other));
        for (int launch = 0; launch < 2; launch++) {
            usleep(20000); /* the proxy has answered the next replay by now */
            rig_graph_launch(executable, stream);
            wrong += rig_await(rank, stream, AWAIT_S);
        }
        usleep(20000);
        rig_graph_destroy(executable);
        for (double end = world_seconds() + 10; spare_slot_queues() == 0 && world_seconds() < end;)
            usleep(1000);
        wrong += world_check(rank, spare_slot_queues() == 1, "round %d: %zu queues of slots", i,
                             spare_slot_queues());
        wrong += WORLD_OK(tutti_comm_destroy(other));
    }
    rig_give(memory);
    return wrong;
}

static void test_stream_graphs_give_slots_back_after_an_abort(void)
{
    run(WORLD_PROCESSES, 2, direct, slots_after_an_abort, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"are_replayed", test_stream_graphs_are_replayed},
        {"by_the_thousand", test_stream_graphs_by_the_thousand},
        {"outlive_their_communicator", test_stream_graphs_outlive_their_communicator},
        {"beside_a_shrink", test_stream_graphs_beside_a_shrink},
        {"side_by_side", test_stream_graphs_side_by_side},
        {"side_by_side_staged", test_stream_graphs_side_by_side_staged},
        {"half_captured_groups_are_refused", test_stream_graphs_half_captured_groups_are_refused},
        {"groups_captured_apart_are_refused", test_stream_graphs_groups_captured_apart_are_refused},
        {"on_every_rank_or_on_none", test_stream_graphs_on_every_rank_or_on_none},
        {"of_several_streams", test_stream_graphs_of_several_streams},
        {"that_hold_half_an_operation", test_stream_graphs_that_hold_half_an_operation},
        {"give_operations_back", test_stream_graphs_give_operations_back},
        {"keep_their_operations", test_stream_graphs_keep_their_operations},
        {"beside_calls_that_enter", test_stream_graphs_beside_calls_that_enter},
        {"give_slots_back_after_an_abort", test_stream_graphs_give_slots_back_after_an_abort},
    };
    return suite_run("stream_graphs", tests, sizeof tests / sizeof *tests, argc, argv);
}
