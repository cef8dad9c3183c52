/* links.c: see links.h. */
#include "tests/links.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/hosts.h"

#define COMPLAINTS_MAX 8 /* printed per world */

const struct tag links_tags[2] = {{{1, 2, 3}}, {{1, 2, 4}}};

/* The transport tells these events once. */
static void find_events(struct links_rank *rank)
{
    struct transport_event event;
    bool restart = true;
    while (rank->found_count < LINKS_FOUND_MAX &&
           rank->ops->event(rank->transport, restart, &event)) {
        restart = false;
        if (event.kind != TRANSPORT_EVENT_UNEXPECTED)
            rank->found[rank->found_count++] = event;
    }
}

void links_complain(struct links_rank *rank, const char *file, int line, const char *what)
{
    atomic_fetch_add(&rank->world->wrong, 1);
    if (rank->complained || atomic_fetch_add(&rank->world->complaints, 1) >= COMPLAINTS_MAX)
        return;
    rank->complained = true;
    printf("    rank %u %s:%d: %s (%s)\n", rank->rank, file, line, what, status_sentence());
    /* A transfer that poll returned has no sentence of its own; its link has. */
    if (rank->transport)
        find_events(rank);
    for (uint32_t i = 0; i < rank->found_count; i++) {
        const struct transport_event *event = &rank->found[i];
        if (event->kind == TRANSPORT_EVENT_LINK_DOWN)
            printf("    rank %u: the link to rank %u is down: %s\n", rank->rank, event->peer,
                   event->sentence);
    }
}

#define LOOKS_AWAKE 6400 /* then naps */

/* Between fruitless looks: many in a row, as the library has it, since transports look for peers
 * that left only with every few thousandth; then the core is for others. Ranks that outnumber the
 * cores yield at once, as the library's do. */
static void relax(const struct links_rank *rank, unsigned *looks)
{
    if (++*looks % (rank->world->crowded ? 1 : 64) != 0)
        return;
    if (*looks < LOOKS_AWAKE)
        sched_yield();
    else
        clock_sleep_us(100);
}

/* A machine may be slow, but what hangs moves nothing. */
#define PERIODS 16 /* looks in LINKS_LIMIT_MS */

uint64_t links_moved(const struct links_rank *rank)
{
    struct transport_stats stats;
    rank->ops->stats(rank->transport, &stats);
    return stats.bytes_sent + stats.bytes_received + stats.copied_bytes + stats.in_place_bytes +
           stats.pieces;
}

bool links_out(const struct links_rank *rank, struct links_patience *patience)
{
    struct links_world *world = rank->world;
    uint64_t now = clock_ms(), moved = 0;
    if (now < patience->next_ms)
        return false;
    patience->next_ms = now + LINKS_LIMIT_MS / PERIODS;
    if (rank->transport)
        atomic_store(&world->moved[rank->rank], links_moved(rank));
    for (uint32_t r = 0; r < world->size; r++)
        moved += atomic_load(&world->moved[r]);
    patience->idle = moved == patience->moved ? patience->idle + 1 : 0;
    patience->moved = moved;
    return patience->idle > PERIODS;
}

#define STEP_MOST_MS 2 /* from one look to the next: on an idle machine it takes less */

/* The time in which a rank looks: a longer step in which it did not sleep was the machine's. */
struct watch {
    uint64_t begun_ms, before_ms, looked_ms;
    unsigned looks;
    long sleeps;
};

