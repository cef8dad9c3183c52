/* mem_cuda_stream.c: the program's streams signal the CPU and wait for it.
 *
 * The idea: a signal is a word that the stream writes, a wait one that it reads until the CPU has
 * written it; both are operations of the stream by themselves (memory operations), cost no kernel
 * and no thread, and are recorded by captures like any other.
 *
 * Where a driver refuses them, a signal is a memory set of one word and a wait a host function that
 * looks at the word until it is there. Signals are not host functions too, because a driver may run
 * those of all streams on one thread: a signal behind another rank's wait would then never come. A
 * wait behind another wait does no harm, since what ends it needs no host function. (A program's
 * own host function behind such a wait is late, and if the collective needs it, there for ever.) */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "mem/mem_cuda_queue.h"

/* Handles by which a program names default streams. */
#define STREAM_LEGACY     ((void *)0x1)
#define STREAM_PER_THREAD ((void *)0x2)

/* Looks at a word before a host function that waits gives its core away. */
#define LOOKS_MAX 100

/* ---- what a stream is ----------------------------------------------------------------------- */

static tutti_status fail_broken(cuda_stream handle)
{
    return fail(TUTTI_ERR_ARG,
                "stream %p: its capture was invalidated by an earlier call; end it and capture "
                "again",
                handle);
}

/* The capture in progress: 0 if none; its graph, if so asked. With the context entered. */
static tutti_status find_capture(const struct mem_device *device, cuda_stream handle,
                                 uint64_t *capture, cuda_graph *graph)
{
    int state = CUDA_CAPTURE_NONE;
    uint64_t id = 0;
    cuda_result result = device->driver->stream_capture(handle, &state, &id, graph, NULL, NULL);
    if (result == CUDA_DRIVER_CAPTURE_INVALIDATED || state == CUDA_CAPTURE_BROKEN)
        return fail_broken(handle);
    if (result != CUDA_DRIVER_OK) {
        (void)mem_cuda_fail(result, "stream %p of %s", handle, device->name);
        return TUTTI_ERR_ARG;
    }
    *capture = state == CUDA_CAPTURE_ACTIVE ? id : 0;
    return TUTTI_OK;
}

bool mem_stream_is_legacy(const void *handle)
{
    return handle == NULL || handle == STREAM_LEGACY;
}

/* A number that no other thread of the process has or had. */
static uint64_t thread_number(void)
{
    static _Atomic uint64_t threads;
    static _Thread_local uint64_t number;
    if (number == 0)
        number = atomic_fetch_add(&threads, 1) + 1;
    return number;
}

bool mem_stream_is_same(const struct mem_stream *a, const struct mem_stream *b)
{
    bool legacy = mem_stream_is_legacy(a->handle) && mem_stream_is_legacy(b->handle);
    return a->context == b->context && a->thread == b->thread && (legacy || a->handle == b->handle);
}

/* The context in which a default stream of the device is named. */
static cuda_context context_of_default(const struct mem_device *device)
{
    const struct cuda_driver *driver = device->driver;
    cuda_context current = NULL;
    bool is_ours = driver->context_current(&current) == CUDA_DRIVER_OK && current &&
                   mem_cuda_whole_context(driver, current, NULL) == device->context;
    return is_ours ? current : device->context;
}

/* The device of a stream that has a handle of its own. */
static tutti_status device_of(const struct cuda_driver *driver, cuda_stream handle,
                              struct mem_device **device)
{
    cuda_context context = NULL;
    cuda_result result = driver->stream_context(handle, &context);
    if (result == CUDA_DRIVER_CAPTURE_INVALIDATED)
        return fail_broken(handle);
    if (result != CUDA_DRIVER_OK) {
        (void)mem_cuda_fail(result, "%p is no stream", handle);
        return TUTTI_ERR_ARG;
    }
    context = mem_cuda_whole_context(driver, context, handle);
    return mem_cuda_device_of_context(driver, context, device);
}

tutti_status mem_stream_open(void *handle, struct mem_device *of, struct mem_stream *stream)
{
    const struct cuda_driver *driver;
    struct mem_stream opened = {.device = of, .handle = handle};
    bool is_default = mem_stream_is_legacy(handle) || handle == STREAM_PER_THREAD;
    tutti_status status = mem_cuda_driver_open(&driver);
    if (status == TUTTI_OK && !is_default)
        status = device_of(driver, handle, &opened.device);
    else if (status == TUTTI_OK && !of)
        status = mem_device_open(&opened.device);
    if (status != TUTTI_OK)
        return status;
    opened.context = is_default ? context_of_default(opened.device) : opened.device->context;
    opened.thread = handle == STREAM_PER_THREAD ? thread_number() : 0;
    struct cuda_scope scope;
    status = mem_cuda_enter_stream(&opened, &scope);
    if (status != TUTTI_OK)
        return status;
    status = find_capture(opened.device, handle, &opened.capture, NULL);
    mem_cuda_leave(&scope);
    if (status == TUTTI_OK)
        *stream = opened;
    return status;
}

