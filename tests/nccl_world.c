/* nccl_world.c: see nccl_world.h. */
#include "tests/nccl_world.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

const char *const nccl_world_shm[] = {"TUTTI_TRANSPORTS=shm", NULL};
const char *const nccl_world_tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

int nccl_world_taken(int rank, const char *text, ncclResult_t result, ncclResult_t want,
                     const char *file, int line)
{
    return world_check(rank, result == want, "%s:%d: %s: %d, expected %d; last error: %s", file,
                       line, text, (int)result, (int)want, ncclGetLastError(NULL));
}

int nccl_world_says(int rank, const char *part)
{
    return world_check(rank, strstr(ncclGetLastError(NULL), part) != NULL, "'%s' is not in: %s",
                       part, ncclGetLastError(NULL));
}

double nccl_world_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int nccl_world_id(tutti_comm *native, int rank, ncclUniqueId *id)
{
    int wrong = 0;
    memset(id, 0, sizeof *id);
    if (rank == 0)
        wrong += OK(ncclGetUniqueId(id));
    return wrong +
           world_check(rank,
                       tutti_broadcast(id, id, sizeof *id, TUTTI_UINT8, 0, native) == TUTTI_OK,
                       "native broadcast: %s", tutti_last_error());
}

int nccl_world_init(tutti_comm *native, int rank, int size, ncclComm_t *comm)
{
    ncclUniqueId id;
    int wrong = nccl_world_id(native, rank, &id);
    *comm = NULL;
    return wrong + OK(ncclCommInitRank(comm, size, id, rank));
}

ncclResult_t nccl_world_settle(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;
    double end = nccl_world_seconds() + 20;
    while (state == ncclInProgress && nccl_world_seconds() < end) {
        if (ncclCommGetAsyncError(comm, &state) != ncclSuccess)
            return ncclInternalError;
        usleep(200);
    }
    return state;
}

void nccl_world_run(enum world_kind kind, int size, const char *const *settings, world_fn *function,
                    void *context)
{
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = 60};
    CU_ASSERT_EQUAL(world_run(&world, function, context), 0);
}

int nccl_world_works(ncclComm_t comm, int rank, int want_rank, int want_size)
{
    int new_rank = -1, new_size = -1, sum = -1, wrong = 0;
    if (!comm)
        return world_check(rank, 0, "no communicator");
    wrong += OK(ncclCommUserRank(comm, &new_rank));
    wrong += OK(ncclCommCount(comm, &new_size));
    wrong +=
        world_check(rank, new_rank == want_rank && new_size == want_size,
                    "rank %d of %d, expected %d of %d", new_rank, new_size, want_rank, want_size);
    for (int i = 0; i < 20; i++)
        wrong += OK(ncclAllReduce(&new_rank, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    return wrong + world_check(rank, sum == want_size * (want_size - 1) / 2, "sum %d", sum);
}

int nccl_world_is(ncclComm_t comm, int rank, ncclResult_t want)
{
    ncclResult_t state = ncclNumResults;
    int wrong = OK(ncclCommGetAsyncError(comm, &state));
    return wrong + world_check(rank, state == want, "state %d, expected %d: %s", (int)state,
                               (int)want, ncclGetLastError(comm));
}
