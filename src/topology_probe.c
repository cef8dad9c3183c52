/* topology_probe.c: what this process can find out about the machine under it: the only impure
 * part of the topology, and the only file that knows hwloc.
 *
 * Two things are kept per process, because they cannot change or are dear to find: the hwloc
 * topology (loading it takes tens of milliseconds) and the random process id. Both live behind one
 * mutex, the exception to "no globals" that the record's comment promises ("drawn once"). The
 * binding is asked for anew each time, for the calling thread: ranks may be threads that are bound
 * differently. Sources: hwloc's manual (binding, object attributes), proc(5), cgroups(7). */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <hwloc.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/auth.h"
#include "base/lock.h"
#include "base/sock.h"
#include "src/topology.h"

/* What is kept per process. pid tells a forked child from its parent: the child draws a new id. */
struct probe_cache {
    struct lock lock;
    hwloc_topology_t machine; /* NULL until loaded; never destroyed, readers are many */
    pid_t pid;
    uint64_t process_id;
};
static struct probe_cache cache = {.lock = LOCK_INIT};

/* FNV-1a: short, and stable between builds, which an identity that travels must be. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t len)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

/* The first len - 1 bytes of a small file, without the newline at its end; "" if unreadable. */
static void read_text(const char *path, char *text, size_t len)
{
    text[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t got = read(fd, text, len - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    text[strcspn(text, "\n")] = 0;
}

/* A namespace is named by the device and inode of its file. */
static uint64_t hash_namespace(uint64_t hash, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return hash;
    hash = hash_bytes(hash, &info.st_dev, sizeof info.st_dev);
    return hash_bytes(hash, &info.st_ino, sizeof info.st_ino);
}

/* The boot id is always part of it, so that a TUTTI_HOST_ID given twice by mistake divides a
 * machine but never joins two. The network namespace counts because the handshake over which
 * memory is shared uses an abstract Unix socket; the PID namespace because peers are named by pid.
 */
static uint64_t host_identity(const struct settings *settings)
{
    uint64_t hash = 0xcbf29ce484222325u;
    char boot[64];
    read_text("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    if (boot[0] == 0)
        gethostname(boot, sizeof boot - 1);
    hash = hash_bytes(hash, boot, strnlen(boot, sizeof boot));
    if (settings->host_id[0])
        return hash_bytes(hash, settings->host_id, strlen(settings->host_id));
    hash = hash_namespace(hash, "/proc/self/ns/ipc");
    hash = hash_namespace(hash, "/proc/self/ns/pid");
    return hash_namespace(hash, "/proc/self/ns/net");
}

/* Field 22 of /proc/self/stat; counted from the last ')' because a name may hold spaces. */
static uint64_t process_start_time(void)
{
    char text[1024];
    read_text("/proc/self/stat", text, sizeof text);
    char *field = strrchr(text, ')');
    for (int skip = 0; field && skip < 20; skip++)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field + 1, NULL, 10) : 0;
}

/* A container's CPU quota, in whole cores rounded up; UINT32_MAX without one. */
static uint32_t quota_cores(void)
{
    char text[64], *end;
    read_text("/sys/fs/cgroup/cpu.max", text, sizeof text);
    if (!isdigit((unsigned char)text[0]))
        return UINT32_MAX;
    uint64_t quota = strtoull(text, &end, 10), period = strtoull(end, NULL, 10);
    if (period == 0 || quota / period >= UINT32_MAX - 1)
        return UINT32_MAX;
    uint32_t cores = (uint32_t)((quota + period - 1) / period);
    return cores ? cores : 1;
}

static tutti_status cache_get(hwloc_topology_t *machine, uint64_t *process_id)
{
    tutti_status status = TUTTI_OK;
    lock_take(&cache.lock);
    if (cache.machine == NULL) {
        hwloc_topology_t fresh = NULL;
        if (hwloc_topology_init(&fresh) != 0 || hwloc_topology_load(fresh) != 0) {
            if (fresh)
                hwloc_topology_destroy(fresh);
            status = fail(TUTTI_ERR_SYSTEM, "hwloc cannot read this machine's topology");
        } else {
            cache.machine = fresh;
        }
    }
    if (status == TUTTI_OK && cache.pid != getpid()) {
        status = auth_random(&cache.process_id, sizeof cache.process_id);
        if (status == TUTTI_OK)
            cache.pid = getpid();
    }
    *machine = cache.machine;
    *process_id = cache.process_id;
    lock_leave(&cache.lock);
    return status;
}

/* Number of the first processor of the only object of this type that the binding touches,
 * UINT32_MAX if several. Logical indices would not do: a process in a cpuset of its own counts only
 * what it may use. */
static uint32_t only_object(hwloc_topology_t machine, hwloc_const_cpuset_t set,
                            hwloc_obj_type_t type)
{
    hwloc_obj_t first = hwloc_get_next_obj_covering_cpuset_by_type(machine, set, type, NULL);
    if (first == NULL ||
        hwloc_get_next_obj_covering_cpuset_by_type(machine, set, type, first) != NULL)
        return UINT32_MAX;
    return (uint32_t)hwloc_bitmap_first(first->complete_cpuset);
}

static uint32_t cache_kib(hwloc_topology_t machine, hwloc_const_cpuset_t set)
{
    uint64_t bytes = 0;
    hwloc_obj_t object = NULL;
    while ((object = hwloc_get_next_obj_covering_cpuset_by_type(machine, set, HWLOC_OBJ_L3CACHE,
                                                                object)) != NULL)
        bytes += object->attr->cache.size;
    return bytes >> 10 > UINT32_MAX ? UINT32_MAX : (uint32_t)(bytes >> 10);
}

static tutti_status probe_cores(hwloc_topology_t machine, struct host_record *record)
{
    hwloc_cpuset_t set = hwloc_bitmap_alloc();
    if (set == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for a set of cores");
    if (hwloc_get_cpubind(machine, set, HWLOC_CPUBIND_THREAD) != 0 || hwloc_bitmap_iszero(set))
        hwloc_bitmap_copy(set, hwloc_topology_get_allowed_cpuset(machine));
    int weight = hwloc_bitmap_weight(set);
    uint32_t quota = quota_cores();
    record->cores = weight > 0 ? (uint32_t)weight : 1;
    if (record->cores > quota)
        record->cores = quota;
    record->numa_node = only_object(machine, set, HWLOC_OBJ_NUMANODE);
    record->package = only_object(machine, set, HWLOC_OBJ_PACKAGE);
    record->l3_id = only_object(machine, set, HWLOC_OBJ_L3CACHE);
    record->cache_kib = cache_kib(machine, set);
    uint64_t hash = 0xcbf29ce484222325u;
    int words = hwloc_bitmap_nr_ulongs(set);
    for (int i = 0; i < words; i++) {
        unsigned long word = hwloc_bitmap_to_ith_ulong(set, (unsigned)i);
        hash = hash_bytes(hash, &word, sizeof word);
    }
    record->cpuset_hash = (uint32_t)(hash ^ hash >> 32);
    hwloc_bitmap_free(set);
    return TUTTI_OK;
}

/* A host without any usable interface is fine (one host needs none); a wrong name is not. */
static tutti_status probe_nics(const struct settings *settings, struct host_record *record)
{
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    tutti_status status = sock_interfaces(settings, list, SOCK_INTERFACES_MAX, &count);
    if (status == TUTTI_ERR_SETTING || status == TUTTI_ERR_NOMEM)
        return status;
    for (size_t i = 0; status == TUTTI_OK && i < count; i++) {
        if (!list[i].loopback && list[i].speed_mbps > record->nic_mbps)
            record->nic_mbps = list[i].speed_mbps;
    }
    return TUTTI_OK;
}

tutti_status topology_probe(const struct settings *settings, struct host_record *record)
{
    hwloc_topology_t machine;
    struct host_record found = {.version = TOPOLOGY_VERSION, .pid = (uint32_t)getpid()};
    tutti_status status = cache_get(&machine, &found.process_id);
    if (status != TUTTI_OK)
        return status;
    status = probe_cores(machine, &found);
    if (status != TUTTI_OK)
        return status;
    status = probe_nics(settings, &found);
    if (status != TUTTI_OK)
        return status;
    found.host_id = host_identity(settings);
    found.start_time = process_start_time();
    if (gethostname(found.host, sizeof found.host - 1) != 0 || found.host[0] == 0)
        snprintf(found.host, sizeof found.host, "unnamed");
    found.host[sizeof found.host - 1] = 0;
    *record = found;
    return TUTTI_OK;
}
