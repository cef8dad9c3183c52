/* test_comm_ends.c: what happens when ranks of a communicator disagree, die, stop, abort or fork.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/suite.h"
#include "tests/world.h"

static void run(enum world_kind kind, int size, const char *const *settings, world_fn *function,
                void *context)
{
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = 40};
    CU_ASSERT_EQUAL(world_run(&world, function, context), 0);
}

static const char *const shm[] = {"TUTTI_TRANSPORTS=shm", NULL};
static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

/* ---- disagreement -----------------------------------------------------------------------------
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
    double start = world_seconds();
    /* Others may be done with this call, and disagree, before this rank is. */
    tutti_status status = tutti_allreduce(in, out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm);
    if (status == TUTTI_OK)
        status = deviate(m, rank == 1, in, out, comm);
    /* A root that only sends may finish before it can know; it learns at its next call. */
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    wrong += world_check(rank, status == TUTTI_ERR_MISMATCH, "difference %d: %s: %s", m->what,
                         tutti_status_string(status), tutti_last_error());
    wrong += world_says(rank, "ranks disagree");
    wrong += world_says(rank, differences[m->what]);
    wrong += world_says(rank, "rank 1 (host ");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    wrong += WORLD_TAKEN(tutti_barrier(comm), TUTTI_ERR_MISMATCH);
    (void)size;
    free(in);
    free(out);
    return wrong;
}

/* Rank 1 sends int32; what rank 0 receives is of another type, or more. */
static int transfers_disagree(tutti_comm *comm, int rank, int size, void *context)
{
    int more = *(int *)context, values[8] = {0};
    int wrong = WORLD_OK(tutti_barrier(comm));
    tutti_status status = TUTTI_OK;
    if (rank == 1)
        status = tutti_send(values, 4, TUTTI_INT32, 0, comm);
    else if (rank == 0)
        status = tutti_recv(values, more ? 6 : 4, more ? TUTTI_INT32 : TUTTI_FLOAT32, 1, comm);
    if (status == TUTTI_OK)
        status = tutti_barrier(comm);
    wrong += world_check(rank, status == TUTTI_ERR_MISMATCH, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "ranks disagree: rank 1 (host ");
    wrong += world_says(rank, ") sends 4 int32 where rank 0 (host ");
    wrong += world_says(rank, more ? ") receives 6 int32: " : ") receives 4 float32: ");
    (void)size;
    return wrong;
}

static void test_comm_ends_names_what_a_send_and_its_receive_differ_in(void)
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

static void test_comm_ends_names_both_sides_of_a_mismatch(void)
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
    double start = 0;
    int wrong = WORLD_OK(tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm));
    (void)size;
    for (int i = 0; i < 1000000 && status == TUTTI_OK; i++) {
        if (rank == 2 && i == 5)
            raise(SIGKILL);
        start = world_seconds();
        status = tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm);
    }
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "rank 2 (host ");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    free(in);
    free(out);
    return wrong;
}

/* In the first call of all; who learns of it ends its process, as programs do that check a status.
 */
static int disagree_and_exit(tutti_comm *comm, int rank, int size, void *context)
{
    static float in[40001], out[40001];
    tutti_status status = rank == 0
                              ? tutti_allreduce(in, out, 40001, TUTTI_FLOAT32, TUTTI_SUM, comm)
                              : tutti_barrier(comm);
    int wrong = world_check(rank, status == TUTTI_ERR_MISMATCH, "%s: %s",
                            tutti_status_string(status), tutti_last_error());
    (void)size, (void)context;
    if (wrong == 0)
        _exit(0);
    return wrong;
}

static void be_one_of_two_on_a_host(int rank)
{
    setenv("TUTTI_HOST_ID", rank < 2 ? "one" : rank < 4 ? "two" : "three", 1);
}

static void test_comm_ends_names_the_cause_though_who_knew_exited(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    for (int i = 0; i < 9; i++) {
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 6,
                              .settings = worlds[i % 3],
                              .limit_s = 20,
                              .prepare = i % 3 == 2 ? be_one_of_two_on_a_host : NULL};
        CU_ASSERT_EQUAL(world_run(&world, disagree_and_exit, NULL), 0);
    }
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
    int value = rank, total, blocks[4] = {0}, received[4], wrong = WORLD_OK(tutti_barrier(comm));
    if (*(int *)context) /* every link exists before the fork */
        wrong += WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    if (rank == size - 1) {
        leave_a_child();
        raise(SIGKILL);
    }
    double start = world_seconds();
    tutti_status status = TUTTI_OK;
    while (status == TUTTI_OK)
        status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "rank 3 (host ");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    return wrong;
}

static void be_on_one_of_two_hosts(int rank)
{
    setenv("TUTTI_HOST_ID", rank < 2 ? "one" : "two", 1);
}

