/* mpi_move.c: the calls that only move data. Ranks agree about how many bytes travel, not about how
 * these lie in memory: that is a matter of each. A side of a call, what is sent or what is
 * received, is either the program's memory itself or, where its type is not plain, packed bytes
 * beside it.
 *
 * Of the two sides one may have a block for each rank, and is then missing at ranks that are not
 * the root of a rooted call; the other, a rank's own, may be missing because it is in place. */
#include <stdint.h>
#include <stdlib.h>

#include "mpi_face.h"

struct side {
    /* What the program gave; each: a v form. */
    const void *buffer;
    MPI_Datatype mpi_type;
    bool each;
    int count;
    const int *counts, *displs;
    /* What that means. */
    bool used;
    int blocks;
    struct face_type type;
    bool direct;             /* Tutti is given the program's memory */
    char *memory;            /* the first block in the program's memory */
    size_t *sizes, *offsets; /* v forms: of blocks in what Tutti is given, in bytes */
    char *bytes;             /* what Tutti is given */
};

#define ONE(where, n, of)                                                                          \
    {                                                                                              \
        .buffer = where, .count = n, .mpi_type = of                                                \
    }
#define EACH(where, ns, at, of)                                                                    \
    {                                                                                              \
        .buffer = where, .each = true, .counts = ns, .displs = at, .mpi_type = of                  \
    }

struct move {
    struct side in, out;
    struct face *face;
    MPI_Comm comm;
    enum face_call call;
    bool in_place, loads, stores; /* loads: what is received is there before; stores: it is new */
    size_t bytes;                 /* of a block, where all are alike, or this rank's own */
    const char *trouble;          /* why this rank cannot go on; NULL: it can */
    tutti_request *request;
};

/* ---- what the program gave --------------------------------------------------------------------
 */

static size_t block_count(const struct side *side, int block)
{
    return (size_t)(side->each ? side->counts[block] : side->count);
}

static size_t block_bytes(const struct side *side, int block)
{
    return block_count(side, block) * side->type.size;
}

/* Where a block begins, in elements from the program's buffer. */
static MPI_Aint block_displ(const struct side *side, int block)
{
    return side->each ? side->displs[block] : (MPI_Aint)block * side->count;
}

/* Where it begins in what Tutti is given. */
static char *block_at(const struct side *side, int block)
{
    return side->bytes +
           (side->each ? side->offsets[block] : (size_t)block * block_bytes(side, block));
}

/* Sizes and offsets of a v form: as in the program's memory, from its lowest block on, or, packed,
 * one after the other. */
static void lay_out(struct side *side, size_t *room)
{
    size_t sum = 0;
    MPI_Aint lowest = PTRDIFF_MAX;
    side->sizes = room;
    side->offsets = room + side->blocks;
    for (int r = 0; r < side->blocks; r++) {
        side->sizes[r] = block_bytes(side, r);
        if (side->sizes[r] > 0 && side->displs[r] < lowest)
            lowest = side->displs[r];
    }
    for (int r = 0; r < side->blocks; r++) {
        size_t at =
            side->sizes[r] > 0 ? (size_t)((side->displs[r] - lowest) * side->type.extent) : sum;
        side->offsets[r] = side->direct ? at : sum;
        sum += side->sizes[r];
    }
    if (side->direct && sum > 0)
        side->memory += lowest * side->type.extent;
}

/* Tutti is given packed bytes, whatever the type. */
static void pack(struct side *side)
{
    side->direct = false;
    side->memory = (char *)(uintptr_t)side->buffer;
    if (side->each)
        lay_out(side, side->sizes);
}

/* Whether the memory of both, from its first byte to its last, has bytes in common. */
static bool overlap(const struct side *a, const struct side *b)
{
    const struct side *sides[] = {a, b};
    uintptr_t from[2], to[2];
    for (int i = 0; i < 2; i++) {
        const struct side *side = sides[i];
        size_t end = side->each ? 0 : (size_t)side->blocks * block_bytes(side, 0);
        for (int r = 0; side->each && r < side->blocks; r++) {
            if (side->sizes[r] > 0 && side->offsets[r] + side->sizes[r] > end)
                end = side->offsets[r] + side->sizes[r];
        }
        from[i] = (uintptr_t)side->memory;
        to[i] = from[i] + end;
    }
    return from[0] < to[1] && from[1] < to[0];
}

/* False where an argument is wrong by itself: MPI says so in its own way. Memory may be nowhere if
 * it is empty, or if the type has addresses. */
static bool describe(struct move *m, struct side *side, int blocks)
{
    if (side->buffer == MPI_IN_PLACE || !face_type_of(side->mpi_type, m->comm, &side->type) ||
        (side->each && (!side->counts || !side->displs)))
        return false;
    bool empty = true;
    side->blocks = blocks;
    for (int r = 0; r < (side->each ? blocks : 1); r++) {
        if ((side->each ? side->counts[r] : side->count) < 0)
            return false;
        empty = empty && block_bytes(side, r) == 0;
    }
    if (!side->buffer && !empty && side->type.plain)
        m->trouble = FACE_NOWHERE;
    side->memory = (char *)(uintptr_t)side->buffer;
    side->direct = side->type.plain;
    if (side->each)
        lay_out(side, m->face->room + (side == &m->out ? 2 * m->face->size : 0));
    return true;
}

