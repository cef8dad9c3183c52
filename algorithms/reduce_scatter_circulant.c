/* reduce_scatter_circulant.c: logarithmically many rounds for any number of ranks: with the skips
 * n, ceil(n/2), ceil(n/4), ..., 1 a rank that still answers for s blocks gives the upper s - h of
 * them to the rank h above and keeps h.
 *
 * Cost: ceil(log2 n) rounds; n - 1 blocks sent, n - 1 reduced. IN is not changed: partial sums of
 * the n/2 blocks that follow the own one lie in scratch, the own one in OUT.
 * Source: Traeff, "Optimal, non-pipelined reduce-scatter and allreduce algorithms" (arXiv
 * 2410.14234), Algorithm 1. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    /* Blocks with irregular lengths still lie back to back: at most four spans to a round. */
    return 16 * (uint64_t)(ceil_log2(shape->size) + 1);
}

static bool fits(const struct shape *shape)
{
    return true;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double total = cost_total(shape);

    *out = (struct cost){.reduce_bytes = (shape->size - 1.0) / shape->size * total,
                         .copy_bytes = shape->size == 1 ? total : 0};
    cost_circulant(shape, total, out);
    cost_pieces(shape, knobs, total / 2, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, follower = (shape->rank + 1) % n;
    struct team world = team_world(n, shape->rank);
    struct cut cut = cut_of_shape(shape);
    uint64_t total = runs_bytes(&cut, 0, n);
    struct home src = home_whole(BUFFER_IN);
    struct home result = home_alone(BUFFER_OUT, cut_block(&cut, shape->rank));
    struct home acc = {
        .buffer = BUFFER_SCRATCH, .origin = cut_block(&cut, follower).off, .total = total};
    struct grain grain = grain_make(shape, knobs, 3 * total, messages(shape));

    acc.base = build_scratch(builder, n > 2 ? runs_bytes(&cut, follower, n / 2) : 0).off;
    phase_reduce_scatter_circulant(builder, &world, &grain, &cut, &src, &acc, &result);
}

const struct algorithm reduce_scatter_circulant = {
    .coll = TUTTI_COLL_REDUCE_SCATTER,
    .name = "circulant",
    .source = "Traeff 2024, arXiv 2410.14234, Algorithm 1",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm reduce_scatterv_circulant = {
    .coll = TUTTI_COLL_REDUCE_SCATTERV,
    .name = "circulant",
    .source = "Traeff 2024, arXiv 2410.14234, Algorithm 1",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
