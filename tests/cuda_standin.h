/* cuda_standin.h: a driver for tests, which exports the CUDA driver's entry points that the library
 * and the tests use, on a machine without a GPU. It is not an emulator: kernels other than the
 * library's and an empty one, named `nothing`, do not exist.
 *
 *   device memory   a memory file mapped twice: what the program gets as a device address is a view
 *                   without access, so that a CPU that touches device memory by mistake faults; the
 *                   stand-in works through the other view
 *   the GPU         a thread per channel, which runs what its streams were given in order. Streams
 *                   of every priority share TUTTI_TEST_STANDIN_CHANNELS (8) channels, so that one
 *                   that waits holds up another of the same channel, as on real devices
 *   delays          before each piece of work, random (TUTTI_TEST_STANDIN_SEED), up to
 *                   TUTTI_TEST_STANDIN_DELAY_US (0); in each copy, and between the blocks of a
 *                   kernel, so long as its bytes take at TUTTI_TEST_STANDIN_COPY_MBPS (0: no time).
 *                   TUTTI_TEST_STANDIN_ISSUE_US (0) is what a thread may take between two pieces
 *   kernels         the library's, by name, as they are written (cuda_kernels.h); none with
 *                   TUTTI_TEST_STANDIN_KERNELS=0
 *   blocking        freeing memory, unpinning and loading code wait until the context's channels
 *                   have done all they were given, and other threads' launches, copies, allocations
 *                   and pinning wait with them, as in the real driver. The same where a channel
 *                   has no room (TUTTI_TEST_STANDIN_ROOM pieces of work, 1024)
 *   launches        wait so, too, the first time in a context: a driver may make then what kernels
 *                   share. With TUTTI_TEST_STANDIN_BLOCKING=1 each returns when its kernel has
 *                   ended, as CUDA_LAUNCH_BLOCKING=1 has it on real devices
 *   captures        of streams and of those that events join to them, forbidding other
 *                   threads' calls as the real one does; a graph's launch runs one stream's part as
 *                   far as events allow before it goes on with another's
 *   IPC             processes map each other's memory file, unless it overlaps another that is
 *                   mapped still, though its owner has freed that. The first of another GPU waits
 *                   as freeing does. With TUTTI_TEST_STANDIN_IPC=0 processes cannot name memory, as
 *                   on some platforms, with 2 not map it, as in different PID namespaces
 *   contexts        kernels reach what was allocated plainly in one that was opened to theirs, of
 *                   at most TUTTI_TEST_STANDIN_PEERS (8) others, and on another GPU; copies go
 *                   anywhere. GPUs have links to each other, or a bus (TUTTI_TEST_STANDIN_LINKS=0)
 *   green contexts  parts of a GPU in name alone: streams of their own over the primary context's
 *                   memory, events and modules; current in one thread at a time
 *   pinned memory   is for GPUs where it is for the CPU; with TUTTI_TEST_STANDIN_HOST_POINTERS=0
 *                   kernels and stream operations have other addresses of it
 *   adapters        with TUTTI_TEST_STANDIN_NIC=1 memory can be registered by its device address:
 *                   the view without access is open from the question whether adapters may reach an
 *                   allocation until the thread that asked calls again; pinned pages stay pinned. A
 *                   descriptor of the memory file passes for a dma-buf, or nothing does with
 *                   TUTTI_TEST_STANDIN_DMABUF=0. TUTTI_TEST_STANDIN_FLUSH=1: arrivals must be
 *                   flushed, which is counted
 *
 * TUTTI_TEST_STANDIN_DEVICES (1) is the number of GPUs, TUTTI_TEST_STANDIN_MEMORY_OPS=0 takes the
 * streams' memory operations away, TUTTI_TEST_STANDIN_BYTES (16 GiB) is the memory of each GPU.
 * With TUTTI_TEST_STANDIN_STUB=1 it is a stub, as toolkits have one to link with: whatever is
 * asked, it answers that it is no driver. */
#ifndef TESTS_CUDA_STANDIN_H
#define TESTS_CUDA_STANDIN_H

#include <pthread.h>
#include <stdatomic.h>

#include "mem/mem_cuda_work.h"
#include "tests/cuda_kernels.h"
#include "tests/gpu.h"

#define EXPORT __attribute__((visibility("default")))

#define X(member, symbol, parameters, need) EXPORT cuda_result symbol parameters;
CUDA_FUNCTIONS(X)
#undef X
#define X(member, symbol, parameters) EXPORT cuda_result symbol parameters;
GPU_FUNCTIONS(X)
GPU_RARE_FUNCTIONS(X)
STANDIN_CONTROLS(X)
#undef X

