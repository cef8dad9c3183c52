/* api.c: the public calls. Each collective fills a struct call; its blocking and its started form
 * then share everything. The fast path of a blocking call is: enter, check, run, leave. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "src/comm.h"
#include "src/group.h"
#include "src/stream.h"
#include "tutti/tutti.h"

/* A loop makes the same call over and over: what was checked once needs no second look. */
static inline bool same_call(const struct tutti_comm *comm, const struct call *call)
{
    const struct call *last = &comm->last_call;
    return last->in == call->in && last->out == call->out && last->count == call->count &&
           last->coll == call->coll && last->dtype == call->dtype && last->op == call->op &&
           last->root == call->root &&
           (!comm->last_program->counts || exec_same_counts(comm, comm->last_program, call));
}

/* Launches one call as a unit; waits for it if result is NULL and it is not of the stream form. */
static tutti_status launch(tutti_comm *comm, const struct call *call, bool on_stream, void *stream,
                           struct operation **result)
{
    struct group_call one = {
        .comm = comm, .call = *call, .on_stream = on_stream, .stream = stream, .alone = true};
    struct operation *op = NULL;
    tutti_status status = call_keep(comm, &one.call, &one.counts);
    if (status == TUTTI_OK)
        status = stream_launch(&one, 1, on_stream ? NULL : result ? result : &op);
    return op ? stream_result(op) : status;
}

/* Also what only a blocking call outside of groups must not be. */
static tutti_status check(tutti_comm *comm, struct call *call, bool blocks)
{
    tutti_status status = call_check(comm, call);
    if (status == TUTTI_OK && blocks && call->coll == TUTTI_COLL_SENDRECV &&
        call->root == (int)comm->rank && !group_open())
        return fail(TUTTI_ERR_ARG,
                    "rank %u: a blocking transfer to oneself would wait for ever: use a group or "
                    "the started form",
                    comm->rank);
    return status;
}

/* A call queues behind units that are under way, of host memory too: a started one does not wait
 * for them, and transfers progress together. False: nothing is under way. */
static bool queues_behind(tutti_comm *comm, struct call *call, tutti_request **request,
                          tutti_status *status)
{
    *status = comm_look_in(comm);
    if (*status != TUTTI_OK || !comm_has_units(comm))
        return false;
    *status = check(comm, call, !request);
    if (*status == TUTTI_OK)
        *status = launch(comm, call, false, NULL, (struct operation **)request);
    return true;
}

/* Whose group it is enters when that ends. */
static tutti_status record(tutti_comm *comm, struct call *call, tutti_request **request)
{
    tutti_status status = comm_look_in(comm);
    if (status == TUTTI_OK)
        status = check(comm, call, !request);
    if (status == TUTTI_OK && request)
        return fail(TUTTI_ERR_STATE, "%s: started operations are not allowed inside a group",
                    coll_name(call->coll));
    return status == TUTTI_OK ? group_record(comm, call, false, NULL) : status;
}

/* Runs, starts or records a call. request is NULL for the blocking form. The call is handed on by
 * address: to copy what was just written, two fields at a time, would wait until it is in the
 * cache, behind the message of the call before, whose line another core may have. */
static tutti_status issue(tutti_comm *comm, struct call *call, tutti_request **request)
{
    tutti_status status;
    if (__builtin_expect(group_open(), 0))
        return record(comm, call, request);
    if (__builtin_expect(mem_device_present(), 0) && queues_behind(comm, call, request, &status))
        return status;
    status = comm_enter(comm);
    if (__builtin_expect(status != TUTTI_OK, 0))
        return status;
    if (comm->last_program && !request && !comm->head && same_call(comm, call)) {
        status = comm_run_again(comm, call);
        comm_leave(comm);
        return status;
    }
    status = check(comm, call, !request);
    if (status == TUTTI_OK) {
        if (__builtin_expect(stream_needs(comm, call), 0)) {
            comm_leave(comm);
            return launch(comm, call, false, NULL, (struct operation **)request);
        } else if (!request) {
            status = comm_run(comm, call);
        } else {
            struct operation *operation;
            status = comm_submit(comm, call, &operation);
            if (status == TUTTI_OK)
                *request = (tutti_request *)operation;
        }
    }
    comm_leave(comm);
    return status;
}

static tutti_status issue_on(tutti_comm *comm, struct call *call, void *stream)
{
    struct mem_stream opened;
    tutti_status status = comm_look_in(comm);
    if (status == TUTTI_OK)
        status = call_check(comm, call);
    /* The first stream brings the driver, which tells device pointers from others. */
    if (status == TUTTI_OK && stream && !mem_device_present())
        status = mem_stream_open(stream, NULL, &opened);
    if (status != TUTTI_OK)
        return status;
    if (group_open())
        return group_record(comm, call, true, stream);
    if (stream || stream_needs(comm, call) || stream_is_empty(comm, call))
        return launch(comm, call, true, stream, NULL);
    return issue(comm, call, NULL);
}

