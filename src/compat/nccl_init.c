/* nccl_init.c: the ways to make a communicator. Each checks its arguments, makes the handle, and
 * leaves the waiting for other ranks to a job. */
#include <stdlib.h>
#include <string.h>

#include "nccl_face.h"

_Static_assert(sizeof(ncclUniqueId) == sizeof(tutti_unique_id), "one id carries the other");

/* ---- by unique id -----------------------------------------------------------------------------
 */

/* Its frames are small, but a program's thread-local variables lie on its stack, too. */
#define SERVICE_STACK (512u << 10)

static void *serve(void *argument)
{
    tutti_unique_id id = *(tutti_unique_id *)argument;
    free(argument);
    tutti_unique_id_serve(&id, NULL); /* who fails is told there */
    return NULL;
}

/* Whoever makes an id may hold no rank, or not yet, or leave them to its children: a thread that
 * nobody joins serves it until it is used, or the process ends. */
static ncclResult_t start_service(const tutti_unique_id *id)
{
    static const int at_once = 1;
    pthread_t thread;
    pthread_attr_t attributes;
    if (tutti_unique_id_serve(id, &at_once) == TUTTI_OK)
        return ncclSuccess; /* it needs none */
    tutti_unique_id *copy = malloc(sizeof *copy);
    if (!copy)
        return face_fail(ncclSystemError, "ncclGetUniqueId: no memory");
    *copy = *id;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, SERVICE_STACK);
    int error = face_thread(&thread, &attributes, serve, copy);
    pthread_attr_destroy(&attributes);
    if (error == 0)
        return ncclSuccess;
    free(copy);
    return face_fail(ncclSystemError, "ncclGetUniqueId: no thread to serve the id: %s",
                     strerror(error));
}

NCCL_FACE(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * uniqueId))
{
    tutti_unique_id id;
    if (!uniqueId)
        return face_fail(ncclInvalidArgument, "ncclGetUniqueId: uniqueId is NULL");
    face_settings();
    ncclResult_t result = face_result(tutti_unique_id_from_env(&id));
    if (result == ncclSuccess)
        result = start_service(&id);
    if (result == ncclSuccess)
        memcpy(uniqueId->internal, id.bytes, sizeof id.bytes);
    return result;
}

/* Makes the handle and its job; *comm is there when this returns, so that a non-blocking caller can
 * ask for its state. owns_id: this one gives back an unused id. device < 0: the current one. */
static ncclResult_t init_rank(ncclComm_t *comm, int size, const ncclUniqueId *id, bool owns_id,
                              int rank, bool blocking, int device)
{
    face_settings();
    face_show_version(rank);
    struct job *job = calloc(1, sizeof *job);
    ncclComm_t made = face_comm_new(size, rank, blocking);
    if (!job || !made) {
        if (made) {
            face_end(made);
            face_leave(made);
        }
        free(job);
        return face_fail(ncclSystemError, "no memory for a communicator");
    }
    job->kind = JOB_INIT;
    job->comm = made;
    job->out = comm;
    job->blocking = blocking;
    memcpy(job->id.bytes, id->internal, sizeof job->id.bytes);
    job->owns_id = owns_id;
    if (device >= 0) {
        made->device = device;
        job->context = face_context_of(device);
    }
    return face_job(job);
}

static ncclResult_t check_init(const ncclComm_t *comm, int size, int rank, const char *name)
{
    if (!comm)
        return face_fail(ncclInvalidArgument, "%s: comm is NULL: expected where to put it", name);
    if (size < 1 || rank < 0 || rank >= size)
        return face_fail(ncclInvalidArgument,
                         "%s: rank %d of %d ranks: expected at least 1 rank, and a rank from 0 to "
                         "nranks - 1",
                         name, rank, size);
    return ncclSuccess;
}

ncclResult_t face_init(ncclComm_t *comm, int size, const ncclUniqueId *id, int rank,
                       const ncclConfig_t *config, const char *name)
{
    bool blocking = true;
    if (comm)
        face_give(comm, NULL); /* where nothing is made, programs abort what is not NULL */
    ncclResult_t result = check_init(comm, size, rank, name);
    if (result == ncclSuccess)
        result = face_config_read(config, name, &blocking);
    if (result == ncclSuccess)
        result = init_rank(comm, size, id, false, rank, blocking, -1);
    return result;
}

NCCL_FACE(ncclResult_t, ncclCommInitRank,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank))
{
    return face_group_note(face_init(comm, nranks, &commId, rank, NULL, "ncclCommInitRank"));
}

