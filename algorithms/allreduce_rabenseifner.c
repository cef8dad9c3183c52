/* allreduce_rabenseifner.c: reduce-scatter by recursive halving, allgather by recursive doubling:
 * each exchange halves what a pair still shares, nearest partners first, so that the large
 * messages stay close by.
 *
 * Cost: 2 log2 p rounds, B/2 + B/4 + ... = (p - 1)/p B in each half, p the largest power of two
 * <= n; if n > p the extra ranks are folded into a neighbour: 2 rounds and B bytes more.
 * Reduced: (p - 1)/p B, and B where a neighbour is folded in.
 * A rank keeps a contiguous half in each round and never folds into what it sends, so everything
 * is a receive-and-reduce, in place too.
 * Source: Rabenseifner, "Optimization of collective reduction operations" (ICCS 2004), section 4;
 * Thakur et al. 2005, section 4.5. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void sends(struct tally *tally, const void *context)
{
    double bytes = *(const double *)context;
    struct folding folding = folding_of(tally->shape->size, tally->rank);
    uint32_t rounds = ceil_log2(folding.power);

    if (folding.me == NO_RANK) {
        tally_send(tally, 0, tally->rank + 1, bytes);
        return;
    }
    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t peer = folding_rank(&folding, folding.me ^ 1u << k);

        tally_send(tally, 1 + k, peer, bytes / (2u << k));
        tally_send(tally, 2 * rounds - k, peer, bytes / (2u << k));
    }
    if (folding.me < folding.extra)
        tally_send(tally, 2 * rounds + 1, tally->rank - 1, bytes);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);
    struct folding folding = folding_of(shape->size, 0);

    *out = (struct cost){.reduce_bytes =
                             bytes * ((folding.power - 1.0) / folding.power + (folding.extra > 0)),
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_pattern(shape, sends, &bytes, out);
    cost_pieces(shape, knobs, bytes / 2, 0, out);
}

/* Blocks [from, to) of the cut as one span. */
static struct span blocks(const struct cut *cut, enum buffer buffer, uint32_t from, uint32_t to)
{
    struct block first = cut_block(cut, from), last = cut_block(cut, to - 1);

    return span_of(buffer, first.off, last.off + last.len - first.off);
}

static void halve_and_double(struct builder *builder, const struct grain *grain,
                             const struct folding *folding, const struct cut *cut, enum buffer src)
{
    uint32_t rounds = ceil_log2(folding->power), low[33] = {0}, high[33] = {folding->power};
    struct span landing = build_scratch(builder, blocks(cut, src, 0, folding->power / 2).len);

    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t bit = 1u << k, peer = folding_rank(folding, folding->me ^ bit);
        uint32_t middle = (low[k] + high[k]) / 2;
        bool upper = folding->me & bit;
        struct span away = blocks(cut, src, upper ? low[k] : middle, upper ? middle : high[k]);
        struct span mine, dst;

        low[k + 1] = upper ? middle : low[k];
        high[k + 1] = upper ? high[k] : middle;
        mine = blocks(cut, src, low[k + 1], high[k + 1]);
        dst = span_of(BUFFER_OUT, mine.off, mine.len);
        move_send(builder, grain, peer, away);
        move_fold(builder, grain, peer, span_of(landing.buffer, landing.off, mine.len), dst, mine,
                  upper);
        src = BUFFER_OUT;
    }
    for (uint32_t k = rounds; k-- > 0;) {
        uint32_t peer = folding_rank(folding, folding->me ^ 1u << k);
        bool upper = low[k + 1] != low[k];

        move_send(builder, grain, peer, blocks(cut, BUFFER_OUT, low[k + 1], high[k + 1]));
        move_recv(
            builder, grain, peer,
            blocks(cut, BUFFER_OUT, upper ? low[k] : high[k + 1], upper ? low[k + 1] : high[k]));
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct folding folding = folding_of(shape->size, shape->rank);
    struct grain grain =
        grain_make(shape, knobs, 9 * bytes, 5 * (uint64_t)ceil_log2(folding.power) + 4);
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);
    struct cut cut = cut_even(shape, 0, bytes, folding.power);
    enum buffer src = BUFFER_IN;

    if (shape->size == 1) {
        build_copy(builder, out, in);
        return;
    }
    if (folding.me == NO_RANK) {
        move_send(builder, &grain, shape->rank + 1, in);
        move_recv(builder, &grain, shape->rank + 1, out);
        return;
    }
    if (folding.me < folding.extra) {
        move_fold(builder, &grain, shape->rank - 1, build_scratch(builder, bytes), out, in, true);
        src = BUFFER_OUT;
    }
    halve_and_double(builder, &grain, &folding, &cut, src);
    if (folding.me < folding.extra)
        move_send(builder, &grain, shape->rank - 1, out);
}

const struct algorithm allreduce_rabenseifner = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "rabenseifner",
    .source = "Rabenseifner 2004, section 4",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
