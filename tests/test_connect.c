/* test_connect.c: with which attributes queue pairs are connected, by themselves and by the
 * connection manager, over stand-ins for both (verbs_rig.h). */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/verbs_rig.h"

static struct ibv_qp_attr moved[IBV_QPS_ERR + 1]; /* by the state that was asked for */
static struct rdma_conn_param asked;

static int note_move(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    (void)qp, (void)mask;
    moved[attr->qp_state] = *attr;
    return 0;
}

static int note_dial(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
    (void)id;
    asked = *param;
    return 0;
}

static int take_receive(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    (void)qp, (void)wr, (void)bad;
    return 0;
}

/* The manager has nothing to say about a queue pair. */
static int know_nothing(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
    (void)id, (void)attr;
    *mask = IBV_QP_STATE;
    return 0;
}

static struct rdma_cm_event *next_event;

static int tell_once(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
    (void)channel;
    *event = next_event;
    next_event = NULL;
    return *event ? 0 : -1;
}

static int take_word(struct rdma_cm_event *event)
{
    (void)event;
    return 0;
}

/* The rig's first path is about to be connected, from a link-local address. */
static struct verbs_rig *make_connecting_rig(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    rig->verbs.wake = -1;
    rig->verbs.ports.rails[0] = (struct choose_rail){
        .layer = CHOOSE_LAYER_ETHERNET, .mtu = 5, .gids = {{.raw = {0xfe, 0x80}}}};
    rig->library.ibv.modify_qp = note_move;
    rig->library.rdma.init_qp_attr = know_nothing;
    rig->library.rdma.connect = note_dial;
    rig->library.rdma.get_cm_event = tell_once;
    rig->library.rdma.ack_cm_event = take_word;
    rig->device.ops.post_recv = take_receive;
    rig->link->paths[0].state = VERBS_PATH_MAKING;
    memset(moved, 0, sizeof moved);
    return rig;
}

/* What the manager says of the path's connection. */
static void say(struct verbs_path *path, struct rdma_cm_id *id, enum rdma_cm_event_type type)
{
    struct rdma_cm_event event = {.event = type, .id = id};
    id->context = path;
    path->id = id;
    next_event = &event;
    connect_events(path->link->verbs);
}

/* Its device may have to page in what is written, for as long as that takes: it says "not ready"
 * meanwhile, which is no failure. */
static void test_connect_waits_for_a_receiver_that_is_not_ready(void)
{
    enum { FOR_EVER = 7 };
    struct verbs_rig *rig = make_connecting_rig();
    struct verbs_path *path = &rig->link->paths[0];
    struct wire_path peer = {.mtu = 5, .qpn = 1};
    struct rdma_cm_id id = {0};
    CU_ASSERT_EQUAL_FATAL(path_connect(path, &peer), TUTTI_OK);
    CU_ASSERT_EQUAL(errand_end(path, true), TUTTI_OK);
    CU_ASSERT_EQUAL(moved[IBV_QPS_RTS].rnr_retry, FOR_EVER);
    say(path, &id, RDMA_CM_EVENT_ROUTE_RESOLVED);
    CU_ASSERT_PTR_NOT_NULL_FATAL(path->errand);
    CU_ASSERT_EQUAL(errand_end(path, true), TUTTI_OK);
    CU_ASSERT_EQUAL(asked.rnr_retry_count, FOR_EVER);
    verbs_rig_free(rig);
}

