/* cuda_streams.c: the program's streams, captures, memory of peers, and queues that are given
 * back; part of test_cuda. */
#include <sched.h>
#include <sys/socket.h>

#include "mem/mem_cuda_queue.h"
#include "tests/cuda_suite.h"

/* ---- streams -------------------------------------------------------------------------------- */

/* copy out, signal, wait, copy back: nothing before its turn, and what follows sees the answer. */
void test_cuda_streams_signal_and_wait(void)
{
    enum { LEN = 4096 };
    struct mem_words *words = take_words();
    struct buffer on_device = make_buffer(DEVICE, LEN), pinned = make_buffer(PINNED, LEN);
    unsigned char result[LEN];
    random_state = suite_seed();
    for (unsigned flags = 0; flags < 2; flags++) {
        cuda_stream handle = make_stream(flags ? CUDA_STREAM_NON_BLOCKING : 0);
        struct mem_stream stream = open_stream(handle);
        CU_ASSERT_PTR_EQUAL(stream.device, device);
        CU_ASSERT_EQUAL(stream.capture, 0);
        for (uint32_t round = 1; round < 50; round++) {
            uint32_t value = words->value + 1;
            words->value = value;
            CU_ASSERT_EQUAL(
                gpu->fill(cuda_pointer(on_device.at), (unsigned char)round, LEN, handle),
                CUDA_DRIVER_OK);
            CU_ASSERT_EQUAL(mem_stream_copy(&stream, pinned.at, on_device.at, LEN), TUTTI_OK);
            CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 0, value), TUTTI_OK);
            CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 1, value), TUTTI_OK);
            CU_ASSERT_EQUAL(mem_stream_copy(&stream, on_device.at, pinned.at, LEN), TUTTI_OK);
            CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 2, value), TUTTI_OK);
            CU_ASSERT_FATAL(await_word(words, 0, value, 20000));
            CU_ASSERT_EQUAL(pinned.at[LEN - 1], (unsigned char)round);
            /* Held until answered. */
            CU_ASSERT_FALSE(await_word(words, 2, value, round < 4 ? 20 : 0));
            fill(pinned.at, LEN);
            answer(words, 1, value);
            CU_ASSERT_FATAL(await_word(words, 2, value, 20000));
            download(result, on_device.at, LEN);
            CU_ASSERT_EQUAL(memcmp(result, pinned.at, LEN), 0);
        }
        CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
        CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
    }
    drop_buffer(on_device);
    drop_buffer(pinned);
    mem_words_give(device, words);
}

