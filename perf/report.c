/* report.c: the table in nccl-tests' layout, JSON, CSV, the summary.
 *
 * Everything that is not a row of the table begins with '#', so that programs which read
 * nccl-tests' output read this one. One table per collective, each with the two footer lines. With
 * --peer, columns follow behind those of nccl-tests; the first thirteen stay what they are. */
#include "perf/report.h"
#include "algorithms/coll.h"
#include "perf/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { HEAD_RANKS_MAX = 16 };

static double bus_gbps(const struct report *report, const struct row *row, double us)
{
    return algorithm_gbps(row, us) * coll_bus_factor(row->row->coll, (uint32_t)report->size);
}

static FILE *open_file(const char *path, bool *good)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        fprintf(stderr, "coll_perf: cannot write %s: %s\n", path, strerror(errno));
        *good = false;
    }
    return file;
}

bool report_open(struct report *report, const struct options *options, int size, int hosts,
                 const struct peer *peer)
{
    bool good = true;
    *report = (struct report){.options = options,
                              .size = size,
                              .hosts = hosts,
                              .peer = peer,
                              .terminal = isatty(STDERR_FILENO)};
    tutti_setting_get("TUTTI_TRANSPORTS", report->transport, sizeof report->transport);
    if (options->json)
        report->json = open_file(options->json, &good);
    if (options->csv)
        report->csv = open_file(options->csv, &good);
    return good;
}

static void json_text(FILE *file, const char *text)
{
    fputc('"', file);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(file, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(file, "\\u%04x", *c);
        else
            fputc(*c, file);
    }
    fputc('"', file);
}

static void json_head(struct report *report, const struct rank_info *infos)
{
    FILE *file = report->json;
    fprintf(file, "{\n  \"tool\": \"coll_perf\",\n  \"tutti_version\": %d,\n", tutti_version());
    fprintf(file, "  \"ranks\": %d,\n  \"hosts\": %d,\n", report->size, report->hosts);
    fprintf(file, "  \"transport\": ");
    json_text(file, report->transport);
    fprintf(file,
            ",\n  \"rewrite\": %s,\n  \"peer\": ", report->options->rewrite ? "true" : "false");
    if (report->peer)
        json_text(file, report->peer->version);
    else
        fputs("null", file);
    fprintf(file, ",\n  \"places\": [");
    for (int r = 0; r < report->size; r++) {
        fprintf(file, "%s\n    {\"rank\": %d, \"pid\": %lld, \"cpu\": %d, \"host\": ", r ? "," : "",
                r, (long long)infos[r].pid, (int)infos[r].cpu);
        json_text(file, infos[r].host);
        fputc('}', file);
    }
    fprintf(file, "\n  ],\n  \"rows\": [");
    output_flush(file, &report->json_error);
}

void report_head(struct report *report, const struct rank_info *infos)
{
    const struct options *o = report->options;
    char step[24];
    printf("# coll_perf, tutti %d.%d.%d: %d rank%s on %d host%s, transport %s, memory %s%s%s%s\n",
           tutti_version() / 10000, tutti_version() / 100 % 100, tutti_version() % 100,
           report->size, report->size == 1 ? "" : "s", report->hosts, report->hosts == 1 ? "" : "s",
           report->transport, memory_name(o->memory),
           o->rewrite ? ", input written before each call" : "", report->peer ? ", beside " : "",
           report->peer ? report->peer->version : "");
    printf("# nThread %u minBytes %llu maxBytes %llu step: %s(%s) warmup iters: %llu iters: ",
           o->threads ? o->threads : 1, (unsigned long long)o->min_bytes,
           (unsigned long long)o->max_bytes,
           size_text(o->step_bytes ? o->step_bytes : o->factor, step),
           o->step_bytes ? "bytes" : "factor", (unsigned long long)o->warmup);
    if (o->iters)
        printf("%llu", (unsigned long long)o->iters);
    else
        printf("as fit %g ms", o->budget_ms);
    printf(" validation: %u\n#\n# Using ranks\n", o->checks);
    for (int r = 0; r < report->size && r < HEAD_RANKS_MAX; r++) {
        printf("#  Rank %2d Pid %6lld on %s", r, (long long)infos[r].pid, infos[r].host);
        if (infos[r].cpu >= 0)
            printf(" core %d", (int)infos[r].cpu);
        putchar('\n');
    }
    if (report->size > HEAD_RANKS_MAX)
        printf("#  ... and %d more\n", report->size - HEAD_RANKS_MAX);
    if (report->size == 1 && o->ranks + o->threads == 0)
        printf(
            "#  One rank: --ranks N starts local ones, mpirun, srun or torchrun those of a job\n");
    printf("#\n");
    output_flush(stdout, &report->table_error);
    if (report->json)
        json_head(report, infos);
    if (report->csv) {
        fprintf(report->csv,
                "collective,ranks,hosts,transport,in_place,bytes,count,type,op,root,time_us,"
                "algbw_gbps,busbw_gbps,wrong,min_us,median_us,p99_us,iters,peer_us,ratio,"
                "ratio_low,ratio_high,plan,predicted_us,peer\n");
        output_flush(report->csv, &report->csv_error);
    }
}

