/* comm_create.c: the public ways to make, split and end a communicator. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "src/comm.h"
#include "src/group.h"
#include "src/stream.h"
#include "tutti/tutti.h"

static tutti_status check_rank(int size, int rank, const void *comm)
{
    if (!comm)
        return fail(TUTTI_ERR_ARG, "comm is NULL: expected where to put the communicator");
    if (size < 1 || rank < 0 || rank >= size)
        return fail(TUTTI_ERR_ARG,
                    "rank %d of %d: expected a size of at least 1 and a rank from 0 to "
                    "size - 1",
                    rank, size);
    if ((unsigned)size > BOOTSTRAP_RANKS_MAX)
        return fail(TUTTI_ERR_ARG, "a communicator of %d ranks: expected at most %u", size,
                    BOOTSTRAP_RANKS_MAX);
    return TUTTI_OK;
}

/* Takes the bootstrap. */
static tutti_status build(const struct settings *settings, struct bootstrap *bootstrap,
                          tutti_comm **comm)
{
    tutti_status status = comm_build(settings, bootstrap, comm);
    bootstrap_free(bootstrap);
    return status;
}

tutti_status tutti_unique_id_create(tutti_unique_id *id)
{
    struct settings settings;
    if (!id)
        return fail(TUTTI_ERR_ARG, "tutti_unique_id_create: id is NULL");
    tutti_status status = settings_load(&settings);
    return status == TUTTI_OK ? bootstrap_unique_id(&settings, id) : status;
}

tutti_status tutti_unique_id_from_env(tutti_unique_id *id)
{
    struct settings settings;
    if (!id)
        return fail(TUTTI_ERR_ARG, "tutti_unique_id_from_env: id is NULL");
    tutti_status status = settings_load(&settings);
    return status == TUTTI_OK ? bootstrap_id_from_env(&settings, id) : status;
}

static tutti_status check_served(void *word)
{
    return clock_cancelled(word)
               ? fail(TUTTI_ERR_ABORTED, "the service of the unique id was cancelled, in the "
                                         "process that made it")
               : TUTTI_OK;
}

tutti_status tutti_unique_id_serve(const tutti_unique_id *id, const int *cancel)
{
    struct cancel wait = {check_served, (void *)cancel}; /* only read */
    if (!id)
        return fail(TUTTI_ERR_ARG, "tutti_unique_id_serve: id is NULL");
    return bootstrap_serve(id, cancel ? &wait : NULL);
}

tutti_status tutti_unique_id_release(const tutti_unique_id *id)
{
    return id ? bootstrap_give_back(id)
              : fail(TUTTI_ERR_ARG, "tutti_unique_id_release: id is NULL");
}

tutti_status tutti_comm_create_cancellable(int size, const tutti_unique_id *id, int rank,
                                           const int *cancel, tutti_comm **comm)
{
    struct settings settings;
    struct bootstrap *bootstrap;
    struct bootstrap_word word = {cancel, (uint32_t)rank, (uint32_t)size};
    struct cancel wait = {bootstrap_check_word, &word};
    tutti_status status = check_rank(size, rank, comm);
    if (status == TUTTI_OK && !id)
        status = fail(TUTTI_ERR_ARG, "tutti_comm_create: id is NULL");
    if (status == TUTTI_OK)
        status = settings_load(&settings);
    if (status == TUTTI_OK)
        status = bootstrap_from_id(&settings, id, (uint32_t)rank, (uint32_t)size,
                                   cancel ? &wait : NULL, &bootstrap);
    return status == TUTTI_OK ? build(&settings, bootstrap, comm) : status;
}

tutti_status tutti_comm_create(int size, const tutti_unique_id *id, int rank, tutti_comm **comm)
{
    return tutti_comm_create_cancellable(size, id, rank, NULL, comm);
}

tutti_status tutti_comm_create_from_env(tutti_comm **comm)
{
    struct settings settings;
    struct bootstrap *bootstrap;
    tutti_status status = check_rank(1, 0, comm);
    if (status == TUTTI_OK)
        status = settings_load(&settings);
    if (status == TUTTI_OK)
        status = bootstrap_from_env(&settings, &bootstrap);
    return status == TUTTI_OK ? build(&settings, bootstrap, comm) : status;
}

tutti_status tutti_comm_create_with(int size, int rank, tutti_allgather_fn *allgather,
                                    void *context, tutti_comm **comm)
{
    struct settings settings;
    struct bootstrap *bootstrap;
    tutti_status status = check_rank(size, rank, comm);
    if (status == TUTTI_OK && !allgather)
        status = fail(TUTTI_ERR_ARG, "tutti_comm_create_with: allgather is NULL");
    if (status == TUTTI_OK)
        status =
            bootstrap_from_callback(allgather, context, (uint32_t)rank, (uint32_t)size, &bootstrap);
    if (status != TUTTI_OK)
        return status;
    status = settings_load(&settings);
    if (status == TUTTI_OK)
        return build(&settings, bootstrap, comm);
    status = comm_build_refused(bootstrap, status);
    bootstrap_free(bootstrap);
    return status;
}

