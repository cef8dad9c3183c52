/* test_shm.c: what the transports inside one host carry. Each test runs one function as every rank
 * of a small world: as threads (inproc, shm) or as processes (shm). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/links.h"
#include "transports/shm.h"

/* ---- random traffic, all links and lanes at once ---- */

static void test_inproc_carries_random_traffic(void)
{
    links_run(links_world_new("inproc", 3, 2), links_traffic);
}

static void test_shm_carries_random_traffic_in_place(void)
{
    links_run(links_world_new("shm", 3, 2), links_traffic);
}

static void test_shm_carries_random_traffic_by_cma(void)
{
    struct links_world *world = links_world_new("shm", 3, 1);
    world->settings.inplace = false;
    links_run(world, links_traffic);
}

static void test_shm_carries_random_traffic_staged(void)
{
    struct links_world *world = links_world_new("shm", 3, 1);
    world->settings.inplace = world->settings.cma = false;
    links_run(world, links_traffic);
}

static void test_shm_carries_random_traffic_between_threads(void)
{
    struct links_world *world = links_world_new("shm", 3, 1);
    world->processes = false;
    links_run(world, links_traffic);
}

static void test_shm_carries_random_traffic_of_many(void)
{
    links_run(links_world_new("shm", 24, 1), links_traffic);
}

static void test_inproc_carries_random_traffic_of_many(void)
{
    /* Half of the 24 * 23 * 2 * 3 buffers are files, all of one process. */
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max < 2048 || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        suite_skip("it needs 2048 descriptors (ulimit -n)");
        return;
    }
    links_run(links_world_new("inproc", 24, 1), links_traffic);
}

/* ---- what moves in part ---- */

/* Who waits sleeps soon, unless it hears that something moves: a message through the ring would
 * crawl from nap to nap, and one that is read in place from step to step. */
static unsigned parts_moved(struct links_rank *rank, struct xfer xfers[2])
{
    unsigned parts = 0;
    rank->transport->moved = false;
    for (int i = 0; i < 2; i++) {
        tutti_status status = rank->rank == 0 ? rank->ops->send(rank->transport, &xfers[i])
                                              : rank->ops->recv(rank->transport, &xfers[i]);
        links_expect(rank, status == TUTTI_OK || status == TUTTI_IN_PROGRESS);
    }
    struct links_patience patience = {0};
    while (xfers[1].status == TUTTI_IN_PROGRESS && !links_out(rank, &patience)) {
        parts += rank->transport->moved;
        rank->transport->moved = false;
        rank->ops->poll(rank->transport);
    }
    links_expect(rank, xfers[0].status == TUTTI_OK && xfers[1].status == TUTTI_OK);
    return parts + rank->transport->moved;
}

static void moves(struct links_rank *rank)
{
    enum { BYTES = 4 << 20 };
    bool in_place = rank->config.settings->inplace;
    uint8_t *memory;
    links_connect_all(rank);
    links_expect(rank, mem_alloc(BYTES, (void **)&memory) == TUTTI_OK);
    struct xfer small = links_xfer(1 - rank->rank, memory, 8), xfers[2] = {small, small};
    xfers[0].len = xfers[1].len = BYTES;
    links_expect(rank, (rank->rank == 0 ? links_send(rank, &small) : links_recv(rank, &small)) ==
                           TUTTI_OK);
    rank->transport->moved = false;
    rank->ops->poll(rank->transport);
    links_expect(rank, !rank->transport->moved);
    struct local_link *link = ((struct local *)rank->transport)->links[1 - rank->rank];
    link->pace.past =
        rank->world->number ? BYTES : 0; /* into the ring past the caches, or as ever */
    for (size_t i = 0; i < BYTES; i++)
        memory[i] = rank->rank == 0 ? (uint8_t)(i * 7 + (i >> 8)) : 0;
    unsigned parts = parts_moved(rank, xfers);
    size_t bad = 0;
    for (size_t i = 0; i < BYTES; i++)
        bad += memory[i] != (uint8_t)(i * 7 + (i >> 8));
    links_expect(rank, bad == 0);
    struct transport_stats stats;
    rank->ops->stats(rank->transport, &stats);
    links_expect(rank, stats.copied_bytes == (in_place || rank->rank == 1 ? 0 : 2 * BYTES));
    /* In place: steps of the receiver, and the last of each message ends it. Through the ring: no
     * poll goes on for as long as the peer keeps up. */
    unsigned steps = 2 * (BYTES / LOCAL_STEP_BYTES - 1);
    links_expect(rank, in_place ? parts == (rank->rank == 0 ? 0 : steps) : parts >= steps);
    mem_free(memory);
    links_meet(rank, 1, 2);
}

