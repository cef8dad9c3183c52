/* test_many.c: many more ranks than cores, and the same bits everywhere: the whole executor with a
 * hundred ranks and more as threads, dozens as processes, and every allreduce algorithm on values
 * whose sum depends on the order of additions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* ---- transfers --------------------------------------------------------------------------------
 */

#define TRANSFERS_FEW  1000
#define TRANSFERS_MANY (32 * TRANSFERS_FEW)
/* Thirty-two times as many take as many times as long, and some more where the few are kept in
 * caches (measured: up to 125); were each to look at all others, 1,024 times and more. */
#define TRANSFERS_RATIO 400

/* Transfers of rank 0, which drives the ends of both ranks, so that all that its core does is work:
 * in a group or started, to another or to itself; all of one kind come before the other kind. */
struct transfers {
    tutti_comm *ends[2];
    bool started, sends_first;
    int to;
    tutti_request *requests[2 * TRANSFERS_MANY];
    int32_t in[TRANSFERS_MANY], out[TRANSFERS_MANY];
};

static int transfer_one(struct transfers *all, bool send, size_t at, tutti_request **request)
{
    const int rank = 0;
    tutti_comm *from = all->ends[rank], *to = all->ends[all->to];
    int32_t *in = &all->in[at], *out = &all->out[at];
    if (all->started)
        return send ? WORLD_OK(tutti_send_start(in, 1, TUTTI_INT32, all->to, from, request))
                    : WORLD_OK(tutti_recv_start(out, 1, TUTTI_INT32, rank, to, request));
    return send ? WORLD_OK(tutti_send(in, 1, TUTTI_INT32, all->to, from))
                : WORLD_OK(tutti_recv(out, 1, TUTTI_INT32, rank, to));
}

static int transfer_many(struct transfers *all, size_t count)
{
    const int rank = 0;
    int wrong = all->started ? 0 : WORLD_OK(tutti_group_start());
    for (size_t i = 0; i < 2 * count && !wrong; i++)
        wrong += transfer_one(all, (i < count) == all->sends_first, i % count, &all->requests[i]);
    if (!all->started)
        return wrong + WORLD_OK(tutti_group_end());
    for (size_t i = 0; i < count && !wrong; i++) {
        tutti_request **pair[2] = {&all->requests[i], &all->requests[count + i]};
        int over = 0;
        for (unsigned turn = 0; (*pair[0] || *pair[1]) && !wrong; turn++) {
            if (*pair[turn % 2])
                wrong += WORLD_OK(tutti_test(pair[turn % 2], &over));
        }
    }
    return wrong;
}

static double core_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The least time of all so far. */
static int least_time(struct transfers *all, size_t count, double *least)
{
    const int rank = 0;
    memset(all->out, 0xff, sizeof all->out);
    double begin = core_seconds();
    int wrong = transfer_many(all, count);
    double took = core_seconds() - begin;
    *least = took < *least ? took : *least;
    return wrong + world_check(rank, memcmp(all->in, all->out, count * sizeof *all->in) == 0,
                               "other bytes");
}

static int takes_time_of_each(struct transfers *all)
{
    const int rank = 0;
    double few = 1e9, many = 1e9;
    int wrong = 0;
    for (int again = 0; again < 4 && (again == 0 || many > TRANSFERS_RATIO * few); again++) {
        wrong += least_time(all, TRANSFERS_FEW, &few);
        wrong += least_time(all, TRANSFERS_MANY, &many);
    }
    return wrong + world_check(rank, many <= TRANSFERS_RATIO * few,
                               "%s to rank %d, %s first: %d in %.4f s, %d in %.4f s",
                               all->started ? "started" : "a group", all->to,
                               all->sends_first ? "sends" : "receives", TRANSFERS_FEW, few,
                               TRANSFERS_MANY, many);
}

static int transfers_of_all_kinds(tutti_comm *comm, int rank, int size, void *context)
{
    struct transfers *all = context;
    int wrong = 0;
    (void)size;
    all->ends[rank] = comm;
    world_tell();
    wrong += world_await(rank, 2);
    for (int kind = 0; kind < 8 && rank == 0; kind++) {
        all->started = kind & 1;
        all->sends_first = kind & 2;
        all->to = kind >> 2;
        wrong += takes_time_of_each(all);
    }
    if (rank == 0)
        world_tell();
    return wrong + world_await(rank, 3);
}

static void test_many_transfers(void)
{
    static struct transfers all;
    static const char *const settings[] = {"TUTTI_TRANSPORTS=inproc", NULL};
    struct world world = {.kind = WORLD_THREADS, .size = 2, .settings = settings};
    for (size_t i = 0; i < TRANSFERS_MANY; i++)
        all.in[i] = (int32_t)i;
    CU_ASSERT_EQUAL(world_run(&world, transfers_of_all_kinds, &all), 0);
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
        {"transfers", test_many_transfers},
        {"allreduce_gives_every_rank_the_same_bits",
         test_many_allreduce_gives_every_rank_the_same_bits},
    };
    return suite_run("many", tests, sizeof tests / sizeof *tests, argc, argv);
}
