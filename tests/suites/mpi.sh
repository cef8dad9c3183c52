#!/usr/bin/env bash
# Programs started by mpirun (Open MPI): each collective against MPI's own result at 2, 3, 4, 5 and
# 7 ranks, a program of MPI alone over the MPI face, the rendezvous from the launcher's environment,
# and coll_perf under a launcher.
#   BUILD: build directory with tests/mpi and perf (default build)
#   FAST=1: only 2, 3 and 5 ranks
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# MPI itself leaks at exit and cannot be called free of undefined behaviour; our programs report
# address errors all the same.
export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
export OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_btl_vader_single_copy_mechanism=none

finish() {
    echo "suite mpi: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
}

skip() {
    skipped=$((skipped + 1))
    echo "  SKIPPED: $1"
}

# name seconds command...
run() {
    local name=$1 limit=$2 status
    shift 2
    timeout -k 2 "$limit" "$@" >"$work/out" 2>&1
    status=$?
    if [ $status -eq 0 ]; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name (status $status)"
        tail -n 20 "$work/out" | sed 's/^/    /'
    fi
}

mpirun=$(command -v mpirun.openmpi || command -v mpirun)
if [ -z "$mpirun" ]; then
    skip "mpirun is not installed (Debian: openmpi-bin)"
    finish
    exit
fi
if ! "$mpirun" --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE\|PRRTE'; then
    skip "$mpirun is not Open MPI's"
    finish
    exit
fi
start="$mpirun --oversubscribe --bind-to none"
[ "$(id -u)" -eq 0 ] && start="$start --allow-run-as-root"

sizes="2 3 4 5 7"
[ "${FAST:-0}" = 1 ] && sizes="2 3 5"
if [ -x "$build/tests/mpi/test_mpi" ]; then
    for n in $sizes; do
        run "$n ranks against MPI's results" 300 $start -np "$n" "$build/tests/mpi/test_mpi"
    done
    run "example: Tutti inside an MPI program" 60 $start -np 3 "$build/examples/example_mpi"
else
    skip "$build/tests/mpi/test_mpi is not built: MPI's headers were not found (libopenmpi-dev)"
fi
# Programs of MPI alone: by themselves, over the MPI face, and over one that takes nothing: since it was
# told so at one rank, or since one cannot make its links.
face_lib=$(cd "$build" && pwd)/src/compat/libtutti_mpi
# Sanitizers want their library before any other that is preloaded.
[ -e "$face_lib.so" ] && asan=$(ldd "$face_lib.so" | awk '/libasan/ { print $3 ":" }')
face="-x LD_PRELOAD=${asan:-}$face_lib.so"
over_the_face() { # what program
    local test=$build/tests/mpi/$2
    if [ -e "$face_lib.so" ]; then
        for n in 2 3 4; do
            run "$1: $n ranks over the MPI face, preloaded" 120 $start -np "$n" $face "$test" tutti
        done
        run "$1: 3 ranks over the MPI face, linked" 120 $start -np 3 "${test}_linked" tutti
        run "$1: 3 ranks of the same program without it" 120 $start -np 3 "$test" mpi
        run "$1: one of 3 ranks with TUTTI_MPI=none" 120 $start -np 2 $face "$test" off : -np 1 $face \
            env TUTTI_MPI=none "$test" off
        run "$1: one of 3 ranks has no links" 120 $start -np 3 $face -x TUTTI_FAULT=fail@op=1,rank=1 \
            "$test" off
    fi
    if [ -e "${face_lib}ch.so" ] && command -v mpirun.mpich >/dev/null; then
        # No more ranks than cores: MPICH yields none.
        run "$1: 2 ranks over the MPI face, MPICH" 120 mpirun.mpich -np 2 -genv LD_PRELOAD \
            "${asan:-}${face_lib}ch.so" "${test}_mpich" tutti
    fi
}
over_the_face calls test_interpose
over_the_face life test_interpose_life
other_mpi() { # name sentence launcher...
    local name=$1 text=$2
    shift 2
    run "$name" 60 sh -c 'text=$1; shift; "$@" >"$0" 2>&1; [ $? = 1 ] && grep -qx "$text" "$0" && exit
        cat "$0"; exit 1' "$work/other" \
        "tutti_mpi: $text" "$@"
}
if [ -e "$face_lib.so" ] && [ -e "${face_lib}ch.so" ] && command -v mpirun.mpich >/dev/null; then
    other_mpi "Open MPI's face in a program of MPICH" \
        "libtutti_mpi.so is for Open MPI, this program has MPICH: take libtutti_mpich.so" \
        mpirun.mpich -np 2 -genv LD_PRELOAD "${asan:-}$face_lib.so" "$build/tests/mpi/test_interpose_mpich" off
    other_mpi "MPICH's face in a program of Open MPI" \
        "libtutti_mpich.so is for MPICH, this program has Open MPI: take libtutti_mpi.so" \
        $start -np 2 -x LD_PRELOAD="${asan:-}${face_lib}ch.so" "$build/tests/mpi/test_interpose" off
