/* test_comm_ends.c: what happens when ranks of a communicator die, stop, abort or fork. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/world_suite.h"

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
    world_tell();
    if (rank == size - 1) {
        wrong += world_await(rank, size); /* until the others have left these too */
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

static void test_comm_ends_notices_a_death_though_a_child_lives(void)
{
    for (int i = 0; i < 6; i++) {
        int all_links = i / 3;
        struct world world = world_over(i, 4);
        world.doomed = 4;
        world.limit_s = 8;
        CU_ASSERT_EQUAL(world_run(&world, die_leaving_a_child, &all_links), 0);
    }
}

static void deaths(const char *const *settings)
{
    for (size_t count = 2; count < 3000000; count *= 1000) {
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 4,
                              .settings = settings,
                              .limit_s = 12 * WORLD_SLOW,
                              .doomed = 3};
        double start = world_seconds();
        CU_ASSERT_EQUAL(world_run(&world, die, &count), 0);
        CU_ASSERT(world_seconds() - start < 8 * WORLD_SLOW);
    }
}

static void test_comm_ends_names_the_rank_that_died(void)
{
    deaths(shm);
    deaths(tcp);
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
    for (int i = 0; i < 6; i++) {
        int barrier = i / 3;
        struct world world = world_over(i, 4);
        world.doomed = 4;
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
    world_tell();
    wrong += world_await(rank, size - 1); /* until all have */
    double start = world_seconds();
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", *(int *)context);
    wrong += world_says(rank, name);
    return wrong +
           world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
}

static void test_comm_ends_the_first_call_names_a_rank_that_died(void)
{
    for (int size = 3; size <= 5; size += 2) {
        for (int i = 0; i < 6; i++) {
            int doomed = i / 3 * (size - 1);
            struct world world = world_over(i, size);
            world.doomed = 1 + doomed;
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

/* Links are made, and all have left the barrier, without the limit that is tested. */
static int meet(tutti_comm *comm, int rank, int size)
{
    uint64_t limit_ms = comm->settings.timeout_ms;
    comm->settings.timeout_ms = 20000;
    int wrong = WORLD_OK(tutti_barrier(comm));
    comm->settings.timeout_ms = limit_ms;
    world_tell();
    return wrong + world_await(rank, size);
}

static int stop(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, wrong = meet(comm, rank, size);
    (void)context;
    if (rank == 1)
        return wrong + world_await(rank, size + size - 1);
    tutti_status status = tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                         tutti_last_error());
    wrong += world_says(rank, "waited 500 ms");
    world_tell();
    return wrong;
}

static int stop_while_testing(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total, done = 0, wrong = meet(comm, rank, size);
    tutti_request *request;
    (void)context;
    if (rank == 1)
        return wrong + world_await(rank, size + size - 1);
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
    world_tell();
    wrong += world_await(rank, size); /* until all have left the barrier */
    if (rank == 0)
        return wrong + world_await(rank, size + size - 1);
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

static void *abort_and_tell(void *argument)
{
    world_await(0, 1);
    abort_soon(argument);
    world_tell();
    return NULL;
}

/* A group waits for a peer in one communicator only; the other one is aborted meanwhile. */
static int abort_beside(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *other;
    int value = 5, total, got = 0, wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    pthread_t helper;
    (void)size, (void)context;
    if (wrong > 0)
        return wrong;
    if (rank == 0) {
        pthread_create(&helper, NULL, abort_and_tell, comm);
        tutti_group_start();
        wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
        wrong += WORLD_OK(tutti_recv(&got, 1, TUTTI_INT32, 1, other));
        tutti_group_end(); /* the allreduce may not have been over */
        wrong += world_check(rank, got == 5, "received %d", got);
        pthread_join(helper, NULL);
    } else {
        wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
        world_tell();
        wrong += world_await(rank, 2); /* until the abort has returned */
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, 0, other));
    }
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

static void test_comm_ends_abort_returns_while_a_group_waits_in_another(void)
{
    run(WORLD_THREADS, 2, NULL, abort_beside, NULL);
    run(WORLD_PROCESSES, 2, shm, abort_beside, NULL);
}

static void *receive(void *argument)
{
    int value;
    return tutti_recv(&value, 1, TUTTI_INT32, 1, argument) == TUTTI_OK ? argument : NULL;
}

/* Memory is given back beside a thread that waits inside, as watchdogs do before they abort. */
static int deregistering(tutti_comm *comm, int rank, int size, void *context)
{
    static char memory[4096];
    tutti_registration *registration;
    int wrong = WORLD_OK(tutti_register(comm, memory, sizeof memory, &registration));
    pthread_t helper;
    void *received = NULL;
    (void)size, (void)context;
    if (rank == 0) {
        if (pthread_create(&helper, NULL, receive, comm) != 0)
            return wrong + 1;
        while (atomic_load(&comm->busy) == 0)
            usleep(100);
    } else {
        wrong += world_await(rank, 1);
        wrong += WORLD_OK(tutti_send(&rank, 1, TUTTI_INT32, 0, comm));
    }
    wrong += WORLD_OK(tutti_deregister(comm, registration));
    if (rank == 0) {
        world_tell();
        pthread_join(helper, &received);
        wrong += world_check(rank, received != NULL, "not received");
    }
    return wrong;
}

static void test_comm_ends_deregister_is_in_nobodys_way(void)
{
    static const char *const fault[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_FAULT=seed:1", NULL};
    run(WORLD_PROCESSES, 2, fault, deregistering, NULL);
}

/* A pair that does not fit says so to who waits for either half. */
static int send_itself_another_length(tutti_comm *comm, int rank, int size, void *context)
{
    int in[4] = {0}, out[8], wrong = 0;
    tutti_request *requests[2];
    (void)size, (void)context;
    wrong += WORLD_OK(tutti_send_start(in, 4, TUTTI_INT32, rank, comm, &requests[0]));
    wrong += WORLD_OK(tutti_recv_start(out, 8, TUTTI_INT32, rank, comm, &requests[1]));
    for (int i = 0; i < 2; i++) {
        wrong += WORLD_TAKEN(tutti_wait(&requests[i]), TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "sends itself 4 int32 but receives 8 int32");
    }
    return wrong;
}

static void test_comm_ends_transfers_to_oneself_that_differ(void)
{
    run(WORLD_THREADS, 1, NULL, send_itself_another_length, NULL);
}

/* A rank that computes nothing else for as long as parts of a long message come looks around all
 * the same: another rank aborts meanwhile. */
static int abort_beside_a_long_message(tutti_comm *comm, int rank, int size, void *context)
{
    enum { MESSAGES = 16 };
    const size_t bytes = (size_t)64 << 20;
    char *data = calloc(1, bytes);
    int wrong = WORLD_OK(tutti_barrier(comm));
    (void)size, (void)context;
    if (rank == 2) {
        wrong += world_await(rank, 2);
        usleep(50000);
        wrong += WORLD_OK(tutti_comm_abort(comm));
    } else {
        world_tell();
        tutti_group_start();
        for (int i = 0; i < MESSAGES; i++)
            wrong += rank == 0 ? WORLD_OK(tutti_send(data, bytes, TUTTI_UINT8, 1, comm))
                               : WORLD_OK(tutti_recv(data, bytes, TUTTI_UINT8, 0, comm));
        wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_PEER);
        wrong += world_says(rank, "aborted");
    }
    free(data);
    return wrong;
}

/* Those that share a host have a core each, as far as they know: who shares one never spins. */
static void test_comm_ends_abort_is_seen_while_parts_move(void)
{
    static const char *const ring[] = {"TUTTI_TRANSPORTS=shm,tcp", "TUTTI_INPLACE=0", "TUTTI_CMA=0",
                                       "TUTTI_SPIN_US=1000000", NULL};
    struct world world = {
        .kind = WORLD_PROCESSES, .size = 3, .settings = ring, .prepare = be_on_one_of_two_hosts};
    CU_ASSERT_EQUAL(world_run(&world, abort_beside_a_long_message, NULL), 0);
}

/* Handles of destroyed communicators are kept for a while; a request may be kept longer. */
static void test_comm_ends_requests_outlive_their_communicator(void)
{
    tutti_comm *comm;
    tutti_request *request;
    int value = 1;
    CU_ASSERT_EQUAL_FATAL(tutti_comm_create_from_env(&comm), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_send_start(&value, 1, TUTTI_INT32, 0, comm, &request), TUTTI_OK);
    CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_OK);
    for (int i = 0; i < 100; i++) {
        CU_ASSERT_EQUAL_FATAL(tutti_comm_create_from_env(&comm), TUTTI_OK);
        CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_OK);
    }
    CU_ASSERT_EQUAL(tutti_wait(&request), TUTTI_ERR_ABORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "aborted the communicator"));
}

