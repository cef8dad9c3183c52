/* reduce_binomial.c: up a binomial tree, piece by piece: a rank folds in its children, smallest
 * subtree first, and passes the piece on.
 *
 * Cost: floor(log2 n) rounds, and one more for every further piece; each rank but the root sends B;
 * the root receives and reduces log2 n times B.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.5; pipelined as in Chan et al. 2007,
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

    *out = (struct cost){.reduce_bytes = ceil_log2(shape->size) * bytes,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_pattern(shape, tally_binomial_up, &(struct tree_load){.bytes = bytes}, out);
    cost_pieces(shape, knobs, bytes, cost_stages(out), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct binomial tree = binomial_of(shape->size, shape->rank, shape->root);
    uint64_t bytes = shape->count * shape->elem_size;
    uint32_t degree = 2 * ceil_log2(shape->size) + 1;
    struct grain grain = grain_make(shape, knobs, degree * bytes, degree);
    uint32_t pieces = grain_pieces(&grain, bytes);
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);
    struct landing landing;

    if (tree.v == 0 && (shape->size == 1 || bytes == 0)) {
        build_copy(builder, out, in);
        return;
    }
    if (tree.v != 0)
        out = tree.reach > 1 ? build_scratch(builder, bytes) : in;
    landing = landing_make(builder, pieces ? grain_piece(&grain, in, 0).len : 0,
                           (uint64_t)pieces * degree);
    for (uint32_t p = 0; p < pieces; p++) {
        struct span have = grain_piece(&grain, in, p), acc = grain_piece(&grain, out, p);

        for (uint32_t m = 1; m < tree.reach && tree.v + m < tree.size; m *= 2) {
            uint32_t child = binomial_rank(&tree, tree.v + m);

            build_recv_reduce(builder, child, grain_lane(&grain, p),
                              landing_take(&landing, acc.len), acc, have, child < shape->rank);
            have = acc;
        }
        if (tree.v != 0)
            build_send(builder, binomial_parent(&tree), grain_lane(&grain, p), have);
    }
}

const struct algorithm reduce_binomial = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.5",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
