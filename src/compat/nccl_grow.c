/* nccl_grow.c: communicators that ranks join later, which are not served yet. */
#include "nccl_face.h"

static ncclResult_t refuse(const char *name)
{
    return face_group_note(face_fail(ncclInvalidUsage,
                                     "%s: communicators cannot grow yet: make a new one with "
                                     "ncclGetUniqueId and ncclCommInitRank",
                                     name));
}

NCCL_FACE(ncclResult_t, ncclCommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId))
{
    return refuse("ncclCommGetUniqueId");
}

NCCL_FACE(ncclResult_t, ncclCommGrow,
          (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank, ncclComm_t *newcomm,
           ncclConfig_t *config))
{
    return refuse("ncclCommGrow");
}
