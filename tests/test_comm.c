/* test_comm.c: communicators as users meet them: arguments, requests, groups, split; test_comm_ends
 * has what goes wrong. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/world_suite.h"

/* ---- arguments --------------------------------------------------------------------------------
 */

/* What a count of -1 becomes. No product overflows where an element has one byte. */
static int negative_counts(tutti_comm *comm, int rank, int size)
{
    int8_t in[64] = {0}, out[64] = {0};
    size_t minus_one = (size_t)-1, half = minus_one / (size_t)size;
    size_t counts[8] = {1, 1, 1, 1, 1, 1, 1, 1}, displs[8] = {0, minus_one, 2, 3, 4, 5, 6, 7};
    int wrong = 0;
    wrong += WORLD_TAKEN(tutti_allreduce(in, out, minus_one, TUTTI_INT8, TUTTI_SUM, comm),
                         TUTTI_ERR_ARG);
    wrong += world_says(rank, "allreduce: count 18446744073709551615 of int8 overflows");
    wrong += WORLD_TAKEN(tutti_allgather(in, out, half, TUTTI_INT8, comm), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_send(in, minus_one - 7, TUTTI_INT8, (rank + 1) % size, comm),
                         TUTTI_ERR_ARG);
    wrong +=
        WORLD_TAKEN(tutti_allgatherv(in, out, counts, displs, TUTTI_INT8, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "allgatherv: the block of rank 1, count 1 at displacement "
                              "18446744073709551615 of int8, overflows");
    displs[1] = 1;
    counts[2] = minus_one;
    wrong += WORLD_TAKEN(tutti_alltoallv(in, counts, displs, out, counts, displs, TUTTI_INT8, comm),
                         TUTTI_ERR_ARG);
    wrong += world_says(rank, "the block of rank 2, count 18446744073709551615 at displacement 2 ");
    return wrong;
}

static int bad_arguments(tutti_comm *comm, int rank, int size, void *context)
{
    float in[64] = {0}, out[64] = {0};
    int wrong = 0;
    (void)context;
    wrong +=
        WORLD_TAKEN(tutti_allreduce(NULL, out, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "in is NULL at rank");
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, NULL, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, in + 1, 4, TUTTI_FLOAT32, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "overlap");
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, out, 4, (tutti_dtype)99, TUTTI_SUM, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "unknown type 99");
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_BXOR, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "bxor does not fit type float32");
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, (tutti_op)77, comm), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_broadcast(in, out, 4, TUTTI_FLOAT32, size, comm), TUTTI_ERR_ARG);
    wrong += world_says(rank, "out of range");
    wrong += WORLD_TAKEN(tutti_broadcast(in, out, 4, TUTTI_FLOAT32, -1, comm), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_allgatherv(in, out, NULL, NULL, TUTTI_FLOAT32, comm), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_allreduce(in, out, SIZE_MAX / 2, TUTTI_FLOAT64, TUTTI_SUM, comm),
                         TUTTI_ERR_ARG);
    wrong += world_says(rank, "overflows");
    wrong += negative_counts(comm, rank, size);
    wrong += WORLD_TAKEN(tutti_send(in, 1, TUTTI_FLOAT32, rank, comm), TUTTI_ERR_ARG);
    char text[256];
    wrong += WORLD_TAKEN(tutti_comm_explain(comm, TUTTI_COLL_REDUCE, NULL, NULL, 4, TUTTI_FLOAT32,
                                            TUTTI_SUM, size, text, sizeof text),
                         TUTTI_ERR_ARG);
    wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_SENDRECV, NULL, NULL, 4, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, text, sizeof text));
    wrong += strstr(text, "a transfer has no plan") == NULL;
    /* the v forms have plans too; where counts are local none has a say */
    wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLGATHERV, NULL, NULL, 10, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, text, sizeof text));
    wrong += strstr(text, "40 bytes\n") == NULL;
    wrong += WORLD_OK(tutti_comm_explain(comm, TUTTI_COLL_ALLTOALLV, NULL, NULL, 10, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, text, sizeof text));
    wrong += strstr(text, "known only locally\n") == NULL || strstr(text, "\n* ") == NULL;
    wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_STATE);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(tutti_send(in, 1, TUTTI_FLOAT32, rank, comm));
    wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_ARG);
    wrong += world_says(rank, "sends to itself in a group");
    wrong +=
        WORLD_TAKEN(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_SUM, NULL), TUTTI_ERR_STATE);
    wrong += WORLD_TAKEN(tutti_op_destroy(comm, TUTTI_SUM), TUTTI_ERR_ARG);
    /* Nothing moved: the communicator still works. */
    wrong += WORLD_OK(tutti_allreduce(NULL, NULL, 0, TUTTI_FLOAT32, TUTTI_SUM, comm));
    wrong += WORLD_OK(tutti_allreduce(in, out, 4, TUTTI_FLOAT32, TUTTI_SUM, comm));
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
        wrong += WORLD_OK(
            tutti_allreduce_start(in[o], out[o], COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm, &list[o]));
    }
    while (!done && !wrong)
        wrong += WORLD_OK(tutti_test(&list[0], &done));
    wrong += WORLD_OK(tutti_wait_all(OPS, list));
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
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_send(in, count, TUTTI_INT32, next, comm));
        wrong += WORLD_OK(tutti_recv(out, count, TUTTI_INT32, last, comm));
        wrong += WORLD_OK(tutti_send(in, count, TUTTI_INT32, rank, comm));
        wrong += WORLD_OK(tutti_recv(self, count, TUTTI_INT32, rank, comm));
        wrong += WORLD_OK(tutti_group_end());
    }
    if (count > 0) {
        wrong +=
            world_check(rank, out[count - 1] == last * 1000 + (int)((count - 1) % 1000), "ring");
        wrong += world_check(rank, self[count - 1] == in[count - 1], "self");
    }
    /* Started sends and receives, receives issued last: no order between them can hang. */
    tutti_request *list[2] = {NULL, NULL};
    if (size > 1) {
        wrong += WORLD_OK(tutti_send_start(in, count, TUTTI_INT32, next, comm, &list[0]));
        wrong += WORLD_OK(tutti_barrier(comm));
        wrong += WORLD_OK(tutti_recv_start(out, count, TUTTI_INT32, last, comm, &list[1]));
        wrong += WORLD_OK(tutti_wait_all(2, list));
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
    wrong += WORLD_OK(tutti_mem_alloc((size_t)size * BLOCK, (void **)&in));
    wrong += WORLD_OK(tutti_mem_alloc((size_t)size * BLOCK, (void **)&out));
    memset(in, rank, (size_t)size * BLOCK);
    memset(out, rank, (size_t)size * BLOCK);
    wrong += WORLD_OK(tutti_barrier(comm));
    uint64_t before = read_in_place(comm);
    wrong += WORLD_OK(tutti_alltoall(out, out, BLOCK, TUTTI_UINT8, comm));
    uint64_t between = read_in_place(comm);
    wrong += world_check(rank, between == before, "%d bytes", (int)(between - before));
    wrong += WORLD_OK(tutti_alltoall(in, out, BLOCK, TUTTI_UINT8, comm));
    wrong += world_check(rank, read_in_place(comm) > between, "nothing was read in place");
    wrong += world_check(rank, out[0] == 0 && out[(size_t)size * BLOCK - 1] == size - 1, "result");
    wrong += WORLD_OK(tutti_mem_free(in));
    wrong += WORLD_OK(tutti_mem_free(out));
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
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &scalar, TUTTI_FLOAT32, &half));
    wrong += WORLD_OK(tutti_op_create(comm, add_ints, &one, &add));
    wrong += WORLD_OK(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, half, comm));
    wrong += world_check(rank, out[2] == 3.0f * (float)size && in[2] == 6, "premulsum %g",
                         (double)out[2]);
    wrong += WORLD_OK(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, TUTTI_AVG, comm));
    wrong += world_check(rank, out[1] == 4, "average %g", (double)out[1]);
    for (int i = 0; i < 100; i++)
        ints[i] = i;
    wrong += WORLD_OK(tutti_allreduce(ints, sums, 100, TUTTI_INT32, add, comm));
    wrong += world_check(rank, sums[7] == 7 * size + size - 1, "own function %d", sums[7]);
    wrong += WORLD_TAKEN(tutti_allreduce(ints, sums, 100, TUTTI_INT32, half, comm), TUTTI_ERR_ARG);
    wrong += WORLD_OK(tutti_op_destroy(comm, half));
    wrong += WORLD_TAKEN(tutti_allreduce(in, out, 3, TUTTI_FLOAT32, half, comm), TUTTI_ERR_ARG);
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
    wrong += WORLD_OK(tutti_comm_split(comm, color, -rank, &half));
    wrong += WORLD_OK(tutti_comm_dup(comm, &copy));
    if (color == TUTTI_NO_COLOR) {
        wrong += world_check(rank, half == NULL, "no color");
    } else {
        int value = rank, total = 0, members = (size - 1 + (color == 0)) / 2, want = 0;
        wrong += WORLD_OK(tutti_comm_rank(half, &new_rank));
        wrong += WORLD_OK(tutti_comm_size(half, &new_size));
        for (int r = color; r < size - 1; r += 2)
            want += r;
        wrong += world_check(rank, new_size == members && new_rank == members - 1 - rank / 2,
                             "rank %d of %d", new_rank, new_size);
        wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, half));
        wrong += world_check(rank, total == want, "sum %d, expected %d", total, want);
    }
    wrong += WORLD_OK(tutti_barrier(copy));
    wrong += WORLD_OK(tutti_comm_finalize(copy));
    wrong += WORLD_OK(tutti_comm_destroy(copy));
    wrong += WORLD_OK(tutti_comm_destroy(half));
    wrong += WORLD_OK(tutti_barrier(comm));
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
        wrong += WORLD_OK(tutti_group_start());
        for (int t = 0; t < TRANSFERS; t++)
            wrong += WORLD_OK(tutti_send(in + t * COUNT, COUNT, TUTTI_INT32, peer, comm));
        for (int t = 0; t < TRANSFERS; t++)
            wrong += WORLD_OK(tutti_recv(out + t * COUNT, COUNT, TUTTI_INT32, peer, comm));
        wrong += WORLD_OK(tutti_group_end());
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

