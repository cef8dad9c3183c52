/* test_stream_exit.c: programs that end while operations are in their streams. Over the stand-in
 * driver, or over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RUN_LIMIT_S 60
#include "src/comm.h"
#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000

/* The process ends by itself, with a live communicator and, in the second round, with an operation
 * whose stream is held for ever. Only the time limit and the exit status can tell. None ends before
 * the others have made their calls: they would be told of it. */
static int exits(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    int wrong = 0;
    rig_fill(memory, 1, COUNT * 4);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    if (context)
        rig_gate_put(0, stream);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    if (!context)
        wrong += rig_await(rank, stream, AWAIT_S) + WORLD_OK(tutti_barrier(comm));
    world_tell();
    exit(wrong + world_await(rank, size));
}

static void test_stream_exit_by_itself(void)
{
    run(WORLD_PROCESSES, 2, direct, exits, NULL);
    run(WORLD_PROCESSES, 2, direct, exits, "held");
    run(WORLD_PROCESSES, 2, staged, exits, "held");
}

static cuda_stream left_waiting;
static int left_rank;

/* Registered before the library's own: comes after it. */
static void await_at_exit(void)
{
    if (!left_waiting)
        return;
    int wrong = rig_await(left_rank, left_waiting, 10);
    world_tell();
    _exit(wrong ? 1 : 0);
}

/* A program exits with operations under way, and waits for its streams when the library is gone. */
static int exit_with_operations(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    int wrong = 0;
    (void)size;
    (void)context;
    if (rank > 0) /* what it does not call is what rank 0 waits for */
        return world_await(rank, 1);
    left_rank = rank;
    left_waiting = rig_stream_take(false);
    atexit(await_at_exit);
    for (int i = 0; i < 3; i++)
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, left_waiting));
    wrong += world_check(rank, !rig_is_done(left_waiting), "the stream does not wait");
    if (wrong)
        _exit(1);
    exit(2); /* if nobody waits for the stream */
}

static void test_stream_exit_with_operations(void)
{
    run(WORLD_PROCESSES, 2, direct, exit_with_operations, NULL);
    run(WORLD_PROCESSES, 2, staged, exit_with_operations, NULL);
}

static tutti_comm *left_comm;
static void *left_memory;

/* What is called after the library's own end is refused, and nothing waits for it. */
static void call_at_exit(void)
{
    int rank = left_rank;
    if (!left_waiting)
        return;
    int wrong = WORLD_TAKEN(tutti_allreduce_on(left_memory, left_memory, COUNT, TUTTI_INT32,
                                               TUTTI_SUM, left_comm, left_waiting),
                            TUTTI_ERR_SYSTEM);
    wrong += world_says(rank, "the program is exiting");
    _exit(wrong + rig_await(rank, left_waiting, 10) ? 1 : 0);
}

static int call_after_the_end(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    (void)context;
    left_memory = rig_take(COUNT * 4);
    left_comm = comm;
    left_rank = rank;
    if (rank == 0)
        atexit(call_at_exit);
    int wrong = WORLD_OK(
        tutti_allreduce_on(left_memory, left_memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S) + WORLD_OK(tutti_barrier(comm));
    world_tell();
    wrong += world_await(rank, size); /* until all have left the barrier */
    if (rank > 0 || wrong)
        return wrong;
    left_waiting = stream;
    exit(2);
}

static void test_stream_exit_then_call(void)
{
    run(WORLD_PROCESSES, 2, direct, call_after_the_end, NULL);
}

/* What a program does with a communicator at its end, when the library's own end came in the midst
 * of an operation. The limit is the alarm. */
static pthread_t left_thread;
static tutti_request *left_request;

static void end_at_exit(void)
{
    int rank = left_rank, one = 1;
    void *wrongs = NULL;
    if (!left_waiting)
        return;
    alarm(20);
    pthread_join(left_thread, &wrongs);
    int wrong = wrongs ? 1 : 0;
    wrong += WORLD_TAKEN(tutti_wait(&left_request), TUTTI_ERR_PEER);
    wrong += world_says(rank, "exits while");
    wrong += WORLD_TAKEN(tutti_allreduce(&one, &one, 1, TUTTI_INT32, TUTTI_SUM, left_comm),
                         TUTTI_ERR_PEER);
    wrong += world_says(rank, "exits while");
    wrong += WORLD_OK(tutti_comm_abort(left_comm)) + WORLD_OK(tutti_comm_destroy(left_comm));
    _exit(wrong + rig_await(rank, left_waiting, 10) ? 1 : 0);
}

/* Waits for what its peer does not call, too. */
static void *call_beside(void *comm)
{
    int rank = left_rank;
    void *memory = left_memory;
    int wrong = WORLD_TAKEN(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm),
                            TUTTI_ERR_PEER);
    wrong += world_says(rank, "exits while");
    return wrong ? memory : NULL;
}

