/* sock_interfaces.c: which addresses of this host peers may use, best first.
 * The idea: getifaddrs lists one entry per address; entries that are up, of an allowed family and
 * allowed by TUTTI_INTERFACE are ranked by one number each, and a stable insertion sort keeps the
 * kernel's order among equals. Few are offered, and a host may have many bridges for containers and
 * guests, which claim to be faster than its adapter: what has a device behind it comes first.
 * Invariant: what is offered can be bound: no entry is down, and every one has an address. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sock.h"

/* Addresses that are kept, the best: a host of many containers has one more for each of them. */
#define CANDIDATES_MAX 256
#define SYSFS_NET      "/sys/class/net"
#define LAYERS_MAX     6 /* a VLAN over a bridge over a VLAN over a bond over ports, and one more */

struct candidate {
    struct sock_interface interface;
    uint64_t rank; /* smaller is better */
};

/* The address bytes of either family; NULL for any other. */
static const uint8_t *address_bytes(const struct sockaddr_storage *storage, size_t *len)
{
    if (storage->ss_family == AF_INET) {
        *len = 4;
        return (const uint8_t *)&((const struct sockaddr_in *)storage)->sin_addr;
    }
    if (storage->ss_family == AF_INET6) {
        *len = 16;
        return (const uint8_t *)&((const struct sockaddr_in6 *)storage)->sin6_addr;
    }
    return NULL;
}

bool sock_same_subnet(const struct sock_interface *local, const struct sock_address *remote)
{
    size_t len, remote_len, mask_len;
    const uint8_t *mine = address_bytes(&local->address.storage, &len);
    const uint8_t *theirs = address_bytes(&remote->storage, &remote_len);
    const uint8_t *mask = address_bytes(&local->netmask.storage, &mask_len);
    if (!mine || !theirs || !mask || len != remote_len || len != mask_len)
        return false;
    for (size_t i = 0; i < len; i++) {
        if ((mine[i] & mask[i]) != (theirs[i] & mask[i]))
            return false;
    }
    return true;
}

/* "10.0.0.0/8", "fd00::/8", or a bare address. False when term is neither (it is a name). */
static bool parse_subnet(const char *term, uint8_t bytes[16], int *family, unsigned *bits)
{
    char host[INET6_ADDRSTRLEN];
    size_t len = strcspn(term, "/");
    if (len == 0 || len >= sizeof host)
        return false;
    memcpy(host, term, len);
    host[len] = '\0';
    *family = strchr(host, ':') ? AF_INET6 : AF_INET;
    if (inet_pton(*family, host, bytes) != 1)
        return false;
    unsigned most = *family == AF_INET6 ? 128 : 32;
    *bits = most;
    if (term[len] == '\0')
        return true;
    char *end;
    const char *digits = term + len + 1;
    unsigned long value = strtoul(digits, &end, 10);
    *bits = (unsigned)value;
    return *digits >= '0' && *digits <= '9' && *end == '\0' && value <= most;
}

static bool term_matches(const char *term, const struct sock_interface *interface)
{
    uint8_t bytes[16];
    int family;
    unsigned bits;
    if (!parse_subnet(term, bytes, &family, &bits))
        return settings_pattern(term, strlen(term), interface->name);
    size_t len;
    const uint8_t *mine = address_bytes(&interface->address.storage, &len);
    if (interface->address.storage.ss_family != family)
        return false;
    for (unsigned bit = 0; bit < bits; bit += 8) {
        unsigned left = bits - bit;
        uint8_t mask = left >= 8 ? 0xff : (uint8_t)(0xff << (8 - left));
        if ((mine[bit / 8] & mask) != (bytes[bit / 8] & mask))
            return false;
    }
    return true;
}

static uint32_t read_speed(const char *name)
{
    char path[96], text[16];
    snprintf(path, sizeof path, SYSFS_NET "/%s/speed", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0)
        return 0;
    text[got] = '\0';
    long speed = strtol(text, NULL, 10); /* -1 when the driver does not know */
    return speed > 0 && speed < INT_MAX ? (uint32_t)speed : 0;
}

