/* nccl_face.h: what the files of the NCCL face share. The face translates: each call becomes one of
 * tutti.h; what it keeps itself is what NCCL has and Tutti has not, namely calls that go on in a
 * thread (nccl_job.c), groups that also hold such calls (nccl_group.c), and handles that another
 * thread may abort at any time (nccl_comm.c). */
#ifndef COMPAT_NCCL_FACE_H
#define COMPAT_NCCL_FACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "nccl.h"
#include "tutti/tutti.h"

/* Heads the definition of a public function: the strong symbol is the twin, the plain name a weak
 * alias of it, so that tools can stand in front of it. Nothing in the library calls either. */
#define NCCL_FACE(type, name, params)                                                              \
    extern __attribute__((weak, alias("p" #name), visibility("default"))) type name params;        \
    __attribute__((visibility("default"))) type p##name params

#define FACE_SENTENCE_MAX 1024

/* ---- errors (nccl_error.c) ---- */

/* Keeps the sentence for this thread and the process; returns result. */
ncclResult_t face_fail(ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* NCCL's code for a status; takes over tutti_last_error() unless it is no error. */
ncclResult_t face_result(tutti_status status);
/* The sentence of this thread's last error. */
const char *face_sentence(void);

/* ---- communicators (nccl_comm.c) ---- */

struct ncclComm {
    _Atomic uint64_t magic;
    /* Calls and jobs that hold the handle, and whether it was destroyed or aborted: who leaves last
     * releases what it stands for. */
    _Atomic uint32_t holders;
    atomic_bool released;
    _Atomic uint32_t jobs;  /* under way, this thread's group included */
    _Atomic uint32_t later; /* those of them that nobody waits for */
    atomic_bool revoked, finalized, suspended;
    atomic_bool ending; /* a call that destroys it is under way */
    int cancelled;      /* atomic: ends the making of tutti */
    bool blocking;
    int rank, size, device;
    int to_self; /* while a group begins: its sends of the rank to itself less the receives */
    pthread_mutex_t lock;    /* of what follows */
    tutti_comm *tutti;       /* NULL until made */
    tutti_unique_id grow_id; /* asked for last, and whether it is not used yet */
    bool grow_id_waits;
    tutti_unique_id left_id; /* by a grow that failed; it may still be of use */
    bool left_id_waits;
    _Atomic ncclResult_t result; /* of the job that made it, or of the first that failed */
    char sentence[FACE_SENTENCE_MAX];
};

/* NULL without memory. Held once by the caller. */
ncclComm_t face_comm_new(int size, int rank, bool blocking);
/* hold: the handle is alive, in whatever state. enter: it is also ready for an operation. Both are
 * ended by leave. name is the public function, for sentences. */
ncclResult_t face_hold(ncclComm_t comm, const char *name);
ncclResult_t face_enter(ncclComm_t comm, const char *name);
/* face_enter for what may stand in a group, whose own jobs are not in its way. */
ncclResult_t face_enter_grouped(ncclComm_t comm, const char *name);
/* The same for what a suspended communicator still does, as face_enter refuses it. */
ncclResult_t face_enter_suspended(ncclComm_t comm, const char *name);
ncclResult_t face_refuse_suspended(ncclComm_t comm, const char *name);
void face_leave(ncclComm_t comm);
/* The handle is dead from now on; false if it was already. The caller holds it. */
bool face_end(ncclComm_t comm);
/* Puts a handle where the caller wants it: another thread may look there during a blocking call, to
 * abort what it makes. */
static inline void face_give(ncclComm_t *out, ncclComm_t comm)
{
    __atomic_store_n(out, comm, __ATOMIC_RELEASE);
}
tutti_comm *face_tutti(ncclComm_t comm);
/* Where its maker may be about to write it. */
int face_rank(ncclComm_t comm);
/* Ends every wait inside; returns when no new one can begin. */
void face_abort(ncclComm_t comm);

/* nccl_memory.c: gives back what is still registered; before the release of what it stands for. */
void face_deregister_all(ncclComm_t comm);
/* What a window is of, for calls that have it alone. */
struct face_window {
    void *buff;
    int rank, size; /* of its communicator */
};
ncclResult_t face_window(ncclWindow_t window, const char *name, struct face_window *found);

/* ---- configurations (nccl_config.c): NULL changes nothing ---- */

ncclResult_t face_config_read(const ncclConfig_t *config, const char *name, bool *blocking);
/* event: to be recorded when the stream comes to the call; NULL: none. */
ncclResult_t face_config_read_call(const ncclCollConfig_t *config, const char *name, void **event);

/* ---- jobs (nccl_job.c): what waits for other ranks ---- */

/* As pthread_create; the thread takes no signal but of what it does itself: the others are the
 * program's. */
int face_thread(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *),
                void *argument);

enum job_kind { JOB_INIT, JOB_SPLIT, JOB_SHRINK, JOB_GROW, JOB_FINALIZE, JOB_DESTROY };

struct job {
    enum job_kind kind;
    ncclComm_t comm;   /* made, finalized or destroyed; held. NULL: split without a color */
    ncclComm_t parent; /* of split, shrink and grow; held */
    ncclComm_t *out;   /* where the caller's handle is, to be taken back on failure */
    tutti_unique_id id;
    bool owns_id; /* nobody else knows it: given back if it was not used */
    bool took_id; /* the parent's: left to it if the grow fails */
    int color, key;
    int size;      /* to grow to */
    bool gives_id; /* to grow: this rank gives the id */
    int *excluded; /* owned */
    size_t excluded_count;
    bool abort_first;
    bool blocking;      /* the call is waited for */
    bool made_blocking; /* what it makes of the parent is a blocking communicator */
    void *context;      /* the caller's device context */
    ncclResult_t result;
    char sentence[FACE_SENTENCE_MAX];
    struct makings *makings; /* of its group, until it has ended; NULL: none */
    struct job *next;        /* in a group */
};

/* Takes the job, and gives the handle that it makes, if any, to the caller: records it in this
 * thread's group, or runs it, or starts a thread for it. */
ncclResult_t face_job(struct job *job);
/* At the end of a group: runs a list at once, each in a thread, but those of one parent after each
 * other; takes it. only_ends: finalize and destroy, else all others. */
ncclResult_t face_jobs_run(struct job **list, bool only_ends);
/* Undoes jobs that will not run. */
void face_jobs_cancel(struct job *list);

/* ---- making (nccl_init.c) ---- */

/* ncclCommInitRankConfig. */
ncclResult_t face_init(ncclComm_t *comm, int size, const ncclUniqueId *id, int rank,
                       const ncclConfig_t *config, const char *name);
/* A job that makes something of its parent, which is alive and made, though it may have failed or
 * been revoked, and is held. What it makes is blocking as the configuration says, and where that
 * leaves it out (of a grow: then as the parent is); without one as the parent is. Whether the call
 * itself is, the parent of a split or shrink decides, and of a grow what is made, since new ranks
 * have no parent. Puts NULL where the handle will be, once the parent is held. */
ncclResult_t face_child_job(ncclComm_t parent, enum job_kind kind, const ncclConfig_t *config,
                            const char *name, ncclComm_t *newcomm, struct job **job);
/* Takes the job and the hold of its parent. made: whether this rank gets a communicator. */
ncclResult_t face_child(struct job *job, bool made);
/* face_group_note for these calls: as with NCCL one that nobody waits for is a success, and the
 * communicators tell that it is in progress. */
ncclResult_t face_child_note(ncclResult_t result);
/* The id of the communicator that waits for its use; false if there is none. */
bool face_waiting_id(ncclComm_t comm, tutti_unique_id *id);
/* A grow is given this id; true if it is the communicator's, which has it no more. */
bool face_take_id(ncclComm_t comm, const tutti_unique_id *id);
/* A grow of the communicator has failed that took this id of it. */
void face_leave_id(ncclComm_t comm, const tutti_unique_id *id);

/* ---- groups (nccl_group.c) ---- */

struct face_call {
    tutti_coll coll; /* SENDRECV: is_send tells which */
    bool is_send;
    tutti_dtype dtype;
    tutti_op op;
    int root; /* or peer */
    const void *in;
    void *out;
    size_t count;
    ncclComm_t comm;
    void *stream;
    void *event; /* recorded before it; NULL: none */
    const char *name;
    bool ends_op; /* the operation is destroyed after it; holds the communicator for that */
};

bool face_group_open(void);
void face_group_start(void);
ncclResult_t face_group_end(void);
ncclResult_t face_group_call(const struct face_call *call);
/* An operation that a call of the open group reduces with is destroyed after it: takes the hold of
 * the communicator. False if there is no such call. */
bool face_group_ends_op(ncclComm_t comm, tutti_op op);
void face_group_job(struct job *job);
/* Jobs of the group on the communicator that a call of the group may go along with: those that make
 * others of it, and, when the group ends, those that end it afterwards. */
unsigned face_group_jobs(ncclComm_t comm);
/* Whether the group holds calls on the communicator. */
bool face_group_uses(ncclComm_t comm);
/* An error of a call in a group is the group's. Returns result. */
ncclResult_t face_group_note(ncclResult_t result);

/* nccl_coll.c: issues a call to the library; the communicator is entered. */
tutti_status face_call_run(const struct face_call *call);

/* Records its event, if it has one. */
ncclResult_t face_call_record(const struct face_call *call);

/* ---- settings (nccl_env.c) ---- */

/* Before the library first looks at its settings: what programs that speak NCCL expect of them, and
 * what the environment says in NCCL's words. */
void face_settings(void);
/* A line of the log at the process's first communicator, where NCCL_DEBUG asks for it: of rank 0,
 * or from INFO on of all. */
void face_show_version(int rank);
/* Whether a communicator's calls wait: what NCCL_COMM_BLOCKING says, else what its configuration
 * does. */
bool face_blocking(bool configured);

/* ---- types (nccl_coll.c) ---- */

bool face_dtype(ncclDataType_t type, tutti_dtype *dtype);
bool face_op(ncclRedOp_t op, tutti_op *mapped);

/* ---- the driver, if the program has loaded it (nccl_driver.c) ---- */

/* The device current in this thread; 0 without a driver or a context. */
int face_device_current(void);
/* Devices; -1 without a driver. */
int face_device_count(void);
/* The context current in this thread; a device's own context; NULL if there is none. */
void *face_context_current(void);
void *face_context_of(int device);
/* The current one, as other threads may have it too: of a green context the primary one. */
void *face_context_shared(void);
/* Makes it current in this thread; NULL: none is. */
void face_context_set(void *context);
/* Records an event in a stream; the driver's number of what went wrong, -1 without a driver. */
int face_event_record(void *event, void *stream);

#endif
