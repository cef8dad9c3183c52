/* endure.c: one rank of a job that goes on while something happens around it; started once per rank
 * by a launcher or by tests/vm/guest/parts.sh.
 *
 *     endure run SECONDS COUNT [DEVICES]   allreduce of COUNT floats again and again. The values do
 * not add up exactly, so each result must have the same bits as the first only because the plan
 * fixes the order of the sums. Prints how often, and the longest a call took. With DEVICES each
 * call is followed by the same one of a communicator that uses these only (TUTTI_VERBS_DEVICE), as
 * a control: see struct calls.
 *
 *     endure past FILE SECONDS COUNT   the same until FILE is there, and SECONDS more.
 *
 *     endure comms N FILE   makes N communicators one after the other, uses and destroys them; then
 * writes a line to FILE.RANK and waits for FILE.go to appear, so that what is left in the kernel
 * can be looked at while it lives.
 *
 *     endure held LOG   rank 1 sends to rank 0, which receives only when its LOG (TUTTI_LOG_FILE)
 * says that a link goes on without a rail, and three seconds without any call are over.
 *
 *     endure away SECONDS   rank 1 leaves the library alone for so long while links are being made:
 * each of some communicators was looked at once more than the one before, so that some link is
 * found in every state.
 *
 *     endure apart FILE SECONDS   broadcasts, short and long, from either rank; after each both
 * stay away from the library until the other has ended it, too, as those do who meet by other
 * means. They say so in FILE.RANK. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tutti/tutti.h"

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The sign for whoever started it: links are up, and what it is about to go on with has begun. */
static void begun(int rank)
{
    printf("rank %d: has begun\n", rank);
    fflush(stdout);
}

static int bad(int rank, const char *what)
{
    printf("rank %d: %s: %s\n", rank, what, tutti_last_error());
    return 1;
}

/* Values of very different sizes: another order of adding gives other bits. */
static void fill(float *in, size_t count, int rank)
{
    uint32_t state = 12345u + (uint32_t)rank;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        in[i] = (float)(int32_t)state * ((state & 15) == 0 ? 1e-3f : 1e-9f);
    }
}

/* Rank 0's clock decides for all when it is time to stop. */
static int go_on(tutti_comm *comm, int rank, bool longer, int *go)
{
    if (rank == 0)
        *go = longer;
    return tutti_broadcast(go, go, 1, TUTTI_INT32, 0, comm) == TUTTI_OK;
}

#define CALLS_MAX  100000
#define NEAR       20   /* calls of the control on either side */
#define ORDINARY_S 0.05 /* of the longest of these: where the machine is free it takes less */

/* How long each call took, and the one of the control after it, to whose devices nothing happens.
 * Where the machine has other things to do the control takes longer, too, and a call counts as so
 * much less; where it is free, as it is. */
struct calls {
    size_t count;
    double took[CALLS_MAX], control[CALLS_MAX];
};

/* The longest of the controls near a call. */
static double control_near(const struct calls *calls, size_t at)
{
    double longest = 0;
    for (size_t i = at < NEAR ? 0 : at - NEAR; i < at + NEAR && i < calls->count; i++)
        longest = calls->control[i] > longest ? calls->control[i] : longest;
    return longest;
}

static void print_calls(int rank, const struct calls *calls, unsigned long different)
{
    double longest = 0, wall = 0, control = 0;
    for (size_t i = 0; i < calls->count; i++) {
        double near = control_near(calls, i);
        double judged = calls->took[i] * (near > ORDINARY_S ? ORDINARY_S / near : 1);
        if (judged > longest) {
            longest = judged;
            wall = calls->took[i];
            control = near;
        }
    }
    printf("rank %d: %zu calls, %lu with other bits, longest %.3f s (%.3f s, control %.3f s)\n",
           rank, calls->count, different, longest, wall, control);
}

/* Another communicator of the same ranks, over these devices only; NULL without. */
static bool make_control(const char *devices, tutti_comm **control)
{
    *control = NULL;
    if (!devices)
        return true;
    setenv("TUTTI_VERBS_DEVICE", devices, 1);
    return tutti_comm_create_from_env(control) == TUTTI_OK;
}

