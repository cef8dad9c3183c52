/* verbs.h: the parts of the verbs transport, as its files see them.
 *
 *   verbs.c     the three tables, the operations of the contract, progress, events
 *   device.c    finding ports; a port in use (a rail): context, protection domain, queues
 *   memory.c    registered memory
 *   gpu.c       the same of GPUs
 *   path.c      one queue pair: slots, posting, completions
 *   errand.c    what the kernel may take long for: connecting one, destroying one
 *   link.c      links: how they come up, fail over to other paths, and end
 *   offer.c     how their ends agree on queue pairs
 *   silence.c   a rail of iWARP that falls silent
 *   control.c   what the ends of a link say to each other over the side transport
 *   transfer.c  carries out what flow.c decides: messages, grants, chunks, credits
 *   choose.c, distance.c, flow.c, credit.h, ring.h   the pure parts
 *   connect.c   queue pairs connected by the connection manager
 *   relay.c     the path of last resort: the side transport's socket
 *
 *   struct verbs -- rails[] ---> verbs_rail    one port: completion queue, protection domain
 *        |-- links[peer] ------> verbs_link -- paths[] --> verbs_path   one queue pair on one rail
 *        |                           '-------- flows[lane]
 *        '-- side -------------> a TCP transport of one lane: beside the data it carries what
 *                                makes and ends queue pairs, notices, and the sign of life of the
 *                                peer, which a reliable connection gives only while it sends
 *
 * All lanes of a link share its paths. A lane's messages take one path, its home, in order; chunks
 * of long messages take all paths in turn. Every message and chunk uses up one receive of the
 * peer's queue pair, in order; so when a path fails, one number says what had arrived, and the
 * rest is sent again over another path. */
#ifndef TRANSPORTS_VERBS_VERBS_H
#define TRANSPORTS_VERBS_VERBS_H

#include <stdatomic.h>

#include "transports/verbs/flow.h"
#include "transports/verbs/library.h"
#include "transports/verbs/ring.h"
#include "transports/verbs/wire.h"

#define VERBS_BATCH       32 /* work requests per doorbell */
#define VERBS_SIGNAL_EACH 24 /* one completion per so many work requests in a stream */
#define VERBS_RESERVE     2  /* receives of the peer, and places here, kept for CREDIT messages */
#define VERBS_COUNT_EACH  12 /* over iWARP the peer is told what came in after so many messages */
#define VERBS_SPARE       32 /* receives beyond those that may be held */
#define VERBS_RING_SLOTS  52 /* of the send ring: two batches of the longest messages */
#define VERBS_CONTROLS    24 /* control messages of a link on their way */
#define VERBS_REGIONS_MAX 4096
#define VERBS_CHUNK_MIN   4096
/* For ever. The peer always has a receive posted, but its device says "not ready" too while it
 * pages in what is written, which has no bound. A peer that is gone says nothing, which
 * TUTTI_VERBS_RETRY counts. */
#define VERBS_RNR_RETRY 7

struct verbs;
struct verbs_link;

/* One port in use. */
struct verbs_rail {
    struct verbs *verbs;
    uint32_t index;
    char name[72]; /* "rxe0 port 1" */
    uint8_t port;
    bool down;           /* no new path is made over it */
    atomic_bool gone;    /* and never will: its device is lost, which refuses everything */
    atomic_bool relaxed; /* the device takes memory that it may write in relaxed order */
    bool paging;         /* and memory of data, sent or written, whose pages it fetches on demand */
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_comp_channel *channel;
    uint64_t rnr_retries; /* of the port, before this transport was opened */
    uint32_t cq_len, cq_used, max_cqe, max_sge, max_qp_rd_atom;
    struct rdma_cm_id *listeners[CHOOSE_GIDS_MAX]; /* on each of its addresses */
    int refusers[CHOOSE_GIDS_MAX]; /* where there is a listener: see connect_knock; -1: none */
};

