/* graph.c: matching, the merged graph, its orders and its longest chains.
 *
 * Why merging proves what it says: let a transport have no room at all, so that a transfer
 * happens only when both sides have come to it. Then a send and its receive happen at one moment,
 * as one node, and a node can happen when everything that leads to it has. If there is no cycle
 * some node can always happen next. Room for transfers only removes conditions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "algorithms/graph.h"

/* ---- making -----------------------------------------------------------------------------------
 */

static const struct schedule_link *find_link(const struct schedule *schedule, uint32_t peer,
                                             uint32_t lane)
{
    uint32_t low = 0, high = schedule->link_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct schedule_link *link = &schedule->links[middle];
        if (link->peer == peer && link->lane == lane)
            return link;
        if (link->peer < peer || (link->peer == peer && link->lane < lane))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The sends of `from` on one link meet the receives of its peer. */
static tutti_status match_link(struct graph *graph, uint32_t from, const struct schedule_link *out)
{
    const struct schedule *sends = graph->world->programs[from];
    const struct schedule *receives = graph->world->programs[out->peer];
    const struct schedule_link *in = find_link(receives, from, out->lane);
    uint32_t expected = in ? in->recv_count : 0, last = STEP_NONE;
    if (out->send_count != expected)
        return fail(TUTTI_ERR_INTERNAL,
                    "%s: rank %u sends %u times to rank %u on lane %u, which "
                    "receives %u times",
                    coll_name(graph->world->shapes[0].coll), from, out->send_count, out->peer,
                    out->lane, expected);
    for (uint32_t k = 0; k < out->send_count; k++) {
        uint32_t send = sends->wire[out->send + k], recv = receives->wire[in->recv + k];
        uint64_t sent = sends->steps[send].a.len, room = receives->steps[recv].dst.len;
        if (sent != room)
            return fail(TUTTI_ERR_INTERNAL,
                        "%s: rank %u sends %llu bytes in step %u, rank %u expects %llu in step %u",
                        coll_name(graph->world->shapes[0].coll), from, (unsigned long long)sent,
                        send, out->peer, (unsigned long long)room, recv);
        send += graph->base[from];
        recv += graph->base[out->peer];
        graph->send[recv] = send;
        graph->node[send] = recv;
        if (last != STEP_NONE)
            graph->next[last] = recv;
        last = recv;
        graph->messages++;
    }
    return TUTTI_OK;
}

static tutti_status match_all(struct graph *graph)
{
    for (uint32_t r = 0; r < graph->world->size; r++) {
        const struct schedule *program = graph->world->programs[r];
        for (uint32_t l = 0; l < program->link_count; l++) {
            const struct schedule_link *link = &program->links[l];
            tutti_status status = match_link(graph, r, link);
            if (status != TUTTI_OK)
                return status;
            /* A link that only receives here must be one that the peer sends on. */
            const struct schedule_link *back =
                find_link(graph->world->programs[link->peer], r, link->lane);
            if (link->recv_count > 0 && !back)
                return fail(TUTTI_ERR_INTERNAL,
                            "%s: rank %u receives %u times from rank %u on lane %u, which sends "
                            "nothing",
                            coll_name(graph->world->shapes[0].coll), r, link->recv_count,
                            link->peer, link->lane);
        }
    }
    return TUTTI_OK;
}

/* Edges of node from the step `number`, which is part of it. */
static void take_edges(struct graph *graph, uint32_t number, uint32_t *count)
{
    uint32_t rank = graph->rank_of[number];
    const struct schedule *program = graph->world->programs[rank];
    const struct step *step = &program->steps[number - graph->base[rank]];
    for (uint32_t i = 0; i < step->succ_count; i++)
        graph->edges[(*count)++] =
            graph->node[graph->base[rank] + program->successors[step->succ + i]];
}

static void fill(struct graph *graph)
{
    uint32_t count = 0;
    for (uint32_t n = 0; n < graph->steps; n++) {
        graph->first[n] = count;
        if (graph->node[n] != n)
            continue;
        graph->nodes++;
        take_edges(graph, n, &count);
        if (graph->send[n] != STEP_NONE)
            take_edges(graph, graph->send[n], &count);
    }
    graph->first[graph->steps] = count;
}

tutti_status graph_make(const struct world *world, struct graph *out)
{
    uint64_t steps = 0, edges = 0;
    for (uint32_t r = 0; r < world->size; r++) {
        steps += world->programs[r]->step_count;
        edges += world->programs[r]->successor_count;
    }
    if (steps >= STEP_NONE || edges >= STEP_NONE)
        return fail(TUTTI_ERR_UNSUPPORTED, "a proof has room for %u steps and edges", STEP_NONE);
    uint32_t *memory = malloc((world->size + 1 + 5 * steps + 1 + edges) * sizeof *memory);
    if (!memory)
        return fail(TUTTI_ERR_NOMEM, "no memory for a graph of %llu steps",
                    (unsigned long long)steps);
    struct graph graph = {.world = world, .steps = (uint32_t)steps, .base = memory};
    graph.rank_of = graph.base + world->size + 1;
    graph.node = graph.rank_of + steps;
    graph.send = graph.node + steps;
    graph.next = graph.send + steps;
    graph.first = graph.next + steps;
    graph.edges = graph.first + steps + 1;
    memset(graph.send, 0xff, 2 * steps * sizeof *memory); /* STEP_NONE, next too */
    uint32_t number = 0;
    for (uint32_t r = 0; r < world->size; r++) {
        graph.base[r] = number;
        for (uint32_t s = 0; s < world->programs[r]->step_count; s++, number++) {
            const struct step *step = &world->programs[r]->steps[s];
            bool carried = step->kind == STEP_REDUCE && step->fused != STEP_NONE;
            graph.rank_of[number] = r;
            graph.node[number] = carried ? graph.base[r] + step->fused : number;
        }
    }
    graph.base[world->size] = number;
    tutti_status status = match_all(&graph);
    if (status != TUTTI_OK) {
        graph_free(&graph);
        return status;
    }
    fill(&graph);
    *out = graph;
    return TUTTI_OK;
}

void graph_free(struct graph *graph)
{
    free(graph->base);
    *graph = (struct graph){0};
}

const struct step *graph_step(const struct graph *graph, uint32_t number)
{
    uint32_t rank = graph->rank_of[number];
    return &graph->world->programs[rank]->steps[number - graph->base[rank]];
}

/* ---- ordering ---------------------------------------------------------------------------------
 */

static uint64_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Nodes that still wait after everything that can happen has: each has a predecessor that waits
 * too, so going back from any of them ends up on a circle. waits > 0 marks them. */
static tutti_status name_circle(const struct graph *graph, const uint32_t *waits, uint32_t *before)
{
    uint32_t at = STEP_NONE;
    for (uint32_t n = 0; n < graph->steps; n++) {
        if (graph->node[n] != n || waits[n] == 0)
            continue;
        at = n;
        for (uint32_t i = graph->first[n]; i < graph->first[n + 1]; i++)
            before[graph->edges[i]] = n;
        if (graph->next[n] != STEP_NONE)
            before[graph->next[n]] = n;
    }
    for (uint32_t i = 0; i < graph->steps; i++)
        at = before[at];
    char text[SENTENCE_MAX] = "";
    size_t used = 0;
    uint32_t start = at;
    for (int i = 0; i < 6 && (i == 0 || at != start); i++, at = before[at]) {
        uint32_t rank = graph->rank_of[at];
        int more = snprintf(text + used, sizeof text - used, "%srank %u step %u",
                            i == 0 ? "" : " waits for ", rank, at - graph->base[rank]);
        used += more > 0 && used + (size_t)more < sizeof text ? (size_t)more : 0;
    }
    return fail(TUTTI_ERR_INTERNAL, "%s can deadlock: %s%s",
                coll_name(graph->world->shapes[0].coll), text,
                at == start ? " waits for the first" : " waits for more");
}

tutti_status graph_order(const struct graph *graph, uint64_t seed, uint32_t *order)
{
    uint32_t *waits = calloc(3 * (size_t)graph->steps + 1, sizeof *waits);
    if (!waits)
        return fail(TUTTI_ERR_NOMEM, "no memory to order %u steps", graph->steps);
    uint32_t *ready = waits + graph->steps, *before = ready + graph->steps;
    uint32_t ready_count = 0, done = 0;
    for (uint32_t i = 0; i < graph->first[graph->steps]; i++)
        waits[graph->edges[i]]++;
    for (uint32_t n = 0; n < graph->steps; n++) {
        if (graph->next[n] != STEP_NONE)
            waits[graph->next[n]]++;
    }
    for (uint32_t n = 0; n < graph->steps; n++) {
        if (graph->node[n] == n && waits[n] == 0)
            ready[ready_count++] = n;
    }
    while (ready_count > 0) {
        uint32_t pick = (uint32_t)(draw(&seed) % ready_count), n = ready[pick];
        ready[pick] = ready[--ready_count];
        order[done++] = n;
        for (uint32_t i = graph->first[n]; i < graph->first[n + 1]; i++) {
            if (--waits[graph->edges[i]] == 0)
                ready[ready_count++] = graph->edges[i];
        }
        if (graph->next[n] != STEP_NONE && --waits[graph->next[n]] == 0)
            ready[ready_count++] = graph->next[n];
    }
    tutti_status status = done == graph->nodes ? TUTTI_OK : name_circle(graph, waits, before);
    free(waits);
    return status;
}

/* ---- measuring --------------------------------------------------------------------------------
 */

static enum level level_of(const struct graph *graph, uint32_t a, uint32_t b)
{
    const struct groups *groups = graph->world->shapes[0].groups;
    return groups->node_of[a] == groups->node_of[b] ? LEVEL_NODE : LEVEL_NET;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void measure_rank(const struct graph *graph, uint32_t r, struct proof *proof,
                         uint64_t *leaving, uint64_t *coming)
{
    const struct schedule *program = graph->world->programs[r];
    uint64_t sent[LEVEL_COUNT] = {0}, reduced = 0, copied = 0;
    for (uint32_t s = 0; s < program->step_count; s++) {
        const struct step *step = &program->steps[s];
        if (step->kind == STEP_SEND)
            sent[level_of(graph, r, step->peer)] += step->a.len;
        if (step->kind == STEP_RECV && level_of(graph, r, step->peer) == LEVEL_NET)
            *coming += step->dst.len;
        reduced += step->kind == STEP_REDUCE ? step->dst.len : 0;
        copied += step->kind == STEP_COPY ? step->dst.len : 0;
    }
    *leaving += sent[LEVEL_NET];
    for (int level = 0; level < LEVEL_COUNT; level++)
        proof->bytes[level] = larger(proof->bytes[level], sent[level]);
    proof->reduce_bytes = larger(proof->reduce_bytes, reduced);
    proof->copy_bytes = larger(proof->copy_bytes, copied);
    proof->busiest_steps = (uint32_t)larger(proof->busiest_steps, program->step_count);
    proof->steps += program->step_count;
}

static void measure_volumes(const struct graph *graph, struct proof *proof)
{
    const struct groups *groups = graph->world->shapes[0].groups;
    for (uint32_t k = 0; k < groups->nodes; k++) {
        uint64_t leaving = 0, coming = 0;
        for (uint32_t m = groups->first[k]; m < groups->first[k + 1]; m++)
            measure_rank(graph, groups->members[m], proof, &leaving, &coming);
        proof->host_bytes = larger(proof->host_bytes, larger(leaving, coming));
    }
}

/* When a step is done, in flights: of all levels, and of each level. */
struct when {
    uint32_t all, at[LEVEL_COUNT];
};

static void not_before(struct when *when, const struct when *other)
{
    when->all = when->all > other->all ? when->all : other->all;
    for (int level = 0; level < LEVEL_COUNT; level++)
        when->at[level] = when->at[level] > other->at[level] ? when->at[level] : other->at[level];
}

/* A step is done; what waits for it comes after it. */
static void pass_on(const struct graph *graph, uint32_t number, struct when *when)
{
    uint32_t rank = graph->rank_of[number];
    const struct step *step = graph_step(graph, number);
    for (uint32_t i = 0; i < step->succ_count; i++) {
        uint32_t to = graph->world->programs[rank]->successors[step->succ + i];
        not_before(&when[graph->base[rank] + to], &when[number]);
    }
}

/* A message: the send leaves when what it waits for is done, and is done with that. */
static void fly(const struct graph *graph, uint32_t send, uint32_t recv, struct when *when)
{
    struct when arrival = when[send];
    arrival.all++;
    arrival.at[level_of(graph, graph->rank_of[send], graph->rank_of[recv])]++;
    not_before(&when[recv], &arrival);
}

tutti_status graph_measure(const struct graph *graph, const uint32_t *order, struct proof *proof)
{
    struct when *when = calloc(graph->steps + 1u, sizeof *when);
    if (!when)
        return fail(TUTTI_ERR_NOMEM, "no memory to measure %u steps", graph->steps);
    struct when last = {0};
    for (uint32_t i = 0; i < graph->nodes; i++) {
        uint32_t n = order[i], send = graph->send[n];
        if (send != STEP_NONE) {
            fly(graph, send, n, when);
            pass_on(graph, send, when);
        }
        not_before(&last, &when[n]);
        pass_on(graph, n, when);
    }
    free(when);
    *proof = (struct proof){.messages = graph->messages, .flights = last.all};
    memcpy(proof->flights_at, last.at, sizeof last.at);
    measure_volumes(graph, proof);
    return TUTTI_OK;
}

/* `to` has one thing less to wait for, which was done at `earliest`. */
static void release(uint32_t to, uint32_t earliest, uint32_t *waits, uint32_t *time,
                    uint32_t *ready, uint32_t *count)
{
    time[to] = time[to] > earliest ? time[to] : earliest;
    if (--waits[to] == 0)
        ready[(*count)++] = to;
}

/* Steps, not nodes: a send here is done when it leaves. */
tutti_status graph_port_flights(const struct graph *graph, uint32_t *flights)
{
    uint32_t steps = graph->steps, count = 0, longest = 0;
    uint32_t *waits = calloc(5 * (size_t)steps + 1, sizeof *waits);
    if (!waits)
        return fail(TUTTI_ERR_NOMEM, "no memory to measure %u steps", steps);
    uint32_t *time = waits + steps, *ready = time + steps;
    uint32_t *arrives_at = ready + steps, *next_send = arrives_at + steps; /* number + 1, or 0 */
    for (uint32_t n = 0, last = 0; n < steps; n++) {
        const struct step *step = graph_step(graph, n);
        waits[n] += step->waits;
        if (graph->send[n] != STEP_NONE) {
            arrives_at[graph->send[n]] = n + 1;
            waits[n]++;
        }
        if (step->kind != STEP_SEND)
            continue;
        if (last > 0 && graph->rank_of[last - 1] == graph->rank_of[n]) {
            next_send[last - 1] = n + 1;
            waits[n]++;
        }
        last = n + 1;
    }
    for (uint32_t n = 0; n < steps; n++) {
        if (waits[n] == 0 && !(graph_step(graph, n)->kind == STEP_REDUCE && graph->node[n] != n))
            ready[count++] = n;
    }
    while (count > 0) {
        uint32_t n = ready[--count], rank = graph->rank_of[n];
        const struct step *step = graph_step(graph, n);
        longest = time[n] > longest ? time[n] : longest;
        for (uint32_t i = 0; i < step->succ_count; i++)
            release(graph->base[rank] + graph->world->programs[rank]->successors[step->succ + i],
                    time[n], waits, time, ready, &count);
        if (arrives_at[n] > 0)
            release(arrives_at[n] - 1, time[n] + 1, waits, time, ready, &count);
        if (next_send[n] > 0)
            release(next_send[n] - 1, time[n] + 1, waits, time, ready, &count);
    }
    free(waits);
    *flights = longest;
    return TUTTI_OK;
}
