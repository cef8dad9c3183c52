/* allgather_circulant.c: logarithmically many rounds for any number of ranks, straight into place:
 * with the skips 1 = h0 < h1 < ... < n (each the half of the next, rounded up) a rank that has the
 * h blocks from its own on gets the next ones from the rank h above.
 *
 * Cost: ceil(log2 n) rounds; n - 1 blocks sent in all; one copy of the own block. A message is one
 * or two spans of OUT (it may wrap at block 0), so nothing is packed or rotated.
 * Source: Bruck et al. 1997, section 3 (concatenation), with the halving skips of Traeff 2024,
 * arXiv 2410.14234, Algorithm 2. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    /* The blocks of a v form may lie scattered: then each is a message of its own. */
    return shape->coll != TUTTI_COLL_ALLGATHERV || grain_fits(2 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){.copy_bytes = cost_largest_block(shape)};
    cost_circulant(shape, cost_total(shape), out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    struct cut cut = cut_of_shape(shape);
    struct home own = home_alone(BUFFER_IN, cut_block(&cut, shape->rank));
    struct home all = home_whole(BUFFER_OUT);
    uint64_t messages = shape->coll == TUTTI_COLL_ALLGATHERV ? 2 * (uint64_t)shape->size
                                                             : 5 * ceil_log2(shape->size);
    struct grain grain = grain_make(shape, knobs, 2 * runs_bytes(&cut, 0, shape->size), messages);

    phase_allgather_circulant(builder, &world, &grain, &cut, &own, &all);
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
