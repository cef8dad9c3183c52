/* pieces.c: how messages are cut into pieces, buffers into blocks, and who stands where in the
 * small patterns. Arithmetic only; the two ends of every message come to the same cut because it
 * depends on nothing but its length and the grain. */
#include "algorithms/algorithm.h"
#include "algorithms/phases.h"
#include "base/check.h"

#define PIECES_MAX     (SCHEDULE_STEPS_MAX / 8)
#define LANE_BYTES_MIN 16384 /* a message is not spread over lanes in smaller pieces than this */
/* Where no rank knows all counts, none can tell whether another runs out of steps: hardly cut. */
#define LOCAL_CHUNK_BYTES (1ull << 30)
#define LANDING_SLOTS     16 /* contributions that may have landed and wait for their turn */

/* What does not divide is spread over the parts, so that any run of them is less than one element
 * longer or shorter than its share: part i begins at ceil(elems * i / parts). */
struct block cut_evenly(uint64_t len, uint32_t elem_size, uint32_t parts, uint32_t i)
{
    uint64_t elems = len / elem_size, base = elems / parts, extra = elems % parts;
    uint64_t before = (extra * i + parts - 1) / parts;
    uint64_t after = (extra * (i + 1u) + parts - 1) / parts;

    must(len % elem_size == 0 && i < parts);
    return (struct block){.off = (base * i + before) * elem_size,
                          .len = (base + after - before) * elem_size};
}

/* ---- grain ---- */

bool grain_fits(uint64_t messages)
{
    return messages <= SCHEDULE_STEPS_MAX / 2;
}

/* Steps <= bytes / chunk + messages * lanes. The second term may take half of the steps; the first
 * gets an eighth, because a plan of very many pieces takes longer to make than the pieces save. */
struct grain grain_make(const struct shape *shape, const struct knobs *knobs, uint64_t bytes,
                        uint64_t messages)
{
    uint64_t coarsest = shape->local_counts ? LOCAL_CHUNK_BYTES : bytes / PIECES_MAX + 1;

    return (struct grain){.chunk_bytes = most(knobs->chunk_bytes, coarsest),
                          .lanes = grain_fits(messages * knobs->lanes) ? knobs->lanes : 1,
                          .elem_size = shape->elem_size};
}

uint32_t grain_pieces(const struct grain *grain, uint64_t len)
{
    uint64_t chunks = len / grain->chunk_bytes + (len % grain->chunk_bytes != 0);
    uint64_t spread = least(grain->lanes, len / LANE_BYTES_MIN);

    return (uint32_t)least(most(chunks, spread), len / grain->elem_size);
}

struct span grain_piece(const struct grain *grain, struct span whole, uint32_t i)
{
    struct block part = cut_evenly(whole.len, grain->elem_size, grain_pieces(grain, whole.len), i);

    return span_of(whole.buffer, whole.off + part.off, part.len);
}

void move_send(struct builder *builder, const struct grain *grain, uint32_t peer, struct span src)
{
    uint32_t pieces = grain_pieces(grain, src.len);

    for (uint32_t i = 0; i < pieces; i++)
        build_send(builder, peer, grain_lane(grain, i), grain_piece(grain, src, i));
}

void move_recv(struct builder *builder, const struct grain *grain, uint32_t peer, struct span dst)
{
    uint32_t pieces = grain_pieces(grain, dst.len);

    for (uint32_t i = 0; i < pieces; i++)
        build_recv(builder, peer, grain_lane(grain, i), grain_piece(grain, dst, i));
}

void move_fold(struct builder *builder, const struct grain *grain, uint32_t peer,
               struct span landing, struct span dst, struct span mine, bool theirs_first)
{
    uint32_t pieces = grain_pieces(grain, dst.len);

    must(landing.len == dst.len && mine.len == dst.len);
    for (uint32_t i = 0; i < pieces; i++)
        build_recv_reduce(builder, peer, grain_lane(grain, i), grain_piece(grain, landing, i),
                          grain_piece(grain, dst, i), grain_piece(grain, mine, i), theirs_first);
}

struct landing landing_make(struct builder *builder, uint64_t max_bytes, uint64_t messages)
{
    struct landing landing = {.slot_bytes = (max_bytes + 63) / 64 * 64,
                              .slots = (uint32_t)least(messages, LANDING_SLOTS)};

    landing.all = build_scratch(builder, landing.slot_bytes * landing.slots);
    return landing;
}

struct span landing_take(struct landing *landing, uint64_t len)
{
    uint32_t slot = landing->next;

    must(slot < landing->slots && len <= landing->slot_bytes);
    landing->next = (slot + 1) % landing->slots;
    return span_of(landing->all.buffer, landing->all.off + slot * landing->slot_bytes, len);
}

/* ---- cuts ---- */

struct cut cut_even(const struct shape *shape, uint64_t off, uint64_t len, uint32_t parts)
{
    return (struct cut){.off = off, .len = len, .elem_size = shape->elem_size, .parts = parts};
}

struct cut cut_of_shape(const struct shape *shape)
{
    return (struct cut){.of_shape = shape, .elem_size = shape->elem_size, .parts = shape->size};
}

struct cut cut_packed(const struct shape *shape)
{
    struct cut cut = cut_of_shape(shape);

    cut.packed = coll_info(shape->coll)->is_v;
    return cut;
}

