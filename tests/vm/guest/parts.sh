#!/usr/bin/env bash
# parts.sh PART:TRANSPORT...   runs parts of the RDMA suite inside a guest, each in a network of its own
# making; tests/suites/vm.sh starts it, one boot per part. Ends with the line tests/run counts.
#
# PART is a function part_* below, called with its TRANSPORT. That is a row of choose(): tcp (no RDMA, to
# compare with), roce (queue pairs exchanged over the bootstrap), roce_cm (librdmacm), iwarp.
#   BUILD: build directory (default build);  FAST=1: smaller sizes
#   NETWORK=pair: one host with a looped wire instead of two hosts (old kernels)
set -u
cd "$(dirname "$0")/../../.." || exit 1
. tests/vm/guest/hosts.sh
build=${BUILD:-build}
network=${NETWORK:-hosts}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
port=7100

# ---- what is tested ------------------------------------------------------------------------------

# For a transport: the kind of its devices, its name in TUTTI_TRANSPORTS, its own settings.
choose() { # transport
    case $1 in
    tcp) kind=none name=tcp ;;
    roce) kind=rxe name=roce ;;
    roce_cm) kind=rxe name=roce ;;
    iwarp) kind=siw name=iwarp ;;
    *) echo "parts.sh: no transport $1" >&2; exit 2 ;;
    esac
    case $1 in
    roce_cm) export TUTTI_VERBS_CONNECT=cm ;;
    esac
    export TUTTI_TRANSPORTS=shm,$name
    # otherwise what RDMA cannot do would be done by TCP, and no test would notice
    [ "$kind" = none ] || export TUTTI_VERBS_FALLBACK=0
}

start_network() { # rails
    if [ "$network" = pair ]; then
        make_pair "$kind"
    else
        make_hosts "$kind" "$1"
    fi
}

# ---- counting ------------------------------------------------------------------------------------

result() { # name yes|no log
    if [ "$2" = yes ]; then
        passed=$((passed + 1)); echo "  ok      $1"
    else
        failed=$((failed + 1)); echo "  FAILED  $1"
        tail -n 40 "$3" | sed 's/^/    /'
    fi
}

# What a suite complained of: a failure often repeats itself.
complaints() { # log
    grep -av '\.\.\.passed$' "$1" | head -n 60 | cut -c1-300 | sed 's/^/    /'
}

skip() { # reason
    skipped=$((skipped + 1)); echo "    SKIPPED: $1"
}

finish() {
    echo "suite vm: $passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ]
    exit
}

# A suite of the unit tests: its own tests are counted.
unit() { # name seconds command...
    local name=$1 limit=$2 status p f s
    shift 2
    timeout -k 2 "$limit" "$@" >"$work/log" 2>&1
    status=$?
    read -r p f s < <(sed -nE 's/^suite [^:]*: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped.*/\1 \2 \3/p' \
        "$work/log" | tail -n 1)
    grep -a 'SKIPPED:\|does not work here' "$work/log" | sed -E 's/.*SKIPPED:/    SKIPPED:/'
    if [ -n "${p:-}" ] && [ $((p + f)) -gt 0 ] && { [ $status -eq 0 ] || [ "$f" -gt 0 ]; }; then
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
        echo "  $([ "$f" -eq 0 ] && echo "ok    " || echo FAILED)  $name ($p passed, $f failed, $s skipped)"
        [ "$f" -eq 0 ] || complaints "$work/log"
    else
        echo "exit status $status, closing line ${p:-missing}" >>"$work/log"
        result "$name" no "$work/log"
    fi
}

# ---- starting ranks ------------------------------------------------------------------------------

# Starts one process per rank, in blocks on the hosts, like a launcher; they are in pids.
start_ranks() { # ranks command...
    local size=$1 rank host
    shift
    port=$((port + 1))
    pids=()
    for rank in $(seq 0 $((size - 1))); do
        host=a
        [ $((rank * 2)) -lt "$size" ] || host=b
        # a host of one wire looped back is divided by name
        [ "$network" = pair ] && export TUTTI_HOST_ID=$host
        [ "$network" = pair ] && [ "$kind" != none ] && export TUTTI_VERBS_DEVICE=$(device $host 0)
        on $host env TUTTI_RENDEZVOUS=10.0.0.1:$port TUTTI_RANK=$rank TUTTI_SIZE="$size" \
            "$@" >"$work/rank$rank" 2>&1 </dev/null &
        pids+=($!)
    done
}

