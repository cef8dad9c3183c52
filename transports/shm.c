/* shm.c: ranks that are processes of one host. See shm.h for the parts and the protocol.
 *
 * Invariant: sending, receiving and polling make no system call, except to read memory that must
 * be read by the kernel, and a look at the sockets every few thousand polls. */
#include "transports/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/owned.h"

#define POLLS_PER_SERVICE         4096 /* ~50 us of polling for 0.3 us of looking */
#define POLLS_PER_PENDING_SERVICE 16   /* while links are still to be made */

static bool read_boot(char boot[40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, boot, 36);
    close(fd);
    return got == 36;
}

static bool shm_probe(const struct settings *settings, char *why, size_t len)
{
    char boot[40] = "";
    struct stat net;
    int file = memfd_create("tutti-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0) {
        snprintf(why, len, "no memory files (memfd_create): %s", strerror(errno));
        return false;
    }
    close(file);
    if (!read_boot(boot) || stat("/proc/thread-self/ns/net", &net) < 0) {
        snprintf(why, len, "/proc does not tell hosts apart: %s", strerror(errno));
        return false;
    }
    return true;
}

/* This user as the user namespace around ours has it: containers may have the same user for two,
 * and two for the same. */
static uint32_t outer_user(void)
{
    uint32_t user = geteuid(), outer = user, inside, outside, count;
    FILE *map = fopen("/proc/self/uid_map", "re");
    while (map && fscanf(map, "%" SCNu32 " %" SCNu32 " %" SCNu32, &inside, &outside, &count) == 3) {
        if (user >= inside && user - inside < count)
            outer = outside + (user - inside);
    }
    if (map)
        fclose(map);
    return outer;
}

/* FNV-1a: only equality matters. */
static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    return hash;
}

static tutti_status auth_begin(const struct transport_config *config, bool server,
                               struct auth *auth)
{
    char secret[65];
    uint8_t job[16] = "tutti sh";
    for (int i = 0; i < 32; i++)
        sprintf(secret + 2 * i, "%02x", config->secret[i]);
    memcpy(job + 8, &config->comm_id, 8);
    return auth_start(auth, secret, job, server);
}

static tutti_status make_address(struct shm *shm)
{
    const struct transport_config *config = shm->local.config;
    struct shm_address *address = &shm->address;
    struct stat net;
    if (!read_boot(address->boot) || stat("/proc/thread-self/ns/net", &net) < 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "shm: reading the host's identity from /proc");
    address->net[0] = net.st_dev;
    address->net[1] = net.st_ino;
    address->host = hash_text(config->settings->host_id);
    address->comm_id = config->comm_id;
    address->user = outer_user();
    address->pid = (uint32_t)getpid();
    uint64_t self;
    tutti_status status = auth_random(address->name, sizeof address->name);
    if (status == TUTTI_OK)
        status = auth_random(&self, sizeof self);
    if (status == TUTTI_OK)
        status = auth_begin(config, true, &shm->auth);
    if (status == TUTTI_OK)
        status = auth_hello(&shm->auth, address->hello);
    if (status == TUTTI_OK)
        atomic_store(&shm->self, self);
    return status;
}

/* Ends every link, with a farewell, and listens no more. */
static void leave_peers(struct shm *shm)
{
    /* The caller's transfers may be gone already: they are forgotten before anything else. */
    for (uint32_t i = 0; shm->local.links && i < shm->local.config->size; i++) {
        if (shm->local.links[i])
            local_link_drop(&shm->local, shm->local.links[i]);
    }
    if (shm->epoll >= 0 && shm->listener >= 0) {
        shm_service(shm); /* who dialed meanwhile hears a farewell */
        shm_flush(shm);
    }
    for (uint32_t i = 0; shm->local.links && i < shm->local.config->size; i++) {
        if (shm->local.links[i])
            shm_link_close(shm, shm_link_of(shm, i));
    }
    shm_listen_end(shm);
}

static void shm_close(struct transport *transport)
{
    struct shm *shm = (struct shm *)transport;
    /* A forked child has a copy of the rings; a word from it would reach our peers. */
    if (!shm || shm->owner != getpid())
        return;
    leave_peers(shm);
    if (shm->epoll >= 0)
        owned_close(shm->epoll);
    auth_end(&shm->auth);
    free(shm->knocked);
    local_free(&shm->local);
    free(shm);
}

static tutti_status shm_open_transport(const struct transport_config *config,
                                       struct transport **transport)
{
    static const struct local_ways ways = {.refer = shm_refer, .fetch = shm_fetch};
    struct shm *shm = aligned_alloc(_Alignof(struct shm), sizeof *shm);
    if (!shm)
        return fail(TUTTI_ERR_NOMEM, "shm: no memory for a transport");
    memset(shm, 0, offsetof(struct shm, bounce));
    shm->owner = getpid();
    shm->listener = shm->epoll = -1;
    shm->next_service = POLLS_PER_PENDING_SERVICE;
    shm->found_generation = mem_generation();
    for (uint32_t i = 0; i < SHM_STRANGERS_MAX; i++)
        shm->strangers[i].fd = -1;
    tutti_status status = local_init(&shm->local, &shm_ops, config, &ways);
    shm->knocked = calloc(config->size, sizeof *shm->knocked);
    if (status == TUTTI_OK && !shm->knocked)
        status = fail(TUTTI_ERR_NOMEM, "shm: no memory for a transport of %u ranks", config->size);
    struct ring_shape shape = shm_ring_shape(config);
    shm->local.eager_max = SHM_INPLACE_MIN - 1;
    shm->local.eager_fresh_max =
        ring_piece(&shape) < SHM_FRESH_MAX ? ring_piece(&shape) : SHM_FRESH_MAX;
    if (config->settings->cma)
        shm_permit_reads();
    if (status == TUTTI_OK)
        status = make_address(shm);
    if (status == TUTTI_OK)
        status = shm_listen(shm);
    if (status != TUTTI_OK) {
        shm_close(&shm->local.base);
        return status;
    }
    *transport = &shm->local.base;
    return TUTTI_OK;
}

