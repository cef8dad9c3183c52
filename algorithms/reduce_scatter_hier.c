/* reduce_scatter_hier.c: for nodes of equal size: local rank i first folds, inside its node, the
 * blocks of all ranks (h, i) with the same local index; then the ranks i of all nodes (a rail)
 * reduce-scatter these N partial sums among themselves. What leaves a node is already reduced.
 *
 * Cost, N nodes of L ranks: inside 1 round, (L - 1) N blocks sent and reduced; between nodes
 * ceil(log2 N) rounds (circulant), N - 1 blocks sent and reduced.
 * Source: Traeff and Hunold, "Decomposing MPI collectives for exploiting multi-lane communication"
 * (2020), section III. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 3 * (uint64_t)shape->size + 16 * ceil_log2(shape->groups->nodes);
}

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->uniform && groups->nodes > 1 && groups->nodes < groups->size &&
           grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double nodes = shape->groups->nodes, local = shape->size / nodes;
    double block = cost_total(shape) / shape->size, inside = (local - 1) * nodes;

    *out = (struct cost){.reduce_bytes = (inside + nodes - 1) * block};
    if (block <= 0)
        return;
    out->rounds[LEVEL_NODE] = 1;
    out->rounds[LEVEL_NET] = ceil_log2(shape->groups->nodes);
    out->messages[LEVEL_NODE] = inside;
    out->bytes[LEVEL_NODE] = inside * block;
    out->bytes[LEVEL_NET] = (nodes - 1) * block;
    out->host_bytes = local * out->bytes[LEVEL_NET];
    cost_pieces(shape, knobs, block, 0, out);
}

/* Scratch gets the node's sums of the blocks of ranks (h, me), by h. */
static void fold_inside(struct builder *builder, const struct shape *shape,
                        const struct grain *grain, struct span sums)
{
    struct team node = team_node(shape->groups, shape->rank);
    struct team rail = team_rail(shape->groups, shape->rank);
    uint64_t block = shape->count * shape->elem_size;

    for (uint32_t d = 1; d <= rail.size; d++) {
        /* The block that the rail needs last, my own, is folded last. */
        uint32_t h = (rail.me + d) % rail.size;
        const uint32_t *members = shape->groups->members + (size_t)h * node.size;

        for (uint32_t e = 1; e < node.size; e++) {
            uint32_t to = (node.me + e) % node.size;

            move_send(builder, grain, team_rank(&node, to),
                      span_of(BUFFER_IN, members[to] * block, block));
        }
        phase_fold_in(builder, &node, grain, span_of(sums.buffer, sums.off + h * block, block),
                      span_of(BUFFER_IN, members[node.me] * block, block));
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team rail = team_rail(shape->groups, shape->rank);
    uint64_t block = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 3 * block * shape->size, messages(shape));
    struct span sums = build_scratch(builder, rail.size * block);
    struct cut cut = cut_even(shape, 0, sums.len, rail.size);
    struct home all = {.buffer = sums.buffer, .base = sums.off};
    struct home result = home_alone(BUFFER_OUT, cut_block(&cut, rail.me));

    fold_inside(builder, shape, &grain, sums);
    phase_reduce_scatter_circulant(builder, &rail, &grain, &cut, &all, &all, &result);
}

const struct algorithm reduce_scatter_hier = {
    .coll = TUTTI_COLL_REDUCE_SCATTER,
    .name = "hier",
    .source = "Traeff and Hunold 2020, section III",
    .fits = fits,
    .needs = NEEDS_EQUAL_HOSTS,
    .cost = cost,
    .emit = emit,
};
