/* verify_result.c: runs all programs on symbols and checks what each rank ends up with; and, for a
 * barrier, what each rank has learnt. See verify.h.
 *
 * A byte's value is an expression and a position: leaf r at position p is byte p of rank r's IN, a
 * reduction at position p is a op b of two expressions at that same position (reducing bytes of
 * different positions is wrong in every collective). Expressions are kept once each, so that equal
 * numbers mean equal trees. A memory is a map from intervals to (expression, position - address),
 * which splitting does not change: the size of the buffers costs nothing. */
#include <stdlib.h>
#include <string.h>

#include "algorithms/verify.h"
#include "base/check.h"
#include "base/spans.h"

/* An interval's 64 bits: expression above, position - address (biased) below. */
#define SHIFT_BITS      40
#define SHIFT_BIAS      ((int64_t)1 << (SHIFT_BITS - 1))
#define EXPRESSIONS_MAX (1u << 24)
#define NIL             UINT32_MAX

struct expression {
    uint32_t a, b; /* leaf: rank and NIL */
};

/* len bytes of one expression, from position on. */
struct piece {
    uint64_t len, position;
    uint32_t expression;
};
struct pieces {
    struct piece *list;
    uint32_t count, capacity;
};

struct run {
    const struct graph *graph;
    uint32_t size, words; /* ranks; 64-bit words of a set of them */
    struct spans *memory; /* [size][BUFFER_COUNT] */
    struct expression *expressions;
    uint64_t *sets; /* [expressions][words] the ranks in each */
    uint32_t *table, expression_count, expression_capacity;
    struct pieces a, b;
};

static const char *const buffer_names[] = {"in", "out", "scratch"};

static tutti_status no_memory(void)
{
    return fail(TUTTI_ERR_NOMEM, "no memory to run a plan on symbols");
}

static tutti_status wrong(const struct run *run, uint32_t rank, struct span span, const char *fact)
{
    const struct shape *shape = &run->graph->world->shapes[rank];
    return fail(TUTTI_ERR_INTERNAL, "%s, rank %u of %u, %s bytes %llu + %llu: %s",
                coll_name(shape->coll), rank, shape->size, buffer_names[span.buffer],
                (unsigned long long)span.off, (unsigned long long)span.len, fact);
}

/* ---- expressions ------------------------------------------------------------------------------
 */

static uint32_t slot_of(const struct run *run, uint32_t a, uint32_t b)
{
    uint64_t hash = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15u;
    uint32_t mask = 2 * run->expression_capacity - 1, slot = (uint32_t)(hash >> 32) & mask;
    while (run->table[slot] != NIL &&
           (run->expressions[run->table[slot]].a != a || run->expressions[run->table[slot]].b != b))
        slot = (slot + 1) & mask;
    return slot;
}

/* Doubles the room; the table stays at most half full. */
static tutti_status grow_expressions(struct run *run)
{
    uint32_t capacity = run->expression_capacity ? 2 * run->expression_capacity : 256;
    void *expressions = realloc(run->expressions, capacity * sizeof *run->expressions);
    if (expressions)
        run->expressions = expressions;
    void *sets = realloc(run->sets, (size_t)capacity * run->words * sizeof *run->sets);
    if (sets)
        run->sets = sets;
    void *table = realloc(run->table, 2 * (size_t)capacity * sizeof *run->table);
    if (table)
        run->table = table;
    if (!expressions || !sets || !table)
        return no_memory();
    run->expression_capacity = capacity;
    memset(run->table, 0xff, 2 * (size_t)capacity * sizeof *run->table);
    for (uint32_t e = 0; e < run->expression_count; e++)
        run->table[slot_of(run, run->expressions[e].a, run->expressions[e].b)] = e;
    return TUTTI_OK;
}

static tutti_status expression_of(struct run *run, uint32_t a, uint32_t b, uint32_t *out)
{
    if (run->expression_count == run->expression_capacity) {
        tutti_status status = grow_expressions(run);
        if (status != TUTTI_OK)
            return status;
    }
    uint32_t slot = slot_of(run, a, b), e = run->table[slot];
    if (e == NIL) {
        e = run->expression_count;
        if (e == EXPRESSIONS_MAX)
            return fail(TUTTI_ERR_UNSUPPORTED, "a proof has room for %u expressions", e);
        run->expression_count++;
        run->table[slot] = e;
        run->expressions[e] = (struct expression){a, b};
        uint64_t *set = run->sets + (size_t)e * run->words;
        memset(set, 0, run->words * sizeof *set);
        if (b == NIL)
            set[a / 64] |= (uint64_t)1 << a % 64;
        for (uint32_t w = 0; w < run->words && b != NIL; w++)
            set[w] = run->sets[(size_t)a * run->words + w] | run->sets[(size_t)b * run->words + w];
    }
    *out = e;
    return TUTTI_OK;
}

