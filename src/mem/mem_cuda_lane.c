/* mem_cuda_lane.c: how a queue's work gets past streams that wait.
 *
 * Streams share a few channels of the hardware. A channel does what it was given in the order it
 * was given, so a stream that waits holds up all that other streams of its channel are given later,
 * the library's work too, which may be what is to end the wait. Waits come at any time, some of
 * them unseen (graphs, events behind a wait), so no look before the work is given can exclude that.
 *
 * The idea: work that has not begun in time is given to another stream as well, one that answers a
 * question first, and to the next, until one takes it. Each launch of a piece is an attempt; the
 * first whose blocks come claims the piece in device memory, and all others find it taken and do
 * nothing, however late they come. The kernel itself tells the CPU that it has begun and that it
 * has ended: a word that the stream writes behind it could be held up alone.
 *
 *     stream 0 | wait of the program ... | attempt 7: taken, nothing | 8, 9: nothing
 *     stream 1 | attempt 10: claims, works, tells | 11, 12: the next pieces
 *
 * Why no work waits for ever: a launch is one entry of its channel. If the channel is not held it
 * comes, claims and ends, since kernels wait for nothing. So a piece ends if any of QUEUE_STREAMS
 * streams is in a channel that is not held at some time, and nothing that is put anywhere later can
 * hold it up. Where every channel is held, the queue says so after QUEUE_CLEAR_MS.
 *
 * Why none is done twice or out of order: a claim is the number of the attempt that had a piece
 * last. Numbers grow, and so does the claim, by compare and swap. An attempt takes its piece if the
 * claim is lower than the first attempt at that piece.
 *   - The first piece that is not done may be attempted again, in any stream: all before is done.
 *   - Up to QUEUE_AHEAD - 1 pieces lie behind its only attempt in the same stream, so that the
 *     device need not wait for the CPU between pieces. When one of them comes, the attempt before
 *     it has ended: it had its piece, or the claim is that of a later attempt in another stream,
 *     which is higher than all that lies here.
 * So if the first piece went to another stream, what lies behind its earlier attempt is void, and
 * is launched anew.
 *
 * Only kernels can be given twice, so copies are kernels here, and stay out of the copy engines'
 * channels, which are fewer still. Without kernels or memory operations work stays where it was
 * put, and mem_queue_clear looks before it begins. */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "mem/mem_cuda_queue.h"

/* Queues of a device: communicators have one each, operations that are queued or captured one for
 * their slots. The claims take 1 MiB. */
#define QUEUES_MAX  65536
#define PROBE_BYTES 16 /* that a probe copies, behind the claims */
#define CLAIM_BYTES (QUEUES_MAX * sizeof(struct cuda_claim) + 2 * PROBE_BYTES)

static tutti_status fail_held(const struct mem_queue *queue)
{
    return fail(TUTTI_ERR_TIMEOUT,
                "%s: every hardware channel of this process is held by a stream that waits: "
                "set CUDA_DEVICE_MAX_CONNECTIONS (8 if unset) above the number of streams that "
                "wait at once, or TUTTI_CUDA_DIRECT=0",
                queue->device->name);
}

/* ---- questions ------------------------------------------------------------------------------- */

static uint32_t word(const struct mem_queue *queue, unsigned word)
{
    return atomic_load_explicit(&queue->words->word[word], memory_order_acquire);
}

static bool has_answered(const struct mem_queue *queue)
{
    return word(queue, QUEUE_ANSWERS + queue->asked_at) == queue->asked[queue->asked_at];
}

/* Has the next stream write its word, unless an older question is still open there. */
static tutti_status ask_next(struct mem_queue *queue)
{
    const struct mem_device *device = queue->device;
    const struct cuda_driver *driver = device->driver;
    struct cuda_scope scope;
    queue->asked_at = (queue->asked_at + 1) % QUEUE_STREAMS;
    queue->asked_ns = clock_ns();
    queue->asking = true;
    if (!has_answered(queue))
        return TUTTI_OK;
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_stream stream = device->streams[queue->asked_at];
    cuda_address address =
        queue->words->address + (QUEUE_ANSWERS + queue->asked_at) * sizeof(uint32_t);
    uint32_t number = ++queue->asked[queue->asked_at];
    cuda_result result = device->memory_ops
                             ? driver->write_word(stream, address, number, CUDA_WRITE_ORDERED)
                             : driver->fill_word(address, number, 1, stream);
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK ? TUTTI_OK
                                    : mem_cuda_fail(result, "ask a stream of %s", device->name);
}

