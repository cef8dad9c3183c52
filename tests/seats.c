/* seats.c: see seats.h. A root asks to be told if a rank that it has seated leaves, and answers it:
 * that is how it is known here: its calls of the C library come to this program. */
#include "tests/seats.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FOR_LIBRARIES __attribute__((visibility("default")))

static atomic_uint *taken;                /* in memory that processes share */
static _Thread_local int unanswered = -1; /* whom this root has seated */

FOR_LIBRARIES int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (operation == EPOLL_CTL_MOD && event->events == (EPOLLIN | EPOLLRDHUP))
        unanswered = fd;
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

FOR_LIBRARIES ssize_t send(int fd, const void *bytes, size_t len, int flags)
{
    ssize_t sent = syscall(SYS_sendto, fd, bytes, len, flags, NULL, 0);
    if (taken && fd == unanswered)
        atomic_fetch_add(taken, 1);
    if (fd == unanswered)
        unanswered = -1;
    return sent;
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
