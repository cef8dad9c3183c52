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

bool stream_is_empty(const struct tutti_comm *comm, const struct call *call)
{
    struct extent in, out;
    struct mem_stream opened;
    return mem_device_present() && call_extents(comm, call, &in, &out) == TUTTI_OK &&
           (in.used || out.used) && !(in.used && in.bytes > 0) && !(out.used && out.bytes > 0) &&
           mem_device_is_current() && mem_stream_open(NULL, NULL, &opened) == TUTTI_OK;
}

/* ---- making a unit ----------------------------------------------------------------------------
 */

void unit_free(struct unit *unit)
{
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        free(call->counts);
        mem_pinned_give(call->stage.device, call->bounce);
        stage_free(&call->stage);
        if (call->owns_queue)
            mem_queue_give(call->queue);
    }
    if (unit->scratch)
        mem_device_give(mem_queue_device(unit->slots), unit->scratch);
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

/* Leaves out of use what a device or a stream may still touch. passed: its streams are past it, so
 * of its blocks only those are left out in which some call may go on. */
static void free_broken(struct unit *unit, bool passed)
{
    bool held = unit->slots && !mem_slots_passed(unit->slots);
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        if (!passed || held || call->at_work)
            call->stage.block = call->bounce = NULL;
    }
    if (held) {
        unit->slots = NULL;
        unit->scratch = NULL;
    }
    for (size_t i = 0; i < unit->stream_count && !passed; i++)
        unit->streams[i].words = NULL;
    unit_free(unit);
}

void unit_abandon(struct unit *unit)
{
    free_broken(unit, false);
}

void unit_end(struct unit *unit)
{
    if (unit->broken)
        free_broken(unit, true);
    else
        unit_free(unit);
}