static void test_comm_ends_notices_a_death_though_a_child_lives(void)
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
            .kind = WORLD_PROCESSES, .size = 4, .settings = settings, .doomed = 3};
        CU_ASSERT_EQUAL(world_run(&world, die, &count), 0);
    }
}

static void test_comm_ends_names_the_rank_that_died(void)
{
    deaths(shm);
    deaths(tcp);
}

/* One rank aborts, the next dies of it; the third, which was busy, looks for the dead one only. */
struct chain {
    int witness, aborter, dead;
};

static int die_of_an_abort(tutti_comm *comm, int rank, int size, void *context)
{
    const struct chain *chain = context;
    int value = 0, wrong = 0;
    (void)size;
    if (rank == chain->aborter) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, chain->witness, comm));
        wrong += world_await(rank, 1);
        wrong += WORLD_OK(tutti_comm_abort(comm));
        world_tell();
        return wrong + world_await(rank, 3);
    }
    if (rank == chain->dead) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, chain->witness, comm));
        wrong += world_await(rank, 2);
        raise(SIGKILL);
    }
    wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, chain->aborter, comm));
    wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, chain->dead, comm));
    world_tell();
    wrong += world_await(rank, 2);
    usleep(50000); /* the dead one's links are closed */
    wrong += WORLD_TAKEN(tutti_recv(&value, 1, TUTTI_INT32, chain->dead, comm), TUTTI_ERR_PEER);
    wrong += world_says(rank, "aborted the communicator");
    world_tell();
    return wrong;
}

/* One rank aborts; the next learns of it and leaves, never having asked for the link that the third
 * has made to it and waits on. */
static int leave_unasked(tutti_comm *comm, int rank, int size, void *context)
{
    struct chain *chain = context;
    int value = 0, wrong = 0;
    (void)size;
    if (rank == chain->aborter) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, chain->dead, comm));
        wrong += await_step(rank, &chain->step, 2);
        tutti_comm_abort(comm);
        return wrong;
    }
    if (rank == chain->dead) { /* looks now and then, as who serves others would */
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, chain->aborter, comm));
        atomic_store(&chain->step, 1);
        double end = world_seconds() + 10;
        while (tutti_comm_status(comm) == TUTTI_OK && world_seconds() < end)
            usleep(1000);
        return wrong + WORLD_TAKEN(tutti_comm_status(comm), TUTTI_ERR_PEER);
    }
    wrong += await_step(rank, &chain->step, 1);
    tutti_request *request;
    wrong += WORLD_OK(tutti_recv_start(&value, 1, TUTTI_INT32, chain->dead, comm, &request));
    for (int i = 0, done = 0; i < 100 && !done; i++) { /* until the link is made */
        tutti_test(&request, &done);
        usleep(1000);
    }
    atomic_store(&chain->step, 2);
    wrong += WORLD_TAKEN(tutti_wait(&request), TUTTI_ERR_PEER);
    wrong += world_says(rank, "aborted the communicator");
    return wrong;
}

static void test_comm_ends_names_the_cause_that_another_told(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    for (int i = 0; i < 18; i++) {
        int witness = i / 3 % 3, turn = i / 9;
        struct chain chain = {witness, (witness + 1 + turn) % 3, (witness + 2 - turn) % 3};
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 3,
                              .settings = worlds[i % 3],
                              .limit_s = 20,
                              .doomed = 1 + chain.dead,
                              .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
        CU_ASSERT_EQUAL(world_run(&world, die_of_an_abort, &chain), 0);
    }
}

static void test_comm_ends_tells_the_cause_over_links_of_others(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    static const int roles[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 2, 0}}; /* the lower rank dials */
    struct chain *chain = shared_memory(sizeof *chain);
    for (int i = 0; i < 9; i++) {
        const int *role = roles[i / 3];
        *chain = (struct chain){.witness = role[0], .dead = role[1], .aborter = role[2]};
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 3,
                              .settings = worlds[i % 3],
                              .limit_s = 20,
                              .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
        CU_ASSERT_EQUAL(world_run(&world, leave_unasked, chain), 0);
    }
    munmap(chain, sizeof *chain);
}

/* Nothing runs, and the status is all that is asked for. */
static tutti_status watch(tutti_comm *comm, double seconds)
{
    tutti_status status = TUTTI_OK;
    for (double end = world_seconds() + seconds; status == TUTTI_OK && world_seconds() < end;) {
        status = tutti_comm_status(comm);
        usleep(500);
    }
    return status;
}

