/* perf.h: what the files of coll_perf share: the options of a run, one call of a collective with
 * its layout, one row of results. See README.md for the source map. */
#ifndef PERF_PERF_H
#define PERF_PERF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <tutti/tutti.h>

/* Exit statuses. EXIT_WRONG: a checked element differed. EXIT_USAGE: a mistake in the command line
 * or in a setting. EXIT_RUN: the library, a rank or the machine failed; a sentence on stderr says
 * how. */
enum { EXIT_GOOD = 0, EXIT_WRONG = 1, EXIT_USAGE = 2, EXIT_RUN = 3 };

/* Operations are numbered as in tutti_op, then one more: the pre-multiplied sum, whose tutti_op
 * exists only with a communicator. */
enum { OP_PREMULSUM = TUTTI_OP_COUNT, OP_CHOICES, OP_NONE = OP_CHOICES };

enum { CASES_MAX = 16 };
enum bind { BIND_CORE, BIND_NONE };
enum memory { MEMORY_LIB, MEMORY_MALLOC, MEMORY_CUDA };
enum average { AVERAGE_RANK0, AVERAGE_MEAN, AVERAGE_MIN, AVERAGE_MAX };

struct perf_case;
struct peer;
struct peer_kind;

struct options {
    const struct perf_case *cases[CASES_MAX];
    size_t case_count;
    uint64_t min_bytes, max_bytes;
    uint64_t step_bytes; /* added from size to size; 0: multiply by factor */
    uint64_t factor;
    uint64_t iters;    /* 0: as many as fit budget_ms */
    uint64_t warmup;   /* 0 allowed */
    bool warmup_fixed; /* -w was given */
    unsigned checks;   /* checked repetitions per measurement; 0: none */
    bool dtypes[TUTTI_DTYPE_COUNT];
    bool ops[OP_CHOICES];
    int root; /* -1: every rank in turn */
    enum average average;
    double budget_ms; /* time one measurement may take */
    unsigned ranks;   /* 0: the launcher says */
    unsigned threads; /* ranks per process, as threads */
    enum bind bind;
    enum memory memory;
    bool rewrite;                                 /* IN is written before each call */
    const char *transport, *algo, *lanes, *chunk; /* NULL: as the environment says */
    const char *json, *csv;
    bool verbose, settings;
    const struct peer_kind *peer_kind; /* the library to compare with; NULL: none */
    const struct peer *peer;           /* set by main: what this program has, asked for or not */
    unsigned blocks;                   /* interleaved blocks per library with --peer */
};

/* Reads argv; prints help or the mistake itself. Returns -1 to go on, else the exit status. */
int options_read(struct options *options, int argc, char **argv);
/* Carries --transport, --algo, --lanes and --chunk into the TUTTI_* settings. */
void options_apply(const struct options *options);
/* "tutti_mem_alloc", "malloc", "cuda". */
const char *memory_name(enum memory memory);
/* The spelling of nccl-tests for its table: "float", "half", "mulsum". */
const char *table_dtype_name(tutti_dtype dtype);
const char *table_op_name(unsigned op);
/* The library's own spelling: "float32", "premulsum"; "none" for OP_NONE. */
const char *op_choice_name(unsigned op);
/* "64K" for 65536; a plain number when it is no multiple. text has at least 24 bytes. */
const char *size_text(uint64_t bytes, char *text);

/* A run of OUT elements and where they must come from. */
enum { SOURCE_REDUCED = -1 };
struct segment {
    size_t at, count; /* elements of OUT */
    int source;       /* a rank, or SOURCE_REDUCED */
    size_t start;     /* element of the source's IN */
};

/* One rank's part in one call: what is passed, and what must come out. */
struct call {
    const struct perf_case *row;
    int rank, size, root;
    tutti_dtype dtype;
    size_t elem_size;
    unsigned op_choice;
    tutti_op op;
    bool in_place;                /* this rank passes one buffer */
    size_t count;                 /* in the sense of tutti.h; 0 in v forms */
    size_t *counts, *displs;      /* [size]; v forms. Both sides of alltoallv are alike */
    size_t in_extent, out_extent; /* elements with gaps; 0: no such buffer at this rank */
    size_t in_at, out_at;         /* in place: elements from the start of the one buffer */
    uint64_t bytes;               /* the size column */
    uint64_t table_count;         /* the count column */
    struct segment *segments;     /* [size], ascending */
    size_t segment_count;
    const void *in;
    void *out;
};

/* A row of the table of collectives. */
struct perf_case {
    tutti_coll coll;
    const char *name; /* also a word of the command line; underscores there are optional */
    bool has_root, reduces, has_data, can_in_place;
    /* Lays the call out for about `bytes` of the larger buffer: at least one element per block
     * unless bytes is 0. Reads rank, size, root, elem_size, in_place; sets the rest up to
     * segment_count. */
    void (*shape)(struct call *call, uint64_t bytes);
    tutti_status (*run)(const struct call *call, tutti_comm *comm);
};
extern const struct perf_case perf_cases[];
extern const size_t perf_case_count;
enum { CASE_GAP = 5 }; /* elements left free between the blocks of v forms */

/* What one placement (out of place or in place) of one row measured. */
struct timing {
    bool measured, checked;
    double mean_us, min_us, median_us, p99_us;
    uint64_t iters, wrong;
    /* with --peer: medians over blocks; ratio is the median of block ratios ours / theirs, low and
     * high its quartiles (a shared machine makes the extremes of any loop meaningless) */
    bool peer_measured;
    double peer_us, ratio, ratio_low, ratio_high;
};

struct row {
    const struct perf_case *row;
    uint64_t bytes, count;
    tutti_dtype dtype;
    unsigned op_choice;
    int root; /* -1: none */
    struct timing timing[2];
    char plan[64]; /* the planner's choice: the algorithm; "": not known */
    uint64_t chunk_bytes;
    unsigned lanes;
    double predicted_us;
};

static inline double algorithm_gbps(const struct row *row, double us)
{
    return us > 0 ? (double)row->bytes / us / 1e3 : 0;
}

#endif
