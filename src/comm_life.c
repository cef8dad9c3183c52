/* comm_life.c: the memory of a communicator. A destroyed one's struct is kept, marked, for a while,
 * so that a call with a stale handle gets an error and not a crash: at most HANDLES_KEPT of them,
 * oldest reused first. */
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/lock.h"
#include "src/comm.h"
#include "src/stream.h"

#define HANDLES_KEPT 64

atomic_uint comm_forks;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static struct lock handles_lock = LOCK_INIT;
static tutti_comm *handles[HANDLES_KEPT];
static unsigned handles_next, handles_alive;

static void child_of_fork(void)
{
    atomic_fetch_add(&comm_forks, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, child_of_fork);
}

static tutti_comm *handle_new(void)
{
    tutti_comm *comm = calloc(1, sizeof(tutti_comm));
    lock_take(&handles_lock);
    handles_alive += comm != NULL;
    lock_leave(&handles_lock);
    return comm;
}

static void handle_retire(tutti_comm *comm)
{
    comm->magic = 0;
    lock_take(&handles_lock);
    tutti_comm *oldest = handles[handles_next];
    handles[handles_next] = comm;
    handles_next = (handles_next + 1) % HANDLES_KEPT;
    /* Without a communicator no stream waits for the library, and none is made meanwhile. But this
     * waits for the program's, one of which may be why the communicator was aborted. */
    bool forked = comm->fork_generation != atomic_load(&comm_forks);
    if (--handles_alive == 0 && comm->failed == TUTTI_OK && !forked)
        mem_detach();
    lock_leave(&handles_lock);
    free(oldest);
}

tutti_status comm_allocate(const struct settings *settings, uint32_t rank, uint32_t size,
                           tutti_comm **made)
{
    pthread_once(&fork_once, watch_forks);
    tutti_comm *comm = handle_new();
    if (!comm)
        return fail(TUTTI_ERR_NOMEM, "no memory for a communicator");
    comm->rank = rank;
    comm->size = size;
    comm->settings = *settings;
    comm->tail = &comm->head;
    comm->works_tail = &comm->works;
    comm->down_peer = NO_RANK;
    comm->fork_generation = atomic_load(&comm_forks);
    comm->peers = calloc(size, sizeof *comm->peers);
    comm->names = calloc(size, sizeof *comm->names);
    comm->name_list = calloc(size, sizeof *comm->name_list);
    if (!comm->peers || !comm->names || !comm->name_list) {
        comm_free(comm);
        return fail(TUTTI_ERR_NOMEM, "no memory for a communicator of %u ranks", size);
    }
    *made = comm;
    return TUTTI_OK;
}

void comm_free(tutti_comm *comm)
{
    bool forked = comm->fork_generation != atomic_load(&comm_forks);
    comm_untend(comm);
    exec_cache_free(comm);
    if (comm->scratch_in_use)
        comm->device_scratch = comm->bounce = NULL;
    for (uint32_t i = 0; i < comm->transport_count && !forked; i++)
        comm->transport_ops[i]->close(comm->transports[i]);
    exec_scratch_free(comm);
    if (comm->queue)
        mem_queue_give(comm->queue);
    if (comm->scaled)
        must(mem_free(comm->scaled) == TUTTI_OK);
    topology_free(&comm->topology);
    for (uint32_t p = 0; comm->peers && p < comm->size; p++) {
        free(comm->peers[p].meet);
        free(comm->peers[p].coming);
        free(comm->peers[p].absent);
    }
    free(comm->grow_failed);
    free(comm->peers);
    free(comm->names);
    free(comm->name_list);
    free(comm->addresses);
    comm_ops_free(comm);
    handle_retire(comm);
}
