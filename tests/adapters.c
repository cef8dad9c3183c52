/* adapters.c: one rank of a job whose GPU memory the adapters of a second host are to reach, over
 * the stand-in driver; started once per rank by tests/vm/guest/parts.sh.
 *
 *     adapters direct    long transfers between hosts must go without a copy; every byte is checked
 *     adapters staged    none may; the same results
 *     adapters any       ranks differ: the same results
 *     adapters host      as any, and every second rank's buffers are host memory
 *     adapters lost      sums until the link is lost, which must come to an end that says why
 *     adapters held      the only channel of rank 1's GPU is held when bytes come that no adapter
 *                        writes there: its call ends all the same when another thread aborts
 *     adapters late      the same, at the time limit, which is not rank 0's fault
 *
 * What goes without a copy is counted by the transports. Device memory is memory in which the CPU
 * faults, so whoever touches it by mistake ends the job. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/gpu.h"
#include "tutti/tutti.h"

/* Of int32: nine chunks of RDMA, and 36 bytes, which might be sent inline. */
#define COUNT ((size_t)288 * 1024 + 9)
/* Bytes that may go through slots: the ends of what plans cut into pieces. */
#define SLOTS_MOST ((uint64_t)128 << 10)

static enum { DIRECT, STAGED, ANY, HOST, LOST, HELD, LATE } expected;
static const struct gpu *gpu;
static tutti_comm *comm;
static int rank, size, bad;

static void check(bool good, const char *what)
{
    if (!good)
        printf("rank %d: %s: %s\n", rank, what, tutti_last_error());
    bad += !good;
}

/* ---- buffers ----------------------------------------------------------------------------------
 */

struct vector {
    int32_t *at;
    size_t count;
    bool on_host, pooled;
};

static cuda_address address_of(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

static struct vector make(size_t count, bool pooled)
{
    struct vector buffer = {.count = count, .pooled = pooled};
    cuda_address memory = 0;
    size_t bytes = count * sizeof *buffer.at;
    buffer.on_host = expected == HOST && rank % 2 == 1;
    if (buffer.on_host)
        buffer.at = malloc(bytes);
    else if ((pooled ? gpu->pool_alloc(&memory, bytes, NULL) : gpu->alloc(&memory, bytes)) ==
             CUDA_DRIVER_OK)
        buffer.at = (int32_t *)(uintptr_t)memory;
    if (!buffer.at) {
        printf("rank %d: no buffer of %zu bytes\n", rank, bytes);
        exit(1);
    }
    return buffer;
}

static void drop(struct vector buffer)
{
    if (buffer.on_host)
        free(buffer.at);
    else
        check(gpu->free(address_of(buffer.at)) == CUDA_DRIVER_OK, "free");
}

static int32_t value(int of, size_t i)
{
    return (int32_t)((i * 2654435761u >> 7) % 100000u) * (of + 1) + of;
}

static void put(struct vector buffer, size_t at, const int32_t *from, size_t count)
{
    if (buffer.on_host)
        memcpy(buffer.at + at, from, count * sizeof *from);
    else
        check(gpu->upload(address_of(buffer.at + at), from, count * sizeof *from) ==
                      CUDA_DRIVER_OK &&
                  gpu->stream_synchronize(NULL) == CUDA_DRIVER_OK,
              "upload");
}

/* The values of a rank, from the first-th on. */
static void fill(struct vector buffer, int of, size_t first)
{
    int32_t *values = malloc(buffer.count * sizeof *values);
    for (size_t i = 0; i < buffer.count; i++)
        values[i] = value(of, first + i);
    put(buffer, 0, values, buffer.count);
    free(values);
}

static void clear(struct vector buffer)
{
    int32_t *values = malloc(buffer.count * sizeof *values);
    memset(values, 0x5a, buffer.count * sizeof *values);
    put(buffer, 0, values, buffer.count);
    free(values);
}

/* Of rank `of`, or the sum of all ranks' (-1). */
static void expect(struct vector buffer, size_t at, size_t count, int of, size_t first,
                   const char *what)
{
    int32_t *seen = malloc(count * sizeof *seen);
    size_t wrong = 0;
    if (buffer.on_host)
        memcpy(seen, buffer.at + at, count * sizeof *seen);
    else
        check(gpu->download(seen, address_of(buffer.at + at), count * sizeof *seen) ==
                  CUDA_DRIVER_OK,
              "download");
    for (size_t i = 0; i < count; i++) {
        int32_t want = of < 0 ? 0 : value(of, first + i);
        for (int r = 0; r < size && of < 0; r++)
            want += value(r, first + i);
        wrong += seen[i] != want;
    }
    free(seen);
    if (wrong > 0)
        printf("rank %d: %s: %zu of %zu elements are wrong\n", rank, what, wrong, count);
    bad += wrong > 0;
}

/* ---- counting ---------------------------------------------------------------------------------
 */

/* Of the transport between hosts. */
static struct transport_stats counts(void)
{
    struct transport_stats stats = {0};
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        if (comm->transports[i]->ops->takes(comm->transports[i], 0, NULL, 0) || expected == STAGED)
            comm->transport_ops[i]->stats(comm->transports[i], &stats);
    }
    return stats;
}

