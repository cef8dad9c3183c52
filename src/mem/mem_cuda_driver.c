/* mem_cuda_driver.c: finds the driver's library, once, when it is wanted or already there.
 *
 * The idea: a process uses the driver that the program has loaded, whenever it has, and loads one
 * itself only when asked for device memory. The settings are read at the first question, for the
 * process: memory belongs to no communicator. A driver that the program has loaded and the library
 * leaves alone is still asked whether a pointer is its own, so that no CPU code touches it.
 *
 * Invariant: `driver` is set once and never changes, so that a relaxed load tells whether there is
 * one and an acquire load gives a complete table. */
#include "mem/mem_cuda_driver.h"

#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/lock.h"
#include "base/settings.h"
#include "mem/device.h"

#define DRIVER_LIBRARY "libcuda.so.1"
#define WORDS_MAX      256 /* of a sentence's first part */

typedef cuda_result pointer_query(unsigned count, int *attributes, void **values,
                                  cuda_address pointer);

static struct cuda_driver table;
static _Atomic(const struct cuda_driver *) driver;

static struct {
    struct lock lock;
    struct settings settings;
    bool loaded;             /* the settings */
    bool refused;            /* the library lacks something: it is not asked again */
    bool initialised;        /* cuInit was good */
    atomic_ullong looked_at; /* when the process had got so many libraries */
    /* Of a driver that is there and not used; set after the reason. */
    _Atomic(pointer_query *) unused;
    char why_unused[WORDS_MAX];
} opening = {.lock = LOCK_INIT};

bool mem_device_present(void)
{
    return atomic_load_explicit(&driver, memory_order_relaxed) != NULL;
}

const struct cuda_driver *mem_cuda_driver(void)
{
    return atomic_load_explicit(&driver, memory_order_acquire);
}

static const char *library_name(void)
{
    return opening.settings.cuda_driver[0] ? opening.settings.cuda_driver : DRIVER_LIBRARY;
}

/* With the lock. */
static tutti_status load_settings(void)
{
    if (opening.loaded)
        return TUTTI_OK;
    tutti_status status = settings_load(&opening.settings);
    opening.loaded = status == TUTTI_OK;
    return status;
}

/* What is missing of the library's symbols, or NULL. */
static const char *fill_table(void *library)
{
#define MUST true
#define MAY  false
#define X(member, symbol, parameters, need)                                                        \
    *(void **)&table.member = dlsym(library, #symbol);                                             \
    if (need && !table.member)                                                                     \
        return #symbol;
    CUDA_FUNCTIONS(X)
#undef X
#undef MUST
#undef MAY
    return NULL;
}

/* With the lock: the program may have loaded what the library does not use. */
static void watch_unused(void)
{
    const char *names[] = {library_name(), DRIVER_LIBRARY};
    for (int i = 0; i < 2 && !atomic_load(&opening.unused); i++) {
        pointer_query *query = NULL;
        void *library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
        if (library)
            *(void **)&query = dlsym(library, "cuPointerGetAttributes");
        if (!query)
            continue;
        snprintf(opening.why_unused, sizeof opening.why_unused, "%s", status_sentence());
        atomic_store(&opening.unused, query);
    }
}

const char *mem_device_refused(const void *pointer)
{
    pointer_query *query = atomic_load_explicit(&opening.unused, memory_order_acquire);
    if (!query)
        return NULL;
    uint64_t type = 0, managed = 0;
    int attributes[] = {CUDA_POINTER_MEMORY_TYPE, CUDA_POINTER_IS_MANAGED};
    void *values[] = {&type, &managed};
    if (query(2, attributes, values, (uintptr_t)pointer) != CUDA_DRIVER_OK ||
        (uint32_t)type != CUDA_MEMORY_TYPE_DEVICE || (uint8_t)managed != 0)
        return NULL;
    return opening.why_unused;
}

/* With the lock. flags: RTLD_NOLOAD to take only what the program has loaded. */
static tutti_status take_library(int flags)
{
    tutti_status status = load_settings();
    if (status != TUTTI_OK)
        return status;
    if (!opening.settings.cuda)
        return fail(TUTTI_ERR_UNSUPPORTED, "no GPU memory: TUTTI_CUDA=0");
    if (opening.refused)
        return fail(TUTTI_ERR_UNSUPPORTED, "no GPU memory: %s is too old", library_name());
    void *library = dlopen(library_name(), RTLD_NOW | flags);
    if (!library) {
        if (flags & RTLD_NOLOAD)
            return fail(TUTTI_ERR_UNSUPPORTED, "no GPU memory: %s is not loaded", library_name());
        return fail(TUTTI_ERR_UNSUPPORTED, "no GPU memory: %s", dlerror());
    }
    const char *missing = fill_table(library);
    if (missing) {
        opening.refused = true;
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "no GPU memory: %s has no %s; a driver of CUDA 11.4 or newer is needed",
                    library_name(), missing);
    }
    table.stream_ops = opening.settings.cuda_stream_ops;
    atomic_store_explicit(&driver, &table, memory_order_release);
    atomic_store(&opening.unused, NULL);
    return TUTTI_OK;
}

