/* test_base.c: statuses and sentences, the log, broken promises, the clock, and the span map
 * against a naive array of bytes. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/spans.h"
#include "base/status.h"
#include "tests/suite.h"

/* ---- status -----------------------------------------------------------------------------------
 */

static void test_status_fail_records_the_sentence(void)
{
    errno = ENOENT;
    CU_ASSERT_EQUAL(fail(TUTTI_ERR_ARG, "rank %d of %d", 3, 2), TUTTI_ERR_ARG);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "rank 3 of 2");
    CU_ASSERT_EQUAL(errno, ENOENT);
    errno = ECONNREFUSED;
    CU_ASSERT_EQUAL(fail_errno(TUTTI_ERR_CONNECT, "connect to %s", "a:1"), TUTTI_ERR_CONNECT);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "connect to a:1: Connection refused (errno 111)");
    CU_ASSERT_EQUAL(errno, ECONNREFUSED);
}

static void test_status_sentence_may_quote_the_last_one(void)
{
    fail(TUTTI_ERR_ARG, "inner");
    fail(TUTTI_ERR_PEER, "outer (%s)", status_sentence());
    CU_ASSERT_STRING_EQUAL(status_sentence(), "outer (inner)");
    status_set_sentence(status_sentence() + 6);
    CU_ASSERT_STRING_EQUAL(status_sentence(), "(inner)");
}

static void test_status_long_sentence_is_cut(void)
{
    char text[2 * SENTENCE_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    fail(TUTTI_ERR_ARG, "%s", text);
    CU_ASSERT_EQUAL(strlen(status_sentence()), SENTENCE_MAX - 1);
    errno = EIO;
    fail_errno(TUTTI_ERR_ARG, "%.*s", SENTENCE_MAX - 5, text);
    CU_ASSERT_EQUAL(strlen(status_sentence()), SENTENCE_MAX - 1);
    status_set_sentence(text);
    CU_ASSERT_EQUAL(strlen(status_sentence()), SENTENCE_MAX - 1);
}

static void *other_thread(void *seen)
{
    strcpy(seen, status_sentence());
    fail(TUTTI_ERR_ARG, "theirs");
    return NULL;
}

static void test_status_sentence_belongs_to_its_thread(void)
{
    char seen[SENTENCE_MAX] = "?";
    pthread_t thread;
    fail(TUTTI_ERR_ARG, "mine");
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, other_thread, seen), 0);
    pthread_join(thread, NULL);
    CU_ASSERT_STRING_EQUAL(seen, "");
    CU_ASSERT_STRING_EQUAL(status_sentence(), "mine");
}

static void test_status_every_name_is_known(void)
{
    CU_ASSERT_STRING_EQUAL(status_text(TUTTI_OK), "no error");
    CU_ASSERT_STRING_EQUAL(status_text(TUTTI_ERR_AUTH), "peer failed authentication");
    CU_ASSERT_STRING_EQUAL(status_text((tutti_status)99), "unknown status");
    CU_ASSERT_STRING_EQUAL(status_text((tutti_status)-1), "unknown status");
    CU_ASSERT_STRING_EQUAL(dtype_name(TUTTI_BFLOAT16), "bfloat16");
    CU_ASSERT_STRING_EQUAL(dtype_name(TUTTI_DTYPE_COUNT), "?");
    CU_ASSERT_STRING_EQUAL(dtype_name((tutti_dtype)-1), "?");
    CU_ASSERT_EQUAL(dtype_size(TUTTI_FLOAT64), 8);
    CU_ASSERT_EQUAL(dtype_size(TUTTI_FLOAT8_E5M2), 1);
    CU_ASSERT_EQUAL(dtype_size(TUTTI_DTYPE_COUNT), 0);
    CU_ASSERT_TRUE(dtype_is_float(TUTTI_FLOAT16));
    CU_ASSERT_FALSE(dtype_is_float(TUTTI_UINT64));
    CU_ASSERT_FALSE(dtype_is_float((tutti_dtype)77));
    CU_ASSERT_STRING_EQUAL(op_name(TUTTI_BXOR), "bxor");
    CU_ASSERT_STRING_EQUAL(op_name(TUTTI_OP_COUNT), "?");
    CU_ASSERT_STRING_EQUAL(op_name(TUTTI_OP_DYNAMIC), "user");
    CU_ASSERT_STRING_EQUAL(op_name((tutti_op)(TUTTI_OP_LAST + 1)), "?");
    CU_ASSERT_STRING_EQUAL(coll_name(TUTTI_COLL_REDUCE_SCATTERV), "reduce_scatterv");
    CU_ASSERT_STRING_EQUAL(coll_name(TUTTI_COLL_COUNT), "?");
}

