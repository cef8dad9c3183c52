/* allreduce_ring.c: reduce-scatter, then allgather, both round the ring: least bytes, most rounds.
 *
 * Cost: 2 (n - 1) rounds; each rank sends and receives 2 (n - 1)/n B: every block of B/n passes
 * every link but one, once as a partial sum and once as the result. Reduced: (n - 1)/n B.
 * The first send goes straight from IN and partial sums are written to OUT from IN and the
 * arriving sum, so nothing is ever copied. Rank r ends the first half with block r + 1.
 * Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
 * workstations" (JPDC 2009), section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 5 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape), share = (shape->size - 1.0) / shape->size * bytes;

    *out = (struct cost){.reduce_bytes = share, .copy_bytes = shape->size == 1 ? bytes : 0};
    if (bytes > 0)
        cost_ring(shape, 2 * (shape->size - 1), 2 * share, out);
    cost_pieces(shape, knobs, bytes / shape->size, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 5 * bytes, messages(shape));
    struct cut cut = cut_of_shape(shape);
    struct home in = home_whole(BUFFER_IN), out = home_whole(BUFFER_OUT);

    phase_reduce_scatter_ring(builder, &world, &grain, &cut, &in, &out, &out, 1);
    if (shape->size > 1)
        phase_allgather_ring(builder, &world, &grain, &cut, &out, &out, 1);
}

const struct algorithm allreduce_ring = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "ring",
    .source = "Patarasuk and Yuan 2009, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
