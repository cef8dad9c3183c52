/* comm_wait.c: how a rank waits while nothing moves.
 *
 * A wait spins for a moment (a peer on another core answers within it), then yields the core, then
 * sleeps: on the transport's descriptor where there is one, else in short naps. Ranks that share
 * cores skip the spinning, since the peer they wait for may need this very core, and the times
 * below are so many times longer for them: with hundreds on a core, naps and looks that come due
 * faster than the core can serve them leave nothing for those that have work. Failures, abort and
 * the timeout are looked at only when nothing moves, so they cost a busy rank nothing.
 *
 * Where there is a descriptor a rank whose core is its own sleeps at once after spinning, and one
 * that shares it yields for a moment first: whoever sends to a sleeping rank pays for waking it,
 * and gives it the core message by message. Yielding, each works until it has to wait itself
 * (TCP, 2 cores: 3 ranks exchange 8 bytes in 16 us instead of 34, 140 ranks meet at a barrier in
 * 8 ms instead of 11). It costs dearly beside somebody who computes and keeps the core for a whole
 * slice where a rank that wakes up gets it at once: that is noticed, see give_turn. */
#include <poll.h>
#include <sched.h>

#include "base/clock.h"
#include "src/comm.h"

#define SPIN_POLLS      64         /* polls before the first look at the clock: about 2 us */
#define CROWDED_POLLS   2          /* the same when ranks share cores */
#define CLOCK_TICKS     32768u     /* between looks at the clock: about 12 us */
#define EVENT_PERIOD_NS 1000000ull /* between looks at the transports' events while waiting */
#define YIELD_NS        5000000ull /* yielding turns into sleeping after this */
#define NAP_US          50u        /* sleep where no descriptor can wake us */
#define SLEEP_MS        1    /* sleep on a descriptor: bounded, so that events are looked at */
#define SLEEP_MAX_MS    50u  /* and, however many share a core, that an abort is seen soon */
#define CROWD_MAX       256u /* no time is longer than so many of the above */

/* Turns of a shared core, given to others before sleeping on a descriptor. */
#define TURNS_NS     1000000ull   /* for so long: what takes longer is worth a wake-up */
#define TURN_MAX_NS  1000000ull   /* above this one is long: who computes keeps the core 3 ms */
#define TURN_EACH_NS 100000ull    /* and this for each rank on the core: twice what they take */
#define TURN_WORTH   16u          /* unless there was work before for a part of it: a stream's */
#define LONG_TURN    4u           /* counts as many as so many that are not: one in five */
#define LONG_TURNS   24u          /* and so many in sum tell that somebody computes */
#define NO_TURNS_NS  200000000ull /* then none are given: to look again costs 3 % of it */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

unsigned comm_crowd(const tutti_comm *comm)
{
    uint32_t ranks = comm->topology.max_ranks_per_core;
    return ranks < 1 ? 1 : ranks < CROWD_MAX ? ranks : CROWD_MAX;
}

/* Gives the core to those who share it; false if it is better to sleep now. A turn may be long
 * because others stream to this rank, which then has much to do; where one in five is for nothing,
 * somebody computes. */
static bool give_turn(tutti_comm *comm, uint64_t now)
{
    if (!comm->crowded || now - comm->idle_since_ns >= TURNS_NS || now < comm->no_turns_until_ns)
        return false;
    sched_yield();
    uint64_t end = clock_ns(), took = end - now, worked = now - comm->turn_ended_ns;
    comm->turn_ended_ns = end;
    if (took > TURN_MAX_NS + TURN_EACH_NS * comm_crowd(comm) && took / TURN_WORTH > worked)
        comm->long_turns += LONG_TURN;
    else if (comm->long_turns > 0)
        comm->long_turns--;
    if (comm->long_turns >= LONG_TURNS) {
        comm->long_turns = LONG_TURNS - 1; /* a next long one says that it goes on */
        comm->no_turns_until_ns = end + NO_TURNS_NS;
    }
    return true;
}

/* Waits until the only transport in use has something, or it is time to look around. */
static bool wait_on_descriptor(tutti_comm *comm, uint64_t now)
{
    if (comm->transport_count != 1)
        return false;
    struct transport *transport = comm->transports[0];
    int fd = transport->ops->wait_fd(transport);
    if (fd < 0)
        return false;
    if (!give_turn(comm, now) && transport->ops->arm(transport)) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        unsigned ms = SLEEP_MS * comm_crowd(comm);
        poll(&wait, 1, (int)(ms < SLEEP_MAX_MS ? ms : SLEEP_MAX_MS));
    }
    return true;
}

bool comm_is_moving(const tutti_comm *comm)
{
    bool moving = false;
    for (uint32_t i = 0; i < comm->transport_count; i++)
        moving |= comm->transports[i]->moved;
    return moving;
}

/* Nothing has ended, but has a part of something moved since the last look? */
static bool has_moved(tutti_comm *comm)
{
    bool moved = comm_is_moving(comm);
    for (uint32_t i = 0; i < comm->transport_count; i++)
        comm->transports[i]->moved = false;
    return moved;
}

static void look_around(tutti_comm *comm, uint64_t now)
{
    comm->last_event_ns = now;
    comm_events(comm);
    comm_check_timeout(comm, now);
}

void comm_idle(tutti_comm *comm)
{
    uint64_t least = comm->crowded ? CROWDED_POLLS : SPIN_POLLS;
    if (++comm->idle_polls < least) {
        relax();
        return;
    }
    uint64_t ticks = clock_ticks();
    if (comm->idle_polls == least)
        comm->clock_at_ticks = ticks;
    if (ticks - comm->clock_at_ticks < CLOCK_TICKS && ticks != 0 && !comm->crowded) {
        relax();
        return;
    }
    comm->clock_at_ticks = ticks;
    if (comm_check_abort(comm))
        return;
    uint64_t now = clock_ns();
    bool moved = has_moved(comm), first = comm->idle_since_ns == 0;
    if (first)
        comm->idle_since_ns = comm->last_event_ns = now;
    if (first || moved)
        comm->moved_ns = now;
    if (!comm->crowded && !moved && now - comm->moved_ns < comm->settings.spin_us * 1000) {
        relax();
        return;
    }
    if (now - comm->last_event_ns >= EVENT_PERIOD_NS * comm_crowd(comm))
        look_around(comm, now);
    if (moved || wait_on_descriptor(comm, now))
        return;
    if (now - comm->moved_ns < YIELD_NS * comm_crowd(comm))
        sched_yield();
    else
        clock_sleep_us(NAP_US * comm_crowd(comm));
}

/* Nothing is under way in it: whatever its caller still looks for is no rank's doing. */
static bool has_nothing(const tutti_comm *comm)
{
    return !comm->running && !comm->head && !comm->p2p_list && !comm->p2p_waiting && !comm->works &&
           !comm->self_sends.first && !comm->self_recvs.first;
}

void comm_look(tutti_comm *comm)
{
    uint64_t now = clock_ns();
    if (has_nothing(comm))
        comm_idle_reset(comm);
    if (now - comm->last_event_ns < EVENT_PERIOD_NS * comm_crowd(comm))
        return;
    if (comm->failed != TUTTI_OK) {
        comm->last_event_ns = now;
        comm_tell_later(comm);
        return;
    }
    if (comm->idle_since_ns == 0)
        comm->idle_since_ns = now;
    if (!comm_check_abort(comm))
        look_around(comm, now);
}
