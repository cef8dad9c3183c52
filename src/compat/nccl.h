/* nccl.h: the interface of NVIDIA's collective library, version 2.32.3, as Tutti serves it.
 *
 * Names, values and layouts are those of that interface, so that a program built against either
 * header runs on either library; the words are Tutti's own. The library is libnccl.so.2.
 *
 * What is different here
 *   Buffers may be host memory. With a NULL stream and host memory alone a call runs at once and
 *   returns when its result is there; with device memory it is put into the stream.
 *   Any number of ranks may share one GPU, or need none.
 *   No call waits for ever: a dead or disagreeing rank gives ncclRemoteError or ncclInvalidUsage,
 *   and ncclGetLastError names it. A stream whose operation fails waits for ncclCommAbort,
 *   ncclCommRevoke or ncclCommDestroy as there, but for a minute at most (TUTTI_HOLD_MS), and then
 *   goes on with unspecified data.
 *   The device-side interface (windows used inside kernels), one-sided transfers and encryption are
 *   refused with ncclInvalidUsage.
 *
 * Every function has a twin of the same meaning whose name begins with p, for tools that stand in
 * front of the plain name.
 *
 * Threads: one thread at a time uses a communicator; ncclCommGetAsyncError, ncclCommAbort and
 * ncclCommRevoke may be called from any thread at any time. */
#ifndef NCCL_H_
#define NCCL_H_

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

/* Where CUDA's headers are at hand they come along, as programs expect; a machine without them
 * needs only the names of a stream and an event. */
#if defined(__has_include)
#if __has_include(<cuda_runtime.h>) && __has_include(<cuda_fp16.h>)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#if CUDART_VERSION >= 11000
#include <cuda_bf16.h>
#endif
#if defined(__cplusplus) && CUDART_VERSION >= 11080
#include <cuda_fp8.h>
#endif
#define TUTTI_NCCL_HAS_CUDA 1
#endif
#endif
#ifndef TUTTI_NCCL_HAS_CUDA
typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
#endif

#define NCCL_MAJOR  2
#define NCCL_MINOR  32
#define NCCL_PATCH  3
#define NCCL_SUFFIX ""

#define NCCL_VERSION_CODE 23203
#define NCCL_VERSION(X, Y, Z)                                                                      \
    (((X) <= 2 && (Y) <= 8) ? (X)*1000 + (Y)*100 + (Z) : (X)*10000 + (Y)*100 + (Z))

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types and values ------------------------------------------------------------------------ */

typedef struct ncclComm *ncclComm_t;
typedef struct ncclWindow_vidmem *ncclWindow_t;
#define NCCL_COMM_NULL NULL

/* Opaque; travels by value and whole from rank 0 to every rank. */
#define NCCL_UNIQUE_ID_BYTES 128
typedef struct {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1, /* a stream or device memory where no driver serves it */
    ncclSystemError = 2,        /* a system call, memory */
    ncclInternalError = 3,      /* a mistake of the library */
    ncclInvalidArgument = 4,    /* one argument is wrong by itself */
    ncclInvalidUsage = 5,       /* the call does not fit the state, or the other ranks' calls */
    ncclRemoteError = 6,        /* a peer died or cannot be reached */
    ncclInProgress = 7,         /* a non-blocking communicator still works on it */
    ncclTimeout = 8,            /* never given: what waited too long is ncclRemoteError */
    ncclNumResults = 9
} ncclResult_t;

#define NCCL_CONFIG_UNDEF_INT INT_MIN
#define NCCL_CONFIG_UNDEF_PTR NULL
#define NCCL_SPLIT_NOCOLOR    -1
#define NCCL_UNDEF_FLOAT      -1.0f

#define NCCL_API_MAGIC 0xcafebeef /* what every structure but ncclSimInfo_t begins with */

#define NCCL_WIN_DEFAULT            0x00
#define NCCL_WIN_COLL_SYMMETRIC     0x01
#define NCCL_WIN_STRICT_ORDERING    0x02 /* kept: nothing writes into a window by itself */
#define NCCL_WIN_GIN_ONLY           0x04 /* this one and the next are refused */
#define NCCL_WIN_CFT_COUNTED        0x08
#define NCCL_WIN_REQUIRED_ALIGNMENT 4096

#define NCCL_CTA_POLICY_DEFAULT    0x00
#define NCCL_CTA_POLICY_EFFICIENCY 0x01
#define NCCL_CTA_POLICY_ZERO       0x02

