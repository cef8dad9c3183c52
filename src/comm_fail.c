/* comm_fail.c: how a communicator fails. The first error known at a rank wins there; it goes
 * over every link as a notice, and each peer passes it on once, so it reaches every rank that waits
 * for one that failed; to who has no link yet it goes when there is one, and a peer that waits for
 * one gets it (comm_tend.c looks while nobody is inside). A broken link is only a symptom: before
 * it becomes the error, the notices of the peer that left are read for up to REASON_MS, since they
 * were sent before the link went down and name the cause, and those of all others that have come.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "src/comm.h"
#include "src/stream.h"

#define TELL_MOST  8u        /* links made at a time for those who wait */
#define REASON_MS  300u      /* wait for the reason of a broken link */
#define EVENTS_MAX 4096      /* events taken per look, so that a flood cannot hold a rank */
#define DRAIN_US   50u       /* between looks whether streams are done */
#define ASK_NS     10000000u /* between looks of those who only ask: some 20 us each */

void comm_notify_all(tutti_comm *comm, const struct notice *notice)
{
    /* A peer may have made a link that this rank has not asked for, and wait on it. */
    for (uint32_t p = 0; p < comm->size; p++) {
        struct comm_peer *peer = &comm->peers[p];
        if (peer->transport && !peer->left)
            (void)peer->transport->ops->notify(peer->transport, p, notice);
    }
}

/* After it failed it stays for others, not for good. */
static bool stays(const tutti_comm *comm)
{
    return !comm->peers[comm->rank].ended;
}

/* A peer may wait for a link that this rank has not asked for; who leaves makes none. */
static void tell(tutti_comm *comm)
{
    uint32_t made = 0;
    for (uint32_t p = 0; p < comm->size; p++) {
        struct comm_peer *peer = &comm->peers[p];
        struct transport *transport = peer->transport;
        if (!transport || peer->left || peer->told)
            continue;
        if (made < TELL_MOST && stays(comm) &&
            transport->ops->wanted(transport, p, peer->address, peer->address_len))
            made += comm_connect(comm, p) == TUTTI_OK;
        peer->told = transport->ops->notify(transport, p, &comm->failure) == TUTTI_OK;
    }
}

void comm_tell_later(tutti_comm *comm)
{
    if (comm->failed == TUTTI_OK || !stays(comm))
        return;
    comm_events(comm);
    tell(comm);
}

static void tell_peers(tutti_comm *comm, tutti_status status, uint32_t culprit)
{
    /* What is an abort here is the loss of a peer to others. */
    if (status == TUTTI_ERR_ABORTED)
        status = TUTTI_ERR_PEER;
    bool ended = culprit < comm->size && comm->peers[culprit].ended;
    struct notice *notice = &comm->failure;
    *notice = (struct notice){
        .kind = NOTICE_FAILED, .culprit = culprit, .status = status, .tag.word = {ended}};
    /* What happened to this rank alone says so elsewhere. */
    const char *name = comm->names[comm->rank];
    bool tells = culprit != comm->rank || strstr(comm->sentence, name);
    snprintf(notice->text, sizeof notice->text, "%s%s%.*s", tells ? "" : name, tells ? "" : ": ",
             (int)sizeof notice->text - 3, comm->sentence);
    tell(comm);
}

void comm_say_goodbye(tutti_comm *comm)
{
    struct notice notice = {.kind = NOTICE_LEFT, .culprit = comm->rank};
    if (comm->failed != TUTTI_OK)
        return;
    if (comm->head || comm->p2p_list || comm->p2p_waiting || comm->self_sends.first ||
        comm->self_recvs.first) {
        comm_fail(comm, TUTTI_ERR_ABORTED, comm->rank, "");
        return;
    }
    for (uint32_t p = 0; p < comm->size; p++) {
        struct comm_peer *peer = &comm->peers[p];
        if (peer->connected && !peer->left)
            (void)peer->transport->ops->notify(peer->transport, p, &notice);
    }
}

