/* cases.c: one row per collective: how a size becomes counts and buffers, which element of OUT
 * must come from where, and the call itself. Adding a collective to coll_perf is adding a row.
 *
 * Sizes follow nccl-tests: the size column is the larger of the two buffers, the count column the
 * count that the call gets. The v forms use blocks of unequal length with gaps between them, so
 * that offsets are awkward and writes into a gap are noticed. A layout is a pure function of
 * (rank, size, root, bytes): each rank knows what every other passes.
 *
 *   OUT of allgatherv   | block 0 |gap| block 1     |gap| block 2   | ...
 *   segments            {at, count, source rank, start in its IN} one per block */
#include "perf/perf.h"

/* Elements of one of `parts` equal blocks; at least one unless nothing was asked for. */
static size_t block_count(const struct call *call, uint64_t bytes, size_t parts)
{
    size_t count = (size_t)(bytes / call->elem_size / parts);
    return count == 0 && bytes > 0 ? 1 : count;
}

static void set_size(struct call *call, uint64_t elements, uint64_t count)
{
    call->bytes = elements * call->elem_size;
    call->table_count = count;
}

static void expect(struct call *call, size_t at, size_t count, int source, size_t start)
{
    if (count > 0)
        call->segments[call->segment_count++] = (struct segment){at, count, source, start};
}

static void shape_allreduce(struct call *call, uint64_t bytes)
{
    call->count = block_count(call, bytes, 1);
    call->in_extent = call->out_extent = call->count;
    set_size(call, call->count, call->count);
    expect(call, 0, call->count, SOURCE_REDUCED, 0);
}

static void shape_broadcast(struct call *call, uint64_t bytes)
{
    call->count = block_count(call, bytes, 1);
    call->in_extent = call->rank == call->root ? call->count : 0;
    call->out_extent = call->count;
    set_size(call, call->count, call->count);
    expect(call, 0, call->count, call->root, 0);
}

static void shape_reduce(struct call *call, uint64_t bytes)
{
    shape_allreduce(call, bytes);
    if (call->rank != call->root) {
        call->out_extent = 0;
        call->segment_count = 0;
        call->in_place = false;
    }
}

static void shape_allgather(struct call *call, uint64_t bytes)
{
    size_t size = (size_t)call->size;
    call->count = block_count(call, bytes, size);
    call->in_extent = call->count;
    call->out_extent = call->count * size;
    call->in_at = call->in_place ? call->count * (size_t)call->rank : 0;
    set_size(call, call->out_extent, call->count);
    for (size_t r = 0; r < size; r++)
        expect(call, r * call->count, call->count, (int)r, 0);
}

static void shape_reduce_scatter(struct call *call, uint64_t bytes)
{
    size_t size = (size_t)call->size;
    call->count = block_count(call, bytes, size);
    call->in_extent = call->count * size;
    call->out_extent = call->count;
    call->out_at = call->in_place ? call->count * (size_t)call->rank : 0;
    set_size(call, call->in_extent, call->count);
    expect(call, 0, call->count, SOURCE_REDUCED, call->count * (size_t)call->rank);
}

static void shape_gather(struct call *call, uint64_t bytes)
{
    shape_allgather(call, bytes);
    if (call->rank != call->root) {
        call->out_extent = call->in_at = call->segment_count = 0;
        call->in_place = false;
    }
}

static void shape_scatter(struct call *call, uint64_t bytes)
{
    size_t size = (size_t)call->size, own = (size_t)call->rank;
    bool root = call->rank == call->root;
    call->count = block_count(call, bytes, size);
    call->in_place = call->in_place && root;
    call->in_extent = root ? call->count * size : 0;
    call->out_extent = call->count;
    call->out_at = call->in_place ? call->count * own : 0;
    set_size(call, call->count * size, call->count);
    expect(call, 0, call->count, call->root, call->count * own);
}

static void shape_alltoall(struct call *call, uint64_t bytes)
{
    size_t size = (size_t)call->size;
    call->count = block_count(call, bytes, size);
    call->in_extent = call->out_extent = call->count * size;
    set_size(call, call->in_extent, call->count);
    for (size_t r = 0; r < size; r++)
        expect(call, r * call->count, call->count, (int)r, call->count * (size_t)call->rank);
}

/* Cuts all elements of about `bytes` into blocks of three quarters, one and one and a quarter of
 * the average in turn; the last takes what remains. gap elements lie between blocks. */