/* ---- check ------------------------------------------------------------------------------------
 */

/* Runs body in a child whose standard error goes to text; returns the wait status. */
static int run_child(void (*body)(void), char *text, size_t max)
{
    int ends[2], status = -1;
    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    CU_ASSERT_FATAL(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        body();
        exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    ssize_t got;
    while (used < max - 1 && (got = read(ends[0], text + used, max - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    close(ends[0]);
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    return status;
}

static void break_promise(void)
{
    must(1 + 1 == 3);
}

static void fail_with_ok(void)
{
    fail(TUTTI_OK, "this is no failure");
}

static void test_check_broken_promise_stops_the_program(void)
{
    char text[2048];
    must(1 + 1 == 2);
    int status = run_child(break_promise, text, sizeof text);
    CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "\"1 + 1 == 3\" does not hold"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "test_base.c:"));
    status = run_child(fail_with_ok, text, sizeof text);
    CU_ASSERT_TRUE(WIFSIGNALED(status));
}

/* ---- log --------------------------------------------------------------------------------------
 */

static void log_some(void)
{
    log_set_level(LOG_LEVEL_INFO);
    log_at(LOG_LEVEL_INFO, 7, "hello %s\nsecond\x1b", "all");
    log_at(LOG_LEVEL_DEBUG, 7, "never seen");
    log_at(LOG_LEVEL_ERROR, -1, "%0*d", 5000, 0);
    log_set_level(LOG_LEVEL_NONE);
    log_at(LOG_LEVEL_ERROR, 7, "never seen");
    log_at(LOG_LEVEL_NONE, 7, "never seen");
}

static void test_log_writes_one_line_per_call(void)
{
    char text[4096];
    CU_ASSERT_EQUAL(run_child(log_some, text, sizeof text), 0);
    CU_ASSERT_EQUAL(strncmp(text, "tutti[", 6), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, " rank 7] info: hello all second \n"));
    CU_ASSERT_PTR_NULL(strstr(text, "never"));
    const char *second = strchr(text, '\n') + 1;
    CU_ASSERT_EQUAL(strncmp(second, "tutti[", 6), 0);
    CU_ASSERT_EQUAL(strlen(second), 1024);
    CU_ASSERT_EQUAL(second[1023], '\n');
}

static void log_to_file(void)
{
    char path[] = "/tmp/tutti_test_log_XXXXXX";
    int fd = mkstemp(path);
    must(fd >= 0);
    must(log_set_file(path) == TUTTI_OK);
    log_at(LOG_LEVEL_WARN, 0, "into the file");
    must(log_set_file("") == TUTTI_OK);
    char text[256] = "";
    must(read(fd, text, sizeof text - 1) > 0);
    unlink(path);
    must(strstr(text, "warn: into the file\n"));
    must(log_set_file("/nowhere/at/all") == TUTTI_ERR_SETTING);
    must(strstr(status_sentence(), "TUTTI_LOG_FILE=/nowhere/at/all: No such file"));
}

/* Communicators that log to different files, in turn. */
static void log_to_files_in_turn(void)
{
    static const char *const paths[] = {"/dev/null", "", "/dev/zero"};
    int first = 0, last = 0;
    for (int i = 0; i < 30; i++) {
        must(log_set_file(paths[i % 3]) == TUTTI_OK);
        last = open("/dev/null", O_RDONLY); /* the lowest that is free */
        must(last >= 0 && close(last) == 0);
        first = i == 2 ? last : first;
    }
    must(last == first);
}

static void test_log_goes_to_a_file(void)
{
    char text[2048];
    CU_ASSERT_EQUAL(run_child(log_to_file, text, sizeof text), 0);
    CU_ASSERT_STRING_EQUAL(text, "");
    CU_ASSERT_EQUAL(run_child(log_to_files_in_turn, text, sizeof text), 0);
}

/* ---- clock ------------------------------------------------------------------------------------
 */

static void test_clock_sleeps_and_never_goes_back(void)
{
    uint64_t before = clock_ns(), ms = clock_ms();
    clock_sleep_us(2000);
    uint64_t after = clock_ns();
    CU_ASSERT(after - before >= 2000000u);
    CU_ASSERT(clock_ms() >= ms + 2);
    uint64_t last = after;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_ns();
        CU_ASSERT_FATAL(now >= last);
        last = now;
    }
}