static int die_idle(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, barrier = *(int *)context;
    int wrong = WORLD_OK(barrier ? tutti_barrier(comm)
                                 : tutti_allreduce(&rank, &value, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += world_check(rank, watch(comm, 0.1) == TUTTI_OK, "%s", tutti_last_error());
    world_tell();
    if (rank == size - 1) {
        wrong += world_await(rank, size);
        raise(SIGKILL);
    }
    double start = world_seconds();
    tutti_status status = watch(comm, 10);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "rank 3 (host ");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    wrong += WORLD_TAKEN(tutti_barrier(comm), TUTTI_ERR_PEER);
    return wrong + world_says(rank, "rank 3 (host ");
}

static void test_comm_ends_an_idle_rank_that_asks_notices_a_death(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    for (int i = 0; i < 6; i++) {
        int barrier = i / 3;
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 4,
                              .settings = worlds[i % 3],
                              .limit_s = 20,
                              .doomed = 4,
                              .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
        CU_ASSERT_EQUAL(world_run(&world, die_idle, &barrier), 0);
    }
}

/* A rank dies before anyone has a link to anyone: the status cannot tell, the first call does. */
static int die_unmet(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total;
    if (rank == *(int *)context)
        raise(SIGKILL);
    int wrong = world_check(rank, watch(comm, 0.3) == TUTTI_OK, "%s", tutti_last_error());
    double start = world_seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", *(int *)context);
    wrong += world_says(rank, name);
    (void)size;
    return wrong +
           world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
}

static void test_comm_ends_the_first_call_names_a_rank_that_died(void)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const worlds[] = {shm, tcp, mixed};
    for (int size = 3; size <= 5; size += 2) {
        for (int i = 0; i < 6; i++) {
            int doomed = i / 3 * (size - 1);
            struct world world = {.kind = WORLD_PROCESSES,
                                  .size = size,
                                  .settings = worlds[i % 3],
                                  .limit_s = 20,
                                  .doomed = 1 + doomed,
                                  .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
            CU_ASSERT_EQUAL(world_run(&world, die_unmet, &doomed), 0);
        }
    }
}

/* Rank 1 destroys its communicator, and its process ends: that is no failure of the others'. */
static int leave_idle(tutti_comm *comm, int rank, int size, void *context)
{
    int blocks[4] = {0}, received[4], wrong = 0;
    (void)size;
    if (*(int *)context) /* with every link */
        wrong += WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank != 1)
        wrong += world_check(rank, watch(comm, 0.5) == TUTTI_OK, "%s", tutti_last_error());
    return wrong;
}

static void test_comm_ends_an_idle_rank_minds_no_peer_that_leaves(void)
{
    for (int links = 0; links < 2; links++) {
        run(WORLD_PROCESSES, 4, shm, leave_idle, &links);
        run(WORLD_PROCESSES, 4, tcp, leave_idle, &links);
        run(WORLD_THREADS, 4, NULL, leave_idle, &links);
    }
}

struct watcher {
    tutti_comm *comm;
    atomic_bool stop;
    int wrong;
};

static void *keep_watching(void *argument)
{
    struct watcher *watcher = argument;
    while (!atomic_load(&watcher->stop))
        watcher->wrong += tutti_comm_status(watcher->comm) != TUTTI_OK;
    return NULL;
}

/* Another thread that asks all the time is in nobody's way. */
static int work_watched(tutti_comm *comm, int rank, int size, void *context)
{
    struct watcher watcher = {.comm = comm};
    pthread_t thread;
    int value, wrong = 0;
    (void)context;
    if (pthread_create(&thread, NULL, keep_watching, &watcher) != 0)
        return 1;
    for (int i = 0; i < 5000 && !wrong; i++) {
        wrong += WORLD_OK(tutti_allreduce(&rank, &value, 1, TUTTI_INT32, TUTTI_SUM, comm));
        wrong += world_check(rank, value == size * (size - 1) / 2, "sum %d", value);
        if (i % 50 == 0)
            usleep(500); /* idle: now the other looks */
    }
    atomic_store(&watcher.stop, true);
    pthread_join(thread, NULL);
    return wrong + world_check(rank, watcher.wrong == 0, "%d times failed", watcher.wrong);
}

static void test_comm_ends_a_thread_that_asks_is_in_nobodys_way(void)
{
    run(WORLD_PROCESSES, 2, shm, work_watched, NULL);
    run(WORLD_PROCESSES, 2, tcp, work_watched, NULL);
    run(WORLD_THREADS, 2, NULL, work_watched, NULL);
}

static int stop(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, wrong = WORLD_OK(tutti_barrier(comm));
    (void)context;
    if (rank == 1)
        return wrong + world_await(rank, size - 1);
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "waited 500 ms");
    world_tell();
    return wrong;
}

