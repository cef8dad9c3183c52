/* test_flow.c: how the verbs transport moves messages, without a device: the accounting of credit,
 * the places of a send ring, the state machine of a lane. */
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "transports/verbs/flow.h"
#include "transports/verbs/ring.h"

/* ---- credit -----------------------------------------------------------------------------------
 */

static void test_credit_counts_across_the_wrap(void)
{
    struct credit_sender sender = {.window = 5, .sent = 0xfffc, .freed = 0xfffc};
    struct credit_receiver receiver = {.freed = 0xfffc, .told = 0xfffc};
    for (int round = 0; round < 20; round++) {
        while (credit_room(&sender) > 0)
            sender.sent++;
        CU_ASSERT_FALSE(credit_due(&receiver, 3));
        receiver.freed += 3;
        CU_ASSERT_TRUE(credit_due(&receiver, 3));
        CU_ASSERT_TRUE(credit_report(&sender, credit_tell(&receiver)));
        CU_ASSERT_EQUAL(credit_room(&sender), 3);
        receiver.freed += 2;
        CU_ASSERT_TRUE(credit_report(&sender, credit_tell(&receiver)));
        CU_ASSERT_EQUAL(credit_room(&sender), 5);
    }
}

static void test_credit_takes_old_reports_and_refuses_false_ones(void)
{
    struct credit_sender sender = {.window = 8, .sent = 6, .freed = 4};
    CU_ASSERT_TRUE(credit_report(&sender, 3)); /* overtaken by a later one */
    CU_ASSERT_EQUAL(sender.freed, 4);
    CU_ASSERT_TRUE(credit_report(&sender, 4));  /* doubled */
    CU_ASSERT_FALSE(credit_report(&sender, 7)); /* never sent */
    CU_ASSERT_EQUAL(credit_room(&sender), 6);
    CU_ASSERT_TRUE(credit_report(&sender, 6));
    CU_ASSERT_EQUAL(credit_room(&sender), 8);
}

/* ---- a send ring ------------------------------------------------------------------------------
 */

/* Places never overlap though the length is no power of two, and what is given back is whole. */
static void test_ring_places_never_overlap(void)
{
    enum { LEN = 52 * 64, OPEN = 64 };
    static uint8_t owner[LEN];
    struct {
        uint32_t place, need, taken;
    } open[OPEN];
    struct ring ring = {.len = LEN};
    uint64_t state = suite_seed(), passed = 0;
    uint32_t first = 0, last = 0;
    memset(owner, 0, sizeof owner);
    for (int i = 0; i < 200000; i++) {
        uint32_t need = (1 + (uint32_t)(suite_random(&state) % 16)) * 64;
        if (suite_random(&state) % 2 && last - first < OPEN && ring_room(&ring, need)) {
            uint32_t at = last++ % OPEN;
            open[at].need = need;
            open[at].place = ring_take(&ring, need, &open[at].taken);
            CU_ASSERT_TRUE_FATAL(open[at].place + need <= LEN);
            for (uint32_t b = 0; b < need; b++)
                CU_ASSERT_TRUE_FATAL(owner[open[at].place + b]++ == 0);
            passed += open[at].taken;
        } else if (first != last) {
            uint32_t at = first++ % OPEN;
            ring_give(&ring, open[at].taken);
            memset(owner + open[at].place, 0, open[at].need);
        }
        CU_ASSERT_TRUE_FATAL(first != last || ring.used == 0);
    }
    CU_ASSERT_TRUE(passed > LEN);
    ring = (struct ring){.len = LEN};
    CU_ASSERT_TRUE(ring_room(&ring, LEN)); /* the whole of it */
}

/* ---- a lane -----------------------------------------------------------------------------------
 * Two ends of one lane and a wire that delays: messages of each kind in order, chunks in any. */

#define EAGER  64
#define CHUNK  4096
#define WINDOW 3
#define WIRE   512

static const struct tag tags[2] = {{{1, 2, 3}}, {{4, 5, 6}}};

struct message {
    enum { EAGER_MESSAGE, PIECE_MESSAGE, ASK_MESSAGE, GRANT_MESSAGE, CHUNK_MESSAGE } kind;
    uint16_t seq;
    uint32_t chunk;
    uint64_t len, offset;
    size_t bytes;
    struct tag tag;
    const uint8_t *from;
    uint8_t copy[EAGER];
};

struct end {
    struct flow flow;
    struct message wire[WIRE]; /* towards the other end, in order */
    uint32_t first, last;
    struct message chunks[WIRE]; /* towards the other end, in any order */
    uint32_t chunk_count;
    uint8_t held[FLOW_HELD_MAX][EAGER]; /* slots */
    uint32_t held_used;
    uint16_t acked[WIRE]; /* chunks whose completion is under way */
    uint32_t ack_count;
    bool pieces; /* this end cannot register memory */
};

