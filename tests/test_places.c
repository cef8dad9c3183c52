/* test_places.c: the rendezvous where its place was given as an address, and ranks that are called
 * away from it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/owned.h"
#include "base/sock.h"
#include "src/bootstrap_meet.h"
#include "tests/players.h"
#include "tests/seats.h"
#include "tests/suite.h"

/* ---- addresses --------------------------------------------------------------------------------
 */

static uint16_t free_port(void)
{
    struct settings settings = quick(1000);
    struct sock_addresses addresses;
    struct sock_address bound;
    int fd = -1;
    sock_parse(&settings, "127.0.0.1:0", &addresses);
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &addresses.list[0], 1, &fd, &bound), TUTTI_OK);
    owned_close(fd);
    return address_port(&bound);
}

static void test_places_meets_at_a_given_address(void)
{
    struct player *players = cast(5, NULL, 10000);
    uint16_t port = free_port();
    for (uint32_t r = 0; r < 5; r++) {
        struct settings *settings = &players[r].settings;
        snprintf(settings->rendezvous, SETTING_TEXT_MAX, "%s:%u", r % 2 ? "localhost" : "127.0.0.1",
                 port);
        settings->rank = r;
        settings->size = 5;
        snprintf(settings->secret, SETTING_TEXT_MAX, "of this job");
    }
    players[0].delay_ms = 300; /* the others come first */
    play_all(players, 5);
    expect_all_well(players, 5);
    play_all(players, 5); /* and again at the same port */
    expect_all_well(players, 5);
    free(players);
}

static void test_places_checks_the_given_address(void)
{
    static const char *const wrong[] = {"nonsense",     "127.0.0.1", "127.0.0.1:0",
                                        "0.0.0.0:5000", "[::]:5000", "127.0.0.1:99999"};
    struct bootstrap *bootstrap = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct settings settings = quick(300);
        snprintf(settings.rendezvous, SETTING_TEXT_MAX, "%s", wrong[i]);
        settings.size = 2;
        CU_ASSERT_EQUAL(bootstrap_from_env(&settings, &bootstrap), TUTTI_ERR_SETTING);
    }
    struct settings settings = quick(300);
    snprintf(settings.rendezvous, SETTING_TEXT_MAX, "127.0.0.1:5000");
    settings.rank = 2;
    settings.size = 2;
    CU_ASSERT_EQUAL(bootstrap_from_env(&settings, &bootstrap), TUTTI_ERR_SETTING);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_RANK=2 with TUTTI_SIZE=2"));
    snprintf(settings.rendezvous, SETTING_TEXT_MAX, "192.0.2.1:5000"); /* nobody's */
    settings.rank = 1;
    CU_ASSERT_EQUAL(bootstrap_from_env(&settings, &bootstrap), TUTTI_ERR_CONNECT);
}

/* ---- slow ranks -------------------------------------------------------------------------------
 */

#define STILL_MS 5600 /* longer than what is sent may stay unacknowledged elsewhere */

struct guest {
    struct settings settings;
    tutti_status status;
    char sentence[SENTENCE_MAX];
};

/* An allgather of which it takes the result after a while. */
static tutti_status gather_slowly(struct bootstrap *bootstrap, const void *in, void *out)
{
    const uint64_t until_ms = clock_ms() + 20000;
    const uint32_t len = BOOTSTRAP_BLOCK_MAX;
    struct gather_header header = {.magic = BOOTSTRAP_MAGIC, .len = len, .used = len};
    bootstrap->sequence++;
    tutti_status status = sock_send_all(bootstrap->fd, &header, sizeof header, until_ms, NULL);
    if (status == TUTTI_OK)
        status = sock_send_all(bootstrap->fd, in, len, until_ms, NULL);
    clock_sleep_us(STILL_MS * 1000);
    if (status == TUTTI_OK)
        status = sock_recv_all(bootstrap->fd, &header, sizeof header, until_ms, NULL);
    size_t all = (size_t)bootstrap->size * len;
    return status == TUTTI_OK ? sock_recv_all(bootstrap->fd, out, all, until_ms, NULL) : status;
}

static void *visit(void *argument)
{
    struct guest *guest = argument;
    struct bootstrap *bootstrap = NULL;
    const size_t len = BOOTSTRAP_BLOCK_MAX;
    uint8_t *in = malloc(len), *out = malloc(len * guest->settings.size);
    memset(in, 7, len);
    guest->status = bootstrap_from_env(&guest->settings, &bootstrap);
    if (guest->status == TUTTI_OK && guest->settings.rank == 1)
        guest->status = gather_slowly(bootstrap, in, out);
    else if (guest->status == TUTTI_OK)
        guest->status = bootstrap_allgather(bootstrap, in, out, len);
    if (guest->status == TUTTI_OK)
        guest->status = bootstrap_allgather(bootstrap, in, out, 4);
    snprintf(guest->sentence, sizeof guest->sentence, "%s", status_sentence());
    bootstrap_free(bootstrap);
    free(in);
    free(out);
    return NULL;
}

