/* test_planner.c: the planner's rules, over a table of this file's own: algorithms with costs that
 * are known by heart, so that every choice can be worked out on paper. What it chooses from the
 * library's own table is in test_topology.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/planner.h"
#include "tests/suite.h"

/* ---- the table ------------------------------------------------------------------------------- */

static bool fits_always(const struct shape *shape)
{
    return true;
}

static bool fits_several_hosts(const struct shape *shape)
{
    return shape->groups->nodes > 1;
}

/* Everything to everyone at once: one round, n - 1 times the bytes. */
static void cost_direct(const struct shape *shape, const struct knobs *knobs, struct cost *cost)
{
    int level = shape->groups->nodes > 1 ? LEVEL_NET : LEVEL_NODE;
    double bytes = (double)(shape->count * shape->elem_size);
    cost->rounds[level] = 1;
    cost->bytes[level] = bytes * (shape->size - 1);
    cost->reduce_bytes = bytes * (shape->size - 1);
}

static void cost_ring(const struct shape *shape, const struct knobs *knobs, struct cost *cost)
{
    int level = shape->groups->nodes > 1 ? LEVEL_NET : LEVEL_NODE;
    double bytes = (double)(shape->count * shape->elem_size);
    cost->rounds[level] = 2.0 * (shape->size - 1);
    cost->bytes[level] = 2.0 * bytes * (shape->size - 1) / shape->size;
    cost->reduce_bytes = bytes * (shape->size - 1) / shape->size;
}

/* A chain in pieces: n - 1 + pieces rounds, each of one piece. */
static void cost_chain(const struct shape *shape, const struct knobs *knobs, struct cost *cost)
{
    int level = shape->groups->nodes > 1 ? LEVEL_NET : LEVEL_NODE;
    double bytes = (double)(shape->count * shape->elem_size);
    double piece = bytes < (double)knobs->chunk_bytes ? bytes : (double)knobs->chunk_bytes;
    double pieces = piece > 0 ? bytes / piece : 0;
    cost->rounds[level] = shape->size - 1 + pieces;
    cost->bytes[level] = bytes + (shape->size - 1) * piece;
}

/* Twice the rounds of the direct one, and the bytes for nothing. */
static void cost_overlap(const struct shape *shape, const struct knobs *knobs, struct cost *cost)
{
    cost_direct(shape, knobs, cost);
    cost->rounds[LEVEL_NODE] *= 2;
    cost->hidden_us = cost->bytes[LEVEL_NODE] * shape->model[LEVEL_NODE].us_per_byte;
}

/* One COPY per piece of a fixed share of the chunk, so that the number of steps is known. */
static void emit_pieces(const struct shape *shape, uint64_t piece, struct builder *builder)
{
    uint64_t total = shape->count * shape->elem_size;
    for (uint64_t off = 0; off < total; off += piece) {
        uint64_t len = total - off < piece ? total - off : piece;
        build_copy(builder, span_of(BUFFER_OUT, off, len), span_of(BUFFER_IN, off, len));
    }
}

static void emit_one(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    emit_pieces(shape, UINT64_MAX / 2, builder);
}

static void emit_chunks(const struct shape *shape, const struct knobs *knobs,
                        struct builder *builder)
{
    emit_pieces(shape, knobs->chunk_bytes, builder);
}

/* 64 steps a chunk: more than the planner's own bound allows for. */
static void emit_many(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    emit_pieces(shape, knobs->chunk_bytes / 64, builder);
}

#define ROW(variable, collective, label, fits_fn, cost_fn, emit_fn)                                \
    static const struct algorithm variable = {.coll = TUTTI_COLL_##collective,                     \
                                              .name = label,                                       \
                                              .source = "this test",                               \
                                              .fits = fits_fn,                                     \
                                              .cost = cost_fn,                                     \
                                              .emit = emit_fn}
