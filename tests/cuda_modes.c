/* cuda_modes.c: drivers that are missing, old, failing or different, and settings, each in a
 * process of its own, because a process has one driver; part of test_cuda. */
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mem/mem_cuda.h"
#include "tests/cuda_suite.h"

/* This program anew, in another mode, with standard input on fd if that is not negative. */
pid_t run_self(const char *mode, int fd)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (fd >= 0)
            dup2(fd, 0);
        execl("/proc/self/exe", "test_cuda", mode, (char *)NULL);
        _exit(127);
    }
    return child;
}

bool ended_well(pid_t child)
{
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- other drivers and settings, each in a process of its own ------------------------------- */

#define EXPECT(fact)                                                                               \
    ((fact) ? 0 : (printf("    line %d: " #fact "\n      %s\n", __LINE__, status_sentence()), 1))

/* Memory of a driver that is not used is known, and only that. */
static int refuses(void *memory, const char *reason)
{
    unsigned char local[8];
    void *pinned;
    const char *why = mem_device_refused((char *)memory + 63);
    return EXPECT(why && strstr(why, reason)) || EXPECT(!mem_device_refused(local)) ||
           EXPECT(!mem_device_refused(NULL)) ||
           EXPECT(gpu->host_alloc(&pinned, 4096, 0) == CUDA_DRIVER_OK) ||
           EXPECT(!mem_device_refused(pinned)) ||
           EXPECT(mem_copy_any(local, memory, 8) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), reason)) ||
           EXPECT(mem_copy_any(local, pinned, 8) == TUTTI_OK);
}

static int mode_off(void)
{
    struct mem_place place;
    struct mem_device *opened;
    setenv("TUTTI_CUDA", "0", 1);
    gpu = gpu_open();
    if (!gpu)
        return 1;
    void *memory = gpu_alloc(64);
    return EXPECT(!mem_device_in_use(&opened)) || EXPECT(!mem_device_present()) ||
           EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "TUTTI_CUDA=0")) ||
           EXPECT(mem_device_of(memory, &place) == TUTTI_OK && !place.device) ||
           refuses(memory, "TUTTI_CUDA=0");
}

/* The program's driver is not the one that the library was told to use, which is none. */
static int mode_elsewhere(void)
{
    struct mem_device *opened;
    gpu = gpu_open();
    if (!gpu)
        return 1;
    setenv("TUTTI_CUDA_DRIVER", "libm.so.6", 1);
    void *memory = gpu_alloc(64);
    return EXPECT(!mem_device_refused(memory)) || EXPECT(!mem_device_in_use(&opened)) ||
           refuses(memory, "libm.so.6 ");
}

/* The library looks for no driver before the program has one, and then finds the program's. */
static int mode_late(void)
{
    struct mem_device *opened = NULL;
    struct mem_place place;
    gpu_name_driver();
    if (EXPECT(!mem_device_in_use(&opened)) || EXPECT(!mem_device_present()))
        return 1;
    gpu = gpu_open();
    if (!gpu)
        return 1;
    void *memory = gpu_alloc(64);
    if (EXPECT(!mem_device_present()))
        return 1;
    bool used = mem_device_in_use(&opened); /* not where a stream that waits holds every channel */
    return EXPECT(mem_device_present()) || EXPECT(mem_device_of(memory, &place) == TUTTI_OK) ||
           EXPECT(place.device) || EXPECT(!used || place.device == opened);
}

static int mode_missing(void)
{
    struct mem_device *opened = NULL;
    void *memory = NULL;
    setenv("TUTTI_CUDA_DRIVER", "/nowhere/libcuda.so.1", 1);
    return EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "/nowhere/libcuda.so.1")) ||
           EXPECT(mem_alloc_in(TUTTI_MEMORY_CUDA, 1, &memory) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(!mem_device_present());
}

/* A library that is no driver. */
static int mode_old(void)
{
    struct mem_device *opened = NULL;
    setenv("TUTTI_CUDA_DRIVER", "libm.so.6", 1);
    return EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "has no cuInit")) ||
           EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED);
}

