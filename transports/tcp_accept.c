/* tcp_accept.c: connections that come in.
 * The idea: whoever connects is a stranger until it has proved the secret; only then does it say
 * which lane of which link it is. Strangers are bounded in number, not in time: a peer that
 * computes and looks now and then is slow at its handshake, and would only begin it anew. When all
 * places are taken, or all descriptors, one that says nothing or takes too long makes room for the
 * next, so that neither a port scan nor a crowd of peers is in the other's way.
 * Invariant: a stranger is not answered before it said a correct hello, and touches no link before
 * it proved the secret. */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "transports/tcp.h"

/* When a stranger makes room for the next: */
#define HANDSHAKE_MS 2000 /* it has begun to speak, but not proved itself for that long */
#define SHOVE_MS     200  /* it has said nothing for that long */

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

/* Is it one that waits to be dialed? */
static bool is_knock(const struct tcp *tcp, const uint8_t *join)
{
    const struct transport_config *config = tcp->config;
    uint32_t from = tcp_get32(join + 8);
    return tcp_get32(join) == TCP_MAGIC && tcp_get32(join + 4) == TCP_VERSION &&
           from > config->rank && from < config->size && tcp_get32(join + 12) == config->rank &&
           tcp_get32(join + 16) == config->lanes + 1 && tcp_get32(join + 20) == config->lanes;
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
    tcp_job_of(tcp, tcp->nonce, job);
    tutti_status status = auth_start(&hand->auth, tcp->secret, job, true);
    if (status == TUTTI_OK)
        status = auth_take_hello(&hand->auth, hand->in);
    if (status == TUTTI_OK)
        status = auth_hello(&hand->auth, hand->out);
    if (status == TUTTI_OK)
        status = auth_proof(&hand->auth, hand->out + AUTH_HELLO_LEN);
    tcp_hand_next(hand, TCP_STAGE_PROOF, AUTH_HELLO_LEN + AUTH_PROOF_LEN,
                  AUTH_PROOF_LEN + TCP_JOIN_LEN);
    return status;
}

static void service_stranger(struct tcp *tcp, struct tcp_hand *hand)
{
    tutti_status status = tcp_hand_move(hand);
    if (status == TUTTI_OK && hand->stage == TCP_STAGE_HELLO) {
        status = stranger_hello(tcp, hand);
        if (status == TUTTI_OK)
            status = tcp_hand_move(hand);
    }
    if (status == TUTTI_OK) {
        if (hand->stage == TCP_STAGE_WATCH) {
            drop_stranger(tcp, hand, "it speaks where it should wait to be dialed");
            return;
        }
        status = auth_check_proof(&hand->auth, hand->in);
        const uint8_t *join = hand->in + AUTH_PROOF_LEN;
        const char *why;
        if (status == TUTTI_OK && is_knock(tcp, join)) {
            tcp->knocked[tcp_get32(join + 8)] = true;
            auth_end(&hand->auth);
            tcp_hand_next(hand, TCP_STAGE_WATCH, 0, 1);   /* nothing comes but the end, */
            if (tcp_hand_move(hand) != TUTTI_IN_PROGRESS) /* or has come already */
                drop_stranger(tcp, hand, status_sentence());
            return;
        }
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
}

/* It has said nothing, like a port scan, or nothing more to say: it watches for our end. */
static bool is_mute(const struct tcp_hand *hand)
{
    return hand->stage == TCP_STAGE_WATCH || (hand->stage == TCP_STAGE_HELLO && hand->have == 0);
}

/* The stranger that is overdue for longest goes; NULL: all may yet prove good. */
static struct tcp_hand *shove(struct tcp *tcp, uint64_t now)
{
    struct tcp_hand *overdue = NULL;
    uint64_t earliest = now;
    for (uint32_t i = 0; i < TCP_INCOMING_MAX; i++) {
        struct tcp_hand *hand = &tcp->incoming[i];
        uint64_t yields_ms = hand->since_ms + (is_mute(hand) ? SHOVE_MS : HANDSHAKE_MS);
        if (hand->stage != TCP_STAGE_NONE && yields_ms <= earliest) {
            overdue = hand;
            earliest = yields_ms;
        }
    }
    if (overdue)
        drop_stranger(tcp, overdue, "it did not finish the handshake in time, and others wait");
    return overdue;
}

/* A place for one more stranger; NULL: all are taken by connections that may yet prove good. */
static struct tcp_hand *stranger_place(struct tcp *tcp, uint64_t now)
{
    for (uint32_t i = 0; i < TCP_INCOMING_MAX; i++) {
        if (tcp->incoming[i].stage == TCP_STAGE_NONE)
            return &tcp->incoming[i];
    }
    return shove(tcp, now);
}

bool tcp_accept_make_room(struct tcp *tcp)
{
    bool any = false;
    for (uint32_t i = 0; tcp->incoming_count > 0 && i < TCP_INCOMING_MAX; i++) {
        if (!is_mute(&tcp->incoming[i]))
            continue;
        drop_stranger(tcp, &tcp->incoming[i], "descriptors ran out, and it has nothing to say");
        any = true;
    }
    return any;
}

static void accept_waiting(struct tcp *tcp, struct tcp_listener *listener, uint64_t now)
{
    for (int i = 0; i < TCP_INCOMING_MAX && listener->source.readable; i++) {
        struct tcp_hand *hand = stranger_place(tcp, now);
        int fd;
        struct sock_address from;
        tutti_status status = hand ? sock_accept(listener->fd, &fd, &from) : TUTTI_ERR_NOMEM;
        if (hand && status == TUTTI_ERR_NOMEM && shove(tcp, now))
            status = sock_accept(listener->fd, &fd, &from);
        if (status != TUTTI_OK) {
            tcp_timer_before(tcp, now + SHOVE_MS); /* no place, or no descriptors: later */
            return;
        }
        if (fd < 0) {
            listener->source.readable = false;
            return;
        }
        *hand =
            (struct tcp_hand){.source.kind = TCP_HAND, .fd = fd, .address = from, .since_ms = now};
        tcp->incoming_count++;
        tcp_hand_next(hand, TCP_STAGE_HELLO, 0, AUTH_HELLO_LEN);
        sock_tune(fd);
        if (tcp_watch(tcp, fd, &hand->source, false) != TUTTI_OK)
            drop_stranger(tcp, hand, status_sentence());
        else
            service_stranger(tcp, hand);
    }
    if (listener->source.readable) /* whoever connects and closes in a loop holds nobody up */
        tcp_timer_before(tcp, now);
}

void tcp_accept_service(struct tcp *tcp, uint64_t now)
{
    for (uint32_t i = 0; i < tcp->listener_count; i++)
        accept_waiting(tcp, &tcp->listeners[i], now);
    for (uint32_t i = 0; tcp->incoming_count > 0 && i < TCP_INCOMING_MAX; i++) {
        struct tcp_hand *hand = &tcp->incoming[i];
        if (hand->stage == TCP_STAGE_NONE || !(hand->source.readable || hand->source.writable))
            continue;
        hand->source.readable = hand->source.writable = false;
        service_stranger(tcp, hand);
    }
}
