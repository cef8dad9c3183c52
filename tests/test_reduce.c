/* test_reduce.c: every kernel of every variant that this CPU can run, against a slow reference that
 * shares no code with it (horrible_reduce.h). */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/reduce_set.h"
#include "mem/small_float.h"
#include "tests/horrible_reduce.h"
#include "tests/suite.h"

#define LENGTH_MAX  130
#define VARIANTS    8
#define OFFSET_MAX  16
#define GUARD       64
#define BUFFER_SIZE (GUARD + OFFSET_MAX + LENGTH_MAX * 8 + GUARD)

static uint64_t random_state;

static uint64_t random_bits(void)
{
    return suite_random(&random_state);
}

/* The first difference is printed, all of them count as one failure of the test. */
static bool report(const char *variant, tutti_op op, tutti_dtype dtype, uint64_t a, uint64_t b,
                   uint64_t got, uint64_t expected)
{
    printf("    %s %s %s: %llx, %llx gave %llx, expected %llx\n", variant, op_name(op),
           dtype_name(dtype), (unsigned long long)a, (unsigned long long)b, (unsigned long long)got,
           (unsigned long long)expected);
    return false;
}

/* One kernel over count pairs of elements, compared with expected (computed once for all). */
static bool pairs_match(const struct reduce_set *set, tutti_op op, tutti_dtype dtype,
                        const unsigned char *a, const unsigned char *b, const uint64_t *expected,
                        size_t count)
{
    size_t size = dtype_size(dtype);
    unsigned char *d = malloc(count * size), *mirrored = malloc(count * size);
    set->kernels[dtype][op](d, a, b, count);
    set->kernels[dtype][op](mirrored, b, a, count);
    bool good = true;
    for (size_t i = 0; i < count && good; i++) {
        uint64_t x = element_load(a + i * size, size), y = element_load(b + i * size, size);
        uint64_t got = element_load(d + i * size, size),
                 other = element_load(mirrored + i * size, size);
        if (!element_same(dtype, got, expected[i]))
            good = report(set->name, op, dtype, x, y, got, expected[i]);
        if (got != other && !(element_is_nan(dtype, got) && element_is_nan(dtype, other) &&
                              op != TUTTI_MIN && op != TUTTI_MAX))
            good = report(set->name, op, dtype, y, x, other, got);
    }
    free(d);
    free(mirrored);
    return good;
}

