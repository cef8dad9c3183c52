/* test_schedule.c: the builder, the checker, the dump.
 * The builder is compared with a horrible one that keeps, for every single byte, who wrote it and
 * who read it since. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/verify.h"
#include "base/clock.h"
#include "tests/suite.h"

/* ---- a small world to build in ------------------------------------------------------------------
 */

static struct groups four;

static struct shape shape_of(tutti_coll coll, uint64_t count, bool in_place)
{
    return (struct shape){.coll = coll,
                          .rank = 1,
                          .size = 4,
                          .count = count,
                          .elem_size = 1,
                          .in_place = in_place,
                          .groups = &four};
}

static struct builder *start(const struct shape *shape)
{
    struct builder *builder = NULL;
    CU_ASSERT_EQUAL_FATAL(builder_new(shape, &builder), TUTTI_OK);
    return builder;
}

static struct schedule *finish(struct builder *builder, const struct shape *shape)
{
    struct schedule *schedule = NULL;
    tutti_status status = builder_finish(builder, &schedule);
    if (status == TUTTI_OK)
        status = schedule_check(schedule, shape);
    if (status == TUTTI_OK)
        status = verify_races(schedule, shape);
    if (status != TUTTI_OK)
        printf("\n    %s\n", status_sentence());
    CU_ASSERT_EQUAL_FATAL(status, TUTTI_OK);
    return schedule;
}

static bool edge(const struct schedule *schedule, uint32_t from, uint32_t to)
{
    const struct step *step = &schedule->steps[from];
    for (uint32_t i = 0; i < step->succ_count; i++) {
        if (schedule->successors[step->succ + i] == to)
            return true;
    }
    return false;
}

static struct span in(uint64_t off, uint64_t len)
{
    return span_of(BUFFER_IN, off, len);
}

static struct span out(uint64_t off, uint64_t len)
{
    return span_of(BUFFER_OUT, off, len);
}

/* ---- hazards ------------------------------------------------------------------------------------
 */

static void test_schedule_orders_read_after_write(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    build_recv(builder, 0, 0, out(0, 50));
    build_recv(builder, 2, 0, out(50, 50));
    build_send(builder, 3, 0, out(49, 2));
    build_send(builder, 3, 1, out(0, 49));
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT(edge(schedule, 0, 2) && edge(schedule, 1, 2));
    CU_ASSERT(edge(schedule, 0, 3) && !edge(schedule, 1, 3));
    CU_ASSERT_EQUAL(schedule->successor_count, 3);
    CU_ASSERT_EQUAL(schedule->steps[2].waits, 2);
    schedule_free(schedule);
}

static void test_schedule_orders_write_after_read_and_write(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    build_recv(builder, 0, 0, out(0, 100));
    build_send(builder, 2, 0, out(0, 10));
    build_send(builder, 3, 0, out(5, 10));
    build_recv(builder, 0, 0, out(7, 1));   /* read by both sends */
    build_recv(builder, 0, 0, out(90, 10)); /* read by none */
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT(edge(schedule, 1, 3) && edge(schedule, 2, 3));
    CU_ASSERT(!edge(schedule, 0, 3)); /* implied */
    CU_ASSERT(edge(schedule, 0, 4));
    CU_ASSERT_EQUAL(schedule->successor_count, 5);
    schedule_free(schedule);
}

static void test_schedule_leaves_reads_unordered(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    for (uint32_t i = 0; i < 3; i++)
        build_send(builder, i == 1 ? 3 : i, 0, in(0, 100));
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->successor_count, 0);
    CU_ASSERT_EQUAL(schedule->link_count, 3);
    schedule_free(schedule);
}

static void test_schedule_sees_that_in_place_is_one_memory(void)
{
    /* reduce_scatter: OUT is block 1 of IN. */
    struct shape shape = shape_of(TUTTI_COLL_REDUCE_SCATTER, 10, true);
    struct builder *builder = start(&shape);
    build_send(builder, 0, 0, in(0, 10));
    build_send(builder, 2, 0, in(10, 10));
    build_recv(builder, 2, 0, out(0, 10));
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT(!edge(schedule, 0, 2));
    CU_ASSERT(edge(schedule, 1, 2));
    schedule_free(schedule);
    /* allgather: IN is block 1 of OUT; the copy there vanishes. */
    shape = shape_of(TUTTI_COLL_ALLGATHER, 10, true);
    builder = start(&shape);
    build_copy(builder, out(10, 10), in(0, 10));
    build_recv(builder, 0, 0, out(0, 10));
    build_send(builder, 0, 0, in(0, 10));
    schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->step_count, 2);
    CU_ASSERT_EQUAL(schedule->successor_count, 0);
    schedule_free(schedule);
}

