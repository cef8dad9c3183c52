/* test_stream.c: operations in the order of streams, and every operation on device memory, compared
 * with exact results. Over the stand-in driver, or over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "mem/device.h"
#include "tests/rig_suite.h"

#define AWAIT_S   30
#define STREAMS   3
#define TRANSFERS 8

static const char *const pieces[] = {"TUTTI_CUDA_DIRECT_MIN=1", "TUTTI_CHUNK=4096", NULL};
static const char *const mixed[] = {"TUTTI_CUDA_DIRECT_MIN=4096", NULL};
static const char *const launched[] = {"TUTTI_CUDA_DIRECT_MIN=1", "TUTTI_CUDA_SLOTS=0", NULL};
static const char *const cut[] = {"TUTTI_CUDA_DIRECT_MIN=1024G", "TUTTI_CUDA_PART=1K", NULL};
static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_CUDA_DIRECT_MIN=4096", NULL};
static const char *const host_functions[] = {"TUTTI_CUDA_STREAM_OPS=host",
                                             "TUTTI_CUDA_DIRECT_MIN=4096", NULL};

/* ---- every collective, type and operation ----------------------------------------------------
 */

struct sweep {
    uint64_t seed;
    int cases;
    bool processes; /* a rank has its context for itself: default and blocking streams too */
};

static void add_ints(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    const int32_t *a = in;
    int32_t *b = inout;
    (void)dtype;
    (void)context;
    for (size_t i = 0; i < count; i++)
        b[i] += a[i];
}

/* Turns a plain case into one of the others; *made is to be destroyed. */
static int vary(struct testcase *c, uint64_t *state, int rank, int size, tutti_comm *comm,
                tutti_op *made)
{
    uint64_t choice = suite_random(state) % 8;
    *made = (tutti_op)0;
    if (choice < 2) {
        testcase_set_avg(c, size);
    } else if (choice < 4) {
        uint64_t scalar = 0;
        testcase_store(&scalar, c->dtype, testcase_scalar(rank));
        if (tutti_op_create_premulsum(comm, &scalar, c->dtype, made) != TUTTI_OK)
            return world_check(rank, 0, "premulsum: %s", tutti_last_error());
        testcase_set_premulsum(c, *made);
    } else if (choice == 4) {
        c->dtype = TUTTI_INT32;
        if (tutti_op_create(comm, add_ints, NULL, made) != TUTTI_OK)
            return world_check(rank, 0, "op_create: %s", tutti_last_error());
        testcase_set_user_sum(c, *made);
    }
    return 0;
}

