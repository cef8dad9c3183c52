/* inproc.c: ranks that are threads of one process.
 *
 * A link is one object that both ends share: the rings of all lanes and a mailbox for notices each
 * way, counted by references. Whoever connects first makes it and leaves it in the registry, where
 * the other end finds it. Long messages are offered by address; the receiver copies or reduces
 * from the sender's buffer itself.
 *
 * A rank that closes or aborts may free its buffers at once, so it first withdraws its offers
 * (`revoked`) and then waits while the peer is inside one step of reading (`reading`). Both sides
 * write their own flag and then read the other's, in one total order: either the reader sees the
 * withdrawal or the closer sees the reading (Dekker's handshake).
 *
 * The registry is the one thing here that is process wide, under a mutex taken by open, connect and
 * close only. */
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/lock.h"
#include "transports/local.h"

#define MAILBOX_NOTICES 8    /* unread, per direction; a failure needs one or two */
#define HALF_OPEN_LISTS 1024 /* hash lists of links that one end has made so far */
#define POLLS_PER_CHECK 4096 /* polls between looks for closed peers, when event is not called */

struct mailbox {
    _Atomic uint32_t written, taken;
};

/* The end of the transport with the lower (0) or the higher (1) identity. */
struct end {
    _Alignas(RING_LINE) _Atomic uint32_t closed;
    _Alignas(RING_LINE) _Atomic uint32_t reading;
    struct mailbox outgoing;
};

struct shared {
    struct notice notices[2][MAILBOX_NOTICES]; /* by sender's side; not touched until used */
    _Atomic uint32_t refs;
    uint64_t id[2];
    struct shared *next; /* while half open */
    struct end end[2];
    _Alignas(RING_LINE) uint8_t rings[]; /* [lane][direction], each `stride` bytes */
};

struct inproc_link {
    struct local_link base;
    struct shared *shared;
    uint32_t side;
};

struct inproc {
    struct local local;
    pid_t owner;
    uint64_t id;
    uint32_t polls;
    struct inproc *next; /* registry's list of open transports */
};

struct address {
    uint8_t process[16];
    uint64_t id;
    uint64_t comm_id;
};

static struct {
    struct lock lock;
    pid_t owner; /* a forked child is another process, with another identity */
    uint8_t process[16];
    uint64_t last_id;
    struct inproc *open;
    struct shared *half_open[HALF_OPEN_LISTS];
} registry = {.lock = LOCK_INIT};

/* ---- the registry; all under its lock ---- */

static tutti_status registry_identify(void)
{
    if (registry.owner == getpid())
        return TUTTI_OK;
    if (getrandom(registry.process, sizeof registry.process, 0) != (ssize_t)sizeof registry.process)
        return fail_errno(TUTTI_ERR_SYSTEM, "inproc: random bytes");
    registry.owner = getpid();
    registry.open = NULL;
    memset(registry.half_open, 0, sizeof registry.half_open);
    return TUTTI_OK;
}

static struct shared **half_open_list(const uint64_t id[2])
{
    return &registry.half_open[(id[0] * 31 + id[1]) % HALF_OPEN_LISTS];
}

static const struct shared *half_open_find(const uint64_t id[2])
{
    const struct shared *at = *half_open_list(id);
    while (at && (at->id[0] != id[0] || at->id[1] != id[1]))
        at = at->next;
    return at;
}

/* only: nothing but this one. */
static struct shared *half_open_take(const uint64_t id[2], const struct shared *only)
{
    for (struct shared **at = half_open_list(id); *at; at = &(*at)->next) {
        struct shared *shared = *at;
        if (shared->id[0] == id[0] && shared->id[1] == id[1] && (!only || shared == only)) {
            *at = shared->next;
            return shared;
        }
    }
    return NULL;
}

static bool registry_is_open(uint64_t id)
{
    for (const struct inproc *at = registry.open; at; at = at->next) {
        if (at->id == id)
            return true;
    }
    return false;
}

