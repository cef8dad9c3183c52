/* spans.h: a map from byte intervals to values, kept sorted and non-overlapping. The schedule
 * builder keeps the last writer and the readers of every byte in it; the registration cache keeps
 * registered ranges. Pure. */
#ifndef BASE_SPANS_H
#define BASE_SPANS_H

#include "base/status.h"

struct span_entry {
    uint64_t begin, end; /* [begin, end) */
    uint64_t value;
};

struct spans {
    struct span_entry *entries;
    size_t count, capacity;
};

void spans_init(struct spans *map);
void spans_free(struct spans *map);
/* Index of the first entry whose end is > begin (count if none): iterate from there while
 * entries[i].begin < end. */
size_t spans_find(const struct spans *map, uint64_t begin);
/* Sets value over [begin, end): splits and replaces what was there; merges nothing.
 * TUTTI_ERR_NOMEM leaves the map as it was. */
tutti_status spans_set(struct spans *map, uint64_t begin, uint64_t end, uint64_t value);
/* Removes [begin, end), splitting entries at its edges. */
tutti_status spans_clear(struct spans *map, uint64_t begin, uint64_t end);

#endif
