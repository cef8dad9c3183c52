/* stream_proxy.c: the one thread that carries units out. Units come through an inbox without a
 * lock, since a caller that had to wait for the proxy to let go of one would pay for a wake-up. The
 * lock guards the list of units, for the few who look into it from outside: the proxy holds it
 * during one pass over all units and lets it go between passes; whoever wants it says so in
 * `wanting`, since a thread that locks again at once would never let them in.
 *
 * A captured unit is in the list from when its streams come until it has ended; in between it is
 * with the replays. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/thread.h"
#include "src/group.h"
#include "src/stream.h"
#include "src/stream_unit.h"

#define PROXY_SPIN_NS  200000u  /* after the last thing that moved the proxy looks all the time, */
#define PROXY_YIELD_NS 2000000u /* then it yields between looks, */
#define PROXY_NAP_US   20u      /* then it naps between them, */
#define PROXY_LONG_NS  200000000u /* and when it does nothing but wait for the program, it naps */
#define PROXY_LONG_US  200u       /* longer; without anything to wait for it sleeps */

/* A process has one proxy: the words of all its streams are watched by one thread. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t thread;
    bool registered, running, over;  /* over: the program exits, and all units were failed */
    atomic_bool ready, stop, asleep; /* ready: running, for who looks without the lock */
    _Atomic(struct unit *) inbox;    /* the last that came first */
    struct unit *units, **tail;
    struct replays replays;
    atomic_uint wanting;
    _Atomic size_t kept;   /* units that wait for the next of their streams */
    _Atomic uint64_t puts; /* numbers given by proxy_next_put */
} proxy = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static _Thread_local bool is_proxy;

static void proxy_lock(void)
{
    atomic_fetch_add(&proxy.wanting, 1);
    pthread_mutex_lock(&proxy.lock);
    atomic_fetch_sub(&proxy.wanting, 1);
}

/* Takes what has come, in the order it came. With the lock, and the proxy's alone. */
static bool take_inbox(void)
{
    struct unit *came = NULL;
    if (!atomic_load_explicit(&proxy.inbox, memory_order_relaxed))
        return false;
    for (struct unit *unit = atomic_exchange(&proxy.inbox, NULL), *next; unit; unit = next) {
        next = unit->next;
        unit->next = came;
        came = unit;
    }
    for (struct unit *unit = came, *next; unit; unit = next) {
        next = unit->next;
        if (unit->captured) {
            replay_add(&proxy.replays, unit);
            continue;
        }
        unit->next = NULL;
        *proxy.tail = unit;
        proxy.tail = &unit->next;
    }
    return true;
}

/* What the proxy waits for. */
enum waiting { WAITING_NOTHING, WAITING_GRAPHS /* or an abort */, WAITING_UNITS };

static enum waiting waits_for(const struct unit *unit)
{
    if (unit->state == UNIT_DRAINING && !unit->ends)
        return WAITING_NOTHING; /* another unit tells */
    return unit->state == UNIT_HELD ? WAITING_GRAPHS : WAITING_UNITS;
}

/* Captured units that a pass looks at besides those that it expects: few while others run, all when
 * nothing has come for long. */
static size_t looks(uint64_t idle_ns)
{
    return idle_ns < PROXY_SPIN_NS ? 16 : idle_ns < PROXY_LONG_NS ? 1024 : SIZE_MAX;
}

/* One look at every unit; idle_ns: since something moved. */
static bool pass(uint64_t idle_ns, enum waiting *waiting)
{
    bool moved = take_inbox(), over;
    size_t kept = 0;
    moved |= replay_look(&proxy.replays, looks(idle_ns), &proxy.tail);
    *waiting = replay_expects(&proxy.replays) ? WAITING_GRAPHS : WAITING_NOTHING;
    for (struct unit **at = &proxy.units; *at;) {
        struct unit *unit = *at;
        moved |= unit_advance(unit, proxy.units, &over);
        bool parks =
            unit->captured && unit->state == UNIT_QUEUED && !unit_streams_at(unit, UNIT_START);
        if (!over && !parks) {
            enum waiting its = waits_for(unit);
            kept += its == WAITING_NOTHING;
            if (its > *waiting)
                *waiting = its;
            at = &unit->next;
            continue;
        }
        *at = unit->next;
        unit->replay.parked = parks;
        if (over)
            unit_end(unit);
    }
    proxy.tail = &proxy.units;
    while (*proxy.tail)
        proxy.tail = &(*proxy.tail)->next;
    atomic_store_explicit(&proxy.kept, kept, memory_order_relaxed);
    return moved;
}

uint64_t proxy_next_put(void)
{
    return atomic_fetch_add(&proxy.puts, 1);
}

bool proxy_keeps_many(void)
{
    return atomic_load_explicit(&proxy.kept, memory_order_relaxed) >= UNITS_KEPT_MAX;
}

