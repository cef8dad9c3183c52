/* verbs.c: the verbs transport: its three tables, the operations of the contract, progress, events.
 * The idea: what is wanted at once (a send, a receive that was waited for) is done at once; poll
 * looks at the completion queues and then lets every link with work send what it can; everything
 * that is not data (links being made, the side transport, device events) is looked at now and
 * then, and whenever the caller has nothing better to do.
 * Invariant: a transfer given to send or recv with TUTTI_IN_PROGRESS is in its lane's flow or in
 * the list `done`. */
#include "transports/verbs/verbs.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/owned.h"
#include "transports/tcp.h"

#define QUIET_POLLS 4096 /* polls between looks at what is not data; they cost system calls */
#define QUIET_TICKS (1ull << 24) /* or when so many ticks have passed: some milliseconds */
#define SIDE_POLLS  4 /* the same while links are made or go over the socket: it is waited for */
#define POLL_ROUNDS 8
#define YIELD_POLLS 64 /* of a software device without news: about 3 us */

/* A rank's address: this, then the side transport's. */
struct address {
    uint32_t magic, version;
    uint32_t side_len, reserved;
    struct choose_ports ports;
};

static struct verbs *verbs_of(struct transport *transport)
{
    return (struct verbs *)transport;
}

const char *verbs_peer_name(const struct verbs *verbs, uint32_t peer)
{
    return verbs->config->peer_names ? verbs->config->peer_names[peer] : "a peer";
}

void verbs_finish(struct verbs *verbs, struct xfer *xfer, tutti_status status)
{
    if (xfer == verbs->instant) {
        xfer->status = status;
        verbs->instant = NULL;
        return;
    }
    xfer->work[0] = status; /* shown by poll: until then the transfer is ours */
    xfer->next = NULL;
    *verbs->done_tail = xfer;
    verbs->done_tail = &xfer->next;
}

/* ---- opening and closing ----------------------------------------------------------------------
 */

/* Ends every link, with a farewell. */
static void leave_peers(struct verbs *verbs)
{
    farewell_say(verbs, NULL);
    while (verbs->all)
        link_free(verbs->all);
}

static void verbs_close(struct transport *transport)
{
    struct verbs *verbs = verbs_of(transport);
    if (!verbs)
        return;
    /* A forked child has given up the descriptors, and the device does not know it. */
    bool owner = verbs->owner == getpid();
    if (owner)
        leave_peers(verbs);
    if (verbs->side)
        verbs->side->ops->close(verbs->side);
    if (owner) {
        memory_free_all(verbs);
        connect_close(verbs);
        device_close(verbs);
    }
    if (verbs->epoll >= 0)
        owned_close(verbs->epoll);
    if (verbs->wake >= 0)
        owned_close(verbs->wake);
    seal_free(verbs->seal);
    free(verbs->staging);
    free(verbs->paths);
    free(verbs->links);
    free(verbs);
}

static uint32_t power_below(uint64_t value, uint32_t least)
{
    uint32_t power = least;
    while ((uint64_t)power * 2 <= value)
        power *= 2;
    return power;
}

/* Slots of all links together stay within this; with many peers they are shorter. */
#define SLOTS_BUDGET (16u << 20)

static void take_settings(struct verbs *verbs)
{
    const struct settings *settings = verbs->config->settings;
    verbs->slot_len = power_below(settings->verbs_slot, 512);
    verbs->window = (uint32_t)settings->verbs_window;
    verbs->chunk = power_below(settings->verbs_chunk, VERBS_CHUNK_MIN);
    verbs->ports.queue_pairs = (uint8_t)settings->verbs_qps;
    verbs->ports.cm = verbs->cm;
    verbs->ports.fallback = settings->verbs_fallback;
    uint64_t each = verbs->config->lanes * verbs->window + VERBS_SPARE + VERBS_RING_SLOTS;
    while (verbs->slot_len > 1024 && each * verbs->config->size * verbs->slot_len > SLOTS_BUDGET)
        verbs->slot_len /= 2;
}

static tutti_status watch(struct verbs *verbs, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(verbs->epoll, EPOLL_CTL_ADD, fd, &event) != 0 && errno != EEXIST)
        return fail_errno(TUTTI_ERR_NOMEM, "watch a descriptor of an RDMA device");
    return TUTTI_OK;
}