/* Did what went between hosts since then go as it should? */
static void judge(const struct transport_stats *before, const char *what)
{
    struct transport_stats after = counts();
    uint64_t device = after.device_bytes - before->device_bytes;
    uint64_t copied = after.copied_bytes - before->copied_bytes;
    uint64_t all =
        after.bytes_sent + after.bytes_received - before->bytes_sent - before->bytes_received;
    printf("rank %d: %s: %llu bytes over the wire, %llu without a copy, %llu through slots\n", rank,
           what, (unsigned long long)all, (unsigned long long)device, (unsigned long long)copied);
    if (expected == DIRECT)
        check(device + copied == all && copied <= SLOTS_MOST, "bytes were copied");
    if (expected == STAGED)
        check(device == 0, "bytes were not copied");
}

/* ---- what is run ------------------------------------------------------------------------------
 */

static void run_reductions(struct vector in, struct vector out, const char *what)
{
    fill(in, rank, 0);
    clear(out);
    check(tutti_allreduce(in.at, out.at, COUNT, TUTTI_INT32, TUTTI_SUM, comm) == TUTTI_OK, what);
    expect(out, 0, COUNT, -1, 0, what);
    fill(out, rank, 0);
    check(tutti_allreduce(out.at, out.at, COUNT, TUTTI_INT32, TUTTI_SUM, comm) == TUTTI_OK, what);
    expect(out, 0, COUNT, -1, 0, "in place");
    clear(out);
    check(tutti_reduce_scatter(in.at, out.at, COUNT / (size_t)size, TUTTI_INT32, TUTTI_SUM, comm) ==
              TUTTI_OK,
          "reduce_scatter");
    expect(out, 0, COUNT / (size_t)size, -1, COUNT / (size_t)size * (size_t)rank, "reduce_scatter");
    clear(out);
    check(tutti_reduce(in.at, out.at, COUNT, TUTTI_INT32, TUTTI_SUM, size - 1, comm) == TUTTI_OK,
          "reduce");
    if (rank == size - 1)
        expect(out, 0, COUNT, -1, 0, "reduce");
}

static void run_movements(struct vector in, struct vector out)
{
    size_t block = COUNT / (size_t)size;
    fill(in, rank, 0);
    clear(out);
    check(tutti_broadcast(in.at, out.at, COUNT, TUTTI_INT32, 0, comm) == TUTTI_OK, "broadcast");
    expect(out, 0, COUNT, 0, 0, "broadcast");
    clear(out);
    check(tutti_allgather(in.at, out.at, block, TUTTI_INT32, comm) == TUTTI_OK, "allgather");
    for (int r = 0; r < size; r++)
        expect(out, (size_t)r * block, block, r, 0, "allgather");
    clear(out);
    check(tutti_alltoall(in.at, out.at, block, TUTTI_INT32, comm) == TUTTI_OK, "alltoall");
    for (int r = 0; r < size; r++)
        expect(out, (size_t)r * block, block, r, block * (size_t)rank, "alltoall");
}

