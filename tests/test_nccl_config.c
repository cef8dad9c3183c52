/* test_nccl_config.c: how programs of the NCCL face say what they wish and ask what there is:
 * configurations of every version, calls with one against calls without, encryption, parameters,
 * properties, suspended communicators. */
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/nccl_world.h"

/* ---- configurations of communicators ----------------------------------------------------------
 */

/* Structures as the versions had them: their size, where what they know ends, and the last field of
 * it that is checked. */
static const struct version {
    unsigned code;
    size_t size, end, last;
    const char *name;
} versions[] = {
    {21403, 24, 20, offsetof(ncclConfig_t, blocking), "blocking"},
    {21701, 40, 40, offsetof(ncclConfig_t, maxCTAs), "maxCTAs"},
    {21801, 48, 44, offsetof(ncclConfig_t, splitShare), "splitShare"},
    {22707, 72, 72, offsetof(ncclConfig_t, nvlsCTAs), "nvlsCTAs"},
    {22809, 80, 80, offsetof(ncclConfig_t, nvlinkCentricSched), "nvlinkCentricSched"},
    {22902, 88, 88, offsetof(ncclConfig_t, numRmaCtx), "numRmaCtx"},
    {23004, 96, 92, offsetof(ncclConfig_t, maxP2pPeers), "maxP2pPeers"},
    {23007, 96, 96, offsetof(ncclConfig_t, graphStreamOrdering), "graphStreamOrdering"},
    {23102, 112, 112, offsetof(ncclConfig_t, hostCftMode), "hostCftMode"},
    {23203, 120, 116, offsetof(ncclConfig_t, nvlsHostMode), "nvlsHostMode"},
};

static int one_version(const struct version *v)
{
    ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;
    union {
        ncclConfig_t config;
        unsigned char bytes[256];
    } given;
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    char said[64];
    int rank = 0, wrong = OK(ncclGetUniqueId(&id)), bad = -9;
    fresh.size = v->size;
    fresh.version = v->code;
    memset(&given, 0x5a, sizeof given); /* what lies behind is nothing to do with it */
    memcpy(given.bytes, &fresh, v->end);
    wrong += OK(ncclCommInitRankConfig(&comm, 1, id, 0, &given.config));
    wrong += nccl_world_works(comm, rank, 0, 1) + OK(ncclCommDestroy(comm));
    memcpy(given.bytes + v->last, &bad, sizeof bad);
    wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &given.config), ncclInvalidArgument);
    snprintf(said, sizeof said, "config.%s is -9: expected", v->name);
    wrong += nccl_world_says(rank, said);
    return wrong + world_check(rank, wrong == 0, "version %u", v->code);
}

static int host_modes(void)
{
    static const int good[] = {0, 1, 2, 3, ncclNvlsHostModeDisable, ncclNvlsHostModeDefault};
    int rank = 0, wrong = 0;
    for (size_t i = 0; i <= sizeof good / sizeof *good; i++) {
        bool is_good = i < sizeof good / sizeof *good;
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclUniqueId id;
        ncclComm_t comm = NULL;
        config.nvlsHostMode = is_good ? good[i] : 4;
        wrong += OK(ncclGetUniqueId(&id));
        wrong += TAKEN(ncclCommInitRankConfig(&comm, 1, id, 0, &config),
                       is_good ? ncclSuccess : ncclInvalidArgument);
        wrong += OK(ncclCommDestroy(comm));
    }
    return wrong;
}

/* In a process of its own: ids that nobody uses leave their threads behind. */
static int every_version(tutti_comm *native, int rank, int size, void *context)
{
    int wrong = host_modes();
    (void)native, (void)rank, (void)size, (void)context;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        wrong += one_version(&versions[i]);
    return wrong;
}

static void test_nccl_config_of_every_version(void)
{
    nccl_world_run(WORLD_PROCESSES, 1, NULL, every_version, NULL);
}

/* ---- calls with a configuration ---------------------------------------------------------------
 */

enum { COUNT = 700, RANKS_MAX = 4, ROOM = COUNT * RANKS_MAX * 8, CALLS = 8 };

struct call {
    int which, root;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    ncclComm_t comm;
    const void *in;
};

