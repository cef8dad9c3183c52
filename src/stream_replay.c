/* stream_replay.c: captured units that wait for a launch of their graph.
 *
 * Programs for inference capture ten thousand operations, and each look at one costs the proxy a
 * few cache misses: it cannot look at all of them whenever it looks at the one that runs.
 *
 * The idea: what a communicator replays next is what followed last time. Its units are led by one
 * another in rings, one ring in the order of their capture at first. When a unit starts that was
 * not expected, it is put behind the one that started before it, and the two loose ends are joined,
 * which cuts a ring in two or joins two to one. So a graph that is launched again and again becomes
 * a ring of its own, and each of its units is found by one look. A few other units are looked at in
 * each pass, in turn, so that whatever comes is found.
 *
 * Invariant: `follower` is a permutation of a communicator's units, `leader` its inverse. The lock
 * of the proxy guards everything here. */
#include <stdlib.h>

#include "src/stream_unit.h"

static struct replay_set *set_of(struct replays *replays, tutti_comm *comm)
{
    if (!comm)
        return &replays->others;
    if (!comm->replay_set && (comm->replay_set = calloc(1, sizeof *comm->replay_set))) {
        comm->replay_set->comm = comm;
        comm->replay_set->next = replays->sets;
        replays->sets = comm->replay_set;
    }
    return comm->replay_set ? comm->replay_set : &replays->others;
}

static void lead(struct unit *leader, struct unit *follower)
{
    leader->replay.follower = follower;
    follower->replay.leader = leader;
}

void replay_add(struct replays *replays, struct unit *unit)
{
    struct replay_set *set = set_of(replays, unit->comms[0].comm);
    struct unit *newest = set->oldest ? set->oldest->replay.previous : NULL;
    unit->replay.set = set;
    unit->replay.parked = true;
    set->count++;
    lead(unit, unit);
    unit->replay.next = unit->replay.previous = unit;
    if (!newest) {
        set->oldest = set->sweep = unit;
        return;
    }
    lead(unit, newest->replay.follower);
    lead(newest, unit);
    unit->replay.previous = newest;
    unit->replay.next = set->oldest;
    newest->replay.next = set->oldest->replay.previous = unit;
}

static void take_out(struct unit *unit)
{
    struct replay_set *set = unit->replay.set;
    struct unit *next = unit->replay.next != unit ? unit->replay.next : NULL;
    unit->replay.previous->replay.next = unit->replay.next;
    unit->replay.next->replay.previous = unit->replay.previous;
    if (set->oldest == unit)
        set->oldest = next;
    if (set->sweep == unit)
        set->sweep = next;
    if (set->last == unit)
        set->last = unit->replay.leader != unit ? unit->replay.leader : NULL;
    lead(unit->replay.leader, unit->replay.follower);
    set->count--;
}

void replay_started(struct unit *unit)
{
    struct unit *last = unit->replay.set->last;
    if (last && last->replay.follower != unit) {
        struct unit *other = last->replay.follower;
        lead(unit->replay.leader, other);
        lead(last, unit);
    }
    unit->replay.set->last = unit;
}

static bool take_if_come(struct unit *unit, struct unit ***tail)
{
    if (!unit->replay.parked || !unit_streams_at(unit, UNIT_START))
        return false;
    unit->replay.parked = false;
    unit->next = NULL;
    **tail = unit;
    *tail = &unit->next;
    return true;
}

bool replay_is_dead(const struct unit *unit)
{
    for (size_t i = 0; i < unit->comm_count && unit->comms[0].comm; i++) {
        if (!atomic_load_explicit(&unit->comms[i].comm->aborted, memory_order_acquire))
            return false;
    }
    return true;
}

static bool look(struct replay_set *set, size_t looks, struct unit ***tail)
{
    struct unit *expected = set->last ? set->last->replay.follower : set->oldest;
    bool came = expected && take_if_come(expected, tail);
    for (size_t left = looks < set->count ? looks : set->count; left > 0; left--) {
        struct unit *unit = set->sweep;
        set->sweep = unit->replay.next;
        came |= take_if_come(unit, tail);
        if (unit->replay.parked && atomic_load_explicit(&unit->gone, memory_order_acquire)) {
            take_out(unit);
            if (unit->comms[0].comm)
                unit_unkeep(unit);
            unit_end(unit);
        } else if (unit->replay.parked && replay_is_dead(unit)) {
            /* Of executables of its graph that run side by side only one may have been answered. */
            unit_answer(unit);
        }
    }
    return came;
}

bool replay_look(struct replays *replays, size_t looks, struct unit ***tail)
{
    bool came = look(&replays->others, looks, tail);
    for (struct replay_set **at = &replays->sets; *at;) {
        struct replay_set *set = *at;
        came |= look(set, looks, tail);
        if (set->comm || set->count > 0) {
            at = &set->next;
            continue;
        }
        *at = set->next;
        free(set);
    }
    return came;
}

bool replay_expects(const struct replays *replays)
{
    const struct replay_set *set = replays->sets;
    while (set && set->count == 0)
        set = set->next;
    return set || replays->others.count > 0;
}

static void each_of(const struct replay_set *set, replay_fn *function, const void *context)
{
    struct unit *unit = set->oldest;
    for (size_t left = set->count; left > 0; left--, unit = unit->replay.next)
        function(unit, context);
}

void replay_each(const struct replays *replays, replay_fn *function, const void *context)
{
    each_of(&replays->others, function, context);
    for (const struct replay_set *set = replays->sets; set; set = set->next)
        each_of(set, function, context);
}

void replay_close(tutti_comm *comm)
{
    if (comm->replay_set)
        comm->replay_set->comm = NULL; /* replay_look frees it when its last unit is gone */
    comm->replay_set = NULL;
}
