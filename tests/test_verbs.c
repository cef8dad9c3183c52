/* test_verbs.c: the pure parts of the verbs transport, which need no device: the choice of ports
 * and addresses, the accounting of credit, the state machine of a lane; and sealed messages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/seal.h"
#include "tests/suite.h"
#include "transports/verbs/choose.h"
#include "transports/verbs/distance.h"
#include "transports/verbs/flow.h"
#include "transports/verbs/ring.h"

/* ---- choosing ---------------------------------------------------------------------------------
 */

static struct choose_gid ipv4(uint8_t type, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    return (struct choose_gid){
        .raw = {[10] = 0xff, 0xff, a, b, c, d}, .type = type, .prefix = 96 + 24};
}

static struct choose_gid ipv6(uint8_t type, uint8_t net, uint8_t host)
{
    return (struct choose_gid){.raw = {0xfd, 0, net, [15] = host}, .type = type, .prefix = 64};
}

static struct choose_gid local6(uint8_t type, uint8_t host)
{
    return (struct choose_gid){.raw = {0xfe, 0x80, [15] = host}, .type = type, .prefix = 64};
}

static struct choose_ports one_rail(struct choose_gid gid)
{
    struct choose_ports ports = {.rail_count = 1, .queue_pairs = 1};
    ports.rails[0] = (struct choose_rail){
        .layer = CHOOSE_LAYER_ETHERNET, .mtu = 5, .gid_count = 1, .gids = {gid}};
    return ports;
}

#define V1 CHOOSE_GID_ROCE_V1
#define V2 CHOOSE_GID_ROCE_V2

static void test_choose_ranks_pairs_of_gids(void)
{
    struct choose_gid near = ipv4(V2, 10, 0, 0, 1), far = ipv4(V2, 10, 0, 1, 1);
    struct choose_gid here = ipv4(V2, 10, 0, 0, 2), old = ipv4(V1, 10, 0, 0, 2);
    struct choose_gid six = ipv6(V2, 1, 1), six_near = ipv6(V2, 1, 2), six_far = ipv6(V2, 2, 2);
    struct choose_gid link = local6(V2, 1), link_near = local6(V2, 2);
    struct choose_gid old_near = ipv4(V1, 10, 0, 0, 1);
    /* One version and one family, or nothing. */
    CU_ASSERT_EQUAL(choose_score(&here, &old_near), 0);
    CU_ASSERT_EQUAL(choose_score(&here, &six), 0);
    CU_ASSERT_EQUAL(choose_score(&six, &link), 0);
    /* v2 before v1 whatever the subnet; then the subnet; then the family. */
    CU_ASSERT_TRUE(choose_score(&here, &far) > choose_score(&old, &old_near));
    CU_ASSERT_TRUE(choose_score(&here, &near) > choose_score(&here, &far));
    CU_ASSERT_TRUE(choose_score(&here, &near) > choose_score(&six, &six_near));
    CU_ASSERT_TRUE(choose_score(&six, &six_near) > choose_score(&here, &far));
    CU_ASSERT_TRUE(choose_score(&six, &six_far) > choose_score(&link, &link_near));
    CU_ASSERT_TRUE(choose_score(&link, &link_near) > 0);
    CU_ASSERT_EQUAL(choose_score(&here, &near), choose_score(&near, &here));
}

static void test_choose_looks_at_the_bits_of_a_subnet(void)
{
    struct choose_gid a = ipv4(V2, 10, 0, 0, 127), b = ipv4(V2, 10, 0, 0, 128);
    uint32_t same = choose_score(&a, &b);
    a.prefix = b.prefix = 96 + 25;
    CU_ASSERT_TRUE(choose_score(&a, &b) < same);
    a.prefix = 96 + 24; /* the wider of two masks says what both may think */
    CU_ASSERT_EQUAL(choose_score(&a, &b), same);
    a.prefix = 0; /* unknown */
    CU_ASSERT_TRUE(choose_score(&a, &b) < same);
}

static void test_choose_sorts_the_gids_of_a_port(void)
{
    struct choose_gid gids[] = {local6(V1, 1), local6(V2, 1), ipv4(V1, 10, 0, 0, 1),
                                ipv4(V2, 10, 0, 0, 1), ipv6(V2, 1, 1)};
    for (uint16_t i = 0; i < 5; i++)
        gids[i].index = i;
    CU_ASSERT_EQUAL_FATAL(choose_gids(gids, 5), CHOOSE_GIDS_MAX);
    CU_ASSERT_EQUAL(gids[0].index, 3);
    CU_ASSERT_EQUAL(gids[1].index, 4);
    CU_ASSERT_EQUAL(gids[2].index, 1);
    CU_ASSERT_EQUAL(choose_gids(gids, 1), 1);
    CU_ASSERT_EQUAL(choose_gids(gids, 0), 0);
}

