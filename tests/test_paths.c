/* test_paths.c: the paths of a link, over stand-ins for queue pairs: what is posted is written
 * down. What a failed path carried goes over another one. And registered memory. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/seal.h"
#include "base/settings.h"
#include "mem/device.h"
#include "tests/gpu.h"
#include "tests/suite.h"
#include "transports/verbs/verbs.h"

enum { PATHS = 3, SLOTS = 4, SLOT_LEN = 256, DEPTH = 128, RING_LEN = 64 * SLOT_LEN, MESSAGES = 40 };

static struct {
    uint32_t path;
    uint16_t seq;
} posts[4 * MESSAGES];
static uint32_t post_count;
static uint32_t credits, questions; /* CREDIT messages, and those that ask for one */
static uint32_t told_path;          /* by which the last count of messages taken was told */
static uint16_t told;
static uint32_t broken; /* the path whose queue pair takes nothing; PATHS: none */

static int note_posts(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    if (qp->qp_num == broken) {
        *bad = wr;
        return EIO;
    }
    for (; wr; wr = wr->next) {
        struct wire_header header;
        memcpy(&header, (const void *)(uintptr_t)wr->sg_list->addr, sizeof header);
        credits += header.kind == WIRE_CREDIT;
        questions += header.kind == WIRE_CREDIT && header.len > 0;
        if (header.taken != told) {
            told = header.taken;
            told_path = qp->qp_num;
        }
        if (header.kind != WIRE_EAGER)
            continue;
        posts[post_count].path = qp->qp_num;
        posts[post_count++].seq = header.seq;
    }
    return 0;
}

static int modify_nothing(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    (void)qp;
    (void)attr;
    (void)mask;
    return 0;
}

struct rig {
    struct transport_config config;
    struct verbs verbs;
    struct library library;
    struct verbs_rail rails[PATHS];
    struct ibv_context device;
    struct ibv_qp qps[PATHS];
    struct ibv_mr mr;
    struct verbs_link *link;
};

static struct rig *make_rig(void)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct verbs_link *link = calloc(1, sizeof *link + sizeof *link->flows);
    rig->config = (struct transport_config){.size = 2, .lanes = 1};
    rig->verbs.config = &rig->config;
    rig->verbs.library = &rig->library;
    rig->library.ibv.modify_qp = modify_nothing;
    rig->verbs.layer = CHOOSE_LAYER_ETHERNET;
    rig->device.ops.post_send = note_posts;
    rig->link = link;
    link->verbs = &rig->verbs;
    link->peer = 1;
    link->state = VERBS_LINK_UP;
    link->path_count = PATHS;
    flow_limit(&link->flows[0], SLOT_LEN, VERBS_CHUNK_MIN, 8);
    for (uint32_t i = 0; i < PATHS; i++) {
        struct verbs_path *path = &link->paths[i];
        rig->rails[i].verbs = &rig->verbs;
        rig->qps[i].context = &rig->device;
        rig->qps[i].qp_num = i;
        path->link = link;
        path->index = i;
        path->rail = &rig->rails[i];
        path->qp = &rig->qps[i];
        path->mr = &rig->mr;
        path->slot_len = SLOT_LEN;
        path->slot_count = SLOTS;
        path->memory = calloc(1, SLOTS * SLOT_LEN + RING_LEN);
        path->ring.len = RING_LEN;
        path->depth = DEPTH;
        path->records = calloc(DEPTH, sizeof *path->records);
        path->credit.window = DEPTH;
    }
    for (uint32_t i = 0; i < VERBS_CONTROLS; i++)
        link->out[i].busy = 1; /* there is no side transport */
    post_count = credits = questions = 0;
    told = 0;
    told_path = PATHS;
    broken = PATHS;
    return rig;
}

static void free_rig(struct rig *rig)
{
    for (uint32_t i = 0; i < PATHS; i++) {
        free(rig->link->paths[i].memory);
        free(rig->link->paths[i].records);
    }
    free(rig->link);
    free(rig);
}

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
        CU_ASSERT_EQUAL(device_layer(&context, &port), cases[i].layer);
    }
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
    struct rig *rig = make_rig();
    struct settings settings = {.verbs_depth = DEPTH, .verbs_inline = 220};
    struct verbs_path *path = &rig->link->paths[0];
    rig->config.settings = &settings;
    rig->library.ibv.create_qp = make_nothing;
    path->rail->cq_len = path->rail->max_cqe = 1024;
    path->qp = NULL;
    attempts = 0;
    CU_ASSERT_EQUAL(path_make(path), TUTTI_ERR_NOMEM);
    CU_ASSERT_TRUE(attempts < 20);
    CU_ASSERT_EQUAL(path->rail->cq_used, 0);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_NONE);
    free(rig->verbs.paths);
    free_rig(rig);
}

