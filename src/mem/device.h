/* device.h: memory that a device owns, and the order of its streams.
 *
 * Three services, all of them rows of one driver (mem_cuda*.c), which is loaded at run time and
 * never linked: where a pointer lies; queues, which copy and reduce device memory asynchronously
 * and in order; and the program's own streams, which signal the CPU and wait for it through words
 * of pinned memory. Nobody above this file knows what kind of device it is.
 *
 *      program's stream   ... kernel | copy out | signal word | wait word | copy back | kernel ...
 *                                                     |             ^
 *      CPU                                            v             |
 *                                         sees it, runs the collective, answers
 *
 * While a stream waits, some calls of a driver block until it goes on (freeing, loading code), and
 * whoever they block may be the one that should answer. So nothing here is given back to the driver
 * while the process runs: devices, queues, words and blocks of memory are kept and used again, and
 * everything that loads code does so when a device is first opened.
 *
 * Threads: every function may be called from any thread, except that one queue is used by one
 * thread at a time. No function waits for the device, unless its comment says so. */
#ifndef MEM_DEVICE_H
#define MEM_DEVICE_H

#include "base/status.h"
#include "mem/reduce.h"

/* One context of one device; lives as long as the process. */
struct mem_device;

/* ---- where a pointer lies ---- */

struct mem_place {
    struct mem_device *device; /* NULL: host memory, of whatever kind, that the CPU may touch */
    void *base;                /* the allocation that holds the pointer, and its size */
    size_t bytes;
    uint64_t buffer; /* names the allocation; never used twice in the life of the process */
    bool shareable;  /* other processes can map it (mem_can_share), and other devices reach it */
};

/* Whether this process is known to have a driver loaded. While it has none, no pointer is a
 * device's and the answer costs one load. Loads nothing itself. */
bool mem_device_present(void);
/* Takes note of a driver that the program has loaded since: to be called before the pointer is
 * judged (NULL: before any is). Until there is a driver it costs 15 ns for a page that the thread
 * has not asked for lately: none that was host memory before the driver came becomes a device's. */
void mem_device_notice(const void *pointer);
/* Whether the program uses a device in which queues run beside streams that wait: a driver is
 * loaded, by whomever, and a context is current in the calling thread, or else one device's primary
 * context is active; *device is that. Loads and
 * initialises nothing; too dear for every call, cheap enough for every communicator. */
bool mem_device_in_use(struct mem_device **device);
/* Whether a context is current in the calling thread. Loads and initialises nothing. */
bool mem_device_is_current(void);
/* Loads the driver if the machine has one (once) and opens the context that is current in the
 * calling thread, else the first device's own. TUTTI_ERR_UNSUPPORTED with the reason. */
tutti_status mem_device_open(struct mem_device **device);
/* Where the pointer lies. Costs about 0.1 us when a driver is present. A pointer that no driver
 * knows is host memory. Errors TUTTI_ERR_SYSTEM: the driver failed, and the CPU cannot read it;
 * TUTTI_ERR_ARG: the driver does not know it, nor can the CPU read it. */
tutti_status mem_device_of(const void *pointer, struct mem_place *place);
/* Why this device memory is refused: it is of a driver that the program has loaded and the library
 * may not use (TUTTI_CUDA=0), or cannot (it is too old, or another than TUTTI_CUDA_DRIVER names).
 * NULL: it is no such memory. Where there is no such driver the answer costs one load. */
const char *mem_device_refused(const void *pointer);
/* Asks the driver whether the device works. TUTTI_ERR_SYSTEM with its words: it failed. About 1 us.
 */
tutti_status mem_device_check(struct mem_device *device);
/* "GPU 0 (NVIDIA H100 80GB HBM3)", for sentences. */
const char *mem_device_name(const struct mem_device *device);
/* 16 bytes equal for all processes that see the same physical device. */
const uint8_t *mem_device_uuid(const struct mem_device *device);
/* Whether queues of this device reduce; not in a build without its kernels. */
bool mem_device_reduces(const struct mem_device *device);

/* ---- memory ---- */

/* A block of device memory that other processes can map, of at least the given size; from the kept
 * ones if one fits. give: keeps it for the next. Errors TUTTI_ERR_NOMEM. */
