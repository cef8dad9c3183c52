/* test_comm.c: communicators as users meet them: arguments, requests, groups, split, and what
 * happens when ranks disagree, die, stop, fork or abort. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/suite.h"
#include "tests/world.h"

#define TAKEN(call, want)                                                                          \
    world_check(rank, (call) == (want), "%s: expected %s, last error: %s", #call,                  \
                tutti_status_string(want), tutti_last_error())
#define OK(call) TAKEN(call, TUTTI_OK)

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int says(int rank, const char *part)
{
    return world_check(rank, strstr(tutti_last_error(), part) != NULL, "'%s' is not in: %s", part,
                       tutti_last_error());
}

static void run(enum world_kind kind, int size, const char *const *settings, world_fn *function,
                void *context)
{
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = 40};
    CU_ASSERT_EQUAL(world_run(&world, function, context), 0);
}

static const char *const shm[] = {"TUTTI_TRANSPORTS=shm", NULL};
static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

/* ---- arguments --------------------------------------------------------------------------------
 */

/* What a count of -1 becomes. No product overflows where an element has one byte. */
static int negative_counts(tutti_comm *comm, int rank, int size)
{
    int8_t in[64] = {0}, out[64] = {0};
    size_t minus_one = (size_t)-1, half = minus_one / (size_t)size;
    size_t counts[8] = {1, 1, 1, 1, 1, 1, 1, 1}, displs[8] = {0, minus_one, 2, 3, 4, 5, 6, 7};
    int wrong = 0;
    wrong += TAKEN(tutti_allreduce(in, out, minus_one, TUTTI_INT8, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "allreduce: count 18446744073709551615 of int8 overflows");
    wrong += TAKEN(tutti_allgather(in, out, half, TUTTI_INT8, comm), TUTTI_ERR_ARG);
    wrong +=
        TAKEN(tutti_send(in, minus_one - 7, TUTTI_INT8, (rank + 1) % size, comm), TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_allgatherv(in, out, counts, displs, TUTTI_INT8, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "allgatherv: the block of rank 1, count 1 at displacement "
                        "18446744073709551615 of int8, overflows");
    displs[1] = 1;
    counts[2] = minus_one;
    wrong += TAKEN(tutti_alltoallv(in, counts, displs, out, counts, displs, TUTTI_INT8, comm),
                   TUTTI_ERR_ARG);
    wrong += says(rank, "the block of rank 2, count 18446744073709551615 at displacement 2 ");
    return wrong;
}

static int bad_arguments(tutti_comm *comm, int rank, int size, void *context)
{
    float in[64] = {0}, out[64] = {0};
    int wrong = 0;
    (void)context;
    wrong += TAKEN(tutti_allreduce(NULL, out, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "in is NULL at rank");
    wrong += TAKEN(tutti_allreduce(in, NULL, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_allreduce(in, in + 1, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "overlap");
    wrong += TAKEN(tutti_allreduce(in, out, 4, (tutti_dtype)99, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "unknown type 99");
    wrong += TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_BXOR, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "bxor does not fit type float32");
    wrong += TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, (tutti_op)77, comm), TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_broadcast(in, out, 4, TUTTI_FLOAT32, size, comm), TUTTI_ERR_ARG);
    wrong += says(rank, "out of range");
    wrong += TAKEN(tutti_broadcast(in, out, 4, TUTTI_FLOAT32, -1, comm), TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_allgatherv(in, out, NULL, NULL, TUTTI_FLOAT32, comm), TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_allreduce(in, out, SIZE_MAX / 2, TUTTI_FLOAT64, TUTTI_SUM, comm),
                   TUTTI_ERR_ARG);
    wrong += says(rank, "overflows");
    wrong += negative_counts(comm, rank, size);
    wrong += TAKEN(tutti_send(in, 1, TUTTI_FLOAT32, rank, comm), TUTTI_ERR_ARG);
    char text[256];
    wrong += TAKEN(tutti_comm_explain(comm, TUTTI_COLL_REDUCE, 4, TUTTI_FLOAT32, TUTTI_SUM, size,
                                      text, sizeof text),
                   TUTTI_ERR_ARG);
    wrong += TAKEN(tutti_comm_explain(comm, TUTTI_COLL_SENDRECV, 4, TUTTI_FLOAT32, TUTTI_SUM, 0,
                                      text, sizeof text),
                   TUTTI_ERR_ARG);
    /* the v forms have plans too; where counts are local none has a say */
    wrong += OK(tutti_comm_explain(comm, TUTTI_COLL_ALLGATHERV, 10, TUTTI_FLOAT32, TUTTI_SUM, 0,
                                   text, sizeof text));
    wrong += strstr(text, "40 bytes\n") == NULL;
    wrong += OK(tutti_comm_explain(comm, TUTTI_COLL_ALLTOALLV, 10, TUTTI_FLOAT32, TUTTI_SUM, 0,
                                   text, sizeof text));
    wrong += strstr(text, "known only locally\n") == NULL || strstr(text, "\n* ") == NULL;
    wrong += TAKEN(tutti_group_end(), TUTTI_ERR_STATE);
    wrong += OK(tutti_group_start());
    wrong += OK(tutti_send(in, 1, TUTTI_FLOAT32, rank, comm));
    wrong += TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
    wrong += says(rank, "sends to itself in a group");
    wrong += TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_SUM, NULL), TUTTI_ERR_STATE);
    wrong += TAKEN(tutti_op_destroy(comm, TUTTI_SUM), TUTTI_ERR_ARG);
    /* Nothing moved: the communicator still works. */
    wrong += OK(tutti_allreduce(NULL, NULL, 0, TUTTI_FLOAT32, TUTTI_SUM, comm));
    wrong += OK(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_SUM, comm));
    return wrong;
}