static void test_schedule_drops_empty_steps(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    build_send(builder, 0, 0, in(3, 0));
    build_recv(builder, 0, 0, out(3, 0));
    build_reduce(builder, out(0, 0), in(0, 0), in(0, 0));
    build_copy(builder, out(0, 0), in(0, 0));
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->step_count, 0);
    CU_ASSERT_EQUAL(schedule->link_count, 0);
    schedule_free(schedule);
}

/* ---- fusion -------------------------------------------------------------------------------------
 */

static void test_schedule_fuses_a_receive_with_its_reduction(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    struct span landing = build_scratch(builder, 100);
    build_recv_reduce(builder, 0, 0, landing, out(0, 100), in(0, 100), true); /* 0, 1 */
    build_send(builder, 2, 0, out(0, 100));                                   /* 2 */
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->steps[0].fused, 1);
    CU_ASSERT_EQUAL(schedule->steps[1].fused, 0);
    CU_ASSERT(edge(schedule, 0, 2));
    CU_ASSERT_EQUAL(schedule->steps[1].succ_count, 0);
    CU_ASSERT_EQUAL(schedule->steps[1].waits, 0);
    CU_ASSERT_EQUAL(schedule->steps[2].waits, 1);
    schedule_free(schedule);
}

static void test_schedule_fuses_in_turn_when_landings_are_reused(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct builder *builder = start(&shape);
    struct span landing = build_scratch(builder, 100);
    build_recv_reduce(builder, 0, 0, landing, out(0, 100), in(0, 100), true);
    build_recv_reduce(builder, 2, 0, landing, out(0, 100), out(0, 100), false);
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->steps[0].fused, 1);
    CU_ASSERT_EQUAL(schedule->steps[2].fused, 3);
    CU_ASSERT(edge(schedule, 0, 2));
    CU_ASSERT_EQUAL(schedule->successor_count, 1);
    schedule_free(schedule);
}

/* Each of these looks like the pair, but something else needs the bytes or comes between. */
static void test_schedule_does_not_fuse_what_it_must_not(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    for (int kind = 0; kind < 6; kind++) {
        struct builder *builder = start(&shape);
        struct span landing = build_scratch(builder, 100);
        build_recv(builder, 0, 0, landing);
        if (kind == 0) /* a second reader */
            build_send(builder, 2, 0, landing);
        if (kind == 1) /* the other operand comes later than the receive */
            build_recv(builder, 2, 0, out(0, 100));
        struct span mine = kind == 1 ? out(0, 100) : in(0, 100);
        if (kind == 2) /* reads only a part */
            build_reduce(builder, out(0, 50), in(0, 50), span_of(BUFFER_SCRATCH, landing.off, 50));
        else if (kind == 3) /* both operands */
            build_reduce(builder, out(0, 100), landing, landing);
        else if (kind == 4) /* the result is where the bytes land */
            build_reduce(builder, landing, mine, landing);
        else if (kind == 5) /* not a reduction */
            build_copy(builder, out(0, 100), landing);
        else
            build_reduce(builder, out(0, 100), mine, landing);
        struct schedule *schedule = finish(builder, &shape);
        CU_ASSERT_EQUAL(schedule->steps[0].fused, STEP_NONE);
        schedule_free(schedule);
    }
    /* In place, the reduction waits for a send: the peer does likewise. */
    shape.in_place = true;
    struct builder *builder = start(&shape);
    struct span landing = build_scratch(builder, 100);
    build_send(builder, 0, 0, in(0, 100));
    build_recv_reduce(builder, 0, 0, landing, out(0, 100), in(0, 100), true);
    struct schedule *schedule = finish(builder, &shape);
    CU_ASSERT_EQUAL(schedule->steps[1].fused, STEP_NONE);
    schedule_free(schedule);
}

/* ---- mistakes -----------------------------------------------------------------------------------
 */

