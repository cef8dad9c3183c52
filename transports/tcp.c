/* tcp.c: moves messages over the sockets of a link. A send is tried at once, header and body in one
 * system call; what the kernel does not take is continued by poll. A receive parses the header,
 * compares it with what is posted, and lands the body straight where it belongs, reading ahead so
 * that many small messages cost one system call; a reduction is applied to each piece as it lands,
 * while it is still in the cache. A lane without a posted receive is not read: the kernel's buffers
 * hold the peer back.
 *
 * Sockets are watched edge-triggered: a lane is readable until a read would block. With one or two
 * lanes waiting, reading at once is cheaper than asking which is ready. */
#include "transports/tcp.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

#define EVENTS_MAX    64
#define FEW_LANES     2            /* up to here reading beats asking */
#define POLLS_PER_ASK 16           /* then ask anyway, every so many polls */
#define REDUCE_PIECE  (128u << 10) /* landed and reduced at a time: fits a private cache */
#define CLOSE_MS      200          /* bound on flushing at close */

/* ---- queues -----------------------------------------------------------------------------------
 */

static void finish(struct tcp *tcp, struct xfer *xfer, tutti_status status)
{
    xfer->status = status;
    xfer->next = NULL;
    *(tcp->done ? &tcp->done_last->next : &tcp->done) = xfer;
    tcp->done_last = xfer;
}

static void activate(struct tcp *tcp, struct tcp_lane *lane)
{
    if (!lane->active) {
        lane->active = true;
        tcp->active[tcp->active_count++] = lane;
    }
}

/* Ends what is posted on a lane in one direction. */
static void end_sends(struct tcp *tcp, struct tcp_lane *lane, tutti_status status)
{
    while (lane->send_head) {
        struct xfer *xfer = lane->send_head;
        lane->send_head = xfer->next;
        finish(tcp, xfer, status);
    }
}

static void end_receives(struct tcp *tcp, struct tcp_lane *lane, tutti_status status)
{
    while (lane->recv_head) {
        struct xfer *xfer = lane->recv_head;
        lane->recv_head = xfer->next;
        finish(tcp, xfer, status);
    }
}

void tcp_link_fail(struct tcp *tcp, struct tcp_link *link, tutti_status status,
                   const char *sentence)
{
    if (link->down)
        return;
    link->down = true;
    link->status = status;
    snprintf(link->sentence, sizeof link->sentence, "%s", sentence);
    for (uint32_t i = 0; i <= tcp->config->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        end_sends(tcp, lane, status);
        /* Bytes that arrived before the end are still delivered: progress_receives ends the rest
         * when it meets the end of the stream. */
        if (!lane->up || lane->ended || lane->broken)
            end_receives(tcp, lane, status);
        else
            activate(tcp, lane), lane->readable = true;
    }
}

static void lane_ended(struct tcp *tcp, struct tcp_lane *lane, int error)
{
    char sentence[SENTENCE_MAX];
    if (error)
        snprintf(sentence, sizeof sentence, "the tcp link to %s broke: %s",
                 tcp->config->peer_names[lane->link->peer], strerror(error));
    else
        snprintf(sentence, sizeof sentence, "%s closed its tcp link: it died or left",
                 tcp->config->peer_names[lane->link->peer]);
    lane->ended = true;
    lane->readable = lane->writable = false;
    tcp_link_fail(tcp, lane->link, TUTTI_ERR_PEER, sentence);
    end_receives(tcp, lane, lane->link->status);
}

void tcp_lane_up(struct tcp *tcp, struct tcp_lane *lane)
{
    lane->up = lane->readable = lane->writable = true;
    tcp->coming_up--;
    if (lane->send_head || lane->recv_head)
        activate(tcp, lane);
}

/* ---- sending ----------------------------------------------------------------------------------
 */

