/* tcp_control.c: the control socket of a link, and the end of links.
 * The idea: notices travel beside the data, so they arrive when every lane is full; the control
 * socket is always read, so its end is the first sign that a peer is gone. A peer that closes on
 * purpose says BYE first: its silence afterwards is no failure unless someone still waits for it.
 * Invariant: a link ends once, with the first cause known; data that arrived before the end is
 * still delivered, because receives end only when their own lane runs dry. */
#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "base/clock.h"
#include "transports/tcp.h"

/* Lanes of a lost link that do not end by themselves (a cut cable) may be silent for this long;
 * those of a peer that said goodbye longer: what it sent may have been lost on the way, and come
 * again. */
#define LINGER_MS     200
#define BYE_LINGER_MS 3000

/* Does somebody here wait for it, be it to tell the peer something? */
static bool is_wanted(const struct tcp_link *link)
{
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++) {
        if (link->lanes[i].recvs.head || link->lanes[i].sends.head)
            return true;
    }
    return link->control.out_end > link->control.out_begin;
}

void tcp_link_linger(struct tcp_link *link)
{
    link->linger_ms = clock_ms() + (link->bye ? BYE_LINGER_MS : LINGER_MS);
    tcp_timer_before(link->tcp, link->linger_ms);
}

void tcp_link_end(struct tcp_link *link, tutti_status status, const char *format, ...)
{
    if (link->state == TCP_LINK_ENDED)
        return;
    struct tcp *tcp = link->tcp;
    bool was_up = link->state == TCP_LINK_UP;
    va_list args;
    va_start(args, format);
    vsnprintf(link->sentence, sizeof link->sentence, format, args);
    va_end(args);
    /* No news: a goodbye, or a peer that went before the link was made, when nothing here is
     * hurt by it. Receives tell when their lane runs dry without them. */
    link->down = was_up ? !link->bye : is_wanted(link);
    link->state = TCP_LINK_ENDED;
    link->status = status;
    tcp_link_linger(link);
    for (uint32_t i = 0; i < tcp->config->lanes; i++) {
        struct tcp_lane *lane = &link->lanes[i];
        link->down = link->down || lane->sends.head;
        lane->source.readable = true; /* its end may have come with the last bytes */
        tcp_lane_fail_sends(lane, status);
        if (!was_up) {
            lane->ended = true;
            tcp_lane_fail_recvs(lane, status);
        }
    }
}

void tcp_link_lost(struct tcp_link *link, int error)
{
    if (link->state == TCP_LINK_UP && !link->bye)
        tcp_control_read(link); /* a goodbye explains more than an end of file */
    char text[SOCK_TEXT_MAX], why[128];
    const char *name = tcp_peer_name(link->tcp, link->peer);
    sock_text(&link->address, text);
    if (link->bye) {
        tcp_link_end(
            link, TUTTI_ERR_PEER,
            "%s has left: it closed the communicator (connection to %s) before this transfer", name,
            text);
    } else if (error == EPROTO) {
        tcp_link_end(link, TUTTI_ERR_PROTOCOL,
                     "the connection to %s at %s carried bytes that are no message: something "
                     "between the hosts changes the stream, or versions differ",
                     name, text);
    } else if (error == 0 || error == EPIPE || error == ECONNRESET) {
        tcp_link_end(link, TUTTI_ERR_PEER,
                     "connection to %s at %s %s: the process has ended or was killed", name, text,
                     error == 0 ? "was closed" : "was reset");
    } else {
        errno = error;
        snprintf(why, sizeof why, "%m");
        tcp_link_end(link, TUTTI_ERR_PEER, "connection to %s at %s was lost: %s", name, text, why);
    }
}

