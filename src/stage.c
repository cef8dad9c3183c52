/* stage.c: see stage.h. In place, both buffers are parts of one range, and the block keeps their
 * distance; else the output follows the input in the block, on a line of its own. */
#include "src/stage.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "src/comm.h"

#define STAGE_ALIGN 256u

/* Prior of a copy between a device and pinned memory: its start and the word that the stream
 * signals or waits for (half of what 8 bytes take, 31 us and, where processes take turns, 241 us
 * measured on an H200), and a bus of PCIe 4 (not measured). */
#define STAGE_ALPHA_US    15.0
#define STAGE_SLICE_US    120.0 /* for each other process that shares the device */
#define STAGE_US_PER_BYTE (1e-3 / 25)

#define PARTS_MAX 32 /* by then copies are hidden, and more are more calls of the driver */

/* A block of a part is a copy of its own. So many take no longer than a part's bytes: of the 8 MiB
 * of TUTTI_CUDA_PART each copies 128 KiB, in 5 us over PCIe 4 (not measured). */
#define PART_COPIES 64

struct buffers {
    struct extent in, out;
    struct mem_place in_place, out_place;
};

static tutti_status look_up(const struct extent *extent, struct mem_place *place)
{
    *place = (struct mem_place){.device = NULL};
    if (!extent->used || extent->bytes == 0 || !extent->begin)
        return TUTTI_OK;
    return mem_device_of(extent->begin, place);
}

const char *stage_beside(const struct mem_device *one, const struct mem_device *other)
{
    bool same = one != other && memcmp(mem_device_uuid(one), mem_device_uuid(other), 16) == 0;
    return same ? "another context of " : "";
}