static void end_all(const tutti_comm *comm, struct operation **list)
{
    struct operation *op = *list, *next;
    *list = NULL;
    for (; op; op = next) {
        next = op->next;
        operation_fail(op, comm->failed, comm->sentence);
    }
}

static void end_operations(tutti_comm *comm)
{
    struct operation *work = comm->works; /* in a list above too, but for transfers to oneself */
    comm->works = comm->works_listed = NULL;
    comm->works_tail = &comm->works;
    comm->works_begun = 0;
    comm->running = NULL;
    for (struct operation *next; work; work = next) {
        next = work->next_work;
        if (work->call.root == (int)comm->rank)
            operation_fail(work, comm->failed, comm->sentence);
    }
    comm->tail = &comm->head;
    end_all(comm, &comm->head);
    end_all(comm, &comm->p2p_list);
    for (; comm->p2p_waiting; comm->p2p_waiting = comm->p2p_waiting->next)
        end_all(comm, &comm->p2p_waiting->waiting.first);
    end_all(comm, &comm->self_sends.first);
    end_all(comm, &comm->self_recvs.first);
}

static void say_aborted(tutti_comm *comm)
{
    bool making = clock_cancelled(atomic_load(&comm->cancel));
    snprintf(comm->sentence, sizeof comm->sentence, "%s aborted the communicator%s",
             comm->names[comm->rank],
             making
                 ? " that was being made of this one: this one ended with it, since its ranks are "
                   "out of step: destroy it, or shrink it to the other ranks"
                 : "");
}

/* leave: this rank fails on its own, so that peers which have no link to it yet cannot learn of it
 * from anyone else; who is told the reason by a notice passes it on, and stays to pass it on. */
static void fail_comm(tutti_comm *comm, tutti_status status, uint32_t culprit, const char *sentence,
                      bool leave)
{
    if (comm->failed != TUTTI_OK)
        return;
    if (status == TUTTI_ERR_ABORTED && culprit == comm->rank)
        say_aborted(comm);
    else
        snprintf(comm->sentence, sizeof comm->sentence, "%s", sentence);
    comm->failed = status;
    comm->scratch_in_use = comm->running && comm->running->device;
    if (leave) {
        __atomic_store_n(&comm->ended, 1, __ATOMIC_RELEASE);
        comm->peers[comm->rank].ended = true;
    }
    log_at(LOG_LEVEL_INFO, (int)comm->rank, "communicator failed: %s", comm->sentence);
    tell_peers(comm, status, culprit);
    for (uint32_t i = 0; i < comm->transport_count; i++)
        comm->transport_ops[i]->cancel(comm->transports[i], leave);
    if (!leave)
        comm_tend_failed(comm);
    /* Last: who sees its request ended may free the buffers at once. */
    end_operations(comm);
}

tutti_status comm_fail(tutti_comm *comm, tutti_status status, uint32_t culprit,
                       const char *sentence)
{
    fail_comm(comm, status, culprit, sentence,
              culprit == comm->rank && !atomic_load(&comm->revoked));
    return comm_error(comm);
}

tutti_status comm_error(const tutti_comm *comm)
{
    status_set_sentence(comm->sentence);
    return comm->failed;
}

/* What differs though the texts of two tags do not show it. */
static const char *hidden_difference(const struct tag *mine, const struct tag *theirs)
{
    if (mine->word[1] != theirs->word[1])
        return " with different counts";
    return mine->word[2] != theirs->word[2] ? " by a different plan" : " otherwise";
}

/* One side of a transfer of which a side is worked on in GPU memory. What travels of that one is
 * where its bytes lie; the length of the other is known, and a short one may be of GPU memory, too.
 */
static const char *side_text(const tutti_comm *comm, const struct tag *tag, size_t len,
                             char text[80])
{
    const char *name = dtype_name(tag_dtype(tag));
    size_t size = dtype_size(tag_dtype(tag));
    if (!tag_on_device(tag) && len < comm->direct_min)
        snprintf(text, 80, "%zu %s in host memory or below TUTTI_CUDA_DIRECT_MIN",
                 len / (size ? size : 1), name);
    else
        snprintf(text, 80, "%s in %s memory", name, tag_on_device(tag) ? "GPU" : "host");
    return text;
}

