/* shm_link.c: how a link between two processes of one host is made, and how its end is noticed.
 *
 * The lower rank dials: it makes the rings, connects to the acceptor's abstract socket and sends
 * its hello, its proof of the communicator's secret and the rings' descriptor in one packet; the
 * acceptor need not be inside the library for that. The acceptor checks user and proof, maps the
 * rings and answers with its own proof. The challenge of the acceptor travels in its address, so
 * nobody waits for a round trip.
 *
 * The socket's end of file means that the peer's process is gone; a descriptor of the process
 * itself (pidfd) says so too when a forked child still holds the socket. A farewell before it means
 * that the peer closed in order. A rank that waits to be dialed has no socket yet: it looks now and
 * then whether the name that the dialer listens at is still taken, which asks nothing of a rank
 * that may be computing, and watches the process behind it.
 *
 * Invariant: everything read from a socket is checked before it is used, and a connection that does
 * not say hello costs one place in a table until it is dropped. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "transports/shm.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define EVENTS_PER_CALL 32  /* epoll events taken at once; the rest come with the next call */
#define LOOK_MS         500 /* between looks at a rank that has not dialed */

/* What an epoll event is about: kind in the high half, rank or place in the low. */
enum watched { WATCH_LISTENER, WATCH_STRANGER, WATCH_SOCKET, WATCH_EXIT };

static bool watch(struct shm *shm, int fd, enum watched kind, uint32_t index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | index};
    return epoll_ctl(shm->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static socklen_t socket_name(const struct shm_address *address, struct sockaddr_un *name)
{
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    char *at = name->sun_path + 1; /* a leading zero: abstract */
    at += sprintf(at, "tutti-");
    for (size_t i = 0; i < sizeof address->name; i++)
        at += sprintf(at, "%02x", address->name[i]);
    return (socklen_t)(at - (char *)name);
}

tutti_status shm_listen(struct shm *shm)
{
    struct sockaddr_un name;
    socklen_t len = socket_name(&shm->address, &name);
    shm->epoll = owned_add(epoll_create1(EPOLL_CLOEXEC));
    shm->listener = owned_add(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (shm->epoll < 0 || shm->listener < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: a socket to listen on");
    if (bind(shm->listener, (struct sockaddr *)&name, len) < 0 ||
        listen(shm->listener, SOMAXCONN) < 0 || !watch(shm, shm->listener, WATCH_LISTENER, 0))
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: listening on an abstract Unix socket");
    return TUTTI_OK;
}

/* ---- making a link ---- */

tutti_status shm_link_new(struct shm *shm, uint32_t peer, struct shm_link **link)
{
    struct shm_link *made = calloc(1, sizeof *made);
    if (!made)
        return fail(TUTTI_ERR_NOMEM, "shm: no memory for a link to %s", shm_peer_name(shm, peer));
    made->fd = made->exit_fd = made->rings = -1;
    tutti_status status = local_link_init(&shm->local, &made->base, peer);
    if (status != TUTTI_OK) {
        local_link_free(&shm->local, &made->base);
        free(made);
        return status;
    }
    made->state = SHM_WAITING;
    made->look_ms = clock_ms() + LOOK_MS;
    made->ours_generation = mem_generation();
    shm->pending_links++;
    *link = made;
    return TUTTI_OK;
}

static void set_state(struct shm *shm, struct shm_link *link, enum shm_state state)
{
    bool was = link->state == SHM_WAITING || link->state == SHM_DIALING;
    bool is = state == SHM_WAITING || state == SHM_DIALING;
    shm->pending_links += is;
    shm->pending_links -= was;
    link->state = state;
}

/* A forked child may hold a copy of the descriptor, which keeps it in the epoll set when closed. */
static void unwatch_close(struct shm *shm, int *fd)
{
    if (*fd >= 0) {
        epoll_ctl(shm->epoll, EPOLL_CTL_DEL, *fd, NULL);
        owned_close(*fd);
    }
    *fd = -1;
}

static void close_descriptors(struct shm *shm, struct shm_link *link)
{
    unwatch_close(shm, &link->fd);
    unwatch_close(shm, &link->exit_fd);
    owned_close(link->rings);
    link->rings = -1;
}

static void link_end(struct shm *shm, struct shm_link *link, tutti_status status, bool quiet,
                     const char *sentence)
{
    char copy[SENTENCE_MAX];
    /* Who has something to tell waits for a link that is being made as a transfer does. */
    bool unheard = link->state != SHM_UP && link->waiting_count > 0;
    snprintf(copy, sizeof copy, "%s", sentence); /* it may be the thread's last, soon overwritten */
    set_state(shm, link, SHM_DOWN);
    local_link_fail(&shm->local, &link->base, status, quiet && !unheard, copy);
    close_descriptors(shm, link);
}

/* Who is at the other end of a socket: TUTTI_ERR_AUTH if another user. */
static tutti_status check_user(int fd, pid_t *pid)
{
    struct ucred who;
    socklen_t len = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: the user at the other end of a socket");
    if (who.uid != geteuid())
        return fail(TUTTI_ERR_AUTH, "shm: a process of user %u answered, not of user %u", who.uid,
                    geteuid());
    *pid = who.pid;
    return TUTTI_OK;
}

/* A descriptor that becomes readable when the process at the other end of a socket ends. Optional:
 * without it (an old kernel, too many files) the socket's end of file remains. */
static void watch_exit(struct shm *shm, struct shm_link *link, int fd)
{
    socklen_t len = sizeof link->exit_fd;
    unwatch_close(shm, &link->exit_fd);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &link->exit_fd, &len) < 0)
        link->exit_fd = link->pid > 0 ? (int)syscall(SYS_pidfd_open, link->pid, 0) : -1;
    owned_add(link->exit_fd);
    if (link->exit_fd >= 0 && !watch(shm, link->exit_fd, WATCH_EXIT, link->base.peer)) {
        owned_close(link->exit_fd);
        link->exit_fd = -1;
    }
}

/* TUTTI_IN_PROGRESS: to be said again. A user who is not root may have only so many descriptors
 * under way, all processes together, as one of them may have open (ulimit -n), and those of many
 * ranks that dial at once stay under way until the acceptors read. */
static tutti_status say_hello(struct shm *shm, struct shm_link *link)
{
    struct shm_packet packet = {.kind = SHM_HELLO};
    tutti_status status = auth_hello(&link->auth, packet.hello.hello);
    if (status == TUTTI_OK)
        status = auth_take_hello(&link->auth, link->address.hello);
    if (status == TUTTI_OK)
        status = auth_proof(&link->auth, packet.hello.proof);
    if (status != TUTTI_OK)
        return status;
    packet.hello.self = (struct shm_self){(uintptr_t)&shm->self, atomic_load(&shm->self)};
    packet.hello.shape = shm_ring_shape(shm->local.config);
    if (shm_packet_write(shm, link->fd, &packet, link->rings))
        return TUTTI_OK;
    if (errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM || errno == EAGAIN)
        return TUTTI_IN_PROGRESS;
    if (errno != EPIPE && errno != ECONNRESET)
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: greeting %s",
                          shm_peer_name(shm, link->base.peer));
    /* It let the connection go, or is gone: dialing again will tell. */
    owned_close(link->fd);
    link->fd = -1;
    return TUTTI_IN_PROGRESS;
}

