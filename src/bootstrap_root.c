/* bootstrap_root.c: the root's half of the rendezvous: a lobby where strangers wait briefly, and
 * seats for those who proved the secret.
 *
 * One epoll loop inside the call, no thread. A stranger takes one of BOOTSTRAP_UNAUTH_MAX slots for
 * at most SLOT_MS; garbage ends it at once. When all slots are taken, the oldest one that has said
 * nothing yields to the next arrival after SILENT_MS: a rank sends its first message together with
 * its connection, so silence that long is none of ours, and 64 silent clients delay the job by a
 * tenth of a second, not by two. A rank that is turned away so by mistake tries again.
 *
 * Invariant: only a proved rank can fail the rendezvous (by claiming a seat that is taken, or by
 * disagreeing about the size, or by leaving); then all who are seated, and who come within DOOM_MS,
 * are told the same sentence. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

#define SLOT_MS    2000 /* from connection to proof */
#define SILENT_MS  100  /* until a silent slot may be given to another */
#define DOOM_MS    1000 /* how long latecomers are still told why the rendezvous failed */
#define ANSWER_MS  1000 /* for a few hundred bytes into an empty socket buffer */
#define EVENTS_MAX 64

enum token { TOKEN_LISTENER, TOKEN_SLOT, TOKEN_SEAT };

struct slot {
    int fd; /* -1: free */
    uint64_t since_ms;
    bool greeted; /* its hello was good: now its proof is due */
    uint32_t got;
    uint8_t bytes[AUTH_PROOF_LEN + sizeof(struct join_message)];
    struct auth auth;
    char from[SOCK_TEXT_MAX];
};
_Static_assert(sizeof((struct slot *)0)->bytes >= AUTH_HELLO_LEN, "a slot holds a hello");

struct lobby {
    struct bootstrap *bootstrap;
    const struct meeting *meeting;
    int epoll;
    bool listening; /* the listeners are armed */
    uint32_t slots_used, seated, answered, turned_away;
    uint64_t deadline_ms;
    uint64_t closed_ms; /* until then nobody is let in, unless a slot's descriptor becomes free */
    tutti_status doom;  /* what all are told, once it is not TUTTI_OK */
    char doom_sentence[SENTENCE_MAX];
    char last_refusal[SENTENCE_MAX];
    struct slot slots[BOOTSTRAP_UNAUTH_MAX];
};

static void watch(struct lobby *lobby, int operation, int fd, uint32_t events, enum token token,
                  uint32_t index)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)token << 32 | index};
    int done = epoll_ctl(lobby->epoll, operation, fd, &event);
    if (done != 0 && (errno == ENOMEM || errno == ENOSPC))
        log_at(LOG_LEVEL_WARN, (int)lobby->bootstrap->rank,
               "rendezvous: a connection cannot be watched: %s", strerror(errno));
    else
        must(done == 0);
}

static void arm_listeners(struct lobby *lobby, bool listening)
{
    if (lobby->listening == listening)
        return;
    for (uint32_t i = 0; i < lobby->meeting->listener_count; i++)
        watch(lobby, EPOLL_CTL_MOD, lobby->meeting->listeners[i], listening ? EPOLLIN : 0,
              TOKEN_LISTENER, i);
    lobby->listening = listening;
}

static void drop_slot(struct lobby *lobby, struct slot *slot)
{
    owned_close(slot->fd);
    slot->fd = -1;
    auth_end(&slot->auth);
    lobby->slots_used--;
    lobby->closed_ms = 0;
}

/* Remembered for the sentence of a timeout: a rank with a wrong secret is then not just missing. */
static void turn_away(struct lobby *lobby, struct slot *slot, const char *reason)
{
    lobby->turned_away++;
    snprintf(lobby->last_refusal, sizeof lobby->last_refusal, "%s: %s", slot->from, reason);
    log_at(LOG_LEVEL_INFO, (int)lobby->bootstrap->rank, "rendezvous: turned away %s",
           lobby->last_refusal);
    drop_slot(lobby, slot);
}

static void send_answer(const struct lobby *lobby, int fd, tutti_status status,
                        const struct auth *auth, const char *sentence)
{
    struct answer_message answer = {
        .magic = BOOTSTRAP_MAGIC, .status = bootstrap_told(status), .rank = lobby->bootstrap->rank};
    if (auth && auth_proof(auth, answer.proof) != TUTTI_OK)
        return; /* the rank takes silence for a broken connection and tries again */
    snprintf(answer.sentence, sizeof answer.sentence, "%s", sentence);
    /* a peer that is gone shows on its descriptor */
    (void)sock_send_all(fd, &answer, sizeof answer, clock_ms() + ANSWER_MS, NULL);
}

