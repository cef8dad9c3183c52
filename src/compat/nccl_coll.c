/* nccl_coll.c: collectives, sends and receives, and the operations they reduce with. Each becomes a
 * face_call; what can be wrong with one argument alone is said here, in NCCL's names, when the call
 * is made; the rest (overlap, dynamic operations) is the library's to say. */
#include "nccl_face.h"

/* ---- types and operations ---------------------------------------------------------------------
 */

bool face_dtype(ncclDataType_t type, tutti_dtype *dtype)
{
    static const tutti_dtype dtypes[ncclNumTypes] = {
        [ncclInt8] = TUTTI_INT8,
        [ncclUint8] = TUTTI_UINT8,
        [ncclInt32] = TUTTI_INT32,
        [ncclUint32] = TUTTI_UINT32,
        [ncclInt64] = TUTTI_INT64,
        [ncclUint64] = TUTTI_UINT64,
        [ncclFloat16] = TUTTI_FLOAT16,
        [ncclFloat32] = TUTTI_FLOAT32,
        [ncclFloat64] = TUTTI_FLOAT64,
        [ncclBfloat16] = TUTTI_BFLOAT16,
        [ncclFloat8e4m3] = TUTTI_FLOAT8_E4M3,
        [ncclFloat8e5m2] = TUTTI_FLOAT8_E5M2,
    };
    if ((unsigned)type >= ncclNumTypes)
        return false;
    *dtype = dtypes[type];
    return true;
}

/* A dynamic operation's number counts from ncclNumOps there, from TUTTI_OP_DYNAMIC here. */
bool face_op(ncclRedOp_t op, tutti_op *mapped)
{
    static const tutti_op ops[ncclNumOps] = {
        [ncclSum] = TUTTI_SUM, [ncclProd] = TUTTI_PROD, [ncclMax] = TUTTI_MAX,
        [ncclMin] = TUTTI_MIN, [ncclAvg] = TUTTI_AVG,
    };
    unsigned value = (unsigned)op;
    if (value > ncclNumOps + (unsigned)(TUTTI_OP_LAST - TUTTI_OP_DYNAMIC))
        return false;
    *mapped = value < ncclNumOps ? ops[value] : (tutti_op)(TUTTI_OP_DYNAMIC + value - ncclNumOps);
    return true;
}

NCCL_FACE(ncclResult_t, ncclRedOpCreatePreMulSum,
          (ncclRedOp_t * op, void *scalar, ncclDataType_t datatype, ncclScalarResidence_t residence,
           ncclComm_t comm))
{
    const char *name = "ncclRedOpCreatePreMulSum";
    tutti_dtype dtype;
    tutti_op made;
    uint64_t here = 0;
    if (!op || !scalar)
        return face_fail(ncclInvalidArgument, "%s: %s is NULL", name, op ? "scalar" : "op");
    if (!face_dtype(datatype, &dtype))
        return face_fail(ncclInvalidArgument, "%s: datatype %d: expected 0 to %d", name,
                         (int)datatype, ncclNumTypes - 1);
    if (residence != ncclScalarDevice && residence != ncclScalarHostImmediate)
        return face_fail(ncclInvalidArgument,
                         "%s: residence %d: expected ncclScalarDevice (0) or "
                         "ncclScalarHostImmediate (1)",
                         name, (int)residence);
    ncclResult_t result = face_enter(comm, name);
    if (result != ncclSuccess)
        return result;
    tutti_status status = TUTTI_OK;
    if (residence == ncclScalarDevice)
        status = tutti_mem_copy(&here, scalar, tutti_dtype_size(dtype));
    if (status == TUTTI_OK)
        status = tutti_op_create_premulsum(
            face_tutti(comm), residence == ncclScalarDevice ? &here : scalar, dtype, &made);
    result = face_result(status);
    if (result == ncclSuccess)
        *op = (ncclRedOp_t)(ncclNumOps + (int)made - TUTTI_OP_DYNAMIC);
    face_leave(comm);
    return result;
}

NCCL_FACE(ncclResult_t, ncclRedOpDestroy, (ncclRedOp_t op, ncclComm_t comm))
{
    const char *name = "ncclRedOpDestroy";
    tutti_op mapped = TUTTI_SUM;
    if ((unsigned)op < ncclNumOps || !face_op(op, &mapped))
        return face_fail(ncclInvalidArgument,
                         "%s: operation %d was not made by ncclRedOpCreatePreMulSum", name,
                         (int)op);
    /* Also of a communicator that failed: the operation goes with it. */
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    tutti_comm *tutti = face_tutti(comm);
    if (face_group_ends_op(comm, mapped))
        return ncclSuccess;
    if (tutti && tutti_comm_status(tutti) == TUTTI_OK)
        result = face_result(tutti_op_destroy(tutti, mapped));
    face_leave(comm);
    return result;
}

/* ---- issuing ----------------------------------------------------------------------------------
 */

