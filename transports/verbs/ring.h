/* ring.h: places for messages of different lengths in a ring of bytes, taken in order and given
 * back in order. Pure.
 *
 *     0            at - used        at                       len
 *     |  free      |  in use        |  free                  |
 *
 * A message lies in one piece: what is left at the end and too short for it is skipped, and counts
 * as a part of it. Positions stay below len and nothing is counted for ever, so that a ring whose
 * length is no power of two works however much goes through it. */
#ifndef TRANSPORTS_VERBS_RING_H
#define TRANSPORTS_VERBS_RING_H

#include <stdbool.h>
#include <stdint.h>

struct ring {
    uint32_t len, at, used;
};

/* The bytes skipped before a message of need bytes (at most len). */
static inline uint32_t ring_skip(const struct ring *ring, uint32_t need)
{
    return need > ring->len - ring->at ? ring->len - ring->at : 0;
}

static inline bool ring_room(const struct ring *ring, uint32_t need)
{
    return ring->len - ring->used >= need + ring_skip(ring, need);
}

/* Takes a place. *taken is what to give back. Needs room. */
static inline uint32_t ring_take(struct ring *ring, uint32_t need, uint32_t *taken)
{
    uint32_t skip = ring_skip(ring, need), place = skip > 0 ? 0 : ring->at;
    *taken = need + skip;
    ring->used += *taken;
    ring->at = (place + need) % ring->len;
    return place;
}

/* The oldest place is free again. */
static inline void ring_give(struct ring *ring, uint32_t taken)
{
    ring->used -= taken;
}

#endif
