/* cuda_lanes.c: work beside streams that wait: that gets past them (mem_cuda_lane.c), and that lies
 * in them (mem_cuda_slot.c); part of test_cuda. */
#include <sched.h>

#include "base/status.h"
#include "mem/mem_cuda_queue.h"
#include "mem/reduce.h"
#include "tests/cuda_standin.h"
#include "tests/cuda_suite.h"

static tutti_status await_clear(struct mem_queue *queue)
{
    tutti_status status;
    while ((status = mem_queue_clear(queue)) == TUTTI_IN_PROGRESS)
        sched_yield();
    return status;
}

/* The calls that answer a waiting stream must not wait for it: everything the library does on an
 * operation's path goes on beside streams that wait, the legacy one among them. */
void test_cuda_works_beside_waiting_streams(void)
{
    enum { STREAMS = 7, LEN = 300000 };
    struct mem_words *words[STREAMS], *late = NULL;
    cuda_stream handles[STREAMS];
    struct mem_stream streams[STREAMS];
    unsigned blocking = 0, blocking_after = 0;
    struct mem_device *used;
    if (!mem_device_in_use(&used)) {
        suite_skip("no work of the library's runs beside a stream that waits: too few channels");
        return;
    }
    /* Streams share hardware channels: the library's work must find one where none waits. */
    for (int i = 0; i < STREAMS; i++) {
        handles[i] = i == 0 ? NULL : make_stream(i % 2 ? CUDA_STREAM_NON_BLOCKING : 0);
        streams[i] = open_stream(handles[i]);
        words[i] = take_words();
        answer(words[i], 0, 0);
    }
    for (int i = 0; i < STREAMS; i++)
        CU_ASSERT_EQUAL(mem_stream_wait(&streams[i], words[i], 0, 1), TUTTI_OK);
    if (gpu->standin)
        gpu->count_blocking(&blocking);
    struct mem_queue *first = take_queue(), *second = take_queue();
    struct mem_place place;
    void *block = NULL, *pinned = NULL;
    uint64_t ticket = 0;
    CU_ASSERT_EQUAL(mem_words_take(device, &late), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_device_take(device, LEN, &block), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_pinned_take(device, LEN, &pinned), TUTTI_OK);
    memset(pinned, 5, LEN);
    CU_ASSERT_EQUAL(mem_device_of(block, &place), TUTTI_OK);
    CU_ASSERT_EQUAL(await_clear(first), TUTTI_OK);
    CU_ASSERT_EQUAL(await_clear(second), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_queue_copy(first, block, pinned, LEN, &ticket), TUTTI_OK);
    await(first, ticket);
    memset(pinned, 0, LEN);
    CU_ASSERT_EQUAL(mem_queue_copy(second, pinned, block, LEN, &ticket), TUTTI_OK);
    await(second, ticket);
    CU_ASSERT_EQUAL(((unsigned char *)pinned)[LEN - 1], 5);
    CU_ASSERT_EQUAL(mem_free(NULL), TUTTI_OK);
    mem_device_give(device, block);
    mem_pinned_give(device, pinned);
    mem_words_give(device, late);
    mem_queue_give(first);
    mem_queue_give(second);
    if (gpu->standin) {
        gpu->count_blocking(&blocking_after);
        CU_ASSERT_EQUAL(blocking, blocking_after);
    }
    for (int i = 0; i < STREAMS; i++)
        answer(words[i], 0, 1);
    for (int i = 0; i < STREAMS; i++) {
        CU_ASSERT_EQUAL(gpu->stream_synchronize(handles[i]), CUDA_DRIVER_OK);
        if (handles[i])
            CU_ASSERT_EQUAL(gpu->stream_destroy(handles[i]), CUDA_DRIVER_OK);
        mem_words_give(device, words[i]);
    }
}

/* Streams begin to wait between pieces of queues' work, those of the queues' own channels too. Each
 * piece is done, once: also when all launches of it that were held up have come. */
