/* link.c: how the queue pairs of a link come up, what happens when one fails, and how links end
 * (farewell.c: in order).
 *
 *   lower and higher rank alike, over the side transport (proved peers, sealed messages):
 *     OFFER   number, address and window of each queue pair      both send it at once
 *     READY   "mine can receive"                                 once the other's offer is here
 *   and then over each queue pair:
 *     HELLO   its way works                                      a path is up when it went both
 * ways
 *
 *   a path fails (a completion, an event, or the peer's word for it):
 *     each side stops its queue pair, so that nothing more can come in, takes what has come in,
 *     and says DEAD with that number; with the other's number it knows what to send again, over
 *     another path, before anything new of those lanes. Nothing is lost, nothing comes twice.
 *   later the lower rank offers the path again, in a new round, and chunks take it again.
 *
 * Reliable connections notice a dead peer only while they send; the side transport's socket
 * notices it always, and usually first, so its sentence is preferred.
 * Invariant: a link ends once; its queue pairs are gone before its transfers end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "transports/verbs/verbs.h"

#define HELLO_MS   5000 /* for a path to carry its first message */
#define HELLO_ASKS 4    /* questions in that time whether the peer lives, over iWARP */
#define DRAIN_MS   500  /* for a stopped queue pair to give its receives back */
#define DOOM_MS    1000 /* from the end of the last path to the link's: the socket may know why */
#define GRACE_MS   100  /* for the socket to say why, before a path is lost or TCP is used */
#define EVENTS_MS  50   /* between looks at the devices' events */

/* ---- paths ------------------------------------------------------------------------------------
 */

bool link_any_path(const struct verbs_link *link, enum verbs_path_state low,
                   enum verbs_path_state high)
{
    for (uint32_t i = 0; i < link->path_count; i++) {
        if (link->paths[i].state >= low && link->paths[i].state <= high)
            return true;
    }
    return false;
}

struct verbs_path *link_heir(struct verbs_link *link)
{
    for (uint32_t i = 0; i < link->path_count && link->paths[link->heir].state != VERBS_PATH_UP;
         i++)
        link->heir = i;
    struct verbs_path *heir = &link->paths[link->heir];
    return heir->state == VERBS_PATH_UP ? heir : NULL;
}

/* Lanes whose home is no path any more, or not yet, get one. */
static void give_homes(struct verbs_link *link)
{
    const struct verbs_path *up = link_heir(link);
    for (uint32_t lane = 0; lane < link->verbs->config->lanes && up; lane++) {
        enum verbs_path_state state = link->paths[link->home[lane]].state;
        if (state == VERBS_PATH_NONE || state == VERBS_PATH_MAKING || state == VERBS_PATH_TRYING)
            link->home[lane] = (uint8_t)up->index;
    }
}

void link_look_for_doom(struct verbs_link *link)
{
    if (link->state != VERBS_LINK_ENDED && link->doomed_ms == 0 &&
        !link_any_path(link, VERBS_PATH_MAKING, VERBS_PATH_UP) && !link->stopped)
        link->doomed_ms = clock_ms() + DOOM_MS;
}

/* Up, once every path has shown whether it works. */
static void look_for_up(struct verbs_link *link)
{
    if (link->state != VERBS_LINK_MAKING || !link->offered ||
        link_any_path(link, VERBS_PATH_MAKING, VERBS_PATH_TRYING) || !link_heir(link))
        return;
    link->state = VERBS_LINK_UP;
    link->verbs->making--;
    link->since_ms = clock_ms();
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++)
        link->home[lane] = (uint8_t)(lane % link->path_count);
    give_homes(link);
    link->work = true;
    for (uint32_t i = 0; i < link->path_count; i++) {
        const struct verbs_path *path = &link->paths[i];
        log_at(LOG_LEVEL_DEBUG, (int)link->verbs->config->rank, "verbs: path %u to %s over %s: %s",
               i, verbs_peer_name(link->verbs, link->peer), path->rail->name,
               path->state == VERBS_PATH_UP ? "up" : path->why);
    }
}

