/* test_links.c: what tests of transports rest upon (links.h), over a transport that is made up: how
 * long a rank waits, and what it says when something is wrong. */
#include <sys/mman.h>

#include "base/clock.h"
#include "tests/links.h"

enum { LOOK_MS = 10, LIMIT_MS = 100, LOOKS = 20 }; /* twice the limit */

static int looks;   /* before the notice comes */
static bool sleeps; /* what a look does for LOOK_MS; else it is the machine that takes so long */
static bool told, down; /* the notice; that the link is down */

static struct xfer *look(struct transport *transport)
{
    (void)transport;
    looks--;
    if (sleeps)
        clock_sleep_us(LOOK_MS * 1000);
    for (uint64_t end = clock_ms() + LOOK_MS; !sleeps && clock_ms() < end;) {
    }
    return NULL;
}

static bool tell(struct transport *transport, bool restart, struct transport_event *event)
{
    (void)transport;
    (void)restart;
    if (looks > 0 || told)
        return false;
    told = down;
    *event =
        (struct transport_event){.kind = down ? TRANSPORT_EVENT_NOTICE : TRANSPORT_EVENT_LINK_DOWN};
    down = true;
    return true;
}

static void measure(const struct transport *transport, struct transport_stats *stats)
{
    (void)transport;
    *stats = (struct transport_stats){0};
}

static const struct transport_ops ops = {.poll = look, .event = tell, .stats = measure};
static struct transport made_up = {.ops = &ops};

/* A rank that is told that a link is down, and then a notice, after so many looks. */
static struct links_rank begin(int looks_before)
{
    looks = looks_before;
    sleeps = told = down = false;
    return (struct links_rank){
        .world = links_world_new("inproc", 1, 1), .transport = &made_up, .ops = &ops};
}

static void end(struct links_rank *rank)
{
    munmap(rank->world, sizeof *rank->world);
}

static void test_links_wait_for_a_rank_that_is_kept_from_looking(void)
{
    struct transport_event event;
    struct links_rank rank = begin(LOOKS);
    CU_ASSERT_TRUE(links_event(&rank, TRANSPORT_EVENT_NOTICE, LIMIT_MS, &event));
    end(&rank);
}

static void test_links_wait_no_longer_for_a_transport_that_sleeps(void)
{
    struct transport_event event;
    struct links_rank rank = begin(LOOKS);
    sleeps = true;
    CU_ASSERT_FALSE(links_event(&rank, TRANSPORT_EVENT_NOTICE, LIMIT_MS, &event));
    end(&rank);
}

/* What it looks at to say why is still there for the test. */
static void test_links_complaints_take_no_event(void)
{
    struct transport_event event;
    struct links_rank rank = begin(0);
    links_complain(&rank, __FILE__, __LINE__, "as it should be");
    CU_ASSERT_TRUE(links_event(&rank, TRANSPORT_EVENT_NOTICE, LIMIT_MS, &event));
    CU_ASSERT_TRUE(links_event(&rank, TRANSPORT_EVENT_LINK_DOWN, LIMIT_MS, &event));
    CU_ASSERT_FALSE(links_event(&rank, TRANSPORT_EVENT_LINK_DOWN, 1, &event));
    end(&rank);
}

static void test_links_complain_once(void)
{
    struct links_rank rank = begin(LOOKS);
    for (int i = 0; i < 3; i++)
        links_complain(&rank, __FILE__, __LINE__, "as it should be, once");
    CU_ASSERT_EQUAL(rank.world->complaints, 1);
    CU_ASSERT_EQUAL(rank.world->wrong, 3);
    end(&rank);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(links_wait_for_a_rank_that_is_kept_from_looking),
        TEST(links_wait_no_longer_for_a_transport_that_sleeps),
        TEST(links_complaints_take_no_event),
        TEST(links_complain_once),
    };
    return suite_run("links", tests, sizeof tests / sizeof *tests, argc, argv);
}
