/* tcp_connect.c: how the sockets of a link come to be.
 * The idea: the lower rank of a pair dials. It tries the peer's addresses in turn, those that
 * share a subnet with it first, with one socket each; where the peer answers first, there all
 * sockets of the link go. A connected socket proves the secret in both directions and says which
 * lane of which pair it is.
 * Only when the listener has accepted all of them does the dialer say GO: so both sides always
 * agree which attempt became the link, and giving one up loses nothing.
 *
 * Whose fault is silence? A full backlog, a rank that computes, a dead interface and a dead host
 * all look alike. An address that does not answer the SYN is left for the next one within
 * DIAL_MS; one that answered is left for the next one, too, after seconds, but its socket stays,
 * and while it does the connect timeout begins anew: who is there and silent is late, and how long
 * that may last is not for this file to say. A listener that was there when the address was handed
 * out and now refuses belonged to a process that has ended: a few rounds of that end the link
 * early. The higher rank, which only waits, knocks at the dialer's listener for the same reasons,
 * says who waits, and watches the socket for its end.
 *
 * A socket that was made and closed stays in the accept queue of a peer that is late, and once that
 * is full all who come are met with silence. So a rank has one socket there for each address,
 * however late the peer is, and opens the others of the link when it has answered.
 *
 * Invariant: a link is up on both sides over the same attempt, or on neither. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/tcp.h"

#define DIAL_MS      300  /* for a SYN to be answered; doubled with every round, thrice at most */
#define PATIENCE_MS  2000 /* for an established peer before its other addresses; doubled alike */
#define RETRY_MS     50   /* between rounds, growing to */
#define RETRY_MAX_MS 500
#define KNOCK_MS     1000 /* before a knock, or another one, at a dialer that does not dial */
#define DEAD_ROUNDS  3    /* rounds without an answer, one of them refused: the process is gone */

/* ---- links ------------------------------------------------------------------------------------
 */

static bool dials(const struct tcp_link *link)
{
    return link->tcp->config->rank < link->peer;
}

/* Room for the dialer's candidates, or its lanes and the control socket; the listener's knock. */
static uint32_t hand_room(const struct tcp_link *link)
{
    uint32_t sockets = link->tcp->config->lanes + 1;
    if (!dials(link))
        return 1;
    return sockets > TCP_CANDIDATES_MAX ? sockets : TCP_CANDIDATES_MAX;
}

tutti_status tcp_link_get(struct tcp *tcp, uint32_t peer, struct tcp_link **out)
{
    if (tcp->links[peer]) {
        *out = tcp->links[peer];
        return TUTTI_OK;
    }
    uint32_t lanes = tcp->config->lanes;
    size_t room = TCP_BUFFER_LEN + TCP_WINDOW_LEN;
    struct tcp_link *link = calloc(1, sizeof *link + lanes * sizeof *link->lanes);
    if (!link)
        return fail(TUTTI_ERR_NOMEM, "no memory for the link to %s", tcp_peer_name(tcp, peer));
    link->tcp = tcp;
    link->peer = peer;
    link->hands = calloc(hand_room(link), sizeof *link->hands);
    link->buffers = aligned_alloc(64, lanes * room);
    if (!link->hands || !link->buffers) {
        free(link->hands);
        free(link->buffers);
        free(link);
        return fail(TUTTI_ERR_NOMEM, "no memory for the link to %s", tcp_peer_name(tcp, peer));
    }
    for (uint32_t i = 0; i < hand_room(link); i++)
        link->hands[i] = (struct tcp_hand){.source.kind = TCP_HAND, .fd = -1};
    for (uint32_t i = 0; i < lanes; i++)
        link->lanes[i] = (struct tcp_lane){.source.kind = TCP_LANE,
                                           .fd = -1,
                                           .link = link,
                                           .index = i,
                                           .window = link->buffers + i * room,
                                           .buffer = link->buffers + i * room + TCP_WINDOW_LEN};
    link->control.source.kind = TCP_CONTROL;
    link->control.fd = -1;
    link->next = tcp->all;
    link->prev = &tcp->all;
    if (link->next)
        link->next->prev = &link->next;
    tcp->all = link;
    tcp->links[peer] = link;
    *out = link;
    return TUTTI_OK;
}

