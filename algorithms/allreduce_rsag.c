/* allreduce_rsag.c: direct reduce-scatter, then direct allgather: rank r receives block r of every
 * other rank, folds them into OUT, and sends the finished block to all. Two rounds at the ring's
 * volume; best where all ranks can reach each other equally well (shared memory, a flat network).
 *
 * Cost: 2 rounds; each rank sends (n - 1) blocks of B/n twice, 2 (n - 1)/n B; reduced (n - 1)/n B.
 * Every reduction is a receive-and-reduce into OUT, in place too: block r is the one block that
 * rank r sends to nobody before it is finished. Only one rank reduces a block, so all get the same
 * bits.
 * Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in
 * MPICH" (2005), sections 4 and 5 (all-to-all forms). */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return 5 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape), block = bytes / shape->size;

    *out = (struct cost){.reduce_bytes = (shape->size - 1) * block,
                         .copy_bytes = shape->size == 1 ? bytes : 0};
    cost_exchange_all(shape, block, out);
    cost_exchange_all(shape, block, out);
    cost_pieces(shape, knobs, block, 0, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    struct team world = team_world(shape->size, shape->rank);
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, 5 * bytes, messages(shape));
    struct cut cut = cut_of_shape(shape);
    struct home in = home_whole(BUFFER_IN), out = home_whole(BUFFER_OUT);

    phase_reduce_scatter_direct(builder, &world, &grain, &cut, &in, &out);
    if (shape->size > 1)
        phase_allgather_direct(builder, &world, &grain, &cut, &out, &out);
}

const struct algorithm allreduce_rsag = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "rsag",
    .source = "Thakur, Rabenseifner and Gropp 2005, sections 4 and 5",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
