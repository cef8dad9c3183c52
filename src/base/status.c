/* status.c: the thread's last error sentence and the names of the public lists.
 * The idea: a failure is put into words once, where its cause is known, into a buffer of the
 * calling thread; the status alone travels up. The buffer is the library's only per-thread state.
 * Invariant: the buffer always holds a terminated string, and a sentence may quote the one before
 * it, because the new one is composed aside and copied last. */
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

static _Thread_local char sentence[SENTENCE_MAX];

/* Composes format and, when error is not 0, the text of that errno. */
static void record(const char *format, va_list args, int error)
{
    char text[SENTENCE_MAX];
    int len = vsnprintf(text, sizeof text, format, args);
    if (len < 0)
        len = snprintf(text, sizeof text, "%s", format);
    if (error != 0 && (size_t)len < sizeof text) {
        errno = error; /* %m names it; what strerror_r returns is not the same in every C library */
        snprintf(text + len, sizeof text - (size_t)len, ": %m (errno %d)", error);
    }
    memcpy(sentence, text, strlen(text) + 1);
}

tutti_status fail(tutti_status status, const char *format, ...)
{
    int error = errno;
    must(status != TUTTI_OK && status != TUTTI_IN_PROGRESS);
    va_list args;
    va_start(args, format);
    record(format, args, 0);
    va_end(args);
    errno = error;
    return status;
}

tutti_status fail_errno(tutti_status status, const char *format, ...)
{
    int error = errno;
    must(status != TUTTI_OK && status != TUTTI_IN_PROGRESS);
    va_list args;
    va_start(args, format);
    record(format, args, error);
    va_end(args);
    errno = error;
    return status;
}

const char *status_sentence(void)
{
    return sentence;
}

void status_set_sentence(const char *text)
{
    size_t len = strnlen(text, sizeof sentence - 1);
    memmove(sentence, text, len);
    sentence[len] = '\0';
}

tutti_status status_heard(int32_t heard, tutti_status otherwise)
{
    bool known = heard > TUTTI_IN_PROGRESS && heard <= TUTTI_ERR_INTERNAL;
    return known ? (tutti_status)heard : otherwise;
}

const char *status_text(tutti_status status)
{
    switch (status) {
#define X(NAME, value, text)                                                                       \
    case TUTTI_##NAME:                                                                             \
        return text;
        TUTTI_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

const char *dtype_name(tutti_dtype dtype)
{
    static const char *const names[] = {
#define X(NAME, name, bytes, class) #name,
        TUTTI_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)dtype < TUTTI_DTYPE_COUNT ? names[dtype] : "?";
}

size_t dtype_size(tutti_dtype dtype)
{
    static const unsigned char sizes[] = {
#define X(NAME, name, bytes, class) bytes,
        TUTTI_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)dtype < TUTTI_DTYPE_COUNT ? sizes[dtype] : 0;
}

enum { CLASS_INT, CLASS_UINT, CLASS_FLOAT };

bool dtype_is_float(tutti_dtype dtype)
{
    static const unsigned char classes[] = {
#define X(NAME, name, bytes, class) CLASS_##class,
        TUTTI_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)dtype < TUTTI_DTYPE_COUNT && classes[dtype] == CLASS_FLOAT;
}

const char *op_name(tutti_op op)
{
    static const char *const names[] = {
#define X(NAME, name) #name,
        TUTTI_OP_LIST(X)
#undef X
    };
    if ((unsigned)op < TUTTI_OP_COUNT)
        return names[op];
    return (unsigned)op >= TUTTI_OP_DYNAMIC && (unsigned)op <= TUTTI_OP_LAST ? "user" : "?";
}

const char *coll_name(tutti_coll coll)
{
    static const char *const names[] = {
#define X(NAME, name) #name,
        TUTTI_COLL_LIST(X)
#undef X
    };
    return (unsigned)coll < TUTTI_COLL_COUNT ? names[coll] : "?";
}
