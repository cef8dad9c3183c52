/* tcp.c: the TCP transport: the operations of the contract, progress, events.
 * The idea: one set of sockets per peer, made when first asked for; a send is tried at once and a
 * receive when poll finds data for it, so an idle call costs one or two system calls at most. With
 * few receives posted their sockets are simply read (the cheapest question one can ask the
 * kernel); with many, or when a send waits for room, epoll says which ones are worth it.
 * Progress looks at the quiet sockets (listeners, control) only now and then.
 * Invariant: a transfer given to send or recv with TUTTI_IN_PROGRESS is in exactly one queue: its
 * lane's, or `done`. */
#include "transports/tcp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/owned.h"

#define EVENTS_MAX 64 /* per gathering; the rest comes with the next */

static struct tcp *tcp_of(struct transport *transport)
{
    return (struct tcp *)transport;
}

const char *tcp_peer_name(const struct tcp *tcp, uint32_t peer)
{
    return tcp->config->peer_names ? tcp->config->peer_names[peer] : "a peer";
}

void tcp_finish(struct tcp *tcp, struct xfer *xfer, tutti_status status)
{
    xfer->work[0] = status; /* shown by poll: until then the transfer is ours */
    tcp_queue_add(&tcp->done, xfer);
}

/* ---- readiness --------------------------------------------------------------------------------
 */

tutti_status tcp_watch(struct tcp *tcp, int fd, struct tcp_source *source, bool again)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = source};
    if (epoll_ctl(tcp->epoll, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0)
        return fail_errno(TUTTI_ERR_NOMEM, "watch a socket");
    return TUTTI_OK;
}

void tcp_close_fd(struct tcp *tcp, int *fd)
{
    if (*fd < 0)
        return;
    if (tcp->owner == getpid()) /* a child has given up its copies */
        epoll_ctl(tcp->epoll, EPOLL_CTL_DEL, *fd, NULL);
    owned_close(*fd);
    *fd = -1;
}

void tcp_timer_before(struct tcp *tcp, uint64_t when_ms)
{
    if (when_ms != UINT64_MAX && (tcp->timer_ms == 0 || when_ms < tcp->timer_ms))
        tcp->timer_ms = when_ms > 0 ? when_ms : 1;
}

void tcp_gather(struct tcp *tcp)
{
    struct epoll_event events[EVENTS_MAX];
    int count;
    do {
        count = epoll_wait(tcp->epoll, events, EVENTS_MAX, 0);
        tcp->stats.syscalls++;
        for (int i = 0; i < count; i++) {
            struct tcp_source *source = events[i].data.ptr;
            uint32_t what = events[i].events;
            bool broken = what & (EPOLLERR | EPOLLHUP);
            source->readable = source->readable || broken || (what & (EPOLLIN | EPOLLRDHUP));
            source->writable = source->writable || broken || (what & EPOLLOUT);
            tcp->attention[source->kind] = true;
        }
    } while (count == EVENTS_MAX);
}

static void serve_control(struct tcp *tcp)
{
    tcp->attention[TCP_CONTROL] = false;
    for (struct tcp_link *link = tcp->all; link; link = link->next) {
        struct tcp_control *control = &link->control;
        if (control->fd >= 0 && control->source.writable && control->out_begin < control->out_end)
            tcp_control_flush(link);
        if (control->fd >= 0 && control->source.readable)
            tcp_control_read(link);
    }
}

/* Everything but data: new connections, handshakes, notices, deadlines. */
static void serve_quiet(struct tcp *tcp)
{
    if (tcp->attention[TCP_TIMER]) {
        uint64_t times;
        ssize_t ignored = read(tcp->timer, &times, sizeof times);
        (void)ignored; /* only its readiness mattered */
    }
    if (tcp->attention[TCP_CONTROL])
        serve_control(tcp);
    if (tcp->attention[TCP_LISTENER] || tcp->attention[TCP_HAND] || tcp->attention[TCP_TIMER] ||
        (tcp->timer_ms != 0 && clock_ms() >= tcp->timer_ms))
        tcp_connect_service(tcp);
    if (tcp->attention[TCP_CONTROL])
        serve_control(tcp);
}

/* ---- opening and closing ----------------------------------------------------------------------
 */

static bool tcp_probe(const struct settings *settings, char *why, size_t len)
{
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count;
    tutti_status status = sock_interfaces(settings, list, SOCK_INTERFACES_MAX, &count);
    if (status == TUTTI_OK && count > 0)
        return true;
    snprintf(why, len, "%s", status == TUTTI_OK ? "no network interface is up" : status_sentence());
    return false;
}