/* ---- seats ----------------------------------------------------------------------------------- */

/* Tells everyone seated, who leave their places to those who come later and are told then. */
static void doom(struct lobby *lobby, tutti_status status)
{
    if (lobby->doom != TUTTI_OK)
        return;
    lobby->doom = status;
    snprintf(lobby->doom_sentence, sizeof lobby->doom_sentence, "%s", status_sentence());
    uint64_t until = clock_ms() + DOOM_MS;
    if (lobby->deadline_ms > until)
        lobby->deadline_ms = until;
    for (uint32_t r = 0; r < lobby->bootstrap->size; r++) {
        struct seat *seat = &lobby->bootstrap->seats[r];
        if (seat->fd < 0)
            continue;
        send_answer(lobby, seat->fd, status, NULL, lobby->doom_sentence);
        watch(lobby, EPOLL_CTL_DEL, seat->fd, 0, TOKEN_SEAT, r);
        owned_close(seat->fd);
        seat->fd = -1;
        lobby->answered++;
    }
}

/* A root without a rank believes the first: how many they are, and that all are due from now on. */
static tutti_status believe(struct lobby *lobby, const struct join_message *join)
{
    struct bootstrap *bootstrap = lobby->bootstrap;
    tutti_status status = TUTTI_OK;
    if (join->size <= BOOTSTRAP_RANKS_MAX && join->rank < join->size)
        status = bootstrap_take_seats(bootstrap, join->size);
    if (status != TUTTI_OK || bootstrap->size == 0)
        return status;
    bootstrap->witness = join->rank;
    lobby->deadline_ms = clock_ms() + bootstrap->timeout_ms;
    return TUTTI_OK;
}

/* The facts of a proved rank: TUTTI_OK, or what is wrong with them, in words for both sides. */
static tutti_status check_join(struct lobby *lobby, const struct join_message *join)
{
    char other[128];
    const struct bootstrap *bootstrap = lobby->bootstrap;
    if (join->magic != BOOTSTRAP_MAGIC || join->version != BOOTSTRAP_VERSION)
        return fail(TUTTI_ERR_PROTOCOL,
                    "rank %u (host %.63s, pid %u) speaks rendezvous version %u, %s speaks %u: run "
                    "the same release everywhere",
                    join->rank, join->host, join->pid, join->version, bootstrap->root_name,
                    BOOTSTRAP_VERSION);
    tutti_status status = bootstrap->size == 0 ? believe(lobby, join) : TUTTI_OK;
    if (status != TUTTI_OK)
        return status;
    if (bootstrap->size > 0 && join->size != bootstrap->size)
        return fail(TUTTI_ERR_CONNECT,
                    "rank %u (host %.63s, pid %u) says the communicator has %u ranks, %s says %u",
                    join->rank, join->host, join->pid, join->size,
                    seat_text(bootstrap->seats, bootstrap->witness, other), bootstrap->size);
    if (join->rank >= bootstrap->size)
        return fail(TUTTI_ERR_CONNECT, "a process (host %.63s, pid %u) says it is rank %u of %u",
                    join->host, join->pid, join->rank, join->size);
    const struct seat *seat = &bootstrap->seats[join->rank];
    if (seat->fd >= 0 || join->rank == bootstrap->rank)
        return fail(TUTTI_ERR_CONNECT,
                    "two processes say they are rank %u: %s and another (host %.63s, pid %u)",
                    join->rank, seat_text(bootstrap->seats, join->rank, other), join->host,
                    join->pid);
    return TUTTI_OK;
}

