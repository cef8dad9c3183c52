/* check.c: what must() does when a promise is broken: one line on standard error, then abort, so
 * that a debugger or a core file shows the place. Nothing is allocated and no lock is taken. */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void check_failed(const char *fact, const char *file, int line)
{
    char text[512];
    int len = snprintf(text, sizeof text,
                       "tutti: internal error at %s:%d: \"%s\" does not hold; please report it\n",
                       file, line, fact);
    size_t size = len < 0 ? 0 : (size_t)len < sizeof text ? (size_t)len : sizeof text - 1;
    ssize_t written = write(STDERR_FILENO, text, size);
    (void)written; /* there is nothing left to do about it */
    abort();
}