void test_cuda_work_gets_past_streams_that_wait(void)
{
    enum { STREAMS = 7, QUEUES = 3, PIECES = 4, COUNT = 1000 };
    struct mem_words *words[STREAMS];
    cuda_stream handles[STREAMS];
    struct mem_queue *queues[QUEUES];
    struct buffer sums[QUEUES], one;
    struct reducer reducer = {.kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT32),
                              .dtype = TUTTI_INT32,
                              .elem_size = sizeof(int32_t)};
    int32_t numbers[COUNT] = {0}, ones[COUNT];
    uint64_t ticket = 0;
    if (!device->claims) {
        suite_skip("without kernels or memory operations work stays where it was put");
        return;
    }
    for (int i = 0; i < COUNT; i++)
        ones[i] = i;
    one = make_buffer(DEVICE, sizeof ones);
    upload(one.at, ones, sizeof ones);
    for (int q = 0; q < QUEUES; q++) {
        queues[q] = take_queue();
        sums[q] = make_buffer(DEVICE, sizeof numbers);
        upload(sums[q].at, numbers, sizeof numbers);
    }
    for (int i = 0; i < STREAMS; i++) {
        handles[i] = make_stream(CUDA_STREAM_NON_BLOCKING);
        struct mem_stream stream = open_stream(handles[i]);
        words[i] = take_words();
        answer(words[i], 0, 0);
        CU_ASSERT_EQUAL(mem_stream_wait(&stream, words[i], 0, 1), TUTTI_OK);
        for (int q = 0; q < QUEUES; q++) {
            for (int piece = 0; piece < PIECES; piece++)
                CU_ASSERT_EQUAL_FATAL(mem_queue_reduce(queues[q], &reducer, TUTTI_SUM, sums[q].at,
                                                       sums[q].at, one.at, sizeof ones, &ticket),
                                      TUTTI_OK);
            await(queues[q], ticket);
        }
    }
    for (int i = 0; i < STREAMS; i++)
        answer(words[i], 0, 1);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    for (int q = 0; q < QUEUES; q++) {
        bool good = true;
        download(numbers, sums[q].at, sizeof numbers);
        for (int i = 0; i < COUNT; i++)
            good &= numbers[i] == i * STREAMS * PIECES;
        CU_ASSERT(good);
        mem_queue_give(queues[q]);
        drop_buffer(sums[q]);
    }
    for (int i = 0; i < STREAMS; i++) {
        CU_ASSERT_EQUAL(gpu->stream_destroy(handles[i]), CUDA_DRIVER_OK);
        mem_words_give(device, words[i]);
    }
    drop_buffer(one);
}

/* Lets all streams go on when it has lasted too long. */
struct rescue {
    struct mem_words *words;
    atomic_bool over, came;
};

static void *come_late(void *context)
{
    struct rescue *rescue = context;
    for (uint64_t end = clock_ns() + 20000000000u; !atomic_load(&rescue->over);) {
        if (clock_ns() > end && !atomic_exchange(&rescue->came, true))
            answer(rescue->words, 0, 1);
        sched_yield();
    }
    return NULL;
}

/* Memory is allocated and copied, of any kind, beside streams that wait. */
void test_cuda_copies_of_any_memory_get_past_streams_that_wait(void)
{
    enum { STREAMS = 7, LEN = 9 << 20 };
    cuda_stream handles[STREAMS];
    struct mem_device *used;
    pthread_t thread;
    void *memory;
    if (!mem_device_in_use(&used)) {
        suite_skip("no work of the library's runs beside a stream that waits: too few channels");
        return;
    }
    struct rescue rescue = {.words = take_words()};
    unsigned char *from = malloc(LEN), *to = malloc(LEN);
    struct buffer first = make_buffer(DEVICE, LEN), second = make_buffer(DEVICE, LEN);
    answer(rescue.words, 0, 0);
    fill(from, LEN);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, come_late, &rescue), 0);
    for (int i = 0; i < STREAMS; i++) {
        handles[i] = make_stream(CUDA_STREAM_NON_BLOCKING);
        struct mem_stream stream = open_stream(handles[i]);
        CU_ASSERT_EQUAL(mem_stream_wait(&stream, rescue.words, 0, 1), TUTTI_OK);
        from[i] ^= 1;
        CU_ASSERT_EQUAL(mem_copy_any(first.at + 1, from, LEN - 1), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_copy_any(second.at, first.at + 1, LEN - 1), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_copy_any(to, second.at, LEN - 1), TUTTI_OK);
        CU_ASSERT_EQUAL(memcmp(from, to, LEN - 1), 0);
        CU_ASSERT_EQUAL(mem_alloc_in(TUTTI_MEMORY_CUDA, 100000, &memory), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
    }
    CU_ASSERT_FALSE(atomic_load(&rescue.came));
    atomic_store(&rescue.over, true);
    pthread_join(thread, NULL);
    answer(rescue.words, 0, 1);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    for (int i = 0; i < STREAMS; i++)
        CU_ASSERT_EQUAL(gpu->stream_destroy(handles[i]), CUDA_DRIVER_OK);
    mem_words_give(device, rescue.words);
    drop_buffer(first);
    drop_buffer(second);
    free(from);
    free(to);
}

