/* figures.c: how near operations on GPU memory come to what the device itself can do.
 *
 *     gpu_figures threads|processes RANKS [TITLE]
 *     gpu_figures chunks threads|processes RANKS
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
 * Each line that begins with | is a row of a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/device.h"
#include "tests/rig.h"

#define BYTES   ((size_t)256 << 20)
#define ROUNDS  7   /* blocks of a measurement; the median counts */
#define REPEATS 5   /* in a block, back to back; more of what is smaller */
#define TURNS   15  /* of the latency */
#define LATENCY 200 /* calls in a turn */

static const char empty_kernel[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                   ".visible .entry nothing() { ret; }\n";

struct figures {
    const char *title;
    const char *chunk; /* of the allreduce; NULL: all other figures */
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
    int wrong;
};

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
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

static double turn(struct figures *f, void (*put)(struct figures *f))
{
    meet(f);
    double start = now_us();
    for (int i = 0; i < LATENCY && f->wrong == 0; i++) {
        put(f);
        wait_stream(f);
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
        if (f->rank == 0 && f->wrong == 0)
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
    if (f->rank == 0 && f->wrong == 0)
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
    if (f->rank != 0 || f->wrong)
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

static void latency(struct figures *f)
{
    double empty[TURNS], small[TURNS];
    turn(f, put_nothing);
    turn(f, put_small);
    for (int i = 0; i < TURNS && f->wrong == 0; i++) {
        empty[i] = turn(f, put_nothing);
        small[i] = turn(f, put_small);
    }
    double empty_us = median(empty, TURNS), small_us = median(small, TURNS);
    if (f->rank == 0 && f->wrong == 0)
        printf("| %s | allreduce of 8 B in a stream | %.1f us | empty kernel %.1f us | %.2f | <= 3 "
               "|\n",
               f->title, small_us, empty_us, small_us / empty_us);
}

/* What a run is about. */
struct subject {
    const char *title, *chunk; /* as in struct figures */
};

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
    static void (*const all[])(struct figures *) = {latency, bandwidth, by_size};
    if (f->chunk && !f->wrong)
        chunk(f);
    for (size_t i = 0; i < sizeof all / sizeof *all && !f->chunk && !f->wrong; i++)
        all[i](f);
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
        wrong = rig_run(world, run, &(struct subject){title, chunks[i]});
    }
    return wrong;
}

int main(int argc, char **argv)
{
    bool chunks = argc > 1 && strcmp(argv[1], "chunks") == 0;
    char **args = argv + chunks; /* args[1]: the kind of ranks */
    int size = argc - chunks >= 3 ? atoi(args[2]) : 0;
    char title[64];
    if (size < 2 || size > 8) {
        fprintf(stderr, "usage: gpu_figures threads|processes RANKS [TITLE]\n"
                        "       gpu_figures chunks threads|processes RANKS, RANKS from 2 to 8\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(title, sizeof title, "%d %s", size, args[1]);
    struct world world = {
        .kind = args[1][0] == 't' ? WORLD_THREADS : WORLD_PROCESSES, .size = size, .limit_s = 55};
    if (chunks)
        return run_chunks(&world, title) != 0;
    return rig_run(&world, run, &(struct subject){argc > 3 ? argv[3] : title, NULL}) != 0;
}
