/* nccl_env.c: the settings behind the face. Programs that speak NCCL have watchdogs of their own
 * and expect the library to wait: for ranks that come to their first collective after compiling for
 * minutes, for one that saves a checkpoint for an hour. And clusters say in NCCL's variables which
 * interfaces and adapters are to be used, in the environment or in files. Both stand in the place
 * of defaults: what TUTTI_* says goes before it.
 *
 * Which variables: base/settings.c lists them, ncclParamGetAllParameterKeys tells them. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "nccl_face.h"

#define TEXT_MAX 1024
#define ROOM_MAX 4096 /* for a record of a user */

/* A variable of NCCL, "" where it is not set. */
static const char *variable(const char *name, char text[TEXT_MAX])
{
    if (tutti_setting_get(name, text, TEXT_MAX) != TUTTI_OK)
        text[0] = '\0'; /* a TUTTI_* variable is wrong: the next call tells */
    return text;
}

static void ignored(const char *name, const char *text, const char *why)
{
    char line[2 * TEXT_MAX];
    snprintf(line, sizeof line, "%s=%.200s is ignored: %.600s", name, text, why);
    tutti_log_failure(line);
}

static void put(const char *setting, const char *value, const char *name, const char *text)
{
    if (tutti_setting_default(setting, value) != TUTTI_OK)
        ignored(name, text, tutti_last_error());
}

/* ---- files ------------------------------------------------------------------------------------
 */

/* NAME=VALUE, all of it as it stands; what the environment or a line before has set stays. */
static void read_line(char *line)
{
    char text[TEXT_MAX], *value = line + strcspn(line, "=");
    if (line[0] == '#' || *value == '\0')
        return;
    *value++ = '\0';
    value[strcspn(value, "\r\n")] = '\0';
    bool known =
        strncmp(line, "NCCL_", 5) == 0 && tutti_setting_get(line, text, sizeof text) == TUTTI_OK;
    if (known && text[0] == '\0')
        put(line, value, line, value);
}

static void read_file(const char *path)
{
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "re");
    while (file && getline(&line, &size, file) > 0)
        read_line(line);
    free(line);
    if (file)
        fclose(file);
}

/* The user's file, which NCCL_CONF_FILE may name, then the administrator's. */
static void read_files(void)
{
    char path[TEXT_MAX], room[ROOM_MAX];
    struct passwd user, *found = NULL;
    if (variable("NCCL_CONF_FILE", path)[0])
        read_file(path);
    else if (getpwuid_r(getuid(), &user, room, sizeof room, &found) == 0 && found &&
             snprintf(path, sizeof path, "%s/.nccl.conf", user.pw_dir) < (int)sizeof path)
        read_file(path);
    read_file("/etc/nccl.conf");
}

/* ---- what they say ----------------------------------------------------------------------------
 */

/* A number as C writes it: 0x1f and 037 are 31. False: there is none. */
static bool number(const char *name, long long *value)
{
    char text[TEXT_MAX], *end;
    errno = 0;
    *value = strtoll(variable(name, text), &end, 0);
    return end != text && errno == 0;
}

/* A list of beginnings of names, "eth,ib", or of whole names, "=eth0", or of what not to use,
 * "^docker"; a name may be followed by a port, "mlx5_0:1", which an interface has not. */
static void put_names(const char *setting, const char *name, bool has_ports)
{
    char text[TEXT_MAX], value[TEXT_MAX] = "";
    const char *at = variable(name, text);
    size_t used = 0;
    bool against = *at == '^', whole;
    at += against;
    whole = *at == '=';
    at += whole;
    for (; *at; at += strspn(at, ",")) {
        size_t word = strcspn(at, ","), len = strcspn(at, ",:");
        if (len > 0 && used < sizeof value)
            used += (size_t)snprintf(value + used, sizeof value - used, "%s%s%.*s%s%.*s",
                                     used ? "," : "", against ? "^" : "", (int)len, at,
                                     whole ? "" : "*", has_ports ? (int)(word - len) : 0, at + len);
        at += word;
    }
    if (used > 0)
        put(setting, value, name, text);
}

static void put_family(void)
{
    char text[TEXT_MAX];
    const char *name = "NCCL_SOCKET_FAMILY", *family = variable(name, text);
    if (strcmp(family, "AF_INET") == 0 || strcmp(family, "AF_INET6") == 0)
        put("TUTTI_FAMILY", family[7] ? "ipv6" : "ipv4", name, text);
    else if (family[0])
        ignored(name, text, "expected AF_INET or AF_INET6");
}

static bool is_on(const char *name)
{
    long long value;
    return number(name, &value) && value != 0;
}

