/* log.h: lines on standard error (or TUTTI_LOG_FILE), filtered by TUTTI_LOG.
 * Each line: "tutti[host:pid rank R] level: text". One write call per line, so lines of many
 * ranks do not mix. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

#include "base/status.h"

enum log_level { LOG_LEVEL_NONE, LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level); /* process wide; initially LOG_LEVEL_WARN */
/* Lines go to the end of this file from now on, process wide; "" means standard error.
 * TUTTI_ERR_SETTING when it cannot be opened. */
tutti_status log_set_file(const char *path);
bool log_enabled(enum log_level level);
/* rank < 0: no rank known yet. */
void log_at(enum log_level level, int rank, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A line that the program asked for: printed at every level but none. */
void log_asked(const char *text);

#endif