/* Rests as long as fits the time since something moved. The lock is not held. */
static void rest(uint64_t idle_ns, enum waiting waiting)
{
    while (atomic_load(&proxy.wanting) > 0)
        sched_yield();
    if (waiting == WAITING_GRAPHS && idle_ns >= PROXY_LONG_NS)
        clock_sleep_us(PROXY_LONG_US);
    else if (idle_ns >= PROXY_YIELD_NS)
        clock_sleep_us(PROXY_NAP_US);
    else if (idle_ns >= PROXY_SPIN_NS)
        sched_yield();
}

/* Sleeps until something comes; with the lock. Whoever brings it looks at `asleep` afterwards. */
static void sleep_until_more(void)
{
    atomic_store(&proxy.asleep, true);
    while (!atomic_load(&proxy.inbox) && !atomic_load(&proxy.stop))
        pthread_cond_wait(&proxy.more, &proxy.lock);
    atomic_store(&proxy.asleep, false);
}

static void *proxy_main(void *unused)
{
    uint64_t moved_at = clock_ns(), now = moved_at;
    enum waiting waiting;
    is_proxy = true;
    pthread_mutex_lock(&proxy.lock);
    while (!proxy.stop) {
        bool moved = pass(now - moved_at, &waiting);
        now = clock_ns();
        if (moved)
            moved_at = now;
        if (waiting == WAITING_NOTHING && now - moved_at >= PROXY_SPIN_NS) {
            sleep_until_more();
            moved_at = clock_ns();
            continue;
        }
        pthread_mutex_unlock(&proxy.lock);
        rest(now - moved_at, waiting);
        pthread_mutex_lock(&proxy.lock);
    }
    pthread_mutex_unlock(&proxy.lock);
    return unused;
}

static void release_streams(struct unit *list)
{
    for (struct unit *unit = list; unit; unit = unit->next)
        unit_release(unit);
}

static void release_parked(struct unit *unit, const void *unused)
{
    (void)unused;
    if (unit->replay.parked)
        unit_release(unit);
}

/* Nobody ends a unit any more: its communicators fail, so that whoever uses one at the program's
 * exit, or waits there for a thread that does, is told so and finds no proxy inside. A thread of
 * the program that is inside ends what it does by itself, which may be long after. */
static void fail_unit(struct unit *unit)
{
    char text[SENTENCE_MAX] = "the process exits while an operation is under way";
    for (size_t i = 0; i < unit->comm_count && unit->comms[0].comm; i++) {
        tutti_comm *comm = unit->comms[i].comm;
        if (!unit->inside && !comm_seize_soon(comm))
            continue;
        snprintf(text, sizeof text, "%s exits while an operation is under way",
                 comm->names[comm->rank]);
        (void)comm_fail(comm, TUTTI_ERR_PEER, comm->rank, text);
        comm_leave(comm);
    }
    unit->inside = false;
    if (unit->result)
        operation_fail(unit->result, TUTTI_ERR_PEER, text);
    unit->result = NULL;
}

/* First those that were begun, so that nobody is inside for the others. What is held or drains is
 * over, and what waits for the launch of its graph was not begun. */
static void fail_units(struct unit *list, bool begun)
{
    for (struct unit *unit = list; unit; unit = unit->next) {
        if (begun ? unit->inside : unit->state == UNIT_QUEUED && !unit->captured)
            fail_unit(unit);
    }
}

/* With the lock, which the thread will not have any more. The driver's memory goes, so nobody may
 * look at it. Streams go on, for what else the program does at its exit may wait for them. */
static void end_units(void)
{
    release_streams(proxy.units);
    release_streams(atomic_load(&proxy.inbox));
    replay_each(&proxy.replays, release_parked, NULL);
    fail_units(proxy.units, true);
    fail_units(proxy.units, false);
    fail_units(atomic_load(&proxy.inbox), false);
    proxy.over = true;
}

/* A program that exits with units under way. If a function of the program's does, which the proxy
 * has called, this is the thread, and has the lock. */
static void stop_at_exit(void)
{
    if (!is_proxy)
        proxy_lock();
    bool running = proxy.running;
    atomic_store(&proxy.stop, true);
    atomic_store(&proxy.ready, false);
    proxy.running = false;
    if (running && !is_proxy) {
        pthread_cond_signal(&proxy.more);
        pthread_mutex_unlock(&proxy.lock);
        pthread_join(proxy.thread, NULL);
        proxy_lock();
    }
    if (running)
        end_units();
    pthread_mutex_unlock(&proxy.lock);
}

/* A child of fork has no proxy, and none of the parent's units. */
static void child_of_fork(void)
{
    is_proxy = false;
    pthread_mutex_init(&proxy.lock, NULL);
    pthread_cond_init(&proxy.more, NULL);
    proxy.running = false;
    atomic_store(&proxy.ready, false);
    proxy.units = NULL;
    proxy.tail = &proxy.units;
    proxy.replays = (struct replays){.sets = NULL};
    atomic_store(&proxy.inbox, NULL);
    atomic_store(&proxy.asleep, false);
    atomic_store(&proxy.wanting, 0);
    atomic_store(&proxy.kept, 0);
}

