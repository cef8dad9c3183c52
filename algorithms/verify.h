/* verify.h: proves a plan, all ranks' programs together, before anything runs.
 *
 * Match     on every link both sides have equally many transfers, of the same lengths.
 * Races     no two steps of one rank of which one writes a byte that the other touches may run in
 *           either order: every legal order gives what program order gives.
 * Deadlock  merge each matched send and receive (and the reduction the receive carries out) into
 *           one node; add every program's edges, and from each transfer to the next of its link and
 *           direction. No cycle: then no transport can deadlock the plan, even one that holds a
 *           single transfer per link and none until both sides have come.
 * Result    the programs run on symbols, in a random legal order: an input byte is (rank, offset),
 *           a reduction the ordered pair of what it reduced. At the end every byte of OUT has the
 *           value that coll_postcondition names, no rank twice; all ranks of an allreduce have the
 *           same expression, so the same bits; nothing else that the caller owns has changed, and
 *           nothing was read that was not written. A barrier moves no values: every rank must learn
 *           of every other rank's entry instead. */
#ifndef ALGORITHMS_VERIFY_H
#define ALGORITHMS_VERIFY_H

#include "algorithms/graph.h"

/* TUTTI_ERR_INTERNAL with the rank, the step and the broken fact. seed: for the order. */
tutti_status verify_world(const struct world *world, uint64_t seed, struct proof *proof);

/* ---- the parts ----------------------------------------------------------------------------- */

tutti_status verify_races(const struct schedule *schedule, const struct shape *shape);
tutti_status verify_result(const struct graph *graph, const uint32_t *order);
tutti_status verify_barrier(const struct graph *graph, const uint32_t *order);

/* Where a span lies when IN and OUT may be one memory: the buffer that stands for the memory, and
 * the offset in it. */
struct span verify_place(const struct shape *shape, struct span span);

#endif