/* A send that met a receive; the receiver compares, so theirs is the send. */
static void transfers_differ(tutti_comm *comm, uint32_t peer, const struct tag *mine,
                             const struct tag *theirs, size_t my_len, size_t their_len, char *text)
{
    tutti_dtype expected = tag_dtype(mine), sent = tag_dtype(theirs);
    if ((tag_on_device(mine) || tag_on_device(theirs)) && !tag_equal(mine, theirs)) {
        char sends[80], receives[80];
        snprintf(
            text, SENTENCE_MAX,
            "ranks disagree: %s sends %s where %s receives %s: sends and receives of two ranks "
            "meet in the order issued; their counts and types must agree, and both buffers lie in "
            "GPU memory or neither (or set TUTTI_CUDA_DIRECT=0)",
            comm->names[peer], side_text(comm, theirs, their_len, sends), comm->names[comm->rank],
            side_text(comm, mine, my_len, receives));
        return;
    }
    size_t expected_size = dtype_size(expected), sent_size = dtype_size(sent);
    snprintf(text, SENTENCE_MAX,
             "ranks disagree: %s sends %zu %s where %s receives %zu %s: sends and receives of two "
             "ranks meet in the order issued, and the count and type of both must agree",
             comm->names[peer], their_len / (sent_size ? sent_size : 1), dtype_name(sent),
             comm->names[comm->rank], my_len / (expected_size ? expected_size : 1),
             dtype_name(expected));
}

/* What ranks must do alike that call different things. */
static const char *advice(const struct tag *mine, const struct tag *theirs)
{
    if (tag_replayed(mine) != tag_replayed(theirs))
        return "and capture a collective in a graph on every rank or on none";
    if (tag_part(mine) != tag_part(theirs) && tag_coll(mine) == tag_coll(theirs))
        return "and in GPU memory on every rank or on none (TUTTI_CUDA_PART)";
    return "with the same arguments (and the same TUTTI_ALGO settings)";
}

/* Both sides of a disagreement, in one sentence. */
static void fail_mismatch(tutti_comm *comm, uint32_t peer, const struct tag *mine,
                          const struct tag *theirs, size_t my_len, size_t their_len)
{
    char a[160], b[160], text[SENTENCE_MAX];
    tag_text(mine, a, sizeof a);
    tag_text(theirs, b, sizeof b);
    if (tag_coll(mine) == TUTTI_COLL_SENDRECV && tag_coll(theirs) == TUTTI_COLL_SENDRECV)
        transfers_differ(comm, peer, mine, theirs, my_len, their_len, text);
    else if (!tag_equal(mine, theirs))
        snprintf(
            text, sizeof text,
            "ranks disagree: %s calls %s, but %s calls %s%s: every rank must make the same calls "
            "in the same order %s",
            comm->names[comm->rank], a, comm->names[peer], b,
            strcmp(a, b) == 0 ? hidden_difference(mine, theirs) : "", advice(mine, theirs));
    else
        snprintf(
            text, sizeof text,
            "ranks disagree in %s: %s sends %zu bytes where %s expects %zu: the counts of each "
            "pair of ranks must agree",
            coll_name(tag_coll(mine)), comm->names[peer], their_len, comm->names[comm->rank],
            my_len);
    comm_fail(comm, TUTTI_ERR_MISMATCH, peer, text);
}

static void link_down(tutti_comm *comm, const struct transport_event *event)
{
    if (!comm->peers[event->peer].left) {
        comm->peers[event->peer].down = true;
        comm->down_peer = event->peer;
        memcpy(comm->down_sentence, event->sentence, sizeof comm->down_sentence);
    }
    log_at(LOG_LEVEL_DEBUG, (int)comm->rank, "link down: %s", event->sentence);
}

