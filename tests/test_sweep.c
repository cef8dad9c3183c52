/* test_sweep.c: seeded random calls of every collective, type, operation, count, root and
 * algorithm, in place and not, at many rank counts over every transport, compared with a naive
 * reference. Inputs are small integers, exact in every type, so that the comparison is exact. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "tests/testcase.h"
#include "tests/world.h"

struct sweep {
    uint64_t seed;
    int cases;
    size_t count_max;
};

static int sweep(tutti_comm *comm, int rank, int size, void *context)
{
    struct sweep *s = context;
    uint64_t state = s->seed;
    int wrong = 0;
    struct testcase *c = malloc(sizeof *c);
    for (int i = 0; i < s->cases && wrong == 0; i++) {
        testcase_generate(c, &state, size, s->count_max);
        int library = suite_random(&state) % 2 == 0;
        int result = testcase_run(c, library, rank, size, comm, i);
        wrong += result > 0 ? result : 0;
    }
    free(c);
    return wrong;
}

/* ---- suites -----------------------------------------------------------------------------------
 */

static void run_sweep(enum world_kind kind, const char *transports, const int *sizes, int cases,
                      size_t count_max)
{
    char algorithms[512];
    const char *settings[] = {transports, "TUTTI_CHUNK=1024", NULL, NULL};
    if (getenv("TUTTI_TEST_FAST"))
        cases = cases / 4 + 1;
    for (; *sizes; sizes++) {
        for (int k = -1; k < 0 || testcase_algorithms(k, algorithms, sizeof algorithms); k++) {
            settings[2] = k < 0 ? NULL : algorithms;
            struct sweep s = {suite_seed() + (uint64_t)(*sizes * 100 + k), cases, count_max};
            struct world world = {.kind = kind, .size = *sizes, .settings = settings};
            int wrong = world_run(&world, sweep, &s);
            if (wrong)
                printf("    %s %s, %d ranks: %d wrong\n", transports, k < 0 ? "auto" : algorithms,
                       *sizes, wrong);
            CU_ASSERT_EQUAL(wrong, 0);
        }
    }
}

static void test_sweep_inproc(void)
{
    run_sweep(WORLD_THREADS, "TUTTI_TRANSPORTS=inproc", (int[]){1, 2, 3, 4, 5, 7, 8, 13, 0}, 80,
              1500);
}

static void test_sweep_shm(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=shm", (int[]){1, 2, 3, 4, 5, 7, 0}, 80, 6000);
}

static void test_sweep_shm_without_in_place_reads(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_INPLACE=0", (int[]){2, 3, 0}, 40, 6000);
}

static void test_sweep_shm_staged(void)
{
    setenv("TUTTI_CMA", "0", 1);
    run_sweep(WORLD_PROCESSES, "TUTTI_INPLACE=0", (int[]){2, 3, 0}, 40, 6000);
    unsetenv("TUTTI_CMA");
}

static void test_sweep_tcp(void)
{
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=tcp", (int[]){1, 2, 3, 4, 5, 0}, 60, 6000);
}

static void test_sweep_tcp_lanes(void)
{
    setenv("TUTTI_LANES", "3", 1);
    run_sweep(WORLD_PROCESSES, "TUTTI_TRANSPORTS=tcp", (int[]){3, 0}, 40, 20000);
    unsetenv("TUTTI_LANES");
}

/* Hosts are named by TUTTI_HOST_ID per process, so shared memory inside, TCP between. */
static int sweep_hosts(tutti_comm *comm, int rank, int size, void *context)
{
    int hosts;
    int wrong = world_check(rank, tutti_comm_host_count(comm, &hosts) == TUTTI_OK, "host count");
    return wrong + sweep(comm, rank, size, context);
}

/* Over the transports that TUTTI_TEST_TRANSPORTS lists (a setting's value, "shm,roce"), on the
 * hosts of TUTTI_TEST_HOSTS. */
static void test_sweep_chosen(void)
{
    char transports[128];
    snprintf(transports, sizeof transports, "TUTTI_TRANSPORTS=%s", getenv("TUTTI_TEST_TRANSPORTS"));
    run_sweep(WORLD_PROCESSES, transports, (int[]){2, 3, 4, 0}, 40, 20000);
}

static void test_sweep_threads_over_tcp(void)
{
    struct sweep s = {suite_seed(), 60, 3000};
    struct world world = {.kind = WORLD_THREADS,
                          .size = 5,
                          .settings = (const char *[]){"TUTTI_TRANSPORTS=tcp", NULL}};
    CU_ASSERT_EQUAL(world_run(&world, sweep_hosts, &s), 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"inproc", test_sweep_inproc},
        {"shm", test_sweep_shm},
        {"shm_without_in_place_reads", test_sweep_shm_without_in_place_reads},
        {"shm_staged", test_sweep_shm_staged},
        {"tcp", test_sweep_tcp},
        {"tcp_lanes", test_sweep_tcp_lanes},
        {"threads_over_tcp", test_sweep_threads_over_tcp},
    };
    static const struct suite_test chosen[] = {{"chosen", test_sweep_chosen}};
    if (getenv("TUTTI_TEST_TRANSPORTS"))
        return suite_run("sweep", chosen, 1, argc, argv);
    return suite_run("sweep", tests, sizeof tests / sizeof *tests, argc, argv);
}
