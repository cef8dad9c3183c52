/* bootstrap_waiting.c: the unique ids of this process, and who may serve each.
 *
 * The sockets behind an id must outlive the call that made it, and are found again by a rank of the
 * same process: they wait in one small table behind a mutex, the one exception to "no globals" in
 * this room. The first rank of the process that made the id takes them and is the root; ranks that
 * come while it serves connect to it, as ranks elsewhere do. When its meeting is over the entry is
 * kept, without sockets, so that a second use of the id is told at once that it is one; the oldest
 * such entry makes room when a new id needs it.
 *
 * A child of fork finds the table of its parent, and the sockets in it, but for ids whose rank 0
 * the parent holds. So that a parent which forks all its ranks has one root, only rank 0 takes an
 * inherited entry. The parent may take part as well, and no mutex reaches across a fork: with the
 * sockets waits a token, an eventfd, empty at first. Whoever fills it is the root, and who finds it
 * full is not, and sees of which sort the root is.
 *
 * A process without a rank, or with one that is late, attends to its id meanwhile: a thread watches
 * the sockets, and when a rank has come and GRACE_MS later nobody has the token, it takes the
 * entry as a rank would. It watches the token, too, and leaves when that is filled: by a rank of
 * this process, which waits for that before it touches the sockets, or by a forked rank 0. So one
 * process alone accepts connections, whoever has inherited the sockets; and where the parent is
 * gone before it took the entry, the forked rank 0 finds the token empty.
 *
 * Invariant: an entry has sockets and a token while it is WAITING; afterwards they are closed, or
 * the root's. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

/* Ids made and not yet used. A program that makes thousands of communicators uses each id at once;
 * one that hoards them would run out of descriptors instead. */
#define WAITING_MAX 256
/* Ranks of one job come within some tens of milliseconds: where the maker holds one, that shall be
 * the root, which saves the others a hop and has a name. */
#define GRACE_MS 100

enum stage {
    FREE,
    WAITING,   /* for a root */
    SERVED,    /* by this process, now */
    ELSEWHERE, /* by a process on the other side of a fork, or it was */
    OVER,
    GIVEN_BACK
};

struct waiting {
    enum stage stage;
    bool any_root;
    uint8_t job[16];
    char key[MEETING_KEY_MAX];
    uint64_t timeout_ms, stall_ms;
    pid_t maker;
    bool attended;   /* by a thread of the maker's, which watches the sockets */
    uint64_t number; /* counts the ids in the order in which they were made; of a free entry 0 */
    int token;
    int listeners[MEETING_LISTENERS_MAX];
    uint32_t listener_count;
    uint32_t rank, size; /* of the root, once there is one; BOOTSTRAP_NO_RANK */
    tutti_status outcome;
};
static pthread_mutex_t waiting_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting waiting_table[WAITING_MAX];
static pthread_once_t waiting_once = PTHREAD_ONCE_INIT;

static void lock(void)
{
    pthread_mutex_lock(&waiting_lock);
}

static void unlock(void)
{
    pthread_mutex_unlock(&waiting_lock);
}

/* What is not inherited has no sockets and no token here (owned.h). */
static void child_of_fork(void)
{
    for (int i = 0; i < WAITING_MAX; i++) {
        if (waiting_table[i].stage == WAITING && !waiting_table[i].any_root)
            waiting_table[i] = (struct waiting){.stage = FREE};
    }
    unlock();
}

/* A thread that attends may have the lock while another forks. */
static void watch_forks(void)
{
    pthread_atfork(lock, unlock, child_of_fork);
}

/* A free entry, or else the oldest that no rank needs any more. *last: the highest number. */
static struct waiting *find_room(uint64_t *last)
{
    struct waiting *room = NULL;
    *last = 0;
    for (int i = 0; i < WAITING_MAX; i++) {
        struct waiting *entry = &waiting_table[i];
        bool needed = entry->stage == WAITING || entry->stage == SERVED;
        if (!needed && (!room || entry->number < room->number))
            room = entry;
        *last = entry->number > *last ? entry->number : *last;
    }
    return room;
}

