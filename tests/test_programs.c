/* test_programs.c: random programs of calls on several streams and communicators, with events,
 * delays, groups and all forms of a call, compared with exact results. What a program does follows
 * from its seed, alike on all ranks, but for what is each rank's own: the streams and the delays.
 *
 * Why no program can deadlock, so that a hang is a failure of the library: calls are issued in one
 * order on all ranks, and whatever a call waits for (its communicator, its streams, events recorded
 * in them) was issued before it. The first call that is not over waits for nothing.
 *
 * TUTTI_TEST_PROGRAMS sets how many there are (30), TUTTI_TEST_STANDIN_CHANNELS how many
 * channels a process has, on a GPU too (as each world says). A failure names the seed of its
 * program: TUTTI_TEST_SEED=that TUTTI_TEST_PROGRAMS=1 runs it in every world. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/reduce.h"
#include "tests/rig.h"
#include "tests/suite.h"

#define COMMS     3
#define STREAMS   3
#define JOBS_MAX  64
#define GROUP_MAX 4
/* A program, sanitized, on a loaded machine; on a GPU the whole step has little more. */
#define WATCHDOG_S (rig_is_standin() ? 60u : 25u)
#define AWAIT_S    (rig_is_standin() ? 40 : 20)

struct batch {
    uint64_t seed; /* of the first program */
    int programs;
    bool processes;
};

/* Operations made at run time, of one communicator. */
struct made {
    tutti_op scaled_floats, scaled_ints, user_sum;
};

struct program {
    tutti_comm *comms[COMMS];
    int ranks[COMMS];
    struct made made[COMMS];
    cuda_stream streams[STREAMS];
    int rank, size, stream_count;
    uint64_t state, own; /* random: alike on all ranks; this rank's */
    struct rig_job jobs[JOBS_MAX];
    cuda_stream last[JOBS_MAX]; /* where the job's output is copied */
    int job_count;
};

/* ---- a program's parts -----------------------------------------------------------------------
 */

static void add_ints(const void *in, void *inout, size_t count, tutti_dtype dtype, void *context)
{
    const int32_t *a = in;
    int32_t *b = inout;
    (void)dtype;
    (void)context;
    for (size_t i = 0; i < count; i++)
        b[i] += a[i];
}

static int make_operations(struct program *p, int c)
{
    int rank = p->rank, scalar = testcase_scalar(p->ranks[c]);
    float scalar_float = (float)scalar;
    struct made *made = &p->made[c];
    int wrong = WORLD_OK(
        tutti_op_create_premulsum(p->comms[c], &scalar_float, TUTTI_FLOAT32, &made->scaled_floats));
    wrong +=
        WORLD_OK(tutti_op_create_premulsum(p->comms[c], &scalar, TUTTI_INT32, &made->scaled_ints));
    return wrong + WORLD_OK(tutti_op_create(p->comms[c], add_ints, NULL, &made->user_sum));
}

static void vary(struct program *p, struct testcase *c, int comm)
{
    switch (suite_random(&p->state) % 10) {
    case 0:
        testcase_set_avg(c, p->size);
        break;
    case 1:
        c->dtype = TUTTI_FLOAT32;
        testcase_set_premulsum(c, p->made[comm].scaled_floats);
        break;
    case 2:
        c->dtype = TUTTI_INT32;
        testcase_set_premulsum(c, p->made[comm].scaled_ints);
        break;
    case 3:
        c->dtype = TUTTI_INT32;
        testcase_set_user_sum(c, p->made[comm].user_sum);
        break;
    default:
        break;
    }
}

static cuda_stream any_stream(struct program *p)
{
    return p->streams[suite_random(&p->own) % (uint64_t)p->stream_count];
}

/* A new job of the program; forms: of how many kinds its form may be. */
static struct rig_job *new_job(struct program *p, const enum testcase_form *forms, unsigned count)
{
    struct rig_job *job = &p->jobs[p->job_count];
    int comm = (int)(suite_random(&p->state) % COMMS);
    size_t count_max = suite_random(&p->state) % 6 == 0 ? 30000 : 500;
    *job = (struct rig_job){.on_host = false};
    testcase_generate(&job->c, &p->state, p->size, count_max);
    vary(p, &job->c, comm);
    job->c.form = forms[suite_random(&p->state) % count];
    job->on_host = suite_random(&p->state) % 10 == 0;
    rig_job_make(job, p->job_count++, p->comms[comm], p->ranks[comm], p->size);
    return job;
}

