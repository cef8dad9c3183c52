/* tcp.h: the parts of the TCP transport, as its files see them: tcp.c (the operations, progress,
 * events), tcp_lane.c (one socket's stream of frames), tcp_control.c (notices, goodbyes, the end
 * of a link), tcp_connect.c (links, dialing, the handshake), tcp_accept.c (connections that come
 * in), tcp_address.c (listening, addresses).
 *
 *   struct tcp -- links[peer] --> tcp_link -- lanes[] --> tcp_lane   one data socket each
 *        |                           |----- control --> tcp_control  one socket
 *        |                           '----- hands ----> tcp_hand     sockets still being made
 *        '-- incoming[] (tcp_hand): accepted, not yet known to be a peer
 *
 * Readiness: every socket is registered once with epoll, edge triggered. Gathering events only
 * sets flags in the sources; acting on them comes later, so nothing is freed under a loop. */
#ifndef TRANSPORTS_TCP_H
#define TRANSPORTS_TCP_H

#include "base/auth.h"
#include "base/sock.h"
#include "transports/tcp_frame.h"
#include "transports/transport.h"

extern const struct transport_ops tcp_ops;

#define TCP_ADDRESSES_MAX  4   /* interfaces offered to peers; fits the address in its 512 bytes */
#define TCP_CANDIDATES_MAX 8   /* of a peer: one that is link-local counts for each interface */
#define TCP_INCOMING_MAX   128 /* unproven connections at once; more wait in the kernel's backlog */
#define TCP_BACKLOG        4096
#define TCP_NOTICES_MAX    8           /* queued per link; a failure needs one or two */
#define TCP_BUFFER_LEN     (16u << 10) /* per lane: reads many small frames with one call */
/* A piece stays in the second-level cache between landing and reduction. */
#define TCP_WINDOW_LEN (64u << 10)
#define TCP_DIRECT_MAX 4  /* lanes read without asking epoll; one more call costs 0.3 us */
#define TCP_IDLE_POLLS 16 /* polls without epoll before the quiet sockets are looked at */

enum tcp_kind { TCP_LISTENER, TCP_HAND, TCP_LANE, TCP_CONTROL, TCP_TIMER, TCP_KINDS };

/* What epoll knows of a descriptor; the first member of whatever owns it. */
struct tcp_source {
    enum tcp_kind kind;
    bool readable, writable;
};

struct tcp_queue {
    struct xfer *head, *tail;
};

struct tcp_lane {
    struct tcp_source source;
    int fd; /* -1 until the handshake is done */
    struct tcp_link *link;
    uint32_t index;
    struct tcp_queue recvs, sends;
    struct tcp_lane *next_recv, **prev_recv; /* of the lanes with posted receives */
    struct tcp_lane *next_send, **prev_send; /* of the lanes with unfinished sends */
    bool ended;                              /* nothing more comes from the socket */
    int error;                               /* why; 0: closed by the peer */
    tutti_status broken; /* nothing more is received here: a mismatch, or an abort */
    /* The frame whose payload is being received. */
    bool in_frame;
    uint64_t len, landed, reduced;
    uint8_t *window; /* where pieces of a receive with a reduction land */
    uint8_t *buffer; /* bytes [begin, end) are received and not yet parsed */
    uint32_t begin, end;
};

struct tcp_control {
    struct tcp_source source;
    int fd;
    uint32_t have, out_begin, out_end;
    bool notice_ready; /* in[] holds a whole notice that event() has not yet returned */
    uint8_t in[TCP_CONTROL_MAX];
    uint8_t out[(TCP_NOTICES_MAX + 1) * TCP_CONTROL_MAX]; /* + 1: room for the goodbye */
};

enum tcp_stage {
    TCP_STAGE_NONE,
    TCP_STAGE_DIAL,   /* dialer: connection under way */
    TCP_STAGE_HELLO,  /* waits for the other's hello (dialer: and proof) */
    TCP_STAGE_PROOF,  /* listener: waits for proof and join */
    TCP_STAGE_ACCEPT, /* dialer: waits for the word of acceptance */
    TCP_STAGE_READY,  /* dialer: done, waits for the other lanes */
    TCP_STAGE_WATCH   /* knocker: it has said who waits; the end of the socket may be that of the
                       * dialer, at whom it is in this stage too */
};

