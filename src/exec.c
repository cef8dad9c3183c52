/* exec.c: runs a plan. Each step counts the predecessors it still waits for; a step whose count is
 * zero may run. Local steps run at once; a transfer is posted when it is at the head of its link
 * and direction, since order on a link is what matches it with the peer's. Invariant: a program's
 * run state is back at its start whenever it is not running, and running it allocates nothing.
 *
 * Sends are posted before receives and local work, because a receive of a transport that reads its
 * peer's memory in place does all its work inside the call that posts it. */
#include "src/exec.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "src/comm.h"

/* Ready steps are kept in one array from both ends: transfers and local work apart. */
static void make_ready(struct program *p, uint32_t s)
{
    enum step_kind kind = p->plan.schedule->steps[s].kind;
    if (kind == STEP_SEND || kind == STEP_RECV)
        p->ready[p->plan.schedule->step_count - ++p->ready_transfers] = s;
    else
        p->ready[p->ready_locals++] = s;
}

void exec_step_done(struct program *p, uint32_t s)
{
    const struct schedule *schedule = p->plan.schedule;
    const struct step *step = &schedule->steps[s];
    const uint32_t *successor = schedule->successors + step->succ;
    must(p->remaining > 0);
    p->remaining--;
    for (uint32_t i = 0; i < step->succ_count; i++) {
        uint32_t t = successor[i];
        if (--p->waits[t] == 0)
            make_ready(p, t);
    }
}

/* Posts the head transfers of one direction as far as hazards and the window allow. */
static tutti_status post(struct tutti_comm *comm, struct program *p, struct exec_link *link,
                         struct exec_queue *queue)
{
    bool sends = queue == &link->send;
    while (queue->next < queue->count && queue->posted < EXEC_POSTED_MAX) {
        uint32_t s = queue->wire[queue->next];
        if (p->waits[s] > 0)
            break;
        if (__builtin_expect(p->device != NULL, 0) && p->device->nic) {
            bool ready;
            tutti_status status = exec_nic_ready(comm, p, link, queue, &ready);
            if (status != TUTTI_OK || !ready)
                return status;
        }
        struct xfer *xfer = &p->xfers[s].xfer;
        queue->next++;
        xfer->status = TUTTI_IN_PROGRESS;
        tutti_status status =
            sends ? link->ops->send(link->transport, xfer) : link->ops->recv(link->transport, xfer);
        if (status == TUTTI_OK &&
            (__builtin_expect(!p->device, 1) || (p->device->nic && exec_nic_at_once(p, s)))) {
            exec_step_done(p, s);
        } else if (status == TUTTI_OK) {
            queue->posted++;
            status = exec_device_transfer(comm, p, &p->xfers[s]);
            if (status != TUTTI_OK)
                return status;
        } else if (status == TUTTI_IN_PROGRESS) {
            queue->posted++;
        } else {
            xfer->status = status;
            return comm_fail_xfer(comm, xfer);
        }
    }
    return TUTTI_OK;
}

/* Whether dst is bytes that the caches could not keep and that no step reads again. Who waits for a
 * copy out of scratch waits, as a rule, for the room there, not for what it wrote. */
static bool past_caches(const struct program *p, const struct step *step)
{
    bool read_again =
        step->succ_count > 0 && !(step->kind == STEP_COPY && step->a.buffer == BUFFER_SCRATCH);
    bool outgrows = step->kind == STEP_REDUCE ? p->floods_caches : p->outgrows_caches;
    return outgrows && step->dst.buffer == BUFFER_OUT && !read_again;
}

/* How fast the bytes of span are written where peers may have them; NULL: none has, or few. */
static struct pace *pace_of(struct program *p, const struct span *span, bool is_copy)
{
    return span->buffer == BUFFER_OUT && span->len >= PACE_MIN ? &p->pace[is_copy] : NULL;
}

static void write_local(struct program *p, const struct step *step)
{
    bool is_copy = step->kind == STEP_COPY;
    char *dst = p->bound[step->dst.buffer] + step->dst.off;
    const char *a = p->bound[step->a.buffer] + step->a.off;
    const char *b = is_copy ? a : p->bound[step->b.buffer] + step->b.off;
    if (is_copy && dst == a) /* in place: what writes nothing says nothing about the pace */
        return;
    struct pace *pace = pace_of(p, &step->dst, is_copy);
    uint64_t begin;
    bool past = pace_begin(pace, &begin);
    bool stream = past || (dst != a && dst != b && past_caches(p, step));
    if (!is_copy)
        (stream ? reduce_stream : reduce_apply)(&p->reducer, dst, a, b, step->dst.len);
    else
        (stream ? mem_stream : mem_copy)(dst, a, step->dst.len);
    pace_end(pace, past, step->dst.len, begin);
}

