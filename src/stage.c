/* stage.c: see stage.h. In place, both buffers are parts of one range, and the block keeps their
 * distance; else the output follows the input in the block, on a line of its own. */
#include "src/stage.h"

#include "base/check.h"
#include "src/comm.h"

#define STAGE_ALIGN 256u

struct buffers {
    struct extent in, out;
    struct mem_place in_place, out_place;
};

static tutti_status look_up(const struct extent *extent, struct mem_place *place)
{
    *place = (struct mem_place){.device = NULL};
    if (!extent->used || extent->bytes == 0)
        return TUTTI_OK;
    return mem_device_of(extent->begin, place);
}

/* Bytes of the call as every rank counts them, 0 where only some know. */
static uint64_t replicated_bytes(const struct tutti_comm *comm, const struct call *call)
{
    uint64_t elements = 0;
    switch (call->coll) {
    case TUTTI_COLL_SENDRECV:
        return (uint64_t)call->count * call->elem_size;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV:
        for (uint32_t r = 0; r < comm->size; r++)
            elements += call->counts[r];
        return elements * call->elem_size;
    case TUTTI_COLL_ALLTOALLV:
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_SCATTERV:
        return 0;
    default: {
        struct shape shape = comm_shape(comm, call, false);
        return coll_total_bytes(&shape);
    }
    }
}

/* Whether the call reduces in a way that devices do not; reduces: the devices do at all. */
static bool is_for_cpu(const struct tutti_comm *comm, const struct call *call, bool reduces)
{
    return coll_info(call->coll)->reduces &&
           (!reduces || comm_plain_op(comm, call->op) >= TUTTI_OP_DYNAMIC);
}

/* Whether the plan works in device memory. All ranks must come to one answer, so only the kind of
 * memory and what is replicated may count. */
static bool is_direct(const struct tutti_comm *comm, const struct call *call,
                      const struct buffers *b)
{
    if (!comm->device || is_for_cpu(comm, call, comm->device_reduces))
        return false;
    if (b->in.used && b->in.bytes > 0 && b->in_place.device != comm->device)
        return false;
    if (b->out.used && b->out.bytes > 0 && b->out_place.device != comm->device)
        return false;
    if (call->coll == TUTTI_COLL_SENDRECV && call->root == (int)comm->rank)
        return true;
    return replicated_bytes(comm, call) >= comm->direct_min;
}

/* Is all of the call's memory the device's, and will copies of it be synchronous? */
static bool settle(const struct extent *extent, const struct mem_place *place,
                   const struct mem_device *device)
{
    if (!extent->used || extent->bytes == 0)
        return true;
    size_t off = (uintptr_t)extent->begin - (uintptr_t)place->base;
    return place->device == device && extent->bytes <= place->bytes - off &&
           mem_nic_settle(place) == TUTTI_OK;
}

/* Whether the plan of host memory works in device memory, and lets adapters get at it: where some
 * transfer is likely to be longer than an eager message. What is not carried so is copied. */
static bool is_by_nic(const struct tutti_comm *comm, const struct call *call,
                      const struct buffers *b, struct mem_device *device)
{
    bool transfer = call->coll == TUTTI_COLL_SENDRECV;
    uint64_t bytes = b->in.used ? b->in.bytes : 0;
    if (b->out.used && b->out.bytes > bytes)
        bytes = b->out.bytes;
    if (!comm->nic || comm->device || (transfer && !comm->peers[call->root].nic) ||
        bytes / (transfer ? 1 : comm->size) <= comm->settings.verbs_slot ||
        (!transfer && bytes < comm->settings.cuda_direct_min))
        return false;
    return !is_for_cpu(comm, call, mem_device_reduces(device)) &&
           (!comm->queue || mem_queue_device(comm->queue) == device) &&
           settle(&b->in, &b->in_place, device) && settle(&b->out, &b->out_place, device);
}

static tutti_status take_block(struct stage *stage, size_t bytes)
{
    return stage->pinned ? mem_pinned_take(stage->device, bytes, &stage->block)
                         : mem_device_take(stage->device, bytes, &stage->block);
}