static void take_join(struct lobby *lobby, struct slot *slot)
{
    struct join_message join;
    memcpy(&join, slot->bytes + AUTH_PROOF_LEN, sizeof join);
    bootstrap_clean_text(join.host, sizeof join.host);
    if (lobby->doom == TUTTI_OK) {
        tutti_status status = check_join(lobby, &join);
        if (status != TUTTI_OK)
            doom(lobby, status);
    }
    if (lobby->doom != TUTTI_OK) {
        send_answer(lobby, slot->fd, lobby->doom, &slot->auth, lobby->doom_sentence);
        lobby->answered++;
        drop_slot(lobby, slot);
        return;
    }
    struct seat *seat = &lobby->bootstrap->seats[join.rank];
    seat->fd = slot->fd;
    sock_set_patience(seat->fd, BOOTSTRAP_PATIENCE_MS);
    seat->pid = join.pid;
    memcpy(seat->host, join.host, sizeof seat->host);
    watch(lobby, EPOLL_CTL_MOD, seat->fd, EPOLLIN | EPOLLRDHUP, TOKEN_SEAT, join.rank);
    send_answer(lobby, seat->fd, TUTTI_IN_PROGRESS, &slot->auth, "");
    auth_end(&slot->auth);
    slot->fd = -1;
    lobby->slots_used--;
    lobby->seated++;
}

/* A seated rank has nothing to say before all have come: it left. */
static void seat_event(struct lobby *lobby, uint32_t rank)
{
    char who[128], those[200];
    uint32_t missing = bootstrap_guests(lobby->bootstrap) - lobby->seated;
    struct seat *seat = &lobby->bootstrap->seats[rank];
    if (seat->fd < 0 || lobby->doom != TUTTI_OK)
        return;
    seat_text(lobby->bootstrap->seats, rank, who);
    seats_missing(lobby->bootstrap, NULL, those, sizeof those);
    tutti_status status =
        missing == 0
            ? fail(TUTTI_ERR_CONNECT, "%s left the rendezvous: it ended or was aborted", who)
            : fail(TUTTI_ERR_CONNECT,
                   "%s left the rendezvous while %u other rank%s still missing (%s): its time was "
                   "up, it ended or was aborted",
                   who, missing, missing == 1 ? " was" : "s were", those);
    watch(lobby, EPOLL_CTL_DEL, seat->fd, 0, TOKEN_SEAT, rank);
    owned_close(seat->fd);
    seat->fd = -1;
    doom(lobby, status);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void take_hello(struct lobby *lobby, struct slot *slot)
{
    uint8_t hello[AUTH_HELLO_LEN];
    tutti_status status = auth_start(&slot->auth, lobby->meeting->key, lobby->meeting->job, true);
    tutti_status taken = TUTTI_OK;
    if (status == TUTTI_OK)
        taken = auth_take_hello(&slot->auth, slot->bytes);
    if (status == TUTTI_OK)
        status = auth_hello(&slot->auth, hello);
    /* a rank of another job is told so, by our hello; garbage is told nothing */
    if (status == TUTTI_OK && (taken == TUTTI_OK || taken == TUTTI_ERR_AUTH))
        status = sock_send_all(slot->fd, hello, sizeof hello, clock_ms() + ANSWER_MS,
                               lobby->bootstrap->cancel);
    if (status != TUTTI_OK || taken != TUTTI_OK) {
        turn_away(lobby, slot, status_sentence());
        return;
    }
    slot->greeted = true;
    slot->got = 0;
}

static void take_proof(struct lobby *lobby, struct slot *slot)
{
    if (auth_check_proof(&slot->auth, slot->bytes) == TUTTI_OK) {
        take_join(lobby, slot);
        return;
    }
    char reason[80];
    snprintf(reason, sizeof reason, "its job secret is another than %s's",
             lobby->bootstrap->root_name);
    send_answer(lobby, slot->fd, TUTTI_ERR_AUTH, NULL, reason);
    turn_away(lobby, slot, reason);
}

/* Reads what is there; nothing beyond the message that is due is ever read. */
static void slot_event(struct lobby *lobby, struct slot *slot)
{
    while (slot->fd >= 0) {
        uint32_t want =
            slot->greeted ? AUTH_PROOF_LEN + sizeof(struct join_message) : AUTH_HELLO_LEN;
        ssize_t got = recv(slot->fd, slot->bytes + slot->got, want - slot->got, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (got <= 0) {
            drop_slot(lobby, slot);
            return;
        }
        slot->got += (uint32_t)got;
        if (slot->got < want)
            continue;
        if (!slot->greeted) {
            take_hello(lobby, slot);
            continue;
        }
        take_proof(lobby, slot);
        return;
    }
}

static struct slot *free_slot(struct lobby *lobby)
{
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX; i++) {
        if (lobby->slots[i].fd < 0)
            return &lobby->slots[i];
    }
    return NULL;
}

/* The oldest slot that never spoke, NULL if all have. */
static struct slot *oldest_silent(struct lobby *lobby)
{
    struct slot *oldest = NULL;
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX; i++) {
        struct slot *slot = &lobby->slots[i];
        if (slot->fd >= 0 && !slot->greeted && (!oldest || slot->since_ms < oldest->since_ms))
            oldest = slot;
    }
    return oldest;
}

