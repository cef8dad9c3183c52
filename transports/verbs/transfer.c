/* transfer.c: carries out what flow.c decides. Messages of a lane go over its home path, chunks of
 * long messages over every path that has room, beginning with another path for each chunk.
 * Invariant: a transfer is in its lane's flow or finished, and its memory region is in use while
 * the device may read or write its bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "transports/verbs/verbs.h"

#define ASK_PUMPS 64 /* a long send asks for its grant after so many fruitless looks */

static struct verbs_region *region_of(const struct xfer *xfer)
{
    return (struct verbs_region *)xfer->work[FLOW_WORK_REGION];
}

static uint32_t name_slot(const struct verbs_path *path, uint32_t slot)
{
    return path->index << 24 | slot;
}

static struct verbs_path *home_of(struct verbs_link *link, uint32_t lane)
{
    return &link->paths[link->home[lane]];
}

/* ---- endings ----------------------------------------------------------------------------------
 */

static void end_transfer(struct verbs_link *link, struct xfer *xfer, tutti_status status)
{
    memory_release(link->verbs, region_of(xfer));
    verbs_finish(link->verbs, xfer, status);
}

void transfer_retire(struct verbs_link *link, uint32_t lane)
{
    struct transport_stats *stats = &link->verbs->stats;
    struct flow *flow = &link->flows[lane];
    struct xfer *xfer;
    while ((xfer = flow_sent(flow))) {
        stats->sends++;
        end_transfer(link, xfer, TUTTI_OK);
    }
    while ((xfer = flow_received(flow))) {
        stats->recvs++;
        stats->bytes_received += xfer->len;
        end_transfer(link, xfer, xfer->on_device ? mem_nic_flush(xfer->data) : TUTTI_OK);
    }
}

static void fail_receives(struct verbs_link *link, uint32_t lane, tutti_status status)
{
    struct flow *flow = &link->flows[lane];
    while (flow->recv_done != flow->recv_next)
        end_transfer(link, flow->recvs[flow->recv_done++ % FLOW_POSTED_MAX], status);
    flow->recv_granted = flow->recv_next;
}

void transfer_fail_all(struct verbs_link *link, tutti_status status)
{
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        struct flow *flow = &link->flows[lane];
        transfer_retire(link, lane);
        while (flow->send_done != flow->send_next)
            end_transfer(link, flow->sends[flow->send_done++ % FLOW_POSTED_MAX], status);
        flow->send_at = flow->send_next;
        fail_receives(link, lane, status);
    }
}

/* The ranks disagree about what the lane carries: the receive that shows it ends first. */
static void break_lane(struct verbs_link *link, uint32_t lane, struct xfer *culprit)
{
    struct flow *flow = &link->flows[lane];
    transfer_retire(link, lane);
    end_transfer(link, culprit, TUTTI_ERR_MISMATCH);
    while (flow->recv_done != flow->recv_next) {
        struct xfer *xfer = flow->recvs[flow->recv_done++ % FLOW_POSTED_MAX];
        if (xfer != culprit)
            end_transfer(link, xfer, TUTTI_ERR_MISMATCH);
    }
}

static void nonsense(struct verbs_link *link, const char *what)
{
    link_end(link, TUTTI_ERR_PROTOCOL,
             "%s sent %s over RDMA that makes no sense here: versions differ, or its memory is "
             "damaged",
             verbs_peer_name(link->verbs, link->peer), what);
}

/* A chunk that nobody waits for; the numbers tell which of the two sides is wrong. */
static void nonsense_chunk(struct verbs_link *link, uint32_t lane, uint32_t word)
{
    const struct flow *flow = &link->flows[lane];
    const struct xfer *oldest =
        flow->recv_done == flow->recv_next ? NULL : flow->recvs[flow->recv_done % FLOW_POSTED_MAX];
    char what[160];
    snprintf(what, sizeof what,
             "chunk %u of message %u on lane %u (receives %u to %u are open, %u granted; the "
             "oldest has %" PRIu64 " of %zu bytes)",
             word & 0xffff, word >> 16 & 0x1fff, lane, flow->recv_done, flow->recv_next,
             flow->recv_granted, oldest ? oldest->work[FLOW_WORK_MOVED] : 0,
             oldest ? oldest->len : (size_t)0);
    nonsense(link, what);
}

/* ---- landing ----------------------------------------------------------------------------------
 */

