/* test_nccl_input.c: what each kind of bad input gets from the NCCL face, by code and sentence. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/nccl_world.h"

static int bad_calls(tutti_comm *native, int rank, int size, void *context)
{
    float in[8] = {0}, out[8] = {0};
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong +=
        TAKEN(ncclAllReduce(in, out, 4, ncclFloat32, ncclSum, NULL, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclAllReduce: comm is NULL");
    wrong +=
        TAKEN(ncclAllReduce(NULL, out, 4, ncclFloat32, ncclSum, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclAllReduce: sendbuff is NULL at rank");
    wrong +=
        TAKEN(ncclAllReduce(in, NULL, 4, ncclFloat32, ncclSum, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "recvbuff is NULL at rank");
    wrong +=
        TAKEN(ncclAllReduce(in, in + 1, 4, ncclFloat32, ncclSum, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "overlap");
    wrong += TAKEN(ncclAllReduce(in, out, 4, (ncclDataType_t)12, ncclSum, comm, NULL),
                   ncclInvalidArgument);
    wrong += nccl_world_says(rank, "datatype 12: expected 0 to 11");
    wrong += TAKEN(ncclAllReduce(in, out, 4, ncclFloat32, (ncclRedOp_t)77, comm, NULL),
                   ncclInvalidArgument);
    wrong += nccl_world_says(rank, "the operation was not made on this communicator");
    wrong += TAKEN(ncclAllReduce(in, out, 4, ncclFloat32, (ncclRedOp_t)5000, comm, NULL),
                   ncclInvalidArgument);
    wrong += nccl_world_says(rank, "the operation was not made on this communicator");
    wrong += TAKEN(ncclAllReduce(in, out, 4, ncclFloat32, (ncclRedOp_t)-1, comm, NULL),
                   ncclInvalidArgument);
    wrong += nccl_world_says(rank, "operation -1: expected 0 to 4");
    wrong += TAKEN(ncclBroadcast(in, out, 4, ncclFloat32, size, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclBroadcast: root ");
    wrong +=
        TAKEN(ncclReduce(in, out, 4, ncclFloat32, ncclSum, -1, comm, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclSend(in, 4, ncclFloat32, size, comm, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclSend: peer ");
    wrong += TAKEN(ncclSend(in, 4, ncclFloat32, rank, comm, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "names itself outside a group");
    wrong += TAKEN(ncclAllReduce(in, out, SIZE_MAX / 2, ncclFloat64, ncclSum, comm, NULL),
                   ncclInvalidArgument);
    if (!dlopen("libcuda.so.1", RTLD_LAZY)) { /* a driver need not survive what is no stream */
        wrong += TAKEN(ncclAllReduce(in, out, 4, ncclFloat32, ncclSum, comm, (cudaStream_t)in),
                       ncclUnhandledCudaError);
        wrong += nccl_world_says(rank, "libcuda.so.1");
    } else {
        suite_skip("a stream without a driver: this machine has one");
    }
    /* One bad call spoils its group: nothing of it runs. */
    in[0] = 5;
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclBroadcast(in, out, 1, ncclFloat32, rank, comm, NULL)); /* each another root */
    wrong +=
        TAKEN(ncclAllReduce(in, NULL, 1, ncclFloat32, ncclSum, comm, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclAllReduce: recvbuff is NULL");
    wrong += world_check(rank, out[0] == 0, "a spoilt group ran");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclAllReduce(in, in + 1, 4, ncclFloat32, ncclSum, comm, NULL));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "overlap");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclSend(in, 1, ncclFloat32, rank, comm, NULL));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "sends to itself in a group that does not receive it");
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclRecv(out, 1, ncclFloat32, rank, comm, NULL));
    wrong += OK(ncclSend(in, 1, ncclFloat32, rank, comm, NULL));
    wrong += OK(ncclRecv(out + 1, 1, ncclFloat32, rank, comm, NULL));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "receives from itself in a group that does not send it");
    wrong += world_check(rank, out[0] == 0, "a group without a half ran");
    /* Nothing moved: it still works. */
    wrong += nccl_world_is(comm, rank, ncclSuccess);
    wrong += nccl_world_works(comm, rank, rank, size);
    wrong += OK(ncclCommDestroy(comm));
    wrong += TAKEN(ncclCommDestroy(comm), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommDestroy: the communicator was destroyed or aborted");
    return wrong;
}

