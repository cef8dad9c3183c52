/* reduce_scatter_ring.c: partial sums travel round the ring; block r arrives at rank r last, with
 * everyone's contribution but its own.
 *
 * Cost: n - 1 rounds; a rank sends and reduces all blocks but one, (n - 1)/n of the total. IN is
 * not changed: partial sums lie in two slots of scratch by turns, the last goes to OUT.
 * Source: Patarasuk and Yuan 2009, section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 3 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double total = cost_total(shape), most_sent = cost_all_but_smallest(shape);

    *out = (struct cost){.reduce_bytes = most_sent, .copy_bytes = shape->size == 1 ? total : 0};
    if (total > 0)
        cost_ring(shape, shape->size - 1, most_sent, out);
    cost_pieces(shape, knobs, total / shape->size, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct home src = home_whole(BUFFER_IN);
    struct home result = home_alone(BUFFER_OUT, cut_block(&cut, shape->rank));
    struct grain grain =
        grain_make(shape, knobs, 3 * runs_bytes(&cut, 0, shape->size), messages(shape));

    phase_reduce_scatter_ring(builder, &world, &grain, &cut, &src, NULL, &result, 0);
}

const struct algorithm reduce_scatter_ring = {
    .coll = TUTTI_COLL_REDUCE_SCATTER,
    .name = "ring",
    .source = "Patarasuk and Yuan 2009, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm reduce_scatterv_ring = {
    .coll = TUTTI_COLL_REDUCE_SCATTERV,
    .name = "ring",
    .source = "Patarasuk and Yuan 2009, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
