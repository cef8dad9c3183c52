/* reduce_one.h: what each operation does to one element of each type; included by the CPU's kernels
 * (reduce_kernels.c) and by the GPU's (mem_cuda_reduce.cu), so that both give the same bits.
 *
 * ONES_##class(name, bytes) defines, for a line of TUTTI_DTYPE_LIST, the type name##_element and
 * the functions sum_one_name, prod_one_name, min_one_name, ... of two elements, and
 * quotient_name(x, n) with n in the type name##_divisor. All are without branches. Integers wrap.
 * min and max of floats choose by value, then -0 < +0, and give one canonical NaN if either is NaN:
 * the same bits for either order of the operands. Small floats are computed in float32 and rounded
 * once. */
#ifndef MEM_REDUCE_ONE_H
#define MEM_REDUCE_ONE_H

#include "mem/small_float.h"

#define ONE(op, name, type, expression)                                                            \
    SMALL_INLINE type op##_one_##name(type a, type b)                                              \
    {                                                                                              \
        return (type)(expression);                                                                 \
    }

#define QUOTIENT(name, type, divisor, expression)                                                  \
    typedef type name##_element;                                                                   \
    typedef divisor name##_divisor;                                                                \
    SMALL_INLINE type quotient_##name(type x, divisor n)                                           \
    {                                                                                              \
        return (type)(expression);                                                                 \
    }

/* ---- integers ------------------------------------------------------------------------------- */

/* 1u makes narrow operands unsigned before they are promoted to int, which could overflow. */
#define INTEGER_ONES(name, type, unsigned_type, divisor)                                           \
    ONE(sum, name, type, 1u * (unsigned_type)a + (unsigned_type)b)                                 \
    ONE(prod, name, type, 1u * (unsigned_type)a * (unsigned_type)b)                                \
    ONE(min, name, type, a < b ? a : b)                                                            \
    ONE(max, name, type, a > b ? a : b)                                                            \
    ONE(band, name, type, a &b)                                                                    \
    ONE(bor, name, type, a | b)                                                                    \
    ONE(bxor, name, type, a ^ b)                                                                   \
    QUOTIENT(name, type, divisor, x / n)

/* There are no vector integer divisions. A quotient of floats truncates to the same integer while
 * the rounding error, 2^-24 or 2^-53 of it, is less than the distance to the next integer, which
 * is at least 2^-16 or 2^-32 of it. */
#define DIVISOR_1(type) float
#define DIVISOR_2(type) float
#define DIVISOR_4(type) double
#define DIVISOR_8(type) type

#define ONES_INT(name, bytes)  INTEGER_ONES(name, name##_t, u##name##_t, DIVISOR_##bytes(name##_t))
#define ONES_UINT(name, bytes) INTEGER_ONES(name, name##_t, name##_t, DIVISOR_##bytes(name##_t))

/* ---- floats --------------------------------------------------------------------------------- */

/* Equal values have equal bits except the two zeros: OR prefers -0, AND prefers +0. */
#define CHOOSE(op, name, type, image, less, merge, nan)                                            \
    SMALL_INLINE type op##_one_##name(type a, type b)                                              \
    {                                                                                              \
        image x, y, r;                                                                             \
        type chosen = a less b ? a : b;                                                            \
        __builtin_memcpy(&x, &a, sizeof x);                                                        \
        __builtin_memcpy(&y, &b, sizeof y);                                                        \
        __builtin_memcpy(&r, &chosen, sizeof r);                                                   \
        r = a == b ? x merge y : r;                                                                \
        r = a != a || b != b ? nan : r;                                                            \
        __builtin_memcpy(&chosen, &r, sizeof chosen);                                              \
        return chosen;                                                                             \
    }

#define NATIVE_ONES(name, type, image, nan)                                                        \
    ONE(sum, name, type, a + b)                                                                    \
    ONE(prod, name, type, a *b)                                                                    \
    CHOOSE(min, name, type, image, <, |, nan)                                                      \
    CHOOSE(max, name, type, image, >, &, nan)                                                      \
    QUOTIENT(name, type, type, x / n)

/* Small floats are compared as integers: flipping the lower bits of negative ones makes the order
 * of the signed images the order of the values, -0 before +0. */
#define ORDER(op, name, type, image, less, infinity, nan)                                          \
    SMALL_INLINE type op##_one_##name(type a, type b)                                              \
    {                                                                                              \
        const type lower = (type)((type)~0u >> 1);                                                 \
        image x = (image)(a ^ ((image)a < 0 ? lower : 0));                                         \
        image y = (image)(b ^ ((image)b < 0 ? lower : 0));                                         \
        type chosen = x less y ? a : b;                                                            \
        type p = (type)(a & lower), q = (type)(b & lower);                                         \
        return (p > q ? p : q) > infinity ? nan : chosen;                                          \
    }

#define SMALL_ONES(name, type, image, infinity, nan)                                               \
    ONE(sum, name, type, name##_encode(name##_decode(a) + name##_decode(b)))                       \
    ONE(prod, name, type, name##_encode(name##_decode(a) * name##_decode(b)))                      \
    ORDER(min, name, type, image, <, infinity, nan)                                                \
    ORDER(max, name, type, image, >, infinity, nan)                                                \
    QUOTIENT(name, type, float, name##_encode(name##_decode(x) / n))

#define ONES_float32            NATIVE_ONES(float32, float, uint32_t, 0x7fc00000u)
#define ONES_float64            NATIVE_ONES(float64, double, uint64_t, 0x7ff8000000000000u)
#define ONES_float16            SMALL_ONES(float16, uint16_t, int16_t, 0x7c00, 0x7e00)
#define ONES_bfloat16           SMALL_ONES(bfloat16, uint16_t, int16_t, 0x7f80, 0x7fc0)
#define ONES_float8_e4m3        SMALL_ONES(float8_e4m3, uint8_t, int8_t, 0x7e, 0x7f)
#define ONES_float8_e5m2        SMALL_ONES(float8_e5m2, uint8_t, int8_t, 0x7c, 0x7e)
#define ONES_FLOAT(name, bytes) ONES_##name

#endif