static void test_comm_refuses_bad_arguments(void)
{
    run(WORLD_THREADS, 3, NULL, bad_arguments, NULL);
}

static void test_comm_refuses_stale_handles(void)
{
    tutti_comm *comm;
    CU_ASSERT_EQUAL(tutti_comm_create_from_env(&comm), TUTTI_OK);
    CU_ASSERT_STRING_EQUAL(tutti_last_error(), ""); /* whatever the transports said in private */
    CU_ASSERT_EQUAL(tutti_barrier(comm), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_barrier(comm), TUTTI_ERR_STATE);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "destroyed"));
    CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_ERR_STATE);
    CU_ASSERT_EQUAL(tutti_comm_destroy(NULL), TUTTI_OK);
    setenv("TUTTI_LANES", "99", 1);
    CU_ASSERT_EQUAL(tutti_comm_create_from_env(&comm), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "TUTTI_LANES"));
    unsetenv("TUTTI_LANES");
    setenv("TUTTI_ALGO", "allreduce:nonsense", 1);
    CU_ASSERT_EQUAL(tutti_comm_create_from_env(&comm), TUTTI_ERR_SETTING);
    unsetenv("TUTTI_ALGO");
    tutti_unique_id id = {{0}};
    CU_ASSERT_EQUAL(tutti_comm_create(100000, &id, 0, &comm), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "100000 ranks: expected at most 65536"));
}

/* ---- requests, groups, operations -------------------------------------------------------------
 */

static int requests(tutti_comm *comm, int rank, int size, void *context)
{
    enum { OPS = 8, COUNT = 5000 };
    static _Thread_local float in[OPS][COUNT], out[OPS][COUNT];
    tutti_request *list[OPS];
    int wrong = 0, done = 0;
    (void)context;
    for (int o = 0; o < OPS; o++) {
        for (int i = 0; i < COUNT; i++)
            in[o][i] = (float)(rank + o);
        wrong += OK(
            tutti_allreduce_start(in[o], out[o], COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm, &list[o]));
    }
    while (!done && !wrong)
        wrong += OK(tutti_test(&list[0], &done));
    wrong += OK(tutti_wait_all(OPS, list));
    for (int o = 0; o < OPS; o++) {
        float want = (float)(size * o + size * (size - 1) / 2);
        wrong += world_check(rank, out[o][COUNT - 1] == want, "operation %d: %g, expected %g", o,
                             (double)out[o][COUNT - 1], (double)want);
    }
    return wrong;
}

