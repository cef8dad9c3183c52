/* test_sock.c: addresses as text, interfaces, port ranges, connections over IPv4 and IPv6
 * loopback, whole messages with deadlines, and peers that go away. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/owned.h"
#include "base/sock.h"
#include "tests/suite.h"

static struct settings defaults(void)
{
    struct settings settings;
    settings_defaults(&settings);
    return settings;
}

static tutti_status parse(const char *text, struct sock_addresses *addresses)
{
    struct settings settings = defaults();
    return sock_parse(&settings, text, addresses);
}

static struct sock_address parsed(const char *text)
{
    struct sock_addresses addresses = {0};
    CU_ASSERT_EQUAL_FATAL(parse(text, &addresses), TUTTI_OK);
    return addresses.list[0];
}

static bool have_ipv6(void)
{
    struct settings settings = defaults();
    struct sock_address any = parsed("[::1]:0");
    int fd;
    if (sock_listen(&settings, &any, 1, &fd, NULL) != TUTTI_OK)
        return false;
    owned_close(fd);
    return true;
}

static bool flags_are_right(int fd)
{
    return (fcntl(fd, F_GETFD) & FD_CLOEXEC) && (fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static unsigned port_of(const struct sock_address *address)
{
    /* Both families keep the port at the same place. */
    return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
}

/* ---- text -------------------------------------------------------------------------------------
 */

static void test_sock_parse_and_text_are_inverse(void)
{
    static const char *const texts[] = {"127.0.0.1:80", "[::1]:65535", "[2001:db8::7]:1",
                                        "255.255.255.255:0"};
    char text[SOCK_TEXT_MAX];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sock_address address = parsed(texts[i]);
        CU_ASSERT_STRING_EQUAL(sock_text(&address, text), texts[i]);
    }
    struct sock_address local = parsed("localhost:7");
    CU_ASSERT_EQUAL(port_of(&local), 7);
    struct sock_address none = {0};
    CU_ASSERT_STRING_EQUAL(sock_text(&none, text), "(no address)");
}

static void test_sock_text_shows_the_scope(void)
{
    char text[SOCK_TEXT_MAX], name[IF_NAMESIZE], expected[SOCK_TEXT_MAX];
    if (!if_indextoname(1, name)) {
        suite_skip("no network interface has index 1");
        return;
    }
    snprintf(expected, sizeof expected, "[fe80::1%%%s]:9", name);
    struct sock_address address = parsed(expected);
    CU_ASSERT_EQUAL(((struct sockaddr_in6 *)&address.storage)->sin6_scope_id, 1);
    CU_ASSERT_STRING_EQUAL(sock_text(&address, text), expected);
    ((struct sockaddr_in6 *)&address.storage)->sin6_scope_id = 123456;
    CU_ASSERT_STRING_EQUAL(sock_text(&address, text), "[fe80::1%123456]:9");
}