static void end_init(struct end *end)
{
    memset(end, 0, sizeof *end);
    flow_limit(&end->flow, EAGER, CHUNK, WINDOW);
}

/* Sends everything that can go now. */
static void end_pump(struct end *end, bool may_ask)
{
    uint16_t seq;
    struct xfer *xfer;
    struct flow_step step;
    while ((xfer = flow_wants_grant(&end->flow, &seq))) {
        end->wire[end->last++ % WIRE] = (struct message){.kind = GRANT_MESSAGE,
                                                         .seq = seq,
                                                         .len = xfer->len,
                                                         .tag = *xfer->tag,
                                                         .offset = end->pieces};
        flow_did_grant(&end->flow);
    }
    while ((step = flow_next(&end->flow, may_ask)).kind != FLOW_NOTHING) {
        struct message message = {.seq = step.seq,
                                  .len = step.xfer->len,
                                  .tag = *step.xfer->tag,
                                  .chunk = step.chunk,
                                  .bytes = step.len,
                                  .from = (uint8_t *)step.xfer->data + step.offset};
        if (step.kind == FLOW_CHUNK && end->chunk_count == WIRE)
            break;
        if (step.kind == FLOW_CHUNK && end->pieces) {
            step.xfer->work[FLOW_WORK_FLAGS] |= FLOW_FLAG_PIECES;
            continue;
        }
        message.kind = step.kind == FLOW_EAGER   ? EAGER_MESSAGE
                       : step.kind == FLOW_PIECE ? PIECE_MESSAGE
                                                 : ASK_MESSAGE;
        if (step.kind == FLOW_CHUNK) {
            message.kind = CHUNK_MESSAGE;
            end->chunks[end->chunk_count++] = message;
        } else {
            if (step.kind != FLOW_ASK)
                memcpy(message.copy, message.from, message.bytes);
            end->wire[end->last++ % WIRE] = message;
        }
        flow_advance(&end->flow, &step);
    }
}

static void land(struct end *to, struct xfer *xfer, const uint8_t *bytes, size_t len)
{
    memcpy((uint8_t *)xfer->data + xfer->work[FLOW_WORK_MOVED], bytes, len);
    flow_landed(&to->flow, xfer, len);
    to->flow.taken.freed++;
}

/* Delivers the oldest message of the wire; what the receiving end makes of it. */
static enum flow_verdict deliver(struct end *from, struct end *to, struct xfer **xfer)
{
    struct message *m = &from->wire[from->first++ % WIRE];
    if (m->kind == GRANT_MESSAGE) {
        struct flow_grant grant = {
            .seq = m->seq, .len = m->len, .tag = m->tag, .pieces = m->offset != 0};
        return flow_granted(&to->flow, &grant);
    }
    struct flow_held held = {.seq = m->seq,
                             .ask = m->kind == ASK_MESSAGE,
                             .len = m->len,
                             .tag = m->tag,
                             .slot = to->held_used % FLOW_HELD_MAX};
    enum flow_verdict verdict =
        flow_arrived(&to->flow, &held, m->kind == PIECE_MESSAGE, held.ask ? 0 : m->bytes, xfer);
    if (verdict == FLOW_TAKE)
        land(to, *xfer, m->copy, m->bytes);
    if (verdict == FLOW_HOLD && !held.ask)
        memcpy(to->held[to->held_used++ % FLOW_HELD_MAX], m->copy, EAGER);
    return verdict;
}

static void deliver_chunk(struct end *from, struct end *to, uint32_t at)
{
    struct message m = from->chunks[at];
    struct xfer *xfer;
    uint64_t offset;
    size_t len;
    from->chunks[at] = from->chunks[--from->chunk_count];
    CU_ASSERT_EQUAL_FATAL(flow_written(&to->flow, FLOW_SEQ13(m.seq), m.chunk, &xfer, &offset, &len),
                          FLOW_TAKE);
    CU_ASSERT_EQUAL(len, m.bytes);
    memcpy((uint8_t *)xfer->data + offset, m.from, len);
    flow_landed(&to->flow, xfer, len);
    from->acked[from->ack_count++] = m.seq;
}

static void end_recv(struct end *end, struct xfer *xfer)
{
    struct flow_held held;
    enum flow_verdict verdict;
    flow_recv(&end->flow, xfer);
    while (flow_recall(&end->flow, &held, &verdict, &xfer)) {
        CU_ASSERT_EQUAL(verdict, held.ask ? FLOW_NOTED : FLOW_TAKE);
        if (verdict == FLOW_TAKE)
            land(end, xfer, end->held[held.slot], held.len);
    }
}