# Waits until each has begun what it is to go on with (endure, adapters), or they have ended.
until_begun() {
    local rank
    for rank in "${!pids[@]}"; do
        until grep -q ' has begun' "$work/rank$rank"; do
            kill -0 "${pids[@]}" 2>/dev/null || return
            sleep 0.05
        done
    done
}

ends_within() { # seconds pid
    local end=$((SECONDS + $1))
    while kill -0 "$2" 2>/dev/null; do
        [ $SECONDS -lt $end ] || return
        sleep 0.1
    done
}

# Waits for them; what they printed is in $work/log. False if one ended badly, the doomed one excepted.
end_ranks() { # [doomed]
    local rank=0 good=0 pid status
    : >"$work/log"
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null
        status=$?
        sed "s/^/[$rank] /" "$work/rank$rank" >>"$work/log"
        if [ $status -ne 0 ] && [ "${1:-none}" != $rank ]; then
            good=1
            echo "[$rank] ended with status $status" >>"$work/log"
        fi
        rank=$((rank + 1))
    done
    return $good
}

job() { # name ranks seconds doomed command...
    local name=$1 ranks=$2 limit=$3 doomed=$4 good=no
    shift 4
    start_ranks "$ranks" timeout -k 1 "$limit" "$@"
    end_ranks "$doomed" && good=yes
    result "$name" $good "$work/log"
}

# Ranks that endure, each call followed by one over the first rail only, to which nothing happens.
start_controlled() { # ranks seconds count
    start_ranks "$1" env TUTTI_LOG=info \
        sh -c "exec timeout -k 1 60 $build/tests/endure run $2 $3 ${device_kind}_\$(hostname)0"
}

# The longest call of endure's ranks took at most so many seconds, where its control takes as long as on a
# free machine; where that takes longer, by so much less.
bounded() { # seconds
    local good=no longest wall control
    read -r longest wall control < <(sed -nE 's/.*longest ([0-9.]+) s \(([0-9.]+) s, control ([0-9.]+) s.*/\1 \2 \3/p' \
        "$work/log" | sort -n | tail -n 1)
    awk -v s="${longest:-99}" -v most="$1" 'BEGIN {exit !(s <= most)}' && good=yes
    result "the longest call took ${longest:-?} s (${wall:-?} s, control ${control:-?} s), at most $1" $good "$work/log"
}

# ---- the parts -----------------------------------------------------------------------------------

# What every transport must do, and the same with faults; over one wire, ranks on both hosts.
part_conformance() {
    start_network 1 || return
    export TUTTI_TEST_TRANSPORT=$name TUTTI_TEST_HOSTS=$hosts
    unit "conformance" 300 "$build/tests/test_transports"
    unit "how links end" 300 "$build/tests/test_leaving"
    unit "faults" 200 "$build/tests/test_faults"
}

# Seeded random calls of every collective and algorithm at 2, 3 and 4 ranks against a reference.
part_sweep() {
    start_network 1 || return
    # on one host everything would go through shared memory
    [ "$network" = pair ] && TUTTI_TRANSPORTS=$name
    export TUTTI_TEST_TRANSPORTS=$TUTTI_TRANSPORTS TUTTI_TEST_HOSTS=$hosts
    [ "${FAST:-0}" = 1 ] && export TUTTI_TEST_FAST=1
    unit "sweep at 2, 3, 4 ranks, $TUTTI_TRANSPORTS" 500 "$build/tests/test_sweep"
}

