/* stream.c: launching units. See stream.h. Everything a unit needs is taken here, in the caller's
 * thread, so that the proxy (stream_proxy.c) allocates nothing from a driver while streams wait. */
#include "src/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "src/comm.h"
#include "src/stream_unit.h"

bool stream_needs(const struct tutti_comm *comm, const struct call *call)
{
    struct extent extents[2];
    struct mem_place place;
    if (!mem_device_present() || call_extents(comm, call, &extents[0], &extents[1]) != TUTTI_OK)
        return false;
    for (int i = 0; i < 2; i++) {
        if (extents[i].used && extents[i].bytes > 0 &&
            (mem_device_of(extents[i].begin, &place) != TUTTI_OK || place.device))
            return true; /* what is wrong with the memory is said when the unit is made */
    }
    return false;
}

/* ---- making a unit ----------------------------------------------------------------------------
 */

void unit_free(struct unit *unit)
{
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        free(call->counts);
        stage_free(&call->stage);
        if (call->owns_queue)
            mem_queue_give(call->queue);
    }
    mem_queue_give(unit->slots);
    for (size_t i = 0; i < unit->stream_count; i++) {
        if (unit->streams[i].words)
            mem_words_give(unit->streams[i].stream.device, unit->streams[i].words);
    }
    free(unit->calls);
    free(unit->streams);
    free(unit->comms);
    free(unit);
}

/* A device may still work in the blocks, a stream touch the words: they are left out of use. */
void unit_abandon(struct unit *unit)
{
    for (size_t i = 0; i < unit->call_count; i++) {
        unit->calls[i].stage.block = NULL;
        unit->calls[i].owns_queue = false;
    }
    if (unit->slots && !mem_slots_passed(unit->slots))
        unit->slots = NULL;
    for (size_t i = 0; i < unit->stream_count; i++)
        unit->streams[i].words = NULL;
    unit_free(unit);
}

void unit_end(struct unit *unit)
{
    if (unit->broken)
        unit_abandon(unit);
    else
        unit_free(unit);
}

/* Room for everything a unit of count calls can name. */
static struct unit *unit_new(size_t count)
{
    struct unit *unit = calloc(1, sizeof *unit);
    if (!unit)
        return NULL;
    unit->calls = calloc(count, sizeof *unit->calls);
    unit->streams = calloc(count, sizeof *unit->streams);
    unit->comms = calloc(count, sizeof *unit->comms);
    if (unit->calls && unit->streams && unit->comms)
        return unit;
    unit_free(unit);
    return NULL;
}

static struct unit_comm *add_comm(struct unit *unit, tutti_comm *comm)
{
    for (size_t i = 0; i < unit->comm_count; i++) {
        if (unit->comms[i].comm == comm)
            return &unit->comms[i];
    }
    unit->comms[unit->comm_count] = (struct unit_comm){.comm = comm};
    return &unit->comms[unit->comm_count++];
}

static tutti_status add_stream(struct unit *unit, const struct group_call *from,
                               struct unit_call *call)
{
    struct mem_stream stream;
    const void *hint = call->stage.device
                           ? (call->stage.copy_in || call->stage.call.in ? call->stage.call.in
                                                                         : call->stage.call.out)
                           : NULL;
    tutti_status status = mem_stream_open(from->stream, hint, &stream);
    if (status != TUTTI_OK)
        return status;
    if (call->stage.device && call->stage.device != stream.device)
        return fail(TUTTI_ERR_ARG, "%s: the stream belongs to %s but the buffers to %s at rank %u",
                    coll_name(call->call.coll), mem_device_name(stream.device),
                    mem_device_name(call->stage.device), call->comm->rank);
    for (size_t i = 0; i < unit->stream_count; i++) {
        const struct mem_stream *known = &unit->streams[i].stream;
        if (known->handle == stream.handle && known->device == stream.device) {
            call->stream = (int)i;
            return TUTTI_OK;
        }
    }
    if (unit->stream_count > 0 && unit->captured != (stream.capture != 0))
        return fail(TUTTI_ERR_ARG,
                    "%s: some streams of the group are being captured and others are not, at rank "
                    "%u: capture all of them or none",
                    coll_name(call->call.coll), call->comm->rank);
    unit->captured = stream.capture != 0;
    struct unit_stream *added = &unit->streams[unit->stream_count];
    status = mem_words_take(stream.device, &added->words);
    if (status != TUTTI_OK)
        return status;
    added->stream = stream;
    call->stream = (int)unit->stream_count++;
    return TUTTI_OK;
}

