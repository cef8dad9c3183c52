/* reduce.h: dst[i] = a[i] op b[i], for every operation and type, vectorised, chosen once by CPU.
 *
 * dst may be a or b exactly; other overlaps are not allowed. Operand order matters for bits (NaN
 * payloads) and shows in users' functions; the plan fixes it, and promises nothing about ranks. */
#ifndef MEM_REDUCE_H
#define MEM_REDUCE_H

#include "base/status.h"

typedef void reduce_kernel_fn(void *dst, const void *a, const void *b, size_t count);

/* A reduction ready to be applied: bound once per operation, then borrowed by transports. */
struct reducer {
    reduce_kernel_fn *kernel; /* NULL for a user's function */
    tutti_reduce_fn *function;
    void *context;
    tutti_dtype dtype;
    uint32_t elem_size;
};

/* NULL when the operation does not fit the type (bitwise on floats). AVG gives SUM's kernel. */
reduce_kernel_fn *reduce_kernel(tutti_op op, tutti_dtype dtype);

/* bytes must be a multiple of elem_size. */
void reduce_apply(const struct reducer *reducer, void *dst, const void *a, const void *b,
                  size_t bytes);

/* The same with stores that go past the caches: for a part of a whole that outgrows them, where dst
 * is neither a nor b, since its lines need not be read first; and for lines that are dear to write.
 */
void reduce_stream(const struct reducer *reducer, void *dst, const void *a, const void *b,
                   size_t bytes);

/* dst = src * scalar (one element of dtype, at scalar); dst may be src. */
void reduce_scale(tutti_dtype dtype, void *dst, const void *src, const void *scalar, size_t count);
/* dst = dst / ranks, for TUTTI_AVG: integers truncate toward zero, floats round once. */
void reduce_divide(tutti_dtype dtype, void *dst, uint32_t ranks, size_t count);

/* The name of the kernel set in use ("avx512", "avx2", "baseline"). */
const char *reduce_variant(void);

#endif
