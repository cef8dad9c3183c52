/* program.c: the programs of a communicator: made from plans, kept in a small hashed cache with
 * the least recently used going first, found by what a plan depends on. The count arrays of v
 * forms are copied into the program, since the caller's live only as long as the call. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"

/* Prior of the link model between ranks that share a device: an offer, the start of a kernel, the
 * look that finds it done, an acknowledgement; and about 1 TB/s for a copy, which moves two bytes
 * for one, where a reduction of what is received moves three. Ranks of one GPU share its bandwidth,
 * which pieces do not add to; a second piece hides the hand-over of the first, and kernels of less
 * than 64 MiB were slower than larger ones. */
#define DEVICE_ALPHA_US           12.0
#define DEVICE_SLICE_US           140.0 /* a turn of one of the processes that share the device */
#define DEVICE_US_PER_BYTE        1e-6
#define DEVICE_LINK_US_PER_BYTE   5e-6
#define DEVICE_BUS_US_PER_BYTE    50e-6
#define DEVICE_REDUCE_US_PER_BYTE 0.5e-6 /* beside receiving */
#define DEVICE_CHUNK              (64u << 20)

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value;
    hash *= 0x9fb21c651e98df25u;
    return hash ^ hash >> 29;
}

static uint64_t hash_array(uint64_t hash, const size_t *array, size_t count)
{
    if (!array)
        return mix(hash, 0x5bd1e995);
    for (size_t i = 0; i < count; i++)
        hash = mix(hash, array[i]);
    return mix(hash, count);
}

/* Which arrays of the call this rank may read, NULL where they mean nothing here. */
struct arrays {
    const size_t *counts, *displs, *recv_counts, *recv_displs;
};

static struct arrays arrays_of(const struct tutti_comm *comm, const struct call *call)
{
    bool rooted = call->coll == TUTTI_COLL_GATHERV || call->coll == TUTTI_COLL_SCATTERV;
    if (!coll_info(call->coll)->is_v || (rooted && call->root != (int)comm->rank))
        return (struct arrays){0};
    return (struct arrays){call->counts, call->displs, call->recv_counts, call->recv_displs};
}

static struct program_key key_of(const struct tutti_comm *comm, const struct call *call,
                                 bool in_place)
{
    struct program_key key = {.coll = call->coll,
                              .root = coll_info(call->coll)->has_root ? (uint32_t)call->root : 0,
                              .elem_size = call->elem_size,
                              .in_place = in_place,
                              .on_device = call->on_device,
                              .by_nic = call->by_nic,
                              .count = call->count};
    if (coll_info(call->coll)->is_v) {
        struct arrays a = arrays_of(comm, call);
        uint64_t hash = hash_array(1, a.counts, comm->size);
        hash = hash_array(hash, a.displs, comm->size);
        hash = hash_array(hash, a.recv_counts, comm->size);
        key.counts_hash = hash_array(hash, a.recv_displs, comm->size);
    }
    return key;
}

static void copy_packed(uint64_t *to, const size_t *displs, const uint64_t *counts, uint32_t size)
{
    uint64_t at = 0;
    for (uint32_t r = 0; r < size; r++) {
        to[r] = displs ? displs[r] : at;
        at += counts[r];
    }
}

/* Copies the count arrays, fills in packed displacements and the view of a leaf. */
static tutti_status copy_counts(const struct tutti_comm *comm, const struct call *call,
                                struct program *p)
{
    uint32_t n = comm->size;
    struct arrays a = arrays_of(comm, call);
    p->counts = calloc((size_t)n * 4, sizeof *p->counts);
    if (!p->counts)
        return fail(TUTTI_ERR_NOMEM, "no memory for the counts of %s", coll_name(call->coll));
    if (a.counts)
        memcpy(p->counts, a.counts, n * sizeof *p->counts);
    else
        p->counts[comm->rank] = call->count;
    copy_packed(p->counts + n, a.counts ? a.displs : NULL, p->counts, n);
    if (a.recv_counts) {
        memcpy(p->counts + 2 * (size_t)n, a.recv_counts, n * sizeof *p->counts);
        copy_packed(p->counts + 3 * (size_t)n, a.recv_displs, p->counts + 2 * (size_t)n, n);
    }
    return TUTTI_OK;
}

static bool same_packed(const size_t *displs, const size_t *counts, const uint64_t *kept_counts,
                        const uint64_t *kept_displs, uint32_t size)
{
    uint64_t at = 0;
    for (uint32_t r = 0; r < size; r++) {
        if (counts[r] != kept_counts[r] || (displs ? displs[r] : at) != kept_displs[r])
            return false;
        at += counts[r];
    }
    return true;
}

