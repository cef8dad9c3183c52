/* schedule_check.c: a frozen schedule looked at from outside: is it sound, and how does it read.
 * The check trusts nothing that the builder computed: it walks the steps, the edges and the links
 * and compares each with the other two. What needs the other ranks' programs (do transfers match,
 * is the result right, can it deadlock) is verify.c's. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "algorithms/schedule.h"

static const char *const kind_names[] = {"send", "recv", "reduce", "copy"};
static const char *const buffer_names[] = {"in", "out", "scratch"};

/* ---- check ------------------------------------------------------------------------------------
 */

static tutti_status wrong(const struct shape *shape, uint32_t step, const char *fact)
{
    return fail(TUTTI_ERR_INTERNAL, "plan of %s, rank %u of %u, step %u: %s",
                coll_name(shape->coll), shape->rank, shape->size, step, fact);
}

static bool inside(const struct schedule *schedule, const struct shape *shape, struct span span)
{
    if ((unsigned)span.buffer >= BUFFER_COUNT)
        return false;
    uint64_t size = span.buffer == BUFFER_IN    ? coll_in_bytes(shape)
                    : span.buffer == BUFFER_OUT ? coll_out_bytes(shape)
                                                : schedule->scratch_bytes;
    return span.len <= size && span.off <= size - span.len;
}

static const char *check_spans(const struct schedule *schedule, const struct shape *shape,
                               const struct step *step)
{
    bool writes = step->kind != STEP_SEND;
    uint64_t len = writes ? step->dst.len : step->a.len;
    if (len == 0)
        return "a step must move bytes";
    if (writes && !inside(schedule, shape, step->dst))
        return "dst must lie inside its buffer";
    if (writes && step->dst.buffer == BUFFER_IN)
        return "the input must not be written";
    if (step->kind != STEP_RECV && (step->a.len != len || !inside(schedule, shape, step->a)))
        return "the source must lie inside its buffer and be as long as dst";
    if (step->kind == STEP_REDUCE &&
        (step->b.len != len || !inside(schedule, shape, step->b) || len % shape->elem_size != 0))
        return "both operands must lie inside their buffers and have dst's whole elements";
    return NULL;
}

static const char *check_step(const struct schedule *schedule, const struct shape *shape,
                              uint32_t s)
{
    const struct step *step = &schedule->steps[s];
    if ((unsigned)step->kind > STEP_COPY)
        return "there are four kinds of steps";
    const char *fact = check_spans(schedule, shape, step);
    if (fact)
        return fact;
    if (step->kind == STEP_SEND || step->kind == STEP_RECV) {
        if (step->peer >= shape->size || step->peer == shape->rank)
            return "the peer must be another rank";
        if (step->lane >= LANES_MAX)
            return "the lane must be below LANES_MAX";
        if (step->link >= schedule->link_count)
            return "the link must exist";
        const struct schedule_link *link = &schedule->links[step->link];
        if (link->peer != step->peer || link->lane != step->lane)
            return "the link must lead to the peer on the lane";
    }
    if (step->fused != STEP_NONE) {
        if (step->kind != STEP_RECV && step->kind != STEP_REDUCE)
            return "only a receive and a reduction may be fused";
        if (step->fused >= schedule->step_count || schedule->steps[step->fused].fused != s ||
            schedule->steps[step->fused].kind == step->kind)
            return "a fused pair must name each other";
        if (step->kind == STEP_REDUCE && (step->waits != 0 || step->succ_count != 0))
            return "the receive must carry the edges of a fused reduction";
    }
    return NULL;
}

/* Edges lead forward, stay inside their array, and add up to what each step waits for. */
static tutti_status check_edges(const struct schedule *schedule, const struct shape *shape,
                                uint32_t *waits)
{
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const struct step *step = &schedule->steps[s];
        if (step->succ > schedule->successor_count ||
            step->succ_count > schedule->successor_count - step->succ)
            return wrong(shape, s, "successors must lie inside their array");
        for (uint32_t i = 0; i < step->succ_count; i++) {
            uint32_t to = schedule->successors[step->succ + i];
            if (to <= s || to >= schedule->step_count)
                return wrong(shape, s, "an edge must lead forward");
            waits[to]++;
        }
    }
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        if (schedule->steps[s].waits != waits[s])
            return wrong(shape, s, "waits must be the number of edges that lead here");
    }
    return TUTTI_OK;
}

/* wire[begin, begin + count) are steps of one kind on one link, in program order. */
static tutti_status check_wire(const struct schedule *schedule, const struct shape *shape,
                               uint32_t link, uint32_t begin, uint32_t count, enum step_kind kind)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t s = schedule->wire[begin + i];
        if (s >= schedule->step_count)
            return wrong(shape, s, "the wire must name steps that exist");
        if (schedule->steps[s].kind != kind || schedule->steps[s].link != link)
            return wrong(shape, s, "a link must hold its own transfers");
        if (i > 0 && schedule->wire[begin + i - 1] >= s)
            return wrong(shape, s, "wire order must be program order");
    }
    return TUTTI_OK;
}