static int sweep(tutti_comm *comm, int rank, int size, void *context)
{
    const struct sweep *s = context;
    uint64_t state = s->seed;
    int wrong = 0;
    cuda_stream streams[STREAMS] = {rig_stream_take(false), NULL, NULL};
    streams[1] = s->processes ? rig_stream_take(true) : streams[0];
    streams[2] = s->processes ? NULL : streams[0];
    struct rig_job *job = calloc(1, sizeof *job);
    for (int i = 0; i < s->cases && wrong == 0; i++) {
        tutti_op made;
        testcase_generate(&job->c, &state, size, i % 8 == 7 ? 40000 : 700);
        wrong += vary(&job->c, &state, rank, size, comm, &made);
        uint64_t choice = suite_random(&state);
        if (choice % 8 > 2)
            job->c.form = FORM_ON_STREAM;
        job->on_host = choice / 8 % 8 == 0;
        cuda_stream stream = streams[choice / 64 % STREAMS];
        rig_job_make(job, i, comm, rank, size);
        if (choice / 1024 % 3 == 0)
            rig_put_delay(stream, (unsigned)((choice / 4096 + (unsigned)rank) % 300));
        wrong += rig_job_put(job, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_job_check(job);
        if (made)
            wrong += WORLD_OK(tutti_op_destroy(comm, made));
        wrong += WORLD_OK(tutti_comm_status(comm));
    }
    if (wrong)
        world_check(rank, 0, "seed %llu", (unsigned long long)s->seed);
    free(job);
    return wrong;
}

static void run_sweep(enum world_kind kind, int size, const char *const *settings, int cases)
{
    struct sweep s = {suite_seed() + (unsigned)size, cases, kind == WORLD_PROCESSES};
    if (getenv("TUTTI_TEST_FAST"))
        s.cases = cases / 3 + 1;
    run(kind, size, settings, sweep, &s);
}

static void test_stream_threads(void)
{
    run_sweep(WORLD_THREADS, 1, NULL, 20);
    run_sweep(WORLD_THREADS, 2, mixed, 120);
    run_sweep(WORLD_THREADS, 4, direct, 100);
    run_sweep(WORLD_THREADS, 3, launched, 60);
    run_sweep(WORLD_THREADS, 5, NULL, 60);
    run_sweep(WORLD_THREADS, 3, staged, 60);
    run_sweep(WORLD_THREADS, 3, cut, 60);
}

static void test_stream_processes(void)
{
    run_sweep(WORLD_PROCESSES, 2, direct, 120);
    run_sweep(WORLD_PROCESSES, 3, launched, 60);
    run_sweep(WORLD_PROCESSES, 4, mixed, 80);
    run_sweep(WORLD_PROCESSES, 3, pieces, 80);
    run_sweep(WORLD_PROCESSES, 5, NULL, 40);
    run_sweep(WORLD_PROCESSES, 3, staged, 60);
    run_sweep(WORLD_PROCESSES, 4, cut, 60);
}

static void test_stream_processes_over_tcp(void)
{
    run_sweep(WORLD_PROCESSES, 2, tcp, 80);
    run_sweep(WORLD_PROCESSES, 4, tcp, 40);
}

static void test_stream_copies_by_kernels(void)
{
    run_sweep(WORLD_THREADS, 3, by_kernels, 60);
    run_sweep(WORLD_PROCESSES, 2, by_kernels, 60);
}

static void test_stream_through_host_functions(void)
{
    run_sweep(WORLD_PROCESSES, 2, host_functions, 60);
    run_sweep(WORLD_THREADS, 1, host_functions, 20);
}

/* A debugger's mode: a launch returns when its kernel has ended. One behind a wait would never. */
static void test_stream_launches_that_block(void)
{
    setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    setenv("TUTTI_TEST_STANDIN_BLOCKING", "1", 1);
    run_sweep(WORLD_PROCESSES, 2, direct, 40);
    run_sweep(WORLD_PROCESSES, 2, by_kernels, 40);
    run_sweep(WORLD_THREADS, 3, mixed, 40);
    unsetenv("CUDA_LAUNCH_BLOCKING");
    unsetenv("TUTTI_TEST_STANDIN_BLOCKING");
}

/* ---- sends and receives ----------------------------------------------------------------------
 */

static int wrong_ints(int rank, const void *device, size_t count, int first, const char *what)
{
    int32_t *seen = malloc((count + 1) * sizeof *seen);
    rig_copy(seen, device, count * sizeof *seen);
    int wrong = 0;
    for (size_t i = 0; i < count && !wrong; i++)
        wrong +=
            world_check(rank, seen[i] == first + (int)(i % 1000), "%s: element %zu is %d, not %d",
                        what, i, seen[i], first + (int)(i % 1000));
    free(seen);
    return wrong;
}

/* Device memory that holds first, first + 1, ... over and over. */
static void *ints(size_t count, int first)
{
    int32_t *values = malloc((count + 1) * sizeof *values);
    void *device = rig_take((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = first + (int)(i % 1000);
    rig_copy(device, values, count * sizeof *values);
    free(values);
    return device;
}

/* To the next, from the last and to itself, in two streams of one group; the input comes late. */
static int ring(tutti_comm *comm, int rank, int size, size_t count)
{
    int next = (rank + 1) % size, last = (rank + size - 1) % size, wrong = 0;
    size_t bytes = (count + 1) * sizeof(int32_t);
    void *source = ints(count, rank * 1000), *in = rig_take(bytes), *out = rig_take(bytes);
    void *self = rig_take(bytes);
    cuda_stream a = rig_stream_take(false), b = rig_stream_take(false);
    for (int round = 0; round < 2; round++) {
        rig_fill(in, 0x77, bytes);
        rig_fill(out, 0x77, bytes);
        rig_fill(self, 0x77, bytes);
        rig_put_delay(a, 300);
        rig_put_copy(a, in, source, count * sizeof(int32_t));
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_send_on(in, count, TUTTI_INT32, next, comm, a));
        wrong += WORLD_OK(tutti_recv_on(self, count, TUTTI_INT32, rank, comm, b));
        wrong += WORLD_OK(tutti_recv_on(out, count, TUTTI_INT32, last, comm, a));
        wrong += WORLD_OK(tutti_send_on(in, count, TUTTI_INT32, rank, comm, b));
        wrong += WORLD_OK(tutti_group_end());
        wrong += rig_await(rank, a, AWAIT_S) + rig_await(rank, b, AWAIT_S);
        wrong += wrong_ints(rank, out, count, last * 1000, "from the last");
        wrong += wrong_ints(rank, self, count, rank * 1000, "from itself");
        wrong += WORLD_OK(tutti_comm_status(comm));
    }
    rig_stream_give(a, false);
    rig_stream_give(b, false);
    rig_give(source);
    rig_give(in);
    rig_give(out);
    rig_give(self);
    return wrong;
}

static int rings(tutti_comm *comm, int rank, int size, void *context)
{
    int wrong = 0;
    (void)context;
    for (size_t count = 0; count <= 300000 && !wrong; count = count * 60 + 1)
        wrong += ring(comm, rank, size, count);
    return wrong;
}

/* One half of a transfer to oneself is host memory, which a GPU does not reach; beside it one from
 * a peer. */
static int self_to_host(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 3000 };
    int last = (rank + size - 1) % size, wrong = 0;
    void *in = ints(COUNT, rank), *out = rig_take(COUNT * 4), *back = rig_take(COUNT * 4);
    int32_t *host = calloc(COUNT, sizeof *host);
    cuda_stream stream = rig_stream_take(false);
    (void)context;
    for (int way = 0; way < 2; way++) {
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(
            tutti_send_on(way ? (void *)host : in, COUNT, TUTTI_INT32, rank, comm, stream));
        wrong += WORLD_OK(tutti_recv_on(way ? back : host, COUNT, TUTTI_INT32, rank, comm, stream));
        wrong += WORLD_OK(tutti_send_on(in, COUNT, TUTTI_INT32, (rank + 1) % size, comm, stream));
        wrong += WORLD_OK(tutti_recv_on(out, COUNT, TUTTI_INT32, last, comm, stream));
        wrong += WORLD_OK(tutti_group_end());
        wrong += rig_await(rank, stream, AWAIT_S);
    }
    wrong += wrong_ints(rank, back, COUNT, rank, "to oneself, there and back");
    wrong += wrong_ints(rank, out, COUNT, last, "from the last");
    free(host);
    return wrong;
}

static void test_stream_sends_and_receives(void)
{
    run(WORLD_THREADS, 4, direct, rings, NULL);
    run(WORLD_THREADS, 2, staged, rings, NULL);
    run(WORLD_PROCESSES, 3, mixed, rings, NULL);
    run(WORLD_PROCESSES, 2, tcp, rings, NULL);
    run(WORLD_PROCESSES, 2, direct, self_to_host, NULL);
    run(WORLD_THREADS, 3, direct, self_to_host, NULL);
}

/* Transfers of one pair match in the order issued, though some are staged and some direct; a
 * collective is behind them. */
static int many_transfers(tutti_comm *comm, int rank, int size, size_t count)
{
    int next = (rank + 1) % size, last = (rank + size - 1) % size, wrong = 0;
    void *in[TRANSFERS], *out[TRANSFERS], *sum = rig_take((count + 1) * sizeof(int32_t));
    size_t counts[TRANSFERS];
    tutti_request *requests[2 * TRANSFERS];
    for (int i = 0; i < TRANSFERS; i++) {
        counts[i] = i % 3 == 0 ? count : i % 3 == 1 ? 5 : 2000;
        in[i] = ints(counts[i], rank * 1000 + i);
        out[i] = rig_take((counts[i] + 1) * sizeof(int32_t));
        rig_fill(out[i], 0x77, (counts[i] + 1) * sizeof(int32_t));
    }
    for (int i = 0; i < TRANSFERS; i++)
        wrong +=
            WORLD_OK(tutti_recv_start(out[i], counts[i], TUTTI_INT32, last, comm, &requests[i]));
    for (int i = 0; i < TRANSFERS; i++)
        wrong += WORLD_OK(
            tutti_send_start(in[i], counts[i], TUTTI_INT32, next, comm, &requests[TRANSFERS + i]));
    wrong += WORLD_OK(tutti_allreduce(in[0], sum, count, TUTTI_INT32, TUTTI_MAX, comm));
    wrong += WORLD_OK(tutti_wait_all(2 * TRANSFERS, requests));
    wrong += wrong_ints(rank, sum, count, (size - 1) * 1000, "after many transfers");
    for (int i = 0; i < TRANSFERS; i++) {
        wrong += wrong_ints(rank, out[i], counts[i], last * 1000 + i, "many transfers");
        rig_give(in[i]);
        rig_give(out[i]);
    }
    rig_give(sum);
    return wrong + WORLD_OK(tutti_comm_status(comm));
}

/* Started transfers progress together, whatever the order they were started in. */
static int started_transfers(tutti_comm *comm, int rank, int size, void *context)
{
    size_t count = *(size_t *)context, bytes = (count + 1) * sizeof(int32_t);
    int next = (rank + 1) % size, last = (rank + size - 1) % size, wrong = 0;
    void *in = ints(count, rank * 1000), *out = rig_take(bytes);
    tutti_request *requests[2];
    rig_fill(out, 0x77, bytes);
    wrong += WORLD_OK(tutti_recv_start(out, count, TUTTI_INT32, last, comm, &requests[0]));
    wrong += WORLD_OK(tutti_send_start(in, count, TUTTI_INT32, next, comm, &requests[1]));
    wrong += WORLD_OK(tutti_wait_all(2, requests));
    wrong += wrong_ints(rank, out, count, last * 1000, "started");
    rig_fill(out, 0x77, bytes);
    wrong += WORLD_OK(tutti_recv_start(out, count, TUTTI_INT32, next, comm, &requests[0]));
    wrong += WORLD_OK(tutti_send(in, count, TUTTI_INT32, last, comm));
    wrong += WORLD_OK(tutti_wait(&requests[0]));
    wrong += wrong_ints(rank, out, count, next * 1000, "started before a blocking one");
    rig_fill(out, 0x77, bytes);
    wrong += WORLD_OK(tutti_send_start(in, count, TUTTI_INT32, rank, comm, &requests[0]));
    wrong += WORLD_OK(tutti_recv_start(out, count, TUTTI_INT32, rank, comm, &requests[1]));
    wrong += WORLD_OK(tutti_wait_all(2, requests));
    wrong += wrong_ints(rank, out, count, rank * 1000, "started to oneself");
    if (count > 0)
        wrong += WORLD_TAKEN(tutti_send(in, count, TUTTI_INT32, rank, comm), TUTTI_ERR_ARG);
    rig_give(in);
    rig_give(out);
    return wrong + many_transfers(comm, rank, size, count);
}

static void test_stream_started_transfers(void)
{
    for (size_t count = 0; count < 300000; count = count * 500 + 1) {
        run(WORLD_THREADS, 3, mixed, started_transfers, &count);
        run(WORLD_THREADS, 2, staged, started_transfers, &count);
        run(WORLD_PROCESSES, 2, mixed, started_transfers, &count);
        run(WORLD_PROCESSES, 3, tcp, started_transfers, &count);
    }
}

/* ---- order -----------------------------------------------------------------------------------
 */

static void simple_job(struct rig_job *job, tutti_coll coll, size_t count, int number,
                       tutti_comm *comm, int rank, int size)
{
    *job = (struct rig_job){.c = {.coll = coll,
                                  .dtype = TUTTI_FLOAT32,
                                  .op = TUTTI_SUM,
                                  .count = count,
                                  .form = FORM_ON_STREAM,
                                  .factor = 1}};
    rig_job_make(job, number, comm, rank, size);
}

/* One rank's stream is held: nobody's goes on. */
static int nothing_runs_early(tutti_comm *comm, int rank, int size, void *context)
{
    size_t count = *(size_t *)context;
    struct rig_job *job = calloc(1, sizeof *job);
    cuda_stream stream = rig_stream_take(false);
    tutti_comm *aside;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &aside));
    for (int late = 0; late < size && !wrong; late++) {
        simple_job(job, TUTTI_COLL_ALLREDUCE, count, late, comm, rank, size);
        if (rank == late)
            rig_gate_put((unsigned)late, stream);
        wrong += rig_job_put(job, stream);
        usleep(20000);
        wrong +=
            world_check(rank, !rig_is_done(stream), "done before rank %d's stream is there", late);
        wrong += WORLD_OK(tutti_barrier(aside));
        if (rank == late)
            rig_gate_open((unsigned)late);
        wrong += rig_await(rank, stream, AWAIT_S) + rig_job_check(job);
    }
    wrong += WORLD_OK(tutti_comm_destroy(aside));
    rig_stream_give(stream, false);
    free(job);
    return wrong;
}

