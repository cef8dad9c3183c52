/* path.c: one queue pair: its memory, its connection, its completions (path_send.c posts).
 *
 *   memory   | slot 0 | slot 1 | ... | slot n-1 |  send ring                                   |
 *
 * Receiving: each receive is one slot; immediate words use one up too. The peer never sends more
 * than it has credit for, so no request ever meets an empty queue.
 * Invariant: records [first, last) are those of which it is not known that they have arrived,
 * oldest first. A completion says so, but not over iWARP: there it says that a socket has the
 * bytes, and the peer's count (struct wire_credit) that they have arrived. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/auth.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/verbs/verbs.h"

#define POLL_MAX 32

/* wr_id: | slot in the table 24 | generation 7 | receive 1 | receive slot or record 32 | */
uint64_t path_work_id(const struct verbs_path *path, bool receive, uint32_t what)
{
    return (uint64_t)path->slot_in_table << 40 | (uint64_t)(path->generation & 0x7f) << 33 |
           (uint64_t)receive << 32 | what;
}

bool path_alive(const struct verbs_path *path)
{
    return path->state == VERBS_PATH_TRYING || path->state == VERBS_PATH_UP;
}

const struct wire_header *path_slot(const struct verbs_path *path, uint32_t slot)
{
    return (const struct wire_header *)(path->memory + (size_t)slot * path->slot_len);
}

/* ---- making -----------------------------------------------------------------------------------
 */

/* A place in the table by which completions find their path. */
static tutti_status take_place(struct verbs_path *path)
{
    struct verbs *verbs = path->link->verbs;
    uint32_t at = 0;
    while (at < verbs->path_slots && verbs->paths[at])
        at++;
    if (at == verbs->path_slots) {
        uint32_t slots = at ? 2 * at : 64;
        struct verbs_path **paths = realloc(verbs->paths, slots * sizeof(struct verbs_path *));
        if (!paths)
            return fail(TUTTI_ERR_NOMEM, "no memory for a table of %u queue pairs", slots);
        memset(paths + at, 0, (slots - at) * sizeof(struct verbs_path *));
        verbs->paths = paths;
        verbs->path_slots = slots;
    }
    path->slot_in_table = at;
    path->generation = ++verbs->generation;
    verbs->paths[at] = path;
    return TUTTI_OK;
}

/* Registers memory for slots and ring; halves the slots' number and length while the limit of
 * locked memory does not allow more. */
