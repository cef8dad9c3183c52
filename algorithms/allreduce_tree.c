/* allreduce_tree.c: the double binary tree, pipelined: half of the vector is reduced up and sent
 * down one tree, half the other; each rank is a leaf in one and inner in the other, so no link
 * carries more than its share. Logarithmic latency at nearly full bandwidth.
 *
 * Cost: the longest chain is up and down the deeper tree, 2 H rounds, H about log2 n; a rank sends
 * at most B/2 up each tree and B/2 to each of two children of one: 2 B. Reduced: B (two children in
 * one tree, half the vector each).
 * The vector goes in chunks. Emission order is wire order, and a link may carry the way up of one
 * tree and the way down of the other: chunk c goes up at time c and down at time c + H on every
 * rank, so both ends of each link see one order and neither way holds up the other for long.
 * Source: Sanders, Speck and Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction
 * and scan" (2009), sections 3 and 5. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    /* Per piece: 2 children and a parent, up and down, a receive-and-reduce counting twice. */
    return shape->size > 1 ? 2 * 9 : 1;
}

static bool fits(const struct shape *shape)
{
    return true;
}

static uint32_t depth(uint32_t size, uint32_t rank, uint32_t which)
{
    uint32_t levels = 0;
    struct tree_links links;

    tree_double(size, rank, which, &links);
    for (; links.parent != NO_RANK; levels++)
        tree_double(size, links.parent, which, &links);
    return levels;
}

static void sends(struct tally *tally, const void *context)
{
    const double *half_and_height = context;
    uint32_t size = tally->shape->size, height = (uint32_t)half_and_height[1];

    for (uint32_t which = 0; which < 2; which++) {
        uint32_t down = depth(size, tally->rank, which);
        struct tree_links links;

        tree_double(size, tally->rank, which, &links);
        if (links.parent != NO_RANK)
            tally_send(tally, height - down, links.parent, half_and_height[0]);
        for (uint32_t i = 0; i < links.children; i++)
            tally_send(tally, height + down, links.child[i], half_and_height[0]);
    }
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape), half_and_height[2] = {bytes / 2, 0};

    *out = (struct cost){.reduce_bytes = shape->size > 2   ? bytes
                                         : shape->size > 1 ? bytes / 2
                                                           : 0,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    for (uint32_t rank = 0; rank < least(shape->size, COST_RANKS_MAX); rank++)
        for (uint32_t which = 0; which < 2; which++) {
            double d = depth(shape->size, rank, which);

            if (d > half_and_height[1])
                half_and_height[1] = d;
        }
    cost_pattern(shape, sends, half_and_height, out);
    if (shape->size > 1)
        cost_pieces(shape, knobs, bytes / 2, 2 * (uint32_t)half_and_height[1] - 1, out);
}

struct tree {
    struct builder *builder;
    struct tree_links links;
    uint32_t rank;
};

static void go_up(struct tree *tree, uint32_t lane, struct landing *landing, struct span in,
                  struct span out)
{
    struct span have = in;

    for (uint32_t i = 0; i < tree->links.children; i++) {
        uint32_t child = tree->links.child[i];

        build_recv_reduce(tree->builder, child, lane, landing_take(landing, out.len), out, have,
                          child < tree->rank);
        have = out;
    }
    if (tree->links.parent != NO_RANK)
        build_send(tree->builder, tree->links.parent, lane, have);
}

static void go_down(struct tree *tree, uint32_t lane, struct span out)
{
    if (tree->links.parent != NO_RANK)
        build_recv(tree->builder, tree->links.parent, lane, out);
    for (uint32_t i = 0; i < tree->links.children; i++)
        build_send(tree->builder, tree->links.child[i], lane, out);
}

/* The shorter half may be cut into fewer and longer pieces. */
static uint64_t longest_piece(const struct grain *grain, const struct cut *cut)
{
    uint64_t longest = 0;

    for (uint32_t t = 0; t < 2; t++) {
        struct span half = span_of(BUFFER_OUT, 0, cut_block(cut, t).len);

        if (half.len > 0)
            longest = most(longest, grain_piece(grain, half, 0).len);
    }
    return longest;
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, messages(shape) / 2 * bytes, messages(shape));
    struct cut cut = cut_even(shape, 0, bytes, 2);
    struct home in = home_whole(BUFFER_IN), out = home_whole(BUFFER_OUT);
    uint32_t pieces = grain_pieces(&grain, cut_longest(&cut)), lag = ceil_log2(shape->size);
    struct tree trees[2];
    struct landing landing;

    if (shape->size == 1 || bytes == 0) {
        build_copy(builder, span_of(BUFFER_OUT, 0, bytes), span_of(BUFFER_IN, 0, bytes));
        return;
    }
    for (uint32_t t = 0; t < 2; t++) {
        trees[t] = (struct tree){.builder = builder, .rank = shape->rank};
        tree_double(shape->size, shape->rank, t, &trees[t].links);
    }
    landing = landing_make(builder, longest_piece(&grain, &cut), 4 * pieces);
    for (uint32_t time = 0; time < 2 * (pieces + lag); time++) {
        uint32_t t = time % 2, p = time / 2;
        struct span mine = home_span(&in, cut_block(&cut, t));
        struct span result = home_span(&out, cut_block(&cut, t));
        uint32_t count = grain_pieces(&grain, mine.len);

        if (p < count)
            go_up(&trees[t], grain_lane(&grain, time), &landing, grain_piece(&grain, mine, p),
                  grain_piece(&grain, result, p));
        if (p >= lag && p - lag < count)
            go_down(&trees[t], grain_lane(&grain, time), grain_piece(&grain, result, p - lag));
    }
}

const struct algorithm allreduce_tree = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "tree",
    .source = "Sanders, Speck and Traeff 2009, sections 3 and 5",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
