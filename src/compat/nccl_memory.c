/* nccl_memory.c: memory, registrations and windows. A window is a registration with another name:
 * its device-side use, which needs peers' memory mapped into kernels, is not served.
 *
 * The handles of all communicators are in one list, since some calls have a window alone. One that
 * a caller shows is looked for there, never looked into, so it may be anything. */
#include <stdlib.h>

#include "nccl_face.h"

/* Behind both kinds of handle. */
struct ncclWindow_vidmem {
    tutti_registration *registration;
    ncclComm_t comm;
    void *buff;
    struct ncclWindow_vidmem *next;
};

static struct ncclWindow_vidmem *registered; /* those not given back */
static pthread_mutex_t registered_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t registered_once = PTHREAD_ONCE_INIT;

/* Its holder, if any, is a thread the child does not have. */
static void child_of_fork(void)
{
    pthread_mutex_init(&registered_lock, NULL);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, child_of_fork);
}

static void lock_registered(void)
{
    pthread_once(&registered_once, watch_forks);
    pthread_mutex_lock(&registered_lock);
}

/* A driver packs small blocks of device memory side by side; whole pages of its own stand on the
 * alignment that windows need. */
#define DEVICE_PAGE ((size_t)2 << 20)

NCCL_FACE(ncclResult_t, ncclMemAlloc, (void **ptr, size_t size))
{
    if (!ptr)
        return face_fail(ncclInvalidArgument, "ncclMemAlloc: ptr is NULL");
    size_t pages = size / DEVICE_PAGE + (size % DEVICE_PAGE != 0 || size == 0);
    tutti_status status = pages > SIZE_MAX / DEVICE_PAGE
                              ? TUTTI_ERR_UNSUPPORTED
                              : tutti_mem_alloc_in(TUTTI_MEMORY_CUDA, pages * DEVICE_PAGE, ptr);
    if (status == TUTTI_ERR_UNSUPPORTED)
        status = tutti_mem_alloc(size, ptr);
    return face_result(status);
}

NCCL_FACE(ncclResult_t, ncclMemFree, (void *ptr))
{
    return face_result(tutti_mem_free(ptr));
}

static ncclResult_t do_register(ncclComm_t comm, void *buff, size_t size, const char *name,
                                struct ncclWindow_vidmem **out)
{
    ncclResult_t result = face_enter(comm, name);
    if (result != ncclSuccess)
        return result;
    struct ncclWindow_vidmem *made = calloc(1, sizeof *made);
    if (!made)
        result = face_fail(ncclSystemError, "%s: no memory", name);
    else
        result = face_result(tutti_register(face_tutti(comm), buff, size, &made->registration));
    if (result == ncclSuccess) {
        made->comm = comm;
        made->buff = buff;
        lock_registered();
        made->next = registered;
        registered = made;
        pthread_mutex_unlock(&registered_lock);
        *out = made;
    } else {
        free(made);
    }
    face_leave(comm);
    return result;
}

/* Takes it out of the list; false if it is not there. */
static bool take_registered(ncclComm_t comm, const struct ncclWindow_vidmem *handle)
{
    lock_registered();
    struct ncclWindow_vidmem **at = &registered;
    while (*at && *at != handle)
        at = &(*at)->next;
    bool found = *at && handle->comm == comm;
    if (found)
        *at = handle->next;
    pthread_mutex_unlock(&registered_lock);
    return found;
}

static ncclResult_t do_deregister(ncclComm_t comm, struct ncclWindow_vidmem *handle,
                                  const char *name)
{
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    if (handle && !take_registered(comm, handle)) {
        result = face_fail(ncclInvalidUsage,
                           "%s: the handle was not made with this communicator, or is given back "
                           "already",
                           name);
    } else if (handle) {
        result = face_result(tutti_deregister(face_tutti(comm), handle->registration));
        free(handle);
    }
    face_leave(comm);
    return result;
}

void face_deregister_all(ncclComm_t comm)
{
    struct ncclWindow_vidmem *mine = NULL, **at = &registered;
    lock_registered();
    while (*at) {
        struct ncclWindow_vidmem *handle = *at;
        if (handle->comm != comm) {
            at = &handle->next;
            continue;
        }
        *at = handle->next;
        handle->next = mine;
        mine = handle;
    }
    pthread_mutex_unlock(&registered_lock);
    while (mine) {
        struct ncclWindow_vidmem *handle = mine;
        mine = handle->next;
        tutti_deregister(comm->tutti, handle->registration);
        free(handle);
    }
}

