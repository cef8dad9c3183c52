/* schedule.c: the builder: from steps in program order to a frozen graph.
 *
 * The idea: for every byte the builder knows the step that wrote it last and the steps that have
 * read it since. A new step waits for the writers of what it reads, and for the readers (or, where
 * there are none, the writer) of what it writes; everything older is implied. That knowledge lives
 * in an interval map whose 64-bit value is a writer and the head of a list of readers. Lists only
 * grow at the head, so that intervals which are split share their tails and nothing is copied.
 *
 * Invariant: every edge leads from an earlier step of the program to a later one, also after
 * fusion, so a frozen schedule has no cycle and program order is one legal order.
 *
 * In place, IN and OUT are one memory: spans are moved to the addresses of the larger buffer
 * before the map sees them. */
#include "algorithms/schedule.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/spans.h"

#define NIL UINT32_MAX

/* One read of an interval; next is the read before it. */
struct reader {
    uint32_t step, next;
    uint32_t seen; /* the last step whose edges were taken from here on: the tail was too */
};

struct builder {
    const struct shape *shape;
    uint64_t size_of[BUFFER_COUNT]; /* of IN and OUT */
    uint64_t shift[BUFFER_COUNT];   /* added to offsets, see memory_of */
    tutti_status status;            /* the first error; everything after it is ignored */
    struct step *steps;             /* succ, waits: this step's predecessors while building */
    uint32_t *taken;                /* [capacity] the last step that took this one as predecessor */
    uint32_t count, capacity;
    uint32_t *preds;
    uint32_t pred_count, pred_capacity;
    struct reader *readers;
    uint32_t reader_count, reader_capacity;
    struct spans memory[BUFFER_COUNT];
    uint64_t scratch_bytes;
};

tutti_status builder_new(const struct shape *shape, struct builder **out)
{
    struct builder *builder = calloc(1, sizeof *builder);
    if (!builder)
        return fail(TUTTI_ERR_NOMEM, "no memory for a plan builder");
    builder->shape = shape;
    builder->size_of[BUFFER_IN] = coll_in_bytes(shape);
    builder->size_of[BUFFER_OUT] = coll_out_bytes(shape);
    if (shape->in_place) {
        int64_t delta = coll_alias_delta(shape);
        builder->shift[BUFFER_IN] = delta > 0 ? (uint64_t)delta : 0;
        builder->shift[BUFFER_OUT] = delta < 0 ? (uint64_t)-delta : 0;
    }
    for (int i = 0; i < BUFFER_COUNT; i++)
        spans_init(&builder->memory[i]);
    *out = builder;
    return TUTTI_OK;
}

void builder_free(struct builder *builder)
{
    if (!builder)
        return;
    for (int i = 0; i < BUFFER_COUNT; i++)
        spans_free(&builder->memory[i]);
    free(builder->steps);
    free(builder->taken);
    free(builder->preds);
    free(builder->readers);
    free(builder);
}

struct span build_scratch(struct builder *builder, uint64_t len)
{
    struct span span = span_of(BUFFER_SCRATCH, builder->scratch_bytes, len);
    builder->scratch_bytes += (len + 63) & ~(uint64_t)63;
    return span;
}

/* ---- growing ----------------------------------------------------------------------------------
 */

static void no_memory(struct builder *builder)
{
    if (builder->status == TUTTI_OK)
        builder->status = fail(TUTTI_ERR_NOMEM, "no memory for a plan of %u steps of %s",
                               builder->count, coll_name(builder->shape->coll));
}

/* The array, moved if there was no room for one more of `size` bytes; NULL without memory. */
static void *grow(struct builder *builder, void *array, uint32_t count, uint32_t *capacity,
                  size_t size)
{
    if (count < *capacity)
        return array;
    uint32_t more = *capacity ? *capacity * 2 : 64;
    void *moved = realloc(array, more * size);
    if (moved)
        *capacity = more;
    else
        no_memory(builder);
    return moved;
}

