/* connect.c: queue pairs connected by the connection manager (librdmacm), the only way for iWARP.
 * The idea: everything but the connection itself stays as it is: offers go over the side transport
 * and are sealed; the lower rank then dials the port that the other side's rail listens on, and
 * says by a random token of the offer which queue pair it means. A stranger does not know any.
 * Requests that carry no token we offered are refused.
 * Invariant: path->id is the connection of the path's queue pair, and is destroyed before it. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/auth.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "transports/verbs/verbs.h"

#define RESOLVE_MS   400 /* a kernel that missed the answer looks again only then */
#define ROUTE_MS     2000
#define DISCARD_PORT 9
#define BACKLOG      128
#define REDIALS_MAX  5
#define LISTENS_MAX  16

/* ---- addresses --------------------------------------------------------------------------------
 */

/* An address as GIDs carry it, as a socket's. */
static void socket_address(const uint8_t raw[16], uint16_t port, struct sockaddr_storage *out)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    memset(out, 0, sizeof *out);
    if (memcmp(raw, mapped, sizeof mapped) == 0) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)out;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, raw + 12, 4);
    } else {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        memcpy(&v6->sin6_addr, raw, 16);
    }
}

static socklen_t address_len(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

bool connect_greet(const uint8_t own[16], const uint8_t peer[16])
{
    struct sockaddr_storage from, to;
    if (own[0] == 0xfe && (own[1] & 0xc0) == 0x80)
        return false; /* a link-local address holds the hardware address */
    socket_address(own, 0, &from);
    socket_address(peer, DISCARD_PORT, &to);
    int fd = socket(from.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool sent = bind(fd, (struct sockaddr *)&from, address_len(&from)) == 0 &&
                sendto(fd, "", 0, 0, (struct sockaddr *)&to, address_len(&to)) == 0;
    close(fd);
    return sent;
}

static const uint8_t *own_address(const struct verbs_path *path)
{
    const struct verbs *verbs = path->link->verbs;
    return verbs->ports.rails[path->choice.rail[0]].gids[path->choice.gid[0]].raw;
}

/* A TCP socket with a port of its own on an address of ours; -1: none. */
static int bound_socket(const uint8_t raw[16])
{
    struct sockaddr_storage own;
    socket_address(raw, 0, &own);
    int fd = owned_add(socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, address_len(&own)) == 0)
        return fd;
    owned_close(fd);
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in6 own = {0}; /* IPv4 has the port at the same place */
    socklen_t len = sizeof own;
    return getsockname(fd, (struct sockaddr *)&own, &len) == 0 ? ntohs(own.sin6_port) : 0;
}

int connect_knock(const struct verbs_path *path)
{
    struct sockaddr_storage to;
    if (path->peer.knock_port == 0)
        return -1;
    socket_address(path->peer.cm_address, path->peer.knock_port, &to);
    int fd = bound_socket(own_address(path));
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, address_len(&to)) == 0 ||
        errno == EINPROGRESS)
        return fd;
    owned_close(fd);
    return -1;
}

/* ---- listening --------------------------------------------------------------------------------
 */

/* On one address of a rail. The port that the manager gives may be one that a socket has (iWARP;
 * the two are counted apart), or that the kernel's IB manager gave to somebody else (EINVAL), and
 * listening then fails: TUTTI_IN_PROGRESS, another port may do. */
static tutti_status listen_once(struct verbs_rail *rail, uint32_t gid)
{
    struct verbs *verbs = rail->verbs;
    const struct library *library = verbs->library;
    const struct choose_gid *at = &verbs->ports.rails[rail->index].gids[gid];
    struct rdma_cm_id **id = &rail->listeners[gid];
    struct sockaddr_storage address;
    char text[96];
    socket_address(at->raw, 0, &address);
    if (library->rdma.create_id(verbs->cm_channel, id, NULL, RDMA_PS_TCP) != 0) {
        *id = NULL;
        return fail_errno(TUTTI_ERR_SYSTEM, "make an RDMA connection manager's id");
    }
    bool bound = library->rdma.bind_addr(*id, (struct sockaddr *)&address) == 0;
    if (bound && library->rdma.listen(*id, BACKLOG) == 0) {
        rail->refusers[gid] = verbs->layer == CHOOSE_LAYER_IWARP ? bound_socket(at->raw) : -1;
        return TUTTI_OK;
    }
    bool taken = errno == EADDRINUSE || errno == EADDRNOTAVAIL || (bound && errno == EINVAL);
    tutti_status status = fail_errno(
        TUTTI_ERR_CONNECT, "%s %s of %s with the RDMA connection manager",
        bound ? "listen at" : "bind", choose_gid_text(at, text, sizeof text), rail->name);
    library->rdma.destroy_id(*id);
    *id = NULL;
    return taken ? TUTTI_IN_PROGRESS : status;
}

