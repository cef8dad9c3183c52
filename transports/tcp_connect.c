/* tcp_connect.c: how TCP links come up, without ever blocking. The lower rank dials every socket of
 * the link; both sides prove the communicator's secret (base/auth.h); then the side that dialled
 * says which rank and lane the socket is. An address that refuses or stays silent gives way to the
 * next one of the peer, nearest first, until the connect timeout.
 *
 *   dialer:   connect --> hello -->            <-- hello   proof, intro -->   <-- proof
 *   listener: accept      hello -->            <-- hello   proof -->          <-- proof, intro
 *
 * A stranger that connects takes one of TCP_PENDING_MAX places for TCP_HANDSHAKE_MS at most. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/tcp.h"

#define REDIAL_MS 50 /* pause after all addresses of a peer failed once */

static void watch(struct tcp *tcp, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = data};
    epoll_ctl(tcp->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* ---- addresses --------------------------------------------------------------------------------
 */

static void to_endpoint(const struct sock_address *address, struct tcp_endpoint *endpoint)
{
    *endpoint = (struct tcp_endpoint){0};
    if (address->storage.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->storage;
        endpoint->family = 6;
        endpoint->port = ntohs(v6->sin6_port);
        endpoint->scope = v6->sin6_scope_id;
        memcpy(endpoint->bytes, &v6->sin6_addr, 16);
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address->storage;
        endpoint->family = 4;
        endpoint->port = ntohs(v4->sin_port);
        memcpy(endpoint->bytes, &v4->sin_addr, 4);
    }
}

static void from_endpoint(const struct tcp_endpoint *endpoint, struct sock_address *address)
{
    *address = (struct sock_address){0};
    if (endpoint->family == 6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->storage;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(endpoint->port);
        memcpy(&v6->sin6_addr, endpoint->bytes, 16);
        v6->sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) ? endpoint->scope : 0;
        address->len = sizeof *v6;
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&address->storage;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(endpoint->port);
        memcpy(&v4->sin_addr, endpoint->bytes, 4);
        address->len = sizeof *v4;
    }
}

tutti_status tcp_listen(struct tcp *tcp)
{
    tutti_status status = sock_interfaces(tcp->config->settings, tcp->interfaces,
                                          SOCK_INTERFACES_MAX, &tcp->interface_count);
    for (size_t i = 0; i < tcp->interface_count && status == TUTTI_OK; i++) {
        struct sock_address bound;
        int fd;
        if (tcp->listener_count == TCP_ADDRESSES_MAX)
            break;
        if (sock_listen(tcp->config->settings, &tcp->interfaces[i].address, 512, &fd, &bound) !=
            TUTTI_OK) {
            if (i + 1 == tcp->interface_count && tcp->listener_count == 0)
                return TUTTI_ERR_SYSTEM; /* the sentence of sock_listen stands */
            continue;
        }
        to_endpoint(&bound, &tcp->address.at[tcp->listener_count]);
        tcp->listeners[tcp->listener_count++] = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(tcp->epoll, EPOLL_CTL_ADD, fd, &event);
    }
    tcp->address.count = tcp->listener_count;
    if (status == TUTTI_OK && tcp->listener_count == 0)
        status = fail(TUTTI_ERR_SYSTEM, "tcp: no interface to listen on");
    return status;
}

void tcp_unlisten(struct tcp *tcp)
{
    while (tcp->listener_count > 0)
        close(tcp->listeners[--tcp->listener_count]);
}

/* The peer's addresses by preference: those on a subnet of ours first, as they stand. */
static bool nth_address(const struct tcp *tcp, const struct tcp_link *link, uint32_t n,
                        struct sock_address *address)
{
    for (int near = 1; near >= 0; near--) {
        for (uint32_t i = 0; i < link->address.count; i++) {
            bool same = false;
            from_endpoint(&link->address.at[i], address);
            for (size_t k = 0; k < tcp->interface_count && !same; k++)
                same = sock_same_subnet(&tcp->interfaces[k], address);
            if (same == near && n-- == 0)
                return true;
        }
    }
    return false;
}

/* ---- links ------------------------------------------------------------------------------------
 */

