/* players.c: see players.h. */
#include "tests/players.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/seats.h"
#include "tests/still.h"
#include "tests/suite.h"

struct settings quick(uint64_t timeout_ms)
{
    struct settings settings;
    settings_defaults(&settings);
    settings.meet_timeout_ms = timeout_ms;
    return settings;
}

/* After the first round blocks end in zeros, some more than others; some of the third are nothing
 * else. */
static void fill(uint8_t *block, size_t len, uint32_t rank, uint32_t round)
{
    size_t used = round == 0 ? len : round == 1 ? len / (rank % 3 + 2) : rank % 2 * len / 2;
    for (size_t i = 0; i < len; i++)
        block[i] = i < used ? (uint8_t)(rank * 7 + round * 31 + i) : 0;
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

static tutti_status look(void *argument)
{
    struct player *player = argument;
    struct bootstrap_word word = {player->cancel, player->rank, player->size};
    tutti_status status = bootstrap_check_word(&word);
    atomic_fetch_add(status == TUTTI_OK ? &player->looks : &player->refused, 1);
    return status;
}

void *play(void *argument)
{
    struct player *player = argument;
    struct bootstrap *bootstrap = NULL;
    uint64_t start = clock_ms();
    if (player->delay_ms)
        clock_sleep_us(player->delay_ms * 1000);
    if (player->seated)
        seats_await(player->seated);
    for (int i = 0; player->after && i < 20000 && !atomic_load(player->after); i++)
        clock_sleep_us(1000);
    still_begin(player->still);
    struct cancel cancel = {look, player};
    player->status =
        player->id ? bootstrap_from_id(&player->settings, player->id, player->rank, player->size,
                                       player->cancel ? &cancel : NULL, &bootstrap)
                   : bootstrap_from_env(&player->settings, &bootstrap);
    atomic_store(&player->joined, player->status == TUTTI_OK);
    while (player->status == TUTTI_OK && player->pauses && !atomic_load(player->pauses))
        clock_sleep_us(200);
    if (player->status == TUTTI_OK && !player->leaves) {
        uint8_t block[1024], *out = malloc(player->size * player->len + 1);
        player->wrong =
            bootstrap_rank(bootstrap) != player->rank || bootstrap_size(bootstrap) != player->size;
        for (uint32_t i = 0; i < player->gathers && player->status == TUTTI_OK; i++) {
            fill(block, player->len, player->rank, i);
            if (out)
                memset(out, 0xee, player->size * player->len);
            player->status = out ? bootstrap_allgather(bootstrap, block, out, player->len)
                                 : fail(TUTTI_ERR_NOMEM, "no memory in the test itself");
            if (player->status == TUTTI_OK && !check(out, player, i))
                player->wrong = true;
        }
        free(out);
    }
    if (player->status != TUTTI_OK)
        snprintf(player->sentence, sizeof player->sentence, "%s", status_sentence());
    bootstrap_free(bootstrap);
    player->took_ms = clock_ms() - start;
    still_end();
    atomic_store(&player->ended, true);
    return NULL;
}

struct player *cast(uint32_t size, const tutti_unique_id *id, uint64_t timeout_ms)
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

void play_all(struct player *players, uint32_t count)
{
    pthread_t threads[PLAYERS_MAX];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 512 << 10);
    for (uint32_t r = 0; r < count; r++)
        pthread_create(&threads[r], &small, play, &players[r]);
    for (uint32_t r = 0; r < count; r++)
        pthread_join(threads[r], NULL);
    pthread_attr_destroy(&small);
}

void expect_all_well(const struct player *players, uint32_t count)
{
    for (uint32_t r = 0; r < count; r++) {
        CU_ASSERT_EQUAL(players[r].status, TUTTI_OK);
        CU_ASSERT_FALSE(players[r].wrong);
        if (players[r].status != TUTTI_OK)
            printf("    rank %u: %s\n", r, players[r].sentence);
    }
}

void expect_sentence(const struct player *player, tutti_status status, const char *part)
{
    CU_ASSERT_EQUAL(player->status, status);
    bool found = strstr(player->sentence, part) != NULL;
    CU_ASSERT_TRUE(found);
    if (!found || player->status != status)
        printf("    rank %u: status %d, \"%s\" lacks \"%s\"\n", player->rank, player->status,
               player->sentence, part);
}

int open_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 2048; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}