/* ---- room -------------------------------------------------------------------------------------
 */

/* Over iWARP only the peer's count makes room, and the peer may be as full: what it waits for must
 * go out whatever else has. */
static void check_room_for_counts(size_t len)
{
    struct rig *rig = make_rig();
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
    free_rig(rig);
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
    struct rig *rig = make_rig();
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
    free_rig(rig);
}

/* A path is up, without more ado. */
static void comes_up(struct verbs_path *path)
{
    path->state = VERBS_PATH_TRYING;
    path->hello_sent = path->hello_came = path->hello_acked = true;
    link_path_up(path);
}

/* ---- leaving ----------------------------------------------------------------------------------
 */

/* Over iWARP a socket that has the bytes says nothing of their arrival, and forgets them when it is
 * closed and something comes in: who leaves asks the peer, once, which answers at once. */
static void test_paths_ask_what_has_arrived_before_they_are_left(void)
{
    struct rig *rig = make_rig();
    struct verbs_path *path = &rig->link->paths[0];
    struct wire_header header = {.kind = WIRE_EAGER}, *in = (struct wire_header *)path->memory;
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    path->state = VERBS_PATH_UP;
    CU_ASSERT_TRUE(path_settled(path));
    path_message(path, &header, NULL, 0);
    path_flush(path);
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_EQUAL(questions, 1);
    uint32_t asked = path->last;
    *in = (struct wire_header){.kind = WIRE_CREDIT, .len = 1}; /* the peer leaves, too */
    CU_ASSERT_FALSE(transfer_arrived(path, 0, sizeof *in + sizeof(struct wire_credit)));
    CU_ASSERT_EQUAL(credits, 2);
    CU_ASSERT_EQUAL(questions, 1); /* the answer is none: this would go on for ever */
    CU_ASSERT_FALSE(path_settled(path));
    CU_ASSERT_TRUE(path_arrived(path, asked));
    CU_ASSERT_TRUE(path_settled(path));
    free_rig(rig);
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

static struct xfer *no_xfer(struct transport *transport)
{
    (void)transport;
    return NULL;
}

static bool no_event(struct transport *transport, bool restart, struct transport_event *event)
{
    (void)transport;
    (void)restart;
    (void)event;
    return false;
}

/* A rank that was away finds a path that should have given its receives back long ago: the device
 * has, and one of them holds a message, whose sender knows that it has arrived. */
static void test_paths_take_what_came_before_they_are_given_up(void)
{
    static const struct transport_ops nothing = {.event = no_event, .poll = no_xfer};
    struct transport side = {.ops = &nothing};
    struct rig *rig = make_rig();
    struct verbs *verbs = &rig->verbs;
    struct verbs_path *path = &rig->link->paths[1], *paths[] = {path};
    struct ibv_cq queue = {.context = &rig->device};
    rig->device.ops.poll_cq = poll_arrivals;
    verbs->side = &side;
    verbs->all = rig->link;
    verbs->paths = paths;
    verbs->path_slots = 1;
    verbs->rails[0] = (struct verbs_rail){.verbs = verbs, .cq = &queue};
    verbs->rail_count = 1;
    verbs->events_ms = rig->link->revive_ms = UINT64_MAX;
    comes_up(&rig->link->paths[2]);
    path->state = VERBS_PATH_DRAINING;
    path->posted = arrival_count = 2;
    ((struct wire_header *)path->memory)->kind = WIRE_EAGER;
    arrivals[0] = (struct ibv_wc){
        .wr_id = 1ull << 32, .status = IBV_WC_SUCCESS, .byte_len = sizeof(struct wire_header)};
    arrivals[1] = (struct ibv_wc){.wr_id = 1ull << 32 | 1, .status = IBV_WC_WR_FLUSH_ERR};
    link_service(verbs);
    CU_ASSERT_EQUAL(path->received, 1);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_DRAINED);
    CU_ASSERT_EQUAL(rig->link->flows[0].held_end, 1);
    free_rig(rig);
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
static struct rig *try_path(void)
{
    static const struct transport_ops ops = {
        .event = no_event, .poll = no_xfer, .send = count_control};
    static struct transport side = {.ops = &ops};
    static const uint8_t secret[32];
    struct rig *rig = make_rig();
    rig->verbs.layer = CHOOSE_LAYER_IWARP;
    rig->verbs.side = &side;
    rig->verbs.all = rig->link;
    rig->verbs.events_ms = rig->link->revive_ms = UINT64_MAX;
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, sizeof secret, "test", &rig->verbs.seal), TUTTI_OK);
    rig->link->out[0].busy = 0;
    comes_up(&rig->link->paths[2]);
    rig->link->paths[1].state = VERBS_PATH_MAKING;
    link_path_connected(&rig->link->paths[1]);
    controls = 0;
    return rig;
}

