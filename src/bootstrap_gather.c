/* bootstrap_gather.c: one allgather over the star: every rank's block to the root, all blocks back.
 *
 * The root reads its ranks in whatever order they come (epoll), straight into the result, then
 * sends the result to one after the other: they are all waiting for it. Blocks are records with
 * room for the worst case, and a result goes to every rank, so it is quadratic: what is zero at
 * their ends does not travel. A rank that ran ahead has its next block in the socket, unread until
 * the root gets there. A failure at the root goes out in place of the result, so all ranks have the
 * same sentence; any failure leaves ranks out of step, and bootstrap_allgather refuses to go on
 * after it.
 *
 * A root without a rank learns from the first header that comes that there is an allgather, how
 * long its blocks are, and from when on the others are late. Ranks that leave before that may have
 * what they wanted: only when another goes on are they missed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/owned.h"
#include "src/bootstrap_meet.h"

#define EVENTS_MAX 64

/* ---- the root -------------------------------------------------------------------------------- */

struct intake {
    struct gather_header header;
    size_t got; /* of header and block together */
};

struct collection {
    struct bootstrap *bootstrap;
    struct intake *intakes; /* [size] */
    bool *done;             /* [size] */
    uint8_t *out;
    size_t len, used; /* used: the most of any block that is not zero at its end */
    uint32_t speaker; /* whose len it is; BOOTSTRAP_NO_RANK: nobody's yet */
    uint32_t left;
    uint32_t gone, first_gone; /* before anybody spoke: how many, and the first of them */
    uint64_t deadline_ms;
};

/* Without the zeros at its end. */
static size_t used_bytes(const uint8_t *block, size_t len)
{
    while (len > 0 && block[len - 1] == 0)
        len--;
    return len;
}

static tutti_status left_early(const struct collection *collection, uint32_t rank)
{
    char who[128];
    return fail(TUTTI_ERR_CONNECT,
                "%s left during the rendezvous: its process ended or met an error of its own",
                seat_text(collection->bootstrap->seats, rank, who));
}

