/* test_verbs.c: what the verbs transport chooses, which needs no device: ports, their addresses and
 * order, the way into GPU memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "transports/verbs/choose.h"
#include "transports/verbs/distance.h"

/* ---- choosing ---------------------------------------------------------------------------------
 */

static struct choose_gid ipv4(uint8_t type, uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    return (struct choose_gid){
        .raw = {[10] = 0xff, 0xff, a, b, c, d}, .type = type, .prefix = 96 + 24};
}

static struct choose_gid ipv6(uint8_t type, uint8_t net, uint8_t host)
{
    return (struct choose_gid){.raw = {0xfd, 0, net, [15] = host}, .type = type, .prefix = 64};
}

static struct choose_gid local6(uint8_t type, uint8_t host)
{
    return (struct choose_gid){.raw = {0xfe, 0x80, [15] = host}, .type = type, .prefix = 64};
}

static struct choose_ports one_rail(struct choose_gid gid)
{
    struct choose_ports ports = {.rail_count = 1, .queue_pairs = 1};
    ports.rails[0] = (struct choose_rail){
        .layer = CHOOSE_LAYER_ETHERNET, .mtu = 5, .gid_count = 1, .gids = {gid}};
    return ports;
}

#define V1 CHOOSE_GID_ROCE_V1
#define V2 CHOOSE_GID_ROCE_V2

static void test_choose_ranks_pairs_of_gids(void)
{
    struct choose_gid near = ipv4(V2, 10, 0, 0, 1), far = ipv4(V2, 10, 0, 1, 1);
    struct choose_gid here = ipv4(V2, 10, 0, 0, 2), old = ipv4(V1, 10, 0, 0, 2);
    struct choose_gid six = ipv6(V2, 1, 1), six_near = ipv6(V2, 1, 2), six_far = ipv6(V2, 2, 2);
    struct choose_gid link = local6(V2, 1), link_near = local6(V2, 2);
    struct choose_gid old_near = ipv4(V1, 10, 0, 0, 1);
    /* One version and one family, or nothing. */
    CU_ASSERT_EQUAL(choose_score(&here, &old_near), 0);
    CU_ASSERT_EQUAL(choose_score(&here, &six), 0);
    CU_ASSERT_EQUAL(choose_score(&six, &link), 0);
    /* v2 before v1 whatever the subnet; then the subnet; then the family. */
    CU_ASSERT_TRUE(choose_score(&here, &far) > choose_score(&old, &old_near));
    CU_ASSERT_TRUE(choose_score(&here, &near) > choose_score(&here, &far));
    CU_ASSERT_TRUE(choose_score(&here, &near) > choose_score(&six, &six_near));
    CU_ASSERT_TRUE(choose_score(&six, &six_near) > choose_score(&here, &far));
    CU_ASSERT_TRUE(choose_score(&six, &six_far) > choose_score(&link, &link_near));
    CU_ASSERT_TRUE(choose_score(&link, &link_near) > 0);
    CU_ASSERT_EQUAL(choose_score(&here, &near), choose_score(&near, &here));
}

static void test_choose_looks_at_the_bits_of_a_subnet(void)
{
    struct choose_gid a = ipv4(V2, 10, 0, 0, 127), b = ipv4(V2, 10, 0, 0, 128);
    uint32_t same = choose_score(&a, &b);
    a.prefix = b.prefix = 96 + 25;
    CU_ASSERT_TRUE(choose_score(&a, &b) < same);
    a.prefix = 96 + 24; /* the wider of two masks says what both may think */
    CU_ASSERT_EQUAL(choose_score(&a, &b), same);
    a.prefix = 0; /* unknown */
    CU_ASSERT_TRUE(choose_score(&a, &b) < same);
}

