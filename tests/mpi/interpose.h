/* interpose.h: what the programs share that are run as they are and over the MPI face. They know
 * MPI alone, and compare each call's result with what they compute themselves.
 *
 * argv[1] says who must have carried the calls out, which a function of the library counts:
 *   mpi    the library is not there;
 *   tutti  it took every call that it can take, and no other;
 *   off    it is there, and took none. */
#ifndef TESTS_INTERPOSE_H
#define TESTS_INTERPOSE_H

#include <mpi.h>
#include <stdbool.h>

extern int rank, size;
extern bool takes;   /* the library is there, and is to take calls */
extern bool threads; /* MPI_THREAD_MULTIPLE */

/* MPI's beginning, after which the above is known, and its end; what main returns. */
void begin(int argc, char **argv);
int end(void);

/* Counts it, and says what is not good. */
void check(bool good, const char *format, ...);

/* How many calls of this name, or of all (NULL), the library has carried out. */
unsigned long taken(const char *name);

/* Runs a call, and sees who carried it out. */
#define CALL(name, ours, ...)                                                                      \
    do {                                                                                           \
        unsigned long before_ = taken(name);                                                       \
        int code_ = (__VA_ARGS__);                                                                 \
        check(code_ == MPI_SUCCESS, "%s returns %d", name, code_);                                 \
        check(taken(name) - before_ == (takes && (ours)), "%s was taken %lu times", name,          \
              taken(name) - before_);                                                              \
    } while (0)

#endif