/* Finds the buffers of a call, and the device whose memory they are; NULL: host memory alone. */
static tutti_status find_buffers(const struct tutti_comm *comm, const struct call *call,
                                 struct buffers *b, struct mem_device **device)
{
    tutti_status status = call_extents(comm, call, &b->in, &b->out);
    if (status == TUTTI_OK)
        status = look_up(&b->in, &b->in_place);
    if (status == TUTTI_OK)
        status = look_up(&b->out, &b->out_place);
    if (status != TUTTI_OK)
        return status;
    struct mem_device *in = b->in_place.device, *out = b->out_place.device;
    if (in && out && in != out)
        return fail(TUTTI_ERR_ARG,
                    "%s: in is memory of %s and out of %s%s at rank %u: both must be of one GPU "
                    "and context",
                    coll_name(call->coll), mem_device_name(in), stage_beside(in, out),
                    mem_device_name(out), comm->rank);
    *device = in ? in : out;
    return TUTTI_OK;
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
static bool is_for_cpu(const struct call *call, bool reduces)
{
    return coll_info(call->coll)->reduces && (!reduces || (call->made && !call->made->premulsum));
}

/* Why the plan does not work in device memory. */
enum refusal { ACCEPTED, USER_FUNCTION, NO_DEVICE, NO_KERNELS, IN_ELSEWHERE, OUT_ELSEWHERE, SMALL };

/* All ranks must come to one answer, so only what is replicated and the kind of memory count. */
static enum refusal judge_direct(const struct tutti_comm *comm, const struct call *call,
                                 const struct buffers *b)
{
    if (is_for_cpu(call, true))
        return USER_FUNCTION;
    if (!comm->device)
        return NO_DEVICE;
    if (is_for_cpu(call, comm->device_reduces))
        return NO_KERNELS;
    if (b->in.used && b->in.bytes > 0 && b->in_place.device != comm->device)
        return IN_ELSEWHERE;
    if (b->out.used && b->out.bytes > 0 && b->out_place.device != comm->device)
        return OUT_ELSEWHERE;
    if (call->coll == TUTTI_COLL_SENDRECV && call->root == (int)comm->rank)
        return ACCEPTED;
    return replicated_bytes(comm, call) >= comm->direct_min ? ACCEPTED : SMALL;
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

/* Whether adapters may get at the call's device memory: where some transfer is likely to be longer
 * than an eager message. */
static bool may_use_nic(const struct tutti_comm *comm, const struct call *call,
                        const struct buffers *b, const struct mem_device *device)
{
    bool transfer = call->coll == TUTTI_COLL_SENDRECV;
    uint64_t bytes = b->in.used ? b->in.bytes : 0;
    if (b->out.used && b->out.bytes > bytes)
        bytes = b->out.bytes;
    return comm->nic && !comm->device && (!transfer || comm->peers[call->root].nic) &&
           bytes / (transfer ? 1 : comm->size) > comm->settings.verbs_slot &&
           (transfer || bytes >= comm->settings.cuda_direct_min) &&
           !is_for_cpu(call, mem_device_reduces(device));
}

/* Whether the plan of host memory works in device memory, and lets adapters get at it. What is not
 * carried so is copied. */
static bool is_by_nic(const struct tutti_comm *comm, const struct call *call,
                      const struct buffers *b, struct mem_device *device)
{
    return may_use_nic(comm, call, b, device) &&
           (!comm->queue || mem_queue_device(comm->queue) == device) &&
           settle(&b->in, &b->in_place, device) && settle(&b->out, &b->out_place, device);
}

static tutti_status take_block(struct stage *stage, size_t bytes)
{
    return stage->pinned ? mem_pinned_take(stage->device, bytes, &stage->block)
                         : mem_device_take(stage->device, bytes, &stage->block);
}

/* A part's blocks have no gaps there: a distance of whole strides in the caller's memory, in it. */
static uint64_t packed(const struct call *call, uint64_t distance)
{
    return call->stride ? distance / call->stride * call->count : distance;
}

static uint64_t bytes_of(const struct call *call, const struct extent *extent)
{
    return call->stride ? extent->blocks * call->count * call->elem_size : extent->bytes;
}

/* Lays the buffers that are to be staged out in a new block and points the call there. */
static tutti_status use_block(struct stage *stage, struct call *call, const struct buffers *b)
{
    uintptr_t in = (uintptr_t)b->in.begin, out = (uintptr_t)b->out.begin;
    size_t in_at = 0, out_at = 0, bytes;
    if (call->in_place && stage->copy_in && stage->copy_out) {
        uintptr_t low = in < out ? in : out;
        in_at = packed(call, in - low);
        out_at = packed(call, out - low);
        bytes = in_at + stage->in_bytes > out_at + stage->out_bytes ? in_at + stage->in_bytes
                                                                    : out_at + stage->out_bytes;
    } else {
        size_t in_bytes = stage->copy_in ? stage->in_bytes : 0;
        out_at = (in_bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
        bytes = stage->copy_out ? out_at + stage->out_bytes : in_bytes;
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

/* Whether other ranks work in the memory of the place: GPUs of one process do in what no other
 * process could map. */
static bool is_within_reach(const struct tutti_comm *comm, const struct mem_place *place)
{
    return !place->device || (comm->topology.one_process ? place->shareable : mem_can_share(place));
}

/* What of the call goes through a block although its plan works in device memory. */
static void choose_copies(const struct tutti_comm *comm, const struct call *call,
                          struct stage *stage, const struct buffers *b)
{
    bool apart =
        call->on_device && !(comm->topology.one_process && comm->device_reach == MEM_REACH_SAME);
    stage->divide = call->op == TUTTI_AVG && coll_info(call->coll)->reduces && b->out.used;
    stage->scale = call->made != NULL;
    stage->copy_in = stage->scale || (apart && !is_within_reach(comm, &b->in_place));
    stage->copy_out = apart && !is_within_reach(comm, &b->out_place);
    if (!stage->scale && call->in_place)
        stage->copy_in = stage->copy_out = stage->copy_in || stage->copy_out;
}

static tutti_status prepare_direct(struct tutti_comm *comm, struct call *call, struct stage *stage,
                                   const struct buffers *b)
{
    choose_copies(comm, call, stage, b);
    tutti_status status = TUTTI_OK;
    if (!comm->queue)
        status = mem_queue_take(stage->device, &comm->queue);
    if (status == TUTTI_OK && (stage->copy_in || stage->copy_out))
        status = use_block(stage, call, b);
    return status;
}

/* A root that sends from where it would receive has all there. */
static bool brings_back(const struct tutti_comm *comm, const struct stage *stage)
{
    const struct call *call = &stage->call;
    bool sends = call->coll == TUTTI_COLL_BROADCAST || call->coll == TUTTI_COLL_SCATTER ||
                 call->coll == TUTTI_COLL_SCATTERV;
    return stage->copy_out && !(sends && call->in_place && call->root == (int)comm->rank);
}

tutti_status stage_make(struct tutti_comm *comm, struct call *call, struct stage *stage)
{
    struct buffers b;
    *stage = (struct stage){.call = *call};
    tutti_status status = find_buffers(comm, call, &b, &stage->device);
    if (status != TUTTI_OK || !stage->device)
        return status;
    stage->in_blocks = call->stride ? b.in.blocks : 1;
    stage->out_blocks = call->stride ? b.out.blocks : 1;
    stage->in_bytes = bytes_of(call, &b.in);
    stage->out_bytes = bytes_of(call, &b.out);
    call->on_device = judge_direct(comm, call, &b) == ACCEPTED;
    call->by_nic = !call->on_device && is_by_nic(comm, call, &b, stage->device);
    if (call->on_device || call->by_nic) {
        status = prepare_direct(comm, call, stage, &b);
    } else {
        stage->pinned = true;
        stage->copy_in = b.in_place.device != NULL;
        stage->copy_out = b.out_place.device != NULL;
        status = use_block(stage, call, &b);
    }
    stage->copy_out = brings_back(comm, stage);
    stage->in = call->in;
    stage->out = call->out;
    return status;
}

/* Whether the plan can have a buffer of parts without gaps: one without blocks, or through a block
 * of the stage's. */
static bool is_cuttable(const struct extent *extent, const struct mem_place *place)
{
    return !extent->used || extent->bytes == 0 || extent->blocks == 1 || place->device;
}

size_t stage_parts(const struct tutti_comm *comm, const struct call *call)
{
    struct buffers b;
    struct mem_device *device;
    uint64_t each = comm->part_bytes, bytes = replicated_bytes(comm, call);
    if (each == 0 || bytes / 2 < each || coll_info(call->coll)->is_v ||
        call->coll == TUTTI_COLL_SENDRECV || find_buffers(comm, call, &b, &device) != TUTTI_OK ||
        !device || judge_direct(comm, call, &b) == ACCEPTED || !is_cuttable(&b.in, &b.in_place) ||
        !is_cuttable(&b.out, &b.out_place))
        return 1;
    uint64_t block = (uint64_t)call->count * call->elem_size, parts = bytes / each;
    if (bytes > block && parts > block / (each / PART_COPIES + 1))
        parts = block / (each / PART_COPIES + 1);
    if (bytes > block && parts > STAGE_PIECES_MAX / comm->size)
        parts = STAGE_PIECES_MAX / comm->size;
    if (parts > PARTS_MAX)
        parts = PARTS_MAX;
    if (parts > call->count)
        parts = call->count;
    return parts > 1 ? (size_t)parts : 1;
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
    const struct call *call = &stage->call;
    if (!stage->copy_in || stage->in_bytes == 0)
        return TUTTI_OK;
    uint64_t len = stage->in_bytes / stage->in_blocks, stride = call->stride * call->elem_size;
    tutti_status status = TUTTI_OK;
    for (uint64_t i = 0; i < stage->in_blocks && status == TUTTI_OK; i++)
        status =
            copy(context, (char *)stage->in + i * len, (const char *)call->in + i * stride, len);
    return status;
}

static tutti_status all_out(const struct stage *stage, stage_copy_fn *copy, void *context)
{
    const struct call *call = &stage->call;
    uint64_t len = stage->out_bytes / stage->out_blocks, stride = call->stride * call->elem_size;
    tutti_status status = TUTTI_OK;
    for (uint64_t i = 0; i < stage->out_blocks && status == TUTTI_OK; i++)
        status = copy(context, (char *)call->out + i * stride, (char *)stage->out + i * len, len);
    return status;
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
        return all_out(stage, copy, context);
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < comm->size && status == TUTTI_OK;) {
        size_t off = displs[r] * call->elem_size, len = 0;
        do /* neighbours go together */
            len += counts[r] * call->elem_size;
        while (++r < comm->size && displs[r] * call->elem_size == off + len);
        if (len > 0)
            status = copy(context, (char *)call->out + off, (char *)stage->out + off, len);
    }
    return status;
}

/* ---- explanation ----------------------------------------------------------------------------- */

/* "262144 (TUTTI_CUDA_DIRECT_MIN, times 9 for 4 processes on one GPU)" */
static void limit_text(const struct tutti_comm *comm, char *text, size_t len)
{
    uint64_t times = comm->direct_min / comm->settings.cuda_direct_min;
    char factor[64] = "";
    if (times > 1)
        snprintf(factor, sizeof factor, ", times %llu for %u processes on one GPU",
                 (unsigned long long)times, comm->device_peers);
    snprintf(text, len, "%llu (TUTTI_CUDA_DIRECT_MIN%s)", (unsigned long long)comm->direct_min,
             factor);
}

static void elsewhere_text(const struct tutti_comm *comm, const char *name,
                           const struct mem_device *device, char *text, size_t len)
{
    if (device)
        snprintf(text, len, "%s is memory of %s, but the ranks work in that of %s%s", name,
                 mem_device_name(device), stage_beside(device, comm->device),
                 mem_device_name(comm->device));
    else
        snprintf(text, len, "%s is host memory", name);
}

/* Where ranks do not work in each other's device memory: why their adapters do not either. */
static const char *nic_text(const struct tutti_comm *comm, const struct call *call,
                            const struct mem_device *device)
{
    bool transfer = call->coll == TUTTI_COLL_SENDRECV;
    if (!comm->nic && comm->topology.groups.nodes == 1)
        return "";
    if (!comm->nic || (transfer && !comm->peers[call->root].nic))
        return ", and no adapter works in GPU memory (TUTTI_VERBS_GPU)";
    if (is_for_cpu(call, mem_device_reduces(device)))
        return ", and there are no kernels for GPU memory here";
    return ", and it is too short for adapters (TUTTI_VERBS_SLOT, TUTTI_CUDA_DIRECT_MIN)";
}

/* Why the call is staged. */
static void refusal_text(const struct tutti_comm *comm, const struct call *call,
                         const struct buffers *b, const struct mem_device *device, char *text,
                         size_t len)
{
    uint64_t bytes = replicated_bytes(comm, call);
    char limit[128];
    switch (judge_direct(comm, call, b)) {
    case USER_FUNCTION:
        snprintf(text, len, "a user's function reduces on the CPU");
        break;
    case NO_DEVICE:
        snprintf(text, len, "%s%s", comm->no_device, nic_text(comm, call, device));
        break;
    case NO_KERNELS:
        snprintf(text, len,
                 "not every rank has the GPU's kernels (those of a build without nvcc, or with "
                 "CUDA_LAUNCH_BLOCKING=1, do not)");
        break;
    case IN_ELSEWHERE:
        elsewhere_text(comm, "in", b->in_place.device, text, len);
        break;
    case OUT_ELSEWHERE:
        elsewhere_text(comm, "out", b->out_place.device, text, len);
        break;
    default:
        limit_text(comm, limit, sizeof limit);
        if (bytes > 0)
            snprintf(text, len, "%llu bytes are less than the limit of %s",
                     (unsigned long long)bytes, limit);
        else
            snprintf(text, len, "no rank knows the size of the whole");
    }
}

static void direct_text(const struct tutti_comm *comm, const struct call *call,
                        const struct stage *stage, char *text, size_t len)
{
    const char *where = "in GPU memory";
    char limit[128];
    if (stage->copy_in || stage->copy_out)
        where = stage->scale ? "in a block of GPU memory that takes the scaled input"
                             : "in a block of GPU memory that the other ranks can reach, copied "
                               "there and back";
    limit_text(comm, limit, sizeof limit);
    if (call->coll == TUTTI_COLL_SENDRECV && call->root == (int)comm->rank)
        snprintf(text, len, "is a copy in GPU memory\n");
    else
        snprintf(text, len,
                 "works %s: %llu bytes reach the limit of %s; TUTTI_CUDA_DIRECT=0 turns it off\n",
                 where, (unsigned long long)replicated_bytes(comm, call), limit);
}

/* What is not hidden by the travel of other parts. */
static double copy_us(const struct tutti_comm *comm, const struct extent *extent,
                      const struct mem_place *place, size_t parts)
{
    if (!place->device)
        return 0;
    unsigned others = comm->device_peers > 1 ? comm->device_peers - 1 : 0;
    double alpha_us = others > 0 ? STAGE_SLICE_US * others : STAGE_ALPHA_US;
    return alpha_us + (double)extent->bytes / (double)parts * STAGE_US_PER_BYTE;
}

tutti_status stage_explain(const struct tutti_comm *comm, struct call *call, char *text, size_t len,
                           double *around_us)
{
    struct buffers b;
    struct stage stage = {.call = *call};
    char why[256], cut[80] = "";
    tutti_status status = find_buffers(comm, call, &b, &stage.device);
    if (status != TUTTI_OK)
        return status;
    call->on_device = stage.device && judge_direct(comm, call, &b) == ACCEPTED;
    call->by_nic = stage.device && !call->on_device && may_use_nic(comm, call, &b, stage.device);
    *around_us = 0;
    if (!stage.device) {
        snprintf(text, len, "works in host memory\n");
    } else if (call->on_device) {
        choose_copies(comm, call, &stage, &b);
        direct_text(comm, call, &stage, text, len);
    } else if (call->by_nic) {
        snprintf(text, len,
                 "works in GPU memory, where adapters read and write what is longer than %llu "
                 "bytes (TUTTI_VERBS_SLOT); what they cannot reach goes through pinned host "
                 "memory, and all of it with TUTTI_VERBS_GPU=off\n",
                 (unsigned long long)comm->settings.verbs_slot);
    } else {
        size_t parts = stage_parts(comm, call);
        stage.copy_out = b.out_place.device != NULL;
        *around_us = copy_us(comm, &b.in, &b.in_place, parts);
        if (brings_back(comm, &stage))
            *around_us += copy_us(comm, &b.out, &b.out_place, parts);
        refusal_text(comm, call, &b, stage.device, why, sizeof why);
        if (parts > 1)
            snprintf(cut, sizeof cut, " in %zu parts (TUTTI_CUDA_PART), beside each other", parts);
        snprintf(
            text, len,
            "works in pinned host memory, copied there and back%s in about %.0f us, since %s\n",
            cut, *around_us, why);
    }
    return TUTTI_OK;
}