/* As many as there are slots; the rest is still there at the next look, so that whoever connects
 * and closes in a loop holds nobody up. */
static tutti_status accept_some(struct lobby *lobby, int listener)
{
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX; i++) {
        struct slot *slot = free_slot(lobby);
        if (slot == NULL) {
            struct slot *silent = oldest_silent(lobby);
            if (silent == NULL || silent->since_ms + SILENT_MS > clock_ms())
                return TUTTI_OK;
            turn_away(lobby, silent, "it connected and said nothing");
            slot = silent;
        }
        struct sock_address from;
        int fd = -1;
        tutti_status status = sock_accept(listener, &fd, &from);
        if (status != TUTTI_OK || fd < 0)
            return status;
        sock_tune(fd);
        slot->fd = fd;
        slot->since_ms = clock_ms();
        slot->greeted = false;
        slot->got = 0;
        sock_text(&from, slot->from);
        lobby->slots_used++;
        watch(lobby, EPOLL_CTL_ADD, fd, EPOLLIN, TOKEN_SLOT, (uint32_t)(slot - lobby->slots));
        slot_event(lobby, slot); /* its hello is usually here already */
    }
    return TUTTI_OK;
}

/* Drops what is overdue, arms the listeners if there is room; returns when to look again. */
static uint64_t tend_slots(struct lobby *lobby, uint64_t now)
{
    uint64_t next = lobby->deadline_ms;
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX && lobby->slots_used; i++) {
        struct slot *slot = &lobby->slots[i];
        if (slot->fd < 0)
            continue;
        if (slot->since_ms + SLOT_MS <= now)
            turn_away(lobby, slot, "it did not finish the handshake within 2 s");
        else if (slot->since_ms + SLOT_MS < next)
            next = slot->since_ms + SLOT_MS;
    }
    struct slot *silent = oldest_silent(lobby);
    bool full = lobby->slots_used == BOOTSTRAP_UNAUTH_MAX;
    bool room = !full || (silent && silent->since_ms + SILENT_MS <= now);
    arm_listeners(lobby, room && now >= lobby->closed_ms);
    if (!room && silent && silent->since_ms + SILENT_MS < next)
        next = silent->since_ms + SILENT_MS;
    return next;
}

/* ---- the lobby ------------------------------------------------------------------------------- */

static tutti_status missing_ranks(const struct lobby *lobby)
{
    char missing[200], away[220] = "";
    uint32_t size = lobby->bootstrap->size;
    seats_missing(lobby->bootstrap, NULL, missing, sizeof missing);
    if (lobby->turned_away)
        snprintf(away, sizeof away, "; %u connection%s turned away, the last from %.140s",
                 lobby->turned_away, lobby->turned_away == 1 ? " was" : "s were",
                 lobby->last_refusal);
    return fail(TUTTI_ERR_CONNECT,
                "%u of %u ranks did not come to the rendezvous within %llu ms: %s%s; see that they "
                "run and can reach %s, or raise TUTTI_MEET_TIMEOUT_MS",
                bootstrap_guests(lobby->bootstrap) - lobby->seated, size,
                (unsigned long long)lobby->bootstrap->timeout_ms, missing, away,
                lobby->bootstrap->root_name);
}

/* Once, when it takes long. */
static void tell_missing(struct lobby *lobby, uint64_t now, uint64_t *next)
{
    struct bootstrap *bootstrap = lobby->bootstrap;
    char missing[200];
    if (lobby->doom != TUTTI_OK || !bootstrap_stalls(bootstrap, lobby->deadline_ms, now, next))
        return;
    seats_missing(bootstrap, NULL, missing, sizeof missing);
    log_at(LOG_LEVEL_WARN, bootstrap->rank < bootstrap->size ? (int)bootstrap->rank : -1,
           "rendezvous: %u of %u ranks have not come for %llu ms: %s (TUTTI_STALL_MS; it gives up "
           "after %llu)",
           bootstrap_guests(bootstrap) - lobby->seated, bootstrap->size,
           (unsigned long long)bootstrap->stall_ms, missing,
           (unsigned long long)bootstrap->timeout_ms);
}

