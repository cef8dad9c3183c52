/* test_mpi.c: every collective against MPI's own, element by element. Launched by mpirun; the
 * communicator is made over MPI_Allgather (tutti_comm_create_with).
 *
 * For every collective, type, operation, count, root and placement both libraries get the same
 * input and buffers with the same bytes in them; afterwards the result, and everything around it,
 * must be the same bytes. Values are small integers, so that sums and products are exact in any
 * order. The v forms use counts that differ from rank to rank (one of them zero) and gaps between
 * blocks. What lies around a result is looked at as far as MARGIN goes: whole buffers, most of
 * which no trial touches, would take most of the time. */
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tutti/tutti.h>

enum { RANKS_MAX = 64, GAP = 3, POISON = 0x5a };
enum { MARGIN = 16384 };    /* bytes behind what a trial uses */
enum { VARIANTS_MAX = 64 }; /* of run_variants */

/* One call, for both libraries. */
struct trial {
    int rank, size, root;
    size_t count;
    tutti_dtype dtype;
    tutti_op op;
    MPI_Datatype mpi_type;
    MPI_Op mpi_op;
    bool in_place;
    size_t counts[RANKS_MAX], displs[RANKS_MAX]; /* v forms: of blocks by rank */
    size_t pair_displs[RANKS_MAX];               /* alltoallv: of blocks to and from each rank */
    size_t pair_counts[RANKS_MAX];
    int int_counts[RANKS_MAX], int_displs[RANKS_MAX], int_pair_counts[RANKS_MAX],
        int_pair_displs[RANKS_MAX];
    tutti_comm *comm;
};

/* Where things lie, in elements. In place both parts lie in one buffer. */
struct layout {
    size_t in_at, in_len, out_at, out_len;
    bool in_place; /* at this rank */
};

struct collective {
    const char *name;
    bool has_root, reduces, can_in_place;
    struct layout (*layout)(const struct trial *trial);
    tutti_status (*ours)(const struct trial *trial, const void *in, void *out);
    void (*theirs)(const struct trial *trial, const void *in, void *out);
};

static size_t blocks_end(const struct trial *t)
{
    return t->displs[t->size - 1] + t->counts[t->size - 1];
}

static struct layout layout_same(const struct trial *t)
{
    return (struct layout){0, t->count, 0, t->count, t->in_place};
}

static struct layout layout_broadcast(const struct trial *t)
{
    return (struct layout){0, t->rank == t->root ? t->count : 0, 0, t->count, t->in_place};
}

static struct layout layout_reduce(const struct trial *t)
{
    bool root = t->rank == t->root;
    return (struct layout){0, t->count, 0, root ? t->count : 0, t->in_place && root};
}

static struct layout layout_allgather(const struct trial *t)
{
    size_t own = t->in_place ? (size_t)t->rank * t->count : 0;
    return (struct layout){own, t->count, 0, t->count * (size_t)t->size, t->in_place};
}

static struct layout layout_allgatherv(const struct trial *t)
{
    size_t own = t->in_place ? t->displs[t->rank] : 0;
    return (struct layout){own, t->counts[t->rank], 0, blocks_end(t), t->in_place};
}

static struct layout at_root(const struct trial *t, struct layout layout, bool gathers)
{
    if (t->rank == t->root)
        return layout;
    if (gathers)
        return (struct layout){0, layout.in_len, 0, 0, false};
    return (struct layout){0, 0, 0, layout.out_len, false};
}

static struct layout layout_gather(const struct trial *t)
{
    return at_root(t, layout_allgather(t), true);
}

static struct layout layout_gatherv(const struct trial *t)
{
    return at_root(t, layout_allgatherv(t), true);
}

static struct layout swap(struct layout l)
{
    return (struct layout){l.out_at, l.out_len, l.in_at, l.in_len, l.in_place};
}

static struct layout layout_scatter(const struct trial *t)
{
    return at_root(t, swap(layout_allgather(t)), false);
}

