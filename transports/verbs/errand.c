/* errand.c: what the kernel may take long for, in a thread of its own: to connect the queue pair of
 * a path, by itself or by the connection manager, and to destroy it.
 * The idea: on the way to ready-to-receive the kernel asks the network for the peer's hardware
 * address, and before a software device forgets a queue pair its packets must have left those who
 * wait for such an answer. On a rail that is silent either takes a second, and whoever waited with
 * it would leave all other links, and the other rails of this one, alone for as long. There is no
 * way to ask without waiting but the connection manager, which not every machine has.
 * The manager in turn connects iWARP's queue pairs with TCP inside the call: over a rail that is
 * silent, but whose hardware addresses are known, that takes a minute, and nothing ends it. So the
 * thread first knocks with a socket of its own, which can be given up.
 * Invariant: while path->errand is set the thread uses the queue pair and its connection, and
 * nobody else does. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "base/thread.h"
#include "transports/verbs/verbs.h"

#define ERRAND_STACK (256u << 10) /* a vendor's library runs on it */
#define KNOCK_MS     3000         /* a lost packet is sent again after one second, or two */

struct errand {
    const struct library *library;
    struct ibv_qp *qp;
    struct ibv_qp_attr receive, send;
    uint8_t own[16]; /* the port's address */
    struct rdma_cm_id *id;
    struct rdma_conn_param param;
    uint8_t token[sizeof(((struct wire_path *)0)->cm_token)];
    int (*does)(struct errand *errand); /* the work; returns an errno */
    pthread_t thread;
    bool threaded;
    bool greets; /* the network maps addresses: Ethernet */
    int knock;   /* a socket that connects to the peer; -1: none */
    int wake;    /* the transport's */
    int error;
    _Atomic(bool) done; /* the thread has ended, or is about to */
};

static void to_receive(const struct verbs_path *path, struct ibv_qp_attr *attr)
{
    const struct verbs *verbs = path->link->verbs;
    const struct settings *settings = verbs->config->settings;
    const struct choose_rail *rail = &verbs->ports.rails[path->choice.rail[0]];
    const struct wire_path *peer = &path->peer;
    uint8_t mtu = rail->mtu < peer->mtu ? rail->mtu : peer->mtu;
    *attr = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTR,
        .path_mtu = (enum ibv_mtu)mtu,
        .dest_qp_num = peer->qpn,
        .rq_psn = peer->psn & 0xffffff,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = 12,
        .ah_attr = {.dlid = peer->lid,
                    .sl = (uint8_t)settings->verbs_service_level,
                    .port_num = path->rail->port,
                    .is_global =
                        rail->layer == CHOOSE_LAYER_ETHERNET || rail->global || peer->global,
                    .grh = {.sgid_index = (uint8_t)rail->gids[path->choice.gid[0]].index,
                            .hop_limit = 64,
                            .traffic_class = (uint8_t)settings->verbs_traffic_class}},
    };
    memcpy(attr->ah_attr.grh.dgid.raw, peer->gid, 16);
    if (rail->mtu != peer->mtu)
        log_at(LOG_LEVEL_INFO, (int)verbs->config->rank,
               "verbs: %s has MTU %u and %s has %u: %u is used", path->rail->name,
               128u << rail->mtu, verbs_peer_name(verbs, path->link->peer), 128u << peer->mtu,
               128u << mtu);
}

static void to_send(const struct verbs_path *path, struct ibv_qp_attr *attr)
{
    const struct settings *settings = path->link->verbs->config->settings;
    *attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
                                 .timeout = (uint8_t)settings->verbs_timeout,
                                 .retry_cnt = (uint8_t)settings->verbs_retry,
                                 .rnr_retry = VERBS_RNR_RETRY,
                                 .sq_psn = path->psn,
                                 .max_rd_atomic = 1};
}

