/* allreduce_hier.c: for nodes of equal size: reduce-scatter inside the node, so that local rank i
 * holds the node's sum of part i; allreduce of part i among the ranks i of all nodes (a rail);
 * allgather inside the node. Every rank uses its own way out of the node, for 1/L of the bytes.
 *
 * Cost, N nodes of L ranks: inside 2 rounds, (L - 1)/L B each way (direct); between nodes
 * 2 ceil(log2 N) rounds of a circulant allreduce of B/L: 2 (N - 1)/N B/L sent. Reduced
 * (L - 1)/L B + (N - 1)/N B/L.
 * The vector goes in slabs, one stage apart: slab s is scattered while s - 1 is on the rail and
 * s - 2 is gathered, on every rank in this order, so that links inside a node never stand waiting
 * for the network.
 * Source: Jia et al., "Highly scalable deep learning training system with mixed-precision"
 * (2018), section 3.3 (hierarchical allreduce); rail form as in Cho et al., "BlueConnect" (MLSys
 * 2019), section 4. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

#define SLABS_MAX 64 /* more would not hide more latency and cost steps */

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->uniform && groups->nodes > 1 && groups->nodes < groups->size &&
           grain_fits((uint64_t)SLABS_MAX *
                      (5 * (shape->size / groups->nodes) + 20 * ceil_log2(groups->nodes)));
}

static uint32_t slab_count(const struct knobs *knobs, uint64_t bytes, uint32_t local)
{
    return (uint32_t)most(1, least(SLABS_MAX, bytes / knobs->chunk_bytes / local));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape), nodes = shape->groups->nodes, local = shape->size / nodes;
    double inside = (local - 1) / local * bytes, rail = (nodes - 1) / nodes * bytes / local;

    *out = (struct cost){.reduce_bytes = inside + rail};
    if (bytes <= 0)
        return;
    out->rounds[LEVEL_NODE] = 2;
    out->rounds[LEVEL_NET] = 2 * ceil_log2(shape->groups->nodes);
    out->messages[LEVEL_NODE] = 2 * (local - 1);
    out->bytes[LEVEL_NODE] = 2 * inside;
    out->bytes[LEVEL_NET] = 2 * rail;
    out->host_bytes = local * out->bytes[LEVEL_NET];
    uint32_t slabs = slab_count(knobs, (uint64_t)bytes, (uint32_t)local);

    out->messages[LEVEL_NODE] *= slabs;
    out->messages[LEVEL_NET] = slabs * out->rounds[LEVEL_NET];
    cost_hide(shape, slabs, out);
}

struct stage {
    struct team node, rail;
    struct grain grain;
    struct home in, out;
};

static void run_stage(struct builder *builder, const struct shape *shape, const struct stage *stage,
                      uint32_t which, struct block slab)
{
    struct cut node = cut_even(shape, slab.off, slab.len, stage->node.size);
    struct block part = cut_block(&node, stage->node.me);
    struct cut rail = cut_even(shape, part.off, part.len, stage->rail.size);

    if (which == 0) {
        phase_reduce_scatter_direct(builder, &stage->node, &stage->grain, &node, &stage->in,
                                    &stage->out);
    } else if (which == 1) {
        phase_reduce_scatter_circulant(builder, &stage->rail, &stage->grain, &rail, &stage->out,
                                       &stage->out, &stage->out);
        phase_allgather_circulant(builder, &stage->rail, &stage->grain, &rail, &stage->out,
                                  &stage->out);
    } else {
        phase_allgather_direct(builder, &stage->node, &stage->grain, &node, &stage->out,
                               &stage->out);
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct stage stage = {.node = team_node(shape->groups, shape->rank),
                          .rail = team_rail(shape->groups, shape->rank),
                          .in = home_whole(BUFFER_IN),
                          .out = home_whole(BUFFER_OUT)};
    uint32_t slabs =
        (uint32_t)most(1, least(SLABS_MAX, bytes / knobs->chunk_bytes / stage.node.size));

    stage.grain =
        grain_make(shape, knobs, 10 * bytes,
                   (uint64_t)slabs * (5 * stage.node.size + 20 * ceil_log2(stage.rail.size)));
    for (uint32_t time = 0; time < slabs + 2; time++)
        for (uint32_t which = 0; which < 3; which++)
            if (time >= which && time - which < slabs)
                run_stage(builder, shape, &stage, which,
                          cut_evenly(bytes, shape->elem_size, slabs, time - which));
}

const struct algorithm allreduce_hier = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "hier",
    .source = "Jia et al. 2018, section 3.3; Cho et al. 2019, section 4",
    .fits = fits,
    .needs = NEEDS_EQUAL_HOSTS,
    .cost = cost,
    .emit = emit,
};