/* Sends what is left of the head; true when all of it is with the kernel. */
static bool push(struct tcp *tcp, struct tcp_lane *lane, struct xfer *xfer)
{
    while (lane->out_done < sizeof lane->out + xfer->len) {
        struct iovec parts[2];
        struct msghdr message = {.msg_iov = parts};
        uint64_t body = lane->out_done > sizeof lane->out ? lane->out_done - sizeof lane->out : 0;
        if (lane->out_done < sizeof lane->out)
            parts[message.msg_iovlen++] = (struct iovec){(char *)&lane->out + lane->out_done,
                                                         sizeof lane->out - lane->out_done};
        if (body < xfer->len)
            parts[message.msg_iovlen++] =
                (struct iovec){(char *)xfer->data + body, xfer->len - body};
        tcp->stats.syscalls++;
        ssize_t n = sendmsg(lane->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            lane->writable = false;
            /* A broken pipe is reported by the reading side, which sees what came before it. */
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS)
                lane->readable = true;
            return false;
        }
        lane->out_done += (uint64_t)n;
    }
    return true;
}

static void start_send(struct tcp_lane *lane, const struct xfer *xfer)
{
    lane->out = (struct tcp_frame){.magic = TCP_FRAME_MAGIC, .len = xfer->len};
    memcpy(lane->out.tag, xfer->tag, sizeof lane->out.tag);
    lane->out_done = 0;
}

static void progress_sends(struct tcp *tcp, struct tcp_lane *lane)
{
    while (lane->send_head && lane->writable) {
        struct xfer *xfer = lane->send_head;
        if (!push(tcp, lane, xfer))
            return;
        lane->send_head = xfer->next;
        finish(tcp, xfer, TUTTI_OK);
        if (lane->send_head)
            start_send(lane, lane->send_head);
    }
}

static tutti_status refuse(struct tcp_link *link, struct xfer *xfer)
{
    return xfer->status = fail(link->status, "%s", link->sentence);
}

static tutti_status tcp_send(struct transport *transport, struct xfer *xfer)
{
    struct tcp *tcp = (struct tcp *)transport;
    struct tcp_link *link = tcp->links[xfer->peer];
    must(link && xfer->lane < tcp->config->lanes);
    struct tcp_lane *lane = &link->lanes[xfer->lane];
    if (link->down)
        return refuse(link, xfer);
    tcp->stats.sends++;
    tcp->stats.bytes_sent += xfer->len;
    xfer->next = NULL;
    if (!lane->send_head) {
        start_send(lane, xfer);
        if (lane->up && push(tcp, lane, xfer))
            return xfer->status = TUTTI_OK;
        lane->send_head = xfer;
    } else {
        lane->send_last->next = xfer;
    }
    lane->send_last = xfer;
    xfer->status = TUTTI_IN_PROGRESS;
    activate(tcp, lane);
    return TUTTI_IN_PROGRESS;
}

/* ---- receiving --------------------------------------------------------------------------------
 */

/* Reads into up to two places: >0 bytes, 0 nothing now, -1 the stream is over (lane ended). */
static ssize_t pull(struct tcp *tcp, struct tcp_lane *lane, struct iovec *parts, int count)
{
    for (;;) {
        tcp->stats.syscalls++;
        ssize_t n = readv(lane->fd, parts, count);
        if (n > 0)
            return n;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            lane->readable = false;
            return 0;
        }
        lane_ended(tcp, lane, n < 0 ? errno : 0);
        return -1;
    }
}

/* Makes sure that a whole header is in the buffer. */
static bool have_header(struct tcp *tcp, struct tcp_lane *lane)
{
    while (lane->end - lane->begin < sizeof(struct tcp_frame)) {
        if (lane->ended)
            return false;
        if (lane->begin > 0) {
            memmove(lane->buffer, lane->buffer + lane->begin, lane->end - lane->begin);
            lane->end -= lane->begin;
            lane->begin = 0;
        }
        struct iovec part = {lane->buffer + lane->end, TCP_BUFFER - lane->end};
        ssize_t n = pull(tcp, lane, &part, 1);
        if (n <= 0)
            return false;
        lane->end += (uint32_t)n;
    }
    return true;
}

