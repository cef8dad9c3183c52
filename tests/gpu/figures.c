/* figures.c: how near operations on GPU memory come to what the device itself can do.
 *
 *     gpu_figures threads|processes RANKS [TITLE]
 *     gpu_figures chunks threads|processes RANKS
 *     gpu_figures bandwidth threads|processes RANKS [TITLE]   all but the latency
 *
 * The ceiling of an allreduce of S bytes at n ranks of one device. Each rank reduces its n-th part,
 * which takes n - 1 reductions of S/n bytes (two read, one written), and fetches the n - 1 parts of
 * the others, copies of S/n bytes (one read, one written). No plan does with less: every element
 * must be reduced n - 1 times somewhere, and n - 1 ranks must get it from where it is. So
 *
 *     T_min = (n - 1) * (t_reduce(S/n) + t_copy(S/n))
 *
 * where both times are measured in this run, with all ranks at once, as the allreduce is, by the
 * device's copies and by the library's reduction kernel: what remains is what the plan, its
 * messages and its waiting cost. The figure is T_min / T; the target 0.70.
 *
 * Latency: an allreduce of 8 bytes put into a stream and waited for, beside an empty kernel put
 * into a stream and waited for, turn by turn, all ranks at once. The target is at most 3 times.
 *
 * By size: the library's own copies and reductions, all ranks at once, which tells how long pieces
 * must be for the device's bandwidth. Chunks: the allreduce once more with pieces of each length.
 *
 * Parts (parts.h): where the time of both goes, of calls one at a time, at rank 0. Events around
 * pieces cost the stream about a microsecond each, looks at the clock what their line says. The
 * same call on host memory tells what the ranks' messages take of it.
 *
 * Each line that begins with | is a row of a table. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/device.h"
#include "tests/gpu/parts.h"
#include "tests/rig.h"

#define BYTES   ((size_t)256 << 20)
#define ROUNDS  7   /* blocks of a measurement; the median counts */
#define REPEATS 5   /* in a block, back to back; more of what is smaller */
#define TURNS   15  /* of the latency */
#define LATENCY 200 /* calls in a turn */
#define WATCHED 6   /* large calls whose pieces are timed; the median counts */
#define SHOWN   12  /* pieces that a row has room for */

static const char empty_kernel[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                   ".visible .entry nothing() { ret; }\n";

struct figures {
    const char *title;
    const char *chunk; /* of the allreduce; NULL: all other figures */
    bool has_parts;
    int rank, size;
    tutti_comm *comm;
    cuda_stream stream;
    const struct gpu *gpu;
    char *in, *out;
    struct mem_queue *queue;
    struct reducer reducer;
    size_t bytes; /* of a copy or reduction */
    int repeats;
    cuda_function nothing;
    float host[2][2];
    int wrong;
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

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare);
    return values[count / 2];
}

static bool says(const struct figures *f)
{
    return f->rank == 0 && f->wrong == 0;
}

static void check(struct figures *f, int good, const char *what)
{
    f->wrong += world_check(f->rank, good, "%s: %s", what, tutti_last_error());
}

static void meet(struct figures *f)
{
    check(f, tutti_barrier(f->comm) == TUTTI_OK, "barrier");
}

/* ---- what is measured ------------------------------------------------------------------------
 */

static void put_copy(struct figures *f)
{
    rig_put_copy(f->stream, f->out, f->in, f->bytes);
}

static void put_queue_copy(struct figures *f)
{
    uint64_t ticket;
    check(f, mem_queue_copy(f->queue, f->out, f->in, f->bytes, &ticket) == TUTTI_OK, "copy");
}

static void put_reduce(struct figures *f)
{
    uint64_t ticket;
    check(f,
          mem_queue_reduce(f->queue, &f->reducer, TUTTI_SUM, f->out, f->in, f->out, f->bytes,
                           &ticket) == TUTTI_OK,
          "reduce");
}

static void put_allreduce(struct figures *f)
{
    check(f,
          tutti_allreduce_on(f->in, f->out, BYTES / sizeof(float), TUTTI_FLOAT32, TUTTI_SUM,
                             f->comm, f->stream) == TUTTI_OK,
          "allreduce");
}

static void put_small(struct figures *f)
{
    check(f,
          tutti_allreduce_on(f->in, f->out, 2, TUTTI_FLOAT32, TUTTI_SUM, f->comm, f->stream) ==
              TUTTI_OK,
          "allreduce");
}

