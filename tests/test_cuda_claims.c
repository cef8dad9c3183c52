/* test_cuda_claims.c: the claim of the kernels for GPUs, as it is written, run on the CPU
 * (cuda_kernels.h). A piece of work is launched again, as mem_cuda_lane.c does, when a launch does
 * not begin in time; whichever comes first does it, alone.
 *
 * Workers play blocks of attempts at one piece in random order. The piece adds to what is there, so
 * that doing it twice shows. Whoever waits for it, as the CPU does, knows nothing but the word that
 * tells of its end; the thread sanitizer sees whether that is enough. The next piece follows at
 * once, while blocks of the last one's other attempts are still to come. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/cuda_kernels.h"
#include "tests/suite.h"

enum { ATTEMPTS_MAX = 3, BLOCKS_MAX = 4, WORKERS = 5, COUNT_MAX = 300 };

static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
    return suite_random(&random_state) % limit;
}

/* ---- a piece of work, and attempts at it ----------------------------------------------------- */

static struct cuda_claim claim;
static _Atomic uint32_t begun, done;
static int32_t sum[COUNT_MAX], addend[COUNT_MAX];

/* The one place that says how attempts are numbered: those at a piece from `first` on. */
static struct cuda_work attempt_of(size_t count, uint32_t ticket, uint64_t first, uint64_t attempt)
{
    return (struct cuda_work){.dst = sum,
                              .a = sum,
                              .b = addend,
                              .count = count,
                              .ticket = ticket,
                              .claim = &claim,
                              .attempt = attempt,
                              .first = first,
                              .begun = (uint32_t *)&begun,
                              .done = (uint32_t *)&done};
}

static const struct cuda_kernel *adding(void)
{
    return cuda_kernel_find(CUDA_KERNEL_PREFIX "sum_int32");
}

/* As if no piece had ever been: attempts count from `attempt` on. */
static void begin_anew(uint64_t attempt)
{
    memset(&claim, 0, sizeof claim);
    claim.attempt = attempt - 1;
    memset(sum, 0, sizeof sum);
    for (size_t i = 0; i < COUNT_MAX; i++)
        addend[i] = (int32_t)i + 1;
    begun = done = 0;
}

