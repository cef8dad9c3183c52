/* test_transports.c: what every transport must do, run over transport_table in its variants; how
 * links end is in test_leaving.c. */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/variants.h"

/* ---- sizes ------------------------------------------------------------------------------------
 */

static size_t size_at(uint32_t k)
{
    if (k <= 140)
        return k;
    k -= 141;
    static const int around[] = {-41, -40, -1, 0, 1, 25};
    if (k < 60)
        return (size_t)((256 << (k / 6)) + around[k % 6]);
    static const size_t large[] = {65535, 65536, 65537, 70000, 1u << 20, (1u << 20) + 3, 5000001};
    return k - 60 < 7 ? large[k - 60] : SIZE_MAX;
}

static uint8_t *new_buffer(struct links_rank *rank, size_t len, bool allocated)
{
    void *memory = NULL;
    if (allocated)
        links_expect(rank, mem_alloc(len + 1, &memory) == TUTTI_OK);
    else
        memory = malloc(len + 1);
    return memory;
}

static void free_buffer(uint8_t *memory, bool allocated)
{
    if (allocated)
        mem_free(memory);
    else
        free(memory);
}

/* Sends len bytes to the other of two ranks and receives as many, with a byte to spare. */
static void exchange(struct links_rank *rank, uint8_t *out, uint8_t *in, size_t len, uint32_t key)
{
    uint32_t peer = 1 - rank->rank;
    variants_fill(out, len, key + rank->rank);
    in[len] = 99;
    struct xfer send = links_xfer(peer, out, len), recv = links_xfer(peer, in, len);
    tutti_status status = rank->ops->recv(rank->transport, &recv);
    links_expect(rank, status == TUTTI_IN_PROGRESS || status == TUTTI_OK);
    links_expect(rank, links_send(rank, &send) == TUTTI_OK);
    links_expect(rank, links_finish(rank, &recv, LINKS_LIMIT_MS) == TUTTI_OK);
    links_expect(rank, variants_wrong(in, len, key + peer) == 0 && in[len] == 99);
}

static void exchange_sizes(struct links_rank *rank)
{
    links_connect_all(rank);
    for (uint32_t k = 0; size_at(k) != SIZE_MAX; k++) {
        size_t len = size_at(k);
        bool allocated = k % 3 == 0;
        uint8_t *out = new_buffer(rank, len, allocated), *in = new_buffer(rank, len, k % 2);
        exchange(rank, out, in, len, k);
        free_buffer(out, allocated);
        free_buffer(in, k % 2);
    }
    links_meet(rank, 1, 2);
}

/* The short rest of a long message lies across two pages, at each place. */
static void exchange_across_pages(struct links_rank *rank)
{
    enum { CHUNK = 131072, REST = 25, PAGE = 4096 };
    size_t room = CHUNK + 3 * PAGE;
    uint8_t *out = aligned_alloc(PAGE, room), *in = aligned_alloc(PAGE, room);
    links_connect_all(rank);
    for (uint32_t before = 1; before < REST; before++) {
        size_t len = CHUNK + REST;
        uint8_t *from = out + PAGE - before, *to = in + PAGE - before;
        memset(in, 99, room);
        exchange(rank, from, to, len, before);
    }
    links_meet(rank, 1, 2);
    free(out);
    free(in);
}

static void test_transports_carry_what_lies_across_pages(void)
{
    variants_run(exchange_across_pages, 2, 1, VARIANTS_PLAIN, 0);
}

static void test_transports_carry_every_size(void)
{
    variants_run(exchange_sizes, 2, 1, VARIANTS_ALL, 0);
}

/* ---- many transfers at once -------------------------------------------------------------------
 */

#define MANY 64 /* as many as may be posted */

struct flow {
    struct xfer send, recv;
    uint8_t *out, *in;
    uint32_t key;
};

