/* phases.h: the movements that algorithms are made of, over any team of ranks.
 *
 * From small to large: a grain says how a message is cut into pieces over lanes; a cut says how a
 * buffer is cut into one block per member; a home says in which buffer a block lies; a phase moves
 * or reduces blocks between the members of a team. Phases only emit steps: what must wait for what
 * is derived by the builder. */
#ifndef ALGORITHMS_PHASES_H
#define ALGORITHMS_PHASES_H

#include "algorithms/schedule.h"

struct knobs;

static inline uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Part i of `len` bytes cut into `parts` nearly equal parts of whole elements; some, among them the
 * first, are an element longer. */
struct block cut_evenly(uint64_t len, uint32_t elem_size, uint32_t parts, uint32_t i);

/* ---- grain: pieces and lanes ------------------------------------------------------------------
 * Both ends of a message know its length, so they cut it alike: into ceil(len / chunk) nearly
 * equal pieces, piece i on lane i mod lanes. */
struct grain {
    uint64_t chunk_bytes;
    uint32_t lanes, elem_size;
};
/* The knobs' grain, made coarser where the busiest rank would need too many steps: it emits
 * `messages` steps before cutting, and their lengths sum to `bytes`. */
struct grain grain_make(const struct shape *shape, const struct knobs *knobs, uint64_t bytes,
                        uint64_t messages);
/* Can a program of that many uncut steps be emitted? */
bool grain_fits(uint64_t messages);
uint32_t grain_pieces(const struct grain *grain, uint64_t len); /* 0 for an empty message */
struct span grain_piece(const struct grain *grain, struct span whole, uint32_t i);
static inline uint32_t grain_lane(const struct grain *grain, uint32_t i)
{
    return i % grain->lanes;
}

/* Whole messages, piece by piece. In fold, dst = mine op theirs (theirs op mine if theirs_first);
 * landing has the length of dst. */
void move_send(struct builder *builder, const struct grain *grain, uint32_t peer, struct span src);
void move_recv(struct builder *builder, const struct grain *grain, uint32_t peer, struct span dst);
void move_fold(struct builder *builder, const struct grain *grain, uint32_t peer,
               struct span landing, struct span dst, struct span mine, bool theirs_first);

/* A few scratch spans that received contributions land in, in turn. */
struct landing {
    struct span all;
    uint64_t slot_bytes;
    uint32_t slots, next;
};
/* For `messages` receives of at most max_bytes each. */
struct landing landing_make(struct builder *builder, uint64_t max_bytes, uint64_t messages);
struct span landing_take(struct landing *landing, uint64_t len);

/* ---- cuts and homes ---------------------------------------------------------------------------
 */

/* One block per member: `len` bytes from `off` cut evenly, or, with of_shape, coll_block; packed:
 * those, back to back. */
struct cut {
    const struct shape *of_shape;
    bool packed;
    uint64_t off, len;
    uint32_t elem_size, parts;
};
struct cut cut_even(const struct shape *shape, uint64_t off, uint64_t len, uint32_t parts);
struct cut cut_of_shape(const struct shape *shape);
/* The same to all ranks of an allgatherv, each of which may have its own displacements. */
struct cut cut_packed(const struct shape *shape);
bool cut_is_packed(const struct cut *cut); /* do the blocks lie back to back, from 0 on? */
struct block cut_block(const struct cut *cut, uint32_t i);
uint64_t cut_longest(const struct cut *cut); /* bytes of the longest block */

/* Blocks first, first + 1, ... (`count` of them, cyclic) as few contiguous ranges: one or two
 * unless the blocks of a v form lie scattered. */
struct runs {
    const struct cut *cut;
    uint32_t next, left;
};
struct runs runs_of(const struct cut *cut, uint32_t first, uint32_t count);
bool runs_next(struct runs *runs, struct block *run);
uint64_t runs_bytes(const struct cut *cut, uint32_t first, uint32_t count);
/* Copies all blocks of the cut to their places in OUT from where they lie back to back, `first` and
 * those that follow it (cyclic). */
