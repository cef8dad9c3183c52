#!/usr/bin/env bash
# Draws bus bandwidth and time over size from the CSV of coll_perf.
#   perf/plot.sh RUN.csv [PICTURE.svg|PICTURE.png]
# One line per collective, out of place, with the first of its types, operations and roots; with --peer
# in the run, the peer's beside ours (dashed).
# Needs gnuplot (Debian: gnuplot-nox).
set -eu
case ${1:-} in
-h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
if [ $# -lt 1 ] || [ $# -gt 2 ] || [[ $1 == -* ]]; then
    echo "usage: perf/plot.sh RUN.csv [PICTURE.svg|PICTURE.png]" >&2
    exit 2
fi
csv=$1
[ -r "$csv" ] || { echo "plot.sh: cannot read $csv" >&2; exit 3; }
picture=${2:-${csv%.csv}.svg}
command -v gnuplot >/dev/null || { echo "plot.sh: gnuplot is missing (Debian: apt install gnuplot-nox)" >&2; exit 3; }
case $picture in
*.png) terminal="pngcairo size 1200,560 font 'sans,10'" ;;
*.svg) terminal="svg size 1200,560 font 'sans,11' background 'white'" ;;
*) echo "plot.sh: a picture is a .svg or a .png, not $picture" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One data file per line of the picture: bytes, busbw, us; the peer's busbw follows from the ratio
# of times.
python3 - "$csv" "$work" <<'PY' || exit 3
import csv, sys

table, work = sys.argv[1:]
rows = list(csv.DictReader(open(table, newline="")))
wanted = "collective ranks transport in_place bytes type op root time_us busbw_gbps peer_us peer".split()
if not all(row.get(column) is not None for row in rows for column in wanted):
    sys.exit(f"plot.sh: {table} is no CSV of coll_perf")
kinds = {}
for row in rows:
    name, kind = row["collective"], (row["type"], row["op"], row["root"])
    if row["bytes"] == "0" or row["in_place"] == "1" or kinds.setdefault(name, kind) != kind:
        continue
    size, busbw, us = row["bytes"], float(row["busbw_gbps"]), float(row["time_us"])
    print(size, busbw, us, file=open(f"{work}/{name}.ours", "a"))
    if row["peer_us"]:
        peer = float(row["peer_us"])
        print(size, busbw * us / peer, peer, file=open(f"{work}/{name}.peer", "a"))
if kinds:
    print("\n".join(kinds), file=open(f"{work}/names", "w"))
    print(f"{row['ranks']} ranks, transport {row['transport']}", file=open(f"{work}/title", "w"))
    print(row["peer"], file=open(f"{work}/peer", "w"))
PY
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
set output '$work/picture'
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
cp "$work/picture" "$picture" || exit 3
echo "$picture"
