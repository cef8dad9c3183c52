/* mem_cuda_pool.c: blocks of device and pinned memory, and words, that are kept until the end.
 *
 * The idea: giving memory back to the driver waits for every stream of the device, and one of them
 * may wait for whoever gives it back. So blocks are made in classes of size, four to each power of
 * two (a block is at most a quarter larger than asked for), and a block that is given back waits
 * in its class for the next who asks. When the driver has no more, a larger kept block serves.
 *
 * Invariant: a block is in the table by address for ever, and in a list of kept ones exactly while
 * nobody has it. Device blocks belong to one device; pinned ones to the process. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "mem/mem_cuda.h"

#define BLOCK_MIN   ((size_t)4096) /* a page: what pinning works in */
#define BLOCK_LOG   12
#define CLASSES     (4 * (63 - BLOCK_LOG))
#define BUCKETS_LOG 10 /* of the table by address: chains stay short to tens of thousands */
#define ASIDE_MAX   8  /* blocks that one may cost besides */
#define LINE        64 /* bytes of a cache line: words of two owners never share one */

struct block {
    void *address;
    size_t bytes;
    struct mem_device *device; /* NULL: pinned host memory */
    bool taken;
    struct block *chain; /* the next of its bucket */
    struct block *next;  /* the next kept one of its class */
};

static struct {
    pthread_mutex_t lock;
    struct block *buckets[1 << BUCKETS_LOG];
    struct block *kept[CLASSES];
    struct block *aside; /* that nobody uses */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Rounds up to the size of the class. bytes is at most PTRDIFF_MAX. */
static unsigned class_of(size_t bytes, size_t *rounded)
{
    if (bytes <= BLOCK_MIN) {
        *rounded = BLOCK_MIN;
        return 0;
    }
    unsigned log = 63 - (unsigned)__builtin_clzll(bytes - 1);
    size_t step = (size_t)1 << (log - 2);
    size_t steps = (bytes + step - 1) / step; /* 5 to 8 */
    *rounded = steps * step;
    return (log - BLOCK_LOG) * 4 + (unsigned)steps - 4;
}

static struct block **bucket_of(const void *address)
{
    uint64_t mixed = cuda_address_of(address) * 0x9e3779b97f4a7c15u;
    return &pool.buckets[mixed >> (64 - BUCKETS_LOG)];
}

/* A kept block of the device in the class or, if so allowed, in the nearest larger one. */
static struct block *take_kept(struct mem_device *device, unsigned class, bool larger)
{
    struct block *found = NULL;
    pthread_mutex_lock(&pool.lock);
    for (unsigned c = class; !found && c < (larger ? CLASSES : class + 1); c++) {
        struct block **at = &pool.kept[c];
        while (*at && (*at)->device != device)
            at = &(*at)->next;
        found = *at;
        if (found) {
            *at = found->next;
            found->taken = true;
        }
    }
    pthread_mutex_unlock(&pool.lock);
    return found;
}

static tutti_status make_device_memory(struct mem_device *device, size_t bytes, void **address)
{
    cuda_address memory = 0;
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = device->driver->alloc(&memory, bytes);
    mem_cuda_leave(&scope);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "allocate %zu bytes on %s", bytes, device->name);
    *address = (void *)(uintptr_t)memory;
    return TUTTI_OK;
}

/* A block that peers can map. One that cannot be shared, because it lies where some was freed, is
 * set aside: else the driver would give the same again, and to free it would wait for streams. */
static tutti_status make_shareable_memory(struct mem_device *device, size_t bytes, void **address)
{
    for (int tries = 0; tries < ASIDE_MAX; tries++) {
        void *memory;
        tutti_status status = make_device_memory(device, bytes, &memory);
        if (status != TUTTI_OK)
            return status;
        struct block *aside = mem_cuda_is_named(memory, bytes) ? malloc(sizeof *aside) : NULL;
        if (!aside) {
            *address = memory;
            return TUTTI_OK;
        }
        *aside = (struct block){.address = memory, .bytes = bytes, .device = device};
        pthread_mutex_lock(&pool.lock);
        aside->next = pool.aside;
        pool.aside = aside;
        pthread_mutex_unlock(&pool.lock);
    }
    return fail(TUTTI_ERR_NOMEM,
                "allocate %zu bytes on %s: the program has freed memory that other processes may "
                "still map, and the driver gives only of that",
                bytes, device->name);
}