static void test_stream_nothing_runs_early(void)
{
    size_t counts[] = {2, 3000};
    for (int i = 0; i < 2; i++) {
        run(WORLD_THREADS, 3, mixed, nothing_runs_early, &counts[i]);
        run(WORLD_PROCESSES, 2, mixed, nothing_runs_early, &counts[i]);
    }
}

struct opener {
    atomic_int opened;
    unsigned gate;
};

static void *open_later(void *argument)
{
    struct opener *opener = argument;
    usleep(30000);
    atomic_store(&opener->opened, 1);
    rig_gate_open(opener->gate);
    return NULL;
}

/* Blocking calls come after what is in streams, in the order issued. */
static int blocking_waits(tutti_comm *comm, int rank, int size, void *context)
{
    struct opener opener = {.gate = (unsigned)rank};
    struct rig_job *jobs = calloc(2, sizeof *jobs);
    cuda_stream stream = rig_stream_take(false);
    pthread_t thread;
    (void)context;
    simple_job(&jobs[0], TUTTI_COLL_ALLGATHER, 500, 0, comm, rank, size);
    simple_job(&jobs[1], TUTTI_COLL_ALLTOALL, 500, 1, comm, rank, size);
    rig_gate_put(opener.gate, stream);
    pthread_create(&thread, NULL, open_later, &opener);
    int wrong = rig_job_put(&jobs[0], stream) + rig_job_put(&jobs[1], stream);
    float in = 1, out = 0;
    wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm));
    wrong += world_check(rank, atomic_load(&opener.opened), "a blocking call overtook a stream");
    wrong += world_check(rank, (int)out == size, "sum %g", (double)out);
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += rig_job_check(&jobs[0]) + rig_job_check(&jobs[1]);
    pthread_join(thread, NULL);
    rig_stream_give(stream, false);
    free(jobs);
    return wrong;
}