static size_t flow_len(const struct links_world *world, uint32_t from, uint32_t to, uint32_t lane,
                       uint32_t k)
{
    uint64_t state = world->seed ^ (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ lane << 24 ^ k;
    static const size_t bases[] = {0, 8, 24, 25, 64, 1024, 4000, 16384, 40000, 300000};
    size_t base = bases[suite_random(&state) % 10];
    if (base > 50000 && suite_random(&state) % 8)
        base = 100;
    return base + suite_random(&state) % (base / 8 + 1);
}

static uint32_t flow_key(uint32_t from, uint32_t to, uint32_t lane, uint32_t k)
{
    return from * 7 + to * 13 + lane * 3 + k;
}

static void flow_start(struct links_rank *rank, struct flow *flow, uint32_t peer, uint32_t lane,
                       uint32_t k)
{
    const struct links_world *world = rank->world;
    size_t out_len = flow_len(world, rank->rank, peer, lane, k);
    size_t in_len = flow_len(world, peer, rank->rank, lane, k);
    flow->out = malloc(out_len + 1);
    flow->in = malloc(in_len + 1);
    variants_fill(flow->out, out_len, flow_key(rank->rank, peer, lane, k));
    flow->key = flow_key(peer, rank->rank, lane, k);
    flow->send = links_xfer(peer, flow->out, out_len);
    flow->recv = links_xfer(peer, flow->in, in_len);
    flow->send.lane = flow->recv.lane = lane;
    flow->recv.past_caches = k % 3 == 0;
    flow->send.tag = flow->recv.tag = &links_tags[k % 2];
    tutti_status sent = rank->ops->send(rank->transport, &flow->send);
    tutti_status received = rank->ops->recv(rank->transport, &flow->recv);
    links_expect(rank, sent == TUTTI_IN_PROGRESS || sent == TUTTI_OK);
    links_expect(rank, received == TUTTI_IN_PROGRESS || received == TUTTI_OK);
}

static void many_posted(struct links_rank *rank)
{
    const struct links_world *world = rank->world;
    uint32_t depth = world->size > 8 ? 4 : MANY, count = 0;
    struct flow *flows = calloc((size_t)world->size * world->lanes * depth, sizeof *flows);
    links_connect_all(rank);
    for (uint32_t k = 0; k < depth; k++) {
        for (uint32_t peer = 0; peer < world->size; peer++) {
            for (uint32_t lane = 0; lane < world->lanes && peer != rank->rank; lane++)
                flow_start(rank, &flows[count++], peer, lane, k);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        links_expect(rank, links_finish(rank, &flow->recv, LINKS_LIMIT_MS) == TUTTI_OK);
        links_expect(rank, links_finish(rank, &flow->send, LINKS_LIMIT_MS) == TUTTI_OK);
        links_expect(rank, variants_wrong(flow->in, flow->recv.len, flow->key) == 0);
    }
    for (uint32_t i = 0; i < count; i++) {
        free(flows[i].in);
        free(flows[i].out);
    }
    free(flows);
    links_meet(rank, 1, world->size);
}

static void test_transports_keep_order_on_all_lanes(void)
{
    variants_run(many_posted, 3, 3, VARIANTS_ALL, 0);
}

static void test_transports_join_many_in_a_full_mesh(void)
{
    variants_run(many_posted, 32, 1, VARIANTS_PLAIN, 0);
}

/* ---- large messages both ways -----------------------------------------------------------------
 */

/* All send first: neither side may wait for the other's receive to be posted. */
static void both_ways(struct links_rank *rank)
{
    size_t len = (size_t)rank->world->number;
    uint32_t size = rank->world->size;
    struct xfer sends[8], recvs[8];
    uint8_t *out = malloc(len), *in = malloc(len * size);
    variants_fill(out, len, rank->rank);
    links_connect_all(rank);
    for (uint32_t p = 0; p < size; p++) {
        sends[p] = links_xfer(p, out, len);
        if (p != rank->rank)
            rank->ops->send(rank->transport, &sends[p]);
    }
    for (int i = 0; i < 100; i++)
        rank->ops->poll(rank->transport);
    for (uint32_t p = 0; p < size; p++) {
        recvs[p] = links_xfer(p, in + p * len, len);
        if (p != rank->rank)
            rank->ops->recv(rank->transport, &recvs[p]);
    }
    for (uint32_t p = 0; p < size; p++) {
        if (p == rank->rank)
            continue;
        links_expect(rank, links_finish(rank, &recvs[p], LINKS_LIMIT_MS) == TUTTI_OK);
        links_expect(rank, links_finish(rank, &sends[p], LINKS_LIMIT_MS) == TUTTI_OK);
        links_expect(rank, variants_wrong(in + p * len, len, p) == 0);
    }
    free(in);
    free(out);
    links_meet(rank, 1, size);
}

static void test_transports_exchange_large_messages(void)
{
    variants_run(both_ways, 3, 1, VARIANTS_PLAIN, 16 << 20);
}

/* ---- receive and reduce -----------------------------------------------------------------------
 */

/* Not commutative, so that the order of operands shows. */
static void kernel_minus(void *dst, const void *a, const void *b, size_t count)
{
    int32_t *to = dst;
    const int32_t *x = a, *y = b;
    for (size_t i = 0; i < count; i++)
        to[i] = (int32_t)((uint32_t)x[i] - 2u * (uint32_t)y[i]);
}

struct reduce_case {
    tutti_dtype dtype;
    tutti_op op; /* TUTTI_OP_COUNT: kernel_minus */
    size_t count;
    bool incoming_first, in_place, allocated, past_caches;
};

static void reduce_one(struct links_rank *rank, const struct reduce_case *c, uint32_t k)
{
    bool own = c->op == TUTTI_OP_COUNT;
    struct reducer reducer = {.kernel = own ? kernel_minus : reduce_kernel(c->op, c->dtype),
                              .dtype = c->dtype,
                              .elem_size = (uint32_t)dtype_size(c->dtype)};
    size_t len = c->count * reducer.elem_size;
    uint8_t *in = new_buffer(rank, len, c->allocated), *other = new_buffer(rank, len, false);
    uint8_t *dst = c->in_place ? other : malloc(len + 1), *want = malloc(len + 1);
    uint8_t *sent = malloc(len + 1);
    variants_fill(sent, len, k);
    if (rank->rank == 0) {
        memcpy(in, sent, len);
        struct xfer xfer = links_xfer(1, in, len);
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    } else {
        variants_fill(other, len, k + 5);
        reduce_apply(&reducer, want, c->incoming_first ? sent : other,
                     c->incoming_first ? other : sent, len);
        struct xfer xfer = links_xfer(0, in, len);
        xfer.reducer = &reducer;
        xfer.dst = dst;
        xfer.other = other;
        xfer.incoming_first = c->incoming_first;
        xfer.past_caches = c->past_caches;
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
        links_expect(rank, memcmp(dst, want, len) == 0);
    }
    free_buffer(in, c->allocated);
    if (!c->in_place)
        free(dst);
    free(other);
    free(want);
    free(sent);
}

static void receive_and_reduce(struct links_rank *rank)
{
    static const struct {
        tutti_dtype dtype;
        tutti_op op;
    } kinds[] = {{TUTTI_INT32, TUTTI_OP_COUNT}, {TUTTI_UINT8, TUTTI_SUM},
                 {TUTTI_INT64, TUTTI_MAX},      {TUTTI_UINT16, TUTTI_BXOR},
                 {TUTTI_FLOAT32, TUTTI_MIN},    {TUTTI_BFLOAT16, TUTTI_SUM}};
    static const size_t counts[] = {0, 1, 3, 63, 1000, 5461, 20000, 300001};
    uint32_t k = 0;
    links_connect_all(rank);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            for (int way = 0; way < 16; way++) {
                struct reduce_case c = {kinds[i].dtype, kinds[i].op, counts[n], way & 1,
                                        way & 2,        way & 4,     way & 8};
                reduce_one(rank, &c, k++);
            }
        }
    }
    links_meet(rank, 1, 2);
}