tutti_status face_call_run(const struct face_call *call)
{
    const struct face_call *c = call;
    tutti_comm *comm = c->comm->tutti;
    switch (c->coll) {
    case TUTTI_COLL_ALLREDUCE:
        return tutti_allreduce_on(c->in, c->out, c->count, c->dtype, c->op, comm, c->stream);
    case TUTTI_COLL_ALLGATHER:
        return tutti_allgather_on(c->in, c->out, c->count, c->dtype, comm, c->stream);
    case TUTTI_COLL_REDUCE_SCATTER:
        return tutti_reduce_scatter_on(c->in, c->out, c->count, c->dtype, c->op, comm, c->stream);
    case TUTTI_COLL_BROADCAST:
        return tutti_broadcast_on(c->in, c->out, c->count, c->dtype, c->root, comm, c->stream);
    case TUTTI_COLL_REDUCE:
        return tutti_reduce_on(c->in, c->out, c->count, c->dtype, c->op, c->root, comm, c->stream);
    case TUTTI_COLL_GATHER:
        return tutti_gather_on(c->in, c->out, c->count, c->dtype, c->root, comm, c->stream);
    case TUTTI_COLL_SCATTER:
        return tutti_scatter_on(c->in, c->out, c->count, c->dtype, c->root, comm, c->stream);
    case TUTTI_COLL_ALLTOALL:
        return tutti_alltoall_on(c->in, c->out, c->count, c->dtype, comm, c->stream);
    default:
        return c->is_send ? tutti_send_on(c->in, c->count, c->dtype, c->root, comm, c->stream)
                          : tutti_recv_on(c->out, c->count, c->dtype, c->root, comm, c->stream);
    }
}

static bool has_root(const struct face_call *call)
{
    return call->coll == TUTTI_COLL_BROADCAST || call->coll == TUTTI_COLL_REDUCE ||
           call->coll == TUTTI_COLL_GATHER || call->coll == TUTTI_COLL_SCATTER ||
           call->coll == TUTTI_COLL_SENDRECV;
}

/* Which buffers this rank needs. */
static void needs(const struct face_call *call, bool *in, bool *out)
{
    bool root = call->root == call->comm->rank;
    *in = *out = true;
    if (call->coll == TUTTI_COLL_BROADCAST || call->coll == TUTTI_COLL_SCATTER)
        *in = root;
    else if (call->coll == TUTTI_COLL_REDUCE || call->coll == TUTTI_COLL_GATHER)
        *out = root;
    else if (call->coll == TUTTI_COLL_SENDRECV)
        *(call->is_send ? out : in) = false;
}

static ncclResult_t check_call(const struct face_call *call)
{
    bool in, out, transfer = call->coll == TUTTI_COLL_SENDRECV;
    int size = call->comm->size;
    if (has_root(call) && (call->root < 0 || call->root >= size))
        return face_fail(ncclInvalidArgument, "%s: %s %d: expected 0 to %d", call->name,
                         transfer ? "peer" : "root", call->root, size - 1);
    needs(call, &in, &out);
    if (call->count > 0 && ((in && !call->in) || (out && !call->out)))
        return face_fail(ncclInvalidArgument, "%s: %s is NULL at rank %d, for %zu elements of %s",
                         call->name, in && !call->in ? "sendbuff" : "recvbuff", call->comm->rank,
                         call->count, tutti_dtype_name(call->dtype));
    if (transfer && call->root == call->comm->rank && !face_group_open())
        return face_fail(ncclInvalidUsage,
                         "%s: rank %d names itself outside a group: put both halves between "
                         "ncclGroupStart and ncclGroupEnd",
                         call->name, call->root);
    return ncclSuccess;
}

ncclResult_t face_call_record(const struct face_call *call)
{
    int error = call->event ? face_event_record(call->event, call->stream) : 0;
    if (error == 0)
        return ncclSuccess;
    if (error < 0)
        return face_fail(ncclUnhandledCudaError,
                         "%s: config.launchCompletionEvent is set, but the program has not loaded "
                         "a driver (libcuda.so.1) whose event it could be",
                         call->name);
    return face_fail(ncclUnhandledCudaError,
                     "%s: config.launchCompletionEvent cannot be recorded in the stream: the "
                     "driver's error %d",
                     call->name, error);
}

static ncclResult_t issue_entered(const struct face_call *call)
{
    ncclResult_t result = check_call(call);
    if (result != ncclSuccess)
        return result;
    if (face_group_open())
        return face_group_call(call);
    result = face_call_record(call);
    return result == ncclSuccess ? face_result(face_call_run(call)) : result;
}

/* Everything of a call but its type and operation, which come in NCCL's numbers, and its
 * configuration. */
static ncclResult_t issue(struct face_call call, ncclDataType_t type, ncclRedOp_t op,
                          const ncclCollConfig_t *config)
{
    ncclResult_t result = face_enter_grouped(call.comm, call.name);
    if (result != ncclSuccess)
        return face_group_note(result);
    if (!face_dtype(type, &call.dtype))
        result = face_fail(ncclInvalidArgument, "%s: datatype %d: expected 0 to %d", call.name,
                           (int)type, ncclNumTypes - 1);
    else if (!face_op(op, &call.op))
        result = face_fail(ncclInvalidArgument,
                           "%s: operation %d: expected 0 to %d, or one made by "
                           "ncclRedOpCreatePreMulSum",
                           call.name, (int)op, ncclNumOps - 1);
    else
        result = face_config_read_call(config, call.name, &call.event);
    if (result == ncclSuccess)
        result = issue_entered(&call);
    face_leave(call.comm);
    return face_group_note(result);
}

