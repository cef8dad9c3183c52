/* comm_ops.c: reduction operations made at run time. Each has a slot of the communicator's table,
 * from its making to its destruction; slots are taken round the table. All of that is the same at
 * every rank that makes and destroys the same operations in the same order, so the public value,
 * which names the slot and the kind, is too, and with it the tag. When a call with an operation is
 * over differs between ranks, and so does which graphs they keep: the operation itself lives until
 * the last that holds it lets go, with its slot or without, and nobody waits for that. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"
#include "tutti/tutti.h"

static_assert((tutti_op)(TUTTI_OP_DYNAMIC + 2 * COMM_OPS_MAX) <= TUTTI_OP_LAST, "public values");

/* The slot of a public value; NULL if no operation of this communicator has it. */
static struct comm_op **find_slot(const tutti_comm *comm, tutti_op op)
{
    unsigned value = (unsigned)op - TUTTI_OP_DYNAMIC, i = value / 2;
    if (!comm->ops || (unsigned)op < TUTTI_OP_DYNAMIC || i >= COMM_OPS_MAX || !comm->ops[i] ||
        comm->ops[i]->premulsum != comm_op_is_premulsum(op))
        return NULL;
    return &comm->ops[i];
}

struct comm_op *comm_op_find(const tutti_comm *comm, tutti_op op)
{
    struct comm_op **slot = find_slot(comm, op);
    return slot ? *slot : NULL;
}

void comm_op_release(struct comm_op *op)
{
    if (op && atomic_fetch_sub(&op->holders, 1) == 1)
        free(op);
}

/* Copies what was made into a slot of the table. */
static tutti_status take_slot(tutti_comm *comm, const struct comm_op *made, tutti_op *op)
{
    tutti_status status = comm_look_in(comm);
    if (status != TUTTI_OK)
        return status;
    if (!comm->ops)
        comm->ops = calloc(COMM_OPS_MAX, sizeof *comm->ops);
    if (!comm->ops)
        return fail(TUTTI_ERR_NOMEM, "no memory for the table of reduction operations");
    unsigned tried = 0;
    while (tried < COMM_OPS_MAX && comm->ops[(comm->ops_next + tried) % COMM_OPS_MAX])
        tried++;
    if (tried == COMM_OPS_MAX)
        return fail(TUTTI_ERR_NOMEM,
                    "all %d reduction operations of this communicator are in use: destroy some",
                    COMM_OPS_MAX);
    struct comm_op *kept = malloc(sizeof *kept);
    if (!kept)
        return fail(TUTTI_ERR_NOMEM, "no memory for a reduction operation");
    *kept = *made;
    unsigned i = (comm->ops_next + tried) % COMM_OPS_MAX;
    comm->ops[i] = kept;
    comm->ops_next = i + 1;
    *op = (tutti_op)(TUTTI_OP_DYNAMIC + 2 * i + made->premulsum);
    return TUTTI_OK;
}

tutti_status tutti_op_create_premulsum(tutti_comm *comm, const void *scalar, tutti_dtype dtype,
                                       tutti_op *op)
{
    if (!scalar || !op)
        return fail(TUTTI_ERR_ARG, "tutti_op_create_premulsum: %s is NULL",
                    scalar ? "op" : "scalar");
    if ((unsigned)dtype >= TUTTI_DTYPE_COUNT)
        return fail(TUTTI_ERR_ARG, "tutti_op_create_premulsum: unknown type %d", (int)dtype);
    struct comm_op made = {.holders = 1, .premulsum = true, .dtype = dtype};
    memcpy(&made.scalar, scalar, dtype_size(dtype));
    return take_slot(comm, &made, op);
}

tutti_status tutti_op_create(tutti_comm *comm, tutti_reduce_fn *function, void *context,
                             tutti_op *op)
{
    if (!function || !op)
        return fail(TUTTI_ERR_ARG, "tutti_op_create: %s is NULL", function ? "op" : "function");
    struct comm_op made = {.holders = 1, .function = function, .context = context};
    return take_slot(comm, &made, op);
}

tutti_status tutti_op_destroy(tutti_comm *comm, tutti_op op)
{
    tutti_status status = comm_look_in(comm);
    if (status != TUTTI_OK)
        return status;
    struct comm_op **slot = find_slot(comm, op);
    if (!slot)
        return fail(TUTTI_ERR_ARG, "the operation to destroy was not made on this communicator, "
                                   "or is destroyed already");
    comm_op_release(*slot);
    *slot = NULL;
    return TUTTI_OK;
}

void comm_ops_free(tutti_comm *comm)
{
    for (unsigned i = 0; comm->ops && i < COMM_OPS_MAX; i++)
        comm_op_release(comm->ops[i]);
    free(comm->ops);
}

void comm_reducer(const struct call *call, struct reducer *reducer)
{
    *reducer = (struct reducer){.dtype = call->dtype, .elem_size = call->elem_size};
    if (call->made && !call->made->premulsum) {
        reducer->function = call->made->function;
        reducer->context = call->made->context;
        return;
    }
    reducer->kernel = reduce_kernel(comm_plain_op(call), call->dtype);
    must(reducer->kernel != NULL);
}