static tutti_status listen_on(struct verbs_rail *rail, uint32_t gid)
{
    tutti_status status = TUTTI_IN_PROGRESS;
    for (int i = 0; i < LISTENS_MAX && status == TUTTI_IN_PROGRESS; i++)
        status = listen_once(rail, gid);
    if (status == TUTTI_OK)
        return status;
    log_at(LOG_LEVEL_INFO, (int)rail->verbs->config->rank, "verbs: an address is left out: %s",
           status_sentence());
    return TUTTI_ERR_CONNECT; /* its sentence is kept */
}

/* On every address of a rail; those where nobody listens are not offered to peers. */
static uint32_t listen_on_rail(struct verbs_rail *rail, char *why, size_t len)
{
    struct choose_rail *offer = &rail->verbs->ports.rails[rail->index];
    uint32_t count = choose_dialable(offer);
    for (uint32_t g = 0; g < count;) {
        if (listen_on(rail, g) == TUTTI_OK) {
            g++;
            continue;
        }
        if (!why[0])
            snprintf(why, len, "%s", status_sentence());
        memmove(&offer->gids[g], &offer->gids[g + 1], (--count - g) * sizeof *offer->gids);
    }
    offer->gid_count = (uint8_t)count;
    return count;
}

static tutti_status listen_everywhere(struct verbs *verbs)
{
    char why[SENTENCE_MAX] = "";
    uint32_t count = 0;
    for (uint32_t r = 0; r < verbs->rail_count; r++)
        count += listen_on_rail(&verbs->rails[r], why, sizeof why);
    if (count > 0)
        return TUTTI_OK;
    return why[0] ? fail(TUTTI_ERR_CONNECT, "%s", why)
                  : fail(TUTTI_ERR_UNSUPPORTED,
                         "the RDMA connection manager needs an IP address on the interface of %s, "
                         "and not a link-local one: give it one, or set "
                         "TUTTI_VERBS_CONNECT=bootstrap",
                         verbs->rails[0].name);
}

tutti_status connect_open(struct verbs *verbs)
{
    const struct library *library = verbs->library;
    if (verbs->layer == CHOOSE_LAYER_IB)
        return fail(
            TUTTI_ERR_SETTING,
            "TUTTI_VERBS_CONNECT=cm dials IP addresses, by which InfiniBand's ports are not "
            "known: set TUTTI_VERBS_CONNECT=bootstrap, or leave ib out of "
            "TUTTI_TRANSPORTS");
    if (!library->have_rdma)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "TUTTI_VERBS_CONNECT=cm and iWARP need the RDMA connection manager: %s",
                    library->why);
    verbs->cm_channel = library->rdma.create_event_channel();
    if (!verbs->cm_channel)
        return fail_errno(TUTTI_ERR_UNSUPPORTED,
                          "open the RDMA connection manager (/dev/infiniband/rdma_cm; load the "
                          "kernel module rdma_ucm)");
    tutti_status status = device_nonblocking(verbs->cm_channel->fd);
    return status == TUTTI_OK ? listen_everywhere(verbs) : status;
}

void connect_close(struct verbs *verbs)
{
    for (uint32_t r = 0; r < verbs->rail_count; r++) {
        for (uint32_t g = 0; g < CHOOSE_GIDS_MAX; g++) {
            if (!verbs->rails[r].listeners[g])
                continue;
            verbs->library->rdma.destroy_id(verbs->rails[r].listeners[g]);
            if (verbs->rails[r].refusers[g] >= 0)
                owned_close(verbs->rails[r].refusers[g]);
        }
    }
    if (verbs->cm_channel) {
        owned_forget(verbs->cm_channel->fd);
        verbs->library->rdma.destroy_event_channel(verbs->cm_channel);
    }
    verbs->cm_channel = NULL;
}

void connect_describe(const struct verbs_path *path, struct wire_path *wire)
{
    const struct verbs *verbs = path->link->verbs;
    struct rdma_cm_id *listener = path->rail->listeners[path->choice.gid[0]];
    wire->cm_port = listener ? ntohs(verbs->library->rdma.get_src_port(listener)) : 0;
    wire->knock_port = listener ? port_of(path->rail->refusers[path->choice.gid[0]]) : 0;
    memcpy(wire->cm_address, own_address(path), sizeof wire->cm_address);
    memcpy(wire->cm_token, path->token, sizeof wire->cm_token);
}

/* ---- one connection ---------------------------------------------------------------------------
 */

