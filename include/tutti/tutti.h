/* tutti/tutti.h: the public interface of Tutti, collective communication for C and C++.
 *
 * Reading order: status and errors, communicators, memory, reduction operations, collectives,
 * point-to-point, groups, started operations, operations in the order of a GPU stream, settings.
 *
 * Conventions
 *   Every function that can fail returns tutti_status; tutti_last_error() then has one sentence
 *   for the calling thread that says what, which rank, what was expected and what to do.
 *   Counts are elements of dtype, not bytes, and are size_t.
 *   Out-parameters come last and are written only on success.
 *   Operations on one communicator run in the order issued; different communicators are
 *   independent. One thread at a time may use a communicator, but tutti_comm_abort and
 *   tutti_comm_status may be called from any thread. Every rank must issue the same collectives in
 *   the same order with the same count, type, operation and root; ranks that disagree get
 *   TUTTI_ERR_MISMATCH, not a hang. A call that ends with TUTTI_ERR_ARG, _STATE, _SETTING or
 *   _FORKED leaves the communicator as it was. After any other error of a collective or a transfer
 *   it may be failed, as tutti_comm_status tells: then every further operation returns the same
 *   error; destroy it, or go on in another with the survivors (tutti_comm_shrink). What a failed
 *   call would have written is unspecified; once it has returned, or its stream has gone on,
 *   nothing writes to its buffers any more.
 *
 * In place
 *   allreduce, reduce (at root), broadcast   in == out
 *   allgather(v)         in == out + (own block)
 *   reduce_scatter(v)    out == in + (own block)
 *   gather(v), root      in == out + (own block);    scatter(v), root   out == in + (own block)
 *   alltoall(v)          in == out
 *   Any other overlap of in and out is refused.
 *
 * Rounding
 *   16-bit and 8-bit floats: each reduction step converts both operands to float32, computes, and
 *   rounds once to nearest even (float8_e4m3 saturates to +-448, float8_e5m2 overflows to
 *   infinity). The order of steps is fixed by the plan, so the same plan gives the same bits, on
 *   every rank and in every run. TUTTI_AVG divides the finished sum by the number of ranks
 *   (integers: truncating toward zero; the sum has wrapped before, so the
 *   average of uint8 200 and 200 is 72). min and max: NaN if either is NaN, and -0 < +0. */
#ifndef TUTTI_H
#define TUTTI_H

#include <tutti/types.h>
#include <tutti/version.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TUTTI_API __attribute__((visibility("default")))
#else
#define TUTTI_API
#endif

/* ---- status and errors ---------------------------------------------------------------------- */

/* The version the library was built as: major * 10000 + minor * 100 + patch. */
TUTTI_API int tutti_version(void);

/* A short constant text for a status, never NULL; unknown values get "unknown status". */
TUTTI_API const char *tutti_status_string(tutti_status status);

/* The sentence of the last error in the calling thread ("" if none); valid until the next call
 * of the library in this thread. */
TUTTI_API const char *tutti_last_error(void);

/* tutti_log_failure: a line "tutti[host:pid] error: sentence" on standard error, or in
 * TUTTI_LOG_FILE, where NCCL_DEBUG is WARN, INFO, ABORT or TRACE; else nothing. For an interface
 * over this one whose programs print its codes and may never ask for the sentence. */
TUTTI_API void tutti_log_failure(const char *sentence);

/* The name of a type, operation or collective ("float32", "sum", "allreduce"); "?" if unknown. */
TUTTI_API const char *tutti_dtype_name(tutti_dtype dtype);
TUTTI_API const char *tutti_op_name(tutti_op op);
TUTTI_API const char *tutti_coll_name(tutti_coll coll);

/* Bytes of one element; 0 for an unknown type. */
TUTTI_API size_t tutti_dtype_size(tutti_dtype dtype);

/* ---- communicators -------------------------------------------------------------------------- */

