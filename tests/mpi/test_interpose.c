/* test_interpose.c: every call that the MPI face may take, of data that lie in memory in many ways
 * and of all types and operations. Each call's result, and all that lies around it, is compared
 * with what the program itself computes. See interpose.h. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose.h"

enum { RANKS_MAX = 8, PARTS = 3, SPREAD = 8, COUNT_MAX = 20001, GAP = 2, POISON = 0x5a5a5a5a };

/* ---- calls that move data: items of three ints, which lie in memory in many ways --------------
 */

struct layout {
    const char *name;
    int at[PARTS], extent; /* in ints */
    int scale;             /* elements of the MPI type in an item */
    MPI_Datatype type;
};

static struct layout layouts[] = {
    {"int", {0, 1, 2}, 3, 3, MPI_INT},
    {"contiguous", {0, 1, 2}, 3, 1, MPI_DATATYPE_NULL},
    {"reversed", {2, 1, 0}, 3, 1, MPI_DATATYPE_NULL},
    {"vector", {0, 2, 4}, 5, 1, MPI_DATATYPE_NULL},
    {"spread", {0, 1, 5}, 7, 1, MPI_DATATYPE_NULL},
    {"below", {-1, 3, 0}, 6, 1, MPI_DATATYPE_NULL},
    {"bytes", {0, 1, 2}, 3, 12, MPI_BYTE},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

static void make_layouts(void)
{
    int ones[PARTS] = {1, 1, 1};
    for (int i = 1; i < LAYOUTS - 1; i++) {
        struct layout *l = &layouts[i];
        MPI_Datatype inner;
        MPI_Type_indexed(PARTS, ones, l->at, MPI_INT, &inner);
        MPI_Type_create_resized(inner, 0, l->extent * (MPI_Aint)sizeof(int), &l->type);
        MPI_Type_commit(&l->type);
        MPI_Type_free(&inner);
    }
}

/* The buffers of a trial; data lie around their middles, and all else must stay. */
static int *in, *in_was, *out, *wanted;
static long room; /* ints of each that a trial uses */

static long room_for(int count)
{
    return 2 * (count + RANKS_MAX + 2 * GAP) * (long)size * SPREAD;
}

static int value(int from, int to, int item, int part)
{
    return from * 100003 + to * 1009 + item * 7 + part;
}

/* count items from one rank to another, at an item of a buffer. */
static void put(int *buffer, const struct layout *l, long first, int count, int from, int to)
{
    for (int i = 0; i < count; i++)
        for (int p = 0; p < PARTS; p++)
            buffer[room / 2 + (first + i) * l->extent + l->at[p]] = value(from, to, i, p);
}

static void poison(void)
{
    for (long i = 0; i < room; i++)
        in[i] = out[i] = wanted[i] = POISON;
}

static void compare(const char *name, const struct layout *mine, const struct layout *theirs,
                    int count, int root, bool in_place)
{
    check(memcmp(out, wanted, (size_t)room * sizeof *out) == 0 &&
              memcmp(in, in_was, (size_t)room * sizeof *in) == 0,
          "%s, %d items of %s and %s, root %d%s: other bytes than expected", name, count,
          mine->name, theirs->name, root, in_place ? ", in place" : "");
}

/* Blocks of v forms: sizes differ, one is empty, the last come first, and some lie before the
 * buffer. pair: the block between two ranks. */
struct blocks {
    int items[RANKS_MAX], counts[RANKS_MAX], displs[RANKS_MAX];
    long first[RANKS_MAX];
};

static int items_of(int r, int count)
{
    return r == 1 ? 0 : count + r;
}

static void set_blocks(struct blocks *b, const struct layout *l, int count, bool v, bool pairs)
{
    long at = v ? -GAP - count : 0;
    for (int i = 0; i < size; i++) {
        int r = v ? size - 1 - i : i;
        b->items[r] = !v ? count : pairs ? items_of((rank + r) % size, count) : items_of(r, count);
        b->first[r] = at;
        at += b->items[r] + (v ? GAP : 0);
        b->counts[r] = b->items[r] * l->scale;
        b->displs[r] = (int)b->first[r] * l->scale;
    }
}

static void *middle(int *buffer)
{
    return buffer + room / 2;
}

struct trial {
    MPI_Comm comm;
    const struct layout *sent, *received;
    int count, root;
    bool v, in_place;
};

static void keep_input(void)
{
    memcpy(in_was, in, (size_t)room * sizeof *in);
}

static void try_bcast(const struct trial *t)
{
    const struct layout *l = rank == t->root ? t->sent : t->received;
    poison();
    keep_input();
    put(wanted, l, 0, t->count, t->root, 0);
    if (rank == t->root)
        put(out, l, 0, t->count, t->root, 0);
    CALL("bcast", true, MPI_Bcast(middle(out), t->count * l->scale, l->type, t->root, t->comm));
    compare("bcast", l, l, t->count, t->root, false);
}

static void try_allgather(const struct trial *t)
{
    struct blocks b;
    int own;
    poison();
    set_blocks(&b, t->received, t->count, t->v, false);
    own = b.items[rank];
    for (int r = 0; r < size; r++)
        put(wanted, t->received, b.first[r], b.items[r], r, 0);
    if (t->in_place)
        put(out, t->received, b.first[rank], own, rank, 0);
    else
        put(in, t->sent, 0, own, rank, 0);
    keep_input();
    const void *from = t->in_place ? MPI_IN_PLACE : middle(in);
    if (t->v)
        CALL("allgatherv", true,
             MPI_Allgatherv(from, own * t->sent->scale, t->sent->type, middle(out), b.counts,
                            b.displs, t->received->type, t->comm));
    else
        CALL("allgather", true,
             MPI_Allgather(from, own * t->sent->scale, t->sent->type, middle(out), b.counts[0],
                           t->received->type, t->comm));
    compare(t->v ? "allgatherv" : "allgather", t->sent, t->received, t->count, 0, t->in_place);
}

static void try_alltoall(const struct trial *t)
{
    struct blocks s, b;
    poison();
    set_blocks(&s, t->sent, t->count, t->v, true);
    set_blocks(&b, t->received, t->count, t->v, true);
    for (int r = 0; r < size; r++) {
        put(wanted, t->received, b.first[r], b.items[r], r, rank);
        if (t->in_place)
            put(out, t->received, b.first[r], b.items[r], rank, r);
        else
            put(in, t->sent, s.first[r], s.items[r], rank, r);
    }
    keep_input();
    const void *from = t->in_place ? MPI_IN_PLACE : middle(in);
    if (t->v)
        CALL("alltoallv", true,
             MPI_Alltoallv(from, s.counts, s.displs, t->sent->type, middle(out), b.counts, b.displs,
                           t->received->type, t->comm));
    else
        CALL("alltoall", true,
             MPI_Alltoall(from, s.counts[0], t->sent->type, middle(out), b.counts[0],
                          t->received->type, t->comm));
    compare(t->v ? "alltoallv" : "alltoall", t->sent, t->received, t->count, 0, t->in_place);
}

static void try_gather(const struct trial *t)
{
    struct blocks b;
    bool is_root = rank == t->root, in_place = is_root && t->in_place;
    poison();
    set_blocks(&b, t->received, t->count, t->v, false);
    for (int r = 0; is_root && r < size; r++)
        put(wanted, t->received, b.first[r], b.items[r], r, 0);
    if (in_place)
        put(out, t->received, b.first[rank], b.items[rank], rank, 0);
    else
        put(in, t->sent, 0, b.items[rank], rank, 0);
    keep_input();
    const void *from = in_place ? MPI_IN_PLACE : middle(in);
    void *to = is_root ? middle(out) : NULL;
    int mine = b.items[rank] * t->sent->scale;
    if (t->v)
        CALL("gatherv", true,
             MPI_Gatherv(from, mine, t->sent->type, to, is_root ? b.counts : NULL,
                         is_root ? b.displs : NULL, t->received->type, t->root, t->comm));
    else
        CALL("gather", true,
             MPI_Gather(from, mine, t->sent->type, to, is_root ? b.counts[0] : -1,
                        t->received->type, t->root, t->comm));
    compare(t->v ? "gatherv" : "gather", t->sent, t->received, t->count, t->root, in_place);
}

static void try_scatter(const struct trial *t)
{
    struct blocks b;
    bool is_root = rank == t->root, in_place = is_root && t->in_place;
    poison();
    set_blocks(&b, t->sent, t->count, t->v, false);
    for (int r = 0; is_root && r < size; r++)
        put(in, t->sent, b.first[r], b.items[r], 0, r);
    if (!in_place)
        put(wanted, t->received, 0, b.items[rank], 0, rank);
    keep_input();
    const void *from = is_root ? middle(in) : NULL;
    void *to = in_place ? MPI_IN_PLACE : middle(out);
    int mine = b.items[rank] * t->received->scale;
    if (t->v)
        CALL("scatterv", true,
             MPI_Scatterv(from, is_root ? b.counts : NULL, is_root ? b.displs : NULL, t->sent->type,
                          to, mine, t->received->type, t->root, t->comm));
    else
        CALL("scatter", true,
             MPI_Scatter(from, is_root ? b.counts[0] : -1, t->sent->type, to, mine,
                         t->received->type, t->root, t->comm));
    compare(t->v ? "scatterv" : "scatter", t->sent, t->received, t->count, t->root, in_place);
}

static void try_moves(MPI_Comm comm, int count, int shift)
{
    struct trial t = {.comm = comm, .count = count};
    room = room_for(count);
    /* Another layout at each rank, unless shift is 0: then all lies as it travels. Open MPI 4.1
     * chooses how to do allgatherv by the size of a rank's own type, and hangs where these differ:
     * from it only layouts of one size are wanted. */
    int first = takes ? 0 : 1, some = takes ? LAYOUTS : LAYOUTS - 2;
    t.sent = &layouts[shift == 0 ? 0 : first + (rank + shift) % some];
    t.received = &layouts[shift == 0 ? 0 : first + (rank * 3 + shift * 2) % some];
    for (int variant = 0; variant < 4; variant++) {
        t.v = variant & 1;
        t.in_place = variant & 2;
        t.root = (shift + variant) % size;
        if (variant == 0)
            try_bcast(&t);
        try_allgather(&t);
        try_gather(&t);
        try_scatter(&t);
        /* In place both sides have one layout, here too. */
        try_alltoall(&t);
    }
}

/* What is sent and what is received may lie between each other: of an array's blocks each even one
 * goes to a rank, and the next comes from it. */
static void try_between(MPI_Comm comm, int count)
{
    int counts[RANKS_MAX], even[RANKS_MAX], odd[RANKS_MAX], root = count % size;
    int *data = malloc((size_t)(2 * size * count) * sizeof *data);
    for (int r = 0; r < size; r++) {
        counts[r] = count;
        even[r] = 2 * r * count;
        odd[r] = even[r] + count;
    }
    for (int call = 0; call < 3; call++) {
        for (int i = 0; i < 2 * size * count; i++)
            data[i] = value(rank, i / count, i % count, 0);
        if (call == 0)
            CALL("alltoallv", true,
                 MPI_Alltoallv(data, counts, even, MPI_INT, data, counts, odd, MPI_INT, comm));
        else if (call == 1)
            CALL("gatherv", true,
                 MPI_Gatherv(data, count, MPI_INT, data, counts, odd, MPI_INT, root, comm));
        else
            CALL("scatterv", true,
                 MPI_Scatterv(data, counts, even, MPI_INT, data + count, count, MPI_INT, root,
                              comm));
        for (int i = 0; i < 2 * size * count; i++) {
            int block = i / count, from = rank, sent = block, r = block / 2;
            if (block % 2 && (call == 0 || (call == 1 && rank == root)))
                from = r, sent = call == 0 ? 2 * rank : 0;
            else if (call == 2 && block == 1)
                from = root, sent = 2 * rank;
            check(data[i] == value(from, sent, i % count, 0), "call %d between: [%d] = %d", call, i,
                  data[i]);
        }
    }
    free(data);
}

/* ---- reductions -------------------------------------------------------------------------------
 */

#define KINDS(X)                                                                                   \
    X(MPI_INT, int, true)                                                                          \
    X(MPI_DOUBLE, double, false)                                                                   \
    X(MPI_FLOAT, float, false)                                                                     \
    X(MPI_LONG, long, true)                                                                        \
    X(MPI_UNSIGNED_CHAR, unsigned char, true)                                                      \
    X(MPI_SIGNED_CHAR, signed char, true)                                                          \
    X(MPI_SHORT, short, true)                                                                      \
    X(MPI_UNSIGNED_SHORT, unsigned short, true)                                                    \
    X(MPI_UNSIGNED, unsigned, true)                                                                \
    X(MPI_LONG_LONG, long long, true)                                                              \
    X(MPI_UINT64_T, uint64_t, true)                                                                \
    X(MPI_AINT, MPI_Aint, true)                                                                    \
    X(MPI_LONG_DOUBLE, long double, false)

static const struct kind {
    MPI_Datatype type;
    const char *name;
    size_t bytes;
    bool whole, ours;
} kinds[] = {
#define X(mpi, c, whole) {mpi, #mpi, sizeof(c), whole, sizeof(c) <= 8},
    KINDS(X)
#undef X
};

static void write_number(void *at, int kind, long number)
{
    int k = 0;
#define X(mpi, c, whole)                                                                           \
    if (kind == k++) {                                                                             \
        c number_ = (c)number;                                                                     \
        memcpy(at, &number_, sizeof number_);                                                      \
    }
    KINDS(X)
#undef X
}

static long read_number(const void *at, int kind)
{
    int k = 0;
    long number = 0;
#define X(mpi, c, whole)                                                                           \
    if (kind == k++) {                                                                             \
        c number_;                                                                                 \
        memcpy(&number_, at, sizeof number_);                                                      \
        number = (long)number_;                                                                    \
    }
    KINDS(X)
#undef X
    return number;
}

static void user_sum(void *a, void *b, int *count, MPI_Datatype *type)
{
    for (int i = 0; i < *count; i++)
        ((int *)b)[i] += ((int *)a)[i];
}

static struct {
    const char *name;
    MPI_Op op;
    bool whole, ours;
} ops[] = {{"sum", MPI_SUM, false, true},     {"prod", MPI_PROD, false, true},
           {"min", MPI_MIN, false, true},     {"max", MPI_MAX, false, true},
           {"band", MPI_BAND, true, true},    {"bor", MPI_BOR, true, true},
           {"bxor", MPI_BXOR, true, true},    {"land", MPI_LAND, true, false},
           {"user", MPI_OP_NULL, true, false}};
enum { OPS = sizeof ops / sizeof ops[0], USER = OPS - 1 };

static long fold(int op, long a, long b)
{
    switch (op) {
    case 1:
        return a * b;
    case 2:
        return a < b ? a : b;
    case 3:
        return a > b ? a : b;
    case 4:
        return a & b;
    case 5:
        return a | b;
    case 6:
        return a ^ b;
    case 7:
        return a && b;
    default:
        return a + b;
    }
}

static long operand(int op, int r, long i)
{
    return op == 1 ? 1 + (i + r) % 2 : (i * 7 + r * 3) % 13;
}

static long result(int op, long i)
{
    long sum = operand(op, 0, i);
    for (int r = 1; r < size; r++)
        sum = fold(op, sum, operand(op, r, i));
    return sum;
}

/* What came of elements first to first + count - 1 of the whole. In place the library leaves what
 * lies behind it. */
static void check_result(const char *name, const char *buffer, int kind, int op, long first,
                         long count, long whole)
{
    long wrong = 0;
    for (long i = 0; i < count; i++)
        wrong += read_number(buffer + (size_t)i * kinds[kind].bytes, kind) != result(op, first + i);
    for (long i = count; i < whole; i++)
        wrong += read_number(buffer + (size_t)i * kinds[kind].bytes, kind) != operand(op, rank, i);
    check(wrong == 0, "%s of %ld %s, %s: %ld are wrong", name, count, kinds[kind].name,
          ops[op].name, wrong);
}

static void try_reductions(MPI_Comm comm, int kind, int op, int count, bool in_place)
{
    const struct kind *k = &kinds[kind];
    bool ours = k->ours && ops[op].ours;
    MPI_Op o = ops[op].op;
    int counts[RANKS_MAX], before = 0, all = 0, root = count % size;
    for (int r = 0; r < size; r++) {
        counts[r] = r == 1 ? 0 : count + r;
        before += r < rank ? counts[r] : 0;
        all += counts[r];
    }
    int whole = all > count * size ? all : count * size,
        kept = in_place && ours && takes ? whole : 0;
    char *from = malloc((size_t)whole * k->bytes + 1), *to = malloc((size_t)whole * k->bytes + 1);
    const void *mine = in_place ? MPI_IN_PLACE : from;
    for (int call = 0; call < 4; call++) {
        for (int i = 0; i < whole; i++)
            write_number((in_place ? to : from) + (size_t)i * k->bytes, kind, operand(op, rank, i));
        if (call == 0) {
            CALL("allreduce", ours, MPI_Allreduce(mine, to, count, k->type, o, comm));
            check_result("allreduce", to, kind, op, 0, count, 0);
        } else if (call == 1) {
            bool is_root = rank == root;
#ifdef MPICH_VERSION /* 4.0 reads from MPI_IN_PLACE in its long form */
            if (in_place && count > 1000 && !(ours && takes))
                continue;
#endif
            CALL("reduce", ours,
                 MPI_Reduce(is_root || !in_place ? mine : to, is_root ? to : NULL, count, k->type,
                            o, root, comm));
            check_result("reduce", to, kind, op, 0, is_root ? count : 0, 0);
        } else if (call == 2) {
            CALL("reduce_scatter_block", ours,
                 MPI_Reduce_scatter_block(mine, to, count, k->type, o, comm));
            check_result("reduce_scatter_block", to, kind, op, (long)rank * count, count, kept);
        } else {
            CALL("reduce_scatter", ours, MPI_Reduce_scatter(mine, to, counts, k->type, o, comm));
            check_result("reduce_scatter", to, kind, op, before, counts[rank], kept);
        }
    }
    free(from);
    free(to);
}

static void try_all_reductions(MPI_Comm comm)
{
    static const int counts[] = {0, 1, 7, 4099};
    for (int kind = 0; kind < (int)(sizeof kinds / sizeof kinds[0]); kind++)
        for (int op = 0; op < OPS; op++)
            for (int c = 0; c < 4; c++) {
                if ((ops[op].whole && !kinds[kind].whole) || (op == USER && kind > 0))
                    continue;
                try_reductions(comm, kind, op, counts[c], false);
                try_reductions(comm, kind, op, counts[c], true);
            }
}

/* Pairs and complex numbers stay with MPI. */
static void try_others(MPI_Comm comm)
{
    struct {
        double number;
        int index;
    } pair = {rank == size - 1 ? 9 : 1, rank}, best;
    double complex_in[2] = {1, rank}, complex_out[2];
    CALL("allreduce", false, MPI_Allreduce(&pair, &best, 1, MPI_DOUBLE_INT, MPI_MAXLOC, comm));
    check(best.index == size - 1, "maxloc finds %d", best.index);
    CALL("allreduce", false,
         MPI_Allreduce(complex_in, complex_out, 1, MPI_C_DOUBLE_COMPLEX, MPI_SUM, comm));
    check(complex_out[0] == size && complex_out[1] == size * (size - 1) / 2, "complex sum");
    CALL("bcast", true, MPI_Bcast(complex_out, 1, MPI_C_DOUBLE_COMPLEX, 0, comm));
    CALL("bcast", true, MPI_Bcast(&best, 1, MPI_DOUBLE_INT, size - 1, comm));
    CALL("barrier", true, MPI_Barrier(comm));
    CALL("barrier", false, MPI_Barrier(MPI_COMM_SELF));
}

int main(int argc, char **argv)
{
    static const int counts[] = {0, 1, 17, 2003, COUNT_MAX};
    begin(argc, argv);
    int **buffers[] = {&in, &in_was, &out, &wanted};
    for (int i = 0; i < 4; i++)
        *buffers[i] = malloc((size_t)room_for(COUNT_MAX) * sizeof(int));
    MPI_Op_create(user_sum, 1, &ops[USER].op);
    make_layouts();
    for (int c = 0; c < 5; c++)
        for (int shift = 0; shift < (c < 4 ? LAYOUTS : 2); shift++)
            try_moves(MPI_COMM_WORLD, counts[c], shift);
    try_between(MPI_COMM_WORLD, 1);
    try_between(MPI_COMM_WORLD, COUNT_MAX);
    try_all_reductions(MPI_COMM_WORLD);
    try_others(MPI_COMM_WORLD);
    return end();
}
