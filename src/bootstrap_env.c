/* bootstrap_env.c: see below. */
#include "src/bootstrap_meet.h"
tutti_status bootstrap_from_env(const struct settings *settings, struct bootstrap **bootstrap)
{
    struct meeting meeting = {0};
    return bootstrap_meet(settings, &meeting, 0, 1, bootstrap);
}
