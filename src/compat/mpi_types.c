/* mpi_types.c: MPI's types and operations. A reduction names a predefined type and operation, alike
 * at all ranks, and is Tutti's where it has the same arithmetic. Calls that only move data agree
 * in the signature alone, and move bytes: those in memory where a type is plain, else those that
 * MPI_Pack makes of them, which are the same on machines of one kind. */
#include <stdlib.h>
#include <string.h>

#include "mpi_face.h"

enum class { MOVES, BITS, SIGNED, UNSIGNED, FLOAT }; /* MOVES: is never reduced here */

/* Those that programs use most come first. Fortran's are of C programs that reduce its data, and
 * of MPI libraries whose Fortran calls come by their C functions. */
static struct {
    MPI_Datatype type;
    enum class class;
    int size; /* asked once */
} types[] = {
    {MPI_DOUBLE, FLOAT, 0},
    {MPI_INT, SIGNED, 0},
    {MPI_FLOAT, FLOAT, 0},
    {MPI_BYTE, BITS, 0},
    {MPI_CHAR, MOVES, 0},
    {MPI_LONG, SIGNED, 0},
    {MPI_UNSIGNED_LONG, UNSIGNED, 0},
    {MPI_INT64_T, SIGNED, 0},
    {MPI_UINT64_T, UNSIGNED, 0},
    {MPI_INT32_T, SIGNED, 0},
    {MPI_UINT32_T, UNSIGNED, 0},
    {MPI_LONG_LONG, SIGNED, 0},
    {MPI_UNSIGNED_LONG_LONG, UNSIGNED, 0},
    {MPI_UNSIGNED, UNSIGNED, 0},
    {MPI_SHORT, SIGNED, 0},
    {MPI_UNSIGNED_SHORT, UNSIGNED, 0},
    {MPI_SIGNED_CHAR, SIGNED, 0},
    {MPI_UNSIGNED_CHAR, UNSIGNED, 0},
    {MPI_INT8_T, SIGNED, 0},
    {MPI_UINT8_T, UNSIGNED, 0},
    {MPI_INT16_T, SIGNED, 0},
    {MPI_UINT16_T, UNSIGNED, 0},
    {MPI_C_BOOL, MOVES, 0},
    {MPI_AINT, SIGNED, 0},
    {MPI_OFFSET, SIGNED, 0},
    {MPI_COUNT, SIGNED, 0},
    {MPI_INTEGER, SIGNED, 0},
    {MPI_REAL, FLOAT, 0},
    {MPI_DOUBLE_PRECISION, FLOAT, 0},
    {MPI_INTEGER4, SIGNED, 0},
    {MPI_INTEGER8, SIGNED, 0},
    {MPI_REAL4, FLOAT, 0},
    {MPI_REAL8, FLOAT, 0},
    {MPI_LOGICAL, MOVES, 0},
    {MPI_CHARACTER, MOVES, 0},
};
enum { TYPES = sizeof types / sizeof types[0] };

static int plain_key; /* attribute of other types, in whose place stands: yes or no */
static char plain_yes, plain_no;

void face_types_prepare(void)
{
    for (int i = 0; i < TYPES; i++) {
        if (types[i].type != MPI_DATATYPE_NULL) /* Fortran was not there */
            PMPI_Type_size(types[i].type, &types[i].size);
    }
    PMPI_Type_create_keyval(MPI_TYPE_DUP_FN, MPI_TYPE_NULL_DELETE_FN, &plain_key, NULL);
}

/* Its row, -1 where it has none. */
static int find(MPI_Datatype type)
{
    if (!face_is_on())
        return -1;
    for (int i = 0; i < TYPES; i++) {
        if (types[i].type == type)
            return types[i].size > 0 ? i : -1;
    }
    return -1;
}

static bool dtype_of(enum class class, int size, tutti_dtype *dtype)
{
    static const struct {
        tutti_dtype dtypes[FLOAT + 1];
        int size;
    } rows[] = {{{[BITS] = TUTTI_UINT8, [SIGNED] = TUTTI_INT8, [UNSIGNED] = TUTTI_UINT8}, 1},
                {{[SIGNED] = TUTTI_INT16, [UNSIGNED] = TUTTI_UINT16}, 2},
                {{[SIGNED] = TUTTI_INT32, [UNSIGNED] = TUTTI_UINT32, [FLOAT] = TUTTI_FLOAT32}, 4},
                {{[SIGNED] = TUTTI_INT64, [UNSIGNED] = TUTTI_UINT64, [FLOAT] = TUTTI_FLOAT64}, 8}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].size == size) {
            *dtype = rows[i].dtypes[class];
            return class != MOVES && (class != FLOAT || size >= 4);
        }
    }
    return false;
}

