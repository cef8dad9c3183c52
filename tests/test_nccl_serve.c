/* test_nccl_serve.c: ids of the NCCL face whose maker holds no rank, forks its ranks, comes late,
 * dies, or never uses them. */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/nccl_world.h"
#include "tests/seats.h"

#define RANKS_MAX 8

/* In memory that processes share. */
struct scene {
    atomic_int ready; /* the id is there */
    atomic_int aborts;
    ncclUniqueId id;
    int size;
    struct {
        int delay_ms;
        bool nonblocking;
        int wrong; /* what was, in its process; -1: it has not ended */
        ncclResult_t result;
        char sentence[512];
        double took_s;
    } ranks[RANKS_MAX];
};

static struct scene *scene_new(int size)
{
    struct scene *scene =
        mmap(NULL, sizeof *scene, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(scene != MAP_FAILED);
    scene->size = size;
    for (int r = 0; r < RANKS_MAX; r++)
        scene->ranks[r].wrong = -1;
    return scene;
}

static void scene_end(struct scene *scene)
{
    munmap(scene, sizeof *scene);
}

static void make_id(struct scene *scene)
{
    CU_ASSERT_EQUAL(ncclGetUniqueId(&scene->id), ncclSuccess);
    atomic_store(&scene->ready, 1);
}

/* A non-blocking rank is aborted while it is made, when the scene says so. */
static ncclResult_t init(struct scene *scene, int rank, ncclComm_t *comm)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (!scene->ranks[rank].nonblocking)
        return ncclCommInitRank(comm, scene->size, scene->id, rank);
    config.blocking = 0;
    ncclResult_t result = ncclCommInitRankConfig(comm, scene->size, scene->id, rank, &config);
    while (!atomic_load(&scene->aborts))
        usleep(1000);
    ncclCommAbort(*comm);
    *comm = NULL;
    return result;
}

static void be_rank(struct scene *scene, int rank)
{
    ncclComm_t comm = NULL;
    while (!atomic_load(&scene->ready))
        usleep(200);
    usleep((useconds_t)scene->ranks[rank].delay_ms * 1000);
    double start = nccl_world_seconds();
    ncclResult_t result = init(scene, rank, &comm);
    scene->ranks[rank].took_s = nccl_world_seconds() - start;
    scene->ranks[rank].result = result;
    snprintf(scene->ranks[rank].sentence, sizeof scene->ranks[rank].sentence, "%s",
             ncclGetLastError(NULL));
    int wrong = 0;
    if (result == ncclSuccess) {
        wrong += nccl_world_works(comm, rank, rank, scene->size);
        wrong += OK(ncclCommDestroy(comm));
    }
    scene->ranks[rank].wrong = wrong;
}

/* gcc 12's address sanitizer leaves to a child the locks that other threads hold in it, and the
 * child waits for them for ever. There nobody forks before those are asleep, nor wakes them. */
#if defined(__SANITIZE_ADDRESS__)
#define FORKS_BESIDE_THREADS false
#else
#define FORKS_BESIDE_THREADS true
#endif

static bool is_awake(const char *thread)
{
    char path[64], state = 'S';
    snprintf(path, sizeof path, "/proc/self/task/%.16s/stat", thread);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 'S'; /* it has ended */
    if (file)
        fclose(file);
    return state != 'S' && atoi(thread) != gettid();
}

static void let_threads_sleep(void)
{
    for (int awake = 1; !FORKS_BESIDE_THREADS && awake > 0;) {
        DIR *list = opendir("/proc/self/task");
        usleep(1000);
        awake = 0;
        for (struct dirent *entry; (entry = readdir(list));)
            awake += entry->d_name[0] != '.' && is_awake(entry->d_name);
        closedir(list);
    }
}

static pid_t fork_rank(struct scene *scene, int rank)
{
    let_threads_sleep();
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return child;
    be_rank(scene, rank);
    _exit(0);
}

static void fork_ranks(struct scene *scene, int count, pid_t *children)
{
    for (int r = 0; r < count; r++)
        children[r] = fork_rank(scene, r);
}

static void wait_for(const pid_t *children, int count)
{
    for (int r = 0; r < count; r++)
        waitpid(children[r], NULL, 0);
}

static void expect_all_well(const struct scene *scene)
{
    for (int r = 0; r < scene->size; r++) {
        bool well = scene->ranks[r].result == ncclSuccess && scene->ranks[r].wrong == 0;
        CU_ASSERT(well);
        if (!well)
            printf("    rank %d: %d, %d wrong: %s\n", r, (int)scene->ranks[r].result,
                   scene->ranks[r].wrong, scene->ranks[r].sentence);
    }
}

static void expect_lost(const struct scene *scene, int rank, const char *part)
{
    bool right = scene->ranks[rank].result == ncclRemoteError &&
                 strstr(scene->ranks[rank].sentence, part) && scene->ranks[rank].took_s < 10;
    CU_ASSERT(right);
    if (!right)
        printf("    rank %d: %d after %.1f s, '%s' lacks '%s'\n", rank,
               (int)scene->ranks[rank].result, scene->ranks[rank].took_s,
               scene->ranks[rank].sentence, part);
}