static ncclResult_t plain(const struct call *c, void *out)
{
    switch (c->which) {
    case 0:
        return ncclAllReduce(c->in, out, c->count, c->type, c->op, c->comm, NULL);
    case 1:
        return ncclReduceScatter(c->in, out, c->count, c->type, c->op, c->comm, NULL);
    case 2:
        return ncclReduce(c->in, out, c->count, c->type, c->op, c->root, c->comm, NULL);
    case 3:
        return ncclBroadcast(c->in, out, c->count, c->type, c->root, c->comm, NULL);
    case 4:
        return ncclGather(c->in, out, c->count, c->type, c->root, c->comm, NULL);
    case 5:
        return ncclScatter(c->in, out, c->count, c->type, c->root, c->comm, NULL);
    case 6:
        return ncclAllGather(c->in, out, c->count, c->type, c->comm, NULL);
    default:
        return ncclAlltoAll(c->in, out, c->count, c->type, c->comm, NULL);
    }
}

static ncclResult_t configured(const struct call *c, void *out, const ncclCollConfig_t *w)
{
    switch (c->which) {
    case 0:
        return ncclAllReduceConfig(c->in, out, c->count, c->type, c->op, c->comm, NULL, w);
    case 1:
        return ncclReduceScatterConfig(c->in, out, c->count, c->type, c->op, c->comm, NULL, w);
    case 2:
        return ncclReduceConfig(c->in, out, c->count, c->type, c->op, c->root, c->comm, NULL, w);
    case 3:
        return ncclBroadcastConfig(c->in, out, c->count, c->type, c->root, c->comm, NULL, w);
    case 4:
        return ncclGatherConfig(c->in, out, c->count, c->type, c->root, c->comm, NULL, w);
    case 5:
        return ncclScatterConfig(c->in, out, c->count, c->type, c->root, c->comm, NULL, w);
    case 6:
        return ncclAllGatherConfig(c->in, out, c->count, c->type, c->comm, NULL, w);
    default:
        return ncclAlltoAllConfig(c->in, out, c->count, c->type, c->comm, NULL, w);
    }
}

/* All that a configuration can say and that changes nothing. */
static ncclCollConfig_t chatty(ncclConfigExt_t *ext)
{
    ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
    *ext = (ncclConfigExt_t){.next = ext, .key = {77, 1}, .val = {.i = 3}}; /* never walked */
    config.ext = ext;
    config.minCTAs = 1;
    config.maxCTAs = 8;
    config.nvlsCTAs = 4;
    config.cgaClusterSize = 2;
    config.algSelection = "Ring";
    config.forceAlgSelection = 0;
    config.CTAPolicy = NCCL_CTA_POLICY_EFFICIENCY;
    config.userProfilerTag = 99;
    return config;
}

static int with_and_without(tutti_comm *native, int rank, int size, void *context)
{
    static const ncclDataType_t types[] = {ncclInt8, ncclFloat32, ncclUint64};
    uint64_t seed = *(uint64_t *)context + (uint64_t)rank;
    unsigned char *in = malloc(ROOM), *want = malloc(ROOM), *got = malloc(ROOM);
    ncclConfigExt_t ext;
    ncclCollConfig_t config = chatty(&ext), fresh = NCCL_COLLCONFIG_INITIALIZER;
    const ncclCollConfig_t *ways[] = {NULL, &fresh, &config};
    struct call c = {.in = in};
    int wrong = nccl_world_init(native, rank, size, &c.comm);
    for (int i = 0; i < 3 * CALLS * 3 && wrong == 0; i++) {
        for (int at = 0; at < ROOM; at++)
            in[at] = (unsigned char)(suite_random(&seed) % 60);
        c.which = i % CALLS;
        c.type = types[i / CALLS % 3];
        c.count = i % 5 == 4 ? 0 : COUNT;
        c.root = i % size;
        c.op = i % 2 ? ncclSum : ncclMax;
        memset(want, 0xa5, ROOM);
        memset(got, 0xa5, ROOM);
        bool grouped = i % 3 == 0;
        wrong += OK(plain(&c, want));
        wrong += grouped ? OK(ncclGroupStart()) : 0;
        wrong += OK(configured(&c, got, ways[i / CALLS / 3]));
        wrong += grouped ? OK(ncclGroupEnd()) : 0;
        wrong += world_check(rank, memcmp(want, got, ROOM) == 0, "call %d differs", i);
    }
    free(in);
    free(want);
    free(got);
    return wrong + OK(ncclCommDestroy(c.comm));
}