static void apply(struct xfer *xfer, uint64_t offset, const void *bytes, size_t len)
{
    char *dst = (char *)xfer->dst + offset;
    const char *other = (const char *)xfer->other + offset;
    if (xfer->incoming_first)
        reduce_apply(xfer->reducer, dst, bytes, other, len);
    else
        reduce_apply(xfer->reducer, dst, other, bytes, len);
}

/* Takes the data of an eager message or piece out of its slot. */
static void land(struct verbs_link *link, uint32_t lane, struct xfer *xfer, const void *bytes,
                 size_t len)
{
    uint64_t offset = xfer->work[FLOW_WORK_MOVED];
    struct flow *flow = &link->flows[lane];
    if (xfer->on_device) {
        tutti_status status = mem_nic_copy((char *)xfer->data + offset, bytes, len);
        if (status != TUTTI_OK) {
            link_end(link, status, "%s", status_sentence());
            return;
        }
    } else if (xfer->reducer)
        apply(xfer, offset, bytes, len);
    else if (len > 0)
        memcpy((char *)xfer->data + offset, bytes, len);
    link->verbs->stats.copies++;
    link->verbs->stats.copied_bytes += len;
    flow_landed(flow, xfer, len);
    flow->taken.freed++;
    link->work = true;
}

void transfer_landed(struct verbs_link *link, uint32_t lane, struct xfer *xfer, uint64_t offset,
                     size_t len)
{
    if (xfer->reducer)
        apply(xfer, offset, (char *)xfer->data + offset, len);
    link->verbs->stats.in_place_bytes += len;
    link->verbs->stats.device_bytes += xfer->on_device ? len : 0;
    flow_landed(&link->flows[lane], xfer, len);
    transfer_retire(link, lane);
    link->work = true;
}

void transfer_written(struct verbs_path *path, uint32_t word)
{
    struct verbs_link *link = path->link;
    uint32_t lane = word >> 29;
    struct xfer *xfer;
    uint64_t offset;
    size_t len;
    if (link->stopped || link->state == VERBS_LINK_ENDED)
        return;
    if (lane >= link->verbs->config->lanes) {
        nonsense(link, "a chunk");
        return;
    }
    struct flow *flow = &link->flows[lane];
    link->work = true; /* the receive slot is free again */
    switch (
        flow_written(flow, (uint16_t)(word >> 16 & 0x1fff), word & 0xffff, &xfer, &offset, &len)) {
    case FLOW_TAKE:
        transfer_landed(link, lane, xfer, offset, len);
        break;
    case FLOW_NONSENSE:
        nonsense_chunk(link, lane, word);
        break;
    default:
        break;
    }
}

/* ---- arrivals ---------------------------------------------------------------------------------
 */

bool transfer_reports(struct verbs_path *path, const struct wire_header *header)
{
    struct verbs_link *link = path->link;
    return credit_report(&path->credit, header->freed) &&
           credit_report(&link->flows[header->lane].window, header->taken);
}

static void take_grant(struct verbs_link *link, const struct wire_header *header, size_t len)
{
    struct wire_grant wire;
    struct verbs *verbs = link->verbs;
    uint8_t mask[SEAL_MASK_LEN];
    if (len < sizeof *header + sizeof wire) {
        nonsense(link, "a grant");
        return;
    }
    memcpy(&wire, header + 1, sizeof wire);
    tutti_status status =
        seal_mask(verbs->seal, link->peer, verbs->config->rank, wire.counter, mask);
    if (status != TUTTI_OK) {
        link_end(link, status, "%s", status_sentence());
        return;
    }
    struct flow_grant grant = {.pieces = wire.pieces,
                               .seq = header->seq,
                               .len = header->len,
                               .address = wire.address,
                               .tag = header->tag};
    for (int i = 0; i < SEAL_MASK_LEN; i++)
        ((uint8_t *)grant.key)[i] = wire.keys[i] ^ mask[i];
    if (flow_granted(&link->flows[header->lane], &grant) == FLOW_NONSENSE)
        nonsense(link, "a grant");
    link->work = true;
}

static void put_credit(struct verbs_path *path)
{
    if (path_alive(path) &&
        path_room(path, sizeof(struct wire_header) + sizeof(struct wire_credit), 0))
        path_credit(path, false);
}

static void take_credit(struct verbs_path *path, const struct wire_header *header, size_t len)
{
    struct verbs_link *link = path->link;
    struct wire_credit credit;
    bool good = len >= sizeof *header + sizeof credit;
    if (good)
        memcpy(&credit, header + 1, sizeof credit);
    for (uint32_t lane = 0; lane < link->verbs->config->lanes && good; lane++)
        good = credit_report(&link->flows[lane].window, credit.taken[lane]);
    if (!good)
        nonsense(link, "a count");
    else if (link->verbs->layer == CHOOSE_LAYER_IWARP && !path->relayed)
        link_take_count(path, credit.received);
    if (good && header->len > 0) { /* it is about to leave, as this side may be */
        path->chunk_came = true;
        put_credit(path);
        path_flush(path);
    }
}

