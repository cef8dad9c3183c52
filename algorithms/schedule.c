/* schedule.c: the builder. Steps are kept in program order. For every byte of each buffer the
 * builder knows the step that wrote it last and the steps that read it since; a new step waits for
 * the writers of what it reads, and for the writers and readers of what it writes. Intervals come
 * from base/spans; what an interval knows is a small immutable record, and its readers are a list
 * that intervals share after a split, so a plan of n steps builds in about n log n. */
#include "algorithms/schedule.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/spans.h"

#define NIL  UINT32_MAX
#define MANY (UINT32_MAX - 1)

struct reader {
    uint32_t step, next;
};
struct record {
    uint32_t writer, readers;
};
struct edge {
    uint32_t from, to;
};

struct builder {
    const struct shape *shape;
    int64_t delta;
    tutti_status status;
    struct step *steps;
    uint32_t count, capacity;
    struct spans maps[BUFFER_COUNT];
    struct record *records;
    uint32_t record_count, record_capacity;
    struct reader *readers;
    uint32_t reader_count, reader_capacity;
    struct edge *edges;
    uint32_t edge_count, edge_capacity;
    uint32_t *mark;   /* [capacity] last step for which an edge from here was made, plus 1 */
    uint32_t *reader; /* [capacity] the one step that reads what this one wrote, NIL, or MANY */
    uint64_t scratch;
};

static bool grow(struct builder *b, void *array, uint32_t count, uint32_t *capacity, size_t size)
{
    void **at = array;
    if (count < *capacity)
        return true;
    uint32_t more = *capacity ? *capacity * 2 : 64;
    void *bigger = realloc(*at, more * size);
    if (!bigger) {
        b->status = fail(TUTTI_ERR_NOMEM, "no memory for a plan of %u steps", b->count);
        return false;
    }
    *at = bigger;
    *capacity = more;
    return true;
}

tutti_status builder_new(const struct shape *shape, struct builder **builder)
{
    struct builder *b = calloc(1, sizeof *b);
    if (!b)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan builder");
    b->shape = shape;
    b->delta = shape->in_place ? coll_alias_delta(shape) : 0;
    for (int i = 0; i < BUFFER_COUNT; i++)
        spans_init(&b->maps[i]);
    *builder = b;
    return TUTTI_OK;
}

void builder_free(struct builder *b)
{
    if (!b)
        return;
    for (int i = 0; i < BUFFER_COUNT; i++)
        spans_free(&b->maps[i]);
    free(b->steps);
    free(b->records);
    free(b->readers);
    free(b->edges);
    free(b->mark);
    free(b->reader);
    free(b);
}

struct span build_scratch(struct builder *b, uint64_t len)
{
    struct span span = span_of(BUFFER_SCRATCH, b->scratch, len);
    b->scratch += (len + 63) & ~(uint64_t)63;
    return span;
}

/* The canonical place of a span: in place, the smaller buffer's bytes are bytes of the larger. */
static struct span canonical(const struct builder *b, struct span span)
{
    if (!b->shape->in_place)
        return span;
    if (b->delta >= 0 && span.buffer == BUFFER_IN) {
        span.buffer = BUFFER_OUT;
        span.off += (uint64_t)b->delta;
    } else if (b->delta < 0 && span.buffer == BUFFER_OUT) {
        span.buffer = BUFFER_IN;
        span.off += (uint64_t)-b->delta;
    }
    return span;
}

static void add_edge(struct builder *b, uint32_t from, uint32_t to)
{
    if (from == NIL || from == to || b->mark[from] == to + 1)
        return;
    if (!grow(b, &b->edges, b->edge_count, &b->edge_capacity, sizeof *b->edges))
        return;
    b->mark[from] = to + 1;
    b->edges[b->edge_count++] = (struct edge){from, to};
}

static uint32_t new_record(struct builder *b, struct record record)
{
    if (!grow(b, &b->records, b->record_count, &b->record_capacity, sizeof *b->records))
        return 0;
    b->records[b->record_count] = record;
    return b->record_count++;
}

