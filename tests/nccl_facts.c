/* nccl_facts.c: every layout, value and signature of NCCL's interface, as facts that hold for our
 * header and, where NVIDIA's own is at hand (-DNVIDIA), for that: tests/suites/nccl_abi.sh compiles
 * it against both. NVIDIA's may be of any version from 2.28.9 on: facts stand behind the first one
 * that they hold for. There is nothing to run. */
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

#define SINCE(y, z) (NCCL_VERSION_CODE >= NCCL_VERSION(2, y, z))

#ifndef NVIDIA
VALUE(NCCL_VERSION_CODE, 23203);
#endif
_Static_assert(SINCE(28, 9), "an older version");
VALUE(sizeof NCCL_SUFFIX, 1);
VALUE(NCCL_VERSION_CODE, NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH));
VALUE(NCCL_VERSION(2, 28, 9), 22809);
VALUE(NCCL_VERSION(2, 32, 3), 23203);
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
#if SINCE(30, 3)
VALUE(ncclTimeout, 8);
VALUE(ncclNumResults, 9);
#else
VALUE(ncclNumResults, 8);
#endif
VALUE(sizeof(ncclResult_t), 4);

VALUE(NCCL_CONFIG_UNDEF_INT, (-2147483647 - 1));
_Static_assert(_Generic(NCCL_CONFIG_UNDEF_PTR, void * : 1, default : 0), "no null pointer");
VALUE(NCCL_SPLIT_NOCOLOR, -1);
VALUE((int)NCCL_UNDEF_FLOAT, -1);
VALUE(NCCL_WIN_DEFAULT, 0);
VALUE(NCCL_WIN_COLL_SYMMETRIC, 1);
#if SINCE(29, 7)
VALUE(NCCL_WIN_STRICT_ORDERING, 2);
VALUE(NCCL_SUSPEND_MEM, 1);
#endif
#if SINCE(32, 3)
VALUE(NCCL_WIN_GIN_ONLY, 4);
VALUE(NCCL_WIN_CFT_COUNTED, 8);
#endif
#if SINCE(29, 2)
VALUE(NCCL_API_MAGIC, 0xcafebeef);
#endif
VALUE(NCCL_WIN_REQUIRED_ALIGNMENT, 4096);
VALUE(NCCL_CTA_POLICY_DEFAULT, 0);
VALUE(NCCL_CTA_POLICY_EFFICIENCY, 1);
VALUE(NCCL_CTA_POLICY_ZERO, 2);
VALUE(NCCL_SHRINK_DEFAULT, 0);
VALUE(NCCL_SHRINK_ABORT, 1);
VALUE(NCCL_REVOKE_DEFAULT, 0);

#if SINCE(32, 3)
VALUE(sizeof(ncclConfig_t), 120);
#elif SINCE(31, 2)
VALUE(sizeof(ncclConfig_t), 112);
#elif SINCE(30, 3)
VALUE(sizeof(ncclConfig_t), 96);
#elif SINCE(29, 2)
VALUE(sizeof(ncclConfig_t), 88);
#else
VALUE(sizeof(ncclConfig_t), 80);
#endif
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
#if SINCE(29, 2)
FIELD(ncclConfig_t, graphUsageMode, 80, 4);
FIELD(ncclConfig_t, numRmaCtx, 84, 4);
#endif
#if SINCE(30, 3)
FIELD(ncclConfig_t, maxP2pPeers, 88, 4);
#endif
#if SINCE(30, 7)
FIELD(ncclConfig_t, graphStreamOrdering, 92, 4);
#endif
#if SINCE(31, 2)
FIELD(ncclConfig_t, launchOrderImplicit, 96, 4);
FIELD(ncclConfig_t, numRmaSig, 100, 4);
FIELD(ncclConfig_t, rmaEagerInit, 104, 4);
FIELD(ncclConfig_t, hostCftMode, 108, 4);
VALUE(ncclHostCftDefault, NCCL_CONFIG_UNDEF_INT);
VALUE(ncclHostCftEnable, 1);
VALUE(ncclHostCftDisable, 2);
VALUE(ncclHostCftFallback, 3);
VALUE(sizeof(ncclHostCftMode_t), 4);
#endif
#if SINCE(32, 3)
FIELD(ncclConfig_t, nvlsHostMode, 112, 4);
VALUE(ncclNvlsHostModeDefault, NCCL_CONFIG_UNDEF_INT);
VALUE(ncclNvlsHostModeEnable, 0);
VALUE(ncclNvlsHostModeDisableTransport, 1);
VALUE(ncclNvlsHostModeDisableSymmetricMultimem, 2);
VALUE(ncclNvlsHostModeDisable, 2147483647);
VALUE(sizeof(ncclNvlsHostMode_t), 4);
#endif