static struct layout layout_scatterv(const struct trial *t)
{
    return at_root(t, swap(layout_allgatherv(t)), false);
}

static struct layout layout_reduce_scatter(const struct trial *t)
{
    return swap(layout_allgather(t));
}

static struct layout layout_reduce_scatterv(const struct trial *t)
{
    size_t own = 0, total = 0;
    for (int r = 0; r < t->size; r++) {
        own += r < t->rank ? t->counts[r] : 0;
        total += t->counts[r];
    }
    return (struct layout){0, total, t->in_place ? own : 0, t->counts[t->rank], t->in_place};
}

static struct layout layout_alltoall(const struct trial *t)
{
    size_t all = t->count * (size_t)t->size;
    return (struct layout){0, all, 0, all, t->in_place};
}

static struct layout layout_alltoallv(const struct trial *t)
{
    size_t all = t->pair_displs[t->size - 1] + t->pair_counts[t->size - 1];
    return (struct layout){0, all, 0, all, t->in_place};
}

/* OURS and THEIRS define the two functions of one collective; t, in and out are at hand. */
#define OURS(name, call)                                                                           \
    static tutti_status ours_##name(const struct trial *t, const void *in, void *out)              \
    {                                                                                              \
        return call;                                                                               \
    }
#define THEIRS(name, call)                                                                         \
    static void theirs_##name(const struct trial *t, const void *in, void *out)                    \
    {                                                                                              \
        call;                                                                                      \
    }
#define COUNT ((int)t->count)

OURS(allreduce, tutti_allreduce(in, out, t->count, t->dtype, t->op, t->comm))
THEIRS(allreduce, MPI_Allreduce(in, out, COUNT, t->mpi_type, t->mpi_op, MPI_COMM_WORLD))
OURS(reduce, tutti_reduce(in, out, t->count, t->dtype, t->op, t->root, t->comm))
THEIRS(reduce, MPI_Reduce(in, out, COUNT, t->mpi_type, t->mpi_op, t->root, MPI_COMM_WORLD))
OURS(broadcast, tutti_broadcast(in, out, t->count, t->dtype, t->root, t->comm))
OURS(allgather, tutti_allgather(in, out, t->count, t->dtype, t->comm))
THEIRS(allgather, MPI_Allgather(in, COUNT, t->mpi_type, out, COUNT, t->mpi_type, MPI_COMM_WORLD))
OURS(allgatherv, tutti_allgatherv(in, out, t->counts, t->displs, t->dtype, t->comm))
THEIRS(allgatherv, MPI_Allgatherv(in, t->int_counts[t->rank], t->mpi_type, out, t->int_counts,
                                  t->int_displs, t->mpi_type, MPI_COMM_WORLD))
OURS(gather, tutti_gather(in, out, t->count, t->dtype, t->root, t->comm))
THEIRS(gather, MPI_Gather(in, COUNT, t->mpi_type, out, COUNT, t->mpi_type, t->root, MPI_COMM_WORLD))
OURS(gatherv,
     tutti_gatherv(in, t->counts[t->rank], out, t->counts, t->displs, t->dtype, t->root, t->comm))
THEIRS(gatherv, MPI_Gatherv(in, t->int_counts[t->rank], t->mpi_type, out, t->int_counts,
                            t->int_displs, t->mpi_type, t->root, MPI_COMM_WORLD))
OURS(scatter, tutti_scatter(in, out, t->count, t->dtype, t->root, t->comm))
THEIRS(scatter,
       MPI_Scatter(in, COUNT, t->mpi_type, out, COUNT, t->mpi_type, t->root, MPI_COMM_WORLD))
OURS(scatterv,
     tutti_scatterv(in, t->counts, t->displs, out, t->counts[t->rank], t->dtype, t->root, t->comm))
THEIRS(scatterv, MPI_Scatterv(in, t->int_counts, t->int_displs, t->mpi_type, out,
                              t->int_counts[t->rank], t->mpi_type, t->root, MPI_COMM_WORLD))