static int end_in_an_operation(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = left_memory = rig_take(COUNT * 4);
    tutti_comm *other;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)context;
    world_tell();
    wrong += world_await(rank, size); /* until all have made that */
    if (rank > 0) {                   /* what it does not call is what rank 0 waits for */
        while (tutti_comm_status(comm) == TUTTI_OK)
            usleep(10000);
        return wrong + world_says(rank, "exits while");
    }
    left_rank = rank;
    left_comm = comm;
    left_waiting = rig_stream_take(false);
    atexit(end_at_exit);
    pthread_create(&left_thread, NULL, call_beside, other);
    wrong += WORLD_OK(
        tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, left_waiting));
    wrong += WORLD_OK(
        tutti_allreduce_start(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, &left_request));
    while (!comm_has_units(other)) /* a call that comes later is refused */
        usleep(1000);
    usleep(300000);
    wrong += world_check(rank, !rig_is_done(left_waiting), "the stream does not wait");
    if (wrong)
        _exit(1);
    exit(2);
}

static void test_stream_exit_then_end(void)
{
    run(WORLD_PROCESSES, 2, direct, end_in_an_operation, NULL);
    run(WORLD_PROCESSES, 2, staged, end_in_an_operation, NULL);
}

/* A thread is in the program's own function and stays there, while another aborts the communicator:
 * an operation that waits behind the first is left to them. The limit is the alarm. */
static atomic_bool inside_function;

static void stay(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    (void)in, (void)inout, (void)count, (void)dtype, (void)context;
    atomic_store(&inside_function, true);
    while (left_rank == 0)
        usleep(10000);
}

static void *call_function(void *unused)
{
    tutti_op op;
    int number = 1;
    if (tutti_op_create(left_comm, stay, NULL, &op) == TUTTI_OK)
        (void)tutti_allreduce(&number, &number, 1, TUTTI_INT32, op, left_comm);
    return unused;
}

static void *abort_comm(void *unused)
{
    (void)tutti_comm_abort(left_comm);
    return unused;
}

static void leave_at_exit(void)
{
    if (left_waiting)
        _exit(0);
}

static int exit_beside_an_abort(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    pthread_t function, aborting;
    (void)size;
    (void)context;
    left_rank = rank;
    left_comm = comm;
    if (rank > 0) {
        call_function(NULL);
        return 0;
    }
    atexit(leave_at_exit);
    left_waiting = rig_stream_take(false);
    pthread_create(&function, NULL, call_function, NULL);
    while (!atomic_load(&inside_function))
        usleep(1000);
    if (WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm,
                                    left_waiting)) > 0)
        _exit(1);
    pthread_create(&aborting, NULL, abort_comm, NULL);
    while (!atomic_load(&comm->aborted))
        usleep(1000);
    alarm(20);
    exit(2);
}

static void test_stream_exit_beside_an_abort(void)
{
    run(WORLD_PROCESSES, 2, direct, exit_beside_an_abort, NULL);
}

/* The driver keeps a thread in a call, since the stream has no room, until the library is gone: the
 * call ends all the same. Where the thread came too late for that, it is refused. */
#define ROOM 32

static void make_room_at_exit(void)
{
    void *wrongs = NULL;
    if (!left_waiting)
        return;
    alarm(20);
    rig_gate_open(0);
    pthread_join(left_thread, &wrongs);
    int wrong = (wrongs ? 1 : 0) + rig_await(left_rank, left_waiting, 10);
    world_tell();
    _exit(wrong ? 1 : 0);
}

