/* call.c: what can be wrong with a call, found before anything moves, and how calls read in
 * sentences. Ranges are compared as integers; a buffer of no bytes may be NULL. */
#include "src/call.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/comm.h"

static tutti_status check_type(const struct call *call)
{
    if ((unsigned)call->dtype >= TUTTI_DTYPE_COUNT)
        return fail(TUTTI_ERR_ARG, "%s: unknown type %d: expected 0 to %d", coll_name(call->coll),
                    (int)call->dtype, TUTTI_DTYPE_COUNT - 1);
    return TUTTI_OK;
}

static tutti_status check_op(const struct tutti_comm *comm, struct call *call)
{
    unsigned op = (unsigned)call->op;
    if (op >= TUTTI_OP_DYNAMIC && op <= TUTTI_OP_LAST) {
        struct comm_op *made = comm_op_find(comm, call->op);
        if (!made)
            return fail(TUTTI_ERR_ARG,
                        "%s: the operation was not made on this communicator, or is destroyed",
                        coll_name(call->coll));
        if (made->premulsum && made->dtype != call->dtype)
            return fail(TUTTI_ERR_ARG, "%s: the operation multiplies %s, but the call's type is %s",
                        coll_name(call->coll), dtype_name(made->dtype), dtype_name(call->dtype));
        call->made = made;
        return TUTTI_OK;
    }
    if (op >= TUTTI_OP_COUNT)
        return fail(TUTTI_ERR_ARG,
                    "%s: unknown operation %u: expected 0 to %d, or one made by "
                    "tutti_op_create",
                    coll_name(call->coll), op, TUTTI_OP_COUNT - 1);
    if (!reduce_kernel(call->op, call->dtype))
        return fail(TUTTI_ERR_ARG,
                    "%s: operation %s does not fit type %s: it needs an integer type",
                    coll_name(call->coll), op_name(call->op), dtype_name(call->dtype));
    return TUTTI_OK;
}

static tutti_status check_root(const struct tutti_comm *comm, const struct call *call)
{
    if (call->root < 0 || (uint32_t)call->root >= comm->size)
        return fail(TUTTI_ERR_ARG, "%s: %s %d is out of range: expected 0 to %u",
                    coll_name(call->coll), call->coll == TUTTI_COLL_SENDRECV ? "peer" : "root",
                    call->root, comm->size - 1);
    return TUTTI_OK;
}

/* No buffer is longer: a count beyond is a negative number, or a product that overflowed. */
static bool scaled(uint64_t count, uint64_t times, uint64_t elem_size, uint64_t *bytes)
{
    uint64_t all;
    return !__builtin_mul_overflow(count, times, &all) &&
           !__builtin_mul_overflow(all, elem_size, bytes) && *bytes <= PTRDIFF_MAX;
}

/* Bytes from the pointer to the end of the furthest block. */
static tutti_status vector_extent(const struct tutti_comm *comm, const struct call *call,
                                  const size_t *counts, const size_t *displs, uint64_t *bytes)
{
    uint64_t end = 0, packed = 0;
    for (uint32_t r = 0; r < comm->size; r++) {
        uint64_t last, block, at = displs ? displs[r] : packed;
        if (__builtin_add_overflow(at, counts[r], &last) ||
            __builtin_add_overflow(packed, counts[r], &packed) ||
            !scaled(counts[r] > 0 ? last : 0, 1, call->elem_size, &block) ||
            !scaled(packed, 1, call->elem_size, &block))
            return fail(TUTTI_ERR_ARG,
                        "%s: the block of rank %u, count %zu at displacement %" PRIu64
                        " of %s, overflows the address space",
                        coll_name(call->coll), r, counts[r], at, dtype_name(call->dtype));
        if (counts[r] > 0 && last > end)
            end = last;
    }
    *bytes = end * call->elem_size;
    return TUTTI_OK;
}

static tutti_status too_large(const struct call *call)
{
    return fail(TUTTI_ERR_ARG, "%s: count %zu of %s overflows the address space",
                coll_name(call->coll), call->count, dtype_name(call->dtype));
}

