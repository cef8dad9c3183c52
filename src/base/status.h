/* status.h: one sentence per failure, recorded once, where the failure is first known.
 * Functions return tutti_status; the code that first knows the cause writes
 *     return fail(TUTTI_ERR_CONNECT, "connect to rank %u at %s: %s", ...);
 * and everyone above passes the status on. TUTTI_IN_PROGRESS is flow, never a failure. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tutti/types.h"

#define SENTENCE_MAX 512 /* bytes of a sentence with its terminator; longer ones are cut */

/* Records the sentence for the calling thread and returns status. */
tutti_status fail(tutti_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* As fail, with ": <text of errno> (errno)" appended; errno is read first. */
tutti_status fail_errno(tutti_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The calling thread's last sentence, "" if none. */
const char *status_sentence(void);
/* Replaces it: for a sentence that was first known elsewhere (another thread, another rank). */
void status_set_sentence(const char *sentence);
/* What came from another process as a status: the error that it names, else `otherwise`. */
tutti_status status_heard(int32_t heard, tutti_status otherwise);
/* The constant text of a status. */
const char *status_text(tutti_status status);

/* Names of the lists of types.h; "?" when out of range. */
const char *dtype_name(tutti_dtype dtype);
size_t dtype_size(tutti_dtype dtype); /* 0 when out of range */
bool dtype_is_float(tutti_dtype dtype);
const char *op_name(tutti_op op); /* "user" from TUTTI_OP_DYNAMIC on */
const char *coll_name(tutti_coll coll);

#endif