static void test_sock_parse_refuses_garbage(void)
{
    static const char *const texts[] = {"",        ":",     "host",  "host:",          ":80",
                                        "h:66666", "h:1:2", "[::1]", "[::1]80",        "[::1:80",
                                        "h:8x",    "h:-1",  "h: 80", "h:000000000080", "[]:80"};
    struct sock_addresses addresses = {.count = 77};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CU_ASSERT_EQUAL(parse(texts[i], &addresses), TUTTI_ERR_ARG);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "expected host:port or [ipv6]:port"));
    }
    CU_ASSERT_EQUAL(parse("localhost:99999", &addresses), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "a port of at most 65535"));
    CU_ASSERT_EQUAL(parse("::1:5555", &addresses), TUTTI_ERR_ARG);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "here [::1]:5555"));
    char text[5000];
    memset(text, 'h', sizeof text);
    memcpy(text + 4990, ":80", 4);
    CU_ASSERT_EQUAL(parse(text, &addresses), TUTTI_ERR_ARG);
    CU_ASSERT_EQUAL(parse("[127.0.0.1]:80", &addresses), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(parse("no.such.host.invalid:80", &addresses), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(addresses.count, 77);
    uint64_t random = suite_seed();
    for (int i = 0; i < 5000; i++) {
        char junk[16];
        size_t len = suite_random(&random) % sizeof junk;
        for (size_t at = 0; at < len; at++)
            junk[at] = "[]:%.09af/ "[suite_random(&random) % 11];
        junk[len] = '\0';
        char shown[SOCK_TEXT_MAX];
        /* A bracketed or dotted text never asks a name server for long; others are left out. */
        if (junk[0] == '[' && parse(junk, &addresses) == TUTTI_OK)
            sock_text(&addresses.list[0], shown);
    }
}

/* Of a name the addresses of the family that is asked for; an address is what it is. */
static void test_sock_parse_keeps_to_the_family(void)
{
    static const char *const literals[] = {"127.0.0.1:80", "[::1]:80"};
    struct settings settings = defaults();
    struct sock_addresses all = {0}, some = {0};
    char text[SOCK_TEXT_MAX];
    for (settings.family = FAMILY_ANY; settings.family <= FAMILY_IPV6; settings.family++) {
        for (int i = 0; i < 2; i++) {
            CU_ASSERT_EQUAL_FATAL(sock_parse(&settings, literals[i], &some), TUTTI_OK);
            CU_ASSERT_EQUAL(some.count, 1);
            CU_ASSERT_STRING_EQUAL(sock_text(&some.list[0], text), literals[i]);
        }
    }
    CU_ASSERT_EQUAL_FATAL(parse("localhost:80", &all), TUTTI_OK);
    uint32_t found = 0;
    for (int version = 4; version <= 6; version += 2) {
        char says[160];
        snprintf(says, sizeof says,
                 "host \"localhost\" has no IPv%d address, which TUTTI_FAMILY=ipv%d asks for: give "
                 "it one, or set TUTTI_FAMILY=any at every rank",
                 version, version);
        settings.family = version == 4 ? FAMILY_IPV4 : FAMILY_IPV6;
        tutti_status status = sock_parse(&settings, "localhost:80", &some);
        if (status != TUTTI_OK) {
            CU_ASSERT_EQUAL(status, TUTTI_ERR_SETTING);
            CU_ASSERT_STRING_EQUAL(status_sentence(), says);
            continue;
        }
        for (uint32_t i = 0; i < some.count; i++)
            CU_ASSERT_EQUAL(some.list[i].storage.ss_family, version == 4 ? AF_INET : AF_INET6);
        found += some.count;
    }
    CU_ASSERT_EQUAL(found, all.count);
}

/* ---- interfaces -------------------------------------------------------------------------------
 */

static void test_sock_interfaces_can_be_bound(void)
{
    struct settings settings = defaults();
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 99;
    CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    CU_ASSERT_FATAL(count <= SOCK_INTERFACES_MAX);
    for (size_t i = 0; i < count; i++) {
        int fd;
        CU_ASSERT_EQUAL(list[i].loopback, list[0].loopback);
        CU_ASSERT_EQUAL(port_of(&list[i].address), 0);
        CU_ASSERT_TRUE(sock_same_subnet(&list[i], &list[i].address));
        if (sock_listen(&settings, &list[i].address, 1, &fd, NULL) == TUTTI_OK)
            owned_close(fd);
        else
            CU_FAIL(sock_listen);
    }
    if (count > 1) {
        CU_ASSERT_EQUAL(sock_interfaces(&settings, list, 1, &count), TUTTI_OK);
        CU_ASSERT_EQUAL(count, 1);
    }
}

static void test_sock_interfaces_by_name_subnet_and_family(void)
{
    struct settings settings = defaults();
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    strcpy(settings.interface, "127.0.0.0/8");
    CU_ASSERT_EQUAL_FATAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    CU_ASSERT_FATAL(count >= 1);
    CU_ASSERT_TRUE(list[0].loopback);
    struct sock_address inside = parsed("127.200.1.2:5"), outside = parsed("128.0.0.1:5");
    CU_ASSERT_TRUE(sock_same_subnet(&list[0], &inside));
    CU_ASSERT_FALSE(sock_same_subnet(&list[0], &outside));
    struct sock_address other = parsed("[::1]:5");
    CU_ASSERT_FALSE(sock_same_subnet(&list[0], &other));
    strcpy(settings.interface, "127.0.0.1, 127.0.0.0/9"); /* twice the same: listed once */
    CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    CU_ASSERT_EQUAL(count, 1);
    strcpy(settings.interface, list[0].name);
    settings.family = 1;
    CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    for (size_t i = 0; i < count; i++)
        CU_ASSERT_EQUAL(list[i].address.storage.ss_family, AF_INET);
    if (have_ipv6()) {
        strcpy(settings.interface, "::1/128");
        settings.family = 2;
        CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
        CU_ASSERT_EQUAL(count, 1);
    }
}

/* How many loopback addresses the setting leaves, and how many others. */
static void count_interfaces(const char *setting, size_t *loops, size_t *others)
{
    struct settings settings = defaults();
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    strcpy(settings.interface, setting);
    *loops = *others = 0;
    if (sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count) != TUTTI_OK)
        return;
    for (size_t i = 0; i < count; i++)
        ++*(list[i].loopback ? loops : others);
}

