/* test_cuda_kernels.c: the kernels for GPUs, as they are written, run on the CPU (cuda_kernels.h).
 *
 * First the arithmetic: every operation on every type against the slow reference. Then how memory
 * is read: results of pairs that the reference has given are drawn again and again, at every
 * alignment of the three buffers, in place, at lengths around a vector, a flight of vectors and the
 * grid's stride, by one thread and by grids of them; nothing else may change, and nothing may be
 * read but the aligned words that hold the elements, up to pages that nobody may touch. Last the
 * claim: attempts at one piece of work race, and it is done once. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/reduce.h"
#include "tests/cuda_kernels.h"
#include "tests/horrible_reduce.h"
#include "tests/suite.h"

#define ALIGNMENTS 16 /* of a buffer, relative to a vector */
#define GUARD      32 /* bytes that must not change, on both sides */
#define FLIGHT_MAX 4  /* vectors that a thread has in flight */

static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
    return suite_random(&random_state) % limit;
}

static bool is_fast(void)
{
    return getenv("TUTTI_TEST_FAST") != NULL;
}

/* ---- pairs of elements with what must become of them ----------------------------------------- */

enum { POOL = 256 };

struct pool {
    const struct cuda_kernel *kernel;
    size_t size; /* of an element */
    bool two;    /* b is read */
    uint64_t scalar;
    uint32_t ranks;
    uint64_t a[POOL], b[POOL], result[POOL];
};

static uint64_t expected_of(const struct pool *pool, uint64_t a, uint64_t b)
{
    const struct cuda_kernel *kernel = pool->kernel;
    switch (kernel->kind) {
    case KERNEL_REDUCE:
        return horrible_op(kernel->op, kernel->dtype, a, b);
    case KERNEL_SCALE:
        return horrible_op(TUTTI_PROD, kernel->dtype, a, pool->scalar);
    case KERNEL_DIVIDE:
        return horrible_divide(kernel->dtype, a, pool->ranks);
    default:
        return a;
    }
}

static struct pool pool_of(const struct cuda_kernel *kernel)
{
    static const uint32_t ranks[] = {1, 2, 3, 7, 64, 127, 255, 1000, 65537, UINT32_MAX};
    struct pool pool = {.kernel = kernel,
                        .size = dtype_size(kernel->dtype),
                        .two = kernel->kind == KERNEL_REDUCE,
                        .scalar = element_random(kernel->dtype, &random_state),
                        .ranks = ranks[random_below(sizeof ranks / sizeof *ranks)]};
    for (size_t i = 0; i < POOL; i++) {
        pool.a[i] = element_random(kernel->dtype, &random_state);
        pool.b[i] = element_random(kernel->dtype, &random_state);
        pool.result[i] = expected_of(&pool, pool.a[i], pool.b[i]);
    }
    return pool;
}

/* How many blocks of how many threads. */
struct grid {
    unsigned blocks, threads;
};

static struct cuda_work work_of(const struct pool *pool, void *dst, const void *a, const void *b,
                                size_t count)
{
    return (struct cuda_work){.dst = dst,
                              .a = a,
                              .b = pool->two ? b : NULL,
                              .count = count,
                              .scalar = pool->scalar,
                              .ranks = pool->ranks};
}

/* ---- one launch ------------------------------------------------------------------------------ */

enum aliasing { APART, ON_A, ON_B, ALIASINGS };

/* A launch under test: where its elements are, and which pair of the pool each is. */
struct launch {
    const struct pool *pool;
    struct grid grid;
    size_t count;
    enum aliasing aliasing;
    unsigned char *dst, *a, *b;
    unsigned char *picks; /* count of them */
};

static void fill_operands(const struct launch *launch)
{
    const struct pool *pool = launch->pool;
    for (size_t i = 0; i < launch->count; i++) {
        unsigned char pick = launch->picks[i] = (unsigned char)random_below(POOL);
        memcpy(launch->a + i * pool->size, &pool->a[pick], pool->size);
        memcpy(launch->b + i * pool->size, &pool->b[pick], pool->size);
    }
}

