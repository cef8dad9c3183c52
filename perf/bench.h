/* bench.h: one rank's side of a run, and the measurement of one call. */
#ifndef PERF_BENCH_H
#define PERF_BENCH_H

#include "perf/check.h"
#include "perf/peer.h"
#include "perf/perf.h"

enum { RECORD_VALUES = 6 };

/* What ranks tell each other between measurements, through one allgather. */
struct record {
    uint64_t sequence; /* equal at all ranks, or they have lost step */
    int64_t rank;
    double values[RECORD_VALUES];
};

struct bench {
    const struct options *options;
    tutti_comm *comm;
    int rank, size, hosts;
    const struct peer *peer;        /* NULL without --peer */
    struct arena in, out;           /* from the library */
    struct arena peer_in, peer_out; /* from the peer's allocator */
    unsigned char *fresh;           /* what each call's IN is written from; NULL: it stays */
    struct data data;               /* of the type and operation in hand */
    tutti_op premulsum;             /* of the type in hand; 0: none */
    struct call call;               /* with room for [size] counts, displs, segments */
    struct record *records;         /* [size] */
    uint64_t sequence;
    double *samples; /* [samples_max] microseconds */
    size_t samples_max;
    char finding[640]; /* the first wrong element of this rank, or why it has no buffers */
};

/* Prints "coll_perf: rank R: WHAT: the library's sentence" and ends the process with EXIT_RUN. */
_Noreturn void bench_die(const struct bench *bench, const char *what);

/* Makes buffers for the options' sizes. False: there is no room for them, and finding says why; the
 * bench can only exchange then, and be closed. */
bool bench_open(struct bench *bench, const struct options *options, tutti_comm *comm);
void bench_close(struct bench *bench);

/* Sets type and operation for the calls that follow; OP_NONE for calls that only move data. */
void bench_choose(struct bench *bench, tutti_dtype dtype, unsigned op_choice);
/* Lays out bench->call and points it at the buffers. */
void bench_shape(struct bench *bench, const struct perf_case *row, int root, bool in_place,
                 uint64_t bytes);
/* Times and checks bench->call on every rank; all ranks get the same result. */
void bench_measure(struct bench *bench, struct timing *timing);
/* Gives values to all ranks: bench->records has them after. */
void bench_exchange(struct bench *bench, const double *values, size_t count);
double bench_now_us(void);

#endif
