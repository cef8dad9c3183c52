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

#include "mem/reduce_set.h"
#include "mem/small_float.h"

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

/* quotient(x) is the element x divided by n, the number of ranks in the type `divisor`. */
#define DIVIDE(name, divisor, quotient)                                                            \
    static void divide_##name(void *dst, uint32_t ranks, size_t count)                             \
    {                                                                                              \
        name##_stored *d = dst;                                                                    \
        divisor n = (divisor)ranks;                                                                \
        INDEPENDENT for (size_t i = 0; i < count; i++) d[i] = quotient(d[i]);                      \
    }

/* ---- integers ------------------------------------------------------------------------------- */

#define ONE(op, name, type, expression)                                                            \
    SMALL_INLINE type op##_one_##name(type a, type b)                                              \
    {                                                                                              \
        return (type)(expression);                                                                 \
    }

/* 1u makes narrow operands unsigned before they are promoted to int, which could overflow. */
#define INTEGER_FORM(name, type, unsigned_type, quotient_type)                                     \
    STORED(type, name);                                                                            \
    ONE(sum, name, type, 1u * (unsigned_type)a + (unsigned_type)b)                                 \
    ONE(prod, name, type, 1u * (unsigned_type)a * (unsigned_type)b)                                \
    ONE(min, name, type, a < b ? a : b)                                                            \
    ONE(max, name, type, a > b ? a : b)                                                            \
    ONE(band, name, type, a &b)                                                                    \
    ONE(bor, name, type, a | b)                                                                    \
    ONE(bxor, name, type, a ^ b)                                                                   \
    KERNEL(sum, name)                                                                              \
    KERNEL(prod, name)                                                                             \
    KERNEL(min, name)                                                                              \
    KERNEL(max, name)                                                                              \
    KERNEL(band, name)                                                                             \
    KERNEL(bor, name)                                                                              \
    KERNEL(bxor, name)                                                                             \
    DIVIDE(name, quotient_type, (type)n_th)

/* There are no vector integer divisions. A quotient of floats truncates to the same integer while
 * the rounding error, 2^-24 or 2^-53 of it, is less than the distance to the next integer, which
 * is at least 2^-16 or 2^-32 of it. */
#define QUOTIENT_1(type) float
#define QUOTIENT_2(type) float
#define QUOTIENT_4(type) double
#define QUOTIENT_8(type) type
#define n_th(x)          (x / n)

#define FORM_INT(name, bytes)  INTEGER_FORM(name, name##_t, u##name##_t, QUOTIENT_##bytes(name##_t))
#define FORM_UINT(name, bytes) INTEGER_FORM(name, name##_t, name##_t, QUOTIENT_##bytes(name##_t))

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

#define NATIVE_FORM(name, type, image, nan)                                                        \
    STORED(type, name);                                                                            \
    ONE(sum, name, type, a + b)                                                                    \
    ONE(prod, name, type, a *b)                                                                    \
    CHOOSE(min, name, type, image, <, |, nan)                                                      \
    CHOOSE(max, name, type, image, >, &, nan)                                                      \
    KERNEL(sum, name)                                                                              \
    KERNEL(prod, name)                                                                             \
    KERNEL(min, name)                                                                              \
    KERNEL(max, name)                                                                              \
    DIVIDE(name, type, n_th)

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

/* Sum, product and quotient by way of float32, element by element. */
#define CONVERTED(name, type)                                                                      \
    ONE(sum, name, type, name##_encode(name##_decode(a) + name##_decode(b)))                       \
    ONE(prod, name, type, name##_encode(name##_decode(a) * name##_decode(b)))                      \
    KERNEL(sum, name)                                                                              \
    KERNEL(prod, name)                                                                             \
    DIVIDE(name, float, name##_n_th)

#define float16_n_th(x)     float16_encode(float16_decode(x) / n)
#define bfloat16_n_th(x)    bfloat16_encode(bfloat16_decode(x) / n)
#define float8_e4m3_n_th(x) float8_e4m3_encode(float8_e4m3_decode(x) / n)
#define float8_e5m2_n_th(x) float8_e5m2_encode(float8_e5m2_decode(x) / n)

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
    DIVIDE(name, float, name##_n_th)
#define ARITHMETIC_float8_e4m3 BYTE_ARITHMETIC(float8_e4m3, half_prod_scaled)
#define ARITHMETIC_float8_e5m2 BYTE_ARITHMETIC(float8_e5m2, half_prod)
#else
#define ARITHMETIC_float16     CONVERTED(float16, uint16_t)
#define ARITHMETIC_float8_e4m3 CONVERTED(float8_e4m3, uint8_t)
#define ARITHMETIC_float8_e5m2 CONVERTED(float8_e5m2, uint8_t)
#endif
#define ARITHMETIC_bfloat16 CONVERTED(bfloat16, uint16_t)

#define SMALL_FORM(name, type, image, infinity, nan)                                               \
    STORED(type, name);                                                                            \
    ARITHMETIC_##name ORDER(min, name, type, image, <, infinity, nan)                              \
        ORDER(max, name, type, image, >, infinity, nan) KERNEL(min, name) KERNEL(max, name)

#define FORM_float32            NATIVE_FORM(float32, float, uint32_t, 0x7fc00000u)
#define FORM_float64            NATIVE_FORM(float64, double, uint64_t, 0x7ff8000000000000u)
#define FORM_float16            SMALL_FORM(float16, uint16_t, int16_t, 0x7c00, 0x7e00)
#define FORM_bfloat16           SMALL_FORM(bfloat16, uint16_t, int16_t, 0x7f80, 0x7fc0)
#define FORM_float8_e4m3        SMALL_FORM(float8_e4m3, uint8_t, int8_t, 0x7e, 0x7f)
#define FORM_float8_e5m2        SMALL_FORM(float8_e5m2, uint8_t, int8_t, 0x7c, 0x7e)
#define FORM_FLOAT(name, bytes) FORM_##name

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
