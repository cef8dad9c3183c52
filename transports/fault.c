/* fault.c: wraps a transport and makes it misbehave as TUTTI_FAULT says (fault_rules.h), for tests.
 * The idea: transfers that wait are kept in a list here and handed to the inner transport when
 * their time has come; those of one peer, lane and direction never overtake each other.
 * Invariant: a transfer is either in exactly one list here, or with the inner transport. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "transports/fault_rules.h"
#include "transports/transport.h"

#define SHORTED_MAX 16 /* shortened sends under way; more go unharmed */

struct list {
    struct xfer *head, **end;
};

struct fault {
    struct transport base;
    struct transport *inner;
    const struct transport_config *config;
    struct fault_rules rules;
    uint64_t op, random;
    bool cancelled;
    bool *dropped, *dropped_told; /* [size] */
    struct xfer *shorted[SHORTED_MAX];
    struct list held; /* work[0]: when due; work[1]: a send? */
    struct list back; /* completed, not yet told; work[2]: the status, hidden until then */
    struct list done;
    struct xfer **inside; /* those with the inner transport, for when their link is dropped */
    size_t inside_count, inside_room;
};

#define NEVER UINT64_MAX /* due: stalled */

/* ---- lists and chance -------------------------------------------------------------------------
 */

static uint64_t next_random(struct fault *fault)
{
    uint64_t z = (fault->random += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void list_clear(struct list *list)
{
    list->head = NULL;
    list->end = &list->head;
}

static void list_add(struct list *list, struct xfer *xfer)
{
    xfer->next = NULL;
    *list->end = xfer;
    list->end = &xfer->next;
}

/* Takes *place out of its list; *place is then the next one. */
static struct xfer *list_take(struct list *list, struct xfer **place)
{
    struct xfer *xfer = *place;
    *place = xfer->next;
    if (!xfer->next)
        list->end = place;
    return xfer;
}

static void forget(struct list *list, uint32_t peer)
{
    for (struct xfer **place = &list->head; *place;) {
        if ((*place)->peer == peer)
            list_take(list, place);
        else
            place = &(*place)->next;
    }
}

static bool link_matches(const struct fault *fault, const struct fault_rule *rule, uint32_t peer)
{
    return (rule->rank < 0 || rule->rank == fault->config->rank) &&
           (rule->peer < 0 || rule->peer == peer);
}

/* The first rule of that action which applies to the present operation. */
static const struct fault_rule *find_rule(struct fault *fault, enum fault_action action,
                                          const struct xfer *xfer, bool sending)
{
    for (uint32_t i = 0; i < fault->rules.count; i++) {
        const struct fault_rule *rule = &fault->rules.all[i];
        if (rule->action == action && link_matches(fault, rule, xfer->peer) &&
            (rule->lane < 0 || rule->lane == xfer->lane) && (sending ? rule->sends : rule->recvs) &&
            fault->op >= rule->op_first && fault->op <= rule->op_last &&
            next_random(fault) % 100 < rule->percent)
            return rule;
    }
    return NULL;
}

/* ---- transfers --------------------------------------------------------------------------------
 */

static struct fault *fault_of(struct transport *transport)
{
    return (struct fault *)transport;
}

static bool same_stream(const struct xfer *a, const struct xfer *b)
{
    return a->peer == b->peer && a->lane == b->lane && a->work[1] == b->work[1];
}

/* The last held transfer that `xfer` must not overtake. */
static const struct xfer *predecessor(const struct fault *fault, const struct xfer *xfer)
{
    const struct xfer *found = NULL;
    for (const struct xfer *x = fault->held.head; x && x != xfer; x = x->next) {
        if (same_stream(x, xfer))
            found = x;
    }
    return found;
}

static tutti_status hand_on(struct fault *fault, struct xfer *xfer, bool sending)
{
    const struct transport_ops *ops = fault->inner->ops;
    if (fault->inside_count == fault->inside_room) {
        size_t room = 2 * fault->inside_room + 64;
        struct xfer **inside = realloc(fault->inside, room * sizeof(struct xfer *));
        if (!inside)
            return fail(TUTTI_ERR_NOMEM, "no memory to follow a transfer");
        fault->inside = inside;
        fault->inside_room = room;
    }
    tutti_status status = sending ? ops->send(fault->inner, xfer) : ops->recv(fault->inner, xfer);
    if (status == TUTTI_IN_PROGRESS)
        fault->inside[fault->inside_count++] = xfer;
    return status;
}

static void came_out(struct fault *fault, const struct xfer *xfer)
{
    for (size_t i = 0; i < fault->inside_count; i++) {
        if (fault->inside[i] == xfer) {
            fault->inside[i] = fault->inside[--fault->inside_count];
            return;
        }
    }
}

static tutti_status dropped(struct fault *fault, uint32_t peer)
{
    return fail(TUTTI_ERR_PEER, "fault: the link to %s was dropped",
                fault->config->peer_names ? fault->config->peer_names[peer] : "a peer");
}

static void finish(struct list *list, struct xfer *xfer, tutti_status status)
{
    xfer->work[2] = status;
    xfer->status = TUTTI_IN_PROGRESS;
    list_add(list, xfer);
}

/* Moves the held transfers of a peer to the finished ones. */
static void end_held(struct fault *fault, uint32_t peer, tutti_status status)
{
    for (struct xfer **place = &fault->held.head; *place;) {
        if ((*place)->peer != peer) {
            place = &(*place)->next;
            continue;
        }
        struct xfer *xfer = list_take(&fault->held, place);
        finish(&fault->done, xfer, status);
    }
}

/* The bytes that a shortened send was told to leave out are given back before anyone sees it. */
static void unshorten(struct fault *fault, struct xfer *xfer)
{
    for (int i = 0; i < SHORTED_MAX; i++) {
        if (fault->shorted[i] == xfer) {
            xfer->len++;
            fault->shorted[i] = NULL;
        }
    }
}

static void shorten(struct fault *fault, struct xfer *xfer)
{
    for (int i = 0; i < SHORTED_MAX && xfer->len > 0; i++) {
        if (!fault->shorted[i]) {
            fault->shorted[i] = xfer;
            xfer->len--;
            return;
        }
    }
}

static bool reorders(struct fault *fault, const struct xfer *xfer)
{
    for (uint32_t i = 0; i < fault->rules.count; i++) {
        const struct fault_rule *rule = &fault->rules.all[i];
        if (rule->action == FAULT_REORDER && link_matches(fault, rule, xfer->peer))
            return true;
    }
    return false;
}

/* Collects what the inner transport has finished. */
static void poll_inner(struct fault *fault)
{
    struct xfer *xfer = fault->inner->ops->poll(fault->inner), *next;
    fault->base.moved |= fault->inner->moved;
    fault->inner->moved = false;
    for (; xfer; xfer = next) {
        next = xfer->next;
        came_out(fault, xfer);
        unshorten(fault, xfer);
        finish(reorders(fault, xfer) ? &fault->back : &fault->done, xfer, xfer->status);
    }
}

/* What had ended is told as it ended; the inner transport forgets the rest, which fails here. */
static void drop_link(struct fault *fault, uint32_t peer)
{
    poll_inner(fault);
    fault->dropped[peer] = true;
    fault->inner->ops->disconnect(fault->inner, peer);
    for (size_t i = 0; i < fault->inside_count;) {
        struct xfer *xfer = fault->inside[i];
        if (xfer->peer != peer) {
            i++;
            continue;
        }
        fault->inside[i] = fault->inside[--fault->inside_count];
        unshorten(fault, xfer);
        finish(&fault->done, xfer, TUTTI_ERR_PEER);
    }
    end_held(fault, peer, TUTTI_ERR_PEER);
}

/* Is there a completion of this lane that the caller has not seen? */
static bool waits_to_be_told(const struct fault *fault, const struct xfer *xfer)
{
    for (const struct xfer *x = fault->back.head; x; x = x->next) {
        if (x->peer == xfer->peer && x->lane == xfer->lane)
            return true;
    }
    for (const struct xfer *x = fault->done.head; x; x = x->next) {
        if (x->peer == xfer->peer && x->lane == xfer->lane)
            return true;
    }
    return false;
}

static tutti_status transfer(struct fault *fault, struct xfer *xfer, bool sending)
{
    const struct fault_rule *rule;
    fault->op++;
    if (fault->cancelled)
        return xfer->status = fail(TUTTI_ERR_ABORTED, "the communicator was aborted");
    if (!fault->dropped[xfer->peer] && find_rule(fault, FAULT_DROP, xfer, sending))
        drop_link(fault, xfer->peer);
    if (fault->dropped[xfer->peer])
        return xfer->status = dropped(fault, xfer->peer);
    rule = find_rule(fault, FAULT_FAIL, xfer, sending);
    if (rule)
        return xfer->status = fail((tutti_status)rule->value,
                                   "fault: operation %llu of rank %u was told to fail",
                                   (unsigned long long)fault->op, fault->config->rank);
    if (sending && find_rule(fault, FAULT_SHORT, xfer, sending))
        shorten(fault, xfer);
    uint64_t due = 0;
    rule = find_rule(fault, FAULT_DELAY, xfer, sending);
    if (rule)
        due = clock_ns() + rule->value;
    if (find_rule(fault, FAULT_STALL, xfer, sending))
        due = NEVER;
    xfer->work[1] = sending;
    const struct xfer *before = predecessor(fault, xfer);
    if (due == 0 && !before) {
        tutti_status status = hand_on(fault, xfer, sending);
        if (status == TUTTI_IN_PROGRESS)
            return status;
        unshorten(fault, xfer);
        /* Done at once, but not before those that are done and not yet told. */
        if (!waits_to_be_told(fault, xfer))
            return status;
        finish(reorders(fault, xfer) ? &fault->back : &fault->done, xfer, status);
        return TUTTI_IN_PROGRESS;
    }
    xfer->work[0] = before && before->work[0] > due ? before->work[0] : due;
    xfer->status = TUTTI_IN_PROGRESS;
    list_add(&fault->held, xfer);
    return TUTTI_IN_PROGRESS;
}

static tutti_status fault_send(struct transport *transport, struct xfer *xfer)
{
    return transfer(fault_of(transport), xfer, true);
}

static tutti_status fault_recv(struct transport *transport, struct xfer *xfer)
{
    return transfer(fault_of(transport), xfer, false);
}

/* Hands on what is due. Times never decrease along one stream, so order is kept. */
static void release_held(struct fault *fault)
{
    if (!fault->held.head)
        return;
    uint64_t now = clock_ns();
    for (struct xfer **place = &fault->held.head; *place;) {
        if ((*place)->work[0] == NEVER || (*place)->work[0] > now) {
            place = &(*place)->next;
            continue;
        }
        struct xfer *xfer = list_take(&fault->held, place);
        tutti_status status = hand_on(fault, xfer, xfer->work[1]);
        if (status == TUTTI_IN_PROGRESS)
            continue;
        unshorten(fault, xfer);
        finish(reorders(fault, xfer) ? &fault->back : &fault->done, xfer, status);
    }
}

/* Tells each completion that was kept back with even odds, but none before an earlier one of its
 * lane (of either direction: the inner transport has overwritten which it was). */
static void release_back(struct fault *fault)
{
    for (struct xfer **place = &fault->back.head; *place;) {
        bool first = true;
        for (struct xfer *x = fault->back.head; x != *place; x = x->next)
            first = first && (x->peer != (*place)->peer || x->lane != (*place)->lane);
        if (first && next_random(fault) % 2)
            list_add(&fault->done, list_take(&fault->back, place));
        else
            place = &(*place)->next;
    }
}

static struct xfer *fault_poll(struct transport *transport)
{
    struct fault *fault = fault_of(transport);
    release_held(fault);
    poll_inner(fault);
    release_back(fault);
    struct xfer *done = fault->done.head;
    list_clear(&fault->done);
    for (struct xfer *xfer = done; xfer; xfer = xfer->next)
        xfer->status = (tutti_status)xfer->work[2];
    return done;
}

/* ---- the other operations ---------------------------------------------------------------------
 */

static bool fault_probe(const struct settings *settings, char *why, size_t len)
{
    snprintf(why, len, "fault wraps another transport");
    return false;
}

static tutti_status fault_open(const struct transport_config *config, struct transport **transport)
{
    return fail(TUTTI_ERR_UNSUPPORTED, "fault wraps another transport: see TUTTI_FAULT");
}

static void fault_close(struct transport *transport)
{
    struct fault *fault = fault_of(transport);
    if (!fault)
        return;
    fault->inner->ops->close(fault->inner);
    free(fault->inside);
    free(fault->dropped);
    free(fault);
}

static tutti_status fault_address(struct transport *transport, void *address, size_t *len)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->address(fault->inner, address, len);
}

static bool fault_reaches(struct transport *transport, uint32_t peer, const void *address,
                          size_t len)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->reaches(fault->inner, peer, address, len);
}