static void test_stream_blocking_calls_wait(void)
{
    run(WORLD_THREADS, 2, mixed, blocking_waits, NULL);
    run(WORLD_PROCESSES, 3, mixed, blocking_waits, NULL);
}

/* out of the first is in of the second, in another stream, behind an event. */
static int across_streams(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 3000, ROUNDS = 6 };
    cuda_stream streams[2] = {rig_stream_take(false), rig_stream_take(false)};
    void *first = ints(COUNT, rank), *buffers[2] = {rig_take(COUNT * 4), rig_take(COUNT * 4)};
    int wrong = 0, base = 0, factor = 1;
    (void)context;
    rig_fill(buffers[0], 0x33, COUNT * 4);
    rig_put_delay(streams[0], 1000);
    rig_put_copy(streams[0], buffers[0], first, COUNT * 4);
    for (int round = 0; round < ROUNDS; round++) {
        cuda_stream now = streams[round % 2], next = streams[1 - round % 2];
        wrong += WORLD_OK(tutti_allreduce_on(buffers[round % 2], buffers[1 - round % 2], COUNT,
                                             TUTTI_INT32, TUTTI_SUM, comm, now));
        rig_put_order(now, next);
        if (round % 3 == rank % 3)
            rig_put_delay(next, 200);
    }
    wrong += rig_await(rank, streams[0], AWAIT_S) + rig_await(rank, streams[1], AWAIT_S);
    for (int round = 0; round < ROUNDS; round++) {
        base = round == 0 ? size * (size - 1) / 2 : base * size;
        factor *= size;
    }
    int32_t seen[COUNT];
    rig_copy(seen, buffers[ROUNDS % 2], sizeof seen);
    for (int i = 0; i < COUNT && !wrong; i++)
        wrong += world_check(rank, seen[i] == base + factor * (i % 1000),
                             "element %d is %d, not %d", i, seen[i], base + factor * (i % 1000));
    rig_give(first);
    rig_give(buffers[0]);
    rig_give(buffers[1]);
    rig_stream_give(streams[0], false);
    rig_stream_give(streams[1], false);
    return wrong;
}

