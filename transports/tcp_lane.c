/* tcp_lane.c: one data socket's stream of frames, in both directions.
 * The idea: a frame's header meets the head of the queue of posted receives, then its payload is
 * read straight to where it belongs. Small frames are read many at a time through a buffer; when
 * the posted receive is large only its header goes through the buffer, so large payloads are
 * copied once, by the kernel. A receive with a reduction lands its bytes in a window that stays in
 * the cache and reduces each piece at once, while the next is still on its way.
 * With no receive posted the socket is not read: the kernel's buffers and, through them, the
 * sender hold the data back.
 * Invariant: bytes leave the socket and the queues in order; a transfer is finished exactly once.
 */
#include <errno.h>
#include <sys/uio.h>

#include "base/check.h"
#include "transports/tcp.h"

/* Bytes moved for one lane in one poll, so that one busy lane does not starve the others. */
#define BUDGET_LEN (4u << 20)
/* Posted receives above this are read without passing through the buffer. */
#define DIRECT_LEN      (TCP_BUFFER_LEN / 2)
#define SEND_PIECE_LEN  (1u << 20) /* most bytes offered to the kernel in one call */
#define SEND_FRAMES_MAX 8          /* small frames sent with one call */
/* Up to so many bytes are joined first: the kernel takes one part in 1.1 us, and two in 1.4. */
#define JOIN_LEN (2048u + TCP_FRAME_LEN)

enum step { STEP_MOVED, STEP_BLOCKED, STEP_ENDED };

void tcp_queue_add(struct tcp_queue *queue, struct xfer *xfer)
{
    xfer->next = NULL;
    if (queue->head)
        queue->tail->next = xfer;
    else
        queue->head = xfer;
    queue->tail = xfer;
}

struct xfer *tcp_queue_take(struct tcp_queue *queue)
{
    struct xfer *xfer = queue->head;
    queue->head = xfer->next;
    xfer->next = NULL;
    return xfer;
}

void tcp_lane_relist(struct tcp_lane *lane)
{
    struct tcp *tcp = lane->link->tcp;
    bool recvs = lane->recvs.head != NULL, sends = lane->sends.head != NULL;
    if (recvs && !lane->prev_recv) {
        lane->next_recv = tcp->recv_lanes;
        lane->prev_recv = &tcp->recv_lanes;
        if (lane->next_recv)
            lane->next_recv->prev_recv = &lane->next_recv;
        tcp->recv_lanes = lane;
        tcp->recv_lane_count++;
    } else if (!recvs && lane->prev_recv) {
        *lane->prev_recv = lane->next_recv;
        if (lane->next_recv)
            lane->next_recv->prev_recv = lane->prev_recv;
        lane->prev_recv = NULL;
        tcp->recv_lane_count--;
    }
    if (sends && !lane->prev_send) {
        lane->next_send = tcp->send_lanes;
        lane->prev_send = &tcp->send_lanes;
        if (lane->next_send)
            lane->next_send->prev_send = &lane->next_send;
        tcp->send_lanes = lane;
    } else if (!sends && lane->prev_send) {
        *lane->prev_send = lane->next_send;
        if (lane->next_send)
            lane->next_send->prev_send = lane->prev_send;
        lane->prev_send = NULL;
    }
}

void tcp_lane_fail_recvs(struct tcp_lane *lane, tutti_status status)
{
    if (lane->recvs.head && lane->link->state == TCP_LINK_ENDED)
        lane->link->down = true; /* somebody was hurt: this is news now */
    while (lane->recvs.head)
        tcp_finish(lane->link->tcp, tcp_queue_take(&lane->recvs), status);
    tcp_lane_relist(lane);
}

void tcp_lane_fail_sends(struct tcp_lane *lane, tutti_status status)
{
    while (lane->sends.head)
        tcp_finish(lane->link->tcp, tcp_queue_take(&lane->sends), status);
    tcp_lane_relist(lane);
}

/* ---- receiving --------------------------------------------------------------------------------
 */