static void test_schedule_refuses_mistakes_of_emitters(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    static const char *const facts[] = {"another rank", "another rank",   "LANES_MAX", "inside",
                                        "inside",       "not be written", "overlap",   "overlap"};
    shape.elem_size = 1;
    for (int kind = 0; kind < 8; kind++) {
        struct builder *builder = start(&shape);
        struct schedule *schedule = NULL;
        build_send(builder, 0, 0, in(0, 1));
        if (kind == 0)
            build_send(builder, 1, 0, in(0, 1));
        if (kind == 1)
            build_recv(builder, 4, 0, out(0, 1));
        if (kind == 2)
            build_send(builder, 0, LANES_MAX, in(0, 1));
        if (kind == 3)
            build_send(builder, 0, 0, in(60, 41));
        if (kind == 4)
            build_recv(builder, 0, 0, span_of(BUFFER_SCRATCH, 0, 1));
        if (kind == 5)
            build_recv(builder, 0, 0, in(0, 1));
        if (kind == 6)
            build_copy(builder, out(0, 10), out(9, 10));
        if (kind == 7)
            build_reduce(builder, out(0, 10), out(5, 10), in(0, 10));
        build_send(builder, 0, 0, in(0, 1)); /* ignored */
        CU_ASSERT_EQUAL(builder_finish(builder, &schedule), TUTTI_ERR_INTERNAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), facts[kind]));
        CU_ASSERT_PTR_NULL(schedule);
    }
}

static void test_schedule_has_a_most_of_steps(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, SCHEDULE_STEPS_MAX + 1, false);
    struct builder *builder = start(&shape);
    struct schedule *schedule = NULL;
    for (uint32_t i = 0; i <= SCHEDULE_STEPS_MAX; i++)
        build_send(builder, 0, 0, in(i, 1));
    CU_ASSERT_EQUAL(builder_finish(builder, &schedule), TUTTI_ERR_UNSUPPORTED);
    builder_free(NULL);
    schedule_free(NULL);
}

static void test_schedule_ends_without_memory(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 1000, false);
    for (uint64_t k = 1; k < 1000; k++) {
        struct builder *builder = NULL;
        struct schedule *schedule = NULL;
        suite_fail_allocation(k);
        tutti_status status = builder_new(&shape, &builder);
        for (uint32_t i = 0; status == TUTTI_OK && i < 200; i++) {
            build_recv_reduce(builder, 0, 0, build_scratch(builder, 5), out(5 * i, 5), in(5 * i, 5),
                              true);
            build_send(builder, 2, 0, out(5 * i, 3));
        }
        if (status == TUTTI_OK)
            status = builder_finish(builder, &schedule);
        bool failed = suite_allocation_failed();
        suite_fail_allocation(0);
        CU_ASSERT_EQUAL(status, failed ? TUTTI_ERR_NOMEM : TUTTI_OK);
        schedule_free(schedule);
        if (!failed)
            return;
    }
    CU_FAIL("never went through");
}

/* ---- against the horrible builder ---------------------------------------------------------------
 */

enum { HORRIBLE_BYTES = 64, HORRIBLE_STEPS = 60 };

/* reach[i][j]: step j must come after step i, straight from the definition. */
struct horrible {
    bool reach[HORRIBLE_STEPS][HORRIBLE_STEPS];
    struct span reads[HORRIBLE_STEPS][2], writes[HORRIBLE_STEPS];
    uint32_t count;
};

static bool touch(const struct shape *shape, struct span x, struct span y)
{
    x = verify_place(shape, x);
    y = verify_place(shape, y);
    return x.buffer == y.buffer && x.off < y.off + y.len && y.off < x.off + x.len;
}

static void horrible_add(struct horrible *h, const struct shape *shape, struct span a,
                         struct span b, struct span dst)
{
    uint32_t me = h->count++;
    h->reads[me][0] = a;
    h->reads[me][1] = b;
    h->writes[me] = dst;
    for (uint32_t i = 0; i < me; i++) {
        bool hazard = touch(shape, h->writes[i], dst);
        for (int k = 0; k < 2; k++)
            hazard = hazard || touch(shape, h->writes[i], h->reads[me][k]) ||
                     touch(shape, h->reads[i][k], dst);
        if (!hazard)
            continue;
        h->reach[i][me] = true;
        for (uint32_t k = 0; k < i; k++)
            h->reach[k][me] = h->reach[k][me] || h->reach[k][i];
    }
}

static struct span random_span(uint64_t *state, uint64_t len, bool readable)
{
    enum buffer buffer = (enum buffer)(suite_random(state) % (readable ? 3 : 2) + !readable);
    return span_of(buffer, suite_random(state) % (HORRIBLE_BYTES - len + 1), len);
}

