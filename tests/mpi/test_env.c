/* test_env.c: a program that knows no MPI, started by a launcher: the communicator comes from the
 * launcher's environment. argv[1] is the number of ranks expected, so that a launcher that was not
 * understood (a communicator of one rank) is a failure. With a second argument, which is for PMIx,
 * a child asks, too. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <tutti/tutti.h>
#include <unistd.h>

enum { COUNT = 5000 };

static int fail(int rank, const char *what)
{
    printf("rank %d: %s: %s\n", rank, what, tutti_last_error());
    return 1;
}

/* PMIx serves the process that asked it first, and no child of that. */
static int ask_in_a_child(int rank)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        tutti_comm *comm;
        alarm(20);
        _exit(tutti_comm_create_from_env(&comm) == TUTTI_ERR_FORKED ? 0 : fail(rank, "in a child"));
    }
    waitpid(child, &status, 0);
    if (status != 0)
        printf("rank %d: the child ended with status %#x\n", rank, (unsigned)status);
    return status != 0;
}

int main(int argc, char **argv)
{
    int rank = -1, size = 0, expected = argc > 1 ? atoi(argv[1]) : 1;
    static int32_t in[COUNT], out[COUNT];
    tutti_comm *comm;
    if (tutti_comm_create_from_env(&comm) != TUTTI_OK)
        return fail(rank, "create from the environment");
    tutti_comm_rank(comm, &rank);
    tutti_comm_size(comm, &size);
    if (size != expected || rank < 0 || rank >= size) {
        printf("rank %d of %d, expected a communicator of %d\n", rank, size, expected);
        return 1;
    }
    for (int i = 0; i < COUNT; i++)
        in[i] = i + rank;
    if (tutti_allreduce(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, comm) != TUTTI_OK)
        return fail(rank, "allreduce");
    for (int i = 0; i < COUNT; i++) {
        if (out[i] != size * i + size * (size - 1) / 2) {
            printf("rank %d: element %d is %d\n", rank, i, (int)out[i]);
            return 1;
        }
    }
    if (tutti_comm_finalize(comm) != TUTTI_OK)
        return fail(rank, "finalize");
    tutti_comm_destroy(comm);
    return argc > 2 ? ask_in_a_child(rank) : 0;
}