static bool has_device(const char *sysfs, const char *name, unsigned layers)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s/device", sysfs, name);
    if (access(path, F_OK) == 0)
        return true;
    snprintf(path, sizeof path, "%s/%s", sysfs, name);
    DIR *directory = layers > 0 ? opendir(path) : NULL;
    if (!directory)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(directory));) {
        if (strncmp(entry->d_name, "lower_", 6) == 0)
            found = has_device(sysfs, entry->d_name + 6, layers - 1);
    }
    closedir(directory);
    return found;
}

bool sock_has_device(const char *sysfs, const char *name)
{
    return has_device(sysfs, name, LAYERS_MAX);
}

static bool link_local(const struct sockaddr_storage *storage)
{
    size_t len;
    const uint8_t *bytes = address_bytes(storage, &len);
    return len == 4 ? bytes[0] == 169 && bytes[1] == 254
                    : bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80;
}

/* Where routers lead to the host itself, its address is one of the loopback interface. */
static bool is_loopback(const struct ifaddrs *entry, const struct sockaddr_storage *storage)
{
    size_t len;
    const uint8_t *bytes = address_bytes(storage, &len);
    bool of_every_host =
        len == 4 ? bytes[0] == 127 : IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)bytes);
    return (entry->ifa_flags & IFF_LOOPBACK) && (of_every_host || link_local(storage));
}

/* Copies an entry that may be offered; false for one that may not. */
static bool take(const struct ifaddrs *entry, const struct settings *settings,
                 struct candidate *candidate)
{
    unsigned up = IFF_UP | IFF_RUNNING;
    if (!entry->ifa_addr || (entry->ifa_flags & up) != up)
        return false;
    int family = entry->ifa_addr->sa_family;
    if ((family != AF_INET || settings->family == FAMILY_IPV6) &&
        (family != AF_INET6 || settings->family == FAMILY_IPV4))
        return false;
    size_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    struct sock_interface *interface = &candidate->interface;
    *interface = (struct sock_interface){0};
    snprintf(interface->name, sizeof interface->name, "%s", entry->ifa_name);
    memcpy(&interface->address.storage, entry->ifa_addr, len);
    interface->address.len = (uint32_t)len;
    interface->loopback = is_loopback(entry, &interface->address.storage);
    if (entry->ifa_netmask) {
        memcpy(&interface->netmask.storage, entry->ifa_netmask, len);
    } else { /* a point-to-point link: a subnet of one */
        memset(&interface->netmask.storage, 0xff, len);
    }
    interface->netmask.storage.ss_family = (sa_family_t)family;
    interface->netmask.len = (uint32_t)len;
    interface->speed_mbps = read_speed(interface->name);
    return true;
}

/* Loopback last, link-local before it, then what has no device, faster first. Speed is below 2^31,
 * hence the shifts. */
static uint64_t natural_rank(const struct sock_interface *interface)
{
    uint64_t class = interface->loopback                            ? 3
                     : link_local(&interface->address.storage)      ? 2
                     : !sock_has_device(SYSFS_NET, interface->name) ? 1
                                                                    : 0;
    return class << 32 | (UINT32_MAX - interface->speed_mbps);
}

static void insert(struct candidate *list, size_t count, const struct candidate *candidate)
{
    size_t at = count;
    for (; at > 0 && list[at - 1].rank > candidate->rank; at--)
        list[at] = list[at - 1];
    list[at] = *candidate;
}

/* Everything that is up, sorted by natural rank. */
static tutti_status collect(const struct settings *settings, struct candidate *list, size_t *count)
{
    struct ifaddrs *entries;
    if (getifaddrs(&entries) != 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "list the network interfaces");
    *count = 0;
    for (const struct ifaddrs *entry = entries; entry; entry = entry->ifa_next) {
        struct candidate candidate;
        if (!take(entry, settings, &candidate))
            continue;
        candidate.rank = natural_rank(&candidate.interface);
        if (*count == CANDIDATES_MAX && candidate.rank >= list[*count - 1].rank)
            continue;
        *count -= *count == CANDIDATES_MAX; /* the last makes room */
        insert(list, (*count)++, &candidate);
    }
    freeifaddrs(entries);
    return TUTTI_OK;
}