/* Collectives run to their end beside more transfers than a window holds, and these go on: one
 * rank's collective must not wait for receives of the other that wait for sends behind the window,
 * nor may the transfers behind it be forgotten when all before them end inside a collective. */
static int calls_beside_transfers(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TRANSFERS = 60, BYTES = 262144, CALLS = 20 };
    char *in = calloc(TRANSFERS, BYTES), *out = calloc(TRANSFERS, BYTES);
    tutti_request *requests[2 * TRANSFERS];
    float x = 1, y;
    int wrong = 0;
    (void)context;
    for (int t = 0; t < TRANSFERS; t++) {
        if (rank == 0)
            wrong += WORLD_OK(
                tutti_send_start(in + t * BYTES, BYTES, TUTTI_UINT8, 1, comm, &requests[t]));
        else
            wrong += WORLD_OK(tutti_recv(out + t * BYTES, BYTES, TUTTI_UINT8, 0, comm));
    }
    wrong += WORLD_OK(tutti_allreduce(&x, &y, 1, TUTTI_FLOAT32, TUTTI_SUM, comm));
    if (rank == 0)
        wrong += WORLD_OK(tutti_wait_all(TRANSFERS, requests));
    for (int round = 0; round < 2; round++) {
        for (int t = 0; t < TRANSFERS; t++)
            wrong += WORLD_OK(tutti_recv_start(out + t * BYTES, BYTES, TUTTI_UINT8, 1 - rank, comm,
                                               &requests[TRANSFERS + t]));
        for (int t = 0; t < TRANSFERS; t++)
            wrong += WORLD_OK(
                tutti_send_start(in + t * BYTES, BYTES, TUTTI_UINT8, 1 - rank, comm, &requests[t]));
        for (int i = 0; i < CALLS; i++)
            wrong += WORLD_OK(tutti_allreduce(&x, &y, 1, TUTTI_FLOAT32, TUTTI_SUM, comm));
        if (round == 1)
            wrong += WORLD_OK(tutti_comm_finalize(comm));
        wrong += WORLD_OK(tutti_wait_all(2 * TRANSFERS, requests));
    }
    (void)size;
    free(in);
    free(out);
    return wrong;
}