/* tutti_unique_id_create: called by one process, which takes part in the communicator, with any
 * rank or ranks, or serves the id (tutti_unique_id_serve); where it forks all ranks it need not.
 * Opens listening sockets on the chosen interfaces that live until the communicator exists (or the
 * process ends). The id makes one communicator. Errors TUTTI_ERR_SYSTEM, TUTTI_ERR_SETTING;
 * TUTTI_ERR_NOMEM when 256 ids of this process wait for their use. */
TUTTI_API tutti_status tutti_unique_id_create(tutti_unique_id *id);

/* tutti_unique_id_from_env: as above, but where NCCL_COMM_ID=host:port ([ipv6]:port) is set the id
 * is of that address, and nothing is opened yet: every rank may make it itself, instead of being
 * given another's, and rank 0 of the communicator, which runs on that host, listens there while it
 * is made. Such ids are all the same: one serves any number of communicators, one after the other.
 * Who joins proves the job secret (TUTTI_SECRET), as with TUTTI_RENDEZVOUS. Errors
 * TUTTI_ERR_SETTING, _CONNECT (the host is unknown), _SYSTEM. */
TUTTI_API tutti_status tutti_unique_id_from_env(tutti_unique_id *id);

/* tutti_unique_id_serve: the meeting of an id's ranks is served by the first of them that the
 * maker's process holds. Where it holds none, or may hold one later, it calls this, usually in a
 * thread of its own: blocks, and passes the ranks' messages on, until they have made their
 * communicator or failed to. The first of them may take any time to come; then
 * TUTTI_MEET_TIMEOUT_MS counts, as the maker had it when it made the id. Returns TUTTI_OK, too,
 * when a rank of this process, or a forked rank 0, has come within 0.1 s of the first and serves
 * instead; one that comes later is a rank as any other. Another thread that stores something else
 * than 0 in *cancel (atomically; NULL: none will) ends it within 0.1 s; ranks that have come are
 * told, and before any has the id stays as it was. An id of an address (tutti_unique_id_from_env)
 * needs no service: TUTTI_OK at once.
 * Errors TUTTI_ERR_ARG when this process did not make the id; _STATE when another thread serves it;
 * _ABORTED; and what the ranks are told when they fail, _CONNECT, _PROTOCOL, _NOMEM. */
TUTTI_API tutti_status tutti_unique_id_serve(const tutti_unique_id *id, const int *cancel);

/* tutti_unique_id_release: for an id that will make no communicator: closes its sockets and ends
 * who serves it. One that is used, or is of an address, is left alone: TUTTI_OK. TUTTI_ERR_ARG
 * when this process did not make it. */
TUTTI_API tutti_status tutti_unique_id_release(const tutti_unique_id *id);

/* tutti_comm_create: makes rank `rank` of a communicator of `size` ranks; collective, blocking,
 * bounded by TUTTI_MEET_TIMEOUT_MS. The caller owns *comm: tutti_comm_destroy.
 * Ranks may be threads of one process.
 * Errors TUTTI_ERR_ARG, _SETTING, _CONNECT, _AUTH, _PROTOCOL, _NOMEM. */
TUTTI_API tutti_status tutti_comm_create(int size, const tutti_unique_id *id, int rank,
                                         tutti_comm **comm);

/* tutti_comm_create_from_env: as tutti_comm_create; rank, size and meeting place come from, in this
 * order, TUTTI_RENDEZVOUS with TUTTI_RANK and TUTTI_SIZE, torchrun (MASTER_ADDR is used,
 * MASTER_PORT is never bound), PMIx (Open MPI, Slurm) where libpmix is on the machine and its
 * header was when the library was built, MPICH (PMI), Slurm. With none of them the result is a
 * communicator of one rank. */
TUTTI_API tutti_status tutti_comm_create_from_env(tutti_comm **comm);

/* tutti_comm_create_with: as tutti_comm_create; the caller's allgather is the only rendezvous.
 * allgather is called a fixed number of times before the function returns, and never later. */
TUTTI_API tutti_status tutti_comm_create_with(int size, int rank, tutti_allgather_fn *allgather,
                                              void *context, tutti_comm **comm);

/* tutti_comm_split: collective over comm; ranks with one color form a communicator, ordered by
 * key, then by rank in comm. color TUTTI_NO_COLOR gives *new_comm = NULL. */
