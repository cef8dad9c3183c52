/* test_apart.c: a rank whose call has returned is not needed by its peers' calls that belong to it.
 * After every few operations each rank waits outside the library until all others have ended them
 * too (world_apart): a rank that needs the help of one that is done hangs there, and is named.
 * Which rank comes late is random, and so is everything else. Links over RDMA devices, which a
 * thread looks after meanwhile, are for test_tend.c and part_apart of tests/vm/guest/parts.sh. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/testcase.h"
#include "tests/world_suite.h"

#define FOR_LIBRARIES __attribute__((visibility("default")))

/* ---- sockets that hold little -----------------------------------------------------------------
 */

static bool sockets_are_small; /* those that are made from now on */

/* Segments are short too: into a window shorter than one, the kernel sends only by a timer, which
 * makes some kilobytes a second. */
FOR_LIBRARIES int socket(int family, int type, int protocol)
{
    static const int buffer_bytes = 4096, segment_bytes = 512;
    int fd = (int)syscall(SYS_socket, family, type, protocol);
    if (fd >= 0 && sockets_are_small) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
        setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment_bytes, sizeof segment_bytes);
    }
    return fd;
}

/* ---- what the ranks do ------------------------------------------------------------------------
 */

#define RANKS_MAX 8

struct plan {
    uint64_t seed;
    int rounds;       /* of a few operations each */
    size_t count_max; /* of most calls, in elements */
};

/* Just below, at and above what is sent in another way. */
static size_t odd_bytes(uint64_t *state)
{
    static const size_t edges[] = {0,        8,        24,        256,       1024,   4096,
                                   16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20};
    size_t edge = edges[suite_random(state) % (sizeof edges / sizeof *edges)];
    size_t above = suite_random(state) % 3;
    return edge > 0 ? edge - 1 + above : above;
}

static int one_call(struct testcase *c, uint64_t *state, const struct plan *plan, int rank,
                    int size, tutti_comm *comm, int number)
{
    bool long_one = suite_random(state) % 12 == 0;
    testcase_generate(c, state, size, plan->count_max);
    if (long_one)
        c->count = odd_bytes(state) / tutti_dtype_size(c->dtype);
    int library = suite_random(state) % 2 == 0;
    return testcase_run(c, library, rank, size, comm, number) > 0;
}

/* Collectives on a communicator and its twin, a few between two waits. */
static int collectives(tutti_comm *comm, int rank, int size, void *context)
{
    const struct plan *plan = context;
    struct testcase *c = malloc(sizeof *c);
    uint64_t state = plan->seed;
    tutti_comm *twin = NULL;
    int wrong = 0, number = 0;
    char text[256];
    tutti_status status = tutti_comm_dup(comm, &twin);
    /* An algorithm need not fit. */
    wrong += world_check(rank, status == TUTTI_OK || status == TUTTI_ERR_SETTING, "no twin: %s",
                         tutti_last_error());
    for (int i = 0; i < plan->rounds && wrong == 0; i++) {
        world_be_late(rank, size, suite_random(&state));
        int calls = suite_random(&state) % 2 ? 1 : (int)(suite_random(&state) % 9) + 2;
        while (calls-- > 0 && wrong == 0) {
            bool on_twin = suite_random(&state) % 2;
            wrong += one_call(c, &state, plan, rank, size, on_twin && twin ? twin : comm, number++);
        }
        testcase_describe(c, number - 1, size, text, sizeof text);
        wrong += world_apart(rank, size, text);
    }
    free(c);
    return wrong + WORLD_OK(tutti_comm_destroy(twin));
}

/* What is sent from rank to rank, the same at all that call with the same seed. */
static unsigned char byte_of(int from, int to, int number)
{
    return (unsigned char)(1 + from * 7 + to * 3 + number);
}

static int is_all(int rank, const unsigned char *bytes, size_t count, unsigned char want)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != want)
            return world_check(rank, 0, "byte %zu of %zu is %d, not %d", i, count, bytes[i], want);
    }
    return 0;
}

/* Many messages of one size, one after the other, to one rank. */
static int one_way(tutti_comm *comm, int rank, int from, int to, size_t bytes, int messages)
{
    unsigned char *memory = malloc(bytes + 1);
    int wrong = 0;
    for (int k = 0; k < messages && wrong == 0 && (rank == from || rank == to); k++) {
        if (rank == from) {
            memset(memory, byte_of(from, to, k), bytes);
            wrong += WORLD_OK(tutti_send(memory, bytes, TUTTI_UINT8, to, comm));
        } else {
            wrong += WORLD_OK(tutti_recv(memory, bytes, TUTTI_UINT8, from, comm));
            wrong += is_all(rank, memory, bytes, byte_of(from, to, k));
        }
    }
    free(memory);
    return wrong;
}

