/* test_shm.c: the transports inside one host. Each test runs one function as every rank of a small
 * world: as threads (inproc, shm) or as processes (shm). The traffic is generated from a seed, so
 * that both ends of a link know what must arrive. */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
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

enum way { THREADS, PROCESSES };

static void run(struct links_world *world, enum way way, links_fn *function)
{
    world->processes = way == PROCESSES;
    links_run(world, function);
}

/* ---- random traffic, all links and lanes at once ---- */

#define TRAFFIC_MAX 48 /* messages per link, lane and direction */

struct message {
    size_t len, offset;
    bool allocated, reduce, incoming_first;
};

/* What the k-th message from one rank to another on a lane is: both compute it. */
static struct message message_at(const struct links_world *world, uint32_t from, uint32_t to,
                                 uint32_t lane, uint32_t k)
{
    static const size_t bases[] = {0,    1,    8,     24,    25,    64,    511,    1023,
                                   1024, 4096, 16383, 16384, 40000, 70000, 300000, 2500000};
    uint64_t state = world->seed ^ (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ lane << 24 ^ k;
    size_t base = bases[suite_random(&state) % (sizeof bases / sizeof bases[0])];
    if (base > 100000 && suite_random(&state) % 8)
        base = 100;
    return (struct message){.len = base + suite_random(&state) % (base / 8 + 1),
                            .offset = suite_random(&state) % 64,
                            .allocated = suite_random(&state) % 2,
                            .reduce = suite_random(&state) % 2,
                            .incoming_first = suite_random(&state) % 2};
}

static uint8_t byte_at(uint32_t from, uint32_t to, uint32_t lane, uint32_t k, size_t i)
{
    return (uint8_t)(i * 7 + (i >> 8) + from * 31 + to * 17 + lane * 5 + k * 3);
}

struct flow {
    struct xfer xfer;
    struct message message;
    uint8_t *memory, *at, *dst;
    uint32_t from, to, lane, k;
};

static void flow_begin(struct links_rank *rank, struct flow *flow, bool sending,
                       const struct reducer *reducer)
{
    const struct message *m = &flow->message;
    size_t bytes = m->len + m->offset + 1;
    if (m->allocated && mem_alloc(bytes, (void **)&flow->memory) != TUTTI_OK) {
        links_complain(rank, __FILE__, __LINE__, "memory of a file of its own");
        flow->message.allocated = false;
    }
    if (!m->allocated)
        flow->memory = malloc(bytes);
    flow->at = flow->memory + m->offset;
    flow->xfer = (struct xfer){.data = flow->at,
                               .len = m->len,
                               .peer = sending ? flow->to : flow->from,
                               .lane = flow->lane,
                               .tag = flow->k % 2 ? &links_tags[0] : &links_tags[1]};
    for (size_t i = 0; i < m->len; i++)
        flow->at[i] = sending ? byte_at(flow->from, flow->to, flow->lane, flow->k, i) : (uint8_t)i;
    if (!sending && m->reduce) {
        flow->dst = malloc(m->len + 1);
        flow->xfer.reducer = reducer;
        flow->xfer.dst = flow->dst;
        flow->xfer.other = flow->at;
        flow->xfer.data = NULL;
        flow->xfer.incoming_first = m->incoming_first;
    }
}

static void flow_check(struct links_rank *rank, const struct flow *flow)
{
    const uint8_t *got = flow->dst ? flow->dst : flow->at;
    size_t bad = 0;
    for (size_t i = 0; i < flow->message.len; i++) {
        uint8_t want = byte_at(flow->from, flow->to, flow->lane, flow->k, i);
        if (flow->dst)
            want = (uint8_t)(want + (uint8_t)i);
        bad += got[i] != want;
    }
    links_expect(rank, bad == 0);
}

static void flow_end(struct flow *flow)
{
    if (flow->message.allocated)
        mem_free(flow->memory);
    else
        free(flow->memory);
    free(flow->dst);
}

static uint32_t flows_make(struct links_rank *rank, struct flow *flows, uint32_t per_lane)
{
    struct links_world *world = rank->world;
    uint32_t count = 0;
    for (uint32_t k = 0; k < per_lane; k++) {
        for (uint32_t peer = 0; peer < world->size; peer++) {
            for (uint32_t lane = 0; lane < world->lanes && peer != rank->rank; lane++) {
                flows[count++] =
                    (struct flow){.from = rank->rank, .to = peer, .lane = lane, .k = k};
                flows[count++] =
                    (struct flow){.from = peer, .to = rank->rank, .lane = lane, .k = k};
            }
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        flow->message = message_at(world, flow->from, flow->to, flow->lane, flow->k);
    }
    return count;
}

static void traffic(struct links_rank *rank)
{
    struct links_world *world = rank->world;
    uint32_t per_lane = world->size > 8 ? 3 : TRAFFIC_MAX;
    struct reducer reducer = {
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_UINT8), .dtype = TUTTI_UINT8, .elem_size = 1};
    struct flow *flows = calloc((size_t)world->size * world->lanes * per_lane * 2, sizeof *flows);
    uint32_t count = flows_make(rank, flows, per_lane);
    links_connect_all(rank);
    for (uint32_t i = 0; i < count; i++) {
        struct flow *flow = &flows[i];
        bool sending = flow->from == rank->rank;
        flow_begin(rank, flow, sending, &reducer);
        tutti_status status = sending ? rank->ops->send(rank->transport, &flow->xfer)
                                      : rank->ops->recv(rank->transport, &flow->xfer);
        links_expect(rank, status == TUTTI_OK || status == TUTTI_IN_PROGRESS);
    }
    for (uint32_t i = 0; i < count; i++) {
        links_expect(rank, links_finish(rank, &flows[i].xfer, LINKS_LIMIT_MS) == TUTTI_OK);
        if (flows[i].from != rank->rank)
            flow_check(rank, &flows[i]);
    }
    for (uint32_t i = 0; i < count; i++)
        flow_end(&flows[i]);
    free(flows);
    links_meet(rank, 1, world->size);
}

static void test_inproc_carries_random_traffic(void)
{
    run(links_world_new("inproc", 3, 2), THREADS, traffic);
}

static void test_shm_carries_random_traffic_in_place(void)
{
    run(links_world_new("shm", 3, 2), PROCESSES, traffic);
}

static void test_shm_carries_random_traffic_by_cma(void)
{
    struct links_world *world = links_world_new("shm", 3, 1);
    world->settings.inplace = false;
    run(world, PROCESSES, traffic);
}

static void test_shm_carries_random_traffic_staged(void)
{
    struct links_world *world = links_world_new("shm", 3, 1);
    world->settings.inplace = world->settings.cma = false;
    run(world, PROCESSES, traffic);
}

static void test_shm_carries_random_traffic_between_threads(void)
{
    run(links_world_new("shm", 3, 1), THREADS, traffic);
}

static void test_shm_carries_random_traffic_of_many(void)
{
    run(links_world_new("shm", 24, 1), PROCESSES, traffic);
}

static void test_inproc_carries_random_traffic_of_many(void)
{
    /* Half of the 24 * 23 * 2 * 3 buffers are files, all of one process. */
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max < 2048 || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        suite_skip("it needs 2048 descriptors (ulimit -n)");
        return;
    }
    run(links_world_new("inproc", 24, 1), THREADS, traffic);
}

