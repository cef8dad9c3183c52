/* test_leaving.c: how a transport's links end, run over transport_table: ranks that leave, die, are
 * gone before the link is made, cancel, disconnect, or come late. */
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/hosts.h"
#include "tests/variants.h"

/* ---- leaving and dying ------------------------------------------------------------------------
 */

/* Rank 0 sends and closes; rank 1 looks only afterwards. */
static void leave(struct links_rank *rank)
{
    static _Thread_local uint8_t bytes[600];
    uint32_t hello = 1;
    struct transport_event event;
    links_connect_all(rank);
    struct xfer first = links_xfer(1 - rank->rank, &hello, 4);
    links_expect(rank, (rank->rank == 0 ? links_recv(rank, &first) : links_send(rank, &first)) ==
                           TUTTI_OK);
    struct xfer xfer = links_xfer(1 - rank->rank, bytes, sizeof bytes);
    if (rank->rank == 0) {
        memset(bytes, 3, sizeof bytes);
        for (int i = 0; i < 3; i++)
            links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        rank->ops->close(rank->transport);
        rank->transport = NULL;
        links_meet(rank, 1, 2);
        return;
    }
    links_meet(rank, 1, 2);
    links_expect(rank, !links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 150, &event));
    for (int i = 0; i < 3; i++)
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && bytes[599] == 3);
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_PEER);
    links_expect(rank, links_send(rank, &xfer) == TUTTI_ERR_PEER);
    links_expect(rank, strstr(status_sentence(), "rank 0 has left") != NULL);
}

static void test_leaving_receive_what_was_sent_before_leaving(void)
{
    variants_run(leave, 2, 1, VARIANTS_ALL, 0);
}

/* What rank 0 sends last is lost at first: the wire is cut for a moment while it leaves. Over TCP
 * the goodbye is sent later than the data, and so tried again sooner. */
static void leave_over_a_cut_wire(struct links_rank *rank)
{
    static uint8_t bytes[600];
    bool tcp = strcmp(rank->world->ops->name, "tcp") == 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, bytes, sizeof bytes);
    if (rank->rank == 1) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        for (int i = 0; i < 3; i++)
            links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && bytes[599] == 4);
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_PEER);
        return;
    }
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
    memset(bytes, 4, sizeof bytes);
    clock_sleep_us(50000); /* what makes the link is over */
    links_expect(rank, hosts_cut(tcp ? 700 : 120));
    for (int i = 0; i < 3; i++)
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    if (tcp)
        clock_sleep_us(650000);
}

static void test_leaving_receive_what_was_lost_at_first(void)
{
    variants_run(leave_over_a_cut_wire, 2, 1, VARIANTS_PLAIN | VARIANTS_PROCESSES, 0);
}

/* Rank 0 takes everything and leaves at once; rank 1, which now and then looks away, has sent it.
 */
static void leave_served(struct links_rank *rank)
{
    enum { COUNT = 12 };
    uint64_t state = rank->world->seed + (uint64_t)rank->world->number;
    size_t len = 9000u << suite_random(&state) % 6;
    uint8_t *data = malloc(COUNT * len);
    struct xfer xfers[COUNT];
    memset(data, 1, COUNT * len);
    links_connect_all(rank);
    for (int i = 0; i < COUNT; i++) {
        xfers[i] = links_xfer(1 - rank->rank, data + (size_t)i * len, len);
        if (rank->rank == 0)
            rank->ops->recv(rank->transport, &xfers[i]);
        else
            rank->ops->send(rank->transport, &xfers[i]);
    }
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    for (int i = 0; i < COUNT; i++) {
        while (xfers[i].status == TUTTI_IN_PROGRESS && clock_ms() < deadline) {
            rank->ops->poll(rank->transport);
            if (rank->rank == 1 && suite_random(&state) % 8 == 0)
                clock_sleep_us(2000);
        }
        links_expect(rank, xfers[i].status == TUTTI_OK);
    }
    if (rank->rank == 0) {
        rank->ops->close(rank->transport);
        rank->transport = NULL;
    }
    links_meet(rank, 1, 2);
    free(data);
}

static void test_leaving_have_sent_what_was_taken_before_leaving(void)
{
    for (int number = 0; number < 10; number++)
        variants_run(leave_served, 2, 1, VARIANTS_PLAIN | VARIANTS_PROCESSES, number);
}

/* One rank asks for a link, has something to say, and closes at once: the other, which only makes
 * progress and asks for the link a moment later, hears it, before it hears of the end. That is
 * promised to a rank that shows a sign of itself within TRANSPORT_ANSWER_MS: one that a busy
 * machine keeps from it is not judged. */