static tutti_status fault_connect(struct transport *transport, uint32_t peer, const void *address,
                                  size_t len)
{
    struct fault *fault = fault_of(transport);
    for (uint32_t i = 0; i < fault->rules.count; i++) {
        if (fault->rules.all[i].action == FAULT_REFUSE &&
            link_matches(fault, &fault->rules.all[i], peer))
            return fail(TUTTI_ERR_CONNECT, "fault: connecting to %s was refused",
                        fault->config->peer_names ? fault->config->peer_names[peer] : "a peer");
    }
    return fault->dropped[peer] ? dropped(fault, peer)
                                : fault->inner->ops->connect(fault->inner, peer, address, len);
}

static bool fault_wanted(struct transport *transport, uint32_t peer, const void *address,
                         size_t len)
{
    struct fault *fault = fault_of(transport);
    return !fault->dropped[peer] && fault->inner->ops->wanted(fault->inner, peer, address, len);
}

static void fault_disconnect(struct transport *transport, uint32_t peer)
{
    struct fault *fault = fault_of(transport);
    forget(&fault->held, peer);
    forget(&fault->back, peer);
    forget(&fault->done, peer);
    for (size_t i = 0; i < fault->inside_count;) {
        if (fault->inside[i]->peer == peer)
            fault->inside[i] = fault->inside[--fault->inside_count];
        else
            i++;
    }
    fault->inner->ops->disconnect(fault->inner, peer);
}

