/* clock.h: the monotonic clock, the only time the library knows. Pure rooms take time as an
 * argument instead. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

uint64_t clock_ns(void);
static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000u;
}
void clock_sleep_us(uint32_t us);

/* A wait that another thread may end, by storing something else than 0 at *cancel (atomically;
 * NULL: nobody will): cancelled says so, and left_ms how long to sleep before the next look: until
 * a time of clock_ms(), but no longer than CLOCK_CANCEL_MS. */
#define CLOCK_CANCEL_MS 20u
static inline bool clock_cancelled(const int *cancel)
{
    return cancel && __atomic_load_n(cancel, __ATOMIC_ACQUIRE) != 0;
}
int clock_left_ms(uint64_t until_ms, const int *cancel);

/* The processor's own counter, for "not so soon again": the clock can be a system call, and in a
 * guest that one costs 10 us. Some 10^9 a second; says nothing across processors or about units.
 * Always 0 where there is none that can be read at once. */
static inline uint64_t clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

#endif
