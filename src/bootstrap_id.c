/* bootstrap_id.c: the 128 bytes that name a communicator to be, and the listening sockets behind
 * them.
 *
 *      0        8       12      16        32                      112          128
 *      | magic  | vers. | count | job id  | 4 places of 20 bytes  | key        |
 *                                           family 2, port 2, address 16
 *
 * The id names up to four addresses of the maker, best first, each with a listening socket of its
 * own, so that nothing is bound that the settings did not choose. The job id tells this rendezvous
 * from all others; the key is mixed into the job secret, so that only holders of the id can join.
 *
 *      0        8       12                                                     128
 *      | magic  | vers. | "host:port"                                          |
 *
 * An id of the other sort names an address that all ranks know anyway. It is no secret, and behind
 * it there is no socket: rank 0 listens when it joins.
 *
 * The sockets must outlive the call that made them and are found again by the same process: they
 * wait in one small table behind a mutex, the one exception to "no globals" in this room. An entry
 * leaves when rank 0 joins with its id. Descriptors are close-on-exec; a forked child that plays
 * rank 0 finds the table of its parent, as it must, and keeps the sockets in it. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

#define ID_PLACES_MAX 4
/* Ids made and not yet used. A program that makes thousands of communicators uses each id at once;
 * one that hoards them would run out of descriptors instead. */
#define WAITING_MAX    256
#define LISTEN_BACKLOG 4096 /* every rank of a large job may come at the same moment */

static const char id_magic[8] = "TuttiId", place_magic[8] = "TuttiAt";

struct id_place {
    uint16_t family; /* 4 or 6 */
    uint16_t port;   /* host order */
    uint8_t address[16];
};

struct id_layout {
    char magic[8];
    uint32_t version, count;
    uint8_t job[16];
    struct id_place places[ID_PLACES_MAX];
    uint8_t key[16];
};
_Static_assert(sizeof(struct id_layout) == sizeof(tutti_unique_id), "the id is 128 bytes");

struct place_layout {
    char magic[8];
    uint32_t version;
    char text[116];
};
_Static_assert(sizeof(struct place_layout) == sizeof(tutti_unique_id), "the id is 128 bytes");

struct waiting {
    bool used;
    uint8_t job[16];
    int listeners[ID_PLACES_MAX];
    uint32_t listener_count;
};
static pthread_mutex_t waiting_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting waiting_table[WAITING_MAX];

static tutti_status table_put(const struct meeting *meeting)
{
    tutti_status status = TUTTI_ERR_NOMEM;
    pthread_mutex_lock(&waiting_lock);
    for (int i = 0; i < WAITING_MAX && status != TUTTI_OK; i++) {
        struct waiting *entry = &waiting_table[i];
        if (entry->used)
            continue;
        entry->used = true;
        memcpy(entry->job, meeting->job, sizeof entry->job);
        memcpy(entry->listeners, meeting->listeners, sizeof entry->listeners);
        entry->listener_count = meeting->listener_count;
        for (uint32_t l = 0; l < entry->listener_count; l++)
            owned_forget(entry->listeners[l]);
        status = TUTTI_OK;
    }
    pthread_mutex_unlock(&waiting_lock);
    if (status != TUTTI_OK)
        return fail(status,
                    "%d unique ids are waiting in this process: make communicators of them before "
                    "asking for more",
                    WAITING_MAX);
    return TUTTI_OK;
}

static bool table_take(struct meeting *meeting)
{
    bool found = false;
    pthread_mutex_lock(&waiting_lock);
    for (int i = 0; i < WAITING_MAX && !found; i++) {
        struct waiting *entry = &waiting_table[i];
        if (!entry->used || memcmp(entry->job, meeting->job, sizeof entry->job) != 0)
            continue;
        memcpy(meeting->listeners, entry->listeners, sizeof entry->listeners);
        meeting->listener_count = entry->listener_count;
        for (uint32_t l = 0; l < entry->listener_count; l++)
            owned_add(entry->listeners[l]);
        entry->used = false;
        found = true;
    }
    pthread_mutex_unlock(&waiting_lock);
    return found;
}

static bool place_from_address(const struct sock_address *address, struct id_place *place)
{
    memset(place, 0, sizeof *place);
    if (address->storage.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)&address->storage;
        place->family = 4;
        place->port = ntohs(v4->sin_port);
        memcpy(place->address, &v4->sin_addr, 4);
        return true;
    }
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;
    /* a link-local address means nothing without this host's own interface numbers */
    if (address->storage.ss_family != AF_INET6 || IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
        return false;
    place->family = 6;
    place->port = ntohs(v6->sin6_port);
    memcpy(place->address, &v6->sin6_addr, 16);
    return true;
}

static bool place_to_address(const struct id_place *place, struct sock_address *address)
{
    memset(address, 0, sizeof *address);
    if (place->port == 0)
        return false;
    if (place->family == 4) {
        struct sockaddr_in *v4 = (void *)&address->storage;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(place->port);
        memcpy(&v4->sin_addr, place->address, 4);
        address->len = sizeof *v4;
        return true;
    }
    if (place->family == 6) {
        struct sockaddr_in6 *v6 = (void *)&address->storage;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(place->port);
        memcpy(&v6->sin6_addr, place->address, 16);
        address->len = sizeof *v6;
        return true;
    }
    return false;
}

