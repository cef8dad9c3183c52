/* alltoall_pairwise.c: in round d rank r exchanges blocks with rank (d - r) mod n, and receives in
 * the next round only when this round's block is here: one partner at a time, so that no receiver
 * is flooded by many senders. For large blocks on networks.
 *
 * Cost: n - 1 rounds of one block (n if n is odd: each rank then pauses in a round of its own);
 * one copy of the own block, and in each round of one element, the gate:
 * what a receive must wait for follows from bytes alone, so the gate copies the first element that
 * came in the round before to where the next block will begin; the receive then overwrites it.
 * Rounds are symmetric (both partners exchange in the same one), so that in place, where a block
 * may wait for the one it replaces, no chain of waits leads backwards; see exchange.c.
 * Source: Thakur, Rabenseifner and Gropp 2005, section 4.4 (pairwise exchange), with the
 * tournament's pairing for any n. */
#include "algorithms/costs.h"
#include "algorithms/exchange.h"

static uint64_t messages(const struct shape *shape)
{
    return 4 * (uint64_t)shape->size;
}

static bool fits(const struct shape *shape)
{
    return messages(shape) <= SCHEDULE_STEPS_MAX - 4;
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double block = cost_total(shape) / shape->size, rounds = shape->size - 1.0;

    *out = (struct cost){.copy_bytes = block};
    cost_exchange_all(shape, block, out);
    if (shape->size > 1 && (block > 0 || shape->local_counts)) {
        out->rounds[cost_worst_level(shape)] = rounds;
        out->copy_bytes += block > 0 ? (rounds - 1) * shape->elem_size : 0;
    }
}

/* The receive at `land` begins when what came to `before` is here. */
static void gate(struct builder *builder, const struct shape *shape, struct span land,
                 struct span before)
{
    land.len = before.len = shape->elem_size;
    build_copy(builder, land, before);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    struct grain grain =
        exchange_grain(shape, knobs, 2 * n * shape->count * shape->elem_size, messages(shape));
    struct span before = {0};

    for (uint32_t d = 1; d <= n; d++) {
        uint32_t peer = (uint32_t)(((uint64_t)d + n - me) % n);

        if (peer != me)
            exchange_send(builder, shape, &grain, peer);
    }
    exchange_own(builder, shape);
    for (uint32_t d = 1; d <= n; d++) {
        uint32_t peer = (uint32_t)(((uint64_t)d + n - me) % n);
        struct exchange exchange;

        if (peer == me)
            continue;
        exchange = exchange_prepare(builder, shape, &grain, peer);
        if (before.len && exchange.land.len)
            gate(builder, shape, exchange.land, before);
        exchange_recv(builder, &grain, &exchange);
        if (exchange.land.len)
            before = exchange.land;
    }
}

const struct algorithm alltoall_pairwise = {
    .coll = TUTTI_COLL_ALLTOALL,
    .name = "pairwise",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.4",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
const struct algorithm alltoallv_pairwise = {
    .coll = TUTTI_COLL_ALLTOALLV,
    .name = "pairwise",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.4",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
