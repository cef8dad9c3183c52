/* test_algorithms.c: every algorithm of the table is proved over the grid of verify_grid.h, and
 * tried on bytes, and every collective has an algorithm at every rank count. TUTTI_TEST_FAST=1
 * takes fewer. */
#include <stdio.h>
#include <stdlib.h>

#include "algorithms/costs.h"
#include "algorithms/phases.h"
#include "algorithms/verify_grid.h"
#include "tests/sim.h"
#include "tests/suite.h"

static void test_algorithms_prove_over_the_grid(void)
{
    static const uint32_t few[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 33};
    struct grid grid = {.effort = 5000, .seed = suite_seed()};
    const char *fast = getenv("TUTTI_TEST_FAST");
    if (fast && *fast == '1')
        grid = (struct grid){.ranks = few,
                             .rank_count = sizeof few / sizeof *few,
                             .effort = 500,
                             .seed = suite_seed()};
    struct grid_sum sum = {0};
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        tutti_status status = verify_algorithm(*at, &grid, &sum);
        CU_ASSERT_EQUAL(status, TUTTI_OK);
        if (status != TUTTI_OK)
            printf("\n    %s\n", status_sentence());
    }
    printf("\n    %llu plans, %llu steps, %llu messages proved; largest program %u steps\n",
           (unsigned long long)sum.plans, (unsigned long long)sum.steps,
           (unsigned long long)sum.messages, sum.largest);
}

/* Where a rail has more hosts than its part has elements the rank that sends the longer blocks must
 * not be the same in every round. */
static void test_algorithms_prove_many_small_hosts(void)
{
    struct groups groups;
    struct grid grid = {.groups = &groups, .effort = 1};
    struct grid_sum sum = {0};
    CU_ASSERT_EQUAL_FATAL(groups_make_uniform(256, 2, &groups), TUTTI_OK);
    for (grid.seed = 0; grid.seed < VERIFY_COUNTS; grid.seed++) {
        const struct algorithm *hier = algorithm_find(TUTTI_COLL_ALLREDUCE, "hier");
        tutti_status status = verify_algorithm(hier, &grid, &sum);
        CU_ASSERT_EQUAL(status, TUTTI_OK);
        if (status != TUTTI_OK)
            printf("\n    %s\n", status_sentence());
    }
    groups_free(&groups);
}

static void price_whole(const struct algorithm *algorithm, const struct groups *groups,
                        uint64_t count)
{
    struct trial trial = world_trial(algorithm->coll, groups);
    struct world world;
    trial.count = count;
    CU_ASSERT_EQUAL_FATAL(world_make(&trial, &world), TUTTI_OK);
    const struct shape *shape = &world.shapes[0];
    uint64_t total = shape->local_counts ? 0 : coll_total_bytes(shape);
    double whole = -1;
    for (uint64_t chunk = 1u << 30; chunk >= total && algorithm->fits(shape); chunk /= 2) {
        struct knobs knobs = {.chunk_bytes = chunk, .lanes = 1};
        struct cost cost = {0};
        algorithm->cost(shape, &knobs, &cost);
        whole = whole < 0 ? cost_us(shape, &cost) : whole;
        CU_ASSERT_EQUAL(whole, cost_us(shape, &cost));
        if (chunk == 1)
            break;
    }
    world_free(&world);
}

/* The planner asks once for all chunks that are no shorter than the buffer. */
static void test_algorithms_cost_the_same_with_any_chunk_that_cuts_nothing(void)
{
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        for (uint32_t i = 0; i < verify_rank_count; i++) {
            for (uint32_t p = 0; p < verify_placements(verify_ranks[i]); p++) {
                struct groups groups;
                CU_ASSERT_EQUAL_FATAL(verify_placement(verify_ranks[i], p, &groups), TUTTI_OK);
                for (uint32_t c = 0; c < VERIFY_COUNTS; c++)
                    price_whole(*at, &groups, verify_count(verify_ranks[i], c));
                groups_free(&groups);
            }
        }
    }
}

/* Parts follow one another, and a run of them is as long as its share, to less than an element. */
static void test_algorithms_cut_evenly(void)
{
    uint64_t state = suite_seed();
    for (int trial = 0; trial < 1000; trial++) {
        uint32_t parts = 1 + (uint32_t)(suite_random(&state) % 70), elem = 1u << trial % 4;
        uint64_t elems = suite_random(&state) % (3 * parts), at = 0;
        for (uint32_t i = 0; i < parts; i++) {
            struct block part = cut_evenly(elems * elem, elem, parts, i);
            CU_ASSERT_EQUAL(part.off, at * elem);
            at += part.len / elem;
            CU_ASSERT_EQUAL(at, (elems * (i + 1) + parts - 1) / parts);
        }
        CU_ASSERT_EQUAL(at, elems);
    }
}