tutti_status mem_device_take(struct mem_device *device, size_t bytes, void **block);
void mem_device_give(struct mem_device *device, void *block);
/* The same for host memory that the device reads and writes by itself (pinned) and that peers on
 * this host can read in place (mem_alloc's). */
tutti_status mem_pinned_take(struct mem_device *device, size_t bytes, void **block);
void mem_pinned_give(struct mem_device *device, void *block);

/* ---- queues ---- */

/* Work in one device, done in the order given. At most QUEUE_TICKETS_MAX pieces are under way; the
 * caller asks mem_queue_poll before it starts more. */
struct mem_queue;
#define QUEUE_TICKETS_MAX 1024
/* Of these a device with kernels is given so many at once. */
#define QUEUE_AHEAD 4

/* take: a queue of its own for the caller, from the kept ones if there is one. give: keeps it for
 * the next; what is under way in it ends first, and what has not begun may not begin at all. */
tutti_status mem_queue_take(struct mem_device *device, struct mem_queue **queue);
void mem_queue_give(struct mem_queue *queue);
struct mem_device *mem_queue_device(const struct mem_queue *queue);

/* Streams share a few channels of the hardware (8 unless CUDA_DEVICE_MAX_CONNECTIONS says
 * otherwise), and a stream that waits holds up whatever its channel is given later, the library's
 * work too, which may be just what should end the wait. Waits come at any time, also where nobody
 * sees them (graphs; streams behind others that wait). So work that does not begin is given to
 * other streams as well, and done once (mem_cuda_lane.c): a queue's work ends as long as some
 * channel is not held, whatever waits when. Its owner polls, or nothing moves. Where all channels
 * are held, mem_queue_poll says TUTTI_ERR_TIMEOUT with what to do after QUEUE_CLEAR_MS.
 *
 * Without kernels or memory operations work stays in one stream. mem_queue_clear then says whether
 * work that is started next will run, but not what comes after; it is to be asked while nothing is
 * under way in the queue: looks whether the stream runs, and moves on to another if it does not.
 * TUTTI_IN_PROGRESS: ask again. TUTTI_ERR_TIMEOUT as above. Where work can be given again it is
 * always TUTTI_OK. */
#define QUEUE_CLEAR_MS 10000
tutti_status mem_queue_clear(struct mem_queue *queue);

/* Each starts one piece of work and gives its ticket; tickets of a queue grow by one.
 * copy: any mix of device memory (this device's, another's, a peer's that is attached) and pinned
 * host memory.
 * reduce: dst[i] = a[i] op b[i], all device memory; dst may be a or b exactly. A user's function is
 * TUTTI_ERR_UNSUPPORTED (it runs on the CPU only). The same bits as reduce_apply.
 * scale, divide: as reduce_scale and reduce_divide; scalar is host memory, read before return. */
tutti_status mem_queue_copy(struct mem_queue *queue, void *dst, const void *src, size_t len,
                            uint64_t *ticket);
tutti_status mem_queue_reduce(struct mem_queue *queue, const struct reducer *reducer, tutti_op op,
                              void *dst, const void *a, const void *b, size_t bytes,
                              uint64_t *ticket);
tutti_status mem_queue_scale(struct mem_queue *queue, tutti_dtype dtype, void *dst, const void *src,
                             const void *scalar, size_t count, uint64_t *ticket);
tutti_status mem_queue_divide(struct mem_queue *queue, tutti_dtype dtype, void *dst, uint32_t ranks,
                              size_t count, uint64_t *ticket);
/* The last ticket whose work, and that of all before it, is done (0: none yet): *done. Not OK when
 * the device failed: TUTTI_ERR_SYSTEM with its words, for this and every later call. */
tutti_status mem_queue_poll(struct mem_queue *queue, uint64_t *done);
/* Whether the device works on nothing of it any more, also where mem_queue_poll has failed. What it
 * was not given yet is dropped. *waits, where it is not: as far as is known the device has begun
 * with nothing since this was asked last, and is not just busy (for QUEUE_CLEAR_MS at most). */
bool mem_queue_is_over(struct mem_queue *queue, bool *waits);

/* ---- memory of peers on this host ---- */