/* The same by kernels, of any length and alignment, and of nothing else in the block. */
void test_cuda_streams_copy_short_by_kernels(void)
{
    enum { LEN = 70000 };
    static const size_t lengths[] = {1, 7, 8, 100, 4096, LEN - 2};
    struct mem_words *words = take_words();
    struct buffer on_device = make_buffer(DEVICE, LEN), pinned = make_buffer(PINNED, LEN);
    cuda_stream handle = make_stream(CUDA_STREAM_NON_BLOCKING);
    struct mem_stream stream = open_stream(handle);
    unsigned char *was = malloc(LEN), *result = malloc(LEN);
    unsigned before = 0, after = 0;
    random_state = suite_seed();
    if (gpu->standin)
        gpu->count_launches(&before);
    for (size_t i = 0; i < 2 * sizeof lengths / sizeof *lengths; i++) {
        size_t len = lengths[i / 2], at = random_bits() % (LEN - len),
               to = random_bits() % (LEN - len);
        uint32_t value = ++words->value;
        fill(was, LEN);
        upload(on_device.at, was, LEN);
        memset(pinned.at, 0, LEN);
        CU_ASSERT_EQUAL(mem_stream_copy_signal(&stream, pinned.at + to, on_device.at + at, len,
                                               words, 0, value),
                        TUTTI_OK);
        CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 1, value), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_stream_copy_short(&stream, on_device.at + to, pinned.at + at, len),
                        TUTTI_OK);
        CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 2, value), TUTTI_OK);
        CU_ASSERT_FATAL(await_word(words, 0, value, 20000));
        CU_ASSERT_EQUAL(memcmp(pinned.at + to, was + at, len), 0);
        memset(pinned.at + to, 0, len);
        memset(result, 0, LEN);
        CU_ASSERT_EQUAL(memcmp(pinned.at, result, LEN), 0);
        CU_ASSERT_FALSE(await_word(words, 2, value, i < 4 ? 20 : 0));
        fill(pinned.at, LEN);
        answer(words, 1, value);
        CU_ASSERT_FATAL(await_word(words, 2, value, 20000));
        download(result, on_device.at, LEN);
        memcpy(was + to, pinned.at + at, len);
        CU_ASSERT_EQUAL(memcmp(result, was, LEN), 0);
    }
    if (gpu->standin)
        gpu->count_launches(&after);
    int reached = 0; /* pinned memory by kernels where it is for the CPU */
    gpu->device_attribute(&reached, CUDA_DEVICE_HOST_POINTERS, 0);
    CU_ASSERT_EQUAL(after - before,
                    gpu->standin && reached ? 4 * sizeof lengths / sizeof *lengths : 0);
    CU_ASSERT_EQUAL(mem_stream_copy_short(&stream, on_device.at, pinned.at, 0), TUTTI_OK);
    CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
    free(was);
    free(result);
    drop_buffer(on_device);
    drop_buffer(pinned);
    mem_words_give(device, words);
}

/* Values wrap: a word that was -2 passes a wait for 1. */
void test_cuda_waits_compare_in_a_circle(void)
{
    struct mem_words *words = take_words();
    cuda_stream handle = make_stream(CUDA_STREAM_NON_BLOCKING);
    struct mem_stream stream = open_stream(handle);
    answer(words, 0, UINT32_MAX - 1);
    answer(words, 1, 0);
    CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 0, UINT32_MAX), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 1, 1), TUTTI_OK);
    CU_ASSERT_FALSE(await_word(words, 1, 1, 20));
    answer(words, 0, 1); /* later than the highest number */
    CU_ASSERT(await_word(words, 1, 1, 20000));
    CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
    mem_words_give(device, words);
}

/* A stream may still wait for a word that was given back, so no new queue starts from zero there.
 */
void test_cuda_words_given_back_keep_their_values(void)
{
    enum { WORDS = 40, QUEUES = 40 };
    struct mem_words *words[WORDS];
    struct mem_queue *queues[QUEUES];
    for (int i = 0; i < WORDS; i++) {
        words[i] = take_words();
        for (unsigned w = 0; w < MEM_WORDS; w++)
            answer(words[i], w, 77);
    }
    for (int i = 0; i < WORDS; i++)
        mem_words_give(device, words[i]);
    for (int i = 0; i < QUEUES; i++)
        queues[i] = take_queue();
    for (int i = 0; i < WORDS; i++) {
        for (unsigned w = 0; w < MEM_WORDS; w++)
            CU_ASSERT_EQUAL(atomic_load(&words[i]->word[w]), 77);
    }
    for (int i = 0; i < QUEUES; i++)
        mem_queue_give(queues[i]);
}

