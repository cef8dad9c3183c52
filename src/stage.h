/* stage.h: where the bytes of a call on device memory are while it runs. Four ways:
 *   direct   in place: the plan works in device memory (exec_device.c)
 *   shadow   the same in a block of the library's, for memory that peers cannot map, or whose input
 *            is scaled first
 *   nic      in place, where adapters may reach the memory: the plan of host memory, carried out in
 *            device memory (exec_nic.c)
 *   pinned   the plan works in a block of pinned host memory, as any call does; the bytes are
 *            copied there before and back after
 * Which of direct and the others is a function of what all ranks know and of the kind of memory;
 * nic and pinned are each rank's own choice, since on the wire they are the same. */
#ifndef SRC_STAGE_H
#define SRC_STAGE_H

#include "mem/device.h"
#include "src/call.h"

struct tutti_comm;

/* Pieces of work that a unit may put into a stream behind its wait, where they stay until it has
 * ended: a channel of the hardware holds 1024 of all that it was given, and whoever gives it more
 * waits until it has room. Slots (UNIT_SLOTS_MAX) and waits are the others, 544 at most. */
#define STAGE_PIECES_MAX 384

struct stage {
    struct mem_device *device; /* NULL: the call is in host memory and nothing is to be done */
    void *block;               /* NULL: none was needed */
    bool pinned;               /* the block is host memory */
    bool copy_in, copy_out;    /* through the block */
    bool scale, divide;        /* arithmetic around a plan in device memory */
    struct call call;          /* the caller's */
    const void *in;            /* where the plan finds and leaves its bytes */
    void *out;
    uint64_t in_bytes, out_bytes; /* there */
    uint64_t in_blocks,
        out_blocks; /* that lie apart in the caller's memory: more than 1 in parts */
};

/* Decides, takes a block where one is needed and turns *call to it. call_check accepted the call.
 * Errors TUTTI_ERR_ARG: buffers on two devices; TUTTI_ERR_NOMEM. */
tutti_status stage_make(struct tutti_comm *comm, struct call *call, struct stage *stage);
/* What stage_make would decide of a call that call_check_terms accepted, and why, as text (NULL
 * with len 0: none); fills on_device and by_nic, this one only as far as it can be known
 * beforehand. *around_us: what the copies before and after the plan take, about. Takes nothing and
 * touches no buffer; one that is NULL counts as host memory. Errors as stage_make. */
tutti_status stage_explain(const struct tutti_comm *comm, struct call *call, char *text, size_t len,
                           double *around_us);
/* Into how many parts a call that will be `pinned` is cut (stream_parts.c); 1: it is not. Pure. All
 * ranks come to one answer, since they are cut only where none passes host memory instead. */
size_t stage_parts(const struct tutti_comm *comm, const struct call *call);
/* For sentences that name one device and then the other: what stands before the other's name. */
const char *stage_beside(const struct mem_device *one, const struct mem_device *other);
/* Gives the block back. */
void stage_free(struct stage *stage);

/* Carries the bytes: copy(context, dst, src, len) for each run of them. */
typedef tutti_status stage_copy_fn(void *context, void *dst, const void *src, size_t len);
tutti_status stage_in(const struct stage *stage, stage_copy_fn *copy, void *context);
tutti_status stage_out(const struct tutti_comm *comm, const struct stage *stage,
                       stage_copy_fn *copy, void *context);

#endif