/* Work goes into the stream that answered. */
static void use_asked(struct mem_queue *queue)
{
    queue->asking = false;
    queue->stream = queue->device->streams[queue->asked_at];
}

/* ---- work that can be put elsewhere ---------------------------------------------------------- */

tutti_status mem_cuda_take_claim(struct mem_device *device, struct cuda_claim **claim)
{
    pthread_mutex_lock(&device->lock);
    unsigned number = device->claims_taken < QUEUES_MAX ? device->claims_taken++ : QUEUES_MAX;
    pthread_mutex_unlock(&device->lock);
    if (number == QUEUES_MAX)
        return fail(TUTTI_ERR_NOMEM, "make a queue on %s: there are %d", device->name, QUEUES_MAX);
    *claim = &device->claims[number];
    return TUTTI_OK;
}

tutti_status mem_cuda_make_movable(struct mem_queue *queue)
{
    tutti_status status = mem_cuda_take_claim(queue->device, &queue->claim);
    if (status != TUTTI_OK)
        return status;
    queue->submitted = queue->done = queue->started;
    queue->pieces = calloc(QUEUE_TICKETS_MAX, sizeof *queue->pieces);
    return queue->pieces ? TUTTI_OK
                         : fail(TUTTI_ERR_NOMEM, "make a queue on %s: out of host memory",
                                queue->device->name);
}

static tutti_status make_claims(struct mem_device *device)
{
    struct mem_queue *queue;
    void *block;
    uint64_t ticket;
    if (!device->memory_ops || !device->has_kernels || !device->host_pointers)
        return TUTTI_OK;
    tutti_status status = mem_queue_take(device, &queue);
    if (status != TUTTI_OK)
        return status;
    status = mem_device_take(device, CLAIM_BYTES, &block);
    if (status == TUTTI_OK)
        status = mem_cuda_zero(queue, block, CLAIM_BYTES, &ticket);
    if (status == TUTTI_OK)
        status = mem_cuda_await(queue, ticket);
    if (status == TUTTI_OK) {
        device->claims = block;
        device->asked = queue->stream;
        status = mem_cuda_make_movable(queue);
    }
    mem_queue_give(queue);
    return status;
}

/* The first kernel of a context runs while no stream waits: a driver that makes only then what
 * kernels share may wait for all streams to do so, and it is done before one waits for us. */
static tutti_status run_first_kernel(struct mem_device *device)
{
    struct mem_queue *queue;
    void *block = NULL;
    uint64_t ticket;
    if (!device->has_kernels)
        return TUTTI_OK;
    tutti_status status = mem_queue_take(device, &queue);
    if (status != TUTTI_OK)
        return status;
    status = mem_device_take(device, PROBE_BYTES, &block);
    if (status == TUTTI_OK)
        status = mem_queue_divide(queue, TUTTI_UINT8, block, 1, PROBE_BYTES, &ticket);
    if (status == TUTTI_OK)
        status = mem_cuda_await(queue, ticket);
    mem_device_give(device, block);
    mem_queue_give(queue);
    return status;
}

tutti_status mem_cuda_make_lanes(struct mem_device *device)
{
    struct cuda_scope scope;
    cuda_result result = CUDA_DRIVER_OK;
    device->streams = calloc(QUEUE_STREAMS, sizeof *device->streams);
    if (!device->streams)
        return fail(TUTTI_ERR_NOMEM, "make streams on %s: out of host memory", device->name);
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    for (unsigned i = 0; i < QUEUE_STREAMS && result == CUDA_DRIVER_OK; i++)
        result = device->driver->stream_create(&device->streams[i], CUDA_STREAM_NON_BLOCKING,
                                               device->priority);
    if (result == CUDA_DRIVER_OK)
        result = device->driver->event_create(&device->order, CUDA_EVENT_NO_TIMING);
    mem_cuda_leave(&scope);
    status = result == CUDA_DRIVER_OK ? make_claims(device)
                                      : mem_cuda_fail(result, "make streams on %s", device->name);
    return status == TUTTI_OK ? run_first_kernel(device) : status;
}

