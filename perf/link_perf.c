/* link_perf.c: latency and bandwidth of each transport between two local ranks, below everything
 * else: no plan, no collective, only transport.h.
 *
 * Two ends (processes; threads for inproc) exchange addresses over a socket pair, then measure for
 * each size a ping-pong (half of the median round trip, and of the mean one) and a stream (a window
 * of transfers in flight one way; the mean). perftest calls its median "typical". The ends may lie
 * in network namespaces of their own, like two hosts. The last lines fit t(s) = alpha + beta s to
 * the ping-pong by least squares of the relative error, so that small and large sizes count alike,
 * and show the transport's own prior beside it: what the planner believes until it is told better.
 */
#include "base/clock.h"
#include "perf/cores.h"
#include "perf/output.h"
#include "perf/pipe.h"
#include "transports/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tutti/tutti.h>
#include <unistd.h>

enum {
    WINDOW = 16,
    WINDOW_MAX = TRANSPORT_POST_MAX,
    SIZES_MAX = 40,
    REPS_MOST = 4000,
    REPS_LEAST = 5,
    STALL_MS = 10000
};
#define BYTES_MAX  ((uint64_t)1 << 36)
#define FACTOR_MAX ((uint64_t)1 << 20) /* the next size fits into 64 bits */
#define BUDGET_US  40000.0             /* one measurement */
#define WARM_UP_MS 100

struct job {
    const struct transport_ops *ops;
    uint64_t min_bytes, max_bytes, factor, window;
    bool ordinary;        /* malloc, not tutti_mem_alloc */
    bool sleeps;          /* waits for events instead of polling */
    bool crowded;         /* the two ends share a core */
    bool named;           /* transports were named: one that cannot do it is a failure */
    const char *hosts[2]; /* network namespaces of the two ends; NULL: where we are */
};

struct end {
    const struct job *job;
    uint32_t rank;
    int channel; /* to the other end: addresses and agreement, never what is measured */
    struct transport *transport;
    struct xfer sends[WINDOW_MAX], recvs[WINDOW_MAX];
    unsigned open; /* posted and not yet returned */
    unsigned yield_polls;
    struct tag tag;
    unsigned char *out, *in;
    bool eventless; /* asked to sleep (-s), on a transport without events */
    int unwritten;  /* why the table could not be written; 0: it could */
};

_Noreturn static void die(const char *what, const char *why)
{
    fprintf(stderr, "link_perf: %s: %s\n", what, why);
    exit(3);
}

/* What could not be written, now or before (error), is not lost in silence. */
static void end_table(int error)
{
    output_flush(stdout, &error);
    if (error != 0)
        die("write the table", strerror(error));
}

static void tell(const struct end *end, const void *bytes, size_t len)
{
    if (write(end->channel, bytes, len) != (ssize_t)len)
        die("the other end is gone", strerror(errno));
}

static void hear(const struct end *end, void *bytes, size_t len)
{
    if (recv(end->channel, bytes, len, MSG_WAITALL) != (ssize_t)len)
        die("the other end is gone", "it has said why above");
}

static void post(struct end *end, struct xfer *xfer, bool sends, size_t len)
{
    const struct transport_ops *ops = end->job->ops;
    *xfer = (struct xfer){.data = sends ? end->out : end->in,
                          .len = len,
                          .peer = 1 - end->rank,
                          .tag = &end->tag,
                          .status = TUTTI_IN_PROGRESS};
    tutti_status status = sends ? ops->send(end->transport, xfer) : ops->recv(end->transport, xfer);
    if (status == TUTTI_IN_PROGRESS)
        end->open++;
    else if (status != TUTTI_OK)
        die(sends ? "send" : "recv", status_sentence());
}

/* Nothing has come: until something may have. */
static void wait_for_event(const struct end *end)
{
    struct pollfd event = {.fd = end->job->ops->wait_fd(end->transport), .events = POLLIN};
    if (end->job->ops->arm(end->transport) && poll(&event, 1, STALL_MS) == 0)
        die("nothing moved for 10 s", end->job->ops->name);
}