/* Frames may be half sent or half received, so the lanes are of no use afterwards. */
static void forget_transfers(struct tcp_link *link)
{
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++) {
        link->lanes[i].recvs = link->lanes[i].sends = (struct tcp_queue){0};
        link->lanes[i].broken = TUTTI_ERR_ABORTED;
        tcp_lane_relist(&link->lanes[i]);
    }
}

static void forget_all(struct tcp *tcp)
{
    tcp->done = (struct tcp_queue){0};
    for (struct tcp_link *link = tcp->all; link; link = link->next)
        forget_transfers(link);
}

/* Does a notice wait for a link, or for this one, to be made? */
static bool is_untold(const struct tcp *tcp, const struct tcp_link *only)
{
    for (const struct tcp_link *link = tcp->all; link; link = link->next) {
        if ((!only || link == only) && link->state == TCP_LINK_MAKING &&
            link->control.out_begin < link->control.out_end)
            return true;
    }
    return false;
}

/* A peer that has all of a link while this side does not yet would see it end without a word, so
 * what is being made, and has something to say, is made; its transfers are forgotten. */
static void make_untold(struct tcp *tcp, const struct tcp_link *only, uint64_t deadline)
{
    uint64_t now = clock_ms(), answer = now + TRANSPORT_ANSWER_MS;
    while (is_untold(tcp, only) && now < answer && now < deadline) {
        tcp_gather(tcp);
        if (tcp->attention[TCP_LISTENER] || tcp->attention[TCP_HAND] || tcp->attention[TCP_CONTROL])
            answer = now + TRANSPORT_ANSWER_MS;
        serve_quiet(tcp);
        clock_sleep_us(200);
        now = clock_ms();
    }
}

/* The last words to every peer, or to one. */
static void say_farewell(struct tcp *tcp, struct tcp_link *only)
{
    uint64_t deadline = clock_ms() + TRANSPORT_FLUSH_MS;
    make_untold(tcp, only, deadline);
    tcp_control_farewell(tcp, only, deadline);
}

/* Ends every link, with a goodbye where it is up, and listens no more; transfers are forgotten. */
static void leave_peers(struct tcp *tcp)
{
    if (tcp->owner == getpid())
        say_farewell(tcp, NULL);
    while (tcp->all)
        tcp_link_free(tcp->all);
    for (uint32_t i = 0; i < tcp->listener_count; i++)
        tcp_close_fd(tcp, &tcp->listeners[i].fd);
    for (uint32_t i = 0; tcp->incoming && i < TCP_INCOMING_MAX; i++) {
        if (tcp->incoming[i].stage != TCP_STAGE_NONE)
            tcp_close_fd(tcp, &tcp->incoming[i].fd);
        tcp->incoming[i].stage = TCP_STAGE_NONE;
        auth_end(&tcp->incoming[i].auth);
    }
    tcp->listener_count = tcp->incoming_count = 0;
}

static void tcp_close(struct transport *transport)
{
    struct tcp *tcp = tcp_of(transport);
    if (!tcp)
        return;
    forget_all(tcp);
    leave_peers(tcp);
    tcp_close_fd(tcp, &tcp->timer);
    if (tcp->epoll >= 0)
        owned_close(tcp->epoll);
    memset(tcp->secret, 0, sizeof tcp->secret);
    free(tcp->incoming);
    free(tcp->knocked);
    free(tcp->links);
    free(tcp);
}