static int run(tutti_comm *comm, int rank, double length_s, size_t count, const char *devices,
               const char *file)
{
    static struct calls calls;
    float *in = malloc(count * sizeof *in), *out = malloc(count * sizeof *out);
    float *first = malloc(count * sizeof *first);
    double end = seconds() + length_s;
    unsigned long different = 0;
    tutti_comm *control;
    int go = 1;
    if (!in || !out || !first)
        return bad(rank, "memory");
    if (!make_control(devices, &control))
        return bad(rank, "the control");
    fill(in, count, rank);
    while (go) {
        double begin = seconds();
        memset(out, 0xff, count * sizeof *out);
        if (tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, comm) != TUTTI_OK)
            return bad(rank, "allreduce");
        calls.took[calls.count] = seconds() - begin;
        if (calls.count == 0) {
            memcpy(first, out, count * sizeof *out);
            begun(rank);
        }
        different += memcmp(first, out, count * sizeof *out) != 0;
        begin = seconds();
        if (file && access(file, F_OK) == 0)
            file = NULL;
        else if (file)
            end = begin + length_s;
        if (control &&
            tutti_allreduce(in, out, count, TUTTI_FLOAT32, TUTTI_SUM, control) != TUTTI_OK)
            return bad(rank, "the control");
        calls.control[calls.count++] = control ? seconds() - begin : 0;
        if (!go_on(comm, rank, seconds() < end && calls.count < CALLS_MAX, &go))
            return bad(rank, "broadcast");
    }
    print_calls(rank, &calls, different);
    free(in);
    free(out);
    free(first);
    if (tutti_comm_destroy(control) != TUTTI_OK)
        return bad(rank, "destroy the control");
    return different != 0;
}

static int comms(int count, const char *file)
{
    char path[512];
    int rank = -1, size = 0;
    for (int i = 0; i < count; i++) {
        tutti_comm *comm;
        int32_t one = 1, sum = 0;
        if (tutti_comm_create_from_env(&comm) != TUTTI_OK)
            return bad(rank, "create");
        tutti_comm_rank(comm, &rank);
        tutti_comm_size(comm, &size);
        if (tutti_allreduce(&one, &sum, 1, TUTTI_INT32, TUTTI_SUM, comm) != TUTTI_OK)
            return bad(rank, "allreduce");
        if (tutti_comm_destroy(comm) != TUTTI_OK)
            return bad(rank, "destroy");
        if (sum != size) {
            printf("rank %d: the sum is %d, not %d\n", rank, (int)sum, size);
            return 1;
        }
    }
    snprintf(path, sizeof path, "%s.%d", file, rank);
    FILE *done = fopen(path, "w");
    if (!done || fprintf(done, "%d communicators\n", count) < 0 || fclose(done) != 0)
        return bad(rank, path);
    snprintf(path, sizeof path, "%s.go", file);
    for (int i = 0; i < 600 && access(path, F_OK) != 0; i++)
        usleep(100000);
    printf("rank %d: %d communicators\n", rank, count);
    return 0;
}

static bool says(const char *log, const char *text)
{
    char line[1024];
    bool found = false;
    FILE *file = fopen(log, "r");
    while (file && !found && fgets(line, sizeof line, file))
        found = strstr(line, text) != NULL;
    if (file)
        fclose(file);
    return found;
}

static int held(tutti_comm *comm, int rank, const char *log)
{
    enum { COUNT = 100000 }; /* a plan may halve it: a half goes over both rails in chunks */
    static float in[COUNT], out[COUNT];
    char text[64] = "sent while all was well", came[64] = "";
    double end = seconds() + 20;
    int go = 1;
    if (tutti_allreduce(in, out, 1, TUTTI_FLOAT32, TUTTI_SUM, comm) != TUTTI_OK) /* links are up */
        return bad(rank, "allreduce");
    if (rank == 1 && tutti_send(text, sizeof text, TUTTI_INT8, 0, comm) != TUTTI_OK)
        return bad(rank, "send");
    begun(rank);
    while (go) {
        if (tutti_allreduce(in, out, COUNT, TUTTI_FLOAT32, TUTTI_SUM, comm) != TUTTI_OK)
            return bad(rank, "allreduce");
        go = !says(log, "goes on without"); /* rank 0's look counts */
        if (tutti_broadcast(&go, &go, 1, TUTTI_INT32, 0, comm) != TUTTI_OK)
            return bad(rank, "broadcast");
        if (seconds() > end)
            return fprintf(stderr, "rank %d: no rail was lost\n", rank), 1;
    }
    sleep(3); /* what the kernel does with the lost queue pair takes a second */
    if (rank == 0 && tutti_recv(came, sizeof came, TUTTI_INT8, 1, comm) != TUTTI_OK)
        return bad(rank, "recv");
    if (rank == 0 && strcmp(came, text) != 0) {
        printf("rank 0: received '%.63s'\n", came);
        return 1;
    }
    return 0;
}

#define AWAY_COMMS 24

