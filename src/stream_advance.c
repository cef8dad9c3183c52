/* stream_advance.c: what becomes of one unit, in the proxy. It goes QUEUED -> CLEARING -> RUNNING
 * -> (HELD) -> (DRAINING) -> ended; a captured one goes back to QUEUED. While it runs each of its
 * calls goes on by itself, in their order: its bytes come, it is submitted, it ends, its bytes are
 * back. Nothing here waits: each look sees what has come and goes on. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "src/group.h"
#include "src/stream_unit.h"

/* A communicator of the unit that is of no use any more. */
static const tutti_comm *lost_comm(const struct unit *unit)
{
    for (size_t i = 0; i < unit->comm_count; i++) {
        const tutti_comm *comm = unit->comms[i].comm;
        if (comm && (comm->failed != TUTTI_OK || atomic_load(&comm->aborted)))
            return comm;
    }
    return NULL;
}

static void leave_comms(struct unit *unit, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (!unit->transfer || --comm->transfers_inside == 0)
            comm_leave(comm);
        if (unit->captured)
            atomic_fetch_sub(&comm->replays, 1);
    }
}

static bool seize_comms(struct unit *unit)
{
    for (size_t i = 0; i < unit->comm_count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (unit->captured)
            atomic_fetch_add(&comm->replays, 1);
        /* Transfers share the place that the first of them took. */
        if (comm->transfers_inside > 0 ? unit->transfer : comm_try_seize(comm)) {
            comm->transfers_clear &= comm->transfers_inside > 0;
            comm->transfers_inside += unit->transfer;
            continue;
        }
        if (unit->captured)
            atomic_fetch_sub(&comm->replays, 1);
        leave_comms(unit, i);
        return false;
    }
    unit->inside = true;
    return true;
}

/* Whether it is the unit's turn. The proxy cannot know when a graph was launched, only when its
 * stream comes: a replay runs before whatever has not come, for that may be behind it. So the
 * communicators are all it needs. */
static bool is_next(const struct unit *unit)
{
    /* Started transfers progress together, whatever the order they were started in: one begins
     * beside others, when all before it have begun. */
    if (unit->transfer && unit->comms[0].comm->transfers_inside > 0)
        return unit->comms[0].comm->units_begun == unit->comms[0].order;
    for (size_t i = 0; i < unit->comm_count && !unit->captured; i++) {
        if (atomic_load(&unit->comms[i].comm->units_retired) != unit->comms[i].order)
            return false;
    }
    return true;
}

/* A device that failed brings no stream: where one has not come for so long, its driver is asked.
 */
#define STREAM_ASKS_NS 200000000u

static tutti_status ask_devices(struct unit *unit)
{
    uint64_t now = clock_ns();
    tutti_status status = TUTTI_OK;
    if (unit->asked_ns > 0 && now - unit->asked_ns < STREAM_ASKS_NS)
        return TUTTI_OK;
    for (size_t i = 0; i < unit->stream_count && unit->asked_ns > 0 && status == TUTTI_OK; i++)
        status = mem_device_check(unit->streams[i].stream.device);
    unit->asked_ns = now;
    return status;
}

/* Of a unit that has not begun. A communicator that somebody is inside of fails the next time. */
static void fail_comms(struct unit *unit, tutti_status status)
{
    char text[SENTENCE_MAX];
    snprintf(text, sizeof text, "%s", status_sentence());
    for (size_t i = 0; i < unit->comm_count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (!comm_try_seize(comm))
            continue;
        if (comm->failed == TUTTI_OK)
            (void)comm_fail(comm, status, comm->rank, text);
        comm_leave(comm);
    }
}

/* The first error of a unit. Who waits for the unit gets the sentence as well: by then the
 * communicator may be destroyed, or have none. */
static void note_error(struct unit *unit, tutti_status status, const char *sentence)
{
    if (unit->status != TUTTI_OK)
        return;
    unit->status = status;
    if (unit->result)
        unit->result->sentence = strdup(sentence);
}

/* An error that is not a communicator's own becomes its failure: where the call that issued the
 * unit has returned only the communicator can tell. */
static void unit_failed(struct unit *unit, tutti_comm *comm, tutti_status status)
{
    if (comm->failed == TUTTI_OK)
        comm_fail(comm, status, comm->rank, status_sentence());
    note_error(unit, comm->failed, comm->sentence);
}

