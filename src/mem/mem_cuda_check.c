/* mem_cuda_check.c: compares what mem_cuda_driver.h says of the driver with the toolkit's own
 * header, while it is compiled; built where that header is. There is nothing here to run. */
#include <assert.h>
#include <cuda.h>

#include "mem/mem_cuda_driver.h"

#define X(name, value, toolkit) static_assert((long long)(toolkit) == (value), #toolkit);
CUDA_NUMBERS(X)
#undef X

static_assert(sizeof(CUresult) == sizeof(cuda_result), "CUresult");
static_assert(sizeof(CUdevice) == sizeof(int), "CUdevice");
static_assert(sizeof(CUdeviceptr) == sizeof(cuda_address), "CUdeviceptr");
static_assert(sizeof(CUcontext) == sizeof(cuda_context), "CUcontext");
static_assert(sizeof(CUstream) == sizeof(cuda_stream), "CUstream");
static_assert(sizeof(CUevent) == sizeof(cuda_event), "CUevent");
static_assert(sizeof(CUgraph) == sizeof(cuda_graph), "CUgraph");
static_assert(sizeof(CUuserObject) == sizeof(cuda_object), "CUuserObject");
static_assert(sizeof(CUuuid) == sizeof(struct cuda_uuid), "CUuuid");
static_assert(sizeof(CUipcMemHandle) == sizeof(struct cuda_ipc_handle), "CUipcMemHandle");
static_assert(sizeof(CUpointer_attribute) == sizeof(int), "CUpointer_attribute");
static_assert(sizeof(CUstreamCaptureMode) == sizeof(int), "CUstreamCaptureMode");
static_assert(sizeof(CUstreamCaptureStatus) == sizeof(int), "CUstreamCaptureStatus");

/* The functions of the toolkit's current names take what ours do, up to the names of types. */
#define PARAMETERS(function, ...)                                                                  \
    static_assert(sizeof(function(__VA_ARGS__)) == sizeof(cuda_result), #function)
PARAMETERS(cuMemAlloc, (CUdeviceptr *)0, (size_t)0);
PARAMETERS(cuMemHostRegister, (void *)0, (size_t)0, 0u);
PARAMETERS(cuMemcpyAsync, (CUdeviceptr)0, (CUdeviceptr)0, (size_t)0, (CUstream)0);
PARAMETERS(cuStreamWriteValue32, (CUstream)0, (CUdeviceptr)0, (cuuint32_t)0, 0u);
PARAMETERS(cuStreamWaitValue32, (CUstream)0, (CUdeviceptr)0, (cuuint32_t)0, 0u);
PARAMETERS(cuIpcOpenMemHandle, (CUdeviceptr *)0, (CUipcMemHandle){{0}}, 0u);
PARAMETERS(cuPointerGetAttribute, (void *)0, (CUpointer_attribute)0, (CUdeviceptr)0);
PARAMETERS(cuPointerGetAttributes, 0u, (CUpointer_attribute *)0, (void **)0, (CUdeviceptr)0);
PARAMETERS(cuUserObjectCreate, (CUuserObject *)0, (void *)0, (CUhostFn)0, 0u, 0u);
PARAMETERS(cuGraphRetainUserObject, (CUgraph)0, (CUuserObject)0, 0u, 0u);
PARAMETERS(cuMemGetHandleForAddressRange, (void *)0, (CUdeviceptr)0, (size_t)0,
           (CUmemRangeHandleType)0, 0ull);
PARAMETERS(cuFlushGPUDirectRDMAWrites, (CUflushGPUDirectRDMAWritesTarget)0,
           (CUflushGPUDirectRDMAWritesScope)0);
#if CUDA_VERSION >= 12050
PARAMETERS(cuStreamGetCtx_v2, (CUstream)0, (CUcontext *)0, (CUgreenCtx *)0);
#endif
