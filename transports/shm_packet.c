/* shm_packet.c: packets and descriptors over the Unix socket of a link: one message each, of
 * exactly the length its kind has; anything else is refused. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "transports/shm.h"

static size_t packet_bytes(uint32_t kind)
{
    size_t head = offsetof(struct shm_packet, hello);
    switch (kind) {
    case SHM_HELLO:
    case SHM_ANSWER:
        return head + sizeof((struct shm_packet *)0)->hello;
    case SHM_REGION:
    case SHM_GONE:
        return head + sizeof((struct shm_packet *)0)->region;
    case SHM_NOTICE:
        return head + sizeof(struct notice);
    case SHM_BYE:
    case SHM_KNOCK:
        return head;
    default:
        return 0;
    }
}

bool shm_packet_write(struct shm *shm, int to, struct shm_packet *packet, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {packet, packet_bytes(packet->kind)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    packet->rank = shm->local.config->rank;
    if (fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    shm->local.stats.syscalls++;
    ssize_t sent;
    do
        sent = sendmsg(to, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)part.iov_len;
}

/* The descriptor that came along, if exactly one did; there is room for two, which nobody sends. */
static int take_descriptor(struct msghdr *message)
{
    int fds[2];
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
        return -1;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
    must(count <= 2);
    memcpy(fds, CMSG_DATA(header), count * sizeof *fds);
    if (count == 1)
        return fds[0];
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    return -1;
}

enum shm_packet_got shm_packet_read(struct shm *shm, int from, struct shm_packet *packet, int *fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {packet, sizeof *packet};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    shm->local.stats.syscalls++;
    *fd = -1;
    ssize_t got;
    /* Reset says that the peer closed with something of ours unread; what it sent is still here. */
    do
        got = recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got < 0)
        return errno == EAGAIN ? SHM_PACKET_NONE : SHM_PACKET_END;
    *fd = take_descriptor(&message);
    if (got == 0)
        return SHM_PACKET_END;
    if ((size_t)got >= offsetof(struct shm_packet, hello) &&
        (size_t)got == packet_bytes(packet->kind))
        return SHM_PACKET_ONE;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return SHM_PACKET_BAD;
}

bool shm_packet_send(struct shm *shm, struct shm_link *link, struct shm_packet *packet, int fd)
{
    return link->state == SHM_UP && link->fd >= 0 && shm_packet_write(shm, link->fd, packet, fd);
}
