/* mem_host.c: host memory that a peer on the same host can map, and the copy between such buffers.
 *
 * The idea: an allocation is an anonymous memory file. Nothing is named, so nothing is left behind
 * when a process is killed, and a descriptor is all a peer needs. The file is sealed against
 * shrinking, so that a peer that has mapped it can never be sent SIGBUS by its owner, and its
 * pages exist before anybody sees the pointer, so that a full memory limit is an error of the
 * allocation and not a signal in the middle of a collective. They go when the owner frees it,
 * whoever has it mapped still. In a sandbox without memory files it is memory of this process
 * alone.
 *
 * Pages are as large as the kernel gives them: the mapping is aligned to 2 MiB and collapsed into
 * huge pages where the kernel knows how (Linux 6.1), otherwise advised. Failing that, only speed is
 * lost. Source: memfd_create(2), fcntl(2) "File Sealing", madvise(2). */
#include "mem/mem_host.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define HUGE_PAGE ((size_t)2 << 20)

/* The C library's headers may be older than the kernel. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Maps the file, or none (-1), at a multiple of align: reserves more than needed and gives the rest
 * back. */
static void *map_aligned(int fd, size_t bytes, size_t align)
{
    char *reserved =
        mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return MAP_FAILED;
    size_t before = (align - (uintptr_t)reserved % align) % align;
    char *base = reserved + before;
    int flags = MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    void *mapped = mmap(base, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (mapped == MAP_FAILED) {
        int error = errno;
        munmap(reserved, bytes + align);
        errno = error;
        return MAP_FAILED;
    }
    if (before > 0)
        munmap(reserved, before);
    munmap(base + bytes, align - before);
    return mapped;
}

/* Rounds up to whole pages; false if that number does not exist. */
static bool round_up(size_t bytes, size_t page, size_t *rounded)
{
    bytes = bytes == 0 ? 1 : bytes;
    if (bytes > PTRDIFF_MAX - HUGE_PAGE - page)
        return false;
    *rounded = (bytes + page - 1) / page * page;
    return true;
}

tutti_status mem_size_file(int fd, size_t bytes)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur)
        return fail(TUTTI_ERR_NOMEM,
                    "a memory file of %zu bytes is larger than this process may make any: raise "
                    "the limit of file sizes (ulimit -f), now %llu bytes",
                    bytes, (unsigned long long)limit.rlim_cur);
    if (ftruncate(fd, (off_t)bytes) != 0)
        return fail_errno(TUTTI_ERR_NOMEM, "size a memory file of %zu bytes", bytes);
    return TUTTI_OK;
}

int mem_fill_file(int fd, size_t at, size_t bytes)
{
    for (size_t end = at + bytes, n; at < end; at += n) {
        n = end - at < HUGE_PAGE ? end - at : HUGE_PAGE;
        while (fallocate(fd, 0, (off_t)at, (off_t)n) != 0) {
            if (errno != EINTR)
                return -1;
        }
    }
    return 0;
}

/* Makes the pages of a mapping as large as the kernel can, for the sake of speed alone: nothing
 * here is an error. A huge page is collapsed from a file range of which one small page exists:
 * filling the range first would cost forty times as much, because every small page is then moved.
 */
static void prefer_huge_pages(int fd, void *base, size_t bytes)
{
    size_t whole = bytes / HUGE_PAGE * HUGE_PAGE;
    (void)madvise(base, bytes, MADV_HUGEPAGE);
    if (madvise(base, 0, MADV_COLLAPSE) != 0) { /* an older kernel: its advice works on faults */
        (void)madvise(base, whole, MADV_POPULATE_WRITE);
        return;
    }
    for (size_t at = 0; at < whole; at += HUGE_PAGE) {
        if (mem_fill_file(fd, at, 1) != 0)
            return;
    }
    (void)madvise(base, whole, MADV_COLLAPSE);
}

/* Sizes the file, maps it and makes all of its pages exist. */
static tutti_status populate(int fd, size_t bytes, size_t size, size_t align, void **mapped)
{
    tutti_status status = mem_size_file(fd, size);
    if (status != TUTTI_OK)
        return status;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: seal a memory file", bytes);
    void *base = map_aligned(fd, size, align);
    if (base == MAP_FAILED)
        return fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: map a memory file", bytes);
    if (size >= HUGE_PAGE)
        prefer_huge_pages(fd, base, size);
    if (mem_fill_file(fd, 0, size) != 0) {
        status = fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: the memory is not there", bytes);
        munmap(base, size);
        return status;
    }
    *mapped = base;
    return TUTTI_OK;
}