#if SINCE(31, 2)
VALUE(sizeof(ncclConfigExt_t), 24);
FIELD(ncclConfigExt_t, next, 0, 8);
FIELD(ncclConfigExt_t, key.vendorId, 8, 4);
FIELD(ncclConfigExt_t, key.optionId, 12, 4);
FIELD(ncclConfigExt_t, val.i, 16, 4);
FIELD(ncclConfigExt_t, val.s, 16, 8);
FIELD(ncclConfigExt_t, val.raw, 16, 8);
FIELD(ncclCollConfig_t, size, 0, 8);
FIELD(ncclCollConfig_t, magic, 8, 4);
FIELD(ncclCollConfig_t, version, 12, 4);
FIELD(ncclCollConfig_t, ext, 16, 8);
FIELD(ncclCollConfig_t, minCTAs, 24, 4);
FIELD(ncclCollConfig_t, maxCTAs, 28, 4);
FIELD(ncclCollConfig_t, nvlsCTAs, 32, 4);
FIELD(ncclCollConfig_t, cgaClusterSize, 36, 4);
FIELD(ncclCollConfig_t, algSelection, 40, 8);
FIELD(ncclCollConfig_t, forceAlgSelection, 48, 4);
FIELD(ncclCollConfig_t, CTAPolicy, 52, 4);
FIELD(ncclCollConfig_t, userProfilerTag, 56, 8);
#endif
#if SINCE(32, 3)
VALUE(sizeof(ncclCollConfig_t), 72);
FIELD(ncclCollConfig_t, launchCompletionEvent, 64, 8);
#elif SINCE(31, 2)
VALUE(sizeof(ncclCollConfig_t), 64);
#endif

#if SINCE(32, 3)
VALUE(sizeof(ncclEncryptionConfig_t), 32);
FIELD(ncclEncryptionConfig_t, size, 0, 8);
FIELD(ncclEncryptionConfig_t, magic, 8, 4);
FIELD(ncclEncryptionConfig_t, version, 12, 4);
FIELD(ncclEncryptionConfig_t, mode, 16, 4);
FIELD(ncclEncryptionConfig_t, psk, 24, 8);
VALUE(NCCL_ENCRYPTION_MODE_NONE, 0);
VALUE(NCCL_ENCRYPTION_MODE_PSK, 1);
VALUE(sizeof(ncclEncryptionMode_t), 4);
#endif

#if SINCE(29, 2)
VALUE(sizeof(ncclWaitSignalDesc_t), 16);
FIELD(ncclWaitSignalDesc_t, opCnt, 0, 4);
FIELD(ncclWaitSignalDesc_t, peer, 4, 4);
FIELD(ncclWaitSignalDesc_t, sigIdx, 8, 4);
FIELD(ncclWaitSignalDesc_t, ctx, 12, 4);
#endif
#if SINCE(29, 7)
VALUE(ncclStatGpuMemSuspend, 0);
VALUE(ncclStatGpuMemSuspended, 1);
VALUE(ncclStatGpuMemPersist, 2);
VALUE(ncclStatGpuMemTotal, 3);
VALUE(sizeof(ncclCommMemStat_t), 4);
#endif

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
#ifndef ncclResetDebugInit /* from 2.30 on their header declares it no more, their library has it  \
                            */
CALL(void, ncclResetDebugInit, (void));
#endif

#if SINCE(29, 2)
RESULT(ncclCommGetUniqueId, (ncclComm_t, ncclUniqueId *));
RESULT(ncclCommGrow, (ncclComm_t, int, const ncclUniqueId *, int, ncclComm_t *, ncclConfig_t *));
RESULT(ncclWinGetUserPtr, (ncclComm_t, ncclWindow_t, void **));
RESULT(ncclPutSignal, (const void *, size_t, ncclDataType_t, int, ncclWindow_t, size_t, int, int,
                       unsigned int, ncclComm_t, cudaStream_t));