void report_table_begin(struct report *report, const struct perf_case *row)
{
    report->busbw_sum = 0;
    report->busbw_count = report->table_wrong = 0;
    bool known = false;
    for (size_t i = 0; i < report->summary_count; i++)
        known = known || report->summaries[i].row == row;
    if (!known)
        report->summaries[report->summary_count++].row = row;
    printf("# Collective: %s\n#\n", row->name);
    printf("# %10s  %12s  %8s  %6s  %6s           out-of-place                       in-place"
           "          ",
           "", "", "", "", "");
    if (report->peer)
        printf("   %-33s", "out-of-place, Tutti / peer");
    printf("%s\n", report->peer ? "in-place, Tutti / peer" : "");
    printf("# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s %6s  %7s  %6s  %6s %6s", "size", "count",
           "type", "redop", "root", "time", "algbw", "busbw", "#wrong", "time", "algbw", "busbw",
           "#wrong");
    for (int i = 0; report->peer && i < 2; i++)
        printf("  %9s  %6s  %-13s", report->peer->name, "ratio", "quartiles");
    printf("\n# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %5s  %7s  %6s  %6s  %5s", "(B)",
           "(elements)", "", "", "", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "(GB/s)", "(GB/s)",
           "");
    for (int i = 0; report->peer && i < 2; i++)
        printf("  %9s  %6s  %-13s", "(us)", "", "");
    printf("\n");
    output_flush(stdout, &report->table_error);
}

void report_table_end(struct report *report)
{
    printf("# Out of bounds values : %llu %s\n", (unsigned long long)report->table_wrong,
           report->table_wrong ? "FAILED" : "OK");
    printf("# Avg bus bandwidth    : %g \n#\n",
           report->busbw_count ? report->busbw_sum / (double)report->busbw_count : 0.0);
    output_flush(stdout, &report->table_error);
}

void report_progress(struct report *report, const struct perf_case *row, const char *what,
                     uint64_t bytes)
{
    char text[24];
    if (report->terminal) {
        fprintf(stderr, "\r\033[K%s, %s, %s ...\r", row->name, what, size_text(bytes, text));
        fflush(stderr);
    }
}