static void free_tried(struct rig *rig)
{
    seal_free(rig->verbs.seal);
    free_rig(rig);
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
    struct rig *rig = try_path();
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
    free_tried(rig);
}

/* An answer to what was asked before a path came up is no verdict on what it carries since. */
static void test_paths_are_not_judged_by_an_answer_from_before(void)
{
    struct rig *rig = try_path();
    struct verbs_path *path = &rig->link->paths[1];
    struct wire_header header = {.kind = WIRE_EAGER};
    struct wire_control answer = {.kind = WIRE_COUNT, .path = 1};
    pass(path, 1100);
    CU_ASSERT_EQUAL(controls, 1);
    comes_up(path);
    path_message(path, &header, NULL, 0);
    path_flush(path);
    link_take(rig->link, &answer);
    CU_ASSERT_EQUAL(path->state, VERBS_PATH_UP);
    free_tried(rig);
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
    static const uint8_t secret[32];
    static const struct transport_ops noting = {
        .event = no_event, .poll = no_xfer, .send = note_said};
    struct transport side = {.ops = &noting};
    struct rig *rig = make_rig();
    struct verbs *verbs = &rig->verbs;
    struct verbs_path *path = &rig->link->paths[1];
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, sizeof secret, "test", &said_by), TUTTI_OK);
    verbs->seal = said_by;
    verbs->side = &side;
    verbs->all = rig->link;
    verbs->events_ms = rig->link->revive_ms = UINT64_MAX;
    comes_up(path);
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
    seal_free(said_by);
    free_rig(rig);
}

/* ---- losing one -------------------------------------------------------------------------------
 */

static void fails(struct verbs_path *path)
{
    path->state = VERBS_PATH_RESENDING;
    path->failure = ++path->link->failures;
    path->qp = NULL;
}

/* Path 1 is the lane's home, and is lost with all that it was given; path 2 is up. */
static struct rig *lose_home(void)
{
    struct rig *rig = make_rig();
    struct verbs_link *link = rig->link;
    comes_up(&link->paths[1]);
    comes_up(&link->paths[2]);
    link->home[0] = 1;
    for (uint16_t seq = 0; seq < MESSAGES; seq++) {
        struct wire_header header = {.kind = WIRE_EAGER, .seq = seq};
        path_message(&link->paths[1], &header, NULL, 0);
        path_flush(&link->paths[1]);
    }
    CU_ASSERT_EQUAL(post_count, MESSAGES);
    post_count = 0;
    fails(&link->paths[1]);
    return rig;
}

/* Every message once, in order, and over one path, which is the lane's home then. */
static void check_posts(const struct rig *rig, uint32_t from, uint32_t path)
{
    CU_ASSERT_EQUAL(post_count - from, MESSAGES);
    for (uint32_t i = from; i < post_count; i++) {
        CU_ASSERT_EQUAL(posts[i].seq, i - from);
        CU_ASSERT_EQUAL(posts[i].path, path);
    }
    CU_ASSERT_EQUAL(rig->link->home[0], path);
}

static void test_resend_takes_one_path_though_another_comes_up(void)
{
    struct rig *rig = lose_home();
    link_resend(rig->link);
    CU_ASSERT_TRUE(post_count > 0 && post_count < MESSAGES); /* there is no room for all at once */
    comes_up(&rig->link->paths[0]);
    link_resend(rig->link);
    check_posts(rig, 0, 2);
    free_rig(rig);
}

static void test_resend_begins_with_what_was_lost_last(void)
{
    struct rig *rig = lose_home();
    link_resend(rig->link);
    uint32_t first = post_count;
    CU_ASSERT_TRUE(first > 0 && first < MESSAGES);
    fails(&rig->link->paths[2]);
    comes_up(&rig->link->paths[0]);
    for (int i = 0; i < 4; i++)
        link_resend(rig->link);
    check_posts(rig, first, 0);
    free_rig(rig);
}

