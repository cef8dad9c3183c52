/* test_cuda.c: the room below GPU buffers (src/mem/device.h), over the stand-in driver or, with
 * TUTTI_TEST_CUDA_DRIVER=libcuda.so.1, over a real one. With the stand-in, device memory cannot be
 * touched by the CPU: that no CPU code does is tested by every test here. */
#include "tests/cuda_suite.h"

const struct gpu *gpu;
struct mem_device *device;
uint64_t random_state;

#define GUARD 64

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
    bool pageable = from == PAGEABLE || to == PAGEABLE; /* not in queues */
    tutti_status status =
        pageable ? mem_copy_any(dst.at + dst_at, src.at + src_at, len)
                 : mem_queue_copy(queue, dst.at + dst_at, src.at + src_at, len, &ticket);
    CU_ASSERT_EQUAL(status, TUTTI_OK);
    /* A second piece of work: tickets grow by one. */
    CU_ASSERT_EQUAL(mem_queue_copy(queue, dst.at, src.at, 0, &other), TUTTI_OK);
    CU_ASSERT(other == ticket + 1 || pageable);
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
    if (status == TUTTI_OK)
        await(queue, ticket);
    else
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

#define PARENT_ONLY 4

static void set_delays(void)
{
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)suite_seed());
    setenv("TUTTI_TEST_STANDIN_SEED", seed, 1);
    setenv("TUTTI_TEST_STANDIN_DELAY_US", "200", 1);
    printf("delays of up to 200 us, seed %s\n", seed);
}

int main(int argc, char **argv)
{
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
        TEST(cuda_streams_copy_short_by_kernels),
        TEST(cuda_waits_compare_in_a_circle),
        TEST(cuda_words_given_back_keep_their_values),
        TEST(cuda_works_beside_waiting_streams),
        TEST(cuda_opens_streams),
        TEST(cuda_captures_and_replays),
        TEST(cuda_refuses_broken_captures),
        TEST(cuda_drivers_refuse_what_they_must),
        TEST(cuda_maps_memory_of_peers),
        TEST(cuda_work_gets_past_streams_that_wait),
        TEST(cuda_work_keeps_its_order_past_streams_that_wait),
        TEST(cuda_copies_of_any_memory_get_past_streams_that_wait),
        TEST(cuda_work_is_given_ahead),
        TEST(cuda_queues_are_kept_when_their_work_is_over),
        TEST(cuda_memory_that_may_become_zero_is_kept),
        TEST(cuda_slots_do_work_in_their_stream),
        TEST(cuda_slots_are_replayed),
        TEST(cuda_slots_are_emptied_in_place),
        TEST(cuda_shares_its_own_blocks),
        TEST(cuda_exports_dma_bufs),
        TEST(cuda_admits_adapters),
        TEST(cuda_copies_for_transports),
        /* from here on in the first process only: PARENT_ONLY */
        TEST(cuda_meets_other_drivers_and_settings),
        TEST(cuda_works_with_host_functions),
        TEST(cuda_works_with_delays),
        TEST(cuda_works_without_host_pointers),
    };
    const char *mode = argc > 1 && strncmp(argv[1], "--", 2) == 0 ? argv[1] : "";
    int status;
    if (run_mode(mode, &status))
        return status;
    size_t count = sizeof tests / sizeof *tests;
    if (strcmp(mode, "--host") == 0)
        setenv("TUTTI_CUDA_STREAM_OPS", "host", 1);
    if (strcmp(mode, "--delays") == 0)
        set_delays();
    if (strcmp(mode, "--own-addresses") == 0)
        setenv("TUTTI_TEST_STANDIN_HOST_POINTERS", "0", 1);
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK) {
        printf("suite cuda: 0 passed, 0 failed, 1 skipped\n");
        return 0;
    }
    if (strcmp(mode, "--peer") == 0)
        return peer_main();
    if (mode[0] != '\0')
        return suite_run(mode + 2, tests, count - PARENT_ONLY, 1, argv);
    return suite_run("cuda", tests, count, argc, argv);
}
