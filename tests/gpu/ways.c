/* ways.c: the ways in which a stream can hand a few bytes to the CPU and take others back.
 *
 *     gpu_ways threads|processes RANKS [TITLE]
 *
 *     stream | copy to pinned memory | signal | wait | copy back |
 *     CPU                            | sees the signal, answers  |
 *
 * A copy may be the driver's, or a kernel of one block, which then signals, too: a copy and a word
 * that the stream writes are two calls and the start of a copy engine. Signal and wait may be one
 * call. Which is best the device must say, so all ways are timed in turn, beside an empty kernel
 * and beside the words alone, all ranks at once: what a call, or some calls, and the wait for their
 * stream take, and in parentheses how long the calls take of it. A thread of each rank answers at
 * once, and does nothing else. The median counts, over turns, of the ranks' mean.
 *
 * The kernel is the library's own copy, the memory such as it takes for calls of this size.
 *
 * Before they are timed, bytes go through each way and must come back as the CPU left them. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/mem_cuda_queue.h"
#include "tests/rig.h"

#define BYTES     ((size_t)64 << 10)
#define TURNS     11
#define CALLS     100 /* in a turn */
#define CHECKS    20
#define LOOKS_MAX 1000 /* at a word, before looks let others have the core */

enum { SIGNAL, ANSWER };                              /* words */
enum copy { NO_COPY, BY_DRIVER, BY_KERNEL };          /* how bytes move */
enum words { NO_WORDS, TWO_CALLS, BATCH, SIGNALLED }; /* ...: the kernel has signalled */

static const struct way {
    const char *letter, *name;
    enum copy out, back;
    enum words words;
} ways[] = {
    {"-", "an empty kernel", NO_COPY, NO_COPY, NO_WORDS},
    {"-", "write, wait", NO_COPY, NO_COPY, TWO_CALLS},
    {"-", "both in one call", NO_COPY, NO_COPY, BATCH},
    {"now", "copy, write, wait, copy", BY_DRIVER, BY_DRIVER, TWO_CALLS},
    {"a", "copy, both in one call, copy", BY_DRIVER, BY_DRIVER, BATCH},
    {"b", "kernel that signals, wait, copy", BY_KERNEL, BY_DRIVER, SIGNALLED},
    {"c", "copy, write, wait, kernel", BY_DRIVER, BY_KERNEL, TWO_CALLS},
    {"ac", "copy, both in one call, kernel", BY_DRIVER, BY_KERNEL, BATCH},
    {"d", "kernel that signals, wait, kernel", BY_KERNEL, BY_KERNEL, SIGNALLED},
};
#define WAYS ((int)(sizeof ways / sizeof *ways))

static const size_t sizes[] = {8, 1 << 10, 16 << 10, BYTES};
#define SIZES ((int)(sizeof sizes / sizeof *sizes))

