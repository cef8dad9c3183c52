/* group.h: calls recorded between tutti_group_start and tutti_group_end of one thread. */
#ifndef SRC_GROUP_H
#define SRC_GROUP_H

#include "src/call.h"

#define GROUP_CALLS_MAX 65536 /* calls of one group: a full exchange of 32,768 ranks */

/* Is this thread inside a group? */
bool group_open(void);
/* Records a checked call. */
tutti_status group_record(struct tutti_comm *comm, const struct call *call);
/* Drops what was recorded for a communicator that is going away. */
void group_forget(const struct tutti_comm *comm);

#endif
