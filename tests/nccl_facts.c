/* nccl_facts.c: every layout, value and signature of NCCL's interface, as facts that hold for our
 * header and, where NVIDIA's own is at hand (-DNVIDIA), for that: tests/suites/nccl_abi.sh compiles
 * it against both. There is nothing to run. */
#ifdef NVIDIA
#include <nccl.h>
#else
#include "src/compat/nccl.h"
#endif

#include <stddef.h>

#define VALUE(name, value) _Static_assert((name) == (value), #name " is not " #value)
#define FIELD(type, field, at, bytes)                                                              \
    _Static_assert(offsetof(type, field) == (at) && sizeof(((type *)0)->field) == (bytes),         \
                   #type "." #field " lies elsewhere")
/* The function and its twin have this type. */
#define CALL(type, name, params)                                                                   \
    _Static_assert(_Generic(&name, type(*) params : 1, default : 0), #name " differs");            \
    _Static_assert(_Generic(&p##name, type(*) params : 1, default : 0), "p" #name " differs")
#define RESULT(name, params) CALL(ncclResult_t, name, params)

VALUE(NCCL_MAJOR, 2);
VALUE(NCCL_MINOR, 28);
VALUE(NCCL_PATCH, 9);
VALUE(sizeof NCCL_SUFFIX, 1);
VALUE(NCCL_VERSION_CODE, 22809);
VALUE(NCCL_VERSION(2, 28, 9), 22809);
VALUE(NCCL_VERSION(2, 8, 4), 2804);
VALUE(NCCL_VERSION(2, 9, 6), 20906);
VALUE(NCCL_UNIQUE_ID_BYTES, 128);
VALUE(sizeof(ncclUniqueId), 128);
VALUE(_Alignof(ncclUniqueId), 1);
VALUE(sizeof(ncclComm_t), sizeof(void *));
VALUE(sizeof(ncclWindow_t), sizeof(void *));

VALUE(ncclSuccess, 0);
VALUE(ncclUnhandledCudaError, 1);
VALUE(ncclSystemError, 2);
VALUE(ncclInternalError, 3);
VALUE(ncclInvalidArgument, 4);
VALUE(ncclInvalidUsage, 5);
VALUE(ncclRemoteError, 6);
VALUE(ncclInProgress, 7);
VALUE(ncclNumResults, 8);
VALUE(sizeof(ncclResult_t), 4);

VALUE(NCCL_CONFIG_UNDEF_INT, (-2147483647 - 1));
_Static_assert(_Generic(NCCL_CONFIG_UNDEF_PTR, void * : 1, default : 0), "no null pointer");
VALUE(NCCL_SPLIT_NOCOLOR, -1);
VALUE((int)NCCL_UNDEF_FLOAT, -1);
VALUE(NCCL_WIN_DEFAULT, 0);
VALUE(NCCL_WIN_COLL_SYMMETRIC, 1);
VALUE(NCCL_WIN_REQUIRED_ALIGNMENT, 4096);
VALUE(NCCL_CTA_POLICY_DEFAULT, 0);
VALUE(NCCL_CTA_POLICY_EFFICIENCY, 1);
VALUE(NCCL_CTA_POLICY_ZERO, 2);
VALUE(NCCL_SHRINK_DEFAULT, 0);
VALUE(NCCL_SHRINK_ABORT, 1);
VALUE(NCCL_REVOKE_DEFAULT, 0);

VALUE(sizeof(ncclConfig_t), 80);
FIELD(ncclConfig_t, size, 0, 8);
FIELD(ncclConfig_t, magic, 8, 4);
FIELD(ncclConfig_t, version, 12, 4);
FIELD(ncclConfig_t, blocking, 16, 4);
FIELD(ncclConfig_t, cgaClusterSize, 20, 4);
FIELD(ncclConfig_t, minCTAs, 24, 4);
FIELD(ncclConfig_t, maxCTAs, 28, 4);
FIELD(ncclConfig_t, netName, 32, 8);
FIELD(ncclConfig_t, splitShare, 40, 4);
FIELD(ncclConfig_t, trafficClass, 44, 4);
FIELD(ncclConfig_t, commName, 48, 8);
FIELD(ncclConfig_t, collnetEnable, 56, 4);
FIELD(ncclConfig_t, CTAPolicy, 60, 4);
FIELD(ncclConfig_t, shrinkShare, 64, 4);
FIELD(ncclConfig_t, nvlsCTAs, 68, 4);
FIELD(ncclConfig_t, nChannelsPerNetPeer, 72, 4);
FIELD(ncclConfig_t, nvlinkCentricSched, 76, 4);

VALUE(sizeof(ncclSimInfo_t), 24);
FIELD(ncclSimInfo_t, size, 0, 8);
FIELD(ncclSimInfo_t, magic, 8, 4);
FIELD(ncclSimInfo_t, version, 12, 4);
FIELD(ncclSimInfo_t, estimatedTime, 16, 4);

VALUE(ncclSum, 0);
VALUE(ncclProd, 1);
VALUE(ncclMax, 2);
VALUE(ncclMin, 3);
VALUE(ncclAvg, 4);
VALUE(ncclNumOps, 5);
VALUE(ncclMaxRedOp, 0x7fffffff);
VALUE(sizeof(ncclRedOp_t), 4);

VALUE(ncclInt8, 0);
VALUE(ncclChar, 0);
VALUE(ncclUint8, 1);
VALUE(ncclInt32, 2);
VALUE(ncclInt, 2);
VALUE(ncclUint32, 3);
VALUE(ncclInt64, 4);
VALUE(ncclUint64, 5);
VALUE(ncclFloat16, 6);
VALUE(ncclHalf, 6);
VALUE(ncclFloat32, 7);
VALUE(ncclFloat, 7);
VALUE(ncclFloat64, 8);
VALUE(ncclDouble, 8);
VALUE(ncclBfloat16, 9);
VALUE(ncclFloat8e4m3, 10);
VALUE(ncclFloat8e5m2, 11);
VALUE(ncclNumTypes, 12);
VALUE(sizeof(ncclDataType_t), 4);
VALUE(ncclScalarDevice, 0);
VALUE(ncclScalarHostImmediate, 1);

RESULT(ncclGetVersion, (int *));
CALL(const char *, ncclGetErrorString, (ncclResult_t));
CALL(const char *, ncclGetLastError, (ncclComm_t));
RESULT(ncclGetUniqueId, (ncclUniqueId *));
RESULT(ncclCommInitRank, (ncclComm_t *, int, ncclUniqueId, int));
RESULT(ncclCommInitRankConfig, (ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *));
RESULT(ncclCommInitRankScalable, (ncclComm_t *, int, int, int, ncclUniqueId *, ncclConfig_t *));
RESULT(ncclCommInitAll, (ncclComm_t *, int, const int *));
RESULT(ncclCommSplit, (ncclComm_t, int, int, ncclComm_t *, ncclConfig_t *));
RESULT(ncclCommShrink, (ncclComm_t, int *, int, ncclComm_t *, ncclConfig_t *, int));
RESULT(ncclCommFinalize, (ncclComm_t));
RESULT(ncclCommDestroy, (ncclComm_t));
RESULT(ncclCommAbort, (ncclComm_t));
RESULT(ncclCommRevoke, (ncclComm_t, int));
RESULT(ncclCommGetAsyncError, (ncclComm_t, ncclResult_t *));
RESULT(ncclCommCount, (ncclComm_t, int *));
RESULT(ncclCommCuDevice, (ncclComm_t, int *));
RESULT(ncclCommUserRank, (ncclComm_t, int *));
RESULT(ncclMemAlloc, (void **, size_t));
RESULT(ncclMemFree, (void *));
RESULT(ncclCommRegister, (ncclComm_t, void *, size_t, void **));
RESULT(ncclCommDeregister, (ncclComm_t, void *));
RESULT(ncclCommWindowRegister, (ncclComm_t, void *, size_t, ncclWindow_t *, int));
RESULT(ncclCommWindowDeregister, (ncclComm_t, ncclWindow_t));
RESULT(ncclRedOpCreatePreMulSum,
       (ncclRedOp_t *, void *, ncclDataType_t, ncclScalarResidence_t, ncclComm_t));
RESULT(ncclRedOpDestroy, (ncclRedOp_t, ncclComm_t));
RESULT(ncclReduce,
       (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclBcast, (void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclBroadcast,
       (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclAllReduce,
       (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t));
RESULT(ncclReduceScatter,
       (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t));
RESULT(ncclAllGather, (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t));
RESULT(ncclAlltoAll, (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t));
RESULT(ncclGather, (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclScatter, (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclSend, (const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclRecv, (void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
RESULT(ncclGroupStart, (void));
RESULT(ncclGroupEnd, (void));
RESULT(ncclGroupSimulateEnd, (ncclSimInfo_t *));
CALL(void, ncclResetDebugInit, (void));

/* What the initializers give: a program compares itself with these at run time. */
extern const ncclConfig_t nccl_facts_config;
const ncclConfig_t nccl_facts_config = NCCL_CONFIG_INITIALIZER;
extern const ncclSimInfo_t nccl_facts_info;
const ncclSimInfo_t nccl_facts_info = NCCL_SIM_INFO_INITIALIZER;
