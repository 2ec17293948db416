#!/usr/bin/env bash
# One tour of a real S3 server: create a bucket, doctor, create, import, compact, search, SQL, verify, gc, export, drop.
# Usage: localstack/smoke.sh ENDPOINT [ROWS]; the binary is $ESKER or target/debug/esker. Leaves its prefix behind.
set -euo pipefail

endpoint=${1:?usage: smoke.sh ENDPOINT [ROWS]}
rows=${2:-400}
esker=$(realpath "${ESKER:-$(dirname "${BASH_SOURCE[0]}")/../target/debug/esker}")
bucket=esker-smoke
export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-esker-test}
export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-esker-test-secret}
export AWS_REGION=${AWS_REGION:-us-east-1} AWS_ENDPOINT_URL=$endpoint AWS_ALLOW_HTTP=true
export ESKER_STORE=s3://$bucket/smoke-$$-$RANDOM

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
steps=()

# step NAME COMMAND...: its output goes to $scratch/NAME; on failure everything it said is shown.
step() {
  local name=$1 began=${EPOCHREALTIME/./}
  shift
  if ! "$@" >"$scratch/$name" 2>"$scratch/$name.err"; then
    echo "FAILED: $name: $*" >&2
    cat "$scratch/$name" "$scratch/$name.err" >&2
    exit 1
  fi
  steps+=("$(printf '%-8s %5d ms' "$name" $(((${EPOCHREALTIME/./} - began) / 1000)))")
}

# expect WHAT FOUND WANTED
expect() {
  if [[ $2 != "$3" ]]; then
    echo "FAILED: $1: $2 instead of $3" >&2
    exit 1
  fi
}

# Exists already, or is made. 409 is how servers say that it is ours.
make_bucket() {
  local code
  code=$(curl --silent --show-error --output /dev/null --write-out '%{http_code}' --request PUT \
    --aws-sigv4 "aws:amz:$AWS_REGION:s3" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$endpoint/$bucket")
  [[ $code == 200 || $code == 409 ]] || { echo "creating the bucket was answered $code"; return 1; }
}

# Vectors on a circle: the neighbours of row i are i - 1 and i + 1.
generate() {
  awk -v rows="$rows" 'BEGIN {
    for (i = 0; i < rows; i++) {
      a = 6.283185307179586 * i / rows
      printf "{\"id\":\"row-%04d\",\"vector\":[%.6f,%.6f,0.25,-0.5],\"number\":%d,\"topic\":\"%s\"}\n",
        i, cos(a), sin(a), i, (i % 3 ? "odd" : "third")
    }
  }'
}

step bucket make_bucket
step doctor "$esker" doctor
generate >"$scratch/rows.ndjson"
step create "$esker" collection create smoke --dimension 4 --metric l2
step import "$esker" import "$scratch/rows.ndjson" --into smoke
step compact "$esker" compact smoke
step delete "$esker" delete smoke row-0007
step search "$esker" --format json search smoke --like row-0006 -k 2
expect "the nearest of row-0006" "$(grep -o '"id":"row-[0-9]*"' "$scratch/search" | tr -d '\n')" \
  '"id":"row-0006""id":"row-0005"'
step sql "$esker" --format json sql "SELECT count(*) AS n FROM smoke WHERE topic = 'third'"
expect "rows of a topic" "$(grep -o '"n":[0-9]*' "$scratch/sql")" "\"n\":$(((rows + 2) / 3))"
step verify "$esker" verify smoke
step gc "$esker" gc smoke
step export "$esker" export smoke "$scratch/out.ndjson"
expect "exported rows" "$(wc -l <"$scratch/out.ndjson" | tr -d ' ')" $((rows - 1))
step drop "$esker" collection drop smoke

printf '%s\n' "${steps[@]}"
echo "ok: $endpoint"
