/* comm_shrink.c: a communicator of the ranks that are left.
 *
 * The parent cannot carry a collective: a rank is dead, or transfers were cut off and its lanes are
 * out of step. But notices travel beside the lanes and still work between any two live ranks. So
 * the survivor of the lowest rank, the root, makes a unique id as for any new communicator and
 * sends it to each of the others as a notice:
 *
 *      root                            survivor
 *        meet {number, set, id} ------->
 *        <---------- coming {number, set}
 *        rendezvous through the id, two rounds of comm_build
 *
 * number counts the meetings of this root, so that an answer to an earlier one is never taken for
 * an answer to this; set is a hash of the survivors, so that ranks which disagree about who is
 * excluded learn it here. The root goes to the rendezvous when all have answered.
 *
 * Any of it can fail at one rank, and a rank can give up. Then it says so, with its reason, and
 * what it says ends every wait of the others, those of the rendezvous too:
 *
 *        absent {number, set} <------->   the root tells all, the others tell the root
 *
 * A survivor that the root has not called yet gives up meeting 0. When it comes again it says
 * coming {0}, which takes that back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "src/comm.h"
#include "tutti/tutti.h"

#define LOOK_US         100 /* between looks for a notice */
#define ROOT_MS         100 /* the root's rendezvous has so long, however late all come */
#define REASON_MS       300 /* what a rendezvous failed of may come a little later than its end */
#define SHRINK_TEXT_MAX 400

struct shrink {
    tutti_comm *parent;
    const int *cancel;
    uint32_t *members; /* [size] ranks of the parent, ascending */
    uint32_t size, new_rank, root;
    uint64_t number;  /* at the others: 0 until the root has called */
    uint64_t refused; /* of a call with another set, which may be of an earlier shrink; 0: none */
    uint64_t set;
    uint64_t deadline_ms;
    bool joined; /* all were at the rendezvous: from now on one may be done with the parent */
    /* Why there will be no communicator, once that is known, and by whose fault. */
    tutti_status verdict;
    uint32_t culprit;
    char sentence[SENTENCE_MAX];
};

/* ---- what the others say ----------------------------------------------------------------------
 */

static void forget(struct notice **notice)
{
    free(*notice);
    *notice = NULL;
}

void comm_shrink_notice(tutti_comm *comm, uint32_t peer, const struct notice *notice)
{
    struct comm_peer *from = &comm->peers[peer];
    struct notice **kept = notice->kind == NOTICE_MEET     ? &from->meet
                           : notice->kind == NOTICE_COMING ? &from->coming
                                                           : &from->absent;
    const struct notice *absent = from->absent;
    /* Its absence was from a meeting before this one. */
    if (notice->kind == NOTICE_MEET && absent && absent->status != TUTTI_ERR_MISMATCH &&
        absent->tag.word[0] < notice->tag.word[0])
        forget(&from->absent);
    if (notice->kind == NOTICE_COMING &&
        notice->tag.word[0] == 0) { /* it is here; or check_link asked */
        forget(&from->absent);
        return;
    }
    if (!*kept)
        *kept = malloc(sizeof **kept);
    /* Without memory it is lost, and the wait for it ends at its deadline. */
    if (*kept)
        **kept = *notice;
}

/* Has this survivor answered the root? */
static bool has_answered(const struct shrink *shrink, uint32_t p)
{
    const struct notice *coming = shrink->parent->peers[p].coming;
    return coming && coming->tag.word[0] == shrink->number;
}

static tutti_status disagree(const struct shrink *shrink, uint32_t peer)
{
    const tutti_comm *comm = shrink->parent;
    return fail(TUTTI_ERR_MISMATCH,
                "shrink: %s and %s exclude different ranks: every survivor must name "
                "the same",
                comm->names[comm->rank], comm->names[peer]);
}

/* Does an absence concern this shrink? Only the root hears of meeting 0; who was not called yet
 * hears of every meeting that is new to it. */
static bool concerns(const struct shrink *shrink, const struct comm_peer *peer)
{
    const uint64_t *word = peer->absent->tag.word;
    if (word[1] != shrink->set)
        return peer->absent->status == TUTTI_ERR_MISMATCH && word[0] > 0 &&
               word[0] == shrink->refused;
    return shrink->number != 0 ? word[0] == shrink->number || word[0] == 0 : word[0] > peer->met;
}

