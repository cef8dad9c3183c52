/* test_mem.c: allocations that peers can map, the list that finds them, and the copy. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/mem.h"
#include "mem/pace.h"
#include "tests/suite.h"

#define HUGE ((size_t)2 << 20)

static bool all_are(const unsigned char *at, unsigned char value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (at[i] != value)
            return false;
    }
    return true;
}

static void test_mem_alloc_gives_zeroed_aligned_memory(void)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, HUGE - 1, HUGE, HUGE + 1, 3 * HUGE + 5};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    void *memory[COUNT];
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < COUNT; i++) {
        CU_ASSERT_EQUAL_FATAL(mem_alloc(sizes[i], &memory[i]), TUTTI_OK);
        CU_ASSERT_EQUAL((uintptr_t)memory[i] % (sizes[i] >= HUGE ? HUGE : page), 0);
        CU_ASSERT(all_are(memory[i], 0, sizes[i]));
        memset(memory[i], 1, sizes[i]);
        for (size_t j = 0; j < i; j++)
            CU_ASSERT_PTR_NOT_EQUAL(memory[i], memory[j]);
    }
    for (size_t i = 0; i < COUNT; i++)
        CU_ASSERT_EQUAL(mem_free(memory[i]), TUTTI_OK);
}

static void test_mem_alloc_refuses_what_does_not_exist(void)
{
    void *memory = &memory;
    CU_ASSERT_EQUAL(mem_alloc(SIZE_MAX, &memory), TUTTI_ERR_NOMEM);
    CU_ASSERT_EQUAL(mem_alloc((size_t)1 << 62, &memory), TUTTI_ERR_NOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "allocate 4611686018427387904 bytes"));
    /* An address space holds it, but no machine: refused before the machine is filled. */
    CU_ASSERT_EQUAL(mem_alloc((size_t)1 << 45, &memory), TUTTI_ERR_NOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "allocate 35184372088832 bytes: th"));
    CU_ASSERT(strstr(status_sentence(), " available (") || strstr(status_sentence(), " allows "));
    CU_ASSERT_PTR_EQUAL(memory, &memory); /* written only on success */
}

/* What is beyond the limit of file sizes is an error; the kernel would end the process. */
static void test_mem_alloc_keeps_to_the_limit_of_files(void)
{
    struct rlimit before, limit;
    void *least = NULL, *more = &more;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = HUGE;
    CU_ASSERT_EQUAL_FATAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CU_ASSERT_EQUAL(mem_alloc(HUGE, &least), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_alloc(HUGE + 1, &more), TUTTI_ERR_NOMEM);
    setrlimit(RLIMIT_FSIZE, &before);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "(ulimit -f), now 2097152 bytes"));
    CU_ASSERT_PTR_EQUAL(more, &more);
    CU_ASSERT_EQUAL(mem_free(least), TUTTI_OK);
}

static size_t longest_fill = SIZE_MAX; /* a call for more bytes is interrupted, always */

/* Stands in, where longest_fill says so, for a kernel whose fallocate ends with any signal: beside
 * a fast timer a long call never gets through, and a short one not always at once. */