/* A group in which every rank sends to each other one, on one communicator or the other. */
static int all_ways(tutti_comm *const *comms, int rank, int size, uint64_t *state)
{
    unsigned char *out[RANKS_MAX], *in[RANKS_MAX];
    size_t bytes[RANKS_MAX][RANKS_MAX];
    int wrong = WORLD_OK(tutti_group_start());
    for (int r = 0; r < size; r++) {
        for (int q = 0; q < size; q++)
            bytes[r][q] = suite_random(state) % 3 ? odd_bytes(state) / 4 : 0;
    }
    for (int r = 0; r < size; r++) {
        tutti_comm *comm = comms[(r + rank) % 2];
        out[r] = malloc(bytes[rank][r] + 1);
        in[r] = malloc(bytes[r][rank] + 1);
        memset(out[r], byte_of(rank, r, 0), bytes[rank][r]);
        wrong += WORLD_OK(tutti_send(out[r], bytes[rank][r], TUTTI_UINT8, r, comm));
        wrong += WORLD_OK(tutti_recv(in[r], bytes[r][rank], TUTTI_UINT8, r, comm));
    }
    wrong += WORLD_OK(tutti_group_end());
    for (int r = 0; r < size; r++) {
        wrong += is_all(rank, in[r], bytes[r][rank], byte_of(r, rank, 0));
        free(out[r]);
        free(in[r]);
    }
    return wrong;
}

static int transfers(tutti_comm *comm, int rank, int size, void *context)
{
    const struct plan *plan = context;
    uint64_t state = plan->seed;
    tutti_comm *comms[2] = {comm, NULL};
    int wrong = WORLD_OK(tutti_comm_dup(comm, &comms[1]));
    char text[80];
    for (int i = 0; i < plan->rounds && wrong == 0; i++) {
        int from = (int)(suite_random(&state) % (uint64_t)size);
        int to = (from + 1 + (int)(suite_random(&state) % (uint64_t)(size - 1))) % size;
        size_t bytes = odd_bytes(&state);
        int messages = 1 + (int)(suite_random(&state) % (bytes < 2000 ? 200 : 3));
        snprintf(text, sizeof text, "%d of %zu bytes from %d to %d", messages, bytes, from, to);
        world_be_late(rank, size, suite_random(&state));
        if (suite_random(&state) % 4) {
            wrong += one_way(comms[i % 2], rank, from, to, bytes, messages);
        } else {
            snprintf(text, sizeof text, "a group");
            wrong += all_ways(comms, rank, size, &state);
        }
        wrong += world_apart(rank, size, text);
    }
    return wrong + WORLD_OK(tutti_comm_destroy(comms[1]));
}

/* What takes long: far more than links hold of it. */
static int long_ones(tutti_comm *comm, int rank, int size, void *context)
{
    enum { BYTES = 16 << 20 };
    const struct plan *plan = context;
    uint64_t state = plan->seed;
    unsigned char *in = calloc(1, BYTES), *out = calloc(1, BYTES);
    int wrong = 0, root = (int)(suite_random(&state) % (uint64_t)size);
    world_be_late(rank, size, suite_random(&state));
    wrong += WORLD_OK(tutti_allreduce(in, out, BYTES, TUTTI_UINT8, TUTTI_SUM, comm));
    wrong += world_apart(rank, size, "a long allreduce");
    world_be_late(rank, size, suite_random(&state));
    wrong += WORLD_OK(tutti_broadcast(in, out, BYTES, TUTTI_UINT8, root, comm));
    wrong += world_apart(rank, size, "a long broadcast");
    world_be_late(rank, size, suite_random(&state));
    wrong += one_way(comm, rank, root, (root + 1) % size, BYTES, 1);
    wrong += world_apart(rank, size, "a long message");
    free(in);
    free(out);
    return wrong;
}

/* Several operations are under way, and whichever is waited for first, or asked for, ends without
 * those that have seen its end. */
#define STARTED 6

struct start {
    tutti_request *requests[2];
    void *in, *out;
};

