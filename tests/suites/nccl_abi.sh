#!/usr/bin/env bash
# The NCCL face from outside: what libnccl.so.2 exports, what its header says, and programs that
# reach it as NCCL's do: linked, preloaded, loaded by name.
#   BUILD: build directory (default build)
#   NCCL_HOME, CUDA_HOME: where NVIDIA's headers are, if not in the usual places; of NCCL_HOME there may be
#       several, with colons between them, of any versions
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$PWD/${BUILD:-build}
lib=$build/src/compat
so=$lib/libnccl.so.2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

finish() {
    echo "suite nccl_abi: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
    exit
}

try() { # name command...
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "  ok      $name"
    else
        failed=$((failed + 1))
        echo "  FAILED  $name"
        sed 's/^/    /' "$work/log" | tail -n 30
    fi
}

skip() { # reason
    skipped=$((skipped + 1))
    echo "    SKIPPED: $1"
}

if [ ! -e "$so" ]; then
    skip "libnccl.so.2 is not built (-Dnccl=false)"
    finish
fi

# ---- the library ---------------------------------------------------------------------------------

# Those of the public header, then the host side of the device interface.
names="AllGather AllGatherConfig AllReduce AllReduceConfig AlltoAll AlltoAllConfig Bcast Broadcast
    BroadcastConfig CommAbort CommCount CommCuDevice CommDeregister CommDestroy CommFinalize
    CommGetAsyncError CommGetUniqueId CommGrow CommInitAll CommInitRank CommInitRankConfig
    CommInitRankScalable CommMemStats CommRegister CommResume CommRevoke CommShrink CommSplit
    CommSuspend CommUserRank CommWindowDeregister CommWindowRegister Gather GatherConfig GetErrorString
    GetLastError GetUniqueId GetVersion GroupEnd GroupSimulateEnd GroupStart MemAlloc MemFree ParamBind
    ParamDumpAll ParamGet ParamGetAllParameterKeys ParamGetI16 ParamGetI32 ParamGetI64 ParamGetI8
    ParamGetParameter ParamGetStr ParamGetU16 ParamGetU32 ParamGetU64 ParamGetU8 PutSignal Recv
    RedOpCreatePreMulSum RedOpDestroy Reduce ReduceConfig ReduceScatter ReduceScatterConfig
    ResetDebugInit Scatter ScatterConfig Send SetEncryption Signal WaitSignal WinGetUserPtr
    CommQueryProperties DevCommCreate DevCommDestroy GetCftDeviceLeInfo GetLsaDevicePointer
    GetLsaMultimemDevicePointer GetMultimemDeviceLeInfo GetMultimemDevicePointer GetPeerDeviceLeInfo
    GetPeerDevicePointer GinBarrierCreateRequirement GinInboxA2ACreateRequirement
    GinOutboxCreateRequirement LLA2ACalcSlots LLA2ACreateRequirement LsaBarrierCreateRequirement TeamCft
    TeamCftMultimem TeamLsa TeamRail TeamRankToLsa TeamRankToWorld TeamWorld"

# Each name weak, its twin strong, and nothing else.
exports() {
    {
        for name in $names; do
            echo "W nccl$name"
            echo "T pnccl$name"
        done
        echo "T ncclResetDebugInitInternal"
    } | sort >"$work/want"
    nm -D --defined-only "$so" | awk '{print $(NF - 1), $NF}' | grep -v __asan | sort >"$work/have"
    diff "$work/want" "$work/have"
}

soname() {
    readelf -d "$so" | grep -F 'Library soname: [libnccl.so.2]'
}

# A program may define ncclX itself: the library must not call its own through the loader.
not_through_the_loader() {
    ! readelf -rW "$so" | grep -E ' p?nccl[A-Z]'
}

# The driver and NVIDIA's libraries are never linked.
no_driver_needed() {
    ! readelf -d "$so" | grep NEEDED | grep -E 'cuda|cudart|nvidia|libtutti'
}

try "exports: 96 weak names, 96 strong twins, one more" exports
try "SONAME is libnccl.so.2" soname
try "no call of its own through the loader" not_through_the_loader
try "needs no driver and no other library of the project" no_driver_needed

# ---- the header ----------------------------------------------------------------------------------

flags=(-std=c11 -Wall -Wextra -Wpedantic -Werror)
try "facts: layouts, values and signatures of our header" \
    cc "${flags[@]}" -Wno-pedantic -I. -c tests/nccl_facts.c -o "$work/ours.o"
printf '#include "%s/src/compat/nccl.h"\nextern int not_empty;\n' "$PWD" >"$work/alone.c"
try "our header alone, C" cc "${flags[@]}" -fsyntax-only "$work/alone.c"
if command -v c++ >/dev/null; then
    try "our header alone, C++" c++ -std=c++11 -x c++ -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$work/alone.c"
else
    skip "no C++ compiler for our header"
fi