static void test_sock_interfaces_by_pattern(void)
{
    size_t loops, others, all_loops, all_others, of_host; /* of_host: addresses that lie on lo */
    count_interfaces("*", &all_loops, &all_others);
    CU_ASSERT_TRUE(all_loops > 0);
    count_interfaces("lo", &loops, &of_host);
    count_interfaces("l*", &loops, &others);
    CU_ASSERT_TRUE(loops == all_loops && others < all_others + (all_others == 0));
    count_interfaces("nosuch*,lo", &loops, &others); /* a pattern may find nothing, */
    CU_ASSERT_TRUE(loops == all_loops && others == of_host);
    count_interfaces("nosuch*", &loops, &others); /* all of them may not */
    CU_ASSERT_TRUE(loops + others == 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "TUTTI_INTERFACE=nosuch* matches no inter"));
    count_interfaces("^l*", &loops, &others);
    CU_ASSERT_TRUE(loops == 0 && others == all_others - of_host);
    count_interfaces("^nosuch", &loops, &others); /* loopback goes where there is any other */
    CU_ASSERT_TRUE(others == all_others && loops == (all_others ? 0 : all_loops));
    count_interfaces("*,^127.0.0.0/8", &loops, &others);
    CU_ASSERT_TRUE(others == all_others && loops < all_loops);
    count_interfaces("lo,^lo", &loops, &others);
    CU_ASSERT_TRUE(loops + others == 0);
}

/* A tree as /sys/class/net has it: an adapter with a VLAN over a bond over it, the host's own
 * bridge with the adapter and a guest's tap at it, and a bridge with a container's veth. */
static void test_sock_interfaces_know_a_device(void)
{
    static const char *const files[] = {"eth0",
                                        "eth0/device",
                                        "bond0",
                                        "bond0/lower_eth0",
                                        "vlan7",
                                        "vlan7/lower_bond0",
                                        "br0",
                                        "br0/lower_tap0",
                                        "tap0",
                                        "br0/lower_eth0",
                                        "veth1",
                                        "docker0",
                                        "docker0/lower_veth1",
                                        "loop",
                                        "loop/lower_loop"};
    static const struct {
        const char *name;
        bool has;
    } expected[] = {{"eth0", true},   {"bond0", true}, {"vlan7", true},
                    {"br0", true},    {"tap0", false}, {"docker0", false},
                    {"veth1", false}, {"loop", false}, {"gone", false}};
    char root[] = "/tmp/tutti-net-XXXXXX", path[128];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(root));
    size_t count = sizeof files / sizeof *files;
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", root, files[i]);
        CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
    }
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        CU_ASSERT_EQUAL(sock_has_device(root, expected[i].name), expected[i].has);
    for (int pass = 0; pass < 2; pass++) { /* what is inside first */
        for (size_t i = 0; i < count; i++) {
            snprintf(path, sizeof path, "%s/%s", root, files[i]);
            if (pass == 1 || strchr(files[i], '/'))
                rmdir(path);
        }
    }
    CU_ASSERT_EQUAL(rmdir(root), 0);
}

