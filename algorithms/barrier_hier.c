/* barrier_hier.c: the ranks of a node report to the first of them, the first ranks disseminate
 * among nodes, then release their nodes: the network is crossed as seldom as there are nodes to
 * ask.
 *
 * Cost, N nodes: 2 rounds inside, ceil(log2 N) between; L - 1 bytes from a leader to its node.
 * The leader's rounds are ordered by bytes as in barrier_dissemination.c. What its node reported is
 * copied over byte 2, which every receive writes, and over what the first round sends: so neither
 * a send nor a receive among leaders comes before the node is complete.
 *
 *     byte      0   1   2   3   4
 *     copy              [------------ reports
 *     receive       [0,2,..]            even rounds
 *                       [1,3,..]        odd rounds
 *     send      [1,3,..]   [0,2,..]
 *     release           [-]
 *
 * Source: Hensgen, Finkel and Manber 1988, section 3, among leaders; Mellor-Crummey and Scott 1991,
 * section 3, inside. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

#define REPORTS_MIN 3 /* bytes: the copy must cover bytes 2 to 4 */

static bool fits(const struct shape *shape)
{
    const struct groups *groups = shape->groups;

    return groups->nodes > 1 && groups->nodes < groups->size &&
           grain_fits(3 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    uint32_t local = cost_largest_node(shape) - 1, rounds = ceil_log2(shape->groups->nodes);

    *out = (struct cost){.copy_bytes = (double)most(local, REPORTS_MIN)};
    out->rounds[LEVEL_NODE] = 2;
    out->rounds[LEVEL_NET] = rounds;
    out->messages[LEVEL_NODE] = 2.0 * local;
    out->bytes[LEVEL_NODE] = local;
    out->bytes[LEVEL_NET] = out->host_bytes = 2.0 * rounds;
}

/* The leaders' rounds over the window of bytes at base. */
static void disseminate(struct builder *builder, const struct shape *shape, uint64_t base)
{
    const struct groups *groups = shape->groups;
    uint32_t n = groups->nodes, me = groups->node_of[shape->rank];

    for (uint32_t k = 0; k < ceil_log2(n); k++) {
        uint32_t skip = 1u << k, to = (me + skip) % n, from = (me + n - skip) % n;

        build_send(builder, groups->members[groups->first[to]], 0,
                   span_of(BUFFER_SCRATCH, base + (k % 2 ? 0 : 3), 2));
        build_recv(builder, groups->members[groups->first[from]], 0,
                   span_of(BUFFER_SCRATCH, base + (k % 2 ? 2 : 1), 2));
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team node = team_node(shape->groups, shape->rank);
    uint32_t reports = (uint32_t)most(node.size - 1, REPORTS_MIN);
    uint64_t base = build_scratch(builder, 2 + reports).off;
    struct span report = build_scratch(builder, reports);

    if (node.me != 0) {
        build_send(builder, team_rank(&node, 0), 0, span_of(BUFFER_SCRATCH, base, 1));
        build_recv(builder, team_rank(&node, 0), 0, span_of(BUFFER_SCRATCH, base + 2, 1));
        return;
    }
    for (uint32_t i = 1; i < node.size; i++)
        build_recv(builder, team_rank(&node, i), 0, span_of(report.buffer, report.off + i - 1, 1));
    if (node.size > 1)
        build_copy(builder, span_of(BUFFER_SCRATCH, base + 2, reports), report);
    disseminate(builder, shape, base);
    for (uint32_t i = 1; i < node.size; i++)
        build_send(builder, team_rank(&node, i), 0, span_of(BUFFER_SCRATCH, base + 2, 1));
}

const struct algorithm barrier_hier = {
    .coll = TUTTI_COLL_BARRIER,
    .name = "hier",
    .source = "Hensgen, Finkel and Manber 1988, section 3",
    .fits = fits,
    .needs = "several hosts and more ranks than hosts",
    .cost = cost,
    .emit = emit,
};