static tutti_status vector_sizes(const struct tutti_comm *comm, const struct call *call,
                                 struct extent *in, struct extent *out)
{
    uint32_t e = call->elem_size;
    bool root = call->root == (int)comm->rank;
    tutti_status status = TUTTI_OK;
    bool needs = (call->coll != TUTTI_COLL_GATHERV && call->coll != TUTTI_COLL_SCATTERV) || root;
    if (needs && !call->counts)
        return fail(TUTTI_ERR_ARG, "%s: counts is NULL at rank %u", coll_name(call->coll),
                    comm->rank);
    switch (call->coll) {
    case TUTTI_COLL_ALLGATHERV:
        status = vector_extent(comm, call, call->counts, call->displs, &out->bytes);
        in->bytes = call->counts[comm->rank] * (uint64_t)e;
        break;
    case TUTTI_COLL_REDUCE_SCATTERV:
        status = vector_extent(comm, call, call->counts, NULL, &in->bytes);
        out->bytes = call->counts[comm->rank] * (uint64_t)e;
        break;
    case TUTTI_COLL_GATHERV:
        if (!scaled(call->count, 1, e, &in->bytes))
            return too_large(call);
        if (root)
            status = vector_extent(comm, call, call->counts, call->displs, &out->bytes);
        if (root && call->counts[comm->rank] != call->count)
            return fail(TUTTI_ERR_ARG,
                        "gatherv: in_count %zu and counts[%u] %zu differ at the root", call->count,
                        comm->rank, call->counts[comm->rank]);
        break;
    case TUTTI_COLL_SCATTERV:
        if (!scaled(call->count, 1, e, &out->bytes))
            return too_large(call);
        if (root)
            status = vector_extent(comm, call, call->counts, call->displs, &in->bytes);
        if (root && call->counts[comm->rank] != call->count)
            return fail(TUTTI_ERR_ARG,
                        "scatterv: out_count %zu and counts[%u] %zu differ at the root",
                        call->count, comm->rank, call->counts[comm->rank]);
        break;
    default:
        if (!call->recv_counts)
            return fail(TUTTI_ERR_ARG, "alltoallv: out_counts is NULL at rank %u", comm->rank);
        if (call->counts[comm->rank] != call->recv_counts[comm->rank])
            return fail(TUTTI_ERR_ARG,
                        "alltoallv: rank %u sends itself %zu elements but receives %zu from itself",
                        comm->rank, call->counts[comm->rank], call->recv_counts[comm->rank]);
        status = vector_extent(comm, call, call->counts, call->displs, &in->bytes);
        if (status == TUTTI_OK)
            status = vector_extent(comm, call, call->recv_counts, call->recv_displs, &out->bytes);
    }
    return status;
}

/* Bytes from the pointer to the end of the last block. */
static bool block_extent(const struct call *call, struct extent *extent)
{
    if (call->stride == 0)
        return scaled(call->count, extent->blocks, call->elem_size, &extent->bytes);
    return scaled((extent->blocks - 1) * call->stride + call->count, 1, call->elem_size,
                  &extent->bytes);
}

tutti_status call_extents(const struct tutti_comm *comm, const struct call *call, struct extent *in,
                          struct extent *out)
{
    uint64_t n = comm->size;
    bool root = call->root == (int)comm->rank;
    *in = (struct extent){.name = "in", .begin = call->in, .blocks = 1, .used = true};
    *out = (struct extent){.name = "out", .begin = call->out, .blocks = 1, .used = true};
    switch (call->coll) {
    case TUTTI_COLL_ALLREDUCE:
        break;
    case TUTTI_COLL_ALLGATHER:
        out->blocks = n;
        break;
    case TUTTI_COLL_REDUCE_SCATTER:
        in->blocks = n;
        break;
    case TUTTI_COLL_ALLTOALL:
        in->blocks = out->blocks = n;
        break;
    case TUTTI_COLL_BROADCAST:
        in->used = root;
        break;
    case TUTTI_COLL_REDUCE:
        out->used = root;
        break;
    case TUTTI_COLL_GATHER:
        out->used = root;
        out->blocks = n;
        break;
    case TUTTI_COLL_SCATTER:
        in->used = root;
        in->blocks = n;
        break;
    case TUTTI_COLL_GATHERV:
        out->used = root;
        return vector_sizes(comm, call, in, out);
    case TUTTI_COLL_SCATTERV:
        in->used = root;
        return vector_sizes(comm, call, in, out);
    case TUTTI_COLL_SENDRECV:
        in->used = call->is_send;
        out->used = !call->is_send;
        break;
    case TUTTI_COLL_BARRIER:
        in->used = out->used = false;
        return TUTTI_OK;
    default:
        return vector_sizes(comm, call, in, out);
    }
    if (!block_extent(call, in) || !block_extent(call, out))
        return too_large(call);
    return TUTTI_OK;
}