/* The first difference is printed. */
static bool results_match(const struct launch *launch)
{
    const struct pool *pool = launch->pool;
    for (size_t i = 0; i < launch->count; i++) {
        uint64_t got = element_load(launch->dst + i * pool->size, pool->size);
        size_t pick = launch->picks[i];
        if (element_same(pool->kernel->dtype, got, pool->result[pick]))
            continue;
        printf("    %s, grid %ux%u, dst %% 16 = %u, a %u, b %u, aliasing %d: element %zu of %zu: "
               "%llx, %llx gave %llx, expected %llx\n",
               pool->kernel->name, launch->grid.blocks, launch->grid.threads,
               (unsigned)((uintptr_t)launch->dst % 16), (unsigned)((uintptr_t)launch->a % 16),
               (unsigned)((uintptr_t)launch->b % 16), (int)launch->aliasing, i, launch->count,
               (unsigned long long)pool->a[pick], (unsigned long long)pool->b[pick],
               (unsigned long long)got, (unsigned long long)pool->result[pick]);
        return false;
    }
    return true;
}

static void play(const struct launch *launch)
{
    struct cuda_work work = work_of(launch->pool, launch->dst, launch->a, launch->b, launch->count);
    cuda_kernel_play(launch->pool->kernel, &work, launch->grid.blocks, launch->grid.threads);
}

/* Three buffers, their guards and how they were. */
struct room {
    size_t bytes; /* of a buffer with its guards */
    unsigned char *buffer[3], *before[3], *picks;
};

static struct room make_room(size_t bytes)
{
    struct room room = {.bytes = GUARD + ALIGNMENTS + bytes + GUARD};
    for (size_t i = 0; i < 3; i++) {
        room.buffer[i] = aligned_alloc(64, (room.bytes + 63) / 64 * 64);
        room.before[i] = malloc(room.bytes);
        memset(room.buffer[i], 0x5a, room.bytes);
    }
    room.picks = malloc(bytes);
    return room;
}

static void drop_room(struct room room)
{
    for (size_t i = 0; i < 3; i++) {
        free(room.buffer[i]);
        free(room.before[i]);
    }
    free(room.picks);
}

/* at: where each buffer begins relative to a vector: dst, a, b. */
static bool launch_matches(struct room *room, const struct pool *pool, struct grid grid,
                           const unsigned at[3], enum aliasing aliasing, size_t count)
{
    if (aliasing == ON_B && !pool->two)
        aliasing = ON_A;
    unsigned which = aliasing == APART ? 0 : aliasing == ON_A ? 1 : 2; /* buffer that changes */
    unsigned char *place[3];
    for (size_t i = 0; i < 3; i++)
        place[i] = room->buffer[i] + GUARD + at[i];
    struct launch launch = {.pool = pool,
                            .grid = grid,
                            .count = count,
                            .aliasing = aliasing,
                            .dst = place[which],
                            .a = place[1],
                            .b = place[2],
                            .picks = room->picks};
    fill_operands(&launch);
    for (size_t i = 0; i < 3; i++)
        memcpy(room->before[i], room->buffer[i], room->bytes);
    play(&launch);
    bool good = results_match(&launch);
    memcpy(room->before[which] + (launch.dst - room->buffer[which]), launch.dst,
           count * pool->size);
    for (size_t i = 0; i < 3 && good; i++) {
        good = memcmp(room->before[i], room->buffer[i], room->bytes) == 0;
        if (!good)
            printf("    %s, grid %ux%u: changed what is not its own\n", pool->kernel->name,
                   grid.blocks, grid.threads);
    }
    return good;
}

/* None, one, or about as many elements as a vector, some vectors, a stride of the grid or some of
 * its flights have: one less, as many or one more, and what the head has. */
static size_t random_count(size_t size, struct grid grid)
{
    size_t lanes = CUDA_VECTOR / size, threads = (size_t)grid.blocks * grid.threads;
    size_t vectors[] = {
        1, 2, 3, threads, threads + 1, FLIGHT_MAX * threads, 2 * FLIGHT_MAX * threads};
    uint64_t choice = random_below(2 + sizeof vectors / sizeof *vectors);
    if (choice < 2)
        return choice;
    return lanes * vectors[choice - 2] + random_below(3) - 1 +
           random_below(2) * random_below(lanes);
}

static size_t most_bytes(struct grid grid)
{
    return (2 * FLIGHT_MAX * (size_t)grid.blocks * grid.threads + 3) * CUDA_VECTOR +
           2 * CUDA_VECTOR;
}

