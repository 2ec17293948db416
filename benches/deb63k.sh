#!/usr/bin/env bash
# The deb63k measurement, one command: benches/deb63k.sh DATASET [options of deb63k.py]
# DATASET is the folder with base.parquet, queries.parquet and ground_truth.json. Builds the release binaries, installs
# the peer into a virtual environment that is kept, measures, and writes benches/results/deb63k.json and the tables.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dataset=${1:?usage: benches/deb63k.sh DATASET [options]}
dataset=$(cd "$dataset" && pwd)
shift
cd "$here/.."

packages=(lancedb==0.40.0 pyarrow==26.0.1 duckdb==2.0.0 numpy==2.4.6)

cargo build --release --locked -p esker -p esker-tests --bin esker --bin s3-server

key=$(printf '%s\n' "${packages[@]}" "$(python3 --version)" | sha256sum | cut -c1-12)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/esker/peer-$key
if [[ ! -f $venv/complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
  touch "$venv/complete"
fi

RUST_LOG=error "$venv/bin/python" benches/deb63k.py "$dataset" "$@"
python3 benches/tables.py
