/* comm_late.c: whose fault it is that a wait has lasted too long.
 *
 * Who waits knows for whom, but that rank may wait itself: of a chain of ranks the first to be out
 * of patience is as a rule the farthest from who is late. So a rank whose time is up asks those
 * that it waits for, before it names one:
 *
 *      time is up          waits as well             late
 *        ask {limit} ------->  ask {limit} --------->  (no answer)
 *        <--- waits {whom, call}
 *        <-------------------------- failed: "rank 1 waits, and rank 0 has ..."
 *
 * Who is asked while it waits answers at once, and asks on. Who gets no answer within ANSWER_MS
 * names the one that is silent, whoever it was whose time was up: a rank that answers sits in a
 * call of this communicator, one that does not is elsewhere. (A thread of this process that has not
 * made its end of the link does not hear, either.) Where all answer and nobody is named for
 * GRACE_MS the ranks wait for each other.
 *
 * Transports keep few notices for a peer that does not read, and the cause of a failure, which
 * comes last, must find room: at most ASKS_MAX questions are under way to a peer. So each is
 * answered when it is read, by who does not wait with its own rank, which counts as silence.
 *
 * Long before, after TUTTI_STALL_MS, the same question goes out once without any limit, which
 * nobody passes on, and who is silent is named in the log. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "src/comm.h"

/* For an answer: some looks of both sides at their events, and a core that others use. */
#define ANSWER_MS      300u
#define ANSWER_LOOK_MS 4u     /* and so much more for each rank on a core */
#define GRACE_MS       1000u  /* beyond that, for a chain of answers: and so much more, */
#define GRACE_HOP_MS   2u     /* for each rank of the communicator and on a core, */
#define GRACE_MAX_MS   10000u /* up to this */
#define LOOKS          8u     /* in a limit, whether bytes move */
#define ASKS_MAX       2u     /* under way to a peer: one for the log, and one about a limit */

/* ---- since when nothing moves -----------------------------------------------------------------
 * A transfer ends once, and may take longer than the limit: what its transport counts on the way
 * moves, too. The first look of a wait has nothing to compare with, so what moved before it is not
 * seen. */

static uint64_t still_since(const tutti_comm *comm)
{
    return comm->late.moved_ns > comm->idle_since_ns ? comm->late.moved_ns : comm->idle_since_ns;
}

/* And the pieces that are counted instead: only whether the sum changes counts. */
static uint64_t moved_bytes(const tutti_comm *comm)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        struct transport_stats stats;
        comm->transport_ops[i]->stats(comm->transports[i], &stats);
        sum += stats.bytes_sent + stats.bytes_received + stats.copied_bytes + stats.in_place_bytes +
               stats.pieces;
    }
    return sum;
}

static void look_for_moves(tutti_comm *comm, uint64_t now)
{
    struct comm_late *late = &comm->late;
    bool is_first = late->looked_ns <= comm->idle_since_ns;
    uint64_t last = is_first ? comm->idle_since_ns : late->looked_ns;
    if (now - last < comm->settings.timeout_ms * 1000000u / LOOKS)
        return;
    uint64_t bytes = moved_bytes(comm);
    if (!is_first && bytes != late->moved_bytes)
        late->moved_ns = now;
    late->moved_bytes = bytes;
    late->looked_ns = now;
}

/* ---- asking -----------------------------------------------------------------------------------
 */

/* A peer that is waited for. */
struct awaited {
    uint32_t peer;
    bool receives;               /* from it */
    uint32_t link;               /* where next_awaited goes on: links of the program, */
    const struct operation *p2p; /* then transfers */
};

static bool next_awaited(const tutti_comm *comm, struct awaited *at)
{
    const struct program *p = comm->running;
    while (p && at->link < p->plan.schedule->link_count) {
        const struct exec_link *link = &p->links[at->link];
        at->peer = p->plan.schedule->links[at->link++].peer;
        at->receives = link->recv.posted > 0;
        if (at->receives || link->send.posted > 0)
            return true;
    }
    do {
        at->p2p = at->p2p ? at->p2p->next : comm->p2p_list;
    } while (at->p2p && at->p2p->copies);
    if (!at->p2p)
        return false;
    at->peer = (uint32_t)at->p2p->call.root;
    at->receives = !at->p2p->call.is_send;
    return true;
}