static void fault_cancel(struct transport *transport, bool leave)
{
    struct fault *fault = fault_of(transport);
    fault->cancelled = true;
    list_clear(&fault->held);
    list_clear(&fault->back);
    list_clear(&fault->done);
    memset(fault->shorted, 0, sizeof fault->shorted);
    fault->inside_count = 0;
    fault->inner->ops->cancel(fault->inner, leave);
}

static tutti_status fault_notify(struct transport *transport, uint32_t peer,
                                 const struct notice *notice)
{
    struct fault *fault = fault_of(transport);
    return fault->dropped[peer] ? dropped(fault, peer)
                                : fault->inner->ops->notify(fault->inner, peer, notice);
}

static bool fault_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct fault *fault = fault_of(transport);
    for (uint32_t peer = 0; peer < fault->config->size; peer++) {
        if (!fault->dropped[peer] || fault->dropped_told[peer])
            continue;
        fault->dropped_told[peer] = true;
        *event = (struct transport_event){
            .kind = TRANSPORT_EVENT_LINK_DOWN, .peer = peer, .status = dropped(fault, peer)};
        snprintf(event->sentence, sizeof event->sentence, "%s", status_sentence());
        return true;
    }
    if (!fault->inner->ops->event(fault->inner, restart, event))
        return false;
    if (event->kind == TRANSPORT_EVENT_LINK_DOWN)
        end_held(fault, event->peer, event->status);
    return true;
}

