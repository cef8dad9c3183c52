/* output.h: what tools print, and that it must arrive: a full disk is an error with its reason, not
 * silence. */
#ifndef PERF_OUTPUT_H
#define PERF_OUTPUT_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <tutti/version.h>
#include <unistd.h>

/* Called first in main: where standard input, output or error are closed, the next file or socket
 * would take their place and get what is printed. Writing to what is put there instead fails. */
static inline void output_hold(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* To be called after each piece that is printed to file: keeps in *error (0 at first) the reason of
 * the first write that failed, which no later call tells. */
static inline void output_flush(FILE *file, int *error)
{
    if ((fflush(file) != 0 || ferror(file) != 0) && *error == 0)
        *error = errno;
}

/* What --version prints. */
static inline void output_version(const char *tool)
{
    printf("%s, tutti %d.%d.%d\n", tool, TUTTI_VERSION_MAJOR, TUTTI_VERSION_MINOR,
           TUTTI_VERSION_PATCH);
}

/* The end of standard output; false with a sentence of `tool` when not all of it was written. */
static inline bool output_end(const char *tool)
{
    int error = 0;
    output_flush(stdout, &error);
    if (error != 0)
        fprintf(stderr, "%s: the output was not written completely: %s\n", tool, strerror(error));
    return error == 0;
}

#endif
