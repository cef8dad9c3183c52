/* transport.h: the contract of a transport, and the table of them all.
 *
 * A transport moves bytes between this rank and its peers over links. One `struct transport` is
 * one rank's end of one communicator. All functions are mandatory, are called by one thread at a
 * time, never block, never call upward, and allocate nothing after a link is up.
 *
 * Order: transfers on one (peer, lane) and direction complete in the order posted; the k-th send
 * meets the k-th receive of the other side. Each transfer carries a tag, 24 bytes that identify
 * the operation; the receiving transport compares tag and length with what was posted, and ends
 * the receive with TUTTI_ERR_MISMATCH (seen, seen_len say what came) when they differ.
 *
 * A send is done when its bytes may be reused; a receive when its data is where it belongs. After
 * a link fails, every pending and later transfer on it ends with that status, and `sentence` of
 * the transport's event says why.
 *
 *      caller                         transport                       peer's transport
 *      xfer{data,len,tag} -- send -->  queue of (peer, lane)  ====>    head receive of (me, lane)
 *                         <-- poll --  finished xfers                  copies or reduces
 */
#ifndef TRANSPORTS_TRANSPORT_H
#define TRANSPORTS_TRANSPORT_H

#include "base/settings.h"
#include "base/status.h"
#include "mem/mem.h"
#include "mem/pace.h"

#define TRANSPORT_ADDRESS_MAX 512 /* bytes of one rank's address in one transport */
#define TRANSPORT_LANES_MAX   10  /* 7 of plans, 1 of sends and receives, 2 of acknowledgements */
#define TRANSPORT_POST_MAX                                                                         \
    64 /* posted transfers per (peer, lane, direction); the caller holds                           \
          back more, so transports may use fixed rings of this size */

/* Identity of the operation a transfer belongs to; equal on both sides of every transfer of it. */
struct tag {
    uint64_t word[3];
};
static inline bool tag_equal(const struct tag *a, const struct tag *b)
{
    return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2])) == 0;
}

/* One transfer. Owned by the caller, who keeps it in place until it is done. */
struct xfer {
    /* set by the caller */
    void *data; /* send: the bytes (not changed); receive: where they land */
    size_t len;
    uint32_t peer, lane;
    const struct tag *tag; /* borrowed until done */
    /* receive and reduce: reducer != NULL. The result goes to dst:
     * incoming_first ? incoming op other : other op incoming. The transport applies the reducer
     * straight from the sender's bytes where it can see them, else lands them at data first and
     * may do so piece by piece in whole elements. dst may be other. */
    const struct reducer *reducer;
    void *dst;
    const void *other;
    bool incoming_first;
    /* send: the caller waits for this send to overwrite its bytes. A hint, without effect on any
     * result: a transport that can take the bytes along cheaply does so, where it would otherwise
     * leave them in place until the peer has read them. */
    bool overwritten_next;
    /* receive: the operation moves more than the caches hold, and no step of it reads these bytes
     * (with a reducer: those at dst) again. A hint, without effect on any result: a CPU that writes
     * them may do so past its caches, which spares reading the lines first and lets a peer fetch
     * them from memory. */
    bool past_caches;
    /* receive: how fast the bytes it writes can be written, which peers read in place or have read
     * (with a reducer: those at dst); timed at each. NULL: they are written to the caches. */
    struct pace *pace;
    /* The bytes at data are a device's, which the CPU cannot touch, and `takes` was true of them
     * just before. There is no reducer then. */
    bool on_device;
    /* set by the transport */
    tutti_status status; /* TUTTI_IN_PROGRESS until done */
    struct tag seen;     /* on TUTTI_ERR_MISMATCH */
    size_t seen_len;
    struct xfer *next; /* the transport's queues; then the list that poll returns */
    uint64_t work[4];  /* the transport's own */
};

/* Small messages outside the order of transfers, for errors: delivered even when lanes are full. */
struct notice {
    uint32_t kind;    /* the caller's */
    uint32_t culprit; /* rank */
    int32_t status;
    uint32_t reserved;
    struct tag tag;
    char text[336]; /* terminated; the receiver terminates it again */
};

