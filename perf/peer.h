/* peer.h: another library that coll_perf can drive through the same loop. Its functions work on
 * the same struct call as a row of cases.c. */
#ifndef PERF_PEER_H
#define PERF_PEER_H

#include "perf/perf.h"

struct peer {
    const char *name;
    /* The communicator of Tutti that has the peer's ranks. NULL: the peer takes the ranks of the
     * one that coll_perf makes, in start, which says what is wrong if it returns false. */
    tutti_status (*comm_create)(tutti_comm **comm);
    bool (*start)(tutti_comm *comm);
    bool (*supports)(const struct call *call);
    /* 0, or the peer's error code. */
    int (*run)(const struct call *call);
    void (*barrier)(void);
    void *(*alloc)(size_t bytes);
    void (*free)(void *memory);
    /* With comm_create: this rank among those of its host, for binding; and the end of the program.
     */
    int (*local_rank)(void);
    void (*finish)(int status);
};

/* The peer this program was built with, started; NULL: none. */
const struct peer *peer_open(int *argc, char ***argv);
/* Replaces this process by the program that has the peer: with --ranks under the peer's launcher if
 * it has one, else as it stands. Returns only on failure, with the exit status. */
int peer_exec(const struct options *options, int argc, char **argv);

#endif
