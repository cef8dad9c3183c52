/* mem_cuda_queue.c: work in the order given, and the word that tells how far it got.
 *
 * The idea: a queue is a stream of the library's own, which waits for no other (non-blocking) and
 * goes first where the device has to choose (highest priority). Behind each piece of work the
 * stream writes the low half of its ticket into a word of pinned memory; to poll is to read that
 * word. Where streams cannot write words, each ticket records an event instead.
 *
 * A driver reports a failed kernel only to who asks it, so a queue that polls without success asks
 * now and then.
 *
 * Invariant: at most QUEUE_TICKETS_MAX tickets are open, so that half a ticket says which one it
 * is, and an event is not used again before its ticket is over. */
#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "mem/mem_cuda.h"

/* Polls without success between two questions to the driver: some 100 us of a busy caller, beside
 * which the question's microsecond is nothing. */
#define POLLS_PER_QUESTION 4096

/* Blocks of threads per multiprocessor of a large kernel: they fill it. */
#define BLOCKS_PER_MULTIPROCESSOR 4

/* Streams that a queue tries: they take the hardware's channels in turn as they are made, more or
 * less, so twice as many as channels meet all of them. */
#define QUEUE_STREAMS 15
/* A stream that has not answered for so long is held up. The time slices of other processes on the
 * device are shorter. */
#define STREAM_ANSWERS_NS 3000000u
static_assert(QUEUE_STREAMS < MEM_WORDS, "word 0 is the tickets', then one for each stream");

struct mem_queue {
    struct mem_device *device;
    cuda_stream stream; /* in use: streams[at] */
    cuda_stream streams[QUEUE_STREAMS];
    unsigned at;
    bool asking;                   /* mem_queue_clear waits for an answer */
    uint32_t asked[QUEUE_STREAMS]; /* the question's number; the stream's word answers with it */
    uint64_t asked_ns, asked_first;
    struct mem_words *words;
    cuda_event *events; /* [QUEUE_TICKETS_MAX], where streams cannot write words */
    uint64_t started;   /* the last ticket */
    uint64_t done;
    unsigned polls; /* without success */
    cuda_result error;
    struct mem_queue *next;
};

/* ---- kernels -------------------------------------------------------------------------------- */

/* The kernels' image, where the build had a compiler for it. */
#if defined(TUTTI_WITH_NVCC)
extern const unsigned char mem_cuda_image[];
static const void *const image = mem_cuda_image;
#else
static const void *const image = NULL;
#endif

/* Finds a kernel and makes its code resident. */
static cuda_result load_kernel(const struct cuda_driver *driver, cuda_module module,
                               const char *what, tutti_dtype dtype, cuda_function *function)
{
    char name[64];
    int registers;
    snprintf(name, sizeof name, CUDA_KERNEL_PREFIX "%s_%s", what, dtype_name(dtype));
    cuda_result result = driver->module_function(function, module, name);
    if (result != CUDA_DRIVER_OK)
        return result;
    /* Drivers that load code late do so at the first question about it, too. */
    return driver->function_load
               ? driver->function_load(*function)
               : driver->function_attribute(&registers, CUDA_FUNCTION_REGISTERS, *function);
}

static cuda_result load_type(struct mem_device *device, cuda_module module, tutti_dtype dtype)
{
    const struct cuda_driver *driver = device->driver;
    cuda_result result = load_kernel(driver, module, "scale", dtype, &device->scale[dtype]);
    if (result == CUDA_DRIVER_OK)
        result = load_kernel(driver, module, "divide", dtype, &device->divide[dtype]);
    for (int op = 0; op < TUTTI_OP_COUNT && result == CUDA_DRIVER_OK; op++) {
        if (op == TUTTI_AVG || !reduce_kernel((tutti_op)op, dtype))
            continue;
        result =
            load_kernel(driver, module, op_name((tutti_op)op), dtype, &device->kernels[op][dtype]);
    }
    device->kernels[TUTTI_AVG][dtype] = device->kernels[TUTTI_SUM][dtype];
    return result;
}