/* In host memory, and over when it returns. */
static void do_small(struct figures *f)
{
    check(f,
          tutti_allreduce(f->host[0], f->host[1], 2, TUTTI_FLOAT32, TUTTI_SUM, f->comm) == TUTTI_OK,
          "allreduce in host memory");
}

static void put_nothing(struct figures *f)
{
    check(f,
          f->gpu->launch(f->nothing, 1, 1, 1, 1, 1, 1, 0, f->stream, NULL, NULL) == CUDA_DRIVER_OK,
          "launch");
}

static void wait_stream(struct figures *f)
{
    check(f, f->gpu->stream_synchronize(f->stream) == CUDA_DRIVER_OK, "synchronise");
}

static void wait_nothing(struct figures *f)
{
    (void)f;
}

static void wait_queue(struct figures *f)
{
    uint64_t done = 0, last;
    /* A copy of nothing's size tells the last ticket. */
    check(f, mem_queue_copy(f->queue, f->out, f->in, 4, &last) == TUTTI_OK, "copy");
    while (done < last && f->wrong == 0)
        check(f, mem_queue_poll(f->queue, &done) == TUTTI_OK, "poll");
}

/* The slowest rank's time for one piece: the median over blocks. */
static double measure(struct figures *f, void (*put)(struct figures *f),
                      void (*wait)(struct figures *f))
{
    double times[ROUNDS];
    put(f);
    wait(f);
    for (int round = 0; round < ROUNDS && f->wrong == 0; round++) {
        meet(f);
        double start = now_us();
        for (int i = 0; i < f->repeats; i++)
            put(f);
        wait(f);
        double mine = (now_us() - start) / f->repeats, slowest = mine;
        check(f, tutti_allreduce(&mine, &slowest, 1, TUTTI_FLOAT64, TUTTI_MAX, f->comm) == TUTTI_OK,
              "allreduce of times");
        times[round] = slowest;
    }
    return median(times, ROUNDS);
}

/* The mean of a call and its wait, of all ranks; times: of each call at this rank. */
static double turn(struct figures *f, void (*put)(struct figures *f),
                   void (*wait)(struct figures *f), double times[LATENCY])
{
    meet(f);
    double start = now_us(), before = start;
    for (int i = 0; i < LATENCY && f->wrong == 0; i++) {
        put(f);
        wait(f);
        double now = now_us();
        times[i] = now - before;
        before = now;
    }
    double mine = (now_us() - start) / LATENCY, mean = 0;
    check(f, tutti_allreduce(&mine, &mean, 1, TUTTI_FLOAT64, TUTTI_AVG, f->comm) == TUTTI_OK,
          "allreduce of times");
    return mean;
}

/* ---- figures ---------------------------------------------------------------------------------
 */

static void use_bytes(struct figures *f, size_t bytes)
{
    f->bytes = bytes;
    f->repeats = REPEATS * (int)(BYTES / bytes > 8 ? 8 : BYTES / bytes);
}

static void by_size(struct figures *f)
{
    static const size_t sizes[] = {8, 32, 128};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && f->wrong == 0; i++) {
        use_bytes(f, sizes[i] << 20);
        double copy_us = measure(f, put_queue_copy, wait_queue);
        double reduce_us = measure(f, put_reduce, wait_queue);
        if (says(f))
            printf("| %s | the library's copies of %zu MiB | %.1f us | %.0f GB/s a rank read and "
                   "written | | |\n"
                   "| %s | its reductions of %zu MiB | %.1f us | %.0f GB/s a rank read and "
                   "written | | |\n",
                   f->title, sizes[i], copy_us, 2 * (double)f->bytes / copy_us / 1e3, f->title,
                   sizes[i], reduce_us, 3 * (double)f->bytes / reduce_us / 1e3);
    }
}

static void chunk(struct figures *f)
{
    use_bytes(f, BYTES);
    double us = measure(f, put_allreduce, wait_stream);
    if (says(f))
        printf("| %s | allreduce of 256 MiB float32, TUTTI_CHUNK=%s | %.1f us | %.0f GB/s | | |\n",
               f->title, f->chunk, us, (double)BYTES / us / 1e3);
}

