/* test_cuda.c: the room below GPU buffers (src/mem/device.h), over the stand-in driver or, with
 * TUTTI_TEST_CUDA_DRIVER=libcuda.so.1, over a real one. With the stand-in, device memory cannot be
 * touched by the CPU: that no CPU code does is tested by every test here. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/device.h"
#include "mem/mem.h"
#include "tests/gpu.h"
#include "tests/suite.h"

#define GUARD 64

static const struct gpu *gpu;
static struct mem_device *device;
static uint64_t random_state;

/* ---- tools ---------------------------------------------------------------------------------- */

static uint64_t random_bits(void)
{
    return suite_random(&random_state);
}

static void fill(void *at, size_t len)
{
    unsigned char *bytes = at;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char)random_bits();
}

static unsigned char *address(cuda_address memory)
{
    return (unsigned char *)(uintptr_t)memory;
}

static unsigned char *gpu_alloc(size_t bytes)
{
    cuda_address memory = 0;
    CU_ASSERT_EQUAL_FATAL(gpu->alloc(&memory, bytes), CUDA_DRIVER_OK);
    return address(memory);
}

static void gpu_free(void *memory)
{
    CU_ASSERT_EQUAL(gpu->free((cuda_address)(uintptr_t)memory), CUDA_DRIVER_OK);
}

static void upload(void *dst, const void *src, size_t bytes)
{
    CU_ASSERT_EQUAL(gpu->upload((cuda_address)(uintptr_t)dst, src, bytes), CUDA_DRIVER_OK);
}

static void download(void *dst, const void *src, size_t bytes)
{
    CU_ASSERT_EQUAL(gpu->download(dst, (cuda_address)(uintptr_t)src, bytes), CUDA_DRIVER_OK);
}

