/* shm_memory.c: the memory that two processes of one host share: a link's rings, regions of
 * tutti_mem_alloc memory read in place, and cross-memory attach (process_vm_readv) for memory that
 * came from elsewhere.
 *
 * Invariants. A file is mapped only if its size is sealed against shrinking, so that no peer can
 * make this process fault. The pages of rings are allocated before they are mapped, so a full
 * memory limit is an error here and never a signal later. A region's id is never used twice by its
 * process and a peer is told when a region is freed, so old bytes are never served as new ones.
 * Every read of a foreign address space also reads a random word at a known place there, so that a
 * process that took over a dead peer's number is not mistaken for it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/owned.h"
#include "transports/shm.h"

#define PAGE_BYTES 4096u

/* Payload space is a compromise between one long message in few pieces and rings that stay in the
 * private caches; where ranks are many, links are many more, and a link must be small. */
struct ring_shape shm_ring_shape(const struct transport_config *config)
{
    if (config->size <= 16)
        return (struct ring_shape){.slots = 64, .data_bytes = 64u << 10};
    if (config->size <= 64)
        return (struct ring_shape){.slots = 16, .data_bytes = 16u << 10};
    return (struct ring_shape){.slots = 8, .data_bytes = 8u << 10};
}

/* ---- rings ---- */

