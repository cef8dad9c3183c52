/* cuda_kernels.cpp: the source of the library's kernels, compiled for the CPU, and their launches.
 * What differs from a GPU: cuda_on_cpu.h. */
#include "tests/cuda_on_cpu.h"

#include "mem/mem_cuda_reduce.cu"

#include <stdlib.h>

#include "tests/cuda_kernels.h"

static inline float float_of_half(uint16_t half)
{
    return float16_decode(half);
}

static inline uint16_t half_of_float(float value)
{
    return value != value ? 0x7fff : float16_encode(value);
}

/* ---- by name --------------------------------------------------------------------------------- */

#define ROW(what, KIND, OP, NAME, name)                                                            \
    {CUDA_KERNEL_PREFIX #what "_" #name, tutti_##what##_##name, KERNEL_##KIND, TUTTI_##OP,         \
     TUTTI_##NAME},
#define ROWS_FLOAT(NAME, name)                                                                     \
    ROW(sum, REDUCE, SUM, NAME, name)                                                              \
    ROW(prod, REDUCE, PROD, NAME, name)                                                            \
    ROW(min, REDUCE, MIN, NAME, name)                                                              \
    ROW(max, REDUCE, MAX, NAME, name)                                                              \
    ROW(scale, SCALE, PROD, NAME, name)                                                            \
    ROW(divide, DIVIDE, AVG, NAME, name)
#define ROWS_INT(NAME, name)                                                                       \
    ROWS_FLOAT(NAME, name)                                                                         \
    ROW(band, REDUCE, BAND, NAME, name)                                                            \
    ROW(bor, REDUCE, BOR, NAME, name)                                                              \
    ROW(bxor, REDUCE, BXOR, NAME, name)
#define ROWS_UINT(NAME, name) ROWS_INT(NAME, name)

const struct cuda_kernel cuda_kernels[] = {
#define X(NAME, name, bytes, class) ROWS_##class(NAME, name)
    TUTTI_DTYPE_LIST(X)
#undef X
        ROW(copy, COPY, SUM, UINT8, uint8){NULL, NULL, KERNEL_COPY, TUTTI_SUM, TUTTI_UINT8},
};

const struct cuda_kernel *cuda_kernel_find(const char *name)
{
    const struct cuda_kernel *kernel = cuda_kernels;
    while (kernel->name && strcmp(kernel->name, name) != 0)
        kernel++;
    return kernel->name ? kernel : NULL;
}

/* ---- launches -------------------------------------------------------------------------------- */

void cuda_kernel_play_block(const struct cuda_kernel *kernel, const struct cuda_work *work,
                            unsigned block, unsigned blocks)
{
    struct cuda_block alone = {};
    cuda_block = &alone;
    threadIdx.x = 0;
    blockDim.x = 1;
    blockIdx.x = block;
    gridDim.x = blocks;
    kernel->run(*work);
}

/* The threads of a launch: all of a block, then of the next. */
struct team {
    const struct cuda_kernel *kernel;
    const struct cuda_work *work;
    unsigned blocks, threads;
    struct cuda_block block;
    pthread_barrier_t barrier;
};

struct member {
    struct team *team;
    unsigned index;
    pthread_t thread;
};

static void *play_thread(void *data)
{
    struct member *member = (struct member *)data;
    struct team *team = member->team;
    cuda_block = &team->block;
    threadIdx.x = member->index;
    blockDim.x = team->threads;
    gridDim.x = team->blocks;
    for (unsigned i = 0; i < team->blocks; i++) {
        blockIdx.x = i;
        team->kernel->run(*team->work);
        pthread_barrier_wait(&team->barrier);
    }
    return NULL;
}

void cuda_kernel_play(const struct cuda_kernel *kernel, const struct cuda_work *work,
                      unsigned blocks, unsigned threads)
{
    if (threads == 1) {
        for (unsigned i = 0; i < blocks; i++)
            cuda_kernel_play_block(kernel, work, i, blocks);
        return;
    }
    struct team team = {};
    struct member members[CUDA_THREADS];
    team.kernel = kernel;
    team.work = work;
    team.blocks = blocks;
    team.threads = threads;
    team.block.barrier = &team.barrier;
    if (threads > CUDA_THREADS || pthread_barrier_init(&team.barrier, NULL, threads) != 0)
        abort();
    for (unsigned i = 0; i < threads; i++) {
        members[i].team = &team;
        members[i].index = i;
        if (pthread_create(&members[i].thread, NULL, play_thread, &members[i]) != 0)
            abort();
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(members[i].thread, NULL);
    pthread_barrier_destroy(&team.barrier);
}
