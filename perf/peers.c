/* peers.c: the libraries that --peer knows. coll_perf binds the ranks, for both libraries alike, so
 * launchers are told not to. */
#include "perf/peer.h"

const struct peer_kind peer_kinds[] = {
    {"mpi",
     "Open MPI",
     "libopenmpi-dev",
     {"mpirun.openmpi", "mpirun"},
     {"--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-np"}},
    {"mpich",
     "MPICH",
     "libmpich-dev",
     {"mpiexec.mpich", "mpiexec.hydra"},
     {"-bind-to", "none", "-n"}},
    {"gloo", "Gloo", "libgloo-dev", {NULL}, {NULL}},
};
const size_t peer_kind_count = sizeof peer_kinds / sizeof peer_kinds[0];
