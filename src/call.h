/* call.h: one call of the public interface in one normal form, its checks, and its tag.
 *
 * Every collective becomes a struct call; from here on no code knows which function was called.
 * The tag is the operation's identity, carried by every transfer (transports/transport.h):
 *
 *     word 0   sequence number 32 | collective 7 | part 1 | in device memory 1 | replayed 1 |
 *              type 6 | operation 16
 *     word 1   count (a hash of the counts where they are replicated; 0 where they are local)
 *     word 2   root 32 | hash of the plan 32 */
#ifndef SRC_CALL_H
#define SRC_CALL_H

#include <assert.h>

#include "algorithms/coll.h"
#include "transports/transport.h"

struct call {
    tutti_coll coll;
    tutti_dtype dtype;
    tutti_op op;
    bool is_send; /* SENDRECV only */
    int root;     /* or the peer of SENDRECV */
    uint32_t elem_size;
    bool in_place;        /* filled by call_check, as is */
    struct comm_op *made; /* what it reduces with, made at run time; NULL: built in */
    /* in and out are memory of a device, worked in where it lies: the communicator's, by a plan of
     * its own; or one whose memory adapters reach, by the plan of host memory (exec_nic.c) */
    bool on_device, by_nic;
    bool replayed; /* by a graph */
    const void *in;
    void *out;
    size_t count;  /* in_count of gatherv, out_count of scatterv */
    size_t stride; /* of a part (stream_parts.c): elements from block to block in the caller's
                    * buffers; 0: the call is whole, its blocks without gaps */
    const size_t *counts, *displs;
    const size_t *recv_counts, *recv_displs;
};

struct tutti_comm;

/* One of the two buffers of a call at this rank: its extent in bytes from the pointer given. */
struct extent {
    const char *name;
    const char *begin;
    uint64_t bytes;
    uint64_t blocks; /* of equal size, in one that has such; else 1 */
    bool used;       /* read or written at this rank at all */
};
/* Both buffers' extents. TUTTI_ERR_ARG if counts are missing or overflow. */
tutti_status call_extents(const struct tutti_comm *comm, const struct call *call, struct extent *in,
                          struct extent *out);

/* What can be wrong with type, operation and root; fills elem_size and made. */
tutti_status call_check_terms(const struct tutti_comm *comm, struct call *call);
/* Everything that can be wrong with the arguments, before anything moves; fills in_place too. */
tutti_status call_check(const struct tutti_comm *comm, struct call *call);

/* For a call that is carried out later: copies its count arrays, which the caller lends for this
 * call only (*counts takes them; NULL without), and holds its reduction operation. call_unkeep
 * undoes it. */
tutti_status call_keep(const struct tutti_comm *comm, struct call *call, size_t **counts);
void call_unkeep(const struct call *call, size_t *counts);

/* "allreduce(count 100, float32, sum)", for sentences. */
const char *call_text(const struct call *call, char *text, size_t len);
/* The same from a tag that came from a peer; operation number included. */
const char *tag_text(const struct tag *tag, char *text, size_t len);

static inline uint32_t tag_sequence(const struct tag *tag)
{
    return (uint32_t)(tag->word[0] >> 32);
}
static inline tutti_coll tag_coll(const struct tag *tag)
{
    return (tutti_coll)(tag->word[0] >> 25 & 0x7f);
}
static inline bool tag_part(const struct tag *tag)
{
    return tag->word[0] >> 24 & 1;
}
static inline tutti_dtype tag_dtype(const struct tag *tag)
{
    return (tutti_dtype)(tag->word[0] >> 16 & 0x3f);
}
static inline bool tag_on_device(const struct tag *tag)
{
    return tag->word[0] >> 23 & 1;
}
/* Of sends and receives it is not said: one rank may replay what its peer calls. */
static inline bool tag_replayed(const struct tag *tag)
{
    return tag->word[0] >> 22 & 1;
}
static_assert(TUTTI_DTYPE_COUNT <= 64 && TUTTI_COLL_COUNT <= 128, "six and seven bits of a tag");
static inline struct tag tag_make(uint32_t sequence, const struct call *call, uint64_t count,
                                  uint32_t plan_hash)
{
    return (struct tag){{(uint64_t)sequence << 32 | (uint64_t)call->coll << 25 |
                             (uint64_t)(call->stride > 0) << 24 | (uint64_t)call->on_device << 23 |
                             (uint64_t)(call->replayed && call->coll != TUTTI_COLL_SENDRECV) << 22 |
                             (uint64_t)call->dtype << 16 | (uint64_t)call->op,
                         count, (uint64_t)(uint32_t)call->root << 32 | plan_hash}};
}

#endif