/* Input and output may be copied in other streams than the call's, behind events. */
static void before(struct program *p, struct rig_job *job, cuda_stream stream)
{
    cuda_stream other = any_stream(p);
    if (suite_random(&p->own) % 4 || job->c.form != FORM_ON_STREAM)
        other = stream;
    rig_job_before(job, other);
    if (other != stream)
        rig_put_order(other, stream);
}

static void after(struct program *p, struct rig_job *job, cuda_stream stream)
{
    cuda_stream other = suite_random(&p->own) % 4 ? stream : any_stream(p);
    if (other != stream)
        rig_put_order(stream, other);
    rig_job_after(job, other);
    p->last[job->number] = other;
}

static int failed(const struct program *p, const struct rig_job *job, tutti_status status)
{
    char text[256];
    testcase_describe(&job->c, job->number, job->size, text, sizeof text);
    return world_check(p->rank, status == TUTTI_OK, "%s: %s: %s", text, tutti_status_string(status),
                       tutti_last_error());
}

/* An alltoall of sends and receives; in a group. */
static int exchange(const struct program *p, struct rig_job *job, cuda_stream stream)
{
    const struct testcase *c = &job->c;
    size_t block = c->count * tutti_dtype_size(c->dtype);
    int rank = p->rank, wrong = 0;
    for (int r = 0; r < job->size; r++) {
        char *in = job->in + job->in_at + (size_t)r * block;
        char *out = job->out + job->out_at + (size_t)r * block;
        wrong += WORLD_OK(tutti_send_on(in, c->count, c->dtype, r, job->comm, stream));
        wrong += WORLD_OK(tutti_recv_on(out, c->count, c->dtype, r, job->comm, stream));
    }
    return wrong;
}

static bool can_exchange(const struct rig_job *job)
{
    return job->c.coll == TUTTI_COLL_ALLTOALL && !job->c.in_place &&
           job->c.form == FORM_ON_STREAM && !job->on_host;
}

static int step_call(struct program *p)
{
    static const enum testcase_form forms[] = {FORM_ON_STREAM, FORM_ON_STREAM, FORM_ON_STREAM,
                                               FORM_ON_STREAM, FORM_ON_STREAM, FORM_ON_STREAM,
                                               FORM_BLOCKING,  FORM_STARTED};
    struct rig_job *job = new_job(p, forms, sizeof forms / sizeof *forms);
    cuda_stream stream = any_stream(p);
    before(p, job, stream);
    int wrong = failed(p, job, rig_job_call(job, stream));
    after(p, job, stream);
    return wrong;
}

static int step_group(struct program *p)
{
    static const enum testcase_form forms[] = {FORM_ON_STREAM, FORM_ON_STREAM, FORM_ON_STREAM,
                                               FORM_BLOCKING};
    struct rig_job *jobs[GROUP_MAX];
    cuda_stream streams[GROUP_MAX];
    int rank = p->rank, count = 1 + (int)(suite_random(&p->state) % GROUP_MAX), wrong = 0;
    for (int i = 0; i < count; i++) {
        jobs[i] = new_job(p, forms, sizeof forms / sizeof *forms);
        streams[i] = any_stream(p);
        before(p, jobs[i], streams[i]);
    }
    for (int i = 0; i < count; i++) {
        if (jobs[i]->c.form != FORM_ON_STREAM)
            wrong += rig_await(rank, streams[i], AWAIT_S);
    }
    wrong += WORLD_OK(tutti_group_start());
    for (int i = 0; i < count; i++) {
        if (can_exchange(jobs[i]))
            wrong += exchange(p, jobs[i], streams[i]);
        else
            wrong += failed(p, jobs[i], rig_job_call(jobs[i], streams[i]));
    }
    wrong += WORLD_OK(tutti_group_end());
    for (int i = 0; i < count; i++)
        after(p, jobs[i], streams[i]);
    return wrong;
}

static int run_steps(struct program *p)
{
    int steps = 6 + (int)(suite_random(&p->state) % 20), wrong = 0;
    for (int i = 0; i < steps && p->job_count + GROUP_MAX <= JOBS_MAX && !wrong; i++) {
        uint64_t choice = suite_random(&p->state) % 10;
        if (choice < 6) {
            wrong += step_call(p);
        } else if (choice < 8) {
            wrong += step_group(p);
        } else if (choice == 8) {
            cuda_stream first = any_stream(p), second = any_stream(p);
            if (first != second)
                rig_put_order(first, second);
        }
        if (suite_random(&p->own) % 5 == 0)
            rig_put_delay(any_stream(p), (unsigned)(suite_random(&p->own) % 400));
    }
    return wrong;
}