tutti_status tcp_link_open(struct tcp *tcp, uint32_t peer, const struct tcp_address *address)
{
    uint32_t sockets = tcp->config->lanes + 1;
    struct tcp_link *link = calloc(1, sizeof *link);
    struct tcp_lane **active = realloc(
        tcp->active, ((size_t)tcp->active_count + tcp->config->size * sockets) * sizeof *active);
    if (active)
        tcp->active = active;
    if (link) {
        link->lanes = calloc(sockets, sizeof *link->lanes);
        link->notices_out = calloc(TCP_NOTICES_MAX, sizeof *link->notices_out);
    }
    bool complete = active && link && link->lanes && link->notices_out;
    for (uint32_t i = 0; i < sockets && link && link->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        *lane = (struct tcp_lane){.link = link, .index = i, .fd = -1};
        if (i < tcp->config->lanes && complete)
            complete = (lane->buffer = malloc(TCP_BUFFER)) != NULL;
    }
    if (!complete) {
        for (uint32_t i = 0; link && link->lanes && i < sockets; i++)
            free(link->lanes[i].buffer);
        if (link) {
            free(link->lanes);
            free(link->notices_out);
        }
        free(link);
        return fail(TUTTI_ERR_NOMEM, "tcp: no memory for the link to %s",
                    tcp->config->peer_names[peer]);
    }
    link->peer = peer;
    link->address = *address;
    link->dials = tcp->config->rank < peer;
    link->give_up_ms = clock_ms() + tcp->config->settings->connect_timeout_ms;
    link->retry_ms = 1;
    tcp->links[peer] = link;
    tcp->coming_up += sockets;
    return TUTTI_OK;
}

static void drop_socket(struct tcp_lane *lane)
{
    if (lane->fd >= 0)
        close(lane->fd);
    lane->fd = -1;
    free(lane->handshake);
    lane->handshake = NULL;
}

void tcp_link_close(struct tcp *tcp, struct tcp_link *link)
{
    for (uint32_t i = 0; i <= tcp->config->lanes; i++) {
        if (!link->lanes[i].up)
            tcp->coming_up--;
        drop_socket(&link->lanes[i]);
        free(link->lanes[i].buffer);
    }
    tcp->links[link->peer] = NULL;
    free(link->lanes);
    free(link->notices_out);
    free(link);
}

/* ---- handshakes -------------------------------------------------------------------------------
 */

static tutti_status begin(struct tcp *tcp, struct tcp_lane *lane, bool server, uint32_t bound_ms)
{
    struct tcp_handshake *h = calloc(1, sizeof *h);
    if (!h)
        return fail(TUTTI_ERR_NOMEM, "tcp: no memory for a handshake");
    h->server = server;
    h->stage = server ? TCP_HELLO : TCP_DIALING;
    h->deadline_ms = clock_ms() + bound_ms;
    lane->handshake = h;
    return auth_start(&h->auth, tcp->secret, tcp->job, server);
}

/* The messages of a handshake are far smaller than an empty socket buffer: a short write is a
 * failure. */
static tutti_status put(int fd, const void *data, size_t len)
{
    if (send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len)
        return TUTTI_OK;
    return fail_errno(TUTTI_ERR_CONNECT, "handshake");
}

static tutti_status say_hello(struct tcp_lane *lane)
{
    uint8_t hello[AUTH_HELLO_LEN];
    tutti_status status = auth_hello(&lane->handshake->auth, hello);
    return status == TUTTI_OK ? put(lane->fd, hello, sizeof hello) : status;
}

static tutti_status say_proof(struct tcp *tcp, struct tcp_lane *lane)
{
    uint8_t message[AUTH_PROOF_LEN + sizeof(struct tcp_intro)];
    struct tcp_intro intro = {tcp->config->rank, lane->index};
    auth_proof(&lane->handshake->auth, message);
    memcpy(message + AUTH_PROOF_LEN, &intro, sizeof intro);
    return put(lane->fd, message, lane->handshake->server ? AUTH_PROOF_LEN : sizeof message);
}

