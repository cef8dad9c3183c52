/* verify_cost.c: does the cost formula say what the simulated plan does?
 *
 * Rounds. Let a receive come one flight after its send, let everything else take no time, and let a
 * rank send as much at once as it likes: no plan is done sooner than that many flights. Let instead
 * each rank have one port, over which its sends leave one per flight in program order: that is what
 * a plan needs at worst. A formula's rounds, all levels together, lie between the two, whatever the
 * chunk and the lanes: direct algorithms count the lower bound (one), log-step algorithms of odd
 * sizes the upper. A round with messages of both levels counts for the slower one, so the rounds
 * between nodes are at least the flights between nodes.
 * Where messages are empty (fewer elements than ranks, a zero count in a v form) the plan may take
 * less than the formula says.
 *
 * Bytes sent at each level, by the ranks of a node together between nodes, reduced, and copied
 * (where no rank is in place; what one rank may know alone a formula must not use), each of its
 * busiest rank, are exact where all blocks have one length. Whether the blocks of a v form lie back
 * to back each rank knows alone, too: formulas say what is copied where they do not. Where a vector
 * is cut into nearly equal blocks formulas calculate with fractions of elements: each step of the
 * busiest rank may differ by CUT_SLACK_ELEMS whole elements. A formula that adds the busiest ranks
 * of two phases, which may be two ranks, is named in `sums_of_phases`: it may say up to twice what
 * the plan sends at a level. Formulas of v forms with unequal counts estimate, and those of forms
 * whose counts are local know no counts at all: their bytes are not compared. */
#include <stdio.h>
#include <string.h>

#include "algorithms/phases.h"
#include "algorithms/verify_grid.h"

/* A run of blocks [i, j) of an even cut is less than one element longer or shorter than its share;
 * a run that wraps round is two. */
#define CUT_SLACK_ELEMS 2

static const struct {
    tutti_coll coll;
    const char *name;
} sums_of_phases[] = {
    /* Ranks that send far in one phase send near in the other. */
    {TUTTI_COLL_ALLREDUCE, "circulant"},
    {TUTTI_COLL_REDUCE, "rsgather"},
};

static bool is_sum_of_phases(const struct algorithm *algorithm)
{
    for (size_t i = 0; i < sizeof sums_of_phases / sizeof *sums_of_phases; i++) {
        if (sums_of_phases[i].coll == algorithm->coll &&
            strcmp(sums_of_phases[i].name, algorithm->name) == 0)
            return true;
    }
    return false;
}

static tutti_status differs(const struct world *world, const struct algorithm *algorithm,
                            const char *what, double formula, const char *plan)
{
    return fail(TUTTI_ERR_INTERNAL, "%s:%s: the formula says %g %s, the plan %s",
                coll_name(world->shapes[0].coll), algorithm->name, formula, what, plan);
}

static bool all_messages_full(const struct world *world)
{
    const struct shape *shape = &world->shapes[0];
    for (uint32_t r = 0; r < world->size; r++) {
        const uint64_t *counts = world->shapes[r].counts;
        for (uint32_t i = 0; counts && i < world->size; i++) {
            if (counts[i] == 0)
                return false;
        }
    }
    return coll_info(shape->coll)->is_v || shape->coll == TUTTI_COLL_BARRIER ||
           shape->count >= shape->size;
}

static tutti_status verify_rounds(const struct world *world, const struct algorithm *algorithm,
                                  const struct cost *cost, const struct proof *proof)
{
    char plan[64];
    double rounds = cost->rounds[LEVEL_NODE] + cost->rounds[LEVEL_NET];
    if (rounds < proof->flights || cost->rounds[LEVEL_NET] < proof->flights_at[LEVEL_NET]) {
        snprintf(plan, sizeof plan, "takes %u, %u of them between nodes", proof->flights,
                 proof->flights_at[LEVEL_NET]);
        return differs(world, algorithm, "rounds", rounds, plan);
    }
    if (rounds == proof->flights || !all_messages_full(world))
        return TUTTI_OK;
    struct graph graph;
    uint32_t most = 0;
    tutti_status status = graph_make(world, &graph);
    if (status != TUTTI_OK)
        return status;
    status = graph_port_flights(&graph, &most);
    graph_free(&graph);
    if (status == TUTTI_OK && rounds > most) {
        snprintf(plan, sizeof plan, "takes %u to %u", proof->flights, most);
        status = differs(world, algorithm, "rounds", rounds, plan);
    }
    return status;
}

