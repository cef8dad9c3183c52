/* bench.c: one rank's buffers, and the measurement of one call.
 *
 * A measurement is: fill the buffers, call twice to learn the cost, agree over all ranks how many
 * repetitions fit the budget, warm up, meet in a barrier, then call back to back with a clock
 * reading between calls. The time shown is the loop's mean (as in nccl-tests); minimum, median and
 * 99th percentile come from the readings. After that the buffers are filled anew, one call is made
 * and every byte compared. With --rewrite each call of the loop has its input written first, and
 * the time includes that: what the library's reading makes writing cost is the program's loss.
 *
 * With a peer the timed loop is cut into blocks, ours and theirs in turn: A B A B ... Each block
 * ends in a barrier of its own library, so that no rank waits in one library while another still
 * works in the other: waiting ranks spin, and would take the core that is being measured.
 *
 * Ranks talk between measurements through an allgather of the library under test. A record carries
 * a sequence number and its rank, so that a broken allgather is noticed here too. */
#include "perf/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    ADAPTIVE_LEAST = 3,
    ADAPTIVE_LEAST_BLOCK = 2,
    ADAPTIVE_MOST = 1000,
    PATIENCE = 10, /* a peer may take so many times the budget */
    SAMPLES_MOST = 1 << 20,
    BARRIER_DELAY_US = 2000
};

double bench_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* Other ranks may be threads of this process, inside the library: leave without cleaning up. */
_Noreturn static void stop(void)
{
    fflush(stdout);
    _exit(EXIT_RUN);
}

_Noreturn void bench_die(const struct bench *bench, const char *what)
{
    fprintf(stderr, "coll_perf: rank %d: %s: %s\n", bench->rank, what, tutti_last_error());
    stop();
}

static void call_or_die(const struct bench *bench)
{
    if (bench->call.row->run(&bench->call, bench->comm) != TUTTI_OK)
        bench_die(bench, bench->call.row->name);
}

/* One of many calls that are timed: with --rewrite on an input that this core has just written,
 * from a copy that nobody else reads. */
static void write_input(const struct bench *bench)
{
    const struct call *call = &bench->call;
    if (bench->fresh && call->in_extent)
        memcpy((void *)call->in, bench->fresh, call->in_extent * call->elem_size);
}

static void repeat_or_die(const struct bench *bench)
{
    write_input(bench);
    call_or_die(bench);
}

static void *allocate(const struct bench *bench, size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (memory == NULL) {
        fprintf(stderr, "coll_perf: rank %d: out of memory: %zu bytes\n", bench->rank, bytes);
        stop();
    }
    return memory;
}

static bool no_room(struct bench *bench, const char *what, const char *why)
{
    snprintf(bench->finding, sizeof bench->finding, "%s: %s", what, why);
    return false;
}

static bool arena_open(struct bench *bench, struct arena *arena, size_t bytes, bool peer)
{
    size_t all = bytes + 2 * (size_t)GUARD_BYTES;
    enum memory kind = bench->options->memory;
    const char *what = "buffers (-e bytes each for in and out)";
    void *memory = NULL, *device = NULL;
    if (peer)
        memory = bench->peer->alloc(all);
    else if (kind == MEMORY_MALLOC)
        memory = aligned_alloc(4096, (all + 4095) / 4096 * 4096);
    else if (kind == MEMORY_CUDA)
        memory = calloc(1, all);
    else if (tutti_mem_alloc(all, &memory) != TUTTI_OK)
        return no_room(bench, what, tutti_last_error());
    if (memory == NULL)
        return no_room(bench, what, "out of memory");
    *arena = (struct arena){memory, (unsigned char *)memory + GUARD_BYTES, bytes, NULL};
    if (!peer && kind == MEMORY_CUDA &&
        tutti_mem_alloc_in(TUTTI_MEMORY_CUDA, all, &device) != TUTTI_OK)
        return no_room(bench, "buffers in GPU memory (-e bytes each for in and out)",
                       tutti_last_error());
    arena->device = device;
    return true;
}

static void arena_close(const struct bench *bench, struct arena *arena, bool peer)
{
    if (arena->base == NULL) /* there was no room for it */
        return;
    if (peer)
        bench->peer->free(arena->base);
    else if (bench->options->memory != MEMORY_LIB)
        free(arena->base);
    else
        tutti_mem_free(arena->base);
    tutti_mem_free(arena->device);
}