/* The first header of an allgather among others. */
static tutti_status begin(struct collection *collection, uint32_t rank)
{
    struct bootstrap *bootstrap = collection->bootstrap;
    collection->speaker = rank;
    collection->len = collection->intakes[rank].header.len;
    collection->deadline_ms = clock_ms() + bootstrap->timeout_ms;
    if (collection->gone > 0)
        return left_early(collection, collection->first_gone);
    collection->out = calloc(bootstrap->size, collection->len ? collection->len : 1);
    if (collection->out == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for the allgather of %u ranks", bootstrap->size);
    return TUTTI_OK;
}

static tutti_status check_header(struct collection *collection, uint32_t rank)
{
    char who[128];
    const struct gather_header *header = &collection->intakes[rank].header;
    const struct bootstrap *bootstrap = collection->bootstrap;
    seat_text(bootstrap->seats, rank, who);
    bool first = collection->speaker == BOOTSTRAP_NO_RANK;
    bool known =
        !first || (header->sequence == bootstrap->sequence && header->len <= BOOTSTRAP_BLOCK_MAX);
    if (header->magic != BOOTSTRAP_MAGIC || !known || header->used > header->len)
        return fail(TUTTI_ERR_PROTOCOL, "%s sent bytes that are no allgather", who);
    if (first)
        return begin(collection, rank);
    if (header->sequence != bootstrap->sequence || header->len != collection->len)
        return fail(TUTTI_ERR_PROTOCOL,
                    "%s gave %u bytes to allgather %u of the rendezvous, rank %u gives %zu to "
                    "allgather %u: run the same release everywhere",
                    who, header->len, header->sequence, collection->speaker, collection->len,
                    bootstrap->sequence);
    return TUTTI_OK;
}

/* The rest of it is zero. */
static void take_block(struct collection *collection, uint32_t rank)
{
    size_t used = collection->intakes[rank].header.used;
    memset(collection->out + rank * collection->len + used, 0, collection->len - used);
    collection->used = used > collection->used ? used : collection->used;
    collection->done[rank] = true;
    collection->left--;
}

/* *gone: it left, and nobody waits for it yet. */
static tutti_status collect_from(struct collection *collection, uint32_t rank, bool *gone)
{
    char who[128];
    struct intake *intake = &collection->intakes[rank];
    const size_t head = sizeof intake->header;
    while (!collection->done[rank]) {
        uint8_t *to = intake->got < head
                          ? (uint8_t *)&intake->header + intake->got
                          : collection->out + rank * collection->len + (intake->got - head);
        size_t want =
            intake->got < head ? head - intake->got : head + intake->header.used - intake->got;
        ssize_t got = recv(collection->bootstrap->seats[rank].fd, to, want, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return TUTTI_OK;
        if (got <= 0 && collection->speaker == BOOTSTRAP_NO_RANK && intake->got == 0) {
            *gone = true;
            return TUTTI_OK;
        }
        if (got < 0)
            return fail_errno(TUTTI_ERR_CONNECT, "lost %s during the rendezvous",
                              seat_text(collection->bootstrap->seats, rank, who));
        if (got == 0)
            return left_early(collection, rank);
        intake->got += (size_t)got;
        if (intake->got == head) {
            tutti_status status = check_header(collection, rank);
            if (status != TUTTI_OK)
                return status;
        }
        if (intake->got >= head && intake->got == head + intake->header.used)
            take_block(collection, rank);
    }
    return TUTTI_OK;
}

/* One that has given its block waits for the result, and has nothing to say before. */
static tutti_status check_waiting(const struct collection *collection, uint32_t rank)
{
    char byte, who[128];
    const struct seat *seats = collection->bootstrap->seats;
    ssize_t got = recv(seats[rank].fd, &byte, 1, MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return TUTTI_OK;
    if (got <= 0)
        return left_early(collection, rank);
    return fail(TUTTI_ERR_PROTOCOL, "%s did not wait for the result of allgather %u",
                seat_text(seats, rank, who), collection->bootstrap->sequence);
}

static tutti_status late_ranks(const struct collection *collection)
{
    char missing[200];
    seats_missing(collection->bootstrap, collection->done, missing, sizeof missing);
    return fail(TUTTI_ERR_CONNECT,
                "%u of %u ranks came to the rendezvous but did not go on within %llu ms: %s; see "
                "what they wait for, or raise TUTTI_MEET_TIMEOUT_MS",
                collection->left, collection->bootstrap->size,
                (unsigned long long)collection->bootstrap->timeout_ms, missing);
}

static tutti_status collect(struct collection *collection, int epoll)
{
    struct epoll_event events[EVENTS_MAX];
    struct bootstrap *bootstrap = collection->bootstrap;
    for (uint32_t r = 0; r < bootstrap->size; r++) {
        if (r == bootstrap->rank)
            continue;
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = r};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, bootstrap->seats[r].fd, &event) != 0)
            return fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: epoll_ctl");
    }
    while (collection->left > collection->gone) {
        tutti_status wanted = clock_check(bootstrap->cancel);
        if (wanted != TUTTI_OK)
            return wanted;
        if (clock_ms() >= collection->deadline_ms)
            return late_ranks(collection);
        int count = epoll_wait(epoll, events, EVENTS_MAX,
                               clock_left_ms(collection->deadline_ms, bootstrap->cancel));
        if (count < 0 && errno != EINTR)
            return fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: epoll_wait");
        for (int i = 0; i < count; i++) {
            uint32_t rank = events[i].data.u32;
            bool gone = false;
            tutti_status status = collection->done[rank] ? check_waiting(collection, rank)
                                                         : collect_from(collection, rank, &gone);
            if (status != TUTTI_OK)
                return status;
            if (gone) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, bootstrap->seats[rank].fd, NULL);
                collection->first_gone = collection->gone++ ? collection->first_gone : rank;
            }
        }
    }
    return TUTTI_OK;
}