static int ring_exchange(tutti_comm *comm, int rank, int size, void *context)
{
    size_t count = *(size_t *)context;
    int *in = calloc(count + 1, sizeof *in), *out = calloc(count + 1, sizeof *out);
    int *self = calloc(count + 1, sizeof *self);
    int next = (rank + 1) % size, last = (rank + size - 1) % size, wrong = 0;
    for (size_t i = 0; i < count; i++)
        in[i] = rank * 1000 + (int)(i % 1000);
    for (int round = 0; round < 3; round++) {
        wrong += OK(tutti_group_start());
        wrong += OK(tutti_send(in, count, TUTTI_INT32, next, comm));
        wrong += OK(tutti_recv(out, count, TUTTI_INT32, last, comm));
        wrong += OK(tutti_send(in, count, TUTTI_INT32, rank, comm));
        wrong += OK(tutti_recv(self, count, TUTTI_INT32, rank, comm));
        wrong += OK(tutti_group_end());
    }
    if (count > 0) {
        wrong +=
            world_check(rank, out[count - 1] == last * 1000 + (int)((count - 1) % 1000), "ring");
        wrong += world_check(rank, self[count - 1] == in[count - 1], "self");
    }
    /* Started sends and receives, receives issued last: no order between them can hang. */
    tutti_request *list[2] = {NULL, NULL};
    if (size > 1) {
        wrong += OK(tutti_send_start(in, count, TUTTI_INT32, next, comm, &list[0]));
        wrong += OK(tutti_barrier(comm));
        wrong += OK(tutti_recv_start(out, count, TUTTI_INT32, last, comm, &list[1]));
        wrong += OK(tutti_wait_all(2, list));
    }
    free(in);
    free(out);
    free(self);
    return wrong;
}

static void test_comm_requests(void)
{
    run(WORLD_THREADS, 4, NULL, requests, NULL);
    run(WORLD_PROCESSES, 3, shm, requests, NULL);
    run(WORLD_PROCESSES, 2, tcp, requests, NULL);
}

static void test_comm_send_and_receive(void)
{
    for (size_t count = 0; count < 2000000; count = count * 40 + 1) {
        run(WORLD_THREADS, 5, NULL, ring_exchange, &count);
        run(WORLD_PROCESSES, 3, shm, ring_exchange, &count);
        run(WORLD_PROCESSES, 2, tcp, ring_exchange, &count);
    }
}

/* Bytes this rank has read where its peers left them. */
static uint64_t read_in_place(const tutti_comm *comm)
{
    struct transport_stats stats;
    comm->transport_ops[0]->stats(comm->transports[0], &stats);
    return stats.in_place_bytes;
}

/* An exchange in place waits for its sends to overwrite what they sent: short ones are taken along,
 * while those of an exchange out of place stay where they are. */
static int exchange_twice(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BLOCK = 1024 };
    int wrong = 0;
    uint8_t *in, *out;
    wrong += OK(tutti_mem_alloc((size_t)size * BLOCK, (void **)&in));
    wrong += OK(tutti_mem_alloc((size_t)size * BLOCK, (void **)&out));
    memset(in, rank, (size_t)size * BLOCK);
    memset(out, rank, (size_t)size * BLOCK);
    wrong += OK(tutti_barrier(comm));
    uint64_t before = read_in_place(comm);
    wrong += OK(tutti_alltoall(out, out, BLOCK, TUTTI_UINT8, comm));
    uint64_t between = read_in_place(comm);
    wrong += world_check(rank, between == before, "%d bytes", (int)(between - before));
    wrong += OK(tutti_alltoall(in, out, BLOCK, TUTTI_UINT8, comm));
    wrong += world_check(rank, read_in_place(comm) > between, "nothing was read in place");
    wrong += world_check(rank, out[0] == 0 && out[(size_t)size * BLOCK - 1] == size - 1, "result");
    wrong += OK(tutti_mem_free(in));
    wrong += OK(tutti_mem_free(out));
    return wrong;
}

static void test_comm_takes_along_what_is_overwritten_next(void)
{
    run(WORLD_PROCESSES, 2, shm, exchange_twice, NULL);
}

static void add_ints(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    const int *a = in;
    int *b = inout;
    (void)dtype;
    for (size_t i = 0; i < count; i++)
        b[i] += a[i] + *(int *)context;
}