/* ---- tests: arithmetic ----------------------------------------------------------------------- */

static void test_cuda_kernels_are_those_that_are_asked_for(void)
{
    size_t wanted = 1, there = 0;
    CU_ASSERT_PTR_NOT_NULL(cuda_kernel_find(CUDA_KERNEL_PREFIX "copy_uint8"));
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT; dtype++) {
        for (int op = -2; op < TUTTI_OP_COUNT; op++) {
            char name[64];
            if (op >= 0 && (op == TUTTI_AVG || !reduce_kernel((tutti_op)op, (tutti_dtype)dtype)))
                continue;
            snprintf(name, sizeof name, CUDA_KERNEL_PREFIX "%s_%s",
                     op == -2   ? "scale"
                     : op == -1 ? "divide"
                                : op_name((tutti_op)op),
                     dtype_name((tutti_dtype)dtype));
            CU_ASSERT_PTR_NOT_NULL(cuda_kernel_find(name));
            wanted++;
        }
    }
    while (cuda_kernels[there].name)
        there++;
    CU_ASSERT_EQUAL(there, wanted);
    CU_ASSERT_PTR_NULL(cuda_kernel_find(CUDA_KERNEL_PREFIX "band_float32"));
}

/* min and max choose one canonical NaN: the CPU's bits. */
static bool has_bits_of_cpu(const struct cuda_kernel *kernel, const unsigned char *dst,
                            const unsigned char *a, const unsigned char *b, size_t count)
{
    if (kernel->kind != KERNEL_REDUCE || (kernel->op != TUTTI_MIN && kernel->op != TUTTI_MAX))
        return true;
    size_t bytes = count * dtype_size(kernel->dtype);
    unsigned char *cpu = malloc(bytes);
    reduce_kernel(kernel->op, kernel->dtype)(cpu, a, b, count);
    bool good = memcmp(cpu, dst, bytes) == 0;
    if (!good)
        printf("    %s: not the bits of the CPU's kernel\n", kernel->name);
    free(cpu);
    return good;
}

static bool arithmetic_matches(const struct pool *pool, const unsigned char *a,
                               const unsigned char *b, size_t count)
{
    size_t size = pool->size;
    tutti_dtype dtype = pool->kernel->dtype;
    unsigned char *dst = malloc(count * size);
    struct cuda_work work = work_of(pool, dst, a, b, count);
    cuda_kernel_play(pool->kernel, &work, 3, 1);
    bool good = has_bits_of_cpu(pool->kernel, dst, a, b, count);
    for (size_t i = 0; i < count && good; i++) {
        uint64_t x = element_load(a + i * size, size), y = element_load(b + i * size, size);
        uint64_t got = element_load(dst + i * size, size), expected = expected_of(pool, x, y);
        good = element_same(dtype, got, expected);
        if (!good)
            printf("    %s: %llx, %llx (scalar %llx, ranks %u) gave %llx, expected %llx\n",
                   pool->kernel->name, (unsigned long long)x, (unsigned long long)y,
                   (unsigned long long)pool->scalar, pool->ranks, (unsigned long long)got,
                   (unsigned long long)expected);
    }
    free(dst);
    return good;
}

static void test_cuda_kernels_compute_random_elements(void)
{
    size_t count = is_fast() ? 2003 : 10007;
    unsigned char *a = malloc(count * 8), *b = malloc(count * 8);
    random_state = suite_seed();
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        element_fill(kernel->dtype, a, count, &random_state);
        element_fill(kernel->dtype, b, count, &random_state);
        CU_ASSERT(arithmetic_matches(&pool, a, b, count));
    }
    free(a);
    free(b);
}

static void test_cuda_kernels_compute_every_pair_of_bytes(void)
{
    enum { PAIRS = 65536 };
    unsigned char *a = malloc(PAIRS), *b = malloc(PAIRS);
    random_state = suite_seed();
    for (size_t i = 0; i < PAIRS; i++) {
        a[i] = (unsigned char)i;
        b[i] = (unsigned char)(i >> 8);
    }
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        if (pool.size == 1 && pool.two)
            CU_ASSERT(arithmetic_matches(&pool, a, b, PAIRS));
    }
    free(a);
    free(b);
}

