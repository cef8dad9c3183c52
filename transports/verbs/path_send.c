/* path_send.c: posting to one queue pair.
 *
 * Every message is written into the ring and stays there until its completion, so that a send is
 * done once its bytes are copied and a lost message can be sent again over another path. Requests
 * are staged in a chain and posted with one doorbell; a completion is asked for with every
 * VERBS_SIGNAL_EACH-th request, or with the last of a doorbell when a chunk waits for one and none
 * is under way. Completions come in order, so one frees all requests before it. */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "transports/verbs/verbs.h"

#define RING_ALIGN      64u
#define IDLE_FLUSHES    2    /* polls without news before a completion is asked for by a message */
#define IWARP_PAGES_MIN 4096 /* siw's limit: shorter ones are copied */

static uint32_t round_up(size_t len)
{
    return ((uint32_t)len + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
}

bool path_room(const struct verbs_path *path, size_t len, uint32_t spare)
{
    if (path->relayed)
        return relay_room(path, spare);
    bool imm = path->rail->verbs->layer != CHOOSE_LAYER_IWARP;
    size_t message = len == 0 && !imm ? sizeof(struct wire_header) : len;
    uint32_t counts = spare * round_up(sizeof(struct wire_header) + sizeof(struct wire_credit));
    uint32_t open = path->last - path->first, held = path->last - path->completed;
    return (open > held ? open : held) + spare < path->depth && path->requests + 2 <= path->depth &&
           credit_room(&path->credit) > spare && path->staged + 2 <= VERBS_BATCH &&
           ring_room(&path->ring, round_up(message) + counts);
}

static struct verbs_record *new_record(struct verbs_path *path, enum wire_kind kind, uint32_t lane,
                                       uint16_t seq)
{
    struct verbs_record *record = &path->records[path->last++ % path->depth];
    *record = (struct verbs_record){
        .kind = (uint8_t)kind, .lane = (uint8_t)lane, .seq = seq, .requests = 1};
    return record;
}

static struct ibv_send_wr *stage(struct verbs_path *path, uint64_t address, uint32_t len,
                                 uint32_t key)
{
    uint32_t at = path->staged++;
    path->sge[at] = (struct ibv_sge){.addr = address, .length = len, .lkey = key};
    /* Until sign() it names the path and no open record: an error comes back even unasked. */
    path->wr[at] = (struct ibv_send_wr){.wr_id = path_work_id(path, false, path->first - 1),
                                        .sg_list = &path->sge[at],
                                        .num_sge = 1};
    if (at > 0)
        path->wr[at - 1].next = &path->wr[at];
    /* Of requests without a completion of their own siw hands the pages, not the bytes, to TCP: a
     * later completion does not mean that they have been sent. This one says that all before it is
     * done. */
    if (path->link->verbs->layer == CHOOSE_LAYER_IWARP && len >= IWARP_PAGES_MIN) {
        path->wr[at].send_flags = IBV_SEND_SIGNALED;
        path->wr[at].wr_id = path_work_id(path, false, path->last - 2);
        path->link->verbs->stats.signalled++;
    }
    path->requests++;
    path->link->verbs->stats.work_requests++;
    return &path->wr[at];
}

/* Asks for the completion of the newest record with the newest request. */
static void sign(struct verbs_path *path, struct verbs_record *record)
{
    struct ibv_send_wr *wr = &path->wr[path->staged - 1];
    record->signalled = true;
    path->link->verbs->stats.signalled += !(wr->send_flags & IBV_SEND_SIGNALED);
    wr->send_flags |= IBV_SEND_SIGNALED;
    wr->wr_id = path_work_id(path, false, path->last - 1);
    path->since_signal = 0;
    path->signals++;
    path->open_chunks = 0;
}

static void account(struct verbs_path *path, struct verbs_record *record)
{
    path->since_signal += record->requests;
    path->credit.sent++;
    if (path->since_signal >= VERBS_SIGNAL_EACH)
        sign(path, record);
}

/* Writes a message into the ring and stages its send. */
static void stage_message(struct verbs_path *path, struct verbs_record *record,
                          struct wire_header *header, const void *body, size_t body_len)
{
    uint32_t len = (uint32_t)(sizeof *header + body_len), need = round_up(len);
    must(ring_room(&path->ring, need));
    uint32_t at = ring_take(&path->ring, need, &record->ring_len);
    uint8_t *place = path->memory + (size_t)path->slot_count * path->slot_len + at;
    header->freed = credit_tell(&path->freed);
    header->taken = credit_tell(&path->link->flows[header->lane].taken);
    memcpy(place, header, sizeof *header);
    if (body_len > 0)
        memcpy(place + sizeof *header, body, body_len);
    record->ring_at = at;
    record->len = len;
    struct ibv_send_wr *wr = stage(path, (uintptr_t)place, len, path->mr->lkey);
    wr->opcode = IBV_WR_SEND;
    wr->send_flags |= len <= path->inline_max ? IBV_SEND_INLINE : 0;
}

void path_message(struct verbs_path *path, struct wire_header *header, const void *body,
                  size_t body_len)
{
    if (path->relayed) {
        relay_message(path, header, body, body_len);
        return;
    }
    struct verbs_record *record =
        new_record(path, (enum wire_kind)header->kind, header->lane, header->seq);
    stage_message(path, record, header, body, body_len);
    account(path, record);
}

void path_hello(struct verbs_path *path)
{
    struct wire_header header = {.kind = WIRE_HELLO};
    if (path->hello_sent || !path_alive(path) || !path->link->offered)
        return;
    path->hello_sent = true;
    path->since_ms = clock_ms();
    path_message(path, &header, NULL, 0);
    sign(path, &path->records[(path->last - 1) % path->depth]);
    path_flush(path);
}

void path_chunk(struct verbs_path *path, uint32_t lane, const struct flow_step *step)
{
    if (path->relayed) {
        struct wire_header header = {.kind = WIRE_WRITTEN,
                                     .lane = (uint8_t)lane,
                                     .seq = step->seq,
                                     .len = wire_word(lane, step->seq, step->chunk)};
        relay_message(path, &header, (char *)step->xfer->data + step->offset, step->len);
        return;
    }
    const struct flow_grant *grant = step->grant;
    struct verbs_region *region = (struct verbs_region *)step->xfer->work[FLOW_WORK_REGION];
    struct verbs_record *record = new_record(path, WIRE_WRITTEN, lane, step->seq);
    uint32_t word = wire_word(lane, step->seq, step->chunk);
    struct ibv_send_wr *wr =
        stage(path, (uintptr_t)step->xfer->data + step->offset, (uint32_t)step->len,
              region->mr[path->rail->index][VERBS_ACCESS_SEND]->lkey);
    /* The rest of a message after whole chunks. siw, besides, sends the wrong bytes of one so short
     * that lies across two pages (siw_try_1seg copies the wrong part of the first), unless inline.
     */
    if (step->len <= path->inline_max && !step->xfer->on_device)
        wr->send_flags |= IBV_SEND_INLINE;
    wr->wr.rdma.remote_addr = grant->address + step->offset;
    wr->wr.rdma.rkey = grant->key[path->choice.rail[1]];
    record->chunk = step->chunk;
    path->open_chunks++;
    if (path->link->verbs->layer == CHOOSE_LAYER_IWARP) {
        struct wire_header header = {
            .kind = WIRE_WRITTEN, .lane = (uint8_t)lane, .seq = step->seq, .len = word};
        wr->opcode = IBV_WR_RDMA_WRITE;
        record->requests = 2;
        stage_message(path, record, &header, NULL, 0);
    } else {
        wr->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
        wr->imm_data = htobe32(word);
    }
    account(path, record);
}

/* Chunks are out and no completion is: a message asks for one, if nothing else comes first. */
static void ask_for_completion(struct verbs_path *path)
{
    if (path->open_chunks == 0 || path->signals > 0 || ++path->idle_flushes < IDLE_FLUSHES ||
        !path_room(path, sizeof(struct wire_header) + sizeof(struct wire_credit), 0))
        return;
    path_credit(path, false);
}

void path_credit(struct verbs_path *path, bool asks)
{
    struct wire_header header = {.kind = WIRE_CREDIT, .len = asks};
    struct wire_credit credit = {.received = path->received};
    path->told = path->received;
    path->chunk_came = false;
    for (uint32_t lane = 0; lane < path->link->verbs->config->lanes; lane++)
        credit.taken[lane] = credit_tell(&path->link->flows[lane].taken);
    path_message(path, &header, &credit, sizeof credit);
}

void path_flush(struct verbs_path *path)
{
    struct ibv_send_wr *bad = NULL;
    if (path->relayed)
        return;
    if (!path_alive(path) || path->closed) {
        path->staged = 0; /* the records say what was lost */
        return;
    }
    if (path->staged == 0)
        ask_for_completion(path);
    if (path->staged == 0)
        return;
    path->idle_flushes = 0;
    struct verbs_record *newest = &path->records[(path->last - 1) % path->depth];
    if (path->open_chunks > 0 && path->signals == 0 && !newest->signalled)
        sign(path, newest);
    path->wr[path->staged - 1].next = NULL;
    path->staged = 0;
    path->link->verbs->stats.doorbells++;
    int error = ibv_post_send(path->qp, path->wr, &bad);
    if (error != 0) {
        errno = error;
        link_path_failed(path, "posting to %s failed: %m", path->rail->name);
    }
}

/* Over iWARP the peer has to say that all has arrived, and is asked behind all that was sent. */
static bool counted(struct verbs_path *path)
{
    if (path->first == path->last)
        return true;
    if (!path->asked &&
        path_room(path, sizeof(struct wire_header) + sizeof(struct wire_credit), 0)) {
        path_credit(path, true);
        path->asked = true;
        path->asked_at = path->last;
    }
    return path->asked && (int32_t)(path->first - path->asked_at) >= 0;
}

bool path_settled(struct verbs_path *path)
{
    bool iwarp = path->link->verbs->layer == CHOOSE_LAYER_IWARP;
    if (path->state != VERBS_PATH_UP || path->relayed ||
        (iwarp ? counted(path) : path->completed == path->last))
        return true;
    if (!iwarp && path->signals == 0 && path->open_chunks == 0)
        path->open_chunks = 1; /* so that a completion is asked for */
    path_flush(path);
    return false;
}