enum transport_event_kind {
    TRANSPORT_EVENT_LINK_DOWN, /* peer; sentence: why; status ERR_PEER: dead or unreachable */
    TRANSPORT_EVENT_NOTICE,    /* peer, notice */
    TRANSPORT_EVENT_UNEXPECTED /* peer, tag, len: an arrival at the head of a lane with no receive
                                  posted; reported each time asked while it is so */
};
struct transport_event {
    enum transport_event_kind kind;
    uint32_t peer, lane;
    tutti_status status;
    struct tag tag;
    size_t len;
    struct notice notice;
    char sentence[SENTENCE_MAX];
};

/* What a transport needs to know of the communicator; borrowed for the transport's life. */
struct transport_config {
    uint32_t rank, size, lanes; /* lanes: 1..TRANSPORT_LANES_MAX, equal on all ranks */
    uint64_t comm_id;           /* equal on all ranks, distinct between communicators */
    const uint8_t *secret;      /* 32 bytes shared by the communicator's ranks */
    const struct settings *settings;
    const char *const *peer_names; /* [size] "rank 3 (host b, pid 77)": for sentences */
    bool crowded;                  /* more ranks on this host than cores: do not spin inside */
};

struct transport; /* each transport's own; its first member is `const struct transport_ops *ops` */

/* Bytes are counted as they move, as far as this side sees it: a wait in which they do is none for
 * TUTTI_TIMEOUT_MS. */
struct transport_stats {
    uint64_t sends, recvs, bytes_sent, bytes_received, copies, copied_bytes, in_place_bytes,
        syscalls;
    /* Where a message's bytes are counted as it is posted: pieces of messages that were written and
     * taken, and that peers have taken of what they read in place. */
    uint64_t pieces;
    /* Of devices: send requests given to them, those that asked for a completion, completions read
     * (of receives too), calls that told the device of requests, times that a peer was not ready to
     * receive (the whole port's, from the device's counters), registrations of memory; bytes that
     * went from or to device memory without a copy. */
    uint64_t work_requests, signalled, completions, doorbells, rnr_retries, registrations,
        device_bytes;
};

/* How long notices are waited for, see notify. */
#define TRANSPORT_FLUSH_MS  100 /* until they are on their way */
#define TRANSPORT_ANSWER_MS 50  /* for a sign of a peer whose link is still being made */