static void close_hand(struct tcp_link *link, struct tcp_hand *hand)
{
    tcp_close_fd(link->tcp, &hand->fd);
    hand->stage = TCP_STAGE_NONE;
    auth_end(&hand->auth);
}

static void close_hands(struct tcp_link *link)
{
    for (uint32_t i = 0; link->hands && i < hand_room(link); i++)
        close_hand(link, &link->hands[i]);
    link->chosen = false;
}

void tcp_link_drop_attempt(struct tcp_link *link)
{
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++)
        tcp_close_fd(link->tcp, &link->lanes[i].fd);
    tcp_close_fd(link->tcp, &link->control.fd);
    link->control.have = 0;
}

void tcp_link_free(struct tcp_link *link)
{
    close_hands(link);
    tcp_link_drop_attempt(link);
    link->tcp->links[link->peer] = NULL;
    *link->prev = link->next;
    if (link->next)
        link->next->prev = link->prev;
    free(link->hands);
    free(link->buffers);
    free(link);
}

/* All sockets are in place on both sides. Lanes wait for ever for a peer that computes and does not
 * read; that its host is gone is noticed by the control socket, which hardly ever has data under
 * way. */
static void link_up(struct tcp_link *link)
{
    char text[SOCK_TEXT_MAX];
    link->state = TCP_LINK_UP;
    close_hands(link);
    free(link->hands);
    link->hands = NULL;
    log_at(LOG_LEVEL_DEBUG, (int)link->tcp->config->rank, "tcp: link to %s at %s is up",
           tcp_peer_name(link->tcp, link->peer), sock_text(&link->address, text));
    link->control.source.readable = link->control.source.writable = true;
    link->tcp->attention[TCP_CONTROL] = true;
    tcp_control_flush(link);
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        lane->source.readable = lane->source.writable = true;
        sock_set_patience(lane->fd, 0);
        if (link->state == TCP_LINK_UP)
            tcp_lane_send(lane);
    }
}

void tcp_link_go(struct tcp_link *link)
{
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++) {
        if (link->lanes[i].fd < 0) {
            tcp_link_drop_attempt(link);
            return;
        }
    }
    link_up(link);
}

/* ---- one socket's handshake -------------------------------------------------------------------
 */

void tcp_job_of(const struct tcp *tcp, const uint8_t nonce[8], uint8_t job[16])
{
    /* The listener's nonce: an address that by chance belongs to another rank, or to a later
     * process, is told apart at the hello. */
    tcp_put64(job, tcp->config->comm_id);
    memcpy(job + 8, nonce, 8);
}

