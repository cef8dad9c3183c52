/* test_causes.c: what the ranks of a communicator that fails name as the cause: both sides of a
 * disagreement; a rank at fault, and not one that left because of it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/world_suite.h"

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
    int more = *(int *)context, values[8] = {0}, wrong = 0;
    /* Others may be done with this call, and disagree, before this rank is. */
    tutti_status status = tutti_barrier(comm);
    if (rank == 1 && status == TUTTI_OK)
        status = tutti_send(values, 4, TUTTI_INT32, 0, comm);
    else if (rank == 0 && status == TUTTI_OK)
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

static void test_causes_names_what_a_send_and_its_receive_differ_in(void)
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

static void test_causes_names_both_sides_of_a_mismatch(void)
{
    mismatches(WORLD_THREADS, 4, NULL);
    mismatches(WORLD_PROCESSES, 4, shm);
    mismatches(WORLD_PROCESSES, 4, tcp);
    mismatches(WORLD_PROCESSES, 2, shm);
}

/* ---- what others tell -------------------------------------------------------------------------
 */

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

static void test_causes_names_the_cause_though_who_knew_exited(void)
{
    for (int i = 0; i < 9; i++) {
        struct world world = world_over(i, 6);
        if (world.prepare)
            world.prepare = be_one_of_two_on_a_host;
        CU_ASSERT_EQUAL(world_run(&world, disagree_and_exit, NULL), 0);
    }
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
    const struct chain *chain = context;
    int value = 0, wrong = 0;
    (void)size;
    if (rank == chain->aborter) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, chain->dead, comm));
        wrong += world_await(rank, 2);
        return wrong + WORLD_OK(tutti_comm_abort(comm));
    }
    if (rank == chain->dead) { /* looks now and then, as who serves others would */
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, chain->aborter, comm));
        world_tell();
        double end = world_seconds() + 10;
        while (tutti_comm_status(comm) == TUTTI_OK && world_seconds() < end)
            usleep(1000);
        return wrong + WORLD_TAKEN(tutti_comm_status(comm), TUTTI_ERR_PEER);
    }
    wrong += world_await(rank, 1);
    tutti_request *request;
    wrong += WORLD_OK(tutti_recv_start(&value, 1, TUTTI_INT32, chain->dead, comm, &request));
    for (int i = 0, done = 0; i < 100 && !done; i++) { /* until the link is made */
        tutti_test(&request, &done);
        usleep(1000);
    }
    world_tell();
    wrong += WORLD_TAKEN(tutti_wait(&request), TUTTI_ERR_PEER);
    wrong += world_says(rank, "aborted the communicator");
    return wrong;
}

static void test_causes_names_the_cause_that_another_told(void)
{
    for (int i = 0; i < 18; i++) {
        int witness = i / 3 % 3, turn = i / 9;
        struct chain chain = {witness, (witness + 1 + turn) % 3, (witness + 2 - turn) % 3};
        struct world world = world_over(i, 3);
        world.doomed = 1 + chain.dead;
        CU_ASSERT_EQUAL(world_run(&world, die_of_an_abort, &chain), 0);
    }
}

static void test_causes_tells_the_cause_over_links_of_others(void)
{
    static const struct chain roles[] = {{0, 2, 1}, {0, 1, 2}, {1, 0, 2}}; /* the lower dials */
    for (int i = 0; i < 9; i++) {
        struct chain chain = roles[i / 3];
        struct world world = world_over(i, 3);
        CU_ASSERT_EQUAL(world_run(&world, leave_unasked, &chain), 0);
    }
}

static int limit_descriptors(int rank)
{
    struct rlimit limit;
    int next = dup(0);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)next;
    close(next);
    return world_check(rank, next > 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0, "no limit");
}

/* Some is spared for what the library does to fail. */
static int limit_memory(int rank, size_t spare_bytes)
{
    struct rlimit limit;
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    int got = file ? fscanf(file, "%zu", &pages) : 0;
    if (file)
        fclose(file);
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE) + spare_bytes;
    return world_check(rank, got == 1 && setrlimit(RLIMIT_AS, &limit) == 0, "no limit");
}

/* The sentence may name others too, as its peers. */
static int names_first(int rank, int culprit)
{
    char name[32];
    snprintf(name, sizeof name, "rank %d (host ", culprit);
    return world_check(rank, strncmp(tutti_last_error(), name, strlen(name)) == 0,
                       "'%s' does not begin: %s", name, tutti_last_error());
}