static void bandwidth(struct figures *f)
{
    double part = (double)BYTES / f->size;
    use_bytes(f, BYTES / (size_t)f->size);
    double copy_us = measure(f, put_copy, wait_stream);
    double reduce_us = measure(f, put_reduce, wait_queue);
    use_bytes(f, BYTES);
    double us = measure(f, put_allreduce, wait_stream);
    double least_us = (f->size - 1) * (reduce_us + copy_us);
    if (!says(f))
        return;
    printf("| %s | copies of %.0f MiB, all ranks at once | %.1f us | %.0f GB/s a rank read and "
           "written | | |\n",
           f->title, part / (1 << 20), copy_us, 2 * part / copy_us / 1e3);
    printf("| %s | reductions of %.0f MiB, all ranks at once | %.1f us | %.0f GB/s a rank read and "
           "written | | |\n",
           f->title, part / (1 << 20), reduce_us, 3 * part / reduce_us / 1e3);
    printf("| %s | allreduce of 256 MiB float32 | %.1f us | ceiling %.1f us | %.2f | >= 0.70 |\n",
           f->title, us, least_us, least_us / us);
}

/* What is called and waited for turn by turn. */
struct turns {
    const char *what;
    void (*put)(struct figures *f);
    void (*wait)(struct figures *f);
    double means[TURNS], calls[TURNS][LATENCY];
};

static void spread(const struct figures *f, struct turns *turns)
{
    double *calls = turns->calls[0], half = median(calls, TURNS * LATENCY);
    if (says(f))
        printf("| %s | %s, %d calls at one rank | half %.1f us | least %.1f us, 99 %% %.1f us, "
               "most %.1f us | | |\n",
               f->title, turns->what, TURNS * LATENCY, half, calls[0],
               calls[TURNS * LATENCY * 99 / 100], calls[TURNS * LATENCY - 1]);
}

static void latency(struct figures *f)
{
    enum { EMPTY, SMALL, HOST, ALL };
    struct turns *turns = calloc(ALL, sizeof *turns);
    turns[EMPTY] = (struct turns){.what = "empty kernel", .put = put_nothing, .wait = wait_stream};
    turns[SMALL] =
        (struct turns){.what = "allreduce of 8 B", .put = put_small, .wait = wait_stream};
    turns[HOST] = (struct turns){
        .what = "allreduce of 8 B in host memory", .put = do_small, .wait = wait_nothing};
    for (int t = 0; t < ALL; t++)
        turn(f, turns[t].put, turns[t].wait, turns[t].calls[0]);
    for (int i = 0; i < TURNS && f->wrong == 0; i++) {
        for (int t = 0; t < ALL; t++)
            turns[t].means[i] = turn(f, turns[t].put, turns[t].wait, turns[t].calls[i]);
    }
    double empty_us = median(turns[EMPTY].means, TURNS);
    double small_us = median(turns[SMALL].means, TURNS);
    if (says(f))
        printf("| %s | allreduce of 8 B in a stream | %.1f us | empty kernel %.1f us | %.2f | <= 3 "
               "|\n",
               f->title, small_us, empty_us, small_us / empty_us);
    for (int t = 0; t < ALL; t++)
        spread(f, &turns[t]);
    free(turns);
}

/* ---- parts -----------------------------------------------------------------------------------
 */

/* Where a call is carried out and why, for the log. */
static void explain(struct figures *f, size_t count)
{
    char text[4096];
    if (says(f) && tutti_comm_explain(f->comm, TUTTI_COLL_ALLREDUCE, f->in, f->out, count,
                                      TUTTI_FLOAT32, TUTTI_SUM, 0, text, sizeof text) == TUTTI_OK)
        printf("%s\n", text);
}

static void parts_of_nothing(struct figures *f)
{
    double called[LATENCY], clock[LATENCY], end[LATENCY];
    for (int i = 0; i < LATENCY && f->wrong == 0; i++) {
        double start = now_us();
        clock[i] = now_us() - start;
        start = now_us();
        put_nothing(f);
        called[i] = now_us() - start;
        wait_stream(f);
        end[i] = now_us() - start - called[i];
    }
    double call_us = median(called, LATENCY), end_us = median(end, LATENCY);
    if (says(f))
        printf("| %s | empty kernel: its call, and the wait | %.1f + %.1f us | a look at the clock "
               "%.2f us | | |\n",
               f->title, call_us, end_us, median(clock, LATENCY));
}

