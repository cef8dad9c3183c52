/* lock.c: see lock.h. The handler that fork runs in the child makes all locks that were ever taken
 * new. Invariant: a lock is in the table before it is taken for the first time; entries are only
 * added, without a lock, so that a fork finds them whole. */
#include "base/lock.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

#include "base/check.h"

static _Atomic(struct lock *) locks[LOCKS_MAX];
static pthread_once_t locks_once = PTHREAD_ONCE_INIT;

static void child_of_fork(void)
{
    for (int i = 0; i < LOCKS_MAX; i++) {
        struct lock *lock = atomic_load(&locks[i]);
        if (lock)
            pthread_mutex_init(&lock->mutex, NULL);
    }
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, child_of_fork);
}

static void list(struct lock *lock)
{
    pthread_once(&locks_once, watch_forks);
    for (int i = 0; i < LOCKS_MAX; i++) {
        struct lock *other = NULL;
        if (atomic_compare_exchange_strong(&locks[i], &other, lock) || other == lock) {
            atomic_store(&lock->listed, true);
            return;
        }
    }
    must(!"LOCKS_MAX is as many as there are");
}

void lock_take(struct lock *lock)
{
    if (!atomic_load_explicit(&lock->listed, memory_order_acquire))
        list(lock);
    pthread_mutex_lock(&lock->mutex);
}

void lock_leave(struct lock *lock)
{
    pthread_mutex_unlock(&lock->mutex);
}

void lock_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

bool lock_wait_until(struct lock *lock, pthread_cond_t *condition, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(condition, &lock->mutex, &until) != ETIMEDOUT;
}
