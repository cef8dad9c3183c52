/* mem_cuda_work.h: what a queue tells a kernel; included by C and by the kernels' source.
 * A kernel's only parameter is one struct cuda_work; kernels are named CUDA_KERNEL_NAME. */
#ifndef MEM_MEM_CUDA_WORK_H
#define MEM_MEM_CUDA_WORK_H

#include <stdint.h>

/* Which of several launches of one piece of work does it: the first whose blocks come. In device
 * memory. Launches have numbers, and one takes its piece unless the number here is that of another
 * launch of the piece or of a later one (mem_cuda_lane.c). */
struct cuda_claim {
    uint64_t attempt; /* that took a piece last */
    uint32_t blocks;  /* of it that are done */
    uint32_t unused;
};

/* What a launch is told only when its stream comes to it, in pinned memory (mem_cuda_slot.c). */
struct cuda_slot {
    void *dst;
    const void *a, *b;
    uint64_t count; /* 0: nothing is to be done */
};

/* The same as it is read, a word by each of some threads. */
union cuda_told {
    struct cuda_slot slot;
    uint64_t word[sizeof(struct cuda_slot) / sizeof(uint64_t)];
};

/* dst[i] = a[i] op b[i], or a[i] where b is NULL; dst[i] = a[i] * scalar; dst[i] = a[i] / ranks. */
struct cuda_work {
    void *dst;
    const void *a;
    const void *b;
    uint64_t count;  /* elements */
    uint64_t scalar; /* the element in its lowest bytes */
    uint32_t ranks;
    uint32_t ticket;              /* written to *done after all else is visible */
    const struct cuda_slot *slot; /* has dst, a, b and count; NULL: they are here */
    struct cuda_claim *claim;     /* NULL: of one block, or tells nobody */
    uint64_t attempt;       /* its number, whose lower half is written to *begun; 0: the only one */
    uint64_t first;         /* attempt at the piece: it takes lower claims only */
    uint32_t *begun, *done; /* as the device sees them; done NULL: the launch tells nobody */
};

/* Then operation, "scale", "divide" or "copy", "_", and type. */
#define CUDA_KERNEL_PREFIX "tutti_"

#ifndef CUDA_THREADS
#define CUDA_THREADS 512 /* of a block; four of them fill a multiprocessor if registers suffice */
#endif
#define CUDA_VECTOR 16 /* bytes that a thread moves at once */

#endif
