/* fault_rules.h: what TUTTI_FAULT says, read.
 *
 *     text      = clause { ";" clause }                     empty: no fault
 *     clause    = action [ "@" condition { "," condition } ]
 *     action    = "delay:" TIME      the transfer is handed on that much later
 *               | "fail" [":" STATUS]  it is refused, with ERR_PEER unless said otherwise
 *               | "drop"             its link is cut; it and all others of that peer fail
 *               | "stall"            it never completes, nor does what follows it on its lane
 *               | "short"            a send carries one byte less: the peer sees a mismatch
 *               | "refuse:connect"   connecting fails (of the conditions, rank and peer apply)
 *               | "reorder"          completions of different lanes come late, in random order
 *               | "seed:" N          of the random choices; otherwise the rank is the seed
 *     condition = N "%"              with that probability; "op=" N  the Nth send or receive of
 *                                    this rank, from 1; "from=" N  that one and all later ones;
 *                                    "rank=" N | "peer=" N | "lane=" N | "send" | "recv"
 *     TIME      = N ("us" | "ms" | "s")         STATUS = ERR_PEER, ERR_NOMEM, ...
 *
 *     delay:50us@10%;drop@op=100,peer=2         fail:ERR_SYSTEM@op=57,rank=1
 */
#ifndef TRANSPORTS_FAULT_RULES_H
#define TRANSPORTS_FAULT_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define FAULT_RULES_MAX 16 /* clauses in one text */

enum fault_action {
    FAULT_DELAY,
    FAULT_FAIL,
    FAULT_DROP,
    FAULT_STALL,
    FAULT_SHORT,
    FAULT_REFUSE,
    FAULT_REORDER,
    FAULT_SEED
};

struct fault_rule {
    enum fault_action action;
    uint64_t value; /* FAULT_DELAY: nanoseconds; FAULT_FAIL: status; FAULT_SEED */
    uint32_t percent;
    uint64_t op_first, op_last;
    int64_t rank, peer, lane; /* -1: any */
    bool sends, recvs;
};

struct fault_rules {
    struct fault_rule all[FAULT_RULES_MAX];
    uint32_t count;
    uint64_t seed; /* of the random choices: the caller's, or what the text says */
};

/* Adds what the text says to `rules`. Errors: ERR_SETTING, with the clause that is none. */
tutti_status fault_rules_read(const char *text, struct fault_rules *rules);

#endif
