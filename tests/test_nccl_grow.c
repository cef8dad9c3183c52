/* test_nccl_grow.c: communicators of the NCCL face that take new ranks in. The native world carries
 * the ids; the first ranks' communicator grows by the others. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/nccl_world.h"
#include "tests/seats.h"

#define FEW 2 /* ranks of the communicator that grows */

/* The communicator of the first ranks; NULL at the others. */
static int first_ranks(tutti_comm *native, int rank, int size, ncclComm_t *comm)
{
    ncclComm_t whole;
    int wrong = nccl_world_init(native, rank, size, &whole);
    wrong += OK(ncclCommSplit(whole, rank < FEW ? 0 : NCCL_SPLIT_NOCOLOR, rank, comm, NULL));
    return wrong + OK(ncclCommDestroy(whole));
}

/* An id that rank `giver` has asked its communicator for, at every rank. */
static int share_id(tutti_comm *native, ncclComm_t comm, int rank, int giver, ncclUniqueId *id)
{
    int wrong = rank == giver ? OK(ncclCommGetUniqueId(comm, id)) : 0;
    return wrong +
           world_check(rank,
                       tutti_broadcast(id, id, sizeof *id, TUTTI_UINT8, giver, native) == TUTTI_OK,
                       "native broadcast: %s", tutti_last_error());
}

#define NOBODY (-1) /* passes the id: the rank that asked for it gives it all the same */

/* What each rank calls. */
static ncclResult_t grow(ncclComm_t comm, int size, int rank, int giver, ncclUniqueId *id,
                         ncclComm_t *grown, ncclConfig_t *config)
{
    if (rank < FEW)
        return ncclCommGrow(comm, size, rank == giver ? id : NULL, -1, grown, config);
    return ncclCommGrow(NULL, size, id, rank, grown, config);
}

static int works(ncclComm_t comm, int rank, int size)
{
    return comm ? nccl_world_works(comm, rank, rank, size) : 0;
}

/* What fails, or is never begun, has not used the id. */
static int growing_in_vain(ncclComm_t comm, int rank, int size)
{
    ncclComm_t none = NULL;
    int wrong = TAKEN(ncclCommGrow(comm, FEW, NULL, -1, &none, NULL), ncclInvalidArgument);
    wrong += OK(ncclGroupStart());
    wrong += OK(ncclCommGrow(comm, size, NULL, -1, &none, NULL));
    wrong += TAKEN(ncclCommGrow(comm, size, NULL, 0, &none, NULL), ncclInvalidArgument);
    return wrong + TAKEN(ncclGroupEnd(), ncclInvalidArgument);
}

/* Twice, blocking and not; at last both at once in a group. */
static int growing(tutti_comm *native, int rank, int size, void *context)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm, grown[2];
    ncclUniqueId ids[2];
    int wrong = first_ranks(native, rank, size, &comm);
    for (int giver = 0; giver < FEW; giver++) {
        config.blocking = giver;
        wrong += share_id(native, comm, rank, giver, &ids[0]);
        wrong += giver && rank < FEW ? growing_in_vain(comm, rank, size) : 0;
        wrong += OK(grow(comm, size, rank, giver ? NOBODY : giver, &ids[0], &grown[0],
                         giver ? NULL : &config));
        wrong += world_check(rank, nccl_world_settle(grown[0]) == ncclSuccess, "%s",
                             ncclGetLastError(NULL));
        wrong += works(grown[0], rank, size) + works(comm, rank, FEW);
        wrong += OK(ncclCommDestroy(grown[0]));
    }
    wrong += share_id(native, comm, rank, 0, &ids[0]) + share_id(native, comm, rank, 1, &ids[1]);
    wrong += OK(ncclGroupStart());
    for (int i = 0; i < 2; i++)
        wrong += OK(grow(comm, size, rank, i, &ids[i], &grown[i], NULL));
    wrong += OK(ncclGroupEnd());
    wrong += OK(ncclCommDestroy(comm));
    for (int i = 0; i < 2; i++)
        wrong += works(grown[i], rank, size) + OK(ncclCommDestroy(grown[i]));
    (void)context;
    return wrong;
}

static void test_nccl_grow_takes_new_ranks_in(void)
{
    nccl_world_run(WORLD_PROCESSES, 5, nccl_world_shm, growing, NULL);
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_tcp, growing, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, growing, NULL);
}

