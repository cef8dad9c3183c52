/* test_shrink.c: communicators of the ranks that are left: after good order, deaths and aborts; and
 * the small calls that front ends need: flush, predict, cancel. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/world_suite.h"

/* ---- shrink -----------------------------------------------------------------------------------
 */

/* The child has the given ranks, in order, and works. */
static int check_child(tutti_comm *child, int rank, int want_rank, int want_size)
{
    int new_rank = -1, new_size = -1, value = rank, total = 0, wrong = 0;
    if (!child)
        return world_check(rank, 0, "no child");
    wrong += WORLD_OK(tutti_comm_rank(child, &new_rank));
    wrong += WORLD_OK(tutti_comm_size(child, &new_size));
    wrong +=
        world_check(rank, new_rank == want_rank && new_size == want_size,
                    "rank %d of %d, expected %d of %d", new_rank, new_size, want_rank, want_size);
    for (int i = 0; i < 100; i++)
        wrong += WORLD_OK(tutti_allreduce(&new_rank, &total, 1, TUTTI_INT32, TUTTI_SUM, child));
    wrong += world_check(rank, total == want_size * (want_size - 1) / 2, "sum %d", total);
    wrong += WORLD_OK(tutti_broadcast(&value, &value, 1, TUTTI_INT32, want_size - 1, child));
    return wrong + WORLD_OK(tutti_comm_destroy(child));
}

/* Of a communicator that works: rank 0 leaves out, then the last, then all but one. */
static int shrinking(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *child = NULL;
    int wrong = 0, first = 0, last = size - 1;
    (void)context;
    if (rank != 0) {
        wrong += WORLD_OK(tutti_comm_shrink(comm, &first, 1, &child));
        wrong += check_child(child, rank, rank - 1, size - 1);
    }
    if (rank != last) {
        wrong += WORLD_OK(tutti_comm_shrink(comm, &last, 1, &child));
        wrong += check_child(child, rank, rank, size - 1);
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank == 1) {
        int others[16];
        for (int r = 0, n = 0; r < size; r++) {
            if (r != 1)
                others[n++] = r;
        }
        wrong += WORLD_OK(tutti_comm_shrink(comm, others, (size_t)size - 1, &child));
        wrong += check_child(child, rank, 0, 1);
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    return wrong;
}

static int shrinking_badly(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *child = NULL;
    int twice[2] = {(rank + 1) % size, (rank + 1) % size}, wrong = 0;
    (void)context;
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, &rank, 1, &child), TUTTI_ERR_ARG);
    wrong += world_says(rank, "excludes itself: only survivors call");
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, &size, 1, &child), TUTTI_ERR_ARG);
    wrong += world_says(rank, "is out of range: expected 0 to");
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, twice, 2, &child), TUTTI_ERR_ARG);
    wrong += world_says(rank, "is excluded 2 times");
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, NULL, 1, &child), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, twice, 1, NULL), TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_comm_shrink(NULL, NULL, 0, &child), TUTTI_ERR_STATE);
    wrong += WORLD_OK(tutti_barrier(comm));
    /* Rank 1 leaves out rank 3, the others rank 2. */
    int other = rank == 1 ? 3 : 2;
    double start = world_seconds();
    if (rank != 2 && rank != 3) {
        wrong += WORLD_TAKEN(tutti_comm_shrink(comm, &other, 1, &child), TUTTI_ERR_MISMATCH);
        wrong += world_says(rank, "exclude different ranks: every survivor must name the same");
        wrong +=
            world_check(rank, world_seconds() - start < 2, "took %.1f s", world_seconds() - start);
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    /* Rank 1 does not come. */
    other = 2;
    if (rank != 2 && rank != 1) {
        wrong += world_check(rank, tutti_comm_shrink(comm, &other, 1, &child) != TUTTI_OK,
                             "shrunk without rank 1");
        wrong += rank == 0 ? world_says(rank, "rank 1 (host ") : 0;
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    return wrong;
}

/* The time of two is up before the third comes; they call again, and it comes to that call. */
static int shrinking_again(tutti_comm *comm, int rank, int size, void *context)
{
    int blocks[3] = {0}, received[3];
    tutti_comm *child = NULL;
    int wrong = WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    (void)context;
    if (rank == size - 1) {
        wrong += world_await(rank, size - 1);
        usleep(300000);
    } else {
        wrong += world_check(rank, tutti_comm_shrink(comm, NULL, 0, &child) != TUTTI_OK,
                             "shrunk without rank %d", size - 1);
        world_tell();
    }
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &child));
    return wrong ? wrong : check_child(child, rank, rank, size);
}

