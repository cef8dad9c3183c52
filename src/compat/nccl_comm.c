/* nccl_comm.c: the handle of a communicator: who holds it, how it ends, and what can be asked of
 * it.
 *
 * Another thread may abort a communicator while this one is inside a call. So every call holds the
 * handle; ending it only marks it, and whoever leaves last releases what it stands for. The memory
 * of the handle itself is kept for a while, so that a call with a stale one gets an error. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nccl_face.h"

#define COMM_MAGIC   0x7454696e4363636cu
#define ENDED        0x80000000u /* in holders */
#define KEPT_MAX     64          /* handles that ended, oldest freed first */
#define ABORT_NAP_NS 50000       /* of an abort, between looks */
#define ABORT_LOOKS  20000       /* for calls to leave: a second, and more where they get no turn */
#define RELEASE_S    1           /* and then so long for the release */

static _Atomic(ncclComm_t) kept[KEPT_MAX];
static atomic_uint kept_next;

ncclComm_t face_comm_new(int size, int rank, bool blocking)
{
    ncclComm_t comm = calloc(1, sizeof *comm);
    if (!comm)
        return NULL;
    comm->size = size;
    comm->rank = rank;
    comm->blocking = blocking;
    comm->device = face_device_current();
    pthread_mutex_init(&comm->lock, NULL);
    comm->holders = 1;
    comm->result = ncclSuccess;
    atomic_store(&comm->magic, COMM_MAGIC);
    return comm;
}

static void release(ncclComm_t comm)
{
    if (atomic_exchange(&comm->released, true))
        return;
    face_deregister_all(comm);
    tutti_comm_destroy(comm->tutti);
    if (comm->grow_id_waits)
        (void)tutti_unique_id_release(&comm->grow_id);
    if (comm->left_id_waits)
        (void)tutti_unique_id_release(&comm->left_id);
    ncclComm_t oldest = atomic_exchange(&kept[atomic_fetch_add(&kept_next, 1) % KEPT_MAX], comm);
    if (oldest) {
        pthread_mutex_destroy(&oldest->lock);
        free(oldest);
    }
}

void face_leave(ncclComm_t comm)
{
    if (atomic_fetch_sub(&comm->holders, 1) == (ENDED | 1u))
        release(comm);
}

bool face_end(ncclComm_t comm)
{
    return !(atomic_fetch_or(&comm->holders, ENDED) & ENDED);
}

ncclResult_t face_hold(ncclComm_t comm, const char *name)
{
    if (!comm)
        return face_fail(ncclInvalidArgument, "%s: comm is NULL", name);
    if (atomic_load_explicit(&comm->magic, memory_order_relaxed) != COMM_MAGIC)
        return face_fail(ncclInvalidArgument, "%s: comm is no communicator", name);
    if (atomic_fetch_add(&comm->holders, 1) & ENDED) {
        face_leave(comm);
        return face_fail(ncclInvalidArgument,
                         "%s: the communicator was destroyed or aborted before", name);
    }
    return ncclSuccess;
}

tutti_comm *face_tutti(ncclComm_t comm)
{
    pthread_mutex_lock(&comm->lock);
    tutti_comm *tutti = comm->tutti;
    pthread_mutex_unlock(&comm->lock);
    return tutti;
}

int face_rank(ncclComm_t comm)
{
    pthread_mutex_lock(&comm->lock);
    int rank = comm->rank;
    pthread_mutex_unlock(&comm->lock);
    return rank;
}

/* What the job that made the communicator, or one on it since, has left. */
static ncclResult_t left_result(ncclComm_t comm)
{
    pthread_mutex_lock(&comm->lock);
    ncclResult_t result = comm->result;
    if (result != ncclSuccess)
        face_fail(result, "%s", comm->sentence);
    pthread_mutex_unlock(&comm->lock);
    return result;
}

/* own: jobs that are not under way, and of which one may have marked it finalized already. */
static ncclResult_t check_ready(ncclComm_t comm, const char *name, unsigned own)
{
    if (atomic_load(&comm->jobs) > own)
        return face_fail(ncclInvalidArgument,
                         "%s: rank %d is not ready: an earlier call on this communicator is still "
                         "under way (ncclCommGetAsyncError says when it is done)",
                         name, face_rank(comm));
    if (atomic_load_explicit(&comm->result, memory_order_relaxed) != ncclSuccess)
        return left_result(comm);
    if (atomic_load_explicit(&comm->revoked, memory_order_relaxed))
        return face_fail(ncclInvalidUsage,
                         "%s: the communicator of rank %d was revoked: it can be split, shrunk, "
                         "destroyed or aborted",
                         name, comm->rank);
    if (own == 0 && atomic_load_explicit(&comm->finalized, memory_order_relaxed))
        return face_fail(ncclInvalidUsage,
                         "%s: the communicator of rank %d was finalized: it can only be destroyed",
                         name, comm->rank);
    return ncclSuccess;
}

