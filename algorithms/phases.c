/* phases.c: reduce-scatter, allgather and fold-in over any team of ranks.
 *
 * Every phase follows three rules that keep plans free of deadlock without any buffering. A
 * received contribution is never folded into bytes that are being sent in the same round. Rounds
 * are emitted in order on every link. Both ends cut a message in the same way, from its length
 * alone. Contributions are folded in straight from where they are (dst, mine and theirs are three
 * places), so that nothing is copied first.
 *
 * The ring is Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms" (JPDC 2009), section 3;
 * the circulant phases are Traeff, "Optimal, non-pipelined reduce-scatter and allreduce
 * algorithms" (arXiv 2410.14234), Algorithm 1: skips n, ceil(n/2), ceil(n/4), ..., 1. */
#include "algorithms/phases.h"

#include "base/check.h"

/* ---- direct: everyone to everyone ---- */

static void fold_piece(struct builder *builder, const struct team *team, uint32_t lane,
                       struct landing *landing, struct span dst, struct span mine)
{
    for (uint32_t i = team->me; i-- > 0;) {
        build_recv_reduce(builder, team_rank(team, i), lane, landing_take(landing, dst.len), dst,
                          mine, true);
        mine = dst;
    }
    for (uint32_t i = team->me + 1; i < team->size; i++) {
        build_recv_reduce(builder, team_rank(team, i), lane, landing_take(landing, dst.len), dst,
                          mine, false);
        mine = dst;
    }
}

static struct landing fold_landing(struct builder *builder, const struct team *team,
                                   const struct grain *grain, struct span dst, uint32_t pieces)
{
    uint64_t longest = pieces ? grain_piece(grain, dst, 0).len : 0;

    return landing_make(builder, longest, (uint64_t)pieces * (team->size - 1));
}

void phase_fold_in(struct builder *builder, const struct team *team, const struct grain *grain,
                   struct span dst, struct span mine)
{
    uint32_t pieces = grain_pieces(grain, dst.len);
    struct landing landing = fold_landing(builder, team, grain, dst, pieces);

    if (team->size == 1) {
        build_copy(builder, dst, mine);
        return;
    }
    for (uint32_t p = 0; p < pieces; p++)
        fold_piece(builder, team, grain_lane(grain, p), &landing, grain_piece(grain, dst, p),
                   grain_piece(grain, mine, p));
}

/* Piece p of the block of every other member, nearest successor first, so that no member is
 * everyone's first. */
static void send_pieces(struct builder *builder, const struct team *team, const struct grain *grain,
                        const struct cut *cut, const struct home *src, uint32_t p)
{
    for (uint32_t d = 1; d < team->size; d++) {
        uint32_t to = (team->me + d) % team->size;
        struct span whole = home_span(src, cut_block(cut, to));

        if (p < grain_pieces(grain, whole.len))
            build_send(builder, team_rank(team, to), grain_lane(grain, p),
                       grain_piece(grain, whole, p));
    }
}

void phase_reduce_scatter_direct(struct builder *builder, const struct team *team,
                                 const struct grain *grain, const struct cut *cut,
                                 const struct home *src, const struct home *result)
{
    struct block block = cut_block(cut, team->me);
    struct span mine = home_span(src, block), dst = home_span(result, block);
    uint32_t pieces = grain_pieces(grain, block.len);
    uint32_t rounds = grain_pieces(grain, cut_longest(cut));
    struct landing landing = fold_landing(builder, team, grain, dst, pieces);

    if (team->size == 1) {
        build_copy(builder, dst, mine);
        return;
    }
    for (uint32_t p = 0; p < rounds; p++) {
        send_pieces(builder, team, grain, cut, src, p);
        if (p < pieces)
            fold_piece(builder, team, grain_lane(grain, p), &landing, grain_piece(grain, dst, p),
                       grain_piece(grain, mine, p));
    }
}

