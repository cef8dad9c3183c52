/* test_explain.c: what the library says that it would do with a call is what it then does: the
 * plan, the memory it works in and why, the links it counts with, the price, what it copies. On
 * host memory, and on device memory over the stand-in driver or a real one
 * (TUTTI_TEST_CUDA_DRIVER). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/comm.h"
#include "tests/rig_suite.h"

#define TEXT    4096
#define AWAIT_S 30

static const char *const high[] = {"TUTTI_CUDA_DIRECT_MIN=64K", NULL};
static const char *const over_tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};
static const char *const forced[] = {"TUTTI_CUDA_DIRECT_MIN=64K", "TUTTI_ALGO=allreduce:ring",
                                     "TUTTI_CHUNK=64K", NULL};

static int has(int rank, const char *text, const char *part)
{
    return world_check(rank, strstr(text, part) != NULL, "no \"%s\" in:\n%s", part, text);
}

/* ---- what is said runs ------------------------------------------------------------------------
 */

/* A call, explained, run, and compared with the program that ran it. */
static int as_said(tutti_comm *comm, int rank, const void *in, void *out, size_t count, char *text)
{
    char name[64] = "";
    unsigned long long chunk = 0;
    unsigned lanes = 0;
    double us = 0, predicted_us = -1;
    int wrong = 0;
    wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, in, out, count, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, text, TEXT));
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_ALLREDUCE, in, out, count, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, &predicted_us));
    const char *choice = strstr(text, "\n* ");
    wrong += world_check(
        rank, choice && sscanf(choice, "\n* %63s %llu %u %lf", name, &chunk, &lanes, &us) == 4,
        "no choice in:\n%s", text);
    wrong += world_check(rank, us > predicted_us - 0.01 && us < predicted_us + 0.01,
                         "explained %g us, predicted %g us", us, predicted_us);
    wrong += WORLD_OK(tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm));
    const struct plan *plan = &comm->recent->plan;
    wrong += world_check(rank, strcmp(plan->algorithm->name, name) == 0, "%s ran, said was %s",
                         plan->algorithm->name, name);
    wrong += world_check(rank, plan->knobs.chunk_bytes == chunk && plan->knobs.lanes == lanes,
                         "ran with chunk %llu, lanes %u:\n%s",
                         (unsigned long long)plan->knobs.chunk_bytes, plan->knobs.lanes, text);
    bool said = strstr(text, "works in GPU memory") != NULL;
    wrong += world_check(rank, said == comm->recent->key.on_device, "ran %s:\n%s",
                         comm->recent->key.on_device ? "in GPU memory" : "elsewhere", text);
    return wrong;
}

static int sizes(tutti_comm *comm, int rank, int size, void *context)
{
    enum { SMALLEST = 1000, MOST = 1 << 20 };
    float *in = calloc(MOST, sizeof *in), *out = calloc(MOST, sizeof *out);
    void *device_in = rig_take(MOST * sizeof *in), *device_out = rig_take(MOST * sizeof *in);
    char text[TEXT];
    int wrong = 0;
    (void)size;
    (void)context;
    rig_fill(device_in, 0, MOST * sizeof *in);
    for (size_t count = SMALLEST; count <= MOST; count *= 10) {
        wrong += as_said(comm, rank, in, out, count, text);
        wrong += has(rank, text, "\nworks in host memory\n");
        wrong += has(rank, text, " inside a host");
        wrong += as_said(comm, rank, device_in, device_out, count, text);
    }
    free(in);
    free(out);
    rig_give(device_in);
    rig_give(device_out);
    return wrong;
}

static void test_explain_says_what_runs(void)
{
    run(WORLD_THREADS, 2, high, sizes, NULL);
    run(WORLD_THREADS, 3, direct, sizes, NULL);
    run(WORLD_THREADS, 2, forced, sizes, NULL);
    run(WORLD_PROCESSES, 2, high, sizes, NULL);
    run(WORLD_PROCESSES, 3, staged, sizes, NULL);
}