/* ---- spans ------------------------------------------------------------------------------------
 */

#define BYTES 512

/* One value per byte, 0 for "not in the map". */
struct horrible_spans {
    uint64_t bytes[BYTES];
};

static void horrible_set(struct horrible_spans *map, uint64_t begin, uint64_t end, uint64_t value)
{
    for (uint64_t i = begin; i < end; i++)
        map->bytes[i] = value;
}

static bool spans_are_sound(const struct spans *map)
{
    for (size_t i = 0; i < map->count; i++) {
        if (map->entries[i].begin >= map->entries[i].end)
            return false;
        if (i > 0 && map->entries[i - 1].end > map->entries[i].begin)
            return false;
    }
    return map->count <= map->capacity;
}

static bool spans_equal(const struct spans *map, const struct horrible_spans *naive)
{
    struct horrible_spans seen = {{0}};
    for (size_t i = 0; i < map->count; i++)
        horrible_set(&seen, map->entries[i].begin, map->entries[i].end, map->entries[i].value);
    return memcmp(&seen, naive, sizeof seen) == 0;
}

/* The first byte at or after begin that is in the map must lie where spans_find says. */
static bool find_agrees(const struct spans *map, const struct horrible_spans *naive, uint64_t begin)
{
    size_t found = spans_find(map, begin);
    uint64_t next = begin;
    while (next < BYTES && naive->bytes[next] == 0)
        next++;
    if (next == BYTES)
        return found == map->count;
    return found < map->count && map->entries[found].begin <= next &&
           map->entries[found].end > next && map->entries[found].value == naive->bytes[next];
}

static void test_spans_agree_with_an_array_of_bytes(void)
{
    uint64_t random = suite_seed();
    for (int round = 0; round < 40; round++) {
        struct spans map;
        struct horrible_spans naive = {{0}};
        uint64_t longest = 1 + suite_random(&random) % (BYTES - 1);
        spans_init(&map);
        for (int step = 0; step < 200; step++) {
            uint64_t begin = suite_random(&random) % BYTES;
            uint64_t end = begin + suite_random(&random) % (longest + 1);
            if (end > BYTES)
                end = BYTES;
            uint64_t value = suite_random(&random) % 4 == 0 ? 0 : 1 + suite_random(&random) % 9;
            tutti_status status =
                value ? spans_set(&map, begin, end, value) : spans_clear(&map, begin, end);
            horrible_set(&naive, begin, end, value);
            CU_ASSERT_EQUAL_FATAL(status, TUTTI_OK);
            CU_ASSERT_FATAL(spans_are_sound(&map));
            CU_ASSERT_FATAL(spans_equal(&map, &naive));
            CU_ASSERT_FATAL(find_agrees(&map, &naive, suite_random(&random) % BYTES));
        }
        spans_free(&map);
    }
}

