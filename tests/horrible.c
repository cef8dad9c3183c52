/* horrible.c: see horrible.h. Deliberately free of everything that algorithms/coll.c knows. */
#include "tests/horrible.h"

#include <string.h>

static uint64_t load(const unsigned char *at, uint32_t elem_size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < elem_size; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static void store(unsigned char *at, uint32_t elem_size, uint64_t value)
{
    for (uint32_t i = 0; i < elem_size; i++)
        at[i] = (unsigned char)(value >> 8 * i);
}

/* to[0 .. count) = sum over ranks of in[rank][from .. from + count), in elements. */
static void sum(const struct shape *shape, unsigned char *const *in, uint64_t from, uint64_t count,
                unsigned char *to)
{
    uint32_t size = shape->elem_size;
    for (uint64_t e = 0; e < count; e++) {
        uint64_t total = 0;
        for (uint32_t r = 0; r < shape->size; r++)
            total += load(in[r] + (from + e) * size, size);
        store(to + e * size, size, total);
    }
}

/* count elements from `from` at element `at` to `to` at element `place`. */
static void copy(uint32_t elem_size, unsigned char *to, uint64_t place, const unsigned char *from,
                 uint64_t at, uint64_t count)
{
    if (count > 0)
        memcpy(to + place * elem_size, from + at * elem_size, count * elem_size);
}

static void one_rank(const struct shape *shapes, uint32_t me, unsigned char *const *in,
                     unsigned char *to)
{
    const struct shape *s = &shapes[me], *root = &shapes[s->root];
    uint32_t e = s->elem_size;
    uint64_t n = s->count;
    for (uint32_t r = 0; r < s->size; r++) {
        switch (s->coll) {
        case TUTTI_COLL_ALLGATHER:
            copy(e, to, r * n, in[r], 0, n);
            break;
        case TUTTI_COLL_ALLGATHERV:
            copy(e, to, s->displs[r], in[r], 0, s->counts[r]);
            break;
        case TUTTI_COLL_GATHER:
            if (me == s->root)
                copy(e, to, r * n, in[r], 0, n);
            break;
        case TUTTI_COLL_GATHERV:
            if (me == s->root)
                copy(e, to, s->displs[r], in[r], 0, s->counts[r]);
            break;
        case TUTTI_COLL_ALLTOALL:
            copy(e, to, r * n, in[r], me * n, n);
            break;
        case TUTTI_COLL_ALLTOALLV:
            copy(e, to, s->recv_displs[r], in[r], shapes[r].displs[me], shapes[r].counts[me]);
            break;
        default:
            break;
        }
    }
    switch (s->coll) {
    case TUTTI_COLL_ALLREDUCE:
        sum(s, in, 0, n, to);
        break;
    case TUTTI_COLL_REDUCE:
        if (me == s->root)
            sum(s, in, 0, n, to);
        break;
    case TUTTI_COLL_REDUCE_SCATTER:
        sum(s, in, me * n, n, to);
        break;
    case TUTTI_COLL_REDUCE_SCATTERV:
        sum(s, in, s->displs[me], s->counts[me], to);
        break;
    case TUTTI_COLL_BROADCAST:
        copy(e, to, 0, in[s->root], 0, n);
        break;
    case TUTTI_COLL_SCATTER:
        copy(e, to, 0, in[s->root], me * n, n);
        break;
    case TUTTI_COLL_SCATTERV:
        copy(e, to, 0, in[s->root], root->displs[me], root->counts[me]);
        break;
    default:
        break;
    }
}

void horrible_collective(const struct shape *shapes, unsigned char *const *in,
                         unsigned char *const *out)
{
    for (uint32_t r = 0; r < shapes->size; r++)
        one_rank(shapes, r, in, out[r]);
}