NCCL_FACE(ncclResult_t, ncclCommRegister,
          (const ncclComm_t comm, void *buff, size_t size, void **handle))
{
    struct ncclWindow_vidmem *made = NULL;
    if (!handle || !buff)
        return face_fail(ncclInvalidArgument, "ncclCommRegister: %s is NULL",
                         handle ? "buff" : "handle");
    ncclResult_t result = do_register(comm, buff, size, "ncclCommRegister", &made);
    if (result == ncclSuccess)
        *handle = made;
    return result;
}

NCCL_FACE(ncclResult_t, ncclCommDeregister, (const ncclComm_t comm, void *handle))
{
    return do_deregister(comm, handle, "ncclCommDeregister");
}

#define RESTRICTIONS (NCCL_WIN_GIN_ONLY | NCCL_WIN_CFT_COUNTED)
#define FLAGS_KNOWN  (NCCL_WIN_COLL_SYMMETRIC | NCCL_WIN_STRICT_ORDERING | RESTRICTIONS)

/* A window that is to be reached by nothing but what is not served would be reached by nothing. */
static ncclResult_t check_flags(const void *buff, int flags, const char *name)
{
    if (flags & ~FLAGS_KNOWN)
        return face_fail(ncclInvalidArgument,
                         "%s: flags 0x%x: expected a sum of NCCL_WIN_COLL_SYMMETRIC (1) and "
                         "NCCL_WIN_STRICT_ORDERING (2)",
                         name, (unsigned)flags);
    if (flags & RESTRICTIONS)
        return face_fail(ncclInvalidUsage,
                         "%s: flags 0x%x have %s, a window for kernels that communicate by "
                         "themselves alone, and Tutti does not serve those: leave the flag out",
                         name, (unsigned)flags,
                         flags & NCCL_WIN_GIN_ONLY ? "NCCL_WIN_GIN_ONLY (4)"
                                                   : "NCCL_WIN_CFT_COUNTED (8)");
    if (flags & NCCL_WIN_COLL_SYMMETRIC && (uintptr_t)buff % NCCL_WIN_REQUIRED_ALIGNMENT != 0)
        return face_fail(ncclInvalidArgument,
                         "%s: buff %p is not aligned to %d bytes, as NCCL_WIN_COLL_SYMMETRIC needs",
                         name, buff, NCCL_WIN_REQUIRED_ALIGNMENT);
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclCommWindowRegister,
          (ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win, int winFlags))
{
    const char *name = "ncclCommWindowRegister";
    ncclResult_t result;
    if (win)
        *win = NULL;
    if (!win || !buff)
        result = face_fail(ncclInvalidArgument, "%s: %s is NULL", name, win ? "buff" : "win");
    else if (size == 0)
        result = face_fail(ncclInvalidArgument, "%s: size is 0", name);
    else
        result = check_flags(buff, winFlags, name);
    if (result == ncclSuccess)
        result = do_register(comm, buff, size, name, win);
    return face_group_note(result);
}

NCCL_FACE(ncclResult_t, ncclCommWindowDeregister, (ncclComm_t comm, ncclWindow_t win))
{
    return face_group_note(do_deregister(comm, win, "ncclCommWindowDeregister"));
}

NCCL_FACE(ncclResult_t, ncclWinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr))
{
    const char *name = "ncclWinGetUserPtr";
    if (!outUserPtr)
        return face_fail(ncclInvalidArgument, "%s: outUserPtr is NULL", name);
    ncclResult_t result = face_hold(comm, name);
    if (result != ncclSuccess)
        return result;
    lock_registered();
    const struct ncclWindow_vidmem *at = registered;
    while (at && (at != win || at->comm != comm))
        at = at->next;
    if (at)
        *outUserPtr = at->buff;
    pthread_mutex_unlock(&registered_lock);
    if (!at)
        result =
            face_fail(ncclInvalidArgument,
                      "%s: the window was not made with this communicator, or is given back", name);
    face_leave(comm);
    return result;
}

ncclResult_t face_window(ncclWindow_t window, const char *name, struct face_window *found)
{
    if (!window)
        return face_fail(ncclInvalidArgument, "%s: window is NULL", name);
    lock_registered();
    const struct ncclWindow_vidmem *at = registered;
    while (at && at != window)
        at = at->next;
    if (at)
        *found = (struct face_window){at->buff, at->comm->rank, at->comm->size};
    pthread_mutex_unlock(&registered_lock);
    if (at)
        return ncclSuccess;
    return face_fail(ncclInvalidArgument,
                     "%s: the window was not made by ncclCommWindowRegister, or is given back",
                     name);
}
