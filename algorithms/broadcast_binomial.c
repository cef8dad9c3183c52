/* broadcast_binomial.c: down a binomial tree, piece by piece: a rank passes a piece on as soon as
 * it is there, to the child with the largest subtree first.
 *
 * Cost: floor(log2 n) rounds, and one more for every further piece; the root sends log2 n times B.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.2; pipelined as in Chan et al. 2007,
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

    *out = (struct cost){.copy_bytes = bytes};
    cost_pattern(shape, tally_binomial_down, &(struct tree_load){.bytes = bytes}, out);
    cost_pieces(shape, knobs, bytes, cost_stages(out), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct tree_links links;

    tree_binomial(shape->size, shape->rank, shape->root, &links);
    tree_broadcast(shape, knobs, &links, ceil_log2(shape->size) + 1, builder);
}

const struct algorithm broadcast_binomial = {
    .coll = TUTTI_COLL_BROADCAST,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
