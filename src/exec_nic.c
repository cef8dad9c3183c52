/* exec_nic.c: plans over device memory that adapters reach. The plan is the one of host memory, so
 * a rank may run it this way while its peers copy through host memory: on the wire nothing differs.
 * Each transfer goes in one of two ways, by what its transport answers when it is posted:
 *
 *     direct    the transport gets the device's bytes, to send or to write to
 *     bounced   they are copied between the device and a place of pinned memory, which the
 *               transport gets: short ones, those of other transports, memory no adapter reaches
 *
 * What is done on the device (copies to and from places, reductions of what has come, local steps)
 * is work in the communicator's queue, started in the order it is listed, as far as the queue has
 * room. A receive that is reduced lands in device scratch first.
 *
 *     send   [copy to a place] -> transfer -> over
 *     recv   transfer -> [copy from the place] -> [reduce] -> over
 *
 * Invariant: transfers of a link are posted in its order, so a send whose copy is under way holds
 * up those behind it; their copies are started meanwhile. A link and direction has as many places
 * as transfers that may be posted, each long enough for its longest. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"

#define PLACE_ALIGN 256u
/* Steps whose work is in the queue at once, each of at most two pieces: half of what it holds. */
#define WORKS_MAX (QUEUE_TICKETS_MAX / 4)

enum { SENDS, RECVS, DIRECTIONS };

struct exec_nic {
    uint64_t bytes; /* of all places */
    uint32_t begun; /* of the listed works, those in the queue */
    struct way {
        enum { UNDECIDED, COPYING, READY } state;
        bool bounced;
        uint8_t place;
    } * ways; /* [steps] */
    struct places {
        uint64_t at;   /* in the block, */
        uint64_t each; /* and bytes of one */
        uint16_t taken;
    } (*places)[DIRECTIONS]; /* [links] */
};
_Static_assert(EXEC_POSTED_MAX <= 16, "taken has a bit for each");

tutti_status exec_nic_new(struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    struct exec_nic *nic = p->device->nic = calloc(1, sizeof *nic);
    if (nic) {
        nic->ways = calloc(schedule->step_count + 1, sizeof *nic->ways);
        nic->places = calloc(schedule->link_count + 1, sizeof *nic->places);
    }
    if (!nic || !nic->ways || !nic->places)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan of %u steps", schedule->step_count);
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->kind != STEP_SEND && step->kind != STEP_RECV)
            continue;
        bool sends = step->kind == STEP_SEND;
        uint64_t len = sends ? step->a.len : step->dst.len;
        struct places *places = &nic->places[step->link][sends ? SENDS : RECVS];
        if (places->each < len)
            places->each = (len + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
    }
    for (uint32_t l = 0; l < schedule->link_count; l++) {
        for (int direction = 0; direction < DIRECTIONS; direction++) {
            struct places *places = &nic->places[l][direction];
            uint32_t count =
                direction == SENDS ? schedule->links[l].send_count : schedule->links[l].recv_count;
            places->at = nic->bytes;
            nic->bytes += places->each * (count < EXEC_POSTED_MAX ? count : EXEC_POSTED_MAX);
        }
    }
    return TUTTI_OK;
}

void exec_nic_free(struct exec_nic *nic)
{
    if (!nic)
        return;
    free(nic->ways);
    free(nic->places);
    free(nic);
}

void exec_nic_bind(struct program *p)
{
    const struct schedule *schedule = p->plan.schedule;
    struct exec_nic *nic = p->device->nic;
    nic->begun = 0;
    memset(nic->ways, 0, schedule->step_count * sizeof *nic->ways);
    for (uint32_t l = 0; l < schedule->link_count; l++)
        nic->places[l][SENDS].taken = nic->places[l][RECVS].taken = 0;
}

/* ---- ways ------------------------------------------------------------------------------------ */

static struct places *places_of(struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    return &p->device->nic->places[step->link][step->kind == STEP_SEND ? SENDS : RECVS];
}

/* The step's bytes on the device. */
static char *bytes_of(const struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    const struct span *span = step->kind == STEP_SEND ? &step->a : &step->dst;
    return p->bound[span->buffer] + span->off;
}

