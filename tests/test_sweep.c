/* test_sweep.c: seeded random calls of every collective, type, operation, count, root and
 * algorithm, in place and not, at many rank counts over every transport, compared with a naive
 * reference. Inputs are small integers, exact in every type, so that the comparison is exact. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/algorithm.h"
#include "mem/reduce.h"
#include "tests/suite.h"
#include "tests/world.h"

#define GUARD      64 /* bytes around each buffer that must not change */
#define GUARD_BYTE 0xa5

struct sweep {
    uint64_t seed;
    int cases;
    size_t count_max;
};

struct testcase {
    tutti_coll coll;
    tutti_dtype dtype;
    tutti_op op;
    size_t count;
    int root, started, in_place, library_memory;
    size_t counts[64], displs[64];
    size_t matrix[64][64]; /* alltoallv: elements from row to column */
};

/* ---- values -----------------------------------------------------------------------------------
 */

/* The i-th element of rank r's input: 0, 1 or 2; exact in every type, and their sums over 64 ranks
 * are exact in all but the 8-bit floats, for which sums are kept to 0 and 1 at few ranks. */
static int value_of(const struct testcase *c, int rank, size_t i)
{
    int v = (int)((i * 7 + (size_t)rank * 3 + (size_t)c->coll) % 3);
    if (c->op == TUTTI_PROD)
        return 1 + ((i + (size_t)rank) % 5 == 0);
    if (c->dtype == TUTTI_FLOAT8_E4M3 || c->dtype == TUTTI_FLOAT8_E5M2)
        return (i + (size_t)rank) % 5 == 0;
    return v;
}

static void store(void *at, tutti_dtype dtype, int v)
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

