/* test_late.c: whom ranks name that have waited too long: who is late, not those in between that
 * wait themselves; and a ring of ranks that wait for each other. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/world_suite.h"

#define LIMIT_MS 700
#define STAIR_MS 150 /* between the calls of two ranks */

#define MEET_LIMIT_MS 20000

static const char *const over_any[] = {"TUTTI_TIMEOUT_MS=700", "TUTTI_ALGO=allreduce:ring", NULL};
static const char *const over_shm[] = {"TUTTI_TIMEOUT_MS=700", "TUTTI_ALGO=allreduce:ring",
                                       "TUTTI_TRANSPORTS=shm", NULL};
static const char *const over_tcp[] = {"TUTTI_TIMEOUT_MS=700", "TUTTI_ALGO=allreduce:ring",
                                       "TUTTI_TRANSPORTS=tcp", NULL};

static void over_all(int size, world_fn *function)
{
    run(WORLD_THREADS, size, over_any, function, NULL);
    run(WORLD_PROCESSES, size, over_shm, function, NULL);
    run(WORLD_PROCESSES, size, over_tcp, function, NULL);
}

static int timed_out(int rank, tutti_status status, double since)
{
    double took = world_seconds() - since;
    return world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s", tutti_status_string(status),
                       tutti_last_error()) +
           world_check(rank, took < 5 * WORLD_SLOW, "took %.1f s", took);
}

/* All name the last rank, which is late, as the one that is waited for. */
static int name_the_last(int rank, int size, tutti_status status, double since)
{
    char name[64];
    int wrong = timed_out(rank, status, since);
    snprintf(name, sizeof name, "for rank %d (host ", size - 1);
    wrong += world_says(rank, name);
    wrong += world_says(rank, "that rank is late, stopped or unreachable");
    world_tell();
    return wrong;
}

/* Makes all links before, so that only waiting is measured, and since a thread does not hear of one
 * that it has not met. That takes as long as it takes: hundreds of links on a core. */
