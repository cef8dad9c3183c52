/* testcase.c: see testcase.h. */
#include "tests/testcase.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/algorithm.h"
#include "mem/reduce.h"
#include "tests/suite.h"
#include "tests/world.h"

/* ---- values -----------------------------------------------------------------------------------
 */

/* The i-th element of rank r's input: 0, 1 or 2; exact in every type, and their sums over 64 ranks
 * are exact in all but the 8-bit floats, for which sums are kept to 0 and 1 at few ranks. */
static int value_of(const struct testcase *c, int rank, size_t i)
{
    int v = (int)((i * 7 + (size_t)rank * 5 + (size_t)c->coll) % 3);
    if (c->op == TUTTI_PROD)
        return 1 + ((i + (size_t)rank) % 5 == 0);
    if (c->dtype == TUTTI_FLOAT8_E4M3 || c->dtype == TUTTI_FLOAT8_E5M2)
        v = (i + (size_t)rank) % 5 == 0;
    return v * c->factor;
}

void testcase_store(void *at, tutti_dtype dtype, int v)
{
    switch (dtype) {
    case TUTTI_FLOAT64:
        *(double *)at = v;
        break;
    case TUTTI_FLOAT32:
        *(float *)at = (float)v;
        break;
    case TUTTI_FLOAT16: /* sign 1, exponent 5, fraction 10 */
    case TUTTI_BFLOAT16:
    case TUTTI_FLOAT8_E4M3:
    case TUTTI_FLOAT8_E5M2: {
        /* 1.0 scaled: exact for the small integers used here. */
        float one = (float)v;
        uint32_t bits;
        memcpy(&bits, &one, 4);
        uint32_t exponent = bits >> 23 & 255, fraction = bits & 0x7fffff;
        int fraction_bits = dtype == TUTTI_FLOAT16       ? 10
                            : dtype == TUTTI_BFLOAT16    ? 7
                            : dtype == TUTTI_FLOAT8_E4M3 ? 3
                                                         : 2;
        int bias = dtype == TUTTI_FLOAT16 || dtype == TUTTI_FLOAT8_E5M2 ? 15
                   : dtype == TUTTI_BFLOAT16                            ? 127
                                                                        : 7;
        uint32_t out = v == 0 ? 0
                              : (exponent - 127 + (uint32_t)bias) << fraction_bits |
                                    fraction >> (23 - fraction_bits);
        if (dtype_size(dtype) == 2)
            *(uint16_t *)at = (uint16_t)out;
        else
            *(uint8_t *)at = (uint8_t)out;
        break;
    }
    default:
        switch (dtype_size(dtype)) {
        case 1:
            *(uint8_t *)at = (uint8_t)v;
            break;
        case 2:
            *(uint16_t *)at = (uint16_t)v;
            break;
        case 4:
            *(uint32_t *)at = (uint32_t)v;
            break;
        default:
            *(uint64_t *)at = (uint64_t)v;
        }
    }
}

int testcase_scalar(int rank)
{
    return 1 + rank % 2;
}

static int scaled(const struct testcase *c, int rank, size_t i)
{
    return value_of(c, rank, i) * (c->premulsum ? testcase_scalar(rank) : 1);
}

/* The reduction over all ranks of element i, in plain integers. */
static int horrible_reduction(const struct testcase *c, int size, size_t i)
{
    long long x = scaled(c, 0, i);
    for (int r = 1; r < size; r++) {
        int v = scaled(c, r, i);
        switch (c->op) {
        case TUTTI_PROD:
            x *= v;
            break;
        case TUTTI_MIN:
            x = v < x ? v : x;
            break;
        case TUTTI_MAX:
            x = v > x ? v : x;
            break;
        case TUTTI_BAND:
            x &= v;
            break;
        case TUTTI_BOR:
            x |= v;
            break;
        case TUTTI_BXOR:
            x ^= v;
            break;
        default:
            x += v;
        }
    }
    return (int)(c->op == TUTTI_AVG ? x / size : x);
}

/* ---- the expectation --------------------------------------------------------------------------
 */