static int fault_wait_fd(struct transport *transport)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->wait_fd(fault->inner);
}

static bool fault_arm(struct transport *transport)
{
    struct fault *fault = fault_of(transport);
    for (const struct xfer *x = fault->held.head; x; x = x->next) {
        if (x->work[0] != NEVER)
            return false;
    }
    return !fault->back.head && !fault->done.head && fault->inner->ops->arm(fault->inner);
}

static tutti_status fault_reg(struct transport *transport, void *memory, size_t len, void **handle)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->reg ? fault->inner->ops->reg(fault->inner, memory, len, handle)
                                  : TUTTI_OK;
}

static void fault_dereg(struct transport *transport, void *handle, bool inside)
{
    struct fault *fault = fault_of(transport);
    if (fault->inner->ops->dereg)
        fault->inner->ops->dereg(fault->inner, handle, inside);
}

static bool fault_takes(struct transport *transport, uint32_t peer, const void *memory, size_t len)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->takes(fault->inner, peer, memory, len);
}

static bool fault_tend(struct transport *transport)
{
    struct fault *fault = fault_of(transport);
    return fault->inner->ops->tend && fault->inner->ops->tend(fault->inner);
}

static void fault_stats(const struct transport *transport, struct transport_stats *stats)
{
    const struct fault *fault = (const struct fault *)transport;
    fault->inner->ops->stats(fault->inner, stats);
}