/* Reads until `want` bytes of the current message are there; IN_PROGRESS when more must come. */
static tutti_status need(struct tcp_lane *lane, uint32_t want)
{
    struct tcp_handshake *h = lane->handshake;
    while (h->have < want) {
        ssize_t n = recv(lane->fd, h->in + h->have, want - h->have, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return TUTTI_IN_PROGRESS;
        if (n < 0)
            return fail_errno(TUTTI_ERR_CONNECT, "handshake");
        if (n == 0)
            return fail(TUTTI_ERR_CONNECT, "closed during the handshake");
        h->have += (uint32_t)n;
    }
    h->have = 0;
    return TUTTI_OK;
}

/* Gives an accepted socket to the lane it says it is. */
static tutti_status settle(struct tcp *tcp, struct tcp_lane *lane)
{
    struct tcp_intro intro;
    memcpy(&intro, lane->handshake->in + AUTH_PROOF_LEN, sizeof intro);
    if (intro.rank >= tcp->config->rank || intro.lane > tcp->config->lanes)
        return fail(TUTTI_ERR_PROTOCOL, "a peer introduced itself as rank %u, lane %u", intro.rank,
                    intro.lane);
    if (!tcp->links[intro.rank]) {
        struct tcp_address none = {0};
        tutti_status status = tcp_link_open(tcp, intro.rank, &none);
        if (status != TUTTI_OK)
            return status;
    }
    struct tcp_lane *home = &tcp->links[intro.rank]->lanes[intro.lane];
    if (home->fd >= 0 || tcp->links[intro.rank]->down)
        return fail(TUTTI_ERR_PROTOCOL, "rank %u, lane %u connected twice", intro.rank, intro.lane);
    home->fd = lane->fd;
    lane->fd = -1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = home};
    epoll_ctl(tcp->epoll, EPOLL_CTL_MOD, home->fd, &event);
    tcp_lane_up(tcp, home);
    return TUTTI_OK;
}

static tutti_status advance(struct tcp *tcp, struct tcp_lane *lane, const struct sock_address *to)
{
    struct tcp_handshake *h = lane->handshake;
    tutti_status status = TUTTI_OK;
    if (h->stage == TCP_DIALING) {
        struct epoll_event ignored;
        (void)ignored;
        status = sock_connect_finish(lane->fd, to);
        if (status == TUTTI_OK)
            status = say_hello(lane);
        if (status == TUTTI_OK)
            h->stage = TCP_HELLO;
    }
    if (status == TUTTI_OK && h->stage == TCP_HELLO) {
        status = need(lane, AUTH_HELLO_LEN);
        if (status == TUTTI_OK)
            status = auth_take_hello(&h->auth, h->in);
        if (status == TUTTI_OK)
            status = say_proof(tcp, lane);
        if (status == TUTTI_OK)
            h->stage = TCP_PROOF;
    }
    if (status == TUTTI_OK && h->stage == TCP_PROOF) {
        status = need(lane, AUTH_PROOF_LEN + (h->server ? sizeof(struct tcp_intro) : 0));
        if (status == TUTTI_OK)
            status = auth_check_proof(&h->auth, h->in);
        if (status == TUTTI_OK)
            h->stage = TCP_READY;
    }
    return status;
}

/* ---- the side that listens --------------------------------------------------------------------
 */

static void drop_pending(struct tcp *tcp, struct tcp_lane *lane)
{
    for (uint32_t i = 0; i < tcp->pending_count; i++) {
        if (tcp->pending[i] == lane) {
            tcp->pending[i] = tcp->pending[--tcp->pending_count];
            break;
        }
    }
    drop_socket(lane);
    free(lane);
}

void tcp_accept(struct tcp *tcp, int listener)
{
    while (tcp->pending_count < TCP_PENDING_MAX) {
        struct sock_address from;
        int fd = -1;
        if (sock_accept(listener, &fd, &from) != TUTTI_OK || fd < 0)
            return;
        struct tcp_lane *lane = calloc(1, sizeof *lane);
        if (!lane) {
            close(fd);
            return;
        }
        lane->fd = fd;
        sock_tune(fd);
        tcp->pending[tcp->pending_count++] = lane;
        if (begin(tcp, lane, true, TCP_HANDSHAKE_MS) != TUTTI_OK || say_hello(lane) != TUTTI_OK) {
            drop_pending(tcp, lane);
            continue;
        }
        sock_text(&from, lane->handshake->from);
        watch(tcp, fd, lane);
    }
}

/* ---- the side that dials ----------------------------------------------------------------------
 */

