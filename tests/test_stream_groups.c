/* test_stream_groups.c: calls that are several at once: groups over communicators and streams, and
 * large calls that travel in parts. Over the stand-in driver, or over a real one
 * (TUTTI_TEST_CUDA_DRIVER). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/rig_suite.h"

#define AWAIT_S 30

static const char *const mixed[] = {"TUTTI_CUDA_DIRECT_MIN=4096", NULL};

/* A group of collectives and transfers of several communicators, each in any stream, which every
 * rank chooses alone: so what is one unit at one is several at another. */
static int big_group(tutti_comm *comm, int rank, int size, void *context)
{
    enum { JOBS = 8, COMMS = 3 };
    uint64_t state = *(uint64_t *)context, own = state + (uint64_t)rank + 1;
    struct rig_job *jobs = calloc(JOBS, sizeof *jobs);
    cuda_stream streams[COMMS], in[JOBS];
    tutti_comm *comms[COMMS] = {comm};
    int wrong = 0;
    for (int s = 0; s < COMMS; s++)
        streams[s] = rig_stream_take(false);
    for (int c = 1; c < COMMS; c++)
        wrong += WORLD_OK(tutti_comm_dup(comm, &comms[c]));
    for (int i = 0; i < JOBS; i++) {
        uint64_t of = suite_random(&state) % COMMS, choice = suite_random(&own) % 8;
        testcase_generate(&jobs[i].c, &state, size, 3000);
        jobs[i].c.form = FORM_ON_STREAM;
        rig_job_make(&jobs[i], i, comms[of], rank, size);
        in[i] = streams[choice < COMMS ? choice : of];
        rig_put_delay(in[i], (unsigned)(rank * 100));
        rig_job_before(&jobs[i], in[i]);
    }
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < JOBS; i++)
        wrong += WORLD_OK(rig_job_call(&jobs[i], in[i]));
    wrong += WORLD_OK(tutti_group_end());
    for (int i = 0; i < JOBS; i++)
        rig_job_after(&jobs[i], in[i]);
    for (int s = 0; s < COMMS; s++) {
        wrong += rig_await(rank, streams[s], AWAIT_S);
        rig_stream_give(streams[s], false);
    }
    for (int i = 0; i < JOBS; i++)
        wrong += rig_job_check(&jobs[i]);
    for (int c = 1; c < COMMS; c++)
        wrong += WORLD_OK(tutti_comm_destroy(comms[c]));
    free(jobs);
    return wrong;
}

/* Work in the default stream waits for what blocking streams were given, and they for it. Which of
 * a group's streams that is differs from rank to rank: no rank may finish one communicator before
 * it begins with another. */
static int group_in_default_stream(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COMMS = 3, COUNT = 2000 };
    cuda_stream blocking = rig_stream_take(true), other = rig_stream_take(false);
    cuda_stream in[2][COMMS] = {{blocking, NULL, blocking}, {other, blocking, NULL}};
    tutti_comm *comms[COMMS] = {comm};
    void *memory[COMMS];
    int wrong = 0, at = rank % 2;
    (void)context;
    for (int c = 0; c < COMMS; c++) {
        memory[c] = rig_take(COUNT * 4);
        rig_set_ints(memory[c], COUNT, rank);
        wrong += c > 0 ? WORLD_OK(tutti_comm_dup(comm, &comms[c])) : 0;
    }
    wrong += WORLD_OK(tutti_group_start());
    for (int c = 0; c < COMMS; c++)
        wrong += WORLD_OK(tutti_allreduce_on(memory[c], memory[c], COUNT, TUTTI_INT32, TUTTI_SUM,
                                             comms[c], in[at][c]));
    wrong += WORLD_OK(tutti_group_end());
    for (int c = 0; c < COMMS; c++) {
        wrong += rig_await(rank, in[at][c], AWAIT_S);
        wrong += rig_wrong_ints(rank, memory[c], COUNT, size * (size - 1) / 2, size, "a group");
        rig_give(memory[c]);
    }
    for (int c = 1; c < COMMS; c++)
        wrong += WORLD_OK(tutti_comm_destroy(comms[c]));
    return wrong;
}