static tutti_status grow_block(struct tutti_comm *comm, uint64_t bytes)
{
    void *block;
    if (bytes <= comm->bounce_bytes)
        return TUTTI_OK;
    struct mem_device *device = mem_queue_device(comm->queue);
    tutti_status status = mem_pinned_take(device, bytes, &block);
    if (status != TUTTI_OK)
        return status;
    if (comm->bounce)
        mem_pinned_give(device, comm->bounce);
    comm->bounce = block;
    comm->bounce_bytes = bytes;
    return TUTTI_OK;
}

static tutti_status bounce(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    struct way *way = &p->device->nic->ways[s];
    struct places *places = places_of(p, s);
    uint8_t place = 0;
    tutti_status status = grow_block(comm, p->device->nic->bytes);
    if (status != TUTTI_OK)
        return exec_device_failed(comm, status);
    while (places->taken >> place & 1)
        place++;
    must(place < EXEC_POSTED_MAX);
    places->taken |= (uint16_t)(1u << place);
    way->bounced = true;
    way->place = place;
    p->xfers[s].xfer.data = (char *)comm->bounce + places->at + place * places->each;
    return TUTTI_OK;
}

static void give_place(struct program *p, uint32_t s)
{
    const struct way *way = &p->device->nic->ways[s];
    if (way->bounced)
        places_of(p, s)->taken &= (uint16_t) ~(1u << way->place);
}

/* ---- work in the queue ------------------------------------------------------------------------
 */

/* What came is on the device, or goes there now; then it is reduced. */
static tutti_status start_arrival(struct tutti_comm *comm, struct program *p, uint32_t s,
                                  uint64_t *ticket)
{
    const struct schedule *schedule = p->plan.schedule;
    const struct step *step = &schedule->steps[s];
    tutti_status status = TUTTI_OK;
    if (p->device->nic->ways[s].bounced)
        status = mem_queue_copy(comm->queue, bytes_of(p, s), p->xfers[s].xfer.data, step->dst.len,
                                ticket);
    if (status == TUTTI_OK && step->fused != STEP_NONE)
        status = exec_device_start(comm, p, step->fused, ticket);
    return status;
}

static tutti_status start_work(struct tutti_comm *comm, struct program *p, uint32_t s,
                               uint64_t *ticket)
{
    const struct step *step = &p->plan.schedule->steps[s];
    if (step->kind == STEP_SEND)
        return mem_queue_copy(comm->queue, p->xfers[s].xfer.data, bytes_of(p, s), step->a.len,
                              ticket);
    if (step->kind == STEP_RECV)
        return start_arrival(comm, p, s, ticket);
    return exec_device_start(comm, p, s, ticket);
}

tutti_status exec_nic_start_works(struct tutti_comm *comm, struct program *p)
{
    struct exec_device *d = p->device;
    while (d->nic->begun < d->count && d->nic->begun < WORKS_MAX) {
        struct exec_work *work = exec_device_work(p, d->nic->begun);
        tutti_status status = start_work(comm, p, work->step, &work->ticket);
        if (status != TUTTI_OK)
            return exec_device_failed(comm, status);
        d->nic->begun++;
    }
    return TUTTI_OK;
}

static tutti_status add_work(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    exec_device_add_work(p, s, EXEC_WORK_LISTED);
    return exec_nic_start_works(comm, p);
}

tutti_status exec_nic_local(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    if (step->kind == STEP_REDUCE ||
        p->bound[step->dst.buffer] + step->dst.off != p->bound[step->a.buffer] + step->a.off)
        return add_work(comm, p, s);
    exec_step_done(p, s);
    return TUTTI_OK;
}

/* ---- transfers --------------------------------------------------------------------------------
 */

static tutti_status decide(struct tutti_comm *comm, struct program *p, struct exec_link *link,
                           uint32_t s, bool sends)
{
    struct way *way = &p->device->nic->ways[s];
    struct xfer *xfer = &p->xfers[s].xfer;
    xfer->data = bytes_of(p, s);
    xfer->on_device = link->ops->takes(link->transport, xfer->peer, xfer->data, xfer->len);
    way->state = READY;
    if (xfer->on_device)
        return TUTTI_OK;
    tutti_status status = bounce(comm, p, s);
    if (status != TUTTI_OK || !sends)
        return status;
    way->state = COPYING;
    return add_work(comm, p, s);
}

