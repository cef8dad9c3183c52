/* offer.c: how the two ends of a link agree on queue pairs, at first and when one that failed is
 * made again; link.c tells the whole story.
 * Invariant: the peer is told that a queue pair is ready once, when it can receive. */
#include "base/clock.h"
#include "base/log.h"
#include "transports/verbs/verbs.h"

#define REVIVE_MOST_MS 4000 /* between attempts; the wait doubles until then */

/* ---- at first ---------------------------------------------------------------------------------
 */

void offer_send(struct verbs_link *link, uint32_t path)
{
    struct verbs *verbs = link->verbs;
    struct wire_control control = {.kind = WIRE_OFFER,
                                   .path = path,
                                   .round = path == WIRE_ALL_PATHS ? 0 : link->paths[path].round,
                                   .slot_len = link->slot_len,
                                   .window = link->window,
                                   .chunk = verbs->chunk,
                                   .path_count = link->path_count,
                                   .cm = verbs->cm,
                                   .lanes = verbs->config->lanes};
    for (uint32_t i = 0; i < link->path_count && !link->paths[i].relayed; i++)
        path_describe(&link->paths[i], &control.paths[i]);
    control_send(link, &control);
}

static bool offer_fits(const struct verbs_link *link, const struct wire_control *offer)
{
    uint32_t count = link->path_count - (link->relay != NULL);
    return offer->path_count == count && offer->cm == link->verbs->cm &&
           offer->lanes == link->verbs->config->lanes && offer->slot_len >= WIRE_MESSAGE_MIN &&
           offer->window >= 1 && offer->window <= FLOW_WINDOW_MAX &&
           offer->chunk >= VERBS_CHUNK_MIN && (offer->chunk & (offer->chunk - 1)) == 0 &&
           !link->offered;
}

/* Says which of all paths can receive, once that is known of each. */
static void say_ready(struct verbs_link *link)
{
    struct wire_control ready = {.kind = WIRE_READY, .path = WIRE_ALL_PATHS};
    for (uint32_t i = 0; i < link->path_count; i++) {
        const struct verbs_path *path = &link->paths[i];
        if (path->errand)
            return;
        ready.alive |= (uint32_t)(path->state != VERBS_PATH_NONE && !path->relayed) << i;
    }
    link->ready_due = false;
    control_send(link, &ready);
    link_look_for_doom(link);
}

/* The same of one path that was made again. */
static void say_ready_again(struct verbs_path *path, uint32_t round)
{
    struct wire_control ready = {.kind = WIRE_READY, .path = path->index, .round = round};
    ready.alive = path->round == round && path->state != VERBS_PATH_NONE;
    control_send(path->link, &ready);
}

/* The peer's queue pair can receive. */
static void peer_is_ready(struct verbs_path *path)
{
    path->peer_ready = true;
    if (!path->link->verbs->cm)
        path_hello(path);
}

void offer_go_on(struct verbs_path *path, bool wait)
{
    struct verbs_link *link = path->link;
    tutti_status status = errand_end(path, wait);
    if (status == TUTTI_IN_PROGRESS)
        return;
    if (path->qp && path->state == VERBS_PATH_NONE) {
        path_give_up(path); /* it failed before it was connected */
    } else if (status != TUTTI_OK && link->verbs->cm) {
        connect_failed(path);
    } else if (status != TUTTI_OK) {
        link_path_failed(path, "%s", status_sentence());
    } else if (path->qp && !link->verbs->cm) { /* the manager says when it is connected */
        link_path_connected(path);
        if (path->round > 0)
            say_ready_again(path, path->round);
        if (path->peer_ready)
            path_hello(path);
    }
    if (link->ready_due)
        say_ready(link);
}

/* Brings one path to where it can send and receive. */
static void accept_path(struct verbs_path *path, const struct wire_path *offer)
{
    bool cm = path->link->verbs->cm;
    bool connected = cm && path->state == VERBS_PATH_TRYING; /* by the manager, before this */
    if ((path->state != VERBS_PATH_MAKING && !connected) || path->errand)
        return;
    if (offer->qpn == 0 || offer->mtu < 1 || offer->mtu > 5 || offer->window < VERBS_SPARE ||
        offer->window > CREDIT_WINDOW_MAX) {
        link_path_failed(path, "the other side could not make its queue pair");
        return;
    }
    if (path_connect(path, offer) != TUTTI_OK)
        link_path_failed(path, "%s", status_sentence());
    else if (!cm)
        return; /* offer_go_on goes on */
    else if (path->link->verbs->config->rank < path->link->peer && connect_dial(path) != TUTTI_OK)
        link_path_failed(path, "%s", status_sentence());
    else if (path->hello_came)
        path_hello(path);
}

