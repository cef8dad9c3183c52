/* test_resend.c: what a failed path carried goes over another one, once and in order, or over the
 * socket; over stand-ins for queue pairs (verbs_rig.h). */
#include <string.h>

#include "tests/verbs_rig.h"

/* ---- losing a path
 * -------------------------------------------------------------------------------
 */

static void fails(struct verbs_path *path)
{
    path->state = VERBS_PATH_RESENDING;
    path->failure = ++path->link->failures;
    path->qp = NULL;
}

/* Path 1 is the lane's home, and is lost with all that it was given; path 2 is up. */
static struct verbs_rig *lose_home(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_link *link = rig->link;
    verbs_rig_up(&link->paths[1]);
    verbs_rig_up(&link->paths[2]);
    link->home[0] = 1;
    for (uint16_t seq = 0; seq < MESSAGES; seq++) {
        struct wire_header header = {.kind = WIRE_EAGER, .seq = seq};
        path_message(&link->paths[1], &header, NULL, 0);
        path_flush(&link->paths[1]);
    }
    CU_ASSERT_EQUAL(rig->post_count, MESSAGES);
    rig->post_count = 0;
    fails(&link->paths[1]);
    return rig;
}

/* Every message once, in order, and over one path, which is the lane's home then. */
static void check_posts(const struct verbs_rig *rig, uint32_t from, uint32_t path)
{
    CU_ASSERT_EQUAL(rig->post_count - from, MESSAGES);
    for (uint32_t i = from; i < rig->post_count; i++) {
        CU_ASSERT_EQUAL(rig->posts[i].seq, i - from);
        CU_ASSERT_EQUAL(rig->posts[i].path, path);
    }
    CU_ASSERT_EQUAL(rig->link->home[0], path);
}

static void test_resend_takes_one_path_though_another_comes_up(void)
{
    struct verbs_rig *rig = lose_home();
    link_resend(rig->link);
    CU_ASSERT_TRUE(rig->post_count > 0 &&
                   rig->post_count < MESSAGES); /* there is no room for all at once */
    verbs_rig_up(&rig->link->paths[0]);
    link_resend(rig->link);
    check_posts(rig, 0, 2);
    verbs_rig_free(rig);
}

static void test_resend_begins_with_what_was_lost_last(void)
{
    struct verbs_rig *rig = lose_home();
    link_resend(rig->link);
    uint32_t first = rig->post_count;
    CU_ASSERT_TRUE(first > 0 && first < MESSAGES);
    fails(&rig->link->paths[2]);
    verbs_rig_up(&rig->link->paths[0]);
    for (int i = 0; i < 4; i++)
        link_resend(rig->link);
    check_posts(rig, first, 0);
    verbs_rig_free(rig);
}

static void test_resend_is_not_over_while_its_heir_fails(void)
{
    struct verbs_rig *rig = lose_home();
    struct verbs_path *heir = &rig->link->paths[2];
    link_resend(rig->link);
    uint32_t first = rig->post_count;
    CU_ASSERT_TRUE(first > 0 && first < MESSAGES);
    verbs_rig_up(&rig->link->paths[0]);
    rig->broken = 2;
    link_resend(rig->link);
    CU_ASSERT_EQUAL(heir->state, VERBS_PATH_DRAINED);
    CU_ASSERT_EQUAL(rig->link->home[0], 1); /* nothing new overtakes what the heir has lost */
    fails(heir);
    for (int i = 0; i < 4; i++)
        link_resend(rig->link);
    check_posts(rig, first, 0);
    verbs_rig_free(rig);
}

/* Nothing else may tell the peer, whose messages wait for that. */
static void test_resend_tells_again_what_was_taken(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_link *link = rig->link;
    verbs_rig_up(&link->paths[1]);
    verbs_rig_up(&link->paths[2]);
    link->home[0] = 1;
    link->flows[0].taken.freed = 9;
    path_credit(&link->paths[1], false);
    path_flush(&link->paths[1]);
    CU_ASSERT_TRUE(rig->told == 9 && rig->told_path == 1);
    rig->told = 0;
    fails(&link->paths[1]);
    link_resend(link);
    CU_ASSERT_TRUE(rig->told == 9 && rig->told_path == 2);
    verbs_rig_free(rig);
}

/* What was lost waits for the next path that comes up, and nothing else may be there to send. */
static void test_resend_follows_when_a_path_comes_up(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    verbs_rig_up(&rig->link->paths[1]);
    rig->link->work = false;
    fails(&rig->link->paths[1]);
    verbs_rig_up(&rig->link->paths[0]);
    CU_ASSERT_TRUE(rig->link->work);
    verbs_rig_free(rig);
}

