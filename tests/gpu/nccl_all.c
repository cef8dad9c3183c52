/* nccl_all.c: every collective, type and operation of the NCCL interface on the memory of one GPU,
 * compared element by element, in place and not, in a stream.
 *
 *     gpu_nccl threads|processes RANKS
 *
 * A program as NCCL's documentation teaches: it knows nccl.h and the driver, nothing of Tutti. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/compat/nccl.h"
#include "tests/gpu.h"

#define RANKS_MAX 64
#define WORDS_MAX 8 /* bytes of an element */

/* What all ranks see. */
struct meeting {
    atomic_int ready;
    ncclUniqueId id;
    atomic_int wrong;
    atomic_int checked;
};

struct seat {
    struct meeting *meeting;
    int rank, size;
};

/* One rank. */
struct rank {
    const struct gpu *gpu;
    struct meeting *meeting;
    ncclComm_t comm;
    cuda_stream stream;
    int rank, size;
    size_t bytes; /* of each buffer */
    char *in, *out;
    unsigned char *mirror, *expected;
};

static const struct type {
    const char *name;
    ncclDataType_t type;
    size_t size;
    int fraction, bias; /* of a float; fraction 0: an integer */
} types[] = {
    {"int8", ncclInt8, 1, 0, 0},           {"uint8", ncclUint8, 1, 0, 0},
    {"int32", ncclInt32, 4, 0, 0},         {"uint32", ncclUint32, 4, 0, 0},
    {"int64", ncclInt64, 8, 0, 0},         {"uint64", ncclUint64, 8, 0, 0},
    {"float16", ncclFloat16, 2, 10, 15},   {"float32", ncclFloat32, 4, 23, 127},
    {"float64", ncclFloat64, 8, 52, 1023}, {"bfloat16", ncclBfloat16, 2, 7, 127},
    {"e4m3", ncclFloat8e4m3, 1, 3, 7},     {"e5m2", ncclFloat8e5m2, 1, 2, 15},
};
#define TYPES ((int)(sizeof types / sizeof *types))

enum { SCALED = ncclNumOps }; /* the pre-multiplied sum, after the plain operations */
static const char *const ops[] = {"sum", "prod", "max", "min", "avg", "premulsum"};
#define OPS ((int)(sizeof ops / sizeof *ops))

enum coll {
    ALLREDUCE,
    REDUCE,
    REDUCE_SCATTER,
    BROADCAST,
    ALLGATHER,
    ALLTOALL,
    GATHER,
    SCATTER,
    SENDRECV,
    COLLS
};
static const char *const colls[] = {"AllReduce", "Reduce",    "ReduceScatter",
                                    "Broadcast", "AllGather", "AlltoAll",
                                    "Gather",    "Scatter",   "Send/Recv"};

/* ---- values ----------------------------------------------------------------------------------
 */

/* A non-negative integer as an element: exact for what is used here. */
static void store(void *at, const struct type *t, long long v)
{
    uint64_t bits = (uint64_t)v;
    if (t->fraction > 0 && v > 0) {
        int exponent = 63 - __builtin_clzll(bits);
        uint64_t fraction = bits ^ 1ull << exponent;
        fraction = exponent > t->fraction ? fraction >> (exponent - t->fraction)
                                          : fraction << (t->fraction - exponent);
        bits = (uint64_t)(exponent + t->bias) << t->fraction | fraction;
    }
    memcpy(at, &bits, t->size); /* little-endian */
}

/* Element i of rank r's input: so small that every partial result is exact in every type. */
static long long value(const struct rank *me, int op, int r, size_t i)
{
    bool one = (i + (size_t)r * 3) % (size_t)me->size == 0; /* at one rank or two of all */
    if (op == ncclProd)
        return one ? 2 : 1;
    if (op == ncclAvg)
        return one ? me->size : 0;
    return one;
}

static long long scalar(int op, int r)
{
    return op == SCALED ? 1 + r % 2 : 1;
}