/* What a survivor says of its absence, if it does. */
static tutti_status hear(struct shrink *shrink, uint32_t p)
{
    struct comm_peer *peer = &shrink->parent->peers[p];
    if (!peer->absent || !concerns(shrink, peer))
        return TUTTI_OK;
    struct notice absent = *peer->absent;
    absent.text[sizeof absent.text - 1] = 0;
    peer->met = absent.tag.word[0] > peer->met ? absent.tag.word[0] : peer->met;
    forget(&peer->absent);
    if (peer->meet && peer->meet->tag.word[0] <= peer->met)
        forget(&peer->meet);
    /* The fault of an earlier call of this rank, which comes again. */
    if (shrink->number == 0 && absent.culprit == shrink->parent->rank)
        return TUTTI_OK;
    shrink->culprit = absent.culprit;
    return fail(status_heard(absent.status, TUTTI_ERR_PEER), "%s", absent.text);
}

/* Of a link that is down. It goes down for transfers when one of them is cut off, too: only a peer
 * that cannot be told anything any more is gone, unless it is for lack of something here. */
static tutti_status check_link(tutti_comm *comm, uint32_t p)
{
    struct comm_peer *peer = &comm->peers[p];
    struct notice notice = {.kind = NOTICE_COMING, .culprit = comm->rank};
    char why[SENTENCE_MAX];
    tutti_status status = peer->transport->ops->notify(peer->transport, p, &notice);
    peer->down = status != TUTTI_OK && status != TUTTI_IN_PROGRESS;
    if (!peer->down)
        return TUTTI_OK;
    snprintf(why, sizeof why, "%s", comm->down_peer == p ? comm->down_sentence : status_sentence());
    if (status == TUTTI_ERR_NOMEM || status == TUTTI_ERR_SYSTEM)
        return fail(status, "shrink: %.400s", why);
    return fail(TUTTI_ERR_PEER, "shrink: %.300s: exclude that rank too", why);
}

static tutti_status check_member(struct shrink *shrink, uint32_t p)
{
    tutti_comm *comm = shrink->parent;
    const struct comm_peer *peer = &comm->peers[p];
    tutti_status status = hear(shrink, p);
    if (status != TUTTI_OK || shrink->joined)
        return status;
    if (shrink->new_rank == 0 && has_answered(shrink, p) &&
        peer->coming->tag.word[1] != shrink->set)
        return disagree(shrink, p);
    if (peer->left)
        return fail(TUTTI_ERR_PEER,
                    "shrink: %s destroyed the communicator: survivors keep it until "
                    "it is shrunk",
                    comm->names[p]);
    if (peer->ended)
        return fail(TUTTI_ERR_PEER,
                    "shrink: %s has left for good the communicator that failed (%.250s): exclude "
                    "that rank too",
                    comm->names[p], comm->sentence);
    return peer->down ? check_link(comm, p) : TUTTI_OK;
}

static tutti_status check_here(const struct shrink *shrink)
{
    const tutti_comm *comm = shrink->parent;
    if (clock_cancelled(shrink->cancel))
        return fail(TUTTI_ERR_ABORTED, "%s aborted the communicator that a shrink was making",
                    comm->names[comm->rank]);
    if (clock_cancelled(&comm->ended))
        return fail(TUTTI_ERR_ABORTED, "%s aborted the communicator while it was shrunk",
                    comm->names[comm->rank]);
    return TUTTI_OK;
}

/* The first reason is kept, and given again. */
static tutti_status judge(struct shrink *shrink, tutti_status status)
{
    if (shrink->verdict == TUTTI_OK && status != TUTTI_OK) {
        shrink->verdict = status;
        snprintf(shrink->sentence, sizeof shrink->sentence, "%s", status_sentence());
    }
    if (shrink->verdict != TUTTI_OK)
        status_set_sentence(shrink->sentence);
    return shrink->verdict;
}

/* One look at what arrives; an error when a survivor is gone, gives up, or names other survivors,
 * or this rank gives up. */
static tutti_status look(struct shrink *shrink)
{
    tutti_comm *comm = shrink->parent;
    tutti_status status = shrink->verdict == TUTTI_OK ? check_here(shrink) : shrink->verdict;
    if (status != TUTTI_OK)
        return judge(shrink, status);
    /* Who revokes waits until this thread has seen it; the shrink goes on. */
    if (comm->failed == TUTTI_OK && !comm_check_abort(comm))
        comm_progress(comm);
    comm_events(comm);
    comm_tell_later(comm);
    for (uint32_t i = 0; i < shrink->size && status == TUTTI_OK; i++) {
        if (shrink->members[i] != comm->rank)
            status = check_member(shrink, shrink->members[i]);
    }
    return judge(shrink, status);
}

