/* bootstrap_id.c: the 128 bytes that name a communicator to be, and the listening sockets behind
 * them.
 *
 *      0        8       12      14    16        32                      112          128
 *      | magic  | vers. | count | any | job id  | 4 places of 20 bytes  | key        |
 *                                                 family 2, port 2, address 16
 *
 * The id names up to four addresses of the maker, best first, each with a listening socket of its
 * own, so that nothing is bound that the settings did not choose. The job id tells this rendezvous
 * from all others; the key is mixed into the job secret, so that only holders of the id can join.
 * any: the root is the maker's process, with whichever rank comes first there, else rank 0. The
 * sockets must outlive the call that made them: bootstrap_waiting.c keeps them for the root.
 *
 *      0        8       12                                                     128
 *      | magic  | vers. | "host:port"                                          |
 *
 * An id of the other sort names an address that all ranks know anyway. It is no secret, and behind
 * it there is no socket: rank 0 listens when it joins. */
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/log.h"
#include "src/bootstrap_meet.h"

#define ID_PLACES_MAX  4
#define LISTEN_BACKLOG 4096 /* every rank of a large job may come at the same moment */

static const char id_magic[8] = "TuttiId", place_magic[8] = "TuttiAt";

struct id_place {
    uint16_t family; /* 4 or 6 */
    uint16_t port;   /* host order */
    uint8_t address[16];
};

struct id_layout {
    char magic[8];
    uint32_t version;
    uint16_t count, any_root;
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

/* Listens on the best interfaces; one that refuses is passed over while another works. TUTTI_OK
 * without a place: none of them has an address that means something elsewhere. */
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
    return id->count > 0 ? TUTTI_OK : status;
}

/* Where link-local addresses are all that a host has, its own ranks meet at the loopback. */
static tutti_status open_places(const struct settings *settings, struct meeting *meeting,
                                struct id_layout *id)
{
    struct settings loopback = *settings;
    tutti_status status = listen_on_interfaces(settings, meeting, id);
    if (status == TUTTI_OK && id->count == 0 && settings->interface[0] == 0) {
        log_at(LOG_LEVEL_INFO, -1,
               "rendezvous: no network interface that other hosts could reach is up: the unique "
               "id is for ranks of this host");
        snprintf(loopback.interface, sizeof loopback.interface, "lo");
        (void)listen_on_interfaces(&loopback, meeting, id);
    }
    if (status == TUTTI_OK && id->count == 0)
        status = fail(TUTTI_ERR_SYSTEM, "no network interface that other hosts could reach is up");
    return status;
}

static void set_terms(const struct settings *settings, const struct id_layout *id,
                      struct meeting *meeting)
{
    char suffix[33];
    for (int i = 0; i < 16; i++)
        snprintf(suffix + 2 * i, 3, "%02x", id->key[i]);
    meeting_set_terms(settings, meeting, suffix);
}

static tutti_status make_id(const struct settings *settings, bool any_root, tutti_unique_id *id)
{
    struct id_layout made = {.version = BOOTSTRAP_VERSION, .any_root = any_root};
    struct meeting meeting = {.any_root = any_root};
    memcpy(made.magic, id_magic, sizeof made.magic);
    tutti_status status = auth_random(made.job, sizeof made.job);
    if (status == TUTTI_OK)
        status = auth_random(made.key, sizeof made.key);
    if (status == TUTTI_OK)
        status = open_places(settings, &meeting, &made);
    memcpy(meeting.job, made.job, sizeof meeting.job);
    set_terms(settings, &made, &meeting);
    if (status == TUTTI_OK)
        status = waiting_put(&meeting);
    if (status != TUTTI_OK) {
        meeting_close_listeners(&meeting);
        return status;
    }
    memcpy(id->bytes, &made, sizeof made);
    return TUTTI_OK;
}

tutti_status bootstrap_unique_id(const struct settings *settings, tutti_unique_id *id)
{
    return make_id(settings, true, id);
}

tutti_status bootstrap_root_id(const struct settings *settings, tutti_unique_id *id)
{
    return make_id(settings, false, id);
}

