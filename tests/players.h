/* players.h: ranks of a rendezvous as threads: what each claims, and what became of it. */
#ifndef TESTS_PLAYERS_H
#define TESTS_PLAYERS_H

#include <stdatomic.h>

#include "base/settings.h"
#include "src/bootstrap.h"

#define PLAYERS_MAX 256

/* One rank: what it claims, and what became of it. */
struct player {
    struct settings settings;
    const tutti_unique_id *id; /* NULL: from the settings (TUTTI_RENDEZVOUS) */
    uint32_t rank, size, gathers;
    size_t len;
    uint32_t delay_ms;         /* before joining */
    unsigned seated;           /* joins when so many have been; 0: at once */
    const atomic_bool *after;  /* and when that is set; NULL: at once */
    unsigned still;            /* its clock stands until so many have been seated */
    const atomic_bool *pauses; /* after joining, until that is set; NULL: does not */
    bool leaves;               /* after joining, without a word */
    const int *cancel;
    atomic_uint looks, refused; /* at cancel: before it was set, and after */
    atomic_bool joined, ended;
    tutti_status status;
    char sentence[SENTENCE_MAX];
    uint64_t took_ms;
    bool wrong;
};

/* The defaults, with a time limit. */
struct settings quick(uint64_t timeout_ms);
/* Ranks 0 to size - 1 of an id, each with three allgathers to do. Freed by the caller. */
struct player *cast(uint32_t size, const tutti_unique_id *id, uint64_t timeout_ms);
/* One, in this thread; argument is it. */
void *play(void *argument);
/* Each in a thread of its own. */
void play_all(struct player *players, uint32_t count);
void expect_all_well(const struct player *players, uint32_t count);
void expect_sentence(const struct player *player, tutti_status status, const char *part);

int open_descriptors(void);

#endif
