/* nccl_job.c: calls that wait for other ranks. Where they run is the caller's choice: in the
 * calling thread (a blocking communicator), in a thread of their own that ends with them (a
 * non-blocking one), or, in a group, all at once when the group ends, so that one thread can make
 * several ranks.
 *
 * A job holds the handles it works on, and is counted in their `jobs` from the call on, and in
 * `later` if the call does not wait for it: that is what ncclCommGetAsyncError reports as
 * ncclInProgress. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nccl_face.h"

#define WAIT_NAP_NS 50000 /* between looks whether another thread's job is done */

/* ---- one job ----------------------------------------------------------------------------------
 */

/* What an abort of the communicator to be sets. */
static const int *cancel_word(const struct job *job)
{
    return job->comm ? &job->comm->cancelled : NULL;
}

/* A revoked communicator carries no collective, so it is renewed for the split alone. */
static tutti_status split(struct job *job, tutti_comm **made)
{
    const int *cancel = cancel_word(job);
    tutti_comm *parent = face_tutti(job->parent), *renewed = NULL;
    if (!atomic_load(&job->parent->revoked))
        return tutti_comm_split_cancellable(parent, job->color, job->key, cancel, made);
    tutti_status status = tutti_comm_shrink_cancellable(parent, NULL, 0, cancel, &renewed);
    if (status != TUTTI_OK)
        return status;
    status = tutti_comm_split_cancellable(renewed, job->color, job->key, cancel, made);
    ncclResult_t result = face_result(status); /* keeps the sentence past the destruction */
    tutti_comm_destroy(renewed);
    job->result = result;
    return status;
}

static tutti_status shrink(struct job *job, tutti_comm **made)
{
    tutti_comm *parent = face_tutti(job->parent);
    if (job->abort_first) {
        atomic_store(&job->parent->revoked, true);
        tutti_comm_revoke(parent);
    }
    return tutti_comm_shrink_cancellable(parent, job->excluded, job->excluded_count,
                                         cancel_word(job), made);
}

/* A rank's place in its new communicator is known only now. */
static tutti_status publish(ncclComm_t comm, tutti_comm *made)
{
    int rank = 0, size = 0;
    tutti_status status = tutti_comm_rank(made, &rank);
    if (status == TUTTI_OK)
        status = tutti_comm_size(made, &size);
    if (status == TUTTI_OK)
        status = tutti_comm_hold_streams(made, 1); /* as programs of NCCL expect */
    pthread_mutex_lock(&comm->lock);
    comm->tutti = made;
    comm->rank = rank;
    comm->size = size;
    pthread_mutex_unlock(&comm->lock);
    return status;
}

static ncclResult_t flush(ncclComm_t comm)
{
    tutti_comm *tutti = face_tutti(comm);
    return tutti ? face_result(tutti_comm_flush(tutti)) : ncclSuccess;
}

/* Waits for the other jobs on it (a non-blocking call that is still under way), completes what was
 * issued, and ends the handle. A communicator that failed is released all the same. */
static ncclResult_t destroy(ncclComm_t comm)
{
    struct timespec nap = {.tv_nsec = WAIT_NAP_NS};
    while (atomic_load(&comm->jobs) > 1)
        nanosleep(&nap, NULL);
    tutti_comm *tutti = face_tutti(comm);
    bool works = tutti && tutti_comm_status(tutti) == TUTTI_OK;
    tutti_status status = works ? tutti_comm_flush(tutti) : TUTTI_OK;
    if (status == TUTTI_ERR_STATE)
        return face_result(status); /* another thread is inside */
    if (!face_end(comm))
        return face_fail(ncclInvalidArgument,
                         "ncclCommDestroy: another thread destroys or aborts this communicator");
    return ncclSuccess;
}

/* Who has asked for an id has it for the case that no rank passes one: NVIDIA's own example passes
 * none anywhere. */
