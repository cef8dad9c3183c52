/* test_nccl_gpu.c: the NCCL face on device memory and streams: random calls against exact results,
 * several ranks of one thread, aborts that release streams, memory and scalars of the device. Over
 * the stand-in driver, or over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/nccl_world.h"
#include "tests/rig_suite.h"

#define AWAIT_S 30
#define STREAMS 3

static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

/* ---- random calls in streams ------------------------------------------------------------------
 */

/* NCCL's numbers for a case; false when it has none. */
static bool translate(const struct testcase *c, ncclDataType_t *type, ncclRedOp_t *op)
{
    static const int types[TUTTI_DTYPE_COUNT] = {
        [TUTTI_INT8] = 1 + ncclInt8,
        [TUTTI_UINT8] = 1 + ncclUint8,
        [TUTTI_INT32] = 1 + ncclInt32,
        [TUTTI_UINT32] = 1 + ncclUint32,
        [TUTTI_INT64] = 1 + ncclInt64,
        [TUTTI_UINT64] = 1 + ncclUint64,
        [TUTTI_FLOAT16] = 1 + ncclFloat16,
        [TUTTI_BFLOAT16] = 1 + ncclBfloat16,
        [TUTTI_FLOAT32] = 1 + ncclFloat32,
        [TUTTI_FLOAT64] = 1 + ncclFloat64,
        [TUTTI_FLOAT8_E4M3] = 1 + ncclFloat8e4m3,
        [TUTTI_FLOAT8_E5M2] = 1 + ncclFloat8e5m2,
    };
    static const int ops[TUTTI_OP_COUNT] = {
        [TUTTI_SUM] = 1 + ncclSum, [TUTTI_PROD] = 1 + ncclProd, [TUTTI_MIN] = 1 + ncclMin,
        [TUTTI_MAX] = 1 + ncclMax, [TUTTI_AVG] = 1 + ncclAvg,
    };
    *type = (ncclDataType_t)(types[c->dtype] - 1);
    *op = (ncclRedOp_t)(ops[c->op] - 1);
    return types[c->dtype] && ops[c->op];
}

static bool is_served(tutti_coll coll)
{
    return coll == TUTTI_COLL_ALLREDUCE || coll == TUTTI_COLL_ALLGATHER ||
           coll == TUTTI_COLL_REDUCE_SCATTER || coll == TUTTI_COLL_BROADCAST ||
           coll == TUTTI_COLL_REDUCE || coll == TUTTI_COLL_GATHER || coll == TUTTI_COLL_SCATTER ||
           coll == TUTTI_COLL_ALLTOALL;
}

static ncclResult_t call(const struct rig_job *job, ncclDataType_t type, ncclRedOp_t op,
                         ncclComm_t comm, cudaStream_t stream)
{
    const struct testcase *c = &job->c;
    const void *in = job->in + job->in_at;
    void *out = job->out + job->out_at;
    switch (c->coll) {
    case TUTTI_COLL_ALLREDUCE:
        return ncclAllReduce(in, out, c->count, type, op, comm, stream);
    case TUTTI_COLL_ALLGATHER:
        return ncclAllGather(in, out, c->count, type, comm, stream);
    case TUTTI_COLL_REDUCE_SCATTER:
        return ncclReduceScatter(in, out, c->count, type, op, comm, stream);
    case TUTTI_COLL_BROADCAST:
        return ncclBroadcast(in, out, c->count, type, c->root, comm, stream);
    case TUTTI_COLL_REDUCE:
        return ncclReduce(in, out, c->count, type, op, c->root, comm, stream);
    case TUTTI_COLL_GATHER:
        return ncclGather(in, out, c->count, type, c->root, comm, stream);
    case TUTTI_COLL_SCATTER:
        return ncclScatter(in, out, c->count, type, c->root, comm, stream);
    default:
        return ncclAlltoAll(in, out, c->count, type, comm, stream);
    }
}

struct sweep {
    uint64_t seed;
    int cases;
    bool processes; /* a rank has its context for itself: default and blocking streams too */
};