static int stop_while_testing(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, done = 0, wrong = WORLD_OK(tutti_barrier(comm));
    tutti_request *request;
    (void)context;
    if (rank == 1)
        return wrong + world_await(rank, size - 1);
    wrong +=
        WORLD_OK(tutti_allreduce_start(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm, &request));
    tutti_status status = TUTTI_OK;
    for (double end = world_seconds() + 5; !done && status == TUTTI_OK && world_seconds() < end;)
        status = tutti_test(&request, &done);
    wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    world_tell();
    return wrong;
}

static void test_comm_ends_bounds_every_wait(void)
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
    int value = rank, total, wrong = WORLD_OK(tutti_barrier(comm));
    pthread_t helper;
    (void)context;
    if (rank == 0)
        return wrong + world_await(rank, size - 1);
    if (rank == 1)
        pthread_create(&helper, NULL, abort_soon, comm);
    double start = world_seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == (rank == 1 ? TUTTI_ERR_ABORTED : TUTTI_ERR_PEER), "%s: %s",
                         tutti_status_string(status), tutti_last_error());
    wrong += world_says(rank, "rank 1 (host ");
    wrong += world_says(rank, "aborted");
    wrong += world_check(rank, world_seconds() - start < 3, "took %.1f s", world_seconds() - start);
    if (rank == 1)
        pthread_join(helper, NULL);
    world_tell();
    return wrong;
}

static void test_comm_ends_abort_ends_every_wait(void)
{
    run(WORLD_THREADS, 4, NULL, aborting, NULL);
    run(WORLD_PROCESSES, 4, shm, aborting, NULL);
    run(WORLD_PROCESSES, 4, tcp, aborting, NULL);
}

/* An abort before anyone has a link to anyone: the others learn of it while that rank still holds
 * its communicator. */
static int abort_first(tutti_comm *comm, int rank, int size, void *context)
{
    int aborts = *(int *)context, value = rank, total, wrong = 0;
    if (rank == aborts) {
        wrong += WORLD_OK(tutti_comm_abort(comm));
        return wrong + world_await(rank, size - 1);
    }
    double start = world_seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", aborts);
    wrong += world_says(rank, name);
    wrong +=
        world_check(rank, world_seconds() - start < 3.5, "took %.1f s", world_seconds() - start);
    world_tell();
    return wrong;
}

static void test_comm_ends_abort_before_the_first_operation(void)
{
    static const char *const *const worlds[] = {NULL, shm, tcp};
    for (int i = 0; i < 6; i++) {
        int aborts = i % 2 * 2;
        run(i < 2 ? WORLD_THREADS : WORLD_PROCESSES, 3, worlds[i / 2], abort_first, &aborts);
    }
}

static int forking(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total = 0, wrong = WORLD_OK(tutti_barrier(comm));
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
    wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += world_check(rank, total == size * (size - 1) / 2, "sum %d", total);
    return wrong;
}

static void test_comm_ends_survives_a_fork(void)
{
    run(WORLD_PROCESSES, 3, shm, forking, NULL);
    run(WORLD_PROCESSES, 3, tcp, forking, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"names_both_sides_of_a_mismatch", test_comm_ends_names_both_sides_of_a_mismatch},
        {"names_what_a_send_and_its_receive_differ_in",
         test_comm_ends_names_what_a_send_and_its_receive_differ_in},
        {"names_the_cause_though_who_knew_exited",
         test_comm_ends_names_the_cause_though_who_knew_exited},
        {"names_the_rank_that_died", test_comm_ends_names_the_rank_that_died},
        {"tells_the_cause_over_links_of_others",
         test_comm_ends_tells_the_cause_over_links_of_others},
        {"names_the_cause_that_another_told", test_comm_ends_names_the_cause_that_another_told},
        {"notices_a_death_though_a_child_lives",
         test_comm_ends_notices_a_death_though_a_child_lives},
        {"an_idle_rank_that_asks_notices_a_death",
         test_comm_ends_an_idle_rank_that_asks_notices_a_death},
        {"the_first_call_names_a_rank_that_died",
         test_comm_ends_the_first_call_names_a_rank_that_died},
        {"an_idle_rank_minds_no_peer_that_leaves",
         test_comm_ends_an_idle_rank_minds_no_peer_that_leaves},
        {"a_thread_that_asks_is_in_nobodys_way",
         test_comm_ends_a_thread_that_asks_is_in_nobodys_way},
        {"bounds_every_wait", test_comm_ends_bounds_every_wait},
        {"abort_ends_every_wait", test_comm_ends_abort_ends_every_wait},
        {"abort_before_the_first_operation", test_comm_ends_abort_before_the_first_operation},
        {"survives_a_fork", test_comm_ends_survives_a_fork},
    };
    return suite_run("comm_ends", tests, sizeof tests / sizeof *tests, argc, argv);
}
