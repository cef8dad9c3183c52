/* mem_cuda_slot.c: a queue whose work lies in a stream of the program's from the beginning.
 *
 * A launch is a call of the driver, and other calls of the program can hold it up for as long as a
 * stream waits: those that free memory or load code, those that find their stream's channel full.
 * If what the stream waits for is behind that launch, all of it stands still for ever.
 *
 * The idea: whoever puts an operation into a stream puts its work there, too, before it is known
 * what that will be. A slot is a wait and a kernel that looks up, when its stream comes to it, what
 * there is to do. To start a piece of work is to write the next slot and the word that its stream
 * waits for; no driver is called. Slots that nobody needed are filled with nothing in the end.
 *
 *     stream | ... | wait GO >= 1 | slot 1 | wait GO >= 2 | slot 2 | ... | wait of the operation |
 *
 * Invariant: slots are used in the order in which they lie in the stream, so that the stream keeps
 * the order of the work. GO and DONE count slots and only grow, but where a capture replays its
 * slots: there the stream sets GO back when it is past them, and the queue's owner DONE. A slot is
 * given work while GO is before it; else it is only emptied, for its kernel may be reading. (A
 * graph that holds half an operation sets nothing back: what its kernels do is unspecified.) */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "mem/mem_cuda_queue.h"

static uint32_t *word_of(const struct mem_queue *queue, enum queue_word word)
{
    return (uint32_t *)(uintptr_t)(queue->words->address + word * sizeof(uint32_t));
}

static void set_word(const struct mem_queue *queue, enum queue_word word, uint64_t value)
{
    atomic_store_explicit(&queue->words->word[word], (uint32_t)value, memory_order_release);
}

/* Slots are kept as long as the process lives, and cut from blocks, so that many queues take few.
 */
static struct {
    pthread_mutex_t lock;
    char *at; /* pinned for all devices */
    size_t left, made;
} slot_store = {.lock = PTHREAD_MUTEX_INITIALIZER};
static_assert(sizeof(struct cuda_slot) == 32, "a slot is one sector, read at once by a kernel");

static tutti_status cut_slots(struct mem_device *device, size_t bytes, struct cuda_slot **slots)
{
    void *block = NULL;
    tutti_status status = TUTTI_OK;
    pthread_mutex_lock(&slot_store.lock);
    if (bytes > slot_store.left) {
        size_t taken = mem_cuda_lines_bytes(slot_store.made);
        must(bytes <= taken);
        status = mem_pinned_take(device, taken, &block);
        if (status == TUTTI_OK) {
            slot_store.at = block;
            slot_store.left = taken;
            slot_store.made += taken;
        }
    }
    if (status == TUTTI_OK) {
        *slots = (struct cuda_slot *)(void *)slot_store.at;
        slot_store.at += bytes;
        slot_store.left -= bytes;
    }
    pthread_mutex_unlock(&slot_store.lock);
    return status;
}

static tutti_status make_slots(struct mem_device *device, size_t count, struct mem_queue **made)
{
    struct mem_queue *queue = calloc(1, sizeof *queue);
    struct slot_kernel *kernels = calloc(count, sizeof *kernels);
    tutti_status status =
        queue && kernels
            ? cut_slots(device, count * sizeof *queue->slots, &queue->slots)
            : fail(TUTTI_ERR_NOMEM, "make a queue on %s: out of host memory", device->name);
    if (status == TUTTI_OK)
        status = mem_cuda_words_fresh(device, &queue->words);
    if (status == TUTTI_OK)
        status = mem_cuda_take_claim(device, &queue->claim);
    if (status != TUTTI_OK) {
        if (queue)
            mem_words_give(device, queue->words);
        free(kernels);
        free(queue);
        return status;
    }
    queue->device = device;
    queue->slot_room = count;
    queue->slot_kernels = kernels;
    *made = queue;
    return TUTTI_OK;
}

#define SLOTS_LEAST 4 /* of a queue; others have twice, four times... so many */

tutti_status mem_slots_take(struct mem_device *device, size_t count, struct mem_queue **queue)
{
    size_t room = SLOTS_LEAST;
    if (!device->claims)
        return fail(TUTTI_ERR_UNSUPPORTED, "%s: no work in streams without kernels and words",
                    device->name);
    while (room < count)
        room *= 2;
    pthread_mutex_lock(&device->lock);
    struct mem_queue **at = &device->slot_queues;
    while (*at && (*at)->slot_room != room)
        at = &(*at)->next;
    *queue = *at;
    if (*at)
        *at = (*at)->next;
    pthread_mutex_unlock(&device->lock);
    return *queue ? TUTTI_OK : make_slots(device, room, queue);
}