/* A socket that is connected to the peer's listener; -1 with errno if there is none. */
static int reach(const struct shm_address *address)
{
    struct sockaddr_un name;
    socklen_t len = socket_name(address, &name);
    int fd = owned_add(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, len) < 0) {
        int error = errno;
        owned_close(fd);
        fd = -1;
        errno = error;
    }
    return fd;
}

/* Connects; TUTTI_IN_PROGRESS when the acceptor's backlog is full. */
static tutti_status dial(struct shm *shm, struct shm_link *link)
{
    const char *peer = shm_peer_name(shm, link->base.peer);
    link->fd = reach(&link->address);
    if (link->fd >= 0)
        return check_user(link->fd, &link->pid);
    if (errno == EAGAIN || errno == EINTR)
        return TUTTI_IN_PROGRESS;
    if (errno == ECONNREFUSED)
        return fail(TUTTI_ERR_PEER, "%s has left the communicator or died", peer);
    return fail_errno(TUTTI_ERR_SYSTEM, "shm: a socket to %s", peer);
}

void shm_link_dial(struct shm *shm, struct shm_link *link)
{
    set_state(shm, link, SHM_DIALING);
    tutti_status status = link->fd < 0 ? dial(shm, link) : TUTTI_OK;
    if (status == TUTTI_OK && !link->map)
        status = shm_rings_make(shm, link, &link->rings);
    if (status == TUTTI_OK)
        status = say_hello(shm, link);
    if (status == TUTTI_IN_PROGRESS)
        return;
    owned_close(link->rings);
    link->rings = -1;
    if (status == TUTTI_OK && !watch(shm, link->fd, WATCH_SOCKET, link->base.peer))
        status = fail_errno(TUTTI_ERR_SYSTEM, "shm: watching the link to %s",
                            shm_peer_name(shm, link->base.peer));
    if (status != TUTTI_OK) {
        link_end(shm, link, status, status == TUTTI_ERR_PEER, status_sentence());
        return;
    }
    set_state(shm, link, SHM_UP);
    watch_exit(shm, link, link->fd);
}

