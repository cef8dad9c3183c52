/* mem.c: the table of memory kinds and the process-wide list of the library's allocations.
 *
 * The idea: the list is an array sorted by address, so that a pointer alone finds its allocation by
 * bisection. It is guarded by one lock, which alloc, free and a lookup take; users of the lookup
 * keep its result until mem_generation() moves. This list, its lock and its counters are the only
 * state of the room: a pointer carries no handle, so the list must be the process's.
 *
 * Invariant: entries do not overlap, and an entry is listed exactly while its memory is mapped: it
 * leaves the list, and the generation moves, before the memory goes. */
#include "mem/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "mem/mem_cuda.h"
#include "mem/mem_host.h"

/* Enough for every buffer of a large program; descriptors run out first. */
#define ALLOCATIONS_MAX ((size_t)1 << 20)

static const struct mem_kind *const kinds[TUTTI_MEMORY_COUNT] = {
    [TUTTI_MEMORY_HOST] = &mem_host,
    [TUTTI_MEMORY_CUDA] = &mem_cuda,
};

struct entry {
    struct mem_export memory;
    const struct mem_kind *kind;
};

static struct {
    pthread_mutex_t lock;
    struct entry *entries;
    size_t count;
    size_t capacity;
    uint64_t next_id;
} list = {.lock = PTHREAD_MUTEX_INITIALIZER, .next_id = 1};

static _Atomic uint64_t generation;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A fork while another thread holds the lock would leave it held for ever in the child. A mutex,
 * since the child may release it: of a read-write lock it would not be the owner. */
static void before_fork(void)
{
    pthread_mutex_lock(&list.lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&list.lock);
}

static void child_of_fork(void)
{
    for (size_t i = 0; i < list.count; i++)
        list.entries[i].memory.inherited = true;
    after_fork();
}

static void guard_forks(void)
{
    pthread_atfork(before_fork, after_fork, child_of_fork);
}

/* The number of entries whose base is at or below the pointer. */
static size_t entries_up_to(const void *pointer)
{
    size_t low = 0, high = list.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)list.entries[middle].memory.base <= (uintptr_t)pointer)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool make_room(void)
{
    if (list.count < list.capacity)
        return true;
    if (list.count >= ALLOCATIONS_MAX)
        return false;
    size_t capacity = list.capacity == 0 ? 64 : list.capacity * 2;
    struct entry *entries = realloc(list.entries, capacity * sizeof *entries);
    if (entries == NULL)
        return false;
    list.entries = entries;
    list.capacity = capacity;
    return true;
}

static tutti_status alloc(const struct mem_kind *kind, size_t bytes, void **memory)
{
    must(memory != NULL);
    pthread_once(&once, guard_forks);
    struct mem_export made;
    tutti_status status = kind->alloc(bytes, &made);
    if (status != TUTTI_OK)
        return status;
    pthread_mutex_lock(&list.lock);
    bool room = make_room();
    if (room) {
        size_t at = entries_up_to(made.base);
        memmove(list.entries + at + 1, list.entries + at, (list.count - at) * sizeof *list.entries);
        made.id = list.next_id++;
        list.entries[at] = (struct entry){.memory = made, .kind = kind};
        list.count++;
    }
    pthread_mutex_unlock(&list.lock);
    if (!room) {
        kind->free(&made);
        return fail(TUTTI_ERR_NOMEM, "allocate %zu bytes: no room to list the allocation", bytes);
    }
    *memory = made.base;
    return TUTTI_OK;
}

tutti_status mem_alloc(size_t bytes, void **memory)
{
    return alloc(&mem_host, bytes, memory);
}

tutti_status mem_alloc_in(tutti_memory memory_kind, size_t bytes, void **memory)
{
    if ((unsigned)memory_kind >= TUTTI_MEMORY_COUNT)
        return fail(TUTTI_ERR_ARG, "allocate %zu bytes: %d is no kind of memory (there are %d)",
                    bytes, (int)memory_kind, (int)TUTTI_MEMORY_COUNT);
    return alloc(kinds[memory_kind], bytes, memory);
}

tutti_status mem_free(void *memory)
{
    if (memory == NULL)
        return TUTTI_OK;
    struct entry found = {.kind = NULL};
    pthread_mutex_lock(&list.lock);
    size_t after = entries_up_to(memory);
    if (after > 0 && list.entries[after - 1].memory.base == memory) {
        found = list.entries[after - 1];
        memmove(list.entries + after - 1, list.entries + after,
                (list.count - after) * sizeof *list.entries);
        list.count--;
        atomic_fetch_add_explicit(&generation, 1, memory_order_release);
    }
    pthread_mutex_unlock(&list.lock);
    if (found.kind == NULL)
        return fail(TUTTI_ERR_ARG,
                    "free %p: not the start of an allocation of this library, or freed already",
                    memory);
    found.kind->free(&found.memory);
    return TUTTI_OK;
}

bool mem_find(const void *pointer, size_t len, struct mem_export *out)
{
    bool found = false;
    pthread_mutex_lock(&list.lock);
    size_t after = entries_up_to(pointer);
    if (after > 0) {
        const struct mem_export *entry = &list.entries[after - 1].memory;
        size_t offset = (size_t)((uintptr_t)pointer - (uintptr_t)entry->base);
        found = entry->fd >= 0 && offset < entry->bytes && len <= entry->bytes - offset;
        if (found)
            *out = *entry;
    }
    pthread_mutex_unlock(&list.lock);
    return found;
}

uint64_t mem_generation(void)
{
    return atomic_load_explicit(&generation, memory_order_acquire);
}

tutti_memory mem_detect(const void *pointer)
{
    /* Host memory claims whatever is left, so it is asked last. */
    for (int kind = TUTTI_MEMORY_COUNT - 1; kind > TUTTI_MEMORY_HOST; kind--) {
        if (kinds[kind]->detect(pointer))
            return (tutti_memory)kind;
    }
    return TUTTI_MEMORY_HOST;
}

void mem_copy(void *dst, const void *src, size_t len)
{
    mem_host.copy(dst, src, len);
}
