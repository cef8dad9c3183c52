/* cuda_standin_kernel.c: the library's kernels by name, and an empty one, played by the CPU's. Of
 * their claims a launch that comes too late does nothing, whatever it would have reached. */
#include <string.h>

#include "mem/reduce.h"
#include "tests/cuda_standin.h"

struct standin_kernel {
    const char *name;
    enum { REDUCE, SCALE, DIVIDE, DUPLICATE, NOTHING } what;
    tutti_op op;
    tutti_dtype dtype;
    size_t size;
};

static const struct standin_kernel kernels[] = {
    {CUDA_KERNEL_PREFIX "copy_uint8", DUPLICATE, TUTTI_SUM, TUTTI_UINT8, 1},
    {"nothing", NOTHING, TUTTI_SUM, TUTTI_UINT8, 1}, /* the tests' own */
#define SCALED(NAME, name, bytes)                                                                  \
    {CUDA_KERNEL_PREFIX "scale_" #name, SCALE, TUTTI_PROD, TUTTI_##NAME, bytes},                   \
        {CUDA_KERNEL_PREFIX "divide_" #name, DIVIDE, TUTTI_AVG, TUTTI_##NAME, bytes},
#define REDUCED(op, OP, NAME, name, bytes)                                                         \
    {CUDA_KERNEL_PREFIX #op "_" #name, REDUCE, TUTTI_##OP, TUTTI_##NAME, bytes},
#define X(NAME, name, bytes, class)                                                                \
    SCALED(NAME, name, bytes)                                                                      \
    REDUCED(sum, SUM, NAME, name, bytes)                                                           \
    REDUCED(prod, PROD, NAME, name, bytes)                                                         \
    REDUCED(min, MIN, NAME, name, bytes)                                                           \
    REDUCED(max, MAX, NAME, name, bytes)                                                           \
    REDUCED(band, BAND, NAME, name, bytes)                                                         \
    REDUCED(bor, BOR, NAME, name, bytes) REDUCED(bxor, BXOR, NAME, name, bytes)
    TUTTI_DTYPE_LIST(X)
#undef X
};

cuda_result cuModuleLoadData(cuda_module *module, const void *image)
{
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result == CUDA_DRIVER_OK && !standin_settings()->kernels)
        result = 200; /* no valid image */
    *module = (void *)kernels;
    return result;
}

cuda_result cuModuleGetFunction(cuda_function *function, cuda_module module, const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (strcmp(kernels[i].name, name) == 0) {
            *function = (void *)&kernels[i];
            return CUDA_DRIVER_OK;
        }
    }
    return CUDA_DRIVER_NOT_FOUND;
}

cuda_result cuFuncGetAttribute(int *value, int attribute, cuda_function function)
{
    *value = 1;
    return CUDA_DRIVER_OK;
}

cuda_result cuFuncLoad(cuda_function function)
{
    return CUDA_DRIVER_OK;
}

static _Atomic unsigned launches;

cuda_result standin_count_launches(unsigned *count)
{
    *count = atomic_load(&launches);
    return CUDA_DRIVER_OK;
}

cuda_result cuLaunchKernel(cuda_function function, unsigned grid_x, unsigned grid_y,
                           unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                           unsigned shared_bytes, cuda_stream stream, void **parameters,
                           void **extra)
{
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || block_x == 0 || block_x > 1024)
        return CUDA_DRIVER_INVALID_VALUE;
    struct standin_op op = {.kind = OP_KERNEL, .kernel = function};
    if (((const struct standin_kernel *)function)->what != NOTHING)
        memcpy(&op.work, parameters[0], sizeof op.work);
    atomic_fetch_add(&launches, 1);
    return standin_issue(stream, &op, false);
}

/* What a kernel reaches must be device memory or pinned. */
static void *kernel_alias(const void *pointer, size_t bytes)
{
    cuda_address address = cuda_address_of_host(pointer);
    return bytes == 0                     ? (void *)pointer
           : standin_is_pageable(address) ? NULL
                                          : standin_alias(address, bytes);
}

/* As the kernels' begin and end. */
static bool begin(const struct cuda_work *work)
{
    if (!work->claim || work->attempt == 0)
        return true;
    struct cuda_claim *claim = standin_alias(cuda_address_of_host(work->claim), sizeof *claim);
    uint64_t seen = __atomic_load_n(&claim->attempt, __ATOMIC_SEQ_CST);
    while (seen < work->first) {
        if (!__atomic_compare_exchange_n(&claim->attempt, &seen, work->attempt, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        __atomic_store_n(work->begun, (uint32_t)work->attempt, __ATOMIC_RELEASE);
        return true;
    }
    return false;
}

static void end(const struct cuda_work *work)
{
    if (work->claim)
        __atomic_store_n(work->done, work->ticket, __ATOMIC_RELEASE);
}

void standin_play_kernel(const struct standin_op *op)
{
    const struct standin_kernel *kernel = op->kernel;
    struct cuda_work work = op->work;
    if (kernel->what == NOTHING)
        return;
    if (work.slot) {
        const struct cuda_slot *slot = standin_alias(cuda_address_of_host(work.slot), sizeof *slot);
        work.dst = slot->dst;
        work.a = slot->a;
        work.b = slot->b;
        work.count = slot->count;
    }
    size_t bytes = work.count * kernel->size;
    void *dst = kernel_alias(work.dst, bytes);
    const void *a = kernel_alias(work.a, bytes);
    bool copies = kernel->what == DUPLICATE || (kernel->what == REDUCE && !work.b);
    const void *b = kernel->what == REDUCE && !copies ? kernel_alias(work.b, bytes) : a;
    if (!begin(&work))
        return;
    if (bytes > 0 && (!dst || !a || !b)) {
        atomic_store(&op->context->error, CUDA_DRIVER_ILLEGAL_ADDRESS);
        return;
    }
    if (bytes > 0 && copies) {
        memmove(dst, a, bytes);
    } else if (bytes > 0 && kernel->what == REDUCE) {
        struct reducer reducer = {.kernel = reduce_kernel(kernel->op, kernel->dtype),
                                  .dtype = kernel->dtype,
                                  .elem_size = (uint32_t)kernel->size};
        reduce_apply(&reducer, dst, a, b, bytes);
    } else if (kernel->what == SCALE) {
        reduce_scale(kernel->dtype, dst, a, &work.scalar, work.count);
    } else if (kernel->what == DIVIDE) {
        reduce_divide(kernel->dtype, dst, work.ranks, work.count);
    }
    end(&work);
}