static void set(struct builder *b, enum buffer buffer, uint64_t begin, uint64_t end,
                uint32_t record)
{
    tutti_status status = spans_set(&b->maps[buffer], begin, end, record);
    if (status != TUTTI_OK)
        b->status = status;
}

static void note_read(struct builder *b, uint32_t s, struct span span)
{
    span = canonical(b, span);
    struct spans *map = &b->maps[span.buffer];
    uint64_t at = span.off, end = span.off + span.len;
    while (at < end && b->status == TUTTI_OK) {
        size_t i = spans_find(map, at);
        struct record old = {NIL, NIL};
        uint64_t stop = end;
        if (i < map->count && map->entries[i].begin <= at) {
            old = b->records[map->entries[i].value];
            if (map->entries[i].end < end)
                stop = map->entries[i].end;
        } else if (i < map->count && map->entries[i].begin < end) {
            stop = map->entries[i].begin;
        }
        add_edge(b, old.writer, s);
        if (old.writer != NIL && b->reader[old.writer] != s)
            b->reader[old.writer] = b->reader[old.writer] == NIL ? s : MANY;
        if (!grow(b, &b->readers, b->reader_count, &b->reader_capacity, sizeof *b->readers))
            return;
        b->readers[b->reader_count] = (struct reader){s, old.readers};
        set(b, span.buffer, at, stop,
            new_record(b, (struct record){old.writer, b->reader_count++}));
        at = stop;
    }
}

static void note_write(struct builder *b, uint32_t s, struct span span)
{
    span = canonical(b, span);
    struct spans *map = &b->maps[span.buffer];
    uint64_t end = span.off + span.len;
    for (size_t i = spans_find(map, span.off); i < map->count && map->entries[i].begin < end; i++) {
        const struct record *old = &b->records[map->entries[i].value];
        add_edge(b, old->writer, s);
        for (uint32_t r = old->readers; r != NIL; r = b->readers[r].next)
            add_edge(b, b->readers[r].step, s);
    }
    set(b, span.buffer, span.off, end, new_record(b, (struct record){s, NIL}));
}

static bool same_place(const struct builder *b, struct span x, struct span y)
{
    x = canonical(b, x);
    y = canonical(b, y);
    return x.buffer == y.buffer && x.off == y.off;
}

static struct step *append(struct builder *b, struct step step)
{
    if (b->status != TUTTI_OK)
        return NULL;
    if (b->count == SCHEDULE_STEPS_MAX) {
        b->status = fail(TUTTI_ERR_NOMEM, "a plan of %s at rank %u needs more than %d steps",
                         coll_name(b->shape->coll), b->shape->rank, SCHEDULE_STEPS_MAX);
        return NULL;
    }
    uint32_t capacity = b->capacity;
    if (!grow(b, &b->steps, b->count, &b->capacity, sizeof *b->steps))
        return NULL;
    if (b->capacity != capacity) {
        uint32_t *mark = realloc(b->mark, b->capacity * sizeof *mark);
        if (mark)
            b->mark = mark;
        uint32_t *reader = realloc(b->reader, b->capacity * sizeof *reader);
        if (reader)
            b->reader = reader;
        if (!mark || !reader) {
            b->status = fail(TUTTI_ERR_NOMEM, "no memory for a plan of %u steps", b->count);
            return NULL;
        }
    }
    b->mark[b->count] = 0;
    b->reader[b->count] = NIL;
    step.fused = step.link = STEP_NONE;
    b->steps[b->count] = step;
    return &b->steps[b->count++];
}

void build_send(struct builder *b, uint32_t peer, uint32_t lane, struct span src)
{
    must(peer != b->shape->rank && peer < b->shape->size && lane < LANES_MAX);
    if (src.len > 0 &&
        append(b, (struct step){.kind = STEP_SEND, .peer = peer, .lane = lane, .a = src}))
        note_read(b, b->count - 1, src);
}

void build_recv(struct builder *b, uint32_t peer, uint32_t lane, struct span dst)
{
    must(peer != b->shape->rank && peer < b->shape->size && lane < LANES_MAX);
    if (dst.len > 0 &&
        append(b, (struct step){.kind = STEP_RECV, .peer = peer, .lane = lane, .dst = dst}))
        note_write(b, b->count - 1, dst);
}

