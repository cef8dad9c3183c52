/* cuda_standin_stream.c: the stand-in's channels, streams and events.
 * A channel is a thread with a list of work. All of what streams were given is numbered per
 * channel, so "done up to here" is one number. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/thread.h"
#include "tests/cuda_standin.h"

struct standin_channel {
    struct standin_context *context;
    struct standin_op *first, **end;
    uint64_t issued;
    _Atomic uint64_t finished;
    pthread_cond_t work;
    uint64_t random;
    struct standin_channel *next;
};

struct standin_event {
    struct standin_context *context;
    uint64_t recorded; /* recordings begun */
    _Atomic uint64_t completed;
    _Atomic uint64_t at_ns;        /* the last of them */
    struct standin_stream *branch; /* recorded last in this one, which was captured, */
    struct standin_graph *capture; /* into that, */
    uint64_t place;                /* behind so many pieces */
    struct standin_event *next;
};

pthread_mutex_t standin_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t standin_done = PTHREAD_COND_INITIALIZER;

static struct standin_event *events; /* all, for the leak checker: they are never freed */

/* ---- channels ------------------------------------------------------------------------------- */

static void pause_briefly(void)
{
    struct timespec pause = {.tv_nsec = 20000};
    nanosleep(&pause, NULL);
}

static void set_error(struct standin_context *context, cuda_result error)
{
    atomic_store(&context->error, error);
}