/* A socket in its handshake. */
struct tcp_hand {
    struct tcp_source source;
    int fd;
    enum tcp_stage stage;
    struct sock_address address; /* dialed, or accepted from */
    struct auth auth;
    uint64_t since_ms;    /* accepted */
    uint64_t deadline_ms; /* dialed: for the stage */
    uint32_t have, want, out_begin, out_end;
    uint8_t in[TCP_HAND_MAX], out[TCP_HAND_MAX];
};

enum tcp_link_state { TCP_LINK_MAKING, TCP_LINK_UP, TCP_LINK_ENDED };

struct tcp_link {
    struct tcp *tcp;
    struct tcp_link *next, **prev;
    uint32_t peer;
    enum tcp_link_state state;
    bool wanted;          /* connect was called on this side too */
    bool bye;             /* the peer closed on purpose */
    bool unread;          /* closing: the peer had sent what nobody received */
    bool down, down_told; /* to be reported by event(), and whether it was */
    tutti_status status;  /* once ended, with the sentence */
    char sentence[SENTENCE_MAX];
    struct sock_address address; /* of the peer, as used; for sentences */
    uint64_t linger_ms;          /* ended: when lanes that do not say so count as ended too */
    /* While being made. */
    struct sock_address candidates[TCP_CANDIDATES_MAX];
    uint32_t candidate_count, at, round;
    uint32_t refusals, dead_rounds;       /* since a connection was last established */
    uint8_t nonce[8];                     /* of the peer's listener */
    uint64_t attempt, give_up_ms, act_ms; /* act_ms: next dial or knock; 0: one is under way */
    tutti_status cause_status;
    char cause[SENTENCE_MAX]; /* of the last failed attempt */
    /* Dialer: one for each candidate, and once one is chosen lanes, then control; listener: one, to
     * knock with. */
    struct tcp_hand *hands;
    bool chosen;
    struct tcp_control control;
    uint8_t *buffers;
    struct tcp_lane lanes[];
};

struct tcp_listener {
    struct tcp_source source;
    int fd;
    struct sock_address bound;
};

struct tcp {
    struct transport base;
    const struct transport_config *config;
    char secret[65]; /* in hexadecimal */
    uint8_t nonce[8];
    int owner; /* the process that opened it: a forked child only closes its copies */
    int epoll, timer;
    struct tcp_source timer_source;
    struct sock_interface interfaces[SOCK_INTERFACES_MAX];
    size_t interface_count;
    struct tcp_listener listeners[TCP_ADDRESSES_MAX];
    uint32_t listener_count;
    struct tcp_link **links; /* [size] */
    struct tcp_link *all;    /* those that exist */
    struct tcp_lane *recv_lanes, *send_lanes;
    uint32_t recv_lane_count, idle_polls;
    struct tcp_queue done;
    bool attention[TCP_KINDS]; /* some source of that kind has news */
    bool cancelled;
    uint64_t timer_ms; /* the next deadline of tcp_connect_service; 0: none */
    uint64_t cursor;   /* of the round of unexpected arrivals */
    uint64_t attempts;
    bool *knocked;             /* [size] that wait to be dialed */
    struct tcp_hand *incoming; /* [TCP_INCOMING_MAX] */
    uint32_t incoming_count;
    struct transport_stats stats;
};

/* ---- tcp.c ---- */
const char *tcp_peer_name(const struct tcp *tcp, uint32_t peer);
/* Registers or re-registers a descriptor: source is flagged when there is news. */
tutti_status tcp_watch(struct tcp *tcp, int fd, struct tcp_source *source, bool again);
/* Takes the descriptor out of epoll and closes it; *fd becomes -1. (A forked child may hold a
 * copy, so closing alone would leave it registered.) */
void tcp_close_fd(struct tcp *tcp, int *fd);
void tcp_gather(struct tcp *tcp);
void tcp_timer_before(struct tcp *tcp, uint64_t when_ms);
/* The end of a transfer: the next poll returns it. */
void tcp_finish(struct tcp *tcp, struct xfer *xfer, tutti_status status);

