/* test_apart_gpu.c: as test_apart.c, of operations on GPU memory: a rank whose call has returned,
 * or whose stream has passed it, is not needed by its peers' calls that belong to it. Over the
 * stand-in driver, or over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <stdlib.h>
#include <unistd.h>

#include "tests/rig_suite.h"

#define AWAIT_S 30

static int cases(void)
{
    return getenv("TUTTI_TEST_FAST") ? 8 : 25;
}

static int collectives(tutti_comm *comm, int rank, int size, void *context)
{
    uint64_t state = *(uint64_t *)context;
    cuda_stream stream = rig_stream_take(false);
    struct rig_job *job = calloc(1, sizeof *job);
    char text[256];
    int wrong = 0;
    for (int i = 0; i < cases() && wrong == 0; i++) {
        testcase_generate(&job->c, &state, size, i % 8 == 7 ? 40000 : 700);
        if (suite_random(&state) % 3 == 0)
            job->c.form = FORM_ON_STREAM;
        testcase_describe(&job->c, i, size, text, sizeof text);
        rig_job_make(job, i, comm, rank, size);
        world_be_late(rank, size, suite_random(&state));
        wrong += rig_job_put(job, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += world_apart(rank, size, text);
        wrong += rig_job_check(job);
    }
    free(job);
    return wrong;
}

/* Messages of one size, one after the other, to one rank. */
static int transfers(tutti_comm *comm, int rank, int size, void *context)
{
    enum { INTS_MAX = 100000 };
    uint64_t state = *(uint64_t *)context;
    void *memory = rig_take(INTS_MAX * sizeof(int));
    int wrong = 0;
    for (int i = 0; i < cases() && wrong == 0; i++) {
        int from = (int)(suite_random(&state) % (uint64_t)size);
        int to = (from + 1 + (int)(suite_random(&state) % (uint64_t)(size - 1))) % size;
        size_t count = suite_random(&state) % (i % 8 == 7 ? INTS_MAX : 3000);
        int messages = 1 + (int)(suite_random(&state) % 9);
        world_be_late(rank, size, suite_random(&state));
        for (int k = 0; k < messages && wrong == 0; k++) {
            if (rank == from) {
                rig_set_ints(memory, count, k);
                wrong += WORLD_OK(tutti_send(memory, count, TUTTI_INT32, to, comm));
            } else if (rank == to) {
                wrong += WORLD_OK(tutti_recv(memory, count, TUTTI_INT32, from, comm));
                wrong += rig_wrong_ints(rank, memory, count, k, 1, "what came");
            }
        }
        wrong += world_apart(rank, size, "messages");
    }
    rig_give(memory);
    return wrong;
}

static void run_all(world_fn *function)
{
    uint64_t seed = suite_seed();
    run(WORLD_THREADS, 3, direct, function, &seed);
    run(WORLD_THREADS, 2, staged, function, &seed);
    run(WORLD_THREADS, 3, by_kernels, function, &seed);
    run(WORLD_PROCESSES, 2, direct, function, &seed);
    run(WORLD_PROCESSES, 5, direct, function, &seed);
    run(WORLD_PROCESSES, 3, staged, function, &seed);
}

static void test_apart_gpu_after_collectives(void)
{
    run_all(collectives);
}

static void test_apart_gpu_after_transfers(void)
{
    run_all(transfers);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"after_collectives", test_apart_gpu_after_collectives},
        {"after_transfers", test_apart_gpu_after_transfers},
    };
    return suite_run("apart_gpu", tests, sizeof tests / sizeof *tests, argc, argv);
}
