/* exec.h: runs plans over transports.
 *
 * A program is a plan made ready to run: its run state is allocated once, beside the plan, and
 * reused by every call with the same shape, so that a call allocates nothing. The programs of a
 * communicator are kept in a small cache. One program runs at a time on a communicator; point-to-
 * point transfers go beside it on a lane of their own. */
#ifndef SRC_EXEC_H
#define SRC_EXEC_H

#include "mem/device.h"
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
    uint32_t on_device, by_nic;
    uint64_t count;
    uint64_t counts_hash; /* of the count arrays of v forms, 0 without */
};

/* Where the bytes of a send lie: what travels in their place when they are device memory. The
 * receiver's device reads them there, and then acknowledges with an empty transfer. */
struct exec_offer {
    struct mem_share share;
    uint64_t address, len;
};

struct exec_xfer {
    struct xfer xfer;        /* first: transports return these */
    struct operation *owner; /* of a point-to-point transfer; NULL: of the running program */
    uint32_t step;
    bool is_ack; /* an acknowledgement (exec_device.c) */
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

/* Whose places a communicator's queue has in device memory: half are for the receives of a plan,
 * hence so many ranks at most; a quarter each for its local steps, and for sends and receives. */
#define EXEC_DEVICE_RANKS_MAX  (QUEUE_TICKETS_MAX / 2 / EXEC_POSTED_MAX)
#define EXEC_DEVICE_LOCALS_MAX (QUEUE_TICKETS_MAX / 4)
#define P2P_DEVICE_MAX         (QUEUE_TICKETS_MAX / 4)

/* The rest of a program that works in device memory. Its transfers carry offers, or the bytes
 * themselves (exec_nic.c); its local steps and what its receives do are work in the communicator's
 * queue, done in the order started. */
struct exec_device {
    struct exec_nic *nic;      /* NULL: offers */
    struct exec_offer *offers; /* [steps] */
    struct exec_xfer *acks;    /* [steps] */
    struct exec_work {
        uint64_t ticket;
        uint32_t step;
    } * works; /* [steps], a ring: under way, or (nic) still to be started, EXEC_WORK_LISTED */
    uint32_t first, count;
    struct mem_share shares[BUFFER_COUNT];
    tutti_op op; /* of the reduction: what dynamic operations come to */
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
    uint64_t scratch_bytes;     /* that are touched at all */
    bool outgrows_caches;       /* one run touches more than this rank's share of the caches */
    bool floods_caches;         /* six times as much, or more */
    struct pace pace[2];        /* of what it writes to out: sums, copies */
    struct exec_device *device; /* NULL: host memory */
};

/* The program for a call that call_check accepted: from the cache, or planned now. */
tutti_status exec_program(struct tutti_comm *comm, const struct call *call, bool in_place,
                          struct program **program);
/* Whether the count arrays of a v form, which are the caller's and may change, say what they said
 * when the program was made. */
bool exec_same_counts(const struct tutti_comm *comm, const struct program *program,
                      const struct call *call);
void exec_cache_free(struct tutti_comm *comm);

/* What a call will take that is carried out in device memory: pieces of work, at most; bytes of the
 * largest; scratch. Plans it if need be, beside the program that runs; one caller at a time. */
struct exec_demand {
    uint32_t works;
    uint64_t bytes, scratch_bytes;
};
tutti_status exec_demand(struct tutti_comm *comm, const struct call *call,
                         struct exec_demand *demand);
/* Makes so much scratch in device memory for programs to come, beside the one that runs; one caller
 * at a time. */
tutti_status exec_offer_scratch(struct tutti_comm *comm, uint64_t bytes);
void exec_scratch_free(struct tutti_comm *comm);

/* Starts it: binds buffers, posts what may be posted. tag and reducer are set by the caller. */
tutti_status exec_start(struct tutti_comm *comm, struct program *program, const void *in,
                        void *out);
/* A transfer of the running program ended well. */
tutti_status exec_finished(struct tutti_comm *comm, struct program *program,
                           struct exec_xfer *xfer);
/* Posts what may be posted and runs what may run. */
tutti_status exec_advance(struct tutti_comm *comm, struct program *program, struct exec_link *link,
                          struct exec_queue *queue);
void exec_step_done(struct program *program, uint32_t step);

#define EXEC_WORK_LISTED UINT64_MAX /* a work's ticket until it is started */

/* exec_device.c: the same for device memory. */
tutti_status exec_device_new(struct program *program);
void exec_device_free(struct program *program);
/* What peers need to reach the allocation that holds the bytes. */
tutti_status exec_device_share(const struct tutti_comm *comm, const void *bytes,
                               struct mem_share *share);
/* Binds offers to the buffers' shares. */
tutti_status exec_device_bind(const struct tutti_comm *comm, struct program *program);
/* Starts a local step in the queue. False in *started when the queue is full. */
tutti_status exec_device_local(struct tutti_comm *comm, struct program *program, uint32_t step,
                               bool *started);
/* The offer of a step was sent or came, or its acknowledgement came. */
tutti_status exec_device_transfer(struct tutti_comm *comm, struct program *program,
                                  struct exec_xfer *xfer);
/* Ends the steps whose work is done. True if any. */
bool exec_device_poll(struct tutti_comm *comm, struct program *program);
/* What exec_nic.c shares: a work at the end of the list, and the index-th; a local step put into
 * the queue (ticket 0: nothing to do); the end of a transfer's last part; the device failed. */
void exec_device_add_work(struct program *program, uint32_t step, uint64_t ticket);
struct exec_work *exec_device_work(struct program *program, uint32_t index);
tutti_status exec_device_start(struct tutti_comm *comm, struct program *program, uint32_t step,
                               uint64_t *ticket);
tutti_status exec_device_over(struct tutti_comm *comm, struct program *program, uint32_t step);
tutti_status exec_device_failed(struct tutti_comm *comm, tutti_status status);
/* Starts what an offer that came from a peer asks for, in comm_queue(): a copy to dst,
 * or with a reducer dst = incoming op other. */
struct exec_arrival {
    const struct exec_offer *offer;
    uint32_t peer;
    const struct tag *tag;
    uint64_t len; /* expected */
    void *dst;
    const struct reducer *reducer;
    tutti_op op;
    const void *other;
    bool incoming_first;
};
tutti_status exec_device_fetch(struct tutti_comm *comm, const struct exec_arrival *arrival,
                               uint64_t *ticket);
/* To be asked when that is done, before anything follows from it: was the peer's memory what it had
 * offered? If its call failed meanwhile the caller there may have put it to another use, which no
 * device notices. Whoever fails, of itself or told by another, tells its peers before its call
 * returns, and what it told is at once where the peer looks (of ranks on one host). The look comes
 * after the last byte was read, so if nothing was told by then, no byte was read too late. A rank
 * that died is known by its link, which takes no acknowledgement. About 1 us. */
tutti_status exec_device_was_read(struct tutti_comm *comm);

/* exec_nic.c: device memory that adapters reach. */
tutti_status exec_nic_new(struct program *program);
void exec_nic_free(struct exec_nic *nic);
void exec_nic_bind(struct program *program);
/* May the transfer at the queue's head be handed to its transport now? */
tutti_status exec_nic_ready(struct tutti_comm *comm, struct program *program,
                            struct exec_link *link, const struct exec_queue *queue, bool *ready);
/* The transfer was done as soon as it was posted: true when nothing follows it. */
bool exec_nic_at_once(struct program *program, uint32_t step);
tutti_status exec_nic_transfer(struct tutti_comm *comm, struct program *program, uint32_t step);
tutti_status exec_nic_local(struct tutti_comm *comm, struct program *program, uint32_t step);
tutti_status exec_nic_work_done(struct tutti_comm *comm, struct program *program, uint32_t step);
/* Starts what is listed, as far as the queue has room. */
tutti_status exec_nic_start_works(struct tutti_comm *comm, struct program *program);
/* A send or receive: before it is posted, and when it has ended. What no adapter takes is copied
 * first (TUTTI_IN_PROGRESS), or last (not over); exec_nic_copied comes then. */
tutti_status exec_nic_post(struct tutti_comm *comm, struct operation *op);
tutti_status exec_nic_ended(struct tutti_comm *comm, struct operation *op, bool *over);
/* Starts its copy; the copy is done, and it goes on. */
tutti_status exec_nic_copy(struct tutti_comm *comm, struct operation *op);
void exec_nic_copied(struct tutti_comm *comm, struct operation *op);

static inline bool exec_done(const struct program *program)
{
    return program->remaining == 0;
}

#endif