/* Ranks of a host that have no transport over shared memory are priced so. */
static int links(tutti_comm *comm, int rank, int size, void *context)
{
    const bool *apart_expected = context;
    char text[TEXT];
    float sum = 0;
    (void)size;
    int wrong = WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, &sum, &sum, 1,
                                            TUTTI_FLOAT32, TUTTI_SUM, 0, text, sizeof text));
    bool said = strstr(text, "on 1 host, sharing no memory: ") != NULL;
    return wrong + world_check(rank, said == *apart_expected, "links of:\n%s", text);
}

static void test_explain_says_what_links_there_are(void)
{
    bool yes = true, no = false;
    run(WORLD_PROCESSES, 3, NULL, links, &no);
    run(WORLD_PROCESSES, 3, over_tcp, links, &yes);
    run(WORLD_THREADS, 3, NULL, links, &no);
    run(WORLD_THREADS, 3, over_tcp, links, &yes);
}

/* ---- where and why ----------------------------------------------------------------------------
 */

struct asked {
    tutti_comm *comm;
    int rank;
    char text[TEXT];
};

/* The explanation of an operation on count int32 has this part. */
static int says(struct asked *a, tutti_coll coll, const void *in, const void *out, size_t count,
                tutti_op op, const char *part)
{
    int rank = a->rank;
    int wrong = WORLD_OK(tutti_comm_explain(a->comm, coll, in, out, count, TUTTI_INT32, op, 0,
                                            a->text, sizeof a->text));
    return wrong + has(rank, a->text, part);
}

static void add_nothing(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    (void)in;
    (void)inout;
    (void)count;
    (void)dtype;
    (void)context;
}

static int reasons(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BIG = 1 << 24, SMALL = 1000 };
    struct asked a = {.comm = comm, .rank = rank};
    void *memory = rig_take(64);
    int32_t here = 0, scalar = 3;
    tutti_op function, product;
    int wrong = 0;
    (void)size;
    (void)context;
    wrong += WORLD_OK(tutti_op_create(comm, add_nothing, NULL, &function));
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &scalar, TUTTI_INT32, &product));
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, BIG, TUTTI_SUM,
                  "\nworks in GPU memory: 67108864 bytes reach the limit of 65536 "
                  "(TUTTI_CUDA_DIRECT_MIN); TUTTI_CUDA_DIRECT=0 turns it off\n"
                  "2 ranks on 1 host, priced as sharing one GPU: about 12 us and 1000 GB/s from "
                  "rank to rank\n");
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, SMALL, TUTTI_SUM,
                  "\nworks in pinned host memory, copied there and back in about 30 us, since 4000 "
                  "bytes are less than the limit of 65536 (TUTTI_CUDA_DIRECT_MIN)\n2 ranks on 1 "
                  "host, sharing ");
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, BIG, product,
                  "\nworks in a block of GPU memory that takes the scaled input: ");
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, BIG, function,
                  ", since a user's function reduces on the CPU\n");
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, memory, &here, BIG, TUTTI_SUM,
                  ", since out is host memory\n");
    wrong +=
        says(&a, TUTTI_COLL_ALLREDUCE, NULL, memory, BIG, TUTTI_SUM, ", since in is host memory\n");
    wrong += says(&a, TUTTI_COLL_ALLREDUCE, NULL, NULL, BIG, TUTTI_SUM, "\nworks in host memory\n");
    wrong += says(&a, TUTTI_COLL_ALLTOALLV, memory, memory, BIG, TUTTI_SUM,
                  ", since no rank knows the size of the whole\n");
    wrong += says(&a, TUTTI_COLL_ALLGATHERV, memory, memory, BIG, TUTTI_SUM,
                  "\nworks in GPU memory: 67108864 bytes ");
    wrong += says(&a, TUTTI_COLL_SENDRECV, memory, NULL, BIG, TUTTI_SUM,
                  rank == 0 ? "\nis a copy in GPU memory\n" : "\nworks in GPU memory: 67108864 ");
    wrong += has(rank, a.text, "a transfer has no plan to choose");
    char one[1];
    wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, memory, memory, BIG,
                                         TUTTI_INT32, TUTTI_SUM, 0, one, 1));
    wrong += world_check(rank, one[0] == 0, "text beyond its end");
    wrong += WORLD_TAKEN(tutti_comm_explain(comm, TUTTI_COLL_ALLREDUCE, memory, memory, BIG,
                                            TUTTI_INT32, (tutti_op)77, 0, a.text, TEXT),
                         TUTTI_ERR_ARG);
    rig_give(memory);
    return wrong;
}

