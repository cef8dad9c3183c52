/* exec.h: runs plans over transports.
 *
 * A program is a plan made ready to run: its run state is allocated once, beside the plan, and
 * reused by every call with the same shape, so that a call allocates nothing. The programs of a
 * communicator are kept in a small cache. One program runs at a time on a communicator; point-to-
 * point transfers go beside it on a lane of their own. */
#ifndef SRC_EXEC_H
#define SRC_EXEC_H

#include "src/call.h"
#include "src/planner.h"

/* Transfers of a program posted per link and direction: enough to keep a pipeline full, a quarter
 * of TRANSPORT_POST_MAX. */
#define EXEC_POSTED_MAX 16
/* Transfers posted per peer and direction on the lane of send and recv. */
#define P2P_POSTED_MAX 48
/* Bytes of scratch that peers may read in place; larger scratch is mapped lazily. */
#define SCRATCH_SHARED_MAX (4u << 20)
/* Programs kept per communicator; the least recently used goes. */
#define PROGRAM_CACHE_MAX 128

struct tutti_comm;
struct operation;

/* What a plan depends on, besides the communicator. */
struct program_key {
    uint32_t coll, root;
    uint32_t elem_size, in_place;
    uint64_t count;
    uint64_t counts_hash; /* of the count arrays of v forms, 0 without */
};

struct exec_xfer {
    struct xfer xfer;        /* first: transports return these */
    struct operation *owner; /* of a point-to-point transfer; NULL: of the running program */
    uint32_t step;
};

/* One direction of one link of a program: steps wire[0 .. count) in order, posted up to next. */
struct exec_queue {
    const uint32_t *wire;
    uint32_t count, next, posted;
};

struct exec_link {
    struct transport *transport;
    const struct transport_ops *ops;
    struct exec_queue send, recv;
};

struct program {
    struct program_key key;
    struct plan plan;
    struct program *newer, *older, *chain; /* cache: age list, hash chain */
    uint64_t *counts;                      /* the v forms' arrays, copied; NULL without */
    struct tag tag;
    struct reducer reducer;
    uint32_t *waits;   /* [steps] predecessors still to come */
    uint32_t *initial; /* [steps] waits at the start */
    uint32_t *ready;   /* [steps] two stacks of steps that may run: locals up, transfers down */
    uint32_t ready_locals, ready_transfers;
    uint32_t *first_locals; /* local steps that wait for nothing */
    uint32_t first_local_count;
    uint32_t remaining; /* steps not done */
    uint32_t runnable;  /* steps that run at all (fused reductions do not) */
    uint64_t tag_count; /* word 1 of the tag */
    struct exec_link *links;
    struct exec_xfer *xfers; /* [steps] */
    char *bound[BUFFER_COUNT];
    bool is_bound;
};

/* The program for a call that call_check accepted: from the cache, or planned now. */
tutti_status exec_program(struct tutti_comm *comm, const struct call *call, bool in_place,
                          struct program **program);
void exec_cache_free(struct tutti_comm *comm);
void exec_scratch_free(struct tutti_comm *comm);

/* Starts it: binds buffers, posts what may be posted. tag and reducer are set by the caller. */
tutti_status exec_start(struct tutti_comm *comm, struct program *program, const void *in,
                        void *out);
/* A transfer of the running program ended well. */
tutti_status exec_finished(struct tutti_comm *comm, struct program *program,
                           struct exec_xfer *xfer);
static inline bool exec_done(const struct program *program)
{
    return program->remaining == 0;
}

#endif
