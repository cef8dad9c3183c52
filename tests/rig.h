/* rig.h: what tests of streams need of a GPU, over the driver of gpu.h: device memory with
 * patterns, streams, gates that hold a stream until the test opens them, and worlds of ranks that
 * use one GPU.
 *
 * A driver does not survive a fork, so every world runs in processes of its own, and the test
 * program itself never touches the driver. Memory and streams are pooled and never given back to
 * the driver: freeing waits for every stream of the context, also for one that waits for the rank
 * that frees. */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "tests/gpu.h"
#include "tests/testcase.h"
#include "tests/world.h"

/* Whether the driver of the tests has a GPU; says why not as a skip. */
bool rig_is_there(void);
/* True over the stand-in: faults of the driver can be had. */
bool rig_is_standin(void);
/* The number of GPUs, as the environment is now. */
int rig_count(void);
/* Whether the driver makes green contexts, and tells of which stream's they are. */
bool rig_has_greens(void);

/* Runs the function as every rank, each with the first GPU's context current; counts like
 * world_run. Threads share a process that nothing else shares. limit_s 0: 60. */
int rig_run(const struct world *world, world_fn *function, void *context);

/* ---- in a rank ---- */

const struct gpu *rig_gpu(void);
/* Makes the primary context of a GPU current in this thread; what follows is of that GPU. */
void rig_enter(int ordinal);
/* A green context of this thread's GPU, with a quarter of its multiprocessors. NULL: there are
 * none. Such contexts are kept as long as the process lives. */
void *rig_green_make(void);
/* Makes one current in this thread. */
void rig_green_enter(void);

/* Device memory of at least that size. Fatal when there is none. */
void *rig_take(size_t bytes);
void rig_give(void *memory);
/* int32: element i is first + i. */
void rig_set_ints(void *device, size_t count, int first);
/* Element i must be base + step * i; returns what is wrong. */
int rig_wrong_ints(int rank, const void *device, size_t count, int base, int step,
                   const char *what);
/* Copies and waits for the copy, on a stream of this thread's own. */
void rig_copy(void *dst, const void *src, size_t bytes);
/* Fills device memory and waits. */
void rig_fill(void *dst, unsigned char value, size_t bytes);

/* A stream from the pool; blocking ones keep the order of the legacy default stream. */
cuda_stream rig_stream_take(bool blocking);
void rig_stream_give(cuda_stream stream, bool blocking);
/* Waits for all work in the stream; 1 and a complaint after limit_s seconds, else 0. */
int rig_await(int rank, cuda_stream stream, unsigned limit_s);
bool rig_is_done(cuda_stream stream);
/* Each puts one action into the stream. */
void rig_put_copy(cuda_stream stream, void *dst, const void *src, size_t bytes);
void rig_put_fill(cuda_stream stream, void *dst, unsigned char value, size_t bytes);
void rig_put_delay(cuda_stream stream, unsigned us);
/* After, in `second`, everything that is in `first` now. */
void rig_put_order(cuda_stream first, cuda_stream second);

/* A gate holds the streams it is put into from then on until it is opened; then it is closed for
 * what it is put into next. */
#define RIG_GATES_MAX 64
void rig_gate_put(unsigned gate, cuda_stream stream);
void rig_gate_open(unsigned gate);

/* ---- graphs ---- */

void rig_capture_begin(cuda_stream stream);
/* The executable of what was captured; the graph itself is destroyed. NULL: it was invalidated. */
void *rig_capture_end(cuda_stream stream);
void rig_graph_launch(void *executable, cuda_stream stream);
void rig_graph_destroy(void *executable);

/* ---- a call on device memory, with what surrounds it ---- */

/* Buffers hold garbage until the stream copies the input in; what follows the call in the stream
 * copies the output out. So a call that runs early, or is overtaken, gives a wrong result. */
struct rig_job {
    struct testcase c;
    tutti_comm *comm;
    int rank, size, number;
    bool on_host;
    size_t in_bytes, out_bytes, in_block, out_block, in_at, out_at;
    char *in, *out;        /* blocks with guards; one in place */
    char *source, *result; /* of the size of in and out */
    char *mirror;          /* host memory: what source was filled with */
};

/* The case must be complete. Memory is taken from the rig's pool. */
void rig_job_make(struct rig_job *job, int number, tutti_comm *comm, int rank, int size);
/* The three parts: before and after go into the stream; call makes the case's call, and waits for
 * the stream first unless the form is ON_STREAM. */
void rig_job_before(struct rig_job *job, cuda_stream stream);
tutti_status rig_job_call(struct rig_job *job, cuda_stream stream);
void rig_job_after(struct rig_job *job, cuda_stream stream);
/* All three; returns what is wrong. */
int rig_job_put(struct rig_job *job, cuda_stream stream);
/* Once the stream has passed: compares, frees, returns what is wrong. */
int rig_job_check(struct rig_job *job);
/* Frees without a look. */
void rig_job_drop(struct rig_job *job);

#endif
