/* bootstrap_pmi1.c: a text from rank 0 to all through PMI-1, the wire protocol of MPICH's launcher
 * Hydra (and of Slurm's pmi2 plugin, which speaks it too).
 *
 * The launcher leaves an open stream socket in PMI_FD. Requests and replies are lines of
 * "cmd=NAME key=value ...". Source: src/pmi of MPICH (simple_pmi.c), Balaji et al., "PMI: A
 * Scalable Parallel Process-Management Interface for Extreme-Scale Systems" (2010).
 *
 * "finalize" is sent when the process ends, and not before: Hydra closes the socket after it, so
 * that neither a second communicator nor a later MPI_Init could use it; but a rank that said "init"
 * and ends without "finalize" makes it kill the job. If MPI has said it already, the descriptor may
 * by then be another file: the socket's inode tells. Keys cannot be overwritten: each use counts
 * one further (all ranks make their communicators in the same order). This state is one static
 * structure behind a mutex. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "src/bootstrap_meet.h"

#define LINE_MAX_LEN 2048
#define NAME_MAX_LEN 512

#define FAREWELL_MS 1000

struct launcher {
    struct lock lock;
    unsigned uses;
    pid_t pid; /* that said init; 0: none has */
    int fd;
    struct stat socket;
};
static struct launcher launcher = {.lock = LOCK_INIT};

struct pmi {
    int fd;
    uint64_t deadline_ms;
    char line[LINE_MAX_LEN]; /* the last reply */
};

tutti_status bootstrap_pmi1_open(uint32_t *rank, uint32_t *size)
{
    const char *fd = settings_launcher_variable("PMI_FD");
    if (fd == NULL || settings_launcher_variable("PMI_RANK") == NULL ||
        settings_launcher_variable("PMI_SIZE") == NULL)
        return TUTTI_ERR_UNSUPPORTED;
    uint32_t found_size, found_rank;
    tutti_status status = launcher_number("PMI_SIZE", 1, BOOTSTRAP_RANKS_MAX, &found_size);
    if (status == TUTTI_OK)
        status = launcher_number("PMI_RANK", 0, found_size - 1, &found_rank);
    if (status != TUTTI_OK)
        return status;
    *rank = found_rank;
    *size = found_size;
    return TUTTI_OK;
}

/* The socket is the launcher's and may be blocking: each step is preceded by poll. */
static tutti_status ready(const struct pmi *pmi, short events, const char *doing)
{
    for (;;) {
        struct pollfd watched = {.fd = pmi->fd, .events = events};
        uint64_t now = clock_ms();
        int count = now < pmi->deadline_ms ? poll(&watched, 1, (int)(pmi->deadline_ms - now)) : 0;
        if (count > 0)
            return TUTTI_OK;
        if (count == 0)
            return fail(TUTTI_ERR_CONNECT,
                        "the launcher (PMI_FD) did not answer \"%s\" in time: not all ranks made "
                        "their communicator; see that they run, or raise "
                        "TUTTI_MEET_TIMEOUT_MS",
                        doing);
        if (errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "wait for the launcher (PMI_FD)");
    }
}

/* Reads byte by byte: what follows the line is not ours to take. */
static tutti_status read_line(struct pmi *pmi, const char *doing)
{
    size_t used = 0;
    while (used + 1 < sizeof pmi->line) {
        tutti_status status = ready(pmi, POLLIN, doing);
        if (status != TUTTI_OK)
            return status;
        ssize_t got = read(pmi->fd, pmi->line + used, 1);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return fail_errno(TUTTI_ERR_CONNECT, "read from the launcher (PMI_FD)");
        if (got == 0)
            return fail(TUTTI_ERR_CONNECT,
                        "the launcher (PMI_FD) closed its connection during "
                        "\"%s\"",
                        doing);
        if (pmi->line[used] == '\n') {
            pmi->line[used] = 0;
            return TUTTI_OK;
        }
        used++;
    }
    return fail(TUTTI_ERR_PROTOCOL, "the launcher's (PMI_FD) reply to \"%s\" is too long", doing);
}

/* The value after " key=" of the reply, up to a space; false if it is not there or too long. */
static bool reply_value(const struct pmi *pmi, const char *key, char *value, size_t len)
{
    size_t key_len = strlen(key);
    for (const char *at = pmi->line; *at; at += strcspn(at, " "), at += strspn(at, " ")) {
        if (strncmp(at, key, key_len) != 0 || at[key_len] != '=')
            continue;
        size_t value_len = strcspn(at + key_len + 1, " ");
        if (value_len >= len)
            return false;
        memcpy(value, at + key_len + 1, value_len);
        value[value_len] = 0;
        return true;
    }
    return false;
}

