/* settings.c: the one table of settings, and the one reader of the environment.
 * The idea: SETTINGS_LIST expands into the structure (settings.h) and into the rows below; one
 * parser, one printer and one error sentence per kind serve every row.
 * Invariant: a row's value is always within its range; a refused text leaves it as it was.
 * A TUTTI_* variable that names no row is refused: a setting with a typing mistake would otherwise
 * be silently without effect. TUTTI_TEST_* belongs to the tests and is left alone, and so is what
 * Kubernetes sets in every container for services named tutti or tutti-something. */
#include "base/settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/check.h"

#define PREFIX      "TUTTI_"
#define PREFIX_LEN  (sizeof PREFIX - 1)
#define TEST_PREFIX "TUTTI_TEST_"

#define SHOWN_MAX 80 /* bytes of a refused value quoted in the sentence; the rest is cut */

extern char **environ;

enum kind { KIND_U64, KIND_BOOL, KIND_TEXT, KIND_CHOICE };

struct row {
    enum kind kind;
    const char *name;
    size_t offset;
    const char *text;   /* default of TEXT and CHOICE */
    uint64_t number;    /* default of U64 and BOOL */
    uint64_t low, high; /* range of U64; high is the greatest length of TEXT */
    const char *words;  /* of CHOICE: "a|b|c" */
    const char *doc;
};

/* clang-format off */
#define ROW_U64(field, name, value, minimum, maximum, doc)                                         \
    {KIND_U64, name, offsetof(struct settings, field), NULL, value, minimum, maximum, NULL, doc},
#define ROW_BOOL(field, name, value, minimum, maximum, doc)                                        \
    {KIND_BOOL, name, offsetof(struct settings, field), NULL, value, minimum, maximum, NULL, doc},
#define ROW_TEXT(field, name, value, minimum, maximum, doc)                                        \
    {KIND_TEXT, name, offsetof(struct settings, field), value, 0, minimum, maximum, NULL, doc},
#define ROW_CHOICE(field, name, value, minimum, maximum, doc)                                      \
    {KIND_CHOICE, name, offsetof(struct settings, field), value, 0, 0, maximum, minimum, doc},

static const struct row rows[] = {
#define X(KIND, field, name, value, minimum, maximum, doc)                                         \
    ROW_##KIND(field, name, value, minimum, maximum, doc)
    SETTINGS_LIST(X)
#undef X
};
/* clang-format on */

#define ROWS (sizeof rows / sizeof *rows)

static void *field(struct settings *settings, const struct row *row)
{
    return (char *)settings + row->offset;
}

static const void *field_const(const struct settings *settings, const struct row *row)
{
    return (const char *)settings + row->offset;
}

/* The index of text[0..len) in "a|b|c", or -1. */
static int word_index(const char *words, const char *text, size_t len)
{
    int index = 0;
    for (const char *word = words;; index++) {
        size_t word_len = strcspn(word, "|");
        if (word_len == len && strncasecmp(word, text, len) == 0)
            return index;
        if (word[word_len] == '\0')
            return -1;
        word += word_len + 1;
    }
}

/* The index-th word of "a|b|c". */
static const char *word_at(const char *words, unsigned index, int *len)
{
    while (index-- > 0)
        words += strcspn(words, "|") + 1;
    *len = (int)strcspn(words, "|");
    return words;
}

/* Digits, then at most one of K M G (powers of 1,024). False when it is not such a number;
 * *overflow when it is one beyond 64 bits. */
static bool parse_number(const char *text, uint64_t *number, bool *overflow)
{
    *overflow = false;
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *overflow = errno == ERANGE;
    unsigned shift = 0;
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        break;
    case 'm':
    case 'M':
        shift = 20;
        break;
    case 'g':
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift != 0)
        end++;
    if (*end != '\0')
        return false;
    *overflow = *overflow || value > UINT64_MAX >> shift;
    *number = (uint64_t)value << shift;
    return true;
}

bool settings_number(const char *text, uint64_t *number)
{
    bool overflow;
    return parse_number(text, number, &overflow) && !overflow;
}

