/* allreduce_circulant.c: circulant reduce-scatter, then circulant allgather: the ring's volume in
 * logarithmically many rounds, for any number of ranks, without folding ranks away.
 *
 * Cost: 2 ceil(log2 n) rounds; round with skips s -> h = ceil(s/2) moves s - h blocks of B/n, in
 * all n - 1 blocks, so 2 (n - 1)/n B are sent; reduced (n - 1)/n B.
 * A block's final sum is made by one rank alone, so all ranks get the same bits.
 * Source: Traeff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms" (arXiv
 * 2410.14234), Algorithms 1 and 2. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.reduce_bytes = (shape->size - 1.0) / shape->size * bytes,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_circulant(shape, bytes, out);
    cost_circulant(shape, bytes, out);
    cost_pieces(shape, knobs, bytes / 2, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 5 * bytes, 16 * ceil_log2(shape->size));
    struct cut cut = cut_of_shape(shape);
    struct home in = home_whole(BUFFER_IN), out = home_whole(BUFFER_OUT);

    phase_reduce_scatter_circulant(builder, &world, &grain, &cut, &in, &out, &out);
    if (shape->size > 1)
        phase_allgather_circulant(builder, &world, &grain, &cut, &out, &out);
}

const struct algorithm allreduce_circulant = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "circulant",
    .source = "Traeff 2024, arXiv 2410.14234, Algorithms 1 and 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