/* A bridge for containers claims 10,000 Mbit/s where a virtual machine's adapter says nothing. */
static void test_sock_interfaces_with_a_device_come_first(void)
{
    struct settings settings = defaults();
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 0;
    CU_ASSERT_EQUAL_FATAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count), TUTTI_OK);
    bool before = true;
    for (size_t i = 0; i < count; i++) {
        const struct sockaddr_storage *at = &list[i].address.storage;
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)at;
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)at;
        bool near = at->ss_family == AF_INET ? ntohl(v4->sin_addr.s_addr) >> 16 == 0xa9fe
                                             : IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr);
        if (near)
            break;
        bool has = sock_has_device("/sys/class/net", list[i].name);
        CU_ASSERT_TRUE(before || !has);
        before = has;
    }
}

static void test_sock_interfaces_unknown_name_lists_what_there_is(void)
{
    static const char *const names[] = {"nosuch0", "240.0.0.0/8", "240.0.0.1/99", "127.0.0.1/",
                                        "127.0.0.0/8,nosuch0"};
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 99;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct settings settings = defaults();
        strcpy(settings.interface, names[i]);
        CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count),
                        TUTTI_ERR_SETTING);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "matches no interface; there are: "));
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "127.0.0.1"));
        CU_ASSERT_EQUAL(count, 99);
    }
}

static void test_sock_interfaces_out_of_memory(void)
{
    struct settings settings = defaults();
    struct sock_interface list[SOCK_INTERFACES_MAX];
    size_t count = 99;
    strcpy(settings.interface, "127.0.0.1");
    for (uint64_t kth = 1; kth <= 2; kth++) {
        suite_fail_allocation(kth);
        CU_ASSERT_EQUAL(sock_interfaces(&settings, list, SOCK_INTERFACES_MAX, &count),
                        TUTTI_ERR_NOMEM);
        CU_ASSERT_TRUE(suite_allocation_failed());
        suite_fail_allocation(0);
        CU_ASSERT_EQUAL(count, 99);
    }
}

/* ---- ports ------------------------------------------------------------------------------------
 */

static void test_sock_listen_takes_the_next_free_port(void)
{
    struct settings settings = defaults();
    struct sock_address any = parsed("127.0.0.1:0"), bound[4];
    int fd[4], base = -1, last;
    /* A range of three ports that are free now: near one the kernel chose. */
    for (int i = 0; i < 50 && base < 0; i++) {
        CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &fd[0], &bound[0]), TUTTI_OK);
        int port = (int)port_of(&bound[0]);
        owned_close(fd[0]);
        if (port > 65530)
            continue;
        snprintf(settings.ports, sizeof settings.ports, "%d-%d", port, port + 2);
        int taken = 0;
        while (taken < 3 && sock_listen(&settings, &any, 1, &fd[taken], &bound[taken]) == TUTTI_OK)
            taken++;
        if (taken == 3)
            base = port;
        else
            while (taken > 0)
                owned_close(fd[--taken]);
        if (base < 0)
            settings.ports[0] = '\0';
    }
    CU_ASSERT_FATAL(base >= 0);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL((int)port_of(&bound[i]), base + i);
        CU_ASSERT_TRUE(flags_are_right(fd[i]));
    }
    last = -7;
    CU_ASSERT_EQUAL(sock_listen(&settings, &any, 1, &last, &bound[3]), TUTTI_ERR_CONNECT);
    CU_ASSERT_EQUAL(last, -7);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "every port of TUTTI_PORTS="));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "is in use: widen the range"));
    /* A port asked for by name is that port or nothing. */
    CU_ASSERT_EQUAL(sock_listen(&settings, &bound[1], 1, &last, NULL), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "Address already in use"));
    owned_close(fd[1]);
    CU_ASSERT_EQUAL(sock_listen(&settings, &any, 1, &fd[1], &bound[3]), TUTTI_OK);
    CU_ASSERT_EQUAL((int)port_of(&bound[3]), base + 1);
    snprintf(settings.ports, sizeof settings.ports, "%d", base); /* a range of one */
    CU_ASSERT_EQUAL(sock_listen(&settings, &any, 1, &last, NULL), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "is in use: widen the range"));
    for (int i = 0; i < 3; i++)
        owned_close(fd[i]);
}

