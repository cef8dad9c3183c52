/* group.c: groups and requests. A group is a list of calls kept per thread; its end starts all of
 * them in order, on every communicator named, and then lets all communicators advance in turn
 * until every call has ended: so one thread can drive several ranks, and any pattern of sends and
 * receives completes. */
#include "src/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/comm.h"
#include "src/stream.h"
#include "tutti/tutti.h"

/* Calls there is room for without the allocator, which takes as long as a short message: a send and
 * a receive, twice. */
#define FEW_CALLS 4

/* The one piece of state that belongs to a thread, as the public interface defines it. */
static _Thread_local struct {
    unsigned depth;
    struct group_call *calls; /* few, or memory; NULL: none */
    size_t count, capacity;
    struct group_call few[FEW_CALLS];
} group;

/* Room for more calls. */
static tutti_status grow(void)
{
    if (!group.calls) {
        group.calls = group.few;
        group.capacity = FEW_CALLS;
        return TUTTI_OK;
    }
    bool few = group.calls == group.few;
    size_t capacity = 2 * group.capacity;
    struct group_call *calls = realloc(few ? NULL : group.calls, capacity * sizeof *calls);
    if (!calls)
        return fail(TUTTI_ERR_NOMEM, "no memory for a group of %zu calls", capacity);
    if (few)
        memcpy(calls, group.few, sizeof group.few);
    group.calls = calls;
    group.capacity = capacity;
    return TUTTI_OK;
}

bool group_open(void)
{
    return group.depth > 0;
}

tutti_status group_record(tutti_comm *comm, const struct call *call, bool on_stream, void *stream)
{
    if (group.count == GROUP_CALLS_MAX)
        return fail(TUTTI_ERR_NOMEM, "a group holds at most %d calls", GROUP_CALLS_MAX);
    tutti_status status = group.count == group.capacity ? grow() : TUTTI_OK;
    if (status != TUTTI_OK)
        return status;
    struct group_call *last = &group.calls[group.count];
    *last =
        (struct group_call){.comm = comm, .call = *call, .on_stream = on_stream, .stream = stream};
    status = call_keep(comm, &last->call, &last->counts);
    if (status == TUTTI_OK)
        group.count++;
    return status;
}

void group_forget(const tutti_comm *comm)
{
    size_t kept = 0;
    for (size_t i = 0; i < group.count; i++) {
        if (group.calls[i].comm != comm)
            group.calls[kept++] = group.calls[i];
        else
            call_unkeep(&group.calls[i].call, group.calls[i].counts);
    }
    group.count = kept;
}

tutti_status tutti_group_start(void)
{
    group.depth++;
    return TUTTI_OK;
}

/* A transfer to oneself whose other half is not in the group either can never end. */
static bool refuse_unpaired(struct op_queue *queue, struct operation *op)
{
    for (struct operation **at = &queue->first; *at; at = &(*at)->next) {
        if (*at != op)
            continue;
        *at = op->next;
        if (!op->next)
            queue->last = at;
        tutti_status status = fail(
            TUTTI_ERR_ARG, "rank %u %s itself in a group that does not %s it", op->comm->rank,
            op->call.is_send ? "sends to" : "receives from", op->call.is_send ? "receive" : "send");
        operation_fail(op, status, status_sentence());
        return true;
    }
    return false;
}

bool group_refuse_unpaired(struct operation *op)
{
    tutti_comm *comm = op->comm;
    return !comm->head &&
           (refuse_unpaired(&comm->self_sends, op) || refuse_unpaired(&comm->self_recvs, op));
}

/* One that still has work waits: it looks for failures, and answers those who ask (comm_late.c). */
static bool waits(const tutti_comm *comm)
{
    return comm->head || comm->p2p_list;
}

/* While one moves parts of a message, those that wait for something else must not sleep. */
static void wait_for(const tutti_comm *comm, tutti_comm *const *comms, size_t count)
{
    bool moving = false;
    for (size_t c = 0; c < count; c++)
        moving |= comms[c]->failed == TUTTI_OK && comm_is_moving(comms[c]);
    for (size_t c = 0; c < count; c++) {
        if (comms[c]->failed != TUTTI_OK)
            continue;
        if (moving ? comm_is_moving(comms[c]) : comms[c] == comm || waits(comms[c]))
            comm_idle(comms[c]);
        else
            comm_look(comms[c]); /* another thread may end it */
    }
}

static void run_to_end(tutti_comm *const *comms, size_t count)
{
    size_t at = 0;
    while (at < group.count) {
        struct operation *op = group.calls[at].operation;
        if (!op || op->status != TUTTI_IN_PROGRESS) {
            at++;
            continue;
        }
        bool moved = false;
        for (size_t c = 0; c < count; c++) {
            if (comms[c]->failed == TUTTI_OK)
                moved |= comm_progress(comms[c]);
            else
                comm_look(comms[c]);
        }
        if (!moved && !group_refuse_unpaired(op))
            wait_for(op->comm, comms, count);
    }
}

/* The first error of a group, with its sentence. */
struct first_error {
    tutti_status status;
    char sentence[SENTENCE_MAX];
};

static void keep_first(struct first_error *first, tutti_status status, const char *sentence)
{
    if (status == TUTTI_OK || first->status != TUTTI_OK)
        return;
    first->status = status;
    snprintf(first->sentence, sizeof first->sentence, "%s", sentence);
}

