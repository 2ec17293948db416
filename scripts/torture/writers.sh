#!/usr/bin/env bash
# Many writer processes on one store, each a server without compaction with one client, beside a compactor: commits/s.
# Usage: scripts/torture/writers.sh STORE_URL [--processes 16] [--minutes 1] [--seed 1]; $ESKER or target/release/esker.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
prepare "${1:?usage: writers.sh STORE_URL [--processes 16] [--minutes 1] [--seed 1]}"
shift
processes=16 options=()
while (($#)); do
  case $1 in
    --processes) processes=$2; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done
# A reader for the last two servers only: what is measured is writing.
python3 "$here/many.py" "$store" --servers "$processes" --writers 1 --readers 1 --read-at 2 --minutes 1 "${options[@]}"