/* Every value of 8 and 16 bits, times and by some. */
static void test_cuda_kernels_scale_and_divide_every_value(void)
{
    enum { VALUES = 65536 };
    unsigned char *a = malloc(VALUES * 2);
    unsigned rounds = is_fast() ? 1 : 4;
    random_state = suite_seed();
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        size_t size = dtype_size(kernel->dtype), count = size == 1 ? 256 : VALUES;
        if (size > 2 || (kernel->kind != KERNEL_SCALE && kernel->kind != KERNEL_DIVIDE))
            continue;
        for (size_t i = 0; i < count; i++)
            memcpy(a + i * size, &(uint16_t){(uint16_t)i}, size);
        for (unsigned round = 0; round < rounds; round++) {
            struct pool pool = pool_of(kernel);
            CU_ASSERT(arithmetic_matches(&pool, a, a, count));
        }
    }
    free(a);
}

/* ---- tests: memory --------------------------------------------------------------------------- */

/* All 4096 of them, by one thread or by three. */
static void test_cuda_kernels_take_every_alignment(void)
{
    static const struct grid grids[] = {{1, 1}, {3, 1}};
    unsigned step = is_fast() ? 7 : 1;
    random_state = suite_seed();
    struct room room = make_room(most_bytes(grids[1]));
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        bool good = true;
        for (unsigned dst = 0; dst < ALIGNMENTS && good; dst++) {
            struct pool pool = pool_of(kernel);
            for (unsigned i = (unsigned)random_below(step); i < 256 && good; i += step) {
                struct grid grid = grids[random_below(2)];
                enum aliasing aliasing = (enum aliasing)random_below(ALIASINGS);
                good = launch_matches(&room, &pool, grid, (unsigned[]){dst, i % 16, i / 16},
                                      aliasing, random_count(pool.size, grid));
            }
        }
        CU_ASSERT(good);
    }
    drop_room(room);
}

/* Every count up to some vectors, where all is aligned alike and where nothing is. */
static void test_cuda_kernels_take_every_count(void)
{
    static const unsigned places[][3] = {{0, 0, 0}, {8, 8, 8}, {0, 8, 3}, {5, 5, 5}, {8, 0, 12}};
    struct grid grid = {2, 1};
    random_state = suite_seed();
    struct room room = make_room(CUDA_VECTOR * 20);
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        bool good = true;
        for (size_t count = 0; count <= 18 * CUDA_VECTOR / pool.size && good; count++) {
            for (size_t p = 0; p < sizeof places / sizeof *places && good; p++)
                good = launch_matches(&room, &pool, grid, places[p],
                                      (enum aliasing)random_below(ALIASINGS), count);
        }
        CU_ASSERT(good);
    }
    drop_room(room);
}

static void test_cuda_kernels_take_every_grid(void)
{
    static const struct grid grids[] = {{2, 8}, {5, 32}, {1, 2}, {7, 1}};
    unsigned tries = is_fast() ? 1 : 6;
    random_state = suite_seed();
    struct room room = make_room(most_bytes(grids[1]));
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        bool good = true;
        for (unsigned i = 0; i < tries * (sizeof grids / sizeof *grids) && good; i++) {
            struct grid grid = grids[i / tries];
            /* Where vectors are, where dst's elements are, or anywhere. */
            uint64_t unit = (uint64_t[]){CUDA_VECTOR, pool.size, 1}[random_below(3)];
            unsigned at[3];
            for (size_t b = 0; b < 3; b++)
                at[b] = (unsigned)random_below(ALIGNMENTS);
            at[0] -= at[0] % (unsigned)unit;
            if (unit == CUDA_VECTOR)
                at[1] = at[2] = 0;
            good = launch_matches(&room, &pool, grid, at, (enum aliasing)random_below(ALIASINGS),
                                  random_count(pool.size, grid));
        }
        CU_ASSERT(good);
    }
    drop_room(room);
}