static tutti_status shm_get_address(struct transport *transport, void *address, size_t *len)
{
    const struct shm *shm = (const struct shm *)transport;
    _Static_assert(sizeof shm->address <= TRANSPORT_ADDRESS_MAX, "an address must fit");
    memcpy(address, &shm->address, sizeof shm->address);
    *len = sizeof shm->address;
    return TUTTI_OK;
}

static bool shm_reaches(struct transport *transport, uint32_t peer, const void *address, size_t len)
{
    const struct shm_address *mine = &((const struct shm *)transport)->address;
    struct shm_address theirs;
    if (len != sizeof theirs)
        return false;
    memcpy(&theirs, address, sizeof theirs);
    return memcmp(theirs.boot, mine->boot, sizeof mine->boot) == 0 &&
           theirs.net[0] == mine->net[0] && theirs.net[1] == mine->net[1] &&
           theirs.host == mine->host && theirs.comm_id == mine->comm_id &&
           theirs.user == mine->user;
}

static tutti_status shm_connect(struct transport *transport, uint32_t peer, const void *address,
                                size_t len)
{
    struct shm *shm = (struct shm *)transport;
    must(peer < shm->local.config->size && peer != shm->local.config->rank);
    struct shm_link *link = shm_link_of(shm, peer);
    if (link)
        return TUTTI_OK;
    if (!shm_reaches(transport, peer, address, len))
        return fail(TUTTI_ERR_CONNECT, "shm: %s is not on this host", shm_peer_name(shm, peer));
    tutti_status status = shm_link_new(shm, peer, &link);
    if (status != TUTTI_OK)
        return status;
    memcpy(&link->address, address, sizeof link->address);
    shm->next_service = 0;
    if (peer < shm->local.config->rank)
        return TUTTI_OK;
    status = auth_begin(shm->local.config, false, &link->auth);
    if (status == TUTTI_OK)
        shm_link_dial(shm, link);
    else
        shm_link_close(shm, link);
    return status;
}

static bool shm_wanted(struct transport *transport, uint32_t peer, const void *address, size_t len)
{
    const struct shm *shm = (const struct shm *)transport;
    return shm->knocked[peer] && !shm->local.links[peer];
}

static void shm_disconnect(struct transport *transport, uint32_t peer)
{
    struct shm *shm = (struct shm *)transport;
    if (!shm->local.links[peer])
        return;
    local_link_drop(&shm->local, shm->local.links[peer]);
    shm_flush(shm);
    shm_link_close(shm, shm_link_of(shm, peer));
}

static void service(struct shm *shm)
{
    shm_service(shm);
    shm->polls = 0;
    if (shm->pending_links == 0)
        shm->next_service = POLLS_PER_SERVICE;
    else
        shm->next_service = shm->local.config->crowded ? 1 : POLLS_PER_PENDING_SERVICE;
}

static struct xfer *shm_poll(struct transport *transport)
{
    struct shm *shm = (struct shm *)transport;
    if (++shm->polls >= shm->next_service)
        service(shm);
    return local_poll(&shm->local);
}

static void shm_cancel(struct transport *transport, bool leave)
{
    struct shm *shm = (struct shm *)transport;
    for (uint32_t i = 0; i < shm->local.config->size; i++) {
        if (shm->local.links[i])
            local_link_cancel(&shm->local, shm->local.links[i]);
    }
    shm->local.done = NULL;
    if (leave)
        leave_peers(shm);
    else
        shm_flush(shm); /* the caller's process may end next */
}

static tutti_status shm_notify(struct transport *transport, uint32_t peer,
                               const struct notice *notice)
{
    struct shm *shm = (struct shm *)transport;
    return shm_link_notify(shm, shm_link_of(shm, peer), notice);
}

static bool shm_event(struct transport *transport, bool restart, struct transport_event *event)
{
    struct shm *shm = (struct shm *)transport;
    if (restart || shm->local.notice_count == 0)
        service(shm);
    return local_event(&shm->local, restart, event);
}

/* One cache line between cores, and about the bandwidth of one copy. */
static void shm_model(const struct transport *transport, double *alpha_us, double *us_per_byte)
{
    *alpha_us = 0.2;
    *us_per_byte = 1.0 / 10000;
}

const struct transport_ops shm_ops = {
    .name = "shm",
    .probe = shm_probe,
    .open = shm_open_transport,
    .close = shm_close,
    .address = shm_get_address,
    .reaches = shm_reaches,
    .connect = shm_connect,
    .wanted = shm_wanted,
    .disconnect = shm_disconnect,
    .send = local_send,
    .recv = local_recv,
    .poll = shm_poll,
    .cancel = shm_cancel,
    .notify = shm_notify,
    .event = shm_event,
    .wait_fd = local_wait_fd,
    .arm = local_arm,
    .takes = local_takes,
    .stats = local_stats,
    .model = shm_model,
};
