/* reduce.c: binds a reduction to the kernels of the best CPU variant.
 * The idea: the kernels are compiled several times from one source; which of them may run is a
 * question to the CPU, asked once per binding (a few loads), so there is no state to initialise.
 * Scaling is the product kernel against a block of one repeated element, so that it rounds exactly
 * as a product does. Invariant: every variant gives the same bits, but for the payload of NaNs. */
#include "mem/reduce.h"

#include <string.h>

#include "base/check.h"
#include "mem/mem.h"
#include "mem/reduce_set.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define BLOCK_BYTES 4096 /* a stack block: fits the first-level cache beside two operands */

#if defined(__x86_64__)
/* __builtin_cpu_supports has no name for F16C in every compiler we use. The operating system's
 * part (saving the wide registers) is what its "avx2" has already checked. */
static bool reduce_has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

const struct reduce_set *reduce_set_usable(size_t index)
{
#define X(name, usable)                                                                            \
    if ((usable) && index-- == 0)                                                                  \
        return &reduce_set_##name;
    REDUCE_VARIANTS(X)
#undef X
    return NULL;
}

reduce_kernel_fn *reduce_kernel(tutti_op op, tutti_dtype dtype)
{
    if ((unsigned)op >= TUTTI_OP_COUNT || (unsigned)dtype >= TUTTI_DTYPE_COUNT)
        return NULL;
    return reduce_set_usable(0)->kernels[dtype][op];
}

const char *reduce_variant(void)
{
    return reduce_set_usable(0)->name;
}

/* The user's function overwrites its second operand. Where that operand is not to be overwritten
 * and the destination is already the first operand, the second one is copied aside by blocks. */
static void apply_function(const struct reducer *reducer, void *dst, const void *a, const void *b,
                           size_t bytes)
{
    if (dst != a) {
        if (dst != b)
            mem_copy(dst, b, bytes);
        reducer->function(a, dst, bytes / reducer->elem_size, reducer->dtype, reducer->context);
        return;
    }
    _Alignas(64) unsigned char block[BLOCK_BYTES];
    for (size_t done = 0; done < bytes;) {
        size_t len = bytes - done < sizeof block ? bytes - done : sizeof block;
        memcpy(block, (const char *)b + done, len);
        reducer->function((const char *)a + done, block, len / reducer->elem_size, reducer->dtype,
                          reducer->context);
        memcpy((char *)dst + done, block, len);
        done += len;
    }
}

void reduce_apply(const struct reducer *reducer, void *dst, const void *a, const void *b,
                  size_t bytes)
{
    /* Every element size is a power of two: a shift costs less than the division would. */
    must((bytes & (reducer->elem_size - 1)) == 0);
    if (bytes == 0)
        return;
    if (reducer->kernel)
        reducer->kernel(dst, a, b, bytes >> __builtin_ctz(reducer->elem_size));
    else
        apply_function(reducer, dst, a, b, bytes);
}

void reduce_stream(const struct reducer *reducer, void *dst, const void *a, const void *b,
                   size_t bytes)
{
    _Alignas(64) unsigned char block[BLOCK_BYTES];
    for (size_t done = 0; done < bytes; done += sizeof block) {
        size_t len = bytes - done < sizeof block ? bytes - done : sizeof block;
        reduce_apply(reducer, block, (const char *)a + done, (const char *)b + done, len);
        mem_stream((char *)dst + done, block, len);
    }
}

void reduce_scale(tutti_dtype dtype, void *dst, const void *src, const void *scalar, size_t count)
{
    must((unsigned)dtype < TUTTI_DTYPE_COUNT);
    reduce_kernel_fn *multiply = reduce_kernel(TUTTI_PROD, dtype);
    size_t size = dtype_size(dtype);
    size_t per_block = BLOCK_BYTES / size < count ? BLOCK_BYTES / size : count;
    _Alignas(64) unsigned char block[BLOCK_BYTES];
    for (size_t i = 0; i < per_block; i++)
        memcpy(block + i * size, scalar, size);
    for (size_t done = 0; done < count;) {
        size_t n = count - done < per_block ? count - done : per_block;
        multiply((char *)dst + done * size, (const char *)src + done * size, block, n);
        done += n;
    }
}

void reduce_divide(tutti_dtype dtype, void *dst, uint32_t ranks, size_t count)
{
    must((unsigned)dtype < TUTTI_DTYPE_COUNT);
    must(ranks > 0);
    reduce_set_usable(0)->divide[dtype](dst, ranks, count);
}