# coll_perf checks every element it receives.
part_perf() {
    local largest=4M ranks
    [ "${FAST:-0}" = 1 ] && largest=256K
    start_network 1 || return
    for ranks in 2 3 4; do
        job "coll_perf, all collectives, $ranks ranks" $ranks 200 none \
            "$build/perf/coll_perf" all -b 4 -e $largest -f 32 -n 2 -w 1
    done
    job "coll_perf, all types, 3 ranks" 3 200 none \
        "$build/perf/coll_perf" allreduce alltoall -d all -b 4K -e 4K -n 2 -w 1
    [ "$name" = roce ] || return 0
    job "a stream of 4 MiB messages" 2 60 none "$build/perf/coll_perf" sendrecv -b 4M -e 4M -n 10 -v
    counters "at most one completion is asked for per 16 requests" \
        's/.*signalled \(1 in ([0-9.]+)\).*/\1/p' '$1 >= 16'
    counters "no receiver was not ready" 's/.* ([0-9]+) receiver-not-ready.*/\1/p' '$1 == 0'
}

counters() { # name sed-expression awk-condition: of what coll_perf -v printed
    local good=no number
    number=$(sed -nE "$2" "$work/log" | head -n 1)
    [ -n "$number" ] && awk "{exit !($3)}" <<<"$number" && good=yes
    result "$1 (${number:-not printed})" $good "$work/log"
}

# Loss and delay on the wire: slower, never wrong.
part_netem() {
    local each
    start_network 1 || return
    for each in "loss 1%" "delay 1ms" "delay 1ms loss 1%"; do
        # shellcheck disable=SC2086
        wire 0 $each || { skip "this kernel has no netem"; return; }
        job "$each: allreduce and alltoall, 4 ranks" 4 200 none \
            "$build/perf/coll_perf" allreduce alltoall -b 8 -e 256K -f 32 -n 3 -w 1
    done
    wire 0
    # on a busy machine the cut takes longer than it should: queue pairs are to survive it
    export TUTTI_VERBS_TIMEOUT=16
    export TUTTI_TEST_TRANSPORT=$name TUTTI_TEST_HOSTS=$hosts TUTTI_TEST_CUT=tests/vm/guest/cut
    [ -n "$hosts" ] || return 0
    unit "the wire is cut while a rank leaves" 60 "$build/tests/test_leaving" lost_at_first
}

# Under a running allreduce one of two rails comes back silent (the port is up, nothing gets through), and
# then goes down and comes back 20 times: the same bits, no call, not even the first, takes half a second,
# and a line names the rail.
part_rail() {
    local rails=2 good=no lost back
    [ "$name" = tcp ] && rails=1 # its one wire: it waits and goes on
    start_network $rails || return
    start_controlled 4 36 50000
    until_begun
    if [ $rails -gt 1 ] && wire 1 loss 100%; then
        rail 1 down
        rail 1 up
        sleep 5
        wire 1
    fi
    for _ in $(seq 20); do
        rail $((rails - 1)) down
        sleep 0.5
        rail $((rails - 1)) up
        sleep 0.5
    done
    end_ranks && good=yes
    result "the results have the same bits" $good "$work/log"
    [ "$name" = tcp ] && return # how long it takes to try again is the kernel's business
    bounded 0.5
    good=no
    grep -q "warn.*\($(device a 1)\|$(device b 1)\)" "$work/log" && good=yes
    result "a warning names the rail" $good "$work/log"
    good=no
    lost=$(grep -c 'warn.* failed: ' "$work/log") back=$(grep -c 'warn.* is up again' "$work/log")
    [ "$lost" -le $((4 + back)) ] && good=yes # four ranks have lost one path each that was up at first
    result "$lost warnings of a loss, $back of a return: attempts to make a path again give none" $good "$work/log"
    [ "$1" = roce ] || return 0
    device_removed
}

# Under a running allreduce. A device of siw, and before Linux 7.3 one of rxe, too, is removed once nobody
# has it open, and nothing happens to it until then.
device_removed() {
    local good=no removal
    start_ranks 2 env TUTTI_LOG=info timeout -k 1 60 "$build/tests/endure" past "$work/removed" 3 50000
    until_begun
    rdma link del "$(device a 1)" &
    removal=$!
    if ends_within 10 $removal; then
        touch "$work/removed"
        end_ranks && grep -q "goes on without $(device a 1)" "$work/log" && ! grep -q 'copied through' "$work/log" && good=yes
        result "a rail's device is removed: the same bits, in place over the other" $good "$work/log"
    else
        touch "$work/removed"
        end_ranks && good=yes
        result "a rail's device is to be removed: the same bits" $good "$work/log"
        skip "this kernel removes no device that is in use"
    fi
    wait $removal
}