static void test_choose_keeps_what_the_connection_manager_can_dial(void)
{
    struct choose_rail rail = {.layer = CHOOSE_LAYER_ETHERNET, .gid_count = 3};
    rail.gids[0] = local6(V2, 1); /* says nothing without its interface */
    rail.gids[1] = ipv4(V2, 10, 0, 0, 1);
    rail.gids[2] = ipv4(V1, 10, 0, 0, 1); /* the same address */
    CU_ASSERT_EQUAL_FATAL(choose_dialable(&rail), 1);
    CU_ASSERT_EQUAL(rail.gid_count, 1);
    CU_ASSERT_TRUE(rail.gids[0].type == V2 && rail.gids[0].raw[15] == 1 &&
                   rail.gids[0].raw[0] == 0);
    rail.gids[0] = local6(V2, 1);
    CU_ASSERT_EQUAL(choose_dialable(&rail), 0);
}

static struct choose_ports random_ports(uint64_t *state)
{
    struct choose_ports ports = {.rail_count = (uint8_t)(suite_random(state) % 5),
                                 .queue_pairs = (uint8_t)(1 + suite_random(state) % 4)};
    for (uint32_t r = 0; r < ports.rail_count; r++) {
        struct choose_rail *rail = &ports.rails[r];
        *rail = (struct choose_rail){.layer = CHOOSE_LAYER_ETHERNET, .mtu = 3};
        rail->gid_count = (uint8_t)(suite_random(state) % 4);
        for (uint32_t g = 0; g < rail->gid_count; g++) {
            uint8_t net = (uint8_t)(suite_random(state) % 3), host = (uint8_t)suite_random(state);
            uint8_t type = suite_random(state) % 3 ? V2 : V1;
            uint64_t family = suite_random(state) % 3;
            rail->gids[g] = family == 0   ? ipv4(type, 10, 0, net, host)
                            : family == 1 ? ipv6(type, net, host)
                                          : local6(type, host);
        }
    }
    return ports;
}

/* Both ends come to the same list, each port is used by one pair, every pair can talk. */
static void test_choose_agrees_with_the_other_end(void)
{
    uint64_t state = suite_seed();
    uint32_t found = 0;
    for (int i = 0; i < 5000; i++) {
        struct choose_ports a = random_ports(&state), b = random_ports(&state);
        struct choose_path mine[CHOOSE_PATHS_MAX], theirs[CHOOSE_PATHS_MAX];
        uint32_t count = choose_paths(&a, &b, true, mine);
        CU_ASSERT_EQUAL_FATAL(choose_paths(&b, &a, false, theirs), count);
        CU_ASSERT_TRUE(choose_valid(&a) && choose_valid(&b));
        uint32_t each = a.queue_pairs < b.queue_pairs ? a.queue_pairs : b.queue_pairs;
        uint32_t used[2][CHOOSE_RAILS_MAX] = {{0}};
        for (uint32_t p = 0; p < count; p++) {
            const struct choose_path *path = &mine[p];
            CU_ASSERT_EQUAL(path->rail[0], theirs[p].rail[1]);
            CU_ASSERT_EQUAL(path->rail[1], theirs[p].rail[0]);
            CU_ASSERT_EQUAL(path->gid[0], theirs[p].gid[1]);
            CU_ASSERT_EQUAL(path->gid[1], theirs[p].gid[0]);
            CU_ASSERT_TRUE(choose_score(&a.rails[path->rail[0]].gids[path->gid[0]],
                                        &b.rails[path->rail[1]].gids[path->gid[1]]) > 0);
            CU_ASSERT_TRUE(++used[0][path->rail[0]] <= each && ++used[1][path->rail[1]] <= each);
        }
        found += count > 0;
    }
    CU_ASSERT_TRUE(found > 1000);
}

static void test_choose_pairs_rails_by_subnet(void)
{
    struct choose_ports a = one_rail(ipv4(V2, 10, 0, 0, 1)), b = one_rail(ipv4(V2, 10, 0, 1, 2));
    struct choose_path paths[CHOOSE_PATHS_MAX];
    a.rail_count = b.rail_count = 2;
    a.queue_pairs = 2;
    a.rails[1] = one_rail(ipv4(V2, 10, 0, 1, 1)).rails[0];
    b.rails[1] = one_rail(ipv4(V2, 10, 0, 0, 2)).rails[0];
    CU_ASSERT_EQUAL_FATAL(choose_paths(&a, &b, true, paths), 2);
    CU_ASSERT_TRUE(paths[0].rail[0] != paths[0].rail[1] && paths[1].rail[0] != paths[1].rail[1]);
    b.queue_pairs = 2;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 4);
}

