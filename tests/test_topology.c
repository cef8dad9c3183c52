/* test_topology.c: the host record of this machine, and what follows from records of others: each
 * row of `recorded` is a job on machines of a kind we have seen, with the groups, the crowding and
 * the plans that are expected of it. A plan that changes there is a decision, to be made knowingly.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "src/planner.h"
#include "src/topology.h"
#include "tests/suite.h"

#define HOSTS_MAX 5

/* ---- recorded machines ----------------------------------------------------------------------- */

struct recorded {
    const char *name;
    uint32_t ranks[HOSTS_MAX]; /* per host, 0 ends; ranks are numbered host by host */
    uint32_t cores;            /* that each rank may run on */
    uint32_t bound;            /* so many successive ranks share their cores; 0: all of a host */
    uint32_t l3, package; /* so many successive ranks share a cache, a package; 0: all of a host */
    uint32_t nic_mbps;
    bool cyclic; /* ranks are dealt to hosts one by one */
    /* expected */
    uint32_t ranks_per_core;
    enum near near;
    const char *plan[3], *broadcast[3], *reduce[3]; /* plan: of allreduce; of recorded_bytes */
};

static const struct recorded recorded[] = {
    {.name = "virtual machine, 2 cores, 2 ranks",
     .ranks = {2},
     .cores = 2,
     .ranks_per_core = 1,
     .plan = {"direct", "rsag", "rsag"},
     .broadcast = {"flat", "flat", "flat"},
     .reduce = {"flat", "flat", "flat"}},
    {.name = "virtual machine, 2 cores, 4 ranks: crowded",
     .ranks = {4},
     .cores = 2,
     .ranks_per_core = 2,
     .plan = {"direct", "rsag", "rsag"},
     .broadcast = {"flat", "flat", "flat"},
     .reduce = {"flat", "rsgather", "rsgather"}},
    {.name = "workstation, 8 cores, ranks bound to one each",
     .ranks = {8},
     .cores = 1,
     .bound = 1,
     .ranks_per_core = 1,
     .plan = {"rdoubling", "rsag", "rsag"},
     .broadcast = {"flat", "scatter_allgather", "scatter_allgather"},
     .reduce = {"binomial", "rsgather", "rsgather"}},
    {.name = "2 servers of 8 cores, 10 Gb/s",
     .ranks = {8, 8},
     .cores = 8,
     .nic_mbps = 10000,
     .ranks_per_core = 1,
     .plan = {"rdoubling", "rabenseifner", "hier"},
     .broadcast = {"binomial", "hier", "hier"},
     .reduce = {"binomial", "hier", "hier"}},
    {.name = "4 servers of two 4-core NUMA nodes, 25 Gb/s, dealt round robin",
     .ranks = {8, 8, 8, 8},
     .cores = 4,
     .bound = 4,
     .l3 = 4,
     .package = 4,
     .nic_mbps = 25000,
     .cyclic = true,
     .ranks_per_core = 1,
     .near = NEAR_HOST,
     .plan = {"rdoubling", "hier", "hier"},
     .broadcast = {"hier", "chain", "chain"},
     .reduce = {"hier", "chain", "chain"}},
    {.name = "uneven: 3 hosts with 4, 2 and 1 ranks, speed unknown",
     .ranks = {4, 2, 1},
     .cores = 4,
     .ranks_per_core = 1,
     .plan = {"direct", "rabenseifner", "rabenseifner"},
     .broadcast = {"hier", "chain", "chain"},
     .reduce = {"hier", "chain", "chain"}},
    {.name = "4 single-rank hosts, 100 Gb/s",
     .ranks = {1, 1, 1, 1},
     .cores = 64,
     .nic_mbps = 100000,
     .ranks_per_core = 1,
     .plan = {"direct", "rsag", "rsag"},
     .broadcast = {"flat", "chain", "chain"},
     .reduce = {"flat", "rsgather", "chain"}},
    {.name = "workstation, 16 cores, an L3 cache for 8, ranks bound to one core each",
     .ranks = {16},
     .cores = 1,
     .bound = 1,
     .l3 = 8,
     .ranks_per_core = 1,
     .near = NEAR_NUMA,
     .plan = {"rdoubling", "rabenseifner", "rsag"},
     .broadcast = {"binomial", "scatter_allgather", "scatter_allgather"},
     .reduce = {"binomial", "rsgather", "rsgather"}},
    {.name = "server, 2 packages of 8 cores, an L3 cache for 4, ranks bound to one core each",
     .ranks = {16},
     .cores = 1,
     .bound = 1,
     .l3 = 4,
     .package = 8,
     .ranks_per_core = 1,
     .near = NEAR_HOST,
     .plan = {"direct", "rsag", "rsag"},
     .broadcast = {"flat", "scatter_allgather", "scatter_allgather"},
     .reduce = {"flat", "rsgather", "rsgather"}},
};
#define RECORDED (sizeof recorded / sizeof *recorded)

