/* nccl_device.c: the host side of the device interface, which lets kernels reach peers' memory
 * themselves. Its structures are compiled into the program's kernels, version by version, so it
 * cannot be served; every call that would begin it is refused, and ncclCommQueryProperties says
 * that there is none of it, so that programs need not try. The teams are plain facts: a rank
 * reaches no peer from inside a kernel, so it is alone in its team of load and store. So are the
 * addresses of a window: programs ask for those of all peers before they know whether they will use
 * any, and NULL is the interface's word for one that is not to be reached. */
#include <string.h>

#include "nccl_face.h"

struct ncclTeam {
    int nRanks, rank, stride;
};
typedef struct ncclTeam ncclTeam_t;
/* By value, so its size counts. */
struct ncclMultimemHandle {
    void *mcBasePtr;
};
typedef struct ncclMultimemHandle ncclMultimemHandle_t;

/* What ncclCommQueryProperties tells. Versions have added fields at the end. */
#define PROPERTIES_GIN_TYPES 64
struct properties {
    size_t size;
    unsigned magic, version;
    int rank, ranks, device, nvml_device;
    bool device_api, multimem;
    int gin_type; /* 0: none */
    /* 2.29.7 */
    int lsa_teams;
    bool host_rma;
    int railed_gin_type;
    /* 2.31 */
    uint64_t hash;
    int gin_min_stride;
    int gin_connection;
    bool gin[PROPERTIES_GIN_TYPES];
    size_t device_comm_size;
    /* 2.32 */
    bool cft, cft_multicast, cft_counted;
};
#define PROPERTIES_LEAST offsetof(struct properties, lsa_teams) /* 2.29.2 */

ncclResult_t pncclCommQueryProperties(ncclComm_t comm, struct properties *properties);
ncclResult_t pncclDevCommCreate(ncclComm_t comm, const void *requirements, void *made);
ncclResult_t pncclDevCommDestroy(ncclComm_t comm, const void *made);
ncclResult_t pncclGetLsaDevicePointer(ncclWindow_t window, size_t offset, int lsa_rank, void **out);
ncclResult_t pncclGetPeerDevicePointer(ncclWindow_t window, size_t offset, int peer, void **out);
ncclResult_t pncclGetLsaMultimemDevicePointer(ncclWindow_t window, size_t offset, void **out);
ncclResult_t pncclGetMultimemDevicePointer(ncclWindow_t window, size_t offset,
                                           ncclMultimemHandle_t multimem, void **out);
ncclResult_t pncclGetMultimemDeviceLeInfo(ncclWindow_t window, size_t offset, uint32_t *id,
                                          size_t *le_offset);
ncclResult_t pncclGetCftDeviceLeInfo(ncclWindow_t window, size_t offset, int peer, ncclTeam_t team,
                                     uint32_t *id, size_t *le_offset);
ncclResult_t pncclGetPeerDeviceLeInfo(ncclWindow_t window, size_t offset, int peer, uint32_t *id,
                                      size_t *le_offset);
ncclResult_t pncclGinBarrierCreateRequirement(ncclComm_t comm, ncclTeam_t team, int barriers,
                                              void *handle, void *requirement);
ncclResult_t pncclGinOutboxCreateRequirement(int blocks, int size_log2, void *handle,
                                             void *requirement);
ncclResult_t pncclGinInboxA2ACreateRequirement(ncclTeam_t peers, int blocks, int size_log2,
                                               void *handle, void *requirement);
ncclResult_t pncclLsaBarrierCreateRequirement(ncclTeam_t team, int barriers, void *handle,
                                              void *requirement);
int pncclLLA2ACalcSlots(int elements, int element_size);
ncclResult_t pncclLLA2ACreateRequirement(int blocks, int slots, void *handle, void *requirement);
ncclTeam_t pncclTeamWorld(ncclComm_t comm);
ncclTeam_t pncclTeamLsa(ncclComm_t comm);
ncclTeam_t pncclTeamCft(ncclComm_t comm, int mode);
ncclTeam_t pncclTeamCftMultimem(ncclComm_t comm);
ncclTeam_t pncclTeamRail(ncclComm_t comm);
int pncclTeamRankToWorld(ncclComm_t comm, ncclTeam_t team, int rank);
int pncclTeamRankToLsa(ncclComm_t comm, ncclTeam_t team, int rank);

/* ---- what there is ----------------------------------------------------------------------------
 */

static ncclResult_t check_properties(const struct properties *given, const char *name)
{
    if (!given)
        return face_fail(ncclInvalidArgument, "%s: properties are NULL", name);
    if (given->size < PROPERTIES_LEAST)
        return face_fail(ncclInvalidArgument,
                         "%s: properties have %zu bytes, expected at least %zu", name, given->size,
                         PROPERTIES_LEAST);
    if (given->magic != NCCL_API_MAGIC)
        return face_fail(ncclInvalidArgument,
                         "%s: properties have the magic 0x%x, expected 0x%x: begin them with "
                         "NCCL_COMM_PROPERTIES_INITIALIZER",
                         name, given->magic, NCCL_API_MAGIC);
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclCommQueryProperties, (ncclComm_t comm, struct properties *properties))
{
    const char *name = "ncclCommQueryProperties";
    struct properties known = {.nvml_device = -1};
    ncclResult_t result = check_properties(properties, name);
    if (result == ncclSuccess)
        result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    tutti_comm *tutti = face_tutti(comm);
    if (!tutti) {
        result = face_fail(ncclInvalidUsage, "%s: the communicator is not made yet", name);
    } else {
        known.rank = comm->rank;
        known.ranks = known.lsa_teams = comm->size;
        known.device = comm->device;
        result = face_result(tutti_comm_id(tutti, &known.hash));
    }
    face_leave(comm);
    if (result == ncclSuccess) {
        const size_t head = offsetof(struct properties, rank);
        size_t end = properties->size < sizeof known ? properties->size : sizeof known;
        memcpy((char *)properties + head, (const char *)&known + head, end - head);
    }
    return result;
}