/* What another process needs to map an allocation. Travels as bytes. */
struct mem_share {
    uint8_t device[16]; /* mem_device_uuid */
    uint8_t handle[64]; /* the driver's */
    uint64_t process;   /* of the owner: a random number per process, for a peer that is a thread */
    uint64_t buffer;    /* mem_place.buffer */
    uint64_t base;      /* the allocation's address in the owner; 0 of mem_share_here: memory of */
    uint64_t bytes;     /* its size                one process is where it is, whatever its parts */
};

/* Whether other processes can map the place: it is shareable, and was not allocated over memory
 * that they may still map although it was freed. */
bool mem_can_share(const struct mem_place *place);
/* TUTTI_ERR_UNSUPPORTED when they cannot. */
tutti_status mem_share(const struct mem_place *place, struct mem_share *share);
/* The same for peers that are threads of this process, with no word to the driver: of memory of any
 * kind for those that use the same device. Another process cannot attach it. */
void mem_share_here(const struct mem_place *place, struct mem_share *share);
/* The address at which this process sees the allocation: maps it, or finds it mapped already. For
 * the process's own memory it is share->base. Attachments are kept until mem_detach or ATTACHED_MAX
 * are, then the least recently used is dropped. Errors TUTTI_ERR_SYSTEM, TUTTI_ERR_PROTOCOL when
 * the size is not what the share says. */
#define ATTACHED_MAX 1024
tutti_status mem_attach(struct mem_device *device, const struct mem_share *share, void **base);
/* How a device works in the memory of another: not at all; over the bus; over links between GPUs;
 * it is the same. */
enum mem_reach { MEM_REACH_NONE, MEM_REACH_BUS, MEM_REACH_LINK, MEM_REACH_SAME };
/* Names a block that is kept so that peers find out how they work in this device's memory. */
void mem_device_sample(const struct mem_device *device, struct mem_share *sample);
/* How this device works in the memory of the sample's. The first time what that one has (the
 * shareable, also of later) is opened to the device, which may wait for the streams of both: by
 * mapping the sample where it is another process's, and that mapping is the last to be dropped. The
 * driver allows a device so many others only, and on some platforms, or where process ids differ
 * (PID namespaces), the memory of other processes is out of reach. Two contexts of one GPU are two
 * devices. */
enum mem_reach mem_device_reach(struct mem_device *device, const struct mem_share *sample);
/* Gives back all mappings, also those that were dropped: their owners cannot have that memory back
 * before. Waits for all that the devices were given, and holds up most other calls of the driver
 * meanwhile: only where no stream of this process waits for the library nor can begin to. */
void mem_detach(void);

/* ---- network adapters ---- */

/* To be asked before adapters read or write an allocation of the program's (mem.h has the rest):
 * from then on the driver ends its synchronous copies of it before they return. Waits for those
 * that are under way, so not where a stream may wait for the caller. TUTTI_ERR_UNSUPPORTED. */
tutti_status mem_nic_settle(const struct mem_place *place);

/* ---- the program's streams ---- */

/* Words of pinned memory that the CPU and streams both read and write, one cache line. */
#define MEM_WORDS 16
struct mem_words {
    _Atomic uint32_t *word; /* [MEM_WORDS] as the CPU sees them; zero when taken first */
    uint64_t address;       /* as streams see them */
    uint32_t value;         /* the caller's: survives give and take, for values that only grow */
};
/* give: only when no stream will touch them any more. */
tutti_status mem_words_take(struct mem_device *device, struct mem_words **words);
void mem_words_give(struct mem_device *device, struct mem_words *words);

struct mem_stream {
    struct mem_device *device;
    void *context;    /* the driver's, in which the handle names it: the device's, or green */
    void *handle;     /* the driver's; NULL: the legacy default stream */
    uint64_t capture; /* names the capture in progress, 0: none */
    uint64_t thread;  /* names the thread whose default stream it is; 0: the handle says it all */
};
/* Whether both are one stream of the device: one handle may be another stream in each thread. */
bool mem_stream_is_same(const struct mem_stream *a, const struct mem_stream *b);

/* Whether the handle is that of the legacy default stream of a device, whose work and that of
 * ordinary streams wait for each other in the order they were given. */
