/* sim.c: see sim.h. For small worlds: every turn looks at every rank's program for what can be done
 * next. Output and scratch begin as noise, so that bytes read too early show. */
#include "tests/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/horrible.h"
#include "tests/suite.h"

/* One rank's memory and the state of its program. */
struct actor {
    const struct shape *shape;
    const struct schedule *program;
    unsigned char *memory; /* what buffers point into; in place, IN and OUT share it */
    unsigned char *buffer[BUFFER_COUNT];
    uint64_t memory_bytes;
    unsigned char *input;          /* a copy of IN */
    unsigned char *before, *after; /* OUT as it was, as it must be */
    uint32_t *waits;               /* [steps] */
    bool *done;                    /* [steps] */
    uint32_t *sent, *received;     /* [links] */
    uint32_t left;                 /* steps to do */
    bool frozen;
};

/* A message that has left: bytes at the time of sending. */
struct flight {
    uint32_t from, to, lane, number; /* number: the how manyth of its link */
    uint64_t len;
    unsigned char *bytes;
    struct flight *next;
};

struct sim {
    struct actor *actors;
    uint32_t size, window;
    uint64_t state; /* of the random numbers */
    struct flight *flights;
};

/* ---- set up -------------------------------------------------------------------------------------
 */

static void noise(struct sim *sim, unsigned char *at, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++)
        at[i] = (unsigned char)suite_random(&sim->state);
}

static bool actor_start(struct sim *sim, uint32_t rank, const struct world *world)
{
    struct actor *actor = &sim->actors[rank];
    const struct shape *shape = actor->shape = &world->shapes[rank];
    const struct schedule *program = actor->program = world->programs[rank];
    uint64_t in = coll_in_bytes(shape), out = coll_out_bytes(shape);
    int64_t delta = coll_alias_delta(shape);
    uint64_t in_at = 0, out_at = in;
    if (shape->in_place) {
        in_at = delta > 0 ? (uint64_t)delta : 0;
        out_at = delta < 0 ? (uint64_t)-delta : 0;
    }
    uint64_t in_end = in_at + in, out_end = out_at + out;
    actor->memory_bytes = in_end > out_end ? in_end : out_end;
    actor->memory = malloc(actor->memory_bytes + program->scratch_bytes + 1);
    actor->input = malloc(in + 1);
    actor->before = malloc(out + 1);
    actor->after = malloc(out + 1);
    actor->waits = calloc(program->step_count + 1u, sizeof *actor->waits);
    actor->done = calloc(program->step_count + 1u, sizeof *actor->done);
    actor->sent = calloc(2 * (size_t)program->link_count + 1, sizeof *actor->sent);
    if (!actor->memory || !actor->input || !actor->before || !actor->after || !actor->waits ||
        !actor->done || !actor->sent)
        return false;
    actor->received = actor->sent + program->link_count;
    actor->buffer[BUFFER_IN] = actor->memory + in_at;
    actor->buffer[BUFFER_OUT] = actor->memory + out_at;
    actor->buffer[BUFFER_SCRATCH] = actor->memory + actor->memory_bytes;
    noise(sim, actor->memory, actor->memory_bytes + program->scratch_bytes);
    memcpy(actor->input, actor->buffer[BUFFER_IN], in);
    memcpy(actor->before, actor->buffer[BUFFER_OUT], out);
    memcpy(actor->after, actor->before, out);
    for (uint32_t s = 0; s < program->step_count; s++) {
        const struct step *step = &program->steps[s];
        actor->waits[s] = step->waits;
        actor->done[s] = step->kind == STEP_REDUCE && step->fused != STEP_NONE;
        actor->left += !actor->done[s];
    }
    return true;
}

static void sim_free(struct sim *sim)
{
    while (sim->flights) {
        struct flight *next = sim->flights->next;
        free(sim->flights->bytes);
        free(sim->flights);
        sim->flights = next;
    }
    for (uint32_t r = 0; sim->actors && r < sim->size; r++) {
        struct actor *actor = &sim->actors[r];
        free(actor->memory);
        free(actor->input);
        free(actor->before);
        free(actor->after);
        free(actor->waits);
        free(actor->done);
        free(actor->sent);
    }
    free(sim->actors);
}

static tutti_status no_memory(void)
{
    return fail(TUTTI_ERR_NOMEM, "no memory to simulate");
}

static tutti_status sim_start(struct sim *sim, const struct world *world, uint32_t window,
                              uint64_t seed)
{
    *sim = (struct sim){.size = world->size, .window = window, .state = seed};
    sim->actors = calloc(world->size, sizeof *sim->actors);
    for (uint32_t r = 0; sim->actors && r < world->size; r++) {
        if (!actor_start(sim, r, world))
            return no_memory();
    }
    return sim->actors ? TUTTI_OK : no_memory();
}