static bool tell(tutti_comm *comm, uint32_t peer, const struct notice *notice)
{
    struct transport *transport = comm->peers[peer].transport;
    return transport && transport->ops->notify(transport, peer, notice) == TUTTI_OK;
}

/* Asks all that this rank waits for, on behalf of one whose time is up. limit_ms 0: for the log. */
static void ask(tutti_comm *comm, uint32_t impatient, uint64_t limit_ms, uint64_t now)
{
    struct notice notice = {.kind = NOTICE_ASK, .culprit = impatient, .tag.word = {limit_ms, 0, 0}};
    struct awaited at = {0};
    const uint32_t most = limit_ms > 0 ? ASKS_MAX : ASKS_MAX - 1;
    comm->late.asked_ns = now;
    comm->late.still_since_ns = still_since(comm);
    comm->late.impatient = impatient;
    comm->late.limit_ms = limit_ms;
    for (uint32_t p = 0; p < comm->size; p++)
        comm->peers[p].waits = false;
    while (next_awaited(comm, &at)) {
        struct comm_peer *peer = &comm->peers[at.peer];
        if (peer->asks < most && tell(comm, at.peer, &notice))
            peer->asks++;
    }
}

static uint64_t answer_ms(const tutti_comm *comm)
{
    return ANSWER_MS + ANSWER_LOOK_MS * comm_crowd(comm);
}

static uint64_t grace_ms(const tutti_comm *comm)
{
    uint64_t ms = GRACE_MS + (uint64_t)GRACE_HOP_MS * comm->size * comm_crowd(comm);
    return ms < GRACE_MAX_MS ? ms : GRACE_MAX_MS;
}

/* How long ago it was asked. For another rank that may have been during this very look. */
static uint64_t asked_ms(const tutti_comm *comm, uint64_t now)
{
    return now > comm->late.asked_ns ? (now - comm->late.asked_ns) / 1000000u : 0;
}

/* Whether what was asked is about the wait that goes on now; and whether it is about a limit. */
static bool is_asking(const tutti_comm *comm)
{
    return comm->late.asked_ns != 0 && comm->late.still_since_ns == still_since(comm);
}

static bool is_pressing(const tutti_comm *comm)
{
    return is_asking(comm) && comm->late.limit_ms > 0;
}

static void answer(tutti_comm *comm, uint32_t peer)
{
    struct awaited at = {0};
    struct notice notice = {.kind = NOTICE_WAITS, .culprit = comm->rank};
    /* A thread that only looks is no sign that the rank waits. */
    if (comm->busy != COMM_LOOKING && next_awaited(comm, &at)) {
        notice.culprit = at.peer;
        notice.tag = comm->running ? comm->running->tag : at.p2p->tag;
    }
    (void)tell(comm, peer, &notice);
}

void comm_late_notice(tutti_comm *comm, uint32_t peer, const struct notice *notice)
{
    struct comm_peer *from = &comm->peers[peer];
    if (notice->culprit >= comm->size || comm->failed != TUTTI_OK)
        return;
    if (notice->kind == NOTICE_WAITS) {
        from->asks -= from->asks > 0;
        from->waits = notice->culprit != peer;
        from->waits_for = notice->culprit;
        from->waits_in = notice->tag;
        return;
    }
    uint64_t now = clock_ns();
    /* Who asked for itself so long ago fails at this look. */
    bool is_old = comm->late.impatient != comm->rank &&
                  asked_ms(comm, now) >= answer_ms(comm) + grace_ms(comm);
    answer(comm, peer);
    if (notice->tag.word[0] > 0 && comm->idle_since_ns != 0 && (!is_pressing(comm) || is_old))
        ask(comm, notice->culprit, notice->tag.word[0], now);
}

/* It waits for nobody else. */
static void fail_alone(tutti_comm *comm)
{
    char text[SENTENCE_MAX], doing[192];
    snprintf(text, sizeof text, "%s waited %" PRIu64 " ms %s", comm->names[comm->rank],
             comm->settings.timeout_ms, comm_doing(comm, doing, sizeof doing));
    comm_fail(comm, TUTTI_ERR_TIMEOUT, comm->rank, text);
}