void unit_unkeep(struct unit *unit)
{
    for (size_t i = 0; i < unit->call_count; i++)
        call_unkeep(&unit->calls[i].stage.call, NULL);
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

static tutti_status add_stream(struct unit *unit, void *handle, struct unit_call *call)
{
    struct mem_stream stream;
    tutti_status status = mem_stream_open(handle, call->stage.device, &stream);
    if (status != TUTTI_OK)
        return status;
    if (call->stage.device && call->stage.device != stream.device)
        return fail(TUTTI_ERR_ARG,
                    "%s: the stream belongs to %s but the buffers to %s%s at rank %u",
                    coll_name(call->call.coll), mem_device_name(stream.device),
                    stage_beside(stream.device, call->stage.device),
                    mem_device_name(call->stage.device), call->comm->rank);
    for (size_t i = 0; i < unit->stream_count; i++) {
        if (mem_stream_is_same(&unit->streams[i].stream, &stream)) {
            call->stream = (int)i;
            return TUTTI_OK;
        }
    }
    unit->captured |= stream.capture != 0;
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
    struct unit_call *call = &unit->calls[unit->call_count++];
    struct unit_comm *comm = add_comm(unit, from->comm);
    *call = (struct unit_call){
        .comm = from->comm, .call = from->call, .counts = from->counts, .stream = -1};
    tutti_status status = stage_make(from->comm, &call->call, &call->stage);
    comm->on_device |= call->call.on_device || call->call.by_nic;
    unit->has_blocks |= call->stage.block != NULL;
    if (call->stage.block)
        unit->block_bytes += call->stage.in_bytes + call->stage.out_bytes;
    if (status == TUTTI_OK && from->on_stream && (from->stream || call->stage.device))
        status = add_stream(unit, from->stream, call);
    return status;
}

/* Pieces of work that bring the call's bytes back, at most. */
static size_t pieces_back(const struct unit_call *call)
{
    const struct stage *stage = &call->stage;
    bool apart = stage->call.displs || stage->call.recv_displs;
    return (stage->copy_out ? (apart ? call->comm->size : stage->out_blocks) : 0) + stage->divide;
}

/* And those that bring them there, too: so many the call gives its queue. */
static size_t pieces_of(const struct unit_call *call)
{
    return call->stage.in_blocks + pieces_back(call);
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
 * what comes back as soon as it goes on. What lies behind its wait must not fill its channel, for
 * nobody ends the wait before all is put there; a graph is given to it as a whole. */
static tutti_status choose_carriers(struct unit *unit)
{
    tutti_status status = TUTTI_OK;
    size_t back = 0;
    for (size_t i = 0; i < unit->call_count && !unit->captured; i++)
        back += pieces_back(&unit->calls[i]);
    for (size_t i = 0; i < unit->call_count && status == TUTTI_OK; i++) {
        struct unit_call *call = &unit->calls[i];
        const struct stage *stage = &call->stage;
        call->in_queue = call->stream < 0 || unit->stream_count > 1 || back > STAGE_PIECES_MAX;
        if (call->in_queue && (stage->copy_in || stage->copy_out || stage->scale || stage->divide))
            status = take_queue(unit, call);
    }
    return status;
}

/* ---- the units of a launch --------------------------------------------------------------------
 * Calls that name one communicator, or one stream, directly or through others, are one unit. What
 * shares neither with the rest is a unit of its own: so a thread that drives several ranks has the
 * work of each in that rank's stream. The legacy default stream is shared by all, for others wait
 * for what it was given: one rank would wait for the first unit before it begins with the second,
 * another for the second. */

/* A communicator and a stream that calls name together. */
struct pair {
    const tutti_comm *comm;
    const void *stream;
    size_t calls;
    size_t part; /* the index of the pair that stands for all it is linked with, which has: */
    size_t part_calls;
    struct unit *unit;
};

static bool are_linked(const struct pair *pair, const struct group_call *call)
{
    return pair->comm == call->comm || pair->stream == call->stream ||
           mem_stream_is_legacy(pair->stream) || mem_stream_is_legacy(call->stream);
}

/* The index of the call's pair. A new one links those that share something with it. */
static size_t pair_of(struct pair *pairs, size_t *known, const struct group_call *call)
{
    for (size_t i = *known; i > 0; i--) {
        if (pairs[i - 1].comm == call->comm && pairs[i - 1].stream == call->stream)
            return i - 1;
    }
    size_t at = (*known)++;
    pairs[at] = (struct pair){.comm = call->comm, .stream = call->stream, .part = at};
    for (size_t i = 0; i < at; i++) {
        size_t old = pairs[i].part;
        bool shares = old != at && are_linked(&pairs[i], call);
        for (size_t j = 0; j < at && shares; j++)
            pairs[j].part = pairs[j].part == old ? at : pairs[j].part;
    }
    return at;
}

/* Returns the number of pairs. */
static size_t find_parts(struct pair *pairs, const struct group_call *calls, size_t count)
{
    size_t known = 0;
    for (size_t i = 0; i < count; i++)
        pairs[pair_of(pairs, &known, &calls[i])].calls++;
    for (size_t i = 0; i < known; i++)
        pairs[pairs[i].part].part_calls += pairs[i].calls;
    return known;
}

/* Somebody must wait for a unit: the default stream does where no call has bytes that could name a
 * stream, and not the caller. */
static tutti_status add_default_streams(struct unit *units)
{
    tutti_status status = TUTTI_OK;
    for (struct unit *unit = units; unit && status == TUTTI_OK; unit = unit->next) {
        if (unit->stream_count == 0)
            status = add_stream(unit, NULL, &unit->calls[0]);
    }
    return status;
}

/* whole: one unit. *taken: how many calls are in units, with their counts; also on failure. */
static tutti_status make_units(const struct group_call *calls, size_t count, bool whole,
                               struct unit **units, size_t *taken)
{
    struct pair all = {.part_calls = count}, *pairs = NULL;
    size_t known = 0;
    tutti_status status = TUTTI_OK;
    if (!whole && count > 1) {
        pairs = calloc(count, sizeof *pairs);
        if (!pairs)
            return fail(TUTTI_ERR_NOMEM, "no memory for %zu calls", count);
        known = find_parts(pairs, calls, count);
    }
    while (*taken < count && status == TUTTI_OK) {
        const struct group_call *call = &calls[*taken];
        struct pair *part = pairs ? &pairs[pairs[pair_of(pairs, &known, call)].part] : &all;
        if (!part->unit) {
            part->unit = *units = unit_new(part->part_calls);
            units = part->unit ? &part->unit->next : units;
        }
        if (part->unit)
            ++*taken;
        status = part->unit ? add_call(part->unit, call)
                            : fail(TUTTI_ERR_NOMEM, "no memory for %zu calls", count);
    }
    free(pairs);
    return status;
}

/* ---- launching --------------------------------------------------------------------------------
 */

static bool fail_from_inside(tutti_comm *comm, tutti_status status, const char *sentence)
{
    if (!comm_seize(comm))
        return false;
    (void)comm_fail(comm, status, comm->rank, sentence);
    comm_leave(comm);
    return true;
}

static void launch_failed(const struct group_call *calls, size_t count, tutti_status status)
{
    char sentence[SENTENCE_MAX];
    strcpy(sentence, status_sentence());
    for (size_t i = 0; i < count; i++) {
        tutti_comm *comm = calls[i].comm;
        /* What every rank refuses alike is no failure of the communicator. */
        if (status == TUTTI_ERR_ARG || status == TUTTI_ERR_SETTING || comm->failed != TUTTI_OK)
            continue;
        /* The proxy may be inside, and may leave between the two. */
        if (!fail_from_inside(comm, status, sentence) && !proxy_fail(comm, status, sentence) &&
            !fail_from_inside(comm, status, sentence))
            atomic_store(&comm->aborted, true); /* some thread is inside: it sees this */
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

/* A graph is launched alone. */
static tutti_status check_graphs(const struct unit *unit)
{
    for (size_t i = 1; i < unit->stream_count; i++) {
        if (unit->streams[i].stream.capture != unit->streams[0].stream.capture)
            return fail(TUTTI_ERR_ARG,
                        "%s: streams of the group that share a communicator are being captured "
                        "into different graphs, at rank %u: capture them into one",
                        coll_name(unit->calls[0].call.coll), unit->calls[0].comm->rank);
    }
    return TUTTI_OK;
}

/* Of a launch either all streams are being captured, and every call has one, or none is. */
static tutti_status check_captures(const struct unit *units)
{
    tutti_status status = TUTTI_OK;
    bool captured = false, others = false;
    const struct unit_call *streamless = NULL;
    for (const struct unit *unit = units; unit; unit = unit->next) {
        captured |= unit->captured;
        for (size_t i = 0; i < unit->stream_count; i++)
            others |= unit->streams[i].stream.capture == 0;
        for (size_t i = 0; i < unit->call_count; i++)
            streamless = unit->calls[i].stream < 0 ? &unit->calls[i] : streamless;
    }
    if (captured && others)
        return fail(TUTTI_ERR_ARG,
                    "%s: some streams of the group are being captured and others are not, at rank "
                    "%u: capture all of them or none",
                    coll_name(units->calls[0].call.coll), units->calls[0].comm->rank);
    if (captured && streamless)
        return fail(TUTTI_ERR_ARG,
                    "%s: a group that is being captured holds a call without a stream, at rank %u",
                    coll_name(streamless->call.coll), streamless->comm->rank);
    for (const struct unit *unit = units; unit && status == TUTTI_OK; unit = unit->next)
        status = check_graphs(unit);
    return status;
}

/* Takes all that the unit needs, before anything is put anywhere. */
static tutti_status prepare(struct unit *unit, bool wants_result)
{
    for (size_t i = 0; i < unit->call_count; i++)
        unit->calls[i].call.replayed = unit->captured;
    unit->ends = unit->has_blocks && (unit->block_bytes >= UNIT_BLOCK_LARGE || proxy_keeps_many());
    tutti_status status = choose_carriers(unit);
    if (status == TUTTI_OK && wants_result)
        status = make_result(unit, unit->comms[0].comm);
    return status == TUTTI_OK ? unit_take_slots(unit) : status;
}

/* The unit will do nothing. What of it lies in streams or in a graph goes on. */
static void give_up(struct unit *unit)
{
    unit_unkeep(unit);
    free(unit->result);
    unit->result = NULL;
    if (!unit->put) {
        unit_free(unit);
    } else if (unit->captured) {
        unit->comms[0].comm = NULL;
        proxy_take(unit);
    } else {
        unit_abandon(unit);
    }
}

/* Makes and prepares the units. */
static tutti_status make_ready(const struct group_call *calls, size_t count, bool whole,
                               struct unit **units, size_t *taken)
{
    tutti_status status = proxy_start();
    if (status == TUTTI_OK)
        status = make_units(calls, count, whole, units, taken);
    if (status == TUTTI_OK && !whole)
        status = add_default_streams(*units);
    if (status == TUTTI_OK)
        status = check_captures(*units);
    if (status == TUTTI_OK)
        (*units)->transfer =
            calls[0].alone && !calls[0].on_stream && calls[0].call.coll == TUTTI_COLL_SENDRECV;
    for (struct unit *unit = *units; unit && status == TUTTI_OK; unit = unit->next)
        status = prepare(unit, whole);
    return status;
}

static tutti_status launch(const struct group_call *calls, size_t count, struct operation **result)
{
    struct unit *units = NULL, *unit;
    size_t taken = 0;
    tutti_status status = make_ready(calls, count, result != NULL, &units, &taken);
    struct operation *operation = status == TUTTI_OK ? units->result : NULL;
    while (status == TUTTI_OK && (unit = units)) {
        status = unit_put(unit);
        if (status != TUTTI_OK)
            break;
        units = unit->next;
        proxy_take(unit);
    }
    if (status != TUTTI_OK)
        launch_failed(calls, count, status);
    else if (result)
        *result = operation;
    while ((unit = units)) {
        units = unit->next;
        give_up(unit);
    }
    for (size_t i = taken; i < count; i++)
        call_unkeep(&calls[i].call, calls[i].counts);
    return status;
}

tutti_status stream_launch(const struct group_call *calls, size_t count, struct operation **result)
{
    struct group_call *parts;
    tutti_status status = parts_make(calls, count, &parts, &count);
    if (status != TUTTI_OK)
        launch_failed(calls, count, status);
    for (size_t i = 0; i < count && status != TUTTI_OK; i++)
        call_unkeep(&calls[i].call, calls[i].counts);
    if (status == TUTTI_OK)
        status = launch(parts ? parts : calls, count, result);
    free(parts);
    return status;
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
    tutti_status status = operation_result(op);
    operation_release(op);
    return status;
}
