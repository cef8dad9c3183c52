/* test_nccl.c: what the NCCL face computes: every collective, type and operation against the native
 * interface, bit for bit; groups, several ranks in one thread, transfers; memory and operations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/nccl_world.h"

#define COUNT_MAX 3000
#define RANKS_MAX 8
#define ROOM      (COUNT_MAX * RANKS_MAX * 8) /* bytes: a block of the widest type per rank */

static const struct {
    ncclDataType_t nccl;
    tutti_dtype native;
} types[] = {
    {ncclInt8, TUTTI_INT8},
    {ncclUint8, TUTTI_UINT8},
    {ncclInt32, TUTTI_INT32},
    {ncclUint32, TUTTI_UINT32},
    {ncclInt64, TUTTI_INT64},
    {ncclUint64, TUTTI_UINT64},
    {ncclFloat16, TUTTI_FLOAT16},
    {ncclFloat32, TUTTI_FLOAT32},
    {ncclFloat64, TUTTI_FLOAT64},
    {ncclBfloat16, TUTTI_BFLOAT16},
    {ncclFloat8e4m3, TUTTI_FLOAT8_E4M3},
    {ncclFloat8e5m2, TUTTI_FLOAT8_E5M2},
};
#define TYPES (sizeof types / sizeof *types)

static const struct {
    ncclRedOp_t nccl;
    tutti_op native;
} ops[] = {
    {ncclSum, TUTTI_SUM}, {ncclProd, TUTTI_PROD}, {ncclMax, TUTTI_MAX},
    {ncclMin, TUTTI_MIN}, {ncclAvg, TUTTI_AVG},
};
#define OPS (sizeof ops / sizeof *ops)

/* ---- the same call through both interfaces ----------------------------------------------------
 */

struct both {
    tutti_comm *native;
    ncclComm_t comm;
    int rank, size;
    size_t count, elem_size;
    ncclDataType_t type;
    tutti_dtype dtype;
    ncclRedOp_t op;
    tutti_op native_op;
    int root;
    unsigned char *in, *ours, *theirs; /* [ROOM]: theirs is the native result */
    uint64_t seed;
};

enum which {
    ALLREDUCE,
    ALLGATHER,
    REDUCE_SCATTER,
    BROADCAST,
    BCAST,
    REDUCE,
    GATHER,
    SCATTER,
    ALLTOALL,
    WHICH_COUNT
};
static const char *const names[] = {"AllReduce", "AllGather", "ReduceScatter", "Broadcast", "Bcast",
                                    "Reduce",    "Gather",    "Scatter",       "AlltoAll"};

static ncclResult_t call_nccl(const struct both *b, enum which which, const void *in, void *out)
{
    switch (which) {
    case ALLREDUCE:
        return ncclAllReduce(in, out, b->count, b->type, b->op, b->comm, NULL);
    case ALLGATHER:
        return ncclAllGather(in, out, b->count, b->type, b->comm, NULL);
    case REDUCE_SCATTER:
        return ncclReduceScatter(in, out, b->count, b->type, b->op, b->comm, NULL);
    case BROADCAST:
        return ncclBroadcast(in, out, b->count, b->type, b->root, b->comm, NULL);
    case BCAST:
        return ncclBcast(out, b->count, b->type, b->root, b->comm, NULL);
    case REDUCE:
        return ncclReduce(in, out, b->count, b->type, b->op, b->root, b->comm, NULL);
    case GATHER:
        return ncclGather(in, out, b->count, b->type, b->root, b->comm, NULL);
    case SCATTER:
        return ncclScatter(in, out, b->count, b->type, b->root, b->comm, NULL);
    default:
        return ncclAlltoAll(in, out, b->count, b->type, b->comm, NULL);
    }
}