/* Memory whose zeroing waits behind streams for longer than the library waits is not given to
 * others: it becomes zero at any time. */
void test_cuda_memory_that_may_become_zero_is_kept(void)
{
    enum { STREAMS = 2 * CHANNELS_MAX, BYTES = 7 << 20 };
    struct mem_words *words = take_words();
    cuda_stream handles[STREAMS];
    void *memory, *other = NULL;
    if (!device->claims || !gpu->standin) {
        suite_skip("no way to hold all channels, or work would wait for them for ever");
        return;
    }
    CU_ASSERT_EQUAL_FATAL(mem_alloc_in(TUTTI_MEMORY_CUDA, BYTES, &memory), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
    answer(words, 0, 0);
    for (int i = 0; i < STREAMS; i++) {
        handles[i] = make_stream(CUDA_STREAM_NON_BLOCKING);
        struct mem_stream stream = open_stream(handles[i]);
        CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 0, 1), TUTTI_OK);
    }
    CU_ASSERT_EQUAL(mem_alloc_in(TUTTI_MEMORY_CUDA, BYTES, &other), TUTTI_ERR_TIMEOUT);
    CU_ASSERT_EQUAL(mem_device_take(device, BYTES, &other), TUTTI_OK);
    CU_ASSERT_PTR_NOT_EQUAL(other, memory);
    answer(words, 0, 1);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    mem_device_give(device, other);
    for (int i = 0; i < STREAMS; i++)
        CU_ASSERT_EQUAL(gpu->stream_destroy(handles[i]), CUDA_DRIVER_OK);
    mem_words_give(device, words);
}

/* A queue whose pieces are either += addend or *= factor, and what its numbers must come to. */
struct ordered {
    struct mem_queue *queue;
    struct buffer numbers;
    uint64_t ticket;
    uint32_t expected;
};

enum { ORDERED_COUNT = 500, ORDERED_FACTOR = 3, ORDERED_ADDEND = 7 };

static void put_ordered(struct ordered *o, const struct buffer *factor, const struct buffer *addend)
{
    tutti_op op = random_bits() % 2 ? TUTTI_SUM : TUTTI_PROD;
    struct reducer reducer = {.kernel = reduce_kernel(op, TUTTI_UINT32),
                              .dtype = TUTTI_UINT32,
                              .elem_size = sizeof(uint32_t)};
    const struct buffer *other = op == TUTTI_SUM ? addend : factor;
    size_t bytes = random_bits() % 8 ? other->bytes : 0;
    CU_ASSERT_EQUAL_FATAL(mem_queue_reduce(o->queue, &reducer, op, o->numbers.at, o->numbers.at,
                                           other->at, bytes, &o->ticket),
                          TUTTI_OK);
    if (bytes)
        o->expected = op == TUTTI_SUM ? o->expected + ORDERED_ADDEND : o->expected * ORDERED_FACTOR;
}

static struct buffer make_numbers(uint32_t value)
{
    uint32_t numbers[ORDERED_COUNT];
    for (int i = 0; i < ORDERED_COUNT; i++)
        numbers[i] = value;
    struct buffer buffer = make_buffer(DEVICE, sizeof numbers);
    upload(buffer.at, numbers, sizeof numbers);
    return buffer;
}

static void check_ordered(struct ordered *o)
{
    uint32_t numbers[ORDERED_COUNT];
    int wrong = 0;
    await(o->queue, o->ticket);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    download(numbers, o->numbers.at, sizeof numbers);
    for (int i = 0; i < ORDERED_COUNT; i++)
        wrong += numbers[i] != o->expected;
    CU_ASSERT_EQUAL(wrong, 0);
    mem_queue_give(o->queue);
    drop_buffer(o->numbers);
}

/* Pieces whose order shows, while streams begin to wait and go on at any time, for less and for
 * more than the time after which work is given to another stream. */