/* Bytes are zeroed by what they are. */
static void test_cuda_kernels_zero_in_place(void)
{
    const struct cuda_kernel *kernel = cuda_kernel_find(CUDA_KERNEL_PREFIX "bxor_uint8");
    unsigned char buffer[256], expected[256];
    for (size_t at = 0; at < ALIGNMENTS; at++) {
        for (size_t count = 0; count < 200; count++) {
            memset(buffer, 0x5a, sizeof buffer);
            memset(expected, 0x5a, sizeof expected);
            memset(expected + GUARD + at, 0, count);
            unsigned char *bytes = buffer + GUARD + at;
            struct cuda_work work = {.dst = bytes, .a = bytes, .b = bytes, .count = count};
            cuda_kernel_play(kernel, &work, 2, 1);
            CU_ASSERT_FATAL(memcmp(buffer, expected, sizeof buffer) == 0);
        }
    }
}

/* Buffers that touch: a's last word holds bytes of dst, and dst's last of b's. What a thread reads
 * there may be old or new; it is not used. */
static void test_cuda_kernels_take_neighbours(void)
{
    unsigned char memory[3 * 600 + ALIGNMENTS], picks[600];
    random_state = suite_seed();
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        for (unsigned at = 0; at < ALIGNMENTS; at++) {
            size_t count = 1 + random_below(600 / pool.size), bytes = count * pool.size;
            struct launch launch = {.pool = &pool, .grid = {3, 1}, .count = count, .picks = picks};
            launch.a = memory + at;
            launch.dst = launch.a + bytes;
            launch.b = launch.dst + bytes;
            fill_operands(&launch);
            play(&launch);
            CU_ASSERT(results_match(&launch));
            for (size_t i = 0; i < count; i++)
                CU_ASSERT_FATAL(
                    memcmp(launch.a + i * pool.size, &pool.a[picks[i]], pool.size) == 0 &&
                    memcmp(launch.b + i * pool.size, &pool.b[picks[i]], pool.size) == 0);
        }
    }
}

/* Memory of which the address sanitizer knows the end: of sources with their last words, of dst to
 * the byte. */
static void test_cuda_kernels_stay_in_their_words(void)
{
    unsigned tries = is_fast() ? 60 : 400;
    unsigned char picks[1024];
    random_state = suite_seed();
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        for (unsigned i = 0; i < tries; i++) {
            struct grid grid = {1 + (unsigned)random_below(3), 1};
            size_t count = random_count(pool.size, grid), bytes = count * pool.size;
            size_t at[3];
            unsigned char *block[3];
            for (size_t b = 0; b < 3; b++) {
                at[b] = random_below(ALIGNMENTS);
                block[b] = malloc(b == 0 ? at[b] + bytes : (at[b] + bytes + 3) / 4 * 4);
            }
            struct launch launch = {.pool = &pool,
                                    .grid = grid,
                                    .count = count,
                                    .dst = block[0] + at[0],
                                    .a = block[1] + at[1],
                                    .b = block[2] + at[2],
                                    .picks = picks};
            fill_operands(&launch);
            play(&launch);
            CU_ASSERT(results_match(&launch));
            for (size_t b = 0; b < 3; b++)
                free(block[b]);
        }
    }
}

/* Some pages between two that nobody may touch. */
struct fence {
    unsigned char *pages;
    size_t bytes, page;
};