static int mode_no_gpu(void)
{
    struct mem_device *opened = NULL;
    setenv("TUTTI_TEST_STANDIN_DEVICES", "0", 1);
    gpu_name_driver();
    return EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "NO_DEVICE"));
}

/* A program that has loaded a stub, as it was linked with one, may use the library all the same. */
static int mode_stub(void)
{
    struct mem_device *opened = NULL;
    struct mem_place place;
    unsigned char local[8] = {0}, other[8] = {1};
    setenv("TUTTI_TEST_STANDIN_STUB", "1", 1);
    gpu_name_driver();
    return EXPECT(dlopen(STANDIN_FILE, RTLD_NOW)) || EXPECT(!mem_device_in_use(&opened)) ||
           EXPECT(mem_device_present()) || EXPECT(mem_device_of(local, &place) == TUTTI_OK) ||
           EXPECT(!place.device) || EXPECT(mem_copy_any(other, local, sizeof local) == TUTTI_OK) ||
           EXPECT(other[0] == 0) || EXPECT(mem_device_open(&opened) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "STUB_LIBRARY"));
}

/* A failed device answers every call with the same, and ends no process. */
static int mode_failing(void)
{
    struct mem_queue *queue, *kept, *other = NULL;
    struct mem_place place;
    void *block;
    cuda_context context;
    uint64_t ticket, done = 99;
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        mem_queue_take(device, &queue) != TUTTI_OK || mem_queue_take(device, &kept) != TUTTI_OK ||
        mem_device_take(device, 100, &block) != TUTTI_OK)
        return 1;
    mem_queue_give(kept);
    if (EXPECT(mem_queue_copy(queue, block, (char *)block + 50, 50, &ticket) == TUTTI_OK))
        return 1;
    gpu->context_current(&context);
    gpu->fail_context(context);
    tutti_status status = TUTTI_OK;
    for (int i = 0; i < 100000 && status == TUTTI_OK; i++) {
        if (i < QUEUE_TICKETS_MAX / 2)
            status = mem_queue_copy(queue, block, block, 1, &ticket);
        if (status == TUTTI_OK)
            status = mem_queue_poll(queue, &done);
    }
    int bad = EXPECT(status == TUTTI_ERR_SYSTEM) ||
              EXPECT(strstr(status_sentence(), "CUDA_ERROR_ILLEGAL_ADDRESS")) ||
              EXPECT(mem_device_of(block, &place) == TUTTI_ERR_SYSTEM) ||
              EXPECT(mem_device_of(&place, &place) == TUTTI_OK) || EXPECT(!place.device) ||
              EXPECT(mem_nic_copy(block, &place, 8) == TUTTI_ERR_SYSTEM) ||
              EXPECT(mem_nic_flush(block) == TUTTI_ERR_SYSTEM) ||
              EXPECT(mem_queue_poll(queue, &done) == TUTTI_ERR_SYSTEM) ||
              EXPECT(mem_queue_copy(queue, block, block, 1, &ticket) == TUTTI_ERR_SYSTEM) ||
              EXPECT(mem_copy_any(block, block, 1) != TUTTI_OK) ||
              EXPECT(mem_queue_take(device, &other) == TUTTI_OK || status_sentence()[0]);
    mem_queue_give(queue);
    mem_queue_give(other);
    return bad;
}

/* A kernel that reaches beyond an allocation: known only by asking. */
static int mode_fault(void)
{
    struct mem_queue *queue;
    uint64_t ticket = 0, done = 0;
    void *block;
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        mem_queue_take(device, &queue) != TUTTI_OK ||
        mem_device_take(device, 4096, &block) != TUTTI_OK)
        return 1;
    struct reducer sum = {
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT32), .dtype = TUTTI_INT32, .elem_size = 4};
    tutti_status status = mem_queue_reduce(queue, &sum, TUTTI_SUM, block, block,
                                           (char *)block + ((size_t)1 << 40), 4096, &ticket);
    for (uint64_t until = clock_ns() + 20000000000u; status == TUTTI_OK && clock_ns() < until;)
        status = mem_queue_poll(queue, &done);
    int bad = EXPECT(status == TUTTI_ERR_SYSTEM) || EXPECT(ticket == 0 || done < ticket) ||
              EXPECT(strstr(status_sentence(), "CUDA_ERROR_ILLEGAL_ADDRESS"));
    mem_queue_give(queue);
    return bad;
}