void phase_allgather_direct(struct builder *builder, const struct team *team,
                            const struct grain *grain, const struct cut *cut,
                            const struct home *own, const struct home *all)
{
    struct block block = cut_block(cut, team->me);
    struct span mine = home_span(own, block);
    uint32_t pieces = grain_pieces(grain, block.len);

    for (uint32_t p = 0; p < pieces; p++)
        for (uint32_t d = 1; d < team->size; d++)
            build_send(builder, team_rank(team, (team->me + d) % team->size), grain_lane(grain, p),
                       grain_piece(grain, mine, p));
    for (uint32_t d = 1; d < team->size; d++) {
        uint32_t from = (team->me + team->size - d) % team->size;

        move_recv(builder, grain, team_rank(team, from), home_span(all, cut_block(cut, from)));
    }
    build_copy(builder, home_span(all, block), mine);
}

/* ---- ring ---- */

/* Block i - d, round a ring of n. */
static uint32_t back(uint32_t i, uint32_t d, uint32_t n)
{
    return (uint32_t)(((uint64_t)i + 2 * (uint64_t)n - d) % n);
}

void phase_reduce_scatter_ring(struct builder *builder, const struct team *team,
                               const struct grain *grain, const struct cut *cut,
                               const struct home *src, const struct home *acc,
                               const struct home *result, uint32_t shift)
{
    uint32_t n = team->size, last = (team->me + shift) % n;
    uint32_t next = team_rank(team, (team->me + 1) % n),
             prev = team_rank(team, back(team->me, 1, n));
    struct span landing = {0}, slot[2] = {{0}}, have;

    if (n == 1) {
        build_copy(builder, home_span(result, cut_block(cut, last)),
                   home_span(src, cut_block(cut, last)));
        return;
    }
    landing = build_scratch(builder, cut_longest(cut));
    for (uint32_t i = 0; i < 2 && !acc && n > 2; i++)
        slot[i] = build_scratch(builder, landing.len);
    have = home_span(src, cut_block(cut, back(last, 1, n)));
    for (uint32_t t = 0; t + 1 < n; t++) {
        struct block block = cut_block(cut, back(last, t + 2, n));
        struct span dst = span_of(slot[t % 2].buffer, slot[t % 2].off, block.len);

        if (t + 2 == n)
            dst = home_span(result, block);
        else if (acc)
            dst = home_span(acc, block);
        landing.len = block.len;
        move_send(builder, grain, next, have);
        /* The partial sum comes from the ranks before me, unless it has just gone round the end. */
        move_fold(builder, grain, prev, landing, dst, home_span(src, block), team->me != 0);
        have = dst;
    }
}

void phase_allgather_ring(struct builder *builder, const struct team *team,
                          const struct grain *grain, const struct cut *cut, const struct home *own,
                          const struct home *all, uint32_t shift)
{
    uint32_t n = team->size, first = (team->me + shift) % n;
    uint32_t next = team_rank(team, (team->me + 1) % n),
             prev = team_rank(team, back(team->me, 1, n));
    struct span have = home_span(own, cut_block(cut, first));

    build_copy(builder, home_span(all, cut_block(cut, first)), have);
    for (uint32_t t = 0; t + 1 < n; t++) {
        struct span dst = home_span(all, cut_block(cut, back(first, t + 1, n)));

        move_send(builder, grain, next, have);
        move_recv(builder, grain, prev, dst);
        have = dst;
    }
}

/* ---- circulant: log-step for any size ---- */

/* Member `me` numbers the blocks from its own: index i is block me + i. Of the indices [from, to)
 * the first `touched` lie at acc once the first round is over (index 0: at result), the others
 * still at src. Messages are cut where the homes change, on both sides alike; see ranges below. */
struct circulant {
    const struct team *team;
    const struct grain *grain;
    const struct cut *cut;
};

static void circulant_send(struct builder *builder, const struct circulant *c, uint32_t to,
                           const struct home *home, uint32_t from, uint32_t count)
{
    struct runs runs = runs_of(c->cut, (c->team->me + from) % c->team->size, count);
    struct block run;

    while (runs_next(&runs, &run))
        move_send(builder, c->grain, team_rank(c->team, to), home_span(home, run));
}

static void circulant_fold(struct builder *builder, const struct circulant *c, uint32_t from,
                           struct span *landing, const struct home *mine, const struct home *dst,
                           uint32_t index, uint32_t count)
{
    struct runs runs = runs_of(c->cut, (c->team->me + index) % c->team->size, count);
    struct block run;

    while (runs_next(&runs, &run)) {
        must(run.len <= landing->len);
        move_fold(builder, c->grain, team_rank(c->team, from),
                  span_of(landing->buffer, landing->off, run.len), home_span(dst, run),
                  home_span(mine, run), from < c->team->me);
        landing->off += run.len;
        landing->len -= run.len;
    }
}

