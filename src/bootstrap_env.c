/* bootstrap_env.c: rank, size and a meeting place from the environment that a launcher made.
 *
 * Launchers come in two kinds. Some carry a text from rank 0 to all (PMIx, PMI-1): rank 0 makes a
 * unique id, and the text is the id, or the sentence of the error that kept rank 0 from making it,
 * so that no rank waits for an id that will not come. Others only name a host (TUTTI_RENDEZVOUS,
 * torchrun, Slurm without PMI): rank 0 listens there on a port that all ranks compute.
 *
 * A host's name may have several addresses, some of no use here or there: rank 0 listens at all
 * that are this machine's, the others try all that they know.
 *
 * torchrun's MASTER_PORT belongs to its own store and is never bound. The port is a hash of what
 * identifies the job, below the ephemeral range; should somebody else sit there, rank 0 takes the
 * next free one of MEETING_PORTS_MAX and the others find it by its hello. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/clock.h"
#include "base/log.h"
#include "src/bootstrap_meet.h"

#define PORT_LOW      20000u /* Linux hands out 32768 and up by itself */
#define PORT_HIGH     32767u
#define ENV_BACKLOG   4096
#define HOST_TEXT_MAX 256
#define LOOK_UP_MS    250u /* between two questions for a host's name */

/* ---- addresses ------------------------------------------------------------------------------- */

