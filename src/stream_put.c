/* stream_put.c: what a unit puts into its streams.
 *
 *      copy in | signal START | slots | wait for DONE | copy out | signal END
 *
 * A stream of several in the unit only signals and waits; bytes are carried in queues then. */
#include <stdatomic.h>

#include "src/comm.h"
#include "src/stream_unit.h"

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

/* Takes slots for all work of the unit, where it has one stream, of every call, and one
 * communicator and either plans or transfers: of two that are not in the same order everywhere, one
 * could wait for what lies behind the other. Without slots the communicator's queue serves. */
tutti_status unit_take_slots(struct unit *unit)
{
    size_t works = 0;
    uint64_t scratch_bytes = 0;
    struct unit_comm *at = &unit->comms[0];
    bool transfers = unit->calls[0].call.coll == TUTTI_COLL_SENDRECV;
    if (unit->stream_count != 1 || unit->comm_count != 1 || !at->on_device ||
        unit->streams[0].stream.device != at->comm->device || !at->comm->settings.cuda_slots)
        return TUTTI_OK;
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        if (call->stream < 0 || (call->call.coll == TUTTI_COLL_SENDRECV) != transfers)
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
                                 .op = comm_plain_op(&call->call),
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
    return mem_stream_scale(stream, call->call.dtype, (void *)call->stage.in, call->stage.call.in,
                            &call->call.made->scalar, call->stage.in_bytes / call->call.elem_size);
}

static tutti_status put_before(struct unit *unit, size_t index)
{
    struct unit_stream *at = &unit->streams[index];
    const struct stage *only = only_copy(unit);
    uint32_t step = 0;
    tutti_status status = TUTTI_OK;
    if (only)
        return mem_stream_copy_signal(&at->stream, (void *)only->in, only->call.in, only->in_bytes,
                                      at->words, UNIT_START, at->value);
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        const struct unit_call *call = &unit->calls[i];
        if (call->stream != (int)index || call->in_queue)
            continue;
        if (call->step > step)
            status = mem_stream_signal(&at->stream, at->words, UNIT_START, at->first + step);
        step = call->step;
        if (status == TUTTI_OK)
            status = call->stage.scale ? scale_in_stream(call, &at->stream)
                                       : stage_in(&call->stage, copy_in_stream, &at->stream);
    }
    if (status == TUTTI_OK)
        status = mem_stream_signal(&at->stream, at->words, UNIT_START, at->value);
    return status;
}

/* Waits for the last, or the only step of the unit, and sets back what a graph will use again. */
static tutti_status put_last_wait(struct unit *unit, struct unit_stream *at)
{
    tutti_status status = mem_stream_wait(&at->stream, at->words, UNIT_DONE, at->value);
    if (status == TUTTI_OK && unit->captured)
        status = mem_stream_signal(&at->stream, at->words, UNIT_DONE, at->value - 1);
    if (status == TUTTI_OK && unit->captured && unit->slots)
        status = mem_slots_put_reset(unit->slots, &at->stream);
    return status;
}

/* Waits for the step, unless that was done. */
static tutti_status put_wait(struct unit *unit, struct unit_stream *at, uint32_t value,
                             uint32_t *waited)
{
    if (value == *waited)
        return TUTTI_OK;
    *waited = value;
    return value == at->value ? put_last_wait(unit, at)
                              : mem_stream_wait(&at->stream, at->words, UNIT_DONE, value);
}

static tutti_status put_after(struct unit *unit, size_t index)
{
    struct unit_stream *at = &unit->streams[index];
    uint32_t waited = at->first - 1;
    tutti_status status = TUTTI_OK;
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        const struct unit_call *call = &unit->calls[i];
        if (call->stream != (int)index || call->in_queue)
            continue;
        status = put_wait(unit, at, at->first + call->step, &waited);
        if (status == TUTTI_OK && call->stage.divide)
            status =
                mem_stream_divide(&at->stream, call->call.dtype, call->stage.out, call->comm->size,
                                  call->stage.out_bytes / call->call.elem_size);
        struct bringing back = {&at->stream, call->comm->settings.cuda_kernel_back};
        if (status == TUTTI_OK)
            status = stage_out(call->comm, &call->stage, bring_in_stream, &back);
    }
    if (status == TUTTI_OK)
        status = put_wait(unit, at, at->value, &waited);
    if (status == TUTTI_OK && unit->ends)
        status = mem_stream_signal(&at->stream, at->words, UNIT_END, at->value);
    return status;
}