void link_path_up(struct verbs_path *path)
{
    struct verbs_link *link = path->link;
    if (path->state != VERBS_PATH_TRYING)
        return;
    path_hello(path); /* the peer's came first */
    if (!path->hello_came || !path->hello_acked)
        return;
    path->state = VERBS_PATH_UP;
    path->since_ms = clock_ms();
    link->revive_wait_ms = VERBS_REVIVE_MS;
    if (path->round > 0)
        log_at(LOG_LEVEL_WARN, (int)link->verbs->config->rank,
               "verbs: path %u to %s over %s is up again", path->index,
               verbs_peer_name(link->verbs, link->peer), path->rail->name);
    look_for_up(link);
    give_homes(link);
    link->work = true; /* what others lost may go now */
}

void link_path_connected(struct verbs_path *path)
{
    if (path->state != VERBS_PATH_MAKING)
        return;
    path->state = VERBS_PATH_TRYING;
    path->since_ms = clock_ms();
}

/* Goes on over the socket, when no queue pair can do it. */
static void fall_back(struct verbs_link *link, const char *why)
{
    if (gpu_is_open(link)) {
        gpu_refuse_socket(link);
        return;
    }
    char text[SENTENCE_MAX]; /* why may be the sentence of the path whose place the relay takes */
    snprintf(text, sizeof text, "%s", why);
    if (link->relay || relay_open(link) != TUTTI_OK)
        return;
    log_at(LOG_LEVEL_WARN, (int)link->verbs->config->rank,
           "verbs: the link to %s goes over TCP, which is slower: %s (TUTTI_VERBS_FALLBACK=0 makes "
           "this an error)",
           verbs_peer_name(link->verbs, link->peer), text);
    link->doomed_ms = 0;
    look_for_up(link);
    give_homes(link);
    link->work = true;
}

static void gone(struct verbs_path *path)
{
    path_give_up(path);
    path->since_ms = clock_ms();
    give_homes(path->link);
    look_for_up(path->link);
    link_look_for_doom(path->link);
}

void link_take_count(struct verbs_path *path, uint32_t received)
{
    if (!path_arrived(path, received))
        link_end(path->link, TUTTI_ERR_PROTOCOL,
                 "%s counts %u messages over %s, of which only %u were sent: versions differ, or "
                 "its memory is damaged",
                 verbs_peer_name(path->link->verbs, path->link->peer), received, path->rail->name,
                 path->last);
}

/* A device that vanishes may take with it what it has acknowledged: it is forgotten here, and will
 * not come in there. The first message, a HELLO, may go that way: nobody waits for it. */
static void look_for_loss(struct verbs_path *path)
{
    uint32_t taken = path->peer_received == 0 ? 1 : path->peer_received;
    if ((int32_t)(path->first - taken) > 0)
        link_end(
            path->link, TUTTI_ERR_PEER,
            "the RDMA link to %s is lost: its device had acknowledged %u messages over %s that "
            "it did not take in before the path failed: %s",
            verbs_peer_name(path->link->verbs, path->link->peer), path->first - taken,
            path->rail->name, path->why);
}

static void start_resending(struct verbs_path *path)
{
    link_take_count(path, path->peer_received);
    if (path->link->state != VERBS_LINK_ENDED)
        look_for_loss(path);
    if (path->link->state == VERBS_LINK_ENDED)
        return;
    path->state = VERBS_PATH_RESENDING;
    path->link->work = true;
    link_look_for_doom(path->link);
}

/* The same word as DEAD over a path that is up: the socket may use the very wire that was cut. It
 * may come twice, in any order. */
static void tell_dead(struct verbs_path *dead)
{
    struct verbs_path *up = link_heir(dead->link);
    struct wire_header header = {.kind = WIRE_PATH_DEAD, .len = dead->received};
    struct wire_path_dead word = {.path = dead->index, .round = dead->round};
    if (!up || up->relayed || !path_room(up, sizeof header + sizeof word, 0))
        return;
    snprintf(word.text, sizeof word.text, "%.71s", dead->why);
    path_message(up, &header, &word, sizeof word);
    path_flush(up);
}