/* The same for the waits of the rendezvous, whose own sentence it leaves alone. */
static tutti_status look_aside(void *shrink)
{
    char sentence[SENTENCE_MAX];
    snprintf(sentence, sizeof sentence, "%s", status_sentence());
    tutti_status status = look(shrink);
    if (status == TUTTI_OK)
        status_set_sentence(sentence);
    return status;
}

/* ---- what this rank says ----------------------------------------------------------------------
 */

/* Once, as far as that goes. */
static tutti_status say(const struct shrink *shrink, uint32_t p, struct notice *notice)
{
    tutti_comm *comm = shrink->parent;
    notice->tag = (struct tag){{shrink->number, shrink->set, 0}};
    tutti_status status = comm_connect(comm, p);
    return status == TUTTI_OK
               ? comm->peers[p].transport->ops->notify(comm->peers[p].transport, p, notice)
               : status;
}

static tutti_status missing(const struct shrink *shrink, uint32_t p)
{
    const tutti_comm *comm = shrink->parent;
    return fail(TUTTI_ERR_TIMEOUT,
                "shrink: %s did not come within %llu ms: every rank that is not "
                "excluded must call it (TUTTI_MEET_TIMEOUT_MS sets the limit)",
                comm->names[p], (unsigned long long)comm->settings.meet_timeout_ms);
}

/* Sends a notice, again while the peer has no room for it; the look says why that is for ever. */
static tutti_status tell(struct shrink *shrink, uint32_t p, struct notice *notice)
{
    struct comm_peer *peer = &shrink->parent->peers[p];
    tutti_status status = comm_connect(shrink->parent, p);
    notice->culprit = shrink->parent->rank;
    while (status == TUTTI_OK) {
        tutti_status said = say(shrink, p, notice);
        if (said == TUTTI_OK)
            return TUTTI_OK;
        peer->down = peer->down || said != TUTTI_IN_PROGRESS;
        status = look(shrink);
        if (status == TUTTI_OK && clock_ms() >= shrink->deadline_ms)
            status = missing(shrink, p);
        clock_sleep_us(LOOK_US);
    }
    return status;
}

/* There will be no communicator: the sentence says why. Who was never called has nothing to say of
 * what the root can see for itself. */
static void give_up(const struct shrink *shrink, tutti_status status)
{
    char sentence[SENTENCE_MAX];
    uint32_t rank = shrink->parent->rank;
    const char *name = shrink->parent->names[rank];
    bool lost = status == TUTTI_ERR_ABORTED; /* is what an abort here is to the others */
    /* What is lacking here alone says so elsewhere; once all have met, that is told to all. */
    bool lacks = !shrink->joined && shrink->culprit == rank &&
                 (status == TUTTI_ERR_NOMEM || status == TUTTI_ERR_SYSTEM);
    struct notice notice = {.kind = NOTICE_ABSENT,
                            .culprit = shrink->culprit,
                            .status = lost ? TUTTI_ERR_PEER : status};
    snprintf(sentence, sizeof sentence, "%s", status_sentence());
    snprintf(notice.text, sizeof notice.text, "%s%s%.*s", lacks ? name : "", lacks ? ": " : "",
             (int)sizeof notice.text - 3, sentence);
    for (uint32_t i = 1; i < shrink->size && shrink->new_rank == 0; i++)
        (void)say(shrink, shrink->members[i], &notice);
    if (shrink->new_rank > 0 && (shrink->number > 0 || lost))
        (void)say(shrink, shrink->root, &notice);
    status_set_sentence(sentence);
}

/* ---- the root ---------------------------------------------------------------------------------
 */

static tutti_status call_all(struct shrink *shrink, const tutti_unique_id *id)
{
    struct notice notice = {.kind = NOTICE_MEET};
    _Static_assert(sizeof *id < sizeof notice.text, "an id fits into a notice");
    memcpy(notice.text, id->bytes, sizeof id->bytes);
    for (uint32_t i = 1; i < shrink->size; i++) {
        tutti_status status = tell(shrink, shrink->members[i], &notice);
        if (status != TUTTI_OK)
            return status;
    }
    for (uint32_t i = 1; i < shrink->size;) {
        uint32_t p = shrink->members[i];
        tutti_status status = look(shrink);
        if (status != TUTTI_OK)
            return status;
        if (has_answered(shrink, p))
            i++;
        else if (clock_ms() >= shrink->deadline_ms)
            return missing(shrink, p);
        else
            clock_sleep_us(LOOK_US);
    }
    return TUTTI_OK;
}