static void shared_release(struct shared *shared)
{
    if (atomic_fetch_sub(&shared->refs, 1) == 1)
        free(shared);
}

/* Peers that made their half of a link with a transport that now closes must see it closed. */
static void registry_leave(struct inproc *inproc)
{
    struct inproc **at = &registry.open;
    while (*at && *at != inproc)
        at = &(*at)->next;
    if (*at)
        *at = inproc->next;
    for (size_t i = 0; i < HALF_OPEN_LISTS; i++) {
        struct shared **half = &registry.half_open[i];
        while (*half) {
            struct shared *shared = *half;
            int side = shared->id[1] == inproc->id;
            if (shared->id[side] == inproc->id && atomic_load(&shared->end[1 - side].closed)) {
                *half = shared->next; /* left behind for this transport, which never came */
                shared_release(shared);
                continue;
            }
            if (shared->id[side] == inproc->id)
                atomic_store(&shared->end[side].closed, 1);
            half = &shared->next;
        }
    }
}

/* ---- links ---- */

/* Long messages are passed by address, so the rings only carry small ones; where ranks are many,
 * links are many more, and a link must be small. */
static struct ring_shape ring_shape(const struct transport_config *config)
{
    if (config->size <= 16)
        return (struct ring_shape){.slots = 64, .data_bytes = 16384};
    if (config->size <= 64)
        return (struct ring_shape){.slots = 8, .data_bytes = 4096};
    return (struct ring_shape){.slots = 8, .data_bytes = 1024};
}

static struct shared *shared_new(const struct transport_config *config, const uint64_t id[2])
{
    struct ring_shape shape = ring_shape(config);
    size_t stride = ring_bytes(&shape);
    struct shared *shared =
        aligned_alloc(RING_LINE, sizeof *shared + (size_t)config->lanes * 2 * stride);
    if (!shared)
        return NULL;
    size_t fixed = offsetof(struct shared, refs);
    memset((uint8_t *)shared + fixed, 0, sizeof *shared - fixed);
    /* Payload space is written before it is read; touching it here would only cost memory. */
    for (uint32_t i = 0; i < config->lanes * 2; i++)
        memset(shared->rings + i * stride, 0, stride - shape.data_bytes);
    atomic_init(&shared->refs, 1);
    shared->id[0] = id[0];
    shared->id[1] = id[1];
    return shared;
}

static void link_attach(struct inproc *inproc, struct inproc_link *link)
{
    struct ring_shape shape = ring_shape(inproc->local.config);
    size_t stride = ring_bytes(&shape);
    uint8_t *rings = link->shared->rings;
    local_link_attach(&inproc->local, &link->base, &shape, rings + link->side * stride,
                      rings + (1 - link->side) * stride, 2 * stride);
}

static void wait_for_reader(struct inproc_link *link)
{
    while (atomic_load(&link->shared->end[1 - link->side].reading))
        sched_yield();
}

/* With the registry locked. */
static void link_close(struct inproc *inproc, struct inproc_link *link)
{
    bool offered = local_link_drop(&inproc->local, &link->base);
    struct shared *shared = link->shared;
    if (shared) {
        atomic_store(&shared->end[link->side].closed, 1);
        if (offered)
            wait_for_reader(link);
        /* What was sent before the peer made its half is still to be received: the list keeps it
         * until the peer comes for it or closes too. */
        bool unmet = half_open_take(shared->id, shared) != NULL;
        if (unmet && registry_is_open(shared->id[1 - link->side])) {
            shared->next = *half_open_list(shared->id);
            *half_open_list(shared->id) = shared;
        } else {
            shared_release(shared);
        }
    }
    local_link_free(&inproc->local, &link->base);
    free(link);
}

static bool refer(struct local *local, struct local_link *link, const struct xfer *xfer,
                  struct slot_copy *slot)
{
    slot->kind = SLOT_FOREIGN;
    slot->word[0] = (uint64_t)(uintptr_t)xfer->data;
    slot->word[1] = 0;
    return true;
}

