/* nccl_driver.c: the device and the context of the calling thread, if the program has loaded the
 * driver: a communicator is bound to the device current when it is made, and the threads that make
 * several at once must stand in their callers' contexts. The driver is neither linked nor loaded
 * here: a program that has not loaded it has no context either. Its functions are declared by hand,
 * since they are few and never change. */
#include <dlfcn.h>
#include <string.h>

#include "nccl_face.h"

/* One function of the driver, NULL without it. The library stays loaded: the program holds it. */
static void *driver(const char *name)
{
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        return NULL;
    void *function = dlsym(library, name);
    dlclose(library);
    return function;
}

/* ISO C knows no conversion from an object's pointer to a function's. */
#define DRIVER(pointer, name)                                                                      \
    do {                                                                                           \
        void *found_ = driver(name);                                                               \
        memcpy(&(pointer), &found_, sizeof found_);                                                \
    } while (0)

int face_device_current(void)
{
    int (*get)(int *device), device = 0;
    DRIVER(get, "cuCtxGetDevice");
    return get && get(&device) == 0 ? device : 0;
}

int face_device_count(void)
{
    int (*get)(int *count), count = 0;
    DRIVER(get, "cuDeviceGetCount");
    return get && get(&count) == 0 ? count : -1;
}

void *face_context_current(void)
{
    int (*get)(void **context);
    void *context = NULL;
    DRIVER(get, "cuCtxGetCurrent");
    return get && get(&context) == 0 ? context : NULL;
}

void *face_context_shared(void)
{
    int (*get)(void *stream, void **context, void **green);
    void *context = NULL, *green = NULL;
    DRIVER(get, "cuStreamGetCtx_v2");
    return get && get(NULL, &context, &green) == 0 && green ? context : face_context_current();
}

/* Kept until the process ends, as the runtime keeps it. */
void *face_context_of(int device)
{
    int (*retain)(void **context, int device);
    void *context = NULL;
    DRIVER(retain, "cuDevicePrimaryCtxRetain");
    return retain && retain(&context, device) == 0 ? context : NULL;
}

int face_event_record(void *event, void *stream)
{
    int (*record)(void *event, void *stream);
    DRIVER(record, "cuEventRecord");
    return record ? record(event, stream) : -1;
}

void face_context_set(void *context)
{
    int (*set)(void *context);
    DRIVER(set, "cuCtxSetCurrent");
    if (set)
        set(context);
}
