/* mem_cuda.c: contexts of the CUDA driver, where a pointer lies, and the row of the CUDA kind.
 *
 * The idea: a device of this room is a context, because that is what the driver's memory and
 * streams belong to. Contexts are met, not made: one is opened when memory or a stream of it is
 * first named, and only a program that asks for device memory without having a context gets the
 * first device's primary one. What the driver must load is loaded then, since later a stream of
 * the program may be waiting for us, and loading would wait for it.
 *
 * A green context is its GPU's primary context with fewer multiprocessors: no device of its own.
 *
 * Memory without a context (memory pools, virtual memory) belongs to its device's primary context
 * if that is active, whoever asks, so that all threads agree; else to the one current here.
 *
 * Invariant: the list of devices only grows; a device in it is complete, or unusable for good. */
#include "mem/mem_cuda.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

/* Contexts of one process: a few per GPU. */
#define DEVICES_MAX 64
static_assert(DEVICES_MAX <= 64, "a bit for each in mem_device.opened");

static struct {
    pthread_mutex_t lock; /* held while a context is opened */
    struct mem_device *list[DEVICES_MAX];
    _Atomic unsigned count;
} devices = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- contexts ------------------------------------------------------------------------------- */

tutti_status mem_cuda_enter_context(struct mem_device *device, cuda_context context,
                                    struct cuda_scope *scope)
{
    const struct cuda_driver *driver = device->driver;
    *scope = (struct cuda_scope){.device = device, .mode = CUDA_CAPTURE_MODE_RELAXED};
    cuda_context current = NULL;
    cuda_result result = driver->context_current(&current);
    if (result == CUDA_DRIVER_OK && current != context) {
        result = driver->context_push(context);
        scope->pushed = result == CUDA_DRIVER_OK;
    }
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "make the context of %s current", device->name);
    (void)driver->capture_mode(&scope->mode);
    return TUTTI_OK;
}

void mem_cuda_leave(struct cuda_scope *scope)
{
    const struct cuda_driver *driver = scope->device->driver;
    cuda_context popped;
    (void)driver->capture_mode(&scope->mode);
    if (scope->pushed)
        (void)driver->context_pop(&popped);
}

/* With the context entered. */
static tutti_status describe(struct mem_device *device)
{
    const struct cuda_driver *driver = device->driver;
    char name[CUDA_NAME_MAX - 16] = "";
    int least = 0, multiprocessors = 0, host_pointers = 0;
    cuda_result result = driver->context_device(&device->ordinal);
    if (result == CUDA_DRIVER_OK)
        result = driver->device_name(name, (int)sizeof name, device->ordinal);
    if (result == CUDA_DRIVER_OK)
        result = driver->device_uuid(&device->uuid, device->ordinal);
    if (result == CUDA_DRIVER_OK)
        result = driver->context_priorities(&least, &device->priority);
    if (result == CUDA_DRIVER_OK)
        result = driver->device_attribute(&multiprocessors, CUDA_DEVICE_MULTIPROCESSORS,
                                          device->ordinal);
    if (result == CUDA_DRIVER_OK)
        result =
            driver->device_attribute(&host_pointers, CUDA_DEVICE_HOST_POINTERS, device->ordinal);
    if (result != CUDA_DRIVER_OK)
        return mem_cuda_fail(result, "ask what GPU a context is on");
    device->host_pointers = host_pointers != 0;
    snprintf(device->name, sizeof device->name, "GPU %d (%s)", device->ordinal, name);
    device->multiprocessors = multiprocessors > 0 ? (unsigned)multiprocessors : 1;
    mem_cuda_look_for_nics(device);
    return TUTTI_OK;
}

/* A primary context ends when all who retained it have released it; what is kept of it here is used
 * as long as the process lives. */
static void keep_context(const struct mem_device *device)
{
    const struct cuda_driver *driver = device->driver;
    int ordinal = device->ordinal, active = 0;
    unsigned flags;
    cuda_context primary;
    if (driver->primary_state(ordinal, &flags, &active) == CUDA_DRIVER_OK && active &&
        driver->primary_retain(&primary, ordinal) == CUDA_DRIVER_OK && primary != device->context)
        (void)driver->primary_release(ordinal);
}