bool exec_same_counts(const struct tutti_comm *comm, const struct program *p,
                      const struct call *call)
{
    size_t n = comm->size;
    struct arrays a = arrays_of(comm, call);
    bool rooted = call->coll == TUTTI_COLL_GATHERV || call->coll == TUTTI_COLL_SCATTERV;
    if (rooted && call->root != (int)comm->rank)
        return true; /* a leaf has none */
    if (!a.counts || !same_packed(a.displs, a.counts, p->counts, p->counts + n, comm->size))
        return false;
    return call->coll != TUTTI_COLL_ALLTOALLV ||
           (a.recv_counts && same_packed(a.recv_displs, a.recv_counts, p->counts + 2 * n,
                                         p->counts + 3 * n, comm->size));
}

static double device_us_per_byte(const struct tutti_comm *comm)
{
    switch (comm->device_reach) {
    case MEM_REACH_SAME:
        return DEVICE_US_PER_BYTE;
    case MEM_REACH_LINK:
        return DEVICE_LINK_US_PER_BYTE;
    default:
        return DEVICE_BUS_US_PER_BYTE;
    }
}

struct shape comm_shape(const struct tutti_comm *comm, const struct call *call, bool in_place)
{
    const struct coll_info *info = coll_info(call->coll);
    struct shape shape = {.coll = call->coll,
                          .rank = comm->rank,
                          .size = comm->size,
                          .root = info->has_root ? (uint32_t)call->root : 0,
                          .count = info->is_v ? 0 : call->count,
                          .elem_size = call->elem_size,
                          .in_place = in_place,
                          .local_counts = call->coll == TUTTI_COLL_ALLTOALLV ||
                                          call->coll == TUTTI_COLL_GATHERV ||
                                          call->coll == TUTTI_COLL_SCATTERV,
                          .groups = &comm->topology.groups,
                          .reduce_us_per_byte = comm->topology.reduce_us_per_byte,
                          .copy_us_per_byte = comm->topology.copy_us_per_byte};
    memcpy(shape.model, comm->topology.model, sizeof shape.model);
    if (call->on_device) {
        shape.model[LEVEL_NODE] = (struct link_model){
            .alpha_us =
                comm->device_peers > 1 ? DEVICE_SLICE_US * comm->device_peers : DEVICE_ALPHA_US,
            .us_per_byte = device_us_per_byte(comm),
            .overhead_us = 1};
        shape.reduce_us_per_byte = DEVICE_REDUCE_US_PER_BYTE;
        shape.copy_us_per_byte = DEVICE_US_PER_BYTE;
    }
    return shape;
}

struct settings comm_plan_settings(const struct tutti_comm *comm, const struct call *call)
{
    struct settings settings = comm->settings;
    if (!call->on_device)
        return settings;
    settings.lanes = 1; /* one queue does the work */
    if (settings.chunk == 0)
        settings.chunk = DEVICE_CHUNK;
    return settings;
}

/* Of the buffers' bytes that a local step touches: those of `other` that are not dst's own. Scratch
 * is small, or a landing place that fused receives never touch. */
static uint64_t touched_beside(const struct span *dst, const struct span *other)
{
    bool same = other->buffer == dst->buffer && other->off == dst->off;
    return same || other->buffer == BUFFER_SCRATCH ? 0 : other->len;
}

/* The bytes that one run touches: its own and those of peers that it reads in place. */
static uint64_t touched(const struct schedule *schedule)
{
    uint64_t bytes = 0;
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->kind == STEP_RECV)
            bytes += step->dst.len;
        if (step->kind != STEP_SEND)
            bytes += step->dst.buffer == BUFFER_SCRATCH ? 0 : step->dst.len;
        if (step->kind == STEP_COPY || step->kind == STEP_REDUCE)
            bytes += touched_beside(&step->dst, &step->a);
        if (step->kind == STEP_REDUCE)
            bytes += touched_beside(&step->dst, &step->b);
    }
    return bytes;
}

/* How the bytes of one run compare with this rank's share of the last-level cache: what two ranks
 * of a cache both touch is counted by both, hence half a share more. A sum stored past the caches
 * takes longer than one that finds its lines there from the call before, and at six shares 0.8
 * to 0.9 of the time of one that does not; a copy loses nothing. */
static void compare_with_caches(const struct tutti_comm *comm, struct program *p)
{
    uint64_t share = topology_cache_share(&comm->topology, comm->rank);
    uint64_t bytes = touched(p->plan.schedule);
    p->outgrows_caches = bytes / 3 * 2 >= share;
    p->floods_caches = bytes / 6 >= share;
}