static void test_resend_is_not_over_while_its_heir_fails(void)
{
    struct rig *rig = lose_home();
    struct verbs_path *heir = &rig->link->paths[2];
    link_resend(rig->link);
    uint32_t first = post_count;
    CU_ASSERT_TRUE(first > 0 && first < MESSAGES);
    comes_up(&rig->link->paths[0]);
    broken = 2;
    link_resend(rig->link);
    CU_ASSERT_EQUAL(heir->state, VERBS_PATH_DRAINED);
    CU_ASSERT_EQUAL(rig->link->home[0], 1); /* nothing new overtakes what the heir has lost */
    fails(heir);
    for (int i = 0; i < 4; i++)
        link_resend(rig->link);
    check_posts(rig, first, 0);
    free_rig(rig);
}

/* Nothing else may tell the peer, whose messages wait for that. */
static void test_resend_tells_again_what_was_taken(void)
{
    struct rig *rig = make_rig();
    struct verbs_link *link = rig->link;
    comes_up(&link->paths[1]);
    comes_up(&link->paths[2]);
    link->home[0] = 1;
    link->flows[0].taken.freed = 9;
    path_credit(&link->paths[1], false);
    path_flush(&link->paths[1]);
    CU_ASSERT_TRUE(told == 9 && told_path == 1);
    told = 0;
    fails(&link->paths[1]);
    link_resend(link);
    CU_ASSERT_TRUE(told == 9 && told_path == 2);
    free_rig(rig);
}

/* What was lost waits for the next path that comes up, and nothing else may be there to send. */
static void test_resend_follows_when_a_path_comes_up(void)
{
    struct rig *rig = make_rig();
    comes_up(&rig->link->paths[1]);
    rig->link->work = false;
    fails(&rig->link->paths[1]);
    comes_up(&rig->link->paths[0]);
    CU_ASSERT_TRUE(rig->link->work);
    free_rig(rig);
}

static int destroy_nothing(struct ibv_qp *qp)
{
    (void)qp;
    return 0;
}

/* All that path 1 was given is acknowledged; then the peer says how much of it came in. */
static enum verbs_link_state end_with_count(uint32_t taken)
{
    struct rig *rig = make_rig();
    struct verbs_link *link = rig->link;
    rig->library.ibv.destroy_qp = destroy_nothing;
    comes_up(&link->paths[1]);
    comes_up(&link->paths[2]);
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
    free_rig(rig);
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
        .event = no_event, .poll = give_one, .recv = await, .disconnect = cut};
    static char data[4 * SLOT_LEN], after[sizeof data];
    static const struct tag tag;
    struct transport side = {.ops = &socket};
    struct rig *rig = make_rig();
    struct verbs_link *link = rig->link, *links[] = {NULL, link};
    struct xfer xfer = {.data = data, .len = sizeof data, .peer = 1, .tag = &tag};
    rig->verbs.side = &side;
    rig->verbs.links = links;
    rig->verbs.done_tail = &rig->verbs.done;
    link->slot_len = SLOT_LEN;
    link->window = link->peer_window = 8;
    rig->library.ibv.destroy_qp = destroy_nothing;
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
    free_rig(rig);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static atomic_int pinned; /* registrations of the device */

static struct ibv_mr *pin(struct ibv_pd *pd, void *data, size_t len, int access)
{
    static struct ibv_mr mr;
    (void)pd, (void)data, (void)len, (void)access;
    pinned++;
    return &mr;
}

static int unpin(struct ibv_mr *mr)
{
    (void)mr;
    pinned--;
    return 0;
}

static struct rig *make_pinning_rig(void)
{
    struct rig *rig = make_rig();
    rig->verbs.rail_count = 1;
    rig->verbs.rails[0].verbs = &rig->verbs;
    rig->library.ibv.reg_mr = pin;
    rig->library.ibv.dereg_mr = unpin;
    pinned = 0;
    return rig;
}

/* Its address may be that of other memory by now. */
static void test_memory_that_is_forgotten_is_found_no_more(void)
{
    static char data[4096];
    struct rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, data, sizeof data, &made), TUTTI_OK);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    memory_forget(&rig->verbs, made);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    CU_ASSERT_EQUAL(memory_use(&rig->verbs, data, 64, VERBS_ACCESS_SEND, &used), TUTTI_OK);
    CU_ASSERT_EQUAL(used->kind, VERBS_REGION_ONCE);
    CU_ASSERT_EQUAL(pinned, 1);
    memory_release(&rig->verbs, used);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    free_rig(rig);
}

