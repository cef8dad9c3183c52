/* launch.c: starts local ranks without a launcher.
 *
 * The parent forks before the library is touched, so every rank is a fresh process. Rank 0 makes
 * the unique id and writes one copy per other process into a pipe; reads and writes of 128 bytes
 * are below PIPE_BUF, so copies are never torn. A rank that dies makes a sentence, one that ends
 * says why; the others get GRACE_S to say what they saw (a test of the library in itself), then
 * they are killed. Children ask the kernel to be killed with the parent, so that nothing outlives
 * it either way. */
#include "perf/launch.h"
#include "perf/cores.h"
#include "perf/pipe.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { GRACE_S = 8, POLL_MS = 200 };

typedef int rank_body(const struct options *options, const struct seat *seat);

struct thread_rank {
    pthread_t thread;
    const struct options *options;
    rank_body *body;
    struct seat seat;
    int status;
};

static void *thread_main(void *argument)
{
    struct thread_rank *rank = argument;
    if (rank->options->bind == BIND_CORE)
        rank->seat.cpu = cores_bind((unsigned)rank->seat.rank);
    rank->status = rank->body(rank->options, &rank->seat);
    return NULL;
}

/* Runs `count` ranks as threads of this process; the worst status. */
static int run_threads(const struct options *options, rank_body *body, const struct seat *first,
                       unsigned count)
{
    struct thread_rank *ranks = calloc(count, sizeof *ranks);
    int worst = EXIT_GOOD;
    for (unsigned t = 0; t < count; t++) {
        if (ranks == NULL)
            break;
        ranks[t] = (struct thread_rank){.options = options, .body = body, .seat = *first};
        ranks[t].seat.rank += (int)t;
        int error = pthread_create(&ranks[t].thread, NULL, thread_main, &ranks[t]);
        if (error != 0) { /* the threads already running wait for this one: leave at once */
            fprintf(stderr, "coll_perf: cannot start thread %u of %u: %s\n", t, count,
                    strerror(error));
            _exit(EXIT_RUN);
        }
    }
    for (unsigned t = 0; ranks && t < count; t++) {
        pthread_join(ranks[t].thread, NULL);
        worst = ranks[t].status > worst ? ranks[t].status : worst;
    }
    if (ranks == NULL)
        fprintf(stderr, "coll_perf: out of memory\n");
    free(ranks);
    return ranks ? worst : EXIT_RUN;
}

/* Makes the id (process 0) or reads it from the pipe; the exit status. */
static int share_id(unsigned process, unsigned processes, const int pipe_ends[2],
                    tutti_unique_id *id)
{
    if (process > 0) {
        ssize_t got = read(pipe_ends[0], id, sizeof *id);
        if (got == (ssize_t)sizeof *id)
            return EXIT_GOOD;
        if (got >= 0) /* rank 0 has ended and said why: of all statuses the greatest counts */
            return EXIT_USAGE;
        fprintf(stderr, "coll_perf: process %u: read the unique id: %s\n", process,
                strerror(errno));
        return EXIT_RUN;
    }
    tutti_status status = tutti_unique_id_create(id);
    if (status != TUTTI_OK) {
        fprintf(stderr, "coll_perf: rank 0: unique id: %s\n", tutti_last_error());
        return status == TUTTI_ERR_SETTING ? EXIT_USAGE : EXIT_RUN;
    }
    for (unsigned p = 1; p < processes; p++) {
        if (write(pipe_ends[1], id, sizeof *id) != (ssize_t)sizeof *id) {
            fprintf(stderr, "coll_perf: rank 0: cannot pass the unique id on: %s\n",
                    strerror(errno));
            return EXIT_RUN;
        }
    }
    return EXIT_GOOD;
}

static int run_process(const struct options *options, rank_body *body, unsigned process,
                       unsigned processes, int pipe_ends[2])
{
    unsigned threads = options->threads ? options->threads : 1;
    tutti_unique_id id;
    if (process > 0)
        close(pipe_ends[1]);
    int status = share_id(process, processes, pipe_ends, &id);
    close(pipe_ends[0]);
    if (process == 0)
        close(pipe_ends[1]);
    if (status != EXIT_GOOD)
        return status;
    struct seat seat = {(int)(process * threads), (int)(processes * threads), &id, -1};
    if (threads > 1)
        return run_threads(options, body, &seat, threads);
    if (options->bind == BIND_CORE)
        seat.cpu = cores_bind(process);
    return body(options, &seat);
}