/* A rank that gets no turn while more is sent to it than its socket holds (its program comes from a
 * server of files, say) is not lost. Two addresses of the loopback are as two hosts here. */
static void test_places_waits_for_a_rank_without_a_turn(void)
{
    enum { SIZE = 4 };
    static struct guest guests[SIZE];
    pthread_t threads[SIZE];
    uint16_t port = free_port();
    for (uint32_t r = 0; r < SIZE; r++) {
        struct settings *settings = &guests[r].settings;
        *settings = quick(20000);
        snprintf(settings->rendezvous, SETTING_TEXT_MAX, "127.0.0.2:%u", port);
        settings->rank = r;
        settings->size = SIZE;
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[r], NULL, visit, &guests[r]), 0);
    }
    for (uint32_t r = 0; r < SIZE; r++) {
        pthread_join(threads[r], NULL);
        CU_ASSERT_EQUAL(guests[r].status, TUTTI_OK);
        if (guests[r].status != TUTTI_OK)
            printf("    rank %u: %s\n", r, guests[r].sentence);
    }
}

/* ---- cancelled --------------------------------------------------------------------------------
 */

#define LOOKS       10 /* of each who is cancelled, while it waits: some 200 ms */
#define LOOKS_AFTER 5  /* at most, to tell who wants to know */

struct canceller {
    struct player *players;
    unsigned mask, seated;
    int flag;
};

/* Not before so many ranks have come, and those in the mask have looked whether they are wanted. */
static void *cancel_when_they_wait(void *argument)
{
    struct canceller *canceller = argument;
    seats_await(canceller->seated);
    for (uint32_t r = 0; r < 3; r++) {
        struct player *player = &canceller->players[r];
        unsigned looks = atomic_load(&player->looks) + LOOKS;
        while (canceller->mask >> r & 1 && atomic_load(&player->looks) < looks &&
               !atomic_load(&player->ended))
            clock_sleep_us(1000);
    }
    __atomic_store_n(&canceller->flag, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Players from first to first + count - 1 of three, of whom so many come to a root, and those in
 * the mask are cancelled: each of them ends at once, and says so. */
static void play_cancelled(struct player *players, uint32_t first, uint32_t count, unsigned come,
                           unsigned mask)
{
    struct canceller cancel = {players, mask, seats_taken() + come, 0};
    pthread_t thread;
    for (uint32_t r = 0; r < 3; r++) {
        players[r].cancel = mask >> r & 1 ? &cancel.flag : NULL;
        players[r].looks = players[r].refused = 0;
        players[r].ended = false;
    }
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, cancel_when_they_wait, &cancel), 0);
    play_all(players + first, count);
    pthread_join(thread, NULL);
    for (uint32_t r = first; r < first + count; r++) {
        if (!(mask >> r & 1))
            continue;
        char says[64];
        snprintf(says, sizeof says, "rank %u of 3 aborted the communicator while it was", r);
        expect_sentence(&players[r], TUTTI_ERR_ABORTED, says);
        CU_ASSERT_TRUE(players[r].refused <= LOOKS_AFTER);
    }
}

static void test_places_ends_when_cancelled_before_all_have_come(void)
{
    struct settings settings = quick(20000);
    tutti_unique_id id;
    int before = open_descriptors();
    struct player *players = cast(3, &id, 20000);
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    play_cancelled(players, 1, 2, 0, 6); /* rank 0 listens, and never serves */
    play_cancelled(players, 0, 1, 0, 1); /* nobody else comes */
    id.bytes[16] ^= 1; /* of another job, which nobody here knows is over: nobody listens */
    play_cancelled(players, 1, 2, 0, 6);
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    play_cancelled(players, 0, 2, 1, 3); /* one has come */
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    play_cancelled(players, 0, 2, 1, 2); /* it is the one, which rank 0 is told */
    expect_sentence(&players[0], TUTTI_ERR_CONNECT, "left the rendezvous while 1 other rank was");
    CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
    play_cancelled(players, 0, 2, 1, 1); /* and the other way round */
    expect_sentence(&players[1], TUTTI_ERR_CONNECT, "rank 0 of 3 aborted the communicator");
    CU_ASSERT_EQUAL(open_descriptors(), before);
    free(players);
}

/* Rank 2 has come, but does not go on before another has ended: the root, where rank 1, whose block
 * the root has, is cancelled alone. */
