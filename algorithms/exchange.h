/* exchange.h: one block to a peer and one block from it, for the forms of alltoall(v) that move
 * every block straight to its rank; in place too. */
#ifndef ALGORITHMS_EXCHANGE_H
#define ALGORITHMS_EXCHANGE_H

#include "algorithms/phases.h"

struct exchange {
    uint32_t peer;
    struct span out;     /* where the peer's block belongs */
    struct span scratch; /* where pieces land that must not yet overwrite it; out, out of place */
    bool alternates;     /* every other piece may land in out, */
    bool first;          /* the first one among them */
};

/* Sends the peer's block from IN; before any receive of the same peer in program order. */
void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer);
struct exchange exchange_prepare(struct builder *builder, const struct shape *shape, uint32_t peer);
/* Receives the block; where `after` is not empty, not before what came there is here. Returns where
 * the last piece lands. */
struct span exchange_recv(struct builder *builder, const struct grain *grain,
                          const struct exchange *exchange, struct span after);
/* Copies what landed in scratch to its place; after all sends in program order. */
void exchange_settle(struct builder *builder, const struct grain *grain,
                     const struct exchange *exchange);
/* My own block; in program order after all sends and before all receives, which may overwrite it.
 */
void exchange_own(struct builder *builder, const struct shape *shape);

#endif
