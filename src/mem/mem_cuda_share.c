/* mem_cuda_share.c: device memory of peers on this host.
 *
 * The idea: an allocation is named once by its owner and mapped once by each peer, whole; what
 * travels later is the name and an offset. A mapping is found again by owner and base, and is the
 * right one while the buffer's number is, too: the driver never gives that number twice, so memory
 * that was freed and allocated anew at the same address is told apart.
 *
 * A mapping that serves no more is not given back at once: the driver would wait for the device's
 * streams, and hold up copies and launches of other threads while it does, and one of those streams
 * may be waiting for just such a copy.
 *
 * Invariant: an attachment in the table is mapped; the table is ordered by nothing and searched
 * whole, since an attach that finds its entry is preceded by messages that cost more. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/lock.h"
#include "mem/mem_cuda.h"

struct attachment {
    struct mem_device *device;
    uint64_t process, owner_base, buffer, bytes; /* as in the share */
    cuda_address base;                           /* here */
    uint64_t used;                               /* stamp of the last use */
};

/* A mapping that waits to be given back. */
struct dropped {
    struct mem_device *device;
    cuda_address base;
    struct dropped *next;
};

static struct {
    struct lock lock;
    struct attachment list[ATTACHED_MAX];
    size_t count;
    uint64_t stamp;
    struct dropped *dropped;
    _Atomic bool any_dropped;
} attached = {.lock = LOCK_INIT};

/* ---- naming --------------------------------------------------------------------------------- */

/* A random number that names this process, also beside another one with the same process id. */
static uint64_t process_number(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t number;
    static pid_t owner; /* a forked child is another process */
    pthread_mutex_lock(&lock);
    if (owner != getpid()) {
        owner = getpid();
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
            number = (uint64_t)owner;
    }
    uint64_t found = number;
    pthread_mutex_unlock(&lock);
    return found;
}

void mem_share_here(const struct mem_place *place, struct mem_share *share)
{
    must(place->device != NULL);
    *share = (struct mem_share){
        .process = process_number(), .buffer = place->buffer, .bytes = UINT64_MAX};
    memcpy(share->device, place->device->uuid.bytes, sizeof share->device);
}

/* The driver's names of allocations, the last met in each place. */
static struct {
    pthread_mutex_t lock;
    struct name {
        const struct mem_device *device;
        uint64_t buffer; /* the driver numbers allocations and uses no number twice */
        struct cuda_ipc_handle handle;
    } list[256];
} ipc_names = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Asks the driver once per allocation. */
static tutti_status name_of(const struct mem_place *place, struct cuda_ipc_handle *handle)
{
    struct name *name =
        &ipc_names.list[place->buffer % (sizeof ipc_names.list / sizeof *ipc_names.list)];
    struct cuda_scope scope;
    pthread_mutex_lock(&ipc_names.lock);
    bool known = name->device == place->device && name->buffer == place->buffer;
    if (known)
        *handle = name->handle;
    pthread_mutex_unlock(&ipc_names.lock);
    if (known)
        return TUTTI_OK;
    tutti_status status = mem_cuda_enter(place->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = place->device->driver->ipc_get(handle, cuda_address_of(place->base));
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "name memory at %p of %s for other processes", place->base,
                             place->device->name);
    pthread_mutex_lock(&ipc_names.lock);
    *name = (struct name){.device = place->device, .buffer = place->buffer, .handle = *handle};
    pthread_mutex_unlock(&ipc_names.lock);
    return TUTTI_OK;
}

tutti_status mem_cuda_probe_shares(struct mem_device *device)
{
    struct cuda_ipc_handle handle;
    struct cuda_scope scope;
    void *block;
    tutti_status status = mem_device_take(device, sizeof handle, &block);
    if (status != TUTTI_OK)
        return status;
    status = mem_cuda_enter(device, &scope);
    if (status == TUTTI_OK) {
        device->shares = device->driver->ipc_get(&handle, cuda_address_of(block)) == CUDA_DRIVER_OK;
        mem_cuda_leave(&scope);
    }
    mem_device_give(device, block);
    return status;
}

tutti_status mem_share(const struct mem_place *place, struct mem_share *share)
{
    must(place->device != NULL);
    if (!place->shareable)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "memory at %p of %s cannot be mapped by other processes: it is from a memory "
                    "pool, virtual or managed memory",
                    place->base, place->device->name);
    struct cuda_ipc_handle handle;
    tutti_status status = name_of(place, &handle);
    if (status != TUTTI_OK)
        return status;
    mem_share_here(place, share);
    share->base = cuda_address_of(place->base);
    share->bytes = place->bytes;
    memcpy(share->handle, handle.bytes, sizeof share->handle);
    return TUTTI_OK;
}

/* ---- mapping -------------------------------------------------------------------------------- */

