/* library.c: see library.h. A library that lacks a name counts as missing; neither is ever closed,
 * because its providers keep state. */
#include "transports/verbs/library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static struct library library;
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static bool resolve(void *handle, const char *file, const char *name, void *place)
{
    void *symbol = dlsym(handle, name);
    if (!symbol) {
        snprintf(library.why, sizeof library.why, "%s has no %s: it is too old", file, name);
        return false;
    }
    *(void **)place = symbol;
    return true;
}

static void *load(const char *file)
{
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        snprintf(library.why, sizeof library.why, "%s cannot be loaded: install rdma-core's %s",
                 file, file);
    return handle;
}

/* Before Linux 5.12 the parent of a fork that writes to a page which a device uses gets a copy, and
 * the device stays with the child's: queues and registered memory would be lost by any system() or
 * data loader. So children do not get such pages. Later kernels copy for the child, and this does
 * nothing; it is refused where another library has registered memory before, which cannot be
 * helped. To be called first of all. */
static void keep_from_children(void)
{
    (void)library.ibv.fork_init();
}

static void load_all(void)
{
    static const char verbs_file[] = "libibverbs.so.1", cm_file[] = "librdmacm.so.1";
    void *handle = load(verbs_file);
    if (!handle)
        return;
    bool good = resolve(handle, verbs_file, "_ibv_query_gid_ex", &library.ibv.query_gid_ex);
#define X(name) good = good && resolve(handle, verbs_file, "ibv_" #name, &library.ibv.name);
    LIBRARY_IBV_LIST(X)
#undef X
    *(void **)&library.ibv.reg_mr_iova2 = dlsym(handle, "ibv_reg_mr_iova2");
#ifdef TUTTI_WITH_DMABUF
    *(void **)&library.ibv.reg_dmabuf_mr = dlsym(handle, "ibv_reg_dmabuf_mr");
#endif
    library.have_ibv = good;
    if (good)
        keep_from_children();
    handle = good ? load(cm_file) : NULL;
    if (!handle)
        return;
#define X(name) good = good && resolve(handle, cm_file, "rdma_" #name, &library.rdma.name);
    LIBRARY_RDMA_LIST(X)
#undef X
    library.have_rdma = good;
}

const struct library *library_get(void)
{
    pthread_once(&library_once, load_all);
    return &library;
}
