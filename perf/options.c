/* options.c: the command line of coll_perf. The letters are those of nccl-tests; words added here
 * are long. Every mistake is answered with one sentence that names the option, its value and what
 * would be accepted. */
#include "perf/check.h"
#include "perf/output.h"
#include "perf/peer.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { RANKS_MAX = 1024, THREADS_MAX = 1024, BLOCKS_MAX = 1000 };
#define ITERS_MAX 100000000u

static const char help_head[] =
    "usage: coll_perf [options] COLLECTIVE... | all\n"
    "\n"
    "Runs collectives over a range of sizes, checks every element of every result,\n"
    "and prints a table in the layout of nccl-tests.\n"
    "\n"
    "  coll_perf allreduce --ranks 4                  four local ranks, no launcher\n"
    "  coll_perf all --ranks 5 -b 4 -e 4M -f 4 -d all -o all\n"
    "  mpirun -np 8 coll_perf alltoall -e 64M         also under srun and torchrun\n"
    "  coll_perf allreduce --ranks 2 --peer mpi       side by side with Open MPI\n"
    "\n"
    "collectives:";

static const char help_sizes[] =
    "\n"
    "sizes and repetitions (sizes take K, M, G: powers of 1,024)\n"
    "  -b, --min SIZE       first size of the larger buffer, in bytes (8)\n"
    "  -e, --max SIZE       last size (16M)\n"
    "  -f, --factor N       multiply by N from size to size (4)\n"
    "  -i, --increment SIZE add SIZE from size to size instead\n"
    "  -n, --iters N        timed repetitions (as many as fit --budget, 3 to 1,000)\n"
    "  -w, --warmup N       repetitions before timing (5, fewer for slow calls)\n"
    "  -c, --check N        checked repetitions after timing; 0: no check (1)\n"
    "      --budget MS      time for one measurement (40; 4 with more than 3 types or\n"
    "                       operations)\n"
    "\n"
    "what is called\n"
    "  -d, --datatype TYPE  type, list of types or all (float32)\n"
    "  -o, --op OP          operation, list or all, where there is a reduction (sum)\n"
    "  -r, --root RANK      root, or all, where the collective has one (0)\n"
    "  -a, --average HOW    time shown: 0 rank 0's; over ranks 1 the mean, 2 the\n"
    "                       least, 3 the greatest (1)\n"
    "      --memory KIND    lib: tutti_mem_alloc; malloc: ordinary memory; cuda: that\n"
    "                       of the GPU (lib)\n"
    "      --rewrite        write the input before each call, as programs do; the\n"
    "                       time includes it\n"
    "\n";

static const char help_tail[] =
    "who runs it\n"
    "      --ranks N        start N local processes\n"
    "      --threads N      N ranks as threads of one local process, or of each of\n"
    "                       --ranks (without both: the launcher's ranks)\n"
    "      --bind HOW       core: rank i on core i, wrapping around; none (core)\n"
    "      --peer LIBRARY   drive its collectives through the same loop, in turn with\n"
    "                       Tutti's\n"
    "      --blocks N       turns of each library with --peer, at least 5 (11)\n"
    "\n"
    "how (each sets the TUTTI_* setting of that name)\n"
    "      --transport T    inproc (threads), shm, ib, roce, iwarp, tcp, a list, auto\n"
    "      --algo A         ring, or allreduce:ring,alltoall:bruck\n"
    "      --lanes N        --chunk SIZE\n"
    "\n"
    "what is printed\n"
    "      --json FILE      --csv FILE    also write there, with minimum, median and\n"
    "                       99th percentile\n"
    "  -v, --verbose        what the planner chose for each row, and why; at the end\n"
    "                       what the transports of rank 0 did\n"
    "      --settings       print every TUTTI_* setting and stop\n"
    "  -h, --help           --version\n"
    "\n"
    "Time per call is the mean over the timed loop; busbw is nccl-tests' bus\n"
    "bandwidth. #wrong counts elements that differ from the exact result, and bytes\n"
    "touched outside of it. Exit status: 0 good; 1 wrong elements; 2 a mistake in an\n"
    "option or a setting; 3 the run failed.\n";

