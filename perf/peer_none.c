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
#include <strings.h>
#include <unistd.h>

/* Both libraries are bound by this program, alike: not by the launcher. */
#define WORDS_MAX 6
static const struct known {
    const char *name, *package, *launcher, *otherwise; /* otherwise: where it has the plain name */
    const char *words[WORDS_MAX];
    bool asks_root;
} known[] = {
    {"mpi",
     "libopenmpi-dev",
     "mpirun.openmpi",
     "mpirun",
     {"--oversubscribe", "--bind-to", "none", "-np"},
     true},
    {"mpich", "libmpich-dev", "mpiexec.mpich", "mpiexec.hydra", {"-bind-to", "none", "-n"}, false},
    {"gloo", "libgloo-dev", NULL, NULL, {NULL}, false},
};

const struct peer *peer_open(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return NULL;
}

/* The path of coll_perf_NAME beside this program; false with a sentence when there is none. */
static bool find_program(const struct known *peer, char *path, size_t len)
{
    ssize_t used = readlink("/proc/self/exe", path, len - 16);
    if (used < 0)
        used = 0;
    snprintf(path + used, len - (size_t)used, "_%s", peer->name);
    if (access(path, X_OK) == 0)
        return true;
    fprintf(stderr,
            "coll_perf: --peer %s needs %s, which is built where that library is found "
            "(Debian: apt install %s; meson setup --reconfigure)\n",
            peer->name, path, peer->package);
    return false;
}

int peer_exec(const struct options *options, int argc, char **argv)
{
    char path[PATH_MAX], ranks[16];
    const struct known *peer = known;
    while (strcasecmp(peer->name, options->peer) != 0) /* options_read knows the same names */
        peer++;
    bool launches = options->ranks && peer->launcher;
    if (!find_program(peer, path, sizeof path))
        return EXIT_RUN;
    char **words = calloc((size_t)argc + WORDS_MAX + 5, sizeof *words);
    if (words == NULL)
        return EXIT_RUN;
    size_t used = 0;
    if (launches) {
        snprintf(ranks, sizeof ranks, "%u", options->ranks);
        words[used++] = (char *)(uintptr_t)peer->launcher;
        for (size_t i = 0; i < WORDS_MAX && peer->words[i]; i++)
            words[used++] = (char *)(uintptr_t)peer->words[i];
        words[used++] = ranks;
        if (peer->asks_root && geteuid() == 0)
            words[used++] = (char *)(uintptr_t) "--allow-run-as-root";
    }
    words[used++] = path;
    for (int i = 1; i < argc; i++)
        words[used++] = argv[i];
    execvp(words[0], words);
    if (launches)
        execvp(words[0] = (char *)(uintptr_t)peer->otherwise, words);
    fprintf(stderr, "coll_perf: cannot run %s: %s\n", words[0], strerror(errno));
    free(words);
    return EXIT_RUN;
}
