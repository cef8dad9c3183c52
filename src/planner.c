/* planner.c: which algorithm, in which pieces, on how many lanes: the cheapest that fits.
 *
 * For every algorithm of the collective the planner tries a few chunk sizes and takes the best by
 * predicted time; then the algorithms are ranked. The prediction is the algorithm's own formula
 * (rounds and bytes per level on the critical path) applied to the link model:
 *
 *     T = sum over levels (rounds * alpha + further messages * overhead + bytes * us_per_byte)
 *         + reduced and copied bytes
 *
 * where the bytes between hosts take the longer of what one rank's link and what its host's, which
 * all its ranks share, need.
 *
 * Invariant: every input is equal on all ranks of the communicator (settings and topology are
 * exchanged when it is made, the call's arguments must agree), and nothing local, such as the rank,
 * the address of a buffer or a count only this rank knows, has a say. Ties go to the larger chunk
 * (fewer steps), then to the earlier line of the table. So all ranks choose alike without a word.
 *
 * The chunk is also bounded from below, so that the number of steps stays within
 * SCHEDULE_STEPS_MAX: a rank may take some 16 steps per chunk of the whole buffer (trees do), so
 * total / chunk <= SCHEDULE_STEPS_MAX / 32 leaves half of the steps for rounds that do not shrink
 * with the chunk. */
#include "src/planner.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/costs.h"
#include "base/check.h"

#define CHUNK_SMALLEST  (16u << 10) /* below it the per-message cost exceeds the copy's */
#define CHUNK_LARGEST   (4u << 20)  /* beyond it a pipeline gains under a percent */
#define CHUNK_LIMIT     (1u << 30)  /* the setting's own maximum */
#define CHUNKS_PER_CALL (SCHEDULE_STEPS_MAX / 32)
/* One TCP stream does about 3 GB/s with one core at each end. */
#define STREAM_US_PER_BYTE (1e-3 / 3.0)
#define LANES_NET_MAX      4          /* beyond that the cores are the limit */
#define LANES_MIN_BYTES    (1u << 20) /* a smaller call does not fill even one stream */
#define NAMES_MAX          256

uint32_t planner_lanes(const struct settings *settings, uint32_t nodes,
                       const struct link_model model[LEVEL_COUNT])
{
    if (settings->lanes)
        return settings->lanes < PLAN_LANES_MAX ? (uint32_t)settings->lanes : PLAN_LANES_MAX;
    double net = model[LEVEL_NET].us_per_byte;
    if (nodes < 2 || net <= 0 || net >= STREAM_US_PER_BYTE)
        return 1;
    double wanted = STREAM_US_PER_BYTE / net + 0.999;
    return wanted > LANES_NET_MAX ? LANES_NET_MAX : (uint32_t)wanted;
}

/* ---- the setting: "allreduce:ring,alltoall:bruck" -------------------------------------------- */

struct algo_entry {
    const char *coll, *name;
    size_t coll_len, name_len;
};

/* The next entry of the text at *at; false at its end. An entry without ':' has an empty name. */
static bool next_entry(const char **at, struct algo_entry *entry)
{
    while (**at == ',' || **at == ' ')
        (*at)++;
    if (**at == 0)
        return false;
    size_t len = strcspn(*at, ", ");
    const char *colon = memchr(*at, ':', len);
    entry->coll = *at;
    entry->coll_len = colon ? (size_t)(colon - *at) : len;
    entry->name = colon ? colon + 1 : *at + len;
    entry->name_len = (size_t)(*at + len - entry->name);
    *at += len;
    return true;
}

static bool is_coll(const struct algo_entry *entry, tutti_coll coll)
{
    const char *name = coll_name(coll);
    return strlen(name) == entry->coll_len && memcmp(name, entry->coll, entry->coll_len) == 0;
}