/* ---- the others -------------------------------------------------------------------------------
 */

/* Takes the root's notice and answers it: also when the sets differ, since the root must learn it,
 * and says then whether it still means that. */
static tutti_status take_call(struct shrink *shrink, tutti_unique_id *id)
{
    tutti_comm *comm = shrink->parent;
    struct comm_peer *root = &comm->peers[shrink->root];
    struct notice notice = {.kind = NOTICE_COMING, .culprit = comm->rank};
    bool agreed = root->meet->tag.word[1] == shrink->set;
    shrink->number = root->met = root->meet->tag.word[0];
    memcpy(id->bytes, root->meet->text, sizeof id->bytes);
    forget(&root->meet);
    tutti_status status = tell(shrink, shrink->root, &notice);
    if (!agreed) {
        shrink->refused = shrink->number;
        shrink->number = 0;
    }
    return status;
}

static tutti_status answer(struct shrink *shrink, tutti_unique_id *id)
{
    tutti_comm *comm = shrink->parent;
    struct comm_peer *root = &comm->peers[shrink->root];
    struct notice notice = {.kind = NOTICE_COMING, .culprit = comm->rank};
    tutti_status status = comm_connect(comm, shrink->root);
    if (status == TUTTI_OK)
        (void)say(shrink, shrink->root, &notice);
    while (status == TUTTI_OK) {
        status = look(shrink);
        if (status == TUTTI_OK && root->meet)
            status = take_call(shrink, id);
        if (status != TUTTI_OK || shrink->number > 0)
            break;
        if (clock_ms() >= shrink->deadline_ms)
            status =
                shrink->refused ? disagree(shrink, shrink->root) : missing(shrink, shrink->root);
        clock_sleep_us(LOOK_US);
    }
    if (status != TUTTI_OK && root->meet && root->meet->tag.word[1] == shrink->set) {
        shrink->number = root->met = root->meet->tag.word[0]; /* it waits, and will be told */
        forget(&root->meet);
    }
    return status;
}

/* ---- together ---------------------------------------------------------------------------------
 */

static int alone(const void *in, void *out, size_t len, void *context)
{
    memcpy(out, in, len);
    return 0;
}

/* With a verdict the rendezvous is over before it begins; it gives back the id's sockets. */
static tutti_status meet_as_root(struct shrink *shrink, struct settings *settings,
                                 const struct cancel *cancel, struct bootstrap **bootstrap)
{
    tutti_unique_id id;
    shrink->number = ++shrink->parent->meetings;
    tutti_status status = bootstrap_root_id(settings, &id);
    if (status != TUTTI_OK)
        return status;
    judge(shrink, call_all(shrink, &id));
    uint64_t now = clock_ms();
    bool time_left = shrink->deadline_ms > now + ROOT_MS;
    settings->meet_timeout_ms = time_left ? shrink->deadline_ms - now : ROOT_MS;
    return bootstrap_from_id(settings, &id, 0, shrink->size, cancel, bootstrap);
}

static tutti_status meet(struct shrink *shrink, const struct cancel *cancel,
                         struct bootstrap **bootstrap)
{
    struct settings settings = shrink->parent->settings;
    tutti_unique_id id;
    if (shrink->size == 1)
        return bootstrap_from_callback(alone, NULL, 0, 1, bootstrap);
    if (shrink->new_rank == 0)
        return meet_as_root(shrink, &settings, cancel, bootstrap);
    tutti_status status = judge(shrink, answer(shrink, &id));
    if (status != TUTTI_OK)
        return status;
    return bootstrap_from_id(&settings, &id, shrink->new_rank, shrink->size, cancel, bootstrap);
}

/* The rendezvous, or what follows, failed: the reason is what some survivor says of it, in the
 * ranks of the parent, or else its own. */
static tutti_status find_reason(struct shrink *shrink, tutti_status status)
{
    char text[SHRINK_TEXT_MAX];
    bool others = status == TUTTI_ERR_CONNECT || status == TUTTI_ERR_PEER;
    /* The root's lack is told by it, with its name; only the rendezvous has told this rank yet. */
    bool told = others || (status == TUTTI_ERR_NOMEM && shrink->new_rank > 0);
    snprintf(text, sizeof text, "%.*s", (int)sizeof text - 1, status_sentence());
    for (uint64_t until = clock_ms() + REASON_MS; told && clock_ms() < until;) {
        if (look(shrink) != TUTTI_OK)
            break;
        clock_sleep_us(LOOK_US);
    }
    if (shrink->verdict != TUTTI_OK)
        return judge(shrink, TUTTI_OK);
    return fail(status, "shrink: %s%s", others ? "among the survivors, numbered anew: " : "", text);
}