static long long reduced(const struct rank *me, int op, size_t i)
{
    long long x = value(me, op, 0, i) * scalar(op, 0);
    for (int r = 1; r < me->size; r++) {
        long long v = value(me, op, r, i) * scalar(op, r);
        x = op == ncclProd  ? x * v
            : op == ncclMax ? (v > x ? v : x)
            : op == ncclMin ? (v < x ? v : x)
                            : x + v;
    }
    return op == ncclAvg ? x / me->size : x;
}

/* ---- one call --------------------------------------------------------------------------------
 */

struct call {
    enum coll coll;
    const struct type *type;
    int op, root;
    size_t count;
    bool in_place;
    ncclRedOp_t handle;
};

static _Noreturn void stop(const struct rank *me, const char *what, const char *why)
{
    printf("rank %d: %s: %s\n", me->rank, what, why);
    fflush(stdout);
    _exit(3);
}

static void need(const struct rank *me, cuda_result result, const char *what)
{
    if (result != CUDA_DRIVER_OK)
        stop(me, what, "the driver refuses");
}

static void nccl(const struct rank *me, ncclResult_t result, const char *what)
{
    if (result != ncclSuccess)
        stop(me, what, ncclGetLastError(me->comm));
}

static void copy(const struct rank *me, void *dst, const void *src, size_t bytes)
{
    need(me,
         me->gpu->copy((cuda_address)(uintptr_t)dst, (cuda_address)(uintptr_t)src, bytes,
                       me->stream),
         "copy");
    need(me, me->gpu->stream_synchronize(me->stream), "synchronise");
}

static ncclResult_t exchange(const struct rank *me, const struct call *c, const char *in, char *out)
{
    size_t block = c->count * c->type->size;
    ncclGroupStart();
    for (int r = 0; r < me->size; r++) {
        nccl(me,
             ncclSend(in + (size_t)r * block, c->count, c->type->type, r, me->comm,
                      (cudaStream_t)me->stream),
             "ncclSend");
        nccl(me,
             ncclRecv(out + (size_t)r * block, c->count, c->type->type, r, me->comm,
                      (cudaStream_t)me->stream),
             "ncclRecv");
    }
    return ncclGroupEnd();
}

static ncclResult_t issue(const struct rank *me, const struct call *c, const void *in, void *out)
{
    cudaStream_t s = (cudaStream_t)me->stream;
    ncclDataType_t t = c->type->type;
    switch (c->coll) {
    case ALLREDUCE:
        return ncclAllReduce(in, out, c->count, t, c->handle, me->comm, s);
    case REDUCE:
        return ncclReduce(in, out, c->count, t, c->handle, c->root, me->comm, s);
    case REDUCE_SCATTER:
        return ncclReduceScatter(in, out, c->count, t, c->handle, me->comm, s);
    case BROADCAST:
        return ncclBroadcast(in, out, c->count, t, c->root, me->comm, s);
    case ALLGATHER:
        return ncclAllGather(in, out, c->count, t, me->comm, s);
    case ALLTOALL:
        return ncclAlltoAll(in, out, c->count, t, me->comm, s);
    case GATHER:
        return ncclGather(in, out, c->count, t, c->root, me->comm, s);
    case SCATTER:
        return ncclScatter(in, out, c->count, t, c->root, me->comm, s);
    default:
        return exchange(me, c, in, out);
    }
}

/* Elements of both buffers, and what element i of OUT must be: -1 where it is nobody's. */
static void layout(const struct rank *me, const struct call *c, size_t *in, size_t *out,
                   size_t *own)
{
    size_t all = c->count * (size_t)me->size;
    bool spreads = c->coll == REDUCE_SCATTER || c->coll == SCATTER;
    bool gathers = c->coll == ALLGATHER || c->coll == GATHER;
    bool moves = c->coll == ALLTOALL || c->coll == SENDRECV;
    *in = spreads || moves ? all : c->count;
    *out = gathers || moves ? all : c->count;
    *own = spreads || gathers ? (size_t)me->rank * c->count : 0;
}

