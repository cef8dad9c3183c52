/* sock.c: the socket work that the rendezvous and the TCP transport share.
 * The idea: every socket is made here, non-blocking and close-on-exec from its first moment, so
 * that no room has to remember it; whoever must wait does so in wait_ready, which knows the
 * deadline. Writing never raises SIGPIPE (MSG_NOSIGNAL).
 * Invariant: a function that fails has closed what it opened. */
#include "base/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/owned.h"

/* A peer that says nothing is asked after a second, thrice; data that stays unacknowledged for
 * five seconds ends the connection. That bounds how late a lost host is noticed. */
#define KEEPALIVE_IDLE_S     1
#define KEEPALIVE_INTERVAL_S 1
#define KEEPALIVE_COUNT      3
#define USER_TIMEOUT_MS      5000

/* Of a connection within the host, of which the kernel makes twice as many: what is under way stays
 * in the caches that the peer reads it from. With a quarter of that it waits for the peer. */
#define SEND_BUFFER_BYTES (256 << 10)

#define ACCEPT_TRIES_MAX 16 /* connections that died in the queue, skipped in one call */

static uint16_t port_of(const struct sock_address *address)
{
    if (address->storage.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
    if (address->storage.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
    return 0;
}

static void set_port(struct sock_address *address, uint16_t port)
{
    if (address->storage.ss_family == AF_INET)
        ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons(port);
}

/* ---- addresses as text ------------------------------------------------------------------------
 */

const char *sock_text(const struct sock_address *address, char text[SOCK_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN], scope[IF_NAMESIZE + 1] = "";
    if (address->storage.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address->storage;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(text, SOCK_TEXT_MAX, "%s:%u", host, port_of(address));
    } else if (address->storage.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->storage;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        if (v6->sin6_scope_id != 0 && !if_indextoname(v6->sin6_scope_id, scope))
            snprintf(scope, sizeof scope, "%u", v6->sin6_scope_id);
        snprintf(text, SOCK_TEXT_MAX, "[%s%s%s]:%u", host, scope[0] ? "%" : "", scope,
                 port_of(address));
    } else {
        snprintf(text, SOCK_TEXT_MAX, "(no address)");
    }
    return text;
}

/* Cuts "host:port" or "[v6]:port" in two; false when it is neither. *port may be too large. */
static bool split_host_port(const char *text, char host[NI_MAXHOST], unsigned *port)
{
    const char *begin = text, *end;
    if (*text == '[') {
        begin++;
        end = strchr(text, ']');
        if (!end || end[1] != ':')
            return false;
        text = end + 2;
    } else {
        end = strchr(text, ':');
        if (!end || strchr(end + 1, ':'))
            return false;
        text = end + 1;
    }
    size_t len = (size_t)(end - begin), digits = strspn(text, "0123456789");
    if (len == 0 || len >= NI_MAXHOST || digits == 0 || digits > 9 || text[digits] != '\0')
        return false;
    memcpy(host, begin, len);
    host[len] = '\0';
    *port = (unsigned)strtoul(text, NULL, 10);
    return true;
}

/* "::1:5555": an IPv6 address and a port, but which colon is between them? */
static bool lacks_brackets(const char *text)
{
    const char *first = strchr(text, ':'), *last = strrchr(text, ':');
    return *text != '[' && first != last && strlen(text) < SOCK_TEXT_MAX &&
           strspn(text, "0123456789abcdefABCDEF:.%") == strlen(text);
}

static bool is_among(const struct sock_addresses *addresses, const struct sock_address *one)
{
    for (uint32_t i = 0; i < addresses->count; i++) {
        if (addresses->list[i].len == one->len &&
            memcmp(&addresses->list[i].storage, &one->storage, one->len) == 0)
            return true;
    }
    return false;
}

/* Those of a family (AF_UNSPEC: any), each once, with the port. */
static struct sock_addresses pick(const struct addrinfo *found, int family, uint16_t port)
{
    struct sock_addresses picked = {.count = 0};
    for (; found && picked.count < SOCK_ADDRESSES_MAX; found = found->ai_next) {
        struct sock_address one = {.len = (uint32_t)found->ai_addrlen};
        if (family != AF_UNSPEC && found->ai_family != family)
            continue;
        memcpy(&one.storage, found->ai_addr, found->ai_addrlen);
        set_port(&one, port);
        if (!is_among(&picked, &one))
            picked.list[picked.count++] = one;
    }
    return picked;
}

/* The family that is wanted of this host: who names an address has chosen. */
static int wanted_family(const struct settings *settings, const char *host)
{
    struct in_addr v4;
    if (settings->family == FAMILY_ANY || strchr(host, ':') || inet_pton(AF_INET, host, &v4) == 1)
        return AF_UNSPEC;
    return settings->family == FAMILY_IPV6 ? AF_INET6 : AF_INET;
}

tutti_status sock_parse(const struct settings *settings, const char *text,
                        struct sock_addresses *addresses)
{
    char host[NI_MAXHOST];
    unsigned port;
    if (lacks_brackets(text))
        return fail(TUTTI_ERR_ARG,
                    "\"%s\" is no address: expected host:port or [ipv6]:port, here [%.*s]%s", text,
                    (int)(strrchr(text, ':') - text), text, strrchr(text, ':'));
    if (!split_host_port(text, host, &port))
        return fail(TUTTI_ERR_ARG, "\"%.*s\" is no address: expected host:port or [ipv6]:port",
                    SOCK_TEXT_MAX, text);
    if (port > UINT16_MAX)
        return fail(TUTTI_ERR_ARG,
                    "\"%.*s\" is no address: expected host:port or [ipv6]:port, and a port of at "
                    "most 65535",
                    SOCK_TEXT_MAX, text);
    struct addrinfo hints = {.ai_family = *text == '[' ? AF_INET6 : AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(host, NULL, &hints, &found);
    if (error == EAI_SYSTEM)
        return fail_errno(TUTTI_ERR_CONNECT, "look up the host of \"%s\"", text);
    if (error != 0)
        return fail(TUTTI_ERR_CONNECT, "look up the host of \"%.*s\": %s", SOCK_TEXT_MAX, text,
                    gai_strerror(error));
    int family = wanted_family(settings, host);
    struct sock_addresses picked = pick(found, family, (uint16_t)port);
    freeaddrinfo(found);
    if (picked.count == 0) {
        int version = family == AF_INET6 ? 6 : 4;
        return fail(TUTTI_ERR_SETTING,
                    "host \"%.*s\" has no IPv%d address, which TUTTI_FAMILY=ipv%d asks for: give "
                    "it one, or set TUTTI_FAMILY=any at every rank",
                    SOCK_TEXT_MAX, host, version, version);
    }
    *addresses = picked;
    return TUTTI_OK;
}

/* ---- making sockets ---------------------------------------------------------------------------
 */

/* The status of an errno from a call that makes a descriptor. */
static tutti_status limit_or(tutti_status otherwise)
{
    return errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS
               ? TUTTI_ERR_NOMEM
               : otherwise;
}

static tutti_status new_socket(const struct sock_address *address, int *fd)
{
    int family = address->storage.ss_family;
    int made = owned_add(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (made < 0) {
        char text[SOCK_TEXT_MAX];
        return fail_errno(limit_or(TUTTI_ERR_SYSTEM), "socket for %s%s", sock_text(address, text),
                          errno == EMFILE ? " (the limit is ulimit -n)" : "");
    }
    int one = 1;
    /* One family per listener: IPv4 and IPv6 may then use the same port side by side. */
    if (family == AF_INET6)
        setsockopt(made, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    *fd = made;
    return TUTTI_OK;
}

bool sock_is_local(const struct sock_address *address)
{
    struct sock_address probe = *address;
    int fd;
    set_port(&probe, 0);
    if (new_socket(&probe, &fd) != TUTTI_OK)
        return false;
    bool local = bind(fd, (const struct sockaddr *)&probe.storage, probe.len) == 0;
    owned_close(fd);
    return local;
}

/* One attempt. TUTTI_IN_PROGRESS: the port is taken, try another. */
static tutti_status listen_once(const struct sock_address *address, int backlog, int *fd)
{
    int made;
    tutti_status status = new_socket(address, &made);
    if (status != TUTTI_OK)
        return status;
    int one = 1;
    /* A restarted job may listen while connections of the last one still linger in TIME_WAIT.
     * With it, two sockets may be bound to one port; the second then fails in listen. */
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(made, (const struct sockaddr *)&address->storage, address->len) == 0 &&
        listen(made, backlog) == 0) {
        *fd = made;
        return TUTTI_OK;
    }
    char text[SOCK_TEXT_MAX];
    status = fail_errno(TUTTI_ERR_CONNECT, "listen on %s", sock_text(address, text));
    bool taken = errno == EADDRINUSE;
    owned_close(made);
    return taken ? TUTTI_IN_PROGRESS : status;
}

tutti_status sock_listen(const struct settings *settings, const struct sock_address *address,
                         int backlog, int *fd, struct sock_address *bound)
{
    unsigned low, high;
    char text[SOCK_TEXT_MAX];
    tutti_status status = settings_port_range(settings, &low, &high);
    if (status != TUTTI_OK)
        return status;
    if (port_of(address) != 0)
        low = high = port_of(address);
    struct sock_address wanted = *address, real = {.len = sizeof real.storage};
    int made = -1;
    status = TUTTI_IN_PROGRESS;
    for (unsigned port = low; port <= high && status == TUTTI_IN_PROGRESS; port++) {
        set_port(&wanted, (uint16_t)port);
        status = listen_once(&wanted, backlog, &made);
    }
    if (status == TUTTI_IN_PROGRESS && port_of(address) != 0)
        return TUTTI_ERR_CONNECT; /* the sentence of the one attempt says it all */
    if (status == TUTTI_IN_PROGRESS)
        return fail(TUTTI_ERR_CONNECT,
                    "listen on %s: every port of TUTTI_PORTS=%s is in use: widen the range",
                    sock_text(address, text), settings->ports);
    if (status != TUTTI_OK)
        return status;
    socklen_t len = sizeof real.storage;
    if (getsockname(made, (struct sockaddr *)&real.storage, &len) != 0) {
        status = fail_errno(TUTTI_ERR_SYSTEM, "name of the socket that listens on %s",
                            sock_text(&wanted, text));
        owned_close(made);
        return status;
    }
    real.len = len;
    *fd = made;
    if (bound)
        *bound = real;
    return TUTTI_OK;
}

tutti_status sock_connect_start(const struct sock_address *address, int *fd)
{
    int made;
    tutti_status status = new_socket(address, &made);
    if (status != TUTTI_OK)
        return status;
    /* An interrupted connect goes on by itself, as one under way does. */
    if (connect(made, (const struct sockaddr *)&address->storage, address->len) != 0 &&
        errno != EINPROGRESS && errno != EINTR) {
        char text[SOCK_TEXT_MAX];
        status = fail_errno(limit_or(TUTTI_ERR_CONNECT), "connect to %s", sock_text(address, text));
        owned_close(made);
        return status;
    }
    *fd = made;
    return TUTTI_OK;
}

/* A connection to a port of the ephemeral range of this host, where nobody listens, may by chance
 * be given that very port and then meets itself. */
static bool connected_to_itself(int fd)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_len = sizeof here, there_len = sizeof there;
    return getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 && here_len == there_len &&
           (here.ss_family == AF_INET || here.ss_family == AF_INET6) &&
           memcmp(&here, &there, here_len) == 0;
}

tutti_status sock_connect_finish(int fd, const struct sock_address *address)
{
    char text[SOCK_TEXT_MAX];
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    errno = error;
    if (error != 0)
        return fail_errno(TUTTI_ERR_CONNECT, "connect to %s", sock_text(address, text));
    if (connected_to_itself(fd)) {
        /* Closed in the ordinary way it would keep who is meant from that port for a minute. */
        const struct linger reset = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        return fail(TUTTI_ERR_CONNECT, "connect to %s: nobody listens there",
                    sock_text(address, text));
    }
    return TUTTI_OK;
}

tutti_status sock_accept(int listener, int *fd, struct sock_address *from)
{
    for (int i = 0; i < ACCEPT_TRIES_MAX; i++) {
        struct sock_address peer = {0};
        socklen_t len = sizeof peer.storage;
        int made =
            accept4(listener, (struct sockaddr *)&peer.storage, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (made >= 0) {
            peer.len = len;
            *fd = owned_add(made);
            if (from)
                *from = peer;
            return TUTTI_OK;
        }
        if (errno == EAGAIN)
            break;
        /* Linux hands on the error of a connection that died while it waited: skip that one. */
        bool died = errno == EINTR || errno == ECONNABORTED || errno == EPROTO ||
                    errno == ENETDOWN || errno == ENOPROTOOPT || errno == EHOSTDOWN ||
                    errno == ENONET || errno == EHOSTUNREACH || errno == ENETUNREACH ||
                    errno == EPERM;
        if (!died)
            return fail_errno(limit_or(TUTTI_ERR_SYSTEM), "accept a connection");
    }
    *fd = -1;
    return TUTTI_OK;
}

/* Both ends of the connection have one address. */
static bool is_within_host(int fd)
{
    struct sock_address ends[2] = {{.len = sizeof ends[0].storage},
                                   {.len = sizeof ends[1].storage}};
    if (getsockname(fd, (struct sockaddr *)&ends[0].storage, &ends[0].len) != 0 ||
        getpeername(fd, (struct sockaddr *)&ends[1].storage, &ends[1].len) != 0 ||
        ends[0].storage.ss_family != ends[1].storage.ss_family)
        return false;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&ends[0].storage;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&ends[0].storage;
    if (v4->sin_family == AF_INET)
        return v4->sin_addr.s_addr ==
               ((const struct sockaddr_in *)&ends[1].storage)->sin_addr.s_addr;
    return v6->sin6_family == AF_INET6 &&
           memcmp(&v6->sin6_addr, &((const struct sockaddr_in6 *)&ends[1].storage)->sin6_addr,
                  sizeof v6->sin6_addr) == 0;
}

void sock_tune(int fd)
{
    /* Advice: a socket that refuses one of these (not TCP, or a sandbox) works without it. */
    int one = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, count = KEEPALIVE_COUNT;
    unsigned timeout = USER_TIMEOUT_MS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* A lone message whose wire was cut is repeated each 0.2 s, not after ever longer waits. */
    setsockopt(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, &one, sizeof one);
    if (is_within_host(fd)) {
        int bytes = SEND_BUFFER_BYTES;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

void sock_set_patience(int fd, unsigned timeout_ms)
{
    if (!is_within_host(fd))
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

/* ---- whole messages ---------------------------------------------------------------------------
 */

/* Waits until fd has events, at most to the deadline; TUTTI_IN_PROGRESS when it has passed. */
static tutti_status wait_ready(int fd, short events, uint64_t deadline_ms,
                               const struct cancel *cancel)
{
    for (;;) {
        if (clock_ms() >= deadline_ms)
            return TUTTI_IN_PROGRESS;
        tutti_status wanted = clock_check(cancel);
        if (wanted != TUTTI_OK)
            return wanted;
        struct pollfd wait = {.fd = fd, .events = events};
        int ready = poll(&wait, 1, clock_left_ms(deadline_ms, cancel));
        if (ready > 0)
            return TUTTI_OK; /* errors and hang-ups too: the next call reports them */
        if (ready < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "wait for a socket");
    }
}

/* The other end of fd, for sentences. */
static const char *peer_text(int fd, char text[SOCK_TEXT_MAX])
{
    struct sock_address peer = {0};
    socklen_t len = sizeof peer.storage;
    if (getpeername(fd, (struct sockaddr *)&peer.storage, &len) != 0 ||
        (peer.storage.ss_family != AF_INET && peer.storage.ss_family != AF_INET6))
        return "the peer";
    return sock_text(&peer, text);
}

/* What a failed send or recv means; TUTTI_OK: wait and try again. */
static tutti_status io_error(int fd, const char *verb, size_t done, size_t len)
{
    char text[SOCK_TEXT_MAX];
    int error = errno;
    if (error == EAGAIN || error == EINTR)
        return TUTTI_OK;
    bool system = error == EBADF || error == ENOTSOCK || error == EINVAL || error == EFAULT;
    const char *peer = peer_text(fd, text);
    errno = error;
    return fail_errno(system ? TUTTI_ERR_SYSTEM : TUTTI_ERR_PEER, "%s %s after %zu of %zu bytes",
                      verb, peer, done, len);
}

static tutti_status io_wait(int fd, short events, uint64_t deadline_ms, const struct cancel *cancel,
                            const char *verb, size_t done, size_t len)
{
    char text[SOCK_TEXT_MAX];
    tutti_status status = wait_ready(fd, events, deadline_ms, cancel);
    if (status == TUTTI_IN_PROGRESS)
        return fail(TUTTI_ERR_TIMEOUT, "%s %s: time is up after %zu of %zu bytes", verb,
                    peer_text(fd, text), done, len);
    return status;
}

tutti_status sock_send_all(int fd, const void *data, size_t len, uint64_t deadline_ms,
                           const struct cancel *cancel)
{
    size_t done = 0;
    while (done < len) {
        ssize_t sent = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            done += (size_t)sent;
            continue;
        }
        tutti_status status = io_error(fd, "send to", done, len);
        if (status == TUTTI_OK)
            status = io_wait(fd, POLLOUT, deadline_ms, cancel, "send to", done, len);
        if (status != TUTTI_OK)
            return status;
    }
    return TUTTI_OK;
}

tutti_status sock_recv_all(int fd, void *data, size_t len, uint64_t deadline_ms,
                           const struct cancel *cancel)
{
    size_t done = 0;
    while (done < len) {
        ssize_t got = recv(fd, (char *)data + done, len - done, MSG_DONTWAIT);
        if (got > 0) {
            done += (size_t)got;
            continue;
        }
        char text[SOCK_TEXT_MAX];
        if (got == 0)
            return fail(TUTTI_ERR_PEER, "receive from %s: it closed after %zu of %zu bytes",
                        peer_text(fd, text), done, len);
        tutti_status status = io_error(fd, "receive from", done, len);
        if (status == TUTTI_OK)
            status = io_wait(fd, POLLIN, deadline_ms, cancel, "receive from", done, len);
        if (status != TUTTI_OK)
            return status;
    }
    return TUTTI_OK;
}
