/* mpi_reduce.c: the calls that reduce, and the barrier. Their elements are of predefined types, and
 * lie in memory as Tutti wants them. */
#include <stdlib.h>
#include <string.h>

#include "mpi_face.h"

struct reduction {
    struct face *face;
    tutti_dtype dtype;
    tutti_op op;
};

static bool is_ours(struct reduction *r, MPI_Comm comm, enum face_call call, MPI_Datatype type,
                    MPI_Op op)
{
    if (!face_reduction(type, op, &r->dtype, &r->op))
        return false;
    r->face = face_of(comm, call);
    return r->face != NULL;
}

static bool is_nowhere(const void *buffer, size_t count)
{
    return buffer == NULL && count > 0;
}

/* In place the result is taken beside, and then put where the input begins: what lies behind stays
 * as it was, which MPI does not promise and programs expect. counts: NULL where all are count. */
static int scatter(const struct reduction *r, MPI_Comm comm, enum face_call call, const void *in,
                   void *recvbuf, size_t all, size_t count, const size_t *counts)
{
    if (is_nowhere(in, all) || is_nowhere(recvbuf, count))
        return face_give_up(r->face, comm, FACE_NOWHERE);
    size_t bytes = count * tutti_dtype_size(r->dtype);
    tutti_request *request = NULL;
    void *beside = in == recvbuf ? malloc(bytes + 1) : NULL, *out = beside ? beside : recvbuf;
    if (in == recvbuf && !beside)
        return face_give_up(r->face, comm, "no memory for a result in place");
    tutti_comm *tutti = r->face->comm;
    tutti_status status =
        counts ? tutti_reduce_scatterv_start(in, out, counts, r->dtype, r->op, tutti, &request)
               : tutti_reduce_scatter_start(in, out, count, r->dtype, r->op, tutti, &request);
    int code = face_wait(r->face, comm, call, status, request);
    if (code == MPI_SUCCESS && beside)
        memcpy(recvbuf, beside, bytes);
    free(beside);
    return code;
}

#pragma GCC visibility push(default)

int MPI_Barrier(MPI_Comm comm)
{
    struct face *face = face_of(comm, CALL_BARRIER);
    tutti_request *request = NULL;
    if (!face)
        return PMPI_Barrier(comm);
    tutti_status status = tutti_barrier_start(face->comm, &request);
    return face_wait(face, comm, CALL_BARRIER, status, request);
}

int MPI_Allreduce(const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm)
{
    struct reduction r;
    const void *in = sendbuf == MPI_IN_PLACE ? recvbuf : sendbuf;
    tutti_request *request = NULL;
    if (!is_ours(&r, comm, CALL_ALLREDUCE, type, op) || count < 0 || recvbuf == MPI_IN_PLACE)
        return PMPI_Allreduce(sendbuf, recvbuf, count, type, op, comm);
    if (is_nowhere(in, (size_t)count) || is_nowhere(recvbuf, (size_t)count))
        return face_give_up(r.face, comm, FACE_NOWHERE);
    tutti_status status =
        tutti_allreduce_start(in, recvbuf, (size_t)count, r.dtype, r.op, r.face->comm, &request);
    return face_wait(r.face, comm, CALL_ALLREDUCE, status, request);
}

int MPI_Reduce(const void *sendbuf, void *recvbuf, int count, MPI_Datatype type, MPI_Op op,
               int root, MPI_Comm comm)
{
    struct reduction r;
    tutti_request *request = NULL;
    bool ours = is_ours(&r, comm, CALL_REDUCE, type, op), is_root = ours && r.face->rank == root;
    const void *in = is_root && sendbuf == MPI_IN_PLACE ? recvbuf : sendbuf;
    if (!ours || count < 0 || root < 0 || root >= r.face->size || in == MPI_IN_PLACE ||
        (is_root && recvbuf == MPI_IN_PLACE))
        return PMPI_Reduce(sendbuf, recvbuf, count, type, op, root, comm);
    if (is_nowhere(in, (size_t)count) || (is_root && is_nowhere(recvbuf, (size_t)count)))
        return face_give_up(r.face, comm, FACE_NOWHERE);
    tutti_status status = tutti_reduce_start(in, is_root ? recvbuf : NULL, (size_t)count, r.dtype,
                                             r.op, root, r.face->comm, &request);
    return face_wait(r.face, comm, CALL_REDUCE, status, request);
}

int MPI_Reduce_scatter_block(const void *sendbuf, void *recvbuf, int count, MPI_Datatype type,
                             MPI_Op op, MPI_Comm comm)
{
    struct reduction r;
    const void *in = sendbuf == MPI_IN_PLACE ? recvbuf : sendbuf;
    if (!is_ours(&r, comm, CALL_REDUCE_SCATTER_BLOCK, type, op) || count < 0 ||
        recvbuf == MPI_IN_PLACE)
        return PMPI_Reduce_scatter_block(sendbuf, recvbuf, count, type, op, comm);
    return scatter(&r, comm, CALL_REDUCE_SCATTER_BLOCK, in, recvbuf, (size_t)count, (size_t)count,
                   NULL);
}

int MPI_Reduce_scatter(const void *sendbuf, void *recvbuf, const int counts[], MPI_Datatype type,
                       MPI_Op op, MPI_Comm comm)
{
    struct reduction r;
    const void *in = sendbuf == MPI_IN_PLACE ? recvbuf : sendbuf;
    bool ours = is_ours(&r, comm, CALL_REDUCE_SCATTER, type, op) && counts != NULL;
    size_t all = 0;
    for (int i = 0; ours && i < r.face->size; i++) {
        ours = counts[i] >= 0;
        r.face->room[i] = (size_t)counts[i];
        all += (size_t)counts[i];
    }
    if (!ours || recvbuf == MPI_IN_PLACE)
        return PMPI_Reduce_scatter(sendbuf, recvbuf, counts, type, op, comm);
    return scatter(&r, comm, CALL_REDUCE_SCATTER, in, recvbuf, all, r.face->room[r.face->rank],
                   r.face->room);
}

#pragma GCC visibility pop