static tutti_status load_library(int flags)
{
    if (mem_device_present())
        return TUTTI_OK;
    tutti_status status = take_library(flags);
    if (status != TUTTI_OK)
        watch_unused();
    return status;
}

/* How many libraries were ever added to the process. */
static int count_added(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    *(unsigned long long *)context = info->dlpi_adds;
    return 1;
}

/* Pages of pointers that this thread has judged: the same buffers are given again and again, and to
 * look takes a lock, which waits until the messages just written have left the core. */
static _Thread_local uintptr_t judged[16];

/* Takes note of the page; true if it has been there. */
static bool is_judged(const void *pointer)
{
    uintptr_t page = (uintptr_t)pointer >> 12;
    uintptr_t *place = &judged[page % (sizeof judged / sizeof *judged)];
    bool known = pointer && *place == page;
    *place = page;
    return known;
}

void mem_device_notice(const void *pointer)
{
    unsigned long long added = 0;
    if (mem_device_present() || is_judged(pointer))
        return;
    dl_iterate_phdr(count_added, &added);
    if (added == atomic_load_explicit(&opening.looked_at, memory_order_acquire))
        return;
    lock_take(&opening.lock);
    (void)load_library(RTLD_NOLOAD);
    if (opening.loaded)
        atomic_store_explicit(&opening.looked_at, added, memory_order_release);
    lock_leave(&opening.lock);
}

tutti_status mem_cuda_driver_open(const struct cuda_driver **opened)
{
    lock_take(&opening.lock);
    tutti_status status = load_library(0);
    if (status == TUTTI_OK && !opening.initialised) {
        cuda_result result = table.init(0);
        opening.initialised = result == CUDA_DRIVER_OK;
        if (!opening.initialised) {
            (void)mem_cuda_fail(result, "no GPU memory: cuInit of %s", library_name());
            status = TUTTI_ERR_UNSUPPORTED;
        }
    }
    lock_leave(&opening.lock);
    if (status == TUTTI_OK)
        *opened = mem_cuda_driver();
    return status;
}

tutti_status mem_cuda_fail(cuda_result result, const char *format, ...)
{
    char what[WORDS_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const char *text = NULL, *name = NULL;
    if (table.error_text(result, &text) != CUDA_DRIVER_OK || !text)
        text = "unknown error";
    if (table.error_name(result, &name) != CUDA_DRIVER_OK || !name)
        name = "?";
    tutti_status status = TUTTI_ERR_SYSTEM;
    if (result == CUDA_DRIVER_OUT_OF_MEMORY)
        status = TUTTI_ERR_NOMEM;
    else if (result == CUDA_DRIVER_NOT_SUPPORTED)
        status = TUTTI_ERR_UNSUPPORTED;
    return fail(status, "%s: %s (%s, %d)", what, text, name, result);
}
