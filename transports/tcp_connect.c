/* tcp_connect.c: how the sockets of a link come to be.
 * The idea: the lower rank of a pair dials. It tries the peer's addresses in turn, those that
 * share a subnet with it first, and all sockets of a link go to the one address that answers. A
 * connected socket proves the secret in both directions and says which lane of which pair it is.
 * Only when the listener has accepted all of them does the dialer say GO: so both sides always
 * agree which attempt became the link, and giving one up loses nothing.
 *
 * Whose fault is silence? A full backlog, a rank that computes, a dead interface and a dead host
 * all look alike. An address that does not answer the SYN is left for the next one within
 * DIAL_MS; one that answered is given seconds, and as often as it answers the connect timeout
 * begins anew: who is there and silent is late, and how long that may last is not for this file to
 * say. A listener that was there when the address was handed out and now refuses belonged to a
 * process that has ended: a few rounds of that end the link early. The higher rank, which only
 * waits, probes the dialer's listener for the same reasons. A probe that was answered stays open
 * and is watched for its end: each one made and closed would stay in the accept queue of a late
 * dialer, and once that is full all who come are met with silence.
 *
 * Invariant: a link is up on both sides over the same attempt, or on neither. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/tcp.h"

#define DIAL_MS      300  /* for a SYN to be answered; doubled with every round, thrice at most */
#define PATIENCE_MS  2000 /* for an established peer, when it has other addresses; doubled alike */
#define RETRY_MS     50   /* between rounds, growing to */
#define RETRY_MAX_MS 500
#define PROBE_MS     1000 /* before a look, or another one, at a dialer that does not dial */
#define DEAD_ROUNDS  3    /* rounds without an answer, one of them refused: the process is gone */

/* ---- links ------------------------------------------------------------------------------------
 */

static bool dials(const struct tcp_link *link)
{
    return link->tcp->config->rank < link->peer;
}

