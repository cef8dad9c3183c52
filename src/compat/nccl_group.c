/* nccl_group.c: groups. A thread's group keeps its calls and its jobs until the outermost end:
 * first the jobs that make communicators, then all calls as one group of the library, then the jobs
 * that end communicators. An error of any call spoils the group: NCCL then runs nothing of it. */
#include <stdlib.h>
#include <string.h>

#include "nccl_face.h"

#define CALLS_MAX 65536 /* of one group: what the library takes */

static _Thread_local struct {
    unsigned depth;
    ncclResult_t error;
    char sentence[FACE_SENTENCE_MAX];
    struct face_call *calls;
    size_t count, capacity;
    struct job *jobs;
} group;

bool face_group_open(void)
{
    return group.depth > 0;
}

void face_group_start(void)
{
    group.depth++;
}

ncclResult_t face_group_note(ncclResult_t result)
{
    if (group.depth == 0 || group.error != ncclSuccess || result == ncclSuccess ||
        result == ncclInProgress)
        return result;
    group.error = result;
    memcpy(group.sentence, face_sentence(), sizeof group.sentence);
    return result;
}

void face_group_job(struct job *job)
{
    struct job **at = &group.jobs;
    while (*at)
        at = &(*at)->next;
    job->next = NULL;
    *at = job;
}

unsigned face_group_jobs(ncclComm_t comm)
{
    unsigned jobs = 0;
    for (const struct job *job = group.jobs; job; job = job->next)
        jobs += job->parent == comm || (group.depth == 0 && job->comm == comm);
    return jobs;
}

bool face_group_uses(ncclComm_t comm)
{
    for (size_t i = 0; i < group.count; i++) {
        if (group.calls[i].comm == comm)
            return true;
    }
    return false;
}

ncclResult_t face_group_call(const struct face_call *call)
{
    if (group.count == CALLS_MAX)
        return face_fail(ncclInvalidUsage, "%s: a group holds at most %d calls", call->name,
                         CALLS_MAX);
    if (group.count == group.capacity) {
        size_t capacity = group.capacity ? 2 * group.capacity : 64;
        struct face_call *calls = realloc(group.calls, capacity * sizeof *calls);
        if (!calls)
            return face_fail(ncclSystemError, "%s: no memory for a group of %zu calls", call->name,
                             capacity);
        group.calls = calls;
        group.capacity = capacity;
    }
    group.calls[group.count++] = *call;
    return ncclSuccess;
}

static bool reduces(const struct face_call *call)
{
    return call->coll == TUTTI_COLL_ALLREDUCE || call->coll == TUTTI_COLL_REDUCE_SCATTER ||
           call->coll == TUTTI_COLL_REDUCE;
}

bool face_group_ends_op(ncclComm_t comm, tutti_op op)
{
    for (size_t i = 0; i < group.count; i++) {
        struct face_call *call = &group.calls[i];
        if (call->comm == comm && reduces(call) && call->op == op && !call->ends_op)
            return call->ends_op = true;
    }
    return false;
}

/* The group's calls have run, or never will. */
static void end_ops(void)
{
    for (size_t i = 0; i < group.count; i++) {
        const struct face_call *call = &group.calls[i];
        if (!call->ends_op)
            continue;
        tutti_op_destroy(face_tutti(call->comm), call->op);
        face_leave(call->comm);
    }
}

/* Forgets the group. */
static void forget(void)
{
    face_jobs_cancel(group.jobs);
    group.jobs = NULL;
    group.error = ncclSuccess;
    group.count = 0;
    free(group.calls);
    group.calls = NULL;
    group.capacity = 0;
}

static void leave_calls(size_t count)
{
    for (size_t i = 0; i < count; i++)
        face_leave(group.calls[i].comm);
}

static bool to_self(const struct face_call *call)
{
    return call->coll == TUTTI_COLL_SENDRECV && call->root == call->comm->rank;
}

/* A transfer of a rank to itself has both halves in the group, or would never end. The library says
 * so too, but as of an argument, and of a stream's only when that comes to it. */
static ncclResult_t check_pairs(void)
{
    for (size_t i = 0; i < group.count; i++)
        group.calls[i].comm->to_self = 0;
    for (size_t i = 0; i < group.count; i++) {
        if (to_self(&group.calls[i]))
            group.calls[i].comm->to_self += group.calls[i].is_send ? 1 : -1;
    }
    for (size_t i = 0; i < group.count; i++) {
        const ncclComm_t comm = group.calls[i].comm;
        if (comm->to_self != 0)
            return face_fail(ncclInvalidUsage, "rank %d %s itself in a group that does not %s it",
                             comm->rank, comm->to_self > 0 ? "sends to" : "receives from",
                             comm->to_self > 0 ? "receive" : "send");
    }
    return ncclSuccess;
}

