/* nccl_config.c: structures by which a program says what it wishes: of a communicator, of one call,
 * about encryption. Each begins with its size, a magic number and the version of the header that it
 * was compiled with. Versions only add fields at the end: as many bytes are read as both sides
 * know, and a field that the caller's version did not have means nothing, since what was padding
 * there may lie in its place. */
#include <string.h>

#include "nccl_face.h"

#define CONFIG_MAX 4096 /* no version will be larger: a size beyond is garbage */

/* What each begins with. */
struct head {
    size_t size;
    unsigned magic, version;
};

/* What of *given both sides know goes over *read, which the named initializer has filled. */
static ncclResult_t read_known(void *read, const void *given, const char *name,
                               const char *initializer)
{
    struct head want, has;
    memcpy(&want, read, sizeof want);
    memcpy(&has.size, given, sizeof has.size);
    if (has.size < sizeof has || has.size > CONFIG_MAX)
        return face_fail(ncclInvalidArgument,
                         "%s: config has a size of %zu bytes, expected %zu as %s gives it", name,
                         has.size, want.size, initializer);
    memcpy(&has, given, sizeof has);
    if (has.magic != want.magic)
        return face_fail(ncclInvalidArgument,
                         "%s: config has the magic 0x%x, expected 0x%x: begin it with %s", name,
                         has.magic, want.magic, initializer);
    memcpy(read, given, has.size < want.size ? has.size : want.size);
    return ncclSuccess;
}

/* A field that may be left undefined. */
struct field {
    const char *name;
    int value, low, high;
};

static ncclResult_t check_fields(const struct field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        const struct field *f = &fields[i];
        if (f->value == NCCL_CONFIG_UNDEF_INT || (f->value >= f->low && f->value <= f->high))
            continue;
        if (f->high == INT_MAX)
            return face_fail(ncclInvalidArgument, "%s: config.%s is %d: expected at least %d", name,
                             f->name, f->value, f->low);
        return face_fail(ncclInvalidArgument, "%s: config.%s is %d: expected %d to %d", name,
                         f->name, f->value, f->low, f->high);
    }
    return ncclSuccess;
}

static ncclResult_t check_ctas(int least, int most, const char *name)
{
    if (least != NCCL_CONFIG_UNDEF_INT && most != NCCL_CONFIG_UNDEF_INT && least > most)
        return face_fail(ncclInvalidArgument,
                         "%s: config.minCTAs is %d, more than config.maxCTAs, %d", name, least,
                         most);
    return ncclSuccess;
}

#define CTA_POLICY_MAX (NCCL_CTA_POLICY_EFFICIENCY | NCCL_CTA_POLICY_ZERO)

/* ---- of a communicator ------------------------------------------------------------------------
 */

static void forget_newer(ncclConfig_t *config)
{
    static const ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;
    /* The first field that each of these versions added. */
    static const struct {
        unsigned version;
        size_t from;
    } added[] = {
        {NCCL_VERSION(2, 14, 0), offsetof(ncclConfig_t, blocking)},
        {NCCL_VERSION(2, 17, 0), offsetof(ncclConfig_t, cgaClusterSize)},
        {NCCL_VERSION(2, 18, 0), offsetof(ncclConfig_t, splitShare)},
        {NCCL_VERSION(2, 27, 0), offsetof(ncclConfig_t, trafficClass)},
        {NCCL_VERSION(2, 28, 0), offsetof(ncclConfig_t, nChannelsPerNetPeer)},
        {NCCL_VERSION(2, 29, 0), offsetof(ncclConfig_t, graphUsageMode)},
        {NCCL_VERSION(2, 30, 0), offsetof(ncclConfig_t, maxP2pPeers)},
        {NCCL_VERSION(2, 30, 7), offsetof(ncclConfig_t, graphStreamOrdering)},
        {NCCL_VERSION(2, 31, 0), offsetof(ncclConfig_t, launchOrderImplicit)},
        {NCCL_VERSION(2, 32, 0), offsetof(ncclConfig_t, nvlsHostMode)},
    };
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        size_t from = added[i].from;
        if (config->version < added[i].version) {
            memcpy((char *)config + from, (const char *)&fresh + from, sizeof fresh - from);
            return;
        }
    }
}