static void random_program(struct builder *builder, struct horrible *h, const struct shape *shape,
                           uint64_t *state)
{
    struct span none = {0};
    while (h->count < HORRIBLE_STEPS) {
        uint64_t len = 1 + suite_random(state) % 12;
        struct span a = random_span(state, len, true), b = random_span(state, len, true);
        struct span dst = random_span(state, len, false);
        uint32_t peer = suite_random(state) % 2 ? 0 : 2;
        switch (suite_random(state) % 4) {
        case 0:
            build_send(builder, peer, 0, a);
            horrible_add(h, shape, a, none, none);
            break;
        case 1:
            build_recv(builder, peer, 0, dst);
            horrible_add(h, shape, none, none, dst);
            break;
        case 2:
            if (touch(shape, a, dst))
                break;
            build_copy(builder, dst, a);
            horrible_add(h, shape, a, none, dst);
            break;
        default:
            if (touch(shape, b, dst))
                break;
            if (suite_random(state) % 2) /* dst may be an operand exactly */
                a = dst;
            if (touch(shape, a, dst) && memcmp(&a, &dst, sizeof a) != 0)
                break;
            build_reduce(builder, dst, a, b);
            horrible_add(h, shape, a, b, dst);
        }
    }
}

/* The closure of the frozen edges, seen through fusion, is that of the definition. */
static void compare_with_horrible(const struct schedule *schedule, const struct horrible *h)
{
    static bool reach[HORRIBLE_STEPS][HORRIBLE_STEPS];
    memset(reach, 0, sizeof reach);
    for (uint32_t to = 0; to < h->count; to++) {
        for (uint32_t from = 0; from < to; from++) {
            if (!edge(schedule, from, to))
                continue;
            reach[from][to] = true;
            for (uint32_t k = 0; k < from; k++)
                reach[k][to] = reach[k][to] || reach[k][from];
        }
    }
    uint32_t fused = 0, missing = 0, extra = 0;
    for (uint32_t i = 0; i < h->count; i++)
        fused += schedule->steps[i].fused != STEP_NONE;
    for (uint32_t i = 0; i < h->count; i++) {
        for (uint32_t j = i + 1; j < h->count; j++) {
            uint32_t x = i, y = j;
            if (schedule->steps[x].kind == STEP_REDUCE && schedule->steps[x].fused != STEP_NONE)
                x = schedule->steps[x].fused;
            if (schedule->steps[y].kind == STEP_REDUCE && schedule->steps[y].fused != STEP_NONE)
                y = schedule->steps[y].fused;
            missing += h->reach[i][j] && x != y && !reach[x][y];
            extra += fused == 0 && reach[i][j] && !h->reach[i][j];
        }
    }
    CU_ASSERT_EQUAL(missing, 0);
    CU_ASSERT_EQUAL(extra, 0);
}

static void test_schedule_agrees_with_a_horrible_builder(void)
{
    uint64_t state = suite_seed();
    static struct horrible h;
    for (int round = 0; round < 400; round++) {
        struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, HORRIBLE_BYTES, round % 2 == 1);
        struct builder *builder = start(&shape);
        memset(&h, 0, sizeof h);
        build_scratch(builder, HORRIBLE_BYTES);
        random_program(builder, &h, &shape, &state);
        struct schedule *schedule = finish(builder, &shape);
        CU_ASSERT_EQUAL_FATAL(schedule->step_count, h.count);
        compare_with_horrible(schedule, &h);
        schedule_free(schedule);
    }
}

/* ---- size, check, dump --------------------------------------------------------------------------
 */

static void test_schedule_builds_ten_thousand_steps_in_milliseconds(void)
{
    enum { PIECES = 2500 };
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 4 * PIECES, false);
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < 5; round++) {
        uint64_t begin = clock_ns();
        struct builder *builder = start(&shape);
        struct span landing = build_scratch(builder, 64 * PIECES);
        for (uint32_t i = 0; i < PIECES; i++) {
            uint64_t off = 4 * (i * 1237ull % PIECES); /* not in the order of addresses */
            build_send(builder, 2, 0, in(off, 4));
            build_recv_reduce(builder, 0, 0, span_of(BUFFER_SCRATCH, landing.off + off, 4),
                              out(off, 4), in(off, 4), true);
            build_send(builder, 2, 0, out(off, 4));
        }
        struct schedule *schedule = NULL;
        CU_ASSERT_EQUAL_FATAL(builder_finish(builder, &schedule), TUTTI_OK);
        uint64_t took = clock_ns() - begin;
        best = took < best ? took : best;
        CU_ASSERT_EQUAL(schedule->step_count, 4 * PIECES);
        schedule_free(schedule);
    }
    printf("\n    %d steps in %.2f ms\n", 4 * PIECES, (double)best / 1e6);
    CU_ASSERT(best < 200 * 1000 * 1000); /* sanitizers and a busy machine included */
}

