/* device.c: what a port in use holds: context, protection domain, completion queue; and what its
 * device says of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/owned.h"
#include "transports/verbs/verbs.h"

#define CQ_LEN_LEAST 1024
#define CQ_LEN_MOST  65536 /* made at once; more grows with the links, where the device can */
#define CQ_LEN_SHORT 256   /* least where memory is short: one link */

/* Does an earlier rail hold the device of this one? Two ports of one device share its context. */
static bool shares_context(const struct verbs *verbs, uint32_t rail)
{
    for (uint32_t i = 0; i < rail; i++) {
        if (verbs->rails[i].context == verbs->rails[rail].context)
            return true;
    }
    return false;
}

void device_close_context(const struct library *library, struct ibv_context *context)
{
    owned_forget(context->async_fd);
    owned_forget(context->cmd_fd);
    library->ibv.close_device(context);
}

/* ---- rails ------------------------------------------------------------------------------------
 */

static void close_rail(struct verbs_rail *rail)
{
    const struct library *library = rail->verbs->library;
    if (rail->cq)
        library->ibv.destroy_cq(rail->cq);
    if (rail->channel) {
        owned_forget(rail->channel->fd);
        library->ibv.destroy_comp_channel(rail->channel);
    }
    if (rail->pd)
        library->ibv.dealloc_pd(rail->pd);
    rail->cq = NULL;
    rail->channel = NULL;
    rail->pd = NULL;
}

tutti_status device_nonblocking(int fd)
{
    owned_add(fd);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "make a descriptor of an RDMA device non-blocking");
    return TUTTI_OK;
}

/* Enough for a link to every peer, since not every device can resize a queue. */
static uint32_t first_cq_len(const struct verbs *verbs, uint32_t max_cqe)
{
    const struct transport_config *config = verbs->config;
    uint64_t each = config->settings->verbs_depth + config->lanes * verbs->window + VERBS_SPARE;
    uint64_t len = each * config->settings->verbs_qps * config->size;
    len = len < CQ_LEN_LEAST ? CQ_LEN_LEAST : len > CQ_LEN_MOST ? CQ_LEN_MOST : len;
    return len < max_cqe ? (uint32_t)len : max_cqe;
}

/* Many devices lock the queue's memory, of which there may be little: 65,536 entries of mlx5 are
 * 8 MiB. A shorter one may grow with the links. */
static struct ibv_cq *make_queue(struct verbs_rail *rail)
{
    struct ibv_cq *queue;
    rail->cq_len = first_cq_len(rail->verbs, rail->max_cqe);
    while (!(queue = rail->verbs->library->ibv.create_cq(rail->context, (int)rail->cq_len, NULL,
                                                         rail->channel, 0)) &&
           errno == ENOMEM && rail->cq_len > CQ_LEN_SHORT)
        rail->cq_len /= 2;
    return queue;
}

/* Can the device page in what it sends and what is written to it? */
static bool can_page(struct ibv_context *context)
{
    struct ibv_device_attr_ex attr;
    const struct verbs_context *more = verbs_get_ctx_op(context, query_device_ex);
    memset(&attr, 0, sizeof attr);
    return more && more->query_device_ex(context, NULL, &attr, sizeof attr) == 0 &&
           (attr.odp_caps.general_caps & IBV_ODP_SUPPORT) &&
           (attr.odp_caps.per_transport_caps.rc_odp_caps & IBV_ODP_SUPPORT_WRITE);
}

/* rdma_rxe, in older kernels without a number, and siw. */
static bool is_software(const struct ibv_device_attr *attr)
{
    return attr->vendor_id == 0xffffff || attr->vendor_id == 0 || attr->vendor_id == 0x626d74;
}