void standin_pause_for(size_t bytes)
{
    uint64_t mbps = standin_settings()->copy_mbps;
    uint64_t ns = mbps ? bytes * 1000 / mbps : 0;
    struct timespec pause = {.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
    if (ns > 0)
        nanosleep(&pause, NULL);
}

/* Where a copy takes time the second half of the bytes is read and written at its end. */
static void copy_in_time(char *dst, const char *src, size_t bytes)
{
    size_t half = standin_settings()->copy_mbps ? bytes / 2 : 0;
    if (dst < src + bytes && src < dst + bytes)
        half = 0;
    memmove(dst, src, half);
    standin_pause_for(bytes);
    memmove(dst + half, src + half, bytes - half);
}

static void play_memory(const struct standin_op *op)
{
    char *dst = standin_alias(op->dst, op->bytes);
    const char *src = op->kind == OP_COPY ? standin_alias(op->src, op->bytes) : NULL;
    if (!dst || (op->kind == OP_COPY && !src)) {
        set_error(op->context, CUDA_DRIVER_ILLEGAL_ADDRESS);
        return;
    }
    if (op->kind == OP_COPY) {
        copy_in_time(dst, src, op->bytes);
    } else if (op->kind == OP_FILL && op->value_bytes == 1) {
        memset(dst, (int)op->value, op->bytes);
    } else {
        /* A signal by fill is watched by the CPU as a written word is. */
        for (size_t at = 0; at < op->bytes; at += 4)
            atomic_store_explicit((_Atomic uint32_t *)(void *)(dst + at), op->value,
                                  memory_order_release);
    }
}

/* True when what the work waits for is there. */
static bool arrived(const struct standin_op *op)
{
    if (op->kind == OP_WAIT) {
        _Atomic uint32_t *word = standin_alias(op->dst, sizeof *word);
        return !word ||
               (int32_t)(atomic_load_explicit(word, memory_order_acquire) - op->value) >= 0;
    }
    if (op->kind == OP_AWAIT)
        return atomic_load(&((struct standin_event *)op->data)->completed) >= op->number;
    if (op->kind == OP_AFTER)
        return atomic_load(&((struct standin_channel *)op->data)->finished) >= op->number;
    return true;
}

static void play(const struct standin_op *op)
{
    while (!arrived(op) && atomic_load(&op->context->error) == CUDA_DRIVER_OK)
        pause_briefly();
    if (atomic_load(&op->context->error) != CUDA_DRIVER_OK && op->kind != OP_RELEASE)
        return; /* a failed device does nothing any more */
    switch (op->kind) {
    case OP_COPY:
    case OP_FILL:
    case OP_WRITE:
        play_memory(op);
        break;
    case OP_HOST:
        op->function(op->data);
        break;
    case OP_RECORD: {
        struct standin_event *event = op->data;
        if (atomic_load(&event->completed) < op->number) {
            atomic_store(&event->at_ns, clock_ns());
            atomic_store(&event->completed, op->number);
        }
        break;
    }
    case OP_KERNEL:
        standin_play_kernel(op);
        break;
    case OP_RELEASE:
        pthread_mutex_lock(&standin_lock);
        standin_release_graph(op->data);
        pthread_mutex_unlock(&standin_lock);
        break;
    default:
        break;
    }
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void pause_at_random(uint64_t *random, uint64_t most_us)
{
    uint64_t r = next_random(random);
    if (most_us == 0 || r % 4 == 0)
        return;
    struct timespec pause = {.tv_nsec = (long)(1000 * ((r >> 8) % (most_us + 1)) % 1000000000)};
    nanosleep(&pause, NULL);
}

static void *run_channel(void *data)
{
    struct standin_channel *channel = data;
    pthread_mutex_lock(&standin_lock);
    for (;;) {
        while (!channel->first)
            pthread_cond_wait(&channel->work, &standin_lock);
        struct standin_op *op = channel->first;
        channel->first = op->next;
        if (!channel->first)
            channel->end = &channel->first;
        pthread_mutex_unlock(&standin_lock);
        pause_at_random(&channel->random, standin_settings()->delay_us);
        play(op);
        free(op);
        pthread_mutex_lock(&standin_lock);
        atomic_fetch_add(&channel->finished, 1);
        pthread_cond_broadcast(&standin_done);
    }
    return NULL;
}

/* With the lock. */
static struct standin_channel *make_channel(struct standin_context *context)
{
    static uint64_t made;
    pthread_t thread;
    struct standin_channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return NULL;
    channel->context = context;
    channel->end = &channel->first;
    channel->random = standin_settings()->seed + 7919 * ++made;
    pthread_cond_init(&channel->work, NULL);
    if (thread_start(&thread, NULL, run_channel, channel) != 0) {
        free(channel);
        return NULL;
    }
    pthread_detach(thread);
    channel->next = context->channels;
    context->channels = channel;
    return channel;
}

/* With the lock. */
static void push(struct standin_channel *channel, const struct standin_op *op)
{
    struct standin_op *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = *op;
    copy->next = NULL;
    copy->context = channel->context;
    *channel->end = copy;
    channel->end = &copy->next;
    channel->issued++;
    pthread_cond_signal(&channel->work);
}

/* With the lock. */
static void await(struct standin_channel *channel, uint64_t number)
{
    while (atomic_load(&channel->finished) < number &&
           atomic_load(&channel->context->error) == CUDA_DRIVER_OK)
        pthread_cond_wait(&standin_done, &standin_lock);
}

void standin_drain(struct standin_context *context)
{
    pthread_mutex_lock(&standin_lock);
    for (struct standin_channel *c = context->channels; c; c = c->next)
        await(c, c->issued);
    pthread_mutex_unlock(&standin_lock);
}

/* ---- streams -------------------------------------------------------------------------------- */

/* With the lock. */
static struct standin_stream *make_stream(struct standin_context *context, unsigned flags,
                                          struct standin_channel *channel)
{
    struct standin_stream *stream = channel ? calloc(1, sizeof *stream) : NULL;
    if (!stream)
        return NULL;
    stream->context = context;
    stream->channel = channel;
    stream->blocking = !(flags & CUDA_STREAM_NON_BLOCKING);
    stream->next = context->streams;
    context->streams = stream;
    return stream;
}

cuda_result standin_make_streams(struct standin_context *context)
{
    context->legacy = make_stream(context, CUDA_STREAM_NON_BLOCKING, make_channel(context));
    return context->legacy ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

static struct standin_channel *shared_channel(struct standin_context *context)
{
    struct standin_channel **slot =
        &context->shared[context->streams_made++ % standin_settings()->channels];
    if (!*slot)
        *slot = make_channel(context);
    return *slot;
}

struct standin_stream *standin_make_stream(struct standin_context *of, unsigned flags)
{
    struct standin_context *context = of->whole ? of->whole : of;
    struct standin_stream *stream = make_stream(context, flags, shared_channel(context));
    if (stream && of->whole)
        stream->green = of;
    return stream;
}

cuda_result cuStreamCreateWithPriority(cuda_stream *stream, unsigned flags, int priority)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    struct standin_context *green = standin_current_green();
    pthread_mutex_lock(&standin_lock);
    *stream = standin_make_stream(green ? green : context, flags);
    pthread_mutex_unlock(&standin_lock);
    return *stream ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
}

cuda_result cuStreamCreate(cuda_stream *stream, unsigned flags)
{
    return cuStreamCreateWithPriority(stream, flags, 0);
}

/* With the lock: this thread's default stream in the context. */
static struct standin_stream *stream_of_thread(struct standin_context *context)
{
    struct standin_stream *stream = context->streams;
    while (stream && !(stream->per_thread && pthread_equal(stream->owner, pthread_self())))
        stream = stream->next;
    if (stream)
        return stream;
    stream = make_stream(context, 0, shared_channel(context));
    if (stream) {
        stream->per_thread = true;
        stream->owner = pthread_self();
    }
    return stream;
}

cuda_result standin_find_stream(struct standin_context *context, cuda_stream handle,
                                struct standin_stream **found)
{
    struct standin_context *green = standin_current_green();
    if (handle == NULL || handle == (void *)1) {
        *found = green ? green->legacy : context->legacy;
        return CUDA_DRIVER_OK;
    }
    if (handle == (void *)2 && green)
        return CUDA_DRIVER_INVALID_HANDLE;
    if (handle == (void *)2) {
        *found = stream_of_thread(context);
        return *found ? CUDA_DRIVER_OK : CUDA_DRIVER_OUT_OF_MEMORY;
    }
    struct standin_stream *stream = context->streams;
    while (stream && stream != handle)
        stream = stream->next;
    *found = stream;
    return stream && !stream->destroyed ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_HANDLE;
}

void standin_push_ordered(struct standin_stream *stream, const struct standin_op *op)
{
    struct standin_context *context = stream->context;
    struct standin_op after = {.kind = OP_AFTER};
    if (stream == context->legacy) {
        for (struct standin_stream *s = context->streams; s; s = s->next) {
            after.data = s->channel;
            after.number = s->last;
            if (s->blocking && s->last > 0)
                push(stream->channel, &after);
        }
    } else if (stream->blocking && context->legacy->last > 0) {
        after.data = context->legacy->channel;
        after.number = context->legacy->last;
        push(stream->channel, &after);
    }
    push(stream->channel, op);
    stream->last = stream->channel->issued;
}

/* With the lock. Whoever waits for room holds up others as those do who wait for streams. */
static void await_room(struct standin_channel *channel)
{
    if (channel->issued - atomic_load(&channel->finished) < standin_settings()->room)
        return;
    standin_hold(1);
    while (channel->issued - atomic_load(&channel->finished) >= standin_settings()->room &&
           atomic_load(&channel->context->error) == CUDA_DRIVER_OK)
        pthread_cond_wait(&standin_done, &standin_lock);
    standin_hold(-1);
}

static unsigned refused; /* the number of the piece of work that will be */

cuda_result standin_refuse_work(unsigned number)
{
    pthread_mutex_lock(&standin_lock);
    refused = number;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

/* With the lock. */
static bool is_refused(const struct standin_op *op)
{
    return (op->kind == OP_COPY || op->kind == OP_KERNEL) && refused > 0 && --refused == 0;
}

cuda_result standin_issue(cuda_stream handle, const struct standin_op *op, bool wait)
{
    static _Thread_local uint64_t random;
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    standin_close_views();
    if (op->kind == OP_COPY || op->kind == OP_FILL || op->kind == OP_KERNEL)
        standin_wait_for_blocking(context);
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK)
        result = standin_check_legacy(context, stream, true);
    if (result == CUDA_DRIVER_OK && stream->capture) {
        result = standin_record(stream, op);
    } else if (result == CUDA_DRIVER_OK && is_refused(op)) {
        result = CUDA_DRIVER_OUT_OF_MEMORY;
    } else if (result == CUDA_DRIVER_OK) {
        await_room(stream->channel);
        standin_push_ordered(stream, op);
        if (wait)
            await(stream->channel, stream->last);
    }
    pthread_mutex_unlock(&standin_lock);
    random ^= (uintptr_t)&random ^ standin_settings()->seed; /* another of each thread */
    pause_at_random(&random, standin_settings()->issue_us);
    return result == CUDA_DRIVER_OK ? atomic_load(&context->error) : result;
}

cuda_result cuStreamDestroy_v2(cuda_stream handle)
{
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK && (stream == context->legacy || stream->per_thread))
        result = CUDA_DRIVER_INVALID_HANDLE;
    if (result == CUDA_DRIVER_OK)
        stream->destroyed = true;
    pthread_mutex_unlock(&standin_lock);
    return result;
}

/* What cuStreamSynchronize and cuStreamQuery share. */
static cuda_result look_at_stream(cuda_stream handle, bool wait)
{
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK && stream->capture) {
        stream->broken = true;
        result = CUDA_DRIVER_CAPTURE_UNSUPPORTED;
    }
    if (result == CUDA_DRIVER_OK && wait)
        await(stream->channel, stream->last);
    else if (result == CUDA_DRIVER_OK && atomic_load(&stream->channel->finished) < stream->last)
        result = CUDA_DRIVER_NOT_READY;
    pthread_mutex_unlock(&standin_lock);
    cuda_result error = atomic_load(&context->error);
    return error != CUDA_DRIVER_OK ? error : result;
}

