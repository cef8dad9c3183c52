/* schedule.h: a collective as a program of four operations, and the builder that writes it.
 *
 * An emitter appends steps in program order; reading them in order, one at a time, is a correct
 * execution. The builder derives from the bytes each step reads and writes which steps must wait
 * for which (read after write, write after read, write after write), so that an executor may run
 * any step whose predecessors are complete.
 *
 *   SEND   sends src to peer on lane       the k-th SEND on (peer, lane) meets the k-th RECV
 *   RECV   receives dst from peer          of the peer on (me, lane): matching is by position
 *   REDUCE dst = a op b, element by element; dst may equal a or b exactly
 *   COPY   dst = src
 *
 * Zero-length steps vanish. A step with peer == own rank is a mistake (use COPY). In place calls
 * (shape.in_place) are told to the builder once: IN and OUT spans are then the same memory, hazards
 * see that, and a COPY onto itself vanishes.
 *
 * Fusion, private to builder and executor: a RECV into SCRATCH whose bytes are read by exactly one
 * REDUCE, which reads exactly them, may be executed as one ("receive and reduce"). The builder
 * marks it when every other predecessor of the REDUCE comes earlier in the program than the RECV
 * and none of them is a SEND (two ranks that exchange in place would each wait for the other's
 * receive); edges of the REDUCE are then carried by the RECV. */
#ifndef ALGORITHMS_SCHEDULE_H
#define ALGORITHMS_SCHEDULE_H

#include "algorithms/coll.h"

enum buffer { BUFFER_IN, BUFFER_OUT, BUFFER_SCRATCH, BUFFER_COUNT };
enum step_kind { STEP_SEND, STEP_RECV, STEP_REDUCE, STEP_COPY };

#define STEP_NONE UINT32_MAX
/* Steps of one rank's program. The number is what a direct alltoall of 65,536 ranks needs (a send
 * and a receive per peer, one copy), doubled for pieces; emitters raise the chunk to stay below. */
#define SCHEDULE_STEPS_MAX 262144
#define LANES_MAX          8

struct span {
    uint64_t off, len; /* bytes */
    enum buffer buffer;
};

struct step {
    enum step_kind kind;
    uint32_t peer; /* SEND, RECV */
    uint32_t lane;
    uint32_t link;             /* index into schedule.links; SEND, RECV */
    struct span dst, a, b;     /* SEND: a; RECV: dst; COPY: dst, a; REDUCE: dst, a, b */
    uint32_t fused;            /* RECV: the REDUCE it carries out; REDUCE: the RECV that does; or
                                  STEP_NONE. A REDUCE with fused != STEP_NONE is never run. */
    uint32_t waits;            /* number of predecessors */
    uint32_t succ, succ_count; /* successors: schedule.successors[succ .. succ + succ_count) */
};

/* One (peer, lane): its sends and its receives in wire order. */
struct schedule_link {
    uint32_t peer, lane;
    uint32_t send, send_count; /* schedule.wire[send ..): step indices */
    uint32_t recv, recv_count;
};

struct schedule {
    struct step *steps;
    uint32_t step_count;
    uint32_t *successors;
    uint32_t successor_count;
    struct schedule_link *links; /* ordered by peer, then lane */
    uint32_t link_count;
    uint32_t *wire;
    uint64_t scratch_bytes;
};

struct builder;

/* shape gives rank, size and aliasing; borrowed until builder_finish or builder_free. */
tutti_status builder_new(const struct shape *shape, struct builder **builder);
void builder_free(struct builder *builder); /* NULL allowed */

static inline struct span span_of(enum buffer buffer, uint64_t off, uint64_t len)
{
    return (struct span){.off = off, .len = len, .buffer = buffer};
}
/* A fresh piece of scratch, 64-byte aligned. */
struct span build_scratch(struct builder *builder, uint64_t len);
/* Errors (too many steps, no memory) stick and are returned by builder_finish. */
void build_send(struct builder *builder, uint32_t peer, uint32_t lane, struct span src);
void build_recv(struct builder *builder, uint32_t peer, uint32_t lane, struct span dst);
void build_reduce(struct builder *builder, struct span dst, struct span a, struct span b);
void build_copy(struct builder *builder, struct span dst, struct span src);
/* Receive into a fresh scratch and reduce: dst = mine op theirs, or theirs op mine when the peer's
 * contribution is of lower ranks. The pair the fusion is for. */
void build_recv_reduce(struct builder *builder, uint32_t peer, uint32_t lane, struct span scratch,
                       struct span dst, struct span mine, bool theirs_first);

/* Derives hazards, fuses, freezes. TUTTI_ERR_UNSUPPORTED: more than SCHEDULE_STEPS_MAX steps, which
 * the planner answers with a larger chunk. Takes the builder in every case. Everything of the
 * schedule is one allocation: schedule_free. */
tutti_status builder_finish(struct builder *builder, struct schedule **schedule);
void schedule_free(struct schedule *schedule); /* NULL allowed */
/* Checks one program alone: spans inside their buffers, peers and lanes in range, edges forward,
 * links consistent. TUTTI_ERR_INTERNAL with the step and the fact. */
tutti_status schedule_check(const struct schedule *schedule, const struct shape *shape);
/* Text dump, one step a line; returns the length the whole text has. */
size_t schedule_dump(const struct schedule *schedule, char *text, size_t len);

#endif