static const char empty_kernel[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                   ".visible .entry nothing() { ret; }\n";

/* Microseconds of a call with its wait, and of the call alone. */
struct times {
    double all, calls;
};

struct bench {
    const struct gpu *gpu;
    const char *title;
    tutti_comm *comm;
    int rank, size, wrong, calls;
    cuda_stream stream;
    cuda_function nothing;
    struct mem_device *device;
    struct mem_words *words;
    uint32_t begun;        /* what they held at first */
    int32_t *in, *out;     /* device memory */
    int32_t *pinned;       /* input, then output */
    atomic_size_t changes; /* bytes of the input that the CPU adds 1 to; 0: it only answers */
    atomic_bool over;
};

static double now_us(void)
{
    return 1e6 * world_seconds();
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(struct bench *b, bool good, const char *what)
{
    if (b->wrong == 0)
        b->wrong = world_check(b->rank, good, "%s: %s", what, tutti_last_error());
}

static void need(struct bench *b, cuda_result result, const char *what)
{
    if (b->wrong == 0)
        b->wrong = world_check(b->rank, result == CUDA_DRIVER_OK, "%s: the driver answers %d", what,
                               result);
}

/* ---- the CPU --------------------------------------------------------------------------------- */

static int32_t *output_of(const struct bench *b)
{
    return b->pinned + BYTES / sizeof *b->pinned;
}

static void *answer(void *context)
{
    struct bench *b = context;
    uint32_t seen = b->begun;
    for (unsigned looks = 0; !atomic_load_explicit(&b->over, memory_order_relaxed); looks++) {
        uint32_t now = atomic_load_explicit(&b->words->word[SIGNAL], memory_order_acquire);
        if (now == seen) {
            if (looks > LOOKS_MAX)
                sched_yield();
            continue;
        }
        size_t count = atomic_load(&b->changes) / sizeof *b->pinned;
        for (size_t i = 0; i < count; i++)
            output_of(b)[i] = b->pinned[i] + 1;
        atomic_store_explicit(&b->words->word[ANSWER], now, memory_order_release);
        seen = now;
        looks = 0;
    }
    return NULL;
}

/* ---- the stream ------------------------------------------------------------------------------ */

static cuda_address word_of(const struct bench *b, unsigned index)
{
    return b->words->address + index * sizeof(uint32_t);
}

/* signal 0: tells nobody. */
static void copy_by_kernel(struct bench *b, void *dst, const void *src, size_t bytes,
                           uint32_t signal)
{
    struct cuda_work work = {.dst = dst, .a = src, .count = bytes, .ticket = signal};
    if (signal)
        work.done = (uint32_t *)(uintptr_t)word_of(b, SIGNAL);
    need(b, mem_cuda_launch_block(b->device, b->device->copy, &work, bytes, b->stream),
         "launch a copy");
}

static void put_copy(struct bench *b, enum copy how, void *dst, const void *src, size_t bytes,
                     uint32_t signal)
{
    if (how == BY_KERNEL)
        copy_by_kernel(b, dst, src, bytes, signal);
    else if (how == BY_DRIVER)
        need(b, b->gpu->copy(cuda_address_of(dst), cuda_address_of(src), bytes, b->stream), "copy");
}

static void put_words(struct bench *b, enum words how, uint32_t value)
{
    cuda_address signal = word_of(b, SIGNAL), answered = word_of(b, ANSWER);
    struct gpu_word_op both[] = {
        {.operation = GPU_WRITES_WORD, .address = signal, .value = value, .flags = 0},
        {.operation = GPU_AWAITS_WORD, .address = answered, .value = value, .flags = 0}};
    if (how == BATCH)
        need(b, b->gpu->batch_words(b->stream, 2, both, 0), "write and wait in one call");
    if (how == TWO_CALLS)
        need(b, b->gpu->write_word(b->stream, signal, value, CUDA_WRITE_ORDERED), "write a word");
    if (how == TWO_CALLS || how == SIGNALLED)
        need(b, b->gpu->wait_word(b->stream, answered, value, CUDA_WAIT_REACHED),
             "wait for a word");
}

static void put(struct bench *b, const struct way *way, size_t bytes)
{
    if (way->words == NO_WORDS) {
        need(b, b->gpu->launch(b->nothing, 1, 1, 1, 1, 1, 1, 0, b->stream, NULL, NULL), "launch");
        return;
    }
    uint32_t value = ++b->words->value;
    put_copy(b, way->out, b->pinned, b->in, bytes, way->words == SIGNALLED ? value : 0);
    put_words(b, way->words, value);
    put_copy(b, way->back, b->out, output_of(b), bytes, 0);
}

static void wait_stream(struct bench *b)
{
    need(b, b->gpu->stream_synchronize(b->stream), "synchronise");
}

static bool is_there(const struct bench *b, const struct way *way)
{
    return way->words != BATCH || b->gpu->batch_words;
}

/* ---- measuring ------------------------------------------------------------------------------- */

static void check_way(struct bench *b, const struct way *way, size_t bytes)
{
    size_t count = bytes / sizeof *b->in;
    atomic_store(&b->changes, bytes);
    for (int i = 0; i < CHECKS && b->wrong == 0; i++) {
        int first = (b->rank * CHECKS + i) * 100003;
        rig_set_ints(b->in, count, first);
        rig_set_ints(b->out, count, -1000000);
        put(b, way, bytes);
        wait_stream(b);
        if (way->back != NO_COPY && b->wrong == 0)
            b->wrong = rig_wrong_ints(b->rank, b->out, count, first + 1, 1, way->name);
    }
    atomic_store(&b->changes, 0);
}

/* The ranks' mean. */
static struct times turn(struct bench *b, const struct way *way, size_t bytes)
{
    struct times mine = {0, 0}, mean = {0, 0};
    check(b, tutti_barrier(b->comm) == TUTTI_OK, "barrier");
    for (int i = 0; i < b->calls && b->wrong == 0; i++) {
        double start = now_us();
        put(b, way, bytes);
        mine.calls += now_us() - start;
        wait_stream(b);
        mine.all += now_us() - start;
    }
    check(b, tutti_allreduce(&mine, &mean, 2, TUTTI_FLOAT64, TUTTI_AVG, b->comm) == TUTTI_OK,
          "allreduce of times");
    return (struct times){mean.all / b->calls, mean.calls / b->calls};
}

static struct times median_of(struct times turns[TURNS])
{
    double all[TURNS], calls[TURNS];
    for (int i = 0; i < TURNS; i++) {
        all[i] = turns[i].all;
        calls[i] = turns[i].calls;
    }
    qsort(all, TURNS, sizeof *all, compare);
    qsort(calls, TURNS, sizeof *calls, compare);
    return (struct times){all[TURNS / 2], calls[TURNS / 2]};
}

static void measure(struct bench *b, size_t bytes, struct times found[WAYS])
{
    static _Thread_local struct times turns[WAYS][TURNS];
    for (int w = 0; w < WAYS; w++) {
        if (is_there(b, &ways[w]))
            check_way(b, &ways[w], bytes);
    }
    for (int i = 0; i < TURNS && b->wrong == 0; i++) {
        for (int w = 0; w < WAYS; w++) {
            if (is_there(b, &ways[w]))
                turns[w][i] = turn(b, &ways[w], bytes);
        }
    }
    for (int w = 0; w < WAYS; w++)
        found[w] = median_of(turns[w]);
}

static void print_row(const struct bench *b, int w, struct times found[SIZES][WAYS])
{
    printf("| %s | %s | %s |", b->title, ways[w].letter, ways[w].name);
    for (int s = 0; s < SIZES && is_there(b, &ways[w]); s++)
        printf(" %.1f (%.1f) |", found[s][w].all, found[s][w].calls);
    if (is_there(b, &ways[w]))
        printf(" %.2f |\n", found[0][w].all / found[0][0].all);
    else
        printf(" not in this driver | | | | |\n");
}

/* Of those that carry bytes. */
static int least(const struct bench *b, const struct times found[WAYS])
{
    int best = -1;
    for (int w = 0; w < WAYS; w++) {
        if (ways[w].back != NO_COPY && is_there(b, &ways[w]) &&
            (best < 0 || found[w].all < found[best].all))
            best = w;
    }
    return best;
}

static void print_table(const struct bench *b, struct times found[SIZES][WAYS])
{
    printf("| ranks | way | in the stream, us with the wait (without) | 8 B | 1 KiB | 16 KiB | "
           "64 KiB | 8 B beside an empty kernel |\n|---|---|---|---:|---:|---:|---:|---:|\n");
    for (int w = 0; w < WAYS; w++)
        print_row(b, w, found);
    printf("| %s | | the least |", b->title);
    for (int s = 0; s < SIZES; s++)
        printf(" %s |", ways[least(b, found[s])].letter);
    printf(" <= 3 is the target |\n");
}

/* ---- one rank -------------------------------------------------------------------------------- */

static void prepare(struct bench *b)
{
    cuda_module module;
    void *pinned = NULL;
    b->gpu = rig_gpu();
    b->calls = b->gpu->standin ? CALLS / 20 : CALLS;
    b->stream = rig_stream_take(false);
    b->in = rig_take(BYTES);
    b->out = rig_take(BYTES);
    check(b, mem_device_open(&b->device) == TUTTI_OK, "open the device");
    if (b->wrong)
        return;
    check(b, b->device->memory_ops && b->device->has_kernels && b->device->host_pointers,
          "streams of this driver write and await words, and this build has kernels");
    check(b, mem_pinned_take(b->device, 2 * BYTES, &pinned) == TUTTI_OK, "pinned memory");
    check(b, mem_words_take(b->device, &b->words) == TUTTI_OK, "words");
    b->pinned = pinned;
    b->begun = b->wrong ? 0 : b->words->value;
    need(b, b->gpu->module_load(&module, empty_kernel), "load the empty kernel");
    if (b->wrong == 0)
        need(b, b->gpu->module_function(&b->nothing, module, "nothing"), "find the empty kernel");
}

static int run(tutti_comm *comm, int rank, int size, void *context)
{
    struct bench b = {.comm = comm, .rank = rank, .size = size, .title = context};
    struct times found[SIZES][WAYS];
    pthread_t cpu;
    prepare(&b);
    /* Loading waits for every stream of the context, also for one that waits for this rank. */
    int wrong = b.wrong, all = 0;
    if (tutti_allreduce(&wrong, &all, 1, TUTTI_INT32, TUTTI_SUM, comm) != TUTTI_OK || all > 0)
        return wrong;
    if (pthread_create(&cpu, NULL, answer, &b) != 0)
        return 1;
    for (int s = 0; s < SIZES && b.wrong == 0; s++)
        measure(&b, sizes[s], found[s]);
    if (rank == 0 && b.wrong == 0)
        print_table(&b, found);
    atomic_store(&b.over, true);
    pthread_join(cpu, NULL);
    return b.wrong;
}

int main(int argc, char **argv)
{
    int size = argc >= 3 ? atoi(argv[2]) : 0;
    char title[64];
    if (size < 1 || size > 8) {
        fprintf(stderr, "usage: gpu_ways threads|processes RANKS [TITLE], RANKS from 1 to 8\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(title, sizeof title, "%d %s", size, argv[1]);
    struct world world = {
        .kind = argv[1][0] == 't' ? WORLD_THREADS : WORLD_PROCESSES, .size = size, .limit_s = 55};
    return rig_run(&world, run, argc > 3 ? argv[3] : title) != 0;
}
