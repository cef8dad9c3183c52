/* suite.c: see suite.h. One process, one suite; every test is one CUnit test, so that a failed
 * assertion is counted once per test and the closing line adds up. */
#include "tests/suite.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static unsigned skipped; /* tests that left something out */
static uint64_t seed;

uint64_t suite_seed(void)
{
    if (seed == 0) {
        const char *text = getenv("TUTTI_TEST_SEED");
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        seed = text ? strtoull(text, NULL, 0) : (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20;
    }
    return seed;
}

uint64_t suite_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void suite_log_begin(struct suite_log *log)
{
    strcpy(log->path, "/tmp/tutti_test_log_XXXXXX");
    int fd = mkstemp(log->path);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
    snprintf(log->setting, sizeof log->setting, "TUTTI_LOG_FILE=%s", log->path);
}

void suite_log_end(const struct suite_log *log)
{
    unlink(log->path);
}

void suite_skip(const char *reason)
{
    static unsigned last = UINT_MAX; /* so many tests were over when the last skip was told */
    skipped += CU_get_number_of_tests_run() != last;
    last = CU_get_number_of_tests_run();
    printf("    SKIPPED: %s\n", reason);
}

/* ---- failing allocations: the linker sends the project's calls here (--wrap) ------------------
 */

static _Atomic(uint64_t) allocations_left;
static _Atomic(bool) allocation_failed;

void suite_fail_allocation(uint64_t kth)
{
    atomic_store(&allocation_failed, false);
    atomic_store(&allocations_left, kth);
}

bool suite_allocation_failed(void)
{
    return atomic_load(&allocation_failed);
}

static bool fails_now(void)
{
    uint64_t left = atomic_load(&allocations_left);
    while (left > 0 && !atomic_compare_exchange_weak(&allocations_left, &left, left - 1))
        ;
    if (left == 1)
        atomic_store(&allocation_failed, true);
    return left == 1;
}

void *__real_malloc(size_t len);
void *__real_calloc(size_t count, size_t len);
void *__real_realloc(void *old, size_t len);
void *__real_aligned_alloc(size_t alignment, size_t len);
int __real_posix_memalign(void **out, size_t alignment, size_t len);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t count, size_t len);
void *__wrap_realloc(void *old, size_t len);
void *__wrap_aligned_alloc(size_t alignment, size_t len);
int __wrap_posix_memalign(void **out, size_t alignment, size_t len);

void *__wrap_malloc(size_t len)
{
    return fails_now() ? NULL : __real_malloc(len);
}

void *__wrap_calloc(size_t count, size_t len)
{
    return fails_now() ? NULL : __real_calloc(count, len);
}

void *__wrap_realloc(void *old, size_t len)
{
    return fails_now() ? NULL : __real_realloc(old, len);
}

void *__wrap_aligned_alloc(size_t alignment, size_t len)
{
    return fails_now() ? NULL : __real_aligned_alloc(alignment, len);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t len)
{
    return fails_now() ? ENOMEM : __real_posix_memalign(out, alignment, len);
}

int suite_run(const char *name, const struct suite_test *tests, size_t count, int argc, char **argv)
{
    const char *filter = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("suite %s: seed %llu (TUTTI_TEST_SEED repeats it)\n", name,
           (unsigned long long)suite_seed());
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite(name, NULL, NULL);
    for (size_t i = 0; i < count; i++) {
        if (strstr(tests[i].name, filter))
            CU_add_test(suite, tests[i].name, tests[i].run);
    }
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned ran = CU_get_number_of_tests_run();
    unsigned failed = CU_get_number_of_tests_failed();
    CU_cleanup_registry();
    if (ran == 0)
        printf("no test of this suite has \"%s\" in its name\n", filter);
    unsigned others = failed + skipped; /* one test may count twice */
    printf("suite %s: %u passed, %u failed, %u skipped\n", name, ran > others ? ran - others : 0,
           failed, skipped);
    return failed != 0 || ran == 0;
}