/* ---- split ------------------------------------------------------------------------------------
 */

/* The bootstrap of a child is an allgather over its parent, from which each rank picks its own
 * group; ranks without a color take part too, since the parent's allgather needs every rank. */
struct split {
    tutti_comm *parent;
    const uint32_t *members; /* [size] ranks of the parent, in the child's order */
    uint32_t size;
    unsigned rounds; /* done: every rank of the parent must do them all */
};

#define SPLIT_ROUNDS 2 /* allgathers of comm_build */

tutti_status comm_gather(tutti_comm *parent, const void *in, void *out, size_t len)
{
    struct call call = {
        .coll = TUTTI_COLL_ALLGATHER, .dtype = TUTTI_UINT8, .in = in, .out = out, .count = len};
    tutti_status status = call_check(parent, &call);
    return status == TUTTI_OK ? comm_run(parent, &call) : status;
}

static int split_allgather(const void *in, void *out, size_t len, void *context)
{
    struct split *split = context;
    /* The length is the same for every color, since all run one version of comm_build. */
    uint8_t *all = malloc(len * split->parent->size);
    if (!all || comm_gather(split->parent, in, all, len) != TUTTI_OK) {
        free(all);
        return -1;
    }
    split->rounds++;
    for (uint32_t i = 0; i < split->size; i++)
        memcpy((uint8_t *)out + i * len, all + split->members[i] * len, len);
    free(all);
    return 0;
}

struct color_key {
    int32_t color, key;
};

/* Members of this rank's color, ordered by key, then rank: insertion keeps it stable. */
static uint32_t find_members(const struct color_key *all, uint32_t size, uint32_t rank,
                             uint32_t *members, uint32_t *new_rank)
{
    uint32_t count = 0;
    for (uint32_t r = 0; r < size; r++) {
        if (all[r].color != all[rank].color)
            continue;
        uint32_t at = count++;
        while (at > 0 && all[members[at - 1]].key > all[r].key) {
            members[at] = members[at - 1];
            at--;
        }
        members[at] = r;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (members[i] == rank)
            *new_rank = i;
    }
    return count;
}

static tutti_status split_with(tutti_comm *comm, struct color_key mine, struct color_key *all,
                               uint32_t *members, tutti_comm **new_comm)
{
    tutti_status status = comm_gather(comm, &mine, all, sizeof mine);
    if (status != TUTTI_OK)
        return status;
    uint32_t new_rank = 0;
    struct split split = {comm, members, 0, 0};
    if (mine.color != TUTTI_NO_COLOR)
        split.size = find_members(all, comm->size, comm->rank, members, &new_rank);
    struct bootstrap *bootstrap;
    if (split.size == 0)
        status = comm_build_idle(split_allgather, &split, new_comm);
    else
        status = bootstrap_from_callback(split_allgather, &split, new_rank, split.size, &bootstrap);
    if (status == TUTTI_OK && split.size > 0)
        status = build(&comm->settings, bootstrap, new_comm);
    /* Others of the parent would wait for the rounds this rank did not do. */
    if (status != TUTTI_OK && split.rounds < SPLIT_ROUNDS)
        status = comm_fail(comm, status, comm->rank, status_sentence());
    return status;
}

static tutti_status split(tutti_comm *comm, int color, int key, tutti_comm **new_comm)
{
    tutti_status status;
    struct color_key *all = calloc(comm->size, sizeof *all);
    uint32_t *members = calloc(comm->size, sizeof *members);
    if (all && members)
        status = split_with(comm, (struct color_key){color, key}, all, members, new_comm);
    else
        status = comm_fail(comm, TUTTI_ERR_NOMEM, comm->rank, "no memory to split a communicator");
    free(all);
    free(members);
    return status;
}

void comm_uncancel(tutti_comm *comm, const int *cancel)
{
    const int *mine = cancel;
    if (cancel)
        atomic_compare_exchange_strong(&comm->cancel, &mine, NULL);
}

tutti_status comm_enter_making(tutti_comm *comm, const int *cancel)
{
    tutti_status status = comm_drain(comm, cancel);
    if (status != TUTTI_OK)
        return status;
    const int *nobodys = NULL; /* else it is refused below, for the other thread that is inside */
    bool mine = atomic_compare_exchange_strong(&comm->cancel, &nobodys, cancel);
    /* Also when nothing has begun: the others wait for this rank. */
    if (mine && clock_cancelled(cancel))
        tutti_comm_abort(comm);
    status = comm_enter(comm);
    if (status != TUTTI_OK)
        comm_uncancel(comm, cancel);
    return status;
}

