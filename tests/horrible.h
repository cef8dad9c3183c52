/* horrible.h: every collective, straight from the sentences of tutti.h, with no idea at all: what
 * the clever ones are compared with. Sums are of unsigned integers of elem_size bytes. */
#ifndef TESTS_HORRIBLE_H
#define TESTS_HORRIBLE_H

#include "algorithms/coll.h"

/* shapes, in, out: [size]. Writes what each rank must end with to out[rank], bytes of no block are
 * left alone. in and out of a rank do not overlap, whatever its shape says. */
void horrible_collective(const struct shape *shapes, unsigned char *const *in,
                         unsigned char *const *out);

#endif
