/* peers.c: the libraries that --peer knows. coll_perf binds the ranks, for both libraries alike, so
 * launchers are told not to. */
#include "perf/peer.h"

const struct peer_kind peer_kinds[] = {
    {"mpi",
     "Open MPI",
     "libopenmpi-dev",
     {"mpirun.openmpi", "mpirun"},
     {"--oversubscribe", "--allow-run-as-root", "--bind-to", "none", "-np"},
     {{"OMPI_MCA_pml", "ob1"}, {"OMPI_MCA_btl", "tcp,self"}}},
    {"mpich",
     "MPICH",
     "libmpich-dev",
     {"mpiexec.mpich", "mpiexec.hydra"},
     {"-bind-to", "none", "-n"},
     {{NULL, NULL}}}, /* MPIR_CVAR_NOLOCAL and UCX_TLS=tcp: 4 ms for 8 bytes, which says nothing */
    {"gloo", "Gloo", "libgloo-dev", {NULL}, {NULL}, {{NULL, NULL}}},
};
const size_t peer_kind_count = sizeof peer_kinds / sizeof peer_kinds[0];
