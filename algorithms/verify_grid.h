/* verify_grid.h: which calls an algorithm is proved for, and the proof over all of them.
 *
 * The grid: rank counts x placements of ranks on nodes x counts {0, 1, n - 1, n, n + 1, large} x
 * variants, where a variant is a combination of in place or not (or some ranks only), root (first,
 * last, middle), element size, knobs (one piece, several pieces, several on two lanes) and, for v
 * forms, packed or scattered blocks. Small worlds get all variants, larger ones as many as asked
 * for, a different selection in every cell. */
#ifndef ALGORITHMS_VERIFY_GRID_H
#define ALGORITHMS_VERIFY_GRID_H

#include "algorithms/verify.h"

#define GRID_SENTENCE_MAX 256

struct grid {
    const uint32_t *ranks; /* [rank_count]; NULL: verify_ranks */
    uint32_t rank_count;
    const struct groups *groups; /* the only placement, if not NULL; ranks are then ignored */
    uint64_t effort;             /* steps to be spent on a (ranks, placement) of an algorithm,
                                    about: more is more variants; 0: all of them */
    uint64_t seed;
};

/* 1..17, 31, 32, 33, 48, 64 */
extern const uint32_t verify_ranks[];
extern const uint32_t verify_rank_count;

struct grid_sum {
    uint64_t plans, steps, messages;
    uint64_t costs;   /* plans whose cost formula was compared */
    uint32_t shapes;  /* (ranks, placement) it fits */
    uint32_t unfit;   /* and those it does not */
    uint32_t largest; /* steps of the largest program */
};

/* Adds to sum. The sentence of a failure begins with the call that shows it. */
tutti_status verify_algorithm(const struct algorithm *algorithm, const struct grid *grid,
                              struct grid_sum *sum);

/* ---- the parts ---------------------------------------------------------------------------------
 */

/* The number of placements of `size` ranks, and placement i. */
uint32_t verify_placements(uint32_t size);
tutti_status verify_placement(uint32_t size, uint32_t i, struct groups *groups);
/* The count of cell i < VERIFY_COUNTS. */
#define VERIFY_COUNTS 6
uint64_t verify_count(uint32_t size, uint32_t i);
/* Variant i < VERIFY_VARIANTS of a trial whose collective, groups and count are set. */
#define VERIFY_VARIANTS 108
void verify_variant(struct trial *trial, uint32_t i, struct knobs *knobs);
size_t verify_describe(const struct trial *trial, const struct knobs *knobs, char *text,
                       size_t len);

/* Do rounds and bytes of the simulated plan agree with the cost formula? See verify_cost.c. */
tutti_status verify_cost(const struct world *world, const struct algorithm *algorithm,
                         const struct knobs *knobs, const struct proof *proof);

#endif