static void test_shm_tells_what_moves_in_part(void)
{
    links_run(links_world_new("shm", 2, 1), moves);
    for (int past = 0; past < 2; past++) {
        struct links_world *world = links_world_new("shm", 2, 1);
        world->settings.inplace = world->settings.cma = false;
        world->number = past;
        links_run(world, moves);
    }
}

/* ---- memory that is freed and allocated again ---- */

static void reuse(struct links_rank *rank)
{
    links_connect_all(rank);
    for (uint32_t round = 0; round < 300; round++) {
        size_t len = 20000 + round;
        uint8_t *memory;
        links_expect(rank, mem_alloc(len, (void **)&memory) == TUTTI_OK);
        memset(memory, rank->rank == 0 ? (int)(round & 255) : 0, len);
        struct xfer xfer = links_xfer(1 - rank->rank, memory, len);
        tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
        links_expect(rank, status == TUTTI_OK);
        links_expect(rank, memory[0] == (uint8_t)round && memory[len - 1] == (uint8_t)round);
        mem_free(memory);
    }
    links_meet(rank, 1, 2);
}

static void test_shm_never_serves_freed_memory(void)
{
    links_run(links_world_new("shm", 2, 1), reuse);
}

/* More allocations alive than a peer may be offered at a time. */
static void many_regions(struct links_rank *rank)
{
    enum { REGIONS = 300, BYTES = 8192 };
    uint8_t *memory[REGIONS];
    links_connect_all(rank);
    for (uint32_t i = 0; i < REGIONS; i++)
        links_expect(rank, mem_alloc(BYTES, (void **)&memory[i]) == TUTTI_OK);
    for (uint32_t i = 0; i < 2 * REGIONS; i++) {
        memset(memory[i % REGIONS], rank->rank == 0 ? (int)(i & 255) : 0, BYTES);
        struct xfer xfer = links_xfer(1 - rank->rank, memory[i % REGIONS], BYTES);
        tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
        links_expect(rank, status == TUTTI_OK && memory[i % REGIONS][BYTES - 1] == (uint8_t)i);
    }
    for (uint32_t i = 0; i < REGIONS; i++)
        mem_free(memory[i]);
    links_meet(rank, 1, 2);
}

static void test_shm_offers_more_regions_than_it_keeps(void)
{
    links_run(links_world_new("shm", 2, 1), many_regions);
}

/* What the sender waits to overwrite does not wait for the receiver; what it leaves alone is read
 * in place, where the receiver may have an old copy of it. */