static tutti_status open_parts(struct verbs *verbs)
{
    const struct transport_config *config = verbs->config;
    verbs->epoll = owned_add(epoll_create1(EPOLL_CLOEXEC));
    verbs->wake = owned_add(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    verbs->links = calloc(config->size, sizeof(struct verbs_link *));
    if (verbs->epoll < 0 || verbs->wake < 0 || !verbs->links)
        return fail(TUTTI_ERR_NOMEM, "no memory or descriptors for the verbs transport");
    tutti_status status = seal_new(config->secret, 32, "tutti verbs", &verbs->seal);
    if (status == TUTTI_OK)
        status = device_open(verbs);
    if (status == TUTTI_OK && verbs->cm && verbs->rail_count > 0)
        status = connect_open(verbs);
    if (status == TUTTI_OK) {
        verbs->side_config = *config;
        verbs->side_config.lanes = 1;
        status = tcp_ops.open(&verbs->side_config, &verbs->side);
    }
    for (uint32_t i = 0; i < verbs->rail_count && status == TUTTI_OK; i++) {
        status = watch(verbs, verbs->rails[i].channel->fd);
        if (status == TUTTI_OK)
            status = watch(verbs, verbs->rails[i].context->async_fd);
    }
    if (status == TUTTI_OK && verbs->cm_channel)
        status = watch(verbs, verbs->cm_channel->fd);
    if (status == TUTTI_OK)
        status = watch(verbs, verbs->wake);
    if (status == TUTTI_OK)
        status = watch(verbs, verbs->side->ops->wait_fd(verbs->side));
    return status;
}

static tutti_status verbs_open(const struct transport_config *config, enum choose_layer layer,
                               const struct transport_ops *ops, struct transport **transport)
{
    must(config->lanes >= 1 && config->lanes <= TRANSPORT_LANES_MAX);
    struct verbs *verbs = calloc(1, sizeof *verbs);
    if (!verbs)
        return fail(TUTTI_ERR_NOMEM, "no memory for the verbs transport");
    verbs->base.ops = ops;
    verbs->config = config;
    verbs->layer = layer;
    verbs->cm = layer == CHOOSE_LAYER_IWARP || config->settings->verbs_connect == 1;
    verbs->owner = getpid();
    verbs->epoll = verbs->wake = -1;
    verbs->done_tail = &verbs->done;
    take_settings(verbs);
    tutti_status status = open_parts(verbs);
    if (status != TUTTI_OK) {
        verbs_close(&verbs->base);
        return status;
    }
    *transport = &verbs->base;
    return TUTTI_OK;
}

/* ---- addresses and links ----------------------------------------------------------------------
 */

static tutti_status verbs_address(struct transport *transport, void *address, size_t *len)
{
    struct verbs *verbs = verbs_of(transport);
    struct address mine = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .ports = verbs->ports};
    uint8_t side[TRANSPORT_ADDRESS_MAX];
    size_t side_len = sizeof side;
    tutti_status status = verbs->side->ops->address(verbs->side, side, &side_len);
    if (status != TUTTI_OK)
        return status;
    must(sizeof mine + side_len <= TRANSPORT_ADDRESS_MAX);
    mine.side_len = (uint32_t)side_len;
    memcpy(address, &mine, sizeof mine);
    memcpy((uint8_t *)address + sizeof mine, side, side_len);
    *len = sizeof mine + side_len;
    return TUTTI_OK;
}

static bool read_address(const void *address, size_t len, struct address *out)
{
    if (len < sizeof *out)
        return false;
    memcpy(out, address, sizeof *out);
    return out->magic == WIRE_MAGIC && out->version == WIRE_VERSION &&
           out->side_len == len - sizeof *out && choose_valid(&out->ports);
}

static bool verbs_reaches(struct transport *transport, uint32_t peer, const void *address,
                          size_t len)
{
    struct verbs *verbs = verbs_of(transport);
    struct address theirs;
    struct choose_path paths[CHOOSE_PATHS_MAX];
    return read_address(address, len, &theirs) &&
           (choose_paths(&verbs->ports, &theirs.ports, verbs->config->rank < peer, paths) > 0 ||
            (verbs->ports.fallback && theirs.ports.fallback)) &&
           verbs->side->ops->reaches(verbs->side, peer, (const uint8_t *)address + sizeof theirs,
                                     theirs.side_len);
}