/* Registered memory. */
enum verbs_region_kind {
    VERBS_REGION_LIBRARY,
    VERBS_REGION_EXPLICIT,
    VERBS_REGION_ONCE,
    VERBS_REGION_DEVICE /* of a GPU; without registrations: it cannot be registered */
};
enum verbs_access { VERBS_ACCESS_SEND, VERBS_ACCESS_RECEIVE, VERBS_ACCESSES };
struct verbs_region {
    struct verbs_region *next, **prev;
    enum verbs_region_kind kind;
    uint64_t id; /* LIBRARY, DEVICE: of the allocation */
    uintptr_t begin, end;
    uint32_t uses;
    atomic_bool stale;           /* found no more; to be released after the last use */
    bool pinned[VERBS_ACCESSES]; /* registered on every rail that was not gone then */
    struct ibv_mr *mr[CHOOSE_RAILS_MAX][VERBS_ACCESSES];
};

enum verbs_path_state {
    VERBS_PATH_NONE,   /* no queue pair */
    VERBS_PATH_MAKING, /* waits for the peer's offer, or for the connection manager */
    VERBS_PATH_TRYING, /* connected on this side: HELLOs are under way */
    VERBS_PATH_UP,
    VERBS_PATH_DRAINING, /* failed: until every receive came back */
    VERBS_PATH_DRAINED,  /* waits to hear what arrived at the peer */
    VERBS_PATH_RESENDING
};

/* A message or chunk that may not have arrived. */
struct verbs_record {
    uint8_t kind; /* enum wire_kind; WIRE_WRITTEN: a chunk */
    uint8_t lane;
    uint8_t requests; /* work requests */
    bool signalled;
    uint16_t seq;
    uint32_t chunk;
    uint32_t ring_at, ring_len, len; /* in the send ring; len: of the message */
};

struct verbs_path {
    struct verbs_link *link;
    struct verbs_rail *rail;
    uint32_t index, slot_in_table, generation;
    uint32_t round; /* counted up each time the path is made again */
    uint32_t kept;  /* slots that hold messages without a receive */
    bool relayed;   /* over the socket, see relay.c */
    struct choose_path choice;
    enum verbs_path_state state;
    struct ibv_qp *qp;
    struct errand *errand; /* the kernel is at work on the queue pair, see errand.c */
    uint32_t psn;
    struct wire_path peer;
    bool peer_ready, hello_sent, hello_came, hello_acked, peer_dead;
    bool closed;                       /* the queue pair is: the socket has a moment to say why */
    bool dead_due;                     /* DEAD is still to be said: there was no place */
    uint32_t peer_received, peer_sent; /* by its word when the path failed; when it left */
    uint32_t hello_asks;               /* answers of a peer whose HELLO has not come */
    uint64_t since_ms;                 /* of the state, where time matters */
    uint32_t failure;                  /* the how manieth of the link it was */
    char why[SENTENCE_MAX];
    /* Memory: receive slots, then the send ring. */
    uint8_t *memory, *plain;
    size_t memory_len;
    struct ibv_mr *mr;
    uint32_t slot_len, slot_count;
    /* Receiving. */
    uint32_t posted;   /* receives at the device */
    uint32_t received; /* count of messages and chunks, modulo 2^32 */
    uint32_t told;     /* of these, to the peer, which over iWARP has to know */
    bool chunk_came;   /* since it was told */
    bool asked;        /* the peer for a count that covers all up to asked_at: this side leaves */
    uint32_t asked_at;
    struct credit_receiver freed;
    /* Sending. */
    struct credit_sender credit;
    struct verbs_record *records; /* [depth] */
    uint32_t depth, first, last;  /* counts: records [first, last) are open */
    uint32_t completed;           /* and the device has those from here on */
    uint32_t requests;            /* open work requests */
    uint32_t since_signal, signals, open_chunks, idle_flushes;
    /* The record that has been open for longest, since when, see silence.c. */
    uint32_t waits_for, silences;
    uint64_t waits_ms; /* 0: there is none */
    bool question_open;
    struct ring ring;
    uint32_t inline_max;
    /* The chain of the next doorbell. */
    uint32_t staged;
    struct ibv_send_wr wr[VERBS_BATCH + 1];
    struct ibv_sge sge[VERBS_BATCH + 1];
    /* By the connection manager. */
    struct rdma_cm_id *id;
    uint32_t redials;
    uint8_t token[16]; /* of this side's offer */
};

