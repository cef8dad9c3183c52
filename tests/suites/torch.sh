#!/usr/bin/env bash
# The PyTorch backend (src/compat/torch), built as its users build it against an installed Tutti, and
# run by tests/torch/ranks.py, a process a rank.
#   BUILD: build directory (default build)
#   TORCH_PYTHON: the Python with PyTorch 2 and setuptools (default python3)
#   FAST=1: 2 ranks only
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
python=${TORCH_PYTHON:-python3}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

finish() {
    echo "suite torch: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
    exit
}

skip() {
    skipped=1
    echo "    SKIPPED: $1"
    finish
}

try() { # name command...
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name"
        sed 's/^/    /' "$work/log" | tail -n 40
    fi
}

case $build in
*asan* | *tsan* | *coverage*) skip "an instrumented library needs its runtime in Python: the release build is tested" ;;
esac
"$python" -c 'import setuptools, torch; assert int(torch.__version__[0]) >= 2' >/dev/null 2>&1 ||
    skip "PyTorch 2 is not installed (python3 -m venv DIR && DIR/bin/pip install torch setuptools, TORCH_PYTHON=DIR/bin/python)"

build_it() {
    meson install -C "$build" --destdir "$work/root" --no-rebuild || return
    local pc
    pc=$(find "$work/root" -name tutti.pc)
    cp -r src/compat/torch "$work/torch" || return
    (cd "$work/torch" && PKG_CONFIG_PATH=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$work/root \
        "$python" setup.py build_ext --inplace) || return
    export PYTHONPATH=$work/torch
    ! grep -q 'warning:' "$work/log"
}

job() { # ranks case...
    local ranks=$1 port=$((20000 + RANDOM % 10000)) pids=() r bad=0
    shift
    for r in $(seq 0 $((ranks - 1))); do
        OMP_NUM_THREADS=1 RANK=$r WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
            timeout -k 2 150 "$python" -W ignore tests/torch/ranks.py "$@" &
        pids+=($!)
    done
    for r in "${pids[@]}"; do
        wait "$r" || bad=1
    done
    return $bad
}

try "built against PyTorch" build_it
[ $failed -eq 0 ] || finish
cases="types collectives uneven layouts transfers async fork groups again patience refused ddp fsdp"
[ "${FAST:-0}" = 1 ] && sizes=2 || sizes="1 2 3 4"
for ranks in $sizes; do
    # shellcheck disable=SC2086
    try "$ranks ranks: $cases" job "$ranks" $cases
done
try "2 ranks that leave in a callback" job 2 leaves
try "3 ranks that disagree" job 3 disagree
try "3 ranks, one of which dies" job 3 dies
finish
