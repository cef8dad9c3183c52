/* cuda_standin.c: the stand-in's devices, contexts, memory and processes.
 *
 * The memory of a device is one sparse memory file, the arena. It is mapped twice, once without
 * access: those are the device addresses. An allocation is a piece of it, at multiples of 512 bytes
 * and with a gap after it, so that work beyond an allocation is caught. */
#include "tests/cuda_standin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEVICES_MAX 8
#define GRAIN       512
#define DEVICE_PAGE ((size_t)2 << 20)
#define DIRTY_MAX   ((size_t)64 << 10) /* so much of new memory is given a pattern */
#define STACK_MAX   32

/* A piece of memory that the driver knows. */
struct memory {
    cuda_address base;
    size_t bytes;
    char *alias; /* where the stand-in's threads reach it */
    uint64_t id;
    int ordinal;
    enum { DEVICE, POOL, IMPORTED, REGISTERED, PINNED } kind;
    struct standin_context *context;
    uint64_t key;        /* IMPORTED: of the owner's */
    unsigned opened;     /* IMPORTED: times */
    size_t mapped, lead; /* IMPORTED: bytes mapped, and those before the alias */
    struct memory *next;
};

struct device {
    int fd;
    cuda_address base;
    char *alias;
    struct standin_context *primary;
};

/* What an IPC handle says. */
struct handle {
    uint64_t magic, key, offset, bytes;
    int32_t process, fd, ordinal;
};

#define HANDLE_MAGIC 0x7374616e642d696eu

struct standin_context *standin_contexts;