/* NULL: out of memory. A device that cannot be used is one, too: opening it takes long, and what
 * was made before the failure cannot be given back while streams wait. */
static struct mem_device *open_device(const struct cuda_driver *driver, cuda_context context)
{
    struct mem_device *device = calloc(1, sizeof *device);
    if (!device)
        return NULL;
    *device = (struct mem_device){.driver = driver, .context = context, .name = "a GPU"};
    pthread_mutex_init(&device->lock, NULL);
    pthread_mutex_init(&device->putting, NULL);
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status == TUTTI_OK) {
        status = describe(device);
        if (status == TUTTI_OK) {
            keep_context(device);
            mem_cuda_load_kernels(device);
        }
        if (status == TUTTI_OK)
            status = mem_cuda_probe_stream_ops(device);
        mem_cuda_leave(&scope);
    }
    if (status == TUTTI_OK)
        status = mem_cuda_make_lanes(device);
    if (status == TUTTI_OK)
        status = mem_cuda_make_sample(device);
    if (status == TUTTI_OK)
        status = mem_cuda_probe_beside(device);
    device->unusable = status;
    if (status != TUTTI_OK)
        snprintf(device->why, sizeof device->why, "%s", status_sentence());
    return device;
}

static struct mem_device *find_device(cuda_context context)
{
    unsigned count = atomic_load_explicit(&devices.count, memory_order_acquire);
    for (unsigned i = 0; i < count; i++) {
        if (devices.list[i]->context == context)
            return devices.list[i];
    }
    return NULL;
}

cuda_context mem_cuda_whole_context(const struct cuda_driver *driver, cuda_context context,
                                    cuda_stream stream)
{
    struct mem_device asked = {.driver = driver, .context = context, .name = "a GPU"};
    struct cuda_scope scope;
    cuda_context whole = NULL;
    void *green = NULL;
    if (find_device(context) || !driver->stream_contexts)
        return context;
    /* Not for a stream that tells by itself: a green context is current in one thread at a time. */
    if (!stream && mem_cuda_enter(&asked, &scope) != TUTTI_OK)
        return context;
    cuda_result result = driver->stream_contexts(stream, &whole, &green);
    if (!stream)
        mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK && green ? whole : context;
}

tutti_status mem_cuda_device_of_context(const struct cuda_driver *driver, cuda_context context,
                                        struct mem_device **found)
{
    struct mem_device *device = find_device(context);
    tutti_status status = TUTTI_OK;
    if (!device) {
        context = mem_cuda_whole_context(driver, context, NULL);
        pthread_mutex_lock(&devices.lock);
        device = find_device(context);
        unsigned count = atomic_load_explicit(&devices.count, memory_order_relaxed);
        if (!device && count == DEVICES_MAX) {
            status = fail(TUTTI_ERR_NOMEM, "open a GPU context: %d are open", DEVICES_MAX);
        } else if (!device) {
            device = open_device(driver, context);
            if (!device)
                status = fail(TUTTI_ERR_NOMEM, "open a GPU context: out of host memory");
        }
        if (device && !find_device(context)) {
            device->number = (int)count;
            devices.list[count] = device;
            atomic_store_explicit(&devices.count, count + 1, memory_order_release);
        }
        pthread_mutex_unlock(&devices.lock);
    }
    if (status == TUTTI_OK && device->unusable != TUTTI_OK)
        status = fail(device->unusable, "%s", device->why);
    if (status == TUTTI_OK)
        *found = device;
    return status;
}

tutti_status mem_device_open(struct mem_device **device)
{
    const struct cuda_driver *driver;
    tutti_status status = mem_cuda_driver_open(&driver);
    if (status != TUTTI_OK)
        return status;
    cuda_context context = NULL;
    cuda_result result = driver->context_current(&context);
    int first = 0;
    if (result == CUDA_DRIVER_OK && !context) {
        result = driver->device_get(&first, 0);
        if (result == CUDA_DRIVER_OK)
            result = driver->primary_retain(&context, first);
    }
    if (result != CUDA_DRIVER_OK) {
        (void)mem_cuda_fail(result, "no GPU memory: open the first GPU");
        return TUTTI_ERR_UNSUPPORTED;
    }
    return mem_cuda_device_of_context(driver, context, device);
}

