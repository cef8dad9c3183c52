/* test_transfers.c: sends and receives in GPU memory that fail: each rank is told the cause, once;
 * and many at a time. Over the stand-in driver, or over a real one (TUTTI_TEST_CUDA_DRIVER). */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/comm.h"
#include "tests/rig_suite.h"

#define COUNT 3000

/* Between a rank and its transport: what ends is kept back until both a receive and the
 * acknowledgement of a send have, which then end at one look, in this order. */
static struct {
    const struct transport_ops *real;
    struct transport_ops ops;
    tutti_comm *comm;
    struct xfer *recv, *ack;
    bool posted, seen;
} between;

/* Tells, once, that this rank has posted its receive. */
static void tell_when_posted(void)
{
    if (between.posted || !between.comm->p2p_list)
        return;
    between.posted = true;
    world_tell();
}

static struct xfer *poll_between(struct transport *transport)
{
    struct xfer *list = between.real->poll(transport), *rest = NULL;
    tell_when_posted();
    for (struct xfer *next; list; list = next) {
        struct exec_xfer *xfer = (struct exec_xfer *)list;
        next = list->next;
        if (xfer->is_ack) {
            between.ack = list;
        } else if (xfer->owner && !xfer->owner->call.is_send) {
            between.recv = list;
        } else {
            list->next = rest;
            rest = list;
        }
    }
    if (!between.recv || !between.ack)
        return rest;
    struct xfer *first = between.recv;
    first->next = between.ack;
    between.ack->next = rest;
    between.recv = between.ack = NULL;
    return first;
}

static void step_between(tutti_comm *comm, uint32_t peer,
                         struct xfer *(*poll)(struct transport *transport))
{
    between.comm = comm;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        if (comm->transports[i] != comm->peers[peer].transport)
            continue;
        between.real = comm->transport_ops[i];
        between.ops = *between.real;
        between.ops.poll = poll;
        comm->transport_ops[i] = &between.ops;
    }
}

/* The first of two transfers that end together fails: the second is of an operation that has ended
 * with the communicator. */
static int ends_together(tutti_comm *comm, int rank, int size, void *context)
{
    void *in = rig_take(COUNT * 4), *out = rig_take(COUNT * 4);
    int wrong = WORLD_OK(tutti_barrier(comm));
    (void)context;
    if (rank == 0)
        step_between(comm, 1, poll_between);
    else
        wrong += world_await(rank, 1);
    wrong += WORLD_OK(tutti_group_start());
    wrong += WORLD_OK(
        tutti_recv(out, rank == 0 ? COUNT - 8 : COUNT, TUTTI_INT32, (rank + 1) % size, comm));
    wrong += WORLD_OK(tutti_send(in, COUNT, TUTTI_INT32, (rank + 1) % size, comm));
    wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_MISMATCH);
    return wrong + WORLD_TAKEN(tutti_comm_status(comm), TUTTI_ERR_MISMATCH);
}

static void test_transfers_that_end_together(void)
{
    run(WORLD_PROCESSES, 2, direct, ends_together, NULL);
}

/* What rank 0 sends and rank 1 receives, in bytes of GPU memory, and what both are told: parts of
 * the sentence. */
struct difference {
    size_t sent, received;
    const char *sends, *receives;
};

static int differ(tutti_comm *comm, int rank, int size, void *context)
{
    const struct difference *d = context;
    void *memory = rig_take(COUNT * 4);
    tutti_comm *survivors;
    int wrong = WORLD_OK(tutti_barrier(comm));
    world_tell();
    wrong += world_await(rank, size); /* until both have left the barrier */
    tutti_status status = rank == 0 ? tutti_send(memory, d->sent, TUTTI_UINT8, 1, comm)
                                    : tutti_recv(memory, d->received, TUTTI_UINT8, 0, comm);
    if (status == TUTTI_OK) /* it was on its way through host memory */
        status = tutti_barrier(comm);
    wrong += world_check(rank, status == TUTTI_ERR_MISMATCH, "%s", tutti_status_string(status));
    wrong += world_says(rank, "ranks disagree: rank 0 (host ") + world_says(rank, d->sends) +
             world_says(rank, " where rank 1 (host ") + world_says(rank, d->receives);
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &survivors));
    wrong += WORLD_OK(tutti_barrier(survivors)) + WORLD_OK(tutti_comm_destroy(survivors));
    return wrong;
}

