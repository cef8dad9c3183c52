/* peer_mpi.c: MPI as the peer of coll_perf_mpi and coll_perf_mpich: the same calls, laid out by
 * cases.c, through MPI's functions, in memory from MPI_Alloc_mem. Tutti's communicator is made over
 * MPI_Allgather. MPI has no 16- and 8-bit floats, no avg and no pre-multiplied sum: such reductions
 * are not compared; calls that only move data move them as integers of that size. */
#include "perf/peer.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int *int_counts, *int_displs; /* [size], refilled for each call of a v form */

static MPI_Datatype type_of(const struct call *call)
{
    static const struct {
        tutti_dtype dtype;
        MPI_Datatype type;
    } table[] = {
        {TUTTI_INT8, MPI_INT8_T},     {TUTTI_UINT8, MPI_UINT8_T},   {TUTTI_INT16, MPI_INT16_T},
        {TUTTI_UINT16, MPI_UINT16_T}, {TUTTI_INT32, MPI_INT32_T},   {TUTTI_UINT32, MPI_UINT32_T},
        {TUTTI_INT64, MPI_INT64_T},   {TUTTI_UINT64, MPI_UINT64_T}, {TUTTI_FLOAT32, MPI_FLOAT},
        {TUTTI_FLOAT64, MPI_DOUBLE},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].dtype == call->dtype)
            return table[i].type;
    }
    if (call->row->reduces)
        return MPI_DATATYPE_NULL;
    return call->elem_size == 2 ? MPI_UINT16_T : MPI_UINT8_T;
}

static MPI_Op op_of(const struct call *call)
{
    switch (call->op_choice) {
    case TUTTI_SUM:
        return MPI_SUM;
    case TUTTI_PROD:
        return MPI_PROD;
    case TUTTI_MIN:
        return MPI_MIN;
    case TUTTI_MAX:
        return MPI_MAX;
    case TUTTI_BAND:
        return MPI_BAND;
    case TUTTI_BOR:
        return MPI_BOR;
    case TUTTI_BXOR:
        return MPI_BXOR;
    default:
        return MPI_OP_NULL;
    }
}

static bool supports(const struct call *call)
{
#ifdef MPICH_VERSION
    /* MPICH 4.0.2 ends the program: its long in-place form copies onto itself. */
    if (call->row->coll == TUTTI_COLL_REDUCE_SCATTERV && call->in_place)
        return false;
#endif
    return call->bytes / call->elem_size <= INT_MAX && type_of(call) != MPI_DATATYPE_NULL &&
           (!call->row->reduces || op_of(call) != MPI_OP_NULL);
}

/* In place, the result of a reduce-scatter begins where the input did; a broadcast has one buffer.
 */
static bool comparable(const struct call *call)
{
    tutti_coll coll = call->row->coll;
    bool scattered = coll == TUTTI_COLL_REDUCE_SCATTER || coll == TUTTI_COLL_REDUCE_SCATTERV;
    bool copied = coll == TUTTI_COLL_BROADCAST && call->rank == call->root && !call->in_place;
    return !(scattered && call->in_place) && !copied;
}

/* The counts of a v form as MPI wants them. A few words per call, small against the call. */
static void make_int_counts(const struct call *call)
{
    for (int r = 0; r < call->size; r++) {
        int_counts[r] = (int)call->counts[r];
        int_displs[r] = (int)call->displs[r];
    }
}

static int run_reducing(const struct call *c, const void *in, int count, MPI_Datatype type)
{
    MPI_Op op = op_of(c);
    switch (c->row->coll) {
    case TUTTI_COLL_ALLREDUCE:
        return MPI_Allreduce(in, c->out, count, type, op, MPI_COMM_WORLD);
    case TUTTI_COLL_REDUCE:
        return MPI_Reduce(in, c->out, count, type, op, c->root, MPI_COMM_WORLD);
    case TUTTI_COLL_REDUCE_SCATTER: /* MPI in place: the whole input is where the result goes */
        return MPI_Reduce_scatter_block(in, c->in_place ? (void *)(uintptr_t)c->in : c->out, count,
                                        type, op, MPI_COMM_WORLD);
    default:
        make_int_counts(c);
        return MPI_Reduce_scatter(in, c->in_place ? (void *)(uintptr_t)c->in : c->out, int_counts,
                                  type, op, MPI_COMM_WORLD);
    }
}