/* The reduction over all ranks of element i, in plain integers. */
static int horrible_reduction(const struct testcase *c, int size, size_t i)
{
    long long x = value_of(c, 0, i);
    for (int r = 1; r < size; r++) {
        int v = value_of(c, r, i);
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
    return (int)x;
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
static void extents(const struct testcase *c, int rank, int size, size_t *in, size_t *out,
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

/* ---- one call ---------------------------------------------------------------------------------
 */

static tutti_status issue(const struct testcase *c, int rank, int size, const void *in, void *out,
                          tutti_comm *comm)
{
    tutti_request *request = NULL;
    tutti_status s = TUTTI_ERR_INTERNAL;
    size_t columns[64];
    for (int r = 0; r < size; r++)
        columns[r] = c->matrix[r][rank];
#define RUN(name, ...)                                                                             \
    s = c->started ? tutti_##name##_start(__VA_ARGS__, comm, &request)                             \
                   : tutti_##name(__VA_ARGS__, comm)
    switch (c->coll) {
    case TUTTI_COLL_ALLREDUCE:
        RUN(allreduce, in, out, c->count, c->dtype, c->op);
        break;
    case TUTTI_COLL_ALLGATHER:
        RUN(allgather, in, out, c->count, c->dtype);
        break;
    case TUTTI_COLL_ALLGATHERV:
        RUN(allgatherv, in, out, c->counts, c->displs, c->dtype);
        break;
    case TUTTI_COLL_REDUCE_SCATTER:
        RUN(reduce_scatter, in, out, c->count, c->dtype, c->op);
        break;
    case TUTTI_COLL_REDUCE_SCATTERV:
        RUN(reduce_scatterv, in, out, c->counts, c->dtype, c->op);
        break;
    case TUTTI_COLL_BROADCAST:
        RUN(broadcast, in, out, c->count, c->dtype, c->root);
        break;
    case TUTTI_COLL_REDUCE:
        RUN(reduce, in, out, c->count, c->dtype, c->op, c->root);
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
        s = tutti_barrier(comm);
    }
#undef RUN
    if (s == TUTTI_OK && request)
        s = tutti_wait(&request);
    return s;
}

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

static int check_output(const struct testcase *c, int rank, int size, const char *block,
                        const char *out, size_t out_bytes, size_t block_bytes, const char *text)
{
    size_t e = dtype_size(c->dtype);
    char want[8];
    for (size_t i = 0; i < out_bytes / e; i++) {
        int v;
        if (!expected(c, rank, size, i, &v))
            continue;
        store(want, c->dtype, v);
        if (memcmp(out + i * e, want, e) != 0)
            return world_check(rank, 0, "%s: element %zu of %zu is wrong (expected %d)", text, i,
                               out_bytes / e, v);
    }
    for (size_t i = 0; i < GUARD; i++) {
        if ((uint8_t)block[i] != GUARD_BYTE || (uint8_t)block[block_bytes - 1 - i] != GUARD_BYTE)
            return world_check(rank, 0, "%s: bytes outside the buffer changed", text);
    }
    return 0;
}

/* 1 if wrong, -1 if the algorithm asked for does not fit this call. */
static int run_case(const struct testcase *c, int rank, int size, tutti_comm *comm, int number)
{
    size_t e = dtype_size(c->dtype), in_count, out_count, own;
    char text[256];
    extents(c, rank, size, &in_count, &out_count, &own);
    snprintf(text, sizeof text, "case %d %s %s %s count %zu root %d size %d%s%s%s", number,
             coll_name(c->coll), dtype_name(c->dtype), op_name(c->op), c->count, c->root, size,
             c->in_place ? " in place" : "", c->started ? " started" : "",
             c->library_memory ? " library memory" : "");
    size_t larger = in_count > out_count ? in_count : out_count;
    size_t in_bytes = c->in_place ? larger * e : in_count * e;
    size_t out_bytes = out_count * e;
    size_t in_block = in_bytes + 2 * GUARD, out_block = out_bytes + 2 * GUARD;
    char *in_memory = take(in_block, c->library_memory);
    char *out_memory = c->in_place ? in_memory : take(out_block, c->library_memory);
    memset(in_memory, GUARD_BYTE, in_block);
    memset(out_memory, GUARD_BYTE, c->in_place ? in_block : out_block);
    char *in = in_memory + GUARD, *out = out_memory + GUARD;
    if (c->in_place) {
        out_block = in_block;
        if (in_count < out_count)
            in += own * e;
        else if (out_count < in_count)
            out += own * e;
    }
    for (size_t i = 0; i < in_count; i++)
        store(in + i * e, c->dtype, value_of(c, rank, i));
    tutti_status s = issue(c, rank, size, in, out, comm);
    int wrong = s == TUTTI_ERR_SETTING ? -1 : 0;
    if (s != TUTTI_OK && s != TUTTI_ERR_SETTING)
        wrong =
            world_check(rank, 0, "%s: %s: %s", text, tutti_status_string(s), tutti_last_error());
    else if (s == TUTTI_OK)
        wrong = check_output(c, rank, size, out_memory, out, out_bytes, out_block, text);
    give(in_memory, c->library_memory);
    if (!c->in_place)
        give(out_memory, c->library_memory);
    return wrong;
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

static void generate(struct testcase *c, uint64_t *state, int size, size_t count_max)
{
    memset(c, 0, sizeof *c);
    c->coll = (tutti_coll)(suite_random(state) % TUTTI_COLL_SENDRECV);
    c->dtype = (tutti_dtype)(suite_random(state) % TUTTI_DTYPE_COUNT);
    do
        c->op = (tutti_op)(suite_random(state) % TUTTI_OP_COUNT);
    while (c->op == TUTTI_AVG || !reduce_kernel(c->op, c->dtype));
    c->count = random_count(state, count_max, size);
    c->root = (int)(suite_random(state) % (uint64_t)size);
    c->started = suite_random(state) % 4 == 0;
    c->library_memory = suite_random(state) % 2 == 0;
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

static int sweep(tutti_comm *comm, int rank, int size, void *context)
{
    struct sweep *s = context;
    uint64_t state = s->seed;
    int wrong = 0;
    struct testcase *c = malloc(sizeof *c);
    for (int i = 0; i < s->cases && wrong == 0; i++) {
        generate(c, &state, size, s->count_max);
        int result = run_case(c, rank, size, comm, i);
        wrong += result > 0 ? result : 0;
    }
    free(c);
    return wrong;
}

/* ---- suites -----------------------------------------------------------------------------------
 */

/* The k-th algorithm of every collective that has one, as a setting; false when none has. */
static int algorithms_text(int k, char *text, size_t len)
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

static void run_sweep(enum world_kind kind, const char *transports, const int *sizes, int cases,
                      size_t count_max)
{
    char algorithms[512];
    const char *settings[] = {transports, "TUTTI_CHUNK=1024", NULL, NULL};
    if (getenv("TUTTI_TEST_FAST"))
        cases = cases / 4 + 1;
    for (; *sizes; sizes++) {
        for (int k = -1; k < 0 || algorithms_text(k, algorithms, sizeof algorithms); k++) {
            settings[2] = k < 0 ? NULL : algorithms;
            struct sweep s = {suite_seed() + (uint64_t)(*sizes * 100 + k), cases, count_max};
            struct world world = {.kind = kind, .size = *sizes, .settings = settings};
            int wrong = world_run(&world, sweep, &s);
            if (wrong)
                printf("    %s %s, %d ranks: %d wrong\n", transports, k < 0 ? "auto" : algorithms,
                       *sizes, wrong);
            CU_ASSERT_EQUAL(wrong, 0);
        }
    }
}

static void test_sweep_inproc(void)
{
    run_sweep(WORLD_THREADS, "TUTTI_TRANSPORTS=inproc", (int[]){1, 2, 3, 4, 5, 7, 8, 13, 0}, 80,
              1500);
}

static void test_sweep_shm(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=shm", (int[]){1, 2, 3, 4, 5, 7, 0}, 80, 6000);
}

static void test_sweep_shm_without_in_place_reads(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_INPLACE=0", (int[]){2, 3, 0}, 40, 6000);
}

static void test_sweep_shm_staged(void)
{
    setenv("TUTTI_CMA", "0", 1);
    run_sweep(WORLD_PROCESSES, "TUTTI_INPLACE=0", (int[]){2, 3, 0}, 40, 6000);
    unsetenv("TUTTI_CMA");
}

static void test_sweep_tcp(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=tcp", (int[]){1, 2, 3, 4, 5, 0}, 60, 6000);
}

static void test_sweep_tcp_lanes(void)
{
    setenv("TUTTI_LANES", "3", 1);
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=tcp", (int[]){3, 0}, 40, 20000);
    unsetenv("TUTTI_LANES");
}

/* Hosts are named by TUTTI_HOST_ID per process, so shared memory inside, TCP between. */
static int sweep_hosts(tutti_comm *comm, int rank, int size, void *context)
{
    int hosts;
    int wrong = world_check(rank, tutti_comm_host_count(comm, &hosts) == TUTTI_OK, "host count");
    return wrong + sweep(comm, rank, size, context);
}

/* Over the transports that TUTTI_TEST_TRANSPORTS lists (a setting's value, "shm,roce"), on the
 * hosts of TUTTI_TEST_HOSTS. */
static void test_sweep_chosen(void)
{
    char transports[128];
    snprintf(transports, sizeof transports, "TUTTI_TRANSPORTS=%s", getenv("TUTTI_TEST_TRANSPORTS"));
    run_sweep(WORLD_PROCESSES, transports, (int[]){2, 3, 4, 0}, 40, 20000);
}

static void test_sweep_threads_over_tcp(void)
{
    struct sweep s = {suite_seed(), 60, 3000};
    struct world world = {.kind = WORLD_THREADS,
                          .size = 5,
                          .settings = (const char *[]){"TUTTI_TRANSPORTS=tcp", NULL}};
    CU_ASSERT_EQUAL(world_run(&world, sweep_hosts, &s), 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"inproc", test_sweep_inproc},
        {"shm", test_sweep_shm},
        {"shm_without_in_place_reads", test_sweep_shm_without_in_place_reads},
        {"shm_staged", test_sweep_shm_staged},
        {"tcp", test_sweep_tcp},
        {"tcp_lanes", test_sweep_tcp_lanes},
        {"threads_over_tcp", test_sweep_threads_over_tcp},
    };
    static const struct suite_test chosen[] = {{"chosen", test_sweep_chosen}};
    if (getenv("TUTTI_TEST_TRANSPORTS"))
        return suite_run("sweep", chosen, 1, argc, argv);
    return suite_run("sweep", tests, sizeof tests / sizeof *tests, argc, argv);
}