cuda_result cuStreamSynchronize(cuda_stream stream)
{
    return look_at_stream(stream, true);
}

cuda_result cuStreamQuery(cuda_stream stream)
{
    return look_at_stream(stream, false);
}

cuda_result cuCtxSynchronize(void)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    standin_drain(context);
    return atomic_load(&context->error);
}

/* ---- work ----------------------------------------------------------------------------------- */

cuda_result cuMemcpyAsync(cuda_address dst, cuda_address src, size_t bytes, cuda_stream stream)
{
    struct standin_op op = {.kind = OP_COPY, .dst = dst, .src = src, .bytes = bytes};
    /* Pageable memory is copied while the caller waits. */
    return standin_issue(stream, &op, standin_is_pageable(dst) || standin_is_pageable(src));
}

cuda_result cuMemsetD8Async(cuda_address dst, unsigned char value, size_t count, cuda_stream stream)
{
    struct standin_op op = {
        .kind = OP_FILL, .dst = dst, .bytes = count, .value = value, .value_bytes = 1};
    return standin_issue(stream, &op, false);
}

cuda_result cuMemsetD32Async(cuda_address dst, unsigned value, size_t count, cuda_stream stream)
{
    struct standin_op op = {
        .kind = OP_FILL, .dst = dst, .bytes = 4 * count, .value = value, .value_bytes = 4};
    return standin_issue(stream, &op, false);
}