/* Lays the buffers that are to be staged out in a new block and points the call there. */
static tutti_status use_block(struct stage *stage, struct call *call, const struct buffers *b)
{
    uintptr_t in = (uintptr_t)b->in.begin, out = (uintptr_t)b->out.begin;
    size_t in_at = 0, out_at = 0, bytes;
    if (call->in_place && stage->copy_in && stage->copy_out) {
        uintptr_t low = in < out ? in : out;
        in_at = in - low;
        out_at = out - low;
        bytes = in_at + b->in.bytes > out_at + b->out.bytes ? in_at + b->in.bytes
                                                            : out_at + b->out.bytes;
    } else {
        size_t in_bytes = stage->copy_in ? b->in.bytes : 0;
        out_at = (in_bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
        bytes = stage->copy_out ? out_at + b->out.bytes : in_bytes;
        call->in_place = false;
    }
    tutti_status status = take_block(stage, bytes);
    if (status != TUTTI_OK)
        return status;
    if (stage->copy_in)
        call->in = (char *)stage->block + in_at;
    if (stage->copy_out)
        call->out = (char *)stage->block + out_at;
    return TUTTI_OK;
}

static tutti_status prepare_direct(struct tutti_comm *comm, struct call *call, struct stage *stage,
                                   const struct buffers *b)
{
    bool processes = call->on_device && !comm->topology.one_process;
    stage->divide = call->op == TUTTI_AVG && coll_info(call->coll)->reduces && b->out.used;
    stage->scale = coll_info(call->coll)->reduces && call->op >= TUTTI_OP_DYNAMIC;
    stage->copy_in = stage->scale || (processes && b->in_place.device && !b->in_place.shareable);
    stage->copy_out = processes && b->out_place.device && !b->out_place.shareable;
    if (!stage->scale && call->in_place)
        stage->copy_in = stage->copy_out = stage->copy_in || stage->copy_out;
    tutti_status status = TUTTI_OK;
    if (!comm->queue)
        status = mem_queue_take(stage->device, &comm->queue);
    if (status == TUTTI_OK && (stage->copy_in || stage->copy_out))
        status = use_block(stage, call, b);
    return status;
}

tutti_status stage_make(struct tutti_comm *comm, struct call *call, struct stage *stage)
{
    struct buffers b;
    *stage = (struct stage){.call = *call};
    tutti_status status = call_extents(comm, call, &b.in, &b.out);
    if (status == TUTTI_OK)
        status = look_up(&b.in, &b.in_place);
    if (status == TUTTI_OK)
        status = look_up(&b.out, &b.out_place);
    if (status != TUTTI_OK)
        return status;
    struct mem_device *in = b.in_place.device, *out = b.out_place.device;
    if (in && out && in != out)
        return fail(TUTTI_ERR_ARG,
                    "%s: in is memory of %s and out of %s at rank %u: both must be of one GPU",
                    coll_name(call->coll), mem_device_name(in), mem_device_name(out), comm->rank);
    stage->device = in ? in : out;
    if (!stage->device)
        return TUTTI_OK;
    stage->in_bytes = b.in.bytes;
    stage->out_bytes = b.out.bytes;
    call->on_device = is_direct(comm, call, &b);
    call->by_nic = !call->on_device && is_by_nic(comm, call, &b, stage->device);
    if (call->on_device || call->by_nic) {
        status = prepare_direct(comm, call, stage, &b);
    } else {
        stage->pinned = true;
        stage->copy_in = in != NULL;
        stage->copy_out = out != NULL;
        status = use_block(stage, call, &b);
    }
    stage->in = call->in;
    stage->out = call->out;
    return status;
}

void stage_free(struct stage *stage)
{
    if (!stage->block)
        return;
    if (stage->pinned)
        mem_pinned_give(stage->device, stage->block);
    else
        mem_device_give(stage->device, stage->block);
    stage->block = NULL;
}

tutti_status stage_in(const struct stage *stage, stage_copy_fn *copy, void *context)
{
    if (!stage->copy_in || stage->in_bytes == 0)
        return TUTTI_OK;
    return copy(context, (void *)stage->in, stage->call.in, stage->in_bytes);
}

/* Blocks with gaps between them are copied one by one: what lies between is not ours to write. */
tutti_status stage_out(const struct tutti_comm *comm, const struct stage *stage,
                       stage_copy_fn *copy, void *context)
{
    const struct call *call = &stage->call;
    const size_t *counts = call->counts, *displs = call->displs;
    if (!stage->copy_out || stage->out_bytes == 0)
        return TUTTI_OK;
    if (call->coll == TUTTI_COLL_ALLTOALLV) {
        counts = call->recv_counts;
        displs = call->recv_displs;
    }
    bool blocks = call->coll == TUTTI_COLL_ALLTOALLV || call->coll == TUTTI_COLL_ALLGATHERV ||
                  call->coll == TUTTI_COLL_GATHERV;
    if (!blocks || !displs)
        return copy(context, call->out, stage->out, stage->out_bytes);
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < comm->size && status == TUTTI_OK; r++) {
        size_t off = displs[r] * call->elem_size, len = counts[r] * call->elem_size;
        if (len > 0)
            status = copy(context, (char *)call->out + off, (char *)stage->out + off, len);
    }
    return status;
}
