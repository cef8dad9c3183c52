/* rig.c: see rig.h. */
#include "tests/rig.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLASSES        48 /* powers of two */
#define LIMIT_S        60
#define GATE_WORDS     16 /* 32-bit words from gate to gate: a cache line */
#define GARBAGE        0x5a
#define QUEUES         "32" /* the most that devices have */
#define STANDIN_QUEUES "64" /* the most that the stand-in has */
#define PAGE           4096
#define STREAMS_MAX    256
#define DEVICES_MAX    8

struct block {
    struct block *next;
    void *memory;
    unsigned class;
    int device;
};

/* A process has one driver, and one pool of what it got from it, of each GPU. */
static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    const struct gpu *gpu;
    struct block *kept[DEVICES_MAX][CLASSES], *taken;
    struct kept_streams {
        cuda_stream list[STREAMS_MAX];
        unsigned count;
    } streams[DEVICES_MAX][2];
    _Atomic uint32_t *gates;
    cuda_address gates_address;
    uint32_t puts[RIG_GATES_MAX];
} rig = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static _Thread_local int entered; /* the GPU of this thread */

/* A driver that fails here makes the test worthless: stop the process. */
static void need(cuda_result result, const char *what)
{
    if (result == CUDA_DRIVER_OK)
        return;
    printf("    %s: the driver answers %d\n", what, result);
    fflush(stdout);
    _exit(3);
}

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static cuda_address address_of(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

/* ---- worlds ----------------------------------------------------------------------------------
 */

static void open_rig(void)
{
    rig.gpu = gpu_open();
    if (!rig.gpu)
        return;
    rig.gates = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(rig.gpu->host_register((void *)rig.gates, PAGE,
                                CUDA_REGISTER_PORTABLE | CUDA_REGISTER_DEVICEMAP),
         "pin a page");
    need(rig.gpu->host_address(&rig.gates_address, (void *)rig.gates, 0), "address of a page");
}

const struct gpu *rig_gpu(void)
{
    pthread_once(&rig.once, open_rig);
    if (!rig.gpu) {
        fflush(stdout);
        _exit(3);
    }
    return rig.gpu;
}

void rig_enter(int ordinal)
{
    cuda_context context;
    int device;
    need(rig_gpu()->device_get(&device, ordinal), "find the GPU");
    need(rig.gpu->primary_retain(&context, device), "retain the primary context");
    need(rig.gpu->context_set(context), "make the primary context current");
    entered = ordinal;
}

void *rig_green_make(void)
{
    const struct gpu *gpu = rig_gpu();
    struct gpu_resource whole, part;
    void *name, *green;
    unsigned count = 1;
    int device;
    if (!gpu->green_create || !gpu->stream_contexts ||
        gpu->device_get(&device, entered) != CUDA_DRIVER_OK ||
        gpu->resource_of(device, &whole, GPU_MULTIPROCESSORS) != CUDA_DRIVER_OK ||
        gpu->resource_split(&part, &count, &whole, NULL, 0, whole.multiprocessors / 4) !=
            CUDA_DRIVER_OK ||
        gpu->resource_name(&name, &part, 1) != CUDA_DRIVER_OK ||
        gpu->green_create(&green, name, device, GPU_GREEN_DEFAULT_STREAM) != CUDA_DRIVER_OK)
        return NULL;
    return green;
}

void rig_green_enter(void)
{
    cuda_context context;
    need(rig_gpu()->green_context(&context, rig_green_make()), "the context of a green one");
    need(rig.gpu->context_set(context), "make a green context current");
}

/* What a child process answers; it is killed when the time is up. */
static int child_result(pid_t pid, unsigned limit_s)
{
    uint64_t end = now_us() + limit_s * 1000000ull;
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) != pid) {
        if (now_us() > end) {
            printf("    time limit: the process of ranks is killed\n");
            kill(pid, SIGKILL);
            end = UINT64_MAX;
        }
        usleep(500);
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    printf("    the process of ranks was killed by signal %d\n", WTERMSIG(status));
    return 1000;
}

static int ask_child(int (*question)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int answer = question();
        fflush(NULL);
        _exit(answer);
    }
    return child_result(pid, LIMIT_S);
}

static int find_kind(void)
{
    const struct gpu *gpu = gpu_open();
    return !gpu ? 1 : gpu->standin ? 2 : 0;
}

static int driver_kind(void)
{
    static int kind = -1;
    if (kind < 0)
        kind = ask_child(find_kind);
    return kind;
}

bool rig_is_there(void)
{
    return driver_kind() == 0 || driver_kind() == 2;
}

bool rig_is_standin(void)
{
    return driver_kind() == 2;
}