static void parts_of_small(struct figures *f)
{
    double called[LATENCY], driver[LATENCY], signal[LATENCY], answer[LATENCY], end[LATENCY];
    struct parts_moments m = {0};
    meet(f);
    parts_of_nothing(f);
    meet(f);
    for (int i = 0; i < LATENCY && f->wrong == 0; i++) {
        parts_begin(f->stream, false);
        put_small(f);
        check(f, parts_end(sizeof(float), &m, NULL), "the parts of a small allreduce");
        called[i] = m.called;
        driver[i] = m.driver;
        signal[i] = m.signal - m.called;
        answer[i] = m.answer - m.signal;
        end[i] = m.end - m.answer;
    }
    if (!says(f))
        return;
    printf("| %s | 8 B: to the call's return | %.1f us | in %u calls of the driver %.1f us | | |\n",
           f->title, median(called, LATENCY), m.driver_calls, median(driver, LATENCY));
    printf("| %s | 8 B: from there until the CPU sees the signal | %.1f us | | | |\n", f->title,
           median(signal, LATENCY));
    printf("| %s | 8 B: from the signal to the answer | %.1f us | | | |\n", f->title,
           median(answer, LATENCY));
    printf("| %s | 8 B: from the answer until the caller goes on | %.1f us | | | |\n", f->title,
           median(end, LATENCY));
}

/* Microseconds, bytes and number of the pieces of a kind. */
static double sum_of(const struct parts_pieces *pieces, int kind, double *bytes, unsigned *count)
{
    double us = 0;
    *bytes = 0;
    *count = 0;
    for (unsigned i = 0; i < pieces->count; i++) {
        if ((int)pieces->piece[i].kind != kind)
            continue;
        us += pieces->piece[i].work_us;
        *bytes += pieces->piece[i].bytes;
        ++*count;
    }
    return us;
}

static double total_us(const struct parts_pieces *pieces)
{
    double us = pieces->rest_us;
    for (unsigned i = 0; i < pieces->count; i++)
        us += pieces->piece[i].idle_us + pieces->piece[i].work_us;
    return us;
}

static int compare_pieces(const void *a, const void *b)
{
    double x = total_us(a), y = total_us(b);
    return (x > y) - (x < y);
}

static void print_pieces(const struct figures *f, const struct parts_pieces *pieces)
{
    static const struct {
        const char *name, *sign;
        double moved; /* bytes read and written for one of the result */
    } kinds[] = {[PARTS_NOTHING] = {"slots without work", "-", 0},
                 [PARTS_COPY] = {"copies", "c", 2},
                 [PARTS_REDUCTION] = {"reductions", "r", 3},
                 [PARTS_OTHER] = {"other kernels", "k", 0}};
    double all_us = total_us(pieces), work_us = 0, bytes;
    unsigned count;
    for (int kind = 0; kind < (int)(sizeof kinds / sizeof *kinds); kind++) {
        double us = sum_of(pieces, kind, &bytes, &count);
        work_us += us;
        if (count > 0)
            printf("| %s | 256 MiB: in %u %s | %.1f us | %.0f GB/s read and written | %.2f | |\n",
                   f->title, count, kinds[kind].name, us, kinds[kind].moved * bytes / us / 1e3,
                   us / all_us);
    }
    printf("| %s | 256 MiB: before, between and after them | %.1f us | of %.1f us, one call at a "
           "time | %.2f | |\n",
           f->title, all_us - work_us, all_us, (all_us - work_us) / all_us);
    printf("| %s | 256 MiB: wait + work of each, us |", f->title);
    for (unsigned i = 0; i < pieces->count && i < SHOWN; i++)
        printf(" %.0f+%.0f%s", pieces->piece[i].idle_us, pieces->piece[i].work_us,
               kinds[pieces->piece[i].kind].sign);
    printf(" %s%.0f | c copy, r reduction, last the rest | | |\n",
           pieces->count > SHOWN ? "... " : "", pieces->rest_us);
    if (pieces->untimed)
        printf("| %s | 256 MiB: pieces beyond the first %d, not timed | %u | | | |\n", f->title,
               PARTS_PIECES_MAX, pieces->untimed);
}

static void parts_of_large(struct figures *f)
{
    struct parts_pieces *seen = calloc(WATCHED, sizeof *seen);
    for (int i = 0; i < WATCHED && f->wrong == 0; i++) {
        meet(f);
        parts_begin(f->stream, true);
        put_allreduce(f);
        check(f, parts_end(sizeof(float), NULL, &seen[i]), "the pieces of a large allreduce");
    }
    /* The first makes events. */
    qsort(seen + 1, WATCHED - 1, sizeof *seen, compare_pieces);
    if (says(f))
        print_pieces(f, &seen[1 + (WATCHED - 1) / 2]);
    free(seen);
}

