/* alltoall_direct.c: every rank sends block j to rank j, all at once, nearest successor first, and
 * receives every block where it belongs.
 *
 * Cost: 1 round; n - 1 messages of one block; one copy of the own block.
 * In place every block lands in scratch first (exchange.c).
 * Source: the spread-out form of Bruck et al., "Efficient algorithms for all-to-all communications
 * in multiport message-passing systems" (1997), section 2, n ports. */
#include "algorithms/costs.h"
#include "algorithms/exchange.h"

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
    double block = cost_total(shape) / shape->size;

    *out = (struct cost){.copy_bytes = block};
    cost_exchange_all(shape, block, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct grain grain =
        exchange_grain(shape, knobs, messages(shape) * shape->count * shape->elem_size, 3 * n);

    for (uint32_t d = 1; d < n; d++)
        exchange_send(builder, shape, &grain, (me + d) % n);
    exchange_own(builder, shape);
    for (uint32_t d = 1; d < n; d++) {
        struct exchange exchange = exchange_prepare(builder, shape, &grain, (me + n - d) % n);

        exchange_recv(builder, &grain, &exchange);
    }
}

const struct algorithm alltoall_direct = {
    .coll = TUTTI_COLL_ALLTOALL,
    .name = "direct",
    .source = "Bruck et al. 1997, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm alltoallv_direct = {
    .coll = TUTTI_COLL_ALLTOALLV,
    .name = "direct",
    .source = "Bruck et al. 1997, section 2",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
