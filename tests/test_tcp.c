/* test_tcp.c: what only the TCP transport meets: strangers at its door, addresses that lead
 * nowhere, slow peers, other secrets. What it shares with the others is in test_transports.c. */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/owned.h"
#include "base/sock.h"
#include "tests/links.h"
#include "transports/tcp.h"

/* A few messages both ways, on every lane. */
static void exchange(struct links_rank *rank)
{
    static const size_t sizes[] = {0, 8, 4096, 70000, 1u << 20};
    uint32_t peer = 1 - rank->rank;
    uint8_t *out = malloc(1u << 20), *in = malloc(1u << 20);
    links_connect_all(rank);
    for (uint32_t k = 0; k < 40; k++) {
        size_t len = sizes[k % 5];
        memset(out, (int)(k + rank->rank), len);
        struct xfer send = links_xfer(peer, out, len), recv = links_xfer(peer, in, len);
        send.lane = recv.lane = k % rank->world->lanes;
        rank->ops->recv(rank->transport, &recv);
        links_expect(rank, links_send(rank, &send) == TUTTI_OK);
        links_expect(rank, links_finish(rank, &recv, LINKS_LIMIT_MS) == TUTTI_OK);
        links_expect(rank, len == 0 || (in[0] == (uint8_t)(k + peer) && in[len - 1] == in[0]));
    }
    free(in);
    free(out);
    links_meet(rank, 2, 2);
}

/* ---- tcp: strangers and bad addresses ---------------------------------------------------------
 */

/* The socket address in one entry of a rank's TCP address; false when there is none. */
static bool tcp_entry(const struct links_rank *rank, uint32_t peer, struct sock_address *out)
{
    struct tcp_peer_address list;
    if (!tcp_address_read((const struct tcp *)rank->transport, rank->world->address[peer],
                          rank->world->address_len[peer], &list) ||
        list.count == 0)
        return false;
    *out = list.list[0];
    return true;
}

static void strangers(struct links_rank *rank)
{
    static const char garbage[] = "GET / HTTP/1.1\r\n\r\n and much more than sixty-four bytes of "
                                  "what no rank of ours would ever say to another";
    enum { STRANGERS = 200 };
    int fds[STRANGERS];
    struct sock_address address;
    if (rank->rank == 0) {
        links_expect(rank, tcp_entry(rank, 1, &address));
        for (int i = 0; i < STRANGERS; i++) {
            fds[i] = -1;
            links_expect(rank, sock_connect_start(&address, &fds[i]) == TUTTI_OK);
            clock_sleep_us(200);
            if (i % 2)
                (void)!send(fds[i], garbage, i % 3 ? sizeof garbage : 10, MSG_NOSIGNAL);
        }
    }
    links_meet(rank, 1, 2);
    uint64_t begun = clock_ms();
    exchange(rank);
    links_expect(rank, clock_ms() - begun < 15000);
    for (int i = 0; rank->rank == 0 && i < STRANGERS; i++)
        owned_close(fds[i]);
}

static void test_tcp_bears_strangers(void)
{
    struct links_world *world = links_world_new("tcp", 2, 2);
    links_run(world, strangers);
}

/* No descriptors are left to this process; *before is for setrlimit. */
static void exhaust_descriptors(struct links_rank *rank, struct rlimit *before)
{
    int next = dup(0);
    getrlimit(RLIMIT_NOFILE, before);
    struct rlimit none_left = *before;
    none_left.rlim_cur = (rlim_t)next;
    close(next);
    links_expect(rank, next > 0 && setrlimit(RLIMIT_NOFILE, &none_left) == 0);
}

#define MUTE 20 /* strangers that say nothing */

/* Calls the peer as so many strangers, then exchanges a word with it as its peer. */
static void crowd(struct links_rank *rank)
{
    int fds[MUTE];
    uint32_t word = rank->rank;
    struct sock_address address;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    links_expect(rank, tcp_entry(rank, 1 - rank->rank, &address));
    for (int i = 0; i < MUTE; i++)
        links_expect(rank, sock_connect_start(&address, &fds[i]) == TUTTI_OK);
    links_meet(rank, 1, 2);
    links_connect_all(rank);
    tutti_status status = rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer);
    links_expect(rank, status == TUTTI_OK && word == 0);
    links_meet(rank, 2, 2);
    for (int i = 0; i < MUTE; i++)
        owned_close(fds[i]);
}