/* An arrival that nobody here expects: early (a later operation: fine), or a disagreement. */
static void unexpected(tutti_comm *comm, const struct transport_event *event)
{
    if (!comm->running || event->lane >= comm->lanes)
        return;
    const struct tag *mine = &comm->running->tag;
    int32_t ahead = (int32_t)(tag_sequence(&event->tag) - tag_sequence(mine));
    if (ahead < 0 || (ahead == 0 && !tag_equal(&event->tag, mine)))
        fail_mismatch(comm, event->peer, mine, &event->tag, 0, event->len);
}

bool comm_events(tutti_comm *comm)
{
    static _Thread_local struct transport_event event; /* large: kept off the stack */
    bool worked = comm->failed == TUTTI_OK;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        const struct transport_ops *ops = comm->transport_ops[i];
        bool restart = true;
        for (unsigned n = 0; n < EVENTS_MAX; n++) {
            if (!ops->event(comm->transports[i], restart, &event))
                break;
            restart = false;
            if (event.peer >= comm->size)
                continue;
            if (event.kind == TRANSPORT_EVENT_LINK_DOWN) {
                link_down(comm, &event);
            } else if (event.kind == TRANSPORT_EVENT_UNEXPECTED) {
                unexpected(comm, &event);
            } else if (event.notice.kind == NOTICE_LEFT) {
                comm->peers[event.peer].left = true;
            } else if (event.notice.kind == NOTICE_ASK || event.notice.kind == NOTICE_WAITS) {
                comm_late_notice(comm, event.peer, &event.notice);
            } else if (event.notice.kind == NOTICE_GROW) {
                comm_grow_notice(comm, &event.notice);
            } else if (event.notice.kind != NOTICE_FAILED) {
                comm_shrink_notice(comm, event.peer, &event.notice);
            } else {
                event.notice.text[sizeof event.notice.text - 1] = 0;
                tutti_status status = status_heard(event.notice.status, TUTTI_ERR_PEER);
                if (event.notice.tag.word[0] == 1 && event.notice.culprit < comm->size)
                    comm->peers[event.notice.culprit].ended = true;
                fail_comm(comm, status, event.notice.culprit, event.notice.text, false);
            }
            /* Only the last link that went down is kept. */
            if ((worked && comm->failed != TUTTI_OK) || event.kind == TRANSPORT_EVENT_LINK_DOWN)
                return true;
        }
    }
    return false;
}

/* Whose fault it is that a link is not there: who lacks something for it fails alone, since the
 * peer cannot be told. */
static uint32_t at_fault(const tutti_comm *comm, uint32_t peer, tutti_status status)
{
    return status == TUTTI_ERR_NOMEM || status == TUTTI_ERR_SYSTEM ? comm->rank : peer;
}

/* A link is down, says text, unless a peer has told the cause by now. */
static tutti_status fail_by_link(tutti_comm *comm, uint32_t peer, tutti_status status,
                                 const char *text)
{
    while (comm->failed == TUTTI_OK && comm_events(comm))
        ;
    return comm_fail(comm, status, at_fault(comm, peer, status), text);
}

const char *comm_doing(const tutti_comm *comm, char *text, size_t len)
{
    char inner[128];
    if (comm->running_call)
        snprintf(text, len, "in %s, operation %u",
                 call_text(comm->running_call, inner, sizeof inner), comm->sequence - 1);
    else
        snprintf(text, len, "in a send or receive");
    return text;
}

/* A link broke under a transfer: the peer's own notice is the best reason, then what the transport
 * saw, then the transfer's status alone. */
static tutti_status fail_broken_link(tutti_comm *comm, uint32_t peer, tutti_status status)
{
    uint64_t deadline = clock_ms() + REASON_MS;
    char now_doing[192], text[SENTENCE_MAX];
    while (comm->down_peer != peer && clock_ms() < deadline) {
        comm_events(comm);
        if (comm->failed != TUTTI_OK)
            return comm_error(comm);
        if (comm->peers[peer].left)
            break;
        clock_sleep_us(200);
    }
    comm_doing(comm, now_doing, sizeof now_doing);
    if (comm->peers[peer].left)
        snprintf(text, sizeof text, "%s destroyed its communicator while %s still waits for it %s",
                 comm->names[peer], comm->names[comm->rank], now_doing);
    else if (comm->down_peer == peer)
        snprintf(text, sizeof text, "%.300s (%s)", comm->down_sentence, now_doing);
    else
        snprintf(text, sizeof text, "%s is lost: %s (%s)", comm->names[peer], status_text(status),
                 now_doing);
    return fail_by_link(comm, peer, status, text);
}

