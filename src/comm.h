/* comm.h: the communicator, and how its operations wait, fail and end.
 *
 * Life: comm_build gathers every rank's host record, chooses a transport per peer, exchanges
 * addresses; links are made when a plan first needs them.
 *
 * Operations form one queue per communicator. The head runs; sends and receives are handed to the
 * transport in issue order and leave the queue at once. A call finds the queue empty nearly always
 * and then runs its program directly (comm_run).
 *
 * Failure: the first error that is known is kept with its sentence (first writer wins), told to
 * every connected peer by a notice, and passed on by each peer once. Every wait looks at it. */
#ifndef SRC_COMM_H
#define SRC_COMM_H

#include <pthread.h>
#include <stdatomic.h>

#include "src/bootstrap.h"
#include "src/exec.h"
#include "src/topology.h"

#define COMM_MAGIC          0x7454696e4774756full
#define COMM_TRANSPORTS_MAX 8    /* rows of the table of transports, at most */
#define COMM_OPS_MAX        1024 /* dynamic reduction operations of one communicator */
#define COMM_HASH_SIZE      64   /* buckets of the program cache */
#define COMM_PEER_NAME_MAX  96
#define COMM_LOOKING        2 /* in comm.busy: inside is one who only looks, for a moment */
#define COMM_SERVING        3 /* the proxy of stream.c, which comes and goes as it likes */

enum notice_kind {
    NOTICE_FAILED, /* culprit, status, text: it failed; tag: 1: the culprit has left for good */
    NOTICE_LEFT,   /* the sender destroyed its communicator */
    NOTICE_MEET,   /* comm_shrink.c: where the survivors meet */
    NOTICE_COMING, /* its answer */
    NOTICE_ABSENT, /* culprit, status, text: nothing will come of the meeting */
    NOTICE_ASK,    /* comm_late.c: does the receiver wait, too? culprit: whose time is up */
    NOTICE_WAITS,  /* it does. culprit: for whom, itself: it does not; tag: in which call */
    /* of comm_grow.c; the tag's first word is which grow */
    NOTICE_GROW /* status, text: nothing will come of it */
};

struct operation;

/* Operations in the order they came. last holds nothing while there are none. */
struct op_queue {
    struct operation *first, **last;
};

/* Sends to a peer, or receives from it. */
struct comm_window {
    uint32_t posted;
    bool held; /* the last one posted is copied to where its transport takes it (exec_nic.c) */
    struct op_queue waiting;  /* for the window to open */
    struct comm_window *next; /* in comm.p2p_waiting */
};

struct comm_peer {
    struct transport *transport; /* NULL for this rank itself */
    const uint8_t *address;
    uint32_t address_len;
    bool connected;
    bool nic;   /* its transport may take device memory */
    bool left;  /* it destroyed its communicator */
    bool ended; /* or it failed there by its own fault, and comes to no shrink */
    bool told;  /* that this one failed */
    bool down;  /* its link went down though it had not left */
    struct comm_window sends, recvs;
    struct notice *meet, *coming, *absent; /* its last of each kind; NULL: none */
    uint64_t met;                          /* the last meeting of it that this rank came to */
    /* In comm_late.c: what was asked of it and not answered, and what it answered last. */
    uint32_t asks;
    bool waits;
    uint32_t waits_for;
    struct tag waits_in;
};

/* What this rank has asked those that it waits for (comm_late.c). */
struct comm_late {
    uint64_t asked_ns, still_since_ns; /* when, 0: never; and in which wait */
    uint32_t impatient;                /* whose time is up, and what that is; 0: nobody's is */
    uint64_t limit_ms;
    uint64_t told_ns; /* still_since of the last wait that the log was told of */
    /* Bytes that the transports had moved at the last look; when it was; the last that found more
     * than the one before. */
    uint64_t moved_bytes, looked_ns, moved_ns;
};

/* A reduction operation made at run time; nothing of it changes. */
struct comm_op {
    atomic_uint holders; /* its slot of the table, and calls not yet ended; the last frees it */
    bool premulsum;
    tutti_dtype dtype;
    uint64_t scalar; /* bytes of one element */
    tutti_reduce_fn *function;
    void *context;
};

