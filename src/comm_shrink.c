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
 * excluded learn it here. The root goes to the rendezvous when all have answered, since it makes no
 * progress on the parent there. When some have not, it goes all the same, for a moment: the
 * rendezvous then names the missing to those that came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "src/comm.h"
#include "tutti/tutti.h"

#define LOOK_US         100 /* between looks for a notice */
#define REFUSE_MS       100 /* the root's rendezvous when it is known that it must fail */
#define SHRINK_TEXT_MAX 300

struct shrink {
    tutti_comm *parent;
    uint32_t *members; /* [size] ranks of the parent, ascending */
    uint32_t size, new_rank, root;
    uint64_t number; /* at the others: 0 until the root has told */
    uint64_t set;
    uint64_t deadline_ms;
};

void comm_shrink_notice(tutti_comm *comm, uint32_t peer, const struct notice *notice)
{
    struct comm_peer *from = &comm->peers[peer];
    if (notice->tag.word[0] == 0)
        return; /* is_gone asked */
    struct notice **kept = notice->kind == NOTICE_MEET ? &from->meet : &from->coming;
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

static bool is_member(const struct shrink *shrink, uint32_t rank)
{
    for (uint32_t i = 0; i < shrink->size; i++) {
        if (shrink->members[i] == rank)
            return true;
    }
    return false;
}

/* A link goes down for transfers when one of them is cut off, too: only a peer that cannot be told
 * anything any more is gone. */
static bool is_gone(tutti_comm *comm, uint32_t p)
{
    const struct comm_peer *peer = &comm->peers[p];
    struct notice notice = {.kind = NOTICE_COMING, .culprit = comm->rank};
    if (comm->down_peer != p)
        return false;
    tutti_status status = peer->transport->ops->notify(peer->transport, p, &notice);
    if (status != TUTTI_OK && status != TUTTI_ERR_NOMEM)
        return true;
    comm->down_peer = NO_RANK;
    return false;
}

/* One look at what arrives; an error when a survivor is gone or names other survivors. */
static tutti_status look(const struct shrink *shrink)
{
    tutti_comm *comm = shrink->parent;
    if (comm->failed == TUTTI_OK)
        comm_progress(comm);
    comm_events(comm);
    for (uint32_t p = 0; p < comm->size; p++) {
        const struct comm_peer *peer = &comm->peers[p];
        if (!is_member(shrink, p) || p == comm->rank)
            continue;
        if (shrink->new_rank == 0 && has_answered(shrink, p) &&
            peer->coming->tag.word[1] != shrink->set)
            return disagree(shrink, p);
        if (peer->left)
            return fail(TUTTI_ERR_PEER,
                        "shrink: %s destroyed the communicator: survivors keep it until "
                        "it is shrunk",
                        comm->names[p]);
        if (is_gone(comm, p))
            return fail(TUTTI_ERR_PEER, "shrink: %.300s: exclude that rank too",
                        comm->down_sentence);
    }
    return TUTTI_OK;
}

/* Sends a notice, again while the peer has no room for it. */
static tutti_status tell(const struct shrink *shrink, uint32_t p, struct notice *notice)
{
    tutti_comm *comm = shrink->parent;
    const struct comm_peer *peer = &comm->peers[p];
    notice->culprit = comm->rank;
    notice->tag = (struct tag){{shrink->number, shrink->set, 0}};
    for (;;) {
        tutti_status status = comm_connect(comm, p);
        if (status == TUTTI_OK)
            status = peer->transport->ops->notify(peer->transport, p, notice);
        if (status != TUTTI_ERR_NOMEM || clock_ms() >= shrink->deadline_ms)
            return status;
        status = look(shrink);
        if (status != TUTTI_OK)
            return status;
        clock_sleep_us(LOOK_US);
    }
}

/* ---- the root ---------------------------------------------------------------------------------
 */

static tutti_status missing(const struct shrink *shrink, uint32_t p)
{
    const tutti_comm *comm = shrink->parent;
    return fail(TUTTI_ERR_TIMEOUT,
                "shrink: %s did not come within %llu ms: every rank that is not "
                "excluded must call it (TUTTI_CONNECT_TIMEOUT_MS sets the limit)",
                comm->names[p], (unsigned long long)comm->settings.connect_timeout_ms);
}

static tutti_status call_all(const struct shrink *shrink, const tutti_unique_id *id)
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

/* Takes the root's notice and answers it: also when the sets differ, since the root must learn it.
 */
static tutti_status answer(struct shrink *shrink, tutti_unique_id *id)
{
    tutti_comm *comm = shrink->parent;
    struct comm_peer *root = &comm->peers[shrink->root];
    struct notice notice = {.kind = NOTICE_COMING};
    tutti_status status = comm_connect(comm, shrink->root);
    while (status == TUTTI_OK && !root->meet) {
        status = look(shrink);
        if (status != TUTTI_OK || root->meet)
            break;
        if (clock_ms() >= shrink->deadline_ms)
            status = missing(shrink, shrink->root);
        clock_sleep_us(LOOK_US);
    }
    if (!root->meet)
        return status;
    bool agreed = root->meet->tag.word[1] == shrink->set;
    shrink->number = root->meet->tag.word[0];
    memcpy(id->bytes, root->meet->text, sizeof id->bytes);
    free(root->meet);
    root->meet = NULL;
    status = tell(shrink, shrink->root, &notice);
    return agreed ? status : disagree(shrink, shrink->root);
}

/* ---- together ---------------------------------------------------------------------------------
 */

static int alone(const void *in, void *out, size_t len, void *context)
{
    memcpy(out, in, len);
    return 0;
}

/* The root's own reason is better than what the rendezvous says of the missing. */
static tutti_status meet_as_root(struct shrink *shrink, struct settings *settings,
                                 struct bootstrap **bootstrap)
{
    tutti_unique_id id;
    char text[SHRINK_TEXT_MAX];
    tutti_status status = bootstrap_unique_id(settings, &id);
    if (status != TUTTI_OK)
        return status;
    shrink->number = ++shrink->parent->meetings;
    status = call_all(shrink, &id);
    snprintf(text, sizeof text, "%.299s", status_sentence());
    uint64_t now = clock_ms();
    bool time_left = status == TUTTI_OK && shrink->deadline_ms > now + REFUSE_MS;
    settings->connect_timeout_ms = time_left ? shrink->deadline_ms - now : REFUSE_MS;
    tutti_status met = bootstrap_from_id(settings, &id, 0, shrink->size, NULL, bootstrap);
    if (status == TUTTI_OK)
        return met;
    if (met == TUTTI_OK)
        bootstrap_free(*bootstrap);
    status_set_sentence(text);
    return status;
}

static tutti_status shrink_entered(struct shrink *shrink, tutti_comm **new_comm)
{
    struct settings settings = shrink->parent->settings;
    struct bootstrap *bootstrap = NULL;
    tutti_unique_id id;
    tutti_status status;
    if (shrink->size == 1) {
        status = bootstrap_from_callback(alone, NULL, 0, 1, &bootstrap);
    } else if (shrink->new_rank == 0) {
        status = meet_as_root(shrink, &settings, &bootstrap);
    } else {
        status = answer(shrink, &id);
        if (status == TUTTI_OK)
            status =
                bootstrap_from_id(&settings, &id, shrink->new_rank, shrink->size, NULL, &bootstrap);
    }
    if (status != TUTTI_OK)
        return status;
    status = comm_build(&shrink->parent->settings, bootstrap, new_comm);
    bootstrap_free(bootstrap);
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

tutti_status tutti_comm_shrink(tutti_comm *comm, const int *excluded, size_t count,
                               tutti_comm **new_comm)
{
    if (!new_comm || (!excluded && count > 0))
        return fail(TUTTI_ERR_ARG, "tutti_comm_shrink: %s is NULL",
                    new_comm ? "excluded" : "new_comm");
    tutti_status status = comm_enter_any(comm);
    if (status != TUTTI_OK)
        return status;
    struct shrink shrink = {.parent = comm,
                            .members = calloc(comm->size, sizeof *shrink.members),
                            .deadline_ms = clock_ms() + comm->settings.connect_timeout_ms};
    if (!shrink.members)
        status = fail(TUTTI_ERR_NOMEM, "no memory to shrink a communicator");
    else
        status = find_survivors(comm, excluded, count, &shrink);
    if (status == TUTTI_OK) {
        status = shrink_entered(&shrink, new_comm);
    }
    free(shrink.members);
    comm_leave(comm);
    return status;
}
