/* exchange.c: the two halves of an exchange with one peer.
 *
 * In place, the block for a peer lies where the peer's block must go. Each rank then receives into
 * scratch, which waits for nothing, and copies when its own block has been taken: receiving
 * directly would make one side wait for the other's buffering, and two ranks that did so at once
 * would wait for each other. Both transfers run at the same time, and the copy is local.
 * Scratch is a ring of pieces, so that a block of any length needs little of it and the copy finds
 * its piece in the cache. A piece that comes into a place used before waits for the copy out of it,
 * and that for the send of an earlier piece, whose receive the peer has posted by then: the waits
 * of two partners lead to earlier and earlier pieces, never in a circle. */
#include "algorithms/exchange.h"

#include "algorithms/algorithm.h"

#define PIECE_BYTES_MAX (256u << 10)
#define PLACES          4 /* of a lane, in the ring */

static struct span span_at(enum buffer buffer, struct block block)
{
    return span_of(buffer, block.off, block.len);
}

struct grain exchange_grain(const struct shape *shape, const struct knobs *knobs, uint64_t bytes,
                            uint64_t messages)
{
    struct knobs fine = *knobs;

    fine.chunk_bytes = least(fine.chunk_bytes, PIECE_BYTES_MAX);
    return grain_make(shape, &fine, bytes, messages);
}

void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer)
{
    move_send(builder, grain, peer, span_at(BUFFER_IN, coll_block(shape, peer)));
}

/* The longest of the pieces of a block is its first. */
static uint64_t longest_piece(const struct grain *grain, struct span block)
{
    return block.len ? grain_piece(grain, block, 0).len : 0;
}

struct exchange exchange_prepare(struct builder *builder, const struct shape *shape,
                                 const struct grain *grain, uint32_t peer)
{
    struct exchange exchange = {.peer = peer,
                                .out = span_at(BUFFER_OUT, coll_recv_block(shape, peer))};

    exchange.land = exchange.out;
    if (shape->in_place) {
        exchange.places =
            (uint32_t)least(grain_pieces(grain, exchange.out.len), PLACES * grain->lanes);
        exchange.land =
            build_scratch(builder, exchange.places * longest_piece(grain, exchange.out));
    }
    return exchange;
}

void exchange_recv(struct builder *builder, const struct grain *grain,
                   const struct exchange *exchange)
{
    struct span place = exchange->land;

    if (exchange->places == 0) {
        move_recv(builder, grain, exchange->peer, exchange->land);
        return;
    }
    for (uint32_t i = 0; i < grain_pieces(grain, exchange->out.len); i++) {
        struct span piece = grain_piece(grain, exchange->out, i);

        place.off = exchange->land.off + i % exchange->places * longest_piece(grain, exchange->out);
        place.len = piece.len;
        build_recv(builder, exchange->peer, grain_lane(grain, i), place);
        build_copy(builder, piece, place);
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