/* Rank 0 has no descriptors left but those of strangers that say nothing. */
static void crowded_out(struct links_rank *rank)
{
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 1) {
        crowd(rank);
        return;
    }
    const struct tcp *tcp = (const struct tcp *)rank->transport;
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    while (tcp->incoming_count < MUTE && clock_ms() < deadline)
        rank->ops->poll(rank->transport);
    struct rlimit before;
    exhaust_descriptors(rank, &before);
    links_connect_all(rank);
    links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    links_meet(rank, 1, 2);
    links_meet(rank, 2, 2);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_tcp_dials_before_it_hears_strangers(void)
{
    struct links_world *world = links_world_new("tcp", 2, 2);
    world->processes = true;
    links_run(world, crowded_out);
}

/* Rank 1 has none left either when rank 0, for whose end it watches, dials it at last. */
static void crowded_in(struct links_rank *rank)
{
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        crowd(rank);
        return;
    }
    links_connect_all(rank);
    const struct tcp *tcp = (const struct tcp *)rank->transport;
    const struct tcp_hand *watcher = &tcp->links[0]->hands[0];
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    while ((tcp->incoming_count < MUTE || watcher->stage != TCP_STAGE_WATCH) &&
           clock_ms() < deadline)
        rank->ops->poll(rank->transport);
    struct rlimit before;
    exhaust_descriptors(rank, &before);
    links_meet(rank, 1, 2);
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 0);
    links_meet(rank, 2, 2);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void test_tcp_accepts_before_it_hears_strangers(void)
{
    struct links_world *world = links_world_new("tcp", 2, 2);
    world->processes = true;
    links_run(world, crowded_in);
}

/* Addresses before the good one refuse, or swallow every packet. */
static void bad_addresses(struct links_rank *rank)
{
    struct tcp *tcp = (struct tcp *)rank->transport;
    uint32_t peer = 1 - rank->rank;
    uint8_t address[3][16 + 24];
    struct tcp_peer_address one, all = {.count = 3};
    struct tcp_link *link;
    for (int i = 0; i < 3; i++) {
        memcpy(address[i], rank->world->address[peer], sizeof address[i]);
        tcp_put32(address[i] + 4, 1);
    }
    tcp_put32(address[0] + 16 + 4, 1); /* port 1: refused */
    bool v4 = tcp_get32(address[1] + 16) == 4;
    address[1][16 + 8 + (v4 ? 3 : 15)] ^= 0x40; /* a neighbour that does not exist */
    for (int i = 0; i < 3; i++) {
        links_expect(rank, tcp_address_read(tcp, address[i], sizeof address[i], &one));
        all.list[i] = one.list[0];
        memcpy(all.nonce, one.nonce, sizeof all.nonce);
    }
    links_expect(rank, tcp_link_get(tcp, peer, &link) == TUTTI_OK);
    tcp_link_begin(link, &all);
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(peer, &word, 4);
    uint64_t begun = clock_ms();
    links_expect(rank,
                 (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) == TUTTI_OK);
    links_expect(rank, word == 0 && clock_ms() - begun < 3000);
    links_meet(rank, 1, 2);
}

static void test_tcp_passes_over_bad_addresses(void)
{
    links_run(links_world_new("tcp", 2, 3), bad_addresses);
}

/* A rank that computes for longer than any timeout of the sockets is slow, not dead. */
static void slow_reader(struct links_rank *rank)
{
    size_t len = 64u << 20;
    uint8_t *data = malloc(len);
    memset(data, (int)rank->rank, len);
    links_connect_all(rank);
    struct xfer hello = links_xfer(1 - rank->rank, data, 4),
                xfer = links_xfer(1 - rank->rank, data, len);
    links_expect(rank, (rank->rank == 0 ? links_send(rank, &hello) : links_recv(rank, &hello)) ==
                           TUTTI_OK);
    if (rank->rank == 0) {
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    } else {
        clock_sleep_us(7000000);
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && data[len - 1] == 0);
    }
    free(data);
    links_meet(rank, 1, 2);
}

static void test_tcp_waits_for_a_slow_reader(void)
{
    links_run(links_world_new("tcp", 2, 1), slow_reader);
}

#define PIECE_LEN ((size_t)64 << 20)
#define PIECES    66 /* more than 4 GiB in all */

