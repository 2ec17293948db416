#!/usr/bin/env bash
# Many writer processes on one store: commits/s.
# Usage: scripts/torture/writers.sh STORE_URL [--processes 16] [--minutes 1] [--seed 1]: servers without compaction with one
# client each, beside a compactor, judged by an oracle; $ESKER or target/release/esker.
# Or: scripts/torture/writers.sh STORE_URL --bare [--processes 200] [--seconds 20] [--direct]: processes that do nothing but
# write, and the requests of each write; --direct keeps them from combining. Also $WRITER or target/release/writer, built by
# `cargo build --release -p esker-tests --bin writer`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
prepare "${1:?usage: writers.sh STORE_URL [--bare] [--processes 16] [--minutes 1] [--seed 1]}"
shift
processes=16 bare='' options=()
while (($#)); do
  case $1 in
    --processes) processes=$2; shift 2 ;;
    --bare) bare=1; shift ;;
    *) options+=("$1"); shift ;;
  esac
done
if [[ $bare ]]; then
  export WRITER=${WRITER:-$here/../../target/release/writer}
  [[ -x $WRITER ]] || { echo "error: there is no $WRITER; build it, or name another with WRITER" >&2; exit 1; }
  python3 "$here/bare.py" "$store" --processes "$processes" "${options[@]}"
  exit
fi
# A reader for the last two servers only: what is measured is writing.
python3 "$here/many.py" "$store" --servers "$processes" --writers 1 --readers 1 --read-at 2 --minutes 1 "${options[@]}"