ROW(allreduce_ring, ALLREDUCE, "ring", fits_always, cost_ring, emit_one);
ROW(allreduce_direct, ALLREDUCE, "direct", fits_always, cost_direct, emit_one);
ROW(allreduce_twin, ALLREDUCE, "twin", fits_always, cost_direct, emit_one);
ROW(allreduce_hosts, ALLREDUCE, "hosts", fits_several_hosts, cost_direct, emit_one);
ROW(broadcast_chain, BROADCAST, "chain", fits_always, cost_chain, emit_chunks);
ROW(reduce_many, REDUCE, "many", fits_always, cost_chain, emit_many);
ROW(alltoallv_only, ALLTOALLV, "only", fits_always, cost_chain, emit_one);
ROW(scatter_hosts, SCATTER, "hosts", fits_several_hosts, cost_direct, emit_one);
ROW(gather_direct, GATHER, "direct", fits_always, cost_direct, emit_one);
ROW(gather_overlap, GATHER, "overlap", fits_always, cost_overlap, emit_one);

const struct algorithm *const algorithm_table[] = {&allreduce_ring,
                                                   &allreduce_direct,
                                                   &allreduce_twin,
                                                   &allreduce_hosts,
                                                   &broadcast_chain,
                                                   &reduce_many,
                                                   &alltoallv_only,
                                                   &scatter_hosts,
                                                   &gather_direct,
                                                   &gather_overlap,
                                                   NULL};

const struct algorithm *algorithm_find(tutti_coll coll, const char *name)
{
    return NULL;
}

/* ---- helpers --------------------------------------------------------------------------------- */

static struct settings defaults(void)
{
    struct settings settings;
    settings_defaults(&settings);
    return settings;
}

/* float32 elements; NODE 1 us and 1 GB/s, NET 10 us and 1 GB/s, so numbers can be done by heart. */
static struct shape shape_of(tutti_coll coll, const struct groups *groups, uint64_t bytes)
{
    struct shape shape = {.coll = coll,
                          .size = groups->size,
                          .count = bytes / 4,
                          .elem_size = 4,
                          .groups = groups,
                          .reduce_us_per_byte = 1e-4,
                          .copy_us_per_byte = 1e-4};
    shape.model[LEVEL_NODE] = (struct link_model){.alpha_us = 1, .us_per_byte = 1e-3};
    shape.model[LEVEL_NET] = (struct link_model){.alpha_us = 10, .us_per_byte = 1e-3};
    return shape;
}

static struct groups hosts(uint32_t nodes, uint32_t per_node)
{
    struct groups groups;
    CU_ASSERT_EQUAL_FATAL(groups_make_uniform(nodes, per_node, &groups), TUTTI_OK);
    return groups;
}

static bool near(double a, double b)
{
    return a - b < 1e-6 * b && b - a < 1e-6 * b;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_planner_takes_the_cheapest_that_fits(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 8);
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    uint32_t count = 0;
    /* 8 bytes: one round beats fourteen */
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 8);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(count, 3); /* "hosts" does not fit one host */
    CU_ASSERT_PTR_EQUAL(list[0].algorithm, &allreduce_direct);
    CU_ASSERT_PTR_EQUAL(list[1].algorithm, &allreduce_twin); /* a tie: table order */
    CU_ASSERT_PTR_EQUAL(list[2].algorithm, &allreduce_ring);
    CU_ASSERT_TRUE(near(list[0].predicted_us, 1 + 56e-3 + 56e-4));
    /* 1 MiB: the ring moves a quarter of the bytes */
    shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 1 << 20);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(list[0].algorithm, &allreduce_ring);
    CU_ASSERT_TRUE(list[0].predicted_us < list[1].predicted_us);
    groups_free(&groups);
}

