/* local.c: the queues and the progress of links made of rings. See local.h and ring.h.
 *
 * Invariants: the send queue of a lane is (wholly in the ring) | send_cursor (partly or not yet),
 * and nothing is written to the ring out of that order; transfers leave a queue at its head only,
 * so they end in the order posted. A lane is in `active` exactly while it has something posted
 * and its link is not down. The peer's memory is hostile: every field is read once, every number
 * is checked against what this side knows. */
#include "transports/local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* Uses of xfer.work */
enum { WORK_BYTES, WORK_STATE, WORK_SLOT };
enum { STATE_NEW, STATE_PARTLY, STATE_WRITTEN, STATE_OFFERED };

#define likely(fact)   __builtin_expect(!!(fact), 1)
#define unlikely(fact) __builtin_expect(!!(fact), 0)

tutti_status local_init(struct local *local, const struct transport_ops *ops,
                        const struct transport_config *config, const struct local_ways *ways)
{
    local->base.ops = ops;
    local->config = config;
    local->ways = *ways;
    local->links = calloc(config->size, sizeof(struct local_link *));
    if (!local->links)
        return fail(TUTTI_ERR_NOMEM, "%s: no memory for the links of %u ranks", ops->name,
                    config->size);
    return TUTTI_OK;
}

void local_free(struct local *local)
{
    free(local->links);
    free(local->made);
    free(local->active);
    free(local->notices);
}

tutti_status local_link_init(struct local *local, struct local_link *link, uint32_t peer)
{
    uint32_t lanes = local->config->lanes;
    size_t links = local->made_count + 1;
    struct lane **active = realloc(local->active, links * lanes * sizeof *active);
    if (active)
        local->active = active;
    struct local_link **made = realloc(local->made, links * sizeof *made);
    if (made)
        local->made = made;
    struct local_notice *notices = realloc(local->notices, links * LOCAL_NOTICES * sizeof *notices);
    if (notices) {
        local->notices = notices;
        local->notice_room = (uint32_t)links * LOCAL_NOTICES;
    }
    link->lanes = calloc(lanes, sizeof *link->lanes);
    if (!active || !made || !notices || !link->lanes)
        return fail(TUTTI_ERR_NOMEM, "no memory for the link to %s",
                    local->config->peer_names[peer]);
    link->peer = peer;
    for (uint32_t i = 0; i < lanes; i++) {
        link->lanes[i].link = link;
        link->lanes[i].index = i;
    }
    local->links[peer] = link;
    local->made[local->made_count++] = link;
    return TUTTI_OK;
}

/* ---- queues ---- */

static void finish(struct local *local, struct xfer *xfer, tutti_status status)
{
    xfer->status = status;
    xfer->next = NULL;
    if (local->done)
        local->done_last->next = xfer;
    else
        local->done = xfer;
    local->done_last = xfer;
}

static void pop_send(struct local *local, struct lane *lane, tutti_status status)
{
    struct xfer *xfer = lane->send_head;
    lane->send_head = xfer->next;
    finish(local, xfer, status);
}

static void pop_recv(struct local *local, struct lane *lane, tutti_status status)
{
    struct xfer *xfer = lane->recv_head;
    lane->recv_head = xfer->next;
    finish(local, xfer, status);
}

static void activate(struct local *local, struct lane *lane)
{
    if (!lane->active) {
        lane->active = true;
        local->active[local->active_count++] = lane;
    }
}

static void deactivate(struct local *local, struct lane *lane)
{
    for (uint32_t i = 0; lane->active; i++) {
        if (local->active[i] == lane) {
            local->active[i] = local->active[--local->active_count];
            lane->active = false;
        }
    }
}

/* ---- sending ---- */

