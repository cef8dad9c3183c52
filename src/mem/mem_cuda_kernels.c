/* mem_cuda_kernels.c: finding the kernels (mem_cuda_reduce.cu) and making their code resident, once
 * per device, while no stream waits for the library yet.
 *
 * With CUDA_LAUNCH_BLOCKING=1, for debugging, a launch returns when its kernel has ended. Most of
 * ours are put behind waits, which end by what is done after the launch: so there are none then. */
#include <stdio.h>
#include <stdlib.h>

#include "base/settings.h"
#include "mem/mem_cuda.h"

/* The kernels' image, where the build had a compiler for it. */
#if defined(TUTTI_WITH_NVCC)
extern const unsigned char mem_cuda_image[];
static const void *const image = mem_cuda_image;
#else
static const void *const image = NULL;
#endif

/* Finds a kernel and makes its code resident. */
static cuda_result load_kernel(const struct cuda_driver *driver, cuda_module module,
                               const char *what, tutti_dtype dtype, cuda_function *function)
{
    char name[64];
    int registers;
    snprintf(name, sizeof name, CUDA_KERNEL_PREFIX "%s_%s", what, dtype_name(dtype));
    cuda_result result = driver->module_function(function, module, name);
    if (result != CUDA_DRIVER_OK)
        return result;
    /* Drivers that load code late do so at the first question about it, too. */
    return driver->function_load
               ? driver->function_load(*function)
               : driver->function_attribute(&registers, CUDA_FUNCTION_REGISTERS, *function);
}

static cuda_result load_type(struct mem_device *device, cuda_module module, tutti_dtype dtype)
{
    const struct cuda_driver *driver = device->driver;
    cuda_result result = load_kernel(driver, module, "scale", dtype, &device->scale[dtype]);
    if (result == CUDA_DRIVER_OK)
        result = load_kernel(driver, module, "divide", dtype, &device->divide[dtype]);
    for (int op = 0; op < TUTTI_OP_COUNT && result == CUDA_DRIVER_OK; op++) {
        if (op == TUTTI_AVG || !reduce_kernel((tutti_op)op, dtype))
            continue;
        result =
            load_kernel(driver, module, op_name((tutti_op)op), dtype, &device->kernels[op][dtype]);
    }
    device->kernels[TUTTI_AVG][dtype] = device->kernels[TUTTI_SUM][dtype];
    return result;
}

static bool launches_block(void)
{
    const char *text = settings_launcher_variable("CUDA_LAUNCH_BLOCKING");
    return text && atoi(text) != 0;
}

void mem_cuda_load_kernels(struct mem_device *device)
{
    cuda_module module;
    if (launches_block()) {
        snprintf(device->no_kernels, sizeof device->no_kernels,
                 "no reduction on %s: CUDA_LAUNCH_BLOCKING is set, and a kernel that waits would "
                 "block its launch for ever",
                 device->name);
        return;
    }
    cuda_result result = device->driver->module_load(&module, image);
    if (result == CUDA_DRIVER_OK)
        result = load_kernel(device->driver, module, "copy", TUTTI_UINT8, &device->copy);
    for (int dtype = 0; dtype < TUTTI_DTYPE_COUNT && result == CUDA_DRIVER_OK; dtype++)
        result = load_type(device, module, (tutti_dtype)dtype);
    device->has_kernels = result == CUDA_DRIVER_OK;
    if (device->has_kernels)
        return;
    if (!image)
        (void)fail(TUTTI_ERR_UNSUPPORTED,
                   "no reduction on %s: this build of the library has no GPU kernels (it found no "
                   "nvcc)",
                   device->name);
    else
        (void)mem_cuda_fail(result, "no reduction on %s: load the kernels", device->name);
    snprintf(device->no_kernels, sizeof device->no_kernels, "%s", status_sentence());
}
