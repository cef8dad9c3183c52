/* test_shm_ends.c: how links inside one host end: ranks that leave, cancel or die, what was under
 * way then, and what the peer is told. Each test runs one function as every rank of a small world.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/links.h"
#include "transports/transport.h"

/* ---- leaving ---- */

/* Makes the link and lets rank 1 speak first: rank 0 then knows that rank 1 has the link too, and
 * whether it can read rank 0's memory. Until then what rank 0 sends goes through the ring, all of
 * it at once where rank 1 empties the ring meanwhile. */
static void connect_both(struct links_rank *rank)
{
    uint32_t word = 1;
    links_connect_all(rank);
    struct xfer hello = links_xfer(1 - rank->rank, &word, sizeof word);
    links_expect(rank, (rank->rank == 0 ? links_recv(rank, &hello) : links_send(rank, &hello)) ==
                           TUTTI_OK);
}

/* Rank 0 sends and closes; rank 1 looks only afterwards. */
static void leave(struct links_rank *rank)
{
    const struct transport_ops *ops = rank->ops;
    static _Thread_local uint8_t bytes[600];
    connect_both(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, bytes, sizeof bytes);
    struct transport_event event;
    if (rank->rank == 0) {
        memset(bytes, 3, sizeof bytes);
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        ops->close(rank->transport);
        rank->transport = NULL;
        links_meet(rank, 1, 2);
    } else {
        links_meet(rank, 1, 2);
        links_expect(rank, !links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 50, &event));
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && bytes[599] == 3);
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_PEER);
        links_expect(rank, strstr(status_sentence(), "rank 0 has left") != NULL);
        /* whoever still waits for it wants to know why; once */
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, LINKS_LIMIT_MS, &event));
        links_expect(rank, strstr(event.sentence, "rank 0 has left") != NULL);
        links_expect(rank, ops->send(rank->transport, &xfer) == TUTTI_ERR_PEER);
        links_expect(rank, !links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 1, &event));
    }
}

static void test_inproc_receives_what_was_sent_before_leaving(void)
{
    links_run(links_world_new("inproc", 2, 1), leave);
}

static void test_shm_receives_what_was_sent_before_leaving(void)
{
    links_run(links_world_new("shm", 2, 1), leave);
}

/* Rank 0 offers a long message and closes while rank 1 may be reading it. */
static void leave_early(struct links_rank *rank)
{
    const struct transport_ops *ops = rank->ops;
    size_t len = 8u << 20;
    uint8_t *bytes = calloc(1, len);
    connect_both(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, bytes, len);
    struct transport_event event;
    tutti_status status;
    if (rank->rank == 0) {
        status = ops->send(rank->transport, &xfer);
        links_meet(rank, 1, 2);
        clock_sleep_us(200);
        ops->close(rank->transport);
        rank->transport = NULL;
        memset(bytes, 255, len);
    } else {
        status = ops->recv(rank->transport, &xfer);
        links_meet(rank, 1, 2);
        while (xfer.status == TUTTI_IN_PROGRESS)
            links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 1, &event);
        uint8_t any = 0;
        for (size_t i = 0; i < len; i++)
            any |= bytes[i];
        links_expect(rank, xfer.status == TUTTI_ERR_PEER || any == 0);
    }
    /* where no rank may read another's memory the ring may have carried it all */
    links_expect(rank, status == TUTTI_IN_PROGRESS || status == TUTTI_OK);
    free(bytes);
}

static void test_inproc_withdraws_an_offer(void)
{
    for (int i = 0; i < 5; i++)
        links_run(links_world_new("inproc", 2, 1), leave_early);
}

static void test_shm_withdraws_an_offer(void)
{
    for (int i = 0; i < 5; i++)
        links_run(links_world_new("shm", 2, 1), leave_early);
}