/* ---- one thing after the other -------------------------------------------------------------- */

static tutti_status finish(const struct mem_stream *stream, struct cuda_scope *scope,
                           cuda_result result, const char *what)
{
    mem_cuda_leave(scope);
    return result == CUDA_DRIVER_OK ? TUTTI_OK
                                    : mem_cuda_fail(result, "%s in stream %p of %s", what,
                                                    stream->handle, stream->device->name);
}

static tutti_status write_word(const struct mem_stream *stream, const struct mem_words *words,
                               unsigned index, uint32_t value, const char *what)
{
    const struct mem_device *device = stream->device;
    struct cuda_scope scope;
    must(index < MEM_WORDS);
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_address word = words->address + index * sizeof(uint32_t);
    cuda_result result =
        device->memory_ops
            ? device->driver->write_word(stream->handle, word, value, CUDA_WRITE_ORDERED)
            : device->driver->fill_word(word, value, 1, stream->handle);
    return finish(stream, &scope, result, what);
}

tutti_status mem_stream_signal(const struct mem_stream *stream, const struct mem_words *words,
                               unsigned index, uint32_t value)
{
    return write_word(stream, words, index, value, "signal");
}

tutti_status mem_stream_copy(const struct mem_stream *stream, void *dst, const void *src,
                             size_t len)
{
    struct cuda_scope scope;
    if (len == 0)
        return TUTTI_OK;
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = stream->device->driver->copy(cuda_address_of(dst), cuda_address_of(src),
                                                      len, stream->handle);
    return finish(stream, &scope, result, "copy");
}

/* By a kernel that then writes the word, too; signal 0: it tells nobody. */
static tutti_status copy_in_block(const struct mem_stream *stream, void *dst, const void *src,
                                  size_t len, uint64_t signal, uint32_t value)
{
    struct mem_device *device = stream->device;
    struct cuda_work work = {
        .dst = dst, .a = src, .count = len, .ticket = value, .done = (uint32_t *)(uintptr_t)signal};
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = mem_cuda_launch_block(device, device->copy, &work, len, stream->handle);
    return finish(stream, &scope, result, "copy by a kernel");
}

static bool copies_in_blocks(const struct mem_device *device)
{
    return device->has_kernels && device->host_pointers;
}

tutti_status mem_stream_copy_short(const struct mem_stream *stream, void *dst, const void *src,
                                   size_t len)
{
    return copies_in_blocks(stream->device) && len > 0 ? copy_in_block(stream, dst, src, len, 0, 0)
                                                       : mem_stream_copy(stream, dst, src, len);
}

tutti_status mem_stream_copy_signal(const struct mem_stream *stream, void *dst, const void *src,
                                    size_t len, const struct mem_words *words, unsigned index,
                                    uint32_t value)
{
    must(index < MEM_WORDS);
    if (copies_in_blocks(stream->device))
        return copy_in_block(stream, dst, src, len, words->address + index * sizeof(uint32_t),
                             value);
    tutti_status status = mem_stream_copy(stream, dst, src, len);
    return status == TUTTI_OK ? mem_stream_signal(stream, words, index, value) : status;
}

static tutti_status start_kernel(const struct mem_stream *stream, cuda_function function,
                                 const char *what, const struct cuda_work *work, tutti_dtype dtype)
{
    struct cuda_scope scope;
    must(function != NULL);
    if (work->count == 0)
        return TUTTI_OK;
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = mem_cuda_launch(stream->device, function, work,
                                         work->count * dtype_size(dtype), stream->handle);
    return finish(stream, &scope, result, what);
}

tutti_status mem_stream_scale(const struct mem_stream *stream, tutti_dtype dtype, void *dst,
                              const void *src, const void *scalar, size_t count)
{
    struct cuda_work work = {.dst = dst, .a = src, .count = count};
    memcpy(&work.scalar, scalar, dtype_size(dtype));
    return start_kernel(stream, stream->device->scale[dtype], "scale", &work, dtype);
}

tutti_status mem_stream_divide(const struct mem_stream *stream, tutti_dtype dtype, void *dst,
                               uint32_t ranks, size_t count)
{
    struct cuda_work work = {.dst = dst, .a = dst, .count = count, .ranks = ranks};
    return start_kernel(stream, stream->device->divide[dtype], "divide", &work, dtype);
}