static int own_operations(tutti_comm *comm, int rank, int size, void *context)
{
    float scalar = 0.5f, in[3] = {2, 4, 6}, out[3];
    int ints[100], sums[100], one = 1, wrong = 0;
    tutti_op half, add;
    (void)context;
    wrong += OK(tutti_op_create_premulsum(comm, &scalar, TUTTI_FLOAT32, &half));
    wrong += OK(tutti_op_create(comm, add_ints, &one, &add));
    wrong += OK(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, half, comm));
    wrong += world_check(rank, out[2] == 3.0f * (float)size && in[2] == 6, "premulsum %g",
                         (double)out[2]);
    wrong += OK(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, TUTTI_AVG, comm));
    wrong += world_check(rank, out[1] == 4, "average %g", (double)out[1]);
    for (int i = 0; i < 100; i++)
        ints[i] = i;
    wrong += OK(tutti_allreduce(ints, sums, 100, TUTTI_INT32, add, comm));
    wrong += world_check(rank, sums[7] == 7 * size + size - 1, "own function %d", sums[7]);
    wrong += TAKEN(tutti_allreduce(ints, sums, 100, TUTTI_INT32, half, comm), TUTTI_ERR_ARG);
    wrong += OK(tutti_op_destroy(comm, half));
    wrong += TAKEN(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, half, comm), TUTTI_ERR_ARG);
    return wrong;
}

static void test_comm_own_operations(void)
{
    run(WORLD_THREADS, 5, NULL, own_operations, NULL);
    run(WORLD_PROCESSES, 4, shm, own_operations, NULL);
    run(WORLD_PROCESSES, 3, tcp, own_operations, NULL);
}

static int splitting(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *half = NULL, *copy = NULL;
    int wrong = 0, color = rank == size - 1 ? TUTTI_NO_COLOR : rank % 2, new_rank, new_size;
    (void)context;
    wrong += OK(tutti_comm_split(comm, color, -rank, &half));
    wrong += OK(tutti_comm_dup(comm, &copy));
    if (color == TUTTI_NO_COLOR) {
        wrong += world_check(rank, half == NULL, "no color");
    } else {
        int value = rank, total = 0, members = (size - 1 + (color == 0)) / 2, want = 0;
        wrong += OK(tutti_comm_rank(half, &new_rank));
        wrong += OK(tutti_comm_size(half, &new_size));
        for (int r = color; r < size - 1; r += 2)
            want += r;
        wrong += world_check(rank, new_size == members && new_rank == members - 1 - rank / 2,
                             "rank %d of %d", new_rank, new_size);
        wrong += OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, half));
        wrong += world_check(rank, total == want, "sum %d, expected %d", total, want);
    }
    wrong += OK(tutti_barrier(copy));
    wrong += OK(tutti_comm_finalize(copy));
    wrong += OK(tutti_comm_destroy(copy));
    wrong += OK(tutti_comm_destroy(half));
    wrong += OK(tutti_barrier(comm));
    return wrong;
}

static void test_comm_split_and_dup(void)
{
    run(WORLD_THREADS, 6, NULL, splitting, NULL);
    run(WORLD_PROCESSES, 5, shm, splitting, NULL);
    run(WORLD_PROCESSES, 3, tcp, splitting, NULL);
}

/* More transfers than a window holds, all sends before any receive, both ways at once. */
static int crowd_of_transfers(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TRANSFERS = 200, COUNT = 4000 };
    int *in = calloc(TRANSFERS * COUNT, sizeof *in), *out = calloc(TRANSFERS * COUNT, sizeof *out);
    int peer = rank ^ 1, wrong = 0;
    (void)context;
    for (int i = 0; i < TRANSFERS * COUNT; i++)
        in[i] = rank + i / COUNT;
    if (peer < size) {
        wrong += OK(tutti_group_start());
        for (int t = 0; t < TRANSFERS; t++)
            wrong += OK(tutti_send(in + t * COUNT, COUNT, TUTTI_INT32, peer, comm));
        for (int t = 0; t < TRANSFERS; t++)
            wrong += OK(tutti_recv(out + t * COUNT, COUNT, TUTTI_INT32, peer, comm));
        wrong += OK(tutti_group_end());
        for (int t = 0; t < TRANSFERS && !wrong; t++)
            wrong += world_check(rank, out[t * COUNT + 7] == peer + t, "transfer %d", t);
    }
    free(in);
    free(out);
    return wrong;
}

static void test_comm_many_transfers_in_one_group(void)
{
    run(WORLD_THREADS, 4, NULL, crowd_of_transfers, NULL);
    run(WORLD_PROCESSES, 2, shm, crowd_of_transfers, NULL);
    run(WORLD_PROCESSES, 2, tcp, crowd_of_transfers, NULL);
}