/* Starts the body that belongs to the head receive; false if it does not match. */
static bool match(struct tcp *tcp, struct tcp_lane *lane, struct xfer *xfer)
{
    memcpy(&lane->in, lane->buffer + lane->begin, sizeof lane->in);
    lane->begin += sizeof lane->in;
    struct tag tag;
    memcpy(&tag, lane->in.tag, sizeof tag);
    if (lane->in.magic != TCP_FRAME_MAGIC) {
        char sentence[SENTENCE_MAX];
        snprintf(sentence, sizeof sentence, "%s sent bytes that are no frame of this protocol",
                 tcp->config->peer_names[lane->link->peer]);
        lane->broken = TUTTI_ERR_PROTOCOL;
        tcp_link_fail(tcp, lane->link, TUTTI_ERR_PROTOCOL, sentence);
        return false;
    }
    if (lane->in.len == xfer->len && tag_equal(&tag, xfer->tag)) {
        lane->in_body = true;
        lane->in_done = lane->in_applied = 0;
        return true;
    }
    lane->broken = TUTTI_ERR_MISMATCH;
    xfer->seen = tag;
    xfer->seen_len = lane->in.len;
    fail(TUTTI_ERR_MISMATCH, "%s sent another operation or length than expected",
         tcp->config->peer_names[lane->link->peer]);
    lane->recv_head = xfer->next;
    finish(tcp, xfer, TUTTI_ERR_MISMATCH);
    end_receives(tcp, lane, TUTTI_ERR_MISMATCH);
    return false;
}

/* Reduces the whole elements that have landed since the last time. */
static void apply(struct tcp_lane *lane, struct xfer *xfer)
{
    if (!xfer->reducer)
        return;
    uint64_t from = lane->in_applied, to = lane->in_done - lane->in_done % xfer->reducer->elem_size;
    if (to == from)
        return;
    char *dst = (char *)xfer->dst + from;
    const char *landed = (const char *)xfer->data + from, *other = (const char *)xfer->other + from;
    reduce_apply(xfer->reducer, dst, xfer->incoming_first ? landed : other,
                 xfer->incoming_first ? other : landed, to - from);
    lane->in_applied = to;
}

/* Lands more of the body; true when it is complete. */
static bool land(struct tcp *tcp, struct tcp_lane *lane, struct xfer *xfer)
{
    while (lane->in_done < xfer->len) {
        uint64_t left = xfer->len - lane->in_done;
        uint32_t ahead = lane->end - lane->begin;
        char *to = (char *)xfer->data + lane->in_done;
        if (ahead > 0) {
            uint32_t n = left < ahead ? (uint32_t)left : ahead;
            memcpy(to, lane->buffer + lane->begin, n);
            lane->begin += n;
            lane->in_done += n;
            apply(lane, xfer);
            continue;
        }
        if (lane->ended)
            return false;
        lane->begin = lane->end = 0;
        uint64_t piece = xfer->reducer && left > REDUCE_PIECE ? REDUCE_PIECE : left;
        struct iovec parts[2] = {{to, piece}, {lane->buffer, TCP_BUFFER}};
        ssize_t n = pull(tcp, lane, parts, piece == left ? 2 : 1);
        if (n <= 0)
            return false;
        uint64_t landed = (uint64_t)n < piece ? (uint64_t)n : piece;
        lane->in_done += landed;
        lane->end = (uint32_t)((uint64_t)n - landed);
        apply(lane, xfer);
    }
    return true;
}