static struct standin_settings settings;
static struct device devices[DEVICES_MAX];
static struct memory *memories;
static uint64_t ids;
static atomic_uint blocking_calls, flushes;
static atomic_int blocking; /* such calls under way */
static _Atomic bool initialised;
static _Thread_local struct standin_context *stack[STACK_MAX];
static _Thread_local unsigned depth;
static _Thread_local struct view {
    void *base;
    size_t bytes;
} opened; /* to adapters, by this thread */

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
    settings.room = number(getenv("TUTTI_TEST_STANDIN_ROOM"), 1024);
    settings.devices = number(getenv("TUTTI_TEST_STANDIN_DEVICES"), 1);
    settings.bytes = number(getenv("TUTTI_TEST_STANDIN_BYTES"), (uint64_t)16 << 30);
    settings.kernels = number(getenv("TUTTI_TEST_STANDIN_KERNELS"), 1) != 0;
    settings.memory_ops = number(getenv("TUTTI_TEST_STANDIN_MEMORY_OPS"), 1) != 0;
    settings.nic = number(getenv("TUTTI_TEST_STANDIN_NIC"), 0) != 0;
    settings.dmabuf = number(getenv("TUTTI_TEST_STANDIN_DMABUF"), 1) != 0;
    settings.flush = number(getenv("TUTTI_TEST_STANDIN_FLUSH"), 0) != 0;
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
        X(NO_DEVICE, 100, CUDA_ERROR_NO_DEVICE)
        X(INVALID_DEVICE, 101, CUDA_ERROR_INVALID_DEVICE)
        X(INVALID_IMAGE, 200, CUDA_ERROR_INVALID_IMAGE)
        X(INVALID_CONTEXT, 201, CUDA_ERROR_INVALID_CONTEXT)
        X(INVALID_HANDLE, 400, CUDA_ERROR_INVALID_HANDLE)
        X(NOT_FOUND, 500, CUDA_ERROR_NOT_FOUND)
        X(NOT_READY, 600, CUDA_ERROR_NOT_READY)
        X(ILLEGAL_ADDRESS, 700, CUDA_ERROR_ILLEGAL_ADDRESS)
        X(NOT_SUPPORTED, 801, CUDA_ERROR_NOT_SUPPORTED)
        X(CAPTURE_UNSUPPORTED, 900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        X(CAPTURE_INVALIDATED, 901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        X(CAPTURE_IMPLICIT, 906, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
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
    return atomic_load(&initialised) ? CUDA_DRIVER_OK : CUDA_DRIVER_NOT_INITIALIZED;
}

static bool is_device(int device)
{
    return device >= 0 && (uint64_t)device < standin_settings()->devices;
}

cuda_result cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    if (!atomic_load(&initialised))
        return CUDA_DRIVER_NOT_INITIALIZED;
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
    case CUDA_DEVICE_HOST_POINTERS:
        *value = 1;
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

/* With the lock: the arena, at the first context of a device. */
static cuda_result make_arena(struct device *device)
{
    size_t bytes = (size_t)standin_settings()->bytes;
    if (device->alias)
        return CUDA_DRIVER_OK;
    int fd = memfd_create("tutti-standin", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    void *base = mmap(NULL, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    void *alias = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED || alias == MAP_FAILED)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    *device = (struct device){.fd = fd, .base = cuda_address_of_host(base), .alias = alias};
    return CUDA_DRIVER_OK;
}

/* With the lock. */
static cuda_result make_context(int ordinal, struct standin_context **made)
{
    struct standin_context *context = calloc(1, sizeof *context);
    cuda_result result = context ? make_arena(&devices[ordinal]) : CUDA_DRIVER_OUT_OF_MEMORY;
    if (result == CUDA_DRIVER_OK) {
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
    if (!atomic_load(&initialised))
        return CUDA_DRIVER_NOT_INITIALIZED;
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    cuda_result result = CUDA_DRIVER_OK;
    pthread_mutex_lock(&standin_lock);
    struct standin_context *primary = devices[ordinal].primary;
    if (!primary)
        result = make_context(ordinal, &primary);
    else
        primary->retained++;
    if (result == CUDA_DRIVER_OK) {
        devices[ordinal].primary = primary;
        *context = primary;
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuDevicePrimaryCtxRelease_v2(int ordinal)
{
    pthread_mutex_lock(&standin_lock);
    if (is_device(ordinal) && devices[ordinal].primary && devices[ordinal].primary->retained > 0)
        devices[ordinal].primary->retained--;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result cuDevicePrimaryCtxGetState(int ordinal, unsigned *flags, int *active)
{
    if (!is_device(ordinal))
        return CUDA_DRIVER_INVALID_DEVICE;
    pthread_mutex_lock(&standin_lock);
    *flags = 0;
    *active = devices[ordinal].primary && devices[ordinal].primary->retained > 0;
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
    if (!context || depth == STACK_MAX)
        return CUDA_DRIVER_INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_DRIVER_OK;
}

cuda_result cuCtxPopCurrent_v2(cuda_context *context)
{
    if (depth == 0)
        return CUDA_DRIVER_INVALID_CONTEXT;
    *context = stack[--depth];
    return CUDA_DRIVER_OK;
}

cuda_result cuCtxSetCurrent(cuda_context context)
{
    if (depth > 0)
        depth--;
    return context ? cuCtxPushCurrent_v2(context) : CUDA_DRIVER_OK;
}

cuda_result cuCtxGetCurrent(cuda_context *context)
{
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return atomic_load(&initialised) ? CUDA_DRIVER_OK : CUDA_DRIVER_NOT_INITIALIZED;
}

cuda_result standin_enter(struct standin_context **context)
{
    if (!atomic_load(&initialised))
        return CUDA_DRIVER_NOT_INITIALIZED;
    if (depth == 0)
        return CUDA_DRIVER_INVALID_CONTEXT;
    *context = stack[depth - 1];
    return atomic_load(&(*context)->error);
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

cuda_result standin_count_flushes(unsigned *count)
{
    *count = atomic_load(&flushes);
    return CUDA_DRIVER_OK;
}

/* ---- memory --------------------------------------------------------------------------------- */

/* With the lock: the memory that holds the address. */
static struct memory *find_memory(cuda_address address)
{
    struct memory *memory = memories;
    while (memory && address - memory->base >= memory->bytes)
        memory = memory->next;
    return memory;
}

/* Within an arena, or a view of a peer's: addresses that the CPU cannot touch. */
static bool is_device_address(cuda_address address)
{
    for (int i = 0; i < DEVICES_MAX; i++) {
        if (devices[i].alias && address - devices[i].base < settings.bytes)
            return true;
    }
    return false;
}

void *standin_alias(cuda_address address, size_t bytes)
{
    pthread_mutex_lock(&standin_lock);
    const struct memory *memory = find_memory(address);
    char *alias = NULL;
    if (memory && bytes <= memory->bytes - (address - memory->base))
        alias = memory->alias + (address - memory->base);
    else if (!memory && !is_device_address(address))
        alias = (char *)(uintptr_t)address;
    pthread_mutex_unlock(&standin_lock);
    return alias;
}

bool standin_is_pageable(cuda_address address)
{
    pthread_mutex_lock(&standin_lock);
    bool known = find_memory(address) != NULL;
    pthread_mutex_unlock(&standin_lock);
    return !known;
}

bool standin_kernels_reach(const struct standin_context *context, cuda_address address)
{
    pthread_mutex_lock(&standin_lock);
    const struct memory *memory = find_memory(address);
    bool reach = memory && (memory->kind >= IMPORTED || memory->ordinal == context->ordinal);
    pthread_mutex_unlock(&standin_lock);
    return reach;
}

/* With the lock. */
static struct memory *list_memory(struct memory made)
{
    struct memory *memory = malloc(sizeof *memory);
    if (!memory)
        abort();
    *memory = made;
    memory->id = ++ids;
    memory->next = memories;
    memories = memory;
    return memory;
}

/* With the lock. */
static void unlist(struct memory *memory)
{
    struct memory **at = &memories;
    while (*at != memory)
        at = &(*at)->next;
    *at = memory->next;
    free(memory);
}

static cuda_address round_up(cuda_address address, size_t grain)
{
    return (address + grain - 1) / grain * grain;
}

/* With the lock: the lowest gap of the arena that holds so many bytes; 0 if none does. Addresses
 * are used again as soon as they can be. Small blocks are packed, large ones have pages of their
 * own, as on real devices. */
static cuda_address find_gap(const struct device *device, size_t bytes)
{
    size_t grain = bytes < DEVICE_PAGE ? GRAIN : DEVICE_PAGE;
    cuda_address at = round_up(device->base + GRAIN, grain);
    for (bool moved = true; moved;) {
        moved = false;
        for (const struct memory *m = memories; m; m = m->next) {
            if (m->base < at + bytes + GRAIN && at < m->base + m->bytes + GRAIN) {
                at = round_up(m->base + m->bytes + GRAIN, grain);
                moved = true;
            }
        }
    }
    return at + bytes + GRAIN <= device->base + settings.bytes ? at : 0;
}

static cuda_result allocate(cuda_address *address, size_t bytes, int kind)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    if (bytes == 0)
        return CUDA_DRIVER_INVALID_VALUE;
    standin_wait_for_blocking(context);
    pthread_mutex_lock(&standin_lock);
    struct device *device = &devices[context->ordinal];
    cuda_address base = bytes < settings.bytes ? find_gap(device, bytes) : 0;
    if (base) {
        char *alias = device->alias + (base - device->base);
        memset(alias, 0xa5, bytes < DIRTY_MAX ? bytes : DIRTY_MAX);
        list_memory((struct memory){.base = base,
                                    .bytes = bytes,
                                    .alias = alias,
                                    .ordinal = context->ordinal,
                                    .kind = kind,
                                    .context = kind == POOL ? NULL : context});
        *address = base;
    }
    pthread_mutex_unlock(&standin_lock);
    return base ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

cuda_result cuMemAlloc_v2(cuda_address *memory, size_t bytes)
{
    return allocate(memory, bytes, DEVICE);
}

cuda_result cuMemAllocAsync(cuda_address *memory, size_t bytes, cuda_stream stream)
{
    return allocate(memory, bytes, POOL);
}

/* What waits for everything that the context was given. */
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

static cuda_result release(cuda_address address, unsigned kinds, struct memory *was)
{
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    struct memory *memory = find_memory(address);
    if (!memory || memory->base != address || !(kinds & 1u << memory->kind)) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else {
        *was = *memory;
        unlist(memory);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

/* Whole pages of freed memory go back to the machine. */
static void punch(const struct memory *was)
{
    const struct device *device = &devices[was->ordinal];
    off_t first = (off_t)((was->base - device->base + 4095) / 4096 * 4096);
    off_t end = (off_t)((was->base - device->base + was->bytes) / 4096 * 4096);
    (void)fallocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, end - first);
}

cuda_result cuMemFree_v2(cuda_address address)
{
    struct memory was;
    cuda_result result = release(address, 1u << DEVICE | 1u << POOL, &was);
    if (result == CUDA_DRIVER_OK && was.bytes > DIRTY_MAX)
        punch(&was);
    return result;
}

cuda_result cuMemFreeAsync(cuda_address memory, cuda_stream stream)
{
    return cuMemFree_v2(memory);
}

cuda_result cuMemGetAddressRange_v2(cuda_address *base, size_t *bytes, cuda_address address)
{
    pthread_mutex_lock(&standin_lock);
    const struct memory *memory = find_memory(address);
    if (memory && base)
        *base = memory->base;
    if (memory && bytes)
        *bytes = memory->bytes;
    pthread_mutex_unlock(&standin_lock);
    return memory ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

static cuda_result list_host(void *memory, size_t bytes, int kind)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    standin_wait_for_blocking(context);
    pthread_mutex_lock(&standin_lock);
    list_memory((struct memory){.base = cuda_address_of_host(memory),
                                .bytes = bytes,
                                .alias = memory,
                                .ordinal = context->ordinal,
                                .kind = kind,
                                .context = context});
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
    return list_host(memory, bytes, REGISTERED);
}

cuda_result cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    void *made = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!made)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    cuda_result result = list_host(made, bytes, PINNED);
    if (result == CUDA_DRIVER_OK)
        *memory = made;
    else
        free(made);
    return result;
}

cuda_result cuMemFreeHost(void *memory)
{
    struct memory was;
    cuda_result result = release(cuda_address_of_host(memory), 1u << PINNED, &was);
    if (result == CUDA_DRIVER_OK)
        free(memory);
    return result;
}

cuda_result cuMemHostUnregister(void *memory)
{
    struct memory was;
    return release(cuda_address_of_host(memory), 1u << REGISTERED, &was);
}

cuda_result cuMemHostGetDevicePointer_v2(cuda_address *address, void *memory, unsigned flags)
{
    pthread_mutex_lock(&standin_lock);
    bool known = find_memory(cuda_address_of_host(memory)) != NULL;
    pthread_mutex_unlock(&standin_lock);
    *address = cuda_address_of_host(memory);
    return known ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuMemcpyHtoD_v2(cuda_address dst, const void *src, size_t bytes)
{
    struct standin_op op = {
        .kind = OP_COPY, .dst = dst, .src = cuda_address_of_host(src), .bytes = bytes};
    cuda_result result = standin_unsafe();
    return result == CUDA_DRIVER_OK ? standin_issue(NULL, &op, true) : result;
}

cuda_result cuMemcpyDtoH_v2(void *dst, cuda_address src, size_t bytes)
{
    struct standin_op op = {
        .kind = OP_COPY, .dst = cuda_address_of_host(dst), .src = src, .bytes = bytes};
    cuda_result result = standin_unsafe();
    return result == CUDA_DRIVER_OK ? standin_issue(NULL, &op, true) : result;
}

cuda_result cuMemsetD8_v2(cuda_address dst, unsigned char value, size_t count)
{
    struct standin_op op = {
        .kind = OP_FILL, .dst = dst, .bytes = count, .value = value, .value_bytes = 1};
    cuda_result result = standin_unsafe();
    return result == CUDA_DRIVER_OK ? standin_issue(NULL, &op, true) : result;
}

static struct view pages_of(const struct memory *memory)
{
    cuda_address first = memory->base / 4096 * 4096;
    return (struct view){(void *)(uintptr_t)first,
                         (size_t)(round_up(memory->base + memory->bytes, 4096) - first)};
}

/* Lets the kernel pin the pages by their device address, for as long as the thread makes no other
 * call. */
static void open_view(const struct memory *memory)
{
    opened = pages_of(memory);
    if (mprotect(opened.base, opened.bytes, PROT_READ | PROT_WRITE) != 0)
        abort();
}

void standin_close_views(void)
{
    if (opened.base && mprotect(opened.base, opened.bytes, PROT_NONE) != 0)
        abort();
    opened.base = NULL;
}

/* One answer; its width is the attribute's. memory NULL: everything is 0. */
static cuda_result answer(const struct memory *memory, int attribute, void *value)
{
    bool device = memory && memory->kind <= IMPORTED;
    switch (attribute) {
    case CUDA_POINTER_CONTEXT:
        *(void **)value = memory ? memory->context : NULL;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_MEMORY_TYPE:
        *(unsigned *)value = !memory  ? 0u
                             : device ? (unsigned)CUDA_MEMORY_TYPE_DEVICE
                                      : (unsigned)CUDA_MEMORY_TYPE_HOST;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_IS_MANAGED:
        *(bool *)value = false;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_ORDINAL:
        *(int *)value = memory ? memory->ordinal : -2;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_IPC_CAPABLE:
        *(bool *)value = memory && memory->kind == DEVICE;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_RANGE_START:
        *(uint64_t *)value = memory ? memory->base : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_RANGE_SIZE:
        *(size_t *)value = memory ? memory->bytes : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_BUFFER_ID:
        *(uint64_t *)value = memory ? memory->id : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_NIC_CAPABLE:
        *(bool *)value = memory && memory->kind == DEVICE;
        if (settings.nic && memory && memory->kind == DEVICE)
            open_view(memory);
        return CUDA_DRIVER_OK;
    default:
        return CUDA_DRIVER_NOT_SUPPORTED;
    }
}

cuda_result cuPointerGetAttributes(unsigned count, int *attributes, void **values,
                                   cuda_address pointer)
{
    if (!atomic_load(&initialised))
        return CUDA_DRIVER_NOT_INITIALIZED;
    cuda_result result = CUDA_DRIVER_OK;
    standin_close_views();
    pthread_mutex_lock(&standin_lock);
    const struct memory *memory = find_memory(pointer);
    for (unsigned i = 0; i < count && result == CUDA_DRIVER_OK; i++)
        result = answer(memory, attributes[i], values[i]);
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuPointerSetAttribute(const void *value, int attribute, cuda_address pointer)
{
    return standin_is_pageable(pointer) ? CUDA_DRIVER_INVALID_VALUE : CUDA_DRIVER_OK;
}

cuda_result cuMemGetHandleForAddressRange(void *handle, cuda_address memory, size_t bytes, int type,
                                          unsigned long long flags)
{
    if (!standin_settings()->dmabuf || type != CUDA_RANGE_DMABUF)
        return CUDA_DRIVER_NOT_SUPPORTED;
    if (memory % 4096 != 0 || bytes % 4096 != 0)
        return CUDA_DRIVER_INVALID_VALUE;
    for (int i = 0; i < DEVICES_MAX; i++) {
        if (!devices[i].alias || memory - devices[i].base >= settings.bytes)
            continue;
        *(int *)handle = fcntl(devices[i].fd, F_DUPFD_CLOEXEC, 0);
        return *(int *)handle >= 0 ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
    }
    return CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    atomic_fetch_add(&flushes, result == CUDA_DRIVER_OK);
    return target == CUDA_FLUSH_CURRENT && scope == CUDA_ORDERING_OWNER ? result
                                                                        : CUDA_DRIVER_INVALID_VALUE;
}

/* ---- processes ------------------------------------------------------------------------------ */

cuda_result cuIpcGetMemHandle(struct cuda_ipc_handle *out, cuda_address address)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    const struct memory *memory = find_memory(address);
    if (!memory || memory->kind != DEVICE) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else {
        const struct device *device = &devices[memory->ordinal];
        struct handle handle = {.magic = HANDLE_MAGIC,
                                .key = memory->id << 32 | (uint32_t)getpid(),
                                .offset = memory->base - device->base,
                                .bytes = memory->bytes,
                                .process = getpid(),
                                .fd = device->fd,
                                .ordinal = memory->ordinal};
        _Static_assert(sizeof handle <= sizeof out->bytes, "fits");
        memset(out, 0, sizeof *out);
        memcpy(out->bytes, &handle, sizeof handle);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

/* With the lock. */
static cuda_result map_peer(struct standin_context *context, const struct handle *handle,
                            cuda_address *address)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", handle->process, handle->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return CUDA_DRIVER_INVALID_HANDLE;
    size_t lead = handle->offset % 4096, mapped = (lead + handle->bytes + 4095) / 4096 * 4096;
    off_t from = (off_t)(handle->offset - lead);
    char *base = mmap(NULL, mapped, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, from);
    char *alias = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, from);
    close(fd);
    if (base == MAP_FAILED || alias == MAP_FAILED)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    *address = cuda_address_of_host(base + lead);
    list_memory((struct memory){.base = *address,
                                .bytes = handle->bytes,
                                .alias = alias + lead,
                                .ordinal = handle->ordinal,
                                .kind = IMPORTED,
                                .context = context,
                                .key = handle->key,
                                .opened = 1,
                                .mapped = mapped,
                                .lead = lead});
    return CUDA_DRIVER_OK;
}

cuda_result cuIpcOpenMemHandle_v2(cuda_address *address, struct cuda_ipc_handle packed,
                                  unsigned flags)
{
    struct handle handle;
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    memcpy(&handle, packed.bytes, sizeof handle);
    if (result == CUDA_DRIVER_OK && handle.magic != HANDLE_MAGIC)
        result = CUDA_DRIVER_INVALID_VALUE;
    if (result == CUDA_DRIVER_OK && handle.process == getpid())
        result = CUDA_DRIVER_INVALID_CONTEXT;
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    struct memory *memory = memories;
    while (memory && !(memory->kind == IMPORTED && memory->key == handle.key))
        memory = memory->next;
    if (memory) {
        memory->opened++;
        *address = memory->base;
    } else {
        result = map_peer(context, &handle, address);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuIpcCloseMemHandle(cuda_address address)
{
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    struct memory *memory = find_memory(address);
    if (!memory || memory->kind != IMPORTED || memory->base != address) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else if (--memory->opened == 0) {
        munmap((char *)(uintptr_t)memory->base - memory->lead, memory->mapped);
        munmap(memory->alias - memory->lead, memory->mapped);
        unlist(memory);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}
