/* bootstrap_pmix.c: a text from rank 0 to all through PMIx (Open MPI's mpirun, PRRTE, Slurm's pmix
 * plugin): put, commit, fence, get. The only file that sees pmix.h. Source: the PMIx Standard 4,
 * chapters 5 (initialisation), 6 (data access), 7 (fence).
 *
 * The library is loaded when a launcher's PMIX_NAMESPACE says that it is needed, never linked, so
 * that programs without PMIx do not depend on it. It is initialised once and finalised when the
 * process ends: finalising in between leaves Open MPI unable to start afterwards, and a process
 * that never does is reported as crashed by mpirun. (libpmix runs a thread of its own meanwhile.)
 * That state, and the count of uses that makes keys distinct, is one static structure behind a
 * mutex. */
#include "src/bootstrap_meet.h"

#ifdef TUTTI_WITH_PMIX

#include <dlfcn.h>
#include <pmix.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"

struct library {
    struct lock lock;
    pthread_cond_t fenced;
    void *handle;
    pid_t pid; /* that initialised it: a forked child must not finalise */
    pmix_proc_t me;
    unsigned uses;
    unsigned fences_done; /* counted by the callback */
    pmix_status_t fence_status;
    pmix_status_t (*init)(pmix_proc_t *, pmix_info_t *, size_t);
    pmix_status_t (*finalize)(const pmix_info_t *, size_t);
    pmix_status_t (*put)(pmix_scope_t, const char *, pmix_value_t *);
    pmix_status_t (*commit)(void);
    pmix_status_t (*fence_nb)(const pmix_proc_t *, size_t, const pmix_info_t *, size_t,
                              pmix_op_cbfunc_t, void *);
    pmix_status_t (*get)(const pmix_proc_t *, const char *, const pmix_info_t *, size_t,
                         pmix_value_t **);
    const char *(*error_string)(pmix_status_t);
};
static struct library pmix = {.lock = LOCK_INIT};

static void at_exit(void)
{
    if (pmix.handle && pmix.pid == getpid())
        pmix.finalize(NULL, 0);
}

static void *symbol(void *handle, const char *name, bool *complete)
{
    void *found = dlsym(handle, name);
    *complete = *complete && found != NULL;
    return found;
}

/* POSIX lets an object pointer from dlsym be copied into a function pointer. */
static bool bind_symbols(void *handle)
{
    bool all = true;
    *(void **)&pmix.init = symbol(handle, "PMIx_Init", &all);
    *(void **)&pmix.finalize = symbol(handle, "PMIx_Finalize", &all);
    *(void **)&pmix.put = symbol(handle, "PMIx_Put", &all);
    *(void **)&pmix.commit = symbol(handle, "PMIx_Commit", &all);
    *(void **)&pmix.fence_nb = symbol(handle, "PMIx_Fence_nb", &all);
    *(void **)&pmix.get = symbol(handle, "PMIx_Get", &all);
    *(void **)&pmix.error_string = symbol(handle, "PMIx_Error_string", &all);
    return all;
}

/* Under the lock. */
static tutti_status load(void)
{
    if (pmix.handle && pmix.pid != getpid())
        return fail(TUTTI_ERR_FORKED,
                    "PMIx serves the parent of this process, which was forked after it had met the "
                    "launcher: set TUTTI_RENDEZVOUS=host:port, TUTTI_RANK and TUTTI_SIZE");
    if (pmix.handle)
        return TUTTI_OK;
    /* global: its plugins look for its symbols */
    void *handle = dlopen("libpmix.so.2", RTLD_NOW | RTLD_GLOBAL);
    if (handle == NULL || !bind_symbols(handle)) {
        if (handle)
            dlclose(handle);
        return TUTTI_ERR_UNSUPPORTED;
    }
    pmix_status_t code = pmix.init(&pmix.me, NULL, 0);
    if (code != PMIX_SUCCESS) {
        tutti_status status =
            fail(TUTTI_ERR_CONNECT, "PMIx_Init: %s (was this process started by the launcher?)",
                 pmix.error_string(code));
        dlclose(handle);
        return status;
    }
    lock_condition_init(&pmix.fenced);
    pmix.handle = handle; /* stays loaded as long as the process */
    pmix.pid = getpid();
    atexit(at_exit);
    return TUTTI_OK;
}

static void release(pmix_value_t *value)
{
    if (value && value->type == PMIX_STRING)
        free(value->data.string);
    free(value);
}

/* A process of this job. PMIx's own macro for it is a function of its library from version 5 on,
 * and nothing of that is linked. */
static void name_process(pmix_proc_t *process, pmix_rank_t rank)
{
    memset(process, 0, sizeof *process);
    memcpy(process->nspace, pmix.me.nspace, sizeof process->nspace);
    process->rank = rank;
}

