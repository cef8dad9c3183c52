/* test_stream_beside.c: what a program does with a communicator while its streams wait for a rank
 * that waits for this one. Over the stand-in driver, or over a real one (TUTTI_TEST_CUDA_DRIVER).
 */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   1000
#define TABLE   1024 /* operations at a time */

static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

/* Makes an operation that multiplies by 2, sums with it, and destroys it. */
static int scaled_sum(tutti_comm *comm, int rank, void *buffer, cuda_stream stream)
{
    int32_t two = 2;
    tutti_op op;
    int wrong = WORLD_OK(tutti_op_create_premulsum(comm, &two, TUTTI_INT32, &op));
    wrong += WORLD_OK(tutti_allreduce_on(buffer, buffer, COUNT, TUTTI_INT32, op, comm, stream));
    return wrong + WORLD_OK(tutti_op_destroy(comm, op));
}

/* Rank 0 does all of it before rank 1 does anything, which then waits for each sum: which slots are
 * free is another matter at each of them, and both mean the same operations all the same, also when
 * the table has been used up once. */
static int operations(tutti_comm *comm, int rank, int size, void *context)
{
    enum { SUMS = 5 };
    cuda_stream stream = rig_stream_take(false);
    int32_t *buffer = rig_take(COUNT * sizeof *buffer), three = 3, factor = 1;
    tutti_op op;
    int wrong = 0;
    (void)context;
    rig_set_ints(buffer, COUNT, 1);
    for (int round = 0; round < 2; round++) {
        if (rank == 1)
            wrong += world_await(rank, round + 1);
        for (int i = 0; i < SUMS; i++) {
            wrong += scaled_sum(comm, rank, buffer, stream);
            factor *= 2 * size;
            if (rank == 1)
                wrong += rig_await(rank, stream, AWAIT_S);
        }
        if (rank == 0) {
            wrong += world_check(rank, !rig_is_done(stream), "done without rank 1");
            world_tell();
        }
        for (int i = SUMS; i < TABLE; i++) {
            wrong += WORLD_OK(tutti_op_create_premulsum(comm, &three, TUTTI_INT32, &op));
            wrong += WORLD_OK(tutti_op_destroy(comm, op));
        }
        wrong += scaled_sum(comm, rank, buffer, stream);
        factor *= 2 * size;
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_wrong_ints(rank, buffer, COUNT, factor, factor, "scaled sum");
        rig_set_ints(buffer, COUNT, 1);
        factor = 1;
    }
    rig_give(buffer);
    return wrong;
}

static void test_stream_beside_operations(void)
{
    run(WORLD_PROCESSES, 2, direct, operations, NULL);
    run(WORLD_PROCESSES, 2, staged, operations, NULL);
    run(WORLD_PROCESSES, 2, tcp, operations, NULL);
    run(WORLD_THREADS, 2, direct, operations, NULL);
}