/* What element i of OUT at this rank is: false when it is not specified. */
static int expected(const struct testcase *c, int rank, int size, size_t i, int *v)
{
    size_t n = c->count;
    switch (c->coll) {
    case TUTTI_COLL_ALLREDUCE:
        *v = horrible_reduction(c, size, i);
        return 1;
    case TUTTI_COLL_REDUCE:
        *v = horrible_reduction(c, size, i);
        return rank == c->root;
    case TUTTI_COLL_REDUCE_SCATTER:
        *v = horrible_reduction(c, size, (size_t)rank * n + i);
        return 1;
    case TUTTI_COLL_REDUCE_SCATTERV: {
        size_t before = 0;
        for (int r = 0; r < rank; r++)
            before += c->counts[r];
        *v = horrible_reduction(c, size, before + i);
        return 1;
    }
    case TUTTI_COLL_BROADCAST:
        *v = value_of(c, c->root, i);
        return 1;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_GATHER:
        *v = value_of(c, (int)(i / n), i % n);
        return c->coll == TUTTI_COLL_ALLGATHER || rank == c->root;
    case TUTTI_COLL_SCATTER:
        *v = value_of(c, c->root, (size_t)rank * n + i);
        return 1;
    case TUTTI_COLL_ALLTOALL:
        *v = value_of(c, (int)(i / n), (size_t)rank * n + i % n);
        return 1;
    case TUTTI_COLL_SCATTERV:
        *v = value_of(c, c->root, c->displs[rank] + i);
        return 1;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHERV:
        for (int r = 0; r < size; r++) {
            if (i >= c->displs[r] && i < c->displs[r] + c->counts[r]) {
                *v = value_of(c, r, i - c->displs[r]);
                return c->coll == TUTTI_COLL_ALLGATHERV || rank == c->root;
            }
        }
        return 0;
    case TUTTI_COLL_ALLTOALLV: {
        size_t at = 0;
        for (int r = 0; r < size; r++) {
            if (i >= at && i < at + c->matrix[r][rank]) {
                size_t in = 0;
                for (int q = 0; q < rank; q++)
                    in += c->matrix[r][q];
                *v = value_of(c, r, in + i - at);
                return 1;
            }
            at += c->matrix[r][rank];
        }
        return 0;
    }
    default:
        return 0;
    }
}

static size_t sum(const size_t *counts, int size)
{
    size_t total = 0;
    for (int r = 0; r < size; r++)
        total += counts[r];
    return total;
}

/* Elements of IN and OUT, and where IN lies within OUT (or OUT within IN) in place. */
void testcase_extents(const struct testcase *c, int rank, int size, size_t *in, size_t *out,
                      size_t *own)
{
    size_t n = c->count, all = n * (size_t)size;
    *in = *out = n;
    *own = (size_t)rank * n;
    switch (c->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_GATHER:
        *out = all;
        break;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_SCATTER:
        *in = all;
        break;
    case TUTTI_COLL_ALLTOALL:
        *in = *out = all;
        *own = 0;
        break;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHERV:
        *in = c->counts[rank];
        *out = c->displs[size - 1] + c->counts[size - 1];
        *own = c->displs[rank];
        break;
    case TUTTI_COLL_REDUCE_SCATTERV:
        *in = sum(c->counts, size);
        *out = c->counts[rank];
        *own = sum(c->counts, rank);
        break;
    case TUTTI_COLL_SCATTERV:
        *in = c->displs[size - 1] + c->counts[size - 1];
        *out = c->counts[rank];
        *own = c->displs[rank];
        break;
    case TUTTI_COLL_ALLTOALLV:
        *in = sum(c->matrix[rank], size);
        *out = 0;
        for (int r = 0; r < size; r++)
            *out += c->matrix[r][rank];
        *own = 0;
        break;
    case TUTTI_COLL_BARRIER:
        *in = *out = 0;
        break;
    default:
        *own = 0;
    }
}

int testcase_algorithms(int k, char *text, size_t len)
{
    int found = 0, at = snprintf(text, len, "TUTTI_ALGO=");
    for (int coll = 0; coll < TUTTI_COLL_COUNT; coll++) {
        int seen = 0;
        for (int i = 0; algorithm_table[i]; i++) {
            if ((int)algorithm_table[i]->coll == coll && seen++ == k) {
                at += snprintf(text + at, len - (size_t)at, "%s%s:%s", found ? "," : "",
                               coll_name((tutti_coll)coll), algorithm_table[i]->name);
                found = 1;
            }
        }
    }
    return found;
}

/* ---- one call ---------------------------------------------------------------------------------
 */