static void clear_progress(const struct report *report)
{
    if (report->terminal) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

static const char *time_text(double us, char *text, size_t len)
{
    snprintf(text, len, us >= 10000 ? "%7.0f" : us >= 100 ? "%7.1f" : "%7.2f", us);
    return text;
}

static void print_timing(const struct report *report, const struct row *row,
                         const struct timing *timing)
{
    char time[32];
    if (!timing->measured) { /* there is no such call */
        printf("  %7s  %6s  %6s  %5s", "-", "-", "-", "-");
        return;
    }
    printf("  %7s", time_text(timing->mean_us, time, sizeof time));
    if (row->row->has_data)
        printf("  %6.2f  %6.2f", algorithm_gbps(row, timing->mean_us),
               bus_gbps(report, row, timing->mean_us));
    else
        printf("  %6s  %6s", "-", "-");
    if (timing->checked)
        printf("  %5g", (double)timing->wrong);
    else
        printf("  %5s", "N/A");
}

static void print_ratio(const struct timing *timing)
{
    char time[32], range[32];
    if (!timing->peer_measured) {
        const char *none = timing->measured ? "N/A" : "-";
        printf("  %9s  %6s  %-13s", none, none, "");
        return;
    }
    snprintf(range, sizeof range, "%.2f-%.2f", timing->ratio_low, timing->ratio_high);
    printf("  %9s  %6.2f  %-13s", time_text(timing->peer_us, time, sizeof time), timing->ratio,
           range);
}

static void json_row(struct report *report, const struct row *row)
{
    FILE *file = report->json;
    static const char *const places[] = {"out_of_place", "in_place"};
    fprintf(file, "%s\n    {\"collective\": \"%s\", \"bytes\": %llu, \"count\": %llu, ",
            report->json_begun ? "," : "", row->row->name, (unsigned long long)row->bytes,
            (unsigned long long)row->count);
    fprintf(file, "\"type\": \"%s\", \"op\": \"%s\", \"root\": %d, \"plan\": ",
            tutti_dtype_name(row->dtype), op_choice_name(row->op_choice), row->root);
    json_text(file, row->plan);
    if (row->plan[0])
        fprintf(file, ", \"chunk\": %llu, \"lanes\": %u, \"predicted_us\": %.3f",
                (unsigned long long)row->chunk_bytes, row->lanes, row->predicted_us);
    for (unsigned i = 0; i < 2; i++) {
        const struct timing *t = &row->timing[i];
        fprintf(file, ",\n     \"%s\": ", places[i]);
        if (!t->measured) {
            fprintf(file, "null");
            continue;
        }
        fprintf(file, "{\"time_us\": %.3f, \"algbw_gbps\": %.4f, \"busbw_gbps\": %.4f, ",
                t->mean_us, algorithm_gbps(row, t->mean_us), bus_gbps(report, row, t->mean_us));
        fprintf(file, "\"min_us\": %.3f, \"median_us\": %.3f, \"p99_us\": %.3f, \"iters\": %llu, ",
                t->min_us, t->median_us, t->p99_us, (unsigned long long)t->iters);
        if (t->checked)
            fprintf(file, "\"wrong\": %llu", (unsigned long long)t->wrong);
        else
            fprintf(file, "\"wrong\": null");
        if (t->peer_measured)
            fprintf(file,
                    ", \"peer_us\": %.3f, \"ratio\": %.4f, \"ratio_low\": %.4f, "
                    "\"ratio_high\": %.4f",
                    t->peer_us, t->ratio, t->ratio_low, t->ratio_high);
        fputc('}', file);
    }
    fputc('}', file);
    report->json_begun = true;
    output_flush(file, &report->json_error);
}

static void csv_row(struct report *report, const struct row *row)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct timing *t = &row->timing[i];
        if (!t->measured)
            continue;
        FILE *file = report->csv;
        fprintf(file, "%s,%d,%d,\"%s\",%u,%llu,%llu,%s,%s,%d,", row->row->name, report->size,
                report->hosts, report->transport, i, (unsigned long long)row->bytes,
                (unsigned long long)row->count, tutti_dtype_name(row->dtype),
                op_choice_name(row->op_choice), row->root);
        fprintf(file, "%.3f,%.4f,%.4f,", t->mean_us, algorithm_gbps(row, t->mean_us),
                bus_gbps(report, row, t->mean_us));
        if (t->checked)
            fprintf(file, "%llu", (unsigned long long)t->wrong);
        fprintf(file, ",%.3f,%.3f,%.3f,%llu,", t->min_us, t->median_us, t->p99_us,
                (unsigned long long)t->iters);
        if (t->peer_measured)
            fprintf(file, "%.3f,%.4f,%.4f,%.4f", t->peer_us, t->ratio, t->ratio_low, t->ratio_high);
        else
            fputs(",,,", file);
        fprintf(file, ",%s,", row->plan);
        if (row->plan[0])
            fprintf(file, "%.3f", row->predicted_us);
        fprintf(file, ",%s\n", report->peer ? report->peer->version : "");
        output_flush(file, &report->csv_error); /* a run that is stopped keeps its rows */
    }
}