static int run_rooted(const struct call *c, const void *in, int count, MPI_Datatype type)
{
    int own = (int)c->counts[c->rank];
    void *out = c->in_place ? MPI_IN_PLACE : c->out; /* of scatter(v), at the root */
    switch (c->row->coll) {
    case TUTTI_COLL_BROADCAST: { /* MPI's has one buffer */
        void *buffer = c->rank == c->root ? (void *)(uintptr_t)c->in : c->out;
        return MPI_Bcast(buffer, count, type, c->root, MPI_COMM_WORLD);
    }
    case TUTTI_COLL_GATHER:
        return MPI_Gather(in, count, type, c->out, count, type, c->root, MPI_COMM_WORLD);
    case TUTTI_COLL_GATHERV:
        make_int_counts(c);
        return MPI_Gatherv(in, own, type, c->out, int_counts, int_displs, type, c->root,
                           MPI_COMM_WORLD);
    case TUTTI_COLL_SCATTER:
        return MPI_Scatter(c->in, count, type, out, count, type, c->root, MPI_COMM_WORLD);
    default:
        make_int_counts(c);
        return MPI_Scatterv(c->in, int_counts, int_displs, type, out, own, type, c->root,
                            MPI_COMM_WORLD);
    }
}

static int run(const struct call *c)
{
    const void *in = c->in_place && c->row->coll != TUTTI_COLL_BROADCAST ? MPI_IN_PLACE : c->in;
    MPI_Datatype type = type_of(c);
    int count = (int)c->count, next = (c->rank + 1) % c->size;
    if (c->row->reduces)
        return run_reducing(c, in, count, type);
    if (c->row->has_root)
        return run_rooted(c, in, count, type);
    switch (c->row->coll) {
    case TUTTI_COLL_ALLGATHER:
        return MPI_Allgather(in, count, type, c->out, count, type, MPI_COMM_WORLD);
    case TUTTI_COLL_ALLGATHERV:
        make_int_counts(c);
        return MPI_Allgatherv(in, (int)c->counts[c->rank], type, c->out, int_counts, int_displs,
                              type, MPI_COMM_WORLD);
    case TUTTI_COLL_ALLTOALL:
        return MPI_Alltoall(in, count, type, c->out, count, type, MPI_COMM_WORLD);
    case TUTTI_COLL_ALLTOALLV:
        make_int_counts(c);
        return MPI_Alltoallv(in, int_counts, int_displs, type, c->out, int_counts, int_displs, type,
                             MPI_COMM_WORLD);
    case TUTTI_COLL_SENDRECV:
        return MPI_Sendrecv(c->in, count, type, next, 0, c->out, count, type,
                            (c->rank + c->size - 1) % c->size, 0, MPI_COMM_WORLD,
                            MPI_STATUS_IGNORE);
    default:
        return MPI_Barrier(MPI_COMM_WORLD);
    }
}

static int allgather(const void *in, void *out, size_t len, void *context)
{
    (void)context;
    return MPI_Allgather(in, (int)len, MPI_BYTE, out, (int)len, MPI_BYTE, MPI_COMM_WORLD);
}

static tutti_status comm_create(tutti_comm **comm)
{
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return tutti_comm_create_with(size, rank, allgather, NULL, comm);
}

static void barrier(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

static void *allocate(size_t bytes)
{
    void *memory = NULL;
    return MPI_Alloc_mem((MPI_Aint)bytes, MPI_INFO_NULL, &memory) == MPI_SUCCESS ? memory : NULL;
}

static void release(void *memory)
{
    MPI_Free_mem(memory);
}

static int local_rank(void)
{
    MPI_Comm host;
    int rank = 0;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &rank);
    MPI_Comm_free(&host);
    return rank;
}

/* "Open MPI 4.1.4" of "Open MPI v4.1.4, package: ..." and "MPICH Version: 4.0.2 ...". */
static const char *version(void)
{
    static char text[48];
    char full[MPI_MAX_LIBRARY_VERSION_STRING] = "", number[24] = "";
    int len = 0;
    MPI_Get_library_version(full, &len);
    if (sscanf(full, "Open MPI v%23[^, ]", number) == 1)
        snprintf(text, sizeof text, "Open MPI %s", number);
    else if (sscanf(full, "MPICH Version: %23s", number) == 1)
        snprintf(text, sizeof text, "MPICH %s", number);
    else
        snprintf(text, sizeof text, "%.*s", (int)strcspn(full, ",\n"), full);
    return text;
}

static void finish(int status)
{
    free(int_counts);
    free(int_displs);
    if (status == EXIT_RUN)
        MPI_Abort(MPI_COMM_WORLD, status);
    MPI_Finalize();
}

const struct peer *peer_open(int *argc, char ***argv)
{
    static struct peer peer = {.name = PEER_NAME,
                               .comm_create = comm_create,
                               .supports = supports,
                               .comparable = comparable,
                               .run = run,
                               .barrier = barrier,
                               .alloc = allocate,
                               .free = release,
                               .local_rank = local_rank,
                               .finish = finish};
    int size = 1;
    MPI_Init(argc, argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int_counts = calloc((size_t)size, sizeof(int));
    int_displs = calloc((size_t)size, sizeof(int));
    if (int_counts == NULL || int_displs == NULL)
        MPI_Abort(MPI_COMM_WORLD, EXIT_RUN);
    peer.version = version();
    return &peer;
}

int peer_exec(const struct options *options, int argc, char **argv)
{
    (void)options;
    (void)argc;
    (void)argv;
    return EXIT_RUN; /* never called: this program has its peer */
}