/* Writes and reads what the stage needs: TUTTI_OK when it has it all. */
tutti_status tcp_hand_move(struct tcp_hand *hand)
{
    while (hand->out_begin < hand->out_end) {
        ssize_t n = send(hand->fd, hand->out + hand->out_begin, hand->out_end - hand->out_begin,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return TUTTI_IN_PROGRESS;
        if (n < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_CONNECT, "handshake");
        hand->out_begin += n > 0 ? (uint32_t)n : 0;
    }
    while (hand->have < hand->want) {
        ssize_t n = recv(hand->fd, hand->in + hand->have, hand->want - hand->have, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return TUTTI_IN_PROGRESS;
        if (n == 0)
            return fail(TUTTI_ERR_CONNECT, "the other side closed during the handshake");
        if (n < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_CONNECT, "handshake");
        hand->have += n > 0 ? (uint32_t)n : 0;
    }
    return TUTTI_OK;
}

void tcp_hand_next(struct tcp_hand *hand, enum tcp_stage stage, uint32_t say, uint32_t want)
{
    hand->stage = stage;
    hand->out_begin = 0;
    hand->out_end = say;
    hand->have = 0;
    hand->want = want;
}

static void write_join(const struct tcp_link *link, uint32_t lane, uint8_t out[TCP_JOIN_LEN])
{
    tcp_put32(out, TCP_MAGIC);
    tcp_put32(out + 4, TCP_VERSION);
    tcp_put32(out + 8, link->tcp->config->rank);
    tcp_put32(out + 12, link->peer);
    tcp_put32(out + 16, lane);
    tcp_put32(out + 20, link->tcp->config->lanes);
    tcp_put64(out + 24, link->attempt);
}

static tutti_status dial_connected(struct tcp_link *link, struct tcp_hand *hand)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(hand->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error != 0) {
        char text[SOCK_TEXT_MAX];
        link->refusals += error == ECONNREFUSED;
        errno = error;
        return fail_errno(TUTTI_ERR_CONNECT, "connect to %s", sock_text(&hand->address, text));
    }
    tutti_status status = sock_connect_finish(hand->fd, &hand->address);
    if (status != TUTTI_OK)
        return status;
    link->refusals = link->dead_rounds = 0;
    sock_tune(hand->fd);
    uint8_t job[16];
    tcp_job_of(link->tcp, link->nonce, job);
    status = auth_start(&hand->auth, link->tcp->secret, job, false);
    if (status == TUTTI_OK)
        status = auth_hello(&hand->auth, hand->out);
    tcp_hand_next(hand, TCP_STAGE_HELLO, AUTH_HELLO_LEN, AUTH_HELLO_LEN + AUTH_PROOF_LEN);
    return status;
}

static tutti_status dial_hello(struct tcp_link *link, struct tcp_hand *hand, uint32_t lane)
{
    tutti_status status = auth_take_hello(&hand->auth, hand->in);
    if (status != TUTTI_OK)
        return status;
    status = auth_check_proof(&hand->auth, hand->in + AUTH_HELLO_LEN);
    if (status != TUTTI_OK) {
        /* It is the right listener and knows another secret: no other address will help. */
        tcp_link_end(link, status, "connection to %s: %s", tcp_peer_name(link->tcp, link->peer),
                     status_sentence());
        return status;
    }
    status = auth_proof(&hand->auth, hand->out);
    auth_end(&hand->auth);
    if (!dials(link)) {
        write_join(link, link->tcp->config->lanes + 1, hand->out + AUTH_PROOF_LEN);
        tcp_hand_next(hand, TCP_STAGE_WATCH, AUTH_PROOF_LEN + TCP_JOIN_LEN, 1);
        return status; /* nothing comes but the end */
    }
    if (!link->chosen)
        link->attempt = ++link->tcp->attempts;
    write_join(link, lane, hand->out + AUTH_PROOF_LEN);
    tcp_hand_next(hand, TCP_STAGE_ACCEPT, AUTH_PROOF_LEN + TCP_JOIN_LEN, TCP_ACCEPT_LEN);
    return status;
}

/* Brings one of the dialer's sockets as far as it goes. */
static tutti_status dial_advance(struct tcp_link *link, struct tcp_hand *hand, uint32_t lane)
{
    if (hand->stage == TCP_STAGE_DIAL) {
        if (!hand->source.writable)
            return TUTTI_IN_PROGRESS;
        tutti_status status = dial_connected(link, hand);
        if (status != TUTTI_OK)
            return status;
    }
    while (hand->stage != TCP_STAGE_READY) {
        tutti_status status = tcp_hand_move(hand);
        if (status != TUTTI_OK)
            return status;
        if (hand->stage == TCP_STAGE_WATCH)
            return fail(TUTTI_ERR_PROTOCOL, "the other side speaks before it dials");
        if (hand->stage == TCP_STAGE_HELLO) {
            status = dial_hello(link, hand, lane);
            if (status != TUTTI_OK)
                return status;
        } else {
            if (tcp_get32(hand->in) != TCP_MAGIC || tcp_get64(hand->in + 8) != link->attempt)
                return fail(TUTTI_ERR_PROTOCOL, "the other side's acceptance makes no sense");
            hand->stage = TCP_STAGE_READY;
        }
    }
    return TUTTI_OK;
}

/* ---- dialing ----------------------------------------------------------------------------------
 */

static uint64_t doubled(uint64_t ms, uint32_t times)
{
    return ms << (times < 3 ? times : 3);
}

static bool is_connected(const struct tcp_link *link)
{
    bool connected = link->control.fd >= 0;
    for (uint32_t i = 0; i < hand_room(link); i++)
        connected |= link->hands[i].stage > TCP_STAGE_DIAL;
    return connected;
}

static bool round_is_hopeless(const struct tcp_link *link)
{
    return link->dead_rounds >= DEAD_ROUNDS && link->refusals > 0 && !is_connected(link);
}

/* The turn of the next address, or of the next round. */
static void turn(struct tcp_link *link, uint64_t now)
{
    link->act_ms = now;
    if (++link->at < link->candidate_count)
        return;
    link->at = 0;
    link->round++;
    link->dead_rounds++;
    uint64_t pause = (uint64_t)RETRY_MS * link->round;
    link->act_ms = now + (pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS);
}

/* This socket, or what it was a part of, did not work (the thread's sentence says why). */
static void attempt_failed(struct tcp_link *link, struct tcp_hand *hand, tutti_status status,
                           uint64_t now)
{
    char text[SOCK_TEXT_MAX];
    const char *name = tcp_peer_name(link->tcp, link->peer);
    if (link->chosen)
        close_hands(link);
    else
        close_hand(link, hand);
    if (link->state == TCP_LINK_ENDED)
        return;
    link->cause_status = status;
    snprintf(link->cause, sizeof link->cause, "%s", status_sentence());
    if (status == TUTTI_ERR_NOMEM) {
        tcp_link_end(link, status, "connection to %s: %s", name, link->cause);
        return;
    }
    sock_text(&hand->address, text);
    turn(link, now);
    if (link->at == 0 && round_is_hopeless(link))
        tcp_link_end(link, TUTTI_ERR_PEER,
                     "%s no longer listens at %s: it has left the communicator or died, or a "
                     "firewall refuses connections to it (TUTTI_PORTS)",
                     name, text);
}

/* Starts a socket's connection. */
static void dial_hand(struct tcp_link *link, struct tcp_hand *hand,
                      const struct sock_address *address, uint64_t now)
{
    hand->address = *address;
    hand->source.readable = hand->source.writable = false;
    hand->deadline_ms = now + doubled(DIAL_MS, link->round);
    tutti_status status = sock_connect_start(&hand->address, &hand->fd);
    if (status == TUTTI_ERR_NOMEM && tcp_accept_make_room(link->tcp))
        status = sock_connect_start(&hand->address, &hand->fd);
    if (status == TUTTI_OK)
        status = tcp_watch(link->tcp, hand->fd, &hand->source, false);
    else if (errno == ECONNREFUSED)
        link->refusals++;
    if (status == TUTTI_OK)
        hand->stage = TCP_STAGE_DIAL;
    else
        attempt_failed(link, hand, status, now);
}

/* Dials the address whose turn it is, unless its socket still waits for an answer. */
static void dial(struct tcp_link *link, uint64_t now)
{
    struct tcp_hand *hand = &link->hands[dials(link) ? link->at : 0];
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < link->candidate_count && dials(link); i++)
        waiting += link->hands[i].stage != TCP_STAGE_NONE;
    link->act_ms = 0;
    if (hand->stage == TCP_STAGE_NONE) {
        link->address = link->candidates[link->at];
        dial_hand(link, hand, &link->address, now);
    } else if (waiting < link->candidate_count) {
        turn(link, now);
    }
}