bool face_reduction(MPI_Datatype type, MPI_Op op, tutti_dtype *dtype, tutti_op *operation)
{
    static const struct {
        MPI_Op op;
        tutti_op operation;
        bool of_bits;
    } ops[] = {{MPI_SUM, TUTTI_SUM, false}, {MPI_MAX, TUTTI_MAX, false},
               {MPI_MIN, TUTTI_MIN, false}, {MPI_PROD, TUTTI_PROD, false},
               {MPI_BOR, TUTTI_BOR, true},  {MPI_BAND, TUTTI_BAND, true},
               {MPI_BXOR, TUTTI_BXOR, true}};
    int row = find(type);
    if (row < 0 || !dtype_of(types[row].class, types[row].size, dtype))
        return false;
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (ops[i].op == op) {
            *operation = ops[i].operation;
            return types[row].class != (ops[i].of_bits ? FLOAT : BITS);
        }
    }
    return false;
}

/* ---- layouts ----------------------------------------------------------------------------------
 */

/* Packs an element of bytes that say where they lie, one byte of their position after the other.
 */
static bool packs_as_it_lies(const struct face_type *of, MPI_Comm comm)
{
    char *memory = malloc(2 * of->size + 1), *packed = memory ? memory + of->size : NULL;
    bool same = memory != NULL;
    for (unsigned shift = 0; same && (shift == 0 || of->size >> shift > 0); shift += CHAR_BIT) {
        for (size_t i = 0; i < of->size; i++)
            memory[i] = (char)(i >> shift);
        memset(packed, 0x5a, of->size);
        same = face_repack(of, memory, 1, packed, false, comm) == MPI_SUCCESS &&
               memcmp(memory, packed, of->size) == 0;
    }
    free(memory);
    return same;
}

/* Many of another side by side are as plain as that, and MPI packs no element of more than 2 GiB.
 */
static bool is_row_of_plain(MPI_Datatype type, MPI_Comm comm)
{
    int ints, addresses, inners, combiner, count;
    MPI_Datatype inner;
    struct face_type of;
    PMPI_Type_get_envelope(type, &ints, &addresses, &inners, &combiner);
    if (combiner != MPI_COMBINER_CONTIGUOUS)
        return false;
    PMPI_Type_get_contents(type, 1, 0, 1, &count, NULL, &inner);
    bool plain = face_type_of(inner, comm, &of) && of.plain;
    PMPI_Type_get_envelope(inner, &ints, &addresses, &inners, &combiner);
    if (combiner != MPI_COMBINER_NAMED)
        PMPI_Type_free(&inner);
    return plain;
}

static bool is_plain(const struct face_type *of, MPI_Comm comm)
{
    MPI_Aint low, extent;
    void *kept;
    int found;
    PMPI_Type_get_true_extent(of->type, &low, &extent);
    if (low != 0 || of->extent != extent || (MPI_Aint)of->size != extent)
        return false;
    PMPI_Type_get_attr(of->type, plain_key, &kept, &found);
    if (!found) {
        bool plain =
            is_row_of_plain(of->type, comm) || (of->size <= INT_MAX && packs_as_it_lies(of, comm));
        kept = plain ? &plain_yes : &plain_no;
        PMPI_Type_set_attr(of->type, plain_key, kept);
    }
    return kept == &plain_yes;
}

bool face_type_of(MPI_Datatype type, MPI_Comm comm, struct face_type *of)
{
    MPI_Aint low;
    MPI_Count size;
    int row = find(type);
    of->type = type;
    if (row >= 0) {
        of->size = (size_t)types[row].size;
        of->extent = types[row].size;
        of->plain = true;
        return true;
    }
    if (type == MPI_DATATYPE_NULL || PMPI_Type_size_x(type, &size) != MPI_SUCCESS || size < 0 ||
        PMPI_Type_get_extent(type, &low, &of->extent) != MPI_SUCCESS)
        return false;
    of->size = (size_t)size;
    of->plain = is_plain(of, comm);
    return true;
}

/* How many elements one call of MPI takes, which counts their bytes in an int. */
static size_t at_once(const struct face_type *of, size_t count)
{
    size_t most = of->size > 0 ? INT_MAX / of->size : count;
    return count < most ? count : most;
}

int face_repack(const struct face_type *of, char *memory, size_t count, char *packed, bool unpacks,
                MPI_Comm comm)
{
    int code = of->size > INT_MAX ? MPI_ERR_COUNT : MPI_SUCCESS;
    while (code == MPI_SUCCESS && count > 0 && of->size > 0) {
        int n = (int)at_once(of, count), bytes = n * (int)of->size, at = 0;
        code = unpacks ? PMPI_Unpack(packed, bytes, &at, memory, n, of->type, comm)
                       : PMPI_Pack(memory, n, of->type, packed, bytes, &at, comm);
        memory += n * of->extent;
        packed += bytes;
        count -= (size_t)n;
    }
    return code;
}