/* The same without a file. */
static tutti_status populate_alone(size_t bytes, size_t size, size_t align, void **mapped)
{
    void *base = map_aligned(-1, size, align);
    if (base == MAP_FAILED)
        return fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: map memory", bytes);
    (void)madvise(base, size, MADV_HUGEPAGE);
    if (madvise(base, size, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) {
        tutti_status status =
            fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: the memory is not there", bytes);
        munmap(base, size);
        return status;
    }
    *mapped = base;
    return TUTTI_OK;
}

static tutti_status alloc(size_t bytes, struct mem_export *out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size;
    if (!round_up(bytes, page, &size))
        return fail(TUTTI_ERR_NOMEM, "allocate %zu bytes: more than an address space holds", bytes);
    tutti_status status = mem_host_limit(size);
    if (status != TUTTI_OK)
        return status;
    int fd = memfd_create("tutti", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 && errno != EPERM && errno != EACCES && errno != ENOSYS)
        return fail_errno(TUTTI_ERR_NOMEM, "allocate %zu bytes: make a memory file", bytes);
    size_t align = size >= HUGE_PAGE ? HUGE_PAGE : page;
    void *base;
    status = fd < 0 ? populate_alone(bytes, size, align, &base)
                    : populate(fd, bytes, size, align, &base);
    if (status == TUTTI_OK)
        *out = (struct mem_export){.fd = fd, .bytes = size, .base = base};
    else if (fd >= 0)
        close(fd);
    return status;
}

static void release(const struct mem_export *allocation)
{
    munmap(allocation->base, allocation->bytes);
    if (allocation->fd < 0)
        return;
    if (!allocation->inherited)
        (void)fallocate(allocation->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)allocation->bytes);
    close(allocation->fd);
}

/* Whatever no other kind claims is host memory; a wrong pointer is the caller's crash. */
static bool detect(const void *pointer)
{
    return true;
}

#if defined(__SSE2__)
#define STREAM_MIN ((size_t)4 << 20) /* from here on source and destination outgrow the caches */
#define ALIAS_MIN  ((size_t)2 << 10) /* from here on memcpy may use string instructions */

/* Whole cache lines, aligned at the destination; a line is read before any of it is written,
 * because the two may look alike to the CPU (see below). Streaming stores do not read the
 * destination's lines first and leave the caches to others; they are weakly ordered, hence the
 * fence. */
static inline __attribute__((always_inline)) void copy_lines(char *dst, const char *src, size_t len,
                                                             bool stream)
{
    size_t head = (64 - (uintptr_t)dst % 64) % 64;
    memcpy(dst, src, head);
    size_t end = head + (len - head) / 64 * 64;
    for (size_t at = head; at < end; at += 64) {
        const __m128i *from = (const __m128i *)(src + at);
        __m128i *to = (__m128i *)(dst + at);
        __m128i line[4];
        for (int i = 0; i < 4; i++)
            line[i] = _mm_loadu_si128(from + i);
        for (int i = 0; i < 4; i++) {
            if (stream)
                _mm_stream_si128(to + i, line[i]);
            else
                _mm_store_si128(to + i, line[i]);
        }
    }
    memcpy(dst + end, src + end, len - end);
    if (stream)
        _mm_sfence();
}

/* Where the destination follows the source by a few bytes, modulo a page, `rep movsb` (which the C
 * library uses for middle sizes) is ten times slower than anything else on recent AMD cores. */
static void copy(void *dst, const void *src, size_t len)
{
    size_t ahead = ((uintptr_t)dst - (uintptr_t)src) % 4096;
    if (len >= STREAM_MIN)
        copy_lines(dst, src, len, true);
    else if (len >= ALIAS_MIN && ahead > 0 && ahead < 64)
        copy_lines(dst, src, len, false);
    else
        memcpy(dst, src, len);
}

void mem_stream(void *dst, const void *src, size_t len)
{
    if (len >= ALIAS_MIN)
        copy_lines(dst, src, len, true);
    else
        memcpy(dst, src, len);
}
#else
static void copy(void *dst, const void *src, size_t len)
{
    memcpy(dst, src, len);
}

void mem_stream(void *dst, const void *src, size_t len)
{
    memcpy(dst, src, len);
}
#endif

const struct mem_kind mem_host = {
    .name = "host",
    .detect = detect,
    .alloc = alloc,
    .free = release,
    .copy = copy,
};
