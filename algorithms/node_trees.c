/* node_trees.c: see node_trees.h. */
#include "algorithms/node_trees.h"

#include "algorithms/phases.h"

static uint32_t leader_of(const struct shape *shape, uint32_t node)
{
    const struct groups *groups = shape->groups;

    return node == groups->node_of[shape->root] ? shape->root
                                                : groups->members[groups->first[node]];
}

static uint32_t node_distance(const struct shape *shape, uint32_t node)
{
    const struct groups *groups = shape->groups;

    return (node + groups->nodes - groups->node_of[shape->root]) % groups->nodes;
}

static void leader_links(const struct shape *shape, enum node_tree kind, uint32_t node,
                         struct tree_links *links)
{
    uint32_t nodes = shape->groups->nodes, distance = node_distance(shape, node);

    if (kind == NODE_TREE_BINOMIAL) {
        tree_binomial(nodes, node, shape->groups->node_of[shape->root], links);
        return;
    }
    *links = (struct tree_links){.parent = distance > 0 ? (node + nodes - 1) % nodes : NO_RANK};
    if (distance + 1 < nodes)
        links->child[links->children++] = (node + 1) % nodes;
}

void node_tree_links(const struct shape *shape, enum node_tree kind, uint32_t rank,
                     struct tree_links *links)
{
    struct team node = team_node(shape->groups, rank);
    uint32_t here = shape->groups->node_of[rank], leader = leader_of(shape, here);
    struct tree_links inside;

    tree_binomial(node.size, node.me, shape->groups->index_in_node[leader], &inside);
    *links = (struct tree_links){.parent = NO_RANK};
    if (inside.parent != NO_RANK)
        links->parent = team_rank(&node, inside.parent);
    if (rank == leader) {
        leader_links(shape, kind, here, links);
        if (links->parent != NO_RANK)
            links->parent = leader_of(shape, links->parent);
        for (uint32_t i = 0; i < links->children; i++)
            links->child[i] = leader_of(shape, links->child[i]);
    }
    for (uint32_t i = 0; i < inside.children; i++)
        links->child[links->children++] = team_rank(&node, inside.child[i]);
}

uint32_t node_tree_degree(const struct shape *shape, enum node_tree kind)
{
    uint32_t between = kind == NODE_TREE_CHAIN ? 1 : ceil_log2(shape->groups->nodes);

    return 1 + between + ceil_log2(cost_largest_node(shape));
}

/* ---- what it costs ---- */

struct flow {
    enum node_tree kind;
    bool up;
    double bytes;
};

static void tally_flow(struct tally *tally, const void *context)
{
    const struct flow *flow = context;
    const struct shape *shape = tally->shape;
    struct tree_links links;

    node_tree_links(shape, flow->kind, tally->rank, &links);
    for (uint32_t i = 0; i < links.children; i++) {
        if (flow->up)
            tally_recv(tally, links.child[i], flow->bytes);
        else
            tally_send(tally, 0, links.child[i], flow->bytes);
    }
    if (links.parent != NO_RANK && flow->up)
        tally_send(tally, 0, links.parent, flow->bytes);
    else if (links.parent != NO_RANK)
        tally_recv(tally, links.parent, flow->bytes);
}

/* From the root to the last rank and, of these, to the last leader. */
static void depth(const struct shape *shape, enum node_tree kind, double rounds[LEVEL_COUNT])
{
    const struct groups *groups = shape->groups;
    uint32_t between = 0, all = 0;

    for (uint32_t k = 0; k < groups->nodes; k++) {
        uint32_t distance = node_distance(shape, k),
                 ranks = groups->first[k + 1] - groups->first[k];
        uint32_t leader =
            kind == NODE_TREE_CHAIN ? distance : (uint32_t)__builtin_popcount(distance);

        between = (uint32_t)most(between, leader);
        all = (uint32_t)most(all, leader + ceil_log2(ranks + 1) - 1);
    }
    rounds[LEVEL_NET] = between;
    rounds[LEVEL_NODE] = all - between;
}

void node_tree_cost(const struct shape *shape, const struct knobs *knobs, enum node_tree kind,
                    bool up, struct cost *cost)
{
    struct flow flow = {.kind = kind, .up = up, .bytes = cost_total(shape)};
    uint32_t nodes = shape->groups->nodes, most_children = 0;

    for (uint32_t k = 0; k < nodes && k < COST_RANKS_MAX && up; k++) {
        struct tree_links links;

        node_tree_links(shape, kind, leader_of(shape, k), &links);
        most_children = (uint32_t)most(most_children, links.children);
    }
    cost->reduce_bytes += most_children * flow.bytes;
    cost_pattern(shape, tally_flow, &flow, cost);
    if (flow.bytes > 0)
        depth(shape, kind, cost->rounds);
    cost_pieces(shape, knobs, flow.bytes, cost_stages(cost), cost);
    cost_hide(shape, flow.bytes > (double)knobs->chunk_bytes ? flow.bytes / knobs->chunk_bytes : 1,
              cost);
}

/* ---- the programs ---- */

void tree_broadcast(const struct shape *shape, const struct knobs *knobs,
                    const struct tree_links *links, uint32_t degree, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, degree * bytes, degree);
    struct span out = span_of(BUFFER_OUT, 0, bytes);
    bool root = links->parent == NO_RANK;
    struct span have = root ? span_of(BUFFER_IN, 0, bytes) : out;

    for (uint32_t p = 0; p < grain_pieces(&grain, bytes); p++) {
        struct span piece = grain_piece(&grain, have, p);

        if (!root)
            build_recv(builder, links->parent, grain_lane(&grain, p), piece);
        for (uint32_t i = 0; i < links->children; i++)
            build_send(builder, links->child[i], grain_lane(&grain, p), piece);
    }
    if (root)
        build_copy(builder, out, have);
}

/* The smallest subtree is folded in first: it is complete first. */
void tree_reduce(const struct shape *shape, const struct knobs *knobs,
                 const struct tree_links *links, uint32_t degree, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 2 * degree * bytes, 2 * degree);
    uint32_t pieces = grain_pieces(&grain, bytes);
    bool root = links->parent == NO_RANK;
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);
    struct landing landing;

    if (root && (links->children == 0 || bytes == 0)) {
        build_copy(builder, out, in);
        return;
    }
    if (!root)
        out = links->children > 0 ? build_scratch(builder, bytes) : in;
    landing = landing_make(builder, pieces ? grain_piece(&grain, in, 0).len : 0,
                           (uint64_t)pieces * degree);
    for (uint32_t p = 0; p < pieces; p++) {
        struct span have = grain_piece(&grain, in, p), acc = grain_piece(&grain, out, p);

        for (uint32_t i = links->children; i > 0; i--) {
            uint32_t child = links->child[i - 1];

            build_recv_reduce(builder, child, grain_lane(&grain, p),
                              landing_take(&landing, acc.len), acc, have, child < shape->rank);
            have = acc;
        }
        if (!root)
            build_send(builder, links->parent, grain_lane(&grain, p), have);
    }
}
