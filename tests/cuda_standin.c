/* cuda_standin.c: the stand-in's settings, devices and contexts, and calls that hold up others. */
#include "tests/cuda_standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STACK_MAX 32

struct standin_context *standin_contexts;

static struct standin_settings settings;
static struct standin_context *primaries[DEVICES_MAX];
static atomic_uint blocking_calls;
static atomic_int blocking; /* such calls under way */
static _Atomic bool initialised;
static _Thread_local struct standin_context *stack[STACK_MAX];
static _Thread_local unsigned depth;
/* ---- settings and errors -------------------------------------------------------------------- */

static uint64_t number(const char *text, uint64_t otherwise)
{
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void load_settings(void)
{
    settings.channels = number(getenv("TUTTI_TEST_STANDIN_CHANNELS"), 8);
    settings.seed = number(getenv("TUTTI_TEST_STANDIN_SEED"), 1);
    settings.delay_us = number(getenv("TUTTI_TEST_STANDIN_DELAY_US"), 0);
    settings.issue_us = number(getenv("TUTTI_TEST_STANDIN_ISSUE_US"), 0);
    settings.room = number(getenv("TUTTI_TEST_STANDIN_ROOM"), 1024);
    settings.devices = number(getenv("TUTTI_TEST_STANDIN_DEVICES"), 1);
    settings.copy_mbps = number(getenv("TUTTI_TEST_STANDIN_COPY_MBPS"), 0);
    settings.peers = number(getenv("TUTTI_TEST_STANDIN_PEERS"), 8);
    settings.links = number(getenv("TUTTI_TEST_STANDIN_LINKS"), 1) != 0;
    settings.bytes = number(getenv("TUTTI_TEST_STANDIN_BYTES"), (uint64_t)16 << 30);
    settings.kernels = number(getenv("TUTTI_TEST_STANDIN_KERNELS"), 1) != 0;
    settings.memory_ops = number(getenv("TUTTI_TEST_STANDIN_MEMORY_OPS"), 1) != 0;
    settings.nic = number(getenv("TUTTI_TEST_STANDIN_NIC"), 0) != 0;
    settings.dmabuf = number(getenv("TUTTI_TEST_STANDIN_DMABUF"), 1) != 0;
    settings.flush = number(getenv("TUTTI_TEST_STANDIN_FLUSH"), 0) != 0;
    settings.host_pointers = number(getenv("TUTTI_TEST_STANDIN_HOST_POINTERS"), 1) != 0;
    settings.ipc = number(getenv("TUTTI_TEST_STANDIN_IPC"), 1);
    settings.stub = number(getenv("TUTTI_TEST_STANDIN_STUB"), 0) != 0;
    settings.launch_blocking = number(getenv("TUTTI_TEST_STANDIN_BLOCKING"), 0) != 0;
    if (settings.channels < 1 || settings.channels > CHANNELS_MAX)
        settings.channels = CHANNELS_MAX;
    if (settings.devices > DEVICES_MAX)
        settings.devices = DEVICES_MAX;
}

const struct standin_settings *standin_settings(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_settings);
    return &settings;
}

cuda_result cuInit(unsigned flags)
{
    if (standin_settings()->stub)
        return CUDA_STUB;
    if (standin_settings()->devices == 0)
        return CUDA_DRIVER_NO_DEVICE;
    atomic_store(&initialised, true);
    return CUDA_DRIVER_OK;
}

