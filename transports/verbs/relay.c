/* relay.c: a path without a queue pair: messages and chunks over the side transport's socket, for a
 * link whose rails are all gone, or that never had one that works, where TUTTI_VERBS_FALLBACK
 * allows it.
 * The idea: to the rest it is one more path. A message is a DATA control message with its header,
 * and its body follows; a chunk's body goes from the sender's memory to its place in the
 * receiver's without another copy. What is given to the socket counts as delivered, since the
 * socket loses nothing while it lives, and when it ends so does the link.
 * Invariant: after a DATA message with a body the next bytes of the lane are that body. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "transports/verbs/verbs.h"

#define CONTROLS_KEPT 8 /* of the places for outgoing messages, for those that are not data */

struct relay {
    struct verbs_path *path;
    uint32_t free_count;
    uint32_t *free_slots; /* [slot_count] */
    uint8_t *bodies;      /* [VERBS_CONTROLS][slot_len] of outgoing messages */
    /* The body that is coming in. */
    struct xfer body;
    struct wire_header header;
    uint32_t slot;
    struct xfer *target; /* of a chunk */
    uint64_t offset;
    size_t len;
};

tutti_status relay_open(struct verbs_link *link)
{
    struct relay *relay = calloc(1, sizeof *relay);
    struct verbs_path *path = &link->paths[link->path_count];
    uint32_t slots = link->verbs->config->lanes * link->window + VERBS_SPARE;
    *path = (struct verbs_path){
        .link = link, .index = link->path_count, .relayed = true, .rail = &link->verbs->rails[0]};
    path->slot_len = link->slot_len;
    path->slot_count = slots;
    path->credit.window = (uint16_t)(link->verbs->config->lanes * link->peer_window + VERBS_SPARE);
    path->plain = malloc((size_t)slots * path->slot_len);
    path->memory = path->plain;
    link->relay = relay;
    if (relay) {
        link->verbs->relays++;
        relay->path = path;
        relay->free_slots = malloc(slots * sizeof *relay->free_slots);
        relay->bodies = malloc((size_t)VERBS_CONTROLS * path->slot_len);
    }
    if (!relay || !path->plain || !relay->free_slots || !relay->bodies) {
        relay_close(link);
        return fail(TUTTI_ERR_NOMEM, "no memory to go on over TCP with %s",
                    verbs_peer_name(link->verbs, link->peer));
    }
    for (uint32_t i = 0; i < slots; i++)
        relay->free_slots[relay->free_count++] = i;
    path->state = VERBS_PATH_UP;
    link->path_count++;
    return TUTTI_OK;
}

void relay_close(struct verbs_link *link)
{
    struct relay *relay = link->relay;
    if (!relay)
        return;
    link->verbs->relays--;
    free(relay->path->plain);
    relay->path->plain = relay->path->memory = NULL;
    free(relay->free_slots);
    free(relay->bodies);
    free(relay);
    link->relay = NULL;
}

void relay_free_slot(struct verbs_path *path, uint32_t slot)
{
    struct relay *relay = path->link->relay;
    relay->free_slots[relay->free_count++] = slot;
    path->freed.freed++;
}

/* ---- sending ----------------------------------------------------------------------------------
 */

bool relay_room(const struct verbs_path *path, uint32_t spare)
{
    uint32_t busy = 0;
    for (uint32_t i = 0; i < VERBS_CONTROLS; i++)
        busy += path->link->out[i].busy != 0 || path->link->out[i].acks;
    return busy + CONTROLS_KEPT < VERBS_CONTROLS && credit_room(&path->credit) > spare;
}

void relay_message(struct verbs_path *path, struct wire_header *header, const void *body,
                   size_t len)
{
    struct verbs_link *link = path->link;
    struct wire_control control = {.kind = WIRE_DATA, .body_len = len};
    bool chunk = header->kind == WIRE_WRITTEN;
    header->freed = credit_tell(&path->freed);
    header->taken = credit_tell(&link->flows[header->lane].taken);
    control.message = *header;
    path->credit.sent++;
    struct verbs_control *out = control_send(link, &control);
    if (!out)
        return;
    if (chunk) {
        out->acks = true;
        out->lane = header->lane;
        out->seq = header->seq;
    } else if (len > 0) {
        uint8_t *copy = link->relay->bodies + (size_t)(out - link->out) * path->slot_len;
        memcpy(copy, body, len);
        body = copy;
    }
    if (len > 0)
        control_send_body(link, out, body, len);
    else
        control_sent(link, out, 0);
}

/* ---- receiving --------------------------------------------------------------------------------
 */

static void body_came(struct verbs_link *link)
{
    struct relay *relay = link->relay;
    if (relay->target) {
        transfer_landed(link, relay->header.lane, relay->target, relay->offset, relay->len);
        relay->path->freed.freed++;
        relay->target = NULL;
        return;
    }
    if (!transfer_arrived(relay->path, relay->slot, sizeof relay->header + relay->len))
        relay_free_slot(relay->path, relay->slot);
}

/* Where the body of a chunk goes; false: nowhere. */
static bool find_target(struct verbs_link *link, const struct wire_header *header, uint64_t len)
{
    struct relay *relay = link->relay;
    uint32_t word = (uint32_t)header->len;
    return header->lane < link->verbs->config->lanes && word >> 29 == header->lane &&
           flow_written(&link->flows[header->lane], (uint16_t)(word >> 16 & 0x1fff), word & 0xffff,
                        &relay->target, &relay->offset, &relay->len) == FLOW_TAKE &&
           relay->len == len;
}

bool relay_arrived(struct verbs_link *link, const struct wire_control *control)
{
    struct relay *relay = link->relay;
    const struct wire_header *header = &control->message;
    void *place = NULL;
    relay->header = *header;
    relay->target = NULL;
    relay->len = control->body_len;
    if (header->kind == WIRE_WRITTEN) {
        if (!find_target(link, header, control->body_len) || !transfer_reports(relay->path, header))
            return false;
        place = (char *)relay->target->data + relay->offset;
    } else {
        if (relay->free_count == 0 || control->body_len > relay->path->slot_len - sizeof *header)
            return false;
        relay->slot = relay->free_slots[--relay->free_count];
        uint8_t *slot = relay->path->memory + (size_t)relay->slot * relay->path->slot_len;
        memcpy(slot, header, sizeof *header);
        place = slot + sizeof *header;
    }
    if (control->body_len == 0)
        body_came(link);
    else
        control_receive_body(link, &relay->body, place, control->body_len);
    return true;
}

void relay_body(struct verbs_link *link)
{
    body_came(link);
}

bool relay_awaits(const struct verbs_link *link, const struct xfer *xfer)
{
    return link->relay && xfer == &link->relay->body;
}
