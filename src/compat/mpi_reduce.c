/* mpi_reduce.c: the calls that reduce, and the barrier. Their elements are of predefined types, and
 * lie in memory as Tutti wants them. */
#include <string.h>

#include "mpi_face.h"

/* What is wrong by itself goes to MPI, which says so in its own way. */
static bool is_buffer(const void *buffer, size_t count)
{
    return buffer != MPI_IN_PLACE && (buffer != NULL || count == 0);
}

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
    if (!is_ours(&r, comm, CALL_ALLREDUCE, type, op) || count < 0 ||
        !is_buffer(in, (size_t)count) || !is_buffer(recvbuf, (size_t)count))
        return PMPI_Allreduce(sendbuf, recvbuf, count, type, op, comm);
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
    if (!ours || count < 0 || root < 0 || root >= r.face->size || !is_buffer(in, (size_t)count) ||
        (is_root && !is_buffer(recvbuf, (size_t)count)))
        return PMPI_Reduce(sendbuf, recvbuf, count, type, op, root, comm);
    tutti_status status = tutti_reduce_start(in, is_root ? recvbuf : NULL, (size_t)count, r.dtype,
                                             r.op, root, r.face->comm, &request);
    return face_wait(r.face, comm, CALL_REDUCE, status, request);
}

/* In place the result comes to lie where the input began; Tutti leaves it in its own block. */
static int settle(int code, void *recvbuf, const char *result, size_t bytes)
{
    if (code == MPI_SUCCESS && result != recvbuf)
        memmove(recvbuf, result, bytes);
    return code;
}

int MPI_Reduce_scatter_block(const void *sendbuf, void *recvbuf, int count, MPI_Datatype type,
                             MPI_Op op, MPI_Comm comm)
{
    struct reduction r;
    tutti_request *request = NULL;
    bool in_place = sendbuf == MPI_IN_PLACE;
    const void *in = in_place ? recvbuf : sendbuf;
    if (!is_ours(&r, comm, CALL_REDUCE_SCATTER_BLOCK, type, op) || count < 0 ||
        !is_buffer(in, (size_t)count) || !is_buffer(recvbuf, (size_t)count))
        return PMPI_Reduce_scatter_block(sendbuf, recvbuf, count, type, op, comm);
    size_t bytes = (size_t)count * tutti_dtype_size(r.dtype);
    char *out = (char *)recvbuf + (in_place ? bytes * (size_t)r.face->rank : 0);
    tutti_status status =
        tutti_reduce_scatter_start(in, out, (size_t)count, r.dtype, r.op, r.face->comm, &request);
    return settle(face_wait(r.face, comm, CALL_REDUCE_SCATTER_BLOCK, status, request), recvbuf, out,
                  bytes);
}

int MPI_Reduce_scatter(const void *sendbuf, void *recvbuf, const int counts[], MPI_Datatype type,
                       MPI_Op op, MPI_Comm comm)
{
    struct reduction r;
    tutti_request *request = NULL;
    bool in_place = sendbuf == MPI_IN_PLACE, ours = counts != NULL;
    const void *in = in_place ? recvbuf : sendbuf;
    size_t before = 0, all = 0;
    ours = ours && is_ours(&r, comm, CALL_REDUCE_SCATTER, type, op);
    for (int i = 0; ours && i < r.face->size; i++) {
        ours = counts[i] >= 0;
        r.face->room[i] = (size_t)counts[i];
        before += i < r.face->rank ? r.face->room[i] : 0;
        all += r.face->room[i];
    }
    if (!ours || !is_buffer(in, all) || !is_buffer(recvbuf, r.face->room[r.face->rank]))
        return PMPI_Reduce_scatter(sendbuf, recvbuf, counts, type, op, comm);
    size_t each = tutti_dtype_size(r.dtype);
    char *out = (char *)recvbuf + (in_place ? before * each : 0);
    tutti_status status =
        tutti_reduce_scatterv_start(in, out, r.face->room, r.dtype, r.op, r.face->comm, &request);
    return settle(face_wait(r.face, comm, CALL_REDUCE_SCATTER, status, request), recvbuf, out,
                  r.face->room[r.face->rank] * each);
}

#pragma GCC visibility pop
