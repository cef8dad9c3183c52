/* tcp.h: what the two halves of the TCP transport share: tcp_connect.c makes links, tcp.c moves
 * bytes over them. A link is one socket per lane and one control socket, which carries notices and
 * whose end means that the peer is gone. */
#ifndef TRANSPORTS_TCP_H
#define TRANSPORTS_TCP_H

#include "base/auth.h"
#include "base/sock.h"
#include "transports/transport.h"

#define TCP_ADDRESSES_MAX 4    /* interface addresses a rank offers */
#define TCP_PENDING_MAX   64   /* incoming connections not yet authenticated, at a time */
#define TCP_HANDSHAKE_MS  2000 /* bound on the handshake of one connection */
#define TCP_DIAL_MS       1000 /* an address that does not answer by then gives way to the next */
#define TCP_BUFFER        (32u << 10) /* read-ahead per lane: many small frames per system call */
#define TCP_NOTICES_MAX   16 /* outgoing notices per link; more are dropped: the first tell why */

extern const struct transport_ops tcp_ops;

/* Every message: this header, little endian, then len bytes. */
struct tcp_frame {
    uint32_t magic, reserved;
    uint64_t len;
    uint64_t tag[3];
};
#define TCP_FRAME_MAGIC 0x31665454u /* "TTf1" */
_Static_assert(sizeof(struct tcp_frame) == 40, "the wire format has no padding");

/* Follows the proof of the side that dials. */
struct tcp_intro {
    uint32_t rank, lane; /* lane == config->lanes: the control socket */
};

struct tcp_address {
    uint32_t count;
    uint32_t reserved;
    struct tcp_endpoint {
        uint16_t family; /* 4 or 6 */
        uint16_t port;
        uint32_t scope;
        uint8_t bytes[16];
    } at[TCP_ADDRESSES_MAX];
};

struct tcp_link;

enum tcp_stage { TCP_DIALING, TCP_HELLO, TCP_PROOF, TCP_READY };

/* One socket on its way up. */
struct tcp_handshake {
    struct auth auth;
    enum tcp_stage stage;
    uint64_t deadline_ms;
    uint8_t in[AUTH_HELLO_LEN + AUTH_PROOF_LEN + sizeof(struct tcp_intro)];
    uint32_t have;
    bool server;
    char from[SOCK_TEXT_MAX]; /* server: for the log */
};

struct tcp_lane {
    struct tcp_link *link;
    uint32_t index;
    int fd;         /* -1: none */
    bool up, ended; /* ended: the peer's stream is over */
    bool readable, writable;
    bool active;                     /* in tcp.active */
    tutti_status broken;             /* nothing more is taken: a mismatch, a foreign stream */
    struct tcp_handshake *handshake; /* while it comes up */

    struct xfer *send_head, *send_last;
    struct tcp_frame out;
    uint64_t out_done; /* of header and body of send_head */

    struct xfer *recv_head, *recv_last;
    bool in_body;
    struct tcp_frame in;
    uint64_t in_done, in_applied; /* bytes of the body landed, and reduced */
    uint8_t *buffer;              /* read ahead: [begin, end) */
    uint32_t begin, end;
};

struct tcp_link {
    uint32_t peer;
    bool dials;
    bool down, reported; /* reported: the event was given */
    tutti_status status;
    char sentence[SENTENCE_MAX];
    struct tcp_address address;
    uint32_t attempt;    /* index of the address in use, by preference */
    uint64_t give_up_ms; /* bound on making the link */
    uint64_t retry_ms;   /* dial again at this time; 0: now under way */
    char last_error[SENTENCE_MAX];
    struct tcp_lane *lanes; /* [lanes + 1]; the last is the control socket */
    struct notice *notices_out;
    uint32_t notice_count;
    uint64_t notice_done; /* bytes of the first one sent */
    struct notice notice_in;
    uint64_t notice_have;
};

struct tcp {
    struct transport base;
    const struct transport_config *config;
    char secret[65];
    uint8_t job[16];
    int epoll;
    int owner; /* pid */
    int listeners[TCP_ADDRESSES_MAX];
    uint32_t listener_count;
    struct tcp_address address;
    struct sock_interface interfaces[SOCK_INTERFACES_MAX];
    size_t interface_count;
    struct tcp_link **links; /* [size] */
    uint32_t coming_up;      /* lanes not up yet */
    struct tcp_lane *pending[TCP_PENDING_MAX];
    uint32_t pending_count;
    struct tcp_lane **active;
    uint32_t active_count;
    uint64_t polls;
    struct xfer *done, *done_last;
    uint32_t event_link, event_lane; /* of the round of unexpected arrivals */
    struct transport_stats stats;
};

/* tcp.c */
void tcp_link_fail(struct tcp *tcp, struct tcp_link *link, tutti_status status,
                   const char *sentence);
void tcp_lane_up(struct tcp *tcp, struct tcp_lane *lane);

/* tcp_connect.c */
tutti_status tcp_listen(struct tcp *tcp);
void tcp_unlisten(struct tcp *tcp);
tutti_status tcp_link_open(struct tcp *tcp, uint32_t peer, const struct tcp_address *address);
void tcp_link_close(struct tcp *tcp, struct tcp_link *link);
/* Accepts, dials, shakes hands: whatever can go on. `lane` NULL: a listener is readable. */
void tcp_accept(struct tcp *tcp, int listener);
void tcp_handshake_step(struct tcp *tcp, struct tcp_lane *lane);
/* Deadlines and dials that are due. */
void tcp_service(struct tcp *tcp, uint64_t now_ms);

#endif