static tutti_status run_ready(struct tutti_comm *comm, struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    while (p->ready_transfers + p->ready_locals > 0) {
        if (p->ready_transfers > 0) {
            uint32_t s = p->ready[schedule->step_count - p->ready_transfers--];
            const struct step *step = &schedule->steps[s];
            struct exec_link *link = &p->links[step->link];
            tutti_status status =
                post(comm, p, link, step->kind == STEP_SEND ? &link->send : &link->recv);
            if (status != TUTTI_OK)
                return status;
        } else if (__builtin_expect(p->device != NULL, 0)) {
            bool started;
            tutti_status status =
                exec_device_local(comm, p, p->ready[p->ready_locals - 1], &started);
            if (status != TUTTI_OK || !started)
                return status;
            p->ready_locals--;
        } else {
            uint32_t s = p->ready[--p->ready_locals];
            write_local(p, &schedule->steps[s]);
            exec_step_done(p, s);
        }
    }
    return TUTTI_OK;
}

/* Fills in what depends on the buffers' addresses. Calls in a loop use the same buffers, so this
 * is done once for many calls. */
static void bind(struct program *p, const void *in, void *out, void *scratch)
{
    const struct schedule *schedule = p->plan.schedule;
    if (p->is_bound && p->bound[BUFFER_IN] == in && p->bound[BUFFER_OUT] == out &&
        p->bound[BUFFER_SCRATCH] == scratch)
        return;
    p->bound[BUFFER_IN] = (char *)in;
    p->bound[BUFFER_OUT] = out;
    p->bound[BUFFER_SCRATCH] = scratch;
    p->is_bound = true;
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        struct xfer *xfer = &p->xfers[s].xfer;
        if (step->kind != STEP_SEND && step->kind != STEP_RECV)
            continue;
        const struct span *span = step->kind == STEP_SEND ? &step->a : &step->dst;
        xfer->data = p->bound[span->buffer] + span->off;
        xfer->len = span->len;
        if (p->device && !p->device->nic) {
            xfer->data = &p->device->offers[s];
            xfer->len = sizeof p->device->offers[s];
        }
        if (p->device)
            continue;
        /* A send writes nothing: who waits for it overwrites what it reads. */
        xfer->overwritten_next = step->kind == STEP_SEND && step->succ_count > 0;
        xfer->past_caches = step->kind == STEP_RECV && past_caches(p, step);
        xfer->pace = step->kind == STEP_RECV ? pace_of(p, &step->dst, true) : NULL;
        if (step->kind != STEP_RECV || step->fused == STEP_NONE)
            continue;
        const struct step *reduce = &schedule->steps[step->fused];
        xfer->past_caches = past_caches(p, reduce);
        xfer->pace = pace_of(p, &reduce->dst, false);
        xfer->incoming_first = reduce->a.buffer == span->buffer && reduce->a.off == span->off;
        const struct span *other = xfer->incoming_first ? &reduce->b : &reduce->a;
        xfer->reducer = &p->reducer;
        xfer->dst = p->bound[reduce->dst.buffer] + reduce->dst.off;
        xfer->other = p->bound[other->buffer] + other->off;
    }
}

static void host_scratch_free(struct tutti_comm *comm)
{
    if (!comm->scratch)
        return;
    if (comm->scratch_shared)
        must(mem_free(comm->scratch) == TUTTI_OK);
    else
        munmap(comm->scratch, comm->scratch_bytes);
    comm->scratch = NULL;
    comm->scratch_bytes = 0;
}

struct scratch_offer {
    void *block;
    uint64_t bytes;
};

/* Frees an offer, and gives its block, or the one that it took the place of, back to the pool. */
static void drop_offer(struct tutti_comm *comm, struct scratch_offer *offer)
{
    if (offer) {
        mem_device_give(comm->device, offer->block);
        atomic_fetch_sub(&comm->device_bytes, offer->bytes);
    }
    free(offer);
}

tutti_status exec_offer_scratch(struct tutti_comm *comm, uint64_t bytes)
{
    if (bytes <= comm->scratch_offered)
        return TUTTI_OK;
    struct scratch_offer *offer = calloc(1, sizeof *offer);
    if (!offer)
        return fail(TUTTI_ERR_NOMEM, "no memory to offer scratch");
    offer->bytes = bytes;
    tutti_status status = mem_device_take(comm->device, bytes, &offer->block);
    if (status != TUTTI_OK) {
        free(offer);
        return status;
    }
    comm->scratch_offered = bytes;
    atomic_fetch_add(&comm->device_bytes, bytes);
    drop_offer(comm, atomic_exchange(&comm->scratch_offer, offer));
    return TUTTI_OK;
}