static void take_path_dead(struct verbs_link *link, const struct wire_header *header, size_t len)
{
    struct wire_path_dead word;
    if (len < sizeof *header + sizeof word) {
        nonsense(link, "a word about a path");
        return;
    }
    memcpy(&word, header + 1, sizeof word);
    word.text[sizeof word.text - 1] = '\0';
    link_path_dead(link, &word, header->len);
}

/* An EAGER, PIECE or ASK. True: its slot is kept. */
static bool take_data(struct verbs_path *path, const struct wire_header *header, uint32_t slot,
                      size_t len)
{
    struct verbs_link *link = path->link;
    struct xfer *xfer;
    bool ask = header->kind == WIRE_ASK;
    struct flow_held arrival = {.seq = header->seq,
                                .ask = ask,
                                .slot = name_slot(path, slot),
                                .len = header->len,
                                .tag = header->tag};
    struct flow *flow = &link->flows[header->lane];
    size_t bytes = len - sizeof *header;
    switch (flow_arrived(flow, &arrival, header->kind == WIRE_PIECE, bytes, &xfer)) {
    case FLOW_TAKE:
        land(link, header->lane, xfer, header + 1, bytes);
        transfer_retire(link, header->lane);
        return false;
    case FLOW_HOLD:
        return !ask;
    case FLOW_MISMATCH:
        break_lane(link, header->lane, xfer);
        return false;
    case FLOW_NONSENSE:
        nonsense(link, "a message");
        return false;
    default:
        return false;
    }
}

bool transfer_arrived(struct verbs_path *path, uint32_t slot, size_t len)
{
    const struct wire_header *header = path_slot(path, slot);
    struct verbs_link *link = path->link;
    if (link->stopped || link->state == VERBS_LINK_ENDED)
        return false;
    if (len < sizeof *header || header->lane >= link->verbs->config->lanes ||
        !transfer_reports(path, header)) {
        nonsense(link, "a message");
        return false;
    }
    link->work = true;
    switch (header->kind) {
    case WIRE_HELLO:
        path->hello_came = true;
        link_path_up(path);
        return false;
    case WIRE_EAGER:
    case WIRE_PIECE:
    case WIRE_ASK:
        return take_data(path, header, slot, len);
    case WIRE_GRANT:
        take_grant(link, header, len);
        return false;
    case WIRE_CREDIT:
        take_credit(path, header, len);
        return false;
    case WIRE_WRITTEN:
        path->chunk_came = true;
        transfer_written(path, (uint32_t)header->len);
        return false;
    case WIRE_PATH_DEAD:
        take_path_dead(link, header, len);
        return false;
    default:
        nonsense(link, "a message");
        return false;
    }
}

void transfer_recall(struct verbs_link *link, uint32_t lane)
{
    struct flow *flow = &link->flows[lane];
    struct flow_held held;
    enum flow_verdict verdict;
    struct xfer *xfer;
    while (flow_recall(flow, &held, &verdict, &xfer)) {
        struct verbs_path *path = &link->paths[held.slot >> 24];
        uint32_t slot = held.slot & 0xffffff;
        if (verdict == FLOW_TAKE)
            land(link, lane, xfer, path_slot(path, slot) + 1, held.len);
        if (!held.ask)
            path_release(path, slot);
        if (verdict == FLOW_MISMATCH) {
            break_lane(link, lane, xfer);
            return;
        }
    }
    transfer_retire(link, lane);
}

/* ---- sending ----------------------------------------------------------------------------------
 */

static bool put_step(struct verbs_link *link, uint32_t lane, const struct flow_step *step)
{
    static const uint8_t kinds[] = {
        [FLOW_EAGER] = WIRE_EAGER, [FLOW_PIECE] = WIRE_PIECE, [FLOW_ASK] = WIRE_ASK};
    struct verbs_path *path = home_of(link, lane);
    const struct xfer *xfer = step->xfer;
    size_t len = step->kind == FLOW_ASK ? 0 : step->len;
    struct wire_header header = {.kind = kinds[step->kind],
                                 .lane = (uint8_t)lane,
                                 .seq = step->seq,
                                 .len = xfer->len,
                                 .tag = *xfer->tag};
    if (!path_alive(path) || !path_room(path, sizeof header + len, VERBS_RESERVE))
        return false;
    const char *body = (const char *)xfer->data + step->offset;
    if (xfer->on_device && len > 0) {
        tutti_status status = mem_nic_copy(link->verbs->staging, body, len);
        if (status != TUTTI_OK) {
            link_end(link, status, "%s", status_sentence());
            return false;
        }
        body = (const char *)link->verbs->staging;
    }
    path_message(path, &header, body, len);
    link->verbs->stats.copies += len > 0;
    link->verbs->stats.copied_bytes += len;
    return true;
}

