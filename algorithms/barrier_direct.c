/* barrier_direct.c: every rank tells every other at once. One round, for few ranks.
 *
 * Cost: 1 round; n - 1 messages of one byte.
 * Source: the central-counter barrier of Mellor-Crummey and Scott, "Algorithms for scalable
 * synchronization on shared-memory multiprocessors" (1991), section 3, with a flag per pair. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return grain_fits(2 * (uint64_t)shape->size);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){0};
    cost_exchange_all(shape, 1, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    uint64_t base = build_scratch(builder, n).off;

    for (uint32_t d = 1; d < n; d++)
        build_send(builder, (me + d) % n, 0, span_of(BUFFER_SCRATCH, base + me, 1));
    for (uint32_t d = 1; d < n; d++) {
        uint32_t from = (me + n - d) % n;

        build_recv(builder, from, 0, span_of(BUFFER_SCRATCH, base + from, 1));
    }
}

const struct algorithm barrier_direct = {
    .coll = TUTTI_COLL_BARRIER,
    .name = "direct",
    .source = "Mellor-Crummey and Scott 1991, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
