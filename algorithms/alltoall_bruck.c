/* alltoall_bruck.c: logarithmically many messages for small blocks: block i of a rank (the one for
 * rank r + i) travels by the powers of two in i; round k moves all blocks with bit k set to the
 * rank 2^k above, packed into one message.
 *
 * Cost: ceil(log2 n) rounds; n/2 blocks a round (fewer in the last if n is no power of two); every
 * sent block is packed once, and n blocks are copied to their places.
 * Nothing is rotated first: a block is packed from IN in the round of its lowest bit, later from
 * where it landed, and leaves scratch after the round of its highest. The copies to OUT stand
 * last, because in place OUT is what later rounds still pack from.
 * Source: Bruck et al., "Efficient algorithms for all-to-all communications in multiport
 * message-passing systems" (1997), section 2. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

/* Of the numbers below n, how many have bit k set. */
static uint32_t with_bit(uint32_t n, uint32_t k)
{
    uint32_t bit = 1u << k, rest = n % (2 * bit);

    return n / (2 * bit) * bit + (rest > bit ? rest - bit : 0);
}

static uint64_t packed(uint32_t n)
{
    uint64_t blocks = 0;

    for (uint32_t k = 0; k < ceil_log2(n); k++)
        blocks += with_bit(n, k);
    return blocks;
}

static bool fits(const struct shape *shape)
{
    return shape->size <= 1u << 30 && grain_fits(packed(shape->size) + shape->size + 64);
}

static void sends(struct tally *tally, const void *context)
{
    uint32_t n = tally->shape->size;

    for (uint32_t k = 0; k < ceil_log2(n); k++)
        tally_send(tally, k, tally->rank + (1u << k), with_bit(n, k) * *(const double *)context);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double block = cost_total(shape) / shape->size;

    *out = (struct cost){.copy_bytes = block * ((double)packed(shape->size) + shape->size)};
    cost_pattern(shape, sends, &block, out);
}

struct bruck {
    const struct shape *shape;
    uint64_t block;    /* bytes */
    uint64_t land[32]; /* scratch offset where round k's blocks land */
};

/* Where block i lies once the rounds below k are over: where its highest bit below k brought it,
 * as the j-th of the numbers with that bit. */
static struct span where(const struct bruck *b, uint32_t i, uint32_t k)
{
    uint32_t low = i & (uint32_t)((1ull << k) - 1), top, before;

    if (low == 0) {
        uint32_t to = (uint32_t)(((uint64_t)b->shape->rank + i) % b->shape->size);

        return span_of(BUFFER_IN, to * b->block, b->block);
    }
    top = 31 - (uint32_t)__builtin_clz(low);
    before = with_bit(i, top);
    return span_of(BUFFER_SCRATCH, b->land[top] + before * b->block, b->block);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank, rounds = ceil_log2(n);
    struct bruck b = {.shape = shape, .block = shape->count * shape->elem_size};
    struct grain grain =
        grain_make(shape, knobs, 2 * b.block * packed(n), packed(n) + n + 2 * rounds);

    for (uint32_t k = 0; k < rounds; k++) {
        uint64_t bytes = with_bit(n, k) * b.block;
        struct span out = build_scratch(builder, bytes), in = build_scratch(builder, bytes);
        uint64_t at = out.off;

        b.land[k] = in.off;
        for (uint32_t i = 1u << k; i < n; i = (i + 1) | 1u << k) {
            build_copy(builder, span_of(BUFFER_SCRATCH, at, b.block), where(&b, i, k));
            at += b.block;
        }
        move_send(builder, &grain, (uint32_t)(((uint64_t)me + (1u << k)) % n), out);
        move_recv(builder, &grain, (me + n - (1u << k)) % n, in);
    }
    for (uint32_t i = 0; i < n; i++)
        build_copy(builder, span_of(BUFFER_OUT, (uint64_t)((me + n - i) % n) * b.block, b.block),
                   where(&b, i, rounds));
}

const struct algorithm alltoall_bruck = {
    .coll = TUTTI_COLL_ALLTOALL,
    .name = "bruck",
    .source = "Bruck et al. 1997, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