tutti_status tcp_link_refuse(struct tcp_link *link)
{
    link->down = true;
    return fail(link->status, "%s", link->sentence);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* Acts on a whole message in control->in; false when reading must stop. */
static bool take_message(struct tcp_link *link)
{
    struct tcp_control *control = &link->control;
    uint32_t kind = tcp_get32(control->in);
    if (kind == TCP_CONTROL_NOTICE) {
        control->notice_ready = true; /* event() empties in[] */
        return false;
    }
    control->have = 0;
    if (kind == TCP_CONTROL_GO && link->state == TCP_LINK_MAKING)
        tcp_link_go(link);
    else if (kind == TCP_CONTROL_BYE)
        link->bye = true;
    return true;
}

/* How long the message that control->in begins with is; 0: no message of ours. */
static uint32_t message_len(const struct tcp_control *control)
{
    if (control->have < TCP_CONTROL_LEN)
        return TCP_CONTROL_LEN;
    uint32_t kind = tcp_get32(control->in), len = tcp_get32(control->in + 4);
    if (kind == TCP_CONTROL_NOTICE && len == TCP_NOTICE_LEN)
        return TCP_CONTROL_MAX;
    bool empty = kind == TCP_CONTROL_GO || kind == TCP_CONTROL_BYE;
    return empty && len == 0 ? TCP_CONTROL_LEN : 0;
}

static void control_ended(struct tcp_link *link, int error)
{
    tcp_close_fd(link->tcp, &link->control.fd);
    if (link->state == TCP_LINK_MAKING)
        tcp_link_drop_attempt(link);
    else
        tcp_link_lost(link, error);
}

void tcp_control_read(struct tcp_link *link)
{
    struct tcp_control *control = &link->control;
    while (control->fd >= 0 && !control->notice_ready) {
        uint32_t want = message_len(control);
        if (want == 0) {
            control_ended(link, EPROTO);
            return;
        }
        if (control->have == want) {
            if (!take_message(link))
                return;
            continue;
        }
        ssize_t n =
            recv(control->fd, control->in + control->have, want - control->have, MSG_DONTWAIT);
        link->tcp->stats.syscalls++;
        if (n > 0) {
            control->have += (uint32_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            control->source.readable = false;
            return;
        } else if (n == 0 || errno != EINTR) {
            control_ended(link, n < 0 ? errno : 0);
            return;
        }
    }
    control->source.readable = control->fd >= 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

tutti_status tcp_control_put(struct tcp_link *link, enum tcp_control_kind kind,
                             const struct notice *notice)
{
    struct tcp_control *control = &link->control;
    uint32_t len = TCP_CONTROL_LEN + (notice ? TCP_NOTICE_LEN : 0);
    if (control->out_begin > 0) {
        memmove(control->out, control->out + control->out_begin,
                control->out_end - control->out_begin);
        control->out_end -= control->out_begin;
        control->out_begin = 0;
    }
    size_t reserve = notice ? TCP_CONTROL_MAX : 0; /* the goodbye always fits */
    if (control->out_end + len + reserve > sizeof control->out)
        return TUTTI_IN_PROGRESS;
    uint8_t *at = control->out + control->out_end;
    tcp_put32(at, kind);
    tcp_put32(at + 4, len - TCP_CONTROL_LEN);
    if (notice)
        tcp_put_notice(at + TCP_CONTROL_LEN, notice);
    control->out_end += len;
    return TUTTI_OK;
}

void tcp_control_flush(struct tcp_link *link)
{
    struct tcp_control *control = &link->control;
    if (control->fd < 0 || link->state == TCP_LINK_MAKING)
        return;
    while (control->out_begin < control->out_end) {
        ssize_t n = send(control->fd, control->out + control->out_begin,
                         control->out_end - control->out_begin, MSG_DONTWAIT | MSG_NOSIGNAL);
        link->tcp->stats.syscalls++;
        if (n >= 0) {
            control->out_begin += (uint32_t)n;
        } else if (errno != EINTR) {
            /* EAGAIN: an edge will tell. Anything else: reading tells the same, with the cause, and
             * what was left to say has no listener. */
            if (errno != EAGAIN)
                control->out_begin = control->out_end;
            control->source.writable = false;
            return;
        }
    }
}

/* Reads and forgets what the peer sent: a socket that is closed with unread bytes resets the
 * connection, which destroys what is still on its way to the peer. True when there was any. */
static bool drain(int fd)
{
    uint8_t waste[4096];
    bool any = false;
    while (recv(fd, waste, sizeof waste, MSG_DONTWAIT) > 0)
        any = true;
    return any;
}

/* Nothing more is on its way to the peer, or nothing ever will be. */
static bool quiet(int fd)
{
    int unsent = 0;
    return ioctl(fd, SIOCOUTQ, &unsent) != 0 || unsent == 0;
}

/* One round of goodbye; false when it is worth another. */
static bool farewell_round(struct tcp_link *link)
{
    struct tcp_control *control = &link->control;
    tcp_control_flush(link);
    bool done = control->fd < 0 || control->out_begin == control->out_end;
    if (done && control->fd >= 0) {
        shutdown(control->fd, SHUT_WR);
        drain(control->fd);
    }
    for (uint32_t i = 0; i < link->tcp->config->lanes; i++) {
        int fd = link->lanes[i].fd;
        if (fd < 0)
            continue;
        shutdown(fd, SHUT_WR);
        /* A peer that is merely slow needs no waiting: the kernel goes on without us, for some
         * 5 minutes (tcp_orphan_retries). */
        link->unread = drain(fd) || link->unread;
        done = done && (!link->unread || quiet(fd));
    }
    return done;
}

void tcp_control_farewell(struct tcp *tcp, struct tcp_link *only, uint64_t deadline_ms)
{
    for (struct tcp_link *link = tcp->all; link; link = link->next) {
        if ((only && link != only) || link->state == TCP_LINK_MAKING)
            continue;
        tutti_status status = tcp_control_put(link, TCP_CONTROL_BYE, NULL);
        must(status == TUTTI_OK);
        while (!farewell_round(link) && clock_ms() < deadline_ms)
            clock_sleep_us(200);
    }
}
