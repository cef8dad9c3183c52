/* exec_device.c: plans over device memory of one host (and what exec_nic.c, for several, shares
 * with it). The plan is the same four operations; what differs is who carries them out. A send
 * posts an offer, which says where its bytes lie; the receiver's device reads them there
 * (mem_attach), in comm_queue(), and an empty transfer on a lane of its own tells the
 * sender that they are free. Local steps are work in the same queue. So transports carry 144 bytes
 * per message and know nothing of devices.
 *
 *     sender    offer ------ lane of the step ----->  receiver    queue: copy or reduce
 *               step done <- lane of acks ----------              work done
 *
 * Invariant: receives of a link become work in the order of the link, a queue ends its work in
 * order, so acknowledgements leave in the order of the sends that await them, and matching by
 * position holds for them too. A step counts as posted until then: at most EXEC_POSTED_MAX. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "src/comm.h"

tutti_status exec_device_new(struct program *p)
{
    size_t steps = p->plan.schedule->step_count ? p->plan.schedule->step_count : 1;
    struct exec_device *d = p->device = calloc(1, sizeof *d);
    if (d) {
        d->offers = calloc(steps, sizeof *d->offers);
        d->acks = calloc(steps, sizeof *d->acks);
        d->works = calloc(steps, sizeof *d->works);
    }
    if (!d || !d->offers || !d->acks || !d->works)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan of %zu steps", steps);
    return TUTTI_OK;
}

void exec_device_free(struct program *p)
{
    if (!p->device)
        return;
    free(p->device->offers);
    free(p->device->acks);
    free(p->device->works);
    exec_nic_free(p->device->nic);
    free(p->device);
}

tutti_status exec_device_share(const struct tutti_comm *comm, const void *bytes,
                               struct mem_share *share)
{
    struct mem_place place;
    tutti_status status = mem_device_of(bytes, &place);
    if (status != TUTTI_OK || !comm->topology.one_process)
        return status == TUTTI_OK ? mem_share(&place, share) : status;
    mem_share_here(&place, share);
    return TUTTI_OK;
}

tutti_status exec_device_bind(const struct tutti_comm *comm, struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    struct exec_device *d = p->device;
    bool shared[BUFFER_COUNT] = {false};
    d->first = d->count = 0;
    if (d->nic) {
        exec_nic_bind(p);
        return TUTTI_OK;
    }
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->kind != STEP_SEND)
            continue;
        enum buffer buffer = step->a.buffer;
        if (!shared[buffer]) {
            tutti_status status =
                exec_device_share(comm, p->bound[buffer] + step->a.off, &d->shares[buffer]);
            if (status != TUTTI_OK)
                return status;
            shared[buffer] = true;
        }
        d->offers[s] =
            (struct exec_offer){.share = d->shares[buffer],
                                .address = (uint64_t)(uintptr_t)(p->bound[buffer] + step->a.off),
                                .len = step->a.len};
    }
    return TUTTI_OK;
}

void exec_device_add_work(struct program *p, uint32_t s, uint64_t ticket)
{
    struct exec_device *d = p->device;
    must(d->count < p->plan.schedule->step_count);
    d->works[(d->first + d->count++) % p->plan.schedule->step_count] =
        (struct exec_work){.ticket = ticket, .step = s};
}

tutti_status exec_device_failed(struct tutti_comm *comm, tutti_status status)
{
    return comm_fail(comm, status, comm->rank, status_sentence());
}

struct exec_work *exec_device_work(struct program *p, uint32_t index)
{
    struct exec_device *d = p->device;
    return &d->works[(d->first + index) % p->plan.schedule->step_count];
}

tutti_status exec_device_start(struct tutti_comm *comm, struct program *p, uint32_t s,
                               uint64_t *ticket)
{
    const struct step *step = &p->plan.schedule->steps[s];
    char *dst = p->bound[step->dst.buffer] + step->dst.off;
    const char *a = p->bound[step->a.buffer] + step->a.off;
    if (step->kind == STEP_REDUCE)
        return mem_queue_reduce(comm_queue(comm), &p->reducer, p->device->op, dst, a,
                                p->bound[step->b.buffer] + step->b.off, step->dst.len, ticket);
    if (dst != a)
        return mem_queue_copy(comm_queue(comm), dst, a, step->dst.len, ticket);
    *ticket = 0;
    return TUTTI_OK;
}

tutti_status exec_device_local(struct tutti_comm *comm, struct program *p, uint32_t s,
                               bool *started)
{
    uint64_t ticket;
    *started = p->device->nic || p->device->count < EXEC_DEVICE_LOCALS_MAX;
    if (!*started)
        return TUTTI_OK;
    if (p->device->nic)
        return exec_nic_local(comm, p, s);
    tutti_status status = exec_device_start(comm, p, s, &ticket);
    if (status != TUTTI_OK)
        return exec_device_failed(comm, status);
    if (ticket == 0)
        exec_step_done(p, s);
    else
        exec_device_add_work(p, s, ticket);
    return TUTTI_OK;
}

tutti_status exec_device_fetch(struct tutti_comm *comm, const struct exec_arrival *arrival,
                               uint64_t *ticket)
{
    const struct exec_offer *offer = arrival->offer;
    uint64_t off = offer->address - offer->share.base;
    void *base;
    tutti_status status;
    if (offer->len != arrival->len)
        return comm_fail_lengths(comm, arrival->peer, arrival->tag, arrival->len, offer->len);
    if (off > offer->share.bytes || offer->len > offer->share.bytes - off) {
        status = fail(TUTTI_ERR_PROTOCOL,
                      "%s offers %" PRIu64 " bytes of GPU memory outside the allocation it shares",
                      comm->names[arrival->peer], offer->len);
        return comm_fail(comm, status, arrival->peer, status_sentence());
    }
    status = mem_attach(comm->device, &offer->share, &base);
    if (status != TUTTI_OK)
        return comm_fail_offer(comm, arrival->peer, status);
    const void *bytes = (const void *)((uintptr_t)base + off);
    if (!arrival->reducer)
        status = mem_queue_copy(comm_queue(comm), arrival->dst, bytes, arrival->len, ticket);
    else if (arrival->incoming_first)
        status = mem_queue_reduce(comm_queue(comm), arrival->reducer, arrival->op, arrival->dst,
                                  bytes, arrival->other, arrival->len, ticket);
    else
        status = mem_queue_reduce(comm_queue(comm), arrival->reducer, arrival->op, arrival->dst,
                                  arrival->other, bytes, arrival->len, ticket);
    return status == TUTTI_OK ? TUTTI_OK : exec_device_failed(comm, status);
}

tutti_status exec_device_was_read(struct tutti_comm *comm)
{
    while (comm->failed == TUTTI_OK && comm_events(comm))
        ;
    return comm->failed == TUTTI_OK ? TUTTI_OK : comm_error(comm);
}

static struct exec_queue *queue_of(struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    struct exec_link *link = &p->links[step->link];
    return step->kind == STEP_SEND ? &link->send : &link->recv;
}

/* Sends or awaits the acknowledgement of a step; true when it is over already. */
static tutti_status acknowledge(struct tutti_comm *comm, struct program *p, uint32_t s, bool *over)
{
    const struct step *step = &p->plan.schedule->steps[s];
    struct exec_link *link = &p->links[step->link];
    struct exec_xfer *ack = &p->device->acks[s];
    *ack = (struct exec_xfer){.xfer = {.peer = step->peer, .lane = comm->lanes + 1, .tag = &p->tag},
                              .step = s,
                              .is_ack = true};
    ack->xfer.status = TUTTI_IN_PROGRESS;
    tutti_status status = step->kind == STEP_SEND ? link->ops->recv(link->transport, &ack->xfer)
                                                  : link->ops->send(link->transport, &ack->xfer);
    *over = status == TUTTI_OK;
    if (status == TUTTI_OK || status == TUTTI_IN_PROGRESS)
        return TUTTI_OK;
    ack->xfer.status = status;
    return comm_fail_xfer(comm, &ack->xfer);
}

