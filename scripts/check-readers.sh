#!/usr/bin/env bash
# Other people's libraries read what Esker wrote: scripts/check-readers.py in a virtual environment with pinned readers.
# Usage: scripts/check-readers.sh [path of the esker binary]. Builds the binary when none is given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readers=(pyarrow==26.0.1 duckdb==2.0.0 fastavro==1.13.1 pyroaring==1.2.0)

esker=${1:-}
if [[ -z $esker ]]; then
  cargo build --locked --bin esker
  esker=target/debug/esker
fi

# One environment per set of pins, kept between runs.
key=$(printf '%s\n' "${readers[@]}" "$(python3 --version)" | sha256sum | cut -c1-12)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/esker/readers-$key
if [[ ! -f $venv/complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${readers[@]}"
  touch "$venv/complete"
fi

exec "$venv/bin/python" scripts/check-readers.py "$esker"
