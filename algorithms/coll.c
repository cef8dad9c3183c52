/* coll.c: what each collective means, as data and arithmetic.
 * The idea: planner, emitters, simulator, benchmark and tests all ask here how large a buffer is,
 * where a block lies and which rank a byte comes from, so that the answer exists once.
 * Invariant: every answer depends on the shape alone; for the forms whose counts are known only
 * locally (gatherv, scatterv, alltoallv) only what the asking rank knows is used. */
#include "algorithms/coll.h"

#include "base/check.h"

/* One row per collective, in the order of TUTTI_COLL_LIST. */
static const struct coll_info infos[TUTTI_COLL_COUNT] = {
    [TUTTI_COLL_ALLREDUCE] = {.name = "allreduce", .reduces = true},
    [TUTTI_COLL_ALLGATHER] = {.name = "allgather"},
    [TUTTI_COLL_ALLGATHERV] = {.name = "allgatherv", .is_v = true},
    [TUTTI_COLL_REDUCE_SCATTER] = {.name = "reduce_scatter", .reduces = true},
    [TUTTI_COLL_REDUCE_SCATTERV] = {.name = "reduce_scatterv", .reduces = true, .is_v = true},
    [TUTTI_COLL_BROADCAST] = {.name = "broadcast", .has_root = true},
    [TUTTI_COLL_REDUCE] = {.name = "reduce", .has_root = true, .reduces = true},
    [TUTTI_COLL_GATHER] = {.name = "gather", .has_root = true},
    [TUTTI_COLL_GATHERV] = {.name = "gatherv", .has_root = true, .is_v = true},
    [TUTTI_COLL_SCATTER] = {.name = "scatter", .has_root = true},
    [TUTTI_COLL_SCATTERV] = {.name = "scatterv", .has_root = true, .is_v = true},
    [TUTTI_COLL_ALLTOALL] = {.name = "alltoall"},
    [TUTTI_COLL_ALLTOALLV] = {.name = "alltoallv", .is_v = true},
    [TUTTI_COLL_BARRIER] = {.name = "barrier"},
    [TUTTI_COLL_SENDRECV] = {.name = "sendrecv"},
};

const struct coll_info *coll_info(tutti_coll coll)
{
    must((unsigned)coll < TUTTI_COLL_COUNT);
    return &infos[coll];
}

/* The end of the last block: what a buffer described by counts and displs must hold. */
static uint64_t extent(const struct shape *shape, const uint64_t *counts, const uint64_t *displs)
{
    uint64_t end = 0;
    for (uint32_t r = 0; r < shape->size; r++) {
        if (counts[r] > 0 && displs[r] + counts[r] > end)
            end = displs[r] + counts[r];
    }
    return end * shape->elem_size;
}

uint64_t coll_in_bytes(const struct shape *shape)
{
    uint64_t one = shape->count * shape->elem_size;
    bool root = shape->rank == shape->root;
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_REDUCE:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_SENDRECV:
        return one;
    case TUTTI_COLL_BROADCAST:
        return root ? one : 0;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return one * shape->size;
    case TUTTI_COLL_SCATTER:
        return root ? one * shape->size : 0;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHERV:
        return shape->counts[shape->rank] * shape->elem_size;
    case TUTTI_COLL_SCATTERV:
        return root ? extent(shape, shape->counts, shape->displs) : 0;
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_ALLTOALLV:
        return extent(shape, shape->counts, shape->displs);
    case TUTTI_COLL_BARRIER:
    case TUTTI_COLL_COUNT:
        break;
    }
    return 0;
}

uint64_t coll_out_bytes(const struct shape *shape)
{
    uint64_t one = shape->count * shape->elem_size;
    bool root = shape->rank == shape->root;
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_SENDRECV:
        return one;
    case TUTTI_COLL_REDUCE:
        return root ? one : 0;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLTOALL:
        return one * shape->size;
    case TUTTI_COLL_GATHER:
        return root ? one * shape->size : 0;
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_SCATTERV:
        return shape->counts[shape->rank] * shape->elem_size;
    case TUTTI_COLL_ALLGATHERV:
        return extent(shape, shape->counts, shape->displs);
    case TUTTI_COLL_GATHERV:
        return root ? extent(shape, shape->counts, shape->displs) : 0;
    case TUTTI_COLL_ALLTOALLV:
        return extent(shape, shape->recv_counts, shape->recv_displs);
    case TUTTI_COLL_BARRIER:
    case TUTTI_COLL_COUNT:
        break;
    }
    return 0;
}