struct load {
    struct xfer sends[200], recvs[200];
    uint8_t *out[200], *in[200];
    uint32_t count, sent, received, send_ended, recv_ended;
};

static void load_make(struct load *load, uint64_t *state)
{
    static const size_t lens[] = {0, 1, 40, EAGER, EAGER + 1, 500, CHUNK, CHUNK + 1, 5 * CHUNK + 7};
    *load = (struct load){.count = 200};
    for (uint32_t i = 0; i < load->count; i++) {
        size_t len = lens[suite_random(state) % (sizeof lens / sizeof *lens)];
        load->out[i] = malloc(len + 1);
        load->in[i] = calloc(1, len + 1);
        for (size_t b = 0; b < len; b++)
            load->out[i][b] = (uint8_t)(b + i);
        const struct tag *tag = &tags[i % 2];
        load->sends[i] = (struct xfer){.data = load->out[i], .len = len, .tag = tag};
        load->recvs[i] = (struct xfer){.data = load->in[i], .len = len, .tag = tag};
    }
}

static void load_end(struct load *load)
{
    for (uint32_t i = 0; i < load->count; i++) {
        CU_ASSERT_EQUAL(memcmp(load->out[i], load->in[i], load->sends[i].len), 0);
        free(load->out[i]);
        free(load->in[i]);
    }
}

/* One move of one end, at random: post, deliver, complete, pump. */
static void load_step(struct load *load, struct end *a, struct end *b, uint64_t *state)
{
    struct xfer *xfer;
    uint64_t move = suite_random(state) % 8;
    if (move == 0 && load->sent < load->count && load->sent - load->send_ended < 20)
        flow_send(&a->flow, &load->sends[load->sent++]);
    if (move == 1 && load->received < load->count && load->received - load->recv_ended < 20)
        end_recv(b, &load->recvs[load->received++]);
    if (move == 2 && a->first != a->last)
        CU_ASSERT_NOT_EQUAL(deliver(a, b, &xfer), FLOW_NONSENSE);
    if (move == 3 && b->first != b->last)
        CU_ASSERT_NOT_EQUAL(deliver(b, a, &xfer), FLOW_NONSENSE);
    if (move == 4 && a->chunk_count > 0)
        deliver_chunk(a, b, (uint32_t)(suite_random(state) % a->chunk_count));
    if (move == 5 && a->ack_count > 0)
        flow_chunk_acked(&a->flow, a->acked[--a->ack_count]);
    if (move == 6)
        CU_ASSERT_TRUE(credit_report(&a->flow.window, credit_tell(&b->flow.taken)));
    if (move == 7)
        end_pump(suite_random(state) % 2 ? a : b, suite_random(state) % 2);
    CU_ASSERT_TRUE_FATAL(b->flow.held_end - b->flow.held_begin <= WINDOW + 1);
    while ((xfer = flow_sent(&a->flow)))
        CU_ASSERT_PTR_EQUAL(xfer, &load->sends[load->send_ended++]);
    while ((xfer = flow_received(&b->flow)))
        CU_ASSERT_PTR_EQUAL(xfer, &load->recvs[load->recv_ended++]);
}

static void run_load(bool a_pieces, bool b_pieces, uint16_t start)
{
    static struct end a, b;
    static struct load load;
    uint64_t state = suite_seed() + start;
    end_init(&a);
    end_init(&b);
    a.pieces = a_pieces;
    b.pieces = b_pieces;
    a.flow.send_done = a.flow.send_at = a.flow.send_next = start;
    b.flow.recv_done = b.flow.recv_granted = b.flow.recv_next = start;
    load_make(&load, &state);
    for (uint64_t i = 0; load.recv_ended < load.count || load.send_ended < load.count; i++) {
        CU_ASSERT_TRUE_FATAL(i < 10000000); /* it would be a deadlock */
        load_step(&load, &a, &b, &state);
    }
    load_end(&load);
}

static void test_flow_carries_everything_in_order(void)
{
    for (uint32_t i = 0; i < 50; i++)
        run_load(false, false, (uint16_t)(0xffff - i * 3));
}

static void test_flow_carries_what_cannot_be_registered(void)
{
    for (uint32_t i = 0; i < 20; i++) {
        run_load(true, false, (uint16_t)i);
        run_load(false, true, (uint16_t)i);
        run_load(true, true, (uint16_t)i);
    }
}