static tutti_status set_u64(void *value, const struct row *row, const char *text)
{
    uint64_t number;
    bool overflow;
    if (*text == '-' && parse_number(text + 1, &number, &overflow))
        overflow = true; /* a number, but below every range */
    else if (!parse_number(text, &number, &overflow))
        return fail(TUTTI_ERR_SETTING,
                    PREFIX "%s=%.*s is not a number: expected %llu to %llu (K, M, G may follow)",
                    row->name, SHOWN_MAX, text, (unsigned long long)row->low,
                    (unsigned long long)row->high);
    if (overflow || number < row->low || number > row->high)
        return fail(TUTTI_ERR_SETTING, PREFIX "%s=%.*s is out of range: expected %llu to %llu",
                    row->name, SHOWN_MAX, text, (unsigned long long)row->low,
                    (unsigned long long)row->high);
    memcpy(value, &number, sizeof number);
    return TUTTI_OK;
}

static tutti_status set_bool(void *value, const struct row *row, const char *text)
{
    static const char words[] = "0|1|no|yes|off|on|false|true";
    int index = word_index(words, text, strlen(text));
    if (index < 0)
        return fail(TUTTI_ERR_SETTING,
                    PREFIX "%s=%.*s is neither yes nor no: expected 0, 1, no, yes, off or on",
                    row->name, SHOWN_MAX, text);
    bool on = index % 2 != 0;
    memcpy(value, &on, sizeof on);
    return TUTTI_OK;
}

static tutti_status set_text(void *value, const struct row *row, const char *text)
{
    size_t len = strlen(text);
    must(row->high < SETTING_TEXT_MAX);
    if (len > row->high)
        return fail(TUTTI_ERR_SETTING, PREFIX "%s is %zu bytes long: expected at most %llu",
                    row->name, len, (unsigned long long)row->high);
    memcpy(value, text, len + 1);
    return TUTTI_OK;
}

static tutti_status set_choice(void *value, const struct row *row, const char *text)
{
    int index = word_index(row->words, text, strlen(text));
    if (index < 0)
        return fail(TUTTI_ERR_SETTING, PREFIX "%s=%.*s is unknown: expected one of %s", row->name,
                    SHOWN_MAX, text, row->words);
    unsigned choice = (unsigned)index;
    memcpy(value, &choice, sizeof choice);
    return TUTTI_OK;
}

static tutti_status set_row(struct settings *settings, const struct row *row, const char *text)
{
    void *value = field(settings, row);
    switch (row->kind) {
    case KIND_U64:
        return set_u64(value, row, text);
    case KIND_BOOL:
        return set_bool(value, row, text);
    case KIND_TEXT:
        return set_text(value, row, text);
    case KIND_CHOICE:
        return set_choice(value, row, text);
    }
    must(!"a kind without a parser");
    return TUTTI_ERR_INTERNAL;
}

#define NAME_MAX_LEN 40 /* longest name whose neighbours are sought; any row's name is shorter */

/* Levenshtein distance, in one row of the usual table. */
static unsigned distance(const char *a, size_t a_len, const char *b)
{
    unsigned previous[NAME_MAX_LEN + 1];
    size_t b_len = strlen(b);
    must(b_len <= NAME_MAX_LEN);
    for (size_t j = 0; j <= b_len; j++)
        previous[j] = (unsigned)j;
    for (size_t i = 1; i <= a_len; i++) {
        unsigned diagonal = previous[0];
        previous[0] = (unsigned)i;
        for (size_t j = 1; j <= b_len; j++) {
            unsigned change = diagonal + (toupper((unsigned char)a[i - 1]) != b[j - 1]);
            unsigned insert = previous[j - 1] + 1, remove = previous[j] + 1;
            diagonal = previous[j];
            previous[j] = change < insert ? change : insert;
            if (remove < previous[j])
                previous[j] = remove;
        }
    }
    return previous[b_len];
}

#define NEIGHBOURS_MAX 3 /* names offered for an unknown one */

/* The sentence for a name that no row has. */
static tutti_status unknown_name(const char *name, size_t len)
{
    char list[128] = "";
    unsigned listed = 0;
    unsigned limit = len < 6 ? 2 : 3; /* farther than this is another word, not a slip */
    for (unsigned near = 0; near <= limit && len <= NAME_MAX_LEN; near++) {
        for (size_t i = 0; i < ROWS && listed < NEIGHBOURS_MAX; i++) {
            if (distance(name, len, rows[i].name) != near)
                continue;
            size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, "%s" PREFIX "%s", listed ? " or " : "",
                     rows[i].name);
            listed++;
        }
    }
    if (listed > 0)
        return fail(TUTTI_ERR_SETTING, PREFIX "%.*s is no setting: did you mean %s?",
                    (int)(len < SHOWN_MAX ? len : SHOWN_MAX), name, list);
    return fail(TUTTI_ERR_SETTING,
                PREFIX "%.*s is no setting: coll_perf --settings lists those there are",
                (int)(len < SHOWN_MAX ? len : SHOWN_MAX), name);
}

