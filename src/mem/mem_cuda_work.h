/* mem_cuda_work.h: what a queue tells a kernel; included by C and by the kernels' source.
 * A kernel's only parameter is one struct cuda_work; kernels are named CUDA_KERNEL_NAME. */
#ifndef MEM_MEM_CUDA_WORK_H
#define MEM_MEM_CUDA_WORK_H

#include <stdint.h>

/* dst[i] = a[i] op b[i]; dst[i] = a[i] * scalar; dst[i] = a[i] / ranks. */
struct cuda_work {
    void *dst;
    const void *a;
    const void *b;
    uint64_t count;  /* elements */
    uint64_t scalar; /* the element in its lowest bytes */
    uint32_t ranks;
};

#define CUDA_KERNEL_PREFIX "tutti_" /* then operation, "scale" or "divide", "_", and type */

#define CUDA_THREADS 512 /* of a block; four of them fill a multiprocessor */
#define CUDA_VECTOR  16  /* bytes that a thread moves at once */

#endif