static struct piece *piece_at(const struct mem_queue *queue, uint64_t ticket)
{
    return &queue->pieces[ticket % QUEUE_TICKETS_MAX];
}

/* Gives the piece to the stream in use. */
static tutti_status attempt(struct mem_queue *queue, uint64_t ticket)
{
    struct piece *piece = piece_at(queue, ticket);
    cuda_address words = queue->words->address;
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(queue->device, &scope);
    if (status != TUTTI_OK)
        return status;
    piece->work.ticket = (uint32_t)ticket;
    piece->work.claim = queue->claim;
    piece->work.attempt = ++queue->attempt;
    piece->work.begun = (uint32_t *)(uintptr_t)(words + QUEUE_BEGUN * sizeof(uint32_t));
    piece->work.done = (uint32_t *)(uintptr_t)(words + QUEUE_DONE * sizeof(uint32_t));
    cuda_result result = mem_cuda_start_piece(queue, piece);
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK ? TUTTI_OK : mem_cuda_queue_failed(queue, result, piece->what);
}

/* The first piece that is not done is another now, or is tried anew. */
static void begin_head(struct mem_queue *queue)
{
    queue->head_ns = queue->tried_ns = clock_ns();
    queue->tries = 1;
    queue->answered = queue->asking = false;
}

/* Counts what is done. What lay behind a piece that another stream did is void. */
static void count_done(struct mem_queue *queue)
{
    uint32_t open = (uint32_t)queue->submitted - word(queue, QUEUE_DONE);
    if (open >= queue->submitted - queue->done)
        return;
    queue->done = queue->submitted - open;
    if (queue->tries > 1 && (int32_t)(word(queue, QUEUE_BEGUN) - (uint32_t)queue->retried) >= 0)
        queue->submitted = queue->done;
    begin_head(queue);
}

/* Whether the next piece may lie behind the last that was given to a stream. */
static bool may_follow(const struct mem_queue *queue)
{
    const struct piece *last = piece_at(queue, queue->submitted);
    return queue->submitted - queue->done < QUEUE_AHEAD && queue->tries == 1 &&
           last->work.attempt == queue->attempt &&
           piece_at(queue, queue->submitted + 1)->kind == KERNEL;
}

/* Gives the stream in use what it may have. */
static tutti_status submit(struct mem_queue *queue)
{
    while (queue->submitted < queue->started) {
        bool is_head = queue->submitted == queue->done;
        if (!is_head && !may_follow(queue))
            return TUTTI_OK;
        struct piece *piece = piece_at(queue, ++queue->submitted);
        if (piece->kind == NOTHING) {
            queue->done++;
            continue;
        }
        if (is_head)
            begin_head(queue);
        piece->work.first = queue->attempt + 1;
        tutti_status status = attempt(queue, queue->submitted);
        if (status != TUTTI_OK) {
            queue->submitted--;
            return status;
        }
    }
    return TUTTI_OK;
}

bool mem_cuda_has_begun(const struct mem_queue *queue)
{
    const struct piece *head = piece_at(queue, queue->done + 1);
    return (int32_t)(word(queue, QUEUE_BEGUN) - (uint32_t)head->work.first) >= 0;
}

bool mem_cuda_is_late(const struct mem_queue *queue)
{
    return clock_ns() - queue->head_ns > QUEUE_CLEAR_MS * 1000000ull;
}

/* Tries other streams for the first piece if it has not begun in time: those that answer. So what
 * piles up in a stream that is held is one attempt and one question. Where streams answer the
 * device is busy, however long: the operation's own time limit is for that. */
static tutti_status try_elsewhere(struct mem_queue *queue)
{
    uint64_t now = clock_ns();
    if (now - queue->tried_ns < STREAM_ANSWERS_NS || mem_cuda_has_begun(queue))
        return TUTTI_OK;
    if (queue->asking && has_answered(queue)) {
        use_asked(queue);
        queue->answered = true;
        queue->tried_ns = now;
        if (queue->tries++ == 1)
            queue->retried = queue->attempt + 1;
        return attempt(queue, queue->done + 1);
    }
    if (queue->asking && now - queue->asked_ns < STREAM_ANSWERS_NS)
        return TUTTI_OK;
    if (!queue->answered && mem_cuda_is_late(queue))
        return fail_held(queue);
    return ask_next(queue);
}