NCCL_FACE(ncclResult_t, ncclCommInitRankConfig,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config))
{
    return face_group_note(
        face_init(comm, nranks, &commId, rank, config, "ncclCommInitRankConfig"));
}

/* The rendezvous is a star in any case, whose root is in the process that made the first id. */
NCCL_FACE(ncclResult_t, ncclCommInitRankScalable,
          (ncclComm_t * newcomm, int nranks, int myrank, int nId, ncclUniqueId *commIds,
           ncclConfig_t *config))
{
    if (newcomm)
        face_give(newcomm, NULL);
    if (nId < 1 || nId > nranks || !commIds)
        return face_group_note(face_fail(ncclInvalidArgument,
                                         "ncclCommInitRankScalable: %d ids%s for %d ranks: "
                                         "expected at least 1 and at most one per rank",
                                         nId, commIds ? "" : " at NULL", nranks));
    for (int i = 1; i < nId; i++) {
        tutti_unique_id id;
        memcpy(id.bytes, commIds[i].internal, sizeof id.bytes);
        (void)tutti_unique_id_release(&id); /* of another process, as a rule */
    }
    return face_group_note(
        face_init(newcomm, nranks, commIds, myrank, config, "ncclCommInitRankScalable"));
}

/* ---- all ranks of a process -------------------------------------------------------------------
 */

static ncclResult_t check_devices(const ncclComm_t *comm, int ndev, const int *devlist)
{
    int count = face_device_count();
    if (!comm || ndev < 1)
        return face_fail(ncclInvalidArgument,
                         "ncclCommInitAll: %d ranks%s: expected at least 1 and room for them", ndev,
                         comm ? "" : " at NULL");
    for (int i = 0; devlist && i < ndev; i++) {
        if (devlist[i] < 0 || (count >= 0 && devlist[i] >= count))
            return face_fail(ncclInvalidArgument,
                             "ncclCommInitAll: devlist[%d] is %d: expected a device of this "
                             "machine, which has %d",
                             i, devlist[i], count < 0 ? 0 : count);
    }
    return ncclSuccess;
}

/* More ranks than devices share them in turn. */
static int device_for(int i, const int *devlist)
{
    int count = face_device_count();
    if (devlist)
        return devlist[i];
    return count > 0 ? i % count : 0;
}

NCCL_FACE(ncclResult_t, ncclCommInitAll, (ncclComm_t * comm, int ndev, const int *devlist))
{
    tutti_unique_id made;
    ncclUniqueId id;
    ncclResult_t result = check_devices(comm, ndev, devlist);
    face_settings();
    if (result == ncclSuccess)
        result = face_result(tutti_unique_id_create(&made));
    if (result != ncclSuccess)
        return face_group_note(result);
    memcpy(id.internal, made.bytes, sizeof id.internal);
    for (int i = 0; i < ndev; i++)
        comm[i] = NULL;
    bool blocking = face_blocking(true);
    face_group_start();
    for (int i = 0; i < ndev && result == ncclSuccess; i++)
        result = face_group_note(
            init_rank(&comm[i], ndev, &id, i == 0, i, blocking, device_for(i, devlist)));
    if (result != ncclSuccess)
        (void)tutti_unique_id_release(&made);
    ncclResult_t ended = face_group_end();
    return result != ncclSuccess ? result : ended;
}

/* ---- from a communicator ----------------------------------------------------------------------
 */

/* The communicator is alive and made; it may have failed or been revoked. Held on success. */
static ncclResult_t hold_parent(ncclComm_t comm, const char *name)
{
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    if (atomic_load(&comm->jobs) > 0 && !face_group_open())
        result = face_fail(ncclInvalidArgument,
                           "%s: rank %d is not ready: an earlier call on this communicator is "
                           "still under way",
                           name, face_rank(comm));
    else if (!face_tutti(comm))
        result = face_fail(ncclInvalidUsage, "%s: the communicator was never made", name);
    else if (atomic_load(&comm->finalized))
        result = face_fail(ncclInvalidUsage, "%s: the communicator was finalized", name);
    else
        result = face_refuse_suspended(comm, name);
    if (result != ncclSuccess)
        face_leave(comm);
    return result;
}