enum verbs_link_state { VERBS_LINK_MAKING, VERBS_LINK_UP, VERBS_LINK_ENDED };

struct verbs_control {
    struct xfer xfer, body;
    uint32_t busy; /* of the two, those under way */
    /* When both are sent, a chunk has arrived. */
    bool acks;
    uint8_t lane;
    uint16_t seq;
    uint8_t bytes[WIRE_CONTROL_LEN];
};

struct verbs_link {
    struct verbs *verbs;
    struct verbs_link *next, **prev;
    uint32_t peer;
    enum verbs_link_state state;
    bool work; /* pump has something to do */
    bool bye, stopped, offered, ready_due, awaits_body;
    bool fallback; /* both sides allow TCP where no rail works */
    bool down, down_told;
    tutti_status status; /* once ended, with the sentence */
    char sentence[SENTENCE_MAX];
    uint64_t since_ms;         /* of the state */
    uint64_t revive_ms;        /* the next look at paths that failed */
    uint64_t revive_wait_ms;   /* between looks: longer after each attempt, until one succeeds */
    uint64_t left_ms;          /* the peer closed: the end, once what it sent has come in */
    uint64_t doomed_ms;        /* no path is left: the end, unless the socket says why before */
    uint32_t slot_len, window; /* offered to the peer */
    uint32_t failures;
    uint32_t heir;   /* see link_heir */
    uint64_t grants; /* counter of masks */
    uint8_t home[TRANSPORT_LANES_MAX];
    uint16_t asks[TRANSPORT_LANES_MAX]; /* pumps that a long send waited for its grant */
    struct verbs_control in, out[VERBS_CONTROLS];
    struct relay *relay;
    uint32_t peer_window;
    uint32_t path_count;
    struct verbs_path paths[CHOOSE_PATHS_MAX + 1]; /* the last: relayed */
    struct flow flows[];                           /* [lanes] */
};

struct verbs {
    struct transport base;
    const struct transport_config *config;
    enum choose_layer layer;
    bool cm;         /* connect by the connection manager */
    int owner;       /* the process that opened it */
    int epoll, wake; /* wake: errands that end make it readable */
    struct seal *seal;
    const struct library *library;
    struct transport *side;
    struct transport_config side_config;
    bool software;        /* a rail's device is: it needs the processors that wait for it */
    uint32_t idle_polls;  /* since it brought something */
    uint32_t quiet_polls; /* since the last look at what is not data */
    uint64_t quiet_ticks;
    bool cancelled, polling, noticed;
    struct transport_event notice; /* noticed: the side transport's, to be told */
    struct xfer *instant;          /* the transfer being posted: it may end at once */
    uint32_t making;               /* links not yet up */
    uint32_t relays;               /* links that have a path over the socket */
    struct choose_ports ports;
    uint32_t rail_count;
    struct verbs_rail rails[CHOOSE_RAILS_MAX];
    struct rdma_event_channel *cm_channel;
    uint32_t slot_len, window, chunk;
    struct verbs_link **links; /* [size] */
    struct verbs_link *all;
    struct verbs_path **paths; /* by slot_in_table */
    uint32_t path_slots, generation;
    struct verbs_region *regions;
    atomic_uint region_count;
    _Atomic(struct verbs_region *) memory_added; /* by any thread, and not in the list yet */
    atomic_ullong registrations;
    uint64_t memory_generation;
    atomic_bool memory_forgotten; /* a region is stale that was not looked at since */
    atomic_bool short_told;       /* that memory cannot be locked */
    unsigned gpu_told;
    uint8_t *staging; /* a piece of GPU memory on its way into a slot; made when needed */
    struct xfer *done, **done_tail;
    uint64_t events_ms; /* the next look at the devices' events */
    uint64_t cursor;    /* of the round of unexpected arrivals */
    struct transport_stats stats;
};

