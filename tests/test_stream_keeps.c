/* test_stream_keeps.c: what the library keeps of a device as long as the process lives, and what
 * becomes of it when communicators, streams or the device itself end. Over the stand-in driver, or
 * over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/comm.h"
#include "src/stream_unit.h"
#include "tests/rig_suite.h"

#define AWAIT_S 30
#define COUNT   3000

/* What communicators have of the device is not lost with those that fail: the queue of each serves
 * the next, when what was under way in it is over. */
static int aborted_again_and_again(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TIMES = 12 };
    void *memory = rig_take(COUNT * 4);
    const struct mem_queue *queues[TIMES];
    int known = 0, wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < TIMES && !wrong; i++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        wrong += WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other));
        wrong += WORLD_OK(tutti_barrier(comm));
        const struct mem_queue *queue = other->queue;
        int at = 0;
        while (at < known && queues[at] != queue)
            at++;
        queues[at] = queue;
        known += at == known;
        wrong += WORLD_OK(tutti_comm_abort(other));
        wrong += WORLD_OK(tutti_comm_destroy(other));
    }
    rig_give(memory);
    return wrong + world_check(rank, queues[0] && known <= 3, "%d queues", known);
}

static void test_stream_keeps_queues_of_aborted_communicators(void)
{
    run(WORLD_PROCESSES, 2, direct, aborted_again_and_again, NULL);
}

/* What the driver has given. */
static size_t allocated(void)
{
    size_t on_device, pinned;
    rig_gpu()->count_memory(&on_device, &pinned);
    return on_device + pinned;
}

/* Operations of `other` that a stream does not come to before all ranks abort that. */
static int abort_queued(tutti_comm *comm, tutti_comm *other, int rank, void *memory, size_t count,
                        int operations, cuda_stream stream)
{
    int wrong = 0;
    rig_gate_put((unsigned)rank, stream);
    for (int i = 0; i < operations; i++)
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, count, TUTTI_INT32, TUTTI_SUM, other, stream));
    wrong += WORLD_OK(tutti_barrier(comm));
    wrong += WORLD_OK(tutti_comm_abort(other));
    rig_gate_open((unsigned)rank);
    wrong += rig_await(rank, stream, AWAIT_S);
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

/* Memory of a communicator that was aborted serves the next: its scratch, when no operation was
 * under way, and the blocks of those that a stream had not come to. */
static int aborted_with_memory(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TIMES = 16, WARM = 4, QUEUED = 4, LARGE = 100 * COUNT };
    void *memory = rig_take(LARGE * 4);
    cuda_stream stream = rig_stream_take(false);
    size_t before = 0, after = 0;
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < TIMES && !wrong; i++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        wrong += WORLD_OK(tutti_allreduce(memory, memory, LARGE, TUTTI_INT32, TUTTI_SUM, other));
        wrong += WORLD_OK(tutti_barrier(comm));
        wrong += abort_queued(comm, other, rank, memory, LARGE, QUEUED, stream);
        /* By the first the stream is known to be past those that were aborted, and before the
         * second has ended that was seen. */
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, LARGE, TUTTI_INT32, TUTTI_SUM, comm, stream));
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += WORLD_OK(tutti_allreduce(memory, memory, LARGE, TUTTI_INT32, TUTTI_SUM, comm));
        after = allocated();
        before = i < WARM ? after : before;
    }
    rig_stream_give(stream, false);
    rig_give(memory);
    /* How many blocks are in use at a time is by chance; of those that stay lost there is one more
     * with each that was aborted. */
    size_t lost = (TIMES - WARM) * LARGE * sizeof(int32_t);
    return wrong + world_check(rank, after < before + lost, "%zu bytes became %zu", before, after);
}

static void test_stream_keeps_memory_of_aborted_communicators(void)
{
    if (skips_real("a real driver does not count what it has given"))
        return;
    run(WORLD_PROCESSES, 2, direct, aborted_with_memory, NULL);
    run(WORLD_PROCESSES, 2, staged, aborted_with_memory, NULL);
}

/* And so does what operations have that are aborted at work, when that is over: scratch, staged
 * blocks, what lies between the two kinds of memory. */
enum at_work { CALLED, IN_A_STREAM, TO_ONESELF, WAYS };