static int count_devices(void)
{
    const struct gpu *gpu = gpu_open();
    int count;
    return gpu && gpu->device_count(&count) == CUDA_DRIVER_OK ? count : 0;
}

int rig_count(void)
{
    return ask_child(count_devices);
}

static int find_greens(void)
{
    rig_enter(0);
    return rig_green_make() != NULL;
}

bool rig_has_greens(void)
{
    return rig_is_there() && ask_child(find_greens) == 1;
}

static void (*prepare_too)(int rank); /* the world's own */

static void prepare(int rank)
{
    rig_enter(0);
    if (prepare_too)
        prepare_too(rank);
}

int rig_run(const struct world *given, world_fn *function, void *context)
{
    struct world world = *given;
    prepare_too = given->prepare;
    world.prepare = prepare;
    gpu_name_driver();
    if (world.kind == WORLD_PROCESSES)
        return world_run(&world, function, context);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        /* Streams of a context share its hardware queues, and one that waits holds up those behind
         * it: ranks in threads need a queue for each of their streams. */
        setenv("CUDA_DEVICE_MAX_CONNECTIONS", QUEUES, 1);
        setenv("TUTTI_TEST_STANDIN_CHANNELS", STANDIN_QUEUES, 1);
        rig_enter(0);
        int wrong = world_run(&world, function, context);
        /* Not _exit: the end of a process with a proxy is part of what is tested. */
        exit(wrong > 100 ? 100 : wrong);
    }
    return child_result(pid, world.limit_s ? world.limit_s : LIMIT_S);
}

/* ---- memory ----------------------------------------------------------------------------------
 */

static unsigned class_of(size_t bytes)
{
    unsigned class = 8;
    while (((size_t)1 << class) < bytes)
        class ++;
    return class;
}

void *rig_take(size_t bytes)
{
    unsigned class = class_of(bytes);
    pthread_mutex_lock(&rig.lock);
    struct block *block = rig.kept[entered][class];
    if (block)
        rig.kept[entered][class] = block->next;
    pthread_mutex_unlock(&rig.lock);
    if (!block) {
        cuda_address address;
        block = calloc(1, sizeof *block);
        need(rig_gpu()->alloc(&address, (size_t)1 << class), "allocate device memory");
        *block =
            (struct block){.memory = (void *)(uintptr_t)address, .class = class, .device = entered};
    }
    pthread_mutex_lock(&rig.lock);
    block->next = rig.taken;
    rig.taken = block;
    pthread_mutex_unlock(&rig.lock);
    return block->memory;
}

void rig_give(void *memory)
{
    pthread_mutex_lock(&rig.lock);
    struct block **at = &rig.taken;
    while (*at && (*at)->memory != memory)
        at = &(*at)->next;
    if (!*at)
        abort();
    struct block *block = *at;
    *at = block->next;
    block->next = rig.kept[block->device][block->class];
    rig.kept[block->device][block->class] = block;
    pthread_mutex_unlock(&rig.lock);
}

static cuda_stream own_stream(void)
{
    static _Thread_local cuda_stream own[DEVICES_MAX];
    if (!own[entered])
        own[entered] = rig_stream_take(false);
    return own[entered];
}

static void wait_for(cuda_stream stream)
{
    while (!rig_is_done(stream))
        sched_yield();
}

void rig_copy(void *dst, const void *src, size_t bytes)
{
    rig_put_copy(own_stream(), dst, src, bytes);
    wait_for(own_stream());
}

void rig_fill(void *dst, unsigned char value, size_t bytes)
{
    rig_put_fill(own_stream(), dst, value, bytes);
    wait_for(own_stream());
}

void rig_set_ints(void *device, size_t count, int first)
{
    int32_t *values = malloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = first + (int)i;
    rig_copy(device, values, count * sizeof *values);
    free(values);
}

int rig_wrong_ints(int rank, const void *device, size_t count, int base, int step, const char *what)
{
    int32_t *seen = malloc((count + 1) * sizeof *seen);
    int wrong = 0;
    rig_copy(seen, device, count * sizeof *seen);
    for (size_t i = 0; i < count && !wrong; i++)
        wrong += world_check(rank, seen[i] == base + step * (int)i, "%s: element %zu is %d, not %d",
                             what, i, seen[i], base + step * (int)i);
    free(seen);
    return wrong;
}

/* ---- streams ---------------------------------------------------------------------------------
 */

cuda_stream rig_stream_take(bool blocking)
{
    struct kept_streams *kept = &rig.streams[entered][blocking];
    cuda_stream stream = NULL;
    pthread_mutex_lock(&rig.lock);
    if (kept->count > 0)
        stream = kept->list[--kept->count];
    pthread_mutex_unlock(&rig.lock);
    if (!stream)
        need(rig_gpu()->stream_make(&stream, blocking ? 0 : CUDA_STREAM_NON_BLOCKING),
             "make a stream");
    return stream;
}