/* ---- the calls --------------------------------------------------------------------------------
 */

#define CALL(name_, coll_, ...)                                                                    \
    ((struct face_call){                                                                           \
        .name = name_, .coll = TUTTI_COLL_##coll_, .comm = comm, .stream = stream, __VA_ARGS__})

NCCL_FACE(ncclResult_t, ncclReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream))
{
    return issue(
        CALL("ncclReduce", REDUCE, .in = sendbuff, .out = recvbuff, .count = count, .root = root),
        datatype, op, NULL);
}

NCCL_FACE(ncclResult_t, ncclBroadcast,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return issue(CALL("ncclBroadcast", BROADCAST, .in = sendbuff, .out = recvbuff, .count = count,
                      .root = root),
                 datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclAllReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
{
    return issue(CALL("ncclAllReduce", ALLREDUCE, .in = sendbuff, .out = recvbuff, .count = count),
                 datatype, op, NULL);
}

NCCL_FACE(ncclResult_t, ncclReduceScatter,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
{
    return issue(CALL("ncclReduceScatter", REDUCE_SCATTER, .in = sendbuff, .out = recvbuff,
                      .count = recvcount),
                 datatype, op, NULL);
}

NCCL_FACE(ncclResult_t, ncclAllGather,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    return issue(
        CALL("ncclAllGather", ALLGATHER, .in = sendbuff, .out = recvbuff, .count = sendcount),
        datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclAlltoAll,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream))
{
    return issue(CALL("ncclAlltoAll", ALLTOALL, .in = sendbuff, .out = recvbuff, .count = count),
                 datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclGather,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return issue(
        CALL("ncclGather", GATHER, .in = sendbuff, .out = recvbuff, .count = count, .root = root),
        datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclScatter,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream))
{
    return issue(
        CALL("ncclScatter", SCATTER, .in = sendbuff, .out = recvbuff, .count = count, .root = root),
        datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclBcast,
          (void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
           cudaStream_t stream))
{
    return issue(
        CALL("ncclBcast", BROADCAST, .in = buff, .out = buff, .count = count, .root = root),
        datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclSend,
          (const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream))
{
    return issue(
        CALL("ncclSend", SENDRECV, .is_send = true, .in = sendbuff, .count = count, .root = peer),
        datatype, ncclSum, NULL);
}

NCCL_FACE(ncclResult_t, ncclRecv,
          (void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream))
{
    return issue(CALL("ncclRecv", SENDRECV, .out = recvbuff, .count = count, .root = peer),
                 datatype, ncclSum, NULL);
}

/* ---- with a configuration of the call ----------------------------------------------------------
 */

NCCL_FACE(ncclResult_t, ncclReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream,
           const ncclCollConfig_t *config))
{
    return issue(CALL("ncclReduceConfig", REDUCE, .in = sendbuff, .out = recvbuff, .count = count,
                      .root = root),
                 datatype, op, config);
}

NCCL_FACE(ncclResult_t, ncclBroadcastConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(CALL("ncclBroadcastConfig", BROADCAST, .in = sendbuff, .out = recvbuff,
                      .count = count, .root = root),
                 datatype, ncclSum, config);
}

NCCL_FACE(ncclResult_t, ncclAllReduceConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(
        CALL("ncclAllReduceConfig", ALLREDUCE, .in = sendbuff, .out = recvbuff, .count = count),
        datatype, op, config);
}

NCCL_FACE(ncclResult_t, ncclReduceScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(CALL("ncclReduceScatterConfig", REDUCE_SCATTER, .in = sendbuff, .out = recvbuff,
                      .count = recvcount),
                 datatype, op, config);
}

NCCL_FACE(ncclResult_t, ncclAllGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(
        CALL("ncclAllGatherConfig", ALLGATHER, .in = sendbuff, .out = recvbuff, .count = sendcount),
        datatype, ncclSum, config);
}

NCCL_FACE(ncclResult_t, ncclAlltoAllConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(
        CALL("ncclAlltoAllConfig", ALLTOALL, .in = sendbuff, .out = recvbuff, .count = count),
        datatype, ncclSum, config);
}

NCCL_FACE(ncclResult_t, ncclGatherConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(CALL("ncclGatherConfig", GATHER, .in = sendbuff, .out = recvbuff, .count = count,
                      .root = root),
                 datatype, ncclSum, config);
}

NCCL_FACE(ncclResult_t, ncclScatterConfig,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream, const ncclCollConfig_t *config))
{
    return issue(CALL("ncclScatterConfig", SCATTER, .in = sendbuff, .out = recvbuff, .count = count,
                      .root = root),
                 datatype, ncclSum, config);
}
