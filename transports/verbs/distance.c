/* distance.c: see distance.h. A thread that may run everywhere is as far from one device as from
 * another, so that only those who bind their ranks have a nearest one. */
#include "transports/verbs/distance.h"

#include <stdio.h>
#include <stdlib.h>

#define NODES_MAX 256

static FILE *open_file(const char *sys, const char *format, const char *name)
{
    char path[400];
    int at = snprintf(path, sizeof path, "%.200s", sys);
    snprintf(path + at, sizeof path - (size_t)at, format, name);
    return fopen(path, "re");
}

int distance_node(const char *sys, const char *device)
{
    int node = -1;
    FILE *file = open_file(sys, "/class/infiniband/%.64s/device/numa_node", device);
    if (file && fscanf(file, "%d", &node) != 1)
        node = -1;
    if (file)
        fclose(file);
    return node;
}

/* How many of the cores are of the node: its file lists them as "0-3,8". */
static uint32_t cores_of(const char *sys, const char *node, const cpu_set_t *cores)
{
    uint32_t count = 0;
    int first, last;
    FILE *file = open_file(sys, "/devices/system/node/node%s/cpulist", node);
    while (file && fscanf(file, "%d", &first) == 1) {
        if (fscanf(file, "-%d", &last) != 1)
            last = first;
        for (int cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
            count += cpu >= 0 && CPU_ISSET(cpu, cores);
        if (fscanf(file, ",") == EOF)
            break;
    }
    if (file)
        fclose(file);
    return count;
}

/* The entry for `to` in the row of distances of a node; 0: there is none. */
static uint32_t entry_of(const char *sys, const char *from, int to)
{
    unsigned distance = 0;
    FILE *file = open_file(sys, "/devices/system/node/node%s/distance", from);
    for (int i = 0; file && i <= to; i++) {
        if (fscanf(file, "%u", &distance) != 1)
            distance = 0;
    }
    if (file)
        fclose(file);
    return distance;
}

uint32_t distance_from(const char *sys, const cpu_set_t *cores, int node)
{
    uint64_t sum = 0, count = 0;
    for (int from = 0; from < NODES_MAX && node >= 0; from++) {
        char name[12];
        snprintf(name, sizeof name, "%d", from);
        uint32_t here = cores_of(sys, name, cores);
        uint32_t far = here ? entry_of(sys, name, node) : 0;
        sum += (uint64_t)here * far;
        count += far ? here : 0;
    }
    return count ? (uint32_t)((sum + count / 2) / count) : DISTANCE_LOCAL;
}