static tutti_status begin_work(enum at_work way, int32_t *memory, int32_t *host, size_t count,
                               int rank, tutti_comm *comm, cuda_stream stream)
{
    tutti_status status = tutti_group_start();
    if (way == TO_ONESELF) {
        (void)tutti_send(memory, count, TUTTI_INT32, rank, comm);
        (void)tutti_recv(host, count, TUTTI_INT32, rank, comm);
    } else if (way == IN_A_STREAM) {
        (void)tutti_allreduce_on(memory, memory, count, TUTTI_INT32, TUTTI_SUM, comm, stream);
    } else {
        (void)tutti_allreduce(memory, memory, count, TUTTI_INT32, TUTTI_SUM, comm);
    }
    return status == TUTTI_OK ? tutti_group_end() : status;
}

struct later {
    tutti_comm *comm;
    unsigned us;
    tutti_status status;
};

static void *abort_later(void *argument)
{
    struct later *later = argument;
    usleep(later->us);
    later->status = tutti_comm_abort(later->comm);
    return NULL;
}

static int aborted_at_work(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TIMES = 18 * WAYS, WARM = 4 * WAYS, LARGE = 100 * COUNT, US_MAX = 30000 };
    uint64_t state = *(uint64_t *)context + (uint64_t)rank;
    int32_t *memory = rig_take(LARGE * 4), *host = calloc(LARGE, sizeof *host);
    cuda_stream stream = rig_stream_take(false);
    size_t before = 0, after = 0;
    int wrong = 0, aborted = 0;
    for (int i = 0; i < TIMES && !wrong; i++) {
        struct later later = {.us = (unsigned)(suite_random(&state) % US_MAX)};
        pthread_t thread;
        wrong += WORLD_OK(tutti_comm_dup(comm, &later.comm));
        if (pthread_create(&thread, NULL, abort_later, &later) != 0)
            abort();
        aborted += begin_work(i % WAYS, memory, host, LARGE, rank, later.comm, stream) != TUTTI_OK;
        pthread_join(thread, NULL);
        wrong += rig_await(rank, stream, AWAIT_S) + WORLD_OK(later.status);
        wrong += WORLD_OK(tutti_comm_destroy(later.comm));
        /* As above; and nothing of what was aborted works in the memory that serves again. */
        rig_set_ints(memory, LARGE, rank);
        wrong += WORLD_OK(begin_work(IN_A_STREAM, memory, host, LARGE, rank, comm, stream));
        wrong += rig_await(rank, stream, AWAIT_S);
        wrong += rig_wrong_ints(rank, memory, LARGE, size * (size - 1) / 2, size, "a sum");
        wrong += WORLD_OK(begin_work(CALLED, memory, host, COUNT, rank, comm, stream));
        after = allocated();
        before = i < WARM ? after : before;
    }
    rig_stream_give(stream, false);
    rig_give(memory);
    free(host);
    size_t lost = (TIMES - WARM) / 2 * LARGE * sizeof(int32_t);
    wrong += world_check(rank, aborted > WARM, "%d were aborted", aborted);
    return wrong + world_check(rank, after < before + lost, "%zu bytes became %zu", before, after);
}

static void test_stream_keeps_memory_of_what_is_aborted_at_work(void)
{
    uint64_t seed = suite_seed();
    if (skips_real("a real driver does not count what it has given"))
        return;
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "100", 1);
    run(WORLD_PROCESSES, 2, direct, aborted_at_work, &seed);
    run(WORLD_PROCESSES, 2, staged, aborted_at_work, &seed);
    /* A peer's GPU may read on in what is in use again, and take nothing from there; the thread
     * sanitizer, which sees a thread's GPU, cannot know that. */
#ifndef __SANITIZE_THREAD__
    run(WORLD_THREADS, 2, direct, aborted_at_work, &seed);
#endif
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

/* So do the words of operations in place that a stream had not come to. */
static int aborted_with_words(tutti_comm *comm, int rank, int size, void *context)
{
    enum { TIMES = 40, WARM = 4, QUEUED = 100, LINE = 64 };
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream = rig_stream_take(false);
    size_t before = 0, after = 0;
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < TIMES && !wrong; i++) {
        tutti_comm *other;
        wrong += WORLD_OK(tutti_comm_dup(comm, &other));
        wrong += abort_queued(comm, other, rank, memory, COUNT, QUEUED, stream);
        after = allocated();
        before = i < WARM ? after : before;
    }
    rig_stream_give(stream, false);
    rig_give(memory);
    size_t lost = (size_t)(TIMES - WARM) * QUEUED * LINE;
    return wrong +
           world_check(rank, after < before + lost / 2, "%zu bytes became %zu", before, after);
}