static tutti_status grow(struct job *job, tutti_comm **made)
{
    bool waits = !job->gives_id && face_waiting_id(job->parent, &job->id);
    int spare = waits;
    tutti_status status = tutti_comm_grow_cancellable(face_tutti(job->parent), job->size,
                                                      job->gives_id || waits ? &job->id : NULL,
                                                      &spare, cancel_word(job), made);
    if (waits && !spare)
        (void)face_take_id(job->parent, &job->id);
    return status;
}

static void carry_out(struct job *job)
{
    tutti_comm *made = NULL;
    tutti_status status = TUTTI_OK;
    if (job->context)
        face_context_set(job->context);
    switch (job->kind) {
    case JOB_INIT:
        status = tutti_comm_create_cancellable(job->comm->size, &job->id, job->comm->rank,
                                               cancel_word(job), &made);
        break;
    case JOB_SPLIT:
        status = split(job, &made);
        break;
    case JOB_SHRINK:
        status = shrink(job, &made);
        break;
    case JOB_GROW:
        status = grow(job, &made);
        break;
    case JOB_FINALIZE:
        job->result = flush(job->comm);
        break;
    case JOB_DESTROY:
        job->result = destroy(job->comm);
        break;
    }
    if (status == TUTTI_OK && made && job->comm)
        status = publish(job->comm, made);
    if (status != TUTTI_OK && job->result == ncclSuccess)
        job->result = face_result(status);
    if (job->result != ncclSuccess)
        snprintf(job->sentence, sizeof job->sentence, "%s", face_sentence());
}

static bool makes(const struct job *job)
{
    return job->kind != JOB_FINALIZE && job->kind != JOB_DESTROY;
}

static void count_job(ncclComm_t comm, const struct job *job)
{
    if (!comm)
        return;
    atomic_fetch_add(&comm->later, !job->blocking);
    atomic_fetch_add(&comm->jobs, 1);
}

static void uncount_job(ncclComm_t comm, const struct job *job)
{
    if (!comm)
        return;
    atomic_fetch_sub(&comm->jobs, 1);
    atomic_fetch_sub(&comm->later, !job->blocking);
}

/* What the jobs of a group have not made yet, and how the first of them failed, if one has: no rank
 * that another one makes may wait for those that it would have made. Shared by the jobs and by the
 * end of the group, the last of which frees it. */
struct makings {
    pthread_mutex_t lock;
    size_t users;
    ncclResult_t result;
    char sentence[FACE_SENTENCE_MAX];
    size_t count;
    ncclComm_t comms[]; /* held by their jobs; NULL: settled */
};

static void leave_makings(struct makings *makings)
{
    pthread_mutex_lock(&makings->lock);
    bool last = --makings->users == 0;
    pthread_mutex_unlock(&makings->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&makings->lock);
    free(makings);
}

/* A job of a group has ended, well or not: the first that fails gives the others up, and they have
 * its cause. */
