/* test_paths.c: the paths of a link, over stand-ins for queue pairs (verbs_rig.h): how they are
 * made, proven, left and given up. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/seal.h"
#include "base/settings.h"
#include "tests/verbs_rig.h"

/* ---- the library ------------------------------------------------------------------------------
 */

/* What devices use stays the parent's, whatever it writes to after a fork. */
static void test_paths_keep_their_memory_from_children(void)
{
    void *handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    __typeof__(ibv_is_fork_initialized) *is_safe = NULL;
    if (handle)
        *(void **)&is_safe = dlsym(handle, "ibv_is_fork_initialized");
    if (!is_safe || !library_get()->have_ibv) {
        suite_skip("wants a libibverbs that says whether forks are safe");
        return;
    }
    CU_ASSERT_NOT_EQUAL(is_safe(), IBV_FORK_DISABLED);
}

/* ---- ports ------------------------------------------------------------------------------------
 */

static void test_paths_are_made_over_ports_that_have_reliable_connections(void)
{
    static const struct {
        enum ibv_transport_type transport;
        uint8_t link;
        enum choose_layer layer;
    } cases[] = {{IBV_TRANSPORT_IB, IBV_LINK_LAYER_INFINIBAND, CHOOSE_LAYER_IB},
                 {IBV_TRANSPORT_IB, IBV_LINK_LAYER_UNSPECIFIED, CHOOSE_LAYER_IB},
                 {IBV_TRANSPORT_IB, IBV_LINK_LAYER_ETHERNET, CHOOSE_LAYER_ETHERNET},
                 {IBV_TRANSPORT_IWARP, IBV_LINK_LAYER_ETHERNET, CHOOSE_LAYER_IWARP},
                 {IBV_TRANSPORT_UNSPECIFIED, IBV_LINK_LAYER_UNSPECIFIED, CHOOSE_LAYER_NONE},
                 {IBV_TRANSPORT_USNIC_UDP, IBV_LINK_LAYER_ETHERNET, CHOOSE_LAYER_NONE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ibv_device device = {.transport_type = cases[i].transport};
        struct ibv_context context = {.device = &device};
        struct ibv_port_attr port = {.link_layer = cases[i].link};
        CU_ASSERT_EQUAL(scan_layer(&context, &port), cases[i].layer);
    }
}

/* ---- what devices say -------------------------------------------------------------------------
 */

static struct ibv_async_event event;

static int say_once(struct ibv_context *context, struct ibv_async_event *said)
{
    static bool silent;
    (void)context;
    silent = !silent;
    *said = event;
    return silent ? 0 : -1;
}

static void take_word(struct ibv_async_event *said)
{
    (void)said;
}

static const char *some_event(enum ibv_event_type type)
{
    (void)type;
    return "event";
}

static const char *some_device(struct ibv_device *device)
{
    (void)device;
    return "device";
}

/* Of two ports of a device, one's completion queue overruns: nothing can be known of what goes over
 * it any more. */
static void test_paths_end_with_their_completion_queue(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct ibv_cq queues[2];
    rig->library.ibv.get_async_event = say_once;
    rig->library.ibv.ack_async_event = take_word;
    rig->library.ibv.event_type_str = some_event;
    rig->library.ibv.get_device_name = some_device;
    rig->verbs.rail_count = 2;
    rig->verbs.all = rig->link;
    for (uint32_t i = 0; i < 2; i++) {
        rig->verbs.rails[i] = (struct verbs_rail){
            .verbs = &rig->verbs, .index = i, .context = &rig->device, .cq = &queues[i]};
        rig->link->paths[i].rail = &rig->verbs.rails[i];
        verbs_rig_up(&rig->link->paths[i]);
    }
    event = (struct ibv_async_event){.event_type = IBV_EVENT_CQ_ERR, .element.cq = &queues[1]};
    device_events(&rig->verbs);
    CU_ASSERT_TRUE(rig->verbs.rails[1].down && !rig->verbs.rails[0].down);
    CU_ASSERT_TRUE(path_alive(&rig->link->paths[0]));
    CU_ASSERT_FALSE(path_alive(&rig->link->paths[1]));
    verbs_rig_free(rig);
}

/* ---- making one -------------------------------------------------------------------------------
 */

static uint32_t attempts;

/* As rxe does where there is no memory for the queue: the kernel has said what it would give. */
static struct ibv_qp *make_nothing(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
    (void)pd;
    if (init->cap.max_inline_data < 32)
        init->cap.max_inline_data = 32;
    if (++attempts == 100)
        init->cap.max_inline_data = 0; /* whoever believes that has failed already */
    errno = ENOMEM;
    return NULL;
}

static void test_paths_give_up_what_the_device_cannot_make(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = &rig->link->paths[0];
    rig->library.ibv.create_qp = make_nothing;
    path->rail->cq_len = path->rail->max_cqe = 1024;
    path->qp = NULL;
    attempts = 0;
    CU_ASSERT_EQUAL(path_make(path), TUTTI_ERR_NOMEM);
    CU_ASSERT_TRUE(attempts < 20);
    CU_ASSERT_EQUAL(path->rail->cq_used, 0);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_NONE);
    free(rig->verbs.paths);
    verbs_rig_free(rig);
}

