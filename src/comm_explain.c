/* comm_explain.c: what the library would do with a call, in words and in microseconds: where it
 * works (stage.c), the plan (planner.c), the links (topology.c). Shape and settings come from the
 * functions that execution plans with, for the memory of the buffers named, so that the answer is
 * what will run. Local, and beside whatever runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/comm.h"
#include "src/stage.h"
#include "tutti/tutti.h"

#define WHERE_MAX 640

/* A call, as execution would see it. */
struct view {
    struct call call;
    struct shape shape;
    struct settings settings;
    size_t *counts; /* of a v form; freed by the user */
    char where[WHERE_MAX];
};

/* A v form has equal blocks. */
static tutti_status equal_blocks(size_t n, struct view *view)
{
    struct call *call = &view->call;
    size_t *all = calloc(4 * n, sizeof *all), at = 0, total = call->count;
    if (!all)
        return fail(TUTTI_ERR_NOMEM, "no memory for the counts of %s", coll_name(call->coll));
    for (size_t r = 0; r < n; r++) {
        all[r] = all[2 * n + r] = total / n + (r < total % n);
        all[n + r] = all[3 * n + r] = at;
        at += all[r];
    }
    call->counts = view->counts = all;
    call->displs = all + n;
    call->recv_counts = all + 2 * n;
    call->recv_displs = all + 3 * n;
    return TUTTI_OK;
}

/* The caller frees view->counts, also after an error. */
static tutti_status look(const struct tutti_comm *comm, struct view *view)
{
    struct call *call = &view->call;
    double around_us = 0;
    mem_device_notice(NULL);
    tutti_status status = call_check_terms(comm, call);
    if (status == TUTTI_OK && coll_info(call->coll)->is_v) {
        status = equal_blocks(comm->size, view);
        if (status == TUTTI_OK)
            call->count = call->counts[comm->rank];
    }
    if (status == TUTTI_OK)
        status = stage_explain(comm, call, view->where, sizeof view->where, &around_us);
    if (status != TUTTI_OK)
        return status;
    view->settings = comm_plan_settings(comm, call);
    view->shape = comm_shape(comm, call, false);
    view->shape.around_us = around_us;
    view->shape.counts = call->counts;
    view->shape.displs = call->displs;
    view->shape.recv_counts = call->recv_counts;
    view->shape.recv_displs = call->recv_displs;
    return TUTTI_OK;
}

/* A send has in, a receive has out: of two buffers it is taken for a send. */
static struct call call_of(tutti_coll coll, const void *in, const void *out, size_t count,
                           tutti_dtype dtype, tutti_op op, int root)
{
    return (struct call){.coll = coll,
                         .dtype = dtype,
                         .op = op,
                         .is_send = coll == TUTTI_COLL_SENDRECV && in,
                         .root = root,
                         .in = in,
                         .out = (void *)(uintptr_t)out,
                         .count = count};
}

static double transfer_us(const struct tutti_comm *comm, const struct view *view)
{
    const struct shape *shape = &view->shape;
    const uint32_t *node_of = comm->topology.groups.node_of;
    double bytes = (double)view->call.count * view->call.elem_size;
    if (view->call.root == (int)comm->rank)
        return shape->around_us + bytes * shape->copy_us_per_byte;
    bool near = node_of[view->call.root] == node_of[comm->rank];
    const struct link_model *model = &shape->model[near ? LEVEL_NODE : LEVEL_NET];
    return shape->around_us + model->alpha_us + bytes * model->us_per_byte;
}

static void explain_transfer(const struct tutti_comm *comm, const struct view *view, char *text,
                             size_t len)
{
    const struct call *call = &view->call;
    snprintf(text, len,
             "sendrecv, %llu bytes: a transfer has no plan to choose, it takes the link to rank "
             "%d; predicted %.2f us\n",
             (unsigned long long)call->count * call->elem_size, call->root,
             transfer_us(comm, view));
}

static void explain_links(const struct tutti_comm *comm, const struct view *view, char *text,
                          size_t len)
{
    const struct link_model *model = &view->shape.model[LEVEL_NODE];
    static const char *const places[] = {[MEM_REACH_BUS] = "on GPUs of one bus",
                                         [MEM_REACH_LINK] = "on GPUs with links to each other",
                                         [MEM_REACH_SAME] = "sharing one GPU"};
    char turns[64] = "";
    if (!view->call.on_device) {
        topology_explain(&comm->topology, text, len);
        return;
    }
    if (comm->device_peers > 1)
        snprintf(turns, sizeof turns, " on which %u processes take turns", comm->device_peers);
    snprintf(text, len,
             "%u rank%s on 1 host, priced as %s%s: about %.0f us and %.0f GB/s from rank to rank\n",
             comm->size, comm->size == 1 ? "" : "s", places[comm->device_reach], turns,
             model->alpha_us, 1e-3 / model->us_per_byte);
}

tutti_status tutti_comm_explain(tutti_comm *comm, tutti_coll coll, const void *in, const void *out,
                                size_t count, tutti_dtype dtype, tutti_op op, int root, char *text,
                                size_t len)
{
    tutti_status status = comm_check_query(comm, text);
    if (status != TUTTI_OK)
        return status;
    if ((unsigned)coll >= TUTTI_COLL_COUNT || len == 0)
        return fail(TUTTI_ERR_ARG, "tutti_comm_explain: expected a collective and room for text");
    struct view view = {.call = call_of(coll, in, out, count, dtype, op, root)};
    status = look(comm, &view);
    if (status == TUTTI_OK) {
        if (coll == TUTTI_COLL_SENDRECV)
            explain_transfer(comm, &view, text, len);
        else
            planner_explain(&view.settings, &view.shape, text, len);
        size_t used = strlen(text);
        snprintf(text + used, len - used, "%s", view.where);
        used += strlen(text + used);
        explain_links(comm, &view, text + used, len - used);
    }
    free(view.counts);
    return status;
}

tutti_status tutti_comm_predict(const tutti_comm *comm, tutti_coll coll, const void *in,
                                const void *out, size_t count, tutti_dtype dtype, tutti_op op,
                                int root, double *microseconds)
{
    tutti_status status = comm_check_query(comm, microseconds);
    if (status != TUTTI_OK)
        return status;
    if ((unsigned)coll >= TUTTI_COLL_COUNT || coll_info(coll)->is_v)
        return fail(TUTTI_ERR_ARG, "tutti_comm_predict: expected a collective with one count, or "
                                   "TUTTI_COLL_SENDRECV");
    struct view view = {.call = call_of(coll, in, out, count, dtype, op, root)};
    status = look(comm, &view);
    if (status == TUTTI_OK && coll == TUTTI_COLL_SENDRECV)
        *microseconds = transfer_us(comm, &view);
    else if (status == TUTTI_OK)
        status = planner_predict(&view.settings, &view.shape, microseconds);
    return status;
}