/* The peer may wait for this word for ever: without a place it is said later. */
static void say_dead(struct verbs_path *path)
{
    struct wire_control control = {.kind = WIRE_DEAD,
                                   .path = path->index,
                                   .round = path->round,
                                   .received = path->received,
                                   .alive = path->state == VERBS_PATH_NONE};
    snprintf(control.text, sizeof control.text, "%.127s", path->why);
    path->dead_due = control_send(path->link, &control) == NULL;
}

void link_path_drained(struct verbs_path *path)
{
    path->state = VERBS_PATH_DRAINED;
    if (path->peer_dead)
        start_resending(path);
    say_dead(path);
    tell_dead(path);
}

/* With other rails the loss of one is news by itself; without, it will be the link's sentence. That
 * one more attempt to make it again failed is none, still less that a peer closes in order. */
static enum log_level news_of(const struct verbs_path *path)
{
    if (path->link->bye)
        return LOG_LEVEL_DEBUG;
    bool lost = (path->hello_came && path->hello_acked) || path->round == 0;
    return path->link->path_count > 1 && lost ? LOG_LEVEL_WARN : LOG_LEVEL_INFO;
}

void link_path_failed(struct verbs_path *path, const char *format, ...)
{
    struct verbs_link *link = path->link;
    va_list args;
    if (path->relayed || path->state == VERBS_PATH_NONE || path->state >= VERBS_PATH_DRAINING)
        return;
    va_start(args, format);
    vsnprintf(path->why, sizeof path->why, format, args);
    va_end(args);
    path->failure = ++link->failures;
    path->since_ms = clock_ms();
    log_at(news_of(path), (int)link->verbs->config->rank, "verbs: path %u to %s over %s failed: %s",
           path->index, verbs_peer_name(link->verbs, link->peer), path->rail->name, path->why);
    if (path->state == VERBS_PATH_MAKING) {
        /* The other side may wait for a connection that does not come. */
        if (link->offered)
            say_dead(path);
        gone(path);
        return;
    }
    path_stop(path);
    path->state = VERBS_PATH_DRAINING;
    if (path->posted == 0)
        link_path_drained(path);
    link_look_for_doom(link);
    look_for_up(link);
}

/* The dead path that may send again now: none while another's losses are unknown, and of several
 * the one that failed last, since it may have carried what an earlier one lost. */
static struct verbs_path *next_to_resend(struct verbs_link *link)
{
    struct verbs_path *next = NULL;
    if (link_any_path(link, VERBS_PATH_DRAINING, VERBS_PATH_DRAINED))
        return NULL;
    for (uint32_t i = 0; i < link->path_count; i++) {
        struct verbs_path *path = &link->paths[i];
        if (path->state == VERBS_PATH_RESENDING && (!next || path->failure > next->failure))
            next = path;
    }
    return next;
}

void link_resend(struct verbs_link *link)
{
    struct verbs_path *path;
    while ((path = next_to_resend(link)) && link_heir(link)) {
        while (path->first != path->last &&
               transfer_resend(path, &path->records[path->first % path->depth]))
            path_pop(path, false);
        for (uint32_t i = 0; i < link->path_count; i++)
            path_flush(&link->paths[i]);
        if (next_to_resend(link) != path)
            continue; /* the heir has failed: what it was given is to go first */
        if (path->first != path->last)
            return; /* no room: again with the next poll */
        log_at(news_of(path), (int)link->verbs->config->rank,
               "verbs: the link to %s goes on without %s, over %s",
               verbs_peer_name(link->verbs, link->peer), path->rail->name,
               !link_heir(link)           ? "nothing"
               : link_heir(link)->relayed ? "TCP"
                                          : link_heir(link)->rail->name);
        gone(path);
    }
}

/* ---- what the peer says -----------------------------------------------------------------------
 */

static void take_dead(struct verbs_link *link, const struct wire_control *dead)
{
    char text[sizeof dead->text];
    if (dead->path >= link->path_count || link->paths[dead->path].round != dead->round)
        return;
    struct verbs_path *path = &link->paths[dead->path];
    if (path->state == VERBS_PATH_NONE && !dead->alive) {
        /* It failed here before it was made: the other side waits for this word. */
        say_dead(path);
        return;
    }
    snprintf(text, sizeof text, "%.127s", dead->text);
    path->peer_dead = true;
    path->peer_received = dead->received;
    link_path_failed(path, "the other side says: %s", text);
    if (path->state == VERBS_PATH_DRAINED)
        start_resending(path);
}

