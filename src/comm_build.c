/* comm_build.c: how a communicator comes to be. Two rounds over the bootstrap, on every rank, even
 * on one that already failed, so that no rank waits for another's missing round:
 *
 *   1  facts: the host record, the settings that all ranks must share, which transports work here,
 *      and rank 0's random communicator id and secret
 *   2  addresses: one per transport that was opened; or the sentence of what went wrong
 *
 * The transport of a pair is the first of the table that both can use and that reaches: threads of
 * one process, then ranks of one host, then anyone. Links are made when a plan first needs them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/auth.h"
#include "base/check.h"
#include "base/log.h"
#include "src/comm.h"
#include "tutti/tutti.h"

#define SHARED_TEXT  256
#define OPENED_BYTES (5 * TRANSPORT_ADDRESS_MAX) /* of four networks; the other two are short */

/* Round 1. Fixed size; sent as bytes between hosts of one byte order (the version says so). */
struct facts {
    struct host_record host;
    uint32_t version, usable;          /* usable: bit per row of transport_table */
    uint64_t chunk, lanes, direct_min; /* direct_min: 0 without TUTTI_CUDA_DIRECT */
    uint64_t part_bytes;               /* 0: this rank may pass other memory than its peers */
    struct mem_share sample;           /* of this rank's device; zero: it has none */
    char algo[SHARED_TEXT], transports[SHARED_TEXT];
    uint8_t comm_id[8], secret[32];
    int32_t status;
    char sentence[SENTENCE_MAX]; /* of the status; without one, which transports do not work here */
};

/* Round 2. Every rank gets every rank's, so that room which is hardly used would be most of what a
 * thousand processes move when they meet: who failed has no addresses, and who has some lays them
 * back to back, in the order of their rows. */
struct opened {
    int32_t status;
    uint32_t reach; /* how this rank's device works in the memory of others, at the slowest */
    uint32_t reduces;
    uint16_t len[COMM_TRANSPORTS_MAX];
    union {
        uint8_t addresses[OPENED_BYTES];
        char sentence[SENTENCE_MAX];
    };
};

/* ---- round 1 ----------------------------------------------------------------------------------
 */

/* Is the transport in the list of TUTTI_TRANSPORTS ("auto": all)? */
static bool allowed(const struct settings *settings, const char *name)
{
    if (strcmp(settings->transports, "auto") == 0)
        return true;
    size_t len = strlen(name);
    for (const char *at = settings->transports; (at = strstr(at, name)); at += len) {
        bool begins = at == settings->transports || at[-1] == ',';
        if (begins && (at[len] == 0 || at[len] == ','))
            return true;
    }
    return false;
}

static tutti_status check_transport_names(const struct settings *settings)
{
    char list[SETTING_TEXT_MAX], known[SETTING_TEXT_MAX] = "", *rest;
    const char *given = settings->transports;
    bool any = false, all = false;
    for (int i = 0; transport_table[i]; i++) {
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, transport_table[i]->name, sizeof known - strlen(known) - 1);
    }
    snprintf(list, sizeof list, "%s", given);
    for (char *name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        any = true;
        all = all || strcmp(name, "auto") == 0;
        if (strcmp(name, "auto") != 0 && !transport_find(name))
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_TRANSPORTS names '%s': expected some of %s, or auto", name, known);
    }
    if (!any)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_TRANSPORTS='%s' names no transport: expected some of %s, or auto", given,
                    known);
    if (all && strcmp(given, "auto") != 0)
        return fail(TUTTI_ERR_SETTING,
                    "TUTTI_TRANSPORTS=%s: auto stands for every transport: give it alone or "
                    "leave it out",
                    given);
    return TUTTI_OK;
}

/* Ordinarily nobody's concern; the sentence is for the case that nothing else reaches a peer. */
static void note_unusable(struct facts *facts, const char *name, const char *why)
{
    size_t used = strlen(facts->sentence);
    log_at(LOG_LEVEL_INFO, -1, "transport %s is not used: %s", name, why);
    snprintf(facts->sentence + used, sizeof facts->sentence - used, "; %s: %s", name, why);
}

#define NO_GPU "a rank used no GPU when the communicator was made"

/* Plans do not work in device memory. The first reason is kept. */
static void refuse_device(tutti_comm *comm, const char *why)
{
    comm->device = NULL;
    if (!comm->no_device)
        comm->no_device = why;
}

