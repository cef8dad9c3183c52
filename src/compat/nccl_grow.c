/* nccl_grow.c: communicators that take new ranks in. The ranks there are call ncclCommGrow with
 * their communicator, a new one without: for it the call is an init by unique id. The id is one of
 * the process that asked for it; what the communicator remembers of it is that it is not used yet,
 * since a second one would leave the sockets of the first behind. An id that a grow which failed
 * has not used may be passed again: the communicator has it until the next such, or its end. */
#include <stdlib.h>
#include <string.h>

#include "nccl_face.h"

/* ---- the id -----------------------------------------------------------------------------------
 */

/* Asks for an id and keeps it as the one that waits for its use. */
static ncclResult_t make_id(ncclComm_t comm, tutti_unique_id *id)
{
    ncclResult_t result = ncclSuccess;
    pthread_mutex_lock(&comm->lock);
    if (comm->grow_id_waits)
        result = face_fail(ncclInvalidUsage,
                           "ncclCommGetUniqueId: rank %d has asked for an id of this communicator "
                           "before, which ncclCommGrow has not used yet",
                           comm->rank);
    else
        result = face_result(tutti_unique_id_create(id));
    if (result == ncclSuccess) {
        comm->grow_id = *id;
        comm->grow_id_waits = true;
    }
    pthread_mutex_unlock(&comm->lock);
    return result;
}

NCCL_FACE(ncclResult_t, ncclCommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId))
{
    tutti_unique_id id;
    if (!uniqueId)
        return face_fail(ncclInvalidArgument, "ncclCommGetUniqueId: uniqueId is NULL");
    ncclResult_t result = face_enter_grouped(comm, "ncclCommGetUniqueId");
    if (result != ncclSuccess)
        return result;
    result = make_id(comm, &id);
    if (result == ncclSuccess)
        memcpy(uniqueId->internal, id.bytes, sizeof id.bytes);
    face_leave(comm);
    return result;
}

bool face_waiting_id(ncclComm_t comm, tutti_unique_id *id)
{
    pthread_mutex_lock(&comm->lock);
    bool waits = comm->grow_id_waits;
    if (waits)
        *id = comm->grow_id;
    pthread_mutex_unlock(&comm->lock);
    return waits;
}

bool face_take_id(ncclComm_t comm, const tutti_unique_id *id)
{
    pthread_mutex_lock(&comm->lock);
    bool waits = comm->grow_id_waits && memcmp(&comm->grow_id, id, sizeof *id) == 0;
    bool left = comm->left_id_waits && memcmp(&comm->left_id, id, sizeof *id) == 0;
    comm->grow_id_waits = comm->grow_id_waits && !waits;
    comm->left_id_waits = comm->left_id_waits && !left;
    pthread_mutex_unlock(&comm->lock);
    return waits || left;
}

void face_leave_id(ncclComm_t comm, const tutti_unique_id *id)
{
    pthread_mutex_lock(&comm->lock);
    if (comm->left_id_waits)
        (void)tutti_unique_id_release(&comm->left_id);
    comm->left_id = *id;
    comm->left_id_waits = true;
    pthread_mutex_unlock(&comm->lock);
}

/* ---- the communicator -------------------------------------------------------------------------
 */

/* A rank of the communicator that grows; the library compares what the ranks say. */
static ncclResult_t grow(ncclComm_t comm, int size, const ncclUniqueId *id, ncclComm_t *newcomm,
                         const ncclConfig_t *config)
{
    struct job *job;
    ncclResult_t result = face_child_job(comm, JOB_GROW, config, "ncclCommGrow", newcomm, &job);
    if (result != ncclSuccess)
        return result;
    job->size = size;
    job->gives_id = id != NULL;
    if (id) {
        memcpy(job->id.bytes, id->internal, sizeof job->id.bytes);
        job->took_id = face_take_id(comm, &job->id);
    }
    return face_child(job, true);
}

static ncclResult_t check_and_grow(ncclComm_t comm, int size, const ncclUniqueId *id, int rank,
                                   ncclComm_t *newcomm, const ncclConfig_t *config)
{
    if (!newcomm)
        return face_fail(ncclInvalidArgument, "ncclCommGrow: newcomm is NULL");
    face_give(newcomm, NULL);
    if (comm && rank != -1)
        return face_fail(ncclInvalidArgument,
                         "ncclCommGrow: rank %d beside a communicator: expected -1, since its "
                         "ranks keep their numbers; new ranks pass NULL as comm",
                         rank);
    if (!comm && !id)
        return face_fail(ncclInvalidArgument,
                         "ncclCommGrow: neither a communicator nor a unique id: a rank of the "
                         "communicator passes it, a new rank the id");
    return comm ? grow(comm, size, id, newcomm, config)
                : face_init(newcomm, size, id, rank, config, "ncclCommGrow");
}

NCCL_FACE(ncclResult_t, ncclCommGrow,
          (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank, ncclComm_t *newcomm,
           ncclConfig_t *config))
{
    return face_child_note(check_and_grow(comm, nRanks, uniqueId, rank, newcomm, config));
}
