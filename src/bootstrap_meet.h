/* bootstrap_meet.h: private to src/bootstrap*.c: what a meeting is, and the messages of one.
 *
 * A meeting is a place (addresses where its root listens), a name (the job id) and a key. All
 * sources of a meeting (unique id, launcher's environment) end in bootstrap_meet, which gives each
 * rank but the root one connection to the root, and the root one to each rank. The root is the rank
 * that has the listening sockets: rank 0, or, with a unique id, whichever rank of the process that
 * made the id comes first, or that process without a rank (bootstrap_serve). The others learn which
 * from its answers.
 *
 *      rank                                     root
 *        connect ------------------------------->   one of 64 slots, 2 s
 *        hello (auth.h) ------------------------>
 *        <------------------------------- hello
 *        proof, join {rank, size, host, pid} --->   checks the proof, then the facts
 *        <-- answer {IN_PROGRESS, proof, rank} or a refusal {status, sentence}
 *        <-- answer {OK} when all have joined, or {status, sentence}
 *     then, for each allgather:
 *        header {sequence, length}, block ------>
 *        <--- header {status, length}, all blocks or a sentence
 *
 * All numbers are little endian. Nothing read from the wire sizes memory: messages are of fixed
 * length, and a block's length must be the receiver's own. */
#ifndef SRC_BOOTSTRAP_MEET_H
#define SRC_BOOTSTRAP_MEET_H

#include "base/auth.h"
#include "base/sock.h"
#include "src/bootstrap.h"

#define MEETING_PORTS_MAX     16 /* successive ports of a host that a rank tries */
#define MEETING_PLACES_MAX    (MEETING_PORTS_MAX * SOCK_ADDRESSES_MAX)
#define MEETING_LISTENERS_MAX SOCK_ADDRESSES_MAX /* addresses the root listens on */
#define MEETING_KEY_MAX       320
#define BOOTSTRAP_VERSION     3u
#define BOOTSTRAP_GRACE_MS    500 /* the root may tell at the very deadline who is missing */
/* The results for a hundred ranks are more than a socket holds, and a rank may get no turn when
 * they come: its program is read from a busy server of files, say. */
#define BOOTSTRAP_PATIENCE_MS 60000
#define BOOTSTRAP_MAGIC       0x54425354u /* "TSBT" on the wire */
#define BOOTSTRAP_NO_RANK     UINT32_MAX  /* of a root that is none of the ranks */
#define BOOTSTRAP_MAKER       "the unique id's maker"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "messages are sent as they lie");

struct meeting {
    uint8_t job[16];
    char key[MEETING_KEY_MAX]; /* settings' secret, then the id's own key in hexadecimal */
    uint64_t timeout_ms;       /* of each step */
    uint64_t stall_ms;         /* until the log says who is waited for; 0: never */
    struct sock_address places[MEETING_PLACES_MAX];
    uint32_t place_count;
    int listeners[MEETING_LISTENERS_MAX]; /* who has some is the root */
    uint32_t listener_count;
    bool any_root;               /* one process, with any rank, is the root, else only rank 0 */
    bool opened;                 /* the sockets were there before the ranks heard of them */
    const struct cancel *cancel; /* borrowed for the bootstrap's life */
};

struct join_message {
    uint32_t magic, version, rank, size, pid, reserved;
    char host[64];
};

struct answer_message {
    uint32_t magic;
    int32_t status;
    uint8_t proof[AUTH_PROOF_LEN]; /* zero when the rank's own proof was refused */
    char sentence[SENTENCE_MAX];
    uint32_t rank; /* of the root; BOOTSTRAP_NO_RANK */
};

struct gather_header {
    uint32_t magic, sequence;
    int32_t status;
    uint32_t len;  /* of one block; of the sentence when status is an error */
    uint32_t used; /* bytes of each block that are sent: those behind them are zero */
};

/* What the root knows of a rank; of its own only the name, and its fd stays -1. */
struct seat {
    int fd; /* -1: not here yet */
    uint32_t pid;
    char host[64];
};

enum bootstrap_kind { BOOTSTRAP_ALONE, BOOTSTRAP_ROOT, BOOTSTRAP_LEAF, BOOTSTRAP_CALLBACK };

struct bootstrap {
    enum bootstrap_kind kind;
    uint32_t rank, size; /* root: BOOTSTRAP_NO_RANK, and 0 until the first has come */
    uint32_t witness;    /* root: whose word the others are held to: its own, or the first's */
    uint32_t sequence;   /* of the next allgather */
    uint64_t timeout_ms; /* of each step */
    uint64_t stall_ms;
    bool stall_told;
    const struct cancel *cancel; /* ends each step */
    struct seat *seats;          /* root: [size] */
    int fd;                      /* leaf: the connection to the root, else -1 */
    char root_name[40];          /* "rank 3", or, without or before that, what there is to say */
    char root_text[SOCK_TEXT_MAX];
    tutti_status broken; /* status of the allgather that failed: the ranks are out of step */
    char broken_sentence[SENTENCE_MAX];
    tutti_allgather_fn *allgather;
    void *context;
};

/* The time limit and the key of a meeting: the job secret, then `suffix` (NULL: none). */
void meeting_set_terms(const struct settings *settings, struct meeting *meeting,
                       const char *suffix);
/* A job id from a text that all ranks of the job, and no others, know; errors of auth_job_id. */
tutti_status meeting_set_job(struct meeting *meeting, const char *text);
void meeting_close_listeners(struct meeting *meeting);