static void test_choose_says_why_nothing_fits(void)
{
    struct choose_ports a = one_rail(ipv4(V2, 10, 0, 0, 1)), b = one_rail(ipv6(V2, 1, 1));
    struct choose_path paths[CHOOSE_PATHS_MAX];
    char why[300];
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 0);
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "TUTTI_VERBS_GID_INDEX"));
    b.rails[0].layer = CHOOSE_LAYER_IB;
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "link layer here is Ethernet (RoCE) and there InfiniBand"));
    b.rail_count = 0;
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "the other side has no active RDMA port"));
    b = a;
    b.cm = 1;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 0);
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "TUTTI_VERBS_CONNECT"));
}

static void test_choose_refuses_what_is_out_of_bounds(void)
{
    struct choose_ports good = one_rail(ipv4(V2, 10, 0, 0, 1)), bad = good;
    CU_ASSERT_TRUE(choose_valid(&good));
    bad.rail_count = CHOOSE_RAILS_MAX + 1;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.queue_pairs = 0;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].gid_count = CHOOSE_GIDS_MAX + 1;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].gids[0].prefix = 129;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].mtu = 0;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].layer = 9;
    CU_ASSERT_FALSE(choose_valid(&bad));
}

static void test_choose_writes_gids(void)
{
    char text[96];
    struct choose_gid four = ipv4(V2, 10, 1, 2, 3), six = ipv6(V1, 1, 7);
    four.index = 5;
    CU_ASSERT_STRING_EQUAL(choose_gid_text(&four, text, sizeof text),
                           "::ffff:10.1.2.3 (RoCE v2, index 5)");
    CU_ASSERT_STRING_EQUAL(choose_gid_text(&six, text, sizeof text),
                           "fd00:0100:0000:0000:0000:0000:0000:0007 (RoCE v1, index 0)");
}

/* ---- distance --------------------------------------------------------------------------------
 */

static void put(const char *root, const char *path, const char *text)
{
    char command[600];
    snprintf(command, sizeof command, "mkdir -p \"$(dirname %s/%s)\" && printf '%s' > %s/%s", root,
             path, text, root, path);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* Two nodes of two and three cores; a device on each, and one of software. */
static void test_verbs_measures_distances(void)
{
    char root[] = "/tmp/tutti-test-XXXXXX", command[64];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(root));
    put(root, "devices/system/node/node0/cpulist", "0,4\\n");
    put(root, "devices/system/node/node1/cpulist", "1-3\\n");
    put(root, "devices/system/node/node0/distance", "10 21\\n");
    put(root, "devices/system/node/node1/distance", "21 10\\n");
    put(root, "class/infiniband/mlx5_0/device/numa_node", "0\\n");
    put(root, "class/infiniband/mlx5_1/device/numa_node", "1\\n");
    put(root, "class/infiniband/rxe0/unlike", "");
    CU_ASSERT_EQUAL(distance_node(root, "mlx5_0"), 0);
    CU_ASSERT_EQUAL(distance_node(root, "mlx5_1"), 1);
    CU_ASSERT_EQUAL(distance_node(root, "rxe0"), -1);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(4, &cores);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 0), 10);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 1), 21);
    CU_ASSERT_EQUAL(distance_from(root, &cores, -1), DISTANCE_LOCAL);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 7), DISTANCE_LOCAL);
    CPU_SET(2, &cores);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 0), 16); /* the mean of 10 and 21, rounded */
    CU_ASSERT_EQUAL(distance_from("/nowhere", &cores, 0), DISTANCE_LOCAL);
    snprintf(command, sizeof command, "rm -r %s", root);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* The fastest first, of those the nearest, of those the first found. */
static void test_verbs_orders_ports(void)
{
    struct choose_order ports[] = {
        {100000, 21, 0}, {100000, 10, 1}, {400000, 21, 2}, {100000, 10, 3}, {25000, 10, 4}};
    static const uint32_t expected[] = {2, 1, 3, 0, 4};
    qsort(ports, 5, sizeof *ports, choose_first);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(ports[i].found, expected[i]);
}

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

/* ---- memory of GPUs ---------------------------------------------------------------------------
 */

