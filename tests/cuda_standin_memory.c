/* cuda_standin_memory.c: the stand-in's memory.
 *
 * The memory of a device is one sparse memory file, the arena. It is mapped twice, once without
 * access: those are the device addresses. An allocation is a piece of it, at multiples of 512 bytes
 * and with a gap after it, so that work beyond an allocation is caught. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda_standin.h"

#define GRAIN       512
#define DEVICE_PAGE ((size_t)2 << 20)
#define DIRTY_MAX   ((size_t)64 << 10) /* so much of new memory is given a pattern */

/* What is added to addresses of pinned memory where GPUs have their own. */
#define HOST_SHIFT (standin_settings()->host_pointers ? 0 : (cuda_address)1 << 56)

struct standin_arena standin_arenas[DEVICES_MAX];
struct standin_memory *standin_memories;

static uint64_t ids;
static atomic_uint flushes;
static _Thread_local struct view {
    void *base;
    size_t bytes;
} opened; /* to adapters, by this thread */

cuda_result standin_count_flushes(unsigned *count)
{
    *count = atomic_load(&flushes);
    return CUDA_DRIVER_OK;
}

cuda_result standin_make_arena(int ordinal)
{
    struct standin_arena *device = &standin_arenas[ordinal];
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
    *device = (struct standin_arena){.fd = fd, .base = cuda_address_of_host(base), .alias = alias};
    return CUDA_DRIVER_OK;
}

/* ---- memory --------------------------------------------------------------------------------- */

struct standin_memory *standin_find_memory(cuda_address address)
{
    struct standin_memory *memory = standin_memories;
    address &= ~HOST_SHIFT;
    while (memory && address - memory->base >= memory->bytes)
        memory = memory->next;
    return memory;
}

/* Within an arena, or a view of a peer's: addresses that the CPU cannot touch. */
static bool is_device_address(cuda_address address)
{
    for (int i = 0; i < DEVICES_MAX; i++) {
        if (standin_arenas[i].alias && address - standin_arenas[i].base < standin_settings()->bytes)
            return true;
    }
    return false;
}

void *standin_alias(cuda_address address, size_t bytes)
{
    pthread_mutex_lock(&standin_lock);
    const struct standin_memory *memory = standin_find_memory(address);
    char *alias = NULL;
    address &= ~HOST_SHIFT;
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
    bool known = standin_find_memory(address) != NULL;
    pthread_mutex_unlock(&standin_lock);
    return !known;
}

bool standin_kernels_reach(const struct standin_context *context, cuda_address address)
{
    pthread_mutex_lock(&standin_lock);
    const struct standin_memory *memory = standin_find_memory(address);
    bool reach =
        memory &&
        ((memory->kind > MEMORY_IMPORTED ? (address & HOST_SHIFT) == HOST_SHIFT
                                         : memory->context == context) ||
         (memory->kind == MEMORY_POOL && memory->ordinal == context->ordinal) ||
         (memory->kind == MEMORY_DEVICE && context->opened >> memory->context->number % 64 & 1));
    pthread_mutex_unlock(&standin_lock);
    return reach;
}

struct standin_memory *standin_list_memory(struct standin_memory made)
{
    struct standin_memory *memory = malloc(sizeof *memory);
    if (!memory)
        abort();
    *memory = made;
    memory->id = ++ids;
    memory->next = standin_memories;
    standin_memories = memory;
    return memory;
}

