/* mpi_face.h: what the files of the MPI face share.
 *
 * The face stands between a C program and its MPI by MPI's profiling interface: it defines MPI_X,
 * and calls PMPI_X for whatever it does not take. A call is taken by a fact that all ranks of the
 * communicator share, or handed on by all alike: nothing that one rank alone knows, such as a
 * layout in its memory, may decide. */
#ifndef COMPAT_MPI_FACE_H
#define COMPAT_MPI_FACE_H

#include <limits.h>
#include <mpi.h>
#include <stdbool.h>
#include <tutti/tutti.h>

/* X(NAME, "name in MPI's words"): the calls that are taken. */
#define FACE_CALLS(X)                                                                              \
    X(ALLREDUCE, "allreduce")                                                                      \
    X(REDUCE, "reduce")                                                                            \
    X(REDUCE_SCATTER, "reduce_scatter")                                                            \
    X(REDUCE_SCATTER_BLOCK, "reduce_scatter_block")                                                \
    X(BCAST, "bcast")                                                                              \
    X(ALLGATHER, "allgather")                                                                      \
    X(ALLGATHERV, "allgatherv")                                                                    \
    X(ALLTOALL, "alltoall")                                                                        \
    X(ALLTOALLV, "alltoallv")                                                                      \
    X(GATHER, "gather")                                                                            \
    X(GATHERV, "gatherv")                                                                          \
    X(SCATTER, "scatter")                                                                          \
    X(SCATTERV, "scatterv")                                                                        \
    X(BARRIER, "barrier")

enum face_call {
#define X(NAME, name) CALL_##NAME,
    FACE_CALLS(X)
#undef X
        CALL_COUNT
};

/* What is kept for an MPI communicator, as its attribute. */
struct face {
    tutti_comm *comm; /* NULL: nothing is taken */
    unsigned calls;   /* a bit for each that is, the same at all ranks */
    int rank, size;
    unsigned patience; /* polls before a turn of the core is given to others */
    int error_code;    /* MPI's code for what failed; 0: nothing has */
    size_t *room;      /* four arrays of size numbers, for counts and displacements in bytes */
    struct face *next;
};

/* Whether MPI is there, and with it what the face keeps. Where it is not, every call is MPI's,
 * which says so. */
bool face_is_on(void);

/* The face of comm if this call is taken on it, made at the first call; NULL: it is MPI's. */
struct face *face_of(MPI_Comm comm, enum face_call call);

/* Waits for what was started, lets MPI go on meanwhile, and calls comm's error handler when it
 * failed. What an MPI function returns. */
int face_wait(struct face *face, MPI_Comm comm, enum face_call call, tutti_status started,
              tutti_request *request);
#define FACE_NOWHERE "a buffer with elements is NULL"
/* For what failed at this rank alone before its call began, and for arguments that are wrong and at
 * which MPI does not look, but would wait: peers are told, and the handler. */
int face_give_up(struct face *face, MPI_Comm comm, const char *sentence);

/* ---- types ------------------------------------------------------------------------------------
 */

/* What is asked of MPI once. */
void face_types_prepare(void);

/* Whether Tutti has this reduction; for predefined types and operations alone, which are the same
 * at all ranks. */
bool face_reduction(MPI_Datatype type, MPI_Op op, tutti_dtype *dtype, tutti_op *operation);

struct face_type {
    MPI_Datatype type;
    size_t size;
    MPI_Aint extent;
    bool plain; /* n elements in memory are the bytes that they are packed to */
};
/* False: it is none, which MPI is to say. */
bool face_type_of(MPI_Datatype type, MPI_Comm comm, struct face_type *of);

/* Elements from the program's memory to packed bytes, or back; MPI's code. */
int face_repack(const struct face_type *of, char *memory, size_t count, char *packed, bool unpacks,
                MPI_Comm comm);

#endif