static int entries(const char *directory)
{
    DIR *list = opendir(directory);
    int count = 0;
    while (list && readdir(list))
        count++;
    if (list)
        closedir(list);
    return count;
}

static int threads(void)
{
    return entries("/proc/self/task");
}

/* Threads end a moment after what they waited for. */
static void expect_threads(int most)
{
    for (int i = 0; i < 2000 && threads() > most; i++)
        usleep(1000);
    CU_ASSERT(threads() <= most);
}

/* ---- makers -----------------------------------------------------------------------------------
 */

static void test_nccl_serve_a_maker_without_a_rank(void)
{
    static const int sizes[] = {1, 2, 5};
    int before = threads(), descriptors = entries("/proc/self/fd");
    for (int i = 0; i < 3; i++) {
        pid_t children[RANKS_MAX];
        struct scene *scene = scene_new(sizes[i]);
        if (!FORKS_BESIDE_THREADS)
            expect_threads(before);
        fork_ranks(scene, scene->size, children);
        make_id(scene);
        wait_for(children, scene->size);
        expect_all_well(scene);
        scene_end(scene);
    }
    expect_threads(before);
    CU_ASSERT_EQUAL(entries("/proc/self/fd"), descriptors);
}

/* Rank 0 comes first, and is the root, or last; one that stays in the maker's process, or none. */
static void test_nccl_serve_a_maker_that_forks_its_ranks(void)
{
    int before = threads(), descriptors = entries("/proc/self/fd");
    for (int i = 0; i < 16; i++) {
        pid_t children[RANKS_MAX];
        int count = 0, own = i / 4 % 4;
        struct scene *scene = scene_new(1 + i % 4);
        if (!FORKS_BESIDE_THREADS)
            expect_threads(before);
        make_id(scene);
        atomic_store(&scene->ready, FORKS_BESIDE_THREADS);
        for (int r = 0; r < scene->size; r++) {
            scene->ranks[r].delay_ms = r == i % 3 ? i % 5 * 60 : 0;
            if (r != own)
                children[count++] = fork_rank(scene, r);
        }
        atomic_store(&scene->ready, 1);
        if (own < scene->size)
            be_rank(scene, own);
        wait_for(children, count);
        expect_all_well(scene);
        scene_end(scene);
    }
    expect_threads(before);
    CU_ASSERT_EQUAL(entries("/proc/self/fd"), descriptors);
}

