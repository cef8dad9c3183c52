/* bootstrap.c: the face of the rendezvous: what it is made of, the allgather's four forms, and the
 * things that the root's and the other ranks' halves share.
 *
 * The idea: a star. Every rank keeps one connection to the root, which relays. That is n
 * descriptors at the root and one elsewhere, no threads, and two messages per rank and allgather;
 * the few allgathers that a communicator needs while it is made cost more in system calls than in
 * shape.
 *
 * Invariant: after any failed allgather the ranks may be out of step, so the bootstrap stays broken
 * and repeats the first sentence. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/auth.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

/* ---- meetings -------------------------------------------------------------------------------- */

void meeting_set_terms(const struct settings *settings, struct meeting *meeting, const char *suffix)
{
    meeting->timeout_ms = settings->meet_timeout_ms;
    meeting->stall_ms = settings->stall_ms;
    snprintf(meeting->key, sizeof meeting->key, "%s%s%s", settings->secret, suffix ? ":" : "",
             suffix ? suffix : "");
}

tutti_status meeting_set_job(struct meeting *meeting, const char *text)
{
    return auth_job_id(text, meeting->job);
}

void meeting_close_listeners(struct meeting *meeting)
{
    for (uint32_t i = 0; i < meeting->listener_count; i++)
        owned_close(meeting->listeners[i]);
    meeting->listener_count = 0;
}

/* ---- making ---------------------------------------------------------------------------------- */

tutti_status bootstrap_check_rank(uint32_t rank, uint32_t size)
{
    if (size == 0 || rank >= size)
        return fail(TUTTI_ERR_ARG, "rank %u of %u ranks: the rank must be from 0 to size - 1", rank,
                    size);
    return TUTTI_OK;
}