cuda_result cuStreamWriteValue32_v2(cuda_stream stream, cuda_address address, uint32_t value,
                                    unsigned flags)
{
    struct standin_op op = {
        .kind = OP_WRITE, .dst = address, .bytes = 4, .value = value, .value_bytes = 4};
    if (flags != CUDA_WRITE_ORDERED || address % 4 != 0)
        return CUDA_DRIVER_INVALID_VALUE;
    return standin_settings()->memory_ops ? standin_issue(stream, &op, false)
                                          : CUDA_DRIVER_NOT_SUPPORTED;
}

cuda_result cuStreamWaitValue32_v2(cuda_stream stream, cuda_address address, uint32_t value,
                                   unsigned flags)
{
    struct standin_op op = {.kind = OP_WAIT, .dst = address, .value = value};
    if (flags != CUDA_WAIT_REACHED || address % 4 != 0)
        return CUDA_DRIVER_INVALID_VALUE;
    return standin_settings()->memory_ops ? standin_issue(stream, &op, false)
                                          : CUDA_DRIVER_NOT_SUPPORTED;
}

cuda_result cuStreamBatchMemOp_v2(cuda_stream stream, unsigned count, struct gpu_word_op *ops,
                                  unsigned flags)
{
    cuda_result result = flags == 0 ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
    for (unsigned i = 0; i < count && result == CUDA_DRIVER_OK; i++) {
        uint32_t value = (uint32_t)ops[i].value;
        if (ops[i].operation == GPU_WRITES_WORD)
            result = cuStreamWriteValue32_v2(stream, ops[i].address, value, ops[i].flags);
        else if (ops[i].operation == GPU_AWAITS_WORD)
            result = cuStreamWaitValue32_v2(stream, ops[i].address, value, ops[i].flags);
        else
            result = CUDA_DRIVER_INVALID_VALUE;
    }
    return result;
}

