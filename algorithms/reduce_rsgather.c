/* reduce_rsgather.c: direct reduce-scatter, then direct gather: the work of reducing is shared by
 * all ranks, and the root receives each finished block from the rank that made it.
 *
 * Cost: 2 rounds; a rank sends n - 1 blocks of B/n, then one to the root; reduced (n - 1)/n B.
 * Source: Rabenseifner, "Optimization of collective reduction operations" (ICCS 2004), section 2
 * (reduce-scatter and gather). */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 4 * (uint64_t)shape->size;
}

/* Between two ranks it moves to the root what `flat` does, in one round more. */
static bool fits(const struct shape *shape)
{
    return shape->size > 2 && grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape), block = bytes / shape->size;

    *out = (struct cost){.reduce_bytes = (shape->size - 1) * block,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_exchange_all(shape, block, out);
    cost_pattern(shape, tally_flat_up, &block, out);
    cost_pieces(shape, knobs, block, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct team world = team_world(n, me);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 4 * bytes, messages(shape));
    struct cut cut = cut_of_shape(shape);
    struct block mine = cut_block(&cut, me);
    struct home in = home_whole(BUFFER_IN), out = home_whole(BUFFER_OUT), result = out;

    if (me != shape->root) {
        result = home_alone(BUFFER_SCRATCH, mine);
        result.base = build_scratch(builder, mine.len).off;
    }
    phase_reduce_scatter_direct(builder, &world, &grain, &cut, &in, &result);
    if (me != shape->root) {
        move_send(builder, &grain, shape->root, home_span(&result, mine));
        return;
    }
    for (uint32_t d = 1; d < n; d++) {
        uint32_t from = (me + n - d) % n;

        move_recv(builder, &grain, from, home_span(&out, cut_block(&cut, from)));
    }
}

const struct algorithm reduce_rsgather = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "rsgather",
    .source = "Rabenseifner 2004, section 2",
    .fits = fits,
    .needs = "more than 2 ranks",
    .cost = cost,
    .emit = emit,
};