/* Reads the peer's count of consumed slots; true if there is more room than was known. */
static bool refresh(struct lane *lane)
{
    uint32_t consumed = atomic_load_explicit(&lane->out->consumed, memory_order_acquire);
    uint32_t more = consumed - lane->out_seen;
    if (more == 0 || more > lane->out_next - lane->out_seen)
        return false; /* a count that was never possible is a peer gone mad: no room */
    lane->out_tail = lane->out_end[(consumed - 1) & lane->out_mask];
    lane->out_seen = consumed;
    lane->out_limit = consumed + lane->out_mask + 1;
    return true;
}

/* Makes sure there is a free slot, and room for n bytes of data from *place on. */
static bool reserve(struct lane *lane, uint32_t n, uint64_t *place)
{
    uint32_t capacity = lane->link->shape.data_bytes;
    *place = ring_place(lane->out_head, n, capacity);
    while (lane->out_next == lane->out_limit || *place + n - lane->out_tail > capacity) {
        if (!refresh(lane))
            return false;
    }
    return true;
}

/* Announces slot out_next, whose other fields are written. */
static void publish(struct lane *lane, struct slot *slot, uint64_t head)
{
    lane->out_head = head;
    lane->out_end[lane->out_next & lane->out_mask] = head;
    lane->out_next++;
    atomic_store_explicit(&slot->stamp, lane->out_next, memory_order_release);
    if (lane->in_then == lane->in_next)
        ring_own(&lane->out->slots[(lane->out_next + RING_AHEAD) & lane->out_mask]);
    lane->in_then = lane->in_next;
}

static void head_slot(struct slot *slot, const struct xfer *xfer, uint32_t kind)
{
    atomic_store_explicit(&slot->kind, kind, memory_order_relaxed);
    atomic_store_explicit(&slot->len, xfer->len, memory_order_relaxed);
    slot_put_tag(slot, xfer->tag);
}

static bool push_piece(struct local *local, struct lane *lane, struct xfer *xfer)
{
    size_t off = xfer->work[WORK_BYTES];
    uint32_t most = ring_piece(&lane->link->shape);
    uint32_t n = xfer->len - off < most ? (uint32_t)(xfer->len - off) : most;
    uint32_t room = ring_room(n);
    uint64_t place;
    if (!reserve(lane, room, &place))
        return false;
    struct slot *slot = &lane->out->slots[lane->out_next & lane->out_mask];
    const uint8_t *bytes = (const uint8_t *)xfer->data + off;
    if (n <= RING_INLINE)
        ring_copy_inline(slot->bytes, bytes, n);
    else if (room == 0)
        memcpy(slot->behind, bytes, n);
    else
        local_fill(lane, lane->out_data + (place & (lane->link->shape.data_bytes - 1)), xfer, off,
                   n);
    /* The slot's line last and in one go: the receiver polls it, and would take it away between
     * header and stamp while the payload's lines are fetched for writing. */
    if (xfer->work[WORK_STATE] == STATE_NEW) {
        head_slot(slot, xfer, SLOT_EAGER);
        if (xfer->len > RING_INLINE)
            local->stats.copies++, local->stats.copied_bytes += xfer->len;
    } else {
        atomic_store_explicit(&slot->kind, SLOT_MORE, memory_order_relaxed);
    }
    publish(lane, slot, room == 0 ? lane->out_head : place + room);
    xfer->work[WORK_BYTES] = off + n;
    xfer->work[WORK_STATE] = off + n == xfer->len ? STATE_WRITTEN : STATE_PARTLY;
    return true;
}

static bool push_offer(struct local *local, struct lane *lane, struct xfer *xfer)
{
    struct slot_copy offer;
    uint64_t place;
    if (!reserve(lane, 0, &place) || !local->ways.refer(local, lane->link, xfer, &offer))
        return false;
    struct slot *slot = &lane->out->slots[lane->out_next & lane->out_mask];
    head_slot(slot, xfer, offer.kind);
    slot->word[0] = offer.word[0];
    slot->word[1] = offer.word[1];
    xfer->work[WORK_SLOT] = lane->out_next;
    xfer->work[WORK_STATE] = STATE_OFFERED;
    publish(lane, slot, lane->out_head);
    return true;
}