/* The one legal overlap of the collective: out begins at in + delta. */
static bool legal_alias(const struct tutti_comm *comm, const struct call *call)
{
    const char *in = call->in, *out = call->out;
    uint64_t before = 0, own = (uint64_t)comm->rank * call->count;
    switch (call->coll) {
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_GATHER:
        return in == out + own * call->elem_size;
    case TUTTI_COLL_REDUCE_SCATTER:
    case TUTTI_COLL_SCATTER:
        return out == in + own * call->elem_size;
    case TUTTI_COLL_ALLGATHERV:
    case TUTTI_COLL_GATHERV:
    case TUTTI_COLL_REDUCE_SCATTERV:
    case TUTTI_COLL_SCATTERV:
        for (uint32_t r = 0; r < comm->rank; r++)
            before += call->counts[r];
        if (call->displs)
            before = call->displs[comm->rank];
        before *= call->elem_size;
        return call->coll == TUTTI_COLL_ALLGATHERV || call->coll == TUTTI_COLL_GATHERV
                   ? in == out + before
                   : out == in + before;
    case TUTTI_COLL_ALLTOALLV:
        for (uint32_t r = 0; r < comm->size; r++) {
            uint64_t at = call->displs ? call->displs[r] : before;
            uint64_t recv_at = call->recv_displs ? call->recv_displs[r] : before;
            if (call->counts[r] != call->recv_counts[r] || at != recv_at)
                return false;
            before += call->counts[r];
        }
        return in == out;
    default:
        return in == out;
    }
}

static tutti_status check_buffers(const struct tutti_comm *comm, struct call *call)
{
    struct extent in, out;
    tutti_status status = call_extents(comm, call, &in, &out);
    if (status != TUTTI_OK)
        return status;
    const struct extent *both[2] = {&in, &out};
    for (int i = 0; i < 2; i++) {
        if (!both[i]->used || both[i]->bytes == 0)
            continue;
        if (!both[i]->begin)
            return fail(TUTTI_ERR_ARG, "%s: %s is NULL at rank %u, expected %" PRIu64 " bytes",
                        coll_name(call->coll), both[i]->name, comm->rank, both[i]->bytes);
        if (both[i]->bytes > UINTPTR_MAX - (uintptr_t)both[i]->begin)
            return fail(TUTTI_ERR_ARG,
                        "%s: %s, %" PRIu64 " bytes at %p, overflows the address space at rank %u",
                        coll_name(call->coll), both[i]->name, both[i]->bytes,
                        (const void *)both[i]->begin, comm->rank);
        mem_device_notice(both[i]->begin);
        const char *why = mem_device_refused(both[i]->begin);
        if (why)
            return fail(TUTTI_ERR_UNSUPPORTED,
                        "%s: %s is GPU memory (%p) at rank %u, expected host memory (%s): copy it "
                        "there first, or let this process use its GPU",
                        coll_name(call->coll), both[i]->name, (const void *)both[i]->begin,
                        comm->rank, why);
    }
    call->in_place = false;
    if (!in.used || !out.used || in.bytes == 0 || out.bytes == 0)
        return TUTTI_OK;
    uintptr_t a = (uintptr_t)in.begin, b = (uintptr_t)out.begin;
    if (a + in.bytes <= b || b + out.bytes <= a)
        return TUTTI_OK;
    if (!legal_alias(comm, call))
        return fail(TUTTI_ERR_ARG,
                    "%s: in (%" PRIu64 " bytes at %p) and out (%" PRIu64
                    " bytes at %p) overlap at rank %u other than in place as the header defines it",
                    coll_name(call->coll), in.bytes, (const void *)in.begin, out.bytes,
                    (const void *)out.begin, comm->rank);
    call->in_place = true;
    return TUTTI_OK;
}

