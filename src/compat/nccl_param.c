/* nccl_param.c: parameters by name: the settings of this library, as the environment has them now.
 * A handle is the address of a setting's name, which is constant, and is looked for among those
 * before it is believed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nccl_face.h"

#define PARAM_TEXT_MAX 1024 /* of a value; the library's own settings have 255 characters */
#define PARAM_KEYS_MAX 256  /* several times what there are */

static const char *find(const char *key)
{
    const char *name;
    for (size_t i = 0; (name = tutti_setting_name(i)) != NULL; i++) {
        if (strcmp(name, key) == 0)
            return name;
    }
    return NULL;
}

/* The name that a handle stands for; NULL if it is none. */
static const char *name_of(ncclParamHandle_t handle)
{
    const char *name;
    for (size_t i = 0; (name = tutti_setting_name(i)) != NULL; i++) {
        if ((const void *)name == (const void *)handle)
            return name;
    }
    return NULL;
}

static ncclResult_t read_value(ncclParamHandle_t handle, const void *out, const char *caller,
                               char text[static PARAM_TEXT_MAX])
{
    const char *name = name_of(handle);
    if (!out)
        return face_fail(ncclInvalidArgument, "%s: out is NULL", caller);
    if (!name)
        return face_fail(ncclInvalidArgument, "%s: the handle was not made by ncclParamBind",
                         caller);
    face_settings();
    return face_result(tutti_setting_get(name, text, PARAM_TEXT_MAX));
}

/* Whether the text is a number, or yes or no; those of settings are never below zero. */
static bool is_number(const char *text, uint64_t *number)
{
    char *end;
    if (strcmp(text, "yes") == 0 || strcmp(text, "no") == 0) {
        *number = text[0] == 'y';
        return true;
    }
    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    *number = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0';
}

/* Into an integer of that size, which holds `most` at most. */
static ncclResult_t get_number(ncclParamHandle_t handle, void *out, size_t size, uint64_t most,
                               const char *caller)
{
    char text[PARAM_TEXT_MAX];
    uint64_t number;
    ncclResult_t result = read_value(handle, out, caller, text);
    if (result != ncclSuccess)
        return result;
    if (!is_number(text, &number))
        return face_fail(ncclInvalidArgument,
                         "%s: %s is \"%.80s\", no number: read it with ncclParamGetStr", caller,
                         name_of(handle), text);
    if (number > most)
        return face_fail(ncclInvalidArgument,
                         "%s: %s is %llu, more than the %llu that the type holds: read it with "
                         "ncclParamGetU64",
                         caller, name_of(handle), (unsigned long long)number,
                         (unsigned long long)most);
    if (size == sizeof(uint8_t))
        *(uint8_t *)out = (uint8_t)number;
    else if (size == sizeof(uint16_t))
        *(uint16_t *)out = (uint16_t)number;
    else if (size == sizeof(uint32_t))
        *(uint32_t *)out = (uint32_t)number;
    else
        *(uint64_t *)out = number;
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclParamBind, (ncclParamHandle_t * out, const char *key))
{
    if (!out || !key)
        return face_fail(ncclInvalidArgument, "ncclParamBind: %s is NULL", out ? "key" : "out");
    const char *name = find(key);
    if (!name)
        return face_fail(ncclInvalidArgument,
                         "ncclParamBind: there is no parameter %.80s: "
                         "ncclParamGetAllParameterKeys tells all",
                         key);
    *out = (ncclParamHandle_t)(uintptr_t)name;
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclParamGetI8, (ncclParamHandle_t h, int8_t *out))
{
    return get_number(h, out, sizeof *out, INT8_MAX, "ncclParamGetI8");
}

NCCL_FACE(ncclResult_t, ncclParamGetI16, (ncclParamHandle_t h, int16_t *out))
{
    return get_number(h, out, sizeof *out, INT16_MAX, "ncclParamGetI16");
}

NCCL_FACE(ncclResult_t, ncclParamGetI32, (ncclParamHandle_t h, int32_t *out))
{
    return get_number(h, out, sizeof *out, INT32_MAX, "ncclParamGetI32");
}

