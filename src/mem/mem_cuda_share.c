/* mem_cuda_share.c: memory of other devices, and of peers on this host.
 *
 * The idea: an allocation is named once by its owner and mapped once by each peer, whole; what
 * travels later is the name and an offset. A mapping is found again by its owner and the buffer's
 * number, which the driver never gives twice. Memory that is allocated where some was freed that
 * peers still map cannot be mapped beside that: it is not shared.
 *
 * A mapping that serves no more is not given back at once: the driver would wait for the device's
 * streams, and hold up copies and launches of other threads while it does, and one of those streams
 * may be waiting for just such a copy.
 *
 * Invariant: an attachment in the table is mapped; the table is ordered by nothing and searched
 * whole, since an attach that finds its entry is preceded by messages that cost more. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/lock.h"
#include "base/log.h"
#include "mem/mem_cuda.h"

struct attachment {
    struct mem_device *device;
    uint64_t process, buffer, bytes; /* as in the share */
    cuda_address base;               /* here */
    uint64_t used;                   /* stamp of the last use */
};

#define HELD         UINT64_MAX /* the stamp of samples: by their mappings GPUs reach each other */
#define SAMPLE_BYTES 4096

/* A mapping that waits to be given back. */
struct dropped {
    struct mem_device *device;
    cuda_address base;
    struct dropped *next;
};

static struct {
    /* One mapping is made at a time, perhaps a long one; others are found meanwhile, with `lock`,
     * which is taken second and guards what follows. */
    struct lock opening, lock;
    struct attachment list[ATTACHED_MAX];
    size_t count;
    uint64_t stamp;
    struct dropped *dropped;
} attached = {.opening = LOCK_INIT, .lock = LOCK_INIT};

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

/* The allocations that were named. Peers keep what they map, and where the driver has given an
 * address to two of them that overlap, it does not let a peer map the second while the first is
 * mapped, be it freed or not. So a name stays here when its allocation is freed, and what is
 * allocated over it later is not named: the list, in the order of addresses, has no overlaps. */
