/* table.c: every algorithm there is, by collective; within one, in the order that listings print.
 * To add one: declare it, name it. Nothing else in the library knows an algorithm by name. */
#include <string.h>

#include "algorithms/algorithm.h"

const struct algorithm *const algorithm_table[] = {
    NULL,
};

const struct algorithm *algorithm_find(tutti_coll coll, const char *name)
{
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        if ((*at)->coll == coll && strcmp((*at)->name, name) == 0)
            return *at;
    }
    return NULL;
}

double cost_us(const struct shape *shape, const struct cost *cost)
{
    double us =
        cost->reduce_bytes * shape->reduce_us_per_byte + cost->copy_bytes * shape->copy_us_per_byte;
    for (int level = 0; level < LEVEL_COUNT; level++)
        us += cost->rounds[level] * shape->model[level].alpha_us +
              cost->bytes[level] * shape->model[level].us_per_byte;
    return us;
}
