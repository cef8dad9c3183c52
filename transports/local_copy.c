/* local_copy.c: how bytes are written that have come through a link, and to its rings: long ones at
 * the pace that the way between the two cores allows (pace.h). */
#include "transports/local.h"

#define SHORT_COPY 1024u /* bytes up to which plain memcpy beats choosing a way to copy */

static void copy(void *dst, const void *bytes, size_t n, bool past)
{
    if (n <= RING_INLINE)
        ring_copy_inline(dst, bytes, n);
    else if (n <= SHORT_COPY)
        memcpy(dst, bytes, n);
    else if (past)
        mem_stream(dst, bytes, n);
    else
        mem_copy(dst, bytes, n);
}

static void apply(struct xfer *xfer, size_t off, const void *bytes, size_t n, bool past)
{
    if (!xfer->reducer) {
        copy((uint8_t *)xfer->data + off, bytes, n, past);
    } else if (n > 0) {
        void *dst = (uint8_t *)xfer->dst + off;
        const void *other = (const uint8_t *)xfer->other + off;
        bool first = xfer->incoming_first;
        (past ? reduce_stream : reduce_apply)(xfer->reducer, dst, first ? bytes : other,
                                              first ? other : bytes, n);
    }
}

void local_apply(struct xfer *xfer, size_t off, const void *bytes, size_t n)
{
    uint64_t begin;
    bool past = pace_begin(xfer->pace, &begin);
    /* A sum that replaces an operand has read its lines already: the hint spares nothing there. */
    bool hinted = xfer->past_caches && !(xfer->reducer && xfer->dst == xfer->other);
    apply(xfer, off, bytes, n, past || hinted);
    pace_end(xfer->pace, past, n, begin);
}

void local_fill(struct lane *lane, uint8_t *dst, const struct xfer *xfer, size_t off, size_t n)
{
    const uint8_t *bytes = (const uint8_t *)xfer->data + off;
    struct pace *pace = xfer->len < PACE_MIN ? NULL : &lane->link->pace;
    uint64_t begin;
    bool past = pace_begin(pace, &begin);
    if (past)
        mem_stream(dst, bytes, n);
    else
        memcpy(dst, bytes, n);
    pace_end(pace, past, n, begin);
}