static void test_choose_finds_a_way_into_gpu_memory(void)
{
    enum { AUTO, DMABUF, PEERMEM, OFF };
    static const struct {
        unsigned setting;
        bool dmabuf;
        enum choose_gpu ways[3]; /* tried one after the other */
    } cases[] = {
        {AUTO, true, {CHOOSE_GPU_DMABUF, CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED}},
        {AUTO, false, {CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {DMABUF, true, {CHOOSE_GPU_DMABUF, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {DMABUF, false, {CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {PEERMEM, true, {CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {OFF, true, {CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned from = CHOOSE_GPU_DMABUF;
        for (int tried = 0; tried < 3; tried++) {
            enum choose_gpu way = choose_gpu(cases[i].setting, from, cases[i].dmabuf);
            CU_ASSERT_EQUAL(way, cases[i].ways[tried]);
            from = way + 1;
        }
    }
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

/* ---- seals ------------------------------------------------------------------------------------
 */

static void test_seal_opens_only_what_was_sealed(void)
{
    static const uint8_t secret[32] = {1, 2, 3}, other[32] = {1, 2, 4};
    struct seal *mine, *theirs, *stranger, *label;
    uint8_t sealed[100 + SEAL_OVERHEAD], again[100 + SEAL_OVERHEAD], text[100], out[100];
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "a", &mine), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "a", &theirs), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(other, 32, "a", &stranger), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "b", &label), TUTTI_OK);
    for (int i = 0; i < 100; i++)
        text[i] = (uint8_t)i;
    for (int round = 0; round < 3; round++) {
        CU_ASSERT_EQUAL(seal_close(mine, text, 100, sealed), TUTTI_OK);
        CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_OK);
        CU_ASSERT_EQUAL(memcmp(text, out, 100), 0);
        CU_ASSERT_EQUAL(seal_open(stranger, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
        CU_ASSERT_EQUAL(seal_open(label, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
    }
    CU_ASSERT_EQUAL(seal_close(mine, text, 100, again), TUTTI_OK);
    CU_ASSERT_NOT_EQUAL(memcmp(sealed, again, sizeof sealed), 0);
    for (size_t i = 0; i < sizeof sealed; i++) {
        sealed[i] ^= 0x10;
        CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
        sealed[i] ^= 0x10;
    }
    CU_ASSERT_EQUAL(seal_open(theirs, sealed, SEAL_OVERHEAD - 1, out), TUTTI_ERR_AUTH);
    CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_OK);
    seal_free(mine);
    seal_free(theirs);
    seal_free(stranger);
    seal_free(label);
    seal_free(NULL);
}

static void test_seal_masks_never_repeat(void)
{
    static const uint8_t secret[32] = {9};
    struct seal *a, *b;
    uint8_t masks[24][SEAL_MASK_LEN], twin[SEAL_MASK_LEN];
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "x", &a), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "x", &b), TUTTI_OK);
    int count = 0;
    for (uint32_t from = 0; from < 2; from++) {
        for (uint32_t to = 0; to < 3; to++) {
            for (uint64_t n = 0; n < 4; n++) {
                CU_ASSERT_EQUAL(seal_mask(a, from, to, n << 40, masks[count]), TUTTI_OK);
                CU_ASSERT_EQUAL(seal_mask(b, from, to, n << 40, twin), TUTTI_OK);
                CU_ASSERT_EQUAL(memcmp(twin, masks[count], sizeof twin), 0);
                for (int i = 0; i < count; i++)
                    CU_ASSERT_NOT_EQUAL(memcmp(masks[i], masks[count], sizeof twin), 0);
                count++;
            }
        }
    }
    seal_free(a);
    seal_free(b);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(choose_ranks_pairs_of_gids),
        TEST(choose_looks_at_the_bits_of_a_subnet),
        TEST(choose_sorts_the_gids_of_a_port),
        TEST(choose_agrees_with_the_other_end),
        TEST(verbs_measures_distances),
        TEST(verbs_orders_ports),
        TEST(choose_pairs_rails_by_subnet),
        TEST(choose_says_why_nothing_fits),
        TEST(choose_refuses_what_is_out_of_bounds),
        TEST(choose_writes_gids),
        TEST(choose_keeps_what_the_connection_manager_can_dial),
        TEST(choose_finds_a_way_into_gpu_memory),
        TEST(ring_places_never_overlap),
        TEST(credit_counts_across_the_wrap),
        TEST(credit_takes_old_reports_and_refuses_false_ones),
        TEST(flow_carries_everything_in_order),
        TEST(flow_carries_what_cannot_be_registered),
        TEST(flow_names_a_disagreement),
        TEST(flow_refuses_nonsense),
        TEST(flow_takes_no_grant_for_a_later_transfer),
        TEST(flow_bounds_the_number_of_chunks),
        TEST(seal_opens_only_what_was_sealed),
        TEST(seal_masks_never_repeat),
    };
    return suite_run("verbs", tests, sizeof tests / sizeof *tests, argc, argv);
}