static tutti_status verbs_connect(struct transport *transport, uint32_t peer, const void *address,
                                  size_t len)
{
    struct verbs *verbs = verbs_of(transport);
    struct address theirs;
    struct choose_path paths[CHOOSE_PATHS_MAX];
    if (peer >= verbs->config->size || peer == verbs->config->rank)
        return fail(TUTTI_ERR_ARG, "rank %u cannot be connected to by RDMA from rank %u", peer,
                    verbs->config->rank);
    struct verbs_link *link = verbs->links[peer];
    if (link)
        return link->state == VERBS_LINK_ENDED ? fail(link->status, "%s", link->sentence)
                                               : TUTTI_OK;
    if (!read_address(address, len, &theirs))
        return fail(TUTTI_ERR_PROTOCOL, "%s gave an RDMA address that makes no sense",
                    verbs_peer_name(verbs, peer));
    if (choose_paths(&verbs->ports, &theirs.ports, verbs->config->rank < peer, paths) == 0 &&
        !(verbs->ports.fallback && theirs.ports.fallback)) {
        char why[300];
        choose_why(&verbs->ports, &theirs.ports, why, sizeof why);
        return fail(TUTTI_ERR_CONNECT, "no RDMA path to %s: %s", verbs_peer_name(verbs, peer), why);
    }
    tutti_status status = verbs->side->ops->connect(
        verbs->side, peer, (const uint8_t *)address + sizeof theirs, theirs.side_len);
    return status == TUTTI_OK ? link_begin(verbs, peer, &theirs.ports) : status;
}

static bool verbs_wanted(struct transport *transport, uint32_t peer, const void *address,
                         size_t len)
{
    const struct verbs *verbs = verbs_of(transport);
    struct address theirs;
    return !verbs->links[peer] && read_address(address, len, &theirs) &&
           verbs->side->ops->wanted(verbs->side, peer, (const uint8_t *)address + sizeof theirs,
                                    theirs.side_len);
}

/* Takes the transfers of one peer out of the list of those that ended. */
static void forget_done(struct verbs *verbs, uint32_t peer)
{
    struct xfer **at = &verbs->done;
    while (*at) {
        if ((*at)->peer == peer)
            *at = (*at)->next;
        else
            at = &(*at)->next;
    }
    verbs->done_tail = at;
}

static void verbs_disconnect(struct transport *transport, uint32_t peer)
{
    struct verbs *verbs = verbs_of(transport);
    struct verbs_link *link = verbs->links[peer];
    if (!link)
        return;
    farewell_say(verbs, link);
    for (uint32_t i = 0; i < link->path_count; i++)
        path_drop(&link->paths[i]);
    transfer_fail_all(link, TUTTI_ERR_ABORTED);
    forget_done(verbs, peer);
    verbs->side->ops->disconnect(verbs->side, peer);
    link_free(link);
}

static void verbs_cancel(struct transport *transport, bool leave)
{
    struct verbs *verbs = verbs_of(transport);
    bool relayed = false;
    verbs->cancelled = true;
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        if (link->state == VERBS_LINK_ENDED)
            continue;
        relayed = relayed || link->relay;
        link_cancel(link);
    }
    memory_sweep(verbs);
    verbs->done = NULL;
    verbs->done_tail = &verbs->done;
    if (leave)
        leave_peers(verbs);
    if (leave || relayed) /* nothing may land in memory that is the caller's again */
        verbs->side->ops->cancel(verbs->side, leave);
}

/* ---- transfers --------------------------------------------------------------------------------
 */

static tutti_status check_link(struct verbs *verbs, const struct xfer *xfer,
                               struct verbs_link **link)
{
    must(xfer->peer < verbs->config->size && xfer->lane < verbs->config->lanes);
    *link = verbs->links[xfer->peer];
    if (verbs->cancelled)
        return fail(TUTTI_ERR_ABORTED, "the communicator was aborted");
    if (!*link)
        return fail(TUTTI_ERR_STATE, "no link to %s was asked for",
                    verbs_peer_name(verbs, xfer->peer));
    return TUTTI_OK;
}

