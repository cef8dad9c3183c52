/* test_shm_joins.c: how links inside one host are made: by many ranks, across containers, and
 * beside strangers who knock. */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tests/links.h"
#include "transports/shm.h"

/* ---- strangers ---- */

static void wrong_secret(struct links_rank *rank)
{
    uint32_t word = 0;
    struct transport_event event;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    tutti_status status = rank->ops->recv(rank->transport, &xfer);
    links_expect(rank, status == TUTTI_IN_PROGRESS || rank->rank == 0);
    if (rank->rank == 0) {
        links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 1000, &event);
        links_expect(rank, xfer.status == TUTTI_ERR_PEER || xfer.status == TUTTI_ERR_AUTH);
        links_meet(rank, 1, 2);
    } else {
        while (atomic_load(&rank->world->arrived[1]) == 0)
            links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 1, &event);
        links_meet(rank, 1, 2);
        links_expect(rank, xfer.status == TUTTI_IN_PROGRESS);
    }
}

static void test_shm_joins_refuses_a_wrong_secret(void)
{
    struct links_world *world = links_world_new("shm", 2, 1);
    world->secret[1][3] ^= 1;
    links_run(world, wrong_secret);
}

/* Rank 1 has no descriptor left when rank 0 dials. */
static void no_files(struct links_rank *rank)
{
    uint32_t word = 0;
    struct transport_event event;
    if (rank->rank == 1) {
        struct rlimit limit = {0};
        getrlimit(RLIMIT_NOFILE, &limit);
        int next = dup(0);
        limit.rlim_cur = (rlim_t)next;
        close(next);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    links_connect_all(rank);
    /* Before they meet: to wait there makes progress, and finds the link failed. */
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    tutti_status status = rank->ops->recv(rank->transport, &xfer);
    links_meet(rank, 1, 2);
    if (rank->rank == 1) {
        links_expect(rank, status == TUTTI_IN_PROGRESS);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, 2000, &event));
        links_expect(rank, strstr(event.sentence, "no file descriptor") != NULL);
        links_expect(rank, links_finish(rank, &xfer, 100) == TUTTI_ERR_NOMEM);
    }
    links_meet(rank, 2, 2);
}

static void test_shm_joins_says_when_descriptors_run_out(void)
{
    links_run(links_world_new("shm", 2, 1), no_files);
}

/* A connection to a rank's listening socket, or -1. */
static int intrude(const struct links_world *world, uint32_t rank)
{
    struct shm_address address;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(&address, world->address[rank], sizeof address);
    char *at = name.sun_path + 1;
    at += sprintf(at, "tutti-");
    for (size_t k = 0; k < sizeof address.name; k++)
        at += sprintf(at, "%02x", address.name[k]);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, (socklen_t)(at - (char *)&name)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Every rank's listening socket gets connections that say nothing or garbage. */
static void pester(const struct links_world *world, int sockets[64])
{
    for (int i = 0; i < 64; i++) {
        sockets[i] = intrude(world, (uint32_t)i % world->size);
        if (sockets[i] >= 0 && i % 3 > 0)
            (void)!write(sockets[i], world->address, (size_t)(1 + i * 17));
    }
}

static void pestered(struct links_rank *rank)
{
    int sockets[64];
    pester(rank->world, sockets);
    links_meet(rank, 2, rank->world->size);
    links_traffic(rank);
    for (int i = 0; i < 64; i++) {
        if (sockets[i] >= 0)
            close(sockets[i]);
    }
}

static void test_shm_joins_bears_garbage_connections(void)
{
    links_run(links_world_new("shm", 2, 1), pestered);
}

/* ---- containers ---- */

static atomic_int *entered; /* processes that are in a user namespace of their own */

/* Becomes user 0 of a user namespace, which is that user outside. */
static bool enter_users(int outer)
{
    int go[2], ended = 1;
    if (pipe(go) != 0)
        return false;
    pid_t helper = fork();
    if (helper == 0) { /* who is inside has no right to map what is outside */
        char path[64], byte;
        close(go[1]);
        snprintf(path, sizeof path, "/proc/%d/uid_map", (int)getppid());
        bool told = read(go[0], &byte, 1) == 1;
        int map = open(path, O_WRONLY);
        _exit(!told || map < 0 || dprintf(map, "0 %d 1", outer) < 0);
    }
    bool alone = unshare(CLONE_NEWUSER) == 0 && write(go[1], "", 1) == 1;
    close(go[1]);
    close(go[0]);
    waitpid(helper, &ended, 0);
    return alone && ended == 0 && setresuid(0, 0, 0) == 0;
}

static void enter_same_users(void)
{
    if (!enter_users(100000))
        _exit(1);
}

static void enter_other_users(void)
{
    if (!enter_users(100000 + 1000 * atomic_fetch_add(entered, 1)))
        _exit(1);
}

static void say_a_word(struct links_rank *rank)
{
    uint32_t peer = 1 - rank->rank, word = rank->rank;
    struct xfer xfer = links_xfer(peer, &word, 4);
    bool reached = rank->ops->reaches(rank->transport, peer, rank->world->address[peer],
                                      rank->world->address_len[peer]);
    links_expect(rank, reached == (rank->world->number == 1));
    if (reached) {
        links_connect_all(rank);
        tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
        links_expect(rank, status == TUTTI_OK && word == 0);
    }
    links_meet(rank, 1, 2);
}

/* In two containers user 0 may be one user of the host, or two: these share no memory. */
static void test_shm_joins_knows_users_of_containers(void)
{
    int ended = 1;
    fflush(stdout);
    pid_t probe = fork();
    if (probe == 0)
        _exit(!enter_users(100000));
    waitpid(probe, &ended, 0);
    if (ended != 0) {
        suite_skip("no user namespaces with other users can be made here (only root can)");
        return;
    }
    entered =
        mmap(NULL, sizeof *entered, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int number = 0; number < 2; number++) {
        struct links_world *world = links_world_new("shm", 2, 1);
        world->before = number == 1 ? enter_same_users : enter_other_users;
        world->number = number;
        links_run(world, say_a_word);
    }
    munmap(entered, sizeof *entered);
}

enum { NOBODY = 65534, INTRUDERS = 20 };

static int open_descriptors(void)
{
    int count = 0;
    DIR *list = opendir("/proc/self/fd");
    while (list && readdir(list))
        count++;
    closedir(list);
    return count;
}

/* Passes copies of one descriptor with a byte that is no packet. */
static void pass_descriptors(int to, int fd, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control = {0};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(count * sizeof fd)};
    control.header = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof fd)};
    for (size_t i = 0; i < count; i++)
        memcpy(CMSG_DATA(&control.header) + i * sizeof fd, &fd, sizeof fd);
    (void)!sendmsg(to, &message, MSG_NOSIGNAL);
}

