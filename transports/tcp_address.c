/* tcp_address.c: where a rank listens, what it tells its peers of that, and in which order a peer's
 * addresses are tried.
 * The idea: a rank listens on up to four of its interfaces, with one port number where that is
 * free. Its address lists them and a nonce, by which a dialer knows that it has found this process
 * and no other. Addresses that share a subnet with an interface of ours come first; those that this
 * host has too lead nowhere else, and are used only where the peer has no other.
 * Invariant: both sides of a pair agree whether there is an address to try at all. */
#include <netinet/in.h>

#include "transports/tcp.h"

#define ADDRESS_HEADER 16
#define ADDRESS_ENTRY  24

static void set_port(struct sock_address *address, uint16_t port)
{
    if (address->storage.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
}

static uint16_t port_of(const struct sock_address *address)
{
    if (address->storage.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
}

static bool is_loopback(const struct sock_address *address)
{
    if (address->storage.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&address->storage)->sin6_addr);
    uint32_t v4 = ntohl(((const struct sockaddr_in *)&address->storage)->sin_addr.s_addr);
    return v4 >> 24 == 127;
}

static bool is_link_local(const struct sock_address *address)
{
    return address->storage.ss_family == AF_INET6 &&
           IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)&address->storage)->sin6_addr);
}

tutti_status tcp_listen(struct tcp *tcp)
{
    const struct settings *settings = tcp->config->settings;
    tutti_status status =
        sock_interfaces(settings, tcp->interfaces, SOCK_INTERFACES_MAX, &tcp->interface_count);
    uint16_t port = 0;
    for (size_t i = 0; i < tcp->interface_count && tcp->listener_count < TCP_ADDRESSES_MAX; i++) {
        struct tcp_listener *listener = &tcp->listeners[tcp->listener_count];
        struct sock_address wanted = tcp->interfaces[i].address;
        listener->source.kind = TCP_LISTENER;
        set_port(&wanted, port);
        status = sock_listen(settings, &wanted, TCP_BACKLOG, &listener->fd, &listener->bound);
        if (status != TUTTI_OK && port != 0) {
            set_port(&wanted, 0);
            status = sock_listen(settings, &wanted, TCP_BACKLOG, &listener->fd, &listener->bound);
        }
        if (status != TUTTI_OK)
            continue; /* one interface of several may fail: it has just gone, say */
        tcp->listener_count++;
        port = port_of(&listener->bound);
        status = tcp_watch(tcp, listener->fd, &listener->source, false);
        if (status != TUTTI_OK)
            return status;
    }
    return tcp->listener_count > 0 ? TUTTI_OK : status;
}

/*  | magic 4 | count 4 | nonce 8 |  then per address  | family 4 | port 4 | address 16 |  */
void tcp_address_write(const struct tcp *tcp, uint8_t *address, size_t *len)
{
    memset(address, 0, ADDRESS_HEADER + ADDRESS_ENTRY * tcp->listener_count);
    tcp_put32(address, TCP_MAGIC);
    tcp_put32(address + 4, tcp->listener_count);
    memcpy(address + 8, tcp->nonce, sizeof tcp->nonce);
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        const struct sock_address *bound = &tcp->listeners[i].bound;
        uint8_t *at = address + ADDRESS_HEADER + ADDRESS_ENTRY * i;
        bool v6 = bound->storage.ss_family == AF_INET6;
        tcp_put32(at, v6 ? 6 : 4);
        tcp_put32(at + 4, port_of(bound));
        if (v6)
            memcpy(at + 8, &((const struct sockaddr_in6 *)&bound->storage)->sin6_addr, 16);
        else
            memcpy(at + 8, &((const struct sockaddr_in *)&bound->storage)->sin_addr, 4);
    }
    *len = ADDRESS_HEADER + ADDRESS_ENTRY * tcp->listener_count;
}

static bool read_entry(const uint8_t *at, struct sock_address *out)
{
    uint32_t family = tcp_get32(at), port = tcp_get32(at + 4);
    if ((family != 4 && family != 6) || port == 0 || port > UINT16_MAX)
        return false;
    *out = (struct sock_address){.len = sizeof(struct sockaddr_in)};
    if (family == 6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out->storage;
        out->len = sizeof *v6;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, at + 8, 16);
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&out->storage;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, at + 8, 4);
    }
    set_port(out, (uint16_t)port);
    return true;
}

