/* reduce_set.h: one set of kernels per CPU variant; reduce.c chooses one, the tests try them all.
 * reduce_kernels.c is compiled once for each line of the list, with the flags that meson.build
 * gives to that name; the best variant stands first. */
#ifndef MEM_REDUCE_SET_H
#define MEM_REDUCE_SET_H

#include "mem/reduce.h"

/* X(name, whether this CPU can run it) */
#if defined(__x86_64__)
#define REDUCE_VARIANTS(X)                                                                         \
    X(avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&           \
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&      \
                  __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                 \
    X(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && reduce_has_f16c())  \
    X(baseline, true)
#else
#define REDUCE_VARIANTS(X) X(baseline, true)
#endif

typedef void reduce_divide_fn(void *dst, uint32_t ranks, size_t count);

struct reduce_set {
    const char *name;
    reduce_kernel_fn *kernels[TUTTI_DTYPE_COUNT][TUTTI_OP_COUNT]; /* NULL: does not fit */
    reduce_divide_fn *divide[TUTTI_DTYPE_COUNT];
};

#define X(name, usable) extern const struct reduce_set reduce_set_##name;
REDUCE_VARIANTS(X)
#undef X

/* The index-th set that this CPU can run, best first; NULL beyond the last. */
const struct reduce_set *reduce_set_usable(size_t index);

#endif
