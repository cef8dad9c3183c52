/* cuda_suite.h: what the parts of the suite test_cuda share: the driver, the device under test, and
 * small tools. Parts: test_cuda.c (places, queues, kernels, memory), cuda_streams.c (streams,
 * captures, peers), cuda_lanes.c (work beside streams that wait), cuda_modes.c (other drivers and
 * settings). */
#ifndef TESTS_CUDA_SUITE_H
#define TESTS_CUDA_SUITE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/clock.h"
#include "mem/device.h"
#include "mem/mem.h"
#include "tests/gpu.h"
#include "tests/suite.h"

extern const struct gpu *gpu;
extern struct mem_device *device; /* of the context current in the first thread */
extern uint64_t random_state;

/* This program anew, in another mode (its first argument), with standard input on fd if that is
 * not negative; and whether it ended with status 0. */
pid_t run_self(const char *mode, int fd);
bool ended_well(pid_t child);
/* Modes that end the process before any test: true if mode is one, and *status its result. */
bool run_mode(const char *mode, int *status);
int peer_main(void);

void test_cuda_streams_signal_and_wait(void);
void test_cuda_streams_copy_short_by_kernels(void);
void test_cuda_waits_compare_in_a_circle(void);
void test_cuda_words_given_back_keep_their_values(void);
void test_cuda_works_beside_waiting_streams(void);
void test_cuda_work_gets_past_streams_that_wait(void);
void test_cuda_work_keeps_its_order_past_streams_that_wait(void);
void test_cuda_copies_of_any_memory_get_past_streams_that_wait(void);
void test_cuda_work_is_given_ahead(void);
void test_cuda_queues_are_kept_when_their_work_is_over(void);
void test_cuda_memory_that_may_become_zero_is_kept(void);
void test_cuda_slots_do_work_in_their_stream(void);
void test_cuda_slots_are_replayed(void);
void test_cuda_slots_are_emptied_in_place(void);
void test_cuda_opens_streams(void);
void test_cuda_captures_and_replays(void);
void test_cuda_refuses_broken_captures(void);
void test_cuda_drivers_refuse_what_they_must(void);
void test_cuda_maps_memory_of_peers(void);
void test_cuda_shares_its_own_blocks(void);
void test_cuda_exports_dma_bufs(void);
void test_cuda_admits_adapters(void);
void test_cuda_copies_for_transports(void);
void test_cuda_meets_other_drivers_and_settings(void);
void test_cuda_works_with_host_functions(void);
void test_cuda_works_with_delays(void);
void test_cuda_works_without_host_pointers(void);

/* ---- tools ---------------------------------------------------------------------------------- */

static inline uint64_t random_bits(void)
{
    return suite_random(&random_state);
}

static inline void fill(void *at, size_t len)
{
    unsigned char *bytes = at;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char)random_bits();
}

static inline unsigned char *address(cuda_address memory)
{
    return (unsigned char *)(uintptr_t)memory;
}

/* Also for processes that run no suite. */
static inline unsigned char *gpu_alloc(size_t bytes)
{
    cuda_address memory = 0;
    if (gpu->alloc(&memory, bytes) != CUDA_DRIVER_OK)
        abort();
    return address(memory);
}

static inline void gpu_free(void *memory)
{
    CU_ASSERT_EQUAL(gpu->free((cuda_address)(uintptr_t)memory), CUDA_DRIVER_OK);
}

/* From pageable memory: the driver returns while the last of it may still be on its way. */
static inline void upload(void *dst, const void *src, size_t bytes)
{
    CU_ASSERT_EQUAL(gpu->upload((cuda_address)(uintptr_t)dst, src, bytes), CUDA_DRIVER_OK);
    CU_ASSERT_EQUAL(gpu->stream_synchronize(NULL), CUDA_DRIVER_OK);
}

static inline void download(void *dst, const void *src, size_t bytes)
{
    CU_ASSERT_EQUAL(gpu->download(dst, (cuda_address)(uintptr_t)src, bytes), CUDA_DRIVER_OK);
}

static inline cuda_address cuda_pointer(const void *pointer)
{
    return (cuda_address)(uintptr_t)pointer;
}

static inline void await(struct mem_queue *queue, uint64_t ticket)
{
    uint64_t done = 0, limit_ns = clock_ns() + 20000000000u;
    while (done < ticket) {
        CU_ASSERT_EQUAL_FATAL(mem_queue_poll(queue, &done), TUTTI_OK);
        CU_ASSERT_FATAL(clock_ns() < limit_ns);
    }
}

static inline bool await_word(const struct mem_words *words, unsigned index, uint32_t value,
                              uint32_t limit_ms)
{
    uint64_t limit_ns = clock_ns() + 1000000ull * limit_ms;
    while ((int32_t)(atomic_load_explicit(&words->word[index], memory_order_acquire) - value) < 0) {
        if (clock_ns() > limit_ns)
            return false;
    }
    return true;
}

static inline struct mem_queue *take_queue(void)
{
    struct mem_queue *queue = NULL;
    CU_ASSERT_EQUAL_FATAL(mem_queue_take(device, &queue), TUTTI_OK);
    return queue;
}

static inline cuda_stream make_stream(unsigned flags)
{
    cuda_stream stream = NULL;
    CU_ASSERT_EQUAL_FATAL(gpu->stream_make(&stream, flags), CUDA_DRIVER_OK);
    return stream;
}

static inline struct mem_stream open_stream(void *handle)
{
    struct mem_stream stream = {.device = NULL};
    CU_ASSERT_EQUAL_FATAL(mem_stream_open(handle, NULL, &stream), TUTTI_OK);
    return stream;
}

static inline struct mem_words *take_words(void)
{
    struct mem_words *words = NULL;
    CU_ASSERT_EQUAL_FATAL(mem_words_take(device, &words), TUTTI_OK);
    return words;
}

static inline void answer(const struct mem_words *words, unsigned index, uint32_t value)
{
    atomic_store_explicit(&words->word[index], value, memory_order_release);
}

enum kind { DEVICE, PINNED, PAGEABLE, KINDS };

struct buffer {
    enum kind kind;
    size_t bytes;
    unsigned char *at;
};

static inline struct buffer make_buffer(enum kind kind, size_t bytes)
{
    struct buffer buffer = {.kind = kind, .bytes = bytes};
    void *memory = NULL;
    if (kind == DEVICE)
        CU_ASSERT_EQUAL_FATAL(mem_device_take(device, bytes, &memory), TUTTI_OK);
    if (kind == PINNED)
        CU_ASSERT_EQUAL_FATAL(mem_pinned_take(device, bytes, &memory), TUTTI_OK);
    if (kind == PAGEABLE)
        memory = malloc(bytes);
    CU_ASSERT_PTR_NOT_NULL_FATAL(memory);
    buffer.at = memory;
    return buffer;
}

static inline void drop_buffer(struct buffer buffer)
{
    if (buffer.kind == DEVICE)
        mem_device_give(device, buffer.at);
    else if (buffer.kind == PINNED)
        mem_pinned_give(device, buffer.at);
    else
        free(buffer.at);
}

#endif
