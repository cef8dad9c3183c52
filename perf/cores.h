/* cores.h: where ranks of one machine run. */
#ifndef PERF_CORES_H
#define PERF_CORES_H

/* CPUs that the calling thread may use. */
unsigned cores_allowed(void);

/* Binds the calling thread to the index-th CPU that it may use, cores before their second threads,
 * wrapping around. Returns the CPU, -1 when binding is not possible. */
int cores_bind(unsigned index);

#endif