static long long expected(const struct rank *me, const struct call *c, size_t i)
{
    size_t n = c->count, mine = (size_t)me->rank * n;
    bool root = me->rank == c->root;
    switch (c->coll) {
    case ALLREDUCE:
        return reduced(me, c->op, i);
    case REDUCE:
        return root ? reduced(me, c->op, i) : -1;
    case REDUCE_SCATTER:
        return reduced(me, c->op, mine + i);
    case BROADCAST:
        return value(me, c->op, c->root, i);
    case ALLGATHER:
        return value(me, c->op, (int)(i / n), i % n);
    case GATHER:
        return root ? value(me, c->op, (int)(i / n), i % n) : -1;
    case SCATTER:
        return value(me, c->op, c->root, mine + i);
    default:
        return value(me, c->op, (int)(i / n), mine + i % n);
    }
}

static void run_call(struct rank *me, const struct call *c)
{
    size_t e = c->type->size, in, out, own;
    layout(me, c, &in, &out, &own);
    char *out_at = me->out, *in_at = me->in;
    if (c->in_place) {
        in_at = out > in ? me->out + own * e : me->out;
        out_at = in > out ? me->out + own * e : me->out;
    }
    for (size_t i = 0; i < in; i++)
        store(me->mirror + i * e, c->type, value(me, c->op, me->rank, i));
    copy(me, in_at, me->mirror, in * e);
    nccl(me, issue(me, c, in_at, out_at), colls[c->coll]);
    need(me, me->gpu->stream_synchronize(me->stream), "synchronise");
    ncclResult_t later = ncclSuccess;
    nccl(me, ncclCommGetAsyncError(me->comm, &later), "ncclCommGetAsyncError");
    nccl(me, later, colls[c->coll]);
    copy(me, me->mirror, out_at, out * e);
    atomic_fetch_add(&me->meeting->checked, 1);
    for (size_t i = 0; i < out; i++) {
        long long v = expected(me, c, i);
        if (v < 0)
            continue;
        store(me->expected, c->type, v);
        if (memcmp(me->expected, me->mirror + i * e, e) == 0)
            continue;
        printf("rank %d of %d: %s %s %s, %zu elements%s, root %d: element %zu is wrong (expected "
               "%lld)\n",
               me->rank, me->size, colls[c->coll], c->type->name, ops[c->op], c->count,
               c->in_place ? " in place" : "", c->root, i, v);
        atomic_fetch_add(&me->meeting->wrong, 1);
        return;
    }
}

/* ---- all of them -----------------------------------------------------------------------------
 */

static bool has_in_place(enum coll coll)
{
    return coll != ALLTOALL && coll != SENDRECV;
}

static void run_operation(struct rank *me, struct call *c)
{
    static const size_t counts[] = {3, 5000};
    bool reduces = c->coll == ALLREDUCE || c->coll == REDUCE || c->coll == REDUCE_SCATTER;
    for (int op = 0; op < (reduces ? OPS : 1); op++) {
        unsigned char one[WORDS_MAX];
        c->op = op;
        c->handle = (ncclRedOp_t)op;
        store(one, c->type, scalar(op, me->rank));
        if (op == SCALED)
            nccl(me,
                 ncclRedOpCreatePreMulSum(&c->handle, one, c->type->type, ncclScalarHostImmediate,
                                          me->comm),
                 "ncclRedOpCreatePreMulSum");
        for (int n = 0; n < 2; n++) {
            c->count = counts[n];
            c->root = (op + n) % me->size;
            for (int in_place = 0; in_place < 1 + has_in_place(c->coll); in_place++) {
                c->in_place = in_place;
                run_call(me, c);
            }
        }
        if (op == SCALED)
            nccl(me, ncclRedOpDestroy(c->handle, me->comm), "ncclRedOpDestroy");
    }
}

