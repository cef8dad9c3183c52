/* seats.h: the ranks that roots of a rendezvous have seated and answered, in this program and its
 * children: the sign that a rank has come, and knows it. */
#ifndef TESTS_SEATS_H
#define TESTS_SEATS_H

/* So far. The first call is made before any fork. */
unsigned seats_taken(void);
/* Waits until so many are, for 20 s at most. */
void seats_await(unsigned count);

#endif