/* A default stream belongs to the device that is named; what is no stream is refused. */
void test_cuda_opens_streams(void)
{
    struct mem_stream stream;
    unsigned char local[8];
    CU_ASSERT_EQUAL(mem_stream_open(NULL, device, &stream), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(stream.device, device);
    CU_ASSERT_EQUAL(mem_stream_open(NULL, NULL, &stream), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(stream.device, device);
    if (!gpu->standin)
        return; /* the real driver follows such a pointer */
    stream.device = NULL;
    CU_ASSERT_EQUAL(mem_stream_open(local, NULL, &stream), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NULL(stream.device);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "is no stream"));
}

/* ---- captures ------------------------------------------------------------------------------- */

static atomic_uint gone_calls;

static void gone(void *context)
{
    atomic_fetch_add((atomic_uint *)context, 1);
}

static bool await_gone(unsigned calls)
{
    uint64_t limit_ns = clock_ns() + 20000000000u;
    while (atomic_load(&gone_calls) < calls) {
        if (clock_ns() > limit_ns)
            return false;
    }
    return true;
}

/* Constants instead of numbers that grow: the graph says 1 when it gets there, waits for 1, takes
 * that back for the next replay, and says 1 at its end. */
void test_cuda_captures_and_replays(void)
{
    enum { LEN = 2048 };
    cuda_stream handle = make_stream(CUDA_STREAM_NON_BLOCKING);
    struct mem_words *words = take_words();
    struct buffer on_device = make_buffer(DEVICE, LEN), pinned = make_buffer(PINNED, LEN);
    unsigned char result[LEN];
    cuda_graph graph = NULL;
    void *executable = NULL;
    unsigned calls = atomic_load(&gone_calls);
    for (unsigned i = 0; i < MEM_WORDS; i++)
        answer(words, i, 0);
    CU_ASSERT_EQUAL(gpu->capture_begin(handle, CUDA_CAPTURE_MODE_GLOBAL), CUDA_DRIVER_OK);
    struct mem_stream stream = open_stream(handle);
    CU_ASSERT_NOT_EQUAL(stream.capture, 0);
    CU_ASSERT_EQUAL(mem_stream_copy(&stream, pinned.at, on_device.at, LEN), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 0, 1), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 1, 1), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 1, 0), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_copy(&stream, on_device.at, pinned.at, LEN), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_signal(&stream, words, 2, 1), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_retain(&stream, gone, &gone_calls), TUTTI_OK);
    /* Everything else goes on beside a capture that forbids unsafe calls. */
    void *block = NULL;
    CU_ASSERT_EQUAL(mem_device_take(device, 123456, &block), TUTTI_OK);
    mem_device_give(device, block);
    struct mem_queue *queue = take_queue();
    uint64_t ticket = 0;
    CU_ASSERT_EQUAL(mem_queue_copy(queue, on_device.at, pinned.at, LEN, &ticket), TUTTI_OK);
    await(queue, ticket);
    mem_queue_give(queue);
    CU_ASSERT_EQUAL(gpu->capture_end(handle, &graph), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(atomic_load(&words->word[0]), 0); /* recorded, not done */
    CU_ASSERT_EQUAL_FATAL(gpu->graph_instantiate(&executable, graph, 0), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->graph_destroy(graph), CUDA_DRIVER_OK);
    random_state = suite_seed();
    for (int round = 0; round < 30; round++) {
        answer(words, 0, 0);
        answer(words, 2, 0);
        CU_ASSERT_EQUAL(gpu->graph_launch(executable, handle), CUDA_DRIVER_OK);
        CU_ASSERT_FATAL(await_word(words, 0, 1, 20000));
        CU_ASSERT_FALSE(await_word(words, 2, 1, round < 3 ? 20 : 0));
        fill(pinned.at, LEN);
        answer(words, 1, 1);
        CU_ASSERT_FATAL(await_word(words, 2, 1, 20000));
        download(result, on_device.at, LEN);
        CU_ASSERT_EQUAL(memcmp(result, pinned.at, LEN), 0);
        CU_ASSERT_EQUAL(atomic_load(&words->word[1]), 0);
    }
    CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(atomic_load(&gone_calls), calls);
    CU_ASSERT_EQUAL(gpu->graph_exec_destroy(executable), CUDA_DRIVER_OK);
    CU_ASSERT(await_gone(calls + 1));
    drop_buffer(on_device);
    drop_buffer(pinned);
    mem_words_give(device, words);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
}

