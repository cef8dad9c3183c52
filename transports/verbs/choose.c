/* choose.c: see choose.h. */
#include "transports/verbs/choose.h"

#include <stdio.h>
#include <string.h>

#include "base/settings.h"

#define SCORE_V2     100
#define SCORE_SUBNET 40
#define SCORE_IPV4   20
#define SCORE_GLOBAL 10

static const char *const layer_names[] = {"?", "InfiniBand", "Ethernet (RoCE)", "Ethernet (iWARP)"};

static bool is_ipv4(const struct choose_gid *gid)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(gid->raw, mapped, sizeof mapped) == 0;
}

static bool is_link_local(const struct choose_gid *gid)
{
    return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

static bool same_prefix(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ b[whole]) >> (8 - rest)) == 0;
}

static bool same_subnet(const struct choose_gid *a, const struct choose_gid *b)
{
    unsigned bits = a->prefix < b->prefix ? a->prefix : b->prefix;
    return bits > 0 && same_prefix(a->raw, b->raw, bits);
}

uint32_t choose_score(const struct choose_gid *a, const struct choose_gid *b)
{
    if (a->type != b->type)
        return 0;
    if (a->type == CHOOSE_GID_IB) /* one subnet manager gives one prefix */
        return same_prefix(a->raw, b->raw, 64);
    if (is_ipv4(a) != is_ipv4(b) || is_link_local(a) != is_link_local(b))
        return 0;
    uint32_t score = 1;
    score += a->type == CHOOSE_GID_ROCE_V2 ? SCORE_V2 : 0;
    score += is_ipv4(a) ? SCORE_IPV4 : is_link_local(a) ? 0 : SCORE_GLOBAL;
    /* Every link-local address shares its prefix with every other, which says nothing. */
    score += !is_link_local(a) && same_subnet(a, b) ? SCORE_SUBNET : 0;
    return score;
}

bool choose_valid(const struct choose_ports *ports)
{
    if (ports->rail_count > CHOOSE_RAILS_MAX || ports->queue_pairs < 1 ||
        ports->queue_pairs > CHOOSE_PATHS_MAX)
        return false;
    for (uint32_t r = 0; r < ports->rail_count; r++) {
        const struct choose_rail *rail = &ports->rails[r];
        if (rail->layer < CHOOSE_LAYER_IB || rail->layer > CHOOSE_LAYER_IWARP || rail->mtu < 1 ||
            rail->mtu > 5 || rail->gid_count > CHOOSE_GIDS_MAX)
            return false;
        for (uint32_t g = 0; g < rail->gid_count; g++) {
            if (rail->gids[g].type > CHOOSE_GID_ROCE_V2 || rail->gids[g].prefix > 128)
                return false;
        }
    }
    return true;
}

/* The best GIDs of two rails; 0: they cannot talk. */
static uint32_t best_gids(const struct choose_rail *a, const struct choose_rail *b, uint8_t gid[2])
{
    uint32_t best = 0;
    if (a->layer != b->layer)
        return 0;
    for (uint8_t i = 0; i < a->gid_count; i++) {
        for (uint8_t j = 0; j < b->gid_count; j++) {
            uint32_t score = choose_score(&a->gids[i], &b->gids[j]);
            if (score > best) {
                best = score;
                gid[0] = i;
                gid[1] = j;
            }
        }
    }
    return best;
}

/* The best pair of rails that are still free; false: none. */
static bool best_pair(const struct choose_ports *a, const struct choose_ports *b, uint32_t used_a,
                      uint32_t used_b, struct choose_path *path)
{
    uint32_t best = 0;
    for (uint8_t i = 0; i < a->rail_count; i++) {
        for (uint8_t j = 0; j < b->rail_count; j++) {
            uint8_t gid[2];
            if ((used_a >> i & 1) || (used_b >> j & 1))
                continue;
            /* Among equals the rails of equal number, then those first in their lists. */
            uint32_t score = best_gids(&a->rails[i], &b->rails[j], gid) * 2;
            score += score > 0 && i == j;
            if (score > best) {
                best = score;
                *path = (struct choose_path){{i, j}, {gid[0], gid[1]}};
            }
        }
    }
    return best > 0;
}

