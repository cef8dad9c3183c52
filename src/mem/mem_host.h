/* mem_host.h: the row of host memory, for the table in mem.c. */
#ifndef MEM_MEM_HOST_H
#define MEM_MEM_HOST_H

#include "mem/mem.h"

extern const struct mem_kind mem_host;

/* TUTTI_ERR_NOMEM, with how much there is, when this machine could not give so many bytes. */
tutti_status mem_host_limit(size_t bytes);

#endif