static void test_spans_split_and_keep_the_edges(void)
{
    struct spans map;
    spans_init(&map);
    spans_set(&map, 0, UINT64_MAX, 1);
    spans_set(&map, 10, 20, 2);
    CU_ASSERT_EQUAL_FATAL(map.count, 3);
    CU_ASSERT_EQUAL(map.entries[0].end, 10);
    CU_ASSERT_EQUAL(map.entries[1].value, 2);
    CU_ASSERT_EQUAL(map.entries[2].begin, 20);
    CU_ASSERT_EQUAL(map.entries[2].end, UINT64_MAX);
    CU_ASSERT_EQUAL(spans_find(&map, 9), 0);
    CU_ASSERT_EQUAL(spans_find(&map, 10), 1);
    CU_ASSERT_EQUAL(spans_find(&map, 20), 2);
    CU_ASSERT_EQUAL(spans_find(&map, UINT64_MAX), 3);
    spans_clear(&map, 15, 30);
    CU_ASSERT_EQUAL(map.count, 3);
    CU_ASSERT_EQUAL(map.entries[1].end, 15);
    CU_ASSERT_EQUAL(map.entries[2].begin, 30);
    spans_set(&map, 5, 5, 9);
    spans_clear(&map, 5, 5);
    CU_ASSERT_EQUAL(map.count, 3);
    spans_clear(&map, 0, UINT64_MAX);
    CU_ASSERT_EQUAL(map.count, 0);
    spans_free(&map);
    spans_free(&map);
}

static void test_spans_out_of_memory_changes_nothing(void)
{
    struct spans map;
    spans_init(&map);
    suite_fail_allocation(1);
    CU_ASSERT_EQUAL(spans_set(&map, 0, 100, 1), TUTTI_ERR_NOMEM);
    CU_ASSERT_EQUAL(map.count, 0);
    for (uint64_t i = 0; i < 8; i++)
        CU_ASSERT_EQUAL_FATAL(spans_set(&map, i * 10, i * 10 + 10, i), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(map.capacity, 8);
    struct span_entry before[8];
    memcpy(before, map.entries, sizeof before);
    suite_fail_allocation(1);
    CU_ASSERT_EQUAL(spans_set(&map, 12, 14, 99), TUTTI_ERR_NOMEM);
    CU_ASSERT_TRUE(suite_allocation_failed());
    suite_fail_allocation(1);
    CU_ASSERT_EQUAL(spans_clear(&map, 12, 14), TUTTI_ERR_NOMEM);
    suite_fail_allocation(0);
    CU_ASSERT_EQUAL(map.count, 8);
    CU_ASSERT_EQUAL(memcmp(before, map.entries, sizeof before), 0);
    CU_ASSERT_EQUAL(spans_clear(&map, 12, 14), TUTTI_OK);
    CU_ASSERT_EQUAL(map.count, 9);
    spans_free(&map);
}

static const struct suite_test tests[] = {
    {"status_fail_records_the_sentence", test_status_fail_records_the_sentence},
    {"status_sentence_may_quote_the_last_one", test_status_sentence_may_quote_the_last_one},
    {"status_long_sentence_is_cut", test_status_long_sentence_is_cut},
    {"status_sentence_belongs_to_its_thread", test_status_sentence_belongs_to_its_thread},
    {"status_every_name_is_known", test_status_every_name_is_known},
    {"check_broken_promise_stops_the_program", test_check_broken_promise_stops_the_program},
    {"log_writes_one_line_per_call", test_log_writes_one_line_per_call},
    {"log_goes_to_a_file", test_log_goes_to_a_file},
    {"clock_sleeps_and_never_goes_back", test_clock_sleeps_and_never_goes_back},
    {"spans_agree_with_an_array_of_bytes", test_spans_agree_with_an_array_of_bytes},
    {"spans_split_and_keep_the_edges", test_spans_split_and_keep_the_edges},
    {"spans_out_of_memory_changes_nothing", test_spans_out_of_memory_changes_nothing},
};

int main(int argc, char **argv)
{
    return suite_run("base", tests, sizeof tests / sizeof *tests, argc, argv);
}