static const uint64_t recorded_bytes[3] = {8, 64 << 10, 16 << 20};

/* The records of such a job; *size of them. */
static struct host_record *play_back(const struct recorded *job, uint32_t *size)
{
    uint32_t hosts = 0, left[HOSTS_MAX], taken[HOSTS_MAX] = {0}, total = 0;
    for (; hosts < HOSTS_MAX && job->ranks[hosts]; hosts++)
        total += left[hosts] = job->ranks[hosts];
    struct host_record *records = calloc(total, sizeof *records);
    for (uint32_t r = 0, host = 0; r < total; r++) {
        while (left[host % hosts] == 0)
            host++;
        left[host % hosts]--;
        uint32_t local = taken[host % hosts]++, package = job->package ? local / job->package : 0;
        records[r] = (struct host_record){.version = TOPOLOGY_VERSION,
                                          .pid = 100 + r,
                                          .host_id = 0xabcdef00 + host % hosts,
                                          .process_id = r + 1,
                                          .cores = job->cores,
                                          .l3_id = job->l3 ? local / job->l3 : 0,
                                          .numa_node = package,
                                          .package = package,
                                          .nic_mbps = job->nic_mbps,
                                          .cpuset_hash = job->bound ? local / job->bound : 0};
        snprintf(records[r].host, sizeof records[r].host, "host%u", host % hosts);
        host += job->cyclic;
    }
    *size = total;
    return records;
}

static struct shape shape_of(const struct topology *topology, tutti_coll coll, uint64_t bytes)
{
    struct shape shape = {.coll = coll,
                          .size = topology->groups.size,
                          .count = bytes / 4,
                          .elem_size = 4,
                          .groups = &topology->groups,
                          .reduce_us_per_byte = topology->reduce_us_per_byte,
                          .copy_us_per_byte = topology->copy_us_per_byte};
    memcpy(shape.model, topology->model, sizeof shape.model);
    return shape;
}

static void test_topology_groups_ranks_by_host(void)
{
    for (size_t i = 0; i < RECORDED; i++) {
        struct topology topology;
        uint32_t size, hosts = 0;
        struct host_record *records = play_back(&recorded[i], &size);
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        while (hosts < HOSTS_MAX && recorded[i].ranks[hosts])
            hosts++;
        CU_ASSERT_EQUAL(topology.groups.nodes, hosts);
        for (uint32_t a = 0; a < size; a++) {
            for (uint32_t b = 0; b < size; b++)
                CU_ASSERT_EQUAL(topology.groups.node_of[a] == topology.groups.node_of[b],
                                records[a].host_id == records[b].host_id);
        }
        CU_ASSERT_EQUAL(topology.max_ranks_per_core, recorded[i].ranks_per_core);
        if (topology.max_ranks_per_core != recorded[i].ranks_per_core)
            printf("    %s: %u ranks per core\n", recorded[i].name, topology.max_ranks_per_core);
        CU_ASSERT_FALSE(topology.one_process);
        CU_ASSERT_EQUAL(topology.near, recorded[i].near);
        topology_free(&topology);
        topology_free(&topology); /* once is enough, twice does no harm */
        free(records);
    }
}

static const char *cheapest_of(const struct shape *shape)
{
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    struct settings settings;
    uint32_t count = 0;
    settings_defaults(&settings);
    CU_ASSERT_EQUAL_FATAL(planner_candidates(&settings, shape, list, &count), TUTTI_OK);
    return list[0].algorithm->name;
}

static const char *cheapest(const struct topology *topology, tutti_coll coll, uint64_t bytes)
{
    struct shape shape = shape_of(topology, coll, bytes);
    return cheapest_of(&shape);
}

static void expect_plans(const struct recorded *job, const struct topology *topology,
                         tutti_coll coll, const char *const plan[3])
{
    for (int s = 0; s < 3; s++) {
        const char *name = cheapest(topology, coll, recorded_bytes[s]);
        bool expected = strcmp(name, plan[s]) == 0;
        CU_ASSERT_TRUE(expected);
        if (!expected)
            printf("    %s, %s of %llu bytes: %s, expected %s\n", job->name, coll_name(coll),
                   (unsigned long long)recorded_bytes[s], name, plan[s]);
    }
}

