/* test_rails.c: ports in use, over a stand-in for their device: how they are opened where memory is
 * short, and what becomes of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/verbs_rig.h"

static struct ibv_comp_channel channel;
static struct ibv_pd domain;
static struct ibv_cq queue;
static int queue_room; /* entries of the longest completion queue that its memory allows */

static const char *some_device(struct ibv_device *device)
{
    (void)device;
    return "device";
}

static int say_limits(struct ibv_context *context, struct ibv_device_attr *attr)
{
    (void)context;
    *attr = (struct ibv_device_attr){.max_cqe = 1 << 22, .vendor_id = 0x2c9};
    return 0;
}

static struct ibv_pd *make_domain(struct ibv_context *context)
{
    (void)context;
    return &domain;
}

static int no_domain(struct ibv_pd *pd)
{
    (void)pd;
    return 0;
}

static struct ibv_comp_channel *make_channel(struct ibv_context *context)
{
    (void)context;
    return &channel;
}

static int no_channel(struct ibv_comp_channel *gone)
{
    (void)gone;
    return 0;
}

static struct ibv_cq *make_queue(struct ibv_context *context, int entries, void *cq_context,
                                 struct ibv_comp_channel *events, int vector)
{
    (void)context, (void)cq_context, (void)events, (void)vector;
    errno = ENOMEM;
    return entries <= queue_room ? &queue : NULL;
}

static int grow_queue(struct ibv_cq *cq, int entries)
{
    (void)cq;
    return entries <= queue_room ? 0 : ENOMEM;
}

static int no_queue(struct ibv_cq *cq)
{
    (void)cq;
    return 0;
}

static struct ibv_qp *make_no_pair(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
    (void)pd, (void)init;
    errno = ENOMEM;
    return NULL;
}

/* Without rails; its device has descriptors. */
static struct verbs_rig *make_rail_rig(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    rig->config.size = 512;
    rig->verbs.window = 16;
    rig->verbs.slot_len = (uint32_t)rig->settings.verbs_slot;
    rig->library.ibv.get_device_name = some_device;
    rig->library.ibv.query_device = say_limits;
    rig->library.ibv.alloc_pd = make_domain;
    rig->library.ibv.dealloc_pd = no_domain;
    rig->library.ibv.create_comp_channel = make_channel;
    rig->library.ibv.destroy_comp_channel = no_channel;
    rig->library.ibv.create_cq = make_queue;
    rig->library.ibv.resize_cq = grow_queue;
    rig->library.ibv.destroy_cq = no_queue;
    rig->library.ibv.create_qp = make_no_pair;
    rig->device.async_fd = eventfd(0, EFD_CLOEXEC);
    channel.fd = eventfd(0, EFD_CLOEXEC);
    return rig;
}

static void free_rail_rig(struct verbs_rig *rig)
{
    close(rig->device.async_fd);
    close(channel.fd);
    verbs_rig_free(rig);
}

/* The limit of locked memory that sentences name is that of the process. */
static struct rlimit limit_memory(rlim_t bytes)
{
    struct rlimit before, now;
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    now = (struct rlimit){.rlim_cur = bytes, .rlim_max = before.rlim_max};
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_MEMLOCK, &now), 0);
    return before;
}

static void check_sentence(const char *what)
{
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), what));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "limit of locked memory is 64 KiB"));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "ulimit -l"));
}

/* Of many ranks, whose completion queue would be long: a shorter one serves until it has to grow,
 * and whatever then fails says why. */
static void test_rails_have_shorter_queues_where_memory_is_short(void)
{
    struct verbs_rig *rig = make_rail_rig();
    const struct verbs_found found = {.context = &rig->device, .port = 1};
    struct verbs_rail *rail = &rig->verbs.rails[0];
    struct verbs_path *path = &rig->link->paths[0];
    struct rlimit before = limit_memory(64 << 10);
    queue_room = 1000;
    CU_ASSERT_EQUAL_FATAL(device_take(&rig->verbs, &found), TUTTI_OK);
    CU_ASSERT_EQUAL(rig->verbs.rail_count, 1);
    CU_ASSERT_TRUE(rail->cq_len > 500 && rail->cq_len <= 1000);
    CU_ASSERT_EQUAL(device_grow(rail, 400), TUTTI_OK);
    CU_ASSERT_EQUAL(device_grow(rail, 1000), TUTTI_ERR_NOMEM);
    check_sentence("device port 1 cannot grow its completion queue");
    CU_ASSERT_EQUAL(rail->cq_used, 400);
    rail->cq_used = 0;
    path->rail = rail;
    CU_ASSERT_EQUAL(path_make(path), TUTTI_ERR_NOMEM);
    check_sentence("device port 1 cannot make a queue pair");
    setrlimit(RLIMIT_MEMLOCK, &before);
    free(rig->verbs.paths);
    free_rail_rig(rig);
}