/* One rank has no descriptor left for its link to the third, which has no link at all. */
static int run_out_of_descriptors(tutti_comm *comm, int rank, int size, void *context)
{
    int poor = *(int *)context, third = 2 - poor, witness = 1, value = 0, wrong = 0;
    (void)size;
    if (rank == witness) {
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, poor, comm));
        world_tell();
    }
    if (rank == poor) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, witness, comm));
        wrong += world_await(rank, 1); /* else the failure may come before what was sent is read */
        wrong += limit_descriptors(rank);
        world_tell();
    }
    if (rank == third)
        wrong += world_await(rank, 2); /* else its link may be made before */
    double start = world_seconds();
    tutti_status status = tutti_recv(&value, 1, TUTTI_INT32, rank == poor ? third : poor, comm);
    wrong += world_check(rank, status != TUTTI_OK, "received");
    wrong += world_check(rank, world_seconds() - start < 5, "took %.1f s", world_seconds() - start);
    if (rank != poor)
        wrong += names_first(rank, poor);
    if (rank != third)
        wrong += world_says(rank, strerror(EMFILE));
    world_tell();
    return wrong + world_await(rank, 5);
}

static void test_causes_names_who_lacks_descriptors(void)
{
    for (int i = 0; i < 6; i++) {
        int poor = i / 3 * 2;
        struct world world = world_over(i, 3);
        CU_ASSERT_EQUAL(world_run(&world, run_out_of_descriptors, &poor), 0);
    }
}

/* One rank has a link to the other, and no descriptor or memory left for what is offered there. */
struct lack {
    int poor, memory;
};

static int receive_in_want(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 4096, REGION_BYTES = 32 << 20 };
    static int received[COUNT];
    const struct lack *lack = context;
    int other = 1 - rank, value = 0, wrong = 0;
    void *memory = NULL;
    tutti_status status;
    (void)size;
    if (rank == lack->poor) {
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, other, comm));
        wrong += lack->memory ? limit_memory(rank, REGION_BYTES / 2) : limit_descriptors(rank);
        status = tutti_recv(received, COUNT, TUTTI_INT32, other, comm);
    } else {
        wrong += WORLD_OK(tutti_mem_alloc(REGION_BYTES, &memory));
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, other, comm));
        status = tutti_send(memory, COUNT, TUTTI_INT32, other, comm);
        wrong += names_first(rank, lack->poor);
    }
    wrong += world_check(rank, status == TUTTI_ERR_NOMEM, "%s", tutti_status_string(status));
    wrong += world_says(rank, lack->memory ? "shm: mapping 33554432 bytes of rank "
                                           : "shm: the descriptor of a memory region of rank ");
    wrong += WORLD_OK(tutti_mem_free(memory));
    return wrong;
}

static void test_causes_names_who_cannot_map_what_is_offered(void)
{
    for (int i = 0; i < 4; i++) {
        struct lack lack = {i % 2, i / 2};
        run(WORLD_PROCESSES, 2, shm, receive_in_want, &lack);
    }
}

/* ---- damaged records --------------------------------------------------------------------------
 */

/* An allgather between rank 0 and a copy of it, one word of which is another. */
struct damage {
    unsigned round, calls;
    size_t at, words; /* words: of the block of that round */
    uint32_t value;
};

static int gather_damaged(const void *in, void *out, size_t len, void *context)
{
    struct damage *damage = context;
    uint8_t *other = (uint8_t *)out + len;
    memcpy(out, in, len);
    memcpy(other, in, len);
    if (damage->calls++ == damage->round) {
        damage->words = len / sizeof damage->value;
        memcpy(other + damage->at * sizeof damage->value, &damage->value, sizeof damage->value);
    }
    return 0;
}

/* Whatever a rank says of itself when a communicator is made, it is made or refused. */
static void test_causes_survives_damaged_records(void)
{
    static const uint32_t values[] = {TUTTI_IN_PROGRESS, UINT32_MAX, 0x7fffffff};
    for (size_t v = 0; v < 3; v++) {
        struct damage damage = {.words = 1, .value = values[v]};
        for (; damage.round < 2; damage.round++) {
            for (damage.at = 0; damage.at < damage.words; damage.at++) {
                tutti_comm *comm = NULL;
                damage.calls = 0;
                tutti_status status = tutti_comm_create_with(2, 0, gather_damaged, &damage, &comm);
                CU_ASSERT(status != TUTTI_IN_PROGRESS);
                CU_ASSERT(status == TUTTI_OK || tutti_last_error()[0] != 0);
                CU_ASSERT(strcmp(tutti_status_string(status), "unknown status") != 0);
                tutti_comm_destroy(comm);
            }
        }
    }
}

/* The blocks of two rounds of a rank, for another that comes later. */
struct told {
    unsigned calls;
    size_t len[2];
    uint8_t blocks[2][16384];
    bool refuses; /* some other call meanwhile */
};

static int gather_told(const void *in, void *out, size_t len, void *context)
{
    struct told *told = context;
    bool keeps = told->len[told->calls % 2] == 0;
    if (told->calls >= (keeps ? 2 : 4) || len > sizeof told->blocks[0])
        return 1;
    uint8_t *block = told->blocks[told->calls++ % 2];
    if (keeps) {
        told->len[told->calls - 1] = len;
        memcpy(block, in, len);
    }
    memcpy(out, in, len);
    memcpy((uint8_t *)out + len, block, len);
    if (told->refuses)
        CU_ASSERT_EQUAL(tutti_wait(NULL), TUTTI_ERR_ARG);
    return 0;
}

