/* bootstrap_leaf.c: every other rank's half of the rendezvous: find the root, prove the secret,
 * wait.
 *
 * The root may listen at several places (addresses of a multi-homed host, or one of a few
 * successive ports), not all reachable and not all its own: a stranger may sit at one and be
 * silent. So the places are tried in order but not in turn: the next starts as soon as one fails,
 * or STAGGER_MS after the last began, and the first that answers with a hello of this job wins (the
 * idea of RFC 8305). A place that fails is tried again, with a growing pause, until the deadline:
 * the root may not listen yet. Only an answer from a place that knows the job ends the search, or
 * that nobody is behind a unique id any more. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

#define STAGGER_MS   250
#define CONNECT_MS   3000 /* then anew: the kernel's own retries become rare after that */
#define PAUSE_MIN_MS 20
#define PAUSE_MAX_MS 500
#define HELLO_MS     2000
#define DESERTED_MS  5000 /* until an id's sockets that all refuse are gone for good */

#define PLACES_TEXT_MAX 300

struct attempt {
    int fd; /* -1: not under way */
    bool connected;
    uint64_t since_ms, start_ms; /* of this try; of the next one */
    uint64_t refused_ms;         /* since when every try was refused; 0: the last was not */
    uint32_t pause_ms, got;
    struct auth auth;
    uint8_t hello[AUTH_HELLO_LEN];
    char state[160]; /* what became of the last try */
};

struct search {
    struct bootstrap *bootstrap;
    const struct meeting *meeting;
    struct attempt attempts[MEETING_PLACES_MAX];
    bool starved; /* the last try had no descriptor */
    uint64_t deadline_ms;
};

static void attempt_failed(struct search *search, uint32_t index, const char *why)
{
    struct attempt *attempt = &search->attempts[index];
    uint64_t now = clock_ms();
    if (attempt->fd >= 0)
        owned_close(attempt->fd);
    attempt->fd = -1;
    snprintf(attempt->state, sizeof attempt->state, "%s", why);
    attempt->pause_ms = attempt->pause_ms ? attempt->pause_ms * 2 : PAUSE_MIN_MS;
    if (attempt->pause_ms > PAUSE_MAX_MS)
        attempt->pause_ms = PAUSE_MAX_MS;
    attempt->start_ms = now + attempt->pause_ms;
    /* the next place need not wait for its turn */
    if (index + 1 < search->meeting->place_count && search->attempts[index + 1].start_ms > now)
        search->attempts[index + 1].start_ms = now;
}

/* After a connection could not be made, with its error. */
static void note_refusal(struct attempt *attempt, int error)
{
    if (error != ECONNREFUSED)
        attempt->refused_ms = 0;
    else if (attempt->refused_ms == 0)
        attempt->refused_ms = clock_ms();
}

static void attempt_start(struct search *search, uint32_t index)
{
    struct attempt *attempt = &search->attempts[index];
    tutti_status status = sock_connect_start(&search->meeting->places[index], &attempt->fd);
    search->starved = status == TUTTI_ERR_NOMEM;
    if (status != TUTTI_OK) {
        note_refusal(attempt, errno);
        attempt->fd = -1;
        attempt_failed(search, index, status_sentence());
        return;
    }
    attempt->connected = false;
    attempt->got = 0;
    attempt->since_ms = clock_ms();
}

static void attempt_connected(struct search *search, uint32_t index)
{
    struct attempt *attempt = &search->attempts[index];
    uint8_t hello[AUTH_HELLO_LEN];
    tutti_status status = sock_connect_finish(attempt->fd, &search->meeting->places[index]);
    note_refusal(attempt, status == TUTTI_OK ? 0 : errno);
    if (status == TUTTI_OK) {
        sock_tune(attempt->fd);
        status = auth_start(&attempt->auth, search->meeting->key, search->meeting->job, false);
    }
    if (status == TUTTI_OK)
        status = auth_hello(&attempt->auth, hello);
    if (status == TUTTI_OK)
        status = sock_send_all(attempt->fd, hello, sizeof hello, clock_ms() + HELLO_MS,
                               search->meeting->cancel);
    if (status != TUTTI_OK) {
        attempt_failed(search, index, status_sentence());
        return;
    }
    attempt->connected = true;
    snprintf(attempt->state, sizeof attempt->state,
             "connected, but no answer (%s is not ready, or a stranger listens there)",
             search->bootstrap->root_name);
}