/* With the lock. */
static struct attachment *find_attachment(const struct mem_device *device,
                                          const struct mem_share *share)
{
    for (size_t i = 0; i < attached.count; i++) {
        struct attachment *a = &attached.list[i];
        if (a->owner_base == share->base && a->process == share->process && a->device == device)
            return a;
    }
    return NULL;
}

/* With the lock. Where there is no memory to remember a mapping, it stays for good. */
static void drop(struct attachment *attachment)
{
    struct dropped *dropped = malloc(sizeof *dropped);
    if (dropped) {
        *dropped = (struct dropped){
            .device = attachment->device, .base = attachment->base, .next = attached.dropped};
        attached.dropped = dropped;
        atomic_store_explicit(&attached.any_dropped, true, memory_order_release);
    }
    *attachment = attached.list[--attached.count];
}

void mem_detach_dropped(void)
{
    if (!atomic_load_explicit(&attached.any_dropped, memory_order_acquire))
        return;
    lock_take(&attached.lock);
    struct dropped *first = attached.dropped;
    attached.dropped = NULL;
    atomic_store_explicit(&attached.any_dropped, false, memory_order_release);
    lock_leave(&attached.lock);
    for (struct dropped *dropped = first, *next; dropped; dropped = next) {
        struct cuda_scope scope;
        next = dropped->next;
        if (mem_cuda_enter(dropped->device, &scope) == TUTTI_OK) {
            (void)dropped->device->driver->ipc_close(dropped->base);
            mem_cuda_leave(&scope);
        }
        free(dropped);
    }
}

/* With the lock: room for one more, at the price of the least recently used. */
static void make_room(void)
{
    if (attached.count < ATTACHED_MAX)
        return;
    struct attachment *oldest = &attached.list[0];
    for (size_t i = 1; i < attached.count; i++) {
        if (attached.list[i].used < oldest->used)
            oldest = &attached.list[i];
    }
    drop(oldest);
}

/* With the lock. The driver's answer about the size is compared with the peer's, because whoever
 * reads beyond it fails the device. */
static tutti_status map(struct mem_device *device, const struct mem_share *share,
                        cuda_address *base)
{
    struct cuda_ipc_handle handle;
    struct cuda_scope scope;
    memcpy(handle.bytes, share->handle, sizeof handle.bytes);
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    const struct cuda_driver *driver = device->driver;
    cuda_address mapped = 0;
    uint64_t bytes = 0;
    cuda_result result = driver->ipc_open(&mapped, handle, CUDA_IPC_PEER_ACCESS);
    if (result == CUDA_DRIVER_OK) {
        int attribute = CUDA_POINTER_RANGE_SIZE;
        void *value = &bytes;
        result = driver->pointer_attributes(1, &attribute, &value, mapped);
    }
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "map a peer's memory (%llu bytes) into %s",
                             (unsigned long long)share->bytes, device->name);
    if (bytes < share->bytes) /* stays mapped: giving it back would wait */
        return fail(TUTTI_ERR_PROTOCOL,
                    "a peer's memory on %s has %llu bytes, but was announced with %llu",
                    device->name, (unsigned long long)bytes, (unsigned long long)share->bytes);
    *base = mapped;
    return TUTTI_OK;
}

/* With the lock. */
static tutti_status attach(struct mem_device *device, const struct mem_share *share,
                           cuda_address *base)
{
    struct attachment *found = find_attachment(device, share);
    if (found && found->buffer == share->buffer) {
        if (found->bytes != share->bytes)
            return fail(TUTTI_ERR_PROTOCOL,
                        "a peer's memory on %s has %llu bytes, but was announced with %llu",
                        device->name, (unsigned long long)found->bytes,
                        (unsigned long long)share->bytes);
        found->used = ++attached.stamp;
        *base = found->base;
        return TUTTI_OK;
    }
    if (found)
        drop(found);
    else
        make_room();
    cuda_address mapped;
    tutti_status status = map(device, share, &mapped);
    if (status != TUTTI_OK)
        return status;
    attached.list[attached.count++] = (struct attachment){.device = device,
                                                          .process = share->process,
                                                          .owner_base = share->base,
                                                          .buffer = share->buffer,
                                                          .bytes = share->bytes,
                                                          .base = mapped,
                                                          .used = ++attached.stamp};
    *base = mapped;
    return TUTTI_OK;
}

tutti_status mem_attach(struct mem_device *device, const struct mem_share *share, void **base)
{
    if (share->process == process_number()) {
        *base = (void *)(uintptr_t)share->base;
        return TUTTI_OK;
    }
    cuda_address mapped;
    lock_take(&attached.lock);
    tutti_status status = attach(device, share, &mapped);
    lock_leave(&attached.lock);
    if (status == TUTTI_OK)
        *base = (void *)(uintptr_t)mapped;
    return status;
}
