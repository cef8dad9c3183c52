/* test_interpose_life.c: what lies around the calls of the MPI face: communicators that come and
 * go, messages that MPI has under way, errors, threads, and ranks that leave. See interpose.h.
 *
 * argv[1] may also be early or late: calls MPI_Allreduce before MPI begins, or MPI_Barrier when it
 * has ended, which MPI is to say. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "interpose.h"

enum { COMMS = 300, ROUNDS = 300, LONG = 1 << 21 };

/* ---- communicators ----------------------------------------------------------------------------
 */

static int sum_over(MPI_Comm comm, bool ours)
{
    int one = 1, sum = 0;
    CALL("allreduce", ours, MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, comm));
    return sum;
}

static void try_communicators(void)
{
    MPI_Comm part, copy, inter;
    int color = rank % 2, members = (size + 1 - color) / 2;
    MPI_Comm_split(MPI_COMM_WORLD, color, -rank, &part);
    check(sum_over(part, members > 1) == members, "sum over a part");
    MPI_Comm_dup(part, &copy);
    check(sum_over(copy, members > 1) == members, "sum over a copy");
    MPI_Intercomm_create(copy, 0, MPI_COMM_WORLD,
                         color ? size - 1 - (size - 1) % 2 : size - 1 - (size % 2), 7, &inter);
    check(sum_over(inter, false) == size - members, "sum over the other group");
    CALL("barrier", false, MPI_Barrier(inter));
    MPI_Comm_free(&inter);
    MPI_Comm_free(&part);
    check(sum_over(copy, members > 1) == members, "sum over a copy whose origin is gone");
    MPI_Comm_disconnect(&copy);
    unsigned long before = taken(NULL);
    for (int i = 0; i < COMMS; i++) { /* more than the library makes */
        int one = 1, sum = 0;
        MPI_Comm_dup(MPI_COMM_WORLD, &copy);
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, copy);
        check(sum == size, "sum over copy %d", i);
        MPI_Comm_free(&copy);
    }
    check((taken(NULL) > before) == takes, "%lu of %d copies were taken", taken(NULL) - before,
          COMMS);
}

/* A program that is started by this one may not have the library. */
static void try_spawning(const char *self)
{
    char program[PATH_MAX], *arguments[] = {"-u", "LD_PRELOAD", program, "child", NULL}, *linked;
    MPI_Comm inter, all;
    snprintf(program, sizeof program, "%s", self);
    linked = strstr(program, "_linked");
    if (linked)
        *linked = '\0';
    MPI_Comm_spawn("env", arguments, 1, MPI_INFO_NULL, 0, MPI_COMM_WORLD, &inter,
                   MPI_ERRCODES_IGNORE);
    MPI_Intercomm_merge(inter, 0, &all);
    check(sum_over(all, false) == size + 1, "sum with another program");
    MPI_Comm_free(&all);
    MPI_Comm_disconnect(&inter);
}

static int child(void)
{
    MPI_Comm parent, all;
    MPI_Init(NULL, NULL);
    MPI_Comm_get_parent(&parent);
    MPI_Intercomm_merge(parent, 1, &all);
    sum_over(all, false);
    MPI_Comm_free(&all);
    MPI_Comm_disconnect(&parent);
    return MPI_Finalize();
}

/* ---- progress, errors, threads ----------------------------------------------------------------
 */

/* The last rank receives before it comes to the collective, in which the others wait. So does, all
 * the while, a message of each rank to itself. */
