/* still.c: see still.h. The library's questions for the time come to this program. */
#include "tests/still.h"

#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/seats.h"

#define FOR_LIBRARIES __attribute__((visibility("default")))
#define SECOND_NS     1000000000ll
#define MOST_NS       (60 * SECOND_NS) /* a test that hangs says nothing */

static _Thread_local unsigned awaited; /* seats; 0: it goes */
static _Thread_local int64_t at_ns, behind_ns;

FOR_LIBRARIES int clock_gettime(clockid_t clock, struct timespec *now)
{
    int done = (int)syscall(SYS_clock_gettime, clock, now);
    if (done != 0 || clock != CLOCK_MONOTONIC || (awaited == 0 && behind_ns == 0))
        return done;
    int64_t ns = now->tv_sec * SECOND_NS + now->tv_nsec - behind_ns;
    if (awaited > 0 && (seats_taken() >= awaited || behind_ns > MOST_NS))
        awaited = 0;
    if (awaited > 0) {
        behind_ns += ns - at_ns;
        ns = at_ns;
    }
    *now = (struct timespec){ns / SECOND_NS, ns % SECOND_NS};
    return 0;
}

void still_begin(unsigned seats)
{
    at_ns = (int64_t)clock_ns();
    awaited = seats;
}

void still_end(void)
{
    awaited = 0;
    behind_ns = 0;
}