static void test_transports_reduce_what_they_receive(void)
{
    variants_run(receive_and_reduce, 2, 1, VARIANTS_ALL, 0);
}

/* ---- disagreement -----------------------------------------------------------------------------
 */

static void mismatch(struct links_rank *rank)
{
    static const size_t sizes[] = {8, 3000, 100000};
    static _Thread_local uint8_t data[100001];
    struct xfer xfers[6]; /* large ones stay with the transport until cancel */
    links_connect_all(rank);
    for (uint32_t lane = 0; lane < 6; lane++) {
        size_t len = sizes[lane % 3];
        bool other_tag = lane < 3;
        struct xfer *xfer = &xfers[lane];
        *xfer = links_xfer(1 - rank->rank, data, len);
        xfer->lane = lane;
        if (rank->rank == 0) {
            tutti_status status = rank->ops->send(rank->transport, xfer);
            links_expect(rank, status == TUTTI_OK || status == TUTTI_IN_PROGRESS);
            links_meet(rank, (int)lane + 1, 2);
            /* A large send may or may not have been taken: it has ended, or it never will. */
            rank->ops->poll(rank->transport);
        } else {
            xfer->tag = &links_tags[other_tag];
            xfer->len = other_tag ? len : len + 1;
            links_expect(rank, links_recv(rank, xfer) == TUTTI_ERR_MISMATCH);
            links_expect(rank, xfer->seen_len == len && tag_equal(&xfer->seen, &links_tags[0]));
            struct xfer later = links_xfer(0, data, 8);
            later.lane = lane;
            links_expect(rank, links_recv(rank, &later) == TUTTI_ERR_MISMATCH);
            links_meet(rank, (int)lane + 1, 2);
        }
    }
    rank->ops->cancel(rank->transport, false);
    links_meet(rank, 10, 2);
}