tutti_status testcase_issue(const struct testcase *c, int rank, int size, const void *in, void *out,
                            tutti_comm *comm, void *stream)
{
    tutti_op op = c->made ? c->made : c->op;
    tutti_request *request = NULL;
    tutti_status s = TUTTI_ERR_INTERNAL;
    size_t columns[TESTCASE_RANKS_MAX];
    for (int r = 0; r < size; r++)
        columns[r] = c->matrix[r][rank];
#define RUN(name, ...)                                                                             \
    s = c->form == FORM_STARTED     ? tutti_##name##_start(__VA_ARGS__, comm, &request)            \
        : c->form == FORM_ON_STREAM ? tutti_##name##_on(__VA_ARGS__, comm, stream)                 \
                                    : tutti_##name(__VA_ARGS__, comm)
    switch (c->coll) {
    case TUTTI_COLL_ALLREDUCE:
        RUN(allreduce, in, out, c->count, c->dtype, op);
        break;
    case TUTTI_COLL_ALLGATHER:
        RUN(allgather, in, out, c->count, c->dtype);
        break;
    case TUTTI_COLL_ALLGATHERV:
        RUN(allgatherv, in, out, c->counts, c->displs, c->dtype);
        break;
    case TUTTI_COLL_REDUCE_SCATTER:
        RUN(reduce_scatter, in, out, c->count, c->dtype, op);
        break;
    case TUTTI_COLL_REDUCE_SCATTERV:
        RUN(reduce_scatterv, in, out, c->counts, c->dtype, op);
        break;
    case TUTTI_COLL_BROADCAST:
        RUN(broadcast, in, out, c->count, c->dtype, c->root);
        break;
    case TUTTI_COLL_REDUCE:
        RUN(reduce, in, out, c->count, c->dtype, op, c->root);
        break;
    case TUTTI_COLL_GATHER:
        RUN(gather, in, out, c->count, c->dtype, c->root);
        break;
    case TUTTI_COLL_GATHERV:
        RUN(gatherv, in, c->counts[rank], out, c->counts, c->displs, c->dtype, c->root);
        break;
    case TUTTI_COLL_SCATTER:
        RUN(scatter, in, out, c->count, c->dtype, c->root);
        break;
    case TUTTI_COLL_SCATTERV:
        RUN(scatterv, in, c->counts, c->displs, out, c->counts[rank], c->dtype, c->root);
        break;
    case TUTTI_COLL_ALLTOALL:
        RUN(alltoall, in, out, c->count, c->dtype);
        break;
    case TUTTI_COLL_ALLTOALLV:
        RUN(alltoallv, in, c->matrix[rank], NULL, out, columns, NULL, c->dtype);
        break;
    default:
        s = c->form == FORM_ON_STREAM ? tutti_barrier_on(comm, stream) : tutti_barrier(comm);
    }
#undef RUN
    if (s == TUTTI_OK && request)
        s = tutti_wait(&request);
    return s;
}

void testcase_fill(const struct testcase *c, int rank, void *in, size_t count)
{
    size_t e = dtype_size(c->dtype);
    for (size_t i = 0; i < count; i++)
        testcase_store((char *)in + i * e, c->dtype, value_of(c, rank, i));
}

void testcase_describe(const struct testcase *c, int number, int size, char *text, size_t len)
{
    static const char *const forms[] = {"", " started", " on a stream"};
    snprintf(text, len, "case %d %s %s %s%s count %zu root %d size %d%s%s", number,
             coll_name(c->coll), dtype_name(c->dtype), c->premulsum ? "scaled " : "",
             op_name(c->op), c->count, c->root, size, c->in_place ? " in place" : "",
             forms[c->form]);
}

/* ---- the result -------------------------------------------------------------------------------
 */

static int is_untouched(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if ((uint8_t)bytes[i] != TESTCASE_GUARD_BYTE)
            return 0;
    }
    return 1;
}

int testcase_check(const struct testcase *c, int rank, int size, const char *block,
                   size_t block_bytes, const char *out, size_t out_bytes, const char *text)
{
    size_t e = dtype_size(c->dtype);
    char want[8];
    for (size_t i = 0; i < out_bytes / e; i++) {
        int v;
        if (!expected(c, rank, size, i, &v)) {
            if (!c->in_place && !is_untouched(out + i * e, e))
                return world_check(rank, 0, "%s: element %zu changed, which is nobody's", text, i);
            continue;
        }
        testcase_store(want, c->dtype, v);
        if (memcmp(out + i * e, want, e) != 0)
            return world_check(rank, 0, "%s: element %zu of %zu is wrong (expected %d)", text, i,
                               out_bytes / e, v);
    }
    return world_check(rank,
                       is_untouched(block, TESTCASE_GUARD) &&
                           is_untouched(block + block_bytes - TESTCASE_GUARD, TESTCASE_GUARD),
                       "%s: bytes outside the buffer changed", text);
}

/* ---- generation -------------------------------------------------------------------------------
 */

static size_t random_count(uint64_t *state, size_t max, int size)
{
    switch (suite_random(state) % 8) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return (size_t)size;
    case 3:
        return (size_t)size - 1;
    case 4:
        return (size_t)size + 1;
    case 5:
        return suite_random(state) % (max * 8) + 1;
    default:
        return suite_random(state) % max + 1;
    }
}