/* One thread has them all. */
static void test_nccl_grow_in_one_thread(void)
{
    ncclComm_t comms[2] = {NULL}, grown[4] = {NULL};
    int devices[2] = {0}, rank = 0, wrong = 0, ranks[4] = {0, 1, 2, 3}, sums[4] = {0};
    ncclUniqueId id;
    if (ncclCommInitAll(comms, 2, devices) != ncclSuccess &&
        ncclCommInitAll(comms, 2, NULL) != ncclSuccess) {
        CU_FAIL("no communicators");
        return;
    }
    wrong += OK(ncclCommGetUniqueId(comms[1], &id));
    wrong += OK(ncclGroupStart());
    for (int r = 3; r >= 0; r--)
        wrong += OK(grow(r < 2 ? comms[r] : NULL, 4, r, 1, &id, &grown[r], NULL));
    wrong += OK(ncclGroupEnd());
    wrong += OK(ncclGroupStart());
    for (int r = 0; r < 4; r++)
        wrong += OK(ncclAllReduce(&ranks[r], &sums[r], 1, ncclInt32, ncclSum, grown[r], NULL));
    wrong += OK(ncclGroupEnd());
    for (int r = 0; r < 4; r++)
        wrong += world_check(r, sums[r] == 6, "sum %d", sums[r]) + OK(ncclCommDestroy(grown[r]));
    for (int r = 0; r < 2; r++)
        wrong += OK(ncclCommDestroy(comms[r]));
    CU_ASSERT_EQUAL(wrong, 0);
}