/* Reasons that hold for every call of a communicator: the context. */
static int one_reason(tutti_comm *comm, int rank, int size, void *context)
{
    struct asked a = {.comm = comm, .rank = rank};
    void *memory = rig_take(64);
    (void)size;
    int wrong = says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, 1 << 18, TUTTI_SUM, context);
    rig_give(memory);
    return wrong;
}

/* Memory that other processes cannot map. */
static int pool_reason(tutti_comm *comm, int rank, int size, void *context)
{
    struct asked a = {.comm = comm, .rank = rank};
    cuda_stream stream = rig_stream_take(false);
    cuda_address pool;
    (void)size;
    if (rig_gpu()->pool_alloc(&pool, 64, stream) != CUDA_DRIVER_OK)
        return world_check(rank, 0, "no memory from the pool");
    const void *memory = (const void *)(uintptr_t)pool;
    int wrong = says(&a, TUTTI_COLL_ALLREDUCE, memory, memory, 1 << 18, TUTTI_SUM, context);
    wrong += world_check(rank, rig_gpu()->pool_free(pool, stream) == CUDA_DRIVER_OK, "free");
    rig_stream_give(stream, false);
    return wrong;
}

static void on_a_host_of_its_own(int rank)
{
    char name[16];
    snprintf(name, sizeof name, "host%d", rank);
    setenv("TUTTI_HOST_ID", name, 1);
}

static void run_on_hosts(int size, world_fn *function, void *context)
{
    struct world world = {
        .kind = WORLD_PROCESSES, .size = size, .prepare = on_a_host_of_its_own, .limit_s = 120};
    if (rig_is_there())
        CU_ASSERT_EQUAL(rig_run(&world, function, context), 0);
}

static void test_explain_says_where_and_why(void)
{
    run(WORLD_THREADS, 2, high, reasons, NULL);
    run(WORLD_THREADS, 2, staged, one_reason, ", since TUTTI_CUDA_DIRECT is 0\n");
    run(WORLD_PROCESSES, 2, direct, one_reason,
        "priced as sharing one GPU on which 2 processes take turns: about 280 us and 1000 GB/s ");
    run(WORLD_PROCESSES, 4, NULL, one_reason,
        "copied there and back in about 804 us, since 1048576 bytes are less than the limit of "
        "2359296 (TUTTI_CUDA_DIRECT_MIN, times 9 for 4 processes on one GPU)\n");
    run(WORLD_PROCESSES, 2, direct, pool_reason,
        "\nworks in a block of GPU memory that the other ranks can reach, copied there and back");
    run(WORLD_THREADS, 2, direct, pool_reason, "\nworks in GPU memory: ");
    run_on_hosts(2, one_reason,
                 ", since the ranks are on several hosts and do not work in each other's GPU "
                 "memory, and no adapter works in GPU memory (TUTTI_VERBS_GPU)\n");
}

/* ---- prices -----------------------------------------------------------------------------------
 */

static double price(struct asked *a, tutti_coll coll, const void *in, const void *out, size_t count,
                    int *wrong)
{
    int rank = a->rank, size = 0;
    double us = -1;
    tutti_comm_size(a->comm, &size);
    *wrong += WORLD_OK(tutti_comm_predict(a->comm, coll, in, out, count, TUTTI_INT32, TUTTI_SUM,
                                          (rank + 1) % size, &us));
    return us;
}