void test_cuda_work_keeps_its_order_past_streams_that_wait(void)
{
    enum { STREAMS = 7, QUEUES = 3, ROUNDS = 400 };
    struct mem_words *words[STREAMS];
    struct mem_stream streams[STREAMS];
    uint32_t gates[STREAMS] = {0};
    bool closed[STREAMS] = {false};
    struct ordered ordered[QUEUES];
    if (!device->claims) {
        suite_skip("without kernels or memory operations work stays where it was put");
        return;
    }
    struct buffer factor = make_numbers(ORDERED_FACTOR), addend = make_numbers(ORDERED_ADDEND);
    for (int q = 0; q < QUEUES; q++)
        ordered[q] = (struct ordered){
            .queue = take_queue(), .numbers = make_numbers((uint32_t)q), .expected = (uint32_t)q};
    for (int i = 0; i < STREAMS; i++) {
        streams[i] = open_stream(make_stream(CUDA_STREAM_NON_BLOCKING));
        words[i] = take_words();
        answer(words[i], 0, 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t i = random_bits() % STREAMS, done, until;
        if (closed[i])
            answer(words[i], 0, gates[i]);
        else
            CU_ASSERT_EQUAL(mem_stream_wait(&streams[i], words[i], 0, ++gates[i]), TUTTI_OK);
        closed[i] = !closed[i];
        for (int q = 0; q < QUEUES; q++) {
            if (ordered[q].ticket > 100)
                await(ordered[q].queue, ordered[q].ticket - 100);
            for (uint64_t pieces = random_bits() % 7; pieces > 0; pieces--)
                put_ordered(&ordered[q], &factor, &addend);
        }
        until = clock_ns() + (random_bits() % 8 ? random_bits() % 200000 : random_bits() % 8000000);
        do {
            for (int q = 0; q < QUEUES; q++)
                CU_ASSERT_EQUAL_FATAL(mem_queue_poll(ordered[q].queue, &done), TUTTI_OK);
        } while (clock_ns() < until);
    }
    for (int i = 0; i < STREAMS; i++)
        answer(words[i], 0, gates[i]);
    for (int q = 0; q < QUEUES; q++)
        check_ordered(&ordered[q]);
    for (int i = 0; i < STREAMS; i++) {
        CU_ASSERT_EQUAL(gpu->stream_destroy(streams[i].handle), CUDA_DRIVER_OK);
        mem_words_give(device, words[i]);
    }
    drop_buffer(factor);
    drop_buffer(addend);
}

/* A device must not idle between two pieces while the CPU learns that the first is done: the second
 * lies behind the first by then. */
void test_cuda_work_is_given_ahead(void)
{
    enum { STREAMS = 16, PIECES = 10, LEN = 1000 };
    struct mem_stream streams[STREAMS];
    struct mem_words *words;
    unsigned before, after, later;
    uint64_t ticket = 0;
    if (!device->claims || !gpu->standin) {
        suite_skip("launches are counted over the stand-in, where work can be given twice");
        return;
    }
    struct mem_queue *queue = take_queue();
    struct buffer from = make_buffer(DEVICE, LEN), to = make_buffer(DEVICE, LEN);
    words = take_words();
    answer(words, 0, 0);
    for (int i = 0; i < STREAMS; i++) {
        streams[i] = open_stream(make_stream(CUDA_STREAM_NON_BLOCKING));
        CU_ASSERT_EQUAL(mem_stream_wait(&streams[i], words, 0, 1), TUTTI_OK);
    }
    gpu->count_launches(&before);
    for (int piece = 0; piece < PIECES; piece++)
        CU_ASSERT_EQUAL(mem_queue_copy(queue, to.at, from.at, LEN, &ticket), TUTTI_OK);
    gpu->count_launches(&after);
    CU_ASSERT_EQUAL(after - before, QUEUE_AHEAD);
    /* Nothing is given to streams that do not answer. */
    for (uint64_t until = clock_ns() + 30 * 1000000ull, done; clock_ns() < until;)
        CU_ASSERT_EQUAL(mem_queue_poll(queue, &done), TUTTI_OK);
    gpu->count_launches(&later);
    CU_ASSERT_EQUAL(later, after);
    answer(words, 0, 1);
    await(queue, ticket);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    for (int i = 0; i < STREAMS; i++)
        CU_ASSERT_EQUAL(gpu->stream_destroy(streams[i].handle), CUDA_DRIVER_OK);
    mem_words_give(device, words);
    mem_queue_give(queue);
    drop_buffer(from);
    drop_buffer(to);
}

/* ---- work in the program's streams ----------------------------------------------------------- */

enum { SLOT_COUNT = 700 };

/* Six slots: three for sums of int32, three for copies. */
static struct mem_queue *put_six(const struct mem_stream *stream)
{
    struct mem_queue *queue = NULL;
    struct slot_work sums = {.reduces = true,
                             .op = TUTTI_SUM,
                             .dtype = TUTTI_INT32,
                             .count = 3,
                             .bytes = SLOT_COUNT * sizeof(int32_t)};
    struct slot_work copies = {.count = 3, .bytes = 100};
    CU_ASSERT_EQUAL_FATAL(mem_slots_take(device, 6, &queue), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(mem_slots_put(queue, stream, &sums), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(mem_slots_put(queue, stream, &copies), TUTTI_OK);
    return queue;
}

/* y = x + y; z = y; z[..] = bytes of x that are no whole elements; nothing; so that a slot for sums
 * is left over and one for copies. */
static uint64_t use_six(struct mem_queue *queue, const struct buffer *x, const struct buffer *y,
                        const struct buffer *z)
{
    struct reducer sum = {.kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT32),
                          .dtype = TUTTI_INT32,
                          .elem_size = sizeof(int32_t)};
    uint64_t tickets[4];
    CU_ASSERT_EQUAL(
        mem_queue_reduce(queue, &sum, TUTTI_SUM, y->at, x->at, y->at, y->bytes, &tickets[0]),
        TUTTI_OK);
    CU_ASSERT_EQUAL(mem_queue_copy(queue, z->at, y->at, z->bytes, &tickets[1]), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_queue_copy(queue, z->at + 1, x->at + 2, 13, &tickets[2]), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_queue_copy(queue, z->at, x->at, 0, &tickets[3]), TUTTI_OK);
    CU_ASSERT(tickets[0] < tickets[1] && tickets[1] < tickets[2] && tickets[2] <= tickets[3]);
    return tickets[3];
}

static void check_six(const struct buffer *z, const int32_t *x, int32_t y_added)
{
    int32_t seen[SLOT_COUNT], expected[SLOT_COUNT];
    for (int i = 0; i < SLOT_COUNT; i++)
        expected[i] = x[i] * y_added;
    memcpy((char *)expected + 1, (const char *)x + 2, 13);
    download(seen, z->at, sizeof seen);
    CU_ASSERT_EQUAL(memcmp(seen, expected, sizeof seen), 0);
}

struct six {
    struct buffer x, y, z;
    int32_t numbers[SLOT_COUNT];
};

static void make_six(struct six *six)
{
    int32_t zero[SLOT_COUNT] = {0};
    fill(six->numbers, sizeof six->numbers);
    for (int i = 0; i < SLOT_COUNT; i++)
        six->numbers[i] &= 0xffffff; /* sums of a hundred do not overflow */
    six->x = make_buffer(DEVICE, sizeof six->numbers);
    six->y = make_buffer(DEVICE, sizeof six->numbers);
    six->z = make_buffer(DEVICE, sizeof six->numbers);
    upload(six->x.at, six->numbers, sizeof six->numbers);
    upload(six->y.at, zero, sizeof zero);
}

static void drop_six(struct six *six)
{
    drop_buffer(six->x);
    drop_buffer(six->y);
    drop_buffer(six->z);
}

static bool await_passed(const struct mem_queue *queue)
{
    for (uint64_t until = clock_ns() + 20000000000u; clock_ns() < until;) {
        if (mem_slots_passed(queue))
            return true;
    }
    return false;
}

/* Work starts when its stream has come to it, without a launch; slots that do not fit are passed
 * over, and what is left is, too. The same queue serves again. */
void test_cuda_slots_do_work_in_their_stream(void)
{
    struct six six;
    unsigned before = 0, after = 0;
    if (!device->claims) {
        struct mem_queue *none;
        CU_ASSERT_EQUAL(mem_slots_take(device, 6, &none), TUTTI_ERR_UNSUPPORTED);
        return;
    }
    make_six(&six);
    struct mem_stream stream = open_stream(make_stream(CUDA_STREAM_NON_BLOCKING));
    struct mem_words *gate = take_words();
    answer(gate, 0, 0);
    for (uint32_t round = 1; round <= 20; round++) {
        uint64_t done = 0;
        CU_ASSERT_EQUAL(mem_stream_wait(&stream, gate, 0, round), TUTTI_OK);
        struct mem_queue *queue = put_six(&stream);
        CU_ASSERT_EQUAL(mem_stream_signal(&stream, gate, 1, round), TUTTI_OK);
        if (gpu->standin)
            gpu->count_launches(&before);
        uint64_t last = use_six(queue, &six.x, &six.y, &six.z);
        CU_ASSERT_EQUAL(mem_queue_poll(queue, &done), TUTTI_OK);
        CU_ASSERT(done < last);
        answer(gate, 0, round);
        await(queue, last);
        CU_ASSERT_FALSE(mem_slots_passed(queue)); /* a slot for copies is left */
        CU_ASSERT_FALSE(await_word(gate, 1, round, round == 1 ? 20 : 0));
        mem_slots_skip(queue);
        CU_ASSERT(await_passed(queue));
        CU_ASSERT(await_word(gate, 1, round, 20000));
        check_six(&six.z, six.numbers, (int32_t)round); /* nothing waits in its way by now */
        if (gpu->standin) {
            gpu->count_launches(&after);
            CU_ASSERT_EQUAL(before, after);
        }
        mem_queue_give(queue);
    }
    CU_ASSERT_EQUAL(gpu->stream_destroy(stream.handle), CUDA_DRIVER_OK);
    mem_words_give(device, gate);
    drop_six(&six);
}

/* Slots that are skipped once more have nothing to do, and the rest of each stays what it was: a
 * kernel may be reading it. */
void test_cuda_slots_are_emptied_in_place(void)
{
    struct six six;
    struct cuda_slot before[6];
    if (!device->claims) {
        suite_skip("without kernels or memory operations there are no slots");
        return;
    }
    make_six(&six);
    struct mem_stream stream = open_stream(make_stream(CUDA_STREAM_NON_BLOCKING));
    struct mem_words *gate = take_words();
    answer(gate, 0, 0);
    CU_ASSERT_EQUAL(mem_stream_wait(&stream, gate, 0, 1), TUTTI_OK);
    struct mem_queue *queue = put_six(&stream);
    (void)use_six(queue, &six.x, &six.y, &six.z);
    memcpy(before, queue->slots, sizeof before);
    CU_ASSERT(before[0].count > 0);
    mem_slots_skip_all(queue);
    for (int i = 0; i < 6; i++) {
        const struct cuda_slot *slot = &queue->slots[i];
        CU_ASSERT_EQUAL(slot->count, 0);
        CU_ASSERT(slot->dst == before[i].dst && slot->a == before[i].a && slot->b == before[i].b);
    }
    answer(gate, 0, 1);
    CU_ASSERT(await_passed(queue));
    CU_ASSERT_EQUAL(gpu->stream_synchronize(stream.handle), CUDA_DRIVER_OK);
    mem_queue_give(queue);
    CU_ASSERT_EQUAL(gpu->stream_destroy(stream.handle), CUDA_DRIVER_OK);
    mem_words_give(device, gate);
    drop_six(&six);
}

/* Captured slots are used anew by each replay, and wait for it. */
void test_cuda_slots_are_replayed(void)
{
    struct six six;
    cuda_graph graph = NULL;
    void *executable = NULL;
    if (!device->claims) {
        suite_skip("without kernels or memory operations there are no slots");
        return;
    }
    make_six(&six);
    cuda_stream handle = make_stream(CUDA_STREAM_NON_BLOCKING);
    CU_ASSERT_EQUAL(gpu->capture_begin(handle, CUDA_CAPTURE_MODE_GLOBAL), CUDA_DRIVER_OK);
    struct mem_stream stream = open_stream(handle);
    struct mem_queue *queue = put_six(&stream);
    CU_ASSERT_EQUAL(mem_slots_put_reset(queue, &stream), TUTTI_OK);
    CU_ASSERT_EQUAL(gpu->capture_end(handle, &graph), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL_FATAL(gpu->graph_instantiate(&executable, graph, 0), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->graph_destroy(graph), CUDA_DRIVER_OK);
    for (int32_t round = 1; round <= 20; round++) {
        CU_ASSERT_EQUAL(gpu->graph_launch(executable, handle), CUDA_DRIVER_OK);
        mem_slots_rewind(queue);
        uint64_t last = use_six(queue, &six.x, &six.y, &six.z);
        await(queue, last);
        mem_slots_skip(queue);
        CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
        check_six(&six.z, six.numbers, round);
        CU_ASSERT(mem_slots_passed(queue));
    }
    CU_ASSERT_EQUAL(gpu->graph_exec_destroy(executable), CUDA_DRIVER_OK);
    mem_queue_give(queue);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
    drop_six(&six);
}