static void test_stream_across_streams(void)
{
    run(WORLD_THREADS, 3, mixed, across_streams, NULL);
    run(WORLD_THREADS, 2, staged, across_streams, NULL);
    run(WORLD_PROCESSES, 4, mixed, across_streams, NULL);
}

/* A call of the driver that waits for all streams (memory is freed, code is loaded) holds up other
 * threads' launches, copies and allocations meanwhile. What the streams wait for must do without.
 */
static int beside_blocking_calls(tutti_comm *comm, int rank, int size, void *context)
{
    static const tutti_coll colls[] = {TUTTI_COLL_ALLREDUCE, TUTTI_COLL_REDUCE_SCATTER,
                                       TUTTI_COLL_ALLTOALL, TUTTI_COLL_ALLGATHER,
                                       TUTTI_COLL_BROADCAST};
    enum { CALLS = sizeof colls / sizeof *colls };
    struct opener opener = {.gate = (unsigned)rank};
    struct rig_job *jobs = calloc(CALLS, sizeof *jobs);
    cuda_stream stream = rig_stream_take(false);
    cuda_address spare = 0;
    pthread_t thread;
    int wrong = world_check(rank, rig_gpu()->alloc(&spare, 4 << 20) == CUDA_DRIVER_OK, "alloc");
    (void)context;
    for (int i = 0; i < CALLS; i++)
        simple_job(&jobs[i], colls[i], 50000, i, comm, rank, size);
    rig_gate_put(opener.gate, stream);
    for (int i = 0; i < CALLS; i++)
        wrong += rig_job_put(&jobs[i], stream);
    pthread_create(&thread, NULL, open_later, &opener);
    wrong += world_check(rank, rig_gpu()->free(spare) == CUDA_DRIVER_OK, "free");
    wrong += rig_await(rank, stream, AWAIT_S);
    for (int i = 0; i < CALLS; i++)
        wrong += rig_job_check(&jobs[i]);
    pthread_join(thread, NULL);
    rig_stream_give(stream, false);
    free(jobs);
    return wrong;
}

