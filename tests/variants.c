/* variants.c: see variants.h. */
#include "tests/variants.h"

#include <stdio.h>
#include <string.h>

#include "tests/hosts.h"

#define DELAYS "delay:200us@20%;reorder"

static const struct variant {
    const char *transport, *fault;
    bool threads, inplace, cma, rdma;
} variants[] = {
    {"inproc", NULL, true, true, true, false},   {"inproc", "", true, true, true, false},
    {"inproc", DELAYS, true, true, true, false}, {"shm", NULL, false, true, true, false},
    {"shm", NULL, false, false, true, false},    {"shm", NULL, false, false, false, false},
    {"shm", NULL, true, true, true, false},      {"shm", "", false, true, true, false},
    {"shm", DELAYS, false, true, true, false},   {"tcp", NULL, false, true, true, false},
    {"tcp", NULL, true, true, true, false},      {"tcp", "", false, true, true, false},
    {"tcp", DELAYS, false, true, true, false},   {"ib", NULL, false, true, true, true},
    {"roce", NULL, false, true, true, true},     {"roce", NULL, true, true, true, true},
    {"roce", "", false, true, true, true},       {"roce", DELAYS, false, true, true, true},
    {"iwarp", NULL, false, true, true, true},    {"iwarp", NULL, true, true, true, true},
    {"iwarp", DELAYS, false, true, true, true},
};
#define COUNT (sizeof variants / sizeof *variants)

/* The thread sanitizer looks at threads; it mistakes a lock that a forked child makes anew for one
 * that is still held. */
#ifdef __SANITIZE_THREAD__
#define UNDER_TSAN true
#else
#define UNDER_TSAN false
#endif

void variants_run(links_fn *function, uint32_t size, uint32_t lanes, int which, int number)
{
    for (size_t i = 0; i < COUNT; i++) {
        const struct variant *v = &variants[i];
        if (((which & VARIANTS_PROCESSES) && v->threads) ||
            ((which & VARIANTS_THREADS) && !v->threads) || ((which & VARIANTS_PLAIN) && v->fault))
            continue;
        if (!transport_find(v->transport) || !hosts_transport_wanted(v->transport))
            continue; /* RDMA may be left out of the build */
        if (v->threads && size > 8 && v->rdma) {
            printf("    %s, threads: left out at %u ranks, since a guest runs the threads of a "
                   "process one at a time\n",
                   v->transport, size);
            continue;
        }
        if (UNDER_TSAN && !v->threads && strcmp(v->transport, "shm") == 0)
            continue;
        char why[SENTENCE_MAX];
        struct links_world *world = links_world_new(v->transport, size, lanes);
        if (hosts_here() && !world->ops->probe(&world->settings, why, sizeof why)) {
            printf("    %s does not work here: %s\n", v->transport, why);
            continue;
        }
        world->processes = !v->threads;
        world->fault = v->fault;
        world->settings.inplace = v->inplace;
        world->settings.cma = v->cma;
        world->number = number;
        unsigned before = CU_get_number_of_failures();
        links_run(world, function);
        if (CU_get_number_of_failures() != before)
            printf("    that was %s, %s, fault %s, inplace %d, cma %d\n", v->transport,
                   v->threads ? "threads" : "processes", v->fault ? v->fault : "-", v->inplace,
                   v->cma);
    }
}

void variants_fill(uint8_t *at, size_t len, uint32_t key)
{
    for (size_t i = 0; i < len; i++)
        at[i] = (uint8_t)(i * 7 + (i >> 8) + key * 31);
}

size_t variants_wrong(const uint8_t *at, size_t len, uint32_t key)
{
    size_t wrong = 0;
    for (size_t i = 0; i < len; i++)
        wrong += at[i] != (uint8_t)(i * 7 + (i >> 8) + key * 31);
    return wrong;
}