int fallocate(int fd, int mode, off_t at, off_t len)
{
    static unsigned calls;
    if (longest_fill != SIZE_MAX && ((size_t)len > longest_fill || ++calls % 2 == 1)) {
        errno = EINTR;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

/* From now on this process reads the text there. */
static bool show(const char *file, const char *text)
{
    char made[] = "/tmp/tutti-XXXXXX";
    int fd = mkstemp(made);
    (void)umount(file); /* what was shown before */
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) &&
                mount(made, file, NULL, MS_BIND, NULL) == 0;
    close(fd);
    unlink(made);
    return good;
}

static bool put(const char *file, const char *text)
{
    FILE *made = fopen(file, "w");
    return made && fputs(text, made) >= 0 && fclose(made) == 0;
}

/* A machine with 16 GiB of memory and 8 of swap, and a group of either version that may have 1 and
 * none. */
static bool enter_group(void)
{
    bool root = geteuid() == 0;
    return unshare(CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER)) == 0 &&
           mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", "/sys/fs/cgroup", "tmpfs", 0, NULL) == 0 &&
           show("/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 16777216 kB\n"
                                 "SwapFree: 8388608 kB\n") &&
           mkdir("/sys/fs/cgroup/memory", 0755) == 0 &&
           put("/sys/fs/cgroup/memory.max", "1073741824\n") &&
           put("/sys/fs/cgroup/memory.swap.max", "0\n") &&
           put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n") &&
           put("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "1073741824\n");
}

/* Swap that the group may not use does not count. */
static void test_mem_alloc_keeps_to_the_limit_of_groups(void)
{
    enum { GOOD, BAD, CANNOT };
    static const char *const groups[] = {"0::/a/b\n", "12:cpu:/\n4:memory:/a/b\n"};
    pid_t child = fork();
    if (child == 0) {
        void *memory;
        if (!enter_group())
            _exit(CANNOT);
        for (size_t i = 0; i < 2; i++) {
            if (!show("/proc/self/cgroup", groups[i]))
                _exit(CANNOT);
            bool good = mem_alloc((size_t)3 << 29, &memory) == TUTTI_ERR_NOMEM &&
                        strstr(status_sentence(), "the control group of this process allows "
                                                  "1073741824") &&
                        mem_alloc((size_t)32 << 20, &memory) == TUTTI_OK;
            if (!good) {
                printf("%s: %s\n", groups[i], status_sentence());
                fflush(stdout);
                _exit(BAD);
            }
        }
        _exit(GOOD);
    }
    int status;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT)
        suite_skip("mounts are not allowed here");
    else
        CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == GOOD);
}

static void test_mem_alloc_is_not_ended_by_signals(void)
{
    unsigned char *memory;
    longest_fill = HUGE;
    CU_ASSERT_EQUAL_FATAL(mem_alloc(7 * HUGE + 5, (void **)&memory), TUTTI_OK);
    longest_fill = SIZE_MAX;
    CU_ASSERT(all_are(memory, 0, 7 * HUGE + 5));
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
}

static void test_mem_find_knows_every_byte_and_no_other(void)
{
    unsigned char *memory;
    void *other;
    struct mem_export found, second;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(2 * page, (void **)&memory), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(1, &other), TUTTI_OK);
    CU_ASSERT_FATAL(mem_find(memory, 2 * page, &found));
    CU_ASSERT_PTR_EQUAL(found.base, memory);
    CU_ASSERT_EQUAL(found.bytes, 2 * page);
    CU_ASSERT(mem_find(memory + 2 * page - 1, 1, &second) && second.id == found.id);
    CU_ASSERT(mem_find(memory + 5, 0, &second) && second.id == found.id);
    CU_ASSERT_FALSE(mem_find(memory + 1, 2 * page, &second));
    CU_ASSERT_FALSE(mem_find(memory + 1, SIZE_MAX, &second));
    CU_ASSERT_FALSE(mem_find(memory - 1, 2, &second));
    CU_ASSERT(mem_find(other, 1, &second) && second.id != found.id && second.fd != found.fd);
    int local;
    CU_ASSERT_FALSE(mem_find(&local, sizeof local, &second));
    CU_ASSERT_FALSE(mem_find(NULL, 1, &second));
    CU_ASSERT_EQUAL(mem_detect(memory), TUTTI_MEMORY_HOST);
    CU_ASSERT_EQUAL(mem_detect(&local), TUTTI_MEMORY_HOST);
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
    CU_ASSERT_FALSE(mem_find(memory, 1, &second));
    CU_ASSERT_EQUAL(mem_free(other), TUTTI_OK);
}

static void test_mem_free_refuses_foreign_pointers(void)
{
    unsigned char *memory;
    int local;
    uint64_t before = mem_generation();
    CU_ASSERT_EQUAL(mem_free(NULL), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_free(&local), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "not the start of an allocation"));
    CU_ASSERT_EQUAL_FATAL(mem_alloc(100, (void **)&memory), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_free(memory + 1), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(mem_generation(), before);
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_generation(), before + 1);
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(mem_generation(), before + 1);
}