/* The others are in the caller's allgather: a rank whose settings are bad tells them there. */
static void test_causes_names_whose_settings_are_bad(void)
{
    static struct told told;
    tutti_comm *comm;
    setenv("TUTTI_LANES", "99", 1);
    CU_ASSERT_EQUAL(tutti_comm_create_with(2, 1, gather_told, &told, &comm), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(tutti_last_error(), "TUTTI_LANES=99 is out of range: expected 0 to 7");
    CU_ASSERT_EQUAL(told.calls, 2);
    unsetenv("TUTTI_LANES");
    CU_ASSERT_EQUAL(tutti_comm_create_with(2, 0, gather_told, &told, &comm), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(tutti_last_error(),
                           "rank 1: TUTTI_LANES=99 is out of range: expected 0 to 7");
    CU_ASSERT_EQUAL(told.calls, 4);
}

/* What was wrong here is what this rank says, whatever its allgather did. */
static void test_causes_keeps_its_own_sentence(void)
{
    static struct told told = {.refuses = true};
    tutti_comm *comm;
    setenv("TUTTI_INTERFACE", "nosuch", 1);
    setenv("TUTTI_TRANSPORTS", "tcp", 1);
    CU_ASSERT_EQUAL(tutti_comm_create_with(2, 1, gather_told, &told, &comm), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(tutti_last_error(), "TUTTI_INTERFACE=nosuch"));
    CU_ASSERT_EQUAL(told.calls, 2);
    unsetenv("TUTTI_INTERFACE");
    unsetenv("TUTTI_TRANSPORTS");
}

/* Rank 0 offers memory of the library's, is told that rank 2 has aborted, and frees it. Rank 1
 * comes to read it only then; the abort was told before that the memory is gone. */
static int free_what_was_offered(tutti_comm *comm, int rank, int size, void *context)
{
    enum { COUNT = 4096 }; /* long enough to be read in place, at once when it is asked for */
    static int received[COUNT];
    int value = 0, done = 0, wrong = 0;
    (void)size, (void)context;
    if (rank == 0) {
        void *memory;
        tutti_request *request;
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, 1, comm));
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, 2, comm));
        wrong += WORLD_OK(tutti_mem_alloc(sizeof received, &memory));
        wrong += WORLD_OK(tutti_send_start(memory, COUNT, TUTTI_INT32, 1, comm, &request));
        wrong += WORLD_OK(tutti_test(&request, &done));
        world_tell();
        wrong += WORLD_TAKEN(tutti_recv(&value, 1, TUTTI_INT32, 2, comm), TUTTI_ERR_PEER);
        tutti_wait(&request);
        wrong += WORLD_OK(tutti_mem_free(memory));
        usleep(400000); /* who looks after a failed communicator says that it is gone */
        world_tell();
        return wrong + world_await(rank, 3);
    }
    wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, 0, comm));
    wrong += world_await(rank, rank == 2 ? 1 : 2);
    if (rank == 2)
        return wrong + WORLD_OK(tutti_comm_abort(comm)) + world_await(rank, 3);
    tutti_status status = tutti_recv(received, COUNT, TUTTI_INT32, 0, comm);
    if (status == TUTTI_OK) /* over TCP it has come */
        status = tutti_recv(received, 1, TUTTI_INT32, 0, comm);
    wrong += world_check(rank, status == TUTTI_ERR_PEER, "%s", tutti_status_string(status));
    wrong += world_says(rank, "rank 2 (host ");
    wrong += world_says(rank, "aborted the communicator");
    world_tell();
    return wrong;
}

static void test_causes_names_an_abort_though_memory_is_gone(void)
{
    for (int i = 0; i < 3; i++) {
        struct world world = world_over(i, 3);
        CU_ASSERT_EQUAL(world_run(&world, free_what_was_offered, NULL), 0);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"names_both_sides_of_a_mismatch", test_causes_names_both_sides_of_a_mismatch},
        {"names_what_a_send_and_its_receive_differ_in",
         test_causes_names_what_a_send_and_its_receive_differ_in},
        {"names_the_cause_though_who_knew_exited",
         test_causes_names_the_cause_though_who_knew_exited},
        {"tells_the_cause_over_links_of_others", test_causes_tells_the_cause_over_links_of_others},
        {"names_the_cause_that_another_told", test_causes_names_the_cause_that_another_told},
        {"names_an_abort_though_memory_is_gone", test_causes_names_an_abort_though_memory_is_gone},
        {"names_who_lacks_descriptors", test_causes_names_who_lacks_descriptors},
        {"names_who_cannot_map_what_is_offered", test_causes_names_who_cannot_map_what_is_offered},
        {"names_whose_settings_are_bad", test_causes_names_whose_settings_are_bad},
        {"keeps_its_own_sentence", test_causes_keeps_its_own_sentence},
        {"survives_damaged_records", test_causes_survives_damaged_records},
    };
    return suite_run("causes", tests, sizeof tests / sizeof *tests, argc, argv);
}