static void test_shrink_in_good_order(void)
{
    static const char *const hurry[] = {"TUTTI_MEET_TIMEOUT_MS=1500", NULL};
    run(WORLD_THREADS, 4, NULL, shrinking, NULL);
    run(WORLD_PROCESSES, 5, shm, shrinking, NULL);
    run(WORLD_PROCESSES, 3, tcp, shrinking, NULL);
    run(WORLD_PROCESSES, 4, hurry, shrinking_badly, NULL);
    run(WORLD_PROCESSES, 3, hurry, shrinking_again, NULL);
}

/* Rank *context dies under a collective; the others go on without it. */
static int shrinking_after_death(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 1 << 20 };
    int doomed = *(int *)context, wrong = 0;
    float *buffer = calloc(COUNT, sizeof *buffer);
    tutti_comm *child = NULL;
    tutti_status status = TUTTI_OK;
    wrong += WORLD_OK(tutti_allreduce(buffer, buffer, COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm));
    world_tell();
    if (rank == doomed) {
        wrong += world_await(rank, size); /* until the others have that result too */
        raise(SIGKILL);
    }
    double start = world_seconds();
    while (status == TUTTI_OK && world_seconds() - start < 10)
        status = tutti_allreduce(buffer, buffer, COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "status %s", tutti_status_string(status));
    wrong += WORLD_OK(tutti_comm_shrink(comm, &doomed, 1, &child));
    wrong += check_child(child, rank, rank - (rank > doomed), size - 1);
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    free(buffer);
    return wrong;
}

/* Every rank revokes, one while others wait inside; then all of them go on together. */
static int renewing(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *child = NULL;
    int value = 0, wrong = WORLD_OK(tutti_barrier(comm));
    (void)context;
    world_tell();
    if (rank == 0)
        wrong += world_await(rank, size); /* until the others have left the barrier too */
    else
        wrong += world_check(rank, tutti_recv(&value, 1, TUTTI_INT32, 0, comm) != TUTTI_OK, "recv");
    wrong += WORLD_OK(tutti_comm_revoke(comm));
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &child));
    wrong += check_child(child, rank, rank, size);
    wrong += world_check(rank, tutti_comm_status(comm) != TUTTI_OK, "the parent works again");
    return wrong;
}

/* Revokes as soon as another thread is inside. */
static void *revoke_inside(void *comm)
{
    struct tutti_comm *c = comm;
    while (atomic_load(&c->busy) == 0)
        usleep(100);
    if (tutti_comm_revoke(comm) == TUTTI_OK)
        world_tell();
    return NULL;
}

/* Rank 0 shrinks what works, and another thread of it revokes that; the others come once that
 * thread is through. */
static int revoking_beside(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *child = NULL;
    pthread_t thread;
    int wrong = WORLD_OK(tutti_barrier(comm));
    (void)context;
    world_tell();
    wrong += world_await(rank, rank == 0 ? size : size + 1); /* all have left the barrier */
    if (rank == 0 && pthread_create(&thread, NULL, revoke_inside, comm) != 0)
        return wrong + world_check(rank, 0, "no thread");
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &child));
    wrong += check_child(child, rank, rank, size);
    if (rank == 0) {
        pthread_join(thread, NULL);
        wrong += WORLD_TAKEN(tutti_barrier(comm), TUTTI_ERR_ABORTED);
    }
    return wrong;
}

static void test_shrink_beside_a_thread_that_revokes(void)
{
    run(WORLD_THREADS, 2, NULL, revoking_beside, NULL);
    run(WORLD_PROCESSES, 3, NULL, revoking_beside, NULL);
}

/* The last rank has aborted before the others shrink: it comes to none, and they are told so before
 * their time is up. */
static int shrinking_after_abort(tutti_comm *comm, int rank, int size, void *context)
{
    int blocks[8] = {0}, received[8], last = size - 1, sum = 0, one = 1;
    tutti_comm *child = NULL;
    char name[32];
    (void)context;
    snprintf(name, sizeof name, "shrink: rank %d (host ", last);
    int wrong = WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    world_tell();
    wrong += world_await(rank, size); /* until all have left it */
    if (rank == last) {
        wrong += WORLD_OK(tutti_comm_abort(comm));
        world_tell();
        return wrong + WORLD_TAKEN(tutti_comm_shrink(comm, NULL, 0, &child), TUTTI_ERR_ABORTED);
    }
    wrong += world_await(rank, size + 1);
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, NULL, 0, &child), TUTTI_ERR_PEER);
    wrong += world_says(rank, name) + world_says(rank, "aborted the communicator");
    wrong += world_says(rank, "exclude that rank too");
    world_tell();
    wrong += world_await(rank, size + size); /* until all have been told */
    wrong += WORLD_OK(tutti_comm_shrink(comm, &last, 1, &child));
    wrong += WORLD_OK(tutti_allreduce(&one, &sum, 1, TUTTI_INT32, TUTTI_SUM, child));
    wrong += world_check(rank, sum == last, "sum %d", sum);
    return wrong + WORLD_OK(tutti_comm_destroy(child));
}

