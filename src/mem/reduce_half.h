/* reduce_half.h: float16 arithmetic with the F16C conversion instructions, and 8-bit floats on top.
 * Included by reduce_kernels.c alone, in the variants whose CPU has them. */
#ifndef MEM_REDUCE_HALF_H
#define MEM_REDUCE_HALF_H

#include <immintrin.h>
#include <stddef.h>

#include "mem/small_float.h"

/* Widened elements in flight: two blocks of 1 KiB stay in the first cache. */
#define HALF_BLOCK 512

#if defined(__AVX512F__)
typedef __m512 half_vector;
#define HALF_LANES 16
#else
typedef __m256 half_vector;
#define HALF_LANES 8
#endif

typedef uint16_t half_stored __attribute__((aligned(1), may_alias));

SMALL_INLINE half_vector half_load(const half_stored *from)
{
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#else
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#endif
}

SMALL_INLINE void half_store(half_stored *to, half_vector x)
{
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#endif
}

/* expression over x and y, one vector at a time and the rest one by one. */
#define HALF_LOOP(name, expression)                                                                \
    SMALL_INLINE void half_##name(half_stored *d, const half_stored *a, const half_stored *b,      \
                                  size_t count)                                                    \
    {                                                                                              \
        size_t i = 0;                                                                              \
        for (; count - i >= HALF_LANES; i += HALF_LANES) {                                         \
            half_vector x = half_load(a + i), y = half_load(b + i);                                \
            half_store(d + i, expression);                                                         \
        }                                                                                          \
        for (; i < count; i++) {                                                                   \
            float x = _cvtsh_ss(a[i]), y = _cvtsh_ss(b[i]);                                        \
            d[i] = _cvtss_sh(expression, _MM_FROUND_TO_NEAREST_INT);                               \
        }                                                                                          \
    }

HALF_LOOP(sum, x + y)
HALF_LOOP(prod, x *y)
HALF_LOOP(prod_scaled, x *y *E4M3_SCALE)

SMALL_INLINE void half_divide(half_stored *d, float n, size_t count)
{
    size_t i = 0;
    for (; count - i >= HALF_LANES; i += HALF_LANES)
        half_store(d + i, half_load(d + i) / n);
    for (; i < count; i++)
        d[i] = _cvtss_sh(_cvtsh_ss(d[i]) / n, _MM_FROUND_TO_NEAREST_INT);
}

#endif