# One of two rails is silent from the start, and the network has nothing to ask about it: the hardware
# addresses are known.
part_silent() {
    local good=no
    start_network 2 || return
    know_neighbours 1 && wire 1 loss 100% || return
    start_controlled 4 3 1000
    end_ranks && good=yes
    result "the results have the same bits" $good "$work/log"
    bounded 20
    falls_silent
}

# One of two rails is slow, which is no reason to give it up, and then falls silent while it is in use: the
# other goes on with what was lost. If it goes down soon after, what was lost is sent again, be it that a
# socket had it already.
falls_silent() {
    local good=no
    wire 1
    start_controlled 2 14 50000
    until_begun
    if [ "$name" = iwarp ]; then # the retry counter of the others gives it up
        wire 1 delay 300ms
        sleep 4
    fi
    wire 1 loss 100%
    end_ranks && ! grep -q 'is up again' "$work/log" && good=yes
    result "a rail is slow, then silent: it is lost once, and the results have the same bits" $good "$work/log"
    bounded 8
    good=no
    wire 1
    start_ranks 2 env TUTTI_LOG=info timeout -k 1 60 "$build/tests/endure" run 8 50000
    until_begun
    wire 1 loss 100%
    sleep 1
    rail 1 down
    end_ranks && good=yes
    result "a rail falls silent, then goes down: the results have the same bits" $good "$work/log"
}

# What came in before its rail was lost waits for its receive in memory that the lost queue pair knew. And
# a link that is half made waits for a rank that computes.
part_held() {
    local good=no
    start_network 2 || return
    export TUTTI_LANES=1 # the lane of messages is at home on the second rail then
    # what the allocator has back is overwritten, and the loss is seen at once
    start_ranks 2 env MALLOC_PERTURB_=165 sh -c "TUTTI_LOG_FILE=$work/held.\$TUTTI_RANK exec timeout -k 1 60 \
        $build/tests/endure held $work/held.\$TUTTI_RANK"
    until_begun
    forget_neighbours 1
    end_ranks && good=yes
    result "a message held while its rail is lost" $good "$work/log"
    good=no
    wire 1
    start_ranks 2 timeout -k 1 60 "$build/tests/endure" away 6.5
    end_ranks && good=yes
    result "a rank computes while links are being made" $good "$work/log"
}

# What host a sends over a rail is lost, under ranks that stay away from the library after each call until
# their peer has ended it, too: a message that its rank has done with, or the word that one has arrived.
part_apart() {
    local good what
    start_network 2 || return
    export TUTTI_LANES=1 # as in part_held
    for what in copied written; do
        good=no
        start_ranks 2 env TUTTI_LOG=info timeout -k 1 60 "$build/tests/endure" apart $what "$work/$what" 4
        until_begun
        spoil a 1 loss 100%
        end_ranks && grep -q 'warn.* failed: ' "$work/log" && good=yes
        result "a rail is lost while its ranks are away: $what" $good "$work/log"
        wire 1
    done
}