bool bench_open(struct bench *bench, const struct options *options, tutti_comm *comm)
{
    const struct peer *peer = options->peer_kind ? options->peer : NULL;
    *bench = (struct bench){.options = options, .comm = comm, .peer = peer};
    tutti_comm_rank(comm, &bench->rank);
    tutti_comm_size(comm, &bench->size);
    tutti_comm_host_count(comm, &bench->hosts);
    size_t size = (size_t)bench->size;
    /* the greatest size, or one element for every rank, and the gaps of the v forms */
    size_t least = size * sizeof(uint64_t), gaps = size * CASE_GAP * sizeof(uint64_t);
    size_t bytes = (options->max_bytes > least ? options->max_bytes : least) + gaps;
    bool room = arena_open(bench, &bench->in, bytes, false) &&
                arena_open(bench, &bench->out, bytes, false) &&
                (!peer || (arena_open(bench, &bench->peer_in, bytes, true) &&
                           arena_open(bench, &bench->peer_out, bytes, true)));
    uint64_t most = options->iters ? options->iters : ADAPTIVE_MOST;
    bench->samples_max = most < SAMPLES_MOST ? (size_t)most : SAMPLES_MOST;
    bench->fresh = options->rewrite ? allocate(bench, bytes) : NULL;
    bench->samples = allocate(bench, bench->samples_max * sizeof(double));
    bench->records = allocate(bench, size * sizeof(struct record));
    bench->call.counts = allocate(bench, size * sizeof(size_t));
    bench->call.displs = allocate(bench, size * sizeof(size_t));
    bench->call.segments = allocate(bench, size * sizeof(struct segment));
    return room;
}

void bench_close(struct bench *bench)
{
    if (bench->premulsum)
        tutti_op_destroy(bench->comm, bench->premulsum);
    arena_close(bench, &bench->in, false);
    arena_close(bench, &bench->out, false);
    if (bench->peer) {
        arena_close(bench, &bench->peer_in, true);
        arena_close(bench, &bench->peer_out, true);
    }
    free(bench->fresh);
    free(bench->samples);
    free(bench->records);
    free(bench->call.counts);
    free(bench->call.displs);
    free(bench->call.segments);
}

void bench_choose(struct bench *bench, tutti_dtype dtype, unsigned op_choice)
{
    data_make(&bench->data, dtype, op_choice, bench->rank, bench->size);
    if (bench->premulsum && tutti_op_destroy(bench->comm, bench->premulsum) != TUTTI_OK)
        bench_die(bench, "op_destroy");
    bench->premulsum = (tutti_op)0;
    if (op_choice == OP_PREMULSUM) {
        uint64_t scalar = 0;
        data_scalar(dtype, bench->rank, &scalar);
        if (tutti_op_create_premulsum(bench->comm, &scalar, dtype, &bench->premulsum) != TUTTI_OK)
            bench_die(bench, "op_create_premulsum");
    }
}

static unsigned char *data_of(const struct arena *arena)
{
    return arena->device ? arena->device + GUARD_BYTES : arena->data;
}

/* Points the call at buffers: one in place, two otherwise; a buffer this rank lacks is NULL. */
static const struct arena *point_call(struct call *call, const struct arena *in,
                                      const struct arena *out)
{
    const struct arena *source = call->in_place ? out : in;
    size_t size = call->elem_size;
    bool aliased = call->in_place && call->row->has_data;
    call->in = call->in_extent || aliased ? data_of(source) + call->in_at * size : NULL;
    call->out = call->out_extent || aliased ? data_of(out) + call->out_at * size : NULL;
    return source;
}

void bench_shape(struct bench *bench, const struct perf_case *row, int root, bool in_place,
                 uint64_t bytes)
{
    struct call *call = &bench->call;
    call->row = row;
    call->rank = bench->rank;
    call->size = bench->size;
    call->root = root;
    call->dtype = bench->data.dtype;
    call->elem_size = bench->data.elem_size;
    call->op_choice = bench->data.op_choice;
    call->op = call->op_choice == OP_PREMULSUM ? bench->premulsum
               : call->op_choice == OP_NONE    ? TUTTI_SUM
                                               : (tutti_op)call->op_choice;
    call->in_place = in_place;
    call->count = call->in_extent = call->out_extent = call->in_at = call->out_at = 0;
    call->segment_count = 0;
    row->shape(call, bytes);
    point_call(call, &bench->in, &bench->out);
}