/* Twice: links are made by the first call, which knows no better than to copy. */
static void run_collectives(bool pooled)
{
    struct vector in = make(COUNT, pooled), out = make(COUNT, pooled);
    run_reductions(in, out, "allreduce");
    run_movements(in, out);
    struct transport_stats before = counts();
    run_reductions(in, out, "allreduce again");
    run_movements(in, out);
    if (!pooled)
        judge(&before, "collectives");
    drop(in);
    drop(out);
}

/* Memory that is freed and allocated anew has the address of what was there, and other pages. */
static void run_anew(void)
{
    struct transport_stats before = counts();
    void *first = NULL;
    for (int round = 0; round < 3; round++) {
        struct vector in = make(COUNT, false), out = make(COUNT, false);
        if (round > 0 && !in.on_host)
            check(in.at == first, "the stand-in gave another address");
        first = in.at;
        run_reductions(in, out, "allreduce in new memory");
        drop(in);
        drop(out);
    }
    struct transport_stats after = counts();
    judge(&before, "new memory");
    if (expected == DIRECT && size == 2) /* of three, one only passes on what others sum up */
        check(after.registrations - before.registrations >= 12, "new memory was not registered");
}

/* Transfers in a row, long, short and of memory that no adapter reaches, match in their order. */
static void run_transfers(void)
{
    enum { KINDS = 5 };
    size_t counts_of[KINDS] = {COUNT, 100, COUNT / 2, 3000, COUNT};
    bool pooled[KINDS] = {false, false, true, false, false};
    struct vector in[KINDS], out[KINDS];
    tutti_request *requests[2 * KINDS];
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    for (int k = 0; k < KINDS; k++) {
        in[k] = make(counts_of[k], pooled[k]);
        out[k] = make(counts_of[k], pooled[k]);
    }
    for (int round = 0; round < 3; round++) {
        for (int k = 0; k < KINDS; k++) {
            fill(in[k], rank, (size_t)(k + round));
            clear(out[k]);
        }
        for (int k = 0; k < KINDS; k++) {
            check(tutti_recv_start(out[k].at, counts_of[k], TUTTI_INT32, from, comm,
                                   &requests[2 * k]) == TUTTI_OK,
                  "recv");
            check(tutti_send_start(in[k].at, counts_of[k], TUTTI_INT32, to, comm,
                                   &requests[2 * k + 1]) == TUTTI_OK,
                  "send");
        }
        check(tutti_wait_all(2 * KINDS, requests) == TUTTI_OK, "wait");
        for (int k = 0; k < KINDS; k++)
            expect(out[k], 0, counts_of[k], from, (size_t)(k + round), "transfer");
    }
    for (int k = 0; k < KINDS; k++) {
        drop(in[k]);
        drop(out[k]);
    }
}

/* Work that a stream was given before the bytes came must find them. */
static void run_stream(void)
{
    struct vector in = make(COUNT, false), out = make(COUNT, false), copy = make(COUNT, false);
    unsigned before = 0, after = 0;
    cuda_stream stream = NULL;
    if (in.on_host)
        return;
    check(gpu->stream_make(&stream, CUDA_STREAM_NON_BLOCKING) == CUDA_DRIVER_OK, "stream");
    gpu->count_flushes(&before);
    for (int round = 0; round < 3; round++) {
        fill(in, rank, 0);
        clear(out);
        check(tutti_allreduce_on(in.at, out.at, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream) ==
                      TUTTI_OK &&
                  gpu->copy(address_of(copy.at), address_of(out.at), COUNT * sizeof *out.at,
                            stream) == CUDA_DRIVER_OK &&
                  gpu->stream_synchronize(stream) == CUDA_DRIVER_OK,
              "allreduce in a stream");
        expect(copy, 0, COUNT, -1, 0, "allreduce in a stream");
    }
    gpu->count_flushes(&after);
    printf("rank %d: %u flushes\n", rank, after - before);
    check(gpu->stream_destroy(stream) == CUDA_DRIVER_OK, "stream");
    drop(in);
    drop(out);
    drop(copy);
}