/* Answers that the library does not know one by one. */
#define CUDA_STUB           34  /* CUDA_ERROR_STUB_LIBRARY */
#define CUDA_MAPPED         208 /* CUDA_ERROR_ALREADY_MAPPED */
#define CUDA_ILLEGAL        401 /* CUDA_ERROR_ILLEGAL_STATE */
#define CUDA_MERGE          902 /* CUDA_ERROR_STREAM_CAPTURE_MERGE */
#define CUDA_CAPTURED_EVENT 907 /* CUDA_ERROR_CAPTURED_EVENT */
#define CUDA_DESTROYED      709 /* CUDA_ERROR_CONTEXT_IS_DESTROYED */
#define CHANNELS_MAX        64  /* shared by streams */
#define DEVICES_MAX         8

struct standin_channel;
struct standin_graph;

/* A GPU context. A green one has a legacy stream; all else is the primary one's. */
struct standin_context {
    struct standin_context *whole; /* of a green one: the primary one */
    pthread_t holder;              /* it is current in this thread, */
    unsigned held;                 /* so many times */
    int ordinal;
    unsigned number; /* of the contexts made */
    bool primary;
    unsigned retained;
    uint64_t opened;                  /* a bit for each context whose memory is open to this one */
    _Atomic cuda_result error;        /* sticky */
    _Atomic bool launched;            /* some kernel was */
    struct standin_channel *channels; /* all of them */
    struct standin_channel *shared[CHANNELS_MAX];
    unsigned streams_made;
    struct standin_stream *streams; /* all of them; the last is the legacy stream */
    struct standin_stream *legacy;
    struct standin_context *next;
};

struct standin_stream {
    struct standin_context *context;
    struct standin_context *green; /* NULL: it has all of the GPU */
    struct standin_channel *channel;
    bool blocking; /* waits for the legacy stream, and it for this */
    bool destroyed;
    bool per_thread; /* the default stream of its owner */
    pthread_t owner;
    uint64_t last;                 /* number of its last work in the channel */
    struct standin_graph *capture; /* being captured into */
    uint64_t captured;             /* pieces of work in it */
    bool broken;                   /* that capture was invalidated */
    int mode;
    pthread_t thread; /* that began it */
    struct standin_stream *next;
};

/* A piece of work. */
struct standin_op {
    enum {
        OP_COPY,
        OP_FILL,
        OP_WRITE,
        OP_WAIT,
        OP_HOST,
        OP_RECORD,
        OP_AWAIT,
        OP_AFTER,
        OP_KERNEL,
        OP_RELEASE,
        OP_JOIN /* of graphs alone: behind a place in another branch */
    } kind;
    struct standin_context *context;
    cuda_address dst, src;
    size_t bytes; /* OP_FILL: of all words; OP_WRITE, OP_WAIT: 4 */
    uint32_t value, value_bytes;
    cuda_host_fn *function;
    void *data; /* of function; OP_RECORD, OP_AWAIT: event; OP_AFTER: channel; OP_RELEASE: graph */
    uint64_t number; /* OP_RECORD, OP_AWAIT: of the recording; OP_AFTER: of the work */
    const struct cuda_kernel *kernel;
    struct cuda_work work;
    unsigned blocks; /* OP_KERNEL */
    /* Of a graph: the stream it was captured in, its place there, whether this launch has it. */
    struct standin_stream *branch;
    uint64_t place;
    bool launched;
    struct standin_op *next;
};

/* A piece of memory that the driver knows. */
struct standin_memory {
    cuda_address base;
    size_t bytes;
    char *alias; /* where the stand-in's threads reach it */
    uint64_t id;
    int ordinal;
    enum { MEMORY_DEVICE, MEMORY_POOL, MEMORY_IMPORTED, MEMORY_REGISTERED, MEMORY_PINNED } kind;
    bool is_virtual; /* POOL: belongs to no context either, but no pool */
    struct standin_context *context;
    uint64_t key;        /* IMPORTED: of the owner's, whose process is in its lower half */
    uint64_t offset;     /* IMPORTED: in the owner's arena */
    unsigned opened;     /* IMPORTED: times */
    size_t mapped, lead; /* IMPORTED: bytes mapped, and those before the alias */
    struct standin_memory *next;
};

/* The memory of a GPU. */
struct standin_arena {
    int fd;
    cuda_address base;
    char *alias;
};

