/* coll_perf.c: the loop over collectives, types, operations, roots and sizes.
 *
 * Every rank walks the same loop; rank 0 prints. Who the ranks are is decided first: local ones
 * (launch.c), the launcher's (tutti_comm_create_from_env), or those of MPI (peer_mpi.c). */
#include "algorithms/coll.h"
#include "perf/bench.h"
#include "perf/cores.h"
#include "perf/launch.h"
#include "perf/output.h"
#include "perf/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXPLAIN_MAX = 16384 };

/* One rank's run. report is used by rank 0 alone. */
struct run {
    const struct options *options;
    struct bench bench;
    struct report report;
    uint64_t wrong;
    bool head;
    char *explain;
};

/* The library's explanation is shown by -v; its line of the choice ("* ring 65536 1 12.3": name,
 * chunk, lanes, predicted microseconds) goes into the row. A transfer has a price but no plan. */
static void explain(struct run *run, const struct call *call, struct row *row)
{
    unsigned long long chunk = 0;
    tutti_coll coll = call->row->coll;
    bool transfer = coll == TUTTI_COLL_SENDRECV;
    bool is_v = coll_info(coll)->is_v; /* all blocks together */
    size_t count = is_v ? call->bytes / call->elem_size : call->count;
    int root = transfer ? (call->rank + 1) % call->size : call->root;
    const void *out = transfer ? NULL : call->out;
    if (tutti_comm_explain(run->bench.comm, coll, call->in, out, count, call->dtype, call->op, root,
                           run->explain, EXPLAIN_MAX) != TUTTI_OK)
        return;
    if (run->options->verbose)
        report_note(&run->report, run->explain);
    const char *choice = strstr(run->explain, "\n* ");
    if (transfer && tutti_comm_predict(run->bench.comm, coll, call->in, out, count, call->dtype,
                                       call->op, root, &row->predicted_us) == TUTTI_OK) {
        snprintf(row->plan, sizeof row->plan, "link");
        row->lanes = 1;
    } else if (!choice || sscanf(choice, "\n* %63s %llu %u %lf", row->plan, &chunk, &row->lanes,
                                 &row->predicted_us) != 4) {
        row->plan[0] = '\0';
    }
    row->chunk_bytes = chunk;
}

/* One row: the same call out of place, then in place. Returns false when it would repeat the row
 * before (small sizes that round to the same count). */
static bool run_row(struct run *run, const struct perf_case *row, int root, uint64_t bytes,
                    uint64_t *last_bytes)
{
    struct bench *bench = &run->bench;
    const struct call *call = &bench->call;
    struct row result = {.row = row, .root = row->has_root ? root : -1};
    bench_shape(bench, row, root, false, bytes);
    if (call->bytes == *last_bytes)
        return false;
    *last_bytes = result.bytes = call->bytes;
    result.count = call->table_count;
    result.dtype = call->dtype;
    result.op_choice = call->op_choice;
    if (run->head) {
        report_progress(&run->report, row, tutti_dtype_name(call->dtype), result.bytes);
        explain(run, call, &result);
    }
    for (unsigned in_place = 0; in_place < 1u + row->can_in_place; in_place++) {
        bench_shape(bench, row, root, in_place == 1, bytes);
        bench_measure(bench, &result.timing[in_place]);
        run->wrong += result.timing[in_place].wrong;
    }
    if (run->head)
        report_row(&run->report, &result);
    return true;
}

static void run_sizes(struct run *run, const struct perf_case *row, int root)
{
    const struct options *o = run->options;
    uint64_t last = UINT64_MAX;
    for (uint64_t bytes = o->min_bytes; bytes <= o->max_bytes;) {
        run_row(run, row, root, bytes, &last);
        if (!row->has_data)
            break;
        bytes = o->step_bytes ? bytes + o->step_bytes : bytes == 0 ? 1 : bytes * o->factor;
    }
}

static void run_roots(struct run *run, const struct perf_case *row)
{
    bool all = run->options->root < 0 && row->has_root;
    int root = row->has_root && !all ? run->options->root : 0;
    for (int end = all ? run->bench.size : root + 1; root < end; root++)
        run_sizes(run, row, root);
}

