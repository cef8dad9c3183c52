/* stream.h: operations in the order of streams, and every operation on device memory.
 *
 * A unit is one call, or those calls of a group that share communicators or streams. Each stream
 * that it names copies bytes out where they are staged, signals a word, waits for another, and
 * copies bytes back. One thread of the process, the proxy, watches the words: a unit starts when
 * all its streams have signalled and all units before it on its communicators are over, and when
 * its calls have ended it answers every stream. Calls on device memory that name no stream are
 * units too, without streams: the caller waits for the proxy.
 *
 * Work in device memory lies in the stream, too, as slots (mem/device.h) between the signal and the
 * wait, so that the proxy starts it without a launch, which other calls of the driver could hold up
 * for as long as the stream waits. (It still asks where memory lies and maps peers' memory, which
 * nothing measured holds up.) That is so where a unit has one stream and one communicator.
 *
 * Why memory words and not host functions: a host function costs the stream 10 to 20 us, and one
 * that waits for a peer would hold up every other host function of the process. Where words are
 * not to be had, mem/device.h falls back to host functions.
 *
 * The proxy is the one hidden thread of the library. It exists from the first unit on. */
#ifndef SRC_STREAM_H
#define SRC_STREAM_H

#include "src/group.h"
#include "src/stage.h"

struct operation;

/* Whether a checked call has device memory. False at the cost of one load without a driver. */
bool stream_needs(const struct tutti_comm *comm, const struct call *call);

/* Whether one has buffers, and no byte in them: nobody can tell which memory that would be, so the
 * stream form takes it for device memory, where this thread has a context whose default stream can
 * be used. False at the cost of one load without a driver. */
bool stream_is_empty(const struct tutti_comm *comm, const struct call *call);

/* Launches recorded calls, whose counts it takes, also on failure. result: NULL, or gets an
 * operation that ends with all of them, which then are one unit (stream_wait, operation_release). A
 * failure to launch fails the communicators named, since their peers would wait. */
tutti_status stream_launch(const struct group_call *calls, size_t count, struct operation **result);
/* Waits until the unit behind the operation is over. */
void stream_wait(const struct operation *operation);
/* Waits, releases the operation, and gives its status with the sentence. */
tutti_status stream_result(struct operation *operation);

/* Waits until no unit of the communicator is queued or runs. */
void stream_drain(struct tutti_comm *comm);
/* Ends the units of a communicator that goes away, now, and drops the captured ones: at later
 * replays their streams go on at once. */
void stream_forget(struct tutti_comm *comm);

#endif