/* Writes as much of xfer as there is room for; true when all of it is in the ring. */
static bool push(struct local *local, struct lane *lane, struct xfer *xfer)
{
    if (xfer->work[WORK_STATE] == STATE_NEW) {
        if (lane->out_next == lane->out_limit && !refresh(lane))
            return false;
        size_t eager_max = xfer->overwritten_next ? local->eager_fresh_max : local->eager_max;
        if (xfer->len > eager_max && push_offer(local, lane, xfer))
            return true;
    }
    for (uint32_t i = 0; i < LOCAL_PIECES && push_piece(local, lane, xfer); i++) {
        if (xfer->work[WORK_STATE] == STATE_WRITTEN)
            return true;
        local->base.moved = true;
    }
    return false;
}

static bool was_sent(const struct lane *lane, const struct xfer *xfer)
{
    return xfer->work[WORK_STATE] == STATE_WRITTEN ||
           (int32_t)(lane->out_seen - (uint32_t)xfer->work[WORK_SLOT]) > 0;
}

static void pop_sent(struct local *local, struct lane *lane)
{
    while (lane->send_head != lane->send_cursor && was_sent(lane, lane->send_head))
        pop_send(local, lane, TUTTI_OK);
}

static void progress_sends(struct local *local, struct lane *lane)
{
    if (!lane->out)
        return;
    refresh(lane);
    while (lane->send_cursor && push(local, lane, lane->send_cursor))
        lane->send_cursor = lane->send_cursor->next;
    pop_sent(local, lane);
}

/* A transfer met a link that is down: if nobody was told why, this is the time. */
static tutti_status refuse(struct local_link *link)
{
    link->report |= !link->told;
    return fail(link->down, "%s", link->sentence);
}

tutti_status local_send(struct transport *transport, struct xfer *xfer)
{
    struct local *local = (struct local *)transport;
    struct local_link *link = local->links[xfer->peer];
    must(link && xfer->lane < local->config->lanes);
    struct lane *lane = &link->lanes[xfer->lane];
    if (unlikely(link->down))
        return xfer->status = refuse(link);
    local->stats.sends++;
    local->stats.bytes_sent += xfer->len;
    xfer->work[WORK_BYTES] = 0;
    xfer->work[WORK_STATE] = STATE_NEW;
    xfer->next = NULL;
    if (likely(!lane->send_head)) {
        bool pushed = lane->out && push(local, lane, xfer);
        if (pushed && xfer->work[WORK_STATE] == STATE_WRITTEN)
            return xfer->status = TUTTI_OK;
        lane->send_head = xfer;
        lane->send_cursor = pushed ? NULL : xfer;
    } else {
        lane->send_last->next = xfer;
        if (!lane->send_cursor)
            lane->send_cursor = xfer;
        if (lane->send_cursor == xfer && push(local, lane, xfer))
            lane->send_cursor = NULL;
    }
    lane->send_last = xfer;
    activate(local, lane);
    return xfer->status = TUTTI_IN_PROGRESS;
}

/* ---- receiving ---- */

enum taken { TAKEN_NOTHING, TAKEN_PART, TAKEN_ALL, TAKEN_FAILED };

/* The head slot is done with, and data[] up to `at`. The sender learns of it at once if it waits
 * for its bytes; else when a quarter of the slots or of data[] is passed: it never lacks room for a
 * piece, and one that is far ahead, out of room, does not take the line away at every message. */
static void consume(struct lane *lane, uint64_t at, bool at_once)
{
    bool passed = (lane->in_at ^ at) >= ring_piece(&lane->link->shape);
    lane->in_next++;
    lane->in_at = at;
    if (at_once || passed || (lane->in_next & lane->in_mask / 4) == 0)
        atomic_store_explicit(&lane->in->consumed, lane->in_next, memory_order_release);
}

static enum taken taken_failed(struct local *local, struct lane *lane, struct xfer *xfer,
                               tutti_status status)
{
    lane->broken = xfer->status = status;
    local_link_fail(local, lane->link, status, false, status_sentence());
    return TAKEN_FAILED;
}

