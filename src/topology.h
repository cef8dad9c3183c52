/* topology.h: the facts of every rank's host, and what follows from them. The probe is the only
 * impure part (topology_probe.c: hwloc and sysfs); everything else is pure arithmetic over the
 * records, which are exchanged once when a communicator is made, so every rank sees the same. */
#ifndef SRC_TOPOLOGY_H
#define SRC_TOPOLOGY_H

#include "algorithms/coll.h"
#include "base/settings.h"

#define TOPOLOGY_VERSION 1

/* Fixed size, little endian, exchanged as bytes. */
struct host_record {
    uint32_t version; /* TOPOLOGY_VERSION */
    uint32_t pid;
    uint64_t host_id;    /* equal exactly for ranks that can share memory: boot id with the IPC,
                            PID and network namespaces, or with TUTTI_HOST_ID in their place */
    uint64_t process_id; /* equal exactly for ranks of one process (random, drawn once) */
    uint64_t start_time; /* of the process, against pid reuse */
    uint32_t cores;      /* this process may run on */
    uint32_t numa_node;  /* of the current binding, UINT32_MAX if several */
    uint32_t package;
    uint32_t l3_id;        /* logical index of the shared last-level cache, UINT32_MAX if several */
    uint64_t memory_bytes; /* of the host */
    uint32_t nic_count;    /* active interfaces, loopback apart */
    uint32_t nic_mbps;     /* of the fastest, 0 unknown */
    uint32_t cpu_features; /* bit 0 avx2, bit 1 avx512: for explanations only */
    uint32_t cpuset_hash;  /* equal for ranks bound to the same cores */
    char host[64];
};

tutti_status topology_probe(const struct settings *settings, struct host_record *record);

struct topology {
    struct host_record *records; /* [size] */
    struct groups groups;        /* nodes = hosts */
    struct link_model model[LEVEL_COUNT];
    double reduce_us_per_byte, copy_us_per_byte;
    uint32_t max_ranks_per_core; /* over all hosts, rounded up */
    bool one_process;            /* all ranks are threads of one process */
};

/* Takes a copy of records. TUTTI_ERR_PROTOCOL if versions differ, naming the ranks. */
tutti_status topology_make(uint32_t size, const struct host_record *records,
                           struct topology *topology);
void topology_free(struct topology *topology);

#endif
