/* parts.c: see parts.h. What is noted is the thread's own. Pieces that lie in the stream as slots
 * say what they were only afterwards: slots keep what they held until the operation's queue is used
 * again, and ranks that share queues meet before that. */
#include "tests/gpu/parts.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "mem/mem_cuda.h"

#define PATIENCE_US 5e6
#define LOOKS_MAX   1000 /* at a word, before looks let others have the core */

struct noted_piece {
    const struct cuda_slot *slot; /* NULL: not a slot */
    size_t bytes;                 /* of a copy */
    cuda_event before, after;
};

/* One operation of one thread. */
struct notes {
    bool on, timed;
    cuda_stream stream;
    double start_us, driver_us;
    unsigned driver_calls;
    const _Atomic uint32_t *signal, *answer; /* its first word that is written, its last awaited */
    uint32_t signal_value, answer_value;
    cuda_event first, last;
    struct noted_piece pieces[PARTS_PIECES_MAX];
    unsigned count, untimed;
};

static _Thread_local struct notes notes;
static struct cuda_driver real; /* the table as it was */
static const struct gpu *gpu;

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* An event in the stream, made when it is needed first. */
static void mark(cuda_event *event)
{
    if (!*event && real.event_create(event, 0) != CUDA_DRIVER_OK)
        *event = NULL;
    if (*event)
        (void)real.event_record(*event, notes.stream);
}

static bool is_noted(cuda_stream stream)
{
    return notes.on && stream == notes.stream;
}

/* The piece that is put next; NULL where pieces are not timed. */
static struct noted_piece *begin_piece(void)
{
    if (!notes.timed)
        return NULL;
    if (notes.count == PARTS_PIECES_MAX) {
        notes.untimed++;
        return NULL;
    }
    struct noted_piece *piece = &notes.pieces[notes.count++];
    mark(&piece->before);
    return piece;
}

static cuda_result count_call(double start, cuda_result result)
{
    notes.driver_us += now_us() - start;
    notes.driver_calls++;
    return result;
}

/* By the stream or by a kernel. Where words lie for them they do for the CPU (parts_open). */
static void note_signal(const void *word, uint32_t value)
{
    notes.signal = word;
    notes.signal_value = value;
}

/* ---- entries of the table -------------------------------------------------------------------- */

static cuda_result launch(cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                          unsigned block_x, unsigned block_y, unsigned block_z,
                          unsigned shared_bytes, cuda_stream stream, void **parameters,
                          void **extra)
{
    struct noted_piece *piece = is_noted(stream) ? begin_piece() : NULL;
    double start = now_us();
    cuda_result result = real.launch(function, grid_x, grid_y, grid_z, block_x, block_y, block_z,
                                     shared_bytes, stream, parameters, extra);
    if (is_noted(stream)) {
        const struct cuda_work *work = parameters[0];
        if (!notes.signal && work->done)
            note_signal(work->done, work->ticket);
        count_call(start, result);
    }
    if (piece) {
        piece->slot = ((const struct cuda_work *)parameters[0])->slot;
        piece->bytes = 0;
        mark(&piece->after);
    }
    return result;
}

static cuda_result copy(cuda_address dst, cuda_address src, size_t bytes, cuda_stream stream)
{
    struct noted_piece *piece = is_noted(stream) ? begin_piece() : NULL;
    double start = now_us();
    cuda_result result = real.copy(dst, src, bytes, stream);
    if (is_noted(stream))
        count_call(start, result);
    if (piece) {
        piece->slot = NULL;
        piece->bytes = bytes;
        mark(&piece->after);
    }
    return result;
}

static cuda_result write_word(cuda_stream stream, cuda_address address, uint32_t value,
                              unsigned flags)
{
    double start = now_us();
    cuda_result result = real.write_word(stream, address, value, flags);
    if (!is_noted(stream))
        return result;
    if (!notes.signal)
        note_signal((const void *)(uintptr_t)address, value);
    return count_call(start, result);
}

