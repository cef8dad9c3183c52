/* gather_direct.c: everyone sends its block to the root, which receives each where it belongs. In
 * the v form the leaves need to know nothing but their own count.
 *
 * Cost: 1 round; each rank sends one block, the root receives n - 1; one copy of its own.
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
    cost_pattern(shape, tally_flat_up, &block, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct grain grain = grain_make(shape, knobs, shape->count * shape->elem_size * messages(shape),
                                    messages(shape));
    uint64_t own = (shape->counts ? shape->counts[me] : shape->count) * shape->elem_size;
    struct home out = home_whole(BUFFER_OUT);

    if (me != shape->root) {
        move_send(builder, &grain, shape->root, span_of(BUFFER_IN, 0, own));
        return;
    }
    for (uint32_t d = 1; d < n; d++)
        move_recv(builder, &grain, (me + d) % n, home_span(&out, coll_block(shape, (me + d) % n)));
    build_copy(builder, home_span(&out, coll_block(shape, me)), span_of(BUFFER_IN, 0, own));
}

const struct algorithm gather_direct = {
    .coll = TUTTI_COLL_GATHER,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm gatherv_direct = {
    .coll = TUTTI_COLL_GATHERV,
    .name = "direct",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
