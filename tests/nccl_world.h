/* nccl_world.h: runs a function as every rank of a communicator of the NCCL face, beside one of the
 * native interface, which carries the unique id as MPI would and gives the results to compare with.
 */
#ifndef TESTS_NCCL_WORLD_H
#define TESTS_NCCL_WORLD_H

#include "src/compat/nccl.h"
#include "tests/suite.h"
#include "tests/world.h"

#define TAKEN(call, want) nccl_world_taken(rank, #call, (call), (want), __FILE__, __LINE__)
#define OK(call)          TAKEN(call, ncclSuccess)

/* Counts 1 and complains when a result is not the wanted one. */
int nccl_world_taken(int rank, const char *text, ncclResult_t result, ncclResult_t want,
                     const char *file, int line);
/* Counts 1 when the part is not in this thread's last error. */
int nccl_world_says(int rank, const char *part);
double nccl_world_seconds(void);

/* An id from rank 0, at every rank. */
int nccl_world_id(tutti_comm *native, int rank, ncclUniqueId *id);
/* A blocking communicator of the world's ranks. */
int nccl_world_init(tutti_comm *native, int rank, int size, ncclComm_t *comm);
/* Asks until the communicator is no longer in progress; its state. */
ncclResult_t nccl_world_settle(ncclComm_t comm);

extern const char *const nccl_world_shm[], *const nccl_world_tcp[];
void nccl_world_run(enum world_kind kind, int size, const char *const *settings, world_fn *function,
                    void *context);
/* The communicator has the given place, and works; it is in that state. What is wrong. */
int nccl_world_works(ncclComm_t comm, int rank, int want_rank, int want_size);
int nccl_world_is(ncclComm_t comm, int rank, ncclResult_t want);

#endif