static tutti_status call_native(const struct both *b, enum which which, const void *in, void *out)
{
    switch (which) {
    case ALLREDUCE:
        return tutti_allreduce(in, out, b->count, b->dtype, b->native_op, b->native);
    case ALLGATHER:
        return tutti_allgather(in, out, b->count, b->dtype, b->native);
    case REDUCE_SCATTER:
        return tutti_reduce_scatter(in, out, b->count, b->dtype, b->native_op, b->native);
    case BROADCAST:
    case BCAST:
        return tutti_broadcast(in, out, b->count, b->dtype, b->root, b->native);
    case REDUCE:
        return tutti_reduce(in, out, b->count, b->dtype, b->native_op, b->root, b->native);
    case GATHER:
        return tutti_gather(in, out, b->count, b->dtype, b->root, b->native);
    case SCATTER:
        return tutti_scatter(in, out, b->count, b->dtype, b->root, b->native);
    default:
        return tutti_alltoall(in, out, b->count, b->dtype, b->native);
    }
}

/* Random bytes are fine for every type but floats, which must not be NaN to be compared. */
static void fill(struct both *b)
{
    size_t blocks = b->count * b->elem_size * (size_t)b->size;
    for (size_t i = 0; i < blocks; i++)
        b->in[i] = (unsigned char)suite_random(&b->seed);
    for (size_t i = 0; i < blocks / b->elem_size; i++) {
        unsigned value = (unsigned)suite_random(&b->seed) % 31 + 1;
        if (b->dtype == TUTTI_FLOAT32)
            ((float *)b->in)[i] = (float)value / 4;
        else if (b->dtype == TUTTI_FLOAT64)
            ((double *)b->in)[i] = value / 4.0;
        else if (b->dtype == TUTTI_FLOAT16)
            ((uint16_t *)b->in)[i] = (uint16_t)(0x3000 + value * 37);
        else if (b->dtype == TUTTI_BFLOAT16)
            ((uint16_t *)b->in)[i] = (uint16_t)(0x3f00 + value * 5);
        else if (b->dtype == TUTTI_FLOAT8_E4M3 || b->dtype == TUTTI_FLOAT8_E5M2)
            b->in[i] = (unsigned char)(0x30 + value % 12);
    }
    memset(b->ours, 0xa5, ROOM);
    memset(b->theirs, 0xa5, ROOM);
}

static int compare(const struct both *b, enum which which, const char *how)
{
    return world_check(b->rank, memcmp(b->ours, b->theirs, ROOM) == 0,
                       "nccl%s %s differs from the native one: type %d, op %d, count %zu, root %d",
                       names[which], how, (int)b->type, (int)b->op, b->count, b->root);
}

/* Where the collective finds its input when it works in place in `memory`. */
static void in_place(const struct both *b, enum which which, unsigned char *memory, const void **in,
                     void **out)
{
    size_t own = (size_t)b->rank * b->count * b->elem_size;
    *in = *out = memory;
    if (which == ALLGATHER || (which == GATHER && b->rank == b->root))
        *in = memory + own;
    if (which == REDUCE_SCATTER || (which == SCATTER && b->rank == b->root))
        *out = memory + own;
}

static int one_call(struct both *b, enum which which)
{
    int rank = b->rank, wrong = 0;
    bool root = rank == b->root;
    const void *in = b->in;
    void *out = NULL, *native_out = NULL;
    fill(b);
    if (which == BCAST) {
        memcpy(b->ours, b->in, b->count * b->elem_size);
        memcpy(b->theirs, b->in, b->count * b->elem_size);
        in = b->theirs;
    }
    /* What only the root uses may be NULL elsewhere. */
    if ((which == BROADCAST || which == SCATTER) && !root)
        in = NULL;
    if (!((which == REDUCE || which == GATHER) && !root)) {
        out = b->ours;
        native_out = b->theirs;
    }
    wrong += OK(call_nccl(b, which, in, out));
    wrong += world_check(rank, call_native(b, which, in, native_out) == TUTTI_OK, "native %s: %s",
                         names[which], tutti_last_error());
    wrong += compare(b, which, "out of place");
    if (which == BCAST)
        return wrong;
    fill(b);
    memcpy(b->ours, b->in, ROOM);
    memcpy(b->theirs, b->in, ROOM);
    in_place(b, which, b->ours, &in, &out);
    wrong += OK(call_nccl(b, which, in, out));
    in_place(b, which, b->theirs, &in, &out);
    wrong += world_check(rank, call_native(b, which, in, out) == TUTTI_OK, "native %s: %s",
                         names[which], tutti_last_error());
    return wrong + compare(b, which, "in place");
}

