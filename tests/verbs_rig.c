/* verbs_rig.c: see verbs_rig.h. */
#include "tests/verbs_rig.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/seal.h"

static int note_posts(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct verbs_rig *rig =
        (struct verbs_rig *)((char *)qp->context - offsetof(struct verbs_rig, device));
    if (qp->qp_num == rig->broken) {
        *bad = wr;
        return EIO;
    }
    for (; wr; wr = wr->next) {
        struct wire_header header;
        memcpy(&header, (const void *)(uintptr_t)wr->sg_list->addr, sizeof header);
        rig->credits += header.kind == WIRE_CREDIT;
        rig->questions += header.kind == WIRE_CREDIT && header.len > 0;
        if (header.taken != rig->told) {
            rig->told = header.taken;
            rig->told_path = qp->qp_num;
        }
        if (header.kind != WIRE_EAGER)
            continue;
        rig->posts[rig->post_count].path = qp->qp_num;
        rig->posts[rig->post_count++].seq = header.seq;
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

struct verbs_rig *verbs_rig_make(void)
{
    struct verbs_rig *rig = calloc(1, sizeof *rig);
    struct verbs_link *link = calloc(1, sizeof *link + sizeof *link->flows);
    settings_defaults(&rig->settings);
    rig->config = (struct transport_config){.size = 2, .lanes = 1, .settings = &rig->settings};
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
    rig->told_path = rig->broken = PATHS;
    return rig;
}

void verbs_rig_beside(struct verbs_rig *rig, struct transport *side)
{
    static const uint8_t secret[32];
    rig->verbs.side = side;
    rig->verbs.all = rig->link;
    rig->verbs.events_ms = rig->link->revive_ms = UINT64_MAX;
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, sizeof secret, "test", &rig->verbs.seal), TUTTI_OK);
}

void verbs_rig_free(struct verbs_rig *rig)
{
    for (uint32_t i = 0; i < PATHS; i++) {
        free(rig->link->paths[i].memory);
        free(rig->link->paths[i].records);
    }
    seal_free(rig->verbs.seal);
    free(rig->link);
    free(rig);
}

void verbs_rig_up(struct verbs_path *path)
{
    path->state = VERBS_PATH_TRYING;
    path->hello_sent = path->hello_came = path->hello_acked = true;
    link_path_up(path);
}

struct xfer *verbs_rig_no_xfer(struct transport *transport)
{
    (void)transport;
    return NULL;
}

bool verbs_rig_no_event(struct transport *transport, bool restart, struct transport_event *event)
{
    (void)transport;
    (void)restart;
    (void)event;
    return false;
}

int verbs_rig_destroy_nothing(struct ibv_qp *qp)
{
    (void)qp;
    return 0;
}