#define TUTTI_NO_COLOR (-1)
TUTTI_API tutti_status tutti_comm_split(tutti_comm *comm, int color, int key,
                                        tutti_comm **new_comm);
TUTTI_API tutti_status tutti_comm_dup(tutti_comm *comm, tutti_comm **new_comm);

/* tutti_comm_shrink: the ranks that are not excluded form a communicator, in the order of their
 * ranks. Collective over those ranks alone: an excluded rank may be dead and takes no part. Works
 * on a communicator that failed or was revoked, but not after tutti_comm_abort, as long as it is
 * not destroyed, here and at the other survivors; one that works goes on working.
 * excluded  ranks of comm, each at most once, never this one; the same set at every survivor.
 * count     of them; 0 renews a failed communicator with all its ranks.
 * The survivor of the lowest rank opens a meeting place and tells the others over comm's links.
 * Errors TUTTI_ERR_ARG; TUTTI_ERR_MISMATCH when survivors name different sets; TUTTI_ERR_PEER,
 * _CONNECT, _TIMEOUT when one is dead, gives up or does not come within TUTTI_MEET_TIMEOUT_MS;
 * TUTTI_ERR_ABORTED when comm was aborted here, also while the call lasts. */
TUTTI_API tutti_status tutti_comm_shrink(tutti_comm *comm, const int *excluded, size_t count,
                                         tutti_comm **new_comm);

/* tutti_comm_grow: the ranks of comm, which keep their numbers, and newcomers form a communicator
 * of size ranks. Collective over comm; the newcomers call tutti_comm_create(size, id, rank), with
 * ranks from comm's size to size - 1. comm goes on working, unless a rank of it dies.
 * size      the same at every rank, more than comm has.
 * id        at one rank an unused id, which its process made (tutti_unique_id_create) and the
 *           program carries to the newcomers; at the others NULL.
 * new_comm  the caller's: tutti_comm_destroy.
 * Errors TUTTI_ERR_ARG; TUTTI_ERR_MISMATCH when sizes differ, or not one rank gives an id: at every
 * rank, and the id is not used. TUTTI_ERR_CONNECT when a newcomer does not come within
 * TUTTI_MEET_TIMEOUT_MS or claims a rank that is taken, or a rank gives up; TUTTI_ERR_PEER when
 * one of comm died; what comm failed of, if it did before: shrink it first. Cost: one allgather
 * over comm, then as tutti_comm_create. */
TUTTI_API tutti_status tutti_comm_grow(tutti_comm *comm, int size, const tutti_unique_id *id,
                                       tutti_comm **new_comm);

/* tutti_comm_create_cancellable, _split_cancellable, _shrink_cancellable, _grow_cancellable: as
 * above, until another thread stores something else than 0 at *cancel (atomically; read while the
 * call lasts): then TUTTI_ERR_ABORTED within 0.2 s, unless the communicator was made already. The
 * other ranks get an error that names this one:
 *   create   TUTTI_ERR_CONNECT.
 *   split    TUTTI_ERR_PEER; comm ends too, here and there, as by tutti_comm_abort, since its
 *            ranks are out of step.
 *   grow     TUTTI_ERR_CONNECT; comm stays as it is. Before its ranks have agreed: as split.
 *            (*spare 1: id is for the case that no rank gives another; 0 afterwards if it was
 *            used. NULL: it is given.)
 *   shrink   TUTTI_ERR_PEER; comm stays as it is, and can be shrunk again. Who comes only now and
 *            never had a link to this rank waits for it as for any that does not come. */
TUTTI_API tutti_status tutti_comm_create_cancellable(int size, const tutti_unique_id *id, int rank,
                                                     const int *cancel, tutti_comm **comm);
TUTTI_API tutti_status tutti_comm_split_cancellable(tutti_comm *comm, int color, int key,
                                                    const int *cancel, tutti_comm **new_comm);
TUTTI_API tutti_status tutti_comm_shrink_cancellable(tutti_comm *comm, const int *excluded,
                                                     size_t count, const int *cancel,
                                                     tutti_comm **new_comm);