static enum taken take_mismatch(struct local *local, struct lane *lane, struct xfer *xfer,
                                const struct slot *slot, uint64_t len)
{
    lane->broken = TUTTI_ERR_MISMATCH;
    xfer->seen = slot_tag(slot);
    xfer->seen_len = len;
    xfer->status = fail(TUTTI_ERR_MISMATCH,
                        "%s sent %zu bytes of another operation or length than the %zu expected",
                        local->config->peer_names[lane->link->peer], xfer->seen_len, xfer->len);
    return TAKEN_FAILED;
}

/* One piece through the ring. */
static enum taken take_piece(struct local *local, struct lane *lane, struct xfer *xfer,
                             const struct slot *slot)
{
    size_t off = xfer->work[WORK_BYTES];
    uint32_t most = ring_piece(&lane->link->shape);
    uint32_t n = xfer->len - off < most ? (uint32_t)(xfer->len - off) : most;
    const void *bytes = n <= RING_INLINE ? slot->bytes : slot->behind;
    uint32_t room = ring_room(n);
    uint64_t at = lane->in_at;
    if (room > 0) {
        at = ring_place(at, room, lane->link->shape.data_bytes);
        bytes = lane->in_data + (at & (lane->link->shape.data_bytes - 1));
    }
    local_apply(xfer, off, bytes, n);
    consume(lane, at + room, false);
    xfer->work[WORK_BYTES] = off + n;
    lane->in_busy = off + n < xfer->len;
    if (!lane->in_busy)
        return TAKEN_ALL;
    local->base.moved = true;
    return TAKEN_PART;
}

/* One step of a message that lies in place. */
static enum taken take_in_place(struct local *local, struct lane *lane, struct xfer *xfer)
{
    size_t off = xfer->work[WORK_BYTES];
    size_t n = xfer->len - off < LOCAL_STEP_BYTES ? xfer->len - off : LOCAL_STEP_BYTES;
    tutti_status status = local->ways.fetch(local, lane, xfer, off, n);
    if (status == TUTTI_OK) {
        /* The bytes were read before this load, so if they are not revoked now they were good. */
        ring_fence_reads();
        if (atomic_load_explicit(&lane->in->revoked, memory_order_relaxed))
            status = fail(TUTTI_ERR_PEER, "%s withdrew a message while it was received",
                          local->config->peer_names[lane->link->peer]);
    }
    if (status != TUTTI_OK)
        return taken_failed(local, lane, xfer, status);
    local->stats.in_place_bytes += n;
    xfer->work[WORK_BYTES] = off + n;
    lane->in_busy = off + n < xfer->len;
    if (lane->in_busy) {
        atomic_fetch_add_explicit(&lane->in->steps, 1, memory_order_relaxed);
        local->base.moved = true;
        return TAKEN_PART;
    }
    consume(lane, lane->in_at, true);
    return TAKEN_ALL;
}

static enum taken take_next(struct local *local, struct lane *lane, struct xfer *xfer,
                            const struct slot *slot)
{
    uint32_t kind = lane->in_first.kind;
    if (kind == SLOT_REGION || kind == SLOT_FOREIGN)
        return take_in_place(local, lane, xfer);
    if (kind != SLOT_EAGER ||
        (xfer->work[WORK_BYTES] > 0 &&
         atomic_load_explicit(&slot->kind, memory_order_relaxed) != SLOT_MORE))
        return taken_failed(local, lane, xfer,
                            fail(TUTTI_ERR_PROTOCOL, "%s wrote a slot of unknown kind",
                                 local->config->peer_names[lane->link->peer]));
    return take_piece(local, lane, xfer, slot);
}

