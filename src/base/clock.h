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

#endif