void build_reduce(struct builder *b, struct span dst, struct span x, struct span y)
{
    must(dst.len == x.len && dst.len == y.len);
    if (dst.len == 0 || !append(b, (struct step){.kind = STEP_REDUCE, .dst = dst, .a = x, .b = y}))
        return;
    uint32_t s = b->count - 1;
    note_read(b, s, x);
    note_read(b, s, y);
    note_write(b, s, dst);
}

void build_copy(struct builder *b, struct span dst, struct span src)
{
    must(dst.len == src.len);
    if (dst.len == 0 || same_place(b, dst, src) ||
        !append(b, (struct step){.kind = STEP_COPY, .dst = dst, .a = src}))
        return;
    note_read(b, b->count - 1, src);
    note_write(b, b->count - 1, dst);
}

void build_recv_reduce(struct builder *b, uint32_t peer, uint32_t lane, struct span scratch,
                       struct span dst, struct span mine, bool theirs_first)
{
    build_recv(b, peer, lane, scratch);
    if (theirs_first)
        build_reduce(b, dst, scratch, mine);
    else
        build_reduce(b, dst, mine, scratch);
}

/* ---- freezing ---------------------------------------------------------------------------------
 */

/* Marks receives that carry out the reduction which consumes them. */
static void fuse(struct builder *b, uint32_t *latest)
{
    /* latest[r]: the latest predecessor of r other than the receive it might fuse with. */
    for (uint32_t s = 0; s < b->count; s++)
        latest[s] = 0;
    for (uint32_t e = 0; e < b->edge_count; e++) {
        uint32_t from = b->edges[e].from, to = b->edges[e].to;
        bool candidate = b->steps[from].kind == STEP_RECV && b->reader[from] == to;
        if (!candidate && from + 1 > latest[to])
            latest[to] = from + 1;
    }
    for (uint32_t v = 0; v < b->count; v++) {
        struct step *recv = &b->steps[v];
        uint32_t r = b->reader[v];
        if (recv->kind != STEP_RECV || recv->dst.buffer != BUFFER_SCRATCH || r >= MANY)
            continue;
        struct step *reduce = &b->steps[r];
        const struct span *at = &recv->dst;
        bool is_a = reduce->a.buffer == at->buffer && reduce->a.off == at->off;
        bool is_b = reduce->b.buffer == at->buffer && reduce->b.off == at->off;
        if (reduce->kind != STEP_REDUCE || reduce->fused != STEP_NONE || is_a == is_b ||
            reduce->a.len != at->len || latest[r] > v)
            continue;
        /* The other operand must not be a receive that might fuse as well: latest ignored it. */
        bool two = false;
        for (uint32_t u = v + 1; u < r && !two; u++)
            two = b->steps[u].kind == STEP_RECV && b->reader[u] == r;
        if (two)
            continue;
        recv->fused = r;
        reduce->fused = v;
    }
}

/* Who carries a step's edges. */
static uint32_t carrier(const struct builder *b, uint32_t s)
{
    const struct step *step = &b->steps[s];
    return step->kind == STEP_REDUCE && step->fused != STEP_NONE ? step->fused : s;
}

static int compare_edges(const void *x, const void *y)
{
    const struct edge *a = x, *b = y;
    if (a->from != b->from)
        return a->from < b->from ? -1 : 1;
    return a->to < b->to ? -1 : a->to > b->to;
}

/* Moves edges to their carriers, sorts by origin, drops repeats and loops. */
static void settle_edges(struct builder *b)
{
    uint32_t kept = 0;
    for (uint32_t e = 0; e < b->edge_count; e++) {
        struct edge edge = {carrier(b, b->edges[e].from), carrier(b, b->edges[e].to)};
        if (edge.from != edge.to)
            b->edges[kept++] = edge;
    }
    if (kept > 0)
        qsort(b->edges, kept, sizeof *b->edges, compare_edges);
    b->edge_count = 0;
    for (uint32_t e = 0; e < kept; e++) {
        if (e == 0 || compare_edges(&b->edges[e], &b->edges[e - 1]) != 0)
            b->edges[b->edge_count++] = b->edges[e];
    }
}

