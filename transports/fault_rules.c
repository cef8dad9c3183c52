/* fault_rules.c: see fault_rules.h. */
#include "transports/fault_rules.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/settings.h"

/* Cuts the next piece off *text at one of the separators; false at the end. */
static bool cut(char **text, char separator, char **piece)
{
    if (!*text)
        return false;
    *piece = *text;
    char *end = strchr(*text, separator);
    if (end)
        *end = '\0';
    *text = end ? end + 1 : NULL;
    return true;
}

static bool parse_number(const char *text, uint64_t *value, const char **rest)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    *value = strtoull(text, &end, 10);
    *rest = end;
    return true;
}

static bool parse_status(const char *text, uint64_t *value)
{
    static const struct {
        const char *name;
        tutti_status status;
    } names[] = {
#define X(name, value, text) {#name, TUTTI_##name},
        TUTTI_STATUS_LIST(X)
#undef X
    };
    for (size_t i = 2; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i].name, text) == 0) {
            *value = names[i].status;
            return true;
        }
    }
    return false;
}

static bool parse_time(const char *text, uint64_t *ns)
{
    const char *unit;
    if (!parse_number(text, ns, &unit))
        return false;
    uint64_t scale = strcmp(unit, "us") == 0   ? 1000
                     : strcmp(unit, "ms") == 0 ? 1000000
                     : strcmp(unit, "s") == 0  ? 1000000000
                                               : 0;
    *ns *= scale;
    return scale != 0;
}

static bool parse_action(const char *text, struct fault_rule *rule)
{
    static const char *const words[] = {"delay:", "fail",    "drop",    "stall",
                                        "short",  "refuse:", "reorder", "seed:"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t len = strlen(words[i]);
        const char *rest = text + len;
        if (strncmp(text, words[i], len) != 0)
            continue;
        rule->action = (enum fault_action)i;
        switch (rule->action) {
        case FAULT_DELAY:
            return parse_time(rest, &rule->value);
        case FAULT_FAIL:
            rule->value = TUTTI_ERR_PEER;
            return *rest == '\0' || (*rest == ':' && parse_status(rest + 1, &rule->value));
        case FAULT_REFUSE:
            return strcmp(rest, "connect") == 0;
        case FAULT_SEED:
            return parse_number(rest, &rule->value, &rest) && *rest == '\0';
        default:
            return *rest == '\0';
        }
    }
    return false;
}

static bool parse_condition(const char *text, struct fault_rule *rule)
{
    const char *equals = strchr(text, '='), *rest;
    uint64_t value;
    if (strcmp(text, "send") == 0) {
        rule->recvs = false;
        return true;
    }
    if (strcmp(text, "recv") == 0) {
        rule->sends = false;
        return true;
    }
    if (!parse_number(equals ? equals + 1 : text, &value, &rest))
        return false;
    if (!equals) {
        rule->percent = (uint32_t)value;
        return strcmp(rest, "%") == 0 && value <= 100;
    }
    size_t len = (size_t)(equals - text);
    bool is_op = len == 2 && strncmp(text, "op", 2) == 0;
    if (is_op || (len == 4 && strncmp(text, "from", 4) == 0)) {
        rule->op_first = value;
        rule->op_last = is_op ? value : UINT64_MAX;
        return *rest == '\0' && value > 0;
    }
    int64_t *place = len == 4 && strncmp(text, "rank", 4) == 0   ? &rule->rank
                     : len == 4 && strncmp(text, "peer", 4) == 0 ? &rule->peer
                     : len == 4 && strncmp(text, "lane", 4) == 0 ? &rule->lane
                                                                 : NULL;
    if (!place || *rest != '\0' || value > UINT32_MAX)
        return false;
    *place = (int64_t)value;
    return true;
}

tutti_status fault_rules_read(const char *text, struct fault_rules *rules)
{
    char copy[SETTING_TEXT_MAX], *left = copy, *clause;
    if (strlen(text) >= sizeof copy)
        return fail(TUTTI_ERR_SETTING, "TUTTI_FAULT is longer than %zu bytes", sizeof copy - 1);
    memcpy(copy, text, strlen(text) + 1);
    while (cut(&left, ';', &clause)) {
        if (*clause == '\0')
            continue;
        char *conditions = clause, *action, *condition;
        struct fault_rule rule = {.percent = 100,
                                  .op_first = 1,
                                  .op_last = UINT64_MAX,
                                  .rank = -1,
                                  .peer = -1,
                                  .lane = -1,
                                  .sends = true,
                                  .recvs = true};
        cut(&conditions, '@', &action);
        bool good = parse_action(action, &rule) && rules->count < FAULT_RULES_MAX;
        while (good && cut(&conditions, ',', &condition))
            good = parse_condition(condition, &rule);
        if (!good)
            return fail(TUTTI_ERR_SETTING,
                        "TUTTI_FAULT=%s: \"%s\" is no fault, or one of its conditions is none: "
                        "expected, for example, delay:50us@10%%;drop@op=100,peer=2",
                        text, action);
        if (rule.action == FAULT_SEED)
            rules->seed = rule.value;
        else
            rules->all[rules->count++] = rule;
    }
    return TUTTI_OK;
}
