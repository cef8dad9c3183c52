/* flow.h: one lane of a link: which message goes next, and what an arrival means. Pure: no device,
 * no memory registration, no clock; transfer.c carries out what this decides.
 *
 * The k-th send of a lane meets its k-th receive; k modulo 2^16 is in every message. Both ends
 * know the length of a transfer, so both know its way without asking:
 *
 *   at most eager_max bytes                longer
 *   sender            receiver             sender              receiver
 *     EAGER k, data -->                       <-- GRANT k, len, tag, address, key    (recv posted)
 *                                             chunk 0, 1, ... (RDMA write, any order) -->
 *
 * A sender whose long message waits for its grant asks (ASK k, len, tag), once, so that the
 * receiver learns what has come (and whether they disagree) although it posted another length.
 * Where memory cannot be registered a long message travels in pieces, each like an eager message:
 * PIECE k, data, in order.
 *
 * Eager messages and pieces may arrive before their receive is posted; they are held, at most
 * `window` of them: that is what the sender's credit counts.
 *
 * Invariants: sends and receives end in order; a receive is written to by the peer only while it
 * is granted and not ended; at most FLOW_POSTED_MAX transfers of a direction are open. */
#ifndef TRANSPORTS_VERBS_FLOW_H
#define TRANSPORTS_VERBS_FLOW_H

#include "transports/transport.h"
#include "transports/verbs/credit.h"

#define FLOW_POSTED_MAX TRANSPORT_POST_MAX
#define FLOW_WINDOW_MAX 64                    /* messages that may be held per lane */
#define FLOW_HELD_MAX   (FLOW_WINDOW_MAX + 1) /* and an ASK */
#define FLOW_CHUNKS_MAX 65536u /* of one transfer: the chunk's number travels in 16 bits */
#define FLOW_KEYS_MAX   4      /* one per rail */
#define FLOW_SEQ13(seq) ((uint16_t)((seq)&0x1fff))

/* What a receiver offers for one receive. */
struct flow_grant {
    bool valid;
    bool pieces; /* the memory is not registered: send pieces */
    uint16_t seq;
    uint64_t len, address;
    struct tag tag;
    uint32_t key[FLOW_KEYS_MAX];
};

/* An arrival without a receive. */
struct flow_held {
    uint16_t seq;
    bool ask;
    uint32_t slot; /* where its bytes lie, unless it is an ASK */
    uint64_t len;
    struct tag tag;
};

enum flow_kind {
    FLOW_NOTHING, /* nothing can go now */
    FLOW_EAGER,
    FLOW_PIECE,
    FLOW_ASK,
    FLOW_CHUNK
};

/* The next message of a lane. */
struct flow_step {
    enum flow_kind kind;
    struct xfer *xfer;
    const struct flow_grant *grant; /* of a chunk */
    uint16_t seq;
    uint32_t chunk;
    uint64_t offset;
    size_t len;
};

enum flow_verdict {
    FLOW_TAKE,     /* it belongs to *xfer: copy it there, then flow_landed */
    FLOW_HOLD,     /* no receive yet: the slot is kept */
    FLOW_NOTED,    /* nothing to copy */
    FLOW_MISMATCH, /* the ranks disagree; *xfer says about what; the lane is broken */
    FLOW_NONSENSE  /* no peer of ours sends this */
};

struct flow {
    /* The limits of the link. */
    size_t eager_max, chunk;
    /* Sending: [send_done, send_at) is wholly on its way, [send_at, send_next) is not. */
    uint16_t send_done, send_at, send_next;
    bool asked;     /* for send_at */
    bool disagrees; /* the grant for send_at fits another transfer: nothing more is sent here */
    struct credit_sender window;
    struct xfer *sends[FLOW_POSTED_MAX];
    struct flow_grant grants[FLOW_POSTED_MAX];
    /* Receiving: [recv_done, recv_next) are posted; those before recv_granted need no grant more.
     */
    uint16_t recv_done, recv_granted, recv_next;
    bool broken;
    struct credit_receiver taken; /* held or passed on, and free again */
    struct xfer *recvs[FLOW_POSTED_MAX];
    uint32_t held_begin, held_end; /* counts; entries modulo FLOW_HELD_MAX */
    struct flow_held held[FLOW_HELD_MAX];
};

/* What flow keeps in xfer->work while the transfer is open. */
enum { FLOW_WORK_MOVED, FLOW_WORK_OPEN, FLOW_WORK_REGION, FLOW_WORK_FLAGS };
#define FLOW_FLAG_PIECES  1u /* send: in pieces, whatever the grant says */
#define FLOW_FLAG_DONE    2u
#define FLOW_FLAG_GRANTED 4u

/* Until the link is up transfers may be posted, and nothing else is called. Then come the limits:
 * chunk is a power of two. */
void flow_limit(struct flow *flow, size_t eager_max, size_t chunk, uint16_t window);
/* Bytes of a chunk of a transfer of len bytes: the link's, doubled until FLOW_CHUNKS_MAX do. */
size_t flow_chunk_len(size_t chunk, uint64_t len);

/* ---- sending ---- */
void flow_send(struct flow *flow, struct xfer *xfer);
/* What goes next; may_ask: a long message has waited long enough for its grant. */
struct flow_step flow_next(struct flow *flow, bool may_ask);
/* The step is on its way. Chunks count as open until flow_sent_acked. */
void flow_advance(struct flow *flow, const struct flow_step *step);
/* One chunk of the send with this number can be sent no more or has arrived. */
void flow_chunk_acked(struct flow *flow, uint16_t seq);
/* A grant came in. FLOW_NOTED or FLOW_NONSENSE. */
enum flow_verdict flow_granted(struct flow *flow, const struct flow_grant *grant);
/* The next send that has ended, in order; NULL: none. */
struct xfer *flow_sent(struct flow *flow);

/* ---- receiving ---- */
void flow_recv(struct flow *flow, struct xfer *xfer);
/* Something is held for the oldest receive that has nothing yet: as flow_arrived. False: nothing.
 * *held is the arrival, gone from the queue. */
bool flow_recall(struct flow *flow, struct flow_held *held, enum flow_verdict *verdict,
                 struct xfer **xfer);
/* An EAGER, PIECE or ASK came in. piece_len: bytes in the slot. */
enum flow_verdict flow_arrived(struct flow *flow, const struct flow_held *arrival, bool piece,
                               size_t bytes, struct xfer **xfer);
/* Where a chunk lies that the peer says is written: FLOW_TAKE with its place, or FLOW_NONSENSE. */
enum flow_verdict flow_written(struct flow *flow, uint16_t seq13, uint32_t chunk,
                               struct xfer **xfer, uint64_t *offset, size_t *len);
/* len bytes of the receive are where they belong. */
void flow_landed(struct flow *flow, struct xfer *xfer, size_t len);
/* The oldest receive that waits for its grant, NULL: none; flow_did_grant once it is out. */
struct xfer *flow_wants_grant(struct flow *flow, uint16_t *seq);
void flow_did_grant(struct flow *flow);
/* The next receive that has ended, in order. */
struct xfer *flow_received(struct flow *flow);
/* The head of the lane is an arrival without a receive. */
bool flow_unexpected(const struct flow *flow, struct tag *tag, size_t *len);

#endif
