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

source scripts/venv.sh
python=$(venv readers "${readers[@]}")

exec "$python" scripts/check-readers.py "$esker"