static int link_all(tutti_comm *comm, int rank, int size)
{
    int mine = rank, theirs, wrong = 0;
    uint64_t limit_ms = comm->settings.timeout_ms, stall_ms = comm->settings.stall_ms;
    tutti_request *request;
    comm->settings.timeout_ms = MEET_LIMIT_MS;
    comm->settings.stall_ms = 0;
    for (int i = 1; i < size; i++) {
        int to = (rank + i) % size, from = (rank + size - i) % size;
        wrong += WORLD_OK(tutti_recv_start(&theirs, 1, TUTTI_INT32, from, comm, &request));
        wrong += WORLD_OK(tutti_send(&mine, 1, TUTTI_INT32, to, comm));
        wrong += WORLD_OK(tutti_wait(&request));
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    comm->settings.timeout_ms = limit_ms;
    comm->settings.stall_ms = stall_ms;
    return wrong;
}

/* And all have done so: as many ranks have told. */
static int meet(tutti_comm *comm, int rank, int size)
{
    int wrong = link_all(comm, rank, size);
    world_tell();
    return wrong + world_await(rank, size);
}

/* Each rank waits for the next one; the first to wait is the farthest from who is late. */
static int wait_in_a_chain(tutti_comm *comm, int rank, int size, void *context)
{
    int value, wrong = meet(comm, rank, size);
    (void)context;
    if (rank == size - 1)
        return wrong + world_await(rank, size + size - 1);
    usleep((unsigned)rank * STAIR_MS * 1000);
    double since = world_seconds();
    tutti_status status = tutti_recv(&value, 1, TUTTI_INT32, rank + 1, comm);
    return wrong + name_the_last(rank, size, status, since);
}

static void test_late_names_the_end_of_a_chain(void)
{
    over_all(5, wait_in_a_chain);
}

/* In a ring each waits for the one before. The last is late. */
static int wait_in_a_ring(tutti_comm *comm, int rank, int size, void *context)
{
    float values[100] = {0};
    int wrong = meet(comm, rank, size);
    (void)context;
    if (rank == size - 1)
        return wrong + world_await(rank, size + size - 1);
    usleep((unsigned)(size - 2 - rank) * STAIR_MS * 1000);
    double since = world_seconds();
    tutti_status status = tutti_allreduce(values, values, 100, TUTTI_FLOAT32, TUTTI_SUM, comm);
    return wrong + name_the_last(rank, size, status, since);
}

static void test_late_names_who_does_not_come_to_a_collective(void)
{
    over_all(4, wait_in_a_ring);
}

/* The one in the middle tests now and then instead of waiting inside. *context: whether it was kept
 * off so long that it may be called late. */
#define AWAY_S 0.1

static int wait_for_who_tests(tutti_comm *comm, int rank, int size, void *context)
{
    int value, done = 0, wrong = meet(comm, rank, size);
    tutti_status status = TUTTI_OK;
    tutti_request *request;
    atomic_bool *away = context;
    if (rank == size - 1)
        return wrong + world_await(rank, size + size - 1);
    double since = world_seconds();
    if (rank == 0) {
        status = tutti_recv(&value, 1, TUTTI_INT32, 1, comm);
    } else {
        usleep(STAIR_MS * 1000);
        wrong += WORLD_OK(tutti_recv_start(&value, 1, TUTTI_INT32, 2, comm, &request));
        double last = world_seconds();
        while (status == TUTTI_OK && !done && world_seconds() - since < 10) {
            status = tutti_test(&request, &done);
            usleep(2000);
            if (world_seconds() - last > AWAY_S)
                atomic_store(away, true);
            last = world_seconds();
        }
    }
    return wrong + name_the_last(rank, size, status, since);
}

static void test_late_hears_of_who_tests(void)
{
    const char *const *const over[] = {over_any, over_shm, over_tcp};
    atomic_bool *away =
        mmap(NULL, sizeof *away, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(away != MAP_FAILED);
    for (int i = 0; i < 3; i++) {
        struct world world = {
            .kind = i ? WORLD_PROCESSES : WORLD_THREADS, .size = 3, .settings = over[i]};
        int wrong = 1;
        for (int tries = 0; wrong && tries < 8; tries++) {
            atomic_store(away, false);
            wrong = world_run(&world, wait_for_who_tests, away);
            if (!atomic_load(away))
                break;
        }
        CU_ASSERT_EQUAL(wrong, 0);
    }
    munmap(away, sizeof *away);
}

/* Rank 0, whose time is up first, waits for many, and looks so seldom that all their answers are
 * there at once. */
#define MANY 24

static int wait_for_many(tutti_comm *comm, int rank, int size, void *context)
{
    int values[MANY], done = 0, wrong = meet(comm, rank, size);
    tutti_request *requests[MANY] = {NULL};
    tutti_status status = TUTTI_OK;
    (void)context;
    if (rank == size - 1)
        return wrong + world_await(rank, size + size - 1);
    usleep(rank > 0 ? 2 * STAIR_MS * 1000 : 0);
    double since = world_seconds();
    if (rank > 0) {
        status = tutti_recv(values, 1, TUTTI_INT32, size - 1, comm);
        return wrong + name_the_last(rank, size, status, since);
    }
    for (int r = 1; r < size - 1; r++)
        wrong += WORLD_OK(tutti_recv_start(&values[r], 1, TUTTI_INT32, r, comm, &requests[r]));
    while (status == TUTTI_OK && !done && world_seconds() - since < 10) {
        status = tutti_test(&requests[1], &done);
        usleep(50000);
    }
    wrong += name_the_last(rank, size, status, since);
    for (int r = 2; r < size - 1; r++)
        wrong += WORLD_TAKEN(tutti_wait(&requests[r]), TUTTI_ERR_TIMEOUT);
    return wrong;
}

static void test_late_hears_of_many(void)
{
    over_all(MANY, wait_for_many);
}

/* Rank 1, which is late, is told the whole reason when it comes, however many transfers were
 * waiting for it. */
#define TRANSFERS 40

static int wait_with_much_for_one(tutti_comm *comm, int rank, int size, void *context)
{
    int values[TRANSFERS], value = 1, wrong = meet(comm, rank, size);
    tutti_request *requests[TRANSFERS] = {NULL};
    (void)context;
    if (rank == 1) {
        wrong += world_await(rank, size + 1);
        tutti_status status = tutti_recv(&value, 1, TUTTI_INT32, 0, comm);
        wrong += world_check(rank, status == TUTTI_ERR_TIMEOUT, "%s: %s",
                             tutti_status_string(status), tutti_last_error());
        return wrong + world_says(rank, "for rank 1 (host ");
    }
    double since = world_seconds();
    for (int i = 0; i < TRANSFERS; i++)
        wrong += WORLD_OK(tutti_recv_start(&values[i], 1, TUTTI_INT32, 1, comm, &requests[i]));
    wrong += timed_out(rank, tutti_wait(&requests[0]), since);
    for (int i = 1; i < TRANSFERS; i++)
        wrong += WORLD_TAKEN(tutti_wait(&requests[i]), TUTTI_ERR_TIMEOUT);
    world_tell();
    return wrong;
}

static void test_late_is_told_the_reason_when_it_comes(void)
{
    over_all(2, wait_with_much_for_one);
}

/* Rank 0 was out of patience first, but all waited then and it got what it wanted. By the time that
 * rank 1 is, rank 3 computes: what was answered then is no longer true. */
static void be_patient_by_rank(int rank)
{
    static const char *const limits[] = {"1500", "4000", "60000", "60000"};
    setenv("TUTTI_TIMEOUT_MS", limits[rank], 1);
}

static int wait_after_it_was_asked(tutti_comm *comm, int rank, int size, void *context)
{
    int values[2] = {0}, done = 0, wrong = meet(comm, rank, size);
    tutti_request *requests[2] = {NULL};
    double since = world_seconds();
    (void)context;
    if (rank == 0) {
        wrong += WORLD_OK(tutti_recv_start(&values[0], 1, TUTTI_INT32, 1, comm, &requests[0]));
        wrong += WORLD_OK(tutti_recv_start(&values[1], 1, TUTTI_INT32, 3, comm, &requests[1]));
        wrong += WORLD_OK(tutti_wait(&requests[1]));
        wrong += world_await(rank, size + 2);
        return wrong + WORLD_TAKEN(tutti_wait(&requests[0]), TUTTI_ERR_TIMEOUT);
    }
    if (rank == 3) {
        wrong += WORLD_OK(tutti_recv_start(&values[0], 1, TUTTI_INT32, 0, comm, &requests[0]));
        while (world_seconds() - since < 2) {
            wrong += WORLD_OK(tutti_test(&requests[0], &done));
            usleep(2000);
        }
        wrong += WORLD_OK(tutti_send(&values[1], 1, TUTTI_INT32, 0, comm));
        wrong += world_await(rank, size + 2);
        return wrong + WORLD_TAKEN(tutti_wait(&requests[0]), TUTTI_ERR_TIMEOUT);
    }
    wrong += WORLD_TAKEN(tutti_recv(values, 1, TUTTI_INT32, rank + 1, comm), TUTTI_ERR_TIMEOUT);
    wrong += world_says(rank, "for rank 3 (host ");
    wrong += world_says(rank, "that rank is late, stopped or unreachable");
    world_tell();
    return wrong;
}

static void test_late_asks_anew_when_its_own_time_is_up(void)
{
    for (int i = 0; i < 2; i++) {
        struct world world = world_over(i, 4);
        world.prepare = be_patient_by_rank;
        CU_ASSERT_EQUAL(world_run(&world, wait_after_it_was_asked, NULL), 0);
    }
}

/* The one in the middle waits in a group, and there first for another communicator. */
static int wait_for_who_is_in_a_group(tutti_comm *comm, int rank, int size, void *context)
{
    int values[2], wrong = 0;
    tutti_comm *other = NULL;
    (void)context;
    wrong += WORLD_OK(tutti_comm_dup(comm, &other));
    wrong += link_all(other, rank, size) + meet(comm, rank, size);
    if (rank == 2)
        return wrong + world_await(rank, size + 2) + WORLD_OK(tutti_comm_destroy(other));
    double since = world_seconds();
    tutti_status status;
    if (rank == 0) {
        status = tutti_recv(&values[0], 1, TUTTI_INT32, 1, comm);
    } else {
        usleep(2 * STAIR_MS * 1000);
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_recv(&values[0], 1, TUTTI_INT32, 2, other));
        wrong += WORLD_OK(tutti_recv(&values[1], 1, TUTTI_INT32, 2, comm));
        status = tutti_group_end();
    }
    wrong += name_the_last(rank, size, status, since);
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

static void test_late_hears_of_who_is_in_a_group(void)
{
    over_all(3, wait_for_who_is_in_a_group);
}

/* Rank 1 has started a receive, but computes; that a thread of it asks after the communicator is
 * no sign of it. */
static int wait_for_who_computes(tutti_comm *comm, int rank, int size, void *context)
{
    int value, wrong = meet(comm, rank, size);
    tutti_request *request;
    (void)context;
    if (rank == 2)
        return wrong + world_await(rank, size + 2);
    double since = world_seconds();
    if (rank == 0) {
        wrong += timed_out(rank, tutti_recv(&value, 1, TUTTI_INT32, 1, comm), since);
        wrong += world_says(rank, "for rank 1 (host ");
        world_tell();
        return wrong + world_says(rank, "that rank is late");
    }
    wrong += WORLD_OK(tutti_recv_start(&value, 1, TUTTI_INT32, 2, comm, &request));
    while (tutti_comm_status(comm) == TUTTI_OK && world_seconds() - since < 10)
        usleep(1000);
    world_tell();
    return wrong + WORLD_TAKEN(tutti_wait(&request), TUTTI_ERR_TIMEOUT);
}

static void test_late_is_who_only_asks(void)
{
    over_all(3, wait_for_who_computes);
}

static int wait_for_each_other(tutti_comm *comm, int rank, int size, void *context)
{
    int value, wrong = meet(comm, rank, size);
    (void)context;
    usleep((unsigned)rank * STAIR_MS * 1000);
    double since = world_seconds();
    wrong += timed_out(rank, tutti_recv(&value, 1, TUTTI_INT32, (rank + 1) % size, comm), since);
    wrong += world_says(rank, " waited 700 ms for rank ");
    return wrong + world_says(rank, "so ranks wait for each other");
}

static void test_late_tells_of_ranks_that_wait_for_each_other(void)
{
    over_all(2, wait_for_each_other);
    over_all(4, wait_for_each_other);
}

/* Rank 2 is late, but comes. The log of all has one line, of the rank that waits for it. */
static int wait_for_a_while(tutti_comm *comm, int rank, int size, void *context)
{
    int value = 7, lines = 0, wrong = meet(comm, rank, size);
    char line[1024];
    const char *path = context;
    if (rank == size - 1)
        usleep(1200000);
    else
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, rank + 1, comm));
    if (rank > 0)
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, rank - 1, comm));
    wrong += WORLD_OK(tutti_barrier(comm));
    FILE *file = rank == 0 ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        lines++;
        wrong += world_check(rank,
                             strstr(line, " rank 1] warn") && strstr(line, "waits for rank 2 (") &&
                                 strstr(line, "that rank is late or stopped"),
                             "%s", line);
    }
    if (file)
        fclose(file);
    return wrong + world_check(rank, lines == (rank == 0), "%d lines", lines);
}