#define NCCL_SHRINK_DEFAULT 0x00
#define NCCL_SHRINK_ABORT   0x01 /* the parent's operations end first */
#define NCCL_REVOKE_DEFAULT 0x00

#define NCCL_SUSPEND_MEM 0x01

/* Values of two fields of the next. */
typedef enum {
    ncclHostCftDefault = NCCL_CONFIG_UNDEF_INT,
    ncclHostCftEnable = 1,
    ncclHostCftDisable = 2,
    ncclHostCftFallback = 3
} ncclHostCftMode_t;
typedef enum {
    ncclNvlsHostModeDefault = NCCL_CONFIG_UNDEF_INT,
    ncclNvlsHostModeEnable = 0,
    ncclNvlsHostModeDisableTransport = 1, /* this one and the next may be added up */
    ncclNvlsHostModeDisableSymmetricMultimem = 2,
    ncclNvlsHostModeDisable = INT_MAX
} ncclNvlsHostMode_t;

/* Wishes about a communicator. blocking is obeyed; the others are checked and otherwise mean
 * nothing here. To be begun with NCCL_CONFIG_INITIALIZER. */
typedef struct ncclConfig_v23100 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int blocking; /* 0: calls that wait for other ranks return at once */
    int cgaClusterSize;
    int minCTAs;
    int maxCTAs;
    const char *netName;
    int splitShare;
    int trafficClass;
    const char *commName;
    int collnetEnable;
    int CTAPolicy;
    int shrinkShare;
    int nvlsCTAs;
    int nChannelsPerNetPeer;
    int nvlinkCentricSched;
    int graphUsageMode;
    int numRmaCtx;
    int maxP2pPeers;
    int graphStreamOrdering;
    int launchOrderImplicit;
    int numRmaSig;
    int rmaEagerInit;
    int hostCftMode;
    int nvlsHostMode;
} ncclConfig_t;

#define NCCL_CONFIG_INITIALIZER                                                                    \
    {                                                                                              \
        sizeof(ncclConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE, NCCL_CONFIG_UNDEF_INT,            \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_PTR, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_PTR, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT                                                                  \
    }

/* An option of some vendor's library, in a list that ends with NULL. Tutti has none and looks at
 * none. */
typedef struct ncclConfigExt {
    struct ncclConfigExt *next;
    struct {
        int vendorId;
        int optionId;
    } key;
    union {
        int i;
        const char *s;
        void *raw;
    } val;
} ncclConfigExt_t;

/* Wishes about one call, the same at every rank; to be begun with NCCL_COLLCONFIG_INITIALIZER.
 * Checked; what has an effect is said beside it. Borrowed for the call. */
typedef struct ncclCollConfig_v23200 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    ncclConfigExt_t *ext;
    int minCTAs;
    int maxCTAs;
    int nvlsCTAs;
    int cgaClusterSize;
    const char *algSelection; /* algorithms of NVIDIA's library: none of them can be had here */
    int forceAlgSelection;    /* 1: a call that names some is refused; 0: it runs all the same */
    int CTAPolicy;
    uint64_t userProfilerTag;
    cudaEvent_t launchCompletionEvent; /* recorded when the stream comes to the call */
} ncclCollConfig_t;

#define NCCL_COLLCONFIG_INITIALIZER                                                                \
    {                                                                                              \
        sizeof(ncclCollConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE, NCCL_CONFIG_UNDEF_PTR,        \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_PTR, 1, NCCL_CONFIG_UNDEF_INT, 0,             \
            NCCL_CONFIG_UNDEF_PTR                                                                  \
    }

/* What ncclGroupSimulateEnd tells. */
typedef struct ncclSimInfo_v22200 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    float estimatedTime; /* microseconds */
} ncclSimInfo_t;

#define NCCL_SIM_INFO_INITIALIZER                                                                  \
    {                                                                                              \
        sizeof(ncclSimInfo_t), 0x74685283, NCCL_VERSION_CODE, NCCL_UNDEF_FLOAT                     \
    }

/* Whether bytes between hosts are encrypted. Tutti does not do that: only NONE is accepted. */
typedef enum { NCCL_ENCRYPTION_MODE_NONE = 0, NCCL_ENCRYPTION_MODE_PSK = 1 } ncclEncryptionMode_t;
typedef struct ncclEncryptionConfig_v23200 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int mode;
    const char *psk;
} ncclEncryptionConfig_t;

