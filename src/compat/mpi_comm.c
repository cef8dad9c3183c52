/* mpi_comm.c: the Tutti communicator behind one of MPI: made at its first call, kept as its
 * attribute, used while MPI goes on, released with it.
 *
 * MPI deletes an attribute when a communicator is freed or disconnected, whoever asks for it, and
 * those of MPI_COMM_SELF before all else when a program ends, the last one first: ours is there
 * from MPI_Init on and goes last, so that the ranks' own, which may talk to each other, find the
 * same at all of them. All ranks of the communicator are there at its first collective, in the same
 * place among its collectives, so the ranks meet over the communicator itself. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi_face.h"

/* Each has descriptors and memory that the program may want, and is made in milliseconds: one that
 * makes more communicators than these leaves the others to MPI. */
#define LIVE_MAX 32u
#define MADE_MAX 256u

#define PROBE_POLLS    32u   /* between looks of MPI at its messages */
#define PATIENCE       1024u /* polls before the core is offered to others: about 50 us */
#define PATIENCE_LEAST 2u    /* where ranks outnumber cores */
#define YIELD_POLLS    2u    /* between offers: what has moved may move on */

#define TEXT_MAX 256
#define HOST_LEN 64 /* of a host's name: those that begin alike count as one */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct face *faces; /* all that have a communicator */
static unsigned live, made;
static unsigned wanted;  /* calls that the settings leave to Tutti */
static struct face mpis; /* of all communicators of which nothing is taken */
static int key = MPI_KEYVAL_INVALID;
static MPI_Comm quiet;      /* of this rank alone, without messages */
static atomic_uint deleted; /* attributes, so far */
static atomic_bool on;      /* MPI is there, and the face prepared */
static _Atomic unsigned long carried[CALL_COUNT];

static const char *const names[] = {
#define X(NAME, name) name,
    FACE_CALLS(X)
#undef X
};

/* tutti_mpi_calls: how many calls of this name (MPI's, "allreduce") Tutti has carried out in this
 * process; of all names where it is NULL. For programs that ask the loader for it. */
TUTTI_API unsigned long tutti_mpi_calls(const char *name);
unsigned long tutti_mpi_calls(const char *name)
{
    unsigned long sum = 0;
    for (int c = 0; c < CALL_COUNT; c++)
        sum += name == NULL || strcmp(name, names[c]) == 0 ? atomic_load(&carried[c]) : 0;
    return sum;
}

/* ---- settings ---------------------------------------------------------------------------------
 */

static void tell(const char *what, const char *why)
{
    fprintf(stderr, "tutti_mpi: %s%s\n", what, why);
}

#define NAMED(NAME, name) " " name
/* TUTTI_MPI: all, none, or names with commas. */
static unsigned wanted_calls(void)
{
    char text[TEXT_MAX];
    unsigned calls = 0, all = (1u << CALL_COUNT) - 1;
    if (tutti_setting_get("TUTTI_MPI", text, sizeof text) != TUTTI_OK) {
        tell("all calls stay with MPI: ", tutti_last_error());
        return 0;
    }
    for (char *rest = text, *word; (word = strsep(&rest, ",")) != NULL;) {
        int c = 0;
        while (c < CALL_COUNT && strcmp(word, names[c]) != 0)
            c++;
        if (c < CALL_COUNT)
            calls |= 1u << c;
        else if (strcmp(word, "all") == 0)
            calls = all;
        else if (strcmp(word, "none") != 0)
            tell("TUTTI_MPI is all, none or some of" FACE_CALLS(NAMED) ", not ", word);
    }
    return calls;
}

/* ---- release ----------------------------------------------------------------------------------
 */

/* What has returned here, peers end without this rank: nobody is waited for. */
static void release(struct face *face)
{
    tutti_comm *comm = face->comm;
    if (comm == NULL)
        return;
    pthread_mutex_lock(&lock);
    struct face **at = &faces;
    while (*at != face)
        at = &(*at)->next;
    *at = face->next;
    live--;
    pthread_mutex_unlock(&lock);
    face->comm = NULL;
    face->calls = 0;
    tutti_comm_destroy(comm);
}

static int forget(MPI_Comm comm, int keyval, void *value, void *context)
{
    struct face *face = value;
    atomic_fetch_add(&deleted, 1);
    if (face != &mpis) {
        release(face);
        free(face->room);
        free(face);
    }
    return MPI_SUCCESS;
}

/* MPI_COMM_SELF's: MPI ends. */
static int finish(MPI_Comm comm, int keyval, void *value, void *context)
{
    atomic_store(&on, false);
    while (faces)
        release(faces);
    return PMPI_Comm_free(&quiet);
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

/* MPI moves its messages while it looks for one, and finds none where none are sent. */
static void let_mpi_go_on(void)
{
    int found;
    PMPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, quiet, &found, MPI_STATUS_IGNORE);
}