static void test_topology_plans_as_recorded(void)
{
    for (size_t i = 0; i < RECORDED; i++) {
        struct topology topology;
        uint32_t size;
        struct host_record *records = play_back(&recorded[i], &size);
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        expect_plans(&recorded[i], &topology, TUTTI_COLL_ALLREDUCE, recorded[i].plan);
        expect_plans(&recorded[i], &topology, TUTTI_COLL_BROADCAST, recorded[i].broadcast);
        expect_plans(&recorded[i], &topology, TUTTI_COLL_REDUCE, recorded[i].reduce);
        topology_free(&topology);
        free(records);
    }
}

/* Who gets a block within a host copies it: one that is longer than others keeps no sender busy,
 * and makes no detour of it worth while. */
static void test_topology_plans_unequal_blocks_as_equal_ones_within_a_host(void)
{
    for (size_t i = 0; i < RECORDED; i++) {
        struct topology topology;
        uint32_t size;
        struct host_record *records = play_back(&recorded[i], &size);
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        for (int s = 0; s < 3 && topology.groups.nodes == 1; s++) {
            uint64_t *counts = calloc(2 * (size_t)size, sizeof *counts), *displs = counts + size;
            struct shape shape = shape_of(&topology, TUTTI_COLL_ALLGATHERV, recorded_bytes[s]);
            uint64_t average = recorded_bytes[s] / 4;
            shape.counts = counts;
            shape.displs = displs;
            for (uint32_t r = 0; r < size; r++)
                counts[r] = average;
            const char *equal = cheapest_of(&shape);
            for (uint32_t r = 0; r + 1 < size; r += 2) {
                counts[r] -= average / 4;
                counts[r + 1] += average / 4;
            }
            CU_ASSERT_STRING_EQUAL(cheapest_of(&shape), equal);
            free(counts);
        }
        topology_free(&topology);
        free(records);
    }
}

/* Whatever fits must also be emitted, on every rank, with one hash. */
static void test_topology_plans_agree_between_ranks(void)
{
    static const tutti_coll colls[] = {
        TUTTI_COLL_ALLREDUCE, TUTTI_COLL_ALLGATHER, TUTTI_COLL_REDUCE_SCATTER, TUTTI_COLL_BROADCAST,
        TUTTI_COLL_REDUCE,    TUTTI_COLL_GATHER,    TUTTI_COLL_SCATTER,        TUTTI_COLL_ALLTOALL};
    struct settings settings;
    uint64_t state = suite_seed();
    settings_defaults(&settings);
    for (size_t i = 0; i < RECORDED; i++) {
        struct topology topology;
        uint32_t size;
        struct host_record *records = play_back(&recorded[i], &size);
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        for (size_t c = 0; c < sizeof colls / sizeof *colls; c++) {
            uint64_t bytes = suite_random(&state) % (1 << suite_random(&state) % 24);
            uint32_t root = (uint32_t)(suite_random(&state) % size), hash = 0;
            for (uint32_t rank = 0; rank < size; rank++) {
                struct shape shape = shape_of(&topology, colls[c], bytes);
                struct plan plan;
                shape.rank = rank;
                shape.root = coll_info(colls[c])->has_root ? root : 0;
                shape.in_place = rank % 2;
                CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &plan), TUTTI_OK);
                hash = rank ? hash : plan.hash;
                CU_ASSERT_EQUAL(plan.hash, hash);
                plan_free(&plan);
            }
        }
        topology_free(&topology);
        free(records);
    }
}

static void test_topology_prices_crowding(void)
{
    struct topology alone, crowded;
    uint32_t size;
    struct host_record *records = play_back(&recorded[0], &size);
    CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &alone), TUTTI_OK);
    records[0].cores = records[1].cores = 1;
    CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &crowded), TUTTI_OK);
    CU_ASSERT_EQUAL(crowded.max_ranks_per_core, 2);
    CU_ASSERT_TRUE(crowded.model[LEVEL_NODE].alpha_us >= 2);
    CU_ASSERT_TRUE(alone.model[LEVEL_NODE].alpha_us < 1);
    CU_ASSERT_TRUE(crowded.model[LEVEL_NET].alpha_us > alone.model[LEVEL_NET].alpha_us);
    CU_ASSERT_TRUE(crowded.reduce_us_per_byte > alone.reduce_us_per_byte);
    topology_free(&alone);
    topology_free(&crowded);
    free(records);
}