struct place {
    uint32_t peer, lane, step;
};

static int compare_places(const void *x, const void *y)
{
    const struct place *a = x, *b = y;
    if (a->peer != b->peer)
        return a->peer < b->peer ? -1 : 1;
    if (a->lane != b->lane)
        return a->lane < b->lane ? -1 : 1;
    return a->step < b->step ? -1 : a->step > b->step;
}

/* Groups the transfers by link; wire order inside a link is program order. */
static void make_links(struct schedule *p, struct place *places, uint32_t transfers)
{
    uint32_t wire = 0;
    if (transfers > 0)
        qsort(places, transfers, sizeof *places, compare_places);
    for (uint32_t i = 0; i < transfers;) {
        struct schedule_link *link = &p->links[p->link_count];
        *link = (struct schedule_link){.peer = places[i].peer, .lane = places[i].lane};
        uint32_t end = i;
        while (end < transfers && places[end].peer == link->peer && places[end].lane == link->lane)
            end++;
        for (int receives = 0; receives < 2; receives++) {
            uint32_t first = wire;
            for (uint32_t k = i; k < end; k++) {
                struct step *step = &p->steps[places[k].step];
                if ((step->kind == STEP_RECV) != receives)
                    continue;
                step->link = p->link_count;
                p->wire[wire++] = places[k].step;
            }
            if (receives) {
                link->recv = first;
                link->recv_count = wire - first;
            } else {
                link->send = first;
                link->send_count = wire - first;
            }
        }
        p->link_count++;
        i = end;
    }
}

static struct schedule *freeze(struct builder *b, struct place *places, uint32_t transfers)
{
    size_t steps = b->count * sizeof(struct step), links = transfers * sizeof(struct schedule_link);
    size_t successors = b->edge_count * sizeof(uint32_t), wire = transfers * sizeof(uint32_t);
    struct schedule *p = calloc(1, sizeof *p + steps + links + successors + wire);
    if (!p)
        return NULL;
    char *at = (char *)(p + 1);
    p->steps = (struct step *)at;
    p->links = (struct schedule_link *)(at += steps);
    p->successors = (uint32_t *)(at += links);
    p->wire = (uint32_t *)(at + successors);
    p->step_count = b->count;
    p->successor_count = b->edge_count;
    p->scratch_bytes = b->scratch;
    if (b->count > 0)
        memcpy(p->steps, b->steps, steps);
    for (uint32_t e = 0; e < b->edge_count; e++) {
        struct step *from = &p->steps[b->edges[e].from];
        if (from->succ_count++ == 0)
            from->succ = e;
        p->successors[e] = b->edges[e].to;
        p->steps[b->edges[e].to].waits++;
    }
    make_links(p, places, transfers);
    return p;
}

tutti_status builder_finish(struct builder *b, struct schedule **schedule)
{
    tutti_status status = b->status;
    uint32_t *latest = calloc(b->count + 1u, sizeof *latest);
    struct place *places = calloc(b->count + 1u, sizeof *places);
    uint32_t transfers = 0;
    struct schedule *p = NULL;
    if (status == TUTTI_OK && latest && places) {
        fuse(b, latest);
        settle_edges(b);
        for (uint32_t s = 0; s < b->count; s++) {
            const struct step *step = &b->steps[s];
            if (step->kind == STEP_SEND || step->kind == STEP_RECV)
                places[transfers++] = (struct place){step->peer, step->lane, s};
        }
        p = freeze(b, places, transfers);
    }
    if (status == TUTTI_OK && !p)
        status = fail(TUTTI_ERR_NOMEM, "no memory to finish a plan of %u steps", b->count);
    free(latest);
    free(places);
    builder_free(b);
    if (status == TUTTI_OK)
        *schedule = p;
    return status;
}

void schedule_free(struct schedule *schedule)
{
    free(schedule);
}