static void test_nccl_config_of_a_call_changes_no_bit(void)
{
    uint64_t seed = suite_seed();
    nccl_world_run(WORLD_PROCESSES, 4, nccl_world_shm, with_and_without, &seed);
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_tcp, with_and_without, &seed);
    nccl_world_run(WORLD_THREADS, 3, NULL, with_and_without, &seed);
}

#define CONFIGURED(want)                                                                           \
    TAKEN(ncclAllReduceConfig(&in, &out, 1, ncclInt32, ncclSum, comm, NULL, &config), want)

static int bad_fields(ncclComm_t comm, int rank)
{
    static const struct {
        size_t at;
        int value;
        const char *said;
    } bad[] = {
        {offsetof(ncclCollConfig_t, minCTAs), 0, "config.minCTAs is 0: expected at least 1"},
        {offsetof(ncclCollConfig_t, maxCTAs), -1, "config.maxCTAs is -1: expected at least 1"},
        {offsetof(ncclCollConfig_t, nvlsCTAs), 0, "config.nvlsCTAs is 0: expected at least 1"},
        {offsetof(ncclCollConfig_t, cgaClusterSize), 9,
         "config.cgaClusterSize is 9: expected 0 to 8"},
        {offsetof(ncclCollConfig_t, forceAlgSelection), 2,
         "ncclAllReduceConfig: config.forceAlgSelection is 2: expected 0 to 1"},
        {offsetof(ncclCollConfig_t, CTAPolicy), 4, "config.CTAPolicy is 4: expected 0 to 3"},
        {offsetof(ncclCollConfig_t, magic), 1,
         "config has the magic 0x1, expected 0xcafebeef: begin it with "
         "NCCL_COLLCONFIG_INITIALIZER"},
    };
    int in = 1, out = -1, wrong = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ncclCollConfig_t config = NCCL_COLLCONFIG_INITIALIZER;
        memcpy((char *)&config + bad[i].at, &bad[i].value, sizeof bad[i].value);
        wrong += CONFIGURED(ncclInvalidArgument) + nccl_world_says(rank, bad[i].said);
    }
    return wrong + world_check(rank, out == -1, "a refused call ran");
}

static int bad_calls(tutti_comm *native, int rank, int size, void *context)
{
    ncclCollConfig_t fresh = NCCL_COLLCONFIG_INITIALIZER, config = fresh;
    ncclComm_t comm;
    int in = 1, out = -1, wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += bad_fields(comm, rank);
    config.size = 8;
    wrong += CONFIGURED(ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config has a size of 8 bytes, expected 72 as "
                                   "NCCL_COLLCONFIG_INITIALIZER gives it");
    config = fresh;
    config.minCTAs = 3;
    config.maxCTAs = 2;
    wrong += CONFIGURED(ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.minCTAs is 3, more than config.maxCTAs, 2");
    config = fresh;
    config.algSelection = "Tree";
    wrong += CONFIGURED(ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.algSelection is \"Tree\": the algorithms of NVIDIA's "
                                   "library are not to be had here: set "
                                   "config.forceAlgSelection to 0");
    wrong += OK(ncclGroupStart()) + CONFIGURED(ncclInvalidArgument);
    wrong += TAKEN(ncclGroupEnd(), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.algSelection");
    config.algSelection = "";
    wrong += CONFIGURED(ncclSuccess);
    config = fresh;
    config.launchCompletionEvent = (cudaEvent_t)&config;
    if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD)) {
        wrong += CONFIGURED(ncclUnhandledCudaError);
        wrong += nccl_world_says(rank, "launchCompletionEvent is set, but the program has not "
                                       "loaded a driver");
    }
    config.size = 64; /* 2.31 had no event */
    config.version = 23102;
    wrong += CONFIGURED(ncclSuccess);
    config.size = sizeof config;
    wrong += CONFIGURED(ncclSuccess);
    wrong += world_check(rank, out == size, "sum %d", out);
    return wrong + OK(ncclCommDestroy(comm));
}

