/* costs.c: the sums behind the algorithms' cost formulas. Replicated state only: every rank comes
 * to the same numbers, whatever its own rank and buffers are. */
#include "algorithms/costs.h"

#include "algorithms/phases.h"
#include "base/check.h"

/* A piece of this size is still in a core's own cache when it has landed. */
#define CACHE_BYTES 262144.0
#define LANDED      0.25 /* of a copy: it is written to the cache, and read from there */

double cost_bytes_us(const struct shape *shape, const struct cost *cost, enum level level)
{
    const struct link_model *model = &shape->model[level];
    double rank = (cost->bytes[level] + cost->pipeline_bytes[level]) * model->us_per_byte;
    double host = level == LEVEL_NET ? cost->host_bytes * model->host_us_per_byte : 0;

    return rank > host ? rank : host;
}

double cost_local_us(const struct shape *shape, const struct cost *cost)
{
    return cost->reduce_bytes * shape->reduce_us_per_byte +
           (cost->copy_bytes + LANDED * cost->landed_bytes) * shape->copy_us_per_byte;
}

double cost_us(const struct shape *shape, const struct cost *cost)
{
    double us = cost_local_us(shape, cost) - cost->hidden_us;

    for (int level = 0; level < LEVEL_COUNT; level++) {
        const struct link_model *model = &shape->model[level];
        double further = cost->messages[level] - cost->rounds[level];
        us += cost->rounds[level] * model->alpha_us + cost_bytes_us(shape, cost, level);
        if (further > 0)
            us += further * model->overhead_us;
    }
    return us;
}

static enum level level_of(const struct tally *tally, uint32_t peer)
{
    const struct groups *groups = tally->shape->groups;

    return groups->node_of[tally->rank] == groups->node_of[peer] ? LEVEL_NODE : LEVEL_NET;
}

void tally_send(struct tally *tally, uint32_t round, uint32_t peer, double bytes)
{
    uint32_t to = peer % tally->shape->size;
    enum level level = level_of(tally, to);

    if (to == tally->rank || bytes <= 0)
        return;
    must(round < COST_ROUNDS_MAX);
    tally->sent[level] += bytes;
    tally->sends[level]++;
    tally->used |= 1ull << round;
    if (level == LEVEL_NET)
        tally->crossing |= 1ull << round;
}

void tally_recv(struct tally *tally, uint32_t peer, double bytes)
{
    enum level level = level_of(tally, peer);

    if (peer == tally->rank || bytes <= 0)
        return;
    tally->received[level] += bytes;
    tally->receives[level]++;
}

static double tree_bytes(const struct tree_load *load, uint64_t ranks)
{
    return load->per_rank ? load->bytes * (double)ranks : load->bytes;
}

static uint64_t own_span(const struct binomial *tree)
{
    return least(tree->reach, tree->size - tree->v);
}

/* A rank's depth is the number of bits in v. */
void tally_binomial_down(struct tally *tally, const void *context)
{
    struct binomial tree = binomial_of(tally->shape->size, tally->rank, tally->shape->root);

    for (uint32_t m = tree.reach / 2; m > 0; m /= 2)
        if (tree.v + m < tree.size)
            tally_send(tally, (uint32_t)__builtin_popcount(tree.v),
                       binomial_rank(&tree, tree.v + m),
                       tree_bytes(context, binomial_span(&tree, tree.v + m)));
    if (tree.v != 0)
        tally_recv(tally, binomial_parent(&tree), tree_bytes(context, own_span(&tree)));
}

void tally_binomial_up(struct tally *tally, const void *context)
{
    struct binomial tree = binomial_of(tally->shape->size, tally->rank, tally->shape->root);

    for (uint32_t m = tree.reach / 2; m > 0; m /= 2)
        if (tree.v + m < tree.size)
            tally_recv(tally, binomial_rank(&tree, tree.v + m),
                       tree_bytes(context, binomial_span(&tree, tree.v + m)));
    if (tree.v != 0)
        tally_send(tally, (uint32_t)__builtin_popcount(tree.v) - 1, binomial_parent(&tree),
                   tree_bytes(context, own_span(&tree)));
}

void tally_flat_down(struct tally *tally, const void *context)
{
    const struct shape *shape = tally->shape;

    tally_recv(tally, shape->root, *(const double *)context);
    for (uint32_t i = 0; i < shape->size && tally->rank == shape->root; i++)
        tally_send(tally, 0, i, *(const double *)context);
}

