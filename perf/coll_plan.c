/* coll_plan.c: looks at plans without running them: which algorithms there are, what a rank's
 * program is, what a model of the links says it costs, and a proof that it is right.
 *
 * Everything it prints comes from algorithms/ and nothing is measured: for measured numbers see
 * coll_perf. Exit status: 0 good, 1 a proof failed or there was nothing to prove or show, 2 a
 * mistake in the command line, 3 what was to be printed could not be written. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/costs.h"
#include "algorithms/verify_grid.h"
#include "base/clock.h"
#include "base/settings.h"
#include "perf/output.h"

#define RANKS_MAX      256 /* rank counts that one command may name */
#define COLUMNS_MAX    16  /* algorithms of one collective */
#define OPTIONS_MAX    64  /* options that one command line may give */
#define DEFAULT_EFFORT 4000
#define RANK_MAX       65536 /* ranks of one world */
#define REAL_MAX       1e6   /* microseconds, GB/s: beyond every link */
#define VERIFY_RANKS_MAX                                                                           \
    1024 /* all ranks' programs are held at once; alltoall's are ranks^2 steps */

enum { EXIT_PROOF = 1, EXIT_USAGE = 2, EXIT_OUTPUT = 3 };

struct options {
    uint32_t ranks[RANKS_MAX], rank_count;
    uint32_t nodes, per_node; /* 0: not given */
    uint32_t rank, root, elem_size;
    uint64_t count, effort, seed, begin, end, factor;
    bool in_place, full;
    struct knobs knobs;
    struct link_model model[LEVEL_COUNT];
    char **names; /* what is left of the command line */
    int name_count;
    int given[OPTIONS_MAX], given_count; /* options, in the order given */
};

static const char usage[] =
    "usage: coll_plan COMMAND [COLL[:ALGO] ...] [options]\n"
    "\n"
    "  list      the algorithms there are, and where they come from\n"
    "  verify    prove plans: matching, races, deadlock, result, cost (by default of\n"
    "            all algorithms)\n"
    "  show      one rank's program, step by step\n"
    "  cost      predicted microseconds over sizes, one column per algorithm\n"
    "\n"
    "which world\n"
    "  --ranks N[,N..M]  numbers of ranks   (verify: 1..17,31,32,33,48,64; else 8)\n"
    "  --nodes AxB       A nodes of B ranks (verify: one node, several, unequal ...)\n"
    "verify\n"
    "  --effort STEPS    steps to spend on each world, about (4000)\n"
    "  --full            every variant of every world: minutes\n"
    "  --seed N          for the selection, the counts and the order of steps (1)\n"
    "show\n"
    "  --rank R  --root R  --count N  --elem BYTES  --in-place\n"
    "cost\n"
    "  -b BYTES -e BYTES -f FACTOR              sizes (64 .. 64M, times 8)\n"
    "show and cost\n"
    "  --chunk BYTES (128K)  --lanes N (1)\n"
    "  --node-us US --node-gbps GB/S            links inside a node (0.5, 10)\n"
    "  --net-us US  --net-gbps GB/S             links between nodes (10, 1.25)\n"
    "\n"
    "  -h, --help  --version\n"
    "\n"
    "Sizes take K, M and G (powers of 1,024). Exit status: 0 good; 1 a proof failed,\n"
    "or no algorithm fits; 2 usage; 3 the output could not be written.\n";

/* ---- options ----------------------------------------------------------------------------------
 */

static bool parse_number(const char *text, uint64_t least, uint64_t most, uint32_t *out)
{
    uint64_t value;
    if (!settings_number(text, &value) || value < least || value > most)
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool parse_real(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value <= REAL_MAX))
        return false;
    *out = value;
    return true;
}

/* GB/s to microseconds per byte. */
static bool parse_gbps(const char *text, double *us_per_byte)
{
    double gbps;
    if (!parse_real(text, &gbps) || gbps < 1 / REAL_MAX)
        return false;
    *us_per_byte = 1e-3 / gbps;
    return true;
}

/* A number of ranks or nodes at the start of *text, which moves behind it. */
static bool parse_count(const char **text, uint32_t *count)
{
    char *end;
    if (**text < '0' || **text > '9') /* strtoul takes a sign, too */
        return false;
    unsigned long value = strtoul(*text, &end, 10);
    *count = (uint32_t)value;
    *text = end;
    return value >= 1 && value <= RANK_MAX;
}