/* Listens on the best interfaces; one that refuses is passed over while another works. */
static tutti_status listen_on_interfaces(const struct settings *settings, struct meeting *meeting,
                                         struct id_layout *id)
{
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    tutti_status status = sock_interfaces(settings, list, SOCK_INTERFACES_MAX, &count);
    if (status != TUTTI_OK)
        return status;
    for (size_t i = 0; i < count && id->count < ID_PLACES_MAX; i++) {
        struct sock_address bound;
        struct id_place place;
        int fd;
        if (!place_from_address(&list[i].address, &place))
            continue;
        status = sock_listen(settings, &list[i].address, LISTEN_BACKLOG, &fd, &bound);
        if (status != TUTTI_OK) {
            log_at(LOG_LEVEL_INFO, -1, "rendezvous: %s", status_sentence());
            continue;
        }
        place_from_address(&bound, &id->places[id->count++]);
        meeting->listeners[meeting->listener_count++] = fd;
    }
    if (id->count > 0)
        return TUTTI_OK;
    if (status != TUTTI_OK)
        return status;
    return fail(TUTTI_ERR_SYSTEM, "no network interface that other hosts could reach is up");
}

tutti_status bootstrap_unique_id(const struct settings *settings, tutti_unique_id *id)
{
    struct id_layout made = {.version = BOOTSTRAP_VERSION};
    struct meeting meeting = {0};
    memcpy(made.magic, id_magic, sizeof made.magic);
    tutti_status status = auth_random(made.job, sizeof made.job);
    if (status == TUTTI_OK)
        status = auth_random(made.key, sizeof made.key);
    if (status == TUTTI_OK)
        status = listen_on_interfaces(settings, &meeting, &made);
    memcpy(meeting.job, made.job, sizeof meeting.job);
    if (status == TUTTI_OK)
        status = table_put(&meeting);
    if (status != TUTTI_OK) {
        meeting_close_listeners(&meeting);
        return status;
    }
    memcpy(id->bytes, &made, sizeof made);
    return TUTTI_OK;
}

tutti_status bootstrap_id_of_place(const char *text, tutti_unique_id *id)
{
    struct place_layout made = {.version = BOOTSTRAP_VERSION};
    struct sock_address address;
    if (strlen(text) >= sizeof made.text)
        return fail(TUTTI_ERR_SETTING, COMM_ID_VARIABLE " is %zu bytes long: expected at most %zu",
                    strlen(text), sizeof made.text - 1);
    tutti_status status = bootstrap_parse_place(COMM_ID_VARIABLE, text, &address);
    if (status != TUTTI_OK)
        return status;
    memcpy(made.magic, place_magic, sizeof made.magic);
    strcpy(made.text, text);
    memcpy(id->bytes, &made, sizeof made);
    return TUTTI_OK;
}

static tutti_status check_version(uint32_t version)
{
    if (version != BOOTSTRAP_VERSION)
        return fail(TUTTI_ERR_PROTOCOL,
                    "the unique id was made by a release with rendezvous version %u, this one has "
                    "%u: run the same release everywhere",
                    version, BOOTSTRAP_VERSION);
    return TUTTI_OK;
}

static tutti_status read_id(const struct settings *settings, const tutti_unique_id *id,
                            struct meeting *meeting)
{
    struct id_layout read;
    memcpy(&read, id->bytes, sizeof read);
    if (memcmp(read.magic, id_magic, sizeof read.magic) != 0)
        return fail(TUTTI_ERR_ARG, "these 128 bytes are no unique id of this library: carry them "
                                   "unchanged from rank 0, which makes the id");
    tutti_status status = check_version(read.version);
    if (status != TUTTI_OK)
        return status;
    if (read.count == 0 || read.count > ID_PLACES_MAX)
        return fail(TUTTI_ERR_ARG, "the unique id names %u addresses, not 1 to %d: it was damaged",
                    read.count, ID_PLACES_MAX);
    memcpy(meeting->job, read.job, sizeof meeting->job);
    for (uint32_t i = 0; i < read.count; i++) {
        if (!place_to_address(&read.places[i], &meeting->places[i]))
            return fail(TUTTI_ERR_ARG, "address %u of the unique id is none: it was damaged", i);
    }
    meeting->place_count = read.count;
    char suffix[33];
    for (int i = 0; i < 16; i++)
        snprintf(suffix + 2 * i, 3, "%02x", read.key[i]);
    meeting_set_key(settings, meeting, suffix);
    return TUTTI_OK;
}

tutti_status bootstrap_from_id(const struct settings *settings, const tutti_unique_id *id,
                               uint32_t rank, uint32_t size, const struct cancel *cancel,
                               struct bootstrap **bootstrap)
{
    struct meeting meeting = {.cancel = cancel};
    struct place_layout place;
    memcpy(&place, id->bytes, sizeof place);
    bool of_place = memcmp(place.magic, place_magic, sizeof place.magic) == 0;
    tutti_status status = of_place ? check_version(place.version) : read_id(settings, id, &meeting);
    place.text[sizeof place.text - 1] = 0;
    if (status == TUTTI_OK && of_place)
        return bootstrap_meet_at(settings, COMM_ID_VARIABLE, place.text, rank, size, cancel,
                                 bootstrap);
    if (status != TUTTI_OK)
        return status;
    if (rank == 0 && !table_take(&meeting))
        return fail(TUTTI_ERR_ARG, "rank 0 must be the process that made the unique id, and an id "
                                   "makes one communicator: this process has no socket for it");
    return bootstrap_meet(settings, &meeting, rank, size, bootstrap);
}