/* Sends a request and reads the reply, which must be `expected` with rc=0 where it has an rc. */
static tutti_status ask(struct pmi *pmi, const char *request, const char *expected)
{
    char doing[40], cmd[64], rc[16];
    size_t len = strlen(request), done = 0;
    snprintf(doing, sizeof doing, "%.*s", (int)strcspn(request, " \n"), request);
    while (done < len) {
        tutti_status status = ready(pmi, POLLOUT, doing);
        if (status != TUTTI_OK)
            return status;
        ssize_t sent = send(pmi->fd, request + done, len - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == ENOTSOCK)
            sent = write(pmi->fd, request + done, len - done);
        if (sent < 0 && errno != EINTR && errno != EAGAIN)
            return fail_errno(TUTTI_ERR_CONNECT, "write to the launcher (PMI_FD)");
        done += sent > 0 ? (size_t)sent : 0;
    }
    tutti_status status = read_line(pmi, doing);
    if (status != TUTTI_OK)
        return status;
    bool right = reply_value(pmi, "cmd", cmd, sizeof cmd) && strcmp(cmd, expected) == 0;
    if (!right || (reply_value(pmi, "rc", rc, sizeof rc) && strcmp(rc, "0") != 0))
        return fail(TUTTI_ERR_PROTOCOL, "the launcher (PMI_FD) answered \"%s\" with \"%.200s\"",
                    doing, pmi->line);
    return TUTTI_OK;
}

static void at_exit(void)
{
    struct stat now;
    struct pmi pmi = {.fd = launcher.fd, .deadline_ms = clock_ms() + FAREWELL_MS};
    if (launcher.pid == getpid() && fstat(launcher.fd, &now) == 0 &&
        now.st_dev == launcher.socket.st_dev && now.st_ino == launcher.socket.st_ino)
        (void)ask(&pmi, "cmd=finalize\n", "finalize_ack");
}

/* Says init, and arranges the farewell the first time. */
static tutti_status greet(struct pmi *pmi, unsigned *use)
{
    uint32_t fd;
    tutti_status status = launcher_number("PMI_FD", 0, 1u << 30, &fd);
    if (status != TUTTI_OK)
        return status;
    pmi->fd = (int)fd;
    lock_take(&launcher.lock);
    *use = launcher.uses++;
    if (fstat(pmi->fd, &launcher.socket) != 0)
        status = fail_errno(TUTTI_ERR_CONNECT,
                            "the launcher's connection PMI_FD=%d cannot be used (after "
                            "MPI_Finalize it is closed)",
                            pmi->fd);
    else
        status = ask(pmi, "cmd=init pmi_version=1 pmi_subversion=1\n", "response_to_init");
    if (status == TUTTI_OK && launcher.pid == 0)
        atexit(at_exit);
    if (status == TUTTI_OK) {
        launcher.pid = getpid();
        launcher.fd = pmi->fd;
    }
    lock_leave(&launcher.lock);
    return status;
}

tutti_status bootstrap_pmi1_share(uint32_t rank, char text[LAUNCHER_TEXT_MAX], uint64_t deadline_ms)
{
    struct pmi pmi = {.deadline_ms = deadline_ms};
    char request[LINE_MAX_LEN], name[NAME_MAX_LEN];
    unsigned use;
    tutti_status status = greet(&pmi, &use);
    if (status == TUTTI_OK)
        status = ask(&pmi, "cmd=get_my_kvsname\n", "my_kvsname");
    if (status == TUTTI_OK && !reply_value(&pmi, "kvsname", name, sizeof name))
        status = fail(TUTTI_ERR_PROTOCOL, "the launcher (PMI_FD) names no key space: \"%.200s\"",
                      pmi.line);
    if (status == TUTTI_OK && rank == 0) {
        snprintf(request, sizeof request, "cmd=put kvsname=%s key=tutti-%u value=%s\n", name, use,
                 text);
        status = ask(&pmi, request, "put_result");
    }
    if (status == TUTTI_OK)
        status = ask(&pmi, "cmd=barrier_in\n", "barrier_out");
    if (status == TUTTI_OK && rank != 0) {
        snprintf(request, sizeof request, "cmd=get kvsname=%s key=tutti-%u\n", name, use);
        status = ask(&pmi, request, "get_result");
        if (status == TUTTI_OK && !reply_value(&pmi, "value", text, LAUNCHER_TEXT_MAX))
            status = fail(TUTTI_ERR_PROTOCOL, "the launcher (PMI_FD) has no text from rank 0");
    }
    return status;
}
