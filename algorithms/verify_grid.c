/* verify_grid.c: the grid of calls that every algorithm is proved for. See verify_grid.h. */
#include "algorithms/verify_grid.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define GRID_SMALL 17 /* ranks up to which every count is tried with every placement */

const uint32_t verify_ranks[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                 12, 13, 14, 15, 16, 17, 31, 32, 33, 48, 64};
const uint32_t verify_rank_count = sizeof verify_ranks / sizeof *verify_ranks;

/* ---- placements --------------------------------------------------------------------------------
 */

enum placement {
    ONE_NODE,
    ONE_RANK_PER_NODE,
    FEW_NODES,  /* uniform; the smallest number of nodes that divides size */
    MANY_NODES, /* uniform; the smallest number of ranks per node that does */
    UNEQUAL,    /* nodes of 1, 2, 3, ... ranks */
    DEALT,      /* ranks dealt to three nodes in turn */
    PLACEMENTS
};

static uint32_t smallest_divisor(uint32_t n)
{
    for (uint32_t d = 2; d < n; d++) {
        if (n % d == 0)
            return d;
    }
    return 0; /* a prime */
}

static bool exists(uint32_t size, uint32_t i)
{
    uint32_t divisor = smallest_divisor(size);
    switch ((enum placement)i) {
    case ONE_NODE:
        return true;
    case ONE_RANK_PER_NODE:
        return size > 1;
    case FEW_NODES:
        return divisor != 0;
    case MANY_NODES:
        return divisor != 0 && divisor != size / divisor;
    case UNEQUAL:
        return size > 2;
    case DEALT:
        return size > 3;
    case PLACEMENTS:
        break;
    }
    return false;
}

uint32_t verify_placements(uint32_t size)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PLACEMENTS; i++)
        count += exists(size, i);
    return count;
}

static uint32_t node_id(enum placement placement, uint32_t size, uint32_t rank)
{
    uint32_t divisor = smallest_divisor(size), node = 0;
    switch (placement) {
    case ONE_RANK_PER_NODE:
        return rank;
    case FEW_NODES:
        return rank / (size / divisor);
    case MANY_NODES:
        return rank / divisor;
    case UNEQUAL:
        for (uint32_t left = rank; left > node; left -= ++node)
            ;
        return node;
    case DEALT:
        return rank % 3;
    default:
        return 0;
    }
}

tutti_status verify_placement(uint32_t size, uint32_t i, struct groups *groups)
{
    uint32_t placement = 0;
    for (;; placement++) {
        must(placement < PLACEMENTS);
        if (exists(size, placement) && i-- == 0)
            break;
    }
    uint32_t *ids = malloc(size * sizeof *ids);
    if (!ids)
        return fail(TUTTI_ERR_NOMEM, "no memory for the nodes of %u ranks", size);
    for (uint32_t r = 0; r < size; r++)
        ids[r] = node_id((enum placement)placement, size, r);
    tutti_status status = groups_make(size, ids, groups);
    free(ids);
    return status;
}

/* ---- counts and variants -----------------------------------------------------------------------
 */

uint64_t verify_count(uint32_t size, uint32_t i)
{
    /* Large: even a block is more than two lanes are worth using for; no rank count divides it. */
    const uint64_t counts[VERIFY_COUNTS] = {0,    1,        size - 1,
                                            size, size + 1, 40009 * (uint64_t)size + 5};
    must(i < VERIFY_COUNTS);
    return counts[i];
}

/* One piece; several pieces of the largest buffer's share of a rank; the same on two lanes. */
static void choose_knobs(const struct trial *trial, uint32_t i, struct knobs *knobs)
{
    uint32_t size = trial->groups->size;
    uint64_t bytes = trial->count * trial->elem_size;
    bool whole = trial->coll == TUTTI_COLL_ALLREDUCE || trial->coll == TUTTI_COLL_BROADCAST ||
                 trial->coll == TUTTI_COLL_REDUCE;
    uint32_t pieces = whole ? (size <= 8 ? 3 * size : 7) : (size <= 8 ? 3 : 2);
    *knobs = (struct knobs){.chunk_bytes = (uint64_t)1 << 40, .lanes = 1 + (i == 2)};
    if (i > 0)
        knobs->chunk_bytes = bytes / pieces + trial->elem_size;
}

void verify_variant(struct trial *trial, uint32_t i, struct knobs *knobs)
{
    static const uint32_t elem_sizes[] = {4, 1, 8, 2};
    uint32_t size = trial->groups->size;
    must(i < VERIFY_VARIANTS);
    trial->placing = (enum placing)(i % PLACING_COUNT);
    i /= PLACING_COUNT;
    const uint32_t roots[] = {0, size - 1, size / 2};
    trial->root = roots[i % 3];
    i /= 3;
    trial->elem_size = elem_sizes[i % 4];
    trial->scattered = i % 4 < 2;
    trial->equal = i % 4 == 1 || i % 4 == 2;
    i /= 4;
    choose_knobs(trial, i % 3, knobs);
}