TUTTI_API tutti_status tutti_comm_grow_cancellable(tutti_comm *comm, int size,
                                                   const tutti_unique_id *id, int *spare,
                                                   const int *cancel, tutti_comm **new_comm);

TUTTI_API tutti_status tutti_comm_rank(const tutti_comm *comm, int *rank);
TUTTI_API tutti_status tutti_comm_size(const tutti_comm *comm, int *size);
TUTTI_API tutti_status tutti_comm_host_count(const tutti_comm *comm, int *hosts);

/* tutti_comm_status: TUTTI_OK while the communicator works, else the error that failed it. From any
 * thread. While nobody uses the communicator the question looks, at most every 10 ms, whether a
 * peer that this rank has exchanged data with died: TUTTI_ERR_PEER. One that left has not. Before
 * its first call a rank has met nobody, and the status tells of no death: the call does, within
 * 5 s. One barrier after creation is enough: who met the dead rank tells the others that ask. */
TUTTI_API tutti_status tutti_comm_status(const tutti_comm *comm);

/* tutti_comm_finalize: completes every started operation and waits until no peer needs this rank
 * any more; collective.
 * tutti_comm_flush: waits until every operation issued here is done; not collective, so that one
 * thread can flush several ranks in turn.
 * tutti_comm_destroy: releases everything, never waits for peers beyond 1 s, or over RDMA beyond
 * 4 s, until what was sent has arrived; NULL is allowed; started operations end with
 * TUTTI_ERR_ABORTED. With a process's last communicator the GPU memory of others that it has mapped
 * is given back: the driver waits for what its streams were given.
 * tutti_comm_abort: from any thread, but not out of a user's reduction (which must not call the
 * library): every wait of this communicator ends with TUTTI_ERR_ABORTED, here and (as
 * TUTTI_ERR_PEER naming this rank) at its peers. One that it never met learns of it as soon as it
 * waits for this rank or for one that has learnt of it, wherever that is and whatever it does.
 * tutti_comm_revoke: as abort, but this rank stays within its peers' reach, for tutti_comm_shrink.
 * Who has met none that knows, and waits for none, goes on: so every rank revokes. */
TUTTI_API tutti_status tutti_comm_finalize(tutti_comm *comm);
TUTTI_API tutti_status tutti_comm_flush(tutti_comm *comm);
TUTTI_API tutti_status tutti_comm_destroy(tutti_comm *comm);
TUTTI_API tutti_status tutti_comm_abort(tutti_comm *comm);
TUTTI_API tutti_status tutti_comm_revoke(tutti_comm *comm);

/* tutti_comm_explain: writes what the planner would choose for this call and why (candidates with
 * their predicted microseconds), in which memory it would work and why, and the links of the ranks
 * there, as text of at most len - 1 characters, always terminated. A transfer (TUTTI_COLL_SENDRECV)
 * has a price and no plan; of a v form all blocks are taken to be equal.
 *   in, out  as in the call (a send: out is NULL, a receive: in is NULL): only the kind of their
 *            memory counts, and they are never read; NULL counts as host memory.
 *   count    as in the call; of a v form all blocks together (alltoallv, gatherv and scatterv: no
 *            count has a say, no rank knows them all).
 *   root     of a transfer: the other rank.
 * Local, runs nothing; works inside a group. Errors TUTTI_ERR_ARG, also for memory of two GPUs. */
TUTTI_API tutti_status tutti_comm_explain(tutti_comm *comm, tutti_coll coll, const void *in,
                                          const void *out, size_t count, tutti_dtype dtype,
                                          tutti_op op, int root, char *text, size_t len);

/* tutti_comm_predict: *microseconds that the planner expects this call to take, from the same model
 * that chooses its plan, and where GPU memory is copied through host memory, what this rank's
 * copies take. A collective with one count; or TUTTI_COLL_SENDRECV, a transfer of count elements
 * between this rank and root. Arguments as in tutti_comm_explain. Local, runs nothing; works inside
 * a group. Errors TUTTI_ERR_ARG, _SETTING (TUTTI_ALGO names what does not fit). */