/* The last of a transfer's steps in time: it gives its place in the window to the next. */
tutti_status exec_device_over(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    struct exec_queue *queue = queue_of(p, s);
    queue->posted--;
    exec_step_done(p, s);
    return exec_advance(comm, p, &p->links[p->plan.schedule->steps[s].link], queue);
}

tutti_status exec_device_transfer(struct tutti_comm *comm, struct program *p,
                                  struct exec_xfer *xfer)
{
    const struct schedule *schedule = p->plan.schedule;
    uint32_t s = xfer->step;
    const struct step *step = &schedule->steps[s];
    bool over = true;
    if (p->device->nic)
        return exec_nic_transfer(comm, p, s);
    if (xfer->is_ack)
        return exec_device_over(comm, p, s);
    if (step->kind == STEP_SEND) {
        tutti_status status = acknowledge(comm, p, s, &over);
        return status == TUTTI_OK && over ? exec_device_over(comm, p, s) : status;
    }
    struct exec_arrival arrival = {.offer = &p->device->offers[s],
                                   .peer = step->peer,
                                   .tag = &p->tag,
                                   .len = step->dst.len,
                                   .dst = p->bound[step->dst.buffer] + step->dst.off};
    if (step->fused != STEP_NONE) {
        const struct step *reduce = &schedule->steps[step->fused];
        arrival.incoming_first =
            reduce->a.buffer == step->dst.buffer && reduce->a.off == step->dst.off;
        const struct span *other = arrival.incoming_first ? &reduce->b : &reduce->a;
        arrival.reducer = &p->reducer;
        arrival.op = p->device->op;
        arrival.other = p->bound[other->buffer] + other->off;
        arrival.dst = p->bound[reduce->dst.buffer] + reduce->dst.off;
    }
    uint64_t ticket;
    tutti_status status = exec_device_fetch(comm, &arrival, &ticket);
    if (status == TUTTI_OK)
        exec_device_add_work(p, s, ticket);
    return status;
}

/* The work of a step is done: a local step is over, a receive lets its sender know. */
static tutti_status work_done(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    bool over = false;
    if (p->device->nic)
        return exec_nic_work_done(comm, p, s);
    if (p->plan.schedule->steps[s].kind != STEP_RECV) {
        exec_step_done(p, s);
        return exec_advance(comm, p, NULL, NULL);
    }
    tutti_status status = exec_device_was_read(comm);
    if (status == TUTTI_OK)
        status = acknowledge(comm, p, s, &over);
    return status == TUTTI_OK && over ? exec_device_over(comm, p, s) : status;
}

bool exec_device_poll(struct tutti_comm *comm, struct program *p)
{
    struct exec_device *d = p->device;
    uint64_t done;
    bool moved = false;
    if (d->count == 0)
        return false;
    tutti_status status = mem_queue_poll(comm_queue(comm), &done);
    if (status != TUTTI_OK) {
        exec_device_failed(comm, status);
        return true;
    }
    while (d->count > 0 && d->works[d->first].ticket <= done) {
        uint32_t s = d->works[d->first].step;
        d->first = (d->first + 1) % p->plan.schedule->step_count;
        d->count--;
        moved = true;
        if (work_done(comm, p, s) != TUTTI_OK)
            return true;
    }
    if (d->nic)
        (void)exec_nic_start_works(comm, p);
    return moved;
}