/* ---- steps --------------------------------------------------------------------------------------
 */

static unsigned char *at(const struct actor *actor, struct span span)
{
    return actor->buffer[span.buffer] + span.off;
}

static void reduce(const struct actor *actor, const struct step *step, const unsigned char *a,
                   const unsigned char *b)
{
    uint32_t size = actor->shape->elem_size;
    unsigned char *dst = at(actor, step->dst);
    for (uint64_t e = 0; e < step->dst.len; e += size) {
        unsigned carry = 0;
        for (uint32_t i = 0; i < size; i++) {
            carry += a[e + i] + b[e + i];
            dst[e + i] = (unsigned char)carry;
            carry >>= 8;
        }
    }
}

static void finish_step(struct actor *actor, uint32_t s)
{
    const struct step *step = &actor->program->steps[s];
    actor->done[s] = true;
    actor->left--;
    for (uint32_t i = 0; i < step->succ_count; i++)
        actor->waits[actor->program->successors[step->succ + i]]--;
}

static void land(struct actor *actor, uint32_t s, const unsigned char *bytes)
{
    const struct step *step = &actor->program->steps[s];
    if (step->fused == STEP_NONE) {
        memcpy(at(actor, step->dst), bytes, step->dst.len);
    } else {
        const struct step *carried = &actor->program->steps[step->fused];
        bool first = carried->a.buffer == step->dst.buffer && carried->a.off == step->dst.off;
        reduce(actor, carried, first ? bytes : at(actor, carried->a),
               first ? at(actor, carried->b) : bytes);
    }
    actor->received[step->link]++;
    finish_step(actor, s);
}

/* The receive of `to` that is next for messages of `from`, if it is ready: its step. */
static bool next_receive(struct sim *sim, uint32_t from, uint32_t to, uint32_t lane, uint32_t *s)
{
    struct actor *actor = &sim->actors[to];
    if (actor->frozen)
        return false;
    for (uint32_t l = 0; l < actor->program->link_count; l++) {
        const struct schedule_link *link = &actor->program->links[l];
        if (link->peer != from || link->lane != lane || actor->received[l] == link->recv_count)
            continue;
        *s = actor->program->wire[link->recv + actor->received[l]];
        return actor->waits[*s] == 0;
    }
    return false;
}

static uint32_t in_flight(const struct sim *sim, uint32_t from, uint32_t to, uint32_t lane)
{
    uint32_t count = 0;
    for (const struct flight *flight = sim->flights; flight; flight = flight->next)
        count += flight->from == from && flight->to == to && flight->lane == lane;
    return count;
}

/* Sends step s of rank, if the window or the other side allows it. Lengths that differ move
 * nothing: both sides then wait for ever, which is noticed. */
static bool try_send(struct sim *sim, uint32_t rank, uint32_t s)
{
    struct actor *actor = &sim->actors[rank];
    const struct step *step = &actor->program->steps[s];
    const struct schedule_link *link = &actor->program->links[step->link];
    uint32_t number = actor->sent[step->link], other;
    if (actor->program->wire[link->send + number] != s)
        return false;
    if (sim->window == SIM_RENDEZVOUS) {
        if (!next_receive(sim, rank, step->peer, step->lane, &other) ||
            sim->actors[step->peer].program->steps[other].dst.len != step->a.len)
            return false;
        land(&sim->actors[step->peer], other, at(actor, step->a));
    } else {
        if (in_flight(sim, rank, step->peer, step->lane) >= sim->window)
            return false;
        struct flight *flight = calloc(1, sizeof *flight);
        unsigned char *bytes = malloc(step->a.len);
        if (!flight || !bytes)
            abort();
        memcpy(bytes, at(actor, step->a), step->a.len);
        *flight = (struct flight){.from = rank,
                                  .to = step->peer,
                                  .lane = step->lane,
                                  .number = number,
                                  .len = step->a.len,
                                  .bytes = bytes,
                                  .next = sim->flights};
        sim->flights = flight;
    }
    actor->sent[step->link]++;
    finish_step(actor, s);
    return true;
}

static bool try_receive(struct sim *sim, uint32_t rank, uint32_t s)
{
    struct actor *actor = &sim->actors[rank];
    const struct step *step = &actor->program->steps[s];
    const struct schedule_link *link = &actor->program->links[step->link];
    uint32_t number = actor->received[step->link];
    if (actor->program->wire[link->recv + number] != s)
        return false;
    for (struct flight **f = &sim->flights; *f; f = &(*f)->next) {
        struct flight *flight = *f;
        if (flight->from != step->peer || flight->to != rank || flight->lane != step->lane ||
            flight->number != number || flight->len != step->dst.len)
            continue;
        land(actor, s, flight->bytes);
        *f = flight->next;
        free(flight->bytes);
        free(flight);
        return true;
    }
    return false;
}