/* A step is so many bytes at least: a signal and a wait cost the stream 2 us each. */
#define STEP_BYTES (1u << 20)
#define STEPS_MAX  32

static uint64_t carried_bytes(const struct unit_call *call)
{
    const struct stage *stage = &call->stage;
    return (stage->copy_in ? stage->in_bytes : 0) + (stage->copy_out ? stage->out_bytes : 0);
}

/* Cuts what the stream of a unit carries into steps; returns their number. With several streams, or
 * a call that has none, bytes go through queues. A replay has one step, since its words are set
 * back when it begins. */
static uint32_t make_steps(struct unit *unit)
{
    uint64_t all = 0, bytes = 0;
    uint32_t step = 0;
    if (unit->captured || unit->stream_count != 1)
        return 1;
    for (size_t i = 0; i < unit->call_count; i++) {
        if (unit->calls[i].in_queue)
            return 1;
        all += carried_bytes(&unit->calls[i]);
    }
    for (size_t i = 0; i < unit->call_count; i++) {
        if (bytes >= STEP_BYTES && bytes >= all / STEPS_MAX) {
            step++;
            bytes = 0;
        }
        unit->calls[i].step = step;
        bytes += carried_bytes(&unit->calls[i]);
    }
    return step + 1;
}

/* All streams of a graph signal before one of them waits, also where the graph runs one after the
 * other. Streams that are not captured are given their work in that order. */
static tutti_status order_streams(const struct unit *unit)
{
    const struct mem_stream *first = &unit->streams[0].stream;
    tutti_status status = TUTTI_OK;
    for (size_t i = 1; i < unit->stream_count && status == TUTTI_OK; i++)
        status = mem_stream_order(&unit->streams[i].stream, first);
    for (size_t i = 1; i < unit->stream_count && status == TUTTI_OK; i++)
        status = mem_stream_order(first, &unit->streams[i].stream);
    return status;
}

/* Most units do not signal END, and values are compared by half their range. */
static bool falls_behind(const struct unit_stream *at)
{
    uint32_t seen = atomic_load_explicit(&at->words->word[UNIT_END], memory_order_acquire);
    return at->value - seen >= 1u << 30;
}

static void graph_gone(void *context)
{
    struct unit *unit = context;
    atomic_store_explicit(&unit->gone, true, memory_order_release);
}

/* The graph is told first: whatever part of the unit it holds then, its replays are answered. */
static tutti_status put_all(struct unit *unit)
{
    tutti_status status = TUTTI_OK;
    unit->ends &= !unit->captured;
    if (unit->captured)
        status = mem_stream_retain(&unit->streams[0].stream, graph_gone, unit);
    if (status != TUTTI_OK)
        return status;
    unit->put = unit->stream_count > 0;
    uint32_t steps = make_steps(unit);
    for (size_t i = 0; i < unit->stream_count; i++) {
        struct unit_stream *at = &unit->streams[i];
        at->first = at->words->value + 1;
        at->value = at->words->value += steps;
        unit->ends |= !unit->captured && falls_behind(at);
    }
    for (size_t i = 0; i < unit->stream_count && status == TUTTI_OK; i++)
        status = put_before(unit, i);
    if (status == TUTTI_OK && unit->captured)
        status = order_streams(unit);
    if (status == TUTTI_OK)
        status = put_slots(unit);
    for (size_t i = 0; i < unit->stream_count && status == TUTTI_OK; i++)
        status = put_after(unit, i);
    /* What went into a stream waits there: it must not wait for ever. */
    if (status != TUTTI_OK)
        unit_release(unit);
    return status;
}

/* Between the parts of it, in the same channel, another unit's wait could hold up this one's work.
 */
tutti_status unit_put(struct unit *unit)
{
    struct mem_device *device = unit->slots ? unit->streams[0].stream.device : NULL;
    if (device)
        mem_device_lock_streams(device);
    unit->put_from = proxy_next_put();
    tutti_status status = put_all(unit);
    unit->put_to = proxy_next_put();
    if (device)
        mem_device_unlock_streams(device);
    return status;
}