static void test_sock_listen_refuses_bad_ranges(void)
{
    static const char *const ranges[] = {"x",     "0-5", "5-4",   "1-65536",
                                         "1-",    "-5",  "1-2-3", "1 - 2",
                                         "70000", "1-x", "1,2",   "99999999999999999999-1",
                                         "+1-2"};
    struct sock_address any = parsed("127.0.0.1:0");
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct settings settings = defaults();
        int fd = -7;
        strcpy(settings.ports, ranges[i]);
        CU_ASSERT_EQUAL(sock_listen(&settings, &any, 1, &fd, NULL), TUTTI_ERR_SETTING);
        CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "is no port range"));
        CU_ASSERT_EQUAL(fd, -7);
    }
}

static void test_sock_listen_says_why_it_cannot(void)
{
    struct settings settings = defaults();
    struct sock_address foreign = parsed("240.0.0.1:0");
    int fd = -7;
    CU_ASSERT_EQUAL(sock_listen(&settings, &foreign, 1, &fd, NULL), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "listen on 240.0.0.1:0: Cannot assign"));
    struct rlimit old, none;
    CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 3;
    struct sock_address any = parsed("127.0.0.1:0");
    setrlimit(RLIMIT_NOFILE, &none);
    tutti_status listening = sock_listen(&settings, &any, 1, &fd, NULL);
    tutti_status connecting = sock_connect_start(&any, &fd);
    setrlimit(RLIMIT_NOFILE, &old);
    CU_ASSERT_EQUAL(listening, TUTTI_ERR_NOMEM);
    CU_ASSERT_EQUAL(connecting, TUTTI_ERR_NOMEM);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "(the limit is ulimit -n): Too many open"));
    CU_ASSERT_EQUAL(fd, -7);
}

/* ---- connections ------------------------------------------------------------------------------
 */

struct link {
    int listener, client, server;
    struct sock_address bound;
};

static void wait_for(int fd, short events)
{
    struct pollfd wait = {.fd = fd, .events = events};
    CU_ASSERT_EQUAL(poll(&wait, 1, 5000), 1);
}

/* Ends of this host, which no overload may take for lost. */
static bool is_patient(int fd)
{
    int probes = -1;
    unsigned timeout = 1;
    socklen_t len = sizeof probes;
    CU_ASSERT_EQUAL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &probes, &len), 0);
    CU_ASSERT_EQUAL(getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &len), 0);
    return probes == 0 && timeout == 0;
}