static void test_shrink_after_an_abort(void)
{
    static const char *const over_shm[] = {"TUTTI_TRANSPORTS=shm", "TUTTI_ALGO=alltoall:direct",
                                           "TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    static const char *const over_tcp[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_ALGO=alltoall:direct",
                                           "TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    run(WORLD_THREADS, 3, over_shm + 1, shrinking_after_abort, NULL);
    run(WORLD_PROCESSES, 4, over_shm, shrinking_after_abort, NULL);
    run(WORLD_PROCESSES, 4, over_tcp, shrinking_after_abort, NULL);
}

/* Two die one after the other, while the third, which revoked, is outside the library. It excludes
 * the last of them only, and learns of the other. */
static int shrinking_after_two_deaths(tutti_comm *comm, int rank, int size, void *context)
{
    int first = *(int *)context, last = 1 - first, wrong = 0, blocks[3] = {0}, received[3];
    char name[32];
    tutti_comm *child = NULL;
    wrong += WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    world_tell();
    wrong += world_await(rank, size);
    if (rank == last)
        usleep(500000);
    if (rank != 2)
        raise(SIGKILL);
    wrong += WORLD_OK(tutti_comm_revoke(comm));
    usleep(1500000);
    double start = world_seconds();
    snprintf(name, sizeof name, "rank %d (host ", first);
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, &last, 1, &child), TUTTI_ERR_PEER);
    wrong += world_says(rank, name) + world_says(rank, "exclude that rank too");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    int both[2] = {0, 1};
    wrong += WORLD_OK(tutti_comm_shrink(comm, both, 2, &child));
    return wrong + check_child(child, rank, 0, 1);
}

static void test_shrink_after_two_deaths(void)
{
    static const char *const over_shm[] = {"TUTTI_TRANSPORTS=shm", "TUTTI_ALGO=alltoall:direct",
                                           "TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    static const char *const over_tcp[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_ALGO=alltoall:direct",
                                           "TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    for (int first = 0; first < 2; first++) {
        struct world world = {.kind = WORLD_PROCESSES,
                              .size = 3,
                              .settings = over_shm,
                              .limit_s = 40,
                              .doomed = 1,
                              .doomed_too = 2};
        CU_ASSERT_EQUAL(world_run(&world, shrinking_after_two_deaths, &first), 0);
        world.settings = over_tcp;
        CU_ASSERT_EQUAL(world_run(&world, shrinking_after_two_deaths, &first), 0);
    }
}

/* A rank without a descriptor for the meeting says so at once, and the others are told whose lack
 * it is; when it has some again, all go on. */
static int shrinking_without_descriptors(tutti_comm *comm, int rank, int size, void *context)
{
    int poor = *(int *)context, blocks[3] = {0}, received[3];
    struct rlimit limit, none_left;
    tutti_comm *child = NULL;
    char name[32];
    int wrong = WORLD_OK(tutti_alltoall(blocks, received, 1, TUTTI_INT32, comm));
    int next = dup(0);
    getrlimit(RLIMIT_NOFILE, &limit);
    none_left = limit;
    none_left.rlim_cur = (rlim_t)next;
    close(next);
    if (rank == poor)
        wrong += world_check(rank, next > 0 && setrlimit(RLIMIT_NOFILE, &none_left) == 0, "limit");
    double start = world_seconds();
    wrong += world_check(rank, tutti_comm_shrink(comm, NULL, 0, &child) != TUTTI_OK, "shrunk");
    wrong += world_check(rank, world_seconds() - start < 3, "took %.1f s", world_seconds() - start);
    snprintf(name, sizeof name, "rank %d (host ", poor);
    wrong += world_says(rank, strerror(EMFILE));
    if (rank != poor)
        wrong += world_check(rank, strncmp(tutti_last_error(), name, strlen(name)) == 0,
                             "'%s' does not begin: %s", name, tutti_last_error());
    setrlimit(RLIMIT_NOFILE, &limit);
    world_tell();
    wrong += world_await(rank, size);
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &child));
    return wrong + check_child(child, rank, rank, size);
}