static tutti_status fill_rail(struct verbs_rail *rail)
{
    const struct library *library = rail->verbs->library;
    struct ibv_device_attr attr;
    if (library->ibv.query_device(rail->context, &attr) != 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "ask %s for its limits", rail->name);
    const struct settings *settings = rail->verbs->config->settings;
    rail->relaxed = settings->verbs_relaxed && library->ibv.reg_mr_iova2;
    rail->paging = settings->verbs_odp && can_page(rail->context);
    rail->verbs->software = rail->verbs->software || is_software(&attr);
    rail->max_cqe = (uint32_t)attr.max_cqe;
    rail->max_qp_rd_atom = (uint32_t)attr.max_qp_rd_atom;
    rail->pd = library->ibv.alloc_pd(rail->context);
    rail->channel = rail->pd ? library->ibv.create_comp_channel(rail->context) : NULL;
    if (!rail->channel)
        return fail_errno(TUTTI_ERR_NOMEM, "open %s", rail->name);
    rail->cq = make_queue(rail);
    if (!rail->cq)
        return memory_fail(rail, "make a completion queue of %u entries", rail->cq_len);
    tutti_status status = device_nonblocking(rail->channel->fd);
    owned_add(rail->context->cmd_fd);
    return status == TUTTI_OK ? device_nonblocking(rail->context->async_fd) : status;
}

uint64_t device_rnr_retries(const struct verbs_rail *rail)
{
    /* The names that rxe and mlx5 give it. */
    static const char *const names[] = {"rcvd_rnr_err", "rnr_nak_retry_err"};
    const char *device = rail->verbs->library->ibv.get_device_name(rail->context->device);
    unsigned long long count = 0;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[200];
        snprintf(path, sizeof path, "/sys/class/infiniband/%.64s/ports/%u/hw_counters/%s", device,
                 rail->port, names[i]);
        FILE *file = fopen(path, "re");
        if (file && fscanf(file, "%llu", &count) != 1)
            count = 0;
        if (file)
            fclose(file);
    }
    return count;
}

tutti_status device_take(struct verbs *verbs, const struct verbs_found *found)
{
    char text[96];
    const char *device = verbs->library->ibv.get_device_name(found->context->device);
    if (verbs->rail_count == CHOOSE_RAILS_MAX ||
        verbs->rail_count == verbs->config->settings->verbs_rails) {
        log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
               "verbs: %s port %u is left out: TUTTI_VERBS_RAILS allows %u", device, found->port,
               verbs->rail_count);
        return TUTTI_OK;
    }
    struct verbs_rail *rail = &verbs->rails[verbs->rail_count];
    *rail = (struct verbs_rail){
        .verbs = verbs, .index = verbs->rail_count, .port = found->port, .context = found->context};
    snprintf(rail->name, sizeof rail->name, "%.60s port %u", device, found->port);
    tutti_status status = fill_rail(rail);
    if (status != TUTTI_OK) {
        close_rail(rail);
        log_at(LOG_LEVEL_WARN, (int)verbs->config->rank, "verbs: %s is left out: %s", rail->name,
               status_sentence());
        return status;
    }
    rail->rnr_retries = device_rnr_retries(rail);
    verbs->ports.rails[verbs->rail_count++] = found->rail;
    verbs->ports.rail_count = (uint8_t)verbs->rail_count;
    log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
           "verbs: uses %s, %u Mbit/s, MTU %u, NUMA distance %u, GID %s%s", rail->name,
           found->rail.speed_mbps, 128u << found->rail.mtu, found->order.distance,
           choose_gid_text(&found->rail.gids[0], text, sizeof text),
           rail->paging ? ", pages on demand" : "");
    return TUTTI_OK;
}

tutti_status device_open(struct verbs *verbs)
{
    verbs->library = library_get();
    return scan_ports(verbs->config->settings, verbs->layer, verbs);
}

void device_close(struct verbs *verbs)
{
    for (uint32_t i = verbs->rail_count; i-- > 0;) {
        struct verbs_rail *rail = &verbs->rails[i];
        close_rail(rail);
        if (!shares_context(verbs, i))
            device_close_context(verbs->library, rail->context);
    }
    verbs->rail_count = 0;
}