static void test_mem_ids_are_never_reused(void)
{
    uint64_t last = 0;
    for (int i = 0; i < 20; i++) {
        void *memory;
        struct mem_export found;
        CU_ASSERT_EQUAL_FATAL(mem_alloc(1, &memory), TUTTI_OK);
        CU_ASSERT(mem_find(memory, 1, &found));
        CU_ASSERT(found.id > last);
        last = found.id;
        CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
    }
}

/* What a peer does with the descriptor: maps it, reads, writes, and cannot be cut off. */
static void test_mem_export_can_be_mapped_and_not_shrunk(void)
{
    static const size_t sizes[] = {10000, 2 * HUGE + 10000};
    for (size_t i = 0; i < 2; i++) {
        unsigned char *memory;
        struct mem_export found;
        struct stat file;
        CU_ASSERT_EQUAL_FATAL(mem_alloc(sizes[i], (void **)&memory), TUTTI_OK);
        CU_ASSERT_FATAL(mem_find(memory, sizes[i], &found));
        CU_ASSERT(fstat(found.fd, &file) == 0 && (size_t)file.st_size == found.bytes);
        CU_ASSERT((size_t)file.st_blocks * 512 >= found.bytes); /* every page exists */
        CU_ASSERT_NOT_EQUAL(ftruncate(found.fd, 1), 0);
        CU_ASSERT_NOT_EQUAL(ftruncate(found.fd, (off_t)found.bytes * 2), 0);
        CU_ASSERT(fcntl(found.fd, F_GETFD) & FD_CLOEXEC);
        memset(memory, 7, sizes[i]);
        unsigned char *peer =
            mmap(NULL, found.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, found.fd, 0);
        CU_ASSERT_FATAL(peer != MAP_FAILED);
        CU_ASSERT(all_are(peer, 7, sizes[i]));
        peer[sizes[i] - 1] = 8;
        CU_ASSERT_EQUAL(memory[sizes[i] - 1], 8);
        int kept = dup(found.fd);
        CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
        CU_ASSERT_NOT_EQUAL(fcntl(found.fd, F_GETFD), 0); /* closed: no descriptor is left */
        /* The peer's view outlives the owner's, but not the memory. */
        CU_ASSERT(fstat(kept, &file) == 0 && file.st_blocks == 0);
        CU_ASSERT_EQUAL(peer[sizes[i] - 1], 0);
        munmap(peer, found.bytes);
        close(kept);
    }
}