/* Whether Tutti carries out this call, whose sides have what the program gave. */
static bool take(struct move *m, MPI_Comm comm, enum face_call call, int root)
{
    m->face = face_of(comm, call);
    if (!m->face)
        return false;
    m->comm = comm;
    m->call = call;
    int rank = m->face->rank, size = m->face->size;
    bool scatters = call == CALL_SCATTER || call == CALL_SCATTERV, bcast = call == CALL_BCAST;
    bool rooted = scatters || call == CALL_GATHER || call == CALL_GATHERV;
    bool every = call == CALL_ALLTOALL || call == CALL_ALLTOALLV;
    struct side *own = scatters ? &m->out : &m->in, *all = scatters ? &m->in : &m->out;
    if ((rooted || bcast) && (root < 0 || root >= size))
        return false;
    m->in_place = bcast || (own->buffer == MPI_IN_PLACE && (!rooted || rank == root));
    own->used = !m->in_place;
    all->used = !rooted || rank == root;
    if ((own->used && !describe(m, own, every ? size : 1)) ||
        (all->used && !describe(m, all, bcast ? 1 : size)))
        return false;
    /* Blocks of one may lie between those of the other, which Tutti refuses. */
    if (own->used && all->used && own->direct && all->direct && overlap(own, all))
        pack(own);
    int mine = bcast ? 0 : rank;
    m->bytes = own->used ? block_bytes(own, every ? rank : 0) : block_bytes(all, mine);
    if (own->used && all->used && m->bytes != block_bytes(all, mine))
        m->trouble = "this rank sends itself a block of another size than it receives from itself";
    m->loads = bcast ? rank == root : m->in_place;
    m->stores = !(bcast && rank == root);
    return true;
}

/* ---- packed bytes -----------------------------------------------------------------------------
 */

/* All blocks, one way or the other; MPI's code. */
static int repack(const struct move *m, const struct side *side, bool unpacks)
{
    int code = MPI_SUCCESS;
    for (int r = 0; code == MPI_SUCCESS && r < side->blocks; r++) {
        char *memory = side->memory + block_displ(side, r) * side->type.extent;
        code = face_repack(&side->type, memory, block_count(side, r), block_at(side, r), unpacks,
                           m->comm);
    }
    return code;
}

static void open_side(struct move *m, struct side *side, bool load)
{
    size_t all = 1;
    side->bytes = side->memory;
    if (!side->used || side->direct)
        return;
    for (int r = 0; r < side->blocks; r++)
        all += block_bytes(side, r);
    side->bytes = malloc(all);
    if (!side->bytes)
        m->trouble = "no memory to pack the data of a derived type";
    else if (load && repack(m, side, false) != MPI_SUCCESS)
        m->trouble = "MPI cannot pack the data of a derived type";
}

/* Makes ready what Tutti is given. */
static bool open_sides(struct move *m)
{
    open_side(m, &m->in, true);
    open_side(m, &m->out, m->loads);
    if (!m->in_place || m->trouble)
        return m->trouble == NULL;
    struct side *own = m->in.used ? &m->out : &m->in, *all = m->in.used ? &m->in : &m->out;
    bool whole = all->blocks == 1 || m->call == CALL_ALLTOALL || m->call == CALL_ALLTOALLV;
    own->bytes = whole ? all->bytes : block_at(all, m->face->rank);
    own->sizes = all->sizes;
    own->offsets = all->offsets;
    return true;
}

static int close_sides(struct move *m, tutti_status started)
{
    int code = m->trouble ? face_give_up(m->face, m->comm, m->trouble)
                          : face_wait(m->face, m->comm, m->call, started, m->request);
    if (code == MPI_SUCCESS && m->out.used && !m->out.direct && m->stores)
        code = repack(m, &m->out, true);
    if (m->in.used && !m->in.direct)
        free(m->in.bytes);
    if (m->out.used && !m->out.direct)
        free(m->out.bytes);
    return code;
}

#define RUN(m, call) close_sides(&(m), open_sides(&(m)) ? (call) : TUTTI_OK)

/* ---- the calls --------------------------------------------------------------------------------
 */

#pragma GCC visibility push(default)

int MPI_Bcast(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    struct move m = {.out = ONE(buffer, count, type)};
    if (!take(&m, comm, CALL_BCAST, root))
        return PMPI_Bcast(buffer, count, type, root, comm);
    return RUN(m, tutti_broadcast_start(m.in.bytes, m.out.bytes, m.bytes, TUTTI_UINT8, root,
                                        m.face->comm, &m.request));
}