/* Two ranks of one host, ever farther apart: latency grows, bandwidth falls, and the text says why.
 */
static void test_topology_prices_distance(void)
{
    static const struct {
        uint32_t l3_id, numa_node, package;
        const char *text;
    } far[NEAR_COUNT] = {
        {0, 0, 0, "2 ranks on 1 host, sharing an L3 cache: about 0.30 us and 8.0 GB/s"},
        {1, 0, 0, "2 ranks on 1 host, sharing a NUMA node but no L3 cache: "},
        {1, 1, 0, "2 ranks on 1 host, sharing a package but no NUMA node: "},
        {1, 1, 1, "2 ranks on 1 host, sharing no package for certain: "},
    };
    struct link_model last = {0};
    uint32_t size;
    struct host_record *records = play_back(&recorded[0], &size);
    for (uint32_t i = 0; i < NEAR_COUNT; i++) {
        struct topology topology;
        char text[256];
        records[1].l3_id = far[i].l3_id;
        records[1].numa_node = far[i].numa_node;
        records[1].package = far[i].package;
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        CU_ASSERT_EQUAL(topology.near, i);
        CU_ASSERT_TRUE(topology.model[LEVEL_NODE].alpha_us > last.alpha_us);
        CU_ASSERT_TRUE(topology.model[LEVEL_NODE].us_per_byte > last.us_per_byte);
        CU_ASSERT_EQUAL(topology.model[LEVEL_NET].alpha_us, 10);
        topology_explain(&topology, text, sizeof text);
        CU_ASSERT_PTR_EQUAL(strstr(text, far[i].text), text);
        topology_explain(&topology, text, 5);
        CU_ASSERT_EQUAL(strlen(text), 4);
        last = topology.model[LEVEL_NODE];
        topology_free(&topology);
    }
    /* what is not known is not shared */
    struct topology unknown;
    records[0].l3_id = records[1].l3_id = UINT32_MAX;
    records[0].numa_node = records[1].numa_node = UINT32_MAX;
    records[0].package = records[1].package = UINT32_MAX;
    CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &unknown), TUTTI_OK);
    CU_ASSERT_EQUAL(unknown.near, NEAR_HOST);
    topology_free(&unknown);
    free(records);
}

/* Without shared memory messages inside a host cost what they cost over sockets, and a rank that
 * sends to all pays for each. */
static void test_topology_prices_ranks_apart(void)
{
    struct topology topology;
    uint32_t size;
    char text[200];
    struct host_record *records = play_back(&recorded[1], &size);
    CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
    struct link_model shared = topology.model[LEVEL_NODE];
    CU_ASSERT_STRING_EQUAL(cheapest(&topology, TUTTI_COLL_BARRIER, 0), "direct");
    CU_ASSERT_STRING_EQUAL(cheapest(&topology, TUTTI_COLL_BROADCAST, 16 << 20), "flat");
    topology_set_apart(&topology);
    CU_ASSERT_TRUE(topology.model[LEVEL_NODE].alpha_us > 5 * shared.alpha_us);
    CU_ASSERT_TRUE(topology.model[LEVEL_NODE].us_per_byte > 2 * shared.us_per_byte);
    CU_ASSERT_STRING_EQUAL(cheapest(&topology, TUTTI_COLL_BARRIER, 0), "dissemination");
    CU_ASSERT_STRING_EQUAL(cheapest(&topology, TUTTI_COLL_BROADCAST, 16 << 20),
                           "scatter_allgather");
    topology_explain(&topology, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "4 ranks on 1 host, sharing no memory: about "));
    topology_free(&topology);
    free(records);
}