/* ---- room -------------------------------------------------------------------------------------
 */

/* Over iWARP only the peer's count makes room, and the peer may be as full: what it waits for must
 * go out whatever else has. */
static void check_room_for_counts(size_t len)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = &rig->link->paths[0];
    static const uint8_t body[SLOT_LEN];
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    path->state = VERBS_PATH_UP;
    path->credit.window = 2 * DEPTH;
    while (path_room(path, sizeof(struct wire_header) + len, VERBS_RESERVE)) {
        struct wire_header header = {.kind = WIRE_EAGER};
        path_message(path, &header, body, len);
        path_flush(path);
        path->completed = path->last; /* the device is quick */
        path->requests = 0;
    }
    for (uint32_t i = 0; i < VERBS_RESERVE; i++) {
        CU_ASSERT_TRUE_FATAL(
            path_room(path, sizeof(struct wire_header) + sizeof(struct wire_credit), 0));
        path_credit(path, false);
        path_flush(path);
    }
    CU_ASSERT_TRUE(path_arrived(path, path->last)); /* and then it goes on */
    CU_ASSERT_TRUE(path_room(path, sizeof(struct wire_header) + len, VERBS_RESERVE));
    verbs_rig_free(rig);
}

static void test_paths_keep_room_for_counts(void)
{
    check_room_for_counts(0);                                     /* no record is left */
    check_room_for_counts(SLOT_LEN - sizeof(struct wire_header)); /* no byte of the ring */
}

/* What the peer has counted the device may still hold: it is not given more than it has places for,
 * and says by itself when they are free. */
static void test_paths_wait_for_the_device_too(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = &rig->link->paths[0];
    uint32_t sent = 0;
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    path->state = VERBS_PATH_UP;
    path->credit.window = CREDIT_WINDOW_MAX;
    for (; sent < 4 * DEPTH && path_room(path, sizeof(struct wire_header), 0); sent++) {
        struct wire_header header = {.kind = WIRE_ASK};
        path_message(path, &header, NULL, 0);
        path_flush(path);
        CU_ASSERT_TRUE(path_arrived(path, path->last));
    }
    CU_ASSERT_TRUE(sent >= DEPTH / 2 && sent <= DEPTH);
    verbs_rig_free(rig);
}

/* ---- leaving ----------------------------------------------------------------------------------
 */

/* Over iWARP a socket that has the bytes says nothing of their arrival, and forgets them when it is
 * closed and something comes in: who leaves asks the peer, once, which answers at once. */
static void test_paths_ask_what_has_arrived_before_they_are_left(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = &rig->link->paths[0];
    struct wire_header header = {.kind = WIRE_EAGER}, *in = (struct wire_header *)path->memory;
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    path->state = VERBS_PATH_UP;
    CU_ASSERT_TRUE(path_settled(path));
    path_message(path, &header, NULL, 0);
    path_flush(path);
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_EQUAL(rig->questions, 1);
    uint32_t asked = path->last;
    *in = (struct wire_header){.kind = WIRE_CREDIT, .len = 1}; /* the peer leaves, too */
    CU_ASSERT_FALSE(transfer_arrived(path, 0, sizeof *in + sizeof(struct wire_credit)));
    CU_ASSERT_EQUAL(rig->credits, 2);
    CU_ASSERT_EQUAL(rig->questions, 1); /* the answer is none: this would go on for ever */
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_TRUE(path_arrived(path, asked));
    CU_ASSERT_TRUE(path_settled(path));
    verbs_rig_free(rig);
}