void mem_cuda_load_kernels(struct mem_device *device)
{
    cuda_module module;
    cuda_result result = device->driver->module_load(&module, image);
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT && result == CUDA_DRIVER_OK; dtype++)
        result = load_type(device, module, (tutti_dtype)dtype);
    device->has_kernels = result == CUDA_DRIVER_OK;
    if (device->has_kernels)
        return;
    if (!image)
        (void)fail(TUTTI_ERR_UNSUPPORTED,
                   "no reduction on %s: this build of the library has no GPU kernels (it found no "
                   "nvcc)",
                   device->name);
    else
        (void)mem_cuda_fail(result, "no reduction on %s: load the kernels", device->name);
    snprintf(device->no_kernels, sizeof device->no_kernels, "%s", status_sentence());
}

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
    if (status != TUTTI_OK) {
        mem_words_give(device, queue->words);
        free(queue->events);
        free(queue);
        return status;
    }
    queue->streams[0] = queue->stream;
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

/* ---- channels ------------------------------------------------------------------------------- */

/* Makes the queue's stream the one at `at`, and has it write its word. */
static tutti_status ask_stream(struct mem_queue *queue)
{
    const struct mem_device *device = queue->device;
    const struct cuda_driver *driver = device->driver;
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = CUDA_DRIVER_OK;
    cuda_stream *stream = &queue->streams[queue->at];
    if (!*stream)
        result = driver->stream_create(stream, CUDA_STREAM_NON_BLOCKING, device->priority);
    cuda_address word = queue->words->address + (1 + queue->at) * sizeof(uint32_t);
    queue->stream = *stream;
    queue->asked_ns = clock_ns();
    uint32_t number = ++queue->asked[queue->at];
    if (result == CUDA_DRIVER_OK)
        result = device->memory_ops ? driver->write_word(*stream, word, number, CUDA_WRITE_ORDERED)
                                    : driver->fill_word(word, number, 1, *stream);
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK ? TUTTI_OK
                                    : mem_cuda_fail(result, "ask a stream of %s", device->name);
}

tutti_status mem_queue_clear(struct mem_queue *queue)
{
    tutti_status status = TUTTI_OK;
    must(queue->done == queue->started);
    if (!queue->asking) {
        status = ask_stream(queue);
        queue->asked_first = queue->asked_ns;
        queue->asking = status == TUTTI_OK;
        return queue->asking ? TUTTI_IN_PROGRESS : status;
    }
    uint32_t answer =
        atomic_load_explicit(&queue->words->word[1 + queue->at], memory_order_acquire);
    uint64_t now = clock_ns();
    queue->asking = answer != queue->asked[queue->at];
    if (!queue->asking)
        return TUTTI_OK;
    if (now - queue->asked_first > QUEUE_CLEAR_MS * 1000000ull) {
        queue->asking = false;
        return fail(TUTTI_ERR_TIMEOUT,
                    "%s: every hardware channel of this process is held by a stream that waits: "
                    "set CUDA_DEVICE_MAX_CONNECTIONS (8 if unset) above the number of streams that "
                    "wait at once, or TUTTI_CUDA_DIRECT=0",
                    queue->device->name);
    }
    if (now - queue->asked_ns > STREAM_ANSWERS_NS) {
        queue->at = (queue->at + 1) % QUEUE_STREAMS;
        status = ask_stream(queue);
    }
    return status == TUTTI_OK ? TUTTI_IN_PROGRESS : status;
}

/* A stream waits, as the program's will, and a queue looks for a way past it. */
tutti_status mem_cuda_probe_beside(struct mem_device *device)
{
    struct mem_queue *queue, *holder;
    tutti_status status = mem_queue_take(device, &holder);
    if (status == TUTTI_OK)
        status = mem_queue_take(device, &queue);
    if (status != TUTTI_OK)
        return status;
    struct mem_words *words = holder->words;
    uint32_t value = ++holder->asked[0];
    struct mem_stream stream = {.device = device, .handle = holder->stream};
    status = mem_stream_wait(&stream, words, 1, value);
    uint64_t start = clock_ns();
    while (status == TUTTI_OK && clock_ns() - start < 2 * QUEUE_STREAMS * STREAM_ANSWERS_NS) {
        status = mem_queue_clear(queue);
        if (status == TUTTI_IN_PROGRESS)
            status = TUTTI_OK;
        else if (status == TUTTI_OK)
            device->beside = true;
        if (device->beside)
            break;
    }
    atomic_store_explicit(&words->word[1], value, memory_order_release);
    queue->asking = false;
    mem_queue_give(queue);
    mem_queue_give(holder);
    return status;
}

tutti_status mem_queue_take(struct mem_device *device, struct mem_queue **queue)
{
    pthread_mutex_lock(&device->lock);
    struct mem_queue *found = device->queues;
    if (found)
        device->queues = found->next;
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
    if (queue->error != CUDA_DRIVER_OK) { /* a queue of a failed device serves nobody again */
        mem_words_give(queue->device, queue->words);
        free(queue->events);
        free(queue);
        return;
    }
    pthread_mutex_lock(&queue->device->lock);
    queue->next = queue->device->queues;
    queue->device->queues = queue;
    pthread_mutex_unlock(&queue->device->lock);
}

