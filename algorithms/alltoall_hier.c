/* alltoall_hier.c: for nodes of equal size and small blocks: rank (g, i), the i-th of node g, first
 * collects from its node all blocks for the ranks (h, i) of the other nodes, then sends each of
 * them one message with the blocks of the whole node. N - 1 messages leave a rank, not n - L.
 *
 *     IN of (g, j)  --- inside --->  (g, i)  --- rail --->  OUT of (h, i)
 *     block (h, i)     N blocks               L blocks       blocks (g, 0..L-1)
 *
 * Cost, N nodes of L ranks: 1 round inside, (L - 1) N blocks sent; 1 round between nodes,
 * (N - 1) L blocks sent. Copies: (L - 1) N blocks packed, n - L assembled, L to their places, and
 * n - L more where the ranks of a node are not consecutive.
 * Source: Traeff and Rougier, "MPI collectives and datatypes for hierarchical all-to-all
 * communication" (EuroMPI 2014), section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->uniform && groups->nodes > 1 && groups->nodes < groups->size &&
           5 * (uint64_t)shape->size + 64 <= SCHEDULE_STEPS_MAX;
}

/* Are the ranks of that node consecutive? Then their blocks lie back to back. */
static bool consecutive(const struct groups *groups, uint32_t node)
{
    const uint32_t *members = groups->members + groups->first[node];
    uint32_t count = groups->first[node + 1] - groups->first[node];

    return members[count - 1] - members[0] == count - 1;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double nodes = shape->groups->nodes, local = shape->size / nodes;
    double block = cost_total(shape) / shape->size;

    *out =
        (struct cost){.copy_bytes = block * ((local - 1) * nodes + (shape->size - local) + local)};
    for (uint32_t k = 0; k < shape->groups->nodes; k++)
        if (!consecutive(shape->groups, k)) {
            out->copy_bytes += (shape->size - local) * block;
            break;
        }
    if (block <= 0)
        return;
    out->rounds[LEVEL_NODE] = 1;
    out->rounds[LEVEL_NET] = 1;
    out->messages[LEVEL_NODE] = local - 1;
    out->messages[LEVEL_NET] = nodes - 1;
    out->bytes[LEVEL_NODE] = (local - 1) * nodes * block;
    out->bytes[LEVEL_NET] = (nodes - 1) * local * block;
    out->host_bytes = local * out->bytes[LEVEL_NET];
}

struct hier {
    const struct shape *shape;
    struct builder *builder;
    struct grain grain;
    struct team node, rail;
    uint64_t block; /* bytes */
    uint64_t here;  /* scratch: blocks [j][h] that local rank j has for (h, me) */
};

static uint32_t rank_at(const struct hier *hier, uint32_t node, uint32_t index)
{
    return hier->shape->groups->members[node * hier->node.size + index];
}

static struct span block_of(const struct hier *hier, enum buffer buffer, uint32_t rank)
{
    return span_of(buffer, rank * hier->block, hier->block);
}

/* What local rank j has for (h, me): mine is still in IN. */
static struct span collected(const struct hier *hier, uint32_t j, uint32_t h)
{
    if (j == hier->node.me)
        return block_of(hier, BUFFER_IN, rank_at(hier, h, j));
    return span_of(BUFFER_SCRATCH, hier->here + ((uint64_t)j * hier->rail.size + h) * hier->block,
                   hier->block);
}

static void exchange_inside(struct hier *hier)
{
    uint32_t local = hier->node.size, nodes = hier->rail.size;
    uint64_t bytes = nodes * hier->block;

    hier->here = build_scratch(hier->builder, local * bytes).off;
    for (uint32_t d = 1; d < local; d++) {
        uint32_t to = (hier->node.me + d) % local;
        struct span pack = build_scratch(hier->builder, bytes);

        for (uint32_t h = 0; h < nodes; h++)
            build_copy(hier->builder, span_of(pack.buffer, pack.off + h * hier->block, hier->block),
                       block_of(hier, BUFFER_IN, rank_at(hier, h, to)));
        move_send(hier->builder, &hier->grain, team_rank(&hier->node, to), pack);
    }
    for (uint32_t d = 1; d < local; d++) {
        uint32_t from = (hier->node.me + local - d) % local;

        move_recv(hier->builder, &hier->grain, team_rank(&hier->node, from),
                  span_of(BUFFER_SCRATCH, hier->here + from * bytes, bytes));
    }
}

static void send_rail(struct hier *hier)
{
    uint32_t local = hier->node.size, nodes = hier->rail.size;

    for (uint32_t d = 1; d < nodes; d++) {
        uint32_t h = (hier->rail.me + d) % nodes;
        struct span pack = build_scratch(hier->builder, local * hier->block);

        for (uint32_t j = 0; j < local; j++)
            build_copy(hier->builder, span_of(pack.buffer, pack.off + j * hier->block, hier->block),
                       collected(hier, j, h));
        move_send(hier->builder, &hier->grain, team_rank(&hier->rail, h), pack);
    }
}

/* Everything that writes OUT, after all that reads IN: in place they are one. */
static void fill_out(struct hier *hier)
{
    uint32_t local = hier->node.size, nodes = hier->rail.size, mine = hier->rail.me;

    for (uint32_t j = 0; j < local; j++)
        build_copy(hier->builder, block_of(hier, BUFFER_OUT, rank_at(hier, mine, j)),
                   collected(hier, j, mine));
    for (uint32_t d = 1; d < nodes; d++) {
        uint32_t h = (mine + nodes - d) % nodes, peer = team_rank(&hier->rail, h);
        struct span land;

        if (consecutive(hier->shape->groups, h)) {
            move_recv(hier->builder, &hier->grain, peer,
                      span_of(BUFFER_OUT, rank_at(hier, h, 0) * hier->block, local * hier->block));
            continue;
        }
        land = build_scratch(hier->builder, local * hier->block);
        move_recv(hier->builder, &hier->grain, peer, land);
        for (uint32_t j = 0; j < local; j++)
            build_copy(hier->builder, block_of(hier, BUFFER_OUT, rank_at(hier, h, j)),
                       span_of(land.buffer, land.off + j * hier->block, hier->block));
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct hier hier = {.shape = shape,
                        .builder = builder,
                        .node = team_node(shape->groups, shape->rank),
                        .rail = team_rail(shape->groups, shape->rank),
                        .block = shape->count * shape->elem_size};

    hier.grain = grain_make(shape, knobs, 4 * shape->size * hier.block, 5 * (uint64_t)shape->size);
    exchange_inside(&hier);
    send_rail(&hier);
    fill_out(&hier);
}

const struct algorithm alltoall_hier = {
    .coll = TUTTI_COLL_ALLTOALL,
    .name = "hier",
    .source = "Traeff and Rougier 2014, section 3",
    .fits = fits,
    .needs = NEEDS_EQUAL_HOSTS,
    .cost = cost,
    .emit = emit,
};