/* ---- draining -----------------------------------------------------------------------------------
 */

static struct ibv_wc arrivals[2];
static int arrival_count;

static int poll_arrivals(struct ibv_cq *cq, int max, struct ibv_wc *list)
{
    int count = arrival_count;
    (void)cq;
    CU_ASSERT_TRUE(count <= max);
    memcpy(list, arrivals, sizeof arrivals);
    arrival_count = 0;
    return count;
}

/* The rig's link over one rail, whose completions are the arrivals, all of path 1; path 2 is up. */
static struct verbs_path *over_a_queue(struct verbs_rig *rig, struct transport *side)
{
    static const struct transport_ops nothing = {.event = verbs_rig_no_event,
                                                 .poll = verbs_rig_no_xfer};
    static struct verbs_path *paths[1];
    static struct ibv_cq queue;
    struct verbs *verbs = &rig->verbs;
    *side = (struct transport){.ops = &nothing};
    paths[0] = &rig->link->paths[1];
    queue.context = &rig->device;
    rig->device.ops.poll_cq = poll_arrivals;
    verbs->side = side;
    verbs->all = rig->link;
    verbs->paths = paths;
    verbs->path_slots = 1;
    verbs->rails[0] = (struct verbs_rail){.verbs = verbs, .cq = &queue};
    verbs->rail_count = 1;
    verbs->events_ms = rig->link->revive_ms = UINT64_MAX;
    verbs_rig_up(&rig->link->paths[2]);
    return paths[0];
}

/* A rank that was away finds a path that should have given its receives back long ago: the device
 * has, and one of them holds a message, whose sender knows that it has arrived. */
static void test_paths_take_what_came_before_they_are_given_up(void)
{
    struct transport side;
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = over_a_queue(rig, &side);
    path->state = VERBS_PATH_DRAINING;
    path->posted = arrival_count = 2;
    ((struct wire_header *)path->memory)->kind = WIRE_EAGER;
    arrivals[0] = (struct ibv_wc){
        .wr_id = 1ull << 32, .status = IBV_WC_SUCCESS, .byte_len = sizeof(struct wire_header)};
    arrivals[1] = (struct ibv_wc){.wr_id = 1ull << 32 | 1, .status = IBV_WC_WR_FLUSH_ERR};
    link_service(&rig->verbs);
    CU_ASSERT_EQUAL(path->received, 1);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_DRAINED);
    CU_ASSERT_EQUAL(rig->link->flows[0].held_end, 1);
    verbs_rig_free(rig);
}

/* A peer that leaves closes its connections, and its goodbye may be read later than that. Of what
 * is sent over one meanwhile siw says that the device refused it. */
static void test_paths_are_not_lost_before_a_goodbye_is_read(void)
{
    struct transport side;
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs_path *path = over_a_queue(rig, &side);
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    verbs_rig_up(path);
    arrival_count = 1;
    arrivals[0] = (struct ibv_wc){.status = IBV_WC_LOC_QP_OP_ERR};
    link_take_arrivals(&rig->verbs);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_UP);
    rig->link->bye = true;
    link_service(&rig->verbs);
    CU_ASSERT_PTR_NOT_NULL(strstr(path->why, "or the other side closed"));
    verbs_rig_free(rig);
}

/* ---- first messages ---------------------------------------------------------------------------
 */

static uint32_t controls;

static tutti_status count_control(struct transport *transport, struct xfer *xfer)
{
    (void)transport;
    (void)xfer;
    controls++;
    return TUTTI_OK;
}

/* Over iWARP: path 2 is up, path 1 is connected, and its first messages are under way. */
static struct verbs_rig *try_path(void)
{
    static const struct transport_ops ops = {
        .event = verbs_rig_no_event, .poll = verbs_rig_no_xfer, .send = count_control};
    static struct transport side = {.ops = &ops};
    struct verbs_rig *rig = verbs_rig_make();
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    verbs_rig_beside(rig, &side);
    rig->link->out[0].busy = 0;
    verbs_rig_up(&rig->link->paths[2]);
    rig->link->paths[1].state = VERBS_PATH_MAKING;
    link_path_connected(&rig->link->paths[1]);
    controls = 0;
    return rig;
}

