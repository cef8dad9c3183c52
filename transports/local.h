/* local.h: what inproc and shm have in common: links made of rings (ring.h), the queues of posted
 * transfers, and their progress. The two differ in how a link comes to be and in how a receiver
 * reaches bytes that lie in place: two functions, called for long messages only.
 *
 *   local_send --> slot --> (peer) local_recv / local_poll --> apply: copy or reduce --> consumed
 *
 * A transfer of few bytes is written to the ring and done. A longer one is offered in place where
 * the link can (`refer`) and done when the peer has consumed its slot; else it goes through the
 * ring piece by piece. A receive takes from the ring only what matches its tag and length. */
#ifndef TRANSPORTS_LOCAL_H
#define TRANSPORTS_LOCAL_H

#include "transports/ring.h"

extern const struct transport_ops inproc_ops, shm_ops;

#define LOCAL_NOTICES    8 /* kept until asked for, for each link: a failure needs one or two */
#define LOCAL_STEP_BYTES (1u << 20) /* read in place per poll: ~0.1 ms, so aborts are seen */
#define LOCAL_PIECES     64u /* of a message through the ring, per poll: for the same reason */
/* From so many bytes on a message that is read in place has a turn of its own: what this rank sends
 * goes on between them, or each of two ranks that read much from each other waits for the other to
 * have read all that it was offered. */
#define LOCAL_TURN_BYTES (64u << 10)

struct local_link;

struct lane {
    struct local_link *link;
    uint32_t index;
    bool active;         /* in local.active */
    tutti_status broken; /* why nothing more is taken from this lane: an arrival did not match, or
                            could not be read; TUTTI_OK while all is well */

    /* outgoing: slots up to out_limit may be written; equal to out_next when none may */
    struct ring *out;
    uint8_t *out_data;
    uint32_t out_next, out_limit, out_mask;
    uint32_t out_seen;           /* the peer's consumed, as last read */
    uint64_t out_head, out_tail; /* bytes of data[] ever taken and given back */
    struct xfer *send_head, *send_last;
    struct xfer *send_cursor; /* first not wholly in the ring */

    /* incoming */
    struct ring *in;
    uint8_t *in_data;
    uint32_t in_next, in_mask;
    /* in_next at the last send and out_next at the last receive. Still the same at the next: data
     * flow one way, and lines are asked for ahead; in an exchange that would only take away what
     * the peer is about to write. */
    uint32_t in_then, out_then;
    uint64_t in_at; /* bytes of data[] passed */
    struct xfer *recv_head, *recv_last;
    bool in_busy;      /* the head receive has begun: in_first is its first slot */
    struct slot_copy { /* what the peer wrote, read once */
        uint32_t kind;
        uint64_t word[2];
    } in_first;

    uint64_t out_end[RING_SLOTS_MAX]; /* out_head after each slot */
};

struct local_link {
    uint32_t peer;
    struct pace pace;  /* of what is written to its rings */
    bool up;           /* rings are there */
    tutti_status down; /* TUTTI_OK, or why the link is down */
    bool report, told; /* LINK_DOWN still to be told; and whether it was */
    bool cut;          /* down by this rank, which aborted: the peer may still live */
    struct ring_shape shape;
    char sentence[SENTENCE_MAX];
    struct lane *lanes; /* [config->lanes] */
};

struct local;

struct local_ways {
    /* Offers xfer's bytes in place: fills kind and words, or returns false. */
    bool (*refer)(struct local *local, struct local_link *link, const struct xfer *xfer,
                  struct slot_copy *slot);
    /* Applies bytes [off, off + n) of what lane->in_first offers to xfer (local_apply). */
    tutti_status (*fetch)(struct local *local, struct lane *lane, struct xfer *xfer, size_t off,
                          size_t n);
};

/* First member of struct inproc and struct shm. */
struct local {
    struct transport base;
    const struct transport_config *config;
    struct local_ways ways;
    /* Longer messages are offered to refer first; the second holds for bytes that the sender waits
     * to overwrite, of which the peer cannot have an old copy worth keeping. */
    size_t eager_max, eager_fresh_max;
    struct local_link **links; /* [size]; NULL where there is none */
    struct local_link **made;  /* those there are, for looks at all: a rank has few of them */
    uint32_t made_count;
    struct lane **active; /* lanes with something posted */
    uint32_t active_count;
    struct xfer *done, *done_last;
    struct transport_stats stats;
    uint32_t cursor; /* of the round of unexpected arrivals: index in made * lanes + lane */
    uint32_t notice_first, notice_count, notice_room;
    struct local_notice {
        uint32_t peer;
        struct notice notice;
    } * notices; /* [notice_room], of which so many from the first are kept */
};

tutti_status local_init(struct local *local, const struct transport_ops *ops,
                        const struct transport_config *config, const struct local_ways *ways);
void local_free(struct local *local);

/* Gives link its lanes and puts it into local.links. link is zeroed memory, the first member of the
 * transport's own link. */
tutti_status local_link_init(struct local *local, struct local_link *link, uint32_t peer);
/* Undoes it; transfers that were posted are forgotten. */
void local_link_free(struct local *local, struct local_link *link);
/* The rings are there: out[l] and in[l] are those of lane l, `stride` bytes apart. */
void local_link_attach(struct local *local, struct local_link *link, const struct ring_shape *shape,
                       void *out, void *in, size_t stride);
/* Takes what has arrived, then ends every transfer left on the link. quiet: report it as an event
 * only if a transfer was left. */
void local_link_fail(struct local *local, struct local_link *link, tutti_status status, bool quiet,
                     const char *sentence);
/* Withdraws what was offered in place and drops every queue. True if something was withdrawn. */
bool local_link_drop(struct local *local, struct local_link *link);
/* As drop, for abort: the link is down afterwards, without an event. */
bool local_link_cancel(struct local *local, struct local_link *link);

tutti_status local_send(struct transport *transport, struct xfer *xfer);
tutti_status local_recv(struct transport *transport, struct xfer *xfer);
struct xfer *local_poll(struct local *local);

/* local_copy.c: writing, past the caches where the peer's core is far */
/* Copies or reduces n incoming bytes into place. */
void local_apply(struct xfer *xfer, size_t off, const void *bytes, size_t n);
/* Copies n bytes of a message to dst, a place in a ring. */
void local_fill(struct lane *lane, uint8_t *dst, const struct xfer *xfer, size_t off, size_t n);

void local_notice_keep(struct local *local, uint32_t peer, const struct notice *notice);
/* The next kept notice, link that went down, or unexpected arrival. */
bool local_event(struct local *local, bool restart, struct transport_event *event);
void local_stats(const struct transport *transport, struct transport_stats *stats);

/* Answers of transports that need no registration, no descriptor. */
bool local_takes(struct transport *transport, uint32_t peer, const void *memory, size_t len);
int local_wait_fd(struct transport *transport);
bool local_arm(struct transport *transport);

#endif