static void progress_receives(struct tcp *tcp, struct tcp_lane *lane)
{
    while (lane->recv_head && !lane->broken) {
        struct xfer *xfer = lane->recv_head;
        if (!lane->in_body && (!have_header(tcp, lane) || !match(tcp, lane, xfer)))
            break;
        if (!land(tcp, lane, xfer))
            break;
        lane->in_body = false;
        lane->recv_head = xfer->next;
        finish(tcp, xfer, TUTTI_OK);
    }
    if (lane->recv_head && (lane->ended || lane->broken))
        end_receives(tcp, lane, lane->ended ? lane->link->status : lane->broken);
}

static tutti_status tcp_recv(struct transport *transport, struct xfer *xfer)
{
    struct tcp *tcp = (struct tcp *)transport;
    struct tcp_link *link = tcp->links[xfer->peer];
    must(link && xfer->lane < tcp->config->lanes);
    struct tcp_lane *lane = &link->lanes[xfer->lane];
    bool readable = lane->up && !lane->broken && (!lane->ended || lane->begin < lane->end);
    if (lane->broken && !link->down)
        return xfer->status = fail(lane->broken, "%s sent another operation before",
                                   tcp->config->peer_names[link->peer]);
    if (link->down && !readable)
        return refuse(link, xfer);
    tcp->stats.recvs++;
    tcp->stats.bytes_received += xfer->len;
    xfer->next = NULL;
    xfer->status = TUTTI_IN_PROGRESS;
    *(lane->recv_head ? &lane->recv_last->next : &lane->recv_head) = xfer;
    lane->recv_last = xfer;
    if (lane->begin < lane->end || link->down)
        lane->readable = true; /* read-ahead bytes may be all there is to come */
    activate(tcp, lane);
    return TUTTI_IN_PROGRESS;
}

/* ---- control ----------------------------------------------------------------------------------
 */

static void flush_notices(struct tcp *tcp, struct tcp_link *link)
{
    struct tcp_lane *control = &link->lanes[tcp->config->lanes];
    while (control->up && !control->ended && link->notice_count > 0) {
        ssize_t n = send(control->fd, (char *)&link->notices_out[0] + link->notice_done,
                         sizeof(struct notice) - link->notice_done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0)
            return;
        link->notice_done += (uint64_t)n;
        if (link->notice_done < sizeof(struct notice))
            continue;
        link->notice_done = 0;
        memmove(link->notices_out, link->notices_out + 1,
                --link->notice_count * sizeof *link->notices_out);
    }
}

static tutti_status tcp_notify(struct transport *transport, uint32_t peer,
                               const struct notice *notice)
{
    struct tcp *tcp = (struct tcp *)transport;
    struct tcp_link *link = tcp->links[peer];
    if (!link || link->down)
        return fail(TUTTI_ERR_PEER, "no tcp link to %s", tcp->config->peer_names[peer]);
    if (link->notice_count == TCP_NOTICES_MAX)
        return fail(TUTTI_ERR_NOMEM, "too many notices to %s", tcp->config->peer_names[peer]);
    link->notices_out[link->notice_count++] = *notice;
    flush_notices(tcp, link);
    return TUTTI_OK;
}