static bool reduces(enum which which)
{
    return which == ALLREDUCE || which == REDUCE_SCATTER || which == REDUCE;
}

/* Every collective and type; every operation where there is one; counts 0, 1 and a larger one. */
static int sweep(tutti_comm *native, int rank, int size, void *context)
{
    static const size_t counts[] = {0, 1, 7, COUNT_MAX};
    struct both b = {.native = native,
                     .rank = rank,
                     .size = size,
                     .in = calloc(1, ROOM),
                     .ours = calloc(1, ROOM),
                     .theirs = calloc(1, ROOM),
                     .seed = *(uint64_t *)context + (uint64_t)rank};
    int wrong = nccl_world_init(native, rank, size, &b.comm), turn = 0;
    for (size_t t = 0; t < TYPES; t++) {
        b.type = types[t].nccl;
        b.dtype = types[t].native;
        b.elem_size = tutti_dtype_size(b.dtype);
        for (int which = 0; which < WHICH_COUNT; which++) {
            for (size_t o = 0; o < (reduces((enum which)which) ? OPS : 1); o++) {
                b.op = ops[o].nccl;
                b.native_op = ops[o].native;
                b.root = turn % size;
                b.count = counts[turn++ % 4];
                wrong += one_call(&b, (enum which)which);
            }
        }
    }
    free(b.in);
    free(b.ours);
    free(b.theirs);
    return wrong + OK(ncclCommDestroy(b.comm));
}

static void test_nccl_agrees_with_the_native_interface(void)
{
    uint64_t seed = suite_seed();
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, sweep, &seed);
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, sweep, &seed);
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_shm, sweep, &seed);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, sweep, &seed);
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_tcp, sweep, &seed);
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_tcp, sweep, &seed);
    nccl_world_run(WORLD_THREADS, 4, NULL, sweep, &seed);
}

/* ---- pre-multiplied sums ----------------------------------------------------------------------
 */

/* So many operations can be made. */
static int room_for_operations(ncclComm_t comm)
{
    enum { MOST = 2000 };
    ncclRedOp_t made[MOST];
    float scalar = 1;
    int count = 0;
    while (count < MOST && ncclRedOpCreatePreMulSum(&made[count], &scalar, ncclFloat32,
                                                    ncclScalarHostImmediate, comm) == ncclSuccess)
        count++;
    for (int i = 0; i < count; i++) {
        if (ncclRedOpDestroy(made[i], comm) != ncclSuccess)
            return -1;
    }
    return count;
}

/* An operation may go as soon as the call that names it has returned, though its group has not
 * ended; there is room for another afterwards, whatever became of the group. */
static int destroyed_in_groups(ncclComm_t comm, int rank, const float *in, const float *want,
                               size_t count)
{
    enum { RUN, SPOIL, SIMULATE, WAYS };
    float *out = calloc(count, sizeof *out), scalar = 0.25f + (float)rank;
    ncclRedOp_t op;
    int wrong = 0, room = room_for_operations(comm);
    for (int round = 0; round < 2 * WAYS; round++) {
        int way = round % WAYS;
        wrong += OK(ncclGroupStart());
        wrong +=
            OK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat32, ncclScalarHostImmediate, comm));
        wrong += OK(ncclAllReduce(in, out, count, ncclFloat32, op, comm, NULL));
        wrong += OK(ncclRedOpDestroy(op, comm));
        if (way == SIMULATE)
            wrong += OK(ncclGroupSimulateEnd(NULL));
        if (way == SPOIL)
            wrong +=
                TAKEN(ncclBroadcast(in, out, 1, ncclInt8, -1, comm, NULL), ncclInvalidArgument);
        if (way != SIMULATE)
            wrong += TAKEN(ncclGroupEnd(), way == RUN ? ncclSuccess : ncclInvalidArgument);
        if (way == RUN)
            wrong += world_check(rank, memcmp(out, want, count * sizeof *out) == 0, "differs");
        wrong += TAKEN(ncclRedOpDestroy(op, comm), ncclInvalidArgument);
    }
    free(out);
    int left = room_for_operations(comm);
    return wrong +
           world_check(rank, room >= 1000 && left == room, "room for %d, then %d", room, left);
}