fi
wrong() { # name setting sentence: a rank of a program that goes on
    run "$1 over the MPI face" 30 sh -c 'sentence=$1; shift; "$@" >"$0" 2>&1 && grep -q "^tutti_mpi: $sentence" "$0" && exit
        cat "$0"; exit 1' "$work/wrong" "$3" $start -np 1 $face -x "$2" "$build/tests/mpi/test_interpose" off
}
if [ -e "$face_lib.so" ]; then
    wrong "a setting that is none" TUTTI_NOSUCH=1 "all calls stay with MPI: TUTTI_NOSUCH is no setting"
    wrong "a call that is none" TUTTI_MPI=bcast,foo "TUTTI_MPI is all, none or some of allreduce .* barrier, not foo$"
    run "a call before MPI_Init is named over the MPI face, too" 30 sh -c '"$@" 2>&1 | tee /dev/stderr |
        grep "MPI_Allreduce() function was called before MPI_INIT"' - $start -np 1 $face \
        "$build/tests/mpi/test_interpose_life" early
    run "a call after MPI_Finalize, too" 30 sh -c '"$@" 2>&1 | tee /dev/stderr |
        grep "MPI_Barrier() function was called after MPI_FINALIZE"' - $start -np 1 $face \
        "$build/tests/mpi/test_interpose_life" late
fi
for n in 1 3 4; do
    run "$n ranks from the launcher's environment" 60 $start -np "$n" "$build/tests/mpi/test_env" "$n" child
done
run "coll_perf under mpirun" 120 $start -np 3 "$build/perf/coll_perf" allreduce alltoall -b 8 -e 64K -f 16 -n 5

# Beside other libraries: their results are checked too, and every row names the version.
beside() { # name library package
    if [ ! -x "$build/perf/coll_perf_$1" ]; then
        skip "$build/perf/coll_perf_$1 is not built: $2 was not found (Debian: $3)"
        return
    fi
    run "coll_perf --peer $1" 120 "$build/perf/coll_perf" all --ranks 3 --peer "$1" -b 8 -e 2K -f 256 -n 1 \
        -w 1 --blocks 5 --csv "$work/$1.csv"
    run "rows with --peer $1 name $2" 5 awk -F, -v peer="$2 [0-9.]+" \
        'NR > 1 { rows++ } NR > 1 && $NF !~ "^" peer "$" { bad++ } END { exit !rows || bad }' "$work/$1.csv"
}
beside mpi "Open MPI" libopenmpi-dev
beside mpich MPICH libmpich-dev
beside gloo Gloo libgloo-dev
if [ -x "$build/perf/coll_perf_mpi" ]; then
    run "a wrong setting with --peer mpi is said once" 30 sh -c '"$1" allreduce --ranks 2 --peer mpi --transport bogus \
        >"$2/out" 2>&1; [ $? = 2 ] && [ "$(grep -c "TUTTI_TRANSPORTS names .bogus." "$2/out")" = 1 ]' \
        - "$build/perf/coll_perf" "$work"
fi
cp "$build/perf/coll_perf" "$work"
run "a peer that was not built" 10 sh -c '"$1/coll_perf" allreduce --ranks 2 --peer mpich 2>&1 |
    grep -qx "coll_perf: --peer mpich needs $1/coll_perf_mpich, which is built (not installed) where MPICH is found (Debian: apt install libmpich-dev; meson setup --reconfigure): run the build directory.s perf/coll_perf"' \
    - "$work"
finish
