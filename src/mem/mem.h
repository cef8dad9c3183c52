/* mem.h: where buffers live (memory kinds) and how they are reduced.
 *
 * A kind is one row of a table: detect, alloc, free, copy. Host memory is described here; what
 * device memory needs besides (queues, streams, peers) is in device.h.
 *
 * Library allocations (mem_alloc) are sealed memory files, so that a peer on the same host can map
 * them: mem_export says which file and which offset a pointer lies in. The list of allocations is
 * process wide, because the pointer alone must be enough; it is the one lock of this room, taken
 * by alloc, free and a lookup that misses, never per transfer of an eager message.
 *
 * Adapters may read and write device memory by themselves: what a transport needs for that is here
 * too, so that it needs to know nothing else of devices. */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include "base/status.h"
#include "mem/reduce.h"

struct mem_export {
    uint64_t id;  /* names the allocation; never reused within the process */
    int fd;       /* borrowed: valid until mem_free; -1: no file, not found by mem_find */
    size_t bytes; /* of the whole allocation */
    void *base;
    bool inherited; /* of a fork's parent, which has it still */
};

/* One row of the table in mem.c. A kind makes and unmakes one allocation; mem.c lists them. */
struct mem_kind {
    const char *name;
    /* Whether the pointer lies in memory of this kind; a kind that cannot tell says false. */
    bool (*detect)(const void *pointer);
    /* Fills fd, bytes (rounded up) and base of *out; out->id is given by the list. */
    tutti_status (*alloc)(size_t bytes, struct mem_export *out);
    void (*free)(const struct mem_export *allocation);
    void (*copy)(void *dst, const void *src, size_t len); /* NULL: not by the CPU */
};

/* Zeroed host memory, page aligned (2 MiB aligned from 2 MiB on), resident, mappable by peers; a
 * size of 0 gives a valid pointer of its own. Errors TUTTI_ERR_NOMEM. */
tutti_status mem_alloc(size_t bytes, void **memory);
/* The same of a kind; device memory is of the context current in this thread (mem_device_open) and
 * mapped by peers in its own way (mem_share). Errors TUTTI_ERR_NOMEM, TUTTI_ERR_UNSUPPORTED. */
tutti_status mem_alloc_in(tutti_memory memory_kind, size_t bytes, void **memory);
/* Of any kind. NULL is allowed; a pointer that mem_alloc did not give is TUTTI_ERR_ARG. */
tutti_status mem_free(void *memory);
/* True and *out if [pointer, pointer + len) lies in one library allocation of host memory. */
bool mem_find(const void *pointer, size_t len, struct mem_export *out);
/* Grows by one with every free: a cached mem_find result is good while it stays the same. */
uint64_t mem_generation(void);
/* Gives a memory file its size; TUTTI_ERR_NOMEM, and no signal, where the limit of file sizes
 * (ulimit -f) is smaller. */
tutti_status mem_size_file(int fd, size_t bytes);
/* Makes bytes [at, at + bytes) of a memory file exist; 0, or -1 with errno. Signals do not end it:
 * a kernel that lets them interrupt fallocate undoes what it had done, so beside a profiler's timer
 * a long call would never end; this goes on in short ones. */
int mem_fill_file(int fd, size_t at, size_t bytes);
/* Kind of a pointer. */
tutti_memory mem_detect(const void *pointer);
/* memcpy, with non-temporal stores where the size makes them pay. dst and src do not overlap. */
void mem_copy(void *dst, const void *src, size_t len);
/* mem_copy for a part of a whole that outgrows the caches: its stores go past them at any size. */
void mem_stream(void *dst, const void *src, size_t len);
/* Memory of any kinds (host memory may overlap); waits for the bytes, but for no stream of the
 * program. Errors TUTTI_ERR_SYSTEM: the device failed. */
tutti_status mem_copy_any(void *dst, const void *src, size_t len);

/* ---- device memory as network adapters see it (mem_cuda_nic.c) ---- */

/* True and *out (fd -1) if the pointer lies in device memory: the allocation that holds it. Its id
 * is never used twice in the life of the process: who keeps something of it compares. About 0.1 us.
 */
bool mem_nic_find(const void *pointer, struct mem_export *out);
/* Whether adapters may read and write what mem_nic_find gave. TUTTI_ERR_UNSUPPORTED and the reason
 * where the device or this kind of its memory does not allow it, or where what they write could be
 * seen too late. */
tutti_status mem_nic_admit(const struct mem_export *memory);
/* A dma-buf of the whole allocation; the caller closes it. *offset: of its base within. Stale once
 * the allocation is freed. TUTTI_ERR_UNSUPPORTED where device, driver or kind of memory has none.
 */
tutti_status mem_nic_dmabuf(const struct mem_export *memory, int *fd, uint64_t *offset);
/* What adapters have written at the pointer, as their completions told, is visible to the device
 * from now on, also to work that it was given before. Free where devices need nothing. */
tutti_status mem_nic_flush(const void *pointer);
/* Copies len bytes, at least 1, between device memory and ordinary host memory, and waits for them
 * (10 us and more), but for no stream of the program: for what no adapter can carry. */
tutti_status mem_nic_copy(void *dst, const void *src, size_t len);

#endif
