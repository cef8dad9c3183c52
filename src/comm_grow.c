/* comm_grow.c: a communicator of the ranks of another, which keep their numbers, and of newcomers.
 *
 *      rank of the parent                        newcomer
 *        allgather over the parent                 is given the id by the program
 *          {size, the id at one rank}
 *        rendezvous through the id  <------------> tutti_comm_create(size, id, rank)
 *        two rounds of comm_build   <------------> two rounds of comm_build
 *
 * The parent carries the agreement and nothing else, so it goes on as it was, whatever becomes of
 * the grow. While its ranks wait for the newcomers each looks at it as well: for deaths, which end
 * the wait, and for what another rank says of its own failure, which may know the cause better than
 * the rendezvous does or may not have reached that:
 *
 *        grow {number, status, sentence} --> every rank of the parent that has a link
 *
 * number counts the grows of the parent, alike at all its ranks. Once all have met, one may be done
 * with the parent, and nobody looks at it any more. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "src/comm.h"
#include "tutti/tutti.h"

struct offer {
    int32_t size;
    uint32_t gives; /* an id: 1 if no other rank gives one, 2 in any case */
    tutti_unique_id id;
};

struct grow {
    tutti_comm *parent;
    const int *cancel;
    uint32_t size;
    bool joined; /* all were at the rendezvous */
};

/* ---- what the others say ----------------------------------------------------------------------
 */

void comm_grow_notice(tutti_comm *comm, const struct notice *notice)
{
    struct notice *kept = comm->grow_failed;
    if (kept && kept->tag.word[0] >= notice->tag.word[0])
        return;
    if (!kept)
        kept = comm->grow_failed = malloc(sizeof *kept);
    /* Without memory it is lost, and the wait ends with the rendezvous. */
    if (kept)
        *kept = *notice;
}

static tutti_status hear(const tutti_comm *comm)
{
    const struct notice *told = comm->grow_failed;
    if (!told || told->tag.word[0] != comm->grows)
        return TUTTI_OK;
    return fail(status_heard(told->status, TUTTI_ERR_CONNECT), "%.*s", (int)sizeof told->text - 1,
                told->text);
}

static void tell(tutti_comm *comm, tutti_status status)
{
    char sentence[SENTENCE_MAX];
    struct notice notice = {.kind = NOTICE_GROW,
                            .culprit = comm->rank,
                            .tag = {{comm->grows, 0, 0}},
                            /* what is an abort here is the loss of a rank to others */
                            .status = status == TUTTI_ERR_ABORTED ? TUTTI_ERR_CONNECT : status};
    snprintf(sentence, sizeof sentence, "%s", status_sentence());
    snprintf(notice.text, sizeof notice.text, "%.*s", (int)sizeof notice.text - 1, sentence);
    comm_notify_all(comm, &notice);
    status_set_sentence(sentence);
}

/* Looks at the parent during the waits of the rendezvous, whose own sentence it leaves alone. */
static tutti_status look(void *context)
{
    const struct grow *grow = context;
    tutti_comm *comm = grow->parent;
    char sentence[SENTENCE_MAX];
    if (clock_cancelled(grow->cancel))
        return fail(TUTTI_ERR_ABORTED,
                    "%s aborted the communicator of %u ranks that a grow was "
                    "making",
                    comm->names[comm->rank], grow->size);
    if (comm_check_abort(comm))
        return comm_error(comm);
    if (grow->joined)
        return TUTTI_OK;
    snprintf(sentence, sizeof sentence, "%s", status_sentence());
    if (comm->failed == TUTTI_OK)
        comm_progress(comm);
    comm_look_for_deaths(comm);
    tutti_status status = hear(comm);
    if (status != TUTTI_OK)
        return status;
    if (comm->failed != TUTTI_OK)
        return comm_error(comm);
    status_set_sentence(sentence);
    return TUTTI_OK;
}

/* ---- together ---------------------------------------------------------------------------------
 */