void mem_cuda_free_aside(void)
{
    pthread_mutex_lock(&pool.lock);
    struct block *first = pool.aside;
    pool.aside = NULL;
    pthread_mutex_unlock(&pool.lock);
    for (struct block *block = first, *next; block; block = next) {
        struct cuda_scope scope;
        next = block->next;
        if (mem_cuda_enter(block->device, &scope) == TUTTI_OK) {
            (void)block->device->driver->free(cuda_address_of(block->address));
            mem_cuda_leave(&scope);
        }
        free(block);
    }
}

static tutti_status make_pinned_memory(struct mem_device *device, size_t bytes, void **address)
{
    void *memory;
    struct cuda_scope scope;
    tutti_status status = mem_alloc(bytes, &memory);
    if (status != TUTTI_OK)
        return status;
    status = mem_cuda_enter(device, &scope);
    if (status == TUTTI_OK) {
        cuda_result result = device->driver->host_register(
            memory, bytes, CUDA_REGISTER_PORTABLE | CUDA_REGISTER_DEVICEMAP);
        mem_cuda_leave(&scope);
        if (result != CUDA_DRIVER_OK)
            status =
                mem_cuda_fail(result, "pin %zu bytes of host memory for %s", bytes, device->name);
    }
    if (status != TUTTI_OK) {
        (void)mem_free(memory);
        return status;
    }
    *address = memory;
    return TUTTI_OK;
}

/* through: the device whose driver and context make the block; owner: whose it is. */
static tutti_status take(struct mem_device *through, struct mem_device *owner, size_t bytes,
                         void **block)
{
    size_t rounded;
    if (bytes > PTRDIFF_MAX / 2)
        return fail(TUTTI_ERR_NOMEM, "allocate %zu bytes: more than any memory holds", bytes);
    unsigned class = class_of(bytes, &rounded);
    struct block *found = take_kept(owner, class, false);
    if (found) {
        *block = found->address;
        return TUTTI_OK;
    }
    struct block *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "allocate %zu bytes: no host memory to list them", bytes);
    *made = (struct block){.bytes = rounded, .device = owner, .taken = true};
    tutti_status status = owner ? make_shareable_memory(through, rounded, &made->address)
                                : make_pinned_memory(through, rounded, &made->address);
    if (status != TUTTI_OK) {
        free(made);
        found = status == TUTTI_ERR_NOMEM ? take_kept(owner, class, true) : NULL;
        if (!found)
            return status;
        *block = found->address;
        return TUTTI_OK;
    }
    pthread_mutex_lock(&pool.lock);
    struct block **bucket = bucket_of(made->address);
    made->chain = *bucket;
    *bucket = made;
    pthread_mutex_unlock(&pool.lock);
    *block = made->address;
    return TUTTI_OK;
}

/* With the lock. NULL: not a block, or nobody has it. */
static struct block *find_taken(const void *address)
{
    struct block *block = *bucket_of(address);
    while (block && block->address != address)
        block = block->chain;
    return block && block->taken ? block : NULL;
}

static void give(struct mem_device *owner, void *address)
{
    size_t rounded;
    pthread_mutex_lock(&pool.lock);
    struct block *block = find_taken(address);
    must(block != NULL);
    must(block->device == owner);
    unsigned class = class_of(block->bytes, &rounded);
    must(rounded == block->bytes);
    block->taken = false;
    block->next = pool.kept[class];
    pool.kept[class] = block;
    pthread_mutex_unlock(&pool.lock);
}

tutti_status mem_device_take(struct mem_device *device, size_t bytes, void **block)
{
    return take(device, device, bytes, block);
}

