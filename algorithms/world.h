/* world.h: all ranks of one call at once: their shapes and their programs. What verify.h proves,
 * what the tests and coll_plan look at. Pure; a running library never makes one. */
#ifndef ALGORITHMS_WORLD_H
#define ALGORITHMS_WORLD_H

#include "algorithms/algorithm.h"

enum placing { PLACING_APART, PLACING_IN_PLACE, PLACING_MIXED, PLACING_COUNT };

/* One call, as all ranks together see it. */
struct trial {
    tutti_coll coll;
    const struct groups *groups; /* borrowed by the world; its size is the number of ranks */
    uint32_t root;
    uint64_t count; /* elements; v forms: each count is random, zero or up to twice this ... */
    bool equal;     /* ... or this exactly */
    uint32_t elem_size;
    enum placing placing; /* MIXED: every other rank in place */
    bool scattered;       /* v forms: blocks in another order than ranks, with gaps */
    uint64_t seed;        /* for counts and displacements */
    struct link_model model[LEVEL_COUNT];
    double reduce_us_per_byte, copy_us_per_byte;
};

/* A trial of that collective with a plausible link model, everything else 0. */
struct trial world_trial(tutti_coll coll, const struct groups *groups);

struct world {
    uint32_t size;
    struct shape *shapes;       /* [size] */
    struct schedule **programs; /* [size], NULL until world_emit */
    uint64_t *numbers;          /* counts and displacements that the shapes point to */
};

tutti_status world_make(const struct trial *trial, struct world *world);
/* Emits every rank's program; checks that `fits` and `cost` give one answer on all ranks.
 * TUTTI_ERR_UNSUPPORTED if the algorithm does not fit. */
tutti_status world_emit(struct world *world, const struct algorithm *algorithm,
                        const struct knobs *knobs);
void world_free(struct world *world);
/* One rank's program. TUTTI_ERR_UNSUPPORTED if the algorithm does not fit. */
tutti_status world_emit_one(const struct shape *shape, const struct algorithm *algorithm,
                            const struct knobs *knobs, struct schedule **schedule);

#endif
