/* gpu.h: the driver as a program under test uses it: the real one, or the stand-in
 * (cuda_standin.h).
 *
 * The library finds the driver by its setting; this side finds the same file, so that both talk to
 * one driver, as a program built on CUDA and the library in it do. */
#ifndef TESTS_GPU_H
#define TESTS_GPU_H

#include <stdbool.h>

#include "mem/mem_cuda_driver.h"

/* What programs call besides what the library calls. X(member, symbol, parameters) */
#define GPU_FUNCTIONS(X)                                                                           \
    X(driver_version, cuDriverGetVersion, (int *version))                                          \
    X(context_create, cuCtxCreate_v2, (cuda_context * context, unsigned flags, int device))        \
    X(context_set, cuCtxSetCurrent, (cuda_context context))                                        \
    X(context_synchronize, cuCtxSynchronize, (void))                                               \
    X(range, cuMemGetAddressRange_v2, (cuda_address * base, size_t * bytes, cuda_address memory))  \
    X(host_alloc, cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags))                   \
    X(host_free, cuMemFreeHost, (void *memory))                                                    \
    X(host_unregister, cuMemHostUnregister, (void *memory))                                        \
    X(pool_alloc, cuMemAllocAsync, (cuda_address * memory, size_t bytes, cuda_stream stream))      \
    X(pool_free, cuMemFreeAsync, (cuda_address memory, cuda_stream stream))                        \
    X(upload, cuMemcpyHtoD_v2, (cuda_address dst, const void *src, size_t bytes))                  \
    X(download, cuMemcpyDtoH_v2, (void *dst, cuda_address src, size_t bytes))                      \
    X(fill_now, cuMemsetD8_v2, (cuda_address dst, unsigned char value, size_t count))              \
    X(stream_make, cuStreamCreate, (cuda_stream * stream, unsigned flags))                         \
    X(stream_destroy, cuStreamDestroy_v2, (cuda_stream stream))                                    \
    X(stream_synchronize, cuStreamSynchronize, (cuda_stream stream))                               \
    X(stream_capturing, cuStreamIsCapturing, (cuda_stream stream, int *status))                    \
    X(capture_begin, cuStreamBeginCapture_v2, (cuda_stream stream, int mode))                      \
    X(capture_end, cuStreamEndCapture, (cuda_stream stream, cuda_graph * graph))                   \
    X(event_destroy, cuEventDestroy_v2, (cuda_event event))                                        \
    X(event_synchronize, cuEventSynchronize, (cuda_event event))                                   \
    X(event_elapsed, cuEventElapsedTime, (float *ms, cuda_event from, cuda_event to))              \
    X(graph_instantiate, cuGraphInstantiateWithFlags,                                              \
      (void **executable, cuda_graph graph, unsigned long long flags))                             \
    X(graph_launch, cuGraphLaunch, (void *executable, cuda_stream stream))                         \
    X(graph_destroy, cuGraphDestroy, (cuda_graph graph))                                           \
    X(graph_exec_destroy, cuGraphExecDestroy, (void *executable))

/* NULL members where the driver has them not. */
#define GPU_RARE_FUNCTIONS(X)                                                                      \
    X(batch_words, cuStreamBatchMemOp_v2,                                                          \
      (cuda_stream stream, unsigned count, struct gpu_word_op *ops, unsigned flags))               \
    X(resource_of, cuDeviceGetDevResource, (int device, struct gpu_resource *resource, int type))  \
    X(resource_split, cuDevSmResourceSplitByCount,                                                 \
      (struct gpu_resource * parts, unsigned *count, const struct gpu_resource *whole,             \
       struct gpu_resource *rest, unsigned flags, unsigned least))                                 \
    X(resource_name, cuDevResourceGenerateDesc,                                                    \
      (void **name, struct gpu_resource *resources, unsigned count))                               \
    X(green_create, cuGreenCtxCreate, (void **green, void *name, int device, unsigned flags))      \
    X(green_context, cuCtxFromGreenCtx, (cuda_context * context, void *green))                     \
    X(green_stream, cuGreenCtxStreamCreate,                                                        \
      (cuda_stream * stream, void *green, unsigned flags, int priority))

/* One of a batch, in 48 bytes. */
struct gpu_word_op {
    enum { GPU_AWAITS_WORD = 1, GPU_WRITES_WORD = 2 } operation;
    cuda_address address;
    uint64_t value; /* 32 bits count */
    unsigned flags; /* CUDA_WAIT_REACHED, CUDA_WRITE_ORDERED */
    cuda_address alias, unused;
};

/* Part of a GPU, in 144 bytes. */
struct gpu_resource {
    enum { GPU_MULTIPROCESSORS = 1 } type;
    unsigned char unused[92];
    unsigned multiprocessors, others[11];
};
#define GPU_GREEN_DEFAULT_STREAM 1 /* flag of green_create */

/* Controls of the stand-in; NULL members with the real driver. */
#define STANDIN_CONTROLS(X)                                                                        \
    /* From now on every call in the context answers that the device failed. */                    \
    X(fail_context, standin_fail_context, (cuda_context context))                                  \
    /* Blocks of memory given back to the driver, and modules loaded, since the start. */          \
    X(count_blocking, standin_count_blocking, (unsigned *count))                                   \
    /* Of what is captured from now on, the piece of that number is refused, once; 0: none. */     \
    X(refuse_captured, standin_refuse_captured, (unsigned number))                                 \
    /* Of the copies and launches from now on the one of that number is refused, once; 0: none. */ \
    X(refuse_work, standin_refuse_work, (unsigned number))                                         \
    /* Virtual memory that adapters may reach, the beginning of what is reserved for it. */        \
    X(alloc_virtual, standin_alloc_virtual, (cuda_address * memory, size_t bytes))                 \
    /* Launches since the start. */                                                                \
    X(count_launches, standin_count_launches, (unsigned *count))                                   \
    /* Flushes of what adapters wrote. */                                                          \
    X(count_flushes, standin_count_flushes, (unsigned *count))                                     \
    /* Bytes that are allocated now: of all GPUs, and pinned. */                                   \
    X(count_memory, standin_count_memory, (size_t * device, size_t * pinned))                      \
    /* Bytes of other processes that are mapped now, and so are not free although their owners     \
     * free them. */                                                                               \
    X(count_imported, standin_count_imported, (size_t * bytes))

struct gpu {
#define X(member, symbol, parameters, need) cuda_result(*member) parameters;
    CUDA_FUNCTIONS(X)
#undef X
#define X(member, symbol, parameters) cuda_result(*member) parameters;
    GPU_FUNCTIONS(X)
    GPU_RARE_FUNCTIONS(X)
    STANDIN_CONTROLS(X)
#undef X
    bool standin;
};

/* Names the driver to the library (TUTTI_CUDA_DRIVER: the stand-in of this build, unless
 * TUTTI_TEST_CUDA_DRIVER names another file), loads it, and makes a context of the first GPU
 * current. NULL, with the reason printed as a skip, where that driver has no GPU. */
const struct gpu *gpu_open(void);
/* The same, but only names it: for programs whose library is to load the driver itself. */
void gpu_name_driver(void);

#endif
