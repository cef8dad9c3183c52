/* reduce_hier.c: up a binomial tree of the ranks of each node, and of the nodes: N - 1 vectors
 * cross the network, however many ranks a node has and however they are numbered.
 *
 * Cost, N nodes: ceil(log2 N) rounds between nodes at most, log2 of the largest node inside; the
 * root receives log2 N times B from other nodes. In pieces, so that the shorter of the two is
 * hidden. Source: Karonis, de Supinski, Foster, Gropp, Lusk and Bresnahan, "Exploiting hierarchy in
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
    *out = (struct cost){0};
    node_tree_cost(shape, knobs, NODE_TREE_BINOMIAL, true, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct tree_links links;

    node_tree_links(shape, NODE_TREE_BINOMIAL, shape->rank, &links);
    tree_reduce(shape, knobs, &links, node_tree_degree(shape, NODE_TREE_BINOMIAL), builder);
}

const struct algorithm reduce_hier = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "hier",
    .source = "Karonis et al. 2000",
    .fits = fits,
    .needs = "several hosts and more ranks than hosts",
    .cost = cost,
    .emit = emit,
};