static uint64_t shape_blocks(struct call *call, uint64_t bytes, size_t gap)
{
    size_t size = (size_t)call->size, total = block_count(call, bytes, 1);
    size_t average = total / size, quarter = average / 4, used = 0;
    for (size_t r = 0; r < size; r++) {
        size_t count = r % 3 == 0 ? average - quarter : r % 3 == 1 ? average : average + quarter;
        call->counts[r] = r + 1 == size || count > total - used ? total - used : count;
        call->displs[r] = used + gap * r;
        used += call->counts[r];
    }
    set_size(call, total, total);
    return total;
}

static size_t blocks_extent(const struct call *call)
{
    size_t last = (size_t)call->size - 1;
    return call->displs[last] + call->counts[last];
}

static void shape_allgatherv(struct call *call, uint64_t bytes)
{
    size_t own = (size_t)call->rank;
    shape_blocks(call, bytes, CASE_GAP);
    call->in_extent = call->counts[own];
    call->out_extent = blocks_extent(call);
    call->in_at = call->in_place ? call->displs[own] : 0;
    for (size_t r = 0; r < (size_t)call->size; r++)
        expect(call, call->displs[r], call->counts[r], (int)r, 0);
}

static void shape_reduce_scatterv(struct call *call, uint64_t bytes)
{
    size_t own = (size_t)call->rank;
    shape_blocks(call, bytes, 0);
    call->in_extent = blocks_extent(call);
    call->out_extent = call->counts[own];
    call->out_at = call->in_place ? call->displs[own] : 0;
    expect(call, 0, call->counts[own], SOURCE_REDUCED, call->displs[own]);
}

static void shape_gatherv(struct call *call, uint64_t bytes)
{
    shape_allgatherv(call, bytes);
    if (call->rank != call->root) {
        call->out_extent = call->in_at = call->segment_count = 0;
        call->in_place = false;
    }
}

static void shape_scatterv(struct call *call, uint64_t bytes)
{
    size_t own = (size_t)call->rank;
    bool root = call->rank == call->root;
    shape_blocks(call, bytes, CASE_GAP);
    call->in_place = call->in_place && root;
    call->in_extent = root ? blocks_extent(call) : 0;
    call->out_extent = call->counts[own];
    call->out_at = call->in_place ? call->displs[own] : 0;
    expect(call, 0, call->counts[own], call->root, call->displs[own]);
}

/* Elements from rank a to rank b in alltoallv: neighbours on the ring of ranks exchange a quarter
 * more than the average, and each rank keeps that much less for itself. The matrix is symmetric
 * (in place needs that) and every row adds up to size * average. */
static size_t pair_count(const struct call *call, size_t average, size_t a, size_t b)
{
    size_t size = (size_t)call->size, distance = (b + size - a) % size, quarter = average / 4;
    size_t neighbours = size > 2 ? 2 : size - 1;
    if (distance == 0)
        return average - neighbours * quarter;
    return distance == 1 || distance == size - 1 ? average + quarter : average;
}

static void shape_alltoallv(struct call *call, uint64_t bytes)
{
    size_t size = (size_t)call->size, own = (size_t)call->rank;
    size_t average = block_count(call, bytes, size), at = 0;
    for (size_t r = 0; r < size; r++) {
        call->counts[r] = pair_count(call, average, own, r);
        call->displs[r] = at;
        at += call->counts[r] + CASE_GAP;
    }
    call->in_extent = call->out_extent = blocks_extent(call);
    set_size(call, average * size, average);
    for (size_t r = 0; r < size; r++) {
        size_t start = 0; /* of block `own` in rank r's IN */
        for (size_t before = 0; before < own; before++)
            start += pair_count(call, average, r, before) + CASE_GAP;
        expect(call, call->displs[r], call->counts[r], (int)r, start);
    }
}

static void shape_sendrecv(struct call *call, uint64_t bytes)
{
    call->count = block_count(call, bytes, 1);
    call->in_extent = call->out_extent = call->count;
    set_size(call, call->count, call->count);
    expect(call, 0, call->count, (call->rank + call->size - 1) % call->size, 0);
}

static void shape_barrier(struct call *call, uint64_t bytes)
{
    (void)bytes;
    set_size(call, 0, 0);
}

static tutti_status run_allreduce(const struct call *c, tutti_comm *comm)
{
    return tutti_allreduce(c->in, c->out, c->count, c->dtype, c->op, comm);
}

static tutti_status run_allgather(const struct call *c, tutti_comm *comm)
{
    return tutti_allgather(c->in, c->out, c->count, c->dtype, comm);
}

