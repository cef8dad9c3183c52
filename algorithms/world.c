/* world.c: see world.h. Counts of the v forms are drawn from a hash of (seed, from, to), so that
 * both ends of a pair agree without a table; what a leaf may not know (the other leaves' counts of
 * a gatherv) is filled with nonsense, so that an emitter which reads it fails its proof. */
#include "algorithms/world.h"

#include <stdlib.h>
#include <string.h>

#define NONSENSE 0x5eed5eedu /* elements: no buffer of a proof is as long */

struct trial world_trial(tutti_coll coll, const struct groups *groups)
{
    struct trial trial = {.coll = coll,
                          .groups = groups,
                          .elem_size = 1,
                          .reduce_us_per_byte = 1e-4,
                          .copy_us_per_byte = 5e-5};
    trial.model[LEVEL_NODE] = (struct link_model){.alpha_us = 0.5, .us_per_byte = 1e-4};
    trial.model[LEVEL_NET] = (struct link_model){.alpha_us = 10, .us_per_byte = 8e-4};
    return trial;
}

/* splitmix64's finisher over three numbers. */
static uint64_t mix(uint64_t seed, uint64_t a, uint64_t b)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (a + 1) + 0xd1b54a32d192ed03u * (b + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t count_between(const struct trial *trial, uint32_t from, uint32_t to)
{
    uint64_t draw = mix(trial->seed, from, to);
    if (trial->equal)
        return trial->count;
    return draw % 4 == 0 ? 0 : (draw >> 8) % (2 * trial->count + 1);
}

/* Places blocks one after the other; scattered: from the last to the first, up to 3 elements
 * between them. */
static void lay_out(const struct trial *trial, uint32_t who, const uint64_t *counts,
                    uint64_t *displs)
{
    uint32_t size = trial->groups->size;
    uint64_t at = 0;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t r = trial->scattered ? size - 1 - i : i;
        at += trial->scattered ? mix(trial->seed, who, r + size) % 4 : 0;
        displs[r] = at;
        at += counts[r];
    }
}

/* allgatherv, reduce_scatterv: counts that all ranks share. Scattered, half of an allgatherv's
 * ranks have the blocks back to back. */
static void share_counts(const struct trial *trial, struct world *world)
{
    uint64_t *counts = world->numbers, *displs = counts + world->size;
    for (uint32_t r = 0; r < world->size; r++)
        counts[r] = count_between(trial, r, r);
    for (uint32_t r = 0; r < world->size; r++, displs += world->size) {
        struct trial layout = *trial;
        layout.scattered = trial->scattered && trial->coll == TUTTI_COLL_ALLGATHERV &&
                           mix(trial->seed, r, world->size) % 2;
        lay_out(&layout, r, counts, displs);
        world->shapes[r].counts = counts;
        world->shapes[r].displs = displs;
    }
}

/* gatherv, scatterv: a list that the root knows, of which a leaf knows its own count. */
static void root_counts(const struct trial *trial, struct world *world)
{
    uint64_t *counts = world->numbers, *displs = counts + world->size;
    uint64_t *own = displs + world->size, *nonsense = own + (size_t)world->size * world->size;
    for (uint32_t r = 0; r < world->size; r++) {
        counts[r] = count_between(trial, r, r);
        nonsense[r] = NONSENSE;
    }
    lay_out(trial, 0, counts, displs);
    for (uint32_t r = 0; r < world->size; r++, own += world->size) {
        for (uint32_t i = 0; i < world->size; i++)
            own[i] = i == r ? counts[r] : NONSENSE;
        world->shapes[r].counts = r == trial->root ? counts : own;
        world->shapes[r].displs = r == trial->root ? displs : nonsense;
    }
}

/* alltoallv: a row and a column of a matrix. */
static void pair_counts(const struct trial *trial, struct world *world)
{
    uint64_t *at = world->numbers;
    for (uint32_t r = 0; r < world->size; r++, at += 4 * (size_t)world->size) {
        struct shape *shape = &world->shapes[r];
        uint64_t *counts = at, *displs = counts + world->size;
        uint64_t *recv_counts = displs + world->size, *recv_displs = recv_counts + world->size;
        for (uint32_t i = 0; i < world->size; i++) {
            counts[i] = count_between(trial, r, i);
            recv_counts[i] = count_between(trial, i, r);
        }
        lay_out(trial, r, counts, displs);
        lay_out(trial, r + world->size, recv_counts, recv_displs);
        shape->counts = counts;
        shape->displs = displs;
        shape->recv_counts = recv_counts;
        shape->recv_displs = recv_displs;
    }
}