static int premultiplied(tutti_comm *native, int rank, int size, void *context)
{
    enum { COUNT = 500 };
    float in[COUNT], ours[COUNT], theirs[COUNT];
    ncclRedOp_t op, other;
    tutti_op native_op;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    for (int i = 0; i < COUNT; i++)
        in[i] = (float)(rank * 10 + i);
    for (int residence = 0; residence < 2; residence++) {
        float scalar = 0.25f + (float)rank; /* differs between ranks */
        wrong += OK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclFloat32,
                                             (ncclScalarResidence_t)residence, comm));
        wrong += world_check(rank, op >= ncclNumOps, "operation %d", (int)op);
        wrong += tutti_op_create_premulsum(native, &scalar, TUTTI_FLOAT32, &native_op) != TUTTI_OK;
        scalar = -1; /* was read */
        wrong += OK(ncclAllReduce(in, ours, COUNT, ncclFloat32, op, comm, NULL));
        wrong += tutti_allreduce(in, theirs, COUNT, TUTTI_FLOAT32, native_op, native) != TUTTI_OK;
        wrong += world_check(rank, memcmp(ours, theirs, sizeof ours) == 0, "differs");
        /* Destroyed as soon as the last call that names it has returned, the call being grouped. */
        wrong += OK(ncclGroupStart());
        wrong += OK(ncclReduce(in, ours, COUNT, ncclFloat32, op, 0, comm, NULL));
        wrong += OK(ncclGroupEnd());
        wrong += OK(ncclRedOpDestroy(op, comm));
        wrong +=
            TAKEN(ncclAllReduce(in, ours, COUNT, ncclFloat32, op, comm, NULL), ncclInvalidArgument);
        wrong += destroyed_in_groups(comm, rank, in, theirs, COUNT);
        wrong += tutti_op_destroy(native, native_op) != TUTTI_OK;
    }
    float one = 1;
    wrong += OK(ncclRedOpCreatePreMulSum(&op, &one, ncclFloat32, ncclScalarHostImmediate, comm));
    wrong += OK(ncclRedOpCreatePreMulSum(&other, &one, ncclFloat16, ncclScalarHostImmediate, comm));
    wrong += world_check(rank, other != op, "one number for two operations");
    wrong += TAKEN(ncclAllReduce(in, ours, 1, ncclInt32, op, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "multiplies float32, but the call's type is int32");
    wrong += TAKEN(ncclRedOpDestroy(ncclAvg, comm), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "operation 4 was not made by ncclRedOpCreatePreMulSum");
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_premultiplied_sums(void)
{
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, premultiplied, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, premultiplied, NULL);
    nccl_world_run(WORLD_THREADS, 5, NULL, premultiplied, NULL);
}

/* ---- transfers and groups ---------------------------------------------------------------------
 */

