/* gather_binomial.c: up a binomial tree: a rank collects the blocks of its subtree in scratch and
 * passes them on as one message. Fewest messages at the root: for small blocks.
 *
 * Cost: floor(log2 n) rounds; a child of the root sends at most half of all blocks; copied: the own
 * block, into scratch or into place.
 * The root receives straight into OUT: a subtree's blocks are back to back there, but for one wrap,
 * where both sides cut the message.
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
    cost_pattern(shape, tally_binomial_up, &load, out);
}

/* The subtree's blocks, at the root's OUT or in scratch from the own block on. */
static struct home home_of(const struct binomial *tree, const struct cut *cut, uint32_t rank,
                           uint64_t scratch)
{
    struct home home = home_whole(BUFFER_OUT);

    if (tree->v != 0)
        home = (struct home){.buffer = BUFFER_SCRATCH,
                             .base = scratch,
                             .origin = cut_block(cut, rank).off,
                             .total = runs_bytes(cut, 0, tree->size)};
    return home;
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct binomial tree = binomial_of(n, me, shape->root);
    struct cut cut = cut_of_shape(shape);
    uint64_t block = shape->count * shape->elem_size;
    uint32_t reach = (uint32_t)least(tree.reach, n - tree.v);
    struct grain grain = grain_make(shape, knobs, 2 * n * block, 4 * ceil_log2(n) + 4);
    struct span in = span_of(BUFFER_IN, 0, block);
    struct home home;
    struct runs runs;
    struct block run;

    if (tree.v != 0 && reach == 1) {
        move_send(builder, &grain, binomial_parent(&tree), in);
        return;
    }
    home = home_of(&tree, &cut, me, tree.v == 0 ? 0 : build_scratch(builder, reach * block).off);
    for (uint32_t m = 1; m < tree.reach && tree.v + m < n; m *= 2) {
        uint32_t child = binomial_rank(&tree, tree.v + m);

        runs = runs_of(&cut, child, binomial_span(&tree, tree.v + m));
        while (runs_next(&runs, &run))
            move_recv(builder, &grain, child, home_span(&home, run));
    }
    build_copy(builder, home_span(&home, cut_block(&cut, me)), in);
    runs = runs_of(&cut, me, reach);
    while (tree.v != 0 && runs_next(&runs, &run))
        move_send(builder, &grain, binomial_parent(&tree), home_span(&home, run));
}

const struct algorithm gather_binomial = {
    .coll = TUTTI_COLL_GATHER,
    .name = "binomial",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