/* "1..17,31" */
static bool parse_ranks(const char *text, struct options *options)
{
    options->rank_count = 0;
    do {
        uint32_t first, last;
        if (!parse_count(&text, &first))
            return false;
        last = first;
        if (strncmp(text, "..", 2) == 0) {
            text += 2;
            if (!parse_count(&text, &last))
                return false;
        }
        if (last < first || last - first >= RANKS_MAX - options->rank_count)
            return false;
        for (; first <= last; first++)
            options->ranks[options->rank_count++] = first;
    } while (*text++ == ',');
    return text[-1] == '\0';
}

static bool parse_nodes(const char *text, struct options *options)
{
    return parse_count(&text, &options->nodes) && *text++ == 'x' &&
           parse_count(&text, &options->per_node) && *text == '\0' &&
           (uint64_t)options->nodes * options->per_node <= RANK_MAX;
}

enum {
    OPT_RANKS = 256,
    OPT_NODES,
    OPT_EFFORT,
    OPT_FULL,
    OPT_SEED,
    OPT_RANK,
    OPT_ROOT,
    OPT_COUNT,
    OPT_ELEM,
    OPT_IN_PLACE,
    OPT_CHUNK,
    OPT_LANES,
    OPT_NODE_US,
    OPT_NODE_GBPS,
    OPT_NET_US,
    OPT_NET_GBPS,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"ranks", required_argument, NULL, OPT_RANKS},
    {"nodes", required_argument, NULL, OPT_NODES},
    {"effort", required_argument, NULL, OPT_EFFORT},
    {"full", no_argument, NULL, OPT_FULL},
    {"seed", required_argument, NULL, OPT_SEED},
    {"rank", required_argument, NULL, OPT_RANK},
    {"root", required_argument, NULL, OPT_ROOT},
    {"count", required_argument, NULL, OPT_COUNT},
    {"elem", required_argument, NULL, OPT_ELEM},
    {"in-place", no_argument, NULL, OPT_IN_PLACE},
    {"chunk", required_argument, NULL, OPT_CHUNK},
    {"lanes", required_argument, NULL, OPT_LANES},
    {"node-us", required_argument, NULL, OPT_NODE_US},
    {"node-gbps", required_argument, NULL, OPT_NODE_GBPS},
    {"net-us", required_argument, NULL, OPT_NET_US},
    {"net-gbps", required_argument, NULL, OPT_NET_GBPS},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

/* What is said of an option that is used wrongly: the commands that it belongs to, what parse_one
 * accepts. */
static const struct fact {
    int option;
    const char *name, *commands, *wants;
} facts[] = {
    {OPT_RANKS, "--ranks", "verify show cost", "up to 256 numbers from 1 to 65536, as 1..4,7"},
    {OPT_NODES, "--nodes", "verify show cost", "AxB, A nodes of B ranks, 65536 ranks at most"},
    {OPT_EFFORT, "--effort", "verify", "a number (K, M, G allowed) above 0"},
    {OPT_FULL, "--full", "verify", ""},
    {OPT_SEED, "--seed", "verify", "a number"},
    {OPT_RANK, "--rank", "show", "a number from 0 to 65535"},
    {OPT_ROOT, "--root", "show", "a number from 0 to 65535"},
    {OPT_COUNT, "--count", "show", "a number (K, M, G allowed) below 64G"},
    {OPT_ELEM, "--elem", "show", "a number from 1 to 8"},
    {OPT_IN_PLACE, "--in-place", "show", ""},
    {OPT_CHUNK, "--chunk", "show cost", "a number (K, M, G allowed) above 0"},
    {OPT_LANES, "--lanes", "show cost", "a number from 1 to 8"},
    {OPT_NODE_US, "--node-us", "show cost", "microseconds up to 1000000, as 0.5"},
    {OPT_NODE_GBPS, "--node-gbps", "show cost", "GB/s from 0.000001 to 1000000, as 12.5"},
    {OPT_NET_US, "--net-us", "show cost", "microseconds up to 1000000, as 0.5"},
    {OPT_NET_GBPS, "--net-gbps", "show cost", "GB/s from 0.000001 to 1000000, as 12.5"},
    {'b', "-b", "cost", "a number (K, M, G allowed) above 0"},
    {'e', "-e", "cost", "a number (K, M, G allowed) up to 64G"},
    {'f', "-f", "cost", "a number from 2 to 1M"},
};