struct mem_device *mem_queue_device(const struct mem_queue *queue)
{
    return queue->device;
}

static tutti_status failed(struct mem_queue *queue, cuda_result result, const char *what)
{
    queue->error = result;
    return mem_cuda_fail(result, "%s on %s", what, queue->device->name);
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

/* What a piece of work is: exactly one is chosen by kind. */
struct piece {
    enum { COPY, FILL, KERNEL } kind;
    const char *what;
    cuda_function function;
    const struct cuda_work *work; /* its dst and a are those of COPY and FILL, too */
    size_t bytes;
};

static cuda_result start_kernel(struct mem_queue *queue, const struct piece *piece)
{
    size_t per_block = (size_t)CUDA_THREADS * CUDA_VECTOR;
    size_t blocks = (piece->bytes + per_block - 1) / per_block;
    size_t most = (size_t)queue->device->multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
    struct cuda_work work = *piece->work;
    void *parameters[] = {&work};
    return queue->device->driver->launch(piece->function, (unsigned)(blocks < most ? blocks : most),
                                         1, 1, CUDA_THREADS, 1, 1, 0, queue->stream, parameters,
                                         NULL);
}

static tutti_status start(struct mem_queue *queue, const struct piece *piece, uint64_t *ticket)
{
    const struct cuda_driver *driver = queue->device->driver;
    struct cuda_scope scope;
    must(queue->started - queue->done < QUEUE_TICKETS_MAX);
    if (queue->error != CUDA_DRIVER_OK)
        return failed(queue, queue->error, piece->what);
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = CUDA_DRIVER_OK;
    if (piece->bytes > 0 && piece->kind == COPY)
        result = driver->copy(cuda_address_of(piece->work->dst), cuda_address_of(piece->work->a),
                              piece->bytes, queue->stream);
    else if (piece->bytes > 0 && piece->kind == FILL)
        result = driver->fill(cuda_address_of(piece->work->dst), 0, piece->bytes, queue->stream);
    else if (piece->bytes > 0)
        result = start_kernel(queue, piece);
    if (result == CUDA_DRIVER_OK)
        result = mark(queue);
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return failed(queue, result, piece->what);
    *ticket = queue->started;
    return TUTTI_OK;
}

tutti_status mem_queue_copy(struct mem_queue *queue, void *dst, const void *src, size_t len,
                            uint64_t *ticket)
{
    struct cuda_work work = {.dst = dst, .a = src};
    struct piece piece = {.kind = COPY, .what = "copy", .work = &work, .bytes = len};
    return start(queue, &piece, ticket);
}

tutti_status mem_cuda_zero(struct mem_queue *queue, void *dst, size_t len, uint64_t *ticket)
{
    struct cuda_work work = {.dst = dst};
    struct piece piece = {.kind = FILL, .what = "zero", .work = &work, .bytes = len};
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
                          .work = work,
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
        result = driver->stream_query(queue->stream);
    } else {
        while (queue->done < queue->started && result == CUDA_DRIVER_OK) {
            result = driver->event_query(queue->events[(queue->done + 1) % QUEUE_TICKETS_MAX]);
            queue->done += result == CUDA_DRIVER_OK;
        }
    }
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK || result == CUDA_DRIVER_NOT_READY
               ? TUTTI_OK
               : failed(queue, result, "work");
}

tutti_status mem_queue_poll(struct mem_queue *queue, uint64_t *done)
{
    if (queue->error != CUDA_DRIVER_OK)
        return failed(queue, queue->error, "work");
    tutti_status status = TUTTI_OK;
    if (queue->device->memory_ops) {
        uint32_t word = atomic_load_explicit(&queue->words->word[0], memory_order_acquire);
        uint64_t reached = queue->started - (uint32_t)((uint32_t)queue->started - word);
        queue->polls = reached == queue->done && reached < queue->started ? queue->polls + 1 : 0;
        queue->done = reached;
        if (queue->polls >= POLLS_PER_QUESTION) {
            queue->polls = 0;
            status = ask(queue);
        }
    } else if (queue->done < queue->started) {
        status = ask(queue);
    }
    if (status == TUTTI_OK)
        *done = queue->done;
    return status;
}
