/* scatter_binomial.c: down a binomial tree: a rank receives the blocks of its subtree and passes on
 * those of its children. Fewest messages at the root: for small blocks.
 *
 * Cost: floor(log2 n) rounds; the root sends n - 1 blocks; copied: the own block to its place.
 * The root sends straight from IN: a subtree's blocks are back to back there, but for one wrap,
 * where both sides cut the message. A leaf receives straight into OUT.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 2; Chan et al. 2007, section 4. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double block = cost_total(shape) / shape->size;
    struct tree_load load = {.bytes = block, .per_rank = true};

    *out = (struct cost){.copy_bytes = block};
    cost_pattern(shape, tally_binomial_down, &load, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct binomial tree = binomial_of(n, me, shape->root);
    struct cut cut = cut_of_shape(shape);
    uint64_t block = shape->count * shape->elem_size;
    uint32_t reach = (uint32_t)least(tree.reach, n - tree.v);
    struct grain grain = grain_make(shape, knobs, 2 * n * block, 4 * ceil_log2(n) + 4);
    struct span out = span_of(BUFFER_OUT, 0, block);
    struct home home = home_whole(BUFFER_IN);
    struct runs runs = runs_of(&cut, me, reach);
    struct block run;

    if (tree.v != 0 && reach == 1) {
        move_recv(builder, &grain, binomial_parent(&tree), out);
        return;
    }
    if (tree.v != 0)
        home = (struct home){.buffer = BUFFER_SCRATCH,
                             .base = build_scratch(builder, reach * block).off,
                             .origin = cut_block(&cut, me).off,
                             .total = n * block};
    while (tree.v != 0 && runs_next(&runs, &run))
        move_recv(builder, &grain, binomial_parent(&tree), home_span(&home, run));
    for (uint32_t m = tree.reach / 2; m > 0; m /= 2) {
        if (tree.v + m >= n)
            continue;
        runs = runs_of(&cut, binomial_rank(&tree, tree.v + m), binomial_span(&tree, tree.v + m));
        while (runs_next(&runs, &run))
            move_send(builder, &grain, binomial_rank(&tree, tree.v + m), home_span(&home, run));
    }
    build_copy(builder, out, home_span(&home, cut_block(&cut, me)));
}

const struct algorithm scatter_binomial = {
    .coll = TUTTI_COLL_SCATTER,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