/* A started operation; also the public request. */
struct operation {
    struct tutti_comm *comm;
    struct call call;
    struct operation *next;      /* queue, or list of transfers */
    struct program *program;     /* while it runs */
    size_t *counts;              /* the call's count arrays, copied; NULL without */
    _Atomic tutti_status status; /* TUTTI_IN_PROGRESS until done */
    char *sentence; /* once failed: its own, for the communicator may be gone by then */
    bool of_unit;   /* a unit of stream.c carries it out: nothing here advances it */
    bool copies;    /* it waits for a copy that exec_nic.c has listed, and for no peer */
    void *bounce; /* pinned, for what no adapter takes (exec_nic.c), or a device (comm_device.c) */
    struct operation *next_work;
    /* operation_init leaves what follows as it is. Point-to-point, once posted: */
    struct operation **link; /* what leads to it in comm.p2p_list */
    struct tag tag;
    struct exec_xfer xfer;
    /* and in device memory (comm_device.c) */
    struct exec_offer offer;
    struct exec_xfer ack;
    uint64_t ticket;
};

struct tutti_comm {
    uint64_t magic;
    uint32_t rank, size;
    uint32_t lanes; /* of plans; the lane after them carries send and recv */
    bool crowded;
    uint32_t fork_generation;
    atomic_bool aborted;
    atomic_bool revoked;         /* aborted, but stays within its peers' reach */
    int ended;                   /* atomic: this rank has left for good, or wants to */
    _Atomic(const int *) cancel; /* of a split or grow under way: both end by it */
    atomic_int busy;             /* a thread is inside; for abort and to refuse a second */
    _Atomic uint64_t asked_ns;   /* when comm_ask last looked */
    _Atomic tutti_status failed; /* TUTTI_OK while it works */
    char sentence[SENTENCE_MAX];
    uint32_t down_peer; /* the last whose link went down though it had not left; NO_RANK; and why */
    char down_sentence[SENTENCE_MAX];
    struct notice failure; /* what peers are told, once it failed */
    uint32_t sequence;     /* collectives issued */
    uint32_t meetings;     /* called by this rank in comm_shrink.c */
    uint32_t grows;        /* begun */
    /* The first that came of the last grow that failed; NULL: none. */
    struct notice *grow_failed;

    struct transport *transports[COMM_TRANSPORTS_MAX];
    const struct transport_ops *transport_ops[COMM_TRANSPORTS_MAX];
    uint32_t transport_count;

    struct operation *head, **tail;
    /* Device memory. device: where plans may work in place, NULL if the ranks do not share one; its
     * queue and scratch are taken by the first such call. Units of stream.c: issued and retired. */
    struct mem_device *device;
    const char *no_device; /* why it is NULL, for sentences */
    bool device_reduces;   /* all ranks' devices do */
    uint64_t direct_min;   /* bytes from which plans do */
    uint64_t part_bytes;   /* what goes through host memory is cut into such parts; 0: it is not */
    uint32_t device_peers; /* the most processes that share one device */
    enum mem_reach device_reach; /* the slowest between two ranks' devices */
    struct mem_queue *queue;
    struct mem_queue *slots; /* instead of it, while a unit runs that has them in its stream */
    void *device_scratch;
    size_t device_scratch_bytes;
    bool scratch_in_use;           /* it failed while a program ran there, which may go on */
    _Atomic uint64_t device_bytes; /* of the scratch and of what is offered for it */
    uint64_t scratch_offered;      /* the most, in bytes; and what the next program takes over */
    _Atomic(struct scratch_offer *) scratch_offer;
    struct demand_kept { /* answers of exec_demand, by the hash of the call */
        struct program_key key;
        struct exec_demand demand;
        bool known;
    } demands[COMM_HASH_SIZE];
    bool nic;     /* some peer's transport may take device memory (exec_nic.c) */
    void *bounce; /* pinned memory for what it does not take */
    uint64_t bounce_bytes;
    struct operation *works, **works_tail; /* sends and receives whose copy is under way, */
    struct operation *works_listed;        /* or, from this one on, has not begun */
    unsigned works_begun;                  /* those before it */
    _Atomic uint64_t units_issued, units_retired;
    atomic_uint replays; /* captured units under way */
    atomic_bool holds;   /* streams of units that fail wait for abort */
    atomic_uint held;    /* units that do */
    /* The proxy's: units begun, in their order, and started transfers under way together. */
    uint64_t units_begun, units_submitted;
    struct replay_set *replay_set; /* its captured units (stream_replay.c) */
    unsigned transfers_inside;
    bool transfers_clear; /* the queue was found clear for them */

