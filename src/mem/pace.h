/* pace.h: whether long writes to memory that other cores read go past the caches.
 *
 * A line that lies in another core's cache must be taken from there before it can be written. Below
 * a common cache that is cheap. Between cores that share none it bounds a core to some 2 GB/s,
 * however it asks for the lines, while stores past the caches, which ask nobody, go at 20; near
 * peers lose by these, because what is in the common cache now would have to come from memory. The
 * topology does not say which it is (a guest is told of one cache where there are several, and is
 * moved about), so long writes are timed: where a few in a row took more than two ticks of the
 * processor's counter for three bytes, the next ones go past the caches, until it is time to see
 * whether that is still so. What is slow for another reason, as an operation with much to compute
 * or memory that is new, loses little by it.
 *
 *     uint64_t begin;
 *     bool past = pace_begin(pace, &begin);
 *     past ? mem_stream(dst, src, len) : mem_copy(dst, src, len);
 *     pace_end(pace, past, len, begin); */
#ifndef MEM_PACE_H
#define MEM_PACE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"

#define PACE_MIN   8192u /* bytes of a message from which it is worth while */
#define PACE_TIMED 4096u /* bytes of a write from which reading the counter twice costs nothing */
#define PACE_SLOW  3u    /* in a row, then others go past the caches: one may be an interruption */
#define PACE_PAST  64u   /* so many, before the next is timed again */

/* Of writes that are of a kind, to memory that the same cores read. Begins as {0}. */
struct pace {
    uint32_t slow; /* writes in a row */
    uint32_t past; /* so many next ones go past the caches */
};

/* True if the write goes past the caches; never where pace is NULL. */
static inline bool pace_begin(const struct pace *pace, uint64_t *begin)
{
    if (!pace)
        return false;
    *begin = clock_ticks();
    return pace->past > 0;
}

static inline void pace_end(struct pace *pace, bool past, size_t bytes, uint64_t begin)
{
    if (!pace)
        return;
    if (past) {
        pace->past--;
    } else if (bytes >= PACE_TIMED) {
        pace->slow = 3 * (clock_ticks() - begin) <= 2 * bytes ? 0 : pace->slow + 1;
        if (pace->slow >= PACE_SLOW)
            pace->past = PACE_PAST;
    }
}

#endif