RESULT(ncclSignal, (int, int, int, unsigned int, ncclComm_t, cudaStream_t));
RESULT(ncclWaitSignal, (int, ncclWaitSignalDesc_t *, ncclComm_t, cudaStream_t));
#endif
#if SINCE(29, 7)
RESULT(ncclCommSuspend, (ncclComm_t, int));
RESULT(ncclCommResume, (ncclComm_t));
RESULT(ncclCommMemStats, (ncclComm_t, ncclCommMemStat_t, uint64_t *));
#endif
#if SINCE(30, 7) /* 2.30.4 spells the type of a handle in another way */
RESULT(ncclParamBind, (ncclParamHandle_t *, const char *));
RESULT(ncclParamGetI8, (ncclParamHandle_t, int8_t *));
RESULT(ncclParamGetI16, (ncclParamHandle_t, int16_t *));
RESULT(ncclParamGetI32, (ncclParamHandle_t, int32_t *));
RESULT(ncclParamGetI64, (ncclParamHandle_t, int64_t *));
RESULT(ncclParamGetU8, (ncclParamHandle_t, uint8_t *));
RESULT(ncclParamGetU16, (ncclParamHandle_t, uint16_t *));
RESULT(ncclParamGetU32, (ncclParamHandle_t, uint32_t *));
RESULT(ncclParamGetU64, (ncclParamHandle_t, uint64_t *));
RESULT(ncclParamGetStr, (ncclParamHandle_t, const char **));
RESULT(ncclParamGet, (ncclParamHandle_t, void *, int, int *));
RESULT(ncclParamGetParameter, (const char *, const char **, int *));
RESULT(ncclParamGetAllParameterKeys, (const char ***, int *));
CALL(void, ncclParamDumpAll, (void));
#endif
#if SINCE(31, 2)
RESULT(ncclReduceConfig, (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, int,
                          ncclComm_t, cudaStream_t, const ncclCollConfig_t *));
RESULT(ncclBroadcastConfig, (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t,
                             cudaStream_t, const ncclCollConfig_t *));
RESULT(ncclAllReduceConfig, (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                             cudaStream_t, const ncclCollConfig_t *));
RESULT(ncclReduceScatterConfig, (const void *, void *, size_t, ncclDataType_t, ncclRedOp_t,
                                 ncclComm_t, cudaStream_t, const ncclCollConfig_t *));
RESULT(ncclAllGatherConfig, (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t,
                             const ncclCollConfig_t *));
RESULT(ncclAlltoAllConfig, (const void *, void *, size_t, ncclDataType_t, ncclComm_t, cudaStream_t,
                            const ncclCollConfig_t *));
RESULT(ncclGatherConfig, (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t,
                          cudaStream_t, const ncclCollConfig_t *));
RESULT(ncclScatterConfig, (const void *, void *, size_t, ncclDataType_t, int, ncclComm_t,
                           cudaStream_t, const ncclCollConfig_t *));
#endif
#if SINCE(32, 3)
RESULT(ncclSetEncryption, (const ncclEncryptionConfig_t *));
#endif

/* What the initializers give: a program compares itself with these at run time. Their versions are
 * those of the header, everything else is one header's as another's. */
extern const ncclConfig_t nccl_facts_config;
const ncclConfig_t nccl_facts_config = NCCL_CONFIG_INITIALIZER;
extern const ncclSimInfo_t nccl_facts_info;
const ncclSimInfo_t nccl_facts_info = NCCL_SIM_INFO_INITIALIZER;
#if SINCE(31, 2)
extern const ncclCollConfig_t nccl_facts_call_config;
const ncclCollConfig_t nccl_facts_call_config = NCCL_COLLCONFIG_INITIALIZER;
#endif
#if SINCE(32, 3)
extern const ncclEncryptionConfig_t nccl_facts_encryption;
const ncclEncryptionConfig_t nccl_facts_encryption = NCCL_ENCRYPTION_CONFIG_INITIALIZER;
#endif