/* One piece of memory, seen PIECES times in a row: a huge buffer that needs little. */
static uint8_t *map_pieces(struct links_rank *rank)
{
    int fd = memfd_create("piece", 0);
    uint8_t *all = mmap(NULL, PIECE_LEN * PIECES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    links_expect(rank, fd >= 0 && ftruncate(fd, (off_t)PIECE_LEN) == 0 && all != MAP_FAILED);
    for (size_t i = 0; i < PIECES; i++)
        links_expect(rank, mmap(all + i * PIECE_LEN, PIECE_LEN, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
    close(fd);
    return all;
}

static void more_than_4_gib(struct links_rank *rank)
{
    uint8_t *all = map_pieces(rank);
    for (size_t i = 0; i < PIECE_LEN && rank->rank == 0; i++)
        all[i] = (uint8_t)(i * 7 + (i >> 11));
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, all, PIECE_LEN * PIECES - 5);
    links_expect(rank,
                 (rank->rank == 0 ? links_send(rank, &xfer) : links_recv(rank, &xfer)) == TUTTI_OK);
    size_t wrong = 0;
    for (size_t i = 0; i < PIECE_LEN; i++)
        wrong += all[i] != (uint8_t)(i * 7 + (i >> 11));
    links_expect(rank, wrong == 0);
    munmap(all, PIECE_LEN * PIECES);
    links_meet(rank, 1, 2);
}

static void test_tcp_carries_more_than_4_gib(void)
{
#ifdef __SANITIZE_THREAD__
    suite_skip("the thread sanitizer takes minutes to note every byte");
    return;
#endif
    links_run(links_world_new("tcp", 2, 1), more_than_4_gib);
}

/* A peer elsewhere may have an address that this host has too, of a bridge for containers: it leads
 * back to this host and is passed over, unless there is no other; even where its interface is none
 * of those that are offered, as a bridge without containers. */
static void shared_address(struct links_rank *rank)
{
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct tcp_peer_address list;
    uint8_t address[TRANSPORT_ADDRESS_MAX];
    memcpy(address, rank->world->address[0], 16 + 24);
    memcpy(address + 16 + 24, address + 16, 24);
    tcp_put32(address + 4, 2);
    links_expect(rank, tcp_address_read(tcp, address, 16 + 24 * 2, &list) && list.count == 2);
    uint8_t *last = &address[16 + 24 + 8 + (tcp_get32(address + 16) == 4 ? 3 : 15)];
    *last ^= 0x40;
    links_expect(rank, tcp_address_read(tcp, address, 16 + 24 * 2, &list) && list.count == 1);
    const struct sock_address *one = &list.list[0];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&one->storage;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&one->storage;
    const uint8_t *host = one->storage.ss_family == AF_INET ? (const uint8_t *)&v4->sin_addr + 3
                                                            : &v6->sin6_addr.s6_addr[15];
    links_expect(rank, *host == *last);
    tcp->interface_count = 0;
    links_expect(rank, tcp_address_read(tcp, address, 16 + 24 * 2, &list) && list.count == 1);
    links_expect(rank, *host == *last);
}

static void test_tcp_passes_over_addresses_of_both_hosts(void)
{
    links_run(links_world_new("tcp", 1, 1), shared_address);
}

/* A link-local address of the peer is tried through each interface that has one. */
static void near_address(struct links_rank *rank)
{
    enum { NEAR = 2 };
    static const uint32_t scopes[NEAR] = {7, 9};
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct sock_addresses mine, mask;
    struct tcp_peer_address list;
    uint8_t address[16 + 24] = {0};
    links_expect(rank, sock_parse(tcp->config->settings, "[fe80::1]:0", &mine) == TUTTI_OK);
    links_expect(rank,
                 sock_parse(tcp->config->settings, "[ffff:ffff:ffff:ffff::]:0", &mask) == TUTTI_OK);
    for (int i = 0; i < NEAR; i++) {
        tcp->interfaces[i] =
            (struct sock_interface){.address = mine.list[0], .netmask = mask.list[0]};
        ((struct sockaddr_in6 *)&tcp->interfaces[i].address.storage)->sin6_scope_id = scopes[i];
    }
    tcp->interface_count = NEAR;
    tcp->listeners[0].bound = mine.list[0];
    tcp_put32(address, tcp_get32(rank->world->address[0]));
    tcp_put32(address + 4, 1);
    tcp_put32(address + 16, 6);
    tcp_put32(address + 20, 4321);
    memcpy(address + 24, "\xfe\x80", 2);
    address[24 + 15] = 2;
    links_expect(rank, tcp_address_read(tcp, address, sizeof address, &list));
    links_expect(rank, list.count == NEAR);
    for (uint32_t i = 0; i < list.count && i < NEAR; i++)
        links_expect(rank, ((const struct sockaddr_in6 *)&list.list[i].storage)->sin6_scope_id ==
                               scopes[i]);
}

static void test_tcp_tries_a_near_address_through_each_interface(void)
{
    links_run(links_world_new("tcp", 1, 1), near_address);
}

/* Ranks that compute, and look at the transport in turn and so seldom that all limits have passed
 * whenever they do: the waiting itself is left out. */
static void look_seldom(struct links_rank *rank)
{
    struct tcp *tcp = (struct tcp *)rank->transport;
    uint32_t peer = 1 - rank->rank, word = rank->rank;
    uint8_t address[TRANSPORT_ADDRESS_MAX];
    struct xfer xfer = links_xfer(peer, &word, 4);
    /* The peer has a second address, so that there is something else to try. */
    memcpy(address, rank->world->address[peer], 16 + 24);
    memcpy(address + 16 + 24, address + 16, 24);
    tcp_put32(address + 4, 2);
    links_expect(rank, rank->ops->connect(rank->transport, peer, address, 16 + 24 * 2) == TUTTI_OK);
    (void)(rank->rank == 0 ? rank->ops->send(rank->transport, &xfer)
                           : rank->ops->recv(rank->transport, &xfer));
    for (int step = 0; step < 40; step++) {
        _Atomic int *turn = &rank->world->flags[0];
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        while (atomic_load(turn) != 2 * step + (int)rank->rank && clock_ms() < deadline)
            clock_sleep_us(100);
        const struct tcp_link *link = tcp->links[peer];
        for (uint32_t i = 0; rank->rank == 0 && link->hands && i <= rank->world->lanes; i++) {
            if (link->hands[i].stage > TCP_STAGE_DIAL)
                link->hands[i].deadline_ms = 1;
        }
        for (int i = 0; i < 20 && xfer.status == TUTTI_IN_PROGRESS; i++)
            rank->ops->poll(rank->transport);
        tcp_accept_service(tcp, clock_ms() + 10000);
        atomic_fetch_add(turn, 1);
    }
    links_expect(rank, xfer.status == TUTTI_OK && word == 0);
    links_meet(rank, 1, 2);
}

static void test_tcp_links_ranks_that_look_seldom(void)
{
    links_run(links_world_new("tcp", 2, 2), look_seldom);
}

/* Rank 0 says goodbye while half a message is still under way; the rest comes when the time that
 * lanes then have is over: this time is for silence, and the first half has just arrived. */
static void trickle_after_goodbye(struct links_rank *rank)
{
    enum { LEN = 1000 };
    uint8_t frame[TCP_FRAME_LEN + LEN], data[LEN] = {0};
    uint32_t peer = 1 - rank->rank, word = 1;
    links_connect_all(rank);
    struct xfer first = links_xfer(peer, &word, 4), xfer = links_xfer(peer, data, LEN);
    links_expect(rank, (rank->rank == 1 ? links_send(rank, &first) : links_recv(rank, &first)) ==
                           TUTTI_OK);
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct tcp_link *link = tcp->links[peer];
    if (rank->rank == 0) {
        memset(frame, 3, sizeof frame);
        tcp_put_frame(frame, LEN, xfer.tag);
        links_expect(rank, send(link->lanes[0].fd, frame, LEN / 2, 0) == LEN / 2);
        links_expect(rank, tcp_control_put(link, TCP_CONTROL_BYE, NULL) == TUTTI_OK);
        tcp_control_flush(link);
        shutdown(link->control.fd, SHUT_WR);
        links_meet(rank, 1, 2);
        links_expect(rank, send(link->lanes[0].fd, frame + LEN / 2, sizeof frame - LEN / 2, 0) ==
                               (ssize_t)sizeof frame - LEN / 2);
        links_meet(rank, 2, 2);
        return;
    }
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    while (link->state != TCP_LINK_ENDED && clock_ms() < deadline)
        rank->ops->poll(rank->transport);
    links_expect(rank, link->bye);
    links_expect(rank, rank->ops->recv(rank->transport, &xfer) == TUTTI_IN_PROGRESS);
    link->linger_ms = 1;
    tcp_connect_service(tcp);
    links_expect(rank, link->lanes[0].landed > 0);
    links_meet(rank, 1, 2);
    links_expect(rank, links_finish(rank, &xfer, LINKS_LIMIT_MS) == TUTTI_OK);
    links_expect(rank, data[0] == 3 && data[LEN - 1] == 3);
    links_meet(rank, 2, 2);
}

static void test_tcp_delivers_what_trickles_after_a_goodbye(void)
{
    links_run(links_world_new("tcp", 2, 1), trickle_after_goodbye);
}

/* Half a header (number 0) or half a message and a goodbye (1) have come: rank 1, which waits for
 * the rest, may sleep meanwhile. */
static void halves(struct links_rank *rank)
{
    enum { LEN = 1000 };
    uint8_t frame[TCP_FRAME_LEN + LEN], data[LEN] = {0};
    uint32_t peer = 1 - rank->rank, word = 1;
    bool goodbye = rank->world->number == 1;
    ssize_t half = goodbye ? LEN / 2 : TCP_FRAME_LEN / 2;
    links_connect_all(rank);
    struct xfer first = links_xfer(peer, &word, 4), xfer = links_xfer(peer, data, LEN);
    links_expect(rank, (rank->rank == 1 ? links_send(rank, &first) : links_recv(rank, &first)) ==
                           TUTTI_OK);
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct tcp_link *link = tcp->links[peer];
    struct tcp_lane *lane = &link->lanes[0];
    if (rank->rank == 0) {
        memset(frame, 3, sizeof frame);
        tcp_put_frame(frame, LEN, xfer.tag);
        links_expect(rank, send(lane->fd, frame, half, 0) == half);
        if (goodbye) {
            links_expect(rank, tcp_control_put(link, TCP_CONTROL_BYE, NULL) == TUTTI_OK);
            tcp_control_flush(link);
            shutdown(link->control.fd, SHUT_WR);
        }
        links_meet(rank, 1, 2);
        ssize_t rest = (ssize_t)sizeof frame - half;
        links_expect(rank, send(lane->fd, frame + half, rest, 0) == rest);
        links_meet(rank, 2, 2);
        return;
    }
    links_expect(rank, rank->ops->recv(rank->transport, &xfer) == TUTTI_IN_PROGRESS);
    uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
    while ((goodbye ? link->state != TCP_LINK_ENDED || lane->landed == 0 : lane->end == 0) &&
           clock_ms() < deadline)
        rank->ops->poll(rank->transport);
    if (goodbye)
        link->linger_ms = deadline;
    bool armed = false;
    for (int i = 0; i < 1000 && !armed; i++) {
        rank->ops->poll(rank->transport);
        armed = rank->ops->arm(rank->transport);
    }
    links_expect(rank, armed);
    links_meet(rank, 1, 2);
    links_expect(rank, links_finish(rank, &xfer, LINKS_LIMIT_MS) == TUTTI_OK);
    links_expect(rank, data[0] == 3 && data[LEN - 1] == 3);
    links_meet(rank, 2, 2);
}

static void test_tcp_sleeps_while_half_is_there(void)
{
    for (int number = 0; number < 2; number++) {
        struct links_world *world = links_world_new("tcp", 2, 1);
        world->number = number;
        links_run(world, halves);
    }
}

/* How many connections wait in the accept queues of this rank; takes them out. */
static int waiting_connections(const struct links_rank *rank)
{
    enum { MOST = 64 };
    const struct tcp *tcp = (const struct tcp *)rank->transport;
    int fds[MOST], count = 0;
    for (uint32_t i = 0; i < tcp->listener_count; i++) {
        while (count < MOST && sock_accept(tcp->listeners[i].fd, &fds[count], NULL) == TUTTI_OK &&
               fds[count] >= 0)
            count++;
    }
    for (int i = 0; i < count; i++) /* who is closed dials anew: not before all are counted */
        owned_close(fds[i]);
    return count;
}

/* Rank 0, which would dial, does not look at its transport while rank 1 looks 30 times whether it
 * is there; the time between the looks is left out. Then rank 0 comes (number 0) or dies (1). */
static void be_looked_for(struct links_rank *rank)
{
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        while (atomic_load(&rank->world->flags[0]) == 0 && clock_ms() < deadline)
            clock_sleep_us(200);
        if (rank->world->number == 1)
            kill(getpid(), SIGKILL);
        links_expect(rank, waiting_connections(rank) <= 2);
        links_connect_all(rank);
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        links_meet(rank, 1, 2);
        return;
    }
    links_connect_all(rank);
    links_expect(rank, rank->ops->recv(rank->transport, &xfer) == TUTTI_IN_PROGRESS);
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct tcp_link *link = tcp->links[0];
    for (int i = 0; i < 30; i++) {
        if (link->act_ms != 0)
            link->act_ms = clock_ms();
        if (link->hands[0].stage > TCP_STAGE_DIAL)
            link->give_up_ms = 1;
        tcp_connect_service(tcp);
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        while (link->act_ms == 0 && link->hands[0].stage == TCP_STAGE_DIAL && clock_ms() < deadline)
            rank->ops->poll(rank->transport);
    }
    atomic_store(&rank->world->flags[0], 1);
    if (rank->world->number == 0) {
        links_expect(rank, links_finish(rank, &xfer, LINKS_LIMIT_MS) == TUTTI_OK && word == 0);
        links_meet(rank, 1, 2);
        return;
    }
    struct transport_event event;
    links_expect(rank, links_event(rank, TRANSPORT_EVENT_LINK_DOWN, LINKS_LIMIT_MS, &event));
    links_expect(rank, event.status == TUTTI_ERR_PEER);
    links_expect(rank, strstr(event.sentence, "no longer listens") != NULL);
    links_expect(rank, strstr(event.sentence, "or a firewall refuses") != NULL);
}

static void test_tcp_looks_for_a_late_rank_with_one_connection(void)
{
    for (int number = 0; number < 2; number++) {
        struct links_world *world = links_world_new("tcp", 2, 1);
        world->number = number;
        links_run(world, be_looked_for);
    }
}

/* Rank 0 dials and rank 1 does not look, while the patience with it ends 30 times; it is left out.
 * Then rank 1 comes, and takes out what waits: at most one connection for each of its addresses. */
static void be_dialed(struct links_rank *rank)
{
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    struct tcp *tcp = (struct tcp *)rank->transport;
    if (rank->rank == 1) {
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        while (atomic_load(&rank->world->flags[0]) == 0 && clock_ms() < deadline)
            clock_sleep_us(200);
        links_expect(rank, waiting_connections(rank) <= (int)tcp->listener_count);
        links_connect_all(rank);
        links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 0);
        links_meet(rank, 1, 2);
        return;
    }
    links_connect_all(rank);
    struct tcp_link *link = tcp->links[1];
    for (int i = 0; i < 30; i++) {
        uint64_t deadline = clock_ms() + LINKS_LIMIT_MS;
        bool dialing = true;
        while (dialing && clock_ms() < deadline) {
            rank->ops->poll(rank->transport);
            dialing = false;
            for (uint32_t h = 0; h < TCP_ADDRESSES_MAX; h++)
                dialing = dialing || link->hands[h].stage == TCP_STAGE_DIAL;
        }
        for (uint32_t h = 0; h < TCP_ADDRESSES_MAX; h++)
            link->hands[h].deadline_ms = 1;
        if (link->act_ms != 0)
            link->act_ms = clock_ms();
        link->give_up_ms = 1;
        tcp_connect_service(tcp);
    }
    links_expect(rank, link->state == TCP_LINK_MAKING);
    atomic_store(&rank->world->flags[0], 1);
    links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
    links_meet(rank, 1, 2);
}

