/* stream_unit.h: what stream.c makes, stream_put.c puts into streams and stream_proxy.c carries
 * out. */
#ifndef SRC_STREAM_UNIT_H
#define SRC_STREAM_UNIT_H

#include <sched.h>
#include <stdatomic.h>

#include "src/comm.h"
#include "src/group.h"
#include "src/stage.h"

#define WAIT_YIELD_NS 2000000u /* a waiting caller yields so long, then sleeps */
#define WAIT_NAP_US   20u

/* Words of a unit in a stream. Values only grow from unit to unit, so that words can be used again
 * before the stream has passed. A captured unit has one value, and its words are set back to the
 * one before it: START by the proxy when it has seen it, DONE by the stream that waited for it. */
enum unit_word { UNIT_START, UNIT_DONE, UNIT_END };

enum unit_state {
    UNIT_QUEUED,   /* its streams are not there yet, or units before it are not over */
    UNIT_CLEARING, /* its queues look for a channel that no waiting stream holds */
    UNIT_RUNNING,  /* its calls, from their bytes' way in to their way out */
    UNIT_HELD,     /* failed; its streams wait for the abort of its communicators */
    UNIT_DRAINING  /* over; its blocks wait until the streams have passed */
};

struct unit_stream {
    struct mem_stream stream;
    struct mem_words *words;
    uint32_t first, value; /* of START and DONE: its first step, and all of them */
    bool passed;           /* the stream is beyond the unit */
};

/* Blocks so large are given back as soon as their stream has passed, which a signal tells; smaller
 * ones wait for the stream's next unit to start, since a signal would cost the stream 2 us. A
 * stream may have none, so that not more than about so many units wait. */
#define UNIT_BLOCK_LARGE (1u << 20)
#define UNITS_KEPT_MAX   64

struct unit_call {
    tutti_comm *comm;
    struct call call; /* as the plan sees it */
    size_t *counts;
    struct stage stage;
    struct exec_demand demand; /* where it has slots */
    int stream;                /* index, or -1 */
    uint32_t step;             /* of its stream, whose START brings its bytes and DONE awaits it */
    bool in_queue; /* its bytes are carried, scaled, divided in the queue, not by the stream */
    bool is_clear;
    bool at_work;            /* its plan or its queue may touch its block */
    struct mem_queue *queue; /* for bytes and arithmetic outside the plan; NULL: none */
    bool owns_queue;         /* else an earlier call does */
    size_t pieces;           /* that all calls in the queue it owns may have under way */
    uint64_t ticket;
    struct operation *operation;
    void *bounce; /* of that one, which failed */
};

struct unit_comm {
    tutti_comm *comm; /* NULL: gone, in a captured unit */
    uint64_t order;   /* among the units of comm */
    bool on_device;   /* some call works in comm's queue */
    bool is_clear;
};

/* Slots that a unit may put into a stream: with their waits half of what a channel holds. */
#define UNIT_SLOTS_MAX 256

struct unit {
    struct unit *next;
    enum unit_state state;
    bool captured, has_blocks;
    uint64_t block_bytes;
    bool ends;                 /* its streams signal UNIT_END */
    bool put;                  /* something of it is in a stream */
    uint64_t put_from, put_to; /* in the order of all that is put anywhere */
    bool transfer;    /* a send or receive outside of groups and streams: not alone inside */
    bool inside;      /* its comms are seized */
    bool broken;      /* a communicator failed under it: what is in its blocks may go on */
    atomic_bool gone; /* the graph that holds it is */
    struct {          /* of stream_replay.c, where it is captured */
        struct replay_set *set;
        bool parked; /* not in the proxy's list */
        struct unit *follower, *leader, *next, *previous;
    } replay;
    tutti_status status;
    uint64_t held_until_ns;
    uint64_t quiet_ns; /* since when it has failed and no queue of it works */
    uint64_t asked_ns; /* when its devices were asked last whether they work */
    struct unit_call *calls;
    size_t call_count;
    /* So many of the first; left: their bytes are back. */
    size_t entered, submitted, ended, leaving, left;
    struct unit_stream *streams;
    size_t stream_count;
    struct unit_comm *comms;
    size_t comm_count;
    struct mem_queue
        *slots;    /* for all work of its one communicator; NULL: that one's queue does it */
    void *scratch; /* where they worked when it failed */
    struct operation *result; /* somebody waits; theirs to release */
};

