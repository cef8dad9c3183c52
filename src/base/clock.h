/* clock.h: the monotonic clock, the only time the library knows. Pure rooms take time as an
 * argument instead. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "tutti/types.h"

uint64_t clock_ns(void);
static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000u;
}
void clock_sleep_us(uint32_t us);

/* What may end a wait before its time; NULL: nothing. check gives TUTTI_OK, or the error that the
 * wait ends with, its sentence set, and from then on always that. left_ms says how long to sleep
 * before the next look: until a time of clock_ms(), but no longer than CLOCK_CANCEL_MS. */
#define CLOCK_CANCEL_MS 20u
struct cancel {
    tutti_status (*check)(void *context);
    void *context;
};
static inline tutti_status clock_check(const struct cancel *cancel)
{
    return cancel ? cancel->check(cancel->context) : TUTTI_OK;
}
int clock_left_ms(uint64_t until_ms, const struct cancel *cancel);

/* The usual reason: another thread has stored something else than 0 there (atomically; NULL: none
 * will). */
static inline bool clock_cancelled(const int *word)
{
    return word && __atomic_load_n(word, __ATOMIC_ACQUIRE) != 0;
}

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
