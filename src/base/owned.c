/* owned.c: descriptors that a child of fork gives up.
 * The idea: one bit per descriptor number, set while it is ours. The handler that fork runs in the
 * child closes what is set: it may not allocate, nor take a lock that a thread it does not have
 * might hold, and here it need not. The parent's own copies, and what epoll knows of them, stay.
 * Invariant: a bit is set after its descriptor is made and cleared before it is closed, so that
 * it never speaks of a number that somebody else was given. (A fork in between leaves one copy
 * in the child: the shared-memory transport watches processes too, and the others have their
 * timeouts.) */
#include "base/owned.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

static _Atomic uint64_t owned_bits[OWNED_MAX / 64];
static atomic_int owned_words; /* words in use: the handler looks no further */
static pthread_once_t owned_once = PTHREAD_ONCE_INIT;

static void give_up_all(void)
{
    int words = atomic_load(&owned_words);
    for (int i = 0; i < words; i++) {
        uint64_t bits = atomic_exchange(&owned_bits[i], 0);
        for (; bits; bits &= bits - 1)
            close(i * 64 + __builtin_ctzll(bits));
    }
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, give_up_all);
}

int owned_add(int fd)
{
    if (fd < 0 || fd >= OWNED_MAX)
        return fd;
    pthread_once(&owned_once, watch_forks);
    int words = atomic_load(&owned_words);
    while (words <= fd / 64 && !atomic_compare_exchange_weak(&owned_words, &words, fd / 64 + 1))
        ;
    atomic_fetch_or(&owned_bits[fd / 64], (uint64_t)1 << fd % 64);
    return fd;
}

static bool take_bit(int fd)
{
    uint64_t bit = (uint64_t)1 << fd % 64;
    return fd >= OWNED_MAX || (atomic_fetch_and(&owned_bits[fd / 64], ~bit) & bit);
}

void owned_forget(int fd)
{
    if (fd >= 0)
        (void)take_bit(fd);
}

void owned_close(int fd)
{
    if (fd >= 0 && take_bit(fd))
        close(fd);
}
