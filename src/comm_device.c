/* comm_device.c: sends and receives in device memory. As in exec_device.c, an offer travels in the
 * place of the bytes, the receiver copies in its queue, and an empty transfer on a lane of its own
 * lets the sender know. Works, those of exec_nic.c too, are listed in the order they come and
 * started in that order, as far as the queue has room. */
#include <string.h>

#include "base/check.h"
#include "src/comm.h"

tutti_status comm_device_offer(tutti_comm *comm, struct operation *op)
{
    struct xfer *xfer = &op->xfer.xfer;
    op->offer = (struct exec_offer){0};
    if (op->call.is_send) {
        tutti_status status = exec_device_share(comm, op->call.in, &op->offer.share);
        if (status != TUTTI_OK)
            return status;
        op->offer.address = (uint64_t)(uintptr_t)op->call.in;
        op->offer.len = xfer->len;
    }
    xfer->data = &op->offer;
    xfer->len = sizeof op->offer;
    return TUTTI_OK;
}

static void list_work(tutti_comm *comm, struct operation *op)
{
    op->ticket = EXEC_WORK_LISTED;
    op->next_work = NULL;
    *comm->works_tail = op;
    comm->works_tail = &op->next_work;
    if (!comm->works_listed)
        comm->works_listed = op;
}

static tutti_status acknowledge(tutti_comm *comm, struct operation *op, bool *over)
{
    struct comm_peer *peer = &comm->peers[op->call.root];
    const struct transport_ops *ops = peer->transport->ops;
    op->ack = (struct exec_xfer){.xfer = {.peer = (uint32_t)op->call.root,
                                          .lane = comm->lanes + 2,
                                          .tag = &op->tag,
                                          .status = TUTTI_IN_PROGRESS},
                                 .owner = op,
                                 .is_ack = true};
    tutti_status status = op->call.is_send ? ops->recv(peer->transport, &op->ack.xfer)
                                           : ops->send(peer->transport, &op->ack.xfer);
    *over = status == TUTTI_OK;
    if (status == TUTTI_OK || status == TUTTI_IN_PROGRESS)
        return TUTTI_OK;
    op->ack.xfer.status = status;
    return comm_fail_xfer(comm, &op->ack.xfer);
}

/* One of the two is host memory, which a device may not reach: through pinned memory, of which the
 * second copy, where the host's is the receive, is made by end_self. */
static tutti_status copy_across(tutti_comm *comm, const struct operation *send,
                                struct operation *recv, size_t bytes, uint64_t *ticket)
{
    tutti_status status = mem_pinned_take(mem_queue_device(comm->queue), bytes, &recv->bounce);
    if (status != TUTTI_OK)
        return status;
    if (!recv->call.on_device)
        return mem_queue_copy(comm_queue(comm), recv->bounce, send->call.in, bytes, ticket);
    memcpy(recv->bounce, send->call.in, bytes);
    return mem_queue_copy(comm_queue(comm), recv->call.out, recv->bounce, bytes, ticket);
}

static tutti_status copy_self(tutti_comm *comm, struct operation *send, struct operation *recv)
{
    size_t bytes = send->call.count * send->call.elem_size;
    bool across = !send->call.on_device || !recv->call.on_device;
    tutti_status status = across ? copy_across(comm, send, recv, bytes, &recv->ticket)
                                 : mem_queue_copy(comm_queue(comm), recv->call.out, send->call.in,
                                                  bytes, &recv->ticket);
    send->ticket = recv->ticket;
    return status == TUTTI_OK ? TUTTI_OK : exec_device_failed(comm, status);
}

static tutti_status fetch(tutti_comm *comm, struct operation *op)
{
    struct exec_arrival arrival = {.offer = &op->offer,
                                   .peer = (uint32_t)op->call.root,
                                   .tag = &op->tag,
                                   .len = op->call.count * op->call.elem_size,
                                   .dst = op->call.out};
    return exec_device_fetch(comm, &arrival, &op->ticket);
}

/* Starts what is listed, as far as the queue has room. Of a transfer to oneself the receive follows
 * its send, and one copy is both. */
static tutti_status start_works(tutti_comm *comm)
{
    while (comm->works_listed && comm->works_begun < P2P_DEVICE_MAX) {
        struct operation *op = comm->works_listed, *last = op;
        tutti_status status;
        comm->works_begun++;
        if ((uint32_t)op->call.root == comm->rank) {
            last = op->next_work;
            comm->works_begun++;
            status = copy_self(comm, op, last);
        } else {
            status = op->call.by_nic ? exec_nic_copy(comm, op) : fetch(comm, op);
        }
        if (status != TUTTI_OK)
            return status;
        comm->works_listed = last->next_work;
    }
    return TUTTI_OK;
}

tutti_status comm_device_copy(tutti_comm *comm, struct operation *op)
{
    op->copies = op->call.by_nic;
    list_work(comm, op);
    return start_works(comm);
}

tutti_status comm_device_ended(tutti_comm *comm, struct exec_xfer *xfer, bool *over)
{
    struct operation *op = xfer->owner;
    *over = xfer->is_ack;
    if (xfer->is_ack)
        return TUTTI_OK;
    return op->call.is_send ? acknowledge(comm, op, over) : comm_device_copy(comm, op);
}

static void end_self(const tutti_comm *comm, struct operation *op)
{
    if (op->bounce && !op->call.on_device)
        memcpy(op->call.out, op->bounce, op->call.count * op->call.elem_size);
    if (op->bounce)
        mem_pinned_give(mem_queue_device(comm->queue), op->bounce);
    op->bounce = NULL;
    op->status = TUTTI_OK;
}

tutti_status comm_device_self(tutti_comm *comm, struct operation *send, struct operation *recv)
{
    list_work(comm, send);
    list_work(comm, recv);
    return start_works(comm);
}

bool comm_device_poll(tutti_comm *comm)
{
    uint64_t done;
    bool moved = false, over;
    tutti_status status = mem_queue_poll(comm_queue(comm), &done);
    if (status != TUTTI_OK) {
        comm_fail(comm, status, comm->rank, status_sentence());
        return true;
    }
    while (comm->works && comm->works->ticket <= done) {
        struct operation *op = comm->works;
        comm->works = op->next_work;
        if (!comm->works)
            comm->works_tail = &comm->works;
        comm->works_begun--;
        moved = true;
        if ((uint32_t)op->call.root == comm->rank) {
            end_self(comm, op);
            continue;
        }
        if (op->call.by_nic) {
            exec_nic_copied(comm, op);
            continue;
        }
        if (exec_device_was_read(comm) != TUTTI_OK || acknowledge(comm, op, &over) != TUTTI_OK)
            break;
        if (over)
            comm_p2p_done(comm, op);
    }
    if (comm->failed == TUTTI_OK)
        (void)start_works(comm);
    return moved;
}
