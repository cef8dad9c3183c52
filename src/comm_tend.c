/* comm_tend.c: a thread that looks after links while nobody is inside their communicator.
 * A call ends when its own part is done, and a peer may need this rank after that: a rail was lost,
 * and the peer asks what has arrived over it, or waits for what has to be sent again. The program
 * may compute by then, or wait for that very peer in another communicator or outside the library;
 * without help both would wait for ever. The thread looks TEND_HZ times a second, and whoever
 * enters meanwhile waits for the look; no operation is handed over to it. It also tells of a
 * failure those who come later: a rank that never met this one before may wait for it. There is one
 * for the process, while there are communicators that may need it. Invariants: a communicator in
 * the list has its transports; the list changes with the lock, which the thread holds while it
 * looks. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/thread.h"
#include "src/comm.h"

#define TEND_HZ    10u
#define TEND_SHARE 20u /* it rests so many times longer than a look takes, at least */

static struct {
    struct lock lock;
    pthread_cond_t woken;
    pthread_t thread;
    bool running, over; /* over: the program exits */
    bool ready;         /* woken is, in the process that forks tells of */
    unsigned forks;
    unsigned turn; /* of the thread that runs: any other ends */
    tutti_comm *first;
} tender = {.lock = LOCK_INIT};

static pthread_once_t tender_once = PTHREAD_ONCE_INIT;

static bool runs_here(void)
{
    return tender.running && tender.forks == atomic_load(&comm_forks);
}

static void tend(tutti_comm *comm)
{
    if (comm->fork_generation != tender.forks || !comm_try_look(comm))
        return;
    comm_tell_later(comm);
    for (uint32_t i = 0; i < comm->transport_count && comm->failed == TUTTI_OK; i++) {
        if (comm->transport_ops[i]->tend)
            comm->transport_ops[i]->tend(comm->transports[i]);
    }
    comm_leave(comm);
}

static void rest_until(uint64_t ns, unsigned turn)
{
    while (tender.turn == turn && lock_wait_until(&tender.lock, &tender.woken, ns))
        ;
}

static void *tender_main(void *argument)
{
    const unsigned turn = (unsigned)(uintptr_t)argument;
    lock_take(&tender.lock);
    while (tender.turn == turn) {
        uint64_t begun = clock_ns(), took;
        for (tutti_comm *comm = tender.first; comm; comm = comm->next_tended)
            tend(comm);
        took = clock_ns() - begun;
        rest_until(begun + 1000000000u / TEND_HZ + TEND_SHARE * took, turn);
    }
    lock_leave(&tender.lock);
    return NULL;
}

/* With the lock. True: the thread ends, and is to be joined without the lock. */
static bool dismiss(pthread_t *thread)
{
    if (!runs_here())
        return false;
    *thread = tender.thread;
    tender.running = false;
    tender.turn++;
    pthread_cond_broadcast(&tender.woken);
    return true;
}

/* What the thread uses goes when the program's exit is over. */
static void stop_at_exit(void)
{
    pthread_t thread;
    lock_take(&tender.lock);
    tender.over = true;
    bool ends = dismiss(&thread);
    lock_leave(&tender.lock);
    if (ends)
        pthread_join(thread, NULL);
}

static void watch_exit(void)
{
    atexit(stop_at_exit);
}

/* With the lock. In a child of fork the thread is the parent's. */
static int start(void)
{
    if (runs_here() || tender.over)
        return 0;
    unsigned forks = atomic_load(&comm_forks);
    if (!tender.ready || tender.forks != forks)
        lock_condition_init(&tender.woken);
    tender.ready = true;
    tender.forks = forks;
    int error = thread_start(&tender.thread, NULL, tender_main, (void *)(uintptr_t)tender.turn);
    tender.running = error == 0;
    return error;
}

/* without: what a process suffers in which no thread can be started. */
static void enlist(tutti_comm *comm, const char *without)
{
    pthread_once(&tender_once, watch_exit);
    lock_take(&tender.lock);
    if (!comm->tended) {
        comm->next_tended = tender.first;
        comm->tended = &tender.first;
        if (comm->next_tended)
            comm->next_tended->tended = &comm->next_tended;
        tender.first = comm;
    }
    int error = start();
    lock_leave(&tender.lock);
    if (error != 0)
        log_at(LOG_LEVEL_WARN, (int)comm->rank,
               "no thread can be started (%s): while this rank is outside the library, %s",
               strerror(error), without);
}

void comm_tend(tutti_comm *comm)
{
    bool needed = false;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        const struct transport_ops *ops = comm->transport_ops[i];
        needed = (ops->tend && ops->tend(comm->transports[i])) || needed;
    }
    if (needed)
        enlist(comm, "peers that lose an RDMA port wait for its next call");
}

void comm_tend_failed(tutti_comm *comm)
{
    enlist(comm, "ranks that come to wait for it learn of the failure by its next call");
}

void comm_untend(tutti_comm *comm)
{
    pthread_t thread;
    lock_take(&tender.lock);
    if (comm->tended) {
        *comm->tended = comm->next_tended;
        if (comm->next_tended)
            comm->next_tended->tended = comm->tended;
        comm->tended = NULL;
    }
    bool was_last = !tender.first && dismiss(&thread);
    lock_leave(&tender.lock);
    if (was_last)
        pthread_join(thread, NULL);
}
