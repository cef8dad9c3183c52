/* spans.c: a sorted array of disjoint intervals.
 * The idea: both users (hazards of a plan, registered ranges) look up far more often than they
 * change, and change near the end; a sorted array with binary search beats a tree until tens of
 * thousands of entries, and iteration is a pointer increment.
 * Invariant: entries[i].begin < entries[i].end <= entries[i + 1].begin.
 * A change computes the pieces that survive at both edges first, grows the array if it must, and
 * only then moves anything: out of memory leaves the map as it was. */
#include "base/spans.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

void spans_init(struct spans *map)
{
    *map = (struct spans){0};
}

void spans_free(struct spans *map)
{
    free(map->entries);
    spans_init(map);
}

size_t spans_find(const struct spans *map, uint64_t begin)
{
    size_t low = 0, high = map->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (map->entries[middle].end > begin)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static tutti_status grow(struct spans *map, size_t needed)
{
    if (needed <= map->capacity)
        return TUTTI_OK;
    size_t capacity = map->capacity ? map->capacity : 8;
    while (capacity < needed)
        capacity *= 2;
    struct span_entry *entries = capacity > SIZE_MAX / sizeof *entries
                                     ? NULL
                                     : realloc(map->entries, capacity * sizeof *entries);
    if (!entries)
        return fail(TUTTI_ERR_NOMEM, "no memory for a map of %zu spans", capacity);
    map->entries = entries;
    map->capacity = capacity;
    return TUTTI_OK;
}

/* Puts the count pieces (at most 3: left remainder, new entry, right remainder) in the place of
 * entries [first, last). */
static tutti_status replace(struct spans *map, size_t first, size_t last,
                            const struct span_entry *pieces, size_t count)
{
    tutti_status status = grow(map, map->count - (last - first) + count);
    if (status != TUTTI_OK)
        return status;
    if (map->count > last && last != first + count)
        memmove(map->entries + first + count, map->entries + last,
                (map->count - last) * sizeof *map->entries);
    if (count > 0)
        memcpy(map->entries + first, pieces, count * sizeof *pieces);
    map->count = map->count - (last - first) + count;
    return TUTTI_OK;
}

/* Cuts [begin, end) out of the map; middle, if not NULL, takes its place. */
static tutti_status cut(struct spans *map, uint64_t begin, uint64_t end,
                        const struct span_entry *middle)
{
    size_t first = spans_find(map, begin), last = first;
    while (last < map->count && map->entries[last].begin < end)
        last++;
    struct span_entry pieces[3];
    size_t count = 0;
    if (first < last && map->entries[first].begin < begin) {
        pieces[count] = map->entries[first];
        pieces[count++].end = begin;
    }
    if (middle)
        pieces[count++] = *middle;
    if (first < last && map->entries[last - 1].end > end) {
        pieces[count] = map->entries[last - 1];
        pieces[count++].begin = end;
    }
    return replace(map, first, last, pieces, count);
}

tutti_status spans_set(struct spans *map, uint64_t begin, uint64_t end, uint64_t value)
{
    must(begin <= end);
    if (begin == end)
        return TUTTI_OK;
    struct span_entry entry = {.begin = begin, .end = end, .value = value};
    return cut(map, begin, end, &entry);
}

tutti_status spans_clear(struct spans *map, uint64_t begin, uint64_t end)
{
    must(begin <= end);
    return begin == end ? TUTTI_OK : cut(map, begin, end, NULL);
}