/* As another user, who can read the sockets' names in /proc/net/unix, where the test may become
 * one: connects and says nothing until the others have counted. */
static void intrude_as_another(struct links_rank *rank)
{
    pid_t child = geteuid() == 0 ? fork() : -1;
    if (child == 0) {
        _Atomic uint32_t *arrived = rank->world->arrived;
        if (setgid(NOBODY) == 0 && setuid(NOBODY) == 0) {
            for (int i = 0; i < INTRUDERS; i++)
                intrude(rank->world, 0);
        }
        atomic_fetch_add(&arrived[2], 1);
        while (atomic_load(&arrived[3]) == 0)
            clock_sleep_us(1000);
        _exit(0);
    }
    if (child < 0)
        atomic_fetch_add(&rank->world->arrived[2], 1);
}

static void intruded(struct links_rank *rank)
{
    if (rank->rank == 0) {
        int before = open_descriptors();
        links_meet(rank, 1, 2);
        while (atomic_load(&rank->world->arrived[2]) == 0)
            clock_sleep_us(1000);
        for (int i = 0; i < 100000; i++)
            rank->ops->poll(rank->transport);
        links_expect(rank, open_descriptors() == before);
    } else {
        for (size_t i = 0; i < INTRUDERS; i++)
            pass_descriptors(intrude(rank->world, 0), 0, i % 4 + 1);
        links_meet(rank, 1, 2);
        intrude_as_another(rank);
    }
    links_meet(rank, 3, 2);
}

static void test_shm_joins_keeps_no_descriptors_of_strangers(void)
{
    links_run(links_world_new("shm", 2, 1), intruded);
}

/* How many connections wait at this rank's listening socket; takes them out. */
static int waiting_connections(const struct links_rank *rank)
{
    int count = 0, fd;
    while ((fd = accept(((const struct shm *)rank->transport)->listener, NULL, NULL)) >= 0) {
        close(fd);
        count++;
    }
    return count;
}

/* More come and go than one call may let in: as the user that the test runs as (number 0), or as
 * another (1), of whom the log speaks once. */