static void tell_and_leave(struct links_rank *rank)
{
    uint32_t speaker = (uint32_t)rank->world->number % 2;
    uint64_t late_ms = (uint64_t)rank->world->number / 2 * 5;
    struct notice notice = {.kind = 9, .culprit = 4, .text = "why"};
    if (rank->rank == speaker) {
        links_meet(rank, 2, 2);
        links_connect(rank, 1 - rank->rank);
        links_expect(rank, rank->ops->notify(rank->transport, 1 - rank->rank, &notice) == TUTTI_OK);
        rank->ops->close(rank->transport);
        rank->transport = NULL;
    } else {
        /* The speaker may begin as soon as this rank has come: so this one looks from then on. */
        _Atomic uint32_t *arrived = &rank->world->arrived[2];
        struct transport_event event = {0};
        uint64_t now = clock_ms(), begun = now, before = now, longest = 0;
        atomic_fetch_add(arrived, 1);
        for (bool asked = false; now < begun + 5000; before = now, now = clock_ms()) {
            longest = now - before > longest ? now - before : longest;
            if (atomic_load(arrived) < 2)
                begun = now;
            if (!asked && now >= begun + late_ms && atomic_load(arrived) == 2) {
                links_connect(rank, speaker);
                asked = true;
            }
            rank->ops->poll(rank->transport);
            if (rank->ops->event(rank->transport, true, &event))
                break;
        }
        bool heard = event.kind == TRANSPORT_EVENT_NOTICE && event.notice.kind == 9 &&
                     strcmp(event.notice.text, "why") == 0;
        if (!heard && longest >= TRANSPORT_ANSWER_MS / 2)
            printf("    not judged: this rank was kept from looking for %d ms\n", (int)longest);
        else
            links_expect(rank, heard);
    }
    links_meet(rank, 1, 2);
}

static void test_leaving_say_why_over_a_link_not_yet_made(void)
{
    for (int number = 0; number < 6; number++)
        variants_run(tell_and_leave, 2, 2, VARIANTS_PLAIN, number);
}

/* How often this thread has slept. */
static long naps(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

/* Rank 1 leaves long after rank 0, whose sockets are closed: it has nobody to wait for. Rank 0 has:
 * what it sent over RDMA must be known to have arrived, which takes as long as the wire does. */
static void leave_last(struct links_rank *rank)
{
    uint32_t word = 1;
    struct notice notice = {.kind = 1};
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    links_expect(rank,
                 (rank->rank == 0 ? links_recv(rank, &xfer) : links_send(rank, &xfer)) == TUTTI_OK);
    links_meet(rank, 1, 2);
    if (rank->rank == 1)
        clock_sleep_us(20000);
    (void)rank->ops->notify(rank->transport, 1 - rank->rank, &notice);
    clock_sleep_us(1000); /* until the wire has told that nobody hears it */
    long before = naps();
    rank->ops->close(rank->transport);
    rank->transport = NULL;
    links_expect(rank, rank->rank == 0 || naps() - before < 20);
}

static void test_leaving_last_takes_no_time(void)
{
    variants_run(leave_last, 2, 1, VARIANTS_PLAIN, 0);
}

/* Rank 0 leaves though rank 1 still waits for it: that is news. */
static void leave_too_soon(struct links_rank *rank)
{
    uint32_t word = 1;
    struct transport_event event;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4), pending = links_xfer(0, &word, 4);
    if (rank->rank == 0) {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
        return;
    }
    tutti_status status = rank->ops->recv(rank->transport, &pending);
    links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    if (status == TUTTI_IN_PROGRESS)
        status = links_finish(rank, &pending, 2000);
    links_expect(rank, status == TUTTI_ERR_PEER);
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 2000, &event));
    links_expect(rank, event.status == TUTTI_ERR_PEER && strstr(event.sentence, "rank 0"));
}

static void test_leaving_report_who_left_too_soon(void)
{
    variants_run(leave_too_soon, 2, 1, VARIANTS_ALL, 0);
}

/* A peer that was done when it left is no news for those who are still at work. */
static void leave_early(struct links_rank *rank)
{
    uint32_t word = rank->rank;
    struct transport_event event;
    links_connect_all(rank);
    for (uint32_t p = 0; p < 3; p++) {
        struct xfer out = links_xfer(p, &word, 4), in = out;
        uint32_t got;
        in.data = &got;
        if (p == rank->rank)
            continue;
        links_expect(rank, links_send(rank, &out) == TUTTI_OK);
        links_expect(rank, links_recv(rank, &in) == TUTTI_OK && got == p);
    }
    if (rank->rank == 2)
        return;
    links_expect(rank, !links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 150, &event));
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    links_expect(rank,
                 (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) == TUTTI_OK);
    links_meet(rank, 1, 2);
}