static void test_late_is_told_to_the_log(void)
{
    static const char *const transports[] = {"TUTTI_TRANSPORTS=shm", "TUTTI_TRANSPORTS=tcp"};
    for (int i = 0; i < 2; i++) {
        struct suite_log log;
        const char *const settings[] = {"TUTTI_STALL_MS=300", transports[i], log.setting, NULL};
        suite_log_begin(&log);
        run(WORLD_PROCESSES, 3, settings, wait_for_a_while, log.path);
        suite_log_end(&log);
    }
}

/* A rank that comes late to the very first operation: links are not made yet. */
static int begin_late(tutti_comm *comm, int rank, int size, void *context)
{
    int value = 1, total = 0, wrong = 0;
    if (rank == *(int *)context)
        usleep(1500000);
    wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, comm));
    return wrong + world_check(rank, total == size, "%d", total);
}

static void test_late_may_be_the_first_call(void)
{
    static const char *const hurry[] = {"TUTTI_CONNECT_TIMEOUT_MS=400", NULL};
    static const char *const over[][4] = {
        {"TUTTI_CONNECT_TIMEOUT_MS=400", "TUTTI_TRANSPORTS=shm", NULL},
        {"TUTTI_CONNECT_TIMEOUT_MS=400", "TUTTI_TRANSPORTS=tcp", NULL},
        {"TUTTI_CONNECT_TIMEOUT_MS=400", "TUTTI_TRANSPORTS=tcp", "TUTTI_LANES=3", NULL}};
    for (int late = 0; late < 3; late++) {
        run(WORLD_THREADS, 3, hurry, begin_late, &late);
        for (int i = 0; i < 3; i++)
            run(WORLD_PROCESSES, 3, over[i], begin_late, &late);
    }
}