void test_cuda_refuses_broken_captures(void)
{
    cuda_stream handle = make_stream(0);
    struct mem_stream stream;
    cuda_graph graph = NULL;
    CU_ASSERT_EQUAL(gpu->capture_begin(handle, CUDA_CAPTURE_MODE_GLOBAL), CUDA_DRIVER_OK);
    /* The legacy stream waits for blocking streams, which a captured one cannot bear. */
    CU_ASSERT_EQUAL(mem_stream_open(NULL, NULL, &stream), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "CAPTURE"));
    CU_ASSERT_NOT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK); /* breaks it */
    CU_ASSERT_EQUAL(mem_stream_open(handle, NULL, &stream), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "invalidated"));
    printf("    %s\n", status_sentence());
    CU_ASSERT_EQUAL(gpu->capture_end(handle, &graph), CUDA_DRIVER_CAPTURE_INVALIDATED);
    CU_ASSERT_EQUAL(mem_stream_open(handle, NULL, &stream), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_retain(&stream, gone, &gone_calls), TUTTI_ERR_SYSTEM);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
}

/* ---- other processes ------------------------------------------------------------------------ */

/* What the parent asks of a peer, and the peer's answer. */
enum request_kind { READ, WRITE, SHARE_OWN, DETACH };

struct request {
    enum request_kind kind;
    struct mem_share share;
    size_t offset;
    unsigned char data[64];
};

struct reply {
    tutti_status status;
    uint64_t base;
    unsigned char data[64];
    char sentence[SENTENCE_MAX];
};

static bool transfer(int fd, void *data, size_t len, bool out)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = out ? write(fd, (char *)data + done, len - done)
                        : read(fd, (char *)data + done, len - done);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static void serve(const struct request *request, struct reply *reply)
{
    void *base = NULL;
    if (request->kind == SHARE_OWN) {
        /* A peer that is this process: the address itself. */
        struct mem_place place;
        struct mem_share own;
        void *memory = gpu_alloc(100);
        reply->status = mem_device_of(memory, &place);
        if (reply->status == TUTTI_OK)
            reply->status = mem_share(&place, &own);
        if (reply->status == TUTTI_OK)
            reply->status = mem_attach(device, &own, &base);
        reply->base = base == memory;
        return;
    }
    unsigned before = 0, after = 0;
    if (request->kind == DETACH) {
        mem_detach();
        size_t bytes = 0;
        if (gpu->standin)
            gpu->count_imported(&bytes);
        reply->base = bytes;
        return;
    }
    if (gpu->standin)
        gpu->count_blocking(&before);
    reply->status = mem_attach(device, &request->share, &base);
    if (gpu->standin)
        gpu->count_blocking(&after);
    if (before != after) /* it would wait for streams, which may wait for it */
        reply->status = TUTTI_ERR_INTERNAL;
    reply->base = cuda_pointer(base);
    if (reply->status == TUTTI_OK && request->kind == READ)
        reply->status = mem_copy_any(reply->data, (char *)base + request->offset, 64);
    else if (reply->status == TUTTI_OK)
        reply->status = mem_copy_any((char *)base + request->offset, request->data, 64);
    snprintf(reply->sentence, sizeof reply->sentence, "%s", status_sentence());
}

/* The peer's main: answers requests on standard input until there are none. */
int peer_main(void)
{
    struct request request;
    while (transfer(0, &request, sizeof request, false)) {
        struct reply reply = {.status = TUTTI_OK};
        serve(&request, &reply);
        if (!transfer(0, &reply, sizeof reply, true))
            return 1;
    }
    return 0;
}

static struct reply ask(int fd, struct request request)
{
    struct reply reply = {.status = TUTTI_ERR_INTERNAL};
    CU_ASSERT_FATAL(transfer(fd, &request, sizeof request, true));
    CU_ASSERT_FATAL(transfer(fd, &reply, sizeof reply, false));
    return reply;
}

