/* scan.c: which ports serve. The idea: a port serves when it is active, of the table's link layer,
 * allowed by TUTTI_VERBS_DEVICE, and has an address that this host (this network namespace) really
 * has: a RoCE GID is made from an interface's address, and devices of other namespaces may be
 * visible. Nothing is said, and nothing loaded, on machines without devices. */
#include <dirent.h>
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transports/verbs/distance.h"
#include "transports/verbs/verbs.h"

#define GID_AUTO    256u
#define GIDS_LOOKED 256 /* entries of a port's table that are looked at: their index has 8 bits */
#define FOUND_MAX   32  /* ports among which the best are chosen */

struct scan {
    const struct settings *settings;
    enum choose_layer layer;
    const struct library *library;
    struct ifaddrs *interfaces;
    uint32_t devices, named, of_layer; /* seen; allowed by name; active and of the layer */
    char seen[160];                    /* what there is, for sentences */
    char why[160];                     /* the last reason to leave a port out */
    struct verbs_found found[FOUND_MAX];
    uint32_t found_count;
};

static bool have_devices(void)
{
    DIR *directory = opendir("/sys/class/infiniband");
    struct dirent *entry;
    bool any = false;
    while (directory && (entry = readdir(directory)))
        any = any || entry->d_name[0] != '.';
    if (directory)
        closedir(directory);
    return any;
}

/* ---- addresses --------------------------------------------------------------------------------
 */

static bool is_zero(const uint8_t raw[16])
{
    static const uint8_t zero[16];
    return memcmp(raw, zero, sizeof zero) == 0;
}