/* ---- what is refused --------------------------------------------------------------------------
 */

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

NCCL_FACE(ncclResult_t, ncclGetMultimemDeviceLeInfo,
          (ncclWindow_t window, size_t offset, uint32_t *id, size_t *le_offset))
{
    return refuse("ncclGetMultimemDeviceLeInfo");
}

NCCL_FACE(ncclResult_t, ncclGetCftDeviceLeInfo,
          (ncclWindow_t window, size_t offset, int peer, ncclTeam_t team, uint32_t *id,
           size_t *le_offset))
{
    return refuse("ncclGetCftDeviceLeInfo");
}

NCCL_FACE(ncclResult_t, ncclGetPeerDeviceLeInfo,
          (ncclWindow_t window, size_t offset, int peer, uint32_t *id, size_t *le_offset))
{
    return refuse("ncclGetPeerDeviceLeInfo");
}

NCCL_FACE(ncclResult_t, ncclGinBarrierCreateRequirement,
          (ncclComm_t comm, ncclTeam_t team, int barriers, void *handle, void *requirement))
{
    return refuse("ncclGinBarrierCreateRequirement");
}

NCCL_FACE(ncclResult_t, ncclGinOutboxCreateRequirement,
          (int blocks, int size_log2, void *handle, void *requirement))
{
    return refuse("ncclGinOutboxCreateRequirement");
}

NCCL_FACE(ncclResult_t, ncclGinInboxA2ACreateRequirement,
          (ncclTeam_t peers, int blocks, int size_log2, void *handle, void *requirement))
{
    return refuse("ncclGinInboxA2ACreateRequirement");
}

NCCL_FACE(ncclResult_t, ncclLsaBarrierCreateRequirement,
          (ncclTeam_t team, int barriers, void *handle, void *requirement))
{
    return refuse("ncclLsaBarrierCreateRequirement");
}

NCCL_FACE(ncclResult_t, ncclLLA2ACreateRequirement,
          (int blocks, int slots, void *handle, void *requirement))
{
    return refuse("ncclLLA2ACreateRequirement");
}

NCCL_FACE(int, ncclLLA2ACalcSlots, (int elements, int element_size))
{
    refuse("ncclLLA2ACalcSlots");
    return 0;
}

/* ---- where kernels find a window --------------------------------------------------------------
 */

/* The window, if there is somewhere to put the answer. */
static ncclResult_t find_window(ncclWindow_t window, void **out, const char *name,
                                struct face_window *found)
{
    if (!out)
        return face_fail(ncclInvalidArgument, "%s: outPtr is NULL", name);
    return face_window(window, name, found);
}

NCCL_FACE(ncclResult_t, ncclGetLsaDevicePointer,
          (ncclWindow_t window, size_t offset, int lsa_rank, void **out))
{
    const char *name = "ncclGetLsaDevicePointer";
    struct face_window found;
    ncclResult_t result = find_window(window, out, name, &found);
    if (result == ncclSuccess && lsa_rank != 0)
        result = face_fail(ncclInvalidArgument,
                           "%s: rank %d of the load-store team: expected 0, since every rank is "
                           "alone in its own",
                           name, lsa_rank);
    if (result == ncclSuccess)
        *out = (char *)found.buff + offset;
    return result;
}

NCCL_FACE(ncclResult_t, ncclGetPeerDevicePointer,
          (ncclWindow_t window, size_t offset, int peer, void **out))
{
    const char *name = "ncclGetPeerDevicePointer";
    struct face_window found;
    ncclResult_t result = find_window(window, out, name, &found);
    if (result == ncclSuccess && (peer < 0 || peer >= found.size))
        result = face_fail(ncclInvalidArgument, "%s: peer %d: expected 0 to %d", name, peer,
                           found.size - 1);
    if (result == ncclSuccess)
        *out = peer == found.rank ? (char *)found.buff + offset : NULL;
    return result;
}

NCCL_FACE(ncclResult_t, ncclGetLsaMultimemDevicePointer,
          (ncclWindow_t window, size_t offset, void **out))
{
    struct face_window found;
    ncclResult_t result = find_window(window, out, "ncclGetLsaMultimemDevicePointer", &found);
    if (result == ncclSuccess)
        *out = NULL;
    return result;
}

NCCL_FACE(ncclResult_t, ncclGetMultimemDevicePointer,
          (ncclWindow_t window, size_t offset, ncclMultimemHandle_t multimem, void **out))
{
    const char *name = "ncclGetMultimemDevicePointer";
    struct face_window found;
    ncclResult_t result = find_window(window, out, name, &found);
    if (result == ncclSuccess && !multimem.mcBasePtr)
        result = face_fail(ncclInvalidArgument, "%s: the handle is of no team", name);
    if (result == ncclSuccess)
        *out = NULL;
    return result;
}

/* ---- teams ------------------------------------------------------------------------------------
 */

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

static const ncclTeam_t alone = {.nRanks = 1, .rank = 0, .stride = 1};

NCCL_FACE(ncclTeam_t, ncclTeamLsa, (ncclComm_t comm))
{
    return alone;
}

NCCL_FACE(ncclTeam_t, ncclTeamCft, (ncclComm_t comm, int mode))
{
    return alone;
}

NCCL_FACE(ncclTeam_t, ncclTeamCftMultimem, (ncclComm_t comm))
{
    return alone;
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