static size_t numbers_needed(tutti_coll coll, size_t size)
{
    if (!coll_info(coll)->is_v)
        return 0;
    if (coll == TUTTI_COLL_ALLTOALLV)
        return 4 * size * size;
    bool root = coll_info(coll)->has_root;
    return root ? 3 * size + size * size : size + size * size;
}

tutti_status world_make(const struct trial *trial, struct world *world)
{
    const struct coll_info *info = coll_info(trial->coll);
    size_t size = trial->groups->size, numbers = numbers_needed(trial->coll, size);
    bool local = info->is_v && (info->has_root || trial->coll == TUTTI_COLL_ALLTOALLV);
    struct world made = {.size = (uint32_t)size,
                         .shapes = calloc(size, sizeof *made.shapes),
                         .programs = calloc(size, sizeof *made.programs),
                         .numbers = calloc(numbers + 1, sizeof *made.numbers)};
    if (!made.shapes || !made.programs || !made.numbers) {
        world_free(&made);
        return fail(TUTTI_ERR_NOMEM, "no memory for a world of %zu ranks", size);
    }
    for (uint32_t r = 0; r < size; r++) {
        made.shapes[r] = (struct shape){
            .coll = trial->coll,
            .rank = r,
            .size = (uint32_t)size,
            .root = info->has_root ? trial->root : 0,
            .count = info->is_v ? 0 : trial->count,
            .elem_size = trial->elem_size,
            .in_place = trial->placing == PLACING_IN_PLACE ||
                        (trial->placing == PLACING_MIXED && (r + trial->seed) % 2 == 0),
            .local_counts = local,
            .groups = trial->groups,
            .reduce_us_per_byte = trial->reduce_us_per_byte,
            .copy_us_per_byte = trial->copy_us_per_byte,
        };
        memcpy(made.shapes[r].model, trial->model, sizeof trial->model);
    }
    if (trial->coll == TUTTI_COLL_ALLTOALLV)
        pair_counts(trial, &made);
    else if (local)
        root_counts(trial, &made);
    else if (info->is_v)
        share_counts(trial, &made);
    *world = made;
    return TUTTI_OK;
}

tutti_status world_emit_one(const struct shape *shape, const struct algorithm *algorithm,
                            const struct knobs *knobs, struct schedule **schedule)
{
    struct builder *builder;
    if (!algorithm->fits(shape))
        return fail(TUTTI_ERR_UNSUPPORTED, "%s:%s does not fit %u ranks on %u node(s)",
                    coll_name(shape->coll), algorithm->name, shape->size, shape->groups->nodes);
    tutti_status status = builder_new(shape, &builder);
    if (status != TUTTI_OK)
        return status;
    algorithm->emit(shape, knobs, builder);
    return builder_finish(builder, schedule);
}

tutti_status world_emit(struct world *world, const struct algorithm *algorithm,
                        const struct knobs *knobs)
{
    struct cost first = {0};
    bool fits = algorithm->fits(&world->shapes[0]);
    for (uint32_t r = 0; r < world->size; r++) {
        const struct shape *shape = &world->shapes[r];
        if (algorithm->fits(shape) != fits)
            return fail(TUTTI_ERR_INTERNAL, "%s:%s fits at one of ranks 0 and %u only",
                        coll_name(shape->coll), algorithm->name, r);
        tutti_status status = world_emit_one(shape, algorithm, knobs, &world->programs[r]);
        if (status != TUTTI_OK)
            return status;
        struct cost cost = {0};
        algorithm->cost(shape, knobs, &cost);
        if (r == 0)
            first = cost;
        if (memcmp(&first, &cost, sizeof cost) != 0) /* doubles, without padding */
            return fail(TUTTI_ERR_INTERNAL, "%s:%s costs different things at ranks 0 and %u",
                        coll_name(shape->coll), algorithm->name, r);
    }
    return TUTTI_OK;
}

void world_free(struct world *world)
{
    for (uint32_t r = 0; world->programs && r < world->size; r++)
        schedule_free(world->programs[r]);
    free(world->shapes);
    free(world->programs);
    free(world->numbers);
    *world = (struct world){0};
}