tutti_status comm_fail_ended(tutti_comm *comm, const struct xfer *xfer)
{
    if (comm->failed != TUTTI_OK)
        return comm_error(comm);
    if (xfer->status != TUTTI_ERR_MISMATCH)
        return fail_broken_link(comm, xfer->peer, xfer->status);
    fail_mismatch(comm, xfer->peer, xfer->tag, &xfer->seen, xfer->len, xfer->seen_len);
    return comm_error(comm);
}

tutti_status comm_fail_xfer(tutti_comm *comm, const struct xfer *xfer)
{
    if (comm->failed != TUTTI_OK || xfer->status == TUTTI_ERR_PEER ||
        xfer->status == TUTTI_ERR_MISMATCH)
        return comm_fail_ended(comm, xfer);
    char text[SENTENCE_MAX];
    snprintf(text, sizeof text, "transfer with %s failed: %.300s", comm->names[xfer->peer],
             status_sentence()[0] ? status_sentence() : status_text(xfer->status));
    return fail_by_link(comm, xfer->peer, xfer->status, text);
}

tutti_status comm_fail_offer(tutti_comm *comm, uint32_t peer, tutti_status status)
{
    uint64_t deadline = clock_ms() + REASON_MS;
    char text[SENTENCE_MAX];
    snprintf(text, sizeof text, "%s", status_sentence());
    while (clock_ms() < deadline && comm->failed == TUTTI_OK) {
        comm_events(comm);
        if (comm->peers[peer].left || comm->down_peer == peer)
            return fail_broken_link(comm, peer, TUTTI_ERR_PEER);
        clock_sleep_us(200);
    }
    return comm_fail(comm, status, comm->rank, text);
}

tutti_status comm_fail_lengths(tutti_comm *comm, uint32_t peer, const struct tag *tag,
                               uint64_t expected, uint64_t sent)
{
    fail_mismatch(comm, peer, tag, tag, expected, sent);
    return comm_error(comm);
}

bool comm_check_abort(tutti_comm *comm)
{
    if (!atomic_load_explicit(&comm->aborted, memory_order_relaxed) &&
        !clock_cancelled(atomic_load_explicit(&comm->cancel, memory_order_relaxed)))
        return false;
    comm_fail(comm, TUTTI_ERR_ABORTED, comm->rank, "");
    return true;
}

/* As who; *inside: who is, where this thread is not. */
static inline bool seize(tutti_comm *comm, int who, int *inside)
{
    *inside = 0;
    return atomic_compare_exchange_strong_explicit(&comm->busy, inside, who, memory_order_acquire,
                                                   memory_order_relaxed);
}

bool comm_try_seize(tutti_comm *comm)
{
    int inside;
    return seize(comm, COMM_SERVING, &inside);
}

bool comm_try_look(tutti_comm *comm)
{
    int inside;
    return seize(comm, COMM_LOOKING, &inside);
}

static inline bool seize_soon(tutti_comm *comm, int *inside)
{
    while (!seize(comm, 1, inside)) {
        if (*inside != COMM_LOOKING)
            return false;
        sched_yield();
    }
    return true;
}

bool comm_seize_soon(tutti_comm *comm)
{
    int inside;
    return seize_soon(comm, &inside);
}

/* A thread that aborts is inside for a moment; any other is a mistake of the caller, or the proxy.
 */
static inline bool seize_at_last(tutti_comm *comm, int *inside)
{
    while (!seize_soon(comm, inside)) {
        if (!atomic_load(&comm->aborted))
            return false;
        sched_yield();
    }
    return true;
}

bool comm_seize(tutti_comm *comm)
{
    int inside;
    return seize_at_last(comm, &inside);
}