tutti_status exec_nic_ready(struct tutti_comm *comm, struct program *p, struct exec_link *link,
                            const struct exec_queue *queue, bool *ready)
{
    struct way *ways = p->device->nic->ways;
    bool sends = queue == &link->send;
    uint32_t head = queue->next, end = head + EXEC_POSTED_MAX - queue->posted;
    tutti_status status = TUTTI_OK;
    for (uint32_t i = head; i < end && i < queue->count && status == TUTTI_OK; i++) {
        uint32_t s = queue->wire[i];
        if (p->waits[s] > 0 || (i > head && ways[queue->wire[head]].state == READY))
            break;
        if (ways[s].state == UNDECIDED)
            status = decide(comm, p, link, s, sends);
        if (i > head && p->xfers[s].xfer.on_device)
            ways[s].state = UNDECIDED; /* what is true of it now need not be when it is posted */
    }
    *ready = ways[queue->wire[head]].state == READY;
    return status;
}

/* Does work on the device follow the transfer? */
static bool has_work(const struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    return step->kind == STEP_RECV && (p->device->nic->ways[s].bounced || step->fused != STEP_NONE);
}

bool exec_nic_at_once(struct program *p, uint32_t s)
{
    if (has_work(p, s))
        return false;
    give_place(p, s);
    return true;
}

tutti_status exec_nic_transfer(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    if (has_work(p, s))
        return add_work(comm, p, s);
    give_place(p, s);
    return exec_device_over(comm, p, s);
}

tutti_status exec_nic_work_done(struct tutti_comm *comm, struct program *p, uint32_t s)
{
    const struct step *step = &p->plan.schedule->steps[s];
    p->device->nic->begun--;
    if (step->kind == STEP_RECV) {
        give_place(p, s);
        return exec_device_over(comm, p, s);
    }
    if (step->kind == STEP_SEND) {
        struct exec_link *link = &p->links[step->link];
        p->device->nic->ways[s].state = READY;
        return exec_advance(comm, p, link, &link->send);
    }
    exec_step_done(p, s);
    return exec_advance(comm, p, NULL, NULL);
}

/* ---- sends and receives -----------------------------------------------------------------------
 */

static void give_bounce(const struct tutti_comm *comm, struct operation *op)
{
    if (op->bounce)
        mem_pinned_give(mem_queue_device(comm->queue), op->bounce);
    op->bounce = NULL;
}

tutti_status exec_nic_post(struct tutti_comm *comm, struct operation *op)
{
    struct xfer *xfer = &op->xfer.xfer;
    struct transport *transport = comm->peers[xfer->peer].transport;
    xfer->on_device = transport->ops->takes(transport, xfer->peer, xfer->data, xfer->len);
    if (xfer->on_device)
        return TUTTI_OK;
    tutti_status status = mem_pinned_take(mem_queue_device(comm->queue), xfer->len, &op->bounce);
    xfer->data = op->bounce;
    if (status != TUTTI_OK || !op->call.is_send)
        return status;
    (void)comm_device_copy(comm, op); /* it has ended if that fails */
    return TUTTI_IN_PROGRESS;
}

tutti_status exec_nic_ended(struct tutti_comm *comm, struct operation *op, bool *over)
{
    *over = !op->bounce || op->call.is_send;
    if (!*over)
        return comm_device_copy(comm, op);
    give_bounce(comm, op);
    return TUTTI_OK;
}

tutti_status exec_nic_copy(struct tutti_comm *comm, struct operation *op)
{
    size_t len = op->xfer.xfer.len;
    tutti_status status =
        op->call.is_send ? mem_queue_copy(comm->queue, op->bounce, op->call.in, len, &op->ticket)
                         : mem_queue_copy(comm->queue, op->call.out, op->bounce, len, &op->ticket);
    return status == TUTTI_OK ? TUTTI_OK : exec_device_failed(comm, status);
}

void exec_nic_copied(struct tutti_comm *comm, struct operation *op)
{
    op->copies = false;
    if (op->call.is_send) {
        comm_p2p_go_on(comm, op);
    } else {
        give_bounce(comm, op);
        comm_p2p_done(comm, op);
    }
}
