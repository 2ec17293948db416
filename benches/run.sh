#!/usr/bin/env bash
# All measurements beside other engines, one command: benches/run.sh DEB63K WORK [PART...]
#
# DEB63K  the folder with base.parquet, queries.parquet and ground_truth.json
# WORK    a folder for the generated sets, which are kept, and their stores, which are not: 7 GB free for each set of a million
#         rows; `peers` keeps its own in TMPDIR, 8 GB
# PART    deb63k    import, filters, cold, and LanceDB in turns
#         http      what HTTP adds
#         storage   bytes of the compacted deb63k beside its JSON
#         churn     deletes of a query's own rows; ten rounds of overwrites, deletes and new rows
#         cold      fresh processes over S3, beside LanceDB and infino
#         curves    recall and speed on deb63k, beside hnswlib, Faiss, LanceDB and infino
#         sets      generated sets: build, warm and cold, filter grid
#         tail      a set of a million with 100,000 rows that are not indexed yet
#         scale     bytes of a cold search at 100k, 1M and 3M rows of 128 dimensions
#         peers     recall and speed on the generated sets, beside the same four: hours at a million rows
#         tables    the tables and plots again, from the results
#         [default: all but tail, scale and peers]
#
# SETS (easy-100k easy-1m hard-1m clustered-1m) names the generated sets, KIND-ROWS or KIND-ROWS-DIMENSIONS (768); of them, GRID
# (easy-1m) those whose filter grid is measured, FOUR (easy-1m) those that are measured in four segments, too; PEERS (easy-100k)
# the sets of the part of that name; SCALE (easy-100k-128 easy-1m-128 easy-3m-128) those of the part `scale`; TAIL (easy-1m) that
# of `tail`. PEERS_OPTIONS and TAIL_OPTIONS are given to benches/curves.py and benches/tail.py: results of a million rows were
# made with `--queries 500 --rounds 2` and `--rounds 3`. ESKER and S3_SERVER name the programs; else they are built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deb63k=$(cd "${1:?usage: benches/run.sh DEB63K WORK [PART...]}" && pwd)
mkdir -p "${2:?usage: benches/run.sh DEB63K WORK [PART...]}"
work=$(cd "$2" && pwd)
shift 2
parts=${*:-deb63k http storage churn cold curves sets tables}
cd "$here/.."

packages=(duckdb==2.0.0 faiss-cpu==1.15.1 fastavro==1.13.1 hnswlib==0.8.0 infino==0.11.0 lancedb==0.40.0 numpy==2.4.6 pyarrow==26.0.1)
# hnswlib has no wheel and is compiled for this processor: a C++ compiler is needed.
source scripts/venv.sh
python=$(venv peers "${packages[@]}")

if [[ -z ${ESKER:-} || -z ${S3_SERVER:-} ]]; then
  cargo build --release --locked -p esker -p esker-tests --bin esker --bin s3-server
fi
ESKER=$(realpath "${ESKER:-target/release/esker}")
S3_SERVER=$(realpath "${S3_SERVER:-target/release/s3-server}")
export ESKER S3_SERVER RUST_LOG=error

# The folder of a set, made if need be.
generated() {
  local kind rows dimensions
  IFS=- read -r kind rows dimensions <<<"$1"
  rows=${rows/m/000k}
  if [[ ! -f $work/$1/near/ground_truth.json ]]; then
    "$python" benches/generate.py "$kind" "${rows/k/000}" "${dimensions:-768}" "$work/$1" >&2
  fi
  echo "$work/$1"
}

# Each set with a store of its own, which is removed; the second argument names those with the grid, the third those that
# are measured in four segments, too.
measure_sets() {
  local set folder
  for set in $1; do
    folder=$(generated "$set")
    rm -rf "$work/store-$set"
    "$python" benches/large.py "$folder" --store "$work/store-$set"
    if [[ " $2 " == *" $set "* ]]; then
      "$python" benches/grid.py "$folder" --store "$work/store-$set"
    fi
    rm -rf "$work/store-$set"
    if [[ " ${3:-} " == *" $set "* ]]; then
      "$python" benches/large.py "$folder" --store "$work/store-$set" --segments
      rm -rf "$work/store-$set"
    fi
  done
}

for part in $parts; do
  case $part in
    deb63k) "$python" benches/deb63k.py "$deb63k" ;;
    http) "$python" benches/over_http.py "$deb63k" --esker "$ESKER" ;;
    storage | churn | cold | curves) "$python" "benches/$part.py" "$deb63k" ;;
    sets) measure_sets "${SETS:-easy-100k easy-1m hard-1m clustered-1m}" "${GRID:-easy-1m}" "${FOUR:-easy-1m}" ;;
    # Options are words.
    # shellcheck disable=SC2086
    tail) "$python" benches/tail.py "$(generated "${TAIL:-easy-1m}")" ${TAIL_OPTIONS:-} ;;
    scale) measure_sets "${SCALE:-easy-100k-128 easy-1m-128 easy-3m-128}" "" ;;
    peers)
      for set in ${PEERS:-easy-100k}; do
        # shellcheck disable=SC2086
        "$python" benches/curves.py "$(generated "$set")" ${PEERS_OPTIONS:-}
      done
      ;;
    tables) ;;
    *) echo "no part is called $part" >&2 && exit 2 ;;
  esac
done
python3 benches/tables.py
