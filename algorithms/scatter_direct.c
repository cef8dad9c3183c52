/* scatter_direct.c: the root sends every rank its block straight from IN, all at once. In the v
 * form the leaves need to know nothing but their own count.
 *
 * Cost: 1 round; the root sends n - 1 blocks; one copy of its own.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 2 (linear form). */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    /* Where counts are local a byte stands for each. */
    double block = shape->local_counts ? 1 : cost_total(shape) / shape->size;

    *out = (struct cost){.copy_bytes = block};
    cost_pattern(shape, tally_flat_down, &block, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct grain grain = grain_make(shape, knobs, shape->count * shape->elem_size * messages(shape),
                                    messages(shape));
    uint64_t own = (shape->counts ? shape->counts[me] : shape->count) * shape->elem_size;
    struct home in = home_whole(BUFFER_IN);

    if (me != shape->root) {
        move_recv(builder, &grain, shape->root, span_of(BUFFER_OUT, 0, own));
        return;
    }
    for (uint32_t d = 1; d < n; d++)
        move_send(builder, &grain, (me + d) % n, home_span(&in, coll_block(shape, (me + d) % n)));
    build_copy(builder, span_of(BUFFER_OUT, 0, own), home_span(&in, coll_block(shape, me)));
}

const struct algorithm scatter_direct = {
    .coll = TUTTI_COLL_SCATTER,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm scatterv_direct = {
    .coll = TUTTI_COLL_SCATTERV,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