    struct op_queue self_sends, self_recvs; /* transfers to this rank itself, not yet paired */
    struct operation *p2p_list;             /* point-to-point transfers with the transports */
    struct comm_window *p2p_waiting;        /* the windows for which some wait, and no others */
    struct program *running;
    const struct call *running_call;

    struct program *recent; /* the last one used: most calls hit it */
    struct call last_call;  /* the last blocking call, when the next may repeat it unchecked: */
    struct program *last_program; /* its program; NULL: no such call */
    struct program *newest, *oldest, *buckets[COMM_HASH_SIZE];
    uint32_t program_count;
    void *scratch;
    size_t scratch_bytes;
    bool scratch_shared; /* from mem_alloc: peers may read it in place */
    void *scaled;        /* premulsum: scalar * in */
    size_t scaled_bytes;
    struct comm_op **ops; /* [COMM_OPS_MAX], made at first use; of the program's thread */
    unsigned ops_next;    /* the slot to be looked at next, modulo COMM_OPS_MAX */

    uint64_t idle_polls, idle_since_ns, moved_ns, last_event_ns, clock_at_ticks;
    /* Turns of a core that is shared: how often others kept it too long lately. */
    uint64_t turn_ended_ns, no_turns_until_ns;
    uint32_t long_turns;
    struct comm_late late;
    tutti_comm *next_tended, **tended; /* in the list of comm_tend.c; NULL: it is not there */

    struct settings settings;
    struct topology topology;
    struct comm_peer *peers;
    char (*names)[COMM_PEER_NAME_MAX];
    const char **name_list;
    uint8_t *addresses;
    uint8_t secret[32];
    struct transport_config config;
    uint64_t comm_id;
};

/* comm_shrink.c: keeps a notice of its kinds. */
void comm_shrink_notice(tutti_comm *comm, uint32_t peer, const struct notice *notice);
/* comm_grow.c: the same for grows. */
void comm_grow_notice(tutti_comm *comm, const struct notice *notice);

/* comm_late.c: takes a notice of its kinds. */
void comm_late_notice(tutti_comm *comm, uint32_t peer, const struct notice *notice);
/* Fails a communicator in which nothing has moved for the limit; looks for who is at fault. */
void comm_check_timeout(tutti_comm *comm, uint64_t now);

/* comm_life.c */
/* One of size ranks, not built yet. */
tutti_status comm_allocate(const struct settings *settings, uint32_t rank, uint32_t size,
                           tutti_comm **comm);
void comm_free(tutti_comm *comm);

/* comm_build.c */
/* Takes nothing; the bootstrap stays the caller's. */
tutti_status comm_build(const struct settings *settings, struct bootstrap *bootstrap,
                        tutti_comm **comm);
/* Takes part in the rounds, with nothing but the reason why this rank cannot: status, which is what
 * it returns, and the thread's sentence. */
tutti_status comm_build_refused(struct bootstrap *bootstrap, tutti_status status);
/* Takes part in the rounds of a split without being in a child: *comm = NULL. */
tutti_status comm_build_idle(tutti_allgather_fn *allgather, void *context, tutti_comm **comm);
/* Before destroy: ends started operations, tells the peers that this rank leaves. */
void comm_say_goodbye(tutti_comm *comm);
tutti_status comm_connect(tutti_comm *comm, uint32_t peer);
/* The shape of a call; the v forms' arrays are left NULL. (program.c) */
struct shape comm_shape(const tutti_comm *comm, const struct call *call, bool in_place);
/* The settings that it is planned with: those of the communicator, or of its device. */
struct settings comm_plan_settings(const tutti_comm *comm, const struct call *call);
extern atomic_uint comm_forks; /* forks seen by this process: a child's value differs */

