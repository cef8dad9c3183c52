/* gpu.c: memory of GPUs that adapters read and write by themselves.
 * The idea: an allocation is registered whole, once, on every rail and for both directions, and
 * found again by its address and the id that the driver gave it. The id is never used twice, so a
 * registration of memory that was freed, and whose address holds another allocation now, is told
 * from a good one. What cannot be registered is noted in the same way, and not tried again.
 *
 *   DMABUF    the driver's descriptor of the memory, imported by the kernel's RDMA core; nothing
 *             but a kernel and an adapter's driver that know it (5.12, 2021)
 *   PEERMEM   the plain registration of the address, which a module of the GPU's driver
 *             (nvidia-peermem) teaches the kernel
 *   STAGED    none of these: the caller copies through host memory
 *
 * Only long transfers go this way: eager messages are in slots of host memory, and iWARP's are not
 * tried. A link whose rails are all gone ends while such a transfer is open: a socket cannot carry
 * its bytes on.
 *
 * Invariant: a region in use is not released. Freed memory stays pinned by its region at most until
 * other memory is registered, for then all regions are looked at; peermem takes it away at once. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "transports/verbs/verbs.h"

static int flags_of(int access)
{
    return access == VERBS_ACCESS_SEND ? 0 : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
}

static struct ibv_mr *by_dmabuf(struct verbs_rail *rail, const struct verbs_region *region, int fd,
                                uint64_t offset, int access)
{
#ifdef TUTTI_WITH_DMABUF
    const struct library *library = rail->verbs->library;
    size_t len = region->end - region->begin;
    struct ibv_mr *mr = NULL;
    if (rail->relaxed)
        mr = library->ibv.reg_dmabuf_mr(rail->pd, offset, len, region->begin, fd,
                                        flags_of(access) | (int)IBV_ACCESS_RELAXED_ORDERING);
    return mr ? mr
              : library->ibv.reg_dmabuf_mr(rail->pd, offset, len, region->begin, fd,
                                           flags_of(access));
#else
    errno = EOPNOTSUPP;
    return NULL;
#endif
}

static struct ibv_mr *by_address(struct verbs_rail *rail, const struct verbs_region *region,
                                 int access)
{
    const struct library *library = rail->verbs->library;
    void *data = (void *)region->begin;
    size_t len = region->end - region->begin;
    struct ibv_mr *mr = NULL;
    if (rail->relaxed)
        mr = library->ibv.reg_mr_iova2(rail->pd, data, len, region->begin,
                                       (unsigned)flags_of(access) | IBV_ACCESS_RELAXED_ORDERING);
    return mr ? mr : library->ibv.reg_mr(rail->pd, data, len, flags_of(access));
}

static void undo(const struct verbs *verbs, struct verbs_region *region)
{
    for (uint32_t r = 0; r < verbs->rail_count; r++) {
        for (int access = 0; access < VERBS_ACCESSES; access++) {
            if (region->mr[r][access])
                verbs->library->ibv.dereg_mr(region->mr[r][access]);
            region->mr[r][access] = NULL;
        }
    }
}

/* Registers everywhere in one way, or nowhere. */
static tutti_status try_way(struct verbs *verbs, struct verbs_region *region,
                            const struct mem_export *memory, enum choose_gpu way)
{
    int fd = -1;
    uint64_t offset = 0;
    tutti_status status = mem_nic_admit(memory);
    if (status == TUTTI_OK && way == CHOOSE_GPU_DMABUF)
        status = mem_nic_dmabuf(memory, &fd, &offset);
    for (uint32_t at = 0; at < verbs->rail_count * VERBS_ACCESSES && status == TUTTI_OK; at++) {
        struct verbs_rail *rail = &verbs->rails[at / VERBS_ACCESSES];
        int access = (int)(at % VERBS_ACCESSES);
        if (rail->gone)
            continue;
        struct ibv_mr *mr = way == CHOOSE_GPU_DMABUF ? by_dmabuf(rail, region, fd, offset, access)
                                                     : by_address(rail, region, access);
        region->mr[rail->index][access] = mr;
        verbs->registrations += mr != NULL;
        if (!mr)
            status = fail_errno(
                TUTTI_ERR_UNSUPPORTED, "%s registers no %zu bytes of it by %s", rail->name,
                memory->bytes,
                way == CHOOSE_GPU_DMABUF ? "dma-buf" : "its address (is nvidia-peermem loaded?)");
    }
    if (fd >= 0)
        close(fd);
    if (status != TUTTI_OK)
        undo(verbs, region);
    region->pinned[VERBS_ACCESS_SEND] = region->pinned[VERBS_ACCESS_RECEIVE] = status == TUTTI_OK;
    return status;
}

/* Says once what becomes of GPU memory. */
static void tell(struct verbs *verbs, enum choose_gpu way)
{
    static const char *const words[] = {"dma-buf", "peer memory"};
    if (verbs->gpu_told & 1u << (way == CHOOSE_GPU_STAGED))
        return;
    verbs->gpu_told |= 1u << (way == CHOOSE_GPU_STAGED);
    if (way == CHOOSE_GPU_STAGED)
        log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
               "verbs: GPU memory goes through host memory: %s", status_sentence());
    else
        log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
               "verbs: GPU memory is read and written by the adapters themselves (%s)", words[way]);
}