static tutti_status add_call(struct unit *unit, const struct group_call *from)
{
    struct unit_call *call = &unit->calls[unit->call_count - 1];
    struct unit_comm *comm = add_comm(unit, from->comm);
    tutti_status status = stage_make(from->comm, &call->call, &call->stage);
    comm->on_device |= call->call.on_device || call->call.by_nic;
    if (status == TUTTI_OK && from->on_stream && (from->stream || call->stage.device))
        status = add_stream(unit, from, call);
    return status;
}

/* Pieces of work that the call may give its queue at once. */
static size_t pieces_of(const struct unit_call *call)
{
    return call->stage.call.displs || call->stage.call.recv_displs ? call->comm->size + 2 : 2;
}

/* The queue of an earlier call of the unit where it has room, for each queue is a stream more that
 * must find its way past those that wait; else one of its own. */
static tutti_status take_queue(struct unit *unit, struct unit_call *call)
{
    size_t pieces = pieces_of(call);
    for (struct unit_call *other = unit->calls; other < call; other++) {
        if (!other->owns_queue || other->stage.device != call->stage.device ||
            other->pieces + pieces > QUEUE_TICKETS_MAX / 2)
            continue;
        other->pieces += pieces;
        call->queue = other->queue;
        return TUTTI_OK;
    }
    call->pieces = pieces;
    tutti_status status = mem_queue_take(call->stage.device, &call->queue);
    call->owns_queue = status == TUTTI_OK;
    return status;
}

/* Decides who carries each call's bytes to and from its block. A stream does so itself where it is
 * alone: with others in the unit its bytes may come from any of them, and any of them may read
 * what comes back as soon as it goes on. */
static tutti_status choose_carriers(struct unit *unit)
{
    tutti_status status = TUTTI_OK;
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        struct unit_call *call = &unit->calls[i];
        const struct stage *stage = &call->stage;
        if (unit->captured && call->stream < 0)
            return fail(TUTTI_ERR_ARG,
                        "%s: a group that is being captured holds a call without a stream, at rank "
                        "%u",
                        coll_name(call->call.coll), call->comm->rank);
        call->in_queue = call->stream < 0 || unit->stream_count > 1;
        if (call->in_queue && (stage->copy_in || stage->copy_out || stage->scale || stage->divide))
            status = take_queue(unit, call);
    }
    return status;
}

/* ---- slots ------------------------------------------------------------------------------------
 */

/* Of a transfer to this rank itself either half may be the one in device memory. */
static tutti_status find_demand(struct unit_call *call)
{
    const struct call *as = &call->call;
    if (!as->on_device)
        return TUTTI_OK;
    if (as->coll != TUTTI_COLL_SENDRECV)
        return exec_demand(call->comm, as, &call->demand);
    call->demand.works = !as->is_send || as->root == (int)call->comm->rank;
    call->demand.bytes = (uint64_t)as->count * as->elem_size;
    return TUTTI_OK;
}

/* Takes slots for all work of the unit, where it has one stream and one communicator and either
 * plans or transfers: of two that are not in the same order everywhere, one could wait for what
 * lies behind the other. Without slots the communicator's queue serves. */
static tutti_status take_slots(struct unit *unit)
{
    size_t works = 0;
    uint64_t scratch_bytes = 0;
    struct unit_comm *at = &unit->comms[0];
    bool transfers = unit->calls[0].call.coll == TUTTI_COLL_SENDRECV;
    if (unit->stream_count != 1 || unit->comm_count != 1 || !at->on_device ||
        unit->streams[0].stream.device != at->comm->device)
        return TUTTI_OK;
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        if ((call->call.coll == TUTTI_COLL_SENDRECV) != transfers)
            return TUTTI_OK;
        tutti_status status = find_demand(call);
        if (status != TUTTI_OK)
            return status;
        works += call->demand.works;
        if (call->demand.scratch_bytes > scratch_bytes)
            scratch_bytes = call->demand.scratch_bytes;
    }
    if (works == 0 || works > UNIT_SLOTS_MAX ||
        mem_slots_take(at->comm->device, works, &unit->slots) != TUTTI_OK)
        return TUTTI_OK;
    at->on_device = false;
    return exec_offer_scratch(at->comm, scratch_bytes);
}

/* In the order of the calls, which is the order of their plans. */
static tutti_status put_slots(const struct unit *unit)
{
    tutti_status status = TUTTI_OK;
    for (size_t i = 0; i < unit->call_count && unit->slots && status == TUTTI_OK; i++) {
        const struct unit_call *call = &unit->calls[i];
        struct slot_work work = {.reduces = coll_info(call->call.coll)->reduces,
                                 .op = comm_plain_op(call->comm, call->call.op),
                                 .dtype = call->call.dtype,
                                 .count = call->demand.works,
                                 .bytes = call->demand.bytes};
        if (work.count > 0)
            status = mem_slots_put(unit->slots, &unit->streams[0].stream, &work);
    }
    return status;
}

