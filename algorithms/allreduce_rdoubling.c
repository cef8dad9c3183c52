/* allreduce_rdoubling.c: recursive doubling: in round k ranks at distance 2^k exchange all they
 * have and reduce. Fewest rounds for vectors that are short but too long for `direct`.
 *
 * Cost: log2 p rounds of B bytes, p the largest power of two <= n; if n > p the n - p extra ranks
 * give their vector to a neighbour first and get the result last: 2 rounds and B bytes more.
 * Both partners of a round compute (lower ranks) op (upper ranks) from the same two values, so
 * all ranks hold the same bits. A round must not overwrite what it sends, nor what an earlier round
 * may still be sending: every round but the last writes fresh scratch, the last writes OUT. In
 * place with one round OUT itself is being sent: the only receive then lands first, and is reduced
 * when the send is over.
 * Source: Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in
 * MPICH" (2005), section 4.5. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static bool fits(const struct shape *shape)
{
    return true;
}

static void sends(struct tally *tally, const void *context)
{
    double bytes = *(const double *)context;
    struct folding folding = folding_of(tally->shape->size, tally->rank);
    uint32_t rounds = ceil_log2(folding.power);

    if (folding.me == NO_RANK) {
        tally_send(tally, 0, tally->rank + 1, bytes);
        return;
    }
    for (uint32_t k = 0; k < rounds; k++)
        tally_send(tally, k + 1, folding_rank(&folding, folding.me ^ 1u << k), bytes);
    if (folding.me < folding.extra)
        tally_send(tally, rounds + 1, tally->rank - 1, bytes);
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);
    struct folding folding = folding_of(shape->size, 0);

    *out = (struct cost){.reduce_bytes = bytes * (ceil_log2(folding.power) + (folding.extra > 0)),
                         .copy_bytes = shape->size == 1 ? bytes : 0,
                         .landed_bytes = folding.power == 2 ? bytes : 0};
    cost_pattern(shape, sends, &bytes, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint64_t bytes = shape->count * shape->elem_size;
    struct folding folding = folding_of(shape->size, shape->rank);
    uint32_t rounds = ceil_log2(folding.power);
    struct grain grain = grain_make(shape, knobs, 4 * bytes * (rounds + 2), 4 * (rounds + 2));
    struct span have = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);
    struct span landing;

    if (shape->size == 1 || bytes == 0) {
        build_copy(builder, out, have);
        return;
    }
    if (folding.me == NO_RANK) {
        move_send(builder, &grain, shape->rank + 1, have);
        move_recv(builder, &grain, shape->rank + 1, out);
        return;
    }
    landing = build_scratch(builder, bytes);
    if (folding.me < folding.extra) {
        struct span dst = build_scratch(builder, bytes);

        move_fold(builder, &grain, shape->rank - 1, landing, dst, have, true);
        have = dst;
    }
    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t other = folding.me ^ 1u << k, peer = folding_rank(&folding, other);
        bool out_is_sent = shape->in_place && rounds == 1 && have.buffer == BUFFER_IN;
        struct span dst = k + 1 < rounds ? build_scratch(builder, bytes) : out;

        if (out_is_sent) {
            move_recv(builder, &grain, peer, landing);
            move_send(builder, &grain, peer, have);
            build_reduce(builder, dst, other < folding.me ? landing : have,
                         other < folding.me ? have : landing);
        } else {
            move_send(builder, &grain, peer, have);
            move_fold(builder, &grain, peer, landing, dst, have, other < folding.me);
        }
        have = dst;
    }
    if (folding.me < folding.extra)
        move_send(builder, &grain, shape->rank - 1, out);
}

const struct algorithm allreduce_rdoubling = {
    .coll = TUTTI_COLL_ALLREDUCE,
    .name = "rdoubling",
    .source = "Thakur, Rabenseifner and Gropp 2005, section 4.5",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
