#!/usr/bin/env bash
# coll_perf as its users drive it: every collective, type, operation and root over each transport
# with zero wrong; the table and the files that programs read; mistakes; ranks that die.
#   BUILD: build directory (default build)
#   FAST=1: fewer types and sizes
set -u
cd "$(dirname "$0")/../.."
build=${BUILD:-build}
perf=$build/perf/coll_perf
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

result() { # name good
    if [ "$2" = yes ]; then
        passed=$((passed + 1)); echo "  ok      $1"
    else
        failed=$((failed + 1)); echo "  FAILED  $1"
        tail -n 15 "$work/out" "$work/err" 2>/dev/null | sed 's/^/    /'
    fi
}

# name expected-status text-that-must-appear command...: the text may be on either stream
run() {
    local name=$1 expected=$2 text=$3 status good=no
    shift 3
    timeout -k 2 "${LIMIT:-120}" "$@" >"$work/out" 2>"$work/err"
    status=$?
    [ $status -eq "$expected" ] && cat "$work/out" "$work/err" | grep -qF -- "$text" && good=yes
    [ $status -eq "$expected" ] || echo "    status $status, expected $expected" >>"$work/err"
    result "$name" $good
}

ok="Out of bounds values : 0 OK"
types="-d all -o all -b 4 -e 64K -f 16"
[ "${FAST:-0}" = 1 ] && types="-d int8,float16,float32,uint64,float8_e5m2 -o sum,avg,prod,bxor -b 4 -e 4K -f 32"
LIMIT=400
run "every collective, type and operation over shm, 3 ranks" 0 "$ok" $perf all --ranks 3 --transport shm $types -n 2 -w 1
run "every collective, type and operation over tcp, 3 ranks" 0 "$ok" $perf all --ranks 3 --transport tcp $types -n 2 -w 1
LIMIT=120
run "ranks as threads" 0 "$ok" $perf all --threads 5 -b 8 -e 32K -f 16 -n 3
run "processes of threads" 0 "$ok" $perf all --ranks 2 --threads 2 -b 8 -e 32K -f 16 -n 3
run "every root" 0 "$ok" $perf broadcast reduce gather scatterv --ranks 4 -r all -b 1K -e 1K -n 3
run "more ranks than cores" 0 "$ok" $perf allreduce alltoall --ranks $(($(nproc) * 4)) -b 8 -e 1M -f 64 -n 3
run "ordinary memory" 0 "$ok" $perf all --ranks 3 --memory malloc -b 100 -e 1M -f 100 -n 2
run "counts of zero and sizes by increment" 0 "$ok" $perf all --ranks 3 -b 0 -e 60 -i 20 -n 2
run "one rank, no launcher" 0 "1 rank on 1 host" $perf all -b 8 -e 4K -f 16 -n 2
run "how to have more" 0 "#  One rank: --ranks N starts local ones" $perf allreduce -b 8 -e 8 -n 2
run "no check" 0 "N/A" $perf allreduce --ranks 2 -c 0 -b 8 -e 8 -n 2 --json "$work/j"
good=no
python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["wrong"] is not None)' "$work/j" && good=yes
result "no check, no number of wrong elements in the JSON" $good
for coll in alltoallv allgatherv reduce_scatterv gatherv scatterv; do
    run "the plan and why, $coll" 0 "* " $perf $coll --ranks 2 -v -b 4K -e 4K -n 2 --csv "$work/c"
    good=no
    awk -F, 'NR > 1 && ($23 == "" || $24 == "") { exit 1 }' "$work/c" && good=yes
    result "the plan and its price in the CSV, $coll" $good
done
run "a transfer has a price" 0 "has no plan to choose" $perf sendrecv --ranks 2 -v -b 4K -e 4K -n 2
run "who shares what" 0 "2 ranks on 1 host, sharing " $perf allreduce --ranks 2 -v -b 8 -e 8 -n 2
# Alone and in place there is nothing to do, unless the input is written.
for rewrite in "" --rewrite; do
    run "input that ${rewrite:-is not rewritten}" 0 "$ok" $perf allreduce $rewrite -b 16M -e 16M -n 5 --json "$work/j$rewrite"
