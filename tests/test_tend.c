/* test_tend.c: which communicators the thread of comm_tend.c looks after, and when. They have one
 * transport each, which counts the looks. What that does for peers is tested over real devices
 * (part_apart of tests/vm/guest/parts.sh) and in test_told.c. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "src/comm.h"
#include "tests/suite.h"

#define LOOKS   5     /* several, so that one under way is none of them */
#define WAIT_MS 20000 /* for these, ten of which should come in a second */

struct counter {
    struct transport base;
    tutti_comm *comm;
    pthread_t maker; /* asks once, when nobody else can be inside */
    bool needed;
    atomic_uint looks, reads, beside; /* beside: without having entered */
    atomic_bool closed;
};

static struct counter *check_entered(struct transport *transport)
{
    struct counter *counter = (struct counter *)transport;
    bool asks = pthread_equal(pthread_self(), counter->maker);
    if (atomic_load(&counter->closed) ||
        (!asks && atomic_load(&counter->comm->busy) != COMM_LOOKING))
        counter->beside++;
    return counter;
}

static bool count_look(struct transport *transport)
{
    struct counter *counter = check_entered(transport);
    counter->looks++;
    return counter->needed;
}

static bool count_read(struct transport *transport, bool restart, struct transport_event *event)
{
    (void)restart;
    (void)event;
    check_entered(transport)->reads++;
    return false;
}

static void count_close(struct transport *transport)
{
    struct counter *counter = (struct counter *)transport;
    atomic_store(&counter->closed, true);
}

static const struct transport_ops ops = {
    .name = "counter", .close = count_close, .tend = count_look, .event = count_read};

static tutti_comm *make(struct counter *counter, bool needed)
{
    const struct settings settings = {0};
    tutti_comm *comm = NULL;
    *counter = (struct counter){.base.ops = &ops, .maker = pthread_self(), .needed = needed};
    CU_ASSERT_EQUAL_FATAL(comm_allocate(&settings, 0, 1, &comm), TUTTI_OK);
    counter->comm = comm;
    comm->transports[0] = &counter->base;
    comm->transport_ops[0] = &ops;
    comm->transport_count = 1;
    comm_tend(comm);
    CU_ASSERT_TRUE(atomic_load(&counter->looks) >= 1);
    return comm;
}

/* The same thread looks after the other one so often. */
static bool looks_pass(struct counter *other)
{
    unsigned until = atomic_load(&other->looks) + LOOKS;
    uint64_t end = clock_ms() + WAIT_MS;
    while (atomic_load(&other->looks) < until && clock_ms() < end)
        clock_sleep_us(1000);
    return atomic_load(&other->looks) >= until;
}

static void test_looks_while_nobody_is_inside(void)
{
    static struct counter first, second;
    tutti_comm *a = make(&first, true), *b = make(&second, true);
    CU_ASSERT_TRUE(looks_pass(&first));
    CU_ASSERT_TRUE(looks_pass(&second));
    CU_ASSERT_TRUE(comm_seize(a));
    unsigned before = atomic_load(&first.looks);
    CU_ASSERT_TRUE(looks_pass(&second));
    CU_ASSERT_EQUAL(atomic_load(&first.looks), before);
    comm_leave(a);
    CU_ASSERT_TRUE(looks_pass(&first));
    comm_free(a);
    CU_ASSERT_TRUE(looks_pass(&second)); /* and the first is no more */
    comm_free(b);
    CU_ASSERT_EQUAL(first.beside + second.beside, 0);
}

static void test_leaves_alone_what_needs_nothing(void)
{
    static struct counter needs, needs_not, left;
    tutti_comm *a = make(&needs, true), *b = make(&needs_not, false), *c = make(&left, true);
    c->peers[0].ended = true;
    c->failed = TUTTI_ERR_ABORTED;
    CU_ASSERT_TRUE(looks_pass(&needs));
    unsigned before = atomic_load(&left.looks);
    CU_ASSERT_TRUE(looks_pass(&needs));
    CU_ASSERT_EQUAL(atomic_load(&left.looks), before);
    CU_ASSERT_EQUAL(atomic_load(&needs_not.looks), 1);
    CU_ASSERT_EQUAL(needs.reads + needs_not.reads + left.reads, 0);
    comm_free(b);
    comm_free(a);
    comm_free(c);
}