static void test_comm_calls_beside_many_transfers(void)
{
    run(WORLD_PROCESSES, 2, shm, calls_beside_transfers, NULL);
    run(WORLD_PROCESSES, 2, tcp, calls_beside_transfers, NULL);
}

/* A rank that computes and asks seldom receives what has come, although long messages of shared
 * memory have a turn each. */
static int ask_seldom(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TRANSFERS = 8, BYTES = 262144 };
    tutti_request *requests[TRANSFERS];
    char *data = NULL;
    int wrong = WORLD_OK(tutti_mem_alloc(TRANSFERS * BYTES, (void **)&data)), done = 0, asked = 0;
    wrong += WORLD_OK(tutti_barrier(comm));
    for (int t = 0; t < TRANSFERS && rank == 0; t++)
        wrong +=
            WORLD_OK(tutti_send_start(data + t * BYTES, BYTES, TUTTI_UINT8, 1, comm, &requests[t]));
    wrong += world_apart(rank, size, "the sends begin");
    for (int t = 0; t < TRANSFERS && rank == 1; t++)
        wrong +=
            WORLD_OK(tutti_recv_start(data + t * BYTES, BYTES, TUTTI_UINT8, 0, comm, &requests[t]));
    while (rank == 1 && !done && wrong == 0) {
        wrong += WORLD_OK(tutti_test(&requests[TRANSFERS - 1], &done));
        asked++;
    }
    wrong += world_check(rank, asked <= 2, "asked %d times", asked);
    wrong += WORLD_OK(tutti_wait_all(TRANSFERS - rank, requests));
    wrong += WORLD_OK(tutti_barrier(comm));
    wrong += WORLD_OK(tutti_mem_free(data));
    (void)context;
    return wrong;
}

