/* test_devices.c: ranks on several GPUs: as threads and as processes, in each other's memory where
 * the driver connects the GPUs, through host memory where it does not. Over the stand-in, or over a
 * real driver that has two GPUs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000
#define DEVICES 2

static bool are_there(void)
{
    setenv("TUTTI_TEST_STANDIN_DEVICES", "2", 1);
    if (rig_is_there() && rig_count() >= DEVICES)
        return true;
    suite_skip("wants two GPUs");
    return false;
}

/* ---- a GPU for each rank ----------------------------------------------------------------------
 */

static void enter(int rank)
{
    rig_enter(rank % DEVICES);
}

static void run_each(enum world_kind kind, int size, const char *const *settings,
                     world_fn *function, void *context)
{
    struct world world = {
        .kind = kind, .size = size, .settings = settings, .limit_s = RUN_LIMIT_S, .prepare = enter};
    run_world(&world, function, context);
}

static int sweep(tutti_comm *comm, int rank, int size, void *context)
{
    enum { CASES = 60 };
    uint64_t state = *(uint64_t *)context;
    int cases = getenv("TUTTI_TEST_FAST") ? CASES / 3 : CASES, wrong = 0;
    cuda_stream stream = rig_stream_take(false);
    struct rig_job *job = calloc(1, sizeof *job);
    for (int i = 0; i < cases && wrong == 0; i++) {
        testcase_generate(&job->c, &state, size, i % 8 == 7 ? 40000 : 700);
        uint64_t choice = suite_random(&state);
        if (choice % 8 > 2)
            job->c.form = FORM_ON_STREAM;
        rig_job_make(job, i, comm, rank, size);
        if (choice / 8 % 3 == 0)
            rig_put_delay(stream, (unsigned)((choice / 32 + (unsigned)rank) % 300));
        wrong += rig_job_put(job, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_job_check(job);
    }
    free(job);
    return wrong + WORLD_OK(tutti_comm_status(comm));
}

static void test_devices_one_for_each_rank(void)
{
    uint64_t seed = suite_seed();
    if (!are_there())
        return;
    run_each(WORLD_THREADS, 2, direct, sweep, &seed);
    run_each(WORLD_THREADS, 5, direct, sweep, &seed);
    run_each(WORLD_THREADS, 3, staged, sweep, &seed);
    run_each(WORLD_PROCESSES, 2, direct, sweep, &seed);
    run_each(WORLD_PROCESSES, 4, direct, sweep, &seed);
}

/* ---- where the work is done -------------------------------------------------------------------
 */

/* What the library says of an allreduce in plain memory and in a pool's, and of the way there. */
struct said {
    const char *plain, *pooled, *links;
};

static int places(tutti_comm *comm, int rank, int size, void *context)
{
    const struct said *said = context;
    cuda_stream stream = rig_stream_take(false);
    cuda_address pooled;
    char text[16384];
    int wrong = 0;
    if (rig_gpu()->pool_alloc(&pooled, COUNT * 4, stream) != CUDA_DRIVER_OK)
        return world_check(rank, 0, "no memory from the pool");
    void *memory[] = {rig_take(COUNT * 4), (void *)(uintptr_t)pooled};
    for (int i = 0; i < 2; i++) {
        const char *where = i ? said->pooled : said->plain;
        wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, memory[i], memory[i],
                                             COUNT, TUTTI_INT32, TUTTI_SUM, 0, text, sizeof text));
        wrong += world_check(rank, strstr(text, where) && strstr(text, said->links),
                             "expected '%s' and '%s' in: %s", where, said->links, text);
        rig_set_ints(memory[i], COUNT, rank);
        wrong += WORLD_OK(
            tutti_allreduce_on(memory[i], memory[i], COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_wrong_ints(rank, memory[i], COUNT, size * (size - 1) / 2, size, where);
    }
    return wrong;
}

static const char in_place[] = "works in GPU memory: ",
                  in_block[] = "in a block of GPU memory that the other ranks can reach",
                  on_host[] = "not every rank's GPU works in the memory of every other's";

static void test_devices_work_in_each_others_memory(void)
{
    struct said said = {in_place, in_block, "priced as on GPUs "};
    if (!are_there())
        return;
    run_each(WORLD_THREADS, 2, direct, places, &said);
    run_each(WORLD_THREADS, 4, direct, places, &said);
    run_each(WORLD_PROCESSES, 2, direct, places, &said);
}

static void run_with(const char *setting, const char *value, enum world_kind kind, int size,
                     struct said said)
{
    setenv(setting, value, 1);
    run_each(kind, size, direct, places, &said);
    unsetenv(setting);
}

static void test_devices_are_linked_or_apart(void)
{
    if (!are_there())
        return;
    if (!rig_is_standin()) {
        suite_skip("GPUs that are apart at will are the stand-in's");
        return;
    }
    for (enum world_kind kind = WORLD_THREADS; kind <= WORLD_PROCESSES; kind++) {
        run_with("TUTTI_TEST_STANDIN_PEERS", "0", kind, 3,
                 (struct said){on_host, on_host, "3 ranks on 1 "});
        run_with("TUTTI_TEST_STANDIN_LINKS", "0", kind, 2,
                 (struct said){in_place, in_block, "on GPUs of one bus: about 12 us and 20 GB/s"});
        run_with("TUTTI_TEST_STANDIN_LINKS", "1", kind, 2,
                 (struct said){in_place, in_block,
                               "on GPUs with links to each other: about 12 us and 200 GB/s"});
    }
}

/* Where processes cannot name their memory for others, or those not map it, only threads work in
 * it.
 */
static void test_devices_whose_memory_stays_in_its_process(void)
{
    struct said threads = {in_place, in_block, ""}, processes = {on_host, on_host, ""};
    if (!are_there())
        return;
    if (!rig_is_standin()) {
        suite_skip("platforms without IPC are the stand-in's");
        return;
    }
    for (int way = 0; way < 2; way++) {
        setenv("TUTTI_TEST_STANDIN_IPC", way ? "2" : "0", 1);
        run_each(WORLD_PROCESSES, 2, direct, places, &processes);
        run(WORLD_PROCESSES, 2, direct, places, &processes);
        run_each(WORLD_THREADS, 2, direct, places, &threads);
    }
    unsetenv("TUTTI_TEST_STANDIN_IPC");
}

/* Memory that peers have mapped is freed, and other memory allocated there. */
static int freed(tutti_comm *comm, int rank, int size, void *context)
{
    char text[16384];
    int wrong = 0, blocks = 0;
    (void)context;
    for (int i = 1; i < 6 && wrong == 0; i++) {
        cuda_address address;
        if (rig_gpu()->alloc(&address, (size_t)i * COUNT * 4) != CUDA_DRIVER_OK)
            return world_check(rank, 0, "no memory");
        void *memory = (void *)(uintptr_t)address;
        wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, memory, memory, COUNT,
                                             TUTTI_INT32, TUTTI_SUM, 0, text, sizeof text));
        blocks += strstr(text, in_block) != NULL;
        rig_set_ints(memory, COUNT, rank);
        wrong += WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
        wrong += rig_wrong_ints(rank, memory, COUNT, size * (size - 1) / 2, size, "a sum");
        wrong += WORLD_OK(tutti_barrier(comm));
        wrong += world_check(rank, rig_gpu()->free(address) == CUDA_DRIVER_OK, "free");
    }
    return wrong + world_check(rank, blocks > 0 || !rig_gpu()->standin, "never in a block");
}