static void test_stream_groups_in_the_default_stream(void)
{
    run(WORLD_PROCESSES, 2, direct, group_in_default_stream, NULL);
    run(WORLD_PROCESSES, 3, staged, group_in_default_stream, NULL);
}

static void test_stream_groups_of_several(void)
{
    for (uint64_t round = 0; round < 8; round++) {
        uint64_t seed = suite_seed() + round;
        run(WORLD_THREADS, 2, mixed, big_group, &seed);
        run(WORLD_PROCESSES, 3, mixed, big_group, &seed);
    }
}

/* One communicator of a group is aborted before the bytes of the other have come: those are still
 * awaited. Two streams, so that the bytes go by queue. */
static int one_aborted(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000, LOOKS = 20 };
    cuda_stream first = rig_stream_take(false), second = rig_stream_take(false);
    int *source = rig_take(COUNT * 4), *in = rig_take(COUNT * 4), *sum = rig_take(COUNT * 4),
        *lost = rig_take(COUNT * 4), *other = rig_take(COUNT * 4);
    tutti_comm *healthy, *aborted;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &healthy)) + WORLD_OK(tutti_comm_dup(comm, &aborted));
    (void)context;
    rig_set_ints(source, COUNT, rank);
    rig_set_ints(in, COUNT, 1000);
    rig_gate_put((unsigned)rank, first);
    rig_put_copy(first, in, source, COUNT * 4);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(in, sum, COUNT, TUTTI_INT32, TUTTI_SUM, healthy, first));
    wrong += WORLD_OK(tutti_allreduce_on(lost, lost, 1, TUTTI_INT32, TUTTI_SUM, aborted, first));
    wrong += WORLD_OK(tutti_allreduce_on(lost, lost, 1, TUTTI_INT32, TUTTI_SUM, aborted, second));
    wrong += WORLD_OK(tutti_group_end());
    wrong += WORLD_OK(tutti_comm_abort(aborted));
    for (int i = 0; i < LOOKS; i++) /* the proxy meanwhile looks at the group, too */
        wrong += WORLD_OK(tutti_allreduce(other, other, COUNT, TUTTI_INT32, TUTTI_MAX, comm));
    rig_gate_open((unsigned)rank);
    wrong += rig_await(rank, first, AWAIT_S) + rig_await(rank, second, AWAIT_S);
    wrong += rig_wrong_ints(rank, sum, COUNT, size * (size - 1) / 2, size, "the healthy one's");
    wrong += WORLD_OK(tutti_comm_status(healthy)) + WORLD_OK(tutti_comm_destroy(healthy));
    return wrong + WORLD_OK(tutti_comm_destroy(aborted));
}

static void test_stream_groups_of_which_one_is_aborted(void)
{
    run(WORLD_PROCESSES, 2, staged, one_aborted, NULL);
}

/* The same in one stream, which computes for longer than a call may wait for a rank: the other
 * waits for its own stream only. */
static int aborted_while_it_computes(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000, COMPUTES_US = 600000 };
    cuda_stream stream = rig_stream_take(false);
    int *in = rig_take(COUNT * 4), *lost = rig_take(COUNT * 4);
    tutti_comm *healthy, *aborted;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &healthy)) + WORLD_OK(tutti_comm_dup(comm, &aborted));
    (void)context;
    rig_set_ints(in, COUNT, rank);
    rig_gate_put((unsigned)rank, stream);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(in, in, COUNT, TUTTI_INT32, TUTTI_SUM, healthy, stream));
    wrong += WORLD_OK(tutti_allreduce_on(lost, lost, 1, TUTTI_INT32, TUTTI_SUM, aborted, stream));
    wrong += WORLD_OK(tutti_group_end());
    wrong += WORLD_OK(tutti_comm_abort(aborted));
    usleep(COMPUTES_US);
    rig_gate_open((unsigned)rank);
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += rig_wrong_ints(rank, in, COUNT, size * (size - 1) / 2, size, "the healthy one's");
    wrong += WORLD_OK(tutti_comm_status(healthy)) + WORLD_OK(tutti_comm_destroy(healthy));
    return wrong + WORLD_OK(tutti_comm_destroy(aborted));
}