static tutti_status no_match(const char *term, const struct candidate *list, size_t count)
{
    char there[320] = "";
    for (size_t i = 0; i < count; i++) {
        char text[SOCK_TEXT_MAX];
        size_t used = strlen(there);
        sock_text(&list[i].interface.address, text);
        text[strlen(text) - 2] = '\0'; /* without ":0" */
        snprintf(there + used, sizeof there - used, "%s%s %s", i > 0 ? ", " : "",
                 list[i].interface.name, text);
    }
    return fail(TUTTI_ERR_SETTING, "TUTTI_INTERFACE=%.64s matches no interface; there are: %s",
                term, count > 0 ? there : "none");
}

/* Peers elsewhere cannot reach a loopback address: it goes when there is any other. */
static void drop_loopback(const struct candidate *list, size_t *count)
{
    if (*count > 0 && !list[0].interface.loopback) {
        while (list[*count - 1].interface.loopback)
            --*count;
    }
}

/* Keeps the entries some term of TUTTI_INTERFACE names, in the order of the terms, or all where
 * none does, but those that a term with ^ names. */
static tutti_status select_named(const char *setting, struct candidate *list, size_t *count)
{
    char copy[SETTING_TEXT_MAX], *rest = NULL;
    struct candidate *kept = malloc(CANDIDATES_MAX * sizeof *kept);
    if (!kept)
        return fail(TUTTI_ERR_NOMEM, "no memory for %d interfaces", CANDIDATES_MAX);
    size_t kept_count = 0, order[CANDIDATES_MAX], ordered = 0;
    bool taken[CANDIDATES_MAX] = {false}, refused[CANDIDATES_MAX] = {false}, names = false;
    tutti_status status = TUTTI_OK;
    snprintf(copy, sizeof copy, "%s", setting);
    for (char *term = strtok_r(copy, ", ", &rest); term; term = strtok_r(NULL, ", ", &rest)) {
        bool against = *term == '^', matched = against || strchr(term, '*');
        names |= !against;
        for (size_t i = 0; i < *count; i++) {
            if (!term_matches(term + against, &list[i].interface))
                continue;
            matched = true;
            refused[i] |= against;
            if (!against && !taken[i])
                order[ordered++] = i;
            taken[i] |= !against;
        }
        if (!matched) {
            status = no_match(term, list, *count);
            goto free_kept;
        }
    }
    for (size_t i = 0; !names && i < *count; i++)
        order[ordered++] = i;
    for (size_t i = 0; i < ordered; i++) {
        if (!refused[order[i]])
            kept[kept_count++] = list[order[i]];
    }
    if (kept_count == 0 && *count > 0)
        status = no_match(setting, list, *count);
    else
        memcpy(list, kept, kept_count * sizeof *list);
    *count = kept_count;
    if (!names)
        drop_loopback(list, count);
free_kept:
    free(kept);
    return status;
}

/* Several interfaces may have one address, where routers lead to the host by each of them. */
static void drop_doubles(struct candidate *list, size_t *count)
{
    size_t kept = 0;
    for (size_t i = 0; i < *count; i++) {
        const struct sock_address *one = &list[i].interface.address;
        size_t same = 0;
        while (same < kept &&
               memcmp(&list[same].interface.address.storage, &one->storage, one->len) != 0)
            same++;
        if (same == kept)
            list[kept++] = list[i];
    }
    *count = kept;
}

tutti_status sock_interfaces(const struct settings *settings, struct sock_interface *list,
                             size_t max, size_t *count)
{
    struct candidate *found = malloc(CANDIDATES_MAX * sizeof *found);
    if (!found)
        return fail(TUTTI_ERR_NOMEM, "no memory for %d interfaces", CANDIDATES_MAX);
    size_t found_count = 0;
    tutti_status status = collect(settings, found, &found_count);
    if (status == TUTTI_OK && settings->interface[0] != '\0')
        status = select_named(settings->interface, found, &found_count);
    else if (status == TUTTI_OK)
        drop_loopback(found, &found_count);
    if (status == TUTTI_OK) {
        drop_doubles(found, &found_count);
        size_t limit = found_count < max ? found_count : max;
        for (size_t i = 0; i < limit; i++)
            list[i] = found[i].interface;
        for (size_t i = limit; i < found_count; i++) {
            char text[SOCK_TEXT_MAX];
            log_at(LOG_LEVEL_INFO, -1, "interface %s %s is not offered: %zu are better",
                   found[i].interface.name, sock_text(&found[i].interface.address, text), limit);
        }
        *count = limit;
    }
    free(found);
    return status;
}