/* The only rail goes down under it, and TCP is allowed. */
static void run_until_lost(void)
{
    struct vector in = make(COUNT, false), out = make(COUNT, false);
    tutti_status status = TUTTI_OK;
    fill(in, rank, 0);
    for (int i = 0; i < 100000 && status == TUTTI_OK; i++) {
        status = tutti_allreduce(in.at, out.at, COUNT, TUTTI_INT32, TUTTI_SUM, comm);
        if (status == TUTTI_OK && i % 16 == 0)
            expect(out, 0, COUNT, -1, 0, "allreduce");
        if (i == 0) {
            printf("rank %d: has begun\n", rank); /* parts.sh waits for it */
            fflush(stdout);
        }
    }
    check(status == TUTTI_ERR_PEER, "the link was not lost");
    printf("rank %d: %s\n", rank, tutti_last_error());
}

static void await_open(void *open)
{
    while (!atomic_load((atomic_bool *)open))
        usleep(1000);
}

static void *abort_later(void *unused)
{
    (void)unused;
    sleep(3); /* the bytes have come long since */
    check(tutti_comm_abort(comm) == TUTTI_OK, "abort");
    return NULL;
}

/* Links are made by the first call. A receive that has begun found its queue clear. */
static void run_held(void)
{
    struct vector memory = make(COUNT, true);
    atomic_bool open = false;
    pthread_t aborts;
    cuda_stream stream;
    tutti_request *request;
    check(tutti_barrier(comm) == TUTTI_OK, "barrier");
    if (rank == 0) {
        sleep(1);
        check(tutti_send(memory.at, COUNT, TUTTI_INT32, 1, comm) == TUTTI_OK, "send");
        sleep(expected == LATE ? 6 : 0); /* it does not wait for rank 1 */
        return;
    }
    check(gpu->stream_make(&stream, CUDA_STREAM_NON_BLOCKING) == CUDA_DRIVER_OK, "stream");
    check(tutti_recv_start(memory.at, COUNT, TUTTI_INT32, 0, comm, &request) == TUTTI_OK, "recv");
    usleep(500000);
    check(gpu->host_function(stream, await_open, &open) == CUDA_DRIVER_OK, "gate");
    if (expected == LATE) {
        check(tutti_wait(&request) == TUTTI_ERR_TIMEOUT && !strstr(tutti_last_error(), "rank 0"),
              "a receive whose time is up");
    } else {
        check(pthread_create(&aborts, NULL, abort_later, NULL) == 0, "thread");
        check(tutti_wait(&request) == TUTTI_ERR_ABORTED, "a receive in a channel that is held");
        check(pthread_join(aborts, NULL) == 0, "thread");
    }
    atomic_store(&open, true);
    check(gpu->stream_synchronize(stream) == CUDA_DRIVER_OK, "stream");
    drop(memory);
}

int main(int argc, char **argv)
{
    static const char *const words[] = {"direct", "staged", "any", "host", "lost", "held", "late"};
    int word = 0;
    while (argc == 2 && word <= LATE && strcmp(argv[1], words[word]) != 0)
        word++;
    if (argc != 2 || word > LATE)
        return fprintf(stderr, "usage: adapters direct|staged|any|host|lost|held|late\n"), 2;
    expected = word;
    gpu = gpu_open();
    if (!gpu || tutti_comm_create_from_env(&comm) != TUTTI_OK) {
        printf("create: %s\n", tutti_last_error());
        return 1;
    }
    tutti_comm_rank(comm, &rank);
    tutti_comm_size(comm, &size);
    if (expected == LOST) {
        run_until_lost();
        return bad != 0;
    }
    if (expected == HELD || expected == LATE) {
        run_held();
        check(tutti_comm_destroy(comm) == TUTTI_OK, "destroy");
        return bad != 0;
    }
    run_collectives(false);
    run_anew();
    if (expected != HOST) {
        run_collectives(true);
        run_transfers();
        run_stream();
    }
    check(tutti_comm_destroy(comm) == TUTTI_OK, "destroy");
    return bad != 0;
}
