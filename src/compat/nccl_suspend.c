/* nccl_suspend.c: communicators that are put aside for a while, and the device memory they keep.
 *
 * Suspending frees nothing. The only block that a communicator keeps is the scratch of plans in
 * device memory: peers have it mapped, captured graphs hold its address, and what is given back
 * goes to a pool of the process that every communicator takes from. So it is a promise alone:
 * nothing that would communicate begins. */
#include "nccl_face.h"

NCCL_FACE(ncclResult_t, ncclCommSuspend, (ncclComm_t comm, int flags))
{
    const char *name = "ncclCommSuspend";
    ncclResult_t result = face_enter_suspended(comm, name);
    if (result != ncclSuccess)
        return face_group_note(result);
    if (flags != NCCL_SUSPEND_MEM)
        result = face_fail(ncclInvalidArgument, "%s: flags 0x%x: expected NCCL_SUSPEND_MEM (1)",
                           name, (unsigned)flags);
    else if (atomic_exchange(&comm->suspended, true))
        result = face_fail(ncclInvalidUsage, "%s: the communicator of rank %d is suspended already",
                           name, comm->rank);
    face_leave(comm);
    return face_group_note(result);
}

/* Of a communicator that failed or was revoked meanwhile, too: what can be done with it then may
 * need it. */
NCCL_FACE(ncclResult_t, ncclCommResume, (ncclComm_t comm))
{
    const char *name = "ncclCommResume";
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return face_group_note(result);
    if (!atomic_exchange(&comm->suspended, false))
        result = face_fail(ncclInvalidUsage, "%s: the communicator of rank %d is not suspended",
                           name, comm->rank);
    face_leave(comm);
    return face_group_note(result);
}

static ncclResult_t answer(ncclComm_t comm, ncclCommMemStat_t stat, const char *name,
                           uint64_t *value)
{
    uint64_t kept = 0;
    tutti_comm *tutti = face_tutti(comm);
    switch (stat) {
    case ncclStatGpuMemSuspend:
        *value = 0;
        return ncclSuccess;
    case ncclStatGpuMemSuspended:
        *value = atomic_load(&comm->suspended);
        return ncclSuccess;
    case ncclStatGpuMemPersist:
    case ncclStatGpuMemTotal:
        if (!tutti)
            return face_fail(ncclInvalidUsage, "%s: the communicator is not made yet", name);
        tutti_comm_device_bytes(tutti, &kept);
        *value = kept;
        return ncclSuccess;
    }
    return face_fail(ncclInvalidArgument, "%s: stat %d: expected 0 to %d", name, (int)stat,
                     ncclStatGpuMemTotal);
}

NCCL_FACE(ncclResult_t, ncclCommMemStats,
          (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value))
{
    const char *name = "ncclCommMemStats";
    if (!value)
        return face_fail(ncclInvalidArgument, "%s: value is NULL", name);
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    result = answer(comm, stat, name, value);
    face_leave(comm);
    return result;
}