/* Names the peer, which is silent or waits itself. */
static void fail_of(tutti_comm *comm, const struct awaited *at)
{
    const struct comm_late *late = &comm->late;
    const struct comm_peer *peer = &comm->peers[at->peer];
    char text[SENTENCE_MAX], wait[COMM_PEER_NAME_MAX + 64], call[192], doing[192], verdict[384];
    if (late->impatient == comm->rank)
        snprintf(wait, sizeof wait, "waited %" PRIu64 " ms", late->limit_ms);
    else
        snprintf(wait, sizeof wait, "waits, and %s has %" PRIu64 " ms,",
                 comm->names[late->impatient], late->limit_ms);
    if (!peer->waits)
        snprintf(verdict, sizeof verdict,
                 "that rank is late, stopped or unreachable (TUTTI_TIMEOUT_MS sets the limit)");
    else
        snprintf(verdict, sizeof verdict,
                 "that rank waits for rank %u in %s, so ranks wait for each other: see that all "
                 "make the same calls, and that sends meet receives",
                 peer->waits_for,
                 tag_coll(&peer->waits_in) == TUTTI_COLL_SENDRECV
                     ? "a send or receive"
                     : tag_text(&peer->waits_in, call, sizeof call));
    snprintf(text, sizeof text, "%s %s for %s to %s, %s: %.320s", comm->names[comm->rank], wait,
             comm->names[at->peer], at->receives ? "send" : "receive",
             comm_doing(comm, doing, sizeof doing), verdict);
    comm_fail(comm, TUTTI_ERR_TIMEOUT, at->peer, text);
}

/* The next that is waited for and has not answered. */
static bool next_silent(const tutti_comm *comm, struct awaited *at)
{
    while (next_awaited(comm, at)) {
        if (!comm->peers[at->peer].waits)
            return true;
    }
    return false;
}

/* What the log is told of a wait, once. */
static void check_stall(tutti_comm *comm, uint64_t now)
{
    uint64_t since = still_since(comm), waited_ms = (now - since) / 1000000u;
    struct awaited silent = {0};
    char doing[192];
    if (comm->settings.stall_ms == 0 || waited_ms < comm->settings.stall_ms ||
        comm->late.told_ns == since)
        return;
    if (!is_asking(comm)) {
        ask(comm, comm->rank, 0, now);
    } else if (asked_ms(comm, now) >= answer_ms(comm)) {
        comm->late.told_ns = since;
        if (next_silent(comm, &silent))
            log_at(LOG_LEVEL_WARN, (int)comm->rank,
                   "waits for %s to %s, %s, since %" PRIu64 " ms: that rank is late or stopped "
                   "(TUTTI_STALL_MS; the wait ends after TUTTI_TIMEOUT_MS=%" PRIu64 ")",
                   comm->names[silent.peer], silent.receives ? "send" : "receive",
                   comm_doing(comm, doing, sizeof doing), waited_ms, comm->settings.timeout_ms);
    }
}

void comm_check_timeout(tutti_comm *comm, uint64_t now)
{
    look_for_moves(comm, now);
    uint64_t limit_ms = comm->settings.timeout_ms;
    bool is_up = (now - still_since(comm)) / 1000000u >= limit_ms;
    struct awaited first = {0}, silent = {0};
    if (comm->failed != TUTTI_OK)
        return;
    if (!is_up && !is_pressing(comm)) {
        check_stall(comm, now);
        return;
    }
    if (!next_awaited(comm, &first)) {
        if (is_up)
            fail_alone(comm);
        return;
    }
    /* Its own wait is the better reason, and what was answered before may no longer be true. */
    if (!is_pressing(comm) || (is_up && comm->late.impatient != comm->rank)) {
        ask(comm, comm->rank, limit_ms, now);
        return;
    }
    if (!next_silent(comm, &silent)) {
        if (is_up && asked_ms(comm, now) >= answer_ms(comm) + grace_ms(comm))
            fail_of(comm, &first);
    } else if (asked_ms(comm, now) >= answer_ms(comm)) {
        fail_of(comm, &silent);
    }
}
