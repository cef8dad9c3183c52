/* test_replay.c: which captured units the proxy looks at: what is replayed as before is found at
 * the first look, however many others there are, and whatever comes is found. Units here have words
 * in ordinary memory, and the test is their stream. */
#include <stdlib.h>

#include "mem/mem_cuda.h"
#include "src/comm.h"
#include "src/stream_unit.h"
#include "tests/suite.h"

#define GRAPHS 100
#define CALLS  50

static struct replays replays;
static struct tutti_comm comms[2];
static _Atomic uint32_t lines[2][GRAPHS][CALLS][UNIT_END + 1];
static struct {
    struct mem_words words;
    void *next; /* of those that are given back */
} words[2][GRAPHS][CALLS];
static struct mem_device device; /* to which they are */
static struct unit *units[2][GRAPHS][CALLS];

static struct unit *make(int c, int g, int i)
{
    struct unit *unit = calloc(1, sizeof *unit);
    unit->calls = calloc(1, sizeof *unit->calls);
    unit->streams = calloc(1, sizeof *unit->streams);
    unit->comms = calloc(1, sizeof *unit->comms);
    unit->captured = true;
    unit->stream_count = unit->comm_count = 1;
    unit->comms[0].comm = &comms[c];
    atomic_store(&lines[c][g][i][UNIT_START], 0);
    words[c][g][i].words.word = lines[c][g][i];
    unit->streams[0].words = &words[c][g][i].words;
    unit->streams[0].stream.device = &device;
    unit->streams[0].first = unit->streams[0].value = 1;
    units[c][g][i] = unit;
    return unit;
}

static void capture_graph(int c, int g)
{
    for (int i = 0; i < CALLS; i++)
        replay_add(&replays, make(c, g, i));
}

static void destroy_graph(int c, int g)
{
    for (int i = 0; i < CALLS; i++)
        atomic_store(&units[c][g][i]->gone, true);
}

/* What has come, as one list; looks as given. */
static struct unit *look(size_t looks)
{
    struct unit *list = NULL, **tail = &list;
    bool came = replay_look(&replays, looks, &tail);
    CU_ASSERT_EQUAL(came, list != NULL);
    CU_ASSERT_PTR_NULL(*tail);
    return list;
}

/* The stream comes to the unit; the passes that it takes to find it, and nothing else. */
static int passes_for(struct unit *unit, size_t looks, int most)
{
    struct unit *found = NULL;
    int passes = 0;
    atomic_store(&unit->streams[0].words->word[UNIT_START], 1);
    while (!found && passes < most) {
        found = look(looks);
        passes++;
    }
    CU_ASSERT_PTR_EQUAL(found, unit);
    if (found != unit)
        return most;
    CU_ASSERT_PTR_NULL(unit->next);
    CU_ASSERT_FALSE(unit->replay.parked);
    replay_started(unit);
    atomic_store(&unit->streams[0].words->word[UNIT_START], 0);
    unit->replay.parked = true;
    return passes;
}

/* Replays a graph; the passes that its first call took, for the others must take one each, without
 * a look at anything that is not expected. */
static int replay(int c, int g)
{
    int first = passes_for(units[c][g][0], 16, GRAPHS * CALLS);
    for (int i = 1; i < CALLS; i++)
        CU_ASSERT_EQUAL(passes_for(units[c][g][i], 0, 1), 1);
    return first;
}

static void close_all(void)
{
    for (int c = 0; c < 2; c++)
        replay_close(&comms[c]);
    CU_ASSERT_PTR_NULL(look(SIZE_MAX));
    CU_ASSERT_FALSE(replay_expects(&replays));
}

static void test_replay_expects_the_order_of_the_capture(void)
{
    for (int g = 0; g < GRAPHS; g++) {
        for (int c = 0; c < 2; c++)
            capture_graph(c, g);
    }
    CU_ASSERT_TRUE(replay_expects(&replays));
    for (int g = 0; g < GRAPHS; g++) {
        for (int c = 0; c < 2; c++)
            CU_ASSERT_EQUAL(replay(c, g), 1);
    }
    CU_ASSERT_PTR_NULL(look(SIZE_MAX));
    for (int g = 0; g < GRAPHS; g++) {
        for (int c = 0; c < 2; c++)
            destroy_graph(c, g);
    }
    close_all();
}

/* A graph that is launched again is found at once from its second replay on, and others within the
 * passes that it takes to look at everything. */
static void test_replay_learns_what_is_repeated(void)
{
    uint64_t seed = suite_seed();
    for (int g = 0; g < GRAPHS; g++)
        capture_graph(0, g);
    for (int round = 0; round < 200; round++) {
        int g = (int)(suite_random(&seed) % GRAPHS);
        CU_ASSERT(replay(0, g) <= GRAPHS * CALLS / 16 + 1);
        (void)replay(0, g); /* behind itself: learned now */
        CU_ASSERT_EQUAL(replay(0, g), 1);
        CU_ASSERT_EQUAL(replay(0, g), 1);
    }
    for (int g = 0; g < GRAPHS; g++)
        destroy_graph(0, g);
    close_all();
}

/* Graphs come and go in between, and their communicator goes before them. */
static void test_replay_forgets_what_is_gone(void)
{
    uint64_t seed = suite_seed();
    bool there[GRAPHS] = {false};
    for (int round = 0; round < 2000; round++) {
        int g = (int)(suite_random(&seed) % GRAPHS);
        if (!there[g]) {
            capture_graph(0, g);
        } else if (suite_random(&seed) % 2) {
            (void)replay(0, g);
            continue;
        } else {
            destroy_graph(0, g);
            CU_ASSERT_PTR_NULL(look(SIZE_MAX));
        }
        there[g] = !there[g];
    }
    capture_graph(1, 0);
    replay_close(&comms[0]);
    CU_ASSERT_PTR_NULL(comms[0].replay_set);
    units[1][0][0]->comms[0].comm = NULL;
    for (int g = 0; g < GRAPHS; g++) {
        if (there[g]) {
            (void)passes_for(units[0][g][3], SIZE_MAX, 1);
            destroy_graph(0, g);
        }
    }
    destroy_graph(1, 0);
    close_all();
}

/* Units whose communicator was destroyed before they reached the proxy, or has no memory for them.
 */
static void test_replay_serves_the_odd_ones(void)
{
    struct unit *unit = make(0, 0, 0);
    unit->comms[0].comm = NULL;
    replay_add(&replays, unit);
    CU_ASSERT_EQUAL(passes_for(unit, 0, 1), 1);
    atomic_store(&unit->gone, true);
    unit = make(0, 0, 1);
    suite_fail_allocation(1);
    replay_add(&replays, unit);
    CU_ASSERT_TRUE(suite_allocation_failed());
    CU_ASSERT_PTR_NULL(comms[0].replay_set);
    CU_ASSERT_EQUAL(passes_for(unit, SIZE_MAX, 1), 1);
    atomic_store(&unit->gone, true);
    close_all();
}

static const struct suite_test suite[] = {
    TEST(replay_expects_the_order_of_the_capture),
    TEST(replay_learns_what_is_repeated),
    TEST(replay_forgets_what_is_gone),
    TEST(replay_serves_the_odd_ones),
};

int main(int argc, char **argv)
{
    return suite_run("replay", suite, sizeof suite / sizeof *suite, argc, argv);
}