static void overwrite_next(struct links_rank *rank)
{
    enum { BYTES = SHM_FRESH_MAX };
    uint8_t *memory;
    links_connect_all(rank);
    links_expect(rank, mem_alloc(BYTES, (void **)&memory) == TUTTI_OK);
    memset(memory, rank->rank == 0 ? 7 : 0, BYTES);
    struct xfer first = links_xfer(1 - rank->rank, memory, 8), xfer = first, in_place = first;
    xfer.len = in_place.len = BYTES;
    xfer.overwritten_next = true;
    if (rank->rank == 0) {
        links_expect(rank, links_recv(rank, &first) == TUTTI_OK); /* the link is up */
        memset(memory, 7, BYTES);
        links_expect(rank, rank->ops->send(rank->transport, &xfer) == TUTTI_OK);
        memset(memory, 8, BYTES);
        links_expect(rank, rank->ops->send(rank->transport, &in_place) == TUTTI_IN_PROGRESS);
    } else {
        links_expect(rank, links_send(rank, &first) == TUTTI_OK);
    }
    links_meet(rank, 1, 2);
    if (rank->rank == 0) {
        links_expect(rank, links_finish(rank, &in_place, LINKS_LIMIT_MS) == TUTTI_OK);
    } else {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
        links_expect(rank, memory[0] == 7 && memory[BYTES - 1] == 7);
        links_expect(rank, links_recv(rank, &in_place) == TUTTI_OK);
        links_expect(rank, memory[0] == 8 && memory[BYTES - 1] == 8);
    }
    mem_free(memory);
    links_meet(rank, 2, 2);
}

static void test_shm_takes_along_what_is_overwritten_next(void)
{
    links_run(links_world_new("shm", 2, 1), overwrite_next);
}

/* ---- disagreement ---- */

static void mismatch(struct links_rank *rank)
{
    uint64_t word = 1;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, rank->rank == 0 ? 8 : 4);
    struct xfer other = links_xfer(1 - rank->rank, &word, 8);
    other.lane = 1;
    if (rank->rank == 0) {
        other.tag = &links_tags[1];
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        links_expect(rank, links_send(rank, &other) == TUTTI_OK);
    } else {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_MISMATCH);
        links_expect(rank, xfer.seen_len == 8 && tag_equal(&xfer.seen, &links_tags[0]));
        links_expect(rank, links_recv(rank, &other) == TUTTI_ERR_MISMATCH);
        links_expect(rank, other.seen_len == 8 && tag_equal(&other.seen, &links_tags[1]));
        struct xfer later = links_xfer(0, &word, 8);
        links_expect(rank, links_recv(rank, &later) == TUTTI_ERR_MISMATCH);
    }
    links_meet(rank, 1, 2);
}

static void test_inproc_names_a_mismatch(void)
{
    links_run(links_world_new("inproc", 2, 2), mismatch);
}

static void test_shm_names_a_mismatch(void)
{
    links_run(links_world_new("shm", 2, 2), mismatch);
}

/* ---- unexpected arrivals and notices ---- */

static void tell(struct links_rank *rank)
{
    const struct transport_ops *ops = rank->ops;
    struct transport_event event;
    struct notice notice = {.kind = 9, .culprit = 4, .status = 11, .text = "why"};
    uint32_t word = 7;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        notice.culprit = 5;
        links_expect(rank, ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        notice.culprit = 6;
        links_expect(rank, ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        links_meet(rank, 1, 2);
    } else {
        links_meet(rank, 1, 2); /* all is said */
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
        links_expect(rank, event.peer == 0 && event.notice.culprit == 5 && event.notice.kind == 9);
        links_expect(rank, strcmp(event.notice.text, "why") == 0);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
        links_expect(rank, event.notice.culprit == 6);
        for (int i = 0; i < 2; i++) {
            links_expect(rank, links_event(rank, TRANSPORT_EVENT_UNEXPECTED, 5000, &event));
            links_expect(rank, event.peer == 0 && event.len == 4 &&
                                   tag_equal(&event.tag, &links_tags[0]));
        }
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 7);
        links_expect(rank, !ops->event(rank->transport, true, &event));
    }
    links_meet(rank, 2, 2);
}

static void test_inproc_tells_notices_and_arrivals(void)
{
    links_run(links_world_new("inproc", 2, 1), tell);
}

static void test_shm_tells_notices_and_arrivals(void)
{
    links_run(links_world_new("shm", 2, 1), tell);
}

/* Messages that lie in place are received one for each poll, so that what the receiver sends itself
 * goes on; those that are shorter are received when they are asked for. */