/* Reads up to len bytes; *got says how many. A short read means that the socket is empty: the
 * next attempt waits for news (an edge) or for the next poll. Once the link has ended the end may
 * already lie behind those bytes, and that edge be past: only an empty read tells. */
static enum step read_socket(struct tcp_lane *lane, void *at, size_t len, size_t *got)
{
    *got = 0;
    struct tcp_link *link = lane->link;
    bool over = link->state == TCP_LINK_ENDED;
    if (lane->ended || lane->fd < 0)
        return lane->ended ? STEP_ENDED : STEP_BLOCKED;
    if (!lane->source.readable && !over)
        return STEP_BLOCKED;
    ssize_t n;
    do {
        n = recv(lane->fd, at, len, MSG_DONTWAIT);
        lane->link->tcp->stats.syscalls++;
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        *got = (size_t)n;
        lane->source.readable = over || *got == len;
        if (over)
            tcp_link_linger(link); /* more may be on its way */
        return STEP_MOVED;
    }
    if (n < 0 && errno == EAGAIN && !(over && link->linger_ms == 0)) {
        lane->source.readable = false;
        return STEP_BLOCKED;
    }
    lane->ended = true;
    lane->error = n < 0 ? errno : 0;
    return STEP_ENDED;
}

/* Makes the buffer hold a whole header, reading as little as `most` says. */
static enum step fill_header(struct tcp_lane *lane, size_t most)
{
    uint32_t have = lane->end - lane->begin;
    if (have >= TCP_FRAME_LEN)
        return STEP_MOVED;
    if (lane->begin != 0) {
        memmove(lane->buffer, lane->buffer + lane->begin, have);
        lane->begin = 0;
        lane->end = have;
    }
    while (lane->end < TCP_FRAME_LEN) {
        size_t got;
        enum step step = read_socket(lane, lane->buffer + lane->end, most - lane->end, &got);
        if (step != STEP_MOVED)
            return step;
        lane->end += (uint32_t)got;
    }
    return STEP_MOVED;
}

/* Takes the header off the buffer and holds it against the head receive. */
static enum step begin_frame(struct tcp_lane *lane, struct xfer *xfer)
{
    struct tag tag;
    uint64_t len;
    if (!tcp_get_frame(lane->buffer + lane->begin, &len, &tag)) {
        lane->ended = true;
        lane->error = EPROTO;
        return STEP_ENDED;
    }
    lane->begin += TCP_FRAME_LEN;
    lane->in_frame = true;
    lane->len = len;
    lane->landed = lane->reduced = 0;
    if (len == xfer->len && tag_equal(&tag, xfer->tag))
        return STEP_MOVED;
    /* The two sides disagree about what this stream carries: nothing on it can be trusted. */
    xfer->seen = tag;
    xfer->seen_len = len;
    lane->broken = TUTTI_ERR_MISMATCH;
    tcp_finish(lane->link->tcp, tcp_queue_take(&lane->recvs), TUTTI_ERR_MISMATCH);
    return STEP_BLOCKED;
}

static void reduce_piece(struct tcp_lane *lane, struct xfer *xfer, const void *piece, size_t len)
{
    char *dst = (char *)xfer->dst + lane->reduced;
    const char *other = (const char *)xfer->other + lane->reduced;
    if (xfer->incoming_first)
        reduce_apply(xfer->reducer, dst, piece, other, len);
    else
        reduce_apply(xfer->reducer, dst, other, piece, len);
    lane->reduced += len;
}

/* Where the next payload byte goes and how many may follow it there. */
static size_t landing(const struct tcp_lane *lane, const struct xfer *xfer, uint8_t **at)
{
    uint64_t left = lane->len - lane->landed, waiting = lane->landed - lane->reduced;
    if (!xfer->reducer) {
        *at = (uint8_t *)xfer->data + lane->landed;
        return left;
    }
    *at = lane->window + waiting;
    uint64_t room = TCP_WINDOW_LEN - waiting;
    return left < room ? left : room;
}

