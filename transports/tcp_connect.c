/* tcp_connect.c: how the sockets of a link come to be.
 * The idea: every rank listens on up to four of its interfaces, always with one port number where
 * that is free; the lower rank of a pair dials. It tries the peer's addresses in turn, those that
 * share a subnet with it first, and all sockets of a link go to the one address that answers. A
 * connected socket proves the secret in both directions and says which lane of which pair it is.
 * Only when the listener has accepted all of them does the dialer say GO: so both sides always
 * agree which attempt became the link, and giving one up loses nothing.
 *
 * Whose fault is silence? A full backlog, a rank that computes, a dead interface and a dead host
 * all look alike. An address that does not answer the SYN is left for the next one within
 * DIAL_MS; one that answered is given seconds. A listener that was there when the address was
 * handed out and now refuses belonged to a process that has ended: a few rounds of that end the
 * link early. The higher rank, which only waits, probes the dialer's listener for the same reason.
 *
 * Invariant: unproven connections are bounded in number and in time, are never answered before
 * they said a correct hello, and touch no link before they proved the secret. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/tcp.h"

#define HANDSHAKE_MS 2000 /* for a stranger to prove itself */
#define DIAL_MS      300  /* for a SYN to be answered; doubled with every round, thrice at most */
#define PATIENCE_MS  2000 /* for an established peer, when it has other addresses; doubled alike */
#define RETRY_MS     50   /* between rounds, growing to */
#define RETRY_MAX_MS 500
#define PROBE_MS     1000 /* between looks at a dialer that does not dial */
#define DEAD_ROUNDS  3    /* rounds without an answer, one of them refused: the process is gone */
#define SHOVE_MS     200  /* a stranger silent for that long makes room for the next */

#define ADDRESS_HEADER 16
#define ADDRESS_ENTRY  24

/* ---- addresses -------------------------------------------------------------------------------
 */

static void set_port(struct sock_address *address, uint16_t port)
{
    if (address->storage.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
}

static uint16_t port_of(const struct sock_address *address)
{
    if (address->storage.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
}

static bool is_loopback(const struct sock_address *address)
{
    if (address->storage.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&address->storage)->sin6_addr);
    uint32_t v4 = ntohl(((const struct sockaddr_in *)&address->storage)->sin_addr.s_addr);
    return v4 >> 24 == 127;
}

static bool is_link_local(const struct sock_address *address)
{
    return address->storage.ss_family == AF_INET6 &&
           IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)&address->storage)->sin6_addr);
}

tutti_status tcp_listen(struct tcp *tcp)
{
    const struct settings *settings = tcp->config->settings;
    tutti_status status =
        sock_interfaces(settings, tcp->interfaces, SOCK_INTERFACES_MAX, &tcp->interface_count);
    uint16_t port = 0;
    for (size_t i = 0; i < tcp->interface_count && tcp->listener_count < TCP_ADDRESSES_MAX; i++) {
        struct tcp_listener *listener = &tcp->listeners[tcp->listener_count];
        struct sock_address wanted = tcp->interfaces[i].address;
        listener->source.kind = TCP_LISTENER;
        set_port(&wanted, port);
        status = sock_listen(settings, &wanted, TCP_BACKLOG, &listener->fd, &listener->bound);
        if (status != TUTTI_OK && port != 0) {
            set_port(&wanted, 0);
            status = sock_listen(settings, &wanted, TCP_BACKLOG, &listener->fd, &listener->bound);
        }
        if (status != TUTTI_OK)
            continue; /* one interface of several may fail: it has just gone, say */
        tcp->listener_count++;
        port = port_of(&listener->bound);
        status = tcp_watch(tcp, listener->fd, &listener->source, false);
        if (status != TUTTI_OK)
            return status;
    }
    return tcp->listener_count > 0 ? TUTTI_OK : status;
}

/*  | magic 4 | count 4 | nonce 8 |  then per address  | family 4 | port 4 | address 16 |  */
void tcp_address_write(const struct tcp *tcp, uint8_t *address, size_t *len)
{
    memset(address, 0, ADDRESS_HEADER + ADDRESS_ENTRY * tcp->listener_count);
    tcp_put32(address, TCP_MAGIC);
    tcp_put32(address + 4, tcp->listener_count);
    memcpy(address + 8, tcp->nonce, sizeof tcp->nonce);
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        const struct sock_address *bound = &tcp->listeners[i].bound;
        uint8_t *at = address + ADDRESS_HEADER + ADDRESS_ENTRY * i;
        bool v6 = bound->storage.ss_family == AF_INET6;
        tcp_put32(at, v6 ? 6 : 4);
        tcp_put32(at + 4, port_of(bound));
        if (v6)
            memcpy(at + 8, &((const struct sockaddr_in6 *)&bound->storage)->sin6_addr, 16);
        else
            memcpy(at + 8, &((const struct sockaddr_in *)&bound->storage)->sin_addr, 4);
    }
    *len = ADDRESS_HEADER + ADDRESS_ENTRY * tcp->listener_count;
}

