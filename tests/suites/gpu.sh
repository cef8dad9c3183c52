#!/usr/bin/env bash
# The GPU's own suite where this machine has a GPU (tests/gpu/run), and what of it runs over the
# stand-in driver everywhere: the NCCL face call by call, coll_perf on GPU memory, and the probes; and
# what the scripts of tests/gpu say of programs that fail, skip or are missing.
#   BUILD: build directory (default build)
#   FAST=1: fewer ranks, no probe, nothing packed
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
standin=$PWD/$build/tests/libcuda_standin.so
export work standin

if [ ! -f "$standin" ]; then
    echo "    SKIPPED: this build has no stand-in driver: it found no C++ compiler for the kernels"
    echo "suite gpu: 0 passed, 0 failed, 1 skipped"
    exit 0
fi

run() { # name text command...
    local name=$1 text=$2 status
    shift 2
    # 80: the small calls go through the host, the large ones are direct, as in tests/gpu/run.
    timeout -k 2 120 env TUTTI_CUDA_DRIVER="$standin" TUTTI_CUDA_DIRECT_MIN=80 \
        TUTTI_TEST_STANDIN_CHANNELS=64 "$@" >"$work/out" 2>&1
    status=$?
    if [ $status -eq 0 ] && grep -qF -- "$text" "$work/out"; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name (status $status)"
        tail -n 15 "$work/out" | sed 's/^/    /'
    fi
}

every=("$build/perf/coll_perf" all -b 64 -e 8K -f 128 -n 1 -w 0 --memory cuda)
types="float32,bfloat16,int8" ops="sum,avg,max,premulsum"
[ -n "${FAST:-}" ] && types=float32 ops=sum,avg
run "coll_perf, 2 processes, GPU memory" "memory cuda" \
    "${every[@]}" --ranks 2 -d $types -o $ops
run "coll_perf, 3 threads, GPU memory" "memory cuda" \
    "${every[@]}" --threads 3 -d $types -o $ops
if [ -x "$build/tests/gpu_nccl" ]; then
    run "nccl, every call, 2 processes" "0 wrong" "$build/tests/gpu_nccl" processes 2
    [ -n "${FAST:-}" ] || run "nccl, every call, 4 threads" "0 wrong" "$build/tests/gpu_nccl" threads 4
else
    echo "    SKIPPED: this build has no NCCL face"
    skipped=$((skipped + 1))
fi
run "probe of small copies, 2 threads" "the least" "$build/tests/gpu_ways" threads 2
[ -n "${FAST:-}" ] || run "probe of the driver" "| frees memory |" "$build/tests/gpu_probe"

# ---- the scripts of tests/gpu ---------------------------------------------------------------------

mkdir -p "$work/nvidia" "$work/dxg" "$work/none"
touch "$work/nvidia/nvidia0" "$work/dxg/dxg" "$work/none/nvidiactl"
run "a GPU of NVIDIA's device files, or of a Windows host's" "yes yes no" bash -c \
    '. tests/gpu/packed.sh; for d in nvidia dxg none; do gpu_is_there "$0/$d" && echo -n "yes " || echo no; done' "$work"

# Programs as gpu/pack leaves them, but fakes: this one says something beside its results, and may fail.
mkdir -p "$work/fake/gpu/perf" "$work/fake/lib"
cat >"$work/fake/gpu/perf/coll_perf" <<'END'
#!/bin/sh
echo "# coll_perf, all its options"
echo "coll_perf: a sentence" >&2
for coll in "$1" "$2" "$3" "$4" "$5"; do
    echo "# Collective: $coll"
    echo "   268435456      67108864     float     sum      -1    100.0    2.68    5.37    N/A"