const char *verbs_peer_name(const struct verbs *verbs, uint32_t peer);
/* The end of a transfer: the next poll returns it. */
void verbs_finish(struct verbs *verbs, struct xfer *xfer, tutti_status status);

/* ---- scan.c ---- */
/* A port that serves. */
struct verbs_found {
    struct choose_order order; /* the first member: what is sorted by */
    struct ibv_context *context;
    uint8_t port;
    struct choose_rail rail;
};
/* Finds the ports that the settings and the layer allow; device_take gets the best first. verbs
 * NULL: only looks. TUTTI_ERR_UNSUPPORTED when there is none, TUTTI_ERR_SETTING when the settings
 * ask for what is not there; the sentence says what was found. When there are some, and none can be
 * opened: that error, or with TUTTI_VERBS_FALLBACK none, and no rail. */
tutti_status scan_ports(const struct settings *settings, enum choose_layer layer,
                        struct verbs *verbs);
/* Is there a port of the layer? why gets the reason if not. */
bool scan_probe(const struct settings *settings, enum choose_layer layer, char *why, size_t len);
/* The port's addresses have changed: looks where those that peers know are in its table now, and
 * for its LID. Paths that are made from now on use what it finds. */
void scan_again(struct verbs_rail *rail);
/* The layer of a port; none where the device has no reliable connections (AWS's EFA, Cisco's
 * usNIC): its port has no link layer either, as that of old InfiniBand. */
enum choose_layer scan_layer(const struct ibv_context *context, const struct ibv_port_attr *attr);

/* ---- device.c ---- */
/* Opens what scan_ports finds; verbs->ports describes it to peers. Errors: those of scan_ports. */
tutti_status device_open(struct verbs *verbs);
/* One of them, or none where there are enough. An error leaves it out, and the log says why. */
tutti_status device_take(struct verbs *verbs, const struct verbs_found *found);
void device_close(struct verbs *verbs);
void device_close_context(const struct library *library, struct ibv_context *context);
/* Room for so many completions more. */
tutti_status device_grow(struct verbs_rail *rail, uint32_t completions);
/* Reads asynchronous events; a port that went down or vanished, and one whose completion queue is
 * lost, ends its paths. The descriptors of one that vanished, which are in error from then on, are
 * watched no more. */
void device_events(struct verbs *verbs);
/* The port's count of answers "receiver not ready"; 0 where the device has none. */
uint64_t device_rnr_retries(const struct verbs_rail *rail);
tutti_status device_nonblocking(int fd); /* and marks it (base/owned.h) */

/* ---- memory.c ---- */
/* The region that covers the bytes, registered on every rail that is not gone, in use until
 * memory_release. TUTTI_ERR_NOMEM when it cannot be registered, TUTTI_ERR_SYSTEM when a device is
 * lost, of which no event was read yet: the caller copies through slots. */
tutti_status memory_use(struct verbs *verbs, const void *data, size_t len, enum verbs_access access,
                        struct verbs_region **region);
void memory_release(struct verbs *verbs, struct verbs_region *region);
/* What the user registers, in any thread. *region NULL: nothing is to be done for it. */
tutti_status memory_add(struct verbs *verbs, void *data, size_t len, struct verbs_region **region);
void memory_remove(struct verbs *verbs, struct verbs_region *region);
/* Gives it back: inside, or in any thread, for which memory_sweep releases it. */
void memory_forget(struct verbs *verbs, struct verbs_region *region);
/* Releases what is gone and not in use; cheap when nothing is. */
void memory_sweep(struct verbs *verbs);
void memory_free_all(struct verbs *verbs);
/* A region with nothing registered yet. */
tutti_status memory_note(struct verbs *verbs, enum verbs_region_kind kind, const void *data,
                         size_t len, uint64_t id, struct verbs_region **region);
/* The sentence for what the rail cannot do, from errno: a registration that failed, or a queue,
 * since devices may have to lock the memory of these too. */