done
good=no
python3 - "$work/j" "$work/j--rewrite" 2>>"$work/err" <<'PY' && good=yes
import json, sys
kept, written = (json.load(open(name)) for name in sys.argv[1:])
assert not kept["rewrite"] and written["rewrite"]
kept, written = (run["rows"][0]["in_place"]["time_us"] for run in (kept, written))
assert written > 100 * kept, (kept, written)
PY
result "--rewrite writes 16 MB for each call" $good
run "--rewrite at each root, with each layout" 0 "input written before each call" \
    $perf all --rewrite --ranks 3 -r all -b 1K -e 64K -f 64 -n 3
run "the plan and why" 0 "* " $perf allreduce --ranks 2 -v -b 8 -e 8 -n 2
run "the transport that the environment names" 0 "1 host, transport tcp, memory" \
    env TUTTI_TRANSPORTS=tcp $perf allreduce --ranks 2 -b 8 -e 8 -n 2 --csv "$work/c" --json "$work/j"
good=no
grep -q "Summary: 2 ranks, transport tcp" "$work/out" && grep -q '"transport": "tcp"' "$work/j" &&
    grep -q '^allreduce,2,1,"tcp",' "$work/c" && good=yes
result "that transport in the summary, JSON and CSV" $good
run "the summary" 0 "best busbw" $perf allreduce --ranks 2 -b 64K -e 64K -n 2
run "settings" 0 "TUTTI_TRANSPORTS" $perf --settings
run "settings, one of them wrong" 2 "TUTTI_LANES=99 is out of range" env TUTTI_LANES=99 $perf --settings
run "help" 0 "usage: coll_perf" $perf --help

run "table, JSON and CSV" 0 "$ok" $perf all_reduce barrier --ranks 2 -b 8 -e 2K -f 16 -n 4 --json "$work/j" --csv "$work/c"
good=no
awk '!/^#/ { rows++; if (NF != 13) bad++ } /^# Out of bounds values : 0 OK/ { ends++ }
     /^# Avg bus bandwidth    : [0-9.]+/ { ends++ } END { exit !(rows == 4 && !bad && ends == 4) }' "$work/out" && good=yes
result "thirteen columns in each row, two footers in each table" $good
good=no
python3 - "$work/j" "$work/c" 2>>"$work/err" <<'PY' && good=yes
import csv, json, sys
run = json.load(open(sys.argv[1]))
assert run["ranks"] == 2 and run["wrong"] == 0 and len(run["rows"]) == 4, run
timing = run["rows"][0]["out_of_place"]
assert 0 < timing["min_us"] <= timing["median_us"] <= timing["p99_us"], timing
rows = list(csv.DictReader(open(sys.argv[2])))
assert len(rows) == 3 * 2 + 1 and all(None not in r and None not in r.values() for r in rows), rows
PY
result "JSON and CSV can be read and agree" $good
dashes() { # name columns: those of its one row that have no number
    local good=no
    [ "$(awk '/^#/ { next } { for (i = 1; i <= NF; i++) if ($i == "-") printf "%d ", i; print NF }' "$work/out")" = \
        "$2 13" ] && good=yes
    result "$1" $good
}
run "a table of a barrier" 0 "$ok" $perf barrier --ranks 2 -n 2
dashes "a barrier has no type, no bandwidth and nothing in place" "3 7 8 10 11 12 13"
run "a table of a transfer" 0 "$ok" $perf sendrecv --ranks 2 -b 8 -e 8 -n 2
dashes "a transfer has nothing in place" "10 11 12 13"
run "a table for the README from the CSV" 0 "| 128 | " perf/peer_table.py "$work/c"
run "a table of what is no CSV" 1 "is no CSV of coll_perf" perf/peer_table.py "$work/j"
run "verbs_compare without a build" 2 "there is no perf/link_perf in $work: build it there" \
    perf/verbs_compare --build "$work"
