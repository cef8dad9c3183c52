/* mem_cuda_queue.h: a queue, for mem_cuda_queue.c, mem_cuda_lane.c and mem_cuda_slot.c, and how
 * kernels are launched. */
#ifndef MEM_MEM_CUDA_QUEUE_H
#define MEM_MEM_CUDA_QUEUE_H

#include <assert.h>

#include "mem/mem_cuda.h"

/* Words of a queue: how far its work is and may go (QUEUE_BEGUN: the attempt at a piece, or the
 * ticket of a long one); whether its streams answer. */
enum queue_word { QUEUE_DONE, QUEUE_BEGUN, QUEUE_GO, QUEUE_PROBE, QUEUE_ANSWERS };
/* Streams of a device that its queues try. Streams take the hardware's channels in turn as they are
 * made, so these are made at once, half as many more than channels. */
#define QUEUE_STREAMS (MEM_WORDS - QUEUE_ANSWERS)
/* A stream that has not answered for so long is held up, or its device busy. */
#define STREAM_ANSWERS_NS 3000000u

struct slot_kernel {
    cuda_function function;
    size_t elem_size;
};

/* What a piece of work is. Only kernels can be put elsewhere. */
struct piece {
    enum { NOTHING, COPY, FILL, KERNEL } kind;
    cuda_function function;
    struct cuda_work work; /* its dst and a are those of COPY and FILL, too */
    size_t bytes;
    const char *what;
};

struct mem_queue {
    struct mem_device *device;
    cuda_stream stream; /* in use */
    struct mem_words *words;
    cuda_event *events; /* [QUEUE_TICKETS_MAX], where streams cannot write words */
    uint64_t started;   /* the last ticket */
    uint64_t done;
    unsigned polls; /* without success */
    uint64_t seen;  /* of what moves on, when mem_queue_is_over was asked last */
    cuda_result error;
    struct mem_queue *next;

    /* Where work can be put elsewhere (mem_cuda_lane.c). */
    struct piece *pieces; /* [QUEUE_TICKETS_MAX], by ticket; NULL: it cannot */
    struct cuda_claim *claim;
    uint64_t submitted; /* the last ticket that a stream was given; QUEUE_AHEAD from done at most */
    uint64_t attempt;   /* the last */
    /* Of the first piece that is not done: */
    uint64_t head_ns, tried_ns; /* since when it is, when it was attempted last */
    unsigned tries;             /* streams tried for it */
    uint64_t retried;           /* if more than one: the first attempt in another */
    bool answered;              /* some stream did since */

    /* Where it lies in a stream of the program's (mem_cuda_slot.c). */
    struct cuda_slot *slots; /* [slot_room], pinned; NULL: it does not */
    struct slot_kernel *slot_kernels;
    size_t slot_room, slots_put, slots_used;
    uint64_t slot_base; /* tickets before the first slot */

    /* Whether a stream runs, before work is put there. */
    bool asking; /* an answer is awaited, of the device's streams[asked_at] */
    unsigned asked_at;
    uint32_t asked[QUEUE_STREAMS]; /* the question's number; the stream's word answers with it */
    uint64_t asked_ns, asked_first;
};

/* mem_cuda_queue.c */
/* Starts a piece in the stream in use, with the context entered. */
cuda_result mem_cuda_start_piece(struct mem_queue *queue, const struct piece *piece);

/* Launches a kernel of about so many bytes, with the context entered. */
cuda_result mem_cuda_launch(struct mem_device *device, cuda_function function,
                            const struct cuda_work *work, size_t bytes, cuda_stream stream);
/* The same of one block, with no more threads than have something to do. */
cuda_result mem_cuda_launch_block(struct mem_device *device, cuda_function function,
                                  const struct cuda_work *work, size_t bytes, cuda_stream stream);
/* The device failed the queue, which is of no use from now on. */
tutti_status mem_cuda_queue_failed(struct mem_queue *queue, cuda_result result, const char *what);

/* mem_cuda_slot.c */
void mem_cuda_slots_start(struct mem_queue *queue, const struct piece *piece, uint64_t *ticket);
void mem_cuda_slots_give(struct mem_queue *queue);

/* mem_cuda_lane.c */
/* Lets a new queue's work be put elsewhere. */
tutti_status mem_cuda_make_movable(struct mem_queue *queue);
/* Gives the stream the next piece if it has none, looks how far it is, puts it elsewhere. */
tutti_status mem_cuda_tend(struct mem_queue *queue);
/* Whether the streams have done all that they were given; what they were not is dropped. */
bool mem_cuda_is_over(struct mem_queue *queue);
/* Of the first piece that is not done: has it begun, and has it been that for QUEUE_CLEAR_MS? */
bool mem_cuda_has_begun(const struct mem_queue *queue);
bool mem_cuda_is_late(const struct mem_queue *queue);

#endif