static tutti_status open_descriptors(struct tcp *tcp)
{
    tcp->epoll = owned_add(epoll_create1(EPOLL_CLOEXEC));
    tcp->timer = owned_add(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (tcp->epoll < 0 || tcp->timer < 0)
        return fail_errno(TUTTI_ERR_NOMEM, "descriptors of the TCP transport");
    tcp->timer_source.kind = TCP_TIMER;
    tutti_status status = tcp_watch(tcp, tcp->timer, &tcp->timer_source, false);
    if (status == TUTTI_OK)
        status = tcp_listen(tcp);
    if (status == TUTTI_OK)
        status = auth_random(tcp->nonce, sizeof tcp->nonce);
    return status;
}

static tutti_status tcp_open(const struct transport_config *config, struct transport **transport)
{
    must(config->lanes >= 1 && config->lanes <= TRANSPORT_LANES_MAX);
    struct tcp *tcp = calloc(1, sizeof *tcp);
    if (!tcp)
        return fail(TUTTI_ERR_NOMEM, "no memory for the TCP transport");
    tcp->base.ops = &tcp_ops;
    tcp->config = config;
    tcp->epoll = tcp->timer = -1;
    tcp->owner = getpid();
    for (int i = 0; i < TCP_ADDRESSES_MAX; i++)
        tcp->listeners[i].fd = -1;
    for (int i = 0; i < 32; i++)
        snprintf(tcp->secret + 2 * i, 3, "%02x", config->secret[i]);
    tcp->links = calloc(config->size, sizeof *tcp->links);
    tcp->knocked = calloc(config->size, sizeof *tcp->knocked);
    tcp->incoming = calloc(TCP_INCOMING_MAX, sizeof *tcp->incoming);
    tutti_status status = tcp->links && tcp->knocked && tcp->incoming
                              ? open_descriptors(tcp)
                              : fail(TUTTI_ERR_NOMEM, "no memory for the TCP transport");
    if (status != TUTTI_OK) {
        tcp_close(&tcp->base);
        return status;
    }
    *transport = &tcp->base;
    return TUTTI_OK;
}

static tutti_status tcp_address(struct transport *transport, void *address, size_t *len)
{
    tcp_address_write(tcp_of(transport), address, len);
    return TUTTI_OK;
}

static bool tcp_reaches(struct transport *transport, uint32_t peer, const void *address, size_t len)
{
    struct tcp_peer_address list;
    return tcp_address_read(tcp_of(transport), address, len, &list) && list.count > 0;
}

static tutti_status tcp_connect(struct transport *transport, uint32_t peer, const void *address,
                                size_t len)
{
    struct tcp *tcp = tcp_of(transport);
    if (peer >= tcp->config->size || peer == tcp->config->rank)
        return fail(TUTTI_ERR_ARG, "rank %u cannot be connected to by TCP from rank %u", peer,
                    tcp->config->rank);
    struct tcp_link *link = tcp->links[peer];
    if (link && link->wanted)
        return link->state == TCP_LINK_ENDED ? fail(link->status, "%s", link->sentence) : TUTTI_OK;
    struct tcp_peer_address list;
    if (!tcp_address_read(tcp, address, len, &list))
        return fail(TUTTI_ERR_PROTOCOL, "%s gave a TCP address that makes no sense",
                    tcp_peer_name(tcp, peer));
    if (list.count == 0)
        return fail(TUTTI_ERR_CONNECT,
                    "%s offers no TCP address of a kind that this host has: see TUTTI_INTERFACE "
                    "and TUTTI_FAMILY",
                    tcp_peer_name(tcp, peer));
    tutti_status status = tcp_link_get(tcp, peer, &link);
    if (status == TUTTI_OK)
        tcp_link_begin(link, &list);
    return status;
}

static bool tcp_wanted(struct transport *transport, uint32_t peer, const void *address, size_t len)
{
    const struct tcp *tcp = tcp_of(transport);
    return tcp->knocked[peer] && !tcp->links[peer];
}

static void tcp_disconnect(struct transport *transport, uint32_t peer)
{
    struct tcp *tcp = tcp_of(transport);
    struct tcp_link *link = tcp->links[peer];
    if (!link)
        return;
    forget_transfers(link);
    struct tcp_queue done = tcp->done;
    tcp->done = (struct tcp_queue){0};
    while (done.head) {
        struct xfer *xfer = tcp_queue_take(&done);
        if (xfer->peer != peer)
            tcp_queue_add(&tcp->done, xfer);
    }
    say_farewell(tcp, link);
    tcp_link_free(link);
}

static void tcp_cancel(struct transport *transport, bool leave)
{
    struct tcp *tcp = tcp_of(transport);
    tcp->cancelled = true;
    forget_all(tcp);
    if (leave)
        leave_peers(tcp);
    else
        make_untold(tcp, NULL,
                    clock_ms() + TRANSPORT_FLUSH_MS); /* the caller's process may end next */
}

/* ---- transfers --------------------------------------------------------------------------------
 */

static tutti_status check_link(struct tcp *tcp, const struct xfer *xfer, struct tcp_link **link)
{
    must(xfer->peer < tcp->config->size && xfer->lane < tcp->config->lanes);
    *link = tcp->links[xfer->peer];
    if (tcp->cancelled)
        return fail(TUTTI_ERR_ABORTED, "the communicator was aborted");
    if (!*link)
        return fail(TUTTI_ERR_STATE, "no link to %s was asked for", tcp_peer_name(tcp, xfer->peer));
    return TUTTI_OK;
}

static tutti_status tcp_send(struct transport *transport, struct xfer *xfer)
{
    struct tcp *tcp = tcp_of(transport);
    struct tcp_link *link;
    tutti_status status = check_link(tcp, xfer, &link);
    if (status == TUTTI_OK && link->state == TCP_LINK_ENDED)
        status = tcp_link_refuse(link);
    if (status != TUTTI_OK)
        return xfer->status = status;
    struct tcp_lane *lane = &link->lanes[xfer->lane];
    xfer->status = TUTTI_IN_PROGRESS;
    xfer->work[0] = 0; /* bytes written, header included */
    xfer->next = NULL;
    if (link->state == TCP_LINK_UP && !lane->sends.head) {
        status = tcp_lane_write(lane, xfer);
        if (status != TUTTI_IN_PROGRESS) {
            if (status != TUTTI_OK)
                status = tcp_link_refuse(link);
            return xfer->status = status;
        }
    }
    tcp_queue_add(&lane->sends, xfer);
    tcp_lane_relist(lane);
    return TUTTI_IN_PROGRESS;
}

static tutti_status tcp_recv(struct transport *transport, struct xfer *xfer)
{
    struct tcp *tcp = tcp_of(transport);
    struct tcp_link *link;
    tutti_status status = check_link(tcp, xfer, &link);
    if (status != TUTTI_OK)
        return xfer->status = status;
    struct tcp_lane *lane = &link->lanes[xfer->lane];
    if (lane->broken)
        return xfer->status = fail(lane->broken, "%s sent another operation or length before",
                                   tcp_peer_name(tcp, xfer->peer));
    /* After the end of a link only what has already arrived can still be received. */
    bool dry = lane->ended && lane->end - lane->begin < TCP_FRAME_LEN;
    if (link->state == TCP_LINK_ENDED && dry)
        return xfer->status = tcp_link_refuse(link);
    xfer->status = TUTTI_IN_PROGRESS;
    tcp_queue_add(&lane->recvs, xfer);
    tcp_lane_relist(lane);
    return TUTTI_IN_PROGRESS;
}

/* Is reading the lane worth it? Bytes of half a header are nothing yet, and the lanes of a link
 * that ended may be silent for a while before they count as ended too. */
static bool may_receive(const struct tcp_lane *lane)
{
    const struct tcp_link *link = lane->link;
    uint32_t useful = lane->in_frame ? 1 : TCP_FRAME_LEN;
    bool over = link->state == TCP_LINK_ENDED && (lane->ended || link->linger_ms == 0);
    return over || (link->state != TCP_LINK_MAKING &&
                    (lane->source.readable || lane->end - lane->begin >= useful));
}

static struct xfer *tcp_poll(struct transport *transport)
{
    struct tcp *tcp = tcp_of(transport);
    bool direct = tcp->recv_lane_count <= TCP_DIRECT_MAX;
    if (!direct || tcp->send_lanes || tcp->timer_ms != 0 || ++tcp->idle_polls >= TCP_IDLE_POLLS) {
        tcp->idle_polls = 0;
        tcp_gather(tcp);
        serve_quiet(tcp);
    }
    struct tcp_lane *next;
    for (struct tcp_lane *lane = tcp->send_lanes; lane; lane = next) {
        next = lane->next_send;
        if (lane->source.writable && lane->link->state == TCP_LINK_UP)
            tcp_lane_send(lane);
    }
    for (struct tcp_lane *lane = tcp->recv_lanes; lane; lane = next) {
        next = lane->next_recv;
        lane->source.readable = lane->source.readable || direct;
        if (may_receive(lane))
            tcp_lane_receive(lane);
    }
    struct xfer *done = tcp->done.head;
    tcp->done = (struct tcp_queue){0};
    for (struct xfer *xfer = done; xfer; xfer = xfer->next)
        xfer->status = (tutti_status)xfer->work[0];
    return done;
}

/* ---- notices and events -----------------------------------------------------------------------
 */

static tutti_status tcp_notify(struct transport *transport, uint32_t peer,
                               const struct notice *notice)
{
    struct tcp *tcp = tcp_of(transport);
    struct tcp_link *link = peer < tcp->config->size ? tcp->links[peer] : NULL;
    if (!link)
        return fail(TUTTI_ERR_STATE, "no link to rank %u was asked for", peer);
    if (link->state == TCP_LINK_ENDED && link->control.fd < 0)
        return fail(link->status, "%s", link->sentence);
    tutti_status status = tcp_control_put(link, TCP_CONTROL_NOTICE, notice);
    tcp_control_flush(link);
    return status;
}

static bool next_unexpected(struct tcp *tcp, struct transport_event *event)
{
    uint32_t lanes = tcp->config->lanes;
    for (uint64_t end = (uint64_t)tcp->config->size * lanes; tcp->cursor < end; tcp->cursor++) {
        struct tcp_link *link = tcp->links[tcp->cursor / lanes];
        uint32_t lane = (uint32_t)(tcp->cursor % lanes);
        if (!link) {
            tcp->cursor += lanes - 1;
            continue;
        }
        struct tag tag;
        size_t len;
        if (!tcp_lane_unexpected(&link->lanes[lane], &tag, &len))
            continue;
        *event = (struct transport_event){.kind = TRANSPORT_EVENT_UNEXPECTED,
                                          .peer = link->peer,
                                          .lane = lane,
                                          .tag = tag,
                                          .len = len};
        tcp->cursor++;
        return true;
    }
    return false;
}

static bool tcp_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct tcp *tcp = tcp_of(transport);
    if (restart) {
        tcp->cursor = 0;
        tcp_gather(tcp);
        serve_quiet(tcp);
    }
    for (struct tcp_link *link = tcp->all; link; link = link->next) {
        struct tcp_control *control = &link->control;
        if (control->notice_ready) {
            *event = (struct transport_event){.kind = TRANSPORT_EVENT_NOTICE, .peer = link->peer};
            tcp_get_notice(control->in + TCP_CONTROL_LEN, &event->notice);
            control->notice_ready = false;
            control->have = 0;
            tcp_control_read(link); /* the next one, for the next call */
            return true;
        }
        if (link->down && !link->down_told) {
            link->down_told = true;
            *event = (struct transport_event){
                .kind = TRANSPORT_EVENT_LINK_DOWN, .peer = link->peer, .status = link->status};
            snprintf(event->sentence, sizeof event->sentence, "%s", link->sentence);
            return true;
        }
    }
    return next_unexpected(tcp, event);
}