run "the help of plot.sh" 0 "Draws bus bandwidth" perf/plot.sh --help
run "the help of quickstart builds nothing" 0 "From a clean clone" perf/quickstart --help
if command -v gnuplot >/dev/null; then
    run "a picture from the CSV" 0 "$work/c.svg" perf/plot.sh "$work/c" "$work/c.svg"
    good=no
    grep -q '</svg>' "$work/c.svg" && good=yes
    result "the picture is whole" $good
    run "a CSV of a list of transports" 0 "$ok" $perf allreduce --ranks 2 --transport shm,tcp -b 8 -e 2K -n 4 --csv "$work/l.csv"
    run "its picture" 0 "$work/it's.svg" perf/plot.sh "$work/l.csv" "$work/it's.svg"
    good=no
    grep -q '2 ranks, transport shm,tcp' "$work/it's.svg" && good=yes
    result "its title" $good
    run "a picture of another kind" 2 "a .svg or a .png, not $work/c.pdf" perf/plot.sh "$work/c" "$work/c.pdf"
    run "a picture that cannot be written" 3 "No such file" perf/plot.sh "$work/c" /nonexistent/c.svg
    run "a picture of what is no CSV" 3 "is no CSV of coll_perf" perf/plot.sh "$work/j" "$work/j.svg"
else
    skipped=$((skipped + 1)); echo "  SKIPPED: plot.sh needs gnuplot, which is not installed"
fi

run "a collective that is none" 2 'no collective is called "allfoo"' $perf allfoo
run "a type that is none" 2 '-d does not know "float13"' $perf allreduce -d float13
run "a size that is none" 2 'not "4Q"' $perf allreduce -b 4Q
run "an operation that goes with no type" 2 "nothing to reduce" $perf allreduce -d float32 -o band
run "a root that is no rank" 2 "the root (-r 2) must be below the number of ranks, 2" $perf broadcast --ranks 2 -r 2
run "a root beyond the one rank" 2 "the root (-r 1) must be below the number of ranks, 1" $perf broadcast -r 1
run "turns with nobody" 2 "--blocks counts turns with another library: name it by --peer" $perf allreduce --ranks 2 --blocks 7
run "a factor beyond every size" 2 "-f wants a number (K, M, G allowed) from 2 to 1048576" $perf allreduce -f 1G
run "sizes upside down" 2 "the last size (-e, 1M) is below the first (-b, 2M)" $perf allreduce -b 2M -e 1M
run "a first size above the last that was not given" 2 "(-e, 16M) is below the first (-b, 64M)" $perf allreduce -b 64M
run "GPU memory rewritten" 2 "--rewrite writes host memory: not with --memory cuda" $perf allreduce --rewrite --memory cuda
run "one file for two formats" 2 "--json and --csv name one file" $perf allreduce --json "$work/x" --csv "$work/x"
once() { # name status text command...: nothing on stderr but one line
    local good=no
    run "$@"
    [ "$(wc -l <"$work/err")" = 1 ] && good=yes
    result "$1: said once" $good
}
one_sentence() { # name text command...
    once "$1" 2 "${@:2}"
}
once "a file that cannot be written" 3 "cannot write /nonexistent/file: No such file" \
    $perf allreduce --ranks 3 --json /nonexistent/file
one_sentence "an algorithm that is none" "nosuch" $perf allreduce --ranks 3 --algo nosuch -e 8
one_sentence "an algorithm of a transfer" 'has no algorithm "ring"; it has: none, a transfer takes its link' \
    $perf sendrecv --ranks 3 --algo ring -e 8
one_sentence "a transport that is none" "nosuch" $perf allreduce --ranks 3 --transport nosuch -e 8
one_sentence "no transport at all" "names no transport: expected some of inproc, shm" \
    $perf allreduce --ranks 3 --transport "" -e 8