/* The acceptor's side: who is it, and does it know the secret? */
static tutti_status hello_check(struct shm *shm, const struct shm_packet *packet, pid_t *pid,
                                int fd, struct shm_packet *answer)
{
    struct auth auth = shm->auth;
    struct ring_shape mine = shm_ring_shape(shm->local.config);
    tutti_status status = check_user(fd, pid);
    if (status == TUTTI_OK)
        status = auth_take_hello(&auth, packet->hello.hello);
    if (status == TUTTI_OK)
        status = auth_check_proof(&auth, packet->hello.proof);
    if (status == TUTTI_OK)
        status = auth_proof(&auth, answer->hello.proof);
    if (status == TUTTI_OK &&
        (packet->rank >= shm->local.config->rank || packet->hello.shape.slots != mine.slots ||
         packet->hello.shape.data_bytes != mine.data_bytes))
        status = fail(TUTTI_ERR_PROTOCOL, "shm: rank %u greeted as no peer would", packet->rank);
    return status;
}

static tutti_status link_accept(struct shm *shm, int fd, const struct shm_packet *packet, int rings)
{
    struct shm_packet answer = {.kind = SHM_ANSWER};
    pid_t pid = 0;
    tutti_status status = hello_check(shm, packet, &pid, fd, &answer);
    if (status != TUTTI_OK)
        return status;
    struct shm_link *link = shm_link_of(shm, packet->rank);
    if (!link && (status = shm_link_new(shm, packet->rank, &link)) != TUTTI_OK)
        return status;
    if (link->state != SHM_WAITING)
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s greeted twice", shm_peer_name(shm, packet->rank));
    link->pid = pid;
    link->self = packet->hello.self;
    link->answered = true;
    status = shm_rings_take(shm, link, rings);
    answer.hello.self = (struct shm_self){(uintptr_t)&shm->self, atomic_load(&shm->self)};
    answer.hello.shape = packet->hello.shape;
    memcpy(answer.hello.hello, shm->address.hello, AUTH_HELLO_LEN);
    /* Who has left already does not need it; what it said before that is still to be read. */
    if (status == TUTTI_OK && !shm_packet_write(shm, fd, &answer, -1) && errno != EPIPE &&
        errno != ECONNRESET)
        status = fail_errno(TUTTI_ERR_PEER, "shm: answering %s", shm_peer_name(shm, packet->rank));
    /* From here on the socket belongs to the link. */
    struct epoll_event event = {.events = EPOLLIN,
                                .data.u64 = (uint64_t)WATCH_SOCKET << 32 | packet->rank};
    if (status == TUTTI_OK && epoll_ctl(shm->epoll, EPOLL_CTL_MOD, fd, &event) < 0)
        status = fail_errno(TUTTI_ERR_SYSTEM, "shm: watching a link");
    if (status != TUTTI_OK) {
        link_end(shm, link, status, false, status_sentence());
        return status;
    }
    link->fd = fd;
    set_state(shm, link, SHM_UP);
    watch_exit(shm, link, link->fd);
    shm_foreign_probe(shm, link);
    return TUTTI_OK;
}

/* ---- strangers ---- */

static void stranger_drop(struct shm *shm, struct stranger *stranger)
{
    unwatch_close(shm, &stranger->fd);
    shm->stranger_count--;
}

static void refused(const struct shm *shm)
{
    log_at(LOG_LEVEL_WARN, (int)shm->local.config->rank, "a connection was refused: %s",
           status_sentence());
}

