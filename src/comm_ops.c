/* comm_ops.c: reduction operations made at run time. An operation is a slot of the communicator's
 * table; its public value is the slot's index plus TUTTI_OP_DYNAMIC, so that ranks which make the
 * same operations in the same order agree about the value, and so about the tag.
 *
 * None of this waits for what streams hold of the communicator, which may wait for a rank that
 * waits for this one. A slot is out of use when it was destroyed and the last call with it is over.
 * When that is differs between ranks, so it does not decide which slot is taken: slots are taken
 * round the table, and only where that comes to one still in use its calls are waited for. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"
#include "src/stream.h"
#include "tutti/tutti.h"

/* Whether the slot's calls are over, or end when streams do. What is left then are started
 * operations, and graphs, which keep theirs for as long as they may be launched. */
static bool is_over(tutti_comm *comm, const struct comm_op *slot)
{
    if (atomic_load(&slot->uses) > 0 && comm_has_units(comm))
        stream_drain(comm);
    return atomic_load(&slot->uses) == 0;
}

static tutti_status take_slot(tutti_comm *comm, struct comm_op **slot, tutti_op *op)
{
    if (!comm->ops)
        comm->ops = calloc(COMM_OPS_MAX, sizeof *comm->ops);
    if (!comm->ops)
        return fail(TUTTI_ERR_NOMEM, "no memory for the table of reduction operations");
    for (unsigned n = 0; n < COMM_OPS_MAX; n++) {
        unsigned i = comm->ops_next++ % COMM_OPS_MAX;
        struct comm_op *at = &comm->ops[i];
        if (at->used || !is_over(comm, at))
            continue;
        *at = (struct comm_op){.used = true};
        *slot = at;
        *op = (tutti_op)(TUTTI_OP_DYNAMIC + i);
        return TUTTI_OK;
    }
    return fail(TUTTI_ERR_NOMEM,
                "all %d reduction operations of this communicator are in use: destroy some",
                COMM_OPS_MAX);
}

tutti_status tutti_op_create_premulsum(tutti_comm *comm, const void *scalar, tutti_dtype dtype,
                                       tutti_op *op)
{
    struct comm_op *slot = NULL;
    if (!scalar || !op)
        return fail(TUTTI_ERR_ARG, "tutti_op_create_premulsum: %s is NULL",
                    scalar ? "op" : "scalar");
    if ((unsigned)dtype >= TUTTI_DTYPE_COUNT)
        return fail(TUTTI_ERR_ARG, "tutti_op_create_premulsum: unknown type %d", (int)dtype);
    tutti_status status = comm_look_in(comm);
    if (status == TUTTI_OK)
        status = take_slot(comm, &slot, op);
    if (status != TUTTI_OK)
        return status;
    slot->premulsum = true;
    slot->dtype = dtype;
    memcpy(&slot->scalar, scalar, dtype_size(dtype));
    return TUTTI_OK;
}

tutti_status tutti_op_create(tutti_comm *comm, tutti_reduce_fn *function, void *context,
                             tutti_op *op)
{
    struct comm_op *slot = NULL;
    if (!function || !op)
        return fail(TUTTI_ERR_ARG, "tutti_op_create: %s is NULL", function ? "op" : "function");
    tutti_status status = comm_look_in(comm);
    if (status == TUTTI_OK)
        status = take_slot(comm, &slot, op);
    if (status != TUTTI_OK)
        return status;
    slot->function = function;
    slot->context = context;
    return TUTTI_OK;
}

tutti_status tutti_op_destroy(tutti_comm *comm, tutti_op op)
{
    tutti_status status = comm_look_in(comm);
    if (status != TUTTI_OK)
        return status;
    unsigned slot = (unsigned)op - TUTTI_OP_DYNAMIC;
    if (!comm->ops || (unsigned)op < TUTTI_OP_DYNAMIC || slot >= COMM_OPS_MAX ||
        !comm->ops[slot].used)
        return fail(TUTTI_ERR_ARG, "the operation to destroy was not made on this communicator, "
                                   "or is destroyed already");
    comm->ops[slot].used = false;
    return TUTTI_OK;
}

tutti_op comm_plain_op(const tutti_comm *comm, tutti_op op)
{
    return op >= TUTTI_OP_DYNAMIC && comm->ops[op - TUTTI_OP_DYNAMIC].premulsum ? TUTTI_SUM : op;
}

tutti_status comm_reducer(const tutti_comm *comm, const struct call *call, struct reducer *reducer)
{
    *reducer = (struct reducer){.dtype = call->dtype, .elem_size = call->elem_size};
    tutti_op op = comm_plain_op(comm, call->op);
    if (op >= TUTTI_OP_DYNAMIC) {
        const struct comm_op *made = &comm->ops[op - TUTTI_OP_DYNAMIC];
        reducer->function = made->function;
        reducer->context = made->context;
        return TUTTI_OK;
    }
    reducer->kernel = reduce_kernel(op, call->dtype);
    must(reducer->kernel != NULL);
    return TUTTI_OK;
}
