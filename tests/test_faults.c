/* test_faults.c: the texts that fault.c understands, and what each fault does, over every transport
 * of the table. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/hosts.h"
#include "tests/links.h"

/* ---- the text ---------------------------------------------------------------------------------
 */

static tutti_status wrap(const char *text)
{
    struct settings settings;
    const uint8_t secret[32] = {1};
    const char *names[] = {"rank 0"};
    struct transport *inner, *outer;
    settings_defaults(&settings);
    struct transport_config config = {
        .size = 1, .lanes = 1, .secret = secret, .settings = &settings, .peer_names = names};
    const struct transport_ops *ops = transport_find("inproc");
    CU_ASSERT_EQUAL_FATAL(ops->open(&config, &inner), TUTTI_OK);
    tutti_status status = fault_wrap(inner, &config, text, &outer);
    if (status == TUTTI_OK)
        outer->ops->close(outer);
    else
        ops->close(inner);
    return status;
}

static void test_faults_understand_texts(void)
{
    static const char *const good[] = {"",
                                       ";",
                                       "delay:50us",
                                       "delay:50us@10%;drop@op=100,peer=2",
                                       "fail@op=57",
                                       "fail:ERR_SYSTEM@from=3,rank=1,lane=0,send",
                                       "short;stall@recv",
                                       "refuse:connect",
                                       "refuse:connect@peer=0",
                                       "reorder;seed:7;delay:1s@0%",
                                       "delay:2ms@100%"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CU_ASSERT_EQUAL(wrap(good[i]), TUTTI_OK);
}

static void test_faults_refuse_other_texts(void)
{
    static const char *const bad[] = {"nonsense",    "delay",
                                      "delay:",      "delay:5",
                                      "delay:5min",  "delay:us",
                                      "fail:OK",     "fail:NOTHING",
                                      "drop@",       "drop@op",
                                      "drop@op=",    "drop@op=x",
                                      "drop@op=0",   "drop@op=1x",
                                      "drop@110%",   "drop@10",
                                      "stall@who=1", "short@peer=-1",
                                      "refuse",      "refuse:all",
                                      "seed:",       "reorder:fast",
                                      "drop,stall",  "fail@send=1x",
                                      "seed:1x",     "drop@peer=99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CU_ASSERT_EQUAL(wrap(bad[i]), TUTTI_ERR_SETTING);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_FAULT"));
    }
    char many[200] = "";
    for (int i = 0; i < 17; i++)
        strcat(many, "drop@op=9;");
    CU_ASSERT_EQUAL(wrap(many), TUTTI_ERR_SETTING);
    char longest[400];
    memset(longest, ';', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    CU_ASSERT_EQUAL(wrap(longest), TUTTI_ERR_SETTING);
}

/* ---- what they do -----------------------------------------------------------------------------
 */

static void run(const char *fault, uint32_t size, uint32_t lanes, links_fn *function)
{
    for (int i = 0; transport_table[i]; i++) {
        if (!hosts_transport_wanted(transport_table[i]->name))
            continue;
        char why[SENTENCE_MAX];
        struct links_world *world = links_world_new(transport_table[i]->name, size, lanes);
        if (hosts_here() && !world->ops->probe(&world->settings, why, sizeof why)) {
            printf("    %s does not work here: %s\n", transport_table[i]->name, why);
            continue;
        }
        world->fault = fault;
        unsigned before = CU_get_number_of_failures();
        links_run(world, function);
        if (CU_get_number_of_failures() != before)
            printf("    that was %s\n", transport_table[i]->name);
    }
}

/* Rank 0 sends n words, rank 1 receives them one after the other. */
static void send_words(struct links_rank *rank, uint32_t n)
{
    links_connect_all(rank);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t word = i;
        struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
        links_expect(rank, (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) ==
                               TUTTI_OK);
        links_expect(rank, word == i);
    }
}

static void delayed(struct links_rank *rank)
{
    uint64_t begun = clock_ms();
    send_words(rank, 10);
    /* Rank 0's tenth send waits 5 ms as each before it did. */
    links_expect(rank, clock_ms() - begun >= 49);
    links_meet(rank, 1, 2);
}

static void test_faults_delay(void)
{
    run("delay:5ms@rank=0", 2, 1, delayed);
}