/* The one device whose primary context is active; none if several are. */
static cuda_context only_active(const struct cuda_driver *driver)
{
    int count = 0, active, found = -1;
    unsigned flags;
    if (driver->device_count(&count) != CUDA_DRIVER_OK)
        return NULL;
    for (int i = 0; i < count; i++) {
        if (driver->primary_state(i, &flags, &active) != CUDA_DRIVER_OK || !active)
            continue;
        if (found >= 0)
            return NULL;
        found = i;
    }
    cuda_context context = NULL;
    return found >= 0 && driver->primary_retain(&context, found) == CUDA_DRIVER_OK ? context : NULL;
}

bool mem_device_in_use(struct mem_device **device)
{
    cuda_context context = NULL;
    mem_device_notice(NULL);
    const struct cuda_driver *driver = mem_cuda_driver();
    if (!driver || driver->context_current(&context) != CUDA_DRIVER_OK)
        return false;
    if (!context)
        context = only_active(driver);
    return context && mem_cuda_device_of_context(driver, context, device) == TUTTI_OK &&
           (*device)->beside;
}

bool mem_device_is_current(void)
{
    cuda_context context = NULL;
    const struct cuda_driver *driver = mem_cuda_driver();
    return driver && driver->context_current(&context) == CUDA_DRIVER_OK && context;
}