static void test_comm_receives_what_has_come_in_a_test(void)
{
    run(WORLD_PROCESSES, 2, shm, ask_seldom, NULL);
    run(WORLD_THREADS, 2, NULL, ask_seldom, NULL);
}

/* Who reads a long message in place, step by step, has something to do all the time: it does not
 * sleep in between, nor in another communicator of a group (context) where nothing comes yet. */
static int read_long(tutti_comm *comm, int rank, int size, void *context)
{
    const size_t bytes = (size_t)256 << 20;
    const long naps_max = 32;
    struct rusage before, after;
    tutti_request *request;
    char *data = NULL;
    int wrong = WORLD_OK(tutti_mem_alloc(bytes, (void **)&data));
    tutti_comm *other = NULL;
    (void)size;
    if (context)
        wrong += WORLD_OK(tutti_comm_dup(comm, &other)) + WORLD_OK(tutti_barrier(other));
    if (rank == 0)
        wrong += WORLD_OK(tutti_send_start(data, bytes, TUTTI_UINT8, 1, comm, &request));
    wrong += WORLD_OK(tutti_barrier(comm));
    getrusage(RUSAGE_THREAD, &before);
    tutti_group_start();
    if (rank == 1)
        wrong += WORLD_OK(tutti_recv(data, bytes, TUTTI_UINT8, 0, comm));
    if (rank == 1 && other)
        wrong += WORLD_OK(tutti_recv(&size, 1, TUTTI_INT32, 0, other));
    wrong += WORLD_OK(tutti_group_end());
    if (rank == 0)
        wrong += WORLD_OK(tutti_wait(&request));
    if (rank == 0 && other)
        wrong += WORLD_OK(tutti_send(&size, 1, TUTTI_INT32, 1, other));
    getrusage(RUSAGE_THREAD, &after);
    long naps = after.ru_nvcsw - before.ru_nvcsw;
    wrong += world_check(rank, rank == 0 || naps < naps_max, "slept %ld times", naps);
    wrong += WORLD_OK(tutti_barrier(comm)) + WORLD_OK(tutti_comm_destroy(other));
    return wrong + WORLD_OK(tutti_mem_free(data));
}

static void test_comm_reads_long_messages_without_sleep(void)
{
    run(WORLD_PROCESSES, 2, shm, read_long, NULL);
    run(WORLD_THREADS, 2, NULL, read_long, NULL);
    run(WORLD_PROCESSES, 2, shm, read_long, (void *)shm);
}

/* Frees an operation as soon as it has ended, while another thread is inside. */
static void *end_beside(void *argument)
{
    tutti_request **request = argument;
    int done = 0;
    tutti_status status = TUTTI_OK;
    while (!done && (status == TUTTI_OK || status == TUTTI_ERR_STATE))
        status = tutti_test(request, &done);
    return (void *)(intptr_t)(status == TUTTI_ERR_SETTING);
}

/* Operations that cannot be planned end when their turn comes: their owner may be another thread
 * than the one whose wait has brought it. (What goes on with them then is for the sanitizers.) */
