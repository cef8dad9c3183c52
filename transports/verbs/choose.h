/* choose.h: which port of one host talks to which port of another, and under which address. Pure:
 * both ends compute the same from the two addresses that the communicator's ranks exchange.
 *
 * A port has up to CHOOSE_GIDS_MAX usable GIDs, best first. Of RoCE's GIDs a pair is good when
 * both are of one version and one family; better in one subnet; v2 before v1; IPv4 before routable
 * IPv6 before link-local. Of InfiniBand's both must be of one subnet: the way into another leads
 * by a router, whose LID nobody here knows. Ports of two hosts are paired greedily, best pair
 * first, each once. */
#ifndef TRANSPORTS_VERBS_CHOOSE_H
#define TRANSPORTS_VERBS_CHOOSE_H

#include "base/status.h"

#define CHOOSE_RAILS_MAX 4 /* ports of one rank; more are left out, with a line in the log */
#define CHOOSE_GIDS_MAX  3
#define CHOOSE_PATHS_MAX 8 /* queue pairs of one link: rails times queue pairs per rail */

enum choose_gid_type { CHOOSE_GID_IB, CHOOSE_GID_ROCE_V1, CHOOSE_GID_ROCE_V2 };
enum choose_layer { CHOOSE_LAYER_NONE, CHOOSE_LAYER_IB, CHOOSE_LAYER_ETHERNET, CHOOSE_LAYER_IWARP };

struct choose_gid {
    uint8_t raw[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t type;    /* enum choose_gid_type */
    uint8_t prefix;  /* bits of the subnet in raw; 0: unknown */
    uint16_t index;  /* in the port's table, on its host */
};

struct choose_rail {
    uint8_t layer; /* enum choose_layer */
    uint8_t mtu;   /* enum ibv_mtu: 1..5 for 256..4096 */
    uint16_t lid;
    uint32_t speed_mbps;
    uint8_t gid_count;
    uint8_t global; /* InfiniBand: every packet needs a global header (virtual ports of SR-IOV) */
    uint8_t reserved[2];
    struct choose_gid gids[CHOOSE_GIDS_MAX];
};

/* A rank's ports, as they travel. */
struct choose_ports {
    uint8_t rail_count, queue_pairs; /* queue pairs per pair of rails that the rank wants */
    uint8_t cm;                      /* connects by the connection manager */
    uint8_t fallback;                /* may use TCP where no rail works */
    struct choose_rail rails[CHOOSE_RAILS_MAX];
};

/* One path: rails and GIDs (indices into the lists above) of the two ends. */
struct choose_path {
    uint8_t rail[2], gid[2];
};

/* Are the fields within their bounds? To be asked of whatever came over the wire. */
bool choose_valid(const struct choose_ports *ports);
/* How good two GIDs are together: 0 not at all, higher is better. */
uint32_t choose_score(const struct choose_gid *a, const struct choose_gid *b);
/* The paths between a and b, the same list (mirrored) when asked with b and a: lower says which
 * end is the lower rank. Returns their number, 0 when nothing fits. */
uint32_t choose_paths(const struct choose_ports *ports, const struct choose_ports *others,
                      bool lower, struct choose_path paths[CHOOSE_PATHS_MAX]);
/* Sorts the usable GIDs of a port, best for an unknown peer first, and keeps CHOOSE_GIDS_MAX. */
uint32_t choose_gids(struct choose_gid *gids, uint32_t count);
/* Keeps the GIDs that the connection manager can dial: addresses that mean something without their
 * interface, each once (a GID of RoCE v1 and one of v2 are one address). Returns their number. */
uint32_t choose_dialable(struct choose_rail *rail);
/* "::ffff:10.0.0.1 (RoCE v2, index 1)" */
const char *choose_gid_text(const struct choose_gid *gid, char *text, size_t len);
/* Which of two ports of a rank to use first, as qsort wants it: the faster; of two equal ones the
 * nearer (see distance.h); then the one that was found first. */
struct choose_order {
    uint32_t speed_mbps, distance, found;
};
int choose_first(const void *a, const void *b);
/* How memory of GPUs is registered with adapters, see gpu.c. The first way, of those from `from`
 * on, that the setting allows (its index in auto|dmabuf|peermem|off); dmabuf: the library has it.
 */
enum choose_gpu { CHOOSE_GPU_DMABUF, CHOOSE_GPU_PEERMEM, CHOOSE_GPU_STAGED };
enum choose_gpu choose_gpu(unsigned setting, unsigned from, bool dmabuf);
/* Why two ranks have no path, in words. */
void choose_why(const struct choose_ports *a, const struct choose_ports *b, char *why, size_t len);

#endif