done
exit ${FAILS:-0}
END
chmod +x "$work/fake/gpu/perf/coll_perf"
run "gpu/run, coll_perf: its rows, and what else it says" "10 rows, 2 sentences" \
    env PACKED="$work/fake" DRIVER="$standin" bash -c 'tests/gpu/run coll_perf || exit
        echo "$(grep -c "^| 2 .* coll_perf .* 2.68 GB/s" "$PACKED/gpu/gpu-logs/figures.md") rows," \
             "$(cat "$PACKED"/gpu/gpu-logs/coll_perf*.log | grep -c "^coll_perf: a sentence$") sentences"'
run "gpu/run, coll_perf: why it failed" "| coll_perf: a sentence" \
    env PACKED="$work/fake" DRIVER="$standin" FAILS=1 bash -c '! tests/gpu/run coll_perf'
mkdir "$work/fake/gpu/tests"
printf '#!/bin/sh\necho "  Test: one ...FAILED\n    1. one.c:7  - 1 == 2"\nseq 100\nexit 1\n' >"$work/fake/gpu/tests/test_cuda"
printf '#!/bin/sh\necho "suite within: 0 passed, 0 failed, 9 skipped\nsuite transfers: 1 passed, 0 failed, 1 skipped"\n' \
    >"$work/fake/gpu/tests/test_transfers"