static tutti_status hand_out(struct collection *collection)
{
    struct bootstrap *bootstrap = collection->bootstrap;
    size_t used = collection->used;
    struct gather_header header = {.magic = BOOTSTRAP_MAGIC,
                                   .sequence = bootstrap->sequence,
                                   .len = (uint32_t)collection->len,
                                   .used = (uint32_t)used};
    uint8_t *blocks = malloc(bootstrap->size * used + 1);
    tutti_status status = TUTTI_OK;
    if (blocks == NULL)
        return fail(TUTTI_ERR_NOMEM, "no memory for the allgather of %u ranks", bootstrap->size);
    for (uint32_t r = 0; r < bootstrap->size; r++)
        memcpy(blocks + r * used, collection->out + r * collection->len, used);
    for (uint32_t r = 0; r < bootstrap->size && status == TUTTI_OK; r++) {
        if (r == bootstrap->rank)
            continue;
        char who[128], cause[SENTENCE_MAX];
        int fd = bootstrap->seats[r].fd;
        status =
            sock_send_all(fd, &header, sizeof header, collection->deadline_ms, bootstrap->cancel);
        if (status == TUTTI_OK)
            status = sock_send_all(fd, blocks, bootstrap->size * used, collection->deadline_ms,
                                   bootstrap->cancel);
        if (status != TUTTI_OK) {
            snprintf(cause, sizeof cause, "%s", status_sentence());
            status = fail(TUTTI_ERR_CONNECT, "%s did not take the result of the rendezvous: %.300s",
                          seat_text(bootstrap->seats, r, who), cause);
        }
    }
    free(blocks);
    return status;
}

/* Best effort: one that has its result already finds this in the next allgather. */
static void hand_out_failure(struct bootstrap *bootstrap, tutti_status failure)
{
    struct {
        struct gather_header header;
        char sentence[SENTENCE_MAX];
    } message = {.header = {.magic = BOOTSTRAP_MAGIC,
                            .sequence = bootstrap->sequence,
                            .status = bootstrap_told(failure),
                            .len = SENTENCE_MAX}};
    snprintf(message.sentence, sizeof message.sentence, "%s", status_sentence());
    for (uint32_t r = 0; r < bootstrap->size; r++) {
        if (r != bootstrap->rank)
            (void)sock_send_all(bootstrap->seats[r].fd, &message, sizeof message, clock_ms() + 10,
                                NULL);
    }
    status_set_sentence(message.sentence);
}

/* in: the root's own block, if it has a rank. */
static tutti_status gather(struct collection *collection, const void *in)
{
    tutti_status status = TUTTI_OK;
    struct bootstrap *bootstrap = collection->bootstrap;
    collection->left = bootstrap_guests(bootstrap);
    collection->intakes = calloc(bootstrap->size, sizeof *collection->intakes);
    collection->done = calloc(bootstrap->size, sizeof *collection->done);
    int epoll = owned_add(epoll_create1(EPOLL_CLOEXEC));
    if (collection->intakes == NULL || collection->done == NULL)
        status = fail(TUTTI_ERR_NOMEM, "no memory for the allgather of %u ranks", bootstrap->size);
    else if (epoll < 0)
        status = fail_errno(TUTTI_ERR_SYSTEM, "rendezvous: epoll_create1");
    if (status == TUTTI_OK && bootstrap->rank != BOOTSTRAP_NO_RANK) {
        memmove(collection->out + bootstrap->rank * collection->len, in, collection->len);
        collection->used = used_bytes(in, collection->len);
        collection->done[bootstrap->rank] = true;
    }
    if (status == TUTTI_OK)
        status = collect(collection, epoll);
    if (status == TUTTI_OK && collection->gone == 0)
        status = hand_out(collection);
    if (status != TUTTI_OK)
        hand_out_failure(bootstrap, status);
    if (epoll >= 0)
        owned_close(epoll);
    free(collection->done);
    free(collection->intakes);
    return status;
}

tutti_status bootstrap_root_allgather(struct bootstrap *bootstrap, const void *in, void *out,
                                      size_t len, uint64_t deadline_ms)
{
    struct collection collection = {.bootstrap = bootstrap,
                                    .out = out,
                                    .len = len,
                                    .speaker = bootstrap->rank,
                                    .deadline_ms = deadline_ms};
    return gather(&collection, in);
}