void mem_device_lock_streams(struct mem_device *device)
{
    pthread_mutex_lock(&device->putting);
}

void mem_device_unlock_streams(struct mem_device *device)
{
    pthread_mutex_unlock(&device->putting);
}

/* ---- a wait of a driver without memory operations ------------------------------------------- */

struct host_wait {
    _Atomic uint32_t *word;
    uint32_t value;
    bool once; /* not captured: freed by the call that waited */
};

static void host_wait(void *data)
{
    struct host_wait *wait = data;
    for (unsigned looks = 0;
         (int32_t)(atomic_load_explicit(wait->word, memory_order_acquire) - wait->value) < 0;
         looks++) {
        if (looks > LOOKS_MAX)
            sched_yield();
    }
    if (wait->once)
        free(wait);
}

/* The graph that a stream is captured into calls gone(data) when it and its executables go. */
static cuda_result retain(const struct mem_stream *stream, cuda_host_fn *gone, void *data)
{
    const struct cuda_driver *driver = stream->device->driver;
    cuda_graph graph = NULL;
    cuda_object object;
    int state = CUDA_CAPTURE_NONE;
    uint64_t id;
    cuda_result result = driver->stream_capture(stream->handle, &state, &id, &graph, NULL, NULL);
    if (result == CUDA_DRIVER_OK && state != CUDA_CAPTURE_ACTIVE)
        result = CUDA_DRIVER_CAPTURE_INVALIDATED;
    if (result == CUDA_DRIVER_OK)
        result = driver->object_create(&object, data, gone, 1, CUDA_OBJECT_NO_SYNC);
    if (result != CUDA_DRIVER_OK)
        return result;
    return driver->graph_retain(graph, object, 1, CUDA_GRAPH_TAKES_REFERENCE);
}

/* With the context entered. */
static tutti_status start_host_wait(const struct mem_stream *stream, const struct mem_words *words,
                                    unsigned index, uint32_t value, cuda_result *result)
{
    struct host_wait *wait = malloc(sizeof *wait);
    if (!wait)
        return fail(TUTTI_ERR_NOMEM, "wait in stream %p: out of host memory", stream->handle);
    *wait = (struct host_wait){
        .word = &words->word[index], .value = value, .once = stream->capture == 0};
    *result = wait->once ? CUDA_DRIVER_OK : retain(stream, free, wait);
    if (*result == CUDA_DRIVER_OK)
        *result = stream->device->driver->host_function(stream->handle, host_wait, wait);
    else
        wait->once = true;
    if (*result != CUDA_DRIVER_OK && wait->once)
        free(wait);
    return TUTTI_OK;
}

tutti_status mem_stream_wait(const struct mem_stream *stream, const struct mem_words *words,
                             unsigned index, uint32_t value)
{
    const struct mem_device *device = stream->device;
    struct cuda_scope scope;
    cuda_result result = CUDA_DRIVER_OK;
    must(index < MEM_WORDS);
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    if (device->memory_ops)
        result = device->driver->wait_word(
            stream->handle, words->address + index * sizeof(uint32_t), value, CUDA_WAIT_REACHED);
    else
        status = start_host_wait(stream, words, index, value, &result);
    if (status == TUTTI_OK)
        return finish(stream, &scope, result, "wait");
    mem_cuda_leave(&scope);
    return status;
}

tutti_status mem_stream_order(const struct mem_stream *first, const struct mem_stream *second)
{
    struct mem_device *device = first->device;
    const struct cuda_driver *driver = device->driver;
    struct cuda_scope scope;
    pthread_mutex_lock(&device->putting);
    tutti_status status = mem_cuda_enter_stream(first, &scope);
    if (status == TUTTI_OK)
        status = finish(first, &scope, driver->event_record(device->order, first->handle), "mark");
    if (status == TUTTI_OK)
        status = mem_cuda_enter_stream(second, &scope);
    if (status == TUTTI_OK)
        status = finish(second, &scope, driver->stream_await(second->handle, device->order, 0),
                        "await a mark");
    pthread_mutex_unlock(&device->putting);
    return status;
}

/* ---- captures ------------------------------------------------------------------------------- */

tutti_status mem_stream_retain(const struct mem_stream *stream, void (*gone)(void *context),
                               void *context)
{
    struct cuda_scope scope;
    tutti_status status = mem_cuda_enter_stream(stream, &scope);
    if (status != TUTTI_OK)
        return status;
    cuda_result result = retain(stream, gone, context);
    return finish(stream, &scope, result, "keep something for the graph captured");
}
