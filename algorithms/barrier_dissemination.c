/* barrier_dissemination.c: in round k every rank tells the rank 2^k above that it, and all that it
 * has heard of, have come; after ceil(log2 n) rounds everyone has heard of everyone.
 *
 * Cost: ceil(log2 n) rounds of two bytes.
 * The order of rounds comes from bytes, as every order does: receives of all rounds write one
 * common byte, so they happen in order, and the send of round k reads a byte that the receive of
 * round k - 1 wrote. A send and the receive of its own round touch different bytes, or two ranks
 * would wait for each other:
 *
 *     byte      0   1   2   3   4
 *     receive       [0,2,..]            even rounds
 *                       [1,3,..]        odd rounds
 *     send      [1,3,..]                reads byte 1, written in even rounds
 *                           [0,2,..]    reads byte 3, written in odd rounds
 *
 * Source: Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization" (1988), section
 * 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void sends(struct tally *tally, const void *context)
{
    for (uint32_t k = 0; k < ceil_log2(tally->shape->size); k++)
        tally_send(tally, k, tally->rank + (1u << k), 2);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    *out = (struct cost){0};
    cost_pattern(shape, sends, NULL, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size, me = shape->rank;
    uint64_t base = build_scratch(builder, 5).off;

    for (uint32_t k = 0; k < ceil_log2(n); k++) {
        uint32_t skip = 1u << k;
        struct span send = span_of(BUFFER_SCRATCH, base + (k % 2 ? 0 : 3), 2);
        struct span recv = span_of(BUFFER_SCRATCH, base + (k % 2 ? 2 : 1), 2);

        build_send(builder, (me + skip) % n, 0, send);
        build_recv(builder, (me + n - skip) % n, 0, recv);
    }
}

const struct algorithm barrier_dissemination = {
    .coll = TUTTI_COLL_BARRIER,
    .name = "dissemination",
    .source = "Hensgen, Finkel and Manber 1988, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