static int encryption(void)
{
    ncclEncryptionConfig_t fresh = NCCL_ENCRYPTION_CONFIG_INITIALIZER, config = fresh;
    int rank = 0, wrong = OK(ncclSetEncryption(NULL)) + OK(ncclSetEncryption(&fresh));
    config.mode = NCCL_ENCRYPTION_MODE_PSK;
    config.psk = "0123456789abcdef0123456789abcdef";
    wrong += TAKEN(ncclSetEncryption(&config), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "ncclSetEncryption: Tutti does not encrypt what ranks exchange");
    config.mode = 2;
    wrong += TAKEN(ncclSetEncryption(&config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "config.mode is 2: expected NCCL_ENCRYPTION_MODE_NONE (0)");
    config = fresh;
    config.magic = 5;
    wrong += TAKEN(ncclSetEncryption(&config), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "magic 0x5, expected 0xcafebeef: begin it with "
                                   "NCCL_ENCRYPTION_CONFIG_INITIALIZER");
    config = fresh;
    config.size = 4;
    wrong += TAKEN(ncclSetEncryption(&config), ncclInvalidArgument);
    return wrong + nccl_world_says(rank, "a size of 4 bytes, expected 32");
}

static void test_nccl_config_that_is_bad_is_refused(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, bad_calls, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, bad_calls, NULL);
    CU_ASSERT_EQUAL(encryption(), 0);
}

/* ---- parameters -------------------------------------------------------------------------------
 */

static ncclParamHandle_t bound(const char *key)
{
    ncclParamHandle_t handle = NULL;
    CU_ASSERT_EQUAL(ncclParamBind(&handle, key), ncclSuccess);
    return handle;
}

/* What the getters give of a setting of 300 and of one that is no. */
static int numbers(void)
{
    int rank = 0, wrong = 0;
    int8_t i8 = -1;
    int16_t i16 = -1;
    int32_t i32 = -1;
    int64_t i64 = -1;
    uint8_t u8 = 1;
    uint16_t u16 = 1;
    uint32_t u32 = 1;
    uint64_t u64 = 1;
    ncclParamHandle_t chunk = bound("TUTTI_CHUNK"), cma = bound("TUTTI_CMA");
    wrong += OK(ncclParamGetI16(chunk, &i16)) + OK(ncclParamGetI32(chunk, &i32));
    wrong += OK(ncclParamGetI64(chunk, &i64)) + OK(ncclParamGetU16(chunk, &u16));
    wrong += OK(ncclParamGetU32(chunk, &u32)) + OK(ncclParamGetU64(chunk, &u64));
    wrong += world_check(
        rank, i16 == 300 && i32 == 300 && i64 == 300 && u16 == 300 && u32 == 300 && u64 == 300,
        "%d %d %lld", i16, i32, (long long)i64);
    wrong += TAKEN(ncclParamGetI8(chunk, &i8), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclParamGetI8: TUTTI_CHUNK is 300, more than the 127 that the "
                                   "type holds");
    wrong += TAKEN(ncclParamGetU8(chunk, &u8), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "more than the 255");
    wrong += world_check(rank, i8 == -1 && u8 == 1, "written all the same");
    wrong += OK(ncclParamGetU8(cma, &u8)) + OK(ncclParamGetI8(cma, &i8));
    wrong += world_check(rank, i8 == 0 && u8 == 0, "no is %d", i8);
    wrong += TAKEN(ncclParamGetI32(bound("TUTTI_LOG"), &i32), ncclInvalidArgument);
    return wrong + nccl_world_says(rank, "TUTTI_LOG is \"none\", no number: read it with "
                                         "ncclParamGetStr");
}