static void test_devices_share_memory_allocated_over_freed(void)
{
    run(WORLD_PROCESSES, 3, direct, freed, NULL);
    if (are_there())
        run_each(WORLD_PROCESSES, 2, direct, freed, NULL);
}

/* ---- several contexts of a GPU ----------------------------------------------------------------
 */

static void enter_context_of_own(int rank)
{
    cuda_context context;
    if (rank == 1 && rig_gpu()->context_create(&context, 0, 0) != CUDA_DRIVER_OK)
        abort();
}

/* Each context has its own addresses: what one was given another one's kernels cannot touch. */
static int contexts(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream;
    cuda_address memory;
    int wrong = 0;
    (void)context;
    if (rig_gpu()->alloc(&memory, COUNT * 4) != CUDA_DRIVER_OK ||
        rig_gpu()->stream_make(&stream, CUDA_STREAM_NON_BLOCKING) != CUDA_DRIVER_OK)
        return world_check(rank, 0, "no memory or no stream");
    void *data = (void *)(uintptr_t)memory;
    rig_set_ints(data, COUNT, rank);
    wrong += WORLD_OK(tutti_allreduce_on(data, data, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_comm_status(comm));
    wrong += rig_wrong_ints(rank, data, COUNT, size * (size - 1) / 2, size, "contexts");
    if (rank != 1)
        return wrong;
    /* Each of the two is GPU 0. */
    char text[8192];
    rig_enter(0);
    void *primary = rig_take(COUNT * 4);
    wrong += WORLD_TAKEN(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, data, primary, COUNT,
                                            TUTTI_INT32, TUTTI_SUM, 0, text, sizeof text),
                         TUTTI_ERR_ARG);
    wrong += world_says(rank, "and out of another context of GPU 0");
    return wrong + world_says(rank, "both must be of one GPU and context");
}

static void test_devices_with_several_contexts(void)
{
    struct world world = {.kind = WORLD_THREADS,
                          .size = 3,
                          .settings = direct,
                          .limit_s = RUN_LIMIT_S,
                          .prepare = enter_context_of_own};
    run_world(&world, contexts, NULL);
}