/* Each ring on its own pages. */
static size_t ring_stride(const struct ring_shape *shape)
{
    return (ring_bytes(shape) + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

static tutti_status rings_map(struct shm *shm, struct shm_link *link, int fd, bool dialer)
{
    struct ring_shape shape = shm_ring_shape(shm->local.config);
    size_t stride = ring_stride(&shape);
    size_t bytes = (size_t)2 * shm->local.config->lanes * stride;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (map == MAP_FAILED)
        return fail_errno(TUTTI_ERR_NOMEM, "shm: mapping %zu bytes shared with %s", bytes,
                          shm_peer_name(shm, link->base.peer));
    link->map = map;
    link->map_bytes = bytes;
    uint8_t *low = map, *high = low + stride;
    local_link_attach(&shm->local, &link->base, &shape, dialer ? low : high, dialer ? high : low,
                      2 * stride);
    return TUTTI_OK;
}

tutti_status shm_rings_make(struct shm *shm, struct shm_link *link, int *fd)
{
    struct ring_shape shape = shm_ring_shape(shm->local.config);
    size_t bytes = (size_t)2 * shm->local.config->lanes * ring_stride(&shape);
    int file = memfd_create("tutti-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: a memory file for the link to %s",
                          shm_peer_name(shm, link->base.peer));
    tutti_status status = mem_size_file(file, bytes);
    if (status == TUTTI_OK && mem_fill_file(file, 0, bytes) < 0)
        status = fail_errno(TUTTI_ERR_NOMEM, "shm: %zu bytes to share with %s", bytes,
                            shm_peer_name(shm, link->base.peer));
    else if (status == TUTTI_OK &&
             fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        status = fail_errno(TUTTI_ERR_SYSTEM, "shm: sealing the link to %s",
                            shm_peer_name(shm, link->base.peer));
    if (status == TUTTI_OK)
        status = rings_map(shm, link, file, true);
    if (status != TUTTI_OK)
        close(file);
    else
        *fd = owned_add(file);
    return status;
}

/* Can a file be mapped without fear: at least so long, and never shorter? */
static bool file_is_safe(int fd, uint64_t bytes)
{
    struct stat facts;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &facts) == 0 && bytes > 0 &&
           (uint64_t)facts.st_size >= bytes;
}

tutti_status shm_rings_take(struct shm *shm, struct shm_link *link, int fd)
{
    struct ring_shape shape = shm_ring_shape(shm->local.config);
    if (fd < 0)
        return fail(TUTTI_ERR_NOMEM,
                    "shm: the descriptor of the memory shared with %s was lost: too many open "
                    "files?",
                    shm_peer_name(shm, link->base.peer));
    if (!file_is_safe(fd, (size_t)2 * shm->local.config->lanes * ring_stride(&shape)))
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s passed memory that is too small or not sealed",
                    shm_peer_name(shm, link->base.peer));
    return rings_map(shm, link, fd, false);
}

void shm_memory_free(struct shm_link *link)
{
    for (uint32_t i = 0; i < link->theirs_count; i++)
        munmap(link->theirs[i].base, link->theirs[i].bytes);
    link->theirs_count = 0;
    if (link->map)
        munmap(link->map, link->map_bytes);
    link->map = NULL;
}

/* ---- regions that the peer offers ---- */

static tutti_status region_map(struct shm *shm, struct shm_link *link, uint64_t id, uint64_t bytes,
                               int fd)
{
    const char *name = shm_peer_name(shm, link->base.peer);
    if (fd < 0)
        return fail(TUTTI_ERR_NOMEM,
                    "shm: the descriptor of a memory region of %s was lost: too many open files?",
                    name);
    void *base = MAP_FAILED;
    tutti_status status = TUTTI_OK;
    if (link->theirs_count == SHM_REGIONS_MAX || !file_is_safe(fd, bytes))
        status = fail(TUTTI_ERR_PROTOCOL,
                      "shm: %s offered memory that is too small, not sealed, "
                      "or one region too many",
                      name);
    else if ((base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        status = fail_errno(TUTTI_ERR_NOMEM, "shm: mapping %llu bytes of %s",
                            (unsigned long long)bytes, name);
    close(fd);
    if (status == TUTTI_OK) {
        madvise(base, bytes, MADV_HUGEPAGE); /* as the owner did; only speed depends on it */
        link->theirs[link->theirs_count++] =
            (struct shm_region){.id = id, .base = base, .bytes = bytes};
    }
    return status;
}

tutti_status shm_region_add(struct shm *shm, struct shm_link *link, uint64_t id, uint64_t bytes,
                            int fd)
{
    tutti_status status = region_map(shm, link, id, bytes, fd);
    if (status != TUTTI_ERR_NOMEM)
        return status;
    snprintf(link->lack, sizeof link->lack, "%s", status_sentence());
    return TUTTI_OK;
}

void shm_region_drop(struct shm_link *link, uint64_t id)
{
    for (uint32_t i = 0; i < link->theirs_count; i++) {
        if (link->theirs[i].id == id) {
            munmap(link->theirs[i].base, link->theirs[i].bytes);
            link->theirs[i] = link->theirs[--link->theirs_count];
            link->theirs_last = 0;
            return;
        }
    }
}

static const struct shm_region *region_find(struct shm_link *link, uint64_t id)
{
    uint32_t last = link->theirs_last;
    if (last < link->theirs_count && link->theirs[last].id == id)
        return &link->theirs[last];
    for (uint32_t i = 0; i < link->theirs_count; i++) {
        if (link->theirs[i].id == id) {
            link->theirs_last = i;
            return &link->theirs[i];
        }
    }
    return NULL;
}

static tutti_status fetch_region(struct shm *shm, struct shm_link *link, const uint64_t word[2],
                                 struct xfer *xfer, size_t off, size_t n)
{
    const struct shm_region *region = region_find(link, word[0]);
    if (!region) {
        /* Its descriptor was sent before the slot was written, so it is in the socket. */
        shm_link_read(shm, link);
        region = region_find(link, word[0]);
    }
    if (!region && link->base.down)
        return fail(link->base.down, "%s", link->base.sentence);
    if (!region && link->lack[0])
        return fail(TUTTI_ERR_NOMEM, "%s", link->lack);
    if (!region || word[1] > region->bytes || xfer->len > region->bytes - word[1])
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s offered bytes outside the memory it shares",
                    shm_peer_name(shm, link->base.peer));
    local_apply(xfer, off, region->base + word[1] + off, n);
    return TUTTI_OK;
}

/* ---- regions that this side offers ---- */

static bool find_allocation(struct shm *shm, const void *data, size_t len, struct mem_export *out)
{
    uint64_t generation = mem_generation();
    if (generation != shm->found_generation) {
        memset(shm->found, 0, sizeof shm->found);
        shm->found_generation = generation;
    }
    for (unsigned i = 0; i < sizeof shm->found / sizeof shm->found[0]; i++) {
        const struct mem_export *found = &shm->found[i];
        uintptr_t off = (uintptr_t)data - (uintptr_t)found->base;
        if (found->base && off < found->bytes && len <= found->bytes - off) {
            *out = *found;
            return true;
        }
    }
    if (!mem_find(data, len, out))
        return false;
    shm->found[shm->found_next++ % 4] = *out;
    return true;
}

static bool region_tell_gone(struct shm *shm, struct shm_link *link, uint32_t index)
{
    struct shm_packet packet = {.kind = SHM_GONE, .region.id = link->ours[index].id};
    if (!shm_packet_send(shm, link, &packet, -1))
        return false;
    link->ours[index] = link->ours[--link->ours_count];
    link->ours_last = 0;
    return true;
}

void shm_regions_sweep(struct shm *shm, struct shm_link *link)
{
    uint64_t generation = mem_generation();
    if (generation == link->ours_generation)
        return;
    for (uint32_t i = link->ours_count; i-- > 0;) {
        struct mem_export now;
        if (mem_find(link->ours[i].base, 1, &now) && now.id == link->ours[i].id)
            continue;
        if (!region_tell_gone(shm, link, i))
            return; /* no room in the socket: another time */
    }
    link->ours_generation = generation;
}

/* Room for one more: the oldest is withdrawn, unless something is still being read in place. */
static bool region_make_room(struct shm *shm, struct shm_link *link)
{
    for (uint32_t i = 0; i < shm->local.config->lanes; i++) {
        if (link->base.lanes[i].send_head)
            return false;
    }
    return region_tell_gone(shm, link, link->ours_evict++ % SHM_REGIONS_MAX);
}

/* Does the peer know this region, or can it be told now? */
static bool region_told(struct shm *shm, struct shm_link *link, const struct mem_export *found)
{
    if (link->ours_last < link->ours_count && link->ours[link->ours_last].id == found->id)
        return true;
    for (uint32_t i = 0; i < link->ours_count; i++) {
        if (link->ours[i].id == found->id) {
            link->ours_last = i;
            return true;
        }
    }
    shm_regions_sweep(shm, link);
    if (link->ours_count == SHM_REGIONS_MAX && !region_make_room(shm, link))
        return false;
    struct shm_packet packet = {.kind = SHM_REGION,
                                .region = {.id = found->id, .bytes = found->bytes}};
    if (!shm_packet_send(shm, link, &packet, found->fd))
        return false;
    link->ours_last = link->ours_count;
    link->ours[link->ours_count++] =
        (struct shm_region){.id = found->id, .base = found->base, .bytes = found->bytes};
    return true;
}

bool shm_refer(struct local *local, struct local_link *base, const struct xfer *xfer,
               struct slot_copy *slot)
{
    struct shm *shm = (struct shm *)local;
    struct shm_link *link = (struct shm_link *)base;
    const struct settings *settings = local->config->settings;
    struct mem_export found;
    if (settings->inplace && find_allocation(shm, xfer->data, xfer->len, &found) &&
        region_told(shm, link, &found)) {
        slot->kind = SLOT_REGION;
        slot->word[0] = found.id;
        slot->word[1] = (uintptr_t)xfer->data - (uintptr_t)found.base;
        return true;
    }
    if (settings->cma && xfer->len >= SHM_FOREIGN_MIN &&
        atomic_load_explicit(&base->lanes[0].out->reads_foreign, memory_order_relaxed)) {
        slot->kind = SLOT_FOREIGN;
        slot->word[0] = (uint64_t)(uintptr_t)xfer->data;
        slot->word[1] = 0;
        return true;
    }
    return false;
}

/* ---- cross-memory attach ---- */

/* Reads n bytes at address of the peer's process into dst. */
static tutti_status foreign_read(struct shm *shm, struct shm_link *link, void *dst,
                                 uint64_t address, size_t n)
{
    uint64_t word = 0;
    struct iovec here[2] = {{&word, sizeof word}, {dst, n}};
    struct iovec there[2] = {{(void *)(uintptr_t)link->self.address, sizeof word},
                             {(void *)(uintptr_t)address, n}};
    size_t want = sizeof word + n;
    shm->local.stats.syscalls++;
    ssize_t got = process_vm_readv(link->pid, here, n > 0 ? 2 : 1, there, n > 0 ? 2 : 1, 0);
    if (got == (ssize_t)want && word == link->self.word)
        return TUTTI_OK;
    if (got < 0)
        return fail_errno(TUTTI_ERR_PEER, "shm: reading %zu bytes of the memory of %s", n,
                          shm_peer_name(shm, link->base.peer));
    return fail(TUTTI_ERR_PEER,
                "shm: the memory of %s cannot be read: it has died or its buffer "
                "is not mapped",
                shm_peer_name(shm, link->base.peer));
}

/* Where Yama restricts it (ptrace_scope 1, as on Ubuntu), only a process's ancestors may read its
 * memory, and whom it permits: one process with what descends from it, for as long as that lives,
 * or all that may without Yama, those of its user. Ranks have no ancestor in common that is sure to
 * live as long as they do. */
void shm_permit_reads(void)
{
    char scope = '0';
    int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, &scope, 1) == 1 && scope == '1')
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    close(fd);
}