static void take_offer(struct tutti_comm *comm)
{
    struct scratch_offer *offer = atomic_exchange(&comm->scratch_offer, NULL);
    if (!offer)
        return;
    if (offer->bytes > comm->device_scratch_bytes) {
        struct scratch_offer old = {comm->device_scratch, comm->device_scratch_bytes};
        comm->device_scratch = offer->block;
        comm->device_scratch_bytes = offer->bytes;
        *offer = old;
    }
    drop_offer(comm, offer);
}

/* Scratch of the communicator, grown to the largest program that ran. Small scratch is memory that
 * peers can read in place; large scratch is mapped lazily, since most of it is a landing place
 * that fused receives never touch. */
static tutti_status grow_scratch(struct tutti_comm *comm, uint64_t bytes, bool on_device)
{
    if (on_device)
        take_offer(comm);
    if (on_device && bytes > comm->device_scratch_bytes) {
        void *block;
        struct mem_device *device = mem_queue_device(comm->queue);
        tutti_status status = mem_device_take(device, bytes, &block);
        if (status != TUTTI_OK)
            return status;
        mem_device_give(device, comm->device_scratch);
        atomic_fetch_add(&comm->device_bytes, bytes - comm->device_scratch_bytes);
        comm->device_scratch = block;
        comm->device_scratch_bytes = bytes;
    }
    if (on_device || bytes <= comm->scratch_bytes)
        return TUTTI_OK;
    host_scratch_free(comm);
    bool shared = bytes <= SCRATCH_SHARED_MAX;
    void *scratch;
    if (shared) {
        tutti_status status = mem_alloc(bytes, &scratch);
        if (status != TUTTI_OK)
            return status;
    } else {
        scratch = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (scratch == MAP_FAILED)
            return fail_errno(TUTTI_ERR_NOMEM, "%" PRIu64 " bytes of scratch", bytes);
        madvise(scratch, bytes, MADV_HUGEPAGE);
    }
    comm->scratch = scratch;
    comm->scratch_bytes = bytes;
    comm->scratch_shared = shared;
    return TUTTI_OK;
}

void exec_scratch_free(struct tutti_comm *comm)
{
    drop_offer(comm, atomic_exchange(&comm->scratch_offer, NULL));
    if (comm->device_scratch)
        mem_device_give(mem_queue_device(comm->queue), comm->device_scratch);
    if (comm->bounce)
        mem_pinned_give(mem_queue_device(comm->queue), comm->bounce);
    comm->device_scratch = comm->bounce = NULL;
    comm->device_scratch_bytes = comm->bounce_bytes = 0;
    host_scratch_free(comm);
}

tutti_status exec_start(struct tutti_comm *comm, struct program *p, const void *in, void *out)
{
    const struct schedule *schedule = p->plan.schedule;
    tutti_status status = grow_scratch(comm, p->scratch_bytes, p->device != NULL);
    if (status == TUTTI_OK) {
        bind(p, in, out, p->device ? comm->device_scratch : comm->scratch);
        if (p->device)
            status = exec_device_bind(comm, p);
    }
    if (status != TUTTI_OK)
        return status;
    memcpy(p->waits, p->initial, schedule->step_count * sizeof *p->waits);
    p->remaining = p->runnable;
    p->ready_locals = p->ready_transfers = 0;
    for (uint32_t l = 0; l < schedule->link_count; l++) {
        p->links[l].send.next = p->links[l].send.posted = 0;
        p->links[l].recv.next = p->links[l].recv.posted = 0;
    }
    comm->running = p;
    for (uint32_t l = 0; l < schedule->link_count && status == TUTTI_OK; l++)
        status = post(comm, p, &p->links[l], &p->links[l].send);
    for (uint32_t i = 0; i < p->first_local_count; i++)
        p->ready[p->ready_locals++] = p->first_locals[i];
    for (uint32_t l = 0; l < schedule->link_count && status == TUTTI_OK; l++)
        status = post(comm, p, &p->links[l], &p->links[l].recv);
    return status == TUTTI_OK ? run_ready(comm, p) : status;
}

tutti_status exec_finished(struct tutti_comm *comm, struct program *p, struct exec_xfer *xfer)
{
    const struct step *step = &p->plan.schedule->steps[xfer->step];
    struct exec_link *link = &p->links[step->link];
    struct exec_queue *queue = step->kind == STEP_SEND ? &link->send : &link->recv;
    must(queue->posted > 0);
    if (__builtin_expect(p->device != NULL, 0))
        return exec_device_transfer(comm, p, xfer);
    queue->posted--;
    exec_step_done(p, xfer->step);
    return exec_advance(comm, p, link, queue);
}

tutti_status exec_advance(struct tutti_comm *comm, struct program *p, struct exec_link *link,
                          struct exec_queue *queue)
{
    tutti_status status = TUTTI_OK;
    if (link && queue->next < queue->count)
        status = post(comm, p, link, queue);
    return status == TUTTI_OK ? run_ready(comm, p) : status;
}
