/* peer_none.c: coll_perf itself knows no other library: --peer mpi hands over to coll_perf_mpi, the
 * same program linked with MPI, which lies beside this one. With --ranks it is started by mpirun;
 * without, this process is already one of mpirun's and just becomes that program. */
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

/* The path of coll_perf_mpi beside this program; false with a sentence when there is none. */
static bool find_program(char *path, size_t len)
{
    ssize_t used = readlink("/proc/self/exe", path, len - 5);
    if (used < 0)
        used = 0;
    path[used] = '\0';
    snprintf(path + used, len - (size_t)used, "_mpi");
    if (access(path, X_OK) == 0)
        return true;
    fprintf(stderr,
            "coll_perf: --peer mpi needs %s, which is built where MPI is found "
            "(Debian: apt install libopenmpi-dev; meson setup --reconfigure)\n",
            path);
    return false;
}

int peer_exec(const struct options *options, int argc, char **argv)
{
    char path[PATH_MAX], ranks[16];
    if (!find_program(path, sizeof path))
        return EXIT_RUN;
    char **words = calloc((size_t)argc + 16, sizeof *words);
    if (words == NULL)
        return EXIT_RUN;
    size_t used = 0;
    if (options->ranks) { /* both libraries are bound by this program, alike: not by mpirun */
        static char *const launcher[] = {"mpirun", "--oversubscribe", "--bind-to", "none", "-np"};
        snprintf(ranks, sizeof ranks, "%u", options->ranks);
        for (size_t i = 0; i < sizeof launcher / sizeof launcher[0]; i++)
            words[used++] = launcher[i];
        words[used++] = ranks;
        if (geteuid() == 0)
            words[used++] = "--allow-run-as-root";
    }
    words[used++] = path;
    for (int i = 1; i < argc; i++)
        words[used++] = argv[i];
    if (options->ranks) {
        execvp("mpirun.openmpi", words);
        execvp("mpirun", words);
    } else {
        execv(path, words);
    }
    fprintf(stderr, "coll_perf: cannot run %s: %s\n", words[0], strerror(errno));
    free(words);
    return EXIT_RUN;
}