static bool is_one_of(tutti_comm *const *comms, size_t count, const tutti_comm *comm)
{
    for (size_t c = 0; c < count; c++) {
        if (comms[c] == comm)
            return true;
    }
    return false;
}

/* Transfers are matched by their order, so a rank may not go on as if one of its calls had been
 * none: peers would take its next message for that one. */
static tutti_status fail_for_memory(tutti_comm *comm)
{
    return comm_fail(comm, TUTTI_ERR_NOMEM, comm->rank, "no memory to start the calls of a group");
}

/* A communicator that cannot be entered loses its calls; those of the others are carried out.
 * Operations are all made before the first starts: to copy a call behind a send waits until that
 * has left the core's store buffer, 0.02 us and more. */
static tutti_status run_group(tutti_comm **comms)
{
    struct first_error first;
    struct operation few[FEW_CALLS];
    first.status = TUTTI_OK; /* the long sentence is only written with another */
    size_t named = 0, count = 0;
    for (size_t i = 0; i < group.count; i++) {
        if (!is_one_of(comms, named, group.calls[i].comm))
            comms[named++] = group.calls[i].comm;
    }
    for (size_t i = 0; i < named; i++) {
        tutti_status status = comm_enter(comms[i]);
        keep_first(&first, status, status_sentence());
        if (status == TUTTI_OK)
            comms[count++] = comms[i];
    }
    for (size_t i = 0; i < group.count; i++) {
        struct group_call *call = &group.calls[i];
        if (!is_one_of(comms, count, call->comm))
            continue;
        struct operation *op = i < FEW_CALLS ? &few[i] : malloc(sizeof *op);
        if (op)
            operation_init(op, call->comm, &call->call);
        else
            keep_first(&first, fail_for_memory(call->comm), call->comm->sentence);
        call->operation = op;
    }
    for (size_t i = 0; i < group.count; i++) {
        struct operation *op = group.calls[i].operation;
        if (op && op->comm->failed != TUTTI_OK)
            operation_fail(op, op->comm->failed, op->comm->sentence);
        else if (op)
            comm_queue_up(op);
    }
    run_to_end(comms, count);
    for (size_t i = 0; i < group.count; i++) {
        struct operation *op = group.calls[i].operation;
        if (!op)
            continue;
        tutti_status status = operation_result(op);
        keep_first(&first, status, status_sentence());
        if (i >= FEW_CALLS)
            free(op);
    }
    while (count > 0)
        comm_leave(comms[--count]);
    if (first.status != TUTTI_OK)
        status_set_sentence(first.sentence);
    return first.status;
}

/* Ends this thread's list of calls. */
static void forget_calls(void)
{
    for (size_t i = 0; i < group.count; i++)
        call_unkeep(&group.calls[i].call, group.calls[i].counts);
    if (group.calls != group.few)
        free(group.calls);
    group.calls = NULL;
    group.count = group.capacity = 0;
}

/* Whether a group is a unit of streams, and whether its end waits: it does for calls that are not
 * of the stream form. Those without bytes wait for nobody, and host memory needs no unit for
 * them. */
static bool is_unit(bool *waits)
{
    bool unit = false, empty = false;
    *waits = false;
    for (size_t i = 0; i < group.count; i++) {
        const struct group_call *call = &group.calls[i];
        bool in_stream = stream_needs(call->comm, &call->call) || (call->on_stream && call->stream);
        bool is_empty = !in_stream && call->on_stream && stream_is_empty(call->comm, &call->call);
        unit |= in_stream;
        empty |= is_empty;
        *waits |= !call->on_stream || !(in_stream || is_empty);
    }
    return unit || (empty && !*waits);
}

static tutti_status run_unit(bool waits)
{
    struct operation *op = NULL;
    tutti_status status = stream_launch(group.calls, group.count, waits ? &op : NULL);
    group.count = 0; /* the unit has the calls */
    return op ? stream_result(op) : status;
}

static tutti_status fail_group(void)
{
    tutti_status status = TUTTI_OK;
    for (size_t i = 0; i < group.count; i++) {
        tutti_comm *comm = group.calls[i].comm;
        status = comm_enter(comm);
        if (status == TUTTI_OK) {
            status = fail_for_memory(comm);
            comm_leave(comm);
        }
    }
    return status;
}

tutti_status tutti_group_cancel(void)
{
    if (group.depth == 0)
        return fail(TUTTI_ERR_STATE, "tutti_group_cancel without tutti_group_start");
    group.depth = 0;
    forget_calls();
    return TUTTI_OK;
}

tutti_status tutti_group_end(void)
{
    if (group.depth == 0)
        return fail(TUTTI_ERR_STATE, "tutti_group_end without tutti_group_start");
    if (--group.depth > 0)
        return TUTTI_OK;
    tutti_status status = TUTTI_OK;
    bool waits;
    if (group.count > 0 && is_unit(&waits)) {
        status = run_unit(waits);
    } else if (group.count > 0) {
        tutti_comm *few[FEW_CALLS];
        bool fits = group.count <= FEW_CALLS;
        tutti_comm **comms = fits ? few : malloc(group.count * sizeof *comms);
        status = comms ? run_group(comms) : fail_group();
        if (!fits)
            free(comms);
    }
    forget_calls();
    return status;
}