static const struct option long_options[] = {
    {"min", required_argument, NULL, 'b'},     {"max", required_argument, NULL, 'e'},
    {"factor", required_argument, NULL, 'f'},  {"increment", required_argument, NULL, 'i'},
    {"iters", required_argument, NULL, 'n'},   {"warmup", required_argument, NULL, 'w'},
    {"check", required_argument, NULL, 'c'},   {"datatype", required_argument, NULL, 'd'},
    {"op", required_argument, NULL, 'o'},      {"root", required_argument, NULL, 'r'},
    {"average", required_argument, NULL, 'a'}, {"budget", required_argument, NULL, 'B'},
    {"memory", required_argument, NULL, 'M'},  {"rewrite", no_argument, NULL, 'W'},
    {"ranks", required_argument, NULL, 'R'},   {"threads", required_argument, NULL, 't'},
    {"bind", required_argument, NULL, 'p'},    {"peer", required_argument, NULL, 'P'},
    {"blocks", required_argument, NULL, 'k'},  {"transport", required_argument, NULL, 'T'},
    {"algo", required_argument, NULL, 'A'},    {"lanes", required_argument, NULL, 'L'},
    {"chunk", required_argument, NULL, 'C'},   {"json", required_argument, NULL, 'J'},
    {"csv", required_argument, NULL, 'V'},     {"verbose", no_argument, NULL, 'v'},
    {"settings", no_argument, NULL, 'S'},      {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'N'},       {NULL, 0, NULL, 0}};

static const struct {
    tutti_dtype dtype;
    const char *name;
} table_dtypes[] = {
    {TUTTI_FLOAT16, "half"},       {TUTTI_FLOAT32, "float"},      {TUTTI_FLOAT64, "double"},
    {TUTTI_FLOAT8_E4M3, "f8e4m3"}, {TUTTI_FLOAT8_E5M2, "f8e5m2"},
};

const char *table_dtype_name(tutti_dtype dtype)
{
    for (size_t i = 0; i < sizeof table_dtypes / sizeof table_dtypes[0]; i++) {
        if (table_dtypes[i].dtype == dtype)
            return table_dtypes[i].name;
    }
    return tutti_dtype_name(dtype);
}

const char *table_op_name(unsigned op)
{
    return op == OP_PREMULSUM ? "mulsum" : op_choice_name(op);
}

const char *op_choice_name(unsigned op)
{
    return op == OP_NONE ? "none" : op == OP_PREMULSUM ? "premulsum" : tutti_op_name((tutti_op)op);
}

const char *memory_name(enum memory memory)
{
    return memory == MEMORY_LIB ? "tutti_mem_alloc" : memory == MEMORY_MALLOC ? "malloc" : "cuda";
}

const char *size_text(uint64_t bytes, char *text)
{
    static const char suffixes[] = {'G', 'M', 'K'};
    for (unsigned i = 0; i < 3; i++) {
        unsigned shift = 30 - 10 * i;
        if (bytes >> shift > 0 && bytes % (1u << shift) == 0) {
            snprintf(text, 24, "%llu%c", (unsigned long long)(bytes >> shift), suffixes[i]);
            return text;
        }
    }
    snprintf(text, 24, "%llu", (unsigned long long)bytes);
    return text;
}

/* Reads a number with an optional K, M or G (and B or iB behind it). */
static bool read_number(const char *option, const char *text, uint64_t least, uint64_t greatest,
                        uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    bool bad = errno != 0 || end == text || strchr(text, '-') != NULL;
    const char *letters = "kmg", *letter = *end ? strchr(letters, *end | 0x20) : NULL;
    if (letter != NULL) {
        unsigned shift = 10 * (unsigned)(letter - letters + 1);
        bad = bad || number > UINT64_MAX >> shift;
        number <<= shift;
        end++;
    }
    bad = bad || (*end != '\0' && strcasecmp(end, "b") != 0 && strcasecmp(end, "ib") != 0);
    if (bad || number < least || number > greatest) {
        fprintf(stderr,
                "coll_perf: %s wants a number (K, M, G allowed) from %llu to %llu, not \"%s\"\n",
                option, (unsigned long long)least, (unsigned long long)greatest, text);
        return false;
    }
    *value = number;
    return true;
}

/* Reads one word of a list "a|b|c"; its index goes to *choice. */
static bool read_word(const char *option, const char *text, const char *words, unsigned *choice)
{
    const char *word = words;
    for (unsigned i = 0;; i++) {
        size_t len = strcspn(word, "|");
        if (strlen(text) == len && strncasecmp(word, text, len) == 0) {
            *choice = i;
            return true;
        }
        if (word[len] == '\0')
            break;
        word += len + 1;
    }
    fprintf(stderr, "coll_perf: %s wants one of %s, not \"%s\"\n", option, words, text);
    return false;
}

