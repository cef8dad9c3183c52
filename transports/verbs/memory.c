/* memory.c: registered memory.
 * The idea: what a device may read or write must be pinned, and pinning costs too much to do twice.
 * Three kinds of regions of host memory (gpu.c has the fourth), by how long their pages are known
 * to stay where they are:
 *
 *   LIBRARY    an allocation of mem_alloc: registered whole, once, until it is freed; mem's
 *              generation counter tells when to look, the allocation's id whether it is still there
 *   EXPLICIT   what the user registered: until he deregisters it, by his promise; he may do both
 *              from any thread: what it adds the one inside lists, what it marks that one releases
 *   ONCE       anything else: exactly the bytes of one transfer, while it is open (shared by
 *              transfers of the same bytes that are open together)
 *
 * Memory of the last kind is not kept for the next call: it may be freed and its address used
 * again, with other pages, and only interposing malloc (which we refuse) or the device's own
 * on-demand paging would tell. Paging is slower than locked memory, so it serves where the limit of
 * locked memory is reached, before copying does. Sends are registered without remote access,
 * receives with remote write; never both in one registration. Data may be written to memory in
 * relaxed order: nobody looks at it before its completion, which the device orders behind it.
 * Invariant: a region in use is not released. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "mem/mem.h"
#include "transports/verbs/verbs.h"

#define REGISTER_BYTES "register %zu bytes"

static int access_flags(enum verbs_access access)
{
    return access == VERBS_ACCESS_SEND ? 0 : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
}

tutti_status memory_fail(const struct verbs_rail *rail, const char *format, ...)
{
    struct rlimit limit;
    char what[128];
    va_list args;
    int error = errno;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if ((error == ENOMEM || error == EAGAIN || error == EPERM) &&
        getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return fail(TUTTI_ERR_NOMEM,
                    "%s cannot %s: the limit of locked memory is %llu KiB: raise it "
                    "(`ulimit -l unlimited`, or memlock in /etc/security/limits.conf, or "
                    "LimitMEMLOCK of the service that starts the job)",
                    rail->name, what, (unsigned long long)limit.rlim_cur / 1024);
    errno = error;
    return fail_errno(error == EIO ? TUTTI_ERR_SYSTEM : TUTTI_ERR_NOMEM, "%s cannot %s", rail->name,
                      what);
}

/* ---- regions ----------------------------------------------------------------------------------
 */

static void discard(struct verbs *verbs, struct verbs_region *region)
{
    for (uint32_t r = 0; r < CHOOSE_RAILS_MAX; r++) {
        for (int access = 0; access < VERBS_ACCESSES; access++) {
            if (region->mr[r][access])
                verbs->library->ibv.dereg_mr(region->mr[r][access]);
        }
    }
    atomic_fetch_sub(&verbs->region_count, 1);
    free(region);
}

static void release(struct verbs *verbs, struct verbs_region *region)
{
    *region->prev = region->next;
    if (region->next)
        region->next->prev = region->prev;
    discard(verbs, region);
}

/* A region that is in no list yet. */
static tutti_status make(struct verbs *verbs, enum verbs_region_kind kind, const void *data,
                         size_t len, struct verbs_region **out)
{
    struct verbs_region *region = NULL;
    bool room = atomic_fetch_add(&verbs->region_count, 1) < VERBS_REGIONS_MAX;
    if (room)
        region = calloc(1, sizeof *region);
    if (!region) {
        atomic_fetch_sub(&verbs->region_count, 1);
        return room ? fail(TUTTI_ERR_NOMEM, "no memory to note a registration")
                    : fail(TUTTI_ERR_NOMEM, "%d pieces of memory are registered already",
                           VERBS_REGIONS_MAX);
    }
    region->kind = kind;
    region->begin = (uintptr_t)data;
    region->end = region->begin + len;
    *out = region;
    return TUTTI_OK;
}

static void list(struct verbs *verbs, struct verbs_region *region)
{
    region->next = verbs->regions;
    region->prev = &verbs->regions;
    if (region->next)
        region->next->prev = &region->next;
    verbs->regions = region;
}