/* The peer was cancelled: nothing moves any more, until one of the two closes. */
static void take_stopped(struct verbs_link *link)
{
    link->stopped = true;
    for (uint32_t i = 0; i < link->path_count; i++)
        path_drop(&link->paths[i]);
}

void link_path_dead(struct verbs_link *link, const struct wire_path_dead *word, uint64_t received)
{
    struct wire_control dead = {
        .kind = WIRE_DEAD, .path = word->path, .round = word->round, .received = received};
    memcpy(dead.text, word->text, sizeof word->text);
    take_dead(link, &dead);
}

void link_take(struct verbs_link *link, const struct wire_control *control)
{
    switch (control->kind) {
    case WIRE_OFFER:
        offer_take(link, control);
        break;
    case WIRE_READY:
        offer_take_ready(link, control);
        break;
    case WIRE_DEAD:
        take_dead(link, control);
        break;
    case WIRE_STOPPED:
        take_stopped(link);
        break;
    case WIRE_BYE:
        farewell_taken(link, control);
        break;
    case WIRE_DATA:
        if (link->offered && link->fallback)
            fall_back(link, "the other side does");
        if (!link->relay || !relay_arrived(link, control))
            link_end(link, TUTTI_ERR_PROTOCOL,
                     "%s sent a message over TCP that makes no sense here",
                     verbs_peer_name(link->verbs, link->peer));
        break;
    case WIRE_ASK_COUNT:
        silence_asked(link, control);
        break;
    case WIRE_COUNT:
        silence_answered(link, control);
        break;
    default:
        break;
    }
}

/* ---- time -------------------------------------------------------------------------------------
 */

/* Over iWARP a completion does not say that HELLO has arrived. So the peer is asked (silence.c)
 * from time to time, and while it owes the answer no time passes. */
static void ask_meanwhile(struct verbs_path *path, uint64_t now)
{
    struct wire_control question = {
        .kind = WIRE_ASK_COUNT, .path = path->index, .round = path->round};
    if (path->state != VERBS_PATH_TRYING || path->link->verbs->layer != CHOOSE_LAYER_IWARP)
        return;
    if (path->question_open) {
        path->since_ms = now;
    } else if (path->hello_asks < HELLO_ASKS &&
               now >= path->since_ms + HELLO_MS / (HELLO_ASKS + 1)) {
        path->since_ms = now;
        path->waits_for = path->first - 1; /* what is counted is not judged */
        path->question_open = control_send(path->link, &question) != NULL;
        path->hello_asks += path->question_open;
    }
}

/* Is the network late, and not the peer, which may compute for long before it is ready or says
 * HELLO? Only while this side's HELLO is under way: once that has arrived the way is good, and the
 * peer says DEAD if its own is not. Over iWARP: though the peer has answered meanwhile. */
static bool no_answer(const struct verbs_path *path, uint64_t now)
{
    bool iwarp = path->link->verbs->layer == CHOOSE_LAYER_IWARP;
    bool due = iwarp ? path->hello_asks == HELLO_ASKS && !path->question_open
                     : path->hello_sent && !path->hello_acked;
    return path->state == VERBS_PATH_TRYING && due &&
           now >= path->since_ms + HELLO_MS / (iwarp ? HELLO_ASKS + 1 : 1);
}

/* Have its receives not come back? */
static bool drains_late(const struct verbs_path *path, uint64_t now)
{
    return path->state == VERBS_PATH_DRAINING && now >= path->since_ms + DRAIN_MS;
}

/* Does this side connect it, while there is another path? The kernel's connection manager asks a
 * silent rail for more than a minute; iWARP's peers are knocked at first. */
static bool keeps_from_others(const struct verbs_path *path)
{
    const struct verbs *verbs = path->link->verbs;
    return path->id && verbs->layer != CHOOSE_LAYER_IWARP &&
           verbs->config->rank < path->link->peer && link_heir(path->link);
}