# With no rail left a link goes over TCP, in the middle of an allreduce, with the same bits; and only then:
# a peer that closes in order is no reason.
part_fallback() {
    local good=no tcp relayed
    export TUTTI_VERBS_FALLBACK=1
    start_network 2 || return
    touch "$work/comms.go"
    start_ranks 3 timeout -k 1 60 "$build/tests/endure" comms 20 "$work/comms"
    end_ranks && ! grep -q 'goes over TCP' "$work/log" && good=yes
    result "20 communicators that end in order" $good "$work/log"
    if [ "$1" = roce ]; then # the connection manager gives up only after a minute
        good=no
        median tcp && tcp=$median_us && median "$name" && relayed=$median_us && good=yes
        # each message that is slept on costs a tick or more: then it is more than ten times as long
        grep -q 'goes over TCP' "$work/log" && [ $good = yes ] && [ "$relayed" -lt $((5 * tcp)) ] || good=no
        result "an allreduce of 256 KiB took ${relayed:-?} us over a link without a rail, ${tcp:-?} us over TCP" \
            $good "$work/log"
    fi
    good=no
    start_ranks 4 sh -c "TUTTI_VERBS_DEVICE=${device_kind}_\$(hostname)1 exec timeout -k 1 60 $build/tests/endure run 6 50000"
    until_begun
    rail 1 down
    end_ranks && good=yes
    result "the last rail goes down: the results have the same bits" $good "$work/log"
    good=no
    grep -q 'goes over TCP' "$work/log" && good=yes
    result "a warning says that TCP is used" $good "$work/log"
    # one side waits for an answer of the network when the other knows already that there is no way
    rail 1 up
    forget_neighbours 1
    good=no
    start_ranks 2 env TUTTI_LOG=info \
        sh -c "TUTTI_VERBS_DEVICE=${device_kind}_\$(hostname)1 exec timeout -k 1 60 $build/tests/endure run 3 1000"
    until_asked 1
    rail 1 down
    end_ranks && grep -q 'goes over TCP' "$work/log" && good=yes
    result "the only rail is silent at first, then down" $good "$work/log"
}

# Waits until both ranks use the rail and the network was asked where the peer is, or they have ended.
until_asked() { # rail
    until grep -q 'verbs: uses' "$work/rank0" && grep -q 'verbs: uses' "$work/rank1" &&
        ip -n a neigh show "10.0.$1.2" | grep -q 'INCOMPLETE\|FAILED'; do
        kill -0 "${pids[@]}" 2>/dev/null || return
        sleep 0.05
    done
}

# The median of 200 allreduces between two hosts whose adapters have no wire in common, in median_us.
median() { # transport
    TUTTI_TRANSPORTS=$1 start_ranks 2 sh -c "[ \$(hostname) = a ] && rail=0 || rail=1
        TUTTI_VERBS_DEVICE=${device_kind}_\$(hostname)\$rail exec timeout -k 1 60 \
            $build/perf/coll_perf allreduce -b 256K -e 256K -n 200 -w 20 -c 0 --csv $work/csv.\$TUTTI_RANK"
    end_ranks || return
    median_us=$(awk -F, 'NR == 1 {while ($++at != "median_us");} NR == 2 {print int($at)}' "$work/csv.0")
    [ "${median_us:-0}" -gt 0 ]
}

# Ranks that die, stop or disagree across hosts: each other rank is told within 5 s (misbehave checks).
part_killed() {
    local how
    start_network 1 || return
    for how in none count type op coll; do
        job "misbehave: $how" 4 30 none "$build/tests/misbehave" $how
    done
    for ranks in 2 4; do
        job "misbehave: die, $ranks ranks" $ranks 30 1 "$build/tests/misbehave" die
    done
}

# Bad input: one sentence each, with what was found and what to set.
part_input() {
    local perf="$build/perf/coll_perf allreduce --ranks 2 --transport $name -b 8 -e 8 -n 2 -w 1" other=roce number
    [ "$name" = roce ] && other=iwarp
    start_network 1 || return
    # shellcheck disable=SC2086
    {
        says "a device that is not there" "TUTTI_VERBS_DEVICE=nosuch names no port of this host.*$(device a 0)" \
            on a env TUTTI_VERBS_DEVICE=nosuch $perf
        says "a port that is not there" "TUTTI_VERBS_DEVICE=$(device a 0):7 names no port.*$(device a 0)" \
            on a env TUTTI_VERBS_DEVICE="$(device a 0):7" $perf
        says "another kind of device" "no .* port here: there is $(device a 0)" \
            on a ${perf/--transport $name/--transport $other}
        [ $kind = rxe ] && says "a GID that is not there" "TUTTI_VERBS_GID_INDEX=99 is no usable GID.*it has .*index 1" \
            on a env TUTTI_VERBS_GID_INDEX=99 $perf
    }
    if [ $kind = rxe ]; then
        for number in $(seq 80); do
            on a ip addr add "10.9.$number.1/24" dev a0
            on b ip addr add "10.9.$number.2/24" dev b0
        done
        TUTTI_VERBS_GID_INDEX=70 job "a GID far down the table" 2 60 none "$build/perf/coll_perf" allreduce -b 8 -e 8
    fi
    on b ip link set b0 mtu 1500
    job "ends of different MTU: the smaller is used" 2 60 none "$build/perf/coll_perf" allreduce -b 8 -e 1M -f 64
    rail 0 down
    says "a port that is down" "port 1 is not active but down" on a $perf
    rdma link del "$(device a 0)"
    rdma link del "$(device b 0)"
    says "no device" "this host has no RDMA device" on a $perf
}

