/* mem_cuda_reduce.cu: dst[i] = a[i] op b[i] on a GPU, for every operation and type.
 *
 * The idea: the arithmetic is the CPU's (reduce_one.h, and for small floats its way by float16);
 * what is written here is how memory is read.
 * Threads move vectors of 16 bytes, which lie next to each other within a warp, several in flight
 * per thread, in strides of the grid. The destination is aligned by doing its first elements
 * one by one; a source that then lies otherwise is read as aligned words and shifted into place.
 * The words at both ends of such a vector hold bytes that are not its own, but at least one that
 * is, so no page is touched that was not named. Only elements that do not lie at multiples of their
 * own size are read byte by byte.
 *
 * Invariant: dst may be a or b exactly; a thread reads a vector of both before it writes it, and
 * nothing that another thread writes is used.
 *
 * Flags matter: no fused multiply-add, no flushing of denormals, exact division (nvcc defaults but
 * for -fmad=false). */
#include <stddef.h>
#include <stdint.h>

#define SMALL_INLINE static __device__ __forceinline__ __attribute__((unused))
#include "mem/mem_cuda_work.h"
#include "mem/reduce_one.h"
#include "tutti/types.h"

/* Vectors in flight per thread and source: enough for the memory's bandwidth, and few where each
 * holds many elements whose arithmetic is long. The more, the more registers: with 4 vectors of
 * each of two sources a multiprocessor has room for two blocks, with 3 for three, with 2 for four.
 */
#ifndef FLIGHT_LONG
#define FLIGHT_LONG 4
#endif
#ifndef FLIGHT_SHORT
#define FLIGHT_SHORT 2
#endif
#define FLIGHT(type) (sizeof(type) >= 4 ? FLIGHT_LONG : FLIGHT_SHORT)

/* Blocks that a multiprocessor must have room for, at the cost of registers; undefined: the
 * compiler's choice. */
#ifdef KERNEL_BLOCKS
#define KERNEL_BOUNDS CUDA_THREADS, KERNEL_BLOCKS
#else
#define KERNEL_BOUNDS CUDA_THREADS
#endif

/* What a vector is: words to move, elements to compute with. */
template <typename T> union vector {
    uint4 words;
    uint32_t word[4];
    T element[CUDA_VECTOR / sizeof(T)];
};

/* ---- reading and writing -------------------------------------------------------------------- */

/* An element at any address. */
template <typename T> static __device__ __forceinline__ T load_one(const T *from)
{
    if ((uintptr_t)from % sizeof(T) == 0)
        return *from;
    T value;
    unsigned char bytes[sizeof(T)];
    for (size_t i = 0; i < sizeof(T); i++)
        bytes[i] = ((const unsigned char *)from)[i];
    memcpy(&value, bytes, sizeof value);
    return value;
}

template <typename T> static __device__ __forceinline__ void store_one(T *to, T value)
{
    if ((uintptr_t)to % sizeof(T) == 0) {
        *to = value;
        return;
    }
    unsigned char bytes[sizeof(T)];
    memcpy(bytes, &value, sizeof value);
    for (size_t i = 0; i < sizeof(T); i++)
        ((unsigned char *)to)[i] = bytes[i];
}

/* Of what reads whole words and uses some of their bytes: others may write the rest meanwhile. */
#ifndef READS_BESIDE
#define READS_BESIDE __forceinline__
#endif

/* 16 bytes that begin `shift` bits into the first of five aligned words. */
static __device__ READS_BESIDE uint4 load_shifted(const uint32_t *from, unsigned shift)
{
    uint32_t w0 = from[0], w1 = from[1], w2 = from[2], w3 = from[3], w4 = shift ? from[4] : 0;
    return make_uint4(__funnelshift_r(w0, w1, shift), __funnelshift_r(w1, w2, shift),
                      __funnelshift_r(w2, w3, shift), __funnelshift_r(w3, w4, shift));
}