static void test_stream_groups_of_which_one_is_aborted_while_it_computes(void)
{
    static const char *const soon[] = {"TUTTI_CUDA_DIRECT=0", "TUTTI_TIMEOUT_MS=200", NULL};
    run(WORLD_PROCESSES, 1, soon, aborted_while_it_computes, NULL);
}

/* A graph holds such a group: its replays still do what is not of the aborted one. */
static int one_aborted_in_a_graph(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000, REPLAYS = 4 };
    cuda_stream stream = rig_stream_take(false);
    int *source = rig_take(COUNT * 4), *in = rig_take(COUNT * 4), *sum = rig_take(COUNT * 4),
        *copy = rig_take(COUNT * 4), *lost = rig_take(COUNT * 4);
    tutti_comm *healthy, *aborted;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &healthy)) + WORLD_OK(tutti_comm_dup(comm, &aborted));
    (void)context;
    rig_capture_begin(stream);
    rig_put_copy(stream, in, source, COUNT * 4);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_allreduce_on(lost, lost, 1, TUTTI_INT32, TUTTI_MAX, aborted, stream));
    wrong += WORLD_OK(tutti_allreduce_on(in, sum, COUNT, TUTTI_INT32, TUTTI_SUM, healthy, stream));
    wrong += WORLD_OK(tutti_group_end());
    rig_put_copy(stream, copy, sum, COUNT * 4);
    void *executable = rig_capture_end(stream);
    for (int i = 0; i < REPLAYS; i++) {
        rig_set_ints(source, COUNT, rank + 100 * i);
        if (i == REPLAYS / 2) {
            wrong += WORLD_OK(tutti_barrier(comm)) + WORLD_OK(tutti_comm_abort(aborted));
            usleep(20000); /* the proxy looks at the unit meanwhile */
        }
        rig_graph_launch(executable, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_wrong_ints(rank, copy, COUNT, size * (size - 1) / 2 + 100 * i * size, size,
                                "the healthy one's");
    }
    rig_graph_destroy(executable);
    wrong += WORLD_OK(tutti_comm_status(healthy)) + WORLD_OK(tutti_comm_destroy(healthy));
    return wrong + WORLD_OK(tutti_comm_destroy(aborted));
}

static void test_stream_groups_in_a_graph_of_which_one_is_aborted(void)
{
    run(WORLD_PROCESSES, 2, staged, one_aborted_in_a_graph, NULL);
    run(WORLD_PROCESSES, 2, direct, one_aborted_in_a_graph, NULL);
}

/* Rank 0 makes calls of no bytes in the default stream, alone, in groups, and behind others, which
 * all return before rank 1, that waits for this, makes its own. */