#define NCCL_ENCRYPTION_CONFIG_INITIALIZER                                                         \
    {                                                                                              \
        sizeof(ncclEncryptionConfig_t), NCCL_API_MAGIC, NCCL_VERSION_CODE,                         \
            NCCL_ENCRYPTION_MODE_NONE, NCCL_CONFIG_UNDEF_PTR                                       \
    }

/* What ncclCommMemStats is asked for, in bytes but for the second. */
typedef enum {
    ncclStatGpuMemSuspend = 0,   /* what suspending could free: always 0 */
    ncclStatGpuMemSuspended = 1, /* 1 while suspended, else 0 */
    ncclStatGpuMemPersist = 2,   /* what it keeps */
    ncclStatGpuMemTotal = 3      /* the sum */
} ncclCommMemStat_t;

/* Signals that ncclWaitSignal waits for. */
typedef struct {
    int opCnt;
    int peer;
    int sigIdx;
    int ctx;
} ncclWaitSignalDesc_t;

typedef struct ncclParamHandle *ncclParamHandle_t;

/* Values from ncclNumOps on are made by ncclRedOpCreatePreMulSum. */
typedef enum { ncclNumOps_dummy = 5 } ncclRedOp_dummy_t;
typedef enum {
    ncclSum = 0,
    ncclProd = 1,
    ncclMax = 2,
    ncclMin = 3,
    ncclAvg = 4,
    ncclNumOps = 5,
    ncclMaxRedOp = 0x7fffffff >> (32 - 8 * sizeof(ncclRedOp_dummy_t))
} ncclRedOp_t;

typedef enum {
    ncclInt8 = 0,
    ncclChar = 0,
    ncclUint8 = 1,
    ncclInt32 = 2,
    ncclInt = 2,
    ncclUint32 = 3,
    ncclInt64 = 4,
    ncclUint64 = 5,
    ncclFloat16 = 6,
    ncclHalf = 6,
    ncclFloat32 = 7,
    ncclFloat = 7,
    ncclFloat64 = 8,
    ncclDouble = 8,
    ncclBfloat16 = 9,
    ncclFloat8e4m3 = 10,
    ncclFloat8e5m2 = 11,
    ncclNumTypes = 12
} ncclDataType_t;

/* Where a scalar lies. Either is read before ncclRedOpCreatePreMulSum returns. */
typedef enum { ncclScalarDevice = 0, ncclScalarHostImmediate = 1 } ncclScalarResidence_t;

/* NCCL_CALL declares a function and its twin. */
#define NCCL_CALL(type, name, params)                                                              \
    type name params;                                                                              \
    type p##name params

/* ---- the library ----------------------------------------------------------------------------- */

/* NCCL_VERSION_CODE. */
NCCL_CALL(ncclResult_t, ncclGetVersion, (int *version));
/* A constant sentence for a code, never NULL. */
NCCL_CALL(const char *, ncclGetErrorString, (ncclResult_t result));
/* The sentence of the calling thread's last error; in a thread that had none, of the process's; ""
 * when there was none. Valid until the thread's next call. comm may be NULL and is not looked at.
 * Where NCCL_DEBUG is WARN or more each sentence is a line of the log (TUTTI_LOG_FILE) too. */
NCCL_CALL(const char *, ncclGetLastError, (ncclComm_t comm));
/* Succeeds for NULL and NCCL_ENCRYPTION_MODE_NONE, and refuses to promise anything else. */
NCCL_CALL(ncclResult_t, ncclSetEncryption, (const ncclEncryptionConfig_t *config));
/* Accepted, without effect. */
NCCL_CALL(void, ncclResetDebugInit, (void));

/* ---- communicators --------------------------------------------------------------------------- */

/* ncclGetUniqueId: called in the process of any one rank (with NCCL_COMM_ID=host:port: of each).
 * ncclCommInitRank: collective; in a group it waits in ncclGroupEnd, so that one thread can make
 * several ranks. ncclCommInitRankScalable: of several ids the first counts. ncclCommInitAll: ndev
 * ranks of this process; a device may be named more than once. */
NCCL_CALL(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * uniqueId));
NCCL_CALL(ncclResult_t, ncclCommInitRank,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank));
NCCL_CALL(ncclResult_t, ncclCommInitRankConfig,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config));
NCCL_CALL(ncclResult_t, ncclCommInitRankScalable,
          (ncclComm_t * newcomm, int nranks, int myrank, int nId, ncclUniqueId *commIds,
           ncclConfig_t *config));
NCCL_CALL(ncclResult_t, ncclCommInitAll, (ncclComm_t * comm, int ndev, const int *devlist));