/* Where vectors begin that are not aligned: so many bits beyond a word. */
struct shifted {
    const uint32_t *words;
    unsigned shift;
};

static __device__ __forceinline__ struct shifted shifted_at(const void *pointer)
{
    uintptr_t at = (uintptr_t)pointer;
    struct shifted source = {(const uint32_t *)(at / 4 * 4), (unsigned)(at % 4 * 8)};
    return source;
}

static __device__ __forceinline__ bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % CUDA_VECTOR == 0;
}

/* ---- the loop ------------------------------------------------------------------------------- */

template <typename T, typename F>
static __device__ __forceinline__ union vector<T> combine(union vector<T> x, union vector<T> y,
                                                          F two)
{
#pragma unroll
    for (size_t i = 0; i < CUDA_VECTOR / sizeof(T); i++)
        x.element[i] = two(x.element[i], y.element[i]);
    return x;
}

/* count vectors, all aligned. */
template <typename T, bool ONE_SOURCE, typename F>
static __device__ __forceinline__ void apply_aligned(uint4 *dst, const uint4 *a, const uint4 *b,
                                                     size_t count, size_t thread, size_t threads,
                                                     F two)
{
    const int flight = FLIGHT(T);
    for (size_t first = thread; first < count; first += flight * threads) {
        union vector<T> x[flight], y[flight];
#pragma unroll
        for (int u = 0; u < flight; u++) {
            size_t at = first + u * threads;
            if (at < count) {
                x[u].words = a[at];
                y[u].words = ONE_SOURCE ? x[u].words : b[at];
            }
        }
#pragma unroll
        for (int u = 0; u < flight; u++) {
            size_t at = first + u * threads;
            if (at < count)
                dst[at] = combine(x[u], y[u], two).words;
        }
    }
}

/* count vectors, of which only dst's are aligned. */
template <typename T, bool ONE_SOURCE, typename F>
static __device__ __forceinline__ void apply_shifted(uint4 *dst, const void *a, const void *b,
                                                     size_t count, size_t thread, size_t threads,
                                                     F two)
{
    struct shifted from_a = shifted_at(a), from_b = shifted_at(b);
#pragma unroll 1
    for (size_t at = thread; at < count; at += threads) {
        union vector<T> x, y;
        x.words = load_shifted(from_a.words + 4 * at, from_a.shift);
        y.words = ONE_SOURCE ? x.words : load_shifted(from_b.words + 4 * at, from_b.shift);
        dst[at] = combine(x, y, two).words;
    }
}

/* Reads what a slot says, once per block. It lies in host memory, so its words are read by as many
 * threads next to each other: one read of 32 bytes over the bus and not four. */
static __device__ __forceinline__ void fetch(struct cuda_work &work)
{
    __shared__ union cuda_told told;
    const volatile uint64_t *from = (const volatile uint64_t *)work.slot;
    for (unsigned i = threadIdx.x; i < sizeof told / sizeof *from; i += blockDim.x)
        told.word[i] = from[i];
    __syncthreads();
    work.dst = told.slot.dst;
    work.a = told.slot.a;
    work.b = told.slot.b;
    work.count = told.slot.count;
}

/* Whether this launch does the work. Every block of it comes to the same answer: the claim only
 * grows, and not beyond this launch's number while blocks of it work. */
static __device__ __forceinline__ bool begin(const struct cuda_work &work)
{
    __shared__ bool ours;
    if (!work.claim || work.attempt == 0)
        return true;
    if (threadIdx.x == 0) {
        unsigned long long *attempt = (unsigned long long *)&work.claim->attempt;
        unsigned long long seen = atomicAdd(attempt, 0ull);
        while (seen < work.first) {
            unsigned long long before = atomicCAS(attempt, seen, (unsigned long long)work.attempt);
            if (before == seen)
                *(volatile uint32_t *)work.begun = (uint32_t)work.attempt;
            seen = before == seen ? work.attempt : before;
        }
        ours = seen == work.attempt;
    }
    __syncthreads();
    return ours;
}