static void test_planner_finds_the_best_chunk(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 5);
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    uint32_t count = 0;
    /* T(c) = (4 + B/c) us + (B + 4 c) ns: least at c = sqrt(B * 1 us / 4 ns) = 64 KiB for this B */
    struct shape shape = shape_of(TUTTI_COLL_BROADCAST, &groups, 17179869);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(count, 1);
    CU_ASSERT_EQUAL(list[0].knobs.chunk_bytes, 64 << 10);
    CU_ASSERT_EQUAL(list[0].knobs.lanes, 1);
    /* no smaller than one chunk: the largest, for the fewest steps */
    shape = shape_of(TUTTI_COLL_BROADCAST, &groups, 1000);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(list[0].knobs.chunk_bytes, 4 << 20);
    settings.chunk = 12345;
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(list[0].knobs.chunk_bytes, 12345);
    groups_free(&groups);
}

static void test_planner_bounds_the_chunk_of_huge_calls(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 3);
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    uint32_t count = 0;
    for (uint64_t bytes = 1; bytes < UINT64_C(1) << 40; bytes *= 3) {
        struct shape shape = shape_of(TUTTI_COLL_BROADCAST, &groups, bytes);
        CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
        CU_ASSERT_TRUE(bytes / list[0].knobs.chunk_bytes <= SCHEDULE_STEPS_MAX / 32);
    }
    groups_free(&groups);
}

static void test_planner_ignores_what_only_one_rank_knows(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(2, 4);
    uint64_t state = suite_seed();
    struct plan_choice first[PLAN_CANDIDATES_MAX], list[PLAN_CANDIDATES_MAX];
    uint32_t first_count = 0, count = 0;
    static const tutti_coll colls[] = {TUTTI_COLL_ALLREDUCE, TUTTI_COLL_ALLTOALLV};
    for (int c = 0; c < 2; c++) {
        uint64_t bytes = suite_random(&state) % (64 << 20);
        for (uint32_t rank = 0; rank < 8; rank++) {
            uint64_t counts[8], displs[8] = {0};
            struct shape shape = shape_of(colls[c], &groups, c == 0 ? bytes : 0);
            shape.rank = rank;
            shape.in_place = rank % 2 == 0;
            shape.local_counts = c == 1;
            for (int i = 0; i < 8; i++)
                counts[i] = suite_random(&state) % (1 << 28);
            if (c == 1) {
                shape.counts = shape.recv_counts = counts;
                shape.displs = shape.recv_displs = displs;
            }
            CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
            if (rank == 0) {
                memcpy(first, list, sizeof first);
                first_count = count;
            }
            CU_ASSERT_EQUAL(count, first_count);
            for (uint32_t i = 0; i < count; i++) {
                CU_ASSERT_PTR_EQUAL(list[i].algorithm, first[i].algorithm);
                CU_ASSERT_EQUAL(list[i].knobs.chunk_bytes, first[i].knobs.chunk_bytes);
                CU_ASSERT_EQUAL(list[i].knobs.lanes, first[i].knobs.lanes);
            }
        }
    }
    groups_free(&groups);
}

static void test_planner_obeys_the_setting(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 8);
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 8);
    struct plan plan;
    snprintf(settings.algo, SETTING_TEXT_MAX, "broadcast:chain, allreduce:ring");
    CU_ASSERT_EQUAL(planner_check_setting(settings.algo), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &plan), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(plan.algorithm, &allreduce_ring);
    plan_free(&plan);
    snprintf(settings.algo, SETTING_TEXT_MAX, "broadcast:chain"); /* says nothing of this one */
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &plan), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(plan.algorithm, &allreduce_direct);
    plan_free(&plan);
    snprintf(settings.algo, SETTING_TEXT_MAX, "allreduce:hosts");
    CU_ASSERT_EQUAL(plan_make(&settings, &shape, &plan), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "does not fit 8 ranks on 1 host "));
    groups_free(&groups);
}