/* Every pair of lengths and tags that differ is told at the receiver, with what the sender has. */
static void disagree(size_t sent, size_t expected, const struct tag *tag, bool recv_first)
{
    static struct end a, b;
    static uint8_t out[3 * CHUNK], in[3 * CHUNK];
    struct xfer send = {.data = out, .len = sent, .tag = &tags[0]}, *xfer = NULL;
    struct xfer recv = {.data = in, .len = expected, .tag = tag};
    struct flow_held held;
    enum flow_verdict verdict = FLOW_NOTED;
    end_init(&a);
    end_init(&b);
    if (recv_first)
        flow_recv(&b.flow, &recv);
    end_pump(&b, false);
    flow_send(&a.flow, &send);
    for (int i = 0; i < 4 && verdict != FLOW_MISMATCH; i++) {
        while (b.first != b.last)
            CU_ASSERT_EQUAL(deliver(&b, &a, &xfer), FLOW_NOTED);
        end_pump(&a, true);
        while (a.first != a.last && verdict != FLOW_MISMATCH)
            verdict = deliver(&a, &b, &xfer);
    }
    if (!recv_first) {
        struct tag tag_seen;
        size_t len_seen;
        CU_ASSERT_TRUE(flow_unexpected(&b.flow, &tag_seen, &len_seen));
        CU_ASSERT_TRUE(tag_equal(&tag_seen, &tags[0]) && len_seen == sent);
        flow_recv(&b.flow, &recv);
        CU_ASSERT_TRUE(flow_recall(&b.flow, &held, &verdict, &xfer));
    }
    CU_ASSERT_EQUAL(verdict, FLOW_MISMATCH);
    CU_ASSERT_PTR_EQUAL(xfer, &recv);
    CU_ASSERT_TRUE(recv.seen_len == sent && tag_equal(&recv.seen, &tags[0]));
    CU_ASSERT_TRUE(b.flow.broken);
    CU_ASSERT_EQUAL(a.chunk_count, 0); /* nothing was written into the wrong memory */
    CU_ASSERT_FALSE(flow_recall(&b.flow, &held, &verdict, &xfer));
}

static void test_flow_names_a_disagreement(void)
{
    static const size_t lens[] = {0, 10, EAGER, EAGER + 1, 2 * CHUNK};
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 5; j++) {
            for (int first = 0; first < 2; first++) {
                if (i != j)
                    disagree(lens[i], lens[j], &tags[0], first);
                disagree(lens[i], lens[j], &tags[1], first);
            }
        }
    }
}

static void test_flow_refuses_nonsense(void)
{
    static struct end a;
    static uint8_t data[4 * CHUNK];
    struct xfer small = {.data = data, .len = 8, .tag = &tags[0]}, *xfer;
    struct xfer large = {.data = data, .len = 2 * CHUNK, .tag = &tags[0]};
    struct flow_held held = {.seq = 1, .len = 8, .tag = tags[0]};
    uint64_t offset;
    size_t len;
    uint16_t seq;
    end_init(&a);
    /* Out of order, and more than the length says. */
    CU_ASSERT_EQUAL(flow_arrived(&a.flow, &held, false, 8, &xfer), FLOW_NONSENSE);
    held.seq = 0;
    CU_ASSERT_EQUAL(flow_arrived(&a.flow, &held, false, 9, &xfer), FLOW_NONSENSE);
    CU_ASSERT_EQUAL(flow_arrived(&a.flow, &held, true, 8, &xfer), FLOW_NONSENSE);
    flow_recv(&a.flow, &small);
    CU_ASSERT_EQUAL(flow_arrived(&a.flow, &held, false, 7, &xfer), FLOW_NONSENSE);
    /* A chunk for a receive that was not granted, is not there, or has no such part. */
    CU_ASSERT_EQUAL(flow_written(&a.flow, 0, 0, &xfer, &offset, &len), FLOW_NONSENSE);
    flow_recv(&a.flow, &large);
    CU_ASSERT_EQUAL(flow_written(&a.flow, 1, 0, &xfer, &offset, &len), FLOW_NONSENSE);
    CU_ASSERT_PTR_EQUAL(flow_wants_grant(&a.flow, &seq), &large);
    flow_did_grant(&a.flow);
    CU_ASSERT_PTR_NULL(flow_wants_grant(&a.flow, &seq));
    CU_ASSERT_EQUAL(flow_written(&a.flow, 2, 0, &xfer, &offset, &len), FLOW_NONSENSE);
    CU_ASSERT_EQUAL(flow_written(&a.flow, 1, 2, &xfer, &offset, &len), FLOW_NONSENSE);
    CU_ASSERT_EQUAL(flow_written(&a.flow, 1, 1, &xfer, &offset, &len), FLOW_TAKE);
    flow_landed(&a.flow, xfer, len);
    CU_ASSERT_EQUAL(flow_written(&a.flow, 1, 0, &xfer, &offset, &len), FLOW_TAKE);
    flow_landed(&a.flow, xfer, len);
    CU_ASSERT_EQUAL(flow_written(&a.flow, 1, 0, &xfer, &offset, &len), FLOW_NONSENSE);
    /* A grant far ahead, one twice, one that is late. */
    struct flow_grant grant = {.seq = FLOW_POSTED_MAX, .len = 5};
    CU_ASSERT_EQUAL(flow_granted(&a.flow, &grant), FLOW_NONSENSE);
    grant.seq = 3;
    CU_ASSERT_EQUAL(flow_granted(&a.flow, &grant), FLOW_NOTED);
    CU_ASSERT_EQUAL(flow_granted(&a.flow, &grant), FLOW_NONSENSE);
    grant.seq = 0xfff0;
    CU_ASSERT_EQUAL(flow_granted(&a.flow, &grant), FLOW_NOTED);
}