/* NCCL_NET names what runs between hosts: "IB", "Socket", or a plug-in, of which there is none. */
static void put_transports(void)
{
    char net[TEXT_MAX];
    bool shm = !is_on("NCCL_SHM_DISABLE");
    bool ib = !is_on("NCCL_IB_DISABLE") && strcasecmp(variable("NCCL_NET", net), "Socket") != 0;
    if (shm && ib)
        return;
    tutti_setting_default("TUTTI_TRANSPORTS", ib    ? "inproc,ib,roce,iwarp,tcp"
                                              : shm ? "inproc,shm,tcp"
                                                    : "inproc,tcp");
}

/* Their names alone differ. -1 and the like mean here, too, that nothing is asked for. */
static void put_numbers(void)
{
    static const char *const same[][2] = {{"NCCL_IB_GID_INDEX", "TUTTI_VERBS_GID_INDEX"},
                                          {"NCCL_IB_RETRY_CNT", "TUTTI_VERBS_RETRY"},
                                          {"NCCL_IB_SL", "TUTTI_VERBS_SERVICE_LEVEL"},
                                          {"NCCL_IB_TC", "TUTTI_VERBS_TRAFFIC_CLASS"},
                                          {"NCCL_IB_TIMEOUT", "TUTTI_VERBS_TIMEOUT"}};
    char text[TEXT_MAX], decimal[32];
    long long value;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        const char *name = same[i][0];
        bool is = number(name, &value);
        snprintf(decimal, sizeof decimal, "%lld", value);
        if (variable(name, text)[0] && (!is || value >= 0))
            put(same[i][1], is ? decimal : text, name, text);
    }
}

/* %h stands for the host, %p for the process. No program fails for want of a place to log to. */
static void put_log_file(void)
{
    char text[TEXT_MAX], path[TEXT_MAX] = "", host[256] = "";
    size_t used = 0;
    gethostname(host, sizeof host - 1);
    for (const char *at = variable("NCCL_DEBUG_FILE", text); *at && used < sizeof path; at++) {
        char *end = path + used;
        size_t room = sizeof path - used;
        if (at[0] == '%' && (at[1] == 'h' || at[1] == 'p')) {
            used += (size_t)(at[1] == 'h' ? snprintf(end, room, "%s", host)
                                          : snprintf(end, room, "%ld", (long)getpid()));
            at++;
        } else {
            used += (size_t)snprintf(end, room, "%c", *at);
        }
    }
    if (used == 0 || strcmp(text, "stderr") == 0)
        return;
    const char *file = strcmp(text, "stdout") == 0 ? "/dev/stdout" : path;
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        ignored("NCCL_DEBUG_FILE", text, strerror(errno));
        return;
    }
    close(fd);
    put("TUTTI_LOG_FILE", file, "NCCL_DEBUG_FILE", text);
}

static void put_all(void)
{
    char text[TEXT_MAX];
    read_files();
    const char *debug = variable("NCCL_DEBUG", text);
    /* The program's own watchdog comes first; what nobody ends, ends in a day. */
    tutti_setting_default("TUTTI_TIMEOUT_MS", "86400000");
    tutti_setting_default("TUTTI_MEET_TIMEOUT_MS", "3600000");
    if (strcasecmp(debug, "INFO") == 0)
        tutti_setting_default("TUTTI_LOG", "info");
    if (strcasecmp(debug, "TRACE") == 0)
        tutti_setting_default("TUTTI_LOG", "debug");
    if (is_on("NCCL_P2P_DISABLE"))
        tutti_setting_default("TUTTI_CUDA_DIRECT", "no");
    put_log_file();
    put_names("TUTTI_INTERFACE", "NCCL_SOCKET_IFNAME", false);
    put_names("TUTTI_VERBS_DEVICE", "NCCL_IB_HCA", true);
    put_family();
    put_transports();
    put_numbers();
}

void face_settings(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, put_all);
}

#define QUOTED(a, b, c)  #a "." #b "." #c
#define VERSION(a, b, c) QUOTED(a, b, c)

/* Those who look for NVIDIA's line, here or among the strings of the file, find the interface's
 * version, and then whose it is. */
static void show_version(void)
{
    tutti_log_line("NCCL version " VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH) "+tutti" VERSION(
        TUTTI_VERSION_MAJOR, TUTTI_VERSION_MINOR, TUTTI_VERSION_PATCH));
}

void face_show_version(int rank)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static const char *const asking[] = {"INFO", "ABORT", "TRACE", "VERSION", "WARN"};
    const int of_all = 3; /* the others ask rank 0 alone */
    char text[TEXT_MAX];
    const char *debug = variable("NCCL_DEBUG", text);
    for (int i = 0; i < (rank == 0 ? 5 : of_all); i++) {
        if (strcasecmp(debug, asking[i]) == 0)
            pthread_once(&once, show_version);
    }
}

bool face_blocking(bool configured)
{
    long long value;
    face_settings();
    return number("NCCL_COMM_BLOCKING", &value) && (value == 0 || value == 1) ? value == 1
                                                                              : configured;
}