static void try_progress(void)
{
    int *data = calloc(LONG, sizeof *data), last = size - 1;
    MPI_Request request = MPI_REQUEST_NULL, own;
    int number = 5, same = 0;
    MPI_Isend(&number, 1, MPI_INT, 0, 0, MPI_COMM_SELF, &own);
    for (int i = 0; rank == 0 && i < LONG; i++)
        data[i] = i;
    if (rank == 0)
        MPI_Isend(data, LONG, MPI_INT, last, 3, MPI_COMM_WORLD, &request);
    if (rank == last) {
        usleep(100000);
        MPI_Recv(data, LONG, MPI_INT, 0, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        check(data[LONG - 1] == LONG - 1, "a long message");
    }
    check(sum_over(MPI_COMM_WORLD, true) == size, "sum after a long message");
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    MPI_Recv(&same, 1, MPI_INT, 0, 0, MPI_COMM_SELF, MPI_STATUS_IGNORE);
    MPI_Wait(&own, MPI_STATUS_IGNORE);
    check(same == number, "a message to oneself");
    free(data);
}

static void try_errors(void)
{
    int code, class, len;
    char text[MPI_MAX_ERROR_STRING];
    MPI_Comm copy;
    MPI_Comm_dup(MPI_COMM_WORLD, &copy);
    MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN);
#ifndef MPICH_VERSION /* which may be built without a look at arguments */
    int number = 1, sum;
    check(MPI_Allreduce(&number, &sum, -1, MPI_INT, MPI_SUM, copy) != MPI_SUCCESS, "count -1");
    check(MPI_Bcast(&number, 1, MPI_INT, size, copy) != MPI_SUCCESS, "root %d", size);
    check(MPI_Bcast(&number, 1, MPI_DATATYPE_NULL, 0, copy) != MPI_SUCCESS, "no type");
    check(MPI_Allreduce(&number, &sum, 1, MPI_DOUBLE, MPI_BAND, copy) != MPI_SUCCESS, "bits");
#endif
    if (takes) { /* MPI alone would not notice */
        int numbers[2] = {1, 1}, sums[2];
        for (int twice = 0; twice < 2; twice++) {
            code = MPI_Allreduce(numbers, sums, 1 + (rank == 0), MPI_INT, MPI_SUM, copy);
            MPI_Error_class(code, &class);
            MPI_Error_string(code, text, &len);
#ifdef MPICH_VERSION
            check(class > MPI_ERR_LASTCODE, "class %d", class);
            class = MPI_ERR_OTHER;
#endif
            check(class == MPI_ERR_OTHER && strstr(text, "ranks disagree") != NULL, "class %d: %s",
                  class, text);
        }
    }
    MPI_Comm_free(&copy);
    /* What one rank alone has wrong is no reason for it to call MPI while others wait. */
    static const char *const sentences[] = {"of another size", "is NULL", "is NULL", "is NULL",
                                            "overlap"};
    for (int way = 0; takes && way < 5; way++) {
        int numbers[3] = {1, 1, 1}, *all = calloc((size_t)size, sizeof *all);
        int *nowhere = rank == 0 ? NULL : all;
        MPI_Comm_dup(MPI_COMM_WORLD, &copy);
        MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN);
        if (way == 0)
            code = MPI_Allgather(numbers, 1 + (rank == 0), MPI_INT, all, 1, MPI_INT, copy);
        else if (way == 1)
            code = MPI_Allgather(numbers, 1, MPI_INT, nowhere, 1, MPI_INT, copy);
        else if (way == 2)
            code = MPI_Allreduce(numbers, nowhere, 1, MPI_INT, MPI_SUM, copy);
        else if (way == 4)
            code = MPI_Allreduce(numbers, rank == 0 ? &numbers[1] : all, 2, MPI_INT, MPI_SUM, copy);
        else
            code = MPI_Reduce_scatter_block(nowhere, numbers, 1, MPI_INT, MPI_SUM, copy);
        MPI_Error_string(code, text, &len);
        check(code != MPI_SUCCESS, "way %d", way);
        check(rank != 0 || strstr(text, sentences[way]) != NULL, "%s", text);
        MPI_Barrier(MPI_COMM_WORLD); /* they are told before it goes */
        MPI_Comm_free(&copy);
        free(all);
    }
    check(sum_over(MPI_COMM_WORLD, true) == size, "sum after errors");
}

static void *thread_main(void *argument)
{
    MPI_Comm comm = *(MPI_Comm *)argument;
    long wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        int mine = rank + i, sum = 0;
        MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, comm);
        wrong += sum != size * i + size * (size - 1) / 2;
        MPI_Bcast(&sum, 1, MPI_INT, i % size, comm);
    }
    return (void *)wrong;
}

