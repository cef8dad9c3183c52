/* allgather_ring.c: blocks travel round the ring: each rank passes on what it got in the round
 * before. Every message goes to the neighbour, so it is kind to a network of any kind.
 *
 * Cost: n - 1 rounds; a rank sends all blocks but its successor's, (n - 1)/n of the total; one copy
 * of the own block.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.1. */
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
    double total = cost_total(shape);

    *out = (struct cost){.copy_bytes = cost_largest_block(shape)};
    if (total > 0)
        cost_ring(shape, shape->size - 1, cost_all_but_smallest(shape), out);
    cost_pieces(shape, knobs, total / shape->size, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct home own = home_alone(BUFFER_IN, cut_block(&cut, shape->rank));
    struct home all = home_whole(BUFFER_OUT);
    struct grain grain =
        grain_make(shape, knobs, 2 * runs_bytes(&cut, 0, shape->size), messages(shape));

    phase_allgather_ring(builder, &world, &grain, &cut, &own, &all, 0);
}

const struct algorithm allgather_ring = {
    .coll = TUTTI_COLL_ALLGATHER,
    .name = "ring",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.1",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm allgatherv_ring = {
    .coll = TUTTI_COLL_ALLGATHERV,
    .name = "ring",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.1",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
