/* control.c: what the ends of a link say to each other over the side transport: sealed messages,
 * bodies behind them (relay.c), and the side transport's own news. What a message means is
 * link.c's. A message that cannot be sent ends nothing: what the peer said before it left is read
 * first. */
#include "transports/verbs/verbs.h"

/* ---- sending ---------------------------------------------------------------------------------
 */

static const struct tag control_tag = {{WIRE_MAGIC, WIRE_VERSION, 0}};

/* What the side transport knows about the end of its link. */
static void side_failed(struct verbs_link *link, tutti_status status)
{
    if (link->bye)
        farewell_ended(link);
    else
        link_end(link, status, "%s", status_sentence());
}

void control_sent(struct verbs_link *link, struct verbs_control *out, uint32_t parts)
{
    out->busy -= parts;
    link->work = link->work || out->acks;
}

void control_take_acks(struct verbs_link *link)
{
    for (uint32_t i = 0; i < VERBS_CONTROLS; i++) {
        struct verbs_control *out = &link->out[i];
        if (!out->acks || out->busy > 0)
            continue;
        out->acks = false;
        flow_chunk_acked(&link->flows[out->lane], out->seq);
        transfer_retire(link, out->lane);
    }
}

/* False when the side transport refuses it. That says nothing by itself: what the peer said before
 * it left may not be read yet, and the receive of the next control message ends after all that,
 * with the reason. */
static bool send_part(struct verbs_link *link, struct verbs_control *out, struct xfer *xfer)
{
    struct verbs *verbs = link->verbs;
    tutti_status status = verbs->side->ops->send(verbs->side, xfer);
    out->busy += status == TUTTI_IN_PROGRESS;
    return status == TUTTI_OK || status == TUTTI_IN_PROGRESS;
}

struct verbs_control *control_send(struct verbs_link *link, struct wire_control *control)
{
    struct verbs *verbs = link->verbs;
    struct verbs_control *out = NULL;
    for (uint32_t i = 0; i < VERBS_CONTROLS && !out; i++)
        out = link->out[i].busy || link->out[i].acks ? NULL : &link->out[i];
    if (!out || link->state == VERBS_LINK_ENDED)
        return NULL; /* a peer that does not read its socket for so long is about to be given up */
    control->magic = WIRE_MAGIC;
    control->version = WIRE_VERSION;
    out->acks = false;
    tutti_status status = seal_close(verbs->seal, control, sizeof *control, out->bytes);
    if (status != TUTTI_OK) {
        link_end(link, status, "%s", status_sentence());
        return NULL;
    }
    out->xfer = (struct xfer){
        .data = out->bytes, .len = sizeof out->bytes, .peer = link->peer, .tag = &control_tag};
    return send_part(link, out, &out->xfer) ? out : NULL;
}

void control_send_body(struct verbs_link *link, struct verbs_control *out, const void *body,
                       size_t len)
{
    if (link->state == VERBS_LINK_ENDED)
        return;
    out->body =
        (struct xfer){.data = (void *)body, .len = len, .peer = link->peer, .tag = &control_tag};
    if (!send_part(link, out, &out->body))
        out->acks = false; /* it will not arrive */
    control_sent(link, out, 0);
}

/* ---- receiving -------------------------------------------------------------------------------
 */

static void take(struct verbs_link *link)
{
    struct wire_control control;
    tutti_status status =
        seal_open(link->verbs->seal, link->in.bytes, sizeof link->in.bytes, &control);
    if (status == TUTTI_OK && (control.magic != WIRE_MAGIC || control.version != WIRE_VERSION))
        status = fail(TUTTI_ERR_PROTOCOL, "its message is of version %u, this side's of %u",
                      control.version, WIRE_VERSION);
    if (status != TUTTI_OK) {
        link_end(link, status, "RDMA link to %s: %s", verbs_peer_name(link->verbs, link->peer),
                 status_sentence());
        return;
    }
    if (!link->verbs->cancelled || control.kind == WIRE_BYE)
        link_take(link, &control);
}

void control_receive(struct verbs_link *link)
{
    struct verbs *verbs = link->verbs;
    tutti_status status = TUTTI_OK;
    while (status == TUTTI_OK && link->state != VERBS_LINK_ENDED && !link->awaits_body) {
        link->in.xfer = (struct xfer){.data = link->in.bytes,
                                      .len = sizeof link->in.bytes,
                                      .peer = link->peer,
                                      .tag = &control_tag};
        status = verbs->side->ops->recv(verbs->side, &link->in.xfer);
        if (status == TUTTI_OK)
            take(link);
        else if (status != TUTTI_IN_PROGRESS)
            side_failed(link, status);
    }
}

void control_receive_body(struct verbs_link *link, struct xfer *xfer, void *place, size_t len)
{
    struct verbs *verbs = link->verbs;
    *xfer = (struct xfer){.data = place, .len = len, .peer = link->peer, .tag = &control_tag};
    tutti_status status = verbs->side->ops->recv(verbs->side, xfer);
    link->awaits_body = status == TUTTI_IN_PROGRESS;
    if (status == TUTTI_OK)
        relay_body(link);
    else if (status != TUTTI_IN_PROGRESS)
        side_failed(link, status);
}

void control_cut(struct verbs_link *link)
{
    bool open = link->awaits_body;
    for (uint32_t i = 0; i < VERBS_CONTROLS; i++)
        open = open || (link->out[i].acks && link->out[i].busy > 0);
    if (open)
        link->verbs->side->ops->disconnect(link->verbs->side, link->peer);
}

/* Transfers of the side transport that ended. */
void control_poll(struct verbs *verbs)
{
    struct xfer *list = verbs->side->ops->poll(verbs->side);
    while (list) {
        struct xfer *xfer = list;
        struct verbs_link *link = verbs->links[xfer->peer];
        list = list->next;
        if (!link)
            continue;
        if (relay_awaits(link, xfer)) {
            link->awaits_body = false;
            if (xfer->status == TUTTI_OK && !link->stopped && link->state != VERBS_LINK_ENDED)
                relay_body(link);
            control_receive(link);
        } else if (xfer != &link->in.xfer) {
            for (uint32_t i = 0; i < VERBS_CONTROLS; i++) {
                struct verbs_control *out = &link->out[i];
                if (xfer == &out->xfer || xfer == &out->body)
                    control_sent(link, out, 1);
            }
        } else if (xfer->status == TUTTI_OK) {
            take(link);
            control_receive(link);
        } else {
            control_receive(link); /* refused, with the sentence */
        }
    }
}

void control_look_aside(struct verbs *verbs, bool restart)
{
    struct transport_event event;
    while (!verbs->noticed && verbs->side->ops->event(verbs->side, restart, &event)) {
        restart = false;
        struct verbs_link *link = verbs->links[event.peer];
        if (event.kind == TRANSPORT_EVENT_NOTICE) {
            verbs->notice = event;
            verbs->noticed = true;
        } else if (event.kind == TRANSPORT_EVENT_LINK_DOWN) {
            /* Else the receive of the next control message tells, after what came before. */
            if (link && !link->bye && verbs->cancelled)
                link_end(link, event.status, "%s", event.sentence);
        } else {
            return; /* the last kind that it tells */
        }
    }
}