TUTTI_API tutti_status tutti_comm_predict(const tutti_comm *comm, tutti_coll coll, const void *in,
                                          const void *out, size_t count, tutti_dtype dtype,
                                          tutti_op op, int root, double *microseconds);

/* tutti_comm_stats_print: writes what this rank's transports have done so far, a line each, as text
 * of at most len - 1 characters, always terminated. Returns the length of the whole text; text may
 * be NULL when len is 0. For people: the words may change. */
TUTTI_API size_t tutti_comm_stats_print(tutti_comm *comm, char *text, size_t len);

/* ---- memory --------------------------------------------------------------------------------- */

/* tutti_mem_alloc: page-aligned zeroed memory that peers on the same host can read in place.
 * Ordinary memory works everywhere too, at the cost of a copy.
 * Errors TUTTI_ERR_NOMEM. tutti_mem_free: NULL is allowed; no operation may be using it. */
TUTTI_API tutti_status tutti_mem_alloc(size_t bytes, void **memory);
TUTTI_API tutti_status tutti_mem_free(void *memory);

/* tutti_mem_alloc_in: memory of one kind. TUTTI_MEMORY_HOST is tutti_mem_alloc; TUTTI_MEMORY_CUDA
 * is device memory of the context current in the calling thread (else the first device's), zeroed,
 * which ranks of the same host reach directly. tutti_mem_free frees both.
 * tutti_mem_copy: bytes from src to dst, of whatever kinds; returns when they are there.
 * Errors TUTTI_ERR_NOMEM; TUTTI_ERR_UNSUPPORTED when this machine has no such memory. */
TUTTI_API tutti_status tutti_mem_alloc_in(tutti_memory memory, size_t bytes, void **pointer);
TUTTI_API tutti_status tutti_mem_copy(void *dst, const void *src, size_t bytes);

/* tutti_register: tells the library that [memory, memory + bytes) will be used often; optional.
 * Both wait for nobody, in any thread, also while another one is inside; tutti_deregister does so
 * on a failed communicator, too. Then no operation may be using the memory, which may stay pinned
 * until the communicator is next used, or destroyed. */
TUTTI_API tutti_status tutti_register(tutti_comm *comm, void *memory, size_t bytes,
                                      tutti_registration **registration);
TUTTI_API tutti_status tutti_deregister(tutti_comm *comm, tutti_registration *registration);

/* ---- reduction operations --------------------------------------------------------------------
 * Made per communicator, used only with it, at most 1,024 at a time; every rank makes and destroys
 * the same operations in the same order. Neither waits for streams: an operation destroyed while
 * calls use it, or graphs were captured with it, lives until they end. */

/* tutti_op_create_premulsum: the sum over ranks of scalar * in; scalar is one element of dtype in
 * host memory, copied, and may differ between ranks. Floats multiply in float32 (float64 in
 * float64) and round once before the sum. */
TUTTI_API tutti_status tutti_op_create_premulsum(tutti_comm *comm, const void *scalar,
                                                 tutti_dtype dtype, tutti_op *op);
TUTTI_API tutti_status tutti_op_create(tutti_comm *comm, tutti_reduce_fn *function, void *context,
                                       tutti_op *op);
TUTTI_API tutti_status tutti_op_destroy(tutti_comm *comm, tutti_op op);

