/* broadcast_hier.c: from the root down a binomial tree of nodes, and of ranks inside each: the
 * network is crossed N - 1 times, however many ranks a node has and however they are numbered.
 *
 * Cost, N nodes: ceil(log2 N) rounds between nodes at most, log2 of the largest node inside; the
 * root sends log2 N times B between nodes. In pieces, so that the shorter of the two is hidden.
 * Source: Karonis, de Supinski, Foster, Gropp, Lusk and Bresnahan, "Exploiting hierarchy in
 * parallel computer networks to optimize collective operation performance" (IPDPS 2000). */
#include "algorithms/node_trees.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->nodes > 1 && groups->nodes < groups->size &&
           grain_fits(2 * node_tree_degree(shape, NODE_TREE_BINOMIAL));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){.copy_bytes = cost_total(shape)};
    node_tree_cost(shape, knobs, NODE_TREE_BINOMIAL, false, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct tree_links links;

    node_tree_links(shape, NODE_TREE_BINOMIAL, shape->rank, &links);
    tree_broadcast(shape, knobs, &links, node_tree_degree(shape, NODE_TREE_BINOMIAL), builder);
}

const struct algorithm broadcast_hier = {
    .coll = TUTTI_COLL_BROADCAST,
    .name = "hier",
    .source = "Karonis et al. 2000",
    .fits = fits,
    .needs = "several hosts and more ranks than hosts",
    .cost = cost,
    .emit = emit,
};