static int texts(void)
{
    char raw[64];
    const char *text = NULL, *other = NULL;
    int64_t number = 0;
    int rank = 0, wrong = 0, len = -1;
    wrong += OK(ncclParamGetStr(bound("TUTTI_CHUNK"), &text));
    wrong += OK(ncclParamGetParameter("NCCL_COMM_ID", &other, &len));
    wrong += world_check(rank, strcmp(text, "300") == 0 && strcmp(other, "host:7") == 0 && len == 6,
                         "'%s' '%s' %d", text, other, len);
    wrong += OK(ncclParamGetParameter("TUTTI_ALGO", &other, &len));
    wrong += world_check(rank, len == 0 && *other == '\0', "'%s'", other);
    wrong += OK(ncclParamGet(bound("TUTTI_CHUNK"), &number, sizeof number, &len));
    wrong += world_check(rank, number == 300 && len == 8, "%lld in %d", (long long)number, len);
    wrong += OK(ncclParamGet(bound("NCCL_COMM_ID"), raw, 7, &len));
    wrong += world_check(rank, len == 7 && strcmp(raw, "host:7") == 0, "'%s'", raw);
    wrong += TAKEN(ncclParamGet(bound("NCCL_COMM_ID"), raw, 6, &len), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "NCCL_COMM_ID has 7 bytes, and maxLen is 6");
    wrong += OK(ncclParamGetStr(bound("TUTTI_SECRET"), &text));
    return wrong + world_check(rank, strcmp(text, "(hidden)") == 0, "the secret: %s", text);
}

