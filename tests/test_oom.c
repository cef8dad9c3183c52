/* test_oom.c: every allocation fails once. Whatever the library was doing then must end with a
 * status and a sentence, at this rank and at its peers, with nothing leaked (the address sanitizer
 * looks) and nothing hanging. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/suite.h"
#include "tests/world.h"

static int acceptable(int rank, tutti_status status)
{
    return world_check(rank, status == TUTTI_OK || tutti_last_error()[0] != 0,
                       "status %d without a sentence", (int)status);
}

/* More transfers than a group keeps without the allocator; *wrong counts a value that is not what
 * the neighbour sent in its place, though the group ended well. */
static tutti_status exchange(tutti_comm *comm, int rank, int size, int *wrong)
{
    enum { TRANSFERS = 6 };
    int left = (rank + size - 1) % size, in[TRANSFERS], out[TRANSFERS];
    tutti_status status = TUTTI_OK;
    tutti_group_start();
    for (int i = 0; i < TRANSFERS && status == TUTTI_OK; i++) {
        in[i] = 10 * rank + i;
        status = tutti_send(&in[i], 1, TUTTI_INT32, (rank + 1) % size, comm);
        if (status == TUTTI_OK)
            status = tutti_recv(&out[i], 1, TUTTI_INT32, left, comm);
    }
    if (status != TUTTI_OK) {
        tutti_group_cancel();
        return status;
    }
    status = tutti_group_end();
    for (int i = 0; i < TRANSFERS && status == TUTTI_OK; i++)
        *wrong += world_check(rank, out[i] == 10 * left + i, "got %d in place %d", out[i], i);
    return status;
}

/* A little of everything that allocates: plans, links, requests, groups, operations. */
static tutti_status use(tutti_comm *comm, int rank, int size, int *wrong)
{
    float in[64] = {0}, out[64];
    tutti_request *request = NULL;
    tutti_op op;
    tutti_status status = tutti_allreduce(in, out, 7, TUTTI_FLOAT32, TUTTI_SUM, comm);
    if (status == TUTTI_OK)
        status = tutti_alltoall(in, out, 4, TUTTI_FLOAT32, comm);
    if (status == TUTTI_OK)
        status = tutti_allgather_start(in, out, 4, TUTTI_FLOAT32, comm, &request);
    if (request) {
        tutti_status waited = tutti_wait(&request);
        status = status == TUTTI_OK ? waited : status;
    }
    if (status == TUTTI_OK)
        status = tutti_op_create_premulsum(comm, in, TUTTI_FLOAT32, &op);
    if (status == TUTTI_OK)
        status = tutti_allreduce(in, out, 9, TUTTI_FLOAT32, op, comm);
    if (status != TUTTI_OK)
        return status;
    status = exchange(comm, rank, size, wrong);
    /* A rank that has lost a call of a group must not go on as if it had made it. */
    tutti_status next = exchange(comm, rank, size, wrong);
    return status != TUTTI_OK ? status : next;
}

static void test_oom_while_one_rank_begins(void)
{
    bool reached = true;
    for (uint64_t k = 1; reached; k++) {
        tutti_comm *comm = NULL;
        suite_fail_allocation(k);
        tutti_status status = tutti_comm_create_from_env(&comm);
        if (status == TUTTI_OK) {
            int wrong = 0;
            status = use(comm, 0, 1, &wrong);
            CU_ASSERT_EQUAL(wrong + acceptable(0, status), 0);
            CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_OK);
        } else {
            CU_ASSERT_EQUAL(acceptable(0, status), 0);
        }
        reached = suite_allocation_failed();
        suite_fail_allocation(0);
        CU_ASSERT(k < 5000);
    }
}

struct failing {
    uint64_t k;
    bool reached;
    bool unmet; /* links are made while allocations fail */
};

static int fail_at(tutti_comm *comm, int rank, int size, void *context)
{
    struct failing *failing = context;
    world_tell();
    int wrong = world_await(rank, size); /* all have their communicator */
    if (!failing->unmet)
        tutti_barrier(comm);
    if (rank == 0)
        suite_fail_allocation(failing->k);
    tutti_status status = use(comm, rank, size, &wrong);
    wrong += acceptable(rank, status);
    if (rank == 0) {
        failing->reached = suite_allocation_failed();
        suite_fail_allocation(0);
    }
    return wrong;
}

static void test_oom_among_threads(void)
{
    static const char *const settings[] = {"TUTTI_TIMEOUT_MS=1000", NULL};
    uint64_t step = getenv("TUTTI_TEST_FAST") ? 7 : 1;
    for (int unmet = 0; unmet < 2; unmet++) {
        struct failing failing = {.k = 1, .reached = true, .unmet = unmet};
        for (; failing.reached; failing.k += step) {
            struct world world = {.kind = WORLD_THREADS, .size = 2, .settings = settings};
            CU_ASSERT_EQUAL(world_run(&world, fail_at, &failing), 0);
            CU_ASSERT(failing.k < 5000);
        }
    }
}

static void test_oom_among_processes(void)
{
    static const char *const shm[] = {"TUTTI_TRANSPORTS=shm", "TUTTI_TIMEOUT_MS=1000", NULL};
    static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_TIMEOUT_MS=1000", NULL};
    uint64_t step = getenv("TUTTI_TEST_FAST") ? 7 : 1;
    struct failing *failing =
        mmap(NULL, sizeof *failing, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_PTR_NOT_EQUAL_FATAL(failing, MAP_FAILED);
    for (int over_tcp = 0; over_tcp < 2; over_tcp++) {
        *failing = (struct failing){.k = 1, .reached = true, .unmet = true};
        for (; failing->reached; failing->k += step) {
            struct world world = {
                .kind = WORLD_PROCESSES, .size = 2, .settings = over_tcp ? tcp : shm};
            CU_ASSERT_EQUAL(world_run(&world, fail_at, failing), 0);
            CU_ASSERT(failing->k < 5000);
        }
    }
    munmap(failing, sizeof *failing);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"while_one_rank_begins", test_oom_while_one_rank_begins},
        {"among_threads", test_oom_among_threads},
        {"among_processes", test_oom_among_processes},
    };
    return suite_run("oom", tests, sizeof tests / sizeof *tests, argc, argv);
}