static void settle(struct job *job)
{
    struct makings *makings = job->makings;
    if (!makings)
        return;
    job->makings = NULL;
    pthread_mutex_lock(&makings->lock);
    bool failed = job->result != ncclSuccess, first = failed && makings->result == ncclSuccess;
    if (first) {
        makings->result = job->result;
        memcpy(makings->sentence, job->sentence, sizeof makings->sentence);
    } else if (failed && makes(job)) {
        job->result = makings->result;
        memcpy(job->sentence, makings->sentence, sizeof job->sentence);
    }
    for (size_t i = 0; i < makings->count; i++) {
        if (makings->comms[i] && makings->comms[i] == job->comm)
            makings->comms[i] = NULL;
        else if (first && makings->comms[i])
            __atomic_store_n(&makings->comms[i]->cancelled, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&makings->lock);
    leave_makings(makings);
}

/* The work is over: tells those who ask. Programs ask the parent, and use what it made when that is
 * done. */
static void report(struct job *job)
{
    ncclComm_t comm = job->comm;
    if (comm && job->result != ncclSuccess && job->kind != JOB_DESTROY) {
        pthread_mutex_lock(&comm->lock);
        memcpy(comm->sentence, job->sentence, sizeof comm->sentence);
        comm->result = job->result;
        pthread_mutex_unlock(&comm->lock);
    }
    uncount_job(comm, job);
    uncount_job(job->parent, job);
}

/* Lets go of the handles, and takes back the one of a communicator that was not made. The caller's
 * variable is touched only in the caller's thread. */
static ncclResult_t conclude(struct job *job)
{
    ncclResult_t result = job->result;
    if (job->took_id && !face_tutti(job->comm)) /* failed, or never run */
        face_leave_id(job->parent, &job->id);
    if (job->parent)
        face_leave(job->parent);
    if (job->comm) {
        if (job->blocking && makes(job) && result != ncclSuccess) {
            face_give(job->out, NULL);
            face_end(job->comm);
        }
        if (job->kind == JOB_DESTROY)
            atomic_store(&job->comm->ending, false);
        face_leave(job->comm);
    }
    if (job->owns_id)
        (void)tutti_unique_id_release(&job->id); /* a used one is left alone */
    free(job->excluded);
    free(job);
    return result;
}

static ncclResult_t run_here(struct job *job)
{
    void *context = face_context_current();
    carry_out(job);
    report(job);
    if (context != job->context)
        face_context_set(context);
    return conclude(job);
}

/* ---- one call ---------------------------------------------------------------------------------
 */

static void *detached(void *argument)
{
    struct job *job = argument;
    while (job) {
        struct job *next = job->next;
        carry_out(job);
        settle(job);
        report(job);
        conclude(job);
        job = next;
    }
    return NULL;
}

int face_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                void *argument)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t others, before;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&others, own[i]);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    int error = pthread_create(thread, attributes, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static ncclResult_t no_thread(int error)
{
    return face_fail(ncclSystemError, "no thread for a call that waits for other ranks: %s",
                     strerror(error));
}

/* Starts a thread that carries out a chain of jobs and nobody joins. */
static ncclResult_t start_detached(struct job *job)
{
    pthread_t thread;
    int error = face_thread(&thread, NULL, detached, job);
    if (error == 0) {
        pthread_detach(thread);
        return ncclInProgress;
    }
    ncclResult_t result = no_thread(error);
    while (job) {
        struct job *next = job->next;
        job->result = result;
        snprintf(job->sentence, sizeof job->sentence, "%s", face_sentence());
        settle(job);
        report(job);
        conclude(job);
        job = next;
    }
    return result;
}

ncclResult_t face_job(struct job *job)
{
    if (!job->context)
        job->context = face_context_shared();
    count_job(job->comm, job);
    count_job(job->parent, job);
    if (makes(job)) /* whoever finds it there finds it in progress */
        face_give(job->out, job->comm);
    if (job->kind == JOB_FINALIZE)
        atomic_store(&job->comm->finalized, true);
    if (face_group_open()) {
        face_group_job(job);
        return ncclSuccess;
    }
    job->next = NULL;
    return job->blocking ? run_here(job) : start_detached(job);
}

/* ---- the jobs of a group ----------------------------------------------------------------------
 */

/* Jobs of one parent (or on one communicator) in the order of their calls. */
struct chain {
    struct job *first;
    bool blocking; /* one of them is, or a call of the group comes after them: the caller waits */
    bool started;
    pthread_t thread;
};

static void *joined(void *argument)
{
    struct chain *chain = argument;
    for (struct job *job = chain->first; job; job = job->next) {
        carry_out(job);
        settle(job);
        report(job);
    }
    return NULL;
}

static bool same_chain(const struct job *a, const struct job *b)
{
    ncclComm_t of_a = a->parent ? a->parent : a->comm;
    ncclComm_t of_b = b->parent ? b->parent : b->comm;
    return of_a == of_b;
}

/* Takes the jobs of the wanted kinds off the list, as chains; returns how many. */
static size_t take_chains(struct job **list, bool only_ends, struct chain *chains,
                          struct makings *makings)
{
    size_t count = 0;
    struct job **at = list;
    while (*at) {
        struct job *job = *at;
        if (makes(job) == only_ends) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        job->next = NULL;
        job->makings = makings;
        makings->users++;
        if (makes(job) && job->comm)
            makings->comms[makings->count++] = job->comm;
        bool waits = job->blocking || (job->parent && face_group_uses(job->parent));
        size_t c = 0;
        while (c < count && !same_chain(chains[c].first, job))
            c++;
        if (c == count) {
            chains[count++] = (struct chain){.first = job, .blocking = waits};
            continue;
        }
        struct job *last = chains[c].first;
        while (last->next)
            last = last->next;
        last->next = job;
        chains[c].blocking |= waits;
    }
    return count;
}

static void drop_chain(struct chain *chain, int error)
{
    for (struct job *job = chain->first; job; job = job->next) {
        job->result = no_thread(error);
        snprintf(job->sentence, sizeof job->sentence, "%s", face_sentence());
        settle(job);
        report(job);
    }
}

/* All but one. */
static void start_chains(struct chain *chains, size_t count, const struct chain *here)
{
    for (size_t c = 0; c < count; c++) {
        struct chain *chain = &chains[c];
        if (chain == here)
            continue;
        if (!chain->blocking) {
            start_detached(chain->first);
            continue;
        }
        int error = face_thread(&chain->thread, NULL, joined, chain);
        chain->started = error == 0;
        if (error != 0)
            drop_chain(chain, error);
    }
}

/* The last chain that is waited for runs in the calling thread, which has nothing else to do. */
static void run_chains(struct chain *chains, size_t count)
{
    struct chain *here = NULL;
    for (size_t c = 0; c < count; c++) {
        if (chains[c].blocking)
            here = &chains[c];
    }
    start_chains(chains, count, here);
    void *context = face_context_current();
    if (here)
        joined(here);
    face_context_set(context);
    for (size_t c = 0; c < count; c++) {
        if (chains[c].started)
            pthread_join(chains[c].thread, NULL);
    }
}

/* Concludes what was waited for; if some of it failed, then for what failed first. */
static ncclResult_t conclude_chains(struct chain *chains, size_t count,
                                    const struct makings *makings)
{
    ncclResult_t result = ncclSuccess;
    for (size_t c = 0; c < count; c++) {
        struct job *next;
        for (struct job *job = chains[c].first; job && chains[c].blocking; job = next) {
            next = job->next;
            if (conclude(job) != ncclSuccess)
                result = makings->result;
        }
    }
    return result == ncclSuccess ? result : face_fail(result, "%s", makings->sentence);
}

ncclResult_t face_jobs_run(struct job **list, bool only_ends)
{
    size_t total = 0;
    for (const struct job *job = *list; job; job = job->next)
        total++;
    if (total == 0)
        return ncclSuccess;
    struct chain *chains = calloc(total, sizeof *chains);
    struct makings *makings = calloc(1, sizeof *makings + total * sizeof *makings->comms);
    if (!chains || !makings) {
        free(chains);
        free(makings);
        face_jobs_cancel(*list);
        *list = NULL;
        return face_fail(ncclSystemError, "no memory for %zu calls of a group", total);
    }
    pthread_mutex_init(&makings->lock, NULL);
    makings->users = 1;
    size_t count = take_chains(list, only_ends, chains, makings);
    ncclResult_t later = ncclSuccess;
    for (size_t c = 0; c < count; c++) {
        if (!chains[c].blocking)
            later = ncclInProgress;
    }
    run_chains(chains, count);
    ncclResult_t result = conclude_chains(chains, count, makings);
    leave_makings(makings);
    free(chains);
    return result != ncclSuccess ? result : later;
}

void face_jobs_cancel(struct job *list)
{
    while (list) {
        struct job *next = list->next;
        if (makes(list) && list->comm) {
            face_give(list->out, NULL);
            face_end(list->comm);
        }
        if (list->kind == JOB_FINALIZE)
            atomic_store(&list->comm->finalized, false);
        list->result = ncclSuccess;
        report(list);
        conclude(list);
        list = next;
    }
}
