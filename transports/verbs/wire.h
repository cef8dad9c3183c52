/* wire.h: what the verbs transport puts on the wire. Hosts of a job have one byte order.
 *
 *   message (SEND)    | header 40 | data of an EAGER or PIECE, grant of a GRANT, counts of a CREDIT
 * | chunk             RDMA write with immediate  | lane 3 | number 13 | chunk 16 | iWARP has no
 * immediate: RDMA write, then a message WRITTEN with that word control           sealed, of one
 * length, over the link's socket (see struct wire_control)
 *
 * Every length and number is compared with a local bound before it is believed. */
#ifndef TRANSPORTS_VERBS_WIRE_H
#define TRANSPORTS_VERBS_WIRE_H

#include "base/seal.h"
#include "transports/transport.h"
#include "transports/verbs/choose.h"

#define WIRE_MAGIC   0x53425654u /* "TVBS" */
#define WIRE_VERSION 6u

enum wire_kind {
    WIRE_HELLO = 1, /* the first message of a queue pair: its way works */
    WIRE_EAGER,
    WIRE_PIECE,
    WIRE_ASK,
    WIRE_GRANT,
    WIRE_CREDIT,
    WIRE_WRITTEN,
    WIRE_PATH_DEAD /* the control message DEAD, over a path that is alive: the socket may be cut */
};

struct wire_header {
    uint8_t kind, lane;
    uint16_t seq;
    uint16_t freed; /* receive slots of this queue pair, posted again so far */
    uint16_t taken; /* of this lane's eager messages and pieces */
    uint64_t len;   /* of the whole transfer; WRITTEN: the immediate word */
    struct tag tag;
};
_Static_assert(sizeof(struct wire_header) == 40, "no padding");

struct wire_grant {
    uint64_t address;
    uint64_t counter; /* of the mask */
    uint32_t pieces, reserved;
    uint8_t keys[SEAL_MASK_LEN]; /* remote keys, one per rail, masked */
};

/* header.len: 1 asks for one in return, at once. */
struct wire_credit {
    uint16_t taken[TRANSPORT_LANES_MAX];
    uint32_t received; /* over this path, all that was sent counted */
};

/* PATH_DEAD: header.len is what was received. */
struct wire_path_dead {
    uint32_t path, round;
    char text[72]; /* why, in words */
};

#define WIRE_MESSAGE_MIN 128 /* a slot holds any message without data */
#define WIRE_DATA_OFFSET sizeof(struct wire_header)

static inline uint32_t wire_word(uint32_t lane, uint16_t seq, uint32_t chunk)
{
    return lane << 29 | (uint32_t)(seq & 0x1fff) << 16 | chunk;
}

/* ---- control ----------------------------------------------------------------------------------
 */

enum wire_control_kind {
    WIRE_OFFER = 1, /* queue pairs of the sender, one per path */
    WIRE_READY,     /* the sender's queue pairs can receive */
    WIRE_DEAD,    /* a path failed; `received`: what came in on it, after which nothing more will */
    WIRE_STOPPED, /* the sender was cancelled: nothing more moves */
    WIRE_BYE,     /* the sender closes: all it sent is sent; `counts`: how much, what it took in */
    WIRE_DATA,    /* a message over the socket, in place of a queue pair's; its body follows */
    WIRE_ASK_COUNT, /* what came in on a path? */
    WIRE_COUNT      /* `received` did, when this was asked */
};

/* One queue pair. */
struct wire_path {
    uint32_t qpn; /* 0: could not be made */
    uint32_t psn;
    uint8_t gid[16];
    uint16_t lid;
    uint16_t window; /* receives posted */
    uint8_t mtu;     /* enum ibv_mtu */
    uint8_t global;  /* a choose_rail's */
    uint8_t reserved[2];
    uint16_t knock_port; /* nobody listens there: it refuses at once; 0: none */
    uint16_t cm_port;    /* of the rail's listener, when connected by the connection manager */
    uint16_t cm_family;
    uint8_t cm_address[16];
    uint8_t cm_token[16];
};

/* Of one queue pair, of the path's round, modulo 2^32: what came in (all before it is delivered),
 * and what went out. */
struct wire_count {
    uint32_t round, received, sent;
};

struct wire_control {
    uint32_t magic, version, kind;
    uint32_t path; /* DEAD, COUNT, and of paths made again OFFER and READY; WIRE_ALL_PATHS: all */
    uint32_t received, reserved; /* DEAD, COUNT: as a wire_count's */
    uint32_t slot_len, window, chunk, path_count, cm, lanes;
    uint32_t alive;             /* READY: bit per path */
    uint32_t round;             /* of the path, counted up each time it is made again */
    char text[128];             /* DEAD: why, in words */
    struct wire_header message; /* DATA */
    uint64_t body_len;          /* DATA: bytes that follow */
    struct wire_path paths[CHOOSE_PATHS_MAX];
    struct wire_count counts[CHOOSE_PATHS_MAX]; /* BYE */
};
#define WIRE_ALL_PATHS   0xffffffffu
#define WIRE_CONTROL_LEN (sizeof(struct wire_control) + SEAL_OVERHEAD)

#endif