static struct waiting *find(const struct meeting *meeting)
{
    for (int i = 0; i < WAITING_MAX; i++) {
        struct waiting *entry = &waiting_table[i];
        if (entry->stage != FREE && memcmp(entry->job, meeting->job, sizeof entry->job) == 0)
            return entry;
    }
    return NULL;
}

tutti_status waiting_put(const struct meeting *meeting)
{
    pthread_once(&waiting_once, watch_forks);
    int token = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (token < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "a unique id: eventfd");
    lock();
    uint64_t last;
    struct waiting *entry = find_room(&last);
    if (entry) {
        *entry = (struct waiting){.stage = WAITING,
                                  .any_root = meeting->any_root,
                                  .maker = getpid(),
                                  .number = last + 1,
                                  .token = token,
                                  .listener_count = meeting->listener_count};
        entry->timeout_ms = meeting->timeout_ms;
        entry->stall_ms = meeting->stall_ms;
        memcpy(entry->key, meeting->key, sizeof entry->key);
        memcpy(entry->job, meeting->job, sizeof entry->job);
        memcpy(entry->listeners, meeting->listeners, sizeof entry->listeners);
        for (uint32_t l = 0; l < entry->listener_count && entry->any_root; l++)
            owned_forget(entry->listeners[l]); /* a child may need them */
        if (!entry->any_root)
            owned_add(token);
    }
    unlock();
    if (entry)
        return TUTTI_OK;
    close(token);
    return fail(TUTTI_ERR_NOMEM,
                "%d unique ids are waiting in this process: make communicators of them before "
                "asking for more",
                WAITING_MAX);
}

static bool may_serve(const struct waiting *entry, uint32_t rank)
{
    return rank == 0 || (entry->any_root && entry->maker == getpid());
}

/* A rank fills the token to the brim; who serves without a rank leaves room for a few to ask. */
static bool fill_token(int token, bool to_the_brim)
{
    const uint64_t brim = UINT64_MAX - 1, count = to_the_brim ? brim : brim - UINT32_MAX;
    return write(token, &count, sizeof count) == sizeof count;
}

static bool token_has_room(int token)
{
    const uint64_t one = 1;
    return write(token, &one, sizeof one) == sizeof one;
}

/* Takes the entry's sockets, if nobody on the other side of a fork has. */
static void take(struct waiting *entry, struct meeting *meeting, uint32_t rank, uint32_t size)
{
    bool first = fill_token(entry->token, rank != BOOTSTRAP_NO_RANK);
    if (!first)
        rank = token_has_room(entry->token) ? BOOTSTRAP_NO_RANK : 0;
    entry->rank = rank;
    entry->size = size;
    entry->stage = SERVED;
    while (entry->attended && entry->maker == getpid()) { /* the token has woken who attends */
        unlock();
        clock_sleep_us(50);
        lock();
    }
    owned_close(owned_add(entry->token));
    memcpy(meeting->listeners, entry->listeners, sizeof entry->listeners);
    meeting->listener_count = entry->listener_count;
    for (uint32_t l = 0; l < entry->listener_count; l++)
        owned_add(entry->listeners[l]);
    entry->stage = first ? SERVED : ELSEWHERE;
    if (!first)
        meeting_close_listeners(meeting);
}

static tutti_status used_up(const struct waiting *entry, uint32_t rank, uint32_t size)
{
    char by[64] = "ranks that this process served";
    if (entry->rank != BOOTSTRAP_NO_RANK)
        snprintf(by, sizeof by, "rank %u of %u, in this process,", entry->rank, entry->size);
    if (entry->stage == GIVEN_BACK)
        return fail(TUTTI_ERR_ARG, "rank %u of %u: this unique id was given back: make another",
                    rank, size);
    if (entry->outcome == TUTTI_OK)
        return fail(TUTTI_ERR_ARG,
                    "rank %u of %u: this unique id is used up: %s made a communicator of it, and "
                    "an id makes one",
                    rank, size, by);
    return fail(TUTTI_ERR_CONNECT,
                "rank %u of %u comes too late: the rendezvous of this unique id has failed at %s "
                "and an id serves once: make another",
                rank, size, by);
}

