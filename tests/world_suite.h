/* world_suite.h: what CUnit suites over worlds share: worlds as assertions, and those of processes
 * over shared memory, over TCP, and over both. */
#ifndef TESTS_WORLD_SUITE_H
#define TESTS_WORLD_SUITE_H

#include <stdlib.h>

#include "tests/suite.h"
#include "tests/world.h"

static const char *const shm[] __attribute__((unused)) = {"TUTTI_TRANSPORTS=shm", NULL};
static const char *const tcp[] __attribute__((unused)) = {"TUTTI_TRANSPORTS=tcp", NULL};

static inline void run(enum world_kind kind, int size, const char *const *settings,
                       world_fn *function, void *context)
{
    struct world world = {.kind = kind, .size = size, .settings = settings, .limit_s = 40};
    CU_ASSERT_EQUAL(world_run(&world, function, context), 0);
}

static inline void be_on_one_of_two_hosts(int rank)
{
    setenv("TUTTI_HOST_ID", rank < 2 ? "one" : "two", 1);
}

/* Processes over shm, tcp, or both (on two hosts), by i modulo 3. */
static inline struct world world_over(int i, int size)
{
    static const char *const mixed[] = {"TUTTI_TRANSPORTS=shm,tcp", NULL};
    static const char *const *const settings[] = {shm, tcp, mixed};
    return (struct world){.kind = WORLD_PROCESSES,
                          .size = size,
                          .settings = settings[i % 3],
                          .limit_s = 20,
                          .prepare = i % 3 == 2 ? be_on_one_of_two_hosts : NULL};
}

#endif