/* ncclCommSplit: collective; ranks of one color form a communicator, ordered by key, then rank;
 * NCCL_SPLIT_NOCOLOR gives NULL. ncclCommShrink: the ranks not excluded form one; works although an
 * excluded rank is dead. config NULL: the parent's. Both return at once, with ncclSuccess, if the
 * parent is not blocking, whatever config says of what they make: ask the parent then. */
NCCL_CALL(ncclResult_t, ncclCommSplit,
          (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config));
NCCL_CALL(ncclResult_t, ncclCommShrink,
          (ncclComm_t comm, int *excludeRanksList, int excludeRanksCount, ncclComm_t *newcomm,
           ncclConfig_t *config, int shrinkFlags));

/* ncclCommGrow: the ranks of comm, which keep their numbers, and new ranks form a communicator of
 * nRanks. Collective: a rank of comm passes it and rank -1, and one of them the id that it asked
 * for with ncclCommGetUniqueId, the others NULL (or all NULL, if only one has asked for an id that
 * no grow has used); a new rank passes comm NULL, that id and its rank.
 * config NULL: the parent's. An id serves once, and a communicator's next one is to be had when the
 * last was passed. Returns at once, with ncclSuccess, if newcomm is not blocking: ask that. */
NCCL_CALL(ncclResult_t, ncclCommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId));
NCCL_CALL(ncclResult_t, ncclCommGrow,
          (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank, ncclComm_t *newcomm,
           ncclConfig_t *config));

/* ncclCommSuspend: until ncclCommResume every call that would communicate is refused; it can be
 * asked, revoked, finalized, destroyed and aborted. Local, and frees nothing: peers and captured
 * graphs hold the addresses of what there is. flags: NCCL_SUSPEND_MEM. ncclCommMemStats: the device
 * memory that the communicator keeps for itself. */
NCCL_CALL(ncclResult_t, ncclCommSuspend, (ncclComm_t comm, int flags));
NCCL_CALL(ncclResult_t, ncclCommResume, (ncclComm_t comm));
NCCL_CALL(ncclResult_t, ncclCommMemStats,
          (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value));

/* ncclCommFinalize: completes what was issued here; further operations are refused.
 * ncclCommDestroy: the same, then releases. ncclCommAbort: ends every wait, here and at the peers,
 * and releases. ncclCommRevoke: ends every wait; what remains can be split, shrunk, destroyed. */
NCCL_CALL(ncclResult_t, ncclCommFinalize, (ncclComm_t comm));
NCCL_CALL(ncclResult_t, ncclCommDestroy, (ncclComm_t comm));
NCCL_CALL(ncclResult_t, ncclCommAbort, (ncclComm_t comm));
NCCL_CALL(ncclResult_t, ncclCommRevoke, (ncclComm_t comm, int revokeFlags));

/* ncclInProgress while a non-blocking call runs, ncclSuccess, or what failed the communicator. Of
 * one that another thread has aborted it is the error that is returned, so that a loop which looks
 * at it alone ends. */
NCCL_CALL(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t *asyncError));
NCCL_CALL(ncclResult_t, ncclCommCount, (const ncclComm_t comm, int *count));
/* The device current when the communicator was made; 0 where there is no driver. */
NCCL_CALL(ncclResult_t, ncclCommCuDevice, (const ncclComm_t comm, int *device));
NCCL_CALL(ncclResult_t, ncclCommUserRank, (const ncclComm_t comm, int *rank));

/* ---- memory ---------------------------------------------------------------------------------- */

/* Device memory of the current device where there is a driver, else host memory that peers of the
 * same host read in place. */
NCCL_CALL(ncclResult_t, ncclMemAlloc, (void **ptr, size_t size));
NCCL_CALL(ncclResult_t, ncclMemFree, (void *ptr));
/* A hint that the memory will be used often. */
NCCL_CALL(ncclResult_t, ncclCommRegister,
          (const ncclComm_t comm, void *buff, size_t size, void **handle));
NCCL_CALL(ncclResult_t, ncclCommDeregister, (const ncclComm_t comm, void *handle));
/* The same; with NCCL_WIN_COLL_SYMMETRIC buff must lie on NCCL_WIN_REQUIRED_ALIGNMENT.
 * NCCL_WIN_STRICT_ORDERING may be added. ncclWinGetUserPtr: buff. */
NCCL_CALL(ncclResult_t, ncclCommWindowRegister,
          (ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win, int winFlags));
