/* horrible_reduce.h: what each operation does to one element of each type, slowly, sharing no code
 * with what is tested; and the elements to try it on. An element is a number of its size's bits. */
#ifndef TESTS_HORRIBLE_REDUCE_H
#define TESTS_HORRIBLE_REDUCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* dst = a op b. AVG is SUM's part of it. */
uint64_t horrible_op(tutti_op op, tutti_dtype dtype, uint64_t a, uint64_t b);
/* dst = a / ranks: integers truncate toward zero. */
uint64_t horrible_divide(tutti_dtype dtype, uint64_t a, uint32_t ranks);

uint64_t element_load(const void *at, size_t size);
bool element_is_nan(tutti_dtype dtype, uint64_t x);
/* Equal bits, or two NaNs. */
bool element_same(tutti_dtype dtype, uint64_t x, uint64_t expected);
/* Random bits are rarely interesting: half of the elements come from the edges of the type. */
uint64_t element_random(tutti_dtype dtype, uint64_t *state);
void element_fill(tutti_dtype dtype, void *at, size_t count, uint64_t *state);

/* ---- how floats are laid out ----------------------------------------------------------------- */

struct horrible_layout {
    int bits, mantissa, bias;
    bool infinite; /* has infinities; otherwise the largest magnitude is the only NaN */
};

struct horrible_layout horrible_layout_of(tutti_dtype dtype);
/* The lowest magnitude that is not a finite number. */
uint64_t horrible_unfinite(struct horrible_layout l);
double horrible_decode(struct horrible_layout l, uint64_t x);
/* The nearest value of at most 16 bits, ties to the even one. What would come after the largest
 * finite value stands for overflow: infinity, or the largest again if there is none. */
uint64_t horrible_encode(struct horrible_layout l, double value);

#endif