static void service_path(struct verbs_path *path, uint64_t now)
{
    if (path->errand)
        offer_go_on(path, false);
    if (path->closed && path_alive(path) && (path->link->bye || now >= path->since_ms + GRACE_MS))
        link_path_failed(path,
                         "the queue pair on %s was closed by the device: its port went down, "
                         "or the other side closed",
                         path->rail->name);
    ask_meanwhile(path, now);
    if (path->dead_due)
        say_dead(path);
    if (drains_late(path, now) || no_answer(path, now))
        link_take_arrivals(path->link->verbs); /* it may have come while this rank was away */
    if (drains_late(path, now)) {
        /* A device that is gone gives nothing back. */
        path_give_up(path);
        link_path_drained(path);
    }
    bool due = path->round > 0 || (path->errand && path->id) || /* it is this side that connects */
               keeps_from_others(path);
    if (path->state == VERBS_PATH_MAKING && due && now >= path->since_ms + HELLO_MS)
        link_path_failed(path, "the other side did not answer");
    if (no_answer(path, now))
        link_path_failed(path,
                         "no message came through over %s: check that its address reaches "
                         "the other side's, or set TUTTI_VERBS_GID_INDEX",
                         path->rail->name);
}

/* Why the path that failed last did. */
static const char *last_failure(const struct verbs_link *link)
{
    const struct verbs_path *last = &link->paths[0];
    for (uint32_t i = 1; i < link->path_count; i++)
        last = link->paths[i].failure > last->failure ? &link->paths[i] : last;
    return last->why;
}

static void service_link(struct verbs_link *link, uint64_t now)
{
    for (uint32_t i = 0; i < link->path_count && link->state != VERBS_LINK_ENDED; i++) {
        service_path(&link->paths[i], now);
        silence_look(&link->paths[i], now);
    }
    offer_again(link, now);
    farewell_look(link, now);
    if (link->state == VERBS_LINK_ENDED || link->doomed_ms == 0)
        return;
    /* A peer that closes says so on the socket, which may take a moment longer to tell. */
    if (link->fallback && link->offered && !link->bye &&
        now + DOOM_MS >= link->doomed_ms + GRACE_MS &&
        !link_any_path(link, VERBS_PATH_MAKING, VERBS_PATH_UP))
        fall_back(link, last_failure(link));
    if (link_any_path(link, VERBS_PATH_MAKING, VERBS_PATH_UP)) {
        link->doomed_ms = 0;
    } else if (now >= link->doomed_ms) {
        link_end(link, TUTTI_ERR_PEER, "the RDMA link to %s is lost: %s",
                 verbs_peer_name(link->verbs, link->peer), last_failure(link));
    }
}

void link_service(struct verbs *verbs)
{
    control_look_aside(verbs, true);
    control_poll(verbs);
    if (verbs->cm_channel)
        connect_events(verbs);
    uint64_t now = clock_ms();
    if (now >= verbs->events_ms) {
        verbs->events_ms = now + EVENTS_MS;
        device_events(verbs);
    }
    for (struct verbs_link *link = verbs->all; link; link = link->next)
        service_link(link, now);
}

/* ---- life -------------------------------------------------------------------------------------
 */

bool link_busy(const struct verbs_link *link)
{
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        const struct flow *flow = &link->flows[lane];
        if (flow->send_done != flow->send_next || flow->recv_done != flow->recv_next)
            return true;
    }
    return false;
}

static void make_paths(struct verbs_link *link, const struct choose_ports *ports)
{
    struct verbs *verbs = link->verbs;
    struct choose_path choices[CHOOSE_PATHS_MAX];
    uint32_t count = choose_paths(&verbs->ports, ports, verbs->config->rank < link->peer, choices);
    link->path_count = count;
    link->fallback = verbs->ports.fallback && ports->fallback;
    if (count == 0)
        choose_why(&verbs->ports, ports, link->paths[0].why, sizeof link->paths[0].why);
    for (uint32_t i = 0; i < count; i++) {
        struct verbs_path *path = &link->paths[i];
        path->link = link;
        path->index = i;
        path->choice = choices[i];
        path->rail = &verbs->rails[choices[i].rail[0]];
        path->since_ms = clock_ms();
        if (path_make(path) != TUTTI_OK) {
            snprintf(path->why, sizeof path->why, "%s", status_sentence());
            path->failure = ++link->failures;
        }
    }
    link->slot_len = verbs->slot_len;
    link->window = verbs->window;
}

