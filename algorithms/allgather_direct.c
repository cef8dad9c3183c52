/* allgather_direct.c: every rank sends its block to everyone at once, nearest successor first, and
 * receives every other block where it belongs.
 *
 * Cost: 1 round; n - 1 messages of one block each; one copy of the own block.
 * Source: the spread-out form of Bruck et al., "Efficient algorithms for all-to-all communications
 * in multiport message-passing systems" (1997), section 2, n ports. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 2 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){.copy_bytes = cost_largest_block(shape)};
    cost_exchange_all(shape, cost_largest_block(shape), out);
    /* Between hosts who has the longest block sends it to all; inside, who gets them copies. */
    double others = cost_all_but_smallest(shape);
    if (out->bytes[LEVEL_NODE] > others)
        out->bytes[LEVEL_NODE] = others;
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct home own = home_alone(BUFFER_IN, cut_block(&cut, shape->rank));
    struct home all = home_whole(BUFFER_OUT);
    struct grain grain =
        grain_make(shape, knobs, cut_longest(&cut) * messages(shape), messages(shape));

    phase_allgather_direct(builder, &world, &grain, &cut, &own, &all);
}

const struct algorithm allgather_direct = {
    .coll = TUTTI_COLL_ALLGATHER,
    .name = "direct",
    .source = "Bruck et al. 1997, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm allgatherv_direct = {
    .coll = TUTTI_COLL_ALLGATHERV,
    .name = "direct",
    .source = "Bruck et al. 1997, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