/* One lock for all of the stand-in's tables, and a signal whenever something is done. */
extern pthread_mutex_t standin_lock;
extern pthread_cond_t standin_done;

/* From the environment, at the first call of the process. */
struct standin_settings {
    uint64_t channels, room, seed, delay_us, issue_us, devices, peers, bytes, copy_mbps, ipc;
    bool kernels, memory_ops, nic, dmabuf, flush, links, launch_blocking, stub, host_pointers;
};
const struct standin_settings *standin_settings(void);
extern struct standin_context *standin_contexts; /* all of them */

static inline cuda_address cuda_address_of_host(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

/* cuda_standin.c */
/* CUDA_DRIVER_OK, or what every call answers. */
cuda_result standin_is_initialised(void);
/* The context current in this thread, or the one that it is part of, if the call may be made:
 * CUDA_DRIVER_OK and *context. */
cuda_result standin_enter(struct standin_context **context);
/* The green context current in this thread; NULL if it is another, or none. */
struct standin_context *standin_current_green(void);
/* As standin_enter, for calls that wait for all that the context was given: they have waited. */
cuda_result standin_block(struct standin_context **context);
/* Such a call begins (1), or ends (-1, with the lock). */
void standin_hold(int more);
/* Waits while other threads are in such calls. */
void standin_wait_for_blocking(const struct standin_context *context);

/* cuda_standin_memory.c */
extern struct standin_arena standin_arenas[DEVICES_MAX];
extern struct standin_memory *standin_memories;
/* With the lock: the memory that holds the address; lists a copy of it, with an id; forgets it. */
struct standin_memory *standin_find_memory(cuda_address address);
struct standin_memory *standin_list_memory(struct standin_memory made);
void standin_unlist_memory(struct standin_memory *memory);
/* With the lock: the memory of a device, at its first context. */
cuda_result standin_make_arena(int ordinal);
/* The address at which the stand-in's threads reach [address, address + bytes): host memory is
 * where it is. NULL: beyond an allocation. */
void *standin_alias(cuda_address address, size_t bytes);
/* Pinned memory, peers' that the context mapped, its own, that of its device's pools, and that of
 * contexts which were opened to it. */
bool standin_kernels_reach(const struct standin_context *context, cuda_address address);
/* True: neither device memory nor pinned. */
bool standin_is_pageable(cuda_address address);
/* The thread's calls go on: what it opened to adapters is closed again. */
void standin_close_views(void);

/* cuda_standin_kernel.c */
void standin_play_kernel(const struct standin_op *op);

/* cuda_standin_stream.c */
/* The time that so many bytes take besides. */
void standin_pause_for(size_t bytes);
cuda_result standin_make_streams(struct standin_context *context);
/* With the lock: a stream of the context, or of a green one that is part of it. NULL: no memory. */
struct standin_stream *standin_make_stream(struct standin_context *context, unsigned flags);
/* Gives work to a stream, or to its capture. wait: until it is done. */
cuda_result standin_issue(cuda_stream stream, const struct standin_op *op, bool wait);
/* Waits until every channel of the context has done what it was given before. */
void standin_drain(struct standin_context *context);
/* With the lock: the stream of the current context that the handle names. */
cuda_result standin_find_stream(struct standin_context *context, cuda_stream handle,
                                struct standin_stream **found);
/* With the lock: gives work to a stream that is not captured, behind what it must wait for. */
void standin_push_ordered(struct standin_stream *stream, const struct standin_op *op);

/* cuda_standin_green.c */
/* A green context becomes current in this thread, or is it once less; false if another has it. */
bool standin_take_green(struct standin_context *green);
void standin_leave_green(struct standin_context *green);

/* cuda_standin_graph.c */
/* CUDA_DRIVER_OK unless a capture forbids this thread's call; then the capture is broken. */
cuda_result standin_unsafe(void);
/* With the lock: the legacy stream cannot be used beside the capture of a stream that it waits for,
 * which it breaks if it may. */
cuda_result standin_check_legacy(struct standin_context *context, struct standin_stream *stream,
                                 bool breaks);
/* With the lock: appends work to the stream's capture. */
cuda_result standin_record(struct standin_stream *stream, const struct standin_op *op);
/* With the lock: the stream is captured from now on, if it is not, into the graph that the branch
 * is captured into, behind so many pieces of the branch. */
cuda_result standin_join(struct standin_stream *stream, struct standin_stream *branch,
                         uint64_t place);
/* With the lock: one reference less. */
void standin_release_graph(struct standin_graph *graph);

#endif