static long sleeps(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

static struct watch watch_begin(void)
{
    uint64_t now = clock_ms();
    return (struct watch){.begun_ms = now, .before_ms = now, .sleeps = sleeps()};
}

/* After a fruitless look: is the time up? */
static bool is_over(const struct links_rank *rank, struct watch *watch, uint64_t limit_ms)
{
    bool slept = sleeps() != watch->sleeps;
    relax(rank, &watch->looks);
    watch->sleeps = sleeps();
    uint64_t now = clock_ms(), step = now - watch->before_ms;
    watch->looked_ms += slept || step < STEP_MOST_MS ? step : STEP_MOST_MS;
    watch->before_ms = now;
    return watch->looked_ms >= limit_ms || now >= watch->begun_ms + LINKS_LIMIT_MS;
}

void links_meet(struct links_rank *rank, int place, uint32_t ranks)
{
    struct links_patience patience = {0};
    unsigned looks = 0;
    atomic_fetch_add(&rank->world->arrived[place], 1);
    while (atomic_load(&rank->world->arrived[place]) < ranks) {
        if (links_out(rank, &patience)) {
            links_complain(rank, __FILE__, __LINE__, "the others did not come");
            return;
        }
        if (rank->transport)
            rank->ops->poll(rank->transport);
        relax(rank, &looks);
    }
}

static void rank_begin(struct links_rank *rank)
{
    struct links_world *world = rank->world;
    rank->config = (struct transport_config){.rank = rank->rank,
                                             .size = world->size,
                                             .lanes = world->lanes,
                                             .comm_id = 77,
                                             .secret = world->secret[rank->rank],
                                             .settings = &world->settings,
                                             .peer_names = world->name_list,
                                             .crowded = world->size > 2};
    atomic_store(&world->pids[rank->rank], getpid());
    links_expect(rank, world->ops->open(&rank->config, &rank->transport) == TUTTI_OK);
    if (world->fault && rank->transport)
        links_expect(rank, fault_wrap(rank->transport, &rank->config, world->fault,
                                      &rank->transport) == TUTTI_OK);
    if (!rank->transport) {
        rank->ops = world->ops;
        return;
    }
    rank->ops = rank->transport->ops;
    links_expect(rank, rank->ops->address(rank->transport, world->address[rank->rank],
                                          &world->address_len[rank->rank]) == TUTTI_OK);
    /* A rank that could not open its transport, or died at it, does not come. */
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    atomic_fetch_add(&world->arrived[0], 1);
    while (atomic_load(&world->arrived[0]) < world->size && clock_ms() < deadline)
        sched_yield();
    if (atomic_load(&world->arrived[0]) == world->size)
        return;
    links_complain(rank, __FILE__, __LINE__, "the others did not open their transports");
    rank->ops->close(rank->transport);
    rank->transport = NULL;
}

void links_connect(struct links_rank *rank, uint32_t peer)
{
    struct links_world *world = rank->world;
    links_expect(rank, rank->ops->reaches(rank->transport, peer, world->address[peer],
                                          world->address_len[peer]));
    links_expect(rank, rank->ops->connect(rank->transport, peer, world->address[peer],
                                          world->address_len[peer]) == TUTTI_OK);
    atomic_fetch_add(&world->moved[rank->rank], 1); /* hundreds take a slow machine a while */
}

void links_connect_all(struct links_rank *rank)
{
    for (uint32_t i = 0; i < rank->world->size; i++) {
        if (i != rank->rank)
            links_connect(rank, i);
    }
}

struct start {
    struct links_rank rank;
    links_fn *function;
};

static void *rank_main(void *argument)
{
    struct start *start = argument;
    struct links_world *world = start->rank.world;
    hosts_enter(world->processes ? start->rank.rank : 0, world->size);
    rank_begin(&start->rank);
    if (start->rank.transport)
        start->function(&start->rank);
    start->rank.ops->close(start->rank.transport);
    return NULL;
}

static void run_threads(struct links_world *world, links_fn *function)
{
    pthread_t threads[LINKS_RANKS_MAX];
    struct start *starts = calloc(world->size, sizeof *starts);
    for (uint32_t i = 0; i < world->size; i++) {
        starts[i] = (struct start){.rank = {.world = world, .rank = i}, .function = function};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, rank_main, &starts[i]), 0);
    }
    for (uint32_t i = 0; i < world->size; i++)
        pthread_join(threads[i], NULL);
    free(starts);
}

static void run_processes(struct links_world *world, links_fn *function)
{
    pid_t pids[LINKS_RANKS_MAX];
    fflush(stdout);
    for (uint32_t i = 0; i < world->size; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            struct start start = {.rank = {.world = world, .rank = i}, .function = function};
            if (world->before)
                world->before();
            rank_main(&start);
            fflush(stdout);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < world->size; i++) {
        int ended = 0;
        waitpid(pids[i], &ended, 0);
        bool killed = WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL;
        if (!killed && !(WIFEXITED(ended) && WEXITSTATUS(ended) == 0)) {
            printf("    rank %u ended with wait status %d\n", i, ended);
            atomic_fetch_add(&world->wrong, 1);
        }
    }
}

