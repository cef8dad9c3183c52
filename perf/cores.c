/* cores.c: the processors that the tools may use, which are those of taskset or a job's cgroup, not
 * all of the machine. */
#include "perf/cores.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>

/* True when cpu is the first hardware thread of its core. */
static bool leads_core(int cpu)
{
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return true;
    if (fscanf(file, "%d", &first) != 1)
        first = cpu;
    fclose(file);
    return first == cpu;
}

unsigned cores_allowed(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? (unsigned)CPU_COUNT(&allowed) : 1;
}

int cores_bind(unsigned index)
{
    cpu_set_t allowed, chosen;
    int order[CPU_SETSIZE];
    unsigned count = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return -1;
    for (int pass = 0; pass < 2; pass++) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &allowed) && leads_core(cpu) == (pass == 0))
                order[count++] = cpu;
        }
    }
    if (count == 0)
        return -1;
    int cpu = order[index % count];
    CPU_ZERO(&chosen);
    CPU_SET(cpu, &chosen);
    return sched_setaffinity(0, sizeof chosen, &chosen) == 0 ? cpu : -1;
}