tutti_status memory_fail(const struct verbs_rail *rail, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- gpu.c ---- */
/* As `takes` of the contract. */
bool gpu_takes(struct verbs *verbs, uint32_t peer, const void *memory, size_t len);
/* The region of a transfer that is about to be posted, in use from now on; NULL: host memory. */
tutti_status gpu_hold(struct verbs *verbs, const struct xfer *xfer, struct verbs_region **held);
/* Has the link open transfers of GPU memory? Then the socket is no way to go on: refuse_socket ends
 * it. */
bool gpu_is_open(const struct verbs_link *link);
tutti_status gpu_refuse_socket(struct verbs_link *link);

/* ---- path.c ---- */
/* A queue pair with its memory, receives posted. */
tutti_status path_make(struct verbs_path *path);
void path_free(struct verbs_path *path);
void path_describe(const struct verbs_path *path, struct wire_path *wire);
/* Begins to connect it with what the peer offered. */
tutti_status path_connect(struct verbs_path *path, const struct wire_path *peer);
/* Receives posted: what the peer may send. */
void path_receive(struct verbs_path *path);
/* Releases the queue pair; memory stays, because slots may still be held. One that is being
 * connected goes when that ends. */
void path_drop(struct verbs_path *path);
/* The same of one that failed, which may take the kernel long: nobody waits for it. */
void path_give_up(struct verbs_path *path);
void path_destroyed(struct verbs_path *path); /* by errand.c */
/* A receive slot is free again. */
void path_repost(struct verbs_path *path, uint32_t slot);
/* One that was kept is. */
void path_release(struct verbs_path *path, uint32_t slot);
const struct wire_header *path_slot(const struct verbs_path *path, uint32_t slot);
/* Looks at the completions of a rail; true if there were any. */
bool path_poll(struct verbs_rail *rail);
/* The oldest open record, as delivered or not. */
void path_pop(struct verbs_path *path, bool delivered);
/* So many arrived at the peer, by its count. False when it counts what was never sent. */
bool path_arrived(struct verbs_path *path, uint32_t received);
/* Moves the queue pair to the error state, so that nothing more comes in. */
void path_stop(struct verbs_path *path);
bool path_alive(const struct verbs_path *path);
/* The wr_id of a work request: by it its completion finds the path, and the slot or record. */
uint64_t path_work_id(const struct verbs_path *path, bool receive, uint32_t what);

/* ---- path_send.c ---- */
/* The first message, with a completion of its own. */
void path_hello(struct verbs_path *path);
/* Is there room for a message of len bytes (0: a chunk)? spare: so many CREDIT messages have room
 * after it. Over iWARP both ends may be full, and only the other's count empties one. */
bool path_room(const struct verbs_path *path, size_t len, uint32_t spare);
/* Stages a message: header, then body_len bytes of body (copied). Needs room. */
void path_message(struct verbs_path *path, struct wire_header *header, const void *body,
                  size_t body_len);
/* Stages an RDMA write of a chunk. */
void path_chunk(struct verbs_path *path, uint32_t lane, const struct flow_step *step);
/* Stages a CREDIT message; asks: for one in return. Needs room. */
void path_credit(struct verbs_path *path, bool asks);
/* Rings the doorbell for what is staged. */
void path_flush(struct verbs_path *path);
/* True when all that was sent has arrived. Asks for a completion, or the peer, if need be. */
bool path_settled(struct verbs_path *path);

/* ---- errand.c ---- */
/* Begins to connect the path's queue pair with what the peer offered. */
tutti_status errand_connect(struct verbs_path *path);
/* The same by the connection manager, which knows the way by now. */
tutti_status errand_dial(struct verbs_path *path, const struct rdma_conn_param *param);
/* Begins to destroy it. False: no memory. */
bool errand_destroy(struct verbs_path *path);
/* Ends the errand, once: how it went, errno with it. TUTTI_IN_PROGRESS while the kernel is at it,
 * unless the caller waits, as a link's end does: a second at most. */
tutti_status errand_end(struct verbs_path *path, bool wait);
/* Whether one has ended since the last such question. */
bool errand_any_ended(struct verbs *verbs);

/* ---- offer.c ---- */
#define VERBS_REVIVE_MS 250 /* before a failed path is made again; then twice as long */
/* Offers one path, or WIRE_ALL_PATHS. */
void offer_send(struct verbs_link *link, uint32_t path);
/* The lower rank: makes paths that failed a while ago again, and offers them. */
void offer_again(struct verbs_link *link, uint64_t now);
/* Looks whether the kernel is done with the path's queue pair, or waits for that. */
void offer_go_on(struct verbs_path *path, bool wait);
void offer_take(struct verbs_link *link, const struct wire_control *offer);
void offer_take_ready(struct verbs_link *link, const struct wire_control *ready);

/* ---- link.c ---- */
/* Makes the link and its queue pairs, and offers them to the peer. */
tutti_status link_begin(struct verbs *verbs, uint32_t peer, const struct choose_ports *ports);
void link_free(struct verbs_link *link);
bool link_busy(const struct verbs_link *link);
/* Ends the link, once: every transfer ends with the status. */
void link_end(struct verbs_link *link, tutti_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
tutti_status link_refuse(struct verbs_link *link);
/* A path is of no more use, for the reason given. */
void link_path_failed(struct verbs_path *path, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void link_path_up(struct verbs_path *path);
/* A path's queue pair is connected on this side. */
void link_path_connected(struct verbs_path *path);
void link_path_drained(struct verbs_path *path);
/* The peer says so, over another path. */
void link_path_dead(struct verbs_link *link, const struct wire_path_dead *word, uint64_t received);
/* Control messages, the side transport's news, time. */
void link_service(struct verbs *verbs);
/* If no path is up and none will be, the link is about to end. */
void link_look_for_doom(struct verbs_link *link);
/* The path that takes over what others lose: the first that is up, and then the same one for as
 * long as it is up. What was lost, and then what is new of the lanes that were at home there, must
 * not overtake on another path what has gone already. NULL: none is up. */
struct verbs_path *link_heir(struct verbs_link *link);
/* What dead paths carried goes over others. */
void link_resend(struct verbs_link *link);
/* Forgets every transfer and stops the queue pairs; notices still go. */
void link_cancel(struct verbs_link *link);
/* A control message came. */
void link_take(struct verbs_link *link, const struct wire_control *control);
/* Is a path in a state from low to high? */
bool link_any_path(const struct verbs_link *link, enum verbs_path_state low,
                   enum verbs_path_state high);
/* The peer has taken in so many messages of the path. */
void link_take_count(struct verbs_path *path, uint32_t received);
/* Delivers what has come in; before a link ends, what came before that. */
void link_take_arrivals(struct verbs *verbs);

/* ---- farewell.c ---- */
/* The peer closes in order. */
void farewell_taken(struct verbs_link *link, const struct wire_control *bye);
/* The socket ended after the peer's goodbye: the link does, once what it sent has come in; look
 * for that from time to time. */
void farewell_ended(struct verbs_link *link);
void farewell_look(struct verbs_link *link, uint64_t now);
/* Waits until what was sent has arrived, at most 3 s; then says goodbye. only: one link, NULL: all.
 */
void farewell_say(struct verbs *verbs, struct verbs_link *only);

/* ---- silence.c ---- */
/* Now and then: has what was sent over the path waited too long to be counted by the peer? */
void silence_look(struct verbs_path *path, uint64_t now);
/* The peer asks so; it answers. */
void silence_asked(struct verbs_link *link, const struct wire_control *question);
void silence_answered(struct verbs_link *link, const struct wire_control *answer);

/* ---- control.c ---- */
/* Sends a control message; NULL: there is no place, or the side transport refuses it, and what came
 * before tells why. A relayed one's body follows at once. */
struct verbs_control *control_send(struct verbs_link *link, struct wire_control *control);
void control_send_body(struct verbs_link *link, struct verbs_control *out, const void *body,
                       size_t len);
/* So many of its parts are sent now. */
void control_sent(struct verbs_link *link, struct verbs_control *out, uint32_t parts);
/* Chunks that were relayed and are sent count as arrived. */
void control_take_acks(struct verbs_link *link);
/* Takes what is there, and waits for the next. */
void control_receive(struct verbs_link *link);
void control_receive_body(struct verbs_link *link, struct xfer *xfer, void *place, size_t len);
/* The link has ended, perhaps for another reason than its socket's end: no body of a chunk is read
 * from memory, or written to it, that is the caller's again. */
void control_cut(struct verbs_link *link);
/* Transfers of the side transport that ended. */
void control_poll(struct verbs *verbs);
/* Takes the side transport's events until one is a notice; restart as for event(). */
void control_look_aside(struct verbs *verbs, bool restart);

/* ---- relay.c ---- */
/* One more path for the link, which is up at once. */
tutti_status relay_open(struct verbs_link *link);
void relay_close(struct verbs_link *link);
bool relay_room(const struct verbs_path *path, uint32_t spare);
void relay_message(struct verbs_path *path, struct wire_header *header, const void *body,
                   size_t len);
void relay_free_slot(struct verbs_path *path, uint32_t slot);
/* A DATA message came; false when it makes no sense. */
bool relay_arrived(struct verbs_link *link, const struct wire_control *control);
/* Its body came. */
void relay_body(struct verbs_link *link);
/* Is that the receive of a body? */
bool relay_awaits(const struct verbs_link *link, const struct xfer *xfer);

/* ---- transfer.c ---- */
/* The counts of a header; false when they make no sense. */
bool transfer_reports(struct verbs_path *path, const struct wire_header *header);
/* A chunk lies at its place. */
void transfer_landed(struct verbs_link *link, uint32_t lane, struct xfer *xfer, uint64_t offset,
                     size_t len);
/* Sends what can be sent on all lanes. */
void transfer_pump(struct verbs_link *link, bool may_ask);
void transfer_pump_lane(struct verbs_link *link, uint32_t lane, bool may_ask);
/* A message came in; true when its slot stays in use. */
bool transfer_arrived(struct verbs_path *path, uint32_t slot, size_t len);
/* A chunk is written. */
void transfer_written(struct verbs_path *path, uint32_t word);
/* A receive was posted: takes what is held for it. */
void transfer_recall(struct verbs_link *link, uint32_t lane);
/* Hands over what has ended on a lane. */
void transfer_retire(struct verbs_link *link, uint32_t lane);
/* Ends every transfer of the link with a status. */
void transfer_fail_all(struct verbs_link *link, tutti_status status);
/* Sends the record again, on another path; false: no room now. */
bool transfer_resend(struct verbs_path *dead, const struct verbs_record *record);

/* ---- connect.c ---- */
tutti_status connect_open(struct verbs *verbs);
void connect_close(struct verbs *verbs);
/* An empty datagram between two addresses of GIDs, so that the kernel learns the peer's hardware
 * address. When it asks for that on behalf of a queue pair or of the connection manager, and the
 * answer comes before it listens, it looks again only when its time is up (addr.c of its ib_core):
 * seen at the first contact of two ranks each on two hosts, every time. False: none was sent. */
bool connect_greet(const uint8_t own[16], const uint8_t peer[16]);
/* A socket that begins to connect to the address that the path is about to be connected to; -1:
 * none. It goes to a port that a socket of the peer has and does not listen on: the answer is a
 * refusal, at once. The manager's own port is none to knock at: Linux 7.2 crashes in siw when the
 * listener is destroyed after a connection that said nothing. */
int connect_knock(const struct verbs_path *path);
void connect_describe(const struct verbs_path *path, struct wire_path *wire);
/* The lower rank dials. */
tutti_status connect_dial(struct verbs_path *path);
void connect_drop(struct verbs_path *path);
/* The errand that dialed could not connect, by errno. */
void connect_failed(struct verbs_path *path);
void connect_events(struct verbs *verbs);

#endif