struct links_world *links_world_new(const char *transport, uint32_t size, uint32_t lanes)
{
    struct links_world *world =
        mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_PTR_NOT_EQUAL_FATAL(world, MAP_FAILED);
    if (getenv("TUTTI_TEST_TRANSPORT")) {
        CU_ASSERT_EQUAL_FATAL(settings_load(&world->settings), TUTTI_OK);
    } else {
        settings_defaults(&world->settings);
    }
    world->settings.connect_timeout_ms = LINKS_LIMIT_MS / 2;
    world->size = size;
    world->crowded = size > sysconf(_SC_NPROCESSORS_ONLN);
    world->lanes = lanes;
    world->ops = transport_find(transport);
    world->processes = strcmp(transport, "inproc") != 0;
    world->seed = suite_seed();
    for (uint32_t i = 0; i < size; i++) {
        snprintf(world->names[i], sizeof world->names[i], "rank %u", i);
        world->name_list[i] = world->names[i];
        memset(world->secret[i], 5, sizeof world->secret[i]);
    }
    return world;
}

void links_run(struct links_world *world, links_fn *function)
{
    if (world->processes)
        run_processes(world, function);
    else
        run_threads(world, function);
    CU_ASSERT_EQUAL(world->wrong, 0);
    munmap(world, sizeof *world);
}

static tutti_status finish_within(struct links_rank *rank, struct xfer *xfer, uint64_t limit_ms)
{
    struct watch watch = watch_begin();
    bool over = false;
    while (xfer->status == TUTTI_IN_PROGRESS && !over) {
        rank->ops->poll(rank->transport);
        over = is_over(rank, &watch, limit_ms);
    }
    return xfer->status;
}

tutti_status links_finish(struct links_rank *rank, struct xfer *xfer, uint64_t limit_ms)
{
    struct links_patience patience = {0};
    unsigned looks = 0;
    if (limit_ms != LINKS_LIMIT_MS)
        return finish_within(rank, xfer, limit_ms);
    while (xfer->status == TUTTI_IN_PROGRESS && !links_out(rank, &patience)) {
        if (!rank->ops->poll(rank->transport))
            relax(rank, &looks);
    }
    return xfer->status;
}

struct xfer links_xfer(uint32_t peer, void *data, size_t len)
{
    return (struct xfer){.peer = peer, .data = data, .len = len, .tag = &links_tags[0]};
}

tutti_status links_send(struct links_rank *rank, struct xfer *xfer)
{
    tutti_status status = rank->ops->send(rank->transport, xfer);
    return status == TUTTI_IN_PROGRESS ? links_finish(rank, xfer, LINKS_LIMIT_MS) : status;
}

tutti_status links_recv(struct links_rank *rank, struct xfer *xfer)
{
    tutti_status status = rank->ops->recv(rank->transport, xfer);
    return status == TUTTI_IN_PROGRESS ? links_finish(rank, xfer, LINKS_LIMIT_MS) : status;
}

static bool take_found(struct links_rank *rank, enum transport_event_kind kind,
                       struct transport_event *event)
{
    for (uint32_t i = 0; i < rank->found_count; i++) {
        if (rank->found[i].kind != kind)
            continue;
        *event = rank->found[i];
        memmove(&rank->found[i], &rank->found[i + 1],
                (--rank->found_count - i) * sizeof *rank->found);
        return true;
    }
    return false;
}

bool links_event(struct links_rank *rank, enum transport_event_kind kind, uint64_t limit_ms,
                 struct transport_event *event)
{
    struct watch watch = watch_begin();
    if (take_found(rank, kind, event))
        return true;
    do {
        bool restart = true;
        while (rank->ops->event(rank->transport, restart, event)) {
            if (event->kind == kind)
                return true;
            restart = false;
        }
        rank->ops->poll(rank->transport);
    } while (!is_over(rank, &watch, limit_ms));
    return false;
}