/* ---- default streams --------------------------------------------------------------------------
 */

/* A default stream is that of the GPU whose memory the call has, in either buffer, whatever GPU is
 * current; a buffer that is not used at a rank says nothing. */
static int default_stream(tutti_comm *comm, int rank, int size, void *context)
{
    int ordinal = *(int *)context, all = size * COUNT, wrong = 0;
    int32_t *host = calloc(COUNT, sizeof *host);
    rig_enter(ordinal);
    void *whole = rig_take((size_t)all * 4), *part = rig_take(COUNT * 4),
         *sum = rig_take(COUNT * 4);
    rig_set_ints(whole, (size_t)all, 0);
    for (int i = 0; i < COUNT; i++)
        host[i] = i;
    rig_enter(0);
    wrong += WORLD_OK(
        tutti_scatter_on(rank == 0 ? whole : (void *)8, part, COUNT, TUTTI_INT32, 0, comm, NULL));
    wrong += WORLD_OK(tutti_allreduce_on(host, sum, COUNT, TUTTI_INT32, TUTTI_SUM, comm, NULL));
    rig_enter(ordinal);
    wrong += rig_await(rank, NULL, AWAIT_S) + WORLD_OK(tutti_comm_status(comm));
    wrong += rig_wrong_ints(rank, part, COUNT, rank * COUNT, 1, "scattered");
    wrong += rig_wrong_ints(rank, sum, COUNT, 0, size, "reduced");
    free(host);
    return wrong;
}

static void test_devices_have_default_streams(void)
{
    int ordinal = 0;
    run(WORLD_PROCESSES, 2, direct, default_stream, &ordinal);
    ordinal = DEVICES - 1;
    if (are_there())
        run(WORLD_PROCESSES, 2, direct, default_stream, &ordinal);
}

/* ---- bad input -------------------------------------------------------------------------------
 */

static cuda_address memory_of(int ordinal)
{
    cuda_address address = 0;
    rig_enter(ordinal);
    if (rig_gpu()->alloc(&address, COUNT * 4) != CUDA_DRIVER_OK)
        abort();
    return address;
}

static int two_devices(tutti_comm *comm, int rank, int size, void *context)
{
    void *first = (void *)(uintptr_t)memory_of(0), *second = (void *)(uintptr_t)memory_of(1);
    cuda_stream there = NULL, here = rig_stream_take(false);
    int wrong = 0;
    (void)context;
    if (rig_gpu()->stream_make(&there, CUDA_STREAM_NON_BLOCKING) != CUDA_DRIVER_OK)
        return world_check(rank, 0, "no stream on the second GPU");
    rig_enter(0);
    here = rig_stream_take(false);
    wrong += WORLD_TAKEN(tutti_allreduce(first, second, COUNT, TUTTI_INT32, TUTTI_SUM, comm),
                         TUTTI_ERR_ARG);
    char sentence[256];
    snprintf(sentence, sizeof sentence, "allreduce: in is memory of GPU 0");
    wrong += world_says(rank, sentence);
    snprintf(sentence, sizeof sentence, "at rank %d: both must be of one GPU", rank);
    wrong += world_says(rank, sentence);
    wrong +=
        WORLD_TAKEN(tutti_allreduce_on(first, first, COUNT, TUTTI_INT32, TUTTI_SUM, comm, there),
                    TUTTI_ERR_ARG);
    wrong += world_says(rank, "allreduce: the stream belongs to GPU 1");
    wrong += world_says(rank, "but the buffers to GPU 0");
    /* Nothing moved: the communicator works. */
    rig_set_ints(first, COUNT, rank);
    wrong += WORLD_OK(tutti_allreduce_on(first, first, COUNT, TUTTI_INT32, TUTTI_SUM, comm, here));
    wrong += rig_await(rank, here, AWAIT_S);
    return wrong +
           rig_wrong_ints(rank, first, COUNT, size * (size - 1) / 2, size, "after the refusals");
}

static void test_devices_in_one_call_are_refused(void)
{
    if (!are_there())
        return;
    run(WORLD_THREADS, 2, direct, two_devices, NULL);
    run(WORLD_PROCESSES, 2, direct, two_devices, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"one_for_each_rank", test_devices_one_for_each_rank},
        {"work_in_each_others_memory", test_devices_work_in_each_others_memory},
        {"are_linked_or_apart", test_devices_are_linked_or_apart},
        {"whose_memory_stays_in_its_process", test_devices_whose_memory_stays_in_its_process},
        {"share_memory_allocated_over_freed", test_devices_share_memory_allocated_over_freed},
        {"with_several_contexts", test_devices_with_several_contexts},
        {"have_default_streams", test_devices_have_default_streams},
        {"in_one_call_are_refused", test_devices_in_one_call_are_refused},
    };
    return suite_run("devices", tests, sizeof tests / sizeof *tests, argc, argv);
}