static void test_choose_sorts_the_gids_of_a_port(void)
{
    struct choose_gid gids[] = {local6(V1, 1), local6(V2, 1), ipv4(V1, 10, 0, 0, 1),
                                ipv4(V2, 10, 0, 0, 1), ipv6(V2, 1, 1)};
    for (uint16_t i = 0; i < 5; i++)
        gids[i].index = i;
    CU_ASSERT_EQUAL_FATAL(choose_gids(gids, 5), CHOOSE_GIDS_MAX);
    CU_ASSERT_EQUAL(gids[0].index, 3);
    CU_ASSERT_EQUAL(gids[1].index, 4);
    CU_ASSERT_EQUAL(gids[2].index, 1);
    CU_ASSERT_EQUAL(choose_gids(gids, 1), 1);
    CU_ASSERT_EQUAL(choose_gids(gids, 0), 0);
}

static void test_choose_keeps_what_the_connection_manager_can_dial(void)
{
    struct choose_rail rail = {.layer = CHOOSE_LAYER_ETHERNET, .gid_count = 3};
    rail.gids[0] = local6(V2, 1); /* says nothing without its interface */
    rail.gids[1] = ipv4(V2, 10, 0, 0, 1);
    rail.gids[2] = ipv4(V1, 10, 0, 0, 1); /* the same address */
    CU_ASSERT_EQUAL_FATAL(choose_dialable(&rail), 1);
    CU_ASSERT_EQUAL(rail.gid_count, 1);
    CU_ASSERT_TRUE(rail.gids[0].type == V2 && rail.gids[0].raw[15] == 1 &&
                   rail.gids[0].raw[0] == 0);
    rail.gids[0] = local6(V2, 1);
    CU_ASSERT_EQUAL(choose_dialable(&rail), 0);
}

static struct choose_ports random_ports(uint64_t *state)
{
    struct choose_ports ports = {.rail_count = (uint8_t)(suite_random(state) % 5),
                                 .queue_pairs = (uint8_t)(1 + suite_random(state) % 4)};
    for (uint32_t r = 0; r < ports.rail_count; r++) {
        struct choose_rail *rail = &ports.rails[r];
        *rail = (struct choose_rail){.layer = CHOOSE_LAYER_ETHERNET, .mtu = 3};
        rail->gid_count = (uint8_t)(suite_random(state) % 4);
        for (uint32_t g = 0; g < rail->gid_count; g++) {
            uint8_t net = (uint8_t)(suite_random(state) % 3), host = (uint8_t)suite_random(state);
            uint8_t type = suite_random(state) % 3 ? V2 : V1;
            uint64_t family = suite_random(state) % 3;
            rail->gids[g] = family == 0   ? ipv4(type, 10, 0, net, host)
                            : family == 1 ? ipv6(type, net, host)
                                          : local6(type, host);
        }
    }
    return ports;
}

/* Both ends come to the same list, each port is used by one pair, every pair can talk. */
static void test_choose_agrees_with_the_other_end(void)
{
    uint64_t state = suite_seed();
    uint32_t found = 0;
    for (int i = 0; i < 5000; i++) {
        struct choose_ports a = random_ports(&state), b = random_ports(&state);
        struct choose_path mine[CHOOSE_PATHS_MAX], theirs[CHOOSE_PATHS_MAX];
        uint32_t count = choose_paths(&a, &b, true, mine);
        CU_ASSERT_EQUAL_FATAL(choose_paths(&b, &a, false, theirs), count);
        CU_ASSERT_TRUE(choose_valid(&a) && choose_valid(&b));
        uint32_t each = a.queue_pairs < b.queue_pairs ? a.queue_pairs : b.queue_pairs;
        uint32_t used[2][CHOOSE_RAILS_MAX] = {{0}};
        for (uint32_t p = 0; p < count; p++) {
            const struct choose_path *path = &mine[p];
            CU_ASSERT_EQUAL(path->rail[0], theirs[p].rail[1]);
            CU_ASSERT_EQUAL(path->rail[1], theirs[p].rail[0]);
            CU_ASSERT_EQUAL(path->gid[0], theirs[p].gid[1]);
            CU_ASSERT_EQUAL(path->gid[1], theirs[p].gid[0]);
            CU_ASSERT_TRUE(choose_score(&a.rails[path->rail[0]].gids[path->gid[0]],
                                        &b.rails[path->rail[1]].gids[path->gid[1]]) > 0);
            CU_ASSERT_TRUE(++used[0][path->rail[0]] <= each && ++used[1][path->rail[1]] <= each);
        }
        found += count > 0;
    }
    CU_ASSERT_TRUE(found > 1000);
}