/* What every rank refuses alike is told to who waits, and the communicator lives. */
static void call_failed(struct unit *unit, const struct operation *op)
{
    bool refused = op->status == TUTTI_ERR_ARG || op->status == TUTTI_ERR_SETTING;
    if (unit->result && refused && op->comm->failed == TUTTI_OK)
        note_error(unit, op->status, op->sentence ? op->sentence : status_text(op->status));
    else
        unit_failed(unit, op->comm, op->status);
}

static tutti_status copy_in_queue(void *context, void *dst, const void *src, size_t len)
{
    struct unit_call *call = context;
    tutti_status status = TUTTI_OK;
    uint64_t done = 0;
    /* What is more than a queue may hold at once goes as it gets through; the queue is clear. */
    while (status == TUTTI_OK && call->pieces > QUEUE_TICKETS_MAX / 2 &&
           call->ticket > done + QUEUE_TICKETS_MAX / 2) {
        status = comm_check_abort(call->comm) ? comm_error(call->comm)
                                              : mem_queue_poll(call->queue, &done);
    }
    return status == TUTTI_OK ? mem_queue_copy(call->queue, dst, src, len, &call->ticket) : status;
}

/* True when a queue will run, or its communicator is of no use any more. */
static bool is_clear(struct unit *unit, tutti_comm *comm, struct mem_queue *queue)
{
    if (comm_check_abort(comm) || comm->failed != TUTTI_OK)
        return true;
    tutti_status status = mem_queue_clear(queue);
    if (status != TUTTI_OK && status != TUTTI_IN_PROGRESS)
        unit_failed(unit, comm, status);
    return status != TUTTI_IN_PROGRESS;
}

static bool queues_are_clear(struct unit *unit)
{
    bool all = true;
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        call->is_clear = call->is_clear || is_clear(unit, call->comm, call->queue);
        all &= call->is_clear;
    }
    for (size_t i = 0; i < unit->comm_count; i++) {
        struct unit_comm *at = &unit->comms[i];
        /* Nobody asks again while other transfers work in the queue. */
        at->is_clear = at->is_clear || (unit->transfer && at->comm->transfers_clear) ||
                       is_clear(unit, at->comm, at->comm->queue);
        at->comm->transfers_clear |= unit->transfer && at->on_device && at->is_clear;
        all &= at->is_clear;
    }
    return all;
}

/* Whether the stream has brought the call's bytes, or nobody needs them any more. */
static bool has_come(const struct unit *unit, const struct unit_call *call)
{
    if (unit->captured || call->stream < 0 || call->comm->failed != TUTTI_OK)
        return true;
    const struct unit_stream *at = &unit->streams[call->stream];
    uint32_t seen = atomic_load_explicit(&at->words->word[UNIT_START], memory_order_acquire);
    return (int32_t)(seen - (at->first + call->step)) >= 0;
}

static void enter_call(struct unit *unit, struct unit_call *call)
{
    tutti_status status = TUTTI_OK;
    call->ticket = 0;
    if (call->comm->failed != TUTTI_OK)
        return;
    if (call->stage.scale && call->in_queue) {
        status = mem_queue_scale(call->queue, call->call.dtype, (void *)call->stage.in,
                                 call->stage.call.in, &call->call.made->scalar,
                                 call->stage.in_bytes / call->call.elem_size, &call->ticket);
    } else if (call->in_queue) {
        status = stage_in(&call->stage, copy_in_queue, call);
    }
    call->at_work = call->ticket != 0 || status != TUTTI_OK;
    if (status != TUTTI_OK)
        unit_failed(unit, call->comm, status);
}

/* A unit of a lost communicator starts before its streams have come: what is not of that one still
 * waits for its own. */
static void enter(struct unit *unit)
{
    while (unit->entered < unit->call_count && has_come(unit, &unit->calls[unit->entered]))
        enter_call(unit, &unit->calls[unit->entered++]);
}