static ncclResult_t enter(ncclComm_t comm, const char *name, unsigned own)
{
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    result = check_ready(comm, name, own);
    if (result != ncclSuccess)
        face_leave(comm);
    return result;
}

ncclResult_t face_refuse_suspended(ncclComm_t comm, const char *name)
{
    if (!atomic_load_explicit(&comm->suspended, memory_order_relaxed))
        return ncclSuccess;
    return face_fail(ncclInvalidUsage,
                     "%s: the communicator of rank %d is suspended: call ncclCommResume first",
                     name, comm->rank);
}

static ncclResult_t enter_active(ncclComm_t comm, const char *name, unsigned own)
{
    ncclResult_t result = enter(comm, name, own);
    if (result != ncclSuccess)
        return result;
    result = face_refuse_suspended(comm, name);
    if (result != ncclSuccess)
        face_leave(comm);
    return result;
}

ncclResult_t face_enter(ncclComm_t comm, const char *name)
{
    return enter_active(comm, name, 0);
}

ncclResult_t face_enter_grouped(ncclComm_t comm, const char *name)
{
    return enter_active(comm, name, face_group_jobs(comm));
}

ncclResult_t face_enter_suspended(ncclComm_t comm, const char *name)
{
    return enter(comm, name, face_group_jobs(comm));
}

/* ---- ends -------------------------------------------------------------------------------------
 */

void face_abort(ncclComm_t comm)
{
    __atomic_store_n(&comm->cancelled, 1, __ATOMIC_RELEASE);
    tutti_comm *tutti = face_tutti(comm);
    if (tutti)
        tutti_comm_abort(tutti);
}

/* False when it is time to end. */
static bool nap_before(const struct timespec *end)
{
    const struct timespec nap = {.tv_nsec = ABORT_NAP_NS};
    struct timespec now;
    nanosleep(&nap, NULL); /* where the machine is overloaded it takes many times as long */
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec < end->tv_sec || (now.tv_sec == end->tv_sec && now.tv_nsec < end->tv_nsec);
}

static void *leave(void *comm)
{
    face_leave(comm);
    return NULL;
}

/* A group in a stream with a communicator that works on keeps what it stands for until that one
 * ends, which the caller may be about to abort next: the release then goes on by itself. */
static void leave_in_time(ncclComm_t comm)
{
    struct timespec end;
    pthread_t thread;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += RELEASE_S;
    if (face_thread(&thread, NULL, leave, comm) != 0) {
        face_leave(comm);
        return;
    }
    do {
        if (pthread_tryjoin_np(thread, NULL) == 0)
            return;
    } while (nap_before(&end));
    pthread_detach(thread);
}

NCCL_FACE(ncclResult_t, ncclCommAbort, (ncclComm_t comm))
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t result = face_hold(comm, "ncclCommAbort");
    if (result != ncclSuccess)
        return result;
    if (!face_end(comm)) {
        face_leave(comm);
        return face_fail(ncclInvalidArgument,
                         "ncclCommAbort: another thread destroys or aborts this communicator");
    }
    face_abort(comm);
    /* The caller may free the buffers next: those who were inside leave at once, unless they are in
     * a group with other communicators that wait, or still make this one: they release it later. */
    struct timespec nap = {.tv_nsec = ABORT_NAP_NS};
    for (int i = 0; i < ABORT_LOOKS && atomic_load(&comm->jobs) == 0; i++) {
        if (atomic_load(&comm->holders) == (ENDED | 1u))
            break;
        nanosleep(&nap, NULL);
    }
    leave_in_time(comm);
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclCommRevoke, (ncclComm_t comm, int revokeFlags))
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t result = face_hold(comm, "ncclCommRevoke");
    if (result != ncclSuccess)
        return result;
    if (revokeFlags != NCCL_REVOKE_DEFAULT)
        result = face_fail(ncclInvalidArgument,
                           "ncclCommRevoke: flags 0x%x: expected NCCL_REVOKE_DEFAULT (0)",
                           (unsigned)revokeFlags);
    else if (!face_tutti(comm))
        result = face_fail(ncclInvalidUsage,
                           "ncclCommRevoke: the communicator is not made yet: abort it instead");
    else if (atomic_load(&comm->finalized) || atomic_exchange(&comm->revoked, true))
        result = face_fail(ncclInvalidArgument,
                           "ncclCommRevoke: the communicator of rank %d was %s before", comm->rank,
                           atomic_load(&comm->finalized) ? "finalized" : "revoked");
    else
        tutti_comm_revoke(face_tutti(comm));
    face_leave(comm);
    return result;
}