static void test_planner_refuses_wrong_settings(void)
{
    static const struct {
        const char *text, *part;
    } wrong[] = {
        {"allreduce", "\"allreduce\" is not collective:algorithm"},
        {"allreduce:", "\"allreduce:\" is not collective:algorithm"},
        {":ring", "\":ring\" is not collective:algorithm"},
        {"everything:ring", "\"everything:ring\" is not collective:algorithm"},
        {"allreduce:rin", "allreduce has no algorithm \"rin\"; it has: ring, direct, twin, hosts"},
        {"broadcast:chain,allreduce:ringo", "has no algorithm \"ringo\""},
        {"gather:ring", "gather has no algorithm \"ring\"; it has: "},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CU_ASSERT_EQUAL(planner_check_setting(wrong[i].text), TUTTI_ERR_SETTING);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), wrong[i].part));
        if (!strstr(status_sentence(), wrong[i].part))
            printf("    %s\n", status_sentence());
    }
    CU_ASSERT_EQUAL(planner_check_setting(""), TUTTI_OK);
    CU_ASSERT_EQUAL(planner_check_setting(",, ,"), TUTTI_OK);
}

static void test_planner_uses_lanes_where_the_network_is_fast(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(2, 2);
    struct plan_choice list[PLAN_CANDIDATES_MAX];
    uint32_t count;
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 16 << 20);
    CU_ASSERT_EQUAL(planner_lanes(&settings, 2, shape.model), 1); /* 1 GB/s: one stream does */
    shape.model[LEVEL_NET].us_per_byte = 1e-3 / 12.5;             /* 100 Gb/s */
    CU_ASSERT_EQUAL(planner_lanes(&settings, 1, shape.model), 1); /* one host: no network */
    CU_ASSERT_EQUAL(planner_lanes(&settings, 2, shape.model), 4);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(list[0].knobs.lanes, 4);
    shape.count = 100;
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(list[0].knobs.lanes, 1);
    settings.lanes = 3;
    CU_ASSERT_EQUAL(planner_lanes(&settings, 2, shape.model), 3);
    CU_ASSERT_EQUAL(planner_candidates(&settings, &shape, list, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(list[0].knobs.lanes, 3);
    settings.lanes = 8; /* one lane of the transports' eight is the communicator's own */
    CU_ASSERT_EQUAL(planner_lanes(&settings, 2, shape.model), 7);
    groups_free(&groups);
}

static void test_planner_makes_plans(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 3);
    struct plan plan, other;
    struct shape shape = shape_of(TUTTI_COLL_BROADCAST, &groups, 1 << 20);
    settings.chunk = 64 << 10;
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &plan), TUTTI_OK);
    CU_ASSERT_EQUAL(plan.schedule->step_count, 16);
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &other), TUTTI_OK);
    CU_ASSERT_EQUAL(plan.hash, other.hash);
    plan_free(&other);
    settings.chunk = 128 << 10;
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &other), TUTTI_OK);
    CU_ASSERT_NOT_EQUAL(plan.hash, other.hash);
    plan_free(&other);
    plan_free(&plan);
    groups_free(&groups);
}

static void test_planner_doubles_the_chunk_of_a_plan_that_is_too_long(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 3);
    struct plan plan;
    /* in chunks of 16 KiB, 64 steps each, four times too many */
    uint64_t bytes = UINT64_C(4) * SCHEDULE_STEPS_MAX / 64 * (16 << 10);
    struct shape shape = shape_of(TUTTI_COLL_REDUCE, &groups, bytes);
    settings.chunk = 16 << 10;
    CU_ASSERT_EQUAL_FATAL(plan_make(&settings, &shape, &plan), TUTTI_OK);
    CU_ASSERT_EQUAL(plan.knobs.chunk_bytes, 64 << 10);
    CU_ASSERT_EQUAL(plan.schedule->step_count, SCHEDULE_STEPS_MAX);
    plan_free(&plan);
    groups_free(&groups);
}

static void test_planner_says_when_nothing_fits(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 3);
    struct shape shape = shape_of(TUTTI_COLL_SCATTER, &groups, 64);
    struct plan plan;
    CU_ASSERT_EQUAL(plan_make(&settings, &shape, &plan), TUTTI_ERR_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "no algorithm for scatter fits 3 ranks"));
    groups_free(&groups);
}