static void test_rails_that_cannot_be_opened_are_left_out(void)
{
    struct verbs_rig *rig = make_rail_rig();
    struct verbs_found found = {.context = &rig->device, .port = 1};
    struct rlimit before = limit_memory(64 << 10);
    queue_room = 100;
    CU_ASSERT_EQUAL(device_take(&rig->verbs, &found), TUTTI_ERR_NOMEM);
    check_sentence("device port 1 cannot make a completion queue of 256 entries");
    CU_ASSERT_EQUAL(rig->verbs.rail_count, 0);
    queue_room = 1 << 20;
    found.port = 2;
    CU_ASSERT_EQUAL(device_take(&rig->verbs, &found), TUTTI_OK);
    CU_ASSERT_EQUAL(rig->verbs.rail_count, 1);
    CU_ASSERT_EQUAL(rig->verbs.rails[0].port, 2);
    setrlimit(RLIMIT_MEMLOCK, &before);
    free_rail_rig(rig);
}

/* ---- losing one -------------------------------------------------------------------------------
 */

static struct ibv_async_event event;
static int event_port;
static const struct ibv_context *speaker; /* whose event it is, until it was read */

static int say_once(struct ibv_context *context, struct ibv_async_event *said)
{
    if (context != speaker)
        return -1;
    *said = event;
    speaker = NULL;
    return 0;
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

static struct ibv_mr registered;

/* A domain of a device that is lost refuses all. */
static struct ibv_mr *pin(struct ibv_pd *pd, void *data, size_t len, int access)
{
    (void)data, (void)len, (void)access;
    errno = EIO;
    return pd == &domain ? &registered : NULL;
}

static int unpin(struct ibv_mr *mr)
{
    CU_ASSERT_PTR_EQUAL(mr, &registered);
    return 0;
}

/* The device says something, and is heard. */
static void say(struct verbs *verbs, const struct ibv_context *context, enum ibv_event_type type)
{
    speaker = context;
    event = (struct ibv_async_event){.event_type = type, .element.port_num = event_port};
    device_events(verbs);
}

/* Of two devices one is removed, and its descriptors are in error for ever. The other goes on
 * alone: memory is registered with it, nothing is made over the first again, and nobody is woken.
 */
static void test_rails_whose_device_is_lost_are_in_nobodys_way(void)
{
    static char data[4096];
    struct verbs_rig *rig = make_rail_rig();
    struct ibv_context other = {.async_fd = eventfd(1, EFD_CLOEXEC)};
    struct ibv_comp_channel events = {.fd = eventfd(1, EFD_CLOEXEC)};
    struct ibv_pd lost;
    struct verbs_region *region;
    struct epoll_event woken = {.events = EPOLLIN};
    struct verbs *verbs = &rig->verbs;
    struct verbs_path *later = &rig->link->paths[2];
    rig->library.ibv.get_async_event = say_once;
    rig->library.ibv.ack_async_event = take_word;
    rig->library.ibv.event_type_str = some_event;
    rig->library.ibv.reg_mr = pin;
    rig->library.ibv.dereg_mr = unpin;
    verbs->all = rig->link;
    verbs->rail_count = 2;
    verbs->rails[0] = (struct verbs_rail){
        .verbs = verbs, .context = &rig->device, .channel = &channel, .pd = &domain};
    verbs->rails[1] = (struct verbs_rail){
        .verbs = verbs, .index = 1, .context = &other, .channel = &events, .pd = &lost};
    for (uint32_t i = 0; i < 2; i++) {
        rig->link->paths[i].rail = &verbs->rails[i];
        verbs_rig_up(&rig->link->paths[i]);
    }
    verbs->epoll = epoll_create1(EPOLL_CLOEXEC);
    CU_ASSERT_EQUAL(epoll_ctl(verbs->epoll, EPOLL_CTL_ADD, events.fd, &woken), 0);
    CU_ASSERT_EQUAL(epoll_ctl(verbs->epoll, EPOLL_CTL_ADD, other.async_fd, &woken), 0);
    say(verbs, &other, IBV_EVENT_DEVICE_FATAL);
    CU_ASSERT_TRUE(path_alive(&rig->link->paths[0]));
    CU_ASSERT_FALSE(path_alive(&rig->link->paths[1]));
    CU_ASSERT_EQUAL(epoll_wait(verbs->epoll, &woken, 1, 0), 0);
    for (int access = 0; access < VERBS_ACCESSES; access++) {
        CU_ASSERT_EQUAL_FATAL(
            memory_use(verbs, data, sizeof data, (enum verbs_access)access, &region), TUTTI_OK);
        CU_ASSERT_PTR_EQUAL(region->mr[0][access], &registered);
        CU_ASSERT_PTR_NULL(region->mr[1][access]);
        memory_release(verbs, region);
    }
    say(verbs, &other, IBV_EVENT_PORT_ACTIVE);
    CU_ASSERT_TRUE(verbs->rails[1].down);
    free(later->memory);
    later->memory = NULL;
    later->qp = NULL;
    later->rail = &verbs->rails[1];
    CU_ASSERT_EQUAL(path_make(later), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(verbs->slot_len,
                    rig->settings.verbs_slot); /* others' slots are as long as before */
    close(verbs->epoll);
    close(other.async_fd);
    close(events.fd);
    free_rail_rig(rig);
}

/* ---- addresses that change
 * -----------------------------------------------------------------------
 */

static const uint8_t here[16] = {[10] = 0xff, 0xff, 10, 0, 0, 1};

/* The port's one address is at the end of a table of three, in both versions. */
static int look_up(struct ibv_context *context, uint32_t port, uint32_t index,
                   struct ibv_gid_entry *entry, uint32_t flags, size_t len)
{
    (void)context, (void)port, (void)flags, (void)len;
    if (index == 0)
        return ENODATA;
    memcpy(entry->gid.raw, here, sizeof here);
    entry->gid_type = index == 1 ? IBV_GID_TYPE_ROCE_V1 : IBV_GID_TYPE_ROCE_V2;
    return 0;
}

static int say_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr)
{
    (void)context;
    *(struct ibv_port_attr *)(void *)attr =
        (struct ibv_port_attr){.lid = (uint16_t)(40 + port), .gid_tbl_len = 3};
    return 0;
}

/* A path that is made later, or again, is made with the addresses of then. */
static void test_rails_follow_their_addresses(void)
{
    struct verbs_rig *rig = make_rail_rig();
    struct verbs *verbs = &rig->verbs;
    rig->library.ibv.get_async_event = say_once;
    rig->library.ibv.ack_async_event = take_word;
    rig->library.ibv.event_type_str = some_event;
    rig->library.ibv.query_port = say_port;
    rig->library.ibv.query_gid_ex = look_up;
    verbs->rail_count = 2;
    for (uint8_t i = 0; i < 2; i++) {
        struct choose_gid *gid = &verbs->ports.rails[i].gids[0];
        verbs->rails[i] = (struct verbs_rail){
            .verbs = verbs, .index = i, .context = &rig->device, .port = (uint8_t)(i + 1)};
        verbs->ports.rails[i] = (struct choose_rail){
            .layer = CHOOSE_LAYER_ETHERNET, .lid = 7, .gid_count = 1, .gids = {{.index = 5}}};
        memcpy(gid->raw, here, sizeof here);
        gid->type = CHOOSE_GID_ROCE_V2;
    }
    event_port = 2;
    say(verbs, &rig->device, IBV_EVENT_GID_CHANGE);
    CU_ASSERT_EQUAL(verbs->ports.rails[0].gids[0].index, 5);
    CU_ASSERT_EQUAL(verbs->ports.rails[1].gids[0].index, 2);
    event_port = 1;
    say(verbs, &rig->device, IBV_EVENT_LID_CHANGE);
    CU_ASSERT_EQUAL(verbs->ports.rails[0].lid, 41);
    free_rail_rig(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(rails_have_shorter_queues_where_memory_is_short),
        TEST(rails_that_cannot_be_opened_are_left_out),
        TEST(rails_whose_device_is_lost_are_in_nobodys_way),
        TEST(rails_follow_their_addresses),
    };
    return suite_run("rails", tests, sizeof tests / sizeof *tests, argc, argv);
}
