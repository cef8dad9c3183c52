/* comm_run.c: how calls are carried out. A blocking collective runs its program at once where
 * nothing is before it; anything else is queued, and starts when what is before it is done. A send
 * or receive is posted when its turn has come and then leaves the queue. Whoever looks, moves all.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"

/* A plain assignment is an exchange, which waits until all that the core has written is with the
 * others: 0.1 us for a message that was just put into another core's line. */
static void operation_done(struct operation *op)
{
    atomic_store_explicit(&op->status, TUTTI_OK, memory_order_release);
}

/* ---- the queue --------------------------------------------------------------------------------
 */

/* Finds the buffer that a pre-multiplied sum reads: scalar * in, made anew for each call. */
static tutti_status scale_input(tutti_comm *comm, const struct call *call, const void **in)
{
    struct shape shape = comm_shape(comm, call, false);
    uint64_t count = call->count;
    if (call->coll == TUTTI_COLL_REDUCE_SCATTERV) {
        count = 0;
        for (uint32_t r = 0; r < comm->size; r++)
            count += call->counts[r];
    } else {
        count = coll_in_bytes(&shape) / call->elem_size;
    }
    uint64_t bytes = count * call->elem_size;
    if (bytes > comm->scaled_bytes) {
        void *memory;
        tutti_status status = mem_alloc(bytes, &memory);
        if (status != TUTTI_OK)
            return status;
        if (comm->scaled)
            must(mem_free(comm->scaled) == TUTTI_OK);
        comm->scaled = memory;
        comm->scaled_bytes = bytes;
    }
    reduce_scale(call->dtype, comm->scaled, *in, &call->made->scalar, count);
    *in = comm->scaled;
    return TUTTI_OK;
}

/* Starts the program of a collective. */
static tutti_status start_call(tutti_comm *comm, const struct call *call, struct program **program)
{
    const void *in = call->in;
    bool in_place = call->in_place, on_device = call->on_device || call->by_nic;
    bool scale = call->made && call->made->premulsum && !on_device;
    tutti_status status = TUTTI_OK;
    comm->last_program = NULL;
    if (scale) {
        in_place = false;
        status = scale_input(comm, call, &in);
    }
    if (status == TUTTI_OK)
        status = exec_program(comm, call, in_place, program);
    if (status != TUTTI_OK)
        return status;
    struct program *p = *program;
    p->tag = tag_make(comm->sequence++, call, p->tag_count, p->plan.hash);
    if (coll_info(call->coll)->reduces)
        comm_reducer(call, &p->reducer);
    if (p->device)
        p->device->op = comm_plain_op(call);
    comm_idle_reset(comm);
    comm->running_call = call;
    return exec_start(comm, p, in, call->out);
}

/* What remains when the last step is done: the division of an average, in host memory. */
static void finish_call(tutti_comm *comm, const struct call *call)
{
    comm->running = NULL;
    comm->running_call = NULL;
    if (call->op != TUTTI_AVG || call->on_device || call->by_nic ||
        !coll_info(call->coll)->reduces ||
        (call->coll == TUTTI_COLL_REDUCE && call->root != (int)comm->rank))
        return;
    size_t count =
        call->coll == TUTTI_COLL_REDUCE_SCATTERV ? call->counts[comm->rank] : call->count;
    reduce_divide(call->dtype, call->out, comm->size, count);
}

/* A call that could not start: every rank refuses a setting alike, and the communicator works on;
 * anything else happened to this rank alone, and its peers would wait for it. */
static tutti_status start_failed(tutti_comm *comm, tutti_status status)
{
    if (comm->failed != TUTTI_OK)
        return comm_error(comm);
    if (status == TUTTI_ERR_SETTING)
        return status;
    return comm_fail(comm, status, comm->rank, status_sentence());
}

static void pop_head(tutti_comm *comm)
{
    comm->head = comm->head->next;
    if (!comm->head)
        comm->tail = &comm->head;
}

static void queue_add(struct op_queue *queue, struct operation *op)
{
    op->next = NULL;
    *(queue->first ? queue->last : &queue->first) = op;
    queue->last = &op->next;
}

static struct operation *queue_take(struct op_queue *queue)
{
    struct operation *op = queue->first;
    queue->first = op->next;
    return op;
}