/* Ranks of three that come to their meeting late: who is there says so in the log, once. */
struct meeting {
    int late; /* the rank */
    const char *path;
};

static int meet_late(tutti_comm *comm, int rank, int size, void *context)
{
    const struct meeting *meeting = context;
    tutti_unique_id id;
    tutti_comm *met = NULL;
    int wrong = rank == 0 ? WORLD_OK(tutti_unique_id_create(&id)) : 0;
    char line[1024];
    wrong += WORLD_OK(tutti_broadcast(&id, &id, sizeof id, TUTTI_UINT8, 0, comm));
    if (rank == meeting->late)
        usleep(1500000);
    wrong += WORLD_OK(tutti_comm_create(size, &id, rank, &met));
    wrong += WORLD_OK(tutti_comm_destroy(met)) + WORLD_OK(tutti_barrier(comm));
    if (rank > 0)
        return wrong;
    int lines = 0;
    FILE *file = fopen(meeting->path, "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *part = meeting->late == 0
                               ? " warn: rendezvous: has not found the unique id"
                               : " warn: rendezvous: 1 of 3 ranks have not come for ";
        lines += strstr(line, part) && strstr(line, meeting->late == 0 ? ":" : " ms: 2 (");
    }
    if (file)
        fclose(file);
    return wrong + world_check(rank, lines == (meeting->late == 0 ? 2 : 1), "%d lines", lines);
}