tutti_status tutti_comm_split_cancellable(tutti_comm *comm, int color, int key, const int *cancel,
                                          tutti_comm **new_comm)
{
    if (!new_comm)
        return fail(TUTTI_ERR_ARG, "tutti_comm_split: new_comm is NULL");
    if (color < 0 && color != TUTTI_NO_COLOR)
        return fail(TUTTI_ERR_ARG,
                    "tutti_comm_split: color %d: expected 0 or more, or "
                    "TUTTI_NO_COLOR (-1)",
                    color);
    tutti_status status = comm_enter_making(comm, cancel);
    if (status != TUTTI_OK)
        return status;
    status = split(comm, color, key, new_comm);
    comm_uncancel(comm, cancel);
    comm_leave(comm);
    return status;
}

tutti_status tutti_comm_split(tutti_comm *comm, int color, int key, tutti_comm **new_comm)
{
    return tutti_comm_split_cancellable(comm, color, key, NULL, new_comm);
}

tutti_status tutti_comm_dup(tutti_comm *comm, tutti_comm **new_comm)
{
    return tutti_comm_split(comm, 0, 0, new_comm);
}

tutti_status tutti_comm_hold_streams(tutti_comm *comm, int hold)
{
    tutti_status status = comm_check_query(comm, comm);
    if (status == TUTTI_OK)
        atomic_store(&comm->holds, hold != 0);
    return status;
}

/* ---- queries ----------------------------------------------------------------------------------
 */

tutti_status comm_check_query(const tutti_comm *comm, const void *out)
{
    if (!comm || comm->magic != COMM_MAGIC)
        return fail(TUTTI_ERR_STATE, "the communicator is %s",
                    comm ? "destroyed or not a communicator" : "NULL");
    return out ? TUTTI_OK : fail(TUTTI_ERR_ARG, "the place for the answer is NULL");
}

tutti_status tutti_comm_rank(const tutti_comm *comm, int *rank)
{
    tutti_status status = comm_check_query(comm, rank);
    if (status == TUTTI_OK)
        *rank = (int)comm->rank;
    return status;
}

tutti_status tutti_comm_size(const tutti_comm *comm, int *size)
{
    tutti_status status = comm_check_query(comm, size);
    if (status == TUTTI_OK)
        *size = (int)comm->size;
    return status;
}

tutti_status tutti_comm_host_count(const tutti_comm *comm, int *hosts)
{
    tutti_status status = comm_check_query(comm, hosts);
    if (status == TUTTI_OK)
        *hosts = (int)comm->topology.groups.nodes;
    return status;
}

tutti_status tutti_comm_id(const tutti_comm *comm, uint64_t *id)
{
    tutti_status status = comm_check_query(comm, id);
    if (status == TUTTI_OK)
        *id = comm->comm_id;
    return status;
}

tutti_status tutti_comm_device_bytes(const tutti_comm *comm, uint64_t *bytes)
{
    tutti_status status = comm_check_query(comm, bytes);
    if (status == TUTTI_OK)
        *bytes = atomic_load(&comm->device_bytes);
    return status;
}

tutti_status tutti_comm_status(const tutti_comm *comm)
{
    tutti_status status = comm_check_query(comm, comm);
    if (status != TUTTI_OK)
        return status;
    comm_ask((tutti_comm *)comm); /* what a communicator is made of is never constant */
    return comm->failed != TUTTI_OK ? comm_error(comm) : TUTTI_OK;
}

static int print_stats(const char *name, const struct transport_stats *s, char *text, size_t len)
{
    double mib = (double)(s->bytes_sent + s->bytes_received) / (1 << 20), each = mib > 0 ? mib : 1;
    int n = snprintf(text, len,
                     "%s: %llu sent, %llu received, %.3f MiB; %.3f MiB copied, %.3f MiB in place, "
                     "%llu system calls\n",
                     name, (unsigned long long)s->sends, (unsigned long long)s->recvs, mib,
                     (double)s->copied_bytes / (1 << 20), (double)s->in_place_bytes / (1 << 20),
                     (unsigned long long)s->syscalls);
    if (s->work_requests == 0)
        return n;
    size_t used = (size_t)n < len ? (size_t)n : len;
    return n + snprintf(text ? text + used : NULL, len - used,
                        "%s: %llu work requests (%.2f per MiB), %llu signalled (1 in %.1f), %llu "
                        "completions (%.2f per MiB), %llu doorbells (%.2f per MiB), %llu "
                        "receiver-not-ready retries of its ports, %llu registrations, %.3f MiB of "
                        "GPU memory without a copy\n",
                        name, (unsigned long long)s->work_requests, (double)s->work_requests / each,
                        (unsigned long long)s->signalled,
                        (double)s->work_requests / (s->signalled ? (double)s->signalled : 1),
                        (unsigned long long)s->completions, (double)s->completions / each,
                        (unsigned long long)s->doorbells, (double)s->doorbells / each,
                        (unsigned long long)s->rnr_retries, (unsigned long long)s->registrations,
                        (double)s->device_bytes / (1 << 20));
}

