/* test_huge.c: counts beyond 2^31 elements and buffers beyond 4 GiB, between two processes. Values
 * are checked at sampled places, borders of the 32-bit range among them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/suite.h"
#include "tests/world.h"

#define COUNT  (((size_t)1 << 32) + 12345)
#define NEEDED ((size_t)14 << 30) /* two ranks, one buffer each, landing places and room */

static uint8_t value_of(int rank, size_t i)
{
    return (uint8_t)((i * 2654435761u >> 13) % 100 + (size_t)rank);
}

/* Places worth a look: around powers of two, the ends, and a stride over the rest. */
static size_t place(size_t k)
{
    static const size_t special[] = {0,
                                     1,
                                     ((size_t)1 << 31) - 1,
                                     (size_t)1 << 31,
                                     ((size_t)1 << 32) - 1,
                                     (size_t)1 << 32,
                                     COUNT - 1,
                                     COUNT / 2};
    size_t specials = sizeof special / sizeof *special;
    return k < specials ? special[k] : (k * 982451653u) % COUNT;
}

static int allreduce(tutti_comm *comm, int rank, int size, void *context)
{
    void *memory = NULL;
    int wrong = 0, library = *(int *)context;
    if (library)
        wrong += world_check(rank, tutti_mem_alloc(COUNT, &memory) == TUTTI_OK, "%s",
                             tutti_last_error());
    else
        memory = malloc(COUNT);
    if (!memory)
        return wrong + world_check(rank, 0, "no memory");
    uint8_t *data = memory;
    memset(data, rank, COUNT);
    for (size_t k = 0; k < 100000; k++)
        data[place(k)] = value_of(rank, place(k));
    tutti_status status = tutti_allreduce(data, data, COUNT, TUTTI_UINT8, TUTTI_SUM, comm);
    wrong += world_check(rank, status == TUTTI_OK, "%s", tutti_last_error());
    for (size_t k = 0; k < 100000 && !wrong; k++) {
        uint8_t want = 0;
        for (int r = 0; r < size; r++)
            want = (uint8_t)(want + value_of(r, place(k)));
        wrong += world_check(rank, data[place(k)] == want, "element %zu", place(k));
    }
    if (library)
        tutti_mem_free(memory);
    else
        free(memory);
    return wrong;
}

static int broadcast(tutti_comm *comm, int rank, int size, void *context)
{
    uint8_t *data = malloc(COUNT);
    int wrong = 0;
    (void)size;
    (void)context;
    if (!data)
        return world_check(rank, 0, "no memory");
    memset(data, 0, COUNT);
    for (size_t k = 0; k < 1000 && rank == 1; k++)
        data[place(k)] = value_of(1, place(k));
    tutti_status status = tutti_broadcast(data, data, COUNT, TUTTI_UINT8, 1, comm);
    wrong += world_check(rank, status == TUTTI_OK, "%s", tutti_last_error());
    for (size_t k = 0; k < 1000 && !wrong; k++)
        wrong +=
            world_check(rank, data[place(k)] == value_of(1, place(k)), "element %zu", place(k));
    free(data);
    return wrong;
}

/* Bytes that can be had without swapping: free memory and what the page cache would give back. */
static size_t available_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    }
    if (file)
        fclose(file);
    return (size_t)kib << 10;
}

static int room(void)
{
    size_t available = available_bytes();
    if (getenv("TUTTI_TEST_FAST")) {
        suite_skip("buffers beyond 4 GiB are left to the full run");
        return 0;
    }
    if (available < NEEDED) {
        suite_skip("buffers beyond 4 GiB need 14 GiB of free memory");
        return 0;
    }
    return 1;
}

static void run(const char *transport, world_fn *function, int library)
{
    const char *settings[] = {transport, NULL};
    struct world world = {.kind = WORLD_PROCESSES, .size = 2, .settings = settings, .limit_s = 200};
    if (room())
        CU_ASSERT_EQUAL(world_run(&world, function, &library), 0);
}

static void test_huge_allreduce_in_library_memory(void)
{
    run("TUTTI_TRANSPORTS=shm", allreduce, 1);
}

static void test_huge_allreduce_in_ordinary_memory(void)
{
    run("TUTTI_TRANSPORTS=shm", allreduce, 0);
}

static void test_huge_broadcast_over_tcp(void)
{
    run("TUTTI_TRANSPORTS=tcp", broadcast, 0);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"allreduce_in_library_memory", test_huge_allreduce_in_library_memory},
        {"allreduce_in_ordinary_memory", test_huge_allreduce_in_ordinary_memory},
        {"broadcast_over_tcp", test_huge_broadcast_over_tcp},
    };
    return suite_run("huge", tests, sizeof tests / sizeof *tests, argc, argv);
}
