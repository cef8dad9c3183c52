/* rig_suite.h: what CUnit suites over the rig share: worlds as assertions, and settings by which
 * calls on device memory work there, or through host memory. */
#ifndef TESTS_RIG_SUITE_H
#define TESTS_RIG_SUITE_H

#include "tests/hosts.h"
#include "tests/rig.h"
#include "tests/suite.h"

#ifndef RUN_LIMIT_S
#define RUN_LIMIT_S 120 /* of a world, unless a suite has another */
#endif

static const char *const staged[] __attribute__((unused)) = {"TUTTI_CUDA_DIRECT=0", NULL};
static const char *const by_kernels[] __attribute__((unused)) = {
    "TUTTI_CUDA_DIRECT=0", "TUTTI_CUDA_KERNEL_OUT=16K", "TUTTI_CUDA_KERNEL_BACK=32K", NULL};
static const char *const direct[] __attribute__((unused)) = {"TUTTI_CUDA_DIRECT_MIN=1", NULL};

/* Whether the test is of the stand-in alone and the driver a real one: then it is skipped, and why.
 */
static inline bool skips_real(const char *reason)
{
    bool real = rig_is_there() && !rig_is_standin();
    if (real)
        suite_skip(reason);
    return real;
}

/* Runs the function as every rank; nothing may be wrong. Skipped where there is no GPU, and threads
 * between hosts (TUTTI_TEST_HOSTS): they are all on one. */
static inline void run_world(const struct world *world, world_fn *function, void *context)
{
    if (world->kind == WORLD_THREADS && !hosts_here()) {
        suite_skip("threads are on one host, and the suite without hosts runs them");
        return;
    }
    if (!rig_is_there()) {
        suite_skip("no GPU");
        return;
    }
    CU_ASSERT_EQUAL(rig_run(world, function, context), 0);
}

static inline void run(enum world_kind kind, int size, const char *const *settings,
                       world_fn *function, void *context)
{
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = RUN_LIMIT_S};
    run_world(&world, function, context);
}

#endif