#define CALL(coll_, ...) ((struct call){.coll = TUTTI_COLL_##coll_, __VA_ARGS__})
#define CALL_allreduce                                                                             \
    CALL(ALLREDUCE, .in = in, .out = out, .count = count, .dtype = dtype, .op = op)
#define CALL_allgather CALL(ALLGATHER, .in = in, .out = out, .count = count, .dtype = dtype)
#define CALL_allgatherv                                                                            \
    CALL(ALLGATHERV, .in = in, .out = out, .counts = counts, .displs = displs, .dtype = dtype)
#define CALL_reduce_scatter                                                                        \
    CALL(REDUCE_SCATTER, .in = in, .out = out, .count = count, .dtype = dtype, .op = op)
#define CALL_reduce_scatterv                                                                       \
    CALL(REDUCE_SCATTERV, .in = in, .out = out, .counts = counts, .dtype = dtype, .op = op)
#define CALL_broadcast                                                                             \
    CALL(BROADCAST, .in = in, .out = out, .count = count, .dtype = dtype, .root = root)
#define CALL_reduce                                                                                \
    CALL(REDUCE, .in = in, .out = out, .count = count, .dtype = dtype, .op = op, .root = root)
#define CALL_gather CALL(GATHER, .in = in, .out = out, .count = count, .dtype = dtype, .root = root)
#define CALL_gatherv                                                                               \
    CALL(GATHERV, .in = in, .count = in_count, .out = out, .counts = counts, .displs = displs,     \
         .dtype = dtype, .root = root)
#define CALL_scatter                                                                               \
    CALL(SCATTER, .in = in, .out = out, .count = count, .dtype = dtype, .root = root)
#define CALL_scatterv                                                                              \
    CALL(SCATTERV, .in = in, .counts = counts, .displs = displs, .out = out, .count = out_count,   \
         .dtype = dtype, .root = root)
#define CALL_alltoall CALL(ALLTOALL, .in = in, .out = out, .count = count, .dtype = dtype)
#define CALL_alltoallv                                                                             \
    CALL(ALLTOALLV, .in = in, .counts = in_counts, .displs = in_displs, .out = out,                \
         .recv_counts = out_counts, .recv_displs = out_displs, .dtype = dtype)
#define CALL_barrier CALL(BARRIER, .dtype = TUTTI_UINT8)
#define CALL_send                                                                                  \
    CALL(SENDRECV, .is_send = true, .in = in, .count = count, .dtype = dtype, .root = peer)
#define CALL_recv CALL(SENDRECV, .out = out, .count = count, .dtype = dtype, .root = peer)

