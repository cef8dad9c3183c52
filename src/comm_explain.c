/* comm_explain.c: what the planner would do with a call, in words and in microseconds. */
#include <stdlib.h>
#include <string.h>

#include "src/comm.h"
#include "tutti/tutti.h"

/* A v form is explained with equal blocks: *counts, four arrays of size elements, the caller frees.
 */
static tutti_status equal_blocks(const struct tutti_comm *comm, size_t total, struct shape *shape,
                                 uint64_t **counts)
{
    size_t n = comm->size;
    uint64_t *all = calloc(4 * n, sizeof *all), at = 0;
    if (!all)
        return fail(TUTTI_ERR_NOMEM, "no memory for the counts of %s", coll_name(shape->coll));
    for (size_t r = 0; r < n; r++) {
        all[r] = all[2 * n + r] = total / n + (r < total % n);
        all[n + r] = all[3 * n + r] = at;
        at += all[r];
    }
    shape->counts = all;
    shape->displs = all + n;
    shape->recv_counts = all + 2 * n;
    shape->recv_displs = all + 3 * n;
    *counts = all;
    return TUTTI_OK;
}

tutti_status tutti_comm_explain(tutti_comm *comm, tutti_coll coll, size_t count, tutti_dtype dtype,
                                tutti_op op, int root, char *text, size_t len)
{
    tutti_status status = comm_check_query(comm, text);
    if (status != TUTTI_OK)
        return status;
    const struct coll_info *info = (unsigned)coll < TUTTI_COLL_COUNT ? coll_info(coll) : NULL;
    if (!info || coll == TUTTI_COLL_SENDRECV || len == 0 || !dtype_size(dtype))
        return fail(TUTTI_ERR_ARG, "tutti_comm_explain: expected a collective, a known type and "
                                   "room for text");
    if (info->has_root && (root < 0 || (uint32_t)root >= comm->size))
        return fail(TUTTI_ERR_ARG, "tutti_comm_explain: root %d is out of range: expected 0 to %u",
                    root, comm->size - 1);
    struct call call = {.coll = coll,
                        .dtype = dtype,
                        .op = op,
                        .root = root,
                        .count = count,
                        .elem_size = (uint32_t)dtype_size(dtype)};
    struct shape shape = comm_shape(comm, &call, false);
    uint64_t *counts = NULL;
    if (info->is_v)
        status = equal_blocks(comm, count, &shape, &counts);
    if (status != TUTTI_OK)
        return status;
    planner_explain(&comm->settings, &shape, text, len);
    free(counts);
    size_t used = strlen(text);
    topology_explain(&comm->topology, text + used, len - used);
    return TUTTI_OK;
}

tutti_status tutti_comm_predict(const tutti_comm *comm, tutti_coll coll, size_t count,
                                tutti_dtype dtype, int root, double *microseconds)
{
    tutti_status status = comm_check_query(comm, microseconds);
    if (status != TUTTI_OK)
        return status;
    const struct coll_info *info = (unsigned)coll < TUTTI_COLL_COUNT ? coll_info(coll) : NULL;
    bool transfer = coll == TUTTI_COLL_SENDRECV;
    if (!info || info->is_v || !dtype_size(dtype))
        return fail(TUTTI_ERR_ARG, "tutti_comm_predict: expected a collective with one count, or "
                                   "TUTTI_COLL_SENDRECV, and a known type");
    if ((info->has_root || transfer) && (root < 0 || (uint32_t)root >= comm->size))
        return fail(TUTTI_ERR_ARG, "tutti_comm_predict: root %d is out of range: expected 0 to %u",
                    root, comm->size - 1);
    double bytes = (double)count * (double)dtype_size(dtype);
    if (transfer && (uint32_t)root == comm->rank) {
        *microseconds = bytes * comm->topology.copy_us_per_byte;
        return TUTTI_OK;
    }
    if (transfer) {
        const uint32_t *node_of = comm->topology.groups.node_of;
        bool near = node_of[root] == node_of[comm->rank];
        const struct link_model *model = &comm->topology.model[near ? LEVEL_NODE : LEVEL_NET];
        *microseconds = model->alpha_us + bytes * model->us_per_byte;
        return TUTTI_OK;
    }
    struct call call = {.coll = coll,
                        .dtype = dtype,
                        .root = root,
                        .count = count,
                        .elem_size = (uint32_t)dtype_size(dtype)};
    struct shape shape = comm_shape(comm, &call, false);
    return planner_predict(&comm->settings, &shape, microseconds);
}