static void *call_without_room(void *comm)
{
    int rank = left_rank, *memory = left_memory;
    int wrong = WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(
        tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, left_waiting));
    wrong += WORLD_OK(
        tutti_allreduce(memory + COUNT, memory + COUNT, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
    tutti_status status = tutti_group_end();
    wrong += world_check(rank, status == TUTTI_ERR_PEER || status == TUTTI_ERR_SYSTEM, "%s",
                         tutti_status_string(status));
    wrong += world_says(rank, status == TUTTI_ERR_PEER ? "exits while" : "the program is exiting");
    return wrong ? memory : NULL;
}

static int exit_beside_a_call(tutti_comm *comm, int rank, int size, void *context)
{
    char *spare = rig_take(ROOM);
    (void)context;
    if (rank == 0)
        atexit(make_room_at_exit);
    left_memory = rig_take(2 * COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    int wrong = WORLD_OK(
        tutti_allreduce_on(left_memory, left_memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S) + WORLD_OK(tutti_barrier(comm));
    world_tell();
    wrong += world_await(rank, size); /* until all have left the barrier */
    if (rank > 0)                     /* what it does not call is what rank 0 waits for */
        return wrong + world_await(rank, size + 1);
    left_rank = rank;
    left_waiting = stream;
    rig_gate_put(0, stream);
    for (int i = 1; i < ROOM; i++)
        rig_put_fill(stream, spare + i, 0, 1);
    pthread_create(&left_thread, NULL, call_without_room, comm);
    usleep(200000);
    exit(2);
}

static void test_stream_exit_beside_a_call(void)
{
    char room[16];
    if (skips_real("how much room a stream has is known of the stand-in"))
        return;
    snprintf(room, sizeof room, "%d", ROOM);
    setenv("TUTTI_TEST_STANDIN_ROOM", room, 1);
    run(WORLD_PROCESSES, 2, direct, exit_beside_a_call, NULL);
    run(WORLD_PROCESSES, 2, staged, exit_beside_a_call, NULL);
    unsetenv("TUTTI_TEST_STANDIN_ROOM");
}

/* A replay is queued, whose stream comes to the operation when the library is gone. */
static void open_and_await_at_exit(void)
{
    if (!left_waiting)
        return;
    rig_gate_open(0);
    _exit(rig_await(left_rank, left_waiting, 10) ? 1 : 0);
}

static int exit_with_replay(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    (void)size;
    left_rank = rank;
    if (rank == 0)
        atexit(open_and_await_at_exit);
    rig_capture_begin(stream);
    int wrong =
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    void *executable = rig_capture_end(stream);
    if (context) {
        rig_graph_launch(executable, stream);
        wrong += rig_await(rank, stream, AWAIT_S);
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank > 0 || wrong)
        return wrong;
    rig_gate_put(0, stream);
    rig_graph_launch(executable, stream);
    left_waiting = stream;
    exit(2);
}

static void test_stream_exit_with_replay(void)
{
    static int second;
    run(WORLD_PROCESSES, 2, direct, exit_with_replay, NULL);
    run(WORLD_PROCESSES, 2, direct, exit_with_replay, &second);
    run(WORLD_PROCESSES, 2, staged, exit_with_replay, &second);
}

static atomic_bool gives_up;

/* A reduction of the program's ends the process, in the thread that carries the call out. What was
 * registered before the library's own handler comes after it, and finds the library gone. */
static void end_after_a_reduction(void)
{
    int rank = left_rank, one = 1;
    if (!left_waiting)
        return;
    int wrong = WORLD_TAKEN(tutti_allreduce(&one, &one, 1, TUTTI_INT32, TUTTI_SUM, left_comm),
                            TUTTI_ERR_PEER);
    wrong += world_says(rank, "exits while");
    wrong += WORLD_TAKEN(tutti_allreduce_on(left_memory, left_memory, 1, TUTTI_INT32, TUTTI_SUM,
                                            left_comm, left_waiting),
                         TUTTI_ERR_PEER);
    wrong += WORLD_OK(tutti_comm_abort(left_comm)) + WORLD_OK(tutti_comm_destroy(left_comm));
    _exit(wrong ? 1 : 0);
}

static void give_up(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    (void)in;
    (void)inout;
    (void)count;
    (void)dtype;
    alarm(20);
    left_waiting = context;
    atomic_store(&gives_up, true);
    exit(2);
}

static int exit_within_a_reduction(tutti_comm *comm, int rank, int size, void *context)
{
    int32_t *memory = rig_take(COUNT * sizeof *memory);
    cuda_stream stream = rig_stream_take(false);
    tutti_op op;
    int wrong = WORLD_OK(tutti_op_create(comm, give_up, stream, &op));
    (void)size;
    (void)context;
    left_rank = rank;
    left_comm = comm;
    left_memory = memory;
    atexit(end_after_a_reduction);
    wrong += WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, op, comm, stream));
    wrong += rig_await(rank, stream, AWAIT_S);
    while (atomic_load(&gives_up))
        pause();                                                         /* the communicator goes */
    return wrong + WORLD_TAKEN(tutti_comm_status(comm), TUTTI_ERR_PEER); /* the other has gone */
}

static void test_stream_exit_within_a_reduction(void)
{
    run(WORLD_PROCESSES, 2, staged, exit_within_a_reduction, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"by_itself", test_stream_exit_by_itself},
        {"with_operations", test_stream_exit_with_operations},
        {"then_call", test_stream_exit_then_call},
        {"then_end", test_stream_exit_then_end},
        {"beside_an_abort", test_stream_exit_beside_an_abort},
        {"beside_a_call", test_stream_exit_beside_a_call},
        {"with_replay", test_stream_exit_with_replay},
        {"within_a_reduction", test_stream_exit_within_a_reduction},
    };
    return suite_run("stream_exit", tests, sizeof tests / sizeof *tests, argc, argv);
}