void mem_cuda_slots_give(struct mem_queue *queue)
{
    struct mem_device *device = queue->device;
    queue->slot_base += queue->slots_put;
    queue->done = queue->started = queue->slot_base;
    queue->slots_put = queue->slots_used = 0;
    set_word(queue, QUEUE_GO, queue->slot_base);
    set_word(queue, QUEUE_DONE, queue->slot_base);
    pthread_mutex_lock(&device->lock);
    queue->next = device->slot_queues;
    device->slot_queues = queue;
    pthread_mutex_unlock(&device->lock);
}

tutti_status mem_slots_put(struct mem_queue *queue, const struct mem_stream *stream,
                           const struct slot_work *what)
{
    struct mem_device *device = queue->device;
    struct cuda_scope scope;
    struct slot_kernel kernel = {.function = device->copy, .elem_size = 1};
    if (what->reduces)
        kernel =
            (struct slot_kernel){device->kernels[what->op][what->dtype], dtype_size(what->dtype)};
    must(kernel.function && stream->device == device);
    must(what->count <= queue->slot_room - queue->slots_put);
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = CUDA_DRIVER_OK;
    for (size_t i = 0; i < what->count && result == CUDA_DRIVER_OK; i++) {
        size_t index = queue->slots_put++;
        uint32_t ticket = (uint32_t)(queue->slot_base + queue->slots_put);
        struct cuda_work work = {.slot = &queue->slots[index],
                                 .ticket = ticket,
                                 .claim = queue->claim,
                                 .done = word_of(queue, QUEUE_DONE)};
        queue->slot_kernels[index] = kernel;
        result = device->driver->wait_word(
            stream->handle, cuda_address_of(word_of(queue, QUEUE_GO)), ticket, CUDA_WAIT_REACHED);
        if (result == CUDA_DRIVER_OK)
            result = mem_cuda_launch(device, kernel.function, &work, what->bytes, stream->handle);
    }
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK ? TUTTI_OK
                                    : mem_cuda_fail(result, "put work into stream %p of %s",
                                                    stream->handle, device->name);
}

tutti_status mem_slots_put_reset(struct mem_queue *queue, const struct mem_stream *stream)
{
    return mem_stream_signal(stream, queue->words, QUEUE_GO, (uint32_t)queue->slot_base);
}

/* Nothing is to be done in the slot. One store, for a kernel that GO let go before may be reading:
 * what it sees is whole. */
static void empty_slot(struct cuda_slot *slot)
{
    if (__atomic_load_n(&slot->count, __ATOMIC_RELAXED) > 0)
        __atomic_store_n(&slot->count, 0, __ATOMIC_RELAXED);
}

/* Lets the stream go on to the next slot, which says what is to be done; NULL: nothing. */
static void use_slot(struct mem_queue *queue, const struct cuda_slot *slot)
{
    struct cuda_slot *at = &queue->slots[queue->slots_used++];
    if (slot)
        *at = *slot;
    else
        empty_slot(at);
    set_word(queue, QUEUE_GO, queue->slot_base + queue->slots_used);
}

/* A kernel does its own work, and copies of whole elements. */
static bool fits(const struct slot_kernel *kernel, const struct piece *piece, bool copies)
{
    return copies ? piece->bytes % kernel->elem_size == 0 : kernel->function == piece->function;
}

void mem_cuda_slots_start(struct mem_queue *queue, const struct piece *piece, uint64_t *ticket)
{
    bool copies = piece->function == queue->device->copy;
    if (piece->bytes > 0) {
        while (queue->slots_used < queue->slots_put &&
               !fits(&queue->slot_kernels[queue->slots_used], piece, copies))
            use_slot(queue, NULL);
        must(queue->slots_used < queue->slots_put);
        struct cuda_slot slot = {piece->work.dst, piece->work.a, piece->work.b, piece->work.count};
        if (copies)
            slot.count = piece->bytes / queue->slot_kernels[queue->slots_used].elem_size;
        use_slot(queue, &slot);
    }
    queue->started = queue->slot_base + queue->slots_used;
    *ticket = queue->started;
}

void mem_slots_skip(struct mem_queue *queue)
{
    while (queue->slots_used < queue->slots_put)
        use_slot(queue, NULL);
}

void mem_slots_skip_all(struct mem_queue *queue)
{
    for (queue->slots_used = 0; queue->slots_used < queue->slots_put; queue->slots_used++)
        empty_slot(&queue->slots[queue->slots_used]);
    set_word(queue, QUEUE_GO, queue->slot_base + queue->slots_put);
}

void mem_slots_rewind(struct mem_queue *queue)
{
    set_word(queue, QUEUE_DONE, queue->slot_base);
    queue->slots_used = 0;
    queue->started = queue->done = queue->slot_base;
}

bool mem_slots_passed(const struct mem_queue *queue)
{
    return atomic_load_explicit(&queue->words->word[QUEUE_DONE], memory_order_acquire) ==
           (uint32_t)(queue->slot_base + queue->slots_put);
}