bool address_is_loopback(const struct sock_address *address)
{
    const struct sockaddr_in *v4 = (const void *)&address->storage;
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;
    if (address->storage.ss_family == AF_INET)
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    return address->storage.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

bool address_is_any(const struct sock_address *address)
{
    const struct sockaddr_in *v4 = (const void *)&address->storage;
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;
    if (address->storage.ss_family == AF_INET)
        return v4->sin_addr.s_addr == htonl(INADDR_ANY);
    return address->storage.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

uint16_t address_port(const struct sock_address *address)
{
    const struct sockaddr_in *v4 = (const void *)&address->storage;
    const struct sockaddr_in6 *v6 = (const void *)&address->storage;
    return ntohs(address->storage.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
}

void address_set_port(struct sock_address *address, uint16_t port)
{
    struct sockaddr_in *v4 = (void *)&address->storage;
    struct sockaddr_in6 *v6 = (void *)&address->storage;
    if (address->storage.ss_family == AF_INET)
        v4->sin_port = htons(port);
    else
        v6->sin6_port = htons(port);
}

/* ---- a host that all ranks know -------------------------------------------------------------- */

static bool says_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0 || strcmp(host, "ip6-localhost") == 0;
}

/* Where rank 0 listens when its host is called `host`: those of its addresses that are this
 * machine's; and every chosen interface, if none is (a service's virtual address), or if a name of
 * this host means the loopback here and something else elsewhere (Debian's 127.0.1.1). Not all
 * that is listed can be listened at: an IPv6 address that another host has too cannot. */
static tutti_status find_doors(const struct settings *settings, const char *host,
                               const struct sock_addresses *addresses, struct sock_addresses *doors)
{
    bool sure = false;
    doors->count = 0;
    for (uint32_t i = 0; i < addresses->count; i++) {
        const struct sock_address *address = &addresses->list[i];
        if (!sock_is_local(address))
            continue;
        doors->list[doors->count++] = *address;
        sure = sure || !address_is_loopback(address) || says_loopback(host);
    }
    if (sure)
        return TUTTI_OK;
    bool local = doors->count > 0;
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    tutti_status status = sock_interfaces(settings, list, SOCK_INTERFACES_MAX, &count);
    for (size_t i = 0; status == TUTTI_OK && i < count; i++) {
        if (doors->count < MEETING_LISTENERS_MAX && !(local && list[i].loopback) &&
            sock_is_local(&list[i].address))
            doors->list[doors->count++] = list[i].address;
    }
    if (doors->count == 0 && status == TUTTI_OK)
        status =
            fail(TUTTI_ERR_CONNECT,
                 "%s is no address of this host, where rank 0 is, and none of its interfaces is "
                 "up or can be listened at",
                 host);
    return doors->count ? TUTTI_OK : status;
}

/* All doors at one port, or none. */
static tutti_status open_doors(const struct settings *settings, const struct sock_addresses *doors,
                               uint16_t port, struct meeting *meeting)
{
    for (uint32_t i = 0; i < doors->count; i++) {
        struct sock_address door = doors->list[i];
        int fd = -1;
        address_set_port(&door, port);
        tutti_status status = sock_listen(settings, &door, ENV_BACKLOG, &fd, NULL);
        if (status != TUTTI_OK) {
            meeting_close_listeners(meeting);
            return status;
        }
        meeting->listeners[meeting->listener_count++] = fd;
    }
    return TUTTI_OK;
}

static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

/* Where ranks look for each other: TUTTI_PORTS, else what Linux does not hand out by itself. */
static tutti_status port_window(const struct settings *settings, unsigned *low, unsigned *high)
{
    tutti_status status = settings_port_range(settings, low, high);
    if (status == TUTTI_OK && *low == 0) {
        *low = PORT_LOW;
        *high = PORT_HIGH;
    }
    return status;
}

/* Fills the meeting's places with successive ports of the host's addresses, `avoid` left out. */
static tutti_status list_places(const struct settings *settings,
                                const struct sock_addresses *addresses, const char *job,
                                unsigned avoid, struct meeting *meeting)
{
    unsigned low, high;
    tutti_status status = port_window(settings, &low, &high);
    if (status != TUTTI_OK)
        return status;
    unsigned width = high - low + 1, first = (unsigned)(hash_text(job) % width);
    uint32_t most = MEETING_PORTS_MAX * addresses->count;
    for (unsigned i = 0; i < width && meeting->place_count < most; i++) {
        unsigned port = low + (first + i) % width;
        for (uint32_t a = 0; port != avoid && a < addresses->count; a++) {
            struct sock_address *place = &meeting->places[meeting->place_count++];
            *place = addresses->list[a];
            address_set_port(place, (uint16_t)port);
        }
    }
    if (meeting->place_count == 0)
        return fail(TUTTI_ERR_SETTING, "TUTTI_PORTS=%s leaves no port but the launcher's own",
                    settings->ports);
    return TUTTI_OK;
}

/* The name is looked up until it is known: a host's name may appear after its ranks have started,
 * and a thousand of them that ask at once may get no answer the first time. */
static tutti_status look_up(const struct settings *settings, const char *text,
                            const struct cancel *cancel, struct sock_addresses *addresses)
{
    uint64_t deadline_ms = clock_ms() + settings->meet_timeout_ms;
    for (bool told = false;; told = true) {
        tutti_status status = sock_parse(settings, text, addresses);
        uint64_t next_ms = clock_ms() + LOOK_UP_MS;
        if (status != TUTTI_ERR_CONNECT || next_ms >= deadline_ms)
            return status;
        if (!told)
            log_at(LOG_LEVEL_WARN, -1, "rendezvous: %s: tries again for %llu ms", status_sentence(),
                   (unsigned long long)settings->meet_timeout_ms);
        while (clock_ms() < next_ms) {
            if (clock_check(cancel) != TUTTI_OK)
                return status;
            clock_sleep_us((uint32_t)clock_left_ms(next_ms, cancel) * 1000);
        }
    }
}

static tutti_status look_up_host(const struct settings *settings, const char *host,
                                 struct sock_addresses *addresses)
{
    char text[HOST_TEXT_MAX + 16];
    bool bare_v6 = strchr(host, ':') != NULL && host[0] != '[';
    snprintf(text, sizeof text, bare_v6 ? "[%s]:1" : "%s:1", host);
    return look_up(settings, text, NULL, addresses);
}

/* Meets at a host, on a port that follows from `job`, a text all ranks know. */
static tutti_status meet_at_host(const struct settings *settings, const char *host, const char *job,
                                 unsigned avoid, uint32_t rank, uint32_t size,
                                 struct bootstrap **bootstrap)
{
    struct meeting meeting = {0};
    struct sock_addresses addresses, doors;
    tutti_status status = meeting_set_job(&meeting, job);
    meeting_set_terms(settings, &meeting, NULL);
    if (status == TUTTI_OK && size == 1)
        return bootstrap_meet(&meeting, rank, size, bootstrap);
    if (status == TUTTI_OK)
        status = look_up_host(settings, host, &addresses);
    if (status == TUTTI_OK)
        status = list_places(settings, &addresses, job, avoid, &meeting);
    if (status == TUTTI_OK && rank == 0) {
        status = find_doors(settings, host, &addresses, &doors);
        for (uint32_t i = 0; status == TUTTI_OK && i < meeting.place_count; i += addresses.count) {
            tutti_status opened =
                open_doors(settings, &doors, address_port(&meeting.places[i]), &meeting);
            if (opened == TUTTI_OK)
                break;
            if (i + addresses.count == meeting.place_count)
                status = opened;
        }
    }
    if (status != TUTTI_OK)
        return status;
    return bootstrap_meet(&meeting, rank, size, bootstrap);
}

/* ---- the sources ----------------------------------------------------------------------------- */

tutti_status launcher_number(const char *name, uint32_t low, uint32_t high, uint32_t *number)
{
    const char *text = settings_launcher_variable(name);
    char *end = NULL;
    unsigned long long value = text ? strtoull(text, &end, 10) : 0;
    if (text == NULL || end == text || *end || *text == '-' || value < low || value > high)
        return fail(TUTTI_ERR_SETTING, "the launcher set %s to \"%.40s\": expected %u to %u", name,
                    text ? text : "", low, high);
    *number = (uint32_t)value;
    return TUTTI_OK;
}

static bool has(const char *name)
{
    const char *text = settings_launcher_variable(name);
    return text && text[0];
}

static tutti_status rank_and_size(const char *rank_name, const char *size_name, uint32_t *rank,
                                  uint32_t *size)
{
    tutti_status status = launcher_number(size_name, 1, BOOTSTRAP_RANKS_MAX, size);
    return status == TUTTI_OK ? launcher_number(rank_name, 0, *size - 1, rank) : status;
}

/* status: of `text` as an address, or of its host. */
static tutti_status check_place(const char *name, const char *text, tutti_status status,
                                const struct sock_addresses *parsed)
{
    if (status != TUTTI_OK)
        return fail(status == TUTTI_ERR_ARG ? TUTTI_ERR_SETTING : status, "%s: %s", name,
                    status_sentence());
    if (address_port(&parsed->list[0]) == 0 || address_is_any(&parsed->list[0]))
        return fail(TUTTI_ERR_SETTING,
                    "%s=%s: expected the host that rank 0 runs on, and a port from 1 to 65535",
                    name, text);
    return TUTTI_OK;
}

tutti_status bootstrap_check_place(const struct settings *settings, const char *name,
                                   const char *text)
{
    struct sock_addresses addresses;
    return check_place(name, text, sock_parse(settings, text, &addresses), &addresses);
}

tutti_status bootstrap_meet_at(const struct settings *settings, const char *name, const char *text,
                               uint32_t rank, uint32_t size, const struct cancel *cancel,
                               struct bootstrap **bootstrap)
{
    struct meeting meeting = {.cancel = cancel};
    struct sock_addresses addresses, doors;
    char job[64], host[SETTING_TEXT_MAX];
    tutti_status status = size > 1 ? look_up(settings, text, cancel, &addresses)
                                   : sock_parse(settings, text, &addresses);
    tutti_status wanted = clock_check(cancel);
    if (wanted == TUTTI_OK)
        wanted = check_place(name, text, status, &addresses);
    if (wanted != TUTTI_OK)
        return wanted;
    meeting.place_count = addresses.count;
    memcpy(meeting.places, addresses.list, addresses.count * sizeof addresses.list[0]);
    unsigned port = address_port(&addresses.list[0]);
    snprintf(job, sizeof job, "tutti rendezvous at port %u", port);
    status = meeting_set_job(&meeting, job);
    if (status != TUTTI_OK)
        return status;
    meeting_set_terms(settings, &meeting, NULL);
    snprintf(host, sizeof host, "%s", *text == '[' ? text + 1 : text);
    *strrchr(host, *text == '[' ? ']' : ':') = 0;
    if (rank == 0 && size > 1) {
        status = find_doors(settings, host, &addresses, &doors);
        if (status == TUTTI_OK)
            status = open_doors(settings, &doors, (uint16_t)port, &meeting);
        if (status != TUTTI_OK)
            return status;
    }
    return bootstrap_meet(&meeting, rank, size, bootstrap);
}

static tutti_status from_rendezvous(const struct settings *settings, struct bootstrap **bootstrap)
{
    uint32_t rank = (uint32_t)settings->rank, size = (uint32_t)settings->size;
    if (rank >= size)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_RANK=%u with TUTTI_SIZE=%u: the rank must be from 0 to %u", rank, size,
                    size - 1);
    return bootstrap_meet_at(settings, "TUTTI_RENDEZVOUS", settings->rendezvous, rank, size, NULL,
                             bootstrap);
}

tutti_status bootstrap_id_from_env(const struct settings *settings, tutti_unique_id *id)
{
    return has(COMM_ID_VARIABLE)
               ? bootstrap_id_of_place(settings, settings_launcher_variable(COMM_ID_VARIABLE), id)
               : bootstrap_unique_id(settings, id);
}

static tutti_status from_torchrun(const struct settings *settings, struct bootstrap **bootstrap)
{
    uint32_t rank, size, port = 0;
    char job[512];
    const char *run = settings_launcher_variable("TORCHELASTIC_RUN_ID");
    const char *host = settings_launcher_variable("MASTER_ADDR");
    tutti_status status = rank_and_size("RANK", "WORLD_SIZE", &rank, &size);
    if (status == TUTTI_OK && has("MASTER_PORT"))
        status = launcher_number("MASTER_PORT", 0, 65535, &port);
    if (status != TUTTI_OK)
        return status;
    if (strlen(host) >= HOST_TEXT_MAX)
        return fail(TUTTI_ERR_SETTING, "MASTER_ADDR has %zu characters", strlen(host));
    snprintf(job, sizeof job, "torchrun %s %u %s", host, port, run ? run : "");
    return meet_at_host(settings, host, job, port, rank, size, bootstrap);
}

/* "node[01-04,7],x3" begins with node01. */
static void first_host(const char *list, char host[HOST_TEXT_MAX])
{
    size_t used = 0;
    while (*list && *list != ',' && used + 1 < HOST_TEXT_MAX) {
        if (*list != '[') {
            host[used++] = *list++;
            continue;
        }
        for (list++; *list && !strchr(",-]", *list) && used + 1 < HOST_TEXT_MAX; list++)
            host[used++] = *list;
        list += strcspn(list, "]");
        list += *list == ']';
    }
    host[used] = 0;
}

static tutti_status from_slurm(const struct settings *settings, struct bootstrap **bootstrap)
{
    uint32_t rank, size;
    char job[128], host[HOST_TEXT_MAX];
    const char *list = settings_launcher_variable("SLURM_STEP_NODELIST");
    const char *id = settings_launcher_variable("SLURM_JOB_ID");
    /* With --preserve-env, which interactive steps have, the other is the allocation's. */
    const char *tasks = has("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
    tutti_status status = rank_and_size("SLURM_PROCID", tasks, &rank, &size);
    if (status != TUTTI_OK)
        return status;
    if (list == NULL)
        list = settings_launcher_variable("SLURM_JOB_NODELIST");
    first_host(list ? list : "", host);
    if (host[0] == 0 && size > 1)
        return fail(TUTTI_ERR_SETTING,
                    "Slurm started %u tasks but set neither SLURM_STEP_NODELIST nor "
                    "SLURM_JOB_NODELIST: set TUTTI_RENDEZVOUS=host:port, TUTTI_RANK and TUTTI_SIZE",
                    size);
    snprintf(job, sizeof job, "slurm %.40s.%.40s", id ? id : "",
             settings_launcher_variable("SLURM_STEP_ID"));
    return meet_at_host(settings, host, job, 0, rank, size, bootstrap);
}

/* ---- launchers that carry a text ------------------------------------------------------------- */

/* "i" and the id, or "e" and the sentence, in hexadecimal: no store minds those characters. */
static void encode(char kind, const void *data, size_t len, char text[LAUNCHER_TEXT_MAX])
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *bytes = data;
    size_t used = 0;
    text[used++] = kind;
    for (size_t i = 0; i < len && used + 2 < LAUNCHER_TEXT_MAX; i++) {
        text[used++] = digits[bytes[i] >> 4];
        text[used++] = digits[bytes[i] & 15];
    }
    text[used] = 0;
}

static size_t decode(const char *text, void *data, size_t max)
{
    unsigned char *bytes = data;
    size_t len = 0;
    unsigned value;
    while (len < max && sscanf(text + 2 * len, "%2x", &value) == 1 && text[2 * len + 1])
        bytes[len++] = (unsigned char)value;
    return len;
}

typedef tutti_status share_fn(uint32_t rank, char text[LAUNCHER_TEXT_MAX], uint64_t deadline_ms);

static tutti_status meet_by_launcher(const struct settings *settings, share_fn *share,
                                     uint32_t rank, uint32_t size, struct bootstrap **bootstrap)
{
    struct meeting alone = {0};
    char text[LAUNCHER_TEXT_MAX] = "", sentence[SENTENCE_MAX] = "";
    tutti_unique_id id;
    tutti_status made = TUTTI_OK;
    if (size == 1)
        return bootstrap_meet(&alone, rank, size, bootstrap);
    if (rank == 0) {
        made = bootstrap_root_id(settings, &id);
        if (made == TUTTI_OK)
            encode('i', &id, sizeof id, text);
        else
            encode('e', status_sentence(), strlen(status_sentence()), text);
        snprintf(sentence, sizeof sentence, "%s", status_sentence());
    }
    tutti_status status = share(rank, text, clock_ms() + settings->meet_timeout_ms);
    if (status != TUTTI_OK && rank == 0 && made == TUTTI_OK)
        (void)bootstrap_give_back(&id); /* nobody hears of it */
    if (status != TUTTI_OK)
        return status;
    if (made != TUTTI_OK) {
        status_set_sentence(sentence);
        return made;
    }
    if (text[0] == 'e') {
        decode(text + 1, sentence, sizeof sentence - 1);
        bootstrap_clean_text(sentence, sizeof sentence);
        return fail(TUTTI_ERR_CONNECT, "rank 0 could not open the rendezvous: %.400s", sentence);
    }
    if (text[0] != 'i' || decode(text + 1, &id, sizeof id) != sizeof id)
        return fail(TUTTI_ERR_PROTOCOL, "the launcher's store holds no unique id from rank 0");
    return bootstrap_from_id(settings, &id, rank, size, NULL, bootstrap);
}

/* TUTTI_RENDEZVOUS, TUTTI_RANK and TUTTI_SIZE belong together: a process that was given some of
 * them would be a world of its own without a word. A job of one rank may be told so by its size. */
static tutti_status check_all_given(const struct settings *settings)
{
    static const char *const names[] = {"TUTTI_RENDEZVOUS", "TUTTI_RANK", "TUTTI_SIZE"};
    const char *given = NULL, *missing = NULL;
    for (int i = 0; i < 3; i++) {
        if (has(names[i]))
            given = given ? given : names[i];
        else
            missing = missing ? missing : names[i];
    }
    if (!given || !missing || (has("TUTTI_SIZE") && settings->size == 1 && settings->rank == 0))
        return TUTTI_OK;
    return fail(TUTTI_ERR_SETTING,
                "%s is set but %s is not: TUTTI_RENDEZVOUS=host:port, TUTTI_RANK and TUTTI_SIZE go "
                "together, at every rank",
                given, missing);
}

/* No launcher was found: alone, unless the environment speaks of other ranks. A RANK or a
 * WORLD_SIZE of 1 may be another tool's. */
static tutti_status be_alone(const struct settings *settings, struct bootstrap **bootstrap)
{
    static const struct {
        const char *size, *other, *all;
    } needs[] = {
        {"WORLD_SIZE", "RANK", "RANK, WORLD_SIZE and MASTER_ADDR go together, as torchrun"},
        {"WORLD_SIZE", "MASTER_ADDR", "RANK, WORLD_SIZE and MASTER_ADDR go together, as torchrun"},
        {"PMI_SIZE", "PMI_RANK", "PMI_RANK, PMI_SIZE and PMI_FD go together, as MPICH's mpiexec"},
        {"PMI_SIZE", "PMI_FD", "PMI_RANK, PMI_SIZE and PMI_FD go together, as MPICH's mpiexec"}};
    struct meeting alone = {0};
    tutti_status status = check_all_given(settings);
    if (status != TUTTI_OK)
        return status;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        const char *size = settings_launcher_variable(needs[i].size);
        if (size && atoi(size) > 1 && !has(needs[i].other))
            return fail(TUTTI_ERR_SETTING, "%s is %.20s but %s is not set: %s sets them",
                        needs[i].size, size, needs[i].other, needs[i].all);
    }
    return bootstrap_meet(&alone, 0, 1, bootstrap);
}

