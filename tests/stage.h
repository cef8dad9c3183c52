/* stage.h: players of one rendezvous in several processes. */
#ifndef TESTS_STAGE_H
#define TESTS_STAGE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "tests/players.h"

#define RANKS_MAX 8

/* In memory that processes share: each rank's part, and the id once it is made. */
struct stage {
    atomic_int ready;
    int cancel;
    atomic_bool gone;      /* the maker */
    struct settings maker; /* of the id */
    tutti_unique_id id;
    struct player players[RANKS_MAX];
};

struct stage *stage_new(uint32_t size, uint64_t timeout_ms);
void stage_end(struct stage *stage);
/* Makes the id, and lets those go on that wait for it. */
void make_id(struct stage *stage);
/* A process of these ranks, as threads. */
pid_t fork_ranks(struct stage *stage, unsigned mask);
/* These ranks, as threads of this process; one alone in the calling thread. */
void play_ranks(struct stage *stage, unsigned mask);

#endif