static const struct row *find_row(const char *name, size_t len)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (strlen(rows[i].name) == len && memcmp(rows[i].name, name, len) == 0)
            return &rows[i];
    }
    return NULL;
}

/* The row of a whole name, TUTTI_X; NULL if there is none. */
static const struct row *find_whole(const char *name)
{
    return strncmp(name, PREFIX, PREFIX_LEN) == 0
               ? find_row(name + PREFIX_LEN, strlen(name) - PREFIX_LEN)
               : NULL;
}

/* Variables of another library that are honoured by what stands in for it (src/compat/nccl_env.c).
 */
static const char *const honoured[] = {
    "NCCL_COMM_BLOCKING", "NCCL_COMM_ID",     "NCCL_CONF_FILE",    "NCCL_DEBUG",
    "NCCL_DEBUG_FILE",    "NCCL_IB_DISABLE",  "NCCL_IB_GID_INDEX", "NCCL_IB_HCA",
    "NCCL_IB_RETRY_CNT",  "NCCL_IB_SL",       "NCCL_IB_TC",        "NCCL_IB_TIMEOUT",
    "NCCL_NET",           "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE",  "NCCL_SOCKET_FAMILY",
    "NCCL_SOCKET_IFNAME"};
#define HONOURED (sizeof honoured / sizeof *honoured)

/* What stands in the place of a default, or of an unset variable, in this process. Those before it
 * stay, for another thread may read one: no lock, which a fork could leave held. */
struct stand_in {
    struct stand_in *before;
    char text[SETTING_TEXT_MAX];
};
static _Atomic(struct stand_in *) stand_ins[ROWS + HONOURED]; /* as settings_name counts */

void settings_defaults(struct settings *settings)
{
    memset(settings, 0, sizeof *settings);
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        if (row->kind == KIND_U64) {
            memcpy(field(settings, row), &row->number, sizeof row->number);
        } else if (row->kind == KIND_BOOL) {
            bool on = row->number != 0;
            memcpy(field(settings, row), &on, sizeof on);
        } else {
            tutti_status status = set_row(settings, row, row->text);
            must(status == TUTTI_OK);
        }
    }
    for (size_t i = 0; i < ROWS; i++) {
        const struct stand_in *in = atomic_load(&stand_ins[i]);
        tutti_status status = in ? set_row(settings, &rows[i], in->text) : TUTTI_OK;
        must(status == TUTTI_OK);
    }
}

tutti_status settings_put_default(const char *name, const char *text)
{
    struct settings tried;
    size_t place = 0;
    while (place < ROWS + HONOURED && strcmp(settings_name(place), name) != 0)
        place++;
    if (place == ROWS + HONOURED)
        return fail(TUTTI_ERR_ARG, "there is no setting %.*s", SHOWN_MAX, name);
    tutti_status status = place < ROWS ? set_row(&tried, &rows[place], text) : TUTTI_OK;
    if (status != TUTTI_OK)
        return status;
    if (strlen(text) >= SETTING_TEXT_MAX)
        return fail(TUTTI_ERR_SETTING, "%s is %zu bytes long: expected at most %d", name,
                    strlen(text), SETTING_TEXT_MAX - 1);
    struct stand_in *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "no memory for a default of %s", name);
    snprintf(made->text, sizeof made->text, "%s", text);
    made->before = atomic_load(&stand_ins[place]);
    while (!atomic_compare_exchange_weak(&stand_ins[place], &made->before, made))
        ;
    return TUTTI_OK;
}

bool settings_pattern(const char *pattern, size_t len, const char *name)
{
    if (len > 0 && pattern[len - 1] == '*')
        return strncmp(pattern, name, len - 1) == 0;
    return strlen(name) == len && memcmp(pattern, name, len) == 0;
}

tutti_status settings_set(struct settings *settings, const char *name, const char *text)
{
    if (strncmp(name, PREFIX, PREFIX_LEN) == 0)
        name += PREFIX_LEN;
    const struct row *row = find_row(name, strlen(name));
    return row ? set_row(settings, row, text) : unknown_name(name, strlen(name));
}