/* A pre-multiplied sum whose scalar lies on the device, or here. */
static int premultiply(struct testcase *c, bool on_device, int rank, ncclDataType_t type,
                       ncclComm_t comm, ncclRedOp_t *op)
{
    uint64_t scalar = 0;
    void *device = rig_take(sizeof scalar);
    testcase_store(&scalar, c->dtype, testcase_scalar(rank));
    rig_copy(device, &scalar, sizeof scalar);
    int wrong =
        OK(ncclRedOpCreatePreMulSum(op, on_device ? device : &scalar, type,
                                    on_device ? ncclScalarDevice : ncclScalarHostImmediate, comm));
    testcase_set_premulsum(c, (tutti_op)0);
    rig_give(device);
    return wrong;
}

/* Each call stands between copies into and out of its buffers; with a closed gate in front it must
 * return all the same, and nothing may have run. */
static int sweep(tutti_comm *native, int rank, int size, void *context)
{
    const struct sweep *s = context;
    uint64_t state = s->seed;
    cuda_stream streams[STREAMS] = {rig_stream_take(false), NULL, NULL};
    streams[1] = s->processes ? rig_stream_take(true) : streams[0];
    streams[2] = s->processes ? NULL : streams[0];
    struct rig_job *job = calloc(1, sizeof *job);
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    for (int i = 0; i < s->cases && wrong == 0; i++) {
        ncclDataType_t type;
        ncclRedOp_t op, made = ncclSum;
        do
            testcase_generate(&job->c, &state, size, i % 8 == 7 ? 40000 : 700);
        while (!is_served(job->c.coll) || !translate(&job->c, &type, &op));
        uint64_t choice = suite_random(&state);
        job->c.form = FORM_ON_STREAM;
        if (choice % 4 == 0) {
            wrong += premultiply(&job->c, choice / 4 % 2, rank, type, comm, &made);
            op = made;
        } else if (choice % 4 == 1) {
            testcase_set_avg(&job->c, size);
            op = ncclAvg;
        }
        cuda_stream stream = streams[choice / 64 % STREAMS];
        bool gated = choice / 512 % 4 == 0;
        rig_job_make(job, i, NULL, rank, size);
        if (gated)
            rig_gate_put((unsigned)rank, stream);
        rig_job_before(job, stream);
        wrong += OK(call(job, type, op, comm, (cudaStream_t)stream));
        rig_job_after(job, stream);
        if (gated) {
            wrong += world_check(rank, !rig_is_done(stream), "the stream passed a closed gate");
            rig_gate_open((unsigned)rank);
        }
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_job_check(job);
        if (made >= ncclNumOps)
            wrong += OK(ncclRedOpDestroy(made, comm));
        ncclResult_t async = ncclInProgress;
        wrong += OK(ncclCommGetAsyncError(comm, &async));
        wrong += world_check(rank, async == ncclSuccess, "state %d", (int)async);
    }
    if (wrong)
        world_check(rank, 0, "seed %llu", (unsigned long long)s->seed);
    free(job);
    return wrong + OK(ncclCommDestroy(comm));
}

static void run_sweep(enum world_kind kind, int size, const char *const *settings, int cases)
{
    struct sweep s = {suite_seed() + (unsigned)size, cases, kind == WORLD_PROCESSES};
    if (getenv("TUTTI_TEST_FAST"))
        s.cases = cases / 3 + 1;
    run(kind, size, settings, sweep, &s);
}

static void test_nccl_gpu_collectives(void)
{
    run_sweep(WORLD_PROCESSES, 2, direct, 80);
    run_sweep(WORLD_PROCESSES, 4, NULL, 60);
    run_sweep(WORLD_PROCESSES, 3, staged, 40);
    run_sweep(WORLD_PROCESSES, 2, tcp, 40);
    run_sweep(WORLD_THREADS, 4, direct, 60);
}

/* ---- groups -----------------------------------------------------------------------------------
 */

enum {
    RANKS = 3,
    COUNT = 5000,
    SPARE = 4 << 20 /* so long that to free it gives something back */
};