static void test_leaving_do_not_report_who_was_done(void)
{
    variants_run(leave_early, 3, 2, VARIANTS_ALL, 0);
}

static void die(struct links_rank *rank)
{
    static uint8_t late[100];
    size_t len = 32u << 20;
    uint8_t *data = malloc(len);
    memset(data, 1, len);
    links_connect_all(rank);
    struct xfer hello = links_xfer(1 - rank->rank, data, 4);
    if (rank->rank == 0) {
        links_expect(rank, links_recv(rank, &hello) == TUTTI_OK);
        struct xfer last = links_xfer(1, data, sizeof late);
        links_expect(rank, links_send(rank, &last) == TUTTI_OK);
        links_meet(rank, 1, 2);
        kill(getpid(), SIGKILL);
    }
    links_expect(rank, links_send(rank, &hello) == TUTTI_OK);
    struct xfer first = links_xfer(0, late, sizeof late), pending[4];
    links_expect(rank, links_recv(rank, &first) == TUTTI_OK && late[99] == 1);
    for (uint32_t i = 0; i < 4; i++) {
        pending[i] = links_xfer(0, data, len);
        pending[i].lane = i / 2;
        if (i % 2)
            rank->ops->send(rank->transport, &pending[i]);
        else
            rank->ops->recv(rank->transport, &pending[i]);
    }
    links_meet(rank, 1, 2);
    struct transport_event event;
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 2000, &event));
    links_expect(rank, event.peer == 0 && event.status == TUTTI_ERR_PEER);
    links_expect(rank, strstr(event.sentence, "rank 0") != NULL);
    for (int i = 0; i < 4; i++)
        links_expect(rank, links_finish(rank, &pending[i], 2000) == TUTTI_ERR_PEER);
    links_expect(rank, links_recv(rank, &first) == TUTTI_ERR_PEER);
    links_expect(rank, links_send(rank, &first) == TUTTI_ERR_PEER);
    free(data);
}

static void test_leaving_notice_a_death(void)
{
    variants_run(die, 2, 2, VARIANTS_PROCESSES, 0);
}

/* The peer dies when only the beginning of a long message of its has come: a receive for it that is
 * posted at once fails, and says why as any other. */
static void die_asking(struct links_rank *rank)
{
    struct transport_event event;
    size_t len = 32u << 20;
    uint8_t *data = malloc(len);
    memset(data, 1, len);
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, data, len);
    if (rank->rank == 0) {
        links_expect(rank, rank->ops->send(rank->transport, &xfer) == TUTTI_IN_PROGRESS);
        links_meet(rank, 1, 2);
        kill(getpid(), SIGKILL);
    }
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_UNEXPECTED, LINKS_LIMIT_MS, &event));
    links_meet(rank, 1, 2);
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 5000, &event));
    (void)fail(TUTTI_ERR_ARG, "not the reason");
    tutti_status status = rank->ops->recv(rank->transport, &xfer);
    links_expect(rank, status == TUTTI_IN_PROGRESS || strstr(status_sentence(), "rank 0"));
    if (status == TUTTI_IN_PROGRESS)
        status = links_finish(rank, &xfer, 2000);
    links_expect(rank, status == TUTTI_ERR_PEER);
    free(data);
}

static void test_leaving_notice_a_death_in_the_middle_of_a_message(void)
{
    variants_run(die_asking, 2, 1, VARIANTS_PROCESSES, 0);
}

/* The peer is idle, nothing is pending: its death is still told. */
static void die_idle(struct links_rank *rank)
{
    uint32_t word = 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 1) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        links_meet(rank, 1, 2);
        kill(getpid(), SIGKILL);
    }
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
    links_meet(rank, 1, 2);
    struct transport_event event;
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 2000, &event));
    links_expect(rank, event.peer == 1 && event.status == TUTTI_ERR_PEER);
}

static void test_leaving_notice_an_idle_death(void)
{
    variants_run(die_idle, 2, 1, VARIANTS_PROCESSES, 0);
}

/* ---- gone before the link is made -------------------------------------------------------------
 */

/* How `number` says who goes, how, and whether the other waits for it already. */
enum { GONE_RANK = 1, GONE_LATER = 2, GONE_HOW = 12 };
enum { GONE_DIES = 0, GONE_CLOSES = 4, GONE_LEAVES = 8, GONE_LEAVES_A_CHILD = 12 };