size_t verify_describe(const struct trial *trial, const struct knobs *knobs, char *text, size_t len)
{
    static const char *const placings[] = {"out of place", "in place", "some ranks in place"};
    const struct groups *groups = trial->groups;
    char shape[64] = "one node";
    if (groups->nodes > 1 && groups->uniform)
        snprintf(shape, sizeof shape, "%u nodes of %u", groups->nodes,
                 groups->size / groups->nodes);
    else if (groups->nodes > 1)
        snprintf(shape, sizeof shape, "%u unequal nodes", groups->nodes);
    return (size_t)snprintf(
        text, len, "%u ranks on %s, count %llu x %u bytes, root %u, %s%s, chunk %llu, lanes %u",
        groups->size, shape, (unsigned long long)trial->count, trial->elem_size, trial->root,
        placings[trial->placing],
        !coll_info(trial->coll)->is_v      ? ""
        : trial->scattered && trial->equal ? ", equal, scattered"
        : trial->scattered                 ? ", scattered"
        : trial->equal                     ? ", equal"
                                           : "",
        (unsigned long long)knobs->chunk_bytes, knobs->lanes);
}

/* ---- proving -----------------------------------------------------------------------------------
 */

struct cell {
    const struct algorithm *algorithm;
    const struct groups *groups;
    uint64_t effort, seed;
    struct grid_sum *sum;
    uint64_t spent; /* steps */
};

static tutti_status prove(struct cell *cell, const struct trial *trial, const struct knobs *knobs)
{
    struct world world;
    tutti_status status = world_make(trial, &world);
    if (status != TUTTI_OK)
        return status;
    struct proof proof;
    status = world_emit(&world, cell->algorithm, knobs);
    if (status == TUTTI_OK)
        status = verify_world(&world, trial->seed, &proof);
    if (status == TUTTI_OK)
        status = verify_cost(&world, cell->algorithm, knobs, &proof);
    if (status == TUTTI_OK) {
        cell->sum->plans++;
        cell->sum->steps += proof.steps;
        cell->sum->messages += proof.messages;
        cell->spent += proof.steps + world.size; /* an empty program takes time too */
        for (uint32_t r = 0; r < world.size; r++) {
            if (world.programs[r]->step_count > cell->sum->largest)
                cell->sum->largest = world.programs[r]->step_count;
        }
    }
    world_free(&world);
    return status;
}

static tutti_status explain(const struct cell *cell, const struct trial *trial,
                            const struct knobs *knobs, tutti_status status)
{
    char call[GRID_SENTENCE_MAX], why[SENTENCE_MAX];
    verify_describe(trial, knobs, call, sizeof call);
    snprintf(why, sizeof why, "%s", status_sentence());
    return fail(status, "%s:%s, %s, seed %llu: %s", coll_name(cell->algorithm->coll),
                cell->algorithm->name, call, (unsigned long long)trial->seed, why);
}

/* Counts in turn, variants from a walk that meets each once (the steps are coprime to their
 * number), until the effort is spent. In small worlds every count gets a variant at least; in large
 * ones the counts are shared out over the placements. */
static tutti_status prove_cell(struct cell *cell)
{
    uint32_t size = cell->groups->size, first = (uint32_t)(cell->seed % VERIFY_COUNTS);
    uint32_t walk = (uint32_t)(cell->seed % VERIFY_VARIANTS);
    uint32_t least = size <= GRID_SMALL ? VERIFY_COUNTS : VERIFY_COUNTS / 3;
    for (uint32_t i = 0; i < VERIFY_COUNTS * VERIFY_VARIANTS; i++) {
        if (i >= least && cell->effort > 0 && cell->spent >= cell->effort)
            break;
        struct trial trial = world_trial(cell->algorithm->coll, cell->groups);
        struct knobs knobs;
        trial.count = verify_count(size, (first + i) % VERIFY_COUNTS);
        trial.seed = cell->seed + i;
        if (i % VERIFY_COUNTS == 0)
            walk = (walk + 41) % VERIFY_VARIANTS;
        verify_variant(&trial, (walk + i % VERIFY_COUNTS * 5) % VERIFY_VARIANTS, &knobs);
        tutti_status status = prove(cell, &trial, &knobs);
        if (status == TUTTI_ERR_UNSUPPORTED && i == 0) {
            cell->sum->unfit++;
            return TUTTI_OK;
        }
        if (status != TUTTI_OK)
            return explain(cell, &trial, &knobs, status);
    }
    cell->sum->shapes++;
    return TUTTI_OK;
}

tutti_status verify_algorithm(const struct algorithm *algorithm, const struct grid *grid,
                              struct grid_sum *sum)
{
    const uint32_t *ranks = grid->ranks ? grid->ranks : verify_ranks;
    uint32_t rank_count = grid->ranks ? grid->rank_count : verify_rank_count;
    struct cell cell = {
        .algorithm = algorithm, .groups = grid->groups, .effort = grid->effort, .sum = sum};
    if (grid->groups) {
        cell.seed = grid->seed;
        return prove_cell(&cell);
    }
    for (uint32_t i = 0; i < rank_count; i++) {
        for (uint32_t p = 0; p < verify_placements(ranks[i]); p++) {
            struct groups groups;
            tutti_status status = verify_placement(ranks[i], p, &groups);
            if (status != TUTTI_OK)
                return status;
            cell.groups = &groups;
            cell.spent = 0;
            cell.seed = grid->seed + 1000003 * (uint64_t)ranks[i] + 2 * p;
            status = prove_cell(&cell);
            groups_free(&groups);
            if (status != TUTTI_OK)
                return status;
        }
    }
    return TUTTI_OK;
}
