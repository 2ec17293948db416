#!/usr/bin/env bash
# Clients that are not ours, each driven against `esker serve` on an S3 bucket: a table of client, version, result, what
# it did; exits 1 where one failed. Usage: scripts/check-clients.sh [path of the esker binary]; builds it, and the test
# S3 server, when none is given. With AWS_ENDPOINT_URL set (localstack/*.sh) the bucket is there instead. With
# SCHEMATHESIS=SECONDS requests made from /openapi.json follow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

clients=(requests==2.34.2 boto3==1.44.5 pyarrow==26.0.1 duckdb==2.0.0 fastavro==1.13.1 grpcio==1.85.1
  grpcio-reflection==1.85.1)
[[ -z ${SCHEMATHESIS:-} ]] || clients+=(schemathesis==4.32.5)

esker=${1:-}
if [[ -z $esker ]]; then
  cargo build --quiet --locked -p esker -p esker-tests --bin esker --bin s3-server
  esker=target/debug/esker
fi

source scripts/venv.sh
python=$(venv clients "${clients[@]}")
tools=${XDG_CACHE_HOME:-$HOME/.cache}/esker/stacks/bin
PATH=$tools:$PATH
if ! command -v grpcurl >/dev/null && command -v go >/dev/null; then
  echo "building grpcurl, once" >&2
  GOBIN=$tools go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 2>/dev/null
fi

SCRATCH=$(mktemp -d)
export SCRATCH
processes=()
finish() {
  local code=$?
  ((!${#processes[@]})) || kill "${processes[@]}" 2>/dev/null || true
  ((!code)) || tail -n 5 "$SCRATCH/serve.log" >&2 2>/dev/null || true
  rm -rf "$SCRATCH"
}
trap finish EXIT

export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-esker-test}
export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-esker-test-secret}
export AWS_REGION=${AWS_REGION:-us-east-1} AWS_ALLOW_HTTP=true
if [[ -z ${AWS_ENDPOINT_URL:-} ]]; then
  target/debug/s3-server >"$SCRATCH/endpoint" 2>/dev/null &
  processes+=($!)
  while [[ ! -s $SCRATCH/endpoint ]]; do sleep 0.05; done
  AWS_ENDPOINT_URL=$(<"$SCRATCH/endpoint")
fi
export AWS_ENDPOINT_URL
curl --silent --output /dev/null --request PUT --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
  --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$AWS_ENDPOINT_URL/esker"
export ESKER_STORE=s3://esker/clients-$$-$RANDOM

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
http=127.0.0.1:$(free_port)
grpc=127.0.0.1:$(free_port)
# What is compacted, and when, is the scripts' to say.
"$esker" serve --http "$http" --grpc "$grpc" --no-compaction >"$SCRATCH/serve.log" 2>&1 &
processes+=($!)
export ESKER_HTTP=http://$http ESKER_GRPC=$grpc
for ((i = 0; ; i++)); do
  curl --silent --fail --output /dev/null "$ESKER_HTTP/readyz" && break
  ((i < 150)) || { echo "error: esker serve is not ready" >&2; exit 1; }
  sleep 0.2
done

failed=0
# client NAME COMMAND...
client() {
  local name=$1 line
  shift
  if line=$(PYTHONPATH=scripts/clients timeout 120 "$@" 2>"$SCRATCH/err"); then
    printf '%-16s %-8s ok      %s\n' "$name" "${line%%$'\t'*}" "${line#*$'\t'}"
  else
    failed=1
    printf '%-16s %-8s FAILED  %s\n' "$name" "" "$(tail -n 3 "$SCRATCH/err" | tr '\n' ' ')"
  fi
}

client curl scripts/clients/with_curl.sh
client requests "$python" scripts/clients/with_requests.py
client boto3 "$python" scripts/clients/with_boto3.py
client "fastavro, log" "$python" scripts/clients/with_fastavro_log.py
client "pyarrow, files" "$python" scripts/clients/with_pyarrow_files.py
client "DuckDB, files" "$python" scripts/clients/with_duckdb.py
client "pyarrow, IPC" "$python" scripts/clients/with_pyarrow_ipc.py
client "fastavro, HTTP" "$python" scripts/clients/with_fastavro.py
client grpcio "$python" scripts/clients/with_grpcio.py
client "grpcio, example" "$python" scripts/clients/with_grpc_example.py
if command -v grpcurl >/dev/null; then
  client grpcurl scripts/clients/with_grpcurl.sh
else
  echo "grpcurl          skipped: neither it nor go is in PATH"
fi

if [[ -n ${SCHEMATHESIS:-} ]]; then
  # A bound on the number of requests is what makes two runs alike; the time limit is only a guard. In the
  # place of positive_data_acceptance is a check of ours, which names the fields that a schema cannot say all of.
  hooks=$PWD/scripts/clients/schemathesis_hooks.py
  # It leaves what it found in the folder where it runs.
  if (cd "$SCRATCH" && SCHEMATHESIS_HOOKS=$hooks timeout "$SCHEMATHESIS" "${python%/*}/schemathesis" run "$ESKER_HTTP/openapi.json" --url "$ESKER_HTTP" --seed 4 \
    --max-examples 20 --exclude-checks positive_data_acceptance --phases examples,coverage,fuzzing --request-timeout 10) >"$SCRATCH/schemathesis" 2>&1; then
    printf '%-16s %-8s ok      %s\n' schemathesis "$("${python%/*}/schemathesis" --version | grep -oE '[0-9.]+$')" \
      "$(grep -oE '[0-9]+ generated.*' "$SCRATCH/schemathesis" | tail -n 1)"
  else
    failed=1
    printf '%-16s FAILED\n' schemathesis
    tail -n 120 "$SCRATCH/schemathesis"
  fi
fi
exit $failed