tutti_status link_begin(struct verbs *verbs, uint32_t peer, const struct choose_ports *ports)
{
    uint32_t lanes = verbs->config->lanes;
    struct verbs_link *link = calloc(1, sizeof *link + lanes * sizeof *link->flows);
    if (!link)
        return fail(TUTTI_ERR_NOMEM, "no memory for the link to %s", verbs_peer_name(verbs, peer));
    link->verbs = verbs;
    link->peer = peer;
    link->since_ms = clock_ms();
    link->next = verbs->all;
    link->prev = &verbs->all;
    if (link->next)
        link->next->prev = &link->next;
    verbs->all = link;
    verbs->links[peer] = link;
    verbs->making++;
    make_paths(link, ports);
    offer_send(link, WIRE_ALL_PATHS);
    control_receive(link);
    return TUTTI_OK;
}

void link_take_arrivals(struct verbs *verbs)
{
    for (uint32_t i = 0; i < verbs->rail_count && !verbs->polling; i++) {
        verbs->polling = true;
        while (path_poll(&verbs->rails[i])) {
        }
        verbs->polling = false;
    }
}

void link_end(struct verbs_link *link, tutti_status status, const char *format, ...)
{
    va_list args;
    if (link->state == VERBS_LINK_ENDED)
        return;
    va_start(args, format);
    vsnprintf(link->sentence, sizeof link->sentence, format, args);
    va_end(args);
    link_take_arrivals(link->verbs);
    if (link->state == VERBS_LINK_ENDED)
        return; /* what came was nonsense */
    bool was_up = link->state == VERBS_LINK_UP;
    link->verbs->making -= !was_up;
    link->state = VERBS_LINK_ENDED;
    link->status = status;
    link->work = false;
    for (uint32_t i = 0; i < link->path_count; i++)
        path_drop(&link->paths[i]);
    if (link->relay)
        control_cut(link);
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++)
        transfer_retire(link, lane);
    link->down = (was_up && !link->bye) || link_busy(link);
    transfer_fail_all(link, status);
}

tutti_status link_refuse(struct verbs_link *link)
{
    link->down = true;
    return fail(link->status, "%s", link->sentence);
}

void link_cancel(struct verbs_link *link)
{
    struct wire_control control = {.kind = WIRE_STOPPED};
    link->stopped = true;
    link->work = false;
    for (uint32_t i = 0; i < link->path_count; i++)
        path_drop(&link->paths[i]);
    for (uint32_t lane = 0; lane < link->verbs->config->lanes; lane++) {
        struct flow *flow = &link->flows[lane];
        for (uint16_t s = flow->send_done; s != flow->send_next; s++)
            memory_release(
                link->verbs,
                (struct verbs_region *)flow->sends[s % FLOW_POSTED_MAX]->work[FLOW_WORK_REGION]);
        for (uint16_t r = flow->recv_done; r != flow->recv_next; r++)
            memory_release(
                link->verbs,
                (struct verbs_region *)flow->recvs[r % FLOW_POSTED_MAX]->work[FLOW_WORK_REGION]);
        flow->send_done = flow->send_at = flow->send_next;
        flow->recv_done = flow->recv_granted = flow->recv_next;
    }
    control_send(link, &control);
}

void link_free(struct verbs_link *link)
{
    struct verbs *verbs = link->verbs;
    verbs->making -= link->state == VERBS_LINK_MAKING;
    for (uint32_t i = 0; i < link->path_count; i++)
        path_free(&link->paths[i]);
    relay_close(link);
    verbs->links[link->peer] = NULL;
    *link->prev = link->next;
    if (link->next)
        link->next->prev = link->prev;
    free(link);
}
