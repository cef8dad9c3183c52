/* nccl_onesided.c: transfers of which only one side knows. They are refused: a peer would have to
 * take them while its program does something else, in the order of a stream of which it knows
 * nothing. */
#include "nccl_face.h"

static ncclResult_t refuse(ncclComm_t comm, const char *name)
{
    ncclResult_t result = face_hold(comm, name);
    if (result == ncclSuccess) {
        face_leave(comm);
        result = face_fail(ncclInvalidUsage,
                           "%s: one-sided transfers are not served yet: use ncclSend and ncclRecv "
                           "between ncclGroupStart and ncclGroupEnd",
                           name);
    }
    return face_group_note(result);
}

NCCL_FACE(ncclResult_t, ncclPutSignal,
          (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
           ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
           ncclComm_t comm, cudaStream_t stream))
{
    return refuse(comm, "ncclPutSignal");
}

NCCL_FACE(ncclResult_t, ncclSignal,
          (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm, cudaStream_t stream))
{
    return refuse(comm, "ncclSignal");
}

NCCL_FACE(ncclResult_t, ncclWaitSignal,
          (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream))
{
    return refuse(comm, "ncclWaitSignal");
}