/* Takes one slot, or one step of one, for the receive at the head of the lane. */
static enum taken take(struct local *local, struct lane *lane, struct xfer *xfer)
{
    const struct slot *slot = &lane->in->slots[lane->in_next & lane->in_mask];
    if (atomic_load_explicit(&slot->stamp, memory_order_acquire) != lane->in_next + 1)
        return TAKEN_NOTHING;
    if (likely(!lane->in_busy)) {
        uint64_t len = atomic_load_explicit(&slot->len, memory_order_relaxed);
        uint32_t kind = atomic_load_explicit(&slot->kind, memory_order_relaxed);
        struct tag tag = slot_tag(slot);
        if (unlikely(len != xfer->len || !tag_equal(&tag, xfer->tag)))
            return take_mismatch(local, lane, xfer, slot, len);
        if (likely(kind == SLOT_EAGER && len <= RING_INLINE)) {
            local_apply(xfer, 0, slot->bytes, len);
            consume(lane, lane->in_at, false);
            return TAKEN_ALL;
        }
        lane->in_first.kind = kind;
        if (likely(kind == SLOT_EAGER))
            return take_piece(local, lane, xfer, slot);
        lane->in_busy = true;
        memcpy(lane->in_first.word, slot->word, sizeof lane->in_first.word);
    }
    return take_next(local, lane, xfer, slot);
}

/* What lies in place is long: one message of it, or one step of one, for each call, and of one
 * through the ring so many pieces, so that the other lanes and directions move too. */
static void progress_recvs(struct local *local, struct lane *lane)
{
    uint32_t pieces = 0;
    while (lane->recv_head && lane->in && !lane->broken) {
        struct xfer *xfer = lane->recv_head;
        enum taken taken = take(local, lane, xfer);
        if (taken == TAKEN_NOTHING)
            return;
        if (taken == TAKEN_FAILED) {
            /* A link that failed has emptied its queues already. */
            if (lane->recv_head == xfer)
                pop_recv(local, lane, xfer->status);
            break;
        }
        bool turn = lane->in_first.kind != SLOT_EAGER && xfer->len >= LOCAL_TURN_BYTES;
        if (taken == TAKEN_ALL)
            pop_recv(local, lane, TUTTI_OK);
        if (turn || (taken == TAKEN_PART && ++pieces == LOCAL_PIECES))
            return;
    }
    while (lane->recv_head && lane->broken)
        pop_recv(local, lane, lane->broken);
}

tutti_status local_recv(struct transport *transport, struct xfer *xfer)
{
    struct local *local = (struct local *)transport;
    struct local_link *link = local->links[xfer->peer];
    must(link && xfer->lane < local->config->lanes);
    struct lane *lane = &link->lanes[xfer->lane];
    local->stats.recvs++;
    local->stats.bytes_received += xfer->len;
    xfer->work[WORK_BYTES] = 0;
    xfer->next = NULL;
    xfer->status = TUTTI_IN_PROGRESS;
    if (!lane->recv_head && lane->in && !lane->broken &&
        (xfer->len < LOCAL_TURN_BYTES || link->down)) {
        enum taken taken = take(local, lane, xfer);
        while (taken == TAKEN_PART && (lane->in_first.kind == SLOT_EAGER || link->down))
            taken = take(local, lane, xfer);
        if (taken == TAKEN_ALL) {
            /* After a wait the sender would lose the line that it is about to write. */
            if (lane->out_then == lane->out_next)
                __builtin_prefetch(&lane->in->slots[(lane->in_next + 1) & lane->in_mask]);
            lane->out_then = lane->out_next;
            return xfer->status = TUTTI_OK;
        }
        if (taken == TAKEN_FAILED)
            return xfer->status;
    }
    if (unlikely(lane->broken && !link->down))
        return xfer->status = fail(lane->broken, "%s sent another operation before",
                                   local->config->peer_names[link->peer]);
    if (unlikely(link->down))
        return xfer->status = refuse(link);
    if (lane->recv_head)
        lane->recv_last->next = xfer;
    else
        lane->recv_head = xfer;
    lane->recv_last = xfer;
    activate(local, lane);
    return TUTTI_IN_PROGRESS;
}