/* The next whole notice of a link; notes the end of its control socket. */
static bool read_notice(struct tcp *tcp, struct tcp_link *link, struct notice *notice)
{
    struct tcp_lane *control = &link->lanes[tcp->config->lanes];
    while (control->up && !control->ended) {
        ssize_t n = recv(control->fd, (char *)&link->notice_in + link->notice_have,
                         sizeof *notice - link->notice_have, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return false;
        if (n <= 0) {
            lane_ended(tcp, control, n < 0 ? errno : 0);
            return false;
        }
        link->notice_have += (uint64_t)n;
        if (link->notice_have == sizeof *notice) {
            link->notice_have = 0;
            *notice = link->notice_in;
            return true;
        }
    }
    return false;
}

static bool unexpected(struct tcp *tcp, struct transport_event *event)
{
    for (; tcp->event_link < tcp->config->size; tcp->event_link++, tcp->event_lane = 0) {
        struct tcp_link *link = tcp->links[tcp->event_link];
        while (link && tcp->event_lane < tcp->config->lanes) {
            struct tcp_lane *lane = &link->lanes[tcp->event_lane++];
            struct tcp_frame frame;
            if (!lane->up || lane->recv_head || lane->in_body || lane->broken ||
                !have_header(tcp, lane))
                continue;
            memcpy(&frame, lane->buffer + lane->begin, sizeof frame);
            *event = (struct transport_event){.kind = TRANSPORT_EVENT_UNEXPECTED,
                                              .peer = link->peer,
                                              .lane = lane->index,
                                              .len = frame.len};
            memcpy(&event->tag, frame.tag, sizeof event->tag);
            return true;
        }
    }
    return false;
}

static void ask(struct tcp *tcp);

static bool tcp_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct tcp *tcp = (struct tcp *)transport;
    if (restart) {
        tcp->event_link = tcp->event_lane = 0;
        tcp_service(tcp, clock_ms());
        ask(tcp);
    }
    for (uint32_t p = 0; p < tcp->config->size; p++) {
        struct tcp_link *link = tcp->links[p];
        if (!link || link->reported)
            continue;
        flush_notices(tcp, link);
        if (read_notice(tcp, link, &event->notice)) {
            event->kind = TRANSPORT_EVENT_NOTICE;
            event->peer = p;
            return true;
        }
        if (link->down) {
            link->reported = true;
            event->kind = TRANSPORT_EVENT_LINK_DOWN;
            event->peer = p;
            event->status = link->status;
            memcpy(event->sentence, link->sentence, sizeof event->sentence);
            return true;
        }
    }
    return unexpected(tcp, event);
}

/* ---- progress ---------------------------------------------------------------------------------
 */

/* Asks the kernel which sockets can go on. */
static void ask(struct tcp *tcp)
{
    struct epoll_event events[EVENTS_MAX];
    tcp->stats.syscalls++;
    int n = epoll_wait(tcp->epoll, events, EVENTS_MAX, 0);
    for (int i = 0; i < n; i++) {
        struct tcp_lane *lane = events[i].data.ptr;
        if (!lane) {
            for (uint32_t l = 0; l < tcp->listener_count; l++)
                tcp_accept(tcp, tcp->listeners[l]);
        } else if (lane->handshake) {
            tcp_handshake_step(tcp, lane);
        } else {
            lane->readable |= (events[i].events & ~(uint32_t)EPOLLOUT) != 0;
            lane->writable |= (events[i].events & EPOLLOUT) != 0;
        }
    }
}

static struct xfer *tcp_poll(struct transport *transport)
{
    struct tcp *tcp = (struct tcp *)transport;
    bool few = tcp->active_count <= FEW_LANES && tcp->coming_up == 0;
    if (!few || ++tcp->polls % POLLS_PER_ASK == 0)
        ask(tcp);
    if (tcp->coming_up > 0 && ++tcp->polls % POLLS_PER_ASK == 0)
        tcp_service(tcp, clock_ms());
    for (uint32_t i = 0; i < tcp->active_count; i++) {
        struct tcp_lane *lane = tcp->active[i];
        if (lane->up && lane->recv_head && (few || lane->readable))
            progress_receives(tcp, lane);
        if (lane->up && lane->send_head)
            progress_sends(tcp, lane);
        if (!lane->recv_head && !lane->send_head) {
            lane->active = false;
            tcp->active[i--] = tcp->active[--tcp->active_count];
        }
    }
    struct xfer *done = tcp->done;
    tcp->done = NULL;
    return done;
}

static int tcp_wait_fd(struct transport *transport)
{
    return ((struct tcp *)transport)->epoll;
}