/* Between hosts adapters may read and write GPU memory: there work is launched when its data have
 * come, and such calls do hold it up. */
static bool between_hosts(void)
{
    bool between = getenv("TUTTI_TEST_HOSTS") != NULL;
    if (between)
        suite_skip("work behind adapters is launched, and what holds up launches stops it");
    return between;
}

static void test_stream_beside_blocking_calls(void)
{
    if (between_hosts())
        return;
    run(WORLD_PROCESSES, 2, direct, beside_blocking_calls, NULL);
    run(WORLD_PROCESSES, 3, direct, beside_blocking_calls, NULL);
    run(WORLD_PROCESSES, 3, staged, beside_blocking_calls, NULL);
}

/* The program runs ahead of a stream that waits until its channel is full, with its own work and
 * with collectives: it stops in a call of the driver, which holds up other threads' launches. */
static int far_ahead(tutti_comm *comm, int rank, int size, void *context)
{
    enum { CALLS = 100, FILLS = 30 };
    struct opener opener = {.gate = (unsigned)rank};
    struct rig_job *jobs = calloc(CALLS, sizeof *jobs);
    cuda_stream stream = rig_stream_take(false);
    char *spare = rig_take(FILLS);
    pthread_t thread;
    int wrong = 0;
    (void)context;
    for (int i = 0; i < CALLS; i++)
        simple_job(&jobs[i], i % 2 ? TUTTI_COLL_ALLREDUCE : TUTTI_COLL_ALLTOALL, 1000, i, comm,
                   rank, size);
    rig_gate_put(opener.gate, stream);
    pthread_create(&thread, NULL, open_later, &opener);
    for (int i = 0; i < CALLS; i++) {
        wrong += rig_job_put(&jobs[i], stream);
        for (int at = 0; at < FILLS; at++)
            rig_put_fill(stream, spare + at, (unsigned char)at, 1);
    }
    wrong += rig_await(rank, stream, AWAIT_S);
    for (int i = 0; i < CALLS; i++)
        wrong += rig_job_check(&jobs[i]);
    pthread_join(thread, NULL);
    rig_stream_give(stream, false);
    rig_give(spare);
    free(jobs);
    return wrong;
}

