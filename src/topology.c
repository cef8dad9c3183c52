/* topology.c: from every rank's host record to hosts, levels and a model of the links between
 * them. Pure arithmetic over the records that all ranks exchanged, so every rank computes the same.
 *
 * The model is a prior, for ranking plans before anything was measured: T(message) = alpha +
 * bytes * us_per_byte (Hockney 1994), one pair for links inside a host (by what its ranks share: a
 * cache, a NUMA node, a package), one for links between hosts. What matters is its ratios: a round
 * inside a host is some thirty times cheaper than one between hosts, unless ranks outnumber cores,
 * when each round costs a hand-over by the scheduler.
 */
#include "src/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Inside a host: some lines that go from one core's cache to another's and are seen by a spinning
 * reader, and one core copying. Below one L3 cache a message costs 0.3 us (measured). The others
 * are estimates, measured nowhere: a message is two or three lines beside the library's own work, a
 * line takes perhaps twice as long between L3 caches of a package and four times as long between
 * packages, where it also shares the link with all others. Only their order is sure. */
#define NODE_ALPHA_US near_model[NEAR_L3].alpha_us
static const struct near_model {
    const char *shared;
    double alpha_us, gigabytes_per_s;
} near_model[NEAR_COUNT] = {
    [NEAR_L3] = {"an L3 cache", 0.3, 8.0},
    [NEAR_NUMA] = {"a NUMA node but no L3 cache", 0.4, 7.0},
    [NEAR_PACKAGE] = {"a package but no NUMA node", 0.45, 6.0},
    [NEAR_HOST] = {"no package for certain", 0.6, 4.0},
};
/* A further message of the same round only costs its sender's and receiver's own work. */
#define NODE_OVERHEAD_US 0.1
/* Further ranks that read one rank's memory as fast as one alone: an estimate, since at most two
 * were measured. More wait for the memory and the links that they read through. */
#define NODE_READERS 3
/* More ranks than cores: the peer must be scheduled before it can answer. A voluntary yield costs
 * about 2 us with one runnable peer and grows with their number until they sleep instead. */
#define NODE_CROWDED_ALPHA_US     2.0
#define NODE_CROWDED_MAX_ALPHA_US 5.0
/* Ranks of one host that share no memory: TCP through one kernel, which does both ends' work in the
 * sender's call. Measured with 2 to 16 ranks on two cores (coll_perf barrier allreduce --transport
 * tcp, all algorithms): a round among ranks that share cores takes so long for each rank of a core,
 * a further message as well. */
#define LOOP_ALPHA_US            6.7
#define LOOP_CROWDED_ALPHA_US    9.0
#define LOOP_OVERHEAD_US         4.0
#define LOOP_CROWDED_OVERHEAD_US 7.0
#define LOOP_GBPS                2.5
/* Between hosts: TCP through two kernels. A link of unknown speed counts as 10 Gb/s. */
#define NET_ALPHA_US     10.0
#define NET_OVERHEAD_US  1.5 /* a send and a receive call */
#define NET_DEFAULT_MBPS 10000u
/* One core reducing (two reads, one write) or copying. */
#define REDUCE_GBPS 10.0
/* Inside one host a receive reduces while it reads, nearly for nothing. What is left is priced so
 * that two ranks change from exchanging everything to exchanging halves at about 1 MiB, where
 * calls in place begin to gain more than the others lose (coll_perf allreduce --ranks 2
 * --algo allreduce:direct, then :rsag). */
#define REDUCE_ONE_HOST_GBPS 1000.0
#define COPY_GBPS            10.0

static double us_per_byte(double gigabytes_per_s)
{
    return 1e-3 / gigabytes_per_s;
}

static tutti_status check_versions(uint32_t size, const struct host_record *records)
{
    for (uint32_t r = 0; r < size; r++) {
        if (records[r].version != TOPOLOGY_VERSION)
            return fail(TUTTI_ERR_PROTOCOL,
                        "rank %u (host %.63s) describes its host in version %u, this rank knows "
                        "version %u: run the same release of the library everywhere",
                        r, records[r].host, records[r].version, TOPOLOGY_VERSION);
    }
    return TUTTI_OK;
}

/* Of the ranks of one host that are bound to the same cores as `rank`: how many per core. Ranks
 * bound to different cores do not crowd each other. */
static uint32_t ranks_per_core(const struct topology *topology, uint32_t node, uint32_t rank)
{
    const struct groups *groups = &topology->groups;
    const struct host_record *mine = &topology->records[rank];
    uint32_t sharing = 0, cores = mine->cores ? mine->cores : 1;
    for (uint32_t i = groups->first[node]; i < groups->first[node + 1]; i++)
        sharing += topology->records[groups->members[i]].cpuset_hash == mine->cpuset_hash;
    return (sharing + cores - 1) / cores;
}