static bool grow_steps(struct builder *builder)
{
    uint32_t capacity = builder->capacity;
    if (builder->count < capacity)
        return true;
    if (builder->count >= SCHEDULE_STEPS_MAX) {
        builder->status =
            fail(TUTTI_ERR_UNSUPPORTED, "the plan of %s at rank %u has more than %u steps",
                 coll_name(builder->shape->coll), builder->shape->rank, SCHEDULE_STEPS_MAX);
        return false;
    }
    uint32_t *taken =
        grow(builder, builder->taken, builder->count, &capacity, sizeof *builder->taken);
    if (!taken)
        return false;
    builder->taken = taken;
    struct step *steps =
        grow(builder, builder->steps, builder->count, &builder->capacity, sizeof *builder->steps);
    if (!steps)
        return false;
    builder->steps = steps;
    return true;
}

/* ---- hazards ----------------------------------------------------------------------------------
 */

/* What an interval knows: the step that wrote it last and the reads since. */
static uint64_t know(uint32_t writer, uint32_t readers)
{
    return (uint64_t)writer << 32 | readers;
}

static uint32_t writer_of(uint64_t value)
{
    return (uint32_t)(value >> 32);
}

static uint32_t readers_of(uint64_t value)
{
    return (uint32_t)value;
}

/* The map that holds the span's bytes; span is moved to its addresses. */
static struct spans *memory_of(struct builder *builder, struct span *span)
{
    span->off += builder->shift[span->buffer];
    if (builder->shape->in_place && span->buffer == BUFFER_IN)
        span->buffer = BUFFER_OUT;
    return &builder->memory[span->buffer];
}

/* The step being added waits for `step`. */
static void wait_for(struct builder *builder, uint32_t step)
{
    uint32_t me = builder->count - 1;
    if (step == NIL || step == me || builder->taken[step] == me)
        return;
    uint32_t *preds = grow(builder, builder->preds, builder->pred_count, &builder->pred_capacity,
                           sizeof *builder->preds);
    if (!preds)
        return;
    builder->preds = preds;
    builder->taken[step] = me;
    builder->preds[builder->pred_count++] = step;
    builder->steps[me].waits++;
}

static void wait_for_readers(struct builder *builder, uint32_t reader)
{
    uint32_t me = builder->count - 1;
    for (; reader != NIL && builder->readers[reader].seen != me;
         reader = builder->readers[reader].next) {
        builder->readers[reader].seen = me;
        wait_for(builder, builder->readers[reader].step);
    }
}

static void set(struct builder *builder, struct spans *map, uint64_t begin, uint64_t end,
                uint64_t value)
{
    if (spans_set(map, begin, end, value) != TUTTI_OK)
        no_memory(builder);
}

/* Makes `at` a boundary between intervals, if it lies inside one. */
static void split(struct builder *builder, struct spans *map, uint64_t at)
{
    size_t i = spans_find(map, at);
    if (i < map->count && map->entries[i].begin < at)
        set(builder, map, map->entries[i].begin, at, map->entries[i].value);
}

/* A list of readers with the step being added at its head. */
static uint32_t add_reader(struct builder *builder, uint32_t tail)
{
    struct reader *readers = grow(builder, builder->readers, builder->reader_count,
                                  &builder->reader_capacity, sizeof *builder->readers);
    if (!readers)
        return tail;
    builder->readers = readers;
    builder->readers[builder->reader_count] =
        (struct reader){.step = builder->count - 1, .next = tail, .seen = NIL};
    return builder->reader_count++;
}

static void note_read(struct builder *builder, struct span span)
{
    struct spans *map = memory_of(builder, &span);
    uint64_t at = span.off, end = span.off + span.len;
    split(builder, map, at);
    split(builder, map, end);
    size_t i = spans_find(map, at);
    /* Neighbours often share a list: they then share the longer one too. */
    uint32_t tail = NIL, head = add_reader(builder, NIL);
    while (at < end && builder->status == TUTTI_OK) {
        if (i == map->count || map->entries[i].begin > at) { /* never touched before */
            uint64_t stop =
                i < map->count && map->entries[i].begin < end ? map->entries[i].begin : end;
            if (tail != NIL) {
                tail = NIL;
                head = add_reader(builder, NIL);
            }
            set(builder, map, at, stop, know(NIL, head));
            if (builder->status != TUTTI_OK)
                return; /* there is no such entry */
        } else {
            uint64_t value = map->entries[i].value;
            wait_for(builder, writer_of(value));
            if (readers_of(value) != tail) {
                tail = readers_of(value);
                head = add_reader(builder, tail);
            }
            map->entries[i].value = know(writer_of(value), head);
        }
        at = map->entries[i++].end;
    }
}