tutti_status bootstrap_id_of_place(const struct settings *settings, const char *text,
                                   tutti_unique_id *id)
{
    struct place_layout made = {.version = BOOTSTRAP_VERSION};
    if (strlen(text) >= sizeof made.text)
        return fail(TUTTI_ERR_SETTING, COMM_ID_VARIABLE " is %zu bytes long: expected at most %zu",
                    strlen(text), sizeof made.text - 1);
    tutti_status status = bootstrap_check_place(settings, COMM_ID_VARIABLE, text);
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

static tutti_status read_id(const struct id_layout *read, struct meeting *meeting)
{
    if (memcmp(read->magic, id_magic, sizeof read->magic) != 0)
        return fail(TUTTI_ERR_ARG, "these 128 bytes are no unique id of this library: carry them "
                                   "unchanged from the process that made the id");
    tutti_status status = check_version(read->version);
    if (status != TUTTI_OK)
        return status;
    if (read->count == 0 || read->count > ID_PLACES_MAX)
        return fail(TUTTI_ERR_ARG, "the unique id names %u addresses, not 1 to %d: it was damaged",
                    read->count, ID_PLACES_MAX);
    if (read->any_root > 1)
        return fail(TUTTI_ERR_ARG, "the unique id has unknown flags 0x%x: it was damaged",
                    read->any_root);
    meeting->any_root = read->any_root;
    meeting->opened = true;
    memcpy(meeting->job, read->job, sizeof meeting->job);
    for (uint32_t i = 0; i < read->count; i++) {
        if (!place_to_address(&read->places[i], &meeting->places[i]))
            return fail(TUTTI_ERR_ARG, "address %u of the unique id is none: it was damaged", i);
    }
    meeting->place_count = read->count;
    return TUTTI_OK;
}

/* An id of an address: *place; else what is in the id. */
static tutti_status open_id(const tutti_unique_id *id, struct place_layout *place,
                            struct id_layout *layout, struct meeting *meeting)
{
    memcpy(place, id->bytes, sizeof *place);
    memcpy(layout, id->bytes, sizeof *layout);
    if (memcmp(place->magic, place_magic, sizeof place->magic) != 0) {
        place->text[0] = 0;
        return read_id(layout, meeting);
    }
    place->text[sizeof place->text - 1] = 0;
    return check_version(place->version);
}

tutti_status bootstrap_from_id(const struct settings *settings, const tutti_unique_id *id,
                               uint32_t rank, uint32_t size, const struct cancel *cancel,
                               struct bootstrap **bootstrap)
{
    struct meeting meeting = {.cancel = cancel};
    struct place_layout place;
    struct id_layout layout;
    tutti_status status = open_id(id, &place, &layout, &meeting);
    if (status == TUTTI_OK && place.text[0])
        return bootstrap_meet_at(settings, COMM_ID_VARIABLE, place.text, rank, size, cancel,
                                 bootstrap);
    if (status == TUTTI_OK)
        status = bootstrap_check_rank(rank, size);
    if (status == TUTTI_OK)
        status = waiting_claim(&meeting, rank, size);
    if (status != TUTTI_OK)
        return status;
    bool root = meeting.listener_count > 0;
    set_terms(settings, &layout, &meeting);
    status = bootstrap_meet(&meeting, rank, size, bootstrap);
    if (root)
        waiting_end(&meeting, status);
    return status;
}

tutti_status bootstrap_serve(const tutti_unique_id *id, const struct cancel *cancel)
{
    struct meeting meeting = {.cancel = cancel};
    struct place_layout place;
    struct id_layout layout;
    struct bootstrap *bootstrap;
    tutti_status status = open_id(id, &place, &layout, &meeting);
    if (status == TUTTI_OK && place.text[0])
        return TUTTI_OK;
    if (status == TUTTI_OK)
        status = waiting_attend(&meeting);
    if (status != TUTTI_OK || meeting.listener_count == 0)
        return status;
    status = bootstrap_meet(&meeting, BOOTSTRAP_NO_RANK, 0, &bootstrap);
    waiting_end(&meeting, status);
    if (status != TUTTI_OK)
        return status;
    status = bootstrap_relay(bootstrap);
    bootstrap_free(bootstrap);
    return status;
}

tutti_status bootstrap_give_back(const tutti_unique_id *id)
{
    struct meeting meeting = {0};
    struct place_layout place;
    struct id_layout layout;
    tutti_status status = open_id(id, &place, &layout, &meeting);
    return status == TUTTI_OK && !place.text[0] ? waiting_give_back(&meeting) : status;
}