static void take_turns(struct links_rank *rank)
{
    enum { EACH = 4, MESSAGES = 2 * EACH, BYTES = LOCAL_TURN_BYTES };
    struct xfer xfers[MESSAGES];
    uint8_t *memory;
    links_connect_all(rank);
    links_expect(rank, mem_alloc(MESSAGES * BYTES, (void **)&memory) == TUTTI_OK);
    memset(memory, rank->rank == 0 ? 7 : 0, MESSAGES * BYTES);
    struct xfer first = links_xfer(1 - rank->rank, memory, 8);
    for (uint32_t i = 0; i < MESSAGES; i++) /* first the shorter ones */
        xfers[i] = links_xfer(1 - rank->rank, memory + i * BYTES, i < EACH ? BYTES - 8 : BYTES);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &first) == TUTTI_OK);
        for (uint32_t i = 0; i < MESSAGES; i++)
            links_expect(rank, rank->ops->send(rank->transport, &xfers[i]) == TUTTI_IN_PROGRESS);
    } else {
        links_expect(rank, links_recv(rank, &first) == TUTTI_OK);
    }
    links_meet(rank, 1, 2);
    for (uint32_t i = 0; i < MESSAGES && rank->rank == 1; i++)
        links_expect(rank, rank->ops->recv(rank->transport, &xfers[i]) ==
                               (i < EACH ? TUTTI_OK : TUTTI_IN_PROGRESS));
    for (uint32_t i = EACH; i < MESSAGES && rank->rank == 1; i++) {
        struct xfer *done = rank->ops->poll(rank->transport);
        links_expect(rank, done == &xfers[i] && !done->next && done->status == TUTTI_OK);
    }
    links_meet(rank, 2, 2);
    for (uint32_t i = 0; i < MESSAGES && rank->rank == 0; i++)
        links_expect(rank, links_finish(rank, &xfers[i], LINKS_LIMIT_MS) == TUTTI_OK);
    links_expect(rank, memory[MESSAGES * BYTES - 1] == 7);
    mem_free(memory);
    links_meet(rank, 3, 2);
}

static void test_inproc_gives_long_messages_a_turn_each(void)
{
    links_run(links_world_new("inproc", 2, 1), take_turns);
}

static void test_shm_gives_long_messages_a_turn_each(void)
{
    links_run(links_world_new("shm", 2, 1), take_turns);
}

/* A process that has no descriptor left is not told that its kernel lacks something. */
static void test_shm_says_why_it_cannot_be_used(void)
{
    struct rlimit before, none;
    struct settings settings = {0};
    char why[SENTENCE_MAX] = "";
    getrlimit(RLIMIT_NOFILE, &before);
    none = (struct rlimit){0, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    CU_ASSERT_FALSE(shm_ops.probe(&settings, why, sizeof why));
    setrlimit(RLIMIT_NOFILE, &before);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, strerror(EMFILE)));
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(inproc_carries_random_traffic),
        TEST(inproc_carries_random_traffic_of_many),
        TEST(shm_carries_random_traffic_in_place),
        TEST(shm_carries_random_traffic_by_cma),
        TEST(shm_carries_random_traffic_staged),
        TEST(shm_tells_what_moves_in_part),
        TEST(shm_carries_random_traffic_between_threads),
        TEST(shm_carries_random_traffic_of_many),
        TEST(shm_never_serves_freed_memory),
        TEST(shm_offers_more_regions_than_it_keeps),
        TEST(shm_takes_along_what_is_overwritten_next),
        TEST(inproc_gives_long_messages_a_turn_each),
        TEST(shm_gives_long_messages_a_turn_each),
        TEST(inproc_names_a_mismatch),
        TEST(shm_names_a_mismatch),
        TEST(inproc_tells_notices_and_arrivals),
        TEST(shm_tells_notices_and_arrivals),
        TEST(shm_says_why_it_cannot_be_used),
    };
    return suite_run("shm", tests, sizeof tests / sizeof *tests, argc, argv);
}