/* ---- collectives -----------------------------------------------------------------------------
 * `in` and `out` are borrowed until completion. Blocking; a communicator that failed returns its
 * error. Every one has a `_start` twin that returns at once with a request (below).
 * Errors common to all: TUTTI_ERR_ARG (before anything moves), _STATE, _SETTING (TUTTI_ALGO does
 * not fit), _PEER, _MISMATCH, _TIMEOUT, _ABORTED, _CONNECT, _AUTH, _PROTOCOL, _NOMEM, _SYSTEM.
 * TUTTI_COLLECTIVES(X) lists name, parameters and arguments once; both forms come from it.
 *
 * allreduce        out = reduction over all ranks of in; count elements each.
 * allgather        every rank receives every rank's block: in count, out count * size, block r
 *                  from rank r.
 * allgatherv       block r has counts[r] elements at out + displs[r] (displs NULL: packed);
 *                  in has counts[rank]. Ranks agree on counts; displs are each rank's own. Blocks
 *                  of out must not overlap: it is not checked, and makes its bytes unspecified (so
 *                  too in gatherv and alltoallv), or in allgatherv ends the call at its time limit.
 * reduce_scatter   in count * size, out count: block `rank` of the reduction.
 * reduce_scatterv  block r has counts[r] elements, packed in `in`; out has counts[rank].
 * broadcast        root's in, count elements, to every rank's out; in is read at root only.
 * reduce           out at root only = reduction over ranks of in.
 * gather           root's out count * size, block r from rank r; out is written at root only.
 * gatherv          as gather; counts and displs are read at root only, in has in_count.
 * scatter          block r of root's in (count each) to rank r's out; in is read at root only.
 * scatterv         as scatter; counts and displs are read at root only, out has out_count.
 * alltoall         block r of in to rank r, block r of out from rank r; count each.
 * alltoallv        in_counts[r] elements at in + in_displs[r] to rank r, out_counts[r] at
 *                  out + out_displs[r] from rank r; all in elements; the counts of a pair must
 *                  agree. displs NULL: packed.
 * barrier          returns when every rank has entered. */
#define TUTTI_COLLECTIVES(X)                                                                       \
    X(allreduce,                                                                                   \
      (const void *in, void *out, size_t count, tutti_dtype dtype, tutti_op op, tutti_comm *comm), \
      (in, out, count, dtype, op, comm))                                                           \
    X(allgather, (const void *in, void *out, size_t count, tutti_dtype dtype, tutti_comm *comm),   \
      (in, out, count, dtype, comm))                                                               \
    X(allgatherv,                                                                                  \
      (const void *in, void *out, const size_t *counts, const size_t *displs, tutti_dtype dtype,   \
       tutti_comm *comm),                                                                          \
      (in, out, counts, displs, dtype, comm))                                                      \
    X(reduce_scatter,                                                                              \
      (const void *in, void *out, size_t count, tutti_dtype dtype, tutti_op op, tutti_comm *comm), \
      (in, out, count, dtype, op, comm))                                                           \
    X(reduce_scatterv,                                                                             \
      (const void *in, void *out, const size_t *counts, tutti_dtype dtype, tutti_op op,            \
       tutti_comm *comm),                                                                          \
      (in, out, counts, dtype, op, comm))                                                          \
    X(broadcast,                                                                                   \
      (const void *in, void *out, size_t count, tutti_dtype dtype, int root, tutti_comm *comm),    \
      (in, out, count, dtype, root, comm))                                                         \
    X(reduce,                                                                                      \
      (const void *in, void *out, size_t count, tutti_dtype dtype, tutti_op op, int root,          \
       tutti_comm *comm),                                                                          \
      (in, out, count, dtype, op, root, comm))                                                     \
    X(gather,                                                                                      \
      (const void *in, void *out, size_t count, tutti_dtype dtype, int root, tutti_comm *comm),    \
      (in, out, count, dtype, root, comm))                                                         \
    X(gatherv,                                                                                     \
      (const void *in, size_t in_count, void *out, const size_t *counts, const size_t *displs,     \
       tutti_dtype dtype, int root, tutti_comm *comm),                                             \
      (in, in_count, out, counts, displs, dtype, root, comm))                                      \
    X(scatter,                                                                                     \
      (const void *in, void *out, size_t count, tutti_dtype dtype, int root, tutti_comm *comm),    \
      (in, out, count, dtype, root, comm))                                                         \
    X(scatterv,                                                                                    \
      (const void *in, const size_t *counts, const size_t *displs, void *out, size_t out_count,    \
       tutti_dtype dtype, int root, tutti_comm *comm),                                             \
      (in, counts, displs, out, out_count, dtype, root, comm))                                     \
    X(alltoall, (const void *in, void *out, size_t count, tutti_dtype dtype, tutti_comm *comm),    \
      (in, out, count, dtype, comm))                                                               \
    X(alltoallv,                                                                                   \
      (const void *in, const size_t *in_counts, const size_t *in_displs, void *out,                \
       const size_t *out_counts, const size_t *out_displs, tutti_dtype dtype, tutti_comm *comm),   \
      (in, in_counts, in_displs, out, out_counts, out_displs, dtype, comm))                        \
    X(barrier, (tutti_comm * comm), (comm))                                                        \
    X(send, (const void *in, size_t count, tutti_dtype dtype, int peer, tutti_comm *comm),         \
      (in, count, dtype, peer, comm))                                                              \
    X(recv, (void *out, size_t count, tutti_dtype dtype, int peer, tutti_comm *comm),              \
      (out, count, dtype, peer, comm))

