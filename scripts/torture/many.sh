#!/usr/bin/env bash
# Two servers and a separate compactor on one store, writers and readers on both; an oracle judges every answer.
# Usage: scripts/torture/many.sh STORE_URL [--minutes 5] [--seed 1]; the binary is $ESKER or target/release/esker.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
prepare "${1:?usage: many.sh STORE_URL [--minutes 5] [--seed 1]}"
shift
python3 "$here/many.py" "$store" --servers 2 --writers 4 --readers 2 "$@"