chmod +x "$work/fake/gpu/tests"/*
run "gpu/run, a test that failed long before the end" "|     1. one.c:7  - 1 == 2" \
    env PACKED="$work/fake" DRIVER="$standin" bash -c '! tests/gpu/run "unit cuda"'
run "gpu/run, a suite within one that ran nothing" "2 passed, 0 failed" \
    env PACKED="$work/fake" DRIVER="$standin" tests/gpu/run "unit transfers"
run "gpu/run, a program that was not built" "SKIPPED: this build has no NCCL face" \
    env PACKED="$work/fake" DRIVER="$standin" tests/gpu/run "unit nccl_gpu"
mkdir -p "$work/fake/tune-base/perf"
cp "$work/fake/gpu/perf/coll_perf" "$work/fake/tune-base/perf"
tune=(env PACKED="$work/fake" DRIVER="$standin" bash -c)
run "gpu/tune, settings: a log of each" "48 logs, 6 of direct 16M" \
    "${tune[@]}" 'tests/gpu/tune settings && cd "$PACKED/tune-logs" && grep -l a.sentence ./*.log |
        awk "/direct 16M/ {of++} END {print NR \" logs, \" of \" of direct 16M\"}"'
run "gpu/tune, settings: those that fail" "48 runs FAILED" \
    "${tune[@]}" 'FAILS=1 tests/gpu/tune settings >"$work/tuned"; [ $? -eq 1 ] && tail -n 2 "$work/tuned"'
run "gpu/tune, settings: why they failed" "FAILED: ring 64M, --ranks 8: " \
    grep '^FAILED.*: coll_perf: a sentence$' "$work/tuned"

# PyTorch as a script: broken, or run over a library that says its version for so many ranks, whose name
# is the word in TORCH.
mkdir -p "$work/python" "$work/fake/gpu/src/compat"
touch "$work/fake/gpu/src/compat/libnccl.so.2"
cat >"$work/python/python3" <<END
#!/bin/sh
echo "\$*" >>"$work/python/asked"
if [ "\$TORCH" = broken ]; then
    echo "Traceback (most recent call last):" >&2
    echo "ImportError: libfoo.so: cannot open shared object file" >&2
    exit 1
fi
[ "\$1" = -c ] && exit
echo "host:7 NCCL version 2.32.3\$TORCH" >&2
[ "\$2" = 2 ] && echo "host:8 NCCL version 2.32.3\$TORCH" >&2
echo "ok: \$2 ranks"
END
chmod +x "$work/python/python3"
torch() { # name text torch step status
    run "$1" "$2" env PATH="$work/python:$PATH" PACKED="$work/fake" DRIVER="$standin" TORCH="$3" bash -c \
        'tests/gpu/run "$1"; [ $? -eq "$2" ] && echo "PyTorch was imported $(grep -c "import torch" "$0/python/asked") times"' \
        "$work" "$4" "$5"
}
: >"$work/python/asked"
torch "gpu/run does not import PyTorch for nobody" "imported 0 times" broken "coll_perf, 2 threads" 0
torch "gpu/run, PyTorch: once" "imported 1 times" +tutti0.1.0 "2 ranks" 0
torch "gpu/run, PyTorch: ranks whose library is another" "| of 4 ranks 1 have called Tutti" +tutti0.1.0 "collectives, 4 ranks" 1
torch "gpu/run, PyTorch: a library that is another" "| of 2 ranks 0 have called Tutti" +cuda13.0 "fresh" 1
torch "gpu/run, PyTorch: why it is skipped" "SKIPPED: python3 -c 'import torch': ImportError: libfoo.so: cannot" broken torch 0

mkdir -p "$work/built/gpu" "$work/built/lib"
ln -s "$PWD/$build/tests" "$PWD/$build/src" "$PWD/$build/perf" "$work/built/gpu"
run "gpu/run, a suite that ran" "2 passed, 0 failed, 0 skipped" \
    env PACKED="$work/built" DRIVER="$standin" tests/gpu/run "unit stream_graphs"
run "gpu/run, a suite that ran nothing" "nothing ran: SKIPPED: $standin: there is no GPU" \
    env PACKED="$work/built" DRIVER="$standin" TUTTI_TEST_STANDIN_DEVICES=0 bash -c '! tests/gpu/run "unit stream_graphs"'

# Where meson and ninja are these, pack has the programs of this build, and tells what it asks of meson.
if [ -z "${FAST:-}" ]; then
    mkdir "$work/bin"
    cat >"$work/bin/meson" <<END
#!/bin/sh
echo "\$*" >>"$work/asked"
[ "\$1" = configure ] && exit
mkdir "\$2" && touch "\$2/build.ninja" && ln -s "$PWD/$build"/[lpst]* "\$2/"
END
    printf '#!/bin/sh\n' >"$work/bin/ninja"
    chmod +x "$work/bin"/*
    pack=(env PATH="$work/bin:$PATH" BUILD="$work/pack" tests/gpu/pack "$work/archive")
    run "gpu/pack" archive "${pack[@]}"
    run "gpu/pack: a suite that needs both libraries" "unit nccl_gpu" \
        bash -c 'python3 -m tarfile -e "$work/archive" "$work" && PACKED=$work/packed DRIVER=$standin tests/gpu/run nccl_gpu'
    run "gpu/pack: other capability, where directories are" "9 times, 8 variants" \
        bash -c ': >"$work/asked"; ARCH=80 "$@" || exit
            echo "$(grep -c "^configure .*-Dgpu_arch=80" "$work/asked") times," \
                 "$(tar -tf "$work/archive" | grep -c "^packed/tune-.*/coll_perf$") variants"' pack "${pack[@]}"
    rm "$work/pack/perf" && mkdir "$work/pack/perf"
    echo 'int gone(void) { return 0; }' | cc -shared -o "$work/libgone.so" -x c -
    echo 'int gone(void); int main(void) { return gone(); }' |
        cc -o "$work/pack/perf/coll_perf" -x c - -x none "$work/libgone.so"
    rm "$work/libgone.so"
    run "gpu/pack: a library that is not there" "need what is not packed: $work/libgone.so => not found" \
        bash -c '! "$@"' pack "${pack[@]}"
fi

# The whole of tests/gpu/run takes minutes where there is a GPU: not in fast runs.
if [ -z "${FAST:-}" ]; then
    tests/gpu/run >"$work/gpu" 2>&1
    cat "$work/gpu"
    read -r p f s < <(sed -nE 's/^suite gpu: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped/\1 \2 \3/p' "$work/gpu")
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1})) skipped=$((skipped + ${s:-0}))
fi
echo "suite gpu: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