/* Looks whether all of a buffer is `want`. */
static int bytes_are(cuda_stream stream, int rank, const void *device, size_t count, int want,
                     const char *what)
{
    unsigned char *seen = malloc(count);
    size_t at = 0;
    int wrong = rig_await(rank, stream, AWAIT_S);
    if (!wrong) /* a copy to ordinary memory holds up others while its stream waits */
        rig_copy(seen, device, count);
    while (!wrong && at < count && seen[at] == want)
        at++;
    wrong += world_check(rank, at == count, "%s: byte %zu is %d, not %d", what, at,
                         at < count ? seen[at] : 0, want);
    free(seen);
    return wrong;
}

/* One thread drives all ranks, each in a stream of its own: in groups, with transfers to each other
 * and to themselves. */
static int one_thread(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comms[RANKS];
    cuda_stream streams[RANKS];
    void *in[RANKS], *out[RANKS], *own[RANKS];
    int wrong = OK(ncclCommInitAll(comms, RANKS, NULL));
    (void)native;
    (void)size;
    (void)context;
    for (int r = 0; r < RANKS; r++) {
        streams[r] = rig_stream_take(false);
        in[r] = rig_take(COUNT);
        out[r] = rig_take(COUNT);
        own[r] = rig_take(COUNT);
        rig_put_fill(streams[r], in[r], (unsigned char)(r + 1), COUNT);
    }
    wrong += OK(ncclGroupStart());
    for (int r = 0; r < RANKS; r++)
        wrong += OK(ncclAllReduce(in[r], out[r], COUNT, ncclUint8, ncclSum, comms[r],
                                  (cudaStream_t)streams[r]));
    wrong += OK(ncclGroupEnd());
    for (int r = 0; r < RANKS; r++) {
        wrong += bytes_are(streams[r], rank, out[r], COUNT, RANKS * (RANKS + 1) / 2, "allreduce");
    }
    wrong += OK(ncclGroupStart());
    for (int r = 0; r < RANKS; r++) {
        cudaStream_t stream = (cudaStream_t)streams[r];
        wrong += OK(ncclSend(in[r], COUNT, ncclUint8, (r + 1) % RANKS, comms[r], stream));
        wrong += OK(ncclRecv(out[r], COUNT, ncclUint8, (r + RANKS - 1) % RANKS, comms[r], stream));
        wrong += OK(ncclSend(in[r], COUNT, ncclUint8, r, comms[r], stream));
        wrong += OK(ncclRecv(own[r], COUNT, ncclUint8, r, comms[r], stream));
        wrong += OK(ncclSend(NULL, 0, ncclUint8, (r + 1) % RANKS, comms[r], stream));
        wrong += OK(ncclRecv(NULL, 0, ncclUint8, (r + RANKS - 1) % RANKS, comms[r], stream));
    }
    wrong += OK(ncclGroupEnd());
    for (int r = 0; r < RANKS; r++) {
        wrong += bytes_are(streams[r], rank, out[r], COUNT, (r + RANKS - 1) % RANKS + 1,
                           "from the neighbour");
        wrong += bytes_are(streams[r], rank, own[r], COUNT, r + 1, "from itself");
        rig_give(in[r]);
        rig_give(out[r]);
        rig_give(own[r]);
    }
    for (int r = 0; r < RANKS; r++)
        wrong += OK(ncclCommDestroy(comms[r]));
    return wrong;
}

static void test_nccl_gpu_ranks_of_one_thread(void)
{
    run(WORLD_PROCESSES, 1, direct, one_thread, NULL);
    run(WORLD_PROCESSES, 1, staged, one_thread, NULL);
}

static void *open_gates(void *unused)
{
    usleep(30000);
    rig_gate_open(0);
    rig_gate_open(1);
    return unused;
}

/* What was current stays so, though that was nothing. */
static int leaving_contexts(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comms[2];
    cuda_context before = NULL, after = NULL;
    int wrong = 0;
    (void)native;
    (void)size;
    (void)context;
    for (int none = 0; none < 2; none++) {
        if (none)
            wrong += rig_gpu()->context_set(NULL) != CUDA_DRIVER_OK;
        wrong += rig_gpu()->context_current(&before) != CUDA_DRIVER_OK;
        wrong += OK(ncclCommInitAll(comms, 2, NULL));
        wrong += rig_gpu()->context_current(&after) != CUDA_DRIVER_OK;
        wrong += world_check(rank, before == after && (after == NULL) == none,
                             "context %p before, %p after", before, after);
        for (int r = 0; r < 2; r++)
            wrong += OK(ncclCommDestroy(comms[r]));
    }
    return wrong;
}

