/* algorithm.h: the contract of an algorithm, and the table of them all.
 *
 * To add one: a file with a `const struct algorithm`, a line in table.c, a line in meson.build. */
#ifndef ALGORITHMS_ALGORITHM_H
#define ALGORITHMS_ALGORITHM_H

#include "algorithms/schedule.h"

struct knobs {
    uint64_t chunk_bytes; /* size of a pipelined piece; never 0; emitters round to whole elements */
    uint32_t lanes;       /* 1..LANES_MAX */
};

/* What a plan costs: on the critical path, per level. Verified against the simulated plans, in the
 * sense of verify_cost.c: rounds are message flights one after the other, bytes what the busiest
 * rank sends at that level. */
struct cost {
    double rounds[LEVEL_COUNT];
    double bytes[LEVEL_COUNT];
    /* Sent or received by the busiest rank; may stay 0 if no more than rounds. */
    double messages[LEVEL_COUNT];
    /* Added to the time of bytes, not sent: what passes at that level while a pipeline fills, and
     * what is received beyond that; less what others read at once. */
    double pipeline_bytes[LEVEL_COUNT];
    double host_bytes;   /* sent, or received if more, between nodes by the busiest node's ranks */
    double hidden_us;    /* of what is counted above goes on at the same time */
    double reduce_bytes; /* reduced by the busiest rank */
    double copy_bytes;   /* copied locally by the busiest rank */
    /* Land beside the buffers before they are reduced, where a rank works in place. Which ranks do
     * is local to them, so this is counted of all. */
    double landed_bytes;
};

struct algorithm {
    tutti_coll coll;
    const char *name;   /* "ring"; unique within the collective */
    const char *source; /* paper and section */
    /* Can it emit for this shape? Must give the same answer on every rank. */
    bool (*fits)(const struct shape *shape);
    /* What `fits` asks of the hosts, for sentences: "it needs ..."; NULL: nothing. */
    const char *needs;
    /* Must give the same answer on every rank: depends on nothing that is local to one. */
    void (*cost)(const struct shape *shape, const struct knobs *knobs, struct cost *cost);
    /* Emits shape->rank's own program, in time proportional to its own steps. */
    void (*emit)(const struct shape *shape, const struct knobs *knobs, struct builder *builder);
};

#define NEEDS_EQUAL_HOSTS "several hosts, each with the same number of ranks, 2 or more"

/* NULL-terminated, in table order. */
extern const struct algorithm *const algorithm_table[];
const struct algorithm *algorithm_find(tutti_coll coll, const char *name); /* NULL if none */

#endif