static tutti_status dial(struct tcp *tcp, struct tcp_link *link, const struct sock_address *to)
{
    for (uint32_t i = 0; i <= tcp->config->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        tutti_status status = sock_connect_start(to, &lane->fd);
        if (status == TUTTI_OK)
            status = begin(tcp, lane, false, TCP_DIAL_MS + TCP_HANDSHAKE_MS);
        if (status != TUTTI_OK)
            return status;
        sock_tune(lane->fd);
        watch(tcp, lane->fd, lane);
    }
    return TUTTI_OK;
}

/* An attempt failed: forget its sockets, take the next address at once, or all again soon. */
static void next_attempt(struct tcp *tcp, struct tcp_link *link)
{
    struct sock_address address;
    snprintf(link->last_error, sizeof link->last_error, "%s", status_sentence());
    for (uint32_t i = 0; i <= tcp->config->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        if (lane->up) {
            lane->up = false;
            tcp->coming_up++;
        }
        drop_socket(lane);
    }
    link->retry_ms = 1;
    if (!nth_address(tcp, link, ++link->attempt, &address)) {
        link->attempt = 0;
        link->retry_ms = clock_ms() + REDIAL_MS;
    }
}

static void dial_due(struct tcp *tcp, struct tcp_link *link, uint64_t now_ms)
{
    struct sock_address address;
    if (now_ms >= link->give_up_ms) {
        char sentence[SENTENCE_MAX];
        snprintf(sentence, sizeof sentence, "connect to %s over tcp: %.300s",
                 tcp->config->peer_names[link->peer],
                 link->last_error[0] ? link->last_error : "no answer");
        tcp_link_fail(tcp, link, TUTTI_ERR_PEER, sentence);
        return;
    }
    link->retry_ms = 0;
    if (!nth_address(tcp, link, link->attempt, &address)) {
        tcp_link_fail(tcp, link, TUTTI_ERR_CONNECT, "the peer has no tcp address");
        return;
    }
    if (dial(tcp, link, &address) != TUTTI_OK)
        next_attempt(tcp, link);
}

void tcp_handshake_step(struct tcp *tcp, struct tcp_lane *lane)
{
    struct tcp_link *link = lane->link;
    struct sock_address to = {0};
    if (link)
        nth_address(tcp, link, link->attempt, &to);
    tutti_status status = advance(tcp, lane, &to);
    if (status == TUTTI_IN_PROGRESS)
        return;
    if (link) {
        if (status != TUTTI_OK) {
            next_attempt(tcp, link);
            return;
        }
        free(lane->handshake);
        lane->handshake = NULL;
        tcp_lane_up(tcp, lane);
        return;
    }
    if (status == TUTTI_OK)
        status = settle(tcp, lane);
    if (status != TUTTI_OK)
        log_at(LOG_LEVEL_INFO, (int)tcp->config->rank, "tcp: dropped a connection from %s: %s",
               lane->handshake->from, status_sentence());
    drop_pending(tcp, lane);
}

void tcp_service(struct tcp *tcp, uint64_t now_ms)
{
    for (uint32_t i = 0; i < tcp->pending_count;) {
        struct tcp_lane *lane = tcp->pending[i];
        if (now_ms >= lane->handshake->deadline_ms)
            drop_pending(tcp, lane);
        else
            i++;
    }
    for (uint32_t p = 0; p < tcp->config->size && tcp->coming_up > 0; p++) {
        struct tcp_link *link = tcp->links[p];
        if (!link || link->down)
            continue;
        bool late = false, up = true;
        for (uint32_t i = 0; i <= tcp->config->lanes; i++) {
            struct tcp_lane *lane = &link->lanes[i];
            up = up && lane->up;
            late = late || (lane->handshake && now_ms >= lane->handshake->deadline_ms);
        }
        if (up)
            continue;
        if (link->dials && link->retry_ms > 0 && now_ms >= link->retry_ms) {
            dial_due(tcp, link, now_ms);
        } else if (link->dials && late) {
            fail(TUTTI_ERR_CONNECT, "no answer within %d ms", TCP_DIAL_MS + TCP_HANDSHAKE_MS);
            next_attempt(tcp, link);
        } else if (!link->dials && now_ms >= link->give_up_ms) {
            char sentence[SENTENCE_MAX];
            snprintf(sentence, sizeof sentence,
                     "%s did not connect over tcp within TUTTI_CONNECT_TIMEOUT_MS",
                     tcp->config->peer_names[link->peer]);
            tcp_link_fail(tcp, link, TUTTI_ERR_PEER, sentence);
        }
    }
}
