/* hosts.h: ranks of a test on hosts of their own. Such a host is a set of namespaces (network,
 * hostname, IPC) that tests/vm/guest/hosts.sh makes under /run/hosts/NAME. Without
 * TUTTI_TEST_HOSTS nothing here does anything: all ranks stay where the test was started. */
#ifndef TESTS_HOSTS_H
#define TESTS_HOSTS_H

#include <stdbool.h>

/* The calling thread becomes a process of one of the hosts named by TUTTI_TEST_HOSTS ("a,b"): ranks
 * are laid out in blocks, of 3 ranks on 2 hosts 0 and 1 on the first. Ends the program with a
 * sentence when the namespaces cannot be entered. */
void hosts_enter(unsigned rank, unsigned size);

/* Do all ranks stay where the test was started? Only there a probe tells what they will find. */
bool hosts_here(void);

/* Is a test over this transport wanted? TUTTI_TEST_TRANSPORT names the only one; unset: all are. */
bool hosts_transport_wanted(const char *transport);

/* Is there a wire between the hosts that can be cut? TUTTI_TEST_CUT names the program that does. */
bool hosts_can_cut(void);
/* It loses everything for so many milliseconds from now on. False: it could not be cut. */
bool hosts_cut(unsigned ms);

#endif