/* comm_wait.c: waiting */
/* How many times longer than for a rank that has its core alone things may take. */
unsigned comm_crowd(const tutti_comm *comm);
/* Whether a part of a message has moved since comm_idle last looked, though nothing has ended. */
bool comm_is_moving(const tutti_comm *comm);
/* To be called after a comm_progress that moved nothing: spins, yields, naps; on the way looks at
 * events, abort and the timeout. */
void comm_idle(tutti_comm *comm);
static inline void comm_idle_reset(tutti_comm *comm)
{
    comm->idle_polls = 0;
    comm->idle_since_ns = 0;
}
/* The slow look for callers that never wait: events, abort, and of one that failed
 * comm_tell_later; at most once a millisecond. */
void comm_look(tutti_comm *comm);

/* comm_run.c: calls */
/* One look at the transports; moves the queue. Never blocks. */
bool comm_progress(tutti_comm *comm); /* true if anything ended */
/* Runs a call at once when nothing is queued, else through the queue. */
tutti_status comm_run(tutti_comm *comm, const struct call *call);
/* Runs the last blocking call again: same arguments, already checked. */
tutti_status comm_run_again(tutti_comm *comm, const struct call *call);
/* An operation of a call whose arrays outlive it, to be put into the queue by comm_queue_up, which
 * starts it if it may start. It stays where it is until its status is no longer in progress. */
void operation_init(struct operation *operation, tutti_comm *comm, const struct call *call);
void comm_queue_up(struct operation *operation);
/* Queues one that keeps what it needs of the call, until operation_release. */
tutti_status comm_submit(tutti_comm *comm, const struct call *call, struct operation **operation);
void operation_release(struct operation *operation);
/* Ends it with an error; from here on it may be gone. */
void operation_fail(struct operation *operation, tutti_status status, const char *sentence);
/* How it ended, with its sentence, which is freed, as this thread's. */
tutti_status operation_result(struct operation *operation);

/* comm_fail.c: errors */
/* Keeps the first failure, tells the peers, ends every operation. Returns the kept status. */
tutti_status comm_fail(tutti_comm *comm, tutti_status status, uint32_t culprit,
                       const char *sentence);
/* A transfer that was under way ended with an error: finds the best reason, then comm_fail. */
tutti_status comm_fail_ended(tutti_comm *comm, const struct xfer *xfer);
/* The same for one that could not be posted; the thread's sentence says why. */
tutti_status comm_fail_xfer(tutti_comm *comm, const struct xfer *xfer);
/* What a peer offers cannot be used, for the thread's sentence: if the peer is gone, it went with
 * it, and so says the communicator's. */
tutti_status comm_fail_offer(tutti_comm *comm, uint32_t peer, tutti_status status);
/* A peer sends other than the bytes expected in an operation that both call alike else. */
tutti_status comm_fail_lengths(tutti_comm *comm, uint32_t peer, const struct tag *tag,
                               uint64_t expected, uint64_t sent);
/* Looks at the transports' events; true when it stopped at one, so that there may be more. */
bool comm_events(tutti_comm *comm);
/* For threads that are not inside: while nobody is and nothing runs, looks whether a peer died, at
 * most every ASK_NS. Who enters meanwhile waits for the look. */
void comm_ask(tutti_comm *comm);
/* The same look for the thread inside, at once. */
void comm_look_for_deaths(tutti_comm *comm);
/* Whether another thread has ended it; fails it if so. */
bool comm_check_abort(tutti_comm *comm);
/* Of a failed one: reads what comes, goes on with links that are being made, and tells the peers of
 * the failure that were out of reach until now. */
void comm_tell_later(tutti_comm *comm);
/* To every peer that a link leads to and that has not left. */
void comm_notify_all(tutti_comm *comm, const struct notice *notice);
/* What this rank is inside of: "in allreduce(...), operation 3". */
const char *comm_doing(const tutti_comm *comm, char *text, size_t len);
tutti_status comm_error(const tutti_comm *comm); /* sets the thread's sentence to the kept one */

/* Becomes the one thread inside; false if another is and stays. */
bool comm_seize(tutti_comm *comm);
/* The same, but waits only for one who looks: false if another is inside, aborted or not. */
bool comm_seize_soon(tutti_comm *comm);
/* The same for the proxy, which must never wait: false if another is inside, whoever it is. */
bool comm_try_seize(tutti_comm *comm);
/* The same for one who only looks, for a moment, for which whoever enters waits. */
bool comm_try_look(tutti_comm *comm);
/* The wait of comm_enter for what streams hold of it, which cancel ends too. Enters nothing;
 * cancelled or not is for the caller to see. */