void unit_free(struct unit *unit);
/* As free, for a unit whose blocks and words a device or a stream may still use. */
void unit_abandon(struct unit *unit);
/* As free, for a unit that is over: of a broken one what may still be used is left out. */
void unit_end(struct unit *unit);
/* Its calls hold nothing of their communicators any more, which are all there; once. */
void unit_unkeep(struct unit *unit);

/* START: at the first step; END: at all. */
static inline bool unit_streams_at(const struct unit *unit, enum unit_word word)
{
    for (size_t i = 0; i < unit->stream_count; i++) {
        const struct unit_stream *at = &unit->streams[i];
        uint32_t seen = atomic_load_explicit(&at->words->word[word], memory_order_acquire);
        if ((int32_t)(seen - (word == UNIT_START ? at->first : at->value)) < 0)
            return false;
    }
    return true;
}

/* ---- parts of calls (stream_parts.c) ---- */

/* The calls with the large ones cut: *made is to be freed, and its calls hold what theirs held.
 * NULL where nothing is to be cut, and on failure (TUTTI_ERR_NOMEM). */
tutti_status parts_make(const struct group_call *calls, size_t count, struct group_call **made,
                        size_t *made_count);

/* ---- in streams (stream_put.c) ---- */

/* Takes slots for all work of the unit, where it has one stream and one communicator; else, and
 * where none are to be had, the queue of each communicator does the work. */
tutti_status unit_take_slots(struct unit *unit);
/* Puts all of it into its streams. On failure what is in them already goes on at once. */
tutti_status unit_put(struct unit *unit);

/* ---- captured units (stream_replay.c) ----
 * All with the proxy's lock. */

struct replay_set { /* of a communicator, the first of its units */
    struct replay_set *next;
    const tutti_comm *comm; /* NULL: gone */
    size_t count;
    struct unit *oldest; /* of all its units, a ring through replay.next; NULL: none */
    struct unit *sweep;  /* the next to be looked at in turn */
    struct unit *last;   /* that started last; NULL: none, or not there any more */
};

struct replays {
    struct replay_set *sets;
    struct replay_set others; /* whose communicator was gone first, or had no memory for a set */
};

/* Keeps the unit. */
void replay_add(struct replays *replays, struct unit *unit);
/* Appends those whose streams have come to the list that ends at *tail, and ends those that are
 * gone; looks at those it expects and at so many others of each communicator. */
bool replay_look(struct replays *replays, size_t looks, struct unit ***tail);
/* All communicators of the unit were aborted, or one is gone: its replays do nothing any more. */
bool replay_is_dead(const struct unit *unit);
/* The unit starts: teaches what to expect. */
void replay_started(struct unit *unit);
/* Whether there are any. */
bool replay_expects(const struct replays *replays);
typedef void replay_fn(struct unit *unit, const void *context);
void replay_each(const struct replays *replays, replay_fn *function, const void *context);
/* The communicator goes; its units stay until their graphs are gone. */
void replay_close(tutti_comm *comm);

/* ---- one unit (stream_advance.c) ---- */

/* One look at a unit of the list, by the proxy; true if anything moved. *over: it can be ended. */
bool unit_advance(struct unit *unit, struct unit *list, bool *over);
/* Its streams go on, whatever it still had to do. */
void unit_release(struct unit *unit);
/* Those of its replays that nobody saw come go on, too, and do nothing. */
void unit_answer(struct unit *unit);

/* ---- one that failed (stream_quiet.c) ---- */

/* Whether all that it gave its queues for failed communicators is over, or not waited for. */
bool unit_is_quiet(struct unit *unit);

/* ---- the thread (stream_proxy.c) ---- */

tutti_status proxy_start(void);
/* Takes the unit. */
void proxy_take(struct unit *unit);
/* A number greater than all it gave before. */
uint64_t proxy_next_put(void);
/* So many units that are over wait for the next of their streams that it should be no more. */
bool proxy_keeps_many(void);
/* Fails a communicator that the proxy is inside of, for this rank's reason; false: it is not. */
bool proxy_fail(tutti_comm *comm, tutti_status status, const char *sentence);

#endif