tutti_status bootstrap_check_rank(uint32_t rank, uint32_t size);
/* Gives a root that many seats. */
tutti_status bootstrap_take_seats(struct bootstrap *bootstrap, uint32_t size);
/* Ranks that come to this root. */
static inline uint32_t bootstrap_guests(const struct bootstrap *bootstrap)
{
    return bootstrap->rank < bootstrap->size ? bootstrap->size - 1 : bootstrap->size;
}
/* BOOTSTRAP_NO_RANK of 0 ranks: serves the ranks that come, however late the first does.
 * Joins: takes the meeting's listeners and closes them in every case. Bounded by
 * TUTTI_MEET_TIMEOUT_MS. */
tutti_status bootstrap_meet(struct meeting *meeting, uint32_t rank, uint32_t size,
                            struct bootstrap **bootstrap);
/* True once, when it is time that the log says who does not come; else *next is then at the latest.
 */
bool bootstrap_stalls(struct bootstrap *bootstrap, uint64_t deadline_ms, uint64_t now,
                      uint64_t *next);
/* The two halves of it. */
tutti_status bootstrap_root_join(struct bootstrap *bootstrap, const struct meeting *meeting,
                                 uint64_t deadline_ms);
tutti_status bootstrap_leaf_join(struct bootstrap *bootstrap, const struct meeting *meeting,
                                 uint64_t deadline_ms);
/* And of the allgather. */
tutti_status bootstrap_root_allgather(struct bootstrap *bootstrap, const void *in, void *out,
                                      size_t len, uint64_t deadline_ms);
/* An allgather of others, or their end: then *over. */
tutti_status bootstrap_root_relay(struct bootstrap *bootstrap, bool *over);
tutti_status bootstrap_leaf_allgather(struct bootstrap *bootstrap, const void *in, void *out,
                                      size_t len, uint64_t deadline_ms);

/* Passes on the allgathers of a meeting without a rank of its own, until all have left. */
tutti_status bootstrap_relay(struct bootstrap *bootstrap);

/* As others are told of a failure here: an abort is the loss of a rank to them. */
static inline tutti_status bootstrap_told(tutti_status status)
{
    return status == TUTTI_ERR_ABORTED ? TUTTI_ERR_CONNECT : status;
}

/* An address that all ranks know, host:port: rank 0 listens there, and each rank looks the host up,
 * until it is known; check looks once. name: of the variable that gave it. */
#define COMM_ID_VARIABLE "NCCL_COMM_ID"
tutti_status bootstrap_check_place(const struct settings *settings, const char *name,
                                   const char *text);
tutti_status bootstrap_meet_at(const struct settings *settings, const char *name, const char *text,
                               uint32_t rank, uint32_t size, const struct cancel *cancel,
                               struct bootstrap **bootstrap);
/* An id that carries the text. */
tutti_status bootstrap_id_of_place(const struct settings *settings, const char *text,
                                   tutti_unique_id *id);

/* Unique ids of this process (bootstrap_waiting.c): their sockets wait there for the root.
 * put: keeps the meeting's listeners and terms. claim: gives the listeners to the first rank that
 * may be the root; the meeting of any other rank is left without; an error for an id that is used
 * up. attend: waits until a rank has come and none here has claimed it, then gives all that was
 * kept; without listeners when another is the root. end: the root's meeting is over. give_back:
 * nobody will use it. */
tutti_status waiting_put(const struct meeting *meeting);
tutti_status waiting_attend(struct meeting *meeting);
tutti_status waiting_claim(struct meeting *meeting, uint32_t rank, uint32_t size);
void waiting_end(const struct meeting *meeting, tutti_status outcome);
tutti_status waiting_give_back(struct meeting *meeting);

/* What the root says went wrong becomes this rank's own sentence. */
tutti_status bootstrap_refused(const struct bootstrap *bootstrap,
                               const struct answer_message *answer);

/* root_name: "rank 3", or the maker of the id. */
void bootstrap_name_root(struct bootstrap *bootstrap, uint32_t rank);
/* "rank 3 (host b, pid 77)"; "rank 3" while nothing is known of it. */
const char *seat_text(const struct seat *seats, uint32_t rank, char text[128]);
/* "3, 5-7 and 12 more": other ranks for which seats[r].fd < 0 or, if done is given, !done[r]. */
void seats_missing(const struct bootstrap *bootstrap, const bool *done, char *text, size_t len);
/* A sentence from the wire: ended, and without control characters. */
void bootstrap_clean_text(char *text, size_t len);

/* Where this socket address points, without asking anyone. */
bool address_is_loopback(const struct sock_address *address);
bool address_is_any(const struct sock_address *address);
uint16_t address_port(const struct sock_address *address);
void address_set_port(struct sock_address *address, uint16_t port);

/* Launchers that carry a text from rank 0 to all (a key-value store with a fence): one file each.
 * open: TUTTI_ERR_UNSUPPORTED when this launcher, or the library it needs, is not there.
 * share: collective; rank 0's text arrives in every rank's. The text has no spaces and at most
 * LAUNCHER_TEXT_MAX - 1 characters; bounded by the deadline. */
#define LAUNCHER_TEXT_MAX 900 /* MPICH takes values of 1,023 characters */
tutti_status bootstrap_pmix_open(uint32_t *rank, uint32_t *size);
tutti_status bootstrap_pmix_share(uint32_t rank, char text[LAUNCHER_TEXT_MAX],
                                  uint64_t deadline_ms);
tutti_status bootstrap_pmi1_open(uint32_t *rank, uint32_t *size);
tutti_status bootstrap_pmi1_share(uint32_t rank, char text[LAUNCHER_TEXT_MAX],
                                  uint64_t deadline_ms);
/* A launcher's variable as a number from low to high. */
tutti_status launcher_number(const char *name, uint32_t low, uint32_t high, uint32_t *number);

#endif