static void small_parts(struct figures *f)
{
    explain(f, 2);
    if (f->has_parts)
        parts_of_small(f);
}

static void large_parts(struct figures *f)
{
    explain(f, BYTES / sizeof(float));
    if (f->has_parts)
        parts_of_large(f);
}

/* What a run is about. */
struct subject {
    const char *title, *chunk; /* as in struct figures */
    bool bandwidth;            /* alone */
};

/* Once per process, when nothing is under way. */
static bool parts_there;
static void open_parts(void)
{
    parts_there = parts_open(rig_gpu());
}

static void figures_all(struct figures *f, bool all)
{
    static pthread_once_t parts = PTHREAD_ONCE_INIT;
    if (all)
        latency(f);
    bandwidth(f);
    by_size(f);
    meet(f);
    pthread_once(&parts, open_parts);
    f->has_parts = parts_there;
    meet(f);
    if (all)
        small_parts(f);
    large_parts(f);
}

static int run(tutti_comm *comm, int rank, int size, void *context)
{
    const struct subject *subject = context;
    struct figures *f = calloc(1, sizeof *f);
    struct mem_device *device;
    cuda_module module;
    *f = (struct figures){.title = subject->title,
                          .chunk = subject->chunk,
                          .rank = rank,
                          .size = size,
                          .comm = comm,
                          .gpu = rig_gpu()};
    f->stream = rig_stream_take(false);
    f->in = rig_take(BYTES);
    f->out = rig_take(BYTES);
    rig_fill(f->in, 0, BYTES);
    rig_fill(f->out, 0, BYTES);
    f->reducer = (struct reducer){.kernel = reduce_kernel(TUTTI_SUM, TUTTI_FLOAT32),
                                  .dtype = TUTTI_FLOAT32,
                                  .elem_size = sizeof(float)};
    check(f, mem_device_open(&device) == TUTTI_OK, "open the device");
    if (!f->wrong)
        check(f, mem_queue_take(device, &f->queue) == TUTTI_OK, "take a queue");
    bool kernels = f->gpu->module_load(&module, empty_kernel) == CUDA_DRIVER_OK &&
                   f->gpu->module_function(&f->nothing, module, "nothing") == CUDA_DRIVER_OK;
    check(f, kernels, "load the empty kernel");
    /* Loading waits for every stream of the context, also for one that waits for this rank. */
    meet(f);
    if (f->chunk && !f->wrong)
        chunk(f);
    else if (!f->wrong)
        figures_all(f, !subject->bandwidth);
    check(f, tutti_comm_status(comm) == TUTTI_OK, "status");
    mem_queue_give(f->queue);
    int wrong = f->wrong;
    free(f);
    return wrong;
}

static int run_chunks(struct world *world, const char *title)
{
    static const char *const chunks[] = {"16M", "32M", "64M", "128M", "256M"};
    int wrong = 0;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks && wrong == 0; i++) {
        char setting[32];
        const char *const settings[] = {setting, NULL};
        snprintf(setting, sizeof setting, "TUTTI_CHUNK=%s", chunks[i]);
        world->settings = settings;
        wrong = rig_run(world, run, &(struct subject){.title = title, .chunk = chunks[i]});
    }
    return wrong;
}

int main(int argc, char **argv)
{
    bool chunks = argc > 1 && strcmp(argv[1], "chunks") == 0;
    bool bandwidth_only = argc > 1 && strcmp(argv[1], "bandwidth") == 0;
    char **args = argv + (chunks || bandwidth_only); /* args[1]: the kind of ranks */
    int left = argc - (chunks || bandwidth_only);
    int size = left >= 3 ? atoi(args[2]) : 0;
    char title[64];
    if (size < 2 || size > 8) {
        fprintf(stderr, "usage: gpu_figures [chunks|bandwidth] threads|processes RANKS [TITLE], "
                        "RANKS from 2 to 8\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(title, sizeof title, "%d %s", size, args[1]);
    struct world world = {
        .kind = args[1][0] == 't' ? WORLD_THREADS : WORLD_PROCESSES, .size = size, .limit_s = 55};
    if (chunks)
        return run_chunks(&world, title) != 0;
    struct subject subject = {.title = left > 3 ? args[3] : title, .bandwidth = bandwidth_only};
    return rig_run(&world, run, &subject) != 0;
}
