/* check.c: input data whose results are exact, and the comparison of every byte with them.
 *
 * The idea: integers small enough that every partial result in any order of ranks is exactly
 * representable, so that the expected bits do not depend on the algorithm. With L the greatest
 * integer up to which a type holds all integers (8 for float8_e5m2, 16 for float8_e4m3, 256 for
 * bfloat16, 2,048 for float16, 2^24, 2^53; an eighth of the range or more for integers) and n
 * ranks:
 *   sum, avg    integers of [-L/n, L/n] (unsigned: [0, L/n]); beyond n > L ranks only L of them,
 *               others at each element, give a 1 or -1 and the rest 0. avg divides that sum once,
 *               as tutti.h says: in float32 (float64), rounded once to the type; integers truncate.
 *   premulsum   as sum with L/2; the scalar is 1 at even ranks, 2 at odd ones
 *   prod        1 or -1 everywhere, times 2 at up to six ranks, others at each element
 *   min, max    integers of [-L, L]
 *   band..bxor  and calls that only move data: all bits random
 * No zero is negative and no value a NaN, therefore equal means equal bits.
 *
 * Data repeats every PERIOD elements, so the expectation is a table and the comparison a memcmp.
 * Before the call each buffer holds a known byte everywhere, after it everything that is not the
 * result must hold what it held before: guards on both sides, gaps between blocks, IN itself. */
#include "perf/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { POISON = 0xa5, RANK_STRIDE = 389 };

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct traits {
    bool is_signed, is_float;
    int64_t limit; /* L above */
    int exponent_bits, mantissa_bits;
};

static struct traits traits_of(tutti_dtype dtype)
{
    switch (dtype) {
    case TUTTI_INT8:
        return (struct traits){true, false, 127, 0, 0};
    case TUTTI_UINT8:
        return (struct traits){false, false, 255, 0, 0};
    case TUTTI_INT16:
        return (struct traits){true, false, 32767, 0, 0};
    case TUTTI_UINT16:
        return (struct traits){false, false, 65535, 0, 0};
    case TUTTI_INT32:
        return (struct traits){true, false, INT32_MAX, 0, 0};
    case TUTTI_UINT32:
        return (struct traits){false, false, UINT32_MAX, 0, 0};
    case TUTTI_INT64:
        return (struct traits){true, false, INT64_MAX / 8, 0, 0};
    case TUTTI_UINT64:
        return (struct traits){false, false, INT64_MAX / 8, 0, 0};
    case TUTTI_FLOAT16:
        return (struct traits){true, true, 1 << 11, 5, 10};
    case TUTTI_BFLOAT16:
        return (struct traits){true, true, 1 << 8, 8, 7};
    case TUTTI_FLOAT32:
        return (struct traits){true, true, 1 << 24, 8, 23};
    case TUTTI_FLOAT64:
        return (struct traits){true, true, (int64_t)1 << 53, 11, 52};
    case TUTTI_FLOAT8_E4M3:
        return (struct traits){true, true, 1 << 4, 4, 3};
    default:
        return (struct traits){true, true, 1 << 3, 5, 2};
    }
}

/* The bits of a finite, small value in a 16- or 8-bit float, rounded to nearest even. */
static uint16_t small_float_bits(float value, const struct traits *traits)
{
    int bias = (1 << (traits->exponent_bits - 1)) - 1, mantissa = traits->mantissa_bits;
    uint16_t sign = signbit(value) ? (uint16_t)(1u << (traits->exponent_bits + mantissa)) : 0;
    if (value == 0)
        return sign;
    int exponent = ilogbf(value) < 1 - bias ? 1 - bias : ilogbf(value);
    long scaled = lrint(ldexp(fabs((double)value), mantissa - exponent));
    /* scaled may have rounded up to the next power of two: the sum below carries by itself */
    long field = exponent + bias - 1; /* the leading bit of scaled adds the missing one */
    return (uint16_t)(sign | (uint16_t)(field * (1 << mantissa) + scaled));
}

static void store_float(tutti_dtype dtype, const struct traits *traits, double value, void *to)
{
    if (dtype == TUTTI_FLOAT64) {
        memcpy(to, &value, sizeof value);
        return;
    }
    float single = (float)value;
    uint16_t bits = 0;
    if (dtype == TUTTI_FLOAT32) {
        memcpy(to, &single, sizeof single);
        return;
    }
    bits = small_float_bits(single, traits);
    if (tutti_dtype_size(dtype) == 1) {
        *(unsigned char *)to = (unsigned char)bits;
        return;
    }
    memcpy(to, &bits, sizeof bits);
}

static void store(tutti_dtype dtype, int64_t value, void *to)
{
    struct traits traits = traits_of(dtype);
    uint16_t half = (uint16_t)value;
    uint32_t word = (uint32_t)value;
    if (traits.is_float)
        store_float(dtype, &traits, (double)value, to);
    else /* two's complement, little or big end alike: through the type of that size */
        switch (tutti_dtype_size(dtype)) {
        case 1:
            *(uint8_t *)to = (uint8_t)value;
            break;
        case 2:
            memcpy(to, &half, 2);
            break;
        case 4:
            memcpy(to, &word, 4);
            break;
        default:
            memcpy(to, &value, 8);
            break;
        }
}

