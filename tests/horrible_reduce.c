/* horrible_reduce.c: see horrible_reduce.h. A small float is a sorted list of values, in which the
 * nearest is found by bisection; integers are computed in 128 bits. */
#include "tests/horrible_reduce.h"

#include <math.h>
#include <string.h>

#include "tests/suite.h"

#if defined(__SIZEOF_FLOAT128__)
typedef __float128 widest;
#else
typedef double widest;
#endif
typedef __int128 wide_int;

struct horrible_layout horrible_layout_of(tutti_dtype dtype)
{
    switch (dtype) {
    case TUTTI_FLOAT16:
        return (struct horrible_layout){16, 10, 15, true};
    case TUTTI_BFLOAT16:
        return (struct horrible_layout){16, 7, 127, true};
    case TUTTI_FLOAT32:
        return (struct horrible_layout){32, 23, 127, true};
    case TUTTI_FLOAT64:
        return (struct horrible_layout){64, 52, 1023, true};
    case TUTTI_FLOAT8_E4M3:
        return (struct horrible_layout){8, 3, 7, false};
    default:
        return (struct horrible_layout){8, 2, 15, true};
    }
}

static bool is_signed(tutti_dtype dtype)
{
    return dtype == TUTTI_INT8 || dtype == TUTTI_INT16 || dtype == TUTTI_INT32 ||
           dtype == TUTTI_INT64;
}

uint64_t horrible_unfinite(struct horrible_layout l)
{
    uint64_t sign = (uint64_t)1 << (l.bits - 1);
    return l.infinite ? sign - ((uint64_t)1 << l.mantissa) : sign - 1;
}

double horrible_decode(struct horrible_layout l, uint64_t x)
{
    uint64_t sign = (uint64_t)1 << (l.bits - 1);
    uint64_t magnitude = x & (sign - 1);
    uint64_t low = magnitude & (((uint64_t)1 << l.mantissa) - 1);
    int exponent = (int)(magnitude >> l.mantissa);
    double value;
    if (magnitude >= horrible_unfinite(l))
        value = l.infinite && low == 0 ? INFINITY : NAN;
    else if (exponent == 0)
        value = ldexp((double)low, 1 - l.bias - l.mantissa);
    else
        value = ldexp((double)(low + ((uint64_t)1 << l.mantissa)), exponent - l.bias - l.mantissa);
    return x & sign ? -value : value;
}