static bool pairs_match_everywhere(tutti_dtype dtype, const unsigned char *a,
                                   const unsigned char *b, size_t count)
{
    size_t size = dtype_size(dtype);
    uint64_t *expected = malloc(count * sizeof *expected);
    bool good = true;
    for (int op = 0; op < TUTTI_OP_COUNT; op++) {
        if (reduce_kernel((tutti_op)op, dtype) == NULL)
            continue;
        for (size_t i = 0; i < count; i++)
            expected[i] = horrible_op((tutti_op)op, dtype, element_load(a + i * size, size),
                                      element_load(b + i * size, size));
        const struct reduce_set *set;
        for (size_t v = 0; (set = reduce_set_usable(v)) != NULL; v++)
            good &= pairs_match(set, (tutti_op)op, dtype, a, b, expected, count);
    }
    free(expected);
    return good;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void test_small_float_round_trips_every_value(void)
{
    bool good = true;
    for (uint32_t x = 0; x < 65536; x++) {
        struct horrible_layout half = horrible_layout_of(TUTTI_FLOAT16),
                               brain = horrible_layout_of(TUTTI_BFLOAT16);
        double h = (double)float16_decode((uint16_t)x), b = (double)bfloat16_decode((uint16_t)x);
        double expected_h = horrible_decode(half, x), expected_b = horrible_decode(brain, x);
        if (isnan(expected_h))
            good &= isnan(h) && element_is_nan(TUTTI_FLOAT16, float16_encode((float)h));
        else
            good &= h == expected_h && float16_encode((float)h) == x;
        if (isnan(expected_b))
            good &= isnan(b) && element_is_nan(TUTTI_BFLOAT16, bfloat16_encode((float)b));
        else
            good &= b == expected_b && bfloat16_encode((float)b) == x;
    }
    for (uint32_t x = 0; x < 256; x++) {
        double e4 = (double)float8_e4m3_decode((uint8_t)x);
        double e5 = (double)float8_e5m2_decode((uint8_t)x);
        double expected4 = horrible_decode(horrible_layout_of(TUTTI_FLOAT8_E4M3), x);
        double expected5 = horrible_decode(horrible_layout_of(TUTTI_FLOAT8_E5M2), x);
        uint8_t back4 = float8_e4m3_encode((float)e4), back5 = float8_e5m2_encode((float)e5);
        good &= isnan(expected4) ? isnan(e4) && back4 == x : e4 == expected4 && back4 == x;
        good &= isnan(expected5) ? isnan(e5) && element_is_nan(TUTTI_FLOAT8_E5M2, back5)
                                 : e5 == expected5 && back5 == x;
    }
    CU_ASSERT(good);
}

/* Every float32 exponent with the mantissas next to each rounding boundary. */
static void test_small_float_rounds_to_nearest_even(void)
{
    bool good = true;
    random_state = suite_seed();
    for (uint32_t i = 0; i < 400000 && good; i++) {
        uint64_t r = random_bits();
        uint32_t bits = (uint32_t)r;
        unsigned kept = (unsigned)(r >> 32) % 12;
        if (r >> 63) /* on a tie, or one float32 step beside it */
            bits = (bits & ~((1u << (23 - kept)) - 1)) + (1u << (22 - kept)) +
                   (uint32_t)((r >> 40) % 3) - 1;
        float f = float_of_bits(bits);
        double value = (double)f;
        good &= element_same(TUTTI_FLOAT16, float16_encode(f),
                             horrible_encode(horrible_layout_of(TUTTI_FLOAT16), value)) &&
                element_same(TUTTI_BFLOAT16, bfloat16_encode(f),
                             horrible_encode(horrible_layout_of(TUTTI_BFLOAT16), value)) &&
                element_same(TUTTI_FLOAT8_E4M3, float8_e4m3_encode(f),
                             horrible_encode(horrible_layout_of(TUTTI_FLOAT8_E4M3), value)) &&
                element_same(TUTTI_FLOAT8_E5M2, float8_e5m2_encode(f),
                             horrible_encode(horrible_layout_of(TUTTI_FLOAT8_E5M2), value));
        if (!good)
            printf("    float32 bits %08x round wrongly\n", bits);
    }
    CU_ASSERT(good);
}

static void test_reduce_fp8_matches_on_every_pair(void)
{
    unsigned char *a = malloc(65536), *b = malloc(65536);
    for (size_t i = 0; i < 65536; i++) {
        a[i] = (unsigned char)i;
        b[i] = (unsigned char)(i >> 8);
    }
    CU_ASSERT(pairs_match_everywhere(TUTTI_FLOAT8_E4M3, a, b, 65536));
    CU_ASSERT(pairs_match_everywhere(TUTTI_FLOAT8_E5M2, a, b, 65536));
    free(a);
    free(b);
}

/* Every exponent with the first, a random and the last mantissa, both signs, against the same:
 * all pairs of float16, a random selection of bfloat16's. */
static void test_reduce_16_bit_floats_match_on_a_lattice(void)
{
    random_state = suite_seed();
    for (tutti_dtype dtype = TUTTI_FLOAT16; dtype <= TUTTI_BFLOAT16; dtype++) {
        uint16_t values[2048];
        int mantissa = horrible_layout_of(dtype).mantissa;
        size_t n = 0, count = 0, limit = 60000;
        for (uint32_t exponent = 0; exponent < 1u << (15 - mantissa); exponent++) {
            for (uint32_t which = 0; which < 6; which++) {
                uint32_t last = (1u << mantissa) - 1;
                uint32_t low = which % 3 == 0   ? 0
                               : which % 3 == 1 ? (uint32_t)random_bits() & last
                                                : last;
                values[n++] = (uint16_t)(exponent << mantissa | low | (which / 3) << 15);
            }
        }
        uint16_t *a = malloc(limit * sizeof *a), *b = malloc(limit * sizeof *b);
        for (size_t i = 0; i < (n * n < limit ? n * n : limit); i++, count++) {
            size_t pair = n * n < limit ? i : random_bits() % (n * n);
            a[i] = values[pair % n];
            b[i] = values[pair / n];
        }
        CU_ASSERT(pairs_match_everywhere(dtype, (unsigned char *)a, (unsigned char *)b, count));
        free(a);
        free(b);
    }
}

static void test_reduce_matches_on_random_elements(void)
{
    random_state = suite_seed();
    enum { COUNT = 20011 };
    unsigned char *a = malloc(COUNT * 8), *b = malloc(COUNT * 8);
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
        element_fill((tutti_dtype)dtype, a, COUNT, &random_state);
        element_fill((tutti_dtype)dtype, b, COUNT, &random_state);
        CU_ASSERT(pairs_match_everywhere((tutti_dtype)dtype, a, b, COUNT));
    }
    free(a);
    free(b);
}