static struct fence make_fence(void)
{
    struct fence fence = {.page = (size_t)sysconf(_SC_PAGESIZE)};
    fence.bytes = 2 * fence.page;
    unsigned char *all =
        mmap(NULL, fence.bytes + 2 * fence.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(all != MAP_FAILED);
    fence.pages = all + fence.page;
    CU_ASSERT_EQUAL_FATAL(mprotect(fence.pages, fence.bytes, PROT_READ | PROT_WRITE), 0);
    return fence;
}

/* Within 16 bytes of the first page's beginning or of the last one's end. */
static unsigned char *place_in(struct fence fence, size_t bytes)
{
    size_t away = random_below(ALIGNMENTS + 1) * random_below(2);
    return random_below(2) ? fence.pages + away : fence.pages + fence.bytes - bytes - away;
}

/* A word that holds a byte of the operands lies in a page of theirs. */
static void test_cuda_kernels_touch_no_other_page(void)
{
    unsigned tries = is_fast() ? 100 : 1000;
    unsigned char picks[1024];
    struct fence fence[3];
    random_state = suite_seed();
    for (size_t b = 0; b < 3; b++)
        fence[b] = make_fence();
    for (const struct cuda_kernel *kernel = cuda_kernels; kernel->name; kernel++) {
        struct pool pool = pool_of(kernel);
        for (unsigned i = 0; i < tries; i++) {
            struct grid grid = {1 + (unsigned)random_below(3), 1};
            struct launch launch = {.pool = &pool, .grid = grid, .picks = picks};
            launch.count = random_count(pool.size, grid);
            launch.dst = place_in(fence[0], launch.count * pool.size);
            launch.a = place_in(fence[1], launch.count * pool.size);
            launch.b = place_in(fence[2], launch.count * pool.size);
            fill_operands(&launch);
            play(&launch);
            CU_ASSERT(results_match(&launch));
        }
    }
    for (size_t b = 0; b < 3; b++)
        munmap(fence[b].pages - fence[b].page, fence[b].bytes + 2 * fence[b].page);
}

/* What a slot says counts, not what the launch was given: a sum, a copy, nothing. */
static void test_cuda_kernels_look_up_slots(void)
{
    enum { COUNT = 1000 };
    const struct cuda_kernel *kernel = cuda_kernel_find(CUDA_KERNEL_PREFIX "sum_int32");
    static int32_t a[COUNT], b[COUNT], dst[COUNT + 1];
    static struct cuda_claim claim;
    static const unsigned threads[] = {8, 3, 1}; /* more and fewer than a slot has words */
    uint32_t done = 0;
    for (int32_t i = 0; i < COUNT; i++) {
        a[i] = 3 * i;
        b[i] = 5 * i + 1;
    }
    const struct cuda_slot slots[] = {{dst, a, b, COUNT}, {dst, a, NULL, COUNT - 3}, {.count = 0}};
    for (uint32_t i = 0; i < 9; i++) {
        struct cuda_work work = {
            .slot = &slots[i % 3], .claim = &claim, .ticket = i + 1, .count = 99, .done = &done};
        cuda_kernel_play(kernel, &work, 3, threads[i / 3]);
        CU_ASSERT_EQUAL(done, i + 1);
        CU_ASSERT_EQUAL(claim.blocks, 0);
        bool good = dst[COUNT] == 0;
        for (int32_t at = 0; at < COUNT; at++)
            good &= dst[at] == (i % 3 == 0 || at >= COUNT - 3 ? a[at] + b[at] : a[at]);
        CU_ASSERT(good);
    }
}

/* One block tells of its end without a claim, or tells nobody. */
static void test_cuda_kernels_tell_alone(void)
{
    enum { COUNT = 1000 };
    const struct cuda_kernel *kernel = cuda_kernel_find(CUDA_KERNEL_PREFIX "copy_uint8");
    static unsigned char from[COUNT], to[COUNT];
    uint32_t done = 0;
    for (size_t i = 0; i < COUNT; i++)
        from[i] = (unsigned char)(i * 7 + 1);
    for (uint32_t i = 1; i <= 4; i++) {
        struct cuda_work work = {.dst = to, .a = from, .count = COUNT, .ticket = i, .done = &done};
        memset(to, 0, sizeof to);
        cuda_kernel_play(kernel, &work, 1, i % 2 ? 32 : 1);
        CU_ASSERT_EQUAL(done, i);
        CU_ASSERT_EQUAL(memcmp(to, from, COUNT), 0);
        work.done = NULL;
        cuda_kernel_play(kernel, &work, 3, i % 2 ? 32 : 1);
        CU_ASSERT_EQUAL(done, i);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(cuda_kernels_are_those_that_are_asked_for),
        TEST(cuda_kernels_compute_random_elements),
        TEST(cuda_kernels_compute_every_pair_of_bytes),
        TEST(cuda_kernels_scale_and_divide_every_value),
        TEST(cuda_kernels_take_every_alignment),
        TEST(cuda_kernels_take_every_count),
        TEST(cuda_kernels_take_every_grid),
        TEST(cuda_kernels_zero_in_place),
        TEST(cuda_kernels_take_neighbours),
        TEST(cuda_kernels_stay_in_their_words),
        TEST(cuda_kernels_touch_no_other_page),
        TEST(cuda_kernels_look_up_slots),
        TEST(cuda_kernels_tell_alone),
    };
    return suite_run("cuda_kernels", tests, sizeof tests / sizeof *tests, argc, argv);
}