static int misusing(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, grown = NULL;
    ncclUniqueId id, other;
    int wrong = first_ranks(native, rank, size, &comm);
    wrong += share_id(native, comm, rank, 0, &id);
    wrong += TAKEN(ncclCommGetUniqueId(NULL, &other), ncclInvalidArgument);
    wrong += TAKEN(ncclCommGrow(NULL, size, NULL, rank, &grown, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "neither a communicator nor a unique id");
    wrong += TAKEN(ncclCommGrow(NULL, size, &id, -1, &grown, NULL), ncclInvalidArgument);
    wrong += nccl_world_says(rank, "ncclCommGrow: rank -1 of ");
    wrong += TAKEN(ncclCommGrow(NULL, size, &id, rank, NULL, NULL), ncclInvalidArgument);
    if (rank < FEW) {
        ncclUniqueId *given = rank ? NULL : &id;
        wrong += TAKEN(ncclCommGetUniqueId(comm, NULL), ncclInvalidArgument);
        if (rank == 0)
            wrong += TAKEN(ncclCommGetUniqueId(comm, &other), ncclInvalidUsage) +
                     nccl_world_says(rank, "has asked for an id of this communicator before");
        wrong += TAKEN(ncclCommGrow(comm, size, given, rank, &grown, NULL), ncclInvalidArgument);
        wrong += nccl_world_says(rank, "beside a communicator: expected -1, since its ranks keep");
        wrong += TAKEN(ncclCommGrow(comm, FEW, given, -1, &grown, NULL), ncclInvalidArgument);
        wrong += nccl_world_says(rank, "to 2 ranks: expected more than the 2 of the communicator");
        wrong += TAKEN(ncclCommGrow(comm, size, NULL, -1, &grown, NULL), ncclInvalidUsage);
        wrong += nccl_world_says(rank, "none of the 2 ranks gives a unique id");
        wrong += TAKEN(ncclCommGrow(comm, size + rank, given, -1, &grown, NULL), ncclInvalidUsage);
        wrong += nccl_world_says(rank, "every rank of it names the same size");
        wrong += world_check(rank, grown == NULL, "a communicator");
        wrong += works(comm, rank, FEW);
        if (rank == 0) /* the id was passed, so that another is to be had */
            wrong += OK(ncclCommGetUniqueId(comm, &other));
    }
    wrong += OK(grow(comm, size, rank, 0, &id, &grown, NULL)); /* but it has not been used */
    wrong += works(grown, rank, size) + OK(ncclCommDestroy(grown));
    grown = NULL;
    if (rank < FEW) {
        wrong += TAKEN(grow(comm, size, rank, 0, &id, &grown, NULL), ncclInvalidArgument);
        wrong += nccl_world_says(rank, "this unique id is used up");
        wrong += works(comm, rank, FEW);
    }
    wrong += tutti_barrier(native) != TUTTI_OK; /* no rank is in comm */
    if (rank < FEW) {
        wrong += OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
        wrong += TAKEN(grow(comm, size, rank, 0, &id, &grown, NULL), ncclInvalidUsage);
        wrong += nccl_world_says(rank, "a communicator that works is expected; shrink this one");
        wrong += OK(ncclCommDestroy(comm));
    }
    (void)context;
    return wrong;
}

static void test_nccl_grow_says_what_is_misused(void)
{
    nccl_world_run(WORLD_PROCESSES, 3, nccl_world_shm, misusing, NULL);
    nccl_world_run(WORLD_THREADS, 4, NULL, misusing, NULL);
}

/* Descriptors that this process has. */
static int descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Ids of which no communicator came, since their grows were refused, are given back. */
static int failing(tutti_comm *native, int rank, int size, void *context)
{
    ncclComm_t comm, grown = NULL;
    ncclUniqueId id = {{0}};
    int wrong = tutti_broadcast(&id, &id, sizeof id, TUTTI_UINT8, 0, native) != TUTTI_OK;
    int before = descriptors(); /* with native links, which will be used again */
    wrong += first_ranks(native, rank, size, &comm);
    for (int i = 0; i < 3; i++) {
        wrong += share_id(native, comm, rank, 0, &id);
        if (comm)
            wrong += TAKEN(ncclCommGrow(comm, FEW, rank ? NULL : &id, -1, &grown, NULL),
                           ncclInvalidArgument);
    }
    if (comm)
        wrong += OK(ncclCommDestroy(comm));
    int after = descriptors();
    wrong += world_check(rank, after <= before, "%d descriptors, %d before", after, before);
    (void)context;
    return wrong;
}

static void test_nccl_grow_gives_back_what_it_did_not_use(void)
{
    nccl_world_run(WORLD_PROCESSES, FEW, nccl_world_shm, failing, NULL);
}

/* The last rank never comes. The first or the second gives up what is being made. */
#define SEATS (3 + 3 + 2) /* of the native world and of the first ranks', and of ranks 0 and 2 */

struct leaving {
    int quitter;
    unsigned seats; /* taken when the others have met */
};

static int aborting(tutti_comm *native, int rank, int size, void *context)
{
    const struct leaving *leaving = context;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm, grown = NULL;
    ncclUniqueId id;
    char name[32];
    int wrong = first_ranks(native, rank, size, &comm);
    config.blocking = 0;
    snprintf(name, sizeof name, "rank %d ", leaving->quitter);
    wrong += share_id(native, comm, rank, 1, &id);
    if (rank < size - 1) {
        wrong += OK(grow(comm, size, rank, 1, &id, &grown, &config));
        if (rank == leaving->quitter) {
            seats_await(leaving->seats);
            wrong += nccl_world_is(grown, rank, ncclInProgress);
        } else {
            /* long before its limit */
            wrong += world_check(rank, nccl_world_settle(grown) == ncclRemoteError, "not ended");
            wrong += nccl_world_says(rank, name);
        }
        wrong += OK(ncclCommAbort(grown));
    }
    if (comm) {
        wrong += nccl_world_settle(comm) == ncclSuccess ? 0 : 1;
        wrong += works(comm, rank, FEW) + OK(ncclCommDestroy(comm));
    }
    return wrong + (tutti_barrier(native) != TUTTI_OK);
}

static void test_nccl_grow_is_aborted(void)
{
    for (int quitter = 0; quitter < FEW; quitter++) {
        for (int i = 0; i < 2; i++) {
            struct leaving leaving = {quitter, seats_taken() + SEATS};
            nccl_world_run(i ? WORLD_THREADS : WORLD_PROCESSES, 4, i ? NULL : nccl_world_shm,
                           aborting, &leaving);
        }
    }
}

static const struct suite_test tests[] = {
    TEST(nccl_grow_takes_new_ranks_in),   TEST(nccl_grow_in_one_thread),
    TEST(nccl_grow_says_what_is_misused), TEST(nccl_grow_gives_back_what_it_did_not_use),
    TEST(nccl_grow_is_aborted),
};

int main(int argc, char **argv)
{
    return suite_run("nccl_grow", tests, sizeof tests / sizeof *tests, argc, argv);
}