static struct schedule *small_program(const struct shape *shape)
{
    struct builder *builder = start(shape);
    struct span landing = build_scratch(builder, 50);
    build_recv_reduce(builder, 0, 0, landing, out(0, 50), in(0, 50), true);
    build_send(builder, 2, 1, out(0, 50));
    build_copy(builder, out(50, 50), in(50, 50));
    return finish(builder, shape);
}

static void test_schedule_check_finds_what_is_wrong(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    for (int kind = 0; kind < 12; kind++) {
        struct schedule *schedule = small_program(&shape);
        CU_ASSERT_EQUAL(schedule_check(schedule, &shape), TUTTI_OK);
        struct step *steps = schedule->steps;
        switch (kind) {
        case 0:
            steps[2].a.off = 51;
            break;
        case 1:
            steps[2].peer = 1;
            break;
        case 2:
            steps[2].lane = LANES_MAX;
            break;
        case 3:
            steps[2].peer = 3;
            break;
        case 4:
            steps[3].dst.buffer = BUFFER_IN;
            break;
        case 5:
            steps[3].a.len = 49;
            break;
        case 6:
            steps[2].waits = 0;
            break;
        case 7:
            schedule->successors[0] = 0;
            break;
        case 8:
            steps[0].fused = STEP_NONE;
            break;
        case 9:
            schedule->links[0].recv_count = 0;
            break;
        case 10:
            schedule->wire[0] = 2;
            break;
        default:
            steps[3].kind = (enum step_kind)4;
        }
        CU_ASSERT_EQUAL(schedule_check(schedule, &shape), TUTTI_ERR_INTERNAL);
        schedule_free(schedule);
    }
}

static void test_schedule_dump_reads_well(void)
{
    struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, 100, false);
    struct schedule *schedule = small_program(&shape);
    char text[1024], cut[20];
    size_t len = schedule_dump(schedule, text, sizeof text);
    CU_ASSERT_EQUAL(len, strlen(text));
    CU_ASSERT_STRING_EQUAL(text,
                           "4 steps, 1 edges, 2 links, 64 bytes of scratch\n"
                           "    0  recv   scratch[0..50) from 0, does 1  | before 2\n"
                           "    1  reduce out[0..50) = scratch[0..50) op in[0..50), done by 0\n"
                           "    2  send   out[0..50) to 2 lane 1  | waits for 1\n"
                           "    3  copy   out[50..100) = in[50..100)\n");
    CU_ASSERT_EQUAL(schedule_dump(schedule, cut, sizeof cut), len);
    CU_ASSERT_EQUAL(strlen(cut), sizeof cut - 1);
    CU_ASSERT_EQUAL(schedule_dump(schedule, NULL, 0), len);
    schedule_free(schedule);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(schedule_orders_read_after_write),
        TEST(schedule_orders_write_after_read_and_write),
        TEST(schedule_leaves_reads_unordered),
        TEST(schedule_sees_that_in_place_is_one_memory),
        TEST(schedule_drops_empty_steps),
        TEST(schedule_fuses_a_receive_with_its_reduction),
        TEST(schedule_fuses_in_turn_when_landings_are_reused),
        TEST(schedule_does_not_fuse_what_it_must_not),
        TEST(schedule_refuses_mistakes_of_emitters),
        TEST(schedule_has_a_most_of_steps),
        TEST(schedule_ends_without_memory),
        TEST(schedule_agrees_with_a_horrible_builder),
        TEST(schedule_builds_ten_thousand_steps_in_milliseconds),
        TEST(schedule_check_finds_what_is_wrong),
        TEST(schedule_dump_reads_well),
    };
    if (groups_make_uniform(1, 4, &four) != TUTTI_OK)
        return 1;
    int failed = suite_run("schedule", tests, sizeof tests / sizeof *tests, argc, argv);
    groups_free(&four);
    return failed;
}
