/* nccl.c: an NCCL program without a GPU: four ranks of one process, driven by one thread, on host
 * memory. The stream is NULL: each call, or group of calls, is done when it returns.
 *
 *     nccl=$(pkg-config --variable=nccldir tutti)
 *     cc nccl.c -I $(pkg-config --variable=ncclincludedir tutti) -L $nccl -lnccl -o nccl
 *     LD_LIBRARY_PATH=$nccl ./nccl */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>

#define RANKS 4
#define COUNT 1000

static void check(ncclResult_t result)
{
    if (result == ncclSuccess)
        return;
    fprintf(stderr, "%s: %s\n", ncclGetErrorString(result), ncclGetLastError(NULL));
    exit(1);
}

int main(void)
{
    ncclComm_t comms[RANKS];
    static float mine[RANKS][COUNT], sums[RANKS][COUNT];
    int wrong = 0;

    check(ncclCommInitAll(comms, RANKS, NULL));
    for (int r = 0; r < RANKS; r++) {
        for (int i = 0; i < COUNT; i++)
            mine[r][i] = (float)(r * i);
    }
    check(ncclGroupStart());
    for (int r = 0; r < RANKS; r++)
        check(ncclAllReduce(mine[r], sums[r], COUNT, ncclFloat, ncclSum, comms[r], NULL));
    check(ncclGroupEnd());
    for (int r = 0; r < RANKS; r++) {
        for (int i = 0; i < COUNT; i++)
            wrong += sums[r][i] != (float)(RANKS * (RANKS - 1) / 2 * i);
        check(ncclCommDestroy(comms[r]));
    }
    printf("%d ranks, %d wrong\n", RANKS, wrong);
    return wrong != 0;
}
