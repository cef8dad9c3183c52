/* exchange.h: one block to a peer and one block from it, for the forms of alltoall(v) that move
 * every block straight to its rank; in place too. */
#ifndef ALGORITHMS_EXCHANGE_H
#define ALGORITHMS_EXCHANGE_H

#include "algorithms/phases.h"

struct exchange {
    uint32_t peer;
    struct span out;  /* where the peer's block belongs */
    struct span land; /* where it is received: out, or scratch */
};

/* Sends the peer's block from IN; before any receive of the same peer in program order. */
void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer);
struct exchange exchange_prepare(struct builder *builder, const struct shape *shape, uint32_t peer);
void exchange_recv(struct builder *builder, const struct grain *grain,
                   const struct exchange *exchange);
/* Copies a block that landed in scratch to its place; after all sends in program order. */
void exchange_settle(struct builder *builder, const struct exchange *exchange);
/* My own block; in program order after all sends and before all receives, which may overwrite it.
 */
void exchange_own(struct builder *builder, const struct shape *shape);

#endif