static void store_average(tutti_dtype dtype, int64_t sum, int size, void *to)
{
    struct traits traits = traits_of(dtype);
    if (!traits.is_float)
        store(dtype, sum / size, to);
    else if (dtype == TUTTI_FLOAT64)
        store_float(dtype, &traits, (double)sum / size, to);
    else
        store_float(dtype, &traits, (double)((float)sum / (float)size), to);
}

static bool is_bitwise(unsigned op)
{
    return op == TUTTI_BAND || op == TUTTI_BOR || op == TUTTI_BXOR;
}

bool data_fits(tutti_dtype dtype, unsigned op_choice)
{
    return !(is_bitwise(op_choice) && traits_of(dtype).is_float);
}

static int64_t scalar_of(int rank)
{
    return 1 + rank % 2;
}

void data_scalar(tutti_dtype dtype, int rank, void *scalar)
{
    store(dtype, scalar_of(rank), scalar);
}

/* Rank's value of element i as an integer; the bits themselves for bitwise operations. */
static int64_t input_value(const struct traits *traits, unsigned op, int rank, int size, uint64_t i)
{
    uint64_t noise = mix(i * 0x10001 + (uint64_t)rank * 0x7f4a7c159e37 + op);
    uint64_t place = ((uint64_t)rank + mix(i)) % (uint64_t)size; /* moves from element to element */
    int64_t sign = traits->is_signed && noise >> 63 ? -1 : 1;
    if (is_bitwise(op))
        return (int64_t)noise;
    if (op == TUTTI_PROD)
        return sign * (place < 6 && (noise & 1) ? 2 : 1);
    int64_t greatest = traits->limit;
    if (op == OP_PREMULSUM)
        greatest /= 2;
    if (op != TUTTI_MIN && op != TUTTI_MAX) {
        if (greatest < size)
            return (int64_t)place < greatest ? sign : 0;
        greatest /= size;
    }
    return sign * (int64_t)(noise % ((uint64_t)greatest + 1));
}

static int64_t reduce_value(unsigned op, int64_t a, int64_t b)
{
    switch (op) {
    case TUTTI_PROD:
        return a * b;
    case TUTTI_MIN:
        return a < b ? a : b;
    case TUTTI_MAX:
        return a > b ? a : b;
    case TUTTI_BAND:
        return a & b;
    case TUTTI_BOR:
        return a | b;
    case TUTTI_BXOR:
        return a ^ b;
    default:
        return a + b;
    }
}

void data_make(struct data *data, tutti_dtype dtype, unsigned op_choice, int rank, int size)
{
    struct traits traits = traits_of(dtype);
    data->dtype = dtype;
    data->op_choice = op_choice;
    data->elem_size = tutti_dtype_size(dtype);
    data->rank = rank;
    data->size = size;
    for (uint64_t i = 0; i < PERIOD; i++) {
        unsigned char *own = data->own + i * data->elem_size;
        if (op_choice == OP_NONE) {
            uint64_t noise = mix(i);
            memcpy(own, &noise, data->elem_size);
            continue;
        }
        int64_t total = 0;
        for (int r = 0; r < size; r++) {
            int64_t value = input_value(&traits, op_choice, r, size, i);
            if (r == rank)
                store(dtype, value, own);
            if (op_choice == OP_PREMULSUM)
                value *= scalar_of(r);
            total = r == 0 ? value : reduce_value(op_choice, total, value);
        }
        unsigned char *reduced = data->reduced + i * data->elem_size;
        if (op_choice == TUTTI_AVG)
            store_average(dtype, total, size, reduced);
        else
            store(dtype, total, reduced);
    }
}

/* A table of PERIOD elements and the place in it where a run begins. */
struct stream {
    const unsigned char *table;
    size_t elem_size, start;
};

/* What rank `source` has from element `start` of its IN on, or the reduction of all. */
static struct stream stream_of(const struct data *data, int source, size_t start)
{
    if (source == SOURCE_REDUCED)
        return (struct stream){data->reduced, data->elem_size, start % PERIOD};
    size_t shift = data->op_choice == OP_NONE ? (size_t)source * RANK_STRIDE : 0;
    return (struct stream){data->own, data->elem_size, (start + shift) % PERIOD};
}

static size_t stream_run(const struct stream *stream, size_t done, size_t count, size_t *begin)
{
    *begin = (stream->start + done) % PERIOD;
    size_t run = PERIOD - *begin;
    return run < count - done ? run : count - done;
}

static void stream_write(unsigned char *to, struct stream stream, size_t count)
{
    for (size_t done = 0, begin = 0; done < count;) {
        size_t run = stream_run(&stream, done, count, &begin);
        memcpy(to + done * stream.elem_size, stream.table + begin * stream.elem_size,
               run * stream.elem_size);
        done += run;
    }
}

