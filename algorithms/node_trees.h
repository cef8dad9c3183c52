/* node_trees.h: trees over all ranks that cross between nodes as seldom as there are nodes to
 * reach: the nodes' leaders form a tree, and the ranks of each node a binomial tree below their
 * leader. The leader of the root's node is the root, of another node its first rank. */
#ifndef ALGORITHMS_NODE_TREES_H
#define ALGORITHMS_NODE_TREES_H

#include "algorithms/costs.h"

/* How the leaders are linked. Node distance counts from the root's node on. */
enum node_tree {
    NODE_TREE_BINOMIAL, /* ceil(log2 N) deep: for short messages */
    NODE_TREE_CHAIN,    /* one behind the other: each sends once what passes */
};

/* The rank's place; children of other nodes first, the largest subtree first. */
void node_tree_links(const struct shape *shape, enum node_tree kind, uint32_t rank,
                     struct tree_links *links);
/* Steps per piece of a message that the busiest rank takes at most. */
uint32_t node_tree_degree(const struct shape *shape, enum node_tree kind);
/* Adds what a vector costs that goes down the tree (broadcast) or up (reduce), in pieces. */
void node_tree_cost(const struct shape *shape, const struct knobs *knobs, enum node_tree kind,
                    bool up, struct cost *cost);

/* The shape's vector down any tree from IN of the root to OUT of all, or up it, reduced, to the
 * root's OUT, piece by piece: a rank passes on a piece as soon as it is complete. links: the
 * emitting rank's; degree: steps per piece of the busiest rank, the same on every rank. */
void tree_broadcast(const struct shape *shape, const struct knobs *knobs,
                    const struct tree_links *links, uint32_t degree, struct builder *builder);
void tree_reduce(const struct shape *shape, const struct knobs *knobs,
                 const struct tree_links *links, uint32_t degree, struct builder *builder);

#endif
