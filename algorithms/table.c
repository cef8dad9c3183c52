/* table.c: every algorithm there is, by collective. To add one: name it here; nothing else in the
 * library knows an algorithm by name. Among equal costs the planner takes the earlier line, so
 * simpler ones come first. */
#include <string.h>

#include "algorithms/algorithm.h"

/* X(name): defined as `const struct algorithm name` in a file of its own. */
#define ALGORITHMS(X)                                                                              \
    X(allreduce_direct)                                                                            \
    X(allreduce_rsag)                                                                              \
    X(allreduce_rdoubling)                                                                         \
    X(allreduce_circulant)                                                                         \
    X(allreduce_rabenseifner)                                                                      \
    X(allreduce_ring)                                                                              \
    X(allreduce_tree)                                                                              \
    X(allreduce_hier)                                                                              \
    X(allgather_direct)                                                                            \
    X(allgather_circulant)                                                                         \
    X(allgather_ring)                                                                              \
    X(allgather_bruck)                                                                             \
    X(allgather_hier)                                                                              \
    X(allgatherv_direct)                                                                           \
    X(allgatherv_circulant)                                                                        \
    X(allgatherv_ring)                                                                             \
    X(allgatherv_bruck)                                                                            \
    X(allgatherv_hier)                                                                             \
    X(reduce_scatter_direct)                                                                       \
    X(reduce_scatter_circulant)                                                                    \
    X(reduce_scatter_ring)                                                                         \
    X(reduce_scatter_hier)                                                                         \
    X(reduce_scatterv_direct)                                                                      \
    X(reduce_scatterv_circulant)                                                                   \
    X(reduce_scatterv_ring)                                                                        \
    X(broadcast_flat)                                                                              \
    X(broadcast_binomial)                                                                          \
    X(broadcast_scatter_allgather)                                                                 \
    X(broadcast_hier)                                                                              \
    X(broadcast_chain)                                                                             \
    X(reduce_flat)                                                                                 \
    X(reduce_binomial)                                                                             \
    X(reduce_rsgather)                                                                             \
    X(reduce_hier)                                                                                 \
    X(reduce_chain)                                                                                \
    X(gather_direct)                                                                               \
    X(gather_binomial)                                                                             \
    X(gatherv_direct)                                                                              \
    X(scatter_direct)                                                                              \
    X(scatter_binomial)                                                                            \
    X(scatterv_direct)                                                                             \
    X(alltoall_direct)                                                                             \
    X(alltoall_bruck)                                                                              \
    X(alltoall_pairwise)                                                                           \
    X(alltoall_hier)                                                                               \
    X(alltoallv_direct)                                                                            \
    X(alltoallv_pairwise)                                                                          \
    X(barrier_direct)                                                                              \
    X(barrier_dissemination)                                                                       \
    X(barrier_hier)

#define X(name) extern const struct algorithm name;
ALGORITHMS(X)
#undef X

const struct algorithm *const algorithm_table[] = {
#define X(name) &name,
    ALGORITHMS(X)
#undef X
        NULL};

const struct algorithm *algorithm_find(tutti_coll coll, const char *name)
{
    for (const struct algorithm *const *a = algorithm_table; *a; a++)
        if ((*a)->coll == coll && strcmp((*a)->name, name) == 0)
            return *a;
    return NULL;
}