static void go_away(struct links_rank *rank)
{
    int how = rank->world->number & GONE_HOW;
    if (how == GONE_LEAVES_A_CHILD && fork() == 0) {
        clock_sleep_us(6000000);
        _exit(0);
    }
    if (how == GONE_DIES || how == GONE_LEAVES_A_CHILD)
        kill(getpid(), SIGKILL);
    if (how == GONE_LEAVES) {
        rank->ops->cancel(rank->transport, true);
    } else {
        rank->ops->close(rank->transport);
        rank->transport = NULL;
    }
}

static void gone_unconnected(struct links_rank *rank)
{
    uint32_t word = 0, gone = (uint32_t)rank->world->number & GONE_RANK;
    bool later = rank->world->number & GONE_LATER;
    if (rank->rank == gone) {
        links_meet(rank, 1, 2);
        go_away(rank);
        atomic_store(&rank->world->flags[0], 1);
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        while (rank->world->flags[1] == 0 && clock_ms() < deadline)
            clock_sleep_us(1000);
        return;
    }
    struct xfer xfer = links_xfer(gone, &word, 4);
    if (later) {
        links_connect(rank, gone);
        links_expect(rank, rank->ops->recv(rank->transport, &xfer) == TUTTI_IN_PROGRESS);
    }
    links_meet(rank, 1, 2);
    int how = rank->world->number & GONE_HOW;
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    bool waits = how == GONE_CLOSES || how == GONE_LEAVES;
    while (waits && rank->world->flags[0] == 0 && clock_ms() < deadline)
        clock_sleep_us(1000);
    links_expect(rank, !waits || rank->world->flags[0] == 1);
    clock_sleep_us(20000);
    tutti_status status = TUTTI_IN_PROGRESS;
    if (!later)
        status = rank->ops->connect(rank->transport, gone, rank->world->address[gone],
                                    rank->world->address_len[gone]);
    if (!later && status == TUTTI_OK)
        status = rank->ops->recv(rank->transport, &xfer);
    struct transport_event event;
    if (status == TUTTI_IN_PROGRESS) {
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 5000, &event));
        links_expect(rank, strstr(event.sentence, rank->world->names[gone]) != NULL);
        status = links_finish(rank, &xfer, 100);
    }
    links_expect(rank, status == TUTTI_ERR_PEER || status == TUTTI_ERR_CONNECT);
    atomic_store(&rank->world->flags[1], 1);
}

static void run_gone(int how, int which)
{
    int step = getenv("TUTTI_TEST_FAST") ? 3 : 1; /* fast: both ranks once, both moments once */
    for (int number = 0; number < 4; number += step)
        variants_run(gone_unconnected, 2, 1, which, number | how);
}

static void test_leaving_notice_a_death_before_the_link(void)
{
    run_gone(GONE_DIES, VARIANTS_PROCESSES);
}

static void test_leaving_notice_a_close_before_the_link(void)
{
    run_gone(GONE_CLOSES, VARIANTS_PLAIN);
}

static void test_leaving_notice_who_leaves_before_the_link(void)
{
    run_gone(GONE_LEAVES, VARIANTS_PLAIN);
}

/* The child of the dead rank keeps its socket, to which peers would connect for ever. */
static void test_leaving_shm_notices_a_death_before_the_link_though_a_child_lives(void)
{
    if (!hosts_transport_wanted("shm"))
        return; /* the ranks may be on two hosts */
    for (int number = 0; number < 4; number++) {
        struct links_world *world = links_world_new("shm", 2, 1);
        world->number = number | GONE_LEAVES_A_CHILD;
        links_run(world, gone_unconnected);
    }
}

/* ---- cancel, disconnect, late peers -----------------------------------------------------------
 */

static void cancel(struct links_rank *rank)
{
    static _Thread_local uint8_t data[100000];
    struct xfer xfers[20];
    links_connect_all(rank);
    for (int i = 0; i < 20; i++) {
        xfers[i] = links_xfer(1 - rank->rank, data, i % 4 < 2 ? 8 : sizeof data);
        if (i % 2 && rank->rank == 0)
            rank->ops->send(rank->transport, &xfers[i]);
        else
            rank->ops->recv(rank->transport, &xfers[i]);
    }
    for (int i = 0; i < 50; i++)
        rank->ops->poll(rank->transport);
    rank->ops->cancel(rank->transport, false);
    memset(xfers, 0xee, sizeof xfers); /* nothing may look at them any more */
    for (int i = 0; i < 200; i++) {
        links_expect(rank, rank->ops->poll(rank->transport) == NULL);
        sched_yield();
    }
    links_meet(rank, 1, 2);
}