/* Count arrays and operations are lent for the call that starts an operation, not until its end. */
static int borrowed_arguments(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 3000 };
    size_t counts[16], displs[16];
    int *in = calloc(COUNT * 16, sizeof *in), *out = calloc(COUNT * 16, sizeof *out), wrong = 0;
    float half = 0.5f, twice = 2, x = 4, y = 0, z = 0;
    tutti_request *requests[3];
    tutti_op op, other;
    (void)context;
    for (int i = 0; i < COUNT * 16; i++)
        in[i] = rank;
    for (int r = 0; r < size; r++) {
        counts[r] = COUNT - (size_t)r;
        displs[r] = (size_t)r * COUNT;
    }
    wrong += OK(tutti_allreduce_start(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, comm, &requests[0]));
    wrong += OK(tutti_allgatherv_start(in, out, counts, displs, TUTTI_INT32, comm, &requests[1]));
    wrong += OK(tutti_op_create_premulsum(comm, &half, TUTTI_FLOAT32, &op));
    wrong += OK(tutti_allreduce_start(&x, &y, 1, TUTTI_FLOAT32, op, comm, &requests[2]));
    memset(counts, 0x55, sizeof counts);
    memset(displs, 0x55, sizeof displs);
    wrong += OK(tutti_op_destroy(comm, op));
    wrong += OK(tutti_op_create_premulsum(comm, &twice, TUTTI_FLOAT32, &other));
    wrong += OK(tutti_wait_all(3, requests));
    for (int r = 0; r < size; r++)
        wrong += world_check(rank, out[(size_t)r * COUNT + 5] == r, "block %d", r);
    wrong += world_check(rank, y == 2 * (float)size, "premulsum %g", (double)y);
    wrong += OK(tutti_allreduce(&x, &z, 1, TUTTI_FLOAT32, other, comm));
    wrong += world_check(rank, z == 8 * (float)size, "premulsum %g", (double)z);
    free(in);
    free(out);
    return wrong;
}

static void test_comm_keeps_what_started_operations_need(void)
{
    run(WORLD_THREADS, 3, NULL, borrowed_arguments, NULL);
    run(WORLD_PROCESSES, 4, shm, borrowed_arguments, NULL);
}

/* ---- disagreement, death, stop, abort, fork ---------------------------------------------------
 */

enum difference {
    DIFFERENT_COUNT,
    DIFFERENT_TYPE,
    DIFFERENT_OP,
    DIFFERENT_COLL,
    DIFFERENT_COUNTS, /* of a v form: the text of the call does not show them */
    DIFFERENT_SUMS_OF_BLOCKS,
    DIFFERENT_USER_OP,
    DIFFERENT_PREMULSUM,
    DIFFERENT_ROOT
};

/* What the sentence must say; a root that only sends is in its next call already. */
static const char *const differences[] = {
    [DIFFERENT_COUNT] = "(count ",
    [DIFFERENT_TYPE] = "int32, sum)",
    [DIFFERENT_OP] = ", max)",
    [DIFFERENT_COLL] = "(count ",
    [DIFFERENT_COUNTS] = " with different counts: every rank",
    [DIFFERENT_SUMS_OF_BLOCKS] = " with different counts: every rank",
    [DIFFERENT_USER_OP] = ", user operation 1",
    [DIFFERENT_PREMULSUM] = ", premulsum 1",
    [DIFFERENT_ROOT] = "(count ",
};

struct mismatch {
    enum difference what;
    size_t count;
};

static void keep(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    (void)in, (void)inout, (void)count, (void)dtype, (void)context;
}

static tutti_status deviate_in_op(const struct mismatch *m, int odd, void *in, void *out,
                                  tutti_comm *comm)
{
    float two = 2;
    tutti_op ops[2];
    tutti_status status = tutti_op_create(comm, keep, NULL, &ops[0]);
    if (status == TUTTI_OK && m->what == DIFFERENT_USER_OP)
        status = tutti_op_create(comm, keep, NULL, &ops[1]);
    else if (status == TUTTI_OK)
        status = tutti_op_create_premulsum(comm, &two, TUTTI_FLOAT32, &ops[1]);
    return status == TUTTI_OK ? tutti_allreduce(in, out, m->count, TUTTI_FLOAT32, ops[odd], comm)
                              : status;
}