static void leave_call(struct unit *unit, struct unit_call *call)
{
    tutti_status status = TUTTI_OK;
    call->ticket = 0;
    if (call->comm->failed != TUTTI_OK) {
        if (call->in_queue && (call->stage.divide || call->stage.copy_out))
            unit_failed(unit, call->comm, call->comm->failed);
        return;
    }
    if (call->stage.divide && call->in_queue)
        status = mem_queue_divide(call->queue, call->call.dtype, call->stage.out, call->comm->size,
                                  call->stage.out_bytes / call->call.elem_size, &call->ticket);
    if (status == TUTTI_OK && call->in_queue)
        status = stage_out(call->comm, &call->stage, copy_in_queue, call);
    call->at_work = call->ticket != 0 || status != TUTTI_OK;
    if (status != TUTTI_OK)
        unit_failed(unit, call->comm, status);
}

/* Whether what the call gave its queue is done, or will not be waited for: then the unit failed. */
static bool is_carried(struct unit *unit, struct unit_call *call)
{
    uint64_t done = 0;
    tutti_status status = call->comm->failed;
    if (call->ticket == 0)
        return true;
    if (status == TUTTI_OK)
        status = mem_queue_poll(call->queue, &done);
    if (status != TUTTI_OK)
        unit_failed(unit, call->comm, status);
    else if (done >= call->ticket)
        call->at_work = false;
    return status != TUTTI_OK || done >= call->ticket;
}

/* Transfers match in the order they were issued, however long their bytes took. */
static bool may_submit(const struct unit *unit)
{
    return !unit->transfer || unit->comms[0].comm->units_submitted == unit->comms[0].order;
}

static void submit_call(struct unit *unit, struct unit_call *call)
{
    tutti_status status = call->comm->failed;
    call->operation = NULL;
    if (status == TUTTI_OK) {
        call->at_work = true;
        status = comm_submit(call->comm, &call->call, &call->operation);
    }
    if (status != TUTTI_OK)
        unit_failed(unit, call->comm, status);
}

/* Submits the calls whose bytes are there, in their order; true if there were any. */
static bool submit(struct unit *unit)
{
    size_t before = unit->submitted;
    if (before == 0 && !may_submit(unit))
        return false;
    if (before == 0)
        unit->comms[0].comm->slots = unit->slots;
    while (unit->submitted < unit->entered) {
        struct unit_call *call = &unit->calls[unit->submitted];
        if (!is_carried(unit, call))
            break;
        submit_call(unit, call);
        unit->submitted++;
    }
    for (size_t i = 0; i < unit->comm_count && before < unit->submitted && !unit->captured; i++)
        unit->comms[i].comm->units_submitted = unit->comms[i].order + 1;
    return before < unit->submitted;
}

/* Takes note of the calls that are over. */
static void end_calls(struct unit *unit, bool moved)
{
    bool all = unit->submitted == unit->call_count;
    while (unit->ended < unit->submitted) {
        struct operation *op = unit->calls[unit->ended].operation;
        if (op && op->status == TUTTI_IN_PROGRESS) {
            if (moved || !all || unit->transfer || !group_refuse_unpaired(op))
                return;
        }
        if (op && op->status != TUTTI_OK)
            call_failed(unit, op);
        else if (op)
            unit->calls[unit->ended].at_work = false;
        unit->ended++;
    }
}

/* Lets the stream take back what its first steps brought. */
static void tell_steps(const struct unit *unit)
{
    if (unit->captured || unit->stream_count != 1 || unit->left == unit->call_count)
        return; /* the last is told when the unit is retired */
    const struct unit_stream *at = &unit->streams[0];
    uint32_t over = unit->calls[unit->left].step;
    if (over > 0)
        atomic_store_explicit(&at->words->word[UNIT_DONE], at->first + over - 1,
                              memory_order_release);
}

/* Lets bytes go back. What a queue brings might be where a later call's come from, so it waits
 * until all are submitted. */
static void leave(struct unit *unit)
{
    bool all = unit->submitted == unit->call_count;
    size_t before = unit->left;
    while (unit->leaving < unit->ended && (all || !unit->calls[unit->leaving].in_queue))
        leave_call(unit, &unit->calls[unit->leaving++]);
    while (unit->left < unit->leaving && is_carried(unit, &unit->calls[unit->left]))
        unit->left++;
    if (before < unit->left)
        tell_steps(unit);
}