# The first directory that holds a header of that name.
find_header() { # name directories...
    local name=$1 place
    shift
    for place in "$@"; do
        [ -f "$place/$name" ] && echo "$place" && return
    done
}
site=$(python3 -c 'import site; print("\n".join(site.getsitepackages()))' 2>/dev/null)
places=()
for s in $site; do
    places+=("$s"/nvidia/*/include)
done
IFS=: read -ra homes <<<"${NCCL_HOME:-/nonexistent}"
cuda=$(find_header cuda_runtime.h "${CUDA_HOME:-/nonexistent}/include" /usr/local/cuda/include /usr/include \
    "${places[@]+"${places[@]}"}")
# With the toolkit at hand its types come along, by which programs tell what they can use.
printf '%s\n' '#include "'"$PWD"'/src/compat/nccl.h"' '#ifndef __CUDA_BF16_H__' '#error no bfloat16' \
    '#endif' '#if defined(__cplusplus) && !defined(__CUDA_FP8_TYPES_EXIST__)' '#error no fp8' '#endif' \
    'extern cudaStream_t stream;' >"$work/brings.c"
brings_types() {
    cc -std=c11 -Wall -Wextra -Werror -isystem "$cuda" -fsyntax-only "$work/brings.c" &&
        c++ -x c++ -Wall -Wextra -Werror -isystem "$cuda" -fsyntax-only "$work/brings.c"
}
if [ -n "$cuda" ] && [ -f "$cuda/cuda_fp8.h" ] && command -v c++ >/dev/null; then
    try "our header with CUDA's" brings_types
else
    skip "cuda_runtime.h of CUDA 11.8 or later is not on this machine (CUDA_HOME)"
fi
# The facts hold for NVIDIA's header of whatever version; where it is ours, initializers give the same bytes.
version_of() { # directory
    sed -n 's/^#define NCCL_VERSION_CODE \([0-9]*\)$/\1/p' "$1/nccl.h"
}
facts_of() { # directory
    cc -std=c11 -w -DNVIDIA -I"$1" -I"$cuda" -c tests/nccl_facts.c -o "$work/theirs.o" || return 1
    [ "$(version_of "$1")" = "$(version_of src/compat)" ] || return 0
    objcopy -O binary --only-section=.rodata "$work/ours.o" "$work/ours" &&
        objcopy -O binary --only-section=.rodata "$work/theirs.o" "$work/theirs" &&
        [ -s "$work/ours" ] && cmp "$work/ours" "$work/theirs"
}
nvidias=()
for place in "${homes[@]/%//include}" "${CUDA_HOME:-/nonexistent}/include" /usr/include /usr/local/include \
    /usr/local/cuda/include "${places[@]+"${places[@]}"}"; do
    [ -f "$place/nccl.h" ] && [ -n "$cuda" ] && version=$(version_of "$place") && [ "${version:-0}" -ge 22809 ] &&
        nvidias+=("$place")
done
for place in "${nvidias[@]+"${nvidias[@]}"}"; do
    try "facts: the same of NVIDIA's header, version $(version_of "$place")" facts_of "$place"
done
[ ${#nvidias[@]} -gt 0 ] ||
    skip "NVIDIA's nccl.h of version 2.28.9 or later, or cuda_runtime.h, is not on this machine (NCCL_HOME, CUDA_HOME)"

# ---- programs ------------------------------------------------------------------------------------

case $build in
*asan* | *tsan* | *coverage*)
    skip "an instrumented library needs its runtime in the programs: the release build is tested"
    finish
    ;;
esac

# Linked against our header and library, as an NCCL program is built.
linked() {
    cc -std=c11 -Wall -Wextra -Werror -I src/compat examples/nccl.c -L "$lib" -lnccl -o "$work/linked" &&
        LD_LIBRARY_PATH=$lib timeout 60 "$work/linked" | tee "$work/out" && grep -qx '4 ranks, 0 wrong' "$work/out"
}
try "a program linked with -lnccl" linked

# One that was compiled with NVIDIA's header, of whatever version, and gives a configuration of that size.
cat >"$work/configures.c" <<'C'
#include <nccl.h>
int main(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm;
    int in = 7, out = 0, wrong = 0;
    config.blocking = 1;
    wrong += ncclGetUniqueId(&id) != ncclSuccess || ncclCommInitRankConfig(&comm, 1, id, 0, &config) != ncclSuccess;
#ifdef NCCL_COLLCONFIG_INITIALIZER
    ncclCollConfig_t call = NCCL_COLLCONFIG_INITIALIZER;
    wrong += ncclAllReduceConfig(&in, &out, 1, ncclInt32, ncclSum, comm, 0, &call) != ncclSuccess;
#else
    wrong += ncclAllReduce(&in, &out, 1, ncclInt32, ncclSum, comm, 0) != ncclSuccess;
#endif
    wrong += out != 7 || ncclCommDestroy(comm) != ncclSuccess;
    return wrong;
}
C
configures() { # directories of headers...
    cc -std=gnu11 -w "${@/#/-I}" "$work/configures.c" -L "$lib" -lnccl -o "$work/configures" &&
        LD_LIBRARY_PATH=$lib timeout 20 "$work/configures"
}
for place in "${nvidias[@]+"${nvidias[@]}"}"; do
    try "a program compiled with NVIDIA's header, version $(version_of "$place")" configures "$place" "$cuda"
done
in_cxx() {
    c++ -std=c++11 -x c++ -Wall -Wextra -Wpedantic -Werror -I src/compat "$work/configures.c" -x none -L "$lib" -lnccl \
        -o "$work/in_cxx" && LD_LIBRARY_PATH=$lib timeout 20 "$work/in_cxx"
}
if command -v c++ >/dev/null; then
    try "a C++ program linked with -lnccl" in_cxx
else
    skip "no C++ compiler for a program"
fi

# A program built for another libnccl.so.2, which is the one its search path finds.
cat >"$work/other.c" <<'C'
int ncclGetVersion(int *version);
int ncclGetVersion(int *version)
{
    *version = 1;
    return 0;
}
C
cat >"$work/asks.c" <<'C'
#include <stdio.h>
int ncclGetVersion(int *version);
int main(void)
{
    int version = 0;
    return printf("%d\n", ncclGetVersion(&version) == 0 ? version : -1) < 0;
}
C
preloaded() {
    cc -shared -fPIC -Wl,-soname,libnccl.so.2 "$work/other.c" -o "$work/libnccl.so.2" &&
        cc "$work/asks.c" "$work/libnccl.so.2" -Wl,-rpath,"$work" -Wl,--disable-new-dtags -o "$work/asks" &&
        [ "$("$work/asks")" = 1 ] && [ "$(LD_PRELOAD=$so "$work/asks")" = 23203 ]
}
try "preloaded in front of another libnccl.so.2" preloaded

by_name() {
    LD_PRELOAD=$so python3 - <<'P'
import ctypes
lib, version = ctypes.CDLL("libnccl.so.2"), ctypes.c_int()
assert lib.ncclGetVersion(ctypes.byref(version)) == 0 and version.value == 23203, version.value
lib.ncclGetErrorString.restype = ctypes.c_char_p
assert lib.ncclGetErrorString(0) == b"no error"
P
}
try "preloaded, then opened by name from Python" by_name

# Another name of it must not bring in another library, nor the same twice.
by_short_name() {
    LD_LIBRARY_PATH=$lib LD_PRELOAD=$so python3 - <<'P'
import ctypes
names = ("libnccl.so", "libnccl.so.2", None)
found = {ctypes.cast(ctypes.CDLL(name).ncclGetVersion, ctypes.c_void_p).value for name in names}
assert len(found) == 1, found
P
}
try "preloaded, then opened as libnccl.so" by_short_name

# A program that loads the library, gives up a communicator that is being made, and unloads it: the
# thread behind that one ends afterwards.
cat >"$work/unloads.c" <<'C'
#include <dlfcn.h>
#include <unistd.h>

#include "nccl.h"
int main(int argc, char **argv)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclComm_t comm;
    void *lib = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    __typeof__(&ncclGetUniqueId) get_id;
    __typeof__(&ncclCommInitRankConfig) init;
    __typeof__(&ncclCommAbort) give_up;
    if (!lib)
        return 1;
    *(void **)&get_id = dlsym(lib, "ncclGetUniqueId");
    *(void **)&init = dlsym(lib, "ncclCommInitRankConfig");
    *(void **)&give_up = dlsym(lib, "ncclCommAbort");
    config.blocking = 0;
    if (get_id(&id) != ncclSuccess || init(&comm, 2, id, 0, &config) != ncclInProgress ||
        give_up(comm) != ncclSuccess || dlclose(lib) != 0)
        return 1;
    usleep(600000);
    return 0;
}
C
unloaded() {
    cc -std=gnu11 -I src/compat "$work/unloads.c" -o "$work/unloads" -ldl &&
        TUTTI_MEET_TIMEOUT_MS=300 timeout 20 "$work/unloads" "$so"
}
try "unloaded while a call is under way" unloaded

# Settings of the other library that mean nothing here are no error; one that does is followed.
quiet_settings() {
    NCCL_ALGO=Ring NCCL_P2P_DISABLE=1 NCCL_SOCKET_IFNAME=^none NCCL_NTHREADS=64 LD_LIBRARY_PATH=$lib timeout 60 \
        "$work/linked" >"$work/out" 2>&1 && [ "$(cat "$work/out")" = "4 ranks, 0 wrong" ]
}
try "NCCL_* settings are ignored quietly" quiet_settings

# An installation never stands in front of NVIDIA's.
installed() {
    meson install -C "$build" --destdir "$work/root" --no-rebuild >/dev/null || return 1
    local found
    found=$(find "$work/root" -name 'libnccl*' -o -name nccl.h | sed "s|^$work/root||" | sort)
    echo "$found"
    [ "$(grep -c . <<<"$found")" -eq 4 ] && ! grep -vE '/tutti-nccl/' <<<"$found"
}
try "installed in directories of its own" installed
finish
