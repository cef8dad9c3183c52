/* one_gpu.c: lets NVIDIA's nccl-tests, which give every rank a GPU of its own, run several ranks as
 * threads on the first GPU. Preloaded before libcudart.so.
 *
 * Every device that the program names is the first one. Ranks then share one context, which the
 * program does not expect: it waits for the whole device after it has filled a rank's buffers, and
 * that would be waiting for the other rank's stream too, which may already wait for this rank. What
 * it means to wait for is in the legacy default stream, and nothing else is: its own streams do not
 * synchronise with that one. (Processes would need no such help, but a build with MPI.)
 *
 * Declared by hand, so that no toolkit is needed to build; result 0 is cudaSuccess. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES 64 /* as many as the program is told that there are */
#define VISIBLE __attribute__((visibility("default")))

VISIBLE int cudaGetDeviceCount(int *count);
VISIBLE int cudaSetDevice(int device);
VISIBLE int cudaGetDeviceProperties(void *properties, int device);
VISIBLE int cudaGetDeviceProperties_v2(void *properties, int device); /* its name in CUDA 12 */
VISIBLE int cudaDeviceGetAttribute(int *value, int attribute, int device);
VISIBLE int cudaDeviceGetPCIBusId(char *text, int len, int device);
VISIBLE int cudaDeviceSynchronize(void);

/* The runtime's own function of that name. */
static void *next_of(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        fprintf(stderr, "one_gpu: the program's CUDA runtime has no %s\n", name);
        abort();
    }
    return found;
}

/* ISO C knows no conversion from an object's pointer to a function's. */
#define NEXT(pointer, name)                                                                        \
    do {                                                                                           \
        void *found_ = next_of(name);                                                              \
        memcpy(&(pointer), &found_, sizeof found_);                                                \
    } while (0)

int cudaGetDeviceCount(int *count)
{
    int (*next)(int *count);
    NEXT(next, "cudaGetDeviceCount");
    int result = next(count);
    if (result == 0 && *count > 0)
        *count = DEVICES;
    return result;
}

int cudaSetDevice(int device)
{
    int (*next)(int device);
    NEXT(next, "cudaSetDevice");
    return next(device < DEVICES ? 0 : device);
}

int cudaGetDeviceProperties(void *properties, int device)
{
    int (*next)(void *properties, int device);
    NEXT(next, "cudaGetDeviceProperties");
    return next(properties, device < DEVICES ? 0 : device);
}

int cudaGetDeviceProperties_v2(void *properties, int device)
{
    int (*next)(void *properties, int device);
    NEXT(next, "cudaGetDeviceProperties_v2");
    return next(properties, device < DEVICES ? 0 : device);
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    int (*next)(int *value, int attribute, int device);
    NEXT(next, "cudaDeviceGetAttribute");
    return next(value, attribute, device < DEVICES ? 0 : device);
}

int cudaDeviceGetPCIBusId(char *text, int len, int device)
{
    int (*next)(char *text, int len, int device);
    NEXT(next, "cudaDeviceGetPCIBusId");
    return next(text, len, device < DEVICES ? 0 : device);
}

int cudaDeviceSynchronize(void)
{
    int (*next)(void *stream);
    NEXT(next, "cudaStreamSynchronize");
    return next(NULL);
}
