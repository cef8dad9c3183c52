/* variants.h: a case of the conformance suites, run over every transport of the table: as threads
 * or processes, plain, wrapped by `fault` without a fault, and wrapped with random delays; for
 * shared memory also with its ways of reading a peer's bytes switched off one after the other. */
#ifndef TESTS_VARIANTS_H
#define TESTS_VARIANTS_H

#include "tests/links.h"

/* Which variants a case runs over. */
enum { VARIANTS_ALL = 0, VARIANTS_PROCESSES = 1, VARIANTS_PLAIN = 2, VARIANTS_THREADS = 4 };

void variants_run(links_fn *function, uint32_t size, uint32_t lanes, int which, int number);
/* Bytes that tell their place, and how many of them are others. */
void variants_fill(uint8_t *at, size_t len, uint32_t key);
size_t variants_wrong(const uint8_t *at, size_t len, uint32_t key);

#endif