static void test_planner_explains_itself(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 8);
    char text[2048], small[40];
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 8);
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "allreduce, 8 ranks on 1 host, 8 bytes\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "* direct"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "as cheap as twin"));
    shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 1 << 20);
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "ring is first: less time for bytes inside hosts"));
    snprintf(settings.algo, SETTING_TEXT_MAX, "allreduce:twin");
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "twin is taken because TUTTI_ALGO says so"));
    snprintf(settings.algo, SETTING_TEXT_MAX, "allreduce:none");
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "no plan: TUTTI_ALGO=allreduce:none"));
    settings.algo[0] = 0;
    memset(small, 'x', sizeof small);
    planner_explain(&settings, &shape, small, sizeof small);
    CU_ASSERT_EQUAL(strlen(small), sizeof small - 1);
    planner_explain(&settings, &shape, small, 1);
    CU_ASSERT_EQUAL(small[0], 0);
    planner_explain(&settings, &shape, NULL, 0);
    shape = shape_of(TUTTI_COLL_GATHER, &groups, 1 << 20);
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text,
                                  "overlap is first: more goes on at the same time (7340.03 us; "
                                  "direct has 0.00)"));
    groups_free(&groups);
    /* What decided is said: one stream does 3 GB/s, however fast the network. */
    groups = hosts(2, 4);
    shape = shape_of(TUTTI_COLL_ALLREDUCE, &groups, 512 << 10);
    shape.model[LEVEL_NET].us_per_byte = 1e-5;
    planner_explain(&settings, &shape, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "less time for bytes between hosts (305.83 us; "));
    groups_free(&groups);
}

static void test_planner_survives_failing_allocations(void)
{
    struct settings settings = defaults();
    struct groups groups = hosts(1, 3);
    struct shape shape = shape_of(TUTTI_COLL_BROADCAST, &groups, 1 << 20);
    bool reached = true;
    for (uint64_t k = 1; k < 100 && reached; k++) {
        struct plan plan = {0};
        suite_fail_allocation(k);
        tutti_status status = plan_make(&settings, &shape, &plan);
        reached = suite_allocation_failed();
        suite_fail_allocation(0);
        CU_ASSERT_EQUAL(status, reached ? TUTTI_ERR_NOMEM : TUTTI_OK);
        if (status == TUTTI_OK)
            plan_free(&plan);
    }
    CU_ASSERT_FALSE(reached);
    groups_free(&groups);
}

static const struct suite_test tests[] = {
    {"planner_takes_the_cheapest_that_fits", test_planner_takes_the_cheapest_that_fits},
    {"planner_finds_the_best_chunk", test_planner_finds_the_best_chunk},
    {"planner_bounds_the_chunk_of_huge_calls", test_planner_bounds_the_chunk_of_huge_calls},
    {"planner_ignores_what_only_one_rank_knows", test_planner_ignores_what_only_one_rank_knows},
    {"planner_obeys_the_setting", test_planner_obeys_the_setting},
    {"planner_refuses_wrong_settings", test_planner_refuses_wrong_settings},
    {"planner_uses_lanes_where_the_network_is_fast",
     test_planner_uses_lanes_where_the_network_is_fast},
    {"planner_makes_plans", test_planner_makes_plans},
    {"planner_doubles_the_chunk_of_a_plan_that_is_too_long",
     test_planner_doubles_the_chunk_of_a_plan_that_is_too_long},
    {"planner_says_when_nothing_fits", test_planner_says_when_nothing_fits},
    {"planner_explains_itself", test_planner_explains_itself},
    {"planner_survives_failing_allocations", test_planner_survives_failing_allocations},
};

int main(int argc, char **argv)
{
    return suite_run("planner", tests, sizeof tests / sizeof *tests, argc, argv);
}