enum aliasing { APART, ON_A, ON_B, ALL_ONE, ALIASINGS };

/* One length with random misalignments: the result, and the bytes around it untouched. The
 * expectation is the same kernel applied one element at a time, which the tests above checked. */
static bool length_matches(reduce_kernel_fn *kernel, tutti_dtype dtype, size_t count,
                           enum aliasing aliasing)
{
    unsigned char buffers[3][BUFFER_SIZE], before[BUFFER_SIZE], expected[LENGTH_MAX * 8];
    size_t size = dtype_size(dtype);
    unsigned char *a = buffers[0] + GUARD + random_bits() % OFFSET_MAX;
    unsigned char *b = aliasing == ALL_ONE ? a : buffers[1] + GUARD + random_bits() % OFFSET_MAX;
    unsigned char *apart = buffers[2] + GUARD + random_bits() % OFFSET_MAX;
    unsigned char *d = aliasing == APART ? apart : aliasing == ON_B ? b : a;
    for (size_t i = 0; i < 3; i++)
        memset(buffers[i], 0x5a, BUFFER_SIZE);
    element_fill(dtype, a, count, &random_state);
    element_fill(dtype, b, count, &random_state);
    for (size_t i = 0; i < count; i++)
        kernel(expected + i * size, a + i * size, b + i * size, 1);
    unsigned char *whole = d == apart ? buffers[2] : d == a ? buffers[0] : buffers[1];
    memcpy(before, whole, BUFFER_SIZE);
    kernel(d, a, b, count);
    size_t at = (size_t)(d - whole), end = at + count * size;
    bool good =
        memcmp(before, whole, at) == 0 && memcmp(before + end, whole + end, BUFFER_SIZE - end) == 0;
    for (size_t i = 0; i < count; i++)
        good &= element_same(dtype, element_load(d + i * size, size),
                             element_load(expected + i * size, size));
    return good;
}

static void test_reduce_takes_every_length_offset_and_aliasing(void)
{
    random_state = suite_seed();
    const struct reduce_set *set;
    for (size_t v = 0; (set = reduce_set_usable(v)) != NULL; v++) {
        for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
            for (int op = 0; op < TUTTI_OP_COUNT; op++) {
                reduce_kernel_fn *kernel = set->kernels[dtype][op];
                bool good = true;
                for (size_t n = 0; kernel && n <= LENGTH_MAX; n++) {
                    for (int aliasing = 0; aliasing < ALIASINGS; aliasing++)
                        good &= length_matches(kernel, (tutti_dtype)dtype, n, aliasing);
                }
                if (!good)
                    printf("    %s %s %s\n", set->name, op_name((tutti_op)op),
                           dtype_name((tutti_dtype)dtype));
                CU_ASSERT(good);
            }
        }
    }
}

static void test_reduce_binds_what_fits(void)
{
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
        for (int op = 0; op < TUTTI_OP_COUNT; op++) {
            bool bitwise = op == TUTTI_BAND || op == TUTTI_BOR || op == TUTTI_BXOR;
            bool fits = !(bitwise && dtype_is_float((tutti_dtype)dtype));
            CU_ASSERT_EQUAL(reduce_kernel((tutti_op)op, (tutti_dtype)dtype) != NULL, fits);
        }
        CU_ASSERT_PTR_EQUAL(reduce_kernel(TUTTI_AVG, (tutti_dtype)dtype),
                            reduce_kernel(TUTTI_SUM, (tutti_dtype)dtype));
    }
    CU_ASSERT_PTR_NULL(reduce_kernel(TUTTI_OP_DYNAMIC, TUTTI_INT32));
    CU_ASSERT_PTR_NULL(reduce_kernel(TUTTI_SUM, (tutti_dtype)TUTTI_DTYPE_COUNT));
    CU_ASSERT_PTR_NULL(reduce_kernel((tutti_op)-1, TUTTI_INT32));
    CU_ASSERT_STRING_EQUAL(reduce_variant(), reduce_set_usable(0)->name);
    printf("    variants here:");
    for (size_t v = 0; reduce_set_usable(v); v++)
        printf(" %s", reduce_set_usable(v)->name);
    printf("\n");
}