static void test_transports_name_a_mismatch(void)
{
    variants_run(mismatch, 2, 6, VARIANTS_ALL, 0);
}

/* ---- unexpected arrivals and notices ----------------------------------------------------------
 */

static void tell(struct links_rank *rank)
{
    struct transport_event event;
    struct notice notice = {.kind = 9, .culprit = 4, .status = 11, .text = "why"};
    uint32_t word = 7;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        for (notice.culprit = 5; notice.culprit < 9; notice.culprit++)
            links_expect(rank, rank->ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        links_meet(rank, 1, 2);
    } else {
        links_meet(rank, 1, 2); /* all is said */
        for (uint32_t culprit = 5; culprit < 9; culprit++) {
            links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
            links_expect(rank, event.peer == 0 && event.notice.culprit == culprit);
            links_expect(rank, event.notice.kind == 9 && event.notice.status == 11 &&
                                   strcmp(event.notice.text, "why") == 0);
        }
        for (int i = 0; i < 2; i++) {
            links_expect(rank, links_event(rank, TRANSPORT_EVENT_UNEXPECTED, 5000, &event));
            links_expect(rank, event.peer == 0 && event.lane == 0 && event.len == 4 &&
                                   tag_equal(&event.tag, &links_tags[0]));
        }
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 7);
        links_expect(rank, !rank->ops->event(rank->transport, true, &event));
    }
    links_meet(rank, 2, 2);
}

static void test_transports_tell_notices_and_arrivals(void)
{
    variants_run(tell, 2, 1, VARIANTS_ALL, 0);
}