tutti_status memory_note(struct verbs *verbs, enum verbs_region_kind kind, const void *data,
                         size_t len, uint64_t id, struct verbs_region **region)
{
    tutti_status status = make(verbs, kind, data, len, region);
    if (status != TUTTI_OK)
        return status;
    (*region)->id = id;
    list(verbs, *region);
    return TUTTI_OK;
}

/* Lists what other threads have registered. */
static void adopt(struct verbs *verbs)
{
    if (!atomic_load_explicit(&verbs->memory_added, memory_order_relaxed))
        return;
    struct verbs_region *next, *region = atomic_exchange(&verbs->memory_added, NULL);
    for (; region; region = next) {
        next = region->next;
        list(verbs, region);
    }
}

/* Says once, in the log, what the limit of locked memory leads to. */
static void tell_short(struct verbs *verbs, const char *what)
{
    if (atomic_exchange(&verbs->short_told, true))
        return;
    log_at(LOG_LEVEL_WARN, (int)verbs->config->rank, "verbs: %s; until then %s, which is slower",
           status_sentence(), what);
}

/* As ibv_reg_mr, with what the device can do besides. */
static struct ibv_mr *register_on(struct verbs_rail *rail, void *data, size_t len, int flags)
{
    const struct library *library = rail->verbs->library;
    struct ibv_mr *mr = NULL;
    if (rail->relaxed) {
        mr = library->ibv.reg_mr_iova2(rail->pd, data, len, (uintptr_t)data,
                                       (unsigned)flags | IBV_ACCESS_RELAXED_ORDERING);
        rail->relaxed = mr || (errno != EINVAL && errno != EOPNOTSUPP);
    }
    if (!mr)
        mr = library->ibv.reg_mr(rail->pd, data, len, flags);
    if (!mr && rail->paging) {
        int error = errno;
        mr = library->ibv.reg_mr(rail->pd, data, len, flags | IBV_ACCESS_ON_DEMAND);
        errno = error;
        if (mr && memory_fail(rail, REGISTER_BYTES, len) != TUTTI_OK)
            tell_short(rail->verbs, "such memory is paged on demand");
    }
    return mr;
}

/* Registers on every rail; nothing is left when one fails. */
static tutti_status pin(struct verbs *verbs, struct verbs_region *region, enum verbs_access access)
{
    size_t len = region->end - region->begin;
    for (uint32_t r = 0; r < verbs->rail_count && !region->pinned[access]; r++) {
        struct ibv_mr **mr = &region->mr[r][access];
        if (verbs->rails[r].gone)
            continue;
        *mr = register_on(&verbs->rails[r], (void *)region->begin, len, access_flags(access));
        atomic_fetch_add(&verbs->registrations, 1);
        if (*mr)
            continue;
        tutti_status status = memory_fail(&verbs->rails[r], REGISTER_BYTES, len);
        while (r-- > 0) {
            if (region->mr[r][access])
                verbs->library->ibv.dereg_mr(region->mr[r][access]);
            region->mr[r][access] = NULL;
        }
        return status;
    }
    region->pinned[access] = true;
    return TUTTI_OK;
}

/* Library allocations that are gone need their registrations no more, nor does what was forgotten.
 */
void memory_sweep(struct verbs *verbs)
{
    struct verbs_region *next;
    adopt(verbs);
    if (verbs->memory_generation == mem_generation() && !atomic_load(&verbs->memory_forgotten))
        return;
    atomic_store(&verbs->memory_forgotten, false);
    verbs->memory_generation = mem_generation();
    for (struct verbs_region *region = verbs->regions; region; region = next) {
        struct mem_export found;
        next = region->next;
        if (region->kind == VERBS_REGION_LIBRARY &&
            !(mem_find((void *)region->begin, 1, &found) && found.id == region->id))
            region->stale = true;
        if (region->stale && region->uses == 0)
            release(verbs, region);
    }
}