static int start_one(struct start *start, uint64_t *state, int rank, int size, tutti_comm *comm)
{
    size_t n = odd_bytes(state) / (suite_random(state) % 8 ? 64 : 1);
    int root = (int)(suite_random(state) % (uint64_t)size);
    void *in = start->in = calloc(n + 1, (size_t)size);
    void *out = start->out = calloc(n + 1, (size_t)size);
    tutti_request **request = start->requests;
    request[0] = request[1] = NULL;
    switch (suite_random(state) % 5) {
    case 0:
        return WORLD_OK(tutti_allreduce_start(in, out, n, TUTTI_UINT8, TUTTI_SUM, comm, request));
    case 1:
        return WORLD_OK(tutti_broadcast_start(in, out, n, TUTTI_UINT8, root, comm, request));
    case 2:
        return WORLD_OK(tutti_alltoall_start(in, out, n, TUTTI_UINT8, comm, request));
    case 3:
        return WORLD_OK(
            tutti_reduce_start(in, out, n, TUTTI_UINT8, TUTTI_MAX, root, comm, request));
    default:
        return WORLD_OK(tutti_send_start(in, n, TUTTI_UINT8, (rank + 1) % size, comm, request)) +
               WORLD_OK(tutti_recv_start(out, n, TUTTI_UINT8, (rank + size - 1) % size, comm,
                                         request + 1));
    }
}

static int end_one(struct start *start, bool asks, int rank)
{
    int wrong = 0;
    for (int half = 0; half < 2; half++) {
        tutti_request **request = &start->requests[half];
        int done = *request == NULL;
        while (!done && asks && wrong == 0)
            wrong += WORLD_OK(tutti_test(request, &done));
        if (!done && !asks)
            wrong += WORLD_OK(tutti_wait(request));
    }
    free(start->in);
    free(start->out);
    return wrong;
}

static int started(tutti_comm *comm, int rank, int size, void *context)
{
    const struct plan *plan = context;
    uint64_t state = plan->seed;
    tutti_comm *comms[2] = {comm, NULL};
    int wrong = WORLD_OK(tutti_comm_dup(comm, &comms[1]));
    char text[80];
    for (int i = 0; i < plan->rounds && wrong == 0; i++) {
        struct start starts[STARTED];
        for (int k = 0; k < STARTED; k++)
            wrong += start_one(&starts[k], &state, rank, size, comms[suite_random(&state) % 2]);
        int first = (int)(suite_random(&state) % STARTED);
        bool asks = suite_random(&state) % 2 == 0;
        for (int k = 0; k < STARTED && wrong == 0; k++) {
            int which = (first + k * 5) % STARTED;
            world_be_late(rank, size, suite_random(&state));
            wrong += end_one(&starts[which], asks, rank);
            snprintf(text, sizeof text, "operation %d of round %d", which, i);
            wrong += world_apart(rank, size, text);
        }
    }
    return wrong + WORLD_OK(tutti_comm_destroy(comms[1]));
}

/* ---- communicators ----------------------------------------------------------------------------
 */

enum way { DUP, SPLIT, CREATE, SHRINK, GROW, WAYS };

static const char *const ways[WAYS] = {"dup", "split", "create", "shrink", "grow"};

static tutti_unique_id *shared_id; /* from one rank to all others, without the library */

static int make(tutti_comm *comm, enum way way, int rank, int size, uint64_t *state,
                tutti_comm **made)
{
    int one = (int)(suite_random(state) % (uint64_t)(size - 1)), wrong = 0;
    int color = rank % (1 + (int)(suite_random(state) % 3));
    tutti_comm *few = NULL; /* all but the last rank, which it then takes in */
    if (way == GROW)
        wrong += WORLD_OK(tutti_comm_split(comm, rank < size - 1 ? 0 : TUTTI_NO_COLOR, rank, &few));
    if ((way == GROW || way == CREATE) && rank == one)
        wrong += WORLD_OK(tutti_unique_id_create(shared_id));
    wrong += world_apart(rank, size, "what comes before");
    world_be_late(rank, size, suite_random(state));
    switch (way) {
    case DUP:
        wrong += WORLD_OK(tutti_comm_dup(comm, made));
        break;
    case SPLIT:
        wrong += WORLD_OK(tutti_comm_split(comm, color ? color : TUTTI_NO_COLOR, -rank, made));
        break;
    case SHRINK:
        wrong += rank == one ? 0 : WORLD_OK(tutti_comm_shrink(comm, &one, 1, made));
        break;
    case GROW:
        if (few)
            wrong += WORLD_OK(tutti_comm_grow(few, size, rank == one ? shared_id : NULL, made));
        else
            wrong += WORLD_OK(tutti_comm_create(size, shared_id, rank, made));
        break;
    default:
        wrong += WORLD_OK(tutti_comm_create(size, shared_id, rank, made));
    }
    wrong += world_apart(rank, size, ways[way]);
    return wrong + WORLD_OK(tutti_comm_destroy(few));
}