/* Where a comparison writes its findings. */
struct finding {
    uint64_t wrong;
    char *text;
    size_t len;
};

static uint64_t bits_of(const unsigned char *at, size_t size)
{
    uint64_t bits = 0;
    for (size_t i = size; i-- > 0;)
        bits = bits << 8 | at[i];
    return bits;
}

static void found(struct finding *finding, const char *what, long long index,
                  const unsigned char *at, const unsigned char *expected, size_t size)
{
    if (finding->wrong++ == 0)
        snprintf(finding->text, finding->len, "%s %lld is 0x%0*" PRIx64 ", expected 0x%0*" PRIx64,
                 what, index, (int)(2 * size), bits_of(at, size), (int)(2 * size),
                 bits_of(expected, size));
}

static void stream_compare(const unsigned char *at, struct stream stream, size_t count,
                           const char *what, size_t index, struct finding *finding)
{
    size_t size = stream.elem_size;
    for (size_t done = 0, begin = 0; done < count;) {
        size_t run = stream_run(&stream, done, count, &begin);
        const unsigned char *seen = at + done * size, *expected = stream.table + begin * size;
        if (memcmp(seen, expected, run * size) != 0) {
            for (size_t i = 0; i < run; i++) {
                if (memcmp(seen + i * size, expected + i * size, size) != 0)
                    found(finding, what, (long long)(index + done + i), seen + i * size,
                          expected + i * size, size);
            }
        }
        done += run;
    }
}

/* What a buffer held before the call: poison, and IN where it lies in this buffer. All in bytes
 * from the start of data; guards have negative places. */
struct before {
    const unsigned char *data;
    long long in_begin, in_end;
    struct stream in;
};

static void compare_before(const struct before *before, long long begin, long long end,
                           struct finding *finding)
{
    static const unsigned char poison = POISON;
    long long size = (long long)before->in.elem_size;
    while (begin < end) {
        if (begin >= before->in_begin && begin < before->in_end) {
            long long stop = end < before->in_end ? end : before->in_end;
            struct stream rest = before->in;
            size_t skip = (size_t)((begin - before->in_begin) / size);
            rest.start = (rest.start + skip) % PERIOD;
            stream_compare(before->data + begin, rest, (size_t)((stop - begin) / size),
                           "in changed: element", skip, finding);
            begin = stop;
            continue;
        }
        long long stop =
            begin < before->in_begin && before->in_begin < end ? before->in_begin : end;
        for (; begin < stop; begin++) {
            if (before->data[begin] != POISON)
                found(finding, "outside of the result: byte", begin, before->data + begin, &poison,
                      1);
        }
    }
}

/* Bytes of a buffer that a call may see. */
static size_t used_bytes(const struct call *call, bool has_in, bool has_out)
{
    size_t in = has_in ? call->in_at + call->in_extent : 0;
    size_t out = has_out ? call->out_at + call->out_extent : 0;
    return (in > out ? in : out) * call->elem_size;
}

size_t check_extent(const struct call *call, bool has_in, bool has_out)
{
    return used_bytes(call, has_in, has_out) + 2 * (size_t)GUARD_BYTES;
}

static void fill_arena(const struct call *call, const struct data *data, const struct arena *arena,
                       bool has_in, bool has_out)
{
    memset(arena->data - GUARD_BYTES, POISON, check_extent(call, has_in, has_out));
    if (has_in)
        stream_write(arena->data + call->in_at * call->elem_size, stream_of(data, data->rank, 0),
                     call->in_extent);
}

static void check_arena(const struct call *call, const struct data *data, const struct arena *arena,
                        bool has_in, bool has_out, struct finding *finding)
{
    struct before before = {.data = arena->data, .in = stream_of(data, data->rank, 0)};
    if (has_in) {
        before.in_begin = (long long)(call->in_at * call->elem_size);
        before.in_end = (long long)((call->in_at + call->in_extent) * call->elem_size);
    }
    long long at = -GUARD_BYTES;
    for (size_t i = 0; has_out && i < call->segment_count; i++) {
        const struct segment *segment = &call->segments[i];
        long long begin = (long long)((call->out_at + segment->at) * call->elem_size);
        compare_before(&before, at, begin, finding);
        stream_compare(arena->data + begin, stream_of(data, segment->source, segment->start),
                       segment->count, "out: element", segment->at, finding);
        at = begin + (long long)(segment->count * call->elem_size);
    }
    compare_before(&before, at,
                   (long long)(used_bytes(call, has_in, has_out) + (size_t)GUARD_BYTES), finding);
}

void check_fill(const struct call *call, const struct data *data, const struct arena *in,
                const struct arena *out)
{
    if (in != out)
        fill_arena(call, data, in, true, false);
    fill_arena(call, data, out, in == out, true);
}

uint64_t check_result(const struct call *call, const struct data *data, const struct arena *in,
                      const struct arena *out, char *text, size_t len)
{
    struct finding finding = {0, text, len};
    check_arena(call, data, out, in == out, true, &finding);
    if (in != out)
        check_arena(call, data, in, true, false, &finding);
    return finding.wrong;
}
