/* groups.c: see groups.h. Trees follow two sources: the binomial tree in its usual form (parent:
 * clear the lowest set bit), and the two trees of P. Sanders, J. Speck, J. L. Traeff, "Two-tree
 * algorithms for full bandwidth broadcast, reduction and scan" (Parallel Computing 35, 2009),
 * section 3: an in-order binary tree over the positions, and the same tree shifted (odd sizes) or
 * mirrored (even sizes), so that inner nodes of one are leaves of the other. */
#include "algorithms/groups.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

tutti_status groups_make(uint32_t size, const uint32_t *node_id, struct groups *groups)
{
    struct groups g = {.size = size};
    g.node_of = calloc(size + 1u, sizeof(uint32_t));
    g.index_in_node = calloc(size + 1u, sizeof(uint32_t));
    g.members = calloc(size + 1u, sizeof(uint32_t));
    g.first = calloc(size + 2u, sizeof(uint32_t));
    uint32_t *leader = calloc(size + 1u, sizeof(uint32_t));
    if (!g.node_of || !g.index_in_node || !g.members || !g.first || !leader) {
        free(leader);
        groups_free(&g);
        return fail(TUTTI_ERR_NOMEM, "no memory to group %u ranks", size);
    }
    for (uint32_t r = 0; r < size; r++) {
        uint32_t n = 0;
        while (n < g.nodes && node_id[leader[n]] != node_id[r])
            n++;
        if (n == g.nodes)
            leader[g.nodes++] = r;
        g.node_of[r] = n;
        g.index_in_node[r] = g.first[n + 1]++;
    }
    g.uniform = true;
    for (uint32_t n = 0; n < g.nodes; n++) {
        g.uniform = g.uniform && g.first[n + 1] == g.first[1];
        leader[n] = g.first[n + 1];
    }
    for (uint32_t n = 0, at = 0; n < g.nodes; n++) {
        g.first[n] = at;
        at += leader[n];
        g.first[n + 1] = at;
    }
    for (uint32_t r = 0; r < size; r++)
        g.members[g.first[g.node_of[r]] + g.index_in_node[r]] = r;
    free(leader);
    *groups = g;
    return TUTTI_OK;
}

void groups_free(struct groups *groups)
{
    free(groups->node_of);
    free(groups->index_in_node);
    free(groups->members);
    free(groups->first);
    *groups = (struct groups){0};
}

tutti_status groups_make_uniform(uint32_t nodes, uint32_t per_node, struct groups *groups)
{
    uint32_t size = nodes * per_node, *ids = calloc(size + 1u, sizeof *ids);
    if (!ids)
        return fail(TUTTI_ERR_NOMEM, "no memory to group %u ranks", size);
    for (uint32_t r = 0; r < size; r++)
        ids[r] = r / per_node;
    tutti_status status = groups_make(size, ids, groups);
    free(ids);
    return status;
}

struct team team_world(uint32_t size, uint32_t rank)
{
    return (struct team){.size = size, .me = rank, .base = 0, .stride = 1};
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

void tree_binomial(uint32_t size, uint32_t me, uint32_t root, struct tree_links *links)
{
    uint32_t relative = (me + size - root) % size;
    links->children = 0;
    links->parent = relative == 0 ? NO_RANK : ((relative & (relative - 1)) + root) % size;
    uint32_t low = relative == 0 ? size : relative & -relative;
    /* Largest subtree first: it takes longest. */
    uint32_t bit = 1;
    while (bit < low && relative + bit < size)
        bit <<= 1;
    for (bit >>= 1; bit > 0; bit >>= 1)
        links->child[links->children++] = (relative + bit + root) % size;
}

/* In-order binary tree over 0..size-1: position p at height of its lowest set bit of p + 1. */
static void tree_in_order(uint32_t size, uint32_t me, struct tree_links *links)
{
    uint32_t one = me + 1, bit = one & -one;
    links->children = 0;
    links->parent = NO_RANK;
    uint32_t top = 1;
    while (top * 2 <= size)
        top *= 2;
    if (one != top) {
        /* The parent clears this bit and sets the next, or, past the end, drops below. */
        uint32_t up = (one ^ bit) | bit << 1;
        links->parent = (up > size ? one ^ bit : up) - 1;
    }
    if (bit > 1) {
        uint32_t down = bit >> 1;
        links->child[links->children++] = one - down - 1;
        while (down > 0 && one + down > size)
            down >>= 1;
        if (down > 0)
            links->child[links->children++] = one + down - 1;
    }
}

void tree_double(uint32_t size, uint32_t me, uint32_t which, struct tree_links *links)
{
    if (which == 0) {
        tree_in_order(size, me, links);
        return;
    }
    bool even = size % 2 == 0;
    uint32_t image = even ? size - 1 - me : (me + size - 1) % size;
    tree_in_order(size, image, links);
    for (uint32_t c = 0; c < links->children; c++)
        links->child[c] = even ? size - 1 - links->child[c] : (links->child[c] + 1) % size;
    if (links->parent != NO_RANK)
        links->parent = even ? size - 1 - links->parent : (links->parent + 1) % size;
}

uint32_t ceil_log2(uint32_t n)
{
    return n <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(n - 1);
}
