/* stream_parts.c: large calls in device memory that go through host memory, cut into parts.
 *
 * A part is a call of its own on a piece of the buffers, on every rank alike. While one travels,
 * the one before it is copied back and the one behind it is fetched (stream_put.c), so that copies
 * cost the time of the first and the last part only:
 *
 *      fetched     1 2 3 4
 *      travels       1 2 3 4
 *      back            1 2 3 4
 *
 * A part of a buffer of blocks is a piece of each block: as many copies as there are ranks, so that
 * they are cut into fewer parts. */
#include <stdlib.h>

#include "src/comm.h"
#include "src/stream_unit.h"

/* Part p of the call, which holds what the call holds; the only one of a call that is not cut. */
static void make_part(const struct group_call *from, size_t p, size_t parts,
                      struct group_call *part)
{
    /* The counts of the parts differ by one at most; no product overflows. */
    size_t each = from->call.count / parts, longer = from->call.count % parts;
    size_t first = p * each + (p < longer ? p : longer), bytes = first * from->call.elem_size;
    *part = *from;
    part->call.count = each + (p < longer);
    part->call.stride = parts > 1 ? from->call.count : 0;
    if (from->call.in)
        part->call.in = (const char *)from->call.in + bytes;
    if (from->call.out)
        part->call.out = (char *)from->call.out + bytes;
    if (p > 0)
        (void)call_keep(part->comm, &part->call, &part->counts); /* there are no counts to copy */
}

tutti_status parts_make(const struct group_call *calls, size_t count, struct group_call **made,
                        size_t *made_count)
{
    size_t total = 0;
    *made = NULL;
    for (size_t i = 0; i < count; i++)
        total += stage_parts(calls[i].comm, &calls[i].call);
    if (total == count)
        return TUTTI_OK;
    struct group_call *all = calloc(total, sizeof *all);
    if (!all)
        return fail(TUTTI_ERR_NOMEM, "no memory for %zu calls", total);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        size_t parts = stage_parts(calls[i].comm, &calls[i].call);
        for (size_t p = 0; p < parts; p++)
            make_part(&calls[i], p, parts, &all[at++]);
    }
    *made = all;
    *made_count = total;
    return TUTTI_OK;
}