uint64_t horrible_encode(struct horrible_layout l, double value)
{
    uint64_t sign = signbit(value) ? (uint64_t)1 << (l.bits - 1) : 0;
    uint64_t unfinite = horrible_unfinite(l);
    if (isnan(value))
        return sign | (((uint64_t)1 << (l.bits - 1)) - 1);
    double magnitude = fabs(value);
    uint64_t low = 0, high = unfinite; /* value(low) <= magnitude < value(high), or overflow */
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (horrible_decode(l, middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double below = horrible_decode(l, low);
    double step = below - horrible_decode(l, low - (low > 0));
    if (low == 0)
        step = horrible_decode(l, 1);
    double above = high == unfinite ? below + step : horrible_decode(l, high);
    double to_below = magnitude - below, to_above = above - magnitude;
    uint64_t nearest = to_below < to_above || (to_below == to_above && low % 2 == 0) ? low : high;
    if (nearest == unfinite && !l.infinite)
        nearest = unfinite - 1;
    return sign | nearest;
}

static uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Rounds to float32 if that is what the arithmetic is done in, then to the type. */
static uint64_t horrible_round(tutti_dtype dtype, widest exact)
{
    if (dtype == TUTTI_FLOAT64)
        return bits_of_double((double)exact);
    float single = (float)(double)exact;
    if (dtype != TUTTI_FLOAT32)
        return horrible_encode(horrible_layout_of(dtype), (double)single);
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return bits;
}

static uint64_t horrible_float(tutti_op op, tutti_dtype dtype, uint64_t a, uint64_t b)
{
    double x = horrible_decode(horrible_layout_of(dtype), a),
           y = horrible_decode(horrible_layout_of(dtype), b);
    uint64_t nan = ((uint64_t)1 << (horrible_layout_of(dtype).bits - 1)) - 1;
    switch (op) {
    case TUTTI_SUM:
    case TUTTI_AVG:
        return horrible_round(dtype, (widest)x + (widest)y);
    case TUTTI_PROD:
        return horrible_round(dtype, (widest)x * (widest)y);
    case TUTTI_MIN:
        return isnan(x) || isnan(y) ? nan : x < y || (x == y && signbit(x)) ? a : b;
    default:
        return isnan(x) || isnan(y) ? nan : x > y || (x == y && signbit(y)) ? a : b;
    }
}

static wide_int horrible_integer(tutti_dtype dtype, uint64_t x)
{
    int bits = (int)dtype_size(dtype) * 8;
    wide_int value = (wide_int)x;
    if (is_signed(dtype) && (x >> (bits - 1)) != 0)
        value -= (wide_int)1 << bits;
    return value;
}

uint64_t horrible_op(tutti_op op, tutti_dtype dtype, uint64_t a, uint64_t b)
{
    if (dtype_is_float(dtype))
        return horrible_float(op, dtype, a, b);
    wide_int x = horrible_integer(dtype, a), y = horrible_integer(dtype, b);
    int bits = (int)dtype_size(dtype) * 8;
    uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
    switch (op) {
    case TUTTI_SUM:
    case TUTTI_AVG:
        return (uint64_t)(x + y) & mask;
    case TUTTI_PROD:
        return (uint64_t)((unsigned __int128)x * (unsigned __int128)y) & mask;
    case TUTTI_MIN:
        return x < y ? a : b;
    case TUTTI_MAX:
        return x > y ? a : b;
    case TUTTI_BAND:
        return a & b;
    case TUTTI_BOR:
        return a | b;
    default:
        return a ^ b;
    }
}

uint64_t horrible_divide(tutti_dtype dtype, uint64_t a, uint32_t ranks)
{
    if (dtype_is_float(dtype)) {
        double x = horrible_decode(horrible_layout_of(dtype), a);
        float n = (float)ranks;
        return horrible_round(dtype, dtype == TUTTI_FLOAT64 ? x / ranks : x / (double)n);
    }
    int bits = (int)dtype_size(dtype) * 8;
    uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
    return (uint64_t)(horrible_integer(dtype, a) / (wide_int)ranks) & mask;
}

/* ---- tools ---------------------------------------------------------------------------------- */

uint64_t element_load(const void *at, size_t size)
{
    uint64_t x = 0;
    memcpy(&x, at, size); /* little endian, as every CPU with variants is */
    return x;
}

bool element_is_nan(tutti_dtype dtype, uint64_t x)
{
    return dtype_is_float(dtype) && isnan(horrible_decode(horrible_layout_of(dtype), x));
}

bool element_same(tutti_dtype dtype, uint64_t x, uint64_t expected)
{
    return x == expected || (element_is_nan(dtype, x) && element_is_nan(dtype, expected));
}

uint64_t element_random(tutti_dtype dtype, uint64_t *state)
{
    int bits = (int)dtype_size(dtype) * 8;
    uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1, r = suite_random(state);
    if (r & 1)
        return suite_random(state) & mask;
    uint64_t sign = (uint64_t)1 << (bits - 1);
    uint64_t edges[] = {0, 1, 2, sign, sign - 1, sign - 2, sign + 1, mask, mask - 1, 0, 0, 0, 0};
    if (dtype_is_float(dtype)) {
        struct horrible_layout l = horrible_layout_of(dtype);
        edges[9] = horrible_unfinite(l);
        edges[10] = edges[9] - 1;
        edges[11] = (uint64_t)1 << l.mantissa;
        edges[12] = (uint64_t)l.bias << l.mantissa;
    }
    uint64_t x = edges[(r >> 8) % (sizeof edges / sizeof *edges)];
    return (r & 2) && dtype_is_float(dtype) ? x ^ sign : x;
}

void element_fill(tutti_dtype dtype, void *at, size_t count, uint64_t *state)
{
    size_t size = dtype_size(dtype);
    for (size_t i = 0; i < count; i++) {
        uint64_t x = element_random(dtype, state);
        memcpy((unsigned char *)at + i * size, &x, size);
    }
}