static int tcp_wait_fd(struct transport *transport)
{
    return tcp_of(transport)->epoll;
}

static bool tcp_arm(struct transport *transport)
{
    struct tcp *tcp = tcp_of(transport);
    tcp_gather(tcp);
    if (tcp->done.head)
        return false;
    for (int kind = 0; kind < TCP_KINDS; kind++) {
        if (kind != TCP_LANE && tcp->attention[kind])
            return false;
    }
    for (struct tcp_lane *lane = tcp->recv_lanes; lane; lane = lane->next_recv) {
        if (may_receive(lane))
            return false;
    }
    for (struct tcp_lane *lane = tcp->send_lanes; lane; lane = lane->next_send) {
        if (lane->source.writable && lane->link->state == TCP_LINK_UP)
            return false;
    }
    uint64_t when = tcp->timer_ms;
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(when / 1000), .tv_nsec = (long)(when % 1000) * 1000000}};
    if (when != 0 && timerfd_settime(tcp->timer, TFD_TIMER_ABSTIME, &spec, NULL) != 0)
        return false;
    return true;
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static bool tcp_takes(struct transport *transport, uint32_t peer, const void *memory, size_t len)
{
    return false;
}

static void tcp_stats(const struct transport *transport, struct transport_stats *stats)
{
    *stats = ((const struct tcp *)transport)->stats;
}

static void tcp_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    const struct tcp *tcp = (const struct tcp *)transport;
    /* A system call and an interrupt on each side; the slowest interface offered, in Mbit/s,
     * bounds the bandwidth: 8 bits over speed gives microseconds per byte. */
    uint32_t speed = tcp->interface_count > 0 ? tcp->interfaces[0].speed_mbps : 0;
    *alpha_us = 12.0;
    *us_per_byte = speed > 0 ? 8.0 / speed : 1.0 / 3000.0;
}

const struct transport_ops tcp_ops = {
    .name = "tcp",
    .probe = tcp_probe,
    .open = tcp_open,
    .close = tcp_close,
    .address = tcp_address,
    .reaches = tcp_reaches,
    .connect = tcp_connect,
    .wanted = tcp_wanted,
    .disconnect = tcp_disconnect,
    .send = tcp_send,
    .recv = tcp_recv,
    .poll = tcp_poll,
    .cancel = tcp_cancel,
    .notify = tcp_notify,
    .event = tcp_event,
    .wait_fd = tcp_wait_fd,
    .arm = tcp_arm,
    .takes = tcp_takes,
    .stats = tcp_stats,
    .model = tcp_model,
};