static void test_tcp_dials_a_late_rank_with_one_connection(void)
{
    links_run(links_world_new("tcp", 2, TCP_ADDRESSES_MAX - 1), be_dialed);
}

/* Rank 1 waits for rank 0 and is away for longer than a link may take, before its first look at it:
 * nothing that took that long was under way. */
static void come_back(struct links_rank *rank)
{
    enum { AWAY_MS = 5000 };
    uint32_t word = rank->rank;
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    if (rank->rank == 0) {
        links_meet(rank, 1, 2);
        links_connect_all(rank);
        links_expect(rank, links_send(rank, &xfer) == TUTTI_OK);
        links_meet(rank, 2, 2);
        return;
    }
    links_connect_all(rank);
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct tcp_link *link = tcp->links[0];
    link->act_ms -= AWAY_MS;
    link->give_up_ms -= AWAY_MS;
    tcp_connect_service(tcp);
    links_expect(rank, link->state == TCP_LINK_MAKING);
    links_meet(rank, 1, 2);
    links_expect(rank, links_recv(rank, &xfer) == TUTTI_OK && word == 0);
    links_meet(rank, 2, 2);
}

static void test_tcp_waits_on_when_it_comes_back(void)
{
    struct links_world *world = links_world_new("tcp", 2, 1);
    CU_ASSERT_EQUAL(settings_set(&world->settings, "CONNECT_TIMEOUT_MS", "2000"), TUTTI_OK);
    links_run(world, come_back);
}