static void besieged(struct links_rank *rank)
{
    enum { CALLERS = SHM_STRANGERS_MAX + 50 };
    struct transport_event event;
    atomic_int *came = &rank->world->flags[0];
    pid_t child = fork();
    if (child == 0) {
        if (rank->world->number == 1 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
            _exit(1);
        for (int i = 0; i < CALLERS; i++) {
            int fd = intrude(rank->world, 0);
            atomic_fetch_add(came, fd >= 0);
            close(fd);
        }
        _exit(0);
    }
    int status = -1;
    links_expect(rank, waitpid(child, &status, 0) == child && status == 0);
    rank->ops->event(rank->transport, true, &event);
    int left = waiting_connections(rank);
    links_expect(rank, left >= atomic_load(came) - SHM_STRANGERS_MAX && left < atomic_load(came));
}

static int lines_with(const char *path, const char *word)
{
    char line[1000];
    int count = 0;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        count += strstr(line, word) != NULL;
    if (file)
        fclose(file);
    return count;
}

static void test_shm_joins_is_not_held_up_by_strangers(void)
{
    for (int number = 0; number < 2; number++) {
        struct suite_log log;
        if (number == 1 && geteuid() != 0) {
            suite_skip("only root can become another user");
            return;
        }
        suite_log_begin(&log);
        CU_ASSERT_EQUAL(log_set_file(log.path), TUTTI_OK);
        struct links_world *world = links_world_new("shm", 1, 1);
        world->number = number;
        links_run(world, besieged);
        CU_ASSERT_EQUAL(log_set_file(""), TUTTI_OK);
        CU_ASSERT_EQUAL(lines_with(log.path, "a connection was refused"), number);
        suite_log_end(&log);
    }
}

/* ---- many ranks ---- */

static void all_to_all(struct links_rank *rank)
{
    uint32_t size = rank->world->size;
    uint32_t out[LINKS_RANKS_MAX], in[LINKS_RANKS_MAX];
    static _Thread_local struct xfer send[LINKS_RANKS_MAX], recv[LINKS_RANKS_MAX];
    links_connect_all(rank);
    links_meet(rank, 3, size); /* a transfer is not waited for while its peer makes its links */
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t peer = 0; peer < size; peer++) {
            if (peer == rank->rank)
                continue;
            out[peer] = rank->rank * 1000 + peer + round;
            recv[peer] = links_xfer(peer, &in[peer], 4);
            send[peer] = links_xfer(peer, &out[peer], 4);
            rank->ops->recv(rank->transport, &recv[peer]);
            rank->ops->send(rank->transport, &send[peer]);
        }
        for (uint32_t peer = 0; peer < size; peer++) {
            if (peer == rank->rank)
                continue;
            links_expect(rank, links_finish(rank, &recv[peer], LINKS_LIMIT_MS) == TUTTI_OK);
            links_expect(rank, links_finish(rank, &send[peer], LINKS_LIMIT_MS) == TUTTI_OK);
            links_expect(rank, in[peer] == peer * 1000 + rank->rank + round);
        }
    }
    links_meet(rank, 1, size);
}

static void test_shm_joins_64_processes(void)
{
    uint64_t start = clock_ms();
    links_run(links_world_new("shm", 64, 1), all_to_all);
    printf(" (%llu ms) ", (unsigned long long)(clock_ms() - start));
}

/* The kernel lets a user who is not root have so many descriptors under way between processes as
 * one of them may have open. */
static void become_ordinary(void)
{
    struct rlimit limit = {.rlim_cur = 80, .rlim_max = 80};
    if (geteuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
        _exit(1);
    prctl(PR_SET_DUMPABLE, 1);
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* All dial all, 276 times, before anyone reads a hello. */
static void all_dial_first(struct links_rank *rank)
{
    _Atomic uint32_t *dialed = &rank->world->arrived[2];
    links_connect_all(rank);
    atomic_fetch_add(dialed, 1);
    while (atomic_load(dialed) < rank->world->size)
        clock_sleep_us(1000);
    all_to_all(rank);
}

static void test_shm_joins_more_than_may_be_under_way(void)
{
    struct links_world *world = links_world_new("shm", 24, 1);
    world->before = become_ordinary;
    links_run(world, all_dial_first);
}

static void test_shm_joins_256_threads(void)
{
    links_run(links_world_new("inproc", 256, 1), all_to_all);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(shm_joins_refuses_a_wrong_secret),
        TEST(shm_joins_says_when_descriptors_run_out),
        TEST(shm_joins_bears_garbage_connections),
        TEST(shm_joins_knows_users_of_containers),
        TEST(shm_joins_keeps_no_descriptors_of_strangers),
        TEST(shm_joins_is_not_held_up_by_strangers),
        TEST(shm_joins_more_than_may_be_under_way),
        TEST(shm_joins_256_threads),
        TEST(shm_joins_64_processes),
    };
    return suite_run("shm_joins", tests, sizeof tests / sizeof *tests, argc, argv);
}