static void fault_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    const struct fault *fault = (const struct fault *)transport;
    fault->inner->ops->model(fault->inner, alpha_us, us_per_byte);
}

static const struct transport_ops fault_ops = {
    .name = "fault",
    .probe = fault_probe,
    .open = fault_open,
    .close = fault_close,
    .address = fault_address,
    .reaches = fault_reaches,
    .connect = fault_connect,
    .wanted = fault_wanted,
    .disconnect = fault_disconnect,
    .send = fault_send,
    .recv = fault_recv,
    .poll = fault_poll,
    .cancel = fault_cancel,
    .notify = fault_notify,
    .event = fault_event,
    .wait_fd = fault_wait_fd,
    .arm = fault_arm,
    .reg = fault_reg,
    .dereg = fault_dereg,
    .takes = fault_takes,
    .tend = fault_tend,
    .stats = fault_stats,
    .model = fault_model,
};

tutti_status fault_wrap(struct transport *inner, const struct transport_config *config,
                        const char *text, struct transport **transport)
{
    struct fault *fault = calloc(1, sizeof *fault);
    bool *marks = calloc(config->size, 2 * sizeof *marks);
    tutti_status status = TUTTI_OK;
    if (!fault || !marks)
        status = fail(TUTTI_ERR_NOMEM, "no memory to wrap a transport");
    if (status == TUTTI_OK) {
        fault->rules.seed = config->rank;
        status = fault_rules_read(text, &fault->rules);
        fault->random = fault->rules.seed;
    }
    if (status != TUTTI_OK) {
        free(fault);
        free(marks);
        return status;
    }
    fault->base.ops = &fault_ops;
    fault->inner = inner;
    fault->config = config;
    fault->dropped = marks;
    fault->dropped_told = marks + config->size;
    list_clear(&fault->held);
    list_clear(&fault->back);
    list_clear(&fault->done);
    *transport = &fault->base;
    return TUTTI_OK;
}