/* Nobody more can be let in. */
static tutti_status no_descriptors(const struct lobby *lobby, tutti_status status)
{
    char cause[SENTENCE_MAX];
    struct rlimit limit = {0};
    if (status != TUTTI_ERR_NOMEM)
        return status;
    snprintf(cause, sizeof cause, "%s", status_sentence());
    getrlimit(RLIMIT_NOFILE, &limit);
    return fail(status,
                "%s has no descriptors for the rendezvous, which needs one for each of %u ranks: "
                "raise their limit (ulimit -n), now %llu: %.200s",
                lobby->bootstrap->root_name, lobby->bootstrap->size,
                (unsigned long long)limit.rlim_cur, cause);
}

static bool finished(const struct lobby *lobby)
{
    uint32_t others = bootstrap_guests(lobby->bootstrap);
    if (lobby->bootstrap->size == 0) /* nobody has said how many will come */
        return false;
    return lobby->doom != TUTTI_OK ? lobby->answered >= others : lobby->seated == others;
}

static tutti_status serve(struct lobby *lobby)
{
    struct epoll_event events[EVENTS_MAX];
    while (!finished(lobby)) {
        uint64_t now = clock_ms();
        tutti_status wanted = clock_check(lobby->bootstrap->cancel);
        if (wanted != TUTTI_OK)
            return wanted;
        if (now >= lobby->deadline_ms) {
            if (lobby->doom == TUTTI_OK)
                doom(lobby, missing_ranks(lobby));
            break;
        }
        uint64_t next = tend_slots(lobby, now);
        tell_missing(lobby, now, &next);
        int count = epoll_wait(lobby->epoll, events, EVENTS_MAX,
                               clock_left_ms(next, lobby->bootstrap->cancel));
        if (count < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: epoll_wait");
        for (int i = 0; i < count; i++) {
            uint32_t index = (uint32_t)events[i].data.u64;
            tutti_status status = TUTTI_OK;
            switch ((enum token)(events[i].data.u64 >> 32)) {
            case TOKEN_LISTENER:
                status = accept_some(lobby, lobby->meeting->listeners[index]);
                break;
            case TOKEN_SLOT:
                slot_event(lobby, &lobby->slots[index]);
                break;
            case TOKEN_SEAT:
                seat_event(lobby, index);
                break;
            }
            if (status != TUTTI_OK && lobby->doom != TUTTI_OK)
                lobby->closed_ms = lobby->deadline_ms;
            else if (status != TUTTI_OK)
                doom(lobby, no_descriptors(lobby, status));
        }
    }
    if (lobby->doom == TUTTI_OK)
        return TUTTI_OK;
    status_set_sentence(lobby->doom_sentence);
    return lobby->doom;
}

tutti_status bootstrap_root_join(struct bootstrap *bootstrap, const struct meeting *meeting,
                                 uint64_t deadline_ms)
{
    struct lobby *lobby = calloc(1, sizeof *lobby);
    if (lobby == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory to serve the rendezvous");
    *lobby = (struct lobby){
        .bootstrap = bootstrap, .meeting = meeting, .listening = true, .deadline_ms = deadline_ms};
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX; i++)
        lobby->slots[i].fd = -1;
    if (bootstrap->rank < bootstrap->size) {
        struct seat *own = &bootstrap->seats[bootstrap->rank];
        own->pid = (uint32_t)getpid();
        gethostname(own->host, sizeof own->host - 1);
    }
    tutti_status status;
    lobby->epoll = owned_add(epoll_create1(EPOLL_CLOEXEC));
    if (lobby->epoll < 0) {
        status = fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: epoll_create1");
        free(lobby);
        return status;
    }
    for (uint32_t i = 0; i < meeting->listener_count; i++)
        watch(lobby, EPOLL_CTL_ADD, meeting->listeners[i], EPOLLIN, TOKEN_LISTENER, i);
    status = serve(lobby);
    if (status != TUTTI_OK)
        doom(lobby, status); /* a failure of our own is told as well; otherwise told already */
    for (uint32_t r = 0; status == TUTTI_OK && r < bootstrap->size; r++) {
        if (r != bootstrap->rank)
            send_answer(lobby, bootstrap->seats[r].fd, TUTTI_OK, NULL, "");
    }
    for (int i = 0; i < BOOTSTRAP_UNAUTH_MAX; i++) {
        if (lobby->slots[i].fd >= 0)
            drop_slot(lobby, &lobby->slots[i]);
    }
    owned_close(lobby->epoll);
    free(lobby);
    return status;
}