/* true: this place is the root's. */
static bool attempt_readable(struct search *search, uint32_t index)
{
    struct attempt *attempt = &search->attempts[index];
    while (attempt->got < AUTH_HELLO_LEN) {
        ssize_t got =
            recv(attempt->fd, attempt->hello + attempt->got, AUTH_HELLO_LEN - attempt->got, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return false;
        if (got <= 0) {
            attempt_failed(search, index,
                           got == 0 ? "it closed the connection without a word" : strerror(errno));
            return false;
        }
        attempt->got += (uint32_t)got;
    }
    if (auth_take_hello(&attempt->auth, attempt->hello) == TUTTI_OK)
        return true;
    attempt_failed(search, index, status_sentence());
    return false;
}

static uint64_t start_due(struct search *search, uint64_t now)
{
    uint64_t next = search->deadline_ms;
    for (uint32_t i = 0; i < search->meeting->place_count; i++) {
        struct attempt *attempt = &search->attempts[i];
        if (attempt->fd >= 0 && !attempt->connected && attempt->since_ms + CONNECT_MS <= now) {
            note_refusal(attempt, ETIMEDOUT);
            attempt_failed(search, i, "no answer to the connection request");
        }
        if (attempt->fd < 0 && attempt->start_ms <= now)
            attempt_start(search, i);
        uint64_t due = attempt->fd < 0       ? attempt->start_ms
                       : !attempt->connected ? attempt->since_ms + CONNECT_MS
                                             : search->deadline_ms;
        next = due < next ? due : next;
    }
    return next;
}

/* The sockets of an id are there before it is: when all refuse, they are gone. (At an address that
 * is agreed on rank 0 may not listen yet.) */
static bool is_deserted(const struct search *search, uint64_t now)
{
    for (uint32_t i = 0; i < search->meeting->place_count; i++) {
        uint64_t since = search->attempts[i].refused_ms;
        if (since == 0 || now < since + DESERTED_MS)
            return false;
    }
    return search->meeting->opened;
}

/* Not even one descriptor is left: more time finds nobody. */
static bool is_starved(const struct search *search)
{
    bool starved = search->starved;
    for (uint32_t i = 0; i < search->meeting->place_count; i++)
        starved = starved && search->attempts[i].fd < 0;
    return starved;
}

/* What came of each place so far. */
static void describe_places(const struct search *search, char text[PLACES_TEXT_MAX])
{
    char place[SOCK_TEXT_MAX];
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < search->meeting->place_count && used < PLACES_TEXT_MAX; i++) {
        if (search->attempts[i].state[0] == 0)
            continue;
        int wrote =
            snprintf(text + used, PLACES_TEXT_MAX - used, "%s%s: %s", used ? "; " : "",
                     sock_text(&search->meeting->places[i], place), search->attempts[i].state);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

static tutti_status nobody(const struct search *search)
{
    const struct bootstrap *bootstrap = search->bootstrap;
    char text[PLACES_TEXT_MAX];
    describe_places(search, text);
    return fail(TUTTI_ERR_CONNECT,
                "rank %u of %u did not find %s within %llu ms: %s; see that %s and can be reached",
                bootstrap->rank, bootstrap->size, bootstrap->root_name,
                (unsigned long long)bootstrap->timeout_ms, text,
                search->meeting->any_root
                    ? "the process that made the id runs, takes part or serves it,"
                    : "rank 0 runs");
}

static tutti_status deserted(const struct search *search)
{
    const struct bootstrap *bootstrap = search->bootstrap;
    char text[PLACES_TEXT_MAX];
    describe_places(search, text);
    return fail(TUTTI_ERR_CONNECT, "rank %u of %u finds nobody %s: %s", bootstrap->rank,
                bootstrap->size,
                search->meeting->any_root
                    ? "behind the unique id: the process that made it has ended, or the id has "
                      "made its communicator"
                    : "where rank 0 has listened: it or its rendezvous has ended, or a firewall "
                      "refuses for it",
                text);
}

static tutti_status starved(const struct search *search)
{
    const struct bootstrap *bootstrap = search->bootstrap;
    char text[PLACES_TEXT_MAX];
    describe_places(search, text);
    return fail(TUTTI_ERR_NOMEM, "rank %u of %u has nothing to look for %s with: %s",
                bootstrap->rank, bootstrap->size, bootstrap->root_name, text);
}

/* Once, when it takes long. */
static void search_tell(struct search *search, uint64_t now, uint64_t *next)
{
    struct bootstrap *bootstrap = search->bootstrap;
    char text[PLACES_TEXT_MAX];
    if (!bootstrap_stalls(bootstrap, search->deadline_ms, now, next))
        return;
    describe_places(search, text);
    log_at(LOG_LEVEL_WARN, (int)bootstrap->rank,
           "rendezvous: has not found %s for %llu ms (TUTTI_STALL_MS; it gives up after %llu): %s",
           bootstrap->root_name, (unsigned long long)bootstrap->stall_ms,
           (unsigned long long)bootstrap->timeout_ms, text);
}

/* Searches until some place has said hello; *winner is its index, its descriptor stays open. */
static tutti_status find_root(struct search *search, uint32_t *winner)
{
    const struct cancel *cancel = search->meeting->cancel;
    for (;;) {
        struct pollfd fds[MEETING_PLACES_MAX];
        uint64_t now = clock_ms();
        tutti_status wanted = clock_check(cancel);
        if (wanted != TUTTI_OK)
            return wanted;
        if (now >= search->deadline_ms)
            return nobody(search);
        if (is_deserted(search, now))
            return deserted(search);
        uint64_t next = start_due(search, now);
        if (is_starved(search))
            return starved(search);
        search_tell(search, now, &next);
        for (uint32_t i = 0; i < search->meeting->place_count; i++) {
            const struct attempt *attempt = &search->attempts[i];
            fds[i] =
                (struct pollfd){.fd = attempt->fd, .events = attempt->connected ? POLLIN : POLLOUT};
        }
        int count = poll(fds, search->meeting->place_count, clock_left_ms(next, cancel));
        if (count < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: poll");
        for (uint32_t i = 0; count > 0 && i < search->meeting->place_count; i++) {
            if (fds[i].fd < 0 || fds[i].revents == 0)
                continue;
            if (!search->attempts[i].connected) {
                attempt_connected(search, i);
            } else if (attempt_readable(search, i)) {
                *winner = i;
                return TUTTI_OK;
            }
        }
    }
}

static tutti_status read_answer(const struct bootstrap *bootstrap, int fd, uint64_t deadline_ms,
                                struct answer_message *answer)
{
    tutti_status status = sock_recv_all(fd, answer, sizeof *answer, deadline_ms, bootstrap->cancel);
    if (status != TUTTI_OK)
        return status;
    if (answer->magic != BOOTSTRAP_MAGIC)
        return fail(TUTTI_ERR_PROTOCOL, "%s at %s sent an answer that is none",
                    bootstrap->root_name, bootstrap->root_text);
    bootstrap_clean_text(answer->sentence, sizeof answer->sentence);
    return TUTTI_OK;
}

tutti_status bootstrap_refused(const struct bootstrap *bootstrap,
                               const struct answer_message *answer)
{
    if (answer->status == TUTTI_ERR_AUTH)
        return fail(TUTTI_ERR_AUTH,
                    "%s at %s refuses rank %u: %.300s; give all ranks the same TUTTI_SECRET or "
                    "TUTTI_SECRET_FILE",
                    bootstrap->root_name, bootstrap->root_text, bootstrap->rank, answer->sentence);
    if (answer->status <= TUTTI_IN_PROGRESS || answer->status > TUTTI_ERR_INTERNAL)
        return fail(TUTTI_ERR_PROTOCOL, "%s at %s answered with the unknown status %d",
                    bootstrap->root_name, bootstrap->root_text, answer->status);
    status_set_sentence(answer->sentence);
    return (tutti_status)answer->status;
}

/* Proof and facts; *seated when the root took them. TUTTI_OK without *seated: the connection broke
 * before an answer (the root was crowded), so search again. */
static tutti_status introduce(struct bootstrap *bootstrap, const struct auth *auth, int fd,
                              uint64_t deadline_ms, bool *seated)
{
    struct {
        uint8_t proof[AUTH_PROOF_LEN];
        struct join_message join;
    } message = {.join = {.magic = BOOTSTRAP_MAGIC,
                          .version = BOOTSTRAP_VERSION,
                          .rank = bootstrap->rank,
                          .size = bootstrap->size,
                          .pid = (uint32_t)getpid()}};
    struct answer_message answer;
    *seated = false;
    gethostname(message.join.host, sizeof message.join.host - 1);
    tutti_status status = auth_proof(auth, message.proof);
    if (status != TUTTI_OK)
        return status;
    if (sock_send_all(fd, &message, sizeof message, deadline_ms, bootstrap->cancel) != TUTTI_OK)
        return TUTTI_OK;
    status = read_answer(bootstrap, fd, deadline_ms, &answer);
    if (status == TUTTI_ERR_PROTOCOL)
        return status;
    if (status != TUTTI_OK)
        return TUTTI_OK;
    bootstrap_name_root(bootstrap, answer.rank);
    if (answer.status != TUTTI_IN_PROGRESS)
        return bootstrap_refused(bootstrap, &answer);
    if (auth_check_proof(auth, answer.proof) != TUTTI_OK)
        return fail(TUTTI_ERR_AUTH,
                    "who answers as %s at %s does not know the job secret: it is a stranger",
                    bootstrap->root_name, bootstrap->root_text);
    *seated = true;
    return TUTTI_OK;
}

static tutti_status await_all(struct bootstrap *bootstrap, uint64_t deadline_ms)
{
    struct answer_message answer;
    char cause[SENTENCE_MAX];
    tutti_status status =
        read_answer(bootstrap, bootstrap->fd, deadline_ms + BOOTSTRAP_GRACE_MS, &answer);
    if (status == TUTTI_ERR_PROTOCOL)
        return status;
    if (status != TUTTI_OK && clock_ms() >= deadline_ms)
        return fail(TUTTI_ERR_CONNECT,
                    "rank %u came to %s at %s, but not all of the %u ranks did within %llu ms; "
                    "%s's error names the missing ones",
                    bootstrap->rank, bootstrap->root_name, bootstrap->root_text, bootstrap->size,
                    (unsigned long long)bootstrap->timeout_ms, bootstrap->root_name);
    if (status != TUTTI_OK) {
        snprintf(cause, sizeof cause, "%s", status_sentence());
        return fail(TUTTI_ERR_CONNECT,
                    "%s at %s went away while rank %u waited for the other ranks: %.250s",
                    bootstrap->root_name, bootstrap->root_text, bootstrap->rank, cause);
    }
    return answer.status == TUTTI_OK ? TUTTI_OK : bootstrap_refused(bootstrap, &answer);
}

tutti_status bootstrap_leaf_join(struct bootstrap *bootstrap, const struct meeting *meeting,
                                 uint64_t deadline_ms)
{
    struct search search = {.bootstrap = bootstrap, .meeting = meeting, .deadline_ms = deadline_ms};
    tutti_status status = TUTTI_OK;
    bool seated = false;
    must(meeting->place_count > 0);
    for (uint32_t i = 0; i < meeting->place_count; i++) {
        search.attempts[i].fd = -1;
        search.attempts[i].start_ms = clock_ms() + (uint64_t)i * STAGGER_MS;
    }
    while (status == TUTTI_OK && !seated) {
        uint32_t winner = 0;
        status = find_root(&search, &winner);
        if (status != TUTTI_OK)
            break;
        struct attempt *found = &search.attempts[winner];
        sock_text(&meeting->places[winner], bootstrap->root_text);
        status = introduce(bootstrap, &found->auth, found->fd, deadline_ms, &seated);
        if (seated) {
            bootstrap->fd = found->fd;
            sock_set_patience(bootstrap->fd, BOOTSTRAP_PATIENCE_MS);
            found->fd = -1;
        } else {
            attempt_failed(&search, winner, "it broke off the handshake");
        }
    }
    for (uint32_t i = 0; i < meeting->place_count; i++) {
        if (search.attempts[i].fd >= 0)
            owned_close(search.attempts[i].fd);
        auth_end(&search.attempts[i].auth);
    }
    return status == TUTTI_OK ? await_all(bootstrap, deadline_ms) : status;
}