static cuda_address cuda_pointer(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

static void await(struct mem_queue *queue, uint64_t ticket)
{
    uint64_t done = 0, limit_ns = clock_ns() + 20000000000u;
    while (done < ticket) {
        CU_ASSERT_EQUAL_FATAL(mem_queue_poll(queue, &done), TUTTI_OK);
        CU_ASSERT_FATAL(clock_ns() < limit_ns);
    }
}

static bool await_word(const struct mem_words *words, unsigned index, uint32_t value,
                       uint32_t limit_ms)
{
    uint64_t limit_ns = clock_ns() + 1000000ull * limit_ms;
    while ((int32_t)(atomic_load_explicit(&words->word[index], memory_order_acquire) - value) < 0) {
        if (clock_ns() > limit_ns)
            return false;
    }
    return true;
}

static struct mem_queue *take_queue(void)
{
    struct mem_queue *queue = NULL;
    CU_ASSERT_EQUAL_FATAL(mem_queue_take(device, &queue), TUTTI_OK);
    return queue;
}

static cuda_stream make_stream(unsigned flags)
{
    cuda_stream stream = NULL;
    CU_ASSERT_EQUAL_FATAL(gpu->stream_make(&stream, flags), CUDA_DRIVER_OK);
    return stream;
}

static struct mem_stream open_stream(void *handle)
{
    struct mem_stream stream = {.device = NULL};
    CU_ASSERT_EQUAL_FATAL(mem_stream_open(handle, NULL, &stream), TUTTI_OK);
    return stream;
}

static struct mem_words *take_words(void)
{
    struct mem_words *words = NULL;
    CU_ASSERT_EQUAL_FATAL(mem_words_take(device, &words), TUTTI_OK);
    return words;
}

static void answer(const struct mem_words *words, unsigned index, uint32_t value)
{
    atomic_store_explicit(&words->word[index], value, memory_order_release);
}

/* ---- places --------------------------------------------------------------------------------- */

static void test_cuda_tells_where_pointers_lie(void)
{
    struct mem_place place;
    unsigned char local[16], *memory = gpu_alloc(10000);
    CU_ASSERT_EQUAL(mem_device_of(local, &place), TUTTI_OK);
    CU_ASSERT_PTR_NULL(place.device);
    CU_ASSERT_EQUAL(mem_device_of(NULL, &place), TUTTI_OK);
    CU_ASSERT_PTR_NULL(place.device);
    CU_ASSERT_EQUAL(mem_device_of(memory + 9999, &place), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(place.device, device);
    CU_ASSERT_PTR_EQUAL(place.base, memory);
    CU_ASSERT_EQUAL(place.bytes, 10000);
    CU_ASSERT(place.shareable);
    CU_ASSERT_EQUAL(mem_detect(memory), TUTTI_MEMORY_CUDA);
    CU_ASSERT_EQUAL(mem_detect(local), TUTTI_MEMORY_HOST);
    /* Freed and allocated anew, perhaps at the same address, it is another buffer. */
    uint64_t buffer = place.buffer;
    gpu_free(memory);
    memory = gpu_alloc(10000);
    CU_ASSERT_EQUAL(mem_device_of(memory, &place), TUTTI_OK);
    CU_ASSERT_NOT_EQUAL(place.buffer, buffer);
    gpu_free(memory);
    void *pinned;
    CU_ASSERT_EQUAL_FATAL(gpu->host_alloc(&pinned, 4096, 0), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(mem_device_of(pinned, &place), TUTTI_OK);
    CU_ASSERT_PTR_NULL(place.device);
    CU_ASSERT_EQUAL(gpu->host_free(pinned), CUDA_DRIVER_OK);
    printf("    %s\n", mem_device_name(device));
    CU_ASSERT_NOT_EQUAL(strlen(mem_device_name(device)), 0);
}

/* Memory of a pool has no context of its own, and cannot be mapped by peers. */
static void test_cuda_knows_memory_of_pools(void)
{
    struct mem_place place;
    struct mem_share share;
    cuda_address memory;
    cuda_stream stream = make_stream(CUDA_STREAM_NON_BLOCKING);
    CU_ASSERT_EQUAL_FATAL(gpu->pool_alloc(&memory, 5000, stream), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_synchronize(stream), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(mem_device_of(address(memory) + 100, &place), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(place.device, device);
    CU_ASSERT_FALSE(place.shareable);
    CU_ASSERT_EQUAL(mem_share(&place, &share), TUTTI_ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "cannot be mapped"));
    CU_ASSERT_EQUAL(gpu->pool_free(memory, stream), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_destroy(stream), CUDA_DRIVER_OK);
}

/* ---- queues --------------------------------------------------------------------------------- */

enum kind { DEVICE, PINNED, PAGEABLE, KINDS };

struct buffer {
    enum kind kind;
    size_t bytes;
    unsigned char *at;
};

static struct buffer make_buffer(enum kind kind, size_t bytes)
{
    struct buffer buffer = {.kind = kind, .bytes = bytes};
    void *memory = NULL;
    if (kind == DEVICE)
        CU_ASSERT_EQUAL_FATAL(mem_device_take(device, bytes, &memory), TUTTI_OK);
    if (kind == PINNED)
        CU_ASSERT_EQUAL_FATAL(mem_pinned_take(device, bytes, &memory), TUTTI_OK);
    if (kind == PAGEABLE)
        memory = malloc(bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
    buffer.at = memory;
    return buffer;
}

static void drop_buffer(struct buffer buffer)
{
    if (buffer.kind == DEVICE)
        mem_device_give(device, buffer.at);
    else if (buffer.kind == PINNED)
        mem_pinned_give(device, buffer.at);
    else
        free(buffer.at);
}

static void write_buffer(struct buffer buffer, const void *from)
{
    if (buffer.kind == DEVICE)
        upload(buffer.at, from, buffer.bytes);
    else
        memcpy(buffer.at, from, buffer.bytes);
}

static void read_buffer(void *to, struct buffer buffer)
{
    if (buffer.kind == DEVICE)
        download(to, buffer.at, buffer.bytes);
    else
        memcpy(to, buffer.at, buffer.bytes);
}

/* One copy at random offsets: it arrives, and nothing beside it changes. */
static bool copy_arrives(struct mem_queue *queue, enum kind from, enum kind to, size_t len)
{
    size_t bytes = len + 64;
    unsigned char *source = malloc(bytes), *before = malloc(bytes), *after = malloc(bytes);
    struct buffer src = make_buffer(from, bytes), dst = make_buffer(to, bytes);
    size_t src_at = random_bits() % 33, dst_at = random_bits() % 33;
    uint64_t ticket = 0, other = 0;
    fill(source, bytes);
    fill(before, bytes);
    write_buffer(src, source);
    write_buffer(dst, before);
    CU_ASSERT_EQUAL(mem_queue_copy(queue, dst.at + dst_at, src.at + src_at, len, &ticket),
                    TUTTI_OK);
    /* A second piece of work: tickets grow by one. */
    CU_ASSERT_EQUAL(mem_queue_copy(queue, dst.at, src.at, 0, &other), TUTTI_OK);
    CU_ASSERT_EQUAL(other, ticket + 1);
    await(queue, other);
    read_buffer(after, dst);
    memcpy(before + dst_at, source + src_at, len);
    bool good = memcmp(before, after, bytes) == 0;
    drop_buffer(src);
    drop_buffer(dst);
    free(source);
    free(before);
    free(after);
    return good;
}

static void test_cuda_copies_between_all_kinds_of_memory(void)
{
    static const size_t sizes[] = {0, 1, 7, 256, 4097, 65536, 1000003};
    struct mem_queue *queue = take_queue();
    CU_ASSERT_PTR_EQUAL(mem_queue_device(queue), device);
    random_state = suite_seed();
    for (int from = 0; from < KINDS; from++) {
        for (int to = 0; to < KINDS; to++) {
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                bool good = copy_arrives(queue, (enum kind)from, (enum kind)to, sizes[i]);
                if (!good)
                    printf("    kind %d to kind %d, %zu bytes\n", from, to, sizes[i]);
                CU_ASSERT(good);
            }
        }
    }
    mem_queue_give(queue);
}

/* A chain through one buffer, as deep as a queue may be: each copy reads what the one before wrote.
 */
static void test_cuda_keeps_the_order_of_a_queue(void)
{
    enum { ROUNDS = QUEUE_TICKETS_MAX - 1, LEN = 1024 };
    struct mem_queue *queue = take_queue();
    struct buffer chain = make_buffer(DEVICE, (ROUNDS + 1) * LEN);
    unsigned char source[LEN], result[LEN];
    uint64_t first = 0, ticket = 0;
    random_state = suite_seed();
    fill(source, LEN);
    upload(chain.at, source, LEN);
    for (size_t i = 0; i < ROUNDS; i++) {
        CU_ASSERT_EQUAL_FATAL(
            mem_queue_copy(queue, chain.at + (i + 1) * LEN, chain.at + i * LEN, LEN, &ticket),
            TUTTI_OK);
        first = i == 0 ? ticket : first;
    }
    CU_ASSERT_EQUAL(ticket, first + ROUNDS - 1);
    await(queue, ticket);
    download(result, chain.at + ROUNDS * LEN, LEN);
    CU_ASSERT_EQUAL(memcmp(source, result, LEN), 0);
    drop_buffer(chain);
    mem_queue_give(queue);
}

/* ---- kernels -------------------------------------------------------------------------------- */

/* NaNs that arithmetic makes carry whatever payload the hardware gives; other bits must agree. */
static bool is_nan(tutti_dtype dtype, const unsigned char *at)
{
    static const struct {
        uint64_t special; /* magnitudes above are NaN */
    } layout[TUTTI_DTYPE_COUNT] = {
        [TUTTI_FLOAT16] = {0x7c00},     [TUTTI_BFLOAT16] = {0x7f80},
        [TUTTI_FLOAT32] = {0x7f800000}, [TUTTI_FLOAT64] = {0x7ff0000000000000},
        [TUTTI_FLOAT8_E4M3] = {0x7e},   [TUTTI_FLOAT8_E5M2] = {0x7c},
    };
    uint64_t x = 0, sign = (uint64_t)1 << (8 * dtype_size(dtype) - 1);
    memcpy(&x, at, dtype_size(dtype));
    return dtype_is_float(dtype) && (x & (sign - 1)) > layout[dtype].special;
}

static bool same(tutti_dtype dtype, const unsigned char *got, const unsigned char *expected,
                 size_t count, const char *what)
{
    size_t size = dtype_size(dtype);
    for (size_t i = 0; i < count; i++) {
        const unsigned char *g = got + i * size, *e = expected + i * size;
        if (memcmp(g, e, size) == 0 || (is_nan(dtype, g) && is_nan(dtype, e)))
            continue;
        uint64_t x = 0, y = 0;
        memcpy(&x, g, size);
        memcpy(&y, e, size);
        printf("    %s %s: element %zu of %zu is %llx, expected %llx\n", what, dtype_name(dtype), i,
               count, (unsigned long long)x, (unsigned long long)y);
        return false;
    }
    return true;
}

/* Random bits, and in half of the elements the edges of floats: zeros, the smallest, the largest,
 * infinities, NaNs, both signs. */
static void fill_elements(tutti_dtype dtype, unsigned char *at, size_t count)
{
    size_t size = dtype_size(dtype);
    uint64_t sign = (uint64_t)1 << (8 * size - 1);
    static const uint64_t highest[TUTTI_DTYPE_COUNT] = {
        [TUTTI_FLOAT16] = 0x7c00,     [TUTTI_BFLOAT16] = 0x7f80,
        [TUTTI_FLOAT32] = 0x7f800000, [TUTTI_FLOAT64] = 0x7ff0000000000000,
        [TUTTI_FLOAT8_E4M3] = 0x7e,   [TUTTI_FLOAT8_E5M2] = 0x7c,
    };
    for (size_t i = 0; i < count; i++) {
        uint64_t r = random_bits(), x = random_bits();
        uint64_t edges[] = {
            0, 1, 2, sign - 1, highest[dtype], highest[dtype] - 1, highest[dtype] + 1, sign >> 1};
        if (r & 1)
            x = edges[(r >> 1) % 8] | ((r & 16) ? sign : 0);
        memcpy(at + i * size, &x, size);
    }
}

enum aliasing { APART, ON_A, ON_B, ALL_ONE, ALIASINGS };

/* Three operands of one reduction, each with its own misalignment, in one block of device memory
 * and one of the CPU, which are the same before. */
struct trial {
    size_t bytes; /* of each region with its guards */
    size_t at[3]; /* of dst, a, b within the block */
    unsigned char *cpu, *gpu, *got;
};

static struct trial make_trial(tutti_dtype dtype, size_t count, enum aliasing aliasing,
                               size_t align)
{
    size_t len = count * dtype_size(dtype);
    struct trial trial = {.bytes = 3 * (len + 4 * GUARD)};
    for (size_t i = 0; i < 3; i++)
        trial.at[i] = i * (len + 4 * GUARD) + GUARD + random_bits() % (GUARD / align) * align;
    trial.at[0] = aliasing == ON_A || aliasing == ALL_ONE ? trial.at[1] : trial.at[0];
    trial.at[2] = aliasing == ALL_ONE ? trial.at[1] : trial.at[2];
    trial.at[0] = aliasing == ON_B ? trial.at[2] : trial.at[0];
    trial.cpu = malloc(trial.bytes);
    trial.got = malloc(trial.bytes);
    void *block = NULL;
    CU_ASSERT_EQUAL_FATAL(mem_device_take(device, trial.bytes, &block), TUTTI_OK);
    trial.gpu = block;
    fill(trial.cpu, trial.bytes);
    fill_elements(dtype, trial.cpu + trial.at[1], count);
    fill_elements(dtype, trial.cpu + trial.at[2], count);
    upload(trial.gpu, trial.cpu, trial.bytes);
    return trial;
}

/* The results agree, and the bytes around them are what they were. */
static bool end_trial(struct trial *trial, tutti_dtype dtype, size_t count, const char *what)
{
    size_t at = trial->at[0], end = at + count * dtype_size(dtype);
    download(trial->got, trial->gpu, trial->bytes);
    bool good = same(dtype, trial->got + at, trial->cpu + at, count, what) &&
                memcmp(trial->got, trial->cpu, at) == 0 &&
                memcmp(trial->got + end, trial->cpu + end, trial->bytes - end) == 0;
    free(trial->cpu);
    free(trial->got);
    mem_device_give(device, trial->gpu);
    return good;
}

static bool reduce_matches(struct mem_queue *queue, tutti_op op, tutti_dtype dtype, size_t count,
                           enum aliasing aliasing, size_t align)
{
    struct reducer reducer = {.kernel = reduce_kernel(op, dtype),
                              .dtype = dtype,
                              .elem_size = (uint32_t)dtype_size(dtype)};
    struct trial t = make_trial(dtype, count, aliasing, align);
    size_t len = count * dtype_size(dtype);
    uint64_t ticket = 0;
    CU_ASSERT_EQUAL_FATAL(mem_queue_reduce(queue, &reducer, op, t.gpu + t.at[0], t.gpu + t.at[1],
                                           t.gpu + t.at[2], len, &ticket),
                          TUTTI_OK);
    await(queue, ticket);
    reduce_apply(&reducer, t.cpu + t.at[0], t.cpu + t.at[1], t.cpu + t.at[2], len);
    return end_trial(&t, dtype, count, op_name(op));
}

/* False, with the reason as a skip, when this device has no kernels. */
static bool has_kernels(struct mem_queue *queue)
{
    uint64_t ticket;
    tutti_status status = mem_queue_divide(queue, TUTTI_INT32, NULL, 1, 0, &ticket);
    if (status != TUTTI_OK)
        suite_skip(status_sentence());
    return status == TUTTI_OK;
}

static void test_cuda_reduces_every_operation_and_type(void)
{
    struct mem_queue *queue = take_queue();
    random_state = suite_seed();
    for (int dtype = 0; has_kernels(queue) && dtype < TUTTI_DTYPE_COUNT; dtype++) {
        for (int op = 0; op < TUTTI_OP_COUNT; op++) {
            if (!reduce_kernel((tutti_op)op, (tutti_dtype)dtype))
                continue;
            /* Aligned as the type is, at any address, and long enough for many blocks. */
            size_t size = dtype_size((tutti_dtype)dtype);
            bool good = reduce_matches(queue, (tutti_op)op, (tutti_dtype)dtype, 100003, APART, 16);
            for (int aliasing = 0; aliasing < ALIASINGS; aliasing++) {
                enum aliasing a = (enum aliasing)aliasing;
                good &= reduce_matches(queue, (tutti_op)op, (tutti_dtype)dtype, 777, a, size);
                good &= reduce_matches(queue, (tutti_op)op, (tutti_dtype)dtype, 55, a, 1);
            }
            CU_ASSERT(good);
        }
    }
    mem_queue_give(queue);
}

static void test_cuda_reduces_every_length(void)
{
    static const tutti_dtype dtypes[] = {TUTTI_UINT8, TUTTI_BFLOAT16, TUTTI_FLOAT32, TUTTI_INT64};
    struct mem_queue *queue = take_queue();
    random_state = suite_seed();
    for (size_t d = 0; has_kernels(queue) && d < sizeof dtypes / sizeof *dtypes; d++) {
        bool good = true;
        for (size_t count = 0; count < 130; count++) {
            size_t align = random_bits() % 2 ? 1 : dtype_size(dtypes[d]);
            enum aliasing aliasing = (enum aliasing)(random_bits() % ALIASINGS);
            good &= reduce_matches(queue, TUTTI_SUM, dtypes[d], count, aliasing, align);
        }
        CU_ASSERT(good);
    }
    mem_queue_give(queue);
}

/* All pairs of 8-bit floats: the same bits as the CPU's, in every operation. */
static void test_cuda_reduces_every_pair_of_bytes(void)
{
    struct mem_queue *queue = take_queue();
    unsigned char *a = malloc(65536), *b = malloc(65536), *got = malloc(65536);
    struct buffer x = make_buffer(DEVICE, 65536), y = make_buffer(DEVICE, 65536);
    for (size_t i = 0; i < 65536; i++) {
        a[i] = (unsigned char)i;
        b[i] = (unsigned char)(i >> 8);
    }
    for (int dtype = 0; has_kernels(queue) && dtype < TUTTI_DTYPE_COUNT; dtype++) {
        for (int op = 0; dtype_size((tutti_dtype)dtype) == 1 && op < TUTTI_OP_COUNT; op++) {
            struct reducer reducer = {.kernel = reduce_kernel((tutti_op)op, (tutti_dtype)dtype),
                                      .dtype = (tutti_dtype)dtype,
                                      .elem_size = 1};
            uint64_t ticket = 0;
            if (!reducer.kernel)
                continue;
            upload(x.at, a, 65536);
            upload(y.at, b, 65536);
            CU_ASSERT_EQUAL(
                mem_queue_reduce(queue, &reducer, (tutti_op)op, x.at, x.at, y.at, 65536, &ticket),
                TUTTI_OK);
            await(queue, ticket);
            download(got, x.at, 65536);
            unsigned char *expected = malloc(65536);
            reduce_apply(&reducer, expected, a, b, 65536);
            CU_ASSERT(same((tutti_dtype)dtype, got, expected, 65536, op_name((tutti_op)op)));
            free(expected);
        }
    }
    drop_buffer(x);
    drop_buffer(y);
    free(a);
    free(b);
    free(got);
    mem_queue_give(queue);
}

static bool scale_matches(struct mem_queue *queue, tutti_dtype dtype, size_t count,
                          enum aliasing aliasing)
{
    struct trial t = make_trial(dtype, count, aliasing, 1);
    unsigned char scalar[8];
    uint64_t ticket = 0;
    fill_elements(dtype, scalar, 1);
    CU_ASSERT_EQUAL_FATAL(
        mem_queue_scale(queue, dtype, t.gpu + t.at[0], t.gpu + t.at[1], scalar, count, &ticket),
        TUTTI_OK);
    reduce_scale(dtype, t.cpu + t.at[0], t.cpu + t.at[1], scalar, count);
    memset(scalar, 0x77, sizeof scalar); /* read before the call returned */
    await(queue, ticket);
    return end_trial(&t, dtype, count, "scale");
}

static bool divide_matches(struct mem_queue *queue, tutti_dtype dtype, uint32_t ranks, size_t count)
{
    struct trial t = make_trial(dtype, count, ON_A, 1);
    uint64_t ticket = 0;
    CU_ASSERT_EQUAL_FATAL(mem_queue_divide(queue, dtype, t.gpu + t.at[0], ranks, count, &ticket),
                          TUTTI_OK);
    await(queue, ticket);
    reduce_divide(dtype, t.cpu + t.at[0], ranks, count);
    return end_trial(&t, dtype, count, "divide");
}

static void test_cuda_scales_and_divides(void)
{
    static const uint32_t ranks[] = {1, 2, 3, 7, 64, 255, 1000, 65537, UINT32_MAX};
    struct mem_queue *queue = take_queue();
    random_state = suite_seed();
    for (int d = 0; has_kernels(queue) && d < TUTTI_DTYPE_COUNT; d++) {
        bool good = true;
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
            good &= divide_matches(queue, (tutti_dtype)d, ranks[i], 3001);
        for (size_t count = 0; count < 2000; count = 3 * count + 1) {
            good &= scale_matches(queue, (tutti_dtype)d, count, APART);
            good &= scale_matches(queue, (tutti_dtype)d, count, ON_A);
        }
        CU_ASSERT(good);
    }
    mem_queue_give(queue);
}

static void user_function(const void *in, void *inout, size_t count, tutti_dtype dtype,
                          void *context)
{
}

static void test_cuda_says_what_it_cannot_reduce(void)
{
    struct mem_queue *queue = take_queue();
    uint64_t ticket = 77;
    struct reducer reducer = {.function = user_function, .dtype = TUTTI_INT32, .elem_size = 4};
    CU_ASSERT_EQUAL(mem_queue_reduce(queue, &reducer, TUTTI_SUM, NULL, NULL, NULL, 0, &ticket),
                    TUTTI_ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "runs on the CPU only"));
    reducer = (struct reducer){
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_FLOAT32), .dtype = TUTTI_FLOAT32, .elem_size = 4};
    if (has_kernels(queue))
        CU_ASSERT_EQUAL(mem_queue_reduce(queue, &reducer, TUTTI_BOR, NULL, NULL, NULL, 0, &ticket),
                        TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(ticket, 77);
    mem_queue_give(queue);
}

/* ---- memory --------------------------------------------------------------------------------- */

static void test_cuda_keeps_blocks_for_the_next(void)
{
    void *block = NULL, *other = NULL, *again = NULL;
    struct mem_place place;
    struct mem_export file;
    CU_ASSERT_EQUAL(mem_device_take(device, 3000001, &block), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_device_take(device, 3000001, &other), TUTTI_OK);
    CU_ASSERT_PTR_NOT_EQUAL(block, other);
    CU_ASSERT_EQUAL(mem_device_of(block, &place), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(place.device, device);
    CU_ASSERT(place.shareable);
    CU_ASSERT(place.bytes >= 3000001 && place.bytes <= 3000001 / 4 * 5 + 4);
    mem_device_give(device, block);
    CU_ASSERT_EQUAL(mem_device_take(device, 3000100, &again), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(again, block);
    mem_device_give(device, again);
    mem_device_give(device, other);
    mem_device_give(device, NULL);

    CU_ASSERT_EQUAL(mem_pinned_take(device, 100000, &block), TUTTI_OK);
    CU_ASSERT(mem_find(block, 100000, &file)); /* peers can map it */
    CU_ASSERT_EQUAL(mem_device_of(block, &place), TUTTI_OK);
    CU_ASSERT_PTR_NULL(place.device);
    memset(block, 1, 100000);
    mem_pinned_give(device, block);
    CU_ASSERT_EQUAL(mem_pinned_take(device, 99999, &again), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(again, block);
    mem_pinned_give(device, again);
    CU_ASSERT_EQUAL(mem_device_take(device, SIZE_MAX, &block), TUTTI_ERR_NOMEM);
    CU_ASSERT_EQUAL(mem_device_take(device, (size_t)1 << 50, &block), TUTTI_ERR_NOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "allocate"));
}

static void test_cuda_allocates_zeroed_memory_for_users(void)
{
    enum { BYTES = 70001 };
    unsigned char *host = malloc(BYTES), *back = malloc(BYTES);
    struct mem_export file;
    void *memory = NULL, *second = NULL;
    random_state = suite_seed();
    fill(host, BYTES);
    for (int round = 0; round < 2; round++) {
        CU_ASSERT_EQUAL_FATAL(mem_alloc_in(TUTTI_MEMORY_CUDA, BYTES, &memory), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_detect(memory), TUTTI_MEMORY_CUDA);
        CU_ASSERT_FALSE(mem_find(memory, 1, &file)); /* there is no file of it */
        CU_ASSERT_EQUAL(mem_copy_any(back, memory, BYTES), TUTTI_OK);
        bool zero = true;
        for (size_t i = 0; i < BYTES; i++)
            zero &= back[i] == 0;
        CU_ASSERT(zero);
        CU_ASSERT_EQUAL(mem_copy_any(memory, host, BYTES), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_alloc_in(TUTTI_MEMORY_CUDA, BYTES, &second), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_copy_any(second, memory, BYTES), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_copy_any(back, second, BYTES), TUTTI_OK);
        CU_ASSERT_EQUAL(memcmp(back, host, BYTES), 0);
        CU_ASSERT_EQUAL(mem_free(second), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_free((char *)memory + 1), TUTTI_ERR_ARG);
        CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
        CU_ASSERT_EQUAL(mem_free(memory), TUTTI_ERR_ARG);
    }
    CU_ASSERT_EQUAL(mem_copy_any(back, host, BYTES), TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(back, host, BYTES), 0);
    CU_ASSERT_EQUAL(mem_alloc_in((tutti_memory)TUTTI_MEMORY_COUNT, 1, &memory), TUTTI_ERR_ARG);
    free(host);
    free(back);
}

/* ---- streams -------------------------------------------------------------------------------- */

/* copy out, signal, wait, copy back: nothing before its turn, and what follows sees the answer. */
static void test_cuda_streams_signal_and_wait(void)
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

/* Values wrap: a word that was -2 passes a wait for 1. */
static void test_cuda_waits_compare_in_a_circle(void)
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

static tutti_status await_clear(struct mem_queue *queue)
{
    tutti_status status;
    while ((status = mem_queue_clear(queue)) == TUTTI_IN_PROGRESS)
        sched_yield();
    return status;
}

/* The calls that answer a waiting stream must not wait for it: everything the library does on an
 * operation's path goes on beside streams that wait, the legacy one among them. */
static void test_cuda_works_beside_waiting_streams(void)
{
    enum { STREAMS = 7, LEN = 300000 };
    struct mem_words *words[STREAMS], *late = NULL;
    cuda_stream handles[STREAMS];
    struct mem_stream streams[STREAMS];
    unsigned blocking = 0, blocking_after = 0;
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

/* A default stream belongs to the context of the memory; what is no stream is refused. */
static void test_cuda_opens_streams(void)
{
    struct mem_stream stream;
    unsigned char *memory = gpu_alloc(64), local[8];
    CU_ASSERT_EQUAL(mem_stream_open(NULL, memory, &stream), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(stream.device, device);
    CU_ASSERT_EQUAL(mem_stream_open(NULL, local, &stream), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(stream.device, device);
    gpu_free(memory);
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
static void test_cuda_captures_and_replays(void)
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

static void test_cuda_refuses_broken_captures(void)
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
    CU_ASSERT_EQUAL(gpu->capture_end(handle, &graph), CUDA_DRIVER_CAPTURE_INVALIDATED);
    CU_ASSERT_EQUAL(mem_stream_open(handle, NULL, &stream), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_stream_retain(&stream, gone, &gone_calls), TUTTI_ERR_SYSTEM);
    CU_ASSERT_EQUAL(gpu->stream_destroy(handle), CUDA_DRIVER_OK);
}

int main(int argc, char **argv)
{
#define TEST(name)                                                                                 \
    {                                                                                              \
#name, test_##name                                                                         \
    }
    static const struct suite_test tests[] = {
        TEST(cuda_tells_where_pointers_lie),
        TEST(cuda_knows_memory_of_pools),
        TEST(cuda_copies_between_all_kinds_of_memory),
        TEST(cuda_keeps_the_order_of_a_queue),
        TEST(cuda_reduces_every_operation_and_type),
        TEST(cuda_reduces_every_length),
        TEST(cuda_reduces_every_pair_of_bytes),
        TEST(cuda_scales_and_divides),
        TEST(cuda_says_what_it_cannot_reduce),
        TEST(cuda_keeps_blocks_for_the_next),
        TEST(cuda_allocates_zeroed_memory_for_users),
        TEST(cuda_streams_signal_and_wait),
        TEST(cuda_waits_compare_in_a_circle),
        TEST(cuda_works_beside_waiting_streams),
        TEST(cuda_opens_streams),
        TEST(cuda_captures_and_replays),
        TEST(cuda_refuses_broken_captures),
    };
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK) {
        printf("suite cuda: 0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    return suite_run("cuda", tests, sizeof tests / sizeof *tests, argc, argv);
}
