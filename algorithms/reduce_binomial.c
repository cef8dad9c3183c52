/* reduce_binomial.c: up a binomial tree, piece by piece: a rank folds in its children, smallest
 * subtree first, and passes the piece on.
 *
 * Cost: floor(log2 n) rounds, and one more for every further piece; each rank but the root sends B;
 * the root receives and reduces log2 n times B.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.5; pipelined as in Chan et al. 2007,
 * section 6. */
#include "algorithms/node_trees.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.reduce_bytes = ceil_log2(shape->size) * bytes,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_pattern(shape, tally_binomial_up, &(struct tree_load){.bytes = bytes}, out);
    cost_pieces(shape, knobs, bytes, cost_stages(out), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct tree_links links;

    tree_binomial(shape->size, shape->rank, shape->root, &links);
    tree_reduce(shape, knobs, &links, ceil_log2(shape->size) + 1, builder);
}

const struct algorithm reduce_binomial = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.5",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