/* The last block tells the CPU, by a word of its own: one that the stream writes behind the kernel
 * could be held up by a stream that began to wait in between. A block that is alone is the last. */
static __device__ __forceinline__ void end(const struct cuda_work &work)
{
    if (!work.done)
        return;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    __threadfence_system(); /* for the block: what its threads wrote before they met is older */
    if (gridDim.x > 1) {
        if (atomicInc(&work.claim->blocks, gridDim.x - 1) < gridDim.x - 1)
            return;
        __threadfence_system();
    }
    *(volatile uint32_t *)work.done = work.ticket;
}

/* dst[i] = two(a[i], b[i]) for every element; with ONE_SOURCE b is not read. */
template <typename T, bool ONE_SOURCE, typename F>
static __device__ __forceinline__ void compute(const struct cuda_work &work, F two)
{
    T *dst = (T *)work.dst;
    const T *a = (const T *)work.a, *b = (const T *)(ONE_SOURCE ? work.a : work.b);
    const size_t lanes = CUDA_VECTOR / sizeof(T);
    size_t count = work.count, thread = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    size_t threads = (size_t)gridDim.x * blockDim.x;
    size_t head = count, vectors = 0;
    if ((uintptr_t)dst % sizeof(T) == 0) {
        head = (CUDA_VECTOR - (uintptr_t)dst % CUDA_VECTOR) % CUDA_VECTOR / sizeof(T);
        head = head < count ? head : count;
        vectors = (count - head) / lanes;
    }
    size_t tail = head + vectors * lanes;
    /* What lies before and after the vectors, one by one. */
#pragma unroll 1
    for (size_t i = thread; i < head + (count - tail); i += threads) {
        size_t at = i < head ? i : tail + (i - head);
        T x = load_one(a + at), y = ONE_SOURCE ? x : load_one(b + at);
        store_one(dst + at, two(x, y));
    }
    uint4 *to = (uint4 *)(dst + head);
    if (is_aligned(a + head) && is_aligned(b + head))
        apply_aligned<T, ONE_SOURCE>(to, (const uint4 *)(a + head), (const uint4 *)(b + head),
                                     vectors, thread, threads, two);
    else
        apply_shifted<T, ONE_SOURCE>(to, a + head, b + head, vectors, thread, threads, two);
}

/* The whole of a kernel; without a second source where there should be one it copies. */
template <typename T, bool ONE_SOURCE, typename F>
static __device__ __forceinline__ void apply(struct cuda_work work, F two)
{
    if (!begin(work))
        return;
    if (work.slot)
        fetch(work);
    if (ONE_SOURCE || work.b)
        compute<T, ONE_SOURCE>(work, two);
    else
        compute<T, true>(work, [](T x, T) { return x; });
    end(work);
}

/* ---- every operation and type of the lists -------------------------------------------------- */

#define X(NAME, name, bytes, class) ONES_##class(name, bytes)
TUTTI_DTYPE_LIST(X)
#undef X

/* Conversions that the hardware has; NaNs lose their payload. Another compiler's source brings its
 * own. */
#if defined(__CUDACC__)
static __device__ __forceinline__ float float_of_half(uint16_t half)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