/* So much time passes, and the link is looked at. */
static void pass(struct verbs_path *path, uint64_t ms)
{
    path->since_ms -= ms;
    link_service(path->link->verbs);
}

/* Over iWARP nothing tells that HELLO has arrived. A peer that computes is waited for; one that
 * answers, and whose HELLO does not come for 5 s, is not. */
static void test_paths_wait_for_the_first_message_of_who_computes(void)
{
    struct verbs_rig *rig = try_path();
    struct verbs_path *path = &rig->link->paths[1];
    struct wire_control answer = {.kind = WIRE_COUNT, .path = 1};
    for (uint32_t asked = 1; asked <= 4; asked++) {
        pass(path, 900);
        CU_ASSERT_EQUAL(controls, asked - 1);
        pass(path, 200);
        pass(path, 60000);
        pass(path, 60000);
        CU_ASSERT_EQUAL(controls, asked);
        CU_ASSERT_EQUAL(path->state, VERBS_PATH_TRYING);
        link_take(rig->link, &answer);
    }
    pass(path, 900);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_TRYING);
    pass(path, 200);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_DRAINED);
    verbs_rig_free(rig);
}

/* An answer to what was asked before a path came up is no verdict on what it carries since. */
static void test_paths_are_not_judged_by_an_answer_from_before(void)
{
    struct verbs_rig *rig = try_path();
    struct verbs_path *path = &rig->link->paths[1];
    struct wire_header header = {.kind = WIRE_EAGER};
    struct wire_control answer = {.kind = WIRE_COUNT, .path = 1};
    pass(path, 1100);
    CU_ASSERT_EQUAL(controls, 1);
    verbs_rig_up(path);
    path_message(path, &header, NULL, 0);
    path_flush(path);
    link_take(rig->link, &answer);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_UP);
    verbs_rig_free(rig);
}

static struct wire_control said; /* the last control message */
static struct seal *said_by;

static tutti_status note_said(struct transport *side, struct xfer *xfer)
{
    (void)side;
    CU_ASSERT_EQUAL(seal_open(said_by, xfer->data, xfer->len, &said), TUTTI_OK);
    return TUTTI_OK;
}

/* The peer sends nothing again before it knows what came in. */
static void test_paths_that_failed_are_told_once_there_is_a_place(void)
{
    static const struct transport_ops noting = {
        .event = verbs_rig_no_event, .poll = verbs_rig_no_xfer, .send = note_said};
    struct transport side = {.ops = &noting};
    struct verbs_rig *rig = verbs_rig_make();
    struct verbs *verbs = &rig->verbs;
    struct verbs_path *path = &rig->link->paths[1];
    verbs_rig_beside(rig, &side);
    said_by = verbs->seal;
    verbs_rig_up(path);
    path->received = 7;
    said.kind = 0;
    link_path_failed(path, "of the test");
    link_service(verbs);
    CU_ASSERT_EQUAL(said.kind, 0);
    rig->link->out[3].busy = 0;
    link_service(verbs);
    CU_ASSERT_TRUE(said.kind == WIRE_DEAD && said.path == 1 && said.received == 7);
    said.kind = 0;
    link_service(verbs);
    CU_ASSERT_EQUAL(said.kind, 0);
    verbs_rig_free(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(paths_keep_their_memory_from_children),
        TEST(paths_are_made_over_ports_that_have_reliable_connections),
        TEST(paths_end_with_their_completion_queue),
        TEST(paths_give_up_what_the_device_cannot_make),
        TEST(paths_keep_room_for_counts),
        TEST(paths_wait_for_the_device_too),
        TEST(paths_ask_what_has_arrived_before_they_are_left),
        TEST(paths_take_what_came_before_they_are_given_up),
        TEST(paths_are_not_lost_before_a_goodbye_is_read),
        TEST(paths_wait_for_the_first_message_of_who_computes),
        TEST(paths_are_not_judged_by_an_answer_from_before),
        TEST(paths_that_failed_are_told_once_there_is_a_place),
    };
    return suite_run("paths", tests, sizeof tests / sizeof *tests, argc, argv);
}
