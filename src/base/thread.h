/* thread.h: threads of the library beside the program's. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

/* As pthread_create. The thread takes no signal but of what it does itself (a fault in memory of
 * the program, which may have a handler for it): the others are the program's, whose own threads
 * may wait for them with all others' masks set. */
int thread_start(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                 void *argument);

#endif