/* More strangers have come and gone than one call may hear. */
static void besieged(struct links_rank *rank)
{
    enum { CALLERS = TCP_INCOMING_MAX + 50 };
    struct tcp *tcp = (struct tcp *)rank->transport;
    struct sock_address address;
    int fds[CALLERS], count = 0;
    bool room = true; /* in the queue */
    links_expect(rank, tcp_entry(rank, 0, &address));
    for (; count < CALLERS && room; count++) {
        fds[count] = -1;
        links_expect(rank, sock_connect_start(&address, &fds[count]) == TUTTI_OK);
        struct pollfd connected = {.fd = fds[count], .events = POLLOUT};
        room = poll(&connected, 1, 1000) == 1;
    }
    for (int i = 0; i < count; i++)
        owned_close(fds[i]);
    if (!room) {
        suite_skip("an accept queue holds fewer than one call hears (net.core.somaxconn)");
        return;
    }
    tcp_gather(tcp);
    tcp_connect_service(tcp);
    links_expect(rank, tcp->timer_ms != 0 && tcp->timer_ms <= clock_ms());
    links_expect(rank, waiting_connections(rank) > 0);
}

static void test_tcp_is_not_held_up_by_strangers(void)
{
    links_run(links_world_new("tcp", 1, 1), besieged);
}