/* Between a buffer in device memory and its mirror, as much as a check looks at. */
static void carry(const struct bench *bench, const struct arena *arena, bool has_in, bool has_out,
                  bool to_device)
{
    unsigned char *dst = to_device ? arena->device : arena->base;
    const unsigned char *src = to_device ? arena->base : arena->device;
    if (arena->device &&
        tutti_mem_copy(dst, src, check_extent(&bench->call, has_in, has_out)) != TUTTI_OK)
        bench_die(bench, "copy between GPU memory and its mirror");
}

static void carry_all(const struct bench *bench, const struct arena *in, bool to_device)
{
    carry(bench, &bench->out, in == &bench->out, true, to_device);
    if (in != &bench->out)
        carry(bench, in, true, false, to_device);
}

static void fill(const struct bench *bench, const struct arena *in)
{
    check_fill(&bench->call, &bench->data, in, &bench->out);
    carry_all(bench, in, true);
}

void bench_exchange(struct bench *bench, const double *values, size_t count)
{
    struct record own = {.sequence = ++bench->sequence, .rank = bench->rank};
    memcpy(own.values, values, count * sizeof *values);
    if (tutti_allgather(&own, bench->records, sizeof own, TUTTI_UINT8, bench->comm) != TUTTI_OK)
        bench_die(bench, "allgather between measurements");
    for (int r = 0; r < bench->size; r++) {
        if (bench->records[r].sequence != own.sequence || bench->records[r].rank != r) {
            fprintf(stderr,
                    "coll_perf: rank %d: an allgather between measurements gave the wrong record "
                    "for rank %d: results cannot be trusted\n",
                    bench->rank, r);
            stop();
        }
    }
}

static double over_ranks(const struct bench *bench, size_t value, enum average how)
{
    double sum = 0, least = 0, greatest = 0;
    for (int r = 0; r < bench->size; r++) {
        double one = bench->records[r].values[value];
        sum += one;
        least = r == 0 || one < least ? one : least;
        greatest = r == 0 || one > greatest ? one : greatest;
    }
    return how == AVERAGE_RANK0  ? bench->records[0].values[value]
           : how == AVERAGE_MEAN ? sum / bench->size
           : how == AVERAGE_MIN  ? least
                                 : greatest;
}

static void meet(const struct bench *bench)
{
    if (tutti_barrier(bench->comm) != TUTTI_OK)
        bench_die(bench, "barrier between measurements");
}

/* Calls twice, and agrees from the second how many calls fit the budget: equal at every rank. */
static void agree(struct bench *bench, double budget_us, uint64_t least, uint64_t *warmup,
                  uint64_t *iters)
{
    const struct options *options = bench->options;
    double us = 0;
    for (int i = 0; i < 2; i++) {
        double start = bench_now_us();
        repeat_or_die(bench);
        us = bench_now_us() - start;
    }
    bench_exchange(bench, &us, 1);
    us = over_ranks(bench, 0, AVERAGE_MAX);
    double fit = budget_us / (us > 0.1 ? us : 0.1);
    uint64_t calls = fit > ADAPTIVE_MOST ? ADAPTIVE_MOST : (uint64_t)fit;
    calls = calls < least ? least : calls;
    *iters = options->iters ? options->iters : calls;
    *warmup = options->warmup_fixed || options->warmup < calls / 4 ? options->warmup : calls / 4;
}

/* The timed loop: mean over it; each call's time in samples (the last ones where they are many). */
static double loop_ours(struct bench *bench, uint64_t iters)
{
    double start = bench_now_us(), before = start;
    for (uint64_t i = 0; i < iters; i++) {
        repeat_or_die(bench);
        double now = bench_now_us();
        bench->samples[i % bench->samples_max] = now - before;
        before = now;
    }
    return (before - start) / (double)iters;
}