static int prices(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BIG = 1 << 24, SMALL = 10 };
    struct asked a = {.comm = comm, .rank = rank};
    void *memory = rig_take(64);
    static const tutti_coll colls[] = {TUTTI_COLL_ALLREDUCE, TUTTI_COLL_SENDRECV};
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < 2; i++) {
        const void *out = i == 0 ? memory : NULL;
        double host_us = price(&a, colls[i], NULL, NULL, BIG, &wrong);
        double device_us = price(&a, colls[i], memory, out, BIG, &wrong);
        wrong += world_check(rank, host_us > 10 * device_us && device_us > 12,
                             "%s: %g us in host memory, %g us in GPU memory",
                             tutti_coll_name(colls[i]), host_us, device_us);
        host_us = price(&a, colls[i], NULL, NULL, SMALL, &wrong);
        device_us = price(&a, colls[i], memory, out, SMALL, &wrong);
        wrong += world_check(rank, device_us > host_us + 14, "%s: %g us, %g us through host memory",
                             tutti_coll_name(colls[i]), host_us, device_us);
    }
    rig_give(memory);
    return wrong;
}

static void test_explain_prices_the_memory(void)
{
    run(WORLD_THREADS, 2, high, prices, NULL);
}

/* ---- what is copied --------------------------------------------------------------------------
 */

/* One call with root 1, of which a root's output is a part of its input, or apart; counts what was
 * launched for it. */
static unsigned launched_for(tutti_comm *comm, tutti_coll coll, int rank, bool apart, int *wrong)
{
    enum { COUNT = 100, RANKS = 2 };
    const size_t counts[RANKS] = {COUNT, COUNT};
    const struct gpu *gpu = rig_gpu();
    bool blocks = coll != TUTTI_COLL_BROADCAST;
    int32_t *in = rig_take(2 * RANKS * COUNT * sizeof *in);
    int32_t *out = in + (apart ? RANKS * COUNT : blocks && rank == 1 ? COUNT : 0);
    cuda_stream stream = rig_stream_take(false);
    unsigned before, after;
    if (rank == 1)
        rig_set_ints(in, RANKS * COUNT, 0);
    gpu->count_launches(&before);
    if (coll == TUTTI_COLL_BROADCAST)
        *wrong += WORLD_OK(tutti_broadcast_on(in, out, COUNT, TUTTI_INT32, 1, comm, stream));
    else if (coll == TUTTI_COLL_SCATTER)
        *wrong += WORLD_OK(tutti_scatter_on(in, out, COUNT, TUTTI_INT32, 1, comm, stream));
    else
        *wrong +=
            WORLD_OK(tutti_scatterv_on(in, counts, NULL, out, COUNT, TUTTI_INT32, 1, comm, stream));
    *wrong += rig_await(rank, stream, AWAIT_S);
    gpu->count_launches(&after);
    *wrong += rig_wrong_ints(rank, out, COUNT, blocks ? rank * COUNT : 0, 1, "from a root");
    rig_stream_give(stream, false);
    rig_give(in);
    return after - before;
}

/* What a root sends in place is not copied back to it. */
static int root_in_place(tutti_comm *comm, int rank, int size, void *context)
{
    static const tutti_coll colls[] = {TUTTI_COLL_BROADCAST, TUTTI_COLL_SCATTER,
                                       TUTTI_COLL_SCATTERV};
    int wrong = 0;
    (void)size;
    (void)context;
    for (size_t i = 0; i < sizeof colls / sizeof *colls; i++) {
        unsigned in_place = launched_for(comm, colls[i], rank, false, &wrong);
        unsigned apart = launched_for(comm, colls[i], rank, true, &wrong);
        wrong +=
            world_check(rank, in_place + (rank == 1) == apart, "%s: %u launches in place, %u apart",
                        tutti_coll_name(colls[i]), in_place, apart);
    }
    return wrong;
}

static void test_explain_copies_back_what_is_new(void)
{
    if (skips_real("launches are counted over the stand-in"))
        return;
    run(WORLD_PROCESSES, 2, by_kernels, root_in_place, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"says_what_runs", test_explain_says_what_runs},
        {"says_what_links_there_are", test_explain_says_what_links_there_are},
        {"says_where_and_why", test_explain_says_where_and_why},
        {"prices_the_memory", test_explain_prices_the_memory},
        {"copies_back_what_is_new", test_explain_copies_back_what_is_new},
    };
    return suite_run("explain", tests, sizeof tests / sizeof *tests, argc, argv);
}