/* A transfer to oneself meets its other half in issue order. */
static void pair_self(tutti_comm *comm, struct operation *op)
{
    bool is_send = op->call.is_send;
    struct op_queue *others = is_send ? &comm->self_recvs : &comm->self_sends;
    if (!others->first) {
        queue_add(is_send ? &comm->self_sends : &comm->self_recvs, op);
        return;
    }
    struct operation *other = queue_take(others);
    struct operation *send = is_send ? op : other, *recv = is_send ? other : op;
    size_t sent = send->call.count * send->call.elem_size;
    size_t expected = recv->call.count * recv->call.elem_size;
    if (sent != expected || send->call.dtype != recv->call.dtype) {
        char text[SENTENCE_MAX];
        snprintf(text, sizeof text, "rank %u sends itself %zu %s but receives %zu %s from itself",
                 comm->rank, send->call.count, dtype_name(send->call.dtype), recv->call.count,
                 dtype_name(recv->call.dtype));
        comm_fail(comm, TUTTI_ERR_MISMATCH, comm->rank, text);
        operation_fail(send, TUTTI_ERR_MISMATCH, text);
        operation_fail(recv, TUTTI_ERR_MISMATCH, text);
        return;
    }
    if (sent > 0 && (send->call.on_device || recv->call.on_device)) {
        comm_device_self(comm, send, recv);
        return;
    }
    if (sent > 0)
        memmove(recv->call.out, send->call.in, sent);
    operation_done(send);
    operation_done(recv);
}

static struct comm_window *window_of(tutti_comm *comm, const struct operation *op)
{
    struct comm_peer *peer = &comm->peers[op->call.root];
    return op->call.is_send ? &peer->sends : &peer->recvs;
}

static void p2p_list(tutti_comm *comm, struct operation *op)
{
    op->link = &comm->p2p_list;
    op->next = comm->p2p_list;
    if (op->next)
        op->next->link = &op->next;
    comm->p2p_list = op;
}

static void p2p_unlist(struct operation *op)
{
    *op->link = op->next;
    if (op->next)
        op->next->link = op->link;
}

void comm_p2p_done(tutti_comm *comm, struct operation *op)
{
    p2p_unlist(op);
    window_of(comm, op)->posted--;
    operation_done(op);
}

/* A transfer of a send or receive ended well: in device memory more may follow. */
static void transfer_ended(tutti_comm *comm, struct exec_xfer *xfer)
{
    bool over = true;
    if (xfer->owner->call.on_device && comm_device_ended(comm, xfer, &over) != TUTTI_OK)
        return;
    if (xfer->owner->call.by_nic && exec_nic_ended(comm, xfer->owner, &over) != TUTTI_OK)
        return;
    if (over)
        comm_p2p_done(comm, xfer->owner);
}

/* Hands a send or receive to its transport, unless something came in between (status). */
static void hand_over(tutti_comm *comm, struct operation *op, tutti_status status)
{
    struct transport *transport = comm->peers[op->call.root].transport;
    struct xfer *xfer = &op->xfer.xfer;
    if (status == TUTTI_OK)
        status = op->call.is_send ? transport->ops->send(transport, xfer)
                                  : transport->ops->recv(transport, xfer);
    if (status == TUTTI_OK) {
        transfer_ended(comm, &op->xfer);
    } else if (status != TUTTI_IN_PROGRESS) {
        xfer->status = status;
        comm_fail_xfer(comm, xfer);
    }
}

void comm_p2p_go_on(tutti_comm *comm, struct operation *op)
{
    window_of(comm, op)->held = false;
    hand_over(comm, op, TUTTI_OK);
}

static void post_transfer(tutti_comm *comm, struct operation *op)
{
    uint32_t other = (uint32_t)op->call.root;
    struct comm_window *window = window_of(comm, op);
    tutti_status status = comm_connect(comm, other);
    op->xfer.owner = op;
    op->xfer.is_ack = false;
    op->tag = tag_make(0, &op->call, 0, 0);
    op->tag.word[2] = 0;
    op->xfer.xfer = (struct xfer){.data = op->call.is_send ? (void *)op->call.in : op->call.out,
                                  .len = op->call.count * op->call.elem_size,
                                  .peer = other,
                                  .lane = comm->lanes,
                                  .tag = &op->tag,
                                  .status = TUTTI_IN_PROGRESS};
    window->posted++;
    p2p_list(comm, op);
    if (status == TUTTI_OK && op->call.on_device)
        status = comm_device_offer(comm, op);
    if (status == TUTTI_OK && op->call.by_nic)
        status = exec_nic_post(comm, op);
    window->held = status == TUTTI_IN_PROGRESS;
    hand_over(comm, op, status);
}