static void run_case(struct run *run, const struct perf_case *row)
{
    const struct options *o = run->options;
    if (run->head)
        report_table_begin(&run->report, row);
    for (unsigned d = 0; d < TUTTI_DTYPE_COUNT; d++) {
        if (!o->dtypes[d])
            continue;
        for (unsigned op = 0; op < OP_CHOICES; op++) {
            if (row->reduces && (!o->ops[op] || !data_fits((tutti_dtype)d, op)))
                continue;
            bench_choose(&run->bench, (tutti_dtype)d, row->reduces ? op : OP_NONE);
            run_roots(run, row);
            if (!row->reduces)
                break;
        }
        if (!row->has_data)
            break;
    }
    if (run->head)
        report_table_end(&run->report);
}

/* Tells rank 0 where everybody is, for the head of the table. */
static void introduce(struct run *run, int cpu)
{
    struct bench *bench = &run->bench;
    struct rank_info own = {.pid = getpid(), .cpu = cpu};
    struct rank_info *all = calloc((size_t)bench->size, sizeof own);
    gethostname(own.host, sizeof own.host - 1);
    if (all == NULL || tutti_allgather(&own, all, sizeof own, TUTTI_UINT8, bench->comm) != TUTTI_OK)
        bench_die(bench, "first allgather");
    if (run->head)
        report_head(&run->report, all);
    free(all);
}

/* What is wrong, by the status of each rank, is said by the first that has something to say: it is
 * the same at all others, as a rule. */
static int agree_to_go(struct run *run, double status, bool room)
{
    struct bench *bench = &run->bench;
    int speaker = 0;
    bench_exchange(bench, &status, 1);
    while (speaker + 1 < bench->size && bench->records[speaker].values[0] == EXIT_GOOD)
        speaker++;
    if (!room && speaker == bench->rank)
        fprintf(stderr, "coll_perf: rank %d: %s\n", bench->rank, bench->finding);
    return (int)bench->records[speaker].values[0];
}

/* Everything after the communicator exists; ends it too. */
static int run_all(const struct options *options, tutti_comm *comm, int cpu)
{
    struct run *run = calloc(1, sizeof *run);
    char *text = malloc(EXPLAIN_MAX);
    if (run == NULL || text == NULL) {
        fprintf(stderr, "coll_perf: out of memory\n");
        exit(EXIT_RUN);
    }
    if (options->peer && options->peer->start && !options->peer->start(comm))
        exit(EXIT_RUN);
    run->options = options;
    run->explain = text;
    bool room = bench_open(&run->bench, options, comm);
    run->head = run->bench.rank == 0;
    int bad = room ? EXIT_GOOD : EXIT_RUN;
    if (options->root >= run->bench.size) {
        if (run->head)
            fprintf(stderr, "coll_perf: the root (-r %d) must be below the number of ranks, %d\n",
                    options->root, run->bench.size);
        bad = EXIT_USAGE;
    } else if (room && run->head &&
               !report_open(&run->report, options, run->bench.size, run->bench.hosts,
                            run->bench.peer)) {
        bad = EXIT_RUN;
    }
    int status = agree_to_go(run, bad, room);
    if (status == EXIT_GOOD) {
        introduce(run, cpu);
        for (size_t i = 0; i < options->case_count; i++)
            run_case(run, options->cases[i]);
        if (run->head && options->verbose) {
            tutti_comm_stats_print(comm, text, EXPLAIN_MAX);
            report_note(&run->report, text);
        }
        if (run->head && !report_close(&run->report))
            status = EXIT_RUN;
        else if (run->wrong)
            status = EXIT_WRONG;
    }
    if (tutti_comm_finalize(comm) != TUTTI_OK)
        bench_die(&run->bench, "finalize");
    bench_close(&run->bench);
    tutti_comm_destroy(comm);
    free(text);
    free(run);
    return status;
}

/* A communicator takes the device that its rank already uses, so that comes first. What ranks of
 * one host have in common, no driver, is said by the one that speaks for them. */