/* One thread drives two GPUs, and frees memory of one while the streams of both wait: the driver
 * then holds up launches, so what the streams wait for must do without. */
static int two_gpus(tutti_comm *native, int rank, int size, void *context)
{
    enum { GPUS = 2, CALLS = 5 };
    ncclComm_t comms[GPUS];
    cuda_stream streams[GPUS];
    cuda_address in[GPUS], out[GPUS], spare = 0;
    pthread_t thread;
    int wrong = OK(ncclCommInitAll(comms, GPUS, NULL));
    (void)native;
    (void)size;
    (void)context;
    for (int r = GPUS - 1; r >= 0; r--) {
        rig_enter(r);
        if (rig_gpu()->stream_make(&streams[r], CUDA_STREAM_NON_BLOCKING) != CUDA_DRIVER_OK ||
            rig_gpu()->alloc(&in[r], COUNT) != CUDA_DRIVER_OK ||
            rig_gpu()->alloc(&out[r], COUNT) != CUDA_DRIVER_OK)
            return wrong + world_check(rank, 0, "no memory or stream on GPU %d", r);
        rig_put_fill(streams[r], (void *)(uintptr_t)in[r], (unsigned char)(r + 1), COUNT);
        rig_gate_put((unsigned)r, streams[r]);
    }
    wrong += world_check(rank, rig_gpu()->alloc(&spare, SPARE) == CUDA_DRIVER_OK, "alloc");
    for (int i = 0; i < CALLS; i++) {
        wrong += OK(ncclGroupStart());
        for (int r = 0; r < GPUS; r++)
            wrong += OK(ncclAllReduce((void *)(uintptr_t)in[r], (void *)(uintptr_t)out[r], COUNT,
                                      ncclUint8, ncclSum, comms[r], (cudaStream_t)streams[r]));
        wrong += OK(ncclGroupEnd());
    }
    pthread_create(&thread, NULL, open_gates, NULL);
    wrong += world_check(rank, rig_gpu()->free(spare) == CUDA_DRIVER_OK, "free");
    for (int r = 0; r < GPUS; r++) {
        rig_enter(r);
        wrong += bytes_are(streams[r], rank, (void *)(uintptr_t)out[r], COUNT, 3, "allreduce");
    }
    pthread_join(thread, NULL);
    for (int r = 0; r < GPUS; r++)
        wrong += OK(ncclCommDestroy(comms[r]));
    return wrong;
}

static void make_green_current(int rank)
{
    (void)rank;
    rig_enter(1);
    rig_enter(0);
    rig_green_enter();
}

/* A communicator made in another thread while its caller has a green context current, which only
 * one thread may, works in the caller's GPU all the same. */
static int green(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    ncclResult_t state = ncclInProgress;
    ncclUniqueId id;
    unsigned before = 0, after = 0;
    void *memory = rig_take(COUNT);
    cuda_stream stream = rig_stream_take(false);
    int wrong = OK(ncclGetUniqueId(&id));
    (void)context;
    config.blocking = 0;
    wrong += WORLD_OK(tutti_broadcast(&id, &id, sizeof id, TUTTI_UINT8, 0, native));
    ncclResult_t begun = ncclCommInitRankConfig(&comm, size, id, rank, &config);
    wrong += world_check(rank, begun == ncclInProgress || begun == ncclSuccess, "begun");
    while (state == ncclInProgress && ncclCommGetAsyncError(comm, &state) == ncclSuccess)
        usleep(1000);
    /* The first call may launch something, wherever it works. */
    for (int i = 0; i < 2; i++) {
        rig_fill(memory, (unsigned char)(rank + 1), COUNT);
        if (rig_gpu()->standin)
            wrong += rig_gpu()->count_launches(&before) != 0;
        begun = ncclAllReduce(memory, memory, COUNT, ncclUint8, ncclSum, comm, stream);
        wrong += world_check(rank, begun == ncclInProgress || begun == ncclSuccess, "an allreduce");
        wrong += bytes_are(stream, rank, memory, COUNT, size * (size + 1) / 2, "allreduce");
    }
    if (rig_gpu()->standin)
        wrong += world_check(rank, rig_gpu()->count_launches(&after) == 0 && after > before,
                             "no kernel of the GPU reduced");
    /* An abort would stop what a peer still does. */
    wrong += WORLD_OK(tutti_barrier(native));
    return wrong + OK(ncclCommAbort(comm));
}

