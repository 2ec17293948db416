#!/usr/bin/env bash
# kill -9 at random moments of imports, compactions, collections and servers: every acknowledged row is there, once.
# Usage: scripts/torture/kill.sh STORE_URL [--rounds 20] [--seed 1] [--only import,compact,gc,serve]
# The binary is $ESKER or target/release/esker. Prints a table; exits 1 where something is wrong, and keeps what is left.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
prepare "${1:?usage: kill.sh STORE_URL [--rounds 20] [--seed 1] [--only import,compact,gc,serve]}"
shift
python3 "$here/kill.py" "$store" "$@"
