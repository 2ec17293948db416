#!/usr/bin/env bash
# A server stopped in the middle of a write until its slot was collected, then continued: the write is answered
# `unknown`, no snapshot changes, the stray object is swept. Takes some two and a half minutes.
# Usage: scripts/torture/pause.sh [s3://BUCKET/PREFIX]; with AWS_ENDPOINT_URL set that server is used, else the tests' own
# ($S3_SERVER or target/{release,debug}/s3-server). The binary is $ESKER or target/release/esker.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
if [[ -z ${AWS_ENDPOINT_URL:-} ]]; then
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  server=${S3_SERVER:-$root/target/release/s3-server}
  [[ -x $server ]] || server=$root/target/debug/s3-server
  endpoint=$(mktemp)
  "$server" >"$endpoint" 2>/dev/null &
  own=$!
  while [[ ! -s $endpoint ]]; do sleep 0.05; done
  AWS_ENDPOINT_URL=$(<"$endpoint")
  export AWS_ENDPOINT_URL
  rm "$endpoint"
fi
prepare "${1:-s3://esker/pause}"
trap 'finish; [[ -z ${own:-} ]] || kill "$own"' EXIT
python3 "$here/pause.py" "$store"
