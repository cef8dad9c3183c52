/* table.c: every transport, best first. A new one is a line here and a line in meson.build. */
#include <string.h>

#include "transports/local.h"
#include "transports/tcp.h"

/* A line each: */
/* clang-format off */
const struct transport_ops *const transport_table[] = {
    &inproc_ops, &shm_ops,
#ifdef TUTTI_WITH_VERBS
    &ib_ops,     &roce_ops, &iwarp_ops,
#endif
    &tcp_ops,    NULL,
};
/* clang-format on */

const struct transport_ops *transport_find(const char *name)
{
    for (size_t i = 0; transport_table[i]; i++) {
        if (strcmp(transport_table[i]->name, name) == 0)
            return transport_table[i];
    }
    return NULL;
}