static tutti_status make_memory(struct verbs_path *path)
{
    struct verbs *verbs = path->link->verbs;
    const struct library *library = verbs->library;
    if (path->memory)
        return TUTTI_OK;
    uint32_t lanes = verbs->config->lanes;
    for (;;) {
        path->slot_len = verbs->slot_len;
        path->slot_count = lanes * verbs->window + VERBS_SPARE;
        path->ring.len = VERBS_RING_SLOTS * path->slot_len;
        path->memory_len = (size_t)path->slot_count * path->slot_len + path->ring.len;
        void *memory = mmap(NULL, path->memory_len, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return fail_errno(TUTTI_ERR_NOMEM, "%zu bytes for slots", path->memory_len);
        /* A forked child must not share, and so move, pages that the device writes to. */
        madvise(memory, path->memory_len, MADV_DONTFORK);
        path->mr =
            library->ibv.reg_mr(path->rail->pd, memory, path->memory_len, IBV_ACCESS_LOCAL_WRITE);
        if (path->mr) {
            path->memory = memory;
            return TUTTI_OK;
        }
        tutti_status status = memory_fail(path->rail, "register %zu bytes", path->memory_len);
        munmap(memory, path->memory_len);
        if (status != TUTTI_ERR_NOMEM)
            return status;
        if (verbs->slot_len > 512)
            verbs->slot_len /= 2;
        else if (verbs->window > 2)
            verbs->window /= 2;
        else
            return status;
    }
}

static void post_receive(struct verbs_path *path, uint32_t slot)
{
    struct ibv_sge sge = {
        .addr = (uintptr_t)path_slot(path, slot), .length = path->slot_len, .lkey = path->mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = path_work_id(path, true, slot),
                             .sg_list = &sge,
                             .num_sge = 1},
                       *bad;
    if (ibv_post_recv(path->qp, &wr, &bad) == 0)
        path->posted++;
}

/* False: the device refuses, errno says why. */
static bool create(struct verbs_path *path, uint32_t inline_bytes)
{
    /* Written anew each time: what a device would give it writes here, also where it then fails. */
    struct ibv_qp_init_attr init = {
        .send_cq = path->rail->cq,
        .recv_cq = path->rail->cq,
        .cap = {.max_send_wr = path->depth,
                .max_recv_wr = path->slot_count,
                .max_send_sge = 1,
                .max_recv_sge = 1,
                .max_inline_data = inline_bytes},
        .qp_type = IBV_QPT_RC,
    };
    path->qp = path->link->verbs->library->ibv.create_qp(path->rail->pd, &init);
    path->inline_max = init.cap.max_inline_data;
    return path->qp != NULL;
}

static tutti_status make_queue_pair(struct verbs_path *path)
{
    tutti_status status = device_grow(path->rail, path->depth + path->slot_count);
    if (status != TUTTI_OK)
        return status;
    /* Devices refuse more than they have, and do not say how much that is. */
    uint32_t inline_bytes = (uint32_t)path->link->verbs->config->settings->verbs_inline;
    while (!create(path, inline_bytes) && inline_bytes > 0)
        inline_bytes /= 2;
    if (path->qp)
        return TUTTI_OK;
    path->rail->cq_used -= path->depth + path->slot_count;
    return memory_fail(path->rail, "make a queue pair of %u sends and %u receives", path->depth,
                       path->slot_count);
}

static tutti_status to_init(struct verbs_path *path)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
                               .port_num = path->rail->port,
                               .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};
    int mask = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    int error = path->link->verbs->library->ibv.modify_qp(path->qp, &attr, mask);
    if (error == 0)
        return TUTTI_OK;
    errno = error;
    return fail_errno(TUTTI_ERR_SYSTEM, "initialise a queue pair on %s", path->rail->name);
}

static void reset_counts(struct verbs_path *path)
{
    path->posted = 0;
    path->received = path->peer_received = path->peer_sent = 0;
    path->freed = (struct credit_receiver){0};
    path->credit = (struct credit_sender){0};
    path->first = path->completed = path->last = path->requests = 0;
    path->told = 0;
    path->chunk_came = path->asked = false;
    path->since_signal = path->signals = path->open_chunks = path->idle_flushes = 0;
    path->ring = (struct ring){.len = path->ring.len};
    path->staged = 0;
    path->waits_ms = 0;
    path->question_open = path->closed = false;
    path->hello_asks = 0;
    path->hello_sent = path->hello_came = path->hello_acked = path->peer_dead = false;
    path->peer_ready = path->dead_due = false;
}

tutti_status path_make(struct verbs_path *path)
{
    struct verbs *verbs = path->link->verbs;
    if (path->rail->gone)
        return fail(TUTTI_ERR_CONNECT, "the device of %s is lost", path->rail->name);
    path->depth = (uint32_t)verbs->config->settings->verbs_depth;
    while (path->depth & (path->depth - 1)) /* a power of two: counts of records wrap around */
        path->depth &= path->depth - 1;
    reset_counts(path);
    tutti_status status = take_place(path);
    if (status != TUTTI_OK)
        return status;
    status = make_memory(path);
    if (status == TUTTI_OK && !path->records) {
        path->records = calloc(path->depth, sizeof *path->records);
        if (!path->records)
            status = fail(TUTTI_ERR_NOMEM, "no memory for %u work requests", path->depth);
    }
    if (status == TUTTI_OK)
        status = make_queue_pair(path);
    /* The connection manager knows the port only later. */
    if (status == TUTTI_OK && !verbs->cm)
        status = to_init(path);
    if (status == TUTTI_OK)
        status = auth_random(&path->psn, sizeof path->psn);
    if (status == TUTTI_OK)
        status = auth_random(path->token, sizeof path->token);
    path->psn &= 0xffffff;
    if (status != TUTTI_OK) {
        path_drop(path); /* the memory stays: it may be possible later */
        return status;
    }
    path->state = VERBS_PATH_MAKING;
    if (!verbs->cm)
        path_receive(path);
    return TUTTI_OK;
}

void path_receive(struct verbs_path *path)
{
    for (uint32_t i = 0; i < path->slot_count; i++)
        post_receive(path, i);
}