struct xfer *local_poll(struct local *local)
{
    for (uint32_t i = 0; i < local->active_count; i++) {
        struct lane *lane = local->active[i];
        if (lane->recv_head)
            progress_recvs(local, lane);
        if (lane->send_head)
            progress_sends(local, lane);
        /* A failing link takes its own lanes out of the list, which moves others into place. */
        if (lane->active && !lane->recv_head && !lane->send_head) {
            lane->active = false;
            local->active[i] = local->active[--local->active_count];
        }
    }
    struct xfer *done = local->done;
    local->done = NULL;
    return done;
}

/* ---- links ---- */

void local_link_attach(struct local *local, struct local_link *link, const struct ring_shape *shape,
                       void *out, void *in, size_t stride)
{
    link->shape = *shape;
    for (uint32_t i = 0; i < local->config->lanes; i++) {
        struct lane *lane = &link->lanes[i];
        lane->out = (struct ring *)((uint8_t *)out + i * stride);
        lane->in = (struct ring *)((uint8_t *)in + i * stride);
        lane->out_data = ring_data(lane->out, shape);
        lane->in_data = ring_data(lane->in, shape);
        lane->out_mask = lane->in_mask = shape->slots - 1;
        lane->out_limit = shape->slots;
    }
    link->up = true;
}

static void end_lane(struct local *local, struct lane *lane, tutti_status status)
{
    bool busy = true;
    while (busy && lane->in && lane->recv_head && !lane->broken) {
        uint64_t before = lane->recv_head->work[WORK_BYTES];
        struct xfer *head = lane->recv_head;
        progress_recvs(local, lane);
        busy = lane->recv_head != head || (head && head->work[WORK_BYTES] != before);
    }
    if (lane->out) {
        refresh(lane);
        pop_sent(local, lane);
    }
    while (lane->recv_head)
        pop_recv(local, lane, status);
    while (lane->send_head)
        pop_send(local, lane, status);
    lane->send_cursor = NULL;
    deactivate(local, lane);
}

void local_link_fail(struct local *local, struct local_link *link, tutti_status status, bool quiet,
                     const char *sentence)
{
    if (link->down && !link->cut)
        return;
    bool left = false;
    link->cut = false;
    link->down = status;
    snprintf(link->sentence, sizeof link->sentence, "%s", sentence);
    for (uint32_t i = 0; i < local->config->lanes; i++) {
        const struct xfer *last = local->done ? local->done_last : NULL;
        end_lane(local, &link->lanes[i], status);
        for (const struct xfer *x = last ? last->next : local->done; x; x = x->next)
            left |= x->status != TUTTI_OK;
    }
    link->report = left || !quiet;
}

bool local_link_drop(struct local *local, struct local_link *link)
{
    bool offered = false;
    for (uint32_t i = 0; link->lanes && i < local->config->lanes; i++) {
        struct lane *lane = &link->lanes[i];
        if (lane->out && lane->send_head) {
            refresh(lane);
            for (struct xfer *x = lane->send_head; x != lane->send_cursor; x = x->next)
                offered |= !was_sent(lane, x);
            /* What is only partly in the ring can never be completed either. */
            atomic_store(&lane->out->revoked, 1);
        }
        lane->recv_head = lane->send_head = lane->send_cursor = NULL;
        deactivate(local, lane);
    }
    return offered;
}

bool local_link_cancel(struct local *local, struct local_link *link)
{
    bool offered = local_link_drop(local, link);
    if (!link->down) {
        link->down = TUTTI_ERR_ABORTED;
        link->told = link->cut = true; /* by whoever aborts */
        snprintf(link->sentence, sizeof link->sentence, "the communicator was aborted");
    }
    return offered;
}

void local_link_free(struct local *local, struct local_link *link)
{
    local_link_drop(local, link);
    if (local->links[link->peer] == link) {
        uint32_t at = 0;
        while (local->made[at] != link)
            at++;
        local->made[at] = local->made[--local->made_count];
        local->links[link->peer] = NULL;
    }
    free(link->lanes);
}
