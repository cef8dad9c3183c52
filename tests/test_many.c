/* test_many.c: many more ranks than cores, and the same bits everywhere: the whole executor with a
 * hundred ranks and more as threads, dozens as processes, and every allreduce algorithm on values
 * whose sum depends on the order of additions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/algorithm.h"
#include "tests/suite.h"
#include "tests/world.h"

static int everything(tutti_comm *comm, int rank, int size, void *context)
{
    size_t n = *(size_t *)context;
    int *in = calloc(n * (size_t)size, sizeof *in), *out = calloc(n * (size_t)size, sizeof *out);
    int wrong = 0, last = size - 1;
    for (size_t i = 0; i < n; i++)
        in[i] = rank + (int)i;
    tutti_status s = tutti_allreduce(in, out, n, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, s == TUTTI_OK && out[n - 1] == size * last / 2 + size * (int)(n - 1),
                         "allreduce: %d, %s", out[n - 1], tutti_last_error());
    s = tutti_allgather(in, out, n, TUTTI_INT32, comm);
    for (int r = 0; r < size && !wrong; r++)
        wrong +=
            world_check(rank, s == TUTTI_OK && out[(size_t)r * n] == r, "allgather block %d", r);
    for (int r = 0; r < size; r++)
        in[(size_t)r * n] = rank * 1000 + r;
    s = tutti_alltoall(in, out, n, TUTTI_INT32, comm);
    for (int r = 0; r < size && !wrong; r++)
        wrong += world_check(rank, s == TUTTI_OK && out[(size_t)r * n] == r * 1000 + rank,
                             "alltoall block %d: %s", r, tutti_last_error());
    wrong += world_check(rank, tutti_barrier(comm) == TUTTI_OK, "%s", tutti_last_error());
    free(in);
    free(out);
    return wrong;
}

static int smaller(int full, int fast)
{
    return getenv("TUTTI_TEST_FAST") ? fast : full;
}

static void run(enum world_kind kind, int size, const char *transport, size_t count)
{
    const char *settings[] = {transport, NULL};
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = 200};
    CU_ASSERT_EQUAL(world_run(&world, everything, &count), 0);
}

static void test_many_threads(void)
{
    run(WORLD_THREADS, 100, "TUTTI_TRANSPORTS=inproc", 3);
    run(WORLD_THREADS, smaller(256, 128), "TUTTI_TRANSPORTS=inproc", 40);
}

static void test_many_processes(void)
{
    run(WORLD_PROCESSES, smaller(64, 32), "TUTTI_TRANSPORTS=shm", 3);
    run(WORLD_PROCESSES, smaller(64, 32), "TUTTI_TRANSPORTS=shm", 500);
}

static void test_many_processes_over_tcp(void)
{
    run(WORLD_PROCESSES, smaller(24, 12), "TUTTI_TRANSPORTS=tcp", 100);
}

/* ---- bits -------------------------------------------------------------------------------------
 */

static uint64_t digest(const void *data, size_t len)
{
    const uint8_t *bytes = data;
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

/* Sums of such values differ with the order of additions. */
static void fill(float *data, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        data[i] = (float)((double)(suite_random(&seed) >> 20) / 1e6 - 8e6) *
                  (suite_random(&seed) % 7 ? 1.0f : 1e-5f);
}

static int same_bits(tutti_comm *comm, int rank, int size, void *context)
{
    static const size_t counts[] = {1, 3, 1000, 40001};
    uint64_t seed = *(uint64_t *)context + (uint64_t)rank, all[64];
    int wrong = 0;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        size_t n = counts[c];
        float *in = calloc(n, sizeof *in), *out = calloc(n, sizeof *out);
        uint64_t first = 0;
        fill(in, n, seed + c);
        for (int again = 0; again < 2; again++) {
            tutti_status s = tutti_allreduce(in, out, n, TUTTI_FLOAT32, TUTTI_SUM, comm);
            if (s == TUTTI_ERR_SETTING || s == TUTTI_ERR_UNSUPPORTED)
                break; /* the algorithm asked for does not fit this many ranks */
            uint64_t mine = digest(out, n * sizeof *out);
            wrong += world_check(rank, s == TUTTI_OK, "%s", tutti_last_error());
            wrong += world_check(rank, !again || mine == first, "count %zu: two runs differ", n);
            first = mine;
            s = tutti_allgather(&mine, all, 1, TUTTI_UINT64, comm);
            for (int r = 0; r < size && s == TUTTI_OK; r++)
                wrong +=
                    world_check(rank, all[r] == mine, "count %zu: rank %d has other bits", n, r);
        }
        free(in);
        free(out);
    }
    return wrong;
}

static void test_many_allreduce_gives_every_rank_the_same_bits(void)
{
    uint64_t seed = suite_seed();
    for (int i = 0; algorithm_table[i]; i++) {
        char algorithm[96];
        const char *settings[] = {algorithm, "TUTTI_CHUNK=4096", NULL};
        if (algorithm_table[i]->coll != TUTTI_COLL_ALLREDUCE)
            continue;
        snprintf(algorithm, sizeof algorithm, "TUTTI_ALGO=allreduce:%s", algorithm_table[i]->name);
        for (int size = 2; size <= 9; size += size < 5 ? 1 : 2) {
            struct world world = {.kind = WORLD_THREADS, .size = size, .settings = settings};
            int wrong = world_run(&world, same_bits, &seed);
            if (wrong)
                printf("    %s, %d ranks\n", algorithm, size);
            CU_ASSERT_EQUAL(wrong, 0);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"threads", test_many_threads},
        {"processes", test_many_processes},
        {"processes_over_tcp", test_many_processes_over_tcp},
        {"allreduce_gives_every_rank_the_same_bits",
         test_many_allreduce_gives_every_rank_the_same_bits},
    };
    return suite_run("many", tests, sizeof tests / sizeof *tests, argc, argv);
}