static ncclResult_t submit_end(ncclComm_t comm, enum job_kind kind, const char *name)
{
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        face_leave(comm);
        return face_fail(ncclSystemError, "%s: no memory", name);
    }
    /* Two that destroy it would wait for each other's end. */
    if (kind == JOB_DESTROY && atomic_exchange(&comm->ending, true)) {
        free(job);
        face_leave(comm);
        return face_fail(ncclInvalidArgument, "%s: another call destroys this communicator", name);
    }
    job->kind = kind;
    job->comm = comm;
    /* A handle that is destroyed can tell nobody when it is done: that is always waited for. */
    job->blocking = comm->blocking || kind == JOB_DESTROY;
    return face_job(job);
}

/* A second time is no use of a communicator but an argument that is wrong, as in NCCL. */
static ncclResult_t refuse_finalized(ncclComm_t comm)
{
    ncclResult_t result = face_hold(comm, "ncclCommFinalize");
    if (result != ncclSuccess)
        return result;
    if (atomic_load(&comm->finalized) && atomic_load(&comm->jobs) == 0 &&
        atomic_load(&comm->result) == ncclSuccess)
        result = face_fail(ncclInvalidArgument,
                           "ncclCommFinalize: the communicator of rank %d was finalized before",
                           comm->rank);
    face_leave(comm);
    return result;
}

NCCL_FACE(ncclResult_t, ncclCommFinalize, (ncclComm_t comm))
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t result = refuse_finalized(comm);
    if (result == ncclSuccess)
        result = face_enter_suspended(comm, "ncclCommFinalize");
    if (result != ncclSuccess)
        return face_group_note(result);
    result = submit_end(comm, JOB_FINALIZE, "ncclCommFinalize");
    face_leave(comm);
    return face_group_note(result);
}

NCCL_FACE(ncclResult_t, ncclCommDestroy, (ncclComm_t comm))
{
    if (!comm)
        return ncclSuccess;
    return face_group_note(submit_end(comm, JOB_DESTROY, "ncclCommDestroy"));
}

/* ---- queries ----------------------------------------------------------------------------------
 */

/* It is made, or a call goes on that nobody waits for. One that another thread waits for leaves it
 * as it is. */
static bool in_progress(ncclComm_t comm)
{
    return atomic_load(&comm->later) > 0 || (atomic_load(&comm->jobs) > 0 && !face_tutti(comm));
}

/* How the communicator is doing, with its sentence. */
static ncclResult_t async_result(ncclComm_t comm)
{
    if (in_progress(comm))
        return ncclInProgress;
    if (atomic_load(&comm->revoked))
        return ncclSuccess;
    ncclResult_t result = left_result(comm);
    tutti_comm *tutti = face_tutti(comm);
    return result == ncclSuccess && tutti ? face_result(tutti_comm_status(tutti)) : result;
}

NCCL_FACE(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t *asyncError))
{
    if (!asyncError)
        return face_fail(ncclInvalidArgument, "ncclCommGetAsyncError: asyncError is NULL");
    ncclResult_t result = face_hold(comm, "ncclCommGetAsyncError");
    if (result != ncclSuccess)
        return *asyncError = result;
    *asyncError = async_result(comm);
    face_leave(comm);
    return ncclSuccess;
}

static ncclResult_t query(ncclComm_t comm, const char *name, const int *value, int *out)
{
    if (!out)
        return face_fail(ncclInvalidArgument, "%s: nowhere to put the answer: NULL", name);
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    if (in_progress(comm) && atomic_load(&comm->jobs) > face_group_jobs(comm))
        result = check_ready(comm, name, 0);
    else
        result = left_result(comm);
    if (result == ncclSuccess)
        *out = *value;
    face_leave(comm);
    return result;
}

NCCL_FACE(ncclResult_t, ncclCommCount, (const ncclComm_t comm, int *count))
{
    return query(comm, "ncclCommCount", comm ? &comm->size : NULL, count);
}

NCCL_FACE(ncclResult_t, ncclCommUserRank, (const ncclComm_t comm, int *rank))
{
    return query(comm, "ncclCommUserRank", comm ? &comm->rank : NULL, rank);
}

NCCL_FACE(ncclResult_t, ncclCommCuDevice, (const ncclComm_t comm, int *device))
{
    return query(comm, "ncclCommCuDevice", comm ? &comm->device : NULL, device);
}