/* The status of a transfer that was just posted: at once, or with a later poll. */
static tutti_status posted(struct verbs *verbs, struct xfer *xfer)
{
    bool pending = verbs->instant == xfer;
    verbs->instant = NULL;
    if (pending)
        return TUTTI_IN_PROGRESS;
    return xfer->status;
}

static tutti_status verbs_send(struct transport *transport, struct xfer *xfer)
{
    struct verbs *verbs = verbs_of(transport);
    struct verbs_link *link;
    tutti_status status = check_link(verbs, xfer, &link);
    if (status == TUTTI_OK && link->state == VERBS_LINK_ENDED)
        status = link_refuse(link);
    struct verbs_region *region = NULL;
    if (status == TUTTI_OK)
        status = gpu_hold(verbs, xfer, &region);
    if (status != TUTTI_OK)
        return xfer->status = status;
    xfer->status = TUTTI_IN_PROGRESS;
    verbs->instant = xfer;
    flow_send(&link->flows[xfer->lane], xfer);
    xfer->work[FLOW_WORK_REGION] = (uint64_t)region;
    if (link->state == VERBS_LINK_UP) {
        struct verbs_path *home = &link->paths[link->home[xfer->lane]];
        transfer_pump_lane(link, xfer->lane, false);
        if (home->staged > 0 && home->open_chunks == 0)
            path_flush(home);
        link->work = true;
    }
    status = posted(verbs, xfer);
    /* Posting may have shown that the link is gone. */
    if (status != TUTTI_OK && status != TUTTI_IN_PROGRESS)
        status = xfer->status = link_refuse(link);
    return status;
}

static tutti_status verbs_recv(struct transport *transport, struct xfer *xfer)
{
    struct verbs *verbs = verbs_of(transport);
    struct verbs_link *link;
    tutti_status status = check_link(verbs, xfer, &link);
    if (status != TUTTI_OK)
        return xfer->status = status;
    struct flow *flow = &link->flows[xfer->lane];
    if (flow->broken)
        return xfer->status = fail(TUTTI_ERR_MISMATCH, "%s sent another operation or length before",
                                   verbs_peer_name(verbs, xfer->peer));
    /* After the end of a link only what has already arrived can still be received. */
    if (link->state == VERBS_LINK_ENDED && flow->held_begin == flow->held_end)
        return xfer->status = link_refuse(link);
    struct verbs_region *region;
    status = gpu_hold(verbs, xfer, &region);
    if (status != TUTTI_OK)
        return xfer->status = status;
    xfer->status = TUTTI_IN_PROGRESS;
    verbs->instant = xfer;
    flow_recv(flow, xfer);
    xfer->work[FLOW_WORK_REGION] = (uint64_t)region;
    transfer_recall(link, xfer->lane);
    if (link->state == VERBS_LINK_UP) {
        link->work = true;
    } else if (link->state == VERBS_LINK_ENDED && verbs->instant == xfer) {
        transfer_fail_all(link, link->status); /* what was held has only asked for it */
        return xfer->status = link_refuse(link);
    }
    return posted(verbs, xfer);
}

/* Is it time to look at what is not data? */
static bool quiet_is_over(struct verbs *verbs)
{
    uint32_t polls = ++verbs->quiet_polls;
    bool over = polls >= (verbs->making > 0 || verbs->relays > 0 ? SIDE_POLLS : QUIET_POLLS) ||
                (polls % 16 == 0 && clock_ticks() - verbs->quiet_ticks > QUIET_TICKS);
    if (over) {
        verbs->quiet_polls = 0;
        verbs->quiet_ticks = clock_ticks();
    }
    return over;
}

/* A device in software works in the kernel's threads on these very processors. Whoever polls for it
 * must let them run, else they wait for the next tick: at once, because what was just posted is
 * with them, and then now and then. */
static void let_device_work(struct verbs *verbs, bool moved)
{
    verbs->idle_polls = moved ? 0 : verbs->idle_polls + 1;
    if (verbs->idle_polls % YIELD_POLLS == 1)
        sched_yield();
}

/* Takes what has come and sends what can be sent; aside: what is not data, too. */
static void progress(struct verbs *verbs, bool aside)
{
    bool moved = false;
    verbs->polling = true;
    for (uint32_t i = 0; i < verbs->rail_count; i++) {
        for (int round = 0; round < POLL_ROUNDS && path_poll(&verbs->rails[i]); round++)
            moved = true;
    }
    verbs->polling = false;
    if (verbs->software && verbs->all)
        let_device_work(verbs, moved);
    if (aside) {
        memory_sweep(verbs);
        link_service(verbs);
    }
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        if (!link->work || link->state != VERBS_LINK_UP)
            continue;
        link_resend(link);
        transfer_pump(link, false);
    }
}