/* All calls as one group of the library: nothing runs if one of them is refused. */
static ncclResult_t run_calls(void)
{
    size_t entered = 0;
    if (group.count == 0)
        return ncclSuccess;
    ncclResult_t result = face_result(tutti_group_start());
    while (entered < group.count && result == ncclSuccess) {
        const struct face_call *call = &group.calls[entered];
        result = face_enter_grouped(call->comm, call->name);
        if (result != ncclSuccess)
            break;
        entered++;
        result = face_result(face_call_run(call));
    }
    if (result == ncclSuccess)
        result = check_pairs();
    for (size_t i = 0; i < group.count && result == ncclSuccess; i++)
        result = face_call_record(&group.calls[i]);
    if (result != ncclSuccess)
        tutti_group_cancel();
    else
        result = face_result(tutti_group_end());
    leave_calls(entered);
    return result;
}

ncclResult_t face_group_end(void)
{
    if (group.depth == 0)
        return face_fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--group.depth > 0)
        return ncclSuccess;
    ncclResult_t result = group.error;
    bool later = false;
    if (result != ncclSuccess)
        face_fail(result, "%s", group.sentence);
    else
        result = face_jobs_run(&group.jobs, false);
    if (result == ncclInProgress) {
        later = true;
        result = ncclSuccess;
    }
    if (result == ncclSuccess)
        result = run_calls();
    end_ops();
    if (result == ncclSuccess)
        result = face_jobs_run(&group.jobs, true);
    forget();
    return result == ncclSuccess && later ? ncclInProgress : result;
}

NCCL_FACE(ncclResult_t, ncclGroupStart, (void))
{
    face_group_start();
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclGroupEnd, (void))
{
    return face_group_end();
}

/* ---- simulation -------------------------------------------------------------------------------
 */

/* Calls of one communicator follow each other; sends and receives run both ways at once. */
static ncclResult_t comm_estimate(ncclComm_t comm, double *microseconds)
{
    double calls = 0, sends = 0, recvs = 0;
    ncclResult_t result = face_enter(comm, "ncclGroupSimulateEnd");
    if (result != ncclSuccess)
        return result;
    tutti_comm *tutti = face_tutti(comm);
    for (size_t i = 0; i < group.count && result == ncclSuccess; i++) {
        const struct face_call *call = &group.calls[i];
        double one = 0;
        if (call->comm != comm)
            continue;
        result = face_result(tutti_comm_predict(tutti, call->coll, call->in, call->out, call->count,
                                                call->dtype, call->op, call->root, &one));
        *(call->coll != TUTTI_COLL_SENDRECV ? &calls : call->is_send ? &sends : &recvs) += one;
    }
    face_leave(comm);
    *microseconds = calls + (sends > recvs ? sends : recvs);
    return result;
}

/* Communicators work side by side. */
static ncclResult_t estimate(double *microseconds)
{
    ncclResult_t result = group.error;
    *microseconds = 0;
    if (result != ncclSuccess)
        return face_fail(result, "%s", group.sentence);
    if (group.jobs)
        return face_fail(ncclInvalidUsage,
                         "ncclGroupSimulateEnd: the group makes or ends communicators: only "
                         "collectives, sends and receives can be simulated");
    for (size_t i = 0; i < group.count && result == ncclSuccess; i++) {
        double one;
        size_t j = 0;
        while (group.calls[j].comm != group.calls[i].comm)
            j++;
        if (j < i)
            continue;
        result = comm_estimate(group.calls[i].comm, &one);
        if (one > *microseconds)
            *microseconds = one;
    }
    return result;
}

static ncclResult_t check_info(const ncclSimInfo_t *info)
{
    static const ncclSimInfo_t fresh = NCCL_SIM_INFO_INITIALIZER;
    if (info && info->magic != fresh.magic)
        return face_fail(ncclInvalidArgument,
                         "ncclGroupSimulateEnd: simInfo has the magic 0x%x, expected 0x%x: begin "
                         "it with NCCL_SIM_INFO_INITIALIZER",
                         info->magic, fresh.magic);
    if (info && info->size < sizeof fresh)
        return face_fail(ncclInvalidArgument,
                         "ncclGroupSimulateEnd: simInfo has %zu bytes, expected %zu", info->size,
                         sizeof fresh);
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclGroupSimulateEnd, (ncclSimInfo_t * simInfo))
{
    double microseconds = 0;
    if (group.depth == 0)
        return face_fail(ncclInvalidUsage, "ncclGroupSimulateEnd without ncclGroupStart");
    ncclResult_t result = check_info(simInfo);
    face_group_note(result);
    if (--group.depth > 0)
        return result;
    if (result == ncclSuccess)
        result = estimate(&microseconds);
    if (result == ncclSuccess && simInfo)
        simInfo->estimatedTime = (float)microseconds;
    end_ops();
    forget();
    return result;
}