/* All that path 1 was given is acknowledged; then the peer says how much of it came in. */
static enum verbs_link_state end_with_count(uint32_t taken)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_link *link = rig->link;
    rig->library.ibv.destroy_qp = verbs_rig_destroy_nothing;
    verbs_rig_up(&link->paths[1]);
    verbs_rig_up(&link->paths[2]);
    for (uint16_t seq = 0; seq < MESSAGES; seq++) {
        struct wire_header header = {.kind = WIRE_EAGER, .seq = seq};
        path_message(&link->paths[1], &header, NULL, 0);
        path_flush(&link->paths[1]);
        path_pop(&link->paths[1], true);
    }
    const struct wire_control dead = {.kind = WIRE_DEAD, .path = 1, .received = taken};
    link_take(link, &dead);
    enum verbs_link_state state = link->state;
    if (state == VERBS_LINK_ENDED)
        CU_ASSERT_PTR_NOT_NULL(strstr(link->sentence, "acknowledged 2 messages"));
    verbs_rig_free(rig);
    return state;
}

/* A device that vanished with what it had acknowledged: nobody has it any more. */
static void test_resend_ends_a_link_whose_messages_are_lost(void)
{
    CU_ASSERT_EQUAL(end_with_count(MESSAGES), VERBS_LINK_UP);
    CU_ASSERT_EQUAL(end_with_count(MESSAGES - 2), VERBS_LINK_ENDED);
}

/* ---- over the socket --------------------------------------------------------------------------
 */

static struct xfer *coming, *came; /* a body that was asked for; one that the next poll returns */
static int cuts;

static tutti_status await(struct transport *side, struct xfer *xfer)
{
    (void)side;
    coming = xfer;
    return TUTTI_IN_PROGRESS;
}

static struct xfer *give_one(struct transport *side)
{
    struct xfer *one = came;
    (void)side;
    came = NULL;
    return one;
}

static void cut(struct transport *side, uint32_t peer)
{
    (void)side;
    cuts += peer == 1;
}

/* The bytes of a chunk that is still on the socket are for memory that is the caller's again. */
static void test_relay_lets_go_of_memory_when_its_link_ends(void)
{
    static const struct transport_ops socket = {
        .event = verbs_rig_no_event, .poll = give_one, .recv = await, .disconnect = cut};
    static char data[4 * SLOT_LEN], after[sizeof data];
    static const struct tag tag;
    struct transport side = {.ops = &socket};
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_link *link = rig->link, *links[] = {NULL, link};
    struct xfer xfer = {.data = data, .len = sizeof data, .peer = 1, .tag = &tag};
    rig->verbs.side = &side;
    rig->verbs.links = links;
    rig->verbs.done_tail = &rig->verbs.done;
    link->slot_len = SLOT_LEN;
    link->window = link->peer_window = 8;
    rig->library.ibv.destroy_qp = verbs_rig_destroy_nothing;
    CU_ASSERT_EQUAL_FATAL(relay_open(link), TUTTI_OK);
    flow_recv(&link->flows[0], &xfer);
    flow_did_grant(&link->flows[0]);
    const struct wire_control chunk = {.kind = WIRE_DATA,
                                       .message = {.kind = WIRE_WRITTEN, .len = wire_word(0, 0, 0)},
                                       .body_len = sizeof data};
    coming = came = NULL;
    cuts = 0;
    link_take(link, &chunk);
    CU_ASSERT_TRUE_FATAL(coming && coming->data == data && link->awaits_body);
    link_end(link, TUTTI_ERR_PROTOCOL, "of the test");
    CU_ASSERT_EQUAL(cuts, 1);
    CU_ASSERT_PTR_EQUAL(rig->verbs.done, &xfer);
    /* It may have come in just before. */
    struct xfer ended = xfer;
    coming->status = TUTTI_OK;
    came = coming;
    control_poll(&rig->verbs);
    CU_ASSERT_EQUAL(memcmp(&xfer, &ended, sizeof xfer), 0);
    CU_ASSERT_EQUAL(memcmp(data, after, sizeof data), 0);
    relay_close(link);
    verbs_rig_free(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(resend_takes_one_path_though_another_comes_up),
        TEST(resend_begins_with_what_was_lost_last),
        TEST(resend_is_not_over_while_its_heir_fails),
        TEST(resend_tells_again_what_was_taken),
        TEST(resend_follows_when_a_path_comes_up),
        TEST(resend_ends_a_link_whose_messages_are_lost),
        TEST(relay_lets_go_of_memory_when_its_link_ends),
    };
    return suite_run("resend", tests, sizeof tests / sizeof *tests, argc, argv);
}
