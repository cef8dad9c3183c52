/* lock.h: locks of the process, which outlive every call. Another thread may hold one while this
 * one forks; the child has no such thread, and finds the lock free. So what it guards must be good
 * at every moment: complete, or begun anew. */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LOCKS_MAX 16 /* each is a line of the source */

struct lock {
    pthread_mutex_t mutex;
    atomic_bool listed; /* for the child */
};
#define LOCK_INIT                                                                                  \
    {                                                                                              \
        .mutex = PTHREAD_MUTEX_INITIALIZER                                                         \
    }

void lock_take(struct lock *lock);
void lock_leave(struct lock *lock);

/* Conditions whose waits end by the monotonic clock: one that is initialized otherwise goes by the
 * wall clock, which is set forward and back.
 * lock_wait_until: the lock is taken. False when it is until_ns of clock_ns(), true when the
 * condition was signalled, or seems so. */
void lock_condition_init(pthread_cond_t *condition);
bool lock_wait_until(struct lock *lock, pthread_cond_t *condition, uint64_t until_ns);

#endif