static int of_no_bytes(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000, WAYS = 4 };
    cuda_stream stream = rig_stream_take(true);
    int *memory = rig_take(COUNT * 4), *sum = rig_take(COUNT * 4), peer = 1 - rank, wrong = 0;
    (void)context;
    rig_set_ints(memory, COUNT, rank == 0 ? 5 : 1000);
    rig_fill(sum, 0, COUNT * 4);
    for (int way = 0; way < WAYS; way++) {
        size_t sent = way == 1 && rank == 0 ? COUNT : 0,
               received = way == 1 && rank == 1 ? COUNT : 0;
        if (rank == 1)
            wrong += world_await(rank, way + 1);
        if (way == 3)
            wrong += WORLD_OK(
                tutti_allreduce_on(memory, sum, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
        if (way % 3 == 0) {
            wrong +=
                WORLD_OK(tutti_allreduce_on(NULL, NULL, 0, TUTTI_INT32, TUTTI_SUM, comm, NULL));
        } else {
            wrong += WORLD_OK(tutti_group_start());
            wrong += WORLD_OK(tutti_send_on(memory, sent, TUTTI_INT32, peer, comm, NULL));
            wrong += WORLD_OK(tutti_recv_on(memory, received, TUTTI_INT32, peer, comm, NULL));
            wrong += WORLD_OK(tutti_group_end());
        }
        if (rank == 0 && way == 0)
            wrong += world_check(rank, !rig_is_done(NULL), "the default stream does not wait");
        if (rank == 0)
            world_tell();
    }
    wrong += rig_await(rank, NULL, AWAIT_S) + rig_await(rank, stream, AWAIT_S);
    wrong += WORLD_OK(tutti_barrier(comm));
    wrong += rig_wrong_ints(rank, memory, COUNT, 5, 1, "sent beside nothing");
    wrong += rig_wrong_ints(rank, sum, COUNT, size * 5, size, "a sum before nothing");
    rig_give(memory);
    rig_give(sum);
    rig_stream_give(stream, true);
    return wrong;
}

static void test_stream_groups_of_no_bytes(void)
{
    run(WORLD_PROCESSES, 2, direct, of_no_bytes, NULL);
    run(WORLD_PROCESSES, 2, staged, of_no_bytes, NULL);
}

/* ---- large calls in parts --------------------------------------------------------------------
 */

/* Alone, in a group with calls that are not cut, over two streams, from a graph, and without a
 * stream. */
static int in_parts(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1500001, FEW = 1000, WAYS = 5 };
    cuda_stream stream = rig_stream_take(false), other = rig_stream_take(false);
    void *in = rig_take(COUNT * 4), *out = rig_take(COUNT * 4), *sent = rig_take(COUNT * 4),
         *few = rig_take(FEW * 4), *gathered = rig_take((size_t)size * FEW * 4);
    size_t counts[] = {FEW, FEW, FEW};
    int wrong = 0, to = (rank + 1) % size, from = (rank + size - 1) % size;
    (void)context;
    for (int way = 0; way < WAYS; way++) {
        void *executable = NULL;
        int base = way * 1000; /* what the way before left must not do */
        rig_set_ints(in, COUNT, base + rank);
        rig_set_ints(sent, COUNT, rank == 1 ? base + 77 : 0);
        rig_put_delay(stream, (unsigned)(rank * 1000));
        if (way == 3)
            rig_capture_begin(stream);
        if (way < 4)
            wrong += WORLD_OK(tutti_group_start());
        wrong += way == 4 ? WORLD_OK(tutti_allreduce(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, comm))
                          : WORLD_OK(tutti_allreduce_on(in, out, COUNT, TUTTI_INT32, TUTTI_SUM,
                                                        comm, stream));
        if (way > 0 && way < 4) {
            wrong += WORLD_OK(tutti_send_on(in, FEW, TUTTI_INT32, to, comm, stream));
            wrong += WORLD_OK(tutti_recv_on(few, FEW, TUTTI_INT32, from, comm, stream));
            wrong += WORLD_OK(
                tutti_gatherv_on(in, FEW, gathered, counts, NULL, TUTTI_INT32, 0, comm, stream));
        }
        wrong += way == 4 ? WORLD_OK(tutti_broadcast(sent, sent, COUNT, TUTTI_INT32, 1, comm))
                          : WORLD_OK(tutti_broadcast_on(sent, sent, COUNT, TUTTI_INT32, 1, comm,
                                                        way == 2 ? other : stream));
        if (way < 4)
            wrong += WORLD_OK(tutti_group_end());
        if (way == 3) {
            executable = rig_capture_end(stream);
            rig_graph_launch(executable, stream);
            rig_graph_launch(executable, stream);
        }
        wrong += rig_await(rank, stream, AWAIT_S) + rig_await(rank, other, AWAIT_S);
        wrong += rig_wrong_ints(rank, out, COUNT, size * base + size * (size - 1) / 2, size,
                                "a sum in parts");
        wrong += rig_wrong_ints(rank, sent, COUNT, base + 77, 1, "a broadcast in parts");
        if (way > 0 && way < 4)
            wrong += rig_wrong_ints(rank, few, FEW, base + from, 1, "beside it");
        for (int r = 0; rank == 0 && way > 0 && way < 4 && r < size; r++)
            wrong += rig_wrong_ints(rank, (char *)gathered + (size_t)r * FEW * 4, FEW, base + r, 1,
                                    "a v form beside it");
        if (executable)
            rig_graph_destroy(executable);
    }
    rig_give(in);
    rig_give(out);
    rig_give(sent);
    rig_give(few);
    rig_give(gathered);
    return wrong;
}