/* The blocking form: tutti_allreduce(in, out, count, dtype, op, comm), and so on. */
#define X(name, params, args) TUTTI_API tutti_status tutti_##name params;
TUTTI_COLLECTIVES(X)
#undef X

/* send, recv: transfers between two ranks match in the order issued for that pair; they do not
 * match collectives. The counts and types of a send and of its receive must agree
 * (TUTTI_ERR_MISMATCH). Zero bytes and a transfer to oneself (inside a group or
 * started) are allowed. */

/* ---- groups ---------------------------------------------------------------------------------- */

/* Between tutti_group_start and tutti_group_end (of one thread; groups nest) calls only record;
 * the outermost end runs everything recorded, on all communicators at once, and returns the first
 * error. Sends and receives of one group progress together, so any exchange pattern is safe.
 * Argument errors are returned by the recording call, and the call is not recorded. */
TUTTI_API tutti_status tutti_group_start(void);
TUTTI_API tutti_status tutti_group_end(void);
/* Closes this thread's group, however deep, and drops what it recorded: nothing runs.
 * Errors TUTTI_ERR_STATE without a group. */
TUTTI_API tutti_status tutti_group_cancel(void);

/* ---- started operations ---------------------------------------------------------------------- */

/* The started form: tutti_allreduce_start(in, out, count, dtype, op, comm, &request). Returns at
 * once; the operation advances inside test, wait and any blocking call on the communicator.
 * A request must be ended by tutti_test (done = 1), tutti_wait or tutti_wait_all, which release
 * it; not allowed inside a group. The parameter list is the blocking form's, then
 * tutti_request **request. */
#define TUTTI_UNPAREN(...) __VA_ARGS__
#define X(name, params, args)                                                                      \
    TUTTI_API tutti_status tutti_##name##_start(TUTTI_UNPAREN params, tutti_request **request);
TUTTI_COLLECTIVES(X)
#undef X

/* tutti_test: *done = 1 when finished (the request is then released and its status returned),
 * 0 otherwise. tutti_wait blocks. tutti_wait_all waits for all, sets every entry to NULL, returns
 * the first error; NULL entries are skipped. A request that is not finished stays as it is when
 * its communicator cannot be entered: TUTTI_ERR_FORKED in a child of fork, TUTTI_ERR_STATE while
 * another thread is inside. */
TUTTI_API tutti_status tutti_test(tutti_request **request, int *done);
TUTTI_API tutti_status tutti_wait(tutti_request **request);
TUTTI_API tutti_status tutti_wait_all(size_t count, tutti_request **requests);

/* ---- operations in the order of a GPU stream ------------------------------------------------ */

