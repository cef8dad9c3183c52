/* farewell.c: how a link is left in order, so that nothing that was sent is lost.
 * A short send is done once its bytes are copied, long before they have arrived; and a queue pair
 * that is destroyed sends nothing again. So who closes first waits until all has arrived, and then
 * says BYE with two counts per path: what it took in, which settles the other side's sends, and
 * what it sent, which the other side still waits for (over siw a completion only means that the
 * socket has the bytes). Invariant: each wait is bounded by DELIVER_MS, and there is none for a
 * peer that has died. */
#include "base/clock.h"
#include "transports/verbs/verbs.h"

#define DELIVER_MS 3000 /* for what was sent to arrive: a queue pair gives up before, see below */

/* ---- the peer leaves --------------------------------------------------------------------------
 */

/* What it took in is delivered, whether or not its queue pairs lived long
 * enough for the completions to say so; the rest never will be. What it sent may still be on its
 * way here. */
void farewell_taken(struct verbs_link *link, const struct wire_control *bye)
{
    link->bye = true;
    for (uint32_t i = 0; i < link->path_count && i < CHOOSE_PATHS_MAX; i++) {
        struct verbs_path *path = &link->paths[i];
        if (path->relayed || path->round != bye->counts[i].round || link->stopped ||
            link->state == VERBS_LINK_ENDED)
            continue;
        path->peer_sent = bye->counts[i].sent;
        link_take_count(path, bye->counts[i].received);
    }
}

/* Does more come in of what the peer sent before it left? Not over a path that has failed. */
static bool more_comes(const struct verbs_link *link)
{
    bool more = false;
    for (uint32_t i = 0; i < link->path_count; i++) {
        const struct verbs_path *path = &link->paths[i];
        more = more || (path_alive(path) && !path->relayed &&
                        (int32_t)(path->peer_sent - path->received) > 0);
    }
    return more;
}

void farewell_look(struct verbs_link *link, uint64_t now)
{
    if (link->left_ms != 0 && (!more_comes(link) || now >= link->left_ms + DELIVER_MS))
        link_end(link, TUTTI_ERR_PEER,
                 "%s has left: it closed the communicator before this transfer",
                 verbs_peer_name(link->verbs, link->peer));
}

void farewell_ended(struct verbs_link *link)
{
    uint64_t now = clock_ms();
    if (link->left_ms == 0)
        link->left_ms = now;
    farewell_look(link, now);
}

/* ---- this side leaves -------------------------------------------------------------------------
 */

/* Nothing that was sent is on its way any more. What did not reach a peer that has left never will.
 * This ends: the peer's device answers without its process (over iWARP its process does, or has
 * left), and where there is none left a queue pair fails after TUTTI_VERBS_RETRY waits, or the
 * socket says that the process is gone. */
static bool delivered(struct verbs_link *link)
{
    bool good = !link_any_path(link, VERBS_PATH_DRAINING, VERBS_PATH_RESENDING);
    for (uint32_t i = 0; i < link->path_count && !link->bye; i++)
        good = path_settled(&link->paths[i]) && good;
    return good || link->bye;
}

static bool all_said(const struct verbs_link *link)
{
    bool good = true;
    for (uint32_t i = 0; i < VERBS_CONTROLS; i++)
        good = good && !link->out[i].busy;
    return good;
}

static bool may_leave(struct verbs_link *link, uint64_t waited_ms)
{
    return link->state != VERBS_LINK_UP || link->stopped ||
           ((waited_ms >= DELIVER_MS || delivered(link)) &&
            (waited_ms >= (link->relay ? DELIVER_MS : TRANSPORT_FLUSH_MS) || all_said(link)));
}

static void say_bye(struct verbs_link *link)
{
    struct wire_control control = {.kind = WIRE_BYE};
    for (uint32_t i = 0; i < link->path_count && i < CHOOSE_PATHS_MAX; i++)
        control.counts[i] =
            (struct wire_count){link->paths[i].round, link->paths[i].received, link->paths[i].last};
    control_send(link, &control);
}

void farewell_say(struct verbs *verbs, struct verbs_link *only)
{
    uint64_t begun = clock_ms();
    for (;;) {
        bool leave = true;
        for (struct verbs_link *link = verbs->all; link; link = link->next) {
            if (!only || link == only)
                leave = may_leave(link, clock_ms() - begun) && leave;
        }
        if (leave)
            break;
        link_take_arrivals(verbs);
        link_service(verbs);
        for (struct verbs_link *link = verbs->all; link; link = link->next)
            link_resend(link);
        clock_sleep_us(50);
    }
    for (struct verbs_link *link = verbs->all; link; link = link->next) {
        if ((!only || link == only) && link->state != VERBS_LINK_ENDED)
            say_bye(link);
    }
}
