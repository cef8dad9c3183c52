/* broadcast_scatter_allgather.c: the root scatters blocks down a binomial tree, then a ring gathers
 * them everywhere: van de Geijn's broadcast for long messages. Blocks are cut into pieces, so that
 * a rank passes on the beginning of a block while its end is still coming.
 *
 * Cost: floor(log2 n) + n - 1 rounds; the root sends (n - 1)/n B in the scatter and its own block
 * into the ring; another rank sends at most what its subtree needs and n - 1 blocks: together less
 * than 2 B. Ranks do not receive again what they passed down the tree: the root receives nothing.
 * Blocks are numbered by virtual rank v = rank - root, so that a subtree's are back to back.
 * Source: Barnett, Gupta, Payne, Shuler, van de Geijn and Watts, "Interprocessor collective
 * communication library" (1994); Thakur, Rabenseifner and Gropp 2005, section 4.2. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 2 * (uint64_t)shape->size + 34;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

/* Virtual rank v has the blocks [v, v + reach) after the scatter. */
static bool has_block(const struct binomial *tree, uint32_t block)
{
    return block >= tree->v && block - tree->v < tree->reach;
}

/* Blocks that the ring carries from v to v + 1: what v + 1 does not have. */
static uint32_t ring_blocks(uint32_t size, uint32_t v)
{
    struct binomial next = binomial_of(size, (v + 1) % size, 0);

    return next.v == 0 ? 0 : size - (uint32_t)least(next.reach, size - next.v);
}

static void pattern(struct tally *tally, const void *context)
{
    struct binomial tree = binomial_of(tally->shape->size, tally->rank, tally->shape->root);
    double block = *(const double *)context / tree.size;

    for (uint32_t m = tree.reach / 2; m > 0; m /= 2)
        if (tree.v + m < tree.size)
            tally_send(tally, (uint32_t)__builtin_popcount(tree.v),
                       binomial_rank(&tree, tree.v + m), block * binomial_span(&tree, tree.v + m));
    /* All of the ring as one round here; cost adds the others. */
    tally_send(tally, 33, tally->rank + 1, block * ring_blocks(tree.size, tree.v));
    if (tree.v != 0)
        tally_recv(tally, binomial_rank(&tree, tree.v - 1), *(const double *)context);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.copy_bytes = bytes};
    cost_pattern(shape, pattern, &bytes, out);
    if (shape->size > 2 && bytes > 0)
        out->rounds[cost_worst_level(shape)] += shape->size - 2;
    cost_pieces(shape, knobs, bytes / shape->size, 0, out);
}

static struct span blocks(const struct cut *cut, enum buffer buffer, uint32_t from, uint32_t to)
{
    struct block first = cut_block(cut, from), last = cut_block(cut, to - 1);

    return span_of(buffer, first.off, last.off + last.len - first.off);
}

static void scatter(struct builder *builder, const struct grain *grain, const struct cut *cut,
                    const struct binomial *tree, enum buffer have)
{
    uint32_t end = (uint32_t)least((uint64_t)tree->v + tree->reach, tree->size);

    if (tree->v != 0)
        for (uint32_t b = tree->v; b < end; b++)
            move_recv(builder, grain, binomial_parent(tree), blocks(cut, have, b, b + 1));
    for (uint32_t m = tree->reach / 2; m > 0; m /= 2)
        if (tree->v + m < tree->size)
            for (uint32_t b = 0; b < binomial_span(tree, tree->v + m); b++)
                move_send(builder, grain, binomial_rank(tree, tree->v + m),
                          blocks(cut, have, tree->v + m + b, tree->v + m + b + 1));
}

static void ring(struct builder *builder, const struct grain *grain, const struct cut *cut,
                 const struct binomial *tree, enum buffer have)
{
    uint32_t n = tree->size, next = binomial_rank(tree, (tree->v + 1) % n);
    uint32_t prev = binomial_rank(tree, (tree->v + n - 1) % n);
    struct binomial follower = binomial_of(n, next, tree->root);

    for (uint32_t t = 0; t + 1 < n; t++) {
        uint32_t out = (tree->v + n - t) % n, in = (tree->v + 2 * n - 1 - t) % n;

        if (!has_block(&follower, out))
            move_send(builder, grain, next, blocks(cut, have, out, out + 1));
        if (!has_block(tree, in))
            move_recv(builder, grain, prev, blocks(cut, have, in, in + 1));
    }
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct binomial tree = binomial_of(shape->size, shape->rank, shape->root);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 3 * bytes, messages(shape));
    struct cut cut = cut_even(shape, 0, bytes, shape->size);
    enum buffer have = tree.v == 0 ? BUFFER_IN : BUFFER_OUT;

    if (shape->size > 1) {
        scatter(builder, &grain, &cut, &tree, have);
        ring(builder, &grain, &cut, &tree, have);
    }
    if (tree.v == 0)
        build_copy(builder, span_of(BUFFER_OUT, 0, bytes), span_of(BUFFER_IN, 0, bytes));
}

const struct algorithm broadcast_scatter_allgather = {
    .coll = TUTTI_COLL_BROADCAST,
    .name = "scatter_allgather",
    .source = "Barnett et al. 1994",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