tutti_status call_check_terms(const struct tutti_comm *comm, struct call *call)
{
    const struct coll_info *info = coll_info(call->coll);
    tutti_status status = check_type(call);
    call->elem_size = (uint32_t)dtype_size(call->dtype);
    if (status == TUTTI_OK && info->reduces)
        status = check_op(comm, call);
    if (status == TUTTI_OK && (info->has_root || call->coll == TUTTI_COLL_SENDRECV))
        status = check_root(comm, call);
    return status;
}

tutti_status call_check(const struct tutti_comm *comm, struct call *call)
{
    tutti_status status = call_check_terms(comm, call);
    return status == TUTTI_OK ? check_buffers(comm, call) : status;
}

tutti_status call_keep(const struct tutti_comm *comm, struct call *call, size_t **counts)
{
    bool rooted = call->coll == TUTTI_COLL_GATHERV || call->coll == TUTTI_COLL_SCATTERV;
    const size_t **arrays[] = {&call->counts, &call->displs, &call->recv_counts,
                               &call->recv_displs};
    size_t *copy = NULL, n = comm->size;
    if (coll_info(call->coll)->is_v && (!rooted || call->root == (int)comm->rank)) {
        copy = calloc(4 * n, sizeof *copy);
        if (!copy)
            return fail(TUTTI_ERR_NOMEM, "no memory for the counts of %s", coll_name(call->coll));
        for (size_t i = 0; i < 4; i++) {
            if (!*arrays[i])
                continue;
            memcpy(copy + i * n, *arrays[i], n * sizeof *copy);
            *arrays[i] = copy + i * n;
        }
    }
    if (call->made)
        atomic_fetch_add(&call->made->holders, 1);
    *counts = copy;
    return TUTTI_OK;
}

void call_unkeep(const struct call *call, size_t *counts)
{
    comm_op_release(call->made);
    free(counts);
}

/* One made by the caller goes by the number of its handle. */
static const char *op_text(tutti_op op, char text[32])
{
    if (op >= TUTTI_OP_DYNAMIC && op <= TUTTI_OP_LAST)
        snprintf(text, 32, "%s %u", comm_op_is_premulsum(op) ? "premulsum" : "user operation",
                 (unsigned)op);
    else
        snprintf(text, 32, "%s", op_name(op));
    return text;
}

const char *call_text(const struct call *call, char *text, size_t len)
{
    char op[32];
    const struct coll_info *info = coll_info(call->coll);
    int at = snprintf(text, len, "%s(", info->name);
    if (call->coll != TUTTI_COLL_BARRIER) {
        if (!info->is_v)
            at += snprintf(text + at, len - (size_t)at, "count %zu, ", call->count);
        at += snprintf(text + at, len - (size_t)at, "%s", dtype_name(call->dtype));
        if (info->reduces)
            at += snprintf(text + at, len - (size_t)at, ", %s", op_text(call->op, op));
        if (info->has_root)
            at += snprintf(text + at, len - (size_t)at, ", root %d", call->root);
    }
    snprintf(text + at, len - (size_t)at, call->on_device ? ") in GPU memory" : ")");
    return text;
}

const char *tag_text(const struct tag *tag, char *text, size_t len)
{
    char inner[128];
    struct call call = {.coll = tag_coll(tag),
                        .dtype = tag_dtype(tag),
                        .on_device = tag_on_device(tag),
                        .op = (tutti_op)(tag->word[0] & 0xffff),
                        .root = (int)(uint32_t)(tag->word[2] >> 32),
                        .count = tag->word[1]};
    if ((unsigned)call.coll >= TUTTI_COLL_COUNT)
        snprintf(text, len, "an unreadable operation");
    else
        snprintf(text, len, "%s as operation %u%s%s", call_text(&call, inner, sizeof inner),
                 tag_sequence(tag), tag_part(tag) ? ", a part of a call" : "",
                 tag_replayed(tag) ? " from a graph" : "");
    return text;
}
