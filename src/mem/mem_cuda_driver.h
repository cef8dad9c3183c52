/* mem_cuda_driver.h: the CUDA driver as this room uses it: its entry points, numbers and types.
 *
 * The driver's library is found while the program runs, so that one build serves machines with and
 * without GPUs, and no header of a toolkit is needed to build. What is declared here are facts of
 * the driver's binary interface, which NVIDIA keeps stable under the versioned names used below;
 * mem_cuda_check.c compares them with the toolkit's header where there is one. */
#ifndef MEM_MEM_CUDA_DRIVER_H
#define MEM_MEM_CUDA_DRIVER_H

#include "base/status.h"

typedef int cuda_result;
typedef void *cuda_context;
typedef void *cuda_stream; /* NULL: the legacy default stream of the current context */
typedef void *cuda_event;
typedef void *cuda_module;
typedef void *cuda_function;
typedef void *cuda_graph;
typedef void *cuda_object;
typedef uint64_t cuda_address;
typedef void cuda_host_fn(void *data);

struct cuda_ipc_handle {
    uint8_t bytes[64];
};

struct cuda_uuid {
    uint8_t bytes[16];
};

/* X(our name, value, the toolkit's name) */
#define CUDA_NUMBERS(X)                                                                            \
    X(DRIVER_OK, 0, CUDA_SUCCESS)                                                                  \
    X(DRIVER_INVALID_VALUE, 1, CUDA_ERROR_INVALID_VALUE)                                           \
    X(DRIVER_OUT_OF_MEMORY, 2, CUDA_ERROR_OUT_OF_MEMORY)                                           \
    X(DRIVER_NOT_INITIALIZED, 3, CUDA_ERROR_NOT_INITIALIZED)                                       \
    X(DRIVER_NO_DEVICE, 100, CUDA_ERROR_NO_DEVICE)                                                 \
    X(DRIVER_INVALID_DEVICE, 101, CUDA_ERROR_INVALID_DEVICE)                                       \
    X(DRIVER_INVALID_CONTEXT, 201, CUDA_ERROR_INVALID_CONTEXT)                                     \
    X(DRIVER_NO_PEER, 217, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)                                     \
    X(DRIVER_INVALID_HANDLE, 400, CUDA_ERROR_INVALID_HANDLE)                                       \
    X(DRIVER_NOT_FOUND, 500, CUDA_ERROR_NOT_FOUND)                                                 \
    X(DRIVER_NOT_READY, 600, CUDA_ERROR_NOT_READY)                                                 \
    X(DRIVER_ILLEGAL_ADDRESS, 700, CUDA_ERROR_ILLEGAL_ADDRESS)                                     \
    X(DRIVER_PEER_OPEN, 704, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)                               \
    X(DRIVER_TOO_MANY_PEERS, 711, CUDA_ERROR_TOO_MANY_PEERS)                                       \
    X(DRIVER_NOT_SUPPORTED, 801, CUDA_ERROR_NOT_SUPPORTED)                                         \
    X(DRIVER_CAPTURE_UNSUPPORTED, 900, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)                      \
    X(DRIVER_CAPTURE_INVALIDATED, 901, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)                      \
    X(DRIVER_CAPTURE_IMPLICIT, 906, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)                            \
    X(POINTER_CONTEXT, 1, CU_POINTER_ATTRIBUTE_CONTEXT)                                            \
    X(POINTER_MEMORY_TYPE, 2, CU_POINTER_ATTRIBUTE_MEMORY_TYPE)                                    \
    X(POINTER_SYNC_MEMOPS, 6, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)                                    \
    X(POINTER_BUFFER_ID, 7, CU_POINTER_ATTRIBUTE_BUFFER_ID)                                        \
    X(POINTER_IS_MANAGED, 8, CU_POINTER_ATTRIBUTE_IS_MANAGED)                                      \
    X(POINTER_ORDINAL, 9, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)                                     \
    X(POINTER_IPC_CAPABLE, 10, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE)                    \
    X(POINTER_RANGE_START, 11, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)                              \
    X(POINTER_RANGE_SIZE, 12, CU_POINTER_ATTRIBUTE_RANGE_SIZE)                                     \
    X(POINTER_NIC_CAPABLE, 15, CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE)                    \
    X(MEMORY_TYPE_HOST, 1, CU_MEMORYTYPE_HOST)                                                     \
    X(MEMORY_TYPE_DEVICE, 2, CU_MEMORYTYPE_DEVICE)                                                 \
    X(DEVICE_MULTIPROCESSORS, 16, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)                        \
    X(DEVICE_HOST_POINTERS, 91, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM)       \
    X(DEVICE_RDMA, 116, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED)                             \
    X(DEVICE_FLUSH, 117, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS)                 \
    X(DEVICE_ORDERING, 118, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING)                   \
    X(DEVICE_DMABUF, 124, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)                                   \
    X(FLUSH_BY_HOST, 1, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST)                               \
    X(FLUSH_CURRENT, 0, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX)                        \
    X(ORDERING_OWNER, 100, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER)                               \
    X(PEER_ATOMICS, 3, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)                            \
    X(FUNCTION_REGISTERS, 4, CU_FUNC_ATTRIBUTE_NUM_REGS)                                           \
    X(REGISTER_PORTABLE, 1, CU_MEMHOSTREGISTER_PORTABLE)                                           \
    X(REGISTER_DEVICEMAP, 2, CU_MEMHOSTREGISTER_DEVICEMAP)                                         \
    X(STREAM_NON_BLOCKING, 1, CU_STREAM_NON_BLOCKING)                                              \
    X(EVENT_NO_TIMING, 2, CU_EVENT_DISABLE_TIMING)                                                 \
    X(WAIT_REACHED, 0, CU_STREAM_WAIT_VALUE_GEQ)                                                   \
    X(WRITE_ORDERED, 0, CU_STREAM_WRITE_VALUE_DEFAULT)                                             \
    X(IPC_PEER_ACCESS, 1, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)                                      \
    X(CAPTURE_NONE, 0, CU_STREAM_CAPTURE_STATUS_NONE)                                              \
    X(CAPTURE_ACTIVE, 1, CU_STREAM_CAPTURE_STATUS_ACTIVE)                                          \
    X(CAPTURE_BROKEN, 2, CU_STREAM_CAPTURE_STATUS_INVALIDATED)                                     \
    X(CAPTURE_MODE_GLOBAL, 0, CU_STREAM_CAPTURE_MODE_GLOBAL)                                       \
    X(CAPTURE_MODE_RELAXED, 2, CU_STREAM_CAPTURE_MODE_RELAXED)                                     \
    X(OBJECT_NO_SYNC, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)                                        \
    X(GRAPH_TAKES_REFERENCE, 1, CU_GRAPH_USER_OBJECT_MOVE)                                         \
    X(RANGE_DMABUF, 1, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD)