/* The root has none left for its links, however many it had for the meeting: its call ends. */
static int calling_without_descriptors(tutti_comm *comm, int rank, int size, void *context)
{
    struct rlimit limit, few;
    tutti_comm *child = NULL;
    int wrong = 0, next = dup(0);
    (void)context;
    close(next);
    getrlimit(RLIMIT_NOFILE, &limit);
    few = limit;
    few.rlim_cur = (rlim_t)next;
    for (bool linking = false; rank == 0 && wrong == 0 && !linking; few.rlim_cur++) {
        double start = world_seconds();
        wrong += world_check(rank, setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
        wrong += world_check(rank, tutti_comm_shrink(comm, NULL, 0, &child) != TUTTI_OK, "shrunk");
        wrong += world_says(rank, strerror(EMFILE));
        wrong +=
            world_check(rank, world_seconds() - start < 3, "took %.1f s", world_seconds() - start);
        linking = strstr(tutti_last_error(), "rank 1 (host ");
    }
    setrlimit(RLIMIT_NOFILE, &limit);
    world_tell();
    return wrong + world_await(rank, size);
}

static void test_shrink_without_descriptors(void)
{
    static const char *const direct[][3] = {
        {"TUTTI_TRANSPORTS=shm", "TUTTI_ALGO=alltoall:direct", NULL},
        {"TUTTI_TRANSPORTS=tcp", "TUTTI_ALGO=alltoall:direct", NULL}};
    for (int poor = 0; poor < 3; poor++) {
        for (int t = 0; t < 2; t++)
            run(WORLD_PROCESSES, 3, direct[t], shrinking_without_descriptors, &poor);
    }
    run(WORLD_PROCESSES, 2, shm, calling_without_descriptors, NULL);
    run(WORLD_PROCESSES, 2, tcp, calling_without_descriptors, NULL);
}

/* A rank dies that had no link to anyone: who shrinks without knowing is told. */
static int shrinking_without_knowing(tutti_comm *comm, int rank, int size, void *context)
{
    int doomed = *(int *)context, wrong = 0;
    char name[32];
    tutti_comm *child = NULL;
    if (rank == doomed)
        raise(SIGKILL);
    usleep(200000);
    double start = world_seconds();
    snprintf(name, sizeof name, "rank %d (host ", doomed);
    wrong += WORLD_TAKEN(tutti_comm_shrink(comm, NULL, 0, &child), TUTTI_ERR_PEER);
    wrong += world_says(rank, name);
    wrong += world_check(rank, world_seconds() - start < 6, "took %.1f s", world_seconds() - start);
    world_tell();
    wrong += world_await(rank, size - 1);
    wrong += WORLD_OK(tutti_comm_shrink(comm, &doomed, 1, &child));
    return wrong + check_child(child, rank, rank - (rank > doomed), size - 1);
}

static void test_shrink_without_knowing_of_a_death(void)
{
    static const char *const settings[][3] = {
        {"TUTTI_TRANSPORTS=shm", "TUTTI_MEET_TIMEOUT_MS=20000", NULL},
        {"TUTTI_TRANSPORTS=tcp", "TUTTI_MEET_TIMEOUT_MS=20000", NULL}};
    for (int doomed = 0; doomed < 3; doomed++) {
        for (int t = 0; t < 2; t++) {
            struct world world = {.kind = WORLD_PROCESSES,
                                  .size = 3,
                                  .settings = settings[t],
                                  .limit_s = 70,
                                  .doomed = doomed + 1};
            CU_ASSERT_EQUAL(world_run(&world, shrinking_without_knowing, &doomed), 0);
        }
    }
}

static void test_shrink_after_failure(void)
{
    for (int doomed = 0; doomed < 4; doomed += 3) {
        static const char *const *const kinds[] = {shm, tcp};
        for (int k = 0; k < 2; k++) {
            struct world world = {.kind = WORLD_PROCESSES,
                                  .size = 4,
                                  .settings = kinds[k],
                                  .limit_s = 40,
                                  .doomed = doomed + 1};
            CU_ASSERT_EQUAL(world_run(&world, shrinking_after_death, &doomed), 0);
        }
    }
    run(WORLD_THREADS, 4, NULL, renewing, NULL);
    run(WORLD_PROCESSES, 4, shm, renewing, NULL);
    run(WORLD_PROCESSES, 4, tcp, renewing, NULL);
}

/* ---- flush, predict, cancel -------------------------------------------------------------------
 */

static int flushing(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 200000 };
    tutti_request *request;
    float *in = calloc(COUNT, sizeof *in), *out = calloc(COUNT, sizeof *out);
    int done = 0, wrong = 0;
    (void)context;
    for (int i = 0; i < COUNT; i++)
        in[i] = 1;
    wrong +=
        WORLD_OK(tutti_allreduce_start(in, out, COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm, &request));
    wrong += WORLD_OK(tutti_comm_flush(comm));
    wrong += world_check(rank, out[COUNT - 1] == (float)size, "flushed too early");
    wrong += WORLD_OK(tutti_test(&request, &done));
    wrong += world_check(rank, done, "flushed, but not done");
    wrong += WORLD_TAKEN(tutti_comm_flush(NULL), TUTTI_ERR_STATE);
    free(in);
    free(out);
    return wrong;
}