void shm_foreign_probe(struct shm *shm, struct shm_link *link)
{
    if (!shm->local.config->settings->cma || link->pid <= 0 || !link->map ||
        foreign_read(shm, link, NULL, 0, 0) != TUTTI_OK)
        return;
    for (uint32_t i = 0; i < shm->local.config->lanes; i++)
        atomic_store(&link->base.lanes[i].in->reads_foreign, 1);
}

static tutti_status fetch_foreign(struct shm *shm, struct shm_link *link, uint64_t address,
                                  struct xfer *xfer, size_t off, size_t n)
{
    if (link->self.address == 0)
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s offered memory before it was asked to",
                    shm_peer_name(shm, link->base.peer));
    struct pace *pace = xfer->reducer ? NULL : xfer->pace;
    uint64_t begin;
    bool past = pace_begin(pace, &begin);
    if (!xfer->reducer && !past) {
        tutti_status status =
            foreign_read(shm, link, (uint8_t *)xfer->data + off, address + off, n);
        pace_end(pace, false, n, begin);
        return status;
    }
    /* Landed at the destination, if that is no operand, the bytes bring its lines into the cache:
     * the reduction would wait longer for them when it stores. */
    bool apart = xfer->reducer && xfer->dst != xfer->other;
    size_t most = apart ? n : SHM_BOUNCE_BYTES;
    for (size_t at = off; at < off + n; at += most) {
        size_t piece = off + n - at < most ? off + n - at : most;
        uint8_t *to = apart ? (uint8_t *)xfer->dst + at : shm->bounce;
        tutti_status status = foreign_read(shm, link, to, address + at, piece);
        if (status != TUTTI_OK)
            return status;
        local_apply(xfer, at, to, piece);
    }
    return TUTTI_OK;
}

tutti_status shm_fetch(struct local *local, struct lane *lane, struct xfer *xfer, size_t off,
                       size_t n)
{
    struct shm *shm = (struct shm *)local;
    struct shm_link *link = (struct shm_link *)lane->link;
    const uint64_t *word = lane->in_first.word;
    if (lane->in_first.kind == SLOT_REGION)
        return fetch_region(shm, link, word, xfer, off, n);
    return fetch_foreign(shm, link, word[0], xfer, off, n);
}