/* A sandbox that allows no memory files. */
static bool forbid_files(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void test_mem_alloc_works_without_files(void)
{
    pid_t child = fork();
    if (child == 0) {
        struct mem_export found;
        bool good = forbid_files();
        for (size_t bytes = 1; bytes < 4 * HUGE && good; bytes *= 7) {
            unsigned char *memory = NULL;
            good = mem_alloc(bytes, (void **)&memory) == TUTTI_OK && all_are(memory, 0, bytes) &&
                   (uintptr_t)memory % (bytes < HUGE ? 4096 : HUGE) == 0;
            if (good)
                memset(memory, 1, bytes);
            good = good && !mem_find(memory, bytes, &found) && mem_free(memory) == TUTTI_OK;
        }
        _exit(good ? 0 : 1);
    }
    int status;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

enum { THREADS = 4, ROUNDS = 200, HELD = 8 };

/* Each thread keeps a few allocations, marks them, finds them again and frees them. */
static void *allocate_and_free(void *argument)
{
    uint64_t state = suite_seed() + (uint64_t)(uintptr_t)argument;
    unsigned char *held[HELD] = {NULL};
    size_t sizes[HELD] = {0};
    bool *good = argument;
    for (int round = 0; round < ROUNDS; round++) {
        size_t slot = suite_random(&state) % HELD;
        struct mem_export found;
        if (held[slot]) {
            *good &= mem_find(held[slot], sizes[slot], &found) && found.base == held[slot];
            *good &= all_are(held[slot], (unsigned char)(slot + 1), sizes[slot]);
            *good &= mem_free(held[slot]) == TUTTI_OK;
        }
        sizes[slot] = suite_random(&state) % 30000;
        *good &= mem_alloc(sizes[slot], (void **)&held[slot]) == TUTTI_OK;
        memset(held[slot], (int)slot + 1, sizes[slot]);
    }
    for (size_t slot = 0; slot < HELD; slot++)
        *good &= mem_free(held[slot]) == TUTTI_OK;
    return NULL;
}

static void test_mem_serves_threads_at_once(void)
{
    pthread_t threads[THREADS];
    bool good[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        good[i] = true;
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, allocate_and_free, &good[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CU_ASSERT(good[i]);
    }
}

static void test_mem_lists_many_allocations(void)
{
    enum { COUNT = 300 };
    void *memory[COUNT];
    bool good = true;
    for (size_t i = 0; i < COUNT; i++)
        CU_ASSERT_EQUAL_FATAL(mem_alloc(1, &memory[i]), TUTTI_OK);
    for (size_t i = 0; i < COUNT; i++) {
        struct mem_export found;
        good &= mem_find(memory[i], 1, &found) && found.base == memory[i];
    }
    for (size_t i = 0; i < COUNT; i++) /* odd ones first: the middle of the list empties */
        good &= mem_free(memory[i < COUNT / 2 ? 2 * i + 1 : 2 * (i - COUNT / 2)]) == TUTTI_OK;
    CU_ASSERT(good);
}

/* The list has to grow now and then; the allocation whose turn it is then fails and leaves nothing.
 */
static void test_mem_alloc_survives_a_full_heap(void)
{
    enum { COUNT = 1100 };
    static void *memory[COUNT];
    size_t made = 0;
    void *refused = &made;
    suite_fail_allocation(1);
    while (made < COUNT && mem_alloc(1, &memory[made]) == TUTTI_OK)
        made++;
    CU_ASSERT(suite_allocation_failed());
    CU_ASSERT(made < COUNT);
    suite_fail_allocation(1);
    CU_ASSERT_EQUAL(mem_alloc(1, &refused), TUTTI_ERR_NOMEM);
    CU_ASSERT_PTR_EQUAL(refused, &made);
    suite_fail_allocation(0);
    CU_ASSERT_EQUAL(mem_alloc(1, &refused), TUTTI_OK);
    CU_ASSERT_EQUAL(mem_free(refused), TUTTI_OK);
    while (made > 0)
        CU_ASSERT_EQUAL(mem_free(memory[--made]), TUTTI_OK);
}

/* A child reads its parent's buffers, allocates and frees without touching the parent's list. */
static void test_mem_child_does_no_harm(void)
{
    unsigned char *memory;
    CU_ASSERT_EQUAL_FATAL(mem_alloc(5000, (void **)&memory), TUTTI_OK);
    memset(memory, 9, 5000);
    pid_t child = fork();
    if (child == 0) {
        void *own;
        bool good = all_are(memory, 9, 5000) && mem_alloc(100, &own) == TUTTI_OK &&
                    mem_free(own) == TUTTI_OK && mem_free(memory) == TUTTI_OK;
        _exit(good ? 0 : 1);
    }
    int status;
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CU_ASSERT(all_are(memory, 9, 5000));
    CU_ASSERT_EQUAL(mem_free(memory), TUTTI_OK);
}

/* Around every threshold of the copy, at every alignment that could matter. */
static void copies_exactly(void (*copy)(void *dst, const void *src, size_t len))
{
    static const size_t sizes[] = {0,    1,    63,    64,       65,       2047,         2048,
                                   2049, 4097, 70001, HUGE - 1, 2 * HUGE, 2 * HUGE + 77};
    static const size_t offsets[] = {0, 1, 8, 15, 16, 33, 63, 64};
    enum { SLACK = 4096 };
    size_t room = 2 * HUGE + 77 + SLACK;
    unsigned char *from = aligned_alloc(4096, 3 * HUGE), *to = aligned_alloc(4096, 3 * HUGE);
    uint64_t state = suite_seed();
    for (size_t i = 0; i < room; i++)
        from[i] = (unsigned char)suite_random(&state);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        bool good = true;
        for (size_t o = 0; o < 64; o++) {
            if (sizes[s] > 100000 && o % 9 != 0)
                continue;
            unsigned char *dst = to + 64 + offsets[o / 8], *src = from + offsets[o % 8];
            memset(to, 0xee, sizes[s] + 256);
            copy(dst, src, sizes[s]);
            good &= memcmp(dst, src, sizes[s]) == 0 && all_are(to, 0xee, (size_t)(dst - to)) &&
                    all_are(dst + sizes[s], 0xee, 100);
        }
        CU_ASSERT(good);
    }
    free(from);
    free(to);
}

static void test_mem_copy_copies_exactly(void)
{
    copies_exactly(mem_copy);
}

static void test_mem_stream_copies_exactly(void)
{
    copies_exactly(mem_stream);
}

/* A write of so many bytes that took so many ticks, or more. */
static bool paced(struct pace *pace, size_t bytes, uint64_t ticks)
{
    uint64_t begin;
    bool past = pace_begin(pace, &begin);
    pace_end(pace, past, bytes, begin - ticks);
    return past;
}

static void test_pace_goes_past_the_caches_while_they_are_slow(void)
{
    enum { LONG = 3 << 20, SLOW = (2 << 20) + 1, FAST = 0 };
    struct pace pace = {0};
    if (clock_ticks() == 0) {
        suite_skip("this processor's counter cannot be read");
        return;
    }
    CU_ASSERT_FALSE(paced(NULL, LONG, SLOW));
    for (unsigned i = 0; i < 3 * PACE_SLOW; i++) /* never so many in a row */
        CU_ASSERT_FALSE(paced(&pace, LONG, i % PACE_SLOW ? SLOW : FAST));
    CU_ASSERT_FALSE(paced(&pace, LONG, FAST));
    for (unsigned i = 0; i < 2 * PACE_SLOW; i++) /* too short to say anything */
        CU_ASSERT_FALSE(paced(&pace, PACE_TIMED - 1, SLOW));
    for (unsigned i = 0; i < PACE_SLOW; i++)
        CU_ASSERT_FALSE(paced(&pace, LONG, SLOW));
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < PACE_PAST; i++) /* which are not timed */
            CU_ASSERT_TRUE(paced(&pace, LONG, i % 2 ? SLOW : FAST));
        CU_ASSERT_FALSE(paced(&pace, LONG, round == 0 ? SLOW : FAST)); /* still so? */
    }
    CU_ASSERT_FALSE(paced(&pace, LONG, SLOW));
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(mem_alloc_gives_zeroed_aligned_memory),
        TEST(mem_alloc_refuses_what_does_not_exist),
        TEST(mem_alloc_keeps_to_the_limit_of_groups),
        TEST(mem_alloc_is_not_ended_by_signals),
        TEST(mem_alloc_keeps_to_the_limit_of_files),
        TEST(mem_find_knows_every_byte_and_no_other),
        TEST(mem_free_refuses_foreign_pointers),
        TEST(mem_ids_are_never_reused),
        TEST(mem_export_can_be_mapped_and_not_shrunk),
        TEST(mem_alloc_works_without_files),
        TEST(mem_serves_threads_at_once),
        TEST(mem_lists_many_allocations),
        TEST(mem_alloc_survives_a_full_heap),
        TEST(mem_child_does_no_harm),
        TEST(mem_copy_copies_exactly),
        TEST(mem_stream_copies_exactly),
        TEST(pace_goes_past_the_caches_while_they_are_slow),
    };
    return suite_run("mem", tests, sizeof tests / sizeof *tests, argc, argv);
}
