/* flow.c: see flow.h. The queues are rings indexed by the transfer's number, so that an arrival
 * finds its transfer at once and nothing is allocated. */
#include "transports/verbs/flow.h"

#include "base/check.h"

static struct xfer **send_slot(struct flow *flow, uint16_t seq)
{
    return &flow->sends[seq % FLOW_POSTED_MAX];
}

static struct xfer **recv_slot(struct flow *flow, uint16_t seq)
{
    return &flow->recvs[seq % FLOW_POSTED_MAX];
}

/* Is seq within [begin, end) of numbers modulo 2^16? */
static bool within(uint16_t seq, uint16_t begin, uint16_t end)
{
    return (uint16_t)(seq - begin) < (uint16_t)(end - begin);
}

void flow_limit(struct flow *flow, size_t eager_max, size_t chunk, uint16_t window)
{
    must(window >= 1 && window <= FLOW_WINDOW_MAX && chunk > 0 && (chunk & (chunk - 1)) == 0);
    flow->eager_max = eager_max;
    flow->chunk = chunk;
    flow->window.window = window;
}

size_t flow_chunk_len(size_t chunk, uint64_t len)
{
    while (len / chunk >= FLOW_CHUNKS_MAX)
        chunk *= 2;
    return chunk;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

void flow_send(struct flow *flow, struct xfer *xfer)
{
    must((uint16_t)(flow->send_next - flow->send_done) < FLOW_POSTED_MAX);
    xfer->work[FLOW_WORK_MOVED] = xfer->work[FLOW_WORK_OPEN] = 0;
    xfer->work[FLOW_WORK_REGION] = xfer->work[FLOW_WORK_FLAGS] = 0;
    *send_slot(flow, flow->send_next++) = xfer;
}

static bool grant_fits(const struct flow_grant *grant, const struct xfer *xfer)
{
    return grant->len == xfer->len && tag_equal(&grant->tag, xfer->tag);
}

/* A long message whose grant is here. */
static struct flow_step next_part(struct flow *flow, struct flow_step step)
{
    struct xfer *xfer = step.xfer;
    uint64_t moved = xfer->work[FLOW_WORK_MOVED], left = xfer->len - moved;
    step.offset = moved;
    if (step.grant->pieces || (xfer->work[FLOW_WORK_FLAGS] & FLOW_FLAG_PIECES)) {
        if (credit_room(&flow->window) == 0)
            return (struct flow_step){.kind = FLOW_NOTHING};
        step.kind = FLOW_PIECE;
        step.len = left < flow->eager_max ? left : flow->eager_max;
        return step;
    }
    size_t chunk = flow_chunk_len(flow->chunk, xfer->len);
    step.kind = FLOW_CHUNK;
    step.chunk = (uint32_t)(moved / chunk);
    step.len = left < chunk ? left : chunk;
    return step;
}

struct flow_step flow_next(struct flow *flow, bool may_ask)
{
    const struct flow_step nothing = {.kind = FLOW_NOTHING};
    if (flow->send_at == flow->send_next || flow->disagrees)
        return nothing;
    uint16_t seq = flow->send_at;
    struct xfer *xfer = *send_slot(flow, seq);
    struct flow_step step = {.xfer = xfer, .seq = seq, .len = xfer->len};
    if (xfer->len <= flow->eager_max) {
        step.kind = FLOW_EAGER;
        return credit_room(&flow->window) > 0 ? step : nothing;
    }
    const struct flow_grant *grant = &flow->grants[seq % FLOW_POSTED_MAX];
    bool granted = grant->valid && grant->seq == seq;
    if (granted && grant_fits(grant, xfer)) {
        step.grant = grant;
        return next_part(flow, step);
    }
    step.kind = FLOW_ASK;
    return !flow->asked && (granted || may_ask) ? step : nothing;
}

void flow_advance(struct flow *flow, const struct flow_step *step)
{
    struct xfer *xfer = step->xfer;
    const struct flow_grant *grant = &flow->grants[step->seq % FLOW_POSTED_MAX];
    if (step->kind == FLOW_ASK) {
        flow->asked = true;
        flow->disagrees = grant->valid && grant->seq == step->seq;
        return;
    }
    xfer->work[FLOW_WORK_MOVED] += step->len;
    if (step->kind == FLOW_CHUNK)
        xfer->work[FLOW_WORK_OPEN]++;
    else
        flow->window.sent++;
    if (xfer->work[FLOW_WORK_MOVED] < xfer->len)
        return;
    xfer->work[FLOW_WORK_FLAGS] |= FLOW_FLAG_DONE;
    flow->send_at++;
    flow->asked = false;
}

void flow_chunk_acked(struct flow *flow, uint16_t seq)
{
    must(within(seq, flow->send_done, flow->send_next));
    struct xfer *xfer = *send_slot(flow, seq);
    must(xfer->work[FLOW_WORK_OPEN] > 0);
    xfer->work[FLOW_WORK_OPEN]--;
}

enum flow_verdict flow_granted(struct flow *flow, const struct flow_grant *grant)
{
    /* For a send that is over (the peer expected more than it got), it says nothing new. */
    uint16_t ahead = (uint16_t)(grant->seq - flow->send_at);
    if (ahead >= FLOW_POSTED_MAX)
        return ahead > CREDIT_WINDOW_MAX ? FLOW_NOTED : FLOW_NONSENSE;
    struct flow_grant *place = &flow->grants[grant->seq % FLOW_POSTED_MAX];
    if (place->valid && place->seq == grant->seq)
        return FLOW_NONSENSE;
    *place = *grant;
    place->valid = true;
    return FLOW_NOTED;
}

struct xfer *flow_sent(struct flow *flow)
{
    if (flow->send_done == flow->send_next)
        return NULL;
    struct xfer *xfer = *send_slot(flow, flow->send_done);
    if (!(xfer->work[FLOW_WORK_FLAGS] & FLOW_FLAG_DONE) || xfer->work[FLOW_WORK_OPEN] > 0)
        return NULL;
    /* Its number comes again after 65,536 transfers; the grant is for this one. */
    struct flow_grant *grant = &flow->grants[flow->send_done % FLOW_POSTED_MAX];
    grant->valid = grant->valid && grant->seq != flow->send_done;
    flow->send_done++;
    return xfer;
}

/* ---- receiving --------------------------------------------------------------------------------
 */

void flow_recv(struct flow *flow, struct xfer *xfer)
{
    must((uint16_t)(flow->recv_next - flow->recv_done) < FLOW_POSTED_MAX);
    xfer->work[FLOW_WORK_MOVED] = xfer->work[FLOW_WORK_OPEN] = 0;
    xfer->work[FLOW_WORK_REGION] = xfer->work[FLOW_WORK_FLAGS] = 0;
    *recv_slot(flow, flow->recv_next++) = xfer;
}

/* Holds an arrival against its receive. */
static enum flow_verdict judge(struct flow *flow, const struct flow_held *arrival,
                               struct xfer *xfer)
{
    if (arrival->len == xfer->len && tag_equal(&arrival->tag, xfer->tag))
        return arrival->ask ? FLOW_NOTED : FLOW_TAKE;
    xfer->seen = arrival->tag;
    xfer->seen_len = arrival->len;
    flow->broken = true;
    return FLOW_MISMATCH;
}

enum flow_verdict flow_arrived(struct flow *flow, const struct flow_held *arrival, bool piece,
                               size_t bytes, struct xfer **xfer)
{
    if (flow->broken)
        return FLOW_NOTED;
    bool posted = within(arrival->seq, flow->recv_done, flow->recv_next);
    /* Chunks on other paths may have overtaken the question. */
    bool over = (uint16_t)(flow->recv_done - arrival->seq - 1) < CREDIT_WINDOW_MAX;
    if (arrival->ask && over)
        return FLOW_NOTED;
    if (!posted) {
        /* In order, and no more than the window allows. */
        uint32_t count = flow->held_end - flow->held_begin;
        if (piece || count == FLOW_HELD_MAX ||
            (uint16_t)(arrival->seq - flow->recv_next) != count ||
            (!arrival->ask && bytes != arrival->len))
            return FLOW_NONSENSE;
        flow->held[flow->held_end++ % FLOW_HELD_MAX] = *arrival;
        return FLOW_HOLD;
    }
    *xfer = *recv_slot(flow, arrival->seq);
    if ((*xfer)->work[FLOW_WORK_FLAGS] & FLOW_FLAG_DONE)
        return arrival->ask ? FLOW_NOTED : FLOW_NONSENSE;
    enum flow_verdict verdict = judge(flow, arrival, *xfer);
    uint64_t left = (*xfer)->len - (*xfer)->work[FLOW_WORK_MOVED];
    if (verdict == FLOW_TAKE && (piece ? bytes == 0 || bytes > left : bytes != (*xfer)->len))
        return FLOW_NONSENSE;
    return verdict;
}

bool flow_recall(struct flow *flow, struct flow_held *held, enum flow_verdict *verdict,
                 struct xfer **xfer)
{
    if (flow->held_begin == flow->held_end || flow->broken)
        return false;
    *held = flow->held[flow->held_begin % FLOW_HELD_MAX];
    if (!within(held->seq, flow->recv_done, flow->recv_next))
        return false;
    flow->held_begin++;
    *xfer = *recv_slot(flow, held->seq);
    *verdict = judge(flow, held, *xfer);
    return true;
}

enum flow_verdict flow_written(struct flow *flow, uint16_t seq13, uint32_t chunk,
                               struct xfer **xfer, uint64_t *offset, size_t *len)
{
    uint16_t ahead = FLOW_SEQ13(seq13 - flow->recv_done);
    uint16_t seq = (uint16_t)(flow->recv_done + ahead);
    if (flow->broken)
        return FLOW_NOTED;
    if (!within(seq, flow->recv_done, flow->recv_next))
        return FLOW_NONSENSE;
    *xfer = *recv_slot(flow, seq);
    size_t part = flow_chunk_len(flow->chunk, (*xfer)->len);
    *offset = (uint64_t)chunk * part;
    uint64_t flags = (*xfer)->work[FLOW_WORK_FLAGS];
    if (!(flags & FLOW_FLAG_GRANTED) || (flags & FLOW_FLAG_DONE) || *offset >= (*xfer)->len)
        return FLOW_NONSENSE;
    uint64_t left = (*xfer)->len - *offset;
    *len = left < part ? left : part;
    return *len <= (*xfer)->len - (*xfer)->work[FLOW_WORK_MOVED] ? FLOW_TAKE : FLOW_NONSENSE;
}

void flow_landed(struct flow *flow, struct xfer *xfer, size_t len)
{
    xfer->work[FLOW_WORK_MOVED] += len;
    must(xfer->work[FLOW_WORK_MOVED] <= xfer->len);
    if (xfer->work[FLOW_WORK_MOVED] == xfer->len)
        xfer->work[FLOW_WORK_FLAGS] |= FLOW_FLAG_DONE;
}

struct xfer *flow_wants_grant(struct flow *flow, uint16_t *seq)
{
    while (flow->recv_granted != flow->recv_next && !flow->broken) {
        struct xfer *xfer = *recv_slot(flow, flow->recv_granted);
        if (xfer->len > flow->eager_max) {
            *seq = flow->recv_granted;
            return xfer;
        }
        flow->recv_granted++;
    }
    return NULL;
}

void flow_did_grant(struct flow *flow)
{
    struct xfer *xfer = *recv_slot(flow, flow->recv_granted);
    xfer->work[FLOW_WORK_FLAGS] |= FLOW_FLAG_GRANTED;
    flow->recv_granted++;
}

struct xfer *flow_received(struct flow *flow)
{
    if (flow->recv_done == flow->recv_next)
        return NULL;
    struct xfer *xfer = *recv_slot(flow, flow->recv_done);
    if (!(xfer->work[FLOW_WORK_FLAGS] & FLOW_FLAG_DONE))
        return NULL;
    if (flow->recv_granted == flow->recv_done)
        flow->recv_granted++;
    flow->recv_done++;
    return xfer;
}

bool flow_unexpected(const struct flow *flow, struct tag *tag, size_t *len)
{
    if (flow->recv_done != flow->recv_next || flow->broken || flow->held_begin == flow->held_end)
        return false;
    const struct flow_held *held = &flow->held[flow->held_begin % FLOW_HELD_MAX];
    *tag = held->tag;
    *len = held->len;
    return true;
}