/* Accounts for bytes that landed, and reduces the whole elements among them. */
static void landed(struct tcp_lane *lane, struct xfer *xfer, size_t len)
{
    lane->landed += len;
    lane->link->tcp->stats.bytes_received += len;
    if (!xfer->reducer)
        return;
    size_t waiting = lane->landed - lane->reduced;
    size_t whole = waiting - waiting % xfer->reducer->elem_size;
    if (whole == 0)
        return;
    reduce_piece(lane, xfer, lane->window, whole);
    memmove(lane->window, lane->window + whole, waiting - whole);
}

/* Moves payload from the buffer to the receive. */
static void land_buffered(struct tcp_lane *lane, struct xfer *xfer)
{
    while (lane->begin < lane->end && lane->landed < lane->len) {
        const uint8_t *from = lane->buffer + lane->begin;
        uint8_t *at;
        size_t len = landing(lane, xfer, &at), have = lane->end - lane->begin;
        len = len < have ? len : have;
        lane->link->tcp->stats.copies++;
        lane->link->tcp->stats.copied_bytes += len;
        memcpy(at, from, len);
        lane->begin += (uint32_t)len;
        landed(lane, xfer, len);
    }
    if (lane->begin == lane->end)
        lane->begin = lane->end = 0;
}

/* One move of the stream: a header, or a piece of payload. */
static enum step advance(struct tcp_lane *lane, size_t *budget)
{
    struct xfer *xfer = lane->recvs.head;
    if (!lane->in_frame) {
        enum step step = fill_header(lane, xfer->len > DIRECT_LEN ? TCP_FRAME_LEN : TCP_BUFFER_LEN);
        return step == STEP_MOVED ? begin_frame(lane, xfer) : step;
    }
    if (lane->begin < lane->end)
        land_buffered(lane, xfer);
    if (lane->landed < lane->len) {
        uint8_t *at;
        size_t got, len = landing(lane, xfer, &at);
        enum step step = read_socket(lane, at, len < BUDGET_LEN ? len : BUDGET_LEN, &got);
        if (step != STEP_MOVED)
            return step;
        landed(lane, xfer, got);
        *budget -= got < *budget ? got : *budget;
    }
    if (lane->landed == lane->len) {
        lane->link->tcp->stats.recvs++;
        lane->in_frame = false;
        tcp_finish(lane->link->tcp, tcp_queue_take(&lane->recvs), TUTTI_OK);
    }
    return STEP_MOVED;
}

void tcp_lane_receive(struct tcp_lane *lane)
{
    size_t budget = BUDGET_LEN;
    enum step step = STEP_MOVED;
    while (step == STEP_MOVED && budget > 0 && lane->recvs.head && !lane->broken)
        step = advance(lane, &budget);
    if (lane->broken)
        tcp_lane_fail_recvs(lane, lane->broken);
    tcp_lane_relist(lane);
    if (step != STEP_ENDED || !lane->recvs.head)
        return;
    /* What had arrived is delivered; the rest never comes. */
    tcp_link_lost(lane->link, lane->error);
    tcp_lane_fail_recvs(lane, lane->link->status);
}

