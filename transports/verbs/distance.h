/* distance.h: how far a device is from the cores that this thread may run on, in the kernel's unit:
 * 10 is the device's own NUMA node, 20 a typical neighbour. sys is the root of the kernel's tree,
 * "/sys". Cost: a few small files per call. */
#ifndef TRANSPORTS_VERBS_DISTANCE_H
#define TRANSPORTS_VERBS_DISTANCE_H

#include <sched.h>
#include <stdint.h>

#define DISTANCE_LOCAL 10

/* The NUMA node of an RDMA device; -1: it has none (one node, or a device of software). */
int distance_node(const char *sys, const char *device);
/* From the cores to the node: the mean over the cores. DISTANCE_LOCAL where nothing is known. */
uint32_t distance_from(const char *sys, const cpu_set_t *cores, int node);

#endif