static void test_stream_far_ahead(void)
{
    if (between_hosts())
        return;
    run(WORLD_PROCESSES, 2, direct, far_ahead, NULL);
    run(WORLD_PROCESSES, 3, staged, far_ahead, NULL);
}

/* Many communicators on one device, all their operations queued before any can run. */
static int many_comms(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COMMS = 6, JOBS = 24 };
    tutti_comm *comms[COMMS];
    struct rig_job *jobs = calloc(JOBS, sizeof *jobs);
    cuda_stream streams[2] = {rig_stream_take(false), rig_stream_take(false)};
    uint64_t state = *(uint64_t *)context;
    int wrong = 0;
    for (int i = 0; i < COMMS; i++)
        wrong += WORLD_OK(tutti_comm_dup(comm, &comms[i]));
    for (int i = 0; i < JOBS; i++) {
        testcase_generate(&jobs[i].c, &state, size, 2000);
        jobs[i].c.form = FORM_ON_STREAM;
        rig_job_make(&jobs[i], i, comms[i % COMMS], rank, size);
    }
    rig_gate_put((unsigned)rank, streams[rank % 2]);
    for (int i = 0; i < JOBS; i++)
        wrong += rig_job_put(&jobs[i], streams[i % 5 % 2]);
    rig_gate_open((unsigned)rank);
    wrong += rig_await(rank, streams[0], AWAIT_S) + rig_await(rank, streams[1], AWAIT_S);
    for (int i = 0; i < JOBS; i++)
        wrong += rig_job_check(&jobs[i]);
    for (int i = 0; i < COMMS; i++)
        wrong += WORLD_OK(tutti_comm_destroy(comms[i]));
    rig_stream_give(streams[0], false);
    rig_stream_give(streams[1], false);
    free(jobs);
    return wrong;
}

static void test_stream_many_communicators(void)
{
    uint64_t seed = suite_seed();
    run(WORLD_THREADS, 3, mixed, many_comms, &seed);
    run(WORLD_PROCESSES, 2, mixed, many_comms, &seed);
    run(WORLD_PROCESSES, 2, direct, many_comms, &seed);
}

#define THREAD_STREAM ((void *)2) /* the default stream of the thread that names it */

/* While a large result comes back in one thread's default stream, another thread's goes on; so long
 * nobody else may have the block that it comes from. */
static int streams_of_threads(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 100000, BYTES = 4 * COUNT, BLOCK = 2 * BYTES + 256, ROUNDS = 20 };
    tutti_comm *own;
    struct mem_place place;
    (void)size;
    (void)context;
    if (tutti_comm_split(comm, rank, 0, &own) != TUTTI_OK)
        return world_check(rank, 0, "split: %s", tutti_last_error());
    void *in = ints(COUNT, rank), *out = rig_take(BYTES), *small = ints(4, 0), *block;
    int wrong = WORLD_OK(tutti_barrier(comm));
    if (rank == 0)
        wrong += WORLD_OK(
            tutti_allreduce_on(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, own, THREAD_STREAM));
    wrong += WORLD_OK(mem_device_of(in, &place));
    for (int i = 0; rank > 0 && i < ROUNDS && wrong == 0; i++) {
        wrong += WORLD_OK(
            tutti_allreduce_on(small, small, 4, TUTTI_INT32, TUTTI_SUM, own, THREAD_STREAM));
        wrong += rig_await(rank, THREAD_STREAM, AWAIT_S);
        usleep(5000);
        wrong += WORLD_OK(mem_pinned_take(place.device, BLOCK, &block));
        memset(block, 0xee, BLOCK);
        mem_pinned_give(place.device, block);
    }
    wrong += rig_await(rank, THREAD_STREAM, AWAIT_S);
    if (rank == 0)
        wrong += wrong_ints(rank, out, COUNT, 0, "beside another thread's");
    wrong += WORLD_OK(tutti_barrier(comm));
    rig_give(in);
    rig_give(out);
    rig_give(small);
    return wrong + WORLD_OK(tutti_comm_destroy(own));
}