static int ends_of_others(tutti_comm *comm, int rank, int size, void *context)
{
    enum { ROUNDS = 30 };
    float x = 1, y, in[8] = {0}, out[64];
    int wrong = 0;
    (void)context;
    for (int round = 0; round < ROUNDS && !wrong; round++) {
        tutti_request *first, *second;
        pthread_t thread;
        void *refused = NULL;
        wrong += WORLD_OK(
            tutti_allgather_start(in, out, (size_t)(8 / size), TUTTI_FLOAT32, comm, &first));
        wrong +=
            WORLD_OK(tutti_allreduce_start(&x, &y, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, &second));
        if (pthread_create(&thread, NULL, end_beside, &second) != 0)
            return wrong + world_check(rank, 0, "no thread");
        tutti_status status = TUTTI_ERR_STATE;
        while (status == TUTTI_ERR_STATE) /* the other thread is inside */
            status = tutti_wait(&first);
        wrong += world_check(rank, status == TUTTI_OK, "%s", tutti_last_error());
        pthread_join(thread, &refused);
        wrong += world_check(rank, refused != NULL, "not refused");
    }
    return wrong;
}

static void test_comm_ends_what_another_thread_owns(void)
{
    static const char *const settings[] = {"TUTTI_ALGO=allreduce:hier", NULL};
    run(WORLD_THREADS, 3, settings, ends_of_others, NULL);
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
    wrong +=
        WORLD_OK(tutti_allreduce_start(in, out, COUNT, TUTTI_INT32, TUTTI_SUM, comm, &requests[0]));
    wrong +=
        WORLD_OK(tutti_allgatherv_start(in, out, counts, displs, TUTTI_INT32, comm, &requests[1]));
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &half, TUTTI_FLOAT32, &op));
    wrong += WORLD_OK(tutti_allreduce_start(&x, &y, 1, TUTTI_FLOAT32, op, comm, &requests[2]));
    memset(counts, 0x55, sizeof counts);
    memset(displs, 0x55, sizeof displs);
    wrong += WORLD_OK(tutti_op_destroy(comm, op));
    wrong += WORLD_OK(tutti_op_create_premulsum(comm, &twice, TUTTI_FLOAT32, &other));
    wrong += WORLD_OK(tutti_wait_all(3, requests));
    for (int r = 0; r < size; r++)
        wrong += world_check(rank, out[(size_t)r * COUNT + 5] == r, "block %d", r);
    wrong += world_check(rank, y == 2 * (float)size, "premulsum %g", (double)y);
    wrong += WORLD_OK(tutti_allreduce(&x, &z, 1, TUTTI_FLOAT32, other, comm));
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

/* What the arrays of a v form say may change from call to call, and the arrays may go: a call that
 * repeats the one before in all else takes them as they are now. */
static int changed_counts(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BLOCK = 8, ROUNDS = 12 };
    int in[BLOCK], out[16 * BLOCK], wrong = 0;
    float x[16 * BLOCK], mean[BLOCK];
    bool averages = context != NULL;
    for (int i = 0; i < BLOCK; i++)
        in[i] = rank * BLOCK + i;
    for (int i = 0; i < 16 * BLOCK; i++)
        x[i] = (float)i;
    for (int round = 0; round < ROUNDS; round++) {
        int kind = round / 3, at = 0, own = 0;
        bool placed = kind % 2 && rank != round % size; /* displacements are a rank's own affair */
        size_t *counts = calloc((size_t)size, sizeof *counts);
        size_t *displs = calloc((size_t)size, sizeof *displs);
        for (int r = 0; r < size; r++) {
            counts[r] = (size_t)(1 + (r + kind / 2) % 3);
            displs[r] = (size_t)((size - 1 - r) * BLOCK);
        }
        if (averages)
            wrong +=
                WORLD_OK(tutti_reduce_scatterv(x, mean, counts, TUTTI_FLOAT32, TUTTI_AVG, comm));
        else
            wrong += WORLD_OK(
                tutti_allgatherv(in, out, counts, placed ? displs : NULL, TUTTI_INT32, comm));
        for (int r = 0; r < size; r++) {
            const int *block = out + (placed ? (int)displs[r] : at);
            for (int i = 0; i < (int)counts[r] && !averages; i++)
                wrong +=
                    world_check(rank, block[i] == r * BLOCK + i, "round %d, block %d", round, r);
            own = r == rank ? at : own;
            at += (int)counts[r];
        }
        for (int i = 0; i < (int)counts[rank] && averages; i++)
            wrong += world_check(rank, mean[i] == (float)(own + i), "round %d, mean %d", round, i);
        free(counts);
        free(displs);
    }
    return wrong;
}