static void test_late_to_meet_is_told_to_the_log(void)
{
    for (int late = 0; late < 3; late += 2) {
        struct suite_log log;
        const char *const settings[] = {"TUTTI_STALL_MS=500", log.setting, NULL};
        struct meeting meeting = {late, log.path};
        suite_log_begin(&log);
        run(WORLD_PROCESSES, 3, settings, meet_late, &meeting);
        suite_log_end(&log);
    }
}

/* ---- what moves is not late -------------------------------------------------------------------
 */

/* Between the receiver and its transport, which has its turn now and then for a while: it moves few
 * MiB each time. */
static struct {
    const struct transport_ops *real;
    struct transport_ops ops;
    double turn, end;
} slow;

static struct xfer *poll_slowly(struct transport *transport)
{
    double now = world_seconds();
    if (now < slow.turn && now < slow.end)
        return NULL;
    slow.turn = now + 0.1;
    return slow.real->poll(transport);
}

/* One transfer takes longer than the limit and all that is asked then. */
static int move_slowly(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BYTES = 128 << 20, SLOW_MS = LIMIT_MS + 1900 };
    char *bytes = calloc(1, BYTES); /* those that are sent take no memory */
    int wrong = meet(comm, rank, size);
    (void)context;
    if (rank == 0) {
        slow.end = world_seconds() + SLOW_MS * 1e-3;
        slow.real = comm->transport_ops[0];
        slow.ops = *slow.real;
        slow.ops.poll = poll_slowly;
        comm->transport_ops[0] = &slow.ops;
    }
    wrong += rank == 0 ? WORLD_OK(tutti_recv(bytes, BYTES, TUTTI_UINT8, 1, comm))
                       : WORLD_OK(tutti_send(bytes, BYTES, TUTTI_UINT8, 0, comm));
    wrong += world_check(rank, rank == 1 || world_seconds() > slow.end, "it was not slow");
    free(bytes);
    return wrong;
}

static void test_late_is_nobody_while_bytes_move(void)
{
    over_all(2, move_slowly);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"names_the_end_of_a_chain", test_late_names_the_end_of_a_chain},
        {"names_who_does_not_come_to_a_collective",
         test_late_names_who_does_not_come_to_a_collective},
        {"hears_of_who_tests", test_late_hears_of_who_tests},
        {"hears_of_many", test_late_hears_of_many},
        {"hears_of_who_is_in_a_group", test_late_hears_of_who_is_in_a_group},
        {"is_told_the_reason_when_it_comes", test_late_is_told_the_reason_when_it_comes},
        {"asks_anew_when_its_own_time_is_up", test_late_asks_anew_when_its_own_time_is_up},
        {"is_who_only_asks", test_late_is_who_only_asks},
        {"tells_of_ranks_that_wait_for_each_other",
         test_late_tells_of_ranks_that_wait_for_each_other},
        {"is_told_to_the_log", test_late_is_told_to_the_log},
        {"is_nobody_while_bytes_move", test_late_is_nobody_while_bytes_move},
        {"may_be_the_first_call", test_late_may_be_the_first_call},
        {"to_meet_is_told_to_the_log", test_late_to_meet_is_told_to_the_log},
    };
    return suite_run("late", tests, sizeof tests / sizeof *tests, argc, argv);
}