static void test_stream_keeps_words_of_aborted_operations(void)
{
    if (skips_real("a real driver does not count what it has given"))
        return;
    run(WORLD_PROCESSES, 2, direct, aborted_with_words, NULL);
}

/* A device that failed answers every call with that, also whether host memory is its own: calls on
 * host memory go on, those on its memory say what it said. */
static int device_failed(tutti_comm *comm, int rank, int size, void *context)
{
    int32_t in = rank, out = -1, *memory = rig_take(COUNT * sizeof *memory);
    cuda_context current;
    tutti_comm *other;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)context;
    wrong += WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other));
    wrong += WORLD_OK(tutti_barrier(comm));
    rig_gpu()->context_current(&current);
    rig_gpu()->fail_context(current);
    wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, comm));
    wrong += WORLD_OK(tutti_barrier(comm));
    wrong += WORLD_TAKEN(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, other),
                         TUTTI_ERR_SYSTEM);
    wrong += world_says(rank, "CUDA_ERROR_ILLEGAL_ADDRESS");
    wrong += WORLD_OK(tutti_comm_abort(other)) + WORLD_OK(tutti_comm_destroy(other));
    wrong += WORLD_OK(tutti_comm_dup(comm, &other));
    wrong += WORLD_OK(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, other));
    wrong += WORLD_OK(tutti_comm_destroy(other));
    return wrong + world_check(rank, out == size * (size - 1) / 2, "sum %d", out);
}

static void test_stream_keeps_host_memory_when_a_device_failed(void)
{
    if (skips_real("a real device fails by itself only"))
        return;
    run(WORLD_PROCESSES, 2, direct, device_failed, NULL);
    run(WORLD_PROCESSES, 2, staged, device_failed, NULL);
}

static int descriptors(void)
{
    int count = 0;
    DIR *list = opendir("/proc/self/fd");
    while (list && readdir(list))
        count++;
    if (list)
        closedir(list);
    return count;
}

/* A stream that the program makes for one call and destroys: nothing comes after that would tell
 * that it is past its block, which has a descriptor. */
static int streams_of_one_call(tutti_comm *comm, int rank, int size, void *context)
{
    enum { STREAMS = 300, KEPT_MAX = 100 };
    const struct gpu *gpu = rig_gpu();
    void *memory = rig_take(COUNT * 4);
    cuda_stream stream;
    int wrong = 0, before = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < STREAMS && !wrong; i++) {
        wrong += world_check(rank, gpu->stream_make(&stream, CUDA_STREAM_NON_BLOCKING) == 0,
                             "no stream");
        wrong += WORLD_OK(
            tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
        wrong += rig_await(rank, stream, AWAIT_S);
        (void)gpu->stream_destroy(stream);
        before = i > 0 ? before : descriptors();
    }
    int more = descriptors() - before;
    rig_give(memory);
    return wrong + world_check(rank, more < KEPT_MAX, "%d blocks more", more);
}

static void test_stream_keeps_few_blocks_of_streams_of_one_call(void)
{
    run(WORLD_PROCESSES, 2, staged, streams_of_one_call, NULL);
}

/* It fails while an operation lies in a stream, which never comes to it: the communicator fails, so
 * that nobody waits behind the operation. The others learn it at their next call. */
static int device_failed_behind_a_gate(tutti_comm *comm, int rank, int size, void *context)
{
    int32_t in = rank, out = -1, *memory = rig_take(COUNT * sizeof *memory);
    cuda_stream stream = rig_stream_take(false);
    cuda_context current;
    int wrong = 0;
    (void)size;
    (void)context;
    wrong += WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
    rig_gate_put((unsigned)rank, stream);
    wrong +=
        WORLD_OK(tutti_allreduce_on(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm, stream));
    rig_gpu()->context_current(&current);
    if (rank == 0)
        rig_gpu()->fail_context(current);
    else
        rig_gate_open((unsigned)rank);
    double start = world_seconds();
    wrong +=
        WORLD_TAKEN(tutti_allreduce(&in, &out, 1, TUTTI_INT32, TUTTI_SUM, comm), TUTTI_ERR_SYSTEM);
    wrong += world_says(rank, "CUDA_ERROR_ILLEGAL_ADDRESS");
    wrong += rank ? world_says(rank, "rank 0 (host ") : 0;
    return wrong +
           world_check(rank, world_seconds() - start < 20, "took %g s", world_seconds() - start);
}