/* ---- and those whose buffers have blocks ---- */

enum { BLOCK = 200003, BLOCKS_ROOT = 1 };
#define BLOCK_BYTES ((size_t)BLOCK * 4)

struct blocks {
    tutti_coll coll;
    char *in, *out;
    int first; /* element i of the buffer that holds `in` is first + rank + i */
};

/* Whether the call is one of those that are cut, by its explanation. */
static int is_cut(tutti_comm *comm, int rank, const struct blocks *b)
{
    char text[8192];
    int wrong = WORLD_OK(tutti_comm_explain(comm, b->coll, b->in, b->out, BLOCK, TUTTI_INT32,
                                            TUTTI_SUM, BLOCKS_ROOT, text, sizeof text));
    return wrong + world_check(rank, strstr(text, " parts (TUTTI_CUDA_PART)") != NULL,
                               "expected parts: %s", text);
}

static int call_with_blocks(tutti_comm *comm, int rank, const struct blocks *b, cuda_stream stream)
{
    const char *in = b->in;
    char *out = b->out;
    switch (b->coll) {
    case TUTTI_COLL_ALLGATHER:
        return WORLD_OK(tutti_allgather_on(in, out, BLOCK, TUTTI_INT32, comm, stream));
    case TUTTI_COLL_GATHER:
        return WORLD_OK(tutti_gather_on(in, out, BLOCK, TUTTI_INT32, BLOCKS_ROOT, comm, stream));
    case TUTTI_COLL_SCATTER:
        return WORLD_OK(tutti_scatter_on(in, out, BLOCK, TUTTI_INT32, BLOCKS_ROOT, comm, stream));
    case TUTTI_COLL_ALLTOALL:
        return WORLD_OK(tutti_alltoall_on(in, out, BLOCK, TUTTI_INT32, comm, stream));
    default:
        return WORLD_OK(
            tutti_reduce_scatter_on(in, out, BLOCK, TUTTI_INT32, TUTTI_SUM, comm, stream));
    }
}

/* What the output must be, block by block. */
static int wrong_blocks(int rank, int size, const struct blocks *b)
{
    int wrong = 0, mine = b->first + rank * BLOCK, pairs = size * (size - 1) / 2;
    if (b->coll == TUTTI_COLL_REDUCE_SCATTER)
        return rig_wrong_ints(rank, b->out, BLOCK, size * mine + pairs, size, "reduce_scatter");
    if (b->coll == TUTTI_COLL_SCATTER)
        return rig_wrong_ints(rank, b->out, BLOCK, mine + BLOCKS_ROOT, 1, "scatter");
    if (b->coll == TUTTI_COLL_GATHER && rank != BLOCKS_ROOT)
        return 0;
    for (int r = 0; r < size; r++) {
        int from = b->coll == TUTTI_COLL_ALLTOALL ? mine : b->first + r * BLOCK;
        wrong += rig_wrong_ints(rank, b->out + (size_t)r * BLOCK_BYTES, BLOCK, from + r, 1,
                                coll_name(b->coll));
    }
    return wrong;
}