/* Only the first rank of each run of equal bindings is counted for, so that a host of n ranks that
 * all share its cores, the usual case, costs n and not n * n. */
static uint32_t crowding(const struct topology *topology)
{
    const struct groups *groups = &topology->groups;
    uint32_t most = 1;
    for (uint32_t node = 0; node < groups->nodes; node++) {
        for (uint32_t i = groups->first[node]; i < groups->first[node + 1]; i++) {
            const struct host_record *mine = &topology->records[groups->members[i]];
            if (i > groups->first[node] &&
                mine->cpuset_hash == topology->records[groups->members[i - 1]].cpuset_hash)
                continue;
            uint32_t here = ranks_per_core(topology, node, groups->members[i]);
            if (here > most)
                most = here;
        }
    }
    return most;
}

/* A ring between hosts is as fast as its slowest host. */
static uint32_t slowest_nic(uint32_t size, const struct host_record *records)
{
    uint32_t slowest = UINT32_MAX;
    for (uint32_t r = 0; r < size; r++) {
        uint32_t speed = records[r].nic_mbps ? records[r].nic_mbps : NET_DEFAULT_MBPS;
        if (speed < slowest)
            slowest = speed;
    }
    return slowest;
}

static bool same(uint32_t a, uint32_t b)
{
    return a == b && a != UINT32_MAX;
}

static enum near near_of(const struct host_record *a, const struct host_record *b)
{
    return same(a->l3_id, b->l3_id)           ? NEAR_L3
           : same(a->numa_node, b->numa_node) ? NEAR_NUMA
           : same(a->package, b->package)     ? NEAR_PACKAGE
                                              : NEAR_HOST;
}

/* A plan waits for its slowest link: the farthest pair of any host counts. Each rank is compared
 * with the first of its host, which is enough: what two share with a third they share. */
static enum near farthest(const struct topology *topology)
{
    const struct groups *groups = &topology->groups;
    enum near far = NEAR_L3;
    for (uint32_t node = 0; node < groups->nodes; node++) {
        const struct host_record *first = &topology->records[groups->members[groups->first[node]]];
        for (uint32_t i = groups->first[node] + 1; i < groups->first[node + 1]; i++) {
            enum near here = near_of(first, &topology->records[groups->members[i]]);
            if (here > far)
                far = here;
        }
    }
    return far;
}

static void make_model(uint32_t size, struct topology *topology)
{
    double share = topology->max_ranks_per_core;
    const struct near_model *near = &near_model[topology->near];
    double alpha = near->alpha_us;
    if (topology->max_ranks_per_core > 1) {
        alpha = NODE_CROWDED_ALPHA_US + 0.5 * (share - 2);
        if (alpha > NODE_CROWDED_MAX_ALPHA_US)
            alpha = NODE_CROWDED_MAX_ALPHA_US;
    }
    topology->model[LEVEL_NODE].alpha_us = alpha;
    topology->model[LEVEL_NODE].us_per_byte = us_per_byte(near->gigabytes_per_s) * share;
    topology->model[LEVEL_NODE].overhead_us = NODE_OVERHEAD_US * share;
    topology->model[LEVEL_NODE].crowd = share - 1;
    topology->model[LEVEL_NODE].readers = NODE_READERS;
    topology->model[LEVEL_NET].overhead_us = NET_OVERHEAD_US * share;
    /* the scheduler's hand-over is paid on top of the network's latency */
    topology->model[LEVEL_NET].alpha_us =
        NET_ALPHA_US + (topology->max_ranks_per_core > 1 ? alpha - NODE_ALPHA_US : 0);
    topology->model[LEVEL_NET].us_per_byte = topology->model[LEVEL_NET].host_us_per_byte =
        us_per_byte(slowest_nic(size, topology->records) / 8000.0);
    topology->reduce_us_per_byte =
        us_per_byte(topology->groups.nodes == 1 ? REDUCE_ONE_HOST_GBPS : REDUCE_GBPS) * share;
    topology->copy_us_per_byte = us_per_byte(COPY_GBPS) * share;
}

void topology_set_apart(struct topology *topology)
{
    double share = topology->max_ranks_per_core;
    bool crowded = topology->max_ranks_per_core > 1;
    topology->apart = true;
    topology->model[LEVEL_NODE] = (struct link_model){
        .alpha_us = crowded ? LOOP_CROWDED_ALPHA_US * share : LOOP_ALPHA_US,
        .us_per_byte = us_per_byte(LOOP_GBPS) * share,
        .overhead_us = crowded ? LOOP_CROWDED_OVERHEAD_US * share : LOOP_OVERHEAD_US,
        .crowd = share - 1};
    topology->reduce_us_per_byte = us_per_byte(REDUCE_GBPS) * share;
}