static const struct fact *fact_of(int option)
{
    const struct fact *fact = facts;
    while (fact->option != option)
        fact++;
    return fact;
}

static bool parse_one(int option, const char *text, struct options *o)
{
    switch (option) {
    case OPT_RANKS:
        return parse_ranks(text, o);
    case OPT_NODES:
        return parse_nodes(text, o);
    case OPT_EFFORT:
        return settings_number(text, &o->effort) && o->effort > 0;
    case OPT_FULL:
        return o->full = true;
    case OPT_SEED:
        return settings_number(text, &o->seed);
    case OPT_RANK:
        return parse_number(text, 0, 65535, &o->rank);
    case OPT_ROOT:
        return parse_number(text, 0, 65535, &o->root);
    case OPT_COUNT:
        return settings_number(text, &o->count) && o->count < (uint64_t)1 << 36;
    case OPT_ELEM:
        return parse_number(text, 1, 8, &o->elem_size);
    case OPT_IN_PLACE:
        return o->in_place = true;
    case OPT_CHUNK:
        return settings_number(text, &o->knobs.chunk_bytes) && o->knobs.chunk_bytes > 0;
    case OPT_LANES:
        return parse_number(text, 1, LANES_MAX, &o->knobs.lanes);
    case OPT_NODE_US:
        return parse_real(text, &o->model[LEVEL_NODE].alpha_us);
    case OPT_NET_US:
        return parse_real(text, &o->model[LEVEL_NET].alpha_us);
    case OPT_NODE_GBPS:
        return parse_gbps(text, &o->model[LEVEL_NODE].us_per_byte);
    case OPT_NET_GBPS:
        return parse_gbps(text, &o->model[LEVEL_NET].us_per_byte) &&
               parse_gbps(text, &o->model[LEVEL_NET].host_us_per_byte);
    case 'b':
        return settings_number(text, &o->begin) && o->begin > 0;
    case 'e':
        return settings_number(text, &o->end) && o->end <= (uint64_t)1 << 36;
    case 'f':
        return settings_number(text, &o->factor) && o->factor > 1 && o->factor <= 1u << 20;
    default:
        return false;
    }
}

/* An option without effect would be taken for one that has it. */
static bool options_belong(const struct options *options, const char *command)
{
    for (int i = 0; i < options->given_count; i++) {
        const struct fact *fact = fact_of(options->given[i]);
        if (strstr(fact->commands, command) == NULL) {
            fprintf(stderr, "coll_plan: %s does not belong to %s, but to: %s\n", fact->name,
                    command, fact->commands);
            return false;
        }
    }
    if (options->nodes > 0 && options->rank_count > 0) {
        fputs("coll_plan: --ranks and --nodes both say which world: give one of them\n", stderr);
        return false;
    }
    if (options->rank_count > 1 && strcmp(command, "verify") != 0) {
        fprintf(stderr, "coll_plan: %s takes one number of ranks (--ranks), not %u\n", command,
                options->rank_count);
        return false;
    }
    return true;
}