static void test_nccl_gpu_green_contexts(void)
{
    struct world world = {
        .kind = WORLD_PROCESSES, .size = 2, .settings = direct, .prepare = make_green_current};
    setenv("TUTTI_TEST_STANDIN_DEVICES", "2", 1);
    if (rig_has_greens() && rig_count() > 1)
        run_world(&world, green, NULL);
    else
        suite_skip("wants two GPUs and green contexts");
    unsetenv("TUTTI_TEST_STANDIN_DEVICES");
}

static void test_nccl_gpu_two_of_one_thread(void)
{
    setenv("TUTTI_TEST_STANDIN_DEVICES", "2", 1);
    if (rig_is_there() && rig_count() < 2) {
        suite_skip("wants two GPUs");
        return;
    }
    run(WORLD_PROCESSES, 1, direct, leaving_contexts, NULL);
    run(WORLD_PROCESSES, 1, direct, two_gpus, NULL);
    run(WORLD_PROCESSES, 1, staged, two_gpus, NULL);
    unsetenv("TUTTI_TEST_STANDIN_DEVICES");
}

/* ---- ends -------------------------------------------------------------------------------------
 */

/* Rank 0 never comes; the others' streams wait until their threads abort. */
static int aborting(tutti_comm *native, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    void *buffer = rig_take(COUNT);
    ncclComm_t comm;
    ncclResult_t state;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    rig_put_fill(stream, buffer, 1, COUNT);
    wrong +=
        OK(ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclSum, comm, (cudaStream_t)stream));
    wrong += bytes_are(stream, rank, buffer, COUNT, size, "allreduce");
    wrong += tutti_barrier(native) != TUTTI_OK;
    if (rank > 0) {
        wrong += OK(
            ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclSum, comm, (cudaStream_t)stream));
        usleep(100000);
        wrong += world_check(rank, !rig_is_done(stream), "done without rank 0");
        wrong += OK(ncclCommGetAsyncError(comm, &state));
        wrong += world_check(rank, state == ncclSuccess || state == ncclRemoteError, "state %d",
                             (int)state);
    }
    wrong += tutti_barrier(native) != TUTTI_OK;
    double start = nccl_world_seconds();
    wrong += OK(ncclCommAbort(comm));
    wrong += rig_await(rank, stream, 5);
    wrong += world_check(rank, nccl_world_seconds() - start < 3, "took %.1f s",
                         nccl_world_seconds() - start);
    rig_give(buffer);
    return wrong;
}

/* Rank 0 leaves in the middle: until the others abort, too, nothing behind their operation runs. */
static int holding(tutti_comm *native, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    void *buffer = rig_take(COUNT);
    ncclComm_t comm;
    ncclResult_t state = ncclSuccess;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    rig_put_fill(stream, buffer, 1, COUNT);
    wrong +=
        OK(ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclSum, comm, (cudaStream_t)stream));
    wrong += bytes_are(stream, rank, buffer, COUNT, size, "allreduce");
    if (rank > 0)
        wrong += OK(
            ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclSum, comm, (cudaStream_t)stream));
    wrong += tutti_barrier(native) != TUTTI_OK;
    if (rank > 0) {
        double end = nccl_world_seconds() + 10;
        while (state == ncclSuccess && wrong == 0 && nccl_world_seconds() < end)
            wrong += OK(ncclCommGetAsyncError(comm, &state));
        wrong += world_check(rank, state == ncclRemoteError, "state %d", (int)state);
        usleep(100000);
        wrong += world_check(rank, !rig_is_done(stream), "the stream went on");
    }
    wrong += OK(ncclCommAbort(comm));
    wrong += rig_await(rank, stream, 5);
    wrong += tutti_barrier(native) != TUTTI_OK;
    rig_give(buffer);
    return wrong;
}