/* ---- putting it into streams ------------------------------------------------------------------
 */

static tutti_status copy_in_stream(void *context, void *dst, const void *src, size_t len)
{
    return mem_stream_copy(context, dst, src, len);
}

/* What a stream brings back of a call. */
struct bringing {
    const struct mem_stream *stream;
    uint64_t kernel_max;
};

static tutti_status bring_in_stream(void *context, void *dst, const void *src, size_t len)
{
    const struct bringing *back = context;
    return len <= back->kernel_max ? mem_stream_copy_short(back->stream, dst, src, len)
                                   : mem_stream_copy(back->stream, dst, src, len);
}

/* Where all that a stream does before its signal is one short copy to host memory. */
static const struct stage *only_copy(const struct unit *unit)
{
    const struct unit_call *call = &unit->calls[0];
    const struct stage *stage = &call->stage;
    return unit->call_count == 1 && !call->in_queue && stage->pinned && stage->copy_in &&
                   stage->in_bytes > 0 && stage->in_bytes <= call->comm->settings.cuda_kernel_out
               ? stage
               : NULL;
}

static tutti_status scale_in_stream(const struct unit_call *call, const struct mem_stream *stream)
{
    const struct comm_op *op = &call->comm->ops[call->call.op - TUTTI_OP_DYNAMIC];
    return mem_stream_scale(stream, call->call.dtype, (void *)call->stage.in, call->stage.call.in,
                            &op->scalar, call->stage.in_bytes / call->call.elem_size);
}

static tutti_status put_before(struct unit *unit, size_t index)
{
    struct unit_stream *at = &unit->streams[index];
    const struct stage *only = only_copy(unit);
    tutti_status status = TUTTI_OK;
    if (only)
        return mem_stream_copy_signal(&at->stream, (void *)only->in, only->call.in, only->in_bytes,
                                      at->words, UNIT_START, at->value);
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        const struct unit_call *call = &unit->calls[i];
        if (call->stream != (int)index || call->in_queue)
            continue;
        status = call->stage.scale ? scale_in_stream(call, &at->stream)
                                   : stage_in(&call->stage, copy_in_stream, &at->stream);
    }
    if (status == TUTTI_OK)
        status = mem_stream_signal(&at->stream, at->words, UNIT_START, at->value);
    return status;
}

static tutti_status put_after(struct unit *unit, size_t index)
{
    struct unit_stream *at = &unit->streams[index];
    tutti_status status = mem_stream_wait(&at->stream, at->words, UNIT_DONE, at->value);
    if (status == TUTTI_OK && unit->captured)
        status = mem_stream_signal(&at->stream, at->words, UNIT_DONE, at->value - 1);
    if (status == TUTTI_OK && unit->captured && unit->slots)
        status = mem_slots_put_reset(unit->slots, &at->stream);
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        const struct unit_call *call = &unit->calls[i];
        if (call->stream != (int)index || call->in_queue)
            continue;
        if (call->stage.divide)
            status =
                mem_stream_divide(&at->stream, call->call.dtype, call->stage.out, call->comm->size,
                                  call->stage.out_bytes / call->call.elem_size);
        struct bringing back = {&at->stream, call->comm->settings.cuda_kernel_back};
        if (status == TUTTI_OK)
            status = stage_out(call->comm, &call->stage, bring_in_stream, &back);
    }
    if (status == TUTTI_OK && unit->ends)
        status = mem_stream_signal(&at->stream, at->words, UNIT_END, at->value);
    return status;
}

static void graph_gone(void *context)
{
    struct unit *unit = context;
    atomic_store_explicit(&unit->gone, true, memory_order_release);
}

/* The graph is told first: whatever part of the unit it holds then, its replays are answered. */
static tutti_status put_into_streams(struct unit *unit)
{
    tutti_status status = TUTTI_OK;
    unit->ends &= !unit->captured;
    if (unit->captured)
        status = mem_stream_retain(&unit->streams[0].stream, graph_gone, unit);
    if (status != TUTTI_OK)
        return status;
    unit->put = unit->stream_count > 0;
    for (size_t i = 0; i < unit->stream_count; i++)
        unit->streams[i].value = ++unit->streams[i].words->value;
    for (size_t i = 0; i < unit->stream_count && status == TUTTI_OK; i++)
        status = put_before(unit, i);
    if (status == TUTTI_OK)
        status = put_slots(unit);
    for (size_t i = 0; i < unit->stream_count && status == TUTTI_OK; i++)
        status = put_after(unit, i);
    /* What went into a stream waits there: it must not wait for ever. */
    if (status != TUTTI_OK)
        unit_release(unit);
    return status;
}