/* As the library waits: a rank that has a core spins for a moment, and then offers it to others. */
static tutti_status wait(const struct face *face, tutti_status started, tutti_request *request)
{
    tutti_status status = started;
    int done = 0;
    for (unsigned polls = 1; status == TUTTI_OK; polls++) {
        status = tutti_test(&request, &done);
        if (done)
            break;
        if (polls % PROBE_POLLS == 0)
            let_mpi_go_on();
        if (polls >= face->patience && polls % YIELD_POLLS == 0)
            sched_yield();
    }
    return status;
}

/* ---- making -----------------------------------------------------------------------------------
 */

/* Where a rank runs. */
struct seat {
    char host[HOST_LEN];
    cpu_set_t cores;
};

#ifdef OPEN_MPI
#define OTHER   "PICH" /* MPICH, CRAY MPICH, MVAPICH */
#define MISTAKE "libtutti_mpi.so is for Open MPI, this program has MPICH: take libtutti_mpich.so"
#else
#define OTHER   "Open MPI"
#define MISTAKE "libtutti_mpich.so is for MPICH, this program has Open MPI: take libtutti_mpi.so"
#endif

/* Handles of one MPI are pointers, of the other numbers: what a face of the wrong one handed on
 * would not even be what the program gave. */
static void leave_another_mpi(void)
{
    char words[8192] = ""; /* MPICH's MPI_MAX_LIBRARY_VERSION_STRING, the greatest */
    int len;
    PMPI_Get_library_version(words, &len);
    if (strstr(words, OTHER) == NULL)
        return;
    tell(MISTAKE, "");
    _exit(EXIT_FAILURE);
}

static void prepare(void)
{
    int end_key;
    leave_another_mpi();
    /* Who is late in an MPI program is waited for: it may read or compute for hours. */
    tutti_setting_default("TUTTI_TIMEOUT_MS", "86400000");
    wanted = wanted_calls();
    PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, forget, &key, NULL);
    PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, finish, &end_key, NULL);
    PMPI_Comm_set_attr(MPI_COMM_SELF, end_key, NULL);
    PMPI_Comm_free_keyval(&end_key);
    PMPI_Comm_split(MPI_COMM_SELF, 0, 0, &quiet);
    face_types_prepare();
    atomic_store(&on, true);
}

/* From MPI_Init on; from the first call, where another language's or a tool's went past us. */
bool face_is_on(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int begun, ended;
    if (atomic_load_explicit(&on, memory_order_acquire))
        return true;
    PMPI_Initialized(&begun);
    PMPI_Finalized(&ended);
    if (begun && !ended)
        pthread_once(&once, prepare);
    return atomic_load(&on);
}

#pragma GCC visibility push(default)

int MPI_Init(int *argc, char ***argv)
{
    int code = PMPI_Init(argc, argv);
    if (code == MPI_SUCCESS)
        face_is_on();
    return code;
}

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    int code = PMPI_Init_thread(argc, argv, required, provided);
    if (code == MPI_SUCCESS)
        face_is_on();
    return code;
}

#pragma GCC visibility pop

static int allgather(const void *in, void *out, size_t len, void *context)
{
    MPI_Comm comm = *(MPI_Comm *)context;
    return PMPI_Allgather(in, (int)len, MPI_BYTE, out, (int)len, MPI_BYTE, comm) != MPI_SUCCESS;
}

/* What all ranks say. */
static unsigned agree(unsigned mine, MPI_Comm comm)
{
    unsigned all = 0;
    if (PMPI_Allreduce(&mine, &all, 1, MPI_UNSIGNED, MPI_BAND, comm) != MPI_SUCCESS)
        return 0;
    return all;
}

/* Whether this rank may have one more; then it counts as one. */
static unsigned take_place(const struct face *face)
{
    pthread_mutex_lock(&lock);
    unsigned calls = face && face->room && live < LIVE_MAX && made < MADE_MAX ? wanted : 0;
    live += calls != 0;
    made += calls != 0;
    pthread_mutex_unlock(&lock);
    return calls;
}

static void give_place(unsigned taken)
{
    pthread_mutex_lock(&lock);
    live -= taken != 0;
    pthread_mutex_unlock(&lock);
}

/* Whether the ranks of this one's host outnumber the cores that they may use. A communicator of
 * them would say, but MPI makes one after the other: this call would wait for what another thread
 * makes, and with it for ranks that may be waiting for this call. */
static bool is_crowded(const struct face *face, MPI_Comm comm, struct seat *seats)
{
    struct seat *mine = &seats[face->rank];
    cpu_set_t cores;
    int ranks = 0;
    CPU_ZERO(&cores);
    gethostname(mine->host, sizeof mine->host);
    sched_getaffinity(0, sizeof mine->cores, &mine->cores);
    PMPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, seats, sizeof *seats, MPI_BYTE, comm);
    for (int r = 0; r < face->size; r++) {
        if (strncmp(seats[r].host, mine->host, sizeof mine->host) == 0) {
            ranks++;
            CPU_OR(&cores, &cores, &seats[r].cores);
        }
    }
    return ranks > CPU_COUNT(&cores);
}

/* Whether all are well; what is not here is said, and nothing is made here any more. */
static unsigned agree_on(tutti_status status, unsigned calls, MPI_Comm comm)
{
    if (status != TUTTI_OK) {
        tell("this communicator and new ones stay with MPI: ", tutti_last_error());
        pthread_mutex_lock(&lock);
        made = MADE_MAX;
        pthread_mutex_unlock(&lock);
    }
    return agree(status == TUTTI_OK ? calls : 0, comm);
}