says() { # name pattern command...: it must fail, and say so
    local name=$1 pattern=$2 good=no
    shift 2
    if [ "$1" = on ]; then
        shift
        set -- tests/vm/guest/enter "$1" "${*:2}"
    fi
    ! timeout -k 1 40 "$@" >"$work/log" 2>&1 && grep -q "$pattern" "$work/log" && good=yes
    echo "expected: $pattern" >>"$work/log"
    result "$name" $good "$work/log"
}

# Where Yama lets nobody but its ancestors read a process's memory, as Ubuntu has it, ranks permit each
# other; where not even that is allowed, messages go through the ring. Root may read whatever it likes.
part_yama() {
    local scope=/proc/sys/kernel/yama/ptrace_scope level
    start_network 1 || return
    [ -e $scope ] || { skip "this kernel has no Yama"; return; }
    for level in 0 1 2; do # from 2 on it takes a capability
        echo $level >$scope
        launched "ptrace_scope $level: ordinary memory is moved" \
            setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp TUTTI_TRANSPORTS=shm \
            "$build/perf/coll_perf" sendrecv --ranks 2 -b 1M -e 1M -n 5 --memory malloc -v
        counters "and $([ $level -lt 2 ] && echo read in place || echo copied)" 's/.* ([0-9]+)\.[0-9]+ MiB in place.*/\1/p' \
            "\$1 $([ $level -lt 2 ] && echo '> 0' || echo '== 0')"
    done
}

# 64 KiB of locked memory, for ranks that are nobody's, since root is exempt. One link fits: its messages
# are copied through its slots. Several may not: then every rank ends with the sentence that says what to
# do. Never a wrong byte, never a hang.
part_memlock() {
    local limited good=no
    start_network 1 || return
    chmod 777 "$work"
    limited="prlimit --memlock=65536:65536 setpriv --reuid=65534 --regid=65534 --clear-groups
        env HOME=/tmp TUTTI_LOG=info timeout -k 1 100"
    # shellcheck disable=SC2086
    job "64 KiB of locked memory, 2 ranks" 2 120 none $limited "$build/perf/coll_perf" \
        allreduce alltoall -b 8 -e 4M -f 32 -n 2 -w 1 --memory malloc
    [ "$kind" = none ] && return
    grep -q 'limit of locked memory is 64 KiB.*ulimit -l' "$work/log" && good=yes
    result "a line says so, and what to do" $good "$work/log"
    if grep -q 'paged on demand' "$work/log"; then
        good=no
        # shellcheck disable=SC2086
        job "the same without paging on demand" 2 120 none env TUTTI_VERBS_ODP=0 $limited \
            "$build/perf/coll_perf" allreduce alltoall -b 8 -e 4M -f 32 -n 2 -w 1 --memory malloc
        grep -q 'limit of locked memory is 64 KiB.*copied through' "$work/log" && good=yes
        result "a line says that bytes are copied" $good "$work/log"
    fi
    good=no
    # shellcheck disable=SC2086
    start_ranks 4 $limited "$build/perf/coll_perf" allreduce alltoall -b 8 -e 256K -f 32 -n 2 -w 1
    end_ranks && good=yes
    grep -q 'coll_perf: rank .*limit of locked memory is 64 KiB.*ulimit -l' "$work/log" &&
        ! grep -q 'killed\|status 124' "$work/log" && good=yes
    result "64 KiB of locked memory, 4 ranks: right, or an end that says why" $good "$work/log"
}