/* Does everything go over the socket? */
static bool only_relayed(const struct verbs_link *link)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        if (link->paths[i].state != VERBS_PATH_NONE && !link->paths[i].relayed)
            return false;
    }
    return true;
}

/* A path for a chunk: every path in turn, so that all rails carry their share. */
static struct verbs_path *path_for_chunk(struct verbs_link *link, uint32_t lane, uint32_t chunk)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[(link->home[lane] + chunk + i) % link->path_count];
        if (path->state == VERBS_PATH_UP && path_room(path, 0, VERBS_RESERVE) &&
            (!path->relayed || only_relayed(link)))
            return path;
    }
    return NULL;
}

static bool put_chunk(struct verbs_link *link, uint32_t lane, const struct flow_step *step)
{
    struct verbs_path *path = path_for_chunk(link, lane, step->chunk);
    if (!path)
        return false;
    path_chunk(path, lane, step);
    link->verbs->stats.device_bytes += step->xfer->on_device ? step->len : 0;
    if (path->staged + 2 > VERBS_BATCH)
        path_flush(path);
    return true;
}

/* Pins what a long send reads; a send that cannot be pinned goes in pieces. */
static void pin_source(struct verbs_link *link, struct xfer *xfer)
{
    struct verbs_region *region;
    if (memory_use(link->verbs, xfer->data, xfer->len, VERBS_ACCESS_SEND, &region) == TUTTI_OK)
        xfer->work[FLOW_WORK_REGION] = (uint64_t)region;
    else
        xfer->work[FLOW_WORK_FLAGS] |= FLOW_FLAG_PIECES;
}

void transfer_pump_lane(struct verbs_link *link, uint32_t lane, bool may_ask)
{
    struct flow *flow = &link->flows[lane];
    may_ask = may_ask || link->asks[lane] >= ASK_PUMPS;
    for (;;) {
        struct flow_step step = flow_next(flow, may_ask);
        if (step.kind == FLOW_CHUNK && !region_of(step.xfer) && !only_relayed(link)) {
            pin_source(link, step.xfer);
            continue;
        }
        if (step.kind == FLOW_NOTHING ||
            !(step.kind == FLOW_CHUNK ? put_chunk(link, lane, &step) : put_step(link, lane, &step)))
            break;
        flow_advance(flow, &step);
        link->verbs->stats.bytes_sent += step.kind == FLOW_ASK ? 0 : step.len;
        link->asks[lane] = 0;
    }
    link->asks[lane] += link->asks[lane] < ASK_PUMPS && flow->send_at != flow->send_next;
    transfer_retire(link, lane);
}

static tutti_status make_grant(struct verbs_link *link, struct xfer *xfer, struct wire_grant *grant)
{
    struct verbs *verbs = link->verbs;
    struct verbs_region *region = region_of(xfer);
    uint32_t keys[FLOW_KEYS_MAX] = {0};
    *grant = (struct wire_grant){.address = (uintptr_t)xfer->data, .counter = ++link->grants};
    if (!region &&
        memory_use(verbs, xfer->data, xfer->len, VERBS_ACCESS_RECEIVE, &region) == TUTTI_OK)
        xfer->work[FLOW_WORK_REGION] = (uint64_t)region;
    grant->pieces = region == NULL && !only_relayed(link);
    for (uint32_t r = 0; r < verbs->rail_count && region; r++)
        keys[r] =
            region->mr[r][VERBS_ACCESS_RECEIVE] ? region->mr[r][VERBS_ACCESS_RECEIVE]->rkey : 0;
    tutti_status status =
        seal_mask(verbs->seal, verbs->config->rank, link->peer, grant->counter, grant->keys);
    for (int i = 0; i < SEAL_MASK_LEN; i++)
        grant->keys[i] ^= ((const uint8_t *)keys)[i];
    return status;
}