uint64_t coll_total_bytes(const struct shape *shape)
{
    uint64_t one = shape->count * shape->elem_size;
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_REDUCE:
    case TUTTI_COLL_SENDRECV:
        return one;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return one * shape->size;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV: {
        uint64_t sum = 0;
        for (uint32_t r = 0; r < shape->size; r++)
            sum += shape->counts[r];
        return sum * shape->elem_size;
    }
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_SCATTERV:
    case TUTTI_COLL_ALLTOALLV:
    case TUTTI_COLL_BARRIER:
    case TUTTI_COLL_COUNT:
        break;
    }
    return 0;
}

/* Block r of a buffer of `count` elements cut into `size` nearly equal blocks. */
static struct block even_block(const struct shape *shape, uint32_t r)
{
    uint64_t each = shape->count / shape->size, longer = shape->count % shape->size;
    uint64_t first = r * each + (r < longer ? r : longer);
    return (struct block){.off = first * shape->elem_size,
                          .len = (each + (r < longer)) * shape->elem_size};
}

struct block coll_block(const struct shape *shape, uint32_t r)
{
    must(r < shape->size);
    uint64_t one = shape->count * shape->elem_size;
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_REDUCE:
        return even_block(shape, r);
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_ALLTOALL:
        return (struct block){.off = r * one, .len = one};
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_SCATTERV:
    case TUTTI_COLL_ALLTOALLV:
        return (struct block){.off = shape->displs[r] * shape->elem_size,
                              .len = shape->counts[r] * shape->elem_size};
    case TUTTI_COLL_SENDRECV:
    case TUTTI_COLL_BARRIER:
    case TUTTI_COLL_COUNT:
        break;
    }
    return (struct block){0};
}

struct block coll_recv_block(const struct shape *shape, uint32_t r)
{
    must(r < shape->size);
    if (!shape->recv_counts)
        return coll_block(shape, r);
    return (struct block){.off = shape->recv_displs[r] * shape->elem_size,
                          .len = shape->recv_counts[r] * shape->elem_size};
}

int64_t coll_alias_delta(const struct shape *shape)
{
    switch (shape->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLGATHERV:
        return (int64_t)coll_block(shape, shape->rank).off;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_REDUCE_SCATTERV:
        return -(int64_t)coll_block(shape, shape->rank).off;
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_GATHERV:
        return shape->rank == shape->root ? (int64_t)coll_block(shape, shape->rank).off : 0;
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_SCATTERV:
        return shape->rank == shape->root ? -(int64_t)coll_block(shape, shape->rank).off : 0;
    default:
        return 0;
    }
}

double coll_bus_factor(tutti_coll coll, uint32_t size)
{
    double others = (size - 1.0) / size;
    switch (coll) {
    case TUTTI_COLL_ALLREDUCE:
        return 2 * others;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_SCATTERV:
    case TUTTI_COLL_ALLTOALL:
    case TUTTI_COLL_ALLTOALLV:
        return others;
    case TUTTI_COLL_BARRIER:
        return 0; /* moves nothing */
    default:
        return 1;
    }
}

/* The block of OUT that holds byte off comes from the rank of the same number. Blocks of a v form
 * may lie in any order and leave gaps; a gap ends where the next block begins. */
static bool origin_in_blocks(const struct shape *shape, uint64_t off, struct origin *origin)
{
    uint64_t next = coll_out_bytes(shape);
    for (uint32_t r = 0; r < shape->size; r++) {
        struct block block = coll_recv_block(shape, r);
        if (off >= block.off && off - block.off < block.len) {
            origin->source = r;
            origin->in_off = off - block.off;
            origin->len = block.off + block.len - off;
            return true;
        }
        if (block.len > 0 && block.off > off && block.off < next)
            next = block.off;
    }
    origin->len = next - off;
    return false;
}

bool coll_postcondition(const struct shape *shape, uint64_t off, struct origin *origin)
{
    uint64_t bytes = coll_out_bytes(shape);
    must(off < bytes);
    *origin = (struct origin){.in_off = off, .len = bytes - off, .source = shape->root};
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_REDUCE:
        origin->all = true;
        return true;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_REDUCE_SCATTERV:
        origin->all = true;
        origin->in_off += coll_block(shape, shape->rank).off;
        return true;
    case TUTTI_COLL_BROADCAST:
        return true;
    case TUTTI_COLL_SCATTER:
        origin->in_off += coll_block(shape, shape->rank).off;
        return true;
    case TUTTI_COLL_SCATTERV:
        origin->in_block = true;
        return true;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHER:
    case TUTTI_COLL_GATHERV:
        return origin_in_blocks(shape, off, origin);
    case TUTTI_COLL_ALLTOALL:
    case TUTTI_COLL_ALLTOALLV:
        origin->in_block = true;
        return origin_in_blocks(shape, off, origin);
    case TUTTI_COLL_SENDRECV:
    case TUTTI_COLL_BARRIER:
    case TUTTI_COLL_COUNT:
        break;
    }
    return false;
}