static tutti_status shrink_entered(struct shrink *shrink, tutti_comm **new_comm)
{
    struct bootstrap *bootstrap = NULL;
    struct cancel cancel = {look_aside, shrink};
    tutti_status status = meet(shrink, &cancel, &bootstrap);
    if (status == TUTTI_OK) {
        shrink->joined = true;
        status = comm_build(&shrink->parent->settings, bootstrap, new_comm);
        bootstrap_free(bootstrap);
    }
    if (status == TUTTI_OK)
        return TUTTI_OK;
    status = find_reason(shrink, status);
    give_up(shrink, status);
    return status;
}

static tutti_status find_survivors(tutti_comm *comm, const int *excluded, size_t count,
                                   struct shrink *shrink)
{
    for (size_t i = 0; i < count; i++) {
        if (excluded[i] < 0 || (uint32_t)excluded[i] >= comm->size)
            return fail(TUTTI_ERR_ARG, "shrink: excluded rank %d is out of range: expected 0 to %u",
                        excluded[i], comm->size - 1);
        if ((uint32_t)excluded[i] == comm->rank)
            return fail(TUTTI_ERR_ARG, "shrink: rank %u excludes itself: only survivors call",
                        comm->rank);
    }
    shrink->set = 0xcbf29ce484222325u; /* FNV-1a over the survivors */
    for (uint32_t r = 0; r < comm->size; r++) {
        unsigned times = 0;
        for (size_t i = 0; i < count; i++)
            times += (uint32_t)excluded[i] == r;
        if (times > 1)
            return fail(TUTTI_ERR_ARG, "shrink: rank %u is excluded %u times", r, times);
        if (times == 1)
            continue;
        if (r == comm->rank)
            shrink->new_rank = shrink->size;
        shrink->members[shrink->size++] = r;
        shrink->set = (shrink->set ^ r) * 0x100000001b3u;
    }
    shrink->root = shrink->members[0];
    return TUTTI_OK;
}

/* After an abort here this rank has no links any more. */
static tutti_status check_ended(const tutti_comm *comm)
{
    if (!clock_cancelled(&comm->ended))
        return TUTTI_OK;
    return fail(TUTTI_ERR_ABORTED, "shrink: %s has left this communicator for good: %.300s",
                comm->names[comm->rank], comm->sentence);
}

tutti_status tutti_comm_shrink_cancellable(tutti_comm *comm, const int *excluded, size_t count,
                                           const int *cancel, tutti_comm **new_comm)
{
    if (!new_comm || (!excluded && count > 0))
        return fail(TUTTI_ERR_ARG, "tutti_comm_shrink: %s is NULL",
                    new_comm ? "excluded" : "new_comm");
    tutti_status status = comm_drain(comm, cancel);
    if (status == TUTTI_OK && comm_has_units(comm) && clock_cancelled(cancel))
        status = fail(TUTTI_ERR_ABORTED, "%s aborted the communicator that a shrink was making",
                      comm->names[comm->rank]);
    if (status == TUTTI_OK)
        status = comm_enter_any(comm);
    if (status != TUTTI_OK)
        return status;
    struct shrink shrink = {.parent = comm,
                            .cancel = cancel,
                            .culprit = comm->rank,
                            .members = calloc(comm->size, sizeof *shrink.members),
                            .deadline_ms = clock_ms() + comm->settings.meet_timeout_ms};
    if (!shrink.members)
        status = fail(TUTTI_ERR_NOMEM, "no memory to shrink a communicator");
    else
        status = find_survivors(comm, excluded, count, &shrink);
    if (status == TUTTI_OK)
        status = check_ended(comm);
    if (status == TUTTI_OK)
        status = shrink_entered(&shrink, new_comm);
    free(shrink.members);
    comm_leave(comm);
    return status;
}

tutti_status tutti_comm_shrink(tutti_comm *comm, const int *excluded, size_t count,
                               tutti_comm **new_comm)
{
    return tutti_comm_shrink_cancellable(comm, excluded, count, NULL, new_comm);
}
