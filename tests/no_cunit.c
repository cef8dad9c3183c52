/* no_cunit.c: see no_cunit.h. One registry, one suite. */
#include "tests/no_cunit.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>

enum { TESTS_MAX = 256 };

static struct {
    struct {
        const char *name;
        CU_TestFunc *function;
    } tests[TESTS_MAX];
    unsigned count, run, failed, failures;
    jmp_buf end;
    bool running;
} registry;

void CU_initialize_registry(void)
{
}

void CU_cleanup_registry(void)
{
}

CU_pSuite CU_add_suite(const char *name, void *init, void *clean)
{
    (void)init;
    (void)clean;
    printf("without CUnit: suite %s\n", name);
    return NULL;
}

void CU_add_test(CU_pSuite suite, const char *name, CU_TestFunc *function)
{
    (void)suite;
    if (registry.count == TESTS_MAX) {
        printf("more than %d tests: %s does not run\n", TESTS_MAX, name);
        registry.failed++;
        return;
    }
    registry.tests[registry.count].name = name;
    registry.tests[registry.count++].function = function;
}

void CU_basic_set_mode(int mode)
{
    (void)mode;
}

static void run(CU_TestFunc *function)
{
    registry.running = true;
    if (setjmp(registry.end) == 0)
        function();
    registry.running = false;
}

void CU_basic_run_tests(void)
{
    for (unsigned i = 0; i < registry.count; i++) {
        unsigned before = registry.failures;
        printf("  Test: %s ...\n", registry.tests[i].name);
        run(registry.tests[i].function);
        registry.run++;
        registry.failed += registry.failures > before;
        printf("  Test: %s %s\n", registry.tests[i].name,
               registry.failures > before ? "FAILED" : "passed");
    }
}

unsigned CU_get_number_of_tests_run(void)
{
    return registry.run;
}

unsigned CU_get_number_of_tests_failed(void)
{
    return registry.failed;
}

unsigned CU_get_number_of_failures(void)
{
    return registry.failures;
}

void no_cunit_assert(int good, const char *text, const char *file, int line, int fatal)
{
    if (good)
        return;
    registry.failures++;
    printf("    %s:%d: %s\n", file, line, text);
    if (fatal && registry.running)
        longjmp(registry.end, 1);
}