void path_destroyed(struct verbs_path *path)
{
    path->rail->cq_used -= path->depth + path->slot_count;
    path->qp = NULL;
}

/* Completions that the queue pair left behind find no path any more. */
static void let_go(struct verbs_path *path)
{
    struct verbs *verbs = path->link->verbs;
    if (path->id && !path->errand)
        connect_drop(path);
    if (verbs->paths && !path->relayed && verbs->paths[path->slot_in_table] == path)
        verbs->paths[path->slot_in_table] = NULL;
    path->state = VERBS_PATH_NONE;
    path->staged = 0;
}

void path_drop(struct verbs_path *path)
{
    let_go(path);
    if (path->qp && !path->errand) {
        path->link->verbs->library->ibv.destroy_qp(path->qp);
        path_destroyed(path);
    }
}

void path_give_up(struct verbs_path *path)
{
    let_go(path);
    if (path->qp && !path->errand && !errand_destroy(path))
        path_drop(path);
}

void path_free(struct verbs_path *path)
{
    if (path->errand)
        errand_end(path, true);
    path_drop(path);
    if (path->mr)
        path->link->verbs->library->ibv.dereg_mr(path->mr);
    if (path->memory && !path->relayed)
        munmap(path->memory, path->memory_len);
    free(path->records);
    path->mr = NULL;
    path->memory = NULL;
    path->records = NULL;
}

void path_describe(const struct verbs_path *path, struct wire_path *wire)
{
    const struct verbs *verbs = path->link->verbs;
    *wire = (struct wire_path){0};
    if (!path->qp || path->errand)
        return;
    const struct choose_rail *rail = &verbs->ports.rails[path->choice.rail[0]];
    wire->qpn = path->qp->qp_num;
    wire->psn = path->psn;
    wire->lid = rail->lid;
    wire->mtu = rail->mtu;
    wire->global = rail->global;
    wire->window = (uint16_t)path->slot_count;
    memcpy(wire->gid, rail->gids[path->choice.gid[0]].raw, sizeof wire->gid);
    if (verbs->cm)
        connect_describe(path, wire);
}

/* ---- connecting -------------------------------------------------------------------------------
 */

tutti_status path_connect(struct verbs_path *path, const struct wire_path *peer)
{
    path->peer = *peer;
    path->credit.window = peer->window; /* the connection manager may have been faster */
    return path->link->verbs->cm ? TUTTI_OK : errand_connect(path);
}

void path_stop(struct verbs_path *path)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    if (path->qp)
        path->link->verbs->library->ibv.modify_qp(path->qp, &attr, IBV_QP_STATE);
}

/* ---- completions ------------------------------------------------------------------------------
 */

/* The device is done with the oldest record that it had. */
static void complete(struct verbs_path *path)
{
    const struct verbs_record *record = &path->records[path->completed++ % path->depth];
    path->requests -= record->requests;
    path->signals -= record->signalled;
}

static void hello_arrived(struct verbs_path *path, const struct verbs_record *record)
{
    if (record->kind != WIRE_HELLO)
        return;
    path->hello_acked = true;
    link_path_up(path);
}

void path_pop(struct verbs_path *path, bool delivered)
{
    struct verbs_record *record = &path->records[path->first % path->depth];
    if (path->link->verbs->layer != CHOOSE_LAYER_IWARP)
        complete(path);
    path->first++;
    ring_give(&path->ring, record->ring_len);
    if (!delivered)
        return;
    if (record->kind == WIRE_HELLO) {
        hello_arrived(path, record);
    } else if (record->kind == WIRE_WRITTEN && !path->link->stopped) {
        flow_chunk_acked(&path->link->flows[record->lane], record->seq);
        transfer_retire(path->link, record->lane);
    }
    path->link->work = true;
}

bool path_arrived(struct verbs_path *path, uint32_t received)
{
    /* Every record uses up one receive of the peer, in order; counts wrap around together. */
    if (received - path->first > path->last - path->first)
        return (int32_t)(received - path->first) < 0; /* older than what is known */
    while (path->first != received)
        path_pop(path, true);
    if (path->first == path->last)
        path->open_chunks = 0; /* no completion is needed any more */
    return true;
}