/* all_reduce, AllReduce and allreduce are one word. */
static bool same_word(const char *a, size_t a_len, const char *b)
{
    const char *end = a + a_len;
    for (;;) {
        while (a < end && (*a == '_' || *a == '-'))
            a++;
        while (*b == '_' || *b == '-')
            b++;
        if (a == end || *b == '\0')
            return a == end && *b == '\0';
        if ((*a++ | 0x20) != (*b++ | 0x20))
            return false;
    }
}

static bool choose_dtype(bool *chosen, const char *word, size_t len)
{
    bool all = same_word(word, len, "all"), found = all;
    for (unsigned i = 0; i < TUTTI_DTYPE_COUNT; i++) {
        tutti_dtype dtype = (tutti_dtype)i;
        if (all || same_word(word, len, tutti_dtype_name(dtype)) ||
            same_word(word, len, table_dtype_name(dtype)))
            found = chosen[i] = true;
    }
    return found;
}

static bool choose_op(bool *chosen, const char *word, size_t len)
{
    bool all = same_word(word, len, "all"), found = all;
    for (unsigned i = 0; i < OP_CHOICES; i++) {
        if (all || same_word(word, len, op_choice_name(i)) ||
            same_word(word, len, table_op_name(i)))
            found = chosen[i] = true;
    }
    return found;
}

/* Marks each word of a comma-separated list; an unknown one is answered with the known ones. */
static bool read_list(const char *option, const char *text, bool *chosen,
                      bool (*choose)(bool *chosen, const char *word, size_t len))
{
    while (true) {
        size_t len = strcspn(text, ",");
        if (!choose(chosen, text, len)) {
            fprintf(stderr, "coll_perf: %s does not know \"%.*s\"; it knows all", option, (int)len,
                    text);
            bool types = choose == choose_dtype;
            for (unsigned i = 0; i < (types ? (unsigned)TUTTI_DTYPE_COUNT : OP_CHOICES); i++)
                fprintf(stderr, ", %s",
                        types ? tutti_dtype_name((tutti_dtype)i) : op_choice_name(i));
            fputc('\n', stderr);
            return false;
        }
        if (text[len] == '\0')
            return true;
        text += len + 1;
    }
}

static bool read_root(struct options *options, const char *text)
{
    uint64_t root = 0;
    if (strcmp(text, "all") == 0)
        options->root = -1;
    else if (read_number("-r", text, 0, 65535, &root))
        options->root = (int)root;
    else
        return false;
    return true;
}

static bool add_case(struct options *options, const char *word)
{
    bool all = strcmp(word, "all") == 0, found = all;
    for (size_t i = 0; i < perf_case_count; i++) {
        if (!all && !same_word(word, strlen(word), perf_cases[i].name))
            continue;
        found = true;
        bool known = false;
        for (size_t k = 0; k < options->case_count; k++)
            known = known || options->cases[k] == &perf_cases[i];
        if (!known)
            options->cases[options->case_count++] = &perf_cases[i];
    }
    if (!found)
        fprintf(stderr, "coll_perf: no collective is called \"%s\"; coll_perf --help lists them\n",
                word);
    return found;
}

static bool read_peer(struct options *options, const char *text)
{
    for (size_t i = 0; i < peer_kind_count; i++) {
        if (strcasecmp(peer_kinds[i].name, text) == 0) {
            options->peer_kind = &peer_kinds[i];
            return true;
        }
    }
    fprintf(stderr, "coll_perf: --peer wants one of");
    for (size_t i = 0; i < peer_kind_count; i++)
        fprintf(stderr, "%s%s", i ? "|" : " ", peer_kinds[i].name);
    fprintf(stderr, ", not \"%s\"\n", text);
    return false;
}

