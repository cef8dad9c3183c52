/* verify_races.c: no two steps of a program that touch one byte, one of them writing it, are
 * unordered. See verify.h.
 *
 * The builder finds hazards in program order with a map; this finds them the other way round, so
 * that a mistake is not made twice: all accesses to a memory are sorted by address and swept. At
 * every address the steps there, in program order, must be linked by the edges: a writer before
 * each of its readers, each reader before the next writer, a writer before the next writer where
 * nothing reads between. The rest follows, because paths join. */
#include <stdlib.h>
#include <string.h>

#include "algorithms/verify.h"

struct access {
    uint64_t begin, end;
    uint32_t step;    /* in program order */
    uint32_t carrier; /* the step that does it: a fused reduction's receive */
    bool write;
};

struct sweep {
    const struct schedule *schedule;
    const struct shape *shape;
    struct access *list; /* accesses to one memory, by begin */
    uint32_t count;
    uint32_t *active; /* of list, in program order */
    uint32_t active_count;
    uint32_t *first, *preds; /* reversed edges */
    uint32_t *stack, *seen;  /* [steps] of a search; seen: the search that came here, plus 1 */
    uint32_t searches;
};

struct span verify_place(const struct shape *shape, struct span span)
{
    if (!shape->in_place || span.buffer == BUFFER_SCRATCH)
        return span;
    int64_t delta = coll_alias_delta(shape); /* where IN begins in OUT */
    if (span.buffer == BUFFER_IN && delta > 0)
        span.off += (uint64_t)delta;
    if (span.buffer == BUFFER_OUT && delta < 0)
        span.off += (uint64_t)-delta;
    span.buffer = BUFFER_OUT;
    return span;
}

/* ---- paths ------------------------------------------------------------------------------------
 */

static void reverse_edges(struct sweep *sweep)
{
    const struct schedule *schedule = sweep->schedule;
    for (uint32_t s = 0, at = 0; s < schedule->step_count; s++) {
        sweep->first[s] = at;
        at += schedule->steps[s].waits;
    }
    memset(sweep->stack, 0, schedule->step_count * sizeof *sweep->stack);
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        for (uint32_t i = 0; i < step->succ_count; i++) {
            uint32_t to = schedule->successors[step->succ + i];
            sweep->preds[sweep->first[to] + sweep->stack[to]++] = s;
        }
    }
}

/* Edges lead forward, so the way back to `from` goes over steps that are not before it. */
static bool path(struct sweep *sweep, uint32_t from, uint32_t to)
{
    uint32_t depth = 0, search = ++sweep->searches;
    sweep->stack[depth++] = to;
    sweep->seen[to] = search;
    while (depth > 0) {
        uint32_t at = sweep->stack[--depth];
        if (at == from)
            return true;
        for (uint32_t i = 0; i < sweep->schedule->steps[at].waits; i++) {
            uint32_t before = sweep->preds[sweep->first[at] + i];
            if (before == from)
                return true;
            if (before > from && sweep->seen[before] != search) {
                sweep->seen[before] = search;
                sweep->stack[depth++] = before;
            }
        }
    }
    return false;
}

/* ---- sweep ------------------------------------------------------------------------------------
 */

static tutti_status ordered(struct sweep *sweep, const struct access *x, const struct access *y)
{
    if (x->carrier == y->carrier || path(sweep, x->carrier, y->carrier))
        return TUTTI_OK;
    return fail(TUTTI_ERR_INTERNAL,
                "%s, rank %u of %u: steps %u and %u race on byte %llu: nothing orders them",
                coll_name(sweep->shape->coll), sweep->shape->rank, sweep->shape->size, x->step,
                y->step, (unsigned long long)(x->begin > y->begin ? x->begin : y->begin));
}

/* The active accesses all touch the bytes between two neighbouring boundaries. */
static tutti_status check_active(struct sweep *sweep)
{
    const struct access *writer = NULL;
    uint32_t reads = 0; /* active[reads ..i) read what writer wrote */
    for (uint32_t i = 0; i < sweep->active_count; i++) {
        const struct access *access = &sweep->list[sweep->active[i]];
        tutti_status status = TUTTI_OK;
        if (writer && (!access->write || reads == i))
            status = ordered(sweep, writer, access);
        for (uint32_t k = reads; access->write && k < i && status == TUTTI_OK; k++)
            status = ordered(sweep, &sweep->list[sweep->active[k]], access);
        if (status != TUTTI_OK)
            return status;
        if (access->write) {
            writer = access;
            reads = i + 1;
        }
    }
    return TUTTI_OK;
}

