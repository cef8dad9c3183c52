/* launch.h: ranks of one machine without any launcher: processes, threads, or both. */
#ifndef PERF_LAUNCH_H
#define PERF_LAUNCH_H

#include "perf/perf.h"

/* What a launched rank knows. */
struct seat {
    int rank, size;
    const tutti_unique_id *id;
    int cpu; /* bound to it; -1: not bound */
};

/* Starts options->ranks processes of options->threads threads each (0 counts as 1), calls body in
 * every one, and returns the worst exit status. Nothing is left running when it returns. */
int launch(const struct options *options,
           int (*body)(const struct options *options, const struct seat *seat));

#endif