static tutti_status fetch(struct local *local, struct lane *lane, struct xfer *xfer, size_t off,
                          size_t n)
{
    struct inproc_link *link = (struct inproc_link *)lane->link;
    _Atomic uint32_t *reading = &link->shared->end[link->side].reading;
    atomic_store(reading, 1);
    bool revoked = atomic_load(&lane->in->revoked) != 0;
    if (!revoked)
        local_apply(xfer, off, (const uint8_t *)(uintptr_t)lane->in_first.word[0] + off, n);
    atomic_store_explicit(reading, 0, memory_order_release);
    if (revoked)
        return fail(TUTTI_ERR_PEER, "%s left before its message was received",
                    local->config->peer_names[lane->link->peer]);
    return TUTTI_OK;
}

/* ---- the table ---- */

static bool inproc_probe(const struct settings *settings, char *why, size_t len)
{
    return true;
}

static tutti_status inproc_open(const struct transport_config *config, struct transport **transport)
{
    static const struct local_ways ways = {.refer = refer, .fetch = fetch};
    struct inproc *inproc = calloc(1, sizeof *inproc);
    if (!inproc)
        return fail(TUTTI_ERR_NOMEM, "inproc: no memory for a transport");
    tutti_status status = local_init(&inproc->local, &inproc_ops, config, &ways);
    if (status != TUTTI_OK)
        goto free_inproc;
    struct ring_shape shape = ring_shape(config);
    inproc->local.eager_max = ring_piece(&shape) < 1024 ? ring_piece(&shape) : 1024;
    inproc->local.eager_fresh_max = inproc->local.eager_max; /* more was slower between threads */
    inproc->owner = getpid();
    lock_take(&registry.lock);
    status = registry_identify();
    if (status == TUTTI_OK) {
        inproc->id = ++registry.last_id;
        inproc->next = registry.open;
        registry.open = inproc;
    }
    lock_leave(&registry.lock);
    if (status != TUTTI_OK)
        goto free_local;
    *transport = &inproc->local.base;
    return TUTTI_OK;

free_local:
    local_free(&inproc->local);
free_inproc:
    free(inproc);
    return status;
}

static void leave_peers(struct inproc *inproc)
{
    lock_take(&registry.lock);
    /* Its own links first: what is still listed for it then is a peer's, and no link's. */
    for (uint32_t i = 0; i < inproc->local.config->size; i++) {
        if (inproc->local.links[i])
            link_close(inproc, (struct inproc_link *)inproc->local.links[i]);
    }
    registry_leave(inproc);
    lock_leave(&registry.lock);
}

static void inproc_close(struct transport *transport)
{
    struct inproc *inproc = (struct inproc *)transport;
    /* A forked child has a copy of the rings, not the ranks behind them: it leaves all alone. */
    if (!inproc || inproc->owner != getpid())
        return;
    leave_peers(inproc);
    local_free(&inproc->local);
    free(inproc);
}

static tutti_status inproc_address(struct transport *transport, void *address, size_t *len)
{
    const struct inproc *inproc = (const struct inproc *)transport;
    struct address mine = {.id = inproc->id, .comm_id = inproc->local.config->comm_id};
    memcpy(mine.process, registry.process, sizeof mine.process);
    memcpy(address, &mine, sizeof mine);
    *len = sizeof mine;
    return TUTTI_OK;
}

static bool inproc_reaches(struct transport *transport, uint32_t peer, const void *address,
                           size_t len)
{
    struct address theirs;
    if (len != sizeof theirs)
        return false;
    memcpy(&theirs, address, sizeof theirs);
    return memcmp(theirs.process, registry.process, sizeof theirs.process) == 0 &&
           theirs.comm_id == ((const struct inproc *)transport)->local.config->comm_id;
}