/* -1, or the status to exit with. */
static int parse(int argc, char **argv, struct options *options)
{
    static const struct link_model shared = {.alpha_us = 0.5, .us_per_byte = 1e-4, .readers = 3};
    static const struct link_model network = {
        .alpha_us = 10, .us_per_byte = 8e-4, .host_us_per_byte = 8e-4};
    *options = (struct options){.elem_size = 4,
                                .count = 1000,
                                .effort = DEFAULT_EFFORT,
                                .seed = 1,
                                .begin = 64,
                                .end = 64u << 20,
                                .factor = 8,
                                .knobs = {.chunk_bytes = 128u << 10, .lanes = 1},
                                .model[LEVEL_NODE] = shared,
                                .model[LEVEL_NET] = network};
    int option;
    while ((option = getopt_long(argc, argv, "hb:e:f:", long_options, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == OPT_VERSION) {
            output_version("coll_plan");
            return 0;
        }
        if (option == '?')
            return EXIT_USAGE; /* getopt has said why */
        if (!parse_one(option, optarg, options)) {
            const struct fact *fact = fact_of(option);
            fprintf(stderr, "coll_plan: %s wants %s, not '%s'\n", fact->name, fact->wants, optarg);
            return EXIT_USAGE;
        }
        if (options->given_count < OPTIONS_MAX)
            options->given[options->given_count++] = option;
    }
    if (options->begin > options->end) {
        fprintf(stderr,
                "coll_plan: the last size (-e, %" PRIu64 ") is below the first (-b, %" PRIu64 ")\n",
                options->end, options->begin);
        return EXIT_USAGE;
    }
    options->name_count = argc > optind ? argc - optind - 1 : 0;
    options->names = argv + argc - options->name_count;
    return -1;
}

/* ---- selecting --------------------------------------------------------------------------------
 */

/* "allreduce" or "allreduce:ring" */
static bool matches(const char *name, const struct algorithm *algorithm)
{
    const char *coll = coll_name(algorithm->coll), *colon = strchr(name, ':');
    size_t len = colon ? (size_t)(colon - name) : strlen(name);
    return strlen(coll) == len && strncmp(name, coll, len) == 0 &&
           (!colon || strcmp(colon + 1, algorithm->name) == 0);
}

static bool selected(const struct options *options, const struct algorithm *algorithm)
{
    for (int i = 0; i < options->name_count; i++) {
        if (matches(options->names[i], algorithm))
            return true;
    }
    return options->name_count == 0;
}

static bool names_exist(const struct options *options)
{
    for (int i = 0; i < options->name_count; i++) {
        bool found = false;
        for (const struct algorithm *const *at = algorithm_table; *at && !found; at++)
            found = matches(options->names[i], *at);
        if (!found) {
            fprintf(stderr, "coll_plan: no algorithm '%s'; coll_plan list says which there are\n",
                    options->names[i]);
            return false;
        }
    }
    return true;
}

/* The world of show and cost: --nodes, or one node of the first --ranks. */
static tutti_status make_groups(const struct options *options, struct groups *groups)
{
    if (options->nodes > 0)
        return groups_make_uniform(options->nodes, options->per_node, groups);
    return groups_make_uniform(1, options->rank_count > 0 ? options->ranks[0] : 8, groups);
}

static int library_failed(void)
{
    fprintf(stderr, "coll_plan: %s\n", status_sentence());
    return EXIT_PROOF;
}

/* ---- list, verify -----------------------------------------------------------------------------
 */

static int list(const struct options *options)
{
    tutti_coll last = TUTTI_COLL_COUNT;
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        const struct algorithm *algorithm = *at;
        if (!selected(options, algorithm))
            continue;
        printf("%-16s %-14s %s\n", algorithm->coll == last ? "" : coll_name(algorithm->coll),
               algorithm->name, algorithm->source);
        last = algorithm->coll;
    }
    return 0;
}

static bool small_enough(const struct options *options)
{
    uint64_t most = (uint64_t)options->nodes * options->per_node;
    for (uint32_t i = 0; i < options->rank_count; i++)
        most = options->ranks[i] > most ? options->ranks[i] : most;
    if (most > VERIFY_RANKS_MAX)
        fprintf(stderr, "coll_plan: verify takes at most %d ranks\n", VERIFY_RANKS_MAX);
    return most <= VERIFY_RANKS_MAX;
}

