/* test_nccl_env.c: what the environment and NCCL's files say in NCCL's words, as the settings
 * behind the face have it; read back as parameters, each in a process of its own, which reads them
 * once. */
#include <dlfcn.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/nccl_world.h"

struct said {
    const char *variable; /* of NCCL */
    const char *setting, *value;
};

static int check(int rank, const char *setting, const char *value)
{
    const char *text = "";
    int len;
    int wrong = OK(ncclParamGetParameter(setting, &text, &len));
    return wrong + world_check(rank, strcmp(text, value) == 0, "%s is %s, expected %s", setting,
                               text, value);
}

static int is(tutti_comm *native, int rank, int size, void *context)
{
    const struct said *said = context;
    (void)native, (void)size;
    return check(rank, said->setting, said->value);
}

static void test_nccl_env_becomes_settings(void)
{
    static const struct said all[] = {
        {"NCCL_NOTHING=1", "TUTTI_TIMEOUT_MS", "86400000"},
        {"NCCL_NOTHING=1", "TUTTI_MEET_TIMEOUT_MS", "3600000"},
        {"NCCL_NOTHING=1", "TUTTI_INTERFACE", ""},
        {"NCCL_NOTHING=1", "TUTTI_TRANSPORTS", "auto"},
        {"NCCL_NOTHING=1", "TUTTI_CUDA_DIRECT", "yes"},
        {"NCCL_DEBUG=INFO", "TUTTI_LOG", "info"},
        {"NCCL_DEBUG=trace", "TUTTI_LOG", "debug"},
        {"NCCL_DEBUG=WARN", "TUTTI_LOG", "warn"},
        {"NCCL_DEBUG_FILE=/nonexistent/of.%p", "TUTTI_LOG_FILE", ""},
        {"NCCL_SOCKET_IFNAME=eth,ib0", "TUTTI_INTERFACE", "eth*,ib0*"},
        {"NCCL_SOCKET_IFNAME==eth1,ib0", "TUTTI_INTERFACE", "eth1,ib0"},
        {"NCCL_SOCKET_IFNAME=^docker,lo", "TUTTI_INTERFACE", "^docker*,^lo*"},
        {"NCCL_SOCKET_IFNAME=^=eth1", "TUTTI_INTERFACE", "^eth1"},
        {"NCCL_SOCKET_IFNAME=eth0:1,ib", "TUTTI_INTERFACE", "eth0*,ib*"},
        {"NCCL_SOCKET_IFNAME=,", "TUTTI_INTERFACE", ""},
        {"NCCL_SOCKET_FAMILY=AF_INET6", "TUTTI_FAMILY", "ipv6"},
        {"NCCL_SOCKET_FAMILY=AF_INET", "TUTTI_FAMILY", "ipv4"},
        {"NCCL_SOCKET_FAMILY=IPX", "TUTTI_FAMILY", "any"},
        {"NCCL_IB_HCA=mlx5_0:1,mlx5_3", "TUTTI_VERBS_DEVICE", "mlx5_0*:1,mlx5_3*"},
        {"NCCL_IB_HCA=^=mlx5_2", "TUTTI_VERBS_DEVICE", "^mlx5_2"},
        {"NCCL_IB_DISABLE=1", "TUTTI_TRANSPORTS", "inproc,shm,tcp"},
        {"NCCL_IB_DISABLE=0", "TUTTI_TRANSPORTS", "auto"},
        {"NCCL_IB_DISABLE=0x1", "TUTTI_TRANSPORTS", "inproc,shm,tcp"},
        {"NCCL_NET=socket", "TUTTI_TRANSPORTS", "inproc,shm,tcp"},
        {"NCCL_NET=IB", "TUTTI_TRANSPORTS", "auto"},
        {"NCCL_SHM_DISABLE=1", "TUTTI_TRANSPORTS", "inproc,ib,roce,iwarp,tcp"},
        {"NCCL_P2P_DISABLE=1", "TUTTI_CUDA_DIRECT", "no"},
        {"NCCL_IB_GID_INDEX=3", "TUTTI_VERBS_GID_INDEX", "3"},
        {"NCCL_IB_GID_INDEX=-1", "TUTTI_VERBS_GID_INDEX", "256"},
        {"NCCL_IB_TIMEOUT=22", "TUTTI_VERBS_TIMEOUT", "22"},
        {"NCCL_IB_TIMEOUT=99", "TUTTI_VERBS_TIMEOUT", "14"},
        {"NCCL_IB_RETRY_CNT=7", "TUTTI_VERBS_RETRY", "7"},
        {"NCCL_IB_SL=3", "TUTTI_VERBS_SERVICE_LEVEL", "3"},
        {"NCCL_IB_TC=0x6a", "TUTTI_VERBS_TRAFFIC_CLASS", "106"},
        {"NCCL_IB_TIMEOUT=022", "TUTTI_VERBS_TIMEOUT", "18"},
        {"NCCL_IB_TC=106", "TUTTI_VERBS_TRAFFIC_CLASS", "106"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *const settings[] = {all[i].variable, NULL};
        nccl_world_run(WORLD_PROCESSES, 1, settings, is, (void *)&all[i]);
    }
}

static int is_ours(tutti_comm *native, int rank, int size, void *context)
{
    (void)native, (void)size, (void)context;
    return check(rank, "TUTTI_TIMEOUT_MS", "70000") + check(rank, "TUTTI_INTERFACE", "lo") +
           check(rank, "TUTTI_TRANSPORTS", "tcp");
}

static void test_nccl_env_goes_behind_tuttis(void)
{
    static const char *const settings[] = {"TUTTI_TIMEOUT_MS=70000", "TUTTI_INTERFACE=lo",
                                           "NCCL_SOCKET_IFNAME=^lo", "TUTTI_TRANSPORTS=tcp",
                                           "NCCL_IB_DISABLE=1",      NULL};
    nccl_world_run(WORLD_PROCESSES, 1, settings, is_ours, NULL);
}

#define CAUGHT "/tmp/tutti_test_env_XXXXXX"

/* From here on the log of this process goes to a file of its own. */
static void catch_log(char *path)
{
    int fd = mkstemp(path);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

/* How many lines of it have the part; it is gone then. */
static int caught_with(const char *path, const char *part)
{
    char line[1024];
    int lines = 0;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        lines += strstr(line, part) != NULL;
    if (file)
        fclose(file);
    unlink(path);
    return lines;
}

/* What cannot be followed is a line of the log, where there is one. */
static int complains(tutti_comm *native, int rank, int size, void *context)
{
    char path[] = CAUGHT, want[128], host[64] = "";
    const char *asked = context, *part = "NCCL_IB_TIMEOUT=99 is ignored: TUTTI_VERBS_TIMEOUT=99 is";
    int lines, wrong;
    (void)native, (void)size;
    catch_log(path);
    wrong = check(rank, "TUTTI_VERBS_TIMEOUT", "14");
    lines = caught_with(path, part);
    gethostname(host, sizeof host - 1);
    snprintf(want, sizeof want, "/tmp/of.%s.%ld", host, (long)getpid());
    wrong += check(rank, "TUTTI_LOG_FILE", want);
    return wrong + world_check(rank, lines == (*asked == 'W'), "%d lines", lines);
}

static void test_nccl_env_complains_in_the_log(void)
{
    static const char *const asked[] = {"WARN", "VERSION"};
    for (int i = 0; i < 2; i++) {
        char debug[32];
        const char *const settings[] = {"NCCL_IB_TIMEOUT=99", "NCCL_DEBUG_FILE=/tmp/of.%h.%p",
                                        debug, NULL};
        snprintf(debug, sizeof debug, "NCCL_DEBUG=%s", asked[i]);
        nccl_world_run(WORLD_PROCESSES, 1, settings, complains, (void *)asked[i]);
    }
}

struct shown {
    const char *debug;
    int first, others; /* lines of rank 0, and of another one */
};

/* Programs and people read in the log which library it is that they have: a line at the first
 * communicator. */
static int shows(tutti_comm *native, int rank, int size, void *context)
{
    const struct shown *shown = context;
    char path[] = CAUGHT, part[64];
    int lines, version = 0, wrong = 0;
    catch_log(path);
    for (int i = 0; i < 2; i++) {
        ncclComm_t comm = NULL;
        wrong += nccl_world_init(native, rank, size, &comm) + OK(ncclCommDestroy(comm));
    }
    wrong += OK(ncclGetVersion(&version));
    snprintf(part, sizeof part, "NCCL version %d.%d.%d+tutti", version / 10000, version / 100 % 100,
             version % 100);
    lines = caught_with(path, part);
    return wrong + world_check(rank, lines == (rank == 0 ? shown->first : shown->others),
                               "%d lines with %s", lines, shown->debug);
}

static void test_nccl_env_shows_the_version(void)
{
    static const struct shown all[] = {
        {"NCCL_DEBUG=VERSION", 1, 0}, {"NCCL_DEBUG=warn", 1, 0}, {"NCCL_DEBUG=INFO", 1, 1},
        {"NCCL_DEBUG=TRACE", 1, 1},   {"NCCL_DEBUG=NONE", 0, 0}, {"NCCL_NOTHING=1", 0, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *const settings[] = {all[i].debug, NULL};
        nccl_world_run(WORLD_PROCESSES, 2, settings, shows, (void *)&all[i]);
    }
}

/* ---- files ------------------------------------------------------------------------------------
 */

static char place[] = "/tmp/tutti_test_env_XXXXXX";

/* The library's calls come here too: its user lives at the place, where what is in /etc is. */
__attribute__((visibility("default"))) int getpwuid_r(uid_t uid, struct passwd *user, char *room,
                                                      size_t size, struct passwd **found)
{
    (void)uid, (void)room, (void)size;
    *user = (struct passwd){.pw_dir = place};
    *found = user;
    return 0;
}

__attribute__((visibility("default"))) FILE *fopen(const char *path, const char *mode)
{
    FILE *(*open)(const char *, const char *);
    char moved[64];
    void *next = dlsym(RTLD_NEXT, "fopen");
    memcpy(&open, &next, sizeof open);
    snprintf(moved, sizeof moved, "%s/etc.conf", place);
    return open(strcmp(path, "/etc/nccl.conf") == 0 ? moved : path, mode);
}

static void write_file(const char *name, const char *text)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", place, name);
    FILE *file = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    fputs(text, file);
    fclose(file);
}

static int are(tutti_comm *native, int rank, int size, void *context)
{
    int wrong = 0;
    for (const struct said *said = context; said->setting; said++)
        wrong += is(native, rank, size, (void *)said);
    return wrong;
}

static void test_nccl_env_is_in_files(void)
{
    static const struct said named[] = {
        {NULL, "TUTTI_VERBS_TRAFFIC_CLASS", "106"}, /* the first line of several */
        {NULL, "TUTTI_INTERFACE", "^lo*"},          /* the environment */
        {NULL, "TUTTI_TRANSPORTS", "inproc,shm,tcp"},
        {NULL, "TUTTI_VERBS_RETRY", "5"},
        {NULL, "TUTTI_VERBS_SERVICE_LEVEL", "3"}, /* before the administrator's */
        {NULL, "TUTTI_VERBS_TIMEOUT", "14"},      /* the user's own is not read */
        {NULL, "TUTTI_TIMEOUT_MS", "86400000"},   /* nothing but NCCL's */
        {NULL, "NCCL_IB_SL", "3"},
        {NULL, NULL, NULL},
    };
    static const struct said of_user[] = {
        {NULL, "TUTTI_VERBS_TIMEOUT", "20"}, {NULL, "TUTTI_INTERFACE", "eth1"},
        {NULL, "TUTTI_VERBS_RETRY", "7"},    {NULL, "TUTTI_VERBS_SERVICE_LEVEL", "4"},
        {NULL, "TUTTI_TRANSPORTS", "auto"},  {NULL, NULL, NULL},
    };
    char conf[64];
    const char *const naming[] = {conf, "NCCL_SOCKET_IFNAME=^lo", NULL};
    static const char *const ours[] = {"TUTTI_VERBS_RETRY=7", NULL};
    snprintf(conf, sizeof conf, "NCCL_CONF_FILE=%s/named.conf", place);
    write_file("named.conf", "# NCCL_IB_TC=1\nNCCL_IB_TC=0x6a\nNCCL_IB_TC=7\nnonsense\n\n"
                             "NCCL_SOCKET_IFNAME==ens1f0\nNCCL_IB_SL=3\nNCCL_IB_DISABLE=1");
    write_file(".nccl.conf", "NCCL_IB_TIMEOUT=20\nNCCL_SOCKET_IFNAME==eth1\n");
    write_file("etc.conf", "NCCL_IB_RETRY_CNT=5\nNCCL_IB_SL=4\nTUTTI_TIMEOUT_MS=5\nNCCL_X=1\n");
    nccl_world_run(WORLD_PROCESSES, 1, naming, are, (void *)named);
    nccl_world_run(WORLD_PROCESSES, 1, ours, are, (void *)of_user);
    static const char *const names[] = {"named.conf", ".nccl.conf", "etc.conf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", place, names[i]);
        unlink(path);
    }
}

/* ---- whether calls wait -----------------------------------------------------------------------
 */

struct waits {
    const char *variable;
    ncclResult_t plain, asked_to, asked_not_to; /* what inits give */
};

static int waits(tutti_comm *native, int rank, int size, void *context)
{
    const struct waits *how = context;
    const ncclResult_t want[] = {how->plain, how->asked_to, how->asked_not_to};
    ncclComm_t comms[2];
    int wrong = 0;
    (void)native, (void)size;
    for (int i = 0; i < 3; i++) {
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        ncclUniqueId id;
        config.blocking = i == 0 ? NCCL_CONFIG_UNDEF_INT : i == 1;
        wrong += OK(ncclGetUniqueId(&id));
        wrong += TAKEN(ncclCommInitRankConfig(&comms[0], 1, id, 0, &config), want[i]);
        wrong += world_check(rank, nccl_world_settle(comms[0]) == ncclSuccess, "not made");
        wrong += OK(ncclCommDestroy(comms[0]));
    }
    wrong += TAKEN(ncclCommInitAll(comms, 2, NULL), how->plain);
    for (int i = 0; i < 2; i++) {
        wrong += world_check(rank, nccl_world_settle(comms[i]) == ncclSuccess, "not made");
        wrong += OK(ncclCommDestroy(comms[i]));
    }
    return wrong;
}

static void test_nccl_env_says_whether_calls_wait(void)
{
    static const struct waits all[] = {
        {"NCCL_COMM_BLOCKING=0", ncclInProgress, ncclInProgress, ncclInProgress},
        {"NCCL_COMM_BLOCKING=0x1", ncclSuccess, ncclSuccess, ncclSuccess},
        {"NCCL_COMM_BLOCKING=2", ncclSuccess, ncclSuccess, ncclInProgress},
        {"NCCL_NOTHING=1", ncclSuccess, ncclSuccess, ncclInProgress},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *const settings[] = {all[i].variable, NULL};
        nccl_world_run(WORLD_PROCESSES, 1, settings, waits, (void *)&all[i]);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"becomes_settings", test_nccl_env_becomes_settings},
        {"goes_behind_tuttis", test_nccl_env_goes_behind_tuttis},
        {"complains_in_the_log", test_nccl_env_complains_in_the_log},
        {"shows_the_version", test_nccl_env_shows_the_version},
        {"is_in_files", test_nccl_env_is_in_files},
        {"says_whether_calls_wait", test_nccl_env_says_whether_calls_wait},
    };
    if (!mkdtemp(place))
        return 1;
    int result = suite_run("nccl_env", tests, sizeof tests / sizeof *tests, argc, argv);
    rmdir(place);
    return result;
}