# GPU memory that the adapters read and write by themselves, over the stand-in driver: its device memory
# is memory of the machine, so the kernel registers it as it would with a module of the GPU's driver (rxe
# refuses dma-buf). tests/adapters.c says what is done.
part_gpu() {
    local ranks good limited
    start_network 2 || return
    export TUTTI_LOG=info TUTTI_TEST_STANDIN_NIC=1 TUTTI_VERBS_GPU=auto
    for ranks in 2 3; do
        adapters "$ranks ranks, without a copy" $ranks direct '(peer memory)'
    done
    TUTTI_TEST_STANDIN_FLUSH=1 adapters "arrivals are flushed" 2 direct '[1-9][0-9]* flushes'
    TUTTI_VERBS_GPU=peermem adapters "peer memory only" 2 direct '(peer memory)'
    TUTTI_VERBS_GPU=dmabuf adapters "dma-buf only: refused, so copied" 3 staged 'through host memory.*by dma-buf'
    TUTTI_TEST_STANDIN_NIC=0 adapters "no way to register: copied" 2 staged 'through host memory.*nvidia-peermem'
    TUTTI_VERBS_GPU=off adapters "switched off" 2 staged 'collectives'
    adapters "one rank copies, the others do not" 3 any '(peer memory)' \
        sh -c '[ $TUTTI_RANK = 1 ] && export TUTTI_VERBS_GPU=off; exec "$@"' sh
    adapters "ranks with GPU memory and ranks with host memory" 3 host '(peer memory)'
    export TUTTI_TEST_STANDIN_CHANNELS=1 TUTTI_TEST_STANDIN_KERNELS=0
    adapters "a held channel and an abort" 2 held ''
    TUTTI_TIMEOUT_MS=3000 adapters "a held channel and a time limit" 2 late ''
    unset TUTTI_TEST_STANDIN_CHANNELS TUTTI_TEST_STANDIN_KERNELS
    # slots fit, buffers do not: what goes either way does so in pieces
    chmod 777 "$work"
    limited="prlimit --memlock=1572864:1572864 setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"
    TUTTI_VERBS_ODP=0 adapters "and the latter cannot lock theirs" 2 host 'limit of locked memory.*copied through' \
        sh -c "[ \$TUTTI_RANK = 0 ] || set -- $limited \"\$@\"; exec \"\$@\"" sh
    # the only rail goes down: what is in GPU memory cannot go on over TCP
    start_ranks 2 sh -c "TUTTI_VERBS_FALLBACK=1 TUTTI_VERBS_DEVICE=${device_kind}_\$(hostname)1 \
        exec timeout -k 1 60 $build/tests/adapters lost"
    until_begun
    rail 1 down
    good=no
    end_ranks && grep -q 'while GPU memory was on its way' "$work/log" && good=yes
    result "the last rail goes down: an end that says why" $good "$work/log"
    rail 1 up
    sleep 1
    TUTTI_TEST_FAST=1 TUTTI_TEST_HOSTS=$hosts TUTTI_VERBS_SLOT=512 TUTTI_VERBS_RAILS=1 \
        unit "every collective in the order of streams" 200 "$build/tests/test_stream"
    export TUTTI_CUDA_DRIVER=$PWD/$build/tests/libcuda_standin.so TUTTI_TEST_STANDIN_CHANNELS=64
    for ranks in 2 3; do
        job "coll_perf, all collectives, GPU memory, $ranks ranks" $ranks 200 none \
            "$build/perf/coll_perf" all -b 768K -e 768K -n 1 -w 1 --memory cuda -o sum,avg,premulsum -v
        good=no
        grep -q 'MiB of GPU memory without a copy' "$work/log" &&
            ! grep -q ' 0.000 MiB of GPU memory' "$work/log" && good=yes
        result "and not all of it was copied" $good "$work/log"
    done
}

adapters() { # name ranks kind pattern [command...]: the log must have the pattern
    local name=$1 ranks=$2 kind_of=$3 pattern=$4 good=no
    shift 4
    start_ranks "$ranks" "$@" timeout -k 1 100 "$build/tests/adapters" "$kind_of"
    end_ranks && grep -q "$pattern" "$work/log" && good=yes
    echo "expected: $pattern" >>"$work/log"
    result "$name" $good "$work/log"
}