/* The receiver knows both counts: it names them, and leaves nobody. */
static void test_transfers_of_different_counts(void)
{
    struct difference more = {12000, 11000, ") sends 12000 uint8", ") receives 11000 uint8: "};
    struct difference less = {11000, 12000, ") sends 11000 uint8", ") receives 12000 uint8: "};
    run(WORLD_PROCESSES, 2, direct, differ, &more);
    run(WORLD_PROCESSES, 2, direct, differ, &less);
}

/* One is worked on in GPU memory, the other is too short for that: it may as well be host memory.
 */
static void test_transfers_on_both_sides_of_the_limit(void)
{
    static const char *const limit[] = {"TUTTI_CUDA_DIRECT_MIN=8000", NULL};
    struct difference less = {
        12000, 4000, ") sends uint8 in GPU memory",
        ") receives 4000 uint8 in host memory or below TUTTI_CUDA_DIRECT_MIN: "};
    struct difference more = {4000, 12000,
                              ") sends 4000 uint8 in host memory or below TUTTI_CUDA_DIRECT_MIN",
                              ") receives uint8 in GPU memory: "};
    run(WORLD_PROCESSES, 2, limit, differ, &less);
    run(WORLD_PROCESSES, 2, limit, differ, &more);
}

/* Rank 0 dies when its offer has come, before rank 1 has seen it: the memory is gone, and the
 * reason is the rank. */
static pid_t doomed;

static void *die_when_told(void *unused)
{
    if (world_await(0, 2) == 0)
        raise(SIGKILL);
    return unused;
}

static struct xfer *poll_too_late(struct transport *transport)
{
    struct xfer *list = between.real->poll(transport);
    tell_when_posted();
    if (list && !between.seen) {
        between.seen = true;
        world_tell();
        for (double end = world_seconds() + 20; kill(doomed, 0) == 0 && world_seconds() < end;)
            usleep(1000);
    }
    return list;
}

static int dies_with_its_offer(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = rig_take(COUNT * 4);
    pthread_t thread;
    int wrong = 0;
    (void)size;
    (void)context;
    doomed = getpid();
    wrong += WORLD_OK(tutti_broadcast(&doomed, &doomed, sizeof doomed, TUTTI_UINT8, 0, comm));
    wrong += WORLD_OK(tutti_barrier(comm));
    if (rank == 0) {
        wrong += world_await(rank, 1); /* what comes before its receive ends at once */
        if (pthread_create(&thread, NULL, die_when_told, NULL) != 0)
            abort();
        tutti_send(memory, COUNT, TUTTI_INT32, 1, comm);
        pthread_join(thread, NULL);
        return 1;
    }
    step_between(comm, 0, poll_too_late);
    wrong += WORLD_TAKEN(tutti_recv(memory, COUNT, TUTTI_INT32, 0, comm), TUTTI_ERR_PEER);
    return wrong + world_says(rank, "rank 0 (host ");
}

static void test_transfers_of_a_rank_that_dies(void)
{
    struct world world = {
        .kind = WORLD_PROCESSES, .size = 2, .settings = direct, .limit_s = 60, .doomed = 1};
    run_world(&world, dies_with_its_offer, NULL);
}

/* Rank 0 gives up, and puts its memory to another use, while rank 1's GPU still reads there: rank 1
 * is told so, though it looks only when all has been read. */
enum { LARGE = 100 * COUNT, COPY_MBPS = 4, COPY_US = LARGE * 4 / COPY_MBPS };

static struct xfer *poll_when_read(struct transport *transport)
{
    const tutti_comm *comm = between.comm;
    bool reads = comm->works || (comm->running && comm->running->device->count > 0);
    if (reads && !between.seen) {
        between.seen = true;
        world_tell();
        (void)world_await(1, 2);
        usleep(2 * COPY_US);
    }
    return between.real->poll(transport);
}

