/* sim.h: runs all ranks' programs in one process on real bytes, one step at a time, in a random
 * order that the programs allow, and compares with the horrible collective. Where verify.h proves
 * with symbols and a graph, this tries: it shares no code with it but the schedule. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "algorithms/world.h"

/* A link holds at most `window` messages that have been sent and not yet received; 0: a message
 * moves when both sides have come to it. */
enum { SIM_RENDEZVOUS = 0, SIM_UNLIMITED = 1 << 30 };

/* Random input from seed, random order from seed. TUTTI_ERR_TIMEOUT: nothing can move;
 * TUTTI_ERR_INTERNAL: a byte of the result is wrong, or one that nobody may write has changed. */
tutti_status sim_collective(const struct world *world, uint32_t window, uint64_t seed);
/* For each rank in turn: can another finish though it never enters? TUTTI_ERR_INTERNAL if so. */
tutti_status sim_barrier(const struct world *world);

#endif
