#!/usr/bin/env bash
# What a user does: installs, compiles the README's program with pkg-config, as C and as C++, against
# the shared and the static library, and runs it as the README says. The static library has no names
# but tutti_*. The tools are in bin, and run from wherever the files lie.
#   BUILD: build directory (default build)
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

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

four_ranks() { # program: the README's loop, each rank must say "4 ranks"
    local port=$((20000 + RANDOM % 20000)) pids=() r bad=0
    for r in 0 1 2 3; do
        TUTTI_RENDEZVOUS=localhost:$port TUTTI_RANK=$r TUTTI_SIZE=4 timeout 30 "$1" >"$work/out$r" 2>&1 &
        pids+=($!)
    done
    for r in 0 1 2 3; do
        wait "${pids[$r]}" || bad=1
        cat "$work/out$r"
        grep -qx '4 ranks' "$work/out$r" || bad=1
    done
    return $bad
}

case $build in
*asan* | *tsan* | *coverage*)
    echo "    SKIPPED: an instrumented library needs its runtime; the release build is tested"
    skipped=1
    echo "suite install: $passed passed, $failed failed, $skipped skipped"
    exit 0
    ;;
esac

try "meson install" meson install -C "$build" --destdir "$work/root" --no-rebuild
libdir=$(dirname "$(find "$work/root" -name tutti.pc)")
export PKG_CONFIG_PATH=$libdir PKG_CONFIG_SYSROOT_DIR=$work/root
export LD_LIBRARY_PATH=${libdir%/pkgconfig}
sed -n '/^```c$/,/^```$/{/^```/d;p}' README.md >"$work/hello.c"
flags() { pkg-config --cflags --libs "$@" tutti; }
# shellcheck disable=SC2046
try "the README's program, C" cc -std=c11 -Wall -Wextra -Werror "$work/hello.c" $(flags) -o "$work/hello"
# shellcheck disable=SC2046
try "the README's program, C++" c++ -Wall -Wextra -Werror -x c++ "$work/hello.c" -x none $(flags) -o "$work/hello++"

# Where only the archive is, what pkg-config says must be enough, and a program may have names of its
# own that the library uses inside.
cp -r "$work/root" "$work/archive"
find "$work/archive" -name 'libtutti.so*' -delete
sed '/^int main/i const char *fail(void);\nconst char *fail(void) { return "mine"; }\n' "$work/hello.c" >"$work/own.c"
static_flags() {
    PKG_CONFIG_PATH=${libdir/"$work/root"/"$work/archive"} PKG_CONFIG_SYSROOT_DIR=$work/archive \
        pkg-config --static --cflags --libs tutti
}
# shellcheck disable=SC2046
try "the README's program, static, with a fail() of its own" \
    cc "$work/own.c" $(static_flags) -o "$work/hello-static"
only_ours() {
    local names
    names=$(nm -g --defined-only "$work"/archive/"${libdir#"$work/root"}"/../libtutti.a |
        awk 'NF == 3 && $3 !~ /^tutti_/ { print $3 }') || return 1
    [ -z "$names" ] || { echo "names without the prefix: $names"; return 1; }
    ! ldd "$work/hello-static" | grep tutti
}
try "the archive has no names but tutti_*" only_ours
whole_object() ( # -Db_lto=true takes minutes: the command alone, over a little archive
    mkdir "$work/lto" && cd "$work/lto" || exit 1
    echo '__attribute__((visibility("hidden"))) int fail(void) { return 1; }' >fail.c
    "${make%% *}" -flto -c fail.c && gcc-ar crs libtutti_internal.a fail.o && eval "$make" || exit 1
    ! readelf -S tutti.o | grep gnu.lto
)
make=$(ninja -C "$build" -t commands tutti.o | tail -n 1)
if "${make%% *}" --version | grep -q clang; then
    skipped=$((skipped + 1)); echo "  SKIPPED: link-time optimisation: clang's command has it with -Db_lto=true only"
else
    try "objects for link-time optimisation become code in the archive" whole_object
fi
nccl_dir() { # where pkg-config says, there it is
    [ ! -f "$build/src/compat/libnccl.so.2" ] ||
        [ -f "$work/root$(PKG_CONFIG_SYSROOT_DIR= pkg-config --variable=nccldir tutti)/libnccl.so.2" ]
}
try "pkg-config knows where the NCCL face is" nccl_dir
bin=$work/moved/bin
three_tools() { # no more: those that compare with other libraries would need them
    local prefix
    prefix=$(dirname "$(dirname "$(find "$work/root" -name coll_perf)")")
    [ "$(ls "$prefix/bin" | tr '\n' ' ')" = "coll_perf coll_plan link_perf " ] || return 1
    [ "$(ls "$prefix/share/man/man1" | tr '\n' ' ')" = "coll_perf.1 coll_plan.1 link_perf.1 " ] || return 1
    cp -r "$prefix" "$work/moved"
}
try "the tools are installed, with their pages" three_tools
alone() { # command...: without a path to the library
    env -u LD_LIBRARY_PATH timeout 60 "$@"
}
no_tutti() { # they need neither the library's place nor anybody's MPI
    local tool
    for tool in "$bin"/*; do
        readelf -d "$tool" >"$work/dynamic" || return 1
        ! grep -E 'RPATH|RUNPATH|NEEDED.*(tutti|mpi|gloo)' "$work/dynamic" || return 1
    done
}
try "the tools have the library inside" no_tutti
installed() { # text command...
    local text=$1
    shift
    alone "$@" >"$work/tool" 2>&1
    cat "$work/tool"
    grep -qF -- "$text" "$work/tool"
}
try "coll_perf --settings" installed TUTTI_TRANSPORTS "$bin/coll_perf" --settings
try "coll_perf" installed "Out of bounds values : 0 OK" "$bin/coll_perf" allreduce --ranks 2 -b 8 -e 4K -n 2
try "coll_perf --peer, not installed" installed "is built (not installed) where Open MPI is found" \
    "$bin/coll_perf" allreduce --ranks 2 --peer mpi
try "coll_plan" installed "1 algorithm proved, 0 failed" "$bin/coll_plan" verify allreduce:ring --ranks 4 --effort 100
try "link_perf" installed "# shm    measured" "$bin/link_perf" -e 64 shm
inside() { # the README's program against the build directory, which is not installed
    local flags
    flags=$(PKG_CONFIG_PATH=$build/meson-uninstalled PKG_CONFIG_SYSROOT_DIR= flags) || return 1
    # shellcheck disable=SC2086
    cc "$work/hello.c" $flags -o "$work/hello-inside" &&
        [ "$(LD_LIBRARY_PATH=$build "$work/hello-inside")" = "1 ranks" ]
}
try "the README's program, from the build directory" inside
try "four ranks by hand" four_ranks "$work/hello"
try "four ranks by hand, C++" four_ranks "$work/hello++"
try "four ranks by hand, static" four_ranks "$work/hello-static"
echo "suite install: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
