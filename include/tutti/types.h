/* tutti/types.h: the lists everything else is generated from.
 * Each list is an X-macro, so that a name, a size or a sentence stands in one place only. */
#ifndef TUTTI_TYPES_H
#define TUTTI_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, value, sentence) */
#define TUTTI_STATUS_LIST(X)                                                                       \
    X(OK, 0, "no error")                                                                           \
    X(IN_PROGRESS, 1, "operation in progress")                                                     \
    X(ERR_ARG, 2, "invalid argument")                                                              \
    X(ERR_STATE, 3, "invalid use of a communicator or request")                                    \
    X(ERR_SETTING, 4, "invalid setting")                                                           \
    X(ERR_NOMEM, 5, "out of memory or of another limited resource")                                \
    X(ERR_SYSTEM, 6, "system call failed")                                                         \
    X(ERR_CONNECT, 7, "rendezvous or connection failed")                                           \
    X(ERR_AUTH, 8, "peer failed authentication")                                                   \
    X(ERR_PROTOCOL, 9, "peer speaks another protocol or version")                                  \
    X(ERR_PEER, 10, "peer died or became unreachable")                                             \
    X(ERR_MISMATCH, 11, "ranks disagree about the operation")                                      \
    X(ERR_TIMEOUT, 12, "operation timed out")                                                      \
    X(ERR_ABORTED, 13, "communicator was aborted")                                                 \
    X(ERR_FORKED, 14, "communicator belongs to the parent process")                                \
    X(ERR_UNSUPPORTED, 15, "not supported here")                                                   \
    X(ERR_INTERNAL, 16, "internal error")

typedef enum tutti_status {
#define X(name, value, text) TUTTI_##name = value,
    TUTTI_STATUS_LIST(X)
#undef X
} tutti_status;

/* X(NAME, name, bytes, class); class is INT, UINT or FLOAT */
#define TUTTI_DTYPE_LIST(X)                                                                        \
    X(INT8, int8, 1, INT)                                                                          \
    X(UINT8, uint8, 1, UINT)                                                                       \
    X(INT16, int16, 2, INT)                                                                        \
    X(UINT16, uint16, 2, UINT)                                                                     \
    X(INT32, int32, 4, INT)                                                                        \
    X(UINT32, uint32, 4, UINT)                                                                     \
    X(INT64, int64, 8, INT)                                                                        \
    X(UINT64, uint64, 8, UINT)                                                                     \
    X(FLOAT16, float16, 2, FLOAT)                                                                  \
    X(BFLOAT16, bfloat16, 2, FLOAT)                                                                \
    X(FLOAT32, float32, 4, FLOAT)                                                                  \
    X(FLOAT64, float64, 8, FLOAT)                                                                  \
    X(FLOAT8_E4M3, float8_e4m3, 1, FLOAT)                                                          \
    X(FLOAT8_E5M2, float8_e5m2, 1, FLOAT)

typedef enum tutti_dtype {
#define X(NAME, name, bytes, class) TUTTI_##NAME,
    TUTTI_DTYPE_LIST(X)
#undef X
        TUTTI_DTYPE_COUNT
} tutti_dtype;

/* X(NAME, name). Values from TUTTI_OP_DYNAMIC on are made at run time by tutti_op_create*. */
#define TUTTI_OP_LIST(X)                                                                           \
    X(SUM, sum)                                                                                    \
    X(PROD, prod)                                                                                  \
    X(MIN, min)                                                                                    \
    X(MAX, max)                                                                                    \
    X(AVG, avg)                                                                                    \
    X(BAND, band)                                                                                  \
    X(BOR, bor)                                                                                    \
    X(BXOR, bxor)

typedef enum tutti_op {
#define X(NAME, name) TUTTI_##NAME,
    TUTTI_OP_LIST(X)
#undef X
        TUTTI_OP_COUNT,
    TUTTI_OP_DYNAMIC = 16, /* first value that tutti_op_create* may return */
    TUTTI_OP_LAST = 0x7fff
} tutti_op;

/* X(NAME, name) */
#define TUTTI_COLL_LIST(X)                                                                         \
    X(ALLREDUCE, allreduce)                                                                        \
    X(ALLGATHER, allgather)                                                                        \
    X(ALLGATHERV, allgatherv)                                                                      \
    X(REDUCE_SCATTER, reduce_scatter)                                                              \
    X(REDUCE_SCATTERV, reduce_scatterv)                                                            \
    X(BROADCAST, broadcast)                                                                        \
    X(REDUCE, reduce)                                                                              \
    X(GATHER, gather)                                                                              \
    X(GATHERV, gatherv)                                                                            \
    X(SCATTER, scatter)                                                                            \
    X(SCATTERV, scatterv)                                                                          \
    X(ALLTOALL, alltoall)                                                                          \
    X(ALLTOALLV, alltoallv)                                                                        \
    X(BARRIER, barrier)                                                                            \
    X(SENDRECV, sendrecv) /* a point-to-point transfer or a group of them */

typedef enum tutti_coll {
#define X(NAME, name) TUTTI_COLL_##NAME,
    TUTTI_COLL_LIST(X)
#undef X
        TUTTI_COLL_COUNT
} tutti_coll;

/* X(NAME, name): where a buffer lives */
#define TUTTI_MEMORY_LIST(X)                                                                       \
    X(HOST, host)                                                                                  \
    X(CUDA, cuda)

typedef enum tutti_memory {
#define X(NAME, name) TUTTI_MEMORY_##NAME,
    TUTTI_MEMORY_LIST(X)
#undef X
        TUTTI_MEMORY_COUNT
} tutti_memory;

/* 128 opaque bytes that name a communicator to be; the program carries them from the process that
 * made them to all ranks. */
typedef struct tutti_unique_id {
    unsigned char bytes[128];
} tutti_unique_id;

/* Opaque handles. */
typedef struct tutti_comm tutti_comm;
typedef struct tutti_request tutti_request;
typedef struct tutti_registration tutti_registration;

/* A user's reduction: inout[i] = f(in[i], inout[i]) for count elements of dtype.
 * Must be associative and commutative: which rank's part comes as in and which as inout is not
 * specified. The plan fixes it, so the same plan gives the same bits, run after run.
 * Called from whichever thread makes progress on the communicator; must not call the library. */
typedef void tutti_reduce_fn(const void *in, void *inout, size_t count, tutti_dtype dtype,
                             void *context);

/* The caller's own allgather, for tutti_comm_create_with: every rank gives len bytes at in and
 * receives size * len bytes at out, rank r's at out + r * len. Blocking; returns 0 on success. */
typedef int tutti_allgather_fn(const void *in, void *out, size_t len, void *context);

#ifdef __cplusplus
}
#endif
#endif