/* Parts of calls: none where adapters may carry GPU memory, since each rank decides alone whether
 * they do, nor where a rank may pass host memory while others pass a GPU's. */
static uint64_t part_bytes(const struct settings *settings, bool in_use)
{
    bool alike = in_use && settings->cuda_direct && settings->verbs_gpu == VERBS_GPU_OFF;
    return alike ? settings->cuda_part : 0;
}

static void gather_facts(tutti_comm *comm, struct facts *facts)
{
    const struct settings *settings = &comm->settings;
    char why[SENTENCE_MAX];
    *facts = (struct facts){.version = TUTTI_VERSION,
                            .chunk = settings->chunk,
                            .lanes = settings->lanes,
                            .direct_min = settings->cuda_direct ? settings->cuda_direct_min : 0};
    bool in_use = mem_device_in_use(&comm->device); /* asked even if not wanted: it looks */
    facts->part_bytes = part_bytes(settings, in_use);
    if (in_use)
        mem_device_sample(comm->device, &facts->sample);
    if (!in_use || !settings->cuda_direct)
        refuse_device(comm, settings->cuda_direct ? NO_GPU : "TUTTI_CUDA_DIRECT is 0");
    snprintf(facts->algo, sizeof facts->algo, "%s", settings->algo);
    snprintf(facts->transports, sizeof facts->transports, "%s", settings->transports);
    tutti_status status = log_set_file(settings->log_file);
    if (status == TUTTI_OK)
        status = topology_probe(settings, &facts->host);
    if (status == TUTTI_OK)
        status = check_transport_names(settings);
    if (status == TUTTI_OK)
        status = planner_check_setting(settings->algo);
    if (status == TUTTI_OK)
        status = auth_random(facts->comm_id, sizeof facts->comm_id);
    if (status == TUTTI_OK)
        status = auth_random(facts->secret, sizeof facts->secret);
    facts->status = status;
    if (status != TUTTI_OK)
        snprintf(facts->sentence, sizeof facts->sentence, "%s", status_sentence());
    for (int i = 0; transport_table[i] && status == TUTTI_OK; i++) {
        if (!allowed(settings, transport_table[i]->name))
            continue;
        if (transport_table[i]->probe(settings, why, sizeof why))
            facts->usable |= 1u << i;
        else
            note_unusable(facts, transport_table[i]->name, why);
    }
}

/* What every rank must have alike; the sentence names the first that differs from rank 0. */
static tutti_status compare_facts(const struct facts *all, uint32_t size)
{
    for (uint32_t r = 0; r < size; r++) {
        const struct facts *f = &all[r];
        if (f->version / 100 != all[0].version / 100)
            return fail(TUTTI_ERR_PROTOCOL,
                        "rank %u runs Tutti %u, rank 0 runs %u: install one version everywhere", r,
                        f->version, all[0].version);
        if (f->status != TUTTI_OK)
            return fail(status_heard(f->status, TUTTI_ERR_PROTOCOL), "rank %u: %.400s", r,
                        f->sentence);
        if (strcmp(f->algo, all[0].algo) != 0)
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_ALGO is '%.100s' at rank %u but '%.100s' at rank 0: "
                        "set it alike on all ranks",
                        f->algo, r, all[0].algo);
        if (strcmp(f->transports, all[0].transports) != 0)
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_TRANSPORTS is '%.100s' at rank %u but '%.100s' at "
                        "rank 0: set it alike on all ranks",
                        f->transports, r, all[0].transports);
        if (f->chunk != all[0].chunk || f->lanes != all[0].lanes)
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_CHUNK and TUTTI_LANES are %llu and %llu at rank %u "
                        "but %llu and %llu at rank 0: set them alike on all ranks",
                        (unsigned long long)f->chunk, (unsigned long long)f->lanes, r,
                        (unsigned long long)all[0].chunk, (unsigned long long)all[0].lanes);
        if (f->direct_min != all[0].direct_min)
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_CUDA_DIRECT and TUTTI_CUDA_DIRECT_MIN differ between rank %u and "
                        "rank 0: set them alike on all ranks",
                        r);
    }
    return TUTTI_OK;
}

