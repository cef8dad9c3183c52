/* cuda_kernels.h: the library's kernels for GPUs (mem_cuda_reduce.cu), compiled for the CPU over
 * cuda_on_cpu.h, by the names that a driver is asked for. */
#ifndef TESTS_CUDA_KERNELS_H
#define TESTS_CUDA_KERNELS_H

#include <stddef.h>

#include "mem/mem_cuda_work.h"
#include "tutti/types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_kernel_kind { KERNEL_REDUCE, KERNEL_SCALE, KERNEL_DIVIDE, KERNEL_COPY };

struct cuda_kernel {
    const char *name;
    void (*run)(struct cuda_work work); /* as the thread that the calling one stands for */
    enum cuda_kernel_kind kind;
    tutti_op op; /* of KERNEL_REDUCE */
    tutti_dtype dtype;
};

/* All of them, then one without a name. */
extern const struct cuda_kernel cuda_kernels[];
/* NULL: there is none. */
const struct cuda_kernel *cuda_kernel_find(const char *name);

/* Plays block `block` of `blocks`, of one thread, in the calling thread. Blocks of a launch may be
 * played in any order, and by several threads at once. */
void cuda_kernel_play_block(const struct cuda_kernel *kernel, const struct cuda_work *work,
                            unsigned block, unsigned blocks);
/* Plays a launch: its blocks one after the other, the threads of each at once. */
void cuda_kernel_play(const struct cuda_kernel *kernel, const struct cuda_work *work,
                      unsigned blocks, unsigned threads);

#ifdef __cplusplus
}
#endif

#endif
