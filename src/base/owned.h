/* owned.h: descriptors that are this process's alone. A child of fork gives up its copies at once:
 * a socket that a child still holds is not closed by the parent's death, and its peers would wait
 * for a rank that is gone. */
#ifndef BASE_OWNED_H
#define BASE_OWNED_H

/* Larger numbers are not given up: the kernel's default limit of descriptors (fs.nr_open). */
#define OWNED_MAX (1 << 20)

/* Marks fd; returns it. A negative one passes through, errno untouched. */
int owned_add(int fd);
/* The opposite: a child may keep it. */
void owned_forget(int fd);
/* Closes fd, unless it was given up by a fork since it was marked: the number may be another's. */
void owned_close(int fd);

#endif
