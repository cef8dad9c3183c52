/* threads.c: several ranks in one process, as threads, and two communicators driven at once.
 *
 *     threads [RANKS]
 *
 * Each thread is one rank of `all`; split makes a second communicator of even and odd ranks. One
 * group then runs an operation on both: calls inside a group only record, its end runs everything
 * together, so the order in which ranks name the communicators does not matter. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <tutti/tutti.h>

enum { RANKS_MAX = 64, COUNT = 1000 };

struct rank {
    pthread_t thread;
    const tutti_unique_id *id;
    int rank, size, failed;
};

static void *fail(struct rank *self, const char *what)
{
    fprintf(stderr, "rank %d: %s: %s\n", self->rank, what, tutti_last_error());
    self->failed = 1;
    return NULL;
}

static void *rank_main(void *argument)
{
    struct rank *self = argument;
    tutti_comm *all, *half;
    int32_t in[COUNT], sum[COUNT], greatest[COUNT];
    for (int i = 0; i < COUNT; i++)
        in[i] = self->rank + i;
    if (tutti_comm_create(self->size, self->id, self->rank, &all) != TUTTI_OK)
        return fail(self, "create");
    if (tutti_comm_split(all, self->rank % 2, self->rank, &half) != TUTTI_OK)
        return fail(self, "split");
    tutti_group_start();
    tutti_allreduce(in, sum, COUNT, TUTTI_INT32, TUTTI_SUM, all);
    tutti_allreduce(in, greatest, COUNT, TUTTI_INT32, TUTTI_MAX, half);
    if (tutti_group_end() != TUTTI_OK)
        return fail(self, "group");
    int last = self->size - 1, peak = last % 2 == self->rank % 2 ? last : last - 1;
    for (int i = 0; i < COUNT; i++) {
        if (sum[i] != self->size * (self->size - 1) / 2 + self->size * i || greatest[i] != peak + i)
            self->failed = 1;
    }
    if (tutti_comm_finalize(half) != TUTTI_OK || tutti_comm_finalize(all) != TUTTI_OK)
        return fail(self, "finalize");
    tutti_comm_destroy(half);
    tutti_comm_destroy(all);
    return NULL;
}

int main(int argc, char **argv)
{
    struct rank ranks[RANKS_MAX];
    tutti_unique_id id;
    int size = argc > 1 ? atoi(argv[1]) : 4, failed = 0;
    if (size < 1 || size > RANKS_MAX) {
        fprintf(stderr, "usage: threads [RANKS], 1 to %d\n", RANKS_MAX);
        return 2;
    }
    if (tutti_unique_id_create(&id) != TUTTI_OK) {
        fprintf(stderr, "unique id: %s\n", tutti_last_error());
        return 1;
    }
    for (int r = 0; r < size; r++) {
        ranks[r] = (struct rank){.id = &id, .rank = r, .size = size};
        if (pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]) != 0)
            return 1;
    }
    for (int r = 0; r < size; r++) {
        pthread_join(ranks[r].thread, NULL);
        failed += ranks[r].failed;
    }
    printf("%d ranks as threads, %d failed\n", size, failed);
    return failed != 0;
}
