/* groups.h: who stands where: nodes, neighbours, trees. Pure arithmetic over replicated data. */
#ifndef ALGORITHMS_GROUPS_H
#define ALGORITHMS_GROUPS_H

#include "base/status.h"

#define NO_RANK UINT32_MAX

struct groups {
    uint32_t size, nodes;
    uint32_t *node_of;       /* [size] */
    uint32_t *index_in_node; /* [size] */
    uint32_t *members;       /* [size] ranks ordered by node, then rank */
    uint32_t *first;         /* [nodes + 1] where each node's members begin */
    bool uniform;            /* every node has the same number of ranks */
};

/* From node ids per rank (any values; nodes are numbered by first appearance). Caller frees. */
tutti_status groups_make(uint32_t size, const uint32_t *node_id, struct groups *groups);
void groups_free(struct groups *groups);
/* nodes x per_node, block distribution; for tests and tools. */
tutti_status groups_make_uniform(uint32_t nodes, uint32_t per_node, struct groups *groups);

/* A view of an ordered list of ranks, so that a phase runs over the world, a node or a rail:
 * member i is list[base + i * stride], or base + i * stride when list is NULL. A rail (the ranks
 * with one index in every node of uniform groups) is {nodes, node, index, per_node, members}. */
struct team {
    uint32_t size, me; /* me: index of the emitting rank, NO_RANK if it is not in the team */
    uint32_t base, stride;
    const uint32_t *list;
};
static inline uint32_t team_rank(const struct team *team, uint32_t index)
{
    uint32_t position = team->base + index * team->stride;

    return team->list ? team->list[position] : position;
}
struct team team_world(uint32_t size, uint32_t rank);
struct team team_node(const struct groups *groups, uint32_t rank); /* ranks of rank's node */
/* Ranks with rank's index in every node; groups must be uniform. */
struct team team_rail(const struct groups *groups, uint32_t rank);

/* Trees over positions 0..size-1. */
struct tree_links {
    uint32_t parent; /* NO_RANK at the root */
    uint32_t child[32];
    uint32_t children;
};
void tree_binomial(uint32_t size, uint32_t me, uint32_t root, struct tree_links *links);
/* Tree `which` (0 or 1) of the double binary tree (Sanders, Speck, Traeff 2009): each position is
 * a leaf in one tree and inner in the other. */
void tree_double(uint32_t size, uint32_t me, uint32_t which, struct tree_links *links);
uint32_t ceil_log2(uint32_t n); /* 0 for n <= 1 */

#endif