/* Run state beside the plan: one block per array, all freed with the program. */
static tutti_status allocate_state(struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    size_t steps = schedule->step_count ? schedule->step_count : 1;
    size_t links = schedule->link_count ? schedule->link_count : 1;
    p->waits = calloc(steps, sizeof *p->waits);
    p->initial = calloc(steps, sizeof *p->initial);
    p->ready = calloc(steps, sizeof *p->ready);
    p->first_locals = calloc(steps, sizeof *p->first_locals);
    p->links = calloc(links, sizeof *p->links);
    p->xfers = calloc(steps, sizeof *p->xfers);
    if (!p->waits || !p->initial || !p->ready || !p->first_locals || !p->links || !p->xfers)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan of %u steps", schedule->step_count);
    return TUTTI_OK;
}

/* Links the plan's steps to the communicator's transports. */
static tutti_status prepare(struct tutti_comm *comm, struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    tutti_status status = allocate_state(p);
    for (uint32_t l = 0; l < schedule->link_count && status == TUTTI_OK; l++) {
        const struct schedule_link *from = &schedule->links[l];
        struct exec_link *link = &p->links[l];
        status = comm_connect(comm, from->peer);
        link->transport = comm->peers[from->peer].transport;
        link->ops = link->transport->ops;
        link->send =
            (struct exec_queue){.wire = schedule->wire + from->send, .count = from->send_count};
        link->recv =
            (struct exec_queue){.wire = schedule->wire + from->recv, .count = from->recv_count};
    }
    for (uint32_t s = 0; s < schedule->step_count && status == TUTTI_OK; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->kind == STEP_REDUCE && step->fused != STEP_NONE)
            continue;
        bool local = step->kind == STEP_REDUCE || step->kind == STEP_COPY;
        p->runnable++;
        p->initial[s] = step->waits;
        p->xfers[s].step = s;
        p->xfers[s].xfer.peer = step->peer;
        p->xfers[s].xfer.lane = step->lane;
        p->xfers[s].xfer.tag = &p->tag;
        if (local && step->waits == 0)
            p->first_locals[p->first_local_count++] = s;
    }
    compare_with_caches(comm, p);
    return status;
}

static void program_free(struct program *p)
{
    if (!p)
        return;
    plan_free(&p->plan);
    free(p->counts);
    free(p->waits);
    free(p->initial);
    free(p->ready);
    free(p->first_locals);
    free(p->links);
    free(p->xfers);
    exec_device_free(p);
    free(p);
}

static bool is_scratch(const struct span *span, const struct span *landing)
{
    bool lands = landing && span->buffer == landing->buffer && span->off == landing->off;
    return span->buffer == BUFFER_SCRATCH && !lands;
}

/* Whether any byte of scratch is read or written in device memory. Most scratch is a landing place
 * of receives that are reduced at once, which exists in the plan only. */
static bool touches_scratch(const struct schedule *schedule)
{
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s], *work = step;
        const struct span *landing = NULL;
        if (step->kind == STEP_REDUCE && step->fused != STEP_NONE)
            continue; /* looked at with its receive */
        if (step->kind == STEP_RECV && step->fused != STEP_NONE) {
            work = &schedule->steps[step->fused];
            landing = &step->dst;
        }
        if ((work->kind != STEP_SEND && is_scratch(&work->dst, NULL)) ||
            (work->kind != STEP_RECV && is_scratch(&work->a, landing)) ||
            (work->kind == STEP_REDUCE && is_scratch(&work->b, landing)))
            return true;
    }
    return false;
}

/* The plan of a call, with copies of its counts. Reads nothing of the communicator that changes. */
static tutti_status plan_call(const struct tutti_comm *comm, const struct call *call, bool in_place,
                              struct program *p)
{
    struct settings settings = comm_plan_settings(comm, call);
    struct shape shape = comm_shape(comm, call, in_place);
    tutti_status status = TUTTI_OK;
    p->tag_count = call->count;
    if (coll_info(call->coll)->is_v) {
        size_t n = comm->size;
        status = copy_counts(comm, call, p);
        shape.counts = p->counts;
        shape.displs = p->counts + n;
        shape.recv_counts = p->counts + 2 * n;
        shape.recv_displs = p->counts + 3 * n;
        p->tag_count = shape.local_counts ? 0 : hash_array(1, call->counts, n);
    }
    if (status == TUTTI_OK)
        status = plan_make(&settings, &shape, &p->plan);
    if (status == TUTTI_OK)
        p->scratch_bytes = call->on_device && !touches_scratch(p->plan.schedule)
                               ? 0
                               : p->plan.schedule->scratch_bytes;
    return status;
}

