/* test_perf.c: what coll_perf's verdict rests on: the layouts of cases.c agree between ranks, a
 * right result is called right, and any wrong byte is found. A naive collective (copy by the
 * layouts of all ranks, reduce with the library's kernels in an order drawn by lot) stands for the
 * library. */
#include "mem/reduce.h"
#include "perf/check.h"
#include "tests/suite.h"

#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 9, BYTES = 3000 };

/* One rank's buffers and call. */
struct rank {
    struct data data;
    struct call call;
    size_t counts[RANKS_MAX], displs[RANKS_MAX];
    struct segment segments[RANKS_MAX];
    struct arena in, out;
    const struct arena *source; /* where IN lies */
};

struct world {
    struct rank ranks[RANKS_MAX];
    int size;
};

static void open_arena(struct arena *arena)
{
    arena->bytes = BYTES + RANKS_MAX * (CASE_GAP + 1) * 8;
    arena->base = malloc(arena->bytes + 2 * (size_t)GUARD_BYTES);
    arena->data = arena->base + GUARD_BYTES;
}

static struct world *open_world(void)
{
    struct world *world = calloc(1, sizeof *world);
    for (int r = 0; r < RANKS_MAX; r++) {
        open_arena(&world->ranks[r].in);
        open_arena(&world->ranks[r].out);
    }
    return world;
}

static void close_world(struct world *world)
{
    for (int r = 0; r < RANKS_MAX; r++) {
        free(world->ranks[r].in.base);
        free(world->ranks[r].out.base);
    }
    free(world);
}

static void prepare(struct world *world, const struct perf_case *row, int root, tutti_dtype dtype,
                    unsigned op, bool in_place, uint64_t bytes)
{
    for (int r = 0; r < world->size; r++) {
        struct rank *rank = &world->ranks[r];
        data_make(&rank->data, dtype, row->reduces ? op : OP_NONE, r, world->size);
        rank->call = (struct call){.row = row,
                                   .rank = r,
                                   .size = world->size,
                                   .root = root,
                                   .dtype = dtype,
                                   .elem_size = tutti_dtype_size(dtype),
                                   .in_place = in_place,
                                   .counts = rank->counts,
                                   .displs = rank->displs,
                                   .segments = rank->segments};
        row->shape(&rank->call, bytes);
        rank->source = rank->call.in_place ? &rank->out : &rank->in;
        check_fill(&rank->call, &rank->data, rank->source, &rank->out);
    }
}

static const unsigned char *input(const struct rank *rank, size_t element)
{
    return rank->source->data + (rank->call.in_at + element) * rank->call.elem_size;
}

/* Reduces `count` elements from `start` of every rank's IN into to, ranks in an order drawn. */
static void horrible_reduce(struct world *world, unsigned op, size_t start, size_t count,
                            unsigned char *to, uint64_t *state)
{
    const struct rank *first = &world->ranks[0];
    size_t size = first->call.elem_size;
    tutti_op step = op == TUTTI_AVG || op == OP_PREMULSUM ? TUTTI_SUM : (tutti_op)op;
    int order[RANKS_MAX];
    for (int r = 0; r < world->size; r++) {
        int other = (int)(suite_random(state) % (uint64_t)(r + 1));
        order[r] = order[other];
        order[other] = r;
    }
    for (int k = 0; k < world->size; k++) {
        const struct rank *rank = &world->ranks[order[k]];
        unsigned char *scaled = malloc(count * size + 1);
        memcpy(scaled, input(rank, start), count * size);
        if (op == OP_PREMULSUM) {
            uint64_t scalar = 0;
            data_scalar(first->call.dtype, order[k], &scalar);
            reduce_scale(first->call.dtype, scaled, scaled, &scalar, count);
        }
        if (k == 0)
            memcpy(to, scaled, count * size);
        else
            reduce_kernel(step, first->call.dtype)(to, to, scaled, count);
        free(scaled);
    }
    if (op == TUTTI_AVG)
        reduce_divide(first->call.dtype, to, (uint32_t)world->size, count);
}

/* The collective itself, for all ranks: results are computed first and then written, because in
 * place an OUT is another's IN no more than its own. */
static void horrible_collective(struct world *world, unsigned op, uint64_t *state)
{
    unsigned char *results[RANKS_MAX];
    for (int r = 0; r < world->size; r++) {
        struct call *call = &world->ranks[r].call;
        size_t size = call->elem_size, used = 0;
        results[r] = malloc(BYTES + RANKS_MAX * 8 + 1);
        for (size_t i = 0; i < call->segment_count; i++) {
            const struct segment *s = &call->segments[i];
            unsigned char *to = results[r] + used;
            if (s->source == SOURCE_REDUCED) {
                horrible_reduce(world, op, s->start, s->count, to, state);
            } else {
                const struct rank *from = &world->ranks[s->source];
                CU_ASSERT_FATAL(s->start + s->count <= from->call.in_extent);
                memcpy(to, input(from, s->start), s->count * size);
            }
            used += s->count * size;
        }
    }
    for (int r = 0; r < world->size; r++) {
        struct call *call = &world->ranks[r].call;
        size_t size = call->elem_size, used = 0;
        for (size_t i = 0; i < call->segment_count; i++) {
            const struct segment *s = &call->segments[i];
            CU_ASSERT_FATAL(s->at + s->count <= call->out_extent);
            memcpy(world->ranks[r].out.data + (call->out_at + s->at) * size, results[r] + used,
                   s->count * size);
            used += s->count * size;
        }
        free(results[r]);
    }
}

