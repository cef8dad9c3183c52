/* nccl_device.c: the host side of the device interface, which lets kernels reach peers' memory
 * themselves. Its structures are compiled into the program's kernels, version by version, so it
 * cannot be served; every call that would begin it is refused. The teams are plain facts: a rank
 * reaches no peer from inside a kernel, so it is alone in its team of load and store. */
#include "nccl_face.h"

struct ncclTeam {
    int nRanks, rank, stride;
};
typedef struct ncclTeam ncclTeam_t;

ncclResult_t pncclDevCommCreate(ncclComm_t comm, const void *requirements, void *made);
ncclResult_t pncclDevCommDestroy(ncclComm_t comm, const void *made);
ncclResult_t pncclGinBarrierCreateRequirement(ncclComm_t comm, ncclTeam_t team, int barriers,
                                              void *handle, void *requirement);
ncclResult_t pncclLsaBarrierCreateRequirement(ncclTeam_t team, int barriers, void *handle,
                                              void *requirement);
int pncclLLA2ACalcSlots(int elements, int element_size);
ncclResult_t pncclLLA2ACreateRequirement(int blocks, int slots, void *handle, void *requirement);
ncclTeam_t pncclTeamWorld(ncclComm_t comm);
ncclTeam_t pncclTeamLsa(ncclComm_t comm);
ncclTeam_t pncclTeamRail(ncclComm_t comm);
int pncclTeamRankToWorld(ncclComm_t comm, ncclTeam_t team, int rank);
int pncclTeamRankToLsa(ncclComm_t comm, ncclTeam_t team, int rank);

static ncclResult_t refuse(const char *name)
{
    return face_fail(ncclInvalidUsage,
                     "%s: kernels that communicate by themselves are not served by Tutti: use the "
                     "collectives that the host calls",
                     name);
}

NCCL_FACE(ncclResult_t, ncclDevCommCreate, (ncclComm_t comm, const void *requirements, void *made))
{
    return refuse("ncclDevCommCreate");
}

NCCL_FACE(ncclResult_t, ncclDevCommDestroy, (ncclComm_t comm, const void *made))
{
    return refuse("ncclDevCommDestroy");
}

NCCL_FACE(ncclResult_t, ncclGinBarrierCreateRequirement,
          (ncclComm_t comm, ncclTeam_t team, int barriers, void *handle, void *requirement))
{
    return refuse("ncclGinBarrierCreateRequirement");
}

NCCL_FACE(ncclResult_t, ncclLsaBarrierCreateRequirement,
          (ncclTeam_t team, int barriers, void *handle, void *requirement))
{
    return refuse("ncclLsaBarrierCreateRequirement");
}

NCCL_FACE(int, ncclLLA2ACalcSlots, (int elements, int element_size))
{
    refuse("ncclLLA2ACalcSlots");
    return 0;
}

NCCL_FACE(ncclResult_t, ncclLLA2ACreateRequirement,
          (int blocks, int slots, void *handle, void *requirement))
{
    return refuse("ncclLLA2ACreateRequirement");
}

/* Of a handle that cannot be used: nobody. */
static ncclTeam_t world(ncclComm_t comm, const char *name)
{
    ncclTeam_t team = {.stride = 1};
    if (face_hold(comm, name) == ncclSuccess) {
        team.nRanks = comm->size;
        team.rank = comm->rank;
        face_leave(comm);
    }
    return team;
}

NCCL_FACE(ncclTeam_t, ncclTeamWorld, (ncclComm_t comm))
{
    return world(comm, "ncclTeamWorld");
}

NCCL_FACE(ncclTeam_t, ncclTeamLsa, (ncclComm_t comm))
{
    return (ncclTeam_t){.nRanks = 1, .rank = 0, .stride = 1};
}

/* The ranks of one place in every load-store team: all of them. */
NCCL_FACE(ncclTeam_t, ncclTeamRail, (ncclComm_t comm))
{
    return world(comm, "ncclTeamRail");
}

/* A team is a row of ranks, stride apart, in which this one stands at team.rank. */
NCCL_FACE(int, ncclTeamRankToWorld, (ncclComm_t comm, ncclTeam_t team, int rank))
{
    return world(comm, "ncclTeamRankToWorld").rank + (rank - team.rank) * team.stride;
}

NCCL_FACE(int, ncclTeamRankToLsa, (ncclComm_t comm, ncclTeam_t team, int rank))
{
    return (rank - team.rank) * team.stride;
}
