/* sock.h: the socket work that the rendezvous and the TCP transport share: addresses, interfaces,
 * port ranges, non-blocking connect and accept, whole-message I/O with a deadline. All sockets are
 * close-on-exec, non-blocking, never raise SIGPIPE, and are owned (owned.h): owned_close ends them.
 */
#ifndef BASE_SOCK_H
#define BASE_SOCK_H

#include <sys/socket.h>

#include "base/clock.h"
#include "base/settings.h"
#include "base/status.h"

#define SOCK_TEXT_MAX       96 /* "[ipv6%scope]:port" with room */
#define SOCK_INTERFACES_MAX 16 /* interfaces a host offers to its peers; others are logged */
#define SOCK_ADDRESSES_MAX  6  /* of a name, best first: two families on three networks */

struct sock_address {
    struct sockaddr_storage storage;
    uint32_t len;
};

enum { FAMILY_ANY, FAMILY_IPV4, FAMILY_IPV6 }; /* the words of TUTTI_FAMILY, in their order */

struct sock_addresses {
    struct sock_address list[SOCK_ADDRESSES_MAX];
    uint32_t count;
};

struct sock_interface {
    char name[32];
    struct sock_address address; /* port 0 */
    struct sock_address netmask;
    uint32_t speed_mbps; /* 0 if unknown */
    bool loopback;       /* of such an interface, and of no use elsewhere */
};

/* Interfaces that are up and allowed by settings (interface, family), best first: named order,
 * else routable before link-local, with a device before others (a bridge for containers, a tunnel),
 * faster first, loopback last (and left out if any other). Each address once.
 * TUTTI_ERR_SETTING when a name or subnet matches nothing: the sentence lists what there is. */
tutti_status sock_interfaces(const struct settings *settings, struct sock_interface *list,
                             size_t max, size_t *count);
/* Is there a device behind the interface, or behind those that it is made of (the ports of a bridge
 * or a bond)? sysfs: the directory of all, "/sys/class/net". */
bool sock_has_device(const char *sysfs, const char *name);
/* Listens on address (port 0: any in the settings' range); *bound gets the real address. */
tutti_status sock_listen(const struct settings *settings, const struct sock_address *address,
                         int backlog, int *fd, struct sock_address *bound);
/* Starts a connection; TUTTI_OK even if still under way. */
tutti_status sock_connect_start(const struct sock_address *address, int *fd);
/* After writability: TUTTI_OK, or TUTTI_ERR_CONNECT with the cause. */
tutti_status sock_connect_finish(int fd, const struct sock_address *address);
/* Accepts one; *fd = -1 if none is waiting. */
tutti_status sock_accept(int listener, int *fd, struct sock_address *from);
/* Of a connection: no delay; to another host, keepalive 1 s / 1 s / 3 and user timeout 5 s. Of a
 * peer on this host the kernel tells when it ends, and one that gets no turn of an overloaded
 * machine for seconds is not lost; a short send buffer. */
void sock_tune(int fd);
/* How long data to another host may stay unacknowledged from now on, in place of those 5 s (0: for
 * ever): Linux counts a peer that has closed its window, because it does not read, as one that is
 * gone. */
void sock_set_patience(int fd, unsigned timeout_ms);
/* Whole messages on non-blocking sockets, bounded by an absolute clock_ms() deadline
 * (TUTTI_ERR_TIMEOUT) and by cancel (clock_check: its error). */
tutti_status sock_send_all(int fd, const void *data, size_t len, uint64_t deadline_ms,
                           const struct cancel *cancel);
tutti_status sock_recv_all(int fd, void *data, size_t len, uint64_t deadline_ms,
                           const struct cancel *cancel);
/* "host:port" or "[v6]:port": the addresses of the host, best first, at least one. Of a name those
 * of the family that the settings ask for (TUTTI_ERR_SETTING: it has none); an address is taken
 * as it is. TUTTI_ERR_CONNECT: the host is not known, perhaps not yet. */
tutti_status sock_parse(const struct settings *settings, const char *text,
                        struct sock_addresses *addresses);
const char *sock_text(const struct sock_address *address, char text[SOCK_TEXT_MAX]);
/* An address of this host (and network namespace), be its interface down or not chosen. */
bool sock_is_local(const struct sock_address *address);
bool sock_same_subnet(const struct sock_interface *local, const struct sock_address *remote);

#endif
