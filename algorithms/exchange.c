/* exchange.c: the two halves of an exchange with one peer.
 *
 * In place, a block may be received directly only by one of the two ranks, and only where the
 * block that it replaces is exactly the one sent to the same peer (in alltoallv the layouts of IN
 * and OUT may differ: then receiving directly would wait for sends to third ranks). A rank that
 * lands in scratch waits for nothing, so at most one wait stands between the two. The decision may
 * differ from the peer's: each rank needs only that not both receive directly, which the parity
 * rules out. The parity alternates from piece to piece, and a block of some size has two pieces at
 * least: while one rank buffers a piece the other buffers the next, and both are always busy. */
#include "algorithms/exchange.h"

#define HALVED_BYTES 8192 /* a shorter block goes whole: the wait costs less than a message */

/* Both ends cut alike: the cut depends on the block's length alone. */
static struct grain cut(const struct grain *grain, uint64_t len)
{
    struct grain finer = *grain;

    if (len >= HALVED_BYTES)
        finer.chunk_bytes = least(grain->chunk_bytes, (len + 1) / 2);
    return finer;
}

static struct span span_at(enum buffer buffer, struct block block)
{
    return span_of(buffer, block.off, block.len);
}

void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer)
{
    struct span block = span_at(BUFFER_IN, coll_block(shape, peer));
    struct grain finer = cut(grain, block.len);

    move_send(builder, &finer, peer, block);
}

struct exchange exchange_prepare(struct builder *builder, const struct shape *shape, uint32_t peer)
{
    struct block in = coll_block(shape, peer), out = coll_recv_block(shape, peer);
    bool same = in.off == out.off && in.len == out.len;
    struct exchange exchange = {.peer = peer, .out = span_at(BUFFER_OUT, out)};

    exchange.scratch = shape->in_place ? build_scratch(builder, out.len) : exchange.out;
    exchange.alternates = shape->in_place && same;
    exchange.first = (shape->rank < peer) == ((shape->rank ^ peer) & 1);
    return exchange;
}

/* Where piece i lands. */
static struct span land(const struct exchange *exchange, const struct grain *grain, uint32_t i)
{
    bool direct = exchange->alternates && exchange->first == (i % 2 == 0);

    return grain_piece(grain, direct ? exchange->out : exchange->scratch, i);
}

struct span exchange_recv(struct builder *builder, const struct grain *grain,
                          const struct exchange *exchange, struct span after)
{
    struct grain finer = cut(grain, exchange->out.len);
    uint32_t pieces = grain_pieces(&finer, exchange->out.len);
    struct span last = {0};

    for (uint32_t i = 0; i < pieces; i++) {
        last = land(exchange, &finer, i);
        if (i == 0 && after.len) {
            struct span gate = last;

            gate.len = after.len = finer.elem_size;
            build_copy(builder, gate, after);
        }
        build_recv(builder, exchange->peer, grain_lane(&finer, i), last);
    }
    return last;
}

void exchange_settle(struct builder *builder, const struct grain *grain,
                     const struct exchange *exchange)
{
    struct grain finer = cut(grain, exchange->out.len);
    uint32_t pieces = grain_pieces(&finer, exchange->out.len);

    for (uint32_t i = 0; i < pieces; i++) {
        struct span from = land(exchange, &finer, i);

        if (from.buffer == BUFFER_SCRATCH)
            build_copy(builder, grain_piece(&finer, exchange->out, i), from);
    }
}

void exchange_own(struct builder *builder, const struct shape *shape)
{
    struct span in = span_at(BUFFER_IN, coll_block(shape, shape->rank));
    struct span out = span_at(BUFFER_OUT, coll_recv_block(shape, shape->rank));

    if (shape->in_place && in.off != out.off) {
        struct span aside = build_scratch(builder, in.len);

        build_copy(builder, aside, in);
        in = aside;
    }
    build_copy(builder, out, in);
}
