/* stream_quiet.c: when the work of a unit that failed is over, so that its caller, or its stream,
 * may go on, and what it has of the device may serve others.
 *
 * What the unit gave its queues may still write where its caller's memory is. What has begun ends
 * by itself; what has not may be held up by streams that wait for this very caller, and is waited
 * for no longer than QUIET_NS: what it has then stays at work, and is of use to nobody any more.
 *
 * What peers do is no matter, for the unit's blocks as for the caller's buffers: transports that
 * were cancelled write nowhere, and what a peer reads from now on it does not take for what was
 * offered (exec_device_was_read; in host memory its transport sees to that). */
#include "base/clock.h"
#include "src/stream_unit.h"

#define QUIET_NS 1000000000u

static void ask_queue(struct mem_queue *queue, bool *over, bool *works)
{
    bool waits;
    if (mem_queue_is_over(queue, &waits))
        return;
    *over = false;
    *works |= !waits;
}

/* Of a failed communicator, until its unit's work is known to be over. */
static bool is_at_work(const struct unit_call *call)
{
    return call->at_work && call->comm->failed != TUTTI_OK;
}

/* Whether its plan, or its transfer between the two kinds of memory, works in its communicator's
 * queue. */
static bool uses_queue(const struct unit_call *call)
{
    return call->call.on_device || call->call.by_nic ||
           (call->operation && call->operation->bounce);
}

/* All that the unit gave its queues is over. What it has put into slots goes on, and keeps the
 * communicator's scratch until its stream is past them. */
static void come_to_rest(struct unit *unit)
{
    for (size_t i = 0; i < unit->call_count; i++) {
        struct unit_call *call = &unit->calls[i];
        if (!is_at_work(call))
            continue;
        tutti_comm *comm = call->comm;
        if (unit->slots && comm->scratch_in_use) {
            unit->scratch = comm->device_scratch;
            comm->device_scratch = NULL;
        }
        call->at_work = comm->scratch_in_use = false;
    }
}

bool unit_is_quiet(struct unit *unit)
{
    bool over = true, works = false;
    for (size_t i = 0; i < unit->call_count; i++) {
        const struct unit_call *call = &unit->calls[i];
        if (!is_at_work(call))
            continue;
        if (call->queue)
            ask_queue(call->queue, &over, &works);
        if (!unit->slots && uses_queue(call))
            ask_queue(call->comm->queue, &over, &works);
    }
    if (over) {
        come_to_rest(unit);
        return true;
    }
    if (works || unit->quiet_ns == 0)
        unit->quiet_ns = clock_ns();
    return clock_ns() - unit->quiet_ns >= QUIET_NS;
}