void standin_unlist_memory(struct standin_memory *memory)
{
    struct standin_memory **at = &standin_memories;
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
static cuda_address find_gap(const struct standin_arena *device, size_t bytes)
{
    size_t grain = bytes < DEVICE_PAGE ? GRAIN : DEVICE_PAGE;
    cuda_address at = round_up(device->base + GRAIN, grain);
    for (bool moved = true; moved;) {
        moved = false;
        for (const struct standin_memory *m = standin_memories; m; m = m->next) {
            if (m->base < at + bytes + GRAIN && at < m->base + m->bytes + GRAIN) {
                at = round_up(m->base + m->bytes + GRAIN, grain);
                moved = true;
            }
        }
    }
    return at + bytes + GRAIN <= device->base + standin_settings()->bytes ? at : 0;
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
    struct standin_arena *device = &standin_arenas[context->ordinal];
    cuda_address base = bytes < standin_settings()->bytes ? find_gap(device, bytes) : 0;
    if (base) {
        char *alias = device->alias + (base - device->base);
        memset(alias, 0xa5, bytes < DIRTY_MAX ? bytes : DIRTY_MAX);
        standin_list_memory(
            (struct standin_memory){.base = base,
                                    .bytes = bytes,
                                    .alias = alias,
                                    .ordinal = context->ordinal,
                                    .kind = kind,
                                    .context = kind == MEMORY_POOL ? NULL : context});
        *address = base;
    }
    pthread_mutex_unlock(&standin_lock);
    return base ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

cuda_result cuMemAlloc_v2(cuda_address *memory, size_t bytes)
{
    return allocate(memory, bytes, MEMORY_DEVICE);
}

cuda_result cuMemAllocAsync(cuda_address *memory, size_t bytes, cuda_stream stream)
{
    return allocate(memory, bytes, MEMORY_POOL);
}

cuda_result standin_alloc_virtual(cuda_address *memory, size_t bytes)
{
    cuda_result result = allocate(memory, bytes, MEMORY_POOL);
    pthread_mutex_lock(&standin_lock);
    if (result == CUDA_DRIVER_OK)
        standin_find_memory(*memory)->is_virtual = true;
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result standin_count_memory(size_t *device, size_t *pinned)
{
    *device = *pinned = 0;
    pthread_mutex_lock(&standin_lock);
    for (const struct standin_memory *memory = standin_memories; memory; memory = memory->next)
        if (memory->kind != MEMORY_IMPORTED)
            *(memory->kind < MEMORY_IMPORTED ? device : pinned) += memory->bytes;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

/* What waits for everything that the context was given. */
static cuda_result release(cuda_address address, unsigned kinds, struct standin_memory *was)
{
    struct standin_context *context;
    cuda_result result = standin_block(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    struct standin_memory *memory = standin_find_memory(address);
    if (!memory || memory->base != address || !(kinds & 1u << memory->kind)) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else {
        *was = *memory;
        standin_unlist_memory(memory);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

/* Whole pages of freed memory go back to the machine. */
static void punch(const struct standin_memory *was)
{
    const struct standin_arena *device = &standin_arenas[was->ordinal];
    off_t first = (off_t)((was->base - device->base + 4095) / 4096 * 4096);
    off_t end = (off_t)((was->base - device->base + was->bytes) / 4096 * 4096);
    (void)fallocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, end - first);
}

cuda_result cuMemFree_v2(cuda_address address)
{
    struct standin_memory was;
    cuda_result result = release(address, 1u << MEMORY_DEVICE | 1u << MEMORY_POOL, &was);
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
    const struct standin_memory *memory = standin_find_memory(address);
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
    standin_list_memory((struct standin_memory){.base = cuda_address_of_host(memory),
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
    return list_host(memory, bytes, MEMORY_REGISTERED);
}

cuda_result cuMemHostAlloc(void **memory, size_t bytes, unsigned flags)
{
    void *made = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!made)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    cuda_result result = list_host(made, bytes, MEMORY_PINNED);
    if (result == CUDA_DRIVER_OK)
        *memory = made;
    else
        free(made);
    return result;
}

cuda_result cuMemFreeHost(void *memory)
{
    struct standin_memory was;
    cuda_result result = release(cuda_address_of_host(memory), 1u << MEMORY_PINNED, &was);
    if (result == CUDA_DRIVER_OK)
        free(memory);
    return result;
}

cuda_result cuMemHostUnregister(void *memory)
{
    struct standin_memory was;
    return release(cuda_address_of_host(memory), 1u << MEMORY_REGISTERED, &was);
}

cuda_result cuMemHostGetDevicePointer_v2(cuda_address *address, void *memory, unsigned flags)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
    pthread_mutex_lock(&standin_lock);
    bool known = standin_find_memory(cuda_address_of_host(memory)) != NULL;
    pthread_mutex_unlock(&standin_lock);
    *address = cuda_address_of_host(memory) + HOST_SHIFT;
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

static struct view pages_of(const struct standin_memory *memory)
{
    cuda_address first = memory->base / 4096 * 4096;
    return (struct view){(void *)(uintptr_t)first,
                         (size_t)(round_up(memory->base + memory->bytes, 4096) - first)};
}

/* Lets the kernel pin the pages by their device address, for as long as the thread makes no other
 * call. */
static void open_view(const struct standin_memory *memory)
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
static cuda_result answer(const struct standin_memory *memory, int attribute, void *value)
{
    bool device = memory && memory->kind <= MEMORY_IMPORTED;
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
        *(bool *)value = memory && memory->kind == MEMORY_DEVICE;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_RANGE_START:
        *(uint64_t *)value = memory ? memory->base : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_RANGE_SIZE:
        /* Of virtual memory what is reserved, not what is mapped. */
        *(size_t *)value = memory ? memory->bytes << memory->is_virtual : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_BUFFER_ID:
        *(uint64_t *)value = memory ? memory->id : 0;
        return CUDA_DRIVER_OK;
    case CUDA_POINTER_NIC_CAPABLE:
        *(bool *)value = memory && (memory->kind == MEMORY_DEVICE || memory->is_virtual);
        if (standin_settings()->nic && memory && memory->kind == MEMORY_DEVICE)
            open_view(memory);
        return CUDA_DRIVER_OK;
    default:
        return CUDA_DRIVER_NOT_SUPPORTED;
    }
}

/* With the lock. */
static bool has_context(void)
{
    struct standin_context *context = standin_contexts;
    while (context && context->retained == 0)
        context = context->next;
    return context != NULL;
}

static cuda_result ask(unsigned count, const int *attributes, void **values, cuda_address pointer)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK && result != CUDA_DRIVER_INVALID_CONTEXT)
        return result;
    result = CUDA_DRIVER_OK;
    standin_close_views();
    pthread_mutex_lock(&standin_lock);
    const struct standin_memory *memory = standin_find_memory(pointer);
    if (!memory && !has_context())
        result = CUDA_DRIVER_INVALID_CONTEXT;
    for (unsigned i = 0; i < count && result == CUDA_DRIVER_OK; i++)
        result = answer(memory, attributes[i], values[i]);
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuPointerGetAttribute(void *value, int attribute, cuda_address pointer)
{
    return ask(1, &attribute, &value, pointer);
}

cuda_result cuPointerGetAttributes(unsigned count, int *attributes, void **values,
                                   cuda_address pointer)
{
    for (unsigned i = 0; i < count; i++) {
        if (attributes[i] == CUDA_POINTER_NIC_CAPABLE) /* is asked for alone */
            return CUDA_DRIVER_INVALID_VALUE;
    }
    return ask(count, attributes, values, pointer);
}

cuda_result cuPointerSetAttribute(const void *value, int attribute, cuda_address pointer)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
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
        if (!standin_arenas[i].alias ||
            memory - standin_arenas[i].base >= standin_settings()->bytes)
            continue;
        *(int *)handle = fcntl(standin_arenas[i].fd, F_DUPFD_CLOEXEC, 0);
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
