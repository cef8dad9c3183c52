/* reduce_kernels.c: dst[i] = a[i] op b[i] for every operation and type, in one CPU variant.
 *
 * The idea: an operation on one element is a small inline function without branches, a kernel is
 * the loop over it, and the compiler turns the loop into vector code with the instructions that
 * this compilation may use. Everything is generated from TUTTI_DTYPE_LIST; a type says only which
 * FORM it has (C integer, C float, small float). meson.build compiles this file once per variant
 * with REDUCE_VARIANT as the suffix of its one public symbol.
 *
 * Invariants: pointers may be unaligned and dst may be a or b exactly, but nothing else overlaps,
 * so that no iteration depends on another. Integers wrap. min and max of floats choose by value,
 * then -0 < +0, and give one canonical NaN if either is NaN: the same bits for either order. */
#include <stdbool.h>

#include "mem/reduce_one.h"
#include "mem/reduce_set.h"

#if defined(__F16C__)
#include "mem/reduce_half.h"
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b)  PASTE_(a, b)
#define TEXT_(a)     #a
#define TEXT(a)      TEXT_(a)

#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* How elements lie in buffers: at any address, seen through any type. */
#define STORED(type, name) typedef type name##_stored __attribute__((aligned(1), may_alias))

#define KERNEL(op, name)                                                                           \
    static void op##_##name(void *dst, const void *a, const void *b, size_t count)                 \
    {                                                                                              \
        name##_stored *d = dst;                                                                    \
        const name##_stored *x = a, *y = b;                                                        \
        INDEPENDENT for (size_t i = 0; i < count; i++) d[i] = op##_one_##name(x[i], y[i]);         \
    }

#define DIVIDE(name)                                                                               \
    static void divide_##name(void *dst, uint32_t ranks, size_t count)                             \
    {                                                                                              \
        name##_stored *d = dst;                                                                    \
        name##_divisor n = (name##_divisor)ranks;                                                  \
        INDEPENDENT for (size_t i = 0; i < count; i++) d[i] = quotient_##name(d[i], n);            \
    }

/* ---- integers and C's floats ---------------------------------------------------------------- */

#define KERNELS(name)                                                                              \
    STORED(name##_element, name);                                                                  \
    KERNEL(min, name)                                                                              \
    KERNEL(max, name)

#define ARITHMETIC(name)                                                                           \
    KERNEL(sum, name)                                                                              \
    KERNEL(prod, name)                                                                             \
    DIVIDE(name)

#define FORM_INT(name, bytes)  ONES_INT(name, bytes) KERNELS(name) ARITHMETIC(name) BITWISE(name)
#define FORM_UINT(name, bytes) ONES_UINT(name, bytes) KERNELS(name) ARITHMETIC(name) BITWISE(name)

#define BITWISE(name)                                                                              \
    KERNEL(band, name)                                                                             \
    KERNEL(bor, name)                                                                              \
    KERNEL(bxor, name)

/* ---- small floats --------------------------------------------------------------------------- */

#if defined(__F16C__)
#define ARITHMETIC_float16                                                                         \
    HALF_KERNEL(sum)                                                                               \
    HALF_KERNEL(prod)                                                                              \
    static void divide_float16(void *dst, uint32_t ranks, size_t count)                            \
    {                                                                                              \
        half_divide(dst, (float)ranks, count);                                                     \
    }

#define HALF_KERNEL(op)                                                                            \
    static void op##_float16(void *dst, const void *a, const void *b, size_t count)                \
    {                                                                                              \
        half_##op(dst, a, b, count);                                                               \
    }

/* Through blocks of float16 on the stack. */
#define BYTE_KERNEL(op, name, half_op)                                                             \
    static void op##_##name(void *dst, const void *a, const void *b, size_t count)                 \
    {                                                                                              \
        uint16_t x[HALF_BLOCK], y[HALF_BLOCK];                                                     \
        for (size_t done = 0; done < count;) {                                                     \
            size_t n = count - done < HALF_BLOCK ? count - done : HALF_BLOCK;                      \
            const name##_stored *p = (const name##_stored *)a + done;                              \
            const name##_stored *q = (const name##_stored *)b + done;                              \
            name##_stored *d = (name##_stored *)dst + done;                                        \
            for (size_t i = 0; i < n; i++) {                                                       \
                x[i] = name##_to_half(p[i]);                                                       \
                y[i] = name##_to_half(q[i]);                                                       \
            }                                                                                      \
            half_op(x, x, y, n);                                                                   \
            for (size_t i = 0; i < n; i++)                                                         \
                d[i] = name##_of_half(x[i]);                                                       \
            done += n;                                                                             \
        }                                                                                          \
    }

#define BYTE_ARITHMETIC(name, half_product)                                                        \
    BYTE_KERNEL(sum, name, half_sum)                                                               \
    BYTE_KERNEL(prod, name, half_product)                                                          \
    DIVIDE(name)
#define ARITHMETIC_float8_e4m3 BYTE_ARITHMETIC(float8_e4m3, half_prod_scaled)
#define ARITHMETIC_float8_e5m2 BYTE_ARITHMETIC(float8_e5m2, half_prod)
#else
#define ARITHMETIC_float16     ARITHMETIC(float16)
#define ARITHMETIC_float8_e4m3 ARITHMETIC(float8_e4m3)
#define ARITHMETIC_float8_e5m2 ARITHMETIC(float8_e5m2)
#endif
#define ARITHMETIC_bfloat16 ARITHMETIC(bfloat16)
#define ARITHMETIC_float32  ARITHMETIC(float32)
#define ARITHMETIC_float64  ARITHMETIC(float64)

#define FORM_FLOAT(name, bytes) ONES_FLOAT(name, bytes) KERNELS(name) ARITHMETIC_##name

/* ---- every type of the list ----------------------------------------------------------------- */

#define X(NAME, name, bytes, class) FORM_##class(name, bytes)
TUTTI_DTYPE_LIST(X)
#undef X

#define CELLS(name)                                                                                \
    [TUTTI_SUM] = sum_##name, [TUTTI_PROD] = prod_##name, [TUTTI_MIN] = min_##name,                \
    [TUTTI_MAX] = max_##name, [TUTTI_AVG] = sum_##name
#define CELLS_FLOAT(name) CELLS(name)
#define CELLS_INT(name)                                                                            \
    CELLS(name), [TUTTI_BAND] = band_##name, [TUTTI_BOR] = bor_##name, [TUTTI_BXOR] = bxor_##name
#define CELLS_UINT(name) CELLS_INT(name)

const struct reduce_set PASTE(reduce_set_, REDUCE_VARIANT) = {
    .name = TEXT(REDUCE_VARIANT),
#define X(NAME, name, bytes, class) [TUTTI_##NAME] = {CELLS_##class(name)},
    .kernels = {TUTTI_DTYPE_LIST(X)},
#undef X
#define X(NAME, name, bytes, class) [TUTTI_##NAME] = divide_##name,
    .divide = {TUTTI_DTYPE_LIST(X)},
#undef X
};