static void test_memory_that_is_forgotten_in_use_goes_with_the_last(void)
{
    static char data[4096];
    struct rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, data, sizeof data, &made), TUTTI_OK);
    CU_ASSERT_EQUAL(memory_use(&rig->verbs, data, 64, VERBS_ACCESS_SEND, &used), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(used, made);
    memory_forget(&rig->verbs, made);
    memory_sweep(&rig->verbs);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    memory_release(&rig->verbs, used);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    free_rig(rig);
}

static char beside[4096];

static void *add_and_forget(void *verbs)
{
    int wrong = 0;
    for (int i = 0; i < 2000; i++) {
        struct verbs_region *made;
        wrong += memory_add(verbs, beside, sizeof beside, &made) != TUTTI_OK;
        memory_forget(verbs, made);
    }
    return wrong == 0 ? verbs : NULL;
}

/* Who registers is in nobody's way, nor is anybody in his. */
static void test_memory_is_registered_beside_transfers(void)
{
    struct rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    pthread_t other;
    void *good;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, beside, sizeof beside, &made), TUTTI_OK);
    CU_ASSERT_PTR_NULL(rig->verbs.regions); /* that is for who is inside */
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, add_and_forget, &rig->verbs), 0);
    for (int i = 0; i < 2000; i++) {
        CU_ASSERT_EQUAL_FATAL(memory_use(&rig->verbs, beside, 64, VERBS_ACCESS_SEND, &used),
                              TUTTI_OK);
        CU_ASSERT_EQUAL(used->kind, VERBS_REGION_EXPLICIT);
        memory_release(&rig->verbs, used);
    }
    pthread_join(other, &good);
    CU_ASSERT_PTR_NOT_NULL(good);
    memory_remove(&rig->verbs, made);
    memory_sweep(&rig->verbs);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    CU_ASSERT_EQUAL(rig->verbs.region_count, 0);
    free_rig(rig);
}

static struct ibv_mr *pin_nothing(struct ibv_pd *pd, void *data, size_t len, int access)
{
    (void)pd, (void)data, (void)len, (void)access;
    errno = EFAULT;
    return NULL;
}

/* Without nvidia-peermem the kernel finds no memory at such addresses. */
static void test_memory_of_gpus_is_not_registered_by_its_address(void)
{
    const struct gpu *gpu = gpu_open();
    struct mem_device *device;
    cuda_address memory;
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        gpu->alloc(&memory, 4096) != CUDA_DRIVER_OK) {
        suite_skip("wants a GPU, or the stand-in's");
        return;
    }
    struct rig *rig = make_pinning_rig();
    struct verbs_region *made;
    rig->library.ibv.reg_mr = pin_nothing;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, (void *)(uintptr_t)memory, 4096, &made), TUTTI_OK);
    memory_remove(&rig->verbs, made);
    CU_ASSERT_EQUAL(gpu->free(memory), CUDA_DRIVER_OK);
    free_rig(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(paths_keep_their_memory_from_children),
        TEST(paths_are_made_over_ports_that_have_reliable_connections),
        TEST(paths_give_up_what_the_device_cannot_make),
        TEST(paths_keep_room_for_counts),
        TEST(paths_wait_for_the_device_too),
        TEST(paths_ask_what_has_arrived_before_they_are_left),
        TEST(paths_take_what_came_before_they_are_given_up),
        TEST(paths_wait_for_the_first_message_of_who_computes),
        TEST(paths_are_not_judged_by_an_answer_from_before),
        TEST(paths_that_failed_are_told_once_there_is_a_place),
        TEST(resend_takes_one_path_though_another_comes_up),
        TEST(resend_begins_with_what_was_lost_last),
        TEST(resend_is_not_over_while_its_heir_fails),
        TEST(resend_tells_again_what_was_taken),
        TEST(resend_follows_when_a_path_comes_up),
        TEST(resend_ends_a_link_whose_messages_are_lost),
        TEST(relay_lets_go_of_memory_when_its_link_ends),
        TEST(memory_that_is_forgotten_is_found_no_more),
        TEST(memory_that_is_forgotten_in_use_goes_with_the_last),
        TEST(memory_is_registered_beside_transfers),
        TEST(memory_of_gpus_is_not_registered_by_its_address),
    };
    return suite_run("paths", tests, sizeof tests / sizeof *tests, argc, argv);
}
