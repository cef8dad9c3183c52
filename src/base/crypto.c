/* crypto.c: see crypto.h. The idea: where the library is the first to use libcrypto, it asks that
 * no handler of exit clean up, and nothing ever goes. Where the program was first, libcrypto tells
 * when it begins to clean up, and waits there until the thread inside has left. Invariant: whoever
 * is inside has come before the cleaning. */
#include "base/crypto.h"

#include <openssl/crypto.h>
#include <pthread.h>

#include "base/lock.h"

static struct {
    struct lock lock;
    bool gone;
} crypto = {.lock = LOCK_INIT};

static pthread_once_t crypto_once = PTHREAD_ONCE_INIT;

static void before_cleanup(void)
{
    lock_take(&crypto.lock);
    crypto.gone = true;
    lock_leave(&crypto.lock);
}

static void begin(void)
{
    crypto.gone = OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL) != 1 ||
                  OPENSSL_atexit(before_cleanup) != 1;
}

tutti_status crypto_enter(void)
{
    pthread_once(&crypto_once, begin);
    lock_take(&crypto.lock);
    if (!crypto.gone)
        return TUTTI_OK;
    lock_leave(&crypto.lock);
    return fail(TUTTI_ERR_SYSTEM, "libcrypto is of no use any more: the program exits");
}

void crypto_leave(void)
{
    lock_leave(&crypto.lock);
}
