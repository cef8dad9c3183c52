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
ncclResult_t ncclGetLsaDevicePointer(ncclWindow_t window, size_t offset, int lsa_rank, void **out);
ncclResult_t ncclGetPeerDevicePointer(ncclWindow_t window, size_t offset, int peer, void **out);
ncclResult_t ncclGetLsaMultimemDevicePointer(ncclWindow_t window, size_t offset, void **out);
/* The last by value. */
struct multimem {
    void *base;
};
ncclResult_t ncclGetMultimemDevicePointer(ncclWindow_t window, size_t offset,
                                          struct multimem multimem, void **out);

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
    wrong += world_check(rank, team.ranks == 1 && team.rank == 0 && other.ranks == 1, "a team");
    return wrong;
}

/* Where kernels find a window: this rank's at its own address, and nowhere else, since a rank is
 * alone in its team. Programs ask for each peer's and take NULL for one that is not to be reached.
 */
static int pointers_of(ncclWindow_t window, char *buffer, int rank, int size)
{
    int wrong = 0;
    for (int peer = 0; peer < size; peer++) {
        void *found = &wrong, *want = peer == rank ? buffer + 64 : NULL;
        wrong += OK(ncclGetPeerDevicePointer(window, 64, peer, &found));
        wrong += world_check(rank, found == want, "of rank %d: %p, not %p", peer, found, want);
    }
    void *own = NULL, *cast = &wrong, *all = &wrong;
    wrong += OK(ncclGetLsaDevicePointer(window, 8, 0, &own));
    wrong += OK(ncclGetLsaMultimemDevicePointer(window, 8, &cast));
    wrong += OK(ncclGetMultimemDevicePointer(window, 8, (struct multimem){buffer}, &all));
    return wrong +
           world_check(rank, own == buffer + 8 && !cast && !all, "%p, %p, %p", own, cast, all);
}

static int bad_pointers(ncclWindow_t window, char *buffer, int rank, int size)
{
    void *found;
    int wrong = TAKEN(ncclGetPeerDevicePointer(NULL, 0, 0, &found), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclGetPeerDevicePointer: window is NULL");
    wrong += TAKEN(ncclGetPeerDevicePointer(window, 0, 0, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclGetPeerDevicePointer: outPtr is NULL");
    wrong += TAKEN(ncclGetPeerDevicePointer(window, 0, size, &found), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclGetPeerDevicePointer: peer");
    wrong += TAKEN(ncclGetPeerDevicePointer(window, 0, -1, &found), ncclInvalidArgument);
    wrong += TAKEN(ncclGetLsaDevicePointer(window, 0, 1, &found), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclGetLsaDevicePointer: rank 1 of the load-store team");
    wrong +=
        TAKEN(ncclGetLsaDevicePointer((ncclWindow_t)buffer, 0, 0, &found), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclGetLsaDevicePointer: the window was not made by "
                                   "ncclCommWindowRegister, or is given back");
    wrong += TAKEN(ncclGetLsaMultimemDevicePointer(NULL, 0, &found), ncclInvalidArgument);
    wrong += TAKEN(ncclGetMultimemDevicePointer(window, 0, (struct multimem){NULL}, &found),
                   ncclInvalidArgument);
    return wrong + nccl_world_says(rank, "ncclGetMultimemDevicePointer: the handle is of no team");
}

/* Of a window of each communicator, and of none that is given back, or whose communicator is gone.
 */
static int pointers(ncclComm_t comm, int rank, int size)
{
    void *buffer = NULL, *found;
    ncclComm_t child = NULL;
    ncclWindow_t window = NULL, other = NULL;
    int wrong = OK(ncclMemAlloc(&buffer, 8192));
    wrong += OK(ncclCommSplit(comm, rank, 0, &child, NULL));
    wrong += OK(ncclCommWindowRegister(comm, buffer, 4096, &window, NCCL_WIN_COLL_SYMMETRIC));
    wrong += OK(ncclCommWindowRegister(child, buffer, 8192, &other, NCCL_WIN_COLL_SYMMETRIC));
    wrong += pointers_of(window, buffer, rank, size) + bad_pointers(window, buffer, rank, size);
    wrong += pointers_of(other, buffer, 0, 1);
    wrong += TAKEN(ncclCommWindowDeregister(child, window), ncclInvalidUsage);
    wrong += OK(ncclCommDestroy(child));
    wrong += TAKEN(ncclGetLsaDevicePointer(other, 0, 0, &found), ncclInvalidArgument);
    wrong += OK(ncclCommWindowDeregister(comm, window));
    wrong += TAKEN(ncclGetPeerDevicePointer(window, 0, rank, &found), ncclInvalidArgument);
    return wrong + OK(ncclMemFree(buffer));
}

static int all(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += windows(comm, rank) + pointers(comm, rank, size) + one_sided(comm, rank);
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