/* The content of TUTTI_SECRET_FILE, without the line end an editor adds, becomes the secret. */
static tutti_status read_secret(struct settings *settings)
{
    char text[SETTING_TEXT_MAX];
    const char *path = settings->secret_file;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return fail_errno(TUTTI_ERR_SETTING, "open TUTTI_SECRET_FILE=%.*s", SHOWN_MAX, path);
    size_t used = 0;
    ssize_t got;
    do {
        got = read(fd, text + used, sizeof text - used);
        if (got > 0)
            used += (size_t)got;
    } while ((got > 0 && used < sizeof text) || (got < 0 && errno == EINTR));
    int error = errno;
    close(fd);
    errno = error;
    if (got < 0)
        return fail_errno(TUTTI_ERR_SETTING, "read TUTTI_SECRET_FILE=%.*s", SHOWN_MAX, path);
    while (used > 0 && (text[used - 1] == '\n' || text[used - 1] == '\r'))
        used--;
    if (used == 0 || used >= sizeof text || memchr(text, '\0', used) || memchr(text, '\n', used))
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_SECRET_FILE=%.*s must hold one line of 1 to %d bytes of text", SHOWN_MAX,
                    path, SETTING_TEXT_MAX - 1);
    text[used] = '\0';
    memcpy(settings->secret, text, used + 1);
    return TUTTI_OK;
}

tutti_status settings_port_range(const struct settings *settings, unsigned *low, unsigned *high)
{
    const char *text = settings->ports;
    *low = *high = 0;
    if (*text == '\0')
        return TUTTI_OK;
    char *end;
    unsigned long first = strtoul(text, &end, 10), last = first;
    bool good = *text >= '0' && *text <= '9';
    if (good && *end == '-') {
        const char *second = end + 1;
        good = *second >= '0' && *second <= '9';
        last = strtoul(second, &end, 10);
    }
    if (!good || *end != '\0' || first < 1 || last > UINT16_MAX || first > last)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_PORTS=%s is no port range: expected lowest-highest, within 1 to 65535",
                    text);
    *low = (unsigned)first;
    *high = (unsigned)last;
    return TUTTI_OK;
}

/* Is it one that tells of a service: [X_]SERVICE_HOST, [X_]SERVICE_PORT[_NAME],
 * [X_]PORT=tcp://address:port, [X_]PORT_80_TCP[_ADDR and more]? */
static bool names_a_service(const char *variable)
{
    const char *port = strstr(variable, "PORT"), *after = port ? port + sizeof "PORT" - 1 : "";
    return strstr(variable, "SERVICE_HOST=") || strstr(variable, "SERVICE_PORT") ||
           (*after == '=' && strstr(after, "://")) ||
           (*after == '_' && after[1] >= '0' && after[1] <= '9');
}

tutti_status settings_load(struct settings *settings)
{
    struct settings loaded;
    settings_defaults(&loaded);
    for (char **variable = environ; variable && *variable; variable++) {
        const char *name = *variable;
        if (strncmp(name, PREFIX, PREFIX_LEN) != 0 ||
            strncmp(name, TEST_PREFIX, sizeof TEST_PREFIX - 1) == 0)
            continue;
        name += PREFIX_LEN;
        size_t len = strcspn(name, "=");
        if (name[len] == '\0')
            continue;
        const struct row *row = find_row(name, len);
        if (!row && names_a_service(name))
            continue;
        tutti_status status = row ? set_row(&loaded, row, name + len + 1) : unknown_name(name, len);
        if (status != TUTTI_OK)
            return status;
    }
    if (loaded.secret_file[0] != '\0') {
        if (loaded.secret[0] != '\0')
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_SECRET and TUTTI_SECRET_FILE are both set: keep one");
        tutti_status status = read_secret(&loaded);
        if (status != TUTTI_OK)
            return status;
    }
    unsigned low, high;
    tutti_status status = settings_port_range(&loaded, &low, &high);
    if (status == TUTTI_OK)
        *settings = loaded;
    return status;
}

/* The value of a row as text; the secret is never shown. */
static void value_text(const struct settings *settings, const struct row *row, char *text,
                       size_t max)
{
    const void *value = field_const(settings, row);
    int len;
    const char *word;
    switch (row->kind) {
    case KIND_U64:
        snprintf(text, max, "%llu", (unsigned long long)*(const uint64_t *)value);
        break;
    case KIND_BOOL:
        snprintf(text, max, "%s", *(const bool *)value ? "yes" : "no");
        break;
    case KIND_TEXT:
        if (*(const char *)value == '\0')
            snprintf(text, max, "-");
        else if (row->offset == offsetof(struct settings, secret))
            snprintf(text, max, "(hidden)");
        else
            snprintf(text, max, "%s", (const char *)value);
        break;
    case KIND_CHOICE:
        word = word_at(row->words, *(const unsigned *)value, &len);
        snprintf(text, max, "%.*s", len, word);
        break;
    }
}

