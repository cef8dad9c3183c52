/* groups.c: who stands where: nodes, neighbours, trees.
 * The idea: every rank computes its own neighbours from replicated numbers, in time that does not
 * grow with the number of ranks. The binomial tree is the classic one (a position's parent clears
 * its lowest set bit, so a subtree is a range of positions); the double tree is from Sanders, Speck
 * and Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan" (2009).
 * Invariant: parent and child answers agree: c is a child of p exactly if p is c's parent. */
#include "algorithms/groups.h"

#include <stdlib.h>

#include "base/check.h"

struct placed {
    uint32_t node_id, rank;
};

static int placed_compare(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->node_id != y->node_id)
        return x->node_id < y->node_id ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* One allocation for the four arrays; the first of them owns it. */
static tutti_status allocate(uint32_t size, struct groups *groups)
{
    uint32_t *memory = calloc(4 * (size_t)size + 1, sizeof *memory);
    if (!memory)
        return fail(TUTTI_ERR_NOMEM, "no memory for the groups of %u ranks", size);
    *groups = (struct groups){.size = size,
                              .node_of = memory,
                              .index_in_node = memory + size,
                              .members = memory + 2 * (size_t)size,
                              .first = memory + 3 * (size_t)size};
    return TUTTI_OK;
}

/* node_of is known: counts, members and indices follow. */
static void fill_members(struct groups *groups)
{
    for (uint32_t r = 0; r < groups->size; r++)
        groups->first[groups->node_of[r] + 1]++;
    groups->uniform = true;
    for (uint32_t n = 0; n < groups->nodes; n++) {
        groups->uniform = groups->uniform && groups->first[n + 1] == groups->size / groups->nodes;
        groups->first[n + 1] += groups->first[n];
    }
    /* first serves as the cursor of each node while ranks are placed, and is then shifted back. */
    for (uint32_t r = 0; r < groups->size; r++)
        groups->members[groups->first[groups->node_of[r]]++] = r;
    for (uint32_t n = groups->nodes; n > 0; n--)
        groups->first[n] = groups->first[n - 1];
    groups->first[0] = 0;
    for (uint32_t n = 0; n < groups->nodes; n++) {
        for (uint32_t i = groups->first[n]; i < groups->first[n + 1]; i++)
            groups->index_in_node[groups->members[i]] = i - groups->first[n];
    }
}

tutti_status groups_make(uint32_t size, const uint32_t *node_id, struct groups *out)
{
    must(size > 0);
    struct groups groups;
    struct placed *order = malloc(size * sizeof *order);
    if (!order)
        return fail(TUTTI_ERR_NOMEM, "no memory for the groups of %u ranks", size);
    tutti_status status = allocate(size, &groups);
    if (status != TUTTI_OK) {
        free(order);
        return status;
    }
    for (uint32_t r = 0; r < size; r++)
        order[r] = (struct placed){.node_id = node_id[r], .rank = r};
    qsort(order, size, sizeof *order, placed_compare);
    /* A run of equal ids is a node; for now it is named by its lowest rank. */
    for (uint32_t i = 0, lowest = 0; i < size; i++) {
        if (i == 0 || order[i].node_id != order[i - 1].node_id)
            lowest = order[i].rank;
        groups.node_of[order[i].rank] = lowest;
    }
    free(order);
    /* Nodes are numbered by their lowest ranks; a lowest rank is met before its node's others. */
    for (uint32_t r = 0; r < size; r++)
        groups.node_of[r] =
            groups.node_of[r] == r ? groups.nodes++ : groups.node_of[groups.node_of[r]];
    fill_members(&groups);
    *out = groups;
    return TUTTI_OK;
}