/* Part of it lies in streams or in a graph, and does nothing any more. */
static void give_up(struct unit *unit)
{
    if (!unit->captured) {
        unit_abandon(unit);
        return;
    }
    unit->comms[0].comm = NULL;
    proxy_take(unit);
}

/* ---- launching --------------------------------------------------------------------------------
 */

static void launch_failed(const struct group_call *calls, size_t count, tutti_status status)
{
    char sentence[SENTENCE_MAX];
    strcpy(sentence, status_sentence());
    for (size_t i = 0; i < count; i++) {
        tutti_comm *comm = calls[i].comm;
        /* Arguments are the caller's mistake, on every rank alike; the communicator lives. */
        if (status == TUTTI_ERR_ARG || comm->failed != TUTTI_OK)
            continue;
        if (comm_seize(comm)) {
            comm_fail(comm, status, comm->rank, sentence);
            comm_leave(comm);
        } else {
            atomic_store(&comm->aborted, true); /* the proxy is inside: it sees this */
        }
    }
    status_set_sentence(sentence);
}

static tutti_status make_result(struct unit *unit, tutti_comm *comm)
{
    struct operation *op = unit->result = calloc(1, sizeof *op);
    if (!op)
        return fail(TUTTI_ERR_NOMEM, "no memory to start an operation");
    op->comm = comm;
    op->call = (struct call){.coll = TUTTI_COLL_BARRIER};
    op->of_unit = true;
    op->status = TUTTI_IN_PROGRESS;
    return TUTTI_OK;
}

/* Fills a new unit, unless status says no. Whatever happens, the counts of all calls are the
 * unit's.
 */
static tutti_status fill(struct unit *unit, const struct group_call *calls, size_t count,
                         bool wants_result, tutti_status status)
{
    for (size_t i = 0; i < count; i++) {
        unit->calls[i] = (struct unit_call){
            .comm = calls[i].comm, .call = calls[i].call, .counts = calls[i].counts, .stream = -1};
        unit->call_count++;
        if (status == TUTTI_OK)
            status = add_call(unit, &calls[i]);
        const struct stage *stage = &unit->calls[i].stage;
        unit->has_blocks |= stage->block != NULL;
        unit->ends |= stage->block && stage->in_bytes + stage->out_bytes >= UNIT_BLOCK_LARGE;
    }
    unit->transfer =
        calls[0].alone && !calls[0].on_stream && calls[0].call.coll == TUTTI_COLL_SENDRECV;
    for (size_t i = 0; i < count; i++)
        unit->calls[i].call.replayed = unit->captured;
    if (status == TUTTI_OK)
        status = choose_carriers(unit);
    if (status == TUTTI_OK && wants_result)
        status = make_result(unit, calls[0].comm);
    if (status == TUTTI_OK)
        status = take_slots(unit);
    /* In between, in the same channel, another unit's wait could hold up this one's work. */
    struct mem_device *device = unit->slots ? unit->streams[0].stream.device : NULL;
    if (device)
        mem_device_lock_streams(device);
    if (status == TUTTI_OK)
        status = put_into_streams(unit);
    if (device)
        mem_device_unlock_streams(device);
    return status;
}

tutti_status stream_launch(const struct group_call *calls, size_t count, struct operation **result)
{
    struct unit *unit = unit_new(count);
    tutti_status status =
        unit ? proxy_start() : fail(TUTTI_ERR_NOMEM, "no memory for %zu calls", count);
    if (unit)
        status = fill(unit, calls, count, result != NULL, status);
    if (status != TUTTI_OK) {
        launch_failed(calls, count, status);
        for (size_t i = 0; i < count; i++)
            call_unkeep(calls[i].comm, &calls[i].call, unit ? NULL : calls[i].counts);
        if (unit) {
            free(unit->result);
            unit->put ? give_up(unit) : unit_free(unit);
        }
        return status;
    }
    if (result)
        *result = unit->result;
    proxy_take(unit);
    return TUTTI_OK;
}

void stream_wait(const struct operation *operation)
{
    uint64_t since = clock_ns();
    while (operation->status == TUTTI_IN_PROGRESS) {
        if (clock_ns() - since < WAIT_YIELD_NS)
            sched_yield();
        else
            clock_sleep_us(WAIT_NAP_US);
    }
}

tutti_status stream_result(struct operation *op)
{
    stream_wait(op);
    tutti_comm *comm = op->comm;
    tutti_status status = op->status;
    operation_release(op);
    return status != TUTTI_OK && comm->failed != TUTTI_OK ? comm_error(comm) : status;
}
