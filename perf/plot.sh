#!/usr/bin/env bash
# Draws bus bandwidth and time over size from the CSV of coll_perf.
#   perf/plot.sh RUN.csv [PICTURE.svg|PICTURE.png]
# One line per collective and placement; with --peer in the run, the peer's beside ours (dashed).
# Needs gnuplot (Debian: gnuplot-nox).
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -r "${1:-}" ]; then
    echo "usage: perf/plot.sh RUN.csv [PICTURE.svg|PICTURE.png]" >&2
    exit 2
fi
csv=$1
picture=${2:-${csv%.csv}.svg}
command -v gnuplot >/dev/null || { echo "plot.sh: gnuplot is missing (Debian: apt install gnuplot-nox)" >&2; exit 3; }
case $picture in
*.png) terminal="pngcairo size 1200,560 font 'sans,10'" ;;
*) terminal="svg size 1200,560 font 'sans,11' background 'white'" ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One data file per line of the picture: bytes, busbw, us; the peer's busbw follows from the ratio
# of times. Only the first type, operation and root of each collective is drawn.
awk -F, -v dir="$work" '
    NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    $at["bytes"] == 0 { next }
    {
        kind = $at["type"] " " $at["op"] " " $at["root"]; name = $at["collective"]
        if (!(name in first)) { first[name] = kind; order[++count] = name }
        if (first[name] != kind || $at["in_place"] == 1) next
        file = dir "/" name ".ours"
        print $at["bytes"], $at["busbw_gbps"], $at["time_us"] >file
        if ($at["peer_us"] != "") {
            busbw = $at["busbw_gbps"] * $at["time_us"] / $at["peer_us"]
            print $at["bytes"], busbw, $at["peer_us"] >(dir "/" name ".peer")
        }
        peer = $at["peer"]; ranks = $at["ranks"]; transport = $at["transport"]; gsub(/"/, "", transport)
    }
    END {
        for (i = 1; i <= count; i++) print order[i] >(dir "/names")
        print ranks " ranks, transport " transport >(dir "/title")
        print peer >(dir "/peer")
    }' "$csv"
[ -s "$work/names" ] || { echo "plot.sh: $csv has no rows to draw" >&2; exit 3; }

curves() { # column
    local i=0 line= name
    while read -r name; do
        i=$((i + 1))
        line="$line${line:+, }'$work/$name.ours' using 1:$1 with linespoints lc $i pt 7 ps 0.5 lw 2 title '${name//_/ }'"
        [ -e "$work/$name.peer" ] &&
            line="$line, '$work/$name.peer' using 1:$1 with linespoints lc $i pt 6 ps 0.5 dt 2 title '${name//_/ }, $(cat "$work/peer")'"
    done <"$work/names"
    echo "$line"
}
gnuplot <<PLOT
set terminal $terminal
set output '$picture'
set multiplot layout 1,2 title '$(cat "$work/title")'
set logscale x 2
set format x '%.0b%B'
set xlabel 'size (bytes)'
set grid lc rgb '#dddddd'
set key top left reverse Left samplen 2
set ylabel 'bus bandwidth (GB/s)'
set yrange [0:*]
plot $(curves 2)
set ylabel 'time (us)'
set logscale y 10
set yrange [*:*]
plot $(curves 3)
PLOT
echo "$picture"