static ncclResult_t check_config(const ncclConfig_t *config, const char *name)
{
    int nvls = config->nvlsHostMode;
    const struct field fields[] = {
        {"blocking", config->blocking, 0, 1},
        {"cgaClusterSize", config->cgaClusterSize, 0, 8},
        {"minCTAs", config->minCTAs, 1, INT_MAX},
        {"maxCTAs", config->maxCTAs, 1, INT_MAX},
        {"splitShare", config->splitShare, 0, 1},
        {"collnetEnable", config->collnetEnable, 0, 1},
        {"CTAPolicy", config->CTAPolicy, NCCL_CTA_POLICY_DEFAULT, CTA_POLICY_MAX},
        {"shrinkShare", config->shrinkShare, 0, 1},
        {"nvlsCTAs", config->nvlsCTAs, 1, INT_MAX},
        {"nChannelsPerNetPeer", config->nChannelsPerNetPeer, 1, INT_MAX},
        {"nvlinkCentricSched", config->nvlinkCentricSched, 0, 1},
        {"graphUsageMode", config->graphUsageMode, 0, 2},
        {"numRmaCtx", config->numRmaCtx, 0, INT_MAX},
        {"maxP2pPeers", config->maxP2pPeers, 0, INT_MAX},
        {"graphStreamOrdering", config->graphStreamOrdering, 0, 1},
        {"launchOrderImplicit", config->launchOrderImplicit, 0, 1},
        {"numRmaSig", config->numRmaSig, 0, INT_MAX},
        {"rmaEagerInit", config->rmaEagerInit, 0, 1},
        {"hostCftMode", config->hostCftMode, ncclHostCftEnable, ncclHostCftFallback},
        {"nvlsHostMode", nvls == ncclNvlsHostModeDisable ? ncclNvlsHostModeEnable : nvls, 0, 3},
    };
    ncclResult_t result = check_fields(fields, sizeof fields / sizeof *fields, name);
    return result == ncclSuccess ? check_ctas(config->minCTAs, config->maxCTAs, name) : result;
}

ncclResult_t face_config_read(const ncclConfig_t *config, const char *name, bool *blocking)
{
    ncclConfig_t read = NCCL_CONFIG_INITIALIZER;
    ncclResult_t result = ncclSuccess;
    if (config)
        result = read_known(&read, config, name, "NCCL_CONFIG_INITIALIZER");
    if (result != ncclSuccess)
        return result;
    forget_newer(&read);
    result = check_config(&read, name);
    if (result != ncclSuccess)
        return result;
    if (read.blocking != NCCL_CONFIG_UNDEF_INT)
        *blocking = read.blocking != 0;
    *blocking = face_blocking(*blocking);
    return ncclSuccess;
}

/* ---- of a call --------------------------------------------------------------------------------
 */

/* Which algorithms there are is each library's own affair. A call that insists on NVIDIA's cannot
 * be satisfied, and that is an error by the interface's own word. */
static ncclResult_t check_selection(const ncclCollConfig_t *config, const char *name)
{
    if (!config->algSelection || !*config->algSelection || config->forceAlgSelection == 0)
        return ncclSuccess;
    return face_fail(ncclInvalidArgument,
                     "%s: config.algSelection is \"%.80s\": the algorithms of NVIDIA's library are "
                     "not to be had here: set config.forceAlgSelection to 0 to run without, or "
                     "choose one of Tutti's by TUTTI_ALGO",
                     name, config->algSelection);
}

ncclResult_t face_config_read_call(const ncclCollConfig_t *config, const char *name, void **event)
{
    ncclCollConfig_t read = NCCL_COLLCONFIG_INITIALIZER;
    if (!config)
        return ncclSuccess;
    ncclResult_t result = read_known(&read, config, name, "NCCL_COLLCONFIG_INITIALIZER");
    if (result != ncclSuccess)
        return result;
    if (read.version < NCCL_VERSION(2, 32, 0))
        read.launchCompletionEvent = NULL;
    const struct field fields[] = {
        {"minCTAs", read.minCTAs, 1, INT_MAX},
        {"maxCTAs", read.maxCTAs, 1, INT_MAX},
        {"nvlsCTAs", read.nvlsCTAs, 1, INT_MAX},
        {"cgaClusterSize", read.cgaClusterSize, 0, 8},
        {"forceAlgSelection", read.forceAlgSelection, 0, 1},
        {"CTAPolicy", read.CTAPolicy, NCCL_CTA_POLICY_DEFAULT, CTA_POLICY_MAX},
    };
    result = check_fields(fields, sizeof fields / sizeof *fields, name);
    if (result == ncclSuccess)
        result = check_ctas(read.minCTAs, read.maxCTAs, name);
    if (result == ncclSuccess)
        result = check_selection(&read, name);
    if (result == ncclSuccess)
        *event = read.launchCompletionEvent;
    return result;
}

/* ---- about encryption -------------------------------------------------------------------------
 */

NCCL_FACE(ncclResult_t, ncclSetEncryption, (const ncclEncryptionConfig_t *config))
{
    const char *name = "ncclSetEncryption";
    ncclEncryptionConfig_t read = NCCL_ENCRYPTION_CONFIG_INITIALIZER;
    if (!config)
        return ncclSuccess;
    ncclResult_t result = read_known(&read, config, name, "NCCL_ENCRYPTION_CONFIG_INITIALIZER");
    if (result != ncclSuccess || read.mode == NCCL_ENCRYPTION_MODE_NONE)
        return result;
    if (read.mode != NCCL_ENCRYPTION_MODE_PSK)
        return face_fail(ncclInvalidArgument,
                         "%s: config.mode is %d: expected NCCL_ENCRYPTION_MODE_NONE (0) or "
                         "NCCL_ENCRYPTION_MODE_PSK (1)",
                         name, read.mode);
    return face_fail(ncclInvalidUsage,
                     "%s: Tutti does not encrypt what ranks exchange: TUTTI_SECRET keeps strangers "
                     "out, and an encrypted network (WireGuard, IPsec) keeps them from reading",
                     name);
}