#define X(name, params, args)                                                                      \
    tutti_status tutti_##name params                                                               \
    {                                                                                              \
        return issue(comm, &CALL_##name, NULL);                                                    \
    }                                                                                              \
    tutti_status tutti_##name##_start(TUTTI_UNPAREN params, tutti_request **request)               \
    {                                                                                              \
        if (!request)                                                                              \
            return fail(TUTTI_ERR_ARG, "tutti_" #name "_start: request is NULL");                  \
        return issue(comm, &CALL_##name, request);                                                 \
    }                                                                                              \
    tutti_status tutti_##name##_on(TUTTI_UNPAREN params, void *stream)                             \
    {                                                                                              \
        return issue_on(comm, &CALL_##name, stream);                                               \
    }
TUTTI_COLLECTIVES(X)
#undef X

/* ---- requests ---------------------------------------------------------------------------------
 */

/* Ends a request whose operation is done: its status, and the sentence behind it. */
static tutti_status take_result(tutti_request **request)
{
    struct operation *operation = (struct operation *)*request;
    tutti_status status = operation_result(operation);
    operation_release(operation);
    *request = NULL;
    return status;
}

/* Units that came after an operation end when they will; the proxy, while inside, moves it too. */
static void advance_beside_units(struct operation *operation, bool wait)
{
    tutti_comm *comm = operation->comm;
    bool fresh = wait;
    while (operation->status == TUTTI_IN_PROGRESS && comm_has_units(comm)) {
        if (comm_seize(comm)) {
            if (fresh)
                comm_idle_reset(comm);
            fresh = false;
            comm_progress(comm);
            comm_look(comm);
            comm_leave(comm);
        }
        if (!wait)
            return;
        sched_yield();
    }
}

/* Makes progress for a request from outside: enters its communicator if nobody else is inside. Who
 * computes may ask seldom, so a test goes on while something moves: as long as a plan's messages
 * under way may, of which each long one in shared memory has a poll of its own. */
static tutti_status advance(struct operation *operation, bool wait)
{
    tutti_comm *comm = operation->comm;
    if (operation->status != TUTTI_IN_PROGRESS)
        return TUTTI_OK;
    if (comm->fork_generation != atomic_load(&comm_forks)) /* nobody goes on with it here */
        return comm_look_in(comm);
    if (operation->of_unit && wait)
        stream_wait(operation);
    if (operation->status != TUTTI_IN_PROGRESS || operation->of_unit)
        return TUTTI_OK;
    tutti_status status = comm_look_in(comm);
    if (status == TUTTI_OK && comm_has_units(comm)) {
        advance_beside_units(operation, wait);
        if (!wait || operation->status != TUTTI_IN_PROGRESS)
            return TUTTI_OK;
    }
    status = comm_enter(comm);
    if (status != TUTTI_OK)
        return operation->status == TUTTI_IN_PROGRESS ? status : TUTTI_OK;
    if (wait)
        comm_idle_reset(comm);
    bool moved;
    unsigned turns = wait ? 0 : EXEC_POSTED_MAX;
    do {
        moved = comm_progress(comm);
        if (!moved && wait)
            comm_idle(comm);
    } while (operation->status == TUTTI_IN_PROGRESS && (wait || (moved && --turns > 0)));
    if (!wait && operation->status == TUTTI_IN_PROGRESS)
        comm_look(comm);
    comm_leave(comm);
    return TUTTI_OK;
}

tutti_status tutti_test(tutti_request **request, int *done)
{
    if (!request || !*request || !done)
        return fail(TUTTI_ERR_ARG, "tutti_test: %s is NULL", done ? "request" : "done");
    struct operation *operation = (struct operation *)*request;
    tutti_status status = advance(operation, false);
    if (status != TUTTI_OK)
        return status;
    *done = operation->status != TUTTI_IN_PROGRESS;
    return *done ? take_result(request) : TUTTI_OK;
}

tutti_status tutti_wait(tutti_request **request)
{
    if (!request || !*request)
        return fail(TUTTI_ERR_ARG, "tutti_wait: request is NULL");
    tutti_status status = advance((struct operation *)*request, true);
    return status == TUTTI_OK ? take_result(request) : status;
}

tutti_status tutti_wait_all(size_t count, tutti_request **requests)
{
    tutti_status first = TUTTI_OK;
    char sentence[SENTENCE_MAX] = "";
    if (!requests && count > 0)
        return fail(TUTTI_ERR_ARG, "tutti_wait_all: requests is NULL");
    for (size_t i = 0; i < count; i++) {
        if (!requests[i])
            continue;
        tutti_status status = tutti_wait(&requests[i]);
        if (status != TUTTI_OK && first == TUTTI_OK) {
            first = status;
            strcpy(sentence, status_sentence());
        }
    }
    if (first != TUTTI_OK)
        status_set_sentence(sentence);
    return first;
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

int tutti_version(void)
{
    return TUTTI_VERSION;
}

const char *tutti_status_string(tutti_status status)
{
    return status_text(status);
}

const char *tutti_last_error(void)
{
    return status_sentence();
}

void tutti_log_failure(const char *sentence)
{
    static const char *const asking[] = {"WARN", "INFO", "ABORT", "TRACE"};
    const char *debug = settings_launcher_variable("NCCL_DEBUG");
    for (size_t i = 0; debug && sentence && i < sizeof asking / sizeof *asking; i++) {
        if (strcasecmp(debug, asking[i]) == 0)
            log_at(LOG_LEVEL_ERROR, -1, "%s", sentence);
    }
}

const char *tutti_dtype_name(tutti_dtype dtype)
{
    return dtype_name(dtype);
}

const char *tutti_op_name(tutti_op op)
{
    return op_name(op);
}

const char *tutti_coll_name(tutti_coll coll)
{
    return coll_name(coll);
}

size_t tutti_dtype_size(tutti_dtype dtype)
{
    return dtype_size(dtype);
}

tutti_status tutti_mem_alloc(size_t bytes, void **memory)
{
    return memory ? mem_alloc(bytes, memory)
                  : fail(TUTTI_ERR_ARG, "tutti_mem_alloc: memory is NULL");
}

tutti_status tutti_mem_free(void *memory)
{
    return memory ? mem_free(memory) : TUTTI_OK;
}

tutti_status tutti_mem_alloc_in(tutti_memory memory, size_t bytes, void **pointer)
{
    return pointer ? mem_alloc_in(memory, bytes, pointer)
                   : fail(TUTTI_ERR_ARG, "tutti_mem_alloc_in: pointer is NULL");
}

tutti_status tutti_mem_copy(void *dst, const void *src, size_t bytes)
{
    if (bytes > 0 && (!dst || !src))
        return fail(TUTTI_ERR_ARG, "tutti_mem_copy: %s is NULL", dst ? "src" : "dst");
    return bytes > 0 ? mem_copy_any(dst, src, bytes) : TUTTI_OK;
}

size_t tutti_settings_print(char *text, size_t len)
{
    struct settings settings;
    if (settings_load(&settings) != TUTTI_OK)
        settings_defaults(&settings);
    return settings_print(&settings, text, len);
}

const char *tutti_setting_name(size_t index)
{
    return settings_name(index);
}

tutti_status tutti_setting_get(const char *name, char *text, size_t len)
{
    struct settings settings;
    if (!name || !text || len == 0)
        return fail(TUTTI_ERR_ARG, "tutti_setting_get: %s",
                    name ? "no room for the text" : "name is NULL");
    tutti_status status = settings_load(&settings);
    return status == TUTTI_OK ? settings_get(&settings, name, text, len) : status;
}

tutti_status tutti_setting_default(const char *name, const char *value)
{
    if (!name || !value)
        return fail(TUTTI_ERR_ARG, "tutti_setting_default: %s is NULL", name ? "value" : "name");
    return settings_put_default(name, value);
}

/* Where the log is, and its level, before there is a communicator that knows. */
static void load_log(struct settings *settings)
{
    if (settings_load(settings) == TUTTI_OK) {
        log_set_level((enum log_level)settings->log);
        log_set_file(settings->log_file);
    } else {
        settings_defaults(settings);
    }
}

void tutti_log_line(const char *text)
{
    struct settings settings;
    load_log(&settings);
    if (text)
        log_asked(text);
}

void tutti_settings_log(void)
{
    char value[SETTING_TEXT_MAX], line[2 * SETTING_TEXT_MAX];
    struct settings settings;
    load_log(&settings);
    for (size_t i = 0; settings_name(i); i++) {
        settings_get(&settings, settings_name(i), value, sizeof value);
        snprintf(line, sizeof line, "%s=%s", settings_name(i), value);
        log_asked(line);
    }
}

struct tutti_registration {
    tutti_comm *comm;
    void *handle[COMM_TRANSPORTS_MAX];
};

/* Of the first `count` transports. */
static void deregister_in(tutti_comm *comm, uint32_t count, const tutti_registration *registration,
                          bool inside)
{
    for (uint32_t i = count; i-- > 0;) {
        if (comm->transport_ops[i]->reg)
            comm->transport_ops[i]->dereg(comm->transports[i], registration->handle[i], inside);
    }
}

static tutti_status register_in_all(tutti_comm *comm, void *memory, size_t bytes,
                                    tutti_registration *made)
{
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        const struct transport_ops *ops = comm->transport_ops[i];
        tutti_status status =
            ops->reg ? ops->reg(comm->transports[i], memory, bytes, &made->handle[i]) : TUTTI_OK;
        if (status != TUTTI_OK) {
            deregister_in(comm, i, made, false);
            return status;
        }
    }
    return TUTTI_OK;
}

tutti_status tutti_register(tutti_comm *comm, void *memory, size_t bytes,
                            tutti_registration **registration)
{
    if (!registration || (!memory && bytes > 0))
        return fail(TUTTI_ERR_ARG, "tutti_register: %s is NULL",
                    registration ? "memory" : "registration");
    tutti_status status = comm_look_in(comm);
    if (status != TUTTI_OK)
        return status;
    tutti_registration *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "no memory for a registration");
    made->comm = comm;
    mem_device_notice(memory);
    status = register_in_all(comm, memory, bytes, made);
    if (status == TUTTI_OK)
        *registration = made;
    else
        free(made);
    return status;
}

tutti_status tutti_deregister(tutti_comm *comm, tutti_registration *registration)
{
    if (!registration)
        return TUTTI_OK;
    tutti_status status = comm_check_query(comm, registration);
    if (status != TUTTI_OK)
        return status;
    if (registration->comm != comm)
        return fail(TUTTI_ERR_ARG, "tutti_deregister: made with another communicator");
    /* In a child of fork they are the parent's still. */
    if (comm->fork_generation == atomic_load(&comm_forks)) {
        bool inside = comm_try_look(comm);
        deregister_in(comm, comm->transport_count, registration, inside);
        if (inside)
            comm_leave(comm);
    }
    free(registration);
    return TUTTI_OK;
}
