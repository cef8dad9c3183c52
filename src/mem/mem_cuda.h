/* mem_cuda.h: what the files of the CUDA memory kind share with each other, and with nobody else.
 *
 *   mem_cuda.c          contexts, where a pointer lies, the row of the table of kinds
 *   mem_cuda_driver.c   the driver's library
 *   mem_cuda_pool.c     blocks of device and pinned memory that are kept; words
 *   mem_cuda_queue.c    queues
 *   mem_cuda_lane.c     their streams, and how work gets past streams that wait
 *   mem_cuda_slot.c     work that lies in a stream of the program's
 *   mem_cuda_kernels.c  finding the kernels
 *   mem_cuda_stream.c   the program's streams
 *   mem_cuda_share.c    memory of peers
 *   mem_cuda_nic.c      memory that network adapters reach */
#ifndef MEM_MEM_CUDA_H
#define MEM_MEM_CUDA_H

#include <pthread.h>

#include "mem/device.h"
#include "mem/mem.h"
#include "mem/mem_cuda_driver.h"
#include "mem/mem_cuda_work.h"

#define CUDA_NAME_MAX 128 /* "GPU 0 (name)": the driver's names are shorter than 100 bytes */

struct kept_words;

/* A context and everything kept for it. All but the lists is constant once it is open; the lists
 * are guarded by the lock. */
struct mem_device {
    const struct cuda_driver *driver;
    cuda_context context;
    tutti_status unusable;  /* not TUTTI_OK: it could not be opened; it is not tried again */
    char why[SENTENCE_MAX]; /* the sentence of that */
    int ordinal;
    int number; /* in the list of devices */
    char name[CUDA_NAME_MAX];
    struct cuda_uuid uuid;
    int priority;             /* the highest that streams can have */
    unsigned multiprocessors; /* kernels are launched in proportion */
    bool host_pointers;       /* kernels reach pinned memory where the CPU does */
    bool memory_ops;          /* streams write and await words by themselves */
    bool dmabuf;              /* exports dma-bufs */
    bool nic, nic_ordered;    /* adapters reach its memory; what they write needs no flush */
    bool beside;              /* queues run while a stream of the program waits */
    struct mem_share sample;  /* a block of it; bytes 0: other processes cannot map its memory */
    cuda_function kernels[TUTTI_OP_COUNT][TUTTI_DTYPE_COUNT]; /* NULL: does not fit */
    cuda_function scale[TUTTI_DTYPE_COUNT];
    cuda_function divide[TUTTI_DTYPE_COUNT];
    cuda_function copy; /* of bytes */
    bool has_kernels;
    char no_kernels[SENTENCE_MAX]; /* the reason, when there are none */

    pthread_mutex_t putting; /* into streams of the program's */
    pthread_mutex_t lock;
    struct mem_queue *queues; /* kept */
    struct mem_queue *slot_queues;
    struct kept_words *words;  /* given back; a stream may not have passed them */
    struct kept_words *fresh;  /* never used */
    size_t words_bytes;        /* of all of them */
    struct cuda_claim *claims; /* [QUEUES_MAX], zero; NULL: work stays in the stream it was given */
    unsigned claims_taken;
    uint64_t opened;      /* a bit for each device of the list whose memory is open to this one */
    cuda_stream *streams; /* [QUEUE_STREAMS], that queues move to */
    cuda_event order;     /* recorded in one stream and awaited in another, with `putting` locked */
    cuda_stream asked;    /* whether the device failed, for who has no stream */
};

/* Makes the device's context current, and forbidden calls possible while the program captures a
 * stream in another thread, until mem_cuda_leave. */
struct cuda_scope {
    struct mem_device *device;
    bool pushed;
    int mode;
};
static inline tutti_status mem_cuda_enter(struct mem_device *device, struct cuda_scope *scope);
/* The same of the context in which the stream's handle names it. */
static inline tutti_status mem_cuda_enter_stream(const struct mem_stream *stream,
                                                 struct cuda_scope *scope);
tutti_status mem_cuda_enter_context(struct mem_device *device, cuda_context context,
                                    struct cuda_scope *scope);
void mem_cuda_leave(struct cuda_scope *scope);

/* Of a green context the primary one that it is part of, else the context itself. stream: one of
 * the context's that has a handle of its own, or NULL. Asks only about what is not a device yet. */
cuda_context mem_cuda_whole_context(const struct cuda_driver *driver, cuda_context context,
                                    cuda_stream stream);
/* The device of a context; opens it the first time, which may wait for the GPU. */
tutti_status mem_cuda_device_of_context(const struct cuda_driver *driver, cuda_context context,
                                        struct mem_device **device);
/* Loads every kernel, with the context entered; without kernels device->no_kernels says why. */
void mem_cuda_load_kernels(struct mem_device *device);
/* Finds out how streams signal and wait, with the context entered. */
tutti_status mem_cuda_probe_stream_ops(struct mem_device *device);

/* Finds out how adapters reach the memory, with the context entered. */
void mem_cuda_look_for_nics(struct mem_device *device);

/* Makes what queues need to put work elsewhere: streams, and, where these and kernels allow it,
 * claims. */
tutti_status mem_cuda_make_lanes(struct mem_device *device);
/* One that nobody else has or had. TUTTI_ERR_NOMEM. */
tutti_status mem_cuda_take_claim(struct mem_device *device, struct cuda_claim **claim);
/* Whether some of these bytes were named for other processes, be they freed since. */
bool mem_cuda_is_named(const void *base, size_t bytes);
/* Frees what the pool could not use; waits as mem_detach does. */
void mem_cuda_free_aside(void);
/* Takes the block by which peers find out whether they can map the device's memory; not entered. */
tutti_status mem_cuda_make_sample(struct mem_device *device);
/* Finds out whether queues run beside streams that wait; not locked by anybody, not entered. */
tutti_status mem_cuda_probe_beside(struct mem_device *device);

/* Words that nobody had before, zero. Words that were given back are for values that only grow: a
 * stream may still wait for what they hold, so who starts from zero must not take those. */
tutti_status mem_cuda_words_fresh(struct mem_device *device, struct mem_words **words);
/* The size of the next block to cut lines from, after so many bytes. */
size_t mem_cuda_lines_bytes(size_t before);
/* The device of a block that mem_device_take gave and that is not given back; else NULL. */
struct mem_device *mem_cuda_block_device(const void *block);
/* As mem_queue_copy: len bytes become 0. */
tutti_status mem_cuda_zero(struct mem_queue *queue, void *dst, size_t len, uint64_t *ticket);
/* Copies between memory of one device and of another, or that of the CPU (NULL), of any kind, and
 * waits for the bytes, but for no stream of the program. len is at least 1. */
tutti_status mem_cuda_copy_across(struct mem_device *to, struct mem_device *from, void *dst,
                                  const void *src, size_t len);
/* Waits until a queue has done a ticket. */
tutti_status mem_cuda_await(struct mem_queue *queue, uint64_t ticket);

static inline tutti_status mem_cuda_enter(struct mem_device *device, struct cuda_scope *scope)
{
    return mem_cuda_enter_context(device, device->context, scope);
}

static inline tutti_status mem_cuda_enter_stream(const struct mem_stream *stream,
                                                 struct cuda_scope *scope)
{
    return mem_cuda_enter_context(stream->device, stream->context, scope);
}

static inline cuda_address cuda_address_of(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

/* The row of the table in mem.c. */
extern const struct mem_kind mem_cuda;

#endif