static int disagreeing(tutti_comm *native, int rank, int size, void *context)
{
    float in[8] = {0}, out[8];
    ncclComm_t comm;
    ncclResult_t result;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += nccl_world_works(comm, rank, rank, size);
    result = ncclAllReduce(in, out, rank == 1 ? 7 : 8, ncclFloat32, ncclSum, comm, NULL);
    wrong += world_check(rank, result == ncclInvalidUsage, "result %d", (int)result);
    wrong += nccl_world_says(rank, "ranks disagree: rank ");
    wrong += nccl_world_says(rank, "allreduce(count 7, float32, sum)");
    wrong += nccl_world_is(comm, rank, ncclInvalidUsage);
    return wrong + OK(ncclCommAbort(comm));
}

/* Where nothing is made stands NULL, whatever was there: programs abort what is not NULL. */
static int nothing_made(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t bad = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm, out, stranger = (ncclComm_t)&bad;
    int other = (rank + 1) % size, wrong = nccl_world_init(native, rank, size, &comm);
    char *page = NULL;
    (void)context;
    bad.blocking = 9;
    memset(&id, 7, sizeof id);
    out = stranger;
    wrong += TAKEN(ncclCommInitRank(&out, 2, id, 2), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a rank that is none");
    out = stranger;
    wrong += TAKEN(ncclCommInitRankConfig(&out, 1, id, 0, &bad), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a bad configuration");
    out = stranger;
    wrong += TAKEN(ncclCommInitRankScalable(&out, 1, 3, 1, &id, NULL), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a rank that is none, of several ids");
    out = stranger;
    wrong += TAKEN(ncclCommInitRankScalable(&out, 1, 0, 2, &id, NULL), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "more ids than ranks");
    out = stranger;
    wrong += OK(ncclGroupStart());
    wrong += TAKEN(ncclCommInitRank(&out, 2, id, -1), ncclInvalidArgument);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a rank that is none, in a group");
    out = stranger;
    wrong += TAKEN(ncclCommSplit(comm, 0, 0, &out, &bad), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a split");
    out = stranger;
    wrong += TAKEN(ncclCommSplit(comm, -7, 0, &out, NULL), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a split by a color that is none");
    out = stranger;
    wrong += TAKEN(ncclCommShrink(comm, &other, 1, &out, &bad, 0), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a shrink");
    out = stranger;
    wrong += TAKEN(ncclCommShrink(comm, NULL, 1, &out, NULL, 0), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a shrink without a list");
    out = stranger;
    wrong += TAKEN(ncclCommGrow(comm, size + 1, NULL, 0, &out, NULL), ncclInvalidArgument);
    wrong += world_check(rank, out == NULL, "a grow");
    /* Nor is a window of no bytes one. */
    ncclWindow_t window = (ncclWindow_t)&bad;
    wrong += OK(ncclMemAlloc((void **)&page, 4096));
    wrong += TAKEN(ncclCommWindowRegister(comm, page, 0, &window, 0), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommWindowRegister: size is 0");
    wrong += world_check(rank, window == NULL, "a window of no bytes");
    window = (ncclWindow_t)&bad;
    wrong += TAKEN(ncclCommWindowRegister(comm, NULL, 8, &window, 0), ncclInvalidArgument);
    wrong += world_check(rank, window == NULL, "a window at NULL");
    /* The parent is not what failed, and stays where a wrong call would have put its child. */
    out = comm;
    wrong += TAKEN(ncclCommSplit(NULL, 0, 0, &out, NULL), ncclInvalidArgument);
    wrong += world_check(rank, out == comm, "a split of nothing");
    wrong += nccl_world_works(comm, rank, rank, size);
    return wrong + OK(ncclMemFree(page)) + OK(ncclCommDestroy(comm));
}

/* What an init says about its arguments. rank 0 stands for complaints of the test. */
static int bad_inits(void)
{
    ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER, config = fresh;
    ncclUniqueId id, forged;
    ncclComm_t comm = NULL;
    int rank = 0, wrong = 0, devices[2] = {0, -1};
    memset(&forged, 7, sizeof forged);
    wrong += OK(ncclGetUniqueId(&id));
    wrong += TAKEN(ncclGetUniqueId(NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitRank(NULL, 1, id, 0), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommInitRank: comm is NULL");
    wrong += TAKEN(ncclCommInitRank(&comm, 2, id, 2), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "rank 2 of 2 ranks: expected");
    wrong += TAKEN(ncclCommInitRank(&comm, 0, id, 0), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitRank(&comm, 1, forged, 0), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "no unique id");
    config.magic = 0xdeadbeef;
    wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config has the magic 0xdeadbeef, expected 0xcafebeef: begin it "
                                   "with NCCL_CONFIG_INITIALIZER");
    config = fresh;
    config.size = 4;
    wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config has a size of 4 bytes, expected 120");
    config = fresh;
    config.blocking = 2;
    wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.blocking is 2: expected 0 to 1");
    config = fresh;
    config.minCTAs = 9;
    config.maxCTAs = 3;
    wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.minCTAs is 9, more than config.maxCTAs, 3");
    wrong += TAKEN(ncclCommInitRankScalable(&comm, 1, 0, 0, &id, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitRankScalable(&comm, 1, 0, 1, NULL, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitAll(&comm, 0, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitAll(NULL, 1, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclCommInitAll(&comm, 2, devices), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "devlist[1] is -1");
    wrong += world_check(rank, comm == NULL, "a handle where nothing was made");
    /* An older program's configuration: what it does not know is not read. */
    config = fresh;
    config.version = NCCL_VERSION(2, 14, 0);
    config.size = offsetof(ncclConfig_t, cgaClusterSize);
    config.cgaClusterSize = config.minCTAs = -99;
    wrong += OK(ncclCommInitRankConfig(&comm, 1, id, 0, &config));
    wrong += nccl_world_works(comm, rank, 0, 1) + OK(ncclCommDestroy(comm));
    /* A newer program's, which is larger. */
    struct {
        ncclConfig_t known;
        int more[4];
    } newer = {fresh, {1, 2, 3, 4}};
    newer.known.size = sizeof newer;
    newer.known.version = 23007;
    wrong += OK(ncclGetUniqueId(&id));
    wrong += OK(ncclCommInitRankConfig(&comm, 1, id, 0, &newer.known));
    wrong += nccl_world_works(comm, rank, 0, 1) + OK(ncclCommDestroy(comm));
    wrong += TAKEN(ncclCommInitRank(&comm, 1, id, 0), ncclInvalidArgument); /* used up */
    return wrong;
}

static int strangers(void)
{
    ncclResult_t state;
    int rank = 0, wrong = 0, number;
    long stranger[64] = {0};
    ncclComm_t not_one = (ncclComm_t)stranger;
    wrong += OK(ncclCommDestroy(NULL));
    wrong += OK(ncclCommAbort(NULL));
    wrong += OK(ncclCommFinalize(NULL));
    wrong += TAKEN(ncclCommGetAsyncError(NULL, &state), ncclInvalidArgument);
    wrong += TAKEN(ncclCommGetAsyncError(not_one, &state), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "comm is no communicator");
    wrong += TAKEN(ncclCommCount(NULL, &number), ncclInvalidArgument);
    wrong += TAKEN(ncclCommUserRank(NULL, &number), ncclInvalidArgument);
    wrong += TAKEN(ncclCommCuDevice(NULL, &number), ncclInvalidArgument);
    wrong += TAKEN(ncclCommCount(not_one, NULL), ncclInvalidArgument);
    wrong += OK(ncclCommRevoke(NULL, 0));
    wrong += TAKEN(ncclCommSplit(NULL, 0, 0, &not_one, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclGetVersion(NULL), ncclInvalidArgument);
    wrong += OK(ncclGetVersion(&number));
    return wrong + world_check(rank, number == NCCL_VERSION_CODE, "version %d", number);
}

static void test_nccl_input_is_refused(void)
{
    static const char *const hurry[] = {"TUTTI_MEET_TIMEOUT_MS=2000", NULL};
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, bad_calls, NULL);
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_tcp, disagreeing, NULL);
    nccl_world_run(WORLD_THREADS, 3, hurry, disagreeing, NULL);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, nothing_made, NULL);
    nccl_world_run(WORLD_THREADS, 2, NULL, nothing_made, NULL);
    CU_ASSERT_EQUAL(bad_inits(), 0);
    CU_ASSERT_EQUAL(strangers(), 0);
}

/* Suspended: asked, but not used. */
static int suspended(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, child = NULL;
    ncclRedOp_t op;
    uint64_t value = 7;
    int in = rank, out = -1, number = -1, wrong = nccl_world_init(native, rank, size, &comm);
    wrong += TAKEN(ncclCommSuspend(NULL, NCCL_SUSPEND_MEM), ncclInvalidArgument);
    wrong += TAKEN(ncclCommSuspend(comm, 0), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommSuspend: flags 0x0: expected NCCL_SUSPEND_MEM (1)");
    wrong += TAKEN(ncclCommResume(comm), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclCommResume: the communicator of rank ");
    wrong += nccl_world_says(rank, " is not suspended");
    wrong += OK(ncclCommMemStats(comm, ncclStatGpuMemSuspended, &value));
    wrong += world_check(rank, value == 0, "suspended %llu", (unsigned long long)value);
    wrong += OK(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
    wrong += TAKEN(ncclCommSuspend(comm, NCCL_SUSPEND_MEM), ncclInvalidUsage);
    wrong += nccl_world_says(rank, " is suspended already");
    wrong += TAKEN(ncclAllReduce(&in, &out, 1, ncclInt32, ncclSum, comm, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclAllReduce: the communicator of rank ");
    wrong += nccl_world_says(rank, " is suspended: call ncclCommResume first");
    wrong += TAKEN(ncclCommSplit(comm, 0, 0, &child, NULL), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclCommSplit: the communicator of rank ");
    wrong += TAKEN(ncclCommShrink(comm, NULL, 0, &child, NULL, 0), ncclInvalidUsage);
    wrong += TAKEN(ncclRedOpCreatePreMulSum(&op, &in, ncclInt32, ncclScalarHostImmediate, comm),
                   ncclInvalidUsage);
    wrong += OK(ncclGroupStart());
    wrong += TAKEN(ncclSend(&in, 1, ncclInt32, 0, comm, NULL), ncclInvalidUsage);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage);
    wrong += world_check(rank, out == -1 && child == NULL, "something ran");
    wrong += OK(ncclCommMemStats(comm, ncclStatGpuMemSuspended, &value));
    wrong += world_check(rank, value == 1, "suspended %llu", (unsigned long long)value);
    wrong += OK(ncclCommCount(comm, &number)) + nccl_world_is(comm, rank, ncclSuccess);
    wrong += OK(ncclCommResume(comm)) + nccl_world_works(comm, rank, rank, size);
    for (int stat = ncclStatGpuMemSuspend; stat <= ncclStatGpuMemTotal; stat++) {
        value = 7;
        wrong += OK(ncclCommMemStats(comm, (ncclCommMemStat_t)stat, &value));
        wrong += world_check(rank, value == 0, "stat %d of host memory: %llu", stat,
                             (unsigned long long)value);
    }
    wrong += TAKEN(ncclCommMemStats(comm, (ncclCommMemStat_t)4, &value), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommMemStats: stat 4: expected 0 to 3");
    wrong += TAKEN(ncclCommMemStats(comm, ncclStatGpuMemTotal, NULL), ncclInvalidArgument);
    /* One that is suspended in a group after a call of it spoils that. */
    wrong += OK(ncclGroupStart()) + OK(ncclBroadcast(&in, &out, 1, ncclInt32, 0, comm, NULL));
    wrong += OK(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidUsage) + OK(ncclCommFinalize(comm));
    return wrong + OK(*(int *)context ? ncclCommAbort(comm) : ncclCommDestroy(comm));
}

static void test_nccl_input_of_a_suspended_communicator(void)
{
    int destroyed = 0, aborted = 1;
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, suspended, &destroyed);
    nccl_world_run(WORLD_THREADS, 3, NULL, suspended, &aborted);
}

/* Ranks that hold different ids: each learns it within the limit. */
static int mismatched_ids(tutti_comm *native, int rank, int size, void *context)
{
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    int wrong = nccl_world_id(native, rank, &id);
    (void)context;
    if (rank == 1)
        wrong += OK(ncclGetUniqueId(&id));
    double start = nccl_world_seconds();
    wrong += TAKEN(ncclCommInitRank(&comm, size, id, rank), ncclRemoteError);
    wrong += world_check(rank, comm == NULL, "a handle");
    return wrong + world_check(rank, nccl_world_seconds() - start < 5, "took %.1f s",
                               nccl_world_seconds() - start);
}

/* The sentences of a thread are its own; one that had no error sees the process's last. */
static void *ask_elsewhere(void *argument)
{
    strcpy(argument, ncclGetLastError(NULL));
    return NULL;
}

static void test_nccl_input_last_error(void)
{
    static const char *const hurry[] = {"TUTTI_MEET_TIMEOUT_MS=1500", NULL};
    char text[1024] = "";
    pthread_t thread;
    ncclComm_t comm;
    nccl_world_run(WORLD_PROCESSES, 3, hurry, mismatched_ids, NULL);
    CU_ASSERT_EQUAL(ncclCommInitAll(&comm, -3, NULL), ncclInvalidArgument);
    CU_ASSERT_PTR_NOT_NULL(strstr(ncclGetLastError(NULL), "ncclCommInitAll: -3 ranks"));
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, ask_elsewhere, text), 0);
    pthread_join(thread, NULL);
    CU_ASSERT_STRING_EQUAL(text, ncclGetLastError(NULL));
    for (int code = -1; code <= ncclNumResults; code++) {
        const char *sentence = ncclGetErrorString((ncclResult_t)code);
        CU_ASSERT_PTR_NOT_NULL_FATAL(sentence);
        bool known = code >= 0 && code < ncclNumResults;
        CU_ASSERT((strcmp(sentence, "unknown result code") != 0) == known);
    }
    CU_ASSERT_STRING_EQUAL(ncclGetErrorString(ncclSuccess), "no error");
}

/* How often a line of the log ends in the text. */
static int lines(const char *path, const char *text)
{
    char line[1200];
    int found = 0;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *at = strstr(line, text);
        found += at && strstr(line, "] error: ") && strcmp(at + strlen(text), "\n") == 0;
    }
    if (file)
        fclose(file);
    return found;
}

struct logged {
    const char *path;
    int times;
};

static int logged(tutti_comm *native, int rank, int size, void *context)
{
    const struct logged *want = context;
    float in[8] = {0}, out[8] = {0};
    char sentence[1024];
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    wrong += OK(ncclAllReduce(in, out, 4, ncclFloat32, ncclSum, comm, NULL));
    for (int i = 0; i < 3; i++)
        wrong += TAKEN(ncclBroadcast(in, out, 4, ncclFloat32, 7 + rank, comm, NULL),
                       ncclInvalidArgument);
    snprintf(sentence, sizeof sentence, "%s", ncclGetLastError(comm));
    int times = lines(want->path, sentence);
    wrong += world_check(rank, times == want->times, "%d lines end in: %s", times, sentence);
    return wrong + OK(ncclCommDestroy(comm));
}

/* Programs that never ask for the sentence, as most that print ncclGetErrorString. */
static void test_nccl_input_is_logged_where_nccl_debug_asks(void)
{
    static const char *const debug[] = {"NCCL_DEBUG=WARN", "NCCL_DEBUG=info", "NCCL_DEBUG=VERSION",
                                        "NCCL_DEBUG="};
    for (int i = 0; i < 4; i++) {
        struct suite_log log;
        const char *const settings[] = {debug[i], log.setting, NULL};
        struct logged want = {log.path, i < 2};
        suite_log_begin(&log);
        /* The sentences of ranks differ, and each rank repeats its own. */
        nccl_world_run(WORLD_PROCESSES, 2, settings, logged, &want);
        suite_log_end(&log);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"is_refused", test_nccl_input_is_refused},
        {"of_a_suspended_communicator", test_nccl_input_of_a_suspended_communicator},
        {"last_error", test_nccl_input_last_error},
        {"is_logged_where_nccl_debug_asks", test_nccl_input_is_logged_where_nccl_debug_asks},
    };
    return suite_run("nccl_input", tests, sizeof tests / sizeof *tests, argc, argv);
}