void rig_stream_give(cuda_stream stream, bool blocking)
{
    struct kept_streams *kept = &rig.streams[entered][blocking];
    pthread_mutex_lock(&rig.lock);
    if (kept->count < STREAMS_MAX)
        kept->list[kept->count++] = stream;
    pthread_mutex_unlock(&rig.lock);
}

bool rig_is_done(cuda_stream stream)
{
    cuda_result result = rig_gpu()->stream_query(stream);
    if (result != CUDA_DRIVER_NOT_READY)
        need(result, "query a stream");
    return result == CUDA_DRIVER_OK;
}

int rig_await(int rank, cuda_stream stream, unsigned limit_s)
{
    uint64_t start = now_us();
    while (!rig_is_done(stream)) {
        uint64_t spent = now_us() - start;
        if (spent > limit_s * 1000000ull)
            return world_check(rank, 0, "a stream is not done after %u s", limit_s);
        if (spent > 1000)
            usleep(50);
        else
            sched_yield();
    }
    return 0;
}

void rig_put_copy(cuda_stream stream, void *dst, const void *src, size_t bytes)
{
    if (bytes > 0)
        need(rig_gpu()->copy(address_of(dst), address_of(src), bytes, stream), "copy");
}

void rig_put_fill(cuda_stream stream, void *dst, unsigned char value, size_t bytes)
{
    if (bytes > 0)
        need(rig_gpu()->fill(address_of(dst), value, bytes, stream), "fill");
}

static void sleep_us(void *us)
{
    usleep((useconds_t)(uintptr_t)us);
}

void rig_put_delay(cuda_stream stream, unsigned us)
{
    need(rig_gpu()->host_function(stream, sleep_us, (void *)(uintptr_t)us), "delay");
}

void rig_put_order(cuda_stream first, cuda_stream second)
{
    cuda_event event;
    need(rig_gpu()->event_create(&event, CUDA_EVENT_NO_TIMING), "make an event");
    need(rig.gpu->event_record(event, first), "record an event");
    need(rig.gpu->stream_await(second, event, 0), "await an event");
    /* A driver keeps what streams still need. */
    need(rig.gpu->event_destroy(event), "destroy an event");
}

struct gate_wait {
    _Atomic uint32_t *word;
    uint32_t value;
};

static void wait_at_gate(void *data)
{
    struct gate_wait *wait = data;
    while ((int32_t)(atomic_load(wait->word) - wait->value) < 0)
        usleep(20);
    free(wait);
}

void rig_gate_put(unsigned gate, cuda_stream stream)
{
    pthread_mutex_lock(&rig.lock);
    _Atomic uint32_t *word = &rig.gates[gate * GATE_WORDS];
    uint32_t value = atomic_load(word) + 1;
    pthread_mutex_unlock(&rig.lock);
    cuda_result result = CUDA_DRIVER_NOT_SUPPORTED;
    if (rig_gpu()->wait_word)
        result = rig.gpu->wait_word(stream, rig.gates_address + gate * GATE_WORDS * 4, value,
                                    CUDA_WAIT_REACHED);
    if (result == CUDA_DRIVER_OK)
        return;
    struct gate_wait *wait = malloc(sizeof *wait);
    *wait = (struct gate_wait){word, value};
    need(rig.gpu->host_function(stream, wait_at_gate, wait), "put a gate");
}

void rig_gate_open(unsigned gate)
{
    rig_gpu();
    atomic_fetch_add(&rig.gates[gate * GATE_WORDS], 1);
}

/* ---- graphs ----------------------------------------------------------------------------------
 */

void rig_capture_begin(cuda_stream stream)
{
    need(rig_gpu()->capture_begin(stream, CUDA_CAPTURE_MODE_RELAXED), "begin a capture");
}

void *rig_capture_end(cuda_stream stream)
{
    cuda_graph graph = NULL;
    void *executable = NULL;
    cuda_result result = rig_gpu()->capture_end(stream, &graph);
    if (result != CUDA_DRIVER_OK || !graph)
        return NULL;
    need(rig.gpu->graph_instantiate(&executable, graph, 0), "instantiate a graph");
    need(rig.gpu->graph_destroy(graph), "destroy a graph");
    return executable;
}

void rig_graph_launch(void *executable, cuda_stream stream)
{
    need(rig_gpu()->graph_launch(executable, stream), "launch a graph");
}

void rig_graph_destroy(void *executable)
{
    need(rig_gpu()->graph_exec_destroy(executable), "destroy an executable graph");
}

/* ---- jobs ------------------------------------------------------------------------------------
 */