tutti_status device_grow(struct verbs_rail *rail, uint32_t completions)
{
    uint32_t len = rail->cq_len;
    while (len < rail->cq_used + completions)
        len *= 2;
    if (len > rail->max_cqe)
        len = rail->max_cqe;
    if (rail->cq_used + completions > len)
        return fail(TUTTI_ERR_NOMEM,
                    "%s has completion queues of at most %u entries, too few for one more link: "
                    "set TUTTI_VERBS_DEPTH or TUTTI_VERBS_QPS lower",
                    rail->name, rail->max_cqe);
    if (len != rail->cq_len) {
        int error = rail->verbs->library->ibv.resize_cq(rail->cq, (int)len);
        if (error != 0) {
            errno = error;
            return memory_fail(rail, "grow its completion queue to %u entries", len);
        }
        rail->cq_len = len;
    }
    rail->cq_used += completions;
    return TUTTI_OK;
}

/* ---- asynchronous events ----------------------------------------------------------------------
 */

static void fail_paths(struct verbs_rail *rail, const struct ibv_qp *qp, const char *why)
{
    for (struct verbs_link *link = rail->verbs->all; link; link = link->next) {
        for (uint32_t i = 0; i < link->path_count; i++) {
            struct verbs_path *path = &link->paths[i];
            if (path->rail == rail && (!qp || path->qp == qp))
                link_path_failed(path, "%s of %s", why, rail->name);
        }
    }
}

static bool rail_of_event(const struct verbs_rail *rail, const struct ibv_async_event *event)
{
    if (event->event_type == IBV_EVENT_CQ_ERR)
        return event->element.cq == rail->cq;
    return event->event_type == IBV_EVENT_DEVICE_FATAL || event->element.port_num == rail->port;
}

/* The device will not come back under this context: one that was removed, or is reset. */
static void lose(struct verbs_rail *rail)
{
    rail->gone = true;
    epoll_ctl(rail->verbs->epoll, EPOLL_CTL_DEL, rail->channel->fd, NULL);
    epoll_ctl(rail->verbs->epoll, EPOLL_CTL_DEL, rail->context->async_fd, NULL);
}

static void take_event(struct verbs *verbs, struct ibv_context *context,
                       const struct ibv_async_event *event)
{
    const char *what = verbs->library->ibv.event_type_str(event->event_type);
    for (uint32_t i = 0; i < verbs->rail_count; i++) {
        struct verbs_rail *rail = &verbs->rails[i];
        if (rail->context != context)
            continue;
        switch (event->event_type) {
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
            fail_paths(rail, event->element.qp, what);
            break;
        case IBV_EVENT_DEVICE_FATAL:
            lose(rail);
            /* fall through */
        case IBV_EVENT_CQ_ERR:
        case IBV_EVENT_PORT_ERR:
            if (rail_of_event(rail, event)) {
                rail->down = true;
                fail_paths(rail, NULL, what);
            }
            break;
        case IBV_EVENT_PORT_ACTIVE:
            rail->down = rail->down && (rail->gone || !rail_of_event(rail, event));
            break;
        case IBV_EVENT_LID_CHANGE:
        case IBV_EVENT_GID_CHANGE:
            if (rail_of_event(rail, event))
                scan_again(rail);
            break;
        default:
            break;
        }
    }
    log_at(LOG_LEVEL_DEBUG, (int)verbs->config->rank, "verbs: event of %s: %s",
           verbs->library->ibv.get_device_name(context->device), what);
}

void device_events(struct verbs *verbs)
{
    for (uint32_t i = 0; i < verbs->rail_count; i++) {
        struct ibv_async_event event;
        struct ibv_context *context = verbs->rails[i].context;
        if (shares_context(verbs, i))
            continue;
        while (verbs->library->ibv.get_async_event(context, &event) == 0) {
            /* A queue pair is not destroyed before its events are acknowledged, and what is done
             * about this one may destroy it. */
            verbs->library->ibv.ack_async_event(&event);
            take_event(verbs, context, &event);
        }
    }
}