tutti_status bootstrap_take_seats(struct bootstrap *bootstrap, uint32_t size)
{
    bootstrap->seats = calloc(size, sizeof *bootstrap->seats);
    if (bootstrap->seats == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for the rendezvous of %u ranks", size);
    bootstrap->size = size;
    for (uint32_t r = 0; r < size; r++)
        bootstrap->seats[r].fd = -1;
    return TUTTI_OK;
}

static struct bootstrap *make(enum bootstrap_kind kind, uint32_t rank, uint32_t size)
{
    struct bootstrap *bootstrap = calloc(1, sizeof *bootstrap);
    if (bootstrap == NULL)
        return NULL;
    bootstrap->kind = kind;
    bootstrap->rank = bootstrap->witness = rank;
    bootstrap->size = size;
    bootstrap->fd = -1;
    return bootstrap;
}

/* One rank needs nobody, unless it is served elsewhere: that process waits for it. */
static enum bootstrap_kind kind_of(const struct meeting *meeting, uint32_t size)
{
    if (size == 1 && (meeting->listener_count > 0 || !meeting->any_root))
        return BOOTSTRAP_ALONE;
    return meeting->listener_count > 0 ? BOOTSTRAP_ROOT : BOOTSTRAP_LEAF;
}

static void name_root(struct bootstrap *bootstrap, bool any_root)
{
    uint32_t rank = bootstrap->kind == BOOTSTRAP_ROOT ? bootstrap->rank
                    : any_root                        ? BOOTSTRAP_NO_RANK
                                                      : 0;
    bootstrap_name_root(bootstrap, rank);
}

/* What ended a wait early is the better reason for whatever came of it. */
static tutti_status reason(const struct cancel *cancel, tutti_status status)
{
    tutti_status better = clock_check(cancel);
    return better == TUTTI_OK ? status : better;
}

bool bootstrap_stalls(struct bootstrap *bootstrap, uint64_t deadline_ms, uint64_t now,
                      uint64_t *next)
{
    if (bootstrap->stall_ms == 0 || bootstrap->stall_told || deadline_ms == UINT64_MAX)
        return false;
    uint64_t at = deadline_ms - bootstrap->timeout_ms + bootstrap->stall_ms;
    bootstrap->stall_told = now >= at;
    if (now < at && at < *next)
        *next = at;
    return bootstrap->stall_told;
}

tutti_status bootstrap_meet(struct meeting *meeting, uint32_t rank, uint32_t size,
                            struct bootstrap **bootstrap)
{
    uint64_t deadline = clock_ms() + meeting->timeout_ms;
    tutti_status status = TUTTI_OK;
    struct bootstrap *made = NULL;
    if (rank != BOOTSTRAP_NO_RANK)
        status = bootstrap_check_rank(rank, size);
    if (status == TUTTI_OK) {
        made = make(kind_of(meeting, size), rank, size);
        if (made == NULL)
            status = fail(TUTTI_ERR_NOMEM, "no memory for the rendezvous of %u ranks", size);
    }
    if (status == TUTTI_OK) {
        made->timeout_ms = meeting->timeout_ms;
        made->stall_ms = meeting->stall_ms;
        made->cancel = meeting->cancel;
        name_root(made, meeting->any_root);
        if (made->kind == BOOTSTRAP_ROOT && size > 0)
            status = bootstrap_take_seats(made, size);
        if (status == TUTTI_OK && made->kind == BOOTSTRAP_ROOT)
            status = bootstrap_root_join(made, meeting, size > 0 ? deadline : UINT64_MAX);
        if (status == TUTTI_OK && made->kind == BOOTSTRAP_LEAF)
            status = bootstrap_leaf_join(made, meeting, deadline);
    }
    meeting_close_listeners(meeting);
    if (status != TUTTI_OK) {
        status = reason(meeting->cancel, status);
        bootstrap_free(made);
        return status;
    }
    *bootstrap = made;
    return TUTTI_OK;
}

tutti_status bootstrap_from_callback(tutti_allgather_fn *allgather, void *context, uint32_t rank,
                                     uint32_t size, struct bootstrap **bootstrap)
{
    tutti_status status = bootstrap_check_rank(rank, size);
    if (status != TUTTI_OK)
        return status;
    if (allgather == NULL)
        return fail(TUTTI_ERR_ARG, "the allgather callback is NULL");
    struct bootstrap *made = make(BOOTSTRAP_CALLBACK, rank, size);
    if (made == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for a rendezvous by callback");
    made->allgather = allgather;
    made->context = context;
    *bootstrap = made;
    return TUTTI_OK;
}

uint32_t bootstrap_rank(const struct bootstrap *bootstrap)
{
    return bootstrap->rank;
}

uint32_t bootstrap_size(const struct bootstrap *bootstrap)
{
    return bootstrap->size;
}

void bootstrap_free(struct bootstrap *bootstrap)
{
    if (bootstrap == NULL)
        return;
    for (uint32_t r = 0; bootstrap->seats && r < bootstrap->size; r++) {
        if (bootstrap->seats[r].fd >= 0)
            owned_close(bootstrap->seats[r].fd);
    }
    free(bootstrap->seats);
    if (bootstrap->fd >= 0)
        owned_close(bootstrap->fd);
    free(bootstrap);
}

tutti_status bootstrap_check_word(void *word)
{
    const struct bootstrap_word *of = word;
    if (!clock_cancelled(of->word))
        return TUTTI_OK;
    return fail(TUTTI_ERR_ABORTED, "rank %u of %u aborted the communicator while it was being made",
                of->rank, of->size);
}

/* ---- allgather ------------------------------------------------------------------------------- */

static tutti_status call_back(struct bootstrap *bootstrap, const void *in, void *out, size_t len)
{
    int code = bootstrap->allgather(in, out, len, bootstrap->context);
    if (code != 0)
        return fail(TUTTI_ERR_CONNECT,
                    "rank %u of %u: the caller's allgather returned %d for blocks of %zu bytes",
                    bootstrap->rank, bootstrap->size, code, len);
    return TUTTI_OK;
}

tutti_status bootstrap_allgather(struct bootstrap *bootstrap, const void *in, void *out, size_t len)
{
    uint64_t deadline = clock_ms() + bootstrap->timeout_ms;
    tutti_status status = TUTTI_OK;
    must(len <= BOOTSTRAP_BLOCK_MAX);
    if (bootstrap->broken != TUTTI_OK) {
        status_set_sentence(bootstrap->broken_sentence);
        return bootstrap->broken;
    }
    switch (bootstrap->kind) {
    case BOOTSTRAP_ALONE:
        memcpy(out, in, len);
        break;
    case BOOTSTRAP_CALLBACK:
        status = call_back(bootstrap, in, out, len);
        break;
    case BOOTSTRAP_ROOT:
        status = bootstrap_root_allgather(bootstrap, in, out, len, deadline);
        break;
    case BOOTSTRAP_LEAF:
        status = bootstrap_leaf_allgather(bootstrap, in, out, len, deadline);
        break;
    }
    bootstrap->sequence++;
    if (status != TUTTI_OK) {
        status = reason(bootstrap->cancel, status);
        bootstrap->broken = status;
        snprintf(bootstrap->broken_sentence, sizeof bootstrap->broken_sentence, "%s",
                 status_sentence());
    }
    return status;
}

tutti_status bootstrap_relay(struct bootstrap *bootstrap)
{
    tutti_status status = TUTTI_OK;
    for (bool over = false; status == TUTTI_OK && !over; bootstrap->sequence++)
        status = bootstrap_root_relay(bootstrap, &over);
    return status == TUTTI_OK ? status : reason(bootstrap->cancel, status);
}

/* ---- texts ----------------------------------------------------------------------------------- */

const char *seat_text(const struct seat *seats, uint32_t rank, char text[128])
{
    if (seats[rank].host[0])
        snprintf(text, 128, "rank %u (host %.63s, pid %u)", rank, seats[rank].host,
                 seats[rank].pid);
    else
        snprintf(text, 128, "rank %u", rank);
    return text;
}

void bootstrap_name_root(struct bootstrap *bootstrap, uint32_t rank)
{
    if (rank == BOOTSTRAP_NO_RANK)
        snprintf(bootstrap->root_name, sizeof bootstrap->root_name, "%s", BOOTSTRAP_MAKER);
    else
        snprintf(bootstrap->root_name, sizeof bootstrap->root_name, "rank %u", rank);
}

static bool is_here(const struct bootstrap *bootstrap, const bool *done, uint32_t rank)
{
    return rank == bootstrap->rank || (done ? done[rank] : bootstrap->seats[rank].fd >= 0);
}

void seats_missing(const struct bootstrap *bootstrap, const bool *done, char *text, size_t len)
{
    size_t used = 0;
    uint32_t left_out = 0;
    text[0] = 0;
    for (uint32_t r = 0; r < bootstrap->size; r++) {
        if (is_here(bootstrap, done, r))
            continue;
        uint32_t last = r;
        while (last + 1 < bootstrap->size && !is_here(bootstrap, done, last + 1))
            last++;
        if (used + 40 > len) {
            left_out += last - r + 1;
        } else {
            int wrote = snprintf(text + used, len - used, last > r ? "%s%u-%u" : "%s%u",
                                 used ? ", " : "", r, last);
            used += wrote > 0 ? (size_t)wrote : 0;
        }
        r = last;
    }
    if (left_out)
        snprintf(text + used, len - used, " and %u more", left_out);
}

void bootstrap_clean_text(char *text, size_t len)
{
    text[len - 1] = 0;
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    }
}
