/* cuda_standin_kernel.c: the library's kernels by name, run as they are written (cuda_kernels.h) on
 * the addresses at which the stand-in's threads reach what they name.
 *
 * A launch has at most BLOCKS_MAX blocks, of one thread, played one after the other: attempts at a
 * piece of work, in channels of their own, come between two blocks of another and beside them. */
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_standin.h"

#define BLOCKS_MAX 2

/* A kernel as loaded in a context, which alone may launch it. */
struct function {
    const struct standin_context *context;
    const struct cuda_kernel *kernel;
    struct function *next;
};

static struct function *functions; /* all, for the leak checker: they are never freed */

cuda_result cuModuleLoadData(cuda_module *module, const void *image)
{
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result == CUDA_DRIVER_OK && !standin_settings()->kernels)
        result = 200; /* no valid image */
    *module = (void *)cuda_kernels;
    return result;
}

static void do_nothing(struct cuda_work work)
{
}

/* The tests' own, without parameters. */
static const struct cuda_kernel nothing = {
    .name = "nothing", .run = do_nothing, .kind = KERNEL_COPY, .dtype = TUTTI_UINT8};

cuda_result cuModuleGetFunction(cuda_function *function, cuda_module module, const char *name)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
    const struct cuda_kernel *kernel =
        strcmp(name, nothing.name) == 0 ? &nothing : cuda_kernel_find(name);
    struct function *made = kernel ? malloc(sizeof *made) : NULL;
    if (!made)
        return kernel ? CUDA_DRIVER_OUT_OF_MEMORY : CUDA_DRIVER_NOT_FOUND;
    pthread_mutex_lock(&standin_lock);
    *made = (struct function){.context = context, .kernel = kernel, .next = functions};
    functions = made;
    pthread_mutex_unlock(&standin_lock);
    *function = made;
    return CUDA_DRIVER_OK;
}

cuda_result cuFuncGetAttribute(int *value, int attribute, cuda_function function)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
    *value = 1;
    return CUDA_DRIVER_OK;
}

cuda_result cuFuncLoad(cuda_function function)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
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
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || block_x == 0 || block_x > CUDA_THREADS)
        return CUDA_DRIVER_INVALID_VALUE;
    struct standin_op op = {.kind = OP_KERNEL,
                            .kernel = ((const struct function *)function)->kernel,
                            .blocks = grid_x < BLOCKS_MAX ? grid_x : BLOCKS_MAX};
    if (parameters)
        memcpy(&op.work, parameters[0], sizeof op.work);
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK && context != ((const struct function *)function)->context)
        result = CUDA_DRIVER_INVALID_HANDLE;
    if (result == CUDA_DRIVER_OK && !atomic_exchange(&context->launched, true))
        result = standin_block(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    atomic_fetch_add(&launches, 1);
    return standin_issue(stream, &op, standin_settings()->launch_blocking);
}

/* Replaces what a kernel was given by where it is; false unless kernels reach it. */
static bool reach(const struct standin_op *op, void **pointer, size_t bytes)
{
    cuda_address address = cuda_address_of_host(*pointer);
    if (bytes > 0)
        *pointer =
            standin_kernels_reach(op->context, address) ? standin_alias(address, bytes) : NULL;
    return bytes == 0 || *pointer;
}

/* The same for all that a piece of work names. */
static bool reach_all(const struct standin_op *op, struct cuda_slot *what)
{
    size_t bytes = what->count * dtype_size(op->kernel->dtype);
    void *a = (void *)what->a, *b = (void *)what->b;
    bool good = reach(op, &what->dst, bytes) && reach(op, &a, bytes);
    if (op->kernel->kind == KERNEL_REDUCE && b)
        good = reach(op, &b, bytes) && good;
    what->a = a;
    what->b = b;
    return good;
}

/* A launch that may not touch what it names does nothing if it comes too late. Whether it does, its
 * own claim tells, over no elements. */
static bool comes_too_late(const struct standin_op *op, struct cuda_work work)
{
    uint32_t done = work.ticket + 1;
    work.count = 0;
    work.done = &done;
    cuda_kernel_play_block(op->kernel, &work, 0, 1);
    return work.claim && done != work.ticket;
}

void standin_play_kernel(const struct standin_op *op)
{
    struct cuda_work work = op->work;
    struct cuda_slot what = {work.dst, work.a, work.b, work.count};
    void *claim = work.claim, *slot = (void *)work.slot;
    bool good = reach(op, &claim, claim ? sizeof *work.claim : 0) &&
                reach(op, &slot, slot ? sizeof what : 0);
    if (good && slot)
        what = *(const struct cuda_slot *)slot;
    good = good && reach_all(op, &what);
    work.claim = claim;
    if (slot) {
        work.slot = &what;
    } else {
        work.dst = what.dst;
        work.a = what.a;
        work.b = what.b;
    }
    if (good) {
        for (unsigned i = 0; i < op->blocks; i++) {
            if (i > 0)
                standin_pause_for(what.count * dtype_size(op->kernel->dtype));
            cuda_kernel_play_block(op->kernel, &work, i, op->blocks);
        }
    } else if (slot || !comes_too_late(op, work)) {
        atomic_store(&op->context->error, CUDA_DRIVER_ILLEGAL_ADDRESS);
    }
}
