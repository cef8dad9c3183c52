/* reduce_flat.c: everyone sends its vector to the root, which folds them in, in rank order, piece
 * by piece so that a piece stays in cache until it is finished.
 *
 * Cost: 1 round; each rank sends B; the root receives and reduces n - 1 times B.
 * Source: the linear form of Chan et al. 2007, section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 2 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.reduce_bytes = bytes * (shape->size - 1),
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_pattern(shape, tally_flat_up, &bytes, out);
    cost_pieces(shape, knobs, bytes, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, bytes * messages(shape), messages(shape));
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);

    if (shape->rank == shape->root)
        phase_fold_in(builder, &world, &grain, out, in);
    else
        move_send(builder, &grain, shape->root, in);
}

const struct algorithm reduce_flat = {
    .coll = TUTTI_COLL_REDUCE,
    .name = "flat",
    .source = "Chan et al. 2007, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