static int blocks_in_parts(tutti_comm *comm, int rank, int size, void *context)
{
    static const struct {
        tutti_coll coll;
        bool in_is_block, out_is_block; /* this rank's of the buffer, in place */
    } colls[] = {
        {TUTTI_COLL_ALLGATHER, true, false}, {TUTTI_COLL_REDUCE_SCATTER, false, true},
        {TUTTI_COLL_ALLTOALL, false, false}, {TUTTI_COLL_GATHER, true, false},
        {TUTTI_COLL_SCATTER, false, true},
    };
    size_t own = (size_t)rank * BLOCK_BYTES, all = (size_t)size * BLOCK;
    cuda_stream stream = rig_stream_take(false);
    char *memory = rig_take(all * 4), *other = rig_take(all * 4);
    int wrong = 0;
    (void)context;
    for (size_t i = 0; i < 2 * sizeof colls / sizeof *colls; i++) {
        bool in_place = i % 2;
        struct blocks b = {.coll = colls[i / 2].coll,
                           .in = memory + (colls[i / 2].in_is_block ? own : 0),
                           .out = (in_place ? memory : other) +
                                  (in_place && colls[i / 2].out_is_block ? own : 0),
                           .first = (int)i * 1000};
        rig_fill(other, 0xff, all * 4);
        rig_set_ints(memory, all, b.first + rank);
        rig_put_delay(stream, (unsigned)(rank * 1000));
        wrong += is_cut(comm, rank, &b);
        wrong += call_with_blocks(comm, rank, &b, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += wrong_blocks(rank, size, &b);
    }
    rig_give(memory);
    rig_give(other);
    return wrong;
}

/* One rank passes host memory, whose calls are not cut; or its one buffer of blocks is. */
static int whole_at_one(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 600000, CALLS = 3 };
    size_t bytes = (size_t)size * COUNT * 4;
    void *memory = rank == 0 ? calloc(1, bytes) : rig_take(bytes), *mine = rig_take(COUNT * 4);
    int wrong = 0;
    (void)context;
    for (int call = 0; call < CALLS; call++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        wrong += WORLD_TAKEN(
            call == 0   ? tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other)
            : call == 1 ? tutti_allgather((char *)memory + (size_t)rank * COUNT * 4, memory, COUNT,
                                          TUTTI_INT32, other)
                        : tutti_scatter(memory, mine, COUNT, TUTTI_INT32, 0, other),
            TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "in GPU memory on every rank or on none");
        wrong += WORLD_OK(tutti_barrier(comm)); /* no rank leaves before all know */
        wrong += WORLD_OK(tutti_comm_destroy(other));
    }
    rig_give(mine);
    if (rank == 0)
        free(memory);
    return wrong;
}

/* More calls than a channel of the hardware has room for behind a wait: their bytes come back, and
 * averages are divided, some other way. */
static int many_calls(tutti_comm *comm, int rank, int size, void *context)
{
    enum { CALLS = 1100, FEW = 16 };
    cuda_stream stream = rig_stream_take(false);
    int *memory = rig_take((size_t)CALLS * FEW * 4);
    int wrong = 0;
    (void)context;
    rig_set_ints(memory, (size_t)CALLS * FEW, rank);
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < CALLS; i++) {
        int *at = memory + (size_t)i * FEW;
        wrong += WORLD_OK(tutti_allreduce_on(at, at, FEW, TUTTI_INT32, TUTTI_SUM, comm, stream));
    }
    wrong += WORLD_OK(tutti_group_end());
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += rig_wrong_ints(rank, memory, (size_t)CALLS * FEW, size * (size - 1) / 2, size,
                            "many calls");
    rig_give(memory);
    return wrong;
}

static void test_stream_groups_of_many_calls(void)
{
    run(WORLD_PROCESSES, 2, staged, many_calls, NULL);
}

/* As many ranks as make more copies of the parts of one call than a queue takes. */
static int parts_of_many(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1000 };
    size_t all = (size_t)size * COUNT;
    char *in = rig_take(all * 4), *out = rig_take(all * 4);
    (void)context;
    rig_fill(out, 0xff, all * 4);
    rig_set_ints(in, all, rank);
    int wrong = WORLD_OK(tutti_alltoall(in, out, COUNT, TUTTI_INT32, comm));
    for (int r = 0; r < size; r++)
        wrong += rig_wrong_ints(rank, out + (size_t)r * COUNT * 4, COUNT, rank * COUNT + r, 1,
                                "alltoall of many");
    rig_give(in);
    rig_give(out);
    return wrong;
}