static __device__ __forceinline__ uint16_t half_of_float(float value)
{
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
#endif

/* The function `make` of the float that x and y, floats by `view`, give. */
#define BY_HALF(op, name, view, make, expression)                                                  \
    SMALL_INLINE name##_element op##_half_##name(name##_element a, name##_element b)               \
    {                                                                                              \
        float x = float_of_half(view(a)), y = float_of_half(view(b));                              \
        return make(half_of_float(expression));                                                    \
    }

BY_HALF(sum, float16, , , x + y)
BY_HALF(prod, float16, , , x *y)
BY_HALF(sum, float8_e5m2, float8_e5m2_to_half, float8_e5m2_of_half, x + y)
BY_HALF(prod, float8_e5m2, float8_e5m2_to_half, float8_e5m2_of_half, x *y)
BY_HALF(sum, float8_e4m3, float8_e4m3_to_half, float8_e4m3_of_half, x + y)
BY_HALF(prod, float8_e4m3, float8_e4m3_to_half, float8_e4m3_of_half, x *y *E4M3_SCALE)

SMALL_INLINE uint16_t quotient_half_float16(uint16_t x, float n)
{
    return half_of_float(float_of_half(x) / n);
}

#define KERNEL extern "C" __global__ void __launch_bounds__(KERNEL_BOUNDS)

#define REDUCE_BY(op, name, function)                                                              \
    KERNEL tutti_##op##_##name(struct cuda_work work)                                              \
    {                                                                                              \
        apply<name##_element, false>(                                                              \
            work, [](name##_element x, name##_element y) { return function(x, y); });              \
    }
#define REDUCE(op, name) REDUCE_BY(op, name, op##_one_##name)

#define SCALE_AND_DIVIDE_BY(name, prod, quotient)                                                  \
    KERNEL tutti_scale_##name(struct cuda_work work)                                               \
    {                                                                                              \
        name##_element scalar;                                                                     \
        memcpy(&scalar, &work.scalar, sizeof scalar);                                              \
        apply<name##_element, true>(work, [scalar](name##_element x, name##_element) {             \
            return prod##_##name(x, scalar);                                                       \
        });                                                                                        \
    }                                                                                              \
    KERNEL tutti_divide_##name(struct cuda_work work)                                              \
    {                                                                                              \
        name##_divisor n = (name##_divisor)work.ranks;                                             \
        apply<name##_element, true>(                                                               \
            work, [n](name##_element x, name##_element) { return quotient##_##name(x, n); });      \
    }

#define ARITHMETIC(name)                                                                           \
    REDUCE(sum, name)                                                                              \
    REDUCE(prod, name)                                                                             \
    SCALE_AND_DIVIDE_BY(name, prod_one, quotient)
#define ARITHMETIC_HALF(name, quotient)                                                            \
    REDUCE_BY(sum, name, sum_half_##name)                                                          \
    REDUCE_BY(prod, name, prod_half_##name)                                                        \
    SCALE_AND_DIVIDE_BY(name, prod_half, quotient)

#define ARITHMETIC_float16     ARITHMETIC_HALF(float16, quotient_half)
#define ARITHMETIC_float8_e4m3 ARITHMETIC_HALF(float8_e4m3, quotient)
#define ARITHMETIC_float8_e5m2 ARITHMETIC_HALF(float8_e5m2, quotient)
#define ARITHMETIC_bfloat16    ARITHMETIC(bfloat16)
#define ARITHMETIC_float32     ARITHMETIC(float32)
#define ARITHMETIC_float64     ARITHMETIC(float64)

#define KERNELS_FLOAT(name)                                                                        \
    ARITHMETIC_##name                                                                              \
    REDUCE(min, name)                                                                              \
    REDUCE(max, name)
#define KERNELS_INT(name)                                                                          \
    ARITHMETIC(name)                                                                               \
    REDUCE(min, name)                                                                              \
    REDUCE(max, name)                                                                              \
    REDUCE(band, name)                                                                             \
    REDUCE(bor, name)                                                                              \
    REDUCE(bxor, name)
#define KERNELS_UINT(name) KERNELS_INT(name)

#define X(NAME, name, bytes, class) KERNELS_##class(name)
TUTTI_DTYPE_LIST(X)
#undef X

KERNEL tutti_copy_uint8(struct cuda_work work)
{
    apply<unsigned char, true>(work, [](unsigned char x, unsigned char) { return x; });
}
