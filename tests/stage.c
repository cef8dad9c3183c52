/* stage.c: see stage.h. */
#include "tests/stage.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/suite.h"

struct stage *stage_new(uint32_t size, uint64_t timeout_ms)
{
    struct stage *stage =
        mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(stage != MAP_FAILED);
    struct player *players = cast(size, &stage->id, timeout_ms);
    memcpy(stage->players, players, size * sizeof *players);
    free(players);
    stage->maker = quick(timeout_ms);
    return stage;
}

void stage_end(struct stage *stage)
{
    munmap(stage, sizeof *stage);
}

void make_id(struct stage *stage)
{
    CU_ASSERT_EQUAL_FATAL(bootstrap_unique_id(&stage->maker, &stage->id), TUTTI_OK);
    atomic_store(&stage->ready, 1);
}

void play_ranks(struct stage *stage, unsigned mask)
{
    pthread_t threads[RANKS_MAX];
    if ((mask & (mask - 1)) == 0) { /* a child of threads may start none */
        if (mask)
            play(&stage->players[__builtin_ctz(mask)]);
        return;
    }
    for (uint32_t r = 0; r < RANKS_MAX; r++) {
        if (mask >> r & 1)
            pthread_create(&threads[r], NULL, play, &stage->players[r]);
    }
    for (uint32_t r = 0; r < RANKS_MAX; r++) {
        if (mask >> r & 1)
            pthread_join(threads[r], NULL);
    }
}

pid_t fork_ranks(struct stage *stage, unsigned mask)
{
    fflush(stdout);
    pid_t child = fork();
    if (child != 0)
        return child;
    while (!atomic_load(&stage->ready))
        clock_sleep_us(200);
    play_ranks(stage, mask);
    _exit(0);
}