tutti_status connect_dial(struct verbs_path *path)
{
    struct verbs *verbs = path->link->verbs;
    const struct library *library = verbs->library;
    struct sockaddr_storage from, to;
    socket_address(own_address(path), 0, &from);
    socket_address(path->peer.cm_address, path->peer.cm_port, &to);
    if (library->rdma.create_id(verbs->cm_channel, &path->id, path, RDMA_PS_TCP) != 0) {
        path->id = NULL;
        return fail_errno(TUTTI_ERR_NOMEM, "make an RDMA connection manager's id");
    }
    path->since_ms = clock_ms();
    connect_greet(own_address(path), path->peer.cm_address);
    if (library->rdma.resolve_addr(path->id, (struct sockaddr *)&from, (struct sockaddr *)&to,
                                   RESOLVE_MS) != 0)
        return fail_errno(TUTTI_ERR_CONNECT, "resolve the address of %s over %s",
                          verbs_peer_name(verbs, path->link->peer), path->rail->name);
    return TUTTI_OK;
}

void connect_drop(struct verbs_path *path)
{
    path->link->verbs->library->rdma.destroy_id(path->id);
    path->id = NULL;
}

/* Brings the queue pair to a state with the attributes that the manager knows. */
static bool move_to(struct verbs_path *path, enum ibv_qp_state state)
{
    const struct library *library = path->link->verbs->library;
    const struct settings *settings = path->link->verbs->config->settings;
    struct ibv_qp_attr attr = {.qp_state = state};
    int mask;
    if (library->rdma.init_qp_attr(path->id, &attr, &mask) != 0)
        return false;
    if (state == IBV_QPS_INIT)
        attr.qp_access_flags |= IBV_ACCESS_REMOTE_WRITE;
    if (mask & IBV_QP_TIMEOUT)
        attr.timeout = (uint8_t)settings->verbs_timeout;
    if (mask & IBV_QP_MIN_RNR_TIMER)
        attr.min_rnr_timer = 12;
    /* Where they are not set, what the administrator gave the manager holds. */
    if ((mask & IBV_QP_AV) && settings->verbs_service_level > 0)
        attr.ah_attr.sl = (uint8_t)settings->verbs_service_level;
    if ((mask & IBV_QP_AV) && settings->verbs_traffic_class > 0)
        attr.ah_attr.grh.traffic_class = (uint8_t)settings->verbs_traffic_class;
    return library->ibv.modify_qp(path->qp, &attr, mask) == 0;
}

static bool is_iwarp(const struct verbs_path *path)
{
    return path->link->verbs->layer == CHOOSE_LAYER_IWARP;
}

/* The queue pair may receive; on iWARP the kernel takes it from here. */
static bool prepare(struct verbs_path *path)
{
    if (!move_to(path, IBV_QPS_INIT))
        return false;
    path_receive(path);
    return true;
}

static struct rdma_conn_param parameters(const struct verbs_path *path)
{
    const struct settings *settings = path->link->verbs->config->settings;
    return (struct rdma_conn_param){.private_data = path->peer.cm_token,
                                    .private_data_len = sizeof path->peer.cm_token,
                                    .responder_resources = 1,
                                    .initiator_depth = 1,
                                    .retry_count = (uint8_t)settings->verbs_retry,
                                    .rnr_retry_count = VERBS_RNR_RETRY,
                                    .qp_num = path->qp->qp_num};
}

/* A new queue pair in place of one whose connection was given up; what both sides offered stays. */
static bool make_again(struct verbs_path *path)
{
    const struct wire_path peer = path->peer;
    uint8_t token[sizeof path->token];
    memcpy(token, path->token, sizeof token);
    path_drop(path);
    if (path_make(path) != TUTTI_OK || path_connect(path, &peer) != TUTTI_OK) {
        path->state = VERBS_PATH_MAKING; /* so that its failure is told */
        return false;
    }
    memcpy(path->token, token, sizeof token);
    return true;
}

static void failed(struct verbs_path *path, const char *what)
{
    /* Its port may be one that a socket has (the two are counted apart), its request lost in a
     * crowd: the side that dials tries again, with a new queue pair, since the old one may be
     * spent. */
    bool dialer = path->link->verbs->config->rank < path->link->peer;
    int error = errno;
    if (dialer && path->state == VERBS_PATH_MAKING && path->redials++ < REDIALS_MAX) {
        if (make_again(path) && connect_dial(path) == TUTTI_OK)
            return;
    }
    errno = error;
    link_path_failed(path, "connection by the RDMA connection manager over %s failed: %s: %m",
                     path->rail->name, what);
}

void connect_failed(struct verbs_path *path)
{
    if (errno == ETIMEDOUT)
        path->redials = REDIALS_MAX; /* it was dialed several times, by the kernel */
    failed(path, "connect");
}

static void established(struct verbs_path *path)
{
    link_path_connected(path);
    /* iWARP: the side that dialed speaks first. */
    if (path->link->verbs->config->rank < path->link->peer)
        path_hello(path);
}