/* ---- memory that is freed and allocated again ---- */

static void reuse(struct links_rank *rank)
{
    links_connect_all(rank);
    for (uint32_t round = 0; round < 300; round++) {
        size_t len = 20000 + round;
        uint8_t *memory;
        links_expect(rank, mem_alloc(len, (void **)&memory) == TUTTI_OK);
        memset(memory, rank->rank == 0 ? (int)(round & 255) : 0, len);
        struct xfer xfer = links_xfer(1 - rank->rank, memory, len);
        tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
        links_expect(rank, status == TUTTI_OK);
        links_expect(rank, memory[0] == (uint8_t)round && memory[len - 1] == (uint8_t)round);
        mem_free(memory);
    }
    links_meet(rank, 1, 2);
}

static void test_shm_never_serves_freed_memory(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, reuse);
}

/* More allocations alive than a peer may be offered at a time. */
static void many_regions(struct links_rank *rank)
{
    enum { REGIONS = 300, BYTES = 8192 };
    uint8_t *memory[REGIONS];
    links_connect_all(rank);
    for (uint32_t i = 0; i < REGIONS; i++)
        links_expect(rank, mem_alloc(BYTES, (void **)&memory[i]) == TUTTI_OK);
    for (uint32_t i = 0; i < 2 * REGIONS; i++) {
        memset(memory[i % REGIONS], rank->rank == 0 ? (int)(i & 255) : 0, BYTES);
        struct xfer xfer = links_xfer(1 - rank->rank, memory[i % REGIONS], BYTES);
        tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
        links_expect(rank, status == TUTTI_OK && memory[i % REGIONS][BYTES - 1] == (uint8_t)i);
    }
    for (uint32_t i = 0; i < REGIONS; i++)
        mem_free(memory[i]);
    links_meet(rank, 1, 2);
}