static double loop_theirs(const struct bench *bench, uint64_t iters)
{
    double start = bench_now_us(), now = start;
    for (uint64_t i = 0; i < iters; i++) {
        write_input(bench);
        int code = bench->peer->run(&bench->call);
        if (code != 0) {
            fprintf(stderr, "coll_perf: rank %d: %s of %s failed with code %d\n", bench->rank,
                    bench->call.row->name, bench->peer->name, code);
            stop();
        }
        now = bench_now_us(); /* the same clock readings as in our loop */
    }
    return (now - start) / (double)iters;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void time_alone(struct bench *bench, struct timing *timing)
{
    uint64_t warmup, iters;
    agree(bench, bench->options->budget_ms * 1e3, ADAPTIVE_LEAST, &warmup, &iters);
    for (uint64_t i = 0; i < warmup; i++)
        repeat_or_die(bench);
    meet(bench);
    double mean = loop_ours(bench, iters);
    size_t count = iters < bench->samples_max ? (size_t)iters : bench->samples_max;
    double middle = median(bench->samples, count); /* sorts */
    size_t p99 = (count * 99 + 99) / 100 - 1;
    double values[] = {mean, bench->samples[0], middle, bench->samples[p99]};
    bench_exchange(bench, values, 4);
    timing->mean_us = over_ranks(bench, 0, bench->options->average);
    timing->min_us = over_ranks(bench, 1, AVERAGE_MIN);
    timing->median_us = over_ranks(bench, 2, AVERAGE_MEAN);
    timing->p99_us = over_ranks(bench, 3, AVERAGE_MAX);
    timing->iters = iters;
}

/* Points the call at the peer's buffers and fills them; the buffer of IN. The barrier comes after
 * the filling, since a peer may put what it receives into OUT before the call. */
static const struct arena *enter_peer(struct bench *bench)
{
    const struct arena *in = point_call(&bench->call, &bench->peer_in, &bench->peer_out);
    check_fill(&bench->call, &bench->data, in, &bench->peer_out);
    bench->peer->barrier();
    return in;
}

/* No more repetitions than the peer can do with some patience: one that polls while others wait for
 * its core would take minutes for a row. The first call may be where the peer prepares; the least
 * of some more is no accident. */
static uint64_t agree_peer(struct bench *bench, double budget_us, uint64_t iters)
{
    enum { CALLS = 5 };
    double least = loop_theirs(bench, 1);
    for (int i = 1; i < CALLS; i++) {
        double us = loop_theirs(bench, 1);
        least = us < least ? us : least;
    }
    bench->peer->barrier();
    bench_exchange(bench, &least, 1);
    double fit = PATIENCE * budget_us / (over_ranks(bench, 0, AVERAGE_MAX) + 0.1);
    uint64_t most = fit > ADAPTIVE_LEAST_BLOCK ? (uint64_t)fit : ADAPTIVE_LEAST_BLOCK;
    return bench->options->iters || iters < most ? iters : most;
}

/* Blocks in turn. The two libraries have buffers of their own, filled once: what repeated calls in
 * place make of the data costs both the same. */
static void time_in_turn(struct bench *bench, struct timing *timing)
{
    const struct options *options = bench->options;
    uint64_t warmup, iters;
    double budget_us = options->budget_ms * 1e3 / options->blocks;
    agree(bench, budget_us, ADAPTIVE_LEAST_BLOCK, &warmup, &iters);
    enter_peer(bench);
    iters = agree_peer(bench, budget_us, iters);
    warmup = warmup < iters || options->warmup_fixed ? warmup : iters;
    double *our_us = allocate(bench, 3 * (size_t)options->blocks * sizeof(double));
    double *their_us = our_us + options->blocks, *ratio = their_us + options->blocks;
    for (unsigned block = 0; block < options->blocks; block++) {
        point_call(&bench->call, &bench->in, &bench->out);
        meet(bench);
        for (uint64_t i = 0; i < warmup; i++)
            repeat_or_die(bench);
        meet(bench);
        double mine = loop_ours(bench, iters);
        meet(bench);
        point_call(&bench->call, &bench->peer_in, &bench->peer_out);
        bench->peer->barrier();
        if (warmup)
            loop_theirs(bench, warmup);
        bench->peer->barrier();
        double values[] = {mine, loop_theirs(bench, iters)};
        bench->peer->barrier();
        bench_exchange(bench, values, 2);
        our_us[block] = over_ranks(bench, 0, options->average);
        their_us[block] = over_ranks(bench, 1, options->average);
        ratio[block] = our_us[block] / their_us[block];
    }
    timing->mean_us = timing->median_us = median(our_us, options->blocks);
    timing->min_us = our_us[0];
    timing->p99_us = our_us[options->blocks - 1];
    timing->peer_us = median(their_us, options->blocks);
    timing->ratio = median(ratio, options->blocks);
    timing->ratio_low = ratio[options->blocks / 4];
    timing->ratio_high = ratio[options->blocks - 1 - options->blocks / 4];
    timing->iters = iters * options->blocks;
    timing->peer_measured = true;
    free(our_us);
}

/* A peer that computes something else, or was asked for something else, compares with nothing. */
static void check_peer(struct bench *bench)
{
    struct call *call = &bench->call;
    if (bench->options->checks == 0 || !call->row->has_data)
        return;
    const struct arena *in = enter_peer(bench);
    loop_theirs(bench, 1);
    uint64_t wrong = 0;
    if (bench->peer->comparable(call))
        wrong = check_result(call, &bench->data, in, &bench->peer_out, bench->finding,
                             sizeof bench->finding);
    if (wrong) {
        fprintf(stderr, "coll_perf: rank %d of %d: %s %s %s of %s, %llu bytes%s: %llu wrong: %s\n",
                call->rank, call->size, call->row->name, tutti_dtype_name(call->dtype),
                op_choice_name(call->op_choice), bench->peer->version,
                (unsigned long long)call->bytes, call->in_place ? " in place" : "",
                (unsigned long long)wrong, bench->finding);
        stop();
    }
    bench->peer->barrier();
}

/* A barrier is right when nobody leaves before the last has entered. One rank comes late; clocks
 * can be compared only on one host. */
static uint64_t check_barrier(struct bench *bench)
{
    if ((int)(bench->sequence % (uint64_t)bench->size) == bench->rank)
        usleep(BARRIER_DELAY_US);
    double enter = bench_now_us();
    call_or_die(bench);
    double values[] = {enter, bench_now_us()};
    bench_exchange(bench, values, 2);
    double last = over_ranks(bench, 0, AVERAGE_MAX);
    uint64_t wrong = 0;
    for (int r = 0; r < bench->size; r++)
        wrong += bench->records[r].values[1] < last;
    return wrong;
}

static void check(struct bench *bench, struct timing *timing)
{
    struct call *call = &bench->call;
    const struct arena *in = point_call(call, &bench->in, &bench->out);
    double wrong = 0;
    for (unsigned i = 0; i < bench->options->checks; i++) {
        if (!call->row->has_data) {
            if (bench->hosts == 1) {
                timing->wrong += check_barrier(bench);
                timing->checked = true;
            }
            continue;
        }
        fill(bench, in);
        call_or_die(bench);
        carry_all(bench, in, false);
        uint64_t found = check_result(call, &bench->data, in, &bench->out, bench->finding,
                                      sizeof bench->finding);
        wrong += (double)found;
        timing->checked = true;
        if (found)
            fprintf(stderr, "coll_perf: rank %d of %d: %s %s %s, %llu bytes%s: %llu wrong: %s\n",
                    call->rank, call->size, call->row->name, tutti_dtype_name(call->dtype),
                    op_choice_name(call->op_choice), (unsigned long long)call->bytes,
                    call->in_place ? " in place" : "", (unsigned long long)found, bench->finding);
    }
    if (call->row->has_data) {
        bench_exchange(bench, &wrong, 1);
        timing->wrong = (uint64_t)(over_ranks(bench, 0, AVERAGE_MEAN) * bench->size + 0.5);
    }
}

void bench_measure(struct bench *bench, struct timing *timing)
{
    *timing = (struct timing){.measured = true};
    const struct arena *in = point_call(&bench->call, &bench->in, &bench->out);
    fill(bench, in);
    if (bench->fresh && bench->call.in_extent)
        memcpy(bench->fresh, bench->call.in, bench->call.in_extent * bench->call.elem_size);
    meet(bench);
    if (bench->peer && bench->peer->supports(&bench->call)) {
        time_in_turn(bench, timing);
        check_peer(bench);
    } else {
        time_alone(bench, timing);
    }
    check(bench, timing);
}