static void print_help(void)
{
    fputs(help_head, stdout);
    for (size_t i = 0; i < perf_case_count; i++)
        printf("%s%s", i % 6 == 0 ? "\n  " : " ", perf_cases[i].name);
    printf("\n%s", help_sizes);
    printf("types:");
    for (unsigned i = 0; i < TUTTI_DTYPE_COUNT; i++)
        printf("%s%s", i % 8 == 0 ? "\n  " : " ", tutti_dtype_name((tutti_dtype)i));
    printf("\noperations:\n ");
    for (unsigned i = 0; i < OP_CHOICES; i++)
        printf(" %s", op_choice_name(i));
    printf("\nlibraries for --peer:\n ");
    for (size_t i = 0; i < peer_kind_count; i++)
        printf(" %s (%s)", peer_kinds[i].name, peer_kinds[i].title);
    printf("\n\n%s", help_tail);
}

static bool read_size_option(struct options *options, int letter, const char *text)
{
    switch (letter) {
    case 'b':
        return read_number("-b", text, 0, UINT64_MAX / 4, &options->min_bytes);
    case 'e':
        return read_number("-e", text, 0, UINT64_MAX / 4, &options->max_bytes);
    case 'f':
        return read_number("-f", text, 2, 1u << 20, &options->factor);
    case 'i':
        return read_number("-i", text, 1, UINT64_MAX / 4, &options->step_bytes);
    case 'n':
        return read_number("-n", text, 1, ITERS_MAX, &options->iters);
    default:
        options->warmup_fixed = true;
        return read_number("-w", text, 0, ITERS_MAX, &options->warmup);
    }
}

static bool read_number_option(struct options *options, int letter, const char *text)
{
    uint64_t number = 0;
    bool good = true;
    switch (letter) {
    case 'c':
        good = read_number("-c", text, 0, 1000, &number);
        options->checks = (unsigned)number;
        break;
    case 'a':
        good = read_number("-a", text, 0, 3, &number);
        options->average = (enum average)number;
        break;
    case 'B':
        good = read_number("--budget", text, 1, 3600000, &number);
        options->budget_ms = (double)number;
        break;
    case 'R':
        good = read_number("--ranks", text, 1, RANKS_MAX, &number);
        options->ranks = (unsigned)number;
        break;
    case 't':
        good = read_number("--threads", text, 1, THREADS_MAX, &number);
        options->threads = (unsigned)number;
        break;
    default:
        good = read_number("--blocks", text, 5, BLOCKS_MAX, &number);
        options->blocks = (unsigned)number;
        break;
    }
    return good;
}

static bool read_text_option(struct options *options, int letter, const char *text)
{
    unsigned choice = 0;
    bool good = true;
    switch (letter) {
    case 'd':
        return read_list("-d", text, options->dtypes, choose_dtype);
    case 'o':
        return read_list("-o", text, options->ops, choose_op);
    case 'r':
        return read_root(options, text);
    case 'M':
        good = read_word("--memory", text, "lib|malloc|cuda", &choice);
        options->memory = (enum memory)choice;
        break;
    case 'p':
        good = read_word("--bind", text, "core|none", &choice);
        options->bind = (enum bind)choice;
        break;
    case 'P':
        return read_peer(options, text);
    case 'T':
        options->transport = text;
        break;
    case 'A':
        options->algo = text;
        break;
    case 'L':
        options->lanes = text;
        break;
    case 'C':
        options->chunk = text;
        break;
    case 'J':
        options->json = text;
        break;
    default:
        options->csv = text;
        break;
    }
    return good;
}

/* Is there a type and an operation of those chosen that go together? */
static bool reductions_fit(const struct options *options)
{
    for (unsigned d = 0; d < TUTTI_DTYPE_COUNT; d++) {
        for (unsigned op = 0; op < OP_CHOICES; op++) {
            if (options->dtypes[d] && options->ops[op] && data_fits((tutti_dtype)d, op))
                return true;
        }
    }
    return false;
}

static bool any_reduces(const struct options *options)
{
    for (size_t i = 0; i < options->case_count; i++) {
        if (options->cases[i]->reduces)
            return true;
    }
    return false;
}