uint32_t choose_paths(const struct choose_ports *ports, const struct choose_ports *others,
                      bool lower, struct choose_path paths[CHOOSE_PATHS_MAX])
{
    const struct choose_ports *a = lower ? ports : others, *b = lower ? others : ports;
    uint32_t used_a = 0, used_b = 0, count = 0;
    uint32_t each = a->queue_pairs < b->queue_pairs ? a->queue_pairs : b->queue_pairs;
    struct choose_path pair;
    if (a->cm != b->cm)
        return 0;
    while (best_pair(a, b, used_a, used_b, &pair)) {
        used_a |= 1u << pair.rail[0];
        used_b |= 1u << pair.rail[1];
        if (!lower)
            pair = (struct choose_path){{pair.rail[1], pair.rail[0]}, {pair.gid[1], pair.gid[0]}};
        for (uint32_t i = 0; i < each && count < CHOOSE_PATHS_MAX; i++)
            paths[count++] = pair;
    }
    return count;
}

uint32_t choose_gids(struct choose_gid *gids, uint32_t count)
{
    /* Insertion: the score of a GID with itself is what it could reach. */
    for (uint32_t i = 1; i < count; i++) {
        struct choose_gid one = gids[i];
        uint32_t at = i;
        while (at > 0 && choose_score(&gids[at - 1], &gids[at - 1]) < choose_score(&one, &one)) {
            gids[at] = gids[at - 1];
            at--;
        }
        gids[at] = one;
    }
    return count < CHOOSE_GIDS_MAX ? count : CHOOSE_GIDS_MAX;
}

uint32_t choose_dialable(struct choose_rail *rail)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rail->gid_count; i++) {
        const struct choose_gid *gid = &rail->gids[i];
        bool keep = !is_link_local(gid);
        for (uint32_t j = 0; j < count; j++)
            keep = keep && memcmp(rail->gids[j].raw, gid->raw, sizeof gid->raw) != 0;
        if (keep)
            rail->gids[count++] = *gid;
    }
    rail->gid_count = (uint8_t)count;
    return count;
}

const char *choose_gid_text(const struct choose_gid *gid, char *text, size_t len)
{
    static const char *const types[] = {"InfiniBand", "RoCE v1", "RoCE v2"};
    const uint8_t *r = gid->raw;
    if (is_ipv4(gid))
        snprintf(text, len, "::ffff:%u.%u.%u.%u (%s, index %u)", r[12], r[13], r[14], r[15],
                 types[gid->type], gid->index);
    else
        snprintf(text, len,
                 "%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x:%02x%02x (%s, "
                 "index %u)",
                 r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
                 r[13], r[14], r[15], types[gid->type], gid->index);
    return text;
}

int choose_first(const void *a, const void *b)
{
    const struct choose_order *left = a, *right = b;
    if (left->speed_mbps != right->speed_mbps)
        return left->speed_mbps > right->speed_mbps ? -1 : 1;
    if (left->distance != right->distance)
        return left->distance < right->distance ? -1 : 1;
    return left->found < right->found ? -1 : left->found > right->found;
}

void choose_why(const struct choose_ports *a, const struct choose_ports *b, char *why, size_t len)
{
    if (a->cm != b->cm) {
        snprintf(why, len,
                 "one side connects by the connection manager and the other does not: set "
                 "TUTTI_VERBS_CONNECT alike on all ranks");
    } else if (a->rail_count == 0 || b->rail_count == 0) {
        snprintf(why, len, "%s could open none of its RDMA ports, as its log says",
                 a->rail_count == 0 ? "this side" : "the other side");
    } else if (a->rails[0].layer != b->rails[0].layer) {
        snprintf(why, len,
                 "the link layer here is %s and there %s: set TUTTI_VERBS_DEVICE to ports "
                 "of one kind",
                 layer_names[a->rails[0].layer], layer_names[b->rails[0].layer]);
    } else if (a->rails[0].layer == CHOOSE_LAYER_IB) {
        snprintf(why, len,
                 "the ports here and there are in different InfiniBand subnets: set "
                 "TUTTI_VERBS_DEVICE to ports of one subnet");
    } else {
        snprintf(why, len,
                 "no GID here and there is of one version (RoCE v1 or v2) and one family (IPv4 or "
                 "IPv6): set TUTTI_VERBS_GID_INDEX, or give both ports an address of one family");
    }
}

enum choose_gpu choose_gpu(unsigned setting, unsigned from, bool dmabuf)
{
    if (from <= CHOOSE_GPU_DMABUF && dmabuf &&
        (setting == VERBS_GPU_AUTO || setting == VERBS_GPU_DMABUF))
        return CHOOSE_GPU_DMABUF;
    if (from <= CHOOSE_GPU_PEERMEM && (setting == VERBS_GPU_AUTO || setting == VERBS_GPU_PEERMEM))
        return CHOOSE_GPU_PEERMEM;
    return CHOOSE_GPU_STAGED;
}