size_t tutti_comm_stats_print(tutti_comm *comm, char *text, size_t len)
{
    size_t total = 0;
    if (len > 0)
        text[0] = '\0';
    if (comm_enter(comm) != TUTTI_OK)
        return 0;
    for (uint32_t i = 0; i < comm->transport_count; i++) {
        const struct transport_ops *ops = comm->transport_ops[i];
        struct transport_stats stats;
        size_t used = total < len ? total : len;
        ops->stats(comm->transports[i], &stats);
        int n = print_stats(ops->name, &stats, len > used ? text + used : NULL, len - used);
        total += n > 0 ? (size_t)n : 0;
    }
    comm_leave(comm);
    return total;
}

/* ---- ends -------------------------------------------------------------------------------------
 */

tutti_status tutti_comm_finalize(tutti_comm *comm)
{
    tutti_status status = comm_enter(comm);
    if (status != TUTTI_OK)
        return status;
    struct call call = {.coll = TUTTI_COLL_BARRIER, .dtype = TUTTI_UINT8};
    status = call_check(comm, &call);
    if (status == TUTTI_OK)
        status = comm_run(comm, &call);
    while (status == TUTTI_OK && comm->failed == TUTTI_OK &&
           (comm->p2p_list || comm->p2p_waiting)) {
        if (!comm_progress(comm))
            comm_idle(comm);
    }
    if (comm->failed != TUTTI_OK)
        status = comm_error(comm);
    comm_leave(comm);
    return status;
}

tutti_status tutti_comm_flush(tutti_comm *comm)
{
    tutti_status status = comm_enter(comm);
    if (status != TUTTI_OK)
        return status;
    comm_idle_reset(comm);
    while (comm->failed == TUTTI_OK && (comm->head || comm->p2p_list || comm->p2p_waiting)) {
        if (!comm_progress(comm))
            comm_idle(comm);
    }
    if (comm->failed != TUTTI_OK)
        status = comm_error(comm);
    comm_leave(comm);
    return status;
}

tutti_status tutti_comm_destroy(tutti_comm *comm)
{
    if (!comm)
        return TUTTI_OK;
    if (comm->magic != COMM_MAGIC)
        return fail(TUTTI_ERR_STATE,
                    "tutti_comm_destroy: already destroyed, or not a communicator");
    if (comm->fork_generation == atomic_load(&comm_forks)) {
        stream_forget(comm);
        if (!comm_seize(comm))
            return fail(TUTTI_ERR_STATE,
                        "tutti_comm_destroy: another thread is using %s: abort first",
                        comm->names[comm->rank]);
        comm_say_goodbye(comm);
    }
    group_forget(comm);
    comm_free(comm);
    return TUTTI_OK;
}

/* ended: for good, which also ends a shrink of what failed before. */
static tutti_status stop(tutti_comm *comm, bool ended)
{
    if (comm->fork_generation != atomic_load(&comm_forks))
        return fail(TUTTI_ERR_FORKED, "this communicator belongs to the parent process");
    if (ended)
        __atomic_store_n(&comm->ended, 1, __ATOMIC_RELEASE);
    atomic_store(&comm->aborted, true);
    /* A thread inside that waits sees the flag; one that leaves without waiting makes room. */
    while (comm->failed == TUTTI_OK) {
        if (atomic_exchange_explicit(&comm->busy, 1, memory_order_acquire) == 0) {
            if (comm->failed == TUTTI_OK)
                comm_fail(comm, TUTTI_ERR_ABORTED, comm->rank, "");
            comm_leave(comm);
        } else {
            clock_sleep_us(50);
        }
    }
    return TUTTI_OK;
}

tutti_status tutti_comm_abort(tutti_comm *comm)
{
    tutti_status status = comm_check_query(comm, comm);
    return status == TUTTI_OK ? stop(comm, true) : status;
}

tutti_status tutti_comm_revoke(tutti_comm *comm)
{
    tutti_status status = comm_check_query(comm, comm);
    if (status != TUTTI_OK)
        return status;
    atomic_store(&comm->revoked, true);
    return stop(comm, false);
}
