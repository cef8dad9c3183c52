/* test_nccl_window.c: windows of the NCCL face: made, asked for, given back; and what is refused
 * that kernels or one side alone would do with them. */
#include <stddef.h>
#include <string.h>

#include "tests/nccl_world.h"

struct team {
    int ranks, rank, stride;
};
struct team ncclTeamCft(ncclComm_t comm, int mode);
struct team ncclTeamCftMultimem(ncclComm_t comm);
ncclResult_t ncclGetPeerDevicePointer(ncclWindow_t window, size_t offset, int peer, void **out);
ncclResult_t ncclGetLsaMultimemDevicePointer(ncclWindow_t window, size_t offset, void **out);

static int windows(ncclComm_t comm, int rank)
{
    static const int good[] = {0, NCCL_WIN_COLL_SYMMETRIC, NCCL_WIN_STRICT_ORDERING,
                               NCCL_WIN_COLL_SYMMETRIC | NCCL_WIN_STRICT_ORDERING};
    void *buffer = NULL, *found;
    ncclWindow_t window = NULL;
    int wrong = OK(ncclMemAlloc(&buffer, 8192));
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        found = NULL;
        wrong += OK(ncclCommWindowRegister(comm, buffer, 4096, &window, good[i]));
        wrong += OK(ncclWinGetUserPtr(comm, window, &found));
        wrong += world_check(rank, found == buffer, "%p is not %p", found, buffer);
        wrong += OK(ncclCommWindowDeregister(comm, window));
    }
    wrong += TAKEN(ncclWinGetUserPtr(comm, window, &found), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclWinGetUserPtr: the window was not made with this "
                                   "communicator, or is given back");
    wrong += TAKEN(ncclWinGetUserPtr(comm, NULL, &found), ncclInvalidArgument);
    wrong += TAKEN(ncclWinGetUserPtr(comm, window, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommWindowRegister(comm, buffer, 4096, &window, NCCL_WIN_GIN_ONLY),
                   ncclInvalidUsage);
    wrong += nccl_world_says(rank, "flags 0x4 have NCCL_WIN_GIN_ONLY (4), a window for kernels");
    wrong += TAKEN(ncclCommWindowRegister(comm, buffer, 4096, &window, NCCL_WIN_CFT_COUNTED | 1),
                   ncclInvalidUsage);
    wrong += nccl_world_says(rank, "flags 0x9 have NCCL_WIN_CFT_COUNTED (8)");
    wrong += TAKEN(ncclCommWindowRegister(comm, buffer, 4096, &window, 17), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "flags 0x11: expected a sum of NCCL_WIN_COLL_SYMMETRIC (1) and "
                                   "NCCL_WIN_STRICT_ORDERING (2)");
    wrong += TAKEN(ncclCommWindowRegister(comm, (char *)buffer + 8, 64, &window, 3),
                   ncclInvalidArgument);
    return wrong + OK(ncclMemFree(buffer));
}

static int one_sided(ncclComm_t comm, int rank)
{
    ncclWaitSignalDesc_t wait = {1, 0, 0, 0};
    struct team team = ncclTeamCft(comm, 0), other = ncclTeamCftMultimem(comm);
    void *pointer;
    char byte = 0;
    int wrong = 0;
    wrong +=
        TAKEN(ncclPutSignal(&byte, 1, ncclInt8, 0, NULL, 0, 0, 0, 0, comm, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclPutSignal: one-sided transfers are not served yet: use "
                                   "ncclSend and ncclRecv between ncclGroupStart and ncclGroupEnd");
    wrong += TAKEN(ncclSignal(0, 0, 0, 0, comm, NULL), ncclInvalidUsage);
    wrong += OK(ncclGroupStart());
    wrong += TAKEN(ncclWaitSignal(1, &wait, comm, NULL), ncclInvalidUsage);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclWaitSignal: one-sided");
    wrong += TAKEN(ncclSignal(0, 0, 0, 0, NULL, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclSignal: comm is NULL");
    wrong += TAKEN(ncclGetPeerDevicePointer(NULL, 0, 0, &pointer), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclGetPeerDevicePointer: kernels that communicate by "
                                   "themselves are not served");
    wrong += TAKEN(ncclGetLsaMultimemDevicePointer(NULL, 0, &pointer), ncclInvalidUsage);
    wrong += world_check(rank, team.ranks == 1 && team.rank == 0 && other.ranks == 1, "a team");
    return wrong;
}

static int all(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += windows(comm, rank) + one_sided(comm, rank);
    wrong += nccl_world_works(comm, rank, rank, size);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_window_all(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, all, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, all, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"all", test_nccl_window_all},
    };
    return suite_run("nccl_window", tests, sizeof tests / sizeof *tests, argc, argv);
}