/* True when every call is over and its bytes are back. */
static bool run(struct unit *unit, bool *moved)
{
    enter(unit);
    if (unit->entered < unit->call_count) {
        tutti_status status = ask_devices(unit);
        if (status != TUTTI_OK)
            unit_failed(unit, unit->calls[unit->entered].comm, status);
    }
    *moved |= submit(unit);
    for (size_t i = 0; i < unit->comm_count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (comm->failed == TUTTI_OK && comm_progress(comm))
            *moved = true;
        else
            comm_look(comm);
    }
    end_calls(unit, *moved);
    leave(unit);
    return unit->left == unit->call_count;
}

/* A captured unit's next replay signals the same value again. */
static void await_streams(struct unit *unit)
{
    for (size_t i = 0; i < unit->stream_count && unit->captured; i++)
        atomic_store_explicit(&unit->streams[i].words->word[UNIT_START], unit->streams[i].value - 1,
                              memory_order_relaxed);
}

/* And it uses the same slots. */
static void await_replay(struct unit *unit)
{
    if (unit->captured && unit->slots)
        mem_slots_rewind(unit->slots);
    await_streams(unit);
}

static void answer_streams(struct unit *unit)
{
    if (unit->slots)
        mem_slots_skip(unit->slots);
    for (size_t i = 0; i < unit->stream_count; i++) {
        struct unit_stream *at = &unit->streams[i];
        atomic_store_explicit(&at->words->word[UNIT_DONE], at->value, memory_order_release);
    }
}

void unit_answer(struct unit *unit)
{
    if (unit->slots)
        mem_slots_skip_all(unit->slots);
    answer_streams(unit);
}

/* ---- the end ---- */

/* How long the streams of a unit that failed are held; 0: they are not. */
static uint64_t hold_ms(const struct unit *unit)
{
    uint64_t ms = 0;
    for (size_t i = 0; i < unit->comm_count && unit->stream_count > 0; i++) {
        const tutti_comm *comm = unit->comms[i].comm;
        if (comm->failed == TUTTI_OK || !atomic_load(&comm->holds))
            continue;
        if (comm->settings.hold_ms > ms)
            ms = comm->settings.hold_ms;
    }
    return ms;
}

static void hold(struct unit *unit, uint64_t ms)
{
    unit->held_until_ns = clock_ns() + ms * 1000000u;
    unit->state = UNIT_HELD;
    for (size_t i = 0; i < unit->comm_count; i++)
        atomic_fetch_add(&unit->comms[i].comm->held, 1);
}

static bool is_let_go(const struct unit *unit)
{
    for (size_t i = 0; i < unit->comm_count; i++) {
        if (atomic_load(&unit->comms[i].comm->aborted))
            return true;
    }
    if (clock_ns() < unit->held_until_ns)
        return false;
    for (size_t i = 0; i < unit->comm_count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (comm->failed != TUTTI_OK && atomic_exchange(&comm->holds, false))
            log_at(LOG_LEVEL_WARN, (int)comm->rank,
                   "nobody aborted the communicator: streams that waited for it since it failed go "
                   "on, with unspecified data (TUTTI_HOLD_MS)");
    }
    return true;
}

/* Its streams go on. */
static void let_go(struct unit *unit)
{
    answer_streams(unit);
    unit->state = unit->captured ? UNIT_QUEUED : UNIT_DRAINING;
}

/* After this nobody of the unit looks at a communicator. */
static void end_hold(struct unit *unit)
{
    let_go(unit);
    for (size_t i = 0; i < unit->comm_count; i++)
        atomic_fetch_sub(&unit->comms[i].comm->held, 1);
}

/* The unit is over: its communicators are left, its streams go on unless they are held, its caller
 * sees it ended. */
static void retire(struct unit *unit)
{
    uint64_t ms = hold_ms(unit);
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        if (call->operation) {
            call->bounce = call->operation->bounce;
            operation_release(call->operation);
        }
        call->operation = NULL;
        unit->broken |= call->comm && call->comm->failed != TUTTI_OK;
    }
    if (!unit->captured)
        unit_unkeep(unit);
    if (ms > 0)
        hold(unit, ms);
    else
        let_go(unit);
    if (unit->inside) {
        unit->comms[0].comm->slots = NULL;
        leave_comms(unit, unit->comm_count);
    }
    unit->inside = false;
    for (size_t i = 0; i < unit->comm_count && !unit->captured; i++)
        atomic_fetch_add_explicit(&unit->comms[i].comm->units_retired, 1, memory_order_release);
    if (unit->result)
        unit->result->status = unit->status;
    unit->result = NULL;
}

