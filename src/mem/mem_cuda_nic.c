/* mem_cuda_nic.c: device memory that network adapters read and write by themselves.
 *
 * What an adapter reads was written by work that the CPU has seen end, and the end of work makes
 * its bytes visible to everybody. What an adapter writes lands beside the completion that tells the
 * CPU, which lies in host memory: the two are not ordered by the bus. Work that is given to the
 * device after the CPU has seen the completion finds the bytes all the same, for the calls that
 * give work order what came before them. But a stream of the program that waits for a word of the
 * CPU's was given its work long before, and so was a graph; and another adapter, which is to send
 * the bytes on, comes by a way of its own. Devices whose writes are ordered for whoever works in
 * them (WRITES_ORDERING, Hopper and later) need nothing; others are flushed after each arrival; a
 * device that can do neither is not for adapters.
 *
 * Source: CUDA driver API, cuFlushGPUDirectRDMAWrites; GPUDirect RDMA, "Synchronization and memory
 * ordering". */
#include <unistd.h>

#include "base/check.h"
#include "mem/mem_cuda.h"

/* With the context entered. */
void mem_cuda_look_for_nics(struct mem_device *device)
{
    const struct cuda_driver *driver = device->driver;
    static const int attributes[] = {CUDA_DEVICE_DMABUF, CUDA_DEVICE_RDMA, CUDA_DEVICE_ORDERING,
                                     CUDA_DEVICE_FLUSH};
    int value[4] = {0};
    for (int i = 0; i < 4; i++) {
        if (driver->device_attribute(&value[i], attributes[i], device->ordinal) != CUDA_DRIVER_OK)
            value[i] = 0;
    }
    device->dmabuf = driver->range_handle && value[0] != 0;
    device->nic_ordered = value[2] >= CUDA_ORDERING_OWNER;
    device->nic = value[1] != 0 && (device->nic_ordered ||
                                    (driver->nic_flush && (value[3] & CUDA_FLUSH_BY_HOST) != 0));
}

bool mem_nic_find(const void *pointer, struct mem_export *out)
{
    struct mem_place place;
    if (!mem_device_present() || mem_device_of(pointer, &place) != TUTTI_OK || !place.device)
        return false;
    *out =
        (struct mem_export){.id = place.buffer, .fd = -1, .bytes = place.bytes, .base = place.base};
    return true;
}

static struct mem_device *device_of(const void *pointer)
{
    struct mem_place place;
    return mem_device_of(pointer, &place) == TUTTI_OK ? place.device : NULL;
}

tutti_status mem_nic_admit(const struct mem_export *memory)
{
    struct mem_device *device = device_of(memory->base);
    if (!device)
        return fail(TUTTI_ERR_UNSUPPORTED, "memory at %p is no device's any more", memory->base);
    if (!device->nic)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "%s lets no adapter write into its memory, or cannot say when it has",
                    device->name);
    const struct cuda_driver *driver = device->driver;
    int attributes[] = {CUDA_POINTER_IS_MANAGED, CUDA_POINTER_CONTEXT}, capable = 0;
    uint64_t value[2] = {0};
    void *values[] = {&value[0], &value[1]};
    cuda_address base = cuda_address_of(memory->base);
    cuda_result result = driver->pointer_attributes(2, attributes, values, base);
    if (result == CUDA_DRIVER_OK) /* not among what can be asked for together */
        result = driver->pointer_attribute(&capable, CUDA_POINTER_NIC_CAPABLE, base);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "ask whether adapters reach memory at %p", memory->base);
    /* Of virtual memory, which belongs to no context, the driver says what is reserved, of which a
     * part may be mapped, now of one allocation and then of another. */
    if ((uint8_t)capable == 0 || (uint8_t)value[0] != 0 || value[1] == 0)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "memory at %p of %s is not made for adapters: it is from a memory pool, "
                    "managed, or virtual",
                    memory->base, device->name);
    return TUTTI_OK;
}

tutti_status mem_nic_settle(const struct mem_place *place)
{
    int on = 1;
    struct cuda_scope scope;
    must(place->device != NULL);
    tutti_status status = mem_cuda_enter(place->device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = place->device->driver->pointer_set(&on, CUDA_POINTER_SYNC_MEMOPS,
                                                            cuda_address_of(place->base));
    mem_cuda_leave(&scope);
    if (result == CUDA_DRIVER_OK)
        return TUTTI_OK;
    (void)mem_cuda_fail(result, "make copies of memory at %p of %s synchronous", place->base,
                        place->device->name);
    return TUTTI_ERR_UNSUPPORTED;
}

tutti_status mem_nic_dmabuf(const struct mem_export *memory, int *fd, uint64_t *offset)
{
    struct mem_device *device = device_of(memory->base);
    if (!device || !device->dmabuf)
        return fail(TUTTI_ERR_UNSUPPORTED, "%s exports no dma-buf",
                    device ? device->name : "the device");
    /* Whole pages; the driver's own pages are larger, so that these lie in the allocation's. */
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = cuda_address_of(memory->base);
    uint64_t first = start / page * page, end = (start + memory->bytes + page - 1) / page * page;
    int made = -1;
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result =
        device->driver->range_handle(&made, first, end - first, CUDA_RANGE_DMABUF, 0);
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK) {
        (void)mem_cuda_fail(result, "export memory at %p of %s as a dma-buf", memory->base,
                            device->name);
        return TUTTI_ERR_UNSUPPORTED;
    }
    *fd = made;
    *offset = start - first;
    return TUTTI_OK;
}

tutti_status mem_nic_flush(const void *pointer)
{
    struct mem_place place = {.device = NULL};
    struct cuda_scope scope;
    tutti_status status = mem_device_of(pointer, &place);
    struct mem_device *device = place.device;
    if (status != TUTTI_OK || !device || device->nic_ordered)
        return status;
    status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = device->driver->nic_flush(CUDA_FLUSH_CURRENT, CUDA_ORDERING_OWNER);
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK
               ? TUTTI_OK
               : mem_cuda_fail(result, "make what an adapter wrote visible to %s", device->name);
}

tutti_status mem_nic_copy(void *dst, const void *src, size_t len)
{
    struct mem_place to = {.device = NULL}, from = {.device = NULL};
    tutti_status status = mem_device_of(dst, &to);
    if (status == TUTTI_OK && !to.device)
        status = mem_device_of(src, &from);
    if (status != TUTTI_OK)
        return status;
    must(to.device || from.device);
    return mem_cuda_copy_across(to.device, from.device, dst, src, len);
}