tutti_status comm_drain(tutti_comm *comm, const int *cancel);
/* Enter and leave a public call: refuses NULL, destroyed, forked, failed and busy communicators. */
tutti_status comm_enter(tutti_comm *comm);
/* The same refusals, without entering: another thread may be inside. */
tutti_status comm_look_in(const tutti_comm *comm);
/* Where work in device memory is done. */
static inline struct mem_queue *comm_queue(const tutti_comm *comm)
{
    return comm->slots ? comm->slots : comm->queue;
}

/* Whether units of stream.c are queued or run. */
static inline bool comm_has_units(const tutti_comm *comm)
{
    return atomic_load_explicit(&comm->units_issued, memory_order_relaxed) !=
               atomic_load_explicit(&comm->units_retired, memory_order_acquire) ||
           atomic_load_explicit(&comm->replays, memory_order_acquire) != 0;
}
/* The same, but a failed one is entered too. */
tutti_status comm_enter_any(tutti_comm *comm);
static inline void comm_leave(tutti_comm *comm)
{
    atomic_store_explicit(&comm->busy, 0, memory_order_release);
}

/* comm_tend.c */
/* Looks after its links from now on while nobody is inside, where a transport asks for that. */
void comm_tend(tutti_comm *comm);
/* From now on does comm_tell_later while nobody is inside. */
void comm_tend_failed(tutti_comm *comm);
void comm_untend(tutti_comm *comm); /* before its transports are closed */

/* comm_create.c: refuses NULL, destroyed ones, and a NULL place for the answer. Enters nothing. */
tutti_status comm_check_query(const tutti_comm *comm, const void *out);
/* Enters for a call that makes a communicator of this one. Until comm_uncancel, which comes before
 * comm_leave, *cancel ends both. */
tutti_status comm_enter_making(tutti_comm *comm, const int *cancel);
void comm_uncancel(tutti_comm *comm, const int *cancel);
/* An allgather of len bytes; entered. */
tutti_status comm_gather(tutti_comm *comm, const void *in, void *out, size_t len);

/* comm_device.c: sends and receives in device memory of one host */
/* The offer that stands for op's bytes. */
tutti_status comm_device_offer(tutti_comm *comm, struct operation *op);
/* The offer or the acknowledgement of an operation was sent or came; *over: it is done. */
tutti_status comm_device_ended(tutti_comm *comm, struct exec_xfer *xfer, bool *over);
/* A transfer to oneself: the copy is started; both operations end with it. */
tutti_status comm_device_self(tutti_comm *comm, struct operation *send, struct operation *recv);
/* Ends operations whose copies are done. True if any. */
bool comm_device_poll(tutti_comm *comm);
/* Lists an operation's copy: of bytes whose offer has come, or that no adapter takes, before they
 * are sent or after they have come. */
tutti_status comm_device_copy(tutti_comm *comm, struct operation *op);
/* In comm_run.c: a send was copied to where its transport takes it; a send or receive is over. */
void comm_p2p_go_on(tutti_comm *comm, struct operation *op);
void comm_p2p_done(tutti_comm *comm, struct operation *op);

/* comm_ops.c */
/* Whether a value from TUTTI_OP_DYNAMIC on names a pre-multiplied sum, or a function. */
static inline bool comm_op_is_premulsum(tutti_op op)
{
    return ((unsigned)op - TUTTI_OP_DYNAMIC) % 2;
}
/* The operation of the table that has this value; NULL: none. */
struct comm_op *comm_op_find(const tutti_comm *comm, tutti_op op);
void comm_op_release(struct comm_op *op); /* NULL: nothing to do */
void comm_ops_free(tutti_comm *comm);     /* the table */
/* The built-in operation that a call's reduction comes to: sum for a pre-multiplied sum. */
static inline tutti_op comm_plain_op(const struct call *call)
{
    return call->made && call->made->premulsum ? TUTTI_SUM : call->op;
}
void comm_reducer(const struct call *call, struct reducer *reducer);

#endif
