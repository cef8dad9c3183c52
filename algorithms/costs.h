/* costs.h: what communication patterns cost, per level, over the ranks of any groups.
 *
 * A pattern is given as a function that tells what one rank sends in which round, and what it
 * receives where that is not as much. A round costs the latency of its slowest link: it counts as a
 * NET round if any of its messages leaves a node. Bytes are those of the rank that sends most at
 * that level.
 *
 * Their time is another matter: a rank sends and receives at once, and the longer of the two
 * counts. Where several may read one rank's bytes at a time (link_model.readers), a share of what
 * is sent; on a core that ranks share (link_model.crowd), also what the others there receive. */
#ifndef ALGORITHMS_COSTS_H
#define ALGORITHMS_COSTS_H

#include "algorithms/algorithm.h"

/* The cost formula applied to the shape's link model, microseconds; and the time that in it the
 * bytes of one level take, and what is done with them at a rank. */
double cost_us(const struct shape *shape, const struct cost *cost);
double cost_bytes_us(const struct shape *shape, const struct cost *cost, enum level level);
double cost_local_us(const struct shape *shape, const struct cost *cost);

#define COST_RANKS_MAX  4096 /* ranks looked at; larger worlds repeat what these show */
#define COST_ROUNDS_MAX 64   /* rounds of a log-step pattern */

struct tally {
    const struct shape *shape;
    uint32_t rank;
    double sent[LEVEL_COUNT], sends[LEVEL_COUNT], received[LEVEL_COUNT], receives[LEVEL_COUNT];
    uint64_t used, crossing; /* rounds, as bits */
};
/* tally->rank sends `bytes` to peer (mod size) in that round; empty messages vanish. */
void tally_send(struct tally *tally, uint32_t round, uint32_t peer, double bytes);
/* Patterns in which every rank receives as much as it sends need not tell. */
void tally_recv(struct tally *tally, uint32_t peer, double bytes);
typedef void tally_fn(struct tally *tally, const void *context);

/* What the trees from or to a root send. Binomial trees: context is a struct tree_load. */
struct tree_load {
    double bytes;
    bool per_rank; /* of each rank of the subtree a message is from or for, not of every message */
};
void tally_binomial_down(struct tally *tally, const void *context);
void tally_binomial_up(struct tally *tally, const void *context);
/* The root sends everybody, or receives from everybody, *(const double *)context bytes. */
void tally_flat_down(struct tally *tally, const void *context);
void tally_flat_up(struct tally *tally, const void *context);

/* Adds the pattern's rounds and bytes to cost. */
void cost_pattern(const struct shape *shape, tally_fn *pattern, const void *context,
                  struct cost *cost);

/* Adds: every rank sends `bytes` to every other, all at once. */
void cost_exchange_all(const struct shape *shape, double bytes, struct cost *cost);
/* Adds: `rounds` rounds in each of which every rank sends to its successor; bytes in all. */
void cost_ring(const struct shape *shape, uint32_t rounds, double bytes, struct cost *cost);
/* Adds: the circulant reduce-scatter or allgather of `bytes` in all. */
void cost_circulant(const struct shape *shape, double bytes, struct cost *cost);
/* What cutting messages of len bytes (the longest) into pieces does, called when the bytes are
 * known: more messages; a pipeline of `stages` further ranks that fills with one piece each; and
 * pieces that leave the cache between landing and reduction are read from memory once more. */
void cost_pieces(const struct shape *shape, const struct knobs *knobs, double len, uint32_t stages,
                 struct cost *cost);
/* The bytes go in so many pieces, all but one of which are inside nodes while others are between
 * them: the shorter way is hidden. Called last. */
void cost_hide(const struct shape *shape, double pieces, struct cost *cost);
/* Of a tree without cut messages: the ranks between the first that sends and the last that
 * receives, through which a pipeline's first piece must go. */
uint32_t cost_stages(const struct cost *cost);
/* The bytes of the buffer that is cut into blocks (allreduce: the vector), 0 where counts are
 * local; with this many of them in the largest block. */
double cost_total(const struct shape *shape);
double cost_largest_block(const struct shape *shape);
double cost_all_but_smallest(const struct shape *shape); /* what a ring's busiest rank passes on */
uint32_t cost_largest_node(const struct shape *shape);
/* The level at which a message among all ranks travels at worst. */
enum level cost_worst_level(const struct shape *shape);

#endif
