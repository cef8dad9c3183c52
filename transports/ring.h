/* ring.h: one direction of one lane in memory that two ranks share, whether threads or processes.
 *
 *   sender's line      revoked
 *   receiver's line    consumed, reads_foreign
 *   slots[n]           five cache lines each: stamp, kind, length, tag, 24 bytes of payload, which
 *                      make one line, and behind it 256 bytes for longer payload
 *   data[d]            payload too long for its slot, in whole lines, used as a queue of bytes
 *
 * The k-th slot ever written (k counts from 0) lies at slots[k mod n] and is announced by storing
 * k + 1 into its stamp, last, with release order; nothing but a stamp is ever stored there, so that
 * no old payload can look like a new slot. A message of at most 24 bytes moves exactly one cache
 * line; one of at most 256 moves neighbouring lines, which the hardware fetches ahead. The receiver
 * counts the slots it is done with in `consumed`, which tells the sender that bytes read in place
 * are no longer needed, at once, and gives it room, by quarters of the ring.
 *
 * Both ends compute the place of a payload in data[] from lengths alone, so a receiver never
 * follows a position that its peer wrote. */
#ifndef TRANSPORTS_RING_H
#define TRANSPORTS_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "transports/transport.h"

#define RING_LINE   64u /* bytes of a cache line */
#define RING_INLINE 24u /* payload bytes in a slot's first line: what the header leaves of it */
/* Payload bytes in the lines behind it. Five lines in all, an odd number, spread the first ones
 * over all sets of a cache. */
#define RING_BEHIND 256u
/* More would only take cache; fewer where ranks are many. */
#define RING_SLOTS_MAX 64u
/* How many slots ahead the sender asks for lines: the receiver does not poll there yet, and a line
 * comes from another core's cache within so many messages. */
#define RING_AHEAD 4u

enum slot_kind {
    SLOT_EAGER,   /* first piece of a message whose bytes come through the ring */
    SLOT_MORE,    /* a later piece of it */
    SLOT_REGION,  /* the bytes lie in place: word[0] names the region, word[1] the offset in it */
    SLOT_FOREIGN, /* the bytes lie in the sender's address space, at word[0] */
};

struct slot {
    _Atomic uint32_t stamp;
    _Atomic uint32_t kind;
    _Atomic uint64_t len; /* of the whole message */
    _Atomic uint64_t tag[3];
    union {
        uint8_t bytes[RING_INLINE];
        uint64_t word[RING_INLINE / 8];
    };
    uint8_t behind[RING_BEHIND];
};
_Static_assert(offsetof(struct slot, behind) == RING_LINE, "the header is one cache line");
_Static_assert(sizeof(struct slot) == RING_LINE + RING_BEHIND, "a slot is whole cache lines");

/* Word by word: a call has just written the first, and a load of two words together would wait
 * until that is in the cache, behind the slot of the message before, a line of another core. */
static inline void slot_put_tag(struct slot *slot, const struct tag *tag)
{
    for (int i = 0; i < 3; i++)
        atomic_store_explicit(&slot->tag[i], tag->word[i], memory_order_relaxed);
}
static inline struct tag slot_tag(const struct slot *slot)
{
    struct tag tag;
    for (int i = 0; i < 3; i++)
        tag.word[i] = atomic_load_explicit(&slot->tag[i], memory_order_relaxed);
    return tag;
}

struct ring {
    _Alignas(RING_LINE) _Atomic uint32_t revoked; /* the sender withdrew what it offered in place */
    _Alignas(RING_LINE) _Atomic uint32_t consumed;
    _Atomic uint32_t reads_foreign; /* the receiver can read the sender's address space */
    _Atomic uint32_t steps;         /* that it has made in what lies in place */
    _Alignas(RING_LINE) struct slot slots[];
};

/* Extent of every ring of one link; both ends agree on it when the link is made. */
struct ring_shape {
    uint32_t slots;      /* power of two, <= RING_SLOTS_MAX */
    uint32_t data_bytes; /* power of two, at least 4 * RING_LINE */
};

static inline size_t ring_bytes(const struct ring_shape *shape)
{
    return sizeof(struct ring) + (size_t)shape->slots * sizeof(struct slot) + shape->data_bytes;
}
static inline uint8_t *ring_data(struct ring *ring, const struct ring_shape *shape)
{
    return (uint8_t *)&ring->slots[shape->slots];
}
/* Most bytes of one piece: a quarter of the data, so that sender and receiver work at the same time
 * on different pieces. A multiple of a line, hence of every element size. */
static inline uint32_t ring_piece(const struct ring_shape *shape)
{
    return shape->data_bytes / 4;
}
/* Where in data[] the next piece of n bytes lies, as a count that never wraps; a piece is never
 * split at the end of data[], the rest of the lap is skipped. */
static inline uint64_t ring_place(uint64_t at, uint32_t n, uint32_t data_bytes)
{
    uint32_t left = data_bytes - (uint32_t)(at & (data_bytes - 1));
    return n > left ? at + left : at;
}
/* Earlier plain reads are done before later atomic loads. (gcc's thread sanitizer refuses fences,
 * and needs none: it sees the closer wait for the reader.) */
static inline void ring_fence_reads(void)
{
#if !defined(__SANITIZE_THREAD__)
    atomic_thread_fence(memory_order_acquire);
#endif
}
/* Asks for a line in order to write it. The builtin only asks to read it, unless the compiler may
 * use what x86-64 at first had not; processors without take it for nothing. */
static inline void ring_own(void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" ::"m"(*(char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}
/* Bytes of data[] that a piece of n bytes takes: whole lines, none if it lies in its slot. */
static inline uint32_t ring_room(uint32_t n)
{
    return n <= RING_BEHIND ? 0 : (n + RING_LINE - 1) & ~(RING_LINE - 1);
}
/* To and from slot.bytes. Small copies of fixed size compile to single moves; a call would cost
 * more than the message. */
static inline void ring_copy_inline(void *dst, const void *src, size_t n)
{
    if (n == 8)
        memcpy(dst, src, 8);
    else if (n == 4)
        memcpy(dst, src, 4);
    else if (n > 0)
        memcpy(dst, src, n);
}

#endif