/* The children of a run. */
struct family {
    pid_t *pids; /* 0: reaped */
    unsigned count, alive;
    int worst;
    bool failed; /* one died in a way that stops the run */
    bool killed; /* by us: further deaths are our doing */
};

static void kill_all(struct family *family, int signal_number)
{
    family->killed = true;
    for (unsigned p = 0; p < family->count; p++) {
        if (family->pids[p] > 0)
            kill(family->pids[p], signal_number);
    }
}

static void bury(struct family *family, pid_t pid, int status, const char *what)
{
    unsigned process = 0;
    while (process < family->count && family->pids[process] != pid)
        process++;
    if (process == family->count)
        return;
    family->pids[process] = 0;
    family->alive--;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_RUN;
    bool normal = WIFEXITED(status) && (code == EXIT_GOOD || code == EXIT_WRONG);
    /* A rank that ends by itself has said why, or left it to rank 0. */
    bool said = normal || code == EXIT_USAGE || (WIFEXITED(status) && code == EXIT_RUN);
    /* A rank that was killed is the cause, even when a survivor's end is noticed first. */
    if (!said && (!family->failed || (WIFSIGNALED(status) && !family->killed))) {
        if (WIFSIGNALED(status))
            fprintf(stderr, "coll_perf: %s %u (pid %d) was killed by signal %d (%s)", what, process,
                    (int)pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
        else
            fprintf(stderr, "coll_perf: %s %u (pid %d) ended with status %d", what, process,
                    (int)pid, code);
        fprintf(stderr, family->alive ? "; stopping the run\n" : "\n");
    }
    family->failed = family->failed || !(normal || code == EXIT_USAGE);
    code = normal || code == EXIT_USAGE ? code : EXIT_RUN;
    family->worst = code > family->worst ? code : family->worst;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Waits for every child; `watched` is blocked and holds SIGCHLD and the signals that end a run. */
static void supervise(struct family *family, const sigset_t *watched, const char *what)
{
    double deadline = 0;
    while (family->alive > 0) {
        struct timespec nap = {0, POLL_MS * 1000000L};
        int caught = sigtimedwait(watched, NULL, &nap);
        if (caught == SIGINT || caught == SIGTERM || caught == SIGHUP) {
            fprintf(stderr, "coll_perf: stopped by signal %d (%s)\n", caught, strsignal(caught));
            kill_all(family, SIGKILL);
            family->failed = true;
            family->worst = EXIT_RUN;
        }
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            bury(family, pid, status, what);
        if (family->failed && deadline == 0)
            deadline = seconds() + GRACE_S;
        if (deadline != 0 && seconds() > deadline)
            kill_all(family, SIGKILL);
    }
}

int launch(const struct options *options, rank_body *body)
{
    unsigned processes = options->ranks ? options->ranks : 1;
    struct family family = {
        calloc(processes, sizeof(pid_t)), processes, 0, EXIT_GOOD, false, false};
    int pipe_ends[2];
    sigset_t watched, before;
    if (family.pids == NULL || pipe(pipe_ends) != 0) {
        fprintf(stderr, "coll_perf: cannot start ranks: %s\n", strerror(errno));
        free(family.pids);
        return EXIT_RUN;
    }
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGHUP);
    sigprocmask(SIG_BLOCK, &watched, &before);
    pid_t parent = getpid();
    fflush(NULL);
    for (unsigned p = 0; p < processes; p++) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pipe_ends_all(parent);
            sigprocmask(SIG_SETMASK, &before, NULL);
            free(family.pids);
            exit(getppid() == parent ? run_process(options, body, p, processes, pipe_ends)
                                     : EXIT_RUN);
        }
        if (pid < 0) {
            fprintf(stderr, "coll_perf: cannot start rank %u: %s\n", p, strerror(errno));
            kill_all(&family, SIGKILL);
            family.worst = EXIT_RUN;
            family.failed = true;
            break;
        }
        family.pids[p] = pid;
        family.alive++;
    }
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    supervise(&family, &watched, options->threads > 1 ? "process" : "rank");
    sigprocmask(SIG_SETMASK, &before, NULL);
    free(family.pids);
    return family.worst;
}
