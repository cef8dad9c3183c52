/* parts.h: where the time of one operation in a stream goes.
 *
 *     caller   | call: puts into the stream | looks at words            | waits for the stream |
 *     stream      ... signal | wait, piece, wait, piece ... | wait of the operation | end
 *     CPU                    | sees the signal ............ answers     |
 *
 * The library calls the driver through a table; here its entries are exchanged for ones that note
 * what this thread puts into one stream between parts_begin and parts_end, and do the same as
 * before in all other threads and times. So words are those of the operation itself, and its
 * pieces of work are timed by events around each of them, where they lie. */
#ifndef TESTS_GPU_PARTS_H
#define TESTS_GPU_PARTS_H

#include "tests/gpu.h"

/* Pieces of one operation that are timed; what a stream holds of slots. */
#define PARTS_PIECES_MAX 256

/* In microseconds since the call began. */
struct parts_moments {
    double called; /* the call returned */
    double driver; /* of that, inside the driver */
    unsigned driver_calls;
    double signal; /* after the call: the CPU sees that the stream has come to the operation */
    double answer; /* and that it may go on */
    double end;    /* the stream is empty, for who waits for it */
};

struct parts_piece {
    enum { PARTS_NOTHING, PARTS_COPY, PARTS_REDUCTION, PARTS_OTHER } kind;
    double idle_us; /* since the piece before, or the call's first event */
    double work_us;
    double bytes; /* of the result */
};

struct parts_pieces {
    struct parts_piece piece[PARTS_PIECES_MAX];
    unsigned count;
    unsigned untimed; /* that were too many */
    double rest_us;   /* from the last piece to the end of what was put */
};

/* Once per process, before any thread measures. False, with a line of output: this driver has no
 * words, or the library no driver. */
bool parts_open(const struct gpu *gpu);
/* Notes what this thread puts into the stream from now on. timed: with events around each piece. */
void parts_begin(cuda_stream stream, bool timed);
/* The call has returned. Looks at the operation's words, then waits for the stream; elem_size is
 * that of the elements. moments, pieces: NULL where not wanted; pieces only if timed. False: no
 * signal or no answer in 5 s, or the driver failed. */
bool parts_end(size_t elem_size, struct parts_moments *moments, struct parts_pieces *pieces);

#endif