static void test_shm_offers_more_regions_than_it_keeps(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, many_regions);
}

/* What the sender waits to overwrite does not wait for the receiver; what it leaves alone is read
 * in place, where the receiver may have an old copy of it. */
static void overwrite_next(struct links_rank *rank)
{
    enum { BYTES = SHM_FRESH_MAX };
    uint8_t *memory;
    links_connect_all(rank);
    links_expect(rank, mem_alloc(BYTES, (void **)&memory) == TUTTI_OK);
    memset(memory, rank->rank == 0 ? 7 : 0, BYTES);
    struct xfer first = links_xfer(1 - rank->rank, memory, 8), xfer = first, in_place = first;
    xfer.len = in_place.len = BYTES;
    xfer.overwritten_next = true;
    if (rank->rank == 0) {
        links_expect(rank, links_recv(rank, &first) == TUTTI_OK); /* the link is up */
        memset(memory, 7, BYTES);
        links_expect(rank, rank->ops->send(rank->transport, &xfer) == TUTTI_OK);
        memset(memory, 8, BYTES);
        links_expect(rank, rank->ops->send(rank->transport, &in_place) == TUTTI_IN_PROGRESS);
    } else {
        links_expect(rank, links_send(rank, &first) == TUTTI_OK);
    }
    links_meet(rank, 1, 2);
    if (rank->rank == 0) {
        links_expect(rank, links_finish(rank, &in_place, LINKS_LIMIT_MS) == TUTTI_OK);
    } else {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK);
        links_expect(rank, memory[0] == 7 && memory[BYTES - 1] == 7);
        links_expect(rank, links_recv(rank, &in_place) == TUTTI_OK);
        links_expect(rank, memory[0] == 8 && memory[BYTES - 1] == 8);
    }
    mem_free(memory);
    links_meet(rank, 2, 2);
}

static void test_shm_takes_along_what_is_overwritten_next(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, overwrite_next);
}

/* ---- disagreement ---- */

static void mismatch(struct links_rank *rank)
{
    uint64_t word = 1;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, rank->rank == 0 ? 8 : 4);
    struct xfer other = links_xfer(1 - rank->rank, &word, 8);
    other.lane = 1;
    if (rank->rank == 0) {
        other.tag = &links_tags[1];
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        links_expect(rank, links_send(rank, &other) == TUTTI_OK);
    } else {
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_ERR_MISMATCH);
        links_expect(rank, xfer.seen_len == 8 && tag_equal(&xfer.seen, &links_tags[0]));
        links_expect(rank, links_recv(rank, &other) == TUTTI_ERR_MISMATCH);
        links_expect(rank, other.seen_len == 8 && tag_equal(&other.seen, &links_tags[1]));
        struct xfer later = links_xfer(0, &word, 8);
        links_expect(rank, links_recv(rank, &later) == TUTTI_ERR_MISMATCH);
    }
    links_meet(rank, 1, 2);
}

static void test_inproc_names_a_mismatch(void)
{
    run(links_world_new("inproc", 2, 2), THREADS, mismatch);
}

static void test_shm_names_a_mismatch(void)
{
    run(links_world_new("shm", 2, 2), PROCESSES, mismatch);
}

/* ---- unexpected arrivals and notices ---- */

