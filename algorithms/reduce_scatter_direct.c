/* reduce_scatter_direct.c: every rank sends block j to rank j and folds in its own block from all
 * others, in rank order, piece by piece so that a piece stays in cache until it is finished.
 *
 * Cost: 1 round; n - 1 messages of one block; n - 1 blocks reduced, each as it arrives, into OUT.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.3 (the n - 1 message form). */
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
    double block = cost_largest_block(shape);

    *out = (struct cost){.reduce_bytes = (shape->size - 1) * block,
                         .copy_bytes = shape->size == 1 ? block : 0};
    cost_exchange_all(shape, cost_total(shape) / shape->size, out);
    cost_pieces(shape, knobs, block, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct home src = home_whole(BUFFER_IN);
    struct home result = home_alone(BUFFER_OUT, cut_block(&cut, shape->rank));
    struct grain grain =
        grain_make(shape, knobs, messages(shape) * cut_longest(&cut), messages(shape));

    phase_reduce_scatter_direct(builder, &world, &grain, &cut, &src, &result);
}

const struct algorithm reduce_scatter_direct = {
    .coll = TUTTI_COLL_REDUCE_SCATTER,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm reduce_scatterv_direct = {
    .coll = TUTTI_COLL_REDUCE_SCATTERV,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