/* The maker forks and ends at once: before the ranks come, which would be its to serve else. */
static void test_nccl_serve_a_maker_that_is_gone(void)
{
    struct scene *scene = scene_new(3);
    fflush(stdout);
    pid_t maker = fork();
    if (maker == 0) {
        ncclResult_t result = ncclGetUniqueId(&scene->id);
        for (int r = 0; r < 3; r++)
            fork_rank(scene, r);
        exit(result == ncclSuccess ? 0 : 1);
    }
    int status = -1;
    waitpid(maker, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    atomic_store(&scene->ready, 1);
    for (int i = 0; i < 20000 && (scene->ranks[0].wrong < 0 || scene->ranks[1].wrong < 0 ||
                                  scene->ranks[2].wrong < 0);
         i++)
        usleep(1000);
    expect_all_well(scene);
    scene_end(scene);
}

static void test_nccl_serve_a_maker_that_is_killed(void)
{
    struct scene *scene = scene_new(3);
    unsigned seats = seats_taken();
    pid_t children[2];
    fork_ranks(scene, 2, children);
    pid_t maker = fork();
    if (maker == 0) {
        make_id(scene);
        for (;;)
            pause();
    }
    seats_await(seats + 2);
    kill(maker, SIGKILL);
    waitpid(maker, NULL, 0);
    wait_for(children, 2);
    for (int r = 0; r < 2; r++)
        expect_lost(scene, r, "the unique id's maker at ");
    scene_end(scene);
}

/* ---- ranks ------------------------------------------------------------------------------------
 */

static void test_nccl_serve_a_rank_that_is_aborted(void)
{
    int before = threads();
    struct scene *scene = scene_new(4);
    pid_t children[3];
    unsigned seats = seats_taken();
    scene->ranks[1].nonblocking = true;
    fork_ranks(scene, 3, children);
    make_id(scene);
    seats_await(seats + 3);
    atomic_store(&scene->aborts, 1);
    wait_for(children, 3);
    expect_lost(scene, 0, "rank 1 (host ");
    expect_lost(scene, 2, "rank 1 (host ");
    expect_lost(scene, 2, "was aborted");
    expect_threads(before); /* latecomers would have been told for a while */
    scene_end(scene);
}

static void test_nccl_serve_a_rank_that_is_killed(void)
{
    int before = threads();
    struct scene *scene = scene_new(3);
    unsigned seats = seats_taken();
    pid_t children[2];
    fork_ranks(scene, 2, children);
    make_id(scene);
    seats_await(seats + 2);
    kill(children[0], SIGKILL);
    wait_for(children, 2);
    expect_lost(scene, 1, "rank 0 (host ");
    expect_threads(before); /* latecomers would have been told for a while */
    scene_end(scene);
}

/* ---- ids --------------------------------------------------------------------------------------
 */

/* A program ends with threads that wait, and no leak is found in it. */
static void test_nccl_serve_ids_that_nobody_uses(void)
{
    double start = nccl_world_seconds();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        ncclUniqueId id;
        for (int i = 0; i < 20; i++) {
            if (ncclGetUniqueId(&id) != ncclSuccess)
                exit(1);
        }
        exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT(nccl_world_seconds() - start < 5);
}

/* Each used at once, by the maker. */
static void test_nccl_serve_a_thousand_ids(void)
{
    int before = threads(), descriptors = entries("/proc/self/fd");
    for (int i = 0; i < 1000; i++) {
        ncclUniqueId id;
        ncclComm_t comm;
        bool fine = ncclGetUniqueId(&id) == ncclSuccess &&
                    ncclCommInitRank(&comm, 1, id, 0) == ncclSuccess &&
                    ncclCommDestroy(comm) == ncclSuccess;
        CU_ASSERT_FATAL(fine);
    }
    expect_threads(before);
    CU_ASSERT_EQUAL(entries("/proc/self/fd"), descriptors);
}

/* Those that the face made itself: of a group that was spoilt, and of a communicator that was to
 * grow and did not. */
static void test_nccl_serve_ids_of_what_was_not_made(void)
{
    int descriptors = entries("/proc/self/fd");
    for (int i = 0; i < 3; i++) {
        ncclComm_t comms[2];
        ncclUniqueId id;
        CU_ASSERT_EQUAL(ncclGroupStart(), ncclSuccess);
        CU_ASSERT_EQUAL(ncclCommInitAll(comms, 2, NULL), ncclSuccess);
        CU_ASSERT_EQUAL(ncclCommInitAll(NULL, 2, NULL), ncclInvalidArgument);
        CU_ASSERT_EQUAL(ncclGroupEnd(), ncclInvalidArgument);
        CU_ASSERT_EQUAL(entries("/proc/self/fd"), descriptors);
        CU_ASSERT_EQUAL_FATAL(ncclCommInitAll(comms, 1, NULL), ncclSuccess);
        CU_ASSERT_EQUAL(ncclCommGetUniqueId(comms[0], &id), ncclSuccess);
        CU_ASSERT_EQUAL(ncclCommDestroy(comms[0]), ncclSuccess);
        CU_ASSERT_EQUAL(entries("/proc/self/fd"), descriptors);
    }
}

/* What needs no service gets no thread. */
static void test_nccl_serve_no_more_than_needed(void)
{
    int before = threads();
    ncclComm_t comms[2];
    ncclUniqueId id;
    CU_ASSERT_EQUAL(ncclCommInitAll(comms, 2, NULL), ncclSuccess);
    expect_threads(before);
    for (int r = 0; r < 2; r++)
        ncclCommAbort(comms[r]);
    setenv("NCCL_COMM_ID", "127.0.0.1:29999", 1);
    for (int i = 0; i < 300; i++)
        CU_ASSERT_EQUAL(ncclGetUniqueId(&id), ncclSuccess);
    unsetenv("NCCL_COMM_ID");
    CU_ASSERT_EQUAL(threads(), before);
}

static void *nothing(void *argument)
{
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t first; /* with it comes the one of the thread sanitizer's own */
    if (pthread_create(&first, NULL, nothing, NULL) == 0)
        pthread_join(first, NULL);
    static const struct suite_test tests[] = {
        {"a_maker_without_a_rank", test_nccl_serve_a_maker_without_a_rank},
        {"a_maker_that_forks_its_ranks", test_nccl_serve_a_maker_that_forks_its_ranks},
        {"a_maker_that_is_gone", test_nccl_serve_a_maker_that_is_gone},
        {"a_maker_that_is_killed", test_nccl_serve_a_maker_that_is_killed},
        {"a_rank_that_is_aborted", test_nccl_serve_a_rank_that_is_aborted},
        {"a_rank_that_is_killed", test_nccl_serve_a_rank_that_is_killed},
        {"ids_that_nobody_uses", test_nccl_serve_ids_that_nobody_uses},
        {"a_thousand_ids", test_nccl_serve_a_thousand_ids},
        {"ids_of_what_was_not_made", test_nccl_serve_ids_of_what_was_not_made},
        {"no_more_than_needed", test_nccl_serve_no_more_than_needed},
    };
    return suite_run("nccl_serve", tests, sizeof tests / sizeof *tests, argc, argv);
}
