/* allreduce_direct.c: one shot, for small vectors: every rank sends its whole vector to all others
 * and reduces all contributions itself, in rank order, so that every rank comes to the same bits.
 *
 * Cost: 1 round; each rank sends n - 1 vectors of B bytes and reduces n - 1 times B.
 * The sum is a left fold, ((x0 op x1) op x2) op ..., kept in OUT; out of place every step but the
 * own contribution of ranks >= 2 is a receive-and-reduce. In place OUT is being sent, so the fold
 * is kept in scratch and only its last step writes OUT, when the sends are over; that step must
 * not be one with its receive (two ranks would wait for each other's sends), which is why that
 * receive stands before the sends.
 * Source: folklore; "direct" in Chan, Heimlich, Purkayastha and van de Geijn, "Collective
 * communication: theory, practice, and experience" (2007), section 3, for short vectors. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return grain_fits(3 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.reduce_bytes = (shape->size - 1) * bytes,
                         .copy_bytes = shape->size == 1 ? bytes : 0,
                         .landed_bytes = bytes};
    cost_exchange_all(shape, bytes, out);
}

struct fold {
    const struct shape *shape;
    struct builder *builder;
    struct landing landing;
    struct span in, out; /* this piece of the vectors */
    struct span acc;     /* in place: where the fold is kept until its last step */
    struct span early;   /* in place: where the last contribution lands */
    uint32_t lane;
};

static void send_all(const struct fold *fold)
{
    for (uint32_t d = 1; d < fold->shape->size; d++)
        build_send(fold->builder, (fold->shape->rank + d) % fold->shape->size, fold->lane,
                   fold->in);
}

/* One contribution after the other; have is the value so far (unset: len 0). */
static void fold_all(struct fold *fold, uint32_t last)
{
    uint32_t me = fold->shape->rank;
    struct span have = {0};

    for (uint32_t q = 0; q <= last; q++) {
        struct span dst = q == last ? fold->out : fold->acc;

        if (q == me) {
            if (have.len)
                build_reduce(fold->builder, dst, have, fold->in);
            else
                dst = fold->in;
        } else if (q == last && fold->early.len) {
            build_reduce(fold->builder, dst, have, fold->early);
        } else if (!have.len && me == 1) {
            /* x0 op x1 with x1 mine: both in one. */
            dst = last == 1 ? fold->out : fold->acc;
            build_recv_reduce(fold->builder, q, fold->lane, landing_take(&fold->landing, dst.len),
                              dst, fold->in, true);
            q = 1;
        } else if (!have.len) {
            build_recv(fold->builder, q, fold->lane, dst);
        } else {
            build_recv_reduce(fold->builder, q, fold->lane, landing_take(&fold->landing, dst.len),
                              dst, have, false);
        }
        have = dst;
    }
}

/* In place with two ranks rank 1's only contribution is the last: x0 lands, then x0 op x1. */
static void fold_pair_in_place(struct fold *fold)
{
    build_recv(fold->builder, 0, fold->lane, fold->early);
    send_all(fold);
    build_reduce(fold->builder, fold->out, fold->early, fold->in);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, last = n - 1;
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 3 * bytes * n, 3 * (uint64_t)n);
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);
    uint32_t pieces = grain_pieces(&grain, bytes);
    struct fold fold = {.shape = shape, .builder = builder};
    struct span acc = out, early = {0};

    if (n == 1 || bytes == 0) {
        build_copy(builder, out, in);
        return;
    }
    fold.landing = landing_make(builder, grain_piece(&grain, in, 0).len, (uint64_t)n * pieces);
    if (shape->in_place) {
        acc = n > 2 ? build_scratch(builder, bytes) : out;
        if (shape->rank != last || n == 2)
            early = build_scratch(builder, bytes);
    }
    for (uint32_t p = 0; p < pieces; p++) {
        fold.lane = grain_lane(&grain, p);
        fold.in = grain_piece(&grain, in, p);
        fold.out = grain_piece(&grain, out, p);
        fold.acc = grain_piece(&grain, acc, p);
        if (early.len)
            fold.early = grain_piece(&grain, early, p);
        if (early.len && n == 2 && shape->rank == 1) {
            fold_pair_in_place(&fold);
            continue;
        }
        if (early.len)
            build_recv(builder, last, fold.lane, fold.early);
        send_all(&fold);
        fold_all(&fold, last);
    }
}

const struct algorithm allreduce_direct = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "direct",
    .source = "Chan et al. 2007, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