static bool read_entry(const uint8_t *at, struct sock_address *out)
{
    uint32_t family = tcp_get32(at), port = tcp_get32(at + 4);
    if ((family != 4 && family != 6) || port == 0 || port > UINT16_MAX)
        return false;
    *out = (struct sock_address){.len = sizeof(struct sockaddr_in)};
    if (family == 6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->storage;
        out->len = sizeof *v6;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, at + 8, 16);
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&out->storage;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, at + 8, 4);
    }
    set_port(out, (uint16_t)port);
    return true;
}

/* The order in which to try an address; -1: never. Both sides must agree whether there is a usable
 * pair at all, so that is decided by what both know: families and loopback, of what is offered. */
static int preference(const struct tcp *tcp, struct sock_address *remote)
{
    bool usable = false;
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        const struct sock_address *mine = &tcp->listeners[i].bound;
        usable = usable || (mine->storage.ss_family == remote->storage.ss_family &&
                            is_loopback(mine) == is_loopback(remote));
    }
    if (!usable)
        return -1;
    for (size_t i = 0; i < tcp->interface_count; i++) {
        if (!sock_same_subnet(&tcp->interfaces[i], remote))
            continue;
        if (!is_link_local(remote))
            return 0;
        /* Every interface has this subnet; the first is as good a guess as any. */
        ((struct sockaddr_in6 *)&remote->storage)->sin6_scope_id =
            ((const struct sockaddr_in6 *)&tcp->interfaces[i].address.storage)->sin6_scope_id;
        return 2;
    }
    return is_link_local(remote) ? -1 : 1;
}

bool tcp_address_read(const struct tcp *tcp, const void *address, size_t len,
                      struct tcp_peer_address *out)
{
    const uint8_t *in = address;
    if (len < ADDRESS_HEADER || tcp_get32(in) != TCP_MAGIC)
        return false;
    uint32_t count = tcp_get32(in + 4);
    if (count > TCP_ADDRESSES_MAX || len != ADDRESS_HEADER + (size_t)ADDRESS_ENTRY * count)
        return false;
    *out = (struct tcp_peer_address){0};
    memcpy(out->nonce, in + 8, sizeof out->nonce);
    for (int class = 0; class <= 2; class ++) {
        for (uint32_t i = 0; i < count; i++) {
            struct sock_address one;
            if (!read_entry(in + ADDRESS_HEADER + (size_t)ADDRESS_ENTRY * i, &one))
                return false;
            if (preference(tcp, &one) == class)
                out->list[out->count++] = one;
        }
    }
    return true;
}

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

static void job_of(const struct tcp *tcp, const uint8_t nonce[8], uint8_t job[16])
{
    /* The listener's nonce: an address that by chance belongs to another rank, or to a later
     * process, is told apart at the hello. */
    tcp_put64(job, tcp->config->comm_id);
    memcpy(job + 8, nonce, 8);
}

/* Writes and reads what the stage needs: TUTTI_OK when it has it all. */
static tutti_status hand_move(struct tcp_hand *hand)
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

static void hand_next(struct tcp_hand *hand, enum tcp_stage stage, uint32_t say, uint32_t want)
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
    if (!dials(link))
        return TUTTI_OK;
    sock_tune(hand->fd);
    uint8_t job[16];
    job_of(link->tcp, link->nonce, job);
    status = auth_start(&hand->auth, link->tcp->secret, job, false);
    if (status == TUTTI_OK)
        status = auth_hello(&hand->auth, hand->out);
    hand_next(hand, TCP_STAGE_HELLO, AUTH_HELLO_LEN, AUTH_HELLO_LEN + AUTH_PROOF_LEN);
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
    hand_next(hand, TCP_STAGE_ACCEPT, AUTH_PROOF_LEN + TCP_JOIN_LEN, TCP_ACCEPT_LEN);
    return status;
}