static bool use_device(const struct options *options, bool speaks)
{
    void *memory = NULL;
    if (options->memory != MEMORY_CUDA)
        return true;
    tutti_status status = tutti_mem_alloc_in(TUTTI_MEMORY_CUDA, 1, &memory);
    if (status == TUTTI_OK)
        status = tutti_mem_free(memory);
    if (status != TUTTI_OK && (speaks || status != TUTTI_ERR_UNSUPPORTED))
        fprintf(stderr, "coll_perf: --memory cuda: %s\n", tutti_last_error());
    return status == TUTTI_OK;
}

static int run_and_finish(const struct options *options, tutti_comm *comm, int cpu)
{
    int status = run_all(options, comm, cpu);
    if (options->peer)
        options->peer->finish(status);
    return status;
}

static int seat_main(const struct options *options, const struct seat *seat)
{
    tutti_comm *comm;
    if (!use_device(options, seat->rank == 0))
        return EXIT_RUN;
    tutti_status status = tutti_comm_create(seat->size, seat->id, seat->rank, &comm);
    if (status == TUTTI_ERR_SETTING) { /* all ranks have the same ones */
        if (seat->rank == 0)
            fprintf(stderr, "coll_perf: %s\n", tutti_last_error());
        return EXIT_USAGE;
    }
    if (status != TUTTI_OK) {
        fprintf(stderr, "coll_perf: rank %d of %d: %s\n", seat->rank, seat->size,
                tutti_last_error());
        return EXIT_RUN;
    }
    return run_and_finish(options, comm, seat->cpu);
}

static int environment_main(const struct options *options)
{
    tutti_comm *comm;
    if (!use_device(options, true))
        return EXIT_RUN;
    tutti_status status = tutti_comm_create_from_env(&comm);
    if (status != TUTTI_OK) {
        fprintf(stderr, "coll_perf: %s\n", tutti_last_error());
        return status == TUTTI_ERR_SETTING ? EXIT_USAGE : EXIT_RUN;
    }
    return run_and_finish(options, comm, -1);
}

static int peer_main(const struct options *options)
{
    tutti_comm *comm;
    const struct peer *peer = options->peer;
    int cpu = options->bind == BIND_CORE ? cores_bind((unsigned)peer->local_rank()) : -1;
    tutti_status status = peer->comm_create(&comm);
    if (status == TUTTI_OK)
        return run_and_finish(options, comm, cpu);
    bool setting = status == TUTTI_ERR_SETTING; /* said once per host, as without a peer */
    if (!setting || peer->local_rank() == 0)
        fprintf(stderr, "coll_perf: %s\n", tutti_last_error());
    int result = setting ? EXIT_USAGE : EXIT_RUN;
    peer->finish(result);
    return result;
}

/* Of what can be said before there are ranks, one of them need not speak for all. */
static bool settings_good(void)
{
    char text[64];
    if (tutti_setting_get("TUTTI_LOG", text, sizeof text) != TUTTI_ERR_SETTING)
        return true;
    fprintf(stderr, "coll_perf: %s\n", tutti_last_error());
    return false;
}

static int print_settings(void)
{
    size_t len = tutti_settings_print(NULL, 0) + 1;
    char *text = malloc(len);
    if (text == NULL)
        return EXIT_RUN;
    tutti_settings_print(text, len);
    fputs(text, stdout);
    bool written = output_end("coll_perf");
    free(text);
    if (!written)
        return EXIT_RUN;
    if (settings_good())
        return EXIT_GOOD;
    fputs("coll_perf: until that is mended, every value shown is the default\n", stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct options options;
    output_hold();
    int status = options_read(&options, argc, argv);
    if (status >= 0)
        return output_end("coll_perf") ? status : EXIT_RUN;
    options_apply(&options);
    if (options.settings)
        return print_settings();
    if (!settings_good())
        return EXIT_USAGE;
    options.peer = peer_open(&argc, &argv);
    if (options.peer_kind && !options.peer)
        return peer_exec(&options, argc, argv);
    if (options.peer && options.peer->comm_create)
        return peer_main(&options);
    if (options.ranks || options.threads)
        return launch(&options, seat_main);
    return environment_main(&options);
}