/* A destroy waits for what is in the streams, also one that its own group has put there; there an
 * operation goes before its call has run. */
static int destroying(tutti_comm *native, int rank, int size, void *context)
{
    enum { CALLS = 20 };
    cuda_stream stream = rig_stream_take(false);
    void *buffer = rig_take(COUNT);
    uint8_t scalar = 3;
    ncclRedOp_t op;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    rig_put_fill(stream, buffer, 1, COUNT);
    if (rank == 1)
        rig_put_delay(stream, 50000);
    for (int i = 0; i < CALLS; i++)
        wrong += OK(
            ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclMax, comm, (cudaStream_t)stream));
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclUint8, ncclScalarHostImmediate, comm));
    wrong += OK(ncclAllReduce(buffer, buffer, COUNT, ncclUint8, op, comm, (cudaStream_t)stream));
    wrong += OK(ncclRedOpDestroy(op, comm));
    wrong += OK(ncclCommFinalize(comm));
    wrong += OK(ncclCommDestroy(comm));
    wrong += OK(ncclGroupEnd());
    wrong += bytes_are(stream, rank, buffer, COUNT, 3 * size, "scaled sum");
    rig_give(buffer);
    return wrong;
}

/* A group of two communicators waits in a stream for rank 0, which is there and will not come: they
 * are aborted one after the other, though the first stays in the group until the second is. An
 * abort does not wait for that much longer where naps are, as in a machine that is overloaded. */
static int aborting_two(tutti_comm *native, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    void *buffers[2] = {rig_take(COUNT), rig_take(COUNT)}, *handle;
    ncclComm_t comms[2];
    int wrong = 0;
    (void)context;
    for (int i = 0; i < 2; i++)
        wrong += nccl_world_init(native, rank, size, &comms[i]);
    if (rank == 1) {
        prctl(PR_SET_TIMERSLACK, 1000000ul);
        wrong += OK(ncclCommRegister(comms[0], buffers[0], COUNT, &handle));
        wrong += OK(ncclGroupStart());
        for (int i = 0; i < 2; i++)
            wrong += OK(ncclRecv(buffers[i], COUNT, ncclUint8, 0, comms[i], (cudaStream_t)stream));
        wrong += OK(ncclGroupEnd());
    } else {
        wrong += world_await(rank, 1);
    }
    double start = nccl_world_seconds();
    for (int i = 0; i < 2; i++)
        wrong += OK(ncclCommAbort(comms[i]));
    wrong += world_check(rank, nccl_world_seconds() - start < 10, "aborts took %g s",
                         nccl_world_seconds() - start);
    if (rank == 1)
        world_tell();
    wrong += rig_await(rank, stream, AWAIT_S);
    rig_give(buffers[0]);
    rig_give(buffers[1]);
    return wrong;
}