/* Names of the collective's algorithms, for sentences: "ring, tree, hier". */
static void list_names(tutti_coll coll, char names[NAMES_MAX])
{
    size_t used = 0;
    names[0] = 0;
    for (const struct algorithm *const *a = algorithm_table; *a; a++) {
        if ((*a)->coll != coll || used >= NAMES_MAX)
            continue;
        int wrote = snprintf(names + used, NAMES_MAX - used, "%s%s", used ? ", " : "", (*a)->name);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

static const struct algorithm *find_named(tutti_coll coll, const char *name, size_t len)
{
    for (const struct algorithm *const *a = algorithm_table; *a; a++) {
        if ((*a)->coll == coll && strlen((*a)->name) == len && memcmp((*a)->name, name, len) == 0)
            return *a;
    }
    return NULL;
}

static tutti_status check_entry(const char *algo, const struct algo_entry *entry)
{
    int coll = 0;
    while (coll < TUTTI_COLL_COUNT && !is_coll(entry, (tutti_coll)coll))
        coll++;
    if (coll == TUTTI_COLL_COUNT || entry->name_len == 0)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_ALGO=%s: \"%.*s\" is not collective:algorithm (such as allreduce:ring)",
                    algo, (int)(entry->name + entry->name_len - entry->coll), entry->coll);
    if (find_named((tutti_coll)coll, entry->name, entry->name_len) == NULL) {
        char names[NAMES_MAX];
        list_names((tutti_coll)coll, names);
        return fail(TUTTI_ERR_SETTING, "TUTTI_ALGO=%s: %s has no algorithm \"%.*s\"; it has: %s",
                    algo, coll_name((tutti_coll)coll), (int)entry->name_len, entry->name,
                    names[0] ? names : "none, a transfer takes its link");
    }
    return TUTTI_OK;
}

tutti_status planner_check_setting(const char *algo)
{
    struct algo_entry entry;
    for (const char *at = algo; next_entry(&at, &entry);) {
        tutti_status status = check_entry(algo, &entry);
        if (status != TUTTI_OK)
            return status;
    }
    return TUTTI_OK;
}

/* The algorithm that the setting names for this collective (the last entry wins); NULL if none. */
static tutti_status forced_algorithm(const struct settings *settings, tutti_coll coll,
                                     const struct algorithm **forced)
{
    struct algo_entry entry;
    *forced = NULL;
    for (const char *at = settings->algo; next_entry(&at, &entry);) {
        tutti_status status = check_entry(settings->algo, &entry);
        if (status != TUTTI_OK)
            return status;
        if (is_coll(&entry, coll))
            *forced = find_named(coll, entry.name, entry.name_len);
    }
    return TUTTI_OK;
}

/* ---- knobs and prediction -------------------------------------------------------------------- */

/* The links as so many lanes see them: fewer than the network needs, and the streams are the limit,
 * not the wire. */
static struct shape seen_by(const struct shape *shape, uint32_t lanes)
{
    struct shape seen = *shape;
    double streams = STREAM_US_PER_BYTE / lanes;
    if (seen.model[LEVEL_NET].us_per_byte < streams)
        seen.model[LEVEL_NET].us_per_byte = streams;
    return seen;
}

static double predict(const struct shape *shape, const struct algorithm *algorithm,
                      const struct knobs *knobs)
{
    struct shape seen = seen_by(shape, knobs->lanes);
    struct cost cost = {0};
    algorithm->cost(&seen, knobs, &cost);
    /* Rounded, so that formulas that are equal on paper are equal here on every rank: what is left
     * of a sum's rounding may differ between compilers and processors. */
    return (float)cost_us(&seen, &cost) + shape->around_us;
}

/* The bytes of the call, as far as all ranks know them: 0 where counts are known only locally. */
static uint64_t replicated_bytes(const struct shape *shape)
{
    return shape->local_counts ? 0 : coll_total_bytes(shape);
}

static uint64_t smallest_chunk(uint64_t total)
{
    uint64_t chunk = CHUNK_SMALLEST;
    while (chunk < CHUNK_LIMIT && total / chunk > CHUNKS_PER_CALL)
        chunk *= 2;
    return chunk;
}

static struct plan_choice choose_knobs(const struct settings *settings, const struct shape *shape,
                                       const struct algorithm *algorithm)
{
    uint64_t total = replicated_bytes(shape);
    struct plan_choice best = {.algorithm = algorithm, .knobs.lanes = 1};
    if (settings->lanes || total >= LANES_MIN_BYTES)
        best.knobs.lanes = planner_lanes(settings, shape->groups->nodes, shape->model);
    /* Where counts are local a chunk cannot be judged; whole messages take the fewest steps. */
    uint64_t lowest = shape->local_counts ? CHUNK_LIMIT : smallest_chunk(total);
    uint64_t highest = lowest > CHUNK_LARGEST ? lowest : CHUNK_LARGEST;
    if (settings->chunk)
        lowest = highest = settings->chunk;
    best.predicted_us = DBL_MAX;
    for (uint64_t chunk = highest; chunk >= lowest; chunk /= 2) {
        /* Nothing is cut that is not longer: the same plan. A formula takes n steps of n ranks. */
        if (chunk < highest && chunk >= total)
            continue;
        struct knobs knobs = {.chunk_bytes = chunk, .lanes = best.knobs.lanes};
        double us = predict(shape, algorithm, &knobs);
        if (us < best.predicted_us) {
            best.predicted_us = us;
            best.knobs = knobs;
        }
    }
    must(best.knobs.chunk_bytes != 0);
    return best;
}

/* Insertion keeps equal predictions in table order. */
static void insert(struct plan_choice *list, uint32_t *count, struct plan_choice choice)
{
    uint32_t at = *count;
    while (at > 0 && list[at - 1].predicted_us > choice.predicted_us) {
        list[at] = list[at - 1];
        at--;
    }
    list[at] = choice;
    (*count)++;
}

static const char *plural(uint32_t count)
{
    return count == 1 ? "" : "s";
}

tutti_status planner_candidates(const struct settings *settings, const struct shape *shape,
                                struct plan_choice list[PLAN_CANDIDATES_MAX], uint32_t *count)
{
    const struct algorithm *forced;
    tutti_status status = forced_algorithm(settings, shape->coll, &forced);
    if (status != TUTTI_OK)
        return status;
    uint32_t found = 0;
    if (forced && !forced->fits(shape))
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_ALGO=%s: %s %s does not fit %u rank%s on %u host%s with %llu elements "
                    "of %u bytes%s%s",
                    settings->algo, coll_name(shape->coll), forced->name, shape->size,
                    plural(shape->size), shape->groups->nodes, plural(shape->groups->nodes),
                    (unsigned long long)shape->count, shape->elem_size,
                    forced->needs ? ": it needs " : "", forced->needs ? forced->needs : "");
    for (const struct algorithm *const *a = algorithm_table; *a; a++) {
        if ((*a)->coll == shape->coll && (*a)->fits(shape)) {
            must(found < PLAN_CANDIDATES_MAX);
            insert(list, &found, choose_knobs(settings, shape, *a));
        }
    }
    if (found == 0)
        return fail(TUTTI_ERR_UNSUPPORTED, "no algorithm for %s fits %u rank%s on %u host%s",
                    coll_name(shape->coll), shape->size, plural(shape->size), shape->groups->nodes,
                    plural(shape->groups->nodes));
    *count = found;
    return TUTTI_OK;
}

