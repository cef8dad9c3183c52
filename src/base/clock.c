/* clock.c: the monotonic clock. It never goes back and is not moved by an administrator, so a
 * deadline is a plain comparison. */
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void clock_sleep_us(uint32_t us)
{
    struct timespec left = {.tv_sec = us / 1000000u, .tv_nsec = (long)(us % 1000000u) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

int clock_left_ms(uint64_t until_ms, const struct cancel *cancel)
{
    uint64_t now = clock_ms(), most = cancel ? CLOCK_CANCEL_MS : INT_MAX;
    uint64_t left = until_ms > now ? until_ms - now : 0;
    return (int)(left < most ? left : most);
}