static tutti_status deviate(const struct mismatch *m, int odd, void *in, void *out,
                            tutti_comm *comm)
{
    size_t q = m->count / 4, counts[4] = {q - 1, q + (odd ? 1 : 0), q, q - 2};
    size_t n = m->count;
    switch (m->what) {
    case DIFFERENT_COUNT:
        return tutti_allreduce(in, out, n - (odd ? n / 3 : 0), TUTTI_FLOAT32, TUTTI_SUM, comm);
    case DIFFERENT_TYPE:
        return tutti_allreduce(in, out, n, odd ? TUTTI_INT32 : TUTTI_FLOAT32, TUTTI_SUM, comm);
    case DIFFERENT_OP:
        return tutti_allreduce(in, out, n, TUTTI_FLOAT32, odd ? TUTTI_MAX : TUTTI_SUM, comm);
    case DIFFERENT_COLL:
        return odd ? tutti_broadcast(in, out, n, TUTTI_FLOAT32, 1, comm)
                   : tutti_allreduce(in, out, n, TUTTI_FLOAT32, TUTTI_SUM, comm);
    case DIFFERENT_COUNTS:
        return tutti_allgatherv(in, out, counts, NULL, TUTTI_FLOAT32, comm);
    case DIFFERENT_SUMS_OF_BLOCKS:
        return tutti_reduce_scatterv(in, out, counts, TUTTI_FLOAT32, TUTTI_SUM, comm);
    case DIFFERENT_USER_OP:
    case DIFFERENT_PREMULSUM:
        return deviate_in_op(m, odd, in, out, comm);
    default:
        return tutti_broadcast(in, out, n, TUTTI_FLOAT32, odd ? 1 : 0, comm);
    }
}

static int disagree(tutti_comm *comm, int rank, int size, void *context)
{
    const struct mismatch *m = context;
    float *in = calloc(m->count, 4), *out = calloc(m->count, 4);
    int wrong = 0;
    double start = seconds();
    /* Others may be done with this call, and disagree, before this rank is. */
    tutti_status status = tutti_allreduce(in, out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm);
    if (status == TUTTI_OK)
        status = deviate(m, rank == 1, in, out, comm);
    /* A root that only sends may finish before it can know; it learns at its next call. */
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    wrong += world_check(rank, status == TUTTI_ERR_MISMATCH, "difference %d: %s: %s", m->what,
                         tutti_status_string(status), tutti_last_error());
    wrong += says(rank, "ranks disagree");
    wrong += says(rank, differences[m->what]);
    wrong += says(rank, "rank 1 (host ");
    wrong += world_check(rank, seconds() - start < 5, "took %.1f s", seconds() - start);
    wrong += TAKEN(tutti_barrier(comm), TUTTI_ERR_MISMATCH);
    (void)size;
    free(in);
    free(out);
    return wrong;
}

/* Rank 1 sends int32; what rank 0 receives is of another type, or more. */
static int transfers_disagree(tutti_comm *comm, int rank, int size, void *context)
{
    int more = *(int *)context, values[8] = {0};
    int wrong = OK(tutti_barrier(comm));
    tutti_status status = TUTTI_OK;
    if (rank == 1)
        status = tutti_send(values, 4, TUTTI_INT32, 0, comm);
    else if (rank == 0)
        status = tutti_recv(values, more ? 6 : 4, more ? TUTTI_INT32 : TUTTI_FLOAT32, 1, comm);
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    wrong += world_check(rank, status == TUTTI_ERR_MISMATCH, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += says(rank, "ranks disagree: rank 1 (host ");
    wrong += says(rank, ") sends 4 int32 where rank 0 (host ");
    wrong += says(rank, more ? ") receives 6 int32: " : ") receives 4 float32: ");
    (void)size;
    return wrong;
}

static void test_comm_names_what_a_send_and_its_receive_differ_in(void)
{
    for (int more = 0; more < 2; more++) {
        run(WORLD_THREADS, 2, NULL, transfers_disagree, &more);
        run(WORLD_PROCESSES, 3, shm, transfers_disagree, &more);
        run(WORLD_PROCESSES, 2, tcp, transfers_disagree, &more);
    }
}

static void mismatches(enum world_kind kind, int size, const char *const *settings)
{
    for (size_t count = 30; count <= 300000; count *= 10000) {
        for (int what = DIFFERENT_COUNT; what <= DIFFERENT_ROOT; what++) {
            struct mismatch m = {(enum difference)what, count};
            run(kind, size, settings, disagree, &m);
        }
    }
}

static void test_comm_names_both_sides_of_a_mismatch(void)
{
    mismatches(WORLD_THREADS, 4, NULL);
    mismatches(WORLD_PROCESSES, 4, shm);
    mismatches(WORLD_PROCESSES, 4, tcp);
    mismatches(WORLD_PROCESSES, 2, shm);
}

static int die(tutti_comm *comm, int rank, int size, void *context)
{
    size_t count = *(size_t *)context;
    float *in = calloc(count, 4), *out = calloc(count, 4);
    tutti_status status = TUTTI_OK;
    int wrong = OK(tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm));
    (void)size;
    for (int i = 0; i < 1000000 && status == TUTTI_OK; i++) {
        if (rank == 2 && i == 5)
            raise(SIGKILL);
        status = tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm);
    }
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += says(rank, "rank 2 (host ");
    free(in);
    free(out);
    return wrong;
}

