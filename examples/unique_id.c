/* unique_id.c: ranks that the program starts itself. One process makes a unique id, the program
 * carries its 128 bytes to the others (here: by a pipe, which all inherit; a cluster would use a
 * file or a socket), and every rank creates the communicator from it.
 *
 *     unique_id [RANKS]
 *
 * The ranks then pass a token around the ring with send and receive, and the sum of all ranks is
 * gathered in place. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <tutti/tutti.h>
#include <unistd.h>

enum { RANKS_MAX = 64 };

static int fail(int rank, const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, tutti_last_error());
    return 1;
}

/* The id: rank 0 makes it and writes a copy for each other rank; they read theirs. */
static int share_id(int rank, int size, const int ends[2], tutti_unique_id *id)
{
    if (rank > 0)
        return read(ends[0], id, sizeof *id) == (ssize_t)sizeof *id ? 0 : 1;
    if (tutti_unique_id_create(id) != TUTTI_OK)
        return fail(rank, "unique id");
    for (int r = 1; r < size; r++) {
        if (write(ends[1], id, sizeof *id) != (ssize_t)sizeof *id)
            return 1;
    }
    return 0;
}

static int rank_main(int rank, int size, const int ends[2])
{
    tutti_unique_id id;
    tutti_comm *comm;
    int64_t blocks[RANKS_MAX] = {0}, total = 0, token = rank, received = -1;
    int next = (rank + 1) % size, before = (rank + size - 1) % size;
    if (rank > 0)
        close(ends[1]);
    if (share_id(rank, size, ends, &id) != 0)
        return 1;
    if (tutti_comm_create(size, &id, rank, &comm) != TUTTI_OK)
        return fail(rank, "create");
    /* a group lets every rank send and receive at once, whatever the order */
    tutti_group_start();
    tutti_send(&token, 1, TUTTI_INT64, next, comm);
    tutti_recv(&received, 1, TUTTI_INT64, before, comm);
    if (tutti_group_end() != TUTTI_OK)
        return fail(rank, "ring");
    blocks[rank] = received; /* in place: this rank's block lies where the result has it */
    if (tutti_allgather(&blocks[rank], blocks, 1, TUTTI_INT64, comm) != TUTTI_OK)
        return fail(rank, "allgather");
    for (int r = 0; r < size; r++)
        total += blocks[r];
    if (rank == 0)
        printf("%d ranks, tokens add up to %lld\n", size, (long long)total);
    if (tutti_comm_finalize(comm) != TUTTI_OK)
        return fail(rank, "finalize");
    tutti_comm_destroy(comm);
    return received == before && total == (int64_t)size * (size - 1) / 2 ? 0 : 1;
}

int main(int argc, char **argv)
{
    int size = argc > 1 ? atoi(argv[1]) : 4, ends[2], worst = 0;
    if (size < 1 || size > RANKS_MAX) {
        fprintf(stderr, "usage: unique_id [RANKS], 1 to %d\n", RANKS_MAX);
        return 2;
    }
    if (pipe(ends) != 0) {
        perror("pipe");
        return 1;
    }
    for (int rank = 0; rank < size; rank++) {
        if (fork() == 0)
            return rank_main(rank, size, ends);
    }
    close(ends[0]);
    close(ends[1]); /* a rank that waits for its id learns when rank 0 is gone */
    for (int rank = 0; rank < size; rank++) {
        int status = 1;
        wait(&status);
        worst = status != 0 ? 1 : worst;
    }
    return worst;
}