static void stranger_read(struct shm *shm, struct stranger *stranger)
{
    struct shm_packet packet;
    int rings;
    if (stranger->fd < 0)
        return;
    enum shm_packet_got got = shm_packet_read(shm, stranger->fd, &packet, &rings);
    if (got == SHM_PACKET_NONE)
        return;
    tutti_status status = TUTTI_ERR_PROTOCOL;
    if (got == SHM_PACKET_ONE && packet.kind == SHM_KNOCK && packet.rank < shm->local.config->size)
        shm->knocked[packet.rank] = true;
    if (got == SHM_PACKET_ONE && packet.kind == SHM_HELLO)
        status = link_accept(shm, stranger->fd, &packet, rings);
    if (rings >= 0)
        close(rings);
    if (status == TUTTI_OK) {
        stranger->fd = -1;
        shm->stranger_count--;
        return;
    }
    if (got == SHM_PACKET_ONE && packet.kind == SHM_HELLO)
        refused(shm);
    stranger_drop(shm, stranger);
}

/* Whoever dials cannot be let in, so the links that wait for it will not come about. */
static void no_descriptors(struct shm *shm)
{
    char sentence[SENTENCE_MAX];
    struct rlimit limit = {0};
    uint32_t ranks = shm->local.made_count + 1;
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(
        sentence, sizeof sentence,
        "shm: no file descriptor to accept a peer's connection (%s): %u ranks on one host need "
        "up to %u, the limit (ulimit -n) is %llu",
        strerror(errno), ranks, 2 * ranks + 16, (unsigned long long)limit.rlim_cur);
    for (uint32_t i = 0; i < shm->local.config->size; i++) {
        struct shm_link *link = shm_link_of(shm, i);
        if (link && link->state == SHM_WAITING)
            link_end(shm, link, TUTTI_ERR_NOMEM, false, sentence);
    }
}

/* Of another user, who may come in a loop: the log says so once. */
static void refuse_user(struct shm *shm)
{
    log_at(shm->user_refused ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, (int)shm->local.config->rank,
           "a connection was refused: %s", status_sentence());
    shm->user_refused = true;
}