/* An interface's address in the form of a GID; false: neither IPv4 nor IPv6. */
static bool address_as_gid(const struct sockaddr *address, uint8_t raw[16])
{
    memset(raw, 0, 16);
    if (address && address->sa_family == AF_INET) {
        raw[10] = raw[11] = 0xff;
        memcpy(raw + 12, &((const struct sockaddr_in *)address)->sin_addr, 4);
        return true;
    }
    if (address && address->sa_family == AF_INET6) {
        memcpy(raw, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
        return true;
    }
    return false;
}

static uint8_t prefix_of(const struct ifaddrs *entry)
{
    uint8_t raw[16], bits = 0;
    if (!entry->ifa_netmask)
        return 0;
    /* Some systems leave the family of a mask out. */
    struct sockaddr_storage mask;
    bool v4 = entry->ifa_addr->sa_family == AF_INET;
    memcpy(&mask, entry->ifa_netmask,
           v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    mask.ss_family = entry->ifa_addr->sa_family;
    address_as_gid((struct sockaddr *)&mask, raw);
    for (int i = v4 ? 96 : 0; i < 128 && (raw[i / 8] >> (7 - i % 8) & 1); i++)
        bits++;
    return (uint8_t)(bits + (v4 ? 96 : 0));
}

/* Does this host have the address of the GID? *prefix gets the bits of its subnet. */
static bool on_this_host(const struct ifaddrs *list, const uint8_t gid[16], uint8_t *prefix)
{
    uint8_t raw[16];
    for (; list; list = list->ifa_next) {
        if (!(list->ifa_flags & IFF_UP) || !address_as_gid(list->ifa_addr, raw) ||
            memcmp(raw, gid, 16) != 0)
            continue;
        *prefix = prefix_of(list);
        return true;
    }
    return false;
}

/* iWARP: the GID is the hardware address of the interface, whose IP addresses are what counts. */
static uint32_t addresses_of_mac(const struct ifaddrs *list, const uint8_t mac[6],
                                 struct choose_gid *gids, uint32_t max)
{
    const char *name = NULL;
    uint32_t count = 0;
    for (const struct ifaddrs *at = list; at && !name; at = at->ifa_next) {
        const struct sockaddr_ll *link = (const struct sockaddr_ll *)at->ifa_addr;
        if (link && link->sll_family == AF_PACKET && link->sll_halen == 6 &&
            memcmp(link->sll_addr, mac, 6) == 0)
            name = at->ifa_name;
    }
    for (const struct ifaddrs *at = list; at && name && count < max; at = at->ifa_next) {
        struct choose_gid *gid = &gids[count];
        if (strcmp(at->ifa_name, name) == 0 && address_as_gid(at->ifa_addr, gid->raw) &&
            !(gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80)) { /* has no meaning elsewhere */
            gid->type = CHOOSE_GID_ROCE_V2;
            gid->prefix = prefix_of(at);
            gid->index = 0;
            count++;
        }
    }
    return count;
}

/* ---- one port ---------------------------------------------------------------------------------
 */

static uint8_t type_of(const struct ibv_gid_entry *entry)
{
    return entry->gid_type == IBV_GID_TYPE_ROCE_V2   ? CHOOSE_GID_ROCE_V2
           : entry->gid_type == IBV_GID_TYPE_ROCE_V1 ? CHOOSE_GID_ROCE_V1
                                                     : CHOOSE_GID_IB;
}

static uint32_t read_gids(const struct scan *scan, struct ibv_context *context, uint8_t port,
                          const struct ibv_port_attr *attr, struct choose_gid *gids, uint32_t max)
{
    uint32_t count = 0;
    int len = attr->gid_tbl_len < GIDS_LOOKED ? attr->gid_tbl_len : GIDS_LOOKED;
    for (int i = 0; i < len && count < max; i++) {
        struct ibv_gid_entry entry;
        if (scan->library->ibv.query_gid_ex(context, port, (uint32_t)i, &entry, 0, sizeof entry) !=
                0 ||
            is_zero(entry.gid.raw))
            continue;
        if (scan->layer == CHOOSE_LAYER_IWARP)
            return addresses_of_mac(scan->interfaces, entry.gid.raw, gids, max);
        struct choose_gid *gid = &gids[count];
        *gid = (struct choose_gid){.index = (uint16_t)i, .prefix = 64};
        memcpy(gid->raw, entry.gid.raw, sizeof gid->raw);
        gid->type = type_of(&entry);
        if (scan->layer == CHOOSE_LAYER_ETHERNET &&
            !on_this_host(scan->interfaces, gid->raw, &gid->prefix))
            continue;
        count++;
    }
    return count;
}

/* The manual choice: that GID alone, of all usable ones, or an error that lists the best. */
static tutti_status pick_gid(const struct scan *scan, const char *name, struct choose_gid *gids,
                             uint32_t all, uint32_t *count)
{
    char list[300] = "", text[96];
    uint64_t wanted = scan->settings->verbs_gid_index;
    if (wanted == GID_AUTO || scan->layer != CHOOSE_LAYER_ETHERNET)
        return TUTTI_OK;
    for (uint32_t i = 0; i < all; i++) {
        if (gids[i].index == wanted) {
            gids[0] = gids[i];
            *count = 1;
            return TUTTI_OK;
        }
    }
    for (uint32_t i = 0; i < all && strlen(list) + sizeof text + 2 < sizeof list; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? "; " : "",
                 choose_gid_text(&gids[i], text, sizeof text));
    return fail(
        TUTTI_ERR_SETTING,
        "TUTTI_VERBS_GID_INDEX=%llu is no usable GID of %s: it has %s; set one of these, or "
        "leave it unset",
        (unsigned long long)wanted, name, list[0] ? list : "none that this host owns");
}

static uint32_t speed_of(const struct ibv_port_attr *attr)
{
    static const uint32_t lanes[] = {1, 4, 8, 12, 2};
    uint32_t width = 1, lane_mbps;
    for (unsigned i = 0; i < sizeof lanes / sizeof *lanes; i++)
        width = attr->active_width == 1u << i ? lanes[i] : width;
    switch (attr->active_speed) {
    case 1:
        lane_mbps = 2500;
        break;
    case 2:
        lane_mbps = 5000;
        break;
    case 4:
    case 8:
        lane_mbps = 10000;
        break;
    case 16:
        lane_mbps = 14000;
        break;
    case 32:
        lane_mbps = 25000;
        break;
    case 64:
        lane_mbps = 50000;
        break;
    default:
        lane_mbps = 100000;
        break;
    }
    return width * lane_mbps;
}

enum choose_layer scan_layer(const struct ibv_context *context, const struct ibv_port_attr *attr)
{
    if (context->device->transport_type == IBV_TRANSPORT_IWARP)
        return CHOOSE_LAYER_IWARP;
    if (context->device->transport_type != IBV_TRANSPORT_IB)
        return CHOOSE_LAYER_NONE;
    return attr->link_layer == IBV_LINK_LAYER_ETHERNET ? CHOOSE_LAYER_ETHERNET : CHOOSE_LAYER_IB;
}

/* Is "device" or "device:port" in the list of TUTTI_VERBS_DEVICE (empty, or only terms with ^:
 * all), and in no term with ^? */
static bool allowed(const struct settings *settings, const char *device, unsigned port)
{
    const char *at = settings->verbs_device;
    bool named = false, names = false;
    for (; *at; at += strspn(at, ",")) {
        bool against = *at == '^';
        at += against;
        size_t word = strcspn(at, ","), len = strcspn(at, ",:");
        bool matches = settings_pattern(at, len, device) &&
                       (len == word || strtoul(at + len + 1, NULL, 10) == port);
        if (against && matches)
            return false;
        names |= !against;
        named |= matches;
        at += word;
    }
    return named || !names;
}

/* Looks at one port. TUTTI_OK: it serves. TUTTI_IN_PROGRESS: it does not, scan->why says why. */
static tutti_status look_at_port(struct scan *scan, struct ibv_context *context, uint8_t port,
                                 struct choose_rail *rail)
{
    struct ibv_port_attr attr;
    struct choose_gid gids[GIDS_LOOKED];
    char name[72];
    const char *device = scan->library->ibv.get_device_name(context->device);
    snprintf(name, sizeof name, "%.60s port %u", device, port);
    memset(&attr, 0, sizeof attr);
    if (scan->library->ibv.query_port(context, port, (void *)&attr) != 0)
        return TUTTI_IN_PROGRESS;
    snprintf(scan->seen + strlen(scan->seen), sizeof scan->seen - strlen(scan->seen), "%s%s",
             scan->seen[0] ? ", " : "", name);
    if (!allowed(scan->settings, device, port))
        return TUTTI_IN_PROGRESS;
    scan->named++;
    if (scan_layer(context, &attr) != scan->layer)
        return TUTTI_IN_PROGRESS;
    if (attr.state != IBV_PORT_ACTIVE) {
        snprintf(scan->why, sizeof scan->why,
                 "%s is not active but %s: check the cable, the switch port and `ip link`", name,
                 scan->library->ibv.port_state_str(attr.state));
        return TUTTI_IN_PROGRESS;
    }
    scan->of_layer++;
    uint32_t all = read_gids(scan, context, port, &attr, gids, GIDS_LOOKED);
    uint32_t count = choose_gids(gids, all);
    if (count == 0) {
        snprintf(scan->why, sizeof scan->why,
                 "%s has no GID that belongs to an address of this host: give its interface an "
                 "address",
                 name);
        return TUTTI_IN_PROGRESS;
    }
    tutti_status status = pick_gid(scan, name, gids, all, &count);
    if (status != TUTTI_OK)
        return status;
    *rail = (struct choose_rail){.layer = (uint8_t)scan->layer,
                                 .mtu = (uint8_t)attr.active_mtu,
                                 .lid = attr.lid,
                                 .speed_mbps = speed_of(&attr),
                                 .global = (attr.flags & IBV_QPF_GRH_REQUIRED) != 0,
                                 .gid_count = (uint8_t)count};
    memcpy(rail->gids, gids, count * sizeof *gids);
    return TUTTI_OK;
}

void scan_again(struct verbs_rail *rail)
{
    const struct library *library = rail->verbs->library;
    struct choose_rail *known = &rail->verbs->ports.rails[rail->index];
    struct ibv_port_attr attr;
    memset(&attr, 0, sizeof attr);
    if (library->ibv.query_port(rail->context, rail->port, (void *)&attr) != 0)
        return;
    known->lid = attr.lid;
    for (int i = 0; i < attr.gid_tbl_len && i < GIDS_LOOKED; i++) {
        struct ibv_gid_entry entry;
        if (known->layer == CHOOSE_LAYER_IWARP ||
            library->ibv.query_gid_ex(rail->context, rail->port, (uint32_t)i, &entry, 0,
                                      sizeof entry) != 0)
            continue;
        for (uint32_t g = 0; g < known->gid_count; g++) {
            struct choose_gid *gid = &known->gids[g];
            if (gid->type == type_of(&entry) && memcmp(gid->raw, entry.gid.raw, 16) == 0)
                gid->index = (uint16_t)i;
        }
    }
}

/* ---- all ports --------------------------------------------------------------------------------
 */

static const char *layer_text(enum choose_layer layer)
{
    static const char *const names[] = {"", "InfiniBand", "RoCE", "iWARP"};
    return names[layer];
}

/* Why no port serves; TUTTI_ERR_SETTING when the settings exclude what there is. */
static tutti_status none_found(const struct scan *scan)
{
    const char *wanted = scan->settings->verbs_device;
    if (scan->devices > 0 && wanted[0] && scan->named == 0)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_VERBS_DEVICE=%.80s names no port of this host: there is %s (set "
                    "device or device:port, several with commas)",
                    wanted, scan->seen);
    if (scan->why[0])
        return fail(TUTTI_ERR_UNSUPPORTED, "no usable %s port: %s", layer_text(scan->layer),
                    scan->why);
    if (scan->devices > 0)
        return fail(TUTTI_ERR_UNSUPPORTED, "no %s port here: there is %s", layer_text(scan->layer),
                    scan->seen);
    return fail(TUTTI_ERR_UNSUPPORTED, "this host has no RDMA device");
}

/* Notes every port that serves; the devices of these stay open. */
static tutti_status look_at_device(struct scan *scan, struct ibv_context *context)
{
    struct ibv_device_attr attr;
    tutti_status status = TUTTI_OK;
    if (scan->library->ibv.query_device(context, &attr) != 0)
        return TUTTI_OK;
    for (uint8_t port = 1; port <= attr.phys_port_cnt && status == TUTTI_OK; port++) {
        struct verbs_found *found = &scan->found[scan->found_count];
        if (scan->found_count == FOUND_MAX)
            break;
        status = look_at_port(scan, context, port, &found->rail);
        if (status == TUTTI_OK) {
            found->context = context;
            found->port = port;
            found->order.speed_mbps = found->rail.speed_mbps;
            found->order.found = scan->found_count++;
        } else if (status == TUTTI_IN_PROGRESS) {
            status = TUTTI_OK;
        }
    }
    return status;
}

static tutti_status look_at_devices(struct scan *scan)
{
    tutti_status status = TUTTI_OK;
    int count = 0;
    struct ibv_device **list = scan->library->ibv.get_device_list(&count);
    for (int i = 0; list && i < count && status == TUTTI_OK; i++) {
        struct ibv_context *context = scan->library->ibv.open_device(list[i]);
        uint32_t before = scan->found_count;
        if (!context)
            continue;
        scan->devices++;
        status = look_at_device(scan, context);
        if (scan->found_count == before)
            scan->library->ibv.close_device(context);
    }
    if (list)
        scan->library->ibv.free_device_list(list);
    return status == TUTTI_OK && scan->found_count == 0 ? none_found(scan) : status;
}

/* The best first. */
static void sort_ports(struct scan *scan)
{
    cpu_set_t cores;
    bool known = sched_getaffinity(0, sizeof cores, &cores) == 0;
    for (uint32_t i = 0; i < scan->found_count; i++) {
        struct verbs_found *found = &scan->found[i];
        const char *device = scan->library->ibv.get_device_name(found->context->device);
        found->order.distance =
            known ? distance_from("/sys", &cores, distance_node("/sys", device)) : DISTANCE_LOCAL;
    }
    qsort(scan->found, scan->found_count, sizeof *scan->found, choose_first);
}

/* What cannot be opened is left out. Where that leaves none TCP may serve: peers see in this rank's
 * address that it has no port. */
static tutti_status take_ports(struct scan *scan, struct verbs *verbs)
{
    tutti_status status = TUTTI_OK;
    sort_ports(scan);
    for (uint32_t i = 0; i < scan->found_count; i++) {
        tutti_status taken = device_take(verbs, &scan->found[i]);
        status = taken == TUTTI_OK ? status : taken;
    }
    return verbs->rail_count > 0 || verbs->ports.fallback ? TUTTI_OK : status;
}

static void close_unused(const struct scan *scan, const struct verbs *verbs)
{
    for (uint32_t i = 0; i < scan->found_count; i++) {
        bool used = false;
        for (uint32_t r = 0; verbs && r < verbs->rail_count; r++)
            used = used || verbs->rails[r].context == scan->found[i].context;
        for (uint32_t later = i + 1; later < scan->found_count; later++)
            used = used || scan->found[later].context == scan->found[i].context;
        if (!used)
            device_close_context(scan->library, scan->found[i].context);
    }
}

tutti_status scan_ports(const struct settings *settings, enum choose_layer layer,
                        struct verbs *verbs)
{
    struct scan scan = {.settings = settings, .layer = layer};
    if (!have_devices())
        return fail(TUTTI_ERR_UNSUPPORTED,
                    "this host has no RDMA device (/sys/class/infiniband is empty)");
    scan.library = library_get();
    if (!scan.library->have_ibv)
        return fail(TUTTI_ERR_UNSUPPORTED, "%s", scan.library->why);
    if (getifaddrs(&scan.interfaces) != 0)
        return fail_errno(TUTTI_ERR_SYSTEM, "list the network interfaces");
    tutti_status status = look_at_devices(&scan);
    if (verbs && status == TUTTI_OK)
        status = take_ports(&scan, verbs);
    close_unused(&scan, verbs);
    freeifaddrs(scan.interfaces);
    return status;
}

bool scan_probe(const struct settings *settings, enum choose_layer layer, char *why, size_t len)
{
    if (scan_ports(settings, layer, NULL) == TUTTI_OK)
        return true;
    snprintf(why, len, "%s", status_sentence());
    return false;
}