static bool has_device(const struct facts *facts)
{
    return facts->sample.base != 0;
}

/* Plans work in device memory where all ranks share a host and each has a device. Says why they do
 * not; NULL: they do. */
static const char *devices_apart(const tutti_comm *comm, const struct facts *all)
{
    if (comm->topology.groups.nodes > 1)
        return "the ranks are on several hosts and do not work in each other's GPU memory";
    if (comm->size > EXEC_DEVICE_RANKS_MAX)
        return "there are too many ranks to work in each other's GPU memory";
    if (comm->lanes + 3 > TRANSPORT_LANES_MAX)
        return "TUTTI_LANES leaves no lanes for plans in GPU memory";
    for (uint32_t r = 0; r < comm->size; r++) {
        if (!has_device(&all[r]))
            return NO_GPU;
    }
    return NULL;
}

/* What links are authenticated with. Rank 0's random bytes travelled over the bootstrap, where
 * others may listen; with a job secret, which never travels, they are mixed with its key. */
static tutti_status make_secret(tutti_comm *comm, const uint8_t random[32])
{
    struct auth auth;
    memcpy(comm->secret, random, sizeof comm->secret);
    if (!comm->settings.secret[0])
        return TUTTI_OK;
    tutti_status status = auth_start(&auth, comm->settings.secret, random, false);
    for (size_t i = 0; i < sizeof comm->secret && status == TUTTI_OK; i++)
        comm->secret[i] ^= auth.key[i];
    return status;
}

/* Processes that share a device take turns on it in slices of a tenth of a millisecond and more,
 * and a plan waits for several turns of each: with p of them the copy through host memory, which
 * needs none, wins up to some (p - 1)^2 times the size (256 KiB, 4 MiB, 16 MiB with 2, 4, 8
 * measured on an H200). */
static void count_device_peers(tutti_comm *comm, const struct facts *all)
{
    for (uint32_t r = 0; r < comm->size; r++) {
        uint32_t sharing = 0;
        if (!has_device(&all[r]))
            continue;
        for (uint32_t s = 0; s < comm->size; s++) {
            bool first =
                memcmp(all[s].sample.device, all[r].sample.device, sizeof all->sample.device) == 0;
            for (uint32_t t = 0; t < s && first; t++)
                first = all[t].host.process_id != all[s].host.process_id;
            sharing += first;
        }
        if (sharing > comm->device_peers)
            comm->device_peers = sharing;
    }
    uint64_t others = comm->device_peers > 2 ? comm->device_peers - 1 : 1;
    comm->direct_min = comm->settings.cuda_direct_min * others * others;
}

/* The smallest; 0: some rank must not have calls cut. */
static uint64_t agreed_part(const struct facts *all, uint32_t size)
{
    uint64_t least = all[0].part_bytes;
    for (uint32_t r = 1; r < size; r++)
        least = all[r].part_bytes < least ? all[r].part_bytes : least;
    return least;
}

/* Could transport row i serve ranks a and b, by what all ranks know? */
static bool serves(const struct facts *all, int row, uint32_t a, uint32_t b)
{
    const struct host_record *x = &all[a].host, *y = &all[b].host;
    const char *name = transport_table[row]->name;
    if (!(all[a].usable & all[b].usable & 1u << row))
        return false;
    if (strcmp(name, "inproc") == 0)
        return x->process_id == y->process_id;
    if (strcmp(name, "shm") == 0)
        return x->host_id == y->host_id;
    return true;
}

static int row_for(const struct facts *all, uint32_t a, uint32_t b)
{
    for (int row = 0; transport_table[row]; row++) {
        if (serves(all, row, a, b))
            return row;
    }
    return -1;
}

/* Does a message between ranks of some host pass a network, for want of shared memory? Each rank is
 * compared with the first of its host. */
static bool hosts_are_apart(const struct facts *all, const struct groups *groups)
{
    for (uint32_t rank = 0; rank < groups->size; rank++) {
        uint32_t first = groups->members[groups->first[groups->node_of[rank]]];
        int row = rank == first ? -1 : row_for(all, first, rank);
        if (row >= 0 && strcmp(transport_table[row]->name, "inproc") != 0 &&
            strcmp(transport_table[row]->name, "shm") != 0)
            return true;
    }
    return false;
}