/* The proofs on symbols, tried on bytes: by another machine, against another definition. */
static void try_one(const struct algorithm *algorithm, const struct groups *groups, uint64_t *state)
{
    struct trial trial = world_trial(algorithm->coll, groups);
    struct knobs knobs;
    struct world world;
    trial.count = suite_random(state) % (4 * groups->size);
    verify_variant(&trial, (uint32_t)(suite_random(state) % VERIFY_VARIANTS), &knobs);
    trial.seed = suite_random(state);
    CU_ASSERT_EQUAL_FATAL(world_make(&trial, &world), TUTTI_OK);
    tutti_status status = world_emit(&world, algorithm, &knobs);
    for (uint32_t window = 0; window < 3 && status == TUTTI_OK; window++)
        status = sim_collective(&world, window, suite_random(state));
    if (status == TUTTI_OK && algorithm->coll == TUTTI_COLL_BARRIER)
        status = sim_barrier(&world);
    CU_ASSERT(status == TUTTI_OK || status == TUTTI_ERR_UNSUPPORTED);
    if (status != TUTTI_OK && status != TUTTI_ERR_UNSUPPORTED) {
        char call[GRID_SENTENCE_MAX];
        verify_describe(&trial, &knobs, call, sizeof call);
        printf("\n    %s:%s, %s: %s\n", coll_name(algorithm->coll), algorithm->name, call,
               status_sentence());
    }
    world_free(&world);
}

static void test_algorithms_agree_with_horrible_ones_on_real_bytes(void)
{
    uint64_t state = suite_seed();
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        for (uint32_t size = 1; size <= 9; size++) {
            for (uint32_t p = 0; p < verify_placements(size); p++) {
                struct groups groups;
                CU_ASSERT_EQUAL_FATAL(verify_placement(size, p, &groups), TUTTI_OK);
                for (int i = 0; i < 3; i++)
                    try_one(*at, &groups, &state);
                groups_free(&groups);
            }
        }
    }
}

/* Whatever the ranks and their placement, nobody is left without an algorithm. */
static void fits_one(tutti_coll coll, const struct groups *groups)
{
    for (uint32_t i = 0; i < VERIFY_COUNTS; i++) {
        struct trial trial = world_trial(coll, groups);
        struct world world;
        trial.count = verify_count(groups->size, i);
        CU_ASSERT_EQUAL_FATAL(world_make(&trial, &world), TUTTI_OK);
        bool fits = false;
        for (const struct algorithm *const *at = algorithm_table; *at && !fits; at++)
            fits = (*at)->coll == coll && (*at)->fits(&world.shapes[groups->size - 1]);
        if (!fits)
            printf("\n    no %s for %u ranks\n", coll_name(coll), groups->size);
        CU_ASSERT(fits);
        world_free(&world);
    }
}

static void test_algorithms_fit_every_collective_at_every_rank_count(void)
{
    static const uint32_t more[] = {100, 127, 255, 256, 1000};
    for (int coll = 0; coll < TUTTI_COLL_SENDRECV; coll++) {
        for (uint32_t i = 0; i < verify_rank_count + 5; i++) {
            uint32_t size = i < verify_rank_count ? verify_ranks[i] : more[i - verify_rank_count];
            if (size > 64 && coll_info((tutti_coll)coll)->is_v)
                continue; /* the counts of all pairs of 1,000 ranks */
            for (uint32_t p = 0; p < verify_placements(size); p++) {
                struct groups groups;
                CU_ASSERT_EQUAL_FATAL(verify_placement(size, p, &groups), TUTTI_OK);
                fits_one((tutti_coll)coll, &groups);
                groups_free(&groups);
            }
        }
    }
}

static void test_algorithms_have_unique_names_and_sources(void)
{
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        CU_ASSERT_PTR_EQUAL(algorithm_find((*at)->coll, (*at)->name), *at);
        CU_ASSERT(*(*at)->name && *(*at)->source);
    }
    CU_ASSERT_PTR_NULL(algorithm_find(TUTTI_COLL_ALLREDUCE, "no such"));
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"test_algorithms_have_unique_names_and_sources",
         test_algorithms_have_unique_names_and_sources},
        {"test_algorithms_fit_every_collective_at_every_rank_count",
         test_algorithms_fit_every_collective_at_every_rank_count},
        {"test_algorithms_agree_with_horrible_ones_on_real_bytes",
         test_algorithms_agree_with_horrible_ones_on_real_bytes},
        {"test_algorithms_cost_the_same_with_any_chunk_that_cuts_nothing",
         test_algorithms_cost_the_same_with_any_chunk_that_cuts_nothing},
        {"test_algorithms_cut_evenly", test_algorithms_cut_evenly},
        {"test_algorithms_prove_many_small_hosts", test_algorithms_prove_many_small_hosts},
        {"test_algorithms_prove_over_the_grid", test_algorithms_prove_over_the_grid},
    };
    return suite_run("algorithms", tests, sizeof tests / sizeof *tests, argc, argv);
}