one_sentence "auto beside a transport" "TUTTI_TRANSPORTS=shm,auto: auto stands for every transport" \
    $perf allreduce --ranks 3 --transport shm,auto -e 8
once "buffers beyond the memory there is" 3 "rank 0: buffers (-e bytes each for in and out): allocate" \
    $perf allreduce --ranks 3 -e 4000G
one_sentence "lanes out of range" "TUTTI_LANES=99 is out of range" $perf allreduce --ranks 3 --lanes 99 -e 8
one_sentence "an interface that is none" "TUTTI_INTERFACE=nosuch0 matches no interface" \
    env TUTTI_INTERFACE=nosuch0 $perf allreduce --ranks 3 -e 8
once "GPU memory without GPUs" 3 "coll_perf: --memory cuda: no GPU memory: TUTTI_CUDA=0" \
    env TUTTI_CUDA=0 $perf allreduce --ranks 3 --memory cuda -e 8
one_sentence "a setting that is none" "TUTTI_CHUNKS is no setting" env TUTTI_CHUNKS=4 $perf allreduce --ranks 3 -e 8

# Who reads goes away, or the disk is full.
closed() { # name command...: ends as a single process does, without a word
    local name=$1 good=no
    shift
    timeout -k 2 60 "$@" 2>"$work/err" | head -n 3 >"$work/out"
    [ "${PIPESTATUS[0]}" = 141 ] && [ ! -s "$work/err" ] && good=yes
    result "$name" $good
}
full() { # name command...
    local name=$1 good=no
    shift
    timeout -k 2 60 "$@" >/dev/full 2>"$work/err"
    [ $? = 3 ] && [ "$(grep -c "No space left on device" "$work/err")" = "$(wc -l <"$work/err")" ] && good=yes
    result "$name" $good
}
shut() { # name command...: standard output is closed, and nothing else gets the table
    local name=$1 good=no
    shift
    timeout -k 2 60 "$@" >&- 2>"$work/err"
    [ $? = 3 ] && grep -q "Bad file descriptor" "$work/err" && good=yes
    result "$name" $good
}
closed "a pipe that closes ends the run" $perf all --ranks 4 -e 64
closed "a pipe that closes ends the run of threads" $perf all --threads 4 -e 64
full "a table that cannot be written" $perf allreduce --ranks 2 -b 8 -e 8
full "help that cannot be written" $perf --help
full "settings that cannot be written" $perf --settings
shut "a table without a standard output" $perf allreduce --ranks 2 -b 8 -e 8
for kind in csv json; do
    once "a disk full of $kind" 3 "/dev/full was not written completely: No space left on device" \
        $perf allreduce barrier --ranks 2 -b 8 -e 8 --$kind /dev/full
done
if [ -x "$build/perf/link_perf" ]; then
    closed "a pipe that closes ends link_perf" "$build/perf/link_perf" -e 64K shm tcp
    full "a table of link_perf that cannot be written" "$build/perf/link_perf" -e 16 shm
    full "a table of link_perf's threads that cannot be written" "$build/perf/link_perf" -e 16 inproc
    full "help of link_perf that cannot be written" "$build/perf/link_perf" --help
    shut "link_perf without a standard output" "$build/perf/link_perf" -e 16 shm
fi

