/* test_stream_green.c: green contexts, which are a GPU's primary context with part of its
 * multiprocessors: their streams, and communicators made while one is current. Over the stand-in
 * driver, or over a real one (TUTTI_TEST_CUDA_DRIVER) of CUDA 12.5 or newer. */
#include <string.h>

#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000

static void make_current(int rank)
{
    (void)rank;
    rig_green_enter();
}

/* What the call is said to work in. */
static int works(tutti_comm *comm, int rank, const void *memory, const char *where)
{
    char text[16384];
    int wrong = WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, memory, memory, COUNT,
                                            TUTTI_INT32, TUTTI_SUM, 0, text, sizeof text));
    return wrong +
           world_check(rank, strstr(text, where) != NULL, "expected '%s' in: %s", where, text);
}

/* A sum whose input comes late, in the order of the stream. */
static int sum(tutti_comm *comm, int rank, int size, cuda_stream stream, const char *what)
{
    void *source = rig_take(COUNT * 4), *memory = rig_take(COUNT * 4), *out = rig_take(COUNT * 4);
    rig_set_ints(source, COUNT, rank);
    rig_fill(memory, 0x77, COUNT * 4);
    rig_fill(out, 0x77, COUNT * 4);
    rig_put_delay(stream, 2000);
    rig_put_copy(stream, memory, source, COUNT * 4);
    int wrong =
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    rig_put_copy(stream, out, memory, COUNT * 4);
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_comm_status(comm));
    wrong += rig_wrong_ints(rank, out, COUNT, size * (size - 1) / 2, size, what);
    rig_give(source);
    rig_give(memory);
    rig_give(out);
    return wrong;
}

/* A sum in each of two streams, one of them of a green context, in a group. */
static int sums_of_group(tutti_comm *comm, int rank, int size, cuda_stream green)
{
    cuda_stream streams[2] = {green, rig_stream_take(false)};
    void *memory[2] = {rig_take(COUNT * 4), rig_take(COUNT * 4)};
    int wrong = 0;
    for (int i = 0; i < 2; i++)
        rig_set_ints(memory[i], COUNT, rank + i);
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < 2; i++)
        wrong += WORLD_OK(tutti_allreduce_on(memory[i], memory[i], COUNT, TUTTI_INT32, TUTTI_SUM,
                                             comm, streams[i]));
    wrong += WORLD_OK(tutti_group_end());
    for (int i = 0; i < 2; i++) {
        wrong += rig_await(rank, streams[i], AWAIT_S);
        wrong += rig_wrong_ints(rank, memory[i], COUNT, size * (size - 1) / 2 + i * size, size,
                                "in a group");
        rig_give(memory[i]);
    }
    return wrong;
}

static int sum_of_graph(tutti_comm *comm, int rank, int size, cuda_stream stream)
{
    void *memory = rig_take(COUNT * 4);
    rig_capture_begin(stream);
    int wrong =
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    void *graph = rig_capture_end(stream);
    if (!graph)
        return world_check(rank, 0, "the capture is broken");
    for (int i = 0; i < 3; i++) {
        rig_set_ints(memory, COUNT, rank + i);
        rig_graph_launch(graph, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_wrong_ints(rank, memory, COUNT, size * (size - 1) / 2 + i * size, size,
                                "in a graph");
    }
    rig_graph_destroy(graph);
    return wrong;
}

static int in_their_streams(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream = NULL;
    void *memory = rig_take(COUNT * 4);
    int wrong = works(comm, rank, memory, context);
    if (rig_gpu()->green_stream(&stream, rig_green_make(), CUDA_STREAM_NON_BLOCKING, 0) !=
        CUDA_DRIVER_OK)
        return world_check(rank, 0, "no stream of a green context");
    wrong += sum(comm, rank, size, stream, "in a green context's stream");
    wrong += sums_of_group(comm, rank, size, stream);
    wrong += sum_of_graph(comm, rank, size, stream);
    rig_give(memory);
    return wrong;
}

/* The default stream of the context that is current, too. */
static int while_current(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    int wrong = works(comm, rank, memory, context);
    wrong += sum(comm, rank, size, NULL, "in a green context's default stream");
    wrong += in_their_streams(comm, rank, size, context);
    rig_give(memory);
    return wrong;
}

/* Ranks in their contexts' own streams, then those whose context is green. */
static void run_each(const char *const *settings, const char *where)
{
    struct world world = {.size = 3, .settings = settings, .limit_s = RUN_LIMIT_S};
    if (!rig_has_greens()) {
        suite_skip("the driver makes no green contexts");
        return;
    }
    for (int kind = WORLD_THREADS; kind <= WORLD_PROCESSES; kind++) {
        world.kind = (enum world_kind)kind;
        world.prepare = NULL;
        run_world(&world, in_their_streams, (void *)where);
        world.prepare = make_current;
        run_world(&world, while_current, (void *)where);
    }
}

static void test_stream_green_contexts(void)
{
    run_each(direct, "works in GPU memory: ");
}

static void test_stream_green_contexts_through_host_memory(void)
{
    run_each(staged, "works in pinned host memory, ");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"contexts", test_stream_green_contexts},
        {"contexts_through_host_memory", test_stream_green_contexts_through_host_memory},
    };
    return suite_run("stream_green", tests, sizeof tests / sizeof *tests, argc, argv);
}