bool cut_is_packed(const struct cut *cut)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < cut->parts; i++) {
        struct block block = cut_block(cut, i);

        if (block.len > 0 && block.off != at)
            return false;
        at += block.len;
    }
    return true;
}

static uint64_t bytes_before(const struct shape *shape, uint32_t i)
{
    uint64_t bytes = 0;

    for (uint32_t k = 0; k < i; k++)
        bytes += coll_block(shape, k).len;
    return bytes;
}

struct block cut_block(const struct cut *cut, uint32_t i)
{
    struct block block;

    if (cut->of_shape) {
        block = coll_block(cut->of_shape, i);
        if (cut->packed)
            block.off = bytes_before(cut->of_shape, i);
        return block;
    }
    block = cut_evenly(cut->len, cut->elem_size, cut->parts, i);
    block.off += cut->off;
    return block;
}

/* Blocks of equal forms differ by an element at most and the first is the longest. */
static bool cut_is_regular(const struct cut *cut)
{
    return !cut->of_shape || !coll_info(cut->of_shape->coll)->is_v;
}

uint64_t cut_longest(const struct cut *cut)
{
    uint64_t longest = 0;

    if (cut_is_regular(cut))
        return cut_block(cut, 0).len;
    for (uint32_t i = 0; i < cut->parts; i++)
        longest = most(longest, cut_block(cut, i).len);
    return longest;
}

struct runs runs_of(const struct cut *cut, uint32_t first, uint32_t count)
{
    must(count <= cut->parts && (first < cut->parts || count == 0));
    return (struct runs){.cut = cut, .next = first, .left = count};
}

/* Blocks [next, next + left) without the wrap lie back to back. */
static struct block regular_run(struct runs *runs)
{
    uint32_t count = (uint32_t)least(runs->left, runs->cut->parts - runs->next);
    struct block first = cut_block(runs->cut, runs->next);
    struct block last = cut_block(runs->cut, runs->next + count - 1);

    runs->next = (runs->next + count) % runs->cut->parts;
    runs->left -= count;
    return (struct block){.off = first.off, .len = last.off + last.len - first.off};
}

static struct block irregular_run(struct runs *runs)
{
    struct block run = cut_block(runs->cut, runs->next);

    while (--runs->left > 0 && ++runs->next < runs->cut->parts) {
        struct block block = cut_block(runs->cut, runs->next);

        if (block.off != run.off + run.len)
            return run;
        run.len += block.len;
    }
    if (runs->next == runs->cut->parts)
        runs->next = 0;
    return run;
}

bool runs_next(struct runs *runs, struct block *run)
{
    if (runs->left == 0)
        return false;
    *run = runs->cut->packed || cut_is_regular(runs->cut) ? regular_run(runs) : irregular_run(runs);
    return true;
}

uint64_t runs_bytes(const struct cut *cut, uint32_t first, uint32_t count)
{
    struct runs runs = runs_of(cut, first, count);
    struct block run;
    uint64_t bytes = 0;

    while (runs_next(&runs, &run))
        bytes += run.len;
    return bytes;
}

void runs_place(struct builder *builder, const struct cut *cut, uint32_t first, struct span packed)
{
    struct runs runs = runs_of(cut, first, cut->parts);
    struct block run;
    uint64_t at = packed.off;

    while (runs_next(&runs, &run)) {
        build_copy(builder, span_of(BUFFER_OUT, run.off, run.len),
                   span_of(packed.buffer, at, run.len));
        at += run.len;
    }
}

/* ---- homes ---- */

struct home home_whole(enum buffer buffer)
{
    return (struct home){.buffer = buffer};
}

struct home home_alone(enum buffer buffer, struct block block)
{
    return (struct home){.buffer = buffer, .origin = block.off};
}

struct span home_span(const struct home *home, struct block block)
{
    uint64_t x = block.off + (block.off < home->origin ? home->total : 0) - home->origin;

    return span_of(home->buffer, home->base + x, block.len);
}

bool home_same(const struct home *a, const struct home *b)
{
    return a->buffer == b->buffer && a->base == b->base && a->origin == b->origin;
}

/* ---- positions ---- */

struct folding folding_of(uint32_t size, uint32_t rank)
{
    struct folding folding = {.power = 1};

    while (folding.power <= size / 2)
        folding.power *= 2;
    folding.extra = size - folding.power;
    if (rank >= 2 * folding.extra)
        folding.me = rank - folding.extra;
    else
        folding.me = rank % 2 ? rank / 2 : NO_RANK;
    return folding;
}

uint32_t folding_rank(const struct folding *folding, uint32_t position)
{
    return position < folding->extra ? 2 * position + 1 : position + folding->extra;
}

struct binomial binomial_of(uint32_t size, uint32_t rank, uint32_t root)
{
    struct binomial tree = {.size = size, .root = root};

    tree.v = (uint32_t)(((uint64_t)rank + size - root) % size);
    tree.reach = 1;
    while (tree.reach < size && !(tree.v & tree.reach))
        tree.reach *= 2;
    return tree;
}

uint32_t binomial_rank(const struct binomial *tree, uint32_t v)
{
    return (uint32_t)(((uint64_t)v + tree->root) % tree->size);
}

uint32_t binomial_parent(const struct binomial *tree)
{
    must(tree->v != 0);
    return binomial_rank(tree, tree->v - tree->reach);
}

uint32_t binomial_span(const struct binomial *tree, uint32_t child_v)
{
    return (uint32_t)least(child_v - tree->v, tree->size - child_v);
}