static const char no_pmix[] =
#ifdef TUTTI_WITH_PMIX
    "libpmix.so.2 is not on this machine: install it (Debian: libpmix2)";
#else
    "this library was built without PMIx: build it where pmix.h is (Debian: libpmix-dev)";
#endif

tutti_status bootstrap_from_env(const struct settings *settings, struct bootstrap **bootstrap)
{
    struct meeting alone = {0};
    uint32_t rank = 0, size = 1;
    if (settings->rendezvous[0]) {
        tutti_status given = check_all_given(settings);
        return given == TUTTI_OK ? from_rendezvous(settings, bootstrap) : given;
    }
    if (has("RANK") && has("WORLD_SIZE") && has("MASTER_ADDR"))
        return from_torchrun(settings, bootstrap);
    tutti_status status = bootstrap_pmix_open(&rank, &size);
    if (status == TUTTI_OK)
        return meet_by_launcher(settings, bootstrap_pmix_share, rank, size, bootstrap);
    if (status != TUTTI_ERR_UNSUPPORTED)
        return status;
    if (has("OMPI_COMM_WORLD_RANK") && has("OMPI_COMM_WORLD_SIZE")) {
        status = rank_and_size("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", &rank, &size);
        if (status == TUTTI_OK && size > 1)
            status = fail(TUTTI_ERR_UNSUPPORTED,
                          "Open MPI started %u ranks, but %s, or set TUTTI_RENDEZVOUS=host:port, "
                          "TUTTI_RANK and TUTTI_SIZE",
                          size, no_pmix);
        if (status != TUTTI_OK)
            return status;
        return bootstrap_meet(&alone, rank, size, bootstrap);
    }
    status = bootstrap_pmi1_open(&rank, &size);
    if (status == TUTTI_OK)
        return meet_by_launcher(settings, bootstrap_pmi1_share, rank, size, bootstrap);
    if (status != TUTTI_ERR_UNSUPPORTED)
        return status;
    /* A batch script has the task's variables too, but no step: it is a job of one. */
    if (has("SLURM_PROCID") && has("SLURM_NTASKS") && has("SLURM_STEP_ID"))
        return from_slurm(settings, bootstrap);
    return be_alone(settings, bootstrap);
}
