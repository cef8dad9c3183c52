/* exchange.h: one block to a peer and one block from it, for the forms of alltoall(v) that move
 * every block straight to its rank; in place too. */
#ifndef ALGORITHMS_EXCHANGE_H
#define ALGORITHMS_EXCHANGE_H

#include "algorithms/phases.h"

struct exchange {
    uint32_t peer;
    struct span out;  /* where the peer's block belongs */
    struct span land; /* where it is received: out, or a ring of so many places in scratch */
    uint32_t places;
};

/* As grain_make, for blocks that may pass through scratch. */
struct grain exchange_grain(const struct shape *shape, const struct knobs *knobs, uint64_t bytes,
                            uint64_t messages);
/* Sends the peer's block from IN; before any receive of the same peer in program order. */
void exchange_send(struct builder *builder, const struct shape *shape, const struct grain *grain,
                   uint32_t peer);
struct exchange exchange_prepare(struct builder *builder, const struct shape *shape,
                                 const struct grain *grain, uint32_t peer);
/* Receives, and copies what lands in scratch to its place; after all sends in program order. */
void exchange_recv(struct builder *builder, const struct grain *grain,
                   const struct exchange *exchange);
/* My own block; in program order after all sends and before all receives, which may overwrite it.
 */
void exchange_own(struct builder *builder, const struct shape *shape);

#endif
