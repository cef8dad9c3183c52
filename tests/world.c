/* world.c: see world.h. Rank 0 makes the unique id and leaves it in memory that all ranks share:
 * ordinary memory for threads, an anonymous shared mapping for processes. */
#include "tests/world.h"

#include "tests/hosts.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WRONG_RANK 1000
#define RANKS_MAX  1100

struct meeting {
    atomic_int ready; /* 1: id is there, 2: it could not be made */
    tutti_unique_id id;
    atomic_int told;
    atomic_int apart[RANKS_MAX]; /* times that a rank has come to wait outside the library */
    atomic_int wrong[RANKS_MAX];
};

static struct meeting *meeting_now; /* of the one world that runs */

struct member {
    const struct world *world;
    struct meeting *meeting;
    world_fn *function;
    void *context;
    int rank;
};

int world_check(int rank, int ok, const char *format, ...)
{
    if (ok)
        return 0;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("    rank %d: %s\n", rank, text);
    fflush(stdout);
    return 1;
}

int world_says(int rank, const char *part)
{
    return world_check(rank, strstr(tutti_last_error(), part) != NULL, "'%s' is not in: %s", part,
                       tutti_last_error());
}

void world_tell(void)
{
    atomic_fetch_add(&meeting_now->told, 1);
}

int world_await(int rank, int told)
{
    double end = world_seconds() + 20;
    while (atomic_load(&meeting_now->told) < told && world_seconds() < end)
        usleep(200);
    return world_check(rank, atomic_load(&meeting_now->told) >= told, "%d have told, not %d",
                       atomic_load(&meeting_now->told), told);
}

static bool is_first(int rank, int size)
{
    int times = atomic_load(&meeting_now->apart[rank]);
    for (int r = 0; r < size; r++) {
        if (atomic_load(&meeting_now->apart[r]) > times)
            return false;
    }
    return true;
}

void world_be_late(int rank, int size, uint64_t choice)
{
    bool late = choice % (uint64_t)(2 * size) == (uint64_t)rank;
    for (int i = 0; late && i < 20 && is_first(rank, size); i++)
        usleep(100);
}

int world_apart(int rank, int size, const char *after)
{
    int times = atomic_fetch_add(&meeting_now->apart[rank], 1) + 1, r = 0;
    for (double end = world_seconds() + 20; r < size && world_seconds() < end;) {
        if (atomic_load(&meeting_now->apart[r]) >= times)
            r++;
        else
            usleep(100);
    }
    return world_check(rank, r == size, "%s: rank %d does not end it while others are outside",
                       after, r);
}

static int be_rank(struct member *member)
{
    struct meeting *meeting = member->meeting;
    int rank = member->rank, size = member->world->size;
    if (member->world->prepare)
        member->world->prepare(rank);
    if (rank == 0)
        atomic_store(&meeting->ready, tutti_unique_id_create(&meeting->id) == TUTTI_OK ? 1 : 2);
    while (atomic_load(&meeting->ready) == 0)
        usleep(200);
    tutti_comm *comm = NULL;
    if (atomic_load(&meeting->ready) == 2 ||
        tutti_comm_create(size, &meeting->id, rank, &comm) != TUTTI_OK) {
        world_check(rank, 0, "no communicator: %s", tutti_last_error());
        return WRONG_RANK;
    }
    int wrong = member->function(comm, rank, size, member->context);
    wrong +=
        world_check(rank, tutti_comm_destroy(comm) == TUTTI_OK, "destroy: %s", tutti_last_error());
    if (member->world->after)
        wrong += member->world->after(rank);
    return wrong;
}

static void *thread_main(void *argument)
{
    struct member *member = argument;
    atomic_store(&member->meeting->wrong[member->rank], be_rank(member));
    return NULL;
}

static void run_threads(struct member *members, int size)
{
    pthread_t *threads = calloc((size_t)size, sizeof *threads);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    for (int r = 0; r < size; r++) {
        if (pthread_create(&threads[r], &attributes, thread_main, &members[r]) != 0)
            abort();
    }
    for (int r = 0; r < size; r++)
        pthread_join(threads[r], NULL);
    pthread_attr_destroy(&attributes);
    free(threads);
}

double world_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void collect(const struct world *world, struct meeting *meeting, const pid_t *pids)
{
    double end = world_seconds() + (world->limit_s ? world->limit_s : 60);
    int left = world->size;
    char gone[RANKS_MAX] = {0};
    while (left > 0) {
        for (int r = 0; r < world->size; r++) {
            int status;
            if (gone[r] || waitpid(pids[r], &status, WNOHANG) != pids[r])
                continue;
            gone[r] = 1;
            left--;
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                continue;
            if ((world->doomed == r + 1 || world->doomed_too == r + 1) && WIFSIGNALED(status))
                continue;
            meeting->wrong[r] +=
                world_check(r, 0, "process ended with status 0x%x", (unsigned)status) * WRONG_RANK;
        }
        if (left > 0 && world_seconds() > end) {
            for (int r = 0; r < world->size; r++) {
                if (!gone[r])
                    kill(pids[r], SIGKILL);
            }
            end = world_seconds() + 1e9;
            printf("    time limit: ranks killed\n");
        }
        usleep(1000);
    }
}

static void run_processes(struct member *members, const struct world *world)
{
    pid_t *pids = calloc((size_t)world->size, sizeof *pids);
    fflush(NULL);
    for (int r = 0; r < world->size; r++) {
        pids[r] = fork();
        if (pids[r] == 0) {
            hosts_enter((unsigned)r, (unsigned)world->size);
            atomic_store(&members[r].meeting->wrong[r], be_rank(&members[r]));
            fflush(NULL);
            _exit(0);
        }
    }
    collect(world, members[0].meeting, pids);
    free(pids);
}

static void set_settings(const char *const *settings, int on)
{
    for (; settings && *settings; settings++) {
        char name[128];
        const char *value = strchr(*settings, '=');
        snprintf(name, sizeof name, "%.*s", (int)(value - *settings), *settings);
        if (on)
            setenv(name, value + 1, 1);
        else
            unsetenv(name);
    }
}

int world_run(const struct world *world, world_fn *function, void *context)
{
    struct meeting *meeting =
        mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct member *members = calloc((size_t)world->size, sizeof *members);
    int wrong = 0;
    meeting_now = meeting;
    for (int r = 0; r < world->size; r++)
        members[r] = (struct member){world, meeting, function, context, r};
    set_settings(world->settings, 1);
    if (world->kind == WORLD_THREADS)
        run_threads(members, world->size);
    else
        run_processes(members, world);
    set_settings(world->settings, 0);
    for (int r = 0; r < world->size; r++)
        wrong += meeting->wrong[r];
    free(members);
    munmap(meeting, sizeof *meeting);
    return wrong;
}