tutti_status bootstrap_root_relay(struct bootstrap *bootstrap, bool *over)
{
    struct collection collection = {
        .bootstrap = bootstrap, .speaker = BOOTSTRAP_NO_RANK, .deadline_ms = UINT64_MAX};
    tutti_status status = gather(&collection, NULL);
    free(collection.out);
    *over = status == TUTTI_OK && collection.gone > 0;
    return status;
}

/* ---- the other ranks ------------------------------------------------------------------------- */

static tutti_status lost_root(const struct bootstrap *bootstrap, uint64_t deadline_ms)
{
    char cause[SENTENCE_MAX];
    if (clock_ms() >= deadline_ms)
        return fail(TUTTI_ERR_CONNECT,
                    "%s at %s did not finish allgather %u of the rendezvous within %llu ms",
                    bootstrap->root_name, bootstrap->root_text, bootstrap->sequence,
                    (unsigned long long)bootstrap->timeout_ms);
    snprintf(cause, sizeof cause, "%s", status_sentence());
    return fail(TUTTI_ERR_CONNECT, "rank %u lost %s at %s during the rendezvous: %.250s",
                bootstrap->rank, bootstrap->root_name, bootstrap->root_text, cause);
}

static tutti_status check_reply(struct bootstrap *bootstrap, const struct gather_header *header,
                                size_t len, uint64_t deadline_ms)
{
    struct answer_message failure = {.status = header->status};
    if (header->magic != BOOTSTRAP_MAGIC)
        return fail(TUTTI_ERR_PROTOCOL, "%s at %s sent bytes that are no allgather",
                    bootstrap->root_name, bootstrap->root_text);
    if (header->status != TUTTI_OK && header->len == sizeof failure.sentence) {
        if (sock_recv_all(bootstrap->fd, failure.sentence, sizeof failure.sentence, deadline_ms,
                          bootstrap->cancel) != TUTTI_OK)
            return lost_root(bootstrap, deadline_ms);
        bootstrap_clean_text(failure.sentence, sizeof failure.sentence);
        return bootstrap_refused(bootstrap, &failure);
    }
    if (header->status != TUTTI_OK || header->len != len || header->used > len ||
        header->sequence != bootstrap->sequence)
        return fail(TUTTI_ERR_PROTOCOL,
                    "%s answered allgather %u with blocks of %u bytes, rank %u expects "
                    "allgather %u with %zu: run the same release everywhere",
                    bootstrap->root_name, header->sequence, header->len, bootstrap->rank,
                    bootstrap->sequence, len);
    return TUTTI_OK;
}

/* Blocks that came back to back go to their places, the last first. */
static void spread_blocks(uint8_t *out, uint32_t count, size_t len, size_t used)
{
    for (uint32_t r = count; r-- > 0;) {
        memmove(out + r * len, out + r * used, used);
        memset(out + r * len + used, 0, len - used);
    }
}

tutti_status bootstrap_leaf_allgather(struct bootstrap *bootstrap, const void *in, void *out,
                                      size_t len, uint64_t deadline_ms)
{
    struct gather_header header = {.magic = BOOTSTRAP_MAGIC,
                                   .sequence = bootstrap->sequence,
                                   .len = (uint32_t)len,
                                   .used = (uint32_t)used_bytes(in, len)};
    /* A failed send is not the end: the root may have told the reason before it closed. */
    if (sock_send_all(bootstrap->fd, &header, sizeof header, deadline_ms, bootstrap->cancel) ==
            TUTTI_OK &&
        header.used > 0)
        (void)sock_send_all(bootstrap->fd, in, header.used, deadline_ms, bootstrap->cancel);
    deadline_ms += BOOTSTRAP_GRACE_MS;
    if (sock_recv_all(bootstrap->fd, &header, sizeof header, deadline_ms, bootstrap->cancel) !=
        TUTTI_OK)
        return lost_root(bootstrap, deadline_ms);
    tutti_status status = check_reply(bootstrap, &header, len, deadline_ms);
    if (status != TUTTI_OK)
        return status;
    if (sock_recv_all(bootstrap->fd, out, bootstrap->size * (size_t)header.used, deadline_ms,
                      bootstrap->cancel) != TUTTI_OK)
        return lost_root(bootstrap, deadline_ms);
    spread_blocks(out, bootstrap->size, len, header.used);
    return TUTTI_OK;
}