static void note_write(struct builder *builder, struct span span)
{
    struct spans *map = memory_of(builder, &span);
    uint64_t end = span.off + span.len;
    for (size_t i = spans_find(map, span.off); i < map->count && map->entries[i].begin < end; i++) {
        uint64_t value = map->entries[i].value;
        if (readers_of(value) == NIL)
            wait_for(builder, writer_of(value));
        else /* each of them waits for the writer */
            wait_for_readers(builder, readers_of(value));
    }
    set(builder, map, span.off, end, know(builder->count - 1, NIL));
}

/* ---- appending --------------------------------------------------------------------------------
 */

static bool overlap(struct builder *builder, struct span x, struct span y, bool *exactly)
{
    memory_of(builder, &x);
    memory_of(builder, &y);
    *exactly = x.buffer == y.buffer && x.off == y.off && x.len == y.len;
    return x.buffer == y.buffer && x.off < y.off + y.len && y.off < x.off + x.len;
}

/* The facts an emitter must keep; NULL, or the one that is broken. */
static const char *broken_fact(struct builder *builder, const struct step *step)
{
    const struct span *spans[3] = {&step->dst, &step->a, &step->b};
    builder->size_of[BUFFER_SCRATCH] = builder->scratch_bytes;
    for (int i = 0; i < 3; i++) {
        uint64_t size = builder->size_of[spans[i]->buffer];
        if (spans[i]->len > size || spans[i]->off > size - spans[i]->len)
            return "a span must lie inside its buffer";
    }
    bool transfer = step->kind == STEP_SEND || step->kind == STEP_RECV, exactly;
    if (transfer && (step->peer >= builder->shape->size || step->peer == builder->shape->rank))
        return "a peer must be another rank";
    if (transfer && step->lane >= LANES_MAX)
        return "a lane must be below LANES_MAX";
    if (step->dst.len > 0 && step->dst.buffer == BUFFER_IN)
        return "the input must not be written (in place: write to OUT)";
    if (transfer)
        return NULL;
    if (overlap(builder, step->dst, step->a, &exactly) && (!exactly || step->kind == STEP_COPY))
        return "dst must not overlap an operand (REDUCE: it may be one exactly)";
    if (step->kind == STEP_REDUCE && overlap(builder, step->dst, step->b, &exactly) && !exactly)
        return "dst must not overlap an operand (REDUCE: it may be one exactly)";
    if (step->kind == STEP_REDUCE && step->dst.len % builder->shape->elem_size != 0)
        return "a REDUCE must have whole elements";
    return NULL;
}

static const char *const kind_names[] = {"send", "recv", "reduce", "copy"};

static void append(struct builder *builder, struct step step)
{
    if (builder->status != TUTTI_OK)
        return;
    const char *fact = broken_fact(builder, &step);
    if (fact) {
        struct span span = step.kind == STEP_SEND ? step.a : step.dst;
        builder->status = fail(
            TUTTI_ERR_INTERNAL, "%s at rank %u of %u: step %u (%s, peer %u, bytes %llu + %llu): %s",
            coll_name(builder->shape->coll), builder->shape->rank, builder->shape->size,
            builder->count, kind_names[step.kind], step.peer, (unsigned long long)span.off,
            (unsigned long long)span.len, fact);
        return;
    }
    if (!grow_steps(builder))
        return;
    step.fused = step.link = STEP_NONE;
    step.succ = builder->pred_count;
    builder->taken[builder->count] = NIL;
    builder->steps[builder->count++] = step;
    if (step.a.len > 0)
        note_read(builder, step.a);
    if (step.b.len > 0)
        note_read(builder, step.b);
    if (step.dst.len > 0)
        note_write(builder, step.dst);
}

void build_send(struct builder *builder, uint32_t peer, uint32_t lane, struct span src)
{
    if (src.len > 0)
        append(builder, (struct step){.kind = STEP_SEND, .peer = peer, .lane = lane, .a = src});
}

void build_recv(struct builder *builder, uint32_t peer, uint32_t lane, struct span dst)
{
    if (dst.len > 0)
        append(builder, (struct step){.kind = STEP_RECV, .peer = peer, .lane = lane, .dst = dst});
}

void build_reduce(struct builder *builder, struct span dst, struct span a, struct span b)
{
    must(dst.len == a.len && dst.len == b.len);
    if (dst.len > 0)
        append(builder, (struct step){.kind = STEP_REDUCE, .dst = dst, .a = a, .b = b});
}

