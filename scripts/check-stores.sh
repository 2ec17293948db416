#!/usr/bin/env bash
# What `esker doctor` says of stores: of a directory, the test S3 server, LocalStack, MinIO and moto, which must pass; of
# s3s-fs and of the test server with each of its weaknesses, which must fail. Prints a table; exits 1 where one is wrong.
# Usage: scripts/check-stores.sh [STACK...], e.g. `localstack minio`; all, and s3s-fs, when none is named. With
# ESKER set nothing is built: that binary is asked, and the server built last.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stacks=("$@")
if ((!$#)); then stacks=(localstack minio moto s3s-fs); fi
if [[ -z ${ESKER:-} ]]; then cargo build --quiet --locked -p esker -p esker-tests --bin esker --bin s3-server; fi
esker=${ESKER:-target/debug/esker}

export AWS_ACCESS_KEY_ID=esker-test AWS_SECRET_ACCESS_KEY=esker-test-secret AWS_REGION=us-east-1 AWS_ALLOW_HTTP=true
scratch=$(mktemp -d)
server=
finish() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT
wrong=0

# judge NAME pass|FAIL STORE: one line of the table.
judge() {
  local found=pass said
  if ! "$esker" --store "$3" doctor >"$scratch/said" 2>"$scratch/err"; then found=FAIL; fi
  said=$(grep -m1 '^BROKEN' "$scratch/said" | sed 's/^BROKEN *//' || true)
  # Failing without saying what is broken is no verdict.
  if [[ $found == FAIL && -z $said ]]; then
    found=ERROR
    said=$(head -n 1 "$scratch/err")
  fi
  local mark=ok
  if [[ $found != "$2" ]]; then
    mark=WRONG
    wrong=1
  fi
  printf '%-20s %-5s %-5s %s\n' "$1" "$found" "$mark" "${said:0:110}"
}

bucket() {
  curl --silent --output /dev/null --request PUT --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$1/esker"
}

judge directory pass "$scratch/directory"

mkfifo "$scratch/endpoint"
target/debug/s3-server >"$scratch/endpoint" 2>/dev/null &
server=$!
read -r endpoint <"$scratch/endpoint"
AWS_ENDPOINT_URL=$endpoint judge "test server" pass s3://esker/sound

for stack in "${stacks[@]}"; do
  started=$(localstack/"$stack.sh" status >/dev/null && echo before || echo here)
  if ! AWS_ENDPOINT_URL=$(localstack/"$stack.sh" start); then
    wrong=1
    continue
  fi
  export AWS_ENDPOINT_URL
  bucket "$AWS_ENDPOINT_URL"
  judge "$stack" "$([[ $stack == s3s-fs ]] && echo FAIL || echo pass)" "s3://esker/doctor-$$"
  [[ $started == before ]] || localstack/"$stack.sh" stop
done

export AWS_ENDPOINT_URL=$endpoint
weaknesses=$(sed -n '/pub const ALL/,/];/s/.*Self::\(\w*\),/\1/p' tests/src/s3/weakness.rs)
[[ -n $weaknesses ]] || { echo "error: tests/src/s3/weakness.rs names no weakness" >&2; exit 1; }
for weakness in $weaknesses; do
  curl --silent --fail --output /dev/null "$endpoint/-/weaken/$weakness"
  judge "$weakness" FAIL "s3://esker/$weakness"
done
exit $wrong
