/* allreduce.c: the shortest complete program. Run it under any launcher:
 *     mpirun -np 4 allreduce        srun -n 4 allreduce        torchrun --no-python ... allreduce
 * or by hand, once per rank, with TUTTI_RENDEZVOUS=host:port TUTTI_SIZE=4 TUTTI_RANK=0 (1, 2, 3).
 */
#include <stdio.h>
#include <tutti/tutti.h>

int main(void)
{
    tutti_comm *comm;
    int rank = 0;
    if (tutti_comm_create_from_env(&comm) == TUTTI_OK && tutti_comm_rank(comm, &rank) == TUTTI_OK) {
        float mine[4] = {1, 2, 3, (float)rank}, sum[4];
        if (tutti_allreduce(mine, sum, 4, TUTTI_FLOAT32, TUTTI_SUM, comm) == TUTTI_OK) {
            printf("rank %d: %g %g %g %g\n", rank, sum[0], sum[1], sum[2], sum[3]);
            return tutti_comm_finalize(comm) || tutti_comm_destroy(comm);
        }
    }
    fprintf(stderr, "%s\n", tutti_last_error());
    return 1;
}
