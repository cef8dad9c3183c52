/* broadcast_flat.c: the root sends everything to everyone at once. Best for few ranks that can all
 * read the root's memory, and for small messages among few.
 *
 * Cost: 1 round; the root sends n - 1 times B, which ranks of its host read at once.
 * Source: the linear form of Chan et al. 2007, section 3. */
#include "algorithms/costs.h"
#include "algorithms/phases.h"

static uint64_t messages(const struct shape *shape)
{
    return shape->size;
}

static bool fits(const struct shape *shape)
{
    return grain_fits(messages(shape));
}

static void cost(const struct shape *shape, const struct knobs *knobs, struct cost *out)
{
    double bytes = cost_total(shape);

    *out = (struct cost){.copy_bytes = bytes};
    cost_pattern(shape, tally_flat_down, &bytes, out);
}

static void emit(const struct shape *shape, const struct knobs *knobs, struct builder *builder)
{
    uint32_t n = shape->size;
    uint64_t bytes = shape->count * shape->elem_size;
    struct grain grain = grain_make(shape, knobs, bytes * messages(shape), messages(shape));
    struct span in = span_of(BUFFER_IN, 0, bytes), out = span_of(BUFFER_OUT, 0, bytes);

    if (shape->rank != shape->root) {
        move_recv(builder, &grain, shape->root, out);
        return;
    }
    for (uint32_t p = 0; p < grain_pieces(&grain, bytes); p++)
        for (uint32_t d = 1; d < n; d++)
            build_send(builder, (shape->rank + d) % n, grain_lane(&grain, p),
                       grain_piece(&grain, in, p));
    build_copy(builder, out, in);
}

const struct algorithm broadcast_flat = {
    .coll = TUTTI_COLL_BROADCAST,
    .name = "flat",
    .source = "Chan et al. 2007, section 3",
    .fits = fits,
    .cost = cost,
    .emit = emit,
};