/* Host ids are 64 bits, node ids 32: an id becomes the index of the first rank that has it. Hosts
 * are looked up through a table sorted by (host id, rank). */
struct host_key {
    uint64_t host_id;
    uint32_t rank;
};

static int compare_keys(const void *left, const void *right)
{
    const struct host_key *a = left, *b = right;
    if (a->host_id != b->host_id)
        return a->host_id < b->host_id ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

static tutti_status make_groups(uint32_t size, const struct host_record *records,
                                struct groups *groups)
{
    tutti_status status = TUTTI_OK;
    struct host_key *keys = calloc(size, sizeof *keys);
    uint32_t *node = calloc(size, sizeof *node);
    if (keys == NULL || node == NULL) {
        status = fail(TUTTI_ERR_NOMEM, "no memory for the topology of %u ranks", size);
        goto done;
    }
    for (uint32_t r = 0; r < size; r++)
        keys[r] = (struct host_key){.host_id = records[r].host_id, .rank = r};
    qsort(keys, size, sizeof *keys, compare_keys);
    for (uint32_t i = 0; i < size; i++) {
        bool same = i > 0 && keys[i].host_id == keys[i - 1].host_id;
        node[keys[i].rank] = same ? node[keys[i - 1].rank] : keys[i].rank;
    }
    status = groups_make(size, node, groups);
done:
    free(node);
    free(keys);
    return status;
}

tutti_status topology_make(uint32_t size, const struct host_record *records,
                           struct topology *topology)
{
    struct topology made = {0};
    tutti_status status = check_versions(size, records);
    if (status != TUTTI_OK)
        return status;
    made.records = calloc(size, sizeof *made.records);
    if (made.records == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for the topology of %u ranks", size);
    memcpy(made.records, records, size * sizeof *made.records);
    made.one_process = true;
    for (uint32_t r = 0; r < size; r++) {
        /* the text came from a peer: it ends where we say */
        made.records[r].host[sizeof made.records[r].host - 1] = 0;
        made.one_process = made.one_process && records[r].process_id == records[0].process_id &&
                           records[r].host_id == records[0].host_id;
    }
    status = make_groups(size, made.records, &made.groups);
    if (status != TUTTI_OK) {
        free(made.records);
        return status;
    }
    made.max_ranks_per_core = crowding(&made);
    made.near = farthest(&made);
    make_model(size, &made);
    *topology = made;
    return TUTTI_OK;
}

void topology_free(struct topology *topology)
{
    if (topology->records == NULL)
        return;
    groups_free(&topology->groups);
    free(topology->records);
    topology->records = NULL;
}

uint64_t topology_cache_share(const struct topology *topology, uint32_t rank)
{
    const struct groups *groups = &topology->groups;
    const struct host_record *mine = &topology->records[rank];
    uint32_t node = groups->node_of[rank], sharing = 0;
    if (mine->cache_kib == 0)
        return UINT64_MAX;
    /* a rank that may run below several caches may run below all of the host's */
    for (uint32_t i = groups->first[node]; i < groups->first[node + 1]; i++)
        sharing += topology->records[groups->members[i]].l3_id == mine->l3_id;
    return ((uint64_t)mine->cache_kib << 10) / sharing;
}

void topology_explain(const struct topology *topology, char *text, size_t len)
{
    uint32_t size = topology->groups.size, nodes = topology->groups.nodes;
    const struct link_model *model = topology->model;
    char inside[192] = "", between[128] = "", crowd[64] = "";
    if (size > nodes)
        snprintf(inside, sizeof inside, ", sharing %s: about %.2f us and %.1f GB/s inside a host",
                 topology->apart ? "no memory" : near_model[topology->near].shared,
                 model[LEVEL_NODE].alpha_us, 1e-3 / model[LEVEL_NODE].us_per_byte);
    if (nodes > 1)
        snprintf(between, sizeof between, "%s about %.1f us and %.2f GB/s between hosts",
                 size > nodes ? ";" : ":", model[LEVEL_NET].alpha_us,
                 1e-3 / model[LEVEL_NET].us_per_byte);
    if (topology->max_ranks_per_core > 1)
        snprintf(crowd, sizeof crowd, "; up to %u ranks a core", topology->max_ranks_per_core);
    snprintf(text, len, "%u rank%s on %u host%s%s%s%s\n", size, size == 1 ? "" : "s", nodes,
             nodes == 1 ? "" : "s", inside, between, crowd);
}
