/* test_mutants.c: are the proofs worth anything? Takes plans that are proved, spoils one step of
 * one rank, and asks for the proof again. A mutant is caught by the builder, which refuses it, or
 * by the proof. One that is proved still must be as good as the plan: it then passes many random
 * runs on real bytes (tests/sim.h, which shares nothing with the proofs). Any other mutant is a
 * hole in the proofs, and a failure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/verify_grid.h"
#include "tests/sim.h"
#include "tests/suite.h"

#define MUTATION_LIST(X)                                                                           \
    X(DROP, "dropped step")                                                                        \
    X(PEER, "wrong peer")                                                                          \
    X(LANE, "wrong lane")                                                                          \
    X(OFFSET, "wrong offset")                                                                      \
    X(LENGTH, "wrong length")                                                                      \
    X(BUFFER, "wrong buffer")                                                                      \
    X(WIRE, "swapped on a link")                                                                   \
    X(OPERANDS, "swapped operands' buffers")                                                       \
    X(TWICE, "step done twice")                                                                    \
    X(EDGE, "dropped edge")

enum mutation {
#define X(name, text) MUTATION_##name,
    MUTATION_LIST(X)
#undef X
        MUTATION_COUNT
};

static const char *const mutation_names[] = {
#define X(name, text) text,
    MUTATION_LIST(X)
#undef X
};

enum verdict { IMPOSSIBLE, REFUSED, CAUGHT, EQUIVALENT, MISSED, VERDICTS };

struct score {
    unsigned count[MUTATION_COUNT][VERDICTS];
};

/* ---- mutating -----------------------------------------------------------------------------------
 */

/* A program in program order, to be changed and built again. */
struct draft {
    struct step *steps; /* room for one more than count */
    uint32_t count;
};

static uint32_t pick(uint64_t *state, uint64_t below)
{
    return (uint32_t)(suite_random(state) % below);
}

static bool is_transfer(const struct step *step)
{
    return step->kind == STEP_SEND || step->kind == STEP_RECV;
}

/* The spans a step has, in turn. */
static struct span *pick_span(struct step *step, uint64_t *state)
{
    struct span *has[3];
    uint32_t count = 0;
    if (step->kind != STEP_SEND)
        has[count++] = &step->dst;
    if (step->kind != STEP_RECV)
        has[count++] = &step->a;
    if (step->kind == STEP_REDUCE)
        has[count++] = &step->b;
    return has[pick(state, count)];
}

/* Swaps step s with a later one of its link and direction that does something else. */
static bool swap_on_link(struct draft *draft, uint32_t s)
{
    struct step *x = &draft->steps[s];
    for (uint32_t i = s + 1; i < draft->count && is_transfer(x); i++) {
        struct step *y = &draft->steps[i], swap = *x;
        if (y->kind != x->kind || y->peer != x->peer || y->lane != x->lane)
            continue;
        *x = *y;
        *y = swap;
        return true;
    }
    return false;
}

/* False: this step cannot be changed in that way. */
static bool mutate(struct draft *draft, const struct shape *shape, enum mutation mutation,
                   uint64_t *state)
{
    uint32_t s = pick(state, draft->count);
    struct step *step = &draft->steps[s];
    uint64_t elem = shape->elem_size;
    struct span *span = pick_span(step, state);
    switch (mutation) {
    case MUTATION_DROP:
        memmove(step, step + 1, (--draft->count - s) * sizeof *step);
        return true;
    case MUTATION_TWICE:
        memmove(step + 1, step, (draft->count++ - s) * sizeof *step);
        return true;
    case MUTATION_PEER:
        step->peer = (step->peer + 1 + pick(state, shape->size - 1)) % shape->size;
        return is_transfer(step);
    case MUTATION_LANE:
        step->lane = (step->lane + 1 + pick(state, LANES_MAX - 1)) % LANES_MAX;
        return is_transfer(step);
    case MUTATION_OFFSET:
        span->off += pick(state, 2) ? elem : -elem;
        return true;
    case MUTATION_LENGTH:
        elem = pick(state, 2) ? elem : -elem;
        step->dst.len += step->dst.len > 0 ? elem : 0;
        step->a.len += step->a.len > 0 ? elem : 0;
        step->b.len += step->b.len > 0 ? elem : 0;
        return true;
    case MUTATION_BUFFER:
        span->buffer = (enum buffer)((span->buffer + 1 + pick(state, 2)) % BUFFER_COUNT);
        return true;
    case MUTATION_WIRE:
        return swap_on_link(draft, s);
    case MUTATION_OPERANDS: {
        enum buffer buffer = step->a.buffer;
        step->a.buffer = step->b.buffer;
        step->b.buffer = buffer;
        return step->kind == STEP_REDUCE && step->a.buffer != step->b.buffer;
    }
    default:
        return false;
    }
}

