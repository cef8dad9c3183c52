/* probe.c: which calls of the driver return at once beside a stream that waits for a word.
 *
 *     gpu_probe
 *
 * A library that moves data while streams wait for it must know which of its calls may be held up
 * by what the program does meanwhile: were it to wait in one of them for a stream that waits for
 * the library, neither would ever go on. So every question is asked in a process of its own, while
 *
 *   a stream    waits for a word of host memory, which is written 1 s after the question
 *   a thread    does nothing, or frees memory, or launches kernels behind the wait until no more
 *               fit, or loads a kernel
 *   the asker   calls the driver once, on another stream, 0.3 s after the thread
 *
 * A call that takes less than 0.1 s is answered "at once"; one that ends by the word is answered
 * "waits"; one that has not ended 2 s after the question "hangs", and its process is killed.
 * The questions of a row are asked at the same time. Information: nothing is expected. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/gpu.h"

#define PAGE       4096
#define LAUNCHES   5000 /* more than a stream holds */
#define BYTES      ((size_t)64 << 20)
#define START_US   300000u
#define SOON_US    100000u
#define WORD_US    1000000u
#define PATIENT_US 2000000u
#define READY_US   10000000u /* for all contexts of a row */

static const char empty_kernel[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                   ".visible .entry nothing() { ret; }\n";

/* What one process sees. */
struct probe {
    const struct gpu *gpu;
    cuda_context context;
    cuda_stream waiting, other;
    cuda_address memory, spare, words_address;
    _Atomic uint32_t *words; /* pinned: the awaited word, and a line further one to be written */
    cuda_function nothing;
    struct cuda_ipc_handle foreign;
    const struct situation *situation;
    atomic_int launched;
    atomic_bool over; /* the thread's own call */
};

/* What a process tells of its question. */
struct answer {
    atomic_int state; /* 0: not ready, 1: ready, 2: asked, 3: answered */
    bool thread_waits;
    int launched;
    cuda_result result;
    uint64_t us;
};

#define QUESTIONS_MAX 16

/* Shared by all processes. */
struct board {
    struct answer answers[QUESTIONS_MAX];
    struct cuda_ipc_handle handle;
    atomic_int exported; /* 1: handle is one, 2: there is none */
    atomic_bool go;
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void need(cuda_result result, const char *what)
{
    if (result == CUDA_DRIVER_OK)
        return;
    printf("%s: the driver answers %d\n", what, result);
    fflush(stdout);
    _exit(3);
}

/* ---- questions -------------------------------------------------------------------------------
 */

static cuda_result launch_in(struct probe *p, cuda_stream stream)
{
    return p->gpu->launch(p->nothing, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
}

static cuda_result ask_launch(struct probe *p)
{
    return launch_in(p, p->other);
}

static cuda_result ask_copy(struct probe *p)
{
    return p->gpu->copy(p->memory + PAGE, p->memory, PAGE, p->other);
}

static cuda_result ask_write(struct probe *p)
{
    return p->gpu->write_word(p->other, p->words_address + 64, 1, CUDA_WRITE_ORDERED);
}

static cuda_result ask_query(struct probe *p)
{
    cuda_result result = p->gpu->stream_query(p->other);
    return result == CUDA_DRIVER_NOT_READY ? CUDA_DRIVER_OK : result;
}

static cuda_result ask_attributes(struct probe *p)
{
    unsigned type = 0;
    int attribute = CUDA_POINTER_MEMORY_TYPE;
    void *value = &type;
    return p->gpu->pointer_attributes(1, &attribute, &value, p->memory);
}

static cuda_result ask_ipc_get(struct probe *p)
{
    struct cuda_ipc_handle handle;
    return p->gpu->ipc_get(&handle, p->memory);
}

static cuda_result ask_ipc_open(struct probe *p)
{
    cuda_address address;
    return p->gpu->ipc_open(&address, p->foreign, CUDA_IPC_PEER_ACCESS);
}

static cuda_result ask_alloc(struct probe *p)
{
    cuda_address address;
    return p->gpu->alloc(&address, BYTES);
}

static cuda_result ask_stream(struct probe *p)
{
    cuda_stream stream;
    return p->gpu->stream_make(&stream, CUDA_STREAM_NON_BLOCKING);
}

static const struct question {
    const char *name;
    cuda_result (*ask)(struct probe *p);
} questions[] = {
    {"launch", ask_launch},      {"copy", ask_copy},          {"write word", ask_write},
    {"query stream", ask_query}, {"look up", ask_attributes}, {"IPC get", ask_ipc_get},
    {"IPC open", ask_ipc_open},  {"allocate", ask_alloc},     {"make stream", ask_stream},
};
#define QUESTIONS ((int)(sizeof questions / sizeof *questions))
_Static_assert(sizeof questions / sizeof *questions <= QUESTIONS_MAX, "a board has room for all");

/* ---- situations ------------------------------------------------------------------------------
 */

static void do_nothing(struct probe *p)
{
    (void)p;
}

static void free_memory(struct probe *p)
{
    need(p->gpu->free(p->spare), "free");
}

static void fill_stream(struct probe *p)
{
    for (int i = 0; i < LAUNCHES; i++) {
        need(launch_in(p, p->waiting), "launch");
        atomic_store(&p->launched, i + 1);
    }
}

static void load_kernel(struct probe *p)
{
    cuda_module module;
    cuda_function function;
    need(p->gpu->module_load(&module, empty_kernel), "load a module");
    need(p->gpu->module_function(&function, module, "nothing"), "find its kernel");
    if (p->gpu->function_load)
        need(p->gpu->function_load(function), "load its kernel");
}

static const struct situation {
    const char *name;
    void (*act)(struct probe *p);
} situations[] = {{"does nothing", do_nothing},
                  {"frees memory", free_memory},
                  {"fills the waiting stream", fill_stream},
                  {"loads a kernel", load_kernel}};
#define SITUATIONS ((int)(sizeof situations / sizeof *situations))

/* ---- one question ----------------------------------------------------------------------------
 */

static void *act(void *context)
{
    struct probe *p = context;
    need(p->gpu->context_set(p->context), "use the context");
    p->situation->act(p);
    atomic_store(&p->over, true);
    return NULL;
}

/* Writes the word, without the driver. */
static void *write_late(void *context)
{
    struct probe *p = context;
    usleep(START_US + WORD_US);
    atomic_store(&p->words[0], 1);
    return NULL;
}

static void prepare(struct probe *p)
{
    cuda_module module;
    p->gpu = gpu_open();
    if (!p->gpu)
        _exit(3);
    need(p->gpu->context_current(&p->context), "the context");
    need(p->gpu->stream_make(&p->waiting, CUDA_STREAM_NON_BLOCKING), "make a stream");
    need(p->gpu->stream_make(&p->other, CUDA_STREAM_NON_BLOCKING), "make a stream");
    need(p->gpu->alloc(&p->memory, BYTES), "allocate");
    need(p->gpu->alloc(&p->spare, BYTES), "allocate");
    p->words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(p->gpu->host_register((void *)p->words, PAGE,
                               CUDA_REGISTER_PORTABLE | CUDA_REGISTER_DEVICEMAP),
         "pin a page");
    need(p->gpu->host_address(&p->words_address, (void *)p->words, 0), "address of a page");
    need(p->gpu->module_load(&module, empty_kernel), "load a module");
    need(p->gpu->module_function(&p->nothing, module, "nothing"), "find its kernel");
    /* What is used for the first time may wait for reasons of its own. */
    need(launch_in(p, p->waiting), "launch");
    for (int q = 0; q < QUESTIONS; q++) {
        if (questions[q].ask == ask_launch || questions[q].ask == ask_copy)
            need(questions[q].ask(p), questions[q].name);
    }
    need(p->gpu->context_synchronize(), "synchronise");
}

static void be_asked(struct board *board, const struct situation *situation, int question)
{
    struct answer *answer = &board->answers[question];
    struct probe p = {.situation = situation};
    pthread_t thread, writer;
    prepare(&p);
    p.foreign = board->handle;
    need(p.gpu->wait_word(p.waiting, p.words_address, 1, CUDA_WAIT_REACHED), "wait for a word");
    atomic_store(&answer->state, 1);
    while (!atomic_load(&board->go))
        usleep(200);
    if (pthread_create(&writer, NULL, write_late, &p) != 0 ||
        pthread_create(&thread, NULL, act, &p) != 0)
        _exit(3);
    usleep(START_US);
    answer->thread_waits = !atomic_load(&p.over);
    answer->launched = atomic_load(&p.launched);
    atomic_store(&answer->state, 2);
    uint64_t start = now_us();
    answer->result = questions[question].ask(&p);
    answer->us = now_us() - start;
    atomic_store(&answer->state, 3);
    pthread_join(writer, NULL);
    pthread_join(thread, NULL);
    _exit(0);
}

/* ---- a row -----------------------------------------------------------------------------------
 */

static bool all_are(struct board *board, int state)
{
    for (int q = 0; q < QUESTIONS; q++) {
        if (atomic_load(&board->answers[q].state) < state)
            return false;
    }
    return true;
}

static void wait_all(struct board *board, int state, uint64_t limit_us)
{
    uint64_t end = now_us() + limit_us;
    while (!all_are(board, state) && now_us() < end)
        usleep(1000);
}

static void print_row(struct board *board, const struct situation *situation)
{
    int waiting = 0, asked = 0, launched = 0;
    for (int q = 0; q < QUESTIONS; q++) {
        const struct answer *a = &board->answers[q];
        asked += a->state >= 2;
        waiting += a->state >= 2 && a->thread_waits;
        launched = a->launched > launched ? a->launched : launched;
    }
    printf("| %s", situation->name);
    if (launched > 0)
        printf(" (%d launches)", launched);
    printf(" | %s |", waiting == 0       ? "at once"
                      : waiting == asked ? "waits"
                                         : "now at once, now waits");
    for (int q = 0; q < QUESTIONS; q++) {
        const struct answer *a = &board->answers[q];
        if (a->state == 3 && a->result != CUDA_DRIVER_OK)
            printf(" error %d |", a->result);
        else
            printf(" %s |", a->state < 2      ? "not asked"
                            : a->state < 3    ? "hangs"
                            : a->us < SOON_US ? "at once"
                                              : "waits");
    }
    printf("\n");
}

static void run_row(struct board *board, const struct situation *situation)
{
    pid_t pids[QUESTIONS_MAX];
    memset(board->answers, 0, sizeof board->answers);
    atomic_store(&board->go, false);
    fflush(NULL);
    for (int q = 0; q < QUESTIONS; q++) {
        pids[q] = fork();
        if (pids[q] == 0)
            be_asked(board, situation, q);
    }
    wait_all(board, 1, READY_US);
    atomic_store(&board->go, true);
    wait_all(board, 3, START_US + PATIENT_US);
    print_row(board, situation);
    /* Those that have answered end by themselves, soon after their words. */
    for (uint64_t end = now_us() + PATIENT_US; now_us() < end; usleep(1000)) {
        bool left = false;
        for (int q = 0; q < QUESTIONS; q++) {
            bool answered = atomic_load(&board->answers[q].state) == 3;
            if (pids[q] > 0 && waitpid(pids[q], NULL, WNOHANG) == pids[q])
                pids[q] = 0;
            left = left || (pids[q] > 0 && answered);
        }
        if (!left)
            break;
    }
    for (int q = 0; q < QUESTIONS; q++) {
        if (pids[q] > 0) {
            kill(pids[q], SIGKILL);
            waitpid(pids[q], NULL, 0);
        }
    }
}

/* A process that has memory for others to open, until it is killed. */
static pid_t start_exporter(struct board *board)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        cuda_address memory;
        const struct gpu *gpu = gpu_open();
        bool good = gpu && gpu->wait_word && gpu->write_word &&
                    gpu->alloc(&memory, BYTES) == CUDA_DRIVER_OK &&
                    gpu->ipc_get(&board->handle, memory) == CUDA_DRIVER_OK;
        atomic_store(&board->exported, good ? 1 : 2);
        for (;;)
            pause();
    }
    for (uint64_t end = now_us() + READY_US; now_us() < end && board->exported == 0;)
        usleep(1000);
    return pid;
}

int main(void)
{
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* Streams that share a hardware queue would wait for each other. */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
    setenv("TUTTI_TEST_STANDIN_CHANNELS", "64", 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    pid_t exporter = start_exporter(board);
    bool there = board->exported == 1;
    if (there) {
        printf("| while a thread ... | itself |");
        for (int q = 0; q < QUESTIONS; q++)
            printf(" %s |", questions[q].name);
        printf("\n|---|---|");
        for (int q = 0; q < QUESTIONS; q++)
            printf("---|");
        printf("\n");
    } else {
        printf("no GPU with memory operations and memory that processes share\n");
    }
    for (int s = 0; s < SITUATIONS && there; s++)
        run_row(board, &situations[s]);
    kill(exporter, SIGKILL);
    waitpid(exporter, NULL, 0);
    return there ? 0 : 3;
}
