/* report.h: what rank 0 prints: the table of nccl-tests, JSON, CSV, progress, the summary. */
#ifndef PERF_REPORT_H
#define PERF_REPORT_H

#include "perf/peer.h"
#include "perf/perf.h"
#include <stdio.h>

/* One rank, as the head of the table shows it. */
struct rank_info {
    int64_t pid;
    int32_t cpu; /* -1: not bound to one */
    char host[68];
};

/* The best row of a collective and the plans it used. */
enum { SUMMARY_PLANS_MAX = 8 };
struct summary {
    const struct perf_case *row;
    double best_gbps, best_us;
    struct row best;
    bool best_in_place;
    struct {
        char text[64];
        uint64_t first_bytes, last_bytes;
    } plans[SUMMARY_PLANS_MAX];
    size_t plan_count;
    tutti_dtype plan_dtype;
    unsigned plan_op;
};

struct report {
    const struct options *options;
    int size, hosts;
    const struct peer *peer; /* NULL: none */
    char transport[256];     /* what TUTTI_TRANSPORTS is, whoever set it */
    bool terminal;
    FILE *json, *csv;
    int table_error, json_error, csv_error; /* why the first write failed; 0: none did */
    bool json_begun;
    uint64_t wrong;
    double busbw_sum; /* of the table in hand, as its footer shows it */
    uint64_t busbw_count, table_wrong;
    struct summary summaries[CASES_MAX];
    size_t summary_count;
};

/* Opens the files; prints the mistake and returns false when one cannot be written. */
bool report_open(struct report *report, const struct options *options, int size, int hosts,
                 const struct peer *peer);
void report_head(struct report *report, const struct rank_info *infos);
void report_table_begin(struct report *report, const struct perf_case *row);
void report_table_end(struct report *report);
/* A line on a terminal that the next row replaces. */
void report_progress(struct report *report, const struct perf_case *row, const char *what,
                     uint64_t bytes);
void report_row(struct report *report, const struct row *row);
/* A comment in the table: each line of text behind "# ". */
void report_note(struct report *report, const char *text);
/* Prints the summary and finishes the files; false with a sentence when a file was not written. */
bool report_close(struct report *report);

#endif
