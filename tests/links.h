/* links.h: a small world of ranks for tests of transports. One function runs as every rank, as
 * threads of this process or as processes of their own; the world itself lies in memory that all
 * of them share, so that ranks can meet and count what is wrong. */
#ifndef TESTS_LINKS_H
#define TESTS_LINKS_H

#include <stdatomic.h>

#include "tests/suite.h"
#include "transports/transport.h"

#define LINKS_RANKS_MAX 256
#define LINKS_PLACES    16
#define LINKS_FOUND_MAX 16
#define LINKS_LIMIT_MS  30000 /* of a wait; where bytes move, until none do for so long */

struct links_world {
    const struct transport_ops *ops;
    uint32_t size, lanes;
    bool processes, crowded; /* crowded: more ranks than cores */
    struct settings settings;
    const char *fault;    /* NULL: not wrapped; "" wraps without a fault */
    void (*before)(void); /* NULL, or what each process does before it opens its transport */
    uint64_t seed;
    int number; /* free for the test */
    _Atomic uint32_t wrong, complaints, arrived[LINKS_PLACES];
    _Atomic int flags[LINKS_PLACES]; /* free for the test */
    _Atomic int pids[LINKS_RANKS_MAX];
    /* links_moved, as each saw it last, and the links that it has asked for since */
    _Atomic uint64_t moved[LINKS_RANKS_MAX];
    uint8_t secret[LINKS_RANKS_MAX][32];
    size_t address_len[LINKS_RANKS_MAX];
    uint8_t address[LINKS_RANKS_MAX][TRANSPORT_ADDRESS_MAX];
    char names[LINKS_RANKS_MAX][32];
    const char *name_list[LINKS_RANKS_MAX];
};

struct links_rank {
    struct links_world *world;
    struct transport *transport;
    const struct transport_ops *ops; /* the wrapper's, when wrapped */
    uint32_t rank;
    struct transport_config config;
    bool complained;
    /* Events that a complaint found: links_event gives them first. */
    struct transport_event found[LINKS_FOUND_MAX];
    uint32_t found_count;
};

typedef void links_fn(struct links_rank *rank);

/* Ranks' worlds of one secret and default settings, or with TUTTI_TEST_TRANSPORT (hosts.h) those of
 * the environment; links_run frees it. */
struct links_world *links_world_new(const char *transport, uint32_t size, uint32_t lanes);
/* Runs the function as every rank, with open before and close after it (unless it set transport
 * to NULL), and asserts that nothing was wrong. */
void links_run(struct links_world *world, links_fn *function);

/* What is wrong, and which links are down; once for each rank, since the rest follows from that. */
void links_complain(struct links_rank *rank, const char *file, int line, const char *what);
#define links_expect(rank, fact)                                                                   \
    ((fact) ? (void)0 : links_complain(rank, __FILE__, __LINE__, #fact))

/* A machine may be slow, but what hangs moves nothing: true once no rank has moved any byte for
 * LINKS_LIMIT_MS of the looks. Begins as {0}. */
struct links_patience {
    uint64_t next_ms, moved;
    unsigned idle;
};
bool links_out(const struct links_rank *rank, struct links_patience *patience);
/* The bytes and pieces that this rank has moved so far. */
uint64_t links_moved(const struct links_rank *rank);

/* `ranks` ranks meet here; each place is used once. Progress is made meanwhile. */
void links_meet(struct links_rank *rank, int place, uint32_t ranks);
void links_connect(struct links_rank *rank, uint32_t peer);
void links_connect_all(struct links_rank *rank);

extern const struct tag links_tags[2];
struct xfer links_xfer(uint32_t peer, void *data, size_t len);
/* A limit below LINKS_LIMIT_MS is of the time in which this rank looks: where the machine has other
 * things to do, a step from one look to the next counts as on an idle one. */
/* Polls until the transfer is done, at most limit_ms. */
tutti_status links_finish(struct links_rank *rank, struct xfer *xfer, uint64_t limit_ms);
tutti_status links_send(struct links_rank *rank, struct xfer *xfer);
tutti_status links_recv(struct links_rank *rank, struct xfer *xfer);
/* Waits for an event of a kind; others are passed over. */
bool links_event(struct links_rank *rank, enum transport_event_kind kind, uint64_t limit_ms,
                 struct transport_event *event);

/* Connects all, and sends random messages both ways over all links and lanes; every byte is checked
 * (links_traffic.c). */
void links_traffic(struct links_rank *rank);

#endif