#define NAMES_MAX 4096 /* a program with more of them at a time is one that frees them */
static struct {
    pthread_mutex_t lock;
    size_t count;
    struct name {
        uint64_t base, bytes;
        uint64_t buffer; /* the driver numbers allocations and uses no number twice */
        struct cuda_ipc_handle handle;
    } list[NAMES_MAX];
} ipc_names = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* With the lock: the place of the first name that does not end before the address. */
static size_t place_of(uint64_t address)
{
    size_t low = 0, high = ipc_names.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ipc_names.list[middle].base + ipc_names.list[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* With the lock: the name of some of these bytes, or NULL. */
static const struct name *find_name(uint64_t base, uint64_t bytes)
{
    size_t at = place_of(base);
    return at < ipc_names.count && ipc_names.list[at].base < base + bytes ? &ipc_names.list[at]
                                                                          : NULL;
}

bool mem_cuda_is_named(const void *base, size_t bytes)
{
    pthread_mutex_lock(&ipc_names.lock);
    bool named = find_name(cuda_address_of(base), bytes) != NULL;
    pthread_mutex_unlock(&ipc_names.lock);
    return named;
}

bool mem_can_share(const struct mem_place *place)
{
    pthread_mutex_lock(&ipc_names.lock);
    const struct name *name = find_name(cuda_address_of(place->base), place->bytes);
    bool can = name ? name->buffer == place->buffer : ipc_names.count < NAMES_MAX;
    pthread_mutex_unlock(&ipc_names.lock);
    /* The library's own blocks are never freed and need no name to say so. */
    return place->shareable && (can || (!name && mem_cuda_block_device(place->base)));
}

static void keep_name(const struct mem_place *place, const struct cuda_ipc_handle *handle)
{
    struct name made = {.base = cuda_address_of(place->base),
                        .bytes = place->bytes,
                        .buffer = place->buffer,
                        .handle = *handle};
    pthread_mutex_lock(&ipc_names.lock);
    if (!find_name(made.base, made.bytes) && ipc_names.count < NAMES_MAX) {
        size_t at = place_of(made.base);
        memmove(&ipc_names.list[at + 1], &ipc_names.list[at], (ipc_names.count - at) * sizeof made);
        ipc_names.count++;
        ipc_names.list[at] = made;
    }
    pthread_mutex_unlock(&ipc_names.lock);
}

/* Asks the driver once per allocation. */
static tutti_status name_of(const struct mem_place *place, struct cuda_ipc_handle *handle)
{
    struct cuda_scope scope;
    pthread_mutex_lock(&ipc_names.lock);
    const struct name *name = find_name(cuda_address_of(place->base), place->bytes);
    if (name)
        *handle = name->handle;
    pthread_mutex_unlock(&ipc_names.lock);
    if (name)
        return TUTTI_OK;
    tutti_status status = mem_cuda_enter(place->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = place->device->driver->ipc_get(handle, cuda_address_of(place->base));
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "name memory at %p of %s for other processes", place->base,
                             place->device->name);
    keep_name(place, handle);
    return TUTTI_OK;
}

tutti_status mem_cuda_make_sample(struct mem_device *device)
{
    struct cuda_ipc_handle handle;
    struct cuda_scope scope;
    void *block;
    tutti_status status = mem_device_take(device, SAMPLE_BYTES, &block);
    if (status != TUTTI_OK)
        return status;
    struct mem_share *sample = &device->sample;
    *sample = (struct mem_share){.base = cuda_address_of(block)};
    memcpy(sample->device, device->uuid.bytes, sizeof sample->device);
    status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    const struct cuda_driver *driver = device->driver;
    if (driver->pointer_attribute(&sample->buffer, CUDA_POINTER_BUFFER_ID, sample->base) ==
            CUDA_DRIVER_OK &&
        driver->ipc_get(&handle, sample->base) == CUDA_DRIVER_OK) {
        memcpy(sample->handle, handle.bytes, sizeof sample->handle);
        sample->bytes = SAMPLE_BYTES;
    }
    mem_cuda_leave(&scope);
    return TUTTI_OK;
}

void mem_device_sample(const struct mem_device *device, struct mem_share *sample)
{
    *sample = device->sample;
    sample->process = process_number();
}

tutti_status mem_share(const struct mem_place *place, struct mem_share *share)
{
    must(place->device != NULL);
    if (!place->shareable)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "memory at %p of %s cannot be mapped by other processes: it is from a memory "
                    "pool, virtual or managed memory",
                    place->base, place->device->name);
    if (!mem_can_share(place))
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "memory at %p of %s cannot be mapped by other processes: they may still map "
                    "what was freed there",
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
        if (a->buffer == share->buffer && a->process == share->process && a->device == device)
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
    }
    *attachment = attached.list[--attached.count];
}

static void close_mapping(struct mem_device *device, cuda_address base)
{
    struct cuda_scope scope;
    if (mem_cuda_enter(device, &scope) != TUTTI_OK)
        return;
    (void)device->driver->ipc_close(base);
    mem_cuda_leave(&scope);
}