static struct xfer *verbs_poll(struct transport *transport)
{
    struct verbs *verbs = verbs_of(transport);
    progress(verbs, quiet_is_over(verbs));
    struct xfer *done = verbs->done;
    verbs->done = NULL;
    verbs->done_tail = &verbs->done;
    for (struct xfer *xfer = done; xfer; xfer = xfer->next)
        xfer->status = (tutti_status)xfer->work[0];
    return done;
}

/* Does the device give back what was posted to a queue pair that has just failed? */
static bool drains(const struct verbs *verbs)
{
    for (const struct verbs_link *link = verbs->all; link; link = link->next) {
        if (link_any_path(link, VERBS_PATH_DRAINING, VERBS_PATH_DRAINING))
            return true;
    }
    return false;
}

/* A peer asks what has arrived over a path that was lost, if there is another, and over iWARP
 * always: only this rank's count ends its sends there. */
static bool verbs_tend(struct transport *transport)
{
    struct verbs *verbs = verbs_of(transport);
    if (verbs->rail_count * verbs->ports.queue_pairs == 1 && !verbs->ports.fallback &&
        verbs->layer != CHOOSE_LAYER_IWARP)
        return false;
    if (verbs->cancelled)
        return true;
    /* Not the next look but this one is to tell what has arrived. */
    for (int round = 0; round == 0 || (drains(verbs) && round < POLL_ROUNDS); round++)
        progress(verbs, true);
    return true;
}

/* ---- notices and events -----------------------------------------------------------------------
 */

static tutti_status verbs_notify(struct transport *transport, uint32_t peer,
                                 const struct notice *notice)
{
    struct verbs *verbs = verbs_of(transport);
    return verbs->side->ops->notify(verbs->side, peer, notice);
}

static bool next_unexpected(struct verbs *verbs, struct transport_event *event)
{
    uint32_t lanes = verbs->config->lanes;
    for (uint64_t end = (uint64_t)verbs->config->size * lanes; verbs->cursor < end;
         verbs->cursor++) {
        struct verbs_link *link = verbs->links[verbs->cursor / lanes];
        uint32_t lane = (uint32_t)(verbs->cursor % lanes);
        struct tag tag;
        size_t len;
        if (!link || !flow_unexpected(&link->flows[lane], &tag, &len))
            continue;
        *event = (struct transport_event){.kind = TRANSPORT_EVENT_UNEXPECTED,
                                          .peer = link->peer,
                                          .lane = lane,
                                          .tag = tag,
                                          .len = len};
        verbs->cursor++;
        return true;
    }
    return false;
}

static bool verbs_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct verbs *verbs = verbs_of(transport);
    if (restart) {
        verbs->cursor = 0;
        link_service(verbs);
    }
    control_look_aside(verbs, false);
    if (verbs->noticed) {
        *event = verbs->notice;
        verbs->noticed = false;
        return true;
    }
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        if (!link->down || link->down_told)
            continue;
        link->down_told = true;
        *event = (struct transport_event){
            .kind = TRANSPORT_EVENT_LINK_DOWN, .peer = link->peer, .status = link->status};
        snprintf(event->sentence, sizeof event->sentence, "%s", link->sentence);
        return true;
    }
    return next_unexpected(verbs, event);
}

static int verbs_wait_fd(struct transport *transport)
{
    return verbs_of(transport)->epoll;
}

/* Completions raise an event from now on. False when there are some already. */
static bool arm_rail(struct verbs_rail *rail)
{
    const struct library *library = rail->verbs->library;
    struct ibv_cq *cq;
    void *context;
    unsigned count = 0;
    if (rail->gone)
        return true;
    while (library->ibv.get_cq_event(rail->channel, &cq, &context) == 0)
        count++;
    if (count > 0)
        library->ibv.ack_cq_events(rail->cq, count);
    if (ibv_req_notify_cq(rail->cq, 0) != 0)
        return false;
    /* What came between the last look and the request raises none. */
    rail->verbs->polling = true;
    bool moved = path_poll(rail);
    rail->verbs->polling = false;
    return !moved;
}