/* Whoever has not connected, and only looks, can still tell who has. */
static void tell_who_waits(struct links_rank *rank)
{
    struct links_world *world = rank->world;
    uint32_t peer = 1 - rank->rank;
    struct notice notice = {.kind = 9, .text = "late"};
    struct transport_event event;
    if (rank->rank == (uint32_t)world->number) {
        links_meet(rank, 2, 2);
        links_connect(rank, peer);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, LINKS_LIMIT_MS, &event));
        links_expect(rank, event.notice.kind == 9 && strcmp(event.notice.text, "late") == 0);
    } else {
        struct links_patience patience = {0};
        uint8_t *address = world->address[peer];
        size_t len = world->address_len[peer];
        links_expect(rank, !rank->ops->wanted(rank->transport, peer, address, len));
        links_meet(rank, 2, 2);
        bool asked = false, told = false;
        while (!told && !links_out(rank, &patience)) {
            for (bool more = true, begin = true; more; begin = false)
                more = rank->ops->event(rank->transport, begin, &event);
            if (!asked && rank->ops->wanted(rank->transport, peer, address, len)) {
                links_connect(rank, peer);
                links_expect(rank, !rank->ops->wanted(rank->transport, peer, address, len));
                asked = true;
            }
            told = rank->ops->notify(rank->transport, peer, &notice) == TUTTI_OK;
            clock_sleep_us(1000);
        }
        links_expect(rank, told);
    }
    links_meet(rank, 1, 2);
}

static void test_transports_tell_who_waits(void)
{
    for (int waits = 0; waits < 2; waits++)
        variants_run(tell_who_waits, 2, 1, VARIANTS_ALL, waits);
}

/* A peer that reads none has room for some; once it has read them, for more. */
static void tell_too_much(struct links_rank *rank)
{
    enum { MOST = 100000 };
    struct notice notice = {.kind = 3, .text = "much"};
    struct transport_event event;
    struct links_patience patience = {0};
    uint32_t word = 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    links_expect(rank, (rank->rank == 0 ? links_send : links_recv)(rank, &xfer) == TUTTI_OK);
    if (rank->rank == 0) {
        tutti_status status = TUTTI_OK;
        for (int i = 0; i < MOST && status == TUTTI_OK; i++)
            status = rank->ops->notify(rank->transport, 1, &notice);
        links_expect(rank, status == TUTTI_IN_PROGRESS);
        atomic_store(&rank->world->flags[0], 1);
        while (status == TUTTI_IN_PROGRESS && !links_out(rank, &patience)) {
            rank->ops->poll(rank->transport);
            status = rank->ops->notify(rank->transport, 1, &notice);
            clock_sleep_us(1000);
        }
        links_expect(rank, status == TUTTI_OK);
        atomic_store(&rank->world->flags[1], 1);
    } else {
        for (int i = 0; i < LINKS_LIMIT_MS && !atomic_load(&rank->world->flags[0]); i++)
            clock_sleep_us(1000);
        while (!atomic_load(&rank->world->flags[1]) && !links_out(rank, &patience)) {
            rank->ops->poll(rank->transport);
            if (!rank->ops->event(rank->transport, true, &event))
                clock_sleep_us(100);
        }
    }
    links_meet(rank, 1, 2);
}

static void test_transports_say_when_there_is_no_room(void)
{
    variants_run(tell_too_much, 2, 1, VARIANTS_PLAIN, 0);
}