/* The stream form: tutti_allreduce_on(in, out, count, dtype, op, comm, stream). stream is a
 * cudaStream_t (CUstream). Returns at once; the operation starts when the stream reaches it, and
 * what is put into the stream afterwards sees its result. Buffers are device memory of the stream's
 * context (where that is green, of the primary one) or host memory, and are borrowed until the
 * stream has passed the operation.
 *   stream NULL with device memory: the legacy default stream of the memory's context, or of the
 *   green context of its GPU that is current.
 *   stream NULL with host memory only: now, as the blocking form.
 *   stream NULL with buffers of no bytes: as device memory of the current context, if there is one.
 * Every form of a call takes device memory; a blocking or started call begins at once, so whatever
 * writes its input must be complete.
 * Operations on one communicator run in the order issued, whatever their streams; a blocking call
 * waits until those before it are done. Inside a group, calls that share a communicator or a stream
 * (the legacy default stream is shared with all), directly or through others, are one unit: each of
 * its streams waits until all of them are done.
 * In one collective either all buffers of all ranks are device memory or none is, also those that
 * only a root has (TUTTI_CUDA_DIRECT=0 lifts this, and on several hosts TUTTI_CUDA_PART=0).
 * A stream that is being captured records the operation, which then runs at every launch of the
 * graph, when the stream gets there. A collective must be captured on every rank or on none (else
 * TUTTI_ERR_MISMATCH), and the streams of a unit in one graph; where other streams use its
 * communicator too, events must say what comes first, alike on all ranks.
 * A failure is not returned by the call, which is over by then: the streams go on, with unspecified
 * data, and tutti_comm_status tells; or they wait (tutti_comm_hold_streams). tutti_comm_abort lets
 * every waiting stream go on.
 * Errors as the blocking form's; TUTTI_ERR_UNSUPPORTED when there is no driver for the stream, and,
 * of every form, when a buffer is device memory that this process may not use (TUTTI_CUDA=0). */
#define X(name, params, args)                                                                      \
    TUTTI_API tutti_status tutti_##name##_on(TUTTI_UNPAREN params, void *stream);
TUTTI_COLLECTIVES(X)
#undef X

/* tutti_comm_id: a random number that is the same at every rank of the communicator. Local.
 * tutti_comm_device_bytes: the GPU memory that it keeps for itself between operations, in bytes;
 * may be called while another thread is inside. Local. */
TUTTI_API tutti_status tutti_comm_id(const tutti_comm *comm, uint64_t *id);
TUTTI_API tutti_status tutti_comm_device_bytes(const tutti_comm *comm, uint64_t *bytes);

/* tutti_comm_hold_streams: whether streams whose operation on this communicator fails wait for
 * tutti_comm_abort or tutti_comm_destroy (hold 1), so that nothing in them works on unspecified
 * data, or go on at once (0, as a new communicator has it). They wait TUTTI_HOLD_MS at most. For
 * programs that look at tutti_comm_status while they wait for a stream, and abort. Local. */
TUTTI_API tutti_status tutti_comm_hold_streams(tutti_comm *comm, int hold);

/* ---- settings -------------------------------------------------------------------------------- */

/* tutti_settings_print: every TUTTI_* setting with its value, default, range and meaning, as text
 * of at most len - 1 characters, always terminated. Where the environment sets one to what it may
 * not be, each value is the default. Returns the length the whole text has. */
TUTTI_API size_t tutti_settings_print(char *text, size_t len);

/* tutti_setting_name: the names one by one, index from 0, NULL after the last: every TUTTI_*
 * setting, then the variables of NCCL that mean here what they mean there. Constant. */
TUTTI_API const char *tutti_setting_name(size_t index);

/* tutti_setting_get: the value that a communicator made now would have, as a number in decimal,
 * yes or no, a word, or text, which is empty where there is none; TUTTI_SECRET is never shown. At
 * most len - 1 characters, always terminated; 256 are enough for every TUTTI_* setting.
 * Errors TUTTI_ERR_ARG: there is no setting of that name; TUTTI_ERR_SETTING: the environment sets
 * one to what it may not be. */
TUTTI_API tutti_status tutti_setting_get(const char *name, char *text, size_t len);

/* tutti_setting_default: what a name of tutti_setting_name is in this process from now on where the
 * environment does not set it; for libraries that stand on this one. Any thread. The text is
 * copied, and kept to the end of the process.
 * Errors TUTTI_ERR_ARG: there is no setting of that name; TUTTI_ERR_SETTING: it may not be that;
 * _NOMEM. */
TUTTI_API tutti_status tutti_setting_default(const char *name, const char *value);

/* tutti_settings_log: a line NAME=value of the log for each of them, unless TUTTI_LOG is none.
 * tutti_log_line: so with the text, for what an interface over this one was asked to say. */
TUTTI_API void tutti_settings_log(void);
TUTTI_API void tutti_log_line(const char *text);

#ifdef __cplusplus
}
#endif
#endif