/* ---- tcp_lane.c ---- */
void tcp_queue_add(struct tcp_queue *queue, struct xfer *xfer);
struct xfer *tcp_queue_take(struct tcp_queue *queue);
/* The lane lists of struct tcp follow the queues; called after a queue changed. */
void tcp_lane_relist(struct tcp_lane *lane);
/* Reads as much as the posted receives and the socket allow. */
void tcp_lane_receive(struct tcp_lane *lane);
/* Writes as much of the queued sends as the socket takes. */
void tcp_lane_send(struct tcp_lane *lane);
/* TUTTI_OK: all written; TUTTI_IN_PROGRESS: xfer->work[0] bytes are; else the lane failed. */
tutti_status tcp_lane_write(struct tcp_lane *lane, struct xfer *xfer);
/* Is a frame without a receive at the head of the lane? */
bool tcp_lane_unexpected(struct tcp_lane *lane, struct tag *tag, size_t *len);
/* Ends all queued transfers of one direction. */
void tcp_lane_fail_recvs(struct tcp_lane *lane, tutti_status status);
void tcp_lane_fail_sends(struct tcp_lane *lane, tutti_status status);

/* ---- tcp_control.c ---- */
/* Ends the link (once) with a sentence; sends end now, receives when their lane runs dry. */
void tcp_link_end(struct tcp_link *link, tutti_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Ended link: from now on, its lanes may be silent for a while before they count as ended too. */
void tcp_link_linger(struct tcp_link *link);
/* A socket of the link ended with this errno (0: closed by the peer). */
void tcp_link_lost(struct tcp_link *link, int error);
/* A transfer met a link that ended: makes sure that this is reported, and returns the status. */
tutti_status tcp_link_refuse(struct tcp_link *link);
void tcp_control_read(struct tcp_link *link);
/* Queues a message; TUTTI_IN_PROGRESS when there is no room. */
tutti_status tcp_control_put(struct tcp_link *link, enum tcp_control_kind kind,
                             const struct notice *notice);
void tcp_control_flush(struct tcp_link *link);
/* Says goodbye on all links that are up, or on one, without closing them. */
void tcp_control_farewell(struct tcp *tcp, struct tcp_link *only, uint64_t deadline_ms);

/* ---- tcp_address.c ---- */
tutti_status tcp_listen(struct tcp *tcp);
void tcp_address_write(const struct tcp *tcp, uint8_t *address, size_t *len);
/* Reads a peer's address; false when it is none. count may be 0: no address of a usable family. */
struct tcp_peer_address {
    struct sock_address list[TCP_CANDIDATES_MAX];
    uint32_t count;
    uint8_t nonce[8];
};
bool tcp_address_read(const struct tcp *tcp, const void *address, size_t len,
                      struct tcp_peer_address *out);
/* ---- tcp_accept.c ---- */
/* New connections and the handshakes of strangers. */
void tcp_accept_service(struct tcp *tcp, uint64_t now_ms);
/* Drops the strangers that have said nothing, for their descriptors; false when there are none. */
bool tcp_accept_make_room(struct tcp *tcp);

/* ---- tcp_connect.c ---- */
/* What both sides of a handshake prove that they belong to: the communicator and the listener. */
void tcp_job_of(const struct tcp *tcp, const uint8_t nonce[8], uint8_t job[16]);
/* The next stage: first `say` bytes of out[] go out, then `want` bytes come to in[]. */
void tcp_hand_next(struct tcp_hand *hand, enum tcp_stage stage, uint32_t say, uint32_t want);
/* Writes and reads what the stage needs: TUTTI_OK when it has it all. */
tutti_status tcp_hand_move(struct tcp_hand *hand);
/* The link to a peer, made if there is none. */
tutti_status tcp_link_get(struct tcp *tcp, uint32_t peer, struct tcp_link **link);
/* Closes the sockets and frees the link; queued transfers must be gone. */
void tcp_link_free(struct tcp_link *link);
void tcp_link_begin(struct tcp_link *link, const struct tcp_peer_address *address);
/* The peer said GO: every socket of the link is in place. */
void tcp_link_go(struct tcp_link *link);
/* Listener: forgets the sockets of an attempt that the dialer gave up. */
void tcp_link_drop_attempt(struct tcp_link *link);
/* Everything that has to do with making links: news from sockets, and time. */
void tcp_connect_service(struct tcp *tcp);

#endif
