/* coll.c: what each collective means, as data and arithmetic over a shape. Simulator, planner,
 * tests and perf read it here, so that a collective is described once. */
#include "algorithms/coll.h"

#include "base/check.h"

static const struct coll_info infos[TUTTI_COLL_COUNT] = {
    [TUTTI_COLL_ALLREDUCE] = {"allreduce", false, true, false},
    [TUTTI_COLL_ALLGATHER] = {"allgather", false, false, false},
    [TUTTI_COLL_ALLGATHERV] = {"allgatherv", false, false, true},
    [TUTTI_COLL_REDUCE_SCATTER] = {"reduce_scatter", false, true, false},
    [TUTTI_COLL_REDUCE_SCATTERV] = {"reduce_scatterv", false, true, true},
    [TUTTI_COLL_BROADCAST] = {"broadcast", true, false, false},
    [TUTTI_COLL_REDUCE] = {"reduce", true, true, false},
    [TUTTI_COLL_GATHER] = {"gather", true, false, false},
    [TUTTI_COLL_GATHERV] = {"gatherv", true, false, true},
    [TUTTI_COLL_SCATTER] = {"scatter", true, false, false},
    [TUTTI_COLL_SCATTERV] = {"scatterv", true, false, true},
    [TUTTI_COLL_ALLTOALL] = {"alltoall", false, false, false},
    [TUTTI_COLL_ALLTOALLV] = {"alltoallv", false, false, true},
    [TUTTI_COLL_BARRIER] = {"barrier", false, false, false},
    [TUTTI_COLL_SENDRECV] = {"sendrecv", false, false, false},
};

const struct coll_info *coll_info(tutti_coll coll)
{
    must((unsigned)coll < TUTTI_COLL_COUNT);
    return &infos[coll];
}

static uint64_t extent(const struct shape *s, const uint64_t *counts, const uint64_t *displs)
{
    uint64_t end = 0;
    for (uint32_t r = 0; r < s->size; r++) {
        if (counts[r] > 0 && displs[r] + counts[r] > end)
            end = displs[r] + counts[r];
    }
    return end * s->elem_size;
}

uint64_t coll_in_bytes(const struct shape *s)
{
    uint64_t one = s->count * s->elem_size;
    bool root = s->rank == s->root;
    switch (s->coll) {
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHERV:
        return s->counts[s->rank] * s->elem_size;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return one * s->size;
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_ALLTOALLV:
        return extent(s, s->counts, s->displs);
    case TUTTI_COLL_BROADCAST:
        return root ? one : 0;
    case TUTTI_COLL_SCATTER:
        return root ? one * s->size : 0;
    case TUTTI_COLL_SCATTERV:
        return root ? extent(s, s->counts, s->displs) : 0;
    case TUTTI_COLL_BARRIER:
        return 0;
    default:
        return one;
    }
}

uint64_t coll_out_bytes(const struct shape *s)
{
    uint64_t one = s->count * s->elem_size;
    bool root = s->rank == s->root;
    switch (s->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLTOALL:
        return one * s->size;
    case TUTTI_COLL_ALLGATHERV:
        return extent(s, s->counts, s->displs);
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_SCATTERV:
        return s->counts[s->rank] * s->elem_size;
    case TUTTI_COLL_REDUCE:
        return root ? one : 0;
    case TUTTI_COLL_GATHER:
        return root ? one * s->size : 0;
    case TUTTI_COLL_GATHERV:
        return root ? extent(s, s->counts, s->displs) : 0;
    case TUTTI_COLL_ALLTOALLV:
        return extent(s, s->recv_counts, s->recv_displs);
    case TUTTI_COLL_BARRIER:
        return 0;
    default:
        return one;
    }
}

uint64_t coll_total_bytes(const struct shape *s)
{
    uint64_t one = s->count * s->elem_size, sum = 0;
    switch (s->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return one * s->size;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV:
        for (uint32_t r = 0; r < s->size; r++)
            sum += s->counts[r];
        return sum * s->elem_size;
    default:
        return coll_info(s->coll)->is_v ? 0 : one; /* counts that ranks do not share say nothing */
    }
}

struct block coll_block(const struct shape *s, uint32_t r)
{
    uint64_t e = s->elem_size;
    switch (s->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return (struct block){r * s->count * e, s->count * e};
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_SCATTERV:
    case TUTTI_COLL_ALLTOALLV:
        return (struct block){s->displs[r] * e, s->counts[r] * e};
    default: {
        uint64_t share = s->count / s->size, rest = s->count % s->size;
        uint64_t off = r * share + (r < rest ? r : rest);
        return (struct block){off * e, (share + (r < rest)) * e};
    }
    }
}

struct block coll_recv_block(const struct shape *s, uint32_t r)
{
    if (s->coll != TUTTI_COLL_ALLTOALLV)
        return coll_block(s, r);
    return (struct block){s->recv_displs[r] * s->elem_size, s->recv_counts[r] * s->elem_size};
}

int64_t coll_alias_delta(const struct shape *s)
{
    int64_t own = (int64_t)coll_block(s, s->rank).off;
    switch (s->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_GATHERV:
        return own;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_SCATTERV:
        return -own;
    default:
        return 0;
    }
}

double coll_bus_factor(tutti_coll coll, uint32_t size)
{
    double n = size;
    switch (coll) {
    case TUTTI_COLL_ALLREDUCE:
        return 2 * (n - 1) / n;
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_REDUCE:
    case TUTTI_COLL_SENDRECV:
        return 1;
    case TUTTI_COLL_BARRIER:
        return 0;
    default:
        return (n - 1) / n;
    }
}

static bool from_one(struct origin *origin, uint32_t source, uint64_t in_off)
{
    *origin = (struct origin){.source = source, .in_off = in_off};
    return true;
}

static bool from_all(struct origin *origin, uint64_t in_off)
{
    *origin = (struct origin){.all = true, .in_off = in_off};
    return true;
}

/* Which block of OUT holds the byte: false in a gap. */
static bool find_block(const struct shape *s, uint64_t off, uint32_t *r, uint64_t *inside)
{
    for (*r = 0; *r < s->size; (*r)++) {
        struct block block = coll_recv_block(s, *r);
        if (off >= block.off && off < block.off + block.len) {
            *inside = off - block.off;
            return true;
        }
    }
    return false;
}

bool coll_postcondition(const struct shape *s, uint64_t off, struct origin *origin)
{
    uint32_t r;
    uint64_t inside;
    switch (s->coll) {
    case TUTTI_COLL_ALLREDUCE:
        return from_all(origin, off);
    case TUTTI_COLL_REDUCE:
        return s->rank == s->root && from_all(origin, off);
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_REDUCE_SCATTERV:
        return from_all(origin, coll_block(s, s->rank).off + off);
    case TUTTI_COLL_BROADCAST:
        return from_one(origin, s->root, off);
    case TUTTI_COLL_SCATTER:
        return from_one(origin, s->root, coll_block(s, s->rank).off + off);
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_GATHERV:
        if (s->rank != s->root)
            return false;
        return find_block(s, off, &r, &inside) && from_one(origin, r, inside);
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLGATHERV:
        return find_block(s, off, &r, &inside) && from_one(origin, r, inside);
    case TUTTI_COLL_ALLTOALL:
        return find_block(s, off, &r, &inside) &&
               from_one(origin, r, s->rank * s->count * s->elem_size + inside);
    default:
        return false; /* scatterv, alltoallv: the source's displacements are not in this shape */
    }
}
