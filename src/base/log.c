/* log.c: lines for people, on standard error or in a file.
 * The idea: a line is composed on the stack and leaves in one write call, so lines of many ranks
 * never mix and logging needs no lock. The level and the file are process wide, the one exception
 * to "no mutable globals": a process has one standard error, whatever the number of its
 * communicators; both are atomics, so any thread may change them at any time. Changing the file has
 * a lock, so that one that is set again, by each communicator, is opened once.
 * Invariant: errno is the same after a line as before it. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/lock.h"

#define LOG_LINE_MAX 1024 /* bytes of a line; an error sentence is 512, longer lines are cut */
#define LOG_FILE_MAX 256  /* as the setting's; a longer path is opened each time it is set */

static _Atomic(int) log_level_now = LOG_LEVEL_WARN;
static _Atomic(int) log_fd = STDERR_FILENO;
static struct lock log_file_lock = LOCK_INIT;
static char log_file[LOG_FILE_MAX]; /* that of log_fd */
static int log_file_fd = -1;        /* of the last file */

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_level_now, (int)level, memory_order_relaxed);
}

/* One descriptor serves all files in turn: another thread may be writing its line to it, which then
 * goes to one of the two. */
static int open_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return fd;
    if (log_file_fd < 0)
        return log_file_fd = fd;
    int moved = dup3(fd, log_file_fd, O_CLOEXEC), error = errno;
    close(fd);
    errno = error;
    return moved;
}

tutti_status log_set_file(const char *path)
{
    int fd = STDERR_FILENO;
    tutti_status status = TUTTI_OK;
    lock_take(&log_file_lock);
    bool same = strncmp(path, log_file, sizeof log_file) == 0;
    if (!same && path[0] != '\0') {
        fd = open_file(path);
        if (fd < 0)
            status = fail_errno(TUTTI_ERR_SETTING, "open TUTTI_LOG_FILE=%s", path);
    }
    if (!same && status == TUTTI_OK) {
        atomic_store(&log_fd, fd);
        snprintf(log_file, sizeof log_file, "%s", path);
    }
    lock_leave(&log_file_lock);
    return status;
}

bool log_enabled(enum log_level level)
{
    int now = atomic_load_explicit(&log_level_now, memory_order_relaxed);
    return level != LOG_LEVEL_NONE && (int)level <= now;
}

/* "tutti[host:pid rank R] level: " into line; returns its length. */
static size_t log_prefix(enum log_level level, int rank, char *line, size_t max)
{
    static const char *const names[] = {"none", "error", "warn", "info", "debug"};
    char host[65];
    if (gethostname(host, sizeof host) != 0)
        strcpy(host, "?");
    host[sizeof host - 1] = '\0';
    const char *name = (unsigned)level < sizeof names / sizeof *names ? names[level] : "?";
    int len = rank < 0 ? snprintf(line, max, "tutti[%s:%d] %s: ", host, (int)getpid(), name)
                       : snprintf(line, max, "tutti[%s:%d rank %d] %s: ", host, (int)getpid(), rank,
                                  name);
    return len < 0 ? 0 : (size_t)len;
}

static void log_line(enum log_level level, int rank, const char *text)
{
    char line[LOG_LINE_MAX];
    size_t used = log_prefix(level, rank, line, sizeof line);
    int len = snprintf(line + used, sizeof line - used, "%s", text);
    size_t end = used + (len < 0 ? 0 : (size_t)len);
    if (end > sizeof line - 1)
        end = sizeof line - 1;
    /* One line stays one line, whatever a peer's text contains. */
    for (size_t i = used; i < end; i++) {
        if ((unsigned char)line[i] < ' ')
            line[i] = ' ';
    }
    line[end++] = '\n';
    ssize_t written = write(atomic_load(&log_fd), line, end);
    (void)written; /* a log that cannot be written must not fail the operation */
}

void log_at(enum log_level level, int rank, const char *format, ...)
{
    if (!log_enabled(level))
        return;
    int error = errno;
    char text[LOG_LINE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_line(level, rank, text);
    errno = error;
}

void log_asked(const char *text)
{
    int error = errno;
    if (log_enabled(LOG_LEVEL_ERROR))
        log_line(LOG_LEVEL_INFO, -1, text);
    errno = error;
}
