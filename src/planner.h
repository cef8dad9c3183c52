/* planner.h: from a call's shape to a plan: filter the table by `fits`, rank by predicted cost,
 * choose chunk and lanes, emit, keep. A pure function of replicated state: every rank, asked about
 * the same call, chooses the same algorithm and knobs. */
#ifndef SRC_PLANNER_H
#define SRC_PLANNER_H

#include "algorithms/algorithm.h"
#include "base/settings.h"
#include "src/topology.h"

struct plan {
    const struct algorithm *algorithm;
    struct knobs knobs;
    double predicted_us;
    uint32_t hash; /* of algorithm and knobs: part of every transfer's tag */
    struct schedule *schedule;
};

struct plan_choice {
    const struct algorithm *algorithm;
    struct knobs knobs;
    double predicted_us;
};

#define PLAN_CANDIDATES_MAX 32 /* algorithms per collective; the table has under a dozen each */

#define PLAN_LANES_MAX 7 /* of the transports' lanes; the others are the communicator's */

/* The most lanes any plan will use: what a communicator opens its transports with. settings->lanes
 * if given; else more than one only when there are several hosts and their network is faster than
 * one TCP stream. */
uint32_t planner_lanes(const struct settings *settings, uint32_t nodes,
                       const struct link_model model[LEVEL_COUNT]);

/* All algorithms that fit, cheapest first; *count of them. The first is what plan_make takes unless
 * settings->algo names one. TUTTI_ERR_SETTING when the named one does not exist (the sentence lists
 * those that do) or does not fit the shape. */
tutti_status planner_candidates(const struct settings *settings, const struct shape *shape,
                                struct plan_choice list[PLAN_CANDIDATES_MAX], uint32_t *count);
tutti_status plan_make(const struct settings *settings, const struct shape *shape,
                       struct plan *plan);
/* What plan_make would predict, without emitting. */
tutti_status planner_predict(const struct settings *settings, const struct shape *shape,
                             double *predicted_us);
void plan_free(struct plan *plan);
/* Text for tutti_comm_explain and coll_perf -v. */
void planner_explain(const struct settings *settings, const struct shape *shape, char *text,
                     size_t len);
/* Checks the text of TUTTI_ALGO: "coll:name,coll:name". */
tutti_status planner_check_setting(const char *algo);

#endif