static void cancelled(struct links_rank *rank)
{
    const struct transport_ops *ops = rank->ops;
    uint8_t *bytes = calloc(1, 1000000);
    struct xfer out = links_xfer(1 - rank->rank, bytes, 500000);
    struct xfer in = links_xfer(1 - rank->rank, bytes + 500000, 500000);
    connect_both(rank);
    if (rank->rank == 0) {
        links_expect(rank, ops->send(rank->transport, &out) == TUTTI_IN_PROGRESS);
        links_expect(rank, ops->recv(rank->transport, &in) == TUTTI_IN_PROGRESS);
        ops->cancel(rank->transport, false);
        free(bytes);
        bytes = NULL;
        links_expect(rank, ops->poll(rank->transport) == NULL);
        links_expect(rank, ops->send(rank->transport, &out) == TUTTI_ERR_ABORTED);
        links_meet(rank, 1, 2);
    } else {
        links_meet(rank, 1, 2);
        tutti_status status = ops->recv(rank->transport, &in);
        if (status == TUTTI_IN_PROGRESS)
            status = links_finish(rank, &in, 300);
        links_expect(rank, status != TUTTI_OK);
    }
    links_meet(rank, 2, 2);
    free(bytes);
}

static void test_inproc_cancels(void)
{
    links_run(links_world_new("inproc", 2, 1), cancelled);
}

static void test_shm_cancels(void)
{
    links_run(links_world_new("shm", 2, 1), cancelled);
}

/* ---- dying ---- */

/* Rank 1 dies with one message sent; rank 0 gets the message, then the news. A child of rank 1
 * lives until then. */
static void dying(struct links_rank *rank, bool with_child)
{
    const struct transport_ops *ops = rank->ops;
    uint32_t word = 4, answer = 0, later = 0;
    links_connect_all(rank);
    struct xfer ping = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 1) {
        links_expect(rank, links_recv(rank, &ping) == TUTTI_OK);
        links_expect(rank, links_send(rank, &ping) == TUTTI_OK);
        pid_t child = with_child ? fork() : -1;
        if (child == 0) {
            ops->close(rank->transport); /* must not touch the parent's links */
            for (int i = 0; i < 300 && atomic_load(&rank->world->arrived[2]) == 0; i++)
                clock_sleep_us(100000);
            _exit(0);
        }
        links_meet(rank, 1, 2);
        raise(SIGKILL);
    }
    links_expect(rank, links_send(rank, &ping) == TUTTI_OK);
    links_meet(rank, 1, 2);
    struct xfer arrived = links_xfer(1, &answer, 4), missing = links_xfer(1, &later, 4);
    struct transport_event event;
    links_expect(rank, links_recv(rank, &arrived) == TUTTI_OK && answer == 4);
    /* the death may have been noticed while the message was waited for */
    tutti_status status = ops->recv(rank->transport, &missing);
    links_expect(rank, status == TUTTI_IN_PROGRESS || status == TUTTI_ERR_PEER);
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 20000, &event));
    links_expect(rank, event.peer == 1 && event.status == TUTTI_ERR_PEER);
    links_expect(rank, strstr(event.sentence, "rank 1 has died") != NULL);
    if (status == TUTTI_IN_PROGRESS)
        status = links_finish(rank, &missing, LINKS_LIMIT_MS);
    links_expect(rank, status == TUTTI_ERR_PEER);
    links_meet(rank, 2, 1);
}

static void dying_alone(struct links_rank *rank)
{
    dying(rank, false);
}

static void dying_with_child(struct links_rank *rank)
{
    dying(rank, true);
}

static void test_shm_notices_a_death(void)
{
    links_run(links_world_new("shm", 2, 1), dying_alone);
}

static void test_shm_notices_a_death_though_a_child_lives(void)
{
    links_run(links_world_new("shm", 2, 1), dying_with_child);
}

int main(int argc, char **argv)
{
#define T(name)                                                                                    \
    {                                                                                              \
#name, name                                                                                \
    }
    static const struct suite_test list[] = {
        T(test_inproc_receives_what_was_sent_before_leaving),
        T(test_shm_receives_what_was_sent_before_leaving),
        T(test_inproc_withdraws_an_offer),
        T(test_shm_withdraws_an_offer),
        T(test_inproc_cancels),
        T(test_shm_cancels),
        T(test_shm_notices_a_death),
        T(test_shm_notices_a_death_though_a_child_lives),
    };
    return suite_run("shm_ends", list, sizeof list / sizeof *list, argc, argv);
}