static void test_stream_of_each_thread(void)
{
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "10", 1);
    run(WORLD_THREADS, 2, staged, streams_of_threads, NULL);
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

/* Signals are the program's: one that its threads have blocked stays until it asks for it. */
static int signals_stay(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000 };
    const struct timespec limit = {.tv_sec = AWAIT_S};
    cuda_stream stream = rig_stream_take(false);
    void *memory = rig_take(COUNT * 4);
    sigset_t ours;
    (void)context;
    rig_set_ints(memory, COUNT, rank);
    int wrong =
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    sigemptyset(&ours);
    sigaddset(&ours, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ours, NULL);
    kill(getpid(), SIGUSR1);
    wrong += world_check(rank, sigtimedwait(&ours, NULL, &limit) == SIGUSR1, "the signal is gone");
    wrong += rig_wrong_ints(rank, memory, COUNT, size * (size - 1) / 2, size, "before a signal");
    rig_give(memory);
    rig_stream_give(stream, false);
    return wrong;
}

static void test_stream_signals_stay(void)
{
    if (rig_is_standin())
        run(WORLD_PROCESSES, 2, direct, signals_stay, NULL);
    else
        suite_skip("threads of another driver may take signals");
}

/* Memory of a pool, which other processes cannot map, and memory in the middle of an allocation. */
static int memory_of_a_pool(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 5000 };
    const struct gpu *gpu = rig_gpu();
    cuda_stream stream = rig_stream_take(false);
    cuda_address pool;
    void *source = ints(COUNT, rank);
    int wrong = 0;
    (void)context;
    if (gpu->pool_alloc(&pool, 3 * COUNT * 4, stream) != CUDA_DRIVER_OK)
        return world_check(rank, 0, "no memory from the pool");
    char *memory = (char *)(uintptr_t)pool;
    void *in = memory + 4, *out = memory + COUNT * 4 + 20;
    rig_put_copy(stream, in, source, COUNT * 4);
    wrong += WORLD_OK(tutti_allreduce_on(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += WORLD_OK(tutti_allreduce_on(in, in, COUNT, TUTTI_INT32, TUTTI_MAX, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_comm_status(comm));
    int32_t seen[COUNT];
    rig_copy(seen, out, sizeof seen);
    for (int i = 0; i < COUNT && !wrong; i++)
        wrong += world_check(rank, seen[i] == size * (size - 1) / 2 + size * (i % 1000),
                             "element %d is %d", i, seen[i]);
    wrong += wrong_ints(rank, in, COUNT, size - 1, "in place");
    wrong += world_check(rank, gpu->pool_free(pool, stream) == CUDA_DRIVER_OK, "free to the pool");
    wrong += rig_await(rank, stream, AWAIT_S);
    rig_give(source);
    rig_stream_give(stream, false);
    return wrong;
}

static void test_stream_memory_that_peers_cannot_map(void)
{
    run(WORLD_PROCESSES, 2, direct, memory_of_a_pool, NULL);
    run(WORLD_PROCESSES, 3, staged, memory_of_a_pool, NULL);
    run(WORLD_THREADS, 2, direct, memory_of_a_pool, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"threads", test_stream_threads},
        {"processes", test_stream_processes},
        {"processes_over_tcp", test_stream_processes_over_tcp},
        {"copies_by_kernels", test_stream_copies_by_kernels},
        {"through_host_functions", test_stream_through_host_functions},
        {"launches_that_block", test_stream_launches_that_block},
        {"sends_and_receives", test_stream_sends_and_receives},
        {"started_transfers", test_stream_started_transfers},
        {"nothing_runs_early", test_stream_nothing_runs_early},
        {"blocking_calls_wait", test_stream_blocking_calls_wait},
        {"across_streams", test_stream_across_streams},
        {"beside_blocking_calls", test_stream_beside_blocking_calls},
        {"far_ahead", test_stream_far_ahead},
        {"many_communicators", test_stream_many_communicators},
        {"of_each_thread", test_stream_of_each_thread},
        {"signals_stay", test_stream_signals_stay},
        {"memory_that_peers_cannot_map", test_stream_memory_that_peers_cannot_map},
    };
    return suite_run("stream", tests, sizeof tests / sizeof *tests, argc, argv);
}