/* Lanes that nobody reads are full; the notice comes through. */
static void notice_past_full_lanes(struct links_rank *rank)
{
    size_t len = 64u << 20;
    uint8_t *data = malloc(len);
    memset(data, 1, len);
    links_connect_all(rank);
    if (rank->rank == 0) {
        struct xfer xfers[8];
        for (int i = 0; i < 8; i++) {
            xfers[i] = links_xfer(1, data, i < 4 ? 4000 : len);
            xfers[i].lane = (uint32_t)i % 2;
            rank->ops->send(rank->transport, &xfers[i]);
        }
        struct notice notice = {.kind = 3, .text = "full"};
        links_expect(rank, rank->ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        links_meet(rank, 1, 2);
        links_meet(rank, 2, 2);
        rank->ops->cancel(rank->transport, false);
    } else {
        struct transport_event event;
        links_meet(rank, 1, 2); /* it is said */
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
        links_expect(rank, event.notice.kind == 3);
        links_meet(rank, 2, 2);
    }
    links_meet(rank, 3, 2);
    free(data);
}

static void test_transports_bring_notices_past_full_lanes(void)
{
    variants_run(notice_past_full_lanes, 2, 2, VARIANTS_PLAIN, 0);
}

/* ---- sleeping ---------------------------------------------------------------------------------
 */

/* Nothing came, or nobody said so. */
static void look_why_asleep(struct links_rank *rank, const struct xfer *xfer)
{
    uint64_t before = links_moved(rank);
    rank->ops->poll(rank->transport);
    if (links_moved(rank) != before || xfer->status != TUTTI_IN_PROGRESS)
        links_complain(rank, __FILE__, __LINE__, "nobody woke the sleeper");
}

static void sleep_until_done(struct links_rank *rank, struct xfer *xfer)
{
    int fd = rank->ops->wait_fd(rank->transport);
    struct links_patience patience = {0};
    while (xfer->status == TUTTI_IN_PROGRESS && !links_out(rank, &patience)) {
        rank->ops->poll(rank->transport);
        if (xfer->status != TUTTI_IN_PROGRESS)
            break;
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (fd < 0)
            clock_sleep_us(50);
        else if (rank->ops->arm(rank->transport) && poll(&wait, 1, 3000) == 0)
            look_why_asleep(rank, xfer);
    }
    links_expect(rank, xfer->status == TUTTI_OK);
}

static void sleepers(struct links_rank *rank)
{
    static _Thread_local uint8_t data[3000000];
    uint32_t size = rank->world->size;
    links_connect_all(rank);
    for (uint32_t i = 0; i < 200; i++) {
        size_t len = i % 50 == 0 ? sizeof data : i;
        struct xfer out = links_xfer((rank->rank + 1) % size, data, len);
        struct xfer in = links_xfer((rank->rank + size - 1) % size, data, len);
        out.lane = in.lane = i % 2;
        if (rank->rank == 0) {
            if (rank->ops->send(rank->transport, &out) != TUTTI_OK)
                sleep_until_done(rank, &out);
        }
        if (rank->ops->recv(rank->transport, &in) != TUTTI_OK)
            sleep_until_done(rank, &in);
        if (rank->rank != 0 && rank->ops->send(rank->transport, &out) != TUTTI_OK)
            sleep_until_done(rank, &out);
    }
    links_meet(rank, 1, size);
}

static void test_transports_wake_who_sleeps(void)
{
    variants_run(sleepers, 4, 2, VARIANTS_PLAIN, 0);
}

/* ---- forks ------------------------------------------------------------------------------------
 */

/* A forked child that closes its copy does the parent no harm. (That one which lives on does not
 * hide the parent's death: test_comm.) */
static void fork_children(struct links_rank *rank)
{
    uint32_t word = 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
    pid_t child = fork();
    if (child == 0) {
        rank->ops->close(rank->transport);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    for (int i = 0; i < 100; i++) {
        struct xfer in = links_xfer(1 - rank->rank, &word, 4), out = in;
        links_expect(rank, rank->ops->recv(rank->transport, &in) != TUTTI_ERR_PEER);
        links_expect(rank, links_send(rank, &out) == TUTTI_OK);
        links_expect(rank, links_finish(rank, &in, 5000) == TUTTI_OK);
    }
    links_meet(rank, 1, 2);
}

static void test_transports_survive_a_fork(void)
{
    variants_run(fork_children, 2, 1, VARIANTS_PROCESSES | VARIANTS_PLAIN, 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(transports_carry_every_size),
        TEST(transports_carry_what_lies_across_pages),
        TEST(transports_keep_order_on_all_lanes),
        TEST(transports_join_many_in_a_full_mesh),
        TEST(transports_exchange_large_messages),
        TEST(transports_reduce_what_they_receive),
        TEST(transports_name_a_mismatch),
        TEST(transports_tell_notices_and_arrivals),
        TEST(transports_tell_who_waits),
        TEST(transports_say_when_there_is_no_room),
        TEST(transports_bring_notices_past_full_lanes),
        TEST(transports_wake_who_sleeps),
        TEST(transports_survive_a_fork),
    };
    return suite_run("transports", tests, sizeof tests / sizeof *tests, argc, argv);
}