/* A cache is shared by the ranks below it; by all of the host where they are not bound. */
static void test_topology_shares_caches(void)
{
    static const struct {
        uint32_t l3_ranks, cache_kib; /* so many ranks below one cache of so many KiB */
        uint64_t share;
    } cases[] = {{1, 4096, 4 << 20}, {2, 4096, 2 << 20}, {4, 32768, 8 << 20}, {4, 0, UINT64_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct topology topology;
        uint32_t size;
        struct host_record *records = play_back(&recorded[3], &size);
        for (uint32_t r = 0; r < size; r++) {
            uint32_t local = 0; /* ranks of r's host before it */
            for (uint32_t q = 0; q < r; q++)
                local += records[q].host_id == records[r].host_id;
            records[r].l3_id = local / cases[i].l3_ranks;
            records[r].cache_kib = cases[i].cache_kib;
        }
        CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
        for (uint32_t r = 0; r < size; r++)
            CU_ASSERT_EQUAL(topology_cache_share(&topology, r), cases[i].share);
        topology_free(&topology);
        free(records);
    }
}

static void test_topology_takes_the_slowest_network(void)
{
    struct topology topology;
    uint32_t size;
    struct host_record *records = play_back(&recorded[3], &size);
    records[5].nic_mbps = 1000;
    CU_ASSERT_EQUAL_FATAL(topology_make(size, records, &topology), TUTTI_OK);
    CU_ASSERT_TRUE(topology.model[LEVEL_NET].us_per_byte > 7.9e-3);
    CU_ASSERT_TRUE(topology.model[LEVEL_NET].us_per_byte < 8.1e-3);
    topology_free(&topology);
    free(records);
}

static void test_topology_refuses_another_version(void)
{
    struct topology topology;
    uint32_t size;
    struct host_record *records = play_back(&recorded[3], &size);
    records[9].version = 7;
    CU_ASSERT_EQUAL(topology_make(size, records, &topology), TUTTI_ERR_PROTOCOL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "rank 9 (host host1) describes its host in "
                                                     "version 7, this rank knows version 2"));
    free(records);
}

static void test_topology_ends_texts_of_peers(void)
{
    struct topology topology;
    struct host_record record = {.version = TOPOLOGY_VERSION, .cores = 0};
    memset(record.host, 'x', sizeof record.host);
    CU_ASSERT_EQUAL_FATAL(topology_make(1, &record, &topology), TUTTI_OK);
    CU_ASSERT_EQUAL(strlen(topology.records[0].host), sizeof record.host - 1);
    CU_ASSERT_EQUAL(topology.max_ranks_per_core, 1);
    CU_ASSERT_TRUE(topology.one_process);
    topology_free(&topology);
}

static void test_topology_survives_failing_allocations(void)
{
    uint32_t size;
    struct host_record *records = play_back(&recorded[3], &size);
    bool reached = true;
    for (uint64_t k = 1; k < 100 && reached; k++) {
        struct topology topology = {0};
        suite_fail_allocation(k);
        tutti_status status = topology_make(size, records, &topology);
        reached = suite_allocation_failed();
        suite_fail_allocation(0);
        CU_ASSERT_EQUAL(status, reached ? TUTTI_ERR_NOMEM : TUTTI_OK);
        topology_free(&topology);
    }
    CU_ASSERT_FALSE(reached);
    free(records);
}

/* ---- this machine ---------------------------------------------------------------------------- */

static struct host_record probe(const char *host_id)
{
    struct settings settings;
    struct host_record record = {0};
    settings_defaults(&settings);
    snprintf(settings.host_id, sizeof settings.host_id, "%s", host_id);
    CU_ASSERT_EQUAL_FATAL(topology_probe(&settings, &record), TUTTI_OK);
    return record;
}

static void test_probe_describes_this_process(void)
{
    struct host_record first = probe(""), second = first;
    uint64_t took_us = UINT64_MAX;
    for (int i = 0; i < 5; i++) { /* the best: others may have the core */
        uint64_t start = clock_ns();
        second = probe("");
        uint64_t once_us = (clock_ns() - start) / 1000;
        took_us = once_us < took_us ? once_us : took_us;
    }
    printf("    host %s: %u cores, node %d, package %d, L3 %d, %u Mb/s; probed again in %llu "
           "us\n",
           first.host, first.cores, (int)first.numa_node, (int)first.package, (int)first.l3_id,
           first.nic_mbps, (unsigned long long)took_us);
    CU_ASSERT_EQUAL(memcmp(&first, &second, sizeof first), 0);
    CU_ASSERT_TRUE(took_us < 20000);
    CU_ASSERT_EQUAL(first.version, TOPOLOGY_VERSION);
    CU_ASSERT_EQUAL(first.pid, (uint32_t)getpid());
    CU_ASSERT_TRUE(first.cores >= 1 && first.cores <= 65536);
    CU_ASSERT_NOT_EQUAL(first.host_id, 0);
    CU_ASSERT_NOT_EQUAL(first.process_id, 0);
    CU_ASSERT_NOT_EQUAL(first.start_time, 0);
    CU_ASSERT_NOT_EQUAL(first.host[0], 0);
}