/* Lets in at most so many of those who wait. */
static void accept_strangers(struct shm *shm, int most)
{
    for (int i = 0; i < most && shm->stranger_count < SHM_STRANGERS_MAX; i++) {
        shm->local.stats.syscalls++;
        int fd = owned_add(accept4(shm->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
            no_descriptors(shm);
        if (fd < 0)
            return;
        pid_t pid;
        if (check_user(fd, &pid) != TUTTI_OK) {
            refuse_user(shm);
            owned_close(fd);
            continue;
        }
        uint32_t at = 0;
        while (shm->strangers[at].fd >= 0)
            at++;
        shm->strangers[at] = (struct stranger){.fd = fd, .since_ms = clock_ms()};
        shm->stranger_count++;
        if (!watch(shm, fd, WATCH_STRANGER, at))
            stranger_drop(shm, &shm->strangers[at]);
        else
            stranger_read(shm, &shm->strangers[at]);
    }
}

static void drop_silent_strangers(struct shm *shm)
{
    uint64_t now = clock_ms();
    for (uint32_t i = 0; i < SHM_STRANGERS_MAX && shm->stranger_count > 0; i++) {
        struct stranger *stranger = &shm->strangers[i];
        if (stranger->fd < 0 || now - stranger->since_ms <= SHM_STRANGER_MS)
            continue;
        stranger_read(shm, stranger); /* this rank may be the one that was away */
        if (stranger->fd >= 0)
            stranger_drop(shm, stranger);
    }
}

void shm_listen_end(struct shm *shm)
{
    for (uint32_t i = 0; i < SHM_STRANGERS_MAX; i++) {
        if (shm->strangers[i].fd >= 0)
            stranger_drop(shm, &shm->strangers[i]);
    }
    unwatch_close(shm, &shm->listener);
}

/* ---- ends ---- */

static void note_end(struct shm_link *link, tutti_status status, const char *sentence)
{
    if (link->ended)
        return;
    link->ended = status;
    snprintf(link->ended_sentence, sizeof link->ended_sentence, "%s", sentence);
}

static void note_gone(struct shm *shm, struct shm_link *link)
{
    char sentence[SENTENCE_MAX];
    const char *peer = shm_peer_name(shm, link->base.peer);
    if (link->farewell)
        snprintf(sentence, sizeof sentence, "%s has left the communicator", peer);
    else if (!link->answered)
        snprintf(sentence, sizeof sentence, "%s closed the connection without an answer", peer);
    else
        snprintf(sentence, sizeof sentence, "%s has died", peer);
    note_end(link, TUTTI_ERR_PEER, sentence);
}

/* ---- a rank that has not dialed ---- */

/* Is the name at which the dialer listens free? Then the dialer is gone for good. Two that ask at
 * once may take each other for the dialer, until they ask again. */
static bool name_is_free(const struct shm_address *address)
{
    struct sockaddr_un name;
    socklen_t len = socket_name(address, &name);
    int fd = owned_add(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&name, len) == 0;
    owned_close(fd);
    return is_free;
}

/* A forked child of the dialer holds its name too, so the process is watched as well. One short
 * connection tells which it is, and tells the dialer who waits. */
static bool watch_dialer(struct shm *shm, struct shm_link *link)
{
    int fd = reach(&link->address);
    bool lives = true;
    if (fd >= 0 && check_user(fd, &link->pid) == TUTTI_OK) {
        watch_exit(shm, link, fd);
        lives = link->exit_fd >= 0 || link->pid <= 0 || kill(link->pid, 0) == 0 || errno != ESRCH;
        shm_packet_write(shm, fd, &(struct shm_packet){.kind = SHM_KNOCK}, -1);
    }
    owned_close(fd);
    return lives;
}

/* It is gone, unless it had dialed before that. */
static void note_missing(struct shm *shm, struct shm_link *link, const char *what)
{
    char sentence[SENTENCE_MAX];
    accept_strangers(shm, SOMAXCONN); /* all who had come until then */
    if (link->state != SHM_WAITING)
        return;
    snprintf(sentence, sizeof sentence, "%s %s", shm_peer_name(shm, link->base.peer), what);
    note_end(link, TUTTI_ERR_PEER, sentence);
}

static void look_for_dialer(struct shm *shm, struct shm_link *link)
{
    if (clock_ms() < link->look_ms)
        return;
    link->look_ms = clock_ms() + LOOK_MS;
    if (name_is_free(&link->address))
        note_missing(shm, link, "has left the communicator or died");
    else if (link->exit_fd < 0 && !watch_dialer(shm, link))
        note_missing(shm, link, "has died");
}

/* ---- a link's socket ---- */

static tutti_status take_answer(struct shm *shm, struct shm_link *link,
                                const struct shm_packet *packet)
{
    if (link->answered)
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s answered twice",
                    shm_peer_name(shm, link->base.peer));
    tutti_status status = auth_check_proof(&link->auth, packet->hello.proof);
    if (status != TUTTI_OK)
        return status;
    link->answered = true;
    link->self = packet->hello.self;
    shm_foreign_probe(shm, link);
    return TUTTI_OK;
}

static tutti_status take_packet(struct shm *shm, struct shm_link *link, struct shm_packet *packet,
                                int *fd)
{
    if (packet->kind == SHM_ANSWER)
        return take_answer(shm, link, packet);
    if (!link->answered)
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s did not prove itself first",
                    shm_peer_name(shm, link->base.peer));
    if (packet->kind == SHM_REGION) {
        int region = *fd;
        *fd = -1;
        return shm_region_add(shm, link, packet->region.id, packet->region.bytes, region);
    }
    if (packet->kind == SHM_GONE)
        shm_region_drop(link, packet->region.id);
    else if (packet->kind == SHM_NOTICE)
        local_notice_keep(&shm->local, link->base.peer, &packet->notice);
    else if (packet->kind == SHM_BYE)
        link->farewell = true;
    else
        return fail(TUTTI_ERR_PROTOCOL, "shm: %s greeted twice",
                    shm_peer_name(shm, link->base.peer));
    return TUTTI_OK;
}

void shm_link_read(struct shm *shm, struct shm_link *link)
{
    while (link->fd >= 0 && !link->ended) {
        struct shm_packet packet;
        int fd;
        enum shm_packet_got got = shm_packet_read(shm, link->fd, &packet, &fd);
        if (got == SHM_PACKET_NONE)
            return;
        tutti_status status = TUTTI_OK;
        if (got == SHM_PACKET_ONE)
            status = take_packet(shm, link, &packet, &fd);
        else if (got == SHM_PACKET_BAD)
            status = fail(TUTTI_ERR_PROTOCOL, "shm: %s sent a packet of a wrong length",
                          shm_peer_name(shm, link->base.peer));
        if (fd >= 0)
            close(fd);
        if (status != TUTTI_OK)
            note_end(link, status, status_sentence());
        if (got == SHM_PACKET_END || link->farewell)
            note_gone(shm, link);
    }
}