static tutti_status take_facts(tutti_comm *comm, const struct facts *all)
{
    tutti_status status = compare_facts(all, comm->size);
    struct host_record *records = calloc(comm->size, sizeof *records);
    if (status == TUTTI_OK && !records)
        status = fail(TUTTI_ERR_NOMEM, "no memory for the records of %u ranks", comm->size);
    for (uint32_t r = 0; r < comm->size && status == TUTTI_OK; r++) {
        records[r] = all[r].host;
        records[r].host[sizeof records[r].host - 1] = 0;
        snprintf(comm->names[r], COMM_PEER_NAME_MAX, "rank %u (host %.48s, pid %u)", r,
                 records[r].host, records[r].pid);
        comm->name_list[r] = comm->names[r];
    }
    if (status == TUTTI_OK)
        status = topology_make(comm->size, records, &comm->topology);
    free(records);
    if (status != TUTTI_OK)
        return status;
    if (hosts_are_apart(all, &comm->topology.groups))
        topology_set_apart(&comm->topology);
    memcpy(&comm->comm_id, all[0].comm_id, sizeof comm->comm_id);
    status = make_secret(comm, all[0].secret);
    comm->crowded = comm->topology.max_ranks_per_core > 1;
    comm->lanes = planner_lanes(&comm->settings, comm->topology.groups.nodes, comm->topology.model);
    must(comm->lanes < TRANSPORT_LANES_MAX);
    const char *apart = devices_apart(comm, all);
    if (apart)
        refuse_device(comm, apart);
    count_device_peers(comm, all);
    comm->part_bytes = agreed_part(all, comm->size);
    return status;
}

/* ---- transports -------------------------------------------------------------------------------
 */

static tutti_status open_row(tutti_comm *comm, int row)
{
    const struct transport_ops *ops = transport_table[row];
    struct transport *transport = NULL;
    must(comm->transport_count < COMM_TRANSPORTS_MAX);
    tutti_status status = ops->open(&comm->config, &transport);
    if (status == TUTTI_OK && comm->settings.fault[0]) {
        struct transport *inner = transport;
        status = fault_wrap(inner, &comm->config, comm->settings.fault, &transport);
        if (status != TUTTI_OK)
            ops->close(inner);
    }
    if (status != TUTTI_OK)
        return status;
    comm->transports[comm->transport_count] = transport;
    comm->transport_ops[comm->transport_count++] = transport->ops;
    return TUTTI_OK;
}

/* Opens each transport that some peer needs; rows[] says which row each opened one is. */
static tutti_status open_transports(tutti_comm *comm, const struct facts *all,
                                    int rows[COMM_TRANSPORTS_MAX])
{
    comm->config = (struct transport_config){.rank = comm->rank,
                                             .size = comm->size,
                                             .lanes = comm->lanes + (comm->device ? 3 : 1),
                                             .comm_id = comm->comm_id,
                                             .secret = comm->secret,
                                             .settings = &comm->settings,
                                             .peer_names = comm->name_list,
                                             .crowded = comm->crowded};
    for (uint32_t p = 0; p < comm->size; p++) {
        if (p == comm->rank)
            continue;
        int row = row_for(all, comm->rank, p);
        if (row < 0)
            return fail(TUTTI_ERR_CONNECT,
                        "no transport of TUTTI_TRANSPORTS=%s reaches from %s to %s%.400s",
                        comm->settings.transports, comm->names[comm->rank], comm->names[p],
                        all[comm->rank].sentence[0] ? all[comm->rank].sentence : all[p].sentence);
        uint32_t i = 0;
        while (i < comm->transport_count && rows[i] != row)
            i++;
        if (i < comm->transport_count)
            continue;
        rows[i] = row;
        tutti_status status = open_row(comm, row);
        if (status != TUTTI_OK)
            return status;
    }
    return TUTTI_OK;
}

/* Addresses lie in the order of their rows. */
static tutti_status own_addresses(tutti_comm *comm, const int rows[COMM_TRANSPORTS_MAX],
                                  struct opened *mine)
{
    uint32_t at = 0;
    for (int row = 0; transport_table[row]; row++) {
        for (uint32_t i = 0; i < comm->transport_count; i++) {
            size_t len = TRANSPORT_ADDRESS_MAX;
            if (rows[i] != row)
                continue;
            must(at + len <= sizeof mine->addresses);
            tutti_status status =
                comm->transport_ops[i]->address(comm->transports[i], mine->addresses + at, &len);
            if (status != TUTTI_OK)
                return status;
            must(len <= TRANSPORT_ADDRESS_MAX);
            mine->len[row] = (uint16_t)len;
            at += (uint32_t)len;
        }
    }
    return TUTTI_OK;
}

