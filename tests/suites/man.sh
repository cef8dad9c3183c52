#!/usr/bin/env bash
# The manual pages of the tools say what the tools say: every option of --help and no other, every
# collective and transport; and they are well formed. --help fits a terminal.
#   BUILD: build directory (default build)
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${BUILD:-build}
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

result() { # name; status of what ran before, which wrote to $work/log
    if [ $? -eq 0 ]; then
        passed=$((passed + 1)); echo "  ok      $1"
    else
        failed=$((failed + 1)); echo "  FAILED  $1"
        sed 's/^/    /' "$work/log"
    fi
}

for tool in coll_perf coll_plan link_perf; do
    page=perf/$tool.1
    "$build/perf/$tool" --help >"$work/help"
    # mpirun's -np is no option of ours.
    grep -oE '(^|[ [(])--?[a-zA-Z][a-z-]*' "$work/help" | tr -d '[( ' | grep -vx -e -np | sort -u >"$work/options"
    grep -oE 'Fl -?[a-zA-Z][a-z-]*' "$page" | sed 's/Fl /-/' | sort -u >"$work/described"
    awk 'length > 80' "$work/help" >"$work/log"
    [ ! -s "$work/log" ]
    result "the help of $tool fits into 80 columns"
    [ -s "$work/options" ] && diff "$work/options" "$work/described" >"$work/log"
    result "the options of $tool (<: of --help alone, >: of the page alone)"
    sed -n '/^collectives:/,/^$/{/:/d;p}; s/^Transports.*: //p' "$work/help" | tr -cs 'a-z_\n' '\n' | grep . |
        while read -r word; do
            grep -qw "$word" "$page" || echo "$page does not name $word"
        done >"$work/log"
    [ ! -s "$work/log" ]
    result "what $tool works on"
    if command -v mandoc >/dev/null; then
        mandoc -T lint -W warning "$page" >"$work/log" 2>&1
        result "the page of $tool, to mandoc"
    elif command -v groff >/dev/null; then
        groff -mandoc -Tutf8 -ww -z "$page" >"$work/log" 2>&1 && [ ! -s "$work/log" ]
        result "the page of $tool, to groff"
    else
        skipped=$((skipped + 1)); echo "  SKIPPED: neither mandoc nor groff is installed to read $page"
    fi
done
echo "suite man: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
