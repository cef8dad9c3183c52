/* verbs_rig.h: a link over RDMA whose queue pairs are stand-ins: what is posted to them is written
 * down, and nothing arrives. Shared by suites of what lies behind a link. */
#ifndef TESTS_VERBS_RIG_H
#define TESTS_VERBS_RIG_H

#include "base/settings.h"
#include "tests/suite.h"
#include "transports/verbs/verbs.h"

enum { PATHS = 3, SLOTS = 4, SLOT_LEN = 256, DEPTH = 128, RING_LEN = 64 * SLOT_LEN, MESSAGES = 40 };

struct verbs_rig {
    struct settings settings; /* the defaults */
    struct transport_config config;
    struct verbs verbs;
    struct library library;
    struct verbs_rail rails[PATHS];
    struct ibv_context device;
    struct ibv_qp qps[PATHS];
    struct ibv_mr mr;
    struct verbs_link *link;
    uint32_t broken; /* the path whose queue pair takes nothing; PATHS: none */
    struct {
        uint32_t path;
        uint16_t seq;
    } posts[4 * MESSAGES];
    uint32_t post_count;
    uint32_t credits, questions; /* CREDIT messages, and those that ask for one */
    uint32_t told_path;          /* by which the last count of messages taken was told */
    uint16_t told;
};

/* A link that is up, and its paths not yet. There is no side transport. */
struct verbs_rig *verbs_rig_make(void);
/* Gives it one, for control messages that are sealed; none is taken before one of link->out is not
 * busy. */
void verbs_rig_beside(struct verbs_rig *rig, struct transport *side);
void verbs_rig_free(struct verbs_rig *rig);
/* A path is up, without more ado. */
void verbs_rig_up(struct verbs_path *path);

/* Calls of transports and devices that do nothing. */
struct xfer *verbs_rig_no_xfer(struct transport *transport);
bool verbs_rig_no_event(struct transport *transport, bool restart, struct transport_event *event);
int verbs_rig_destroy_nothing(struct ibv_qp *qp);

#endif