static int connect_it(struct errand *errand)
{
    static const struct timespec answer_takes = {.tv_nsec = 1000000};
    if (errand->greets && connect_greet(errand->own, errand->receive.ah_attr.grh.dgid.raw))
        nanosleep(&answer_takes, NULL);
    int error = errand->library->ibv.modify_qp(
        errand->qp, &errand->receive,
        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
            IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (error != 0)
        return error;
    return errand->library->ibv.modify_qp(errand->qp, &errand->send,
                                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                                              IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                              IBV_QP_MAX_QP_RD_ATOMIC);
}

/* Has anything answered, be it with a refusal? */
static int knock(struct errand *errand)
{
    struct pollfd one = {.fd = errand->knock, .events = POLLOUT};
    int error = ETIMEDOUT;
    socklen_t len = sizeof error;
    if (poll(&one, 1, KNOCK_MS) > 0 &&
        getsockopt(errand->knock, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    return error == ECONNREFUSED ? 0 : error;
}

static int dial_it(struct errand *errand)
{
    int error = errand->knock < 0 ? 0 : knock(errand);
    if (error != 0)
        return error;
    return errand->library->rdma.connect(errand->id, &errand->param) == 0 ? 0 : errno;
}

static int destroy_it(struct errand *errand)
{
    return errand->library->ibv.destroy_qp(errand->qp);
}

static void *run(void *argument)
{
    struct errand *errand = argument;
    errand->error = errand->does(errand);
    atomic_store_explicit(&errand->done, true, memory_order_release);
    (void)!write(errand->wake, &(uint64_t){1}, sizeof(uint64_t));
    return NULL;
}

static struct errand *make(struct verbs_path *path, int (*does)(struct errand *errand))
{
    struct errand *errand = calloc(1, sizeof *errand);
    if (!errand)
        return NULL;
    errand->library = path->link->verbs->library;
    errand->qp = path->qp;
    errand->id = path->id;
    errand->wake = path->link->verbs->wake;
    errand->does = does;
    errand->knock = -1;
    return errand;
}

/* Where no thread is to be had the caller waits. */
static void begin(struct verbs_path *path, struct errand *errand)
{
    pthread_attr_t attributes;
    path->errand = errand;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, ERRAND_STACK);
    errand->threaded = thread_start(&errand->thread, &attributes, run, errand) == 0;
    pthread_attr_destroy(&attributes);
    if (!errand->threaded)
        run(errand);
}

bool errand_any_ended(struct verbs *verbs)
{
    uint64_t count;
    return read(verbs->wake, &count, sizeof count) == sizeof count;
}

tutti_status errand_connect(struct verbs_path *path)
{
    struct errand *errand = make(path, connect_it);
    if (!errand)
        return fail(TUTTI_ERR_NOMEM, "no memory to connect a queue pair on %s", path->rail->name);
    to_receive(path, &errand->receive);
    to_send(path, &errand->send);
    const struct choose_rail *rail = &path->link->verbs->ports.rails[path->choice.rail[0]];
    memcpy(errand->own, rail->gids[path->choice.gid[0]].raw, sizeof errand->own);
    errand->greets = rail->layer == CHOOSE_LAYER_ETHERNET;
    begin(path, errand);
    return TUTTI_OK;
}

tutti_status errand_dial(struct verbs_path *path, const struct rdma_conn_param *param)
{
    struct errand *errand = make(path, dial_it);
    if (!errand)
        return fail(TUTTI_ERR_NOMEM, "no memory to connect a queue pair on %s", path->rail->name);
    errand->param = *param;
    memcpy(errand->token, param->private_data, sizeof errand->token);
    errand->param.private_data = errand->token;
    if (path->link->verbs->layer == CHOOSE_LAYER_IWARP)
        errand->knock = connect_knock(path);
    path->since_ms = clock_ms();
    begin(path, errand);
    return TUTTI_OK;
}

bool errand_destroy(struct verbs_path *path)
{
    struct errand *errand = make(path, destroy_it);
    if (errand)
        begin(path, errand);
    return errand != NULL;
}

tutti_status errand_end(struct verbs_path *path, bool wait)
{
    struct errand *errand = path->errand;
    const struct verbs *verbs = path->link->verbs;
    char text[96];
    if (wait && errand->knock >= 0)
        shutdown(errand->knock, SHUT_RDWR); /* no answer is waited for any more */
    if (!wait && !atomic_load_explicit(&errand->done, memory_order_acquire))
        return TUTTI_IN_PROGRESS;
    if (errand->threaded)
        pthread_join(errand->thread, NULL);
    int error = errand->error;
    bool destroyed = errand->does == destroy_it;
    if (errand->knock >= 0)
        owned_close(errand->knock);
    free(errand);
    path->errand = NULL;
    if (destroyed)
        path_destroyed(path);
    if (destroyed || error == 0)
        return TUTTI_OK;
    errno = error;
    return fail_errno(
        TUTTI_ERR_CONNECT, "connect a queue pair on %s with GID %s to %s", path->rail->name,
        choose_gid_text(&verbs->ports.rails[path->choice.rail[0]].gids[path->choice.gid[0]], text,
                        sizeof text),
        verbs_peer_name(verbs, path->link->peer));
}