void path_repost(struct verbs_path *path, uint32_t slot)
{
    if (path->relayed) {
        relay_free_slot(path, slot);
        return;
    }
    if (!path->qp || path->errand || path->closed || path->state == VERBS_PATH_NONE ||
        path->state >= VERBS_PATH_DRAINING)
        return;
    post_receive(path, slot);
    path->freed.freed++;
}

void path_release(struct verbs_path *path, uint32_t slot)
{
    path->kept -= !path->relayed;
    path_repost(path, slot);
}

/* What to look at when a completion says this. */
static const char *remedy(enum ibv_wc_status status)
{
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
        return "the peer, or the way to it, did not answer: check that its process lives, the port "
               "and the cable, and that both ends have one MTU and the switch is set up for RoCE; "
               "TUTTI_VERBS_TIMEOUT and TUTTI_VERBS_RETRY wait longer";
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_REM_ACCESS_ERR:
        return "memory was released while the transfer ran: buffers must stay valid until it ends";
    case IBV_WC_LOC_QP_OP_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
        return "the device refused the request";
    default:
        return "see the kernel's log for the device";
    }
}

/* The queue pair is in the error state by now. siw says of what it cannot send any more, since the
 * peer has closed the connection, that the device refused it. */
static bool is_closed(const struct verbs_path *path, enum ibv_wc_status status)
{
    return status == IBV_WC_WR_FLUSH_ERR ||
           (status == IBV_WC_LOC_QP_OP_ERR && path->link->verbs->layer == CHOOSE_LAYER_IWARP);
}

static void failed_completion(struct verbs_path *path, const struct ibv_wc *wc, bool receive)
{
    const struct library *library = path->link->verbs->library;
    if (receive)
        path->posted--;
    if (path_alive(path) && !is_closed(path, wc->status))
        link_path_failed(path, "%s over %s: %s", library->ibv.wc_status_str(wc->status),
                         path->rail->name, remedy(wc->status));
    else if (path_alive(path) && !path->closed) {
        path->closed = true;
        path->since_ms = clock_ms();
    }
    if (path->state == VERBS_PATH_DRAINING && path->posted == 0)
        link_path_drained(path);
}

static void received(struct verbs_path *path, const struct ibv_wc *wc)
{
    uint32_t slot = (uint32_t)wc->wr_id;
    path->posted--;
    path->received++;
    bool kept = false;
    if (path->link->verbs->cm)
        link_path_connected(path); /* its word may come later */
    if (wc->wc_flags & IBV_WC_WITH_IMM)
        transfer_written(path, be32toh(wc->imm_data));
    else
        kept = transfer_arrived(path, slot, wc->byte_len);
    path->kept += kept;
    if (path->state == VERBS_PATH_DRAINING && path->posted == 0)
        link_path_drained(path);
    else if (!kept)
        path_repost(path, slot);
}

static void completed(struct verbs_path *path, const struct ibv_wc *wc)
{
    uint32_t record = (uint32_t)wc->wr_id;
    bool arrived = path->link->verbs->layer != CHOOSE_LAYER_IWARP;
    /* One that was found delivered otherwise is gone already. */
    while (path->completed != path->last && (int32_t)(record - path->completed) >= 0) {
        if (arrived) {
            path_pop(path, true);
        } else {
            hello_arrived(path, &path->records[path->completed % path->depth]);
            complete(path);
        }
    }
}

bool path_poll(struct verbs_rail *rail)
{
    struct verbs *verbs = rail->verbs;
    struct ibv_wc list[POLL_MAX];
    int count = ibv_poll_cq(rail->cq, POLL_MAX, list);
    for (int i = 0; i < count; i++) {
        const struct ibv_wc *wc = &list[i];
        uint32_t place = (uint32_t)(wc->wr_id >> 40);
        struct verbs_path *path = place < verbs->path_slots ? verbs->paths[place] : NULL;
        bool receive = wc->wr_id >> 32 & 1;
        verbs->stats.completions++;
        /* A queue pair that is no more may have left completions behind. */
        if (!path || (path->generation & 0x7f) != (wc->wr_id >> 33 & 0x7f))
            continue;
        if (wc->status != IBV_WC_SUCCESS)
            failed_completion(path, wc, receive);
        else if (receive)
            received(path, wc);
        else
            completed(path, wc);
    }
    return count > 0;
}