/* The peer has answered one socket: the rest of the link goes the same way. */
static void choose(struct tcp_link *link, struct tcp_hand *hand, uint64_t now)
{
    struct tcp_hand first = *hand;
    hand->fd = -1;
    close_hands(link);
    link->chosen = true;
    link->address = first.address;
    link->act_ms = 0;
    link->hands[0] = first;
    tutti_status status = tcp_watch(link->tcp, first.fd, &link->hands[0].source, true);
    if (status != TUTTI_OK)
        attempt_failed(link, &link->hands[0], status, now);
    for (uint32_t i = 1; i <= link->tcp->config->lanes && link->chosen; i++)
        dial_hand(link, &link->hands[i], &link->address, now);
}

/* Turns the dialer's sockets into the link's. */
static void adopt_hands(struct tcp_link *link)
{
    struct tcp *tcp = link->tcp;
    uint32_t lanes = tcp->config->lanes;
    tutti_status status = TUTTI_OK;
    for (uint32_t i = 0; i <= lanes && status == TUTTI_OK; i++) {
        int *fd = i < lanes ? &link->lanes[i].fd : &link->control.fd;
        *fd = link->hands[i].fd;
        link->hands[i].fd = -1;
        status =
            tcp_watch(tcp, *fd, i < lanes ? &link->lanes[i].source : &link->control.source, true);
    }
    if (status != TUTTI_OK) {
        tcp_link_end(link, status, "%s", status_sentence());
        return;
    }
    /* GO goes before any notice that already waits. */
    uint8_t go[TCP_CONTROL_LEN];
    tcp_put32(go, TCP_CONTROL_GO);
    tcp_put32(go + 4, 0);
    if (send(link->control.fd, go, sizeof go, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof go)
        tcp_link_lost(link, errno);
    else
        link_up(link);
}

/* The peer's host answers for a listener, though the peer itself is silent; or it begins. The
 * higher rank looks only after a while. */
static void sign_of_life(struct tcp_link *link, uint64_t now)
{
    link->give_up_ms =
        now + link->tcp->config->settings->connect_timeout_ms + (dials(link) ? 0 : KNOCK_MS);
    link->cause[0] = '\0';
}

/* A socket has waited long enough. */
static void overdue(struct tcp_link *link, struct tcp_hand *hand, uint64_t now)
{
    char text[SOCK_TEXT_MAX];
    if (link->chosen) { /* it is there, but too many come at once */
        close_hand(link, hand);
        dial_hand(link, hand, &link->address, now);
    } else if (hand->stage == TCP_STAGE_HELLO) {
        hand->deadline_ms = UINT64_MAX; /* it keeps its place */
        sign_of_life(link, now);
        if (link->act_ms == 0)
            turn(link, now);
    } else {
        tutti_status status =
            fail(TUTTI_ERR_CONNECT, "%s did not answer", sock_text(&hand->address, text));
        attempt_failed(link, hand, status, now);
    }
}

/* Moves all hands of a link; the time of the next look goes to the timer. */
static void service_hands(struct tcp_link *link, uint64_t now)
{
    uint32_t ready = 0;
    for (uint32_t i = 0; i < hand_room(link); i++) {
        bool patient = link->candidate_count < 2 || link->chosen || !dials(link);
        struct tcp_hand *hand = &link->hands[i];
        enum tcp_stage before = hand->stage;
        if (before == TCP_STAGE_NONE)
            continue;
        tutti_status status = dial_advance(link, hand, link->chosen ? i : 0);
        if (!dials(link) && hand->stage != TCP_STAGE_DIAL && status != TUTTI_IN_PROGRESS) {
            /* The dialer ended, needs the place, or is not there: the next knock tells. */
            close_hands(link);
            sign_of_life(link, now);
            link->at = (link->at + 1) % link->candidate_count;
            link->act_ms = now + KNOCK_MS;
            return;
        }
        if (hand->stage != before) /* who answers is waited for anew, however seldom we look */
            hand->deadline_ms = patient || hand->stage != TCP_STAGE_HELLO
                                    ? UINT64_MAX
                                    : now + doubled(PATIENCE_MS, link->round);
        if (status != TUTTI_OK && status != TUTTI_IN_PROGRESS)
            attempt_failed(link, hand, status, now);
        else if (hand->stage >= TCP_STAGE_ACCEPT && dials(link) && !link->chosen)
            choose(link, hand, now);
        else if (status == TUTTI_IN_PROGRESS && now >= hand->deadline_ms)
            overdue(link, hand, now);
        if (link->state != TCP_LINK_MAKING)
            return;
        ready += link->chosen && hand->stage == TCP_STAGE_READY;
    }
    if (ready > link->tcp->config->lanes)
        adopt_hands(link);
}

static void give_up(struct tcp_link *link)
{
    const char *name = tcp_peer_name(link->tcp, link->peer);
    unsigned long long ms = link->tcp->config->settings->connect_timeout_ms;
    close_hands(link);
    tcp_link_end(link, link->cause[0] ? link->cause_status : TUTTI_ERR_CONNECT,
                 "no connection to %s within %llu ms%s%s (TUTTI_CONNECT_TIMEOUT_MS)", name, ms,
                 link->cause[0] ? ": " : "", link->cause);
}

static void service_link(struct tcp_link *link, uint64_t now)
{
    if (!link->wanted || link->state != TCP_LINK_MAKING)
        return;
    service_hands(link, now);
    /* Every address that fails at once is followed by the next within the same call. */
    for (uint32_t i = 0; i < link->candidate_count; i++) {
        if (link->state != TCP_LINK_MAKING || link->act_ms == 0 || now < link->act_ms)
            break;
        if (!dials(link) && link->control.fd >= 0) {
            link->act_ms = now + KNOCK_MS; /* it has begun to dial */
            continue;
        }
        link->give_up_ms += now - link->act_ms; /* this rank was away: nothing was under way */
        dial(link, now);
    }
    if (link->state != TCP_LINK_MAKING)
        return;
    if (now >= link->give_up_ms && is_connected(link))
        sign_of_life(link, now);
    if (now >= link->give_up_ms) {
        give_up(link);
        return;
    }
    tcp_timer_before(link->tcp, link->give_up_ms);
    if (link->act_ms != 0)
        tcp_timer_before(link->tcp, link->act_ms);
    for (uint32_t i = 0; i < hand_room(link); i++) {
        if (link->hands[i].stage != TCP_STAGE_NONE)
            tcp_timer_before(link->tcp, link->hands[i].deadline_ms);
    }
}

void tcp_link_begin(struct tcp_link *link, const struct tcp_peer_address *address)
{
    uint64_t now = clock_ms();
    link->wanted = true;
    if (link->state != TCP_LINK_MAKING)
        return;
    memcpy(link->candidates, address->list, sizeof link->candidates);
    memcpy(link->nonce, address->nonce, sizeof link->nonce);
    link->candidate_count = address->count;
    sign_of_life(link, now);
    link->act_ms = dials(link) ? now : now + KNOCK_MS;
    service_link(link, now);
}

/* ---- time --------------------------------------------------------------------------------------
 */

/* Lanes of a lost link that say nothing are at their end when the grace is over. */
static void service_ended(struct tcp_link *link, uint64_t now)
{
    if (link->state != TCP_LINK_ENDED || link->linger_ms == 0)
        return;
    if (now < link->linger_ms) {
        tcp_timer_before(link->tcp, link->linger_ms);
        return;
    }
    link->linger_ms = 0; /* from here on an empty lane is at its end, unless another still speaks */
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++)
        tcp_lane_receive(&link->lanes[i]);
}

void tcp_connect_service(struct tcp *tcp)
{
    uint64_t now = clock_ms();
    tcp->timer_ms = 0;
    tcp->attention[TCP_LISTENER] = tcp->attention[TCP_HAND] = tcp->attention[TCP_TIMER] = false;
    tcp_accept_service(tcp, now);
    for (struct tcp_link *link = tcp->all; link; link = link->next) {
        service_link(link, now);
        service_ended(link, now);
    }
}