static void fail_third(struct links_rank *rank)
{
    uint32_t word = 7;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    send_words(rank, 2);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_ERR_SYSTEM);
        links_expect(rank, strstr(status_sentence(), "operation 3 of rank 0") != NULL);
    }
    links_expect(rank,
                 (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) == TUTTI_OK);
    links_meet(rank, 1, 2);
}

static void test_faults_fail_one_operation(void)
{
    run("fail:ERR_SYSTEM@op=3,rank=0", 2, 1, fail_third);
}

/* Rank 0 drops its link to rank 1; that to rank 2 lives on. */
static void drop_one(struct links_rank *rank)
{
    uint32_t word = 1, other = 0;
    struct transport_event event;
    links_connect_all(rank);
    for (uint32_t p = 0; p < 3; p++) {
        struct xfer out = links_xfer(p, &word, 4), in = links_xfer(p, &other, 4);
        if (p == rank->rank)
            continue;
        links_expect(rank, links_send(rank, &out) == TUTTI_OK);
        links_expect(rank, links_recv(rank, &in) == TUTTI_OK);
    }
    links_meet(rank, 1, 3);
    struct xfer pending = links_xfer(1 - rank->rank, &other, 4), xfer = links_xfer(1, &word, 4);
    if (rank->rank < 2)
        rank->ops->recv(rank->transport, &pending);
    links_meet(rank, 2, 3);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_ERR_PEER);
        links_expect(rank, links_send(rank, &xfer) == TUTTI_ERR_PEER);
        links_expect(rank, strstr(status_sentence(), "rank 1 was dropped") != NULL);
    }
    if (rank->rank < 2) {
        links_expect(rank, links_finish(rank, &pending, LINKS_LIMIT_MS) == TUTTI_ERR_PEER);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, LINKS_LIMIT_MS, &event));
        links_expect(rank, event.peer == 1 - rank->rank && event.status == TUTTI_ERR_PEER);
    }
    links_meet(rank, 3, 3);
    struct xfer last = links_xfer(rank->rank == 0 ? 2 : 0, &word, 4);
    if (rank->rank != 1)
        links_expect(rank, (rank->rank == 0 ? links_send(rank, &last) : links_recv(rank, &last)) ==
                               TUTTI_OK);
    links_meet(rank, 4, 3);
}

static void test_faults_drop_a_link(void)
{
    run("drop@rank=0,from=5,peer=1,send", 3, 1, drop_one);
}

static void stalled(struct links_rank *rank)
{
    uint32_t word = 3;
    struct transport_event event;
    send_words(rank, 2);
    struct xfer first = links_xfer(1 - rank->rank, &word, 4), second = first, other = first;
    other.lane = 1;
    if (rank->rank == 0) {
        links_expect(rank, rank->ops->send(rank->transport, &first) == TUTTI_IN_PROGRESS);
        links_expect(rank, rank->ops->send(rank->transport, &second) == TUTTI_IN_PROGRESS);
        links_expect(rank, links_send(rank, &other) == TUTTI_OK);
        links_expect(rank, links_finish(rank, &first, 50) == TUTTI_IN_PROGRESS);
        links_expect(rank, second.status == TUTTI_IN_PROGRESS);
    } else {
        links_expect(rank, links_recv(rank, &other) == TUTTI_OK);
        links_expect(rank, rank->ops->recv(rank->transport, &first) == TUTTI_IN_PROGRESS);
        links_expect(rank, links_finish(rank, &first, 50) == TUTTI_IN_PROGRESS);
    }
    links_meet(rank, 1, 2);
    if (rank->rank == 1) { /* leaves while the stalled ones wait: they end */
        rank->ops->close(rank->transport);
        rank->transport = NULL;
        return;
    }
    struct xfer third = links_xfer(1, &word, 4);
    rank->ops->recv(rank->transport, &third);
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, LINKS_LIMIT_MS, &event));
    links_expect(rank, links_finish(rank, &first, 2000) == TUTTI_ERR_PEER);
    links_expect(rank, links_finish(rank, &second, 2000) == TUTTI_ERR_PEER);
}

static void test_faults_stall_a_lane(void)
{
    run("stall@op=3,rank=0", 2, 2, stalled);
}

