/* cuda_standin_peers.c: the stand-in's memory as other processes map it. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/cuda_standin.h"

/* What an IPC handle says. */
struct handle {
    uint64_t magic, key, offset, bytes;
    int32_t process, fd, ordinal;
};

#define HANDLE_MAGIC 0x7374616e642d696eu

cuda_result cuIpcGetMemHandle(struct cuda_ipc_handle *out, cuda_address address)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    const struct standin_memory *memory = standin_find_memory(address);
    if (!standin_settings()->ipc) {
        result = CUDA_DRIVER_NOT_SUPPORTED;
    } else if (!memory || memory->kind != MEMORY_DEVICE || memory->base != address) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else {
        const struct standin_arena *device = &standin_arenas[memory->ordinal];
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
    standin_list_memory((struct standin_memory){.base = *address,
                                                .bytes = handle->bytes,
                                                .alias = alias + lead,
                                                .ordinal = handle->ordinal,
                                                .kind = MEMORY_IMPORTED,
                                                .context = context,
                                                .key = handle->key,
                                                .offset = handle->offset,
                                                .opened = 1,
                                                .mapped = mapped,
                                                .lead = lead});
    return CUDA_DRIVER_OK;
}

/* With the lock: whether the context has memory mapped that was where this is. */
static bool overlaps(const struct standin_context *context, const struct handle *handle)
{
    bool found = false;
    for (const struct standin_memory *m = standin_memories; m; m = m->next)
        found |= m->kind == MEMORY_IMPORTED && m->context == context &&
                 (uint32_t)m->key == (uint32_t)handle->key && m->ordinal == handle->ordinal &&
                 m->offset < handle->offset + handle->bytes &&
                 handle->offset < m->offset + m->bytes;
    return found;
}

/* With the lock: whether the context works in memory of that GPU. */
static bool reaches(const struct standin_context *context, int ordinal)
{
    bool reach = ordinal == context->ordinal;
    for (const struct standin_context *other = standin_contexts; other; other = other->next)
        reach |= other->ordinal == ordinal && context->opened >> other->number % 64 & 1;
    for (const struct standin_memory *m = standin_memories; m; m = m->next)
        reach |= m->kind == MEMORY_IMPORTED && m->context == context && m->ordinal == ordinal;
    return reach;
}

/* The first memory of another GPU opens that to the context, as cuCtxEnablePeerAccess does. */
static cuda_result open_way(struct standin_context *context, int ordinal)
{
    uint64_t others = 0;
    pthread_mutex_lock(&standin_lock);
    bool reached = reaches(context, ordinal);
    for (int i = 0; i < DEVICES_MAX; i++)
        others += i != context->ordinal && reaches(context, i);
    pthread_mutex_unlock(&standin_lock);
    if (reached)
        return CUDA_DRIVER_OK;
    return others < standin_settings()->peers ? standin_block(&context)
                                              : CUDA_DRIVER_TOO_MANY_PEERS;
}

cuda_result cuIpcOpenMemHandle_v2(cuda_address *address, struct cuda_ipc_handle packed,
                                  unsigned flags)
{
    struct handle handle;
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    memcpy(&handle, packed.bytes, sizeof handle);
    if (result == CUDA_DRIVER_OK && (handle.magic != HANDLE_MAGIC || flags != CUDA_IPC_PEER_ACCESS))
        result = CUDA_DRIVER_INVALID_VALUE;
    if (result == CUDA_DRIVER_OK && (handle.process == getpid() || standin_settings()->ipc == 2))
        result = CUDA_DRIVER_INVALID_CONTEXT;
    if (result == CUDA_DRIVER_OK)
        result = open_way(context, handle.ordinal);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    struct standin_memory *memory = standin_memories;
    while (memory && !(memory->kind == MEMORY_IMPORTED && memory->key == handle.key &&
                       memory->context->ordinal == context->ordinal))
        memory = memory->next;
    if (memory && memory->context != context) {
        result = CUDA_DRIVER_INVALID_CONTEXT; /* one context of each GPU may */
    } else if (memory) {
        memory->opened++;
        *address = memory->base;
    } else if (overlaps(context, &handle)) {
        result = CUDA_MAPPED;
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
    struct standin_memory *memory = standin_find_memory(address);
    if (!memory || memory->kind != MEMORY_IMPORTED || memory->base != address) {
        result = CUDA_DRIVER_INVALID_VALUE;
    } else if (--memory->opened == 0) {
        munmap((char *)(uintptr_t)memory->base - memory->lead, memory->mapped);
        munmap(memory->alias - memory->lead, memory->mapped);
        standin_unlist_memory(memory);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result standin_count_imported(size_t *bytes)
{
    *bytes = 0;
    pthread_mutex_lock(&standin_lock);
    for (const struct standin_memory *memory = standin_memories; memory; memory = memory->next)
        *bytes += memory->kind == MEMORY_IMPORTED ? memory->bytes : 0;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}