static bool try_step(struct sim *sim, uint32_t rank, uint32_t s)
{
    struct actor *actor = &sim->actors[rank];
    const struct step *step = &actor->program->steps[s];
    if (actor->done[s] || actor->waits[s] > 0)
        return false;
    switch (step->kind) {
    case STEP_SEND:
        return try_send(sim, rank, s);
    case STEP_RECV:
        return try_receive(sim, rank, s);
    case STEP_COPY:
        memcpy(at(actor, step->dst), at(actor, step->a), step->dst.len);
        break;
    case STEP_REDUCE:
        reduce(actor, step, at(actor, step->a), at(actor, step->b));
        break;
    }
    finish_step(actor, s);
    return true;
}

/* One step of some rank: ranks and steps are tried from a random one on. */
static bool turn(struct sim *sim)
{
    uint32_t first_rank = (uint32_t)(suite_random(&sim->state) % sim->size);
    for (uint32_t i = 0; i < sim->size; i++) {
        uint32_t rank = (first_rank + i) % sim->size;
        struct actor *actor = &sim->actors[rank];
        uint32_t count = actor->program->step_count;
        if (actor->left == 0 || actor->frozen)
            continue;
        uint32_t first = (uint32_t)(suite_random(&sim->state) % count);
        for (uint32_t k = 0; k < count; k++) {
            if (try_step(sim, rank, (first + k) % count))
                return true;
        }
    }
    return false;
}

/* ---- results ------------------------------------------------------------------------------------
 */

static tutti_status compare(const struct actor *actor)
{
    const struct shape *shape = actor->shape;
    uint64_t in = coll_in_bytes(shape), out = coll_out_bytes(shape);
    const unsigned char *result = actor->buffer[BUFFER_OUT];
    for (uint64_t i = 0; i < out; i++) {
        if (result[i] != actor->after[i])
            return fail(TUTTI_ERR_INTERNAL, "rank %u, out byte %llu: %02x, must be %02x",
                        shape->rank, (unsigned long long)i, result[i], actor->after[i]);
    }
    for (uint64_t i = 0; i < in; i++) {
        const unsigned char *byte = actor->buffer[BUFFER_IN] + i;
        bool inside = byte >= result && byte < result + out;
        if (!inside && *byte != actor->input[i])
            return fail(TUTTI_ERR_INTERNAL, "rank %u, in byte %llu has changed", shape->rank,
                        (unsigned long long)i);
    }
    return TUTTI_OK;
}

static tutti_status run(struct sim *sim, const struct world *world)
{
    unsigned char **in = calloc(2 * (size_t)sim->size, sizeof *in);
    if (!in)
        return no_memory();
    unsigned char **out = in + sim->size;
    for (uint32_t r = 0; r < sim->size; r++) {
        in[r] = sim->actors[r].input;
        out[r] = sim->actors[r].after;
    }
    horrible_collective(world->shapes, in, out);
    free(in);
    while (turn(sim))
        ;
    for (uint32_t r = 0; r < sim->size; r++) {
        if (sim->actors[r].left > 0)
            return fail(TUTTI_ERR_TIMEOUT, "rank %u waits for ever with %u steps left", r,
                        sim->actors[r].left);
    }
    if (sim->flights)
        return fail(TUTTI_ERR_INTERNAL, "rank %u never receives a message of rank %u",
                    sim->flights->to, sim->flights->from);
    tutti_status status = TUTTI_OK;
    for (uint32_t r = 0; r < sim->size && status == TUTTI_OK; r++)
        status = compare(&sim->actors[r]);
    return status;
}

tutti_status sim_collective(const struct world *world, uint32_t window, uint64_t seed)
{
    struct sim sim;
    tutti_status status = sim_start(&sim, world, window, seed);
    if (status == TUTTI_OK)
        status = run(&sim, world);
    sim_free(&sim);
    return status;
}

tutti_status sim_barrier(const struct world *world)
{
    tutti_status status = TUTTI_OK;
    for (uint32_t absent = 0; absent < world->size && status == TUTTI_OK; absent++) {
        struct sim sim;
        status = sim_start(&sim, world, SIM_UNLIMITED, absent);
        if (status == TUTTI_OK) {
            sim.actors[absent].frozen = true;
            while (turn(&sim))
                ;
        }
        for (uint32_t r = 0; r < world->size && status == TUTTI_OK; r++) {
            if (r != absent && sim.actors[r].left == 0)
                status = fail(TUTTI_ERR_INTERNAL, "rank %u leaves though rank %u never enters", r,
                              absent);
        }
        sim_free(&sim);
    }
    return status;
}