/* With the registry locked: finds the other half or leaves one. */
static tutti_status link_meet(struct inproc *inproc, struct inproc_link *link, uint64_t peer_id)
{
    uint64_t id[2];
    link->side = inproc->id > peer_id;
    id[link->side] = inproc->id;
    id[1 - link->side] = peer_id;
    link->shared = half_open_take(id, NULL);
    if (link->shared) {
        /* An end that closed has left its reference to this one. */
        if (!atomic_load(&link->shared->end[1 - link->side].closed))
            atomic_fetch_add(&link->shared->refs, 1);
        return TUTTI_OK;
    }
    if (!registry_is_open(peer_id))
        return TUTTI_ERR_PEER;
    link->shared = shared_new(inproc->local.config, id);
    if (!link->shared)
        return fail(TUTTI_ERR_NOMEM, "inproc: no memory for a link to %s",
                    inproc->local.config->peer_names[link->base.peer]);
    link->shared->next = *half_open_list(id);
    *half_open_list(id) = link->shared;
    return TUTTI_OK;
}

static tutti_status inproc_connect(struct transport *transport, uint32_t peer, const void *address,
                                   size_t len)
{
    struct inproc *inproc = (struct inproc *)transport;
    must(peer < inproc->local.config->size);
    if (inproc->local.links[peer])
        return TUTTI_OK;
    if (!inproc_reaches(transport, peer, address, len))
        return fail(TUTTI_ERR_CONNECT, "inproc: %s is not a thread of this process",
                    inproc->local.config->peer_names[peer]);
    struct address theirs;
    memcpy(&theirs, address, sizeof theirs);
    struct inproc_link *link = calloc(1, sizeof *link);
    if (!link)
        return fail(TUTTI_ERR_NOMEM, "inproc: no memory for a link");
    tutti_status status = local_link_init(&inproc->local, &link->base, peer);
    if (status == TUTTI_OK) {
        lock_take(&registry.lock);
        status = link_meet(inproc, link, theirs.id);
        lock_leave(&registry.lock);
    }
    if (status == TUTTI_ERR_PEER) {
        char sentence[SENTENCE_MAX];
        snprintf(sentence, sizeof sentence, "%s has left the communicator",
                 inproc->local.config->peer_names[peer]);
        local_link_fail(&inproc->local, &link->base, TUTTI_ERR_PEER, false, sentence);
        return TUTTI_OK;
    }
    if (status != TUTTI_OK) {
        local_link_free(&inproc->local, &link->base);
        free(link);
        return status;
    }
    link_attach(inproc, link);
    return TUTTI_OK;
}

static bool inproc_wanted(struct transport *transport, uint32_t peer, const void *address,
                          size_t len)
{
    const struct inproc *inproc = (const struct inproc *)transport;
    struct address theirs;
    if (inproc->local.links[peer] || !inproc_reaches(transport, peer, address, len))
        return false;
    memcpy(&theirs, address, sizeof theirs);
    uint32_t side = inproc->id > theirs.id;
    uint64_t id[2];
    id[side] = inproc->id;
    id[1 - side] = theirs.id;
    lock_take(&registry.lock);
    const struct shared *half = half_open_find(id);
    bool waits = half && !atomic_load(&half->end[1 - side].closed);
    lock_leave(&registry.lock);
    return waits;
}

static void inproc_disconnect(struct transport *transport, uint32_t peer)
{
    struct inproc *inproc = (struct inproc *)transport;
    struct inproc_link *link = (struct inproc_link *)inproc->local.links[peer];
    if (!link)
        return;
    lock_take(&registry.lock);
    link_close(inproc, link);
    lock_leave(&registry.lock);
}