OURS(reduce_scatter, tutti_reduce_scatter(in, out, t->count, t->dtype, t->op, t->comm))
THEIRS(reduce_scatter,
       MPI_Reduce_scatter_block(in, out, COUNT, t->mpi_type, t->mpi_op, MPI_COMM_WORLD))
OURS(reduce_scatterv, tutti_reduce_scatterv(in, out, t->counts, t->dtype, t->op, t->comm))
THEIRS(reduce_scatterv,
       MPI_Reduce_scatter(in, out, t->int_counts, t->mpi_type, t->mpi_op, MPI_COMM_WORLD))
OURS(alltoall, tutti_alltoall(in, out, t->count, t->dtype, t->comm))
THEIRS(alltoall, MPI_Alltoall(in, COUNT, t->mpi_type, out, COUNT, t->mpi_type, MPI_COMM_WORLD))
OURS(alltoallv, tutti_alltoallv(in, t->pair_counts, t->pair_displs, out, t->pair_counts,
                                t->pair_displs, t->dtype, t->comm))
THEIRS(alltoallv,
       MPI_Alltoallv(in, t->int_pair_counts, t->int_pair_displs, t->mpi_type, out,
                     t->int_pair_counts, t->int_pair_displs, t->mpi_type, MPI_COMM_WORLD))

/* MPI's broadcast has one buffer: the root copies. */
static void theirs_broadcast(const struct trial *t, const void *in, void *out)
{
    if (t->rank == t->root && in != MPI_IN_PLACE && t->count > 0)
        memcpy(out, in, t->count * tutti_dtype_size(t->dtype));
    MPI_Bcast(out, COUNT, t->mpi_type, t->root, MPI_COMM_WORLD);
}

#define ROW(name, root, reduces)                                                                   \
    {                                                                                              \
#name, root, reduces, true, layout_##name, ours_##name, theirs_##name                      \
    }
#define layout_allreduce layout_same
static const struct collective collectives[] = {
    ROW(allreduce, false, true),       ROW(reduce, true, true),
    ROW(broadcast, true, false),       ROW(allgather, false, false),
    ROW(allgatherv, false, false),     ROW(gather, true, false),
    ROW(gatherv, true, false),         ROW(scatter, true, false),
    ROW(scatterv, true, false),        ROW(reduce_scatter, false, true),
    ROW(reduce_scatterv, false, true), ROW(alltoall, false, false),
    ROW(alltoallv, false, false),
};
enum { COLLECTIVES = sizeof collectives / sizeof collectives[0] };

static const struct {
    tutti_dtype dtype;
    MPI_Datatype type;
} types[] = {{TUTTI_INT32, MPI_INT32_T},   {TUTTI_FLOAT32, MPI_FLOAT},
             {TUTTI_FLOAT64, MPI_DOUBLE},  {TUTTI_INT8, MPI_INT8_T},
             {TUTTI_UINT16, MPI_UINT16_T}, {TUTTI_UINT64, MPI_UINT64_T}};
static const struct {
    tutti_op op;
    MPI_Op mpi_op;
    bool integers_only;
} ops[] = {{TUTTI_SUM, MPI_SUM, false}, {TUTTI_PROD, MPI_PROD, false}, {TUTTI_MIN, MPI_MIN, false},
           {TUTTI_MAX, MPI_MAX, false}, {TUTTI_BAND, MPI_BAND, true},  {TUTTI_BOR, MPI_BOR, true},
           {TUTTI_BXOR, MPI_BXOR, true}};
static const size_t counts[] = {0, 1, 2, 7, 1000, 20011};