static tutti_status run_allgatherv(const struct call *c, tutti_comm *comm)
{
    return tutti_allgatherv(c->in, c->out, c->counts, c->displs, c->dtype, comm);
}

static tutti_status run_reduce_scatter(const struct call *c, tutti_comm *comm)
{
    return tutti_reduce_scatter(c->in, c->out, c->count, c->dtype, c->op, comm);
}

static tutti_status run_reduce_scatterv(const struct call *c, tutti_comm *comm)
{
    return tutti_reduce_scatterv(c->in, c->out, c->counts, c->dtype, c->op, comm);
}

static tutti_status run_broadcast(const struct call *c, tutti_comm *comm)
{
    return tutti_broadcast(c->in, c->out, c->count, c->dtype, c->root, comm);
}

static tutti_status run_reduce(const struct call *c, tutti_comm *comm)
{
    return tutti_reduce(c->in, c->out, c->count, c->dtype, c->op, c->root, comm);
}

static tutti_status run_gather(const struct call *c, tutti_comm *comm)
{
    return tutti_gather(c->in, c->out, c->count, c->dtype, c->root, comm);
}

/* counts and displs are read at root only: the leaves prove it by passing none. */
static tutti_status run_gatherv(const struct call *c, tutti_comm *comm)
{
    bool root = c->rank == c->root;
    return tutti_gatherv(c->in, c->counts[c->rank], c->out, root ? c->counts : NULL,
                         root ? c->displs : NULL, c->dtype, c->root, comm);
}

static tutti_status run_scatter(const struct call *c, tutti_comm *comm)
{
    return tutti_scatter(c->in, c->out, c->count, c->dtype, c->root, comm);
}

static tutti_status run_scatterv(const struct call *c, tutti_comm *comm)
{
    bool root = c->rank == c->root;
    return tutti_scatterv(c->in, root ? c->counts : NULL, root ? c->displs : NULL, c->out,
                          c->counts[c->rank], c->dtype, c->root, comm);
}

static tutti_status run_alltoall(const struct call *c, tutti_comm *comm)
{
    return tutti_alltoall(c->in, c->out, c->count, c->dtype, comm);
}

static tutti_status run_alltoallv(const struct call *c, tutti_comm *comm)
{
    return tutti_alltoallv(c->in, c->counts, c->displs, c->out, c->counts, c->displs, c->dtype,
                           comm);
}

static tutti_status run_sendrecv(const struct call *c, tutti_comm *comm)
{
    tutti_status status = tutti_group_start();
    if (status != TUTTI_OK)
        return status;
    tutti_status sent = tutti_send(c->in, c->count, c->dtype, (c->rank + 1) % c->size, comm);
    tutti_status received =
        tutti_recv(c->out, c->count, c->dtype, (c->rank + c->size - 1) % c->size, comm);
    status = tutti_group_end();
    return sent != TUTTI_OK ? sent : received != TUTTI_OK ? received : status;
}

static tutti_status run_barrier(const struct call *c, tutti_comm *comm)
{
    (void)c;
    return tutti_barrier(comm);
}

/* CASE(name, COLL, has_root, reduces, has_data, can_in_place) */
#define CASE(name, COLL, ...)                                                                      \
    {                                                                                              \
        TUTTI_COLL_##COLL, #name, __VA_ARGS__, shape_##name, run_##name                            \
    }
const struct perf_case perf_cases[] = {
    CASE(allreduce, ALLREDUCE, false, true, true, true),
    CASE(allgather, ALLGATHER, false, false, true, true),
    CASE(allgatherv, ALLGATHERV, false, false, true, true),
    CASE(reduce_scatter, REDUCE_SCATTER, false, true, true, true),
    CASE(reduce_scatterv, REDUCE_SCATTERV, false, true, true, true),
    CASE(broadcast, BROADCAST, true, false, true, true),
    CASE(reduce, REDUCE, true, true, true, true),
    CASE(gather, GATHER, true, false, true, true),
    CASE(gatherv, GATHERV, true, false, true, true),
    CASE(scatter, SCATTER, true, false, true, true),
    CASE(scatterv, SCATTERV, true, false, true, true),
    CASE(alltoall, ALLTOALL, false, false, true, true),
    CASE(alltoallv, ALLTOALLV, false, false, true, true),
    CASE(sendrecv, SENDRECV, false, false, true, false),
    CASE(barrier, BARRIER, false, false, false, false),
};
const size_t perf_case_count = sizeof perf_cases / sizeof perf_cases[0];
_Static_assert(sizeof perf_cases / sizeof perf_cases[0] <= CASES_MAX, "options.cases is too small");