static struct verbs_region *find(struct verbs *verbs, uintptr_t begin, uintptr_t end,
                                 enum verbs_access access)
{
    for (struct verbs_region *region = verbs->regions; region; region = region->next) {
        if (region->begin > begin || region->end < end || region->stale ||
            region->kind == VERBS_REGION_DEVICE)
            continue;
        if (region->kind != VERBS_REGION_ONCE || region->pinned[access])
            return region;
    }
    return NULL;
}

/* Registrations of allocations that no transfer uses make room. True if there were any. */
static bool make_room(struct verbs *verbs)
{
    struct verbs_region *next;
    bool any = false;
    for (struct verbs_region *region = verbs->regions; region; region = next) {
        next = region->next;
        if (region->kind == VERBS_REGION_LIBRARY && region->uses == 0) {
            release(verbs, region);
            any = true;
        }
    }
    return any;
}

static tutti_status find_or_add(struct verbs *verbs, const void *data, size_t len,
                                enum verbs_access access, struct verbs_region **region)
{
    struct mem_export found;
    uintptr_t begin = (uintptr_t)data;
    memory_sweep(verbs);
    *region = find(verbs, begin, begin + len, access);
    if (*region)
        return TUTTI_OK;
    if (mem_find(data, len, &found))
        return memory_note(verbs, VERBS_REGION_LIBRARY, found.base, found.bytes, found.id, region);
    return memory_note(verbs, VERBS_REGION_ONCE, data, len, 0, region);
}

tutti_status memory_use(struct verbs *verbs, const void *data, size_t len, enum verbs_access access,
                        struct verbs_region **out)
{
    struct verbs_region *region;
    tutti_status status = find_or_add(verbs, data, len, access, &region);
    if (status != TUTTI_OK)
        return status;
    region->uses++;
    status = pin(verbs, region, access);
    if (status != TUTTI_OK && make_room(verbs))
        status = pin(verbs, region, access);
    if (status != TUTTI_OK) {
        if (status == TUTTI_ERR_NOMEM)
            tell_short(verbs, "such transfers are copied through registered slots");
        memory_release(verbs, region);
        return status;
    }
    *out = region;
    return TUTTI_OK;
}

void memory_release(struct verbs *verbs, struct verbs_region *region)
{
    if (!region)
        return;
    region->uses--;
    if (region->uses == 0 && (region->kind == VERBS_REGION_ONCE || region->stale))
        release(verbs, region);
}

tutti_status memory_add(struct verbs *verbs, void *data, size_t len, struct verbs_region **region)
{
    struct verbs_region *made;
    *region = NULL;
    if (len == 0 || mem_detect(data) != TUTTI_MEMORY_HOST)
        return TUTTI_OK; /* gpu.c finds out what adapters can do with GPU memory */
    tutti_status status = make(verbs, VERBS_REGION_EXPLICIT, data, len, &made);
    if (status != TUTTI_OK)
        return status;
    for (int access = 0; access < VERBS_ACCESSES && status == TUTTI_OK; access++)
        status = pin(verbs, made, (enum verbs_access)access);
    if (status != TUTTI_OK) {
        discard(verbs, made);
        return status;
    }
    *region = made;
    made->next = atomic_load(&verbs->memory_added);
    while (!atomic_compare_exchange_weak(&verbs->memory_added, &made->next, made)) {
    }
    return TUTTI_OK;
}

void memory_remove(struct verbs *verbs, struct verbs_region *region)
{
    if (!region)
        return;
    adopt(verbs);
    region->stale = true;
    if (region->uses == 0)
        release(verbs, region);
}

void memory_forget(struct verbs *verbs, struct verbs_region *region)
{
    if (!region)
        return;
    region->stale = true; /* from now on the one inside may free it */
    atomic_store(&verbs->memory_forgotten, true);
}

void memory_free_all(struct verbs *verbs)
{
    adopt(verbs);
    while (verbs->regions)
        release(verbs, verbs->regions);
}