static bool share_a_rank(const struct run *run, uint32_t a, uint32_t b)
{
    for (uint32_t w = 0; w < run->words; w++) {
        if (run->sets[(size_t)a * run->words + w] & run->sets[(size_t)b * run->words + w])
            return true;
    }
    return false;
}

static bool has_all_ranks(const struct run *run, uint32_t e)
{
    uint32_t ranks = 0;
    for (uint32_t w = 0; w < run->words; w++)
        ranks += (uint32_t)__builtin_popcountll(run->sets[(size_t)e * run->words + w]);
    return ranks == run->size;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static struct spans *memory_at(const struct run *run, uint32_t rank, struct span *span)
{
    *span = verify_place(&run->graph->world->shapes[rank], *span);
    return &run->memory[rank * BUFFER_COUNT + span->buffer];
}

static uint64_t pack(uint32_t expression, uint64_t position, uint64_t address)
{
    int64_t shift = (int64_t)(position - address);
    must(shift >= -SHIFT_BIAS && shift < SHIFT_BIAS);
    return (uint64_t)expression << SHIFT_BITS | (uint64_t)(shift + SHIFT_BIAS);
}

static uint32_t expression_in(uint64_t value)
{
    return (uint32_t)(value >> SHIFT_BITS);
}

static uint64_t position_in(uint64_t value, uint64_t address)
{
    return address + (value & (((uint64_t)1 << SHIFT_BITS) - 1)) - (uint64_t)SHIFT_BIAS;
}

static tutti_status add_piece(struct pieces *pieces, struct piece piece)
{
    struct piece *last = pieces->count > 0 ? &pieces->list[pieces->count - 1] : NULL;
    if (last && last->expression == piece.expression &&
        last->position + last->len == piece.position) {
        last->len += piece.len;
        return TUTTI_OK;
    }
    if (pieces->count == pieces->capacity) {
        uint32_t capacity = pieces->capacity ? 2 * pieces->capacity : 64;
        struct piece *list = realloc(pieces->list, capacity * sizeof *list);
        if (!list)
            return no_memory();
        pieces->list = list;
        pieces->capacity = capacity;
    }
    pieces->list[pieces->count++] = piece;
    return TUTTI_OK;
}

static tutti_status read_span(struct run *run, uint32_t rank, struct span span,
                              struct pieces *pieces)
{
    struct span place = span;
    const struct spans *map = memory_at(run, rank, &place);
    uint64_t at = place.off, end = place.off + place.len;
    pieces->count = 0;
    for (size_t i = spans_find(map, at); at < end; i++) {
        if (i == map->count || map->entries[i].begin > at)
            return wrong(run, rank, span, "read, but not all of it was ever written");
        const struct span_entry *entry = &map->entries[i];
        uint64_t stop = entry->end < end ? entry->end : end;
        tutti_status status =
            add_piece(pieces, (struct piece){.len = stop - at,
                                             .position = position_in(entry->value, at),
                                             .expression = expression_in(entry->value)});
        if (status != TUTTI_OK)
            return status;
        at = stop;
    }
    return TUTTI_OK;
}

/* Sets bytes, together with those before them that hold more of the same: messages that come in
 * pieces leave one interval. */
static tutti_status set_bytes(struct spans *map, uint64_t begin, uint64_t end, uint64_t value)
{
    size_t i = begin > 0 ? spans_find(map, begin - 1) : map->count;
    if (i < map->count && map->entries[i].end == begin && map->entries[i].value == value)
        begin = map->entries[i].begin;
    return spans_set(map, begin, end, value);
}

static tutti_status write_span(struct run *run, uint32_t rank, struct span span,
                               const struct pieces *pieces)
{
    struct spans *map = memory_at(run, rank, &span);
    uint64_t at = span.off;
    for (uint32_t i = 0; i < pieces->count; i++) {
        const struct piece *piece = &pieces->list[i];
        tutti_status status =
            set_bytes(map, at, at + piece->len, pack(piece->expression, piece->position, at));
        if (status != TUTTI_OK)
            return status;
        at += piece->len;
    }
    return TUTTI_OK;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* dst = a op b at rank; the operands are in run->a and run->b. */
static tutti_status reduce(struct run *run, uint32_t rank, const struct step *step)
{
    const struct shape *shape = &run->graph->world->shapes[rank];
    const struct piece *x = run->a.list, *y = run->b.list;
    struct span dst = step->dst;
    struct spans *map = memory_at(run, rank, &dst);
    for (uint64_t done = 0, x_done = 0, y_done = 0, len; done < dst.len; done += len) {
        uint64_t x_left = x->len - x_done, y_left = y->len - y_done;
        len = x_left < y_left ? x_left : y_left;
        if (x->position + x_done != y->position + y_done)
            return wrong(run, rank, step->dst, "reduces bytes of different offsets");
        if ((x->position + x_done) % shape->elem_size != 0)
            return wrong(run, rank, step->dst, "reduces torn elements");
        if (share_a_rank(run, x->expression, y->expression))
            return wrong(run, rank, step->dst, "a rank contributes twice");
        uint32_t e;
        tutti_status status = expression_of(run, x->expression, y->expression, &e);
        if (status == TUTTI_OK)
            status = set_bytes(map, dst.off + done, dst.off + done + len,
                               pack(e, x->position + x_done, dst.off + done));
        if (status != TUTTI_OK)
            return status;
        x_done += len;
        y_done += len;
        if (x_done == x->len) {
            x++;
            x_done = 0;
        }
        if (y_done == y->len) {
            y++;
            y_done = 0;
        }
    }
    return TUTTI_OK;
}

static bool same_span(struct span x, struct span y)
{
    return x.buffer == y.buffer && x.off == y.off && x.len == y.len;
}

/* Receives what is in run->a. A receive that carries out a reduction may leave anything where it
 * was to land. */
static tutti_status receive(struct run *run, uint32_t rank, const struct step *step)
{
    if (step->fused == STEP_NONE)
        return write_span(run, rank, step->dst, &run->a);
    const struct step *carried = &run->graph->world->programs[rank]->steps[step->fused];
    bool theirs_first = same_span(carried->a, step->dst);
    struct span landing = step->dst;
    struct spans *map = memory_at(run, rank, &landing);
    tutti_status status = read_span(run, rank, theirs_first ? carried->b : carried->a, &run->b);
    if (status == TUTTI_OK)
        status = spans_clear(map, landing.off, landing.off + landing.len);
    if (status != TUTTI_OK)
        return status;
    if (!theirs_first) {
        struct pieces swap = run->a;
        run->a = run->b;
        run->b = swap;
    }
    return reduce(run, rank, carried);
}

static tutti_status take_step(struct run *run, uint32_t node)
{
    const struct graph *graph = run->graph;
    const struct step *step = graph_step(graph, node);
    uint32_t rank = graph->rank_of[node];
    tutti_status status = TUTTI_OK;
    switch (step->kind) {
    case STEP_SEND: /* is part of its receive's node */
        break;
    case STEP_RECV:
        status = read_span(run, graph->rank_of[graph->send[node]],
                           graph_step(graph, graph->send[node])->a, &run->a);
        return status == TUTTI_OK ? receive(run, rank, step) : status;
    case STEP_COPY:
        status = read_span(run, rank, step->a, &run->a);
        return status == TUTTI_OK ? write_span(run, rank, step->dst, &run->a) : status;
    case STEP_REDUCE:
        status = read_span(run, rank, step->a, &run->a);
        if (status == TUTTI_OK)
            status = read_span(run, rank, step->b, &run->b);
        return status == TUTTI_OK ? reduce(run, rank, step) : status;
    }
    return status;
}

/* ---- before and after -------------------------------------------------------------------------
 */

static tutti_status fill_input(struct run *run, uint32_t rank)
{
    struct span in = span_of(BUFFER_IN, 0, coll_in_bytes(&run->graph->world->shapes[rank]));
    struct spans *map = memory_at(run, rank, &in);
    uint32_t leaf;
    tutti_status status = expression_of(run, rank, NIL, &leaf);
    if (status == TUTTI_OK)
        status = spans_set(map, in.off, in.off + in.len, pack(leaf, 0, in.off));
    return status;
}

/* The bytes must be what they were before: input where they are input, else never written. */
static tutti_status check_untouched(struct run *run, uint32_t rank, struct span span)
{
    const struct shape *shape = &run->graph->world->shapes[rank];
    struct span place = span, in = span_of(BUFFER_IN, 0, coll_in_bytes(shape));
    const struct spans *map = memory_at(run, rank, &place);
    memory_at(run, rank, &in);
    uint64_t end = place.off + place.len, in_len = in.buffer == place.buffer ? in.len : 0;
    for (uint64_t at = place.off; at < end;) {
        bool input = at >= in.off && at - in.off < in_len;
        uint64_t stop = input ? in.off + in_len : at < in.off && in_len > 0 ? in.off : end;
        stop = stop < end ? stop : end;
        size_t i = spans_find(map, at);
        bool written = i < map->count && map->entries[i].begin < stop;
        if (!input && written)
            return wrong(run, rank, span, "written, but belongs to no block of the result");
        if (input) {
            must(written);
            uint64_t value = map->entries[i].value;
            if (map->entries[i].begin > at || run->expressions[expression_in(value)].b != NIL ||
                run->expressions[expression_in(value)].a != rank ||
                position_in(value, at) != at - in.off)
                return wrong(run, rank, span, "input that is not part of the result has changed");
            stop = map->entries[i].end < stop ? map->entries[i].end : stop;
        }
        at = stop;
    }
    return TUTTI_OK;
}

static tutti_status check_run(struct run *run, uint32_t rank, struct span span,
                              const struct origin *origin)
{
    const struct world *world = run->graph->world;
    uint64_t position = origin->in_off;
    if (origin->in_block)
        position += coll_block(&world->shapes[origin->source], rank).off;
    tutti_status status = read_span(run, rank, span, &run->a);
    for (uint32_t i = 0; i < run->a.count && status == TUTTI_OK; i++) {
        const struct piece *piece = &run->a.list[i];
        const struct expression *e = &run->expressions[piece->expression];
        if (piece->position != position)
            status = wrong(run, rank, span, "holds bytes of another offset");
        else if (origin->all && !has_all_ranks(run, piece->expression))
            status = wrong(run, rank, span, "a rank's contribution is missing");
        else if (!origin->all && (e->b != NIL || e->a != origin->source))
            status = wrong(run, rank, span, "holds another rank's bytes");
        position += piece->len;
    }
    return status;
}

static tutti_status check_output(struct run *run, uint32_t rank)
{
    const struct shape *shape = &run->graph->world->shapes[rank];
    uint64_t bytes = coll_out_bytes(shape);
    struct origin origin;
    for (uint64_t off = 0; off < bytes; off += origin.len) {
        bool specified = coll_postcondition(shape, off, &origin);
        struct span span = span_of(BUFFER_OUT, off, origin.len);
        tutti_status status =
            specified ? check_run(run, rank, span, &origin) : check_untouched(run, rank, span);
        if (status != TUTTI_OK)
            return status;
    }
    return TUTTI_OK;
}

/* What of IN is not OUT must be as it was. */
static tutti_status check_input(struct run *run, uint32_t rank)
{
    const struct shape *shape = &run->graph->world->shapes[rank];
    uint64_t in_bytes = coll_in_bytes(shape), out_bytes = coll_out_bytes(shape);
    struct span in = span_of(BUFFER_IN, 0, in_bytes), out = span_of(BUFFER_OUT, 0, out_bytes);
    memory_at(run, rank, &in);
    memory_at(run, rank, &out);
    /* [0, before) of IN lies below OUT, [after, in_bytes) above. */
    uint64_t before = in_bytes, after = in_bytes;
    if (in.buffer == out.buffer) {
        before = out.off > in.off ? out.off - in.off : 0;
        after = out.off + out.len > in.off ? out.off + out.len - in.off : 0;
        before = before < in_bytes ? before : in_bytes;
        after = after < in_bytes ? after : in_bytes;
    }
    tutti_status status = check_untouched(run, rank, span_of(BUFFER_IN, 0, before));
    if (status == TUTTI_OK)
        status = check_untouched(run, rank, span_of(BUFFER_IN, after, in_bytes - after));
    return status;
}

static bool same_pieces(const struct pieces *x, const struct pieces *y)
{
    if (x->count != y->count)
        return false;
    for (uint32_t i = 0; i < x->count; i++) {
        if (x->list[i].len != y->list[i].len || x->list[i].expression != y->list[i].expression)
            return false;
    }
    return true;
}

/* All ranks of an allreduce end with the same expression in every byte. */
static tutti_status check_replicas(struct run *run)
{
    struct span out = span_of(BUFFER_OUT, 0, coll_out_bytes(&run->graph->world->shapes[0]));
    tutti_status status = read_span(run, 0, out, &run->a);
    for (uint32_t r = 1; r < run->size && status == TUTTI_OK; r++) {
        status = read_span(run, r, out, &run->b);
        if (status == TUTTI_OK && !same_pieces(&run->a, &run->b))
            status = wrong(run, r, out, "reduced in another order than at rank 0");
    }
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static tutti_status run_all(struct run *run, const uint32_t *order)
{
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < run->size && status == TUTTI_OK; r++)
        status = fill_input(run, r);
    for (uint32_t i = 0; i < run->graph->nodes && status == TUTTI_OK; i++)
        status = take_step(run, order[i]);
    for (uint32_t r = 0; r < run->size && status == TUTTI_OK; r++) {
        status = check_output(run, r);
        if (status == TUTTI_OK)
            status = check_input(run, r);
    }
    if (status == TUTTI_OK && run->graph->world->shapes[0].coll == TUTTI_COLL_ALLREDUCE)
        status = check_replicas(run);
    return status;
}

tutti_status verify_result(const struct graph *graph, const uint32_t *order)
{
    uint32_t size = graph->world->size;
    struct run run = {.graph = graph, .size = size, .words = (size + 63) / 64};
    run.memory = calloc((size_t)size * BUFFER_COUNT, sizeof *run.memory);
    tutti_status status = run.memory ? run_all(&run, order) : no_memory();
    for (uint32_t i = 0; run.memory && i < size * BUFFER_COUNT; i++)
        spans_free(&run.memory[i]);
    free(run.memory);
    free(run.expressions);
    free(run.sets);
    free(run.table);
    free(run.a.list);
    free(run.b.list);
    return status;
}

/* known[step]: the ranks of which the step's rank knows, once the step is done, that they have
 * entered. A receive knows what its send knew; a send learns nothing from being done. */
tutti_status verify_barrier(const struct graph *graph, const uint32_t *order)
{
    const struct world *world = graph->world;
    size_t words = (world->size + 63) / 64;
    uint64_t *known = calloc((graph->steps + 1) * words, sizeof *known);
    if (!known)
        return no_memory();
    for (uint32_t i = 0; i < graph->nodes; i++) {
        uint32_t parts[2] = {graph->send[order[i]], order[i]};
        for (int p = parts[0] == STEP_NONE; p < 2; p++) {
            uint32_t rank = graph->rank_of[parts[p]];
            const struct step *step = graph_step(graph, parts[p]);
            uint64_t *mine = known + parts[p] * words;
            mine[rank / 64] |= (uint64_t)1 << rank % 64;
            for (size_t w = 0; w < words && p == 1 && parts[0] != STEP_NONE; w++)
                mine[w] |= known[parts[0] * words + w];
            for (uint32_t k = 0; k < step->succ_count; k++) {
                uint32_t to = world->programs[rank]->successors[step->succ + k];
                for (size_t w = 0; w < words; w++)
                    known[(graph->base[rank] + to) * words + w] |= mine[w];
            }
        }
    }
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < world->size && status == TUTTI_OK; r++) {
        uint64_t *all = known + graph->steps * words;
        memset(all, 0, words * sizeof *all);
        all[r / 64] |= (uint64_t)1 << r % 64;
        for (uint32_t s = graph->base[r]; s < graph->base[r + 1]; s++)
            for (size_t w = 0; w < words; w++)
                all[w] |= known[s * words + w];
        for (uint32_t q = 0; q < world->size && status == TUTTI_OK; q++) {
            if (!(all[q / 64] >> q % 64 & 1))
                status = fail(TUTTI_ERR_INTERNAL,
                              "barrier: rank %u may leave before rank %u enters", r, q);
        }
    }
    free(known);
    return status;
}