tutti_status proxy_start(void)
{
    if (atomic_load_explicit(&proxy.ready, memory_order_acquire))
        return TUTTI_OK;
    proxy_lock();
    int error = 0;
    if (!proxy.registered) {
        proxy.registered = true;
        proxy.tail = &proxy.units;
        pthread_atfork(NULL, NULL, child_of_fork);
        atexit(stop_at_exit);
    }
    if (!proxy.running && !proxy.stop) {
        error = thread_start(&proxy.thread, NULL, proxy_main, NULL);
        proxy.running = error == 0;
        atomic_store(&proxy.ready, proxy.running);
    }
    bool running = proxy.running;
    pthread_mutex_unlock(&proxy.lock);
    if (running)
        return TUTTI_OK;
    return error ? fail(TUTTI_ERR_SYSTEM, "cannot start the thread that serves streams (error %d)",
                        error)
                 : fail(TUTTI_ERR_SYSTEM, "the program is exiting: no operation starts any more");
}

static void give_orders(struct unit *unit)
{
    for (size_t i = 0; i < unit->comm_count; i++)
        unit->comms[i].order = atomic_fetch_add(&unit->comms[i].comm->units_issued, 1);
}

/* A unit that perhaps came too late for stop_at_exit to let its streams go, or even to fail it: a
 * call may wait for that. Of the others there the communicators may be gone by now; so may the unit
 * itself, if the proxy still took it from the inbox, where nobody else takes any. */
static void take_late(const struct unit *given)
{
    proxy_lock();
    struct unit *unit = atomic_load(&proxy.inbox);
    while (unit && unit != given)
        unit = unit->next;
    if (unit)
        unit_release(unit);
    if (unit && proxy.over && !unit->captured)
        fail_unit(unit);
    pthread_mutex_unlock(&proxy.lock);
}

void proxy_take(struct unit *unit)
{
    if (!unit->captured)
        give_orders(unit);
    unit->next = atomic_load_explicit(&proxy.inbox, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&proxy.inbox, &unit->next, unit))
        ;
    if (atomic_load(&proxy.stop))
        take_late(unit);
    if (atomic_load(&proxy.asleep)) {
        proxy_lock();
        pthread_cond_signal(&proxy.more);
        pthread_mutex_unlock(&proxy.lock);
    }
}

bool proxy_fail(tutti_comm *comm, tutti_status status, const char *sentence)
{
    bool inside = false;
    proxy_lock();
    for (const struct unit *unit = proxy.units; unit && !inside; unit = unit->next) {
        for (size_t i = 0; i < unit->comm_count; i++)
            inside |= unit->inside && unit->comms[i].comm == comm;
    }
    if (inside)
        (void)comm_fail(comm, status, comm->rank, sentence);
    pthread_mutex_unlock(&proxy.lock);
    return inside;
}

static void drain(const struct tutti_comm *comm, bool (*is_waited_for)(const struct tutti_comm *))
{
    uint64_t since = clock_ns();
    while (is_waited_for(comm) && !atomic_load(&proxy.stop)) {
        if (clock_ns() - since < WAIT_YIELD_NS)
            sched_yield();
        else
            clock_sleep_us(WAIT_NAP_US);
    }
}

void stream_drain(struct tutti_comm *comm)
{
    drain(comm, comm_has_units);
}

static bool has_units_at_all(const struct tutti_comm *comm)
{
    return comm_has_units(comm) || atomic_load(&comm->held) > 0;
}

/* Locks when no unit of the communicator is under way or held. */
static void lock_when_idle(struct tutti_comm *comm)
{
    proxy_lock();
    while (has_units_at_all(comm) && !atomic_load(&proxy.stop)) {
        pthread_mutex_unlock(&proxy.lock);
        atomic_store(&comm->aborted, true);
        drain(comm, has_units_at_all);
        proxy_lock();
    }
}

static void forget(struct unit *unit, const void *comm)
{
    for (size_t i = 0; i < unit->comm_count && unit->comms[0].comm; i++) {
        if (unit->comms[i].comm != comm)
            continue;
        unit_unkeep(unit);
        unit->comms[0].comm = NULL;
    }
}

/* Of a communicator without units only captured ones can be there, and what is left when the proxy
 * has stopped. The inbox is left for the proxy: it sleeps until it finds something there. */
void stream_forget(struct tutti_comm *comm)
{
    lock_when_idle(comm);
    for (struct unit *unit = proxy.units; unit && atomic_load(&proxy.stop); unit = unit->next) {
        if (unit->state == UNIT_QUEUED)
            forget(unit, comm);
    }
    for (struct unit *unit = atomic_load(&proxy.inbox); unit; unit = unit->next)
        forget(unit, comm);
    replay_each(&proxy.replays, forget, comm);
    replay_close(comm);
    pthread_mutex_unlock(&proxy.lock);
}
