/* shm.h: ranks that are processes of one host: what the files of this transport share.
 *
 *   shm.c         the table: open, close, address, connect, poll, event
 *   shm_packet.c  what a link's socket carries
 *   shm_link.c    how a link is made, and how its end is noticed
 *   shm_memory.c  the link's rings, memory read in place, cross-memory attach
 *
 * A link is one sealed memory file with the rings of all lanes, made by the rank that dials (the
 * lower one) and passed over a Unix socket with an abstract name, so that nothing is left behind in
 * any file system. The socket stays open: it carries notices and the descriptors of memory regions,
 * and its end of file says that the peer is gone.
 *
 *   dialer  HELLO {rank, proof, rings' descriptor} -->  acceptor
 *           <-- ANSWER {proof}                          may use the rings at once
 *           <-- REGION {id, bytes, descriptor}, GONE {id}, NOTICE, BYE -->
 */
#ifndef TRANSPORTS_SHM_H
#define TRANSPORTS_SHM_H

#include <sys/types.h>

#include "base/auth.h"
#include "transports/local.h"

#define SHM_REGIONS_MAX   128   /* memory regions one side may offer a peer at a time */
#define SHM_STRANGERS_MAX 128   /* connections that have not said hello */
#define SHM_STRANGER_MS   10000 /* after which they are dropped: a hello follows at once */
#define SHM_NOTICES_MAX   4     /* waiting for room in the socket, per peer */
/* Foreign bytes on their way into a reduction: fits a core's L2; a call for fewer costs more. */
#define SHM_BOUNCE_BYTES (256u << 10)
#define SHM_INPLACE_MIN  1024  /* bytes from which a message is offered in place */
#define SHM_FRESH_MAX    4096  /* bytes up to which the ring wins if the sender overwrites them */
#define SHM_FOREIGN_MIN  16385 /* bytes from which cross-memory attach beats the ring */

/* Packets on the socket, one per message (SOCK_SEQPACKET). */
enum shm_packet_kind {
    SHM_HELLO = 1,
    SHM_ANSWER,
    SHM_REGION,
    SHM_GONE,
    SHM_NOTICE,
    SHM_BYE,
    SHM_KNOCK /* of an acceptor that waits to be dialed, over a connection that ends with it */
};

struct shm_self { /* where a peer can check that it reads the right process */
    uint64_t address, word;
};
struct shm_packet {
    uint32_t kind, rank;
    union {
        struct {
            uint8_t hello[AUTH_HELLO_LEN], proof[AUTH_PROOF_LEN];
            struct shm_self self;
            struct ring_shape shape;
        } hello; /* ANSWER too */
        struct {
            uint64_t id, bytes;
        } region; /* GONE too */
        struct notice notice;
    };
};

struct shm_address {
    char boot[40];   /* one kernel: */
    uint64_t net[2]; /* abstract names are known within one network namespace */
    uint64_t host;   /* hash of TUTTI_HOST_ID, by which tests make hosts of one */
    uint64_t comm_id;
    uint32_t user; /* effective, as outside of the user namespace */
    uint32_t pid;
    uint8_t name[16];              /* of the listening socket, random */
    uint8_t hello[AUTH_HELLO_LEN]; /* the acceptor's challenge, the same for all who dial */
};

enum shm_state {
    SHM_WAITING, /* the peer will dial */
    SHM_DIALING, /* to be tried again */
    SHM_UP,
    SHM_DOWN
};

struct shm_region {
    uint64_t id;
    uint8_t *base;
    size_t bytes;
};

struct shm_link {
    struct local_link base;
    enum shm_state state;
    bool answered;    /* dialer: the acceptor has proved itself */
    int fd, exit_fd;  /* the socket; readable when the process ends; -1: none */
    int rings;        /* dialer, until its hello is said: their descriptor; else -1 */
    pid_t pid;        /* as seen from here; 0: not visible */
    struct auth auth; /* dialer's, until answered */
    struct shm_address address;
    uint64_t look_ms;     /* while waiting: when to look whether the peer lives */
    struct shm_self self; /* the peer's */
    void *map;
    size_t map_bytes;
    /* regions of the peer that are mapped here; regions of this side the peer was told of */
    struct shm_region theirs[SHM_REGIONS_MAX], ours[SHM_REGIONS_MAX];
    uint32_t theirs_count, theirs_last, ours_count, ours_last, ours_evict;
    uint64_t ours_generation;
    struct notice waiting[SHM_NOTICES_MAX];
    uint32_t waiting_count;
    /* What the socket said last, acted upon by shm_service: reading it may happen in the middle of
     * a receive, which is no time to end a link. */
    tutti_status ended;
    bool farewell; /* the peer closed in order */
    char ended_sentence[SENTENCE_MAX];
    char lack[SENTENCE_MAX]; /* of this rank, to map the last region that it could not; else "" */
};