void build_copy(struct builder *builder, struct span dst, struct span src)
{
    must(dst.len == src.len);
    bool exactly;
    overlap(builder, dst, src, &exactly);
    if (dst.len > 0 && !exactly)
        append(builder, (struct step){.kind = STEP_COPY, .dst = dst, .a = src});
}

void build_recv_reduce(struct builder *builder, uint32_t peer, uint32_t lane, struct span scratch,
                       struct span dst, struct span mine, bool theirs_first)
{
    build_recv(builder, peer, lane, scratch);
    if (theirs_first)
        build_reduce(builder, dst, scratch, mine);
    else
        build_reduce(builder, dst, mine, scratch);
}

/* ---- freezing ---------------------------------------------------------------------------------
 */

/* The room that finishing needs beside the builder's own, in one allocation. */
struct room {
    uint32_t *followers; /* [steps] number of successors */
    uint32_t *follower;  /* [steps] the last of them */
    uint64_t *keys;      /* [steps] transfers in link order, see transfer_key */
};

static bool is_span(struct span x, struct span y)
{
    return x.buffer == y.buffer && x.off == y.off && x.len == y.len;
}

/* Does the receive `r` have `q`, its only follower, for a reduction that it may carry out? */
static bool can_fuse(struct builder *builder, uint32_t r, uint32_t q)
{
    const struct step *recv = &builder->steps[r], *reduce = &builder->steps[q];
    bool exactly;
    if (recv->kind != STEP_RECV || recv->dst.buffer != BUFFER_SCRATCH ||
        reduce->kind != STEP_REDUCE || reduce->fused != STEP_NONE)
        return false;
    bool first = is_span(reduce->a, recv->dst), second = is_span(reduce->b, recv->dst);
    if (first == second || overlap(builder, reduce->dst, recv->dst, &exactly) ||
        overlap(builder, first ? reduce->b : reduce->a, recv->dst, &exactly))
        return false;
    for (uint32_t i = 0; i < reduce->waits; i++) {
        uint32_t before = builder->preds[reduce->succ + i];
        if (before > r || builder->steps[before].kind == STEP_SEND)
            return false;
    }
    return true;
}

static void fuse(struct builder *builder, struct room *room)
{
    for (uint32_t s = 0; s < builder->count; s++) {
        for (uint32_t i = 0; i < builder->steps[s].waits; i++) {
            uint32_t before = builder->preds[builder->steps[s].succ + i];
            room->followers[before]++;
            room->follower[before] = s;
        }
    }
    for (uint32_t r = 0; r < builder->count; r++) {
        uint32_t q = room->follower[r];
        if (room->followers[r] == 1 && can_fuse(builder, r, q)) {
            builder->steps[r].fused = q;
            builder->steps[q].fused = r;
        }
    }
}

/* The step that carries step's edges. */
static uint32_t carrier(const struct builder *builder, uint32_t s)
{
    const struct step *step = &builder->steps[s];
    return step->kind == STEP_REDUCE && step->fused != STEP_NONE ? step->fused : s;
}

/* Calls for every edge, once each, by rising `to`: a fused receive has its reduction's edges too.
 * With successors NULL the edges are counted only. */
static void connect_step(struct builder *builder, struct schedule *schedule, uint32_t to,
                         uint32_t from_step, bool write)
{
    const struct step *from = &builder->steps[from_step];
    for (uint32_t i = 0; i < from->waits; i++) {
        uint32_t before = carrier(builder, builder->preds[from->succ + i]);
        if (before == to || builder->taken[before] == to)
            continue;
        builder->taken[before] = to;
        struct step *step = &schedule->steps[before];
        if (write)
            schedule->successors[step->succ + step->succ_count] = to;
        step->succ_count++;
        schedule->steps[to].waits += !write;
    }
}

static void connect_all(struct builder *builder, struct schedule *schedule, bool write)
{
    for (uint32_t s = 0; s < builder->count; s++) {
        schedule->steps[s].succ_count = 0;
        builder->taken[s] = NIL;
    }
    for (uint32_t s = 0; s < builder->count; s++) {
        if (carrier(builder, s) != s)
            continue;
        connect_step(builder, schedule, s, s, write);
        if (builder->steps[s].fused != STEP_NONE)
            connect_step(builder, schedule, s, builder->steps[s].fused, write);
    }
}