tutti_status bootstrap_pmix_open(uint32_t *rank, uint32_t *size)
{
    pmix_proc_t job;
    pmix_value_t *value = NULL;
    if (settings_launcher_variable("PMIX_NAMESPACE") == NULL)
        return TUTTI_ERR_UNSUPPORTED;
    lock_take(&pmix.lock);
    tutti_status status = load();
    lock_leave(&pmix.lock);
    if (status != TUTTI_OK)
        return status;
    name_process(&job, PMIX_RANK_WILDCARD);
    pmix_status_t code = pmix.get(&job, PMIX_JOB_SIZE, NULL, 0, &value);
    if (code != PMIX_SUCCESS)
        return fail(TUTTI_ERR_CONNECT, "PMIx_Get of the number of ranks: %s",
                    pmix.error_string(code));
    bool right = value->type == PMIX_UINT32 && value->data.uint32 > pmix.me.rank;
    if (right) {
        *rank = pmix.me.rank;
        *size = value->data.uint32;
    }
    release(value);
    return right ? TUTTI_OK
                 : fail(TUTTI_ERR_PROTOCOL, "PMIx says this is rank %u but not of how many",
                        pmix.me.rank);
}

/* Called by libpmix's thread, perhaps long after the wait for it ended: it touches only the static
 * structure. */
static void fence_done(pmix_status_t code, void *context)
{
    lock_take(&pmix.lock);
    pmix.fences_done++;
    pmix.fence_status = code;
    pthread_cond_broadcast(&pmix.fenced);
    lock_leave(&pmix.lock);
}

/* The fence of the `use`-th share; earlier ones that timed out count when they end. */
static tutti_status fence(unsigned use, uint64_t deadline_ms)
{
    pmix_info_t collect = {
        .key = PMIX_COLLECT_DATA, .value.type = PMIX_BOOL, .value.data.flag = true};
    pmix_status_t code = pmix.fence_nb(NULL, 0, &collect, 1, fence_done, NULL);
    if (code == PMIX_OPERATION_SUCCEEDED) {
        fence_done(PMIX_SUCCESS, NULL);
    } else if (code != PMIX_SUCCESS) {
        return fail(TUTTI_ERR_CONNECT, "PMIx_Fence: %s", pmix.error_string(code));
    }
    lock_take(&pmix.lock);
    while (pmix.fences_done < use &&
           lock_wait_until(&pmix.lock, &pmix.fenced, deadline_ms * 1000000u))
        ;
    bool done = pmix.fences_done >= use;
    code = pmix.fence_status;
    lock_leave(&pmix.lock);
    if (!done)
        return fail(TUTTI_ERR_CONNECT,
                    "rank %u waited for all ranks at the launcher's PMIx fence in vain: not all "
                    "made their communicator; see that they run, or raise "
                    "TUTTI_MEET_TIMEOUT_MS",
                    pmix.me.rank);
    if (code != PMIX_SUCCESS)
        return fail(TUTTI_ERR_CONNECT, "PMIx_Fence: %s", pmix.error_string(code));
    return TUTTI_OK;
}

static tutti_status get_text(const char *key, char text[LAUNCHER_TEXT_MAX])
{
    pmix_proc_t root;
    /* 5 s: the fence has brought the text, this is a local look-up */
    pmix_info_t limit = {.key = PMIX_TIMEOUT, .value.type = PMIX_INT, .value.data.integer = 5};
    pmix_value_t *value = NULL;
    name_process(&root, 0);
    pmix_status_t code = pmix.get(&root, key, &limit, 1, &value);
    if (code != PMIX_SUCCESS)
        return fail(TUTTI_ERR_CONNECT, "PMIx_Get of rank 0's text: %s", pmix.error_string(code));
    bool right = value->type == PMIX_STRING && value->data.string &&
                 strlen(value->data.string) < LAUNCHER_TEXT_MAX;
    if (right)
        snprintf(text, LAUNCHER_TEXT_MAX, "%s", value->data.string);
    release(value);
    return right ? TUTTI_OK
                 : fail(TUTTI_ERR_PROTOCOL, "rank 0's text came through PMIx as something else");
}

tutti_status bootstrap_pmix_share(uint32_t rank, char text[LAUNCHER_TEXT_MAX], uint64_t deadline_ms)
{
    char key[32];
    lock_take(&pmix.lock);
    unsigned use = ++pmix.uses;
    lock_leave(&pmix.lock);
    snprintf(key, sizeof key, "tutti.%u", use);
    if (rank == 0) {
        pmix_value_t value = {.type = PMIX_STRING, .data.string = text};
        pmix_status_t code = pmix.put(PMIX_GLOBAL, key, &value);
        if (code == PMIX_SUCCESS)
            code = pmix.commit();
        if (code != PMIX_SUCCESS)
            return fail(TUTTI_ERR_CONNECT, "PMIx_Put of rank 0's text: %s",
                        pmix.error_string(code));
    }
    tutti_status status = fence(use, deadline_ms);
    return status == TUTTI_OK && rank != 0 ? get_text(key, text) : status;
}

#else /* built without pmix.h */

tutti_status bootstrap_pmix_open(uint32_t *rank, uint32_t *size)
{
    return TUTTI_ERR_UNSUPPORTED;
}

tutti_status bootstrap_pmix_share(uint32_t rank, char text[LAUNCHER_TEXT_MAX], uint64_t deadline_ms)
{
    return fail(TUTTI_ERR_UNSUPPORTED, "this library was built without PMIx");
}

#endif