/* What a queue was given before a piece that the driver refuses goes on, and is waited for. */
static int mode_refused(void)
{
    enum { BYTES = 1 << 20 }; /* a second */
    struct mem_queue *queue;
    uint64_t ticket, done = 0, start = clock_ns(), limit_ns = 20000000000u;
    unsigned char *from, *to;
    bool waits = true, begun = false;
    setenv("TUTTI_TEST_STANDIN_COPY_MBPS", "1", 1);
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        EXPECT(mem_queue_take(device, &queue) == TUTTI_OK) ||
        EXPECT(mem_pinned_take(device, BYTES, (void **)&from) == TUTTI_OK) ||
        EXPECT(mem_pinned_take(device, BYTES, (void **)&to) == TUTTI_OK))
        return 1;
    memset(from, 1, BYTES);
    memset(to, 0, BYTES);
    gpu->refuse_work(2);
    if (EXPECT(mem_queue_copy(queue, to, from, BYTES, &ticket) == TUTTI_OK) ||
        EXPECT(mem_queue_copy(queue, from, from, 8, &ticket) != TUTTI_OK) ||
        EXPECT(mem_queue_poll(queue, &done) != TUTTI_OK) ||
        EXPECT(!mem_queue_is_over(queue, &waits)))
        return 1;
    while (!mem_queue_is_over(queue, &waits) && clock_ns() - start < limit_ns)
        begun |= !waits;
    mem_queue_give(queue);
    return EXPECT(begun || !mem_device_reduces(device)) || EXPECT(to[BYTES - 1] == 1);
}

static int mode_refused_copy(void)
{
    setenv("TUTTI_TEST_STANDIN_KERNELS", "0", 1);
    return mode_refused();
}

static int mode_no_kernels(void)
{
    struct mem_queue *queue;
    uint64_t ticket;
    struct reducer sum = {
        .kernel = reduce_kernel(TUTTI_SUM, TUTTI_INT32), .dtype = TUTTI_INT32, .elem_size = 4};
    setenv("TUTTI_TEST_STANDIN_KERNELS", "0", 1);
    gpu = gpu_open();
    if (EXPECT(gpu && mem_device_open(&device) == TUTTI_OK) ||
        EXPECT(!mem_device_reduces(device)) || EXPECT(mem_queue_take(device, &queue) == TUTTI_OK))
        return 1;
    int bad = EXPECT(mem_queue_reduce(queue, &sum, TUTTI_SUM, NULL, NULL, NULL, 4, &ticket) ==
                     TUTTI_ERR_UNSUPPORTED) ||
              EXPECT(strstr(status_sentence(), "no reduction on GPU 0"));
    mem_queue_give(queue);
    return bad;
}

static int mode_no_memory_ops(void)
{
    setenv("TUTTI_TEST_STANDIN_MEMORY_OPS", "0", 1);
    setenv("TUTTI_CUDA_STREAM_OPS", "memory", 1);
    gpu = gpu_open();
    return EXPECT(gpu && mem_device_open(&device) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "TUTTI_CUDA_STREAM_OPS=memory")) ||
           EXPECT(mem_device_open(&device) == TUTTI_ERR_UNSUPPORTED) ||
           EXPECT(strstr(status_sentence(), "TUTTI_CUDA_STREAM_OPS=memory"));
}

/* Waits of either sort leave room for queues, or not, and the program's device is told by that. */
static int channels(const char *count, const char *stream_ops, bool room)
{
    setenv("TUTTI_TEST_STANDIN_CHANNELS", count, 1);
    setenv("TUTTI_CUDA_STREAM_OPS", stream_ops, 1);
    gpu = gpu_open();
    return EXPECT(gpu && mem_device_in_use(&device) == room);
}

