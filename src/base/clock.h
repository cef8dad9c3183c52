/* clock.h: the monotonic clock, the only time the library knows. Pure rooms take time as an
 * argument instead. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);
static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000u;
}
void clock_sleep_us(uint32_t us);

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
