/* mem_cuda_queue.c: work in the order given, and the word that tells how far it got.
 *
 * The idea: a queue is a stream of the library's own, which waits for no other (non-blocking) and
 * goes first where the device has to choose (highest priority). Each piece of work ends with the
 * low half of its ticket in a word of pinned memory, which the kernel writes (mem_cuda_lane.c), or
 * else the stream behind it; to poll is to read that word. Where streams cannot write words, each
 * ticket records an event instead.
 *
 * A driver reports a failed kernel only to who asks it, so a queue that polls without success asks
 * now and then.
 *
 * Invariant: at most QUEUE_TICKETS_MAX tickets are open, so that half a ticket says which one it
 * is, and an event is not used again before its ticket is over. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "mem/mem_cuda_queue.h"

/* Polls without success between two questions to the driver: some 100 us of a busy caller, beside
 * which the question's microsecond is nothing. */
#define POLLS_PER_QUESTION 4096

/* Blocks of threads per multiprocessor of a large kernel: they fill it where their registers are
 * few, and come in two waves where they are many. */
#ifndef BLOCKS_PER_MULTIPROCESSOR
#define BLOCKS_PER_MULTIPROCESSOR 4
#endif

/* A piece that stays where it was put and is so long says when it begins: even over a bus that many
 * share, shorter ones take less time than anybody waits for one that has not begun. */
#define LONG_BYTES (32u << 20)

/* ---- queues --------------------------------------------------------------------------------- */

static tutti_status make_events(struct mem_queue *queue)
{
    queue->events = calloc(QUEUE_TICKETS_MAX, sizeof *queue->events);
    if (!queue->events)
        return fail(TUTTI_ERR_NOMEM, "make a queue on %s: out of host memory", queue->device->name);
    for (size_t i = 0; i < QUEUE_TICKETS_MAX; i++) {
        cuda_result result =
            queue->device->driver->event_create(&queue->events[i], CUDA_EVENT_NO_TIMING);
        if (result != CUDA_DRIVER_OK)
            return mem_cuda_fail(result, "make events on %s", queue->device->name);
    }
    return TUTTI_OK;
}

/* With the context entered. What was made before a failure is lost: streams and events can only be
 * given back while no stream waits. */
static tutti_status make_queue(struct mem_device *device, struct mem_queue **made)
{
    struct mem_queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return fail(TUTTI_ERR_NOMEM, "make a queue on %s: out of host memory", device->name);
    queue->device = device;
    cuda_result result =
        device->driver->stream_create(&queue->stream, CUDA_STREAM_NON_BLOCKING, device->priority);
    tutti_status status = result == CUDA_DRIVER_OK
                              ? mem_cuda_words_fresh(device, &queue->words)
                              : mem_cuda_fail(result, "make a stream on %s", device->name);
    if (status == TUTTI_OK && !device->memory_ops)
        status = make_events(queue);
    if (status == TUTTI_OK && device->claims)
        status = mem_cuda_make_movable(queue);
    if (status != TUTTI_OK) {
        mem_words_give(device, queue->words);
        free(queue->events);
        free(queue->pieces);
        free(queue);
        return status;
    }
    *made = queue;
    return TUTTI_OK;
}

tutti_status mem_cuda_probe_stream_ops(struct mem_device *device)
{
    enum { AUTO, MEMORY, HOST };
    const struct cuda_driver *driver = device->driver;
    if (driver->stream_ops == HOST)
        return TUTTI_OK;
    cuda_result result = CUDA_DRIVER_NOT_SUPPORTED;
    if (driver->write_word && driver->wait_word) {
        struct mem_queue *queue;
        device->memory_ops = true;
        tutti_status status = make_queue(device, &queue);
        if (status != TUTTI_OK)
            return status;
        /* A word that is 0 becomes 0, and has reached 0. */
        cuda_address word = queue->words->address;
        result = driver->write_word(queue->stream, word, 0, CUDA_WRITE_ORDERED);
        if (result == CUDA_DRIVER_OK)
            result = driver->wait_word(queue->stream, word, 0, CUDA_WAIT_REACHED);
        queue->error = result; /* without memory operations it is of no use */
        mem_queue_give(queue);
    }
    device->memory_ops = result == CUDA_DRIVER_OK;
    if (!device->memory_ops && driver->stream_ops == MEMORY)
        return mem_cuda_fail(result, "TUTTI_CUDA_STREAM_OPS=memory on %s", device->name);
    return TUTTI_OK;
}