tutti_status groups_make_uniform(uint32_t nodes, uint32_t per_node, struct groups *out)
{
    must(nodes > 0 && per_node > 0);
    struct groups groups;
    tutti_status status = allocate(nodes * per_node, &groups);
    if (status != TUTTI_OK)
        return status;
    groups.nodes = nodes;
    for (uint32_t r = 0; r < groups.size; r++)
        groups.node_of[r] = r / per_node;
    fill_members(&groups);
    *out = groups;
    return TUTTI_OK;
}

void groups_free(struct groups *groups)
{
    free(groups->node_of);
    *groups = (struct groups){0};
}

struct team team_world(uint32_t size, uint32_t rank)
{
    return (struct team){.size = size, .me = rank, .stride = 1};
}

struct team team_node(const struct groups *groups, uint32_t rank)
{
    uint32_t node = groups->node_of[rank];
    return (struct team){.size = groups->first[node + 1] - groups->first[node],
                         .me = groups->index_in_node[rank],
                         .base = groups->first[node],
                         .stride = 1,
                         .list = groups->members};
}

struct team team_rail(const struct groups *groups, uint32_t rank)
{
    must(groups->uniform);
    return (struct team){.size = groups->nodes,
                         .me = groups->node_of[rank],
                         .base = groups->index_in_node[rank],
                         .stride = groups->size / groups->nodes,
                         .list = groups->members};
}

uint32_t ceil_log2(uint32_t n)
{
    return n <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(n - 1);
}

void tree_binomial(uint32_t size, uint32_t me, uint32_t root, struct tree_links *links)
{
    must(me < size && root < size);
    uint32_t position = me >= root ? me - root : me + (size - root);
    uint32_t low = position ? position & -position : 1u << ceil_log2(size);
    *links = (struct tree_links){.parent = NO_RANK};
    if (position)
        links->parent = (uint32_t)(((uint64_t)(position & (position - 1)) + root) % size);
    /* The largest subtree first: it takes longest. */
    for (uint32_t bit = low >> 1; bit > 0; bit >>= 1) {
        if (position + bit < size)
            links->child[links->children++] = (uint32_t)(((uint64_t)position + bit + root) % size);
    }
}

/* The in-order tree over labels 1..size: odd labels are leaves, even ones are inner; a label's
 * height is its lowest set bit. Where a subtree is cut off by size, the highest label that is left
 * of it takes its place.
 *
 *          8
 *       4     12          labels 1..13
 *     2   6  10  13
 *    1 3 5 7 9 11                                                                              */
static void tree_in_order(uint32_t size, uint32_t label, struct tree_links *links)
{
    uint32_t bit = label & -label;
    *links = (struct tree_links){.parent = NO_RANK};
    uint32_t up = (label ^ bit) | bit << 1;
    if (up > size)
        up = label ^ bit;
    if (up != 0)
        links->parent = up;
    if (bit > 1)
        links->child[links->children++] = label - (bit >> 1);
    for (uint32_t half = bit >> 1; half > 0; half >>= 1) {
        if (label + half <= size) {
            links->child[links->children++] = label + half;
            break;
        }
    }
}

/* Position and label of tree 1. An even size is mirrored (label -> size + 1 - label changes
 * parity); an odd one is shifted by one, where the last position is a leaf in both trees. */
static uint32_t label_of(uint32_t size, uint32_t which, uint32_t position)
{
    if (which == 0)
        return position + 1;
    return size % 2 == 0 ? size - position : (position + 1) % size + 1;
}

static uint32_t position_of(uint32_t size, uint32_t which, uint32_t label)
{
    if (which == 0)
        return label - 1;
    return size % 2 == 0 ? size - label : (label - 2 + size) % size;
}

void tree_double(uint32_t size, uint32_t me, uint32_t which, struct tree_links *links)
{
    must(me < size && which < 2);
    tree_in_order(size, label_of(size, which, me), links);
    if (links->parent != NO_RANK)
        links->parent = position_of(size, which, links->parent);
    for (uint32_t i = 0; i < links->children; i++)
        links->child[i] = position_of(size, which, links->child[i]);
}