/* The child holds copies of whatever the library did not give up for it. */
static void leave_a_child(void)
{
    fflush(NULL);
    if (fork() != 0)
        return;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    sleep(9);
    _exit(0);
}

static int die_leaving_a_child(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, blocks[4] = {0}, received[4], wrong = OK(tutti_barrier(comm));
    if (*(int *)context) /* every link exists before the fork */
        wrong += OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    if (rank == size - 1) {
        leave_a_child();
        raise(SIGKILL);
    }
    double start = seconds();
    tutti_status status = TUTTI_OK;
    while (status == TUTTI_OK)
        status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += says(rank, "rank 3 (host ");
    wrong += world_check(rank, seconds() - start < 5, "took %.1f s", seconds() - start);
    return wrong;
}

static void be_on_one_of_two_hosts(int rank)
{
    setenv("TUTTI_HOST_ID", rank < 2 ? "one" : "two", 1);
}

static void test_comm_notices_a_death_though_a_child_lives(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    for (int i = 0; i < 6; i++) {
        int all_links = i / 3;
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 4,
                              .settings = worlds[i % 3],
                              .limit_s = 8,
                              .doomed = 4,
                              .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
        CU_ASSERT_EQUAL(world_run(&world, die_leaving_a_child, &all_links), 0);
    }
}

static void deaths(const char *const *settings)
{
    for (size_t count = 2; count < 3000000; count *= 1000) {
        struct world world = {
            .kind = WORLD_PROCESSES, .size = 4, .settings = settings, .limit_s = 12, .doomed = 3};
        double start = seconds();
        CU_ASSERT_EQUAL(world_run(&world, die, &count), 0);
        CU_ASSERT(seconds() - start < 8);
    }
}

static void test_comm_names_the_rank_that_died(void)
{
    deaths(shm);
    deaths(tcp);
}

static int stop(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, wrong = OK(tutti_barrier(comm));
    (void)size;
    (void)context;
    if (rank == 1) {
        usleep(1000000);
        return wrong;
    }
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += says(rank, "waited 500 ms");
    return wrong;
}

static int stop_while_testing(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, done = 0, wrong = OK(tutti_barrier(comm));
    tutti_request *request;
    (void)size;
    (void)context;
    if (rank == 1) {
        usleep(1000000);
        return wrong;
    }
    wrong += OK(tutti_allreduce_start(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm, &request));
    tutti_status status = TUTTI_OK;
    for (double end = seconds() + 5; !done && status == TUTTI_OK && seconds() < end;)
        status = tutti_test(&request, &done);
    wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    return wrong;
}

static void test_comm_bounds_every_wait(void)
{
    static const char *const a[] = {"TUTTI_TIMEOUT_MS=500", "TUTTI_TRANSPORTS=shm", NULL};
    static const char *const b[] = {"TUTTI_TIMEOUT_MS=500", "TUTTI_TRANSPORTS=tcp", NULL};
    static const char *const c[] = {"TUTTI_TIMEOUT_MS=500", NULL};
    run(WORLD_PROCESSES, 3, a, stop, NULL);
    run(WORLD_PROCESSES, 3, b, stop, NULL);
    run(WORLD_THREADS, 3, c, stop, NULL);
    run(WORLD_THREADS, 3, c, stop_while_testing, NULL);
    run(WORLD_PROCESSES, 3, b, stop_while_testing, NULL);
}

static void *abort_soon(void *argument)
{
    usleep(100000);
    tutti_comm_abort(argument);
    return NULL;
}