/* The same of memory that is registered, perhaps before, and no longer is. */
static int registrations(tutti_comm *comm, int rank, int size, void *context)
{
    const bool before = context != NULL;
    cuda_stream stream = rig_stream_take(false);
    int32_t *buffer = rig_take(COUNT * sizeof *buffer);
    tutti_registration *registration;
    int wrong = 0;
    if (before)
        wrong += WORLD_OK(tutti_register(comm, buffer, COUNT * sizeof *buffer, &registration));
    rig_set_ints(buffer, COUNT, 1);
    if (rank == 1)
        wrong += world_await(rank, 1);
    wrong +=
        WORLD_OK(tutti_allreduce_on(buffer, buffer, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    if (!before)
        wrong += WORLD_OK(tutti_register(comm, buffer, COUNT * sizeof *buffer, &registration));
    wrong += WORLD_OK(tutti_deregister(comm, registration));
    if (rank == 0) {
        wrong += world_check(rank, !rig_is_done(stream), "done without rank 1");
        world_tell();
    }
    wrong += rig_await(rank, stream, AWAIT_S);
    wrong += rig_wrong_ints(rank, buffer, COUNT, size, size, "sum");
    rig_give(buffer);
    return wrong;
}

static void test_stream_beside_registrations(void)
{
    bool before = true;
    static const char *const registers[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_FAULT=seed:1", NULL};
    run(WORLD_PROCESSES, 2, registers, registrations, &before);
    run(WORLD_PROCESSES, 2, registers, registrations, NULL);
    run(WORLD_PROCESSES, 2, direct, registrations, NULL);
    run(WORLD_PROCESSES, 2, tcp, registrations, NULL);
    run(WORLD_THREADS, 2, staged, registrations, NULL);
}

/* A wait has the whole limit, however long ago the program asked for its request last, and whether
 * or not a stream's operation is queued behind it. */
static int waits_after_a_pause(tutti_comm *comm, int rank, int size, void *context)
{
    enum { PAUSE_US = 2400000, LATE_US = 600000 };
    cuda_stream stream = rig_stream_take(false);
    void *buffer = rig_take(COUNT * 4);
    int32_t value = rank;
    int wrong = WORLD_OK(tutti_barrier(comm)), done = 0;
    bool gated = *(const bool *)context;
    tutti_request *request = NULL;
    (void)size;
    if (rank == 0) {
        wrong += WORLD_OK(tutti_recv_start(&value, 1, TUTTI_INT32, 1, comm, &request));
        for (int i = 0; i < 2; i++) {
            usleep(3000);
            wrong += WORLD_OK(tutti_test(&request, &done));
        }
        if (gated)
            rig_gate_put(0, stream);
        else
            usleep(PAUSE_US);
        wrong += WORLD_OK(
            tutti_allreduce_on(buffer, buffer, COUNT, TUTTI_INT32, TUTTI_MAX, comm, stream));
        if (gated)
            usleep(PAUSE_US);
        world_tell();
        wrong += WORLD_OK(tutti_wait(&request));
        if (gated)
            rig_gate_open(0);
    } else {
        wrong += world_await(rank, 1);
        usleep(LATE_US);
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, 0, comm));
        wrong += WORLD_OK(
            tutti_allreduce_on(buffer, buffer, COUNT, TUTTI_INT32, TUTTI_MAX, comm, stream));
    }
    wrong += rig_await(rank, stream, AWAIT_S);
    rig_give(buffer);
    return wrong;
}

static void test_stream_beside_waits_after_a_pause(void)
{
    static const char *const soon[] = {"TUTTI_CUDA_DIRECT_MIN=1", "TUTTI_TIMEOUT_MS=2000", NULL};
    static const bool no = false, yes = true;
    run(WORLD_PROCESSES, 2, soon, waits_after_a_pause, (void *)&yes);
    run(WORLD_PROCESSES, 2, soon, waits_after_a_pause, (void *)&no);
}

static char *guarded;
#define GUARDED 65536

/* As collectors and trackers of pages do. */
static void open_pages(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    uintptr_t place = (uintptr_t)info->si_addr - (uintptr_t)guarded;
    if (place >= GUARDED || mprotect(guarded, GUARDED, PROT_READ | PROT_WRITE) != 0)
        _exit(77);
}

/* The proxy writes host memory that the program opens at the first fault. */
static int faults(tutti_comm *comm, int rank, int size, void *context)
{
    struct sigaction action = {.sa_sigaction = open_pages, .sa_flags = SA_SIGINFO};
    cuda_stream stream = rig_stream_take(false);
    int wrong = 0;
    (void)context;
    guarded = mmap(NULL, GUARDED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int32_t *numbers = (int32_t *)guarded;
    for (int i = 0; i < COUNT; i++)
        numbers[i] = rank + i;
    sigaction(SIGSEGV, &action, NULL);
    mprotect(guarded, GUARDED, PROT_READ);
    wrong +=
        WORLD_OK(tutti_allreduce_on(numbers, numbers, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    for (int i = 0; i < COUNT; i++)
        wrong += world_check(rank, numbers[i] == size * (size - 1) / 2 + size * i, "sum %d is %d",
                             i, numbers[i]);
    munmap(guarded, GUARDED);
    return wrong;
}

static void test_stream_beside_faults(void)
{
    run(WORLD_PROCESSES, 2, tcp, faults, NULL);
}

/* A copy between the two kinds of memory takes its time, and other streams go on meanwhile. */
static int slow_to_oneself(tutti_comm *comm, int rank, int size, void *context)
{
    enum { SLOW = 4 << 20 }; /* 16 s */
    int32_t *few = rig_take(COUNT * sizeof *few);
    cuda_stream slow = rig_stream_take(false), stream = rig_stream_take(false);
    tutti_comm *other;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)context;
    for (int to_host = 0; to_host < 2; to_host++) {
        int32_t *host = calloc(SLOW, sizeof *host), *memory = rig_take(SLOW * sizeof *memory);
        void *from = to_host ? memory : host, *to = to_host ? host : memory;
        rig_set_ints(few, COUNT, 1);
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_send_on(from, SLOW, TUTTI_INT32, rank, other, slow));
        wrong += WORLD_OK(tutti_recv_on(to, SLOW, TUTTI_INT32, rank, other, slow));
        wrong += WORLD_OK(tutti_group_end());
        wrong +=
            WORLD_OK(tutti_allreduce_on(few, few, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += world_check(rank, !rig_is_done(slow), "the slow copy held the other stream");
        wrong += rig_wrong_ints(rank, few, COUNT, size, size, "a sum beside it");
        wrong += WORLD_OK(tutti_comm_abort(other)) + WORLD_OK(tutti_comm_destroy(other));
        wrong += rig_await(rank, slow, 5);
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
    }
    return wrong + WORLD_OK(tutti_comm_destroy(other)); /* the copies still use the memory */
}

static void test_stream_beside_slow_copies(void)
{
    if (skips_real("a real device's copies are fast"))
        return;
    setenv("TUTTI_TEST_STANDIN_KERNELS", "0", 1); /* else the slow stream copies by itself */
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "1", 1);
    run(WORLD_PROCESSES, 2, direct, slow_to_oneself, NULL);
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
    unsetenv("TUTTI_TEST_STANDIN_KERNELS");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"operations", test_stream_beside_operations},
        {"registrations", test_stream_beside_registrations},
        {"slow_copies", test_stream_beside_slow_copies},
        {"faults", test_stream_beside_faults},
        {"waits_after_a_pause", test_stream_beside_waits_after_a_pause},
    };
    return suite_run("stream_beside", tests, sizeof tests / sizeof *tests, argc, argv);
}