static tutti_status near(const struct world *world, const struct algorithm *algorithm,
                         const char *what, double formula, uint64_t plan, double slack)
{
    double most = is_sum_of_phases(algorithm) ? 2.0 * (double)plan : (double)plan;
    if (formula >= (double)plan - slack - 1e-9 * formula &&
        formula <= most + slack + 1e-9 * formula)
        return TUTTI_OK;
    char text[64];
    snprintf(text, sizeof text, "%llu", (unsigned long long)plan);
    return differs(world, algorithm, what, formula, text);
}

static uint32_t largest_node(const struct groups *groups)
{
    uint32_t largest = 0;
    for (uint32_t k = 0; k < groups->nodes; k++) {
        uint32_t members = groups->first[k + 1] - groups->first[k];
        largest = members > largest ? members : largest;
    }
    return largest;
}

static tutti_status verify_bytes(const struct world *world, const struct algorithm *algorithm,
                                 const struct cost *cost, const struct proof *proof)
{
    const struct shape *shape = &world->shapes[0];
    bool cut = shape->coll == TUTTI_COLL_ALLREDUCE || shape->coll == TUTTI_COLL_BROADCAST ||
               shape->coll == TUTTI_COLL_REDUCE;
    double slack =
        cut ? (double)CUT_SLACK_ELEMS * shape->elem_size * (proof->busiest_steps + 1) : 0;
    tutti_status status = near(world, algorithm, "bytes sent inside nodes", cost->bytes[LEVEL_NODE],
                               proof->bytes[LEVEL_NODE], slack);
    if (status == TUTTI_OK)
        status = near(world, algorithm, "bytes sent between nodes", cost->bytes[LEVEL_NET],
                      proof->bytes[LEVEL_NET], slack);
    if (status == TUTTI_OK)
        status = near(world, algorithm, "bytes between nodes of one", cost->host_bytes,
                      proof->host_bytes, slack * largest_node(shape->groups));
    if (status == TUTTI_OK)
        status =
            near(world, algorithm, "bytes reduced", cost->reduce_bytes, proof->reduce_bytes, slack);
    bool packed = true;
    for (uint32_t r = 0; r < world->size; r++) {
        struct cut own = cut_of_shape(&world->shapes[r]);
        packed = packed && cut_is_packed(&own);
        if (world->shapes[r].in_place)
            return status;
    }
    bool spared =
        packed && coll_info(shape->coll)->is_v && cost->copy_bytes > (double)proof->copy_bytes;
    if (status == TUTTI_OK && !spared)
        status = near(world, algorithm, "bytes copied", cost->copy_bytes, proof->copy_bytes, slack);
    return status;
}

static bool equal_counts(const struct shape *shape)
{
    for (uint32_t i = 1; shape->counts && i < shape->size; i++) {
        if (shape->counts[i] != shape->counts[0])
            return false;
    }
    return !shape->local_counts;
}

tutti_status verify_cost(const struct world *world, const struct algorithm *algorithm,
                         const struct knobs *knobs, const struct proof *proof)
{
    struct cost cost = {0};
    algorithm->cost(&world->shapes[0], knobs, &cost);
    tutti_status status = verify_rounds(world, algorithm, &cost, proof);
    if (status == TUTTI_OK && equal_counts(&world->shapes[0]))
        status = verify_bytes(world, algorithm, &cost, proof);
    return status;
}
