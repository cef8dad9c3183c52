/* test_bootstrap.c: the rendezvous, with ranks as threads and as processes, with strangers at the
 * door, with ranks that are missing, double or wrong, and under simulated launchers. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/sock.h"
#include "src/bootstrap.h"
#include "src/bootstrap_meet.h"
#include "tests/suite.h"

#define RANKS_MAX 256

/* One rank: what it claims, and what became of it. */
struct player {
    struct settings settings;
    const tutti_unique_id *id; /* NULL: from the settings (TUTTI_RENDEZVOUS) */
    uint32_t rank, size, gathers;
    size_t len;
    uint32_t delay_ms;
    bool leaves; /* after joining, without a word */
    tutti_status status;
    char sentence[SENTENCE_MAX];
    uint64_t took_ms;
    bool wrong;
};

static struct settings quick(uint64_t timeout_ms)
{
    struct settings settings;
    settings_defaults(&settings);
    settings.connect_timeout_ms = timeout_ms;
    return settings;
}

static void fill(uint8_t *block, size_t len, uint32_t rank, uint32_t round)
{
    for (size_t i = 0; i < len; i++)
        block[i] = (uint8_t)(rank * 7 + round * 31 + i);
}

static bool check(const uint8_t *out, const struct player *player, uint32_t round)
{
    uint8_t expected[1024];
    for (uint32_t r = 0; r < player->size; r++) {
        fill(expected, player->len, r, round);
        if (memcmp(out + r * player->len, expected, player->len) != 0)
            return false;
    }
    return true;
}

static void *play(void *argument)
{
    struct player *player = argument;
    struct bootstrap *bootstrap = NULL;
    uint64_t start = clock_ms();
    if (player->delay_ms)
        clock_sleep_us(player->delay_ms * 1000);
    player->status = player->id ? bootstrap_from_id(&player->settings, player->id, player->rank,
                                                    player->size, &bootstrap)
                                : bootstrap_from_env(&player->settings, &bootstrap);
    if (player->status == TUTTI_OK && !player->leaves) {
        uint8_t block[1024], *out = malloc(player->size * player->len + 1);
        player->wrong =
            bootstrap_rank(bootstrap) != player->rank || bootstrap_size(bootstrap) != player->size;
        for (uint32_t i = 0; i < player->gathers && player->status == TUTTI_OK; i++) {
            fill(block, player->len, player->rank, i);
            player->status = bootstrap_allgather(bootstrap, block, out, player->len);
            if (player->status == TUTTI_OK && !check(out, player, i))
                player->wrong = true;
        }
        free(out);
    }
    if (player->status != TUTTI_OK)
        snprintf(player->sentence, sizeof player->sentence, "%s", status_sentence());
    bootstrap_free(bootstrap);
    player->took_ms = clock_ms() - start;
    return NULL;
}

static struct player *cast(uint32_t size, const tutti_unique_id *id, uint64_t timeout_ms)
{
    struct player *players = calloc(size, sizeof *players);
    for (uint32_t r = 0; r < size; r++)
        players[r] = (struct player){.settings = quick(timeout_ms),
                                     .id = id,
                                     .rank = r,
                                     .size = size,
                                     .gathers = 3,
                                     .len = 200};
    return players;
}

static void play_all(struct player *players, uint32_t count)
{
    pthread_t threads[RANKS_MAX];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 512 << 10);
    for (uint32_t r = 0; r < count; r++)
        pthread_create(&threads[r], &small, play, &players[r]);
    for (uint32_t r = 0; r < count; r++)
        pthread_join(threads[r], NULL);
    pthread_attr_destroy(&small);
}

static void expect_all_well(const struct player *players, uint32_t count)
{
    for (uint32_t r = 0; r < count; r++) {
        CU_ASSERT_EQUAL(players[r].status, TUTTI_OK);
        CU_ASSERT_FALSE(players[r].wrong);
        if (players[r].status != TUTTI_OK)
            printf("    rank %u: %s\n", r, players[r].sentence);
    }
}

static void expect_sentence(const struct player *player, tutti_status status, const char *part)
{
    CU_ASSERT_EQUAL(player->status, status);
    bool found = strstr(player->sentence, part) != NULL;
    CU_ASSERT_TRUE(found);
    if (!found || player->status != status)
        printf("    rank %u: status %d, \"%s\" lacks \"%s\"\n", player->rank, player->status,
               player->sentence, part);
}

static int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 2048; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_bootstrap_joins_threads(void)
{
    static const uint32_t sizes[] = {1, 2, 3, 7, 64};
    int before = open_descriptors();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct settings settings = quick(10000);
        tutti_unique_id id;
        CU_ASSERT_EQUAL_FATAL(bootstrap_unique_id(&settings, &id), TUTTI_OK);
        struct player *players = cast(sizes[i], &id, 10000);
        play_all(players, sizes[i]);
        expect_all_well(players, sizes[i]);
        free(players);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

static void test_bootstrap_names_a_size_that_differs(void)
{
    struct settings settings = quick(5000);
    tutti_unique_id id;
    CU_ASSERT_EQUAL_FATAL(bootstrap_unique_id(&settings, &id), TUTTI_OK);
    struct player *players = cast(4, &id, 5000);
    players[3].size = 8;
    play_all(players, 4);
    for (uint32_t r = 0; r < 4; r++) {
        expect_sentence(&players[r], TUTTI_ERR_CONNECT, "rank 3 (host ");
        expect_sentence(&players[r], TUTTI_ERR_CONNECT,
                        "says the communicator has 8 ranks, rank 0");
        CU_ASSERT_TRUE(players[r].took_ms < 3000);
    }
    free(players);
}

static const struct suite_test tests[] = {
    {"bootstrap_names_a_size_that_differs", test_bootstrap_names_a_size_that_differs},
    {"bootstrap_joins_threads", test_bootstrap_joins_threads},
};

int main(int argc, char **argv)
{
    return suite_run("bootstrap", tests, sizeof tests / sizeof *tests, argc, argv);
}