struct stranger {
    int fd; /* -1: free */
    uint64_t since_ms;
};

struct shm {
    struct local local;
    pid_t owner;
    int listener, epoll;
    struct auth auth; /* as acceptor */
    struct shm_address address;
    _Atomic uint64_t self; /* what shm_self points at */
    uint32_t polls, next_service;
    uint32_t pending_links; /* WAITING or DIALING */
    struct stranger strangers[SHM_STRANGERS_MAX];
    uint32_t stranger_count;
    bool user_refused;          /* another user's connection was, and the log says so */
    bool *knocked;              /* [size] that wait to be dialed */
    struct mem_export found[4]; /* recent answers of mem_find, good for one generation */
    uint64_t found_generation;
    uint32_t found_next;
    _Alignas(RING_LINE) uint8_t bounce[SHM_BOUNCE_BYTES];
};

static inline struct shm_link *shm_link_of(struct shm *shm, uint32_t peer)
{
    return (struct shm_link *)shm->local.links[peer];
}
static inline const char *shm_peer_name(const struct shm *shm, uint32_t peer)
{
    return shm->local.config->peer_names[peer];
}

/* shm_packet.c */
enum shm_packet_got { SHM_PACKET_NONE, SHM_PACKET_ONE, SHM_PACKET_END, SHM_PACKET_BAD };
/* Fills in the rank. A descriptor goes along if fd >= 0. */
bool shm_packet_write(struct shm *shm, int to, struct shm_packet *packet, int fd);
/* *fd is the descriptor that came with it, to be taken, or -1. */
enum shm_packet_got shm_packet_read(struct shm *shm, int from, struct shm_packet *packet, int *fd);
/* Over a link's socket; false if there is no room now or no link. */
bool shm_packet_send(struct shm *shm, struct shm_link *link, struct shm_packet *packet, int fd);

/* shm_link.c */
tutti_status shm_listen(struct shm *shm);
/* No more: whoever dials now, or waits to be dialed, learns that this rank is gone. */
void shm_listen_end(struct shm *shm);
tutti_status shm_link_new(struct shm *shm, uint32_t peer, struct shm_link **link);
/* Waits until every notice is on its way (notify of the contract says how long). */
void shm_flush(struct shm *shm);
void shm_link_close(struct shm *shm, struct shm_link *link);
void shm_link_dial(struct shm *shm, struct shm_link *link);
/* Everything that needs a system call: accepts, reads, redials, notices ends. */
void shm_service(struct shm *shm);
/* Reads what the link's socket holds; an end is only noted (link->ended). */
void shm_link_read(struct shm *shm, struct shm_link *link);
tutti_status shm_link_notify(struct shm *shm, struct shm_link *link, const struct notice *notice);

/* shm_memory.c */
struct ring_shape shm_ring_shape(const struct transport_config *config);
/* Makes the rings' file (*fd: to be passed and closed) or maps the one that came from the peer. */
tutti_status shm_rings_make(struct shm *shm, struct shm_link *link, int *fd);
tutti_status shm_rings_take(struct shm *shm, struct shm_link *link, int fd);
void shm_memory_free(struct shm_link *link);
/* Lets the ranks of this user read this process's memory, where that takes a permission. */
void shm_permit_reads(void);
/* Whether the peer's can be read: then it is told so. */
void shm_foreign_probe(struct shm *shm, struct shm_link *link);
bool shm_refer(struct local *local, struct local_link *link, const struct xfer *xfer,
               struct slot_copy *slot);
tutti_status shm_fetch(struct local *local, struct lane *lane, struct xfer *xfer, size_t off,
                       size_t n);
/* Tells the peer of regions that were freed since it was told of them. */
void shm_regions_sweep(struct shm *shm, struct shm_link *link);
/* A region packet came, with its descriptor (taken). If this rank lacks what it takes to map it,
 * only a receive from it fails: the link stays up, and the peer can be told why. */
tutti_status shm_region_add(struct shm *shm, struct shm_link *link, uint64_t id, uint64_t bytes,
                            int fd);
void shm_region_drop(struct shm_link *link, uint64_t id);

#endif
