/* test_nccl_job.c: calls of the NCCL face that wait for other ranks: threads that cannot be made.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/nccl_world.h"

/* ---- threads that cannot be made --------------------------------------------------------------
 */

/* The library's calls come here too. Counts down to the one of this thread that fails; 0: none. */
static _Thread_local int until_failure;

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread,
                                                          const pthread_attr_t *attributes,
                                                          void *(*function)(void *), void *argument)
{
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    void *found = dlsym(RTLD_NEXT, "pthread_create");
    memcpy(&create, &found, sizeof create);
    if (until_failure > 0 && --until_failure == 0)
        return EAGAIN;
    return create(thread, attributes, function, argument);
}

/* Whichever of the ranks gets no thread, those that have one do not wait for it. */
static int lacking(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comms[4];
    int wrong = 0;
    (void)native;
    (void)size;
    (void)context;
    for (int failing = 1; failing <= 3; failing++) {
        until_failure = failing;
        wrong += TAKEN(ncclCommInitAll(comms, 4, NULL), ncclSystemError);
        wrong += nccl_world_says(rank, "no thread for a call that waits for other ranks");
        for (int i = 0; i < 4; i++)
            wrong += world_check(rank, comms[i] == NULL, "a handle of what was not made");
    }
    wrong += world_check(rank, until_failure == 0, "no thread was refused");
    wrong += OK(ncclCommInitAll(comms, 4, NULL));
    for (int i = 0; i < 4; i++)
        wrong += OK(ncclCommDestroy(comms[i]));
    return wrong;
}

static void test_nccl_job_lacks_a_thread(void)
{
    static const char *const settings[] = {"TUTTI_MEET_TIMEOUT_MS=10000", NULL};
    nccl_world_run(WORLD_PROCESSES, 1, settings, lacking, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"lacks_a_thread", test_nccl_job_lacks_a_thread},
    };
    return suite_run("nccl_job", tests, sizeof tests / sizeof *tests, argc, argv);
}