static cuda_result wait_word(cuda_stream stream, cuda_address address, uint32_t value,
                             unsigned flags)
{
    double start = now_us();
    cuda_result result = real.wait_word(stream, address, value, flags);
    if (!is_noted(stream))
        return result;
    notes.answer = (const _Atomic uint32_t *)(uintptr_t)address;
    notes.answer_value = value;
    return count_call(start, result);
}

bool parts_open(const struct gpu *driver_of_tests)
{
    const struct cuda_driver *found;
    struct mem_device *device;
    if (mem_cuda_driver_open(&found) != TUTTI_OK || mem_device_open(&device) != TUTTI_OK ||
        !device->memory_ops || !device->host_pointers) {
        printf("no parts: the streams of this driver write no words that the CPU sees where they "
               "do\n");
        return false;
    }
    /* The table is not constant; who uses it has no business to write it. */
    struct cuda_driver *table = (struct cuda_driver *)(uintptr_t)found;
    gpu = driver_of_tests;
    real = *table;
    table->launch = launch;
    table->copy = copy;
    table->write_word = write_word;
    table->wait_word = wait_word;
    return true;
}

/* ---- one operation --------------------------------------------------------------------------- */

void parts_begin(cuda_stream stream, bool timed)
{
    notes.stream = stream;
    notes.timed = timed;
    notes.count = notes.untimed = notes.driver_calls = 0;
    notes.driver_us = 0;
    notes.signal = notes.answer = NULL;
    if (timed)
        mark(&notes.first);
    notes.on = true;
    notes.start_us = now_us();
}

/* When the word is there, since the call began; negative: not in time. */
static double see(const _Atomic uint32_t *word, uint32_t value)
{
    double now = now_us();
    for (unsigned looks = 0; word && now - notes.start_us < PATIENCE_US; looks++, now = now_us()) {
        if ((int32_t)(atomic_load_explicit(word, memory_order_acquire) - value) >= 0)
            return now - notes.start_us;
        if (looks > LOOKS_MAX)
            sched_yield();
    }
    return -1;
}

static double between_us(cuda_event from, cuda_event to)
{
    float ms = 0;
    return gpu->event_elapsed(&ms, from, to) == CUDA_DRIVER_OK ? 1e3 * (double)ms : -1;
}

static void describe(struct parts_piece *piece, const struct noted_piece *noted, size_t elem_size)
{
    piece->kind = noted->bytes > 0 ? PARTS_COPY : PARTS_OTHER;
    piece->bytes = (double)noted->bytes;
    if (!noted->slot)
        return;
    piece->bytes = (double)(noted->slot->count * elem_size);
    piece->kind = noted->slot->count == 0 ? PARTS_NOTHING
                  : noted->slot->b        ? PARTS_REDUCTION
                                          : PARTS_COPY;
}

bool parts_end(size_t elem_size, struct parts_moments *moments, struct parts_pieces *pieces)
{
    struct parts_moments seen = {.called = now_us() - notes.start_us,
                                 .driver = notes.driver_us,
                                 .driver_calls = notes.driver_calls};
    notes.on = false;
    if (notes.timed)
        mark(&notes.last);
    seen.signal = see(notes.signal, notes.signal_value);
    seen.answer = see(notes.answer, notes.answer_value);
    if (seen.signal < 0 || seen.answer < 0 ||
        gpu->stream_synchronize(notes.stream) != CUDA_DRIVER_OK)
        return false;
    seen.end = now_us() - notes.start_us;
    if (moments)
        *moments = seen;
    if (!pieces)
        return true;
    pieces->count = notes.count;
    pieces->untimed = notes.untimed;
    cuda_event last = notes.first;
    for (unsigned i = 0; i < notes.count; i++) {
        describe(&pieces->piece[i], &notes.pieces[i], elem_size);
        pieces->piece[i].idle_us = between_us(last, notes.pieces[i].before);
        pieces->piece[i].work_us = between_us(notes.pieces[i].before, notes.pieces[i].after);
        last = notes.pieces[i].after;
    }
    pieces->rest_us = between_us(last, notes.last);
    return true;
}
