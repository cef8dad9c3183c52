/* variants.h: the ways a case of the conformance suite runs: over every row of transport_table, as
 * threads or processes, plain or wrapped in faults. */
#ifndef TESTS_VARIANTS_H
#define TESTS_VARIANTS_H

#include "tests/links.h"

/* Which variants a case runs over. */
enum which { ALL = 0, PROCESSES = 1, PLAIN = 2, THREADS = 4 };

/* Runs the function in a world of its own for each of them; number is world->number. */
void run_variants(links_fn *function, uint32_t size, uint32_t lanes, int which, int number);

#endif
