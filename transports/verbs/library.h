/* library.h: libibverbs and librdmacm, loaded when first needed and never linked, so that one build
 * of Tutti runs on hosts with and without them. Calls read library->ibv.reg_mr(...). What the
 * headers define inline (posting, polling) goes through the device's own table and needs no name.
 */
#ifndef TRANSPORTS_VERBS_LIBRARY_H
#define TRANSPORTS_VERBS_LIBRARY_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "base/status.h"

#define LIBRARY_IBV_LIST(X)                                                                        \
    X(fork_init)                                                                                   \
    X(get_device_list)                                                                             \
    X(free_device_list)                                                                            \
    X(get_device_name)                                                                             \
    X(open_device)                                                                                 \
    X(close_device)                                                                                \
    X(query_device)                                                                                \
    X(query_port)                                                                                  \
    X(alloc_pd)                                                                                    \
    X(dealloc_pd)                                                                                  \
    X(create_comp_channel)                                                                         \
    X(destroy_comp_channel)                                                                        \
    X(create_cq)                                                                                   \
    X(resize_cq)                                                                                   \
    X(destroy_cq)                                                                                  \
    X(get_cq_event)                                                                                \
    X(ack_cq_events)                                                                               \
    X(create_qp)                                                                                   \
    X(modify_qp)                                                                                   \
    X(destroy_qp)                                                                                  \
    X(reg_mr)                                                                                      \
    X(dereg_mr)                                                                                    \
    X(get_async_event)                                                                             \
    X(ack_async_event)                                                                             \
    X(wc_status_str)                                                                               \
    X(event_type_str)                                                                              \
    X(port_state_str)

#define LIBRARY_RDMA_LIST(X)                                                                       \
    X(create_event_channel)                                                                        \
    X(destroy_event_channel)                                                                       \
    X(create_id)                                                                                   \
    X(destroy_id)                                                                                  \
    X(bind_addr)                                                                                   \
    X(listen)                                                                                      \
    X(get_src_port)                                                                                \
    X(resolve_addr)                                                                                \
    X(resolve_route)                                                                               \
    X(connect)                                                                                     \
    X(accept)                                                                                      \
    X(reject)                                                                                      \
    X(establish)                                                                                   \
    X(init_qp_attr)                                                                                \
    X(get_cm_event)                                                                                \
    X(ack_cm_event)                                                                                \
    X(event_str)

struct library {
    bool have_ibv, have_rdma;
    char why[256]; /* of what is missing */
    struct {
#define X(name) __typeof__(ibv_##name) *name;
        LIBRARY_IBV_LIST(X)
#undef X
        /* The header's ibv_query_gid_ex is an inline function around this. */
        __typeof__(_ibv_query_gid_ex) *query_gid_ex;
        /* NULL in old libraries. */
        __typeof__(ibv_reg_mr_iova2) *reg_mr_iova2;
#ifdef TUTTI_WITH_DMABUF
        __typeof__(ibv_reg_dmabuf_mr) *reg_dmabuf_mr;
#endif
    } ibv;
    struct {
#define X(name) __typeof__(rdma_##name) *name;
        LIBRARY_RDMA_LIST(X)
#undef X
    } rdma;
};

/* Loads what there is, once per process. */
const struct library *library_get(void);

#endif
