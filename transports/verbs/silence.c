/* silence.c: a rail of iWARP that falls silent while others work.
 * TCP sends again, longer apart each time, for many minutes before it gives a connection up
 * (tcp_retries2); nothing of iWARP's ends sooner, as the retry counter of RoCE and InfiniBand does.
 * The idea: what was sent longest ago, and has not been counted by the peer for SILENT_MS, is asked
 * for over the side transport. The answer is the peer's count once it has taken in all that is
 * there: if that is no higher, the peer lives and the rail does not, and the others go on. A peer
 * that computes answers late, and no answer is no verdict.
 * Invariant: a path has one question open at most, and is not judged by the answer to another. */
#include "base/clock.h"
#include "transports/verbs/verbs.h"

#define SILENT_MS   2000 /* TCP has sent three times more by then */
#define SILENCE_MAX 4    /* doublings of this: a chunk takes less than half a minute */

/* A rail that was merely slow comes up again soon; each time it is waited for twice as long, so
 * that it carries what takes longer. */
static uint64_t patience_ms(const struct verbs_path *path)
{
    return (uint64_t)SILENT_MS << (path->silences < SILENCE_MAX ? path->silences : SILENCE_MAX);
}

/* Without another path there is nothing to gain from giving this one up. */
static bool has_other(const struct verbs_path *path)
{
    const struct verbs_link *link = path->link;
    for (uint32_t i = 0; i < link->path_count; i++) {
        if (i != path->index && link->paths[i].state == VERBS_PATH_UP)
            return true;
    }
    return false;
}

void silence_look(struct verbs_path *path, uint64_t now)
{
    if (path->link->verbs->layer != CHOOSE_LAYER_IWARP || path->state != VERBS_PATH_UP ||
        path->question_open)
        return;
    if (path->first == path->last || path->staged > 0) {
        path->waits_ms = 0; /* what is staged is not sent yet */
    } else if (path->waits_ms == 0 || path->waits_for != path->first) {
        path->waits_for = path->first;
        path->waits_ms = now;
    } else if (now >= path->waits_ms + patience_ms(path) && has_other(path)) {
        struct wire_control question = {
            .kind = WIRE_ASK_COUNT, .path = path->index, .round = path->round};
        path->question_open = control_send(path->link, &question) != NULL;
    }
}

static struct verbs_path *named(struct verbs_link *link, const struct wire_control *control)
{
    bool known = control->path < link->path_count &&
                 link->paths[control->path].round == control->round &&
                 !link->paths[control->path].relayed;
    return known ? &link->paths[control->path] : NULL;
}

void silence_asked(struct verbs_link *link, const struct wire_control *question)
{
    struct verbs_path *path = named(link, question);
    link_take_arrivals(link->verbs);
    if (!path || link->state == VERBS_LINK_ENDED)
        return;
    struct wire_control answer = {
        .kind = WIRE_COUNT, .path = path->index, .round = path->round, .received = path->received};
    control_send(link, &answer);
}

void silence_answered(struct verbs_link *link, const struct wire_control *answer)
{
    struct verbs_path *path = named(link, answer);
    if (!path || !path->question_open)
        return;
    path->question_open = false;
    path->waits_ms = 0;
    if (path->state != VERBS_PATH_UP)
        return;
    link_take_count(path, answer->received);
    if (link->state == VERBS_LINK_ENDED || path->first != path->waits_for || !has_other(path))
        return;
    link_path_failed(path,
                     "nothing came through over %s for %.1f s, and the other side lives: check "
                     "the port, the cable and the switch",
                     path->rail->name, (double)patience_ms(path) * 1e-3);
    path->silences++;
}