void mem_detach(void)
{
    lock_take(&attached.lock);
    while (attached.count > 0) {
        const struct attachment *last = &attached.list[--attached.count];
        close_mapping(last->device, last->base);
    }
    mem_cuda_free_aside();
    while (attached.dropped) {
        struct dropped *first = attached.dropped;
        attached.dropped = first->next;
        close_mapping(first->device, first->base);
        free(first);
    }
    lock_leave(&attached.lock);
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

/* The driver's answer about the size is compared with the peer's, because whoever reads beyond it
 * fails the device. */
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

/* Whether it is attached, and then the answer. */
static bool is_attached(const struct mem_device *device, const struct mem_share *share,
                        cuda_address *base, tutti_status *status)
{
    lock_take(&attached.lock);
    struct attachment *found = find_attachment(device, share);
    *status = TUTTI_OK;
    if (found && found->bytes != share->bytes)
        *status = fail(
            TUTTI_ERR_PROTOCOL, "a peer's memory on %s has %llu bytes, but was announced with %llu",
            device->name, (unsigned long long)found->bytes, (unsigned long long)share->bytes);
    if (found) {
        found->used = found->used == HELD ? HELD : ++attached.stamp;
        *base = found->base;
    }
    lock_leave(&attached.lock);
    return found != NULL;
}

static tutti_status attach(struct mem_device *device, const struct mem_share *share, bool held,
                           cuda_address *base)
{
    tutti_status status;
    if (is_attached(device, share, base, &status))
        return status;
    lock_take(&attached.opening);
    if (!is_attached(device, share, base, &status)) { /* nor by another thread meanwhile */
        status = map(device, share, base);
        lock_take(&attached.lock);
        if (status == TUTTI_OK) {
            make_room();
            attached.list[attached.count++] =
                (struct attachment){.device = device,
                                    .process = share->process,
                                    .buffer = share->buffer,
                                    .bytes = share->bytes,
                                    .base = *base,
                                    .used = held ? HELD : ++attached.stamp};
        }
        lock_leave(&attached.lock);
    }
    lock_leave(&attached.opening);
    return status;
}

tutti_status mem_attach(struct mem_device *device, const struct mem_share *share, void **base)
{
    cuda_address mapped = share->base;
    tutti_status status = TUTTI_OK;
    if (share->process != process_number())
        status = attach(device, share, false, &mapped);
    if (status == TUTTI_OK)
        *base = (void *)(uintptr_t)mapped;
    return status;
}

/* ---- what a device reaches ------------------------------------------------------------------ */

/* How the driver connects the device to the one of that uuid. Links between GPUs carry atomic
 * operations, the bus does not. */
static enum mem_reach connection(const struct mem_device *device, const uint8_t uuid[16])
{
    const struct cuda_driver *driver = device->driver;
    struct cuda_uuid other;
    int count = 0, can = 0, atomics = 0;
    if (driver->device_count(&count) != CUDA_DRIVER_OK)
        return MEM_REACH_NONE;
    for (int i = 0; i < count; i++) {
        if (driver->device_uuid(&other, i) != CUDA_DRIVER_OK ||
            memcmp(&other, uuid, sizeof other) != 0)
            continue;
        if (driver->device_peer(&can, device->ordinal, i) != CUDA_DRIVER_OK || !can)
            return MEM_REACH_NONE;
        bool linked = driver->device_link(&atomics, CUDA_PEER_ATOMICS, device->ordinal, i) ==
                          CUDA_DRIVER_OK &&
                      atomics;
        return linked ? MEM_REACH_LINK : MEM_REACH_BUS;
    }
    return MEM_REACH_NONE;
}

/* Opens what the other one of this process has, and will have, to this one. */
static bool open_other(struct mem_device *device, const struct mem_device *other)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct cuda_scope scope;
    uint64_t bit = UINT64_C(1) << other->number;
    pthread_mutex_lock(&lock);
    if (!(device->opened & bit) && mem_cuda_enter(device, &scope) == TUTTI_OK) {
        cuda_result result = device->driver->context_open(other->context, 0);
        mem_cuda_leave(&scope);
        if (result == CUDA_DRIVER_OK || result == CUDA_DRIVER_PEER_OPEN)
            device->opened |= bit;
    }
    bool opened = (device->opened & bit) != 0;
    pthread_mutex_unlock(&lock);
    return opened;
}

enum mem_reach mem_device_reach(struct mem_device *device, const struct mem_share *sample)
{
    bool is_same = memcmp(&device->uuid, sample->device, sizeof device->uuid) == 0;
    bool here = sample->process == process_number();
    const struct mem_device *other =
        here ? mem_cuda_block_device((void *)(uintptr_t)sample->base) : NULL;
    cuda_address base;
    if (other == device)
        return MEM_REACH_SAME;
    enum mem_reach reach = is_same ? MEM_REACH_SAME : connection(device, sample->device);
    if (reach == MEM_REACH_NONE)
        return reach;
    if (here)
        return other && open_other(device, other) ? reach : MEM_REACH_NONE;
    if (sample->bytes > 0 && attach(device, sample, true, &base) == TUTTI_OK)
        return reach;
    log_at(LOG_LEVEL_INFO, -1, "%s does not work in GPU memory of another process: %s",
           device->name, sample->bytes > 0 ? status_sentence() : "the driver names none");
    return MEM_REACH_NONE;
}