static void circulant_recv(struct builder *builder, const struct circulant *c, uint32_t from,
                           const struct home *home, uint32_t index, uint32_t count)
{
    struct runs runs = runs_of(c->cut, (c->team->me + index) % c->team->size, count);
    struct block run;

    while (runs_next(&runs, &run))
        move_recv(builder, c->grain, team_rank(c->team, from), home_span(home, run));
}

/* The `count` indices of one message in up to three ranges, alike on both sides: the receiver's
 * own block apart if results have a home of their own, and what the sender has not touched yet
 * apart if it still lies at src. edge[k] .. edge[k + 1], in the receiver's indices. */
static uint32_t circulant_ranges(uint32_t count, bool own_apart, uint32_t touched, uint32_t edge[4])
{
    uint32_t ranges = 0;

    edge[0] = 0;
    if (own_apart && count > 1)
        edge[++ranges] = 1;
    if (touched > edge[ranges] && touched < count)
        edge[++ranges] = touched;
    edge[++ranges] = count;
    return ranges;
}

void phase_reduce_scatter_circulant(struct builder *builder, const struct team *team,
                                    const struct grain *grain, const struct cut *cut,
                                    const struct home *src, const struct home *acc,
                                    const struct home *result)
{
    struct circulant c = {.team = team, .grain = grain, .cut = cut};
    uint32_t n = team->size, me = team->me, touched = n / 2;
    bool own_apart = !home_same(acc, result), src_apart = !home_same(src, acc);
    struct span landing;

    if (n == 1) {
        build_copy(builder, home_span(result, cut_block(cut, me)),
                   home_span(src, cut_block(cut, me)));
        return;
    }
    landing = build_scratch(builder, runs_bytes(cut, me, touched));
    for (uint32_t s = n; s > 1; s = (s + 1) / 2) {
        uint32_t h = (s + 1) / 2, count = s - h, edge[4];
        bool first = s == n;
        /* In the receiver's indices; the sender's are h more. */
        uint32_t limit = first || !src_apart ? count : touched > h ? touched - h : 0;
        uint32_t ranges = circulant_ranges(count, own_apart, limit, edge);
        struct span free_landing = landing;

        for (uint32_t k = 0; k < ranges; k++) {
            bool at_src = first || (src_apart && edge[k] >= limit);

            circulant_send(builder, &c, (me + h) % n, at_src ? src : acc, h + edge[k],
                           edge[k + 1] - edge[k]);
        }
        for (uint32_t k = 0; k < ranges; k++) {
            const struct home *dst = edge[k] == 0 && own_apart ? result : acc;

            circulant_fold(builder, &c, back(me, h, n), &free_landing, first ? src : dst, dst,
                           edge[k], edge[k + 1] - edge[k]);
        }
    }
}

void phase_allgather_circulant(struct builder *builder, const struct team *team,
                               const struct grain *grain, const struct cut *cut,
                               const struct home *own, const struct home *all)
{
    struct circulant c = {.team = team, .grain = grain, .cut = cut};
    uint32_t n = team->size, me = team->me, skips = 0, skip[33];

    for (uint32_t s = n; s > 1; s = (s + 1) / 2)
        skip[skips++] = s;
    skip[skips] = 1;
    for (uint32_t k = skips; k-- > 0;) {
        uint32_t s = skip[k], h = skip[k + 1];

        /* The first round sends my block from where it is; later ones send longer runs. */
        circulant_send(builder, &c, back(me, h, n), k + 1 == skips ? own : all, 0, s - h);
        if (k + 1 == skips)
            build_copy(builder, home_span(all, cut_block(cut, me)),
                       home_span(own, cut_block(cut, me)));
        circulant_recv(builder, &c, (me + h) % n, all, h, s - h);
    }
    if (n == 1)
        build_copy(builder, home_span(all, cut_block(cut, me)), home_span(own, cut_block(cut, me)));
}