static int mode_one_channel(void)
{
    return channels("1", "memory", false);
}

static int mode_one_channel_host(void)
{
    return channels("1", "host", false);
}

static int mode_two_channels_host(void)
{
    return channels("2", "host", true);
}

/* When there is no more, a larger kept block serves. */
static int mode_small(void)
{
    void *large, *block, *other;
    setenv("TUTTI_TEST_STANDIN_BYTES", "67108864", 1);
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        EXPECT(mem_device_take(device, 40 << 20, &large) == TUTTI_OK))
        return 1;
    mem_device_give(device, large);
    return EXPECT(mem_device_take(device, 30 << 20, &block) == TUTTI_OK) ||
           EXPECT(block == large) ||
           EXPECT(mem_device_take(device, 30 << 20, &other) == TUTTI_ERR_NOMEM) ||
           EXPECT(strstr(status_sentence(), "CUDA_ERROR_OUT_OF_MEMORY"));
}

/* Two devices: each is its own, they reach each other, and copies cross. */
static int mode_two_devices(void)
{
    struct mem_place place[2];
    cuda_context context;
    cuda_address memory;
    struct mem_device *first;
    unsigned char data[64], seen[64] = {0};
    setenv("TUTTI_TEST_STANDIN_DEVICES", "2", 1);
    gpu = gpu_open();
    if (!gpu || EXPECT(mem_device_in_use(&first)))
        return 1;
    for (int i = 0; i < 2; i++) {
        if (EXPECT(gpu->primary_retain(&context, i) == CUDA_DRIVER_OK) ||
            EXPECT(gpu->context_set(context) == CUDA_DRIVER_OK) ||
            EXPECT(gpu->alloc(&memory, 64) == CUDA_DRIVER_OK) ||
            EXPECT(mem_device_of(address(memory), &place[i]) == TUTTI_OK))
            return 1;
    }
    struct mem_share own, other, nobody = {.device = {1}};
    mem_device_sample(place[0].device, &own);
    mem_device_sample(place[1].device, &other);
    fill(data, 64);
    return EXPECT(place[0].device == first) || EXPECT(place[0].device != place[1].device) ||
           EXPECT(mem_device_reach(first, &own) == MEM_REACH_SAME) ||
           EXPECT(mem_device_reach(first, &other) == MEM_REACH_LINK) ||
           EXPECT(mem_device_reach(first, &nobody) == MEM_REACH_NONE) ||
           EXPECT(mem_copy_any(place[0].base, data, 64) == TUTTI_OK) ||
           EXPECT(mem_copy_any(place[1].base, place[0].base, 64) == TUTTI_OK) ||
           EXPECT(mem_copy_any(seen, place[1].base, 64) == TUTTI_OK) ||
           EXPECT(memcmp(seen, data, 64) == 0);
}

/* A program may give back the primary context that the library works in: it is there to the end. */
static int mode_released(void)
{
    unsigned char data[64], seen[64] = {0};
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK)
        return 1;
    void *memory = gpu_alloc(64);
    fill(data, 64);
    return EXPECT(gpu->primary_release(0) == CUDA_DRIVER_OK) ||
           EXPECT(mem_copy_any(memory, data, 64) == TUTTI_OK) ||
           EXPECT(mem_copy_any(seen, memory, 64) == TUTTI_OK) ||
           EXPECT(memcmp(seen, data, 64) == 0);
}

/* Can the kernel get at the bytes by their device address, as it must to register them? */
static bool is_open(const void *memory)
{
    int fd = memfd_create("tutti-test", MFD_CLOEXEC);
    bool open = fd >= 0 && write(fd, memory, 1) == 1;
    close(fd);
    return open;
}