static void take_first_offer(struct verbs_link *link, const struct wire_control *offer)
{
    struct verbs *verbs = link->verbs;
    if (!offer_fits(link, offer)) {
        link_end(link, TUTTI_ERR_PROTOCOL,
                 "%s offers RDMA queue pairs that do not fit (%u paths, %u lanes; here %u and %u): "
                 "TUTTI_VERBS_* settings and versions must agree",
                 verbs_peer_name(verbs, link->peer), offer->path_count, offer->lanes,
                 link->path_count, verbs->config->lanes);
        return;
    }
    link->offered = true;
    link->peer_window = offer->window;
    uint32_t slot_len = offer->slot_len < link->slot_len ? offer->slot_len : link->slot_len;
    uint32_t chunk = offer->chunk < verbs->chunk ? offer->chunk : verbs->chunk;
    for (uint32_t lane = 0; lane < verbs->config->lanes; lane++)
        flow_limit(&link->flows[lane], slot_len - 64, chunk, (uint16_t)offer->window);
    for (uint32_t i = 0; i < link->path_count; i++)
        accept_path(&link->paths[i], &offer->paths[i]);
    link->ready_due = true;
    say_ready(link);
}

/* ---- making a path again ----------------------------------------------------------------------
 */

static bool may_revive(const struct verbs_link *link, const struct verbs_path *path)
{
    return path->state == VERBS_PATH_NONE && !path->relayed && path->kept == 0 && !path->errand &&
           !path->rail->down && !path->dead_due && path->memory && !link->relay && !link->stopped;
}

void offer_again(struct verbs_link *link, uint64_t now)
{
    if (link->state != VERBS_LINK_UP || now < link->revive_ms ||
        link->verbs->config->rank > link->peer)
        return;
    bool tried = false;
    link->revive_ms = now + link->revive_wait_ms;
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[i];
        if (!may_revive(link, path) || now < path->since_ms + link->revive_wait_ms)
            continue;
        path->since_ms = now;
        tried = true;
        if (path_make(path) != TUTTI_OK) {
            log_at(LOG_LEVEL_INFO, (int)link->verbs->config->rank,
                   "verbs: path %u to %s cannot be made again now: %s", i,
                   verbs_peer_name(link->verbs, link->peer), status_sentence());
            continue;
        }
        path->round++;
        path->redials = 0;
        offer_send(link, i);
    }
    if (tried && link->revive_wait_ms < REVIVE_MOST_MS)
        link->revive_wait_ms *= 2;
}

/* An offer of one path: the lower rank's, or the higher's answer. */
static void take_offer_again(struct verbs_link *link, const struct wire_control *offer)
{
    if (offer->path >= link->path_count || link->paths[offer->path].relayed)
        return;
    struct verbs_path *path = &link->paths[offer->path];
    if (link->verbs->config->rank > link->peer) {
        /* What is left of an earlier attempt carried nothing but its first message. It has to go
         * before a later offer is taken. */
        if (path->state == VERBS_PATH_MAKING || path->state == VERBS_PATH_TRYING)
            path_give_up(path);
        else if (may_revive(link, path) && path_make(path) == TUTTI_OK) {
            path->round = offer->round;
            path->since_ms = clock_ms();
            offer_send(link, path->index);
        }
    }
    if (path->round == offer->round)
        accept_path(path, &offer->paths[path->index]);
    if (path->round != offer->round || !path->errand) /* else offer_go_on says it */
        say_ready_again(path, offer->round);
}

static void take_ready_again(struct verbs_link *link, const struct wire_control *ready)
{
    if (ready->path >= link->path_count || link->paths[ready->path].round != ready->round)
        return;
    struct verbs_path *path = &link->paths[ready->path];
    if (!ready->alive)
        link_path_failed(path, "the other side could not connect it");
    else
        peer_is_ready(path);
}

static void take_ready(struct verbs_link *link, const struct wire_control *ready)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[i];
        if (path->relayed || path->round != 0)
            continue; /* the word is of those that were offered at first */
        if (!(ready->alive >> i & 1))
            link_path_failed(path, "the other side could not connect it");
        else
            peer_is_ready(path);
    }
}

void offer_take(struct verbs_link *link, const struct wire_control *offer)
{
    (offer->path == WIRE_ALL_PATHS ? take_first_offer : take_offer_again)(link, offer);
}

void offer_take_ready(struct verbs_link *link, const struct wire_control *ready)
{
    (ready->path == WIRE_ALL_PATHS ? take_ready : take_ready_again)(link, ready);
}