/* Whether a queue that was given back may be taken: all that it was given is over. */
static bool is_free(struct mem_queue *queue)
{
    uint64_t done = 0;
    if (queue->pieces)
        return mem_cuda_is_over(queue);
    return mem_queue_poll(queue, &done) == TUTTI_OK && done == queue->started;
}

tutti_status mem_queue_take(struct mem_device *device, struct mem_queue **queue)
{
    pthread_mutex_lock(&device->lock);
    struct mem_queue **at = &device->queues;
    while (*at && !is_free(*at))
        at = &(*at)->next;
    struct mem_queue *found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&device->lock);
    if (!found) {
        struct cuda_scope scope;
        tutti_status status = mem_cuda_enter(device, &scope);
        if (status != TUTTI_OK)
            return status;
        status = make_queue(device, &found);
        mem_cuda_leave(&scope);
        if (status != TUTTI_OK)
            return status;
    }
    *queue = found;
    return TUTTI_OK;
}

void mem_queue_give(struct mem_queue *queue)
{
    if (!queue)
        return;
    if (queue->slots) {
        mem_cuda_slots_give(queue);
        return;
    }
    /* A queue of a failed device serves nobody again, nor do the words that it may still write. */
    if (queue->error != CUDA_DRIVER_OK) {
        free(queue->events);
        free(queue->pieces);
        free(queue);
        return;
    }
    queue->asking = false;
    pthread_mutex_lock(&queue->device->lock);
    queue->next = queue->device->queues;
    queue->device->queues = queue;
    pthread_mutex_unlock(&queue->device->lock);
}

struct mem_device *mem_queue_device(const struct mem_queue *queue)
{
    return queue->device;
}

tutti_status mem_cuda_queue_failed(struct mem_queue *queue, cuda_result result, const char *what)
{
    queue->error = result;
    return mem_cuda_fail(result, "%s on %s", what, queue->device->name);
}

/* Puts the mark of the next ticket before its work, where streams write words. */
static cuda_result mark_begin(struct mem_queue *queue)
{
    cuda_address word = queue->words->address + QUEUE_BEGUN * sizeof(uint32_t);
    return queue->device->memory_ops
               ? queue->device->driver->write_word(
                     queue->stream, word, (uint32_t)(queue->started + 1), CUDA_WRITE_ORDERED)
               : CUDA_DRIVER_OK;
}

/* Puts the mark of the next ticket behind the work just started. */
static cuda_result mark(struct mem_queue *queue)
{
    const struct cuda_driver *driver = queue->device->driver;
    uint64_t ticket = queue->started + 1;
    cuda_result result =
        queue->device->memory_ops
            ? driver->write_word(queue->stream, queue->words->address, (uint32_t)ticket,
                                 CUDA_WRITE_ORDERED)
            : driver->event_record(queue->events[ticket % QUEUE_TICKETS_MAX], queue->stream);
    queue->started += result == CUDA_DRIVER_OK;
    return result;
}

cuda_result mem_cuda_launch(struct mem_device *device, cuda_function function,
                            const struct cuda_work *work, size_t bytes, cuda_stream stream)
{
    size_t per_block = (size_t)CUDA_THREADS * CUDA_VECTOR;
    size_t blocks = (bytes + per_block - 1) / per_block;
    size_t most = (size_t)device->multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
    struct cuda_work copy = *work;
    void *parameters[] = {&copy};
    return device->driver->launch(function, (unsigned)(blocks < most ? blocks : most), 1, 1,
                                  CUDA_THREADS, 1, 1, 0, stream, parameters, NULL);
}

#define WARP 32 /* threads that a device starts at least */

cuda_result mem_cuda_launch_block(struct mem_device *device, cuda_function function,
                                  const struct cuda_work *work, size_t bytes, cuda_stream stream)
{
    size_t threads = (bytes / CUDA_VECTOR + WARP) / WARP * WARP;
    struct cuda_work copy = *work;
    void *parameters[] = {&copy};
    return device->driver->launch(function, 1, 1, 1,
                                  (unsigned)(threads < CUDA_THREADS ? threads : CUDA_THREADS), 1, 1,
                                  0, stream, parameters, NULL);
}

