/* overlap.c: computing while an allreduce is under way, as a training step does with gradients.
 * Run it under any launcher, or alone.
 *
 * The layers' gradients become ready one after another. Each is handed over with a started
 * allreduce as soon as it is there; while the next one is computed, tutti_test lets the library
 * advance; the waits at the end find most of the work done. The gradients lie in memory from
 * tutti_mem_alloc, which peers of the same host read in place. */
#include <stdio.h>
#include <tutti/tutti.h>

enum { LAYERS = 8, COUNT = 65536, PIECE = 4096 };

/* Stands for the backward pass of one layer. Between pieces the library gets a turn. */
static tutti_status compute(float *gradient, int layer, int rank, tutti_request **pending)
{
    int done = 0;
    for (int i = 0; i < COUNT; i++) {
        gradient[i] = (float)(layer + rank + i % 7);
        if (i % PIECE == 0 && pending && *pending) {
            tutti_status status = tutti_test(pending, &done); /* sets *pending to NULL when done */
            if (status != TUTTI_OK)
                return status;
        }
    }
    return TUTTI_OK;
}

static tutti_status train_step(float *gradients, int rank, tutti_comm *comm)
{
    tutti_request *requests[LAYERS] = {NULL};
    for (int layer = LAYERS - 1; layer >= 0; layer--) {
        float *gradient = gradients + (size_t)layer * COUNT;
        tutti_request **pending = layer + 1 < LAYERS ? &requests[layer + 1] : NULL;
        tutti_status status = compute(gradient, layer, rank, pending);
        if (status == TUTTI_OK)
            status = tutti_allreduce_start(gradient, gradient, COUNT, TUTTI_FLOAT32, TUTTI_SUM,
                                           comm, &requests[layer]);
        if (status != TUTTI_OK)
            return status;
    }
    return tutti_wait_all(LAYERS, requests);
}

static int count_wrong(const float *gradients, int size)
{
    int wrong = 0;
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int i = 0; i < COUNT; i++) {
            float expected = (float)(size * (layer + i % 7) + size * (size - 1) / 2);
            wrong += gradients[(size_t)layer * COUNT + (size_t)i] != expected;
        }
    }
    return wrong;
}

int main(void)
{
    tutti_comm *comm;
    void *memory;
    int rank = 0, size = 1, wrong;
    if (tutti_comm_create_from_env(&comm) != TUTTI_OK ||
        tutti_mem_alloc(sizeof(float) * LAYERS * COUNT, &memory) != TUTTI_OK)
        goto failed;
    tutti_comm_rank(comm, &rank);
    tutti_comm_size(comm, &size);
    for (int step = 0; step < 3; step++) {
        if (train_step(memory, rank, comm) != TUTTI_OK)
            goto failed;
    }
    wrong = count_wrong(memory, size);
    if (tutti_comm_finalize(comm) != TUTTI_OK)
        goto failed;
    tutti_comm_destroy(comm);
    tutti_mem_free(memory);
    if (rank == 0)
        printf("%d ranks, %d layers, %d wrong\n", size, LAYERS, wrong);
    return wrong != 0;
failed:
    fprintf(stderr, "%s\n", tutti_last_error());
    return 1;
}
