/* coll.h: what each collective means: sizes, blocks, aliasing, postcondition, bus bandwidth.
 *
 * A shape is all that an emitter or a cost formula may know about a call. Pure. */
#ifndef ALGORITHMS_COLL_H
#define ALGORITHMS_COLL_H

#include "algorithms/groups.h"
#include "base/status.h"

/* A link level: inside a host or between hosts. */
enum level { LEVEL_NODE, LEVEL_NET, LEVEL_COUNT };

struct link_model {
    double alpha_us;         /* latency of one message */
    double us_per_byte;      /* inverse bandwidth of one rank's link at this level */
    double host_us_per_byte; /* between hosts: of what all ranks of a host share; 0: no limit */
    double overhead_us;      /* of each further message that a rank sends in the same round */
    double crowd;   /* further ranks on a core that copy meanwhile, priced in us_per_byte */
    double readers; /* further ranks that take one rank's bytes as fast at the same time */
};

struct shape {
    tutti_coll coll;
    uint32_t rank, size, root; /* root: 0 where the collective has none */
    uint64_t count;            /* elements, in the sense of tutti.h; 0 for the v forms */
    uint32_t elem_size;        /* bytes */
    bool in_place;             /* in the sense of tutti.h */
    bool local_counts; /* alltoallv, gatherv, scatterv: counts differ between ranks' views */
    /* v forms, elements; NULL otherwise. displs are never NULL in a v form (packed is filled in).
     * allgatherv: counts/displs describe out.       reduce_scatterv: counts/displs describe in.
     * gatherv: root: counts/displs describe out;    leaves: counts[rank] alone is meaningful.
     * scatterv: root: counts/displs describe in;    leaves: counts[rank] alone is meaningful.
     * alltoallv: counts/displs describe in, recv_counts/recv_displs describe out. */
    const uint64_t *counts, *displs;
    const uint64_t *recv_counts, *recv_displs;
    const struct groups *groups; /* never NULL; groups->size == size */
    struct link_model model[LEVEL_COUNT];
    double reduce_us_per_byte, copy_us_per_byte;
    double around_us; /* of what is done before and after the plan, whichever it is */
};

struct coll_info {
    const char *name;
    bool has_root, reduces, is_v;
};
const struct coll_info *coll_info(tutti_coll coll);

/* Bytes of this rank's IN and OUT buffers (0 where the rank has none, such as OUT of a gather
 * leaf or IN of a scatter leaf). In a v form: to the end of the last block. */
uint64_t coll_in_bytes(const struct shape *shape);
uint64_t coll_out_bytes(const struct shape *shape);
/* The size that tables print and the planner ranks by: the larger of the two buffers at root
 * (nccl-tests' size: allreduce count, allgather count * size, alltoall count * size ...). 0 where
 * counts are known only locally (gatherv, scatterv, alltoallv): every rank must get one answer. */
uint64_t coll_total_bytes(const struct shape *shape);
/* Block r of the partitioned buffer, as byte offset and length: OUT of allgather(v) and gather(v),
 * IN of reduce_scatter(v), scatter(v) and alltoall(v). For a collective that has no blocks
 * (allreduce, broadcast, reduce) the buffer is cut into `size` nearly equal blocks of whole
 * elements, the first (count mod size) one element longer. */
struct block {
    uint64_t off, len;
};
struct block coll_block(const struct shape *shape, uint32_t r);
/* Block r of alltoall(v)'s OUT. */
struct block coll_recv_block(const struct shape *shape, uint32_t r);
/* In place: IN byte 0 lies at OUT byte *delta (negative: OUT byte 0 lies at IN byte -*delta). */
int64_t coll_alias_delta(const struct shape *shape);

/* busbw = algbw * factor (nccl-tests' definitions). */
double coll_bus_factor(tutti_coll coll, uint32_t size);

/* Postcondition, for the simulator: what byte `off` of OUT at this rank must hold: the reduction
 * of IN byte in_off of all ranks, or a copy of that of one. The same holds for the `len` bytes from
 * off on, in_off growing along. false: no block has these len bytes; they must not change.
 * in_block: in_off counts from the start of the block that the source has for this rank (alltoall,
 * alltoallv, scatterv: only the source knows where that is: coll_block(its shape, this rank)). */
struct origin {
    bool all;        /* reduction over all ranks */
    uint32_t source; /* otherwise the one rank it comes from */
    bool in_block;
    uint64_t in_off, len;
};
bool coll_postcondition(const struct shape *shape, uint64_t off, struct origin *origin);

#endif
