/* test_told.c: who learns of a failure from a rank that stays outside the library after it, or is
 * held by another communicator: peers that never met it before, and wait for it. */
#include <unistd.h>

#include "tests/world_suite.h"

/* Who plays what. The first aborts, the second fails by that and calls the library no more, the
 * third waits for the second, and the fourth, if there is one, for the third. */
struct roles {
    int order[4];
    int first; /* the third waits before the second fails, long enough to be noticed */
    int asks;  /* and how: it asks whether its receive is done, and never waits */
};

enum { ABORTS, FAILS, WAITS, WAITS_FOR_IT };

static int role_of(const struct roles *roles, int rank)
{
    int role = 0;
    while (roles->order[role] != rank)
        role++;
    return role;
}

static tutti_status receive(tutti_comm *comm, int from, int asks)
{
    int value;
    tutti_request *request = NULL;
    tutti_status status;
    if (!asks)
        return tutti_recv(&value, 1, TUTTI_INT32, from, comm);
    status = tutti_recv_start(&value, 1, TUTTI_INT32, from, comm, &request);
    for (int done = 0; status == TUTTI_OK && !done; usleep(200))
        status = tutti_test(&request, &done);
    return status;
}

static int play(tutti_comm *comm, int rank, int size, void *context)
{
    const struct roles *roles = context;
    int role = role_of(roles, rank), wrong = 0, value;
    if (role == ABORTS) {
        if (roles->first)
            usleep(1500000); /* links are asked for within a second */
        return WORLD_OK(tutti_comm_abort(comm)) + world_await(rank, size - 1);
    }
    if (role == FAILS) {
        wrong += WORLD_TAKEN(tutti_recv(&value, 1, TUTTI_INT32, roles->order[ABORTS], comm),
                             TUTTI_ERR_PEER);
        world_tell();
        return wrong + world_await(rank, size - 1);
    }
    if (!roles->first)
        wrong += world_await(rank, 1);
    wrong += world_check(rank, receive(comm, roles->order[role - 1], roles->asks) == TUTTI_ERR_PEER,
                         "ended otherwise: %s", tutti_last_error());
    wrong += world_says(rank, "rank ");
    world_tell();
    return wrong + world_await(rank, size - 1);
}

static void play_all(int size, const int orders[][4], int count, int first)
{
    for (int i = 0; i < count; i++) {
        for (int over = 0; over < 4; over++) {
            struct roles roles = {.first = first, .asks = (i + over) % 2};
            struct world world = world_over(over, size);
            for (int role = 0; role < 4; role++)
                roles.order[role] = orders[i][role];
            if (over == 3)
                world = (struct world){.kind = WORLD_THREADS, .size = size};
            CU_ASSERT_EQUAL(world_run(&world, play, &roles), 0);
        }
    }
}

/* Who waits is above the one that failed, and below it. */
static const int orders_of_three[][4] = {{0, 1, 2}, {2, 1, 0}};
static const int orders_of_four[][4] = {{3, 1, 0, 2}, {0, 1, 2, 3}};

static int orders(void)
{
    return getenv("TUTTI_TEST_FAST") ? 1 : 2;
}

static void test_told_who_comes_later(void)
{
    play_all(3, orders_of_three, 2, 0);
}

static void test_told_who_waits_already(void)
{
    play_all(3, orders_of_three, orders(), 1);
}

static void test_told_who_waits_for_one_that_is_told(void)
{
    play_all(4, orders_of_four, orders(), 0);
}

/* One revokes, and stays within reach: the other, which waits for it, comes to the shrink. */
static int revoke_alone(tutti_comm *comm, int rank, int size, void *context)
{
    int revoker = *(int *)context, value = 1, sum = 0, wrong = 0;
    tutti_comm *rest = NULL;
    if (rank == revoker) {
        wrong += WORLD_OK(tutti_comm_revoke(comm));
        wrong += world_await(rank, 1);
    } else {
        wrong += WORLD_TAKEN(tutti_recv(&value, 1, TUTTI_INT32, revoker, comm), TUTTI_ERR_PEER);
        wrong += world_says(rank, "aborted");
        world_tell();
    }
    value = 1;
    wrong += WORLD_OK(tutti_comm_shrink(comm, NULL, 0, &rest));
    wrong += WORLD_OK(tutti_allreduce(&value, &sum, 1, TUTTI_INT32, TUTTI_SUM, rest));
    wrong += world_check(rank, sum == size, "sum %d", sum);
    return wrong + WORLD_OK(tutti_comm_destroy(rest));
}

static void test_told_who_waits_for_a_rank_that_revoked(void)
{
    for (int revoker = 0; revoker < 2; revoker++) {
        run(WORLD_THREADS, 2, NULL, revoke_alone, &revoker);
        run(WORLD_PROCESSES, 2, shm, revoke_alone, &revoker);
        run(WORLD_PROCESSES, 2, tcp, revoke_alone, &revoker);
    }
}

/* The communicator of rank 0's receive from the one that aborts is held until the other receive of
 * its group has ended, which is sent by a rank that first waits for rank 0 in the one that failed.
 */
static int receive_in_a_group(tutti_comm *comm, int rank, int size, void *context)
{
    tutti_comm *other = NULL;
    int value = 7, aborted, wrong = WORLD_OK(tutti_comm_dup(comm, &other));
    (void)size;
    (void)context;
    if (wrong > 0)
        return wrong;
    if (rank == 0) {
        value = 0;
        wrong += WORLD_OK(tutti_group_start());
        wrong += WORLD_OK(tutti_recv(&aborted, 1, TUTTI_INT32, 1, other));
        wrong += WORLD_OK(tutti_recv(&value, 1, TUTTI_INT32, 2, comm));
        wrong += WORLD_TAKEN(tutti_group_end(), TUTTI_ERR_PEER);
        wrong += world_check(rank, value == 7, "received %d", value);
    } else if (rank == 1) {
        usleep(200000);
        wrong += WORLD_OK(tutti_comm_abort(other));
    } else {
        wrong += WORLD_TAKEN(tutti_recv(&aborted, 1, TUTTI_INT32, 0, other), TUTTI_ERR_PEER);
        wrong += WORLD_OK(tutti_send(&value, 1, TUTTI_INT32, 0, comm));
    }
    wrong += WORLD_OK(tutti_barrier(comm));
    return wrong + WORLD_OK(tutti_comm_destroy(other));
}

static void test_told_by_a_rank_in_a_group(void)
{
    run(WORLD_THREADS, 3, NULL, receive_in_a_group, NULL);
    run(WORLD_PROCESSES, 3, shm, receive_in_a_group, NULL);
    run(WORLD_PROCESSES, 3, tcp, receive_in_a_group, NULL);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(told_who_comes_later),
        TEST(told_who_waits_already),
        TEST(told_who_waits_for_one_that_is_told),
        TEST(told_who_waits_for_a_rank_that_revoked),
        TEST(told_by_a_rank_in_a_group),
    };
    return suite_run("told", tests, sizeof tests / sizeof *tests, argc, argv);
}