static bool sums_are(int32_t times, size_t count)
{
    bool good = true;
    for (size_t i = 0; i < COUNT_MAX; i++)
        good &= sum[i] == (i < count ? times * ((int32_t)i + 1) : 0);
    return good;
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* Blocks of a launch come in any order; the last of them says that it is done. */
static void test_cuda_claims_end_with_the_last_block(void)
{
    static const unsigned order[] = {2, 0, 3, 1};
    for (uint32_t ticket = 1; ticket <= 5; ticket++) {
        if (ticket == 1)
            begin_anew(1);
        struct cuda_work work = attempt_of(100, ticket, ticket, ticket);
        for (size_t i = 0; i < 4; i++) {
            CU_ASSERT_EQUAL(done, ticket - 1);
            cuda_kernel_play_block(adding(), &work, order[i], 4);
            CU_ASSERT_EQUAL(begun, ticket);
        }
        CU_ASSERT_EQUAL(done, ticket);
        CU_ASSERT(sums_are((int32_t)ticket, 100));
        CU_ASSERT_EQUAL(claim.attempt, ticket);
        CU_ASSERT_EQUAL(claim.blocks, 0);
    }
}

/* The second attempt begins; the others come before it ends and after, to memory that is gone. */
static void test_cuda_claims_keep_late_attempts_out(void)
{
    begin_anew(7);
    struct cuda_work works[3];
    for (uint64_t i = 0; i < 3; i++)
        works[i] = attempt_of(50, 9, 7, 7 + i);
    works[0].dst = works[2].dst = NULL;
    cuda_kernel_play_block(adding(), &works[1], 0, 2);
    for (unsigned block = 0; block < 2; block++) {
        cuda_kernel_play_block(adding(), &works[0], block, 2);
        cuda_kernel_play_block(adding(), &works[2], block, 2);
    }
    CU_ASSERT_EQUAL(done, 0);
    cuda_kernel_play_block(adding(), &works[1], 1, 2);
    CU_ASSERT_EQUAL(begun, 8);
    CU_ASSERT_EQUAL(done, 9);
    begun = done = 0;
    for (unsigned block = 0; block < 2; block++) {
        cuda_kernel_play_block(adding(), &works[0], block, 2);
        cuda_kernel_play_block(adding(), &works[2], block, 2);
    }
    CU_ASSERT(begun == 0 && done == 0);
    CU_ASSERT(sums_are(1, 50));
    CU_ASSERT_EQUAL(claim.attempt, 8);
}

/* What a worker plays: a block of one thread, or a launch of several. */
struct task {
    struct cuda_work work;
    unsigned block, blocks, threads;
};

/* All that will ever be played, in order. Workers never tell whoever adds to it that they are done:
 * only the kernels do. */
struct race {
    struct task *tasks;
    _Atomic size_t added, taken;
    _Atomic bool over;
};

static void *work_on(void *data)
{
    struct race *race = data;
    for (;;) {
        size_t next = atomic_fetch_add_explicit(&race->taken, 1, memory_order_relaxed);
        while (next >= atomic_load_explicit(&race->added, memory_order_acquire)) {
            if (atomic_load(&race->over) && next >= atomic_load(&race->added))
                return NULL;
            sched_yield();
        }
        const struct task *task = &race->tasks[next];
        if (task->threads > 1)
            cuda_kernel_play(adding(), &task->work, task->blocks, task->threads);
        else
            cuda_kernel_play_block(adding(), &task->work, task->block, task->blocks);
    }
}

/* Attempts at one piece: all of their blocks in random order. */
static void add_piece(struct race *race, const struct cuda_work *attempts, unsigned count)
{
    struct task *tasks = race->tasks + race->added;
    size_t added = 0;
    for (unsigned i = 0; i < count; i++) {
        struct task task = {.work = attempts[i], .blocks = 1 + (unsigned)random_below(BLOCKS_MAX)};
        task.threads = random_below(16) == 0 ? 3 : 1;
        for (unsigned b = 0; b < (task.threads > 1 ? 1 : task.blocks); b++) {
            size_t place = random_below(added + 1);
            tasks[added++] = tasks[place];
            task.block = b;
            tasks[place] = task;
        }
    }
    atomic_fetch_add_explicit(&race->added, added, memory_order_release);
}

static bool await_done(uint32_t ticket)
{
    uint64_t limit_ns = clock_ns() + 20000000000u;
    while (atomic_load_explicit(&done, memory_order_acquire) != ticket) {
        if (clock_ns() > limit_ns)
            return false;
        sched_yield();
    }
    return true;
}

/* Piece after piece, of random length, that adds other numbers each time. Tickets go around, and so
 * does the lower half of attempts. */
static void race_for_pieces(struct race *race, unsigned pieces)
{
    int32_t expected[COUNT_MAX] = {0};
    uint32_t ticket = UINT32_MAX - pieces / 2;
    uint64_t next = ((uint64_t)1 << 32) - pieces;
    begin_anew(next);
    for (unsigned piece = 0; piece < pieces; piece++) {
        unsigned attempts = 1 + (unsigned)random_below(ATTEMPTS_MAX);
        size_t count = random_below(COUNT_MAX + 1);
        struct cuda_work works[ATTEMPTS_MAX];
        uint64_t first = next;
        ticket++;
        for (size_t i = 0; i < count; i++) {
            addend[i] = (int32_t)random_below(1000);
            expected[i] += addend[i];
        }
        for (unsigned i = 0; i < attempts; i++)
            works[i] = attempt_of(count, ticket, first, next++);
        add_piece(race, works, attempts);
        CU_ASSERT_FATAL(await_done(ticket));
        CU_ASSERT_FATAL(memcmp(sum, expected, sizeof sum) == 0);
        uint64_t claimed = __atomic_load_n(&claim.attempt, __ATOMIC_RELAXED);
        CU_ASSERT(claimed >= first && claimed < next);
        CU_ASSERT_EQUAL(begun, (uint32_t)claimed);
        CU_ASSERT_EQUAL(__atomic_load_n(&claim.blocks, __ATOMIC_RELAXED), 0);
    }
}

static void test_cuda_claims_are_raced_for(void)
{
    unsigned pieces = getenv("TUTTI_TEST_FAST") ? 2000 : 20000;
    pthread_t workers[WORKERS];
    static struct race race; /* workers outlive a test that fails */
    random_state = suite_seed();
    race.tasks = calloc((size_t)pieces * ATTEMPTS_MAX * BLOCKS_MAX, sizeof *race.tasks);
    CU_ASSERT_PTR_NOT_NULL_FATAL(race.tasks);
    for (size_t i = 0; i < WORKERS; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&workers[i], NULL, work_on, &race), 0);
    race_for_pieces(&race, pieces);
    int32_t before[COUNT_MAX];
    memcpy(before, sum, sizeof sum);
    atomic_store(&race.over, true);
    for (size_t i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    CU_ASSERT(memcmp(before, sum, sizeof sum) == 0); /* whoever came last found nothing to do */
    free(race.tasks);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(cuda_claims_end_with_the_last_block),
        TEST(cuda_claims_keep_late_attempts_out),
        TEST(cuda_claims_are_raced_for),
    };
    return suite_run("cuda_claims", tests, sizeof tests / sizeof *tests, argc, argv);
}