static int verify(const struct options *options)
{
    if (!small_enough(options))
        return EXIT_USAGE;
    struct groups groups;
    struct grid grid = {.ranks = options->rank_count > 0 ? options->ranks : NULL,
                        .rank_count = options->rank_count,
                        .effort = options->full ? 0 : options->effort,
                        .seed = options->seed};
    if (options->nodes > 0) {
        if (make_groups(options, &groups) != TUTTI_OK)
            return library_failed();
        grid.groups = &groups;
    }
    struct grid_sum total = {0};
    unsigned proved = 0, failed = 0, unfit = 0;
    uint64_t start = clock_ms();
    printf("%-28s %8s %12s %12s %7s  %s\n", "algorithm", "plans", "steps", "messages", "worlds",
           "result");
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        if (!selected(options, *at))
            continue;
        struct grid_sum sum = {0};
        char name[64], why[SENTENCE_MAX + 16] = "proved";
        snprintf(name, sizeof name, "%s:%s", coll_name((*at)->coll), (*at)->name);
        bool good = verify_algorithm(*at, &grid, &sum) == TUTTI_OK;
        if (!good)
            snprintf(why, sizeof why, "FAILED: %s", status_sentence());
        else if (sum.shapes == 0)
            snprintf(why, sizeof why, "does not fit any of these worlds");
        printf("%-28s %8" PRIu64 " %12" PRIu64 " %12" PRIu64 " %7u  %s\n", name, sum.plans,
               sum.steps, sum.messages, sum.shapes, why);
        if (fflush(stdout) != 0)
            break; /* nobody would see the rest; the end of main says so */
        failed += !good;
        unfit += good && sum.shapes == 0;
        proved += good && sum.shapes > 0;
        total.plans += sum.plans;
        total.steps += sum.steps;
        total.messages += sum.messages;
    }
    printf("%u algorithm%s proved, %u failed, %u without a world that fits: %" PRIu64
           " plans, %" PRIu64 " steps, %" PRIu64 " messages, %.1f s, seed %" PRIu64 "\n",
           proved, proved == 1 ? "" : "s", failed, unfit, total.plans, total.steps, total.messages,
           (double)(clock_ms() - start) / 1e3, options->seed);
    if (options->nodes > 0)
        groups_free(&groups);
    return failed || proved == 0 ? EXIT_PROOF : 0;
}

/* ---- show -------------------------------------------------------------------------------------
 */

static int show_world(const struct options *options, const struct algorithm *algorithm,
                      const struct groups *groups)
{
    struct trial trial = world_trial(algorithm->coll, groups);
    trial.count = options->count;
    trial.elem_size = options->elem_size;
    trial.root = options->root;
    trial.placing = options->in_place ? PLACING_IN_PLACE : PLACING_APART;
    trial.seed = options->seed;
    memcpy(trial.model, options->model, sizeof trial.model);
    struct world world;
    if (world_make(&trial, &world) != TUTTI_OK)
        return library_failed();
    int result = EXIT_PROOF;
    char *text = NULL;
    struct schedule *schedule = NULL;
    const struct shape *shape = &world.shapes[options->rank];
    if (world_emit_one(shape, algorithm, &options->knobs, &schedule) == TUTTI_OK) {
        size_t len = schedule_dump(schedule, NULL, 0) + 1;
        text = malloc(len);
        if (text) {
            schedule_dump(schedule, text, len);
            char call[GRID_SENTENCE_MAX];
            verify_describe(&trial, &options->knobs, call, sizeof call);
            printf("# %s:%s, rank %u: %s\n%s", coll_name(algorithm->coll), algorithm->name,
                   options->rank, call, text);
            result = 0;
        }
    }
    if (result != 0)
        library_failed();
    free(text);
    schedule_free(schedule);
    world_free(&world);
    return result;
}

static int show(const struct options *options)
{
    const struct algorithm *algorithm = NULL;
    for (const struct algorithm *const *at = algorithm_table; *at && !algorithm; at++) {
        if (options->name_count == 1 && strchr(options->names[0], ':') &&
            matches(options->names[0], *at))
            algorithm = *at;
    }
    if (!algorithm) {
        fprintf(stderr, "coll_plan: show needs one COLL:ALGO, such as allreduce:ring\n");
        return EXIT_USAGE;
    }
    struct groups groups;
    if (make_groups(options, &groups) != TUTTI_OK)
        return library_failed();
    int result = EXIT_USAGE;
    if (options->rank >= groups.size || options->root >= groups.size)
        fprintf(stderr, "coll_plan: --rank and --root must be below %u ranks\n", groups.size);
    else
        result = show_world(options, algorithm, &groups);
    groups_free(&groups);
    return result;
}

/* ---- cost -------------------------------------------------------------------------------------
 */