/* An all-to-all made of sends and receives, its own block and empty blocks included. */
static int exchange(tutti_comm *native, int rank, int size, void *context)
{
    enum { BLOCK = 700 };
    int *in = calloc((size_t)size * BLOCK, sizeof *in);
    int *out = calloc((size_t)size * BLOCK, sizeof *out);
    int *want = calloc((size_t)size * BLOCK, sizeof *want);
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    for (int i = 0; i < size * BLOCK; i++)
        in[i] = rank * 1000000 + i;
    wrong += tutti_alltoall(in, want, BLOCK, TUTTI_INT32, native) != TUTTI_OK;
    wrong += OK(ncclGroupStart());
    for (int p = 0; p < size; p++) {
        wrong += OK(ncclSend(in + p * BLOCK, BLOCK, ncclInt32, p, comm, NULL));
        wrong += OK(ncclRecv(out + p * BLOCK, BLOCK, ncclInt32, p, comm, NULL));
        wrong += OK(ncclSend(NULL, 0, ncclInt32, p, comm, NULL));
        wrong += OK(ncclRecv(NULL, 0, ncclInt32, p, comm, NULL));
    }
    wrong += OK(ncclGroupEnd());
    wrong += world_check(rank, memcmp(out, want, (size_t)size * BLOCK * sizeof *out) == 0,
                         "exchange differs from alltoall");
    /* Outside a group, the blocking way: even ranks send first. */
    int next = rank ^ 1, value = -1;
    if (next < size) {
        for (int step = 0; step < 2; step++) {
            if ((rank + step) % 2 == 0)
                wrong += OK(ncclSend(&rank, 1, ncclInt32, next, comm, NULL));
            else
                wrong += OK(ncclRecv(&value, 1, ncclInt32, next, comm, NULL));
        }
        wrong += world_check(rank, value == next, "received %d from %d", value, next);
    }
    /* Groups nest, and hold collectives beside transfers. */
    int sum = 0;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclSend(&rank, 1, ncclInt32, (rank + 1) % size, comm, NULL));
    wrong += OK(ncclGroupEnd());
    wrong += world_check(rank, sum == 0, "the inner end ran the group");
    wrong += OK(ncclRecv(&value, 1, ncclInt32, (rank + size - 1) % size, comm, NULL));
    wrong += OK(ncclGroupEnd());
    wrong += world_check(rank, sum == size * (size - 1) / 2, "sum %d", sum);
    wrong += world_check(rank, value == (rank + size - 1) % size, "received %d", value);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclGroupEnd());
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
    free(in);
    free(out);
    free(want);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_transfers_in_groups(void)
{
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_shm, exchange, NULL);
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_tcp, exchange, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, exchange, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, exchange, NULL);
}

/* ---- several ranks in one thread --------------------------------------------------------------
 */

/* The ranks [first, first + count) of size, driven by this thread. */
static int drive(ncclComm_t *comms, int rank, int first, int count, int size)
{
    enum { COUNT = 1000 };
    static _Thread_local float in[RANKS_MAX][COUNT], out[RANKS_MAX][COUNT];
    int number, wrong = 0;
    for (int i = 0; i < count; i++) {
        wrong += OK(ncclCommUserRank(comms[i], &number));
        wrong += world_check(rank, number == first + i, "rank %d, expected %d", number, first + i);
        wrong += OK(ncclCommCount(comms[i], &number));
        wrong += world_check(rank, number == size, "%d ranks", number);
        for (int k = 0; k < COUNT; k++)
            in[i][k] = (float)((first + i) * k);
    }
    for (int round = 0; round < 3; round++) {
        wrong += OK(ncclGroupStart());
        for (int i = 0; i < count; i++)
            wrong += OK(ncclAllReduce(in[i], out[i], COUNT, ncclFloat32, ncclSum, comms[i], NULL));
        wrong += OK(ncclGroupEnd());
        for (int i = 0; i < count; i++) {
            float want = (float)(size * (size - 1) / 2 * (COUNT - 1));
            wrong += world_check(rank, out[i][COUNT - 1] == want, "sum %g, expected %g",
                                 (double)out[i][COUNT - 1], (double)want);
        }
    }
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < count; i++) {
        int me = first + i;
        wrong += OK(ncclSend(in[i], COUNT, ncclFloat32, (me + 1) % size, comms[i], NULL));
        wrong += OK(ncclRecv(out[i], COUNT, ncclFloat32, (me + size - 1) % size, comms[i], NULL));
    }
    wrong += OK(ncclGroupEnd());
    for (int i = 0; i < count; i++)
        wrong += world_check(rank, out[i][1] == (float)((first + i + size - 1) % size), "ring");
    return wrong;
}