enum cuda_number {
#define X(name, value, toolkit) CUDA_##name = value,
    CUDA_NUMBERS(X)
#undef X
};

/* X(member, symbol, parameters, whether a driver without it is refused: MUST or MAY).
 * MUST is what drivers of CUDA 11.4 (2021) have. */
#define CUDA_FUNCTIONS(X)                                                                          \
    X(init, cuInit, (unsigned flags), MUST)                                                        \
    X(error_name, cuGetErrorName, (cuda_result error, const char **text), MUST)                    \
    X(error_text, cuGetErrorString, (cuda_result error, const char **text), MUST)                  \
    X(device_get, cuDeviceGet, (int *device, int ordinal), MUST)                                   \
    X(device_name, cuDeviceGetName, (char *name, int max, int device), MUST)                       \
    X(device_uuid, cuDeviceGetUuid_v2, (struct cuda_uuid * uuid, int device), MUST)                \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, int device), MUST)       \
    X(device_count, cuDeviceGetCount, (int *count), MUST)                                          \
    X(device_peer, cuDeviceCanAccessPeer, (int *can, int device, int peer), MUST)                  \
    X(device_link, cuDeviceGetP2PAttribute, (int *value, int attribute, int device, int peer),     \
      MUST)                                                                                        \
    X(primary_state, cuDevicePrimaryCtxGetState, (int device, unsigned *flags, int *active), MUST) \
    X(primary_retain, cuDevicePrimaryCtxRetain, (cuda_context * context, int device), MUST)        \
    X(primary_release, cuDevicePrimaryCtxRelease_v2, (int device), MUST)                           \
    X(context_current, cuCtxGetCurrent, (cuda_context * context), MUST)                            \
    X(context_push, cuCtxPushCurrent_v2, (cuda_context context), MUST)                             \
    X(context_pop, cuCtxPopCurrent_v2, (cuda_context * context), MUST)                             \
    X(context_device, cuCtxGetDevice, (int *device), MUST)                                         \
    X(context_open, cuCtxEnablePeerAccess, (cuda_context other, unsigned flags), MUST)             \
    X(context_priorities, cuCtxGetStreamPriorityRange, (int *least, int *greatest), MUST)          \
    X(pointer_attributes, cuPointerGetAttributes,                                                  \
      (unsigned count, int *attributes, void **values, cuda_address pointer), MUST)                \
    X(pointer_attribute, cuPointerGetAttribute,                                                    \
      (void *value, int attribute, cuda_address pointer), MUST)                                    \
    X(pointer_set, cuPointerSetAttribute,                                                          \
      (const void *value, int attribute, cuda_address pointer), MUST)                              \
    X(alloc, cuMemAlloc_v2, (cuda_address * memory, size_t bytes), MUST)                           \
    X(free, cuMemFree_v2, (cuda_address memory), MUST)                                             \
    X(host_register, cuMemHostRegister_v2, (void *memory, size_t bytes, unsigned flags), MUST)     \
    X(host_address, cuMemHostGetDevicePointer_v2,                                                  \
      (cuda_address * address, void *memory, unsigned flags), MUST)                                \
    X(copy, cuMemcpyAsync, (cuda_address dst, cuda_address src, size_t bytes, cuda_stream stream), \
      MUST)                                                                                        \
    X(fill, cuMemsetD8Async,                                                                       \
      (cuda_address dst, unsigned char value, size_t count, cuda_stream stream), MUST)             \
    X(fill_word, cuMemsetD32Async,                                                                 \
      (cuda_address dst, unsigned value, size_t count, cuda_stream stream), MUST)                  \
    X(stream_create, cuStreamCreateWithPriority,                                                   \
      (cuda_stream * stream, unsigned flags, int priority), MUST)                                  \
    X(stream_await, cuStreamWaitEvent, (cuda_stream stream, cuda_event event, unsigned flags),     \
      MUST)                                                                                        \
    X(stream_query, cuStreamQuery, (cuda_stream stream), MUST)                                     \
    X(stream_context, cuStreamGetCtx, (cuda_stream stream, cuda_context * context), MUST)          \
    X(stream_capture, cuStreamGetCaptureInfo_v2,                                                   \
      (cuda_stream stream, int *status, uint64_t *id, cuda_graph *graph, const void **after,       \
       size_t *after_count),                                                                       \
      MUST)                                                                                        \
    X(launch, cuLaunchKernel,                                                                      \
      (cuda_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,                  \
       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,                \
       cuda_stream stream, void **parameters, void **extra),                                       \
      MUST)                                                                                        \
    X(host_function, cuLaunchHostFunc, (cuda_stream stream, cuda_host_fn * function, void *data),  \
      MUST)                                                                                        \
    X(event_create, cuEventCreate, (cuda_event * event, unsigned flags), MUST)                     \
    X(event_record, cuEventRecord, (cuda_event event, cuda_stream stream), MUST)                   \
    X(event_query, cuEventQuery, (cuda_event event), MUST)                                         \
    X(module_load, cuModuleLoadData, (cuda_module * module, const void *image), MUST)              \
    X(module_function, cuModuleGetFunction,                                                        \
      (cuda_function * function, cuda_module module, const char *name), MUST)                      \
    X(function_attribute, cuFuncGetAttribute, (int *value, int attribute, cuda_function function), \
      MUST)                                                                                        \
    X(ipc_get, cuIpcGetMemHandle, (struct cuda_ipc_handle * handle, cuda_address memory), MUST)    \
    X(ipc_open, cuIpcOpenMemHandle_v2,                                                             \
      (cuda_address * memory, struct cuda_ipc_handle handle, unsigned flags), MUST)                \
    X(ipc_close, cuIpcCloseMemHandle, (cuda_address memory), MUST)                                 \
    X(capture_mode, cuThreadExchangeStreamCaptureMode, (int *mode), MUST)                          \
    X(object_create, cuUserObjectCreate,                                                           \
      (cuda_object * object, void *data, cuda_host_fn *destroy, unsigned references,               \
       unsigned flags),                                                                            \
      MUST)                                                                                        \
    X(object_release, cuUserObjectRelease, (cuda_object object, unsigned references), MUST)        \
    X(graph_retain, cuGraphRetainUserObject,                                                       \
      (cuda_graph graph, cuda_object object, unsigned references, unsigned flags), MUST)           \
    X(function_load, cuFuncLoad, (cuda_function function), MAY)                                    \
    X(write_word, cuStreamWriteValue32_v2,                                                         \
      (cuda_stream stream, cuda_address address, uint32_t value, unsigned flags), MAY)             \
    X(wait_word, cuStreamWaitValue32_v2,                                                           \
      (cuda_stream stream, cuda_address address, uint32_t value, unsigned flags), MAY)             \
    X(range_handle, cuMemGetHandleForAddressRange,                                                 \
      (void *handle, cuda_address memory, size_t bytes, int type, unsigned long long flags), MAY)  \
    X(nic_flush, cuFlushGPUDirectRDMAWrites, (int target, int scope), MAY)                         \
    X(stream_contexts, cuStreamGetCtx_v2,                                                          \
      (cuda_stream stream, cuda_context * context, void **green), MAY)

struct cuda_driver {
#define X(member, symbol, parameters, need) cuda_result(*member) parameters;
    CUDA_FUNCTIONS(X)
#undef X
    unsigned stream_ops; /* TUTTI_CUDA_STREAM_OPS: index into "auto|memory|host" */
};

/* The driver, when this process has loaded one (see mem_device_present); else NULL. */
const struct cuda_driver *mem_cuda_driver(void);
/* Loads and initialises it if need be. TUTTI_ERR_UNSUPPORTED with the reason. */
tutti_status mem_cuda_driver_open(const struct cuda_driver **driver);
/* Records "<what>: <the driver's words> (<its name>)" and gives the status that fits: no memory,
 * not supported, or TUTTI_ERR_SYSTEM. */
tutti_status mem_cuda_fail(cuda_result result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