/* Peers that closed: a quiet end, unless transfers were left. */
static void check_closed(struct inproc *inproc)
{
    for (uint32_t i = 0; i < inproc->local.made_count; i++) {
        struct inproc_link *link = (struct inproc_link *)inproc->local.made[i];
        if (link->base.down || !atomic_load(&link->shared->end[1 - link->side].closed))
            continue;
        char sentence[SENTENCE_MAX];
        snprintf(sentence, sizeof sentence, "%s has left the communicator",
                 inproc->local.config->peer_names[link->base.peer]);
        local_link_fail(&inproc->local, &link->base, TUTTI_ERR_PEER, true, sentence);
    }
}

static void take_notices(struct inproc *inproc)
{
    for (uint32_t i = 0; i < inproc->local.made_count; i++) {
        struct inproc_link *link = (struct inproc_link *)inproc->local.made[i];
        if (!link->shared)
            continue;
        struct mailbox *box = &link->shared->end[1 - link->side].outgoing;
        uint32_t taken = atomic_load_explicit(&box->taken, memory_order_relaxed);
        while (taken != atomic_load_explicit(&box->written, memory_order_acquire)) {
            local_notice_keep(&inproc->local, link->base.peer,
                              &link->shared->notices[1 - link->side][taken % MAILBOX_NOTICES]);
            atomic_store_explicit(&box->taken, ++taken, memory_order_release);
        }
    }
}

static struct xfer *inproc_poll(struct transport *transport)
{
    struct inproc *inproc = (struct inproc *)transport;
    if (++inproc->polls % POLLS_PER_CHECK == 0)
        check_closed(inproc);
    return local_poll(&inproc->local);
}

static void inproc_cancel(struct transport *transport, bool leave)
{
    struct inproc *inproc = (struct inproc *)transport;
    for (uint32_t i = 0; i < inproc->local.config->size; i++) {
        struct inproc_link *link = (struct inproc_link *)inproc->local.links[i];
        if (link && local_link_cancel(&inproc->local, &link->base) && link->shared)
            wait_for_reader(link);
    }
    inproc->local.done = NULL;
    if (leave)
        leave_peers(inproc);
}

static tutti_status inproc_notify(struct transport *transport, uint32_t peer,
                                  const struct notice *notice)
{
    struct inproc *inproc = (struct inproc *)transport;
    struct inproc_link *link = (struct inproc_link *)inproc->local.links[peer];
    if (!link || !link->shared)
        return fail(TUTTI_ERR_PEER, "inproc: no link to %s",
                    inproc->local.config->peer_names[peer]);
    struct mailbox *box = &link->shared->end[link->side].outgoing;
    uint32_t written = atomic_load_explicit(&box->written, memory_order_relaxed);
    if (written - atomic_load_explicit(&box->taken, memory_order_acquire) == MAILBOX_NOTICES)
        return TUTTI_IN_PROGRESS;
    link->shared->notices[link->side][written % MAILBOX_NOTICES] = *notice;
    atomic_store_explicit(&box->written, written + 1, memory_order_release);
    return TUTTI_OK;
}

static bool inproc_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct inproc *inproc = (struct inproc *)transport;
    if (restart || inproc->local.notice_count == 0) {
        take_notices(inproc);
        check_closed(inproc);
    }
    return local_event(&inproc->local, restart, event);
}

/* One cache line between cores and one copy from the sender's memory. */
static void inproc_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    *alpha_us = 0.2;
    *us_per_byte = 1.0 / 10000;
}

const struct transport_ops inproc_ops = {
    .name = "inproc",
    .probe = inproc_probe,
    .open = inproc_open,
    .close = inproc_close,
    .address = inproc_address,
    .reaches = inproc_reaches,
    .connect = inproc_connect,
    .wanted = inproc_wanted,
    .disconnect = inproc_disconnect,
    .send = local_send,
    .recv = local_recv,
    .poll = inproc_poll,
    .cancel = inproc_cancel,
    .notify = inproc_notify,
    .event = inproc_event,
    .wait_fd = local_wait_fd,
    .arm = local_arm,
    .takes = local_takes,
    .stats = local_stats,
    .model = inproc_model,
};
