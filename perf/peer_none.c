/* peer_none.c: coll_perf itself knows no other library: --peer NAME hands over to coll_perf_NAME,
 * the same program linked with that library, which lies beside this one. With --ranks it is started
 * by the library's launcher, if it has one; without, this process is already one of the ranks and
 * just becomes that program. */
#include "perf/peer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct peer *peer_open(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return NULL;
}

/* The path of coll_perf_NAME beside this program; false with a sentence when there is none. */
static bool find_program(const struct peer_kind *kind, char *path, size_t len)
{
    ssize_t used = readlink("/proc/self/exe", path, len - 16);
    if (used < 0)
        used = 0;
    snprintf(path + used, len - (size_t)used, "_%s", kind->name);
    if (access(path, X_OK) == 0)
        return true;
    fprintf(stderr,
            "coll_perf: --peer %s needs %s, which is built (not installed) where %s is found "
            "(Debian: apt install %s; meson setup --reconfigure): run the build directory's "
            "perf/coll_perf\n",
            kind->name, path, kind->title, kind->package);
    return false;
}

static char *word(const char *text) /* execv writes to no word */
{
    return (char *)(uintptr_t)text;
}

int peer_exec(const struct options *options, int argc, char **argv)
{
    char path[PATH_MAX], ranks[16];
    const struct peer_kind *kind = options->peer_kind;
    bool launches = options->ranks && kind->launchers[0];
    if (!find_program(kind, path, sizeof path))
        return EXIT_RUN;
    char **words = calloc((size_t)argc + LAUNCHER_WORDS_MAX + 4, sizeof *words);
    if (words == NULL)
        return EXIT_RUN;
    size_t used = 0;
    if (launches) {
        snprintf(ranks, sizeof ranks, "%u", options->ranks);
        words[used++] = word(kind->launchers[0]);
        for (size_t i = 0; i < LAUNCHER_WORDS_MAX && kind->words[i]; i++)
            words[used++] = word(kind->words[i]);
        words[used++] = ranks;
    }
    words[used++] = path;
    for (int i = 1; i < argc; i++)
        words[used++] = argv[i];
    if (!launches)
        execv(path, words);
    for (size_t i = 0; launches && i < LAUNCHERS_MAX && kind->launchers[i]; i++)
        execvp(words[0] = word(kind->launchers[i]), words);
    fprintf(stderr, "coll_perf: cannot run %s: %s\n", words[0], strerror(errno));
    free(words);
    return EXIT_RUN;
}