static int away(tutti_comm *comm, int rank, double length_s)
{
    static float in[AWAY_COMMS], out[AWAY_COMMS];
    tutti_comm *comms[AWAY_COMMS];
    tutti_request *requests[AWAY_COMMS];
    int done[AWAY_COMMS] = {0}, open = AWAY_COMMS;
    for (int i = 0; i < AWAY_COMMS; i++) {
        in[i] = 1;
        if (tutti_comm_dup(comm, &comms[i]) != TUTTI_OK)
            return bad(rank, "dup");
    }
    for (int i = 0; i < AWAY_COMMS; i++) {
        if (tutti_allreduce_start(&in[i], &out[i], 1, TUTTI_FLOAT32, TUTTI_SUM, comms[i],
                                  &requests[i]) != TUTTI_OK)
            return bad(rank, "start");
        for (int looks = 0; rank == 1 && looks < i && !done[i]; looks++) {
            if (tutti_test(&requests[i], &done[i]) != TUTTI_OK)
                return bad(rank, "test");
            usleep(1000); /* rank 0's turn */
        }
    }
    if (rank == 1)
        usleep((useconds_t)(1e6 * length_s));
    while (open > 0) {
        open = 0;
        for (int i = 0; i < AWAY_COMMS; i++) {
            if (!done[i] && tutti_test(&requests[i], &done[i]) != TUTTI_OK)
                return bad(rank, "test");
            open += !done[i];
        }
    }
    for (int i = 0; i < AWAY_COMMS; i++) {
        if (out[i] != 2 || tutti_comm_destroy(comms[i]) != TUTTI_OK)
            return bad(rank, "the sum, or destroy");
    }
    return 0;
}

#define APART_S 10 /* a rail that falls silent is given up in a fraction of this */

/* Says that this rank has ended so many calls, and waits for the other to say so. */
static bool meet(const char *file, int rank, long ended)
{
    char path[512];
    double end = seconds() + APART_S;
    long other = 0;
    snprintf(path, sizeof path, "%s.%d", file, rank);
    FILE *mine = fopen(path, "w");
    if (!mine || fprintf(mine, "%ld\n", ended) < 0 || fclose(mine) != 0)
        return bad(rank, path), false;
    snprintf(path, sizeof path, "%s.%d", file, 1 - rank);
    while (other < ended && seconds() < end) {
        FILE *theirs = fopen(path, "r");
        if (theirs && fscanf(theirs, "%ld", &other) != 1)
            other = 0; /* it is being written */
        if (theirs)
            fclose(theirs);
        if (other < ended)
            usleep(1000);
    }
    if (other < ended)
        printf("rank %d: ended call %ld, and rank %d did not in %d s\n", rank, ended, 1 - rank,
               APART_S);
    return other >= ended;
}

/* Ends at the sender once the bytes are copied, or at the receiver before the sender knows of it.
 */
static tutti_status pass(const char *what, int rank, tutti_comm *comm)
{
    static char bytes[200000];
    if (strcmp(what, "copied") != 0)
        return tutti_broadcast(bytes, bytes, sizeof bytes, TUTTI_INT8, 1, comm);
    return rank == 0 ? tutti_send(bytes, 8, TUTTI_INT8, 1, comm)
                     : tutti_recv(bytes, 8, TUTTI_INT8, 0, comm);
}

static int apart(tutti_comm *comm, int rank, const char *what, const char *file, double length_s)
{
    double end = seconds() + length_s;
    int go = 1;
    for (long call = 1; go; call++) {
        if (pass(what, rank, comm) != TUTTI_OK)
            return bad(rank, what);
        if (!meet(file, rank, call))
            return 1;
        if (call == 1)
            begun(rank);
        if (call % 4 == 0 && !go_on(comm, rank, seconds() < end, &go))
            return bad(rank, "broadcast");
    }
    return 0;
}

int main(int argc, char **argv)
{
    tutti_comm *comm;
    int rank = -1;
    if (argc == 4 && strcmp(argv[1], "comms") == 0)
        return comms(atoi(argv[2]), argv[3]);
    bool past = argc == 5 && strcmp(argv[1], "past") == 0;
    bool holds = argc == 3 && strcmp(argv[1], "held") == 0;
    bool leaves = argc == 3 && strcmp(argv[1], "away") == 0;
    bool meets = argc == 5 && strcmp(argv[1], "apart") == 0;
    if (!past && !holds && !leaves && !meets &&
        ((argc != 4 && argc != 5) || strcmp(argv[1], "run") != 0))
        return fputs("usage: endure run SECONDS COUNT [DEVICES] | past FILE SECONDS COUNT | "
                     "comms N FILE | held LOG | away SECONDS | apart copied|written FILE SECONDS\n",
                     stderr),
               2;
    if (tutti_comm_create_from_env(&comm) != TUTTI_OK)
        return bad(rank, "create");
    tutti_comm_rank(comm, &rank);
    int status = holds    ? held(comm, rank, argv[2])
                 : leaves ? away(comm, rank, atof(argv[2]))
                 : meets  ? apart(comm, rank, argv[2], argv[3], atof(argv[4]))
                 : past   ? run(comm, rank, atof(argv[3]), (size_t)atol(argv[4]), NULL, argv[2])
                          : run(comm, rank, atof(argv[2]), (size_t)atol(argv[3]), argv[4], NULL);
    if (status == 0 && tutti_comm_destroy(comm) != TUTTI_OK)
        status = bad(rank, "destroy");
    return status;
}
