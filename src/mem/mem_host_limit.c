/* mem_host_limit.c: can this machine give so much memory at all?
 * The kernel hands out the pages of a memory file until the machine or the control group is out of
 * them, and then ends processes, other people's too. So a large size is first compared with what
 * could be had: what the machine says is available, and the limit of each control group around
 * this process, both with the swap on top that is free and allowed, since a memory file can go
 * there. What cannot be read limits nothing. A snapshot: two that ask at once may both be told yes.
 * Source: proc_meminfo(5), the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/mem_host.h"

#define LIMIT_LEAST ((size_t)16 << 20) /* smaller: not worth reading files for */
#define TEXT_MAX    8192               /* of /proc/meminfo: some 1,500 bytes */

static bool read_text(const char *path, char text[TEXT_MAX])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, TEXT_MAX - 1);
    if (fd >= 0)
        close(fd);
    if (len > 0)
        text[len] = 0;
    return len > 0;
}

/* Bytes in a line of /proc/meminfo; otherwise when it is not there. */
static uint64_t line_of(const char *text, const char *name, uint64_t otherwise)
{
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : otherwise;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Where control groups are: version 2, and 1, whose second limit is of memory and swap together. */
struct tree {
    const char *mount, *memory, *swap;
    bool together;
};
static const struct tree version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                      "memory.memsw.limit_in_bytes", true};
static const struct tree version_2 = {"/sys/fs/cgroup", "memory.max", "memory.swap.max", false};

/* What a file of a group says; UINT64_MAX: it does not limit. */
static uint64_t limit_in(const char *mount, const char *path, const char *name, char file[PATH_MAX])
{
    char text[TEXT_MAX];
    int len = snprintf(file, PATH_MAX, "%s%s/%s", mount, path, name);
    bool limits = len < PATH_MAX && read_text(file, text) && text[0] >= '0' && text[0] <= '9';
    return limits ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The limits of the group at path and of all that contain it. */
static tutti_status check_groups(size_t bytes, uint64_t swap, const struct tree *tree, char *path)
{
    char file[PATH_MAX];
    for (;;) {
        uint64_t second = limit_in(tree->mount, path, tree->swap, file);
        uint64_t limit = limit_in(tree->mount, path, tree->memory, file);
        limit = tree->together ? least(sum(limit, swap), second) : sum(limit, least(swap, second));
        if (bytes > limit)
            return fail(TUTTI_ERR_NOMEM,
                        "allocate %zu bytes: the control group of this process allows %llu "
                        "(%.200s, with the free swap that it may use)",
                        bytes, (unsigned long long)limit, file);
        char *last = strrchr(path, '/');
        if (!last)
            return TUTTI_OK;
        *last = 0;
    }
}

tutti_status mem_host_limit(size_t bytes)
{
    char text[TEXT_MAX], *rest;
    if (bytes < LIMIT_LEAST || !read_text("/proc/meminfo", text))
        return TUTTI_OK;
    uint64_t swap = line_of(text, "\nSwapFree:", 0);
    uint64_t available = sum(line_of(text, "\nMemAvailable:", UINT64_MAX), swap);
    if (bytes > available)
        return fail(TUTTI_ERR_NOMEM,
                    "allocate %zu bytes: this machine has %llu available (MemAvailable and "
                    "SwapFree of /proc/meminfo)",
                    bytes, (unsigned long long)available);
    if (!read_text("/proc/self/cgroup", text))
        return TUTTI_OK;
    /* "0::/path" is version 2; "4:memory:/path" version 1. */
    tutti_status status = TUTTI_OK;
    for (char *line = strtok_r(text, "\n", &rest); line && status == TUTTI_OK;
         line = strtok_r(NULL, "\n", &rest)) {
        char *path = strchr(line, '/'), *memory = strstr(line, ":memory:");
        if (path && strncmp(line, "0::", 3) == 0)
            status = check_groups(bytes, swap, &version_2, path);
        else if (path && memory && memory < path)
            status = check_groups(bytes, swap, &version_1, path);
    }
    return status;
}