/* Connects two ends over the loopback address at text. */
static void link_open(struct link *link, const char *text)
{
    struct settings settings = defaults();
    struct sock_address any = parsed(text), from = {0};
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 8, &link->listener, &link->bound), TUTTI_OK);
    link->server = -7;
    CU_ASSERT_EQUAL(sock_accept(link->listener, &link->server, NULL), TUTTI_OK);
    CU_ASSERT_EQUAL(link->server, -1);
    CU_ASSERT_EQUAL_FATAL(sock_connect_start(&link->bound, &link->client), TUTTI_OK);
    wait_for(link->client, POLLOUT);
    CU_ASSERT_EQUAL(sock_connect_finish(link->client, &link->bound), TUTTI_OK);
    wait_for(link->listener, POLLIN);
    CU_ASSERT_EQUAL(sock_accept(link->listener, &link->server, &from), TUTTI_OK);
    CU_ASSERT_FATAL(link->server >= 0);
    CU_ASSERT_EQUAL(from.storage.ss_family, any.storage.ss_family);
    CU_ASSERT_TRUE(flags_are_right(link->client));
    CU_ASSERT_TRUE(flags_are_right(link->server));
    sock_tune(link->client);
    sock_tune(link->server);
    CU_ASSERT_TRUE(is_patient(link->client));
    CU_ASSERT_TRUE(is_patient(link->server));
}

static void link_close(struct link *link)
{
    owned_close(link->client);
    owned_close(link->server);
    owned_close(link->listener);
}

struct sender {
    int fd;
    const uint8_t *data;
    size_t len;
    tutti_status status;
};

static void *send_thread(void *context)
{
    struct sender *sender = context;
    sender->status = sock_send_all(sender->fd, sender->data, sender->len, clock_ms() + 20000, NULL);
    return NULL;
}

static void carry(const char *text)
{
    enum { LEN = 5 << 20 }; /* more than any socket buffer: both ends must wait at times */
    struct link link;
    uint8_t *sent = malloc(LEN), *got = malloc(LEN);
    CU_ASSERT_FATAL(sent && got);
    uint64_t random = suite_seed();
    for (size_t i = 0; i < LEN; i += 8) {
        uint64_t word = suite_random(&random);
        memcpy(sent + i, &word, 8);
    }
    link_open(&link, text);
    struct sender sender = {.fd = link.client, .data = sent, .len = LEN};
    pthread_t thread;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, send_thread, &sender), 0);
    CU_ASSERT_EQUAL(sock_recv_all(link.server, got, LEN, clock_ms() + 20000, NULL), TUTTI_OK);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(sender.status, TUTTI_OK);
    CU_ASSERT_EQUAL(memcmp(sent, got, LEN), 0);
    CU_ASSERT_EQUAL(sock_send_all(link.client, NULL, 0, 0, NULL), TUTTI_OK);
    CU_ASSERT_EQUAL(sock_recv_all(link.client, NULL, 0, 0, NULL), TUTTI_OK);
    link_close(&link);
    free(sent);
    free(got);
}

static void test_sock_carries_messages_over_ipv4(void)
{
    carry("127.0.0.1:0");
}

static void test_sock_carries_messages_over_ipv6(void)
{
    if (!have_ipv6()) {
        suite_skip("no IPv6 loopback address here");
        return;
    }
    carry("[::1]:0");
}

static void test_sock_families_share_a_port(void)
{
    if (!have_ipv6()) {
        suite_skip("no IPv6 loopback address here");
        return;
    }
    struct settings settings = defaults();
    struct sock_address any = parsed("[::]:0"), bound, same;
    int six, four;
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &six, &bound), TUTTI_OK);
    char text[SOCK_TEXT_MAX];
    snprintf(text, sizeof text, "0.0.0.0:%u", port_of(&bound));
    same = parsed(text);
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &same, 1, &four, NULL), TUTTI_OK);
    owned_close(six);
    owned_close(four);
}

static tutti_status give_up(void *context)
{
    (void)context;
    return fail(TUTTI_ERR_ABORTED, "no longer wanted");
}