struct transport_ops {
    const char *name;
    /* Can it work on this machine at all? false with the reason in why (len bytes). */
    bool (*probe)(const struct settings *settings, char *why, size_t len);
    tutti_status (*open)(const struct transport_config *config, struct transport **transport);
    /* Releases everything, at once: pending transfers are dropped, peers see the link go down
     * unless they were done with it. Sends that are done arrive all the same: a transport whose
     * device would forget them waits for that, at most 3 s, where the peer lives. TCP's kernel
     * forgets what a peer has not read some 5 minutes later. NULL allowed. */
    void (*close)(struct transport *transport);
    /* This rank's address, to be given to every peer; *len <= TRANSPORT_ADDRESS_MAX. */
    tutti_status (*address)(struct transport *transport, void *address, size_t *len);
    /* Can this rank reach the peer with that address? The answer must be symmetric. */
    bool (*reaches)(struct transport *transport, uint32_t peer, const void *address, size_t len);
    /* Begins to make the link (all lanes); both sides call it; done when poll gets to it. Transfers
     * may be posted at once. Calling again is free. address is copied. A peer that dies or leaves
     * before the link is made ends it too, within 5 s, whichever side it is. */
    tutti_status (*connect)(struct transport *transport, uint32_t peer, const void *address,
                            size_t len);
    /* For a peer that this rank has not connected to: whether it has connected and needs this rank
     * to do so, too, before a notice could reach it. It may take such a peer a second to ask, and
     * one whose own call is enough never does. Slow path, once event has looked. */
    bool (*wanted)(struct transport *transport, uint32_t peer, const void *address, size_t len);
    /* Ends a link at once, as close does: its pending transfers are forgotten. */
    void (*disconnect)(struct transport *transport, uint32_t peer);
    /* TUTTI_OK: done at once (xfer->status is TUTTI_OK, poll will not return it).
     * TUTTI_IN_PROGRESS: poll returns it later. Else: failed, not queued. */
    tutti_status (*send)(struct transport *transport, struct xfer *xfer);
    tutti_status (*recv)(struct transport *transport, struct xfer *xfer);
    /* Whether a transfer with the peer may be posted whose bytes lie in device memory, which has to
     * be told of each. Makes what it needs for it (a registration of the allocation, which is
     * kept). memory NULL: whether any ever may; this is no promise. */
    bool (*takes)(struct transport *transport, uint32_t peer, const void *memory, size_t len);
    /* Makes progress; returns transfers that ended (ok or not) since the last call as a list
     * through xfer->next, NULL if none. Cheap when idle. */
    struct xfer *(*poll)(struct transport *transport);
    /* Forgets every queued transfer of this rank; none is returned later. The links are unusable
     * afterwards. leave, for a rank that fails or aborts alone: peers see it gone, as after close,
     * also those that have no link to it yet; there are no links afterwards. */
    void (*cancel)(struct transport *transport, bool leave);
    /* Best effort, in order per peer; close, disconnect and cancel wait at most TRANSPORT_FLUSH_MS
     * until it is on its way. So they do for a link that is still being made, but no longer than
     * TRANSPORT_ANSWER_MS without a sign of a peer: it may not be here at all. TUTTI_IN_PROGRESS:
     * there is no room for it now. Else what the link, if there is one, has failed of. */
    tutti_status (*notify)(struct transport *transport, uint32_t peer, const struct notice *notice);
    /* Slow path, called when nothing has moved for a while: the next event, false if none. Also
     * the place where liveness of idle links is checked. `restart` begins the round of
     * TRANSPORT_EVENT_UNEXPECTED anew. */
    bool (*event)(struct transport *transport, bool restart, struct transport_event *event);
    /* A descriptor that becomes readable when poll has something to do, after arming; -1: none, the
     * caller naps. arm returns false when there is something to do already. */
    int (*wait_fd)(struct transport *transport);
    bool (*arm)(struct transport *transport);
    /* Registration of memory that will be used often, in any thread; *handle may be NULL. Both
     * NULL: it does nothing about that. Nothing posted after dereg uses what was registered.
     * inside: the caller is, and what no transfer uses is given back at once. Else it may be any
     * thread, and that is left to the one inside, or to close. */
    tutti_status (*reg)(struct transport *transport, void *memory, size_t len, void **handle);
    void (*dereg)(struct transport *transport, void *handle, bool inside);
    /* For any thread, now and then while nobody is inside: does what peers may wait for though this
     * rank's part of every transfer has ended, as where a rail was lost and they ask what has
     * arrived. What ends meanwhile is for the next poll. False: nobody ever waits so; NULL, too. */
    bool (*tend)(struct transport *transport);
    void (*stats)(const struct transport *transport, struct transport_stats *stats);
    /* Prior of the link model, before anything is measured. */
    void (*model)(const struct transport *transport, double *alpha_us, double *us_per_byte);
};

struct transport {
    const struct transport_ops *ops;
    bool moved; /* set by a poll that moved a part of a transfer; cleared by whoever waits */
};

/* NULL-terminated, in order of preference: inproc, shm, ib, roce, iwarp, tcp. `fault` wraps one of
 * them and is not in the preference list: fault_wrap. */
extern const struct transport_ops *const transport_table[];
#ifdef TUTTI_WITH_VERBS
extern const struct transport_ops ib_ops, roce_ops, iwarp_ops;
#endif
const struct transport_ops *transport_find(const char *name); /* NULL if none */

/* Wraps a transport: faults as described by the text of TUTTI_FAULT (fault_rules.h). Takes
 * inner, unless it fails. */
tutti_status fault_wrap(struct transport *inner, const struct transport_config *config,
                        const char *text, struct transport **transport);

#endif
