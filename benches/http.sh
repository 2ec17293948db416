#!/usr/bin/env bash
# What HTTP adds, and what a server takes: benches/http.sh DATASET [options of over_http.py]
# DATASET is the folder of deb63k. Measures $ESKER or target/release/esker; writes benches/results/http.json and the tables.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dataset=$(cd "${1:?usage: benches/http.sh DATASET [options]}" && pwd)
shift
esker=$(realpath "${ESKER:-$here/../target/release/esker}")

packages=(fastavro==1.13.1 numpy==2.4.6 pyarrow==26.0.1)
key=$(printf '%s\n' "${packages[@]}" "$(python3 --version)" | sha256sum | cut -c1-12)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/esker/http-$key
if [[ ! -f $venv/complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
  touch "$venv/complete"
fi

"$venv/bin/python" "$here/over_http.py" "$dataset" --esker "$esker" "$@"
python3 "$here/tables.py"
