/* speed.c: how long MPI's collectives take, to be run with and without libtutti_mpi.so preloaded:
 * for each call and size (bytes of a rank's buffer) the median of BLOCKS blocks, in microseconds.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCKS = 41, BYTES_MAX = 4 << 20 };

static char *in, *out;

static void call(int which, int bytes, int size)
{
    if (which == 0)
        MPI_Allreduce(in, out, bytes / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (which == 1)
        MPI_Bcast(out, bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    else if (which == 2)
        MPI_Allgather(in, bytes / size, MPI_BYTE, out, bytes / size, MPI_BYTE, MPI_COMM_WORLD);
    else
        MPI_Alltoall(in, bytes / size, MPI_BYTE, out, bytes / size, MPI_BYTE, MPI_COMM_WORLD);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"allreduce", "bcast", "allgather", "alltoall"};
    static const int sizes[] = {8, 4096, 65536, BYTES_MAX}, calls[] = {400, 200, 50, 3};
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    in = calloc(1, BYTES_MAX);
    out = calloc(1, BYTES_MAX);
    for (int which = 0; in && out && which < 4; which++) {
        for (int s = 0; s < 4; s++) {
            double took[BLOCKS];
            for (int b = 0; b < BLOCKS; b++) {
                MPI_Barrier(MPI_COMM_WORLD);
                double begin = MPI_Wtime();
                for (int i = 0; i < calls[s]; i++)
                    call(which, sizes[s], size);
                MPI_Barrier(MPI_COMM_WORLD); /* a broadcast's root may be far ahead */
                took[b] = (MPI_Wtime() - begin) / calls[s] * 1e6;
            }
            qsort(took, BLOCKS, sizeof took[0], by_value);
            if (rank == 0)
                printf("%s %d %.2f\n", names[which], sizes[s], took[BLOCKS / 2]);
        }
    }
    free(in);
    free(out);
    MPI_Finalize();
    return 0;
}
