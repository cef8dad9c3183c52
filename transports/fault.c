/* fault.c: see fault_wrap in transport.h. */
#include "transports/transport.h"

tutti_status fault_wrap(struct transport *inner, const struct transport_config *config,
                        const char *text, struct transport **transport)
{
    return fail(TUTTI_ERR_UNSUPPORTED, "TUTTI_FAULT=%s: faults are not built in", text);
}
