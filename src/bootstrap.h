/* bootstrap.h: how ranks find each other: rank, size, and one blocking allgather of small records.
 *
 * Three sources: a unique id (built-in TCP rendezvous: the root, a rank of the process that made
 * the id, listens on the chosen interface, every rank connects, proves the job secret
 * (base/auth.h), and the root relays the blocks), the launcher's environment (finds rank, size and
 * a meeting place, then the same rendezvous with rank 0 as root), or the caller's own allgather.
 * Every wait is bounded by TUTTI_MEET_TIMEOUT_MS; a silent or garbage client costs the root one
 * slot for at most 2 s and is then dropped; nothing that came from the wire sizes an allocation
 * beyond a named maximum. Where the rendezvous is by unique id, cancel (base/clock.h) can end every
 * wait, those of the allgathers too, with its error here; the other ranks get it as well,
 * TUTTI_ERR_CONNECT in place of TUTTI_ERR_ABORTED. */
#ifndef SRC_BOOTSTRAP_H
#define SRC_BOOTSTRAP_H

#include "base/clock.h"
#include "base/settings.h"
#include "tutti/types.h"

#define BOOTSTRAP_BLOCK_MAX  (64u << 10) /* bytes one rank may give to one allgather */
#define BOOTSTRAP_RANKS_MAX  65536u      /* as TUTTI_SIZE allows */
#define BOOTSTRAP_UNAUTH_MAX 64          /* connections not yet authenticated, at a time */

struct bootstrap;

/* The root is the first rank of this process that comes; after a fork rank 0 may be it, too. */
tutti_status bootstrap_unique_id(const struct settings *settings, tutti_unique_id *id);
/* The root is rank 0, which this process holds: a child of fork inherits nothing of it. */
tutti_status bootstrap_root_id(const struct settings *settings, tutti_unique_id *id);
/* An id of the address that NCCL_COMM_ID names, where it is set; else a unique one. */
tutti_status bootstrap_id_from_env(const struct settings *settings, tutti_unique_id *id);
tutti_status bootstrap_from_id(const struct settings *settings, const tutti_unique_id *id,
                               uint32_t rank, uint32_t size, const struct cancel *cancel,
                               struct bootstrap **bootstrap);
/* For the process that made the id, whatever of its ranks it holds: see tutti_unique_id_serve. */
tutti_status bootstrap_serve(const tutti_unique_id *id, const struct cancel *cancel);
/* See tutti_unique_id_release. */
tutti_status bootstrap_give_back(const tutti_unique_id *id);
/* A check for cancel: another thread wants no communicator any more (clock_cancelled). */
struct bootstrap_word {
    const int *word;
    uint32_t rank, size;
};
tutti_status bootstrap_check_word(void *word);
tutti_status bootstrap_from_env(const struct settings *settings, struct bootstrap **bootstrap);
tutti_status bootstrap_from_callback(tutti_allgather_fn *allgather, void *context, uint32_t rank,
                                     uint32_t size, struct bootstrap **bootstrap);
uint32_t bootstrap_rank(const struct bootstrap *bootstrap);
uint32_t bootstrap_size(const struct bootstrap *bootstrap);
/* out has size * len bytes. Blocking, bounded. TUTTI_ERR_CONNECT names the ranks that are missing.
 */
tutti_status bootstrap_allgather(struct bootstrap *bootstrap, const void *in, void *out,
                                 size_t len);
void bootstrap_free(struct bootstrap *bootstrap); /* NULL allowed */

#endif