void tally_flat_up(struct tally *tally, const void *context)
{
    const struct shape *shape = tally->shape;

    tally_send(tally, 0, shape->root, *(const double *)context);
    for (uint32_t i = 0; i < shape->size && tally->rank == shape->root; i++)
        tally_recv(tally, i, *(const double *)context);
}

/* At one level: of the busiest rank, and of all that are looked at. */
struct load {
    double sent, received, messages, all_sent, all_received;
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* The bytes that take as long at the level's us_per_byte, which is of ranks that all copy. */
static double load_bytes(const struct load *load, const struct link_model *model, uint32_t ranks)
{
    double others = ranks > 1 ? (load->all_received - load->received) / (ranks - 1) : 0;

    return larger(load->received + model->crowd * others, load->sent / (1 + model->readers)) /
           (1 + model->crowd);
}

static void load_take(struct load *load, const struct tally *tally, enum level level)
{
    load->sent = larger(load->sent, tally->sent[level]);
    load->received = larger(load->received, tally->received[level]);
    load->messages = larger(load->messages, larger(tally->sends[level], tally->receives[level]));
    load->all_sent += tally->sent[level];
    load->all_received += tally->received[level];
}

/* Ranks are looked at node by node, from that of the root on, which does the most. */
void cost_pattern(const struct shape *shape, tally_fn *pattern, const void *context,
                  struct cost *cost)
{
    const struct groups *groups = shape->groups;
    struct load loads[LEVEL_COUNT] = {0};
    uint64_t used = 0, crossing = 0;
    uint32_t ranks = 0;
    double host_bytes = 0;

