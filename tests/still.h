/* still.h: a clock that stands. What a rank says when its time is up, and to whom, then depends on
 * what has come before, not on how busy the machine is. */
#ifndef TESTS_STILL_H
#define TESTS_STILL_H

#define STILL_FOR_GOOD (~0u)

/* The clock of this thread stands until so many seats are taken (seats.h), for 60 s at most, and
 * goes on from there: its waits end as ever, and no time has passed. 0: it does not stand. */
void still_begin(unsigned seats);
/* It is right again. */
void still_end(void);

#endif
