/* world.h: runs a function as every rank of a communicator, as threads or as processes. */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include "tutti/tutti.h"

enum world_kind { WORLD_THREADS, WORLD_PROCESSES };

/* Returns the number of things that were wrong at this rank; prints what it finds wrong. */
typedef int world_fn(tutti_comm *comm, int rank, int size, void *context);

struct world {
    enum world_kind kind;
    int size;
    const char *const *settings; /* "TUTTI_X=value", NULL-terminated; NULL: none */
    unsigned limit_s;            /* processes: all are killed after this; 0: 60 */
    int doomed, doomed_too;      /* 1 + ranks that are expected to be killed; 0: none */
    void (*prepare)(int rank);   /* in the rank's thread or process, before its communicator */
    int (*after)(int rank);      /* likewise, when that is destroyed; returns what is wrong */
};

/* Processes are on the hosts named by TUTTI_TEST_HOSTS (hosts.h); threads are where the test is.
 * The sum of what the ranks returned; a rank that could not make its communicator, crashed or ran
 * into the limit counts as 1,000. */
int world_run(const struct world *world, world_fn *function, void *context);

/* Prints a complaint with its rank and counts 1 when ok is false: wrong += world_check(...). */
int world_check(int rank, int ok, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same for a call of the library: it ends in this status; its sentence has this part. */
#define WORLD_TAKEN(call, want)                                                                    \
    world_check(rank, (call) == (want), "%s: expected %s, last error: %s", #call,                  \
                tutti_status_string(want), tutti_last_error())
#define WORLD_OK(call) WORLD_TAKEN(call, TUTTI_OK)
int world_says(int rank, const char *part);

/* How ranks of a world wait for each other beside the library: each tells, and whoever must wait
 * does so until as many have (at most 20 s: that counts 1). */
void world_tell(void);
int world_await(int rank, int told);
/* Waits outside the library until every rank has come here as often as this one (at most 20 s: that
 * counts 1). `after` is what all have then ended, for a complaint that names who has not. */
int world_apart(int rank, int size, const char *after);
/* In half of all cases one rank waits, until another one comes to its next world_apart, or for some
 * ms where none can without it. choice: a random number, the same at every rank, that says which.
 */
void world_be_late(int rank, int size, uint64_t choice);

double world_seconds(void); /* monotonic */
/* What a bound on time is multiplied by. */
#ifdef __SANITIZE_THREAD__
#define WORLD_SLOW 3
#else
#define WORLD_SLOW 1
#endif

#endif