static void test_reduce_divides(void)
{
    random_state = suite_seed();
    static const uint32_t ranks[] = {1, 2, 3, 5, 7, 64, 127, 128, 255, 1000, 65537, UINT32_MAX};
    enum { COUNT = 1003 };
    unsigned char source[COUNT * 8], result[COUNT * 8 + 1];
    const struct reduce_set *set;
    for (size_t v = 0; (set = reduce_set_usable(v)) != NULL; v++) {
        for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
            size_t size = dtype_size((tutti_dtype)dtype);
            bool good = true;
            for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++) {
                element_fill((tutti_dtype)dtype, source, COUNT, &random_state);
                memcpy(result + 1, source, COUNT * size);
                set->divide[dtype](result + 1, ranks[r], COUNT);
                for (size_t i = 0; i < COUNT && good; i++) {
                    uint64_t x = element_load(source + i * size, size);
                    uint64_t got = element_load(result + 1 + i * size, size);
                    uint64_t expected = horrible_divide((tutti_dtype)dtype, x, ranks[r]);
                    if (!element_same((tutti_dtype)dtype, got, expected))
                        good = report(set->name, TUTTI_AVG, (tutti_dtype)dtype, x, ranks[r], got,
                                      expected);
                }
            }
            CU_ASSERT(good);
        }
    }
    reduce_divide(TUTTI_INT32, result, 3, 0);
    int32_t minus_seven = -7;
    reduce_divide(TUTTI_INT32, &minus_seven, 2, 1);
    CU_ASSERT_EQUAL(minus_seven, -3);
}

static void test_reduce_scales(void)
{
    random_state = suite_seed();
    static const size_t counts[] = {0, 1, 2, 511, 512, 513, 4096, 4097, 9001};
    unsigned char *source = malloc(9001 * 8), *result = malloc(9001 * 8);
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
        size_t size = dtype_size((tutti_dtype)dtype);
        bool good = true;
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            uint64_t scalar = element_random((tutti_dtype)dtype, &random_state);
            bool in_place = c % 2;
            element_fill((tutti_dtype)dtype, source, counts[c], &random_state);
            memcpy(result, source, counts[c] * size);
            reduce_scale((tutti_dtype)dtype, result, in_place ? result : source, &scalar,
                         counts[c]);
            for (size_t i = 0; i < counts[c] && good; i++) {
                uint64_t x = element_load(source + i * size, size),
                         got = element_load(result + i * size, size);
                uint64_t expected = horrible_op(TUTTI_PROD, (tutti_dtype)dtype, x, scalar);
                if (!element_same((tutti_dtype)dtype, got, expected))
                    good =
                        report("scale", TUTTI_PROD, (tutti_dtype)dtype, x, scalar, got, expected);
            }
        }
        CU_ASSERT(good);
    }
    free(source);
    free(result);
}

/* inout = 2 * in - inout: shows which operand came first. */
static void user_function(const void *in, void *inout, size_t count, tutti_dtype dtype,
                          void *context)
{
    const int32_t *x = in;
    int32_t *y = inout;
    for (size_t i = 0; i < count; i++)
        y[i] = 2 * x[i] - y[i];
    *(size_t *)context += count;
}