ncclResult_t face_child_job(ncclComm_t parent, enum job_kind kind, const ncclConfig_t *config,
                            const char *name, ncclComm_t *newcomm, struct job **job)
{
    ncclResult_t result = hold_parent(parent, name);
    if (result != ncclSuccess)
        return result;
    face_give(newcomm, NULL);
    /* What a configuration of a split or shrink leaves out is not the parent's. */
    bool blocking = (config && kind != JOB_GROW) || parent->blocking;
    result = face_config_read(config, name, &blocking);
    *job = result == ncclSuccess ? calloc(1, sizeof **job) : NULL;
    if (result == ncclSuccess && !*job)
        result = face_fail(ncclSystemError, "%s: no memory", name);
    if (result != ncclSuccess) {
        face_leave(parent);
        return result;
    }
    (*job)->kind = kind;
    (*job)->parent = parent;
    (*job)->out = newcomm;
    (*job)->made_blocking = blocking;
    (*job)->blocking = kind == JOB_GROW ? blocking : parent->blocking;
    return ncclSuccess;
}

/* Nothing comes of it: takes the job and the hold of its parent. */
static void drop_child(struct job *job)
{
    face_leave(job->parent);
    free(job->excluded);
    free(job);
}

ncclResult_t face_child(struct job *job, bool made)
{
    ncclComm_t comm = made ? face_comm_new(0, 0, job->made_blocking) : NULL;
    if (made && !comm) {
        drop_child(job);
        return face_fail(ncclSystemError, "no memory for a communicator");
    }
    job->comm = comm;
    if (comm)
        comm->device = job->parent->device;
    return face_job(job);
}

ncclResult_t face_child_note(ncclResult_t result)
{
    return face_group_note(result == ncclInProgress ? ncclSuccess : result);
}

static ncclResult_t split(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                          const ncclConfig_t *config)
{
    const char *name = "ncclCommSplit";
    if (!newcomm)
        return face_fail(ncclInvalidArgument, "%s: newcomm is NULL", name);
    struct job *job;
    ncclResult_t result = face_child_job(comm, JOB_SPLIT, config, name, newcomm, &job);
    if (result != ncclSuccess)
        return result;
    if (color < 0 && color != NCCL_SPLIT_NOCOLOR) {
        drop_child(job);
        return face_fail(ncclInvalidArgument,
                         "%s: color %d: expected 0 or more, or NCCL_SPLIT_NOCOLOR (-1)", name,
                         color);
    }
    job->color = color == NCCL_SPLIT_NOCOLOR ? TUTTI_NO_COLOR : color;
    job->key = key;
    return face_child(job, color != NCCL_SPLIT_NOCOLOR);
}

NCCL_FACE(ncclResult_t, ncclCommSplit,
          (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config))
{
    return face_child_note(split(comm, color, key, newcomm, config));
}

static ncclResult_t check_shrink(const int *list, int count, int flags)
{
    if (count < 0 || (count > 0 && !list))
        return face_fail(ncclInvalidArgument, "ncclCommShrink: %d excluded ranks%s", count,
                         list ? "" : " at NULL");
    if (flags != NCCL_SHRINK_DEFAULT && flags != NCCL_SHRINK_ABORT)
        return face_fail(ncclInvalidArgument,
                         "ncclCommShrink: flags 0x%x: expected NCCL_SHRINK_DEFAULT (0) or "
                         "NCCL_SHRINK_ABORT (1)",
                         (unsigned)flags);
    return ncclSuccess;
}

static ncclResult_t shrink(ncclComm_t comm, const int *list, int count, ncclComm_t *newcomm,
                           const ncclConfig_t *config, int flags)
{
    const char *name = "ncclCommShrink";
    if (!newcomm)
        return face_fail(ncclInvalidArgument, "%s: newcomm is NULL", name);
    struct job *job;
    ncclResult_t result = face_child_job(comm, JOB_SHRINK, config, name, newcomm, &job);
    if (result != ncclSuccess)
        return result;
    result = check_shrink(list, count, flags);
    if (result == ncclSuccess) {
        job->excluded = calloc(count > 0 ? (size_t)count : 1, sizeof *job->excluded);
        if (!job->excluded)
            result = face_fail(ncclSystemError, "%s: no memory", name);
    }
    if (result != ncclSuccess) {
        drop_child(job);
        return result;
    }
    if (count > 0)
        memcpy(job->excluded, list, (size_t)count * sizeof *job->excluded);
    job->excluded_count = (size_t)count;
    job->abort_first = flags == NCCL_SHRINK_ABORT;
    return face_child(job, true);
}

NCCL_FACE(ncclResult_t, ncclCommShrink,
          (ncclComm_t comm, int *excludeRanksList, int excludeRanksCount, ncclComm_t *newcomm,
           ncclConfig_t *config, int shrinkFlags))
{
    return face_child_note(
        shrink(comm, excludeRanksList, excludeRanksCount, newcomm, config, shrinkFlags));
}