void mem_device_give(struct mem_device *device, void *block)
{
    if (block)
        give(device, block);
}

tutti_status mem_pinned_take(struct mem_device *device, size_t bytes, void **block)
{
    return take(device, NULL, bytes, block);
}

void mem_pinned_give(struct mem_device *device, void *block)
{
    if (block)
        give(NULL, block);
}

struct mem_device *mem_cuda_block_device(const void *address)
{
    pthread_mutex_lock(&pool.lock);
    const struct block *block = find_taken(address);
    struct mem_device *device = block ? block->device : NULL;
    pthread_mutex_unlock(&pool.lock);
    return device;
}

/* ---- words ---------------------------------------------------------------------------------- */

/* A block of pinned memory costs a descriptor, and captured operations keep lines of it by the
 * ten thousand: a block for them is as large as all before it. */
#define LINES_LEAST ((size_t)64 << 10)
#define LINES_MOST  ((size_t)4 << 20)

size_t mem_cuda_lines_bytes(size_t before)
{
    return before < LINES_LEAST ? LINES_LEAST : before < LINES_MOST ? before : LINES_MOST;
}

struct kept_words {
    struct mem_words words; /* first: a pointer to it is one to this */
    struct kept_words *next;
};

/* Cuts a block of pinned memory into lines, which are added to the fresh ones. */
static tutti_status make_words(struct mem_device *device)
{
    void *block;
    cuda_address address = 0;
    struct cuda_scope scope;
    pthread_mutex_lock(&device->lock);
    size_t bytes = mem_cuda_lines_bytes(device->words_bytes), count = bytes / LINE;
    pthread_mutex_unlock(&device->lock);
    struct kept_words *made = calloc(count, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "make words for %s: out of host memory", device->name);
    tutti_status status = mem_pinned_take(device, bytes, &block);
    if (status != TUTTI_OK)
        goto free_made;
    status = mem_cuda_enter(device, &scope);
    if (status == TUTTI_OK) {
        cuda_result result = device->driver->host_address(&address, block, 0);
        mem_cuda_leave(&scope);
        if (result != CUDA_DRIVER_OK)
            status = mem_cuda_fail(result, "map words into %s", device->name);
    }
    if (status != TUTTI_OK)
        goto give_block;
    memset(block, 0, bytes);
    for (size_t i = 0; i < count; i++) {
        made[i].words.word = (_Atomic uint32_t *)((char *)block + i * LINE);
        made[i].words.address = address + i * LINE;
        made[i].next = &made[i + 1];
    }
    pthread_mutex_lock(&device->lock);
    made[count - 1].next = device->fresh;
    device->fresh = made;
    device->words_bytes += bytes;
    pthread_mutex_unlock(&device->lock);
    return TUTTI_OK;

give_block:
    mem_pinned_give(device, block);
free_made:
    free(made);
    return status;
}

static struct kept_words *pop_words(struct mem_device *device, struct kept_words **list)
{
    pthread_mutex_lock(&device->lock);
    struct kept_words *found = *list;
    if (found)
        *list = found->next;
    pthread_mutex_unlock(&device->lock);
    return found;
}

tutti_status mem_cuda_words_fresh(struct mem_device *device, struct mem_words **words)
{
    struct kept_words *found;
    while (!(found = pop_words(device, &device->fresh))) {
        tutti_status status = make_words(device);
        if (status != TUTTI_OK)
            return status;
    }
    *words = &found->words;
    return TUTTI_OK;
}

tutti_status mem_words_take(struct mem_device *device, struct mem_words **words)
{
    struct kept_words *found = pop_words(device, &device->words);
    if (!found)
        return mem_cuda_words_fresh(device, words);
    *words = &found->words;
    return TUTTI_OK;
}

void mem_words_give(struct mem_device *device, struct mem_words *words)
{
    struct kept_words *kept = (struct kept_words *)words;
    if (!kept)
        return;
    pthread_mutex_lock(&device->lock);
    kept->next = device->words;
    device->words = kept;
    pthread_mutex_unlock(&device->lock);
}