static void test_leaving_forget_on_cancel(void)
{
    variants_run(cancel, 2, 1, VARIANTS_ALL, 0);
}

/* Rank 1 comes late, to links and messages that wait for it. */
static void late_peer(struct links_rank *rank)
{
    static _Thread_local uint8_t out[70000], in[70000];
    variants_fill(out, sizeof out, rank->rank);
    if (rank->rank == (uint32_t)rank->world->number)
        clock_sleep_us(150000);
    links_connect_all(rank);
    links_connect_all(rank);
    struct xfer send = links_xfer(1 - rank->rank, out, sizeof out);
    struct xfer recv = links_xfer(1 - rank->rank, in, sizeof in);
    rank->ops->send(rank->transport, &send);
    rank->ops->recv(rank->transport, &recv);
    links_expect(rank, links_finish(rank, &recv, 5000) == TUTTI_OK);
    links_expect(rank, links_finish(rank, &send, 5000) == TUTTI_OK);
    links_expect(rank, variants_wrong(in, sizeof in, 1 - rank->rank) == 0);
    links_meet(rank, 1, 2);
}

static void test_leaving_wait_for_a_late_peer(void)
{
    variants_run(late_peer, 2, 4, VARIANTS_PLAIN, 0);
    variants_run(late_peer, 2, 4, VARIANTS_PLAIN, 1);
}

static void disconnects(struct links_rank *rank)
{
    uint32_t word = 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4), pending = xfer;
    links_expect(rank,
                 (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) == TUTTI_OK);
    rank->ops->recv(rank->transport, &pending);
    links_meet(rank, 1, 2);
    if (rank->rank == 0) {
        rank->ops->disconnect(rank->transport, 1);
        memset(&pending, 0xee, sizeof pending);
        for (int i = 0; i < 50; i++)
            links_expect(rank, rank->ops->poll(rank->transport) == NULL);
    } else {
        struct transport_event event;
        links_expect(rank, links_finish(rank, &pending, 2000) == TUTTI_ERR_PEER);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 2000, &event));
    }
    links_meet(rank, 2, 2);
}

static void test_leaving_disconnect_one_peer(void)
{
    variants_run(disconnects, 2, 2, VARIANTS_PLAIN, 0);
}

/* ---- nothing is left behind -------------------------------------------------------------------
 */

static unsigned count_entries(const char *directory)
{
    unsigned count = 0;
    DIR *d = opendir(directory);
    while (d && readdir(d))
        count++;
    if (d)
        closedir(d);
    return count;
}

static void test_leaving_leaks_no_descriptors(void)
{
    /* The first run opens what a process keeps. */
    variants_run(leave_early, 3, 2, VARIANTS_THREADS, 0);
    unsigned before = count_entries("/proc/self/fd");
    variants_run(leave_early, 3, 2, VARIANTS_THREADS, 0);
    variants_run(late_peer, 2, 3, VARIANTS_THREADS | VARIANTS_PLAIN, 1);
    CU_ASSERT_EQUAL(count_entries("/proc/self/fd"), before);
}

static void test_leaving_leaves_no_files(void)
{
    unsigned before = count_entries("/dev/shm");
    variants_run(die, 2, 2, VARIANTS_PROCESSES | VARIANTS_PLAIN, 0);
    CU_ASSERT_EQUAL(count_entries("/dev/shm"), before);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(leaving_receive_what_was_sent_before_leaving),
        TEST(leaving_have_sent_what_was_taken_before_leaving),
        TEST(leaving_say_why_over_a_link_not_yet_made),
        TEST(leaving_last_takes_no_time),
        TEST(leaving_report_who_left_too_soon),
        TEST(leaving_do_not_report_who_was_done),
        TEST(leaving_notice_a_death),
        TEST(leaving_notice_a_death_in_the_middle_of_a_message),
        TEST(leaving_notice_an_idle_death),
        TEST(leaving_notice_a_death_before_the_link),
        TEST(leaving_notice_a_close_before_the_link),
        TEST(leaving_shm_notices_a_death_before_the_link_though_a_child_lives),
        TEST(leaving_notice_who_leaves_before_the_link),
        TEST(leaving_forget_on_cancel),
        TEST(leaving_wait_for_a_late_peer),
        TEST(leaving_disconnect_one_peer),
        TEST(leaving_leaks_no_descriptors),
        TEST(leaving_leaves_no_files),
        TEST(leaving_receive_what_was_lost_at_first), /* the last: only where there is a wire */
    };
    return suite_run("leaving", tests, sizeof tests / sizeof *tests - !hosts_can_cut(), argc, argv);
}
