/* exchange.c: the two halves of an exchange with one peer.
 *
 * In place, the block for a peer lies where the peer's block must go. Each rank then receives into
 * scratch, which waits for nothing, and copies when its own block has been taken: receiving
 * directly would make one side wait for the other's buffering, and two ranks that did so at once
 * would wait for each other. Both transfers run at the same time, and the copy is local. */
#include "algorithms/exchange.h"

static struct span span_at(enum buffer buffer, struct block block)
{
    return span_of(buffer, block.off, block.len);
}

void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer)
{
    move_send(builder, grain, peer, span_at(BUFFER_IN, coll_block(shape, peer)));
}

struct exchange exchange_prepare(struct builder *builder, const struct shape *shape, uint32_t peer)
{
    struct exchange exchange = {.peer = peer,
                                .out = span_at(BUFFER_OUT, coll_recv_block(shape, peer))};

    exchange.land = shape->in_place ? build_scratch(builder, exchange.out.len) : exchange.out;
    return exchange;
}

void exchange_recv(struct builder *builder, const struct grain *grain,
                   const struct exchange *exchange)
{
    move_recv(builder, grain, exchange->peer, exchange->land);
}

void exchange_settle(struct builder *builder, const struct exchange *exchange)
{
    if (exchange->land.buffer == BUFFER_SCRATCH)
        build_copy(builder, exchange->out, exchange->land);
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