static int making(tutti_comm *comm, int rank, int size, void *context)
{
    const struct plan *plan = context;
    uint64_t state = plan->seed;
    int wrong = 0;
    for (int i = 0; i < plan->rounds && wrong == 0; i++) {
        tutti_comm *made = NULL;
        enum way way = (enum way)(suite_random(&state) % WAYS);
        int value = 1, total = 0;
        char text[80];
        wrong += make(comm, way, rank, size, &state, &made);
        if (made)
            wrong += WORLD_OK(tutti_allreduce(&value, &total, 1, TUTTI_INT32, TUTTI_SUM, made));
        snprintf(text, sizeof text, "an allreduce after %s", ways[way]);
        wrong += world_apart(rank, size, text);
        bool finalizes = suite_random(&state) % 2;
        if (made && finalizes)
            wrong += WORLD_OK(tutti_comm_finalize(made));
        wrong += world_apart(rank, size, "finalize");
        wrong += WORLD_OK(tutti_comm_destroy(made));
        wrong += world_apart(rank, size, "destroy");
    }
    return wrong;
}

/* A communicator that one rank ends, or calls otherwise, while the others are in a call: they are
 * told without it, and without each other, whether or not they have met before. */
enum end { ABORT, REVOKE, DESTROY, ANOTHER_COUNT, ANOTHER_CALL, ENDS };

static int end_badly(tutti_comm *comm, enum end end, int rank, int one)
{
    int in[2] = {1, 1}, out[2];
    if (rank != one || end == ANOTHER_COUNT) {
        tutti_status status =
            tutti_allreduce(in, out, rank == one ? 1 : 2, TUTTI_INT32, TUTTI_SUM, comm);
        return world_check(rank, status != TUTTI_OK, "a call that cannot end well has");
    }
    if (end == ABORT)
        return WORLD_OK(tutti_comm_abort(comm));
    if (end == REVOKE)
        return WORLD_OK(tutti_comm_revoke(comm));
    if (end == DESTROY)
        return WORLD_OK(tutti_comm_destroy(comm));
    return world_check(rank, tutti_barrier(comm) != TUTTI_OK, "a call of one rank has ended well");
}

static int ending(tutti_comm *comm, int rank, int size, void *context)
{
    static const char *const ends[ENDS] = {"abort", "revoke", "destroy", "another count",
                                           "another call"};
    const struct plan *plan = context;
    uint64_t state = plan->seed;
    unsigned char in[RANKS_MAX] = {0}, out[RANKS_MAX];
    int wrong = 0;
    for (int i = 0; i < plan->rounds && wrong == 0; i++) {
        tutti_comm *twin = NULL;
        enum end end = (enum end)(suite_random(&state) % ENDS);
        int one = (int)(suite_random(&state) % (uint64_t)size);
        wrong += WORLD_OK(tutti_comm_dup(comm, &twin));
        if (suite_random(&state) % 2)
            wrong += WORLD_OK(tutti_alltoall(in, out, 1, TUTTI_UINT8, twin)); /* all meet all */
        wrong += world_apart(rank, size, "a twin");
        world_be_late(rank, size, suite_random(&state));
        wrong += end_badly(twin, end, rank, one);
        wrong += world_apart(rank, size, ends[end]);
        if (rank != one || end != DESTROY)
            wrong += WORLD_OK(tutti_comm_destroy(twin));
    }
    return wrong;
}

/* ---- suites -----------------------------------------------------------------------------------
 */

#define DELAYS "TUTTI_FAULT=delay:200us@5%;reorder"

struct over {
    enum world_kind kind;
    const char *transports, *settings[2]; /* these besides */
    bool small_sockets, two_hosts;
};

