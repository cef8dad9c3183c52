#!/usr/bin/env bash
# Programs started by the launchers that are here besides Open MPI's: MPICH's mpiexec, Slurm's srun
# (a cluster of this one machine, made for the test in a private directory) and PyTorch's torchrun.
# Each starts a program that takes its communicator from the launcher's environment and says so if
# it has another size than it should have, and coll_perf.
#   BUILD: build directory with tests/mpi and perf (default build)
#   TORCHRUN: the torchrun to use (default: the one on the PATH)
#   FAST=1: the first program only
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
passed=0 failed=0 skipped=0
work=$(mktemp -d)
pids=
finish() {
    echo "suite launchers: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
}
# A step's own daemon leaves when the controller has heard of its end, and not before.
slurm_stop() {
    timeout 10 sh -c 'until [ -z "$(squeue -h 2>&1)" ]; do sleep 0.1; done'
    for pid in /proc/[0-9]*; do
        grep -qs '^slurmstepd' "$pid/cmdline" && grep -qsz "^SLURM_CONF=$work/" "$pid/environ" &&
            echo "${pid#/proc/}"
    done >"$work/steps"
    [ -s "$work/steps" ] || return 0
    sleep 1
    kill -KILL $(cat "$work/steps") 2>/dev/null
}

cleanup() {
    local pid
    [ -n "${SLURM_CONF:-}" ] && [ "${SLURM_CONF%/*}" = "$work" ] && slurm_stop
    for pid in $pids; do
        kill "$pid" 2>/dev/null
    done
    for pid in $pids; do
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT

# libpmix 4.2 leaks a few bytes of its own; address errors are reported all the same.
export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}

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

# name launcher... : with -n and the number of ranks behind it, both programs
both() {
    local name=$1
    shift
    run "$name: the environment, 3 ranks" 60 "$@" 3 "$build/tests/mpi/test_env" 3
    [ "${FAST:-0}" = 1 ] && return
    run "$name: coll_perf, 2 ranks" 60 "$@" 2 "$build/perf/coll_perf" allreduce alltoall -b 8 -e 64K -f 16 -n 5
}

# ---- MPICH ---------------------------------------------------------------------------------------

if command -v mpiexec.hydra >/dev/null; then
    both "mpiexec of MPICH" mpiexec.hydra -n
else
    skip "mpiexec.hydra is not installed (Debian: mpich)"
fi

# ---- torchrun ------------------------------------------------------------------------------------

# Debian's torchrun 1.13 stops before it starts anything (its own use of enum under Python 3.11).
torchrun=${TORCHRUN:-$(command -v torchrun)}
if [ -z "$torchrun" ]; then
    skip "torchrun is not installed (python3 -m venv DIR && DIR/bin/pip install torch, TORCHRUN=DIR/bin/torchrun)"
elif ! timeout 120 "$torchrun" --standalone --no-python --nproc_per_node 1 true >"$work/out" 2>&1; then
    skip "$torchrun cannot start even \"true\": $(grep -E '^[A-Za-z]*Error' "$work/out" | tail -n 1)"
else
    both torchrun "$torchrun" --standalone --no-python --nproc_per_node
fi

# ---- Slurm ---------------------------------------------------------------------------------------

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() { # log command...
    local log=$work/$1
    shift
    "$@" >"$log" 2>&1 &
    pids="$! $pids"
}

slurm_conf() {
    cat >"$SLURM_CONF" <<END
ClusterName=tutti
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
}

# Starts the daemons; 0 when the node is ready for jobs.
slurm_start() {
    export SLURM_CONF=$work/slurm.conf
    mkdir "$work/state" "$work/spool"
    (umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")
    slurm_conf
    start munged.log munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge.socket" \
        --pid-file="$work/munge.pid" --seed-file="$work/munge.seed" --log-file="$work/munge.log"
    timeout 10 sh -c "until [ -S $work/munge.socket ]; do sleep 0.1; done" || return 1
    start slurmctld.log slurmctld -D -c
    start slurmd.log slurmd -D -N "$(hostname -s)"
    timeout 30 sh -c 'until sinfo -h -o %t 2>/dev/null | grep -q idle; do sleep 0.2; done'
}

if ! command -v srun >/dev/null || ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    skip "Slurm is not installed (Debian: slurm-wlm munge)"
elif [ "$(id -u)" -ne 0 ]; then
    skip "Slurm's daemons are started as root only"
elif ! slurm_start; then
    failed=$((failed + 1))
    echo "  FAILED  a Slurm cluster of this machine does not come up"
    tail -n 8 "$work"/munged.log "$work"/slurmctld.log "$work"/slurmd.log | sed 's/^/    /'
else
    both srun srun --mpi=none -n
    if srun --mpi=list 2>&1 | grep -qw pmi2; then
        both "srun --mpi=pmi2" srun --mpi=pmi2 -n
    else
        skip "this Slurm has no PMI-2 plugin"
    fi
    if srun --mpi=list 2>&1 | grep -qw pmix; then
        both "srun --mpi=pmix" srun --mpi=pmix -n
    else
        skip "this Slurm has no PMIx plugin"
    fi
fi
finish