/* Takes a send or receive off the queue: posts it, or lets it wait where its window is full, so
 * that transfers behind it, to others or the other way, are never held up. */
static void issue_p2p(tutti_comm *comm, struct operation *op)
{
    pop_head(comm);
    if ((uint32_t)op->call.root == comm->rank) {
        pair_self(comm, op);
        return;
    }
    struct comm_window *window = window_of(comm, op);
    bool waits = window->waiting.first != NULL;
    if (window->posted < P2P_POSTED_MAX && !window->held && !waits) {
        post_transfer(comm, op);
        return;
    }
    if (!waits) {
        window->next = comm->p2p_waiting;
        comm->p2p_waiting = window;
    }
    queue_add(&window->waiting, op);
}

/* Posts what waited, as far as windows have opened. */
static void post_waiting(tutti_comm *comm)
{
    struct comm_window **at = &comm->p2p_waiting;
    while (comm->failed == TUTTI_OK && *at) { /* what fails empties all windows */
        struct comm_window *window = *at;
        if (!window->waiting.first)
            *at = window->next;
        else if (window->posted == P2P_POSTED_MAX || window->held)
            at = &window->next;
        else
            post_transfer(comm, queue_take(&window->waiting));
    }
}

/* Ends the head when its program is done, and starts what comes next. */
static void advance_queue(tutti_comm *comm)
{
    while (comm->head && comm->failed == TUTTI_OK) {
        struct operation *op = comm->head;
        if (op->call.coll == TUTTI_COLL_SENDRECV) {
            issue_p2p(comm, op);
            continue;
        }
        if (!op->program) {
            if (comm->running)
                return;
            tutti_status status = start_call(comm, &op->call, &op->program);
            if (status != TUTTI_OK) {
                status = start_failed(comm, status);
                if (comm->failed != TUTTI_OK) /* this has ended op, too */
                    return;
                pop_head(comm);
                operation_fail(op, status, status_sentence());
                continue;
            }
        }
        if (!exec_done(op->program))
            return;
        finish_call(comm, &op->call);
        pop_head(comm);
        operation_done(op);
    }
}

static bool take_finished(tutti_comm *comm, struct xfer *list)
{
    while (list) {
        struct exec_xfer *xfer = (struct exec_xfer *)list;
        list = list->next;
        tutti_status status = xfer->xfer.status;
        if (status != TUTTI_OK) {
            comm_fail_ended(comm, &xfer->xfer);
            return true;
        }
        if (xfer->owner) {
            transfer_ended(comm, xfer);
            if (comm->failed != TUTTI_OK) /* the rest are of operations that have ended by that */
                return true;
        } else if (exec_finished(comm, comm->running, xfer) != TUTTI_OK) {
            return true;
        }
    }
    return true;
}

/* One look at every transport; true if anything ended. */
static inline bool poll_transports(tutti_comm *comm)
{
    bool moved = false;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        struct xfer *list = comm->transport_ops[i]->poll(comm->transports[i]);
        if (list)
            moved = take_finished(comm, list);
        if (comm->failed != TUTTI_OK)
            return true;
    }
    return moved;
}

bool comm_progress(tutti_comm *comm)
{
    bool moved = poll_transports(comm);
    /* What failed has no links any more. */
    if (comm->running && comm->running->device && comm->failed == TUTTI_OK)
        moved |= exec_device_poll(comm, comm->running);
    if (comm->works && comm->failed == TUTTI_OK)
        moved |= comm_device_poll(comm);
    if (comm->head)
        advance_queue(comm);
    if (moved && comm->p2p_waiting)
        post_waiting(comm);
    if (moved)
        comm_idle_reset(comm);
    return moved;
}

/* ---- calls ------------------------------------------------------------------------------------
 */

