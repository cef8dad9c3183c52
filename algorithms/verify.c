/* verify.c: the proof of a plan, in the order in which its parts rest on each other. See verify.h.
 */
#include "algorithms/verify.h"

#include <stdlib.h>

static tutti_status verify_graph(const struct graph *graph, uint64_t seed, struct proof *proof)
{
    uint32_t *order = malloc((graph->steps + 1u) * sizeof *order);
    if (!order)
        return fail(TUTTI_ERR_NOMEM, "no memory to order %u steps", graph->steps);
    struct proof measured;
    tutti_status status = graph_order(graph, seed, order);
    if (status == TUTTI_OK && graph->world->shapes[0].coll == TUTTI_COLL_BARRIER)
        status = verify_barrier(graph, order);
    else if (status == TUTTI_OK)
        status = verify_result(graph, order);
    if (status == TUTTI_OK)
        status = graph_measure(graph, order, &measured);
    if (status == TUTTI_OK)
        *proof = measured;
    free(order);
    return status;
}

tutti_status verify_world(const struct world *world, uint64_t seed, struct proof *proof)
{
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < world->size && status == TUTTI_OK; r++) {
        status = schedule_check(world->programs[r], &world->shapes[r]);
        if (status == TUTTI_OK)
            status = verify_races(world->programs[r], &world->shapes[r]);
    }
    if (status != TUTTI_OK)
        return status;
    struct graph graph;
    status = graph_make(world, &graph);
    if (status != TUTTI_OK)
        return status;
    status = verify_graph(&graph, seed, proof);
    graph_free(&graph);
    return status;
}
