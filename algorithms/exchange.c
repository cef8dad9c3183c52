/* exchange.c: the two halves of an exchange with one peer.
 *
 * In place, a block may be received directly only by one of the two ranks, and only where the
 * block that it replaces is exactly the one sent to the same peer (in alltoallv the layouts of IN
 * and OUT may differ: then receiving directly would wait for sends to third ranks). A rank that
 * lands in scratch waits for nothing, so at most one wait stands between the two. The decision may
 * differ from the peer's: each rank needs only that not both receive directly, which the parity
 * rules out. */
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

static bool may_receive_directly(const struct shape *shape, uint32_t peer)
{
    struct block in = coll_block(shape, peer), out = coll_recv_block(shape, peer);
    bool lower = shape->rank < peer, odd = (shape->rank ^ peer) & 1;

    if (!shape->in_place)
        return true;
    return lower == odd && in.off == out.off && in.len == out.len;
}

struct exchange exchange_prepare(struct builder *builder, const struct shape *shape, uint32_t peer)
{
    struct exchange exchange = {.peer = peer,
                                .out = span_at(BUFFER_OUT, coll_recv_block(shape, peer))};

    exchange.land =
        may_receive_directly(shape, peer) ? exchange.out : build_scratch(builder, exchange.out.len);
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