void operation_init(struct operation *op, tutti_comm *comm, const struct call *call)
{
    op->comm = comm;
    op->call = *call;
    op->next = op->next_work = NULL;
    op->program = NULL;
    atomic_init(&op->status, TUTTI_IN_PROGRESS);
    op->counts = NULL;
    op->sentence = NULL;
    op->of_unit = op->copies = false;
    op->bounce = NULL;
}

/* One that outlives the call. */
static tutti_status operation_new(tutti_comm *comm, const struct call *call,
                                  struct operation **operation)
{
    struct operation *op = malloc(sizeof *op); /* calloc passes by the allocator's cache */
    if (!op)
        return fail(TUTTI_ERR_NOMEM, "no memory to start %s", coll_name(call->coll));
    operation_init(op, comm, call);
    tutti_status status = call_keep(comm, &op->call, &op->counts);
    if (status != TUTTI_OK) {
        free(op);
        return status;
    }
    *operation = op;
    return TUTTI_OK;
}

void comm_queue_up(struct operation *op)
{
    tutti_comm *comm = op->comm;
    comm_idle_reset(comm);
    *comm->tail = op;
    comm->tail = &op->next;
    advance_queue(comm);
}

tutti_status comm_submit(tutti_comm *comm, const struct call *call, struct operation **operation)
{
    tutti_status status = operation_new(comm, call, operation);
    if (status == TUTTI_OK)
        comm_queue_up(*operation);
    return status;
}

void operation_release(struct operation *op)
{
    call_unkeep(&op->call, op->counts);
    free(op->sentence);
    free(op);
}

void operation_fail(struct operation *op, tutti_status status, const char *sentence)
{
    free(op->sentence);
    op->sentence = strdup(sentence);
    op->status = status;
}

tutti_status operation_result(struct operation *op)
{
    tutti_status status = op->status;
    if (status != TUTTI_OK)
        (void)fail(status, "%s", op->sentence ? op->sentence : status_text(status));
    free(op->sentence);
    op->sentence = NULL;
    return status;
}

/* Waits for the running program of a blocking call. */
static tutti_status run_to_end(tutti_comm *comm, struct program *p, const struct call *call)
{
    while (!exec_done(p)) {
        if (poll_transports(comm)) {
            if (comm->p2p_waiting) /* what has ended may have been what it waited for */
                post_waiting(comm);
            comm_idle_reset(comm);
        } else {
            comm_idle(comm);
        }
        if (__builtin_expect(comm->failed != TUTTI_OK, 0))
            return comm_error(comm);
    }
    finish_call(comm, call);
    return TUTTI_OK;
}

/* A blocking call through the queue. */
static tutti_status run_queued(tutti_comm *comm, const struct call *call)
{
    struct operation op;
    operation_init(&op, comm, call);
    comm_queue_up(&op);
    while (op.status == TUTTI_IN_PROGRESS) {
        if (!comm_progress(comm))
            comm_idle(comm);
    }
    return operation_result(&op);
}

tutti_status comm_run(tutti_comm *comm, const struct call *call)
{
    comm->last_program = NULL;
    if (comm->head || call->coll == TUTTI_COLL_SENDRECV)
        return run_queued(comm, call);
    struct program *p;
    tutti_status status = start_call(comm, call, &p);
    if (status != TUTTI_OK)
        return start_failed(comm, status);
    status = run_to_end(comm, p, call);
    /* Not with an operation made at run time: a scaled input is made anew each time, and what was
     * checked of a function holds until it is destroyed, which enters nothing. */
    if (status == TUTTI_OK && !call->made) {
        comm->last_call = *call;
        comm->last_program = p;
    }
    return status;
}

tutti_status comm_run_again(tutti_comm *comm, const struct call *again)
{
    struct program *p = comm->last_program;
    struct call *call = &comm->last_call;
    call->counts = again->counts; /* lent for one call only */
    call->displs = again->displs;
    call->recv_counts = again->recv_counts;
    call->recv_displs = again->recv_displs;
    p->tag.word[0] = (p->tag.word[0] & 0xffffffffu) | (uint64_t)comm->sequence++ << 32;
    comm_idle_reset(comm);
    comm->running_call = call;
    tutti_status status = exec_start(comm, p, p->bound[BUFFER_IN], call->out);
    return status == TUTTI_OK ? run_to_end(comm, p, call) : start_failed(comm, status);
}
