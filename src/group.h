/* group.h: calls recorded between tutti_group_start and tutti_group_end of one thread. */
#ifndef SRC_GROUP_H
#define SRC_GROUP_H

#include "src/call.h"

#define GROUP_CALLS_MAX 65536 /* calls of one group: a full exchange of 32,768 ranks */

/* A recorded call. */
struct group_call {
    struct tutti_comm *comm;
    struct call call;
    size_t *counts; /* the call's count arrays, copied */
    struct operation *operation;
    bool on_stream; /* issued by the stream form: */
    void *stream;
    bool alone; /* outside of any group */
};

/* Is this thread inside a group? */
bool group_open(void);
/* Records a checked call; stream: of the stream form, else on_stream is false. */
tutti_status group_record(struct tutti_comm *comm, const struct call *call, bool on_stream,
                          void *stream);
/* A transfer to oneself whose other half can not come any more ends with an error: true if it was
 * one, and nothing else is queued that could bring it. */
bool group_refuse_unpaired(struct operation *op);
/* Drops what was recorded for a communicator that is going away. */
void group_forget(const struct tutti_comm *comm);

#endif