int MPI_Allgather(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
                  int recvcount, MPI_Datatype recvtype, MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = ONE(recvbuf, recvcount, recvtype)};
    if (!take(&m, comm, CALL_ALLGATHER, 0))
        return PMPI_Allgather(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
    return RUN(m, tutti_allgather_start(m.in.bytes, m.out.bytes, m.bytes, TUTTI_UINT8, m.face->comm,
                                        &m.request));
}

int MPI_Allgatherv(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
                   const int recvcounts[], const int displs[], MPI_Datatype recvtype, MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = EACH(recvbuf, recvcounts, displs, recvtype)};
    if (!take(&m, comm, CALL_ALLGATHERV, 0))
        return PMPI_Allgatherv(sendbuf, sendcount, sendtype, recvbuf, recvcounts, displs, recvtype,
                               comm);
    return RUN(m, tutti_allgatherv_start(m.in.bytes, m.out.bytes, m.out.sizes, m.out.offsets,
                                         TUTTI_UINT8, m.face->comm, &m.request));
}

int MPI_Alltoall(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
                 int recvcount, MPI_Datatype recvtype, MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = ONE(recvbuf, recvcount, recvtype)};
    if (!take(&m, comm, CALL_ALLTOALL, 0))
        return PMPI_Alltoall(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, comm);
    return RUN(m, tutti_alltoall_start(m.in.bytes, m.out.bytes, m.bytes, TUTTI_UINT8, m.face->comm,
                                       &m.request));
}

int MPI_Alltoallv(const void *sendbuf, const int sendcounts[], const int sdispls[],
                  MPI_Datatype sendtype, void *recvbuf, const int recvcounts[], const int rdispls[],
                  MPI_Datatype recvtype, MPI_Comm comm)
{
    struct move m = {.in = EACH(sendbuf, sendcounts, sdispls, sendtype),
                     .out = EACH(recvbuf, recvcounts, rdispls, recvtype)};
    if (!take(&m, comm, CALL_ALLTOALLV, 0))
        return PMPI_Alltoallv(sendbuf, sendcounts, sdispls, sendtype, recvbuf, recvcounts, rdispls,
                              recvtype, comm);
    return RUN(m,
               tutti_alltoallv_start(m.in.bytes, m.in.sizes, m.in.offsets, m.out.bytes, m.out.sizes,
                                     m.out.offsets, TUTTI_UINT8, m.face->comm, &m.request));
}

int MPI_Gather(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
               int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = ONE(recvbuf, recvcount, recvtype)};
    if (!take(&m, comm, CALL_GATHER, root))
        return PMPI_Gather(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, root, comm);
    return RUN(m, tutti_gather_start(m.in.bytes, m.out.bytes, m.bytes, TUTTI_UINT8, root,
                                     m.face->comm, &m.request));
}

int MPI_Gatherv(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
                const int recvcounts[], const int displs[], MPI_Datatype recvtype, int root,
                MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = EACH(recvbuf, recvcounts, displs, recvtype)};
    if (!take(&m, comm, CALL_GATHERV, root))
        return PMPI_Gatherv(sendbuf, sendcount, sendtype, recvbuf, recvcounts, displs, recvtype,
                            root, comm);
    return RUN(m, tutti_gatherv_start(m.in.bytes, m.bytes, m.out.bytes, m.out.sizes, m.out.offsets,
                                      TUTTI_UINT8, root, m.face->comm, &m.request));
}

int MPI_Scatter(const void *sendbuf, int sendcount, MPI_Datatype sendtype, void *recvbuf,
                int recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm)
{
    struct move m = {.in = ONE(sendbuf, sendcount, sendtype),
                     .out = ONE(recvbuf, recvcount, recvtype)};
    if (!take(&m, comm, CALL_SCATTER, root))
        return PMPI_Scatter(sendbuf, sendcount, sendtype, recvbuf, recvcount, recvtype, root, comm);
    return RUN(m, tutti_scatter_start(m.in.bytes, m.out.bytes, m.bytes, TUTTI_UINT8, root,
                                      m.face->comm, &m.request));
}

int MPI_Scatterv(const void *sendbuf, const int sendcounts[], const int displs[],
                 MPI_Datatype sendtype, void *recvbuf, int recvcount, MPI_Datatype recvtype,
                 int root, MPI_Comm comm)
{
    struct move m = {.in = EACH(sendbuf, sendcounts, displs, sendtype),
                     .out = ONE(recvbuf, recvcount, recvtype)};
    if (!take(&m, comm, CALL_SCATTERV, root))
        return PMPI_Scatterv(sendbuf, sendcounts, displs, sendtype, recvbuf, recvcount, recvtype,
                             root, comm);
    return RUN(m, tutti_scatterv_start(m.in.bytes, m.in.sizes, m.in.offsets, m.out.bytes, m.bytes,
                                       TUTTI_UINT8, root, m.face->comm, &m.request));
}

#pragma GCC visibility pop