/* Integers 1, 2, 3 (products of seven ranks fit an int8 only with few twos, so mostly ones). */
static void write_values(const struct trial *t, unsigned char *at, size_t len)
{
    size_t size = tutti_dtype_size(t->dtype);
    for (size_t i = 0; i < len; i++) {
        bool rare = (i + (size_t)t->rank * 5) % 4 == 0;
        int value = t->op == TUTTI_PROD ? 1 + rare : 1 + (int)((i * 7 + (size_t)t->rank * 3) % 13);
        float single = (float)value;
        double twice = value;
        uint64_t whole = (uint64_t)value;
        const void *from = t->dtype == TUTTI_FLOAT32   ? (const void *)&single
                           : t->dtype == TUTTI_FLOAT64 ? (const void *)&twice
                                                       : (const void *)&whole;
        memcpy(at + i * size, from, size); /* integers: the low bytes, on a little-endian machine */
    }
}

static void set_blocks(struct trial *t)
{
    size_t at = 0, pair_at = 0;
    for (int r = 0; r < t->size; r++) {
        /* rank 1 has nothing, the others count, count + 1, count + 2 ...; pairs are symmetric */
        t->counts[r] = r == 1 ? 0 : t->count + (size_t)r;
        t->displs[r] = at;
        at += t->counts[r] + GAP;
        t->pair_counts[r] = (t->rank + r) % 3 == 1 ? 0 : t->count + (size_t)(t->rank + r);
        t->pair_displs[r] = pair_at;
        pair_at += t->pair_counts[r] + GAP;
        t->int_counts[r] = (int)t->counts[r];
        t->int_displs[r] = (int)t->displs[r];
        t->int_pair_counts[r] = (int)t->pair_counts[r];
        t->int_pair_displs[r] = (int)t->pair_displs[r];
    }
}

/* The buffers of one library. */
struct side {
    unsigned char *in, *out;
};

/* How many bytes of each buffer this trial uses or must leave as they were. */
static size_t extent(const struct layout *l, size_t element)
{
    size_t in_end = l->in_at + l->in_len, out_end = l->out_at + l->out_len;
    return (in_end > out_end ? in_end : out_end) * element + MARGIN;
}

/* Both libraries once; 0, or the number of bytes that differ. An error ends the job: a failed
 * communicator cannot go on. */
static long compare(const struct trial *t, const struct collective *c, struct side *ours,
                    struct side *theirs)
{
    struct layout l = c->layout(t);
    size_t size = tutti_dtype_size(t->dtype), bytes = extent(&l, size);
    struct side *sides[] = {ours, theirs};
    for (int s = 0; s < 2; s++) {
        memset(sides[s]->in, POISON, bytes);
        memset(sides[s]->out, POISON, bytes);
        unsigned char *from = l.in_place ? sides[s]->out : sides[s]->in;
        write_values(t, from + l.in_at * size, l.in_len);
    }
    const unsigned char *in = (l.in_place ? ours->out : ours->in) + l.in_at * size;
    if (c->ours(t, in, ours->out + l.out_at * size) != TUTTI_OK) {
        printf("rank %d: %s: %s\n", t->rank, c->name, tutti_last_error());
        fflush(stdout);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    /* MPI in place: the one buffer goes where the result goes, or, scattering, where it comes from
     */
    bool scatters = strncmp(c->name, "scatter", 7) == 0;
    bool reduces_scatter = strncmp(c->name, "reduce_scatter", 14) == 0;
    const void *their_in = l.in_place && !scatters ? MPI_IN_PLACE : theirs->in;
    void *their_out = theirs->out;
    if (l.in_place && scatters) {
        their_in = theirs->out;
        their_out = MPI_IN_PLACE;
    }
    c->theirs(t, their_in, their_out);
    if (l.in_place && reduces_scatter) /* MPI puts the result first and leaves the rest undefined */
        return memcmp(ours->out + l.out_at * size, theirs->out, l.out_len * size) != 0;
    long wrong = 0;
    if (memcmp(ours->out, theirs->out, bytes) == 0 && memcmp(ours->in, theirs->in, bytes) == 0)
        return 0;
    for (size_t i = 0; i < bytes; i++)
        wrong += ours->out[i] != theirs->out[i] || ours->in[i] != theirs->in[i];
    return wrong;
}

struct tally {
    long passed, failed;
};

/* What went wrong at all ranks: `wrong` has the bytes that differ here, a number per trial. */
static void tell(const struct collective *c, const struct trial *trials, long *wrong, int count,
                 struct tally *tally)
{
    long total[VARIANTS_MAX];
    MPI_Allreduce(wrong, total, count, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        const struct trial *t = &trials[i];
        tally->passed += total[i] == 0;
        tally->failed += total[i] != 0;
        if (total[i] != 0 && t->rank == 0)
            printf("%s %s %s count %zu root %d%s: %ld bytes differ from MPI's\n", c->name,
                   tutti_dtype_name(t->dtype), c->reduces ? tutti_op_name(t->op) : "", t->count,
                   t->root, t->in_place ? " in place" : "", total[i]);
    }
}

/* All counts, roots and placements of one collective, type and operation. */
static void run_variants(struct trial *t, const struct collective *c, struct side *sides,
                         struct tally *tally)
{
    static struct trial trials[VARIANTS_MAX];
    long wrong[VARIANTS_MAX];
    int count = 0;
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        for (int r = 0; r < (c->has_root ? 2 : 1); r++) {
            for (int in_place = 0; in_place < 2; in_place++) {
                t->count = counts[k];
                t->root = r == 0 ? 0 : t->size - 1;
                t->in_place = in_place == 1;
                set_blocks(t);
                wrong[count] = compare(t, c, &sides[0], &sides[1]);
                trials[count++] = *t;
            }
        }
    }
    tell(c, trials, wrong, count, tally);
}