static void test_choose_pairs_rails_by_subnet(void)
{
    struct choose_ports a = one_rail(ipv4(V2, 10, 0, 0, 1)), b = one_rail(ipv4(V2, 10, 0, 1, 2));
    struct choose_path paths[CHOOSE_PATHS_MAX];
    a.rail_count = b.rail_count = 2;
    a.queue_pairs = 2;
    a.rails[1] = one_rail(ipv4(V2, 10, 0, 1, 1)).rails[0];
    b.rails[1] = one_rail(ipv4(V2, 10, 0, 0, 2)).rails[0];
    CU_ASSERT_EQUAL_FATAL(choose_paths(&a, &b, true, paths), 2);
    CU_ASSERT_TRUE(paths[0].rail[0] != paths[0].rail[1] && paths[1].rail[0] != paths[1].rail[1]);
    b.queue_pairs = 2;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 4);
}

static void test_choose_says_why_nothing_fits(void)
{
    struct choose_ports a = one_rail(ipv4(V2, 10, 0, 0, 1)), b = one_rail(ipv6(V2, 1, 1));
    struct choose_path paths[CHOOSE_PATHS_MAX];
    char why[300];
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 0);
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "TUTTI_VERBS_GID_INDEX"));
    b.rails[0].layer = CHOOSE_LAYER_IB;
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "link layer here is Ethernet (RoCE) and there InfiniBand"));
    b.rail_count = 0;
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "the other side could open none of its RDMA ports"));
    b = a;
    b.cm = 1;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 0);
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "TUTTI_VERBS_CONNECT"));
}

/* Without a router's LID no packet leaves its subnet. */
static void test_choose_keeps_infiniband_in_its_subnet(void)
{
    struct choose_ports a = one_rail(local6(CHOOSE_GID_IB, 1));
    struct choose_ports b = one_rail(local6(CHOOSE_GID_IB, 2));
    struct choose_path paths[CHOOSE_PATHS_MAX];
    char why[300];
    a.rails[0].layer = b.rails[0].layer = CHOOSE_LAYER_IB;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 1);
    b.rails[0].gids[0].raw[7] = 1;
    CU_ASSERT_EQUAL(choose_paths(&a, &b, true, paths), 0);
    choose_why(&a, &b, why, sizeof why);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "different InfiniBand subnets"));
}

static void test_choose_refuses_what_is_out_of_bounds(void)
{
    struct choose_ports good = one_rail(ipv4(V2, 10, 0, 0, 1)), bad = good;
    CU_ASSERT_TRUE(choose_valid(&good));
    bad.rail_count = CHOOSE_RAILS_MAX + 1;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.queue_pairs = 0;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].gid_count = CHOOSE_GIDS_MAX + 1;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].gids[0].prefix = 129;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].mtu = 0;
    CU_ASSERT_FALSE(choose_valid(&bad));
    bad = good;
    bad.rails[0].layer = 9;
    CU_ASSERT_FALSE(choose_valid(&bad));
}

static void test_choose_writes_gids(void)
{
    char text[96];
    struct choose_gid four = ipv4(V2, 10, 1, 2, 3), six = ipv6(V1, 1, 7);
    four.index = 5;
    CU_ASSERT_STRING_EQUAL(choose_gid_text(&four, text, sizeof text),
                           "::ffff:10.1.2.3 (RoCE v2, index 5)");
    CU_ASSERT_STRING_EQUAL(choose_gid_text(&six, text, sizeof text),
                           "fd00:0100:0000:0000:0000:0000:0000:0007 (RoCE v1, index 0)");
}

/* ---- distance --------------------------------------------------------------------------------
 */