static void pump_grants(struct verbs_link *link, uint32_t lane)
{
    struct flow *flow = &link->flows[lane];
    struct verbs_path *path = home_of(link, lane);
    struct xfer *xfer;
    uint16_t seq;
    struct wire_grant grant;
    while ((xfer = flow_wants_grant(flow, &seq)) && path_alive(path) &&
           path_room(path, sizeof(struct wire_header) + sizeof grant, VERBS_RESERVE)) {
        tutti_status status = make_grant(link, xfer, &grant);
        if (status != TUTTI_OK) {
            link_end(link, status, "%s", status_sentence());
            return;
        }
        struct wire_header header = {.kind = WIRE_GRANT,
                                     .lane = (uint8_t)lane,
                                     .seq = seq,
                                     .len = xfer->len,
                                     .tag = *xfer->tag};
        path_message(path, &header, &grant, sizeof grant);
        flow_did_grant(flow);
    }
}

/* Over iWARP the sender waits for the peer's count: at once with a chunk, whose transfer it cannot
 * end before; now and then with messages, which lie in its ring. */
static bool count_due(const struct verbs_path *path)
{
    uint32_t news = path->received - path->told;
    return path->link->verbs->layer == CHOOSE_LAYER_IWARP && path_alive(path) && !path->relayed &&
           (news >= VERBS_COUNT_EACH || (news > 0 && path->chunk_came));
}

static void pump_credits(struct verbs_link *link)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[i];
        if (credit_due(&path->freed, (uint16_t)(path->slot_count / 4)) || count_due(path))
            put_credit(path);
    }
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        if (credit_due(&link->flows[lane].taken, (uint16_t)((link->verbs->window + 1) / 2)))
            put_credit(home_of(link, lane));
    }
}

/* Is there something that a later pump may be able to send? */
static bool unfinished(const struct verbs_link *link)
{
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        const struct flow *flow = &link->flows[lane];
        if (flow->send_done != flow->send_next || flow->recv_granted != flow->recv_next)
            return true;
    }
    for (uint32_t i = 0; i < link->path_count; i++) {
        if (link->paths[i].open_chunks > 0 || count_due(&link->paths[i]))
            return true;
    }
    return false;
}

void transfer_pump(struct verbs_link *link, bool may_ask)
{
    if (link->relay)
        control_take_acks(link);
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        pump_grants(link, lane);
        if (link->state != VERBS_LINK_UP)
            return;
        transfer_pump_lane(link, lane, may_ask);
    }
    pump_credits(link);
    for (uint32_t i = 0; i < link->path_count; i++)
        path_flush(&link->paths[i]);
    link->work = unfinished(link);
}

/* ---- sending again ----------------------------------------------------------------------------
 */

static struct verbs_path *live_path(struct verbs_link *link, size_t len)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[i];
        if (path->state == VERBS_PATH_UP && path_room(path, len, VERBS_RESERVE))
            return path;
    }
    return NULL;
}

static bool resend_chunk(struct verbs_link *link, const struct verbs_record *record)
{
    struct flow *flow = &link->flows[record->lane];
    struct verbs_path *path = live_path(link, 0);
    struct xfer *xfer = flow->sends[record->seq % FLOW_POSTED_MAX];
    if (!path)
        return false;
    size_t part = flow_chunk_len(flow->chunk, xfer->len);
    uint64_t offset = (uint64_t)record->chunk * part, left = xfer->len - offset;
    struct flow_step step = {.kind = FLOW_CHUNK,
                             .xfer = xfer,
                             .grant = &flow->grants[record->seq % FLOW_POSTED_MAX],
                             .seq = record->seq,
                             .chunk = record->chunk,
                             .offset = offset,
                             .len = left < part ? left : part};
    path_chunk(path, record->lane, &step);
    path->asked = false; /* what was asked covers less */
    return true;
}

bool transfer_resend(struct verbs_path *dead, const struct verbs_record *record)
{
    struct verbs_link *link = dead->link;
    if (record->kind == WIRE_WRITTEN)
        return resend_chunk(link, record);
    struct verbs_path *path = link_heir(link);
    if (!path || !path_room(path, record->len, VERBS_RESERVE))
        return false;
    if (record->kind == WIRE_HELLO || record->kind == WIRE_CREDIT ||
        record->kind == WIRE_PATH_DEAD) {
        path_credit(path, false); /* of these only the counts matter still */
        return true;
    }
    const uint8_t *message =
        dead->memory + (size_t)dead->slot_count * dead->slot_len + record->ring_at;
    struct wire_header header;
    memcpy(&header, message, sizeof header);
    path_message(path, &header, message + sizeof header, record->len - sizeof header);
    path->asked = false;
    return true;
}