cuda_result cuLaunchHostFunc(cuda_stream stream, cuda_host_fn *function, void *data)
{
    struct standin_op op = {.kind = OP_HOST, .function = function, .data = data};
    return standin_issue(stream, &op, false);
}

/* ---- events --------------------------------------------------------------------------------- */

cuda_result cuEventCreate(cuda_event *event, unsigned flags)
{
    struct standin_context *context;
    cuda_result entered = standin_enter(&context);
    if (entered != CUDA_DRIVER_OK)
        return entered;
    struct standin_event *made = calloc(1, sizeof *made);
    if (!made)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    made->context = context;
    pthread_mutex_lock(&standin_lock);
    made->next = events;
    events = made;
    pthread_mutex_unlock(&standin_lock);
    *event = made;
    return CUDA_DRIVER_OK;
}

cuda_result cuEventDestroy_v2(cuda_event event)
{
    return CUDA_DRIVER_OK; /* kept: work under way may still name it */
}

cuda_result cuEventRecord(cuda_event handle, cuda_stream stream)
{
    struct standin_event *event = handle;
    struct standin_context *context;
    struct standin_stream *found;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, stream, &found);
    if (result == CUDA_DRIVER_OK && found->context != event->context)
        result = CUDA_DRIVER_INVALID_HANDLE;
    event->capture = result == CUDA_DRIVER_OK ? found->capture : NULL;
    if (event->capture) {
        event->branch = found;
        event->place = found->captured;
        result = found->broken ? CUDA_DRIVER_CAPTURE_INVALIDATED : CUDA_DRIVER_OK;
    }
    if (result != CUDA_DRIVER_OK || event->capture) {
        pthread_mutex_unlock(&standin_lock);
        return result;
    }
    struct standin_op op = {.kind = OP_RECORD, .data = event, .number = ++event->recorded};
    pthread_mutex_unlock(&standin_lock);
    return standin_issue(stream, &op, false);
}

cuda_result cuStreamWaitEvent(cuda_stream stream, cuda_event handle, unsigned flags)
{
    struct standin_event *event = handle;
    struct standin_context *context;
    struct standin_stream *found;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    if (event->capture && event->branch->capture == event->capture) {
        result = standin_find_stream(context, stream, &found);
        if (result == CUDA_DRIVER_OK)
            result = standin_join(found, event->branch, event->place);
        pthread_mutex_unlock(&standin_lock);
        return result;
    }
    struct standin_op op = {.kind = OP_AWAIT, .data = event, .number = event->recorded};
    pthread_mutex_unlock(&standin_lock);
    return standin_issue(stream, &op, false);
}

static cuda_result look_at_event(struct standin_event *event, bool wait)
{
    struct standin_context *context;
    cuda_result result = standin_enter(&context);
    if (result == CUDA_DRIVER_OK)
        result = standin_unsafe();
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    if (event->capture) {
        result = CUDA_CAPTURED_EVENT;
        if (event->branch->capture == event->capture)
            event->branch->broken = true;
    }
    while (wait && !event->capture && atomic_load(&event->completed) < event->recorded &&
           atomic_load(&context->error) == CUDA_DRIVER_OK)
        pthread_cond_wait(&standin_done, &standin_lock);
    if (!event->capture && atomic_load(&event->completed) < event->recorded)
        result = CUDA_DRIVER_NOT_READY;
    pthread_mutex_unlock(&standin_lock);
    cuda_result error = atomic_load(&context->error);
    return error != CUDA_DRIVER_OK ? error : result;
}

cuda_result cuEventSynchronize(cuda_event event)
{
    return look_at_event(event, true);
}

cuda_result cuEventQuery(cuda_event event)
{
    return look_at_event(event, false);
}

cuda_result cuEventElapsedTime(float *ms, cuda_event from, cuda_event to)
{
    struct standin_event *first = from, *last = to;
    cuda_result result = look_at_event(first, false);
    if (result == CUDA_DRIVER_OK)
        result = look_at_event(last, false);
    if (result == CUDA_DRIVER_OK)
        *ms = (float)((double)(int64_t)(atomic_load(&last->at_ns) - atomic_load(&first->at_ns)) /
                      1e6);
    return result;
}
