/* peer.h: another library that coll_perf can drive through the same loop. Its functions work on
 * the same struct call as a row of cases.c. Each is linked with coll_perf's objects into a program
 * of its own, coll_perf_NAME. */
#ifndef PERF_PEER_H
#define PERF_PEER_H

#include "perf/perf.h"

/* What --peer can name: peers.c has the list. */
enum { LAUNCHERS_MAX = 2, LAUNCHER_WORDS_MAX = 6, PEER_SOCKETS_MAX = 2 };
struct peer_kind {
    const char *name;    /* after --peer */
    const char *title;   /* of the library */
    const char *package; /* Debian's, with its headers */
    /* What starts its ranks, the first that is there; none: ranks start as without a peer. */
    const char *launchers[LAUNCHERS_MAX];
    const char *words[LAUNCHER_WORDS_MAX]; /* between the launcher and the number of ranks */
    /* Its settings for messages over sockets, also inside a host: set with --transport tcp, unless
     * the environment has them. None: it takes what it likes. */
    struct {
        const char *variable, *value;
    } sockets[PEER_SOCKETS_MAX];
};
extern const struct peer_kind peer_kinds[];
extern const size_t peer_kind_count;

struct peer {
    const char *name;    /* of a peer_kind */
    const char *version; /* "Open MPI 4.1.4" */
    /* The communicator of Tutti that has the peer's ranks. NULL: the peer takes the ranks of the
     * one that coll_perf makes, in start, which says what is wrong if it returns false. */
    tutti_status (*comm_create)(tutti_comm **comm);
    bool (*start)(tutti_comm *comm);
    bool (*supports)(const struct call *call);
    /* Does this rank's result lie where Tutti's does? Otherwise it cannot be checked. */
    bool (*comparable)(const struct call *call);
    /* 0, or the peer's error code. */
    int (*run)(const struct call *call);
    void (*barrier)(void);
    void *(*alloc)(size_t bytes);
    void (*free)(void *memory);
    /* With comm_create: this rank among those of its host, for binding. */
    int (*local_rank)(void);
    void (*finish)(int status);
};

/* The peer this program was built with, started if comm_create is its; NULL: none. */
const struct peer *peer_open(int *argc, char ***argv);
/* Replaces this process by the program that has options->peer_kind: with --ranks under its launcher
 * if it has one, else as it stands. Returns only on failure, with the exit status. */
int peer_exec(const struct options *options, int argc, char **argv);

#endif