static void test_nccl_gpu_ends(void)
{
    run(WORLD_PROCESSES, 2, direct, aborting_two, NULL);
    run(WORLD_PROCESSES, 2, tcp, aborting_two, NULL);
    run(WORLD_THREADS, 2, staged, aborting_two, NULL);
    run(WORLD_PROCESSES, 3, direct, aborting, NULL);
    run(WORLD_PROCESSES, 2, tcp, aborting, NULL);
    run(WORLD_THREADS, 2, direct, aborting, NULL);
    run(WORLD_PROCESSES, 3, direct, holding, NULL);
    run(WORLD_PROCESSES, 2, tcp, holding, NULL);
    run(WORLD_THREADS, 2, staged, holding, NULL);
    run(WORLD_PROCESSES, 3, direct, destroying, NULL);
    run(WORLD_THREADS, 3, staged, destroying, NULL);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

/* What the communicator keeps of GPU memory: something where plans work there. */
static int kept(ncclComm_t comm, int rank, bool some)
{
    uint64_t stats[ncclStatGpuMemTotal + 1];
    int wrong = 0;
    for (int i = 0; i <= ncclStatGpuMemTotal; i++)
        wrong += OK(ncclCommMemStats(comm, (ncclCommMemStat_t)i, &stats[i]));
    return wrong + world_check(rank,
                               stats[ncclStatGpuMemSuspend] == 0 &&
                                   stats[ncclStatGpuMemPersist] == stats[ncclStatGpuMemTotal] &&
                                   (stats[ncclStatGpuMemTotal] > 0) == some,
                               "%llu bytes kept of %llu",
                               (unsigned long long)stats[ncclStatGpuMemPersist],
                               (unsigned long long)stats[ncclStatGpuMemTotal]);
}

static int memory(tutti_comm *native, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    cuda_address base;
    size_t bytes = 0;
    void *buffer = NULL, *handle = NULL;
    ncclWindow_t window = NULL;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    wrong += OK(ncclMemAlloc(&buffer, COUNT));
    wrong += world_check(rank,
                         rig_gpu()->range(&base, &bytes, (cuda_address)(uintptr_t)buffer) ==
                                 CUDA_DRIVER_OK &&
                             bytes >= COUNT,
                         "%p is no device memory", buffer);
    wrong += OK(ncclCommRegister(comm, buffer, COUNT, &handle));
    wrong += OK(ncclCommWindowRegister(comm, buffer, COUNT, &window, NCCL_WIN_COLL_SYMMETRIC));
    rig_put_fill(stream, buffer, (unsigned char)(rank + 1), COUNT);
    wrong +=
        OK(ncclAllReduce(buffer, buffer, COUNT, ncclUint8, ncclMax, comm, (cudaStream_t)stream));
    wrong += bytes_are(stream, rank, buffer, COUNT, size, "maximum");
    wrong += kept(comm, rank, context != NULL);
    wrong += OK(ncclCommWindowDeregister(comm, window));
    wrong += OK(ncclCommDeregister(comm, handle));
    wrong += OK(ncclCommDestroy(comm));
    return wrong + OK(ncclMemFree(buffer));
}

static void test_nccl_gpu_memory(void)
{
    run(WORLD_PROCESSES, 2, direct, memory, (void *)direct);
    run(WORLD_THREADS, 2, NULL, memory, NULL);
}

/* ---- configured calls -------------------------------------------------------------------------
 */

/* The event of a call is recorded when the stream comes to the call: not before, and though a rank
 * is late. */
static int launched(tutti_comm *native, int rank, int size, void *context)
{
    const struct gpu *gpu = rig_gpu();
    ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
    cuda_stream stream = rig_stream_take(false);
    void *buffer = rig_take(COUNT);
    cuda_event event;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm), unset = 0;
    (void)context;
    wrong += gpu->event_create(&event, CUDA_EVENT_NO_TIMING) != CUDA_DRIVER_OK;
    config.launchCompletionEvent = (cudaEvent_t)event;
    for (int grouped = 0; grouped < 2; grouped++) {
        rig_put_fill(stream, buffer, 1, COUNT);
        wrong += tutti_barrier(native) != TUTTI_OK;
        if (rank > 0)
            wrong += tutti_barrier(native) != TUTTI_OK;
        rig_gate_put((unsigned)rank, stream);
        wrong += grouped ? OK(ncclGroupStart()) : 0;
        wrong += OK(ncclAllReduceConfig(buffer, buffer, COUNT, ncclUint8, ncclSum, comm,
                                        (cudaStream_t)stream, &config));
        wrong += grouped ? OK(ncclGroupEnd()) : 0;
        wrong += world_check(rank, gpu->event_query(event) != CUDA_DRIVER_OK, "before its turn");
        rig_gate_open((unsigned)rank);
        for (int i = 0; i < 5000 && gpu->event_query(event) != CUDA_DRIVER_OK; i++)
            usleep(1000);
        unset = gpu->event_query(event) != CUDA_DRIVER_OK;
        wrong += world_check(rank, !unset, "%s: not recorded", grouped ? "grouped" : "alone");
        if (rank == 0) {
            wrong += world_check(rank, !rig_is_done(stream), "done without the others");
            wrong += tutti_barrier(native) != TUTTI_OK;
        }
        wrong += bytes_are(stream, rank, buffer, COUNT, size, "allreduce");
    }
    wrong += gpu->event_destroy(event) != CUDA_DRIVER_OK;
    rig_give(buffer);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_gpu_launch_events(void)
{
    run(WORLD_PROCESSES, 2, direct, launched, NULL);
    run(WORLD_PROCESSES, 3, staged, launched, NULL);
    run(WORLD_THREADS, 2, direct, launched, NULL);
}

/* ---- simulation -------------------------------------------------------------------------------
 */

/* A group of calls is priced for the memory they name, and nothing of it runs. */
static int simulate(tutti_comm *native, int rank, int size, void *context)
{
    enum { BIG = 1 << 24 };
    ncclSimInfo_t here = NCCL_SIM_INFO_INITIALIZER, there = here;
    float sum = -1, *host = malloc(8);
    void *device = rig_take(4);
    double us = -1;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    rig_copy(device, &sum, sizeof sum);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(host, host, BIG, ncclFloat, ncclSum, comm, NULL));
    wrong += OK(ncclGroupSimulateEnd(&here));
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(device, device, BIG, ncclFloat, ncclSum, comm, NULL));
    wrong += OK(ncclGroupSimulateEnd(&there));
    wrong += world_check(rank, here.estimatedTime > 10 * there.estimatedTime,
                         "%g us in host memory, %g us in GPU memory", (double)here.estimatedTime,
                         (double)there.estimatedTime);
    wrong += tutti_comm_predict(native, TUTTI_COLL_ALLREDUCE, device, device, BIG, TUTTI_FLOAT32,
                                TUTTI_SUM, 0, &us) != TUTTI_OK;
    wrong += world_check(rank, there.estimatedTime == (float)us, "%g us, predicted %g",
                         (double)there.estimatedTime, us);
    rig_copy(&sum, device, sizeof sum);
    wrong += world_check(rank, sum == -1, "a simulated call ran");
    rig_give(device);
    free(host);
    return wrong + OK(ncclCommDestroy(comm));
}