tutti_status waiting_claim(struct meeting *meeting, uint32_t rank, uint32_t size)
{
    tutti_status status = TUTTI_OK;
    lock();
    struct waiting *entry = find(meeting);
    if (entry && entry->stage == WAITING && may_serve(entry, rank))
        take(entry, meeting, rank, size);
    else if (entry && entry->stage >= OVER)
        status = used_up(entry, rank, size);
    /* others may serve it: the process that made it, or a thread of this one */
    bool elsewhere = meeting->any_root && (size > 1 || !entry || entry->rank == BOOTSTRAP_NO_RANK);
    unlock();
    bool no_other = !elsewhere && (size == 1 || rank == 0);
    if (status == TUTTI_OK && no_other && meeting->listener_count == 0)
        return fail(TUTTI_ERR_ARG,
                    "rank %u of %u must be in the process that made the unique id, and an id makes "
                    "one communicator: this process has no socket for it",
                    rank, size);
    return status;
}

tutti_status waiting_give_back(struct meeting *meeting)
{
    tutti_status status = TUTTI_OK;
    lock();
    struct waiting *entry = find(meeting);
    if (!entry || entry->maker != getpid()) {
        status =
            fail(TUTTI_ERR_ARG, "this process did not make the unique id, or has forgotten it");
    } else if (entry->stage == WAITING) {
        take(entry, meeting, BOOTSTRAP_NO_RANK, 0);
        entry->stage = GIVEN_BACK;
    }
    unlock();
    meeting_close_listeners(meeting);
    return status;
}

/* Until a rank has come and GRACE_MS have passed, or somebody has taken the entry. */
static tutti_status watch(const struct waiting *entry, const struct cancel *cancel)
{
    struct pollfd fds[1 + MEETING_LISTENERS_MAX] = {{.fd = entry->token, .events = POLLIN}};
    uint64_t until_ms = UINT64_MAX;
    for (uint32_t l = 0; l < entry->listener_count; l++)
        fds[1 + l] = (struct pollfd){.fd = entry->listeners[l], .events = POLLIN};
    while (clock_ms() < until_ms) {
        tutti_status wanted = clock_check(cancel);
        if (wanted != TUTTI_OK)
            return wanted;
        nfds_t watched = until_ms == UINT64_MAX ? 1 + entry->listener_count : 1;
        int count = poll(fds, watched, clock_left_ms(until_ms, cancel));
        if (count < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "a unique id: poll");
        for (nfds_t i = 0; count > 0 && i < watched; i++) {
            if (fds[i].revents & POLLNVAL)
                return fail(TUTTI_ERR_SYSTEM, "the program closed the sockets of a unique id");
        }
        if (count > 0 && fds[0].revents)
            return TUTTI_OK;
        if (count > 0 && watched > 1)
            until_ms = clock_ms() + GRACE_MS;
    }
    return TUTTI_OK;
}

/* *entry: to be attended; NULL if there is nothing to wait for. */
static tutti_status attend(struct meeting *meeting, struct waiting **entry)
{
    struct waiting *found = find(meeting);
    *entry = NULL;
    if (!found || found->maker != getpid())
        return fail(TUTTI_ERR_ARG, "this process did not make the unique id, or it is long used "
                                   "up: who makes an id can serve it, nobody else");
    if (found->stage != WAITING)
        return TUTTI_OK;
    if (found->attended)
        return fail(TUTTI_ERR_STATE, "another thread serves this unique id");
    found->attended = true;
    meeting->timeout_ms = found->timeout_ms;
    meeting->stall_ms = found->stall_ms;
    memcpy(meeting->key, found->key, sizeof meeting->key);
    *entry = found;
    return TUTTI_OK;
}

tutti_status waiting_attend(struct meeting *meeting)
{
    struct waiting *entry;
    lock();
    tutti_status status = attend(meeting, &entry);
    unlock();
    if (!entry)
        return status;
    status = watch(entry, meeting->cancel); /* nobody touches its sockets meanwhile */
    lock();
    entry->attended = false;
    if (status == TUTTI_OK && entry->stage == WAITING)
        take(entry, meeting, BOOTSTRAP_NO_RANK, 0);
    unlock();
    return status;
}

void waiting_end(const struct meeting *meeting, tutti_status outcome)
{
    lock();
    struct waiting *entry = find(meeting);
    if (entry) {
        entry->stage = OVER;
        entry->outcome = outcome;
    }
    unlock();
}