static void connection_event(struct verbs_path *path, const struct rdma_cm_event *event)
{
    const struct library *library = path->link->verbs->library;
    struct rdma_conn_param param = parameters(path);
    switch (event->event) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        if (library->rdma.resolve_route(path->id, ROUTE_MS) != 0)
            failed(path, "resolve the route");
        break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        if (!prepare(path) || errand_dial(path, &param) != TUTTI_OK)
            failed(path, "connect");
        break;
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
        if (!move_to(path, IBV_QPS_RTR) || !move_to(path, IBV_QPS_RTS) ||
            library->rdma.establish(path->id) != 0)
            failed(path, "establish");
        else
            established(path);
        break;
    case RDMA_CM_EVENT_ESTABLISHED:
        established(path);
        break;
    case RDMA_CM_EVENT_DISCONNECTED:
        /* No news: before it disconnects the other side says over the socket that the path failed
         * or that it leaves, with what had arrived; and this may overtake that. */
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
        break;
    case RDMA_CM_EVENT_UNREACHABLE:
        /* iWARP: the peer's host has answered the knock, and its kernel has taken the connection.
         * What is late is its process, which may compute for longer than the kernel waits for it.
         * Elsewhere the kernel has asked for more than a minute, and nobody has answered. */
        path->redials = is_iwarp(path) ? 0 : REDIALS_MAX;
        /* fall through */
    default:
        if (path->hello_came && event->event != RDMA_CM_EVENT_DEVICE_REMOVAL)
            break; /* messages pass: the manager's own handshake may have lost its last word */
        errno = event->status < 0 ? -event->status : event->status;
        failed(path, library->rdma.event_str(event->event));
        break;
    }
}

/* The path whose token a request carries. One that has a connection already may be dialed again
 * until a message has come: the dialer gave the first connection up, with its queue pair. */
static struct verbs_path *wanted(struct verbs *verbs, const struct rdma_cm_event *event)
{
    const struct rdma_conn_param *param = &event->param.conn;
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        for (uint32_t i = 0; i < link->path_count; i++) {
            struct verbs_path *path = &link->paths[i];
            if ((path->state == VERBS_PATH_MAKING || path->state == VERBS_PATH_TRYING) &&
                !path->hello_came && param->private_data && verbs->config->rank > link->peer &&
                param->private_data_len >= sizeof path->token &&
                memcmp(param->private_data, path->token, sizeof path->token) == 0)
                return path;
        }
    }
    return NULL;
}

/* True when the id is ours now; else the caller destroys it, after the event is acknowledged. */
static bool accept_request(struct verbs *verbs, const struct rdma_cm_event *event)
{
    const struct library *library = verbs->library;
    struct verbs_path *path = wanted(verbs, event);
    if (!path) {
        log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
               "verbs: refused an RDMA connection without a token of ours");
        library->rdma.reject(event->id, NULL, 0);
        return false;
    }
    if (path->id && !make_again(path)) {
        failed(path, "make a queue pair again");
        library->rdma.reject(event->id, NULL, 0);
        return false;
    }
    path->id = event->id;
    path->id->context = path;
    struct rdma_conn_param param = parameters(path);
    param.private_data = NULL;
    param.private_data_len = 0;
    bool ready = prepare(path) &&
                 (is_iwarp(path) || (move_to(path, IBV_QPS_RTR) && move_to(path, IBV_QPS_RTS)));
    if (ready && library->rdma.accept(path->id, &param) == 0)
        return true;
    if (!ready || errno != ECONNRESET) {
        failed(path, "accept");
        return true;
    }
    /* The dialer gave it up while this rank was away: it dials again, or says that it does not. */
    path->id = NULL;
    if (!make_again(path))
        failed(path, "make a queue pair again");
    return false;
}

void connect_events(struct verbs *verbs)
{
    const struct library *library = verbs->library;
    struct rdma_cm_event *event;
    while (library->rdma.get_cm_event(verbs->cm_channel, &event) == 0) {
        struct rdma_cm_id *refused = NULL;
        struct rdma_cm_event copy = *event;
        struct verbs_path *path = NULL;
        bool request = event->event == RDMA_CM_EVENT_CONNECT_REQUEST;
        if (request)
            refused = accept_request(verbs, event) ? NULL : event->id;
        else
            path = event->id->context; /* NULL: a listener's */
        /* An id cannot be destroyed while an event of it is not acknowledged. */
        library->rdma.ack_cm_event(event);
        if (refused)
            library->rdma.destroy_id(refused);
        /* What the kernel tells of a connection it tells once the call that makes it is over. */
        if (path && path->id == copy.id && path->errand)
            offer_go_on(path, true);
        if (path && path->id == copy.id && !path->errand)
            connection_event(path, &copy);
    }
}