/* Notices that found no room. */
static void flush_notices(struct shm *shm, struct shm_link *link)
{
    while (link->waiting_count > 0) {
        struct shm_packet packet = {.kind = SHM_NOTICE, .notice = link->waiting[0]};
        if (!shm_packet_send(shm, link, &packet, -1))
            return;
        link->waiting_count--;
        memmove(link->waiting, link->waiting + 1, link->waiting_count * sizeof *link->waiting);
    }
}

tutti_status shm_link_notify(struct shm *shm, struct shm_link *link, const struct notice *notice)
{
    if (!link)
        return fail(TUTTI_ERR_PEER, "shm: no link to that rank");
    if (link->state == SHM_DOWN)
        return fail(link->base.down, "%s", link->base.sentence);
    if (link->waiting_count == SHM_NOTICES_MAX)
        return TUTTI_IN_PROGRESS;
    link->waiting[link->waiting_count++] = *notice;
    flush_notices(shm, link);
    return TUTTI_OK;
}

/* Does a notice wait for room, or, if that counts too, for its link to be made? */
static bool is_untold(struct shm *shm, bool making)
{
    for (uint32_t i = 0; i < shm->local.made_count; i++) {
        const struct shm_link *link = (const struct shm_link *)shm->local.made[i];
        if (link->waiting_count > 0 &&
            (link->state == SHM_UP || (making && link->state != SHM_DOWN)))
            return true;
    }
    return false;
}

void shm_flush(struct shm *shm)
{
    uint64_t now = clock_ms(), deadline = now + TRANSPORT_FLUSH_MS,
             answer = now + TRANSPORT_ANSWER_MS;
    while (is_untold(shm, now < answer) && now < deadline) {
        clock_sleep_us(200);
        shm_service(shm);
        now = clock_ms();
    }
}

void shm_link_close(struct shm *shm, struct shm_link *link)
{
    local_link_drop(&shm->local, &link->base);
    struct shm_packet packet = {.kind = SHM_BYE};
    shm_packet_send(shm, link, &packet, -1);
    set_state(shm, link, SHM_DOWN);
    close_descriptors(shm, link);
    shm_memory_free(link);
    local_link_free(&shm->local, &link->base);
    auth_end(&link->auth);
    free(link);
}

/* ---- the slow path ---- */

static void handle(struct shm *shm, uint64_t what)
{
    uint32_t index = (uint32_t)what;
    enum watched kind = (enum watched)(what >> 32);
    if (kind == WATCH_LISTENER) {
        accept_strangers(shm, SHM_STRANGERS_MAX); /* the rest comes with the next call */
    } else if (kind == WATCH_STRANGER) {
        stranger_read(shm, &shm->strangers[index]);
    } else {
        struct shm_link *link = shm_link_of(shm, index);
        if (!link)
            return;
        shm_link_read(shm, link);
        if (kind == WATCH_EXIT && link->state == SHM_WAITING)
            note_missing(shm, link, "has died");
        else if (kind == WATCH_EXIT)
            note_gone(shm, link);
    }
}

void shm_service(struct shm *shm)
{
    struct epoll_event events[EVENTS_PER_CALL];
    shm->local.stats.syscalls++;
    int count = epoll_wait(shm->epoll, events, EVENTS_PER_CALL, 0);
    for (int i = 0; i < count; i++)
        handle(shm, events[i].data.u64);
    if (shm->stranger_count > 0)
        drop_silent_strangers(shm);
    bool room = true; /* for descriptors under way: it is the same for all links */
    for (uint32_t i = 0; i < shm->local.made_count; i++) {
        struct shm_link *link = (struct shm_link *)shm->local.made[i];
        if (link->state == SHM_DOWN)
            continue;
        if (link->state == SHM_DIALING && (room || link->fd < 0)) {
            shm_link_dial(shm, link);
            room = room && !(link->state == SHM_DIALING && link->fd >= 0);
        } else if (link->state == SHM_WAITING)
            look_for_dialer(shm, link);
        if (link->state == SHM_UP && link->waiting_count > 0)
            flush_notices(shm, link);
        if (link->state == SHM_UP)
            shm_regions_sweep(shm, link);
        if (link->ended && link->state != SHM_DOWN)
            link_end(shm, link, link->ended, link->farewell || !link->answered,
                     link->ended_sentence);
    }
}