static tutti_status check_links(const struct schedule *schedule, const struct shape *shape)
{
    uint32_t transfers = 0, on_wire = 0;
    for (uint32_t s = 0; s < schedule->step_count; s++)
        transfers += schedule->steps[s].kind == STEP_SEND || schedule->steps[s].kind == STEP_RECV;
    for (uint32_t l = 0; l < schedule->link_count; l++) {
        const struct schedule_link *link = &schedule->links[l], *last = link - 1;
        if (l > 0 &&
            (last->peer > link->peer || (last->peer == link->peer && last->lane >= link->lane)))
            return wrong(shape, 0, "links must be ordered by peer, then lane");
        if (link->send > transfers || link->send_count > transfers - link->send ||
            link->recv > transfers || link->recv_count > transfers - link->recv)
            return wrong(shape, 0, "a link's transfers must lie on the wire");
        tutti_status status =
            check_wire(schedule, shape, l, link->send, link->send_count, STEP_SEND);
        if (status == TUTTI_OK)
            status = check_wire(schedule, shape, l, link->recv, link->recv_count, STEP_RECV);
        if (status != TUTTI_OK)
            return status;
        on_wire += link->send_count + link->recv_count;
    }
    /* Each is on the wire in strict program order, so none is there twice. */
    if (on_wire != transfers)
        return wrong(shape, 0, "every transfer must be on its link");
    return TUTTI_OK;
}

tutti_status schedule_check(const struct schedule *schedule, const struct shape *shape)
{
    if (schedule->step_count > SCHEDULE_STEPS_MAX)
        return wrong(shape, schedule->step_count, "a program must have at most SCHEDULE_STEPS_MAX");
    for (uint32_t s = 0; s < schedule->step_count; s++) {
        const char *fact = check_step(schedule, shape, s);
        if (fact)
            return wrong(shape, s, fact);
    }
    tutti_status status = check_links(schedule, shape);
    if (status != TUTTI_OK)
        return status;
    uint32_t *waits = calloc(schedule->step_count + 1u, sizeof *waits);
    if (!waits)
        return fail(TUTTI_ERR_NOMEM, "no memory to check a plan of %u steps", schedule->step_count);
    status = check_edges(schedule, shape, waits);
    free(waits);
    return status;
}

/* ---- dump -------------------------------------------------------------------------------------
 */

struct out {
    char *text;
    size_t len, used; /* used: the length the whole text has so far */
};

static void put(struct out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct out *out, const char *format, ...)
{
    bool room = out->used < out->len;
    va_list args;
    va_start(args, format);
    int more = vsnprintf(room ? out->text + out->used : NULL, room ? out->len - out->used : 0,
                         format, args);
    va_end(args);
    out->used += more > 0 ? (size_t)more : 0;
}

static void put_span(struct out *out, struct span span)
{
    put(out, "%s[%" PRIu64 "..%" PRIu64 ")", buffer_names[span.buffer], span.off,
        span.off + span.len);
}

static void put_step(struct out *out, const struct schedule *schedule, uint32_t s)
{
    const struct step *step = &schedule->steps[s];
    put(out, "%5u  %-6s ", s, kind_names[step->kind]);
    switch (step->kind) {
    case STEP_SEND:
        put_span(out, step->a);
        put(out, " to %u", step->peer);
        break;
    case STEP_RECV:
        put_span(out, step->dst);
        put(out, " from %u", step->peer);
        break;
    case STEP_REDUCE:
        put_span(out, step->dst);
        put(out, " = ");
        put_span(out, step->a);
        put(out, " op ");
        put_span(out, step->b);
        break;
    case STEP_COPY:
        put_span(out, step->dst);
        put(out, " = ");
        put_span(out, step->a);
        break;
    }
    if (step->link != STEP_NONE && step->lane > 0)
        put(out, " lane %u", step->lane);
    if (step->fused != STEP_NONE)
        put(out, step->kind == STEP_RECV ? ", does %u" : ", done by %u", step->fused);
    if (step->waits > 0)
        put(out, "  | waits for %u", step->waits);
    for (uint32_t i = 0; i < step->succ_count; i++)
        put(out, "%s%u", i == 0 ? "  | before " : " ", schedule->successors[step->succ + i]);
    put(out, "\n");
}

size_t schedule_dump(const struct schedule *schedule, char *text, size_t len)
{
    struct out out = {.text = text, .len = len};
    put(&out, "%u steps, %u edges, %u links, %" PRIu64 " bytes of scratch\n", schedule->step_count,
        schedule->successor_count, schedule->link_count, schedule->scratch_bytes);
    for (uint32_t s = 0; s < schedule->step_count; s++)
        put_step(&out, schedule, s);
    return out.used;
}