static tutti_status rebuild(const struct draft *draft, const struct shape *shape,
                            uint64_t scratch_bytes, struct schedule **schedule)
{
    struct builder *builder;
    tutti_status status = builder_new(shape, &builder);
    if (status != TUTTI_OK)
        return status;
    build_scratch(builder, scratch_bytes);
    for (uint32_t s = 0; s < draft->count; s++) {
        const struct step *step = &draft->steps[s];
        switch (step->kind) {
        case STEP_SEND:
            build_send(builder, step->peer, step->lane, step->a);
            break;
        case STEP_RECV:
            build_recv(builder, step->peer, step->lane, step->dst);
            break;
        case STEP_REDUCE:
            build_reduce(builder, step->dst, step->a, step->b);
            break;
        case STEP_COPY:
            build_copy(builder, step->dst, step->a);
            break;
        }
    }
    return builder_finish(builder, schedule);
}

/* Takes one edge out of a frozen program. */
static bool drop_edge(struct schedule *schedule, uint64_t *state)
{
    uint32_t first = schedule->step_count ? pick(state, schedule->step_count) : 0;
    for (uint32_t i = 0; i < schedule->step_count; i++) {
        struct step *step = &schedule->steps[(first + i) % schedule->step_count];
        if (step->succ_count == 0)
            continue;
        uint32_t *edges = schedule->successors + step->succ;
        uint32_t gone = pick(state, step->succ_count);
        schedule->steps[edges[gone]].waits--;
        edges[gone] = edges[--step->succ_count];
        return true;
    }
    return false;
}

/* A spoilt copy of the program; REFUSED if the builder does not accept it. */
static enum verdict spoil(const struct schedule *program, const struct shape *shape,
                          enum mutation mutation, uint64_t *state, struct schedule **spoilt)
{
    struct draft draft = {.count = program->step_count};
    draft.steps = calloc(program->step_count + 1u, sizeof *draft.steps);
    CU_ASSERT_PTR_NOT_NULL_FATAL(draft.steps);
    memcpy(draft.steps, program->steps, program->step_count * sizeof *draft.steps);
    bool possible = mutation == MUTATION_EDGE || mutate(&draft, shape, mutation, state);
    enum verdict verdict = IMPOSSIBLE;
    if (possible)
        verdict =
            rebuild(&draft, shape, program->scratch_bytes, spoilt) == TUTTI_OK ? MISSED : REFUSED;
    free(draft.steps);
    if (mutation == MUTATION_EDGE && verdict == MISSED && !drop_edge(*spoilt, state)) {
        schedule_free(*spoilt);
        verdict = IMPOSSIBLE;
    }
    return verdict;
}

/* ---- judging ------------------------------------------------------------------------------------
 */

static tutti_status try_out(const struct world *world, uint64_t *state)
{
    tutti_status status = TUTTI_OK;
    if (world->shapes[0].coll == TUTTI_COLL_BARRIER)
        return sim_barrier(world);
    for (uint32_t run = 0; run < 24 && status == TUTTI_OK; run++)
        status = sim_collective(world, run % 3 == 2 ? SIM_UNLIMITED : run % 3, suite_random(state));
    return status;
}

static enum verdict judge(struct world *world, uint32_t rank, enum mutation mutation,
                          uint64_t *state)
{
    struct schedule *whole = world->programs[rank], *spoilt = NULL;
    struct proof proof;
    if (whole->step_count == 0)
        return IMPOSSIBLE;
    enum verdict verdict = spoil(whole, &world->shapes[rank], mutation, state, &spoilt);
    if (verdict != MISSED)
        return verdict;
    world->programs[rank] = spoilt;
    if (verify_world(world, suite_random(state), &proof) != TUTTI_OK)
        verdict = CAUGHT;
    else if (try_out(world, state) == TUTTI_OK)
        verdict = EQUIVALENT;
    else
        printf("\n    %s at rank %u proved, but: %s\n", mutation_names[mutation], rank,
               status_sentence());
    world->programs[rank] = whole;
    schedule_free(spoilt);
    return verdict;
}