/* Of the two one was looked after before it failed. */
static void test_reads_what_comes_to_those_that_failed(void)
{
    static struct counter needs, first, second;
    tutti_comm *a = make(&needs, true), *b = make(&first, true), *c = make(&second, false);
    b->failed = c->failed = TUTTI_ERR_PEER;
    comm_tend_failed(b);
    comm_tend_failed(c);
    CU_ASSERT_TRUE(looks_pass(&needs));
    unsigned looks = atomic_load(&first.looks);
    unsigned before[2] = {atomic_load(&first.reads), atomic_load(&second.reads)};
    CU_ASSERT_TRUE(looks_pass(&needs));
    CU_ASSERT_TRUE(atomic_load(&first.reads) > before[0]);
    CU_ASSERT_TRUE(atomic_load(&second.reads) > before[1]);
    CU_ASSERT_EQUAL(atomic_load(&first.looks), looks);
    comm_free(c);
    CU_ASSERT_TRUE(looks_pass(&needs));
    comm_free(b);
    comm_free(a);
    CU_ASSERT_EQUAL(needs.beside + first.beside + second.beside, 0);
}

static void *come_and_go(void *over)
{
    struct counter counter;
    while (!atomic_load((atomic_bool *)over))
        comm_free(make(&counter, true));
    CU_ASSERT_EQUAL(counter.beside, 0);
    return NULL;
}

static void test_communicators_come_and_go_beside_each_other(void)
{
    static struct counter counter;
    atomic_bool over = false;
    pthread_t threads[3];
    tutti_comm *comm = make(&counter, true);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, come_and_go, &over), 0);
    CU_ASSERT_TRUE(looks_pass(&counter));
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    comm_free(comm);
}

/* Threads of this process; 0: nobody tells. */
static unsigned threads(void)
{
    unsigned count = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "Threads: %u", &count);
    if (status)
        fclose(status);
    return count;
}

/* One that was joined may be counted for a moment more. */
static bool threads_become(unsigned count)
{
    uint64_t end = clock_ms() + WAIT_MS;
    while (threads() != count && clock_ms() < end)
        clock_sleep_us(100);
    return threads() == count;
}

static void test_leaves_no_thread_behind(void)
{
    static struct counter first, second;
    unsigned before = threads();
    for (int i = 0; i < 100; i++) {
        tutti_comm *a = make(&first, true), *b = make(&second, true);
        comm_free(a);
        CU_ASSERT_TRUE(threads_become(before + 1));
        comm_free(b);
        CU_ASSERT_TRUE(threads_become(before));
    }
}

/* The child's own are looked after, the parent's are not; it exits with both. */
static int child(struct counter *parents, tutti_comm *parents_comm)
{
    static struct counter own;
    unsigned before = atomic_load(&parents->looks);
    make(&own, true);
    bool good = looks_pass(&own) && atomic_load(&parents->looks) == before;
    comm_free(parents_comm);
    return good && looks_pass(&own) && !atomic_load(&parents->closed) ? 0 : 1;
}

static void test_a_child_of_fork_has_a_thread_of_its_own(void)
{
    static struct counter counter;
#ifdef __SANITIZE_THREAD__
    suite_skip("the thread sanitizer knows no threads of a forked child");
    return;
#endif
    tutti_comm *comm = make(&counter, true);
    CU_ASSERT_TRUE(looks_pass(&counter));
    pid_t pid = fork();
    if (pid == 0)
        exit(child(&counter, comm));
    int status = -1;
    CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_TRUE(looks_pass(&counter));
    comm_free(comm);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(looks_while_nobody_is_inside),
        TEST(leaves_alone_what_needs_nothing),
        TEST(reads_what_comes_to_those_that_failed),
        TEST(communicators_come_and_go_beside_each_other),
        TEST(leaves_no_thread_behind),
        TEST(a_child_of_fork_has_a_thread_of_its_own),
    };
    return suite_run("tend", tests, sizeof tests / sizeof *tests, argc, argv);
}