static void summarise(struct report *report, const struct row *row)
{
    struct summary *summary = NULL;
    for (size_t i = 0; i < report->summary_count; i++) {
        if (report->summaries[i].row == row->row)
            summary = &report->summaries[i];
    }
    for (unsigned i = 0; i < 2; i++) {
        const struct timing *timing = &row->timing[i];
        if (!timing->measured)
            continue;
        double gbps = bus_gbps(report, row, timing->mean_us);
        bool better = row->bytes == 0 ? summary->best_us == 0 || timing->mean_us < summary->best_us
                                      : gbps > summary->best_gbps;
        if (better) {
            summary->best_gbps = gbps;
            summary->best_us = timing->mean_us;
            summary->best = *row;
            summary->best_in_place = i == 1;
        }
    }
    /* plans by size: of the first type and operation, the others differ little */
    size_t p = summary->plan_count;
    if (p == 0) {
        summary->plan_dtype = row->dtype;
        summary->plan_op = row->op_choice;
    }
    if (row->plan[0] == '\0' || row->dtype != summary->plan_dtype ||
        row->op_choice != summary->plan_op)
        return;
    if (p > 0 && strcmp(summary->plans[p - 1].text, row->plan) == 0) {
        summary->plans[p - 1].last_bytes = row->bytes;
    } else if (p < SUMMARY_PLANS_MAX) {
        snprintf(summary->plans[p].text, sizeof summary->plans[p].text, "%s", row->plan);
        summary->plans[p].first_bytes = summary->plans[p].last_bytes = row->bytes;
        summary->plan_count++;
    }
}

void report_row(struct report *report, const struct row *row)
{
    clear_progress(report);
    printf("%12llu  %12llu  %8s  %6s  %6d", (unsigned long long)row->bytes,
           (unsigned long long)row->count, row->row->has_data ? table_dtype_name(row->dtype) : "-",
           table_op_name(row->op_choice), row->root);
    for (unsigned i = 0; i < 2; i++) {
        const struct timing *timing = &row->timing[i];
        print_timing(report, row, timing);
        if (timing->measured) {
            report->busbw_sum += bus_gbps(report, row, timing->mean_us);
            report->busbw_count++;
            report->table_wrong += timing->wrong;
            report->wrong += timing->wrong;
        }
    }
    for (unsigned i = 0; report->peer && i < 2; i++)
        print_ratio(&row->timing[i]);
    putchar('\n');
    output_flush(stdout, &report->table_error);
    if (report->json)
        json_row(report, row);
    if (report->csv)
        csv_row(report, row);
    summarise(report, row);
}

void report_note(struct report *report, const char *text)
{
    clear_progress(report);
    while (*text) {
        size_t len = strcspn(text, "\n");
        printf("#   %.*s\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
    output_flush(stdout, &report->table_error);
}

static void print_summary(struct report *report)
{
    char text[24], last[24];
    printf("# Summary: %d rank%s, transport %s\n", report->size, report->size == 1 ? "" : "s",
           report->transport);
    for (size_t i = 0; i < report->summary_count; i++) {
        const struct summary *s = &report->summaries[i];
        if (s->best.row == NULL)
            continue;
        if (s->best.bytes == 0)
            printf("#   %-16s %.2f us\n", s->row->name, s->best_us);
        else
            printf("#   %-16s best busbw %6.*f GB/s at %s, %s%s\n", s->row->name,
                   s->best_gbps < 0.1 ? 4 : 2, s->best_gbps, size_text(s->best.bytes, text),
                   tutti_dtype_name(s->best.dtype), s->best_in_place ? ", in place" : "");
        for (size_t p = 0; p < s->plan_count; p++) {
            printf("#   %-16s   %s", "", size_text(s->plans[p].first_bytes, text));
            if (s->plans[p].last_bytes != s->plans[p].first_bytes)
                printf(" to %s", size_text(s->plans[p].last_bytes, last));
            printf(": %s\n", s->plans[p].text);
        }
    }
    output_flush(stdout, &report->table_error);
}

static bool close_file(FILE *file, const char *path, int error)
{
    if (file != NULL)
        output_flush(file, &error);
    if (file != NULL && file != stdout && fclose(file) != 0 && error == 0)
        error = errno;
    if (error != 0)
        fprintf(stderr, "coll_perf: %s was not written completely: %s\n", path, strerror(error));
    return error == 0;
}

bool report_close(struct report *report)
{
    print_summary(report);
    if (report->json && report->options->checks > 0)
        fprintf(report->json, "\n  ],\n  \"wrong\": %llu\n}\n", (unsigned long long)report->wrong);
    else if (report->json)
        fprintf(report->json, "\n  ],\n  \"wrong\": null\n}\n");
    bool json = close_file(report->json, report->options->json, report->json_error);
    bool csv = close_file(report->csv, report->options->csv, report->csv_error);
    bool table = close_file(stdout, "the table", report->table_error);
    return json && csv && table;
}