/* ---- a batch of programs ---------------------------------------------------------------------
 */

static char watchdog_text[128];

static void watchdog(int signal)
{
    (void)signal;
    (void)!write(STDOUT_FILENO, watchdog_text, strlen(watchdog_text));
    _exit(4);
}

/* Rank 0 of a process of threads, or each process, keeps the watch. */
static void watch(const struct batch *batch, int rank, uint64_t seed)
{
    if (!batch->processes && rank != 0)
        return;
    snprintf(watchdog_text, sizeof watchdog_text,
             "    rank %d: the program of seed %llu hangs (%u s)\n", rank, (unsigned long long)seed,
             WATCHDOG_S);
    signal(SIGALRM, watchdog);
    alarm(WATCHDOG_S);
}

static int run_program(struct program *p, const struct batch *batch, uint64_t seed)
{
    int rank = p->rank, wrong = 0;
    p->state = seed;
    p->own = seed * 31 + (unsigned)rank + 1;
    p->job_count = 0;
    watch(batch, rank, seed);
    wrong += run_steps(p);
    for (int s = 0; s < p->stream_count; s++)
        wrong += rig_await(rank, p->streams[s], AWAIT_S);
    for (int i = 0; i < p->job_count; i++)
        wrong += rig_job_check(&p->jobs[i]);
    for (int c = 0; c < COMMS; c++)
        wrong += WORLD_OK(tutti_comm_status(p->comms[c]));
    /* All ranks go on or none does. */
    int sum = wrong;
    if (tutti_allreduce(&wrong, &sum, 1, TUTTI_INT32, TUTTI_SUM, p->comms[0]) != TUTTI_OK)
        sum++;
    if (wrong)
        world_check(rank, 0, "in the program of seed %llu", (unsigned long long)seed);
    return sum;
}

static int run_batch(tutti_comm *comm, int rank, int size, void *context)
{
    const struct batch *batch = context;
    struct program *p = calloc(1, sizeof *p);
    p->rank = rank;
    p->size = size;
    p->comms[0] = comm;
    int wrong = WORLD_OK(tutti_comm_dup(comm, &p->comms[1]));
    wrong += WORLD_OK(tutti_comm_split(comm, 0, -rank, &p->comms[2]));
    for (int c = 0; c < COMMS && !wrong; c++)
        wrong += WORLD_OK(tutti_comm_rank(p->comms[c], &p->ranks[c])) + make_operations(p, c);
    /* Ranks that share a context would wait for each other in default and blocking streams. */
    p->stream_count = batch->processes ? STREAMS : STREAMS - 1;
    p->streams[0] = rig_stream_take(false);
    p->streams[1] = rig_stream_take(batch->processes);
    p->streams[2] = NULL;
    for (int i = 0; i < batch->programs && !wrong; i++)
        wrong += run_program(p, batch, batch->seed + (uint64_t)i);
    alarm(0);
    if (wrong == 0) {
        wrong += WORLD_OK(tutti_comm_destroy(p->comms[1]));
        wrong += WORLD_OK(tutti_comm_destroy(p->comms[2]));
    }
    free(p);
    return wrong;
}

/* ---- worlds ----------------------------------------------------------------------------------
 */

static const char *const direct[] = {"TUTTI_CUDA_DIRECT_MIN=1", NULL};
static const char *const mixed[] = {"TUTTI_CUDA_DIRECT_MIN=4096", NULL};
static const char *const staged[] = {"TUTTI_CUDA_DIRECT=0", NULL};
static const char *const parts[] = {"TUTTI_CUDA_DIRECT_MIN=1024G", "TUTTI_CUDA_PART=256", NULL};
static const char *const tcp[] = {"TUTTI_TRANSPORTS=tcp", NULL};

/* Of the hardware's channels, processes have 8 where nobody asks for more, and few enough here that
 * a program's streams can hold all but one; threads have enough for each of their streams (rig.c).
 */
