/* seats.c: see seats.h. A root asks to be told if a rank that it has seated leaves, answers it, and
 * waits for what comes next; that is how it is known here: its calls of the C library come to this
 * program. */
#include "tests/seats.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FOR_LIBRARIES __attribute__((visibility("default")))

static atomic_uint *taken;            /* in memory that processes share */
static _Thread_local unsigned seated; /* by this root, and perhaps not answered yet */

FOR_LIBRARIES int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_MOD && event->events == (EPOLLIN | EPOLLRDHUP))
        seated++;
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

FOR_LIBRARIES int epoll_wait(int epoll, struct epoll_event *events, int count, int ms)
{
    if (taken && seated > 0)
        atomic_fetch_add(taken, seated);
    seated = 0;
    return (int)syscall(SYS_epoll_pwait, epoll, events, count, ms, NULL, 0);
}

unsigned seats_taken(void)
{
    if (!taken)
        taken =
            mmap(NULL, sizeof *taken, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return atomic_load(taken);
}

void seats_await(unsigned count)
{
    for (int i = 0; i < 20000 && seats_taken() < count; i++)
        usleep(1000);
}