static void range_text(const struct row *row, char *text, size_t max)
{
    switch (row->kind) {
    case KIND_U64:
        snprintf(text, max, "%llu to %llu", (unsigned long long)row->low,
                 (unsigned long long)row->high);
        break;
    case KIND_BOOL:
        snprintf(text, max, "no|yes");
        break;
    case KIND_TEXT:
        snprintf(text, max, "text to %llu bytes", (unsigned long long)row->high);
        break;
    case KIND_CHOICE:
        snprintf(text, max, "%s", row->words);
        break;
    }
}

/* Appends line at *used as far as there is room; *used counts all of it. */
static void append(char *text, size_t len, size_t *used, const char *line)
{
    size_t line_len = strlen(line);
    if (len > 0 && *used < len - 1) {
        size_t room = len - 1 - *used, part = line_len < room ? line_len : room;
        memcpy(text + *used, line, part);
        text[*used + part] = '\0';
    }
    *used += line_len;
}

size_t settings_print(const struct settings *settings, char *text, size_t len)
{
    struct settings defaults;
    settings_defaults(&defaults);
    size_t used = 0;
    char line[3 * SETTING_TEXT_MAX];
    if (len > 0)
        text[0] = '\0';
    snprintf(line, sizeof line, "%-26s %-16s %-10s %-28s %s\n", "setting", "value", "default",
             "range", "meaning");
    append(text, len, &used, line);
    for (size_t i = 0; i < ROWS; i++) {
        char name[64], value[SETTING_TEXT_MAX], initial[SETTING_TEXT_MAX], range[64];
        snprintf(name, sizeof name, PREFIX "%s", rows[i].name);
        value_text(settings, &rows[i], value, sizeof value);
        value_text(&defaults, &rows[i], initial, sizeof initial);
        range_text(&rows[i], range, sizeof range);
        snprintf(line, sizeof line, "%-26s %-16s %-10s %-28s %s\n", name, value, initial, range,
                 rows[i].doc);
        append(text, len, &used, line);
    }
    return used;
}

const char *settings_name(size_t index)
{
    static const char *const names[] = {
#define X(KIND, field, name, value, minimum, maximum, doc) PREFIX name,
        SETTINGS_LIST(X)
#undef X
    };
    if (index < ROWS)
        return names[index];
    return index - ROWS < HONOURED ? honoured[index - ROWS] : NULL;
}

tutti_status settings_get(const struct settings *settings, const char *name, char *text, size_t len)
{
    const struct row *row = find_whole(name);
    if (row) {
        const char *value = field_const(settings, row);
        if (row->kind == KIND_TEXT && *value == '\0')
            snprintf(text, len, "%s", "");
        else
            value_text(settings, row, text, len);
        return TUTTI_OK;
    }
    for (size_t i = 0; i < HONOURED; i++) {
        if (strcmp(name, honoured[i]) == 0) {
            const char *value = settings_launcher_variable(name);
            snprintf(text, len, "%s", value ? value : "");
            return TUTTI_OK;
        }
    }
    return fail(TUTTI_ERR_ARG, "there is no setting %.*s", SHOWN_MAX, name);
}

const char *settings_launcher_variable(const char *name)
{
    static const char *const names[] = {
        PREFIX "RENDEZVOUS", PREFIX "RANK", PREFIX "SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK",
        "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMIX_SERVER_URI2",
        "PMIX_SERVER_URI21", "PMIX_SERVER_URI3", "PMIX_SERVER_URI4", "PMI_RANK", "PMI_SIZE",
        "PMI_PORT", "PMI_FD", "MPI_LOCALRANKID", "SLURM_PROCID", "SLURM_NTASKS",
        "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST",
        "SLURM_JOB_NODELIST",
        /* how a GPU's driver starts kernels */
        "CUDA_LAUNCH_BLOCKING",
        /* where files that outlive a process may be put */
        "HOME", "TMPDIR"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0)
            return getenv(name);
    }
    for (size_t i = 0; i < HONOURED; i++) {
        if (strcmp(honoured[i], name) != 0)
            continue;
        const struct stand_in *in = atomic_load(&stand_ins[ROWS + i]);
        const char *set = getenv(name);
        return set || !in ? set : in->text;
    }
    must(!"a launcher variable that is not in the list");
    return NULL;
}