void runs_place(struct builder *builder, const struct cut *cut, uint32_t first, struct span packed);

/* Where the cut bytes lie: byte x at base + (x - origin) mod total. */
struct home {
    enum buffer buffer;
    uint64_t base, origin, total;
};
/* Byte x lies at byte x. */
struct home home_whole(enum buffer buffer);
/* One block alone at the beginning of the buffer. */
struct home home_alone(enum buffer buffer, struct block block);
struct span home_span(const struct home *home, struct block block);
bool home_same(const struct home *a, const struct home *b);

/* ---- phases -----------------------------------------------------------------------------------
 * team->me is the emitting rank's index; block i belongs to member i. Every member emits the same
 * phase with the same cut and grain. Homes: src has the contributions, own has my block, all
 * receives every block (my own is copied there if it is not there already). */

/* dst = reduction of mine and one equally long message from every other member, in rank order:
 * x0 op (... op (x[me-1] op mine)) op x[me+1] op ... Every step is a receive-and-reduce. */
void phase_fold_in(struct builder *builder, const struct team *team, const struct grain *grain,
                   struct span dst, struct span mine);
/* Every member sends block j to member j and folds in its own block from all: one round. */
void phase_reduce_scatter_direct(struct builder *builder, const struct team *team,
                                 const struct grain *grain, const struct cut *cut,
                                 const struct home *src, const struct home *result);
/* Every member sends its block to every other: one round. */
void phase_allgather_direct(struct builder *builder, const struct team *team,
                            const struct grain *grain, const struct cut *cut,
                            const struct home *own, const struct home *all);
/* size - 1 rounds round the ring; member i ends with block i + shift (mod size) at result. acc
 * holds the partial sums on the way; NULL: two slots of scratch do. */
void phase_reduce_scatter_ring(struct builder *builder, const struct team *team,
                               const struct grain *grain, const struct cut *cut,
                               const struct home *src, const struct home *acc,
                               const struct home *result, uint32_t shift);
/* size - 1 rounds; member i begins with block i + shift. */
void phase_allgather_ring(struct builder *builder, const struct team *team,
                          const struct grain *grain, const struct cut *cut, const struct home *own,
                          const struct home *all, uint32_t shift);
/* ceil(log2 size) rounds for any size (Traeff 2024, Algorithm 1). Partial sums at acc, which must
 * hold at least the size / 2 blocks that follow my own; my block at result. */
void phase_reduce_scatter_circulant(struct builder *builder, const struct team *team,
                                    const struct grain *grain, const struct cut *cut,
                                    const struct home *src, const struct home *acc,
                                    const struct home *result);
void phase_allgather_circulant(struct builder *builder, const struct team *team,
                               const struct grain *grain, const struct cut *cut,
                               const struct home *own, const struct home *all);

/* ---- positions ---------------------------------------------------------------------------------
 */

/* Folding any size to a power of two: of the first 2 * extra ranks the even ones give their data
 * to the odd one above and wait for the result; the others act. */
struct folding {
    uint32_t power, extra; /* size = power + extra */
    uint32_t me;           /* position among the acting ranks, NO_RANK if this rank waits */
};
struct folding folding_of(uint32_t size, uint32_t rank);
uint32_t folding_rank(const struct folding *folding, uint32_t position);

/* Binomial tree over virtual ranks v = (rank - root) mod size: v's subtree is the virtual ranks
 * [v, v + reach), its children v + 1, v + 2, v + 4, ... below v + reach. */
struct binomial {
    uint32_t size, root, v, reach;
};
struct binomial binomial_of(uint32_t size, uint32_t rank, uint32_t root);
uint32_t binomial_rank(const struct binomial *tree, uint32_t v);
uint32_t binomial_parent(const struct binomial *tree); /* a rank; not for the root */
uint32_t binomial_span(const struct binomial *tree, uint32_t child_v); /* size of its subtree */

#endif