static void test_stream_groups_and_parts_of_many(void)
{
    static const char *const settings[] = {"TUTTI_CUDA_DIRECT_MIN=1024G", "TUTTI_CUDA_PART=4096",
                                           NULL};
    run(WORLD_THREADS, 40, settings, parts_of_many, NULL);
}

static void test_stream_groups_and_parts(void)
{
    static const char *const settings[] = {"TUTTI_CUDA_DIRECT_MIN=1024G", "TUTTI_CUDA_PART=512K",
                                           NULL};
    run(WORLD_THREADS, 3, settings, in_parts, NULL);
    run(WORLD_PROCESSES, 2, settings, in_parts, NULL);
    run(WORLD_THREADS, 3, settings, blocks_in_parts, NULL);
    run(WORLD_PROCESSES, 2, settings, blocks_in_parts, NULL);
    run(WORLD_PROCESSES, 3, settings, whole_at_one, NULL);
    /* So slow that a part which travels before it has come carries what was there before. */
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "200", 1);
    run(WORLD_PROCESSES, 3, settings, in_parts, NULL);
    run(WORLD_PROCESSES, 3, settings, blocks_in_parts, NULL);
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

/* The root's blocks lie apart, and are more copies than a queue of the device holds. */
static int gather_apart(tutti_comm *comm, int rank, int size, void *context)
{
    size_t *counts = calloc((size_t)size, sizeof *counts);
    size_t *displs = calloc((size_t)size, sizeof *displs), total = 2 * (size_t)size;
    int wrong = 0, *out = NULL, *got = calloc(total, sizeof *got);
    (void)context;
    for (int r = 0; r < size; r++) {
        counts[r] = 1;
        displs[r] = 2 * (size_t)r;
    }
    if (rank == 0) {
        out = rig_take(total * sizeof *out);
        rig_fill(out, 0xff, total * sizeof *out);
    }
    wrong += WORLD_OK(tutti_gatherv(&rank, 1, out, counts, displs, TUTTI_INT32, 0, comm));
    if (rank == 0) {
        rig_copy(got, out, total * sizeof *out);
        rig_give(out);
    }
    for (size_t i = 0; rank == 0 && i < total && wrong < 3; i++)
        wrong += world_check(rank, got[i] == (i % 2 ? -1 : (int)(i / 2)), "element %zu is %d", i,
                             got[i]);
    free(counts);
    free(displs);
    free(got);
    return wrong;
}

static void test_stream_groups_gather_many_blocks_that_lie_apart(void)
{
    static const char *const settings[] = {"TUTTI_CUDA_DIRECT=0", NULL};
    struct world world = {
        .kind = WORLD_THREADS, .size = 1030, .settings = settings, .limit_s = 200};
    if (getenv("TUTTI_TEST_FAST"))
        suite_skip("a thousand ranks are left to the full run");
    else
        CU_ASSERT_EQUAL(rig_run(&world, gather_apart, NULL), 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"of_several", test_stream_groups_of_several},
        {"in_the_default_stream", test_stream_groups_in_the_default_stream},
        {"of_which_one_is_aborted", test_stream_groups_of_which_one_is_aborted},
        {"of_which_one_is_aborted_while_it_computes",
         test_stream_groups_of_which_one_is_aborted_while_it_computes},
        {"in_a_graph_of_which_one_is_aborted",
         test_stream_groups_in_a_graph_of_which_one_is_aborted},
        {"of_no_bytes", test_stream_groups_of_no_bytes},
        {"of_many_calls", test_stream_groups_of_many_calls},
        {"and_parts_of_many", test_stream_groups_and_parts_of_many},
        {"and_parts", test_stream_groups_and_parts},
        {"gather_many_blocks_that_lie_apart", test_stream_groups_gather_many_blocks_that_lie_apart},
    };
    return suite_run("stream_groups", tests, sizeof tests / sizeof *tests, argc, argv);
}