static void try_threads(void)
{
    enum { THREADS = 3 };
    MPI_Comm comms[THREADS];
    pthread_t ids[THREADS];
    for (int t = 0; t < THREADS; t++)
        MPI_Comm_dup(MPI_COMM_WORLD, &comms[t]);
    for (int t = 0; t < THREADS; t++)
        pthread_create(&ids[t], NULL, thread_main, &comms[t]);
    for (int t = 0; t < THREADS; t++) {
        void *wrong;
        pthread_join(ids[t], &wrong);
        check(wrong == NULL, "thread %d: %ld sums are wrong", t, (long)wrong);
        MPI_Comm_free(&comms[t]);
    }
}

static void *dup_main(void *made)
{
    MPI_Comm_dup(MPI_COMM_WORLD, made);
    return NULL;
}

/* The other ranks make a communicator only when they come from the first collective of another, in
 * which they need rank 0, a thread of which makes it already. */
static void try_making(void)
{
    MPI_Comm copy, made;
    pthread_t id;
    MPI_Comm_dup(MPI_COMM_WORLD, &copy);
    if (rank == 0) {
        pthread_create(&id, NULL, dup_main, &made);
        usleep(200000);
    }
    check(sum_over(copy, true) == size, "sum while a thread makes a communicator");
    if (rank == 0)
        pthread_join(id, NULL);
    else
        dup_main(&made);
    MPI_Comm_free(&copy);
    MPI_Comm_free(&made);
}

/* Rank 0 frees a communicator, and ends, long before the others receive what it sent. */
static void try_leaving(void)
{
    MPI_Comm copy;
    int number = rank == 0 ? 77 : 0;
    MPI_Comm_dup(MPI_COMM_WORLD, &copy);
    MPI_Barrier(copy);
    if (rank > 0)
        usleep(1500000);
    CALL("bcast", true, MPI_Bcast(&number, 1, MPI_INT, 0, copy));
    check(number == 77, "a number of a rank that has left: %d", number);
    MPI_Comm_free(&copy);
    if (rank > 0)
        usleep(1500000);
    number = rank == 0 ? 78 : 0;
    CALL("bcast", true, MPI_Bcast(&number, 1, MPI_INT, 0, MPI_COMM_WORLD));
    check(number == 78, "a number of a rank that ends: %d", number);
}

/* MPI_Finalize deletes the attributes of MPI_COMM_SELF, the last one first, before all else, and
 * libraries talk to each other there. The ranks' own come in another order, if the library has one
 * since its first call: rank 0 has called it before. */
static int last_words(MPI_Comm comm, int keyval, void *value, void *context)
{
    check(sum_over(MPI_COMM_WORLD, true) == size, "sum while MPI ends");
    return MPI_SUCCESS;
}

static void plan_last_words(void)
{
    int words;
    if (rank == 0)
        MPI_Barrier(MPI_COMM_SELF);
    MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, last_words, &words, NULL);
    MPI_Comm_set_attr(MPI_COMM_SELF, words, NULL);
}

int main(int argc, char **argv)
{
    int one = 1, sum;
    if (argc > 1 && strcmp(argv[1], "child") == 0)
        return child();
    if (argc > 1 && strcmp(argv[1], "early") == 0)
        MPI_Allreduce(&one, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (argc > 1 && strcmp(argv[1], "late") == 0) {
        MPI_Init(&argc, &argv);
        MPI_Finalize();
        MPI_Barrier(MPI_COMM_WORLD);
    }
    begin(argc, argv);
    plan_last_words();
    try_progress();
    try_errors();
    if (threads) {
        try_threads();
        try_making();
    }
    try_leaving();
#ifndef MPICH_VERSION /* Debian's starts no programs */
    try_spawning(argv[0]);
#else
    (void)try_spawning;
    if (rank == 0)
        printf("SKIPPED: programs that are started by this one\n");
#endif
    try_communicators();
    return end();
}