/* Where the address of that row lies; NULL if there is none, or if the lengths, which came from a
 * peer, make no sense. */
static const uint8_t *address_in(const struct opened *opened, int row)
{
    size_t at = 0;
    for (int i = 0; i < row; i++)
        at += opened->len[i];
    bool good = opened->len[row] > 0 && opened->len[row] <= TRANSPORT_ADDRESS_MAX &&
                at + opened->len[row] <= sizeof opened->addresses;
    return good ? opened->addresses + at : NULL;
}

/* What to do where two ranks name their hosts alike, or have no kind of address in common. */
static const char *advice(const char *transport)
{
    if (strcmp(transport, "shm") == 0)
        return ": ranks of one host share memory where they are of one user and one network "
               "namespace; give others a TUTTI_HOST_ID of their own";
    if (strcmp(transport, "tcp") == 0)
        return ": they have no kind of address in common, see TUTTI_INTERFACE and TUTTI_FAMILY";
    return "";
}

static tutti_status take_addresses(tutti_comm *comm, const struct facts *facts,
                                   const struct opened *all, const int rows[COMM_TRANSPORTS_MAX])
{
    comm->device_reach = MEM_REACH_SAME;
    for (uint32_t r = 0; r < comm->size; r++) {
        if (all[r].status != TUTTI_OK)
            return fail(status_heard(all[r].status, TUTTI_ERR_PROTOCOL), "rank %u: %.400s", r,
                        all[r].sentence);
        if (all[r].reach < (uint32_t)comm->device_reach)
            comm->device_reach = (enum mem_reach)all[r].reach;
        if (all[r].reach == MEM_REACH_NONE)
            refuse_device(comm, "not every rank's GPU works in the memory of every other's");
        comm->device_reduces = all[r].reduces && (r == 0 || comm->device_reduces);
    }
    comm->addresses = calloc(comm->size, TRANSPORT_ADDRESS_MAX);
    if (!comm->addresses)
        return fail(TUTTI_ERR_NOMEM, "no memory for the addresses of %u ranks", comm->size);
    for (uint32_t p = 0; p < comm->size; p++) {
        if (p == comm->rank)
            continue;
        int row = row_for(facts, comm->rank, p);
        uint32_t len = all[p].len[row];
        const uint8_t *theirs = address_in(&all[p], row);
        if (theirs == NULL)
            return fail(TUTTI_ERR_PROTOCOL, "%s gave a %s address of %u bytes", comm->names[p],
                        transport_table[row]->name, len);
        struct comm_peer *peer = &comm->peers[p];
        uint8_t *address = comm->addresses + (size_t)p * TRANSPORT_ADDRESS_MAX;
        memcpy(address, theirs, len);
        peer->address = address;
        peer->address_len = len;
        for (uint32_t i = 0; i < comm->transport_count; i++) {
            if (rows[i] == row)
                peer->transport = comm->transports[i];
        }
        if (!peer->transport->ops->reaches(peer->transport, p, address, len))
            return fail(TUTTI_ERR_CONNECT, "transport %s does not reach from %s to %s%s",
                        transport_table[row]->name, comm->names[comm->rank], comm->names[p],
                        advice(transport_table[row]->name));
        peer->nic = peer->transport->ops->takes(peer->transport, p, NULL, 0);
        comm->nic = comm->nic || peer->nic;
    }
    return TUTTI_OK;
}

tutti_status comm_connect(tutti_comm *comm, uint32_t p)
{
    struct comm_peer *peer = &comm->peers[p];
    if (peer->connected)
        return TUTTI_OK;
    tutti_status status =
        peer->transport->ops->connect(peer->transport, p, peer->address, peer->address_len);
    peer->connected = status == TUTTI_OK;
    return status;
}

/* ---- both rounds
 * -------------------------------------------------------------------------------------
 */

/* How this rank's device works in the memory of all others', at the slowest. No stream can wait for
 * this communicator yet, so what waits for streams is done now. */