static void test_probe_divides_a_host_by_name(void)
{
    struct host_record plain = probe(""), a = probe("a"), b = probe("b"), again = probe("a");
    CU_ASSERT_NOT_EQUAL(a.host_id, plain.host_id);
    CU_ASSERT_NOT_EQUAL(a.host_id, b.host_id);
    CU_ASSERT_EQUAL(a.host_id, again.host_id);
    CU_ASSERT_EQUAL(a.process_id, b.process_id);
}

/* Runs a probe in a child after `settle`; false if settle says that it cannot be done here. */
static bool probe_in_child(bool (*settle)(void), struct host_record *record)
{
    int pipes[2];
    CU_ASSERT_EQUAL_FATAL(pipe(pipes), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (settle == NULL || settle()) {
            struct host_record mine = probe("");
            (void)!write(pipes[1], &mine, sizeof mine);
        }
        _exit(0);
    }
    close(pipes[1]);
    bool done = read(pipes[0], record, sizeof *record) == sizeof *record;
    close(pipes[0]);
    waitpid(child, NULL, 0);
    return done;
}

static bool bind_to_one_core(void)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2)
        return false;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    }
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

static bool leave_network(void)
{
    return unshare(CLONE_NEWNET) == 0;
}

static void test_probe_tells_processes_apart(void)
{
    struct host_record mine = probe(""), child;
    CU_ASSERT_TRUE_FATAL(probe_in_child(NULL, &child));
    CU_ASSERT_EQUAL(child.host_id, mine.host_id);
    CU_ASSERT_NOT_EQUAL(child.process_id, mine.process_id);
    CU_ASSERT_NOT_EQUAL(child.pid, mine.pid);
}

static void test_probe_sees_the_binding(void)
{
    struct host_record mine = probe(""), child;
    if (!probe_in_child(bind_to_one_core, &child)) {
        suite_skip("this process may run on one core only");
        return;
    }
    CU_ASSERT_EQUAL(child.cores, 1);
    CU_ASSERT_NOT_EQUAL(child.cpuset_hash, mine.cpuset_hash);
}

static void test_probe_sees_network_namespaces(void)
{
    struct host_record mine = probe(""), child;
    if (!probe_in_child(leave_network, &child)) {
        suite_skip("this user may not make network namespaces");
        return;
    }
    CU_ASSERT_NOT_EQUAL(child.host_id, mine.host_id);
}

static void test_probe_refuses_unknown_interfaces(void)
{
    struct settings settings;
    struct host_record record;
    settings_defaults(&settings);
    snprintf(settings.interface, sizeof settings.interface, "nosuch0");
    CU_ASSERT_EQUAL(topology_probe(&settings, &record), TUTTI_ERR_SETTING);
}

static const struct suite_test tests[] = {
    {"topology_groups_ranks_by_host", test_topology_groups_ranks_by_host},
    {"topology_plans_as_recorded", test_topology_plans_as_recorded},
    {"topology_plans_unequal_blocks_as_equal_ones_within_a_host",
     test_topology_plans_unequal_blocks_as_equal_ones_within_a_host},
    {"topology_plans_agree_between_ranks", test_topology_plans_agree_between_ranks},
    {"topology_prices_crowding", test_topology_prices_crowding},
    {"topology_prices_distance", test_topology_prices_distance},
    {"topology_prices_ranks_apart", test_topology_prices_ranks_apart},
    {"topology_shares_caches", test_topology_shares_caches},
    {"topology_takes_the_slowest_network", test_topology_takes_the_slowest_network},
    {"topology_refuses_another_version", test_topology_refuses_another_version},
    {"topology_ends_texts_of_peers", test_topology_ends_texts_of_peers},
    {"topology_survives_failing_allocations", test_topology_survives_failing_allocations},
    {"probe_describes_this_process", test_probe_describes_this_process},
    {"probe_divides_a_host_by_name", test_probe_divides_a_host_by_name},
    {"probe_tells_processes_apart", test_probe_tells_processes_apart},
    {"probe_sees_the_binding", test_probe_sees_the_binding},
    {"probe_sees_network_namespaces", test_probe_sees_network_namespaces},
    {"probe_refuses_unknown_interfaces", test_probe_refuses_unknown_interfaces},
};

int main(int argc, char **argv)
{
    return suite_run("topology", tests, sizeof tests / sizeof *tests, argc, argv);
}