static void test_stream_keeps_nobody_behind_a_device_that_failed(void)
{
    if (skips_real("a real device fails by itself only"))
        return;
    run(WORLD_PROCESSES, 2, direct, device_failed_behind_a_gate, NULL);
    run(WORLD_PROCESSES, 2, staged, device_failed_behind_a_gate, NULL);
}

static size_t imported(void)
{
    size_t bytes;
    rig_gpu()->count_imported(&bytes);
    return bytes;
}

static int sums(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    (void)size;
    (void)context;
    int wrong = WORLD_OK(tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm));
    return wrong + world_check(rank, imported() >= COUNT * 4, "%zu bytes mapped", imported());
}

static int keeps_nothing(int rank)
{
    return world_check(rank, imported() == 0, "%zu bytes stay mapped", imported());
}

/* Memory that a peer has freed is not free as long as it is mapped here. */
static void test_stream_keeps_no_memory_of_peers_without_communicators(void)
{
    struct world world = {.kind = WORLD_PROCESSES,
                          .size = 3,
                          .settings = direct,
                          .limit_s = RUN_LIMIT_S,
                          .after = keeps_nothing};
    if (!skips_real("a real driver does not count what is mapped"))
        run_world(&world, sums, NULL);
}

/* A child of fork has nobody who carries out what its parent started. */
static int waits_in_a_child(tutti_comm *comm, int rank, int size, void *context)
{
    int32_t *memory = rig_take(COUNT * sizeof *memory);
    int wrong = 0;
    (void)size;
    (void)context;
    if (rank == 1)
        return world_await(rank, 1) + WORLD_OK(tutti_send(memory, COUNT, TUTTI_INT32, 0, comm));
    tutti_request *request;
    wrong += WORLD_OK(tutti_recv_start(memory, COUNT, TUTTI_INT32, 1, comm, &request));
    pid_t child = fork();
    if (child == 0) {
        int done = 0;
        alarm(20);
        wrong += WORLD_TAKEN(tutti_test(&request, &done), TUTTI_ERR_FORKED);
        wrong += WORLD_TAKEN(tutti_wait(&request), TUTTI_ERR_FORKED);
        _exit(wrong != 0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    wrong += world_check(rank, status == 0, "the child ended with status 0x%x", (unsigned)status);
    world_tell();
    return wrong + WORLD_OK(tutti_wait(&request));
}

static void test_stream_keeps_nobody_in_a_child_of_fork(void)
{
    run(WORLD_PROCESSES, 2, direct, waits_in_a_child, NULL);
    run(WORLD_PROCESSES, 2, staged, waits_in_a_child, NULL);
}

/* What no rank can carry out ends the call, and not the communicator. */
static int no_plan_fits(tutti_comm *comm, int rank, int size, void *context)
{
    enum { LONG = 1 << 20 };
    int32_t *memory = rig_take(LONG * sizeof *memory);
    cuda_stream stream = rig_stream_take(false);
    tutti_request *request;
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < 3; i++) {
        tutti_status status = TUTTI_OK;
        if (i == 0) {
            status = tutti_allreduce_on(memory, memory, LONG, TUTTI_INT32, TUTTI_SUM, comm, stream);
        } else if (i == 1) {
            status = tutti_allreduce(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM, comm);
        } else {
            wrong += WORLD_OK(tutti_allreduce_start(memory, memory, COUNT, TUTTI_INT32, TUTTI_SUM,
                                                    comm, &request));
            status = tutti_wait(&request);
        }
        wrong += world_check(rank, status == TUTTI_ERR_SETTING, "%s in form %d: %s",
                             tutti_status_string(status), i, tutti_last_error());
        wrong += world_says(rank, "TUTTI_ALGO=allreduce:hier: ");
        wrong += WORLD_OK(tutti_barrier(comm));
    }
    return wrong + rig_await(rank, stream, AWAIT_S);
}

static void test_stream_keeps_communicators_though_no_plan_fits(void)
{
    static const char *const hier[] = {"TUTTI_ALGO=allreduce:hier", NULL};
    run(WORLD_PROCESSES, 2, hier, no_plan_fits, NULL);
}

static int aborts_beside_a_stream_that_hangs(tutti_comm *comm, int rank, int size, void *context)
{
    cuda_stream stream = rig_stream_take(false);
    int wrong = sums(comm, rank, size, context);
    world_tell();
    wrong += world_await(rank, size); /* until all have their sums */
    rig_gate_put((unsigned)rank, stream);
    return wrong + WORLD_OK(tutti_comm_abort(comm));
}

static int opens_its_gate(int rank)
{
    rig_gate_open((unsigned)rank);
    return 0;
}

/* To unmap what peers shared waits for the program's streams, and who aborts may do so because one
 * of them hangs. */
static void test_stream_keeps_nobody_who_aborts_behind_streams(void)
{
    struct world world = {.kind = WORLD_PROCESSES,
                          .size = 2,
                          .settings = direct,
                          .limit_s = RUN_LIMIT_S,
                          .after = opens_its_gate};
    if (!skips_real("a real driver does not count what is mapped"))
        run_world(&world, aborts_beside_a_stream_that_hangs, NULL);
}

/* Several threads, each with a communicator of its own, put calls into one stream at a time, and
 * one into another stream: a block serves the next call only when the stream is past the first. */
struct user {
    tutti_comm *comm;
    cuda_stream stream;
    int rank, wrong; /* as if the threads were ranks */
};

static void *use_stream(void *context)
{
    enum { ROUNDS = 40, CALLS = 12 };
    struct user *user = context;
    int rank = user->rank;
    rig_enter(0);
    int32_t *in = rig_take(2 * CALLS * COUNT * sizeof *in), *out = in + CALLS * COUNT;
    for (int round = 0; round < ROUNDS && !user->wrong; round++) {
        int first = rank << 24 | round << 16;
        rig_set_ints(in, CALLS * COUNT, first);
        rig_fill(out, 0xa5, CALLS * COUNT * sizeof *out);
        for (int i = 0; i < CALLS; i++)
            user->wrong +=
                WORLD_OK(tutti_allreduce_on(in + i * COUNT, out + i * COUNT, COUNT, TUTTI_INT32,
                                            TUTTI_SUM, user->comm, user->stream));
        user->wrong += rig_await(rank, user->stream, AWAIT_S);
        user->wrong += rig_wrong_ints(rank, out, CALLS * COUNT, first, 1, "of a stream of several");
    }
    rig_give(in);
    return NULL;
}

static int share_a_stream(tutti_comm *comm, int rank, int size, void *context)
{
    enum { USERS = 4 };
    struct user users[USERS];
    pthread_t threads[USERS];
    cuda_stream shared = rig_stream_take(false), other = rig_stream_take(false);
    int wrong = 0;
    (void)rank;
    (void)size;
    (void)context;
    for (int u = 0; u < USERS; u++) {
        users[u] = (struct user){.stream = u == 0 ? other : shared, .rank = u};
        wrong += WORLD_OK(tutti_comm_dup(comm, &users[u].comm));
    }
    for (int u = 0; u < USERS; u++)
        wrong += world_check(u, pthread_create(&threads[u], NULL, use_stream, &users[u]) == 0,
                             "no thread");
    for (int u = 0; u < USERS; u++) {
        pthread_join(threads[u], NULL);
        wrong += users[u].wrong + WORLD_OK(tutti_comm_destroy(users[u].comm));
    }
    return wrong;
}

static void test_stream_keeps_blocks_of_threads_in_one_stream(void)
{
    setenv("TUTTI_TEST_STANDIN_DELAY_US", "30", 1);
    setenv("TUTTI_TEST_STANDIN_ISSUE_US", "20", 1);
    run(WORLD_PROCESSES, 1, staged, share_a_stream, NULL);
    unsetenv("TUTTI_TEST_STANDIN_DELAY_US");
    unsetenv("TUTTI_TEST_STANDIN_ISSUE_US");
}

/* So many units later, as far as the values of their words tell. */
static int skip_values(int rank, uint32_t many)
{
    enum { LINES = 8 };
    struct mem_device *device;
    struct mem_words *words[LINES];
    int wrong = WORLD_OK(mem_device_open(&device));
    for (int i = 0; i < LINES && !wrong; i++) {
        wrong += WORLD_OK(mem_words_take(device, &words[i]));
        words[i]->value += many;
        atomic_fetch_add(&words[i]->word[UNIT_START], many);
        atomic_fetch_add(&words[i]->word[UNIT_DONE], many);
    }
    for (int i = LINES; i > 0 && !wrong; i--)
        mem_words_give(device, words[i - 1]);
    return wrong;
}

/* Values of words wrap around, and are compared by half their range. After so many units without
 * the signal that a stream has passed, the blocks of large ones are not given away under their
 * copies: out of the second of two, which take 0.2 s each, while the first goes. */
static int goes_on_for_weeks(tutti_comm *comm, int rank, int size, void *context)
{
    enum { LARGE = 1 << 20, PAIR = 2 };
    int32_t *memory = rig_take(PAIR * LARGE * sizeof *memory);
    int32_t *others = rig_take(PAIR * LARGE * sizeof *others);
    cuda_stream stream = rig_stream_take(false), beside[PAIR];
    int wrong = 0;
    (void)size;
    (void)context;
    for (int i = 0; i < 3; i++) {
        wrong +=
            WORLD_OK(tutti_allreduce_on(memory, memory, 10, TUTTI_INT32, TUTTI_SUM, comm, stream));
        wrong += WORLD_OK(tutti_barrier_on(comm, stream)) + rig_await(rank, stream, AWAIT_S);
        usleep(100000); /* all lines are given back */
        wrong += skip_values(rank, (1u << 30) - 10);
    }
    rig_set_ints(memory, PAIR * LARGE, 0);
    rig_set_ints(others, PAIR * LARGE, PAIR * LARGE);
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < PAIR; i++)
        wrong += WORLD_OK(tutti_allreduce_on(memory + i * LARGE, memory + i * LARGE, LARGE,
                                             TUTTI_INT32, TUTTI_SUM, comm, stream));
    wrong += WORLD_OK(tutti_group_end());
    usleep(500000);
    for (int i = 0; i < PAIR; i++) {
        beside[i] = rig_stream_take(false);
        wrong += WORLD_OK(tutti_allreduce_on(others + i * LARGE, others + i * LARGE, LARGE,
                                             TUTTI_INT32, TUTTI_SUM, comm, beside[i]));
    }
    for (int i = 0; i < PAIR; i++)
        wrong += rig_await(rank, beside[i], AWAIT_S);
    wrong += rig_await(rank, stream, AWAIT_S);
    return wrong + rig_wrong_ints(rank, memory, PAIR * LARGE, 0, 1, "after 2^31 units");
}