bool mem_stream_is_legacy(const void *handle);
/* What there is to know of a stream of the program. of: the device of which a default stream's
 * handle (NULL) names a stream; NULL: that of the context current in this thread. Where a green
 * context of the device is current, it is that one's default stream.
 * Errors TUTTI_ERR_ARG: not a stream, or one whose capture was invalidated;
 * TUTTI_ERR_UNSUPPORTED: no driver here. */
tutti_status mem_stream_open(void *handle, struct mem_device *of, struct mem_stream *stream);
/* Each puts one action into the stream, captured ones too.
 * signal: word = value when the stream gets there, after everything before is visible to the CPU.
 * wait: holds the stream until (int32_t)(word - value) >= 0.
 * copy: len bytes between device memory and pinned or device memory. */
tutti_status mem_stream_signal(const struct mem_stream *stream, const struct mem_words *words,
                               unsigned index, uint32_t value);
tutti_status mem_stream_wait(const struct mem_stream *stream, const struct mem_words *words,
                             unsigned index, uint32_t value);
tutti_status mem_stream_copy(const struct mem_stream *stream, void *dst, const void *src,
                             size_t len);
/* As a copy, and as a copy and a signal, of so few bytes that to start a copy engine may take
 * longer than they do: by a kernel of one block, where the device has kernels. */
tutti_status mem_stream_copy_short(const struct mem_stream *stream, void *dst, const void *src,
                                   size_t len);
tutti_status mem_stream_copy_signal(const struct mem_stream *stream, void *dst, const void *src,
                                    size_t len, const struct mem_words *words, unsigned index,
                                    uint32_t value);
/* As mem_queue_scale and mem_queue_divide. */
tutti_status mem_stream_scale(const struct mem_stream *stream, tutti_dtype dtype, void *dst,
                              const void *src, const void *scalar, size_t count);
tutti_status mem_stream_divide(const struct mem_stream *stream, tutti_dtype dtype, void *dst,
                               uint32_t ranks, size_t count);
/* What is put into `second` from now on comes after all that is in `first` now, as the driver
 * knows, too: words order streams without its knowledge, and it may run two streams of one graph
 * one after the other. Both are captured into one graph, or neither is captured. */
tutti_status mem_stream_order(const struct mem_stream *first, const struct mem_stream *second);
/* While the stream is being captured: gone(context) is called, from a thread of the driver that may
 * not call it, when the graph and all its executables are destroyed. */
tutti_status mem_stream_retain(const struct mem_stream *stream, void (*gone)(void *context),
                               void *context);

/* Between these no other thread that uses them puts anything into a stream of the device. */
void mem_device_lock_streams(struct mem_device *device);
void mem_device_unlock_streams(struct mem_device *device);

/* ---- work in a stream of the program's ---- */

/* A queue of another sort: its work lies in a stream of the program's, where there are slots for it
 * beforehand, and to start it calls no driver. Slots are used in their order; one that does not fit
 * what is started is passed over. mem_queue_copy and mem_queue_reduce then take pinned and device
 * memory as they do elsewhere; the caller must not start more than it put slots for. */
struct slot_work {
    bool reduces; /* by op, for dtype, and then also copies of whole elements; else copies */
    tutti_op op;
    tutti_dtype dtype;
    size_t count; /* of slots */
    size_t bytes; /* of a piece, about: more is done by no more threads */
};
/* take: for count slots in all. TUTTI_ERR_UNSUPPORTED without kernels or memory operations.
 * mem_queue_give gives it back when the stream is past all slots, or mem_slots_put was never
 * called. */
tutti_status mem_slots_take(struct mem_device *device, size_t count, struct mem_queue **queue);
tutti_status mem_slots_put(struct mem_queue *queue, const struct mem_stream *stream,
                           const struct slot_work *what);
/* Nothing more will be started: the stream goes on past what is left. */
void mem_slots_skip(struct mem_queue *queue);
/* The same of all that was put, also of what was passed once: for replays beside one another. */
void mem_slots_skip_all(struct mem_queue *queue);
/* The stream is past all slots. */
bool mem_slots_passed(const struct mem_queue *queue);
/* For slots that are captured. put_reset: put behind the operation's end. rewind: when a replay has
 * come to the operation, before its first work. */
tutti_status mem_slots_put_reset(struct mem_queue *queue, const struct mem_stream *stream);
void mem_slots_rewind(struct mem_queue *queue);

#endif
