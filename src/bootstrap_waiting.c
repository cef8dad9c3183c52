/* bootstrap_waiting.c: the unique ids of this process, and who may serve each.
 *
 * The sockets behind an id must outlive the call that made it, and are found again by a rank of the
 * same process: they wait in one small table behind a mutex, the one exception to "no globals" in
 * this room. The first rank of the process that made the id takes them and is the root; ranks that
 * come while it serves connect to it, as ranks elsewhere do. When its meeting is over the entry is
 * kept, without sockets, so that a second use of the id is told at once that it is one; the oldest
 * such entry makes room when a new id needs it.
 *
 * A child of fork finds the table of its parent, and the sockets in it. So that a parent which
 * forks all its ranks has one root, only rank 0 takes an inherited entry. The parent may take part
 * as well, and no mutex reaches across a fork: with the sockets waits a token, an eventfd that
 * holds one count. Whoever reads that is the root, and who finds it empty is not.
 *
 * Invariant: an entry has sockets and a token while it is WAITING, and at no other time. */
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/owned.h"
#include "src/bootstrap_meet.h"

/* Ids made and not yet used. A program that makes thousands of communicators uses each id at once;
 * one that hoards them would run out of descriptors instead. */
#define WAITING_MAX 256

enum stage {
    FREE,
    WAITING,   /* for a root */
    SERVED,    /* by a rank of this process, now */
    ELSEWHERE, /* by a process on the other side of a fork, or it was */
    OVER
};

struct waiting {
    enum stage stage;
    bool any_root;
    uint8_t job[16];
    pid_t maker;
    uint64_t number; /* counts the ids in the order in which they were made; of a free entry 0 */
    int token;
    int listeners[MEETING_LISTENERS_MAX];
    uint32_t listener_count;
    uint32_t rank, size; /* of the root */
    tutti_status outcome;
};
static pthread_mutex_t waiting_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting waiting_table[WAITING_MAX];

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
    int token = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (token < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "a unique id: eventfd");
    pthread_mutex_lock(&waiting_lock);
    uint64_t last;
    struct waiting *entry = find_room(&last);
    if (entry) {
        *entry = (struct waiting){.stage = WAITING,
                                  .any_root = meeting->any_root,
                                  .maker = getpid(),
                                  .number = last + 1,
                                  .token = token,
                                  .listener_count = meeting->listener_count};
        memcpy(entry->job, meeting->job, sizeof entry->job);
        memcpy(entry->listeners, meeting->listeners, sizeof entry->listeners);
        for (uint32_t l = 0; l < entry->listener_count; l++)
            owned_forget(entry->listeners[l]); /* a child may need them */
    }
    pthread_mutex_unlock(&waiting_lock);
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

/* Takes the entry's sockets, if no rank on the other side of a fork has. */
static void take(struct waiting *entry, struct meeting *meeting)
{
    uint64_t count;
    bool first = read(entry->token, &count, sizeof count) == sizeof count;
    close(entry->token);
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
    if (entry->outcome == TUTTI_OK)
        return fail(TUTTI_ERR_ARG,
                    "rank %u of %u: this unique id is used up: rank %u of %u, in this process, "
                    "made a communicator of it, and an id makes one",
                    rank, size, entry->rank, entry->size);
    return fail(TUTTI_ERR_CONNECT,
                "rank %u of %u comes too late: the rendezvous of this unique id has failed at rank "
                "%u of %u, in this process, and an id serves once: make another",
                rank, size, entry->rank, entry->size);
}

tutti_status waiting_claim(struct meeting *meeting, uint32_t rank, uint32_t size)
{
    tutti_status status = TUTTI_OK;
    pthread_mutex_lock(&waiting_lock);
    struct waiting *entry = find(meeting);
    if (entry && entry->stage == WAITING && may_serve(entry, rank)) {
        entry->rank = rank;
        entry->size = size;
        take(entry, meeting);
    } else if (entry && entry->stage == OVER) {
        status = used_up(entry, rank, size);
    }
    pthread_mutex_unlock(&waiting_lock);
    bool no_other = size == 1 || (rank == 0 && !meeting->any_root);
    if (status == TUTTI_OK && no_other && meeting->listener_count == 0)
        return fail(TUTTI_ERR_ARG,
                    "rank %u of %u must be in the process that made the unique id, and an id makes "
                    "one communicator: this process has no socket for it",
                    rank, size);
    return status;
}

void waiting_end(const struct meeting *meeting, tutti_status outcome)
{
    pthread_mutex_lock(&waiting_lock);
    struct waiting *entry = find(meeting);
    if (entry) {
        entry->stage = OVER;
        entry->outcome = outcome;
    }
    pthread_mutex_unlock(&waiting_lock);
}