NCCL_CALL(ncclResult_t, ncclCommWindowDeregister, (ncclComm_t comm, ncclWindow_t win));
NCCL_CALL(ncclResult_t, ncclWinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr));

/* ---- reduction operations -------------------------------------------------------------------- */

/* The sum over ranks of scalar * input; scalar is one element of datatype and may differ between
 * ranks. Every rank makes the same operations in the same order. */
NCCL_CALL(ncclResult_t, ncclRedOpCreatePreMulSum,
          (ncclRedOp_t * op, void *scalar, ncclDataType_t datatype, ncclScalarResidence_t residence,
           ncclComm_t comm));
NCCL_CALL(ncclResult_t, ncclRedOpDestroy, (ncclRedOp_t op, ncclComm_t comm));

/* ---- collectives -----------------------------------------------------------------------------
 * Counts are elements. In place: sendbuff == recvbuff (AllReduce, Broadcast, Reduce, AlltoAll);
 * sendbuff == recvbuff + rank * count (AllGather, Gather at the root); recvbuff == sendbuff + rank
 * * count (ReduceScatter, Scatter at the root). A buffer that only the root uses may be NULL
 * elsewhere. */

NCCL_CALL(ncclResult_t, ncclReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclBcast,
          (void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
           cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclBroadcast,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclAllReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclReduceScatter,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclAllGather,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclAlltoAll,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclGather,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclScatter,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclSend,
          (const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclRecv,
          (void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream));

/* The same with a configuration of the call; config NULL: the same. */
NCCL_CALL(ncclResult_t, ncclReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream,
           const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclBroadcastConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclAllReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclReduceScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclAllGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclAlltoAllConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));
NCCL_CALL(ncclResult_t, ncclScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config));

/* Refused: one-sided transfers are not served. */
NCCL_CALL(ncclResult_t, ncclPutSignal,
          (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
           ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
           ncclComm_t comm, cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclSignal,
          (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
           cudaStream_t stream));
NCCL_CALL(ncclResult_t, ncclWaitSignal,
          (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream));

/* ---- groups ----------------------------------------------------------------------------------
 * Calls between start and end are one unit, over all communicators they name; groups nest. An
 * error of a call inside is returned by it and again by the outermost end, and then nothing runs.
 * ncclGroupSimulateEnd closes a group without running it and tells how long it would take in the
 * memory that its buffers are. */
NCCL_CALL(ncclResult_t, ncclGroupStart, (void));
NCCL_CALL(ncclResult_t, ncclGroupEnd, (void));
NCCL_CALL(ncclResult_t, ncclGroupSimulateEnd, (ncclSimInfo_t * simInfo));

/* ---- parameters ------------------------------------------------------------------------------
 * Every TUTTI_* setting, NCCL_COMM_ID and NCCL_DEBUG, with the value that a communicator made now
 * would have. A handle is good for ever. The getters of numbers take what reads as one within the
 * range of the type; yes is 1 and no is 0. ncclParamGet copies such a value as an int64_t, any
 * other as characters with the zero behind them; *len is how many bytes that were, or are needed
 * where maxLen is less, which is an error. What a string or the table of keys points to is valid
 * until the thread's next call of the same function. */
NCCL_CALL(ncclResult_t, ncclParamBind, (ncclParamHandle_t * out, const char *key));
NCCL_CALL(ncclResult_t, ncclParamGetI8, (ncclParamHandle_t h, int8_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetI16, (ncclParamHandle_t h, int16_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetI32, (ncclParamHandle_t h, int32_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetI64, (ncclParamHandle_t h, int64_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetU8, (ncclParamHandle_t h, uint8_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetU16, (ncclParamHandle_t h, uint16_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetU32, (ncclParamHandle_t h, uint32_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetU64, (ncclParamHandle_t h, uint64_t *out));
NCCL_CALL(ncclResult_t, ncclParamGetStr, (ncclParamHandle_t h, const char **out));
NCCL_CALL(ncclResult_t, ncclParamGet, (ncclParamHandle_t h, void *out, int maxLen, int *len));
NCCL_CALL(ncclResult_t, ncclParamGetParameter,
          (const char *key, const char **value, int *valueLen));
NCCL_CALL(ncclResult_t, ncclParamGetAllParameterKeys, (const char ***table, int *tableLen));
/* Lines of the log (TUTTI_LOG_FILE), whatever TUTTI_LOG says. */
NCCL_CALL(void, ncclParamDumpAll, (void));

#undef NCCL_CALL

#ifdef __cplusplus
}
#endif
#endif