static int aborting(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, wrong = OK(tutti_barrier(comm));
    pthread_t helper;
    (void)size;
    (void)context;
    if (rank == 0) {
        usleep(400000);
        return wrong;
    }
    if (rank == 1)
        pthread_create(&helper, NULL, abort_soon, comm);
    double start = seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == (rank == 1 ? TUTTI_ERR_ABORTED : TUTTI_ERR_PEER), "%s: %s",
                         tutti_status_string(status), tutti_last_error());
    wrong += says(rank, "rank 1 (host ");
    wrong += says(rank, "aborted");
    wrong += world_check(rank, seconds() - start < 3, "took %.1f s", seconds() - start);
    if (rank == 1)
        pthread_join(helper, NULL);
    return wrong;
}

static void test_comm_abort_ends_every_wait(void)
{
    run(WORLD_THREADS, 4, NULL, aborting, NULL);
    run(WORLD_PROCESSES, 4, shm, aborting, NULL);
    run(WORLD_PROCESSES, 4, tcp, aborting, NULL);
}

/* Shared by the processes of a world. */
struct abort_first {
    int aborts;
    atomic_int learned;
};

/* An abort before anyone has a link to anyone: the others learn of it while that rank still holds
 * its communicator. */
static int abort_first(tutti_comm *comm, int rank, int size, void *context)
{
    struct abort_first *shared = context;
    int value = rank, total, wrong = 0;
    if (rank == shared->aborts) {
        wrong += OK(tutti_comm_abort(comm));
        for (double end = seconds() + 4; shared->learned < size - 1 && seconds() < end;)
            usleep(1000);
        return wrong;
    }
    double start = seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", shared->aborts);
    wrong += says(rank, name);
    wrong += world_check(rank, seconds() - start < 3.5, "took %.1f s", seconds() - start);
    atomic_fetch_add(&shared->learned, 1);
    return wrong;
}

static void test_comm_abort_before_the_first_operation(void)
{
    static const char *const *const worlds[] = {NULL, shm, tcp};
    struct abort_first *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 6; i++) {
        *shared = (struct abort_first){.aborts = i % 2 * 2};
        run(i < 2 ? WORLD_THREADS : WORLD_PROCESSES, 3, worlds[i / 2], abort_first, shared);
    }
    munmap(shared, sizeof *shared);
}

static int forking(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total = 0, wrong = OK(tutti_barrier(comm));
    (void)context;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int bad = tutti_barrier(comm) != TUTTI_ERR_FORKED;
        bad += tutti_comm_destroy(comm) != TUTTI_OK;
        _exit(bad);
    }
    int status;
    waitpid(child, &status, 0);
    wrong += world_check(rank, WIFEXITED(status) && WEXITSTATUS(status) == 0, "child: 0x%x",
                         (unsigned)status);
    wrong += OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += world_check(rank, total == size * (size - 1) / 2, "sum %d", total);
    return wrong;
}

static void test_comm_survives_a_fork(void)
{
    run(WORLD_PROCESSES, 3, shm, forking, NULL);
    run(WORLD_PROCESSES, 3, tcp, forking, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"refuses_bad_arguments", test_comm_refuses_bad_arguments},
        {"refuses_stale_handles", test_comm_refuses_stale_handles},
        {"requests", test_comm_requests},
        {"send_and_receive", test_comm_send_and_receive},
        {"many_transfers_in_one_group", test_comm_many_transfers_in_one_group},
        {"keeps_what_started_operations_need", test_comm_keeps_what_started_operations_need},
        {"takes_along_what_is_overwritten_next", test_comm_takes_along_what_is_overwritten_next},
        {"own_operations", test_comm_own_operations},
        {"split_and_dup", test_comm_split_and_dup},
        {"names_both_sides_of_a_mismatch", test_comm_names_both_sides_of_a_mismatch},
        {"names_what_a_send_and_its_receive_differ_in",
         test_comm_names_what_a_send_and_its_receive_differ_in},
        {"names_the_rank_that_died", test_comm_names_the_rank_that_died},
        {"notices_a_death_though_a_child_lives", test_comm_notices_a_death_though_a_child_lives},
        {"bounds_every_wait", test_comm_bounds_every_wait},
        {"abort_ends_every_wait", test_comm_abort_ends_every_wait},
        {"abort_before_the_first_operation", test_comm_abort_before_the_first_operation},
        {"survives_a_fork", test_comm_survives_a_fork},
    };
    return suite_run("comm", tests, sizeof tests / sizeof *tests, argc, argv);
}