static void test_nccl_ranks_of_one_thread(void)
{
    static const int devices[RANKS_MAX] = {0, 0, 3, 1, 0, 7, 7, 2};
    int rank = 0, wrong = 0;
    for (int size = 1; size <= 5; size++) {
        ncclComm_t comms[RANKS_MAX];
        double start = nccl_world_seconds();
        wrong += OK(ncclCommInitAll(comms, size, size % 2 ? devices : NULL));
        wrong += drive(comms, rank, 0, size, size);
        int device = -1;
        wrong += OK(ncclCommCuDevice(comms[size - 1], &device));
        wrong +=
            world_check(rank, device == (size % 2 ? devices[size - 1] : 0), "device %d", device);
        for (int i = 0; i < size; i++) {
            wrong += OK(ncclCommFinalize(comms[i]));
            wrong += OK(ncclCommDestroy(comms[i]));
        }
        wrong += world_check(rank, nccl_world_seconds() - start < 4, "%d ranks took %.1f s", size,
                             nccl_world_seconds() - start);
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

/* Processes with two ranks each: inits and splits in groups, as the documentation shows. */
static int two_each(tutti_comm *native, int rank, int size, void *context)
{
    ncclUniqueId id;
    ncclComm_t comms[2] = {NULL, NULL}, halves[2] = {NULL, NULL};
    int wrong = nccl_world_id(native, rank, &id);
    (void)context;
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < 2; i++)
        wrong += OK(ncclCommInitRank(&comms[i], 2 * size, id, 2 * rank + i));
    wrong += OK(ncclGroupEnd());
    wrong += drive(comms, rank, 2 * rank, 2, 2 * size);
    /* Even ranks and odd ranks. */
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < 2; i++)
        wrong += OK(ncclCommSplit(comms[i], i, rank, &halves[i], NULL));
    wrong += OK(ncclGroupEnd());
    for (int i = 0; i < 2; i++)
        wrong += drive(&halves[i], rank, rank, 1, size);
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < 2; i++) {
        wrong += OK(ncclCommDestroy(halves[i]));
        wrong += OK(ncclCommFinalize(comms[i]));
        wrong += OK(ncclCommDestroy(comms[i]));
    }
    wrong += OK(ncclGroupEnd());
    return wrong;
}

static void test_nccl_two_ranks_per_process(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, NULL, two_each, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, two_each, NULL);
    nccl_world_run(WORLD_THREADS, 2, NULL, two_each, NULL);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static int memory(tutti_comm *native, int rank, int size, void *context)
{
    enum { BYTES = 1 << 16 };
    void *buffer = NULL, *handle = NULL, *other;
    ncclWindow_t window = NULL;
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += OK(ncclMemAlloc(&buffer, BYTES));
    wrong += world_check(rank, buffer && (uintptr_t)buffer % NCCL_WIN_REQUIRED_ALIGNMENT == 0,
                         "allocated at %p", buffer);
    memset(buffer, rank + 1, BYTES);
    wrong += OK(ncclCommRegister(comm, buffer, BYTES, &handle));
    wrong += world_check(rank, handle != NULL, "no handle");
    wrong += OK(ncclCommWindowRegister(comm, buffer, BYTES, &window, NCCL_WIN_COLL_SYMMETRIC));
    wrong += world_check(rank, window != NULL, "no window");
    wrong += OK(ncclAllReduce(buffer, buffer, BYTES, ncclUint8, ncclMax, comm, NULL));
    wrong += world_check(rank, ((unsigned char *)buffer)[BYTES - 1] == size, "wrong maximum");
    wrong += TAKEN(ncclCommWindowRegister(comm, (char *)buffer + 8, 64, &window, 1),
                   ncclInvalidArgument);
    wrong += nccl_world_says(rank, "is not aligned to 4096 bytes");
    wrong += TAKEN(ncclCommWindowRegister(comm, buffer, 64, &window, 16), ncclInvalidArgument);
    wrong += TAKEN(ncclCommWindowRegister(comm, NULL, 64, &window, 0), ncclInvalidArgument);
    wrong += TAKEN(ncclCommRegister(comm, NULL, 64, &other), ncclInvalidArgument);
    wrong += OK(ncclCommDeregister(comm, NULL));
    /* A handle is looked for, not looked into: a foreign one and one that is gone are no crash. */
    wrong += TAKEN(ncclCommDeregister(comm, (void *)1), ncclInvalidUsage);
    wrong += TAKEN(ncclCommWindowDeregister(comm, (ncclWindow_t)buffer), ncclInvalidUsage);
    wrong += OK(ncclCommDeregister(comm, handle));
    wrong += TAKEN(ncclCommDeregister(comm, handle), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclCommDeregister: the handle was not made with this "
                                   "communicator, or is given back already");
    wrong += OK(ncclCommWindowDeregister(comm, window));
    /* What is still registered when its communicator fails can be given back all the same. */
    wrong += OK(ncclCommRegister(comm, buffer, BYTES, &handle));
    wrong +=
        world_check(rank, tutti_barrier(native) == TUTTI_OK, "barrier: %s", tutti_last_error());
    wrong += OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
    wrong += OK(ncclCommDeregister(comm, handle));
    wrong += OK(ncclCommDestroy(comm));
    /* What nobody gives back goes with the communicator. */
    wrong += nccl_world_init(native, rank, size, &comm);
    wrong += OK(ncclCommRegister(comm, buffer, BYTES, &handle));
    wrong += OK(ncclCommWindowRegister(comm, buffer, BYTES, &window, NCCL_WIN_DEFAULT));
    wrong += OK(ncclCommDestroy(comm));
    wrong += OK(ncclMemFree(buffer));
    wrong += OK(ncclMemFree(NULL));
    wrong += TAKEN(ncclMemFree(&wrong), ncclInvalidArgument);
    return wrong + TAKEN(ncclMemAlloc(NULL, 8), ncclInvalidArgument);
}