static uint64_t verdict(const struct world *world)
{
    uint64_t wrong = 0;
    char text[200];
    for (int r = 0; r < world->size; r++) {
        const struct rank *rank = &world->ranks[r];
        wrong +=
            check_result(&rank->call, &rank->data, rank->source, &rank->out, text, sizeof text);
    }
    return wrong;
}

static void test_check_accepts_right_results(void)
{
    struct world *world = open_world();
    uint64_t state = suite_seed();
    for (size_t c = 0; c < perf_case_count; c++) {
        const struct perf_case *row = &perf_cases[c];
        for (unsigned d = 0; d < TUTTI_DTYPE_COUNT; d++) {
            for (unsigned op = 0; op < (row->reduces ? OP_CHOICES : 1u); op++) {
                if (row->reduces && !data_fits((tutti_dtype)d, op))
                    continue;
                world->size = 1 + (int)(suite_random(&state) % RANKS_MAX);
                int root = (int)(suite_random(&state) % (uint64_t)world->size);
                uint64_t bytes = suite_random(&state) % BYTES;
                for (int in_place = 0; in_place < 1 + row->can_in_place; in_place++) {
                    prepare(world, row, root, (tutti_dtype)d, op, in_place, bytes);
                    horrible_collective(world, op, &state);
                    CU_ASSERT_EQUAL(verdict(world), 0);
                }
            }
        }
    }
    close_world(world);
}

static void test_check_finds_a_wrong_byte(void)
{
    struct world *world = open_world();
    uint64_t state = suite_seed();
    for (int i = 0; i < 2000; i++) {
        const struct perf_case *row = &perf_cases[suite_random(&state) % perf_case_count];
        tutti_dtype dtype = (tutti_dtype)(suite_random(&state) % TUTTI_DTYPE_COUNT);
        world->size = 1 + (int)(suite_random(&state) % RANKS_MAX);
        prepare(world, row, (int)(suite_random(&state) % (uint64_t)world->size), dtype, TUTTI_SUM,
                row->can_in_place && i % 2, suite_random(&state) % BYTES);
        horrible_collective(world, TUTTI_SUM, &state);
        CU_ASSERT_EQUAL(verdict(world), 0);
        struct rank *rank = &world->ranks[suite_random(&state) % (uint64_t)world->size];
        /* any byte of the buffer with OUT: result, gap, input, guard */
        size_t in = rank->call.in_place ? rank->call.in_at + rank->call.in_extent : 0;
        size_t out = rank->call.out_at + rank->call.out_extent;
        size_t used = (in > out ? in : out) * rank->call.elem_size;
        size_t at = suite_random(&state) % (used + 2 * (size_t)GUARD_BYTES);
        rank->out.base[at] ^= (unsigned char)(1u << suite_random(&state) % 8);
        CU_ASSERT_EQUAL(verdict(world), 1);
    }
    close_world(world);
}

/* The property the data is chosen for: sums of up to 64 ranks are the same in any order. */
static void test_data_is_exact_for_many_ranks(void)
{
    static struct data data[64];
    uint64_t state = suite_seed();
    for (unsigned d = 0; d < TUTTI_DTYPE_COUNT; d++) {
        tutti_dtype dtype = (tutti_dtype)d;
        size_t size = tutti_dtype_size(dtype);
        for (int r = 0; r < 64; r++)
            data_make(&data[r], dtype, TUTTI_SUM, r, 64);
        unsigned char *sum = malloc(PERIOD * size);
        int start = (int)(suite_random(&state) % 64);
        memcpy(sum, data[start].own, PERIOD * size);
        for (int k = 1; k < 64; k++)
            reduce_kernel(TUTTI_SUM, dtype)(sum, sum, data[(start + k) % 64].own, PERIOD);
        CU_ASSERT_EQUAL(memcmp(sum, data[0].reduced, PERIOD * size), 0);
        free(sum);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"test_check_accepts_right_results", test_check_accepts_right_results},
        {"test_check_finds_a_wrong_byte", test_check_finds_a_wrong_byte},
        {"test_data_is_exact_for_many_ranks", test_data_is_exact_for_many_ranks},
    };
    return suite_run("perf", tests, sizeof tests / sizeof tests[0], argc, argv);
}