tutti_status mem_cuda_tend(struct mem_queue *queue)
{
    count_done(queue);
    tutti_status status = submit(queue);
    return status == TUTTI_OK && queue->done < queue->submitted ? try_elsewhere(queue) : status;
}

bool mem_cuda_is_over(struct mem_queue *queue)
{
    count_done(queue);
    queue->started = queue->submitted;
    return queue->done == queue->submitted;
}

/* ---- work that stays where it was put -------------------------------------------------------- */

tutti_status mem_queue_clear(struct mem_queue *queue)
{
    tutti_status status = TUTTI_OK;
    if (queue->pieces)
        return TUTTI_OK;
    must(queue->done == queue->started);
    if (!queue->asking) {
        /* First the stream that was in use. */
        queue->asked_at = (queue->asked_at + QUEUE_STREAMS - 1) % QUEUE_STREAMS;
        status = ask_next(queue);
        queue->asked_first = queue->asked_ns;
        queue->asking = status == TUTTI_OK;
        return queue->asking ? TUTTI_IN_PROGRESS : status;
    }
    if (has_answered(queue)) {
        use_asked(queue);
        return TUTTI_OK;
    }
    uint64_t now = clock_ns();
    if (now - queue->asked_first > QUEUE_CLEAR_MS * 1000000ull) {
        queue->asking = false;
        return fail_held(queue);
    }
    if (now - queue->asked_ns > STREAM_ANSWERS_NS)
        status = ask_next(queue);
    return status == TUTTI_OK ? TUTTI_IN_PROGRESS : status;
}

/* ---- what a device can ----------------------------------------------------------------------- */

/* All streams are asked in a tenth of that; a loaded machine may leave the driver's threads without
 * a core for the rest. */
#define PROBE_NS 500000000u
static_assert(PROBE_NS > 2 * QUEUE_STREAMS * STREAM_ANSWERS_NS, "all streams are asked twice");

/* Whether the queue does something in that time. */
static tutti_status try_beside(struct mem_queue *queue, bool *beside, uint64_t *ticket)
{
    const struct mem_device *device = queue->device;
    uint64_t start = clock_ns(), done = 0;
    tutti_status status = TUTTI_OK;
    if (queue->pieces) {
        char *bytes = (char *)(device->claims + QUEUES_MAX);
        status = mem_queue_copy(queue, bytes, bytes + PROBE_BYTES, PROBE_BYTES, ticket);
    }
    while (status == TUTTI_OK && clock_ns() - start < PROBE_NS) {
        if (queue->pieces)
            status = mem_queue_poll(queue, &done);
        else
            status = mem_queue_clear(queue);
        *beside = queue->pieces ? done == *ticket : status == TUTTI_OK;
        if (*beside)
            return status;
        status = status == TUTTI_IN_PROGRESS ? TUTTI_OK : status;
        sched_yield(); /* a host function may want this core */
    }
    return status;
}

/* A stream waits, as the program's will, and a queue looks for a way past it. */
tutti_status mem_cuda_probe_beside(struct mem_device *device)
{
    struct mem_queue *queue, *holder;
    uint64_t ticket = 0;
    tutti_status status = mem_queue_take(device, &holder);
    if (status == TUTTI_OK)
        status = mem_queue_take(device, &queue);
    if (status != TUTTI_OK)
        return status;
    struct mem_words *words = holder->words;
    uint32_t value = ++words->value;
    struct mem_stream stream = {
        .device = device, .context = device->context, .handle = holder->stream};
    status = mem_stream_wait(&stream, words, QUEUE_PROBE, value);
    if (status == TUTTI_OK)
        status = try_beside(queue, &device->beside, &ticket);
    atomic_store_explicit(&words->word[QUEUE_PROBE], value, memory_order_release);
    if (status == TUTTI_OK && queue->pieces)
        status = mem_cuda_await(queue, ticket);
    queue->asking = false;
    mem_queue_give(queue);
    mem_queue_give(holder);
    return status;
}
