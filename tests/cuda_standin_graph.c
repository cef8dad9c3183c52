/* cuda_standin_graph.c: the stand-in's captures and graphs.
 * A captured stream has a graph, a list of work in the order of the calls, which a launch gives to
 * a stream whole: as it is, or, where several streams were captured into it, one stream's after the
 * other's as far as events between them allow, since what words order no driver sees. An executable
 * is its graph, counted once more. */
#include <stdlib.h>

#include "base/thread.h"
#include "tests/cuda_standin.h"

struct user_object {
    cuda_host_fn *destroy;
    void *data;
    unsigned references;
    struct user_object *next; /* of its graph */
};

struct standin_graph {
    uint64_t id;
    struct standin_op *first, **end;
    struct user_object *objects;
    bool branches;       /* several streams were captured into it */
    unsigned references; /* the graph, its executables and launches under way */
};

static uint64_t captures;
static unsigned refused; /* the number of the captured piece that will be */
static _Thread_local int thread_mode = CUDA_CAPTURE_MODE_GLOBAL;

/* ---- captures ------------------------------------------------------------------------------- */

cuda_result standin_check_legacy(struct standin_context *context, struct standin_stream *stream,
                                 bool breaks)
{
    cuda_result result = CUDA_DRIVER_OK;
    for (struct standin_stream *s = context->streams; s && stream == context->legacy; s = s->next) {
        if (!s->capture || !s->blocking)
            continue;
        s->broken |= breaks;
        result = CUDA_DRIVER_CAPTURE_IMPLICIT;
    }
    return result;
}

cuda_result standin_record(struct standin_stream *stream, const struct standin_op *op)
{
    if (stream->broken)
        return CUDA_DRIVER_CAPTURE_INVALIDATED;
    if (refused > 0 && --refused == 0)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    struct standin_op *copy = malloc(sizeof *copy);
    if (!copy)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    *copy = *op;
    copy->next = NULL;
    copy->branch = stream;
    copy->place = stream->captured++;
    *stream->capture->end = copy;
    stream->capture->end = &copy->next;
    return CUDA_DRIVER_OK;
}

cuda_result standin_join(struct standin_stream *stream, struct standin_stream *branch,
                         uint64_t place)
{
    struct standin_op op = {.kind = OP_JOIN, .data = branch, .number = place};
    if (stream->capture && stream->capture != branch->capture) {
        stream->broken = branch->broken = true;
        return CUDA_MERGE;
    }
    if (!stream->capture) {
        stream->capture = branch->capture;
        stream->capture->branches = true;
        stream->captured = 0;
        stream->mode = branch->mode;
        stream->thread = branch->thread;
    }
    return standin_record(stream, &op);
}