static void shortened(struct links_rank *rank)
{
    uint8_t data[100] = {0};
    struct xfer xfer = links_xfer(1 - rank->rank, data, sizeof data);
    links_connect_all(rank);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK && xfer.len == sizeof data);
    } else {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_MISMATCH);
        links_expect(rank, xfer.seen_len == sizeof data - 1);
    }
    links_meet(rank, 1, 2);
}

static void test_faults_shorten_a_send(void)
{
    run("short@rank=0", 2, 1, shortened);
}

static void refused(struct links_rank *rank)
{
    const struct links_world *world = rank->world;
    uint32_t peer = 1 - rank->rank;
    tutti_status status =
        rank->ops->connect(rank->transport, peer, world->address[peer], world->address_len[peer]);
    links_expect(rank, status == (rank->rank == 0 ? TUTTI_ERR_CONNECT : TUTTI_OK));
    links_meet(rank, 1, 2);
}

static void test_faults_refuse_to_connect(void)
{
    run("refuse:connect@rank=0,peer=1", 2, 1, refused);
}

/* Many transfers complete in another order between lanes, in order within each. */
static void reordered(struct links_rank *rank)
{
    enum { LANES = 4, EACH = 20 };
    static _Thread_local struct xfer xfers[LANES * EACH];
    static _Thread_local uint32_t words[LANES * EACH];
    uint32_t next[LANES] = {0}, done = 0, swaps = 0, last = 0;
    send_words(rank,
               1); /* the delays begin when a transfer is posted: not before there is a link */
    for (uint32_t i = 0; i < LANES * EACH; i++) {
        words[i] = rank->rank == 0 ? i : 0;
        xfers[i] = links_xfer(1 - rank->rank, &words[i], 4);
        xfers[i].lane = i % LANES;
    }
    if (rank->rank == 0) {
        for (uint32_t i = 0; i < LANES * EACH; i++)
            links_expect(rank, links_send(rank, &xfers[i]) == TUTTI_OK);
        links_meet(rank, 1, 2);
        return;
    }
    for (uint32_t i = 0; i < LANES * EACH; i++) {
        if (rank->ops->recv(rank->transport, &xfers[i]) == TUTTI_OK) {
            next[i % LANES]++;
            done++;
        }
    }
    uint64_t deadline = clock_ms() + 10000;
    while (done < LANES * EACH && clock_ms() < deadline) {
        struct xfer *xfer = rank->ops->poll(rank->transport);
        for (; xfer; xfer = xfer->next, done++) {
            uint32_t i = (uint32_t)(xfer - xfers);
            links_expect(rank, xfer->status == TUTTI_OK && words[i] == i);
            links_expect(rank, i / LANES == next[xfer->lane]++);
            swaps += i < last;
            last = i;
        }
    }
    links_expect(rank, done == LANES * EACH && swaps > 0);
    links_meet(rank, 1, 2);
}

static void test_faults_reorder_completions(void)
{
    run("reorder;delay:1ms@rank=1,50%;seed:3", 2, 4, reordered);
}

static void cancelled(struct links_rank *rank)
{
    uint32_t word = 0;
    struct xfer xfers[4];
    links_connect_all(rank);
    for (int i = 0; i < 4; i++) {
        xfers[i] = links_xfer(1 - rank->rank, &word, 4);
        rank->ops->send(rank->transport, &xfers[i]);
    }
    rank->ops->cancel(rank->transport, false);
    memset(xfers, 0xee, sizeof xfers);
    for (int i = 0; i < 100; i++) {
        links_expect(rank, rank->ops->poll(rank->transport) == NULL);
        clock_sleep_us(100);
    }
    links_meet(rank, 1, 2);
}

static void test_faults_forget_on_cancel(void)
{
    run("delay:2ms", 2, 1, cancelled);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(faults_understand_texts),
        TEST(faults_refuse_other_texts),
        TEST(faults_delay),
        TEST(faults_fail_one_operation),
        TEST(faults_drop_a_link),
        TEST(faults_stall_a_lane),
        TEST(faults_shorten_a_send),
        TEST(faults_refuse_to_connect),
        TEST(faults_reorder_completions),
        TEST(faults_forget_on_cancel),
    };
    return suite_run("faults", tests, sizeof tests / sizeof *tests, argc, argv);
}
