/* links_traffic.c: random traffic over all links and lanes at once. It is generated from the
 * world's seed, so that both ends of a link know what must arrive. */
#include <stdlib.h>
#include <string.h>

#include "tests/links.h"

#define TRAFFIC_MAX 48 /* messages per link, lane and direction */

struct message {
    size_t len, offset;
    bool allocated, reduce, incoming_first, past_caches, past_pace;
};

/* What the k-th message from one rank to another on a lane is: both compute it. */
static struct message message_at(const struct links_world *world, uint32_t from, uint32_t to,
                                 uint32_t lane, uint32_t k)
{
    static const size_t bases[] = {0,    1,    8,     24,    25,    64,    511,    1023,
                                   1024, 4096, 16383, 16384, 40000, 70000, 300000, 2500000};
    uint64_t state = world->seed ^ (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ lane << 24 ^ k;
    size_t base = bases[suite_random(&state) % (sizeof bases / sizeof bases[0])];
    if (base > 100000 && suite_random(&state) % 8)
        base = 100;
    return (struct message){.len = base + suite_random(&state) % (base / 8 + 1),
                            .offset = suite_random(&state) % 64,
                            .allocated = suite_random(&state) % 2,
                            .reduce = suite_random(&state) % 2,
                            .incoming_first = suite_random(&state) % 2,
                            .past_caches = suite_random(&state) % 4 == 0,
                            .past_pace = suite_random(&state) % 4 == 0};
}

static uint8_t byte_at(uint32_t from, uint32_t to, uint32_t lane, uint32_t k, size_t i)
{
    return (uint8_t)(i * 7 + (i >> 8) + from * 31 + to * 17 + lane * 5 + k * 3);
}

struct flow {
    struct xfer xfer;
    struct message message;
    uint8_t *memory, *at, *dst;
    struct pace pace;
    uint32_t from, to, lane, k;
};

static void flow_begin(struct links_rank *rank, struct flow *flow, bool sending,
                       const struct reducer *reducer)
{
    const struct message *m = &flow->message;
    size_t bytes = m->len + m->offset + 1;
    if (m->allocated && mem_alloc(bytes, (void **)&flow->memory) != TUTTI_OK) {
        links_complain(rank, __FILE__, __LINE__, "memory of a file of its own");
        flow->message.allocated = false;
    }
    if (!m->allocated)
        flow->memory = malloc(bytes);
    flow->at = flow->memory + m->offset;
    flow->xfer = (struct xfer){.data = flow->at,
                               .len = m->len,
                               .peer = sending ? flow->to : flow->from,
                               .lane = flow->lane,
                               .tag = flow->k % 2 ? &links_tags[0] : &links_tags[1]};
    for (size_t i = 0; i < m->len; i++)
        flow->at[i] = sending ? byte_at(flow->from, flow->to, flow->lane, flow->k, i) : (uint8_t)i;
    if (!sending) {
        flow->pace.past = m->past_pace ? TRAFFIC_MAX : 0;
        flow->xfer.pace = &flow->pace;
        flow->xfer.past_caches = m->past_caches;
    }
    if (!sending && m->reduce) {
        flow->dst = malloc(m->len + 1);
        flow->xfer.reducer = reducer;
        flow->xfer.dst = flow->dst;
        flow->xfer.other = flow->at;
        flow->xfer.data = NULL;
        flow->xfer.incoming_first = m->incoming_first;
    }
}

static void flow_check(struct links_rank *rank, const struct flow *flow)
{
    const uint8_t *got = flow->dst ? flow->dst : flow->at;
    size_t bad = 0;
    for (size_t i = 0; i < flow->message.len; i++) {
        uint8_t want = byte_at(flow->from, flow->to, flow->lane, flow->k, i);
        if (flow->dst)
            want = (uint8_t)(want + (uint8_t)i);
        bad += got[i] != want;
    }
    links_expect(rank, bad == 0);
}

static void flow_end(struct flow *flow)
{
    if (flow->message.allocated)
        mem_free(flow->memory);
    else
        free(flow->memory);
    free(flow->dst);
}

static uint32_t flows_make(struct links_rank *rank, struct flow *flows, uint32_t per_lane)
{
    struct links_world *world = rank->world;
    uint32_t count = 0;
    for (uint32_t k = 0; k < per_lane; k++) {
        for (uint32_t peer = 0; peer < world->size; peer++) {
            for (uint32_t lane = 0; lane < world->lanes && peer != rank->rank; lane++) {
                flows[count++] =
                    (struct flow){.from = rank->rank, .to = peer, .lane = lane, .k = k};
                flows[count++] =
                    (struct flow){.from = peer, .to = rank->rank, .lane = lane, .k = k};
            }
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        flow->message = message_at(world, flow->from, flow->to, flow->lane, flow->k);
    }
    return count;
}

void links_traffic(struct links_rank *rank)
{
    struct links_world *world = rank->world;
    uint32_t per_lane = world->size > 8 ? 3 : TRAFFIC_MAX;
    struct reducer reducer = {
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_UINT8), .dtype = TUTTI_UINT8, .elem_size = 1};
    struct flow *flows = calloc((size_t)world->size * world->lanes * per_lane * 2, sizeof *flows);
    uint32_t count = flows_make(rank, flows, per_lane);
    links_connect_all(rank);
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        bool sending = flow->from == rank->rank;
        flow_begin(rank, flow, sending, &reducer);
        tutti_status status = sending ? rank->ops->send(rank->transport, &flow->xfer)
                                      : rank->ops->recv(rank->transport, &flow->xfer);
        links_expect(rank, status == TUTTI_OK || status == TUTTI_IN_PROGRESS);
    }
    for (uint32_t i = 0; i < count; i++) {
        links_expect(rank, links_finish(rank, &flows[i].xfer, LINKS_LIMIT_MS) == TUTTI_OK);
        if (flows[i].from != rank->rank)
            flow_check(rank, &flows[i]);
    }
    for (uint32_t i = 0; i < count; i++)
        flow_end(&flows[i]);
    free(flows);
    links_meet(rank, 1, world->size);
}