static void tell(struct links_rank *rank)
{
    const struct transport_ops *ops = rank->ops;
    struct transport_event event;
    struct notice notice = {.kind = 9, .culprit = 4, .status = 11, .text = "why"};
    uint32_t word = 7;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        notice.culprit = 5;
        links_expect(rank, ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        notice.culprit = 6;
        links_expect(rank, ops->notify(rank->transport, 1, &notice) == TUTTI_OK);
        links_meet(rank, 1, 2);
    } else {
        links_meet(rank, 1, 2); /* all is said */
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
        links_expect(rank, event.peer == 0 && event.notice.culprit == 5 && event.notice.kind == 9);
        links_expect(rank, strcmp(event.notice.text, "why") == 0);
        links_expect(rank, links_event(rank, TRANSPORT_EVENT_NOTICE, 5000, &event));
        links_expect(rank, event.notice.culprit == 6);
        for (int i = 0; i < 2; i++) {
            links_expect(rank, links_event(rank, TRANSPORT_EVENT_UNEXPECTED, 5000, &event));
            links_expect(rank, event.peer == 0 && event.len == 4 &&
                                   tag_equal(&event.tag, &links_tags[0]));
        }
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 7);
        links_expect(rank, !ops->event(rank->transport, true, &event));
    }
    links_meet(rank, 2, 2);
}

static void test_inproc_tells_notices_and_arrivals(void)
{
    run(links_world_new("inproc", 2, 1), THREADS, tell);
}

static void test_shm_tells_notices_and_arrivals(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, tell);
}

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

static void test_shm_refuses_a_wrong_secret(void)
{
    struct links_world *world = links_world_new("shm", 2, 1);
    world->secret[1][3] ^= 1;
    run(world, PROCESSES, wrong_secret);
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

static void test_shm_says_when_descriptors_run_out(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, no_files);
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
    traffic(rank);
    for (int i = 0; i < 64; i++) {
        if (sockets[i] >= 0)
            close(sockets[i]);
    }
}

static void test_shm_bears_garbage_connections(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, pestered);
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
static void test_shm_knows_users_of_containers(void)
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
        run(world, PROCESSES, say_a_word);
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

static void test_shm_keeps_no_descriptors_of_strangers(void)
{
    run(links_world_new("shm", 2, 1), PROCESSES, intruded);
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

static void test_shm_is_not_held_up_by_strangers(void)
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
        run(world, PROCESSES, besieged);
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
    run(links_world_new("shm", 64, 1), PROCESSES, all_to_all);
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
    run(world, PROCESSES, all_dial_first);
}

static void test_inproc_joins_256_threads(void)
{
    run(links_world_new("inproc", 256, 1), THREADS, all_to_all);
}

int main(int argc, char **argv)
{
#define T(name)                                                                                    \
    {                                                                                              \
#name, name                                                                                \
    }
    static const struct suite_test list[] = {
        T(test_inproc_carries_random_traffic),
        T(test_inproc_carries_random_traffic_of_many),
        T(test_shm_carries_random_traffic_in_place),
        T(test_shm_carries_random_traffic_by_cma),
        T(test_shm_carries_random_traffic_staged),
        T(test_shm_carries_random_traffic_between_threads),
        T(test_shm_carries_random_traffic_of_many),
        T(test_shm_never_serves_freed_memory),
        T(test_shm_offers_more_regions_than_it_keeps),
        T(test_shm_takes_along_what_is_overwritten_next),
        T(test_inproc_names_a_mismatch),
        T(test_shm_names_a_mismatch),
        T(test_inproc_tells_notices_and_arrivals),
        T(test_shm_tells_notices_and_arrivals),
        T(test_shm_refuses_a_wrong_secret),
        T(test_shm_says_when_descriptors_run_out),
        T(test_shm_bears_garbage_connections),
        T(test_shm_knows_users_of_containers),
        T(test_shm_keeps_no_descriptors_of_strangers),
        T(test_shm_is_not_held_up_by_strangers),
        T(test_shm_joins_more_than_may_be_under_way),
        T(test_inproc_joins_256_threads),
        T(test_shm_joins_64_processes),
    };
#undef T
    return suite_run("shm", list, sizeof list / sizeof list[0], argc, argv);
}
