/* test_links.c: what tests of transports rest upon (links.h), over a transport that is made up:
 * what a rank says when something is wrong. */
#include <sys/mman.h>

#include "tests/links.h"

enum { LIMIT_MS = 100 };

static bool told, down; /* the notice; that the link is down */

static struct xfer *look(struct transport *transport)
{
    (void)transport;
    return NULL;
}

static bool tell(struct transport *transport, bool restart, struct transport_event *event)
{
    (void)transport;
    (void)restart;
    if (told)
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

/* A rank that is told that a link is down, and then a notice. */
static struct links_rank begin(void)
{
    told = down = false;
    return (struct links_rank){
        .world = links_world_new("inproc", 1, 1), .transport = &made_up, .ops = &ops};
}

static void end(struct links_rank *rank)
{
    munmap(rank->world, sizeof *rank->world);
}

/* What it looks at to say why is still there for the test. */
static void test_links_complaints_take_no_event(void)
{
    struct transport_event event;
    struct links_rank rank = begin();
    links_complain(&rank, __FILE__, __LINE__, "as it should be");
    CU_ASSERT_TRUE(links_event(&rank, TRANSPORT_EVENT_NOTICE, LIMIT_MS, &event));
    CU_ASSERT_TRUE(links_event(&rank, TRANSPORT_EVENT_LINK_DOWN, LIMIT_MS, &event));
    CU_ASSERT_FALSE(links_event(&rank, TRANSPORT_EVENT_LINK_DOWN, 1, &event));
    end(&rank);
}

static void test_links_complain_once(void)
{
    struct links_rank rank = begin();
    for (int i = 0; i < 3; i++)
        links_complain(&rank, __FILE__, __LINE__, "as it should be, once");
    CU_ASSERT_EQUAL(rank.world->complaints, 1);
    CU_ASSERT_EQUAL(rank.world->wrong, 3);
    end(&rank);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(links_complaints_take_no_event),
        TEST(links_complain_once),
    };
    return suite_run("links", tests, sizeof tests / sizeof *tests, argc, argv);
}