static void wrong_secret(struct links_rank *rank)
{
    uint32_t word = 0;
    links_connect_all(rank);
    struct xfer xfer = links_xfer(1 - rank->rank, &word, 4);
    tutti_status status = links_recv(rank, &xfer);
    if (rank->rank == 0)
        links_expect(rank, status == TUTTI_ERR_AUTH);
    else
        links_expect(rank, status == TUTTI_ERR_PEER || status == TUTTI_ERR_CONNECT);
}

static void test_tcp_refuses_a_wrong_secret(void)
{
    struct links_world *world = links_world_new("tcp", 2, 1);
    world->secret[1][31] ^= 1;
    links_run(world, wrong_secret);
}

static void test_tcp_speaks_over_one_interface(void)
{
    static const char *const interfaces[] = {"lo", "127.0.0.0/8", "::1/128"};
    for (int i = 0; i < 3; i++) {
        char why[SENTENCE_MAX];
        struct links_world *world = links_world_new("tcp", 2, 1);
        CU_ASSERT_EQUAL(settings_set(&world->settings, "INTERFACE", interfaces[i]), TUTTI_OK);
        CU_ASSERT_EQUAL(settings_set(&world->settings, "PORTS", "42000-42999"), TUTTI_OK);
        if (world->ops->probe(&world->settings, why, sizeof why))
            links_run(world, exchange);
        else
            suite_skip(why);
    }
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(tcp_bears_strangers),
        TEST(tcp_dials_before_it_hears_strangers),
        TEST(tcp_accepts_before_it_hears_strangers),
        TEST(tcp_passes_over_bad_addresses),
        TEST(tcp_waits_for_a_slow_reader),
        TEST(tcp_carries_more_than_4_gib),
        TEST(tcp_passes_over_addresses_of_both_hosts),
        TEST(tcp_tries_a_near_address_through_each_interface),
        TEST(tcp_links_ranks_that_look_seldom),
        TEST(tcp_looks_for_a_late_rank_with_one_connection),
        TEST(tcp_dials_a_late_rank_with_one_connection),
        TEST(tcp_waits_on_when_it_comes_back),
        TEST(tcp_delivers_what_trickles_after_a_goodbye),
        TEST(tcp_sleeps_while_half_is_there),
        TEST(tcp_is_not_held_up_by_strangers),
        TEST(tcp_refuses_a_wrong_secret),
        TEST(tcp_speaks_over_one_interface),
    };
    return suite_run("tcp", tests, sizeof tests / sizeof *tests, argc, argv);
}
