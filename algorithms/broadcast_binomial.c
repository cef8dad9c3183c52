/* broadcast_binomial.c: down a binomial tree, piece by piece: a rank passes a piece on as soon as
 * it is there, to the child with the largest subtree first.
 *
 * Cost: floor(log2 n) rounds, and one more for every further piece; the root sends log2 n times B.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.2; pipelined as in Chan et al. 2007,
 * section 6. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.copy_bytes = bytes};
    cost_pattern(shape, tally_binomial_down, &(struct tree_load){.bytes = bytes}, out);
    cost_pieces(shape, knobs, bytes, cost_stages(out), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct binomial tree = binomial_of(shape->size, shape->rank, shape->root);
    uint64_t bytes = shape->count * shape->elem_size;
    uint32_t degree = ceil_log2(shape->size) + 1;
    struct grain grain = grain_make(shape, knobs, degree * bytes, degree);
    struct span out = span_of(BUFFER_OUT, 0, bytes);
    struct span have = tree.v == 0 ? span_of(BUFFER_IN, 0, bytes) : out;

    for (uint32_t p = 0; p < grain_pieces(&grain, bytes); p++) {
        struct span piece = grain_piece(&grain, have, p);

        if (tree.v != 0)
            build_recv(builder, binomial_parent(&tree), grain_lane(&grain, p), piece);
        for (uint32_t m = tree.reach / 2; m > 0; m /= 2)
            if (tree.v + m < tree.size)
                build_send(builder, binomial_rank(&tree, tree.v + m), grain_lane(&grain, p), piece);
    }
    if (tree.v == 0)
        build_copy(builder, out, have);
}

const struct algorithm broadcast_binomial = {
    .coll = TUTTI_COLL_BROADCAST,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