/* Polls until every posted transfer has ended. */
static void drain(struct end *end)
{
    uint64_t since = 0; /* the clock is a system call in some guests: it is read rarely */
    unsigned idle = 0;
    while (end->open > 0) {
        struct xfer *done = end->job->ops->poll(end->transport);
        idle = done ? 0 : idle + 1;
        for (; done; done = done->next) {
            end->open--;
            if (done->status != TUTTI_OK)
                die("transfer", tutti_status_string(done->status));
        }
        if (idle > 0 && end->open > 0 && end->job->sleeps)
            wait_for_event(end);
        else if (idle % end->yield_polls == end->yield_polls - 1)
            sched_yield(); /* the two ends may share a core */
        if (idle % 65536 != 65535)
            continue;
        if (since == 0 || idle == 65535)
            since = clock_ms();
        else if (clock_ms() - since > STALL_MS)
            die("nothing moved for 10 s", end->job->ops->name);
    }
}

static void ping_pong(struct end *end, size_t len)
{
    post(end, &end->recvs[0], false, len);
    if (end->rank == 0) {
        post(end, &end->sends[0], true, len);
        drain(end);
    } else {
        drain(end);
        post(end, &end->sends[0], true, len);
        drain(end);
    }
}

/* One round of a window of transfers from rank 0 and one byte back. */
static void stream(struct end *end, size_t len)
{
    for (unsigned i = 0; i < end->job->window; i++)
        post(end, end->rank == 0 ? &end->sends[i] : &end->recvs[i], end->rank == 0, len);
    drain(end);
    post(end, end->rank == 0 ? &end->recvs[0] : &end->sends[0], end->rank == 1, 1);
    drain(end);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The time where it costs nothing, in units of its own; else the clock. */
static uint64_t stamp(void)
{
    uint64_t ticks = clock_ticks();
    return ticks != 0 ? ticks : clock_ns();
}

struct cost {
    double median_us, mean_us;
};

/* Runs `once` so often as fits into the time, when one takes so long; both ends agree. Each run is
 * a sample, as perftest has it, where it can be timed without the clock: else one of 16 runs. */
static struct cost measure_for(struct end *end, void (*once)(struct end *end, size_t len),
                               size_t len, double budget_us, double once_us)
{
    static const uint64_t least = REPS_LEAST, most = REPS_MOST;
    double samples[REPS_MOST] = {0}, fit = budget_us / once_us;
    uint64_t reps = fit < (double)least ? least : fit > (double)most ? most : (uint64_t)fit;
    uint64_t each = reps >= 16 * REPS_LEAST && clock_ticks() == 0 ? 16 : 1;
    uint64_t number[2] = {reps / each, each};
    if (end->rank == 0)
        tell(end, number, sizeof number);
    else
        hear(end, number, sizeof number);
    reps = number[0];
    uint64_t begin_ns = clock_ns(), begin = stamp(), last = begin;
    for (uint64_t i = 0; i < reps; i++) {
        for (uint64_t k = 0; k < number[1]; k++)
            once(end, len);
        uint64_t now = stamp();
        samples[i] = (double)(now - last) / (double)number[1];
        last = now;
    }
    double total_us = (double)(clock_ns() - begin_ns) / 1e3;
    qsort(samples, reps, sizeof *samples, compare);
    return (struct cost){.median_us = samples[reps / 2] * total_us / (double)(last - begin),
                         .mean_us = total_us / (double)(reps * number[1])};
}

/* Runs it twice to learn its cost, then for a moment to learn it better, then in earnest. */
static struct cost measure(struct end *end, void (*once)(struct end *end, size_t len), size_t len)
{
    once(end, len);
    uint64_t begin_ns = clock_ns();
    once(end, len);
    double once_us = (double)(clock_ns() - begin_ns) / 1e3;
    once_us = measure_for(end, once, len, BUDGET_US / 4, once_us).median_us;
    return measure_for(end, once, len, BUDGET_US, once_us);
}

/* The scheduler takes a moment until the ends and the kernel's threads have found their places. */
static void warm_up(struct end *end)
{
    char more = 1;
    for (uint64_t until = clock_ms() + WARM_UP_MS; more;) {
        for (int i = 0; i < 16; i++)
            ping_pong(end, end->job->min_bytes);
        more = clock_ms() < until;
        if (end->rank == 0)
            tell(end, &more, 1);
        else
            hear(end, &more, 1);
    }
}

/* Least squares of sum(((alpha + beta s - t) / t)^2): two linear equations. */
static void fit(const double *bytes, const double *us, size_t count, double *alpha, double *beta)
{
    double w = 0, ws = 0, wss = 0, wt = 0, wst = 0;
    for (size_t i = 0; i < count; i++) {
        double weight = 1 / (us[i] * us[i]);
        w += weight;
        ws += weight * bytes[i];
        wss += weight * bytes[i] * bytes[i];
        wt += weight * us[i];
        wst += weight * bytes[i] * us[i];
    }
    double determinant = w * wss - ws * ws;
    *beta = determinant > 0 ? (w * wst - ws * wt) / determinant : 0;
    *alpha = (wt - *beta * ws) / w;
}

static void measure_sizes(struct end *end)
{
    double bytes[SIZES_MAX], us[SIZES_MAX];
    size_t count = 0;
    warm_up(end);
    for (uint64_t len = end->job->min_bytes; len <= end->job->max_bytes && count < SIZES_MAX;
         len *= end->job->factor) {
        struct cost trip = measure(end, ping_pong, (size_t)len);
        double half = trip.median_us / 2, round = measure(end, stream, (size_t)len).mean_us;
        bytes[count] = (double)len;
        us[count++] = half;
        if (end->rank == 0) {
            printf("%-8s %12llu %12.2f %12.4g %12.4g %12.2f\n", end->job->ops->name,
                   (unsigned long long)len, half, (double)len / half / 1e3,
                   (double)len * end->job->window / round / 1e3, trip.mean_us / 2);
            output_flush(stdout, &end->unwritten);
        }
    }
    if (end->rank == 0 && count > 1) {
        double alpha, beta, prior_alpha, prior_beta;
        fit(bytes, us, count, &alpha, &beta);
        end->job->ops->model(end->transport, &prior_alpha, &prior_beta);
        if (beta > 0)
            printf("# %-6s measured: alpha %.2f us, beta %.3g us/byte (%.3g GB/s)\n",
                   end->job->ops->name, alpha, beta, 1e-3 / beta);
        else
            printf("# %-6s measured: no time that grows with the size; take larger ones (-e)\n",
                   end->job->ops->name);
        printf("# %-6s prior:    alpha %.2f us, beta %.3g us/byte (%.3g GB/s)\n",
               end->job->ops->name, prior_alpha, prior_beta,
               prior_beta > 0 ? 1e-3 / prior_beta : 0);
        output_flush(stdout, &end->unwritten);
    }
}

/* Opens the transport and links it to the other end. */
static void meet(struct end *end, const struct transport_config *config)
{
    const struct transport_ops *ops = end->job->ops;
    unsigned char mine[TRANSPORT_ADDRESS_MAX] = {0}, theirs[TRANSPORT_ADDRESS_MAX];
    size_t len = sizeof mine, their_len = 0;
    if (ops->open(config, &end->transport) != TUTTI_OK)
        die("open", status_sentence());
    if (ops->address(end->transport, mine, &len) != TUTTI_OK)
        die("address", status_sentence());
    tell(end, &len, sizeof len);
    tell(end, mine, sizeof mine);
    hear(end, &their_len, sizeof their_len);
    hear(end, theirs, sizeof theirs);
    if (!ops->reaches(end->transport, 1 - end->rank, theirs, their_len))
        die(ops->name, "does not reach the other end");
    if (ops->connect(end->transport, 1 - end->rank, theirs, their_len) != TUTTI_OK)
        die("connect", status_sentence());
}

static void run_end(struct end *end)
{
    static const uint8_t secret[32];
    static const char *const names[] = {"end 0", "end 1"};
    struct settings settings;
    size_t bytes = (size_t)end->job->max_bytes;
    if (settings_load(&settings) != TUTTI_OK)
        die("settings", status_sentence());
    end->yield_polls = end->job->crowded ? 64 : 1024;
    struct transport_config config = {.rank = end->rank,
                                      .size = 2,
                                      .lanes = 1,
                                      .comm_id = 0x6c696e6b,
                                      .secret = secret,
                                      .settings = &settings,
                                      .peer_names = names,
                                      .crowded = end->job->crowded};
    void *in = NULL, *out = NULL;
    if (end->job->ordinary) {
        in = calloc(1, bytes);
        out = calloc(1, bytes);
    } else if (tutti_mem_alloc(bytes, &in) != TUTTI_OK ||
               tutti_mem_alloc(bytes, &out) != TUTTI_OK) {
        die("buffers", tutti_last_error());
    }
    if (in == NULL || out == NULL)
        die("buffers", "out of memory");
    end->in = in;
    end->out = out;
    memset(end->out, (int)end->rank + 1, bytes);
    meet(end, &config);
    end->eventless = end->job->sleeps && end->job->ops->wait_fd(end->transport) < 0;
    if (!end->eventless)
        measure_sizes(end);
    else if (end->rank == 0)
        printf("# %-6s has no events to sleep on (-s)\n", end->job->ops->name);
    char bye = 0; /* nobody closes while the other may still poll */
    tell(end, &bye, 1);
    hear(end, &bye, 1);
    end->job->ops->close(end->transport);
    if (end->job->ordinary) {
        free(in);
        free(out);
    } else {
        tutti_mem_free(in);
        tutti_mem_free(out);
    }
}

/* As `ip netns exec` would start it. */
static void enter_host(const char *name)
{
    char path[256];
    if (name == NULL)
        return;
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
        die(path, strerror(errno));
    close(fd);
}

static void *thread_end(void *argument)
{
    struct end *end = argument;
    enter_host(end->job->hosts[end->rank]);
    cores_bind(end->rank); /* a restricted machine measures unpinned */
    run_end(end);
    return NULL;
}

/* Measures one transport; false when it failed. */
static bool run_job(const struct job *job)
{
    int channel[2];
    struct end *ends = calloc(2, sizeof *ends);
    if (ends == NULL || socketpair(AF_UNIX, SOCK_STREAM, 0, channel) != 0)
        die("socket pair", strerror(errno));
    for (uint32_t r = 0; r < 2; r++)
        ends[r] = (struct end){.job = job, .rank = r, .channel = channel[r]};
    bool good = true;
    if (strcmp(job->ops->name, "inproc") == 0) {
        pthread_t threads[2];
        for (unsigned r = 0; r < 2; r++) {
            if (pthread_create(&threads[r], NULL, thread_end, &ends[r]) != 0)
                die("thread", "cannot be started");
        }
        for (unsigned r = 0; r < 2; r++)
            pthread_join(threads[r], NULL);
        end_table(ends[0].unwritten);
        good = !(job->named && ends[0].eventless);
    } else {
        pid_t pids[2], parent = getpid();
        fflush(NULL);
        for (unsigned r = 0; r < 2; r++) {
            pids[r] = fork();
            if (pids[r] == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                pipe_ends_all(parent);
                close(channel[1 - r]);
                thread_end(&ends[r]);
                end_table(ends[r].unwritten);
                bool bad = job->named && ends[r].eventless;
                free(ends);
                exit(bad ? 3 : 0);
            }
        }
        close(channel[0]);
        close(channel[1]);
        for (unsigned r = 0; r < 2; r++) {
            int status = 1;
            waitpid(pids[r], &status, 0);
            good = good && status == 0;
        }
    }
    free(ends);
    return good;
}

static const char help[] =
    "usage: link_perf [-b BYTES] [-e BYTES] [-f FACTOR] [-w N] [-m] [-s] [-N A,B]\n"
    "                 [TRANSPORT...]\n"
    "\n"
    "Latency and bandwidth of each transport between two ranks of this machine.\n"
    "  -b BYTES   first size (1)\n"
    "  -e BYTES   last size (16M); sizes take K, M and G (powers of 1,024)\n"
    "  -f FACTOR  from size to size (4)\n"
    "  -m         ordinary memory, not that of tutti_mem_alloc\n"
    "  -w N       transfers in flight of the stream, at most 64 (16)\n"
    "  -s         sleep until an event comes instead of polling\n"
    "  -N A,B     one end in network namespace A, the other in B (see ip-netns)\n"
    "  -h, --help             --version\n"
    "Exit status: 0 good; 2 a mistake in the command line or in a setting; 3 a\n"
    "transport failed, or one that was named does not work here.\n"
    "Transports (without one: all that work here):";

static void list_transports(FILE *file)
{
    for (size_t t = 0; transport_table[t]; t++)
        fprintf(file, "%s %s", t > 0 ? "," : "", transport_table[t]->name);
    fputs("\n", file);
}

/* "a,b" into two names; false when it is not that. */
static bool read_hosts(char *text, const char **hosts)
{
    char *comma = strchr(text, ',');
    if (comma == NULL || comma == text || comma[1] == '\0')
        return false;
    *comma = '\0';
    hosts[0] = text;
    hosts[1] = comma + 1;
    return true;
}

/* What a letter says; false with a sentence. */
static bool read_option(int letter, struct job *job)
{
    uint64_t *number = letter == 'b'   ? &job->min_bytes
                       : letter == 'e' ? &job->max_bytes
                       : letter == 'f' ? &job->factor
                       : letter == 'w' ? &job->window
                                       : NULL;
    bool good = letter != '?'; /* getopt has said why */
    if (letter == 'm') {
        job->ordinary = true;
    } else if (letter == 's') {
        job->sleeps = true;
    } else if (number && !settings_number(optarg, number)) {
        fprintf(stderr, "link_perf: -%c wants a number (K, M, G allowed), not \"%s\"\n", letter,
                optarg);
        good = false;
    } else if (letter == 'N' && !read_hosts(optarg, job->hosts)) {
        fprintf(stderr, "link_perf: -N wants two network namespaces, A,B, not \"%s\"\n", optarg);
        good = false;
    }
    return good;
}

/* -1, or the status to exit with, when the reason has been said. */
static int read_options(int argc, char **argv, struct job *job)
{
    static const struct option words[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
    int letter;
    while ((letter = getopt_long(argc, argv, "b:e:f:w:msN:h", words, NULL)) != -1) {
        if (letter == 'h')
            return fputs(help, stdout), list_transports(stdout), 0;
        if (letter == 'V')
            return output_version("link_perf"), 0;
        if (!read_option(letter, job))
            return 2;
    }
    if (job->min_bytes == 0 || job->max_bytes < job->min_bytes || job->max_bytes > BYTES_MAX)
        return fprintf(stderr,
                       "link_perf: sizes must satisfy 1 <= -b <= -e <= 64G, not -b %llu -e %llu\n",
                       (unsigned long long)job->min_bytes, (unsigned long long)job->max_bytes),
               2;
    if (job->factor < 2 || job->factor > FACTOR_MAX)
        return fputs("link_perf: -f must be 2 to 1M\n", stderr), 2;
    if (job->window == 0 || job->window > WINDOW_MAX)
        return fprintf(stderr, "link_perf: -w must be 1 to %d\n", WINDOW_MAX), 2;
    for (int i = optind; i < argc; i++) {
        if (transport_find(argv[i]) != NULL)
            continue;
        fprintf(stderr, "link_perf: no transport is called \"%s\"; there are", argv[i]);
        return list_transports(stderr), 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct job job = {.min_bytes = 1,
                      .max_bytes = 16u << 20,
                      .factor = 4,
                      .window = WINDOW,
                      .crowded = cores_allowed() < 2};
    output_hold();
    int status = read_options(argc, argv, &job);
    if (status >= 0) {
        end_table(0);
        return status;
    }
    job.named = optind < argc;
    struct settings settings;
    if (settings_load(&settings) != TUTTI_OK)
        return fprintf(stderr, "link_perf: %s\n", status_sentence()), 2;
    enter_host(job.hosts[0]); /* what works there is asked below */
    printf("# %-6s %12s %12s %12s %12s %12s\n# %-6s %12s %12s %12s %12s %12s\n", "link", "size",
           "latency", "ping-pong", "stream", "mean", "", "bytes", "us", "GB/s", "GB/s", "us");
    end_table(0);
    bool good = true;
    for (size_t t = 0; transport_table[t]; t++) {
        char why[256] = "";
        bool wanted = !job.named;
        job.ops = transport_table[t];
        for (int i = optind; i < argc; i++)
            wanted = wanted || strcmp(argv[i], job.ops->name) == 0;
        if (!wanted)
            continue;
        if (job.ops->probe(&settings, why, sizeof why)) {
            good = run_job(&job) && good;
        } else {
            printf("# %-6s does not work here: %s\n", job.ops->name, why);
            good = good && !job.named;
            end_table(0);
        }
    }
    end_table(0);
    return good ? 0 : 3;
}
