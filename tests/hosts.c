/* hosts.c: see hosts.h. */
#include "tests/hosts.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOSTS_MAX 8 /* more than a guest ever has */

static void enter(const char *host, const char *kind, int type)
{
    char path[256];
    snprintf(path, sizeof path, "/run/hosts/%s/%s", host, kind);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, type) != 0) {
        fprintf(stderr, "TUTTI_TEST_HOSTS: entering %s: %s (tests/vm/guest/hosts.sh makes it)\n",
                path, strerror(errno));
        _exit(99);
    }
    close(fd);
}

void hosts_enter(unsigned rank, unsigned size)
{
    const char *list = getenv("TUTTI_TEST_HOSTS");
    char text[256], *names[HOSTS_MAX], *rest = text;
    unsigned count = 0;
    if (!list || !*list)
        return;
    snprintf(text, sizeof text, "%s", list);
    for (char *name; count < HOSTS_MAX && (name = strsep(&rest, ",")) != NULL;)
        names[count++] = name;
    const char *host = names[(unsigned long)rank * count / size];
    enter(host, "net", CLONE_NEWNET);
    enter(host, "uts", CLONE_NEWUTS);
    enter(host, "ipc", CLONE_NEWIPC);
}

bool hosts_here(void)
{
    const char *list = getenv("TUTTI_TEST_HOSTS");
    return !list || !list[0];
}

bool hosts_transport_wanted(const char *transport)
{
    const char *only = getenv("TUTTI_TEST_TRANSPORT");
    return !only || !*only || strcmp(only, transport) == 0;
}

bool hosts_can_cut(void)
{
    return getenv("TUTTI_TEST_CUT") != NULL;
}

bool hosts_cut(unsigned ms)
{
    char line[300];
    snprintf(line, sizeof line, "%s %u", getenv("TUTTI_TEST_CUT"), ms);
    return system(line) == 0;
}