static char *job_memory(const struct rig_job *job, size_t bytes)
{
    return job->on_host ? malloc(bytes) : rig_take(bytes);
}

static void job_free(const struct rig_job *job, char *memory)
{
    if (job->on_host)
        free(memory);
    else
        rig_give(memory);
}

void rig_job_make(struct rig_job *job, int number, tutti_comm *comm, int rank, int size)
{
    const struct testcase *c = &job->c;
    size_t e = tutti_dtype_size(c->dtype), in_count, out_count, own;
    testcase_extents(c, rank, size, &in_count, &out_count, &own);
    job->number = number;
    job->comm = comm;
    job->rank = rank;
    job->size = size;
    size_t larger = in_count > out_count ? in_count : out_count;
    job->in_bytes = in_count * e;
    job->out_bytes = out_count * e;
    job->in_block = (c->in_place ? larger : in_count) * e + 2 * TESTCASE_GUARD;
    job->out_block = c->in_place ? job->in_block : job->out_bytes + 2 * TESTCASE_GUARD;
    job->in_at = job->out_at = TESTCASE_GUARD;
    if (c->in_place && in_count < out_count)
        job->in_at += own * e;
    else if (c->in_place && out_count < in_count)
        job->out_at += own * e;
    job->in = job_memory(job, job->in_block);
    job->out = c->in_place ? job->in : job_memory(job, job->out_block);
    job->source = job_memory(job, job->in_block);
    job->result = job_memory(job, job->out_block);
    job->mirror = malloc(job->in_block > job->out_block ? job->in_block : job->out_block);
    memset(job->mirror, TESTCASE_GUARD_BYTE, job->in_block);
    testcase_fill(c, rank, job->mirror + job->in_at, in_count);
    if (job->on_host) {
        memcpy(job->in, job->mirror, job->in_block);
        if (!c->in_place)
            memset(job->out, TESTCASE_GUARD_BYTE, job->out_block);
        return;
    }
    rig_fill(job->in, GARBAGE, job->in_block);
    rig_fill(job->result, GARBAGE, job->out_block);
    rig_copy(job->source, job->mirror, job->in_block);
}

void rig_job_before(struct rig_job *job, cuda_stream stream)
{
    if (job->on_host)
        return;
    rig_put_copy(stream, job->in, job->source, job->in_block);
    if (!job->c.in_place)
        rig_put_fill(stream, job->out, TESTCASE_GUARD_BYTE, job->out_block);
}

tutti_status rig_job_call(struct rig_job *job, cuda_stream stream)
{
    if (job->c.form != FORM_ON_STREAM && !job->on_host)
        wait_for(stream);
    return testcase_issue(&job->c, job->rank, job->size, job->in + job->in_at,
                          job->out + job->out_at, job->comm, stream);
}

void rig_job_after(struct rig_job *job, cuda_stream stream)
{
    if (!job->on_host)
        rig_put_copy(stream, job->result, job->out, job->out_block);
}

int rig_job_put(struct rig_job *job, cuda_stream stream)
{
    char text[256];
    rig_job_before(job, stream);
    tutti_status status = rig_job_call(job, stream);
    rig_job_after(job, stream);
    testcase_describe(&job->c, job->number, job->size, text, sizeof text);
    return world_check(job->rank, status == TUTTI_OK, "%s: %s: %s", text,
                       tutti_status_string(status), tutti_last_error());
}

int rig_job_check(struct rig_job *job)
{
    char text[256];
    const struct testcase *c = &job->c;
    size_t e = tutti_dtype_size(c->dtype);
    char *seen = malloc(job->in_block > job->out_block ? job->in_block : job->out_block);
    int at = snprintf(text, 8, "%s", job->on_host ? "host " : "");
    testcase_describe(c, job->number, job->size, text + at, sizeof text - 8);
    if (job->on_host)
        memcpy(seen, job->out, job->out_block);
    else
        rig_copy(seen, job->result, job->out_block);
    int wrong = testcase_check(c, job->rank, job->size, seen, job->out_block, seen + job->out_at,
                               job->out_bytes / e * e, text);
    if (!c->in_place) {
        if (job->on_host)
            memcpy(seen, job->in, job->in_block);
        else
            rig_copy(seen, job->in, job->in_block);
        wrong += world_check(job->rank, memcmp(seen, job->mirror, job->in_block) == 0,
                             "%s: the input changed", text);
    }
    free(seen);
    rig_job_drop(job);
    return wrong;
}

void rig_job_drop(struct rig_job *job)
{
    job_free(job, job->in);
    if (!job->c.in_place)
        job_free(job, job->out);
    job_free(job, job->source);
    job_free(job, job->result);
    free(job->mirror);
}
