#!/usr/bin/env bash
# Runs every example the way its first comment says.
#   BUILD: build directory (default build)
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name text-that-must-appear command...
run() {
    local name=$1 text=$2 status
    shift 2
    timeout -k 2 60 "$@" >"$work/out" 2>&1
    status=$?
    if [ $status -eq 0 ] && grep -qF -- "$text" "$work/out"; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name (status $status, expected \"$text\")"
        tail -n 20 "$work/out" | sed 's/^/    /'
    fi
}

# Starts a program once per rank with the variables of TUTTI_RENDEZVOUS; the worst status.
by_hand() { # ranks program
    local ranks=$1 program=$2 port status=0 pids=()
    # a port that is free now; another program could still take it, then the example fails aloud
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    for r in $(seq 0 $((ranks - 1))); do
        TUTTI_RENDEZVOUS=127.0.0.1:$port TUTTI_RANK=$r TUTTI_SIZE=$ranks "$program" &
        pids+=($!)
    done
    for p in "${pids[@]}"; do
        wait "$p" || status=1
    done
    return $status
}
export -f by_hand

e=$build/examples
run "allreduce, alone" "rank 0: 1 2 3 0" "$e/example_allreduce"
run "allreduce, 3 ranks by hand" "rank 2: 3 6 9 3" bash -c "by_hand 3 $e/example_allreduce"
run "unique_id" "4 ranks, tokens add up to 6" "$e/example_unique_id"
run "unique_id, 1 rank" "1 ranks, tokens add up to 0" "$e/example_unique_id" 1
run "threads" "5 ranks as threads, 0 failed" "$e/example_threads" 5
run "overlap, alone" "1 ranks, 8 layers, 0 wrong" "$e/example_overlap"
run "overlap, 3 ranks by hand" "3 ranks, 8 layers, 0 wrong" bash -c "by_hand 3 $e/example_overlap"
if [ -x "$e/example_nccl" ]; then
    run "nccl, four ranks of one thread" "4 ranks, 0 wrong" "$e/example_nccl"
else
    skipped=$((skipped + 1)); echo "  SKIPPED: example_nccl is not built (-Dnccl=false)"
fi
if [ -x "$e/example_cxx" ]; then
    run "cxx, 3 ranks by hand" "3 ranks, 6 elements, in order" bash -c "by_hand 3 $e/example_cxx"
else
    skipped=$((skipped + 1)); echo "  SKIPPED: example_cxx is not built: no C++ compiler was found"
fi
if [ -x "$e/example_mpi" ] && command -v mpirun.openmpi >/dev/null; then
    root=
    [ "$(id -u)" -eq 0 ] && root=--allow-run-as-root
    # MPI itself leaks at exit
    run "mpi" "2 ranks, 0 elements differ" env ASAN_OPTIONS=detect_leaks=0 \
        mpirun.openmpi $root --oversubscribe --bind-to none -np 2 "$e/example_mpi"
else
    skipped=$((skipped + 1)); echo "  SKIPPED: example_mpi is not built or mpirun.openmpi is missing"
fi
echo "suite examples: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