/* In program order; a step reads before it writes. */
static void activate(struct sweep *sweep, uint32_t index)
{
    const struct access *access = &sweep->list[index];
    uint32_t at = sweep->active_count++;
    for (; at > 0; at--) {
        const struct access *before = &sweep->list[sweep->active[at - 1]];
        if (before->step < access->step || (before->step == access->step && !before->write))
            break;
        sweep->active[at] = sweep->active[at - 1];
    }
    sweep->active[at] = index;
}

static int compare_begins(const void *x, const void *y)
{
    const struct access *a = x, *b = y;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->step < b->step ? -1 : a->step > b->step;
}

static tutti_status sweep_memory(struct sweep *sweep)
{
    uint32_t next = 0;
    if (sweep->count > 1)
        qsort(sweep->list, sweep->count, sizeof *sweep->list, compare_begins);
    sweep->active_count = 0;
    while (next < sweep->count || sweep->active_count > 0) {
        if (sweep->active_count == 0)
            activate(sweep, next++);
        uint64_t at = sweep->list[next - 1].begin;
        while (next < sweep->count && sweep->list[next].begin == at)
            activate(sweep, next++);
        /* All intervals up to the next begin; each ends where the first active access does. */
        uint64_t until = next < sweep->count ? sweep->list[next].begin : UINT64_MAX;
        while (sweep->active_count > 0) {
            tutti_status status = check_active(sweep);
            if (status != TUTTI_OK)
                return status;
            uint64_t end = until;
            for (uint32_t i = 0; i < sweep->active_count; i++) {
                if (sweep->list[sweep->active[i]].end < end)
                    end = sweep->list[sweep->active[i]].end;
            }
            uint32_t kept = 0;
            for (uint32_t i = 0; i < sweep->active_count; i++) {
                if (sweep->list[sweep->active[i]].end > end)
                    sweep->active[kept++] = sweep->active[i];
            }
            sweep->active_count = kept;
            if (end == until)
                break;
        }
        if (next < sweep->count && sweep->active_count > 0)
            activate(sweep, next++);
    }
    return TUTTI_OK;
}

static void collect(struct sweep *sweep, enum buffer memory, uint32_t s, struct span span,
                    bool write)
{
    const struct step *step = &sweep->schedule->steps[s];
    bool carried = step->kind == STEP_REDUCE && step->fused != STEP_NONE;
    span = verify_place(sweep->shape, span);
    if (span.len > 0 && span.buffer == memory)
        sweep->list[sweep->count++] = (struct access){.begin = span.off,
                                                      .end = span.off + span.len,
                                                      .step = s,
                                                      .carrier = carried ? step->fused : s,
                                                      .write = write};
}

tutti_status verify_races(const struct schedule *schedule, const struct shape *shape)
{
    size_t steps = schedule->step_count;
    struct sweep sweep = {.schedule = schedule, .shape = shape};
    uint32_t *memory = calloc(6 * steps + schedule->successor_count + 1, sizeof *memory);
    sweep.list = malloc((3 * steps + 1) * sizeof *sweep.list);
    tutti_status status = TUTTI_OK;
    if (!memory || !sweep.list) {
        status = fail(TUTTI_ERR_NOMEM, "no memory to look for races in %zu steps", steps);
    } else {
        sweep.first = memory;
        sweep.stack = memory + steps;
        sweep.seen = memory + 2 * steps;
        sweep.active = memory + 3 * steps;
        sweep.preds = memory + 6 * steps;
        reverse_edges(&sweep);
    }
    for (int m = BUFFER_OUT; m < BUFFER_COUNT && status == TUTTI_OK; m++) {
        sweep.count = 0;
        for (uint32_t s = 0; s < steps; s++) {
            const struct step *step = &schedule->steps[s];
            collect(&sweep, (enum buffer)m, s, step->a, false);
            collect(&sweep, (enum buffer)m, s, step->b, false);
            collect(&sweep, (enum buffer)m, s, step->dst, true);
        }
        status = sweep_memory(&sweep);
    }
    free(memory);
    free(sweep.list);
    return status;
}