static const char *name_of(cuda_result result)
{
    switch (result) {
#define X(name, value, toolkit)                                                                    \
    case value:                                                                                    \
        return #toolkit;
        X(OK, 0, CUDA_SUCCESS)
        X(INVALID_VALUE, 1, CUDA_ERROR_INVALID_VALUE)
        X(OUT_OF_MEMORY, 2, CUDA_ERROR_OUT_OF_MEMORY)
        X(NOT_INITIALIZED, 3, CUDA_ERROR_NOT_INITIALIZED)
        X(STUB, CUDA_STUB, CUDA_ERROR_STUB_LIBRARY)
        X(NO_DEVICE, 100, CUDA_ERROR_NO_DEVICE)
        X(INVALID_DEVICE, 101, CUDA_ERROR_INVALID_DEVICE)
        X(INVALID_IMAGE, 200, CUDA_ERROR_INVALID_IMAGE)
        X(INVALID_CONTEXT, 201, CUDA_ERROR_INVALID_CONTEXT)
        X(MAPPED, CUDA_MAPPED, CUDA_ERROR_ALREADY_MAPPED)
        X(NO_PEER, 217, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)
        X(INVALID_HANDLE, 400, CUDA_ERROR_INVALID_HANDLE)
        X(ILLEGAL, CUDA_ILLEGAL, CUDA_ERROR_ILLEGAL_STATE)
        X(NOT_FOUND, 500, CUDA_ERROR_NOT_FOUND)
        X(NOT_READY, 600, CUDA_ERROR_NOT_READY)
        X(ILLEGAL_ADDRESS, 700, CUDA_ERROR_ILLEGAL_ADDRESS)
        X(PEER_OPEN, 704, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
        X(DESTROYED, CUDA_DESTROYED, CUDA_ERROR_CONTEXT_IS_DESTROYED)
        X(TOO_MANY_PEERS, 711, CUDA_ERROR_TOO_MANY_PEERS)
        X(NOT_SUPPORTED, 801, CUDA_ERROR_NOT_SUPPORTED)
        X(CAPTURE_UNSUPPORTED, 900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        X(CAPTURE_INVALIDATED, 901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        X(CAPTURE_IMPLICIT, 906, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
        X(CAPTURED, CUDA_CAPTURED_EVENT, CUDA_ERROR_CAPTURED_EVENT)
#undef X
    default:
        return NULL;
    }
}

cuda_result cuGetErrorName(cuda_result error, const char **text)
{
    *text = name_of(error);
    return *text ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuGetErrorString(cuda_result error, const char **text)
{
    *text = name_of(error) ? "the stand-in says so" : NULL;
    return *text ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuDriverGetVersion(int *version)
{
    *version = 13000;
    return CUDA_DRIVER_OK;
}

/* ---- devices and contexts ------------------------------------------------------------------- */

cuda_result cuDeviceGetCount(int *count)
{
    *count = (int)standin_settings()->devices;
    return standin_is_initialised();
}

static bool is_device(int device)
{
    return device >= 0 && (uint64_t)device < standin_settings()->devices;
}

cuda_result cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    cuda_result ready = standin_is_initialised();
    if (ready != CUDA_DRIVER_OK)
        return ready;
    return is_device(ordinal) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

cuda_result cuDeviceGetName(char *name, int max, int device)
{
    snprintf(name, (size_t)max, "stand-in for tests");
    return is_device(device) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

cuda_result cuDeviceGetUuid_v2(struct cuda_uuid *uuid, int device)
{
    memcpy(uuid->bytes, "stand-in device", 16);
    uuid->bytes[15] = (uint8_t)device;
    return is_device(device) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

cuda_result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    switch (attribute) {
    case CUDA_DEVICE_MULTIPROCESSORS:
        *value = 4;
        break;
    case CUDA_DEVICE_RDMA:
        *value = 1;
        break;
    case CUDA_DEVICE_HOST_POINTERS:
        *value = standin_settings()->host_pointers;
        break;
    case CUDA_DEVICE_DMABUF:
        *value = standin_settings()->dmabuf;
        break;
    case CUDA_DEVICE_ORDERING:
        *value = standin_settings()->flush ? 0 : CUDA_ORDERING_OWNER;
        break;
    case CUDA_DEVICE_FLUSH:
        *value = CUDA_FLUSH_BY_HOST;
        break;
    default:
        *value = 0;
    }
    return is_device(device) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

cuda_result cuDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer; /* as the real one, which says no about a device and itself */
    return is_device(device) && is_device(peer) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

/* Waits as freeing does. */
cuda_result cuCtxEnablePeerAccess(cuda_context other, unsigned flags)
{
    const struct standin_context *peer = other;
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    uint64_t bit = UINT64_C(1) << peer->number % 64;
    pthread_mutex_lock(&standin_lock);
    if (flags != 0)
        result = CUDA_DRIVER_INVALID_VALUE;
    else if (peer == context)
        result = CUDA_DRIVER_INVALID_CONTEXT;
    else if (peer->ordinal == context->ordinal)
        result = CUDA_DRIVER_NO_PEER; /* what cuDeviceCanAccessPeer denies */
    else if (context->opened & bit)
        result = CUDA_DRIVER_PEER_OPEN;
    else if ((uint64_t)__builtin_popcountll(context->opened) >= standin_settings()->peers)
        result = CUDA_DRIVER_TOO_MANY_PEERS;
    else
        context->opened |= bit;
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuDeviceGetP2PAttribute(int *value, int attribute, int device, int peer)
{
    *value = attribute == CUDA_PEER_ATOMICS && device != peer && standin_settings()->links;
    return is_device(device) && is_device(peer) ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_DEVICE;
}

/* With the lock. */
static cuda_result make_context(int ordinal, struct standin_context **made)
{
    struct standin_context *context = calloc(1, sizeof *context);
    cuda_result result = context ? standin_make_arena(ordinal) : CUDA_DRIVER_OUT_OF_MEMORY;
    if (result == CUDA_DRIVER_OK) {
        static unsigned made_before;
        context->number = made_before++;
        context->ordinal = ordinal;
        context->retained = 1;
        result = standin_make_streams(context);
    }
    if (result != CUDA_DRIVER_OK) {
        free(context);
        return result;
    }
    context->next = standin_contexts;
    standin_contexts = context;
    *made = context;
    return result;
}

cuda_result cuDevicePrimaryCtxRetain(cuda_context *context, int ordinal)
{
    cuda_result ready = standin_is_initialised();
    if (ready != CUDA_DRIVER_OK)
        return ready;
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    cuda_result result = CUDA_DRIVER_OK;
    pthread_mutex_lock(&standin_lock);
    struct standin_context *primary = primaries[ordinal];
    if (!primary)
        result = make_context(ordinal, &primary);
    else
        primary->retained++;
    if (result == CUDA_DRIVER_OK) {
        primaries[ordinal] = primary;
        *context = primary;
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuDevicePrimaryCtxRelease_v2(int ordinal)
{
    cuda_result result = CUDA_DRIVER_OK;
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    pthread_mutex_lock(&standin_lock);
    struct standin_context *primary = primaries[ordinal];
    if (!primary) {
        result = CUDA_DRIVER_INVALID_CONTEXT;
    } else if (--primary->retained == 0) {
        atomic_store(&primary->error, CUDA_DESTROYED);
        primaries[ordinal] = NULL;
        pthread_cond_broadcast(&standin_done);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuDevicePrimaryCtxGetState(int ordinal, unsigned *flags, int *active)
{
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    pthread_mutex_lock(&standin_lock);
    *flags = 0;
    *active = primaries[ordinal] && primaries[ordinal]->retained > 0;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result cuCtxCreate_v2(cuda_context *context, unsigned flags, int ordinal)
{
    struct standin_context *made;
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    pthread_mutex_lock(&standin_lock);
    cuda_result result = make_context(ordinal, &made);
    pthread_mutex_unlock(&standin_lock);
    if (result == CUDA_DRIVER_OK)
        result = cuCtxPushCurrent_v2(made);
    if (result == CUDA_DRIVER_OK)
        *context = made;
    return result;
}

cuda_result cuCtxPushCurrent_v2(cuda_context context)
{
    if (!context || depth == STACK_MAX || !standin_take_green(context))
        return CUDA_DRIVER_INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_DRIVER_OK;
}

cuda_result cuCtxPopCurrent_v2(cuda_context *context)
{
    if (depth == 0)
        return CUDA_DRIVER_INVALID_CONTEXT;
    standin_leave_green(stack[--depth]);
    *context = stack[depth];
    return CUDA_DRIVER_OK;
}

cuda_result cuCtxSetCurrent(cuda_context context)
{
    cuda_context before;
    (void)cuCtxPopCurrent_v2(&before);
    return context ? cuCtxPushCurrent_v2(context) : CUDA_DRIVER_OK;
}

cuda_result cuCtxGetCurrent(cuda_context *context)
{
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return standin_is_initialised();
}

cuda_result standin_is_initialised(void)
{
    if (standin_settings()->stub)
        return CUDA_STUB;
    return atomic_load(&initialised) ? CUDA_DRIVER_OK : CUDA_DRIVER_NOT_INITIALIZED;
}

cuda_result standin_enter(struct standin_context **context)
{
    cuda_result ready = standin_is_initialised();
    if (ready != CUDA_DRIVER_OK)
        return ready;
    if (depth == 0)
        return CUDA_DRIVER_INVALID_CONTEXT;
    struct standin_context *current = stack[depth - 1];
    *context = current->whole ? current->whole : current;
    return atomic_load(&(*context)->error);
}

struct standin_context *standin_current_green(void)
{
    return depth > 0 && stack[depth - 1]->whole ? stack[depth - 1] : NULL;
}

cuda_result cuCtxGetDevice(int *device)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        *device = context->ordinal;
    return result;
}

cuda_result cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
    *least = 0;
    *greatest = -5;
    return CUDA_DRIVER_OK;
}

cuda_result standin_fail_context(cuda_context context)
{
    atomic_store(&((struct standin_context *)context)->error, CUDA_DRIVER_ILLEGAL_ADDRESS);
    pthread_mutex_lock(&standin_lock);
    pthread_cond_broadcast(&standin_done);
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result standin_count_blocking(unsigned *count)
{
    *count = atomic_load(&blocking_calls);
    return CUDA_DRIVER_OK;
}

/* ---- calls that hold up others --------------------------------------------------------------- */

cuda_result standin_block(struct standin_context **context)
{
    cuda_result result = standin_enter(context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    atomic_fetch_add(&blocking_calls, 1);
    standin_hold(1);
    standin_drain(*context);
    pthread_mutex_lock(&standin_lock);
    standin_hold(-1);
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

void standin_hold(int more)
{
    atomic_fetch_add(&blocking, more);
    if (more < 0)
        pthread_cond_broadcast(&standin_done);
}

void standin_wait_for_blocking(const struct standin_context *context)
{
    if (atomic_load(&blocking) == 0)
        return;
    pthread_mutex_lock(&standin_lock);
    while (atomic_load(&blocking) > 0 && atomic_load(&context->error) == CUDA_DRIVER_OK)
        pthread_cond_wait(&standin_done, &standin_lock);
    pthread_mutex_unlock(&standin_lock);
}