static void *abort_when_told(void *comm)
{
    return world_await(0, 1) == 0 && tutti_comm_abort(comm) == TUTTI_OK ? NULL : comm;
}

static int read_to_the_end(tutti_comm *comm, int rank, int size, void *context)
{
    bool collective = *(bool *)context;
    void *memory = rig_take(LARGE * 4), *failed = NULL;
    pthread_t thread;
    tutti_status status;
    (void)size;
    rig_set_ints(memory, LARGE, 0);
    int wrong = WORLD_OK(tutti_barrier(comm));
    if (rank == 0 && pthread_create(&thread, NULL, abort_when_told, comm) != 0)
        abort();
    if (rank == 1)
        step_between(comm, 0, poll_when_read);
    if (collective)
        status = tutti_broadcast(memory, memory, LARGE, TUTTI_INT32, 0, comm);
    else
        status = rank == 0 ? tutti_send(memory, LARGE, TUTTI_INT32, 1, comm)
                           : tutti_recv(memory, LARGE, TUTTI_INT32, 0, comm);
    wrong += WORLD_TAKEN(status, rank == 0 ? TUTTI_ERR_ABORTED : TUTTI_ERR_PEER);
    if (rank == 1)
        return wrong + world_says(rank, "rank 0 (host ");
    rig_set_ints(memory, LARGE, 1);
    world_tell();
    pthread_join(thread, &failed);
    return wrong + world_check(rank, failed == NULL, "abort failed");
}

static void test_transfers_of_memory_in_other_use(void)
{
    static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", "TUTTI_CUDA_DIRECT_MIN=1", NULL};
    if (skips_real("a real device's copies are fast"))
        return;
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "4", 1);
    for (int collective = 0; collective < 2; collective++) {
        run(WORLD_PROCESSES, 2, direct, read_to_the_end, &(bool){collective});
        run(WORLD_PROCESSES, 2, tcp, read_to_the_end, &(bool){collective});
    }
    unsetenv("TUTTI_TEST_STANDIN_COPY_MBPS");
}

/* More receives at a time than a queue has places: of many ranks, or of one from itself. */
static int many_at_a_time(tutti_comm *comm, int rank, int size, void *context)
{
    int peers = size > 1 ? size - 1 : 1, each = 2 * QUEUE_TICKETS_MAX / peers, wrong = 0;
    int32_t *in = rig_take((size_t)each * sizeof *in);
    int32_t *out = rig_take((size_t)(peers * each) * sizeof *out);
    (void)context;
    rig_set_ints(in, (size_t)each, 0);
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < each; i++) {
        for (int p = 0; p < peers; p++) {
            int peer = (rank + 1 + p) % size;
            wrong += WORLD_OK(tutti_send(in + i, 1, TUTTI_INT32, peer, comm));
            wrong += WORLD_OK(tutti_recv(out + p * each + i, 1, TUTTI_INT32, peer, comm));
        }
    }
    wrong += WORLD_OK(tutti_group_end());
    for (int p = 0; p < peers; p++)
        wrong += rig_wrong_ints(rank, out + p * each, (size_t)each, 0, 1, "transfers");
    rig_give(in);
    rig_give(out);
    return wrong;
}

static void test_transfers_many_at_a_time(void)
{
    setenv("TUTTI_TEST_STANDIN_DELAY_US", "200", 1);
    run(WORLD_PROCESSES, 1, direct, many_at_a_time, NULL);
    run(WORLD_THREADS, 24, direct, many_at_a_time, NULL);
    unsetenv("TUTTI_TEST_STANDIN_DELAY_US");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"that_end_together", test_transfers_that_end_together},
        {"of_different_counts", test_transfers_of_different_counts},
        {"of_a_rank_that_dies", test_transfers_of_a_rank_that_dies},
        {"of_memory_in_other_use", test_transfers_of_memory_in_other_use},
        {"many_at_a_time", test_transfers_many_at_a_time},
        {"on_both_sides_of_the_limit", test_transfers_on_both_sides_of_the_limit},
    };
    return suite_run("transfers", tests, sizeof tests / sizeof *tests, argc, argv);
}
