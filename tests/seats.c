/* seats.c: see seats.h. A root asks to be told if a rank that it has seated leaves; that is how it
 * is known here: its call of the C library comes to this program. */
#include "tests/seats.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_uint *taken; /* in memory that processes share */

__attribute__((visibility("default"))) int epoll_ctl(int epoll, int operation, int fd,
                                                     struct epoll_event *event)
{
    if (taken && operation == EPOLL_CTL_MOD && event->events == (EPOLLIN | EPOLLRDHUP))
        atomic_fetch_add(taken, 1);
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
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