/* Brings one of the dialer's sockets as far as it goes. */
static tutti_status dial_advance(struct tcp_link *link, struct tcp_hand *hand, uint32_t lane)
{
    if (hand->stage == TCP_STAGE_DIAL) {
        if (!hand->source.writable)
            return TUTTI_IN_PROGRESS;
        tutti_status status = dial_connected(link, hand);
        if (status != TUTTI_OK || !dials(link))
            return status;
    }
    while (hand->stage != TCP_STAGE_READY) {
        tutti_status status = hand_move(hand);
        if (status != TUTTI_OK)
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
                     "%s no longer listens at %s: the process has ended or was killed", name, text);
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

/* Moves all hands of a link; the time of the next look goes to the timer. */
static void service_hands(struct tcp_link *link, uint64_t now)
{
    uint32_t ready = 0, count = hand_count(link);
    bool patient = link->candidate_count < 2;
    for (uint32_t i = 0; i < count; i++) {
        struct tcp_hand *hand = &link->hands[i];
        bool dialing = hand->stage == TCP_STAGE_DIAL;
        tutti_status status = dial_advance(link, hand, i);
        if (status == TUTTI_OK && !dials(link)) {
            close_hands(link); /* the probe was answered: the dialer lives */
            link->act_ms = now + PROBE_MS;
            return;
        }
        if (dialing && hand->stage != TCP_STAGE_DIAL)
            hand->deadline_ms = patient ? UINT64_MAX : now + doubled(PATIENCE_MS, link->round);
        if (status == TUTTI_IN_PROGRESS && now >= hand->deadline_ms) {
            char text[SOCK_TEXT_MAX];
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
    if (link->cause[0])
        tcp_link_end(link, link->cause_status, "no connection to %s within %llu ms: %s", name, ms,
                     link->cause);
    else
        tcp_link_end(link, TUTTI_ERR_CONNECT,
                     "no connection to %s within %llu ms: it %s (TUTTI_CONNECT_TIMEOUT_MS)", name,
                     ms, dials(link) ? "does not answer the handshake" : "has not dialed");
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
    link->give_up_ms = now + link->tcp->config->settings->connect_timeout_ms;
    link->act_ms = dials(link) ? now : now + PROBE_MS;
    service_link(link, now);
}

/* ---- accepting --------------------------------------------------------------------------------
 */

static void drop_stranger(struct tcp *tcp, struct tcp_hand *hand, const char *why)
{
    char text[SOCK_TEXT_MAX];
    log_at(LOG_LEVEL_INFO, (int)tcp->config->rank, "tcp: dropped the connection from %s: %s",
           sock_text(&hand->address, text), why);
    tcp_close_fd(tcp, &hand->fd);
    auth_end(&hand->auth);
    hand->stage = TCP_STAGE_NONE;
    tcp->incoming_count--;
}

/* Gives the proven socket its place. False: it has none (the reason is in *why). */
static bool join_link(struct tcp *tcp, struct tcp_hand *hand, const char **why)
{
    const uint8_t *join = hand->in + AUTH_PROOF_LEN;
    const struct transport_config *config = tcp->config;
    uint32_t from = tcp_get32(join + 8), lane = tcp_get32(join + 16);
    uint64_t attempt = tcp_get64(join + 24);
    struct tcp_link *link;
    *why = "its join makes no sense here";
    if (tcp_get32(join) != TCP_MAGIC || tcp_get32(join + 4) != TCP_VERSION ||
        from >= config->rank || tcp_get32(join + 12) != config->rank || lane > config->lanes ||
        tcp_get32(join + 20) != config->lanes)
        return false;
    *why = "no memory for its link";
    if (tcp_link_get(tcp, from, &link) != TUTTI_OK)
        return false;
    *why = "its link is already made, or has ended";
    if (link->state != TCP_LINK_MAKING || attempt < link->attempt)
        return false;
    if (attempt > link->attempt)
        tcp_link_drop_attempt(link);
    link->attempt = attempt;
    link->address = hand->address;
    bool control = lane == config->lanes;
    int *fd = control ? &link->control.fd : &link->lanes[lane].fd;
    if (*fd >= 0)
        return false;
    uint8_t accept[TCP_ACCEPT_LEN];
    tcp_put32(accept, TCP_MAGIC);
    tcp_put32(accept + 4, TCP_VERSION);
    tcp_put64(accept + 8, attempt);
    *why = "it went away";
    if (tcp_watch(tcp, hand->fd, control ? &link->control.source : &link->lanes[lane].source,
                  true) != TUTTI_OK ||
        send(hand->fd, accept, sizeof accept, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof accept)
        return false;
    *fd = hand->fd;
    hand->fd = -1;
    return true;
}

static tutti_status stranger_hello(struct tcp *tcp, struct tcp_hand *hand)
{
    uint8_t job[16];
    job_of(tcp, tcp->nonce, job);
    tutti_status status = auth_start(&hand->auth, tcp->secret, job, true);
    if (status == TUTTI_OK)
        status = auth_take_hello(&hand->auth, hand->in);
    if (status == TUTTI_OK)
        status = auth_hello(&hand->auth, hand->out);
    if (status == TUTTI_OK)
        status = auth_proof(&hand->auth, hand->out + AUTH_HELLO_LEN);
    hand_next(hand, TCP_STAGE_PROOF, AUTH_HELLO_LEN + AUTH_PROOF_LEN,
              AUTH_PROOF_LEN + TCP_JOIN_LEN);
    return status;
}

static void service_stranger(struct tcp *tcp, struct tcp_hand *hand, uint64_t now)
{
    tutti_status status = hand_move(hand);
    if (status == TUTTI_OK && hand->stage == TCP_STAGE_HELLO) {
        status = stranger_hello(tcp, hand);
        if (status == TUTTI_OK)
            status = hand_move(hand);
    }
    if (status == TUTTI_OK) {
        status = auth_check_proof(&hand->auth, hand->in);
        const char *why;
        if (status == TUTTI_OK && !join_link(tcp, hand, &why)) {
            drop_stranger(tcp, hand, why);
            return;
        }
        if (status == TUTTI_OK) {
            auth_end(&hand->auth);
            hand->stage = TCP_STAGE_NONE;
            tcp->incoming_count--;
            return;
        }
    }
    if (status != TUTTI_IN_PROGRESS)
        drop_stranger(tcp, hand, status_sentence());
    else if (now >= hand->deadline_ms)
        drop_stranger(tcp, hand, "it did not finish the handshake in time");
    else
        tcp_timer_before(tcp, hand->deadline_ms);
}

/* A place for one more stranger; NULL: all are taken by connections that may yet prove good. */
static struct tcp_hand *stranger_place(struct tcp *tcp, uint64_t now)
{
    struct tcp_hand *silent = NULL;
    for (uint32_t i = 0; i < TCP_INCOMING_MAX; i++) {
        struct tcp_hand *hand = &tcp->incoming[i];
        if (hand->stage == TCP_STAGE_NONE)
            return hand;
        bool mute = hand->stage == TCP_STAGE_HELLO && hand->have == 0;
        if (mute && now >= hand->since_ms + SHOVE_MS &&
            (!silent || hand->since_ms < silent->since_ms))
            silent = hand;
    }
    if (silent)
        drop_stranger(tcp, silent, "it said nothing, and others wait");
    return silent;
}

static void accept_waiting(struct tcp *tcp, struct tcp_listener *listener, uint64_t now)
{
    while (listener->source.readable) {
        struct tcp_hand *hand = stranger_place(tcp, now);
        int fd;
        struct sock_address from;
        if (!hand || sock_accept(listener->fd, &fd, &from) != TUTTI_OK) {
            tcp_timer_before(tcp, now + SHOVE_MS); /* no place, or no descriptors: later */
            return;
        }
        if (fd < 0) {
            listener->source.readable = false;
            return;
        }
        *hand = (struct tcp_hand){.source.kind = TCP_HAND,
                                  .fd = fd,
                                  .address = from,
                                  .since_ms = now,
                                  .deadline_ms = now + HANDSHAKE_MS};
        tcp->incoming_count++;
        hand_next(hand, TCP_STAGE_HELLO, 0, AUTH_HELLO_LEN);
        sock_tune(fd);
        if (tcp_watch(tcp, fd, &hand->source, false) != TUTTI_OK)
            drop_stranger(tcp, hand, status_sentence());
        else
            service_stranger(tcp, hand, now);
    }
}

/* Lanes of a lost link that say nothing are at their end when the grace is over. */
static void service_ended(struct tcp_link *link, uint64_t now)
{
    if (link->state != TCP_LINK_ENDED || link->linger_ms == 0)
        return;
    if (now < link->linger_ms) {
        tcp_timer_before(link->tcp, link->linger_ms);
        return;
    }
    link->linger_ms = 0; /* from here on an empty lane is at its end */
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++)
        tcp_lane_receive(&link->lanes[i]);
}

void tcp_connect_service(struct tcp *tcp)
{
    uint64_t now = clock_ms();
    tcp->timer_ms = 0;
    tcp->attention[TCP_LISTENER] = tcp->attention[TCP_HAND] = tcp->attention[TCP_TIMER] = false;
    for (uint32_t i = 0; i < tcp->listener_count; i++)
        accept_waiting(tcp, &tcp->listeners[i], now);
    for (uint32_t i = 0; tcp->incoming_count > 0 && i < TCP_INCOMING_MAX; i++) {
        if (tcp->incoming[i].stage != TCP_STAGE_NONE)
            service_stranger(tcp, &tcp->incoming[i], now);
    }
    for (struct tcp_link *link = tcp->all; link; link = link->next) {
        service_link(link, now);
        service_ended(link, now);
    }
}