static void test_places_ends_when_cancelled_in_an_allgather(void)
{
    int before = open_descriptors();
    for (unsigned mask = 1; mask < 4; mask++) {
        struct settings settings = quick(20000);
        tutti_unique_id id;
        CU_ASSERT_EQUAL_FATAL(bootstrap_root_id(&settings, &id), TUTTI_OK);
        struct player *players = cast(3, &id, 20000);
        players[2].pauses = &players[mask == 2 ? 0 : 1].ended;
        play_cancelled(players, 0, 3, 2, mask);
        CU_ASSERT_EQUAL(players[2].status, TUTTI_ERR_CONNECT);
        if (mask == 1)
            expect_sentence(&players[1], TUTTI_ERR_CONNECT, "rank 0 of 3 aborted the communicator");
        if (mask == 2)
            expect_sentence(&players[0], TUTTI_ERR_CONNECT, "rank 1 (host ");
        free(players);
    }
    CU_ASSERT_EQUAL(open_descriptors(), before);
}

/* ---- addresses in ids --------------------------------------------------------------------------
 */

/* Every rank makes the id by itself; the text of a host differs from rank to rank. */
static void test_places_meets_where_ids_say(void)
{
    static const char *const hosts[][2] = {
        {"127.0.0.1", "127.0.0.1"}, {"localhost", "127.0.0.1"}, {"[::1]", "[::1]"}};
    for (int i = 0; i < 3; i++) {
        tutti_unique_id ids[5];
        struct player *players = cast(5, NULL, 10000);
        uint16_t port = free_port();
        int before = open_descriptors();
        for (uint32_t r = 0; r < 5; r++) {
            char text[64];
            snprintf(text, sizeof text, "%s:%u", hosts[i][r % 2], port);
            setenv("NCCL_COMM_ID", text, 1);
            CU_ASSERT_EQUAL(bootstrap_id_from_env(&players[r].settings, &ids[r]), TUTTI_OK);
            players[r].id = &ids[r];
            snprintf(players[r].settings.secret, SETTING_TEXT_MAX, "of this job");
        }
        CU_ASSERT_EQUAL(open_descriptors(), before);
        players[0].delay_ms = 100; /* the others come first */
        play_all(players, 5);
        expect_all_well(players, 5);
        play_all(players, 5); /* and again with the same id */
        expect_all_well(players, 5);
        /* Who does not know the secret is turned away. */
        strcpy(players[4].settings.secret, "of another");
        players[4].status = TUTTI_OK;
        for (uint64_t ms = 500; ms < 20000 && players[4].status != TUTTI_ERR_AUTH; ms *= 2) {
            for (uint32_t r = 0; r < 5; r++)
                players[r].settings.meet_timeout_ms = ms; /* enough that all come */
            play_all(players, 5);
        }
        expect_sentence(&players[4], TUTTI_ERR_AUTH, "its job secret is another than rank 0's");
        expect_sentence(&players[0], TUTTI_ERR_CONNECT, "1 connection was turned away");
        /* Rank 0 alone can be cancelled, and gives the port back. */
        players[0].size = 3;
        players[0].settings.meet_timeout_ms = 10000;
        play_cancelled(players, 0, 1, 0, 1);
        CU_ASSERT_EQUAL(open_descriptors(), before);
        free(players);
    }
    unsetenv("NCCL_COMM_ID");
}

/* Rank 0 listens at the address of the id, and at no other where that is the loopback. */
static void test_places_listens_at_the_loopback_alone(void)
{
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct settings settings = quick(1000);
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    CU_ASSERT_EQUAL_FATAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    if (list[0].loopback)
        suite_skip("there is no other interface");
    for (int i = 0; i < 2 && !list[0].loopback; i++) {
        struct player *players = cast(2, NULL, 400);
        pthread_t thread;
        int fd = -1;
        uint16_t port = free_port();
        snprintf(players[0].settings.rendezvous, SETTING_TEXT_MAX, "%s:%u", hosts[i], port);
        players[0].settings.size = 2;
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, play, &players[0]), 0);
        clock_sleep_us(100000);
        address_set_port(&list[0].address, port);
        CU_ASSERT_EQUAL(sock_listen(&settings, &list[0].address, 1, &fd, NULL), TUTTI_OK);
        pthread_join(thread, NULL);
        owned_close(fd);
        free(players);
    }
}