/* Streams that have come to this unit are beyond all that was put into them before it. Of two that
 * threads put into one stream at a time, part of either may lie behind part of the other, and the
 * later may be first in the list. */
static void mark_passed(struct unit *list, const struct unit *unit)
{
    for (struct unit *old = list; old != unit; old = old->next) {
        if (old->state != UNIT_DRAINING || old->put_to > unit->put_from)
            continue;
        for (size_t i = 0; i < old->stream_count; i++) {
            const struct mem_stream *stream = &old->streams[i].stream;
            for (size_t j = 0; j < unit->stream_count; j++)
                old->streams[i].passed |= mem_stream_is_same(&unit->streams[j].stream, stream);
        }
    }
}

static bool streams_passed(const struct unit *unit)
{
    for (size_t i = 0; i < unit->stream_count; i++) {
        if (!unit->streams[i].passed)
            return false;
    }
    return true;
}

/* Takes a queued unit as far as it goes; true if it starts. */
static bool start(struct unit *unit, struct unit *list)
{
    /* The cheap look first: of many units of a communicator only one can be next. */
    if (!is_next(unit))
        return false;
    bool here = unit_streams_at(unit, UNIT_START);
    if (unit->captured && !here)
        return false;
    if (unit->captured && replay_is_dead(unit)) {
        /* Not rewound: it was answered before it came, and may be past its slots. */
        await_streams(unit);
        unit_answer(unit);
        return true;
    }
    tutti_status status = here || lost_comm(unit) ? TUTTI_OK : ask_devices(unit);
    if (status != TUTTI_OK)
        fail_comms(unit, status);
    if ((!here && !lost_comm(unit)) || !seize_comms(unit))
        return false;
    unit->status = TUTTI_OK;
    for (size_t i = 0; i < unit->comm_count; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (atomic_load(&comm->aborted) && comm->failed == TUTTI_OK)
            comm_fail(comm, TUTTI_ERR_ABORTED, comm->rank, "");
        if (comm->failed != TUTTI_OK)
            note_error(unit, comm->failed, comm->sentence);
        comm_idle_reset(comm); /* nobody may have waited before, for what was started before */
    }
    await_replay(unit);
    if (unit->captured)
        replay_started(unit);
    else if (here)
        mark_passed(list, unit);
    for (size_t i = 0; i < unit->comm_count && !unit->captured; i++)
        unit->comms[i].comm->units_begun = unit->comms[i].order + 1;
    for (size_t i = 0; i < unit->call_count; i++)
        unit->calls[i].is_clear = !unit->calls[i].owns_queue;
    for (size_t i = 0; i < unit->comm_count; i++)
        unit->comms[i].is_clear = !unit->comms[i].on_device;
    unit->state = UNIT_CLEARING;
    return true;
}

/* Whether others may have its blocks, its slots and its words: those of a unit that began before
 * its streams came are still to be signalled. */
static bool is_drained(const struct unit *unit)
{
    if (unit->slots && !mem_slots_passed(unit->slots))
        return false;
    if (unit->ends)
        return unit_streams_at(unit, UNIT_END);
    return unit->has_blocks ? streams_passed(unit)
                            : !unit->broken || unit_streams_at(unit, UNIT_START);
}

bool unit_advance(struct unit *unit, struct unit *list, bool *over)
{
    bool moved = false;
    *over = false;
    if (unit->state == UNIT_QUEUED)
        moved = start(unit, list);
    if (unit->state == UNIT_CLEARING && queues_are_clear(unit)) {
        unit->entered = unit->submitted = unit->ended = unit->leaving = unit->left = 0;
        unit->quiet_ns = 0;
        unit->state = UNIT_RUNNING;
        moved = true;
    }
    if (unit->state == UNIT_RUNNING && run(unit, &moved) && unit_is_quiet(unit)) {
        retire(unit);
        moved = true;
    }
    if (unit->state == UNIT_HELD && is_let_go(unit)) {
        end_hold(unit);
        moved = true;
    }
    if (unit->state == UNIT_DRAINING)
        *over = is_drained(unit);
    return moved;
}

void unit_release(struct unit *unit)
{
    if (unit->state == UNIT_QUEUED)
        await_replay(unit); /* a replay may be queued; of several only the first goes on */
    answer_streams(unit);
}