cuda_result mem_cuda_start_piece(struct mem_queue *queue, const struct piece *piece)
{
    const struct cuda_driver *driver = queue->device->driver;
    switch (piece->kind) {
    case COPY:
        return driver->copy(cuda_address_of(piece->work.dst), cuda_address_of(piece->work.a),
                            piece->bytes, queue->stream);
    case FILL:
        return driver->fill(cuda_address_of(piece->work.dst), 0, piece->bytes, queue->stream);
    case KERNEL:
        return mem_cuda_launch(queue->device, piece->function, &piece->work, piece->bytes,
                               queue->stream);
    default:
        return CUDA_DRIVER_OK;
    }
}

static tutti_status start(struct mem_queue *queue, const struct piece *given, uint64_t *ticket)
{
    struct piece piece = *given;
    struct cuda_scope scope;
    must(queue->started - queue->done < QUEUE_TICKETS_MAX);
    if (queue->error != CUDA_DRIVER_OK)
        return mem_cuda_queue_failed(queue, queue->error, piece.what);
    if (queue->slots) {
        mem_cuda_slots_start(queue, &piece, ticket);
        return TUTTI_OK;
    }
    if (piece.bytes == 0)
        piece.kind = NOTHING;
    if (queue->pieces) {
        queue->pieces[++queue->started % QUEUE_TICKETS_MAX] = piece;
        *ticket = queue->started;
        return mem_cuda_tend(queue);
    }
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = piece.bytes >= LONG_BYTES ? mark_begin(queue) : CUDA_DRIVER_OK;
    if (result == CUDA_DRIVER_OK)
        result = mem_cuda_start_piece(queue, &piece);
    if (result == CUDA_DRIVER_OK)
        result = mark(queue);
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_queue_failed(queue, result, piece.what);
    *ticket = queue->started;
    return TUTTI_OK;
}

tutti_status mem_queue_copy(struct mem_queue *queue, void *dst, const void *src, size_t len,
                            uint64_t *ticket)
{
    struct piece piece = {.kind = queue->pieces || queue->slots ? KERNEL : COPY,
                          .what = "copy",
                          .function = queue->device->copy,
                          .work = {.dst = dst, .a = src, .count = len},
                          .bytes = len};
    return start(queue, &piece, ticket);
}

/* Bytes that are exclusive-ored with themselves are 0. */
tutti_status mem_cuda_zero(struct mem_queue *queue, void *dst, size_t len, uint64_t *ticket)
{
    struct piece piece = {.kind = queue->pieces ? KERNEL : FILL,
                          .what = "zero",
                          .function = queue->device->kernels[TUTTI_BXOR][TUTTI_UINT8],
                          .work = {.dst = dst, .a = dst, .b = dst, .count = len},
                          .bytes = len};
    return start(queue, &piece, ticket);
}

static tutti_status start_work(struct mem_queue *queue, cuda_function function, const char *what,
                               const struct cuda_work *work, tutti_dtype dtype, uint64_t *ticket)
{
    const struct mem_device *device = queue->device;
    if (!device->has_kernels)
        return fail(TUTTI_ERR_UNSUPPORTED, "%s", device->no_kernels);
    if (!function)
        return fail(TUTTI_ERR_ARG, "%s on %s: not an operation of %s", what, device->name,
                    dtype_name(dtype));
    struct piece piece = {.kind = KERNEL,
                          .what = what,
                          .function = function,
                          .work = *work,
                          .bytes = work->count * dtype_size(dtype)};
    return start(queue, &piece, ticket);
}

tutti_status mem_queue_reduce(struct mem_queue *queue, const struct reducer *reducer, tutti_op op,
                              void *dst, const void *a, const void *b, size_t bytes,
                              uint64_t *ticket)
{
    must(bytes % reducer->elem_size == 0);
    if (!reducer->kernel)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "a user's reduction function runs on the CPU only, not on %s",
                    queue->device->name);
    must((unsigned)op < TUTTI_OP_COUNT);
    struct cuda_work work = {.dst = dst, .a = a, .b = b, .count = bytes / reducer->elem_size};
    return start_work(queue, queue->device->kernels[op][reducer->dtype], op_name(op), &work,
                      reducer->dtype, ticket);
}