# Ranks that are gone: the run ends with a sentence, and nothing is left.
endless="$perf allreduce --ranks 4 -b 4K -e 4K -n 100000000"
ends_well() { # name signal target(rank|parent) text
    timeout 60 $endless >"$work/out" 2>"$work/err" &
    local outer=$! parent child status good=no left alive=0
    sleep 2
    parent=$(pgrep -P $outer | head -n 1)
    child=$(pgrep -P "${parent:-0}" | sed -n 2p)
    left=$(pgrep -P "${parent:-0}" | tr '\n' ' ')
    [ "$3" = rank ] && kill -"$2" "${child:-0}" 2>/dev/null || kill -"$2" "${parent:-0}" 2>/dev/null
    wait $outer 2>/dev/null
    status=$?
    for _ in $(seq 50); do # nothing may be alive; init buries the dead when it likes
        alive=$(ps -o stat= -p "$(echo $left | tr ' ' ',')" | grep -vc Z)
        [ "$alive" -eq 0 ] && break
        sleep 0.1
    done
    if { [ "$4" = - ] || { [ $status -eq 3 ] && grep -q -- "$4" "$work/err"; }; } && [ -n "$left" ] &&
        [ "$alive" -eq 0 ]; then
        good=yes
    fi
    echo "    status $status" >>"$work/err"
    result "$1" $good
}
ends_well "a rank is killed: the run ends, names it and leaves nothing" KILL rank "rank 1 .*\(was killed by signal 9\|has died\)"
ends_well "the run is terminated: nothing is left" TERM parent "stopped by signal 15"
ends_well "the parent is killed: nothing is left" KILL parent -

if [ -x "$build/perf/link_perf" ]; then
    run "link_perf" 0 " 65536 " "$build/perf/link_perf" -e 64K -f 16
    cpu=$(sed -n 's/^Cpus_allowed_list:.*[^0-9]//p' /proc/self/status)
    taskset -c "$cpu" "$build/perf/link_perf" -e 64K tcp >"$work/out" 2>"$work/err" &
    outer=$! places=
    while kill -0 $outer 2>/dev/null; do
        for child in $(pgrep -P $outer); do
            places="$places $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$child/status" 2>/dev/null)"
        done
        sleep 0.1
    done
    good=no
    [ "$(echo $places | tr ' ' '\n' | sort -u)" = "$cpu" ] && good=yes
    result "link_perf stays on the processors that it was given" $good
    run "link_perf refuses what is no size" 2 "-e wants a number (K, M, G allowed), not \"64X\"" \
        "$build/perf/link_perf" -e 64X
    run "link_perf --help behind others" 0 "usage: link_perf" "$build/perf/link_perf" shm --help
    run "link_perf --help names the transports" 0 "all that work here): inproc, shm, ib" "$build/perf/link_perf" -h
    run "link_perf names the transports there are" 2 "no transport is called \"foo\"; there are inproc, shm" \
        "$build/perf/link_perf" foo
    run "link_perf, sizes upside down" 2 "1 <= -b <= -e <= 64G, not -b 16 -e 8" "$build/perf/link_perf" -b 16 -e 8
    run "link_perf --version" 0 "link_perf, tutti " "$build/perf/link_perf" --version
    once "link_perf, a wrong setting" 2 "link_perf: TUTTI_LOG=foo is unknown" env TUTTI_LOG=foo "$build/perf/link_perf" shm
    run "link_perf -s measures what has events" 0 "# tcp    measured" "$build/perf/link_perf" -s -e 64
    run "link_perf -s says what has none" 3 "# shm    has no events to sleep on (-s)" "$build/perf/link_perf" -s -e 64 shm
    run "link_perf -s says so of threads" 3 "# inproc has no events to sleep on (-s)" "$build/perf/link_perf" -s -e 64 inproc
    run "link_perf, half a pair of namespaces" 2 "-N wants two network namespaces, A,B, not \"a\"" \
        "$build/perf/link_perf" -N a
    run "link_perf, a factor beyond every size" 2 "-f must be 2 to 1M" "$build/perf/link_perf" -f 4G
    if unshare -rn true 2>/dev/null; then
        run "link_perf, a host without interfaces" 3 "tcp    does not work here: no network interface is up" \
            unshare -rn "$build/perf/link_perf" -e 16 ib tcp
    else
        skipped=$((skipped + 1)); echo "  SKIPPED: no network namespace can be made here (unshare -rn)"
    fi
    if ! ls /sys/class/infiniband/* >/dev/null 2>&1; then
        run "link_perf, a transport that does not work here" 3 "ib     does not work here" "$build/perf/link_perf" ib
    fi
fi
echo "suite coll_perf: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