static void test_sock_receive_stops_at_its_deadline(void)
{
    struct link link;
    char byte = 'x', two[2];
    link_open(&link, "127.0.0.1:0");
    CU_ASSERT_EQUAL(sock_send_all(link.client, &byte, 1, clock_ms() + 1000, NULL), TUTTI_OK);
    uint64_t before = clock_ms();
    CU_ASSERT_EQUAL(sock_recv_all(link.server, two, 2, before + 50, NULL), TUTTI_ERR_TIMEOUT);
    uint64_t took = clock_ms() - before;
    CU_ASSERT(took >= 50 && took < 5000);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "time is up after 1 of 2 bytes"));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "127.0.0.1:"));
    CU_ASSERT_EQUAL(sock_recv_all(link.server, two, 2, 0, NULL), TUTTI_ERR_TIMEOUT);
    /* Nobody reads: the buffers fill, then time is up. */
    static char much[8 << 20];
    CU_ASSERT_EQUAL(sock_send_all(link.client, much, sizeof much, clock_ms() + 50, NULL),
                    TUTTI_ERR_TIMEOUT);
    /* Or something else ends the wait. */
    struct cancel cancel = {give_up, NULL};
    CU_ASSERT_EQUAL(sock_recv_all(link.client, two, 2, clock_ms() + 20000, &cancel),
                    TUTTI_ERR_ABORTED);
    CU_ASSERT_EQUAL(sock_send_all(link.client, much, sizeof much, clock_ms() + 20000, &cancel),
                    TUTTI_ERR_ABORTED);
    link_close(&link);
}

static void test_sock_peer_that_closes_is_told_apart(void)
{
    struct link link;
    char data[64] = "abc";
    link_open(&link, "127.0.0.1:0");
    CU_ASSERT_EQUAL(sock_send_all(link.client, data, 3, clock_ms() + 1000, NULL), TUTTI_OK);
    owned_close(link.client);
    CU_ASSERT_EQUAL(sock_recv_all(link.server, data, 8, clock_ms() + 5000, NULL), TUTTI_ERR_PEER);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "closed after 3 of 8 bytes"));
    /* Writing to it ends with an error, not with a signal. */
    tutti_status status = TUTTI_OK;
    for (int i = 0; i < 1000 && status == TUTTI_OK; i++) {
        status = sock_send_all(link.server, data, sizeof data, clock_ms() + 1000, NULL);
        clock_sleep_us(100);
    }
    CU_ASSERT_EQUAL(status, TUTTI_ERR_PEER);
    owned_close(link.server);
    owned_close(link.listener);
    CU_ASSERT_EQUAL(sock_send_all(-1, data, 1, 0, NULL), TUTTI_ERR_SYSTEM);
    CU_ASSERT_EQUAL(sock_recv_all(-1, data, 1, 0, NULL), TUTTI_ERR_SYSTEM);
}

static void test_sock_connect_to_nobody_is_refused(void)
{
    struct settings settings = defaults();
    struct sock_address any = parsed("127.0.0.1:0"), bound;
    int fd;
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &fd, &bound), TUTTI_OK);
    owned_close(fd);
    tutti_status status = sock_connect_start(&bound, &fd);
    if (status == TUTTI_OK) {
        wait_for(fd, POLLOUT);
        status = sock_connect_finish(fd, &bound);
        owned_close(fd);
    }
    CU_ASSERT_EQUAL(status, TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "connect to 127.0.0.1:"));
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "Connection refused"));
}

static void test_sock_connection_to_itself_is_refused(void)
{
    struct settings settings = defaults();
    struct sock_address any = parsed("127.0.0.1:0"), bound;
    int fd;
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &fd, &bound), TUTTI_OK);
    owned_close(fd);
    /* Bound to the port it connects to: TCP's simultaneous open with itself. */
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_FATAL(fd >= 0);
    if (bind(fd, (struct sockaddr *)&bound.storage, bound.len) != 0 ||
        connect(fd, (struct sockaddr *)&bound.storage, bound.len) != 0) {
        close(fd);
        suite_skip("this kernel does not connect a socket to itself");
        return;
    }
    CU_ASSERT_EQUAL(sock_connect_finish(fd, &bound), TUTTI_ERR_CONNECT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_sentence(), "nobody listens there"));
    close(fd);
    /* Who was meant may come at once. */
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &bound, 1, &fd, NULL), TUTTI_OK);
    owned_close(fd);
}

