#!/usr/bin/env bash
# Imports, compacts and exports many rows under a memory limit and checks the peak of each process.
#
#   scripts/check-memory.sh [STORE_URL]
#
# ESKER   the binary [target/release/esker]        ROWS    [1000000]      DIM  [384]
# MEMORY  as --memory takes it, MiB [256]          SLACK   MiB on top [200]
# FILE    a file made by scripts/generate.py [made in WORK]
# WORK    directory for files and scratch, on a disk with room for six times the rows [a temporary one]
# A store that is not named is a directory in WORK. For S3 set AWS_* as for esker.
set -euo pipefail
cd "$(dirname "$0")/.."

esker=${ESKER:-target/release/esker}
rows=${ROWS:-1000000} dim=${DIM:-384} memory=${MEMORY:-256} slack=${SLACK:-200}
work=${WORK:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work/scratch"
store=${1:-$work/store}
file=${FILE:-$work/rows.parquet}
limit=$(((memory + slack) * 1024))
collection=memory-$(date +%s)
if [ ! -e "$file" ]; then
    packages=(numpy==2.4.6 pyarrow==26.0.1)
    source scripts/venv.sh
    "$(venv generate "${packages[@]}")" scripts/generate.py "$rows" "$dim" "$file"
fi
export ESKER_MEMORY="${memory}MiB" ESKER_SCRATCH="$work/scratch"
failed=0

# Runs a command, prints its peak and its time, and notes when the peak is above the limit.
measure() {
    local name=$1 start end peak last=0
    shift
    start=$(date +%s.%N)
    "$@" >"$work/$name.out" 2>"$work/$name.err" &
    local pid=$!
    # The high-water mark only grows: the last value read is the peak, to within the interval.
    while peak=$(awk '/VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null) && [ -n "$peak" ]; do
        last=$peak
        sleep 0.1
    done
    wait "$pid" || { echo "$name failed:"; cat "$work/$name.err"; exit 1; }
    end=$(date +%s.%N)
    ((last > 0)) || { echo "$name ended before it was measured"; exit 1; }
    awk -v n="$name" -v p="$last" -v l="$limit" -v r="$rows" -v t="$(echo "$end $start" | awk '{ print $1 - $2 }')" \
        'BEGIN { printf "%-10s peak %4d MiB of %d, %7.1f s, %d rows/s\n", n, p / 1024, l / 1024, t, r / t }'
    if [ "$last" -gt "$limit" ]; then
        echo "$name took more than $((limit / 1024)) MiB"
        failed=1
    fi
}

run() { "$esker" "$@" --store "$store"; }
measure import "$esker" import "$file" --into "$collection" --compact --format json --store "$store"
measure again "$esker" import "$file" --into "$collection" --compact --format json --store "$store"
measure export "$esker" export "$collection" "$work/out.parquet" --format json --store "$store"
measure sql "$esker" sql "SELECT section, count(*) FROM \"$collection\" GROUP BY section" --format json --store "$store"
found=$(run sql "SELECT count(*) AS n FROM \"$collection\"" --format json | grep -o '"n": *[0-9]*' | grep -o '[0-9]*')
[ "$found" = "$rows" ] || { echo "the collection has $found rows, the file $rows"; exit 1; }
rm -f "$work/out.parquet"
run collection drop "$collection" >/dev/null
exit $failed
