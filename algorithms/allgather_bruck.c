/* allgather_bruck.c: Bruck's concatenation: blocks are collected in scratch from the own one on, a
 * round doubles them, and a rotation puts them in place at the end. One message per round whatever
 * the blocks, at the price of copying everything once: for small blocks.
 *
 * Cost: ceil(log2 n) rounds; n - 1 blocks sent; n blocks copied out of scratch, one in.
 * Source: Bruck et al., "Efficient algorithms for all-to-all communications in multiport
 * message-passing systems" (1997), section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return grain_fits(3 * (uint64_t)shape->size);
}

static void sends(struct tally *tally, const void *context)
{
    uint32_t n = tally->shape->size;

    for (uint32_t k = 0; 1u << k < n; k++)
        tally_send(tally, k, tally->rank + n - (1u << k),
                   (double)least(1u << k, n - (1u << k)) * *(const double *)context);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double block = cost_total(shape) / shape->size;

    *out = (struct cost){.copy_bytes = cost_total(shape) + (shape->size > 1 ? block : 0)};
    cost_pattern(shape, sends, &block, out);
}

/* Scratch has the blocks me, me + 1, ... (cyclic) back to back: where the first `count` end. */
static uint64_t collected(const struct cut *cut, uint32_t me, uint32_t count)
{
    return runs_bytes(cut, me, count);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct cut cut = cut_of_shape(shape);
    struct block own = cut_block(&cut, me);
    uint64_t total = runs_bytes(&cut, 0, n);
    struct grain grain = grain_make(shape, knobs, 2 * total, 2 * ceil_log2(n) + 2);
    struct span in = span_of(BUFFER_IN, 0, own.len), scratch;

    if (n == 1) {
        build_copy(builder, span_of(BUFFER_OUT, own.off, own.len), in);
        return;
    }
    scratch = build_scratch(builder, total);
    build_copy(builder, span_of(scratch.buffer, scratch.off, own.len), in);
    for (uint32_t have = 1; have < n; have *= 2) {
        uint32_t more = (uint32_t)least(have, n - have);
        uint64_t from = collected(&cut, me, have);

        move_send(builder, &grain, (me + n - have) % n,
                  have == 1 ? in : span_of(scratch.buffer, scratch.off, collected(&cut, me, more)));
        move_recv(
            builder, &grain, (me + have) % n,
            span_of(scratch.buffer, scratch.off + from, collected(&cut, me, have + more) - from));
    }
    runs_place(builder, &cut, me, scratch);
}

const struct algorithm allgather_bruck = {
    .coll = TUTTI_COLL_ALLGATHER,
    .name = "bruck",
    .source = "Bruck et al. 1997, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm allgatherv_bruck = {
    .coll = TUTTI_COLL_ALLGATHERV,
    .name = "bruck",
    .source = "Bruck et al. 1997, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