static bool verbs_arm(struct transport *transport)
{
    struct verbs *verbs = verbs_of(transport);
    bool quiet = true;
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        if (link->work && link->state == VERBS_LINK_UP)
            transfer_pump(link, true);
    }
    for (uint32_t i = 0; i < verbs->rail_count; i++)
        quiet = arm_rail(&verbs->rails[i]) && quiet;
    bool ended = errand_any_ended(verbs);
    if (ended || !verbs->side->ops->arm(verbs->side)) {
        link_service(verbs);
        quiet = false; /* what came may be a grant, or work for a link: poll looks at that */
    }
    return quiet && !verbs->done;
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static tutti_status verbs_reg(struct transport *transport, void *memory, size_t len, void **handle)
{
    struct verbs_region *region;
    tutti_status status = memory_add(verbs_of(transport), memory, len, &region);
    if (status == TUTTI_OK)
        *handle = region;
    return status;
}

static void verbs_dereg(struct transport *transport, void *handle, bool inside)
{
    if (inside)
        memory_remove(verbs_of(transport), handle);
    else
        memory_forget(verbs_of(transport), handle);
}

static bool verbs_takes(struct transport *transport, uint32_t peer, const void *memory, size_t len)
{
    return gpu_takes(verbs_of(transport), peer, memory, len);
}

static void verbs_stats(const struct transport *transport, struct transport_stats *stats)
{
    const struct verbs *verbs = (const struct verbs *)transport;
    *stats = verbs->stats;
    stats->registrations = verbs->registrations;
    for (uint32_t i = 0; i < verbs->rail_count; i++) {
        const struct verbs_rail *rail = &verbs->rails[i];
        stats->rnr_retries += rail->gone ? 0 : device_rnr_retries(rail) - rail->rnr_retries;
    }
}

static void verbs_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    const struct verbs *verbs = (const struct verbs *)transport;
    /* Two crossings of the bus and a switch; all rails together: 8 bits over Mbit/s is us a byte.
     */
    double speed = 0;
    for (uint32_t i = 0; i < verbs->rail_count; i++)
        speed += verbs->ports.rails[i].speed_mbps;
    *alpha_us = 2.0;
    *us_per_byte = speed > 0 ? 8.0 / speed : 1.0 / 3000.0;
}

/* The three tables: one implementation, three link layers. */
#define VERBS_TABLE(word, link_layer)                                                              \
    static bool word##_probe(const struct settings *settings, char *why, size_t len)               \
    {                                                                                              \
        return scan_probe(settings, link_layer, why, len);                                         \
    }                                                                                              \
    static tutti_status word##_open(const struct transport_config *config,                         \
                                    struct transport **transport)                                  \
    {                                                                                              \
        return verbs_open(config, link_layer, &word##_ops, transport);                             \
    }                                                                                              \
    const struct transport_ops word##_ops = {                                                      \
        .name = #word,                                                                             \
        .probe = word##_probe,                                                                     \
        .open = word##_open,                                                                       \
        .close = verbs_close,                                                                      \
        .address = verbs_address,                                                                  \
        .reaches = verbs_reaches,                                                                  \
        .connect = verbs_connect,                                                                  \
        .wanted = verbs_wanted,                                                                    \
        .disconnect = verbs_disconnect,                                                            \
        .send = verbs_send,                                                                        \
        .recv = verbs_recv,                                                                        \
        .poll = verbs_poll,                                                                        \
        .cancel = verbs_cancel,                                                                    \
        .notify = verbs_notify,                                                                    \
        .event = verbs_event,                                                                      \
        .wait_fd = verbs_wait_fd,                                                                  \
        .arm = verbs_arm,                                                                          \
        .reg = verbs_reg,                                                                          \
        .dereg = verbs_dereg,                                                                      \
        .takes = verbs_takes,                                                                      \
        .tend = verbs_tend,                                                                        \
        .stats = verbs_stats,                                                                      \
        .model = verbs_model,                                                                      \
    };

VERBS_TABLE(ib, CHOOSE_LAYER_IB)
VERBS_TABLE(roce, CHOOSE_LAYER_ETHERNET)
VERBS_TABLE(iwarp, CHOOSE_LAYER_IWARP)