# 100 communicators: what the kernel holds of queue pairs, regions and the rest is what it held before.
part_comms() {
    local good=no before after tries
    start_network 1 || return
    rdma resource show >"$work/before" 2>&1
    start_ranks 2 env TUTTI_LOG=info timeout -k 1 120 "$build/tests/endure" comms 100 "$work/comms"
    for tries in $(seq 1000); do
        [ -e "$work/comms.0" ] && [ -e "$work/comms.1" ] && break
        kill -0 "${pids[0]}" 2>/dev/null || break
        sleep 0.1
    done
    rdma resource show >"$work/after" 2>&1 # while both processes are alive
    touch "$work/comms.go"
    # librdmacm itself keeps each device open until the process ends
    [ "$1" = roce ] || sed -i 's/ ctx [0-9]*//' "$work/before" "$work/after"
    end_ranks && good=yes
    result "100 communicators" $good "$work/log"
    [ "$kind" = none ] && return
    good=no
    grep -q 'uses ' "$work/log" && ! grep -q ' failed: ' "$work/log" && good=yes
    result "none calls a path failed whose peer closes in order" $good "$work/log"
    good=no
    { grep -q . "$work/before" && diff "$work/before" "$work/after" >"$work/log"; } && good=yes
    result "rdma resource show: after as before" $good "$work/log"
}

# Programs that Open MPI starts on both hosts; its daemons and its own traffic go over the wire, too.
part_mpi() {
    local start ranks b
    start_network 1 || return
    command -v mpirun.openmpi >/dev/null || { skip "mpirun is not installed (Debian: openmpi-bin)"; return; }
    [ "$network" = hosts ] || { skip "two hosts need a newer kernel"; return; }
    # MPI itself leaks at exit
    export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
    start="mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none
        --mca plm_rsh_agent $PWD/tests/vm/guest/enter --mca pml ob1 --mca btl tcp,self
        --mca mpi_yield_when_idle 1
        --mca btl_tcp_if_include 10.0.0.0/24 --mca oob_tcp_if_include 10.0.0.0/24
        -x TUTTI_TRANSPORTS ${TUTTI_VERBS_CONNECT:+-x TUTTI_VERBS_CONNECT}
        ${TUTTI_VERBS_FALLBACK:+-x TUTTI_VERBS_FALLBACK}"
    for ranks in 2 3; do # 4 take most of a minute: MPI's own calls over TCP on two processors
        b=$((ranks / 2))
        # shellcheck disable=SC2086
        launched "$ranks ranks: each collective against MPI's own" tests/vm/guest/enter a $start \
            -np $ranks -host a:$((ranks - b)),b:$b "$build/tests/mpi/test_mpi"
    done
    # shellcheck disable=SC2086
    launched "a communicator from the launcher's environment" tests/vm/guest/enter a $start \
        -np 4 -host a:2,b:2 "$build/tests/mpi/test_env" 4
    # shellcheck disable=SC2086
    launched "coll_perf under mpirun" tests/vm/guest/enter a $start \
        -np 4 -host a:2,b:2 "$build/perf/coll_perf" allreduce alltoall -b 8 -e 64K -f 32 -n 3
}

launched() { # name command...
    local name=$1 good=no
    shift
    timeout -k 2 200 "$@" >"$work/log" 2>&1 && good=yes
    result "$name" $good "$work/log"
}

# ---- the run -------------------------------------------------------------------------------------

for each in "$@"; do
    part=${each%:*}
    choose "${each#*:}"
    declare -F "part_$part" >/dev/null || { echo "parts.sh: no part $part" >&2; exit 2; }
    if "$build/perf/link_perf" -b 1 -e 1 "$name" 2>&1 | grep -q 'no transport is called'; then
        skip "$build has no transport $name: it was built without libibverbs (libibverbs-dev)"
        finish
    fi
    before=$((passed + failed + skipped))
    "part_$part" "${each#*:}" || { echo "making the network failed" >"$work/log"; result "$each" no "$work/log"; }
    [ $((passed + failed + skipped)) -gt $before ] || { echo "nothing ran" >"$work/log"; result "$each" no "$work/log"; }
done
finish
