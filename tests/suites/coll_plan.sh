#!/usr/bin/env bash
# coll_plan as its users drive it: the list, a program, prices, proofs, mistakes.
#   BUILD: build directory (default build)
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
plan=$build/perf/coll_plan
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# name expected-status text-that-must-appear command...: the text may be on either stream
run() {
    local name=$1 expected=$2 text=$3 status
    shift 3
    timeout -k 2 120 "$@" >"$work/out" 2>&1
    status=$?
    if [ $status -eq "$expected" ] && grep -qF -- "$text" "$work/out"; then
        passed=$((passed + 1)); echo "  ok      $name"
    else
        failed=$((failed + 1)); echo "  FAILED  $name (status $status, expected $expected)"
        tail -n 15 "$work/out" | sed 's/^/    /'
    fi
}

run "help" 0 "usage: coll_plan" $plan --help
run "list" 0 "Patarasuk and Yuan" $plan list
run "list of one collective" 0 "dissemination" $plan list barrier
run "a program" 0 "send   in[0..8) to 1" $plan show allreduce:ring --ranks 2 --count 4
run "a program in place, on nodes" 0 "2 nodes of 2" $plan show allgather:ring --nodes 2x2 --rank 3 --in-place
run "a program of another root" 0 "from 2" $plan show broadcast:flat --ranks 3 --root 2 --rank 1
run "prices" 0 "allreduce, predicted us" $plan cost allreduce --ranks 16 -b 1K -e 1M -f 4
run "prices of every collective" 0 "alltoallv, predicted us" $plan cost --nodes 2x4 --net-us 5 --net-gbps 12.5
run "a proof" 0 "1 algorithm proved, 0 failed, 0 without a world that fits" $plan verify allreduce:ring --ranks 1..4,7 --effort 100
run "a proof of every algorithm" 0 " 0 failed" $plan verify --ranks 5,6 --effort 100
run "a proof for given nodes" 0 " 0 failed" $plan verify allreduce alltoall --nodes 3x2 --effort 500
run "who fits no world is not proved" 0 "1 algorithm proved, 0 failed, 1 without a world that fits" \
    $plan verify allreduce:ring allreduce:hier --ranks 2 --effort 10
run "nothing to prove" 1 "0 algorithms proved, 0 failed, 1 without a world that fits" $plan verify allreduce:hier --ranks 2
run "no command" 2 "usage: coll_plan" $plan
run "an unknown command" 2 "no command 'prove'" $plan prove
run "an unknown algorithm" 2 "no algorithm 'allreduce:rign'" $plan verify allreduce:rign
run "a bad number of ranks" 2 "--ranks wants up to 256 numbers from 1 to 65536, as 1..4,7, not '0'" $plan verify --ranks 0
run "a bad size" 2 "-b wants a number (K, M, G allowed) above 0, not '12X'" $plan cost -b 12X
run "more nodes than a number holds" 2 "--nodes wants AxB" $plan show allreduce:ring --nodes 4294967297x1
run "nodes below none" 2 "--nodes wants AxB" $plan show allreduce:ring --nodes -4294967295x1
run "ranks below none" 2 "--ranks wants up to" $plan verify --ranks -18446744073709551615
run "a list of ranks that goes on" 2 "--ranks wants up to" $plan verify --ranks 4,
run "the most ranks that one command names" 2 "takes one number of ranks (--ranks), not 256" $plan cost --ranks 1..16,1..240
run "one more" 2 "--ranks wants up to 256" $plan verify --ranks 1..16,1..241
run "two worlds" 2 "--ranks and --nodes both say which world" $plan cost --nodes 2x2 --ranks 3
run "two numbers of ranks" 2 "cost takes one number of ranks (--ranks), not 2" $plan cost --ranks 2,3
run "a collective, but no algorithm" 2 "show needs one COLL:ALGO, such as allreduce:ring" $plan show allreduce
run "a latency for ever" 2 "--node-us wants microseconds up to 1000000, as 0.5, not 'inf'" $plan cost --node-us inf
run "no bandwidth" 2 "--net-gbps wants GB/s from 0.000001 to 1000000, as 12.5, not '1e-300'" $plan cost --net-gbps 1e-300
run "a barrier has one price" 0 "           0 " $plan cost barrier --ranks 4
run "version" 0 "coll_plan, tutti $(sed -n "s/^ *version: '\(.*\)',/\1/p" meson.build)" $plan --version
run "sizes upside down" 2 "(-e, 1048576) is below the first (-b, 2097152)" $plan cost allreduce -b 2M -e 1M
run "a factor beyond every size" 2 "-f wants a number from 2 to 1M" $plan cost allreduce -f 4194304G
run "an option of another command" 2 "-b does not belong to show, but to: cost" $plan show allreduce:ring -b 16M
run "a long option of another command" 2 "--effort does not belong to cost" $plan cost --effort 5 allreduce
run "a rank that is not there" 2 "must be below 4" $plan show allreduce:ring --ranks 4 --rank 4
run "an algorithm that does not fit" 1 "does not fit" $plan show allreduce:hier --ranks 4

# Nobody sees what it prints: that is an error, said once.
lost() { # name reason command...
    local name=$1 reason=$2
    shift 2
    run "$name" 3 "coll_plan: the output was not written completely: $reason" "$@"
}
for words in --help list "show allreduce:ring" "show allreduce:ring --count 1G" "cost allreduce" \
    "verify allreduce:ring --ranks 2 --effort 10"; do
    lost "a full disk, coll_plan $words" "No space left on device" sh -c "$plan $words >/dev/full"
done
lost "no standard output" "Bad file descriptor" sh -c "$plan list >&-"
run "a reader that goes away" 0 "" sh -c "$plan list | head -n 1"

echo "suite coll_plan: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