static void plant(const struct algorithm *algorithm, struct world *world, unsigned rounds,
                  uint64_t *state, struct score *score)
{
    for (unsigned i = 0; i < rounds * MUTATION_COUNT; i++) {
        enum mutation mutation = (enum mutation)(i % MUTATION_COUNT);
        enum verdict verdict = IMPOSSIBLE;
        for (unsigned k = 0; k < 8 && verdict == IMPOSSIBLE; k++)
            verdict = judge(world, pick(state, world->size), mutation, state);
        score->count[mutation][verdict]++;
        if (verdict == MISSED)
            printf("    in %s:%s\n", coll_name(algorithm->coll), algorithm->name);
    }
}

/* Three worlds per algorithm: odd, even, and cut into pieces over two lanes and two nodes. */
static void plant_in(const struct algorithm *algorithm, unsigned which, unsigned rounds,
                     uint64_t *state, struct score *score)
{
    static const uint32_t nodes[] = {1, 1, 2}, per_node[] = {5, 4, 3};
    struct groups groups;
    struct world world;
    struct proof proof;
    struct knobs knobs;
    CU_ASSERT_EQUAL_FATAL(groups_make_uniform(nodes[which], per_node[which], &groups), TUTTI_OK);
    struct trial trial = world_trial(algorithm->coll, &groups);
    trial.count = which == 2 ? 50 : 7;
    verify_variant(&trial, pick(state, VERIFY_VARIANTS), &knobs);
    trial.seed = suite_random(state);
    knobs = (struct knobs){.chunk_bytes = which == 2 ? 16 : 1 << 20, .lanes = 1 + which / 2};
    CU_ASSERT_EQUAL_FATAL(world_make(&trial, &world), TUTTI_OK);
    tutti_status status = world_emit(&world, algorithm, &knobs);
    if (status == TUTTI_OK) {
        CU_ASSERT_EQUAL(verify_world(&world, 1, &proof), TUTTI_OK);
        CU_ASSERT_EQUAL(try_out(&world, state), TUTTI_OK);
        plant(algorithm, &world, rounds, state, score);
    } else {
        CU_ASSERT_EQUAL(status, TUTTI_ERR_UNSUPPORTED);
    }
    world_free(&world);
    groups_free(&groups);
}

static void test_mutants_are_caught_or_equivalent(void)
{
    const char *fast = getenv("TUTTI_TEST_FAST");
    unsigned rounds = fast && *fast == '1' ? 2 : 8, sum[VERDICTS] = {0};
    uint64_t state = suite_seed();
    struct score score = {0};
    for (const struct algorithm *const *at = algorithm_table; *at; at++) {
        for (unsigned which = 0; which < 3; which++)
            plant_in(*at, which, rounds, &state, &score);
    }
    printf("\n    %-26s %8s %8s %8s %10s %7s\n", "mutation", "planted", "refused", "caught",
           "equivalent", "missed");
    for (int m = 0; m < MUTATION_COUNT; m++) {
        const unsigned *c = score.count[m];
        printf("    %-26s %8u %8u %8u %10u %7u\n", mutation_names[m],
               c[REFUSED] + c[CAUGHT] + c[EQUIVALENT] + c[MISSED], c[REFUSED], c[CAUGHT],
               c[EQUIVALENT], c[MISSED]);
        for (int v = 0; v < VERDICTS; v++)
            sum[v] += c[v];
    }
    unsigned caught = sum[REFUSED] + sum[CAUGHT], wrong = caught + sum[MISSED];
    printf("    %u mutants: %u equivalent, %.2f %% of the %u others caught\n",
           wrong + sum[EQUIVALENT], sum[EQUIVALENT], 100.0 * caught / (wrong ? wrong : 1), wrong);
    CU_ASSERT_EQUAL(sum[MISSED], 0);
    CU_ASSERT(wrong >= 1000);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"test_mutants_are_caught_or_equivalent", test_mutants_are_caught_or_equivalent},
    };
    return suite_run("mutants", tests, sizeof tests / sizeof *tests, argc, argv);
}
