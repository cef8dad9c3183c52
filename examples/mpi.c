/* mpi.c: Tutti inside an MPI program. MPI_Allgather is the rendezvous, so nothing else needs to be
 * configured: mpirun -np 4 mpi. The result is compared with MPI's own. */
#include <mpi.h>
#include <stdio.h>
#include <tutti/tutti.h>

enum { COUNT = 10000 };

/* Called a few times while the communicator is made. */
static int allgather(const void *in, void *out, size_t len, void *context)
{
    MPI_Comm comm = *(MPI_Comm *)context;
    return MPI_Allgather(in, (int)len, MPI_BYTE, out, (int)len, MPI_BYTE, comm) != MPI_SUCCESS;
}

int main(int argc, char **argv)
{
    static int in[COUNT], ours[COUNT], theirs[COUNT];
    MPI_Comm world = MPI_COMM_WORLD;
    tutti_comm *comm;
    int rank, size, wrong = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    for (int i = 0; i < COUNT; i++)
        in[i] = rank * 1000 + i;
    if (tutti_comm_create_with(size, rank, allgather, &world, &comm) != TUTTI_OK ||
        tutti_allreduce(in, ours, COUNT, TUTTI_INT32, TUTTI_SUM, comm) != TUTTI_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, tutti_last_error());
        MPI_Abort(world, 1);
    }
    MPI_Allreduce(in, theirs, COUNT, MPI_INT, MPI_SUM, world);
    for (int i = 0; i < COUNT; i++)
        wrong += ours[i] != theirs[i];
    if (rank == 0)
        printf("%d ranks, %d elements differ from MPI's\n", size, wrong);
    tutti_comm_finalize(comm);
    tutti_comm_destroy(comm);
    MPI_Finalize();
    return wrong != 0;
}
