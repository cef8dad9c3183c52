/* nccl_error.c: result codes, and the sentence of the last error. A thread keeps its own, so that
 * one rank's thread never reads another's; since programs also ask from a thread that only reports
 * (a watchdog, a logger), the process's last one is kept too, for threads that had none. Many
 * programs print the code's text alone: with NCCL_DEBUG=WARN each sentence is a line of the log,
 * once however often it comes in a row: a job's thread has it first, then the caller's. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "nccl_face.h"

static _Thread_local char own[FACE_SENTENCE_MAX];
static char last[FACE_SENTENCE_MAX];
static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t last_once = PTHREAD_ONCE_INIT;

/* Its holder, if any, is a thread the child does not have. */
static void child_of_fork(void)
{
    pthread_mutex_init(&last_lock, NULL);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, child_of_fork);
}

static void lock_last(void)
{
    pthread_once(&last_once, watch_forks);
    pthread_mutex_lock(&last_lock);
}

ncclResult_t face_fail(ncclResult_t result, const char *format, ...)
{
    char text[FACE_SENTENCE_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(own, text, sizeof own);
    lock_last();
    bool again = strcmp(last, text) == 0;
    memcpy(last, text, sizeof last);
    pthread_mutex_unlock(&last_lock);
    if (!again)
        tutti_log_failure(text);
    return result;
}

const char *face_sentence(void)
{
    return own;
}

static ncclResult_t result_of(tutti_status status)
{
    switch (status) {
    case TUTTI_OK:
        return ncclSuccess;
    case TUTTI_IN_PROGRESS:
        return ncclInProgress;
    case TUTTI_ERR_ARG:
        return ncclInvalidArgument;
    case TUTTI_ERR_NOMEM:
    case TUTTI_ERR_SYSTEM:
        return ncclSystemError;
    case TUTTI_ERR_CONNECT:
    case TUTTI_ERR_PEER:
    case TUTTI_ERR_TIMEOUT:
        return ncclRemoteError;
    case TUTTI_ERR_STATE:
    case TUTTI_ERR_SETTING:
    case TUTTI_ERR_AUTH:
    case TUTTI_ERR_PROTOCOL:
    case TUTTI_ERR_MISMATCH:
    case TUTTI_ERR_ABORTED:
    case TUTTI_ERR_FORKED:
        return ncclInvalidUsage;
    case TUTTI_ERR_UNSUPPORTED:
        return ncclUnhandledCudaError;
    case TUTTI_ERR_INTERNAL:
        break;
    }
    return ncclInternalError;
}

ncclResult_t face_result(tutti_status status)
{
    ncclResult_t result = result_of(status);
    if (result == ncclSuccess || result == ncclInProgress)
        return result;
    return face_fail(result, "%s", tutti_last_error());
}

NCCL_FACE(const char *, ncclGetErrorString, (ncclResult_t result))
{
    static const char *const texts[ncclNumResults] = {
        [ncclSuccess] = "no error",
        [ncclUnhandledCudaError] = "no driver serves this stream or this memory "
                                   "(ncclGetLastError or NCCL_DEBUG=WARN says more)",
        [ncclSystemError] = "a system call failed or memory ran out (ncclGetLastError or "
                            "NCCL_DEBUG=WARN says more)",
        [ncclInternalError] =
            "an internal check failed (ncclGetLastError or NCCL_DEBUG=WARN says more)",
        [ncclInvalidArgument] = "invalid argument (ncclGetLastError or NCCL_DEBUG=WARN says more)",
        [ncclInvalidUsage] = "the call does not fit the state of the communicator or the calls of "
                             "the other ranks (ncclGetLastError or NCCL_DEBUG=WARN says more)",
        [ncclRemoteError] =
            "a peer died or cannot be reached (ncclGetLastError or NCCL_DEBUG=WARN says more)",
        [ncclInProgress] = "the operation is in progress",
        [ncclTimeout] = "timeout",
    };
    unsigned code = (unsigned)result;
    return code < ncclNumResults ? texts[code] : "unknown result code";
}

NCCL_FACE(const char *, ncclGetLastError, (ncclComm_t comm))
{
    static _Thread_local char copy[FACE_SENTENCE_MAX];
    if (own[0])
        return own;
    lock_last();
    memcpy(copy, last, sizeof copy);
    pthread_mutex_unlock(&last_lock);
    return copy;
}

NCCL_FACE(ncclResult_t, ncclGetVersion, (int *version))
{
    if (!version)
        return face_fail(ncclInvalidArgument, "ncclGetVersion: version is NULL");
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

NCCL_FACE(void, ncclResetDebugInit, (void))
{
}

/* NVIDIA's library exports this one too, without a twin; its header does not know it. */
__attribute__((visibility("default"))) void ncclResetDebugInitInternal(void);
void ncclResetDebugInitInternal(void)
{
}
