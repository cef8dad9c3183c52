#!/usr/bin/env bash
# RDMA with a real kernel on software devices, in a guest (tests/vm/run): each part boots one of its own.
#   tests/suites/vm.sh [--qemu] [PART:TRANSPORT...]   the parts given, or all
#   tests/suites/vm.sh [--qemu] --list                their names, one a line
# --qemu: Debian's unmodified kernel under qemu's emulation, and the smaller list.
# --short: without the parts that repeat others over another kind of connection; a full tests/run takes
# these, `tests/run vm` takes all.
#   BUILD: build directory (default build);  FAST=1: smaller sizes
# The parts themselves are in tests/vm/guest/parts.sh.
set -u
cd "$(dirname "$0")/../.." || exit 1

# What each part needs at most, in seconds of an idle machine with 2 cores, boot and all.
parts_uml="conformance:roce conformance:roce_cm conformance:iwarp sweep:roce sweep:roce_cm sweep:iwarp
    perf:roce perf:iwarp mpi:roce mpi:iwarp netem:tcp netem:roce netem:iwarp
    rail:roce rail:roce_cm rail:iwarp silent:roce silent:roce_cm silent:iwarp held:roce held:iwarp apart:roce apart:iwarp fallback:roce fallback:roce_cm
    killed:tcp killed:roce killed:iwarp input:roce input:iwarp memlock:roce memlock:iwarp gpu:roce comms:roce comms:roce_cm comms:iwarp"
# Left out by --short: each is over another transport in the list, and what is particular to its own is
# in the conformance and sweep parts; conformance over iwarp is by the connection manager.
repeats="conformance:roce_cm silent:roce_cm perf:iwarp mpi:iwarp netem:tcp rail:roce_cm rail:iwarp killed:tcp fallback:roce_cm comms:roce"
# Debian's stock kernel has no siw; its rxe knows one network namespace. It has Yama.
parts_qemu="sweep:roce sweep:roce_cm netem:roce killed:roce comms:roce yama:tcp"

guest=any list=no short=no parts=()
for argument in "$@"; do
    case $argument in
    --qemu) guest=qemu ;;
    --list) list=yes ;;
    --short) short=yes ;;
    *:*) parts+=("$argument") ;;
    *) echo "vm.sh: '$argument' is no PART:TRANSPORT (see --list)" >&2; exit 2 ;;
    esac
done
if [ ${#parts[@]} -eq 0 ]; then
    # shellcheck disable=SC2206
    [ $guest = qemu ] && parts=($parts_qemu) || parts=($parts_uml)
    if [ $short = yes ] && [ $guest != qemu ]; then
        for i in "${!parts[@]}"; do
            case " $repeats " in *" ${parts[i]} "*) unset "parts[i]" ;; esac
        done
    fi
fi
[ $list = yes ] && { printf '%s\n' "${parts[@]}"; exit 0; }

passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
for part in "${parts[@]}"; do
    before=$(date +%s%3N)
    options=(--time 500)
    network=hosts
    [ $guest = qemu ] && options+=(--qemu) && network=pair
    BUILD=${BUILD:-build} tests/vm/run "${options[@]}" -- env NETWORK=$network \
        tests/vm/guest/parts.sh "$part" >"$log" 2>&1 &
    wait $!
    status=$?
    found=$(grep -aoE '^suite vm: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' "$log" | tail -n 1)
    p=0 f=0 s=0
    [ -n "$found" ] && read -r p f s < <(sed -E 's/.*: ([0-9]+) [^0-9]*([0-9]+) [^0-9]*([0-9]+).*/\1 \2 \3/' <<<"$found")
    printf '%s, %.1f s\n' "$part" "$(($(date +%s%3N) - before))e-3"
    grep -av '^suite vm:' "$log"
    if [ -z "$found" ] && [ $status -eq 99 ]; then
        s=1
        echo "    SKIPPED: no guest can be started here"
    elif [ -z "$found" ] || { [ $status -ne 0 ] && [ "$f" -eq 0 ]; }; then
        f=$((f + 1))
        echo "  FAILED  $part ended with status $status"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "suite vm: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