static bool tcp_arm(struct transport *transport)
{
    struct tcp *tcp = (struct tcp *)transport;
    if (tcp->coming_up > 0)
        tcp_service(tcp, clock_ms());
    ask(tcp);
    if (tcp->done)
        return false;
    for (uint32_t i = 0; i < tcp->active_count; i++) {
        const struct tcp_lane *lane = tcp->active[i];
        if (lane->up &&
            ((lane->recv_head && lane->readable) || (lane->send_head && lane->writable)))
            return false;
    }
    return true;
}

static void tcp_cancel(struct transport *transport)
{
    struct tcp *tcp = (struct tcp *)transport;
    for (uint32_t p = 0; p < tcp->config->size; p++) {
        struct tcp_link *link = tcp->links[p];
        for (uint32_t i = 0; link && i < tcp->config->lanes; i++) {
            struct tcp_lane *lane = &link->lanes[i];
            lane->send_head = lane->recv_head = NULL;
            lane->broken = TUTTI_ERR_ABORTED;
        }
    }
    tcp->done = NULL;
}

/* ---- life -------------------------------------------------------------------------------------
 */

static bool tcp_probe(const struct settings *settings, char *why, size_t len)
{
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count;
    if (sock_interfaces(settings, list, SOCK_INTERFACES_MAX, &count) == TUTTI_OK && count > 0)
        return true;
    snprintf(why, len, "%s", status_sentence());
    return false;
}

static void tcp_close(struct transport *transport);

static tutti_status tcp_open(const struct transport_config *config, struct transport **transport)
{
    struct tcp *tcp = calloc(1, sizeof *tcp);
    if (!tcp)
        return fail(TUTTI_ERR_NOMEM, "tcp: no memory for a transport");
    tcp->base.ops = &tcp_ops;
    tcp->config = config;
    tcp->owner = getpid();
    for (int i = 0; i < 32; i++)
        snprintf(tcp->secret + 2 * i, 3, "%02x", config->secret[i]);
    memcpy(tcp->job, &config->comm_id, sizeof config->comm_id);
    tcp->links = calloc(config->size, sizeof *tcp->links);
    tcp->epoll = epoll_create1(EPOLL_CLOEXEC);
    tutti_status status = TUTTI_OK;
    if (!tcp->links)
        status = fail(TUTTI_ERR_NOMEM, "tcp: no memory for the links of %u ranks", config->size);
    else if (tcp->epoll < 0)
        status = fail_errno(TUTTI_ERR_SYSTEM, "tcp: epoll_create1");
    else
        status = tcp_listen(tcp);
    if (status != TUTTI_OK) {
        tcp_close(&tcp->base);
        return status;
    }
    *transport = &tcp->base;
    return TUTTI_OK;
}

/* Ends the streams so that what was sent still arrives: first the last notices and the end of our
 * side; then whatever the peer still sends is read, since closing a socket with unread bytes would
 * destroy what is under way to the peer. */
static void linger(struct tcp *tcp)
{
    uint64_t end = clock_ms() + CLOSE_MS;
    bool busy = true;
    char sink[4096];
    for (uint32_t p = 0; p < tcp->config->size; p++) {
        struct tcp_link *link = tcp->links[p];
        for (uint32_t i = 0; link && i <= tcp->config->lanes; i++) {
            flush_notices(tcp, link);
            if (link->lanes[i].up)
                shutdown(link->lanes[i].fd, SHUT_WR);
        }
    }
    while (busy && clock_ms() < end) {
        busy = false;
        for (uint32_t p = 0; p < tcp->config->size; p++) {
            struct tcp_link *link = tcp->links[p];
            for (uint32_t i = 0; link && i <= tcp->config->lanes; i++) {
                int fd = link->lanes[i].fd, unsent = 0;
                if (!link->lanes[i].up || link->lanes[i].ended)
                    continue;
                while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0)
                    ;
                busy |= ioctl(fd, SIOCOUTQ, &unsent) == 0 && unsent > 0;
            }
        }
        if (busy)
            clock_sleep_us(200);
    }
}