/* Elements of one byte so that coll_total_bytes comes to about `bytes`. */
static uint64_t count_for(tutti_coll coll, uint64_t bytes, uint32_t size)
{
    struct shape one = {.coll = coll, .size = size, .count = 1, .elem_size = 1};
    uint64_t unit = coll_info(coll)->is_v ? size : coll_total_bytes(&one);
    uint64_t count = unit > 0 ? bytes / unit : 0;
    return count > 0 ? count : 1;
}

static void cost_row(const struct options *options, const struct groups *groups, uint64_t bytes,
                     const struct algorithm *const *columns, uint32_t column_count)
{
    struct trial trial = world_trial(columns[0]->coll, groups);
    double us[COLUMNS_MAX], best = -1;
    trial.count = count_for(columns[0]->coll, bytes, groups->size);
    memcpy(trial.model, options->model, sizeof trial.model);
    struct world world;
    if (world_make(&trial, &world) != TUTTI_OK)
        return;
    for (uint32_t c = 0; c < column_count; c++) {
        struct cost cost = {0};
        us[c] = -1;
        if (!columns[c]->fits(&world.shapes[0]))
            continue;
        columns[c]->cost(&world.shapes[0], &options->knobs, &cost);
        us[c] = cost_us(&world.shapes[0], &cost);
        best = best < 0 || us[c] < best ? us[c] : best;
    }
    printf("%12" PRIu64, bytes);
    for (uint32_t c = 0; c < column_count; c++) {
        bool least = us[c] >= 0 && us[c] == best, last = c + 1 == column_count;
        if (us[c] < 0)
            printf(" %13s", "-");
        else
            printf(" %13.2f", us[c]);
        fputs(least ? "*" : last ? "" : " ", stdout);
    }
    printf("\n");
    world_free(&world);
}

static void cost_table(const struct options *options, const struct groups *groups, tutti_coll coll)
{
    const struct algorithm *columns[COLUMNS_MAX];
    uint32_t count = 0;
    for (const struct algorithm *const *at = algorithm_table; *at && count < COLUMNS_MAX; at++) {
        if ((*at)->coll == coll && selected(options, *at))
            columns[count++] = *at;
    }
    if (count == 0)
        return;
    printf("\n%s, predicted us (* least)\n%12s", coll_name(coll), "bytes");
    for (uint32_t c = 0; c < count; c++)
        printf("%*s", c == 0 ? 14 : 15, columns[c]->name);
    printf("\n");
    bool sized = coll != TUTTI_COLL_BARRIER;
    for (uint64_t bytes = options->begin; bytes <= options->end; bytes *= options->factor) {
        cost_row(options, groups, sized ? bytes : 0, columns, count);
        if (!sized)
            break;
    }
}

static int cost(const struct options *options)
{
    struct groups groups;
    if (make_groups(options, &groups) != TUTTI_OK)
        return library_failed();
    printf("%u rank%s on %u node%s; inside %g us, %g GB/s; between %g us, %g GB/s; chunk %" PRIu64
           ", lanes %u\n",
           groups.size, groups.size == 1 ? "" : "s", groups.nodes, groups.nodes == 1 ? "" : "s",
           options->model[LEVEL_NODE].alpha_us, 1e-3 / options->model[LEVEL_NODE].us_per_byte,
           options->model[LEVEL_NET].alpha_us, 1e-3 / options->model[LEVEL_NET].us_per_byte,
           options->knobs.chunk_bytes, options->knobs.lanes);
    for (int coll = 0; coll < TUTTI_COLL_COUNT; coll++)
        cost_table(options, &groups, (tutti_coll)coll);
    groups_free(&groups);
    return 0;
}

static int run_command(const struct options *options, const char *name)
{
    static const struct command {
        const char *name;
        int (*run)(const struct options *);
    } commands[] = {{"list", list}, {"verify", verify}, {"show", show}, {"cost", cost}};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(name, commands[i].name) == 0)
            return options_belong(options, name) && names_exist(options) ? commands[i].run(options)
                                                                         : EXIT_USAGE;
    }
    if (*name)
        fprintf(stderr, "coll_plan: no command '%s': it has list, verify, show and cost\n", name);
    else
        fputs(usage, stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct options options;
    output_hold();
    int status = parse(argc, argv, &options);
    if (status < 0)
        status = run_command(&options, argc > optind ? argv[optind] : "");
    return output_end("coll_plan") ? status : EXIT_OUTPUT;
}