/* A transfer under way ends by itself when its peer is gone, and may end well before that. */
static bool is_idle(const tutti_comm *comm)
{
    return !comm->running && !comm->head && !comm->p2p_list && !comm->p2p_waiting;
}

void comm_look_for_deaths(tutti_comm *comm)
{
    comm_events(comm);
    if (comm->failed == TUTTI_OK && comm->down_peer != NO_RANK && is_idle(comm)) {
        char text[SENTENCE_MAX];
        memcpy(text, comm->down_sentence, sizeof text);
        fail_by_link(comm, comm->down_peer, TUTTI_ERR_PEER, text);
    }
}

void comm_ask(tutti_comm *comm)
{
    uint64_t now = clock_ns(), before = atomic_load_explicit(&comm->asked_ns, memory_order_relaxed);
    if (comm->failed != TUTTI_OK || now - before < ASK_NS ||
        comm->fork_generation != atomic_load(&comm_forks) ||
        !atomic_compare_exchange_strong(&comm->asked_ns, &before, now) || !comm_try_look(comm))
        return;
    comm_look_for_deaths(comm);
    comm_leave(comm);
}

static inline tutti_status check_handle(const tutti_comm *comm)
{
    if (__builtin_expect(!comm || comm->magic != COMM_MAGIC, 0))
        return fail(TUTTI_ERR_STATE, "the communicator is %s",
                    comm ? "destroyed or not a communicator" : "NULL");
    if (__builtin_expect(
            comm->fork_generation != atomic_load_explicit(&comm_forks, memory_order_relaxed), 0))
        return fail(
            TUTTI_ERR_FORKED,
            "this communicator belongs to the parent process: a child made by fork must make "
            "its own");
    return TUTTI_OK;
}

tutti_status comm_look_in(const tutti_comm *comm)
{
    tutti_status status = check_handle(comm);
    if (status == TUTTI_OK && atomic_load(&comm->aborted))
        status = fail(TUTTI_ERR_ABORTED, "%s aborted the communicator", comm->names[comm->rank]);
    return status == TUTTI_OK && comm->failed != TUTTI_OK ? comm_error(comm) : status;
}

tutti_status comm_drain(tutti_comm *comm, const int *cancel)
{
    tutti_status status = check_handle(comm);
    while (status == TUTTI_OK && cancel && comm_has_units(comm) && !clock_cancelled(cancel))
        clock_sleep_us(DRAIN_US);
    return status;
}

tutti_status comm_enter(tutti_comm *comm)
{
    tutti_status status = check_handle(comm);
    if (__builtin_expect(status != TUTTI_OK, 0))
        return status;
    if (__builtin_expect(comm_has_units(comm), 0))
        stream_drain(comm);
    int inside;
    while (__builtin_expect(!seize_at_last(comm, &inside), 0)) {
        /* A graph's replay may have come in between, and be gone by now. */
        if (inside != COMM_SERVING && !comm_has_units(comm))
            return fail(TUTTI_ERR_STATE,
                        "%s: another thread is using this communicator: one thread at a "
                        "time may",
                        comm->names[comm->rank]);
        sched_yield();
        stream_drain(comm);
    }
    if (__builtin_expect(atomic_load_explicit(&comm->aborted, memory_order_relaxed), 0))
        comm_fail(comm, TUTTI_ERR_ABORTED, comm->rank, "");
    if (__builtin_expect(comm->failed != TUTTI_OK, 0)) {
        status = comm_error(comm);
        comm_leave(comm);
        return status;
    }
    return TUTTI_OK;
}

tutti_status comm_enter_any(tutti_comm *comm)
{
    tutti_status status = comm_enter(comm);
    if (status == TUTTI_OK || !comm || comm->magic != COMM_MAGIC || comm->failed == TUTTI_OK ||
        comm->fork_generation != atomic_load(&comm_forks))
        return status;
    int inside;
    while (!seize_at_last(comm, &inside)) {
        if (inside != COMM_SERVING)
            return fail(TUTTI_ERR_STATE, "%s: another thread is using this communicator",
                        comm->names[comm->rank]);
        sched_yield();
    }
    return TUTTI_OK;
}