/* The order in which to try an address; -1: never. Both sides must agree whether there is a usable
 * pair at all, so that is decided by what both know: families and loopback, of what is offered. */
static int preference(const struct tcp *tcp, const struct sock_address *remote)
{
    bool usable = false;
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        const struct sock_address *mine = &tcp->listeners[i].bound;
        usable = usable || (mine->storage.ss_family == remote->storage.ss_family &&
                            is_loopback(mine) == is_loopback(remote));
    }
    if (!usable)
        return -1;
    for (size_t i = 0; i < tcp->interface_count; i++) {
        if (sock_same_subnet(&tcp->interfaces[i], remote))
            return is_link_local(remote) ? 2 : 0;
    }
    return is_link_local(remote) ? -1 : 1;
}

/* Every network has the subnet of link-local addresses: such a one may be behind any interface. */
static void add_by_each(const struct tcp *tcp, const struct sock_address *remote,
                        struct tcp_peer_address *out)
{
    for (size_t i = 0; i < tcp->interface_count && out->count < TCP_CANDIDATES_MAX; i++) {
        const struct sock_address *mine = &tcp->interfaces[i].address;
        if (!is_link_local(mine))
            continue;
        struct sock_address *one = &out->list[out->count++];
        *one = *remote;
        ((struct sockaddr_in6 *)&one->storage)->sin6_scope_id =
            ((const struct sockaddr_in6 *)&mine->storage)->sin6_scope_id;
    }
}

/* The list tells of link-local addresses, whose interface is not known; the kernel of those that
 * are in no list, because their interface has no carrier (a bridge without containers), say. */
static bool is_ours(const struct tcp *tcp, const struct sock_address *remote)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&remote->storage;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&remote->storage;
    for (size_t i = 0; i < tcp->interface_count; i++) {
        const struct sockaddr_storage *mine = &tcp->interfaces[i].address.storage;
        if (mine->ss_family != remote->storage.ss_family)
            continue;
        if (mine->ss_family == AF_INET6
                ? IN6_ARE_ADDR_EQUAL(&((const struct sockaddr_in6 *)mine)->sin6_addr,
                                     &v6->sin6_addr)
                : ((const struct sockaddr_in *)mine)->sin_addr.s_addr == v4->sin_addr.s_addr)
            return true;
    }
    return sock_is_local(remote);
}

/* A bridge for containers has the same address on many hosts: dialed, this host would answer for
 * the peer, that it is dead or that it lives. A peer of this host has no address that is not ours.
 */
static void drop_ours(const struct tcp *tcp, struct tcp_peer_address *address)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; address->count > 1 && i < address->count; i++) {
        if (!is_ours(tcp, &address->list[i]))
            address->list[kept++] = address->list[i];
    }
    if (kept > 0)
        address->count = kept;
}

bool tcp_address_read(const struct tcp *tcp, const void *address, size_t len,
                      struct tcp_peer_address *out)
{
    const uint8_t *in = address;
    if (len < ADDRESS_HEADER || tcp_get32(in) != TCP_MAGIC)
        return false;
    uint32_t count = tcp_get32(in + 4);
    if (count > TCP_ADDRESSES_MAX || len != ADDRESS_HEADER + (size_t)ADDRESS_ENTRY * count)
        return false;
    *out = (struct tcp_peer_address){0};
    memcpy(out->nonce, in + 8, sizeof out->nonce);
    for (int class = 0; class <= 2; class ++) {
        for (uint32_t i = 0; i < count; i++) {
            struct sock_address one;
            if (!read_entry(in + ADDRESS_HEADER + (size_t)ADDRESS_ENTRY * i, &one))
                return false;
            if (preference(tcp, &one) != class)
                continue;
            if (class == 2)
                add_by_each(tcp, &one, out);
            else
                out->list[out->count++] = one;
        }
    }
    drop_ours(tcp, out);
    return true;
}