cuda_result standin_refuse_captured(unsigned number)
{
    pthread_mutex_lock(&standin_lock);
    refused = number;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result cuThreadExchangeStreamCaptureMode(int *mode)
{
    int before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_DRIVER_OK;
}

/* Whether the capture of the stream forbids this thread's unsafe calls. */
static bool forbids(const struct standin_stream *captured)
{
    if (!captured->capture || captured->mode == CUDA_CAPTURE_MODE_RELAXED)
        return false;
    return pthread_equal(captured->thread, pthread_self()) ||
           (captured->mode == CUDA_CAPTURE_MODE_GLOBAL && thread_mode == CUDA_CAPTURE_MODE_GLOBAL);
}

cuda_result standin_unsafe(void)
{
    cuda_result result = CUDA_DRIVER_OK;
    if (thread_mode == CUDA_CAPTURE_MODE_RELAXED)
        return result;
    pthread_mutex_lock(&standin_lock);
    for (struct standin_context *c = standin_contexts; c; c = c->next) {
        for (struct standin_stream *s = c->streams; s; s = s->next) {
            if (!forbids(s))
                continue;
            s->broken = true;
            result = CUDA_DRIVER_CAPTURE_UNSUPPORTED;
        }
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuStreamBeginCapture_v2(cuda_stream handle, int mode)
{
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    struct standin_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK && stream == context->legacy)
        result = CUDA_DRIVER_CAPTURE_UNSUPPORTED;
    else if (result == CUDA_DRIVER_OK && stream->capture)
        result = CUDA_ILLEGAL;
    if (result == CUDA_DRIVER_OK) {
        *graph = (struct standin_graph){.id = ++captures, .references = 1};
        graph->end = &graph->first;
        stream->capture = graph;
        stream->captured = 0;
        stream->broken = false;
        stream->mode = mode;
        stream->thread = pthread_self();
    }
    pthread_mutex_unlock(&standin_lock);
    if (result != CUDA_DRIVER_OK)
        free(graph);
    return result;
}

/* With the lock: none of the graph's streams is captured any more; whether the capture was good. */
static bool end_capture(const struct standin_graph *graph)
{
    bool good = true;
    for (struct standin_context *c = standin_contexts; c; c = c->next) {
        for (struct standin_stream *s = c->streams; s; s = s->next) {
            if (s->capture != graph)
                continue;
            good &= !s->broken;
            s->capture = NULL;
            s->broken = false;
        }
    }
    return good;
}

cuda_result cuStreamEndCapture(cuda_stream handle, cuda_graph *graph)
{
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK && !stream->capture)
        result = CUDA_DRIVER_INVALID_VALUE;
    if (result == CUDA_DRIVER_OK) {
        struct standin_graph *captured = stream->capture;
        bool good = end_capture(captured);
        *graph = good ? captured : NULL;
        if (!good) {
            standin_release_graph(captured);
            result = CUDA_DRIVER_CAPTURE_INVALIDATED;
        }
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuStreamGetCaptureInfo_v2(cuda_stream handle, int *status, uint64_t *id,
                                      cuda_graph *graph, const void **after, size_t *after_count)
{
    struct standin_context *context;
    struct standin_stream *stream;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK)
        result = standin_check_legacy(context, stream, false);
    if (result == CUDA_DRIVER_OK) {
        *status = !stream->capture ? CUDA_CAPTURE_NONE
                  : stream->broken ? CUDA_CAPTURE_BROKEN
                                   : CUDA_CAPTURE_ACTIVE;
        if (id)
            *id = stream->capture ? stream->capture->id : 0;
        if (graph)
            *graph = stream->capture;
        if (after_count)
            *after_count = 0;
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

cuda_result cuStreamIsCapturing(cuda_stream stream, int *status)
{
    return cuStreamGetCaptureInfo_v2(stream, status, NULL, NULL, NULL, NULL);
}

/* ---- graphs --------------------------------------------------------------------------------- */

cuda_result cuGraphInstantiateWithFlags(void **executable, cuda_graph graph,
                                        unsigned long long flags)
{
    pthread_mutex_lock(&standin_lock);
    ((struct standin_graph *)graph)->references++;
    pthread_mutex_unlock(&standin_lock);
    *executable = graph;
    return CUDA_DRIVER_OK;
}

/* Whether what the work is behind has been launched. */
static bool is_due(const struct standin_graph *graph, const struct standin_op *op)
{
    for (const struct standin_op *other = graph->first; other; other = other->next) {
        bool before = op->kind == OP_JOIN && other->branch == op->data && other->place < op->number;
        before |= other->branch == op->branch && other->place < op->place;
        if (before && !other->launched)
            return false;
    }
    return true;
}

/* The next piece: of that stream, if it goes on. */
static struct standin_op *next_piece(const struct standin_graph *graph,
                                     const struct standin_stream *branch)
{
    struct standin_op *found = NULL;
    for (struct standin_op *op = graph->first; op; op = op->next) {
        if (op->launched || !is_due(graph, op))
            continue;
        if (op->branch == branch)
            return op;
        found = found ? found : op;
    }
    return found;
}

static void launch_branches(const struct standin_graph *graph, struct standin_stream *stream)
{
    const struct standin_stream *branch = NULL;
    for (struct standin_op *op = graph->first; op; op = op->next)
        op->launched = false;
    for (struct standin_op *op; (op = next_piece(graph, branch)); branch = op->branch) {
        op->launched = true;
        if (op->kind != OP_JOIN)
            standin_push_ordered(stream, op);
    }
}

cuda_result cuGraphLaunch(void *executable, cuda_stream handle)
{
    struct standin_context *context;
    struct standin_stream *stream;
    struct standin_graph *graph = executable;
    cuda_result result = standin_enter(&context);
    if (result != CUDA_DRIVER_OK)
        return result;
    pthread_mutex_lock(&standin_lock);
    result = standin_find_stream(context, handle, &stream);
    if (result == CUDA_DRIVER_OK) {
        if (graph->branches)
            launch_branches(graph, stream);
        for (const struct standin_op *op = graph->first; op && !graph->branches; op = op->next)
            standin_push_ordered(stream, op);
        struct standin_op release = {.kind = OP_RELEASE, .data = graph};
        graph->references++;
        standin_push_ordered(stream, &release);
    }
    pthread_mutex_unlock(&standin_lock);
    return result;
}

/* The objects of a graph that is gone, in a thread of the driver. */
static void *destroy_objects(void *first)
{
    for (struct user_object *object = first, *next; object; object = next) {
        next = object->next;
        object->destroy(object->data);
        free(object);
    }
    return NULL;
}

void standin_release_graph(struct standin_graph *graph)
{
    if (--graph->references > 0)
        return;
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (graph->objects && thread_start(&thread, &detached, destroy_objects, graph->objects) != 0)
        destroy_objects(graph->objects);
    pthread_attr_destroy(&detached);
    for (struct standin_op *op = graph->first, *next; op; op = next) {
        next = op->next;
        free(op);
    }
    free(graph);
}

cuda_result cuGraphDestroy(cuda_graph graph)
{
    pthread_mutex_lock(&standin_lock);
    standin_release_graph(graph);
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}

cuda_result cuGraphExecDestroy(void *executable)
{
    return cuGraphDestroy(executable);
}

cuda_result cuUserObjectCreate(cuda_object *object, void *data, cuda_host_fn *destroy,
                               unsigned references, unsigned flags)
{
    struct user_object *made = malloc(sizeof *made);
    if (!made)
        return CUDA_DRIVER_OUT_OF_MEMORY;
    *made = (struct user_object){.destroy = destroy, .data = data, .references = references};
    *object = made;
    return flags == CUDA_OBJECT_NO_SYNC ? CUDA_DRIVER_OK : CUDA_DRIVER_INVALID_VALUE;
}

cuda_result cuUserObjectRelease(cuda_object object, unsigned references)
{
    return CUDA_DRIVER_NOT_SUPPORTED;
}

cuda_result cuGraphRetainUserObject(cuda_graph handle, cuda_object object, unsigned references,
                                    unsigned flags)
{
    struct standin_graph *graph = handle;
    struct user_object *moved = object;
    if (references != 1 || moved->references != 1 || flags != CUDA_GRAPH_TAKES_REFERENCE)
        return CUDA_DRIVER_NOT_SUPPORTED; /* all that the library needs */
    pthread_mutex_lock(&standin_lock);
    moved->next = graph->objects;
    graph->objects = moved;
    pthread_mutex_unlock(&standin_lock);
    return CUDA_DRIVER_OK;
}