_Static_assert(sizeof counts / sizeof counts[0] * 4 <= VARIANTS_MAX, "room for every variant");

static void run_all(struct trial *t, struct side *sides, struct tally *tally)
{
    for (size_t i = 0; i < COLLECTIVES; i++) {
        const struct collective *c = &collectives[i];
        for (size_t d = 0; d < sizeof types / sizeof types[0]; d++) {
            bool is_float = types[d].dtype == TUTTI_FLOAT32 || types[d].dtype == TUTTI_FLOAT64;
            t->dtype = types[d].dtype;
            t->mpi_type = types[d].type;
            for (size_t o = 0; o < (c->reduces ? sizeof ops / sizeof ops[0] : 1); o++) {
                if (ops[o].integers_only && is_float)
                    continue;
                t->op = ops[o].op;
                t->mpi_op = ops[o].mpi_op;
                run_variants(t, c, sides, tally);
            }
        }
    }
}

static int allgather(const void *in, void *out, size_t len, void *context)
{
    (void)context;
    return MPI_Allgather(in, (int)len, MPI_BYTE, out, (int)len, MPI_BYTE, MPI_COMM_WORLD) !=
           MPI_SUCCESS;
}

int main(int argc, char **argv)
{
    struct trial trial = {0};
    struct side sides[2];
    struct tally tally = {0, 0};
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &trial.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &trial.size);
    size_t most = counts[sizeof counts / sizeof counts[0] - 1] + 2 * RANKS_MAX;
    for (int s = 0; s < 2; s++) {
        sides[s].in = malloc(most * (size_t)trial.size * 8 + MARGIN);
        sides[s].out = malloc(most * (size_t)trial.size * 8 + MARGIN);
        if (trial.size > RANKS_MAX || sides[s].in == NULL || sides[s].out == NULL)
            MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (tutti_comm_create_with(trial.size, trial.rank, allgather, NULL, &trial.comm) != TUTTI_OK) {
        printf("rank %d: %s\n", trial.rank, tutti_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    run_all(&trial, sides, &tally);
    if (tutti_comm_finalize(trial.comm) != TUTTI_OK)
        tally.failed++;
    tutti_comm_destroy(trial.comm);
    for (int s = 0; s < 2; s++) {
        free(sides[s].in);
        free(sides[s].out);
    }
    if (trial.rank == 0)
        printf("%d ranks against MPI: %ld passed, %ld failed\n", trial.size, tally.passed,
               tally.failed);
    MPI_Finalize();
    return tally.failed != 0;
}