/* One transfer from a to b, start to end; the receive is posted `late`, once a could send no more.
 */
static void carry(struct end *a, struct end *b, struct xfer *send, struct xfer *recv, bool late)
{
    struct xfer *xfer;
    bool sent = false, received = false;
    flow_send(&a->flow, send);
    if (!late)
        end_recv(b, recv);
    for (int round = 0; round < 8 && !(sent && received); round++) {
        end_pump(a, round > 0);
        if (late && round == 1)
            end_recv(b, recv);
        end_pump(b, true);
        while (a->first != a->last)
            CU_ASSERT_NOT_EQUAL_FATAL(deliver(a, b, &xfer), FLOW_NONSENSE);
        while (b->first != b->last)
            CU_ASSERT_NOT_EQUAL_FATAL(deliver(b, a, &xfer), FLOW_NONSENSE);
        while (a->chunk_count > 0)
            deliver_chunk(a, b, 0);
        while (a->ack_count > 0)
            flow_chunk_acked(&a->flow, a->acked[--a->ack_count]);
        CU_ASSERT_TRUE(credit_report(&a->flow.window, credit_tell(&b->flow.taken)));
        sent = flow_sent(&a->flow) == send || sent;
        received = flow_received(&b->flow) == recv || received;
    }
    CU_ASSERT_TRUE_FATAL(sent && received);
}

/* The numbers of transfers come again after 65,536; what was granted the first time is over. */
static void test_flow_takes_no_grant_for_a_later_transfer(void)
{
    static struct end a, b;
    static uint8_t out[2 * CHUNK], in[2 * CHUNK];
    end_init(&a);
    end_init(&b);
    for (uint32_t i = 0; i <= 2 * 65536; i++) {
        bool again = i > 0 && i % 65536 == 0; /* of another operation, then of the same kind */
        size_t len = i % 65536 == 0 ? sizeof out : i % 9;
        struct xfer send = {.data = out, .len = len, .tag = &tags[i == 65536]};
        struct xfer recv = {.data = in, .len = len, .tag = send.tag};
        memset(out, (int)i + 1 + (int)(i >> 16), len);
        carry(&a, &b, &send, &recv, again);
        CU_ASSERT_EQUAL_FATAL(memcmp(out, in, len), 0);
    }
}

static void test_flow_bounds_the_number_of_chunks(void)
{
    static const uint64_t lens[] = {1, 4096, 1u << 20, 1ull << 32, 1ull << 45, (1ull << 45) + 1};
    for (int i = 0; i < 6; i++) {
        size_t chunk = flow_chunk_len(4096, lens[i]);
        CU_ASSERT_TRUE(chunk >= 4096 && (chunk & (chunk - 1)) == 0);
        CU_ASSERT_TRUE((lens[i] + chunk - 1) / chunk <= FLOW_CHUNKS_MAX);
        CU_ASSERT_TRUE(chunk == 4096 || lens[i] / (chunk / 2) >= FLOW_CHUNKS_MAX);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(ring_places_never_overlap),
        TEST(credit_counts_across_the_wrap),
        TEST(credit_takes_old_reports_and_refuses_false_ones),
        TEST(flow_carries_everything_in_order),
        TEST(flow_carries_what_cannot_be_registered),
        TEST(flow_names_a_disagreement),
        TEST(flow_refuses_nonsense),
        TEST(flow_takes_no_grant_for_a_later_transfer),
        TEST(flow_bounds_the_number_of_chunks),
    };
    return suite_run("flow", tests, sizeof tests / sizeof *tests, argc, argv);
}