static void *wait_for(void *request)
{
    tutti_status status = tutti_wait((tutti_request **)request);
    bool told = strstr(tutti_last_error(), "TUTTI_ALGO=allreduce:hier: ") != NULL;
    return status == TUTTI_ERR_SETTING && told ? request : NULL;
}

/* The thread that waits is another than the one in which the operation was refused. */
static void test_comm_ends_refusals_are_told_to_who_waits(void)
{
    tutti_comm *comm;
    tutti_request *request;
    float in = 1, out;
    pthread_t helper;
    void *told = NULL;
    setenv("TUTTI_ALGO", "allreduce:hier", 1);
    CU_ASSERT_EQUAL_FATAL(tutti_comm_create_from_env(&comm), TUTTI_OK);
    unsetenv("TUTTI_ALGO");
    CU_ASSERT_EQUAL(tutti_allreduce_start(&in, &out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm, &request),
                    TUTTI_OK);
    pthread_create(&helper, NULL, wait_for, &request);
    pthread_join(helper, &told);
    CU_ASSERT_PTR_NOT_NULL(told);
    CU_ASSERT_EQUAL(tutti_comm_destroy(comm), TUTTI_OK);
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
        {"names_the_rank_that_died", test_comm_ends_names_the_rank_that_died},
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
        {"deregister_is_in_nobodys_way", test_comm_ends_deregister_is_in_nobodys_way},
        {"transfers_to_oneself_that_differ", test_comm_ends_transfers_to_oneself_that_differ},
        {"abort_is_seen_while_parts_move", test_comm_ends_abort_is_seen_while_parts_move},
        {"requests_outlive_their_communicator", test_comm_ends_requests_outlive_their_communicator},
        {"refusals_are_told_to_who_waits", test_comm_ends_refusals_are_told_to_who_waits},
        {"abort_returns_while_a_group_waits_in_another",
         test_comm_ends_abort_returns_while_a_group_waits_in_another},
        {"abort_before_the_first_operation", test_comm_ends_abort_before_the_first_operation},
        {"survives_a_fork", test_comm_ends_survives_a_fork},
    };
    return suite_run("comm_ends", tests, sizeof tests / sizeof *tests, argc, argv);
}
