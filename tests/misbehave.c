/* misbehave.c: one rank of a job in which rank 1 does something wrong; started once per rank by a
 * launcher or by tests/suites/netns.sh. Every other rank must get the right error, with the right
 * sentence, within 5 s.
 *     misbehave none|die|count|type|op|coll
 * or one in which some ranks cannot reach each other, which all must be told:
 *     misbehave apart
 * or one in which all send to the last rank, which computes for that long and does no wrong:
 *     misbehave late SECONDS */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tutti/tutti.h"

#define COUNT 100000

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static tutti_status act(const char *how, int odd, float *in, float *out, tutti_comm *comm)
{
    size_t count = COUNT;
    tutti_dtype dtype = TUTTI_FLOAT32;
    tutti_op op = TUTTI_SUM;
    if (odd && strcmp(how, "die") == 0)
        raise(SIGKILL);
    if (odd && strcmp(how, "coll") == 0)
        return tutti_allgather(in, out, count / 64, dtype, comm);
    if (odd && strcmp(how, "count") == 0)
        count--;
    if (odd && strcmp(how, "type") == 0)
        dtype = TUTTI_INT32;
    if (odd && strcmp(how, "op") == 0)
        op = TUTTI_MAX;
    return tutti_allreduce(in, out, count, dtype, op, comm);
}

/* 64 floats of each rank at the last, which looks only after a while. */
static int wait_for_late(float *in, float *out, unsigned late_s, tutti_comm *comm)
{
    int rank, size;
    tutti_comm_rank(comm, &rank);
    tutti_comm_size(comm, &size);
    if (rank == size - 1)
        sleep(late_s);
    double start = seconds();
    tutti_status status = tutti_gather(in, out, 64, TUTTI_FLOAT32, size - 1, comm);
    double gathered = seconds();
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    double took = seconds() - start - (rank == size - 1 ? 0 : late_s);
    int bad = status != TUTTI_OK || took > 20;
    printf("rank %d: %s: gathered in %.2f s, all done %.2f s after the last came: %s: %s\n", rank,
           bad ? "WRONG" : "right", gathered - start, took, tutti_status_string(status),
           status == TUTTI_OK ? "" : tutti_last_error());
    tutti_comm_destroy(comm);
    return bad;
}

int main(int argc, char **argv)
{
    static float in[COUNT], out[COUNT];
    const char *how = argc > 1 ? argv[1] : "none";
    tutti_comm *comm;
    int rank;
    if (tutti_comm_create_from_env(&comm) != TUTTI_OK) {
        printf("no communicator: %s\n", tutti_last_error());
        return 1;
    }
    if (strcmp(how, "late") == 0 && argc > 2)
        return wait_for_late(in, out, (unsigned)atoi(argv[2]), comm);
    tutti_comm_rank(comm, &rank);
    tutti_status status = TUTTI_OK;
    for (int i = 0; i < 20 && status == TUTTI_OK; i++)
        status = tutti_allreduce(in, out, COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm);
    double start = seconds();
    if (status == TUTTI_OK)
        status = act(how, rank == 1, in, out, comm);
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    double took = seconds() - start;
    bool apart = strcmp(how, "apart") == 0;
    tutti_status want = strcmp(how, "none") == 0  ? TUTTI_OK
                        : strcmp(how, "die") == 0 ? TUTTI_ERR_PEER
                        : apart                   ? TUTTI_ERR_CONNECT
                                                  : TUTTI_ERR_MISMATCH;
    const char *says = apart ? "no connection to rank " : "rank 1 (host ";
    int bad = status != want || took > 5 || (want != TUTTI_OK && !strstr(tutti_last_error(), says));
    printf("rank %d: %s after %.2f s: %s: %s\n", rank, bad ? "WRONG" : "right", took,
           tutti_status_string(status), status == TUTTI_OK ? "" : tutti_last_error());
    tutti_comm_destroy(comm);
    return bad;
}