static const struct {
    const char *name;
    enum world_kind kind;
    int size;
    const char *const *settings;
    const char *channels;
    int devices; /* a rank has every so-manyth */
} worlds[] = {
    {"2 threads, large calls direct", WORLD_THREADS, 2, mixed, "8", 1},
    {"2 processes, large calls direct", WORLD_PROCESSES, 2, mixed, "8", 1},
    {"4 processes, all calls direct", WORLD_PROCESSES, 4, direct, "8", 1},
    {"3 processes, all calls direct, 4 channels", WORLD_PROCESSES, 3, direct, "4", 1},
    {"3 threads, all calls direct", WORLD_THREADS, 3, direct, "8", 1},
    {"4 threads, staged", WORLD_THREADS, 4, staged, "8", 1},
    {"3 processes, as set by default, 4 channels", WORLD_PROCESSES, 3, NULL, "4", 1},
    {"2 processes over tcp, 4 channels", WORLD_PROCESSES, 2, tcp, "4", 1},
    {"2 processes, staged, 4 channels", WORLD_PROCESSES, 2, staged, "4", 1},
    {"3 processes, staged in parts", WORLD_PROCESSES, 3, parts, "8", 1},
    {"4 threads, staged in parts", WORLD_THREADS, 4, parts, "8", 1},
    {"3 threads on 2 GPUs, all calls direct", WORLD_THREADS, 3, direct, "8", 2},
    {"4 processes on 2 GPUs, large calls direct", WORLD_PROCESSES, 4, mixed, "8", 2},
};
#define WORLDS  ((int)(sizeof worlds / sizeof *worlds))
#define DEVICES 2 /* the most that a world wants */

static void enter(int rank)
{
    rig_enter(rank % DEVICES);
}

/* Runs so many programs in the world; returns what is wrong. */
static int run_world(int w, int programs, bool alone)
{
    struct batch batch = {.seed = suite_seed() + (alone ? 0 : (uint64_t)w * 1000000u),
                          .programs = programs,
                          .processes = worlds[w].kind == WORLD_PROCESSES};
    struct world world = {.kind = worlds[w].kind,
                          .size = worlds[w].size,
                          .settings = worlds[w].settings,
                          .limit_s = 200,
                          .prepare = worlds[w].devices > 1 ? enter : NULL};
    int wrong = programs > 0 ? rig_run(&world, run_batch, &batch) : 0;
    if (wrong)
        printf("    %s: %d wrong in %d programs from seed %llu on\n", worlds[w].name, wrong,
               programs, (unsigned long long)batch.seed);
    else
        printf("    %s: %d programs\n", worlds[w].name, programs);
    return wrong;
}

static const char *channels; /* given; NULL: each world's own */

static int programs_wanted(void)
{
    const char *text = getenv("TUTTI_TEST_PROGRAMS");
    return text ? atoi(text) : 30;
}

/* So many programs over the worlds of so many GPUs; 1: in every world. */
static void run_worlds(int devices, int programs)
{
    int kinds = 0, at = 0;
    for (int w = 0; w < WORLDS; w++)
        kinds += worlds[w].devices == devices;
    for (int w = 0; w < WORLDS; w++) {
        if (worlds[w].devices != devices)
            continue;
        int share = programs == 1 ? 1 : programs / kinds + (at++ < programs % kinds);
        setenv("TUTTI_TEST_STANDIN_CHANNELS", channels ? channels : worlds[w].channels, 1);
        setenv("CUDA_DEVICE_MAX_CONNECTIONS", channels ? channels : worlds[w].channels, 1);
        CU_ASSERT_EQUAL(run_world(w, share, programs == 1), 0);
    }
}

static void test_programs_random(void)
{
    if (rig_is_there())
        run_worlds(1, programs_wanted());
    else
        suite_skip("no GPU");
}

static void test_programs_on_two_gpus(void)
{
    int programs = programs_wanted();
    if (rig_is_there() && rig_count() >= DEVICES)
        run_worlds(DEVICES, programs == 1 ? 1 : programs / 4);
    else
        suite_skip("wants two GPUs");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"random", test_programs_random},
        {"on_two_gpus", test_programs_on_two_gpus},
    };
    channels = getenv("TUTTI_TEST_STANDIN_CHANNELS");
    channels = channels ? strdup(channels) : NULL;
    setenv("TUTTI_TEST_STANDIN_DELAY_US", "30", 1);
    setenv("TUTTI_TEST_STANDIN_DEVICES", "2", 1);
    return suite_run("programs", tests, sizeof tests / sizeof *tests, argc, argv);
}