static void test_comm_reads_counts_anew(void)
{
    int averages;
    static const char *const collected[] = {"TUTTI_ALGO=allgatherv:circulant", NULL};
    run(WORLD_THREADS, 3, NULL, changed_counts, NULL);
    run(WORLD_THREADS, 5, collected, changed_counts, NULL);
    run(WORLD_THREADS, 3, NULL, changed_counts, &averages);
    run(WORLD_PROCESSES, 4, shm, changed_counts, NULL);
}

/* ---- log -------------------------------------------------------------------------------------
 */

/* This process's descriptors of the file. */
static int times_open(const char *path)
{
    int times = 0;
    for (int fd = 0; fd < 1024; fd++) {
        char name[32], target[128] = "";
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        times += readlink(name, target, sizeof target - 1) > 0 && strcmp(target, path) == 0;
    }
    return times;
}

static int logs(tutti_comm *comm, int rank, int size, void *context)
{
    const char *path = context;
    char text[4096] = "", line[80];
    tutti_unique_id id;
    tutti_comm *twin;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &twin));
    wrong += WORLD_OK(tutti_comm_abort(twin)) + WORLD_OK(tutti_comm_destroy(twin));
    wrong += WORLD_OK(tutti_comm_dup(comm, &twin)) + WORLD_OK(tutti_comm_destroy(twin));
    FILE *file = fopen(path, "r");
    wrong += world_check(rank, file && fread(text, 1, sizeof text - 1, file) > 0, "an empty file");
    if (file)
        fclose(file);
    snprintf(line, sizeof line, " rank %d] info: communicator failed: ", rank);
    wrong += world_check(rank, strstr(text, line) != NULL, "the file has: %s", text);
    wrong += world_check(rank, times_open(path) == 1, "open %d times", times_open(path));
    if (rank == 1)
        setenv("TUTTI_LOG_FILE", "/nowhere/at/all", 1);
    if (rank == 0)
        wrong += WORLD_OK(tutti_unique_id_create(&id));
    wrong += WORLD_OK(tutti_broadcast(&id, &id, sizeof id, TUTTI_UINT8, 0, comm));
    wrong += WORLD_TAKEN(tutti_comm_create(size, &id, rank, &twin), TUTTI_ERR_SETTING);
    return wrong + world_says(rank, "rank 1: open TUTTI_LOG_FILE=/nowhere/at/all: No such file");
}

static void test_comm_logs_to_the_file_that_is_set(void)
{
    struct suite_log log;
    const char *const settings[] = {"TUTTI_LOG=info", log.setting, NULL};
    suite_log_begin(&log);
    run(WORLD_PROCESSES, 2, settings, logs, log.path);
    suite_log_end(&log);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"refuses_bad_arguments", test_comm_refuses_bad_arguments},
        {"refuses_stale_handles", test_comm_refuses_stale_handles},
        {"requests", test_comm_requests},
        {"send_and_receive", test_comm_send_and_receive},
        {"many_transfers_in_one_group", test_comm_many_transfers_in_one_group},
        {"calls_beside_many_transfers", test_comm_calls_beside_many_transfers},
        {"receives_what_has_come_in_a_test", test_comm_receives_what_has_come_in_a_test},
        {"reads_long_messages_without_sleep", test_comm_reads_long_messages_without_sleep},
        {"ends_what_another_thread_owns", test_comm_ends_what_another_thread_owns},
        {"keeps_what_started_operations_need", test_comm_keeps_what_started_operations_need},
        {"reads_counts_anew", test_comm_reads_counts_anew},
        {"takes_along_what_is_overwritten_next", test_comm_takes_along_what_is_overwritten_next},
        {"own_operations", test_comm_own_operations},
        {"split_and_dup", test_comm_split_and_dup},
        {"logs_to_the_file_that_is_set", test_comm_logs_to_the_file_that_is_set},
    };
    return suite_run("comm", tests, sizeof tests / sizeof *tests, argc, argv);
}