static void tcp_close(struct transport *transport)
{
    struct tcp *tcp = (struct tcp *)transport;
    if (!tcp)
        return;
    if (tcp->owner == getpid() && tcp->links)
        linger(tcp);
    for (uint32_t p = 0; tcp->links && p < tcp->config->size; p++) {
        if (tcp->links[p])
            tcp_link_close(tcp, tcp->links[p]);
    }
    while (tcp->pending_count > 0) {
        struct tcp_lane *lane = tcp->pending[--tcp->pending_count];
        close(lane->fd);
        free(lane->handshake);
        free(lane);
    }
    tcp_unlisten(tcp);
    if (tcp->epoll >= 0)
        close(tcp->epoll);
    free(tcp->links);
    free(tcp->active);
    free(tcp);
}

static tutti_status tcp_get_address(struct transport *transport, void *address, size_t *len)
{
    const struct tcp *tcp = (const struct tcp *)transport;
    memcpy(address, &tcp->address, sizeof tcp->address);
    *len = sizeof tcp->address;
    return TUTTI_OK;
}

static bool tcp_reaches(struct transport *transport, uint32_t peer, const void *address, size_t len)
{
    return len == sizeof(struct tcp_address);
}

static tutti_status tcp_connect(struct transport *transport, uint32_t peer, const void *address,
                                size_t len)
{
    struct tcp *tcp = (struct tcp *)transport;
    struct tcp_address theirs;
    must(peer < tcp->config->size && peer != tcp->config->rank);
    if (tcp->links[peer])
        return TUTTI_OK;
    if (len != sizeof theirs)
        return fail(TUTTI_ERR_PROTOCOL, "%s gave a tcp address of %zu bytes",
                    tcp->config->peer_names[peer], len);
    memcpy(&theirs, address, sizeof theirs);
    if (theirs.count > TCP_ADDRESSES_MAX)
        return fail(TUTTI_ERR_PROTOCOL, "%s gave %u tcp addresses", tcp->config->peer_names[peer],
                    theirs.count);
    tutti_status status = tcp_link_open(tcp, peer, &theirs);
    if (status == TUTTI_OK)
        tcp_service(tcp, clock_ms());
    return status;
}

static void tcp_disconnect(struct transport *transport, uint32_t peer)
{
    struct tcp *tcp = (struct tcp *)transport;
    struct tcp_link *link = tcp->links[peer];
    if (!link)
        return;
    for (uint32_t i = 0; i < tcp->active_count;) {
        if (tcp->active[i]->link == link)
            tcp->active[i] = tcp->active[--tcp->active_count];
        else
            i++;
    }
    tcp_link_close(tcp, link);
}

static tutti_status tcp_reg(struct transport *transport, void *memory, size_t len, void **handle)
{
    *handle = NULL;
    return TUTTI_OK;
}

static void tcp_dereg(struct transport *transport, void *handle)
{
}

static void tcp_stats(const struct transport *transport, struct transport_stats *stats)
{
    *stats = ((const struct tcp *)transport)->stats;
}

static void tcp_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    *alpha_us = 10;
    *us_per_byte = 1e-3 / 2.5; /* 2.5 GB/s: one core's worth of copying on loopback */
}

const struct transport_ops tcp_ops = {
    .name = "tcp",
    .probe = tcp_probe,
    .open = tcp_open,
    .close = tcp_close,
    .address = tcp_get_address,
    .reaches = tcp_reaches,
    .connect = tcp_connect,
    .disconnect = tcp_disconnect,
    .send = tcp_send,
    .recv = tcp_recv,
    .poll = tcp_poll,
    .cancel = tcp_cancel,
    .notify = tcp_notify,
    .event = tcp_event,
    .wait_fd = tcp_wait_fd,
    .arm = tcp_arm,
    .reg = tcp_reg,
    .dereg = tcp_dereg,
    .stats = tcp_stats,
    .model = tcp_model,
};
