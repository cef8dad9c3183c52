/* graph.h: all ranks' programs of one call as one graph: what has to happen before what.
 *
 * Each matched send and receive, and the reduction that the receive carries out, are one node: see
 * graph.c for why that proves that no transport can deadlock a plan. Pure. */
#ifndef ALGORITHMS_GRAPH_H
#define ALGORITHMS_GRAPH_H

#include "algorithms/world.h"

/* What was proved about, and what it takes. */
struct proof {
    uint64_t steps, messages;
    /* Flights one after the other, where a receive is one flight after its send and nothing else
     * takes time: in all, and at most those of one level. */
    uint32_t flights, flights_at[LEVEL_COUNT];
    /* Of the busiest rank: bytes sent at each level, reduced, copied; and its steps. */
    uint64_t bytes[LEVEL_COUNT], reduce_bytes, copy_bytes;
    uint64_t host_bytes; /* between nodes, sent or received by the ranks of the busiest node */
    uint32_t busiest_steps;
};

/* The merged graph. A step of a rank has the number base[rank] + step; a node has the number of
 * its local step or of its receive. */
struct graph {
    const struct world *world;
    uint32_t *base;    /* [size + 1] */
    uint32_t *rank_of; /* [steps] */
    uint32_t *node;    /* [steps] the node that the step belongs to */
    uint32_t *send;    /* [steps] of a receive: the matched send; else STEP_NONE */
    uint32_t *next;    /* [steps] of a receive: the next one of its link; else STEP_NONE */
    uint32_t *first;   /* [steps + 1] edges of a node: edges[first[node] .. first[node + 1]) */
    uint32_t *edges;   /* to nodes */
    uint32_t steps, nodes, messages;
};
/* Checks Match. */
tutti_status graph_make(const struct world *world, struct graph *graph);
void graph_free(struct graph *graph);
const struct step *graph_step(const struct graph *graph, uint32_t number);
/* All nodes in a random order that the edges allow; checks Deadlock. order has [steps]. */
tutti_status graph_order(const struct graph *graph, uint64_t seed, uint32_t *order);
tutti_status graph_measure(const struct graph *graph, const uint32_t *order, struct proof *proof);
/* Flights one after the other if every rank had one port: its sends leave one per flight, in
 * program order. */
tutti_status graph_port_flights(const struct graph *graph, uint32_t *flights);

#endif
