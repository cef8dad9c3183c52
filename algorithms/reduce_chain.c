/* reduce_chain.c: piece by piece from node to node, one behind the other towards the root, each
 * adding what its ranks have: for long vectors. A node receives and sends one vector.
 *
 * Cost, N nodes: N - 1 rounds between nodes, log2 of the largest node inside; B sent between nodes,
 * and one piece for each further node.
 * Source: pipelined as in Chan, Heimlich, Purkayastha and van de Geijn 2007, section 6; one message
 * per node as in Karonis et al. 2000. */
#include "algorithms/node_trees.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->nodes > 2 && grain_fits(2 * node_tree_degree(shape, NODE_TREE_CHAIN));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){0};
    node_tree_cost(shape, knobs, NODE_TREE_CHAIN, true, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct tree_links links;

    node_tree_links(shape, NODE_TREE_CHAIN, shape->rank, &links);
    tree_reduce(shape, knobs, &links, node_tree_degree(shape, NODE_TREE_CHAIN), builder);
}

const struct algorithm reduce_chain = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "chain",
    .source = "Chan et al. 2007, section 6",
    .fits = fits,
    .needs = "more than 2 hosts",
    .cost = cost,
    .emit = emit,
};