void testcase_generate(struct testcase *c, uint64_t *state, int size, size_t count_max)
{
    memset(c, 0, sizeof *c);
    c->factor = 1;
    c->coll = (tutti_coll)(suite_random(state) % TUTTI_COLL_SENDRECV);
    c->dtype = (tutti_dtype)(suite_random(state) % TUTTI_DTYPE_COUNT);
    do
        c->op = (tutti_op)(suite_random(state) % TUTTI_OP_COUNT);
    while (c->op == TUTTI_AVG || !reduce_kernel(c->op, c->dtype));
    c->count = random_count(state, count_max, size);
    c->root = (int)(suite_random(state) % (uint64_t)size);
    c->form = suite_random(state) % 4 == 0 ? FORM_STARTED : FORM_BLOCKING;
    size_t at = 0;
    for (int r = 0; r < size; r++) {
        c->counts[r] = suite_random(state) % 3 ? suite_random(state) % (count_max + 1) : 0;
        c->displs[r] = at + suite_random(state) % 3;
        at = c->displs[r] + c->counts[r];
        for (int q = 0; q < size; q++)
            c->matrix[r][q] = suite_random(state) % 3 ? suite_random(state) % count_max : 0;
    }
    c->in_place = suite_random(state) % 3 == 0 && c->coll != TUTTI_COLL_ALLTOALLV;
    if (c->coll == TUTTI_COLL_SCATTERV || c->coll == TUTTI_COLL_REDUCE_SCATTERV ||
        c->coll == TUTTI_COLL_GATHERV || c->coll == TUTTI_COLL_ALLGATHERV)
        c->in_place = 0; /* guarded blocks with gaps: covered by the schedule tests */
}

void testcase_set_avg(struct testcase *c, int size)
{
    c->op = TUTTI_AVG;
    c->factor = size;
}

void testcase_set_premulsum(struct testcase *c, tutti_op made)
{
    c->op = TUTTI_SUM;
    c->premulsum = 1;
    c->made = made;
}

void testcase_set_user_sum(struct testcase *c, tutti_op made)
{
    c->op = TUTTI_SUM;
    c->made = made;
}

/* ---- one call ---------------------------------------------------------------------------------
 */

static char *take(size_t bytes, int library)
{
    void *memory = NULL;
    if (!library)
        return malloc(bytes);
    return tutti_mem_alloc(bytes, &memory) == TUTTI_OK ? memory : NULL;
}

static void give(char *memory, int library)
{
    if (library)
        tutti_mem_free(memory);
    else
        free(memory);
}

int testcase_run(const struct testcase *c, int library, int rank, int size, tutti_comm *comm,
                 int number)
{
    size_t e = tutti_dtype_size(c->dtype), in_count, out_count, own;
    char text[256];
    testcase_extents(c, rank, size, &in_count, &out_count, &own);
    testcase_describe(c, number, size, text, sizeof text);
    size_t larger = in_count > out_count ? in_count : out_count;
    size_t in_bytes = c->in_place ? larger * e : in_count * e;
    size_t out_bytes = out_count * e;
    size_t in_block = in_bytes + 2 * TESTCASE_GUARD, out_block = out_bytes + 2 * TESTCASE_GUARD;
    char *in_memory = take(in_block, library);
    char *out_memory = c->in_place ? in_memory : take(out_block, library);
    memset(in_memory, TESTCASE_GUARD_BYTE, in_block);
    memset(out_memory, TESTCASE_GUARD_BYTE, c->in_place ? in_block : out_block);
    char *in = in_memory + TESTCASE_GUARD, *out = out_memory + TESTCASE_GUARD;
    if (c->in_place) {
        out_block = in_block;
        if (in_count < out_count)
            in += own * e;
        else if (out_count < in_count)
            out += own * e;
    }
    testcase_fill(c, rank, in, in_count);
    tutti_status s = testcase_issue(c, rank, size, in, out, comm, NULL);
    int wrong = s == TUTTI_ERR_SETTING ? -1 : 0;
    if (s != TUTTI_OK && s != TUTTI_ERR_SETTING)
        wrong =
            world_check(rank, 0, "%s: %s: %s", text, tutti_status_string(s), tutti_last_error());
    else if (s == TUTTI_OK)
        wrong = testcase_check(c, rank, size, out_memory, out_block, out, out_bytes, text);
    give(in_memory, library);
    if (!c->in_place)
        give(out_memory, library);
    return wrong;
}
