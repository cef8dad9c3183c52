/* small_float.h: float16, bfloat16 and the two 8-bit floats to float32 and back.
 *
 * Decoding is exact. Encoding rounds once to nearest, ties to even; float8_e4m3 (the OCP "fn"
 * format: no infinity, one NaN per sign) saturates to 448, the others overflow to infinity. A NaN
 * stays a NaN: sign and the payload's top bits are kept, the quiet bit is set.
 *
 * Everything is straight-line code with selects instead of branches, so that a loop over it
 * becomes vector code on any CPU. Denormals are made with float32 additions that never see a
 * float32 denormal, so the result does not depend on flush-to-zero modes and costs no assists.
 * Source: IEEE 754-2019, 3.4; OCP 8-bit Floating Point Specification 1.0, section 5. */
#ifndef MEM_SMALL_FLOAT_H
#define MEM_SMALL_FLOAT_H

#include <stdint.h>

/* Another compiler's source may have said how its functions are declared. */
#if !defined(SMALL_INLINE)
#define SMALL_INLINE static inline __attribute__((always_inline, unused))
#endif

/* A format: 1 sign bit, exponent bits, mantissa bits. */
struct small_format {
    uint32_t sign;     /* the sign bit */
    uint32_t mantissa; /* bits of mantissa */
    uint32_t bias;     /* of the exponent */
    uint32_t special;  /* the lowest magnitude that is infinity or NaN */
    uint32_t limit;    /* the magnitude an overflow becomes */
    uint32_t quiet;    /* the bits that every NaN made here has */
};

#define FLOAT16_FORMAT     ((struct small_format){0x8000, 10, 15, 0x7c00, 0x7c00, 0x7e00})
#define FLOAT8_E4M3_FORMAT ((struct small_format){0x80, 3, 7, 0x7f, 0x7e, 0x7f})
#define FLOAT8_E5M2_FORMAT ((struct small_format){0x80, 2, 15, 0x7c, 0x7c, 0x7e})

SMALL_INLINE float float_of_bits(uint32_t bits)
{
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

SMALL_INLINE uint32_t bits_of_float(float value)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

SMALL_INLINE float small_decode(struct small_format f, uint32_t x)
{
    uint32_t magnitude = x & (f.sign - 1);
    uint32_t moved = magnitude << (23 - f.mantissa);
    /* A denormal is read as if its hidden bit were one, and that one is then taken away. */
    uint32_t one = (128 - f.bias) << 23;
    uint32_t denormal = bits_of_float(float_of_bits(moved + one) - float_of_bits(one));
    uint32_t normal = moved + ((127 - f.bias) << 23);
    uint32_t bits = magnitude >= f.special ? moved | 0x7f800000u : normal;
    bits = magnitude < 1u << f.mantissa ? denormal : bits;
    return float_of_bits(bits | (x & f.sign) * (0x80000000u / f.sign));
}

SMALL_INLINE uint32_t small_encode(struct small_format f, float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t shift = 23 - f.mantissa;
    /* Half of the last place, less one unless the last place is odd: ties go to even. A carry out
     * of the mantissa raises the exponent, as it should. */
    uint32_t half = (1u << (shift - 1)) - 1 + ((magnitude >> shift) & 1);
    uint32_t normal = (magnitude - ((127 - f.bias) << 23) + half) >> shift;
    normal = normal > f.limit ? f.limit : normal;
    /* In `magic` the last place of float32 weighs as much as that of a denormal of the format: the
     * addition does the rounding. */
    uint32_t magic = (127 + 24 - f.bias - f.mantissa) << 23;
    uint32_t denormal = bits_of_float(float_of_bits(magnitude) + float_of_bits(magic)) - magic;
    uint32_t nan = f.quiet | ((magnitude >> shift) & ((1u << f.mantissa) - 1));
    uint32_t result = magnitude < (128 - f.bias) << 23 ? denormal : normal;
    result = magnitude > 0x7f800000u ? nan : result;
    return result | (bits >> 31) * f.sign;
}

SMALL_INLINE float float16_decode(uint16_t x)
{
    return small_decode(FLOAT16_FORMAT, x);
}

SMALL_INLINE uint16_t float16_encode(float value)
{
    return (uint16_t)small_encode(FLOAT16_FORMAT, value);
}

SMALL_INLINE float float8_e4m3_decode(uint8_t x)
{
    return small_decode(FLOAT8_E4M3_FORMAT, x);
}

SMALL_INLINE uint8_t float8_e4m3_encode(float value)
{
    return (uint8_t)small_encode(FLOAT8_E4M3_FORMAT, value);
}

SMALL_INLINE float float8_e5m2_decode(uint8_t x)
{
    return small_decode(FLOAT8_E5M2_FORMAT, x);
}

SMALL_INLINE uint8_t float8_e5m2_encode(float value)
{
    return (uint8_t)small_encode(FLOAT8_E5M2_FORMAT, value);
}

/* bfloat16 is the upper half of a float32. */
SMALL_INLINE float bfloat16_decode(uint16_t x)
{
    return float_of_bits((uint32_t)x << 16);
}

SMALL_INLINE uint16_t bfloat16_encode(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (uint16_t)((value != value ? bits | 0x400000 : rounded) >> 16);
}

/* ---- 8-bit floats by way of float16 ---------------------------------------------------------
 *
 * An 8-bit float is widened to a float16 with shifts alone: e5m2 is the upper half of one, and
 * e4m3, whose exponent is narrower by one bit, becomes one that is 2^8 times too small. Results
 * come back the same way: once rounded by the instruction, to float16, and once by integer
 * additions. The first rounding cannot disturb the second: a sum or product of two 8-bit floats
 * that does not fit float16's eleven bits lies far from any tie of the eight-bit format. (The tests
 * run all pairs.) */

/* How much too small an e4m3 is as a float16. */
#define E4M3_SCALE 256

SMALL_INLINE uint16_t float8_e5m2_to_half(uint8_t x)
{
    return (uint16_t)(x << 8);
}

SMALL_INLINE uint8_t float8_e5m2_of_half(uint16_t h)
{
    uint16_t magnitude = h & 0x7fff;
    uint16_t rounded = (uint16_t)(magnitude + 0x7f + ((magnitude >> 8) & 1)) >> 8;
    uint16_t nan = (uint16_t)(0x7e | magnitude >> 8);
    return (uint8_t)((magnitude > 0x7c00 ? nan : rounded) | (h >> 8 & 0x80));
}

SMALL_INLINE uint16_t float8_e4m3_to_half(uint8_t x)
{
    uint16_t magnitude = x & 0x7f;
    uint16_t nan = magnitude == 0x7f ? 0x7e00 : 0;
    return (uint16_t)(magnitude << 7 | (x & 0x80) << 8 | nan);
}

SMALL_INLINE uint8_t float8_e4m3_of_half(uint16_t h)
{
    uint16_t magnitude = h & 0x7fff;
    uint16_t rounded = (uint16_t)(magnitude + 0x3f + ((magnitude >> 7) & 1)) >> 7;
    rounded = rounded > 0x7e ? 0x7e : rounded;
    return (uint8_t)((magnitude > 0x7c00 ? 0x7f : rounded) | (h >> 8 & 0x80));
}

#endif