static struct mem_share share_of(void *memory)
{
    struct mem_place place;
    struct mem_share share;
    CU_ASSERT_EQUAL_FATAL(mem_device_of(memory, &place), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(mem_share(&place, &share), TUTTI_OK);
    CU_ASSERT_EQUAL(share.bytes, place.bytes);
    CU_ASSERT_EQUAL(memcmp(share.device, mem_device_uuid(device), 16), 0);
    return share;
}

/* Memory can be shared unless it overlaps those bytes, which were shared before they were freed:
 * whether it does. It is not shared here if it can, which would count for what comes after it. */
static bool expect_shared(void *memory, uint64_t freed, size_t bytes)
{
    struct mem_place place;
    struct mem_share share;
    CU_ASSERT_EQUAL_FATAL(mem_device_of(memory, &place), TUTTI_OK);
    uint64_t at = cuda_pointer(place.base);
    bool over = at < freed + bytes && freed < at + place.bytes;
    CU_ASSERT_EQUAL(mem_can_share(&place), !over);
    if (over) {
        CU_ASSERT_EQUAL(mem_share(&place, &share), TUTTI_ERR_UNSUPPORTED);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "what was freed there"));
    }
    return over;
}

void test_cuda_maps_memory_of_peers(void)
{
    enum { BYTES = 300000, AT = 123457 };
    int fds[2];
    unsigned char *content = malloc(BYTES), *memory = gpu_alloc(BYTES), seen[64];
    void *block = NULL;
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pid_t peer = run_self("--peer", fds[1]);
    close(fds[1]);
    random_state = suite_seed();
    fill(content, BYTES);
    upload(memory, content, BYTES);
    struct request request = {.kind = READ, .share = share_of(memory), .offset = AT};
    struct reply first = ask(fds[0], request), second = ask(fds[0], request);
    CU_ASSERT_EQUAL(first.status, TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(first.data, content + AT, 64), 0);
    CU_ASSERT_EQUAL(first.base, second.base); /* mapped once */
    request.kind = WRITE;
    fill(request.data, 64);
    CU_ASSERT_EQUAL(ask(fds[0], request).status, TUTTI_OK);
    download(seen, memory + AT, 64);
    CU_ASSERT_EQUAL(memcmp(seen, request.data, 64), 0);

    /* Announced with a size that is not its own. */
    request.kind = READ;
    request.share.bytes++;
    struct reply wrong = ask(fds[0], request);
    CU_ASSERT_EQUAL(wrong.status, TUTTI_ERR_PROTOCOL);
    CU_ASSERT_PTR_NOT_NULL(strstr(wrong.sentence, "announced with"));

    /* Freed, while the peer has it mapped: what is allocated there is not shared, at whichever
     * address it begins, and the library makes its own blocks elsewhere. */
    uint64_t base = request.share.base;
    gpu_free(memory);
    void *anew = gpu_alloc(BYTES);
    bool over = expect_shared(anew, base, BYTES);
    gpu_free(anew);
    void *before = gpu_alloc(BYTES / 2);
    void *behind = gpu_alloc(BYTES);
    over |= expect_shared(behind, base, BYTES);
    CU_ASSERT(over || !gpu->standin); /* which gives the lowest addresses */
    gpu_free(behind);
    gpu_free(before);
    CU_ASSERT_EQUAL_FATAL(mem_device_take(device, BYTES, &block), TUTTI_OK);
    fill(content, BYTES);
    upload(block, content, BYTES);
    request.share = share_of(block);
    struct reply other = ask(fds[0], request);
    CU_ASSERT_EQUAL(other.status, TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(other.data, content + AT, 64), 0);

    /* All of it can be given back, and is mapped again when it is wanted. */
    request.kind = DETACH;
    struct reply detached = ask(fds[0], request);
    CU_ASSERT(detached.status == TUTTI_OK && detached.base == 0);
    request.kind = READ;
    struct reply again = ask(fds[0], request);
    CU_ASSERT_EQUAL(again.status, TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(again.data, content + AT, 64), 0);

    request.kind = SHARE_OWN;
    struct reply own = ask(fds[0], request);
    CU_ASSERT_EQUAL(own.status, TUTTI_OK);
    CU_ASSERT_EQUAL(own.base, 1);
    close(fds[0]);
    CU_ASSERT(ended_well(peer));
    mem_device_give(device, block);
    free(content);
}

