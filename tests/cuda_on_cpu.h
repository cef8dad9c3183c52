/* cuda_on_cpu.h: a stand-in for what nvcc has built in, so that a C++ compiler for the CPU compiles
 * the library's kernels (mem_cuda_reduce.cu), included behind this, and tests run them as they are
 * written. It is not an emulator: only what that file uses is here.
 *
 *   threads      of a block are threads, or the caller where there is one; the warp is no unit
 *   __shared__   a variable of a block is found through its struct cuda_block, where it has a line:
 *                without one the linker misses it
 *   atomics      relaxed, as the GPU's are: what orders memory is a fence
 *   volatile     stays what it is. For the thread sanitizer, which takes a volatile word for any
 *                other, it is a word that the CPU may watch; what came before is seen with it
 *                (--param=tsan-distinguish-volatile)
 *   fences       the thread sanitizer knows none. There they are turns at one word, and thus order
 *                more than real ones do: each after all before it */
#ifndef TESTS_CUDA_ON_CPU_H
#define TESTS_CUDA_ON_CPU_H

#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mem/mem_cuda_work.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
/* The thread sanitizer would take what is not used for a race. */
#ifdef __SANITIZE_THREAD__
#define READS_BESIDE __attribute__((noinline, no_sanitize("thread")))
#endif

/* ---- where a thread is ----------------------------------------------------------------------- */

struct cuda_index {
    unsigned x;
};

static thread_local struct cuda_index threadIdx, blockIdx, blockDim, gridDim;

/* What the threads of a block share. */
struct cuda_block {
    pthread_barrier_t *barrier; /* NULL: of one thread */
    bool ours;
    union cuda_told told;
};

static thread_local struct cuda_block *cuda_block;

static inline void __syncthreads(void)
{
    if (cuda_block->barrier)
        pthread_barrier_wait(cuda_block->barrier);
}

static inline bool *shared_ours(void)
{
    return &cuda_block->ours;
}

static inline union cuda_told *shared_told(void)
{
    return &cuda_block->told;
}

/* `__shared__ bool ours;` thus declares the function that finds it. */
#define __shared__ extern
#define ours       (*shared_ours())
#define told       (*shared_told())

/* ---- memory ---------------------------------------------------------------------------------- */

static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

static inline unsigned atomicAdd(unsigned *at, unsigned value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

/* Counts to `limit`, then begins at 0 again. */
static inline unsigned atomicInc(unsigned *at, unsigned limit)
{
    unsigned before = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(at, &before, before >= limit ? 0 : before + 1, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return before;
}

/* Every other time someone else may come first. */
static inline unsigned long long atomicCAS(unsigned long long *at, unsigned long long expected,
                                           unsigned long long value)
{
    static thread_local unsigned times;
    if (times++ % 2 == 0)
        sched_yield();
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_release(void *at);
extern "C" void __tsan_volatile_write4(void *at);

void __tsan_volatile_write4(void *at)
{
    __tsan_release(at);
}

extern "C" void __tsan_read8(void *at);
extern "C" void __tsan_volatile_read8(void *at);

void __tsan_volatile_read8(void *at)
{
    __tsan_read8(at);
}

static inline void __threadfence_system(void)
{
    static unsigned turns;
    __atomic_fetch_add(&turns, 1u, __ATOMIC_ACQ_REL);
}
#else
static inline void __threadfence_system(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif

/* ---- arithmetic ------------------------------------------------------------------------------ */

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}

/* The low word of (high, low) >> shift, which counts modulo 32. */
static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, unsigned shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}

/* The kernels' source has these for nvcc alone. Defined where that source has been included. */
static inline float float_of_half(uint16_t half);
static inline uint16_t half_of_float(float value);

#endif
