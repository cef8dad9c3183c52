/* test_forks.c: a fork while another thread holds one of the library's locks: the child, which has
 * no such thread, uses what the lock guards, and does not wait for it.
 *
 * What the library calls while it holds a lock for the first time is ours here, and waits in the
 * parent until the fork is over; so the lock is held for sure. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "src/bootstrap_meet.h"
#include "src/mem/mem_cuda_driver.h"
#include "src/topology.h"
#include "tests/suite.h"
#include "transports/transport.h"

#define CHILD_LIMIT_S 60
#define INSIDE_MS     60000

enum { UNARMED, ARMED, INSIDE };
enum place { IN_HWLOC, IN_GETRANDOM, IN_DLOPEN, IN_OPEN, IN_FSTAT };
static atomic_int state;
static enum place where;

static void hold(enum place here)
{
    int armed = ARMED;
    if (here != where || !atomic_compare_exchange_strong(&state, &armed, INSIDE))
        return;
    while (atomic_load(&state) == INSIDE)
        clock_sleep_us(1000);
}

int hwloc_topology_load(void *machine);
int hwloc_topology_load(void *machine)
{
    int (*load)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "hwloc_topology_load");
    hold(IN_HWLOC);
    return load(machine);
}

ssize_t getrandom(void *bytes, size_t len, unsigned flags)
{
    hold(IN_GETRANDOM);
    return syscall(SYS_getrandom, bytes, len, flags);
}

void *dlopen(const char *name, int flags)
{
    void *(*open)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    hold(IN_DLOPEN);
    return open(name, flags);
}

int open64(const char *name, int flags, ...)
{
    va_list mode;
    va_start(mode, flags);
    hold(IN_OPEN);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, flags, va_arg(mode, int));
    va_end(mode);
    return fd;
}

int fstat64(int fd, struct stat64 *info)
{
    hold(IN_FSTAT);
    return (int)syscall(SYS_fstat, fd, info);
}

static void *work_of_thread(void *work)
{
    ((void (*)(void))work)();
    return NULL;
}

/* A child that is forked in the midst of the work, at that place, does it as well. */
static void expect_child_works(void (*work)(void), enum place place)
{
    pthread_t thread;
    int status = -1;
    where = place;
    atomic_store(&state, ARMED);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, work_of_thread, (void *)work), 0);
    uint64_t deadline = clock_ms() + INSIDE_MS;
    while (atomic_load(&state) != INSIDE && clock_ms() < deadline)
        clock_sleep_us(1000);
    CU_ASSERT_EQUAL(atomic_load(&state), INSIDE);
    pid_t child = fork();
    atomic_store(&state, UNARMED);
    if (child == 0) {
        alarm(CHILD_LIMIT_S);
        work();
        _exit(0);
    }
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void open_inproc(void)
{
    static const uint8_t secret[32];
    struct settings settings;
    struct transport *transport;
    settings_defaults(&settings);
    struct transport_config config = {
        .size = 2, .lanes = 1, .comm_id = 7, .secret = secret, .settings = &settings};
    const struct transport_ops *ops = transport_find("inproc");
    if (ops->open(&config, &transport) != TUTTI_OK)
        _exit(1);
    ops->close(transport);
}

static void test_forks_find_the_threads_of_a_process_free(void)
{
    expect_child_works(open_inproc, IN_GETRANDOM);
}

static void probe_topology(void)
{
    struct settings settings;
    struct host_record record;
    settings_defaults(&settings);
    if (topology_probe(&settings, &record) != TUTTI_OK)
        _exit(1);
}

static void test_forks_find_the_topology_free(void)
{
    expect_child_works(probe_topology, IN_HWLOC);
}

static void open_driver(void)
{
    const struct cuda_driver *driver;
    (void)mem_cuda_driver_open(&driver); /* there may be none */
}

static void test_forks_find_the_driver_free(void)
{
    expect_child_works(open_driver, IN_DLOPEN);
}

static void open_log(void)
{
    if (log_set_file("/dev/null") != TUTTI_OK || log_set_file("") != TUTTI_OK)
        _exit(1);
}

static void test_forks_find_the_log_free(void)
{
    expect_child_works(open_log, IN_OPEN);
}

static void greet_launcher(void)
{
    char text[LAUNCHER_TEXT_MAX] = "";
    if (bootstrap_pmi1_share(0, text, clock_ms() + 1000) != TUTTI_ERR_CONNECT)
        _exit(1); /* there is no such descriptor */
}

static void test_forks_find_the_launcher_free(void)
{
    setenv("PMI_FD", "1000000", 1);
    expect_child_works(greet_launcher, IN_FSTAT);
    unsetenv("PMI_FD");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"find_the_threads_of_a_process_free", test_forks_find_the_threads_of_a_process_free},
        {"find_the_topology_free", test_forks_find_the_topology_free},
        {"find_the_driver_free", test_forks_find_the_driver_free},
        {"find_the_log_free", test_forks_find_the_log_free},
        {"find_the_launcher_free", test_forks_find_the_launcher_free},
    };
    return suite_run("forks", tests, sizeof tests / sizeof *tests, argc, argv);
}
