/* credit.h: how many messages a sender may have outstanding. Pure.
 *
 * Both sides count for ever, modulo 2^16: the receiver how many it has freed, the sender how many
 * it has sent. A report carries the whole count, so a lost, doubled or overtaken report does no
 * harm, and the last one is all that is needed.
 *
 *     sender    sent ---------.            room = window - (sent - freed as last reported)
 *     receiver  freed, told --'            a report of its own is due when freed - told is large
 */
#ifndef TRANSPORTS_VERBS_CREDIT_H
#define TRANSPORTS_VERBS_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

#define CREDIT_WINDOW_MAX 0x7fff /* so that older and newer counts can be told apart */

struct credit_sender {
    uint16_t window, sent, freed;
};

struct credit_receiver {
    uint16_t freed, told;
};

static inline uint16_t credit_room(const struct credit_sender *sender)
{
    return (uint16_t)(sender->window - (uint16_t)(sender->sent - sender->freed));
}

/* Takes a report. False when it frees what was never sent: the peer is out of its mind. Reports
 * that are older than what is known change nothing. */
static inline bool credit_report(struct credit_sender *sender, uint16_t freed)
{
    uint16_t news = (uint16_t)(freed - sender->freed);
    if (news > CREDIT_WINDOW_MAX)
        return true; /* older */
    if (news > (uint16_t)(sender->sent - sender->freed))
        return false;
    sender->freed = freed;
    return true;
}

/* The count to put into a message that goes out anyway. */
static inline uint16_t credit_tell(struct credit_receiver *receiver)
{
    receiver->told = receiver->freed;
    return receiver->freed;
}

/* Is it time for a message of its own? part: the share of the window not reported that may grow. */
static inline bool credit_due(const struct credit_receiver *receiver, uint16_t part)
{
    return (uint16_t)(receiver->freed - receiver->told) >= part;
}

#endif
