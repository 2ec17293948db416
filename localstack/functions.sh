#!/usr/bin/env bash
# The three functions under cargo-lambda's emulator against an S3 server, driven with real events.
# Usage: localstack/functions.sh ENDPOINT; `redeliver ENDPOINT [SEED] [EVENTS]`: every event comes again and again, judged by an
# oracle; or `cold [N]` for the time of N cold starts. Builds the functions (debug) unless
# FUNCTIONS names a folder that has them. FREEZE: seconds that they are stopped for (3).
set -euo pipefail

target=${1:?usage: functions.sh ENDPOINT | redeliver ENDPOINT [SEED] [EVENTS] | cold [N]}
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
cd "$root"
# shellcheck source-path=SCRIPTDIR
source scripts/venv.sh

if [[ -z ${FUNCTIONS:-} ]]; then
  # With the command, whose build of the libraries below is then theirs, too.
  cargo build --quiet --locked -p esker -p esker-ingest -p esker-query -p esker-compactor \
    --features esker-ingest/function,esker-query/function,esker-compactor/function
  FUNCTIONS=$root/target/debug
fi
export FUNCTIONS

if [[ $target == cold ]]; then
  exec python3 localstack/functions/cold.py "${2:-20}"
fi
python=$(venv functions cargo-lambda==1.9.2)
export PATH=$(dirname "$python"):$PATH
export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-esker-test}
export AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-esker-test-secret}
export AWS_REGION=${AWS_REGION:-us-east-1}
if [[ $target == redeliver ]]; then
  exec python3 localstack/functions/redeliver.py "${@:2}"
fi
exec python3 localstack/functions/drive.py "$target"