static int predicting(tutti_comm *comm, int rank, int size, void *context)
{
    double small = -1, large = -1, self = -1;
    int wrong = 0;
    (void)context;
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_ALLREDUCE, NULL, NULL, 1, TUTTI_FLOAT32,
                                         TUTTI_SUM, 0, &small));
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_ALLREDUCE, NULL, NULL, 1 << 24,
                                         TUTTI_FLOAT32, TUTTI_SUM, 0, &large));
    wrong += world_check(rank, small > 0 && large > 100 * small, "%g us, %g us", small, large);
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_SENDRECV, NULL, NULL, 1, TUTTI_INT8,
                                         TUTTI_SUM, (rank + 1) % size, &small));
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_SENDRECV, NULL, NULL, 1 << 24, TUTTI_INT8,
                                         TUTTI_SUM, (rank + 1) % size, &large));
    wrong += WORLD_OK(tutti_comm_predict(comm, TUTTI_COLL_SENDRECV, NULL, NULL, 1 << 24, TUTTI_INT8,
                                         TUTTI_SUM, rank, &self));
    wrong += world_check(rank, small > 0 && large > 100 * small && self > 0, "%g us, %g us, %g us",
                         small, large, self);
    wrong += WORLD_TAKEN(tutti_comm_predict(comm, TUTTI_COLL_ALLTOALLV, NULL, NULL, 1, TUTTI_INT8,
                                            TUTTI_SUM, 0, &self),
                         TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_comm_predict(comm, TUTTI_COLL_REDUCE, NULL, NULL, 1, TUTTI_INT8,
                                            TUTTI_SUM, size, &self),
                         TUTTI_ERR_ARG);
    wrong += WORLD_TAKEN(tutti_comm_predict(comm, TUTTI_COLL_REDUCE, NULL, NULL, 1, (tutti_dtype)99,
                                            TUTTI_SUM, 0, &self),
                         TUTTI_ERR_ARG);
    return wrong;
}

/* What was recorded on one rank only would hang it, if it ran. */
static int cancelling(tutti_comm *comm, int rank, int size, void *context)
{
    int value = rank, total = 0, wrong = 0;
    (void)context;
    wrong += WORLD_TAKEN(tutti_group_cancel(), TUTTI_ERR_STATE);
    if (rank == 0) {
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, 1, comm));
        wrong += WORLD_OK(tutti_barrier(comm));
        wrong += WORLD_OK(tutti_group_cancel());
        wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_STATE);
    }
    wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += world_check(rank, total == size * (size - 1) / 2, "sum %d", total);
    return wrong;
}

static void test_shrink_flush_predict_cancel(void)
{
    run(WORLD_THREADS, 4, NULL, flushing, NULL);
    run(WORLD_PROCESSES, 3, tcp, flushing, NULL);
    run(WORLD_THREADS, 3, NULL, predicting, NULL);
    run(WORLD_PROCESSES, 3, shm, cancelling, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"in_good_order", test_shrink_in_good_order},
        {"after_failure", test_shrink_after_failure},
        {"after_two_deaths", test_shrink_after_two_deaths},
        {"after_an_abort", test_shrink_after_an_abort},
        {"beside_a_thread_that_revokes", test_shrink_beside_a_thread_that_revokes},
        {"without_knowing_of_a_death", test_shrink_without_knowing_of_a_death},
        {"without_descriptors", test_shrink_without_descriptors},
        {"flush_predict_cancel", test_shrink_flush_predict_cancel},
    };
    return suite_run("shrink", tests, sizeof tests / sizeof *tests, argc, argv);
}