static void put(const char *root, const char *path, const char *text)
{
    char command[600];
    snprintf(command, sizeof command, "mkdir -p \"$(dirname %s/%s)\" && printf '%s' > %s/%s", root,
             path, text, root, path);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* Two nodes of two and three cores; a device on each, and one of software. */
static void test_verbs_measures_distances(void)
{
    char root[] = "/tmp/tutti-test-XXXXXX", command[64];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(root));
    put(root, "devices/system/node/node0/cpulist", "0,4\\n");
    put(root, "devices/system/node/node1/cpulist", "1-3\\n");
    put(root, "devices/system/node/node0/distance", "10 21\\n");
    put(root, "devices/system/node/node1/distance", "21 10\\n");
    put(root, "class/infiniband/mlx5_0/device/numa_node", "0\\n");
    put(root, "class/infiniband/mlx5_1/device/numa_node", "1\\n");
    put(root, "class/infiniband/rxe0/unlike", "");
    CU_ASSERT_EQUAL(distance_node(root, "mlx5_0"), 0);
    CU_ASSERT_EQUAL(distance_node(root, "mlx5_1"), 1);
    CU_ASSERT_EQUAL(distance_node(root, "rxe0"), -1);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(4, &cores);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 0), 10);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 1), 21);
    CU_ASSERT_EQUAL(distance_from(root, &cores, -1), DISTANCE_LOCAL);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 7), DISTANCE_LOCAL);
    CPU_SET(2, &cores);
    CU_ASSERT_EQUAL(distance_from(root, &cores, 0), 16); /* the mean of 10 and 21, rounded */
    CU_ASSERT_EQUAL(distance_from("/nowhere", &cores, 0), DISTANCE_LOCAL);
    snprintf(command, sizeof command, "rm -r %s", root);
    CU_ASSERT_EQUAL(system(command), 0);
}

/* The fastest first, of those the nearest, of those the first found. */
static void test_verbs_orders_ports(void)
{
    struct choose_order ports[] = {
        {100000, 21, 0}, {100000, 10, 1}, {400000, 21, 2}, {100000, 10, 3}, {25000, 10, 4}};
    static const uint32_t expected[] = {2, 1, 3, 0, 4};
    qsort(ports, 5, sizeof *ports, choose_first);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(ports[i].found, expected[i]);
}

/* ---- memory of GPUs ---------------------------------------------------------------------------
 */

static void test_choose_finds_a_way_into_gpu_memory(void)
{
    enum { AUTO, DMABUF, PEERMEM, OFF };
    static const struct {
        unsigned setting;
        bool dmabuf;
        enum choose_gpu ways[3]; /* tried one after the other */
    } cases[] = {
        {AUTO, true, {CHOOSE_GPU_DMABUF, CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED}},
        {AUTO, false, {CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {DMABUF, true, {CHOOSE_GPU_DMABUF, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {DMABUF, false, {CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {PEERMEM, true, {CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
        {OFF, true, {CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED, CHOOSE_GPU_STAGED}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned from = CHOOSE_GPU_DMABUF;
        for (int tried = 0; tried < 3; tried++) {
            enum choose_gpu way = choose_gpu(cases[i].setting, from, cases[i].dmabuf);
            CU_ASSERT_EQUAL(way, cases[i].ways[tried]);
            from = way + 1;
        }
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(choose_ranks_pairs_of_gids),
        TEST(choose_looks_at_the_bits_of_a_subnet),
        TEST(choose_sorts_the_gids_of_a_port),
        TEST(choose_agrees_with_the_other_end),
        TEST(verbs_measures_distances),
        TEST(verbs_orders_ports),
        TEST(choose_pairs_rails_by_subnet),
        TEST(choose_says_why_nothing_fits),
        TEST(choose_keeps_infiniband_in_its_subnet),
        TEST(choose_refuses_what_is_out_of_bounds),
        TEST(choose_writes_gids),
        TEST(choose_keeps_what_the_connection_manager_can_dial),
        TEST(choose_finds_a_way_into_gpu_memory),
    };
    return suite_run("verbs", tests, sizeof tests / sizeof *tests, argc, argv);
}