/* Every rank judges the same offers, so each says the same. */
static tutti_status judge(const tutti_comm *comm, const struct offer *offers, tutti_unique_id *id)
{
    const int size = offers[0].size;
    uint32_t givers = 0, last = 0, surest = 0;
    for (uint32_t r = 0; r < comm->size; r++)
        surest = offers[r].gives > surest ? offers[r].gives : surest;
    for (uint32_t r = 0; r < comm->size; r++) {
        if (offers[r].size != size)
            return fail(TUTTI_ERR_MISMATCH,
                        "grow: %s grows the communicator to %d ranks, %s to %d: every rank of it "
                        "names the same size",
                        comm->names[0], size, comm->names[r], offers[r].size);
        if (surest == 0 || offers[r].gives != surest)
            continue;
        if (givers++ > 0)
            return fail(TUTTI_ERR_MISMATCH,
                        "grow: %s and %s both give a unique id: one rank gives it, the others NULL",
                        comm->names[last], comm->names[r]);
        last = r;
    }
    if (size <= (int)comm->size || (uint32_t)size > BOOTSTRAP_RANKS_MAX)
        return fail(TUTTI_ERR_ARG,
                    "grow: to %d ranks: expected more than the %u of the communicator, which keep "
                    "their numbers, and at most %u",
                    size, comm->size, BOOTSTRAP_RANKS_MAX);
    if (givers == 0)
        return fail(TUTTI_ERR_MISMATCH,
                    "grow: none of the %u ranks gives a unique id: one of them gives an id that "
                    "its process made, the others NULL",
                    comm->size);
    *id = offers[last].id;
    return TUTTI_OK;
}

static tutti_status agree(tutti_comm *comm, int size, const tutti_unique_id *given, bool spare,
                          tutti_unique_id *id)
{
    struct offer mine = {.size = size, .gives = !given ? 0 : spare ? 1 : 2};
    struct offer *offers = calloc(comm->size, sizeof *offers);
    if (!offers)
        return comm_fail(comm, TUTTI_ERR_NOMEM, comm->rank, "no memory to grow a communicator");
    if (given)
        mine.id = *given;
    comm->grows++;
    tutti_status status = comm_gather(comm, &mine, offers, sizeof mine);
    if (status == TUTTI_OK)
        status = judge(comm, offers, id);
    free(offers);
    return status;
}

static tutti_status meet(struct grow *grow, const tutti_unique_id *id, tutti_comm **new_comm)
{
    tutti_comm *comm = grow->parent;
    struct bootstrap *bootstrap;
    struct cancel cancel = {look, grow};
    tutti_status status =
        bootstrap_from_id(&comm->settings, id, comm->rank, grow->size, &cancel, &bootstrap);
    if (status == TUTTI_OK) {
        grow->joined = true;
        status = comm_build(&comm->settings, bootstrap, new_comm);
        bootstrap_free(bootstrap);
    }
    if (status != TUTTI_OK)
        tell(comm, status);
    return status;
}

/* The parent is of no use: it failed, was revoked, or ends now since this call was cancelled. */
static tutti_status refuse(const tutti_comm *comm, const int *cancel, tutti_status status)
{
    bool handle = status != TUTTI_ERR_STATE && status != TUTTI_ERR_FORKED;
    if (!handle || clock_cancelled(cancel))
        return status;
    return fail(status,
                "grow: a communicator that works is expected; shrink this one first: %.350s",
                comm->sentence);
}

tutti_status tutti_comm_grow_cancellable(tutti_comm *comm, int size, const tutti_unique_id *id,
                                         int *spare, const int *cancel, tutti_comm **new_comm)
{
    tutti_unique_id agreed;
    if (!new_comm)
        return fail(TUTTI_ERR_ARG, "tutti_comm_grow: new_comm is NULL");
    tutti_status status = comm_enter_making(comm, cancel);
    if (status != TUTTI_OK)
        return refuse(comm, cancel, status);
    status = agree(comm, size, id, spare && *spare, &agreed);
    comm_uncancel(comm, cancel); /* from here on the parent outlives it */
    struct grow grow = {.parent = comm, .cancel = cancel, .size = (uint32_t)size};
    if (status == TUTTI_OK)
        status = meet(&grow, &agreed, new_comm);
    if (status == TUTTI_OK && spare && *spare)
        *spare = !id || memcmp(&agreed, id, sizeof agreed) != 0;
    comm_leave(comm);
    return status;
}

tutti_status tutti_comm_grow(tutti_comm *comm, int size, const tutti_unique_id *id,
                             tutti_comm **new_comm)
{
    return tutti_comm_grow_cancellable(comm, size, id, NULL, NULL, new_comm);
}