static void be_rank(const struct seat *seat, const struct gpu *gpu)
{
    struct rank me = {.gpu = gpu, .meeting = seat->meeting, .rank = seat->rank, .size = seat->size};
    cuda_context context;
    cuda_address in, out;
    int device;
    me.bytes = (size_t)me.size * 5000 * WORDS_MAX;
    need(&me, gpu->device_get(&device, 0), "find the GPU");
    need(&me, gpu->primary_retain(&context, device), "retain the context");
    need(&me, gpu->context_set(context), "use the context");
    need(&me, gpu->stream_make(&me.stream, CUDA_STREAM_NON_BLOCKING), "make a stream");
    need(&me, gpu->alloc(&in, me.bytes), "allocate");
    need(&me, gpu->alloc(&out, me.bytes), "allocate");
    me.in = (char *)(uintptr_t)in;
    me.out = (char *)(uintptr_t)out;
    me.mirror = malloc(me.bytes);
    me.expected = malloc(WORDS_MAX);
    if (me.rank == 0) {
        nccl(&me, ncclGetUniqueId(&me.meeting->id), "ncclGetUniqueId");
        atomic_store(&me.meeting->ready, 1);
    }
    while (!atomic_load(&me.meeting->ready))
        sched_yield();
    nccl(&me, ncclCommInitRank(&me.comm, me.size, me.meeting->id, me.rank), "ncclCommInitRank");
    struct call c = {.root = 0};
    for (int coll = 0; coll < COLLS; coll++) {
        for (int t = 0; t < TYPES; t++) {
            c.coll = (enum coll)coll;
            c.type = &types[t];
            run_operation(&me, &c);
        }
    }
    nccl(&me, ncclCommDestroy(me.comm), "ncclCommDestroy");
    free(me.mirror);
    free(me.expected);
}

static const struct gpu *shared_gpu;

static void *thread_main(void *seat)
{
    be_rank(seat, shared_gpu);
    return NULL;
}

static int run_threads(struct seat *seats, int size)
{
    pthread_t threads[RANKS_MAX];
    /* Ranks of one context need a hardware queue for each of their streams. */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
    setenv("TUTTI_TEST_STANDIN_CHANNELS", "64", 1);
    shared_gpu = gpu_open();
    if (!shared_gpu)
        return 3;
    for (int r = 0; r < size; r++) {
        if (pthread_create(&threads[r], NULL, thread_main, &seats[r]) != 0)
            abort();
    }
    for (int r = 0; r < size; r++)
        pthread_join(threads[r], NULL);
    return 0;
}

static int run_processes(struct seat *seats, int size)
{
    int status, worst = 0;
    for (int r = 0; r < size; r++) {
        fflush(NULL);
        if (fork() == 0) {
            const struct gpu *gpu = gpu_open();
            if (!gpu)
                _exit(3);
            be_rank(&seats[r], gpu);
            fflush(NULL);
            _exit(0);
        }
    }
    while (wait(&status) > 0) {
        if (status != 0 && worst == 0) {
            printf("a rank ended with status 0x%x\n", (unsigned)status);
            worst = 3;
        }
    }
    return worst;
}

int main(int argc, char **argv)
{
    struct meeting *meeting =
        mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct seat seats[RANKS_MAX];
    int size = argc == 3 ? atoi(argv[2]) : 0, version = 0;
    if (size < 1 || size > RANKS_MAX) {
        fprintf(stderr, "usage: gpu_nccl threads|processes RANKS (1 to %d)\n", RANKS_MAX);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    gpu_name_driver();
    for (int r = 0; r < size; r++)
        seats[r] = (struct seat){meeting, r, size};
    ncclGetVersion(&version);
    int status = argv[1][0] == 't' ? run_threads(seats, size) : run_processes(seats, size);
    int wrong = atomic_load(&meeting->wrong);
    printf("%s: %d ranks as %s, %d calls checked, %d wrong, NCCL %d\n",
           status == 0 && wrong == 0 ? "ok" : "FAILED", size, argv[1],
           atomic_load(&meeting->checked), wrong, version);
    return status ? status : wrong != 0;
}