/* The dialer's sockets are its lanes and the control socket; the listener's is the probe. */
static uint32_t hand_count(const struct tcp_link *link)
{
    return dials(link) ? link->tcp->config->lanes + 1 : 1;
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
    link->hands = calloc(hand_count(link), sizeof *link->hands);
    link->buffers = aligned_alloc(64, lanes * room);
    if (!link->hands || !link->buffers) {
        free(link->hands);
        free(link->buffers);
        free(link);
        return fail(TUTTI_ERR_NOMEM, "no memory for the link to %s", tcp_peer_name(tcp, peer));
    }
    for (uint32_t i = 0; i < hand_count(link); i++)
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

static void close_hands(struct tcp_link *link)
{
    for (uint32_t i = 0; link->hands && i < hand_count(link); i++) {
        tcp_close_fd(link->tcp, &link->hands[i].fd);
        link->hands[i].stage = TCP_STAGE_NONE;
        auth_end(&link->hands[i].auth);
    }
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

/* sock_tune bounds how long data may stay unacknowledged, and Linux counts a peer that has closed
 * its window, because it computes and does not read, as one that is gone. So lanes wait for ever;
 * that the host is gone is noticed by the control socket, which hardly ever has data under way. */
static void be_patient(int fd)
{
    unsigned never = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &never, sizeof never);
}

/* All sockets are in place on both sides. */
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
        be_patient(lane->fd);
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
    if (!dials(link)) {
        tcp_hand_next(hand, TCP_STAGE_WATCH, 0, 1); /* nothing comes but the end */
        return TUTTI_OK;
    }
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
        if (status != TUTTI_OK || hand->stage == TCP_STAGE_WATCH)
            return status;
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

static bool round_is_hopeless(const struct tcp_link *link)
{
    return link->dead_rounds >= DEAD_ROUNDS && link->refusals > 0;
}

/* This address did not work (the thread's sentence says why): the next one, or the next round. */
static void attempt_failed(struct tcp_link *link, tutti_status status, uint64_t now)
{
    char text[SOCK_TEXT_MAX];
    const char *name = tcp_peer_name(link->tcp, link->peer);
    close_hands(link);
    if (link->state == TCP_LINK_ENDED)
        return;
    link->cause_status = status;
    snprintf(link->cause, sizeof link->cause, "%s", status_sentence());
    if (status == TUTTI_ERR_NOMEM) {
        tcp_link_end(link, status, "connection to %s: %s", name, link->cause);
        return;
    }
    sock_text(&link->candidates[link->at], text);
    link->act_ms = now;
    if (++link->at < link->candidate_count)
        return;
    link->at = 0;
    link->round++;
    link->dead_rounds++;
    uint64_t pause = (uint64_t)RETRY_MS * link->round;
    link->act_ms = now + (pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS);
    if (round_is_hopeless(link))
        tcp_link_end(link, TUTTI_ERR_PEER,
                     "%s no longer listens at %s: it has left the communicator or died", name,
                     text);
}

/* Starts a connection for every socket of the link to the address whose turn it is. */
static void dial(struct tcp_link *link, uint64_t now)
{
    struct tcp *tcp = link->tcp;
    if (dials(link))
        link->attempt = ++tcp->attempts;
    link->address = link->candidates[link->at];
    link->act_ms = 0;
    for (uint32_t i = 0; i < hand_count(link); i++) {
        struct tcp_hand *hand = &link->hands[i];
        hand->address = link->address;
        hand->source.readable = hand->source.writable = false;
        hand->deadline_ms = now + doubled(DIAL_MS, link->round);
        tutti_status status = sock_connect_start(&hand->address, &hand->fd);
        if (status == TUTTI_OK)
            status = tcp_watch(tcp, hand->fd, &hand->source, false);
        else if (errno == ECONNREFUSED)
            link->refusals++;
        if (status != TUTTI_OK) {
            attempt_failed(link, status, now);
            return;
        }
        hand->stage = TCP_STAGE_DIAL;
    }
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
        now + link->tcp->config->settings->connect_timeout_ms + (dials(link) ? 0 : PROBE_MS);
    link->cause[0] = '\0';
}

static bool is_connected(const struct tcp_link *link)
{
    bool connected = link->control.fd >= 0;
    for (uint32_t i = 0; i < hand_count(link); i++)
        connected |= link->hands[i].stage > TCP_STAGE_DIAL;
    return connected;
}

/* Moves all hands of a link; the time of the next look goes to the timer. */
static void service_hands(struct tcp_link *link, uint64_t now)
{
    uint32_t ready = 0, count = hand_count(link);
    bool patient = link->candidate_count < 2;
    for (uint32_t i = 0; i < count; i++) {
        struct tcp_hand *hand = &link->hands[i];
        enum tcp_stage before = hand->stage;
        bool dialing = before == TCP_STAGE_DIAL;
        tutti_status status = dial_advance(link, hand, i);
        bool watched = hand->stage == TCP_STAGE_WATCH;
        if (watched && status != TUTTI_IN_PROGRESS) {
            close_hands(link); /* the dialer ended, or needs the place: the next probe tells */
            sign_of_life(link, now);
            link->act_ms = now + PROBE_MS;
            return;
        }
        if (hand->stage != before) /* who answers is waited for anew, however seldom we look */
            hand->deadline_ms =
                patient || watched ? UINT64_MAX : now + doubled(PATIENCE_MS, link->round);
        if (status == TUTTI_IN_PROGRESS && now >= hand->deadline_ms) {
            char text[SOCK_TEXT_MAX];
            if (!dialing)
                sign_of_life(link, now);
            status = fail(TUTTI_ERR_CONNECT, "%s did not answer%s", sock_text(&hand->address, text),
                          dialing ? "" : " the handshake");
        }
        if (status != TUTTI_OK && status != TUTTI_IN_PROGRESS) {
            attempt_failed(link, status, now);
            return;
        }
        ready += hand->stage == TCP_STAGE_READY;
        tcp_timer_before(link->tcp, hand->deadline_ms);
    }
    if (ready == count)
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
    if (link->act_ms == 0)
        service_hands(link, now);
    /* Every address that fails at once is followed by the next within the same call. */
    for (uint32_t i = 0; i < link->candidate_count; i++) {
        if (link->state != TCP_LINK_MAKING || link->act_ms == 0 || now < link->act_ms)
            break;
        if (!dials(link) && link->control.fd >= 0)
            link->act_ms = now + PROBE_MS; /* it has begun to dial */
        else
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
    else
        for (uint32_t i = 0; i < hand_count(link); i++)
            tcp_timer_before(link->tcp, link->hands[i].deadline_ms);
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
    link->act_ms = dials(link) ? now : now + PROBE_MS;
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