/* A block of the library's own, and memory for users, as peers see them. */
void test_cuda_shares_its_own_blocks(void)
{
    int fds[2];
    void *memory = NULL;
    unsigned char content[64];
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pid_t peer = run_self("--peer", fds[1]);
    close(fds[1]);
    CU_ASSERT_EQUAL_FATAL(mem_alloc_in(TUTTI_MEMORY_CUDA, 64, &memory), TUTTI_OK);
    random_state = suite_seed();
    fill(content, 64);
    CU_ASSERT_EQUAL(mem_copy_any(memory, content, 64), TUTTI_OK);
    struct mem_share share = share_of(memory);
    struct request request = {
        .kind = READ, .share = share, .offset = cuda_pointer(memory) - share.base};
    struct reply reply = ask(fds[0], request);
    CU_ASSERT_EQUAL(reply.status, TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(reply.data, content, 64), 0);
    memset(request.share.handle, 0, sizeof request.share.handle);
    request.share.buffer += 1 << 30; /* none that is mapped already */
    CU_ASSERT_NOT_EQUAL(ask(fds[0], request).status, TUTTI_OK);
    close(fds[0]);
    CU_ASSERT(ended_well(peer));
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
}

/* The whole allocation of a pointer into it, in pages; what adapters may not reach says so. */
void test_cuda_exports_dma_bufs(void)
{
    struct mem_export found;
    struct mem_place place;
    int fd = -1;
    uint64_t offset = 0;
    unsigned char *memory = gpu_alloc((size_t)1 << 20), *host = malloc(64);
    CU_ASSERT_FALSE(mem_nic_find(host, &found));
    free(host);
    CU_ASSERT_TRUE_FATAL(mem_nic_find(memory + 12345, &found));
    CU_ASSERT(found.fd == -1 && found.base == memory && found.bytes >= (size_t)1 << 20);
    CU_ASSERT_EQUAL(mem_device_of(memory, &place), TUTTI_OK);
    CU_ASSERT_EQUAL(found.id, place.buffer);
    tutti_status status = mem_nic_dmabuf(&found, &fd, &offset);
    if (status == TUTTI_OK) {
        CU_ASSERT(fd >= 0 && offset < 4096);
        CU_ASSERT_EQUAL(close(fd), 0);
    } else {
        CU_ASSERT_EQUAL(status, TUTTI_ERR_UNSUPPORTED);
        suite_skip(status_sentence());
    }
    gpu_free(memory);
}

#define ADAPTED ((size_t)100000)