/* A device whose memory adapters reach in both ways, and that must be told when they have. */
static int mode_adapters(void)
{
    struct mem_export found = {.fd = -1};
    int fd = -1;
    uint64_t offset = 0;
    cuda_address virtual;
    unsigned before = 0, after = 0;
    setenv("TUTTI_TEST_STANDIN_NIC", "1", 1);
    setenv("TUTTI_TEST_STANDIN_FLUSH", "1", 1);
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK)
        return 1;
    unsigned char *memory = gpu_alloc(10000);
    if (EXPECT(mem_nic_find(memory + 5000, &found)) || EXPECT(!is_open(memory)) ||
        EXPECT(mem_nic_admit(&found) == TUTTI_OK) || EXPECT(is_open(memory)) ||
        EXPECT(mem_nic_dmabuf(&found, &fd, &offset) == TUTTI_OK) || EXPECT(!is_open(memory)))
        return 1;
    /* What is mapped there may change under a registration. */
    if (EXPECT(gpu->alloc_virtual(&virtual, 10000) == CUDA_DRIVER_OK) ||
        EXPECT(mem_nic_find(address(virtual), &found)) ||
        EXPECT(mem_nic_admit(&found) == TUTTI_ERR_UNSUPPORTED))
        return 1;
    gpu->count_flushes(&before);
    tutti_status status = mem_nic_flush(memory);
    gpu->count_flushes(&after);
    uint64_t in_page = cuda_pointer(memory) & 4095;
    return EXPECT(close(fd) == 0) || EXPECT(offset == in_page) || EXPECT(status == TUTTI_OK) ||
           EXPECT(after == before + 1);
}

/* A driver before CUDA 12.5 does not say whose a green context's stream is. */
static int mode_no_stream_contexts(void)
{
    struct mem_stream plain, green;
    struct gpu_resource part;
    void *name, *made;
    gpu = gpu_open();
    if (!gpu || mem_device_open(&device) != TUTTI_OK)
        return 1;
    cuda_stream handle, of_green;
    ((struct cuda_driver *)(uintptr_t)mem_cuda_driver())->stream_contexts = NULL;
    return EXPECT(gpu->stream_make(&handle, CUDA_STREAM_NON_BLOCKING) == CUDA_DRIVER_OK) ||
           EXPECT(mem_stream_open(handle, NULL, &plain) == TUTTI_OK && plain.device == device) ||
           EXPECT(mem_stream_open(NULL, NULL, &plain) == TUTTI_OK && plain.device == device) ||
           EXPECT(gpu->resource_of(0, &part, GPU_MULTIPROCESSORS) == CUDA_DRIVER_OK) ||
           EXPECT(gpu->resource_name(&name, &part, 1) == CUDA_DRIVER_OK) ||
           EXPECT(gpu->green_create(&made, name, 0, GPU_GREEN_DEFAULT_STREAM) == CUDA_DRIVER_OK) ||
           EXPECT(gpu->green_stream(&of_green, made, CUDA_STREAM_NON_BLOCKING, 0) ==
                  CUDA_DRIVER_OK) ||
           EXPECT(mem_stream_open(of_green, NULL, &green) == TUTTI_OK && green.device != device);
}

struct mode {
    const char *name;
    int (*run)(void);
    bool standin; /* needs the stand-in */
};

static const struct mode modes[] = {
    {"--off", mode_off, false},
    {"--elsewhere", mode_elsewhere, false},
    {"--late", mode_late, false},
    {"--missing", mode_missing, false},
    {"--old", mode_old, false},
    {"--fault", mode_fault, false},
    {"--released", mode_released, false},
    {"--no-gpu", mode_no_gpu, true},
    {"--stub", mode_stub, true},
    {"--failing", mode_failing, true},
    {"--refused", mode_refused, true},
    {"--refused-copy", mode_refused_copy, true},
    {"--no-kernels", mode_no_kernels, true},
    {"--no-memory-ops", mode_no_memory_ops, true},
    {"--one-channel", mode_one_channel, true},
    {"--one-channel-host", mode_one_channel_host, true},
    {"--two-channels-host", mode_two_channels_host, true},
    {"--small", mode_small, true},
    {"--two-devices", mode_two_devices, true},
    {"--adapters", mode_adapters, true},
    {"--no-stream-contexts", mode_no_stream_contexts, true},
};

bool run_mode(const char *mode, int *status)
{
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(mode, modes[i].name) == 0) {
            *status = modes[i].run();
            return true;
        }
    }
    return false;
}

