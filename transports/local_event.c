/* local_event.c: what inproc and shm tell besides transfers: notices kept until asked for, links
 * that went down, arrivals that nobody waits for; and the answers that are the same for both. */
#include <string.h>

#include "transports/local.h"

static bool arrived(const struct lane *lane)
{
    const struct slot *slot = &lane->in->slots[lane->in_next & lane->in_mask];
    return atomic_load_explicit(&slot->stamp, memory_order_acquire) == lane->in_next + 1;
}

void local_notice_keep(struct local *local, uint32_t peer, const struct notice *notice)
{
    if (local->notice_count == local->notice_room)
        return;
    if (local->notice_first + local->notice_count == local->notice_room) {
        memmove(local->notices, local->notices + local->notice_first,
                local->notice_count * sizeof *local->notices);
        local->notice_first = 0;
    }
    struct local_notice *kept = &local->notices[local->notice_first + local->notice_count++];
    kept->peer = peer;
    kept->notice = *notice;
    kept->notice.text[sizeof kept->notice.text - 1] = '\0';
}

static bool event_unexpected(struct local *local, struct transport_event *event)
{
    uint32_t lanes = local->config->lanes;
    while (local->cursor < local->made_count * lanes) {
        uint32_t at = local->cursor++;
        const struct local_link *link = local->made[at / lanes];
        const struct lane *lane = &link->lanes[at % lanes];
        if (!lane->in || lane->recv_head || lane->broken || !arrived(lane))
            continue;
        const struct slot *slot = &lane->in->slots[lane->in_next & lane->in_mask];
        event->kind = TRANSPORT_EVENT_UNEXPECTED;
        event->peer = link->peer;
        event->lane = lane->index;
        event->tag = slot_tag(slot);
        event->len = atomic_load_explicit(&slot->len, memory_order_relaxed);
        return true;
    }
    return false;
}

bool local_event(struct local *local, bool restart, struct transport_event *event)
{
    event->status = TUTTI_OK;
    event->sentence[0] = '\0';
    if (local->notice_count > 0) {
        const struct local_notice *kept = &local->notices[local->notice_first];
        local->notice_first = --local->notice_count > 0 ? local->notice_first + 1 : 0;
        event->kind = TRANSPORT_EVENT_NOTICE;
        event->peer = kept->peer;
        event->notice = kept->notice;
        return true;
    }
    for (uint32_t i = 0; i < local->made_count; i++) {
        struct local_link *link = local->made[i];
        if (link->report) {
            link->report = false;
            link->told = true;
            event->kind = TRANSPORT_EVENT_LINK_DOWN;
            event->peer = link->peer;
            event->status = link->down;
            memcpy(event->sentence, link->sentence, sizeof event->sentence);
            return true;
        }
    }
    if (restart)
        local->cursor = 0;
    return event_unexpected(local, event);
}

void local_stats(const struct transport *transport, struct transport_stats *stats)
{
    const struct local *local = (const struct local *)transport;
    *stats = local->stats;
    for (uint32_t i = 0; i < local->made_count; i++) {
        for (uint32_t l = 0; l < local->config->lanes; l++) {
            const struct lane *lane = &local->made[i]->lanes[l];
            stats->pieces += lane->out_next + lane->in_next;
            if (lane->out)
                stats->pieces += atomic_load_explicit(&lane->out->steps, memory_order_relaxed);
        }
    }
}

bool local_takes(struct transport *transport, uint32_t peer, const void *memory, size_t len)
{
    return false;
}

int local_wait_fd(struct transport *transport)
{
    return -1;
}

bool local_arm(struct transport *transport)
{
    return false;
}
