/* check.h: input data, the exact result expected, and the comparison of every byte. */
#ifndef PERF_CHECK_H
#define PERF_CHECK_H

#include "perf/perf.h"

/* Elements after which data repeats. A prime, so that no power of two of elements or bytes, the
 * sizes that programs slip by, maps the data onto itself. */
enum { PERIOD = 1021 };
enum { GUARD_BYTES = 4096 }; /* watched on both sides of a buffer */

/* The data of one (type, operation) at one rank. */
struct data {
    tutti_dtype dtype;
    unsigned op_choice;
    size_t elem_size;
    int rank, size;
    /* [PERIOD] elements each, room for 8 bytes; for calls that only move data `own` is shared by
     * all ranks, and rank r's element i is own[(i + 389 r) mod PERIOD] */
    unsigned char own[PERIOD * 8], reduced[PERIOD * 8];
};

/* Operation op_choice (OP_NONE: data is only moved). False: the operation does not fit the type. */
bool data_fits(tutti_dtype dtype, unsigned op_choice);
void data_make(struct data *data, tutti_dtype dtype, unsigned op_choice, int rank, int size);
/* The scalar of this rank for the pre-multiplied sum, one element of the type. */
void data_scalar(tutti_dtype dtype, int rank, void *scalar);

/* A buffer with its guards; bytes is what lies between them. A buffer in device memory has a mirror
 * in host memory: base and data are the mirror, which is what is filled and compared. */
struct arena {
    unsigned char *base, *data;
    size_t bytes;
    unsigned char *device; /* of the same layout as base; NULL: base is the buffer itself */
};

/* Writes every buffer of the call: guards and OUT with a pattern that no result has by chance,
 * IN with this rank's data. in: the buffer of IN; out: that of OUT (the one buffer, in place). */
void check_fill(const struct call *call, const struct data *data, const struct arena *in,
                const struct arena *out);
/* Bytes that check_fill writes to a buffer, from its base, which holds IN, OUT or both. */
size_t check_extent(const struct call *call, bool has_in, bool has_out);
/* Compares all of it with what must be there now; the number of wrong elements (outside of the
 * result: of wrong bytes). The first is described in text (len bytes) as "element 5 of out is
 * 0x.., expected 0x..". */
uint64_t check_result(const struct call *call, const struct data *data, const struct arena *in,
                      const struct arena *out, char *text, size_t len);

#endif
