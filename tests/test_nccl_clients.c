/* test_nccl_clients.c: what known programs do with the NCCL face that its documentation does not
 * say, and that holds with NVIDIA's library. Each test names who does it. */
#include <stdint.h>
#include <string.h>

#include "tests/nccl_world.h"

#define RANKS_MAX 4
#define BLOCK     300 /* elements of the largest block */

static int filled(int rank, const int *at, size_t count, int want, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        if (at[i] != want)
            return world_check(rank, 0, "%s: element %zu is %d, not %d", what, i, at[i], want);
    }
    return 0;
}

static void fill(int *at, size_t count, int value)
{
    for (size_t i = 0; i < count; i++)
        at[i] = value;
}

/* RAFT, XGBoost, Horovod: blocks of several sizes, some empty, are gathered by a group of
 * broadcasts. Every rank names its own block as the send buffer each time, and what it receives of
 * a larger one reaches into that. */
static int blocks(ncclComm_t comm, int rank, int size)
{
    static const size_t counts[RANKS_MAX] = {100, BLOCK, 0, 50};
    size_t at[RANKS_MAX + 1] = {0};
    int all[RANKS_MAX * BLOCK], wrong = 0;
    for (int r = 0; r < size; r++)
        at[r + 1] = at[r] + counts[r];
    fill(all, sizeof all / sizeof *all, -1);
    fill(all + at[rank], counts[rank], rank);
    wrong += OK(ncclGroupStart());
    for (int r = 0; r < size; r++)
        wrong +=
            OK(ncclBroadcast(all + at[rank], all + at[r], counts[r], ncclInt32, r, comm, NULL));
    wrong += OK(ncclGroupEnd());
    for (int r = 0; r < size; r++)
        wrong += filled(rank, all + at[r], counts[r], r, "a block");
    return wrong;
}

/* The same, and OSU's: a buffer that only the root uses is anything elsewhere. */
static int unused(ncclComm_t comm, int rank, int size)
{
    int in[BLOCK], out[RANKS_MAX * BLOCK] = {0}, wrong = 0;
    void *nowhere = (void *)(uintptr_t)16, *across = in + 10;
    fill(in, BLOCK, 1);
    for (int i = 0; i < 2; i++) {
        void *any = i == 0 ? nowhere : across;
        bool root = rank == size - 1;
        wrong +=
            OK(ncclReduce(in, root ? out : any, 100, ncclInt32, ncclSum, size - 1, comm, NULL));
        wrong += root ? filled(rank, out, 100, size, "a sum") : 0;
        wrong += OK(ncclGather(in, root ? out : any, 100, ncclInt32, size - 1, comm, NULL));
        wrong += OK(ncclScatter(root ? out : any, in, 100, ncclInt32, size - 1, comm, NULL));
        wrong += OK(ncclBroadcast(root ? in : any, in, 100, ncclInt32, size - 1, comm, NULL));
        wrong += filled(rank, in, BLOCK, 1, "what came back");
    }
    return wrong;
}

/* CuPy's sparse arrays: the root sends how long they are, and the arrays, to all in one group, with
 * groups inside; who receives takes the lengths alone, and the rest in a group. */
static int parts(ncclComm_t comm, int rank, int size)
{
    static const int64_t lengths[] = {BLOCK, 0, 7};
    int sent[BLOCK], got[3][BLOCK], wrong = 0;
    int64_t told[3] = {-1, -1, -1};
    if (rank == 0) {
        fill(sent, BLOCK, 5);
        wrong += OK(ncclGroupStart());
        for (int peer = 1; peer < size; peer++) {
            wrong += OK(ncclSend(lengths, 3, ncclInt64, peer, comm, NULL));
            wrong += OK(ncclGroupStart());
            for (int i = 0; i < 3; i++)
                wrong += OK(ncclSend(sent, (size_t)lengths[i], ncclInt32, peer, comm, NULL));
            wrong += OK(ncclGroupEnd());
        }
        return wrong + OK(ncclGroupEnd());
    }
    wrong += OK(ncclRecv(told, 3, ncclInt64, 0, comm, NULL));
    wrong += world_check(rank, memcmp(told, lengths, sizeof told) == 0, "other lengths");
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < 3; i++)
        wrong += OK(ncclRecv(got[i], (size_t)lengths[i], ncclInt32, 0, comm, NULL));
    wrong += OK(ncclGroupEnd());
    for (int i = 0; i < 3; i++)
        wrong += filled(rank, got[i], (size_t)lengths[i], 5, "an array");
    return wrong;
}

/* torchcomms closes a group whose call has failed, and goes on; Horovod aborts the communicator in
 * the middle of the group, and goes on with others. */
static int mistakes(ncclComm_t comm, int rank, int size)
{
    int value = rank, sum = -1, wrong = 0;
    ncclComm_t other = NULL;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&value, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    wrong += TAKEN(ncclSend(&value, 1, ncclInt32, size, comm, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += world_check(rank, sum == -1, "the group has run");
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += OK(ncclCommSplit(comm, 0, rank, &other, NULL));
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(&value, &sum, 1, ncclInt32, ncclSum, other, NULL));
    wrong += OK(ncclCommAbort(other));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    return wrong + nccl_world_works(comm, rank, rank, size);
}

static int all(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm = NULL;
    ncclUniqueId id;
    (void)context;
    int wrong = nccl_world_id(native, rank, &id);
    /* nccl4py makes every communicator by this call. */
    wrong += OK(ncclCommInitRankScalable(&comm, size, rank, 1, &id, NULL));
    wrong += blocks(comm, rank, size) + unused(comm, rank, size) + parts(comm, rank, size);
    wrong += mistakes(comm, rank, size);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_clients_in_processes(void)
{
    for (int size = 1; size <= RANKS_MAX; size++) {
        nccl_world_run(WORLD_PROCESSES, size, nccl_world_shm, all, NULL);
        nccl_world_run(WORLD_PROCESSES, size, nccl_world_tcp, all, NULL);
    }
}

static void test_nccl_clients_in_threads(void)
{
    nccl_world_run(WORLD_THREADS, 3, NULL, all, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"in_processes", test_nccl_clients_in_processes},
        {"in_threads", test_nccl_clients_in_threads},
    };
    return suite_run("nccl_clients", tests, sizeof tests / sizeof *tests, argc, argv);
}