static tutti_status program_make(struct tutti_comm *comm, const struct call *call,
                                 const struct program_key *key, struct program **program)
{
    struct program *p = calloc(1, sizeof *p);
    if (!p)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan of %s", coll_name(call->coll));
    p->key = *key;
    tutti_status status = plan_call(comm, call, key->in_place, p);
    if (status == TUTTI_OK && (call->on_device || call->by_nic))
        status = exec_device_new(p);
    if (status == TUTTI_OK && call->by_nic)
        status = exec_nic_new(p);
    if (status == TUTTI_OK)
        status = prepare(comm, p);
    if (status != TUTTI_OK) {
        program_free(p);
        return status;
    }
    *program = p;
    return TUTTI_OK;
}

static void unlink_age(struct tutti_comm *comm, struct program *p)
{
    *(p->newer ? &p->newer->older : &comm->newest) = p->older;
    *(p->older ? &p->older->newer : &comm->oldest) = p->newer;
}

static void link_newest(struct tutti_comm *comm, struct program *p)
{
    p->newer = NULL;
    p->older = comm->newest;
    *(comm->newest ? &comm->newest->newer : &comm->oldest) = p;
    comm->newest = p;
}

static uint32_t bucket_of(const struct program_key *key)
{
    uint64_t hash = mix(mix(key->coll, key->count), key->counts_hash);
    hash = mix(hash, (uint64_t)key->root << 32 | key->elem_size << 3 | key->by_nic << 2 |
                         key->on_device << 1 | key->in_place);
    return (uint32_t)(hash >> 32) % COMM_HASH_SIZE;
}

static void evict(struct tutti_comm *comm, struct program *p)
{
    struct program **at = &comm->buckets[bucket_of(&p->key)];
    while (*at != p)
        at = &(*at)->chain;
    *at = p->chain;
    unlink_age(comm, p);
    if (comm->recent == p)
        comm->recent = NULL;
    if (comm->last_program == p)
        comm->last_program = NULL;
    comm->program_count--;
    program_free(p);
}

static bool key_equal(const struct program_key *a, const struct program_key *b)
{
    return a->count == b->count && a->coll == b->coll && a->root == b->root &&
           a->elem_size == b->elem_size && a->in_place == b->in_place &&
           a->on_device == b->on_device && a->by_nic == b->by_nic &&
           a->counts_hash == b->counts_hash;
}

tutti_status exec_program(struct tutti_comm *comm, const struct call *call, bool in_place,
                          struct program **program)
{
    struct program_key key = key_of(comm, call, in_place);
    if (__builtin_expect(comm->recent && key_equal(&comm->recent->key, &key), 1)) {
        *program = comm->recent;
        return TUTTI_OK;
    }
    struct program **bucket = &comm->buckets[bucket_of(&key)], *p = *bucket;
    while (p && !key_equal(&p->key, &key))
        p = p->chain;
    if (p) {
        unlink_age(comm, p);
    } else {
        must(comm->running == NULL);
        if (comm->program_count == PROGRAM_CACHE_MAX)
            evict(comm, comm->oldest);
        tutti_status status = program_make(comm, call, &key, &p);
        if (status != TUTTI_OK)
            return status;
        p->chain = *bucket;
        *bucket = p;
        comm->program_count++;
    }
    link_newest(comm, p);
    comm->recent = p;
    *program = p;
    return TUTTI_OK;
}

void exec_cache_free(struct tutti_comm *comm)
{
    while (comm->oldest)
        evict(comm, comm->oldest);
}

static struct exec_demand demand_of(const struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    struct exec_demand demand = {.scratch_bytes = p->scratch_bytes};
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->kind == STEP_SEND || (step->kind == STEP_REDUCE && step->fused != STEP_NONE))
            continue;
        demand.works++;
        if (step->dst.len > demand.bytes)
            demand.bytes = step->dst.len;
    }
    return demand;
}

tutti_status exec_demand(struct tutti_comm *comm, const struct call *call,
                         struct exec_demand *demand)
{
    struct program_key key = key_of(comm, call, call->in_place);
    struct demand_kept *kept = &comm->demands[bucket_of(&key)];
    if (kept->known && key_equal(&kept->key, &key)) {
        *demand = kept->demand;
        return TUTTI_OK;
    }
    struct program *p = calloc(1, sizeof *p);
    if (!p)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan of %s", coll_name(call->coll));
    tutti_status status = plan_call(comm, call, call->in_place, p);
    if (status == TUTTI_OK) {
        *demand = demand_of(p);
        *kept = (struct demand_kept){.key = key, .demand = *demand, .known = true};
    }
    program_free(p);
    return status;
}