tutti_status mem_device_check(struct mem_device *device)
{
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter(device, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = device->driver->stream_query(device->streams[0]);
    mem_cuda_leave(&scope);
    return result == CUDA_DRIVER_OK || result == CUDA_DRIVER_NOT_READY
               ? TUTTI_OK
               : mem_cuda_fail(result, "work on %s", device->name);
}

bool mem_device_reduces(const struct mem_device *device)
{
    return device->has_kernels;
}

const char *mem_device_name(const struct mem_device *device)
{
    return device->name;
}

const uint8_t *mem_device_uuid(const struct mem_device *device)
{
    return device->uuid.bytes;
}

/* ---- where a pointer lies ------------------------------------------------------------------- */

/* The context that memory without one is reached through. */
static tutti_status context_of_ordinal(const struct cuda_driver *driver, int ordinal,
                                       cuda_context *context)
{
    unsigned flags;
    int active = 0, current_ordinal;
    cuda_result result = driver->primary_state(ordinal, &flags, &active);
    if (result == CUDA_DRIVER_OK && active) {
        /* Kept for good, like every device: only the first answer counts as a new reference. */
        static _Atomic(cuda_context) primary[DEVICES_MAX];
        bool kept = ordinal >= 0 && ordinal < DEVICES_MAX;
        *context = kept ? atomic_load(&primary[ordinal]) : NULL;
        if (*context)
            return TUTTI_OK;
        result = driver->primary_retain(context, ordinal);
        if (result == CUDA_DRIVER_OK && kept)
            atomic_store(&primary[ordinal], *context);
    } else if (result == CUDA_DRIVER_OK) {
        result = driver->context_current(context);
        if (result == CUDA_DRIVER_OK && *context)
            result = driver->context_device(&current_ordinal);
        if (result == CUDA_DRIVER_OK && (!*context || current_ordinal != ordinal))
            return fail(TUTTI_ERR_SYSTEM,
                        "memory of GPU %d belongs to no context: make one of that GPU current",
                        ordinal);
    }
    return result == CUDA_DRIVER_OK
               ? TUTTI_OK
               : mem_cuda_fail(result, "find the context of memory on GPU %d", ordinal);
}

/* A system call that reads eight bytes and then finds its first argument wrong: where they cannot
 * be read it says so instead. */
static bool is_readable(const void *pointer)
{
    uintptr_t word = (uintptr_t)pointer & ~(uintptr_t)7;
    return syscall(SYS_rt_sigprocmask, ~0l, word, NULL, 8l) == 0 || errno != EFAULT;
}

/* A driver that is not initialised, could not be, has ended or is a stub, knows no memory; one may
 * say the same of memory that no context has. */
static bool is_idle(const struct cuda_driver *driver, cuda_result result)
{
    cuda_context context;
    return result == CUDA_DRIVER_INVALID_CONTEXT ||
           driver->context_current(&context) != CUDA_DRIVER_OK;
}

tutti_status mem_device_of(const void *pointer, struct mem_place *place)
{
    const struct cuda_driver *driver = mem_cuda_driver();
    if (!driver) {
        *place = (struct mem_place){.device = NULL};
        return TUTTI_OK;
    }
    enum { CONTEXT, TYPE, MANAGED, ORDINAL, START, SIZE, BUFFER, SHAREABLE, ATTRIBUTES };
    int attributes[ATTRIBUTES] = {
        CUDA_POINTER_CONTEXT,   CUDA_POINTER_MEMORY_TYPE, CUDA_POINTER_IS_MANAGED,
        CUDA_POINTER_ORDINAL,   CUDA_POINTER_RANGE_START, CUDA_POINTER_RANGE_SIZE,
        CUDA_POINTER_BUFFER_ID, CUDA_POINTER_IPC_CAPABLE,
    };
    /* Each answer has its own width; zeroed words take them all (hosts of GPUs are little-endian).
     */
    uint64_t value[ATTRIBUTES] = {0};
    void *values[ATTRIBUTES];
    for (int i = 0; i < ATTRIBUTES; i++)
        values[i] = &value[i];
    cuda_result result =
        driver->pointer_attributes(ATTRIBUTES, attributes, values, cuda_address_of(pointer));
    bool silent = result != CUDA_DRIVER_OK;
    /* A device that failed answers everything with that; what the CPU reads is still its own. */
    if (silent && !is_idle(driver, result) && !is_readable(pointer))
        return mem_cuda_fail(result, "ask where %p lies", pointer);
    bool managed = (uint8_t)value[MANAGED] != 0;
    /* What the driver does not know is the program's own, or nothing: touching it would end the
     * process. */
    if (!silent && value[TYPE] == 0 && !is_readable(pointer))
        return fail(TUTTI_ERR_ARG,
                    "%p is memory of no GPU, and this process cannot read it either: it was freed, "
                    "or never was memory",
                    pointer);
    if (silent || (value[TYPE] != CUDA_MEMORY_TYPE_DEVICE && !managed)) {
        *place = (struct mem_place){.device = NULL};
        return TUTTI_OK;
    }
    cuda_context context = (cuda_context)(uintptr_t)value[CONTEXT];
    tutti_status status = TUTTI_OK;
    if (!context)
        status = context_of_ordinal(driver, (int)(uint32_t)value[ORDINAL], &context);
    struct mem_device *device;
    if (status == TUTTI_OK)
        status = mem_cuda_device_of_context(driver, context, &device);
    if (status == TUTTI_OK)
        *place = (struct mem_place){.device = device,
                                    .base = (void *)(uintptr_t)value[START],
                                    .bytes = (size_t)value[SIZE],
                                    .buffer = value[BUFFER],
                                    .shareable = (uint8_t)value[SHAREABLE] != 0 && !managed};
    return status;
}

/* ---- the row of the table ------------------------------------------------------------------- */

static bool detect(const void *pointer)
{
    struct mem_place place;
    return mem_device_present() && mem_device_of(pointer, &place) == TUTTI_OK && place.device;
}

tutti_status mem_cuda_await(struct mem_queue *queue, uint64_t ticket)
{
    uint64_t done = 0;
    tutti_status status = mem_queue_poll(queue, &done);
    while (status == TUTTI_OK && done < ticket) {
        sched_yield();
        status = mem_queue_poll(queue, &done);
    }
    return status;
}

/* What is started next runs beside streams that wait. */
static tutti_status await_clear(struct mem_queue *queue)
{
    tutti_status status;
    while ((status = mem_queue_clear(queue)) == TUTTI_IN_PROGRESS)
        sched_yield();
    return status;
}

static tutti_status alloc(size_t bytes, struct mem_export *out)
{
    struct mem_device *device;
    struct mem_queue *queue;
    void *block = NULL;
    uint64_t ticket = 0;
    tutti_status status = mem_device_open(&device);
    if (status == TUTTI_OK)
        status = mem_device_take(device, bytes, &block);
    if (status != TUTTI_OK)
        return status;
    status = mem_queue_take(device, &queue);
    if (status == TUTTI_OK && (status = await_clear(queue)) != TUTTI_OK)
        mem_queue_give(queue);
    if (status != TUTTI_OK) {
        mem_device_give(device, block);
        return status;
    }
    status = mem_cuda_zero(queue, block, bytes, &ticket);
    if (status == TUTTI_OK)
        status = mem_cuda_await(queue, ticket);
    mem_queue_give(queue);
    if (status != TUTTI_OK) {
        log_at(LOG_LEVEL_WARN, -1, "%zu bytes of %s are lost: it may still work in them", bytes,
               device->name);
        return status;
    }
    *out = (struct mem_export){.fd = -1, .bytes = bytes, .base = block};
    return TUTTI_OK;
}

static void release(const struct mem_export *allocation)
{
    struct mem_device *device = mem_cuda_block_device(allocation->base);
    must(device != NULL);
    mem_device_give(device, allocation->base);
}

/* Through the queue, whose work gets past streams that wait. */
static tutti_status copy_and_wait(struct mem_device *device, void *dst, const void *src, size_t len)
{
    struct mem_queue *queue;
    uint64_t ticket = 0;
    tutti_status status = mem_queue_take(device, &queue);
    if (status != TUTTI_OK)
        return status;
    status = await_clear(queue);
    if (status == TUTTI_OK)
        status = mem_queue_copy(queue, dst, src, len, &ticket);
    if (status == TUTTI_OK)
        status = mem_cuda_await(queue, ticket);
    mem_queue_give(queue);
    return status;
}

#define COPY_PIECE ((size_t)4 << 20) /* of pinned memory, which is kept */

tutti_status mem_cuda_copy_across(struct mem_device *to, struct mem_device *from, void *dst,
                                  const void *src, size_t len)
{
    struct mem_device *device = to ? to : from;
    size_t piece = len < COPY_PIECE ? len : COPY_PIECE;
    void *pinned;
    tutti_status status = mem_pinned_take(device, piece, &pinned);
    if (status != TUTTI_OK)
        return status;
    for (size_t at = 0, n; at < len && status == TUTTI_OK; at += n) {
        n = len - at < piece ? len - at : piece;
        if (from)
            status = copy_and_wait(from, pinned, (const char *)src + at, n);
        else
            mem_copy(pinned, (const char *)src + at, n);
        if (status == TUTTI_OK && to)
            status = copy_and_wait(to, (char *)dst + at, pinned, n);
        else if (status == TUTTI_OK)
            mem_copy((char *)dst + at, pinned, n);
    }
    if (status == TUTTI_OK)
        mem_pinned_give(device, pinned);
    else
        log_at(LOG_LEVEL_WARN, -1, "%zu bytes of pinned memory are lost: %s may still work in them",
               piece, device->name);
    return status;
}

tutti_status mem_copy_any(void *dst, const void *src, size_t len)
{
    struct mem_place to = {.device = NULL}, from = {.device = NULL};
    mem_device_notice(NULL);
    const char *why = mem_device_refused(dst);
    if (!why)
        why = mem_device_refused(src);
    if (why)
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "copy %zu bytes from %p to %p: expected host memory (%s)", len, src, dst, why);
    tutti_status status = mem_device_of(dst, &to);
    if (status == TUTTI_OK)
        status = mem_device_of(src, &from);
    if (status != TUTTI_OK)
        return status;
    if (to.device && to.device == from.device)
        return copy_and_wait(to.device, dst, src, len);
    if (to.device || from.device)
        return mem_cuda_copy_across(to.device, from.device, dst, src, len);
    memmove(dst, src, len);
    return TUTTI_OK;
}

const struct mem_kind mem_cuda = {
    .name = "cuda",
    .detect = detect,
    .alloc = alloc,
    .free = release,
};