    for (uint32_t i = 0; i < groups->nodes && ranks < COST_RANKS_MAX; i++) {
        uint32_t node = (groups->node_of[shape->root] + i) % groups->nodes;
        double sent = loads[LEVEL_NET].all_sent, received = loads[LEVEL_NET].all_received;

        for (uint32_t m = groups->first[node]; m < groups->first[node + 1]; m++, ranks++) {
            struct tally tally = {.shape = shape, .rank = groups->members[m]};

            pattern(&tally, context);
            used |= tally.used;
            crossing |= tally.crossing;
            for (int level = 0; level < LEVEL_COUNT; level++)
                load_take(&loads[level], &tally, level);
        }
        host_bytes = larger(host_bytes, larger(loads[LEVEL_NET].all_sent - sent,
                                               loads[LEVEL_NET].all_received - received));
    }
    bool told = loads[LEVEL_NODE].all_received + loads[LEVEL_NET].all_received > 0;
    for (int level = 0; level < LEVEL_COUNT; level++) {
        struct load *load = &loads[level];

        if (!told) {
            load->received = load->sent;
            load->all_received = load->all_sent;
        }
        cost->bytes[level] += load->sent;
        cost->pipeline_bytes[level] += load_bytes(load, &shape->model[level], ranks) - load->sent;
        cost->messages[level] += load->messages;
    }
    cost->host_bytes += host_bytes;
    cost->rounds[LEVEL_NET] += __builtin_popcountll(crossing);
    cost->rounds[LEVEL_NODE] += __builtin_popcountll(used & ~crossing);
}

enum level cost_worst_level(const struct shape *shape)
{
    return shape->groups->nodes > 1 ? LEVEL_NET : LEVEL_NODE;
}

static void node_sizes(const struct groups *groups, uint32_t *smallest, uint32_t *largest)
{
    *smallest = groups->size;
    *largest = 1;
    for (uint32_t k = 0; k < groups->nodes; k++) {
        uint32_t members = groups->first[k + 1] - groups->first[k];

        if (members < *smallest)
            *smallest = members;
        if (members > *largest)
            *largest = members;
    }
}

uint32_t cost_largest_node(const struct shape *shape)
{
    uint32_t smallest, largest;

    node_sizes(shape->groups, &smallest, &largest);
    return largest;
}

/* The most (rank, rank of another node) pairs that a node has. */
static double busiest_pairs(const struct shape *shape)
{
    const struct groups *groups = shape->groups;
    double most_pairs = 0;

    for (uint32_t k = 0; k < groups->nodes; k++) {
        double members = groups->first[k + 1] - groups->first[k];

        most_pairs = larger(most_pairs, members * (groups->size - members));
    }
    return most_pairs;
}

void cost_exchange_all(const struct shape *shape, double bytes, struct cost *cost)
{
    uint32_t smallest, largest;

    if (shape->size == 1)
        return;
    node_sizes(shape->groups, &smallest, &largest);
    cost->rounds[cost_worst_level(shape)] += 1;
    cost->bytes[LEVEL_NODE] += (largest - 1) * bytes;
    cost->bytes[LEVEL_NET] += (shape->size - smallest) * bytes;
    cost->messages[LEVEL_NODE] += largest - 1;
    cost->messages[LEVEL_NET] += shape->size - smallest;
    cost->host_bytes += busiest_pairs(shape) * bytes;
}

/* In every round some link crosses nodes if there is more than one, and a link that stays inside
 * exists if some rank has its successor beside it. */
void cost_ring(const struct shape *shape, uint32_t rounds, double bytes, struct cost *cost)
{
    const struct groups *groups = shape->groups;

    if (rounds == 0)
        return;
    cost->rounds[cost_worst_level(shape)] += rounds;
    cost->messages[cost_worst_level(shape)] += rounds;
    if (groups->nodes > 1)
        cost->bytes[LEVEL_NET] += bytes;
    uint32_t busiest = 0, inside = 0;
    for (uint32_t k = 0; k < groups->nodes; k++) {
        uint32_t leaving = 0, members = groups->first[k + 1] - groups->first[k];

        for (uint32_t m = groups->first[k]; m < groups->first[k + 1]; m++)
            leaving += groups->node_of[(groups->members[m] + 1) % shape->size] != k;
        busiest = leaving > busiest ? leaving : busiest;
        inside += members - leaving;
    }
    cost->host_bytes += busiest * bytes;
    if (inside > 0)
        cost->bytes[LEVEL_NODE] += bytes;
}

static void circulant_sends(struct tally *tally, const void *context)
{
    double block = *(const double *)context / tally->shape->size;
    uint32_t round = 0;

    for (uint32_t s = tally->shape->size; s > 1; s = (s + 1) / 2, round++) {
        uint32_t peer = tally->rank + (s + 1) / 2;

        /* Several blocks may lie at both ends of the buffer: two messages. */
        tally_send(tally, round, peer, block);
        tally_send(tally, round, peer, (s / 2 - 1) * block);
    }
}

void cost_circulant(const struct shape *shape, double bytes, struct cost *cost)
{
    cost_pattern(shape, circulant_sends, &bytes, cost);
}

double cost_total(const struct shape *shape)
{
    double elems = 0;

    if (shape->local_counts)
        return 0;
    if (coll_info(shape->coll)->is_v) {
        for (uint32_t i = 0; i < shape->size; i++)
            elems += (double)shape->counts[i];
        return elems * shape->elem_size;
    }
    switch (shape->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_REDUCE:
        return (double)shape->count * shape->elem_size;
    default:
        return (double)shape->count * shape->elem_size * shape->size;
    }
}

double cost_largest_block(const struct shape *shape)
{
    struct cut cut = cut_of_shape(shape);

    return shape->local_counts ? 0 : (double)cut_longest(&cut);
}

double cost_all_but_smallest(const struct shape *shape)
{
    double total = cost_total(shape), smallest = total;

    if (shape->local_counts)
        return 0;
    if (!coll_info(shape->coll)->is_v)
        return total / shape->size * (shape->size - 1);
    for (uint32_t i = 0; i < shape->size; i++)
        if ((double)shape->counts[i] * shape->elem_size < smallest)
            smallest = (double)shape->counts[i] * shape->elem_size;
    return total - smallest;
}

void cost_hide(const struct shape *shape, double pieces, struct cost *cost)
{
    double inside = cost_bytes_us(shape, cost, LEVEL_NODE);
    double between = cost_bytes_us(shape, cost, LEVEL_NET);

    cost->hidden_us = (pieces - 1) / pieces * (inside < between ? inside : between);
}

uint32_t cost_stages(const struct cost *cost)
{
    double rounds = cost->rounds[LEVEL_NODE] + cost->rounds[LEVEL_NET];

    return rounds > 1 ? (uint32_t)rounds - 1 : 0;
}

void cost_pieces(const struct shape *shape, const struct knobs *knobs, double len, uint32_t stages,
                 struct cost *cost)
{
    double piece = len < (double)knobs->chunk_bytes ? len : (double)knobs->chunk_bytes;
    const struct link_model *model = &shape->model[cost_worst_level(shape)];

    for (int level = 0; level < LEVEL_COUNT; level++)
        if (cost->messages[level] < cost->bytes[level] / (double)knobs->chunk_bytes)
            cost->messages[level] = cost->bytes[level] / (double)knobs->chunk_bytes;
    cost->pipeline_bytes[cost_worst_level(shape)] += stages * piece;
    if (piece > CACHE_BYTES && model->us_per_byte > 0)
        cost->pipeline_bytes[cost_worst_level(shape)] +=
            cost->reduce_bytes * shape->copy_us_per_byte / model->us_per_byte;
}