static void test_reduce_applies_a_users_function_in_order(void)
{
    enum { COUNT = 5000 };
    static int32_t buffers[3][COUNT];
    for (int aliasing = APART; aliasing <= ON_B; aliasing++) {
        int32_t *a = buffers[0], *b = buffers[1];
        int32_t *d = aliasing == APART ? buffers[2] : aliasing == ON_A ? a : b;
        for (int32_t i = 0; i < COUNT; i++) {
            a[i] = 3 * i;
            b[i] = i - 7;
        }
        size_t called = 0;
        struct reducer reducer = {
            .function = user_function, .context = &called, .dtype = TUTTI_INT32, .elem_size = 4};
        reduce_apply(&reducer, d, a, b, COUNT * sizeof *d);
        bool good = called == COUNT;
        for (int32_t i = 0; i < COUNT; i++)
            good &=
                d[i] == 6 * i - (i - 7) && (d == b || b[i] == i - 7) && (d == a || a[i] == 3 * i);
        CU_ASSERT(good);
        reduce_apply(&reducer, d, a, b, 0);
        CU_ASSERT_EQUAL(called, COUNT);
    }
    struct reducer sum = {
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT64), .dtype = TUTTI_INT64, .elem_size = 8};
    int64_t x[3] = {1, 2, 3}, y[3] = {10, 20, 30};
    reduce_apply(&sum, y, x, y, sizeof y);
    CU_ASSERT(y[0] == 11 && y[1] == 22 && y[2] == 33);
}

/* A subtraction, which shows the order, at every aliasing; nothing but dst is written. */
static void test_reduce_past_caches_does_the_same(void)
{
    enum { COUNT = 9000, LEAST = 8000 }; /* blocks, and a part of one */
    static int32_t buffers[3][COUNT], before[3][COUNT], expected[COUNT];
    size_t called = 0;
    const struct reducer reducers[] = {
        {.function = user_function, .context = &called, .dtype = TUTTI_INT32, .elem_size = 4},
        {.kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT32), .dtype = TUTTI_INT32, .elem_size = 4}};
    random_state = suite_seed();
    for (int round = 0; round < 60; round++) {
        size_t count = round % 10 ? LEAST + suite_random(&random_state) % (COUNT - LEAST) : 0;
        size_t at[3]; /* at any offset */
        for (int i = 0; i < 3; i++) {
            at[i] = suite_random(&random_state) % (COUNT - count);
            for (size_t k = 0; k < COUNT; k++)
                buffers[i][k] = (int32_t)suite_random(&random_state) >> 3;
        }
        int32_t *a = buffers[0] + at[0], *b = buffers[1] + at[1];
        int32_t *d = round % 3 == APART ? buffers[2] + at[2] : round % 3 == ON_A ? a : b;
        const struct reducer *reducer = &reducers[round & 1];
        memcpy(before, buffers, sizeof before);
        reduce_apply(reducer, expected, a, b, count * sizeof *d);
        reduce_stream(reducer, d, a, b, count * sizeof *d);
        CU_ASSERT(memcmp(d, expected, count * sizeof *d) == 0);
        memcpy(d, &before[0][0] + (d - &buffers[0][0]), count * sizeof *d);
        CU_ASSERT(memcmp(before, buffers, sizeof before) == 0);
    }
}

/* More elements than any block, and more than a 16-bit or page-sized counter would hold. */
static void test_reduce_takes_large_counts(void)
{
    size_t count = ((size_t)3 << 20) + 5;
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
        size_t size = dtype_size((tutti_dtype)dtype);
        unsigned char *a = calloc(count, size), *b = calloc(count, size);
        uint64_t last = 0x3c;
        memcpy(a + (count - 1) * size, &last, size);
        reduce_kernel(TUTTI_SUM, (tutti_dtype)dtype)(b, a, b, count);
        CU_ASSERT_EQUAL(element_load(b + (count - 1) * size, size), last);
        CU_ASSERT_EQUAL(element_load(b + (count - 2) * size, size), 0);
        free(a);
        free(b);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(small_float_round_trips_every_value),
        TEST(small_float_rounds_to_nearest_even),
        TEST(reduce_fp8_matches_on_every_pair),
        TEST(reduce_16_bit_floats_match_on_a_lattice),
        TEST(reduce_matches_on_random_elements),
        TEST(reduce_takes_every_length_offset_and_aliasing),
        TEST(reduce_binds_what_fits),
        TEST(reduce_divides),
        TEST(reduce_scales),
        TEST(reduce_applies_a_users_function_in_order),
        TEST(reduce_past_caches_does_the_same),
        TEST(reduce_takes_large_counts),
    };
    return suite_run("reduce", tests, sizeof tests / sizeof *tests, argc, argv);
}