tutti_status mem_queue_scale(struct mem_queue *queue, tutti_dtype dtype, void *dst, const void *src,
                             const void *scalar, size_t count, uint64_t *ticket)
{
    must((unsigned)dtype < TUTTI_DTYPE_COUNT);
    struct cuda_work work = {.dst = dst, .a = src, .count = count};
    memcpy(&work.scalar, scalar, dtype_size(dtype));
    return start_work(queue, queue->device->scale[dtype], "scale", &work, dtype, ticket);
}

tutti_status mem_queue_divide(struct mem_queue *queue, tutti_dtype dtype, void *dst, uint32_t ranks,
                              size_t count, uint64_t *ticket)
{
    must((unsigned)dtype < TUTTI_DTYPE_COUNT);
    must(ranks > 0);
    struct cuda_work work = {.dst = dst, .a = dst, .count = count, .ranks = ranks};
    return start_work(queue, queue->device->divide[dtype], "divide", &work, dtype, ticket);
}

/* Asks the driver: whether the device failed and, where tickets are events, how far it is. */
static tutti_status ask(struct mem_queue *queue)
{
    const struct cuda_driver *driver = queue->device->driver;
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = CUDA_DRIVER_OK;
    if (queue->device->memory_ops) {
        result = driver->stream_query(queue->slots ? queue->device->asked : queue->stream);
    } else {
        while (queue->done < queue->started && result == CUDA_DRIVER_OK) {
            result = driver->event_query(queue->events[(queue->done + 1) % QUEUE_TICKETS_MAX]);
            queue->done += result == CUDA_DRIVER_OK;
        }
    }
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK || result == CUDA_DRIVER_NOT_READY
               ? TUTTI_OK
               : mem_cuda_queue_failed(queue, result, "work");
}

/* Looks how far it is. */
static tutti_status look(struct mem_queue *queue)
{
    tutti_status status = TUTTI_OK;
    if (queue->pieces) {
        uint64_t before = queue->done;
        status = mem_cuda_tend(queue);
        queue->polls = queue->done == before && before < queue->started ? queue->polls + 1 : 0;
    } else if (queue->device->memory_ops) {
        uint32_t word = atomic_load_explicit(&queue->words->word[QUEUE_DONE], memory_order_acquire);
        uint64_t reached = queue->started - (uint32_t)((uint32_t)queue->started - word);
        queue->polls = reached == queue->done && reached < queue->started ? queue->polls + 1 : 0;
        queue->done = reached;
    } else if (queue->done < queue->started) {
        status = ask(queue);
    }
    if (status == TUTTI_OK && queue->polls >= POLLS_PER_QUESTION) {
        queue->polls = 0;
        status = ask(queue);
    }
    return status;
}

tutti_status mem_queue_poll(struct mem_queue *queue, uint64_t *done)
{
    if (queue->error != CUDA_DRIVER_OK)
        return mem_cuda_queue_failed(queue, queue->error, "work");
    tutti_status status = look(queue);
    if (status == TUTTI_OK)
        *done = queue->done;
    return status;
}

/* Whether the first piece that is not done has begun, as far as that is known. */
static bool has_begun(const struct mem_queue *queue)
{
    if (queue->pieces)
        return mem_cuda_has_begun(queue);
    return atomic_load_explicit(&queue->words->word[QUEUE_BEGUN], memory_order_acquire) ==
           (uint32_t)(queue->done + 1);
}

bool mem_queue_is_over(struct mem_queue *queue, bool *waits)
{
    uint64_t before = queue->seen;
    if (queue->pieces && mem_cuda_is_over(queue))
        return true;
    /* What came before a piece that the driver refused goes on, unless the device failed. */
    bool failed = look(queue) != TUTTI_OK || queue->error != CUDA_DRIVER_OK;
    if (failed && mem_device_check(queue->device) != TUTTI_OK)
        return true;
    if (queue->done == queue->started)
        return true;
    queue->seen = queue->done + queue->attempt; /* a sum of two that only grow */
    bool moves = queue->seen != before && !(queue->pieces && mem_cuda_is_late(queue));
    *waits = !moves && !has_begun(queue);
    return false;
}
