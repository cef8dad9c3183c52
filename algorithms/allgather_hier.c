/* allgather_hier.c: for nodes of equal size: first every rank exchanges its block with the ranks of
 * the same local index (its rail), then the ranks of a node give each other what their rails
 * brought. Each block enters a node once.
 *
 * Cost, N nodes of L ranks: ceil(log2 N) rounds between nodes, N - 1 blocks sent; 1 round inside,
 * N (L - 1) blocks sent; one copy of the own block.
 * Source: Traeff, "Efficient allgather for regular SMP-clusters" (EuroPVM/MPI 2006), section 3, in
 * its multi-lane form (Traeff and Hunold, "Decomposing MPI collectives for exploiting multi-lane
 * communication" (2020), section III). */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->uniform && groups->nodes > 1 && groups->nodes < groups->size &&
           grain_fits(3 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double nodes = shape->groups->nodes, local = shape->size / nodes;
    double block = cost_total(shape) / shape->size;

    *out = (struct cost){.copy_bytes = cost_largest_block(shape)};
    if (block <= 0)
        return;
    out->rounds[LEVEL_NODE] = 1;
    out->rounds[LEVEL_NET] = ceil_log2(shape->groups->nodes);
    out->messages[LEVEL_NODE] = nodes * (local - 1);
    out->messages[LEVEL_NET] = nodes - 1;
    out->bytes[LEVEL_NODE] = nodes * (local - 1) * block;
    out->bytes[LEVEL_NET] = (nodes - 1) * block;
    out->host_bytes = local * out->bytes[LEVEL_NET];
}

/* Round with `have` rail blocks (nodes me, me + 1, ...): as many more from the node `have` above.
 */
static void run_rail(struct builder *builder, const struct shape *shape, const struct grain *grain)
{
    struct team rail = team_rail(shape->groups, shape->rank);
    struct block own = coll_block(shape, shape->rank);
    uint32_t n = rail.size;

    for (uint32_t have = 1; have < n; have *= 2) {
        uint32_t more = (uint32_t)least(have, n - have);

        for (uint32_t i = 0; i < more; i++) {
            struct block block = coll_block(shape, team_rank(&rail, (rail.me + i) % n));

            move_send(builder, grain, team_rank(&rail, (rail.me + n - have) % n),
                      i == 0 ? span_of(BUFFER_IN, 0, own.len)
                             : span_of(BUFFER_OUT, block.off, block.len));
        }
        for (uint32_t i = have; i < have + more; i++) {
            struct block block = coll_block(shape, team_rank(&rail, (rail.me + i) % n));

            move_recv(builder, grain, team_rank(&rail, (rail.me + have) % n),
                      span_of(BUFFER_OUT, block.off, block.len));
        }
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team node = team_node(shape->groups, shape->rank);
    struct team rail = team_rail(shape->groups, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct grain grain =
        grain_make(shape, knobs, 3 * runs_bytes(&cut, 0, shape->size), 3 * (uint64_t)shape->size);
    struct block own = cut_block(&cut, shape->rank);

    build_copy(builder, span_of(BUFFER_OUT, own.off, own.len), span_of(BUFFER_IN, 0, own.len));
    run_rail(builder, shape, &grain);
    /* The nearest node's blocks first: they have been here longest. */
    for (uint32_t i = 0; i < rail.size; i++) {
        uint32_t k = (rail.me + i) % rail.size;
        struct block mine = coll_block(shape, team_rank(&rail, k));

        for (uint32_t d = 1; d < node.size; d++) {
            uint32_t to = (node.me + d) % node.size;

            move_send(builder, &grain, team_rank(&node, to),
                      i == 0 ? span_of(BUFFER_IN, 0, mine.len)
                             : span_of(BUFFER_OUT, mine.off, mine.len));
        }
        for (uint32_t d = 1; d < node.size; d++) {
            uint32_t from = (node.me + node.size - d) % node.size;
            struct block block = coll_block(shape, shape->groups->members[k * node.size + from]);

            move_recv(builder, &grain, team_rank(&node, from),
                      span_of(BUFFER_OUT, block.off, block.len));
        }
    }
}

const struct algorithm allgather_hier = {
    .coll = TUTTI_COLL_ALLGATHER,
    .name = "hier",
    .source = "Traeff and Hunold 2020, section III",
    .fits = fits,
    .needs = NEEDS_EQUAL_HOSTS,
    .cost = cost,
    .emit = emit,
};
const struct algorithm allgatherv_hier = {
    .coll = TUTTI_COLL_ALLGATHERV,
    .name = "hier",
    .source = "Traeff and Hunold 2020, section III",
    .fits = fits,
    .needs = NEEDS_EQUAL_HOSTS,
    .cost = cost,
    .emit = emit,
};