static const struct over threads[] = {
    {.kind = WORLD_THREADS, .transports = "inproc"},
    {.kind = WORLD_THREADS, .transports = "inproc", .settings = {DELAYS}},
    {.kind = WORLD_THREADS, .transports = "tcp"},
};
static const struct over shared[] = {
    {.kind = WORLD_PROCESSES, .transports = "shm"},
    {.kind = WORLD_PROCESSES, .transports = "shm", .settings = {"TUTTI_INPLACE=0"}},
    {.kind = WORLD_PROCESSES, .transports = "shm", .settings = {"TUTTI_CMA=0"}},
    {.kind = WORLD_PROCESSES, .transports = "shm", .settings = {"TUTTI_CMA=0", "TUTTI_INPLACE=0"}},
    {.kind = WORLD_PROCESSES, .transports = "shm", .settings = {DELAYS}},
};
static const struct over sockets[] = {
    {.kind = WORLD_PROCESSES, .transports = "tcp"},
    {.kind = WORLD_PROCESSES, .transports = "tcp", .settings = {"TUTTI_LANES=3"}},
    {.kind = WORLD_PROCESSES, .transports = "tcp", .small_sockets = true},
    {.kind = WORLD_PROCESSES, .transports = "tcp", .settings = {DELAYS}},
    {.kind = WORLD_PROCESSES, .transports = "shm,tcp", .two_hosts = true},
};

/* The seed chooses the algorithms, or the planner does, and the chunk. */
static bool run_one(const struct over *over, int size, world_fn *function, struct plan *plan)
{
    char transports[64], algorithms[512];
    /* What hangs ends before the world's limit. */
    const char *settings[7] = {transports, "TUTTI_TIMEOUT_MS=20000"};
    int at = 2, count = 0;
    while (testcase_algorithms(count, algorithms, sizeof algorithms))
        count++;
    bool chosen = testcase_algorithms((int)(plan->seed % (uint64_t)(count + 2)), algorithms,
                                      sizeof algorithms);
    snprintf(transports, sizeof transports, "TUTTI_TRANSPORTS=%s", over->transports);
    for (int i = 0; i < 2 && over->settings[i]; i++)
        settings[at++] = over->settings[i];
    if (chosen && function == collectives)
        settings[at++] = algorithms;
    if (plan->seed & 1 << 10)
        settings[at++] = "TUTTI_CHUNK=1024";
    settings[at] = NULL;
    struct world world = {.kind = over->kind,
                          .size = size,
                          .settings = settings,
                          .prepare = over->two_hosts ? be_on_one_of_two_hosts : NULL};
    sockets_are_small = over->small_sockets;
    int wrong = world_run(&world, function, plan);
    sockets_are_small = false;
    CU_ASSERT_EQUAL(wrong, 0);
    for (int i = 0; wrong && settings[i]; i++)
        printf("    of %d ranks: %s\n", size, settings[i]);
    return wrong == 0;
}

/* At one or two sizes each. */
static void run_over(const struct over *all, size_t count, world_fn *function, int rounds)
{
    static const int sizes[] = {2, 3, 5, RANKS_MAX};
    bool fast = getenv("TUTTI_TEST_FAST") != NULL;
    uint64_t state = suite_seed();
    if (fast)
        rounds = rounds / 4 + 1;
    for (size_t i = 0; i < count; i++) {
        for (int k = (int)(suite_random(&state) % (fast ? 4 : 2)); k < 4; k += fast ? 4 : 2) {
            struct plan plan = {suite_random(&state), rounds, 40u << suite_random(&state) % 6};
            if (!run_one(&all[i], sizes[k], function, &plan))
                return;
        }
    }
}

static void run_everywhere(world_fn *function, int rounds)
{
    run_over(threads, sizeof threads / sizeof *threads, function, rounds);
    run_over(shared, sizeof shared / sizeof *shared, function, rounds);
    run_over(sockets, sizeof sockets / sizeof *sockets, function, rounds);
}

static void test_apart_after_collectives(void)
{
    run_everywhere(collectives, 15);
}

static void test_apart_after_transfers(void)
{
    run_everywhere(transfers, 25);
}

static void test_apart_after_long_operations(void)
{
    run_over(threads, 1, long_ones, 1);
    run_over(shared, 1, long_ones, 1);
    run_over(sockets, 1, long_ones, 1);
}

static void test_apart_after_started_operations(void)
{
    run_everywhere(started, 3);
}

static void test_apart_after_making(void)
{
    run_everywhere(making, 2);
}

static void test_apart_after_bad_ends(void)
{
    run_everywhere(ending, 2);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"after_collectives", test_apart_after_collectives},
        {"after_transfers", test_apart_after_transfers},
        {"after_long_operations", test_apart_after_long_operations},
        {"after_started_operations", test_apart_after_started_operations},
        {"after_making", test_apart_after_making},
        {"after_bad_ends", test_apart_after_bad_ends},
    };
    shared_id =
        mmap(NULL, sizeof *shared_id, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return suite_run("apart", tests, sizeof tests / sizeof *tests, argc, argv);
}