static void test_places_checks_the_address_of_an_id(void)
{
    static const struct {
        const char *text, *says;
        tutti_status status;
    } wrong[] = {
        {"nonsense", "NCCL_COMM_ID: \"nonsense\" is no address: expected host:port or [ipv6]:port",
         TUTTI_ERR_SETTING},
        {"::1:5000",
         "NCCL_COMM_ID: \"::1:5000\" is no address: expected host:port or [ipv6]:port, "
         "here [::1]:5000",
         TUTTI_ERR_SETTING},
        {"127.0.0.1:0",
         "NCCL_COMM_ID=127.0.0.1:0: expected the host that rank 0 runs on, and a port from 1",
         TUTTI_ERR_SETTING},
        {"0.0.0.0:5000", "NCCL_COMM_ID=0.0.0.0:5000: expected the host that rank 0 runs on",
         TUTTI_ERR_SETTING},
        {"127.0.0.1:70000", "NCCL_COMM_ID: \"127.0.0.1:70000\" is no address", TUTTI_ERR_SETTING},
        {"no.such.host.invalid:5000", "NCCL_COMM_ID: look up the host of \"no.such.host.invalid",
         TUTTI_ERR_CONNECT},
    };
    struct settings settings = quick(500);
    struct bootstrap *bootstrap = NULL;
    tutti_unique_id id;
    char longest[200] = "";
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("NCCL_COMM_ID", wrong[i].text, 1);
        CU_ASSERT_EQUAL(bootstrap_id_from_env(&settings, &id), wrong[i].status);
        bool found = strstr(status_sentence(), wrong[i].says) == status_sentence();
        CU_ASSERT_TRUE(found);
        if (!found)
            printf("    %s: %s\n", wrong[i].text, status_sentence());
    }
    memset(longest, 'a', sizeof longest - 1);
    setenv("NCCL_COMM_ID", longest, 1);
    CU_ASSERT_EQUAL(bootstrap_id_from_env(&settings, &id), TUTTI_ERR_SETTING);
    CU_ASSERT_STRING_EQUAL(status_sentence(),
                           "NCCL_COMM_ID is 199 bytes long: expected at most 115");
    /* Not of this host: nobody comes to the places where rank 0 listens instead. */
    setenv("NCCL_COMM_ID", "192.0.2.1:5000", 1);
    CU_ASSERT_EQUAL(bootstrap_id_from_env(&settings, &id), TUTTI_OK);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 2, NULL, &bootstrap), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 2, 2, NULL, &bootstrap), TUTTI_ERR_ARG);
    /* A damaged one: of another release, and without an end. */
    id.bytes[8]++;
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 1, 2, NULL, &bootstrap), TUTTI_ERR_PROTOCOL);
    id.bytes[8]--;
    memset(id.bytes + 12, 'a', sizeof id.bytes - 12);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 1, 2, NULL, &bootstrap), TUTTI_ERR_SETTING);
    /* A host that is not known yet is waited for. */
    int flag = 0;
    struct bootstrap_word word = {&flag, 1, 2};
    struct cancel cancel = {bootstrap_check_word, &word};
    strcpy((char *)id.bytes + 12, "no.such.host.invalid:5000");
    uint64_t before_ms = clock_ms();
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 1, 2, NULL, &bootstrap), TUTTI_ERR_CONNECT);
    CU_ASSERT_TRUE(clock_ms() - before_ms >= settings.meet_timeout_ms / 2);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(status_sentence(), "NCCL_COMM_ID: look up the host of \"no.such"));
    settings.meet_timeout_ms = 60000;
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_ERR_CONNECT);
    CU_ASSERT_TRUE(clock_ms() - before_ms < settings.meet_timeout_ms / 2); /* but not alone */
    flag = 1;
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 1, 2, &cancel, &bootstrap),
                    TUTTI_ERR_ABORTED);
    CU_ASSERT_TRUE(strstr(status_sentence(), "rank 1 of 2 aborted") == status_sentence());
    settings.meet_timeout_ms = 500;
    /* Empty is as good as unset: a unique one, once. */
    setenv("NCCL_COMM_ID", "", 1);
    CU_ASSERT_EQUAL(bootstrap_id_from_env(&settings, &id), TUTTI_OK);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_OK);
    bootstrap_free(bootstrap);
    CU_ASSERT_EQUAL(bootstrap_from_id(&settings, &id, 0, 1, NULL, &bootstrap), TUTTI_ERR_ARG);
    unsetenv("NCCL_COMM_ID");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        {"meets_at_a_given_address", test_places_meets_at_a_given_address},
        {"checks_the_given_address", test_places_checks_the_given_address},
        {"waits_for_a_rank_without_a_turn", test_places_waits_for_a_rank_without_a_turn},
        {"ends_when_cancelled_before_all_have_come",
         test_places_ends_when_cancelled_before_all_have_come},
        {"ends_when_cancelled_in_an_allgather", test_places_ends_when_cancelled_in_an_allgather},
        {"meets_where_ids_say", test_places_meets_where_ids_say},
        {"listens_at_the_loopback_alone", test_places_listens_at_the_loopback_alone},
        {"checks_the_address_of_an_id", test_places_checks_the_address_of_an_id},
    };
    return suite_run("places", tests, sizeof tests / sizeof *tests, argc, argv);
}