bool tcp_lane_unexpected(struct tcp_lane *lane, struct tag *tag, size_t *len)
{
    if (lane->recvs.head || lane->broken || lane->link->state == TCP_LINK_MAKING)
        return false;
    if (fill_header(lane, TCP_BUFFER_LEN) != STEP_MOVED)
        return false;
    uint64_t wire_len;
    if (!tcp_get_frame(lane->buffer + lane->begin, &wire_len, tag))
        return false;
    *len = wire_len;
    return true;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

/* Fills parts with the unsent bytes of up to SEND_FRAMES_MAX transfers; returns their sum. */
static size_t gather_frames(struct xfer *xfer, uint8_t headers[][TCP_FRAME_LEN],
                            struct iovec *parts, size_t *part_count)
{
    size_t total = 0, count = 0;
    for (int i = 0; xfer && i < SEND_FRAMES_MAX && total < SEND_PIECE_LEN; i++) {
        uint64_t sent = xfer->work[0], payload = 0;
        if (sent < TCP_FRAME_LEN) {
            tcp_put_frame(headers[i], xfer->len, xfer->tag);
            parts[count++] = (struct iovec){headers[i] + sent, TCP_FRAME_LEN - sent};
            total += TCP_FRAME_LEN - sent;
        } else {
            payload = sent - TCP_FRAME_LEN;
        }
        size_t left = xfer->len - payload, room = SEND_PIECE_LEN - total % SEND_PIECE_LEN;
        if (left > 0) {
            parts[count++] =
                (struct iovec){(char *)xfer->data + payload, left < room ? left : room};
            total += parts[count - 1].iov_len;
        }
        if (left > room)
            break;
        xfer = xfer->next;
    }
    *part_count = count;
    return total;
}

static ssize_t write_parts(int fd, struct iovec *parts, size_t count, size_t total)
{
    uint8_t joined[JOIN_LEN];
    if (total > sizeof joined) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    uint8_t *end = joined;
    for (size_t i = 0; i < count; i++)
        end = mempcpy(end, parts[i].iov_base, parts[i].iov_len);
    return send(fd, joined, total, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One call of the kernel for the chain that begins with xfer. *sent counts bytes. */
static tutti_status write_chain(struct tcp_lane *lane, struct xfer *xfer, size_t *sent, bool *all)
{
    uint8_t headers[SEND_FRAMES_MAX][TCP_FRAME_LEN];
    struct iovec parts[2 * SEND_FRAMES_MAX];
    size_t part_count, total = gather_frames(xfer, headers, parts, &part_count);
    ssize_t n;
    do {
        n = write_parts(lane->fd, parts, part_count, total);
        lane->link->tcp->stats.syscalls++;
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
        tcp_link_lost(lane->link, errno);
        return lane->link->status;
    }
    *sent = n < 0 ? 0 : (size_t)n;
    *all = *sent == total;
    if (!*all)
        lane->source.writable = n < 0 && errno != EAGAIN; /* out of memory: no edge will come */
    return TUTTI_OK;
}

static uint64_t payload_of(uint64_t sent)
{
    return sent > TCP_FRAME_LEN ? sent - TCP_FRAME_LEN : 0;
}

/* Accounts for bytes of a frame that were sent; true when that was all. */
static bool has_sent(struct tcp_lane *lane, struct xfer *xfer, uint64_t bytes)
{
    struct transport_stats *stats = &lane->link->tcp->stats;
    uint64_t before = xfer->work[0], after = xfer->work[0] = before + bytes;
    bool all = after == xfer->len + TCP_FRAME_LEN;
    stats->bytes_sent += payload_of(after) - payload_of(before);
    stats->sends += all;
    return all;
}

tutti_status tcp_lane_write(struct tcp_lane *lane, struct xfer *xfer)
{
    must(!lane->sends.head && !xfer->next);
    for (;;) {
        size_t sent;
        bool all;
        tutti_status status = write_chain(lane, xfer, &sent, &all);
        if (status != TUTTI_OK)
            return status;
        if (has_sent(lane, xfer, sent))
            return TUTTI_OK;
        if (!all)
            return TUTTI_IN_PROGRESS;
        if (xfer->work[0] >= BUDGET_LEN)
            return TUTTI_IN_PROGRESS;
    }
}

void tcp_lane_send(struct tcp_lane *lane)
{
    size_t budget = BUDGET_LEN;
    bool all = true;
    while (all && budget > 0 && lane->sends.head && lane->fd >= 0) {
        size_t sent;
        if (write_chain(lane, lane->sends.head, &sent, &all) != TUTTI_OK)
            return; /* the link has ended, and with it the sends */
        budget -= sent < budget ? sent : budget;
        while (lane->sends.head) {
            struct xfer *xfer = lane->sends.head;
            uint64_t left = xfer->len + TCP_FRAME_LEN - xfer->work[0];
            if (!has_sent(lane, xfer, sent < left ? sent : left))
                break;
            sent -= left;
            tcp_finish(lane->link->tcp, tcp_queue_take(&lane->sends), TUTTI_OK);
        }
    }
    tcp_lane_relist(lane);
}