static int unknown(void)
{
    ncclParamHandle_t handle = NULL;
    const char *text, **keys;
    int64_t number;
    int rank = 0, wrong = 0, len, found = 0;
    wrong += TAKEN(ncclParamBind(&handle, "NCCL_ALGO"), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclParamBind: there is no parameter NCCL_ALGO");
    wrong += TAKEN(ncclParamBind(NULL, "TUTTI_LOG"), ncclInvalidArgument);
    wrong += TAKEN(ncclParamBind(&handle, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "key is NULL");
    wrong += TAKEN(ncclParamGetI64(NULL, &number), ncclInvalidArgument);
    wrong += TAKEN(ncclParamGetI64((ncclParamHandle_t)&number, &number), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "the handle was not made by ncclParamBind");
    wrong += TAKEN(ncclParamGetStr(bound("TUTTI_LOG"), NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclParamGetParameter("CHUNK", &text, &len), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "there is no parameter CHUNK");
    wrong += TAKEN(ncclParamGetParameter("TUTTI_LOG", &text, NULL), ncclInvalidArgument);
    wrong += TAKEN(ncclParamGetAllParameterKeys(NULL, &len), ncclInvalidArgument);
    wrong += OK(ncclParamGetAllParameterKeys(&keys, &len));
    for (int i = 0; i < len; i++) {
        int value_len;
        wrong += OK(ncclParamGetParameter(keys[i], &text, &value_len));
        found += strcmp(keys[i], "TUTTI_CHUNK") == 0 || strcmp(keys[i], "NCCL_DEBUG") == 0;
    }
    wrong += world_check(rank, len > 40 && found == 2, "%d keys, %d of 2", len, found);
    setenv("TUTTI_CHUNK", "many", 1);
    wrong += TAKEN(ncclParamGetParameter("TUTTI_LOG", &text, &len), ncclInvalidUsage);
    wrong += nccl_world_says(rank, "TUTTI_CHUNK=many");
    return wrong;
}

/* A line per parameter in the file, but none where the log is off. */
static int dumped(const char *path)
{
    char line[1100];
    int lines = 0, chunks = 0;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        lines++;
        chunks += strstr(line, "] info: TUTTI_CHUNK=300\n") != NULL;
    }
    if (file)
        fclose(file);
    return chunks == 1 && lines > 40 ? 1 : lines == 0 ? 0 : -1;
}

static int parameters(void)
{
    char path[] = "/tmp/tutti_test_nccl_XXXXXX";
    int fd = mkstemp(path), rank = 0, wrong = world_check(0, fd >= 0, "no file");
    close(fd);
    setenv("TUTTI_CHUNK", "300", 1);
    setenv("TUTTI_CMA", "no", 1);
    setenv("TUTTI_LOG", "none", 1);
    setenv("TUTTI_SECRET", "opensesame", 1);
    setenv("TUTTI_LOG_FILE", path, 1);
    setenv("NCCL_COMM_ID", "host:7", 1);
    wrong += numbers() + texts();
    ncclParamDumpAll();
    wrong += world_check(rank, dumped(path) == 0, "lines though the log is off");
    setenv("TUTTI_LOG", "error", 1);
    ncclParamDumpAll();
    wrong += world_check(rank, dumped(path) == 1, "not a line per parameter");
    unlink(path);
    return wrong + unknown();
}

static int parameters_of(tutti_comm *native, int rank, int size, void *context)
{
    (void)native;
    (void)rank;
    (void)size;
    (void)context;
    return parameters();
}

static void test_nccl_config_parameters(void)
{
    /* In a process of its own, whose environment it changes. */
    nccl_world_run(WORLD_PROCESSES, 1, NULL, parameters_of, NULL);
}

/* ---- what there is ----------------------------------------------------------------------------
 */

/* The last of it that a version has, and what is asked of the others. */
struct properties {
    size_t size;
    unsigned magic, version;
    int rank, ranks, device, nvml;
    unsigned char device_api, multimem;
    int gin, lsa_teams;
    unsigned char host_rma;
    int railed;
    uint64_t hash;
    int stride, connection;
    unsigned char gins[64];
    size_t bytes;
    unsigned char cft[3];
};
ncclResult_t ncclCommQueryProperties(ncclComm_t comm, struct properties *properties);

static int properties(tutti_comm *native, ncclComm_t comm, int rank, int size)
{
    static const size_t sizes[] = {40, 56, 144, sizeof(struct properties)};
    struct properties p, bad = {.size = 40, .magic = 3};
    uint64_t theirs[RANKS_MAX] = {0};
    int wrong = world_check(rank, sizeof p == 152, "%zu bytes", sizeof p);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memset(&p, 0x5a, sizeof p);
        p.size = sizes[i];
        p.magic = NCCL_API_MAGIC;
        p.version = 22902;
        wrong += OK(ncclCommQueryProperties(comm, &p));
        wrong += world_check(rank,
                             p.rank == rank && p.ranks == size && p.device == 0 && p.nvml == -1 &&
                                 !p.device_api && !p.multimem && p.gin == 0,
                             "rank %d of %d, %zu bytes", p.rank, p.ranks, sizes[i]);
        wrong += world_check(rank, p.size == sizes[i] && p.version == 22902, "its head is another");
        const unsigned char *end = (unsigned char *)&p + sizes[i];
        wrong += world_check(rank, sizes[i] == sizeof p || *end == 0x5a, "written behind");
    }
    wrong += world_check(rank,
                         p.lsa_teams == size && !p.host_rma && p.railed == 0 && p.bytes == 0 &&
                             !p.cft[0] && !p.cft[1] && !p.cft[2] && !p.gins[3],
                         "%d teams", p.lsa_teams);
    wrong += tutti_allgather(&p.hash, theirs, 1, TUTTI_UINT64, native) != TUTTI_OK;
    wrong += world_check(rank, p.hash == theirs[0] && p.hash != 0, "ranks have different numbers");
    wrong += TAKEN(ncclCommQueryProperties(comm, &bad), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "properties have the magic 0x3, expected 0xcafebeef");
    bad.size = 24;
    wrong += TAKEN(ncclCommQueryProperties(comm, &bad), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "properties have 24 bytes, expected at least 40");
    return wrong + TAKEN(ncclCommQueryProperties(comm, NULL), ncclInvalidArgument);
}

static int facts(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm;
    int wrong = nccl_world_init(native, rank, size, &comm);
    (void)context;
    wrong += properties(native, comm, rank, size);
    wrong += nccl_world_works(comm, rank, rank, size);
    return wrong + OK(ncclCommDestroy(comm));
}

static void test_nccl_config_what_there_is(void)
{
    nccl_world_run(WORLD_PROCESSES, 2, nccl_world_shm, facts, NULL);
    nccl_world_run(WORLD_THREADS, 3, NULL, facts, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"of_every_version", test_nccl_config_of_every_version},
        {"of_a_call_changes_no_bit", test_nccl_config_of_a_call_changes_no_bit},
        {"that_is_bad_is_refused", test_nccl_config_that_is_bad_is_refused},
        {"parameters", test_nccl_config_parameters},
        {"what_there_is", test_nccl_config_what_there_is},
    };
    return suite_run("nccl_config", tests, sizeof tests / sizeof *tests, argc, argv);
}
