/* interpose.c: how the programs of interpose.h begin, count and end. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "interpose.h"

int rank, size;
bool takes, threads;

static long passed, failed;
static const char *who;
static unsigned long (*carried)(const char *name); /* NULL: there is no such library */

void check(bool good, const char *format, ...)
{
    va_list list;
    passed += good;
    failed += !good;
    if (good || failed > 20)
        return;
    va_start(list, format);
    printf("rank %d of %d: ", rank, size);
    vprintf(format, list);
    printf("\n");
    va_end(list);
}

unsigned long taken(const char *name)
{
    return carried ? carried(name) : 0;
}

void begin(int argc, char **argv)
{
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    threads = provided == MPI_THREAD_MULTIPLE;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    who = argc > 1 ? argv[1] : "mpi";
    *(void **)&carried = dlsym(RTLD_DEFAULT, "tutti_mpi_calls");
    takes = strcmp(who, "tutti") == 0;
    check((carried != NULL) == (strcmp(who, "mpi") != 0), "%s: the library is %s", who,
          carried ? "there" : "not there");
}

int end(void)
{
    long both[2] = {passed, failed}, sums[2];
    MPI_Reduce(both, sums, 2, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d ranks, %s: %ld passed, %ld failed%s\n", size, who, sums[0], sums[1],
               threads ? "" : ", one thread only");
    MPI_Finalize();
    return failed != 0;
}