/* Fills what was not given and refuses combinations that cannot run. */
static bool complete(struct options *options)
{
    unsigned dtypes = 0, ops = 0;
    for (unsigned i = 0; i < TUTTI_DTYPE_COUNT; i++)
        dtypes += options->dtypes[i];
    for (unsigned i = 0; i < OP_CHOICES; i++)
        ops += options->ops[i];
    if (dtypes == 0)
        options->dtypes[TUTTI_FLOAT32] = true;
    if (ops == 0)
        options->ops[TUTTI_SUM] = true;
    if (options->budget_ms == 0)
        options->budget_ms = dtypes > 3 || ops > 3 ? 4 : 40;
    const char *mistake = NULL;
    unsigned ranks = options->ranks * (options->threads ? options->threads : 1);
    char sizes[96], root[96], least[24], most[24];
    snprintf(sizes, sizeof sizes, "the last size (-e, %s) is below the first (-b, %s)",
             size_text(options->max_bytes, most), size_text(options->min_bytes, least));
    snprintf(root, sizeof root, "the root (-r %d) must be below the number of ranks, %u",
             options->root, ranks);
    if (options->case_count == 0)
        mistake = "name a collective, or all; coll_perf --help lists them";
    else if (options->max_bytes < options->min_bytes)
        mistake = sizes;
    else if (options->json && options->csv && strcmp(options->json, options->csv) == 0)
        mistake = "--json and --csv name one file: name two";
    else if (any_reduces(options) && !reductions_fit(options))
        mistake = "no operation (-o) goes with a type (-d): nothing to reduce; band, bor and bxor "
                  "want integers";
    else if (options->blocks > 0 && !options->peer_kind)
        mistake = "--blocks counts turns with another library: name it by --peer";
    else if (options->peer_kind && options->threads > 0)
        mistake = "--peer runs ranks as processes: use --ranks, not --threads";
    else if (options->peer_kind && options->memory == MEMORY_CUDA)
        mistake = "--peer compares host memory only: not with --memory cuda";
    else if (options->rewrite && options->memory == MEMORY_CUDA)
        mistake = "--rewrite writes host memory: not with --memory cuda";
    else if (ranks > 0 && options->root >= 0 && (unsigned)options->root >= ranks)
        mistake = root;
    if (options->blocks == 0)
        options->blocks = 11;
    if (mistake)
        fprintf(stderr, "coll_perf: %s\n", mistake);
    return mistake == NULL;
}

int options_read(struct options *options, int argc, char **argv)
{
    *options = (struct options){.min_bytes = 8,
                                .max_bytes = 16u << 20,
                                .factor = 4,
                                .warmup = 5,
                                .checks = 1,
                                .average = AVERAGE_MEAN};
    int letter;
    bool good = true;
    while (good && (letter = getopt_long(argc, argv, "b:e:f:i:n:w:c:d:o:r:a:vh", long_options,
                                         NULL)) != -1) {
        if (letter == 'h') {
            print_help();
            return EXIT_GOOD;
        }
        if (letter == 'N') {
            output_version("coll_perf");
            return EXIT_GOOD;
        }
        if (letter == 'v')
            options->verbose = true;
        else if (letter == 'S')
            options->settings = true;
        else if (letter == 'W')
            options->rewrite = true;
        else if (letter == '?')
            good = false; /* getopt has said why */
        else if (strchr("befinw", letter))
            good = read_size_option(options, letter, optarg);
        else if (strchr("caBRtk", letter))
            good = read_number_option(options, letter, optarg);
        else
            good = read_text_option(options, letter, optarg);
    }
    for (int i = optind; good && i < argc; i++)
        good = add_case(options, argv[i]);
    if (good && options->settings)
        return -1;
    return good && complete(options) ? -1 : EXIT_USAGE;
}

void options_apply(const struct options *options)
{
    char text[2048] = "";
    if (options->transport)
        setenv("TUTTI_TRANSPORTS", options->transport, 1);
    if (options->peer_kind && options->transport && strcmp(options->transport, "tcp") == 0) {
        for (int i = 0; i < PEER_SOCKETS_MAX && options->peer_kind->sockets[i].variable; i++)
            setenv(options->peer_kind->sockets[i].variable, options->peer_kind->sockets[i].value,
                   0);
    }
    if (options->lanes)
        setenv("TUTTI_LANES", options->lanes, 1);
    if (options->chunk)
        setenv("TUTTI_CHUNK", options->chunk, 1);
    if (options->algo && (strchr(options->algo, ':') || *options->algo == '\0')) {
        setenv("TUTTI_ALGO", options->algo, 1);
    } else if (options->algo) { /* one name for every collective that is run */
        size_t used = 0;
        for (size_t i = 0; i < options->case_count && used < sizeof text; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s:%s", i ? "," : "",
                                     options->cases[i]->name, options->algo);
        setenv("TUTTI_ALGO", text, 1);
    }
}