/* ---- forks ------------------------------------------------------------------------------------
 */

/* The number is free in the child, and what it then names there is not closed for the socket. */
static bool child_gave_up(int owned, int kept)
{
    if (fcntl(owned, F_GETFD) >= 0 || fcntl(kept, F_GETFD) < 0 || dup2(kept, owned) != owned)
        return false;
    owned_close(owned);
    if (fcntl(owned, F_GETFD) < 0)
        return false;
    owned_add(owned);
    owned_close(owned);
    return fcntl(owned, F_GETFD) < 0;
}

static void test_sock_child_of_fork_gives_up_sockets(void)
{
    struct settings settings = defaults();
    struct sock_address any = parsed("127.0.0.1:0"), bound;
    int owned = -1, kept = -1, status = -1;
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &owned, &bound), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(sock_listen(&settings, &any, 1, &kept, NULL), TUTTI_OK);
    owned_forget(kept);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(child_gave_up(owned, kept) ? 0 : 1);
    waitpid(child, &status, 0);
    CU_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CU_ASSERT(fcntl(owned, F_GETFD) >= 0); /* the parent keeps its own */
    owned_close(owned);
    owned_close(kept); /* not ours any more */
    CU_ASSERT(close(kept) == 0);
}

static const struct suite_test tests[] = {
    {"sock_child_of_fork_gives_up_sockets", test_sock_child_of_fork_gives_up_sockets},
    {"sock_parse_and_text_are_inverse", test_sock_parse_and_text_are_inverse},
    {"sock_text_shows_the_scope", test_sock_text_shows_the_scope},
    {"sock_parse_refuses_garbage", test_sock_parse_refuses_garbage},
    {"sock_parse_keeps_to_the_family", test_sock_parse_keeps_to_the_family},
    {"sock_interfaces_can_be_bound", test_sock_interfaces_can_be_bound},
    {"sock_interfaces_by_name_subnet_and_family", test_sock_interfaces_by_name_subnet_and_family},
    {"sock_interfaces_by_pattern", test_sock_interfaces_by_pattern},
    {"sock_interfaces_know_a_device", test_sock_interfaces_know_a_device},
    {"sock_interfaces_with_a_device_come_first", test_sock_interfaces_with_a_device_come_first},
    {"sock_interfaces_unknown_name_lists_what_there_is",
     test_sock_interfaces_unknown_name_lists_what_there_is},
    {"sock_interfaces_out_of_memory", test_sock_interfaces_out_of_memory},
    {"sock_listen_takes_the_next_free_port", test_sock_listen_takes_the_next_free_port},
    {"sock_listen_refuses_bad_ranges", test_sock_listen_refuses_bad_ranges},
    {"sock_listen_says_why_it_cannot", test_sock_listen_says_why_it_cannot},
    {"sock_carries_messages_over_ipv4", test_sock_carries_messages_over_ipv4},
    {"sock_carries_messages_over_ipv6", test_sock_carries_messages_over_ipv6},
    {"sock_families_share_a_port", test_sock_families_share_a_port},
    {"sock_receive_stops_at_its_deadline", test_sock_receive_stops_at_its_deadline},
    {"sock_peer_that_closes_is_told_apart", test_sock_peer_that_closes_is_told_apart},
    {"sock_connect_to_nobody_is_refused", test_sock_connect_to_nobody_is_refused},
    {"sock_connection_to_itself_is_refused", test_sock_connection_to_itself_is_refused},
};

int main(int argc, char **argv)
{
    return suite_run("sock", tests, sizeof tests / sizeof *tests, argc, argv);
}
