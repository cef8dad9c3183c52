/* pipe.h: a reader that goes away (`coll_perf ... | head`) ends the whole run, as it would end one
 * process, and no rank tells of another's death. */
#ifndef PERF_PIPE_H
#define PERF_PIPE_H

#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

static pid_t pipe_parent;

static inline void pipe_closed(int number)
{
    kill(pipe_parent, number);
    for (;;)
        pause();
}

/* In a rank, which the kernel kills with its parent: SIGPIPE ends the parent instead. One that is
 * ignored stays so. */
static inline void pipe_ends_all(pid_t parent)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) != 0 || action.sa_handler != SIG_DFL)
        return;
    pipe_parent = parent;
    action.sa_handler = pipe_closed;
    sigaction(SIGPIPE, &action, NULL);
}

#endif
