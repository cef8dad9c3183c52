/* allgather_circulant.c: logarithmically many rounds for any number of ranks, straight into place:
 * with the skips 1 = h0 < h1 < ... < n (each the half of the next, rounded up) a rank that has the
 * h blocks from its own on gets the next ones from the rank h above.
 *
 * Cost: ceil(log2 n) rounds; n - 1 blocks sent in all; one copy of the own block. A message is one
 * or two spans of OUT (it may wrap at block 0), so nothing is packed or rotated. Where the blocks
 * of a v form do not lie back to back they are collected in scratch, at one copy more of each, for
 * a rank's messages may not depend on displacements that others do not know.
 * Source: Bruck et al. 1997, section 3 (concatenation), with the halving skips of Traeff 2024,
 * arXiv 2410.14234, Algorithm 2. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    /* The blocks of a v form may lie scattered: then each is a copy of its own. */
    return shape->coll != TUTTI_COLL_ALLGATHERV || grain_fits(2 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    /* All of a v form is collected in scratch where its blocks lie scattered, which may be at one
     * rank alone. */
    bool collects = shape->coll == TUTTI_COLL_ALLGATHERV;

    *out =
        (struct cost){.copy_bytes = cost_largest_block(shape) + (collects ? cost_total(shape) : 0)};
    cost_circulant(shape, cost_total(shape), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut placed = cut_of_shape(shape);
    struct cut cut = cut_packed(shape);
    struct home own = home_alone(BUFFER_IN, cut_block(&cut, shape->rank));
    struct home all = home_whole(BUFFER_OUT);
    uint64_t total = runs_bytes(&cut, 0, shape->size);
    struct grain grain = grain_make(shape, knobs, 2 * total, 5 * ceil_log2(shape->size));
    bool packed = cut_is_packed(&placed);

    if (!packed) {
        struct span scratch = build_scratch(builder, total);

        all.buffer = scratch.buffer;
        all.base = scratch.off;
    }
    phase_allgather_circulant(builder, &world, &grain, &cut, &own, &all);
    if (!packed)
        runs_place(builder, &placed, 0, span_of(all.buffer, all.base, total));
}

const struct algorithm allgather_circulant = {
    .coll = TUTTI_COLL_ALLGATHER,
    .name = "circulant",
    .source = "Bruck et al. 1997, section 3; Traeff 2024, Algorithm 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm allgatherv_circulant = {
    .coll = TUTTI_COLL_ALLGATHERV,
    .name = "circulant",
    .source = "Bruck et al. 1997, section 3; Traeff 2024, Algorithm 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
