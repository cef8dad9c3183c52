/* figures.c: how near operations on GPU memory come to what the device itself can do.
 *
 *     gpu_figures threads|processes RANKS [TITLE]
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
 * Each line that begins with | is a row of a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/device.h"
#include "tests/rig.h"

#define BYTES   ((size_t)256 << 20)
#define ROUNDS  7   /* blocks of a measurement; the median counts */
#define REPEATS 5   /* in a block, back to back */
#define TURNS   15  /* of the latency */
#define LATENCY 200 /* calls in a turn */

static const char empty_kernel[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                   ".visible .entry nothing() { ret; }\n";

struct figures {
    const char *title;
    int rank, size;
    tutti_comm *comm;
    cuda_stream stream;
    const struct gpu *gpu;
    char *in, *out;
    struct mem_queue *queue;
    struct reducer reducer;
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
    rig_put_copy(f->stream, f->out, f->in, BYTES / (size_t)f->size);
}

static void put_reduce(struct figures *f)
{
    uint64_t ticket;
    check(f,
          mem_queue_reduce(f->queue, &f->reducer, TUTTI_SUM, f->out, f->in, f->out,
                           BYTES / (size_t)f->size, &ticket) == TUTTI_OK,
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
        for (int i = 0; i < REPEATS; i++)
            put(f);
        wait(f);
        double mine = (now_us() - start) / REPEATS, slowest = mine;
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

static void bandwidth(struct figures *f)
{
    double part = (double)BYTES / f->size;
    double copy_us = measure(f, put_copy, wait_stream);
    double reduce_us = measure(f, put_reduce, wait_queue);
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

static int run(tutti_comm *comm, int rank, int size, void *context)
{
    struct figures *f = calloc(1, sizeof *f);
    struct mem_device *device;
    cuda_module module;
    *f = (struct figures){
        .title = context, .rank = rank, .size = size, .comm = comm, .gpu = rig_gpu()};
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
    if (!f->wrong)
        latency(f);
    if (!f->wrong)
        bandwidth(f);
    check(f, tutti_comm_status(comm) == TUTTI_OK, "status");
    mem_queue_give(f->queue);
    int wrong = f->wrong;
    free(f);
    return wrong;
}

int main(int argc, char **argv)
{
    char title[64];
    int size = argc >= 3 ? atoi(argv[2]) : 0;
    if (size < 2 || size > 8) {
        fprintf(stderr, "usage: gpu_figures threads|processes RANKS [TITLE], RANKS from 2 to 8\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(title, sizeof title, "%d %s", size, argv[1]);
    struct world world = {
        .kind = argv[1][0] == 't' ? WORLD_THREADS : WORLD_PROCESSES, .size = size, .limit_s = 55};
    return rig_run(&world, run, argc > 3 ? argv[3] : title) != 0;
}
