/* cuda_standin_green.c: the stand-in's green contexts, and which context a stream is of.
 * A green context's handle is that of the context made of it. They are never freed. */
#include <stdlib.h>

#include "tests/cuda_standin.h"

#define MULTIPROCESSORS 4

static struct standin_context *greens; /* all, for the leak checker */

bool standin_take_green(struct standin_context *green)
{
    if (!green->whole)
        return true;
    pthread_mutex_lock(&standin_lock);
    bool taken = green->held == 0 || pthread_equal(green->holder, pthread_self());
    if (taken) {
        green->holder = pthread_self();
        green->held++;
    }
    pthread_mutex_unlock(&standin_lock);
    return taken;
}

void standin_leave_green(struct standin_context *green)
{
    if (!green->whole)
        return;
    pthread_mutex_lock(&standin_lock);
    green->held--;
    pthread_mutex_unlock(&standin_lock);
}

cuda_result cuDeviceGetDevResource(int device, struct gpu_resource *resource, int type)
{
    if (type != GPU_MULTIPROCESSORS)
        return CUDA_DRIVER_INVALID_VALUE;
    *resource = (struct gpu_resource){.type = type, .multiprocessors = MULTIPROCESSORS};
    return standin_is_initialised();
}

cuda_result cuDevSmResourceSplitByCount(struct gpu_resource *parts, unsigned *count,
                                        const struct gpu_resource *whole, struct gpu_resource *rest,
                                        unsigned flags, unsigned least)
{
    if (*count != 1 || rest || flags != 0 || least > whole->multiprocessors)
        return CUDA_DRIVER_INVALID_VALUE; /* all that the tests need */
    *parts = *whole;
    parts->multiprocessors = least;
    return CUDA_DRIVER_OK;
}

cuda_result cuDevResourceGenerateDesc(void **name, struct gpu_resource *resources, unsigned count)
{
    *name = resources;
    return count == 1 ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuGreenCtxCreate(void **made, void *name, int device, unsigned flags)
{
    cuda_context primary = NULL;
    struct standin_context *green = calloc(1, sizeof *green);
    cuda_result result = green && name && flags == GPU_GREEN_DEFAULT_STREAM
                             ? cuDevicePrimaryCtxRetain(&primary, device)
                             : CUDA_DRIVER_INVALID_VALUE;
    if (result != CUDA_DRIVER_OK) {
        free(green);
        return result;
    }
    pthread_mutex_lock(&standin_lock);
    *green = (struct standin_context){.whole = primary, .ordinal = device, .next = greens};
    green->legacy = standin_make_stream(green, CUDA_STREAM_NON_BLOCKING);
    greens = green;
    pthread_mutex_unlock(&standin_lock);
    *made = green;
    return green->legacy ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

cuda_result cuCtxFromGreenCtx(cuda_context *context, void *green)
{
    *context = green;
    return CUDA_DRIVER_OK;
}

cuda_result cuGreenCtxStreamCreate(cuda_stream *stream, void *green, unsigned flags, int priority)
{
    if (flags != CUDA_STREAM_NON_BLOCKING)
        return CUDA_DRIVER_INVALID_VALUE;
    pthread_mutex_lock(&standin_lock);
    *stream = standin_make_stream(green, flags);
    pthread_mutex_unlock(&standin_lock);
    return *stream ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

/* Of a default stream they are the current ones; others know theirs. */
cuda_result cuStreamGetCtx_v2(cuda_stream handle, cuda_context *context, void **green)
{
    if ((uintptr_t)handle <= 2) {
        struct standin_context *current;
        cuda_result result = standin_enter(&current);
        *green = standin_current_green();
        *context = current;
        return *green && handle == (void *)2 ? CUDA_DRIVER_INVALID_HANDLE : result;
    }
    cuda_result result = CUDA_DRIVER_INVALID_HANDLE;
    pthread_mutex_lock(&standin_lock);
    for (struct standin_context *c = standin_contexts; c; c = c->next) {
        struct standin_stream *found;
        if (standin_find_stream(c, handle, &found) == CUDA_DRIVER_OK) {
            *context = c;
            *green = found->green;
            result = found->broken ? CUDA_DRIVER_CAPTURE_INVALIDATED : CUDA_DRIVER_OK;
        }
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuStreamGetCtx(cuda_stream handle, cuda_context *context)
{
    void *green = NULL;
    cuda_result result = cuStreamGetCtx_v2((uintptr_t)handle <= 2 ? NULL : handle, context, &green);
    if (result == CUDA_DRIVER_OK && green)
        *context = green;
    return result;
}