static void test_nccl_memory(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, memory, NULL);
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_tcp, memory, NULL);
}

/* ---- simulation -------------------------------------------------------------------------------
 */

static int simulate(tutti_comm *native, int rank, int size, void *context)
{
    enum { BIG = 1 << 20 };
    char *big = malloc(BIG);
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER, bad = info;
    double predicted = 0;
    int sum = -1, wrong = 0;
    ncclComm_t comm;
    (void)context;
    wrong += nccl_world_init(native, rank, size, &comm);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclGroupSimulateEnd(&info));
    wrong += world_check(rank, sum == -1, "a simulated call ran");
    wrong += tutti_comm_predict(native, TUTTI_COLL_ALLREDUCE, NULL, NULL, 1, TUTTI_INT32, TUTTI_SUM,
                                0, &predicted) != TUTTI_OK;
    wrong += world_check(rank, info.estimatedTime == (float)predicted, "%g us, predicted %g",
                         (double)info.estimatedTime, predicted);
    /* Only this rank could receive: what is simulated must not wait for others. */
    float small = info.estimatedTime;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += OK(ncclRecv(big, BIG, ncclInt8, (rank + 1) % size, comm, NULL));
    wrong += OK(ncclGroupSimulateEnd(&info));
    wrong += world_check(rank, info.estimatedTime > 2 * small, "%g us after %g us",
                         (double)info.estimatedTime, (double)small);
    bad.magic = 1;
    wrong += OK(ncclGroupStart());
    wrong += TAKEN(ncclGroupSimulateEnd(&bad), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "simInfo has the magic 0x1, expected 0x74685283");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclGroupSimulateEnd(NULL));
    wrong += TAKEN(ncclGroupSimulateEnd(&info), ncclInvalidUsage);
    wrong += OK(ncclAllReduce(&rank, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += world_check(rank, sum == size * (size - 1) / 2, "sum %d", sum);
    free(big);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_simulates_groups(void)
{
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, simulate, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, simulate, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"agrees_with_the_native_interface", test_nccl_agrees_with_the_native_interface},
        {"premultiplied_sums", test_nccl_premultiplied_sums},
        {"transfers_in_groups", test_nccl_transfers_in_groups},
        {"ranks_of_one_thread", test_nccl_ranks_of_one_thread},
        {"two_ranks_per_process", test_nccl_two_ranks_per_process},
        {"memory", test_nccl_memory},
        {"simulates_groups", test_nccl_simulates_groups},
    };
    return suite_run("nccl", tests, sizeof tests / sizeof *tests, argc, argv);
}
