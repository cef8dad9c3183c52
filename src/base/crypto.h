/* crypto.h: when libcrypto may be asked for something. A program that exits does not wait for its
 * threads, and libcrypto's global state may go while they, or what the program does at its end, are
 * still inside the library. So: ask between enter and leave. What was made before may be used and
 * freed at any time. */
#ifndef BASE_CRYPTO_H
#define BASE_CRYPTO_H

#include "base/status.h"

/* TUTTI_ERR_SYSTEM once it is gone; nothing is to be left then. One thread at a time is inside. */
tutti_status crypto_enter(void);
void crypto_leave(void);

#endif