/* What a transport asks about memory that its adapters are to reach. */
void test_cuda_admits_adapters(void)
{
    struct mem_export found, again;
    struct mem_place place;
    cuda_address pooled = 0;
    unsigned char *memory = gpu_alloc(ADAPTED);
    CU_ASSERT_TRUE_FATAL(mem_nic_find(memory, &found));
    CU_ASSERT_EQUAL(mem_device_of(memory, &place), TUTTI_OK);
    tutti_status status = mem_nic_admit(&found);
    if (status != TUTTI_OK) {
        CU_ASSERT_EQUAL(status, TUTTI_ERR_UNSUPPORTED);
        suite_skip(status_sentence());
        gpu_free(memory);
        return;
    }
    CU_ASSERT_EQUAL(mem_nic_settle(&place), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_nic_flush(memory), TUTTI_OK);
    /* Other memory at the same address has another id. */
    gpu_free(memory);
    unsigned char *other = gpu_alloc(ADAPTED);
    CU_ASSERT_TRUE(mem_nic_find(other, &again));
    CU_ASSERT_NOT_EQUAL(again.id, found.id);
    if (gpu->standin)
        CU_ASSERT_PTR_EQUAL(other, memory);
    CU_ASSERT_EQUAL_FATAL(gpu->pool_alloc(&pooled, ADAPTED, NULL), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_synchronize(NULL), CUDA_DRIVER_OK);
    if (gpu->standin && mem_nic_find(address(pooled), &found))
        CU_ASSERT_EQUAL(mem_nic_admit(&found), TUTTI_ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(gpu->pool_free(pooled, NULL), CUDA_DRIVER_OK);
    gpu_free(other);
}

/* Between device memory and ordinary memory, while a stream waits. */
void test_cuda_copies_for_transports(void)
{
    unsigned char *memory = gpu_alloc(ADAPTED), *content = malloc(ADAPTED),
                  *back = calloc(1, ADAPTED);
    struct mem_words *words = take_words();
    cuda_stream handle = make_stream(CUDA_STREAM_NON_BLOCKING);
    struct mem_stream stream = open_stream(handle);
    random_state = suite_seed();
    fill(content, ADAPTED);
    CU_ASSERT_EQUAL(mem_stream_wait(&stream, words, 0, words->value + 1), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_nic_copy(memory + 1, content, ADAPTED - 1), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_nic_copy(back, memory + 1, ADAPTED - 1), TUTTI_OK);
    answer(words, 0, ++words->value);
    CU_ASSERT_EQUAL(memcmp(back, content, ADAPTED - 1), 0);
    CU_ASSERT_EQUAL(gpu->stream_synchronize(handle), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
    mem_words_give(device, words);
    free(content);
    free(back);
    gpu_free(memory);
}

/* What is given back with work under way is nobody's before that is over, and then as good as any:
 * what no stream was given is dropped. */
void test_cuda_queues_are_kept_when_their_work_is_over(void)
{
    enum { PIECES = 2 * QUEUE_AHEAD, LEN = 50 };
    struct mem_words *gate = take_words();
    struct buffer bytes = make_buffer(DEVICE, (PIECES + 1) * LEN);
    struct mem_queue *queue = take_queue();
    struct mem_stream stream = {
        .device = device, .context = device->context, .handle = queue->stream};
    unsigned char before[(PIECES + 1) * LEN], after[(PIECES + 1) * LEN];
    uint64_t ticket = 0;
    fill(before, sizeof before);
    upload(bytes.at, before, sizeof before);
    answer(gate, 0, 0);
    CU_ASSERT_EQUAL(mem_stream_wait(&stream, gate, 0, 1), TUTTI_OK);
    for (int i = 0; i < PIECES; i++)
        CU_ASSERT_EQUAL(mem_queue_copy(queue, bytes.at, bytes.at + LEN, LEN, &ticket), TUTTI_OK);
    mem_queue_give(queue);
    struct mem_queue *other = take_queue();
    CU_ASSERT_PTR_NOT_EQUAL(other, queue);
    answer(gate, 0, 1);
    CU_ASSERT_EQUAL(gpu->context_synchronize(), CUDA_DRIVER_OK);
    CU_ASSERT_PTR_EQUAL(take_queue(), queue);
    for (size_t i = 0; i < PIECES; i++)
        CU_ASSERT_EQUAL(
            mem_queue_copy(queue, bytes.at + i * LEN, bytes.at + (i + 1) * LEN, LEN, &ticket),
            TUTTI_OK);
    await(queue, ticket);
    download(after, bytes.at, sizeof after);
    CU_ASSERT_EQUAL(memcmp(after, before + LEN, PIECES * LEN), 0);
    mem_queue_give(queue);
    mem_queue_give(other);
    mem_words_give(device, gate);
    drop_buffer(bytes);
}