/* What the library must not do, any driver refuses it: so the stand-in does. */
void test_cuda_drivers_refuse_what_they_must(void)
{
    cuda_stream first = make_stream(CUDA_STREAM_NON_BLOCKING),
                second = make_stream(CUDA_STREAM_NON_BLOCKING);
    struct mem_words *words = take_words();
    cuda_context others, popped;
    cuda_event event = NULL, of_others = NULL;
    cuda_graph graph = NULL;
    float ms;
    CU_ASSERT_EQUAL(gpu->event_create(&event, 0), CUDA_DRIVER_OK);
    if (gpu->standin) { /* a driver that takes these may fail the context for them */
        CU_ASSERT_EQUAL(gpu->wait_word(first, words->address + 2, 0, 0), CUDA_DRIVER_INVALID_VALUE);
        CU_ASSERT_EQUAL(gpu->write_word(first, words->address + 1, 0, 0),
                        CUDA_DRIVER_INVALID_VALUE);
        CU_ASSERT_EQUAL(gpu->write_word(first, words->address, 0, 64), CUDA_DRIVER_INVALID_VALUE);
    }
    mem_words_give(device, words);
    /* Two streams of a context are captured beside each other. */
    CU_ASSERT_EQUAL(gpu->capture_begin(first, CUDA_CAPTURE_MODE_RELAXED), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->capture_begin(second, CUDA_CAPTURE_MODE_RELAXED), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->capture_end(second, &graph), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->graph_destroy(graph), CUDA_DRIVER_OK);
    /* An event of a capture has no state to ask for, and the question ends the capture. */
    CU_ASSERT_EQUAL(gpu->event_record(event, first), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->event_query(event), 907); /* CUDA_ERROR_CAPTURED_EVENT */
    CU_ASSERT_NOT_EQUAL(gpu->event_elapsed(&ms, event, event), CUDA_DRIVER_OK);
    CU_ASSERT_NOT_EQUAL(gpu->capture_begin(first, CUDA_CAPTURE_MODE_RELAXED), CUDA_DRIVER_OK);
    graph = NULL;
    CU_ASSERT_NOT_EQUAL(gpu->capture_end(first, &graph), CUDA_DRIVER_OK);
    CU_ASSERT_PTR_NULL(graph);
    /* What belongs to a context serves in it alone. */
    CU_ASSERT_EQUAL_FATAL(gpu->context_create(&others, 0, 0), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->event_create(&of_others, 0), CUDA_DRIVER_OK);
    if (gpu->standin && mem_device_reduces(device)) /* another may look at the parameters first */
        CU_ASSERT_EQUAL(gpu->launch(device->copy, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL),
                        CUDA_DRIVER_INVALID_HANDLE);
    CU_ASSERT_EQUAL(gpu->context_pop(&popped), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->event_record(of_others, first), CUDA_DRIVER_INVALID_HANDLE);
}

void test_cuda_meets_other_drivers_and_settings(void)
{
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (modes[i].standin && !gpu->standin) {
            suite_skip("a part that needs the stand-in");
            return;
        }
        bool good = ended_well(run_self(modes[i].name, -1));
        if (!good)
            printf("    mode %s failed\n", modes[i].name);
        CU_ASSERT(good);
    }
}

/* The whole suite again, with tickets by events, signals by memory sets and waits by host
 * functions.
 */
void test_cuda_works_with_host_functions(void)
{
    CU_ASSERT(ended_well(run_self("--host", -1)));
}

/* The whole suite again, with random delays in every channel. */
void test_cuda_works_with_delays(void)
{
    if (!gpu->standin) {
        suite_skip("the real driver has delays of its own");
        return;
    }
    CU_ASSERT(ended_well(run_self("--delays", -1)));
}

/* The whole suite again, on a GPU that sees pinned memory at addresses of its own. */
void test_cuda_works_without_host_pointers(void)
{
    if (!gpu->standin) {
        suite_skip("where pinned memory lies for a real GPU is its own choice");
        return;
    }
    CU_ASSERT(ended_well(run_self("--own-addresses", -1)));
}