static void test_stream_keeps_blocks_after_many_units(void)
{
    static const char *const whole[] = {"TUTTI_CUDA_DIRECT=0", "TUTTI_CUDA_PART=0", NULL};
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "20", 1);
    run(WORLD_PROCESSES, 1, whole, goes_on_for_weeks, NULL);
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"queues_of_aborted_communicators", test_stream_keeps_queues_of_aborted_communicators},
        {"memory_of_aborted_communicators", test_stream_keeps_memory_of_aborted_communicators},
        {"memory_of_what_is_aborted_at_work", test_stream_keeps_memory_of_what_is_aborted_at_work},
        {"words_of_aborted_operations", test_stream_keeps_words_of_aborted_operations},
        {"few_blocks_of_streams_of_one_call", test_stream_keeps_few_blocks_of_streams_of_one_call},
        {"host_memory_when_a_device_failed", test_stream_keeps_host_memory_when_a_device_failed},
        {"nobody_behind_a_device_that_failed",
         test_stream_keeps_nobody_behind_a_device_that_failed},
        {"no_memory_of_peers_without_communicators",
         test_stream_keeps_no_memory_of_peers_without_communicators},
        {"nobody_in_a_child_of_fork", test_stream_keeps_nobody_in_a_child_of_fork},
        {"communicators_though_no_plan_fits", test_stream_keeps_communicators_though_no_plan_fits},
        {"nobody_who_aborts_behind_streams", test_stream_keeps_nobody_who_aborts_behind_streams},
        {"blocks_of_threads_in_one_stream", test_stream_keeps_blocks_of_threads_in_one_stream},
        {"blocks_after_many_units", test_stream_keeps_blocks_after_many_units},
    };
    return suite_run("stream_keeps", tests, sizeof tests / sizeof *tests, argc, argv);
}