/* The same steps at all ranks, whatever fails at one. What links need is found out by a barrier,
 * before a call of the program rests on it. */
static bool make(struct face *face, MPI_Comm comm, int size)
{
    tutti_request *request = NULL;
    struct seat *seats = calloc((size_t)size, sizeof *seats);
    unsigned mine = take_place(seats ? face : NULL), calls = agree(mine, comm);
    if (calls != 0) {
        *face = (struct face){.size = size, .room = face->room};
        PMPI_Comm_rank(comm, &face->rank);
        face->patience = is_crowded(face, comm, seats) ? PATIENCE_LEAST : PATIENCE;
        calls = agree_on(tutti_comm_create_with(size, face->rank, allgather, &comm, &face->comm),
                         calls, comm);
    }
    if (calls != 0) {
        tutti_status status = tutti_barrier_start(face->comm, &request);
        calls = agree_on(wait(face, status, request), calls, comm);
    }
    free(seats);
    if (calls == 0) {
        tutti_comm_destroy(face ? face->comm : NULL);
        give_place(mine);
        return false;
    }
    pthread_mutex_lock(&lock);
    face->calls = calls;
    face->next = faces;
    faces = face;
    pthread_mutex_unlock(&lock);
    return true;
}

/* Whether all ranks were started with this one. Others may not have this library, and cannot be
 * asked; but with some of both in comm, each finds ranks of another world than its own. */
static bool is_of_one_world(MPI_Comm comm)
{
    MPI_Group all, world, others;
    int count;
    PMPI_Comm_group(comm, &all);
    PMPI_Comm_group(MPI_COMM_WORLD, &world);
    PMPI_Group_difference(all, world, &others);
    PMPI_Group_size(others, &count);
    if (others != MPI_GROUP_EMPTY)
        PMPI_Group_free(&others);
    PMPI_Group_free(&world);
    PMPI_Group_free(&all);
    return count == 0;
}

static struct face *meet(MPI_Comm comm)
{
    struct face *face = NULL;
    int size, inter;
    PMPI_Comm_test_inter(comm, &inter);
    PMPI_Comm_size(comm, &size);
    if (!inter && size > 1 && is_of_one_world(comm)) {
        face = calloc(1, sizeof *face);
        if (face)
            face->room = calloc(4 * (size_t)size, sizeof *face->room);
        if (!make(face, comm, size)) {
            free(face ? face->room : NULL);
            free(face);
            face = NULL;
        }
    }
    face = face ? face : &mpis;
    PMPI_Comm_set_attr(comm, key, face);
    return face;
}

/* The last answer of this thread holds until MPI deletes an attribute, after which the same handle
 * may be another communicator's: to ask MPI costs as much as a poll. */
struct face *face_of(MPI_Comm comm, enum face_call call)
{
    static _Thread_local struct {
        MPI_Comm comm;
        struct face *face;
        unsigned deleted;
    } last;
    unsigned now = atomic_load(&deleted);
    int found;
    if (comm == MPI_COMM_NULL)
        return NULL;
    if (!last.face || last.comm != comm || last.deleted != now) {
        struct face *face;
        if (!face_is_on() || PMPI_Comm_get_attr(comm, key, &face, &found) != MPI_SUCCESS)
            return NULL;
        last.face = found ? face : meet(comm);
        last.comm = comm;
        last.deleted = now;
    }
    return last.face->calls >> call & 1 ? last.face : NULL;
}

/* ---- calls ------------------------------------------------------------------------------------
 */

/* text: shorter than MPI_MAX_ERROR_STRING. */
static int call_handler(struct face *face, MPI_Comm comm, const char *text)
{
    if (face->error_code == 0) {
        int class = MPI_ERR_OTHER;
#ifdef MPICH_VERSION /* has sentences for codes of new classes only */
        PMPI_Add_error_class(&class);
#endif
        PMPI_Add_error_code(class, &face->error_code);
    }
    PMPI_Add_error_string(face->error_code, text);
    PMPI_Comm_call_errhandler(comm, face->error_code);
    return face->error_code;
}

int face_wait(struct face *face, MPI_Comm comm, enum face_call call, tutti_status started,
              tutti_request *request)
{
    char text[MPI_MAX_ERROR_STRING];
    if (wait(face, started, request) == TUTTI_OK) {
        atomic_fetch_add_explicit(&carried[call], 1, memory_order_relaxed);
        return MPI_SUCCESS;
    }
    snprintf(text, sizeof text, "%s", tutti_last_error());
    /* What Tutti refuses to start fails at this rank alone, and its peers wait. */
    if (started != TUTTI_OK && tutti_comm_status(face->comm) == TUTTI_OK)
        return face_give_up(face, comm, text);
    return call_handler(face, comm, text);
}

int face_give_up(struct face *face, MPI_Comm comm, const char *sentence)
{
    tutti_comm_abort(face->comm);
    return call_handler(face, comm, sentence);
}