/* The choice that will run: the setting's, else the cheapest. */
static tutti_status choose(const struct settings *settings, const struct shape *shape,
                           struct plan_choice *choice)
{
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    const struct algorithm *forced;
    uint32_t count = 0;
    tutti_status status = planner_candidates(settings, shape, list, &count);
    if (status == TUTTI_OK)
        status = forced_algorithm(settings, shape->coll, &forced);
    if (status != TUTTI_OK)
        return status;
    *choice = list[0];
    for (uint32_t i = 0; forced && i < count; i++) {
        if (list[i].algorithm == forced)
            *choice = list[i];
    }
    return TUTTI_OK;
}

tutti_status planner_predict(const struct settings *settings, const struct shape *shape,
                             double *predicted_us)
{
    struct plan_choice choice;
    tutti_status status = choose(settings, shape, &choice);
    if (status == TUTTI_OK)
        *predicted_us = choice.predicted_us;
    return status;
}

/* ---- plans ----------------------------------------------------------------------------------- */

/* FNV-1a over what decides the wire order of every rank's program. */
static uint32_t plan_hash(const struct plan_choice *choice)
{
    uint32_t hash = 0x811c9dc5u;
    for (const char *c = choice->algorithm->name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x01000193u;
    uint64_t numbers[3] = {choice->algorithm->coll, choice->knobs.chunk_bytes, choice->knobs.lanes};
    for (size_t i = 0; i < sizeof numbers; i++)
        hash = (hash ^ (unsigned char)(numbers[i / 8] >> i % 8 * 8)) * 0x01000193u;
    return hash;
}

static tutti_status emit_schedule(const struct shape *shape, const struct plan_choice *choice,
                                  struct schedule **schedule)
{
    struct builder *builder;
    tutti_status status = builder_new(shape, &builder);
    if (status != TUTTI_OK)
        return status;
    choice->algorithm->emit(shape, &choice->knobs, builder);
    return builder_finish(builder, schedule);
}

tutti_status plan_make(const struct settings *settings, const struct shape *shape,
                       struct plan *plan)
{
    struct plan_choice choice;
    struct schedule *schedule = NULL;
    tutti_status status = choose(settings, shape, &choice);
    if (status != TUTTI_OK)
        return status;
    status = emit_schedule(shape, &choice, &schedule);
    /* The lower bound on chunks makes this rare. Should one rank alone need it, its plan's hash
     * differs from the others', and the call ends with an error rather than with wrong data. */
    while (status == TUTTI_ERR_UNSUPPORTED && choice.knobs.chunk_bytes < CHUNK_LIMIT) {
        choice.knobs.chunk_bytes *= 2;
        status = emit_schedule(shape, &choice, &schedule);
    }
    if (status != TUTTI_OK)
        return status;
#ifndef NDEBUG
    status = schedule_check(schedule, shape);
    if (status != TUTTI_OK) {
        schedule_free(schedule);
        return status;
    }
#endif
    *plan = (struct plan){.algorithm = choice.algorithm,
                          .knobs = choice.knobs,
                          .predicted_us = choice.predicted_us,
                          .hash = plan_hash(&choice),
                          .schedule = schedule};
    return TUTTI_OK;
}

void plan_free(struct plan *plan)
{
    schedule_free(plan->schedule);
    plan->schedule = NULL;
}

/* ---- explanation ----------------------------------------------------------------------------- */

struct text {
    char *at;
    size_t left;
};

static void append(struct text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void append(struct text *text, const char *format, ...)
{
    va_list args;
    if (text->left == 0)
        return;
    va_start(args, format);
    int wrote = vsnprintf(text->at, text->left, format, args);
    va_end(args);
    size_t step = wrote < 0 ? 0 : (size_t)wrote;
    if (step >= text->left)
        step = text->left - 1;
    text->at += step;
    text->left -= step;
}

static double rounds_of(const struct cost *cost)
{
    return cost->rounds[LEVEL_NODE] + cost->rounds[LEVEL_NET];
}

static double messages_of(const struct cost *cost)
{
    return cost->messages[LEVEL_NODE] + cost->messages[LEVEL_NET];
}

static double further_of(const struct cost *cost, int level)
{
    double further = cost->messages[level] - cost->rounds[level];
    return further > 0 ? further : 0;
}

/* Why the first beat the second: the term of the formula in which it is ahead the most. */
static void append_reason(struct text *text, const struct shape *shape,
                          const struct plan_choice *first, const struct plan_choice *second)
{
    enum { BYTES, LATENCY = LEVEL_COUNT, MESSAGES, LOCAL, HIDDEN, TERMS };
    struct shape a_seen = seen_by(shape, first->knobs.lanes);
    struct shape b_seen = seen_by(shape, second->knobs.lanes);
    struct cost a = {0}, b = {0};
    first->algorithm->cost(&a_seen, &first->knobs, &a);
    second->algorithm->cost(&b_seen, &second->knobs, &b);
    double lead[TERMS] = {0}, a_us[LEVEL_COUNT], b_us[LEVEL_COUNT];
    for (int level = 0; level < LEVEL_COUNT; level++) {
        const struct link_model *model = &shape->model[level];
        a_us[level] = cost_bytes_us(&a_seen, &a, level);
        b_us[level] = cost_bytes_us(&b_seen, &b, level);
        lead[BYTES + level] = b_us[level] - a_us[level];
        lead[LATENCY] += (b.rounds[level] - a.rounds[level]) * model->alpha_us;
        lead[MESSAGES] += (further_of(&b, level) - further_of(&a, level)) * model->overhead_us;
    }
    lead[LOCAL] = cost_local_us(shape, &b) - cost_local_us(shape, &a);
    lead[HIDDEN] = a.hidden_us - b.hidden_us;
    int most = LATENCY;
    for (int i = 0; i < TERMS; i++)
        most = lead[i] > lead[most] ? i : most;
    const char *other = second->algorithm->name;
    append(text, "%s is first: ", first->algorithm->name);
    if (lead[most] <= 0)
        append(text, "as cheap as %s, and earlier in the table\n", other);
    else if (most == LATENCY)
        append(text, "less latency (rounds: %.0f; %s has %.0f)\n", rounds_of(&a), other,
               rounds_of(&b));
    else if (most == MESSAGES)
        append(text, "fewer messages from one rank (%.0f; %s has %.0f)\n", messages_of(&a), other,
               messages_of(&b));
    else if (most == LOCAL)
        append(text, "less local work (%.0f bytes reduced, copied or landed; %s has %.0f)\n",
               a.reduce_bytes + a.copy_bytes + a.landed_bytes, other,
               b.reduce_bytes + b.copy_bytes + b.landed_bytes);
    else if (most == HIDDEN)
        append(text, "more goes on at the same time (%.2f us; %s has %.2f)\n", a.hidden_us, other,
               b.hidden_us);
    else
        append(text, "less time for bytes %s (%.2f us; %s needs %.2f)\n",
               most == LEVEL_NET ? "between hosts" : "inside hosts", a_us[most], other, b_us[most]);
}

void planner_explain(const struct settings *settings, const struct shape *shape, char *text,
                     size_t len)
{
    struct text out = {.at = text, .left = len};
    struct plan_choice list[PLAN_CANDIDATES_MAX], taken;
    uint32_t count = 0;
    if (len > 0)
        text[0] = 0;
    if (planner_candidates(settings, shape, list, &count) != TUTTI_OK ||
        choose(settings, shape, &taken) != TUTTI_OK) {
        append(&out, "no plan: %s\n", status_sentence());
        return;
    }
    append(&out, "%s, %u rank%s on %u host%s, ", coll_name(shape->coll), shape->size,
           plural(shape->size), shape->groups->nodes, plural(shape->groups->nodes));
    if (shape->local_counts)
        append(&out, "sizes known only locally\n");
    else
        append(&out, "%llu bytes\n", (unsigned long long)coll_total_bytes(shape));
    append(&out, "  %-16s %10s %5s %12s\n", "algorithm", "chunk", "lanes", "predicted_us");
    for (uint32_t i = 0; i < count; i++)
        append(&out, "%c %-16s %10llu %5u %12.2f\n",
               list[i].algorithm == taken.algorithm ? '*' : ' ', list[i].algorithm->name,
               (unsigned long long)list[i].knobs.chunk_bytes, list[i].knobs.lanes,
               list[i].predicted_us);
    if (taken.algorithm != list[0].algorithm)
        append(&out, "%s is taken because TUTTI_ALGO says so\n", taken.algorithm->name);
    else if (count == 1)
        append(&out, "%s is the only one that fits\n", taken.algorithm->name);
    else
        append_reason(&out, shape, &list[0], &list[1]);
}
