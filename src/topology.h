/* topology.h: the facts of every rank's host, and what follows from them. The probe is the only
 * impure part (topology_probe.c: hwloc and sysfs); everything else is pure arithmetic over the
 * records, which are exchanged once when a communicator is made, so every rank sees the same. */
#ifndef SRC_TOPOLOGY_H
#define SRC_TOPOLOGY_H

#include "algorithms/coll.h"
#include "base/settings.h"

#define TOPOLOGY_VERSION 2

/* Fixed size, little endian, exchanged as bytes. */
struct host_record {
    uint32_t version; /* TOPOLOGY_VERSION */
    uint32_t pid;
    uint64_t host_id;    /* equal exactly for ranks that can share memory: boot id with the IPC,
                            PID and network namespaces, or with TUTTI_HOST_ID in their place */
    uint64_t process_id; /* equal exactly for ranks of one process (random, drawn once) */
    uint64_t start_time; /* of the process, against pid reuse */
    uint32_t cores;      /* this process may run on */
    /* What the binding lies in, by the number of its first processor; UINT32_MAX if in several, or
     * if the machine does not tell. */
    uint32_t l3_id; /* last-level cache */
    uint32_t numa_node;
    uint32_t package;
    uint32_t nic_mbps;    /* of the fastest active interface, 0 unknown */
    uint32_t cpuset_hash; /* equal for ranks bound to the same cores */
    uint32_t cache_kib;   /* of the last-level caches that the binding touches, 0 unknown */
    char host[64];
};

tutti_status topology_probe(const struct settings *settings, struct host_record *record);

/* What the ranks of one host share, nearest first. */
enum near { NEAR_L3, NEAR_NUMA, NEAR_PACKAGE, NEAR_HOST, NEAR_COUNT };

struct topology {
    struct host_record *records; /* [size] */
    struct groups groups;        /* nodes = hosts */
    struct link_model model[LEVEL_COUNT];
    double reduce_us_per_byte, copy_us_per_byte;
    uint32_t max_ranks_per_core; /* over all hosts, rounded up */
    enum near near;              /* what the ranks of every host share at least */
    bool apart;                  /* ranks of a host do not reach each other's memory */
    bool one_process;            /* all ranks are threads of one process */
};

/* Takes a copy of records. TUTTI_ERR_PROTOCOL if versions differ, naming the ranks. */
tutti_status topology_make(uint32_t size, const struct host_record *records,
                           struct topology *topology);
void topology_free(struct topology *topology);
/* Prices links inside hosts as what they are where some ranks of a host share no memory: networks.
 */
void topology_set_apart(struct topology *topology);

/* Bytes of last-level cache that rank has for itself when all ranks below it compute; UINT64_MAX if
 * the machine does not tell. */
uint64_t topology_cache_share(const struct topology *topology, uint32_t rank);

/* Who shares what, and the links that follow: a line of at most len - 1 characters. */
void topology_explain(const struct topology *topology, char *text, size_t len);

#endif