static enum mem_reach device_reach(const tutti_comm *comm, const struct facts *facts)
{
    enum mem_reach slowest = comm->device ? MEM_REACH_SAME : MEM_REACH_NONE;
    for (uint32_t r = 0; r < comm->size && slowest != MEM_REACH_NONE; r++) {
        enum mem_reach reach = mem_device_reach(comm->device, &facts[r].sample);
        slowest = reach < slowest ? reach : slowest;
    }
    return slowest;
}

static tutti_status build_rounds(tutti_comm *comm, struct bootstrap *bootstrap, struct facts *facts,
                                 struct opened *opened)
{
    int rows[COMM_TRANSPORTS_MAX];
    struct facts *my_facts = &facts[comm->size];
    struct opened *mine = &opened[comm->size];
    gather_facts(comm, my_facts);
    tutti_status status = bootstrap_allgather(bootstrap, my_facts, facts, sizeof *facts);
    if (status != TUTTI_OK)
        return status;
    status = take_facts(comm, facts);
    if (status == TUTTI_OK)
        status = open_transports(comm, facts, rows);
    if (status == TUTTI_OK)
        status = own_addresses(comm, rows, mine);
    mine->status = status;
    mine->reduces = comm->device && mem_device_reduces(comm->device);
    if (status == TUTTI_OK)
        mine->reach = device_reach(comm, facts);
    else
        snprintf(mine->sentence, sizeof mine->sentence, "%s", status_sentence());
    tutti_status round = bootstrap_allgather(bootstrap, mine, opened, sizeof *opened);
    if (status != TUTTI_OK)
        status_set_sentence(mine->sentence);
    else
        status = round;
    return status == TUTTI_OK ? take_addresses(comm, facts, opened, rows) : status;
}

tutti_status comm_build(const struct settings *settings, struct bootstrap *bootstrap,
                        tutti_comm **made)
{
    uint32_t size = bootstrap_size(bootstrap);
    tutti_comm *comm = NULL;
    log_set_level((enum log_level)settings->log);
    tutti_status status = comm_allocate(settings, bootstrap_rank(bootstrap), size, &comm);
    if (status != TUTTI_OK)
        return status;
    /* One more than the ranks: the last entry is this rank's own, on its way out. */
    struct facts *facts = calloc(size + 1u, sizeof *facts);
    struct opened *opened = calloc(size + 1u, sizeof *opened);
    if (facts && opened)
        status = build_rounds(comm, bootstrap, facts, opened);
    else
        status = fail(TUTTI_ERR_NOMEM, "no memory for the facts of %u ranks", size);
    free(facts);
    free(opened);
    if (status != TUTTI_OK) {
        comm_free(comm);
        return status;
    }
    comm->magic = COMM_MAGIC;
    comm_tend(comm);
    *made = comm;
    status_set_sentence(""); /* of a transport that is not for this machine, or a second try */
    return TUTTI_OK;
}

tutti_status comm_build_refused(struct bootstrap *bootstrap, tutti_status status)
{
    struct facts mine = {.version = TUTTI_VERSION, .status = status};
    struct opened opened = {.status = status};
    snprintf(mine.sentence, sizeof mine.sentence, "%s", status_sentence());
    snprintf(opened.sentence, sizeof opened.sentence, "%s", mine.sentence);
    size_t each = sizeof mine > sizeof opened ? sizeof mine : sizeof opened;
    void *all = malloc(bootstrap_size(bootstrap) * each);
    if (all && bootstrap_allgather(bootstrap, &mine, all, sizeof mine) == TUTTI_OK)
        (void)bootstrap_allgather(bootstrap, &opened, all, sizeof opened);
    free(all);
    return fail(status, "%s", mine.sentence);
}

tutti_status comm_build_idle(tutti_allgather_fn *allgather, void *context, tutti_comm **comm)
{
    struct facts facts = {.version = TUTTI_VERSION};
    struct opened opened = {.status = TUTTI_OK};
    if (allgather(&facts, NULL, sizeof facts, context) != 0 ||
        allgather(&opened, NULL, sizeof opened, context) != 0)
        return fail(TUTTI_ERR_CONNECT, "%s", status_sentence());
    *comm = NULL;
    return TUTTI_OK;
}
