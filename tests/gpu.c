/* gpu.c: see gpu.h. */
#include "tests/gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef STANDIN_FILE
#error "the build says where the stand-in is"
#endif

static const char *driver_file(void)
{
    const char *other = getenv("TUTTI_TEST_CUDA_DRIVER");
    return other ? other : STANDIN_FILE;
}

void gpu_name_driver(void)
{
    setenv("TUTTI_CUDA_DRIVER", driver_file(), 1);
}

static const struct gpu *unusable(const char *reason)
{
    printf("    SKIPPED: %s: %s\n", driver_file(), reason);
    return NULL;
}

const struct gpu *gpu_open(void)
{
    static struct gpu gpu;
    gpu_name_driver();
    void *library = dlopen(driver_file(), RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return unusable(dlerror());
#define X(member, symbol, parameters, need) *(void **)&gpu.member = dlsym(library, #symbol);
    CUDA_FUNCTIONS(X)
#undef X
#define X(member, symbol, parameters)                                                              \
    *(void **)&gpu.member = dlsym(library, #symbol);                                               \
    if (!gpu.member)                                                                               \
        return unusable("has no " #symbol);
    GPU_FUNCTIONS(X)
#undef X
#define X(member, symbol, parameters) *(void **)&gpu.member = dlsym(library, #symbol);
    GPU_RARE_FUNCTIONS(X)
    STANDIN_CONTROLS(X)
#undef X
    gpu.standin = gpu.fail_context != NULL;
    int device;
    cuda_context context;
    if (gpu.init(0) != CUDA_DRIVER_OK || gpu.device_get(&device, 0) != CUDA_DRIVER_OK ||
        gpu.primary_retain(&context, device) != CUDA_DRIVER_OK ||
        gpu.context_set(context) != CUDA_DRIVER_OK)
        return unusable("there is no GPU");
    return &gpu;
}