NCCL_FACE(ncclResult_t, ncclParamGetI64, (ncclParamHandle_t h, int64_t *out))
{
    return get_number(h, out, sizeof *out, INT64_MAX, "ncclParamGetI64");
}

NCCL_FACE(ncclResult_t, ncclParamGetU8, (ncclParamHandle_t h, uint8_t *out))
{
    return get_number(h, out, sizeof *out, UINT8_MAX, "ncclParamGetU8");
}

NCCL_FACE(ncclResult_t, ncclParamGetU16, (ncclParamHandle_t h, uint16_t *out))
{
    return get_number(h, out, sizeof *out, UINT16_MAX, "ncclParamGetU16");
}

NCCL_FACE(ncclResult_t, ncclParamGetU32, (ncclParamHandle_t h, uint32_t *out))
{
    return get_number(h, out, sizeof *out, UINT32_MAX, "ncclParamGetU32");
}

NCCL_FACE(ncclResult_t, ncclParamGetU64, (ncclParamHandle_t h, uint64_t *out))
{
    return get_number(h, out, sizeof *out, UINT64_MAX, "ncclParamGetU64");
}

NCCL_FACE(ncclResult_t, ncclParamGetStr, (ncclParamHandle_t h, const char **out))
{
    static _Thread_local char text[PARAM_TEXT_MAX];
    ncclResult_t result = read_value(h, out, "ncclParamGetStr", text);
    if (result == ncclSuccess)
        *out = text;
    return result;
}

NCCL_FACE(ncclResult_t, ncclParamGet, (ncclParamHandle_t h, void *out, int maxLen, int *len))
{
    char text[PARAM_TEXT_MAX];
    uint64_t number;
    const char *caller = "ncclParamGet";
    if (!len)
        return face_fail(ncclInvalidArgument, "%s: len is NULL", caller);
    ncclResult_t result = read_value(h, out, caller, text);
    if (result != ncclSuccess)
        return result;
    bool is = is_number(text, &number);
    int bytes = is ? (int)sizeof number : (int)strlen(text) + 1;
    *len = bytes;
    if (maxLen < bytes)
        return face_fail(ncclInvalidArgument, "%s: %s has %d bytes, and maxLen is %d", caller,
                         name_of(h), bytes, maxLen);
    memcpy(out, is ? (const void *)&number : text, (size_t)bytes);
    return ncclSuccess;
}

NCCL_FACE(ncclResult_t, ncclParamGetParameter, (const char *key, const char **value, int *valueLen))
{
    static _Thread_local char text[PARAM_TEXT_MAX];
    const char *caller = "ncclParamGetParameter";
    if (!key || !value || !valueLen)
        return face_fail(ncclInvalidArgument, "%s: %s is NULL", caller,
                         !key     ? "key"
                         : !value ? "value"
                                  : "valueLen");
    if (!find(key))
        return face_fail(ncclInvalidArgument,
                         "%s: there is no parameter %.80s: ncclParamGetAllParameterKeys tells all",
                         caller, key);
    face_settings();
    ncclResult_t result = face_result(tutti_setting_get(key, text, sizeof text));
    if (result == ncclSuccess) {
        *value = text;
        *valueLen = (int)strlen(text);
    }
    return result;
}

NCCL_FACE(ncclResult_t, ncclParamGetAllParameterKeys, (const char ***table, int *tableLen))
{
    static _Thread_local const char *keys[PARAM_KEYS_MAX];
    int count = 0;
    if (!table || !tableLen)
        return face_fail(ncclInvalidArgument, "ncclParamGetAllParameterKeys: %s is NULL",
                         table ? "tableLen" : "table");
    while (count < PARAM_KEYS_MAX && (keys[count] = tutti_setting_name((size_t)count)) != NULL)
        count++;
    *table = keys;
    *tableLen = count;
    return ncclSuccess;
}

NCCL_FACE(void, ncclParamDumpAll, (void))
{
    face_settings();
    tutti_settings_log();
}