/* peer 32, lane 8, receive 1, step 23 bits: sorted, they are the wire array. */
static uint64_t transfer_key(const struct step *step, uint32_t s)
{
    return (uint64_t)step->peer << 32 | (uint64_t)step->lane << 24 |
           (uint64_t)(step->kind == STEP_RECV) << 23 | s;
}
_Static_assert(SCHEDULE_STEPS_MAX <= 1 << 23 && LANES_MAX <= 256, "fields of transfer_key");

static int compare_keys(const void *x, const void *y)
{
    uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

static uint32_t sort_transfers(const struct builder *builder, struct room *room, uint32_t *links)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < builder->count; s++) {
        const struct step *step = &builder->steps[s];
        if (step->kind == STEP_SEND || step->kind == STEP_RECV)
            room->keys[count++] = transfer_key(step, s);
    }
    if (count > 1)
        qsort(room->keys, count, sizeof *room->keys, compare_keys);
    *links = 0;
    for (uint32_t i = 0; i < count; i++)
        *links += i == 0 || room->keys[i] >> 24 != room->keys[i - 1] >> 24;
    return count;
}

static void make_links(struct schedule *schedule, const uint64_t *keys, uint32_t count)
{
    struct schedule_link *link = schedule->links - 1;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t s = keys[i] & ((1u << 23) - 1);
        struct step *step = &schedule->steps[s];
        if (i == 0 || keys[i] >> 24 != keys[i - 1] >> 24)
            *++link = (struct schedule_link){
                .peer = step->peer, .lane = step->lane, .send = i, .recv = i};
        step->link = (uint32_t)(link - schedule->links);
        schedule->wire[i] = s;
        if (step->kind == STEP_SEND) {
            link->send_count++;
            link->recv = i + 1;
        } else {
            link->recv_count++;
        }
    }
}

/* Lays the schedule and its arrays out in one allocation, widest alignment first. */
static struct schedule *allocate(uint32_t steps, uint32_t links, uint32_t successors, uint32_t wire)
{
    size_t bytes = sizeof(struct schedule) + steps * sizeof(struct step) +
                   links * sizeof(struct schedule_link) +
                   ((size_t)successors + wire) * sizeof(uint32_t);
    struct schedule *schedule = calloc(1, bytes);
    if (!schedule)
        return NULL;
    schedule->steps = (struct step *)(schedule + 1);
    schedule->links = (struct schedule_link *)(schedule->steps + steps);
    schedule->successors = (uint32_t *)(schedule->links + links);
    schedule->wire = schedule->successors + successors;
    schedule->step_count = steps;
    schedule->link_count = links;
    return schedule;
}

static struct schedule *freeze(struct builder *builder, struct room *room)
{
    uint32_t links, transfers = sort_transfers(builder, room, &links);
    /* Fusion only merges edges: pred_count is enough room. */
    struct schedule *schedule = allocate(builder->count, links, builder->pred_count, transfers);
    if (!schedule)
        return NULL;
    schedule->scratch_bytes = builder->scratch_bytes;
    for (uint32_t s = 0; s < builder->count; s++) {
        schedule->steps[s] = builder->steps[s];
        schedule->steps[s].waits = schedule->steps[s].succ = 0;
    }
    connect_all(builder, schedule, false);
    for (uint32_t s = 0; s < builder->count; s++) {
        schedule->steps[s].succ = schedule->successor_count;
        schedule->successor_count += schedule->steps[s].succ_count;
    }
    connect_all(builder, schedule, true);
    make_links(schedule, room->keys, transfers);
    return schedule;
}

tutti_status builder_finish(struct builder *builder, struct schedule **out)
{
    tutti_status status = builder->status;
    size_t steps = builder->count;
    uint64_t *memory = NULL;
    if (status == TUTTI_OK && !(memory = calloc(2 * steps + 1, sizeof *memory)))
        no_memory(builder);
    if (memory) {
        struct room room = {.keys = memory,
                            .followers = (uint32_t *)(memory + steps),
                            .follower = (uint32_t *)(memory + steps) + steps};
        fuse(builder, &room);
        struct schedule *schedule = freeze(builder, &room);
        if (schedule)
            *out = schedule;
        else
            no_memory(builder);
    }
    status = builder->status;
    free(memory);
    builder_free(builder);
    return status;
}

void schedule_free(struct schedule *schedule)
{
    free(schedule);
}
