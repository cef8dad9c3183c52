/* testcase.h: random calls of collectives whose results are known exactly. Inputs are small
 * integers, exact in every type together with all partial results, so that any order of ranks and
 * any rounding rule gives the same bits and the comparison is exact. */
#ifndef TESTS_TESTCASE_H
#define TESTS_TESTCASE_H

#include "tutti/tutti.h"

#define TESTCASE_RANKS_MAX  64
#define TESTCASE_GUARD      64 /* bytes around each buffer that must not change */
#define TESTCASE_GUARD_BYTE 0xa5

/* How a call is made. */
enum testcase_form { FORM_BLOCKING, FORM_STARTED, FORM_ON_STREAM };

struct testcase {
    tutti_coll coll;
    tutti_dtype dtype;
    tutti_op op; /* of an operation made at run time: what it computes, see made and premulsum */
    size_t count;
    enum testcase_form form;
    int root, in_place;
    tutti_op made; /* passed in the place of op; 0: none */
    int factor;    /* of every input value: 1, or size where an average must be exact */
    int premulsum; /* the value of rank r is multiplied by testcase_scalar(r) first */
    size_t counts[TESTCASE_RANKS_MAX], displs[TESTCASE_RANKS_MAX];
    size_t matrix[TESTCASE_RANKS_MAX][TESTCASE_RANKS_MAX]; /* alltoallv: from row to column */
};

/* Fills everything from the random state, alike on all ranks; blocks have about count_max elements.
 * Plain operations only, blocking or started, in place or not. */
void testcase_generate(struct testcase *c, uint64_t *state, int size, size_t count_max);
/* Gives an average, a pre-multiplied sum or a user's sum the place of the operation. */
void testcase_set_avg(struct testcase *c, int size);
void testcase_set_premulsum(struct testcase *c, tutti_op made);
void testcase_set_user_sum(struct testcase *c, tutti_op made);
int testcase_scalar(int rank);

/* Elements of IN and OUT at a rank, and in place the element of the larger buffer at which the
 * smaller lies. */
void testcase_extents(const struct testcase *c, int rank, int size, size_t *in, size_t *out,
                      size_t *own);
/* Writes the value v as an element of the type. */
void testcase_store(void *at, tutti_dtype dtype, int v);
/* This rank's input: `count` elements at in. */
void testcase_fill(const struct testcase *c, int rank, void *in, size_t count);
/* Makes the call. stream: of FORM_ON_STREAM. A started call is waited for. */
tutti_status testcase_issue(const struct testcase *c, int rank, int size, const void *in, void *out,
                            tutti_comm *comm, void *stream);
/* Compares out_bytes at out, and the guards around the block that holds them; prints the first
 * difference with text and gives 1, else 0. */
int testcase_check(const struct testcase *c, int rank, int size, const char *block,
                   size_t block_bytes, const char *out, size_t out_bytes, const char *text);
/* All of it, blocking or started, in buffers of the library's or of malloc: 1 if wrong, -1 if the
 * algorithm asked for does not fit the call. number: for what is printed. */
int testcase_run(const struct testcase *c, int library, int rank, int size, tutti_comm *comm,
                 int number);
/* The k-th algorithm of every collective that has one, as a setting; false when none has. */
int testcase_algorithms(int k, char *text, size_t len);
/* One line that says everything of the case. */
void testcase_describe(const struct testcase *c, int number, int size, char *text, size_t len);

#endif
