/* suite.h: runs one CUnit suite and ends with a line the test runner counts:
 *     suite NAME: P passed, F failed, S skipped
 * A test that cannot run here calls suite_skip(reason) and returns: the reason is printed. */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef TESTS_WITHOUT_CUNIT
#include "tests/no_cunit.h"
#else
#include <CUnit/Basic.h>
#endif

struct suite_test {
    const char *name;
    void (*run)(void);
};

/* An entry of a suite's list: the function test_name. */
#define TEST(name)                                                                                 \
    {                                                                                              \
#name, test_##name                                                                         \
    }

/* The seed of this run: TUTTI_TEST_SEED or the clock; printed by suite_run. */
uint64_t suite_seed(void);
/* A small generator: state in, number out (splitmix64). */
uint64_t suite_random(uint64_t *state);
void suite_skip(const char *reason);
/* A new, empty file, and the setting that makes it the log; suite_log_end removes it. */
struct suite_log {
    char path[40], setting[64];
};
void suite_log_begin(struct suite_log *log);
void suite_log_end(const struct suite_log *log);
/* Makes the kth allocation from now on fail (1: the next), in any thread, once; 0: none. Covers
 * malloc, calloc, realloc, aligned_alloc and posix_memalign called by the project's own code. */
void suite_fail_allocation(uint64_t kth);
/* True when that allocation was reached: a loop over k ends at the first k that was not. */
bool suite_allocation_failed(void);
/* Exit status for main: 0 when nothing failed. argv[1], if given, selects tests by substring. */
int suite_run(const char *name, const struct suite_test *tests, size_t count, int argc,
              char **argv);

#endif