/* A GPU that the library may not use: what lies there is refused, alone, in groups and as a scalar.
 */
static int refuse(tutti_comm *native, int rank, int size, void *context)
{
    int32_t sum = rank, *device = rig_take(4);
    ncclRedOp_t op;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += TAKEN(ncclAllReduce(device, device, 1, ncclInt32, ncclSum, comm, NULL),
                   ncclUnhandledCudaError);
    wrong += nccl_world_says(rank, "allreduce: in is GPU memory (0x");
    wrong += nccl_world_says(rank, "expected host memory (no GPU memory: TUTTI_CUDA=0)");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&sum, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclBroadcast(device, device, 1, ncclInt32, 0, comm, NULL));
    wrong += TAKEN(ncclGroupEnd(), ncclUnhandledCudaError);
    wrong += TAKEN(ncclRedOpCreatePreMulSum(&op, device, ncclInt32, ncclScalarDevice, comm),
                   ncclUnhandledCudaError);
    wrong += nccl_world_says(rank, "TUTTI_CUDA=0");
    wrong += OK(ncclAllReduce(&sum, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += world_check(rank, sum == size * (size - 1) / 2, "sum %d", sum);
    rig_give(device);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_gpu_refuses_what_it_may_not_use(void)
{
    static const char *const without[] = {"TUTTI_CUDA=0", NULL};
    static const char *const tcp_without[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_CUDA=0", NULL};
    run(WORLD_PROCESSES, 2, without, refuse, NULL);
    run(WORLD_PROCESSES, 2, tcp_without, refuse, NULL);
    run(WORLD_THREADS, 2, without, refuse, NULL);
}

static void test_nccl_gpu_simulates_groups(void)
{
    run(WORLD_THREADS, 2, NULL, simulate, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"collectives", test_nccl_gpu_collectives},
        {"ranks_of_one_thread", test_nccl_gpu_ranks_of_one_thread},
        {"two_of_one_thread", test_nccl_gpu_two_of_one_thread},
        {"green_contexts", test_nccl_gpu_green_contexts},
        {"ends", test_nccl_gpu_ends},
        {"memory", test_nccl_gpu_memory},
        {"launch_events", test_nccl_gpu_launch_events},
        {"refuses_what_it_may_not_use", test_nccl_gpu_refuses_what_it_may_not_use},
        {"simulates_groups", test_nccl_gpu_simulates_groups},
    };
    return suite_run("nccl_gpu", tests, sizeof tests / sizeof *tests, argc, argv);
}