/* Ports of InfiniBand need no global header, but virtual ones, on either side, do. */
static void test_connect_gives_packets_the_header_that_either_end_needs(void)
{
    struct verbs_rig *rig = make_connecting_rig();
    struct verbs_path *path = &rig->link->paths[0];
    struct choose_rail *own = &rig->verbs.ports.rails[0];
    static const struct {
        enum choose_layer layer;
        bool own, peer, expected;
    } cases[] = {{CHOOSE_LAYER_ETHERNET, false, false, true},
                 {CHOOSE_LAYER_IB, false, false, false},
                 {CHOOSE_LAYER_IB, true, false, true},
                 {CHOOSE_LAYER_IB, false, true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wire_path peer = {.mtu = 5, .global = cases[i].peer}, offer;
        own->layer = cases[i].layer;
        own->global = cases[i].own;
        path_describe(path, &offer);
        CU_ASSERT_EQUAL(offer.global, cases[i].own);
        CU_ASSERT_EQUAL_FATAL(path_connect(path, &peer), TUTTI_OK);
        CU_ASSERT_EQUAL(errand_end(path, true), TUTTI_OK);
        CU_ASSERT_EQUAL(moved[IBV_QPS_RTR].ah_attr.is_global, cases[i].expected);
    }
    verbs_rig_free(rig);
}

/* ---- a rail that is silent --------------------------------------------------------------------
 */

static uint32_t made;

static struct ibv_qp *make_nothing(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
    (void)pd, (void)init;
    made++;
    return NULL;
}

static int forget_id(struct rdma_cm_id *id)
{
    (void)id;
    return 0;
}

static const char *some_event(enum rdma_cm_event_type type)
{
    (void)type;
    return "event";
}

/* The rig's first path, which the manager connects, can be given up and made again. */
static struct verbs_path *dial(struct verbs_rig *rig, struct rdma_cm_id *id)
{
    struct verbs_path *path = &rig->link->paths[0];
    rig->library.rdma.destroy_id = forget_id;
    rig->library.rdma.event_str = some_event;
    rig->library.ibv.create_qp = make_nothing;
    rig->library.ibv.destroy_qp = verbs_rig_destroy_nothing;
    rig->verbs.cm = true;
    path->rail->cq_len = path->rail->max_cqe = 4096;
    path->id = id;
    made = 0;
    return path;
}

static void end_dial(struct verbs_rig *rig)
{
    if (rig->link->paths[0].errand)
        errand_end(&rig->link->paths[0], true);
    free(rig->verbs.paths);
    verbs_rig_free(rig);
}

/* Whom the kernel has asked for more than a minute is not asked five times more. */
static void test_connect_asks_who_is_silent_once(void)
{
    struct verbs_rig *rig = make_connecting_rig();
    struct rdma_cm_id id = {0};
    struct verbs_path *path = dial(rig, &id);
    say(path, &id, RDMA_CM_EVENT_UNREACHABLE);
    CU_ASSERT_EQUAL(made, 0);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_NONE);
    end_dial(rig);
}

/* Nor is it waited for that long, by a link that has another path. */
static void check_wait(bool other)
{
    static const struct transport_ops nothing = {.event = verbs_rig_no_event,
                                                 .poll = verbs_rig_no_xfer};
    struct transport side = {.ops = &nothing};
    struct verbs_rig *rig = make_connecting_rig();
    struct rdma_cm_id id = {0};
    struct verbs_path *path = dial(rig, &id);
    verbs_rig_beside(rig, &side);
    if (other)
        verbs_rig_up(&rig->link->paths[2]);
    path->since_ms = clock_ms() - 4500;
    link_service(&rig->verbs);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_MAKING);
    path->since_ms -= 1000;
    link_service(&rig->verbs);
    CU_ASSERT_EQUAL(path->state, other ? VERBS_PATH_NONE : VERBS_PATH_MAKING);
    end_dial(rig);
}

static void test_connect_holds_no_link_that_has_another_path(void)
{
    check_wait(true);
    check_wait(false);
}

/* ---- what the user sets -------------------------------------------------------------------------
 */

static int know_a_way(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
    (void)id;
    attr->ah_attr = (struct ibv_ah_attr){.sl = 3, .grh.traffic_class = 96};
    *mask = IBV_QP_STATE | IBV_QP_AV;
    return 0;
}

static int tell_peer(struct rdma_cm_id *id)
{
    (void)id;
    return 0;
}

/* What is not set the manager's own defaults decide. */
static void check_way(uint64_t level, uint64_t class, uint8_t sl, uint8_t traffic_class)
{
    struct verbs_rig *rig = make_connecting_rig();
    struct verbs_path *path = &rig->link->paths[0];
    struct rdma_cm_id id = {0};
    rig->settings.verbs_service_level = level;
    rig->settings.verbs_traffic_class = class;
    rig->library.rdma.init_qp_attr = know_a_way;
    rig->library.rdma.establish = tell_peer;
    say(path, &id, RDMA_CM_EVENT_CONNECT_RESPONSE);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_TRYING);
    CU_ASSERT_EQUAL(moved[IBV_QPS_RTR].ah_attr.sl, sl);
    CU_ASSERT_EQUAL(moved[IBV_QPS_RTR].ah_attr.grh.traffic_class, traffic_class);
    verbs_rig_free(rig);
}

static void test_connect_sends_in_the_class_that_is_set(void)
{
    check_way(5, 104, 5, 104);
    check_way(0, 0, 3, 96);
}

static void test_connect_refuses_what_the_manager_cannot_dial(void)
{
    struct verbs_rig *rig = make_connecting_rig();
    rig->verbs.layer = CHOOSE_LAYER_IB;
    CU_ASSERT_EQUAL(connect_open(&rig->verbs), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_VERBS_CONNECT=bootstrap"));
    verbs_rig_free(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(connect_waits_for_a_receiver_that_is_not_ready),
        TEST(connect_asks_who_is_silent_once),
        TEST(connect_holds_no_link_that_has_another_path),
        TEST(connect_sends_in_the_class_that_is_set),
        TEST(connect_refuses_what_the_manager_cannot_dial),
        TEST(connect_gives_packets_the_header_that_either_end_needs),
    };
    return suite_run("connect", tests, sizeof tests / sizeof *tests, argc, argv);
}