static enum choose_gpu next_way(const struct verbs *verbs, unsigned from)
{
    bool dmabuf = false;
#ifdef TUTTI_WITH_DMABUF
    dmabuf = verbs->library->ibv.reg_dmabuf_mr != NULL;
#endif
    if (verbs->layer == CHOOSE_LAYER_IWARP)
        return CHOOSE_GPU_STAGED;
    return choose_gpu(verbs->config->settings->verbs_gpu, from, dmabuf);
}

/* Allocations that are gone, or whose place another one has. */
static void sweep(struct verbs *verbs)
{
    struct verbs_region *next;
    for (struct verbs_region *region = verbs->regions; region; region = next) {
        struct mem_export found;
        next = region->next;
        if (region->kind == VERBS_REGION_DEVICE &&
            !(mem_nic_find((void *)region->begin, &found) && found.id == region->id))
            memory_remove(verbs, region);
    }
}

/* The region of the allocation that holds the pointer, NULL: not noted yet. */
static struct verbs_region *find(struct verbs *verbs, const struct mem_export *memory)
{
    for (struct verbs_region *region = verbs->regions; region; region = region->next) {
        if (region->kind == VERBS_REGION_DEVICE && region->id == memory->id && !region->stale)
            return region;
    }
    return NULL;
}

static struct verbs_region *add(struct verbs *verbs, const struct mem_export *memory)
{
    struct verbs_region *region;
    sweep(verbs);
    if (memory_note(verbs, VERBS_REGION_DEVICE, memory->base, memory->bytes, memory->id, &region) !=
        TUTTI_OK)
        return NULL;
    enum choose_gpu way = next_way(verbs, CHOOSE_GPU_DMABUF);
    while (way != CHOOSE_GPU_STAGED && try_way(verbs, region, memory, way) != TUTTI_OK)
        way = next_way(verbs, way + 1);
    tell(verbs, way);
    return region;
}

static bool is_registered(const struct verbs_region *region)
{
    return region->pinned[VERBS_ACCESS_SEND];
}

/* A link over which long transfers go by the adapters. */
static bool is_good(const struct verbs_link *link, size_t len)
{
    return link && link->state == VERBS_LINK_UP && !link->relay && len > link->flows[0].eager_max;
}

/* Virtual memory may be mapped of several allocations, one behind the other. */
static bool lies_in(const struct mem_export *found, const void *memory, size_t len)
{
    return len <= found->bytes - ((uintptr_t)memory - (uintptr_t)found->base);
}

bool gpu_takes(struct verbs *verbs, uint32_t peer, const void *memory, size_t len)
{
    struct mem_export found;
    if (next_way(verbs, CHOOSE_GPU_DMABUF) == CHOOSE_GPU_STAGED)
        return false;
    if (!memory)
        return true;
    if (!is_good(verbs->links[peer], len) || !mem_nic_find(memory, &found) ||
        !lies_in(&found, memory, len))
        return false;
    if (!verbs->staging)
        verbs->staging = malloc(verbs->config->settings->verbs_slot);
    struct verbs_region *region = find(verbs, &found);
    if (!region)
        region = add(verbs, &found);
    return verbs->staging && region && is_registered(region);
}

tutti_status gpu_hold(struct verbs *verbs, const struct xfer *xfer, struct verbs_region **held)
{
    struct mem_export found;
    *held = NULL;
    if (!xfer->on_device)
        return TUTTI_OK;
    struct verbs_region *region = mem_nic_find(xfer->data, &found) ? find(verbs, &found) : NULL;
    if (!region || !is_registered(region))
        return fail(TUTTI_ERR_STATE,
                    "GPU memory at %p was freed while it was to be sent to or "
                    "received from %s",
                    xfer->data, verbs_peer_name(verbs, xfer->peer));
    if (verbs->links[xfer->peer]->relay)
        return gpu_refuse_socket(verbs->links[xfer->peer]);
    region->uses++;
    *held = region;
    return TUTTI_OK;
}

tutti_status gpu_refuse_socket(struct verbs_link *link)
{
    link_end(link, TUTTI_ERR_PEER,
             "the RDMA link to %s is lost while GPU memory was on its way, which cannot go on over "
             "TCP (TUTTI_VERBS_GPU=off sends it through host memory, which can)",
             verbs_peer_name(link->verbs, link->peer));
    return link_refuse(link);
}

bool gpu_is_open(const struct verbs_link *link)
{
    bool any = false;
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        const struct flow *flow = &link->flows[lane];
        for (uint16_t seq = flow->send_done; seq != flow->send_next; seq++)
            any |= flow->sends[seq % FLOW_POSTED_MAX]->on_device;
        for (uint16_t seq = flow->recv_done; seq != flow->recv_next; seq++)
            any |= flow->recvs[seq % FLOW_POSTED_MAX]->on_device;
    }
    return any;
}
