#!/usr/bin/env bash
# The NCCL face from outside: what libnccl.so.2 exports, what its header says, and programs that
# reach it as NCCL's do: linked, preloaded, loaded by name.
#   BUILD: build directory (default build)
#   NCCL_HOME, CUDA_HOME: where NVIDIA's headers are, if not in the usual places
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
names="AllGather AllReduce AlltoAll Bcast Broadcast CommAbort CommCount CommCuDevice CommDeregister
    CommDestroy CommFinalize CommGetAsyncError CommGetUniqueId CommGrow CommInitAll CommInitRank
    CommInitRankConfig CommInitRankScalable CommRegister CommRevoke CommShrink CommSplit CommUserRank
    CommWindowDeregister CommWindowRegister Gather GetErrorString GetLastError GetUniqueId GetVersion
    GroupEnd GroupSimulateEnd GroupStart MemAlloc MemFree Recv RedOpCreatePreMulSum RedOpDestroy
    Reduce ReduceScatter ResetDebugInit Scatter Send
    DevCommCreate DevCommDestroy GinBarrierCreateRequirement LLA2ACalcSlots LLA2ACreateRequirement
    LsaBarrierCreateRequirement TeamLsa TeamRail TeamRankToLsa TeamRankToWorld TeamWorld"

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

try "exports: 54 weak names, 54 strong twins, one more" exports
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

# A directory that holds both of NVIDIA's headers' names, or the two that do.
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
nvidia=$(find_header nccl.h "${NCCL_HOME:-/nonexistent}/include" "${CUDA_HOME:-/nonexistent}/include" \
    /usr/include /usr/local/include /usr/local/cuda/include "${places[@]+"${places[@]}"}")
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
same_initializers() {
    cc -std=c11 -w -DNVIDIA -I"$nvidia" -I"$cuda" -c tests/nccl_facts.c -o "$work/theirs.o" &&
        objcopy -O binary --only-section=.rodata "$work/ours.o" "$work/ours" &&
        objcopy -O binary --only-section=.rodata "$work/theirs.o" "$work/theirs" &&
        [ -s "$work/ours" ] && cmp "$work/ours" "$work/theirs"
}
if [ -n "$nvidia" ] && [ -n "$cuda" ] && grep -q 'define NCCL_VERSION_CODE 22809' "$nvidia/nccl.h"; then
    try "facts: the same of NVIDIA's header, and the same initializers" same_initializers
else
    skip "NVIDIA's nccl.h of version 2.28.9, or cuda_runtime.h, is not on this machine (NCCL_HOME, CUDA_HOME)"
fi

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
        [ "$("$work/asks")" = 1 ] && [ "$(LD_PRELOAD=$so "$work/asks")" = 22809 ]
}
try "preloaded in front of another libnccl.so.2" preloaded

by_name() {
    LD_PRELOAD=$so python3 - <<'P'
import ctypes
lib, version = ctypes.CDLL("libnccl.so.2"), ctypes.c_int()
assert lib.ncclGetVersion(ctypes.byref(version)) == 0 and version.value == 22809, version.value
lib.ncclGetErrorString.restype = ctypes.c_char_p
assert lib.ncclGetErrorString(0) == b"no error"
P
}
try "preloaded, then opened by name from Python" by_name

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
        TUTTI_CONNECT_TIMEOUT_MS=300 timeout 20 "$work/unloads" "$so"
}
try "unloaded while a call is under way" unloaded

# Settings of the other library mean nothing here (but for NCCL_COMM_ID), and are no error.
quiet_settings() {
    NCCL_DEBUG=INFO NCCL_ALGO=Ring NCCL_P2P_DISABLE=1 NCCL_SOCKET_IFNAME=none LD_LIBRARY_PATH=$lib timeout 60 \
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
